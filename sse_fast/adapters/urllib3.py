"""Responses of urllib3, read by `read1`, which returns what has arrived.

`stream()` waits: for the rest of a chunk of a chunked body (whose first events would be lost if it
never came), for a full buffer on a body that the end of the connection ends; and it inflates a
compressed chunk to its whole size at once. On chunked bodies it takes 2 us a chunk less.
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
    if not hasattr(response, "read1"):
        # Before 2.1 there is nothing better.
        yield from response.stream(_READ_SIZE, decode_content=True)
        return
    while chunk := response.read1(_READ_SIZE, decode_content=True):
        yield chunk
