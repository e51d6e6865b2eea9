"""close(), reconnect() and cancellation: who wakes, what is left behind, what is never shown."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import re
import select
import socket
import ssl
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import anyio.to_thread
import pytest
import trustme
from clients import LIMIT, UNREAD_UNDER_TRIO
from eventsources import ASYNC_SOURCES, SOURCES, Way
from stage import EVENT_STREAM, Play, Request, Stage, serve_stage, stream
from typing_extensions import Self

import sse_fast
from sse_fast import (
    AsyncEventSource,
    EndReason,
    EventSource,
    ReadyState,
    ReconnectPolicy,
    ResponseError,
    RetriableError,
    SSEError,
)

pytestmark = UNREAD_UNDER_TRIO

# A wait that nothing but close() or reconnect() can cut short.
SLOW = ReconnectPolicy(initial_delay=30.0, jitter=0.0)
FAST = ReconnectPolicy(initial_delay=0.0, min_delay=0.01)
AT_ONCE = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
# Seconds after which a reader is in its next wait, at least very probably.
SETTLED = 0.03
# Seconds: 100 ms are promised, of which a busy machine knows nothing.
SOON = 1.0
BLOCKING = [way for way in SOURCES.values() if not way.is_async]
AWAITING = list(ASYNC_SOURCES.values())
ASYNCIO = [way for way in AWAITING if way.backend == "asyncio"]
CLIENTS = [way for way in SOURCES.values() if way.has_client]
# httpx and httpx2 leave inner generators to the garbage collector, of which trio warns.
OF_TRIO = pytest.mark.filterwarnings(
    "ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"
)


def marked(ways: list[Way]) -> list[Any]:
    return [
        pytest.param(way, id=str(way), marks=[OF_TRIO] if way.backend == "trio" else [])
        for way in ways
    ]


EVERY = pytest.mark.parametrize("way", marked(list(SOURCES.values())))


def quiet(*events: bytes) -> Play:
    """Events, and then nothing until the client has left."""
    return stream(*events, end="hang")


# Nothing at all, not even a head.
MUTE = Play(framing="none", end="hang")
B = stream(b"id: 2\ndata: b\n\n")


def wait_until(condition: Callable[[], object], seconds: float = LIMIT) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class Reading:
    """A source that another thread opens and iterates over."""

    def __init__(
        self,
        way: Way,
        url: str,
        on_message: Callable[[Any], object] = lambda event: None,
        **options: Any,
    ) -> None:
        self.source: Any = None
        self.data: list[str] = []
        self.error: BaseException | None = None
        self.ended: float | None = None
        self.end_reason: EndReason | None = None
        self._on_message = on_message
        self._thread = threading.Thread(
            target=self._work, args=(partial(way.use, self._read, url, **options),)
        )

    def __enter__(self) -> Self:
        self._thread.start()
        wait_until(lambda: self.source is not None or self.error is not None)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.source is not None:
            self.source.close()
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()

    def _work(self, read: Callable[[], Any]) -> None:
        try:
            read()
        except BaseException as error:
            self.error = error

    async def _read(self, source: Any) -> None:
        self.source = source
        try:
            async for event in source:
                self.data.append(event.data)
                self._on_message(event)
            self.end_reason = source.end_reason
        finally:
            self.ended = time.monotonic()

    def close(self) -> float:
        """Seconds from the call to the end of the loop."""
        before = time.monotonic()
        self.source.close()
        # At once, whatever the reader does.
        assert time.monotonic() - before < SOON
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()
        assert self.ended is not None
        return self.ended - before

    def join(self) -> None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


def assert_quietly_over(reading: Reading, stage: Stage, requests: int) -> None:
    assert reading.error is None
    assert reading.end_reason is EndReason.CLOSED
    assert reading.source.ready_state is ReadyState.CLOSED
    time.sleep(SETTLED)
    assert len(stage.requests) == requests


# -- close() from another thread -------------------------------------------------------------------


@EVERY
def test_close_while_a_response_is_waited_for(way: Way, stage: Stage, record_property: Any) -> None:
    stage.plays = [MUTE, B]
    with Reading(way, stage.url, policy=FAST) as reading:
        wait_until(lambda: stage.requests)
        time.sleep(SETTLED)
        assert reading.source.ready_state is ReadyState.CONNECTING
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert reading.data == []
    assert_quietly_over(reading, stage, 1)


# On asyncio, httpx and httpx2 leave the socket of a handshake that is cancelled to the collector.
@pytest.mark.filterwarnings(
    "ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning",
    "ignore:unclosed (<socket|transport):ResourceWarning",
)
@EVERY
def test_close_while_tls_is_waited_for(way: Way, stage: Stage, record_property: Any) -> None:
    """Of a server that speaks none, and says nothing else either."""
    url = stage.url.replace("http:", "https:")
    with Reading(way, url, policy=FAST) as reading:
        wait_until(lambda: stage.open == 1)
        time.sleep(SETTLED)
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert_quietly_over(reading, stage, 0)
    gc.collect()


@pytest.mark.parametrize("framing", ["close", "chunked", "length-short"])
@EVERY
def test_close_while_a_refusal_is_read(
    way: Way, stage: Stage, framing: Any, record_property: Any
) -> None:
    """The body of it does not end by itself."""
    stage.plays = [Play(503, (), body=[b"busy"], framing=framing, end="hang"), B]
    with Reading(way, stage.url, policy=FAST) as reading:
        wait_until(lambda: stage.requests)
        time.sleep(SETTLED)
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert_quietly_over(reading, stage, 1)


@EVERY
def test_close_while_a_stream_is_quiet(way: Way, stage: Stage, record_property: Any) -> None:
    for play in (quiet(b"data: a\n\n"), Play(body=[b"data: a\n\n"], end="hang")):
        stage.requests.clear()
        stage.plays = [play, B]
        with Reading(way, stage.url, policy=FAST) as reading:
            wait_until(lambda reading=reading: reading.data)
            time.sleep(SETTLED)
            assert reading.source.ready_state is ReadyState.OPEN
            taken = reading.close()
            record_property("seconds", taken)
            print(f"{way}: {taken * 1000:.1f} ms")
            assert taken < SOON
        assert reading.data == ["a"]
        assert_quietly_over(reading, stage, 1)
        wait_until(lambda: stage.open == 0, SOON)


@EVERY
@pytest.mark.parametrize("before", ["error", "end", "retry"])
def test_close_while_an_attempt_is_waited_for(
    way: Way, stage: Stage, before: str, record_property: Any
) -> None:
    stage.plays = {
        "error": [Play(503, ()), B],
        "end": [stream(), B],
        "retry": [stream(b"retry: 30000\n\ndata: a\n\n"), B],
    }[before]
    policy = FAST if before == "retry" else SLOW
    errors: list[Exception] = []
    with Reading(way, stage.url, policy=policy, on_error=errors.append) as reading:
        wait_until(lambda: errors if before == "error" else reading.data)
        wait_until(lambda: reading.source.ready_state is ReadyState.CONNECTING)
        time.sleep(SETTLED)
        taken = reading.close()
    record_property("seconds", taken)
    print(f"{way}: {taken * 1000:.1f} ms")
    assert taken < SOON
    assert reading.data == ([] if before == "error" else ["a"])
    assert_quietly_over(reading, stage, 1)


@EVERY
def test_close_while_an_event_is_looked_at(way: Way, stage: Stage) -> None:
    """What arrived together with it is not handed over any more."""
    stage.plays = [quiet(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), B]
    closed = threading.Event()
    with Reading(way, stage.url, lambda event: closed.wait(LIMIT), policy=FAST) as reading:
        wait_until(lambda: reading.data)
        before = time.monotonic()
        reading.source.close()
        assert time.monotonic() - before < SOON
        closed.set()
        reading.join()
    assert reading.data == ["a"]
    assert_quietly_over(reading, stage, 1)
    # It was taken all the same, as the next one was asked for.
    assert reading.source.last_event_id == "1"


@EVERY
def test_close_in_the_loop(way: Way, stage: Stage) -> None:
    stage.plays = [quiet(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), B]
    outcome = way.read(stage.url, policy=FAST, on_event=lambda source, event: source.close())
    assert outcome.error is None
    assert outcome.plain == [("message", "a", "1")]
    assert outcome.source.end_reason is EndReason.CLOSED
    assert len(stage.requests) == 1
    wait_until(lambda: stage.open == 0, SOON)


@EVERY
def test_close_before_anything_was_asked(way: Way, stage: Stage) -> None:
    async def use(source: Any) -> None:
        assert source.ready_state is ReadyState.CONNECTING
        assert source.end_reason is None
        source.close()
        source.close()
        assert source.ready_state is ReadyState.CLOSED
        assert source.end_reason is EndReason.CLOSED
        assert [event async for event in source] == []
        assert await source.run(print) is EndReason.CLOSED
        with pytest.raises(SSEError):
            await source.open()

    way.use(use, stage.url, policy=FAST)
    assert stage.requests == []


@EVERY
def test_close_after_the_end(way: Way, stage: Stage) -> None:
    """It changes nothing of why it ended."""

    async def use(source: Any) -> None:
        response = await source.open()
        assert response is source.response
        assert await source.open() is response
        assert source.ready_state is ReadyState.OPEN
        assert [event.data async for event in source] == ["a"]
        assert source.ready_state is ReadyState.CLOSED
        assert source.end_reason is EndReason.UNTIL
        for _ in range(2):
            source.close()
            await source.aclose()
            assert source.ready_state is ReadyState.CLOSED
            assert source.end_reason is EndReason.UNTIL
        assert [event async for event in source] == []

    stage.plays = [stream(), B]
    way.use(use, stage.url, policy=FAST, until=lambda event: True)
    assert len(stage.requests) == 1


def test_nothing_is_left_of_a_response_that_was_waited_for(stage: Stage) -> None:
    """Over sockets of our own; a library's call ends with its time-out, or with the server."""
    for way in SOURCES.values():
        if way.has_client:
            continue
        stage.requests.clear()
        stage.plays = [MUTE]
        threads = threading.active_count() - stage.open
        with Reading(way, stage.url) as reading:
            wait_until(lambda: stage.requests)
            reading.close()
        wait_until(lambda: stage.open == 0, SOON)
        wait_until(lambda threads=threads: threading.active_count() <= threads, SOON)


