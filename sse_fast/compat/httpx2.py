"""The parser in httpx2's `EventSource`, which the MCP SDK uses, replaced by that of sse_fast."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from sse_fast._errors import EventTooLarge
from sse_fast.compat._dialect import Dialect
from sse_fast.compat._dialect_parser import DialectParser
from sse_fast.compat._hooks import LIBRARIES, Hook

__all__: list[str] = []


def _load() -> None:
    import httpx2
    import httpx2._sse  # noqa: F401


LIBRARY = LIBRARIES["httpx2"]
_sse = LIBRARY.load_module("httpx2._sse", _load)
_original = LIBRARY.find_part(_sse, "_SSEParser", "max_event_size")
LIBRARY.find_part(_original, "decode", "self, text")
LIBRARY.find_part(_original, "flush", "self")
_SSEError = LIBRARY.find_part(_sse, "SSEError")
_DIALECT = Dialect(
    LIBRARY.find_part(_sse, "ServerSentEvent", "event, data, id, retry"),
    dispatch_fields=True,
    read_retry=int,
)


class SSEParser:
    """A replacement for `httpx2._sse._SSEParser`: takes text in chunks, yields events."""

    def __init__(self, max_event_size: float | None = None) -> None:
        self._limit = max_event_size
        # The original accepts any number; with a limit below 1 it only lets blank lines pass.
        limit = sys.maxsize if max_event_size is None else min(max_event_size, sys.maxsize)
        self._parser = DialectParser(_DIALECT, max_event_size=max(1, int(limit)))
        self._is_after_cr = False

    def decode(self, text: str) -> Iterator[Any]:
        """Yield the events that the text completes.

        Raises:
            httpx2.SSEError: An event exceeds `max_event_size` bytes. Earlier events are yielded
                first.
        """
        if text:
            self._is_after_cr = text.endswith("\r")
        try:
            # Some encodings can yield lone surrogates, which the parser then replaces.
            yield from self._parser.feed(text.encode("utf-8", "surrogatepass"))
        except EventTooLarge as error:
            yield from error.events
            raise _SSEError(f"Server-sent event exceeded the {self._limit} byte limit.") from error

    def flush(self) -> Iterator[Any]:
        """Yield the unfinished event if the stream ended with a CR, as the original does."""
        # The first LF belongs to that CR, the second one is the blank line.
        return self.decode("\n\n" if self._is_after_cr else "")


def find_hooks() -> list[Hook]:
    """Return the hook for `install()`."""
    return [Hook(_sse, "_SSEParser", SSEParser)]


def read_events(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Read a stream with the parser that is in place now."""
    import httpx2

    response = httpx2.Response(
        200,
        headers={"content-type": "text/event-stream"},
        content=iter(chunks),
        request=httpx2.Request("GET", "http://localhost"),
    )
    return iter(httpx2.EventSource(response))
