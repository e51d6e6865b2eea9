"""The decoding of responses in Cohere's SDK, replaced by the parser of sse_fast."""

from __future__ import annotations

import codecs
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

from sse_fast.compat._dialect import Dialect
from sse_fast.compat._dialect_parser import DialectParser
from sse_fast.compat._hooks import LIBRARIES, Hook

__all__: list[str] = []


def _load() -> None:
    import cohere
    import cohere.core.http_sse._api  # noqa: F401


LIBRARY = LIBRARIES["cohere"]
_api = LIBRARY.load_module("cohere.core.http_sse._api", _load)
_original = LIBRARY.find_part(_api, "EventSource")
_PARAMETERS = "self, response, decoder, text_decoder"
LIBRARY.find_part(_original, "_decode_response", _PARAMETERS)
LIBRARY.find_part(_original, "_adecode_response", _PARAMETERS)
LIBRARY.find_part(_api, "MAX_LINE_SIZE")
LIBRARY.find_part(_api, "SSEError")
_DIALECT = Dialect(
    LIBRARY.find_part(_api, "ServerSentEvent", "event, data, id, retry"),
    default_event="",
    dispatch_values=True,
    read_retry=int,
)
_UTF8: Any = codecs.getincrementaldecoder("utf-8")


class _Feeder:
    """Feeds the parser with one response, for both the sync and the async function."""

    def __init__(self, decoder: Any, text_decoder: Any) -> None:
        self._decoder = decoder
        self._text_decoder = None if isinstance(text_decoder, _UTF8) else text_decoder
        self._parser = DialectParser(
            _DIALECT, last_event_id=decoder._last_event_id, max_event_size=sys.maxsize
        )

    def feed(self, chunk: bytes) -> Iterator[Any]:
        if self._text_decoder is not None:
            chunk = self._text_decoder.decode(chunk).encode("utf-8", "surrogatepass")
        yield from self._parser.feed(chunk)
        # The original limits characters, which take up to four bytes each.
        if self._parser.unfinished > 4 * _api.MAX_LINE_SIZE:
            raise _api.SSEError(
                f"A line of the stream is longer than {4 * _api.MAX_LINE_SIZE} bytes"
            )

    def end(self) -> None:
        self._decoder._last_event_id = self._parser.last_event_id


def _decode_response(self: Any, response: Any, decoder: Any, text_decoder: Any) -> Iterator[Any]:
    feeder = _Feeder(decoder, text_decoder)
    try:
        for chunk in response.iter_bytes():
            yield from feeder.feed(chunk)
    finally:
        feeder.end()


async def _adecode_response(
    self: Any, response: Any, decoder: Any, text_decoder: Any
) -> AsyncIterator[Any]:
    feeder = _Feeder(decoder, text_decoder)
    try:
        async for chunk in response.aiter_bytes():
            for event in feeder.feed(chunk):
                yield event
    finally:
        feeder.end()


def find_hooks() -> list[Hook]:
    """Return the hooks for `install()`."""
    return [
        Hook(_original, "_decode_response", _decode_response),
        Hook(_original, "_adecode_response", _adecode_response),
    ]


def read_events(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Read a stream with the functions that are in place now."""
    import httpx

    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=iter(chunks)
    )
    events: Iterator[Any] = _original(response).iter_sse()
    return events
