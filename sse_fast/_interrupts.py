"""Exceptions of signal handlers, told from the errors of the code that they interrupt.

Also reads that show whether such an exception has reached the source.
"""

from __future__ import annotations

import sys
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType, TracebackType

__all__ = [
    "IgnoredErrors",
    "find_handler_error",
    "make_marks",
    "own_context",
    "read_chunk",
    "was_cut_short",
]


def make_marks() -> Any:
    """Return the marks of a read: one is taken when it begins, and one at the end of the source."""
    return iter((None, None))


def read_chunk(chunks: Iterator[Any], received: list[Any], marks: Any) -> None:
    """Append the next chunk, if there is one.

    It is one step of C, so that a signal handler raises before it, after it, or in the source.
    """
    begin: Iterator[Any] = filter(None, islice(marks, 1))
    received.extend(islice(chain(begin, chunks, filter(None, marks)), 1))


def was_cut_short(received: list[Any], marks: Any) -> bool:
    """Return whether a read was left by an exception in the source: without a chunk or the end."""
    return marks.__length_hint__() == 1 and not received


def find_handler_error(error: BaseException | None) -> BaseException | None:
    """Return the exception of a signal handler that led to this error, or None.

    Libraries wrap exceptions that they take for errors of the network, for example a `TimeoutError`
    of a handler, so the causes and contexts are searched as well.
    """
    seen: set[int] = set()
    left = [error]
    while left:
        each = left.pop()
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        if _has_handler_frame(each.__traceback__):
            return each
        left += [own_context(each), each.__cause__]
    return None


def own_context(error: BaseException) -> BaseException | None:
    """Return the error's `__context__`, unless the caller was already handling that exception."""
    context = error.__context__
    if context is not None and context.__traceback__ is not None:
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            if frame is context.__traceback__.tb_frame:
                return None
    return context


def _has_handler_frame(trace: TracebackType | None) -> bool:
    """Return whether an exception came out of a handler.

    Python calls a handler with the frame that it interrupts, which is the one that called it.
    Ordinary functions do not hold the frame of their caller. A handler that has dropped it is known
    if it is still installed.
    """
    installed = _installed_handlers()
    while trace is not None and trace.tb_next is not None:
        frame = trace.tb_next.tb_frame
        if frame.f_code in installed or _holds(frame, trace.tb_frame):
            return True
        trace = trace.tb_next
    return False


def _installed_handlers() -> set[Any]:
    """Return the code of each signal handler that is written in Python."""
    # Imported late: only errors need it.
    import signal

    codes = set()
    for number in signal.valid_signals():
        handler: Any = signal.getsignal(number)
        while hasattr(handler, "func"):
            handler = handler.func
        if callable(handler):
            function = handler if hasattr(handler, "__code__") else type(handler).__call__
            codes.add(getattr(function, "__code__", None))
    return codes


def _holds(frame: FrameType, caller: FrameType) -> bool:
    for value in frame.f_locals.values():
        # A handler may take its arguments as `*args`.
        if value is caller or (type(value) is tuple and any(each is caller for each in value)):
            return True
    return False


class IgnoredErrors:
    """A block whose errors do not matter, except those of signal handlers."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        if not isinstance(error, Exception):
            return False
        raised = find_handler_error(error)
        try:
            if raised is not None and raised is not error:
                raise raised
            return raised is None
        finally:
            # The tracebacks refer to this frame.
            del raised, error
