"""A server that misbehaves on 60 connections; the consumer gets every event once and in order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

import pytest

from sse_fast import EndReason, ReadyState, ReconnectPolicy, StreamTimeout
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, Way
from tests.support.scripted_server import Play, Request, in_two_seconds, serve_stage
from tests.support.threaded_reader import OURS_OR_OTHERS, check_together

pytestmark = UNREAD_UNDER_TRIO

EVENTS = 500
CONNECTIONS = 60
SILENT = 4  # how many of the acts send nothing for `IDLE` seconds
IDLE = 0.5
POLICY = ReconnectPolicy(
    initial_attempts=None,
    initial_delay=0.01,
    max_delay=0.01,
    min_delay=0.005,
    max_retry=0.05,
    max_retry_after=0.05,
)
BOM = "\N{BOM}".encode()


def event(number: int) -> bytes:
    """Return an event whose truncated id is that of another, with text of multi-byte characters."""
    return f"id: {number}\ndata: {text(number)}\n\n".encode()


def text(number: int) -> str:
    return f"{number} é日🚀"


# -- Acts: each returns an answer, by the bytes that follow the Last-Event-ID ----------------------

Act = Callable[[Random, bytes], Play]


def served(framing: Any = "close", end: Any = "fin", **options: Any) -> Act:
    """Send all of it in pieces of random size."""

    def act(random: Random, rest: bytes) -> Play:
        return Play(body=pieces(random, rest), framing=framing, end=end, delay=0.3, **options)

    return act


def cut(framing: Any = "close", end: Any = "fin", after: bytes = b"") -> Act:
    """Break off at random, or right after the last occurrence of those bytes."""

    def act(random: Random, rest: bytes) -> Play:
        at = rest.rindex(after) + len(after) if after else random.randrange(1, len(rest))
        return Play(body=pieces(random, rest[:at]), framing=framing, end=end, delay=0.3)

    return act


def answered(body: bytes = b"", **options: Any) -> Act:
    """Send none of it."""
    return lambda random, rest: Play(body=[body] if body else [], **options)


def refused(status: int, retry_after: Callable[[], str] | None = None) -> Act:
    def act(random: Random, rest: bytes) -> Play:
        fields = [("Content-Type", "text/plain")]
        if retry_after is not None:
            fields.append(("Retry-After", retry_after()))
        return Play(status, fields, body=[b"data: no event\n\n"], framing="length")

    return act


def pieces(random: Random, data: bytes) -> list[bytes]:
    cuts = sorted(random.sample(range(1, len(data)), min(5, len(data) - 1)))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]


ACTS: list[Act] = [
    # Clean ends, and those that look clean.
    *(served(framing) for framing in ("close", "chunked", "length")),
    *(served(framing, keep_alive=True) for framing in ("chunked", "length")),
    *(answered(framing=framing) for framing in ("close", "chunked", "length")),
    answered(b": nothing\n\n:\n" * 20),
    answered(BOM),
    answered(b"retry: 1\n\n"),
    # Truncated, between two events or anywhere.
    *(served("chunked-truncated", end) for end in ("fin", "rst")),
    *(served("length-short", end) for end in ("fin", "rst")),
    *(cut(framing) for framing in ("close", "chunked", "length") for _ in range(2)),
    *(cut(framing, "rst") for framing in ("close", "chunked", "length-short") for _ in range(2)),
    cut("chunked-truncated"),
    # Truncated within a line, within a UTF-8 sequence, within an id so that it is another id.
    cut(after=b"id: 1"),
    cut(after=b"id"),
    cut("chunked-truncated", after=b"data: "),
    cut("chunked", after="é日🚀".encode()[:-1]),
    cut("chunked", after="é日🚀".encode()[:3]),
    cut("length-short", after="é日🚀".encode()),
    cut("chunked", after="é日🚀\n".encode()),
    # Silent before the first byte, before the first event, within an event, between two events.
    answered(framing="none", end="hang"),
    answered(b": nothing\n\n", framing="chunked", end="hang"),
    cut("chunked", "hang"),
    served("length-short", "hang"),
    # Closed before there is an answer.
    *(answered(framing="none", end=end) for end in ("fin", "rst") for _ in range(2)),
    # Refused temporarily.
    *(refused(status) for status in (408, 425, 429, 500, 502, 503, 504, 529)),
    *(refused(status, after) for status in (429, 503) for after in (lambda: "0", lambda: "1")),
    *(refused(status, in_two_seconds) for status in (429, 503)),
    refused(503, lambda: "soon"),
]


class Chaos:
    """Plays the acts in a random order, then the remaining events, then 204."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._acts = self._random.sample(ACTS, len(ACTS))

    def __call__(self, index: int, request: Request) -> Play:
        after = int(request.get("Last-Event-ID") or 0)
        if index < len(self._acts):
            return self._acts[index](self._random, log(after, self._random.randint(3, 10)))
        if after < EVENTS:
            return served("chunked")(self._random, log(after, EVENTS))
        return Play(204, fields=())


def log(after: int, count: int) -> bytes:
    """Return a stream of the `count` events that follow `after`; some have a byte order mark."""
    first = BOM if after % 2 else b"event: none\n\n"
    last = min(EVENTS, after + count)
    return first + b"".join(event(number) for number in range(after + 1, last + 1))


def test_acts_leave_events_for_every_connection() -> None:
    assert len(ACTS) + 2 == CONNECTIONS
    # There are enough events, so that every act has some left to send.
    assert 10 * sum(act(Random(0), log(0, 10)).status == 200 for act in ACTS) <= EVENTS


def check(way: Way, by_callback: bool) -> None:
    seen: list[Any] = []
    errors: list[Exception] = []

    async def use(source: Any) -> EndReason:
        if by_callback:
            reason = await source.run(seen.append)
            assert reason is source.end_reason
        else:
            async for each in source:
                seen.append(each)
        assert source.ready_state is ReadyState.CLOSED
        assert source.last_event_id == str(EVENTS)
        return source.end_reason

    with serve_stage(Chaos(seed=1)) as stage:
        reason = way.use(
            use, stage.url, policy=POLICY, idle_timeout=IDLE, on_error=errors.append, limit=30.0
        )
    assert [each.data for each in seen] == [text(number) for number in range(1, EVENTS + 1)]
    assert [each.id for each in seen] == [str(number) for number in range(1, EVENTS + 1)]
    assert reason is EndReason.NO_CONTENT
    # There are more timeouts only where a busy machine was slower than `IDLE`.
    late = sum(isinstance(error, StreamTimeout) for error in errors) - SILENT
    assert late >= 0
    assert CONNECTIONS <= len(stage.requests) <= CONNECTIONS + late
    # One connection at a time: the previous one is closed or reused.
    assert {request.playing for request in stage.requests} == {0}
    assert {request.open for request in stage.requests} == {0}
    # Most connections failed.
    assert len(errors) > CONNECTIONS / 2


@pytest.mark.soak
@OURS_OR_OTHERS
def test_chaos_delivers_every_event_once_in_order(ways: list[Way]) -> None:
    # Four at a time: a client that is short of CPU time would take the server for quiet.
    check_together(partial(check, by_callback=False), ways, at_once=4)


@pytest.mark.soak
@BY_US
def test_chaos_delivers_every_event_once_to_on_message(way: Way) -> None:
    check(way, by_callback=True)
