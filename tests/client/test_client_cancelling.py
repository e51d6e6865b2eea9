"""Waits that are cancelled, and a second reader."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import ModuleType
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import ReadyState, ReconnectPolicy
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import SOURCES, Way
from tests.support.scripted_server import Play, Request, Stage, serve_stage, stream
from tests.support.threaded_reader import (
    ASYNCIO,
    AT_ONCE,
    AWAITING,
    BLOCKING,
    FAST,
    MUTE,
    OF_TRIO,
    SETTLED,
    SLOW,
    B,
    Reading,
    marked,
    quiet,
    settled,
    wait_until,
)

pytestmark = UNREAD_UNDER_TRIO


# -- Cancelled waits -------------------------------------------------------------------------------


async def cancelled_by_task(
    wait: Callable[[], Awaitable[Any]], condition: Callable[[], object]
) -> None:
    task = asyncio.ensure_future(wait())
    await settled(condition)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled_by_wait_for(
    wait: Callable[[], Awaitable[Any]], condition: Callable[[], object]
) -> None:
    # It cannot be told to wait for the condition.
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(wait(), 4 * SETTLED if condition() else 0.5)
    assert condition()


async def cancelled_by_scope(
    wait: Callable[[], Awaitable[Any]], condition: Callable[[], object]
) -> None:
    async def cancel() -> None:
        await settled(condition)
        tasks.cancel_scope.cancel()

    got: list[Any] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        got.append(await wait())
    assert got == []


HOW = {
    "task": cancelled_by_task,
    "wait_for": cancelled_by_wait_for,
    "scope": cancelled_by_scope,
}
CANCELLING = [
    pytest.param(way, how, id=f"{way}-{how}", marks=[OF_TRIO] if way.backend == "trio" else [])
    for way in AWAITING
    for how in HOW
    if way.backend == "asyncio" or how == "scope"
]


@pytest.mark.parametrize(("way", "how"), CANCELLING)
def test_a_cancelled_wait_loses_no_event(way: Way, how: str, stage: Stage) -> None:
    """The next one connects anew, from the last event that was taken."""
    stage.plays = [MUTE, quiet(b"id: 1\ndata: a\n\n"), Play(503, ()), B]
    policy = ReconnectPolicy(initial_delay=30.0, jitter=0.0, min_delay=0.01)
    errors: list[Exception] = []

    async def use(source: Any) -> None:
        cancelled = partial(HOW[how], lambda: anext(source))
        # Before the head has come.
        await cancelled(lambda: stage.requests)
        assert source.ready_state is ReadyState.CONNECTING
        assert (await anext(source)).data == "a"
        assert source.last_event_id == ""
        # While it is quiet.
        await cancelled(lambda: True)
        assert source.last_event_id == "1"
        assert source.end_reason is None
        assert source.ready_state is ReadyState.CONNECTING
        # While it waits to ask again, which goes on.
        await cancelled(lambda: errors)
        await cancelled(lambda: True)
        assert len(stage.requests) == 3
        source.reconnect()
        assert (await anext(source)).data == "b"

    way.use(use, stage.url, policy=policy, on_error=errors.append)
    ids = [request.get("Last-Event-ID") for request in stage.requests]
    assert ids == [None, None, b"1", b"1"]
    assert [request.open for request in stage.requests] == [0, 0, 0, 0]


@pytest.mark.parametrize("way", marked(AWAITING))
def test_a_cancelled_post_is_not_sent_again(way: Way, stage: Stage) -> None:
    """By itself: the program may want it."""

    async def use(source: Any) -> None:
        assert (await anext(source)).data == "a"
        await cancelled_by_scope(lambda: anext(source), lambda: True)
        with pytest.raises(sse_fast.StreamIncomplete):
            await anext(source)
        assert len(stage.requests) == 1
        source.reconnect()
        assert (await anext(source)).data == "b"

    stage.plays = [quiet(b"id: 1\ndata: a\n\n"), B]
    way.use(use, stage.url, policy=FAST, method="POST", data=b"x")
    assert stage.requests[1].get("Last-Event-ID") == b"1"


@pytest.mark.parametrize("way", ASYNCIO, ids=str)
def test_trio_in_the_midst_of_its_import(
    way: Way, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By another thread: the module is known, and empty."""
    stage.plays = [Play(503, body=[b"busy"]), B]

    async def use(source: Any) -> None:
        monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))
        assert (await anext(source)).data == "b"

    way.use(use, stage.url, policy=AT_ONCE)


@pytest.mark.parametrize("while_", ["on_message", "quiet", "head", "__aenter__"])
def test_a_loop_that_ends_before_its_task(while_: str, stage: Stage) -> None:
    """It is closed where it stands, and nothing can be awaited any more."""
    stage.plays = [quiet(b"data: a\n\n") if while_ in ("on_message", "quiet") else MUTE]
    source = sse_fast.AsyncEventSource(stage.url)
    got: list[Any] = []

    async def on_message(event: Any) -> None:
        got.append(event)
        if while_ == "on_message":
            await asyncio.Event().wait()

    async def begin() -> Any:
        work = source.__aenter__() if while_ == "__aenter__" else source.run(on_message)
        task = asyncio.ensure_future(work)
        await settled(lambda: stage.requests if stage.plays == [MUTE] else got)
        return task.get_coro()

    loop = asyncio.new_event_loop()
    # Of the task that never ends.
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(begin()).close()
    loop.run_until_complete(source.aclose())
    loop.close()
    wait_until(lambda: stage.open == 0)


