"""The chunked transfer coding (RFC 9112, 7.1): three decoders, each for what the last refuses.

The compiled one reads ordinary chunks. httptools reads whatever is unusual, also the last chunk and
the trailers. The lenient one reads bodies whose first chunk httptools refuses.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._core.parser import ACCELERATED

if TYPE_CHECKING:
    from typing import Protocol

    class ChunkDecoder(Protocol):
        """The compiled decoder of ordinary chunks."""

        rest: int
        has_body: bool
        framing: int

        def copy(self, data: bytes | memoryview, size: int) -> bytes: ...
        def take(self, buffer: memoryview, size: int) -> bytes | memoryview: ...
        def stop(self) -> bytes: ...

    def _make_decoder() -> ChunkDecoder | None: ...

elif ACCELERATED:
    from sse_fast._http1._chunked_c import ChunkDecoder

    _make_decoder = ChunkDecoder
else:

    def _make_decoder() -> None:
        """Leave every chunk to httptools."""


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


class _Callbacks:
    """The callbacks of httptools, which finds them by name, once. They refer to no parser."""

    __slots__ = ("in_trailers", "is_complete", "on_body", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.on_body = self.pieces.append
        self.in_trailers = False
        self.is_complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note that trailers have begun."""
        self.in_trailers = True

    def on_message_complete(self) -> None:
        """Stop at the end of the body."""
        self.is_complete = True
        # Otherwise the parser would read the bytes after it as another response.
        raise _Stop


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
        ordinary: the decoder of the chunks so far, which may be used instead of `feed` until it
            stops: `continue_after` then takes over. None: it has stopped, or is not compiled.
    """

    def __init__(self, *, compiled: bool = True) -> None:
        """Prepare for the first chunk.

        Args:
            compiled: whether to use the compiled decoder if there is one.
        """
        self.is_complete = False
        self.error: Exception | None = None
        self.unframed = b""
        self.ordinary = _make_decoder() if compiled else None
        self._parser: Any = None
        self._lenient: _LenientDecoder | None = None
        # The raw bytes before the first byte of the body.
        self._beginning: bytes | None = b""
        self._framing_size = 0
        if self.ordinary is None:
            self._start_httptools()

    def _start_httptools(self) -> None:
        httptools = load_httptools()
        self._callbacks = _Callbacks()
        self._parser = httptools.HttpResponseParser(self._callbacks)
        self._parser_error = httptools.HttpParserError
        self._parser.feed_data(_HEAD)
        # The fields to come are those of the trailers.
        self._callbacks.in_trailers = False
        self._parser.set_dangerous_leniencies(
            lenient_spaces_after_chunk_size=True, lenient_optional_cr_before_lf=True
        )

    def _stop_ordinary(self, ordinary: ChunkDecoder) -> None:
        """Let httptools decode what follows the ordinary chunks."""
        self.ordinary = None
        self._start_httptools()
        start = ordinary.stop()
        self._parser.feed_data(start)
        self._callbacks.pieces.clear()
        self._beginning = None if ordinary.has_body else start
        self._framing_size = ordinary.framing

    def feed(self, data: bytes | memoryview) -> bytes:
        """Return the bytes of the body in the next bytes of the connection."""
        if self.ordinary is not None:
            body = self.ordinary.copy(data, len(data))
            if self.ordinary.rest >= 0:
                body = self.feed_rest(body, data)
            return body
        body = self._feed(data)
        self._limit_framing(body, len(data))
        return body

    def feed_rest(self, body: bytes | memoryview, data: bytes | memoryview) -> bytes:
        """Decode the rest of an input with which `ordinary` has stopped.

        Args:
            body: the bytes of the body that it has returned.
            data: the whole input.

        Returns:
            All bytes of the body in the input.
        """
        ordinary = self.ordinary
        assert ordinary is not None
        body = bytes(body)
        self._stop_ordinary(ordinary)
        body += self._feed(data[ordinary.rest :])
        self._limit_framing(body, 0)
        return body

    def _feed(self, data: bytes | memoryview) -> bytes:
        if self._lenient is not None:
            return self._feed_lenient(self._lenient, bytes(data))
        if self._beginning is not None:
            self._beginning += data
        callbacks = self._callbacks
        try:
            self._parser.feed_data(data)
        except self._parser_error as error:
            # Bytes after the end of the body are ignored.
            self.is_complete = callbacks.is_complete
            if not self.is_complete:
                self.error = error
        pieces = callbacks.pieces
        body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._beginning is not None:
            if body:
                self._beginning = None
            elif self.error is not None:
                body = self._start_again(self._beginning)
        return body

    def _limit_framing(self, body: bytes, size: int) -> None:
        """Refuse too much framing in a row.

        Args:
            body: the bytes of the body in the latest input.
            size: the length of that input, if it was not counted yet.
        """
        if body:
            self._framing_size = 0
            return
        self._framing_size += size
        if self._framing_size > MAX_FRAMING and not self.is_complete and self.error is None:
            where = "trailers" if self._is_in_trailers() else "chunk sizes and extensions"
            self.error = FramingTooLargeError(where)

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
        return decoder.take()

    def _is_in_trailers(self) -> bool:
        return (self._lenient or self._callbacks).in_trailers

    def end(self) -> bool:
        """Return whether the body is complete although the connection has ended.

        Some servers leave out the empty line after the last chunk.
        """
        if self.ordinary is not None:
            self._stop_ordinary(self.ordinary)
        if self._lenient is not None:
            self.is_complete = self._lenient.in_trailers
        elif self.error is None:
            # Only httptools knows whether the last chunk was received. If so, the rest of its line
            # and an empty line complete the body, and in any other state they do not.
            with suppress(self._parser_error):
                self._parser.feed_data(b"\n")
                self._parser.feed_data(b"\n")
            self.is_complete = self._callbacks.is_complete
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
