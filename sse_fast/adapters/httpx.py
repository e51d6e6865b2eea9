"""Responses of httpx and httpx2, of sync and async clients, read by `iter_bytes()`.

Without a size, it returns each piece as it arrives, with its content coding undone. Both libraries
give up on a stream that is silent for 5 seconds unless `timeout=` says otherwise, for example
`httpx.Timeout(10, read=300)`. Under trio, they leave generators of an unfinished body to the
garbage collector, and trio warns about that.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sse_fast._errors import SSEError, TransportError
from sse_fast._http1.decoding import make_decoder
from sse_fast._source import Headers, Response, Source, is_reusable
from sse_fast._wake import make_waker, protect_read
from sse_fast.adapters._clients import (
    AsyncRaisingChunks,
    RaisingChunks,
    can_use_auth,
    explain_refusal,
    find_response,
    find_undecoded,
    forbid_cross_origin,
    is_framed,
    is_overridden,
    iter_exception_chain,
    library_class,
    raise_body_error,
    split_codings,
)
from sse_fast.adapters._connecting import wrap_connection_error

if TYPE_CHECKING:
    import httpx

    from sse_fast._request import Request

_UNSENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
_REFUSED_STREAM = 7
"""The HTTP/2 error code of a request that was not processed (RFC 9113, 8.7)."""

# The letter "a" in the codings that httpx decodes only if it finds another library.
_OPTIONAL_CODINGS = {
    "br": bytes.fromhex("0b00806103"),
    "zstd": bytes.fromhex("28b52ffd200109000061"),
}


def open_source(original: httpx.Response, *, one_member: bool = False) -> Source:
    """Return the source of a response of httpx or httpx2: async if its client is.

    Args:
        original: the response.
        one_member: whether to ignore all members of a gzip body but the first.
    """
    try:
        url = str(original.url)
    except RuntimeError:
        # A response that was made by hand belongs to no request.
        url = ""
    headers = Headers(original.headers.multi_items())
    response = Response(original.status_code, headers, url, original)
    framed = is_framed(headers, original.http_version)
    # A body that was read is available as `content`. Otherwise each library raises an error of its
    # own, derived from RuntimeError.
    with suppress(RuntimeError):
        return Source((original.content,), None, response, framed=framed)
    wake = _make_guarded_waker(original)
    reusable = wake is not None and is_reusable(headers)
    undecoded = find_undecoded(headers, _decoded_codings(library_class(original)))
    # httpx decodes the first member of gzip, and drops the others without an error.
    is_gzip = split_codings(headers) == ["gzip"] and not one_member
    if isinstance(original.stream, Iterable):
        chunks = RaisingChunks(undecoded) if undecoded is not None else _Chunks(original, is_gzip)
        return Source(chunks, original.close, response, wake, reusable, framed)
    achunks = (
        AsyncRaisingChunks(undecoded) if undecoded is not None else _AsyncChunks(original, is_gzip)
    )

    async def aclose() -> None:
        if isinstance(achunks, _AsyncChunks):
            # The generator is closed first, because nothing would await its end later.
            await achunks.aclose()
        await original.aclose()

    return Source(achunks, aclose, response, wake, reusable, framed)


class _Chunks(Iterator[bytes]):
    """The chunks of the body; the client may be closed while a thread waits for one."""

    def __init__(self, original: httpx.Response, is_gzip: bool) -> None:
        chunks = _iter_gzip(original) if is_gzip else original.iter_bytes()
        self._read = protect_read(_find_socket(original), lambda: next(chunks, None))

    def __next__(self) -> bytes:
        try:
            chunk = self._read()
        except Exception as error:
            raise_body_error(error)
        if chunk is None:
            raise StopIteration
        return chunk


class _AsyncChunks(AsyncIterator[bytes]):
    """The chunks of the body of a response of an async client."""

    def __init__(self, original: httpx.Response, is_gzip: bool) -> None:
        self._chunks: Any = _aiter_gzip(original) if is_gzip else original.aiter_bytes()

    async def __anext__(self) -> bytes:
        try:
            chunk: bytes = await self._chunks.__anext__()
        except StopAsyncIteration:
            raise
        except Exception as error:
            raise_body_error(error)
        return chunk

    async def aclose(self) -> None:
        await self._chunks.aclose()


def _iter_gzip(original: httpx.Response) -> Iterator[bytes]:
    decoder: Any = make_decoder("gzip")
    with _decoding_errors(original):
        for chunk in original.iter_raw():
            yield from decoder.decode(chunk)
        decoder.check_end()


async def _aiter_gzip(original: httpx.Response) -> AsyncIterator[bytes]:
    decoder: Any = make_decoder("gzip")
    chunks: Any = original.aiter_raw()
    try:
        with _decoding_errors(original):
            async for chunk in chunks:
                for piece in decoder.decode(chunk):
                    yield piece
            decoder.check_end()
    finally:
        await chunks.aclose()


@contextmanager
def _decoding_errors(original: httpx.Response) -> Iterator[None]:
    """Raise the error of the library for bytes that are no gzip, as it would itself."""
    try:
        yield
    except TransportError as error:
        if not error.permanent:
            raise
        module: Any = sys.modules[library_class(original).__module__]
        raise module.DecodingError(str(error)) from error.__cause__


@lru_cache
def _decoded_codings(cls: Any) -> frozenset[str]:
    """Return the codings that a class of responses decodes, which it tells only by doing it."""
    found = {
        coding
        for coding, encoded in _OPTIONAL_CODINGS.items()
        if cls(200, headers={"Content-Encoding": coding}, content=encoded).content == b"a"
    }
    return frozenset({"gzip", "deflate", *found})


def _make_guarded_waker(original: httpx.Response) -> Callable[[], object] | None:
    # Responses of HTTP/2 share a connection: shutting it down would end the other responses.
    if not original.http_version.startswith("HTTP/1"):
        return None
    sock = _find_socket(original)
    if sock is None:
        return None
    shut_down = make_waker(sock)

    def wake() -> None:
        # After the end of the body, the connection may already carry another response.
        if not original.is_closed:
            shut_down()

    return wake


def _find_socket(original: httpx.Response) -> Any:
    """Return the socket of the connection; None without one, as for a mock."""
    get = getattr(original.extensions.get("network_stream"), "get_extra_info", None)
    return None if get is None else get("socket")


def send(
    client: httpx.Client,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Send a request of the client through a client of httpx, without following redirects.

    Raises:
        TransportError: no response came.
        Exception: whatever httpx refuses to send, or a hook or an auth of the user raised.
    """
    arguments, options = _prepare(client, request, connect_timeout, idle_timeout)
    context = None
    try:
        if not request.cross_origin and is_overridden(client, "stream"):
            context = client.stream(**arguments, **_keep_url(client, request, options))
            response = context.__enter__()
        else:
            prepared = _build(client, request, arguments)
            response = client.send(prepared, stream=True, **options)
    except Exception as error:
        return open_source(_recover(request, error))
    opened = open_source(response, one_member=request.one_member)
    if context is None:
        return opened
    close, leave = opened.close, context.__exit__

    def close_all() -> None:
        try:
            if close is not None:
                close()
        finally:
            leave(None, None, None)

    return opened._replace(close=close_all)


