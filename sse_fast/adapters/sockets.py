"""A connected socket of the user, which carries the body of an event stream and no response head.

Each `recv` returns what has arrived. The socket is borrowed: it stays open. `open_stream` and
`aopen_stream` keep their old names here; they are defined in `_http1`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

from sse_fast._errors import SSEError
from sse_fast._http1 import aopen_stream, open_stream
from sse_fast._interrupts import find_handler_error
from sse_fast._source import READ_SIZE, Source
from sse_fast._wake import is_tls_socket, protect_read, wait_readable

__all__ = ["aopen_stream", "open_source", "open_stream"]

_HEAD = b"HTTP/"


def open_source(sock: socket.socket) -> Source:
    """Return the source of a connected socket, which is borrowed."""
    chunks = _Chunks(sock)
    # A subclass may have bytes of its own that the operating system does not know.
    can_wait = is_tls_socket(sock) or type(sock).recv is getattr(socket.socket, "recv", None)
    return Source(chunks, resumable=True, wait=chunks.wait if can_wait else None)


class _Chunks(Iterator[bytes], AsyncIterator[bytes]):
    """The chunks of a socket: for `for` if it is blocking, for `async for` if it is not."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._receive = protect_read(sock, lambda size: sock.recv(size))
        # What `wait` received or met.
        self._received: list[bytes | Exception] = []
        # The first bytes, while they may be those of a response head.
        self._start = b""
        self._looks_like_head = True

    def __next__(self) -> bytes:
        if self._received:
            chunk = self._received.pop()
            if isinstance(chunk, Exception):
                raise chunk
        else:
            chunk = self._receive(READ_SIZE)
        if not chunk:
            raise StopIteration
        self._detect_http_head(chunk)
        return chunk

    async def __anext__(self) -> bytes:
        if self._sock.gettimeout() != 0:
            raise SSEError(
                "A blocking socket would block the event loop: call setblocking(False) on it"
            )
        chunk = await _receive_async(self._sock)
        if not chunk:
            raise StopAsyncIteration
        self._detect_http_head(chunk)
        return chunk

    def wait(self, seconds: float) -> bool:
        """Wait until a read would not block; return whether it would not."""
        sock: Any = self._sock
        if self._received:
            return True
        is_tls = is_tls_socket(sock)
        if is_tls and sock.pending():
            return True
        deadline = time.monotonic() + seconds
        if not wait_readable(sock, seconds):
            return False
        if not is_tls:
            return True
        # A part of a TLS record may have arrived, for the rest of which a read would wait.
        timeout = sock.gettimeout()
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            self._received.append(self._receive(READ_SIZE))
        except Exception as error:
            if find_handler_error(error) is not None:
                raise
            if isinstance(error, TimeoutError) and error.errno is None:
                return False
            self._received.append(error)
        finally:
            sock.settimeout(timeout)
        return True

    def _detect_http_head(self, chunk: bytes) -> None:
        if not self._looks_like_head:
            return
        self._start += chunk[: len(_HEAD)]
        if self._start.startswith(_HEAD):
            raise SSEError(
                "The socket delivers the head of an HTTP response, not the body of an event "
                "stream: read the head first, or use an HTTP client"
            )
        self._looks_like_head = _HEAD.startswith(self._start)


async def _receive_async(sock: socket.socket) -> bytes:
    """Receive what has arrived; a cancelled wait loses nothing."""
    # Imported late: a blocking socket does not need it.
    import asyncio

    loop = asyncio.get_running_loop()
    if is_tls_socket(sock):
        # asyncio refuses it, with a reason.
        return await loop.sock_recv(sock, READ_SIZE)
    while True:
        with suppress(BlockingIOError, InterruptedError):
            return sock.recv(READ_SIZE)
        readable = loop.create_future()
        # sock_recv() would lose the bytes of a wait that is cancelled just when they arrive.
        try:
            loop.add_reader(sock, _set_result, readable)
        except NotImplementedError:
            # The Proactor loop of Windows.
            return await loop.sock_recv(sock, READ_SIZE)
        try:
            await readable
        finally:
            loop.remove_reader(sock)


def _set_result(readable: Any) -> None:
    if not readable.done():
        readable.set_result(None)
