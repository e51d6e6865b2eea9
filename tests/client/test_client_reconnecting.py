"""reconnect(), from wherever it is called."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Any

import pytest

import sse_fast
from sse_fast import (
    AsyncEventSource,
    EndReason,
    EventSource,
    ReadyState,
    ReconnectPolicy,
    ResponseError,
)
from tests.support.clients import LIMIT, UNREAD_UNDER_TRIO
from tests.support.eventsources import Way
from tests.support.scripted_server import Play, Request, Stage, stream
from tests.support.threaded_reader import (
    EVERY,
    FAST,
    SETTLED,
    SLOW,
    SOON,
    B,
    Reading,
    quiet,
    wait_until,
)

pytestmark = UNREAD_UNDER_TRIO


@EVERY
def test_reconnect_in_the_loop(way: Way, stage: Stage) -> None:
    """The event at hand is taken, as the next one is asked for; what came with it is not."""
    stage.plays = [quiet(b"id: 1\ndata: a\n\nid: 2\ndata: x\n\n"), quiet(b"id: 2\ndata: b\n\n")]

    def on_event(source: Any, event: Any) -> None:
        if event.data == "a":
            source.reconnect()

    outcome = way.read(stage.url, policy=FAST, on_event=on_event, stop_after=2)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1"]
    assert stage.requests[1].open == 0


@EVERY
@pytest.mark.parametrize("while_", ["quiet", "backoff"])
def test_reconnect_from_another_thread(way: Way, stage: Stage, while_: str) -> None:
    first = quiet(b"id: 1\ndata: a\n\n") if while_ == "quiet" else stream()
    stage.plays = [first, quiet(b"id: 2\ndata: b\n\n")]
    with Reading(way, stage.url, policy=SLOW) as reading:
        wait_until(lambda: reading.data)
        if while_ == "backoff":
            wait_until(lambda: stage.requests[0].ended)
        time.sleep(SETTLED)
        before = time.monotonic()
        reading.source.reconnect()
        wait_until(lambda: len(stage.requests) == 2, SOON)
        wait_until(lambda: len(reading.data) == 2)
        reading.close()
    assert reading.data == ["a", "b"]
    # It is no way around the shortest wait.
    assert 0.08 < stage.requests[1].arrived - before < SOON
    assert stage.requests[1].get("Last-Event-ID") == b"1"
    assert stage.requests[1].open == 0


@EVERY
@pytest.mark.parametrize("end", ["no content", "error", "until", "end"])
def test_reconnect_after_the_end(way: Way, stage: Stage, end: str) -> None:
    """It lives again; what it was consent to send again may be any method."""
    last: dict[str, Play] = {
        "no content": Play(204, ()),
        "error": Play(404, ()),
        "until": stream(b"id: 1\ndata: last\n\n"),
        "end": stream(b"id: 1\ndata: 1\n\n"),
    }

    async def use(source: Any) -> None:
        with suppress(ResponseError):
            data.extend([event.data async for event in source])
        assert source.ready_state is ReadyState.CLOSED
        assert source.end_reason is not None
        source.reconnect()
        assert (await anext(source)).data == "b"
        assert source.end_reason is None
        assert source.ready_state is ReadyState.OPEN
        with suppress(ResponseError):
            data.extend([event.data async for event in source])
        assert source.ready_state is ReadyState.CLOSED

    data: list[str] = []
    stage.plays = [last[end], stream(b"id: 2\ndata: b\n\n")]
    until = lambda event: event.data == "last"  # noqa: E731
    options = {"until": until} if end == "until" else {}
    policy = ReconnectPolicy.never(min_delay=0.01)
    with suppress(sse_fast.StreamIncomplete):
        # Where `until` is not met by what came of reconnect().
        way.use(use, stage.url, method="POST", data=b"x", policy=policy, **options)
    assert data == {"until": ["last"], "end": ["1"]}.get(end, [])
    assert [(request.method, request.body) for request in stage.requests] == [("POST", b"x")] * 2


@EVERY
def test_reconnect_after_close(way: Way, stage: Stage) -> None:
    """There is nothing after that."""

    async def use(source: Any) -> None:
        await source.open()
        source.close()
        source.reconnect()
        source.reconnect(0.0)
        assert source.ready_state is ReadyState.CLOSED
        assert [event async for event in source] == []
        assert source.end_reason is EndReason.CLOSED

    stage.plays = [quiet(b"data: a\n\n"), B]
    way.use(use, stage.url, policy=FAST)
    assert len(stage.requests) == 1


@EVERY
def test_reconnect_after_a_delay(way: Way, stage: Stage) -> None:
    """And no sooner, or later, than that, whatever the server wants."""
    stage.plays = [stream(b"retry: 30000\nid: 1\ndata: a\n\n", end="hang"), B]
    times: list[float] = []

    def on_event(source: Any, event: Any) -> None:
        if event.data == "a":
            times.append(time.monotonic())
            source.reconnect(0.1)

    outcome = way.read(stage.url, policy=SLOW, on_event=on_event, stop_after=2)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert 0.09 < stage.requests[1].arrived - times[0] < SOON


@EVERY
def test_reconnect_while_an_attempt_is_under_way(way: Way, stage: Stage) -> None:
    """That is what it asks for: there is one request, and no second one behind it."""
    go = threading.Event()

    def plays(number: int, request: Request) -> Play:
        go.wait(LIMIT)
        return B if number else quiet(b"id: 1\ndata: a\n\n")

    stage.plays = plays
    with Reading(way, stage.url, policy=FAST) as reading:
        wait_until(lambda: stage.requests)
        reading.source.reconnect()
        time.sleep(SETTLED)
        go.set()
        wait_until(lambda: reading.data)
        time.sleep(SETTLED)
        assert len(stage.requests) == 1
        reading.close()
    assert reading.data == ["a"]


def test_reconnect_as_soon_as_there_is_a_stream(stage: Stage) -> None:
    """By another thread, before the reader has looked at it: the delay counts."""

    class Source(EventSource):
        streams = 0

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_stream" and value is not None:
                self.streams += 1
                if self.streams == 1:
                    thread = threading.Thread(target=self.reconnect, args=(0.2,))
                    thread.start()
                    thread.join()

    stage.plays = [quiet(b"id: 1\ndata: a\n\n"), quiet(b"id: 2\ndata: b\n\n")]
    with Source(stage.url, policy=FAST) as source:
        assert next(source).data == "b"
    assert stage.requests[1].arrived - stage.requests[0].arrived > 0.2


@EVERY
def test_reconnect_before_anything_was_asked(way: Way, stage: Stage) -> None:
    async def use(source: Any) -> None:
        source.reconnect()
        assert [event.data async for event in source] == ["a"]

    stage.plays = [stream()]
    way.use(use, stage.url, policy=FAST)
    assert len(stage.requests) == 2


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "1", True, []], ids=repr)
def test_reconnect_refuses(cls: Any, delay: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="delay"):
        cls("http://127.0.0.1").reconnect(delay)
