"""The event that the next connection begins with, if a callback raises, stops or is cancelled.

An event is taken when `on_message` has returned. An event that was not taken is sent again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import DecodeError, EndReason, RetriableError
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.delivery import (
    BLOCKS,
    COUNT,
    EVENT_NUMBERS,
    IDS_TAKEN,
    NEEDS_SIGNALS,
    NUMBERED,
    ONE_OR_MANY_CHUNKS,
    interrupt_wait,
    numbers,
    numbers_of,
    play_blocks,
    play_from,
    play_until,
)
from tests.support.eventsources import BY_US, OURS, Way
from tests.support.scripted_server import Play, Stage, serve_stage
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO


# -- on_message ------------------------------------------------------------------------------------


class Handler:
    """An `on_message` that raises `failure` once, at event `k`; for an async way, it is async."""

    def __init__(self, way: Way, k: int, failure: Exception | None) -> None:
        self.events: list[Any] = []
        self.source: Any = None
        self.scope: Any = None
        self._k = k
        self._failure: Exception | None = failure
        self.call: Callable[[Any], Any] = self._async if way.is_async else self._sync

    def _sync(self, event: Any) -> None:
        if self.source is not None:
            assert self.source.last_event_id == IDS_TAKEN[int(event.data) - 1]
        self.events.append(event)
        failure = self._failure
        if failure is not None and int(event.data) == self._k:
            self._failure = None
            raise failure

    async def _async(self, event: Any) -> None:
        await anyio.sleep(0)
        self._sync(event)
        if self.scope is not None and int(event.data) == self._k:
            self.scope.cancel()
            self.scope = None
            await anyio.sleep_forever()
        await anyio.sleep(0)


def check_only_k_came_twice(stage: Stage, events: list[Any], k: int) -> None:
    assert numbers_of(events) == [*numbers(1, k), *numbers(k, COUNT)]
    assert stage.sent() == [None, IDS_TAKEN[k - 1] or None, IDS_TAKEN[-1]]


@ONE_OR_MANY_CHUNKS
def test_event_of_on_message_that_raised_comes_again(way: Way, in_many_chunks: bool) -> None:
    async def use(source: Any) -> None:
        handler.source = source
        with pytest.raises(KeyError) as caught:
            await source.run(handler.call)
        assert caught.value is failure
        assert source.last_event_id == IDS_TAKEN[k - 1]
        assert await source.run(handler.call) is EndReason.NO_CONTENT
        assert source.last_event_id == IDS_TAKEN[-1]

    for k in EVENT_NUMBERS if way in OURS else [3]:
        with serve_stage([play_blocks(BLOCKS, in_many_chunks), play_from(k)]) as stage:
            failure = KeyError()
            handler = Handler(way, k, failure)
            way.use(use, stage.url, policy=NO_DELAY)
        check_only_k_came_twice(stage, handler.events, k)


@pytest.mark.parametrize("how", ["RetriableError", "on_error"])
@BY_US
def test_event_comes_again_if_on_error_retries(way: Way, how: str) -> None:
    for k in EVENT_NUMBERS:
        failure = RetriableError() if how == "RetriableError" else KeyError()
        errors: list[Exception] = []

        def on_error(error: Exception, errors: list[Exception] = errors) -> int | None:
            errors.append(error)
            return 0 if isinstance(error, KeyError) else None

        with serve_stage([play_blocks(BLOCKS), play_from(k)]) as stage:
            handler = Handler(way, k, failure)
            reason = way.run(stage.url, handler.call, policy=NO_DELAY, on_error=on_error)
        assert reason is EndReason.NO_CONTENT
        assert errors == [failure]
        check_only_k_came_twice(stage, handler.events, k)


def test_event_of_cancelled_on_message_comes_again(async_way: Way) -> None:
    async def use(source: Any) -> None:
        handler.source = source
        with anyio.CancelScope() as handler.scope:
            await source.run(handler.call)
        assert source.last_event_id == IDS_TAKEN[k - 1]
        assert await source.run(handler.call) is EndReason.NO_CONTENT

    for k in EVENT_NUMBERS if async_way in OURS else [3]:
        with serve_stage([play_blocks(BLOCKS), play_from(k)]) as stage:
            handler = Handler(async_way, k, None)
            async_way.use(use, stage.url, policy=NO_DELAY)
        check_only_k_came_twice(stage, handler.events, k)


@NEEDS_SIGNALS
def test_interrupted_run_loses_no_event(way: Way) -> None:
    """Every event is taken, as `on_message` has returned."""

    async def use(source: Any) -> None:
        await source.open()
        async with interrupt_wait(way, lambda: len(handler.events) == 3):
            await source.run(handler.call)
        assert source.last_event_id == IDS_TAKEN[3]
        # A cancelled wait keeps its connection, which another run reads on from.
        interrupted.set()
        await source.run(handler.call)

    interrupted = threading.Event()
    with serve_stage([play_until(4, end=interrupted), play_from(4)]) as stage:
        handler = Handler(way, 0, None)
        way.use(use, stage.url, policy=NO_DELAY)
    assert numbers_of(handler.events) == numbers(1, COUNT)
    assert stage.sent() == [None, IDS_TAKEN[3], IDS_TAKEN[-1]]


@pytest.mark.parametrize("how", ["reconnect", "close"])
@BY_US
def test_stop_in_on_message_takes_the_event(way: Way, how: str) -> None:
    """The event is taken, because `on_message` returns."""

    async def use(source: Any) -> None:
        def on_message(event: Any) -> None:
            seen.append(event)
            if len(seen) == k:
                getattr(source, how)()
                assert source.last_event_id == IDS_TAKEN[k - 1]

        await source.run(on_message)
        stored.append(source.last_event_id)

    for k in EVENT_NUMBERS:
        seen: list[Any] = []
        stored: list[str] = []
        with serve_stage(
            [play_blocks(BLOCKS), play_from(k + 1) if k < COUNT else Play(204)]
        ) as stage:
            way.use(use, stage.url, policy=NO_DELAY)
        if how == "close":
            assert stored == [IDS_TAKEN[k]]
            assert len(stage.requests) == 1
        else:
            assert numbers_of(seen) == numbers(1, COUNT)
            assert stage.sent()[:2] == [None, IDS_TAKEN[k] or None]


def fetch(way: Way, url: str, handler: Handler, **options: Any) -> Any:
    """Read by the function instead of the class."""
    if not way.is_async:
        return sse_fast.fetch_event_source(url, on_message=handler.call, **options)

    async def run() -> Any:
        return await sse_fast.afetch_event_source(url, on_message=handler.call, **options)

    return anyio.run(run)


@BY_US
def test_fetch_event_source_repeats_the_failed_event(way: Way) -> None:
    for k in EVENT_NUMBERS:
        with serve_stage([play_blocks(BLOCKS), play_from(k)]) as stage:
            handler = Handler(way, k, RetriableError())
            assert fetch(way, stage.url, handler, policy=NO_DELAY) is EndReason.NO_CONTENT
        check_only_k_came_twice(stage, handler.events, k)

        with serve_stage([play_blocks(BLOCKS)]) as stage:
            failure = KeyError()
            handler = Handler(way, k, failure)
            with pytest.raises(KeyError) as caught:
                fetch(way, stage.url, handler, policy=NO_DELAY)
        assert caught.value is failure
        assert len(stage.requests) == 1


# -- Parser callbacks and decode -------------------------------------------------------------------


class RaiseAt:
    """A callback that raises KeyError at call number `k`."""

    def __init__(self, k: int) -> None:
        self._left = k

    def __call__(self, _: Any) -> bool:
        self._left -= 1
        if self._left == 0:
            raise KeyError
        return False


@pytest.mark.parametrize("callback", ["on_comment", "on_chunk", "until"])
@ONE_OR_MANY_CHUNKS
@BY_US
def test_loop_continues_after_parser_callback_raised(
    way: Way, in_many_chunks: bool, callback: str
) -> None:
    """The next loop reads the same connection, and no event is lost."""
    blocks = [b": c\n" + block for block in NUMBERED]

    async def use(source: Any) -> list[Any]:
        events: list[Any] = []
        while len(events) < len(NUMBERED):
            try:
                async for event in source:
                    events.append(event)
                    if len(events) == len(NUMBERED):
                        break
            except KeyError:
                raised.append(len(events))
                # The events that were delivered are taken, and no others.
                assert source.last_event_id == (str(len(events)) if events else "")
                assert source.end_reason is None
        return events

    for k in range(1, 2 if callback == "on_chunk" and not in_many_chunks else 6):
        raised: list[int] = []
        with serve_stage([play_blocks(blocks, in_many_chunks)]) as stage:
            events = way.use(use, stage.url, **{callback: RaiseAt(k)})
        assert numbers_of(events) == numbers(1, 5)
        # Several chunks may arrive as one.
        assert len(raised) == 1 or (callback == "on_chunk" and k > 1)
        assert len(stage.requests) == 1


@BY_US
def test_parser_callback_that_raises_ends_the_loop(way: Way) -> None:
    for callback in ["on_comment", "on_chunk", "until"]:
        with serve_stage([play_blocks([b"id: 1\n\n: c\n", *NUMBERED])]) as stage:
            outcome = way.read(stage.url, last_event_id="0", **{callback: RaiseAt(1)})
        assert isinstance(outcome.error, KeyError)
        assert outcome.events == []
        # The id counts or not, depending on whether the callback came before its block.
        assert outcome.source.last_event_id in ("0", "1")
        assert len(stage.requests) == 1


def decode(raw: bytes) -> int:
    if raw == b"3":
        raise ValueError
    return int(raw)


@ONE_OR_MANY_CHUNKS
@BY_US
def test_loop_continues_after_decode_error(way: Way, in_many_chunks: bool) -> None:
    """Only the event that failed to decode is dropped; the stream continues."""

    async def use(source: Any) -> list[int]:
        seen: list[int] = []
        while len(seen) < 5:
            try:
                seen.append((await source.__anext__()).data)
            except DecodeError as error:
                seen.append(-int(error.event.data))
            else:
                assert source.last_event_id == str(len(seen) - 1)
        return seen

    with serve_stage([play_blocks(NUMBERED, in_many_chunks)]) as stage:
        assert way.use(use, stage.url, last_event_id="0", decode=decode) == [1, 2, -3, 4, 5]
    assert len(stage.requests) == 1


@BY_US
def test_event_not_decoded_is_not_taken(way: Way) -> None:
    """The event is sent again, unless the program asks for the next one on this connection."""
    with serve_stage([play_blocks(NUMBERED)]) as stage:
        outcome = way.read(stage.url, decode=decode)
        assert isinstance(outcome.error, DecodeError)
        assert outcome.source.last_event_id == "2"
    assert len(stage.requests) == 1