@pytest.mark.parametrize("way", BLOCKING, ids=str)
def test_a_response_that_comes_after_close_is_closed(way: Way, stage: Stage) -> None:
    """By what was left behind to wait for it."""
    closed = threading.Event()

    def plays(number: int, request: Request) -> Play:
        source.close()
        closed.wait(LIMIT)
        return quiet(b"data: a\n\n")

    stage.plays = plays
    with way.make_client() as client:
        source = EventSource(stage.url, client=client, policy=FAST)
        assert list(source) == []
        closed.set()
        wait_until(lambda: stage.open == 0, SOON)
    assert len(stage.requests) == 1


@EVERY
def test_close_in_the_midst_of_a_flood(way: Way, stage: Stage) -> None:
    """Whichever of its steps the reader is at, in whichever thread."""
    events = b"".join(b"id: %d\ndata: %d\n\n" % (number, number) for number in range(500))
    stage.plays = lambda number, request: stream(*[events] * 40, end="hang")
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for attempt in range(6):
            with Reading(way, stage.url, policy=FAST) as reading:
                wait_until(lambda reading=reading: len(reading.data) > 1)
                time.sleep(0.0007 * attempt)
                taken = reading.close()
            assert reading.error is None
            assert taken < SOON
            # In order, without a gap.
            expected = [str(number % 500) for number in range(len(reading.data))]
            assert reading.data == expected
            assert reading.end_reason is EndReason.CLOSED
        assert len(stage.requests) == 6
    finally:
        sys.setswitchinterval(interval)


