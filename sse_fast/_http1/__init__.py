"""The transport of sse_fast: event streams by HTTP/1.1 over sockets, without an HTTP library.

`open_stream` and `aopen_stream` are made for speed: framing is decoded in C, by httptools if it is
unusual. They support no redirects, proxies or cookies, and use a connection for one request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

from sse_fast._check import acheck_response, open_events
from sse_fast._http1.blocking import open_source
from sse_fast._http1.connecting import check_connection
from sse_fast._http1.exchange import Exchange
from sse_fast._http1.message import prepare
from sse_fast._source import AsyncFailingChunks, Source
from sse_fast._stream import AsyncEventStream, EndReason, EventStream, make_parser

if TYPE_CHECKING:
    import os
    import ssl
    from collections.abc import AsyncIterator, Callable, Mapping

    from typing_extensions import TypeVar, Unpack

    from sse_fast._request import Data, HeaderFields
    from sse_fast._stream import ParserOptions

    D = TypeVar("D", default=Any)
    T = TypeVar("T", default=str)

    class StreamOptions(ParserOptions[T], total=False):
        """The keywords of `open_stream` except `decode`."""

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
    url: str,
    *,
    decode: Callable[[bytes], D] | Mapping[str, Callable[[bytes], Any]],
    **options: Unpack[StreamOptions[D]],
) -> EventStream[D]: ...
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
    """Request a URL over a new socket, and iterate over the events of its response.

    It speaks HTTP/1.1 (RFC 9112). Redirects are not followed.

    Args:
        url: `http://` or `https://`; user and password in it are sent as basic authorization.
        method: the request method.
        headers: header fields as a mapping or pairs. They replace the default ones: Accept,
            Accept-Encoding, Authorization, Cache-Control, Content-Type, Host, User-Agent. A str
            is sent as UTF-8.
        json: a body to send as JSON.
        data: a body of bytes, text (sent as UTF-8) or a mapping (sent as a form).
        uds: the path of a Unix socket to connect to; the URL then names the resource only.
        ssl_context: for https; None trusts the authorities of the system.
        connect_timeout: seconds for each address of the host, and for the TLS handshake; None: no
            limit.
        idle_timeout: seconds without a byte of the body, and without progress of the request; also
            the seconds for the whole response head after the request was sent, with interim
            responses. None: no limit. The total duration of the stream has no limit.
        check: as in `iter_events`.
        on_chunk: as in `iter_events`.
        **parser_options: the keywords of `Parser`.

    Returns:
        The stream, after its response head was received and checked.

    Raises:
        ValueError: the URL, the method, a header field or a timeout is invalid.
        TypeError: both json and data are given, or an argument has a wrong type.
        ImportError: httptools is missing; it comes with the extra `client`.
        TransportError: the connection or the response failed; `StreamTimeout`: not in time. If the
            body is no valid framing or coding from its first byte, `response.body` of the error has
            these bytes, for example a message of the server.
        ResponseError: the check failed.
        SSEError: a variable of the environment requires a proxy.

    Iterating raises the errors that `iter_events` names.
    """
    parser, comments = make_parser(**parser_options)
    request = prepare(url, method, headers, json, data)
    exchange = Exchange(request)
    check_connection(request, uds, ssl_context, connect_timeout, idle_timeout)
    source = open_source(request, exchange, uds, ssl_context, connect_timeout, idle_timeout)
    return open_events(source, parser, check, on_chunk, comments)


@overload
def aopen_stream(
    url: str, *, decode: None = ..., **options: Unpack[StreamOptions[str]]
) -> AsyncEventStream[str]: ...
@overload
def aopen_stream(
    url: str,
    *,
    decode: Callable[[bytes], D] | Mapping[str, Callable[[bytes], Any]],
    **options: Unpack[StreamOptions[D]],
) -> AsyncEventStream[D]: ...
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
    """Request a URL over a new connection of asyncio; the async form of `open_stream`.

    The stream connects on entering `async with`, when the first event is requested, or by `await`.
    The request is sent once, even if such a wait is cancelled and repeated.

    Args:
        url: as in `open_stream`, like the other arguments, with one exception: `connect_timeout`
            applies to all addresses and the TLS handshake together.
        method: the request method.
        headers: header fields as a mapping or pairs.
        json: a body to send as JSON.
        data: a body of bytes, text or a mapping.
        uds: the path of a Unix socket.
        ssl_context: for https.
        connect_timeout: seconds to connect; None: no limit.
        idle_timeout: seconds without a byte; None: no limit.
        check: as in `iter_events`.
        on_chunk: as in `iter_events`.
        **parser_options: the keywords of `Parser`.

    Returns:
        The stream, not connected yet.

    Raises:
        ValueError: the URL, the method, a header field or a timeout is invalid.
        TypeError: both json and data are given, or an argument has a wrong type.
        ImportError: httptools is missing; it comes with the extra `client`.
        SSEError: a variable of the environment requires a proxy.

    Connecting raises the other errors of `open_stream`.
    """
    parser, comments = make_parser(**parser_options)
    request = prepare(url, method, headers, json, data)
    exchange = Exchange(request)
    check_connection(request, uds, ssl_context, connect_timeout, idle_timeout)
    # Imported late, because it loads asyncio.
    from sse_fast._http1 import aio

    opening = aio.Opening(
        lambda: aio.open_source(request, exchange, uds, ssl_context, connect_timeout, idle_timeout)
    )

    async def begin(chunks: AsyncIterator[bytes]) -> tuple[Source, EndReason | None]:
        source = await opening.wait()
        return source, await acheck_response(source) if check else None

    placeholder = Source(AsyncFailingChunks(), opening.aclose, None, opening.cancel)
    return AsyncEventStream(placeholder, parser, on_chunk, begin, opens=True, comments=comments)