def counting(number: int, request: Request) -> Play:
    """Events from the id on, a few of them at a time."""
    first = int(request.get("Last-Event-ID") or 0) + 1
    parts = [b"id: %d\ndata: %d\n\n" % (each, each) for each in range(first, first + 4)]
    return stream(*parts, delay=7, end="hang")


@pytest.mark.parametrize("name", [way.name for way in AWAITING if way.backend == "asyncio"])
def test_a_loop_of_short_waits_gets_every_event_once(name: str, stage: Stage) -> None:
    """Whatever the moment at which a wait is cut short."""
    stage.plays = counting
    data: list[int] = []

    async def use(source: Any) -> None:
        waits = 0
        while len(data) < 40:
            waits += 1
            assert waits < 2000
            with suppress(asyncio.TimeoutError):
                event = await asyncio.wait_for(anext(source), 0.002 + waits % 7 / 200)
                data.append(int(event.data))

    SOURCES[name].use(use, stage.url, policy=FAST)
    assert data == list(range(1, 41))


def poll(way: Way) -> tuple[int, float]:
    """The requests that a second of polling comes to, and how long it was."""
    with serve_stage(
        lambda number, request: MUTE if number % 2 else quiet(b": nothing\n\n")
    ) as one:

        async def use(source: Any) -> float:
            began = time.monotonic()
            while time.monotonic() - began < 1.0:
                with anyio.move_on_after(0.05):
                    await anext(source)
            return time.monotonic() - began

        seconds = way.use(use, one.url)
        return len(one.requests), seconds


@OF_TRIO
def test_a_loop_of_short_waits_is_no_storm() -> None:
    """At most ten requests a second; every way at once, as all that takes time is waiting."""
    with ThreadPoolExecutor(len(AWAITING)) as pool:
        for way, (count, seconds) in zip(AWAITING, pool.map(poll, AWAITING), strict=True):
            assert 1 <= count <= 10 * seconds + 1, way


# -- Only one reader -------------------------------------------------------------------------------


def plays_while(while_: str, go: threading.Event) -> list[Play]:
    """What keeps a reader waiting like that, until it may go on to the event "b"."""
    return {
        "head": [Play(framing="none", end=go), B],
        "quiet": [Play(body=[b"id: 1\ndata: a\n\n", go, b"id: 2\ndata: b\n\n"], end="hang")],
        "backoff": [stream(), B],
    }[while_]


async def ask_by_next(source: Any) -> None:
    await anext(source)


async def ask_by_open(source: Any) -> None:
    await source.open()


async def ask_by_run(source: Any) -> None:
    await source.run(print)


def ways_to_ask(while_: str) -> list[Callable[[Any], Any]]:
    # Where there is a connection, open() has nothing to do.
    return [ask_by_next, ask_by_run, *([] if while_ == "quiet" else [ask_by_open])]


@pytest.mark.parametrize("while_", ["head", "quiet", "backoff"])
@pytest.mark.parametrize("way", BLOCKING, ids=str)
def test_a_second_thread_is_refused(way: Way, stage: Stage, while_: str) -> None:
    """And leaves the first one as it was."""
    go = threading.Event()
    stage.plays = plays_while(while_, go)
    errors: list[Exception] = []
    with Reading(way, stage.url, policy=SLOW, on_error=errors.append) as reading:
        wait_until(lambda: stage.requests if while_ == "head" else reading.data)
        time.sleep(SETTLED)
        for ask in ways_to_ask(while_):
            with pytest.raises(RuntimeError, match="thread or task"):
                anyio.run(ask, reading.source)
        assert errors == []
        go.set()
        if while_ != "quiet":
            wait_until(lambda: errors or while_ == "backoff")
            reading.source.reconnect()
        wait_until(lambda: "b" in reading.data)
        reading.close()
    assert reading.data == (["b"] if while_ == "head" else ["a", "b"])
    assert len(stage.requests) == (1 if while_ == "quiet" else 2)


@pytest.mark.parametrize("while_", ["head", "quiet", "backoff"])
@pytest.mark.parametrize("way", marked(AWAITING))
def test_a_second_task_is_refused(way: Way, stage: Stage, while_: str) -> None:
    go = threading.Event()
    stage.plays = plays_while(while_, go)
    errors: list[Exception] = []

    async def use(source: Any) -> None:
        async def read() -> None:
            async for event in source:
                data.append(event.data)
                if event.data == "b":
                    break

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await settled(lambda: stage.requests if while_ == "head" else data)
            for ask in ways_to_ask(while_):
                with pytest.raises(RuntimeError, match="thread or task"):
                    await ask(source)
            assert errors == []
            go.set()
            if while_ != "quiet":
                await settled(lambda: errors or while_ == "backoff")
                source.reconnect()

    data: list[str] = []
    way.use(use, stage.url, policy=SLOW, on_error=errors.append)
    assert data == (["b"] if while_ == "head" else ["a", "b"])
    assert len(stage.requests) == (1 if while_ == "quiet" else 2)
