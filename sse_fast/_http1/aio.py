"""HTTP/1.1 over asyncio, one exchange a connection (RFC 9112).

This is the only file of the transport that imports asyncio, which takes longer to load than all of
sse_fast.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import suppress
from errno import ECONNRESET
from time import monotonic
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from sse_fast._errors import SSEError, TransportError
from sse_fast._http1.connecting import (
    connection_error,
    head_error,
    idle_error,
    is_address,
    prepare_request,
    server_name,
    set_socket_options,
    tls_context,
)
from sse_fast._http1.exchange import Exchange
from sse_fast._seconds import MAX_SECONDS
from sse_fast._source import READ_SIZE, Response, Source

if TYPE_CHECKING:
    import ssl

    from sse_fast._http1.message import Message
    from sse_fast._request import Request

__all__ = ["Opening", "asend", "open_source"]

_MAX_QUEUED = 4
"""Received buffers that may wait for the reader before reading from the socket is paused."""

_BUFFER_SIZE = 8 * READ_SIZE
"""More than a stream feeds at a time: a turn of the event loop costs as much as parsing two of
them. Twice as much is no faster."""

_LENT_SIZE = READ_SIZE
"""Fewer bytes than this are copied, so that a reader that is slow does not keep a whole buffer."""

_MAX_FREE = 4
"""Receive buffers that an event loop keeps to be used again."""

_PIECES = (bytes, memoryview)
"""The types of the pieces of a body. Others in the queue give pieces when they are iterated."""

_MAX_IN_A_ROW = 16
"""Pieces that are returned without suspending, so that other tasks run after a megabyte."""


class Opening:
    """A connection that a task of its own makes, so that waiting for it can be repeated.

    A caller that waits may be cancelled and wait again; the request is sent once.
    """

    def __init__(self, open_source: Callable[[], Coroutine[Any, Any, Source]]) -> None:
        """Prepare the connection.

        Args:
            open_source: called once, by the first wait.
        """
        self._open_source = open_source
        self._task: asyncio.Task[Source] | None = None

    async def wait(self) -> Source:
        """Wait for the response head, and return the source of its body.

        Raises:
            SSEError: the event loop is not asyncio's.
            TransportError: the connection or the response failed, or the stream was closed.
        """
        if self._task is None:
            self._task = _get_running_loop().create_task(self._open_source())
            # Retrieve the exception: possibly nobody waits for the task any more.
            self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        # With shield(), a cancelled wait could not be told from a cancelled task.
        await asyncio.wait({self._task})
        if self._task.cancelled():
            raise TransportError(
                "The stream was closed before a response came", phase="connect", sent=True
            )
        try:
            return self._task.result()
        except Exception:
            # The traceback refers to this object. The stream, which is over, does not wait again.
            self._task = None
            raise

    def cancel(self) -> None:
        """Give up the connection without waiting."""
        source = self._get_source()
        if source is not None and source.wake is not None:
            source.wake()
        elif self._task is not None:
            self._task.cancel()

    async def aclose(self) -> None:
        """Give up the connection, and wait until it is closed."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait({self._task})
        source = self._get_source()
        if source is not None and source.close is not None:
            await source.close()

    def __del__(self) -> None:
        # The stream was dropped while it opened. A connection that was made closes with its chunks.
        if self._task is not None and not self._task.done():
            # The loop may be closed.
            with suppress(RuntimeError):
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)

    def _get_source(self) -> Source | None:
        task = self._task
        if task is None or not task.done() or task.cancelled() or task.exception() is not None:
            return None
        return task.result()


def _get_running_loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        raise SSEError(
            "This transport needs asyncio, which is not running: under trio, give the client an "
            "httpx.AsyncClient, or pass its response to aiter_events"
        ) from None


async def _connect_within(seconds: float | None, connecting: Coroutine[Any, Any, Any]) -> Any:
    """Return the transport, or raise asyncio.TimeoutError.

    Before Python 3.12, wait_for() may lose a cancellation or the transport.
    """
    task = asyncio.get_running_loop().create_task(connecting)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            transport, _ = task.result()
            return transport
    except BaseException:
        _abort_when_connected(task)
        # The traceback of its exception refers to this frame.
        del task
        raise
    _abort_when_connected(task)
    raise asyncio.TimeoutError(f"not within {seconds:g} seconds")


