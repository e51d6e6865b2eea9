"""The functions by which Mistral's SDK, for its own service, Azure and GCP, reads responses."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from sse_fast._core.parser import DialectParser
from sse_fast.compat._dialect import Dialect
from sse_fast.compat._hooks import LIBRARIES, Hook, UnknownLayout
from sse_fast.compat._strict_utf8 import Strict

__all__: list[str] = []

LIBRARY = LIBRARIES["mistralai"]
_PARAMETERS = "response, decoder, sentinel, data_required"
_modules = [LIBRARY.module("mistralai.client.utils.eventstreaming")]
for _service in ("azure", "gcp"):
    # What they need beside the SDK (google-auth, say) may not be there: then nobody uses them.
    with suppress(ImportError, UnknownLayout):
        _modules.append(LIBRARY.module(f"mistralai.{_service}.client.utils.eventstreaming"))
for _module in _modules:
    LIBRARY.part(_module, "stream_events", _PARAMETERS)
    LIBRARY.part(_module, "stream_events_async", _PARAMETERS)


def _retry(value: str) -> int:
    if not value.isdigit():
        raise ValueError(value)
    return int(value)


class _Event:
    """What goes to the SDK's decoder, as JSON."""

    event: str | None
    data: str
    id: str | None
    retry: int | None
    lines: list[str]


_DIALECT = Dialect(_Event, default_event=None, none_before_id=True, read_retry=_retry)
_WITHOUT_DATA = _DIALECT._replace(
    attributes=("event", "data", "id", "retry", "lines"), dispatch_fields=True, keep_lines=True
)


class _Stream:
    """One response: what the sync and the async function share."""

    def __init__(self, decoder: Callable[[str], Any], sentinel: str | None, data_required: bool):
        self._decoder = decoder
        self._sentinel = sentinel
        self._data_required = data_required
        dialect = _DIALECT if data_required else _WITHOUT_DATA
        self._parser = DialectParser(dialect, max_event_size=sys.maxsize)
        self._strict = Strict(self._parser)
        self.done = False

    def feed(self, chunk: bytes) -> Iterator[Any]:
        return self._decode(self._strict.feed(chunk))

    def end(self) -> Iterator[Any]:
        self._strict.end()
        # An event that the stream ends within is one.
        return self._decode(self._parser.feed(b"\n\n") if self._parser.pending else [])

    def _decode(self, events: Iterable[Any]) -> Iterator[Any]:
        for event in events:
            # "" may be the value of a data line, or mean that there was none.
            has_data = (
                self._data_required
                or event.data != ""
                or any(line.partition(":")[0] == "data" for line in event.lines)
            )
            if has_data and self._sentinel and event.data == self._sentinel:
                self.done = True
                return
            values = {} if event.id is None else {"id": event.id}
            if event.event is not None:
                values["event"] = event.event
            if has_data:
                values["data"] = _data(event.data)
            if event.retry is not None:
                values["retry"] = event.retry
            made = self._decoder(json.dumps(values))
            if made is not None:
                yield made


def _data(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def stream_events(
    response: Any,
    decoder: Callable[[str], Any],
    sentinel: str | None = None,
    data_required: bool = True,
) -> Iterator[Any]:
    """Yield what `decoder` makes of each event, and close the response."""
    stream = _Stream(decoder, sentinel, data_required)
    try:
        for chunk in response.iter_bytes():
            yield from stream.feed(chunk)
            if stream.done:
                return
        yield from stream.end()
    finally:
        response.close()


async def stream_events_async(
    response: Any,
    decoder: Callable[[str], Any],
    sentinel: str | None = None,
    data_required: bool = True,
) -> AsyncIterator[Any]:
    """The same for an async response."""
    stream = _Stream(decoder, sentinel, data_required)
    try:
        async for chunk in response.aiter_bytes():
            for event in stream.feed(chunk):
                yield event
            if stream.done:
                return
        for event in stream.end():
            yield event
    finally:
        await response.aclose()


def hooks() -> list[Hook]:
    return [
        Hook(module, function.__name__, function)
        for module in _modules
        for function in (stream_events, stream_events_async)
    ]


def read(chunks: Iterable[bytes]) -> Iterator[Any]:
    """What a decoder gets of the events of a stream, by whichever function is in place now."""
    module = _modules[0]
    response = module.httpx.Response(200, content=iter(chunks))
    events: Iterator[Any] = module.stream_events(response, json.loads, data_required=False)
    return events
