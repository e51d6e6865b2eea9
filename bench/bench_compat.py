"""The libraries that sse_fast.compat can replace, with their own parser and with sse_fast.

    pytest bench/bench_compat.py

Each library reads the same chunks from memory into its own events: first alone, then with
`install()`, or by the module that is imported in its place. Some libraries need a response of
their HTTP library around the chunks, which is part of both measurements.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import pytest

import sse_fast
from sse_fast._bench import streams
from sse_fast._bench.measure import difference
from sse_fast.compat import LIBRARIES

Read = Callable[[list[bytes]], Iterable[Any]]


class Way(NamedTuple):
    theirs: Read
    ours: Read
    installed: str | None = None
    """The library to install before `ours` is measured."""


def _installed(name: str) -> Way:
    def read(chunks: list[bytes]) -> Iterator[Any]:
        events: Iterator[Any] = import_module(f"sse_fast.compat.{name}").read_events(chunks)
        return events

    return Way(read, read, name)


def _httpx_sse(module: str) -> Read:
    def read(chunks: list[bytes]) -> Iterable[Any]:
        headers = {"content-type": "text/event-stream"}
        response = import_module("httpx").Response(200, headers=headers, content=iter(chunks))
        events: Iterable[Any] = import_module(module).EventSource(response).iter_sse()
        return events

    return read


def _sseclient(module: str) -> Read:
    def read(chunks: list[bytes]) -> Iterable[Any]:
        events: Iterable[Any] = import_module(module).SSEClient(chunks).events()
        return events

    return read


WAYS = {
    **{f"install({name!r})": _installed(name) for name in LIBRARIES},
    "compat.httpx_sse": Way(_httpx_sse("httpx_sse"), _httpx_sse("sse_fast.compat.httpx_sse")),
    "compat.sseclient": Way(_sseclient("sseclient"), _sseclient("sse_fast.compat.sseclient")),
}


def as_sent(event: Any) -> tuple[str, str, str]:
    """Return an event of any library as `Stream` has it: type, data and id."""
    values = event if isinstance(event, dict) else {n: getattr(event, n) for n in FIELDS}
    data = values["data"]
    # Mistral's SDK decodes the data as JSON.
    text = data if isinstance(data, str) else json.dumps(data, separators=(",", ":"))
    return values.get("event") or "message", text, values.get("id") or ""


FIELDS = ("event", "data", "id")


@cache
def sample(name: str, measuring: bool) -> streams.Stream:
    return streams.make(name, None if measuring else 20)


@pytest.mark.benchmark(max_time=0.3, min_rounds=3)
@pytest.mark.parametrize("parser", ["theirs", "ours"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("chunking", ["one event", "64 KiB"])
@pytest.mark.parametrize("stream", ["a", "b"])
def test_compat(
    timed: Callable[..., float | None],
    measuring: bool,
    speeds: dict[str, dict[tuple[str, str], str]],
    no_number: list[str],
    stream: str,
    chunking: str,
    way: str,
    parser: str,
) -> None:
    made = sample(stream, measuring)
    chunks = made.chunks(chunking)
    read: Read = getattr(WAYS[way], parser)
    name = WAYS[way].installed if parser == "ours" else None
    try:
        if WAYS[way].installed:
            import_module(f"sse_fast.compat.{WAYS[way].installed}")
        installation = sse_fast.install(name) if name else nullcontext()
    except (ImportError, sse_fast.SSEError) as error:
        pytest.skip(str(error))
    with installation:
        try:
            given = [as_sent(event) for event in read(chunks)]
        except ImportError as error:
            pytest.skip(str(error))
        if given != made.events:
            what = difference(made.events, given)
            wrong = f"{way}, {parser}, stream {stream}, {chunking} per chunk: {what}"
            no_number.append(wrong)
            end = pytest.fail if parser == "ours" else pytest.xfail
            end(f"no number: {wrong}")

        def work() -> None:
            deque(read(chunks), maxlen=0)

        group = f"compat: {way}, stream {stream}, {chunking} per chunk"
        seconds = timed(group, len(made.events), chunks, work)
    if seconds is not None:
        cells = speeds.setdefault(f"compat: us per event, {chunking} per chunk", {})
        cells[way, f"{stream} {parser}"] = f"{seconds / len(made.events) * 1e6:.2f}"
