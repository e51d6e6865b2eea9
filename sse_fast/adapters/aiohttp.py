"""Responses of aiohttp, read by `content.readany()`, which returns what has arrived.

aiohttp decodes the content, and gives up on a response after 300 seconds in total. For a stream,
pass `timeout=aiohttp.ClientTimeout(total=None, sock_read=300)`.
"""

from __future__ import annotations

import asyncio
import codecs
import re
import urllib.request
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sse_fast._errors import SSEError, TransportError
from sse_fast._http1.decoding import make_decoder
from sse_fast._source import AsyncFailingChunks, Headers, Response, Source, is_reusable
from sse_fast.adapters._clients import (
    AsyncRaisingChunks,
    explain_refusal,
    find_response,
    find_undecoded,
    is_framed,
    split_codings,
    wrap_body_error,
)
from sse_fast.adapters._connecting import wrap_connection_error

if TYPE_CHECKING:
    import aiohttp
    from typing_extensions import Self
    from yarl import URL

    from sse_fast._request import Request

_UNSENT = {
    "ClientConnectorError",
    "ClientConnectorCertificateError",
    "ClientHttpProxyError",
    "ConnectionTimeoutError",
}

_CODINGS = frozenset({"gzip", "deflate", "br", "zstd"})
_MAX_START = 512
"""The bytes of a body that are examined. An encoded one is recognized long before."""
_LINE = re.compile("\ufeff?(?:[\r\n]|: |data|event|id|retry)")
_NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufffd]")


def open_source(original: aiohttp.ClientResponse) -> Source:
    """Return the source of a response of aiohttp."""
    headers = Headers(original.headers.items())
    response = Response(original.status, headers, str(original.url), original)
    # No public attribute says whether the body was read, and read() would read all of it.
    if original._body is not None:
        return Source((original._body,), None, response, framed=is_framed(headers))
    content = original.content
    if (content.at_eof() and content.total_bytes) or (original.closed and content.exception()):
        return Source(AsyncFailingChunks(), None, response)

    async def aclose() -> None:
        original.close()

    # aiohttp decodes a coding that stands alone in the field, and raises an error of its own if it
    # lacks a library for it.
    is_decoded = headers.get("content-encoding", "").lower() in _CODINGS
    undecoded = find_undecoded(headers, _CODINGS if is_decoded else frozenset())
    chunks = _Chunks(original, headers) if undecoded is None else AsyncRaisingChunks(undecoded)
    reusable, framed = is_reusable(headers), is_framed(headers)
    return Source(chunks, aclose, response, original.close, reusable, framed, resumable=True)


def open_reader(content: aiohttp.StreamReader) -> Source:
    """Return the source of the content of a response, which is borrowed.

    Its `async for` would read lines that end with LF, and refuse long ones.
    """
    return Source(_Pieces(content), resumable=True)


class _Pieces(AsyncIterator[bytes]):
    """The pieces of a content, each with everything that has arrived."""

    def __init__(self, content: aiohttp.StreamReader) -> None:
        self._content = content

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._content.readany()
        except Exception:
            chunk = _take_rest(self._content)
            if not chunk:
                raise
        if not chunk:
            raise StopAsyncIteration
        return chunk


def _take_rest(content: aiohttp.StreamReader) -> bytes:
    """Return what arrived before an error: readany() raises the error first."""
    # No public API returns it.
    with suppress(Exception):
        return content._read_nowait(-1)
    return b""


