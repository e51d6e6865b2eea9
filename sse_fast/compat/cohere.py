"""The decoding of responses within Cohere's SDK."""

from __future__ import annotations

import codecs
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

from sse_fast._dialect import Dialect
from sse_fast._errors import EventTooLarge
from sse_fast._parser import DialectParser
from sse_fast.compat._library import LIBRARIES, Hook

__all__: list[str] = []

LIBRARY = LIBRARIES["cohere"]
_api = LIBRARY.module("cohere.core.http_sse._api")
_original = LIBRARY.part(_api, "EventSource")
_PARAMETERS = "self, response, decoder, text_decoder"
LIBRARY.part(_original, "_decode_response", _PARAMETERS)
LIBRARY.part(_original, "_adecode_response", _PARAMETERS)
_SSEError = LIBRARY.part(_api, "SSEError")
_DIALECT = Dialect(
    LIBRARY.part(_api, "ServerSentEvent", "event, data, id, retry"),
    default_event="",
    dispatch_values=True,
    read_retry=int,
)
_UTF8: Any = codecs.getincrementaldecoder("utf-8")


def _feeder(parser: DialectParser, text_decoder: Any) -> Callable[[bytes], Iterable[Any]]:
    """What to feed chunks to. The limit, here of an event, guards against a line without end."""

    def feed(chunk: bytes) -> Iterator[Any]:
        if not isinstance(text_decoder, _UTF8):
            chunk = text_decoder.decode(chunk).encode("utf-8", "surrogatepass")
        try:
            yield from parser.feed(chunk)
        except EventTooLarge as error:
            yield from error.events
            raise _SSEError(str(error)) from error

    return feed


def _decode_response(self: Any, response: Any, decoder: Any, text_decoder: Any) -> Iterator[Any]:
    parser = DialectParser(_DIALECT, last_event_id=decoder._last_event_id)
    feed = _feeder(parser, text_decoder)
    try:
        for chunk in response.iter_bytes():
            yield from feed(chunk)
    finally:
        decoder._last_event_id = parser.last_event_id


async def _adecode_response(
    self: Any, response: Any, decoder: Any, text_decoder: Any
) -> AsyncIterator[Any]:
    parser = DialectParser(_DIALECT, last_event_id=decoder._last_event_id)
    feed = _feeder(parser, text_decoder)
    try:
        async for chunk in response.aiter_bytes():
            for event in feed(chunk):
                yield event
    finally:
        decoder._last_event_id = parser.last_event_id


def hooks() -> list[Hook]:
    return [
        Hook(_original, "_decode_response", _decode_response),
        Hook(_original, "_adecode_response", _adecode_response),
    ]


def read(chunks: Iterable[bytes]) -> Iterator[Any]:
    """The events of a stream, by whichever decoding is in place now."""
    response = LIBRARY.module("httpx").Response(
        200, headers={"content-type": "text/event-stream"}, content=iter(chunks)
    )
    events: Iterator[Any] = _original(response).iter_sse()
    return events
