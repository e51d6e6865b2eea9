"""Drop-in for sseclient-py 1.9: `import sse_fast.compat.sseclient as sseclient`.

docs/guides/other-parsers.md lists the differences from the original.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from typing import Any

from sse_fast.compat._dialect import Dialect
from sse_fast.compat._dialect_parser import DialectParser
from sse_fast.compat._strict_utf8 import StrictFeeder

__all__ = ["Event", "SSEClient"]


class Event:
    """One event.

    Attributes:
        id: The id that this event's own lines set, or None.
        event: The event type; "message" if the stream names none.
        data: The values of the data lines, joined with LF.
        retry: The value of this event's last retry line, as text, or None.
    """

    def __init__(
        self,
        id: str | None = None,
        event: str = "message",
        data: str = "",
        retry: str | None = None,
    ) -> None:
        self.id = id
        self.event = event
        self.data = data
        self.retry = retry

    def __str__(self) -> str:
        size = len(self.data) if self.data else 0
        text = f"{self.event} event"
        if self.id:
            text += f" #{self.id}"
        text += f", {size} byte{'s' if size else ''}" if size else ", no data"
        if self.retry:
            text += f", retry in {self.retry}ms"
        return text


_DIALECT = Dialect(Event, forget_id=True, read_retry=str)


class SSEClient:
    """Reads the events of a response.

    Args:
        event_source: An iterable of chunks of bytes with a `close()` method: a response of
            requests with `stream=True`, of urllib3 with `preload_content=False`, or of `urlopen()`.
        char_enc: The encoding of the bytes. The standard says UTF-8.

    Raises:
        TypeError: The source is a str, such as a URL.
    """

    def __init__(self, event_source: Any, char_enc: str = "utf-8") -> None:
        if isinstance(event_source, str):
            # The package sseclient, whose module has the same name, takes a URL.
            raise TypeError(
                "Expected a response, got a str: pass requests.get(url, stream=True), or use "
                "sse_fast.EventSource(url), which reconnects"
            )
        self._event_source = event_source
        self._char_enc = char_enc

    def events(self) -> Generator[Event, None, None]:
        """Yield the events, including an unfinished one at the end of the stream.

        Raises:
            UnicodeDecodeError: Bytes are invalid in `char_enc`. Earlier events are yielded first.
        """
        parser = DialectParser(_DIALECT, max_event_size=sys.maxsize)
        feeder = StrictFeeder(parser, self._char_enc)
        for chunk in _iter_chunks(self._event_source):
            yield from feeder.feed(chunk)
        feeder.end()
        if parser.pending:
            rest: list[Any] = parser.feed(b"\n\n")
            yield from rest

    def close(self) -> None:
        """Close the event source."""
        self._event_source.close()


def _iter_chunks(event_source: Any) -> Iterable[bytes]:
    # Iterating a response of requests yields 128 bytes at a time. Larger reads do not delay events
    # if the server uses chunked framing.
    requests = sys.modules.get("requests")
    if (
        requests is not None
        and getattr(type(event_source), "__iter__", None) is requests.Response.__iter__
        and getattr(event_source.raw, "chunked", False) is True
    ):
        event_source = event_source.iter_content(65536)
    source: Iterable[bytes] = event_source
    return source
