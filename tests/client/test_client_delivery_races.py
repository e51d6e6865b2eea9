"""Events are delivered in order and none is lost, at whatever moment another thread interferes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import EndReason
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.delivery import NUMBERED, numbers
from tests.support.eventsources import BY_US, SOURCES, Way
from tests.support.scripted_server import Play, Request, serve_stage
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO


# -- At any moment ---------------------------------------------------------------------------------


@contextmanager
def at_every_line(act: Callable[[str], None]) -> Iterator[None]:
    """Call `act` with the place before each line of the package that this thread runs.

    Another thread, or the handler of a signal, may run at any of them.
    """
    package = str(Path(sse_fast.__file__).parent)

    def trace(frame: Any, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(package):
            return None
        if event == "line":
            act(f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}")
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


class TracedConsumer:
    """A consumer of NUMBERED, whose first event comes alone and the others in one chunk.

    `act` is called with the consumer before every line that runs between the first event and the
    last, or only before line number `only`.
    """

    def __init__(self, way: Way, act: Callable[[TracedConsumer], None], only: int = 0) -> None:
        self.source: Any = None
        self.seen: list[int] = []
        self._first_came = threading.Event()
        # The number of the last event that the consumer has taken by asking for the next.
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
            self._first_came.set()

    def _answer(self, index: int, request: Request) -> Play:
        left = NUMBERED[int(request.get("Last-Event-ID") or 0) :]
        if not left:
            return Play(204, fields=())
        body = [b"".join(left)]
        if index == 0:
            body = [left[0], self._first_came, b"".join(left[1:])]
        return Play(body=body, framing="length", delay=3.0)


def each_moment(
    way: Way, act: Callable[[Any], None], step: int
) -> Iterator[tuple[str, TracedConsumer]]:
    """Yield a consumer for each moment at which to act, with the line that was about to run.

    Only every `step`-th moment is taken.
    """
    places = TracedConsumer(way, lambda consumer: None).places
    assert 20 < len(places) < 500
    for number, place in list(enumerate(places, 1))[::step]:
        yield place, TracedConsumer(way, act, number)


STEPS = pytest.mark.parametrize(
    "step", [pytest.param(5, id="some"), pytest.param(1, id="all", marks=pytest.mark.soak)]
)


def run_in_thread(function: Callable[[], None]) -> None:
    """Run a function in another thread, and wait for its end unless this thread blocks it."""
    thread = threading.Thread(target=function)
    thread.start()
    # If this thread holds a lock that the function waits for, the function ends later. A busy
    # machine may need long to run the other thread.
    thread.join(5)


@BY_US
def test_last_event_id_never_runs_ahead_of_consumer(way: Way) -> None:
    """The handler of SIGTERM may store the id, or another thread from time to time."""

    def look(consumer: TracedConsumer) -> None:
        stored = int(consumer.source.last_event_id or 0)
        if stored > consumer.taken:
            ahead.append(
                f"{consumer.places[-1]}: id {stored}, but {consumer.taken} events are taken"
            )

    ahead: list[str] = []
    assert TracedConsumer(way, look).seen == numbers(1, 5)
    assert not ahead, "\n".join(ahead)


@BY_US
@STEPS
def test_close_at_any_moment_loses_no_event(way: Way, step: int) -> None:
    ahead, closed = [], []
    for place, consumer in each_moment(
        way, lambda consumer: run_in_thread(consumer.source.close), step
    ):
        closed.append(consumer.source.end_reason is EndReason.CLOSED)
        assert consumer.seen == numbers(1, len(consumer.seen))
        stored = consumer.source.last_event_id
        if int(stored) > len(consumer.seen):
            ahead.append(f"{place}: id {stored}, but {len(consumer.seen)} events were delivered")
    assert not ahead, "\n".join(ahead)
    # At the last moments, the stream may have ended already.
    assert sum(closed) > 0.9 * len(closed)


@BY_US
@STEPS
def test_reconnect_at_any_moment_loses_no_event(way: Way, step: int) -> None:
    """Every event comes, in order; an event that was not taken may come twice."""
    lost, again = [], []
    for place, consumer in each_moment(
        way, lambda consumer: run_in_thread(consumer.source.reconnect), step
    ):
        again.append(consumer.requests == 3)
        steps = zip([0, *consumer.seen], consumer.seen, strict=False)
        if any(after > before + 1 for before, after in steps) or consumer.seen[-1] != 5:
            lost.append(f"{place}: {consumer.seen}")
    assert not lost, "\n".join(lost)
    # At the last moments, no event is left for another request.
    assert sum(again) > 0.9 * len(again)


# -- A consumer that is killed again and again -----------------------------------------------------


EVENTS = 100_000
LOG = [b"id: %d\ndata: %d\n\n" % (n, n) for n in range(1, EVENTS + 1)]


class Firehose:
    """Plays the events after the Last-Event-ID, until the connection breaks at random."""

    def __init__(self, random: Random) -> None:
        self._random = random

    def __call__(self, index: int, request: Request) -> Play:
        after = int(request.get("Last-Event-ID") or 0)
        if after == EVENTS:
            return Play(204, fields=())
        random = self._random
        whole = b"".join(LOG[after : after + random.randint(1, 3000)])
        body = [whole[at : at + 8192] for at in range(0, len(whole), 8192)]
        # The body is mostly cut within an event.
        body[-1] = body[-1][: random.randint(1, len(body[-1]))]
        return Play(
            body=body,
            framing=random.choice(["close", "chunked", "chunked-truncated", "length-short"]),
            end=random.choice(["fin", "rst"]),
        )


class Killed(Exception):
    """The consumer ends without asking for another event."""


def consume_until_killed(way: Way, url: str, stored: str, random: Random, limit: int) -> str:
    """Check that a consumer gets the events after the id `stored`, and return the id it stored.

    It ends in a random manner, after `limit` events at most.
    """

    def handle(event: Any) -> None:
        nonlocal seen, taken
        taken = seen
        assert event.id == event.data == str(seen + 1)
        if seen + 1 == last:
            if ending == "before the event is processed":
                raise Killed
            if ending == "close":
                timer.start()
            if ending == "cancel":
                scope.deadline = anyio.current_time() + soon
        seen += 1
        if seen == last and ending == "after the event is processed":
            raise Killed

    async def use(source: Any) -> str:
        nonlocal scope, timer
        timer = threading.Timer(soon, source.close)
        stored_last = stored
        with anyio.CancelScope() as scope:
            try:
                if by_callback:
                    await source.run(handle)
                else:
                    async for event in source:
                        handle(event)
                        if seen % 100 == 0:
                            stored_last = source.last_event_id
                            await anyio.sleep(0)
            except Killed:
                # It did not ask for another event, so the last one is not taken.
                assert source.last_event_id == str(taken or "")
        if timer.ident is not None:
            timer.join()
        assert int(source.last_event_id or 0) <= seen
        # A consumer that is killed may have stored an earlier id.
        return random.choice([source.last_event_id, stored_last])

    scope: Any = None
    timer: Any = None
    seen = taken = int(stored or 0)
    last = seen + random.randint(1, limit)
    endings = ["before the event is processed", "after the event is processed", "close"]
    ending = random.choice([*endings, "cancel"] if way.is_async else endings)
    soon = random.uniform(0.0, 0.002)
    by_callback = random.random() < 0.5
    return way.use(use, url, last_event_id=stored, policy=NO_DELAY)


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(3))
def test_consumer_killed_repeatedly_misses_no_event(seed: int) -> None:
    random = Random(seed)
    ways = list(SOURCES.values())
    stored, runs = "", 0
    with serve_stage(Firehose(random)) as stage:
        while stored != str(EVENTS):
            runs += 1
            assert runs < 5000
            stored = consume_until_killed(random.choice(ways), stage.url, stored, random, limit=300)
    assert runs > 100
    assert len(stage.requests) > runs