def _abort_when_connected(connecting: asyncio.Task[Any]) -> None:
    """Cancel a task, and abort the transport that it may have made nevertheless."""
    connecting.add_done_callback(_abort_transport)
    connecting.cancel()


def _abort_transport(connecting: asyncio.Task[Any]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[0].abort()


class _Connection:
    """A protocol that queues what arrives until it is read."""

    # Whether bytes of the body are given out as views of the receive buffer.
    _lends = False
    _buffers: _Buffers

    def __init__(self, exchange: Exchange, idle_timeout: float | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._exchange = exchange
        self._timeout = idle_timeout
        # Bytes of the body that the reader has not taken yet, or that it still has to decode.
        self._received: list[bytes | memoryview | Iterator[bytes]] = []
        # The receive buffer that the reader has a view of, until it asks for more.
        self._lent: bytearray | None = None
        # The decoder of the body, as long as nothing but more of it can come.
        self._ordinary: Any = None
        self._paused = False
        # Pieces that were returned since the reader last suspended.
        self._in_a_row = 0
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since: float | None = None
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._error: Exception | None = None
        self._lost = self._loop.create_future()
        self._transport: Any = None

    # -- Called by the transport

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def _receive(self, data: bytes | memoryview, size: int) -> None:
        """Decode the first bytes of `data`, and wake the reader."""
        ordinary = self._ordinary
        received = self._received
        is_lent = False
        if ordinary is None:
            received.append(self._exchange.receive(memoryview(data)[:size]))
        else:
            is_lent = self._lends and size >= _LENT_SIZE
            body = ordinary.take(data, size) if is_lent else ordinary.copy(data, size)
            if ordinary.rest >= 0:
                self._ordinary = None
                body = self._exchange.receive_rest(body, data[:size])
            if body:
                received.append(body)
                if type(body) is memoryview:
                    self._buffers.lend()
        if len(received) > (1 if is_lent else _MAX_QUEUED) and not self._paused:
            self._paused = True
            self._ordinary = None
            self._transport.pause_reading()
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def eof_received(self) -> None:
        self._ended = True
        self._ordinary = None
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = True
        self._ordinary = None
        self._error = self._error or error
        if self._timer is not None:
            self._timer.cancel()
        if not self._lost.done():
            self._lost.set_result(None)
        self._wake()

    # -- Called by the reader

    async def read_head(self) -> None:
        while not self._exchange.status:
            self._exchange.check()
            await self._wait_for_more()
        if not self._paused and not self._ended:
            self._ordinary = self._exchange.ordinary

    async def read_body(self) -> bytes | memoryview:
        """Return the next piece of the body; b"" if bytes came that complete none.

        Raises:
            StopAsyncIteration: the body has ended.
        """
        if self._in_a_row == _MAX_IN_A_ROW:
            self._in_a_row = 0
            await asyncio.sleep(0)
        piece = self._next_piece()
        if not piece:
            await self._wait_for_more()
            piece = self._next_piece()
        return piece

    def _next_piece(self) -> bytes | memoryview:
        """Return a piece that was received already; b"" without one."""
        received = self._received
        while received:
            first = received[0]
            if isinstance(first, (bytes, memoryview)):
                return self.pop_piece()
            for piece in first:
                if piece:
                    self._in_a_row += 1
                    return piece
            del received[0]
        self._exchange.check()
        if self._exchange.complete:
            raise StopAsyncIteration
        return b""

    def pop_piece(self) -> bytes | memoryview:
        """Return the piece that is first in the queue."""
        piece = cast("bytes | memoryview", self._received.pop(0))
        self._in_a_row += 1
        if type(piece) is memoryview:
            self._lent = piece.obj  # type: ignore[assignment]
        return piece

    def take_back(self, lent: bytearray) -> None:
        """Take the buffer back that the latest piece is part of."""
        self._lent = None
        self._buffers.take_back(lent)

    async def aclose(self) -> None:
        """Abort the connection, and wait until it is closed.

        A graceful close would wait until the request is written and TLS is shut down.
        """
        self._transport.abort()
        # Awaiting the future itself would let a cancelled wait cancel it.
        await asyncio.wait({self._lost})

    async def wait_for_loss(self) -> Exception | None:
        """Return why the connection was lost, for example an alert of TLS; None: not told."""
        await asyncio.wait({self._lost}, timeout=1.0)
        return self._error

    def abandon(self) -> None:
        """Abort the connection without waiting; thread-safe."""
        if not self._lost.done():
            # The loop may be closed.
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._transport.abort)

    async def _wait_for_more(self) -> None:
        """Wait until something happened, or raise the error that follows the received bytes."""
        if self._error is not None:
            raise self._error
        if self._ended:
            self._exchange.ended()
            return
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._in_a_row = 0
        if self._exchange.status:
            self._ordinary = self._exchange.ordinary
        # A frame less than `create_future`.
        self._waiter = asyncio.Future(loop=self._loop)
        if self._timeout is not None:
            # The whole head has to arrive within the timeout.
            if self._exchange.status or self._waiting_since is None:
                self._waiting_since = monotonic()
            if self._timer is None:
                self._start_timer(self._timeout)
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _start_timer(self, seconds: float) -> None:
        self._unsent = self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(seconds, self._check_idle)

    def _check_idle(self) -> None:
        """Fail a wait that exceeded the timeout.

        One timer serves many waits: it is set again for the rest of the current one.
        """
        self._timer = None
        if self._timeout is None or self._waiter is None or self._waiter.done():
            return
        unsent, before = self._transport.get_write_buffer_size(), self._unsent
        self._unsent = unsent
        if unsent != before:
            # The request is still being sent, which counts as progress.
            self._waiting_since = monotonic()
        assert self._waiting_since is not None
        left = self._waiting_since + self._timeout - monotonic()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_idle)
        else:
            self._ordinary = None
            self._error = (
                idle_error(self._timeout, "body")
                if self._exchange.status
                else head_error(self._timeout, self._exchange.has_begun)
            )
            self._wake()