# -- ready_state -----------------------------------------------------------------------------------


@EVERY
def test_ready_state(way: Way, stage: Stage) -> None:
    """At each stage."""
    stage.plays = [Play(503, ()), stream(), stream(framing="chunked-truncated"), B]
    states: list[tuple[str, ReadyState]] = []

    async def use(source: Any) -> None:
        def note(what: str) -> Any:
            states.append((what, source.ready_state))

        box.append(note)
        note("new")
        async for event in source:
            note(event.data)
        note("end")

    def noting(what: str) -> Any:
        return lambda *args: box[0](what)

    box: list[Any] = []
    way.use(use, stage.url, policy=FAST, headers=noting("ask"), on_error=noting("error"))
    connecting, opened, closed = ReadyState
    assert states == [
        ("new", connecting),
        ("ask", connecting),
        ("error", connecting),
        ("ask", connecting),
        ("a", opened),
        ("ask", connecting),
        ("a", opened),
        ("error", connecting),
        ("ask", connecting),
        ("b", opened),
        ("ask", connecting),
        ("end", closed),
    ]


def test_ready_state_after_an_error(stage: Stage) -> None:
    stage.plays = [Play(404, ())]
    with pytest.raises(ResponseError), EventSource(stage.url) as source:
        pytest.fail("it has no events")
    source = EventSource(stage.url)
    stage.requests.clear()
    with pytest.raises(ResponseError):
        next(source)
    assert source.ready_state is ReadyState.CLOSED
    assert source.end_reason is EndReason.ERROR
    # An error is raised once, and then it is over.
    assert list(source) == []


