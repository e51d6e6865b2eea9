"""A connection of asyncio that carries one exchange of HTTP/1.1, received into one buffer.

A file of its own, as asyncio takes longer to load than all the rest.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._source import READ_SIZE

if TYPE_CHECKING:
    from sse_fast._errors import StreamTimeout
    from sse_fast.adapters._http1 import Exchange

_AHEAD = 4
"""Buffers that may wait to be parsed, before the server is made to wait."""


class Connection(asyncio.BufferedProtocol):
    """What arrives, until it is asked for.

    `too_quiet` makes the error for a wait of more than `timeout` seconds.
    """

    def __init__(
        self, exchange: Exchange, timeout: float | None, too_quiet: Callable[[], StreamTimeout]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._timeout = timeout
        self._too_quiet = too_quiet
        # Twice what is fed at once: a turn of the event loop costs as much as parsing that.
        self._buffer = memoryview(bytearray(2 * READ_SIZE))
        self._received: deque[Iterator[bytes]] = deque()
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._error: Exception | None = None
        self._lost = self._loop.create_future()
        self._transport: Any = None

    # -- What the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        self._received.append(self._exchange.receive(self._buffer[:size]))
        if len(self._received) > _AHEAD and not self._paused:
            self._paused = True
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._error = self._error or error
        if self._timer is not None:
            self._timer.cancel()
        if not self._lost.done():
            self._lost.set_result(None)
        self._wake()

    # -- What the reader calls

    async def read_head(self) -> None:
        while not self._exchange.status:
            await self._more()

    async def read_body(self) -> bytes:
        """The next piece of the body; b"": its end."""
        while True:
            while self._received:
                for piece in self._received[0]:
                    if piece:
                        return piece
                self._received.popleft()
            if self._exchange.complete:
                return b""
            await self._more()

    async def aclose(self) -> None:
        """Not by a close() that waits for what is still to be written, or for the TLS peer."""
        self._transport.abort()
        await self._lost

    def abandon(self) -> None:
        """The same from any thread, without waiting."""
        if not self._lost.done():
            # The loop may be closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._transport.abort)

    async def _more(self) -> None:
        """Wait until the state has changed; raise what stands behind all that was received."""
        self._exchange.check()
        if self._error is not None:
            raise self._error
        if self._ended:
            self._exchange.ended()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._waiter = self._loop.create_future()
        if self._timeout is not None:
            self._waiting_since = self._loop.time()
            if self._timer is None:
                self._timer = self._loop.call_later(self._timeout, self._look_at_clock)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look_at_clock(self) -> None:
        """One timer for many waits: it is set again for what is left of the present one."""
        self._timer = None
        if self._waiter is None or self._timeout is None:
            return
        left = self._waiting_since + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_clock)
        else:
            self._error = self._too_quiet()
            self._wake()


class Body(AsyncIterator[bytes]):
    """The chunks of a connection's body. Nobody else holds it: with it, the connection goes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def __anext__(self) -> bytes:
        chunk = await self._connection.read_body()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def __del__(self) -> None:
        self._connection.abandon()
