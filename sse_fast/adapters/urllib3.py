"""Responses of urllib3, read by `read1`, which returns what has arrived.

`stream()` waits: for the rest of a chunk of a chunked body (whose first events would be lost if it
never came), for a full buffer on a body that the end of the connection ends; and it inflates a
compressed chunk to its whole size at once. A stream may be quiet for ever, unless `timeout=` says
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, cast

from sse_fast._source import READ_SIZE, FailingChunks, Headers, Response, Source
from sse_fast.adapters._clients import wrap_request_error
from sse_fast.adapters._registry import open_source as open_raw

if TYPE_CHECKING:
    import urllib3

    from sse_fast._request import Request

_UNSENT = {
    "ConnectTimeoutError",
    "EmptyPoolError",
    "NewConnectionError",
    "SSLCertVerificationError",
}
_SMALL = 4096
"""Bytes: where nothing bounds what a compressed chunk is inflated to, take a small one."""


def open_source(response: urllib3.HTTPResponse) -> Source:
    headers = Headers(response.headers.items())
    face = Response(response.status, headers, response.geturl() or "", response)
    if response.closed and response.status != 204 and headers.get("content-length") != "0":
        # Nothing public tells a body that was read into memory (as `preload_content=True` does by
        # default) from one that is gone.
        body = response._body
        return Source(FailingChunks() if body is None else (response.data,), None, face)
    # Some tests put a file there.
    below = getattr(response, "_fp", None)
    opened = open_raw(below) if isinstance(below, HTTPResponse) else Source(())
    coding = (headers.get("content-encoding") or "identity").lower()
    if coding != "identity" or not isinstance(below, HTTPResponse):
        chunks = _decoded(response, coding)
    else:
        chunks = _from_below(response, below, cast("Iterator[bytes]", opened.chunks))
    close_below, shut_down = opened.close, opened.wake

    def close() -> None:
        if close_below is None or not close_below():
            response.close()
        # Also one that is closed: a pool may wait for it, and opens it again.
        response.release_conn()
        response.close()

    if shut_down is None:
        return Source(chunks, close, face)

    def wake() -> None:
        # Else the connection may carry another response by now.
        if response.connection is not None:
            shut_down()

    return Source(chunks, close, face, wake)


def _decoded(response: urllib3.HTTPResponse, coding: str) -> Iterator[bytes]:
    unknown = {each.strip() for each in coding.split(",")} - {
        "identity",
        *response.CONTENT_DECODERS,
    }
    if unknown:
        return FailingChunks(
            f"Expected a content coding that urllib3 decodes here, got {coding!r}: install what it "
            "needs, or ask for 'Accept-Encoding: identity'"
        )
    if hasattr(response, "read1"):
        return iter(partial(response.read1, READ_SIZE, decode_content=True), b"")
    # Before 2.2. Its stream() would wait for full buffers.
    response._init_decoder()
    below: Any = response._fp
    decode = partial(response._decode, decode_content=True, flush_decoder=False)
    return map(decode, iter(partial(below.read1, _SMALL), b""))


def _from_below(
    response: urllib3.HTTPResponse, below: HTTPResponse, chunks: Iterator[bytes]
) -> Iterator[bytes]:
    """At a third of what read1() of urllib3 costs, and with every version of it."""
    try:
        yield from chunks
    except Exception:
        # What urllib3 makes of it is what its users know.
        with getattr(response, "_error_catcher", nullcontext)():
            raise
    # The connection is free for the next request.
    below.close()
    response.release_conn()


def send(
    pool: urllib3.PoolManager,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    import urllib3

    # Those of one name as one field, whatever its case.
    headers: dict[str, tuple[str, Any]] = {}
    if not request.cross_origin:
        headers = {name.lower(): (name, value) for name, value in pool.headers.items()}
    own: dict[str, tuple[str, Any]] = {}
    for name, value in request.fields:
        before = own.get(name.lower())
        own[name.lower()] = (name, value if before is None else before[1] + b", " + value)
    try:
        response: Any = pool.urlopen(
            request.method,
            request.url,
            body=request.body,
            headers=dict({**headers, **own}.values()),
            redirect=False,
            retries=False,
            preload_content=False,
            pool_timeout=connect_timeout,
            timeout=urllib3.Timeout(connect=connect_timeout, read=idle_timeout),
        )
    except urllib3.exceptions.LocationValueError:
        # A URL that it does not ask.
        raise
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise wrap_request_error(request.url, error, _UNSENT) from error
    opened = open_source(response)
    if opened.response is not None:
        # It knows the path only.
        opened.response.url = request.url
    return opened