class _Chunks(AsyncIterator[bytes]):
    """The chunks of a body, each with everything that has arrived."""

    def __init__(self, response: aiohttp.ClientResponse, headers: Headers) -> None:
        self._response = response
        self._headers = headers
        # No public attribute tells of `auto_decompress=False`, so the first bytes are examined.
        self._start: bytes | None = b"" if split_codings(headers) else None
        self._content = response.content
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost: asyncio.Future[None] | None = None
        self._protocol: Any = None
        self._on_lost = partial(_on_connection_lost, weakref.ref(response))

    async def __anext__(self) -> bytes:
        if self._loop is None:
            self._begin()
        try:
            chunk = await self._content.readany()
        except Exception as error:
            chunk = _take_rest(self._content)
            if not chunk:
                # Either the protocol or the body knows what was found wrong; the other knows only
                # that the connection has ended.
                found = None if self._protocol is None else self._protocol.exception()
                failure = None
                try:
                    for each in (found, error):
                        failure = wrap_body_error(each) if isinstance(each, Exception) else None
                        if isinstance(failure, SSEError):
                            raise failure from failure.__cause__
                    raise
                finally:
                    # The traceback of the failure refers to this frame.
                    del failure, found, each
        if chunk:
            if self._start is not None:
                self._check_decoded(chunk)
            return chunk
        self._forget()
        if self._lost is not None and self._lost.done() and self._lost.exception():
            # aiohttp takes a connection reset for a regular end.
            raise cast("Exception", self._lost.exception())
        raise StopAsyncIteration

    def _check_decoded(self, chunk: bytes) -> None:
        """Raise if the body is still encoded, by its first bytes, however they arrive."""
        assert self._start is not None
        start = (self._start + chunk)[:_MAX_START]
        self._start = start if len(start) < _MAX_START else None
        error = find_undecoded(self._headers, frozenset())
        if error is not None and _looks_encoded(start, self._headers):
            raise error

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            self._protocol = connection.protocol
            self._lost = connection.protocol.closed
        if self._lost is not None:
            self._lost.add_done_callback(self._on_lost)

    def _forget(self) -> None:
        """Remove the callback, since the connection may serve many more responses."""
        if self._lost is not None:
            self._lost.remove_done_callback(self._on_lost)

    def __del__(self) -> None:
        if self._loop is None:
            return
        self._forget()
        # The stream was dropped, and its connection would keep the response alive. The garbage
        # collector runs in any thread, and the loop may be closed.
        if not self._response.closed:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._response.close)


def _looks_encoded(start: bytes, headers: Headers) -> bool:
    """Return whether the first bytes of a body are no text, but text if they are decoded."""
    text = _decode_text(start)
    if _LINE.match(text) or not _NO_TEXT.search(text):
        return False
    try:
        decoder = make_decoder(headers.get("content-encoding", ""))
        decoded = b"" if decoder is None else b"".join(decoder.decode(start))
    except TransportError as error:
        # Without a library for the coding, aiohttp would not have decoded the body either.
        return error.__cause__ is None
    # An event does not fit into so few characters, so none has passed undetected.
    text = _decode_text(decoded)[:4]
    return len(text) == 4 and not _NO_TEXT.search(text)


def _decode_text(data: bytes) -> str:
    """Return the bytes as text, without a character that is incomplete at the end."""
    return codecs.getincrementaldecoder("utf-8")("replace").decode(data)


def _on_connection_lost(
    reference: weakref.ref[aiohttp.ClientResponse], lost: asyncio.Future[None]
) -> None:
    """Wake the reader, which aiohttp fails to do after a framing error."""
    error = None if lost.cancelled() else lost.exception()
    response = reference()
    if response is None or response.content.is_eof() or response.content.exception() is not None:
        return
    if error is None:
        from aiohttp import ClientPayloadError

        error = ClientPayloadError("the connection was closed within the body")
    response.content.set_exception(error)


