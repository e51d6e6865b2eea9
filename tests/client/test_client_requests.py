"""Header fields per attempt, hooks of the client, `resume` and `resend`."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from sse_fast import (
    AsyncEventSource,
    EndReason,
    EventSource,
    FatalError,
    ResponseError,
    StreamIncomplete,
    TransportError,
)
from tests.support.callback_styles import TRIO, CallbackStyle, Recorder, run
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import ADAPTERS, EVERY_ADAPTER, SOURCES, Way, way_params
from tests.support.scripted_server import Play, Stage, stream
from tests.support.threaded_reader import NO_DELAY, STREAM_B

pytestmark = UNREAD_UNDER_TRIO


# -- Header fields per attempt ---------------------------------------------------------------------


def test_headers_are_called_before_every_attempt(style: CallbackStyle, stage: Stage) -> None:
    """A redirect belongs to the attempt."""
    stage.plays = [
        Play(503, ()),
        Play(302, [("Location", "@b")], framing="length"),
        Play(307, [("Location", "@c")], framing="length"),
        stream(),
        Play(framing="none"),
        STREAM_B,
    ]
    count = iter(range(100))
    recorder = Recorder()
    run(style, stage.url, recorder, headers=style(lambda: {"X-Attempt": str(next(count))}))
    assert recorder.data == ["a", "b"]
    sent = [request.get("X-Attempt") for request in stage.requests]
    assert sent == [b"0", b"1", b"1", b"1", b"2", b"3", b"4"]


def test_headers_are_called_once_with_resume_callable(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [stream(), STREAM_B]
    count = iter(range(100))
    run(
        style,
        stage.url,
        Recorder(),
        headers=style(lambda: {"X-Attempt": str(next(count))}),
        resume=style(lambda last_event_id: stage.url),
    )
    sent = [request.get("X-Attempt") for request in stage.requests]
    assert sent == [b"0", b"1", b"2"]


def test_headers_may_return_pairs_or_none(style: CallbackStyle, stage: Stage) -> None:
    answers: list[Any] = [[("X-A", "1"), ("X-B", b"\xe9")], {"X-C": "é"}, None, ()]
    stage.plays = [stream()] * 3
    answering = iter(answers)
    run(style, stage.url, Recorder(), headers=style(lambda: next(answering)))
    first, second, third, _ = stage.requests
    assert (first.get("X-A"), first.get("X-B")) == (b"1", b"\xe9")
    assert second.get("X-C") == "é".encode()
    assert third.get("X-A") is None
    assert third.get("Accept") == b"text/event-stream"


@pytest.mark.parametrize(
    "answer", [{"X": 1}, {"X\n": "1"}, {"X": "1\n"}, {"Content-Length": "1"}, 7, "X: 1"], ids=repr
)
def test_invalid_headers_raise_without_request(
    style: CallbackStyle, stage: Stage, answer: Any
) -> None:
    recorder = Recorder()
    run(style, stage.url, recorder, headers=style(lambda: answer))
    assert isinstance(recorder.error, (TypeError, ValueError))
    assert recorder.errors == [recorder.error]
    assert stage.requests == []
    if not isinstance(answer, (int, str)):
        # A mapping is checked by the constructor.
        with pytest.raises(type(recorder.error)):
            EventSource(stage.url, headers=answer)


@pytest.mark.parametrize("called", [False, True])
@EVERY_ADAPTER
def test_header_none_removes_default(way: Way, stage: Stage, called: bool) -> None:
    headers = {"cache-control": None, "ACCEPT": None, "Accept-Encoding": None}
    stage.plays = [stream(), Play(204, ())]
    url = stage.url.replace("://", "://u:p@")
    given = {**headers, "Authorization": None}
    way.read(url, headers=(lambda: given) if called else given, policy=NO_DELAY)
    for request in stage.requests:
        assert request.get("Cache-Control") is None
        assert request.get("Authorization") is None
        # A default of the library may take its place.
        assert request.get("Accept") != b"text/event-stream"
        if not way.has_client:
            names = {name.decode() for name, _ in request.fields}
            assert names - {"Last-Event-ID"} == {"Host", "User-Agent"}


@EVERY_ADAPTER
def test_fields_of_the_same_name_are_all_sent(way: Way, stage: Stage) -> None:
    way.read(stage.url, headers=[("X-Own", "1"), ("x-own", "2"), ("X-Own", "3")])
    values = b", ".join(stage.requests[0].all("X-Own"))
    assert values == b"1, 2, 3"


# -- Hooks of the user's client --------------------------------------------------------------------


def reading_hook(way: Way) -> dict[str, Any]:
    """Return the options of a client with a hook that reads each body."""
    if way.library == "requests":
        return {
            "hooks": {"response": [lambda response, *args, **kwargs: response.content and None]}
        }

    async def aread(response: Any) -> None:
        await response.aread()

    hook = aread if way.is_async else lambda response: response.read()
    return {"event_hooks": {"response": [hook]}}


def raising_hook(way: Way) -> dict[str, Any]:
    """Return the options of a client with a hook that raises for a bad status."""
    if way.library == "requests":

        def check(response: Any, *args: Any, **kwargs: Any) -> None:
            response.raise_for_status()

        return {"hooks": {"response": [check]}}

    async def acheck(response: Any) -> None:
        response.raise_for_status()

    hook = acheck if way.is_async else lambda response: response.raise_for_status()
    return {"event_hooks": {"response": [hook]}}


WITH_HOOKS = [way for way in SOURCES.values() if way.library in {"requests", "httpx", "httpx2"}]


@pytest.mark.parametrize("event_timeout", [None, 5.0])
@pytest.mark.parametrize("way", way_params(WITH_HOOKS, ADAPTERS))
def test_hook_may_read_the_body(way: Way, stage: Stage, event_timeout: float | None) -> None:
    stage.plays = [stream(), stream(), Play(404, (), framing="length", body=[b"why"])]
    outcome = way.read(
        stage.url, client_options=reading_hook(way), policy=NO_DELAY, event_timeout=event_timeout
    )
    assert [event.data for event in outcome.events] == ["a", "a"]
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.body == b"why"


@pytest.mark.parametrize("way", way_params(WITH_HOOKS, ADAPTERS))
def test_hook_that_raises_for_status_changes_nothing(way: Way, stage: Stage) -> None:
    """A 503 is retried, a redirect is followed and a 404 is raised, as without the hook."""
    stage.plays = [
        Play(503, [("Retry-After", "0")]),
        Play(302, [("Location", "@b")], framing="length"),
        stream(),
        Play(404, (), framing="length", body=[b"why"]),
    ]
    outcome = way.read(stage.url, client_options=raising_hook(way), policy=NO_DELAY)
    assert [event.data for event in outcome.events] == ["a"]
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == 404
    # httpx closes a response whose hook has raised.
    assert outcome.error.response.body == (b"why" if way.library == "requests" else b"")
    assert len(stage.requests) == 4


async def _check_status(response: Any) -> None:
    response.raise_for_status()


async def _check_in_middleware(request: Any, handler: Any) -> Any:
    response = await handler(request)
    response.raise_for_status()
    return response


@pytest.mark.parametrize(
    "options",
    [
        {"raise_for_status": True},
        {"raise_for_status": _check_status},
        {"middlewares": [_check_in_middleware]},
    ],
    ids=["flag", "callable", "middleware"],
)
def test_session_of_aiohttp_that_raises_for_status(stage: Stage, options: dict[str, Any]) -> None:
    stage.plays = [Play(503, [("Retry-After", "0")]), stream(), Play(404, (), framing="length")]
    outcome = SOURCES["aiohttp"].read(stage.url, client_options=options, policy=NO_DELAY)
    assert [event.data for event in outcome.events] == ["a"]
    assert isinstance(outcome.error, ResponseError)
    assert outcome.error.response.status == 404
    assert len(stage.requests) == 3


class _Refused(Exception):
    pass


@pytest.mark.parametrize("kind", ["wrapped", "of a stream", "of sse_fast"])
@pytest.mark.parametrize("way", way_params(WITH_HOOKS, ADAPTERS))
def test_error_of_hook_is_looked_into(way: Way, stage: Stage, kind: str) -> None:
    """An error that wraps a bad status counts as that; others are raised."""

    def check(response: Any, *args: Any, **kwargs: Any) -> None:
        if kind == "of a stream":
            error = _Refused("content")
            error.response = response
            raise error
        try:
            response.raise_for_status()
        except Exception as error:
            raise (_Refused() if kind == "wrapped" else FatalError("enough")) from error

    async def acheck(response: Any) -> None:
        check(response)

    hook = acheck if way.is_async else check
    key = "hooks" if way.library == "requests" else "event_hooks"
    stage.plays = [Play(503, ()), stream()]
    if kind == "of a stream":
        stage.plays = [stream(), stream()]
    options = {key: {"response": [hook]}}
    outcome = way.read(stage.url, client_options=options, policy=NO_DELAY, stop_after=1)
    if kind == "wrapped":
        assert [event.data for event in outcome.events] == ["a"]
        return
    assert outcome.events == []
    assert len(stage.requests) == 1
    if kind == "of sse_fast":
        assert isinstance(outcome.error, FatalError)
    else:
        assert isinstance(outcome.error.__cause__, _Refused)


# -- resume ----------------------------------------------------------------------------------------


@EVERY_ADAPTER
def test_resume_get_asks_for_the_rest_without_body(way: Way, stage: Stage) -> None:
    stage.plays = [stream(framing="chunked-truncated"), Play(503, ()), stream(end="rst", delay=20)]
    stage.plays = [*stage.plays, STREAM_B]
    outcome = way.read(
        stage.url + "?q=1",
        method="POST",
        json={"a": 1},
        headers={"X-Own": "1", "Content-Language": "en"},
        resume="get",
        policy=NO_DELAY,
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


def test_resume_get_before_first_response_repeats_post(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [Play(503, ()), stream()]
    recorder = Recorder()
    run(style, stage.url, recorder, method="POST", data=b"x", resume="get", last_event_id="0")
    assert recorder.data == ["a"]
    assert [request.method for request in stage.requests] == ["POST", "POST"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [b"0", b"0"]


def test_resume_get_without_id_raises_incomplete(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [stream(b"data: a\n\n", framing="chunked-truncated"), STREAM_B]
    recorder = Recorder()
    run(style, stage.url, recorder, method="POST", data=b"x", resume="get")
    assert isinstance(recorder.error, StreamIncomplete)
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
def test_resume_callable_builds_request(
    style: CallbackStyle,
    stage: Stage,
    answer: Any,
    method: str,
    target: str,
    body: bytes,
    kind: bytes | None,
    own: bool,
) -> None:
    """Only Last-Event-ID is added to it."""

    def resume(last_event_id: str) -> Any:
        ids.append(last_event_id)
        if isinstance(answer, str):
            return stage.origin + answer + last_event_id
        if "url" in answer:
            return {**answer, "url": stage.origin + answer["url"] + last_event_id}
        return answer

    ids: list[str] = []
    stage.plays = [stream(framing="chunked-truncated"), Play(503, ()), STREAM_B]
    recorder = Recorder()
    run(
        style,
        stage.url,
        recorder,
        method="POST",
        json={"a": 1},
        headers={"X-Own": "1"},
        resume=style(resume),
        until=lambda event: event.data == "b",
    )
    assert recorder.data == ["a", "b"]
    assert recorder.end is EndReason.UNTIL
    assert ids == ["1", "1"]
    for request in stage.requests[1:]:
        assert (request.method, request.target, request.body) == (method, target, body)
        assert request.get("Content-Type") == kind
        assert request.get("Last-Event-ID") == b"1"
        assert request.get("X-Own") == (b"1" if own else None)
        expected = None if "Accept" in answer_headers(answer) else b"text/event-stream"
        if style.way is not TRIO:
            assert request.get("Accept") == expected


def answer_headers(answer: Any) -> Any:
    return answer.get("headers", {}) if isinstance(answer, dict) else {}


def test_resume_callable_replaces_get(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [stream(), STREAM_B]
    recorder = Recorder()
    resume = style(lambda last_event_id: f"{stage.url}?after={last_event_id}")
    run(style, stage.url, recorder, resume=resume)
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
def test_resume_with_invalid_result_raises(style: CallbackStyle, stage: Stage, answer: Any) -> None:
    stage.plays = [stream(), STREAM_B]
    recorder = Recorder()
    run(style, stage.url, recorder, resume=style(lambda last_event_id: answer))
    assert isinstance(recorder.error, (TypeError, ValueError))
    assert recorder.errors == [recorder.error]
    assert len(stage.requests) == 1


@pytest.mark.parametrize("resume", ["GET", "post", True, 1, b"get"])
def test_invalid_resume_raises(resume: Any) -> None:
    with pytest.raises(TypeError, match="resume"):
        EventSource("http://127.0.0.1", resume=resume)


# -- resend ----------------------------------------------------------------------------------------


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
def test_resend_repeats_body_and_content_type(
    way: Way, stage: Stage, given: Any, body: bytes, kind: bytes | None
) -> None:
    stage.plays = [stream(framing="chunked-truncated"), Play(502, ()), STREAM_B]
    outcome = way.read(stage.url, method="POST", resend=True, policy=NO_DELAY, **given)
    assert [event.data for event in outcome.events] == ["a", "b"]
    assert outcome.source.end_reason is EndReason.END
    assert len(stage.requests) == 3
    for request in stage.requests:
        assert (request.method, request.body) == ("POST", body)
        assert request.all("Content-Length") == [str(len(body)).encode()]
        assert request.all("Content-Type") == ([] if kind is None else [kind])
    ids = [request.get("Last-Event-ID") for request in stage.requests]
    assert ids == [None, b"1", b"1"]


def test_post_without_resend_raises_incomplete(way: Way, stage: Stage) -> None:
    stage.plays = [stream(framing="chunked-truncated"), STREAM_B]
    outcome = way.read(stage.url, method="POST", data=b"x", policy=NO_DELAY)
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
def test_body_that_cannot_be_repeated_raises(cls: Any, resend: bool, data: Any) -> None:
    with pytest.raises(TypeError, match="bytes"):
        cls("http://127.0.0.1", method="POST", data=data, resend=resend)


def test_json_with_data_raises() -> None:
    with pytest.raises(TypeError, match="json and data cannot be combined"):
        EventSource("http://127.0.0.1", method="POST", data=b"x", json={})
