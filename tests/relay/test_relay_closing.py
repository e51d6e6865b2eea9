"""A relay whose consumer goes: it closes its source, and leaves no task, thread or cycle."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import Event
from tests.support.relaying import EVENTS, QUIET, Source, wait_until

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


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


class Feed:
    """An iterable that makes an iterator, and is closed itself."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.closed: list[str] = []

    def close(self) -> None:
        self.closed.append("close")

    def __iter__(self) -> Iterator[Event[Any]]:
        return self.source.read()


class AsyncFeed(Feed):
    def __aiter__(self) -> AsyncIterator[Event[Any]]:
        return self.source.aread()

    async def close(self) -> None:  # type: ignore[override]
        await anyio.sleep(0)
        self.closed.append("awaited")


@pytest.mark.parametrize("reads", [0, 1, 4])
def test_sync_relay_closes_iterable_and_iterator(reads: int) -> None:
    feed = Feed(Source(*EVENTS))
    with sse_fast.relay(feed) as relayed:
        assert len(list(islice(relayed, reads))) == min(reads, 3)
    assert wait_until(lambda: feed.closed == ["close"])
    assert feed.source.closed == bool(reads)


@backends
@pytest.mark.parametrize("reads", [0, 1])
def test_async_relay_closes_iterable_and_iterator(reads: int, backend: str) -> None:
    """Some libraries have a `close()` to be awaited instead of `aclose()`."""
    feed = AsyncFeed(Source(*EVENTS))

    async def main() -> None:
        async with sse_fast.relay(feed) as relayed:
            for _ in range(reads):
                await relayed.__anext__()
        assert feed.closed == ["awaited"]
        assert feed.source.closed == bool(reads)

    anyio.run(main, backend=backend)


@backends
@pytest.mark.parametrize("started", [False, True])
@pytest.mark.parametrize("way", ["close", "with", "drop"])
def test_async_relay_closes_its_source(way: str, started: bool, backend: str, no_gc: None) -> None:
    source = Source(EVENTS[0], 5.0)

    async def main() -> None:
        events = source.aread()
        relayed = sse_fast.relay(events, heartbeat=0.005)
        if started:
            # A comment may come before the source has begun.
            while await relayed.__anext__() == QUIET:
                pass
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
            while not received:
                await anyio.sleep(0.001)
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


@backends
@pytest.mark.parametrize("sends", [0, 1, 2])
def test_async_relay_disconnected_closes_its_source(sends: int, backend: str, no_gc: None) -> None:
    """Servers of earlier ASGI tell by a message that the client left."""
    from starlette.responses import StreamingResponse

    feed = AsyncFeed(Source(EVENTS[0], 5.0))

    async def main() -> None:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            while len(sent) < sends:
                await anyio.sleep(0)
            return {"type": "http.disconnect"}

        response = StreamingResponse(sse_fast.relay(feed))
        await response({"type": "http", "method": "GET"}, receive, send)
        del response
        with anyio.fail_after(5):
            while not feed.closed:
                await anyio.sleep(0.001)
        assert len(sent) <= 2

    anyio.run(main, backend=backend)


@backends
@pytest.mark.parametrize("started", [False, True])
def test_async_relay_dropped_in_a_thread_closes(started: bool, backend: str) -> None:
    feed = AsyncFeed(Source(5.0))

    async def main() -> None:
        held = [sse_fast.relay(feed, heartbeat=0.005)]
        if started:
            assert await held[0].__anext__() == QUIET
        await anyio.to_thread.run_sync(held.clear)
        with anyio.fail_after(5):
            while not feed.closed:
                await anyio.sleep(0.005)
        assert feed.source.closed == started

    anyio.run(main, backend=backend)


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
