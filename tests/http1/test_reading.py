"""Buffers and chunks of the transport: how they grow, who shares them, how long they are valid."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest

import sse_fast
from sse_fast import aopen_stream, open_stream
from sse_fast._http1 import aio, blocking
from sse_fast._request import Request
from sse_fast._source import Source
from tests.support.faults import FaultServer, framed

SMALL = b"data: a\n\n"
LARGE = b": " + b"x" * 200_000 + b"\n\n"
FRAMINGS = ["chunked", "length", "close"]


def opened(faults: FaultServer) -> Source:
    return blocking.send(None, Request("GET", faults.url + "/"), 8.0, 8.0)


def chunks_of(source: Source) -> Any:
    return cast("Iterator[bytes | memoryview]", source.chunks)


def until(condition: Callable[[], bool], chunks: Any) -> bytes:
    """Read until the condition holds, copying every chunk before the next read."""
    body = b""
    while not condition():
        body += next(chunks)
    return body


# -- Blocking --------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", FRAMINGS)
def test_chunks_make_the_body_if_copied_before_next_read(faults: FaultServer, framing: str) -> None:
    parts = [SMALL, LARGE, SMALL, LARGE * 30, SMALL]
    faults.scripts["/"] = framed(framing, parts)
    source = opened(faults)
    kinds = set()
    body = b""
    for chunk in chunks_of(source):
        kinds.add(type(chunk))
        body += chunk
    assert source.close is not None
    source.close()
    assert body == b"".join(parts)
    # Reads are small while the buffer is, and large later.
    assert bytes in kinds
    if sse_fast.ACCELERATED or framing != "chunked":
        assert memoryview in kinds


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="the plain core reads in several steps")
def test_exception_between_two_lines_loses_no_chunk(faults: FaultServer) -> None:
    gates = [threading.Event() for _ in range(100)]
    # The large ones let the buffer grow, and the small ones let it shrink, by a function in Python.
    texts = [b"%d" % n + b"x" * (9_000 if n in (20, 21) else 0) for n in range(len(gates))]
    steps = [step for n, gate in enumerate(gates) for step in (gate, b"data: %b\n\n" % texts[n])]
    hold = threading.Event()
    faults.scripts["/"] = framed("chunked", [SMALL, *steps, hold])
    raised = []

    def trace(frame: Any, event: str, argument: object) -> Any:
        if "_http1" in frame.f_code.co_filename:
            raised.append(frame.f_code.co_name)
            raise KeyboardInterrupt
        return None

    with open_stream(faults.url + "/") as stream:
        assert next(stream).data == "a"
        for number, gate in enumerate(gates):
            gate.set()
            before = sys.gettrace()
            sys.settrace(trace)
            try:
                while True:
                    try:
                        event = next(stream)
                        break
                    except KeyboardInterrupt:
                        sys.settrace(None)
            finally:
                sys.settrace(before)
            assert event.data.encode() == texts[number]
    hold.set()
    assert raised.count("_resize") > 2


@pytest.mark.parametrize("framing", FRAMINGS)
def test_buffer_grows_with_reads_and_shrinks(faults: FaultServer, framing: str) -> None:
    # Each of the small events is sent after the one before it was read.
    gates = [threading.Event() for _ in range(60)]
    drops = [step for gate in gates for step in (gate, SMALL)]
    faults.scripts["/"] = framed(framing, [SMALL, LARGE * 50, *drops])
    source = opened(faults)
    chunks = chunks_of(source)
    assert len(chunks._buffer) <= 8192
    left = len(SMALL + LARGE * 50)
    sizes = set()
    while left:
        left -= len(next(chunks))
        sizes.add(len(chunks._buffer))
    assert max(sizes) == 64 * 1024
    for gate in gates:
        gate.set()
        while not next(chunks):
            pass
    assert len(chunks._buffer) == 4096
    assert source.close is not None
    source.close()


def test_chunk_received_by_wait_is_a_copy(faults: FaultServer) -> None:
    go = threading.Event()
    faults.scripts["/"] = framed("chunked", [LARGE * 50, go, SMALL])
    source = opened(faults)
    chunks = chunks_of(source)
    assert source.wait is not None
    kept = []
    until(lambda: len(chunks._buffer) == 64 * 1024, chunks)
    for _ in range(3):
        assert source.wait(8)
        kept.append(next(chunks))
    go.set()
    list(chunks)
    assert [type(chunk) for chunk in kept] == [bytes] * 3
    assert all(set(chunk) <= set(LARGE) for chunk in kept)
    assert source.close is not None
    source.close()


def test_stream_of_large_chunks_gives_its_events(faults: FaultServer) -> None:
    events = [b"data: %d %s\n\n" % (number, b"x" * (number % 700)) for number in range(5000)]
    faults.scripts["/"] = framed("chunked", [b"".join(events)])
    seen: list[bytes] = []
    with open_stream(faults.url + "/", on_chunk=seen.append) as stream:
        found = [b"data: %s\n\n" % event.data.encode() for event in stream]
    assert found == events
    # The program may keep what `on_chunk` gets.
    assert all(type(chunk) is bytes for chunk in seen)
    assert b"".join(seen) == b"".join(events)


# -- asyncio ---------------------------------------------------------------------------------------


async def aopened(faults: FaultServer) -> Source:
    return await aio.asend(None, Request("GET", faults.url + "/"), 8.0, 8.0)


def achunks_of(source: Source) -> Any:
    return cast("AsyncIterator[bytes]", source.chunks)


async def blocked(chunks: Any) -> asyncio.Task[bytes]:
    """Begin to read; return when the reader waits for the connection."""
    reading = asyncio.ensure_future(chunks.__anext__())
    while chunks._connection._waiter is None:
        await asyncio.sleep(0.001)
    return cast("asyncio.Task[bytes]", reading)


def arrive(chunks: Any, data: bytes) -> None:
    """Do what the event loop does when bytes arrive."""
    connection = chunks._connection
    connection.get_buffer(-1)[: len(data)] = data
    connection.buffer_updated(len(data))


def test_connections_of_a_loop_share_a_buffer(faults: FaultServer) -> None:
    hold = threading.Event()
    faults.scripts["/"] = framed("chunked", [SMALL, hold])
    buffers: list[Any] = []
    both = threading.Barrier(2)

    async def run() -> None:
        streams = [aopen_stream(faults.url + "/") for _ in range(2)]
        for stream in streams:
            assert (await anext(stream)).data == "a"
        one, other = (stream._chunks._connection._buffers.current for stream in streams)  # type: ignore[attr-defined]
        assert one is other
        buffers.append(one)
        both.wait(8)
        for stream in streams:
            await stream.aclose()

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    asyncio.run(run())
    thread.join(8)
    hold.set()
    assert buffers[0] is not buffers[1]


def test_buffer_goes_with_its_loop(faults: FaultServer) -> None:
    faults.scripts["/"] = framed("chunked", [SMALL])

    async def run() -> None:
        async with aopen_stream(faults.url + "/") as stream:
            assert [event.data async for event in stream] == ["a"]

    gc.collect()
    before = len(aio._loops)
    asyncio.run(run())
    gc.collect()
    assert len(aio._loops) == before


@pytest.mark.parametrize("framing", FRAMINGS)
def test_chunk_that_comes_with_a_cancellation_is_kept(faults: FaultServer, framing: str) -> None:
    hold = threading.Event()
    faults.scripts["/"] = framed(framing, [SMALL, hold, SMALL])

    async def run() -> None:
        source = await aopened(faults)
        chunks = achunks_of(source)
        assert await chunks.__anext__() == SMALL
        reading = await blocked(chunks)
        arrive(chunks, b"3\r\nnew\r\n" if framing == "chunked" else b"new")
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert await chunks.__anext__() == b"new"
        assert source.close is not None
        await source.close()

    asyncio.run(run())
    hold.set()


def test_pieces_before_reader_runs_stay_in_order(faults: FaultServer) -> None:
    """Also when httptools takes over while the reader waits."""
    hold = threading.Event()
    faults.scripts["/"] = framed("chunked", [SMALL, hold])

    async def run() -> None:
        source = await aopened(faults)
        chunks = achunks_of(source)
        assert await chunks.__anext__() == SMALL
        reading = await blocked(chunks)
        for data in (b"1\r\na\r\n", b"1\r\nb", b"\r\n1;x=", b"y\r\nc\r\n", b"1\r\nd\r\n"):
            arrive(chunks, data)
        assert await reading == b"a"
        assert [await chunks.__anext__() for _ in range(3)] == [b"b", b"c", b"d"]
        reading = await blocked(chunks)
        arrive(chunks, b"1;x=")
        arrive(chunks, b"y\r\ne\r\n")
        assert await reading == b"e"
        # Bytes without a piece wake the reader, so that time limits can be checked.
        reading = await blocked(chunks)
        arrive(chunks, b"0")
        assert await reading == b""
        reading = await blocked(chunks)
        arrive(chunks, b"\r\n\r\n")
        with pytest.raises(StopAsyncIteration):
            await reading
        assert source.close is not None
        await source.close()

    asyncio.run(run())
    hold.set()


def test_unusual_chunk_while_reader_waits_is_decoded(faults: FaultServer) -> None:
    hold = threading.Event()
    faults.scripts["/"] = framed("chunked", [SMALL, hold])

    async def run() -> None:
        source = await aopened(faults)
        chunks = achunks_of(source)
        assert await chunks.__anext__() == SMALL
        # The first wait prepares the fast way, which the second one takes.
        for _ in range(2):
            reading = await blocked(chunks)
            arrive(chunks, b"1\r\na\r\n")
            assert await reading == b"a"
        reading = await blocked(chunks)
        arrive(chunks, b"1;x=")
        arrive(chunks, b"y\r\nb\r\n")
        assert await reading == b"b"
        assert source.close is not None
        await source.close()

    asyncio.run(run())
    hold.set()


@pytest.mark.skipif(not sse_fast.ACCELERATED, reason="httptools has a parser per connection")
def test_idle_connection_keeps_little_memory(faults: FaultServer) -> None:
    hold = threading.Event()
    faults.scripts["/"] = framed("chunked", [SMALL, hold])
    ours = tracemalloc.Filter(True, "*/sse_fast/*")

    def traced() -> int:
        gc.collect()
        snapshot = tracemalloc.take_snapshot().filter_traces([ours])
        return sum(each.size for each in snapshot.statistics("filename"))

    async def run() -> float:
        streams = [aopen_stream(faults.url + "/") for _ in range(30)]
        for stream in streams[:10]:
            assert (await anext(stream)).data == "a"
        reading = [asyncio.ensure_future(anext(stream, None)) for stream in streams[:10]]
        await asyncio.sleep(0.01)
        tracemalloc.start()
        try:
            before = traced()
            for stream in streams[10:]:
                assert (await anext(stream)).data == "a"
            reading += [asyncio.ensure_future(anext(stream, None)) for stream in streams[10:]]
            await asyncio.sleep(0.01)
            size = (traced() - before) / 20
        finally:
            tracemalloc.stop()
        for each in reading:
            each.cancel()
        for stream in streams:
            await stream.aclose()
        return size

    assert asyncio.run(run()) < 8 * 1024
    hold.set()


@pytest.mark.parametrize("framing", FRAMINGS)
def test_async_chunks_of_all_connections_make_the_bodies(faults: FaultServer, framing: str) -> None:
    parts = [SMALL, LARGE, SMALL, LARGE * 5, SMALL]
    faults.scripts["/"] = framed(framing, parts)
    kinds = set()

    async def read() -> bytes:
        source = await aopened(faults)
        body = b""
        async for chunk in achunks_of(source):
            # Others receive meanwhile.
            await asyncio.sleep(0.001)
            kinds.add(type(chunk))
            body += chunk
        assert source.close is not None
        await source.close()
        return body

    async def run() -> None:
        # The connections receive into the same buffer, while chunks wait for their readers.
        for body in await asyncio.gather(*(read() for _ in range(5))):
            assert body == b"".join(parts)

    asyncio.run(run())
    # Few bytes are copied, and the reader has the buffer of many. httptools copies all.
    is_copied = framing == "chunked" and not sse_fast.ACCELERATED
    assert kinds == ({bytes} if is_copied else {bytes, memoryview})


def test_slow_readers_of_a_loop_keep_their_large_chunks(faults: FaultServer) -> None:
    events = [b"data: %d %s\n\n" % (number, b"x" * (number % 700)) for number in range(3000)]
    faults.scripts["/"] = framed("chunked", [b"".join(events)] * 2)

    async def read(pause: float) -> list[bytes]:
        found = []
        async with aopen_stream(faults.url + "/") as stream:
            async for event in stream:
                found.append(b"data: %s\n\n" % event.data.encode())
                if len(found) % 500 == 1:
                    await asyncio.sleep(pause)
        return found

    async def run() -> None:
        for found in await asyncio.gather(*(read(number / 500) for number in range(4))):
            assert found == events * 2

    asyncio.run(run())
