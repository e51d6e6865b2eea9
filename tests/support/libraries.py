"""Every library that `compat` can replace, read with and without sse_fast."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import sse_fast
from sse_fast.compat import LIBRARIES

EVENT_STREAM = {"content-type": "text/event-stream"}


class Outcome(NamedTuple):
    """The events of a stream and the error after them, as values that can be compared."""

    events: list[Any]
    """(class, attributes) of each event, or the dict that the SDK's decoder receives."""
    error: str | None
    """The name of the exception's class."""

    @property
    def data(self) -> list[Any]:
        return [event["data"] for event in self.attributes()]

    def attributes(self) -> list[dict[str, Any]]:
        """Return the attributes of each event, without leading underscores."""
        return [
            {name.lstrip("_"): value for name, value in attributes.items()}
            for _, attributes in self.events
        ]


class Reader(NamedTuple):
    """Functions that read a stream from chunks."""

    read: Callable[[Iterable[bytes]], Iterable[Any]]
    aread: Callable[[AsyncIterator[bytes]], AsyncIterator[Any]] | None


class Original(NamedTuple):
    """A library, read by its own code ("theirs") and by sse_fast in its place ("ours")."""

    name: str
    theirs: Callable[[], Reader]
    """Makes a reader with the parser that is in place when it is called."""
    ours: Callable[[], Reader]
    installed: bool
    """Whether sse_fast is put in place by `install(name)`, not by importing another module."""

    def __repr__(self) -> str:
        return self.name

    def read(self, chunks: Iterable[bytes], *, ours: bool) -> Outcome:
        return self.read_all([chunks], ours=ours)[0]

    def aread(self, chunks: Iterable[bytes], *, ours: bool) -> Outcome:
        return self.aread_all([chunks], ours=ours)[0]

    def read_all(self, streams: Iterable[Iterable[bytes]], *, ours: bool) -> list[Outcome]:
        """Read each stream with a reader of its own, installing only once."""
        make = self.ours if ours else self.theirs
        with self._in_place(ours):
            return [_outcome(make().read(chunks)) for chunks in streams]

    def aread_all(self, streams: Iterable[Iterable[bytes]], *, ours: bool) -> list[Outcome]:
        """Read each stream asynchronously with a reader of its own, installing only once."""
        make = self.ours if ours else self.theirs

        async def read_all() -> list[Outcome]:
            outcomes = []
            for chunks in streams:
                reader = make()
                assert reader.aread is not None
                outcomes.append(await _aoutcome(reader.aread(_aiter(chunks))))
            return outcomes

        with self._in_place(ours):
            return asyncio.run(read_all())

    def _in_place(self, ours: bool) -> AbstractContextManager[Any]:
        return sse_fast.install(self.name) if ours and self.installed else nullcontext()


def state(event: Any) -> tuple[str, dict[str, Any]]:
    return type(event).__name__, event if isinstance(event, dict) else dict(vars(event))


def _outcome(events: Iterable[Any]) -> Outcome:
    seen: list[Any] = []
    try:
        for event in events:
            seen.append(state(event))
    except Exception as error:
        return Outcome(seen, type(error).__name__)
    return Outcome(seen, None)


async def _aoutcome(events: AsyncIterator[Any]) -> Outcome:
    seen: list[Any] = []
    try:
        async for event in events:
            seen.append(state(event))
    except Exception as error:
        return Outcome(seen, type(error).__name__)
    return Outcome(seen, None)


async def _aiter(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


def _sdk(name: str) -> Callable[[], Reader]:
    def reader() -> Reader:
        decoder = import_module(f"{name}._base_client").SSEDecoder()
        return Reader(lambda chunks: decoder.iter_bytes(iter(chunks)), decoder.aiter_bytes)

    return reader


def _httpx2() -> Reader:
    httpx2 = import_module("httpx2")

    def source(chunks: Any) -> Any:
        request = httpx2.Request("GET", "http://localhost")
        response = httpx2.Response(200, headers=EVENT_STREAM, content=chunks, request=request)
        return httpx2.EventSource(response)

    return Reader(lambda chunks: source(iter(chunks)), lambda chunks: source(chunks).__aiter__())


def _httpx_sse(path: str) -> Callable[[], Reader]:
    def reader() -> Reader:
        httpx, module = import_module("httpx"), import_module(path)

        def source(chunks: Any) -> Any:
            return module.EventSource(httpx.Response(200, headers=EVENT_STREAM, content=chunks))

        return Reader(
            lambda chunks: source(iter(chunks)).iter_sse(),
            lambda chunks: source(chunks).aiter_sse(),
        )

    return reader


def _cohere() -> Reader:
    httpx, api = import_module("httpx"), import_module("cohere.core.http_sse._api")

    def source(chunks: Any) -> Any:
        return api.EventSource(httpx.Response(200, headers=EVENT_STREAM, content=chunks))

    return Reader(
        lambda chunks: source(iter(chunks)).iter_sse(), lambda chunks: source(chunks).aiter_sse()
    )


def mistralai(data_required: bool, sentinel: str | None = None) -> Callable[[], Reader]:
    def reader() -> Reader:
        module = import_module("mistralai.client.utils.eventstreaming")

        def options(chunks: Any) -> tuple[Any, ...]:
            return module.httpx.Response(200, content=chunks), json.loads, sentinel, data_required

        return Reader(
            lambda chunks: module.stream_events(*options(iter(chunks))),
            lambda chunks: module.stream_events_async(*options(chunks)),
        )

    return reader


class Body:
    """A source for sseclient-py: iterable by chunks, with `close()`."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self.chunks = chunks
        self.closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.chunks)

    def close(self) -> None:
        self.closed = True


def _sseclient(path: str) -> Callable[[], Reader]:
    return lambda: Reader(lambda chunks: import_module(path).SSEClient(Body(chunks)).events(), None)


def _all() -> Iterator[Original]:
    yield Original("openai", _sdk("openai"), _sdk("openai"), True)
    yield Original("anthropic", _sdk("anthropic"), _sdk("anthropic"), True)
    if find_spec("httpx2"):
        yield Original("httpx2", _httpx2, _httpx2, True)
    yield Original("httpx_sse", _httpx_sse("httpx_sse"), _httpx_sse("httpx_sse"), True)
    yield Original("cohere", _cohere, _cohere, True)
    yield Original("mistralai", mistralai(False), mistralai(False), True)
    # The modules that are imported in place of the originals.
    yield Original(
        "compat.httpx_sse", _httpx_sse("httpx_sse"), _httpx_sse("sse_fast.compat.httpx_sse"), False
    )
    yield Original(
        "compat.sseclient", _sseclient("sseclient"), _sseclient("sse_fast.compat.sseclient"), False
    )


ORIGINALS = {original.name: original for original in _all()}
ASYNC = {name: each for name, each in ORIGINALS.items() if name != "compat.sseclient"}
INSTALLED = [name for name, each in ORIGINALS.items() if each.installed]
assert set(INSTALLED) | {"httpx2"} == set(LIBRARIES)
