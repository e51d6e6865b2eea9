"""A connected socket of the user, which carries the body of an event stream and no response head.

Each `recv` returns what has arrived. The socket is borrowed: it stays open. `open_stream` and
`aopen_stream` keep their old names here; they are defined in `_http1`.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

from sse_fast._errors import SSEError
from sse_fast._http1 import aopen_stream, open_stream
from sse_fast._source import READ_SIZE, Source
from sse_fast._wake import protect_read

__all__ = ["aopen_stream", "open_source", "open_stream"]

_HEAD = b"HTTP/"


def open_source(sock: socket.socket) -> Source:
    """Return the source of a connected socket, which is borrowed."""
    return Source(_Chunks(sock))


class _Chunks(Iterator[bytes], AsyncIterator[bytes]):
    """The chunks of a socket: for `for` if it is blocking, for `async for` if it is not."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._receive = protect_read(sock, lambda size: sock.recv(size))
        # The first bytes, while they may be those of a response head.
        self._start = b""
        self._looks_like_head = True

    def __next__(self) -> bytes:
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
        # Imported late: a blocking socket does not need it.
        import asyncio

        chunk = await asyncio.get_running_loop().sock_recv(self._sock, READ_SIZE)
        if not chunk:
            raise StopAsyncIteration
        self._detect_http_head(chunk)
        return chunk

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
