"""How long a source waits: `idle_timeout` for bytes, `event_timeout` for events."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import chain, repeat
from typing import Any

import anyio
import pytest

from sse_fast import EndReason, ReconnectPolicy, StreamTimeout
from tests.support.callback_styles import AttemptTimes, Errors
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, SOURCES, Way
from tests.support.scripted_server import Play, Stage, serve_stage
from tests.support.threaded_reader import NO_DELAY, OURS_OR_OTHERS, check_together

pytestmark = UNREAD_UNDER_TRIO

POST: dict[str, Any] = {"method": "POST", "data": b"x"}
TIMEOUT = 0.3
# A timeout within which the head of a response has to come, too.
LONG_TIMEOUT = 0.6
PING = 0.05  # seconds
# Seconds that a busy machine may add.
LATE = 1.0
EVENT = b"id: 1\ndata: a\n\n"


def play_pings(seconds: float, *last: bytes) -> Play:
    """Play a comment every `PING` seconds, then `last`, then nothing."""
    body = [*repeat(b": ping\n", round(seconds / PING)), *last]
    return Play(body=body, framing="chunked", delay=PING * 1000, end="hang")


def check_idle_timeout(way: Way) -> None:
    """Comments keep the connection alive, and silence ends it."""
    attempts, errors = AttemptTimes(), Errors()
    with serve_stage([play_pings(2 * TIMEOUT, EVENT)]) as stage:
        outcome = way.read(
            stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, headers=attempts, on_error=errors
        )
    assert [event.data for event in outcome.events] == ["a"]
    # On a busy machine, the answer to the second request may be late, too.
    assert {type(error) for error in errors} == {StreamTimeout}
    assert set(stage.sent()[1:]) == {"1"}
    assert 3 * TIMEOUT < attempts.gaps[0] < 3 * TIMEOUT + LATE


def check_idle_timeout_of_a_post(way: Way) -> None:
    with serve_stage([play_pings(0.0, EVENT)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, **POST)
    assert isinstance(outcome.error, StreamTimeout)
    assert [event.data for event in outcome.events] == ["a"]
    assert outcome.source.last_event_id == "1"
    assert len(stage.requests) == 1


def check_idle_timeout_before_the_head(way: Way) -> None:
    attempts = AttemptTimes()
    silent = Play(framing="none", end="hang")
    with serve_stage([silent]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, headers=attempts)
    assert outcome.error is None
    assert len(stage.requests) >= 2
    assert TIMEOUT < attempts.gaps[0] < TIMEOUT + LATE

    with serve_stage([silent]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, idle_timeout=TIMEOUT, **POST)
    assert isinstance(outcome.error, StreamTimeout)
    assert len(stage.requests) == 1


def check_event_timeout(way: Way) -> None:
    """Comments do not extend the timeout. In silence, it may come one read timeout late."""
    attempts, errors = AttemptTimes(), Errors()
    # Two silent streams, as each waits for its head, too.
    quiet = play_pings(TIMEOUT / 2)
    with serve_stage([play_pings(10 * TIMEOUT), quiet, quiet]) as stage:
        outcome = way.read(
            stage.url, policy=NO_DELAY, event_timeout=TIMEOUT, headers=attempts, on_error=errors
        )
    assert outcome.error is None
    assert {type(error) for error in errors} == {StreamTimeout}
    by_clock, *by_silence = attempts.gaps[:3]
    assert TIMEOUT < by_clock < TIMEOUT + PING + LATE / 2
    assert TIMEOUT < min(by_silence) < 2 * TIMEOUT + LATE / 2


def check_event_timeout_of_a_post(way: Way) -> None:
    with serve_stage([play_pings(10 * TIMEOUT)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, event_timeout=TIMEOUT, **POST)
    assert isinstance(outcome.error, StreamTimeout)
    assert len(stage.requests) == 1


def run_slow_consumer(way: Way, by_callback: bool) -> None:
    """Check that no event is late while the consumer does not wait for one."""
    pause = 1.5 * LONG_TIMEOUT

    async def asleep(event: Any) -> None:
        await anyio.sleep(pause)

    def sleep(event: Any) -> None:
        time.sleep(pause)

    async def use(source: Any) -> None:
        if by_callback:
            await source.run(asleep if way.is_async else sleep)
            return
        async for event in source:
            if way.is_async:
                await asleep(event)
            else:
                sleep(event)

    errors = Errors()
    # The stream is quiet for too long, but the consumer is busy; the last event is there already
    # when it asks.
    body = [EVENT, EVENT + EVENT]
    delay = 1.2 * LONG_TIMEOUT * 1000
    with serve_stage([Play(body=body, framing="chunked", delay=delay)]) as stage:
        way.use(use, stage.url, policy=NO_DELAY, event_timeout=LONG_TIMEOUT, on_error=errors)
    assert errors == []
    assert len(stage.requests) == 2


def check_slow_consumer(way: Way) -> None:
    run_slow_consumer(way, by_callback=False)


def check_slow_on_message(way: Way) -> None:
    run_slow_consumer(way, by_callback=True)


@pytest.mark.parametrize(
    "check",
    [
        check_idle_timeout,
        check_idle_timeout_of_a_post,
        check_idle_timeout_before_the_head,
        check_event_timeout,
        check_event_timeout_of_a_post,
        check_slow_consumer,
        check_slow_on_message,
    ],
    ids=lambda check: check.__name__.removeprefix("check_"),
)
@OURS_OR_OTHERS
def test_timeout_ends_only_late_streams(ways: list[Way], check: Callable[[Way], None]) -> None:
    # Four at a time: a client that is short of CPU time would take the server for quiet.
    check_together(check, ways, at_once=4)


def test_shorter_of_two_timeouts_counts() -> None:
    way = SOURCES["sse_fast"]
    for options in [
        {"idle_timeout": TIMEOUT, "event_timeout": 5.0},
        {"idle_timeout": 5.0, "event_timeout": TIMEOUT},
    ]:
        attempts = AttemptTimes()
        with serve_stage([play_pings(0.0, EVENT)]) as stage:
            way.read(stage.url, policy=NO_DELAY, headers=attempts, **options)
        assert TIMEOUT < attempts.gaps[0] < TIMEOUT + LATE


def test_timeout_none_waits_without_limit() -> None:
    way = SOURCES["sse_fast"]
    with serve_stage([Play(body=[EVENT, EVENT], delay=TIMEOUT * 1000)]) as stage:
        outcome = way.read(
            stage.url, policy=ReconnectPolicy.never(), idle_timeout=None, event_timeout=None
        )
    assert len(outcome.events) == 2
    assert outcome.source.end_reason is EndReason.END


@BY_US
def test_timeouts_are_passed_to_the_transport(way: Way, stage: Stage) -> None:
    """A timeout of None reaches the transport as None."""
    given: list[tuple[Any, ...]] = []

    async def use(wrapper: Any) -> None:
        # A blocking source is wrapped into one with the async interface.
        source = getattr(wrapper, "_source", wrapper)
        send = source._send_request

        def record(request: Any, *timeouts: Any, **options: Any) -> Any:
            given.append(timeouts)
            return send(request, *timeouts, **options)

        source._send_request = record
        assert (await wrapper.open()).status == 200

    for options in [
        {"connect_timeout": None, "idle_timeout": None, "event_timeout": None},
        {"connect_timeout": 7.0, "idle_timeout": 8.0},
    ]:
        stage.plays = [Play(body=[EVENT])]
        stage.requests.clear()
        way.use(use, stage.url, policy=ReconnectPolicy.never(), **options)
    assert given == [(None, None), (7.0, 8.0)]


def test_sync_event_timeout_ends_a_read() -> None:
    """The blocking client does not wait until bytes arrive or a read times out."""
    play = Play(body=[b": a\n\n"] * 50, delay=0.6 * TIMEOUT * 1000)
    with serve_stage([play]) as stage:
        began = time.monotonic()
        outcome = SOURCES["sse_fast"].read(stage.url, method="POST", event_timeout=TIMEOUT)
    assert isinstance(outcome.error, StreamTimeout)
    assert "event_timeout" in str(outcome.error)
    assert TIMEOUT < time.monotonic() - began < 3 * TIMEOUT


@BY_US
def test_event_timeout_restarts_with_each_event(way: Way) -> None:
    """The clock restarts with each event."""
    body = list(chain.from_iterable([b": ping\n", EVENT] for _ in range(6)))
    with serve_stage([Play(body=body, delay=PING * 1000)]) as stage:
        outcome = way.read(stage.url, policy=ReconnectPolicy.never(), event_timeout=TIMEOUT)
    assert outcome.error is None
    assert len(outcome.events) == 6


@pytest.mark.parametrize("option", ["event_timeout", "idle_timeout"])
def test_timeout_names_the_setting_that_ended_it(way: Way, stage: Stage, option: str) -> None:
    """The read timeout of a library comes first, or ours."""
    stage.plays = [Play(body=[EVENT], end="hang")]
    options: dict[str, Any] = {option: TIMEOUT}
    outcome = way.read(stage.url, policy=ReconnectPolicy.never(), **options)
    assert isinstance(outcome.error, StreamTimeout)
    assert re.search(f"(raise|increase) {option}", str(outcome.error))
