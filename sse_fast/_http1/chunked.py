"""The chunked transfer coding (RFC 9112, 7.1): httptools for speed, a lenient decoder after it."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

__all__ = ["MAX_FRAMING", "ChunkedBody", "FramingTooLargeError", "load_httptools"]

MAX_FRAMING = 64 * 1024
"""The most bytes of framing that are accepted in a row without a byte of the body."""

_HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
# A chunk size with white space around it, and any extension.
_SIZE_LINE = re.compile(rb"[ \t]*0*([0-9A-Fa-f]{1,15})[ \t\r]*(?:;.*)?\Z", re.DOTALL)
# The beginning of such a line.
_UNFINISHED_LINE = re.compile(rb"[ \t]*[0-9A-Fa-f]*(?:[ \t\r]*(?:;.*)?)\Z", re.DOTALL)


def load_httptools() -> Any:
    """Import httptools.

    Raises:
        ImportError: httptools is not installed; it comes with the extra `client`.
    """
    try:
        import httptools
    except ImportError:
        raise ImportError(
            "HTTP over raw sockets needs httptools, which is not installed: pip install "
            "'sse-fast[client]'"
        ) from None
    return httptools


class _Stop(Exception):
    """Raised by a callback to stop the parser at the end of the body."""


class FramingTooLargeError(Exception):
    """More framing than `MAX_FRAMING` came without a byte of the body; the text names it."""


class ChunkedBody:
    """The decoder of one chunked body.

    A server whose first chunk line httptools refuses, for example one that ends lines with LF, gets
    the lenient decoder for the whole body.

    Attributes:
        is_complete: whether the last chunk and the trailers were received.
        error: what is wrong with the framing, or None. The bytes before it were returned.
        unframed: the bytes received so far if not even the first chunk was valid.
    """

    def __init__(self) -> None:
        httptools = load_httptools()
        self.is_complete = False
        self.error: Exception | None = None
        self.unframed = b""
        self._lenient: _LenientDecoder | None = None
        # The raw bytes before the first byte of the body.
        self._beginning: bytes | None = b""
        self._framing_size = 0
        self._in_trailers = False
        self._pieces: list[bytes] = []
        # httptools finds its callbacks by name, once: this attribute and the methods on_*.
        self.on_body = self._pieces.append
        self._parser = httptools.HttpResponseParser(self)
        self._parser_error = httptools.HttpParserError
        self._parser.feed_data(_HEAD)
        # The fields to come are those of the trailers.
        self._in_trailers = False
        self._parser.set_dangerous_leniencies(
            lenient_spaces_after_chunk_size=True, lenient_optional_cr_before_lf=True
        )

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note that trailers have begun (httptools callback)."""
        self._in_trailers = True

    def on_message_complete(self) -> None:
        """Stop at the end of the body (httptools callback)."""
        self.is_complete = True
        # Otherwise the parser would read the bytes after it as another response.
        raise _Stop

    def feed(self, data: bytes | memoryview) -> bytes:
        """Return the bytes of the body in the next bytes of the connection."""
        if self._lenient is not None:
            body = self._feed_lenient(self._lenient, bytes(data))
        else:
            if self._beginning is not None:
                self._beginning += data
            try:
                self._parser.feed_data(data)
            except self._parser_error as error:
                # Bytes after the end of the body are ignored.
                if not self.is_complete:
                    self.error = error
            pieces = self._pieces
            body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
            pieces.clear()
            if self._beginning is not None:
                if body:
                    self._beginning = None
                elif self.error is not None:
                    body = self._start_again(self._beginning)
        if body:
            self._framing_size = 0
        else:
            self._framing_size += len(data)
            if self._framing_size > MAX_FRAMING and not self.is_complete and self.error is None:
                where = "trailers" if self._in_trailers else "chunk sizes and extensions"
                self.error = FramingTooLargeError(where)
        return body

    def _start_again(self, beginning: bytes) -> bytes:
        """Decode the body leniently from its first byte. Nothing of it was returned yet."""
        error, self.error = self.error, None
        self._beginning = None
        self._lenient = _LenientDecoder()
        body = self._feed_lenient(self._lenient, beginning)
        if self.error is not None:
            # httptools explains it better.
            self.error = error
            if not body:
                self.unframed = beginning
        return body

    def _feed_lenient(self, decoder: _LenientDecoder, data: bytes) -> bytes:
        try:
            decoder.feed(data)
        except ValueError as error:
            self.error = error
        self.is_complete = decoder.is_complete
        self._in_trailers = decoder.in_trailers
        return decoder.take()

    def end(self) -> bool:
        """Return whether the body is complete although the connection has ended.

        Some servers leave out the empty line after the last chunk.
        """
        if self._lenient is not None:
            self.is_complete = self._lenient.in_trailers
        elif self.error is None:
            # Only httptools knows whether the last chunk was received. If so, the rest of its line
            # and an empty line complete the body, and in any other state they do not.
            with suppress(self._parser_error):
                self._parser.feed_data(b"\n")
                self._parser.feed_data(b"\n")
        return self.is_complete


class _LenientDecoder:
    """A decoder that accepts what most clients do: any line end, any extension, white space.

    Attributes:
        in_trailers: whether the last chunk was received.
        is_complete: whether the empty line after the trailers was received.
    """

    def __init__(self) -> None:
        self.in_trailers = False
        self.is_complete = False
        self._buffer = b""
        # Bytes of the current chunk that are to come, and whether its line end is to come.
        self._left = 0
        self._in_chunk = False
        self._pieces: list[bytes] = []

    def take(self) -> bytes:
        """Return the body decoded since the last call."""
        body = b"".join(self._pieces)
        self._pieces.clear()
        return body

    def feed(self, data: bytes) -> None:
        """Decode the next bytes.

        Raises:
            ValueError: the bytes are no chunk.
        """
        data = self._buffer + data
        at = 0
        while at < len(data) and not self.is_complete:
            if self._left:
                piece = data[at : at + self._left]
                self._pieces.append(piece)
                self._left -= len(piece)
                at += len(piece)
                continue
            end = data.find(b"\n", at)
            if end < 0:
                self._check_unfinished(data[at:])
                break
            self._use_line(data[at:end].removesuffix(b"\r"))
            at = end + 1
        self._buffer = data[at:]

    def _check_unfinished(self, line: bytes) -> None:
        """Refuse a line before its end, which may never come."""
        if self._in_chunk and line != b"\r":
            raise ValueError("the data of a chunk do not end at its size")
        if not (self._in_chunk or self.in_trailers or _UNFINISHED_LINE.match(line)):
            raise ValueError("a chunk does not begin with its size")

    def _use_line(self, line: bytes) -> None:
        if self._in_chunk:
            if line:
                raise ValueError("the data of a chunk do not end at its size")
            self._in_chunk = False
        elif self.in_trailers:
            self.is_complete = not line
        else:
            match = _SIZE_LINE.match(line)
            if match is None:
                raise ValueError("a chunk does not begin with its size")
            self._left = int(match[1], 16)
            self._in_chunk = self._left > 0
            self.in_trailers = not self._in_chunk
