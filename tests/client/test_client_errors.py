"""`on_error` gets every failure and decides what follows, as do RetriableError and FatalError."""

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
    COMMENT_THEN_EVENT,
    DELAY,
    NEVER_ASYNC,
    SLACK,
    SYNC_AND_ASYNC,
    CallbackError,
    CallbackStyle,
    RaiseOnce,
    Recorder,
    run,
)
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream
from tests.support.server import nobody
from tests.support.threaded_reader import NO_DELAY, STREAM_B

pytestmark = UNREAD_UNDER_TRIO


IDLE_TIMEOUT = 0.3  # seconds

# -- Every failure ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """An answer or a callback that fails, the error, and whether the policy tries again."""

    error: type[Exception]
    play: Play = field(default_factory=stream)
    is_retried: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    raised_by: str = ""


FAILURES = {
    "503": Failure(ResponseError, Play(503, ()), is_retried=True),
    "404": Failure(ResponseError, Play(404, ())),
    "type": Failure(ResponseError, Play(200, [("Content-Type", "text/plain")])),
    "no response": Failure(TransportError, Play(framing="none"), is_retried=True),
    "reset before the head": Failure(
        TransportError, Play(framing="none", end="rst"), is_retried=True
    ),
    "truncated body": Failure(TransportError, stream(framing="chunked-truncated"), is_retried=True),
    "reset within the body": Failure(TransportError, stream(end="rst", delay=20), is_retried=True),
    "unfinished event": Failure(StreamIncomplete, stream(b"data: a\n\ndata: b\n"), is_retried=True),
    "until": Failure(StreamIncomplete, is_retried=True, options={"until": "b"}),
    "idle stream": Failure(
        StreamTimeout, stream(end="hang"), is_retried=True, options={"idle_timeout": IDLE_TIMEOUT}
    ),
    "idle before the head": Failure(
        StreamTimeout,
        Play(framing="none", end="hang"),
        is_retried=True,
        options={"idle_timeout": IDLE_TIMEOUT},
    ),
    "decode": Failure(DecodeError, stream(b"data: {\n\n"), options={"decode": json.loads}),
    "size": Failure(EventTooLarge, stream(b"data: " + b"a" * 99), options={"max_event_size": 50}),
    "on_open": Failure(CallbackError, raised_by="on_open"),
    "on_message": Failure(CallbackError, raised_by="on_message"),
    "on_close": Failure(CallbackError, raised_by="on_close"),
    "on_comment": Failure(CallbackError, stream(COMMENT_THEN_EVENT), raised_by="on_comment"),
    "on_chunk": Failure(CallbackError, raised_by="on_chunk"),
    "headers": Failure(CallbackError, Play(503, ()), raised_by="headers"),
}


def prepare_failure(
    style: CallbackStyle,
    failure: Failure,
    stage: Stage,
    recorder: Recorder,
    error: Exception | None = None,
) -> dict[str, Any]:
    """Set up the server, and return the options of a run that fails once and then gets event "b".

    A callback that fails raises `error`.
    """
    data = b"2" if failure.options.get("decode") is json.loads else b"b"
    stage.plays = [failure.play, stream(b"id: 2\ndata: " + data + b"\n\n")]
    options = dict(failure.options)
    if failure.raised_by == "headers":
        # It fails before there is any request, so the first request is the good one.
        stage.plays = stage.plays[1:]
    if failure.raised_by:
        then = recorder.on_message if failure.raised_by == "on_message" else lambda *args: None
        if failure.raised_by == "headers":
            then = dict
        raising: Callable[..., Any] = RaiseOnce(error or CallbackError("the first time"), then)
        if failure.raised_by not in NEVER_ASYNC:
            raising = style(raising)
        options[failure.raised_by] = raising
    return options


def count_requests(failure: Failure, attempts: int) -> int:
    """Return how many requests that many attempts make."""
    return attempts - (failure.raised_by == "headers")