# -- reconnect() -----------------------------------------------------------------------------------


@EVERY
def test_reconnect_in_the_loop(way: Way, stage: Stage) -> None:
    """The event at hand is taken, as the next one is asked for; what came with it is not."""
    stage.plays = [quiet(b"id: 1\ndata: a\n\nid: 2\ndata: x\n\n"), quiet(b"id: 2\ndata: b\n\n")]

    def on_event(source: Any, event: Any) -> None:
        if event.data == "a":
            source.reconnect()

    outcome = way.read(stage.url, policy=FAST, on_event=on_event, stop_after=2)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1"]
    assert stage.requests[1].open == 0


@EVERY
@pytest.mark.parametrize("while_", ["quiet", "backoff"])
def test_reconnect_from_another_thread(way: Way, stage: Stage, while_: str) -> None:
    first = quiet(b"id: 1\ndata: a\n\n") if while_ == "quiet" else stream()
    stage.plays = [first, quiet(b"id: 2\ndata: b\n\n")]
    with Reading(way, stage.url, policy=SLOW) as reading:
        wait_until(lambda: reading.data)
        if while_ == "backoff":
            wait_until(lambda: stage.requests[0].ended)
        time.sleep(SETTLED)
        before = time.monotonic()
        reading.source.reconnect()
        wait_until(lambda: len(stage.requests) == 2, SOON)
        wait_until(lambda: len(reading.data) == 2)
        reading.close()
    assert reading.data == ["a", "b"]
    # It is no way around the shortest wait.
    assert 0.08 < stage.requests[1].arrived - before < SOON
    assert stage.requests[1].get("Last-Event-ID") == b"1"
    assert stage.requests[1].open == 0


@EVERY
@pytest.mark.parametrize("end", ["no content", "error", "until", "end"])
def test_reconnect_after_the_end(way: Way, stage: Stage, end: str) -> None:
    """It lives again; what it was consent to send again may be any method."""
    last: dict[str, Play] = {
        "no content": Play(204, ()),
        "error": Play(404, ()),
        "until": stream(b"id: 1\ndata: last\n\n"),
        "end": stream(b"id: 1\ndata: 1\n\n"),
    }

    async def use(source: Any) -> None:
        with suppress(ResponseError):
            data.extend([event.data async for event in source])
        assert source.ready_state is ReadyState.CLOSED
        assert source.end_reason is not None
        source.reconnect()
        assert (await anext(source)).data == "b"
        assert source.end_reason is None
        assert source.ready_state is ReadyState.OPEN
        with suppress(ResponseError):
            data.extend([event.data async for event in source])
        assert source.ready_state is ReadyState.CLOSED

    data: list[str] = []
    stage.plays = [last[end], stream(b"id: 2\ndata: b\n\n")]
    until = lambda event: event.data == "last"  # noqa: E731
    options = {"until": until} if end == "until" else {}
    policy = ReconnectPolicy.never(min_delay=0.01)
    with suppress(sse_fast.StreamIncomplete):
        # Where `until` is not met by what came of reconnect().
        way.use(use, stage.url, method="POST", data=b"x", policy=policy, **options)
    assert data == {"until": ["last"], "end": ["1"]}.get(end, [])
    assert [(request.method, request.body) for request in stage.requests] == [("POST", b"x")] * 2


