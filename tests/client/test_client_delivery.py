"""Which event the next connection begins with: an event is taken when the next one is asked for, or
when `on_message` has returned, and what was not taken comes again.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import DecodeError, EndReason, ReadyState, ReconnectPolicy, RetriableError
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, OURS, SOURCES, Way
from tests.support.scripted_server import Play, Request, Stage, serve_stage

pytestmark = UNREAD_UNDER_TRIO

NO_DELAY = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
NO_RETRY = ReconnectPolicy.never()

BLOCKS = [
    b"id: a\n\n",
    b"data: 1\n\n",
    b"id: 2\ndata: 2\n\n",
    b": ping\n\nid: b\n\n",
    b"event: none\nid: c\n\n",
    b"data: 3\n\n",
    b"id\ndata: 4\n\n",
    b"data: 5\n\n",
    "id: é 6\ndata: 6\n\n".encode(),
    b"id: d\n\n",
]
EVENT_IDS = ["a", "2", "c", "", "", "é 6"]
# The last event ID once so many events are taken: with it count the blocks without data behind
# them, as nothing else will ever take those.
IDS = ["a", "a", "c", "c", "", "", "d"]
COUNT = len(EVENT_IDS)
EVERY_K = range(1, COUNT + 1)
# The block of each event, and the end behind them.
AT = [index for index, block in enumerate(BLOCKS) if b"data" in block] + [len(BLOCKS)]
APART = pytest.mark.parametrize("apart", [False, True], ids=["one chunk", "chunk by chunk"])


def stream(blocks: list[bytes], apart: bool = False, **options: Any) -> Play:
    """The connection stays open behind them, unless the options say otherwise."""
    body = blocks if apart else [b"".join(blocks)]
    return Play(body=body, **{"framing": "chunked", "end": "hang", "delay": 3.0, **options})


def until_event(k: int, **options: Any) -> Play:
    """What comes before the event k, which does not come."""
    return stream(BLOCKS[: AT[k - 1]], **options)


def from_event(k: int, **options: Any) -> Play:
    return stream(BLOCKS[AT[k - 1] :], **{"end": "fin", **options})


def data(events: list[Any]) -> list[int]:
    return [int(event.data) for event in events]


def numbers(first: int, last: int) -> list[int]:
    return list(range(first, last + 1))


# -- The consumer stops within an event ------------------------------------------------------------


def leave(way: Way, url: str, k: int, how: str) -> str:
    """Stop at the event k; the id that a program would have stored."""

    async def use(source: Any) -> None:
        async with source:
            async for event in source:
                events.append(event)
                # At any time, the program may store it.
                assert source.last_event_id == IDS[len(events) - 1]
                if len(events) < k:
                    continue
                if how == "break":
                    break
                if how == "close":
                    source.close()
                    break
                if how == "cancel":
                    scope.cancel()
                    await anyio.sleep_forever()
                raise KeyError

    async def run(source: Any) -> None:
        nonlocal scope
        with anyio.CancelScope() as scope:
            try:
                await use(source)
            except KeyError:
                assert how == "raise"
        stored.append(source.last_event_id)

    scope: Any = None
    events: list[Any] = []
    stored: list[str] = []
    way.use(run, url)
    assert data(events) == numbers(1, k)
    assert [event.id for event in events] == EVENT_IDS[:k]
    return stored[0]


def check_left(way: Way, how: str, apart: bool) -> None:
    for k in EVERY_K:
        with serve_stage([stream(BLOCKS, apart), from_event(k)]) as stage:
            stored = leave(way, stage.url, k, how)
            outcome = way.read(stage.url, last_event_id=stored, policy=NO_RETRY)
        assert stored == IDS[k - 1]
        assert stage.sent() == [None, IDS[k - 1] or None]
        assert data(outcome.events) == numbers(k, COUNT)
        assert [event.id for event in outcome.events] == EVENT_IDS[k - 1 :]
        assert outcome.source.last_event_id == IDS[-1]


LEAVING = [
    (way, how)
    for way in (SOURCES["sse_fast"], SOURCES["sse_fast asyncio"])
    for how in ("break", "raise", "cancel", "close")
    # There is nothing to cancel in a thread.
    if way.is_async or how != "cancel"
]


@APART
@pytest.mark.parametrize(("way", "how"), LEAVING, ids=lambda value: str(value))
def test_left_within_an_event(way: Way, how: str, apart: bool) -> None:
    check_left(way, how, apart)


def test_left_within_an_event_of_any_library(way: Way) -> None:
    check_left(way, "cancel" if way.is_async else "break", apart=False)


def test_a_loop_that_was_left_goes_on(way: Way) -> None:
    """Whoever asks for the next event has taken the one before, also in another loop."""

    async def use(source: Any) -> None:
        for k in EVERY_K:
            async for event in source:
                assert int(event.data) == k
                assert source.last_event_id == IDS[k - 1]
                break

    with serve_stage([stream(BLOCKS)]) as stage:
        way.use(use, stage.url)
    assert len(stage.requests) == 1


def test_reconnect_within_an_event(way: Way) -> None:
    """The loop goes on, and with that has taken the event."""

    async def use(source: Any) -> list[Any]:
        events = []
        async for event in source:
            events.append(event)
            if len(events) == k:
                source.reconnect()
                assert source.last_event_id == IDS[k - 1]
        return events

    for k in EVERY_K:
        with serve_stage([stream(BLOCKS), from_event(k + 1) if k < COUNT else Play(204)]) as stage:
            events = way.use(use, stage.url, policy=NO_DELAY)
        assert data(events) == numbers(1, COUNT)
        # Of what comes behind the event in its chunk, nothing was there for the consumer.
        after = IDS[k]
        assert stage.sent()[:2] == [None, after or None]


# -- The consumer stops while it waits for an event ------------------------------------------------


@contextmanager
def interrupted(seconds: float, condition: Callable[[], bool]) -> Iterator[None]:
    """What a blocking wait can be left by: the handler of a signal raises."""

    def fire(*_: Any) -> None:
        if condition():
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, fire)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


@asynccontextmanager
async def cut_short(
    way: Way, seconds: float, condition: Callable[[], bool] = lambda: True
) -> AsyncIterator[None]:
    """After so many seconds, or any multiple of them by which the condition holds."""
    if not way.is_async:
        with interrupted(seconds, condition):
            yield
        return

    async def cancel() -> None:
        await anyio.sleep(seconds)
        while not condition():
            await anyio.sleep(seconds)
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        yield
        pytest.fail("it was not cut short")


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such signal")
@pytest.mark.parametrize("where", ["event", "head", "backoff"])
def test_a_wait_that_is_cut_short_loses_nothing(way: Way, where: str) -> None:
    async def use(source: Any) -> list[Any]:
        # That it is made does not count among what is to be cut short.
        await source.open()
        events = [await source.__anext__() for _ in range(k)]
        async with cut_short(way, 0.05, lambda: len(stage.requests) >= least):
            await source.__anext__()
        # All of them are taken: the next one was asked for.
        assert source.last_event_id == IDS[k]
        assert source.ready_state is ReadyState.CONNECTING
        events += [event async for event in source]
        return events

    # Elsewhere than within the stream, it is all one how far that came.
    for k in [0, *EVERY_K] if where == "event" else [2]:
        first = until_event(k + 1)
        if where == "event":
            plays = [first]
        else:
            first.end = "fin"
            plays = [first, Play(framing="none", end="hang")] if where == "head" else [first]
        policy = NO_DELAY if where != "backoff" else ReconnectPolicy(min_delay=0.1, initial_delay=0)
        plays.append(from_event(k + 1) if k < COUNT else Play(204))
        # Else the cut might come before the request that is to be cut short.
        least = 2 if where == "head" else 1
        with serve_stage(plays) as stage:
            events = way.use(use, stage.url, policy=policy)
        assert data(events) == numbers(1, COUNT)
        assert stage.sent()[: len(plays)] == [None, *[IDS[k] or None] * (len(plays) - 1)]


def test_a_wait_of_asyncio_with_a_limit() -> None:
    """It cancels the task, or one of its own around the wait, as the version of Python has it."""

    async def use(source: Any) -> list[int]:
        seen = []
        while True:
            try:
                seen.append(int((await asyncio.wait_for(source.__anext__(), 0.15)).data))
            except asyncio.TimeoutError:
                continue
            except StopAsyncIteration:
                return seen

    plays = [until_event(3), stream([b": ping\n"])]

    def play(index: int, request: Request) -> Play:
        """On a busy machine a head, too, may be late: all the same, nothing is lost."""
        if index < len(plays):
            return plays[index]
        return from_event(3) if request.get("Last-Event-ID") == b"c" else Play(204, fields=())

    with serve_stage(play) as stage:
        assert SOURCES["sse_fast asyncio"].use(use, stage.url, policy=NO_DELAY) == numbers(1, COUNT)
    assert stage.sent()[:3] == [None, "c", "c"]


# -- Callbacks -------------------------------------------------------------------------------------


class Handler:
    """An `on_message` that fails once, at the event k; in an async way, it is async."""

    def __init__(self, way: Way, k: int, failure: Exception | None) -> None:
        self.events: list[Any] = []
        self.source: Any = None
        self.scope: Any = None
        self._k = k
        self._failure: Exception | None = failure
        self.call: Callable[[Any], Any] = self._async if way.is_async else self._sync

    def _sync(self, event: Any) -> None:
        if self.source is not None:
            assert self.source.last_event_id == IDS[int(event.data) - 1]
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


def check_twice(stage: Stage, events: list[Any], k: int) -> None:
    """The event k came twice, no other did."""
    assert data(events) == [*numbers(1, k), *numbers(k, COUNT)]
    assert stage.sent() == [None, IDS[k - 1] or None, IDS[-1]]


@APART
@pytest.mark.parametrize("which", ["ours", "of libraries"])
def test_on_message_raises_and_run_again(which: str, apart: bool) -> None:
    async def use(source: Any) -> None:
        handler.source = source
        with pytest.raises(KeyError) as caught:
            await source.run(handler.call)
        assert caught.value is failure
        assert source.last_event_id == IDS[k - 1]
        assert await source.run(handler.call) is EndReason.NO_CONTENT
        assert source.last_event_id == IDS[-1]

    for way in OURS if which == "ours" else SOURCES.values():
        for k in EVERY_K if which == "ours" else [3]:
            with serve_stage([stream(BLOCKS, apart), from_event(k)]) as stage:
                failure = KeyError()
                handler = Handler(way, k, failure)
                way.use(use, stage.url, policy=NO_DELAY)
            check_twice(stage, handler.events, k)


@pytest.mark.parametrize("how", ["RetriableError", "on_error"])
@BY_US
def test_on_message_raises_and_the_client_goes_on(way: Way, how: str) -> None:
    for k in EVERY_K:
        failure = RetriableError() if how == "RetriableError" else KeyError()
        errors: list[Exception] = []

        def on_error(error: Exception, errors: list[Exception] = errors) -> int | None:
            errors.append(error)
            return 0 if isinstance(error, KeyError) else None

        with serve_stage([stream(BLOCKS), from_event(k)]) as stage:
            handler = Handler(way, k, failure)
            reason = way.run(stage.url, handler.call, policy=NO_DELAY, on_error=on_error)
        assert reason is EndReason.NO_CONTENT
        assert errors == [failure]
        check_twice(stage, handler.events, k)


def test_on_message_that_is_cancelled(async_way: Way) -> None:
    async def use(source: Any) -> None:
        handler.source = source
        with anyio.CancelScope() as handler.scope:
            await source.run(handler.call)
        assert source.last_event_id == IDS[k - 1]
        assert await source.run(handler.call) is EndReason.NO_CONTENT

    for k in EVERY_K if async_way in OURS else [3]:
        with serve_stage([stream(BLOCKS), from_event(k)]) as stage:
            handler = Handler(async_way, k, None)
            async_way.use(use, stage.url, policy=NO_DELAY)
        check_twice(stage, handler.events, k)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no such signal")
def test_run_that_is_cut_short_while_it_waits(way: Way) -> None:
    """Every event is taken: `on_message` has returned."""

    async def use(source: Any) -> None:
        await source.open()
        async with cut_short(way, 0.1, lambda: len(handler.events) == 3):
            await source.run(handler.call)
        assert source.last_event_id == IDS[3]
        await source.run(handler.call)

    with serve_stage([until_event(4), from_event(4)]) as stage:
        handler = Handler(way, 0, None)
        way.use(use, stage.url, policy=NO_DELAY)
    assert data(handler.events) == numbers(1, COUNT)
    assert stage.sent() == [None, IDS[3], IDS[-1]]


@pytest.mark.parametrize("how", ["reconnect", "close"])
@BY_US
def test_stopped_within_on_message(way: Way, how: str) -> None:
    """It returns, and so has taken the event."""

    async def use(source: Any) -> None:
        def on_message(event: Any) -> None:
            seen.append(event)
            if len(seen) == k:
                getattr(source, how)()
                assert source.last_event_id == IDS[k - 1]

        await source.run(on_message)
        stored.append(source.last_event_id)

    for k in EVERY_K:
        seen: list[Any] = []
        stored: list[str] = []
        with serve_stage([stream(BLOCKS), from_event(k + 1) if k < COUNT else Play(204)]) as stage:
            way.use(use, stage.url, policy=NO_DELAY)
        if how == "close":
            assert stored == [IDS[k]]
            assert len(stage.requests) == 1
        else:
            assert data(seen) == numbers(1, COUNT)
            assert stage.sent()[:2] == [None, IDS[k] or None]


def fetch(way: Way, url: str, handler: Handler, **options: Any) -> Any:
    """By the function instead of the class."""
    if not way.is_async:
        return sse_fast.fetch_event_source(url, on_message=handler.call, **options)

    async def run() -> Any:
        return await sse_fast.afetch_event_source(url, on_message=handler.call, **options)

    return anyio.run(run)


@BY_US
def test_fetch_event_source(way: Way) -> None:
    for k in EVERY_K:
        with serve_stage([stream(BLOCKS), from_event(k)]) as stage:
            handler = Handler(way, k, RetriableError())
            assert fetch(way, stage.url, handler, policy=NO_DELAY) is EndReason.NO_CONTENT
        check_twice(stage, handler.events, k)

        with serve_stage([stream(BLOCKS)]) as stage:
            failure = KeyError()
            handler = Handler(way, k, failure)
            with pytest.raises(KeyError) as caught:
                fetch(way, stage.url, handler, policy=NO_DELAY)
        assert caught.value is failure
        assert len(stage.requests) == 1


# -- What else counts, and what does not -----------------------------------------------------------


@pytest.mark.parametrize("start", ["", "7", "日本 7"])
def test_a_starting_id(way: Way, start: str) -> None:
    body = [b"data: 1\n\nid: x\ndata: 2\n\nid:\ndata: 3\n\ndata: 4\n\n"]
    with serve_stage([Play(body=body)]) as stage:
        outcome = way.read(stage.url, last_event_id=start, policy=NO_DELAY)
    # Of several clients, none sends bytes by itself: the id is UTF-8 on the wire.
    assert stage.sent() == [start or None, None]
    assert [event.id for event in outcome.events] == [start, "x", "", ""]
    assert outcome.source.last_event_id == ""


@BY_US
def test_a_starting_id_is_there_before_the_first_request(way: Way) -> None:
    async def use(source: Any) -> str:
        return source.last_event_id

    assert way.use(use, "http://127.0.0.1:1/", last_event_id="7") == "7"


@BY_US
def test_an_id_in_an_unfinished_block_does_not_count(way: Way) -> None:
    for end in [b"id: 2", b"id: 2\n", b"id: 2\ndata: b", b"id: 2\ndata: b\n", b"id: 2\r"]:
        with serve_stage([Play(body=[b"id: 1\ndata: a\n\n" + end])]) as stage:
            outcome = way.read(stage.url, policy=NO_DELAY)
        assert [event.data for event in outcome.events] == ["a"]
        assert stage.sent() == [None, "1"]


@BY_US
def test_only_id_and_retry_cross_to_the_next_connection(way: Way) -> None:
    bom = "\N{BOM}".encode()
    rest = "data: é".encode()
    plays = [
        # A byte order mark is skipped on each connection, also where it comes in parts.
        Play(body=[bom + b"retry: 20\nid: 1\ndata: a\n\nevent: lost\ndata: lost\n"]),
        Play(body=[bom[:1], bom[1:] + b"data: b\n\ndata: lo"], delay=20),
        # What a BOM begins with, but at its end.
        Play(body=[b"st\n\ndata: c\n\n" + rest[:-1]]),
        Play(body=[rest[-1:] + b"\n\ndata: d\n\ndata: e\r"]),
        # It is no second half of a CRLF.
        Play(body=[b"\ndata: f\n\n" + bom[:2]]),
        Play(body=[bom[2:] + b"data: g\n\n: a comm"]),
        Play(body=[b"data: h\n\nretry: 30"]),
    ]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    # The unfinished field g is one that no event has: the name begins with half a mark.
    assert outcome.plain == [("message", each, "1") for each in "abcdfh"]
    assert stage.sent() == [None, *["1"] * 7]
    assert outcome.source.retry == 20
    for request in stage.requests[1:]:
        assert request.waited is not None
        assert request.waited > 0.018


@BY_US
def test_a_retry_counts_from_its_line_on(way: Way) -> None:
    """In an unfinished block, too, and before an event was taken (9.2.6)."""

    async def use(source: Any) -> int:
        async for _ in source:
            return source.retry
        raise AssertionError

    with serve_stage([Play(body=[b"retry: 40\ndata: lost"]), Play(body=[b"data: a\n\n"])]) as stage:
        assert way.use(use, stage.url, policy=NO_DELAY) == 40
    assert stage.requests[1].waited is not None
    assert stage.requests[1].waited > 0.038


NUMBERED = [b"id: %d\ndata: %d\n\n" % (n, n) for n in range(1, 6)]


@pytest.mark.parametrize("until", ["3", lambda event: event.data == "3"], ids=["text", "predicate"])
def test_until(way: Way, until: Any) -> None:
    """It ends where it was met; all events are taken then."""
    for apart in [False, True]:
        with serve_stage([stream(NUMBERED, apart)]) as stage:
            outcome = way.read(stage.url, until=until, policy=NO_DELAY)
        assert data(outcome.events) == ([1, 2] if until == "3" else [1, 2, 3])
        assert outcome.source.end_reason is EndReason.UNTIL
        assert outcome.source.last_event_id == "3"
        assert len(stage.requests) == 1


@BY_US
def test_left_before_until_was_met(way: Way) -> None:
    for until in ["3", lambda event: event.data == "2"]:
        with serve_stage([stream(NUMBERED)]) as stage:
            outcome = way.read(stage.url, until=until, stop_after=2)
        assert outcome.source.end_reason is EndReason.CLOSED
        assert outcome.source.last_event_id == "1"


@BY_US
def test_until_is_sought_on_every_connection(way: Way) -> None:
    plays = [stream(NUMBERED[:2], end="fin"), stream(NUMBERED[2:])]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, until="5", policy=NO_DELAY)
    assert data(outcome.events) == numbers(1, 4)
    assert stage.sent() == [None, "2"]
    assert outcome.source.end_reason is EndReason.UNTIL


class Once:
    """A callback that raises at its call number k."""

    def __init__(self, k: int) -> None:
        self._left = k

    def __call__(self, _: Any) -> bool:
        self._left -= 1
        if self._left == 0:
            raise KeyError
        return False


@pytest.mark.parametrize("callback", ["on_comment", "on_chunk", "until"])
@APART
@BY_US
def test_a_callback_that_raises_and_going_on(way: Way, apart: bool, callback: str) -> None:
    """On the same connection, and no event is lost."""
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
                # Those that were handed over are taken, and no others.
                assert source.last_event_id == (str(len(events)) if events else "")
                assert source.end_reason is None
        return events

    for k in range(1, 2 if callback == "on_chunk" and not apart else 6):
        raised: list[int] = []
        with serve_stage([stream(blocks, apart)]) as stage:
            events = way.use(use, stage.url, **{callback: Once(k)})
        assert data(events) == numbers(1, 5)
        # Chunks may arrive together.
        assert len(raised) == 1 or (callback == "on_chunk" and k > 1)
        assert len(stage.requests) == 1


@BY_US
def test_a_callback_that_raises_and_leaving(way: Way) -> None:
    for callback in ["on_comment", "on_chunk", "until"]:
        with serve_stage([stream([b"id: 1\n\n: c\n", *NUMBERED])]) as stage:
            outcome = way.read(stage.url, last_event_id="0", **{callback: Once(1)})
        assert isinstance(outcome.error, KeyError)
        assert outcome.events == []
        # The program may have seen nothing of what came with it.
        assert outcome.source.last_event_id in ("0", "1")
        assert len(stage.requests) == 1


def decode(raw: bytes) -> int:
    if raw == b"3":
        raise ValueError
    return int(raw)


@APART
@BY_US
def test_a_decode_error_and_going_on(way: Way, apart: bool) -> None:
    """The event is dropped and nothing else; the stream goes on."""

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

    with serve_stage([stream(NUMBERED, apart)]) as stage:
        assert way.use(use, stage.url, last_event_id="0", decode=decode) == [1, 2, -3, 4, 5]
    assert len(stage.requests) == 1


@BY_US
def test_what_was_not_decoded_is_not_taken_either(way: Way) -> None:
    """Only who asks for more has done with it; else it comes again, decoded better perhaps."""
    with serve_stage([stream(NUMBERED)]) as stage:
        outcome = way.read(stage.url, decode=decode)
        assert isinstance(outcome.error, DecodeError)
        assert outcome.source.last_event_id == "2"
    assert len(stage.requests) == 1


# -- At any moment ---------------------------------------------------------------------------------


@contextmanager
def at_every_line(act: Callable[[str], None]) -> Iterator[None]:
    """Call it before each line of the package that this thread runs: where another thread, or the
    handler of a signal, may come in between.
    """
    package = str(Path(sse_fast.__file__).parent)

    def trace(frame: Any, what: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(package):
            return None
        if what == "line":
            act(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class Moments:
    """A consumer of NUMBERED: of one event, and then of the rest in one chunk.

    `act` is called with it at every moment on the way from the first event to the last, or at the
    only one of that number.
    """

    def __init__(self, way: Way, act: Callable[[Moments], None], only: int = 0) -> None:
        self.source: Any = None
        self.seen: list[int] = []
        # The last event of which the consumer has asked for the one behind.
        self.taken = 0
        self.places: list[str] = []
        self._act = act
        self._only = only
        with serve_stage(self._answer) as stage:
            way.use(self._use, stage.url, policy=NO_DELAY)
        self.requests = len(stage.requests)

    async def _use(self, source: Any) -> None:
        def now(place: str) -> None:
            self.places.append(place)
            if self._only in (0, len(self.places)):
                self._act(self)

        self.source = source
        while True:
            self.taken = self.seen[-1] if self.seen else 0
            try:
                with at_every_line(now) if 1 <= self.taken < 5 else nullcontext():
                    event = await source.__anext__()
            except StopAsyncIteration:
                break
            self.seen.append(int(event.data))

    def _answer(self, index: int, request: Request) -> Play:
        left = NUMBERED[int(request.get("Last-Event-ID") or 0) :]
        if not left:
            return Play(204, fields=())
        body = [left[0], b"".join(left[1:])] if index == 0 else [b"".join(left)]
        return Play(body=body, framing="length", delay=3.0)


def each_moment(way: Way, act: Callable[[Any], None]) -> Iterator[tuple[str, Moments]]:
    """A consumer for each moment, and the line that was to come when it acted."""
    places = Moments(way, lambda consumer: None).places
    assert 20 < len(places) < 500
    for number, place in enumerate(places, 1):
        yield place, Moments(way, act, number)


def elsewhere(function: Callable[[], None]) -> None:
    """In another thread, to its end."""
    thread = threading.Thread(target=function)
    thread.start()
    # If it waits for what this thread has locked, it comes to its end a little later.
    thread.join(0.05)


@BY_US
def test_the_id_may_be_stored_at_any_moment(way: Way) -> None:
    """As the handler of SIGTERM does, or a thread that writes it down from time to time."""

    def look(consumer: Moments) -> None:
        stored = int(consumer.source.last_event_id or 0)
        if stored > consumer.taken:
            ahead.append(f"{consumer.places[-1]}: {stored}, of which {consumer.taken} are taken")

    ahead: list[str] = []
    assert Moments(way, look).seen == numbers(1, 5)
    assert not ahead, "\n".join(ahead)


@BY_US
def test_closed_by_another_thread_at_any_moment(way: Way) -> None:
    ahead, closed = [], []
    for place, consumer in each_moment(way, lambda consumer: elsewhere(consumer.source.close)):
        closed.append(consumer.source.end_reason is EndReason.CLOSED)
        assert consumer.seen == numbers(1, len(consumer.seen))
        stored = consumer.source.last_event_id
        if int(stored) > len(consumer.seen):
            ahead.append(f"{place}: {stored}, of which {len(consumer.seen)} have come")
    assert not ahead, "\n".join(ahead)
    # At the last of the moments it may all be over.
    assert sum(closed) > 0.9 * len(closed)


@BY_US
def test_reconnect_by_another_thread_at_any_moment(way: Way) -> None:
    """Every event comes, in order; those that were not taken by then may come twice."""
    lost, again = [], []
    for place, consumer in each_moment(way, lambda consumer: elsewhere(consumer.source.reconnect)):
        again.append(consumer.requests == 3)
        steps = zip([0, *consumer.seen], consumer.seen, strict=False)
        if any(after > before + 1 for before, after in steps) or consumer.seen[-1] != 5:
            lost.append(f"{place}: {consumer.seen}")
    assert not lost, "\n".join(lost)
    # At the last of the moments there is nothing left to be asked for.
    assert sum(again) > 0.9 * len(again)


# -- A consumer that dies, and dies again ----------------------------------------------------------


EVENTS = 100_000
LOG = [b"id: %d\ndata: %d\n\n" % (n, n) for n in range(1, EVENTS + 1)]


class Firehose:
    """Serves what follows the id that it is given, until the connection breaks at random."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, index: int, request: Request) -> Play:
        after = int(request.get("Last-Event-ID") or 0)
        if after == EVENTS:
            return Play(204, fields=())
        random = self._random
        whole = b"".join(LOG[after : after + random.randint(1, 3000)])
        body = [whole[at : at + 8192] for at in range(0, len(whole), 8192)]
        # Within an event, most often.
        body[-1] = body[-1][: random.randint(1, len(body[-1]))]
        return Play(
            body=body,
            framing=random.choice(["close", "chunked", "chunked-truncated", "length-short"]),
            end=random.choice(["fin", "rst"]),
        )


