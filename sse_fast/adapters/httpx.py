"""Responses of httpx and httpx2, of sync and async clients.

`iter_bytes()` without a size gives each piece as it arrives and undoes the content coding. Both
libraries give up on a stream that is quiet for 5 seconds, unless `timeout=` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sse_fast._stream import Headers, Response, Source

if TYPE_CHECKING:
    import httpx


def open_source(response: httpx.Response) -> Source:
    try:
        url = str(response.url)
    except RuntimeError:
        # A response that was made by hand belongs to no request.
        url = ""
    face = Response(response.status_code, Headers(response.headers.multi_items()), url, response)
    try:
        content = response.content
    except RuntimeError:
        # ResponseNotRead, which httpx and httpx2 each have for themselves.
        if isinstance(response.stream, Iterable):
            return Source(response.iter_bytes(), response.close, face)
        chunks = response.aiter_bytes()

        async def aclose() -> None:
            # First the generator, as nothing would await the end of it later.
            await chunks.aclose()  # type: ignore[attr-defined]
            await response.aclose()

        return Source(chunks, aclose, face)
    return Source((content,), None, face)
