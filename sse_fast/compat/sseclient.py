"""The names of sseclient-py 1.9: `import sse_fast.compat.sseclient as sseclient`.

What differs from the original is in docs/compat.md.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable
from typing import Any

from sse_fast._core.parser import DialectParser
from sse_fast.compat._dialect import Dialect
from sse_fast.compat._strict_utf8 import Strict

__all__ = ["Event", "SSEClient"]


class Event:
    """One event.

    Attributes:
        id: the last id that this event's own lines set, or None.
        event: the event type; "message" where the stream names none.
        data: the values of the data lines joined with LF.
        retry: the value of this event's last retry line, as text, or None.
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
    """The events of a response that is there already.

    Args:
        event_source: iterable by chunks of bytes, with a `close()`: a response of requests with
            `stream=True`, of urllib3 with `preload_content=False`, of `urlopen()`.
        char_enc: of the bytes; a stream in accordance with the standard is UTF-8.
    """

    def __init__(self, event_source: Any, char_enc: str = "utf-8") -> None:
        self._event_source = event_source
        self._char_enc = char_enc

    def events(self) -> Generator[Event, None, None]:
        """Yield the events, at last the one that the stream ends within.

        Raises:
            UnicodeDecodeError: bytes that are not of `char_enc`, behind the events before them.
        """
        parser = DialectParser(_DIALECT, max_event_size=sys.maxsize)
        strict = Strict(parser, self._char_enc)
        for chunk in _chunks(self._event_source):
            yield from strict.feed(chunk)
        strict.end()
        if parser.pending:
            rest: list[Any] = parser.feed(b"\n\n")
            yield from rest

    def close(self) -> None:
        """Close the event source."""
        self._event_source.close()


def _chunks(event_source: Any) -> Iterable[bytes]:
    # requests iterates its responses in pieces of 128 bytes. Where the server says how long each
    # chunk is, larger ones do not wait for more than has come.
    requests = sys.modules.get("requests")
    if (
        requests is not None
        and getattr(type(event_source), "__iter__", None) is requests.Response.__iter__
        and getattr(event_source.raw, "chunked", False) is True
    ):
        event_source = event_source.iter_content(65536)
    source: Iterable[bytes] = event_source
    return source
