"""The event that the next connection begins with, if a loop over a source stops.

An event is taken when the next one is asked for. An event that was not taken is sent again.
"""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from sse_fast import ReadyState, ReconnectPolicy
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.delivery import (
    BLOCKS,
    COUNT,
    EVENT_IDS,
    EVENT_NUMBERS,
    IDS_TAKEN,
    NEEDS_SIGNALS,
    ONE_OR_MANY_CHUNKS,
    interrupt_wait,
    numbers,
    numbers_of,
    play_blocks,
    play_from,
    play_until,
)
from tests.support.eventsources import OURS, SOURCES, Way
from tests.support.scripted_server import Play, serve_stage
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO


# -- The consumer stops within an event ------------------------------------------------------------


def leave(way: Way, url: str, k: int, how: str) -> str:
    """Stop at event `k`; return the id that a program would have stored."""

    async def use(source: Any) -> None:
        async with source:
            async for event in source:
                events.append(event)
                # The program may store the id at any time.
                assert source.last_event_id == IDS_TAKEN[len(events) - 1]
                if len(events) < k:
                    continue
                if how == "break":
                    break
                if how == "close":
                    source.close()
                    break
                if how == "cancel":
                    scope.cancel()
                    await anyio.sleep_forever()
                raise KeyError

    async def run(source: Any) -> None:
        nonlocal scope
        with anyio.CancelScope() as scope:
            try:
                await use(source)
            except KeyError:
                assert how == "raise"
        stored.append(source.last_event_id)

    scope: Any = None
    events: list[Any] = []
    stored: list[str] = []
    way.use(run, url)
    assert numbers_of(events) == numbers(1, k)
    assert [event.id for event in events] == EVENT_IDS[:k]
    return stored[0]


def check_left(way: Way, how: str, in_many_chunks: bool) -> None:
    for k in EVENT_NUMBERS:
        with serve_stage([play_blocks(BLOCKS, in_many_chunks), play_from(k)]) as stage:
            stored = leave(way, stage.url, k, how)
            outcome = way.read(stage.url, last_event_id=stored, policy=ReconnectPolicy.never())
        assert stored == IDS_TAKEN[k - 1]
        assert stage.sent() == [None, IDS_TAKEN[k - 1] or None]
        assert numbers_of(outcome.events) == numbers(k, COUNT)
        assert [event.id for event in outcome.events] == EVENT_IDS[k - 1 :]
        assert outcome.source.last_event_id == IDS_TAKEN[-1]


LEAVING = [
    (way, how)
    for way in OURS
    for how in ("break", "raise", "cancel", "close")
    # A thread cannot be cancelled.
    if way.is_async or how != "cancel"
]


@ONE_OR_MANY_CHUNKS
@pytest.mark.parametrize(("way", "how"), LEAVING, ids=lambda value: str(value))
def test_event_of_a_loop_that_was_left_is_sent_again(
    way: Way, how: str, in_many_chunks: bool
) -> None:
    check_left(way, how, in_many_chunks)


def test_event_of_a_left_loop_is_sent_again_by_library(way: Way) -> None:
    check_left(way, "cancel" if way.is_async else "break", in_many_chunks=False)


def test_second_loop_takes_the_event_before(way: Way) -> None:
    """Another loop continues with the next event, and by that takes the one before."""

    async def use(source: Any) -> None:
        for k in EVENT_NUMBERS:
            async for event in source:
                assert int(event.data) == k
                assert source.last_event_id == IDS_TAKEN[k - 1]
                break

    with serve_stage([play_blocks(BLOCKS)]) as stage:
        way.use(use, stage.url)
    assert len(stage.requests) == 1


def test_reconnect_in_a_loop_takes_the_event(way: Way) -> None:
    """The event is taken, because the loop continues."""

    async def use(source: Any) -> list[Any]:
        events = []
        async for event in source:
            events.append(event)
            if len(events) == k:
                source.reconnect()
                assert source.last_event_id == IDS_TAKEN[k - 1]
        return events

    for k in EVENT_NUMBERS:
        with serve_stage(
            [play_blocks(BLOCKS), play_from(k + 1) if k < COUNT else Play(204)]
        ) as stage:
            events = way.use(use, stage.url, policy=NO_DELAY)
        assert numbers_of(events) == numbers(1, COUNT)
        # Events that followed in the same chunk were not delivered, so they do not count.
        assert stage.sent()[:2] == [None, IDS_TAKEN[k] or None]


# -- The consumer stops while it waits for an event ------------------------------------------------


@NEEDS_SIGNALS
@pytest.mark.parametrize("where", ["event", "head", "backoff"])
def test_interrupted_wait_loses_no_event(way: Way, where: str) -> None:
    async def use(source: Any) -> list[Any]:
        # The first connection is not to be interrupted.
        await source.open()
        events = [await source.__anext__() for _ in range(k)]
        async with interrupt_wait(way, lambda: len(stage.requests) >= least):
            await source.__anext__()
        # All of the events are taken, as the next one was asked for.
        assert source.last_event_id == IDS_TAKEN[k]
        # An async wait leaves everything as it is.
        keeps = way.is_async and where == "event"
        if where == "backoff":
            # The stream may not have ended yet.
            assert source.ready_state in (ReadyState.OPEN, ReadyState.CONNECTING)
        else:
            assert source.ready_state is (ReadyState.OPEN if keeps else ReadyState.CONNECTING)
        if keeps or where == "head":
            source.reconnect()
        events += [event async for event in source]
        return events

    # The number of events delivered before only matters within the stream.
    for k in [0, *EVENT_NUMBERS] if where == "event" else [2]:
        first = play_until(k + 1)
        if where == "event":
            plays = [first]
        else:
            first.end = "fin"
            plays = [first, Play(framing="none", end="hang")] if where == "head" else [first]
        policy = NO_DELAY if where != "backoff" else ReconnectPolicy(min_delay=0.1, initial_delay=0)
        plays.append(play_from(k + 1) if k < COUNT else Play(204))
        # The interruption must not come before the request that it is to interrupt.
        least = 2 if where == "head" else 1
        with serve_stage(plays) as stage:
            events = way.use(use, stage.url, policy=policy)
        assert numbers_of(events) == numbers(1, COUNT)
        assert stage.sent()[: len(plays)] == [None, *[IDS_TAKEN[k] or None] * (len(plays) - 1)]


def test_wait_for_timeout_loses_no_event() -> None:
    """Depending on the version of Python, wait_for cancels this task or a task around the wait."""

    async def use(source: Any) -> list[int]:
        seen = []
        while True:
            try:
                seen.append(int((await asyncio.wait_for(source.__anext__(), 0.15)).data))
            except asyncio.TimeoutError:
                continue
            except StopAsyncIteration:
                return seen

    plays = [play_until(3, end="rst", delay=200), play_from(3, delay=200), Play(204)]
    with serve_stage(plays) as stage:
        assert SOURCES["sse_fast asyncio"].use(use, stage.url, policy=NO_DELAY) == numbers(1, COUNT)
    assert stage.sent() == [None, "c", "d"]
