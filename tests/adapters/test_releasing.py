"""The last reference releases the connection, without the garbage collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import aiter_events, iter_events, open_stream
from sse_fast._background import get_running_trio
from sse_fast.adapters.sockets import aopen_stream
from tests.support.clients import AOPENERS, OPENERS, UNREAD_UNDER_TRIO, wait_until
from tests.support.faults import CHUNKED, LEFT, FaultServer, chunk, head

pytestmark = UNREAD_UNDER_TRIO

# Two events, one that cannot be decoded as a number, and silence.
SCRIPT = [head(CHUNKED), chunk(b"data: 1\n\n"), 0.02, chunk(b"data: x\n\ndata: 2\n\n"), LEFT]


@pytest.fixture(autouse=True)
def _no_collection() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


class Failure(Exception): ...


def marks_of(name: str) -> list[Any]:
    """Mark a library that is like another one as `matrix`."""
    return [pytest.mark.matrix] if name.startswith(("httpx2", "urllib")) else []


def names_of(libraries: list[str]) -> list[Any]:
    return [pytest.param(name, marks=marks_of(name)) for name in libraries]


# -- Sync ------------------------------------------------------------------------------------------


def drop_unread(stream: Any) -> None:
    pass


def break_off(stream: Any) -> None:
    for _ in stream:
        break


def fail_in_loop(stream: Any) -> None:
    with suppress(Failure):
        for _ in stream:
            raise Failure


def fail_to_decode(stream: Any) -> None:
    with suppress(sse_fast.DecodeError):
        for _ in stream:
            pass


def wait_for_decode_error(stream: Any) -> None:
    """The error is there, and was not raised."""
    for _ in range(2):
        with suppress(sse_fast.DecodeError):
            next(stream)


def fail_of_size(stream: Any) -> None:
    stream._parser = sse_fast.Parser(max_event_size=1)
    with suppress(sse_fast.EventTooLarge):
        next(stream)


def interrupt(stream: Any) -> None:
    """A callback raises what a signal handler may raise."""

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    stream._on_chunk = fail
    with suppress(KeyboardInterrupt):
        next(stream)


WAYS: list[Callable[[Any], None]] = [
    drop_unread,
    break_off,
    fail_in_loop,
    fail_to_decode,
    wait_for_decode_error,
    fail_of_size,
    interrupt,
]


def assert_released(faults: FaultServer, reference: weakref.ref[Any]) -> None:
    assert reference() is None
    wait_until(lambda: not faults.playing, 5)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", names_of([*OPENERS, "sse_fast"]))
def test_dropped_stream_releases_connection(
    name: str, way: Callable[[Any], None], faults: FaultServer
) -> None:
    faults.scripts["/"] = SCRIPT

    def read(stream: Any) -> weakref.ref[Any]:
        way(stream)
        return weakref.ref(stream)

    if name == "sse_fast":
        assert_released(faults, read(open_stream(faults.url + "/", decode=int)))
        return
    with OPENERS[name](faults.url + "/") as response:
        assert_released(faults, read(iter_events(response, decode=int)))


# -- Async -----------------------------------------------------------------------------------------


async def adrop_unread(stream: Any) -> None:
    pass


async def adrop_checked(stream: Any) -> None:
    await stream


async def abreak_off(stream: Any) -> None:
    async for _ in stream:
        break


async def afail_in_loop(stream: Any) -> None:
    with suppress(Failure):
        async for _ in stream:
            raise Failure


async def afail_to_decode(stream: Any) -> None:
    with suppress(sse_fast.DecodeError):
        async for _ in stream:
            pass


async def cancel(stream: Any) -> None:
    """Cancel a wait in its task."""
    await anext(stream)
    for _ in range(2):
        with suppress(sse_fast.DecodeError):
            await anext(stream)
    with anyio.move_on_after(0.02) as scope:
        await anext(stream)
    assert scope.cancelled_caught


async def read_on(stream: Any) -> None:
    while True:
        with suppress(sse_fast.DecodeError):
            async for _ in stream:
                pass


async def wait_until_read(stream: Any) -> None:
    while not stream.is_being_read:
        await anyio.sleep(0.001)
    await anyio.sleep(0.05)


async def cancel_task(stream: Any) -> None:
    """Cancel the task that reads."""
    if get_running_trio() is None:
        # A task group of anyio keeps references for the garbage collector.
        task = asyncio.ensure_future(read_on(stream))
        await wait_until_read(stream)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        return
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read_on, stream)
        await wait_until_read(stream)
        tasks.cancel_scope.cancel()


async def let_read_go_on(stream: Any) -> None:
    """A read goes on in a task of its own."""
    await stream.next_event()
    for _ in range(2):
        with suppress(sse_fast.DecodeError):
            await stream.next_event(timeout=1)
    with pytest.raises(TimeoutError):
        await stream.next_event(timeout=0.02)


ASYNC_WAYS = [
    adrop_unread,
    adrop_checked,
    abreak_off,
    afail_in_loop,
    afail_to_decode,
    cancel,
    cancel_task,
    let_read_go_on,
]
LIBRARIES = [
    pytest.param(name, backend, marks=marks_of(name))
    for name, backend in [
        ("sse_fast", "asyncio"),
        ("aiohttp", "asyncio"),
        *product([name for name in AOPENERS if name != "aiohttp"], ["asyncio", "trio"]),
    ]
]


@pytest.mark.parametrize("way", ASYNC_WAYS)
@pytest.mark.parametrize(("name", "backend"), LIBRARIES)
def test_dropped_async_stream_releases_connection(
    name: str, backend: str, way: Callable[[Any], Any], faults: FaultServer
) -> None:
    faults.scripts["/"] = SCRIPT

    async def read(stream: Any) -> weakref.ref[Any]:
        await way(stream)
        return weakref.ref(stream)

    async def check(reference: weakref.ref[Any]) -> None:
        # Some turns of the event loop later.
        with anyio.move_on_after(5):
            while reference() is not None or faults.playing:
                await anyio.sleep(0.001)
        assert reference() is None
        assert not faults.playing

    async def run() -> None:
        if name == "sse_fast":
            await check(await read(aopen_stream(faults.url + "/", decode=int)))
            return
        async with AOPENERS[name](faults.url + "/") as response:
            await check(await read(aiter_events(response, decode=int)))

    anyio.run(run, backend=backend)


def test_cancelled_task_of_its_own_releases(faults: FaultServer) -> None:
    """The task, its exception and the stream go together."""
    faults.scripts["/"] = SCRIPT

    async def read() -> None:
        async for _ in aopen_stream(faults.url + "/"):
            pass

    async def run() -> None:
        task = asyncio.ensure_future(read())
        while not faults.playing:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        del task
        with anyio.fail_after(5):
            while faults.playing:
                await asyncio.sleep(0.001)

    asyncio.run(run())
