"""Responses of aiohttp, which decodes their content.

It gives up on any response that has not ended after 300 seconds in all. For a stream, say
`timeout=aiohttp.ClientTimeout(total=None, sock_read=300)`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sse_fast._source import AsyncFailingChunks, Headers, Response, Source
from sse_fast.adapters._clients import wrap_request_error

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

    from sse_fast._request import Request

_UNSENT = {"ClientConnectorError", "ClientConnectorCertificateError", "ConnectionTimeoutError"}

_CODINGS = {"identity", "gzip", "deflate", "br", "zstd"}
_UNKNOWN = (
    "Expected a content coding that aiohttp decodes, got {!r}: ask for 'Accept-Encoding: identity'"
)


def open_source(response: aiohttp.ClientResponse) -> Source:
    headers = Headers(response.headers.items())
    face = Response(response.status, headers, str(response.url), response)
    # Nothing public tells whether the body was read; read() would read it to its end.
    if response._body is not None:
        return Source((response._body,), None, face)
    content = response.content
    if (content.at_eof() and content.total_bytes) or (response.closed and content.exception()):
        return Source(AsyncFailingChunks(), None, face)

    async def aclose() -> None:
        if not content.at_eof():
            # What has arrived is read in the next turns of the loop. If it is the end of the body,
            # the connection is free for the next request.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        response.close()

    coding = (headers.get("content-encoding") or "identity").lower()
    chunks: AsyncIterator[bytes] = _Chunks(response)
    if coding not in _CODINGS:
        chunks = AsyncFailingChunks(_UNKNOWN.format(coding))
    return Source(chunks, aclose, face, response.close)


class _Chunks(AsyncIterator[bytes]):
    """What has arrived, all of it at once."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost: asyncio.Future[None] | None = None
        self._on_lost = partial(_connection_lost, weakref.ref(response))

    async def __anext__(self) -> bytes:
        if self._loop is None:
            self._begin()
        try:
            chunk = await self._content.readany()
        except Exception:
            # It raises before it gives out what had arrived until then, and nothing public does.
            chunk = b""
            with suppress(Exception):
                chunk = self._content._read_nowait(-1)
            if not chunk:
                raise
        if chunk:
            return chunk
        self._forget()
        if self._lost is not None and self._lost.done() and self._lost.exception():
            # To aiohttp, a reset is as good an end as another.
            raise cast("Exception", self._lost.exception())
        raise StopAsyncIteration

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        connection = self._response.connection
        if connection is not None and connection.protocol is not None:
            self._lost = connection.protocol.closed
        if self._lost is not None:
            self._lost.add_done_callback(self._on_lost)

    def _forget(self) -> None:
        """The connection may serve many more responses."""
        if self._lost is not None:
            self._lost.remove_done_callback(self._on_lost)

    def __del__(self) -> None:
        if self._loop is None:
            return
        self._forget()
        # A stream that was forgotten: its connection would hold it for ever. From any thread, as
        # the garbage collector runs in any; the loop may be closed.
        if not self._response.closed:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._response.close)


def _connection_lost(
    reference: weakref.ref[aiohttp.ClientResponse], lost: asyncio.Future[None]
) -> None:
    """Wake the reader: after a mistake in the framing aiohttp forgets to."""
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
    import aiohttp
    from yarl import URL

    # It sends a str as UTF-8.
    fields = [(name, value.decode("utf-8", "surrogateescape")) for name, value in request.fields]
    given = {name.lower() for name, _ in fields}
    options: dict[str, Any] = {
        "data": request.body,
        "allow_redirects": False,
        "raise_for_status": False,
        "timeout": aiohttp.ClientTimeout(
            total=None, connect=connect_timeout, sock_read=idle_timeout
        ),
        # Only what was asked for.
        "skip_auto_headers": [] if "content-type" in given else ["Content-Type"],
    }
    authorized = "authorization" in given or "Authorization" in session.headers
    if request.cross_origin:
        # Nothing of the session's own goes along: also no hook of its tracing.
        sending = aiohttp.ClientSession(
            connector=session.connector, connector_owner=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        _set_proxy(sending, session, URL(request.url))
    else:
        # A twin that shares all with the session, but does not send a request again on its own.
        sending = object.__new__(type(session))
        sending.__dict__.update(session.__dict__)
        sending._retry_connection = False
        if authorized and (session.auth is not None or session.trust_env):
            # Nor looks into netrc, or at its auth, which it would not take beside an Authorization.
            sending._default_auth = None
            sending._trust_env = False
            _set_proxy(sending, session, URL(request.url))
    try:
        response = await sending.request(
            request.method, URL(request.url), headers=fields, **options
        )
    except aiohttp.InvalidURL:
        raise
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
        raise wrap_request_error(request.url, error, _UNSENT) from error
    finally:
        # Which leaves the connector, and with it the response, as it is.
        sending._connector_owner = False
        await sending.close()
    return open_source(response)


def _set_proxy(sending: Any, session: Any, url: URL) -> None:
    """That which the session would use."""
    from aiohttp.helpers import get_env_proxy_for_url

    # Nothing public tells.
    proxy = getattr(session, "_default_proxy", None), getattr(session, "_default_proxy_auth", None)
    if proxy[0] is None and session.trust_env:
        with suppress(LookupError):
            proxy = get_env_proxy_for_url(url)
    sending._default_proxy, sending._default_proxy_auth = proxy
