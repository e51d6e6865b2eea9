"""Every callback except `on_error`: when it is called, with what, and which may be async."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import anyio
import pytest

import sse_fast
from sse_fast import (
    AsyncEventSource,
    EndReason,
    EventSource,
    ReadyState,
    ResponseError,
    RetriableError,
)
from tests.support.callback_styles import (
    ASYNC_STYLES,
    ASYNCIO,
    COMMENT_THEN_EVENT,
    NEVER_ASYNC,
    SYNC,
    TRIO,
    CallbackError,
    CallbackStyle,
    Recorder,
    run,
    style_params,
)
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import Way
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream
from tests.support.threaded_reader import NO_DELAY, STREAM_B

pytestmark = UNREAD_UNDER_TRIO


# -- on_open ---------------------------------------------------------------------------------------


def test_on_open_gets_every_final_response(style: CallbackStyle, stage: Stage) -> None:
    """Redirects are not reported; refused responses come with their body."""
    stage.plays = [
        Play(503, [("X-Which", "1")], body=[b"busy"]),
        Play(302, [("Location", "@b")], framing="length"),
        stream(),
        Play(429, (), body=[b"later"]),
        STREAM_B,
    ]
    opened: list[Any] = []
    recorder = Recorder()
    run(style, stage.url, recorder, on_open=style(opened.append))
    assert recorder.end is EndReason.NO_CONTENT
    assert recorder.data == ["a", "b"]
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
def test_on_open_cannot_accept_a_refused_response(
    style: CallbackStyle, stage: Stage, play: Play
) -> None:
    stage.plays = [play]
    opened: list[Any] = []
    recorder = Recorder()
    run(style, stage.url, recorder, on_open=style(lambda response: opened.append(response) or True))
    assert isinstance(recorder.error, ResponseError)
    assert recorder.error.response is opened[0]
    assert opened[0].body == b"data: no\n\n"
    assert recorder.errors == [recorder.error]
    assert len(stage.requests) == 1


def test_on_open_called_before_first_event(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [stream()]
    order: list[str] = []
    run(
        style,
        stage.url,
        Recorder(),
        on_message=style(lambda event: order.append(event.data)),
        on_open=style(lambda response: order.append(str(response.status))),
    )
    assert order == ["200", "a", "204"]


# -- on_close --------------------------------------------------------------------------------------


def test_on_close_called_at_every_clean_end(style: CallbackStyle, stage: Stage) -> None:
    """The call comes before the next request, and not after a refusal or a truncated body."""
    stage.plays = [stream(), Play(503, ()), stream(framing="chunked-truncated"), stream(), STREAM_B]
    order: list[Any] = []
    recorder = Recorder()
    run(
        style,
        stage.url,
        recorder,
        on_message=style(lambda event: order.append(event.data)),
        on_close=style(lambda: order.append(len(stage.requests))),
    )
    assert recorder.end is EndReason.NO_CONTENT
    assert order == ["a", 1, "a", "a", 4, "b", 5]


def test_on_close_called_once_for_a_post(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [stream(), STREAM_B]
    recorder = Recorder()
    run(style, stage.url, recorder, method="POST")
    assert (recorder.end, recorder.data, recorder.closes) == (EndReason.END, ["a"], 1)
    assert len(stage.requests) == 1


@pytest.mark.parametrize("until", ["[DONE]", lambda event: event.data == "a"], ids=["str", "call"])
def test_on_close_not_called_when_until_is_met(
    style: CallbackStyle, stage: Stage, until: Any
) -> None:
    stage.plays = [stream(b"data: a\n\ndata: [DONE]\n\n")]
    recorder = Recorder()
    run(style, stage.url, recorder, until=until)
    assert (recorder.end, recorder.data, recorder.closes) == (EndReason.UNTIL, ["a"], 0)


def test_on_close_not_called_after_close(style: CallbackStyle, stage: Stage) -> None:
    stage.plays = [stream(end="hang")]
    recorder = Recorder()

    async def use(source: Any) -> None:
        def on_message(event: Any) -> None:
            recorder.on_message(event)
            source.close()

        recorder.end = await source.run(style(on_message), on_close=style(recorder.on_close))

    style.way.use(use, stage.url)
    assert (recorder.end, recorder.data, recorder.closes) == (EndReason.CLOSED, ["a"], 0)
    assert len(stage.requests) == 1


def test_on_close_ends_with_its_run(style: CallbackStyle, stage: Stage) -> None:
    """A loop that reads on after `run` raised does not call the `on_close` of that run."""
    stage.plays = [stream(), stream(), STREAM_B]
    closes: list[int] = []

    def on_message(event: Any) -> None:
        if event.data == "a" and len(stage.requests) == 2:
            raise CallbackError

    async def use(source: Any) -> None:
        def on_close() -> None:
            closes.append(len(stage.requests))

        with pytest.raises(CallbackError):
            await source.run(style(on_message), on_close=style(on_close))
        assert [event.data async for event in source] == ["b"]

    style.way.use(use, stage.url, policy=NO_DELAY)
    assert closes == [1]


def test_on_close_retriable_error_sends_again(style: CallbackStyle, stage: Stage) -> None:
    """Each RetriableError repeats the request, even a POST."""
    stage.plays = [stream(), stream(), STREAM_B]
    recorder = Recorder()

    def on_close() -> None:
        recorder.closes += 1
        if recorder.closes < 3:
            raise RetriableError(delay=0)

    run(style, stage.url, recorder, on_close=style(on_close), method="POST", data=b"x")
    assert (recorder.end, recorder.data, recorder.closes) == (EndReason.END, ["a", "a", "b"], 3)
    assert [request.body for request in stage.requests] == [b"x"] * 3


# -- on_message ------------------------------------------------------------------------------------


def test_on_message_gets_only_dispatched_events(style: CallbackStyle, stage: Stage) -> None:
    body = b": c\n\n\n\nid: 7\n\nevent: e\n\nretry: 5\n\nunknown: x\n\ndata\n\ndata: a\n\n: c\n\n"
    stage.plays = [stream(body)]
    recorder = Recorder()
    comments: list[str] = []
    run(style, stage.url, recorder, on_comment=comments.append, method="POST")
    assert recorder.data == ["", "a"]
    assert comments == ["c", "c"]
    assert recorder.errors == []


@pytest.mark.parametrize(
    "name", ["on_open", "on_error", "on_message", "on_close", "on_comment", "headers"]
)
def test_close_in_callback_ends_the_run(style: CallbackStyle, stage: Stage, name: str) -> None:
    """No request follows."""
    first = Play(503, ()) if name == "on_error" else stream(COMMENT_THEN_EVENT)
    stage.plays = [first, STREAM_B]
    sources: list[Any] = []

    def close(*args: Any) -> Any:
        sources[0].close()
        return {} if name == "headers" else None

    callback = close if name in NEVER_ASYNC else style(close)
    ignored = style(lambda *args: None)

    async def use(source: Any) -> None:
        sources.append(source)
        on_message = callback if name == "on_message" else ignored
        on_close = callback if name == "on_close" else ignored
        assert await source.run(on_message, on_close=on_close) is EndReason.CLOSED
        assert source.ready_state is ReadyState.CLOSED

    options = {} if name in ("on_message", "on_close") else {name: callback}
    style.way.use(use, stage.url, policy=NO_DELAY, **options)
    assert len(stage.requests) == (0 if name == "headers" else 1)


# -- Sync and async functions ----------------------------------------------------------------------


async def async_callback(*args: Any) -> None:
    pass


class AsyncCallable:
    async def __call__(self, *args: Any) -> None:
        pass


@pytest.mark.parametrize("name", ["headers", "resume", "on_open", "on_error"])
def test_sync_client_refuses_async_functions(name: str) -> None:
    for function in (async_callback, partial(async_callback, 1)):
        with pytest.raises(TypeError, match="AsyncEventSource"):
            EventSource("http://127.0.0.1", **{name: function})


@pytest.mark.parametrize("name", ["on_message", "on_close"])
def test_sync_run_refuses_async_functions(stage: Stage, name: str) -> None:
    functions = {"on_message": lambda event: None, "on_close": lambda: None, name: async_callback}
    with pytest.raises(TypeError, match="AsyncEventSource"):
        sse_fast.fetch_event_source(stage.url, **functions)
    with EventSource(stage.url) as source, pytest.raises(TypeError, match="AsyncEventSource"):
        source.run(functions["on_message"], on_close=functions["on_close"])


@pytest.mark.parametrize(
    "function",
    [lambda *args: async_callback(), AsyncCallable(), lambda *args: _Awaitable()],
    ids=["lambda", "callable", "awaitable"],
)
@pytest.mark.parametrize("name", ["headers", "on_open", "on_error", "on_message", "on_close"])
def test_sync_client_refuses_awaitable_results(stage: Stage, name: str, function: Any) -> None:
    """The result is refused, and no coroutine is left for Python to warn about."""
    stage.plays = [Play(503, ()) if name == "on_error" else stream(), STREAM_B]
    recorder = Recorder()
    style = CallbackStyle(SYNC, is_async=False)
    run(style, stage.url, recorder, **{name: function})
    assert type(recorder.error) is TypeError
    assert "AsyncEventSource" in str(recorder.error)
    assert len(stage.requests) == (0 if name == "headers" else 1)
    assert recorder.errors == ([] if name == "on_error" else [recorder.error])


class _Awaitable:
    def __await__(self) -> Iterator[None]:
        return iter(())


@pytest.mark.parametrize("style", style_params(ASYNC_STYLES))
def test_async_client_awaits_any_awaitable_result(style: CallbackStyle, stage: Stage) -> None:
    """The callback may be a lambda, a partial or an object, too."""
    stage.plays = [Play(503, ()), stream(), STREAM_B]
    calls: list[str] = []

    async def record(name: str, *args: Any) -> None:
        await anyio.sleep(0)
        calls.append(name)

    class OnOpen:
        async def __call__(self, *args: Any) -> None:
            await record("on_open")

    run(
        style,
        stage.url,
        Recorder(),
        on_message=lambda event: record("on_message"),
        on_close=partial(record, "on_close"),
        on_open=OnOpen(),
        on_error=partial(record, "on_error"),
    )
    stream_calls = ["on_open", "on_message", "on_close"]
    assert calls == ["on_open", "on_error", *stream_calls, *stream_calls, "on_open"]


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize("name", ["on_comment", "on_chunk"])
def test_parser_callbacks_must_not_be_async(cls: Any, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        cls("http://127.0.0.1", **{name: async_callback})


# -- Cancellation within a callback ----------------------------------------------------------------


# The callback that is cancelled -> the first answer, and the data of all events that are taken.
CANCELLED: dict[str, tuple[Play, list[str]]] = {
    "headers": (stream(), ["a", "a", "b"]),
    "on_open": (stream(), ["a", "a", "b"]),
    "on_message": (stream(), ["a", "b"]),
    "on_close": (stream(), ["a", "a", "b"]),
    "resume": (stream(), ["a", "a", "b"]),
    "on_error": (Play(503, ()), ["a", "b"]),
    "on_error after a truncated body": (stream(framing="chunked-truncated"), ["a", "a", "b"]),
    "on_error after a callback": (stream(), ["a", "b"]),
}


@pytest.mark.parametrize("name", CANCELLED)
@pytest.mark.parametrize("way", [ASYNCIO, TRIO], ids=str)
def test_cancelled_callback_leaves_source_usable(way: Way, stage: Stage, name: str) -> None:
    """The next run continues and loses no event: only close() is final."""
    first, expected = CANCELLED[name]
    stage.plays = [first, stream(), STREAM_B]
    waiting = anyio.Event()

    async def callback(*args: Any) -> Any:
        if not waiting.is_set():
            waiting.set()
            await anyio.sleep_forever()
        return {"headers": {}, "resume": stage.url}.get(name)

    async def use(source: Any) -> None:
        async def on_message(event: Any) -> None:
            if name == "on_message":
                # The event that follows is not recorded, as it was not taken.
                await callback()
            if name == "on_error after a callback" and not waiting.is_set():
                raise CallbackError
            data.append(event.data)

        data: list[str] = []
        on_close = callback if name == "on_close" else None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(partial(source.run, on_message, on_close=on_close))
            await waiting.wait()
            tasks.cancel_scope.cancel()
        assert source.end_reason is None
        assert source.ready_state is not ReadyState.CLOSED
        assert await source.run(on_message, on_close=on_close) is EndReason.NO_CONTENT
        assert data == expected

    option = name.partition(" ")[0]
    options = {} if option in ("on_message", "on_close") else {option: callback}
    way.use(use, stage.url, policy=NO_DELAY, **options)
