"""Callbacks that read their own source, or stream, are refused with a text that says so."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from sse_fast import EventSource, iter_events
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import Way
from tests.support.scripted_server import Stage, stream
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO

BODY = b": c\n\nid: 1\ndata: a\n\n: d\n\ndata: b\n\n"
TEXT = "is being read already, by the call that runs this callback: let the callback return first"


AWAITED = ("on_open", "headers")
FIRST = [
    (name, method, True)
    for name in (*AWAITED, "on_comment", "on_chunk", "progress")
    for method in ("next", "next_event", "open")
]
LATER = [
    (name, method, False)
    for name in ("on_comment", "on_chunk", "progress")
    for method in ("next", "next_event")
]


@pytest.mark.parametrize(("name", "method", "is_first"), FIRST + LATER)
def test_callback_that_reads_its_source_is_refused(
    name: str, method: str, is_first: bool, stage: Stage
) -> None:
    stage.plays = [stream(BODY if is_first else b"data: 0\n\n", BODY, delay=20.0)]
    calls = 0

    def callback(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if is_first or calls > 1 or name == "on_comment":
            return next(source) if method == "next" else getattr(source, method)()
        return None

    options: dict[str, Any] = {name: callback}
    if name == "progress":
        options["event_timeout"] = 30.0
    source: Any = EventSource(stage.url, policy=NO_DELAY, **options)
    if not is_first:
        assert next(source).data == "0"
    with pytest.raises(RuntimeError, match=TEXT):
        next(source)
    source.close()


@pytest.mark.parametrize("method", ["__anext__", "next_event", "open"])
@pytest.mark.parametrize("name", AWAITED)
def test_async_callback_that_reads_its_source_is_refused(
    name: str, method: str, async_way: Way, stage: Stage
) -> None:
    async def callback(*arguments: Any) -> Any:
        return await getattr(sources[0], method)()

    async def use(source: Any) -> None:
        sources.append(source)
        with pytest.raises(RuntimeError, match=TEXT):
            await anext(source)

    sources: list[Any] = []
    stage.plays = [stream(BODY)]
    options: dict[str, Any] = {name: callback}
    async_way.use(use, stage.url, policy=NO_DELAY, **options)


@pytest.mark.parametrize("name", ["on_comment", "on_chunk", "progress", "until", "decode"])
def test_callback_that_reads_its_stream_is_refused(name: str) -> None:
    def callback(*arguments: Any) -> Any:
        return next(streams[0])

    options: dict[str, Any] = {name: callback}
    if name == "progress":
        # Only some sources can be woken, which time limits need.
        options["event_timeout"] = 30.0
    head = {"Content-Type": "text/event-stream"}
    source = httpx.Response(200, headers=head, content=BODY)
    streams = [iter_events(source, **options)]
    with pytest.raises(Exception) as caught:
        next(streams[0])
    error = caught.value if name != "decode" else caught.value.__cause__
    assert isinstance(error, RuntimeError)
    assert TEXT in str(error)