@pytest.mark.parametrize("style", SYNC_AND_ASYNC, ids=str)
@pytest.mark.parametrize("name", FAILURES)
def test_on_error_gets_every_failure(style: CallbackStyle, stage: Stage, name: str) -> None:
    """The policy decides what follows if it returns nothing."""
    failure = FAILURES[name]
    recorder = Recorder()
    run(style, stage.url, recorder, **prepare_failure(style, failure, stage, recorder))
    assert [type(error) for error in recorder.errors[:1]] == [failure.error]
    if failure.is_retried:
        assert recorder.error is None
        # A stream that ends by `until` is not requested again, nor is its last event delivered.
        assert recorder.data[-1:] == (["a"] if name == "until" else ["b"])
        assert len(stage.requests) == (2 if name == "until" else 3)
    else:
        assert recorder.error is recorder.errors[0]
        assert recorder.errors == [recorder.error]
        assert len(stage.requests) == count_requests(failure, 1)
        assert "b" not in recorder.data


@pytest.mark.parametrize("style", SYNC_AND_ASYNC, ids=str)
def test_on_error_gets_the_error_that_would_be_raised(style: CallbackStyle, stage: Stage) -> None:
    """A POST that was cut off is not repeated: that is the error, the broken body its cause."""
    stage.plays = [stream(framing="chunked-truncated"), STREAM_B]
    recorder = Recorder()
    run(style, stage.url, recorder, method="POST", data=b"body")
    assert isinstance(recorder.error, StreamIncomplete)
    assert isinstance(recorder.error.__cause__, TransportError)
    assert recorder.errors == [recorder.error]


@pytest.mark.parametrize(
    ("style", "method"),
    [(SYNC_AND_ASYNC[0], "GET"), (SYNC_AND_ASYNC[1], "POST")],
    ids=["sync GET", "asyncio POST"],
)
@pytest.mark.parametrize("name", FAILURES)
def test_on_error_number_retries_after_that_delay(
    style: CallbackStyle, stage: Stage, name: str, method: str
) -> None:
    """The program asked for it, so even a POST is sent again."""
    failure = FAILURES[name]
    recorder = Recorder()

    def on_error(error: Exception) -> float:
        recorder.errors.append(error)
        times.append(time.monotonic())
        return DELAY

    times: list[float] = []
    body = {"method": "POST", "data": b"body"} if method == "POST" else {}
    options = prepare_failure(style, failure, stage, recorder)
    run(style, stage.url, recorder, on_error=style(on_error), **options, **body)
    assert recorder.error is None
    assert len(recorder.errors) == 1
    # A POST that was cut off would not be sent again, which is an error of its own.
    assert isinstance(recorder.errors[0], (failure.error, StreamIncomplete))
    last = {"until": "a", "decode": 2}.get(name, "b")
    assert recorder.data[-1:] == [last]
    second = stage.requests[count_requests(failure, 2) - 1]
    assert DELAY - SLACK < second.arrived - times[0] < DELAY + 1
    assert (second.method, second.body) == (method, b"body" if body else b"")


@pytest.mark.parametrize("style", SYNC_AND_ASYNC, ids=str)
@pytest.mark.parametrize("name", FAILURES)
def test_on_error_raising_ends_the_run(style: CallbackStyle, stage: Stage, name: str) -> None:
    failure = FAILURES[name]
    recorder = Recorder()
    stop = FatalError("enough")

    def on_error(error: Exception) -> None:
        recorder.errors.append(error)
        raise stop

    options = prepare_failure(style, failure, stage, recorder)
    run(style, stage.url, recorder, on_error=style(on_error), **options)
    assert recorder.error is stop
    assert len(recorder.errors) == 1
    assert len(stage.requests) == count_requests(failure, 1)


@pytest.mark.parametrize("style", SYNC_AND_ASYNC, ids=str)
def test_on_error_overrides_initial_attempts(style: CallbackStyle) -> None:
    """The policy limits the attempts at a first response, but not those that on_error asks for."""
    with nobody() as url:
        recorder = Recorder()
        run(style, url, recorder)
        assert [type(error) for error in recorder.errors] == [TransportError] * 3
        assert recorder.error is recorder.errors[-1]
        assert isinstance(recorder.error, TransportError)
        assert (recorder.error.phase, recorder.error.sent) == ("connect", False)

        times: list[float] = []

        def on_error(error: Exception) -> float | None:
            times.append(time.monotonic())
            return DELAY if len(times) < 6 else None

        run(style, url, recorder, on_error=style(on_error))
        assert len(times) == 6
        waits = [after - before for before, after in pairwise(times)]
        assert all(DELAY - SLACK < wait < DELAY + 1 for wait in waits), waits


