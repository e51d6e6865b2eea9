"""`relay` over generators and streams: its bytes, its comments, and the end of its source."""

from __future__ import annotations

import asyncio
import gc
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import Event
from tests.support.relaying import relay_threads, wait_until

EVENTS = [Event("tick", "1", "7", 250), Event("message", "2\n3", "7"), Event("message", "", "8")]
QUIET = b":\n\n"


def parse(*parts: bytes) -> list[Event[str]]:
    return sse_fast.Parser().feed(b"".join(parts))


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert wait_until(lambda: not relay_threads())


class Source:
    """Events, pauses in seconds, and an exception; with a note of what happened to it."""

    def __init__(self, *items: Any) -> None:
        self.items = items
        self.asked = 0
        self.closed = False

    def read(self) -> Iterator[Event[Any]]:
        try:
            for item in self.items:
                if isinstance(item, float):
                    time.sleep(item)
                    continue
                if isinstance(item, threading.Event):
                    item.wait(10)
                    continue
                self.asked += 1
                if isinstance(item, (BaseException, type)):
                    raise item
                yield item
        finally:
            self.closed = True

    async def aread(self) -> AsyncIterator[Event[Any]]:
        try:
            for item in self.items:
                if isinstance(item, float):
                    await anyio.sleep(item)
                    continue
                self.asked += 1
                if isinstance(item, (BaseException, type)):
                    raise item
                yield item
        finally:
            # A source that needs a moment to close.
            with anyio.CancelScope(shield=True):
                await anyio.sleep(0.001)
            self.closed = True


def collect_sync(source: Source, received: list[bytes], **options: Any) -> None:
    for part in sse_fast.relay(source.read(), **options):
        received.append(part)


def collect_async(source: Source, received: list[bytes], **options: Any) -> None:
    async def main() -> None:
        async for part in sse_fast.relay(source.aread(), **options):
            received.append(part)

    asyncio.run(main())


def collect_trio(source: Source, received: list[bytes], **options: Any) -> None:
    async def main() -> None:
        async for part in sse_fast.relay(source.aread(), **options):
            received.append(part)

    anyio.run(main, backend="trio")


Collect = Callable[..., None]
ways = pytest.mark.parametrize("collect", [collect_sync, collect_async, collect_trio])
backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


# -- The bytes -------------------------------------------------------------------------------------


@ways
@pytest.mark.parametrize("heartbeat", [15, None])
def test_relay_sends_each_event_as_an_item(collect: Collect, heartbeat: float | None) -> None:
    source = Source(*EVENTS)
    received: list[bytes] = []
    collect(source, received, heartbeat=heartbeat)
    assert received == [event.encode() for event in EVENTS]
    assert parse(*received) == EVENTS
    assert source.closed


@ways
def test_relay_quiet_source_sends_comments(collect: Collect) -> None:
    """And its read goes on, so that no event is lost."""
    source = Source(EVENTS[0], 0.2, EVENTS[1])
    received: list[bytes] = []
    began = time.monotonic()
    collect(source, received, heartbeat=0.03)
    seconds = time.monotonic() - began
    assert [part for part in received if part != QUIET] == [each.encode() for each in EVENTS[:2]]
    first = received.index(EVENTS[0].encode())
    assert received[-1] == EVENTS[1].encode()
    assert 2 <= len(received[first:-1]) - 1 <= seconds / 0.03


@ways
def test_relay_without_heartbeat_sends_no_comment(collect: Collect) -> None:
    received: list[bytes] = []
    collect(Source(EVENTS[0], 0.1, EVENTS[1]), received, heartbeat=None)
    assert parse(*received) == EVENTS[:2]
    assert len(received) == 2


@ways
def test_relay_error_raised_after_earlier_events(collect: Collect) -> None:
    source = Source(*EVENTS, sse_fast.TransportError("lost"))
    received: list[bytes] = []
    with pytest.raises(sse_fast.TransportError, match="lost"):
        collect(source, received)
    assert parse(*received) == EVENTS
    assert source.closed


@ways
@pytest.mark.parametrize("item", [b"data: 1\n\n", "data: 1", {"data": 1}, None])
def test_relay_refuses_what_is_no_event(collect: Collect, item: object) -> None:
    source = Source(item)
    with pytest.raises(
        TypeError, match=r"Expected events with event and data, got \w+: make an Event"
    ):
        collect(source, [])
    assert wait_until(lambda: source.closed)


@ways
def test_relay_takes_events_of_other_libraries(collect: Collect) -> None:
    import httpx_sse
    import sseclient

    events = [
        httpx_sse.ServerSentEvent(event="tick", data="1\n2", id="7", retry=250),
        httpx_sse.ServerSentEvent(),
        sseclient.Event(id="8", event="message", data="3", retry="400"),
    ]
    received: list[bytes] = []
    collect(Source(*events), received)
    assert parse(*received) == [
        Event("tick", "1\n2", "7", 250),
        Event("message", ""),
        Event("message", "3", "8", 400),
    ]


