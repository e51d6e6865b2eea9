"""Signals that end a command: it cleans up first, and then ends by the same signal."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

# Windows has no SIGHUP.
_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Terminated(BaseException):
    """A signal that ends the command has arrived; like KeyboardInterrupt, it is not an Exception.

    Attributes:
        number: the number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def end(self) -> NoReturn:
        """End the process by the signal, so that the exit code tells it: a shell shows 128 + it."""
        signal.signal(self.number, signal.SIG_DFL)
        os.kill(os.getpid(), self.number)
        # Elsewhere than on POSIX, the signal may be ignored.
        raise SystemExit(128 + self.number)


@contextmanager
def cleaning_up() -> Iterator[None]:
    """Raise `Terminated` in the block when SIGTERM or SIGHUP arrives, instead of ending there.

    Signals that are ignored stay ignored, as `nohup` wants it.
    """
    # Python allows signal handlers in the main thread only.
    is_main = threading.current_thread() is threading.main_thread()
    taken = [each for each in _ENDING if is_main and signal.getsignal(each) is signal.SIG_DFL]
    interrupt = signal.getsignal(signal.SIGINT)

    def terminate(number: int, frame: FrameType | None) -> None:
        # Another signal would interrupt the clean-up.
        for each in (*taken, signal.SIGINT):
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(number)

    try:
        for each in taken:
            signal.signal(each, terminate)
        yield
    finally:
        for each in taken:
            signal.signal(each, signal.SIG_DFL)
        if taken and signal.getsignal(signal.SIGINT) is not interrupt:
            signal.signal(signal.SIGINT, interrupt)
