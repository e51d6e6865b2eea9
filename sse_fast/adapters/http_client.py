"""Responses of http.client, which urllib.request returns too, and stand-ins for them.

They are read by `read1`, which returns what has arrived. http.client decodes no content coding, and
takes a truncated body of known length for a whole one, so both is done here. It waits forever for a
silent stream unless the connection has a `timeout`.

Cassettes and fakes put subclasses in the place of a response, or files without `read1` in the place
of its socket. They may lack any attribute.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.client import HTTPResponse, IncompleteRead
from typing import TYPE_CHECKING, Any

from sse_fast._http1.decoding import make_decoder
from sse_fast._source import READ_SIZE, FailingChunks, Headers, Response, Source, is_reusable
from sse_fast._wake import make_waker

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from urllib.response import addinfourl

    from sse_fast._http1.decoding import Decoder


def open_source(raw: HTTPResponse) -> Source:
    """Return the source of a response of http.client."""
    # Only urllib.request sets the URL.
    url = getattr(raw, "url", None) or ""
    fields = getattr(raw, "headers", None) or getattr(raw, "msg", None) or {}
    headers = Headers(fields.items())
    response = Response(raw.status, headers, url, raw)
    if _is_closed(raw) and raw.status != 204 and headers.get("content-length") != "0":
        return Source(FailingChunks(), None, response)
    # No public attribute leads to the socket.
    fp = getattr(raw, "fp", None)
    sock: Any = getattr(getattr(fp, "raw", None), "_sock", None)
    wake = None if sock is None else _make_guarded_waker(raw, sock)

    def close() -> bool:
        is_finished = _is_closed(raw) or _get_length(raw) == 0
        # The socket stays with the HTTPConnection, which cannot use it in the middle of a body.
        if wake is not None and not is_finished:
            with suppress(OSError):
                wake()
        raw.close()
        return is_finished

    length = _get_length(raw)
    framed = length is not None or bool(getattr(raw, "chunked", False))
    chunks = _iter_chunks(raw, length)
    decoder = make_decoder(headers.get("content-encoding", ""))
    if decoder is not None:
        chunks = _Decoded(chunks, decoder)
    return Source(chunks, close, response, wake, is_reusable(headers), framed, cut_heads=not framed)


def open_inner(raw: addinfourl) -> Source | addinfourl:
    """Return the source of the response that an error of urllib.request holds.

    Without one, for example from a `data:` URL, it is a file.
    """
    return open_source(raw.fp) if isinstance(raw.fp, HTTPResponse) else raw


def _is_closed(raw: HTTPResponse) -> bool:
    # The flag of a stand-in without a file says nothing: it is a constant in some.
    is_closed = getattr(raw, "isclosed", None)
    return bool(is_closed()) if callable(is_closed) and _reads_itself(raw) else False


def _get_length(raw: HTTPResponse) -> int | None:
    """Return the number of bytes that are left, or None if http.client does not know it."""
    length: Any = getattr(raw, "length", None)
    return length if isinstance(length, int) and _reads_itself(raw) else None


def _reads_itself(raw: HTTPResponse) -> bool:
    """Return whether the methods of http.client read the body, and not those of a subclass."""
    return _find_override(raw, "read1", "read") is None


def _find_override(raw: Any, *names: str) -> str | None:
    """Return the first of the methods that a stand-in replaced, as late as it replaced any."""
    own: dict[str, Any] = getattr(raw, "__dict__", {})
    for name in names:
        if name in own:
            return name
    for cls in type(raw).__mro__:
        if cls is HTTPResponse:
            break
        for name in names:
            if name in vars(cls):
                return name
    return None


def _iter_chunks(raw: HTTPResponse, length: int | None) -> Iterator[bytes]:
    if length == 0:
        return iter(())
    override = _find_override(raw, "read1", "read")
    if override == "read":
        # Its read1() would be that of http.client, which finds nothing.
        method = _find_override(raw, "readline")
        return iter(partial(raw.readline, READ_SIZE) if method else partial(raw.read, 1), b"")
    fp = getattr(raw, "fp", None)
    if override is None and not callable(getattr(fp, "read1", None)):
        # A fake without read1(), on which the read1() of http.client depends. One byte at a time
        # returns what has arrived.
        return iter(partial(raw.read, 1), b"")
    if length is None:
        # A chunked body, or one that the end of the connection ends.
        return iter(partial(raw.read1, READ_SIZE), b"")
    return _read_length(raw, length)


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


class _Decoded(Iterator[bytes]):
    """Chunks with their content coding undone."""

    def __init__(self, chunks: Iterator[bytes], decoder: Decoder) -> None:
        self._chunks = chunks
        self._decoder = decoder
        self._pieces: Iterator[bytes] = iter(())

    def __next__(self) -> bytes:
        while True:
            for piece in self._pieces:
                if piece:
                    return piece
            try:
                chunk = next(self._chunks)
            except StopIteration:
                self._decoder.check_end()
                raise
            self._pieces = self._decoder.decode(chunk)


def _make_guarded_waker(raw: HTTPResponse, sock: socket.socket) -> Callable[[], object]:
    shut_down = make_waker(sock)

    def wake() -> None:
        # After the end of the body, the connection may already carry another response.
        if not _is_closed(raw):
            shut_down()

    return wake
