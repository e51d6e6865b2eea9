"""EventStream and AsyncEventStream over sources that end, fail and block in every way."""

from __future__ import annotations

import asyncio
import copy
import pickle
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import pytest

import sse_fast
from sse_fast import (
    DecodeError,
    EndReason,
    Event,
    EventTooLarge,
    SSEError,
    StreamTimeout,
    TransportError,
    aiter_events,
    iter_events,
)
from tests.support.streams import Blocking, Closing, data


def test_stream_ends_with_its_source(kind: Any) -> None:
    stream, source = kind.open(b"id: 1\nretry: 5\nda", b"", b"ta: a\n\ndata: b\n\n", b"data: c")
    assert stream.end_reason is None
    assert kind.next(stream) == Event("message", "a", "1", 5)
    assert stream.end_reason is None
    assert kind.drain(stream) == ["b"]
    assert stream.end_reason is EndReason.END
    assert stream.pending
    assert (stream.last_event_id, stream.retry, stream.response) == ("1", 5, None)
    assert source.closed == 1
    assert kind.next(stream) is None


def test_clean_end_leaves_nothing_pending(kind: Any) -> None:
    stream, _ = kind.open(b"data: a\n\n: ping")
    assert kind.drain(stream) == ["a"]
    assert not stream.pending


def test_last_event_id_follows_delivered_events(kind: Any) -> None:
    stream, _ = kind.open(
        b"id: 1\ndata: a\n\nid: 2\ndata: b\n\ndata: c\n\nid: 4\n\n", last_event_id="0"
    )
    ids = [stream.last_event_id]
    while kind.next(stream) is not None:
        ids.append(stream.last_event_id)
    # The last block has an id and no data: its id is in force after the event before it.
    assert ids == ["0", "1", "2", "4"]
    assert stream.last_event_id == "4"


IDS = b"id: 1\ndata: 1\n\nid: 2\ndata: x\n\nid: 3\ndata: 3\n\n"


def test_close_keeps_id_of_last_delivered_event(kind: Any) -> None:
    for count, last_id in enumerate(["0", "1", "2", "3"]):
        stream, _ = kind.open(IDS, last_event_id="0")
        for _ in range(count):
            kind.next(stream)
        kind.close(stream)
        assert stream.last_event_id == last_id


def test_id_before_decode_error_is_not_ahead(kind: Any) -> None:
    stream, _ = kind.open(IDS, decode=int)
    kind.next(stream)
    assert stream.last_event_id == "1"
    with pytest.raises(DecodeError) as caught:
        kind.next(stream)
    assert caught.value.events == []
    assert stream.last_event_id == "2"
    assert kind.drain(stream) == [3]
    assert stream.last_event_id == "3"


@pytest.mark.parametrize("at", ["1", "2", "3"])
def test_id_before_callback_error_is_not_ahead(kind: Any, at: str) -> None:
    def until(event: Any) -> bool:
        if event.id == at and not raised:
            raised.append(True)
            raise KeyError
        return False

    raised: list[bool] = []
    stream, _ = kind.open(b"id: 0\ndata: 0\n\n", IDS, until=until)
    assert kind.next(stream).id == "0"
    with pytest.raises(KeyError):
        kind.next(stream)
    assert stream.last_event_id == "0"
    for last_id in ["1", "2", "3"]:
        assert kind.next(stream).id == stream.last_event_id == last_id


def test_until_ends_and_closes(kind: Any) -> None:
    stream, source = kind.open(b"data: a\n\ndata: [DONE]\n\ndata: b\n\n", b"never", until="[DONE]")
    assert kind.drain(stream) == ["a"]
    assert stream.end_reason is EndReason.UNTIL
    assert source.closed == 1
    assert source.items if isinstance(source, Closing) else source.chunks.items


def test_source_error_becomes_transport_error(kind: Any) -> None:
    original = ConnectionResetError("https://user:secret@host/?token=secret")
    stream, source = kind.open(b"data: a\n\ndata: b", original)
    assert kind.next(stream).data == "a"
    with pytest.raises(
        TransportError, match="Reading the stream failed: ConnectionResetError"
    ) as caught:
        kind.next(stream)
    assert caught.value.__cause__ is original
    assert (caught.value.phase, caught.value.sent) == ("body", True)
    assert "secret" not in str(caught.value)
    assert stream.end_reason is EndReason.ERROR
    assert stream.pending
    assert source.closed == 1
    # Iterating again is no clean end.
    for _ in range(2):
        with pytest.raises(SSEError, match="has ended already, with ConnectionResetError"):
            kind.next(stream)