@pytest.mark.parametrize("style", SYNC_AND_ASYNC, ids=str)
@pytest.mark.parametrize("answer", [0, 0.0, 0.05])
def test_on_error_number_is_raised_to_min_delay(
    style: CallbackStyle, stage: Stage, answer: float
) -> None:
    stage.plays = [Play(404, ()), STREAM_B]
    recorder = Recorder()
    policy = replace(NO_DELAY, min_delay=DELAY)
    run(style, stage.url, recorder, on_error=style(lambda error: answer), policy=policy)
    assert recorder.data == ["b"]
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
def test_on_error_wrong_result_raises(
    style: CallbackStyle, stage: Stage, answer: Any, kind: type[Exception]
) -> None:
    stage.plays = [Play(503, ()), STREAM_B]
    recorder = Recorder()
    run(style, stage.url, recorder, on_error=style(lambda error: answer))
    assert type(recorder.error) is kind
    assert "on_error" in str(recorder.error)
    assert len(stage.requests) == 1


def test_on_error_renews_an_expired_token_once(style: CallbackStyle, stage: Stage) -> None:
    """After a 401, on_error gets a new token once; a second 401 is final."""
    token = ["old"]

    def on_error(error: Exception) -> float | None:
        assert isinstance(error, ResponseError)
        if token == ["new"]:
            return None
        token[:] = ["new"]
        return 0

    for plays, expected in (([Play(401, ()), STREAM_B], ["b"]), ([Play(401, ())] * 3, [])):
        stage.requests.clear()
        token[:] = ["old"]
        stage.plays = plays
        recorder = Recorder()
        run(
            style,
            stage.url,
            recorder,
            headers=style(lambda: {"Authorization": token[0]}),
            on_error=style(on_error),
            until=lambda event: True,
        )
        assert recorder.data == expected
        sent = [request.get("Authorization") for request in stage.requests]
        assert sent == [b"old", b"new"]
        assert isinstance(recorder.error, ResponseError) is (expected == [])


# -- RetriableError and FatalError -----------------------------------------------------------------


RAISING = ["on_open", "on_message", "on_close", "on_comment", "on_chunk", "headers"]


@pytest.mark.parametrize("style", SYNC_AND_ASYNC, ids=str)
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("name", RAISING)
def test_retriable_error_sends_again_after_its_delay(
    style: CallbackStyle, stage: Stage, name: str, method: str
) -> None:
    """Every callback may raise the error; the request is repeated after its delay, even a POST."""
    failure = replace(FAILURES[name], error=RetriableError)
    recorder = Recorder()
    error = RetriableError("again", delay=DELAY)
    options = prepare_failure(style, failure, stage, recorder, error)
    body = {"method": "POST", "data": b"body"} if method == "POST" else {}
    began = time.monotonic()
    run(style, stage.url, recorder, **options, **body)
    assert recorder.error is None
    assert recorder.end is (EndReason.END if body else EndReason.NO_CONTENT)
    assert recorder.errors == [error]
    assert recorder.data[-1] == "b"
    second = stage.requests[count_requests(failure, 2) - 1]
    assert (second.method, second.body) == (method, b"body" if body else b"")
    if name == "headers":
        assert second.arrived - began > DELAY - SLACK
    else:
        assert second.waited is not None
        # The first answer may have ended before the error was raised.
        assert DELAY - SLACK < second.waited < DELAY + 1


@pytest.mark.parametrize("status", [200, 204, 404, 429])
def test_retriable_error_of_on_open_overrides_status(
    style: CallbackStyle, stage: Stage, status: int
) -> None:
    stage.plays = [Play(status, [EVENT_STREAM], framing="length"), STREAM_B]
    recorder = Recorder()
    on_open = RaiseOnce(RetriableError(delay=0))
    run(style, stage.url, recorder, on_open=style(on_open), method="POST", data=b"body")
    assert recorder.error is None
    assert recorder.data == ["b"]
    assert recorder.end is EndReason.END
    assert [request.body for request in stage.requests] == [b"body"] * 2


