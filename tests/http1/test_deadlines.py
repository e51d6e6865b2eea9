"""A server that drips bytes without getting anywhere is left, in the head and in the body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from sse_fast import (
    AsyncEventSource,
    EventSource,
    ReconnectPolicy,
    StreamTimeout,
    aopen_stream,
    open_stream,
)
from sse_fast._http1 import aio, blocking
from sse_fast._request import Request
from tests.support.faults import CHUNKED, FaultServer, Step, chunk, head

DRIPS = 100  # of 20 ms each: more than any time limit here
NEVER = ReconnectPolicy.never()


def drip(*begin: bytes, each: bytes = b"a") -> list[Step]:
    """Make a script that sends a piece every 20 ms for two seconds."""
    return [*begin, *[step for _ in range(DRIPS) for step in (each, 0.02)]]


def by_open_stream(url: str, **options: Any) -> list[str]:
    with open_stream(url, **options) as stream:
        return [event.data for event in stream]


def by_aopen_stream(url: str, **options: Any) -> list[str]:
    async def run() -> list[str]:
        async with aopen_stream(url, **options) as stream:
            return [event.data async for event in stream]

    return asyncio.run(run())


def by_event_source(url: str, **options: Any) -> list[str]:
    with EventSource(url, policy=NEVER, **options) as source:
        return [event.data for event in source]


def by_async_event_source(url: str, **options: Any) -> list[str]:
    async def run() -> list[str]:
        async with AsyncEventSource(url, policy=NEVER, **options) as source:
            return [event.data async for event in source]

    return asyncio.run(run())


@pytest.fixture(params=[by_open_stream, by_aopen_stream, by_event_source, by_async_event_source])
def reading(request: pytest.FixtureRequest) -> Callable[..., list[str]]:
    return request.param


HEADS = {
    "status line": drip(b"HTTP/1.1 200 "),
    "field": drip(b"HTTP/1.1 200 OK\r\nX: "),
    "fields": drip(b"HTTP/1.1 200 OK\r\n", each=b"X: y\r\n"),
    "interim": drip(each=b"HTTP/1.1 102 Processing\r\n\r\n"),
}


@pytest.mark.parametrize("name", HEADS)
def test_dripping_head_exceeds_idle_timeout(reading: Any, faults: FaultServer, name: str) -> None:
    faults.scripts["/"] = HEADS[name]
    began = time.monotonic()
    with pytest.raises(StreamTimeout, match=r"not complete 0\.4 seconds after") as caught:
        reading(faults.url + "/", idle_timeout=0.4)
    assert caught.value.phase == "head"
    assert caught.value.sent
    assert time.monotonic() - began < 1.8


@pytest.mark.parametrize("reading", [by_event_source, by_async_event_source])
def test_dripping_head_exceeds_event_timeout(reading: Any, faults: FaultServer) -> None:
    faults.scripts["/"] = HEADS["field"]
    began = time.monotonic()
    with pytest.raises(StreamTimeout):
        reading(faults.url + "/", idle_timeout=60, event_timeout=0.4)
    assert time.monotonic() - began < 1.8


def test_slow_head_within_idle_timeout_is_read(reading: Any, faults: FaultServer) -> None:
    begin = head(CHUNKED)
    slow = [step for byte in begin for step in (bytes([byte]), 0.01)]
    # The time of the body is another one: both together exceed the timeout, and a busy machine may
    # take longer for each.
    faults.scripts["/"] = [*slow, chunk(b"data: a\n\n"), 1.2, chunk(b"data: b\n\n"), chunk(b"")]
    assert reading(faults.url + "/", idle_timeout=2.0) == ["a", "b"]


BODIES = {
    "extension": drip(head(CHUNKED), b"9;a="),
    "lenient extension": drip(head(CHUNKED), b"9; a="),
    "size": drip(head(CHUNKED), each=b"0"),
    "trailer": drip(head(CHUNKED), b"0\r\nX: "),
    "gzip": drip(head("Content-Encoding: gzip"), b"\x1f\x8b\x08\x08\0\0\0\0\0\0"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("reading", [by_event_source, by_async_event_source])
def test_dripping_framing_exceeds_event_timeout(
    reading: Any, faults: FaultServer, name: str
) -> None:
    faults.scripts["/"] = BODIES[name]
    began = time.monotonic()
    with pytest.raises(StreamTimeout, match=r"No event arrived within 1 seconds"):
        # Long enough for the head, which counts as well.
        reading(faults.url + "/", idle_timeout=60, event_timeout=1)
    assert time.monotonic() - began < 2.4


@pytest.mark.parametrize("name", BODIES)
def test_bytes_without_a_piece_give_an_empty_chunk(faults: FaultServer, name: str) -> None:
    faults.scripts["/"] = BODIES[name]
    request = Request("GET", faults.url + "/")
    source = blocking.send(None, request, 5.0, 5.0)
    assert next(cast("Iterator[bytes]", source.chunks)) == b""
    assert source.close is not None
    source.close()

    async def run() -> None:
        source = await aio.asend(None, request, 5.0, 5.0)
        assert await anext(cast("Any", source.chunks)) == b""
        assert source.close is not None
        await source.close()

    asyncio.run(run())


@pytest.mark.parametrize("reading", [by_open_stream, by_aopen_stream])
def test_on_chunk_is_not_called_with_nothing(reading: Any, faults: FaultServer) -> None:
    parts = [b"9", b";a", b"\r\n", b"data: a\n\n\r\n0", b"\r\n\r\n"]
    faults.scripts["/"] = [head(CHUNKED), *[step for part in parts for step in (part, 0.05)]]
    seen: list[bytes] = []
    assert reading(faults.url + "/", on_chunk=seen.append) == ["a"]
    assert seen == [b"data: a\n\n"]