def test_timeout_of_source_becomes_stream_timeout(kind: Any) -> None:
    class ReadTimeoutError(Exception): ...

    wrapped = ConnectionError()
    wrapped.__context__ = ReadTimeoutError()
    for original in [TimeoutError(), ReadTimeoutError(), wrapped]:
        stream, _ = kind.open(original)
        with pytest.raises(StreamTimeout):
            kind.next(stream)
    stream, _ = kind.open(OSError())
    with pytest.raises(TransportError) as caught:
        kind.next(stream)
    assert not isinstance(caught.value, StreamTimeout)


def test_sse_error_of_source_is_raised_unchanged(kind: Any) -> None:
    original = sse_fast.SSEError("x")
    stream, source = kind.open(original)
    with pytest.raises(sse_fast.SSEError) as caught:
        kind.next(stream)
    assert caught.value is original
    assert stream.end_reason is EndReason.ERROR
    assert source.closed == 1


def test_interrupted_read_can_continue(kind: Any) -> None:
    stream, _ = kind.open(b"data: a\n\n", SystemExit(), b"data: b\n\n")
    assert kind.next(stream).data == "a"
    with pytest.raises(SystemExit):
        kind.next(stream)
    assert kind.drain(stream) == ["b"]
    assert stream.end_reason is EndReason.END


def test_eof_after_interrupted_read_is_not_clean(kind: Any) -> None:
    stream, source = kind.open(b"data: a\n\n", SystemExit())
    assert kind.next(stream).data == "a"
    with pytest.raises(SystemExit):
        kind.next(stream)
    with pytest.raises(TransportError, match="right after a cancelled read"):
        kind.next(stream)
    assert stream.end_reason is EndReason.ERROR
    assert source.closed == 1


def test_stream_continues_after_decode_error(kind: Any) -> None:
    stream, _ = kind.open(b"data: 1\n\ndata: x\n\nid: 9\ndata: y\n\ndata: 4\n\n", decode=int)
    assert kind.next(stream).data == 1
    for text in ["x", "y"]:
        with pytest.raises(DecodeError) as caught:
            kind.next(stream)
        assert caught.value.event.data == text
        assert stream.end_reason is None
    assert kind.drain(stream) == [4]
    assert stream.last_event_id == "9"
    assert stream.end_reason is EndReason.END


def test_event_too_large_raised_after_earlier_events(kind: Any) -> None:
    stream, source = kind.open(
        b"data: 1\n\ndata: 2\n\ndata: 0123456789\n\ndata: 4\n\n", max_event_size=10
    )
    assert kind.next(stream).data == "1"
    assert kind.next(stream).data == "2"
    with pytest.raises(EventTooLarge):
        kind.next(stream)
    assert stream.end_reason is EndReason.ERROR
    assert source.closed == 1
    with pytest.raises(SSEError, match="has ended already, with EventTooLarge"):
        kind.next(stream)


@pytest.mark.parametrize("callback", ["on_comment", "on_chunk", "until"])
def test_stream_continues_after_callback_error(kind: Any, callback: str) -> None:
    def fault(_: Any) -> bool:
        if not faults:
            faults.append(True)
            raise KeyError
        return False

    faults: list[bool] = []
    stream, _ = kind.open(b": c\ndata: 1\n\n", b"data: 2\n\n", **{callback: fault})
    with pytest.raises(KeyError):
        kind.next(stream)
    assert kind.drain(stream) == ["1", "2"]
    assert faults == [True]


def test_chunks_that_are_not_bytes_are_refused(kind: Any) -> None:
    for chunk in ["data: 1\n\n", None, 5, [b"a"]]:
        stream, _ = kind.open(b"data: 1\n\n", chunk, b"data: 2\n\n", on_chunk=list)
        assert kind.next(stream).data == "1"
        name = type(chunk).__name__
        with pytest.raises(
            TypeError, match=f"Expected chunks of bytes from the source, got {name}"
        ):
            kind.next(stream)
        assert kind.drain(stream) == ["2"]


def test_on_chunk_gets_copies_of_the_chunks(kind: Any) -> None:
    reused = bytearray(b"data: 1\n\n")
    seen: list[Any] = []
    stream, _ = kind.open(reused, b"data: 2\n", memoryview(b"\n"), on_chunk=seen.append)
    assert kind.drain(stream) == ["1", "2"]
    reused[:] = b"x" * 9
    assert seen == [b"data: 1\n\n", b"data: 2\n", b"\n"]
    assert {type(chunk) for chunk in seen} == {bytes}


