"""`next_event(timeout=)`: a wait with a limit, over responses, streams and reconnects."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from sse_fast import EndReason, ReconnectPolicy
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import OURS, SOURCES, Way, way_params
from tests.support.scripted_server import Play, Stage, stream
from tests.support.threaded_reader import NO_DELAY, OF_TRIO, quiet_stream

pytestmark = [UNREAD_UNDER_TRIO, OF_TRIO]

SHORT = 0.05
# Over these, the stream can be waited for with a limit.
LIMITED = [way for way in SOURCES.values() if way.is_async or not way.has_client]
UNLIMITED = [way for way in SOURCES.values() if way not in LIMITED]


async def next_event(source: Any, timeout: float | None = None) -> Any:
    """Call `next_event` of either client."""
    result = source.next_event(timeout)
    return await result if hasattr(result, "__await__") else result


async def time_out(source: Any, times: int = 3) -> None:
    for _ in range(times):
        began = time.monotonic()
        with pytest.raises(TimeoutError, match=r"within 0\.05 seconds"):
            await next_event(source, SHORT)
        assert time.monotonic() - began < 2.0


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("way", way_params(LIMITED, [*OURS, SOURCES["httpx trio"]]))
def test_next_event_times_out_and_loses_nothing(way: Way, stage: Stage, method: str) -> None:
    """Neither before the response nor in the quiet stream is the request sent again."""
    may_answer, may_continue = threading.Event(), threading.Event()
    parts: list[Any] = [b"id: 1\ndata: a\n\n", may_continue, b"data: b\n\ndata: c\n\n"]
    # The head waits for the first part of the body.
    stage.plays = [stream(*parts, head_delay=400.0)]
    policy = ReconnectPolicy(reconnect_on_end=False)

    async def use(source: Any) -> list[str]:
        await time_out(source)
        got = [(await next_event(source, 10.0)).data]
        await time_out(source)
        assert source.last_event_id == "1"
        may_continue.set()
        got += [(await next_event(source, 10.0)).data, (await next_event(source, 0.0)).data]
        assert await next_event(source, 10.0) is None
        assert source.end_reason is EndReason.END
        assert await next_event(source, 10.0) is None
        return got

    assert not may_answer.is_set()
    assert way.use(use, stage.url, method=method, policy=policy) == ["a", "b", "c"]
    assert len(stage.requests) == 1


@pytest.mark.parametrize("way", way_params(OURS))
def test_next_event_limits_the_wait_for_the_next_attempt(way: Way, stage: Stage) -> None:
    stage.plays = [stream(framing="chunked-truncated"), Play(503, ()), stream(b"data: b\n\n")]
    policy = ReconnectPolicy(initial_delay=0.5, multiplier=1.0, jitter=0.0, min_delay=0.0)

    async def use(source: Any) -> None:
        assert (await next_event(source)).data == "a"
        await time_out(source, 4)
        assert (await next_event(source, 10.0)).data == "b"

    way.use(use, stage.url, policy=policy)
    waits = [request.waited for request in stage.requests[1:3]]
    assert [wait is not None and 0.4 < wait < 3.0 for wait in waits] == [True, True]


@pytest.mark.parametrize("way", way_params(OURS))
def test_next_event_mixes_with_iteration(way: Way, stage: Stage) -> None:
    stage.plays = [stream(b"data: a\n\ndata: b\n\ndata: c\n\n"), stream(b"data: d\n\n")]

    async def use(source: Any) -> list[str]:
        got = [(await anext(source)).data, (await next_event(source, 5.0)).data]
        got += [(await anext(source)).data, (await next_event(source)).data]
        return got

    assert way.use(use, stage.url, policy=NO_DELAY) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("way", way_params(UNLIMITED, UNLIMITED))
def test_next_event_that_cannot_be_limited_raises(way: Way, stage: Stage) -> None:
    """It never waits without a limit instead, and the stream goes on."""
    stage.plays = [quiet_stream(b"data: a\n\n")]

    async def use(source: Any) -> None:
        began = time.monotonic()
        with pytest.raises(TypeError, match="limited time"):
            await next_event(source, 5.0)
        assert time.monotonic() - began < 4.0
        assert (await next_event(source)).data == "a"

    way.use(use, stage.url, policy=NO_DELAY)
    assert len(stage.requests) == 1


@pytest.mark.parametrize("timeout", [-1, "1", True, float("inf"), float("nan")])
@pytest.mark.parametrize("way", way_params(OURS))
def test_next_event_refuses_wrong_timeout(way: Way, stage: Stage, timeout: Any) -> None:
    async def use(source: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="timeout"):
            await next_event(source, timeout)

    way.use(use, stage.url)
    assert stage.requests == []


@pytest.mark.parametrize("way", way_params(OURS))
def test_close_after_a_wait_that_was_given_up_ends_the_request(way: Way, stage: Stage) -> None:
    """Nobody waits for the response, and close() gives it up all the same."""
    stage.plays = [Play(framing="none", end="hang")]

    async def use(source: Any) -> None:
        await time_out(source, 1)
        source.close()
        assert await next_event(source) is None

    way.use(use, stage.url)
    deadline = time.monotonic() + 5
    while stage.open and time.monotonic() < deadline:
        time.sleep(0.01)
    assert stage.open == 0
