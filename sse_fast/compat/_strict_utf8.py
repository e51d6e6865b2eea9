"""Strict decoding, for originals that raise on invalid UTF-8 instead of replacing it."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

from sse_fast.compat._dialect_parser import DialectParser

__all__ = ["StrictFeeder"]


class StrictFeeder:
    """Feeds a parser, but raises UnicodeDecodeError at invalid bytes, after all earlier events.

    The parser alone replaces invalid bytes with U+FFFD, as the standard says.
    """

    def __init__(self, parser: DialectParser, encoding: str = "utf-8") -> None:
        self._feed_parser = parser.feed
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._is_utf8 = codecs.lookup(encoding).name == "utf-8"
        # Pure ASCII chunks skip the decoder, unless it holds a partial character or the encoding
        # may give ASCII bytes another meaning.
        self._must_decode = not self._is_utf8

    def feed(self, chunk: bytes) -> Iterable[Any]:
        """Return the events that the chunk completes.

        At invalid bytes, the iterable yields the events before them and then raises.
        """
        if type(chunk) is not bytes:
            # Text is passed on as it is: the parser refuses it with a helpful error.
            chunk = chunk if isinstance(chunk, (bytearray, str)) else bytes(memoryview(chunk))
        if not self._must_decode and chunk.isascii():
            return self._feed_parser(chunk)
        before = self._decoder.getstate()
        try:
            text = self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            return self._feed_until(error, chunk, before)
        self._must_decode = not self._is_utf8 or bool(self._decoder.getstate()[0])
        # Some encodings can yield lone surrogates, which the parser then replaces.
        return self._feed_parser(text.encode("utf-8", "surrogatepass"))

    def _feed_until(
        self, error: UnicodeDecodeError, chunk: bytes, before: tuple[bytes, int]
    ) -> Iterator[Any]:
        # Positions in the error include the bytes that the decoder had kept from the last chunk.
        self._decoder.setstate(before)
        valid = self._decoder.decode(chunk[: max(0, error.start - len(before[0]))])
        yield from self._feed_parser(valid.encode("utf-8", "surrogatepass"))
        raise error

    def end(self) -> None:
        """Raise UnicodeDecodeError if the stream ends within a character."""
        self._decoder.decode(b"", True)
