"""`relay` over generators and streams: its bytes and comments, and what it takes."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import Event, _background, _relay
from tests.support.relaying import EVENTS, QUIET, Source, wait_until


def parse(*parts: bytes) -> list[Event[str]]:
    return sse_fast.Parser().feed(b"".join(parts))


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
def test_relay_error_that_is_no_exception_is_raised(collect: Collect) -> None:
    """It is not taken for a cancellation, and trio goes on."""

    class Interrupted(BaseException):
        pass

    source = Source(*EVENTS, Interrupted("by a signal"))
    received: list[bytes] = []
    with pytest.raises(Interrupted, match="by a signal"):
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
    import sse_starlette
    import sseclient

    events = [
        httpx_sse.ServerSentEvent(event="tick", data="1\n2", id="7", retry=250),
        httpx_sse.ServerSentEvent(),
        sseclient.Event(id="8", event="message", data="3", retry="400"),
        sse_starlette.ServerSentEvent("4", event="tick", id=0),
    ]
    received: list[bytes] = []
    collect(Source(*events), received)
    assert parse(*received) == [
        Event("tick", "1\n2", "7", 250),
        Event("message", ""),
        Event("message", "3", "8", 400),
        Event("tick", "4", "0"),
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


def test_relay_takes_events_of_a_relay() -> None:
    """A stream of it passes on the events, and makes comments of its own."""
    source = Source(*EVENTS)
    inner = sse_fast.relay(source.read())
    assert parse(*sse_fast.relay(sse_fast.iter_events(inner))) == EVENTS
    assert source.closed


@backends
def test_stream_of_a_relay_survives_next_event(backend: str) -> None:
    """A cancelled wait would end the relay."""
    source = Source(EVENTS[0], 0.05, EVENTS[1])

    async def main() -> None:
        async with sse_fast.aiter_events(sse_fast.relay(source.aread())) as events:
            assert await events.next_event() == EVENTS[0]
            with pytest.raises(TimeoutError):
                await events.next_event(timeout=0.005)
            assert await events.next_event() == EVENTS[1]
            assert await events.next_event() is None

    anyio.run(main, backend=backend)


@backends
def test_stream_of_a_relay_left_is_no_clean_end(backend: str) -> None:
    source = Source(EVENTS[0], 5.0)

    async def main() -> None:
        events = sse_fast.aiter_events(sse_fast.relay(source.aread()))
        await events.__anext__()
        with anyio.move_on_after(0.005):
            await events.__anext__()
        with pytest.raises(sse_fast.TransportError, match="cancelled read"):
            await events.__anext__()

    anyio.run(main, backend=backend)


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


def test_sync_relay_reads_with_the_context_of_its_consumer() -> None:
    user = ContextVar("user", default="nobody")

    def read() -> Iterator[Event[str]]:
        yield Event("message", user.get())

    user.set("me")
    assert list(sse_fast.relay(read())) == [b"data: me\n\n"]


class Interruption(BaseException):
    """The exception of a signal handler."""


class Tracer:
    """Raises `Interruption` at the nth line of the code of relays that its thread runs."""

    def __init__(self, at: int) -> None:
        self.left = at

    def __call__(self, frame: Any, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename not in (_relay.__file__, _background.__file__):
            return None
        self.left -= event == "line"
        if event == "line" and self.left == 0:
            raise Interruption
        return self


def next_traced(relayed: Iterator[bytes], tracer: Tracer) -> bytes | None:
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        return next(relayed, None)
    finally:
        sys.settrace(before)


def test_sync_relay_interrupted_loses_no_event() -> None:
    """A signal handler raises at any line of the consumer, which goes on."""
    lines = 0
    is_over = False
    while not is_over:
        lines += 1
        tracer = Tracer(lines)
        relayed = sse_fast.relay(iter(EVENTS), heartbeat=3)
        received: list[bytes | None] = []
        for _ in range(5):
            with suppress(Interruption):
                received.append(next_traced(relayed, tracer))
        whole = [*(event.encode() for event in EVENTS), None]
        assert received[: len(whole)] == whole, lines
        is_over = tracer.left > 0
    assert lines > 50
