"""Responses of httpx and httpx2, of sync and async clients.

`iter_bytes()` without a size gives each piece as it arrives and undoes the content coding. Both
libraries give up on a stream that is quiet for 5 seconds, unless `timeout=` says otherwise: for
example `httpx.Timeout(10, read=300)`. Under trio, they leave inner generators of a stream that was
not read to its end to the garbage collector, of which trio warns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._source import Headers, Response, Source, Unreadable
from sse_fast.adapters import waker

if TYPE_CHECKING:
    import httpx


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
    wake, limit_reads = _waker(response), _limiter(response)
    unreadable = _look_at_coding(response)
    if isinstance(response.stream, Iterable):
        chunks = unreadable or response.iter_bytes()
        return Source(chunks, response.close, face, wake, limit_reads)
    achunks: Any = unreadable or response.aiter_bytes()

    async def aclose() -> None:
        if not unreadable:
            # First the generator, as nothing would await the end of it later.
            await achunks.aclose()
        await response.aclose()

    return Source(achunks, aclose, face, wake, limit_reads)


def _look_at_coding(response: httpx.Response) -> Unreadable | None:
    # Both libraries would hand over what they cannot decode as if it were not coded.
    coding = (response.headers.get("content-encoding") or "identity").lower()
    if coding == "identity" or type(response._get_content_decoder()).__name__ != "IdentityDecoder":
        return None
    return Unreadable(
        f"Expected a content coding that {type(response).__module__} decodes here, got "
        f"{coding!r}: install what it needs, or ask for 'Accept-Encoding: identity'"
    )


def _waker(response: httpx.Response) -> Callable[[], object] | None:
    # Responses of HTTP/2 share a connection: to shut it down would end its siblings.
    stream = response.extensions.get("network_stream")
    if stream is None or not response.http_version.startswith("HTTP/1"):
        return None
    sock: Any = stream.get_extra_info("socket")
    return None if sock is None else waker(sock)


def _limiter(response: httpx.Response) -> Callable[[float], object]:
    def limit_reads(seconds: float) -> None:
        # httpcore looks here at each read of HTTP/2, and before the first one of HTTP/1.1.
        timeouts = response.request.extensions.setdefault("timeout", {})
        timeouts["read"] = min(seconds, timeouts.get("read") or seconds)

    return limit_reads
