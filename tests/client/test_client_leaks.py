"""A source leaves nothing behind, except a connection that can be reused."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass
from itertools import pairwise
from typing import Any

import anyio
import anyio.to_thread
import pytest
from typing_extensions import Self

from sse_fast import AsyncEventSource, EventSource
from tests.support.clients import LIMIT, UNREAD_UNDER_TRIO
from tests.support.eventsources import ADAPTERS, Way
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream
from tests.support.threaded_reader import (
    ASYNC_WAYS,
    CHUNKED,
    CLIENT_WAYS,
    EVERY_ADAPTER,
    NO_DELAY,
    PROMPT_SECONDS,
    SHORT_DELAY,
    SYNC_WAYS,
    each_way,
    quiet_stream,
    wait_until,
    wait_until_blocked,
    wait_until_others_blocked,
)

pytestmark = UNREAD_UNDER_TRIO


# -- Leaks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("event_timeout", [None, 5.0])
@each_way(SYNC_WAYS, ADAPTERS)
def test_dropped_source_releases_its_connection(
    way: Way, stage: Stage, event_timeout: float | None
) -> None:
    """Dropping the last reference is enough, without the garbage collector."""
    stage.plays = [quiet_stream(b"data: a\n\n")]
    with way.make_client() as client:
        gc.disable()
        try:
            source = EventSource(stage.url, client=client, event_timeout=event_timeout)
            for _ in source:
                break
            assert stage.open == 1
            del source
            wait_until(lambda: stage.open == 0, PROMPT_SECONDS)
        finally:
            gc.enable()


@each_way(ASYNC_WAYS, ADAPTERS)
def test_dropped_async_source_releases_its_connection(way: Way, stage: Stage) -> None:
    stage.plays = [quiet_stream(b"data: a\n\n")]

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

# -- How a program may leave a source


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


def drop(source: Any) -> None:
    next(source)


def reconnect(source: Any) -> None:
    with source:
        next(source)
        source.reconnect()
        next(source)


LEAVE = [leave, close, close_unread, fail, drop, reconnect]


async def aleave(source: Any) -> None:
    async with source:
        await anext(source)


async def aclose(source: Any) -> None:
    await anext(source)
    await source.aclose()


async def close_in_a_thread(source: Any) -> None:
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


async def areconnect(source: Any) -> None:
    async with source:
        await anext(source)
        source.reconnect()
        await anext(source)


ALEAVE = [aleave, aclose, close_in_a_thread, afail, acancel, areconnect]


@dataclass(frozen=True)
class Resources:
    """Resources in use by this process; the server's threads end when its clients have left."""

    descriptors: int
    threads: int
    connections: int

    @classmethod
    def count(cls, stage: Stage) -> Self:
        gc.collect()
        return cls(len(os.listdir("/dev/fd")), threading.active_count(), stage.open)

    def exceed(self, other: Resources) -> bool:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return any(mine > others for mine, others in pairs)


@each_way(SYNC_WAYS)
def test_two_hundred_sources_leak_nothing(way: Way, stage: Stage) -> None:
    stage.plays = lambda number, request: quiet_stream(b"data: a\n\n")
    with way.make_client() as client:
        leave(EventSource(stage.url, client=client, policy=SHORT_DELAY))
        wait_until(lambda: stage.open == 0)
        wait_until_blocked()
        before = Resources.count(stage)
        for number in range(MANY):
            LEAVE[number % len(LEAVE)](EventSource(stage.url, client=client, policy=NO_DELAY))
        # The client is still open.
        wait_until(lambda: not Resources.count(stage).exceed(before), 5)


@each_way(ASYNC_WAYS)
def test_two_hundred_async_sources_leak_nothing(way: Way, stage: Stage) -> None:
    stage.plays = lambda number, request: quiet_stream(b"data: a\n\n")

    async def run() -> None:
        async with way.make_client() as client:
            for each in ALEAVE:
                # One of them starts a worker thread, which stays.
                await each(AsyncEventSource(stage.url, client=client, policy=SHORT_DELAY))
            with anyio.fail_after(5):
                await wait_until_others_blocked(lambda: stage.open == 0)
            wait_until_blocked()
            before = Resources.count(stage)
            tasks = len(anyio.get_running_tasks())
            for number in range(MANY):
                await ALEAVE[number % len(ALEAVE)](
                    AsyncEventSource(stage.url, client=client, policy=NO_DELAY)
                )
            with anyio.fail_after(5):
                while (
                    Resources.count(stage).exceed(before) or len(anyio.get_running_tasks()) > tasks
                ):
                    await anyio.sleep(0.01)

    anyio.run(run, backend=way.backend or "asyncio")


# -- Connections that are reused -------------------------------------------------------------------


