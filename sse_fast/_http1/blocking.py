"""HTTP/1.1 over a blocking socket, one exchange a connection (RFC 9112)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING

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
from sse_fast._source import READ_SIZE, Response, Source
from sse_fast._wake import make_waker, protect_read

if TYPE_CHECKING:
    import ssl

    from sse_fast._http1.message import Message
    from sse_fast._request import Request

__all__ = ["open_source", "send"]


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
    return Source(
        body,
        sock.close,
        response,
        make_waker(sock),
        framed=exchange.is_framed,
        wait=body.wait,
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
        body.read_head(sock)
    except (OSError, TransportError) as error:
        if send_error is not None:
            raise connection_error("send", request, send_error) from send_error
        if isinstance(error, OSError):
            raise connection_error("head", request, error) from error
        raise


class _Body(Iterator[bytes]):
    """The chunks of a body, received into one buffer."""

    def __init__(self, sock: socket.socket, exchange: Exchange, timeout: float | None) -> None:
        self._sock = sock
        self._receive_into = protect_read(sock, lambda buffer: sock.recv_into(buffer))
        self._exchange = exchange
        self._timeout = timeout
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._pieces: Iterator[bytes] = iter(())
        # The seconds of `wait` without a byte, and the error that it met.
        self._waited = 0.0
        self._error: Exception | None = None

    def read_head(self, sock: socket.socket) -> None:
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
                sock.settimeout(left)
            self._receive("head")
        sock.settimeout(timeout)

    def __next__(self) -> bytes:
        """Return the next piece of the body; b"" if bytes came that complete none."""
        if self._error is not None:
            raise self._error
        piece = self._next_piece()
        if not piece:
            self._receive("body")
            piece = self._next_piece()
        return piece

    def wait(self, seconds: float) -> bool:
        """Wait until the next piece, the end or an error has arrived; return whether it has.

        The socket gets a timeout meanwhile, so that a part of a TLS record or of a chunk's head
        does not block. Nothing else reads it.
        """
        deadline = time.monotonic() + seconds
        is_first = True
        while not self._has_piece():
            left = max(deadline - time.monotonic(), 0.0)
            if not left and not is_first:
                return False
            is_first = False
            if self._timeout is not None:
                left = min(left, self._timeout - self._waited)
            try:
                size = self._receive_within(left)
                if size is None and (self._timeout is None or self._waited < self._timeout):
                    return False
                if size is None:
                    assert self._timeout is not None
                    raise idle_error(self._timeout, "body")
                self._accept(size)
            except Exception as error:
                # Raised by the next read.
                self._error = error
        return True

    def _receive_within(self, seconds: float) -> int | None:
        """Receive into the buffer; return the number of bytes, or None if none came in time."""
        began = time.monotonic()
        try:
            # With 0, the socket would not block, and raise other errors.
            self._sock.settimeout(max(seconds, 0.0005))
            return self._receive_into(self._buffer)
        except TimeoutError as error:
            if error.errno is not None:
                # TCP keepalive found the peer gone.
                raise
            self._waited += time.monotonic() - began
            return None
        finally:
            # It may have been closed.
            with suppress(OSError):
                self._sock.settimeout(self._timeout)

    def _has_piece(self) -> bool:
        """Return whether the next read returns or raises without waiting."""
        if self._error is not None:
            return True
        try:
            piece = self._next_piece()
        except StopIteration:
            return True
        except Exception as error:
            self._error = error
            return True
        if piece:
            self._pieces = chain((piece,), self._pieces)
        return bool(piece)

    def _next_piece(self) -> bytes:
        """Return a piece that was received already; b"" without one."""
        for piece in self._pieces:
            if piece:
                return piece
        self._exchange.check()
        if self._exchange.complete:
            raise StopIteration
        return b""

    def _receive(self, phase: str) -> None:
        try:
            size = self._receive_into(self._buffer)
        except TimeoutError as error:
            if error.errno is not None or self._timeout is None:
                # This is not the timeout of the socket: TCP keepalive found the peer gone.
                raise
            if phase == "head":
                raise head_error(self._timeout, self._exchange.has_begun) from error
            raise idle_error(self._timeout, phase) from error
        self._accept(size)

    def _accept(self, size: int) -> None:
        """Parse what was received into the buffer."""
        self._waited = 0.0
        if size:
            self._pieces = self._exchange.receive(self._buffer[:size])
        else:
            self._exchange.ended()