class _PlainConnection(_Connection, asyncio.BufferedProtocol):
    """A TCP connection, received into one buffer for all connections of the event loop.

    asyncio, and uvloop, fill the buffer and call `buffer_updated` without a step between.
    """

    _lends = True

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._buffers = _get_buffers(self._loop)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffers.current

    def buffer_updated(self, size: int) -> None:
        self._receive(self._buffers.current, size)


class _Buffers:
    """The receive buffers of an event loop: one for all connections, until it is lent to a reader.

    Attributes:
        current: the buffer to receive into.
    """

    def __init__(self) -> None:
        self.current = memoryview(bytearray(_BUFFER_SIZE))
        self._free: list[bytearray] = []

    def lend(self) -> None:
        """Receive into another buffer from now on, as a reader has a view of the current one."""
        self.current = memoryview(self._free.pop() if self._free else bytearray(_BUFFER_SIZE))

    def take_back(self, buffer: bytearray) -> None:
        if len(self._free) < _MAX_FREE:
            self._free.append(buffer)


_loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Buffers] = WeakKeyDictionary()


def _get_buffers(loop: asyncio.AbstractEventLoop) -> _Buffers:
    """Return the receive buffers of an event loop."""
    try:
        return _loops[loop]
    except KeyError:
        _loops[loop] = buffers = _Buffers()
        return buffers
    except TypeError:
        # There are no weak references to this loop.
        return _Buffers()


class _TLSConnection(_Connection, asyncio.Protocol):
    """A TLS connection, received as asyncio decrypts it.

    With a buffered protocol, asyncio would lose the last bytes of a server that closes without the
    closure alert of TLS.
    """

    def data_received(self, data: bytes) -> None:
        self._receive(data, len(data))


