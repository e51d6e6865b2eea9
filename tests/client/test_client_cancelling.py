"""Cancelled waits lose no event, and a second reader is refused."""

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
from tests.support.eventsources import ASYNC_OURS, Way
from tests.support.scripted_server import Play, Request, Stage, serve_stage, stream
from tests.support.threaded_reader import (
    ASYNC_WAYS,
    ASYNCIO_WAYS,
    LONG_DELAY,
    NO_DELAY,
    OF_TRIO,
    SHORT_DELAY,
    SILENCE,
    STREAM_B,
    SYNC_WAYS,
    ThreadedReader,
    each_way,
    marks_of,
    quiet_stream,
    wait_until,
    wait_until_others_blocked,
)

pytestmark = UNREAD_UNDER_TRIO


# -- Cancelled waits -------------------------------------------------------------------------------


async def cancel_task(wait: Callable[[], Awaitable[Any]], condition: Callable[[], object]) -> None:
    task = asyncio.ensure_future(wait())
    await wait_until_others_blocked(condition)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancel_by_wait_for(
    wait: Callable[[], Awaitable[Any]], condition: Callable[[], object]
) -> None:
    # wait_for cannot wait for the condition, so give it the time to become true.
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(wait(), 0.05 if condition() else 0.5)
    assert condition()


async def cancel_scope(wait: Callable[[], Awaitable[Any]], condition: Callable[[], object]) -> None:
    async def cancel() -> None:
        await wait_until_others_blocked(condition)
        tasks.cancel_scope.cancel()

    got: list[Any] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        got.append(await wait())
    assert got == []


CANCEL = {
    "task": cancel_task,
    "wait_for": cancel_by_wait_for,
    "scope": cancel_scope,
}
CANCELLING = [
    pytest.param(way, how, id=f"{way}-{how}", marks=marks_of(way, ASYNC_OURS))
    for way in ASYNC_WAYS
    for how in CANCEL
    if way.backend == "asyncio" or how == "scope"
]


def not_repeated(way: Way) -> dict[str, Any]:
    """Return options of a request that the library does not repeat on its own, as aiohttp a GET."""
    return {"method": "POST", "resend": True} if way.library == "aiohttp" else {}


@pytest.mark.parametrize(("way", "how"), CANCELLING)
def test_cancelled_wait_loses_no_event(way: Way, how: str, stage: Stage) -> None:
    """The next wait goes on where it was: for a response, an event, or the next attempt."""
    may_answer, may_continue = threading.Event(), threading.Event()
    parts = [b"id: 1\ndata: a\n\n", may_continue, b"id: 2\ndata: b\n\n"]
    stage.plays = [
        Play(framing="none", end=may_answer),
        Play(body=[may_answer, *parts], framing="chunked-truncated"),
        Play(503, ()),
        stream(b"id: 3\ndata: c\n\n"),
    ]
    policy = ReconnectPolicy(initial_delay=30.0, jitter=0.0, min_delay=0.01)
    errors: list[Exception] = []

    async def use(source: Any) -> None:
        cancel = partial(CANCEL[how], lambda: anext(source))
        # Before the head of the response.
        for _ in range(3):
            await cancel(lambda: stage.requests)
            assert source.ready_state is ReadyState.CONNECTING
        assert len(stage.requests) == 1
        may_answer.set()
        assert (await anext(source)).data == "a"
        assert source.last_event_id == ""
        # While the stream is quiet.
        for _ in range(3):
            await cancel(lambda: True)
            assert source.last_event_id == "1"
            assert source.end_reason is None
            assert source.ready_state is ReadyState.OPEN
        may_continue.set()
        assert (await anext(source)).data == "b"
        # While the next attempt is waited for. The wait continues after a cancellation.
        await cancel(lambda: len(errors) == 2)
        await cancel(lambda: True)
        assert len(stage.requests) == 2
        source.reconnect()
        await cancel(lambda: len(errors) == 3)
        source.reconnect()
        assert (await anext(source)).data == "c"

    def on_error(error: Exception) -> float | None:
        errors.append(error)
        return 0.0 if len(errors) == 1 else None

    way.use(use, stage.url, policy=policy, on_error=on_error, **not_repeated(way))
    ids = [request.get("Last-Event-ID") for request in stage.requests]
    assert ids == [None, None, b"2", b"2"]
    assert [request.open for request in stage.requests] == [0, 0, 0, 0]


