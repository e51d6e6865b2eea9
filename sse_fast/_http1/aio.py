"""A connection of asyncio that carries one exchange of HTTP/1.1.

A file of its own, as asyncio takes longer to load than all the rest.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._errors import SSEError, StreamTimeout, TransportError
from sse_fast._http1.connecting import (
    MAX_SECONDS,
    connection_error,
    idle_error,
    is_address,
    prepare_request,
    server_name,
    set_socket_options,
    tls_context,
)
from sse_fast._http1.exchange import Exchange
from sse_fast._source import READ_SIZE, Response, Source

if TYPE_CHECKING:
    import ssl

    from sse_fast._http1.message import Message
    from sse_fast._request import Request

_AHEAD = 4
"""Buffers that may wait to be parsed, before the server is made to wait."""

_IN_A_ROW = 16
"""Pieces that are given out, at most, before other tasks have a turn: a megabyte, inflated."""


class Opening:
    """A connection in the making, in a task of its own: who waits for it may be cancelled and wait
    again, and the request is sent once.
    """

    def __init__(self, open_source: Callable[[], Coroutine[Any, Any, Source]]) -> None:
        self._open_source = open_source
        self._task: asyncio.Task[Source] | None = None

    async def opened(self) -> Source:
        if self._task is None:
            self._task = running_loop().create_task(self._open_source())
            # That it failed may be of interest to nobody any more.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        # Not by shield(), where a cancelled wait looks like a cancelled task.
        await asyncio.wait({self._task})
        if self._task.cancelled():
            raise TransportError("Expected a response, got close()", phase="connect", sent=True)
        return self._task.result()

    def cancel(self) -> None:
        source = self._made()
        if source is not None and source.wake is not None:
            source.wake()
        elif self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        source = self._made()
        if source is not None and source.close is not None:
            await source.close()

    def __del__(self) -> None:
        # A stream that was forgotten; what was made goes with its chunks.
        if self._task is not None and not self._task.done():
            # The loop may be closed.
            with suppress(RuntimeError):
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _made(self) -> Source | None:
        task = self._task
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()


def running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise SSEError(
            "Expected asyncio, got another event loop: under trio, give the client an "
            "httpx.AsyncClient, or hand its response to aiter_events"
        ) from None


async def made_within(seconds: float | None, connecting: Coroutine[Any, Any, Any]) -> Any:
    """The transport, or asyncio.TimeoutError.

    Not by wait_for(), which before Python 3.12 may lose a cancellation, or the transport.
    """
    task = asyncio.get_running_loop().create_task(connecting)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            transport, _ = task.result()
            return transport
    except BaseException:
        _give_up(task)
        raise
    _give_up(task)
    raise asyncio.TimeoutError(f"not within {seconds:g} seconds")


def _give_up(connecting: asyncio.Task[Any]) -> None:
    """Also if it is done already, or will be before it is cancelled."""
    connecting.add_done_callback(_abort)
    connecting.cancel()


def _abort(connecting: asyncio.Task[Any]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[0].abort()


class _Connection:
    """What arrives, until it is asked for.

    `too_quiet` makes the error for a wait of more than `timeout` seconds.
    """

    def __init__(
        self,
        exchange: Exchange,
        timeout: float | None,
        too_quiet: Callable[[float], StreamTimeout],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._timeout = timeout
        self._too_quiet = too_quiet
        self._received: deque[Iterator[bytes]] = deque()
        self._paused = False
        # Pieces that were given out since somebody else had a turn.
        self._in_a_row = 0
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._error: Exception | None = None
        self._lost = self._loop.create_future()
        self._transport: Any = None

    # -- What the transport calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def _take(self, data: memoryview) -> None:
        self._received.append(self._exchange.receive(data))
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
            self._exchange.check()
            await self._more()

    async def read_body(self) -> bytes:
        """The next piece of the body; b"": its end."""
        if self._in_a_row == _IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        while True:
            while self._received:
                for piece in self._received[0]:
                    if piece:
                        self._in_a_row += 1
                        return piece
                self._received.popleft()
            self._exchange.check()
            if self._exchange.complete:
                return b""
            await self._more()

    async def aclose(self) -> None:
        """Not by a close() that waits for what is still to be written, or for the TLS peer."""
        self._transport.abort()
        # Not the future itself, which a cancelled wait would cancel.
        await asyncio.wait({self._lost})

    def abandon(self) -> None:
        """The same from any thread, without waiting."""
        if not self._lost.done():
            # The loop may be closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._transport.abort)

    async def _more(self) -> None:
        """Wait until the state has changed; raise what stands behind all that was received."""
        if self._error is not None:
            raise self._error
        if self._ended:
            self._exchange.ended()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._in_a_row = 0
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
        if self._timeout is None or self._waiter is None or self._waiter.done():
            return
        unsent, before = self._transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        if unsent != before:
            # The request is on its way.
            self._waiting_since = self._loop.time()
        left = self._waiting_since + self._timeout - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look_at_clock)
        else:
            self._error = self._too_quiet(self._timeout)
            self._wake()


class PlainConnection(_Connection, asyncio.BufferedProtocol):
    """Received into one buffer."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        # Twice what is fed at once: a turn of the event loop costs as much as parsing that.
        self._buffer = memoryview(bytearray(2 * READ_SIZE))

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, size: int) -> None:
        self._take(self._buffer[:size])


