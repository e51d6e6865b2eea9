"""What a source leaves behind: nothing, or a connection that is used again."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sse_fast import AsyncEventSource, EventSource
from tests.support.clients import LIMIT, UNREAD_UNDER_TRIO
from tests.support.eventsources import Way
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream
from tests.support.threaded_reader import (
    AT_ONCE,
    AWAITING,
    BLOCKING,
    CHUNKED,
    CLIENTS,
    EVERY,
    FAST,
    SETTLED,
    SOON,
    marked,
    quiet,
    settled,
    wait_until,
)

pytestmark = UNREAD_UNDER_TRIO


# -- What is left behind ---------------------------------------------------------------------------


@pytest.mark.parametrize("event_timeout", [None, 5.0])
@pytest.mark.parametrize("way", BLOCKING, ids=str)
def test_a_source_that_is_dropped_gives_its_connection_free(
    way: Way, stage: Stage, event_timeout: float | None
) -> None:
    """At once, without the garbage collector."""
    stage.plays = [quiet(b"data: a\n\n")]
    with way.make_client() as client:
        gc.disable()
        try:
            source = EventSource(stage.url, client=client, event_timeout=event_timeout)
            for _ in source:
                break
            assert stage.open == 1
            del source
            wait_until(lambda: stage.open == 0, SOON)
        finally:
            gc.enable()


@pytest.mark.parametrize("way", marked(AWAITING))
def test_an_async_source_that_is_dropped_gives_its_connection_free(way: Way, stage: Stage) -> None:
    stage.plays = [quiet(b"data: a\n\n")]

    async def run() -> None:
        async with way.make_client() as client:
            source = AsyncEventSource(stage.url, client=client)
            async for _ in source:
                break
            assert stage.open == 1
            del source
            with anyio.fail_after(5):
                while stage.open:
                    gc.collect()
                    await anyio.sleep(0.01)

    anyio.run(run, backend=way.backend or "asyncio")


MANY = 200


def leave(source: Any) -> None:
    with source:
        next(source)


def close(source: Any) -> None:
    next(source)
    source.close()


def close_unread(source: Any) -> None:
    source.open()
    source.close()


def fail(source: Any) -> None:
    def on_message(event: Any) -> None:
        raise ZeroDivisionError

    with source, pytest.raises(ZeroDivisionError):
        source.run(on_message)


def forget(source: Any) -> None:
    next(source)


def come_again(source: Any) -> None:
    with source:
        next(source)
        source.reconnect()
        next(source)


OUT = [leave, close, close_unread, fail, forget, come_again]


async def aleave(source: Any) -> None:
    async with source:
        await anext(source)


async def aclose(source: Any) -> None:
    await anext(source)
    await source.aclose()


async def aclose_from_a_thread(source: Any) -> None:
    await anext(source)
    await anyio.to_thread.run_sync(source.close)


async def afail(source: Any) -> None:
    async def on_message(event: Any) -> None:
        raise ZeroDivisionError

    async with source:
        with pytest.raises(ZeroDivisionError):
            await source.run(on_message)


async def acancel(source: Any) -> None:
    async with source:
        await anext(source)
        with anyio.move_on_after(0.001):
            await anext(source)


async def acome_again(source: Any) -> None:
    async with source:
        await anext(source)
        source.reconnect()
        await anext(source)


AOUT = [aleave, aclose, aclose_from_a_thread, afail, acancel, acome_again]


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def left(before: list[int], stage: Stage) -> list[int]:
    gc.collect()
    # Threads of the server are gone when its clients are.
    now = [descriptors(), threading.active_count(), stage.open]
    return [max(0, one - other) for one, other in zip(now, before, strict=True)]


@pytest.mark.parametrize("way", BLOCKING, ids=str)
def test_two_hundred_sources(way: Way, stage: Stage) -> None:
    stage.plays = lambda number, request: quiet(b"data: a\n\n")
    with way.make_client() as client:
        OUT[0](EventSource(stage.url, client=client, policy=FAST))
        wait_until(lambda: stage.open == 0)
        time.sleep(0.02)
        before = [descriptors(), threading.active_count(), 0]
        for number in range(MANY):
            OUT[number % len(OUT)](EventSource(stage.url, client=client, policy=AT_ONCE))
        # While the client is still open.
        wait_until(lambda: left(before, stage) == [0, 0, 0], 5)


@pytest.mark.parametrize("way", marked(AWAITING))
def test_two_hundred_async_sources(way: Way, stage: Stage) -> None:
    stage.plays = lambda number, request: quiet(b"data: a\n\n")

    async def run() -> None:
        async with way.make_client() as client:
            for go in AOUT:
                # Also what starts worker threads, which stay.
                await go(AsyncEventSource(stage.url, client=client, policy=FAST))
            with anyio.fail_after(5):
                while stage.open:
                    await anyio.sleep(0.01)
            await anyio.sleep(0.02)
            before = [descriptors(), threading.active_count(), 0]
            tasks = len(anyio.get_running_tasks())
            for number in range(MANY):
                await AOUT[number % len(AOUT)](
                    AsyncEventSource(stage.url, client=client, policy=AT_ONCE)
                )
            with anyio.fail_after(5):
                while any(left(before, stage)) or len(anyio.get_running_tasks()) > tasks:
                    await anyio.sleep(0.01)

    anyio.run(run, backend=way.backend or "asyncio")


# -- Connections that are used again ---------------------------------------------------------------


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + end


def at_once(body: bytes, *fields: tuple[str, str]) -> Play:
    """A whole response in one write, so that its end is there with its beginning."""
    return Play(fields=[EVENT_STREAM, *fields], body=[body], keep_alive=True)


BODY = b"data: a\n\n"
ENDED = {
    "chunked": at_once(chunked(BODY), CHUNKED),
    "length": at_once(BODY, ("Content-Length", str(len(BODY)))),
    "more in the chunk": at_once(chunked(BODY + b"data: b\n\n"), CHUNKED),
    "more chunks": at_once(chunked(BODY, b"data: b\n\n", b": c\n\n"), CHUNKED),
    "more of the length": at_once(BODY * 2, ("Content-Length", str(2 * len(BODY)))),
}


def read_in_turn(
    way: Way,
    url: str,
    count: int,
    leave: Callable[[], object] | None = None,
    blocking: bool = False,
    **options: Any,
) -> list[list[str]]:
    """The data of several sources, one after the other, on one client.

    Each is left behind its first event, once `leave` says so; `blocking`: the event loop cannot
    read in the meantime.
    """

    def read(client: Any) -> list[str]:
        with EventSource(url, client=client, **options) as source:
            if leave is None:
                return [event.data for event in source]
            event = next(source)
            wait_until(leave)
            time.sleep(SETTLED)
            return [event.data]

    async def aread(client: Any) -> list[str]:
        async with AsyncEventSource(url, client=client, **options) as source:
            if leave is None:
                return [event.data async for event in source]
            event = await anext(source)
            if blocking:
                wait_until(leave)
                time.sleep(SETTLED)
            else:
                await settled(leave)
            return [event.data]

    if not way.is_async:
        with way.make_client() as client:
            return [read(client) for _ in range(count)]

    async def run() -> list[list[str]]:
        with anyio.fail_after(LIMIT):
            async with way.make_client() as client:
                return [await aread(client) for _ in range(count)]

    return anyio.run(run, backend=way.backend or "asyncio")  # type: ignore[no-any-return]


@pytest.mark.parametrize("body", ENDED)
@pytest.mark.parametrize("way", marked(CLIENTS))
def test_a_connection_is_used_again_behind_until(way: Way, stage: Stage, body: str) -> None:
    """Where the end of the body has arrived already, though nobody needs it."""
    stage.plays = [ENDED[body]] * 3
    data = read_in_turn(way, stage.url, 3, until=lambda event: event.data == "a")
    assert data == [["a"]] * 3
    assert {request.connection for request in stage.requests} == {0}


@pytest.mark.parametrize("blocking", [False, True])
@pytest.mark.parametrize("way", marked(CLIENTS))
def test_a_connection_is_used_again_when_it_was_left_behind_the_last_event(
    way: Way, stage: Stage, blocking: bool
) -> None:
    """The end of the body comes a little later, but comes before the source is closed."""
    stage.plays = [stream(BODY, keep_alive=True, delay=5)] * 3
    data = read_in_turn(way, stage.url, 3, lambda: stage.requests[-1].ended, blocking)
    assert data == [["a"]] * 3
    assert {request.connection for request in stage.requests} == {0}


@EVERY
def test_nothing_waits_for_an_end_that_has_not_arrived(way: Way, stage: Stage) -> None:
    held = threading.Event()
    times = [time.monotonic()]

    def until(event: Any) -> bool:
        times.append(time.monotonic())
        return True

    length = ("Content-Length", "100")
    unfinished = [
        at_once(chunked(BODY, end=b""), CHUNKED),
        at_once(BODY, length),
        at_once(chunked(BODY)[:-2], CHUNKED),
    ]
    for play in unfinished:
        play.end = held
    stage.plays = [play for play in unfinished for _ in range(2)]
    data = read_in_turn(way, stage.url, len(stage.plays), until=until)
    times.append(time.monotonic())
    assert times[-1] - times[0] < LIMIT / 4
    # From one event to the next, the end of a source lies between: each would take its time.
    assert min(after - before for before, after in pairwise(times[1:])) < 0.25
    assert data == [["a"]] * len(stage.plays)
    assert [request.connection for request in stage.requests] == list(range(len(stage.plays)))
    held.set()


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("way", marked(CLIENTS))
def test_a_connection_is_used_again_behind_a_clean_end(
    way: Way, stage: Stage, framing: Any
) -> None:
    """By the very next attempt, and behind a refusal or a 204, too."""
    refused = Play(503, (), framing="length", body=[b"busy"], keep_alive=True)
    stage.plays = [
        stream(framing=framing, keep_alive=True),
        refused,
        Play(302, [("Location", "@b")], framing="length", keep_alive=True),
        stream(framing=framing, keep_alive=True),
        Play(204, (), keep_alive=True),
        stream(framing=framing, keep_alive=True),
        Play(204, (), keep_alive=True),
    ]
    assert read_in_turn(way, stage.url, 2, policy=FAST) == [["a", "a"], ["a"]]
    assert len(stage.requests) == 7
    connections = [request.connection for request in stage.requests]
    # A redirect's body is not read, so that its connection may go.
    assert len(set(connections[:3])) == 1
    assert len(set(connections[3:])) == 1


@pytest.mark.parametrize("way", marked(CLIENTS))
def test_a_connection_within_a_body_is_not_used_again(way: Way, stage: Stage) -> None:
    stage.plays = [at_once(chunked(BODY, end=b""), CHUNKED), at_once(chunked(BODY), CHUNKED)]
    stage.plays[0].end = "hang"
    assert way.read(stage.url, stop_after=1).plain == [("message", "a", "")]
    assert way.read(stage.url, stop_after=1).plain == [("message", "a", "")]
    assert len({request.connection for request in stage.requests}) == 2
