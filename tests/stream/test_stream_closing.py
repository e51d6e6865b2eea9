"""EventStream and AsyncEventStream closed at any moment, by themselves and by others."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from sse_fast import (
    EndReason,
    aiter_events,
    iter_events,
)
from tests.support.streams import AsyncClosing, Blocking, Closing, data


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
    kind.drain(stream)
    kind.close(stream)
    assert stream.end_reason is EndReason.END
    assert source.closed == 1


def test_leaving_with_block_closes(kind: Any) -> None:
    stream, source = kind.open(b"data: a\n\n")
    with pytest.raises(KeyError):
        kind.leave(stream, KeyError())
    assert stream.end_reason is EndReason.CLOSED
    assert source.closed == 1


@pytest.mark.parametrize("callback", ["on_comment", "on_chunk", "until"])
def test_close_from_callback_ends_stream(callback: str) -> None:
    kind = Blocking()  # A callback cannot await aclose().

    def close(_: Any) -> None:
        stream.close()

    stream, source = kind.open(b": c\ndata: 1\n\ndata: 2\n\n", b"never", **{callback: close})
    assert kind.drain(stream) == []
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
        yield b":"
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
    assert seen == [b":"]


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
    assert kind.drain(stream) == ["1"]
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
