"""HTTP/1.1 over a blocking socket, one exchange a connection (RFC 9112)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from sse_fast._core.parser import ACCELERATED
from sse_fast._errors import TransportError
from sse_fast._http1.connecting import (
    connection_error,
    head_error,
    idle_error,
    prepare_request,
    server_name,
    set_socket_options,
    tls_context,
)
from sse_fast._http1.exchange import Exchange
from sse_fast._interrupts import find_handler_error
from sse_fast._source import READ_SIZE, Response, Source
from sse_fast._wake import is_tls_socket, make_waker, protect_read

if TYPE_CHECKING:
    import ssl

    from sse_fast._http1.message import Message
    from sse_fast._request import Request

__all__ = ["open_source", "send"]

_MIN_BUFFER, _MAX_BUFFER = 4 * 1024, READ_SIZE
"""The sizes of a receive buffer, in bytes: it grows with the reads, up to what a stream feeds."""

_SMALL_READS = 32
"""Small reads in a row after which a buffer shrinks."""


def send(
    client: None,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
    uds: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connected: Callable[[Callable[[], object]], None] | None = None,
) -> Source:
    """Send a request of the client over a new connection, and wait for its response head.

    Args:
        client: always None, in the place of a library's client.
        request: the request.
        connect_timeout: seconds for each address of the host, or None.
        idle_timeout: seconds without a byte, or None.
        uds: the path of a Unix socket.
        ssl_context: for https; None: the system's authorities.
        connected: called with a function that ends the wait from another thread.
    """
    message = prepare_request(request, uds, ssl_context, connect_timeout, idle_timeout)
    exchange = Exchange(message)
    return open_source(
        message, exchange, uds, ssl_context, connect_timeout, idle_timeout, connected
    )


def open_source(
    request: Message,
    exchange: Exchange,
    uds: str | os.PathLike[str] | None,
    context: ssl.SSLContext | None,
    connect_timeout: float | None,
    idle_timeout: float | None,
    connected: Callable[[Callable[[], object]], None] | None = None,
) -> Source:
    """Connect, send the request, wait for the response head; return the source of the body.

    Raises:
        TransportError: the connection or the response head failed.
    """
    sock = _connect(request, uds, context, connect_timeout)
    try:
        sock.settimeout(idle_timeout)
        if connected is not None:
            connected(make_waker(sock))
        body = _Body(sock, exchange, idle_timeout)
        _exchange_heads(sock, request, body)
    except BaseException:
        sock.close()
        raise
    response = Response(exchange.status, exchange.headers, request.url, sock)
    exchange.response = response
    waker = make_waker(sock)
    return Source(
        body, sock.close, response, waker, framed=exchange.is_framed, lends=True, wait=body.wait
    )


def _connect(
    request: Message,
    uds: str | os.PathLike[str] | None,
    context: ssl.SSLContext | None,
    timeout: float | None,
) -> socket.socket:
    sock = None
    try:
        if uds is None:
            sock = socket.create_connection((request.host, request.port), timeout)
            set_socket_options(sock)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            sock.connect(os.fspath(uds))
        if request.tls:
            sock = tls_context(context).wrap_socket(sock, server_hostname=server_name(request))
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise connection_error("connect", request, error) from error
        raise
    return sock


def _exchange_heads(sock: socket.socket, request: Message, body: _Body) -> None:
    """Send the request and read the response head."""
    send_error = None
    try:
        rest = memoryview(request.message)
        # sendall() would apply the timeout to the whole request.
        while rest:
            rest = rest[sock.send(rest[:READ_SIZE]) :]
    except TimeoutError as error:
        raise connection_error("send", request, error) from error
    except OSError as error:
        # A server that refuses a large body may respond and close before it has read the body.
        send_error = error
    try:
        body.read_head()
    except (OSError, TransportError) as error:
        if send_error is not None:
            raise connection_error("send", request, send_error) from send_error
        if isinstance(error, OSError):
            raise connection_error("head", request, error) from error
        raise


class _PlainBase:
    """The base of `_Body` without the compiled fast path."""


if TYPE_CHECKING or not ACCELERATED:
    FastBody = _PlainBase
else:
    from sse_fast._http1._chunked_c import FastBody


class _Body(FastBody, Iterator[bytes]):
    """The chunks of a body, received into one buffer.

    A large chunk is a memoryview of this buffer, which is valid until the next read.
    """

    def __init__(self, sock: socket.socket, exchange: Exchange, timeout: float | None) -> None:
        self._sock = sock
        # A plain socket is read without another call.
        self._protected_read: Callable[[memoryview], int] | None = None
        if is_tls_socket(sock):
            self._protected_read = protect_read(sock, lambda buffer: sock.recv_into(buffer))
        self._exchange = exchange
        self._timeout = timeout
        self._room = self._few = 0
        # Reads in a row of at most `_few` bytes.
        self._small_reads = 0
        self._allocate(_MIN_BUFFER)
        # The decoder of the body, when everything received before was returned.
        self._ordinary: Any = None
        self._pieces: Iterator[bytes] = iter(())
        # What `wait` received or met: the result of the next read.
        self._ahead: bytes | memoryview | Exception | None = None
        # Seconds that `wait` has waited in vain since the last byte.
        self._idle = 0.0

    def read_head(self) -> None:
        """Read the response head, all of it within the timeout."""
        timeout = self._timeout
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self._exchange.status:
            self._exchange.check()
            if deadline is not None:
                left = deadline - time.monotonic()
                if left <= 0:
                    assert timeout is not None
                    raise head_error(timeout, self._exchange.has_begun)
                self._sock.settimeout(left)
            try:
                self._receive()
            except TimeoutError as error:
                if timeout is None or _is_of_others(error):
                    raise
                raise head_error(timeout, self._exchange.has_begun) from error
        self._sock.settimeout(timeout)

    def _next(self) -> bytes | memoryview:
        """Return the next piece of the body; b"" if bytes came that complete none."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            if isinstance(ahead, Exception):
                raise ahead
            return ahead
        piece: bytes | memoryview = b""
        if self._ordinary is None:
            piece = self._next_piece()
        if piece:
            return piece
        try:
            if self._ordinary is not None:
                return self._read_ordinary(self._ordinary)
            self._receive()
        except TimeoutError as error:
            self._refuse_idle(error)
            raise
        return self._next_piece()

    if TYPE_CHECKING or FastBody is _PlainBase:

        def __next__(self) -> bytes | memoryview:  # type: ignore[override]
            return self._next()

    def _read_ordinary(self, ordinary: Any) -> bytes | memoryview:
        """Receive bytes that `_ordinary` decodes, without a piece that is left of others."""
        read = self._protected_read or self._sock.recv_into
        size = read(self._buffer)
        body = ordinary.take(self._buffer, size) if size else b""
        if not size or ordinary.rest >= 0:
            return self._use_rest(body, size)
        self._idle = 0.0
        self._resize(size)
        return cast("bytes | memoryview", body)

    def _use_rest(self, body: bytes | memoryview, size: int) -> bytes | memoryview:
        """Go on where `_ordinary` has stopped, or at the end of the connection.

        Args:
            body: the bytes of the body that it has returned.
            size: the number of bytes that were received.
        """
        self._ordinary = None
        self._idle = 0.0
        if size:
            return self._exchange.receive_rest(body, self._buffer[:size]) or self._next_piece()
        self._exchange.ended()
        return self._next_piece()

    def wait(self, seconds: float) -> bool:
        """Wait until the next read would not block; return whether it would not.

        It receives, because a poll cannot tell whether a TLS record is whole or holds a piece of
        the body. The waits in a row count for the timeout of the stream.
        """
        left = seconds
        deadline = time.monotonic() + seconds
        while self._ahead is None:
            try:
                # A wait of 0 seconds looks once, too.
                self._ahead = self._next_piece() or None
                if self._ahead is None:
                    if left < 0:
                        return False
                    self._receive_within(left)
                    left = min(deadline - time.monotonic(), left)
            except Exception as error:
                if find_handler_error(error) is not None:
                    raise
                self._ahead = _without_frames(error)
        return True

    def _receive_within(self, seconds: float) -> None:
        """Receive for at most that long."""
        if self._timeout is not None:
            seconds = min(seconds, self._timeout - self._idle)
        began = time.monotonic()
        self._sock.settimeout(max(seconds, 0.001))
        try:
            self._receive()
        except TimeoutError as error:
            if _is_of_others(error):
                raise
            self._idle += time.monotonic() - began
            if self._timeout is not None and self._idle >= self._timeout:
                raise idle_error(self._timeout, "body") from None
        finally:
            # The socket may have been closed meanwhile.
            with suppress(OSError):
                self._sock.settimeout(self._timeout)

    def _next_piece(self) -> bytes:
        """Return a piece that was received already; b"" without one."""
        for piece in self._pieces:
            if piece:
                return piece
        self._exchange.check()
        if self._exchange.complete:
            raise StopIteration
        self._ordinary = self._exchange.ordinary
        return b""

    def _receive(self) -> None:
        # The next read has to return the pieces first.
        self._ordinary = None
        read = self._protected_read or self._sock.recv_into
        size = read(self._buffer)
        self._idle = 0.0
        if size:
            self._pieces = self._exchange.receive(self._buffer[:size])
            self._resize(size)
        else:
            self._exchange.ended()

    def _refuse_idle(self, error: TimeoutError) -> None:
        """Raise what the error means, if it is that of the socket's timeout."""
        if self._timeout is not None and not _is_of_others(error):
            raise idle_error(self._timeout, "body") from error

    def _resize(self, size: int) -> None:
        """Let the buffer grow when a read of that size has filled it, and shrink after small ones.

        A chunk that is a view of the old buffer stays valid.
        """
        if size == self._room:
            self._small_reads = 0
            if size < _MAX_BUFFER:
                self._allocate(2 * size)
        elif size > self._few:
            self._small_reads = 0
        else:
            self._small_reads += 1
            if self._small_reads == _SMALL_READS:
                self._allocate(_MIN_BUFFER)

    def _allocate(self, size: int) -> None:
        self._buffer = memoryview(bytearray(size))
        self._room = size
        # No read is too small for the smallest buffer.
        self._few = size // 4 if size > _MIN_BUFFER else 0
        self._small_reads = 0


def _is_of_others(error: TimeoutError) -> bool:
    """Whether TCP keepalive, or a signal handler, has raised it instead of the socket's timeout."""
    return error.errno is not None or find_handler_error(error) is not None


def _without_frames(error: Exception) -> Exception:
    """Return an error that refers to no frame, and so not to the body that keeps it."""
    chain: list[BaseException | None] = [error]
    for each in chain:
        if each is not None and len(chain) < 16:
            each.__traceback__ = None
            chain += [each.__cause__, each.__context__]
    return error