class TLSConnection(_Connection, asyncio.Protocol):
    """Received as asyncio decrypts it: into a buffer of ours, it would drop what a server sends
    last if that closes without the closure alert of TLS.
    """

    def data_received(self, data: bytes) -> None:
        self._take(memoryview(data))


class Body(AsyncIterator[bytes]):
    """The chunks of a connection's body. Nobody else holds it: with it, the connection goes."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def __anext__(self) -> bytes:
        chunk = await self._connection.read_body()
        if not chunk:
            raise StopAsyncIteration
        return chunk

    def __del__(self) -> None:
        self._connection.abandon()


async def asend(
    client: None,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
    uds: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    multi_member: bool = True,
) -> Source:
    message = prepare_request(request, uds, ssl_context, connect_timeout, idle_timeout)
    exchange = Exchange(message, multi_member=multi_member)
    return await open_source(message, exchange, uds, ssl_context, connect_timeout, idle_timeout)


async def open_source(
    request: Message,
    exchange: Exchange,
    uds: str | os.PathLike[str] | None,
    context: ssl.SSLContext | None,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    import asyncio

    from sse_fast._http1.aio import (
        Body,
        PlainConnection,
        TLSConnection,
        made_within,
        running_loop,
    )

    loop = running_loop()

    def too_quiet(seconds: float) -> StreamTimeout:
        return idle_error(seconds, "body" if exchange.status else "head")

    kind = TLSConnection if request.tls else PlainConnection
    connection = kind(exchange, idle_timeout, too_quiet)
    options: dict[str, Any] = {}
    if request.tls:
        # Else asyncio has a limit of its own, of 60 seconds.
        limit = MAX_SECONDS if connect_timeout is None else connect_timeout
        options = {
            "ssl": tls_context(context),
            "server_hostname": server_name(request),
            "ssl_handshake_timeout": limit,
        }
    if not is_address(request.host) and isinstance(loop, asyncio.BaseEventLoop):
        # RFC 8305, 5: an address that does not answer holds up the next for so long. Only where
        # there may be several, as asyncio leaves a socket of a cancelled race to the garbage
        # collector; other loops do not know it.
        options["happy_eyeballs_delay"] = 0.25
    try:
        if uds is None:
            connecting = loop.create_connection(
                lambda: connection,
                request.host,
                request.port,
                **options,
            )
        else:
            options.pop("happy_eyeballs_delay", None)
            connecting = loop.create_unix_connection(lambda: connection, os.fspath(uds), **options)
        transport = await made_within(connect_timeout, connecting)
    except (OSError, asyncio.TimeoutError) as error:
        raise connection_error("connect", request, error) from error
    try:
        if uds is None:
            try:
                set_socket_options(transport.get_extra_info("socket"))
            except OSError as error:
                # Lost already.
                raise connection_error("connect", request, error) from error
        transport.write(request.message)
        try:
            await connection.read_head()
        except OSError as error:
            raise connection_error("head", request, error) from error
    except BaseException:
        transport.abort()
        raise
    response = Response(exchange.status, exchange.headers, request.url, transport)
    return Source(Body(connection), connection.aclose, response, transport.abort)