@EVERY
def test_reconnect_after_close(way: Way, stage: Stage) -> None:
    """There is nothing after that."""

    async def use(source: Any) -> None:
        await source.open()
        source.close()
        source.reconnect()
        source.reconnect(0.0)
        assert source.ready_state is ReadyState.CLOSED
        assert [event async for event in source] == []
        assert source.end_reason is EndReason.CLOSED

    stage.plays = [quiet(b"data: a\n\n"), B]
    way.use(use, stage.url, policy=FAST)
    assert len(stage.requests) == 1


@EVERY
def test_reconnect_after_a_delay(way: Way, stage: Stage) -> None:
    """And no sooner, or later, than that, whatever the server wants."""
    stage.plays = [stream(b"retry: 30000\nid: 1\ndata: a\n\n", end="hang"), B]
    times: list[float] = []

    def on_event(source: Any, event: Any) -> None:
        if event.data == "a":
            times.append(time.monotonic())
            source.reconnect(0.1)

    outcome = way.read(stage.url, policy=SLOW, on_event=on_event, stop_after=2)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert 0.09 < stage.requests[1].arrived - times[0] < SOON


@EVERY
def test_reconnect_while_an_attempt_is_under_way(way: Way, stage: Stage) -> None:
    """That is what it asks for: there is one request, and no second one behind it."""
    go = threading.Event()

    def plays(number: int, request: Request) -> Play:
        go.wait(LIMIT)
        return B if number else quiet(b"id: 1\ndata: a\n\n")

    stage.plays = plays
    with Reading(way, stage.url, policy=FAST) as reading:
        wait_until(lambda: stage.requests)
        reading.source.reconnect()
        time.sleep(SETTLED)
        go.set()
        wait_until(lambda: reading.data)
        time.sleep(SETTLED)
        assert len(stage.requests) == 1
        reading.close()
    assert reading.data == ["a"]


@EVERY
def test_reconnect_before_anything_was_asked(way: Way, stage: Stage) -> None:
    async def use(source: Any) -> None:
        source.reconnect()
        assert [event.data async for event in source] == ["a"]

    stage.plays = [stream()]
    way.use(use, stage.url, policy=FAST)
    assert len(stage.requests) == 2


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), "1", True, []], ids=repr)
def test_reconnect_refuses(cls: Any, delay: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="delay"):
        cls("http://127.0.0.1").reconnect(delay)


# -- Cancelled waits -------------------------------------------------------------------------------


# Each is cancelled once a condition holds, and a little later.


async def settled(condition: Callable[[], object]) -> None:
    while not condition():
        await anyio.sleep(0.001)
    await anyio.sleep(SETTLED)


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
            with pytest.raises(RuntimeError, match="one thread"):
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
                with pytest.raises(RuntimeError, match="one thread or task"):
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


CHUNKED = ("Transfer-Encoding", "chunked")
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
    began = time.monotonic()
    length = ("Content-Length", "100")
    unfinished = [
        at_once(chunked(BODY, end=b""), CHUNKED),
        at_once(BODY, length),
        at_once(chunked(BODY)[:-2], CHUNKED),
    ]
    for play in unfinished:
        play.end = held
    stage.plays = [play for play in unfinished for _ in range(2)]
    data = read_in_turn(way, stage.url, len(stage.plays), until=lambda event: True)
    assert time.monotonic() - began < LIMIT / 4
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


# -- A Unix socket ---------------------------------------------------------------------------------


