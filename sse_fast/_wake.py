"""Bounded waits: waking and protecting a blocked reader, limiting an await, draining a body."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from sse_fast._background import get_running_trio
from sse_fast._interrupts import IgnoredErrors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "Limit",
    "adrain",
    "await_within",
    "drain",
    "is_tls_socket",
    "make_waker",
    "protect_read",
    "wait_readable",
    "wake_after",
]

_DRAIN_SECONDS = 0.05


def make_waker(sock: Any) -> Callable[[], object]:
    """Return a function that ends a read of the socket from any thread.

    The reader sees the end of the connection. Closing the socket would not wake it, and would wait
    for the locks that the reader holds.

    Args:
        sock: a `socket.socket`, or an object of an event loop that stands for one.
    """
    import socket

    # Tests put other classes, or functions, in the place of `socket.socket`.
    plain: Any = socket.socket
    if isinstance(plain, type) and isinstance(sock, plain) and hasattr(plain, "shutdown"):
        # The method of the base class: that of ssl.SSLSocket would take the TLS session away from
        # the reader.
        return partial(plain.shutdown, sock, socket.SHUT_RDWR)

    def wake() -> None:
        # The sockets of trio and asyncio have shutdown(). Those of uvloop, and those of urllib3 for
        # TLS within TLS, have only a file descriptor.
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except (TypeError, AttributeError):
            with socket.socket(fileno=os.dup(sock.fileno())) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)

    return wake


def protect_read(sock: Any, read: Callable[..., T]) -> Callable[..., T]:
    """Return `read` in a form that keeps the file descriptor of a TLS socket while it waits.

    The TLS library knows the connection only by that number. If another thread closed the socket
    meanwhile, the number could go to the next connection of the process, and the read would take
    bytes of that one. A read of any other socket fails after close(), and is returned as it is.

    The main thread reads without it: an exception of a signal handler, which only that thread
    raises, could come while the descriptor is given back, and would leave it open.

    Args:
        sock: the socket that `read` reads, or anything else.
        read: the function.
    """
    if not is_tls_socket(sock):
        return read

    def protected(*args: Any) -> T:
        if threading.current_thread() is threading.main_thread():
            return read(*args)
        # close() waits for the files of a socket.
        with sock.makefile("rb", buffering=0):
            return read(*args)

    return protected


def is_tls_socket(sock: Any) -> bool:
    """Return whether this is a TLS socket of the standard library, and none of a subclass.

    Subclasses may have a makefile() or a buffer of their own. gevent replaces the class by one of
    its own, whose reads are woken by close().
    """
    # There are no TLS sockets where the module was not imported.
    ssl = sys.modules.get("ssl")
    return ssl is not None and type(sock) is ssl.SSLSocket and type(sock).__module__ == "ssl"


def wait_readable(sock: Any, seconds: float) -> bool:
    """Wait until bytes or the end have arrived at a socket; return whether they have."""
    import select

    number = sock.fileno()
    if number < 0:
        # It was closed: a read raises the error.
        return True
    if not hasattr(select, "poll"):
        return bool(select.select([number], [], [], seconds)[0])
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(min(seconds * 1000, 2**31 - 1)))


@contextmanager
def wake_after(seconds: float, wake: Callable[[], object]) -> Iterator[None]:
    """Call `wake` from another thread unless the block is left within the given seconds."""

    def wake_quietly() -> None:
        with suppress(Exception):
            wake()

    timer = threading.Timer(seconds, wake_quietly)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


async def await_within(seconds: float, work: Coroutine[Any, Any, None]) -> None:
    """Await `work` and cancel it when the seconds are over, without an error."""
    if (trio := get_running_trio()) is not None:
        with trio.move_on_after(seconds):
            await work
        return
    # Imported late, because most programs are synchronous.
    import asyncio

    # wait_for() may lose a cancellation before Python 3.12.
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
    finally:
        task.cancel()
        # The task reads the source, which nothing else may read or close before the task is done.
        await asyncio.wait({task})
    try:
        if not task.cancelled():
            task.result()
    finally:
        # The traceback of its exception refers to this frame.
        del task


def drain(chunks: Iterator[bytes], wake: Callable[[], object]) -> None:
    """Read and discard the rest of a body for at most 50 ms.

    A body that ends within that time leaves its connection ready for another request. Any other is
    given up by `wake`. Errors are ignored, because no event depends on these bytes, but not those
    of signal handlers.
    """
    with IgnoredErrors(), wake_after(_DRAIN_SECONDS, wake):
        deadline = time.monotonic() + _DRAIN_SECONDS
        for _ in chunks:
            if time.monotonic() > deadline:
                break


async def adrain(chunks: AsyncIterator[bytes]) -> None:
    """Read and discard the rest of a body for at most 50 ms; the async form of `drain`."""
    deadline = time.monotonic() + _DRAIN_SECONDS

    async def read() -> None:
        async for _ in chunks:
            # A library may yield thousands of chunks of one read without suspending, and nothing
            # can cancel it meanwhile.
            if time.monotonic() > deadline:
                break

    with IgnoredErrors():
        await await_within(_DRAIN_SECONDS, read())


class Limit:
    """The time limit of one call of `next_event`, over as many reads as it takes."""

    # Reads after the deadline, as long as bytes are there: an event may be in several chunks.
    _MAX_EXTRA_READS = 64

    def __init__(self, seconds: float) -> None:
        """Prepare the limit; the time begins with the first wait."""
        self._seconds = seconds
        self._deadline: float | None = None
        self._extra_reads = 0

    def seconds_left(self) -> float:
        """Return the seconds for the next wait, at least a moment for what has arrived.

        Raises:
            TimeoutError: the time is over, and bytes without an event keep arriving.
        """
        now = time.monotonic()
        if self._deadline is None:
            # Events that were parsed already are returned without a look at the clock.
            self._deadline = now + self._seconds
        left = self._deadline - now
        if left <= 0:
            self._extra_reads += 1
            if self._extra_reads > self._MAX_EXTRA_READS:
                raise self.error()
        return max(left, 0.001)

    def error(self) -> TimeoutError:
        """Return the error to raise."""
        return TimeoutError(f"No event arrived within {self._seconds:g} seconds")
