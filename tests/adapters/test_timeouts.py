"""idle_timeout, event_timeout and progress of iter_events and aiter_events, over every library."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import anyio
import httpx
import pytest

from sse_fast import EndReason, Event, StreamTimeout, aiter_events, iter_events
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import HTTP2_READERS, READERS, UNREAD_UNDER_TRIO, Reader, wait_until
from tests.support.faults import CHUNKED, LEFT, FaultServer, chunk, head

pytestmark = UNREAD_UNDER_TRIO

ONE = chunk(b"data: 1\n\n")
PING = chunk(b"event: ping\ndata:\n\n")


def params_of(readers: list[Reader]) -> list[Any]:
    """Mark a library that is like another one as `matrix`."""
    return [
        pytest.param(
            each,
            id=str(each),
            marks=[pytest.mark.matrix] if each.name.startswith(("httpx2", "urllib")) else [],
        )
        for each in readers
    ]


LIBRARIES = [reader for reader in READERS.values() if reader.library != "sse_fast"]
EACH = pytest.mark.parametrize("reader", params_of(LIBRARIES))
SYNC = pytest.mark.parametrize(
    "reader", params_of([reader for reader in LIBRARIES if reader.backend is None])
)
QUIET = [head(CHUNKED), ONE, LEFT]
DRIPPING = [head(CHUNKED), ONE, *[step for _ in range(200) for step in (chunk(b":\n"), 0.02)], LEFT]
PINGING = [head(CHUNKED), ONE, *[step for _ in range(200) for step in (PING, 0.02)], LEFT]


def is_no_ping(event: Event) -> bool:
    return event.event != "ping"


@EACH
@pytest.mark.parametrize(
    ("script", "options", "message"),
    [
        (QUIET, {"idle_timeout": 0.2}, "No byte arrived within 0.2 seconds"),
        (QUIET, {"event_timeout": 0.2}, "No event arrived within 0.2 seconds"),
        (DRIPPING, {"event_timeout": 0.2, "idle_timeout": 5}, "No event arrived"),
        (PINGING, {"event_timeout": 0.2, "progress": is_no_ping}, "No event that progress accepts"),
    ],
    ids=["idle", "quiet", "dripping", "pinging"],
)
def test_timeout_ends_a_stream(
    reader: Reader, faults: FaultServer, script: list[Any], options: Any, message: str
) -> None:
    faults.scripts["/"] = script

    async def use(stream: Any) -> None:
        seen = []

        async def read() -> None:
            while True:
                seen.append((await anext(stream)).data)

        began = time.monotonic()
        with pytest.raises(StreamTimeout, match=message):
            await read()
        assert 0.15 < time.monotonic() - began < 2
        assert seen[0] == "1"
        assert stream.end_reason is EndReason.ERROR
        # The connection is released while its response is still in scope.
        deadline = time.monotonic() + 5
        while faults.playing and time.monotonic() < deadline:
            await anyio.sleep(0.001)
        assert not faults.playing

    reader.follow(use, faults.url + "/", options=options)
    wait_until(lambda: not any(thread.name == "sse_fast" for thread in threading.enumerate()))


@EACH
def test_time_of_the_consumer_does_not_count(reader: Reader, faults: FaultServer) -> None:
    more = threading.Event()
    faults.scripts["/"] = [head(CHUNKED), ONE, more, ONE, chunk(b"")]

    async def use(stream: Any) -> None:
        assert (await anext(stream)).data == "1"
        await anyio.sleep(0.4)
        more.set()
        assert (await anext(stream)).data == "1"
        await anyio.sleep(0.4)
        assert await anext(stream, None) is None
        assert stream.end_reason is EndReason.END

    reader.follow(use, faults.url + "/", options={"event_timeout": 0.3, "idle_timeout": 0.3})


@EACH
def test_events_prolong_a_stream(reader: Reader, faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED), *[ONE, 0.1] * 8, chunk(b"")]
    options = {"event_timeout": 0.5, "idle_timeout": 0.5}
    outcome = reader.read(faults.url + "/", options=options)
    assert len(outcome.events) == 8
    assert outcome.error is None


@SYNC
def test_without_timeout_there_is_no_thread(reader: Reader, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET

    def use(stream: Any) -> None:
        before = threading.active_count()
        next(stream)
        assert threading.active_count() == before

    reader.run(use, faults.url + "/")


@SYNC
def test_dropped_stream_ends_its_thread(reader: Reader, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET
    with reader.open(faults.url + "/", options={"event_timeout": 100}) as stream:
        next(stream)
    del stream
    wait_until(lambda: not any(thread.name == "sse_fast" for thread in threading.enumerate()))


def test_stream_that_cannot_be_ended_refuses_timeouts(
    hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = socket.socketpair()
    sources: list[Any] = [b"", [b""], iter([b""]), io.BytesIO(b""), near]
    with near, far:
        for source in sources:
            for options in ({"idle_timeout": 1}, {"event_timeout": 1}):
                with pytest.raises(ValueError, match="cannot be ended by idle_timeout"):
                    iter_events(source, **options)
    hypercorn_server.answers["/"] = AsgiAnswer([b"data: 1\n\n"])
    reader = HTTP2_READERS["httpx HTTP/2"]
    with (
        pytest.raises(ValueError, match=r"Reads from httpx\.Response cannot be ended"),
        reader.open(
            hypercorn_server.url + "/", ca=hypercorn_server.ca, options={"event_timeout": 1}
        ),
    ):
        pass


def test_body_that_was_read_accepts_timeouts() -> None:
    """As that of a mock: it needs no limit."""
    response = httpx.Response(
        200, headers={"content-type": "text/event-stream"}, content=b"data: 1\n\n"
    )
    assert [event.data for event in iter_events(response, idle_timeout=1)] == ["1"]


@pytest.mark.parametrize("opening", [iter_events, aiter_events])
def test_invalid_timeouts_are_refused(opening: Any) -> None:
    for value in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="idle_timeout"):
            opening(b"", idle_timeout=value)
        with pytest.raises(ValueError, match="event_timeout"):
            opening(b"", event_timeout=value)
    with pytest.raises(ValueError, match="set event_timeout too"):
        opening(b"", progress=is_no_ping)
    with pytest.raises(TypeError, match="progress to be callable"):
        opening(b"", event_timeout=1, progress=1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_timeouts_of_async_generators(backend: str) -> None:
    async def chunks() -> Any:
        while True:
            yield b"event: ping\ndata:\n\n"
            await anyio.sleep(0.01)

    async def run() -> None:
        stream = aiter_events(chunks(), event_timeout=0.1, progress=is_no_ping)
        with anyio.fail_after(5), pytest.raises(StreamTimeout):
            assert not [event async for event in stream]

    anyio.run(run, backend=backend)


def test_exception_of_progress_loses_no_event(faults: FaultServer) -> None:
    def progress(event: Event) -> bool:
        if event.data == "2":
            raise KeyError
        return True

    faults.scripts["/"] = [
        head(CHUNKED),
        chunk(b"data: 1\n\ndata: 2\n\n"),
        0.05,
        chunk(b"data: 2\n\n"),
        0.05,
        chunk(b"data: 3\n\n"),
        chunk(b""),
    ]

    def read(stream: Iterator[Event]) -> list[str]:
        seen = []
        while True:
            try:
                event = next(stream, None)
            except KeyError:
                seen.append("KeyError")
                continue
            if event is None:
                return seen
            seen.append(event.data)

    options = {"event_timeout": 5, "progress": progress}
    seen = READERS["http.client"].run(read, faults.url + "/", options=options)
    # The first event of the first chunk is progress already.
    assert seen == ["1", "2", "KeyError", "2", "3"]
