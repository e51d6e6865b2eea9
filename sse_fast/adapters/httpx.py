"""Responses of httpx and httpx2, of sync and async clients.

`iter_bytes()` without a size gives each piece as it arrives and undoes the content coding. Both
libraries give up on a stream that is quiet for 5 seconds, unless `timeout=` says otherwise: for
example `httpx.Timeout(10, read=300)`. Under trio, they leave inner generators of a stream that was
not read to its end to the garbage collector, of which trio warns.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._source import (
    READ_SIZE,
    AsyncFailingChunks,
    FailingChunks,
    Headers,
    Response,
    Source,
)
from sse_fast._wake import make_waker
from sse_fast.adapters._clients import iter_exception_chain, wrap_request_error

if TYPE_CHECKING:
    import httpx

    from sse_fast._request import Request

_UNSENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError"}
_LAST_CHUNK = re.compile(rb"(?:\r\n)?0+\r\n\r\n")
"""The end of a chunked body behind the data of a chunk (RFC 9112, 7.1), without trailers."""
_REFUSED_STREAM = 7
"""The error code of HTTP/2 for a request that was not looked at (RFC 9113, 8.7)."""


def open_source(response: httpx.Response) -> Source:
    try:
        url = str(response.url)
    except RuntimeError:
        # A response that was made by hand belongs to no request.
        url = ""
    face = Response(response.status_code, Headers(response.headers.multi_items()), url, response)
    # Nothing public tells whether the body was read, but for an error of its own that each of the
    # two libraries has (ResponseNotRead, a RuntimeError).
    with suppress(RuntimeError):
        return Source((response.content,), None, face)
    wake = _waker(response)
    reason = _why_unreadable(response)
    if isinstance(response.stream, Iterable):
        chunks = response.iter_bytes() if reason is None else FailingChunks(reason)

        def close() -> None:
            _take_end(response)
            response.close()

        return Source(chunks, close, face, wake)
    achunks: Any = response.aiter_bytes() if reason is None else AsyncFailingChunks(reason)

    async def aclose() -> None:
        _take_end(response)
        if reason is None:
            # First the generator, as nothing would await the end of it later.
            await achunks.aclose()
        await response.aclose()

    return Source(achunks, aclose, face, wake)


def _why_unreadable(response: httpx.Response) -> str | None:
    # Both libraries hand over what they cannot decode as if it were not coded.
    codings = response.headers.get_list("content-encoding", split_commas=True)
    decoder = response._get_content_decoder()
    decoders = [type(each).__name__ for each in getattr(decoder, "children", [decoder])]
    wanted = sum(coding.strip().lower() not in ("", "identity") for coding in codings)
    if wanted == sum(name != "IdentityDecoder" for name in decoders):
        return None
    return (
        f"Expected a content coding that {type(response).__module__} decodes here, got "
        f"{', '.join(codings)!r}: install what it needs, or ask for 'Accept-Encoding: identity'"
    )


def _take_end(response: Any) -> None:
    """Where nothing is left of the body but its end, and that has arrived, the connection is to be
    used again. Nothing public tells, so that this does no more than it can.
    """
    with suppress(Exception):
        below = response.stream._stream._httpcore_stream._stream._connection._h11_state
        if _is_at_end(below):
            return
        sock = response.extensions["network_stream"].get_extra_info("socket")
        with socket.socket(fileno=os.dup(sock.fileno())) as twin:
            rest = twin.recv(READ_SIZE, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            if _LAST_CHUNK.fullmatch(rest):
                below.receive_data(twin.recv(len(rest), socket.MSG_DONTWAIT))
                _is_at_end(below)


def _is_at_end(below: Any) -> bool:
    """Look at what has been received, without waiting for more."""
    while True:
        name = type(below.next_event()).__name__
        if name != "Data":
            return name == "EndOfMessage"


def _waker(response: httpx.Response) -> Callable[[], object] | None:
    # Responses of HTTP/2 share a connection: to shut it down would end its siblings.
    stream = response.extensions.get("network_stream")
    if stream is None or not response.http_version.startswith("HTTP/1"):
        return None
    sock: Any = stream.get_extra_info("socket")
    if sock is None:
        return None
    shut_down = make_waker(sock)

    def wake() -> None:
        # Else the connection may carry another response by now.
        if not response.is_closed:
            shut_down()

    return wake


def send(
    client: httpx.Client,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    prepared, options = _prepare(client, request, connect_timeout, idle_timeout)
    twin = _twin(client, request)
    try:
        response = twin.send(prepared, stream=True, follow_redirects=False, **options)
    except Exception as error:
        raise _failure(request, error) from error
    return open_source(response)


async def asend(
    client: httpx.AsyncClient,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    prepared, options = _prepare(client, request, connect_timeout, idle_timeout)
    twin = _twin(client, request)
    try:
        response = await twin.send(prepared, stream=True, follow_redirects=False, **options)
    except Exception as error:
        raise _failure(request, error) from error
    return open_source(response)


def _prepare(
    client: httpx.Client | httpx.AsyncClient,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> tuple[httpx.Request, dict[str, Any]]:
    """The request as httpx knows it, and how to send it."""
    # Bytes, as it refuses some values of str.
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
        # Without anything of the client's, but of the same module.
        prepared = type(prepared)(
            request.method, request.url, headers=fields, content=request.body, extensions=extensions
        )
        return prepared, {"auth": None}
    if request.redirected:
        # Without the parameters of the client.
        prepared.url = type(prepared.url)(request.url)
    authorized = any(name.lower() == "authorization" for name, _ in request.fields)
    by_client = "authorization" in prepared.headers and "NetRC" in type(client.auth).__name__
    return prepared, {"auth": None} if authorized or by_client else {}


def _twin(client: Any, request: Request) -> Any:
    """One that shares all with the client, but does not prepare for where a redirect leads (httpx
    fails at a place that it cannot ask, before it shows the response), nor gives a request to
    another origin to the client's hooks, which may add what is secret.
    """
    twin = object.__new__(type(client))
    twin.__dict__.update(client.__dict__)
    twin._build_redirect_request = lambda request, response: request
    if request.cross_origin:
        twin.event_hooks = {}
    return twin


def _failure(request: Request, error: Exception) -> Exception:
    names = {cls.__name__ for cls in type(error).__mro__}
    if "TransportError" not in names or names & {"LocalProtocolError", "UnsupportedProtocol"}:
        # What it does not send, or what an event hook or an auth of the user's has raised.
        return error
    failure = wrap_request_error(request.url, error, _UNSENT)
    if any(getattr(each, "error_code", None) == _REFUSED_STREAM for each in _details(error)):
        failure.sent = False
    return failure


def _details(error: Exception) -> list[Any]:
    return [detail for each in iter_exception_chain(error) for detail in each.args]
