"""The callbacks, but for `on_error`."""

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
    ASYNC,
    AWAITING,
    COMMENTED,
    FAST,
    MANNERS,
    NEVER_ASYNC,
    SYNC,
    TRIO,
    B,
    Manner,
    MyError,
    Seen,
    run,
)
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import Way
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, stream

pytestmark = UNREAD_UNDER_TRIO


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


def test_on_close_is_for_one_run(manner: Manner, stage: Stage) -> None:
    """Not for what is read behind it, whichever way that run ended."""
    stage.plays = [stream(), stream(), B]
    closes: list[int] = []

    def on_message(event: Any) -> None:
        if event.data == "a" and len(stage.requests) == 2:
            raise MyError

    async def use(source: Any) -> None:
        def on_close() -> None:
            closes.append(len(stage.requests))

        with pytest.raises(MyError):
            await source.run(manner(on_message), on_close=manner(on_close))
        assert [event.data async for event in source] == ["b"]

    manner.way.use(use, stage.url, policy=FAST)
    assert closes == [1]


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
