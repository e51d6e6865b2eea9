"""EventStream and AsyncEventStream over sources that end, fail, block and close in every way."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import subprocess
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
    StreamTimeout,
    TransportError,
    aiter_events,
    iter_events,
)


def data(events: Any) -> list[Any]:
    return [event.data for event in events]


class Closing:
    """An iterator of chunks that counts its closes, and raises the exceptions among its items."""

    def __init__(self, *items: bytes | BaseException) -> None:
        self.items = list(items)
        self.closed = 0
        # The errors that the next closes raise.
        self.close_errors: list[Exception] = []

    def __iter__(self) -> Closing:
        return self

    def __next__(self) -> bytes:
        if not self.items:
            raise StopIteration
        item = self.items.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1
        if self.close_errors:
            raise self.close_errors.pop(0)


class AsyncClosing:
    """`Closing` for async iteration."""

    def __init__(self, *items: bytes | BaseException) -> None:
        self.chunks = Closing(*items)

    def __aiter__(self) -> AsyncClosing:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        for chunk in self.chunks:
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.chunks.close()

    @property
    def closed(self) -> int:
        return self.chunks.closed

    @property
    def close_errors(self) -> list[Exception]:
        return self.chunks.close_errors


class Blocking:
    """A sync interface over a blocking stream; `Async` has the same over an async one."""

    def open(self, *items: Any, **options: Any) -> tuple[Any, Any]:
        source = Closing(*items)
        return iter_events(source, **options), source

    def next(self, stream: Any) -> Any:
        return next(stream, None)

    def drain(self, stream: Any) -> list[Any]:
        return data(stream)

    def close(self, stream: Any) -> None:
        stream.close()

    def leave(self, stream: Any, error: BaseException) -> None:
        with stream:
            raise error


class Async:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def open(self, *items: Any, **options: Any) -> tuple[Any, Any]:
        source = AsyncClosing(*items)
        return aiter_events(source, **options), source

    def next(self, stream: Any) -> Any:
        async def step() -> Any:
            return await anext(stream, None)

        return self.loop.run_until_complete(step())

    def drain(self, stream: Any) -> list[Any]:
        async def run() -> list[Any]:
            return [event.data async for event in stream]

        return self.loop.run_until_complete(run())

    def close(self, stream: Any) -> None:
        self.loop.run_until_complete(stream.aclose())

    def leave(self, stream: Any, error: BaseException) -> None:
        async def step() -> None:
            async with stream:
                raise error

        self.loop.run_until_complete(step())


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "sync":
        yield Blocking()
        return
    runner = Async()
    yield runner
    runner.loop.run_until_complete(runner.loop.shutdown_asyncgens())
    runner.loop.close()


def drain(kind: Any, stream: Any) -> list[Any]:
    return kind.drain(stream)


def test_stream_ends_with_its_source(kind: Any) -> None:
    stream, source = kind.open(b"id: 1\nretry: 5\nda", b"", b"ta: a\n\ndata: b\n\n", b"data: c")
    assert stream.end_reason is None
    assert kind.next(stream) == Event("message", "a", "1", 5)
    assert stream.end_reason is None
    assert drain(kind, stream) == ["b"]
    assert stream.end_reason is EndReason.END
    assert stream.pending
    assert (stream.last_event_id, stream.retry, stream.response) == ("1", 5, None)
    assert source.closed == 1
    assert kind.next(stream) is None


def test_clean_end_leaves_nothing_pending(kind: Any) -> None:
    stream, _ = kind.open(b"data: a\n\n: ping")
    assert drain(kind, stream) == ["a"]
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
    assert drain(kind, stream) == [3]
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
    assert drain(kind, stream) == ["a"]
    assert stream.end_reason is EndReason.UNTIL
    assert source.closed == 1
    assert source.items if isinstance(source, Closing) else source.chunks.items


def test_source_closed_after_last_event_was_delivered(kind: Any) -> None:
    """A close that is slow or fails delays no event."""
    stream, source = kind.open(b"data: a\n\n", b"never", until=lambda event: event.data == "a")
    assert kind.next(stream).data == "a"
    assert source.closed == 0
    assert kind.next(stream) is None
    assert source.closed == 1
    assert stream.end_reason is EndReason.UNTIL


def test_close_ends_stream_and_is_idempotent(kind: Any) -> None:
    stream, source = kind.open(b"data: a\n\ndata: b\n\n")
    kind.next(stream)
    kind.close(stream)
    kind.close(stream)
    assert kind.next(stream) is None
    assert stream.end_reason is EndReason.CLOSED
    assert source.closed == 1


def test_close_after_end_changes_nothing(kind: Any) -> None:
    stream, source = kind.open(b"data: a\n\n")
    drain(kind, stream)
    kind.close(stream)
    assert stream.end_reason is EndReason.END
    assert source.closed == 1


def test_leaving_with_block_closes(kind: Any) -> None:
    stream, source = kind.open(b"data: a\n\n")
    with pytest.raises(KeyError):
        kind.leave(stream, KeyError())
    assert stream.end_reason is EndReason.CLOSED
    assert source.closed == 1


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
    assert kind.next(stream) is None


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
    assert drain(kind, stream) == ["b"]
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
    assert drain(kind, stream) == [4]
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
    assert kind.next(stream) is None


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
    assert drain(kind, stream) == ["1", "2"]
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
        assert drain(kind, stream) == ["2"]


def test_on_chunk_gets_copies_of_the_chunks(kind: Any) -> None:
    reused = bytearray(b"data: 1\n\n")
    seen: list[Any] = []
    stream, _ = kind.open(reused, b"data: 2\n", memoryview(b"\n"), on_chunk=seen.append)
    assert drain(kind, stream) == ["1", "2"]
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
    assert len(drain(kind, stream)) == count - 1
    assert chunks == [9 * count]


@pytest.mark.parametrize("callback", ["on_comment", "on_chunk", "until"])
def test_close_from_callback_ends_stream(callback: str) -> None:
    kind = Blocking()  # A callback cannot await aclose().

    def close(_: Any) -> None:
        stream.close()

    stream, source = kind.open(b": c\ndata: 1\n\ndata: 2\n\n", b"never", **{callback: close})
    assert drain(kind, stream) == []
    assert stream.end_reason is EndReason.CLOSED
    assert source.closed == 1


def test_close_from_thread_ends_read_when_it_returns() -> None:
    reading, arrive = threading.Event(), threading.Event()
    closed: list[str] = []

    def chunks() -> Iterator[bytes]:
        try:
            reading.set()
            assert arrive.wait(10)
            yield b"data: a\n\n"
        finally:
            closed.append(threading.current_thread().name)

    stream = iter_events(chunks())
    events: list[Any] = []
    reader = threading.Thread(target=lambda: events.extend(stream), name="reader")
    reader.start()
    assert reading.wait(10)
    stream.close()
    stream.close()
    assert stream.end_reason is EndReason.CLOSED
    arrive.set()
    reader.join(10)
    assert events == []
    assert closed == ["reader"]


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


def test_cancelled_slow_close_loses_no_event() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield b"data: a\n\ndata: b\n\n"
        finally:
            await asyncio.sleep(30)

    async def run() -> None:
        stream = aiter_events(chunks(), until=lambda event: event.data == "b")
        assert data([await anext(stream), await anext(stream)]) == ["a", "b"]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)
        assert stream.end_reason is EndReason.UNTIL

    asyncio.run(run())


def test_aclose_leaves_closing_to_the_reading_task() -> None:
    async def run() -> None:
        go = asyncio.Event()

        async def chunks() -> AsyncIterator[bytes]:
            try:
                yield b"data: a\n\n"
                await go.wait()
                yield b"data: b\n\n"
            finally:
                closed.append(True)

        closed: list[bool] = []
        stream = aiter_events(chunks())
        await anext(stream)
        reader = asyncio.create_task(anext(stream, "over"))
        await asyncio.sleep(0.01)
        await stream.aclose()
        go.set()
        assert await reader == "over"
        assert closed == [True]
        assert stream.end_reason is EndReason.CLOSED

    asyncio.run(run())


def test_failed_close_can_be_repeated(kind: Any) -> None:
    stream, source = kind.open(b"data: a\n\n")
    source.close_errors.append(OSError("not yet"))
    with pytest.raises(OSError, match="not yet"):
        kind.close(stream)
    kind.close(stream)
    kind.close(stream)
    assert source.closed == 2


def test_read_error_after_close_is_ignored() -> None:
    """Closing a connection makes a blocked read fail, which is expected."""
    reading, fail = threading.Event(), threading.Event()
    seen: list[bytes] = []

    def chunks() -> Iterator[bytes]:
        yield b""
        reading.set()
        assert fail.wait(10)
        raise ConnectionResetError

    def read() -> None:
        result.append(next(stream, "over"))

    result: list[Any] = []
    stream = iter_events(chunks(), on_chunk=seen.append)
    reader = threading.Thread(target=read)
    reader.start()
    assert reading.wait(10)
    stream.close()
    fail.set()
    reader.join(10)
    assert result == ["over"]
    assert seen == [b""]


def test_chunk_after_close_is_dropped() -> None:
    stream: Any = None

    def chunks() -> Iterator[bytes]:
        stream.close()
        yield b"data: a\n\n"

    seen: list[bytes] = []
    stream = iter_events(chunks(), on_chunk=seen.append)
    assert list(stream) == []
    assert seen == []


def test_close_drops_deferred_error(kind: Any) -> None:
    stream, _ = kind.open(b"data: 1\n\ndata: x\n\n", decode=int)
    kind.next(stream)
    kind.close(stream)
    assert kind.next(stream) is None


def test_failing_close_at_the_end_is_ignored(kind: Any) -> None:
    stream, source = kind.open(b"data: 1\n\n")
    source.close_errors.append(ValueError())
    assert drain(kind, stream) == ["1"]
    assert stream.end_reason is EndReason.END
    assert source.closed == 1


def test_concurrent_close_closes_source_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even if the second thread comes between the check and the pop of the first."""
    source = Closing(b"data: 1\n\n")
    stream = iter_events(source)

    class Raced(list[Any]):
        def __bool__(self) -> bool:
            found = len(self) > 0
            self.clear()  # The other thread took it in between.
            return found

        def pop(self, *_: Any) -> Any:
            self.clear()
            return super().pop()

    monkeypatch.setattr(stream, "_closers", Raced(stream._closers))
    stream.close()
    assert source.closed == 0

    for _ in range(200):
        source = Closing(b"data: 1\n\n")
        stream = iter_events(source)
        threads = [threading.Thread(target=stream.close) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert source.closed == 1


def test_callback_that_reads_the_stream_is_refused() -> None:
    """The callback gets an error, and the stream loses nothing."""

    def on_comment(_: str) -> None:
        with pytest.raises(
            RuntimeError, match="A callback of this stream asked it for the next event"
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
    assert drain(kind, stream) == ["1"]


def test_close_by_signal_at_any_moment_ends_the_loop() -> None:
    """In the Python core, a thread or a signal can interrupt between any two lines."""
    script = """
import itertools, signal, sse_fast
stream = None
signal.signal(signal.SIGALRM, lambda *_: stream.close())
for delay in range(1, 300):
    stream = sse_fast.iter_events(itertools.repeat(b"data: 1\\n\\n"))
    signal.setitimer(signal.ITIMER_REAL, delay * 1e-5)
    for event in stream:
        pass
    assert stream.end_reason is sse_fast.EndReason.CLOSED
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | {"SSE_FAST_PURE": "1"},
        timeout=60,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_async_with_closes_source_on_exit() -> None:
    source = AsyncClosing(b"data: 1\n\ndata: 2\n\n")

    async def run() -> None:
        async with aiter_events(source) as stream:
            async for _ in stream:
                break
        assert source.closed == 1

    asyncio.run(run())