def chunked(*parts: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%X\r\n%b\r\n" % (len(part), part) for part in parts) + end


def whole_response(body: bytes, *fields: tuple[str, str]) -> Play:
    """Return a response that is sent by one write, so that its end arrives with its beginning."""
    return Play(fields=[EVENT_STREAM, *fields], body=[body], keep_alive=True)


BODY = b"data: a\n\n"
ENDED = {
    "chunked": whole_response(chunked(BODY), CHUNKED),
    "length": whole_response(BODY, ("Content-Length", str(len(BODY)))),
    "more in the chunk": whole_response(chunked(BODY + b"data: b\n\n"), CHUNKED),
    "more chunks": whole_response(chunked(BODY, b"data: b\n\n", b": c\n\n"), CHUNKED),
    "more of the length": whole_response(BODY * 2, ("Content-Length", str(2 * len(BODY)))),
}


def read_in_turn(
    way: Way,
    url: str,
    count: int,
    leave_when: Callable[[], object] | None = None,
    blocks_loop: bool = False,
    **options: Any,
) -> list[list[str]]:
    """Read sources one after the other with one client; return the data of each.

    Args:
        way: the way to read.
        url: of the server.
        count: how many sources.
        leave_when: leave each after its first event, once this holds and the server has sent all.
        blocks_loop: whether the event loop is kept from reading until then.
        **options: of the sources.
    """

    def read(client: Any) -> list[str]:
        with EventSource(url, client=client, **options) as source:
            if leave_when is None:
                return [event.data for event in source]
            event = next(source)
            wait_until(leave_when)
            wait_until_blocked()
            return [event.data]

    async def aread(client: Any) -> list[str]:
        async with AsyncEventSource(url, client=client, **options) as source:
            if leave_when is None:
                return [event.data async for event in source]
            event = await anext(source)
            if blocks_loop:
                wait_until(leave_when)
                wait_until_blocked()
            else:
                await wait_until_others_blocked(leave_when)
                wait_until_blocked()
                # The last bytes are there: let the loop read them.
                await wait_until_others_blocked()
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
@each_way(CLIENT_WAYS, ADAPTERS)
def test_connection_is_reused_after_until(way: Way, stage: Stage, body: str) -> None:
    """The end of the body has arrived already, although the stream does not need it."""
    stage.plays = [ENDED[body]] * 3
    data = read_in_turn(way, stage.url, 3, until=lambda event: event.data == "a")
    assert data == [["a"]] * 3
    assert {request.connection for request in stage.requests} == {0}


@pytest.mark.parametrize("blocks_loop", [False, True])
@each_way(CLIENT_WAYS, ADAPTERS)
def test_next_source_works_if_left_after_last_event(
    way: Way, stage: Stage, blocks_loop: bool
) -> None:
    """Only `until` looks for the end of a body; aiohttp finds one that has arrived by itself."""
    stage.plays = [stream(BODY, keep_alive=True, delay=5)] * 3
    data = read_in_turn(way, stage.url, 3, lambda: stage.requests[-1].ended, blocks_loop)
    assert data == [["a"]] * 3
    connections = [request.connection for request in stage.requests]
    if way.library == "aiohttp":
        # Whether it has seen the end of a body depends on timing: each time it closes or reuses.
        steps = {after - before for before, after in pairwise(connections)}
        assert steps <= {0, 1}
    else:
        assert connections == [0, 1, 2]


@EVERY_ADAPTER
def test_close_does_not_wait_for_the_end_of_a_body(way: Way, stage: Stage) -> None:
    server_may_end = threading.Event()
    times = [time.monotonic()]

    def until(event: Any) -> bool:
        times.append(time.monotonic())
        return True

    length = ("Content-Length", "100")
    unfinished = [
        whole_response(chunked(BODY, end=b""), CHUNKED),
        whole_response(BODY, length),
        whole_response(chunked(BODY)[:-2], CHUNKED),
    ]
    for play in unfinished:
        play.end = server_may_end
    stage.plays = [play for play in unfinished for _ in range(2)]
    data = read_in_turn(way, stage.url, len(stage.plays), until=until)
    times.append(time.monotonic())
    assert times[-1] - times[0] < LIMIT / 4
    # A source is closed between one event and the next, so a wait would show in every interval.
    assert min(after - before for before, after in pairwise(times[1:])) < 0.25
    assert data == [["a"]] * len(stage.plays)
    assert [request.connection for request in stage.requests] == list(range(len(stage.plays)))
    server_may_end.set()


@pytest.mark.parametrize("framing", ["chunked", "length"])
@each_way(CLIENT_WAYS, ADAPTERS)
def test_connection_is_reused_after_clean_end(way: Way, stage: Stage, framing: Any) -> None:
    """The next attempt reuses the connection, also after a refusal or a 204."""
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
    assert read_in_turn(way, stage.url, 2, policy=SHORT_DELAY) == [["a", "a"], ["a"]]
    assert len(stage.requests) == 7
    connections = [request.connection for request in stage.requests]
    # The body of a redirect is not read, so its connection may be closed.
    assert len(set(connections[:3])) == 1
    assert len(set(connections[3:])) == 1


@each_way(CLIENT_WAYS, ADAPTERS)
def test_connection_left_within_a_body_is_not_reused(way: Way, stage: Stage) -> None:
    stage.plays = [
        whole_response(chunked(BODY, end=b""), CHUNKED),
        whole_response(chunked(BODY), CHUNKED),
    ]
    stage.plays[0].end = "hang"
    assert way.read(stage.url, stop_after=1).plain == [("message", "a", "")]
    assert way.read(stage.url, stop_after=1).plain == [("message", "a", "")]
    assert len({request.connection for request in stage.requests}) == 2
