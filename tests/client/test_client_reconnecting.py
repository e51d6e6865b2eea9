"""reconnect(): from the loop, from another thread, before, during and after a connection."""

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
    EVERY_WAY,
    LONG_DELAY,
    PROMPT_SECONDS,
    SHORT_DELAY,
    STREAM_B,
    ThreadedReader,
    quiet_stream,
    wait_until,
)

pytestmark = UNREAD_UNDER_TRIO


@EVERY_WAY
def test_reconnect_in_the_loop_resumes_after_event(way: Way, stage: Stage) -> None:
    """The current event is taken, since the next one is asked for; one that came with it is not."""
    stage.plays = [
        quiet_stream(b"id: 1\ndata: a\n\nid: 2\ndata: x\n\n"),
        quiet_stream(b"id: 2\ndata: b\n\n"),
    ]

    def on_event(source: Any, event: Any) -> None:
        if event.data == "a":
            assert source.ready_state is ReadyState.OPEN
            source.reconnect()
            # The connection is dropped only when the next event is asked for.
            assert source.ready_state is ReadyState.CONNECTING

    outcome = way.read(stage.url, policy=SHORT_DELAY, on_event=on_event, stop_after=2)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1"]
    assert stage.requests[1].open == 0


@EVERY_WAY
@pytest.mark.parametrize("phase", ["quiet", "backoff"])
def test_reconnect_from_another_thread_sends_request(way: Way, stage: Stage, phase: str) -> None:
    first = quiet_stream(b"id: 1\ndata: a\n\n") if phase == "quiet" else stream()
    stage.plays = [first, quiet_stream(b"id: 2\ndata: b\n\n")]
    with ThreadedReader(way, stage.url, policy=LONG_DELAY) as reader:
        wait_until(lambda: reader.data)
        if phase == "backoff":
            wait_until(lambda: stage.requests[0].ended)
        reader.wait_until_blocked()
        before = time.monotonic()
        reader.source.reconnect()
        wait_until(lambda: len(stage.requests) == 2, PROMPT_SECONDS)
        wait_until(lambda: len(reader.data) == 2)
        reader.close()
    assert reader.data == ["a", "b"]
    # The policy's `min_delay` of 0.1 seconds holds all the same.
    assert 0.08 < stage.requests[1].arrived - before < PROMPT_SECONDS
    assert stage.requests[1].get("Last-Event-ID") == b"1"
    assert stage.requests[1].open == 0


@EVERY_WAY
@pytest.mark.parametrize("end", ["no content", "error", "until", "end"])
def test_reconnect_after_the_end_revives_the_source(way: Way, stage: Stage, end: str) -> None:
    """The source is usable again, and reconnect() counts as consent to repeat even a POST."""
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
        # The second stream does not meet `until`.
        way.use(use, stage.url, method="POST", data=b"x", policy=policy, **options)
    assert data == {"until": ["last"], "end": ["1"]}.get(end, [])
    assert [(request.method, request.body) for request in stage.requests] == [("POST", b"x")] * 2


@EVERY_WAY
def test_reconnect_after_close_does_nothing(way: Way, stage: Stage) -> None:
    async def use(source: Any) -> None:
        await source.open()
        source.close()
        source.reconnect()
        source.reconnect(0.0)
        assert source.ready_state is ReadyState.CLOSED
        assert [event async for event in source] == []
        assert source.end_reason is EndReason.CLOSED

    stage.plays = [quiet_stream(b"data: a\n\n"), STREAM_B]
    way.use(use, stage.url, policy=SHORT_DELAY)
    assert len(stage.requests) == 1


@EVERY_WAY
def test_reconnect_with_delay_waits_that_long(way: Way, stage: Stage) -> None:
    """The delay replaces the one that the server asked for."""
    stage.plays = [stream(b"retry: 30000\nid: 1\ndata: a\n\n", end="hang"), STREAM_B]
    times: list[float] = []

    def on_event(source: Any, event: Any) -> None:
        if event.data == "a":
            times.append(time.monotonic())
            source.reconnect(0.1)

    outcome = way.read(stage.url, policy=LONG_DELAY, on_event=on_event, stop_after=2)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert 0.09 < stage.requests[1].arrived - times[0] < PROMPT_SECONDS


@EVERY_WAY
def test_reconnect_during_an_attempt_sends_no_other(way: Way, stage: Stage) -> None:
    """The attempt is what it asks for, so no second request follows it."""
    may_continue = threading.Event()

    def plays(number: int, request: Request) -> Play:
        may_continue.wait(LIMIT)
        return STREAM_B if number else quiet_stream(b"id: 1\ndata: a\n\n")

    stage.plays = plays
    with ThreadedReader(way, stage.url, policy=SHORT_DELAY) as reader:
        wait_until(lambda: stage.requests)
        reader.source.reconnect()
        reader.wait_until_blocked()
        may_continue.set()
        reader.wait_until_blocked(lambda: reader.data)
        # If the `reconnect()` still counted, a second request would come within `min_delay`.
        time.sleep(3 * SHORT_DELAY.min_delay)
        assert len(stage.requests) == 1
        reader.close()
    assert reader.data == ["a"]


@EVERY_WAY
def test_reconnect_during_an_attempt_that_fails_keeps_its_backoff(way: Way, stage: Stage) -> None:
    """A reconnect() is no way to call a refusing server more often."""
    may_continue = threading.Event()

    def plays(number: int, request: Request) -> Play:
        may_continue.wait(LIMIT)
        return STREAM_B if number else Play(503, (), framing="length")

    stage.plays = plays
    policy = ReconnectPolicy(initial_delay=0.4, jitter=0.0, min_delay=0.01)
    with ThreadedReader(way, stage.url, policy=policy) as reader:
        wait_until(lambda: stage.requests)
        reader.source.reconnect()
        may_continue.set()
        reader.wait_until_blocked(lambda: reader.data)
        waited = stage.requests[1].waited
        assert waited is not None
        assert waited > 0.4 - 0.02
        reader.close()


def test_reconnect_on_a_new_stream_waits_its_delay(stage: Stage) -> None:
    """Another thread calls it before the reader has seen the stream: the delay counts."""

    class Source(EventSource):
        streams = 0

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "_opening" and value is None and self._stream is not None:
                self.streams += 1
                if self.streams == 1:
                    thread = threading.Thread(target=self.reconnect, args=(0.2,))
                    thread.start()
                    thread.join()

    stage.plays = [quiet_stream(b"id: 1\ndata: a\n\n"), quiet_stream(b"id: 2\ndata: b\n\n")]
    with Source(stage.url, policy=SHORT_DELAY) as source:
        assert next(source).data == "b"
    assert stage.requests[1].arrived - stage.requests[0].arrived > 0.2


@EVERY_WAY
def test_reconnect_before_first_request_sends_one(way: Way, stage: Stage) -> None:
    async def use(source: Any) -> None:
        source.reconnect()
        assert [event.data async for event in source] == ["a"]

    stage.plays = [stream()]
    way.use(use, stage.url, policy=SHORT_DELAY)
    assert len(stage.requests) == 2


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "1", True, []], ids=repr)
def test_reconnect_invalid_delay_raises(cls: Any, delay: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="delay"):
        cls("http://127.0.0.1").reconnect(delay)
