"""A socket that the user connected: the body of an event stream, without a response head.

`open_stream` and `aopen_stream` are here under their first name as well; they are in `_http1`.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator

from sse_fast._errors import SSEError
from sse_fast._http1 import aopen_stream, open_stream
from sse_fast._source import READ_SIZE, Source

__all__ = ["aopen_stream", "open_source", "open_stream"]

_HEAD = b"HTTP/"


def open_source(sock: socket.socket) -> Source:
    return Source(_Chunks(sock))


class _Chunks(Iterator[bytes], AsyncIterator[bytes]):
    """What arrives on a socket, for `for` (a blocking one) and `async for` (one that is not)."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        # The first bytes, as long as they look like a response head.
        self._start = b""
        self._looks_like_head = True

    def __next__(self) -> bytes:
        chunk = self._sock.recv(READ_SIZE)
        if not chunk:
            raise StopIteration
        self._look_at(chunk)
        return chunk

    async def __anext__(self) -> bytes:
        if self._sock.gettimeout() != 0:
            raise SSEError(
                "Expected a non-blocking socket, got one that would hold up the event loop: "
                "call setblocking(False) on it"
            )
        # Here, as a blocking socket has no use for it.
        import asyncio

        chunk = await asyncio.get_running_loop().sock_recv(self._sock, READ_SIZE)
        if not chunk:
            raise StopAsyncIteration
        self._look_at(chunk)
        return chunk

    def _look_at(self, chunk: bytes) -> None:
        if not self._looks_like_head:
            return
        self._start += chunk[: len(_HEAD)]
        if self._start.startswith(_HEAD):
            raise SSEError(
                "Expected the body of an event stream on a bare socket, got the head of an HTTP "
                "response: read the head first, or use an HTTP client"
            )
        self._looks_like_head = _HEAD.startswith(self._start)