@contextmanager
def unix_socket(path: Path, stage: Stage) -> Iterator[None]:
    """What leads to the stage, for as long as the block runs."""

    def pass_on(one: socket.socket) -> None:
        with one, socket.create_connection(stage.server_address) as other:
            pairs = {one: other, other: one}
            while pairs and not over.is_set():
                for readable in select.select(list(pairs), [], [], 0.01)[0]:
                    received = readable.recv(65536)
                    if not received:
                        with suppress(OSError):
                            pairs[readable].shutdown(socket.SHUT_WR)
                        del pairs[readable]
                    else:
                        pairs[readable].sendall(received)

    def work(one: socket.socket) -> None:
        # The client may leave at any point.
        with suppress(OSError, KeyError):
            pass_on(one)

    def accept() -> None:
        while not over.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.setblocking(True)
                threads.append(threading.Thread(target=work, args=(connection,)))
                threads[-1].start()

    over = threading.Event()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(0.01)
        threads = [threading.Thread(target=accept)]
        threads[0].start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join(LIMIT)
                assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
@pytest.mark.parametrize("name", ["sse_fast", "sse_fast asyncio"])
def test_a_unix_socket(name: str, stage: Stage, tmp_path: Path) -> None:
    stage.plays = [stream(), Play(302, [("Location", "/d?x")], framing="length"), B]
    with unix_socket(tmp_path / "s", stage):
        outcome = SOURCES[name].read("http://docker/c", uds=tmp_path / "s", policy=FAST)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert outcome.error is None
    assert [request.target for request in stage.requests] == ["/c", "/c", "/d?x", "/c"]
    assert {request.get("Host") for request in stage.requests} == {b"docker"}


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
@pytest.mark.parametrize("name", ["sse_fast", "sse_fast asyncio"])
def test_a_unix_socket_leads_to_no_other_origin(name: str, stage: Stage, tmp_path: Path) -> None:
    """Which would be asked of the very same socket."""
    with serve_stage([B]) as there, unix_socket(tmp_path / "s", stage):
        stage.plays = [Play(302, [("Location", there.url)], framing="length"), B]
        outcome = SOURCES[name].read(stage.url, uds=tmp_path / "s", policy=FAST)
        assert isinstance(outcome.error, SSEError)
        assert [len(stage.requests), len(there.requests)] == [1, 0]


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
@pytest.mark.parametrize("name", ["sse_fast", "sse_fast asyncio"])
def test_close_wakes_a_reader_of_a_unix_socket(name: str, stage: Stage, tmp_path: Path) -> None:
    for play in (MUTE, quiet(b"data: a\n\n")):
        stage.requests.clear()
        stage.plays = [play]
        with unix_socket(tmp_path / "s", stage):
            with Reading(SOURCES[name], stage.url, uds=str(tmp_path / "s")) as reading:
                wait_until(lambda: stage.requests)
                time.sleep(SETTLED)
                assert reading.close() < SOON
            assert reading.error is None
        (tmp_path / "s").unlink()


# -- What is logged, and what is never shown -------------------------------------------------------


