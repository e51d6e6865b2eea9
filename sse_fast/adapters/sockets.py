"""Sockets: what arrives on one that the user connected, and HTTP/1.1 over one of our own.

`open_stream` and `aopen_stream` are for speed: nothing stands between the socket and the parser but
httptools, in C. They know no redirects, proxies, cookies, nor connections that are used again.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, overload

from sse_fast._errors import SSEError, StreamTimeout, TransportError
from sse_fast._parser import Parser
from sse_fast._source import READ_SIZE, AsyncUnreadable, Response, Source, without_secrets
from sse_fast._stream import AsyncEventStream, EndReason, EventStream
from sse_fast.adapters import acheck_response, open_events, waker
from sse_fast.adapters._http1 import Exchange, Message, compose, prepare, refuse_proxy

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from typing_extensions import TypeVar, Unpack

    from sse_fast._request import Data, HeaderFields, Request
    from sse_fast._stream import ParserOptions

    D = TypeVar("D")
    T = TypeVar("T", default=str)

    class StreamOptions(ParserOptions[T], total=False):
        """The keywords of `open_stream`, but for `decode`."""

        method: str
        headers: HeaderFields | None
        json: Any
        data: Data | None
        uds: str | os.PathLike[str] | None
        ssl_context: ssl.SSLContext | None
        connect_timeout: float | None
        idle_timeout: float | None
        check: bool
        on_chunk: Callable[[bytes], object] | None


__all__ = ["aopen_stream", "open_source", "open_stream"]

_HEAD = b"HTTP/"
# Seconds, seconds and probes: a peer that is gone is noticed after some two minutes.
_KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPALIVE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}
_MAX_SECONDS = 1e9
"""Some thirty years, which every clock can count."""


# -- A socket that the user connected --------------------------------------------------------------


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


# -- HTTP/1.1, blocking ----------------------------------------------------------------------------


@overload
def open_stream(
    url: str, *, decode: None = ..., **options: Unpack[StreamOptions[str]]
) -> EventStream[str]: ...
@overload
def open_stream(
    url: str, *, decode: Callable[[bytes], D], **options: Unpack[StreamOptions[D]]
) -> EventStream[D]: ...
@overload
def open_stream(
    url: str,
    *,
    decode: Mapping[str, Callable[[bytes], Any]],
    **options: Unpack[StreamOptions[Any]],
) -> EventStream[Any]: ...
def open_stream(
    url: str,
    *,
    method: str = "GET",
    headers: HeaderFields | None = None,
    json: Any = None,
    data: Data | None = None,
    uds: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float | None = 10.0,
    idle_timeout: float | None = 300.0,
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
    **parser_options: Any,
) -> EventStream[Any]:
    """Ask for an event stream over a socket of our own (HTTP/1.1, RFC 9112).

    Args:
        url: `http://` or `https://`; user and password in it are sent as basic authorization.
        method: the request method.
        headers: header fields, which replace those that would be sent (Accept, Accept-Encoding,
            Authorization, Cache-Control, Content-Type, Host, User-Agent): a mapping or pairs. A
            str is sent as UTF-8.
        json: a body to be sent as JSON.
        data: a body of bytes, text (as UTF-8) or a mapping (as a form).
        uds: the path of a Unix socket to connect to; the URL then says what to ask for.
        ssl_context: for https; without it, what the system trusts.
        connect_timeout: seconds for each address of the host, and for the TLS handshake; None: no
            limit.
        idle_timeout: seconds without a byte, before the response and within it, or without any
            progress of the request; None: no limit. How long the stream takes in all is not
            limited.
        check: as in `iter_events`.
        on_chunk: as in `iter_events`.
        **parser_options: the keywords of `Parser`.

    Raises:
        ValueError: a URL, method or header field that cannot be sent, or a time-out that is none.
        TypeError: json and data, or a wrong type.
        ImportError: httptools is missing, which comes with the extra `client`.
        TransportError: no connection, or no response; `StreamTimeout`: not in time.
        ResponseError: the check failed; redirects are not followed.
        SSEError: a variable of the environment asks for a proxy.

    While iterating: what `iter_events` raises.
    """
    parser: Parser[Any] = Parser(**parser_options)
    request = prepare(url, method, headers, json, data)
    exchange = Exchange(request)
    _check_connection(request, uds, ssl_context, connect_timeout, idle_timeout)
    source = _open(request, exchange, uds, ssl_context, connect_timeout, idle_timeout)
    return open_events(source, parser, check, on_chunk)


def send(
    client: None,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
    uds: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    all_members: bool = True,
    connected: Callable[[Callable[[], object]], None] | None = None,
) -> Source:
    """`connected` gets what ends the wait for the response, from another thread."""
    message = _prepared(request, uds, ssl_context, connect_timeout, idle_timeout)
    exchange = Exchange(message, all_members=all_members)
    return _open(message, exchange, uds, ssl_context, connect_timeout, idle_timeout, connected)


def _prepared(
    request: Request,
    uds: Any,
    context: Any,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Message:
    if request.foreign and uds is not None:
        raise SSEError(
            "Expected redirects that stay with the server behind the Unix socket, got one to "
            "another origin"
        )
    message = compose(request)
    _check_connection(message, uds, context, connect_timeout, idle_timeout)
    return message


def _open(
    request: Message,
    exchange: Exchange,
    uds: str | os.PathLike[str] | None,
    context: ssl.SSLContext | None,
    connect_timeout: float | None,
    idle_timeout: float | None,
    connected: Callable[[Callable[[], object]], None] | None = None,
) -> Source:
    sock = _connect(request, uds, context, connect_timeout)
    try:
        sock.settimeout(idle_timeout)
        if connected is not None:
            connected(waker(sock))
        body = _Body(sock, exchange, idle_timeout)
        _exchange_heads(sock, request, body)
    except BaseException:
        sock.close()
        raise
    response = Response(exchange.status, exchange.headers, request.url, sock)
    return Source(body, sock.close, response, waker(sock))


def _check_connection(
    request: Message,
    uds: Any,
    context: Any,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> None:
    """What can be said of the arguments before anything is connected."""
    if uds is None:
        refuse_proxy(request)
    if context is not None and not hasattr(context, "wrap_socket"):
        raise TypeError(f"Expected an ssl.SSLContext, got {type(context).__name__}")
    for name, value in (("connect_timeout", connect_timeout), ("idle_timeout", idle_timeout)):
        if value is not None and not 0 < value < _MAX_SECONDS:
            raise ValueError(f"Expected {name} to be a number of seconds above 0, got {value!r}")


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
            _set_options(sock)
        else:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(timeout)
            sock.connect(os.fspath(uds))
        if request.tls:
            sock = _tls(context).wrap_socket(sock, server_hostname=_server_name(request))
    except BaseException as error:
        if sock is not None:
            sock.close()
        if isinstance(error, OSError):
            raise _failure("connect", request, error) from error
        raise
    return sock


def _exchange_heads(sock: socket.socket, request: Message, body: _Body) -> None:
    """Send the request, and read the head of the response."""
    not_sent = None
    try:
        rest = memoryview(request.message)
        # Not sendall(), to which the time-out is one for the whole.
        while rest:
            rest = rest[sock.send(rest[:READ_SIZE]) :]
    except TimeoutError as error:
        raise _failure("send", request, error) from error
    except OSError as error:
        # A server that refuses a large body may answer, and close, before it has come.
        not_sent = error
    try:
        body.read_head()
    except (OSError, TransportError) as error:
        if not_sent is not None:
            raise _failure("send", request, not_sent) from not_sent
        if isinstance(error, OSError):
            raise _failure("head", request, error) from error
        raise


def _is_address(host: str) -> bool:
    with suppress(ValueError):
        ip_address(host.partition("%")[0])
        return True
    return False


def _server_name(request: Message) -> str:
    return request.host.partition("%")[0]


def _tls(context: ssl.SSLContext | None) -> ssl.SSLContext:
    if context is not None:
        return context
    # What the system's trust is read from.
    return _default_tls(os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=1)
def _default_tls(file: str | None, directory: str | None) -> ssl.SSLContext:
    """Kept, as it takes 20 ms to make."""
    import ssl

    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def _set_options(sock: Any) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE.items():
        # No system has them all.
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _failure(phase: str, request: Message, error: Exception) -> TransportError:
    # That of asyncio is no TimeoutError before Python 3.11.
    kind = StreamTimeout if "Timeout" in type(error).__name__ else TransportError
    wanted = "connection to" if phase == "connect" else "response of"
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return kind(
        f"Expected a {wanted} {without_secrets(request.url)}, got: {reason}",
        phase=phase,
        sent=phase != "connect",
    )


def _too_quiet(seconds: float, phase: str) -> StreamTimeout:
    return StreamTimeout(
        f"Expected a byte within {seconds:g} seconds, got none: raise idle_timeout if the server "
        "may be quiet for longer",
        phase=phase,
    )


class _Body(Iterator[bytes]):
    """What arrives of a body, received into one buffer."""

    def __init__(self, sock: socket.socket, exchange: Exchange, timeout: float | None) -> None:
        self._sock = sock
        self._exchange = exchange
        self._timeout = timeout
        self._buffer = memoryview(bytearray(READ_SIZE))
        self._pieces: Iterator[bytes] = iter(())

    def read_head(self) -> None:
        while not self._exchange.status:
            self._exchange.check()
            self._receive("head")

    def __next__(self) -> bytes:
        while True:
            for piece in self._pieces:
                if piece:
                    return piece
            self._exchange.check()
            if self._exchange.complete:
                raise StopIteration
            self._receive("body")

    def _receive(self, phase: str) -> None:
        try:
            size = self._sock.recv_into(self._buffer)
        except TimeoutError as error:
            if error.errno is not None or self._timeout is None:
                # Not ours: the connection is gone, as TCP keepalive has found.
                raise
            raise _too_quiet(self._timeout, phase) from error
        if size:
            self._pieces = self._exchange.receive(self._buffer[:size])
        else:
            self._exchange.ended()


# -- HTTP/1.1, asyncio -----------------------------------------------------------------------------


@overload
def aopen_stream(
    url: str, *, decode: None = ..., **options: Unpack[StreamOptions[str]]
) -> AsyncEventStream[str]: ...
@overload
def aopen_stream(
    url: str, *, decode: Callable[[bytes], D], **options: Unpack[StreamOptions[D]]
) -> AsyncEventStream[D]: ...
@overload
def aopen_stream(
    url: str,
    *,
    decode: Mapping[str, Callable[[bytes], Any]],
    **options: Unpack[StreamOptions[Any]],
) -> AsyncEventStream[Any]: ...
def aopen_stream(
    url: str,
    *,
    method: str = "GET",
    headers: HeaderFields | None = None,
    json: Any = None,
    data: Data | None = None,
    uds: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connect_timeout: float | None = 10.0,
    idle_timeout: float | None = 300.0,
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
    **parser_options: Any,
) -> AsyncEventStream[Any]:
    """The twin of `open_stream` for asyncio.

    It connects when `async with` is entered, when the first event is asked for, or by `await`; the
    request is sent once, also if such a wait is cancelled and begun again. `connect_timeout` is for
    all addresses and the TLS handshake together. Arguments and errors are those of `open_stream`;
    of the errors, those of the arguments come at the call.
    """
    parser: Parser[Any] = Parser(**parser_options)
    request = prepare(url, method, headers, json, data)
    exchange = Exchange(request)
    _check_connection(request, uds, ssl_context, connect_timeout, idle_timeout)
    # Here, as it brings all of asyncio.
    from sse_fast.adapters._http1_asyncio import Opening

    opening = Opening(
        lambda: _aopen(request, exchange, uds, ssl_context, connect_timeout, idle_timeout)
    )

    async def begin() -> tuple[Source, EndReason | None]:
        source = await opening.opened()
        return source, await acheck_response(source) if check else None

    nothing_yet = Source(AsyncUnreadable(), opening.aclose, None, opening.cancel)
    return AsyncEventStream(nothing_yet, parser, on_chunk, begin, opens=True)


async def asend(
    client: None,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
    uds: str | os.PathLike[str] | None = None,
    ssl_context: ssl.SSLContext | None = None,
    all_members: bool = True,
) -> Source:
    message = _prepared(request, uds, ssl_context, connect_timeout, idle_timeout)
    exchange = Exchange(message, all_members=all_members)
    return await _aopen(message, exchange, uds, ssl_context, connect_timeout, idle_timeout)


async def _aopen(
    request: Message,
    exchange: Exchange,
    uds: str | os.PathLike[str] | None,
    context: ssl.SSLContext | None,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    import asyncio

    from sse_fast.adapters._http1_asyncio import (
        Body,
        PlainConnection,
        TLSConnection,
        made_within,
        running_loop,
    )

    loop = running_loop()

    def too_quiet(seconds: float) -> StreamTimeout:
        return _too_quiet(seconds, "body" if exchange.status else "head")

    kind = TLSConnection if request.tls else PlainConnection
    connection = kind(exchange, idle_timeout, too_quiet)
    options: dict[str, Any] = {}
    if request.tls:
        # Else asyncio has a limit of its own, of 60 seconds.
        limit = _MAX_SECONDS if connect_timeout is None else connect_timeout
        options = {
            "ssl": _tls(context),
            "server_hostname": _server_name(request),
            "ssl_handshake_timeout": limit,
        }
    if not _is_address(request.host) and isinstance(loop, asyncio.BaseEventLoop):
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
        raise _failure("connect", request, error) from error
    try:
        if uds is None:
            try:
                _set_options(transport.get_extra_info("socket"))
            except OSError as error:
                # Lost already.
                raise _failure("connect", request, error) from error
        transport.write(request.message)
        try:
            await connection.read_head()
        except OSError as error:
            raise _failure("head", request, error) from error
    except BaseException:
        transport.abort()
        raise
    response = Response(exchange.status, exchange.headers, request.url, transport)
    return Source(Body(connection), connection.aclose, response, transport.abort)