@ways
def test_relay_refuses_decoded_data(collect: Collect) -> None:
    source = Source(EVENTS[0], Event("message", {"a": 1}))
    received: list[bytes] = []
    with pytest.raises(TypeError, match="str"):
        collect(source, received)
    assert parse(*received) == EVENTS[:1]
    assert wait_until(lambda: source.closed)


@ways
def test_relay_resets_an_id_that_became_empty(collect: Collect) -> None:
    events = [Event("message", "1", "7"), Event("message", "2"), Event("message", "3")]
    received: list[bytes] = []
    collect(Source(*events), received)
    assert parse(*received) == events
    assert received[2] == b"data: 3\n\n"


def make_stream(chunks: Sequence[bytes], *, is_async: bool) -> Any:
    if not is_async:
        return sse_fast.iter_events(chunks)

    async def each() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return sse_fast.aiter_events(each())


@pytest.mark.parametrize("is_async", [False, True])
def test_relay_sends_fields_without_an_event(is_async: bool) -> None:
    """The client resumes from the same id, after the same time, as from the source itself."""
    chunks = [b"retry: 400\n\n", b"id: 1\ndata: a\n\n", b"id: 2\n\n", b"data: b\n\n", b"id: 3\n\n"]
    relayed = sse_fast.relay(make_stream(chunks, is_async=is_async))
    if is_async:

        async def main() -> list[bytes]:
            return [part async for part in relayed]

        received = asyncio.run(main())
    else:
        received = list(relayed)
    parser = sse_fast.Parser()
    assert parser.feed(b"".join(received)) == [
        Event("message", "a", "1"),
        Event("message", "b", "2"),
    ]
    assert (parser.last_event_id, parser.retry) == ("3", 400)


# -- Arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize("events", ["text", b"bytes", 7, None])
def test_relay_wrong_argument_raises_immediately(events: Any) -> None:
    with pytest.raises(TypeError, match=r"Expected an iterator of events, got \w+"):
        sse_fast.relay(events)


@pytest.mark.parametrize("heartbeat", [0, -1.0, float("nan"), float("inf"), 1e12])
def test_relay_heartbeat_must_be_positive(heartbeat: float) -> None:
    with pytest.raises(ValueError, match="Expected heartbeat to be a number of seconds above 0"):
        sse_fast.relay([], heartbeat=heartbeat)


@pytest.mark.parametrize("heartbeat", ["15", True, b""])
def test_relay_heartbeat_of_wrong_type_raises(heartbeat: Any) -> None:
    with pytest.raises(TypeError, match="Expected heartbeat to be a number of seconds"):
        sse_fast.relay([], heartbeat=heartbeat)


def test_relay_takes_any_iterable() -> None:
    assert parse(*sse_fast.relay(EVENTS)) == EVENTS
    assert parse(*sse_fast.relay(iter(EVENTS))) == EVENTS
    assert list(sse_fast.relay([])) == []


# -- The source is asked on demand -----------------------------------------------------------------


def test_sync_relay_asks_when_its_consumer_does() -> None:
    """An event is taken once it was sent, so that an interrupted relay loses none."""
    source = Source(*EVENTS)
    relayed = sse_fast.relay(source.read())
    assert source.asked == 0
    for count in (1, 2, 3):
        next(relayed)
        time.sleep(0.01)
        assert source.asked == count
    relayed.close()


@backends
def test_async_relay_asks_when_its_consumer_does(backend: str) -> None:
    source = Source(*EVENTS)

    async def main() -> None:
        relayed = sse_fast.relay(source.aread())
        assert source.asked == 0
        for count in (1, 2, 3):
            await relayed.__anext__()
            await anyio.sleep(0.01)
            assert source.asked == count
        await relayed.aclose()

    anyio.run(main, backend=backend)


# -- The consumer goes -----------------------------------------------------------------------------


@pytest.fixture
def no_gc() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("way", ["close", "with", "drop"])
def test_sync_relay_closes_its_source(way: str, started: bool, no_gc: None) -> None:
    go_on = threading.Event()
    source = Source(go_on, *EVENTS)
    events = source.read()
    relayed = sse_fast.relay(events, heartbeat=0.005)
    if started:
        assert next(relayed) == QUIET
    released = weakref.ref(events)
    del events
    if way == "close":
        relayed.close()
        relayed.close()
        assert list(relayed) == []
    elif way == "with":
        with relayed:
            pass
    del relayed
    # Nothing can wake a generator, whose thread ends with its read.
    go_on.set()
    assert wait_until(lambda: released() is None)
    assert source.closed == started


