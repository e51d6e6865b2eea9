"""Responses of urllib3, read by `read1`, which returns what has arrived.

`stream()` would wait for whole chunks or full buffers, and decompress a chunk in one piece. An
uncompressed body is read from the http.client response inside, at a third of the cost. A silent
stream is waited for without limit unless `timeout=` sets one.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from http.client import HTTPResponse
from typing import TYPE_CHECKING, Any, cast

from sse_fast._source import READ_SIZE, FailingChunks, Headers, Response, Source
from sse_fast.adapters._clients import wrap_request_error
from sse_fast.adapters._registry import open_source as open_raw

if TYPE_CHECKING:
    from collections.abc import Iterator

    import urllib3

    from sse_fast._request import Request

_UNSENT = {
    "ConnectTimeoutError",
    "EmptyPoolError",
    "NewConnectionError",
    "SSLCertVerificationError",
}


def open_source(original: urllib3.HTTPResponse) -> Source:
    """Return the source of a response of urllib3."""
    headers = Headers(original.headers.items())
    response = Response(original.status, headers, original.geturl() or "", original)
    if original.closed and original.status != 204 and headers.get("content-length") != "0":
        # No public attribute tells a body that was read into memory, as `preload_content=True` does
        # by default, from one that was consumed.
        body = original._body
        return Source(FailingChunks() if body is None else (original.data,), None, response)
    # Some tests put a file in the place of the http.client response.
    raw = getattr(original, "_fp", None)
    opened = open_raw(raw) if isinstance(raw, HTTPResponse) else Source(())
    coding = (headers.get("content-encoding") or "identity").lower()
    if coding != "identity" or not isinstance(raw, HTTPResponse):
        chunks = _iter_decoded(original, coding)
    else:
        chunks = _iter_raw(original, raw, cast("Iterator[bytes]", opened.chunks))
    close_raw, shut_down = opened.close, opened.wake

    def close() -> None:
        is_finished = close_raw is not None and close_raw()
        if not is_finished:
            original.close()
        # A closed connection goes back too: a pool may be waiting for it, and reopens it.
        original.release_conn()
        original.close()

    if shut_down is None:
        return Source(chunks, close, response)

    def wake() -> None:
        # After the end of the body, the connection may already carry another response.
        if original.connection is not None:
            shut_down()

    return Source(chunks, close, response, wake, opened.reusable)


def _iter_decoded(original: urllib3.HTTPResponse, coding: str) -> Iterator[bytes]:
    known = {"identity", *original.CONTENT_DECODERS}
    if {each.strip() for each in coding.split(",")} - known:
        return FailingChunks(
            f"urllib3 does not decode content coding {coding!r} here: install what it needs, or "
            "request 'Accept-Encoding: identity'"
        )
    return iter(partial(original.read1, READ_SIZE, decode_content=True), b"")


def _iter_raw(
    original: urllib3.HTTPResponse, raw: HTTPResponse, chunks: Iterator[bytes]
) -> Iterator[bytes]:
    try:
        yield from chunks
    except Exception:
        # Users know the errors that urllib3 makes of those of http.client.
        with getattr(original, "_error_catcher", nullcontext)():
            raise
    # The connection is free for the next request.
    raw.close()
    original.release_conn()


def send(
    pool: urllib3.PoolManager,
    request: Request,
    connect_timeout: float | None,
    idle_timeout: float | None,
) -> Source:
    """Send a request of the client through a pool manager, without retries or redirects.

    Raises:
        TransportError: no response came.
        urllib3.exceptions.LocationValueError: urllib3 refuses the URL.
    """
    import urllib3

    # Repeated fields are joined, whatever the case of their names.
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
        # urllib3 refuses this URL.
        raise
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise wrap_request_error(request.url, error, _UNSENT) from error
    opened = open_source(response)
    if opened.response is not None:
        # urllib3 knows only the path.
        opened.response.url = request.url
    return opened
