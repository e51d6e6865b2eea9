"""Replacements for the functions with which Mistral's SDK reads streams, also of Azure and GCP."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from sse_fast.compat._dialect import Dialect
from sse_fast.compat._dialect_parser import DialectParser
from sse_fast.compat._hooks import LIBRARIES, Hook, UnknownLayout
from sse_fast.compat._strict_utf8 import StrictFeeder

__all__: list[str] = []


def _load() -> None:
    import mistralai
    import mistralai.client.utils.eventstreaming  # noqa: F401


def _load_azure() -> None:
    import mistralai
    import mistralai.azure.client.utils.eventstreaming  # noqa: F401


def _load_gcp() -> None:
    import mistralai
    import mistralai.gcp.client.utils.eventstreaming  # noqa: F401


LIBRARY = LIBRARIES["mistralai"]
_PARAMETERS = "response, decoder, sentinel, data_required"
_modules = [LIBRARY.load_module("mistralai.client.utils.eventstreaming", _load)]
for _service, _load_service in (("azure", _load_azure), ("gcp", _load_gcp)):
    # If their dependencies (google-auth, for example) are not installed, they are not used.
    with suppress(ImportError, UnknownLayout):
        _path = f"mistralai.{_service}.client.utils.eventstreaming"
        _modules.append(LIBRARY.load_module(_path, _load_service))
for _module in _modules:
    LIBRARY.find_part(_module, "stream_events", _PARAMETERS)
    LIBRARY.find_part(_module, "stream_events_async", _PARAMETERS)


def _parse_retry(value: str) -> int:
    if not value.isdigit():
        raise ValueError(value)
    return int(value)


class _Event:
    """The fields that the SDK's decoder receives as JSON."""

    event: str | None
    data: str
    id: str | None
    retry: int | None
    lines: list[str]


_DIALECT = Dialect(_Event, default_event=None, none_before_id=True, read_retry=_parse_retry)
_WITHOUT_DATA = _DIALECT._replace(
    attributes=("event", "data", "id", "retry", "lines"), dispatch_fields=True, keep_lines=True
)


class _EventDecoder:
    """Parses and decodes one response, for both the sync and the async function."""

    def __init__(self, decoder: Callable[[str], Any], sentinel: str | None, data_required: bool):
        self._decoder = decoder
        self._sentinel = sentinel
        self._data_required = data_required
        dialect = _DIALECT if data_required else _WITHOUT_DATA
        self._parser = DialectParser(dialect, max_event_size=sys.maxsize)
        self._feeder = StrictFeeder(self._parser)
        self.done = False

    def feed(self, chunk: bytes) -> Iterator[Any]:
        return self._decode(self._feeder.feed(chunk))

    def end(self) -> Iterator[Any]:
        self._feeder.end()
        # The original also delivers an unfinished event at the end of the stream.
        return self._decode(self._parser.feed(b"\n\n") if self._parser.pending else [])

    def _decode(self, events: Iterable[Any]) -> Iterator[Any]:
        for event in events:
            # The data "" is ambiguous: it is either an empty data line or no data line at all.
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
                values["data"] = _parse_data(event.data)
            if event.retry is not None:
                values["retry"] = event.retry
            decoded = self._decoder(json.dumps(values))
            if decoded is not None:
                yield decoded


def _parse_data(text: str) -> Any:
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
    """Yield what `decoder` returns for each event, except None; close the response at the end."""
    events = _EventDecoder(decoder, sentinel, data_required)
    try:
        for chunk in response.iter_bytes():
            yield from events.feed(chunk)
            if events.done:
                return
        yield from events.end()
    finally:
        response.close()


async def stream_events_async(
    response: Any,
    decoder: Callable[[str], Any],
    sentinel: str | None = None,
    data_required: bool = True,
) -> AsyncIterator[Any]:
    """Yield the decoded events of an async response, like `stream_events`."""
    events = _EventDecoder(decoder, sentinel, data_required)
    try:
        async for chunk in response.aiter_bytes():
            for event in events.feed(chunk):
                yield event
            if events.done:
                return
        for event in events.end():
            yield event
    finally:
        await response.aclose()


def find_hooks() -> list[Hook]:
    """Return the hooks for `install()`."""
    return [
        Hook(module, function.__name__, function)
        for module in _modules
        for function in (stream_events, stream_events_async)
    ]


def read_events(chunks: Iterable[bytes]) -> Iterator[Any]:
    """Read a stream with the SDK's current function, and yield the values that its decoder gets."""
    module = _modules[0]
    response = module.httpx.Response(200, content=iter(chunks))
    events: Iterator[Any] = module.stream_events(response, json.loads, data_required=False)
    return events