async def asend(
    client: httpx.AsyncClient,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Send a request of the client through an async client of httpx; see `send`."""
    arguments, options = _prepare(client, request, connect_timeout, idle_timeout)
    context = None
    try:
        if not request.cross_origin and is_overridden(client, "stream"):
            context = client.stream(**arguments, **_keep_url(client, request, options))
            response = await context.__aenter__()
        else:
            prepared = _build(client, request, arguments)
            response = await client.send(prepared, stream=True, **options)
    except Exception as error:
        return open_source(_recover(request, error))
    opened = open_source(response, one_member=request.one_member)
    if context is None:
        return opened
    close, leave = opened.close, context.__aexit__

    async def close_all() -> None:
        try:
            if close is not None:
                await close()
        finally:
            await leave(None, None, None)

    return opened._replace(close=close_all)


def _prepare(
    client: httpx.Client | httpx.AsyncClient,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arguments of `build_request` or `stream`, and the options of `send`."""
    module = sys.modules[library_class(client).__module__]
    # Values are bytes, because httpx refuses some str.
    headers = module.Headers([(name.encode(), value) for name, value in request.fields])
    arguments = {
        "method": request.method,
        "url": request.url,
        "headers": headers,
        "content": request.body,
        "timeout": module.Timeout(
            connect=connect_timeout, read=idle_timeout, write=idle_timeout, pool=connect_timeout
        ),
    }
    options: dict[str, Any] = {"follow_redirects": False}
    auth = client.auth
    if request.cross_origin:
        options["auth"] = None
    elif "NetRC" in type(auth).__name__:
        # netrc never replaces an Authorization of the caller.
        if "authorization" in headers or "authorization" in client.headers:
            options["auth"] = None
    elif auth is not None and not can_use_auth(auth, request):
        options["auth"] = None
    return arguments, options


def _build(client: Any, request: Request, arguments: dict[str, Any]) -> Any:
    """Return the request as httpx represents it; for another origin, without the client."""
    if not request.cross_origin:
        prepared = client.build_request(**arguments)
        if request.redirected:
            # The URL of a redirect is used as it is, without the parameters of the client.
            prepared.url = type(prepared.url)(request.url)
        return prepared
    if is_overridden(client, "send"):
        raise forbid_cross_origin(request, f"the method 'send' of {type(client).__name__}")
    if any(client.event_hooks.values()):
        raise forbid_cross_origin(request, "the event hooks of the client")
    cls = sys.modules[library_class(client).__module__].Request
    timeout = arguments.pop("timeout")
    return cls(**arguments, extensions={"timeout": timeout.as_dict()})


def _keep_url(client: Any, request: Request, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options for `stream`, with an auth that undoes the parameters of the client.

    httpx puts them in the place of the query of the URL, which a redirect has given.
    """
    if not request.redirected or not client.params:
        return options
    module: Any = sys.modules[library_class(client).__module__]
    auth = _make_auth_class(module.Auth)()
    auth.url, auth.inner = module.URL(request.url), options.get("auth", client.auth)
    return {**options, "auth": auth}


@lru_cache
def _make_auth_class(base: Any) -> Any:
    """Return a subclass of a library's Auth that sets the URL, and then applies another auth."""

    class RedirectAuth(base):  # type: ignore[misc]
        url: Any
        inner: Any

        def sync_auth_flow(self, request: Any) -> Iterator[Any]:
            request.url = self.url
            if self.inner is None:
                yield request
            else:
                yield from self.inner.sync_auth_flow(request)

        async def async_auth_flow(self, request: Any) -> AsyncIterator[Any]:
            request.url = self.url
            if self.inner is None:
                yield request
                return
            flow = self.inner.async_auth_flow(request)
            try:
                request = await anext(flow)
                while True:
                    request = await flow.asend((yield request))
            except StopAsyncIteration:
                pass
            finally:
                await flow.aclose()

    return RedirectAuth


def _recover(request: Request, error: Exception) -> Any:
    """Return the response that a hook of the user refused, or raise what the error means."""
    names = {cls.__name__ for cls in type(error).__mro__}
    found = find_response(error, _response_classes())
    if found is not None:
        return found
    if "InvalidURL" in names or "InvalidURL" in type(error.__context__).__name__:
        # httpx builds the next request of a redirect, even if it is not to follow it.
        raise SSEError(
            "The response redirects to a Location that httpx rejects, as it is not a valid URL"
        ) from error
    if names & {"LocalProtocolError", "UnsupportedProtocol"}:
        # httpx refuses the request.
        raise explain_refusal(request, error) from error
    # Under asyncio, httpx lets errors of TLS pass.
    if not names & {"TransportError", "SSLError"}:
        # An event hook or an auth of the user raised.
        raise error
    # No public attribute of a client tells its proxies.
    failure = wrap_connection_error(request.url, error, _UNSENT)
    if isinstance(failure, TransportError) and any(
        getattr(each, "error_code", None) == _REFUSED_STREAM for each in _details(error)
    ):
        failure.sent = False
    try:
        raise failure from error
    finally:
        # The traceback of the failure refers to this frame.
        del error, failure


def _response_classes() -> tuple[Any, ...]:
    """Return the classes of responses of the loaded libraries."""
    modules = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    return tuple(module.Response for module in modules)


def _details(error: Exception) -> list[Any]:
    return [detail for each in iter_exception_chain(error) for detail in each.args]
