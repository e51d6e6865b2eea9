"""Responses of aiohttp, read by `content.readany()`, which returns what has arrived.

aiohttp decodes the content, and gives up on a response after 300 seconds in total. For a stream,
pass `timeout=aiohttp.ClientTimeout(total=None, sock_read=300)`.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from sse_fast._source import AsyncFailingChunks, Headers, Response, Source, is_reusable
from sse_fast.adapters._clients import wrap_request_error

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL

    from sse_fast._request import Request

_UNSENT = {"ClientConnectorError", "ClientConnectorCertificateError", "ConnectionTimeoutError"}

_CODINGS = {"identity", "gzip", "deflate", "br", "zstd"}
_UNKNOWN = "aiohttp does not decode content coding {!r}: request 'Accept-Encoding: identity'"


def open_source(original: aiohttp.ClientResponse) -> Source:
    """Return the source of a response of aiohttp."""
    headers = Headers(original.headers.items())
    response = Response(original.status, headers, str(original.url), original)
    # No public attribute says whether the body was read, and read() would read all of it.
    if original._body is not None:
        return Source((original._body,), None, response)
    content = original.content
    if (content.at_eof() and content.total_bytes) or (original.closed and content.exception()):
        return Source(AsyncFailingChunks(), None, response)

    async def aclose() -> None:
        original.close()

    coding = (headers.get("content-encoding") or "identity").lower()
    chunks: AsyncIterator[bytes] = _Chunks(original)
    if coding not in _CODINGS:
        chunks = AsyncFailingChunks(_UNKNOWN.format(coding))
    return Source(chunks, aclose, response, original.close, is_reusable(headers), resumable=True)


class _Chunks(AsyncIterator[bytes]):
    """The chunks of a body, each with everything that has arrived."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lost: asyncio.Future[None] | None = None
        self._on_lost = partial(_on_connection_lost, weakref.ref(response))

    async def __anext__(self) -> bytes:
        if self._loop is None:
            self._begin()
        try:
            chunk = await self._content.readany()
        except Exception:
            # readany() raises the stored exception before it returns buffered bytes, and no public
            # API returns them.
            chunk = b""
            with suppress(Exception):
                chunk = self._content._read_nowait(-1)
            if not chunk:
                raise
        if chunk:
            return chunk
        self._forget()
        if self._lost is not None and self._lost.done() and self._lost.exception():
            # aiohttp takes a connection reset for a regular end.
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
        aiohttp.InvalidURL: aiohttp refuses the URL.
    """
    import aiohttp
    from yarl import URL

    # aiohttp encodes a str as UTF-8.
    fields = [(name, value.decode("utf-8", "surrogateescape")) for name, value in request.fields]
    given = {name.lower() for name, _ in fields}
    options: dict[str, Any] = {
        "data": request.body,
        "allow_redirects": False,
        "raise_for_status": False,
        "timeout": aiohttp.ClientTimeout(
            total=None, connect=connect_timeout, sock_read=idle_timeout
        ),
        # aiohttp adds no Content-Type of its own.
        "skip_auto_headers": [] if "content-type" in given else ["Content-Type"],
    }
    authorized = "authorization" in given or "Authorization" in session.headers
    if request.cross_origin:
        # A new session, so that nothing of the caller's session is used, not even its tracing.
        sending = aiohttp.ClientSession(
            connector=session.connector, connector_owner=False, cookie_jar=aiohttp.DummyCookieJar()
        )
        _set_proxy(sending, session, URL(request.url))
    else:
        # A shallow copy of the session that does not repeat a request on its own.
        sending = object.__new__(type(session))
        sending.__dict__.update(session.__dict__)
        sending._retry_connection = False
        if authorized and (session.auth is not None or session.trust_env):
            # The copy ignores netrc and the session's auth, which aiohttp refuses to combine with
            # an Authorization field.
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
        # close() then leaves the connector open, and with it the response.
        sending._connector_owner = False
        await sending.close()
    return open_source(response)


def _set_proxy(sending: Any, session: Any, url: URL) -> None:
    """Let `sending` use the proxy that the session would use."""
    from aiohttp.helpers import get_env_proxy_for_url

    # No public attribute names the proxy of a session.
    proxy = getattr(session, "_default_proxy", None), getattr(session, "_default_proxy_auth", None)
    if proxy[0] is None and session.trust_env:
        with suppress(LookupError):
            proxy = get_env_proxy_for_url(url)
    sending._default_proxy, sending._default_proxy_auth = proxy
