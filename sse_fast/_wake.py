"""Bounded waits: waking and protecting a blocked reader, limiting an await, draining a body."""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "adrain",
    "await_within",
    "drain",
    "get_running_trio",
    "make_waker",
    "protect_read",
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

    if isinstance(sock, socket.socket):
        # The method of the base class: that of ssl.SSLSocket would take the TLS session away from
        # the reader.
        return partial(socket.socket.shutdown, sock, socket.SHUT_RDWR)

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
    # There are no TLS sockets where the module was not imported.
    ssl = sys.modules.get("ssl")
    # Subclasses may have a makefile() of their own. gevent replaces the class by one of its own,
    # whose reads are woken by close().
    if ssl is None or type(sock) is not ssl.SSLSocket or type(sock).__module__ != "ssl":
        return read

    def protected(*args: Any) -> T:
        if threading.current_thread() is threading.main_thread():
            return read(*args)
        # close() waits for the files of a socket.
        with sock.makefile("rb", buffering=0):
            return read(*args)

    return protected


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
    if not task.cancelled():
        task.result()


def drain(chunks: Iterator[bytes], wake: Callable[[], object]) -> None:
    """Read and discard the rest of a body for at most 50 ms.

    A body that ends within that time leaves its connection ready for another request. Any other is
    given up by `wake`. Errors are ignored, because no event depends on these bytes.
    """
    with suppress(Exception), wake_after(_DRAIN_SECONDS, wake):
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

    with suppress(Exception):
        await await_within(_DRAIN_SECONDS, read())


def get_running_trio() -> Any:
    """Return the module `trio` if the caller runs under trio, otherwise None."""
    # Another thread may be importing trio at this moment, so that parts of it may be missing.
    trio = sys.modules.get("trio")
    lowlevel = getattr(trio, "lowlevel", None)
    return trio if lowlevel is not None and lowlevel.in_trio_run() else None