class _Body(AsyncIterator[bytes]):
    """The chunks of a body; the sole owner of its connection, which is aborted with it."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    async def __anext__(self) -> bytes | memoryview:  # type: ignore[override]
        """Return the next piece of the body; b"" if bytes came that complete none.

        A large piece is a view of a receive buffer, which is valid until the next read.
        """
        connection = self._connection
        if connection._lent is not None:
            connection.take_back(connection._lent)
        received = connection._received
        if not received:
            if connection._ordinary is None:
                return await connection.read_body()
            # The lines of `_wait_for_more` that matter here: a coroutine would cost as much again.
            connection._in_a_row = 0
            waiter: asyncio.Future[None] = asyncio.Future(loop=connection._loop)
            connection._waiter = waiter
            if connection._timeout is not None:
                connection._waiting_since = monotonic()
                if connection._timer is None:
                    connection._start_timer(connection._timeout)
            try:
                await waiter
            finally:
                connection._waiter = None
            if not received or type(received[0]) not in _PIECES:
                return connection._next_piece()
        elif connection._in_a_row == _MAX_IN_A_ROW or type(received[0]) not in _PIECES:
            return await connection.read_body()
        return connection.pop_piece()

    def __del__(self) -> None:
        self._connection.abandon()


async def asend(
    client: None,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
    uds: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> Source:
    """Send a request of the client over a new connection, and await its response head.

    Args:
        client: always None, in the place of a library's client.
        request: the request.
        connect_timeout: seconds to connect, with the TLS handshake, or None.
        idle_timeout: seconds without a byte, or None.
        uds: the path of a Unix socket.
        ssl_context: for https; None: the system's authorities.
    """
    message = prepare_request(request, uds, ssl_context, connect_timeout, idle_timeout)
    exchange = Exchange(message)
    return await open_source(message, exchange, uds, ssl_context, connect_timeout, idle_timeout)


async def open_source(
    request: Message,
    exchange: Exchange,
    uds: str | os.PathLike[str] | None,
    context: ssl.SSLContext | None,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Connect, send the request, await the response head; return the source of the body.

    Raises:
        SSEError: the event loop is not asyncio's.
        TransportError: the connection or the response head failed.
    """
    loop = _get_running_loop()
    kind = _TLSConnection if request.tls else _PlainConnection
    connection = kind(exchange, idle_timeout)
    options: dict[str, Any] = {}
    if request.tls:
        # Without a value, asyncio would limit the handshake to 60 seconds.
        limit = MAX_SECONDS if connect_timeout is None else connect_timeout
        options = {
            "ssl": tls_context(context),
            "server_hostname": server_name(request),
            "ssl_handshake_timeout": limit,
        }
    try:
        if uds is None:
            if not is_address(request.host) and isinstance(loop, asyncio.BaseEventLoop):
                # RFC 8305, 5: an address that does not answer delays the next by this time. Set
                # only where there may be several, because asyncio leaves a socket of a cancelled
                # race to the garbage collector. Other loops do not know the option.
                options["happy_eyeballs_delay"] = 0.25
            connecting = loop.create_connection(
                lambda: connection, request.host, request.port, **options
            )
        else:
            connecting = loop.create_unix_connection(lambda: connection, os.fspath(uds), **options)
        transport = await _connect_within(connect_timeout, connecting)
    except (OSError, asyncio.TimeoutError) as error:
        raise connection_error("connect", request, error) from error
    try:
        if uds is None:
            try:
                sock = transport.get_extra_info("socket")
                if sock is None:
                    # uvloop has no socket for a connection that is lost already.
                    raise ConnectionResetError(ECONNRESET, os.strerror(ECONNRESET))
                set_socket_options(sock)
            except OSError as error:
                loss = await connection.wait_for_loss()
                if loss is None:
                    raise connection_error("connect", request, error) from error
                try:
                    raise connection_error("connect", request, loss) from loss
                finally:
                    # The traceback of the loss may refer to this frame.
                    del loss
        transport.write(request.message)
        try:
            await connection.read_head()
        except OSError as error:
            raise connection_error("head", request, error) from error
    except BaseException:
        transport.abort()
        raise
    response = Response(exchange.status, exchange.headers, request.url, transport)
    exchange.response = response
    return Source(
        _Body(connection),
        connection.aclose,
        response,
        transport.abort,
        framed=exchange.is_framed,
        lends=True,
        # A cancelled read leaves what was received in its queue.
        resumable=True,
    )
