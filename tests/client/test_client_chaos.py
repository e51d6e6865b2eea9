"""A server that does everything wrong, over 60 connections, and a consumer that notices nothing:
every event once, in order.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from sse_fast import EndReason, ReadyState, ReconnectPolicy, StreamTimeout
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import SOURCES, Way, check_concurrently
from tests.support.scripted_server import Play, Request, in_two_seconds, serve_stage

pytestmark = UNREAD_UNDER_TRIO

EVENTS = 500
CONNECTIONS = 60
SILENT = 4  # of the acts
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
    """Ids that begin with one another, so that half an id is one, too; text of several bytes."""
    return f"id: {number}\ndata: {text(number)}\n\n".encode()


def text(number: int) -> str:
    return f"{number} é日🚀"


# -- What may happen: each is a function of the bytes that follow the Last-Event-ID ----------------

Act = Callable[[Random, bytes], Play]


def served(framing: Any = "close", end: Any = "fin", **options: Any) -> Act:
    """All of it arrives, in pieces of any size."""

    def act(random: Random, rest: bytes) -> Play:
        return Play(body=pieces(random, rest), framing=framing, end=end, delay=0.3, **options)

    return act


def cut(framing: Any = "close", end: Any = "fin", behind: bytes = b"") -> Act:
    """It breaks off somewhere, or right behind the last occurrence of those bytes."""

    def act(random: Random, rest: bytes) -> Play:
        at = rest.rindex(behind) + len(behind) if behind else random.randrange(1, len(rest))
        return Play(body=pieces(random, rest[:at]), framing=framing, end=end, delay=0.3)

    return act


def answered(body: bytes = b"", **options: Any) -> Act:
    """None of it comes."""
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
    # Ends in good order, and those that look like one.
    *(served(framing) for framing in ("close", "chunked", "length")),
    *(served(framing, keep_alive=True) for framing in ("chunked", "length")),
    *(answered(framing=framing) for framing in ("close", "chunked", "length")),
    answered(b": nothing\n\n:\n" * 20),
    answered(BOM),
    answered(b"retry: 1\n\n"),
    # Killed: between two events, or wherever.
    *(served("chunked-truncated", end) for end in ("fin", "rst")),
    *(served("length-short", end) for end in ("fin", "rst")),
    *(cut(framing) for framing in ("close", "chunked", "length") for _ in range(2)),
    *(cut(framing, "rst") for framing in ("close", "chunked", "length-short") for _ in range(2)),
    cut("chunked-truncated"),
    # Within a line, a UTF-8 sequence, an id that is the beginning of another.
    cut(behind=b"id: 1"),
    cut(behind=b"id"),
    cut("chunked-truncated", behind=b"data: "),
    cut("chunked", behind="é日🚀".encode()[:-1]),
    cut("chunked", behind="é日🚀".encode()[:3]),
    cut("length-short", behind="é日🚀".encode()),
    cut("chunked", behind="é日🚀\n".encode()),
    # Silent: before the first byte, before the first event, within an event, between two.
    answered(framing="none", end="hang"),
    answered(b": nothing\n\n", framing="chunked", end="hang"),
    cut("chunked", "hang"),
    served("length-short", "hang"),
    # Gone before there was an answer.
    *(answered(framing="none", end=end) for end in ("fin", "rst") for _ in range(2)),
    # Refused for now.
    *(refused(status) for status in (408, 425, 429, 500, 502, 503, 504, 529)),
    *(refused(status, after) for status in (429, 503) for after in (lambda: "0", lambda: "1")),
    *(refused(status, in_two_seconds) for status in (429, 503)),
    refused(503, lambda: "soon"),
]


class Chaos:
    """Plays the acts in a random order; then what is left, until nothing is."""

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
    """Some of them begin with a byte order mark, as each connection is a stream of its own."""
    first = BOM if after % 2 else b"event: none\n\n"
    last = min(EVENTS, after + count)
    return first + b"".join(event(number) for number in range(after + 1, last + 1))


def test_the_plan() -> None:
    assert len(ACTS) + 2 == CONNECTIONS
    # So that no act comes when all is served.
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
    # More only where a busy machine was itself as quiet as the silent acts.
    late = sum(isinstance(error, StreamTimeout) for error in errors) - SILENT
    assert late >= 0
    assert CONNECTIONS <= len(stage.requests) <= CONNECTIONS + late
    # One at a time: the one before is closed, or is the same.
    assert {request.playing for request in stage.requests} == {0}
    assert {request.open for request in stage.requests} == {0}
    # Most of it went wrong.
    assert len(errors) > CONNECTIONS / 2


def check_iteration(way: Way) -> None:
    check(way, by_callback=False)


def test_every_event_once_and_in_order(way: Way) -> None:
    # Not all at once: a client that is short of time would take the server for quiet.
    check_concurrently(check_iteration, way, 4)


@pytest.mark.parametrize("name", ["sse_fast", "sse_fast asyncio"])
def test_every_event_once_and_in_order_through_a_callback(name: str) -> None:
    check(SOURCES[name], by_callback=True)
