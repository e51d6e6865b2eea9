"""Responses of http.client, which are those of urllib.request too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sse_fast._stream import Headers, Response, Source

if TYPE_CHECKING:
    from http.client import HTTPResponse

_READ_SIZE = 64 * 1024


def open_source(response: HTTPResponse) -> Source:
    # Only urllib.request sets the URL.
    url = getattr(response, "url", None) or ""
    face = Response(response.status, Headers(response.headers.items()), url, response)
    return Source(_read_chunks(response), response.close, face)


def _read_chunks(response: HTTPResponse) -> Iterator[bytes]:
    while chunk := response.read1(_READ_SIZE):
        yield chunk
