"""Responses of httpx and httpx2, of sync and async clients, read by `iter_bytes()`.

Without a size, it returns each piece as it arrives, with its content coding undone. Both libraries
give up on a stream that is silent for 5 seconds unless `timeout=` says otherwise, for example
`httpx.Timeout(10, read=300)`. Under trio, they leave generators of an unfinished body to the
garbage collector, and trio warns about that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._source import (
    AsyncFailingChunks,
    FailingChunks,
    Headers,
    Response,
    Source,
    is_reusable,
)
from sse_fast._wake import make_waker, protect_read
from sse_fast.adapters._clients import iter_exception_chain, wrap_request_error

if TYPE_CHECKING:
    import httpx

    from sse_fast._request import Request

_UNSENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
_REFUSED_STREAM = 7
"""The HTTP/2 error code of a request that was not processed (RFC 9113, 8.7)."""


def open_source(original: httpx.Response) -> Source:
    """Return the source of a response of httpx or httpx2: async if its client is."""
    try:
        url = str(original.url)
    except RuntimeError:
        # A response that was made by hand belongs to no request.
        url = ""
    headers = Headers(original.headers.multi_items())
    response = Response(original.status_code, headers, url, original)
    # A body that was read is available as `content`. Otherwise each library raises an error of its
    # own, derived from RuntimeError.
    with suppress(RuntimeError):
        return Source((original.content,), None, response)
    wake = _make_guarded_waker(original)
    reusable = wake is not None and is_reusable(headers)
    reason = _why_unreadable(original)
    if isinstance(original.stream, Iterable):
        chunks = _iter_bytes(original) if reason is None else FailingChunks(reason)
        return Source(chunks, original.close, response, wake, reusable)
    achunks: Any = original.aiter_bytes() if reason is None else AsyncFailingChunks(reason)

    async def aclose() -> None:
        if reason is None:
            # The generator is closed first, because nothing would await its end later.
            await achunks.aclose()
        await original.aclose()

    return Source(achunks, aclose, response, wake, reusable)


def _iter_bytes(original: httpx.Response) -> Iterator[bytes]:
    """Return the chunks of the body; the client may be closed while a thread waits for one."""
    chunks = iter(original.iter_bytes())
    return iter(protect_read(_find_socket(original), lambda: next(chunks, None)), None)


def _why_unreadable(original: httpx.Response) -> str | None:
    # Both libraries return what they cannot decode as if it were not encoded.
    codings = original.headers.get_list("content-encoding", split_commas=True)
    decoder = original._get_content_decoder()
    decoders = [type(each).__name__ for each in getattr(decoder, "children", [decoder])]
    wanted = sum(coding.strip().lower() not in ("", "identity") for coding in codings)
    if wanted == sum(name != "IdentityDecoder" for name in decoders):
        return None
    return (
        f"{type(original).__module__} does not decode content coding {', '.join(codings)!r} here: "
        "install what it needs, or request 'Accept-Encoding: identity'"
    )


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
    prepared, options = _prepare(client, request, connect_timeout, idle_timeout)
    copy = _copy_client(client, request)
    try:
        response = copy.send(prepared, stream=True, follow_redirects=False, **options)
    except Exception as error:
        raise _failure(request, error) from error
    return open_source(response)


async def asend(
    client: httpx.AsyncClient,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Send a request of the client through an async client of httpx; see `send`."""
    prepared, options = _prepare(client, request, connect_timeout, idle_timeout)
    copy = _copy_client(client, request)
    try:
        response = await copy.send(prepared, stream=True, follow_redirects=False, **options)
    except Exception as error:
        raise _failure(request, error) from error
    return open_source(response)


def _prepare(
    client: httpx.Client | httpx.AsyncClient,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> tuple[httpx.Request, dict[str, Any]]:
    """Return the request as httpx represents it, and the options to send it with."""
    # Values are bytes, because httpx refuses some str.
    fields: Any = [(name.encode(), value) for name, value in request.fields]
    extensions = {
        "timeout": {
            "connect": connect_timeout,
            "read": idle_timeout,
            "write": idle_timeout,
            "pool": connect_timeout,
        }
    }
    prepared = client.build_request(
        request.method, request.url, headers=fields, content=request.body, extensions=extensions
    )
    if request.cross_origin:
        # Made without the client, so that nothing of the client is added.
        prepared = type(prepared)(
            request.method, request.url, headers=fields, content=request.body, extensions=extensions
        )
        return prepared, {"auth": None}
    if request.redirected:
        # The URL of a redirect is used as it is, without the parameters of the client.
        prepared.url = type(prepared.url)(request.url)
    authorized = any(name.lower() == "authorization" for name, _ in request.fields)
    by_client = "authorization" in prepared.headers and "NetRC" in type(client.auth).__name__
    return prepared, {"auth": None} if authorized or by_client else {}


def _copy_client(client: Any, request: Request) -> Any:
    """Return a shallow copy of the client that does not prepare redirects.

    httpx would raise for a redirect to a URL that it does not support, and withhold the response.
    For a request to another origin, the copy has no event hooks, which may add secrets.
    """
    copy = object.__new__(type(client))
    copy.__dict__.update(client.__dict__)
    copy._build_redirect_request = lambda request, response: request
    if request.cross_origin:
        copy.event_hooks = {}
    return copy


def _failure(request: Request, error: Exception) -> Exception:
    names = {cls.__name__ for cls in type(error).__mro__}
    if "TransportError" not in names or names & {"LocalProtocolError", "UnsupportedProtocol"}:
        # httpx refuses the request, or an event hook or an auth of the user raised.
        return error
    failure = wrap_request_error(request.url, error, _UNSENT)
    if any(getattr(each, "error_code", None) == _REFUSED_STREAM for each in _details(error)):
        failure.sent = False
    return failure


def _details(error: Exception) -> list[Any]:
    return [detail for each in iter_exception_chain(error) for detail in each.args]