async def asend(
    session: aiohttp.ClientSession,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Send a request of the client through a session, without following redirects.

    Raises:
        TransportError: no response came.
        Exception: whatever aiohttp refuses to send, or code of the user raised.
    """
    import aiohttp

    # aiohttp encodes a str as UTF-8.
    fields = [(name, value.decode("utf-8", "surrogateescape")) for name, value in request.fields]
    options: dict[str, Any] = {
        "data": request.body,
        "allow_redirects": False,
        "raise_for_status": False,
        "timeout": aiohttp.ClientTimeout(
            total=None, connect=connect_timeout, sock_read=idle_timeout
        ),
    }
    if all(name.lower() != "content-type" for name, _ in fields):
        # aiohttp adds no Content-Type of its own.
        options["skip_auto_headers"] = ["Content-Type"]
    try:
        if request.cross_origin:
            response = await _request_bare(session, request, fields, options)
        else:
            response = await _request(session, request, fields, options)
    except Exception as error:
        found = find_response(error, aiohttp.ClientResponse)
        if found is not None:
            return open_source(found)
        refused = _find_refused(error)
        if refused is not None:
            return refused
        is_of_network = isinstance(error, (aiohttp.ClientError, OSError, asyncio.TimeoutError))
        if is_of_network and not isinstance(error, aiohttp.InvalidURL):
            proxy = _name_proxy(error)
            raise wrap_connection_error(request.url, error, _UNSENT, proxy) from error
        if isinstance(error, (ValueError, RuntimeError)):
            # aiohttp refuses the request, or the session is closed.
            raise explain_refusal(request, error) from error
        raise
    return open_source(response)


async def _request(
    session: aiohttp.ClientSession,
    request: Request,
    fields: list[tuple[str, str]],
    options: dict[str, Any],
) -> aiohttp.ClientResponse:
    from yarl import URL

    # Without `encoded`, some characters would be decoded, and signed URLs become invalid.
    url = URL(request.url, encoded=True)
    given = [value for name, value in fields if name.lower() == "authorization"]
    try:
        return await session.request(request.method, url, headers=fields, **options)
    except ValueError:
        if len(given) != 1 or not (session.auth is not None or session.trust_env):
            raise
    # aiohttp refuses an Authorization field beside the auth of the session or of netrc, before it
    # sends anything. An auth of the request takes the place of both.
    others = [each for each in fields if each[0].lower() != "authorization"]
    return await session.request(
        request.method,
        url,
        headers=others,
        auth=_make_auth(given[0]),
        **options,
    )


def _make_auth(value: str) -> aiohttp.BasicAuth:
    """Return an auth that sends the given value of Authorization."""
    import aiohttp

    class GivenAuth(aiohttp.BasicAuth):
        def __new__(cls) -> Self:
            # The constructor warns that aiohttp 4 will have no such class.
            return tuple.__new__(cls, ("", "", "utf-8"))

        def encode(self) -> str:
            return value

    return GivenAuth()


async def _request_bare(
    session: aiohttp.ClientSession,
    request: Request,
    fields: list[tuple[str, str]],
    options: dict[str, Any],
) -> aiohttp.ClientResponse:
    """Send by a new session on the same connector, so that nothing of the caller's is added."""
    import aiohttp
    from yarl import URL

    if session.closed:
        raise RuntimeError("Session is closed")
    url = URL(request.url, encoded=True)
    if session.trust_env:
        # With `trust_env`, the new session would use netrc, too.
        options["proxy"] = _find_proxy(url)
    bare = aiohttp.ClientSession(
        connector=session.connector, connector_owner=False, cookie_jar=aiohttp.DummyCookieJar()
    )
    try:
        return await bare.request(request.method, url, headers=fields, **options)
    finally:
        # This leaves the connector open, and with it the response.
        await bare.close()


def _find_proxy(url: URL) -> str | None:
    """Return the proxy that the environment names for a URL, or None."""
    if urllib.request.proxy_bypass(url.host or ""):
        return None
    return urllib.request.getproxies().get(url.scheme)


def _name_proxy(error: Exception) -> str:
    """Return the proxy that an error of aiohttp is about, or ""."""
    import aiohttp

    if isinstance(error, aiohttp.ClientHttpProxyError):
        return str(error.request_info.real_url)
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return f"{error.host}:{error.port}"
    return ""


def _find_refused(error: Exception) -> Source | None:
    """Return the response without a body that a `ClientResponseError` of the user describes."""
    import aiohttp

    # Subclasses, and those that aiohttp makes of the errors of its parser, describe no response.
    if type(error) is not aiohttp.ClientResponseError or error.__cause__ is not None:
        return None
    if error.status < 300:
        return None
    headers = Headers((error.headers or {}).items())
    url = str(error.request_info.real_url)
    return Source((), None, Response(error.status, headers, url, error), framed=True)