@EVERY
def test_what_is_logged(way: Way, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """Each attempt, the status of its response, the wait with its reason, and the end."""
    caplog.set_level(logging.DEBUG, "sse_fast")
    stage.plays = [
        Play(503, ()),
        Play(302, [("Location", "@b")], framing="length"),
        stream(),
        stream(framing="chunked-truncated"),
    ]
    way.read(stage.url, policy=ReconnectPolicy(initial_delay=0.02, jitter=0.0, min_delay=0.02))
    records = [record for record in caplog.records if record.name.startswith("sse_fast")]
    assert {record.levelno for record in records} == {logging.DEBUG}
    text = "\n".join(record.getMessage() for record in records)
    assert len(re.findall(rf"GET {re.escape(stage.url)}, attempt \d+", text)) == 4
    assert f"{stage.origin}/c/b" in text
    assert re.findall(r"<Response (\d+)", text) == ["503", "302", "200", "200", "204"]
    # Why, and for how long.
    assert re.search(r"status 200, got 503.*again in 0\.\d s", text)
    assert re.search(r"ended\b.*;\s.*again in 0\.\d s", text, re.DOTALL)
    assert re.search(r"body.*again in 0\.\d s|bytes.*again in 0\.\d s", text)
    assert re.search(r"over \(no content\)$", text, re.MULTILINE)


def test_a_close_is_logged(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sse_fast")
    stage.plays = [quiet(b"data: a\n\n")]
    with EventSource(stage.url) as source:
        next(source)
    assert caplog.messages[-1] == f"{stage.url}: closed"


def test_nothing_is_shown_without_being_asked_for(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    stage.plays = [Play(503, ()), stream()]
    SOURCES["sse_fast"].read(stage.url, policy=FAST)
    assert capfd.readouterr() == ("", "")


SECRET = "s3cret"
FIELDS = {"Authorization": f"Bearer {SECRET}", "X-Key": SECRET, "Cookie": f"a={SECRET}"}
REFUSED = [("Set-Cookie", f"a={SECRET}"), ("X-Key", SECRET), ("WWW-Authenticate", SECRET)]
ID = f"id: {SECRET}\n".encode()
DATA = f"data: {SECRET}\n\n".encode()


class MyError(Exception):
    pass


# What goes wrong, and what is given for it. The first are matters of the library.
BY_LIBRARY: dict[str, tuple[Play | None, dict[str, Any]]] = {
    "nobody": (None, {}),
    "no head": (Play(framing="none"), {}),
    "silence": (Play(framing="none", end="hang"), {"idle_timeout": 0.05}),
    "bad head": (Play(fields=[("Bad Name", SECRET), EVENT_STREAM]), {}),
    "bad length": (Play(fields=[("Content-Length", SECRET), EVENT_STREAM]), {}),
    "bad chunk": (Play(fields=[EVENT_STREAM, CHUNKED], body=[f"{SECRET}\r\n".encode()]), {}),
    "cut off": (stream(ID + DATA, framing="chunked-truncated"), {}),
    "redirect": (Play(302, [("Location", f"@b?{SECRET}"), *REFUSED]), {}),
    "bad redirect": (Play(302, [("Location", f"x://{SECRET}")]), {}),
    "blanks": (stream(), {"headers": {"X-Key": f" {SECRET} "}}),
    "not ASCII": (stream(), {"headers": {"X-Key": f"{SECRET}é"}}),
    "not UTF-8": (stream(), {"headers": {"X-Key": SECRET.encode() + b"\xff"}}),
}
ALL_SHOWN: dict[str, tuple[Play | None, dict[str, Any]]] = {
    **BY_LIBRARY,
    "refused": (Play(404, REFUSED, body=[DATA]), {}),
    "busy": (Play(503, [*REFUSED, ("Retry-After", "0")], body=[DATA]), {}),
    "redirect of a POST": (
        Play(302, [("Location", f"@b?{SECRET}")]),
        {"method": "POST", "data": DATA},
    ),
    "pending": (stream(ID + DATA + DATA[:-1]), {}),
    "until": (stream(ID + DATA), {"until": f"{SECRET}!"}),
    "met until": (stream(ID + DATA), {"until": SECRET}),
    "size": (stream(ID + DATA), {"max_event_size": 10}),
    "long id": (stream(ID + DATA), {"policy": ReconnectPolicy(initial_delay=0.0, max_id_size=1)}),
    "decode": (stream(ID + DATA), {"decode": int}),
    "bad answer": (Play(503, ()), {"on_error": lambda error: SECRET}),
    "bad headers": (stream(), {"headers": lambda: {"X-Key": f"{SECRET}\n"}}),
    "bad name": (stream(), {"headers": lambda: {f"{SECRET}: ": "x"}}),
    "bad resume": (stream(), {"resume": lambda last_event_id: f"http://{SECRET}@[/"}),
    "bad mapping": (stream(), {"resume": lambda last_event_id: {SECRET: 1}}),
}
OF_A_LIBRARY = [SOURCES[name] for name in ("requests", "urllib3", "httpx", "aiohttp")]


def shown_by(way: Way, url: str, caplog: pytest.LogCaptureFixture, **options: Any) -> list[str]:
    """All texts that came of a source, the errors that `on_error` saw among them."""
    caplog.set_level(logging.DEBUG, "sse_fast")
    url = url.replace("://", f"://{SECRET}:{SECRET}@") + f"?{SECRET}#{SECRET}"
    seen: list[Any] = []
    given = {"headers": FIELDS, "policy": FAST, "on_error": seen.append, **options}
    outcome = way.read(url, **given)
    assert outcome.error is None or outcome.error in seen or "on_error" in options
    records = [record for record in caplog.records if record.name.startswith("sse_fast")]
    assert records != []
    assert all(record.exc_info is None for record in records)
    response = outcome.source.response
    shown = [repr(outcome.source), str(outcome.source), repr(response)]
    shown += [] if response is None else [repr(response.headers)]
    shown += [str(error) for error in [*seen, outcome.error] if error is not None]
    return [*shown, *(record.getMessage() for record in records)]


@pytest.mark.parametrize(
    ("way", "name"),
    [
        *((SOURCES[way], name) for way in ("sse_fast", "sse_fast asyncio") for name in ALL_SHOWN),
        *((way, name) for way in OF_A_LIBRARY for name in BY_LIBRARY),
        *((way, "blanks") for way in SOURCES.values() if way.library == "httpx2"),
    ],
    ids=str,
)
def test_no_secret_is_shown(
    way: Way, stage: Stage, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Scheme, host and path are; not query, user, field values, ids, bodies, or others' words."""
    play, options = ALL_SHOWN[name]
    url = stage.url
    if play is None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}/c"
    else:
        stage.plays = [play, stream(b"data: b\n\n")]
    if name != "long id":
        options = {"last_event_id": SECRET, **options}
    shown = shown_by(way, url, caplog, **options)
    assert [text for text in shown if SECRET in text] == []


@pytest.mark.parametrize("name", ["on_open", "on_comment", "headers"])
@pytest.mark.parametrize(
    "error",
    [MyError, RetriableError, sse_fast.FatalError, sse_fast.TransportError, OSError],
)
def test_what_callbacks_raise_is_not_logged(
    stage: Stage, name: str, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """It comes out as it was, and its text is nobody else's business."""
    once = [error(SECRET)]

    def callback(*args: Any) -> dict[str, str]:
        if once:
            raise once.pop()
        return {}

    stage.plays = [stream(b": c\n\ndata: a\n\n")] * 2
    shown_by(SOURCES["sse_fast"], stage.url, caplog, **{name: callback})
    assert once == []
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("sse_fast")]
    assert [text for text in messages if SECRET in text] == []


@pytest.mark.parametrize("name", ["unknown", "wrong name"])
@EVERY
def test_no_secret_is_shown_of_a_certificate_that_is_refused(
    way: Way, name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "sse_fast")
    ca, other = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    (other if name == "unknown" else ca).cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1" if name == "unknown" else "other.example").configure_cert(context)
    errors: list[Exception] = []
    with serve_stage([stream()], context) as secure:
        url = secure.url.replace("://", f"://{SECRET}:{SECRET}@") + f"?{SECRET}"
        outcome = way.read(url, ca=str(file), policy=FAST, headers=FIELDS, on_error=errors.append)
        assert secure.requests == []
    # It would be refused again.
    assert isinstance(outcome.error, sse_fast.TransportError)
    assert errors == [outcome.error]
    assert (outcome.error.phase, outcome.error.sent) == ("connect", False)
    assert "ertificate" in str(outcome.error) or "CERTIFICATE" in str(outcome.error)
    text = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("sse_fast"))
    assert text
    assert SECRET not in text + str(outcome.error) + repr(outcome.source)


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize(
    "options",
    [
        {"url": f"http://{SECRET}:{SECRET}@[/?{SECRET}"},
        {"url": f"ftp://{SECRET}@127.0.0.1/?{SECRET}"},
        {"url": f"http://127.0.0.1:{SECRET}/"},
        {"url": f"http://127.0.0.1/{SECRET}\n"},
        {"headers": {"X": f"{SECRET}\n"}},
        {"headers": {f"X: {SECRET}": "x"}},
        {"headers": {"X": [SECRET]}},
        {"data": [SECRET]},
        {"method": f"{SECRET} X"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_no_secret_is_shown_of_what_is_refused_at_once(cls: Any, options: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        cls(**{"url": "http://127.0.0.1", **options})
    assert SECRET not in str(caught.value)
