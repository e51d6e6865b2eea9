"""`on_error` sees every failure and decides; RetriableError and FatalError decide, too."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, cast

import pytest

from sse_fast import (
    DecodeError,
    EndReason,
    EventTooLarge,
    FatalError,
    ResponseError,
    RetriableError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
)
from tests.support.callback_styles import (
    COMMENTED,
    DELAY,
    FAST,
    NEVER_ASYNC,
    SLACK,
    SOME,
    B,
    Manner,
    MyError,
    Once,
    Seen,
    run,
)
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream
from tests.support.server import nobody

pytestmark = UNREAD_UNDER_TRIO


# -- on_error: every failure -----------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """One answer, or one callback, that goes wrong; and what comes of it."""

    error: type[Exception]
    play: Play = field(default_factory=stream)
    again: bool = False  # whether the policy asks again
    options: dict[str, Any] = field(default_factory=dict)
    raised_by: str = ""


FAILURES = {
    "503": Failure(ResponseError, Play(503, ()), again=True),
    "404": Failure(ResponseError, Play(404, ())),
    "type": Failure(ResponseError, Play(200, [("Content-Type", "text/plain")])),
    "no head": Failure(TransportError, Play(framing="none"), again=True),
    "reset head": Failure(TransportError, Play(framing="none", end="rst"), again=True),
    "cut off": Failure(TransportError, stream(framing="chunked-truncated"), again=True),
    "reset": Failure(TransportError, stream(end="rst", delay=20), again=True),
    "pending": Failure(StreamIncomplete, stream(b"data: a\n\ndata: b\n"), again=True),
    "until": Failure(StreamIncomplete, again=True, options={"until": "b"}),
    "idle": Failure(StreamTimeout, stream(end="hang"), again=True, options={"idle_timeout": 0.5}),
    "idle head": Failure(
        StreamTimeout,
        Play(framing="none", end="hang"),
        again=True,
        options={"idle_timeout": 0.5},
    ),
    "decode": Failure(DecodeError, stream(b"data: {\n\n"), options={"decode": json.loads}),
    "size": Failure(EventTooLarge, stream(b"data: " + b"a" * 99), options={"max_event_size": 50}),
    "on_open": Failure(MyError, raised_by="on_open"),
    "on_message": Failure(MyError, raised_by="on_message"),
    "on_close": Failure(MyError, raised_by="on_close"),
    "on_comment": Failure(MyError, stream(COMMENTED), raised_by="on_comment"),
    "on_chunk": Failure(MyError, raised_by="on_chunk"),
    "headers": Failure(MyError, Play(503, ()), raised_by="headers"),
}


def failing(
    manner: Manner, failure: Failure, stage: Stage, seen: Seen, error: Exception | None = None
) -> dict[str, Any]:
    """What to run so that it fails once; afterwards comes the event "b"."""
    data = b"2" if failure.options.get("decode") is json.loads else b"b"
    stage.plays = [failure.play, stream(b"id: 2\ndata: " + data + b"\n\n")]
    options = dict(failure.options)
    if failure.raised_by == "headers":
        # Before there is any request; the first is to be the good one.
        stage.plays = stage.plays[1:]
    if failure.raised_by:
        then = seen.on_message if failure.raised_by == "on_message" else lambda *args: None
        if failure.raised_by == "headers":
            then = dict
        raising: Callable[..., Any] = Once(error or MyError("once"), then)
        if failure.raised_by not in NEVER_ASYNC:
            raising = manner(raising)
        options[failure.raised_by] = raising
    return options


def attempts(failure: Failure, count: int) -> int:
    """The requests that so many attempts come to."""
    return count - (failure.raised_by == "headers")


@pytest.mark.parametrize("manner", SOME, ids=str)
@pytest.mark.parametrize("name", FAILURES)
def test_on_error_sees_every_failure(manner: Manner, stage: Stage, name: str) -> None:
    """And takes the policy's verdict by returning nothing."""
    failure = FAILURES[name]
    seen = Seen()
    run(manner, stage.url, seen, **failing(manner, failure, stage, seen))
    assert [type(error) for error in seen.errors[:1]] == [failure.error]
    if failure.again:
        assert seen.error is None
        # One that ends by `until` is not asked for again, and the last is not delivered.
        assert seen.data[-1:] == (["a"] if name == "until" else ["b"])
        assert len(stage.requests) == (2 if name == "until" else 3)
    else:
        assert seen.error is seen.errors[0]
        assert seen.errors == [seen.error]
        assert len(stage.requests) == attempts(failure, 1)
        assert "b" not in seen.data


