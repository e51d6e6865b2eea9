"""Responses of requests: those of `stream=True` are read through the urllib3 response below.

A stream may be quiet for ever, unless `timeout=` says otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sse_fast._source import Headers, Response, Source, Unreadable
from sse_fast.adapters import open_source as open_below

if TYPE_CHECKING:
    import requests


def open_source(response: requests.Response) -> Source:
    face = Response(
        response.status_code, Headers(response.headers.items()), response.url or "", response
    )
    # Nothing public tells whether the body was read; `content` would read it to its end.
    if response._content is not False:
        return Source((response.content or b"",), None, face)
    if response._content_consumed:
        return Source(Unreadable(), None, face)
    below = open_below(response.raw)
    return below._replace(close=response.close, response=face)
