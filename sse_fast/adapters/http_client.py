"""Responses of http.client, which are those of urllib.request too.

Neither decodes a content coding, and `read1` takes a body that is too short for a whole one. They
wait for ever for a stream that is quiet, unless the connection has a `timeout`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from http.client import IncompleteRead
from typing import TYPE_CHECKING, Any

from sse_fast._source import READ_SIZE, FailingChunks, Headers, Response, Source
from sse_fast._wake import make_waker

if TYPE_CHECKING:
    import socket
    from http.client import HTTPResponse


def open_source(response: HTTPResponse) -> Source:
    # Only urllib.request sets the URL.
    url = getattr(response, "url", None) or ""
    face = Response(response.status, Headers(response.headers.items()), url, response)
    if response.isclosed() and response.status != 204 and face.headers.get("content-length") != "0":
        return Source(FailingChunks(), None, face)
    # Nothing public leads to the socket.
    sock: Any = getattr(getattr(response.fp, "raw", None), "_sock", None)
    wake = None if sock is None else _waker(response, sock)

    def close() -> bool:
        finished = response.length == 0 or (sock is not None and _take_end(response, sock))
        # The socket stays with the HTTPConnection, which has no use for it within a body.
        if wake is not None and not finished:
            with suppress(OSError):
                wake()
        response.close()
        return finished

    return Source(_chunks(response), close, face, wake)


def _take_end(response: HTTPResponse, sock: socket.socket) -> bool:
    """Whether the rest of a chunked body has arrived up to its end: it is read."""
    body: Any = response
    if not body.chunked or body.isclosed():
        return False
    timeout = sock.gettimeout()
    try:
        sock.settimeout(0)
        rest = body.fp.peek()
        if rest == b"\r\n" and body.chunk_left == 0:
            # The end of the chunk: what follows it is not in the buffer.
            body.fp.read(2)
            body.chunk_left = None
            rest = body.fp.peek()
        if _is_rest(rest, body.chunk_left):
            body.read()
            return True
    except Exception:
        # Also what TLS raises where nothing has arrived.
        return False
    finally:
        with suppress(OSError):
            sock.settimeout(timeout)
    return False


def _is_rest(data: bytes, left: int | None) -> bool:
    """Whether that is all the rest of a chunked body (RFC 9112, 7.1), and no more. `left` is how
    much there is to come of the present chunk; None: it begins with another.
    """
    at = 0
    while left != 0 or at == 0:
        if left is not None:
            if data[at + left : at + left + 2] != b"\r\n":
                return False
            at += left + 2
        end = data.find(b"\r\n", at)
        if end < 0:
            return False
        left = int(data[at:end].partition(b";")[0], 16)
        at = end + 2
    return data[at:] == b"\r\n"


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    if response.length == 0:
        return iter(())
    coding = response.headers.get("content-encoding") or "identity"
    if coding.lower() != "identity":
        return FailingChunks(
            f"Expected a body without content coding, got {coding!r}, which http.client does not "
            "decode: ask for 'Accept-Encoding: identity', or hand over a decoding file"
        )
    if response.length is None:
        # Chunked, or up to the end of the connection. No generator, as it is called for each chunk,
        # and for the same reason past read1(), which only chooses (5 % of a chunk).
        chunked = getattr(response, "_read1_chunked", None) if response.chunked else None
        return iter(partial(chunked or response.read1, READ_SIZE), b"")
    return _read_length(response, response.length)


def _read_length(response: HTTPResponse, remaining: int) -> Iterator[bytes]:
    # Counted here: not every version of read1() counts.
    while remaining > 0:
        chunk = response.read1(min(remaining, READ_SIZE))
        if not chunk:
            # http.client's own error for it, which read() raises.
            raise IncompleteRead(b"", remaining)
        remaining -= len(chunk)
        response.length = remaining
        yield chunk
    # What the versions that do not count leave open.
    response.close()


def _waker(response: HTTPResponse, sock: socket.socket) -> Callable[[], object]:
    shut_down = make_waker(sock)

    def wake() -> None:
        # Else the connection may carry another response by now.
        if not response.isclosed():
            shut_down()

    return wake