@pytest.mark.parametrize(
    ("manner", "method"), [(SOME[0], "GET"), (SOME[1], "POST")], ids=["sync GET", "asyncio POST"]
)
@pytest.mark.parametrize("name", FAILURES)
def test_a_number_asks_again(manner: Manner, stage: Stage, name: str, method: str) -> None:
    """After so many seconds, and whatever the method: the program wants it."""
    failure = FAILURES[name]
    seen = Seen()

    def on_error(error: Exception) -> float:
        seen.errors.append(error)
        times.append(time.monotonic())
        return DELAY

    times: list[float] = []
    body = {"method": "POST", "data": b"body"} if method == "POST" else {}
    options = failing(manner, failure, stage, seen)
    run(manner, stage.url, seen, on_error=manner(on_error), **options, **body)
    assert seen.error is None
    assert len(seen.errors) == 1
    # A POST that was cut off is to be given up, which is another error.
    assert isinstance(seen.errors[0], (failure.error, StreamIncomplete))
    last = {"until": "a", "decode": 2}.get(name, "b")
    assert seen.data[-1:] == [last]
    second = stage.requests[attempts(failure, 2) - 1]
    assert DELAY - SLACK < second.arrived - times[0] < DELAY + 1
    assert (second.method, second.body) == (method, b"body" if body else b"")


@pytest.mark.parametrize("manner", SOME, ids=str)
@pytest.mark.parametrize("name", FAILURES)
def test_raising_ends_it(manner: Manner, stage: Stage, name: str) -> None:
    failure = FAILURES[name]
    seen = Seen()
    stop = FatalError("enough")

    def on_error(error: Exception) -> None:
        seen.errors.append(error)
        raise stop

    options = failing(manner, failure, stage, seen)
    run(manner, stage.url, seen, on_error=manner(on_error), **options)
    assert seen.error is stop
    assert len(seen.errors) == 1
    assert len(stage.requests) == attempts(failure, 1)


@pytest.mark.parametrize("manner", SOME, ids=str)
def test_nobody_listens(manner: Manner) -> None:
    """A refused connection: it is asked for the first response as often as the policy has it."""
    with nobody() as url:
        seen = Seen()
        run(manner, url, seen)
        assert [type(error) for error in seen.errors] == [TransportError] * 3
        assert seen.error is seen.errors[-1]
        assert isinstance(seen.error, TransportError)
        assert (seen.error.phase, seen.error.sent) == ("connect", False)

        times: list[float] = []

        def on_error(error: Exception) -> float | None:
            times.append(time.monotonic())
            return DELAY if len(times) < 6 else None

        run(manner, url, seen, on_error=manner(on_error))
        # The limit is the policy's, not that of the program.
        assert len(times) == 6
        waits = [after - before for before, after in pairwise(times)]
        assert all(DELAY - SLACK < wait < DELAY + 1 for wait in waits), waits


@pytest.mark.parametrize("manner", SOME, ids=str)
@pytest.mark.parametrize("answer", [0, 0.0, 0.05])
def test_a_number_is_no_less_than_the_shortest_wait(
    manner: Manner, stage: Stage, answer: float
) -> None:
    stage.plays = [Play(404, ()), B]
    seen = Seen()
    policy = replace(FAST, min_delay=DELAY)
    run(manner, stage.url, seen, on_error=manner(lambda error: answer), policy=policy)
    assert seen.data == ["b"]
    waited = stage.requests[1].waited
    assert waited is not None
    assert DELAY - SLACK < waited < DELAY + 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("1", TypeError),
        (True, TypeError),
        (False, TypeError),
        ([], TypeError),
        (b"", TypeError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
    ],
    ids=repr,
)
def test_wrong_answers_are_errors(
    manner: Manner, stage: Stage, answer: Any, kind: type[Exception]
) -> None:
    stage.plays = [Play(503, ()), B]
    seen = Seen()
    run(manner, stage.url, seen, on_error=manner(lambda error: answer))
    assert type(seen.error) is kind
    assert "on_error" in str(seen.error)
    assert len(stage.requests) == 1


def test_a_token_that_has_expired(manner: Manner, stage: Stage) -> None:
    """One request that answers 401, or two, if on_error got a new token."""
    token = ["old"]

    def on_error(error: Exception) -> float | None:
        assert isinstance(error, ResponseError)
        if token == ["new"]:
            return None
        token[:] = ["new"]
        return 0

    for plays, data in (([Play(401, ()), B], ["b"]), ([Play(401, ())] * 3, [])):
        stage.requests.clear()
        token[:] = ["old"]
        stage.plays = plays
        seen = Seen()
        run(
            manner,
            stage.url,
            seen,
            headers=manner(lambda: {"Authorization": token[0]}),
            on_error=manner(on_error),
            until=lambda event: True,
        )
        assert seen.data == data
        sent = [request.get("Authorization") for request in stage.requests]
        assert sent == [b"old", b"new"]
        assert isinstance(seen.error, ResponseError) is (data == [])


# -- RetriableError and FatalError -----------------------------------------------------------------


RAISING = ["on_open", "on_message", "on_close", "on_comment", "on_chunk", "headers"]


