"""Responses of urllib3.

Chunks of a chunked body come one by one out of `stream()`. Anything else is read by `read1`,
which returns what has arrived: `stream()` would wait for a full buffer on a body that the end of
the connection ends, and would inflate a compressed chunk to its whole size at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sse_fast._stream import Headers, Response, Source

if TYPE_CHECKING:
    import urllib3

_READ_SIZE = 64 * 1024


def open_source(response: urllib3.HTTPResponse) -> Source:
    face = Response(
        response.status, Headers(response.headers.items()), response.url or "", response
    )
    if response.closed:
        # Read already, which `preload_content=True` does by default.
        return Source((response.data or b"",), None, face)
    return Source(_read_chunks(response), response.close, face)


def _read_chunks(response: urllib3.HTTPResponse) -> Iterator[bytes]:
    coded = response.headers.get("content-encoding", "identity") != "identity"
    # Not in urllib3 before 2.1.
    read1 = getattr(response, "read1", None)
    if read1 is None or (response.chunked and not coded):
        yield from response.stream(_READ_SIZE, decode_content=True)
        return
    while chunk := read1(_READ_SIZE, decode_content=True):
        yield chunk
