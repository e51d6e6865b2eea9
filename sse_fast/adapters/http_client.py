"""Responses of http.client, which urllib.request returns too.

They are read by `read1`, which returns what has arrived. http.client decodes no content coding, and
takes a truncated body of known length for a whole one, so both are checked here. It waits forever
for a silent stream unless the connection has a `timeout`.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any

from sse_fast._source import READ_SIZE, FailingChunks, Headers, Response, Source, is_reusable
from sse_fast._wake import make_waker

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from http.client import HTTPResponse


def open_source(raw: HTTPResponse) -> Source:
    """Return the source of a response of http.client."""
    # Only urllib.request sets the URL.
    url = getattr(raw, "url", None) or ""
    response = Response(raw.status, Headers(raw.headers.items()), url, raw)
    headers = response.headers
    if raw.isclosed() and raw.status != 204 and headers.get("content-length") != "0":
        return Source(FailingChunks(), None, response)
    # No public attribute leads to the socket.
    sock: Any = getattr(getattr(raw.fp, "raw", None), "_sock", None)
    wake = None if sock is None else _make_guarded_waker(raw, sock)

    def close() -> bool:
        is_finished = raw.isclosed() or raw.length == 0
        # The socket stays with the HTTPConnection, which cannot use it in the middle of a body.
        if wake is not None and not is_finished:
            with suppress(OSError):
                wake()
        raw.close()
        return is_finished

    return Source(_iter_chunks(raw), close, response, wake, is_reusable(headers))


def _iter_chunks(raw: HTTPResponse) -> Iterator[bytes]:
    if raw.length == 0:
        return iter(())
    coding = raw.headers.get("content-encoding") or "identity"
    if coding.lower() != "identity":
        return FailingChunks(
            f"http.client does not decode content coding {coding!r}: request "
            "'Accept-Encoding: identity', or pass a file that decodes the body"
        )
    if raw.length is None:
        # A chunked body, or one that the end of the connection ends.
        return iter(partial(raw.read1, READ_SIZE), b"")
    return _read_length(raw, raw.length)


def _read_length(raw: HTTPResponse, remaining: int) -> Iterator[bytes]:
    # The bytes are counted here, because not every version of read1() counts them.
    while remaining > 0:
        chunk = raw.read1(min(remaining, READ_SIZE))
        if not chunk:
            # The error that read() raises for a truncated body.
            raise IncompleteRead(b"", remaining)
        remaining -= len(chunk)
        raw.length = remaining
        yield chunk
    # Versions of read1() that do not count leave the response open.
    raw.close()


def _make_guarded_waker(raw: HTTPResponse, sock: socket.socket) -> Callable[[], object]:
    shut_down = make_waker(sock)

    def wake() -> None:
        # After the end of the body, the connection may already carry another response.
        if not raw.isclosed():
            shut_down()

    return wake