@each_way(ASYNC_WAYS, ASYNC_OURS)
def test_post_outlives_cancelled_waits(way: Way, stage: Stage) -> None:
    """It is sent once, and every event arrives; only a call of reconnect() sends it again."""
    may_continue = threading.Event()

    async def use(source: Any) -> None:
        for _ in range(5):
            await cancel_scope(lambda: anext(source), lambda: stage.requests)
        assert (await anext(source)).data == "a"
        for _ in range(5):
            await cancel_scope(lambda: anext(source), lambda: True)
        may_continue.set()
        assert (await anext(source)).data == "b"
        with pytest.raises(StopAsyncIteration):
            await anext(source)
        assert len(stage.requests) == 1
        source.reconnect()
        assert (await anext(source)).data == "b"

    parts: list[Any] = [b"id: 1\ndata: a\n\n", may_continue, b"id: 2\ndata: b\n\n"]
    stage.plays = [stream(*parts, head_delay=300.0), STREAM_B]
    way.use(use, stage.url, policy=SHORT_DELAY, method="POST", data=b"x")
    assert stage.requests[1].get("Last-Event-ID") == b"2"


@each_way(ASYNCIO_WAYS)
def test_half_imported_trio_is_ignored(
    way: Way, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread is importing trio: the module is in sys.modules, but empty."""
    stage.plays = [Play(503, body=[b"busy"]), STREAM_B]

    async def use(source: Any) -> None:
        monkeypatch.setitem(sys.modules, "trio", ModuleType("trio"))
        assert (await anext(source)).data == "b"

    way.use(use, stage.url, policy=NO_DELAY)


@pytest.mark.parametrize("phase", ["on_message", "quiet", "head", "__aenter__"])
def test_event_loop_closed_before_its_task(phase: str, stage: Stage) -> None:
    """Its coroutine is closed where it waits, and nothing can be awaited any more."""
    stage.plays = [quiet_stream(b"data: a\n\n") if phase in ("on_message", "quiet") else SILENCE]
    source = sse_fast.AsyncEventSource(stage.url)
    got: list[Any] = []

    async def on_message(event: Any) -> None:
        got.append(event)
        if phase == "on_message":
            await asyncio.Event().wait()

    async def begin() -> Any:
        work = source.__aenter__() if phase == "__aenter__" else source.run(on_message)
        task = asyncio.ensure_future(work)
        await wait_until_others_blocked(lambda: stage.requests if stage.plays == [SILENCE] else got)
        return task.get_coro()

    loop = asyncio.new_event_loop()
    # The loop reports the task that never ends.
    loop.set_exception_handler(lambda loop, context: None)
    loop.run_until_complete(begin()).close()
    loop.run_until_complete(source.aclose())
    loop.close()
    wait_until(lambda: stage.open == 0)


def play_next_four(number: int, request: Request) -> Play:
    """Play the four events that follow the Last-Event-ID, one at a time."""
    first = int(request.get("Last-Event-ID") or 0) + 1
    parts = [b"id: %d\ndata: %d\n\n" % (each, each) for each in range(first, first + 4)]
    return stream(*parts, delay=7)


@each_way(ASYNCIO_WAYS)
def test_short_waits_get_every_event_once(way: Way, stage: Stage) -> None:
    """A wait may time out at any moment."""
    stage.plays = play_next_four
    data: list[int] = []

    async def use(source: Any) -> None:
        waits = 0
        while len(data) < 40:
            waits += 1
            assert waits < 2000
            with suppress(asyncio.TimeoutError):
                event = await asyncio.wait_for(anext(source), 0.002 + waits % 7 / 200)
                data.append(int(event.data))

    way.use(use, stage.url, policy=SHORT_DELAY)
    assert data == list(range(1, 41))


def poll(way: Way) -> tuple[int, float]:
    """Poll for a second; return the number of requests and the seconds that it took."""
    with serve_stage(
        lambda number, request: SILENCE if number % 2 else quiet_stream(b": nothing\n\n")
    ) as stage:

        async def use(source: Any) -> float:
            began = time.monotonic()
            while time.monotonic() - began < 1.0:
                with anyio.move_on_after(0.05):
                    await anext(source)
            return time.monotonic() - began

        seconds = way.use(use, stage.url)
        return len(stage.requests), seconds


@OF_TRIO
@pytest.mark.parametrize(
    "ways",
    [
        pytest.param(ASYNC_OURS, id="ours"),
        pytest.param(
            [way for way in ASYNC_WAYS if way not in ASYNC_OURS],
            id="others",
            marks=pytest.mark.matrix,
        ),
    ],
)
def test_short_waits_send_at_most_ten_requests_a_second(ways: list[Way]) -> None:
    """The ways run together, since they spend their time waiting."""
    with ThreadPoolExecutor(len(ways)) as pool:
        for way, (count, seconds) in zip(ways, pool.map(poll, ways), strict=True):
            assert 1 <= count <= 10 * seconds + 1, way


# -- Only one reader -------------------------------------------------------------------------------


def plays_while(phase: str, may_continue: threading.Event) -> list[Play]:
    """Return plays that keep a reader waiting until `may_continue`, and then send the event "b"."""
    return {
        "head": [Play(framing="none", end=may_continue), STREAM_B],
        "quiet": [
            Play(body=[b"id: 1\ndata: a\n\n", may_continue, b"id: 2\ndata: b\n\n"], end="hang")
        ],
        "backoff": [stream(), STREAM_B],
    }[phase]


async def read_by_next(source: Any) -> None:
    await anext(source)


async def read_by_open(source: Any) -> None:
    await source.open()


async def read_by_run(source: Any) -> None:
    await source.run(print)


def second_reads(phase: str) -> list[Callable[[Any], Any]]:
    # On an open connection, open() has nothing to do.
    return [read_by_next, read_by_run, *([] if phase == "quiet" else [read_by_open])]


@pytest.mark.parametrize("phase", ["head", "quiet", "backoff"])
@each_way(SYNC_WAYS)
def test_second_thread_is_refused(way: Way, stage: Stage, phase: str) -> None:
    """The first one reads on."""
    may_continue = threading.Event()
    stage.plays = plays_while(phase, may_continue)
    errors: list[Exception] = []
    with ThreadedReader(way, stage.url, policy=LONG_DELAY, on_error=errors.append) as reader:
        reader.wait_until_blocked(lambda: stage.requests if phase == "head" else reader.data)
        for read_again in second_reads(phase):
            with pytest.raises(RuntimeError, match="thread or task"):
                anyio.run(read_again, reader.source)
        assert errors == []
        may_continue.set()
        if phase != "quiet":
            wait_until(lambda: errors or phase == "backoff")
            reader.source.reconnect()
        wait_until(lambda: "b" in reader.data)
        reader.close()
    assert reader.data == (["b"] if phase == "head" else ["a", "b"])
    assert len(stage.requests) == (1 if phase == "quiet" else 2)


@pytest.mark.parametrize("phase", ["head", "quiet", "backoff"])
@each_way(ASYNC_WAYS)
def test_second_task_is_refused(way: Way, stage: Stage, phase: str) -> None:
    may_continue = threading.Event()
    stage.plays = plays_while(phase, may_continue)
    errors: list[Exception] = []

    async def use(source: Any) -> None:
        async def read() -> None:
            async for event in source:
                data.append(event.data)
                if event.data == "b":
                    break

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await wait_until_others_blocked(lambda: stage.requests if phase == "head" else data)
            for read_again in second_reads(phase):
                with pytest.raises(RuntimeError, match="thread or task"):
                    await read_again(source)
            assert errors == []
            may_continue.set()
            if phase != "quiet":
                await wait_until_others_blocked(lambda: errors or phase == "backoff")
                source.reconnect()

    data: list[str] = []
    options = not_repeated(way) if phase == "head" else {}
    way.use(use, stage.url, policy=LONG_DELAY, on_error=errors.append, **options)
    assert data == (["b"] if phase == "head" else ["a", "b"])
    assert len(stage.requests) == (1 if phase == "quiet" else 2)
