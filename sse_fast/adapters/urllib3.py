"""Responses of urllib3, read by `read1`, which returns what has arrived.

`stream()` waits: for the rest of a chunk of a chunked body (whose first events would be lost if it
never came), for a full buffer on a body that the end of the connection ends; and it inflates a
compressed chunk to its whole size at once. On chunked bodies it takes 2 us a chunk less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sse_fast._stream import READ_SIZE, Headers, Response, Source, spent_body

if TYPE_CHECKING:
    import urllib3


def open_source(response: urllib3.HTTPResponse) -> Source:
    headers = Headers(response.headers.items())
    face = Response(response.status, headers, response.geturl() or "", response)
    if not response.closed or response.status == 204 or headers.get("content-length") == "0":
        return Source(_read_chunks(response), response.close, face)
    # Nothing public tells a body that was read into memory (as `preload_content=True` does by
    # default) from one that is gone.
    body = response._body
    return Source(spent_body() if body is None else (response.data,), None, face)


def _read_chunks(response: urllib3.HTTPResponse) -> Iterator[bytes]:
    if not hasattr(response, "read1"):
        # Before 2.2.
        yield from response.stream(READ_SIZE, decode_content=True)
        return
    while chunk := response.read1(READ_SIZE, decode_content=True):
        yield chunk
