"""A source that another thread reads, and waiting for what other threads and tasks do."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CodeType
from typing import Any

import anyio
import pytest
from typing_extensions import Self

from sse_fast import EndReason, ReadyState, ReconnectPolicy
from tests.support.clients import LIMIT, wait_until
from tests.support.eventsources import (
    ADAPTERS,
    ASYNC_SOURCES,
    OURS,
    SOURCES,
    Way,
    matrix_marks,
)
from tests.support.scripted_server import Play, Stage, stream

# -- Policies --------------------------------------------------------------------------------------

NO_DELAY = ReconnectPolicy(end_delay=0.0, initial_delay=0.0, min_delay=0.0)
SHORT_DELAY = ReconnectPolicy(end_delay=0.0, initial_delay=0.0, min_delay=0.01)
# A wait that only close() or reconnect() can cut short.
LONG_DELAY = ReconnectPolicy(initial_delay=30.0, jitter=0.0)
# close() is to take effect within 100 ms; a busy machine may need more seconds.
PROMPT_SECONDS = 1.0

# -- Ways ------------------------------------------------------------------------------------------

SYNC_WAYS = [way for way in SOURCES.values() if not way.is_async]
ASYNC_WAYS = list(ASYNC_SOURCES.values())
ASYNCIO_WAYS = [way for way in ASYNC_WAYS if way.backend == "asyncio"]
CLIENT_WAYS = [way for way in SOURCES.values() if way.has_client]
# httpx and httpx2 leave inner generators to the garbage collector, of which trio warns.
OF_TRIO = pytest.mark.filterwarnings(
    "ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"
)


def marks_of(way: Way, default: Sequence[Way]) -> list[pytest.MarkDecorator]:
    """Return the marks of a case of `way`, as `matrix_marks` has them, and `OF_TRIO` under trio."""
    return [*matrix_marks(way, default), *([OF_TRIO] if way.backend == "trio" else [])]


def each_way(ways: Sequence[Way], default: Sequence[Way] = OURS) -> pytest.MarkDecorator:
    """Parametrize `way` with `ways`; those that are not in `default` are marked `matrix`."""
    params = [pytest.param(way, id=str(way), marks=marks_of(way, default)) for way in ways]
    return pytest.mark.parametrize("way", params)


# These filter `OF_TRIO`, too, unlike those of `eventsources`.
# Tests of our policy run over our own transport by default.
EVERY_WAY = each_way(list(SOURCES.values()))
# Tests of adapters run over each adapter by default.
EVERY_ADAPTER = each_way(list(SOURCES.values()), ADAPTERS)

# Checks that mostly wait run concurrently: all ways of one selection in one test.
OURS_OR_OTHERS = pytest.mark.parametrize(
    "ways",
    [
        pytest.param(OURS, id="ours"),
        pytest.param(
            [way for way in SOURCES.values() if way not in OURS],
            id="others",
            marks=pytest.mark.matrix,
        ),
    ],
)


def check_together(check: Callable[[Way], None], ways: Sequence[Way], at_once: int) -> None:
    """Run `check` for each way, `at_once` at the same time, and raise if any of them failed."""
    with ThreadPoolExecutor(at_once) as pool:
        futures = {way: pool.submit(check, way) for way in ways}
    errors = {str(way): future.exception() for way, future in futures.items()}
    failed = {name: error for name, error in errors.items() if error is not None}
    for error in failed.values():
        raise AssertionError(f"failed: {', '.join(failed)}") from error


# -- Answers of the server -------------------------------------------------------------------------

# Nothing is sent, not even a head.
SILENCE = Play(framing="none", end="hang")
STREAM_B = stream(b"id: 2\ndata: b\n\n")


def quiet_stream(*events: bytes) -> Play:
    """Return a stream of those events that then stays open and silent until the client leaves."""
    return stream(*events, end="hang")


# -- Waiting for threads and tasks -----------------------------------------------------------------

# Seconds for which a thread or task has to stay where it is to count as blocked.
_STILL_SECONDS = 0.002


def wait_until_blocked(*threads: threading.Thread) -> None:
    """Wait until the threads are blocked in a call that waits; by default all other threads.

    A thread is blocked if the kernel says that it sleeps, and its innermost frame is where it was a
    moment before, during which this thread left the GIL to it.
    """
    deadline = time.monotonic() + LIMIT
    before = _positions(threads)
    while True:
        time.sleep(_STILL_SECONDS)
        now = _positions(threads)
        if None not in now.values() and now == before:
            return
        assert time.monotonic() < deadline, f"not blocked: {now}"
        before = now


def _positions(threads: Sequence[threading.Thread]) -> dict[int, tuple[CodeType, int] | None]:
    """Return code and instruction of each thread by its id; None: the thread is running."""
    frames = sys._current_frames()
    positions: dict[int, tuple[CodeType, int] | None] = {}
    for thread in threads or threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if frame is None or thread is threading.current_thread():
            continue
        state = "S"
        # Without /proc, the frame alone has to do.
        with suppress(OSError):
            stat = Path(f"/proc/self/task/{thread.native_id}/stat").read_text()
            state = stat.rpartition(") ")[2][0]
        positions[thread.ident or 0] = (frame.f_code, frame.f_lasti) if state == "S" else None
    return positions


async def wait_until_others_blocked(condition: Callable[[], object] = lambda: True) -> None:
    """Wait until the condition holds and every other task of this event loop is blocked."""
    while not condition():
        await anyio.sleep(0.001)
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        import trio.testing

        await trio.testing.wait_all_tasks_blocked(_STILL_SECONDS)
        return
    before = None
    while True:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        # anyio looks at this attribute as well, since asyncio has no API for what a task waits for.
        now = [(task, getattr(task, "_fut_waiter", None)) for task in sorted(tasks, key=id)]
        if now == before and all(waiter and not waiter.done() for _, waiter in now):
            return
        before = now
        await anyio.sleep(_STILL_SECONDS)


# -- The reader ------------------------------------------------------------------------------------


class ThreadedReader:
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
        self.join()

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

    def wait_until_blocked(self, condition: Callable[[], object] = lambda: True) -> None:
        """Wait until the condition holds and the thread is in its next wait."""
        wait_until(condition)
        wait_until_blocked(self._thread)

    def close(self) -> float:
        """Close the source; return the seconds from the call to the end of the loop."""
        before = time.monotonic()
        self.source.close()
        # close() itself never waits for the reader.
        assert time.monotonic() - before < PROMPT_SECONDS
        self.join()
        assert self.ended is not None
        return self.ended - before

    def join(self) -> None:
        self._thread.join(LIMIT)
        assert not self._thread.is_alive()


def assert_closed_quietly(reader: ThreadedReader, stage: Stage, requests: int) -> None:
    """Assert that close() was no error, and that there were `requests` requests and no more."""
    assert reader.error is None
    assert reader.end_reason is EndReason.CLOSED
    assert reader.source.ready_state is ReadyState.CLOSED
    # The server has seen every request, and a thread that waits for a response sends no other.
    wait_until_blocked()
    assert len(stage.requests) == requests


# -- Connections that are used again ---------------------------------------------------------------


CHUNKED = ("Transfer-Encoding", "chunked")
