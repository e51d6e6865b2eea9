"""Callbacks, header fields per attempt, resumption, and what the two kinds of client agree in."""

from __future__ import annotations

import asyncio
import inspect
import io
import json
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any

import aiohttp
import anyio
import pytest
import requests
import urllib3
from clients import HTTPX, UNREAD_UNDER_TRIO
from eventsources import SOURCES, Way
from stage import EVENT_STREAM, Play, Stage, stream

import sse_fast
from sse_fast import (
    AsyncEventSource,
    DecodeError,
    EndReason,
    EventSource,
    EventTooLarge,
    FatalError,
    ReadyState,
    ReconnectPolicy,
    ResponseError,
    RetriableError,
    StreamIncomplete,
    StreamTimeout,
    TransportError,
)

pytestmark = UNREAD_UNDER_TRIO

FAST = ReconnectPolicy(initial_delay=0.0, min_delay=0.0)
DELAY = 0.06  # seconds that a callback asks for
SLACK = 0.02


@dataclass(frozen=True)
class Manner:
    """A kind of source, and whether its callbacks are async functions. The library is no matter."""

    way: Way
    awaited: bool

    def __str__(self) -> str:
        return f"{self.way.backend or 'sync'}{' awaiting' if self.awaited else ''}"

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as this kind has its callbacks."""
        if not self.awaited:
            return function

        async def call(*args: Any) -> Any:
            await anyio.sleep(0)
            return function(*args)

        return call


SYNC = SOURCES["sse_fast"]
ASYNC = SOURCES["sse_fast asyncio"]
TRIO = SOURCES["httpx trio"]
AWAITING = [Manner(way, awaited=True) for way in (ASYNC, TRIO)]
MANNERS = [*(Manner(way, awaited=False) for way in (SYNC, ASYNC, TRIO)), *AWAITING]
# For what takes its time.
SOME = [MANNERS[0], AWAITING[0]]


@pytest.fixture(params=MANNERS, ids=str)
def manner(request: pytest.FixtureRequest) -> Manner:
    return request.param  # type: ignore[no-any-return]


B = stream(b"id: 2\ndata: b\n\n")


@dataclass
class Seen:
    """What the callbacks were called with."""

    data: list[Any] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    closes: int = 0
    end: EndReason | None = None
    error: Exception | None = None

    def on_message(self, event: Any) -> None:
        self.data.append(event.data)

    def on_error(self, error: Exception) -> None:
        self.errors.append(error)

    def on_close(self) -> None:
        self.closes += 1


def run(
    manner: Manner,
    url: str,
    seen: Seen,
    on_message: Callable[..., Any] | None = None,
    on_close: Callable[..., Any] | None = None,
    **options: Any,
) -> None:
    """Run a source to its end, which `seen` tells of; `on_error` defaults to one that notes."""
    options.setdefault("on_error", manner(seen.on_error))
    options.setdefault("policy", FAST)
    try:
        seen.end = manner.way.run(
            url, on_message or manner(seen.on_message), on_close or manner(seen.on_close), **options
        )
    except Exception as error:
        seen.error = error


class Once:
    """A callable that raises the first time, and then does what it would have done."""

    def __init__(self, error: Exception, then: Callable[..., Any] = lambda *args: None) -> None:
        self.error = error
        self.then = then
        self.calls = 0

    def __call__(self, *args: Any) -> Any:
        self.calls += 1
        if self.calls == 1:
            raise self.error
        return self.then(*args)


# -- on_open ---------------------------------------------------------------------------------------


def test_on_open_gets_every_final_response(manner: Manner, stage: Stage) -> None:
    """No redirect, and refused ones with their body."""
    stage.plays = [
        Play(503, [("X-Which", "1")], body=[b"busy"]),
        Play(302, [("Location", "@b")], framing="length"),
        stream(),
        Play(429, (), body=[b"later"]),
        B,
    ]
    opened: list[Any] = []
    seen = Seen()
    run(manner, stage.url, seen, on_open=manner(opened.append))
    assert seen.end is EndReason.NO_CONTENT
    assert seen.data == ["a", "b"]
    assert [response.status for response in opened] == [503, 200, 429, 200, 204]
    assert [response.body for response in opened] == [b"busy", b"", b"later", b"", b""]
    assert opened[0].headers["x-which"] == "1"
    assert opened[1].url.endswith("/c/b")


@pytest.mark.parametrize(
    "play",
    [
        Play(404, [EVENT_STREAM], body=[b"data: no\n\n"]),
        Play(200, [("Content-Type", "text/html")], body=[b"data: no\n\n"]),
        Play(501, (), body=[b"data: no\n\n"]),
        Play(302, (), body=[b"data: no\n\n"]),
    ],
    ids=["404", "type", "501", "302"],
)
def test_returning_does_not_skip_the_checks(manner: Manner, stage: Stage, play: Play) -> None:
    stage.plays = [play]
    opened: list[Any] = []
    seen = Seen()
    run(manner, stage.url, seen, on_open=manner(lambda response: opened.append(response) or True))
    assert isinstance(seen.error, ResponseError)
    assert seen.error.response is opened[0]
    assert opened[0].body == b"data: no\n\n"
    assert seen.errors == [seen.error]
    assert len(stage.requests) == 1


def test_on_open_comes_before_the_first_event(manner: Manner, stage: Stage) -> None:
    stage.plays = [stream()]
    order: list[str] = []
    run(
        manner,
        stage.url,
        Seen(),
        on_message=manner(lambda event: order.append(event.data)),
        on_open=manner(lambda response: order.append(str(response.status))),
    )
    assert order == ["200", "a", "204"]


# -- on_error: every failure -----------------------------------------------------------------------


class MyError(Exception):
    pass


@dataclass(frozen=True)
class Failure:
    """One answer, or one callback, that goes wrong; and what comes of it."""

    error: type[Exception]
    play: Play = field(default_factory=stream)
    again: bool = False  # whether the policy asks again
    options: dict[str, Any] = field(default_factory=dict)
    raised_by: str = ""


COMMENTED = b": comment\n\nid: 1\ndata: a\n\n"
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
    "idle": Failure(StreamTimeout, stream(end="hang"), again=True, options={"idle_timeout": 0.1}),
    "idle head": Failure(
        StreamTimeout,
        Play(framing="none", end="hang"),
        again=True,
        options={"idle_timeout": 0.1},
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
NEVER_ASYNC = {"on_comment", "on_chunk"}


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
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
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


# -- on_close --------------------------------------------------------------------------------------


def test_on_close_at_every_clean_end(manner: Manner, stage: Stage) -> None:
    """Before it is asked again: not at a cut-off, and not at what is no end of a stream."""
    stage.plays = [stream(), Play(503, ()), stream(framing="chunked-truncated"), stream(), B]
    order: list[Any] = []
    seen = Seen()
    run(
        manner,
        stage.url,
        seen,
        on_message=manner(lambda event: order.append(event.data)),
        on_close=manner(lambda: order.append(len(stage.requests))),
    )
    assert seen.end is EndReason.NO_CONTENT
    assert order == ["a", 1, "a", "a", 4, "b", 5]


def test_on_close_of_a_post_is_the_last(manner: Manner, stage: Stage) -> None:
    stage.plays = [stream(), B]
    seen = Seen()
    run(manner, stage.url, seen, method="POST")
    assert (seen.end, seen.data, seen.closes) == (EndReason.END, ["a"], 1)
    assert len(stage.requests) == 1


@pytest.mark.parametrize("until", ["[DONE]", lambda event: event.data == "a"], ids=["str", "call"])
def test_no_on_close_where_until_was_met(manner: Manner, stage: Stage, until: Any) -> None:
    stage.plays = [stream(b"data: a\n\ndata: [DONE]\n\n")]
    seen = Seen()
    run(manner, stage.url, seen, until=until)
    assert (seen.end, seen.data, seen.closes) == (EndReason.UNTIL, ["a"], 0)


def test_no_on_close_where_the_program_closed(stage: Stage) -> None:
    for manner in MANNERS:
        stage.requests.clear()
        stage.plays = [stream(end="hang")]
        seen = Seen()

        async def use(source: Any, manner: Manner = manner, seen: Seen = seen) -> None:
            def on_message(event: Any) -> None:
                seen.on_message(event)
                source.close()

            seen.end = await source.run(manner(on_message), on_close=manner(seen.on_close))

        manner.way.use(use, stage.url)
        assert (seen.end, seen.data, seen.closes) == (EndReason.CLOSED, ["a"], 0)
        assert len(stage.requests) == 1


def test_on_close_may_want_more(manner: Manner, stage: Stage) -> None:
    """As often as it likes: each time it is asked again, also by POST."""
    stage.plays = [stream(), stream(), B]
    seen = Seen()

    def on_close() -> None:
        seen.closes += 1
        if seen.closes < 3:
            raise RetriableError(delay=0)

    run(manner, stage.url, seen, on_close=manner(on_close), method="POST", data=b"x")
    assert (seen.end, seen.data, seen.closes) == (EndReason.END, ["a", "a", "b"], 3)
    assert [request.body for request in stage.requests] == [b"x"] * 3


# -- on_message ------------------------------------------------------------------------------------


def test_on_message_gets_events_only(manner: Manner, stage: Stage) -> None:
    body = b": c\n\n\n\nid: 7\n\nevent: e\n\nretry: 5\n\nunknown: x\n\ndata\n\ndata: a\n\n: c\n\n"
    stage.plays = [stream(body)]
    seen = Seen()
    comments: list[str] = []
    run(manner, stage.url, seen, on_comment=comments.append, method="POST")
    assert seen.data == ["", "a"]
    assert comments == ["c", "c"]
    assert seen.errors == []


def test_a_callback_may_close_the_source(manner: Manner, stage: Stage) -> None:
    """From wherever it is called: nothing is asked then."""
    for name in ("on_open", "on_error", "on_message", "on_close", "on_comment", "headers"):
        stage.requests.clear()
        first = Play(503, ()) if name == "on_error" else stream(COMMENTED)
        stage.plays = [first, B]
        box: list[Any] = []

        def close(*args: Any, box: list[Any] = box, name: str = name) -> Any:
            box[0].close()
            return {} if name == "headers" else None

        callback = close if name in NEVER_ASYNC else manner(close)
        ignored = manner(lambda *args: None)

        async def use(
            source: Any,
            name: str = name,
            box: list[Any] = box,
            callback: Any = callback,
            ignored: Any = ignored,
        ) -> None:
            box.append(source)
            on_message = callback if name == "on_message" else ignored
            on_close = callback if name == "on_close" else ignored
            assert await source.run(on_message, on_close=on_close) is EndReason.CLOSED
            assert source.ready_state is ReadyState.CLOSED

        options = {} if name in ("on_message", "on_close") else {name: callback}
        manner.way.use(use, stage.url, policy=FAST, **options)
        assert len(stage.requests) == (0 if name == "headers" else 1), name


# -- Which functions -------------------------------------------------------------------------------


async def afunction(*args: Any) -> None:
    pass


class ACallable:
    async def __call__(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize("name", ["headers", "resume", "on_open", "on_error"])
def test_the_sync_client_refuses_async_functions(name: str) -> None:
    for function in (afunction, partial(afunction, 1)):
        with pytest.raises(TypeError, match="AsyncEventSource"):
            EventSource("http://127.0.0.1", **{name: function})


@pytest.mark.parametrize("name", ["on_message", "on_close"])
def test_run_refuses_async_functions(stage: Stage, name: str) -> None:
    functions = {"on_message": lambda event: None, "on_close": lambda: None, name: afunction}
    with pytest.raises(TypeError, match="AsyncEventSource"):
        sse_fast.fetch_event_source(stage.url, **functions)
    with EventSource(stage.url) as source, pytest.raises(TypeError, match="AsyncEventSource"):
        source.run(functions["on_message"], on_close=functions["on_close"])


@pytest.mark.parametrize(
    "function",
    [lambda *args: afunction(), ACallable(), lambda *args: _Awaitable()],
    ids=["lambda", "callable", "awaitable"],
)
@pytest.mark.parametrize("name", ["headers", "on_open", "on_error", "on_message", "on_close"])
def test_the_sync_client_refuses_what_is_to_be_awaited(
    stage: Stage, name: str, function: Any
) -> None:
    """Where only the call shows it; never is one dropped in silence, or warned of."""
    stage.plays = [Play(503, ()) if name == "on_error" else stream(), B]
    seen = Seen()
    manner = Manner(SYNC, awaited=False)
    run(manner, stage.url, seen, **{name: function})
    assert type(seen.error) is TypeError
    assert "AsyncEventSource" in str(seen.error)
    assert len(stage.requests) == (0 if name == "headers" else 1)
    assert seen.errors == ([] if name == "on_error" else [seen.error])


class _Awaitable:
    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.mark.parametrize("manner", AWAITING, ids=str)
def test_the_async_client_awaits_whatever_it_gets(manner: Manner, stage: Stage) -> None:
    """Also from a lambda, a partial or an object."""
    stage.plays = [Play(503, ()), stream(), B]
    calls: list[str] = []

    async def note(name: str, *args: Any) -> None:
        await anyio.sleep(0)
        calls.append(name)

    class Noting:
        async def __call__(self, *args: Any) -> None:
            await note("on_open")

    run(
        manner,
        stage.url,
        Seen(),
        on_message=lambda event: note("on_message"),
        on_close=partial(note, "on_close"),
        on_open=Noting(),
        on_error=partial(note, "on_error"),
    )
    one = ["on_open", "on_message", "on_close"]
    assert calls == ["on_open", "on_error", *one, *one, "on_open"]


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("name", ["on_comment", "on_chunk"])
def test_what_the_parser_calls_is_never_awaited(cls: Any, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        cls("http://127.0.0.1", **{name: afunction})


# -- Header fields per attempt ---------------------------------------------------------------------


def test_headers_are_asked_for_before_every_attempt(manner: Manner, stage: Stage) -> None:
    """And not for where a redirect leads."""
    stage.plays = [
        Play(503, ()),
        Play(302, [("Location", "@b")], framing="length"),
        Play(307, [("Location", "@c")], framing="length"),
        stream(),
        Play(framing="none"),
        B,
    ]
    count = iter(range(100))
    seen = Seen()
    run(manner, stage.url, seen, headers=manner(lambda: {"X-Attempt": str(next(count))}))
    assert seen.data == ["a", "b"]
    sent = [request.get("X-Attempt") for request in stage.requests]
    assert sent == [b"0", b"1", b"1", b"1", b"2", b"3", b"4"]


def test_headers_are_asked_for_once_where_resume_builds_the_request(
    manner: Manner, stage: Stage
) -> None:
    stage.plays = [stream(), B]
    count = iter(range(100))
    run(
        manner,
        stage.url,
        Seen(),
        headers=manner(lambda: {"X-Attempt": str(next(count))}),
        resume=manner(lambda last_event_id: stage.url),
    )
    sent = [request.get("X-Attempt") for request in stage.requests]
    assert sent == [b"0", b"1", b"2"]


def test_headers_may_be_pairs_or_nothing(manner: Manner, stage: Stage) -> None:
    answers: list[Any] = [[("X-A", "1"), ("X-B", b"\xe9")], {"X-C": "é"}, None, ()]
    stage.plays = [stream()] * 3
    answering = iter(answers)
    run(manner, stage.url, Seen(), headers=manner(lambda: next(answering)))
    first, second, third, _ = stage.requests
    assert (first.get("X-A"), first.get("X-B")) == (b"1", b"\xe9")
    assert second.get("X-C") == "é".encode()
    assert third.get("X-A") is None
    assert third.get("Accept") == b"text/event-stream"


@pytest.mark.parametrize(
    "answer", [{"X": 1}, {"X\n": "1"}, {"X": "1\n"}, {"Content-Length": "1"}, 7, "X: 1"], ids=repr
)
def test_wrong_headers_are_errors(manner: Manner, stage: Stage, answer: Any) -> None:
    seen = Seen()
    run(manner, stage.url, seen, headers=manner(lambda: answer))
    assert isinstance(seen.error, (TypeError, ValueError))
    assert seen.errors == [seen.error]
    assert stage.requests == []
    if not isinstance(answer, (int, str)):
        # A mapping is looked at beforehand.
        with pytest.raises(type(seen.error)):
            EventSource(stage.url, headers=answer)


@pytest.mark.parametrize("called", [False, True])
def test_none_leaves_a_default_out(way: Way, stage: Stage, called: bool) -> None:
    headers = {"cache-control": None, "ACCEPT": None, "Accept-Encoding": None}
    stage.plays = [stream(), Play(204, ())]
    url = stage.url.replace("://", "://u:p@")
    given = {**headers, "Authorization": None}
    way.read(url, headers=(lambda: given) if called else given, policy=FAST)
    for request in stage.requests:
        assert request.get("Cache-Control") is None
        assert request.get("Authorization") is None
        # Where the library has a default of its own, it is its own again.
        assert request.get("Accept") != b"text/event-stream"
        if not way.has_client:
            names = {name.decode() for name, _ in request.fields}
            assert names - {"Last-Event-ID"} == {"Host", "User-Agent"}


# -- Asking for the rest ---------------------------------------------------------------------------


@pytest.mark.parametrize("way", SOURCES.values(), ids=SOURCES)
def test_resume_by_get(way: Way, stage: Stage) -> None:
    stage.plays = [stream(framing="chunked-truncated"), Play(503, ()), stream(end="rst", delay=20)]
    stage.plays = [*stage.plays, B]
    outcome = way.read(
        stage.url + "?q=1",
        method="POST",
        json={"a": 1},
        headers={"X-Own": "1", "Content-Language": "en"},
        resume="get",
        policy=FAST,
        until=lambda event: event.data == "b",
    )
    assert [event.data for event in outcome.events] == ["a", "a", "b"]
    assert outcome.source.end_reason is EndReason.UNTIL
    first, *others = stage.requests
    assert (first.method, first.body) == ("POST", b'{"a": 1}')
    assert first.get("Content-Type") == b"application/json"
    assert first.get("Last-Event-ID") is None
    assert len(others) == 3
    for request in others:
        assert (request.method, request.target, request.body) == ("GET", "/c/a?q=1", b"")
        assert request.get("Last-Event-ID") == b"1"
        assert request.get("X-Own") == b"1"
        assert not [name for name, _ in request.fields if name.lower().startswith(b"content-")]


def test_resume_by_get_before_a_first_response(manner: Manner, stage: Stage) -> None:
    """There is nothing to resume: what may be sent again is the POST."""
    stage.plays = [Play(503, ()), stream()]
    seen = Seen()
    run(manner, stage.url, seen, method="POST", data=b"x", resume="get", last_event_id="0")
    assert seen.data == ["a"]
    assert [request.method for request in stage.requests] == ["POST", "POST"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [b"0", b"0"]


def test_resume_by_get_without_an_id(manner: Manner, stage: Stage) -> None:
    """Of nothing there is no rest."""
    stage.plays = [stream(b"data: a\n\n", framing="chunked-truncated"), B]
    seen = Seen()
    run(manner, stage.url, seen, method="POST", data=b"x", resume="get")
    assert isinstance(seen.error, StreamIncomplete)
    assert len(stage.requests) == 1


@pytest.mark.parametrize(
    ("answer", "method", "target", "body", "kind", "own"),
    [
        ("/rest?after=", "GET", "/rest?after=1", b"", None, True),
        ({}, "GET", "/c/a", b"", None, True),
        ({"url": "/rest?after="}, "GET", "/rest?after=1", b"", None, True),
        ({"method": "PUT", "data": "é"}, "PUT", "/c/a", "é".encode(), None, True),
        ({"method": "POST", "json": [1]}, "POST", "/c/a", b"[1]", b"application/json", True),
        ({"headers": {"X-Other": "1", "Accept": None}}, "GET", "/c/a", b"", None, False),
        ({"headers": {}}, "GET", "/c/a", b"", None, False),
    ],
    ids=["url", "nothing", "mapped url", "put", "json", "headers", "no headers"],
)
def test_resume_by_a_callable(
    manner: Manner,
    stage: Stage,
    answer: Any,
    method: str,
    target: str,
    body: bytes,
    kind: bytes | None,
    own: bool,
) -> None:
    """It builds the whole request; only Last-Event-ID goes with it."""

    def resume(last_event_id: str) -> Any:
        ids.append(last_event_id)
        if isinstance(answer, str):
            return stage.origin + answer + last_event_id
        if "url" in answer:
            return {**answer, "url": stage.origin + answer["url"] + last_event_id}
        return answer

    ids: list[str] = []
    stage.plays = [stream(framing="chunked-truncated"), Play(503, ()), B]
    seen = Seen()
    run(
        manner,
        stage.url,
        seen,
        method="POST",
        json={"a": 1},
        headers={"X-Own": "1"},
        resume=manner(resume),
        until=lambda event: event.data == "b",
    )
    assert seen.data == ["a", "b"]
    assert seen.end is EndReason.UNTIL
    assert ids == ["1", "1"]
    for request in stage.requests[1:]:
        assert (request.method, request.target, request.body) == (method, target, body)
        assert request.get("Content-Type") == kind
        assert request.get("Last-Event-ID") == b"1"
        assert request.get("X-Own") == (b"1" if own else None)
        expected = None if "Accept" in answer_headers(answer) else b"text/event-stream"
        if manner.way is not TRIO:
            assert request.get("Accept") == expected


def answer_headers(answer: Any) -> Any:
    return answer.get("headers", {}) if isinstance(answer, dict) else {}


def test_resume_also_for_get(manner: Manner, stage: Stage) -> None:
    stage.plays = [stream(), B]
    seen = Seen()
    resume = manner(lambda last_event_id: f"{stage.url}?after={last_event_id}")
    run(manner, stage.url, seen, resume=resume)
    assert [request.target for request in stage.requests] == [
        "/c/a",
        "/c/a?after=1",
        "/c/a?after=2",
    ]


@pytest.mark.parametrize(
    "answer",
    [None, 7, ["http://127.0.0.1"], {"uri": "x"}, "not a url", "file:///x", {"headers": {"X": 1}}],
    ids=repr,
)
def test_resume_that_builds_none_is_an_error(manner: Manner, stage: Stage, answer: Any) -> None:
    stage.plays = [stream(), B]
    seen = Seen()
    run(manner, stage.url, seen, resume=manner(lambda last_event_id: answer))
    assert isinstance(seen.error, (TypeError, ValueError))
    assert seen.errors == [seen.error]
    assert len(stage.requests) == 1


@pytest.mark.parametrize("resume", ["GET", "post", True, 1, b"get"])
def test_resume_is_refused(resume: Any) -> None:
    with pytest.raises(TypeError, match="resume"):
        EventSource("http://127.0.0.1", resume=resume)


# -- Sending again ---------------------------------------------------------------------------------

BODIES = [
    ({"json": {"a": [1, "é"]}}, json.dumps({"a": [1, "é"]}).encode(), b"application/json"),
    ({"json": 0}, b"0", b"application/json"),
    ({"data": b"\0\xff"}, b"\0\xff", None),
    ({"data": "é"}, "é".encode(), None),
    ({"data": {"a": [1, 2]}}, b"a=1&a=2", b"application/x-www-form-urlencoded"),
    ({"data": b"a", "headers": {"content-type": "x/y"}}, b"a", b"x/y"),
    ({"json": 1, "headers": {"Content-Type": None}}, b"1", None),
    ({}, b"", None),
]


@pytest.mark.parametrize(
    ("given", "body", "kind"),
    BODIES,
    ids=["json", "json 0", "bytes", "str", "form", "own type", "no type", "none"],
)
def test_resend(way: Way, stage: Stage, given: Any, body: bytes, kind: bytes | None) -> None:
    """The same body each time, and of the same kind."""
    stage.plays = [stream(framing="chunked-truncated"), Play(502, ()), B]
    outcome = way.read(stage.url, method="POST", resend=True, policy=FAST, **given)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert outcome.source.end_reason is EndReason.END
    assert len(stage.requests) == 3
    for request in stage.requests:
        assert (request.method, request.body) == ("POST", body)
        assert request.all("Content-Length") == [str(len(body)).encode()]
        assert request.all("Content-Type") == ([] if kind is None else [kind])
    ids = [request.get("Last-Event-ID") for request in stage.requests]
    assert ids == [None, b"1", b"1"]


def test_without_resend(way: Way, stage: Stage) -> None:
    stage.plays = [stream(framing="chunked-truncated"), B]
    outcome = way.read(stage.url, method="POST", data=b"x", policy=FAST)
    assert isinstance(outcome.error, StreamIncomplete)
    assert isinstance(outcome.error.__cause__, TransportError)
    assert outcome.source.last_event_id == "1"
    assert len(stage.requests) == 1


def _generator() -> Iterator[bytes]:
    yield b"x"


async def _async_generator() -> Any:
    yield b"x"


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("resend", [False, True])
@pytest.mark.parametrize(
    "data",
    [_generator(), io.BytesIO(b"x"), _async_generator(), iter([b"x"]), [b"x"], 7],
    ids=lambda data: type(data).__name__,
)
def test_a_body_that_cannot_be_sent_twice_is_refused(cls: Any, resend: bool, data: Any) -> None:
    """At once, and with what to do."""
    with pytest.raises(TypeError, match="bytes"):
        cls("http://127.0.0.1", method="POST", data=data, resend=resend)


def test_json_and_data_are_refused_together() -> None:
    with pytest.raises(TypeError, match="both"):
        EventSource("http://127.0.0.1", method="POST", data=b"x", json={})


# -- What is refused at construction ---------------------------------------------------------------


@pytest.mark.parametrize("manner", [MANNERS[0], MANNERS[1]], ids=str)
def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, manner: Manner, stage: Stage) -> None:
    monkeypatch.setitem(sys.modules, "httptools", None)
    seen = Seen()
    with pytest.raises(ImportError, match=r"sse-fast\[client\]"):
        manner.way.run(stage.url, seen.on_message)
    assert stage.requests == []


@pytest.mark.parametrize("client", ["none", "aiohttp", "httpx"])
def test_the_extra_is_named_for_anyio(
    monkeypatch: pytest.MonkeyPatch, stage: Stage, client: str
) -> None:
    """Which the async client sleeps by, whoever sends."""
    stage.plays = [stream(end="hang")]

    async def run() -> None:
        if client == "aiohttp":
            async with aiohttp.ClientSession() as session:
                await aopen(stage.url, session)
        elif client == "httpx":
            async with HTTPX[0].AsyncClient(verify=False) as session:
                await aopen(stage.url, session)
        else:
            await aopen(stage.url, None)

    monkeypatch.setitem(sys.modules, "anyio", None)
    with pytest.raises(ImportError, match=r"sse-fast\[client\]"):
        asyncio.run(run())
    assert stage.requests == []


async def aopen(url: str, client: Any) -> None:
    source = AsyncEventSource(url, client=client)
    try:
        await source.open()
    finally:
        source.close()


def test_trio_without_a_client_names_one(stage: Stage) -> None:
    async def run() -> None:
        async with AsyncEventSource(stage.url):
            pass

    with pytest.raises(sse_fast.SSEError, match="httpx"):
        anyio.run(run, backend="trio")
    assert stage.requests == []


def test_clients_of_the_other_kind_are_refused() -> None:
    async def make() -> list[Any]:
        """Those of aiohttp want a running loop."""
        clients = [*(module.AsyncClient(verify=False) for module in HTTPX), aiohttp.ClientSession()]
        for client in clients:
            await (client.close() if hasattr(client, "close") else client.aclose())
        return clients

    blocking = [requests.Session(), urllib3.PoolManager()]
    blocking += [module.Client(verify=False) for module in HTTPX]
    for client in blocking:
        with pytest.raises(TypeError, match=r"use EventSource\b"):
            AsyncEventSource("http://127.0.0.1", client=client)
    for client in asyncio.run(make()):
        with pytest.raises(TypeError, match="use AsyncEventSource"):
            EventSource("http://127.0.0.1", client=client)
    for module in HTTPX:
        module_client = blocking[2 + HTTPX.index(module)]
        module_client.close()


def _type_of(value: object) -> str:
    return type(value).__name__


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("client", [requests, requests.get, "httpx", object()], ids=_type_of)
def test_what_is_no_client_is_refused(cls: Any, client: Any) -> None:
    with pytest.raises(TypeError, match=r"requests\.Session"):
        cls("http://127.0.0.1", client=client)


def test_subclasses_of_clients_are_clients(stage: Stage) -> None:
    class Session(requests.Session):
        pass

    stage.plays = [B]
    with Session() as session, EventSource(stage.url, client=session) as source:
        assert next(source).data == "b"


def test_what_goes_beside_a_client_is_refused(tmp_path: Any) -> None:
    """Its connections are its own."""
    import ssl

    with requests.Session() as client:
        for options in ({"uds": tmp_path / "s"}, {"ssl_context": ssl.create_default_context()}):
            with pytest.raises(TypeError, match="client"):
                EventSource("http://127.0.0.1", client=client, **options)


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"url": "/relative"}, ValueError),
        ({"url": "ftp://127.0.0.1"}, ValueError),
        ({"url": "http://"}, ValueError),
        ({"method": "GE T"}, ValueError),
        ({"headers": {"X": "a\nb"}}, ValueError),
        ({"policy": "never"}, TypeError),
        ({"policy": ReconnectPolicy}, TypeError),
        ({"idle_timeout": 0}, ValueError),
        ({"idle_timeout": -1}, ValueError),
        ({"event_timeout": float("nan")}, ValueError),
        ({"connect_timeout": float("inf")}, ValueError),
        ({"max_event_size": 0}, ValueError),
        ({"last_event_id": 7}, TypeError),
    ],
    ids=repr,
)
def test_what_is_refused_at_once(cls: Any, options: Any, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        cls(**{"url": "http://127.0.0.1", **options})


# -- The two kinds agree ---------------------------------------------------------------------------


def public(cls: Any) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def parameters(function: Any) -> list[Any]:
    """All but what it returns, which may have to be awaited."""
    return list(inspect.signature(function).parameters.values())


def test_public_names_are_equal() -> None:
    assert public(AsyncEventSource) - public(EventSource) == {"aclose"}
    assert public(EventSource) <= public(AsyncEventSource)
    assert public(EventSource("http://127.0.0.1")) == public(EventSource) | {
        "end_reason",
        "response",
        "url",
    }
    sync, other = EventSource("http://127.0.0.1"), AsyncEventSource("http://127.0.0.1")
    assert public(other) - public(sync) == {"aclose"}


def test_protocols_are_equal() -> None:
    own = {name for name in dir(EventSource) if name.startswith("__")}
    others = {name for name in dir(AsyncEventSource) if name.startswith("__")}
    assert own - others == {"__iter__", "__next__", "__enter__", "__exit__"}
    assert others - own == {"__aiter__", "__anext__", "__aenter__", "__aexit__"}


def test_signatures_are_equal() -> None:
    assert parameters(EventSource) == parameters(AsyncEventSource)
    for name in public(EventSource):
        one, other = getattr(EventSource, name), getattr(AsyncEventSource, name)
        assert isinstance(one, property) == isinstance(other, property), name
        if not isinstance(one, property):
            assert parameters(one) == parameters(other), name
        assert one.__doc__, name
        assert other.__doc__, name
    assert parameters(sse_fast.fetch_event_source) == parameters(sse_fast.afetch_event_source)


def test_what_is_awaited() -> None:
    awaited = {
        name
        for name in public(AsyncEventSource)
        if inspect.iscoroutinefunction(getattr(AsyncEventSource, name))
    }
    assert awaited == {"open", "run", "aclose"}
    assert not any(
        inspect.iscoroutinefunction(getattr(EventSource, name)) for name in awaited - {"aclose"}
    )
    assert inspect.iscoroutinefunction(sse_fast.afetch_event_source)


def test_the_signature_is_the_documented_one() -> None:
    """Each keyword is in the docstring, once, and in the order of the signature."""
    names = [each.name for each in parameters(EventSource)]
    # Not as it stands there, which differs from version to version of Python.
    text = inspect.getdoc(EventSource) or ""
    arguments = text.partition("Args:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^ {4}(\w+):", arguments, re.MULTILINE) == names


# -- The functions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("awaited", [False, True])
def test_fetch_event_source(stage: Stage, awaited: bool) -> None:
    stage.plays = [Play(503, ()), stream(), B]
    seen = Seen()
    options: dict[str, Any] = {
        "on_message": seen.on_message,
        "on_close": seen.on_close,
        "on_error": seen.on_error,
        "policy": FAST,
        "headers": {"X-Own": "1"},
    }
    if awaited:
        reason = asyncio.run(sse_fast.afetch_event_source(stage.url, **options))
    else:
        reason = sse_fast.fetch_event_source(stage.url, **options)
    assert reason is EndReason.NO_CONTENT
    assert (seen.data, seen.closes, len(seen.errors)) == (["a", "b"], 2, 1)
    assert stage.requests[0].get("X-Own") == b"1"
    assert stage.open == 0


def test_the_callbacks_run_where_the_caller_does(stage: Stage) -> None:
    """A sync client asks in a thread of its own, of which its user sees nothing."""
    stage.plays = [Play(503, ()), stream(COMMENTED)]
    threads: set[int] = set()

    def note(*args: Any) -> None:
        threads.add(threading.get_ident())

    def headers() -> dict[str, str]:
        note()
        return {}

    sse_fast.fetch_event_source(
        stage.url,
        on_message=note,
        on_close=note,
        on_open=note,
        on_error=note,
        on_comment=note,
        on_chunk=note,
        headers=headers,
        policy=FAST,
    )
    assert threads == {threading.get_ident()}


# -- Cancelled in a callback -----------------------------------------------------------------------


# What is cancelled -> what comes first, and the data of all that is taken.
CANCELLED: dict[str, tuple[Play, list[str]]] = {
    "headers": (stream(), ["a", "a", "b"]),
    "on_open": (stream(), ["a", "b"]),
    "on_message": (stream(), ["a", "b"]),
    "on_close": (stream(), ["a", "a", "b"]),
    "resume": (stream(), ["a", "a", "b"]),
    "on_error": (Play(503, ()), ["a", "b"]),
    "on_error behind a cut-off": (stream(framing="chunked-truncated"), ["a", "a", "b"]),
    "on_error behind a callback": (stream(), ["a", "b"]),
}


@pytest.mark.parametrize("name", CANCELLED)
@pytest.mark.parametrize("way", [ASYNC, TRIO], ids=str)
def test_a_cancelled_callback_ends_nothing(way: Way, stage: Stage, name: str) -> None:
    """Only close() is final: the next run goes on, and loses no event."""
    first, expected = CANCELLED[name]
    stage.plays = [first, stream(), B]
    held = anyio.Event()

    async def callback(*args: Any) -> Any:
        if not held.is_set():
            held.set()
            await anyio.sleep_forever()
        return {"headers": {}, "resume": stage.url}.get(name)

    async def use(source: Any) -> None:
        async def on_message(event: Any) -> None:
            if name == "on_message":
                # What follows is not noted, as it was not taken.
                await callback()
            if name == "on_error behind a callback" and not held.is_set():
                raise MyError
            data.append(event.data)

        data: list[str] = []
        on_close = callback if name == "on_close" else None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(source.run, on_message, on_close=on_close))
            await held.wait()
            tasks.cancel_scope.cancel()
        assert source.end_reason is None
        assert source.ready_state is not ReadyState.CLOSED
        assert await source.run(on_message, on_close=on_close) is EndReason.NO_CONTENT
        assert data == expected

    option = name.partition(" ")[0]
    options = {} if option in ("on_message", "on_close") else {option: callback}
    way.use(use, stage.url, policy=FAST, **options)
