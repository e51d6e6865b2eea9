"""Requests that are not sent again: after refusals, large events and long ids, and of a POST."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sse_fast import (
    EndReason,
    EventTooLarge,
    ReconnectPolicy,
    ResponseError,
    StreamIncomplete,
    TransportError,
)
from tests.support.callback_styles import Errors
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, Outcome, Way
from tests.support.scripted_server import Play, Stage, serve_stage, stream
from tests.support.server import nobody
from tests.support.threaded_reader import EVERY_ADAPTER, NO_DELAY

pytestmark = UNREAD_UNDER_TRIO

POST: dict[str, Any] = {"method": "POST", "data": b"x"}
EVENT = b"id: 1\ndata: a\n\n"


def statuses(*values: int) -> list[Play]:
    return [Play(value, fields=[("Content-Type", "text/plain")]) for value in values]


# -- Refusals, sizes and numbers of attempts -------------------------------------------------------


def test_401_is_final(way: Way) -> None:
    errors = Errors()
    with serve_stage(statuses(401)) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, on_error=errors)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == 401
    assert errors == [outcome.error]
    assert len(stage.requests) == 1
    assert outcome.source.end_reason is EndReason.ERROR


def read_renewing_token(way: Way, url: str, **options: Any) -> Outcome:
    """Read with a token that `on_error` renews once."""
    token = "old"

    def headers() -> dict[str, str]:
        return {"Authorization": f"Bearer {token}"}

    def on_error(error: Exception) -> int | None:
        nonlocal token
        expired = isinstance(error, ResponseError) and error.response.status == 401
        if not expired or token == "new":
            return None
        token = "new"
        return 0

    async def aheaders() -> dict[str, str]:
        await anyio.sleep(0)
        return headers()

    async def aon_error(error: Exception) -> int | None:
        await anyio.sleep(0)
        return on_error(error)

    if way.is_async:
        options.update(headers=aheaders, on_error=aon_error)
    else:
        options.update(headers=headers, on_error=on_error)
    return way.read(url, policy=NO_DELAY, **options)


def test_401_is_retried_once_with_a_new_token(way: Way) -> None:
    for method in [{}, POST]:
        with serve_stage([*statuses(401), Play(body=[EVENT, b"data: end\n\n"])]) as stage:
            outcome = read_renewing_token(way, stage.url, until="end", **method)
        assert [event.data for event in outcome.events] == ["a"]
        assert stage.sent("Authorization") == ["Bearer old", "Bearer new"]

        with serve_stage(statuses(401, 401)) as stage:
            outcome = read_renewing_token(way, stage.url, **method)
        assert isinstance(outcome.error, ResponseError)
        assert len(stage.requests) == 2


@BY_US
def test_401_while_reconnecting_keeps_the_id(way: Way) -> None:
    with serve_stage([Play(body=[EVENT]), *statuses(401)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    assert isinstance(outcome.error, ResponseError)
    assert stage.sent() == [None, "1"]
    assert outcome.source.last_event_id == "1"

    with serve_stage([Play(body=[EVENT]), *statuses(401), Play(body=[b"data: b\n\n"])]) as stage:
        outcome = read_renewing_token(way, stage.url, until=lambda event: event.data == "b")
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert stage.sent() == [None, "1", "1"]


def test_event_too_large_is_not_requested_again(way: Way) -> None:
    errors = Errors()
    large = b"id: 2\ndata: " + b"x" * 200 + b"\n\n"
    for body in [[EVENT + large], [EVENT, large]]:
        errors.clear()
        with serve_stage([Play(body=body, delay=3.0)]) as stage:
            outcome = way.read(stage.url, policy=NO_DELAY, max_event_size=100, on_error=errors)
        assert [event.data for event in outcome.events] == ["a"]
        assert isinstance(outcome.error, EventTooLarge)
        assert errors == [outcome.error]
        assert len(stage.requests) == 1
        assert outcome.source.last_event_id == "1"


@BY_US
def test_on_error_can_retry_too_large(way: Way) -> None:
    def on_error(error: Exception) -> int:
        assert isinstance(error, EventTooLarge)
        return 0

    plays = [Play(body=[EVENT + b"data: " + b"x" * 200]), Play(body=[b"data: b\n\n"])]
    with serve_stage(plays) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, max_event_size=100, on_error=on_error)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert stage.sent() == [None, "1", "1"]


@pytest.mark.parametrize("method", [{}, POST], ids=["GET", "POST"])
@EVERY_ADAPTER
def test_initial_attempts_limit_refused_connections(way: Way, method: dict[str, Any]) -> None:
    """A POST is tried again, too, as nothing of it was sent."""
    with nobody() as url:
        for attempts in [1, 3, 5]:
            errors = Errors()
            policy = ReconnectPolicy(initial_delay=0.0, min_delay=0.0, initial_attempts=attempts)
            outcome = way.read(url, policy=policy, on_error=errors, **method)
            assert outcome.error is errors[-1]
            assert len(errors) == attempts
            for error in errors:
                assert isinstance(error, TransportError)
                assert (error.phase, error.sent) == ("connect", False)
        assert ReconnectPolicy().initial_attempts == 3


@BY_US
def test_initial_attempts_limit_refusals_before_first_stream(way: Way) -> None:
    with serve_stage(statuses(503, 502, 429, 500)) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == 429
    assert len(stage.requests) == 3
    # After a first stream, there is no limit.
    with serve_stage([*statuses(503, 502), Play(), *statuses(*[500] * 9)]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY)
    assert outcome.error is None
    assert len(stage.requests) == 13


@BY_US
def test_max_attempts_counts_anew_after_a_marked_end(way: Way) -> None:
    """A stream without an event counts, and one that just ends, even if it brought some."""
    policy = ReconnectPolicy(end_delay=0.0, initial_delay=0.0, min_delay=0.0, max_attempts=2)
    event, empty = stream(EVENT), Play(body=[b": nothing\n\n"])
    unmarked = Play(body=[EVENT])
    with_retry = [Play(body=[b"retry: 0\nid: %d\ndata: a\n\n" % number]) for number in range(3)]
    for plays, count in [
        ([event, empty, event, empty, empty, event], 5),
        ([event, unmarked, event, unmarked, unmarked, event], 5),
        ([event, *with_retry, empty, empty, event], 6),
    ]:
        with serve_stage(plays) as stage:
            outcome = way.read(stage.url, policy=policy)
        assert outcome.error is None
        assert outcome.source.end_reason is EndReason.END
        assert len(stage.requests) == count


@BY_US
def test_whatwg_policy_has_no_initial_attempts(way: Way) -> None:
    def on_error(error: Exception) -> None:
        errors.append(error)
        if len(errors) == 20:
            raise KeyError

    errors: list[Exception] = []
    policy = ReconnectPolicy.whatwg(initial_delay=0.0, min_delay=0.0)
    with nobody() as url:
        outcome = way.read(url, policy=policy, on_error=on_error)
    assert isinstance(outcome.error, KeyError)


@BY_US
def test_id_over_max_id_size_ends_the_source(way: Way) -> None:
    def read(id: str, policy: ReconnectPolicy, start: str = "") -> tuple[Outcome, Stage]:
        body = f"id: {id}\ndata: a\n\n".encode()
        with serve_stage([Play(body=[body])]) as stage:
            return way.read(stage.url, policy=policy, last_event_id=start), stage

    small = ReconnectPolicy(initial_delay=0.0, min_delay=0.0, max_id_size=10)
    whatwg = ReconnectPolicy.whatwg(initial_delay=0.0, min_delay=0.0)
    # The size is counted in bytes of UTF-8.
    for policy, most in [(small, "é" * 5), (NO_DELAY, "x" * 8192)]:
        outcome, stage = read(most, policy)
        assert outcome.error is None
        assert stage.sent() == [None, most]

        outcome, stage = read(most + "y", policy)
        assert isinstance(outcome.error, StreamIncomplete)
        # The id may be a secret, so the error does not show it.
        assert most not in str(outcome.error)
        assert [event.data for event in outcome.events] == ["a"]
        assert len(stage.requests) == 1
        assert outcome.source.last_event_id == most + "y"

        outcome, stage = read("1", policy, start=most + "y")
        assert isinstance(outcome.error, StreamIncomplete)
        assert stage.requests == []

    outcome, stage = read("x" * 20_000, whatwg)
    assert outcome.error is None
    assert stage.sent() == [None, "x" * 20_000]


# -- A request that must not be sent twice ---------------------------------------------------------


@pytest.mark.parametrize("how", ["fin", "rst", "within an event"])
def test_truncated_post_is_sent_again_only_with_resend(way: Way, how: str) -> None:
    cut = Play(body=[EVENT, b"id: 2\ndata: b"], framing="chunked-truncated", delay=10.0)
    if how == "rst":
        cut.end = "rst"
    if how == "within an event":
        cut.framing = "chunked"
    with serve_stage([cut]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, **POST)
    assert isinstance(outcome.error, StreamIncomplete)
    assert isinstance(outcome.error.__cause__, TransportError) == (how != "within an event")
    assert [event.data for event in outcome.events] == ["a"]
    assert outcome.source.last_event_id == "1"
    assert len(stage.requests) == 1

    with serve_stage([cut]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, resend=True, **POST)
    assert outcome.error is None
    assert stage.sent() == [None, "1"]
    assert [(each.method, each.body) for each in stage.requests] == [("POST", b"x")] * 2


@BY_US
def test_post_ends_cleanly_without_another_request(way: Way) -> None:
    with serve_stage([Play(body=[EVENT])]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, **POST)
        assert outcome.source.end_reason is EndReason.END
        outcome = way.read(stage.url, policy=NO_DELAY)
        assert outcome.source.end_reason is EndReason.NO_CONTENT
    assert len(stage.requests) == 2

    with serve_stage([Play(body=[EVENT])]) as stage:
        outcome = way.read(stage.url, policy=NO_DELAY, until="end", **POST)
    assert isinstance(outcome.error, StreamIncomplete)
    assert len(stage.requests) == 1
