"""Our own transport: an event stream over a socket, HTTP/1.1 and nothing in between.

`open_stream` and `aopen_stream` are made for speed: httptools reads heads and framing in C. They
support no redirects, proxies or cookies, and a connection is used once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from sse_fast._check import acheck_response, open_events
from sse_fast._core.parser import Parser
from sse_fast._http1.blocking import open_source
from sse_fast._http1.connecting import check_connection
from sse_fast._http1.exchange import Exchange
from sse_fast._http1.message import prepare
from sse_fast._source import AsyncFailingChunks, Source
from sse_fast._stream import AsyncEventStream, EndReason, EventStream

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import Callable, Mapping

    from typing_extensions import TypeVar, Unpack

    from sse_fast._request import Data, HeaderFields
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


__all__ = ["aopen_stream", "open_stream"]


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
    check_connection(request, uds, ssl_context, connect_timeout, idle_timeout)
    source = open_source(request, exchange, uds, ssl_context, connect_timeout, idle_timeout)
    return open_events(source, parser, check, on_chunk)


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
    check_connection(request, uds, ssl_context, connect_timeout, idle_timeout)
    # Here, as it brings all of asyncio.
    from sse_fast._http1 import aio

    opening = aio.Opening(
        lambda: aio.open_source(request, exchange, uds, ssl_context, connect_timeout, idle_timeout)
    )

    async def begin() -> tuple[Source, EndReason | None]:
        source = await opening.opened()
        return source, await acheck_response(source) if check else None

    nothing_yet = Source(AsyncFailingChunks(), opening.aclose, None, opening.cancel)
    return AsyncEventStream(nothing_yet, parser, on_chunk, begin, opens=True)