def test_retriable_error_of_on_open_heeds_retry_after(style: CallbackStyle, stage: Stage) -> None:
    """The error has no delay of its own, and the refusal that it hides has one."""
    stage.plays = [Play(503, [("Retry-After", "1")], framing="length"), STREAM_B]
    recorder = Recorder()
    run(style, stage.url, recorder, on_open=style(RaiseOnce(RetriableError())))
    assert recorder.data == ["b"]
    waited = stage.requests[1].waited
    assert waited is not None
    assert waited > 1 - SLACK


def test_retriable_error_without_delay_waits_for_retry(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [stream(b"retry: 60\nid: 1\ndata: a\n\n"), STREAM_B]
    recorder = Recorder()
    run(
        style,
        stage.url,
        recorder,
        on_message=style(RaiseOnce(RetriableError(), recorder.on_message)),
    )
    assert recorder.data == ["b"]
    waited = stage.requests[1].waited
    assert waited is not None
    assert DELAY - SLACK < waited < DELAY + 1


@pytest.mark.parametrize("style", SYNC_AND_ASYNC, ids=str)
@pytest.mark.parametrize("error", [FatalError("no"), ValueError("no"), TransportError("no")])
@pytest.mark.parametrize("name", RAISING)
def test_other_callback_errors_are_raised_unchanged(
    style: CallbackStyle, stage: Stage, name: str, error: Exception
) -> None:
    """on_error sees them first; even a TransportError of a callback is not retried."""
    failure = FAILURES[name]
    error = type(error)(*error.args)
    recorder = Recorder()
    run(style, stage.url, recorder, **prepare_failure(style, failure, stage, recorder, error))
    assert recorder.error is error
    assert recorder.errors == [error]
    assert len(stage.requests) == count_requests(failure, 1)


def test_event_failed_by_on_message_is_sent_again(style: CallbackStyle, stage: Stage) -> None:
    """The event was not taken, so the next request resumes before it."""
    stage.plays = [stream(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\nid: 3\ndata: c\n\n"), STREAM_B]
    recorder = Recorder()

    def on_message(event: Any) -> None:
        if event.data == "b" and recorder.data == ["a"]:
            recorder.data.append("failed")
            raise RetriableError(delay=0)
        recorder.data.append(event.data)

    run(style, stage.url, recorder, on_message=style(on_message))
    assert recorder.data == ["a", "failed", "b"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1", b"2"]


@pytest.mark.parametrize("closed_by", ["on_message", "on_error"])
def test_retriable_error_after_close_ends_the_run(
    style: CallbackStyle, stage: Stage, closed_by: str
) -> None:
    """No request follows, and the run ends."""
    stage.plays = [stream(), STREAM_B]

    async def use(source: Any) -> EndReason:
        def on_message(event: Any) -> None:
            if closed_by == "on_message":
                source.close()
            raise RetriableError

        sources.append(source)
        reason = await source.run(style(on_message))
        return cast("EndReason", reason)

    def on_error(error: Exception) -> None:
        assert isinstance(error, RetriableError)
        sources[0].close()

    sources: list[Any] = []
    reason = style.way.use(use, stage.url, policy=NO_DELAY, on_error=style(on_error))
    assert reason is EndReason.CLOSED
    assert len(stage.requests) == 1


def test_run_resumes_after_on_message_raised(style: CallbackStyle, stage: Stage) -> None:
    """The exception that on_message raised is not final."""
    stage.plays = [stream(b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"), STREAM_B]

    async def use(source: Any) -> None:
        def on_message(event: Any) -> None:
            if event.data == "b" and data == ["a"]:
                data.append("failed")
                raise ValueError
            data.append(event.data)

        data: list[str] = []
        with pytest.raises(ValueError):
            await source.run(style(on_message))
        assert source.last_event_id == "1"
        assert source.end_reason is None
        assert await source.run(style(on_message)) is EndReason.NO_CONTENT
        assert data == ["a", "failed", "b"]
        assert await source.run(style(on_message)) is EndReason.NO_CONTENT

    style.way.use(use, stage.url, policy=NO_DELAY)
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1", b"2"]
