"""Invalid UTF-8 is an error, where the original raises at it."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import Any

from sse_fast._core.parser import DialectParser

__all__ = ["Strict"]


class Strict:
    """Feeds a parser with what is valid, and raises UnicodeDecodeError behind its events.

    The standard replaces invalid bytes; that is what the parser alone does.
    """

    def __init__(self, parser: DialectParser, encoding: str = "utf-8") -> None:
        self._feed_parser = parser.feed
        self._decoder = codecs.getincrementaldecoder(encoding)()
        # Whether an ASCII chunk can be anything but the text it looks like.
        self._is_utf8 = codecs.lookup(encoding).name == "utf-8"
        self._is_within = not self._is_utf8

    def feed(self, chunk: bytes) -> Iterable[Any]:
        """Return the events that the chunk completes, or those before the error and then raise."""
        if type(chunk) is not bytes:
            # Also of what the parser refuses: text, say.
            chunk = chunk if isinstance(chunk, (bytearray, str)) else bytes(memoryview(chunk))
        if not self._is_within and chunk.isascii():
            return self._feed_parser(chunk)
        before = self._decoder.getstate()
        try:
            text = self._decoder.decode(chunk)
        except UnicodeDecodeError as error:
            return self._feed_until(error, chunk, before)
        self._is_within = not self._is_utf8 or bool(self._decoder.getstate()[0])
        # Lone surrogates are what some encodings can hold: the parser replaces them.
        return self._feed_parser(text.encode("utf-8", "surrogatepass"))

    def _feed_until(
        self, error: UnicodeDecodeError, chunk: bytes, before: tuple[bytes, int]
    ) -> Iterator[Any]:
        # The decoder may have held bytes back, which the error counts too.
        self._decoder.setstate(before)
        valid = self._decoder.decode(chunk[: max(0, error.start - len(before[0]))])
        yield from self._feed_parser(valid.encode("utf-8", "surrogatepass"))
        raise error

    def end(self) -> None:
        """Raise where the stream ends within a character."""
        self._decoder.decode(b"", True)
