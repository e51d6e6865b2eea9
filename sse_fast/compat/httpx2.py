"""The parser within httpx2's `EventSource`, which MCP's SDK reads by."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from sse_fast._core.parser import DialectParser
from sse_fast._errors import EventTooLarge
from sse_fast.compat._dialect import Dialect
from sse_fast.compat._hooks import LIBRARIES, Hook

__all__: list[str] = []

LIBRARY = LIBRARIES["httpx2"]
_sse = LIBRARY.module("httpx2._sse")
_original = LIBRARY.part(_sse, "_SSEParser", "max_event_size")
LIBRARY.part(_original, "decode", "self, text")
LIBRARY.part(_original, "flush", "self")
_SSEError = LIBRARY.part(_sse, "SSEError")
_DIALECT = Dialect(
    LIBRARY.part(_sse, "ServerSentEvent", "event, data, id, retry"),
    dispatch_fields=True,
    read_retry=int,
)


class SSEParser:
    """`httpx2._sse._SSEParser`: text in pieces in, events out."""

    def __init__(self, max_event_size: float | None = None) -> None:
        self._limit = max_event_size
        # Theirs compares with whatever number it gets; below 1, nothing passes but blank lines.
        limit = sys.maxsize if max_event_size is None else min(max_event_size, sys.maxsize)
        self._parser = DialectParser(_DIALECT, max_event_size=max(1, int(limit)))
        self._is_after_cr = False

    def decode(self, text: str) -> Iterator[Any]:
        """Yield the events that the text completes.

        Raises:
            httpx2.SSEError: an event over `max_event_size` bytes, behind the events before it.
        """
        if text:
            self._is_after_cr = text.endswith("\r")
        try:
            # Lone surrogates are what some encodings can hold: the parser replaces them.
            yield from self._parser.feed(text.encode("utf-8", "surrogatepass"))
        except EventTooLarge as error:
            yield from error.events
            raise _SSEError(f"Server-sent event exceeded the {self._limit} byte limit.") from error

    def flush(self) -> Iterator[Any]:
        """Yield the event that the stream ends within, if it ends with a CR: the original does."""
        # The first LF belongs to that CR.
        return self.decode("\n\n" if self._is_after_cr else "")


def hooks() -> list[Hook]:
    return [Hook(_sse, "_SSEParser", SSEParser)]


def read(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The events of a stream, by whichever parser is in place now."""
    httpx2 = LIBRARY.module("httpx2")
    response = httpx2.Response(
        200,
        headers={"content-type": "text/event-stream"},
        content=iter(chunks),
        request=httpx2.Request("GET", "http://localhost"),
    )
    return iter(httpx2.EventSource(response))