def test_large_chunks_are_fed_in_slices(kind: Any) -> None:
    count = 50_000
    stream, _ = kind.open(b"data: x\n\n" * count, on_chunk=lambda chunk: chunks.append(len(chunk)))
    chunks: list[int] = []
    assert kind.next(stream).data == "x"
    # No more events exist than a slice of 64 KiB holds.
    assert len(stream._batch) <= 65536 // 9 + 1
    assert len(kind.drain(stream)) == count - 1
    assert chunks == [9 * count]


def test_large_chunk_is_not_kept_during_the_next_read(kind: Any) -> None:
    chunk = b"data: a\n\n" * 20_000
    before = sys.getrefcount(chunk)
    kept = []

    class Chunks:
        count = 0

        def read(self) -> bytes:
            self.count += 1
            if self.count == 1:
                return chunk
            kept.append(sys.getrefcount(chunk) - before)
            raise (StopIteration if isinstance(kind, Blocking) else StopAsyncIteration)

        def __iter__(self) -> Any:
            return self

        __aiter__ = __iter__

        def __next__(self) -> bytes:
            return self.read()

        async def __anext__(self) -> bytes:
            return self.read()

    source = Chunks()
    stream: Any = iter_events(source) if isinstance(kind, Blocking) else aiter_events(source)
    assert len(kind.drain(stream)) == 20_000
    assert kept == [0]


def test_cancelled_read_loses_no_event() -> None:
    async def run() -> list[str]:
        queue: asyncio.Queue[bytes] = asyncio.Queue()

        class Chunks:
            def __aiter__(self) -> Chunks:
                return self

            async def __anext__(self) -> bytes:
                return await queue.get()

        seen = []
        stream = aiter_events(Chunks(), until="end")
        for chunk in [b"data: 1\n\ndata: 2\n", b"\ndata: 3\n\n", b"data: end\n\n"]:
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.01)
            queue.put_nowait(chunk)
            with suppress(asyncio.TimeoutError, StopAsyncIteration):
                while True:
                    seen.append((await asyncio.wait_for(anext(stream), 0.05)).data)
        return seen

    assert asyncio.run(run()) == ["1", "2", "3"]


def test_eof_of_cancelled_generator_is_not_clean() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"data: 1\n\n"
        await asyncio.sleep(30)

    async def run() -> None:
        stream = aiter_events(chunks())
        assert (await anext(stream)).data == "1"
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)
        with pytest.raises(TransportError, match="cancelled"):
            await anext(stream)

    asyncio.run(run())


def test_callback_that_reads_the_stream_is_refused() -> None:
    """The callback gets an error, and the stream loses nothing."""

    def on_comment(_: str) -> None:
        with pytest.raises(
            RuntimeError, match="is being read already, by the call that runs this callback"
        ):
            next(stream)
        refused.append(True)

    refused: list[bool] = []
    chunks = [b"data: 1\n\n:c\ndata: 2\n\n", b"data: 3\n\n"]
    stream = iter_events(chunks, on_comment=on_comment)
    assert data(stream) == ["1", "2", "3"]
    assert refused == [True]


def test_concurrent_reader_raises() -> None:
    reading, arrive = threading.Event(), threading.Event()

    def chunks() -> Iterator[bytes]:
        reading.set()
        assert arrive.wait(10)
        yield b"data: a\n\n"

    stream = iter_events(chunks())
    events: list[Any] = []
    reader = threading.Thread(target=lambda: events.extend(stream))
    reader.start()
    assert reading.wait(10)
    with pytest.raises(
        RuntimeError, match="Another thread or task is already waiting for this stream"
    ):
        next(stream)
    arrive.set()
    reader.join(10)
    # The first reader is not affected.
    assert data(events) == ["a"]
    assert stream.end_reason is EndReason.END


def test_error_handled_by_caller_is_not_the_cause(kind: Any) -> None:
    """Callers may read on in the `except` block of a timeout."""
    stream, _ = kind.open(ConnectionResetError())
    try:
        raise TimeoutError
    except TimeoutError:
        with pytest.raises(TransportError) as caught:
            kind.next(stream)
    assert not isinstance(caught.value, StreamTimeout)


def test_copying_a_stream_raises(kind: Any) -> None:
    stream, _ = kind.open(b"data: 1\n\n")
    for copying in (copy.copy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot copy or pickle"):
            copying(stream)
    assert kind.drain(stream) == ["1"]
