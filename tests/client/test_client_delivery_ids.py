"""The last event ID, the reconnection time and `until` over several connections."""

from __future__ import annotations

from typing import Any

import pytest

from sse_fast import EndReason, StreamIncomplete
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.delivery import NUMBERED, numbers, numbers_of, play_blocks
from tests.support.eventsources import BY_US, Way
from tests.support.scripted_server import Play, serve_stage, stream
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO


# -- Ids and reconnection times --------------------------------------------------------------------


@pytest.mark.parametrize("start", ["", "7", "日本 7"])
def test_last_event_id_option_is_sent_as_utf8(way: Way, start: str) -> None:
    body = [b"data: 1\n\nid: x\ndata: 2\n\nid:\ndata: 3\n\ndata: 4\n\n"]
    with serve_stage([Play(body=body)]) as stage:
        outcome = way.read(stage.url, last_event_id=start, policy=NO_DELAY)
    # The id is sent as UTF-8, which no library does by itself.
    assert stage.sent() == [start or None, None]
    assert [event.id for event in outcome.events] == [start, "x", "", ""]
    assert outcome.source.last_event_id == ""


@BY_US
def test_last_event_id_option_is_readable_before_open(way: Way) -> None:
    async def use(source: Any) -> str:
        return source.last_event_id

    assert way.use(use, "http://127.0.0.1:1/", last_event_id="7") == "7"


@BY_US
def test_id_in_unfinished_block_is_discarded(way: Way) -> None:
    for end in [b"id: 2", b"id: 2\n", b"id: 2\ndata: b", b"id: 2\ndata: b\n", b"id: 2\r"]:
        with serve_stage([Play(body=[b"id: 1\ndata: a\n\n" + end])]) as stage:
            outcome = way.read(stage.url, policy=NO_DELAY)
        assert [event.data for event in outcome.events] == ["a"]
        assert stage.sent() == [None, "1"]


@BY_US
def test_only_id_and_retry_survive_a_connection(way: Way) -> None:
    bom = "\N{BOM}".encode()
    rest = "data: é".encode()
    plays = [
        # A byte order mark is skipped on each connection, even if it is split over chunks.
        Play(body=[bom + b"retry: 20\nid: 1\ndata: a\n\nevent: lost\ndata: lost\n"]),
        Play(body=[bom[:1], bom[1:] + b"data: b\n\ndata: lo"], delay=20),
        # The body ends with the first byte of a byte order mark.
        Play(body=[b"st\n\ndata: c\n\n" + rest[:-1]]),
        Play(body=[rest[-1:] + b"\n\ndata: d\n\ndata: e\r"]),
        # The LF is not the second half of a CRLF.
        Play(body=[b"\ndata: f\n\n" + bom[:2]]),
        Play(body=[bom[2:] + b"data: g\n\n: a comm"]),
        Play(body=[b"data: h\n\nretry: 30"]),
    ]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    # There is no event g: the name of its field begins with the last byte of a mark.
    assert outcome.plain == [("message", each, "1") for each in "abcdfh"]
    assert stage.sent() == [None, *["1"] * 7]
    assert outcome.source.retry == 20
    for request in stage.requests[1:]:
        assert request.waited is not None
        assert request.waited > 0.018


@BY_US
def test_retry_counts_from_its_line_on(way: Way) -> None:
    """A retry counts in an unfinished block, and before an event is taken (HTML 9.2.6)."""

    async def use(source: Any) -> int:
        async for _ in source:
            return source.retry
        raise AssertionError

    with serve_stage([Play(body=[b"retry: 40\ndata: lost"]), Play(body=[b"data: a\n\n"])]) as stage:
        assert way.use(use, stage.url, policy=NO_DELAY) == 40
    assert stage.requests[1].waited is not None
    assert stage.requests[1].waited > 0.038


# -- until -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("until", ["3", lambda event: event.data == "3"], ids=["text", "predicate"])
def test_until_ends_the_source(way: Way, until: Any) -> None:
    """All events up to there are taken."""
    for in_many_chunks in [False, True]:
        with serve_stage([play_blocks(NUMBERED, in_many_chunks)]) as stage:
            outcome = way.read(stage.url, until=until, policy=NO_DELAY)
        assert numbers_of(outcome.events) == ([1, 2] if until == "3" else [1, 2, 3])
        assert outcome.source.end_reason is EndReason.UNTIL
        assert outcome.source.last_event_id == "3"
        assert len(stage.requests) == 1


@BY_US
def test_loop_left_before_until_is_closed(way: Way) -> None:
    for until in ["3", lambda event: event.data == "2"]:
        with serve_stage([play_blocks(NUMBERED)]) as stage:
            outcome = way.read(stage.url, until=until, stop_after=2)
        assert outcome.source.end_reason is EndReason.CLOSED
        assert outcome.source.last_event_id == "1"


@BY_US
def test_until_may_be_met_on_a_later_connection(way: Way) -> None:
    plays = [play_blocks(NUMBERED[:2], end="fin"), play_blocks(NUMBERED[2:])]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, until="5", policy=NO_DELAY)
    assert numbers_of(outcome.events) == numbers(1, 4)
    assert stage.sent() == [None, "2"]
    assert outcome.source.end_reason is EndReason.UNTIL


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("last", [b"event: end\nid: 9\n\n", b"event: end\nid: 9\ndata: x\n\n"])
@pytest.mark.parametrize("types", ["end", ("other", "end")])
def test_until_event_ends_the_source(way: Way, method: str, last: bytes, types: Any) -> None:
    """A block without data meets it, too; its id counts, and the server is not asked again."""
    with serve_stage([Play(body=[b"data: 1\n\n" + last])] * 2) as stage:
        outcome = way.read(stage.url, method=method, until_event=types, policy=NO_DELAY)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == (["1", "x"] if b"data" in last else ["1"])
    assert outcome.source.end_reason is EndReason.UNTIL
    assert outcome.source.last_event_id == "9"
    assert len(stage.requests) == 1


@BY_US
def test_end_before_until_event_is_cut_off(way: Way) -> None:
    plays = [stream(b"event: e\ndata: 1\n\n"), stream(b"event: end\n\n")]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, until_event="end", policy=NO_DELAY)
        assert outcome.source.end_reason is EndReason.UNTIL
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, method="POST", until_event="end", policy=NO_DELAY)
    assert isinstance(outcome.error, StreamIncomplete)
    assert "until_event" in str(outcome.error)
    assert len(stage.requests) == 1