class Died(Exception):
    pass


def live(way: Way, url: str, stored: str, random: Random, limit: int) -> str:
    """One life of a consumer, which checks that it is given what follows; what it has stored."""

    def handle(event: Any) -> None:
        nonlocal seen, taken
        taken = seen
        assert event.id == event.data == str(seen + 1)
        if seen + 1 == last:
            if death == "before it is done":
                raise Died
            if death == "close":
                timer.start()
            if death == "cancel":
                scope.deadline = anyio.current_time() + soon
        seen += 1
        if seen == last and death == "once it is done":
            raise Died

    async def use(source: Any) -> str:
        nonlocal scope, timer
        timer = threading.Timer(soon, source.close)
        written_down = stored
        with anyio.CancelScope() as scope:
            try:
                if by_callback:
                    await source.run(handle)
                else:
                    async for event in source:
                        handle(event)
                        if seen % 100 == 0:
                            written_down = source.last_event_id
                            await anyio.sleep(0)
            except Died:
                # Alive, it would have asked for more.
                assert source.last_event_id == str(taken or "")
        if timer.ident is not None:
            timer.join()
        assert int(source.last_event_id or 0) <= seen
        # One that is killed stores nothing any more.
        return random.choice([source.last_event_id, written_down])

    scope: Any = None
    timer: Any = None
    seen = taken = int(stored or 0)
    last = seen + random.randint(1, limit)
    deaths = ["before it is done", "once it is done", "close"]
    death = random.choice([*deaths, "cancel"] if way.is_async else deaths)
    soon = random.uniform(0.0, 0.002)
    by_callback = random.random() < 0.5
    return way.use(use, url, last_event_id=stored, policy=NO_DELAY)


@pytest.mark.parametrize("seed", range(3))
def test_a_consumer_that_dies_misses_nothing(seed: int) -> None:
    random = Random(seed)
    ways = list(SOURCES.values())
    stored, lives = "", 0
    with serve_stage(Firehose(random)) as stage:
        while stored != str(EVENTS):
            lives += 1
            assert lives < 5000
            stored = live(random.choice(ways), stage.url, stored, random, limit=300)
    assert lives > 100
    assert len(stage.requests) > lives
