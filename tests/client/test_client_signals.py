"""Signal handlers that raise an Exception: it is no failure of the network, and comes out."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from sse_fast import EventSource
from tests.support.delivery import NEEDS_SIGNALS, NUMBERED, interrupt
from tests.support.eventsources import SOURCES, Way, way_params
from tests.support.scripted_server import Play, Stage, stream
from tests.support.threaded_reader import NO_DELAY

pytestmark = NEEDS_SIGNALS


class Alarm(Exception):
    """The exception of a handler, such as programs raise for a time limit."""


SYNC = [way for way in SOURCES.values() if not way.is_async]
ERRORS = pytest.mark.parametrize("error", [Alarm, TimeoutError, KeyboardInterrupt])


@ERRORS
@pytest.mark.parametrize("how", ["loop", "next_event", "run"])
@pytest.mark.parametrize("way", way_params(SYNC))
def test_handler_error_in_a_read_comes_out(way: Way, how: str, error: Any, stage: Stage) -> None:
    """Libraries may have lost bytes in the read, so the source asks for them again."""
    stage.plays = [
        Play(body=[NUMBERED[0]], framing="chunked", end="hang", delay=3.0),
        stream(*NUMBERED[1:]),
    ]
    seen: list[str] = []
    failures: list[Exception] = []

    async def use(source: Any) -> None:
        seen.append((await anext(source)).data)
        with interrupt(error=error):
            if how == "run":
                await source.run(lambda event: seen.append(event.data))
            else:
                await (source.next_event() if how == "next_event" else anext(source))
        async for event in source:
            seen.append(event.data)

    way.use(use, stage.url, policy=NO_DELAY, on_error=failures.append)
    assert seen == [str(number) for number in range(1, 6)]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1", b"5"]
    assert failures == []


@ERRORS
def test_handler_error_in_timed_wait_comes_out(error: Any, stage: Stage) -> None:
    # A connection that the signal has spared goes on, and ends.
    was_interrupted = threading.Event()
    stage.plays = [
        Play(body=[NUMBERED[0]], framing="chunked", end=was_interrupted, delay=3.0),
        stream(*NUMBERED[1:]),
    ]
    with EventSource(stage.url, policy=NO_DELAY) as source:
        assert next(source).data == "1"
        with interrupt(error=error):
            source.next_event(30)
        was_interrupted.set()
        assert [event.data for event in source] == ["2", "3", "4", "5"]


@ERRORS
def test_handler_error_in_wait_for_attempt_comes_out(error: Any, stage: Stage) -> None:
    """The attempt goes on, and no request is sent twice."""
    stage.plays = [stream(NUMBERED[0], head_delay=100.0)]
    source = EventSource(stage.url, method="POST", policy=NO_DELAY)
    with interrupt(error=error):
        source.open()
    assert [event.data for event in source] == ["1"]
    assert len(stage.requests) == 1