@pytest.mark.parametrize("manner", SOME, ids=str)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", RAISING)
def test_retriable_asks_again(manner: Manner, stage: Stage, name: str, method: str) -> None:
    """From every callback, after the delay that it says, and whatever the method."""
    failure = replace(FAILURES[name], error=RetriableError)
    seen = Seen()
    error = RetriableError("once more", delay=DELAY)
    options = failing(manner, failure, stage, seen, error)
    body = {"method": "POST", "data": b"body"} if method == "POST" else {}
    began = time.monotonic()
    run(manner, stage.url, seen, **options, **body)
    assert seen.error is None
    assert seen.end is (EndReason.END if body else EndReason.NO_CONTENT)
    assert seen.errors == [error]
    assert seen.data[-1] == "b"
    second = stage.requests[attempts(failure, 2) - 1]
    assert (second.method, second.body) == (method, b"body" if body else b"")
    if name == "headers":
        assert second.arrived - began > DELAY - SLACK
    else:
        assert second.waited is not None
        # The first answer may have ended before the error was raised.
        assert DELAY - SLACK < second.waited < DELAY + 1


@pytest.mark.parametrize("status", [200, 204, 404, 429])
def test_retriable_at_any_response(manner: Manner, stage: Stage, status: int) -> None:
    stage.plays = [Play(status, [EVENT_STREAM], framing="length"), B]
    seen = Seen()
    on_open = Once(RetriableError(delay=0))
    run(manner, stage.url, seen, on_open=manner(on_open), method="POST", data=b"body")
    assert seen.error is None
    assert seen.data == ["b"]
    assert seen.end is EndReason.END
    assert [request.body for request in stage.requests] == [b"body"] * 2


def test_retriable_without_a_delay_waits_as_the_policy_says(manner: Manner, stage: Stage) -> None:
    stage.plays = [stream(b"retry: 60\nid: 1\ndata: a\n\n"), B]
    seen = Seen()
    run(
        manner,
        stage.url,
        seen,
        on_message=manner(Once(RetriableError(), seen.on_message)),
    )
    assert seen.data == ["b"]
    waited = stage.requests[1].waited
    assert waited is not None
    assert DELAY - SLACK < waited < DELAY + 1


@pytest.mark.parametrize("manner", SOME, ids=str)
@pytest.mark.parametrize("error", [FatalError("no"), ValueError("no"), TransportError("no")])
@pytest.mark.parametrize("name", RAISING)
def test_others_come_out_unchanged(
    manner: Manner, stage: Stage, name: str, error: Exception
) -> None:
    """Behind on_error; also those that would be asked again for if the network raised them."""
    failure = FAILURES[name]
    error = type(error)(*error.args)
    seen = Seen()
    run(manner, stage.url, seen, **failing(manner, failure, stage, seen, error))
    assert seen.error is error
    assert seen.errors == [error]
    assert len(stage.requests) == attempts(failure, 1)


def test_an_event_that_failed_comes_again(manner: Manner, stage: Stage) -> None:
    """It was not taken: the next request goes on before it."""
    stage.plays = [stream(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: c\n\n"), B]
    seen = Seen()

    def on_message(event: Any) -> None:
        if event.data == "b" and seen.data == ["a"]:
            seen.data.append("failed")
            raise RetriableError(delay=0)
        seen.data.append(event.data)

    run(manner, stage.url, seen, on_message=manner(on_message))
    assert seen.data == ["a", "failed", "b"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1", b"2"]


@pytest.mark.parametrize("by", ["on_message", "on_error"])
def test_retriable_of_a_source_that_was_closed(manner: Manner, stage: Stage, by: str) -> None:
    """Nothing is asked again, and the run comes to its end."""
    stage.plays = [stream(), B]

    async def use(source: Any) -> EndReason:
        def on_message(event: Any) -> None:
            if by == "on_message":
                source.close()
            raise RetriableError

        box.append(source)
        reason = await source.run(manner(on_message))
        return cast("EndReason", reason)

    def on_error(error: Exception) -> None:
        assert isinstance(error, RetriableError)
        box[0].close()

    box: list[Any] = []
    reason = manner.way.use(use, stage.url, policy=FAST, on_error=manner(on_error))
    assert reason is EndReason.CLOSED
    assert len(stage.requests) == 1


def test_a_run_can_be_taken_up_again(manner: Manner, stage: Stage) -> None:
    """After an exception of on_message that came out."""
    stage.plays = [stream(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), B]

    async def use(source: Any) -> None:
        def on_message(event: Any) -> None:
            if event.data == "b" and data == ["a"]:
                data.append("failed")
                raise ValueError
            data.append(event.data)

        data: list[str] = []
        with pytest.raises(ValueError):
            await source.run(manner(on_message))
        assert source.last_event_id == "1"
        assert source.end_reason is None
        assert await source.run(manner(on_message)) is EndReason.NO_CONTENT
        assert data == ["a", "failed", "b"]
        assert await source.run(manner(on_message)) is EndReason.NO_CONTENT

    manner.way.use(use, stage.url, policy=FAST)
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1", b"2"]
