"""Responses of http.client, which are those of urllib.request too.

Neither decodes a content coding, and `read1` takes a body that is too short for a whole one.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.client import IncompleteRead
from typing import TYPE_CHECKING

from sse_fast._errors import TransportError
from sse_fast._stream import READ_SIZE, Headers, Response, Source, spent_body

if TYPE_CHECKING:
    from http.client import HTTPResponse


def open_source(response: HTTPResponse) -> Source:
    # Only urllib.request sets the URL.
    url = getattr(response, "url", None) or ""
    face = Response(response.status, Headers(response.headers.items()), url, response)
    if response.isclosed() and response.status != 204 and face.headers.get("content-length") != "0":
        return Source(spent_body(), None, face)
    return Source(_read_chunks(response), response.close, face)


def _read_chunks(response: HTTPResponse) -> Iterator[bytes]:
    coding = response.headers.get("content-encoding", "identity")
    if coding.lower() != "identity":
        raise TransportError(
            f"Expected a body without content coding, got {coding!r}, which http.client does not "
            "decode: ask for 'Accept-Encoding: identity', or hand over a decoding file"
        )
    # Counted here: not every version of read1() counts. None: chunked, or up to the end.
    remaining = response.length
    while remaining is None or remaining > 0:
        chunk = response.read1(READ_SIZE if remaining is None else min(remaining, READ_SIZE))
        if not chunk:
            break
        yield chunk
        if remaining is not None:
            remaining -= len(chunk)
    if remaining:
        # http.client's own error for it, which read() raises.
        raise IncompleteRead(b"", remaining)
