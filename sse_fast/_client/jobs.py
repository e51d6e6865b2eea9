"""Work in a thread that goes on when the wait for it is given up; `Task` is its async form.

The client sends each request as such a job. A wait for a response may time out or be interrupted at
any moment; the next wait takes the result, so that no request is sent twice.

The thread refers to the outcome only, not to its job. So a job that is dropped, with the source
that owns it, is abandoned: the work is woken, and its result is discarded.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic, TypeVar

from sse_fast._background import Outcome, start_thread

if TYPE_CHECKING:
    from queue import SimpleQueue

R = TypeVar("R")

__all__ = ["ThreadJob"]


class ThreadJob(Generic[R]):
    """Work in a daemon thread.

    Args:
        work: called in the thread, with the context of the caller of `start`.
        signals: gets an item when the work is done.
        wake: ends the work early, from any thread.
        discard: called with a result that nobody takes, in any thread.
    """

    def __init__(
        self,
        work: Callable[[], R],
        signals: SimpleQueue[None],
        wake: Callable[[], object],
        discard: Callable[[R], object],
    ) -> None:
        self._outcome: Outcome[R] = Outcome(discard)
        self._wake = wake
        # Calls the work once, whichever thread comes first.
        self._pending: list[Callable[[], object]] = [_bind_work(work, self._outcome, signals)]

    def start(self) -> None:
        """Start the thread; idempotent, also if an exception interrupted an earlier call."""
        start_thread(self._pending, "sse_fast")

    @property
    def is_done(self) -> bool:
        """Whether `get_result` may be called."""
        return self._outcome.is_known

    def get_result(self) -> R:
        """Return the result, or raise the exception of the work."""
        return self._outcome.get()

    def has_failed(self, error: BaseException) -> bool:
        """Return whether this is the exception of the work."""
        return self._outcome.has_failed(error)

    def release(self) -> None:
        """Give up the result: the caller has stored it."""
        self._outcome.forget()

    def abandon(self) -> None:
        """End the work early, and discard its result; thread-safe and idempotent."""
        if self._outcome.is_taken:
            return
        self._pending.clear()
        self._outcome.is_abandoned = True
        if not self.is_done:
            with suppress(Exception):
                self._wake()
        self._outcome.discard()

    def __del__(self) -> None:
        # An exception may have interrupted the constructor.
        with suppress(AttributeError):
            self.abandon()


def _bind_work(
    work: Callable[[], R], outcome: Outcome[R], signals: SimpleQueue[None]
) -> Callable[[], None]:
    def run() -> None:
        result = failure = None
        try:
            result = work()
        except BaseException as error:
            failure = error
        outcome.set(result, failure)
        # The traceback of the failure refers to this frame.
        del result, failure
        signals.put(None)

    return run