@backends
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("way", ["close", "with", "drop"])
def test_async_relay_closes_its_source(way: str, started: bool, backend: str, no_gc: None) -> None:
    source = Source(5.0, *EVENTS)

    async def main() -> None:
        events = source.aread()
        relayed = sse_fast.relay(events, heartbeat=0.005)
        if started:
            assert await relayed.__anext__() == QUIET
        released = weakref.ref(events)
        del events
        if way == "close":
            await relayed.aclose()
            await relayed.aclose()
            assert [part async for part in relayed] == []
        elif way == "with":
            async with relayed:
                pass
        if way != "drop":
            assert source.closed == started
        del relayed
        for _ in range(200):
            if released() is None:
                break
            await anyio.sleep(0.005)
        assert released() is None
        assert source.closed == started
        if backend == "asyncio":
            assert len(asyncio.all_tasks()) == 1

    anyio.run(main, backend=backend)


@backends
def test_async_relay_cancelled_wait_closes_its_source(backend: str, no_gc: None) -> None:
    """Cancellation is how servers tell that the client left."""
    source = Source(EVENTS[0], 5.0)

    async def main() -> None:
        relayed = sse_fast.relay(source.aread())
        with anyio.move_on_after(0.05):
            async for _ in relayed:
                pass
        assert [part async for part in relayed] == []
        for _ in range(200):
            if source.closed:
                break
            await anyio.sleep(0.005)
        assert source.closed

    anyio.run(main, backend=backend)


def test_async_relay_task_of_the_source_is_cancelled_raises() -> None:
    """A read that somebody else cancelled is no clean end."""
    source = Source(EVENTS[0], asyncio.CancelledError())

    async def main() -> None:
        relayed = sse_fast.relay(source.aread())
        await relayed.__anext__()
        with pytest.raises(RuntimeError, match="cancelled"):
            await relayed.__anext__()

    asyncio.run(main())


def test_sync_relay_close_wakes_a_read_of_a_stream() -> None:
    near, far = socket.socketpair()
    with near, far:
        opened = threading.Event()
        body = sse_fast.iter_events(near)
        relayed = sse_fast.relay(body)
        received: list[bytes] = []

        def read() -> None:
            for part in relayed:
                received.append(part)
                opened.set()

        reader = threading.Thread(target=read)
        reader.start()
        far.sendall(b"data: 1\n\n")
        assert opened.wait(5)
        relayed.close()
        reader.join(5)
        assert not reader.is_alive()
        # The thread that reads a borrowed socket ends with its read.
        far.close()
        assert received == [b"data: 1\n\n"]


@backends
def test_async_relay_close_ends_a_waiting_task(backend: str) -> None:
    source = Source(EVENTS[0], 5.0)

    async def main() -> None:
        relayed = sse_fast.relay(source.aread())
        received = []

        async def read() -> None:
            async for part in relayed:
                received.append(part)

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await anyio.sleep(0.02)
            with pytest.raises(RuntimeError, match="already waiting"):
                await relayed.__anext__()
            await relayed.aclose()
        assert received == [EVENTS[0].encode()]

    anyio.run(main, backend=backend)


def test_async_relay_is_closed_when_send_fails(no_gc: None) -> None:
    """Servers of ASGI 2.4 tell by an OSError that the client left."""
    from starlette.requests import ClientDisconnect
    from starlette.responses import StreamingResponse

    source = Source(*EVENTS, 5.0)
    scope = {"type": "http", "method": "GET", "asgi": {"spec_version": "2.4"}}
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 3:
            raise OSError

    async def receive() -> Any:
        await asyncio.sleep(5)

    async def main() -> None:
        response = StreamingResponse(sse_fast.relay(source.aread()))
        with pytest.raises(ClientDisconnect):
            await response(scope, receive, send)
        del response
        while not source.closed:
            await asyncio.sleep(0.005)
        assert len(asyncio.all_tasks()) == 2

    asyncio.run(asyncio.wait_for(main(), 5))


def test_async_relay_dropped_in_another_thread_closes_its_source() -> None:
    source = Source(5.0)

    async def main() -> None:
        held = [sse_fast.relay(source.aread(), heartbeat=0.005)]
        assert await held[0].__anext__() == QUIET
        await asyncio.to_thread(held.clear)
        while not source.closed:
            await asyncio.sleep(0.005)

    asyncio.run(asyncio.wait_for(main(), 5))


def test_sync_relay_error_leaves_no_cycle(no_gc: None) -> None:
    events = Source(OSError).read()
    released = weakref.ref(events)
    relayed = sse_fast.relay(events)
    del events
    with suppress(OSError):
        next(relayed)
    dropped = weakref.ref(relayed)
    del relayed
    assert dropped() is None
    assert wait_until(lambda: released() is None)


def test_sync_relay_blocked_read_lets_the_process_end() -> None:
    program = (
        "import sse_fast, time\n"
        "def events():\n"
        "    yield sse_fast.Event('message', '1')\n"
        "    time.sleep(60)\n"
        "relayed = sse_fast.relay(events(), heartbeat=0.01)\n"
        "while next(relayed) == b':\\n\\n': pass\n"
        "print(next(relayed), flush=True)\n"
    )
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout == "b':\\n\\n'\n"
    assert time.monotonic() - began < 20
