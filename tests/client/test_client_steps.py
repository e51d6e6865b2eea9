"""The awaitable of `AsyncEventSource.__anext__`: every way to await it, give it up or misuse it.

A ready event comes without a coroutine; the event after a wait, an error or the end by the same
awaitable.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

import sse_fast
from sse_fast import AsyncEventSource, EventSource, ReconnectPolicy
from tests.support.scripted_server import Stage, stream

THREE = b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\nid: 3\ndata: 3\n\n"
ONCE = ReconnectPolicy.never()


@asynccontextmanager
async def opened(stage: Stage, *parts: Any, **options: Any) -> AsyncIterator[Any]:
    stage.plays = [stream(*parts)]
    async with AsyncEventSource(stage.url, policy=ONCE, **options) as source:
        yield source


async def wait_for_reader(source: Any) -> None:
    """Wait until a task waits for the stream of the source."""
    for _ in range(1000):
        await asyncio.sleep(0)
        if source._stream.is_being_read:
            return
    raise AssertionError("no task waits")


async def by_anext(source: Any) -> Any:
    return await anext(source)


async def by_default(source: Any) -> Any:
    return await anext(source, None)


async def by_ensure_future(source: Any) -> Any:
    return await asyncio.ensure_future(anext(source))


async def by_create_task(source: Any) -> Any:
    return await asyncio.create_task(anext(source))


async def by_wait_for(source: Any) -> Any:
    return await asyncio.wait_for(anext(source), 10)


async def by_next_event(source: Any) -> Any:
    return await source.next_event(10)


WAYS: list[Callable[[Any], Awaitable[Any]]] = [
    by_anext,
    by_default,
    by_ensure_future,
    by_create_task,
    by_wait_for,
    by_next_event,
]


@pytest.mark.parametrize("way", WAYS)
def test_event_of_source_comes_in_every_way(way: Any, stage: Stage) -> None:
    async def main() -> None:
        may_end = threading.Event()
        stage.plays = [stream(THREE, may_end, b"data: 4\n\n")]
        # The first event connects, the next ones are ready, and the last one is waited for.
        source: Any = AsyncEventSource(stage.url, policy=ONCE)
        assert [(await way(source)).data for _ in range(3)] == ["1", "2", "3"]
        asyncio.get_running_loop().call_soon(may_end.set)
        assert (await way(source)).data == "4"
        if way in (by_default, by_next_event):
            assert await way(source) is None
        else:
            with pytest.raises(StopAsyncIteration):
                await way(source)
        assert source.stats.events == 4
        assert source.stats.bytes == len(THREE) + len(b"data: 4\n\n")

    asyncio.run(main())


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="the plain core has a coroutine")
def test_ready_event_of_source_needs_no_coroutine(stage: Stage) -> None:
    async def main() -> None:
        async with opened(stage, THREE) as source:
            assert (await anext(source)).data == "1"
            step = source.__anext__()
            assert not inspect.iscoroutine(step)
            with pytest.raises(StopIteration) as sent:
                step.send(None)
            assert sent.value.value.data == "2"
            for used in (step, type(step)(), type(source._stream.__anext__())()):
                with pytest.raises(RuntimeError, match="already"):
                    await used
            assert (await anext(source)).data == "3"

    asyncio.run(main())


def test_event_is_taken_when_step_is_awaited(stage: Stage) -> None:
    async def main() -> None:
        async with opened(stage, THREE) as source:
            assert (await anext(source)).data == "1"
            second, third = anext(source), anext(source)
            assert source.last_event_id == ""
            # In the order of the waits.
            assert (await third).data == "2"
            assert source.last_event_id == "1"
            assert (await second).data == "3"
            assert source.last_event_id == "2"

    asyncio.run(main())


def test_second_step_raises_and_first_goes_on(stage: Stage) -> None:
    async def main() -> None:
        may_end = threading.Event()
        async with opened(stage, THREE, may_end, b"data: 4\n\n") as source:
            for _ in range(3):
                await anext(source)
            first = asyncio.ensure_future(anext(source))
            await wait_for_reader(source)
            for _ in range(2):
                with pytest.raises(RuntimeError, match="Another thread or task"):
                    await anext(source)
            may_end.set()
            assert (await first).data == "4"

    asyncio.run(main())


@pytest.mark.parametrize("is_cancelled", [True, False], ids=["cancelled", "closed"])
def test_step_given_up_loses_nothing(is_cancelled: bool, stage: Stage) -> None:
    async def main() -> None:
        may_end = threading.Event()
        async with opened(stage, THREE, may_end, b"data: 4\n\n") as source:
            for _ in range(3):
                await anext(source)
            for _ in range(5):
                if is_cancelled:
                    task = asyncio.ensure_future(anext(source))
                    await wait_for_reader(source)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                else:
                    step = source.__anext__()
                    step.send(None)
                    assert source._stream.is_being_read
                    step.close()
                assert not source._stream.is_being_read
                assert source.last_event_id == "3"
            may_end.set()
            assert (await anext(source)).data == "4"
        assert len(stage.requests) == 1

    asyncio.run(main())


def test_step_raises_error_of_callback_and_goes_on(stage: Stage) -> None:
    def on_comment(text: str) -> None:
        raise ZeroDivisionError(text)

    async def main() -> None:
        parts = (b"data: 1\n\n: a\n\ndata: 2\n\n",)
        async with opened(stage, *parts, on_comment=on_comment) as source:
            assert (await anext(source)).data == "1"
            with pytest.raises(ZeroDivisionError):
                await anext(source)
            assert (await anext(source)).data == "2"

    asyncio.run(main())


def test_id_set_by_program_survives_ready_events(stage: Stage) -> None:
    async def main() -> None:
        async with opened(stage, b"id: 1\ndata: 1\n\ndata: 2\n\nid: 3\ndata: 3\n\n") as source:
            await anext(source)
            source.last_event_id = "mine"
            assert (await anext(source)).data == "2"
            assert source.last_event_id == "mine"
            assert (await anext(source)).data == "3"
            assert source.last_event_id == "mine"
            with pytest.raises(StopAsyncIteration):
                await anext(source)
            assert source.last_event_id == "3"

    asyncio.run(main())


def test_dropped_source_is_freed_without_collector(stage: Stage) -> None:
    async def main() -> None:
        stage.plays = [stream(THREE, threading.Event())]
        source: Any = AsyncEventSource(stage.url, policy=ONCE)
        async for event in source:
            if event.data == "3":
                break
        task = asyncio.ensure_future(anext(source))
        await wait_for_reader(source)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        freed = weakref.ref(source)
        del source, task
        await asyncio.sleep(0)
        assert freed() is None

    gc.collect()
    gc.disable()
    try:
        asyncio.run(main())
    finally:
        gc.enable()


class Upper(EventSource[str]):
    """A source that changes each event."""

    def __next__(self) -> Any:
        return super().__next__().data * 2


class AsyncUpper(AsyncEventSource[str]):
    """The async form of `Upper`."""

    async def __anext__(self) -> Any:
        return (await super().__anext__()).data * 2


def test_overridden_iteration_is_used_everywhere(stage: Stage) -> None:
    stage.plays = [stream(THREE)] * 6
    assert list(Upper(stage.url, policy=ONCE)) == ["11", "22", "33"]
    seen: list[Any] = []
    assert Upper(stage.url, policy=ONCE).run(seen.append)
    assert Upper(stage.url, policy=ONCE).next_event() == "11"

    async def main() -> None:
        assert [each async for each in AsyncUpper(stage.url, policy=ONCE)] == ["11", "22", "33"]
        await AsyncUpper(stage.url, policy=ONCE).run(seen.append)
        assert await AsyncUpper(stage.url, policy=ONCE).next_event() == "11"

    asyncio.run(main())
    assert seen == ["11", "22", "33"] * 2
