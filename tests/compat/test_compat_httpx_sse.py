"""`compat.httpx_sse` beside the original: its names, its events, and how it reads a response."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import sys
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import sse_fast
from tests.support.compat_pairs import (
    BACKENDS,
    EVENTS,
    HTTPX_SSE,
    STREAM,
    Fault,
    assert_alike,
    chunks,
    of_each,
    raised,
    run,
    values,
)

# -- What can be named -----------------------------------------------------------------------------


def test_the_names_of_httpx_sse() -> None:
    theirs, ours = HTTPX_SSE
    assert set(ours.__all__) == set(theirs.__all__)
    assert ours.__version__ == theirs.__version__
    # The one name of neither a class nor a function.
    names = set(ours.__all__) - {"__version__"}
    compared = sum(assert_alike(getattr(theirs, name), getattr(ours, name)) for name in names)
    # Two functions, three constructors, and json(), iter_sse(), aiter_sse().
    assert compared == 8
    for name in names:
        assert getattr(ours, name).__module__ == "sse_fast.compat.httpx_sse"


def test_the_error_is_one_of_httpx() -> None:
    for module in HTTPX_SSE:
        assert module.SSEError.__bases__ == (httpx.TransportError,)
        error = module.SSEError("any", request=httpx.Request("GET", "http://localhost"))
        assert (str(error), str(error.request.url)) == ("any", "http://localhost")
    assert of_each(lambda module: raised(lambda: module.SSEError("any").request))


texts = st.none() | st.text()
retries = st.none() | st.integers()


@given(texts, texts, texts, retries)
def test_an_event_made_by_hand(
    event: str | None, data: str | None, id: str | None, retry: int | None
) -> None:
    def shown(module: Any) -> Any:
        made = [
            module.ServerSentEvent(event, data, id, retry),
            module.ServerSentEvent(event=event, data=data, id=id, retry=retry),
        ]
        made += [copy.copy(made[0]), copy.deepcopy(made[0]), pickle.loads(pickle.dumps(made[0]))]
        assert {type(each) for each in made} == {module.ServerSentEvent}
        return values(made), [repr(each) for each in made], [str(each) for each in made]

    seen, _, _ = of_each(shown)
    assert len(set(seen)) == 1


@pytest.mark.parametrize("arguments", [{}, {"data": "x"}, {"id": "1"}, {"retry": 0}])
def test_some_arguments(arguments: dict[str, Any]) -> None:
    of_each(
        lambda module: (
            repr(module.ServerSentEvent(**arguments)),
            values([module.ServerSentEvent(**arguments)]),
        )
    )


@pytest.mark.parametrize("value", [0, b"", [], False], ids=repr)
def test_what_is_no_text(value: Any) -> None:
    of_each(lambda module: repr(module.ServerSentEvent("a", value, value, value)))


def test_events_equal_only_themselves() -> None:
    for module in HTTPX_SSE:
        one, two = module.ServerSentEvent("a"), module.ServerSentEvent("a")
        assert one != two
        assert len({one, two}) == 2


@pytest.mark.parametrize("name", ["event", "data", "id", "retry", "other"])
def test_setting_an_attribute(name: str) -> None:
    def set_it(module: Any) -> Any:
        event = module.ServerSentEvent("a")
        try:
            setattr(event, name, "x")
        except AttributeError:
            return "refused"
        return getattr(event, name)

    assert of_each(set_it) == ("x" if name == "other" else "refused")


@pytest.mark.parametrize("data", ['{"a": 1}', "[]", "1", "", "{", "NaN", '"\\ud800"', None])
def test_json(data: str | None) -> None:
    def read(module: Any) -> str:
        event = module.ServerSentEvent(data=data)
        try:
            return repr(event.json())
        except json.JSONDecodeError as error:
            return f"{error}"

    of_each(read)


def test_a_subclass_with_other_properties() -> None:
    def shown(module: Any) -> Any:
        class Own(module.ServerSentEvent):  # type: ignore[misc]
            @property
            def data(self) -> str:
                return "[1]"

        return Own(data="x").json(), repr(Own(data="x"))

    of_each(shown)


# -- Reading ---------------------------------------------------------------------------------------


def response(
    stream: Any = STREAM, content_type: str = "text/event-stream", **options: Any
) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": content_type}, content=stream, **options)


async def asynchronous(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def collect(events: AsyncIterator[Any]) -> list[tuple[Any, ...]]:
    return values([event async for event in events])


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_response_in_chunks(size: int) -> None:
    for module in HTTPX_SSE:
        source = module.EventSource(response(iter(chunks(size=size))))
        events = list(source.iter_sse())
        assert values(events) == EVENTS
        assert {type(event) for event in events} == {module.ServerSentEvent}
        assert isinstance(source.response, httpx.Response)
        assert source.response.is_closed


@BACKENDS
def test_a_response_in_chunks_async(backend: str) -> None:
    for module in HTTPX_SSE:

        async def read(module: Any = module) -> list[Any]:
            return await collect(module.EventSource(response(asynchronous(chunks()))).aiter_sse())

        assert run(backend, read) == EVENTS


def test_the_response_cannot_be_replaced() -> None:
    for module in HTTPX_SSE:
        with pytest.raises(AttributeError):
            module.EventSource(response()).response = None


@pytest.mark.parametrize(
    "content_type",
    [
        *("text/event-stream", "text/event-stream;charset=utf-8", "text/event-stream ; x"),
        *("text/event-streams", "application/text/event-stream", "TEXT/EVENT-STREAM"),
        *("text/html", "", "text/html; text/event-stream", ";text/event-stream"),
    ],
)
def test_the_content_type_is_looked_at_when_it_is_read(content_type: str) -> None:
    def read(module: Any) -> Any:
        source = module.EventSource(response(iter(chunks()), content_type))
        # Not yet.
        events = source.iter_sse()
        try:
            return values(events)
        except module.SSEError as error:
            assert not source.response.is_stream_consumed
            return str(error)

    async def aread(module: Any) -> Any:
        events = module.EventSource(response(asynchronous(chunks()), content_type)).aiter_sse()
        try:
            return await collect(events)
        except module.SSEError as error:
            return str(error)

    seen = of_each(read)
    assert of_each(lambda module: run("asyncio", lambda: aread(module))) == seen
    good = "text/event-stream" in content_type.partition(";")[0]
    assert (seen == EVENTS) is good


def test_no_content_type() -> None:
    def read(module: Any) -> Any:
        return raised(lambda: next(module.EventSource(httpx.Response(200)).iter_sse()))

    assert of_each(read)[0] == "SSEError"


def test_a_check_of_the_users_own() -> None:
    def read(module: Any) -> Any:
        class Lenient(module.EventSource):  # type: ignore[misc]
            def _check_content_type(self) -> None:
                pass

        async def aread() -> Any:
            return await collect(Lenient(response(asynchronous(chunks()), "any")).aiter_sse())

        return values(Lenient(response(STREAM, "any")).iter_sse()), run("asyncio", aread)

    assert of_each(read) == (EVENTS, EVENTS)


def test_a_response_that_was_read() -> None:
    def read(module: Any) -> Any:
        answer = response(iter(chunks()))
        assert answer.read() == STREAM
        source = module.EventSource(answer)
        # As often as one likes.
        return values(source.iter_sse()), values(source.iter_sse())

    assert of_each(read) == (EVENTS, EVENTS)


def test_a_response_that_was_read_async() -> None:
    def read(module: Any) -> Any:
        async def aread() -> Any:
            answer = response(asynchronous(chunks()))
            await answer.aread()
            source = module.EventSource(answer)
            # Which can be read in either way.
            return await collect(source.aiter_sse()), values(source.iter_sse())

        return run("asyncio", aread)

    assert of_each(read) == (EVENTS, EVENTS)


def test_what_cannot_be_read() -> None:
    def read(module: Any) -> Any:
        consumed, closed = response(iter(chunks())), response(iter(chunks()))
        for _ in consumed.iter_raw():
            pass
        closed.close()

        async def aread() -> Any:
            events = module.EventSource(response(iter(chunks()))).aiter_sse()
            with pytest.raises(RuntimeError) as caught:
                await events.__anext__()
            return str(caught.value)

        return [
            *(
                raised(lambda each=each: next(module.EventSource(each).iter_sse()))
                for each in (consumed, closed, response(asynchronous(chunks())))
            ),
            run("asyncio", aread),
        ]

    seen = of_each(read)
    assert [each[0] for each in seen[:3]] == ["StreamConsumed", "StreamClosed", "RuntimeError"]


@pytest.mark.parametrize(
    ("charset", "encoded"),
    [
        *(("utf-8", "utf-8"), ("UTF8", "utf-8"), ("utf_8", "utf-8"), ("bogus", "utf-8")),
        *(("iso-8859-1", "iso-8859-1"), ("windows-1252", "cp1252"), ("shift_jis", "shift_jis")),
        *(("utf-16", "utf-16"), ("utf-16-le", "utf-16-le"), ("utf-32", "utf-32")),
        *(("utf-8", "latin-1"), ("us-ascii", "utf-8"), ("iso-2022-jp", "iso-2022-jp")),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_another_charset(charset: str, encoded: str, size: int) -> None:
    word = "日本" if "j" in encoded else "£"
    stream = f"event: {word}\r\ndata: {word}{word}\r\n\r\ndata: {word}\n\n".encode(encoded)
    parts = chunks(stream, size)
    content_type = f"text/event-stream; charset={charset}"

    def read(module: Any) -> Any:
        async def aread() -> Any:
            answer = response(asynchronous(parts), content_type)
            return await collect(module.EventSource(answer).aiter_sse())

        source = module.EventSource(response(iter(parts), content_type))
        return values(source.iter_sse()), run("asyncio", aread)

    seen, aseen = of_each(read)
    assert seen == aseen
    assert len(seen) == 2
    if (charset, encoded) not in (("utf-8", "latin-1"), ("us-ascii", "utf-8")):
        assert seen == [(word, word * 2, "", None), ("message", word, "", None)]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", lambda content: "latin-1"])
def test_a_default_encoding(encoding: Any) -> None:
    stream = "data: £\n\n".encode("latin-1")

    def read(module: Any) -> Any:
        unread = response(iter([stream]), default_encoding=encoding)
        whole = response(stream, default_encoding=encoding)
        chosen = response(iter([stream]))
        chosen.encoding = "latin-1"
        return [values(module.EventSource(each).iter_sse()) for each in (unread, whole, chosen)]

    seen = of_each(read)
    assert seen[2] == [("message", "£", "", None)]
    assert seen[1] == ([("message", "\ufffd", "", None)] if encoding == "utf-8" else seen[2])


def test_invalid_bytes() -> None:
    def read(module: Any) -> Any:
        stream = b"data: a\xff\xe2\x82b\nid: \xed\xa0\x80\n\n"
        return [
            values(module.EventSource(response(iter(chunks(stream, size)))).iter_sse())
            for size in (1, 2, 100)
        ]

    assert of_each(read)[0] == [("message", "a\ufffd\ufffdb", "\ufffd\ufffd\ufffd", None)]


# -- Ends ------------------------------------------------------------------------------------------


def test_a_generator_that_is_closed() -> None:
    def read(module: Any) -> Any:
        source = module.EventSource(response(iter(chunks())))
        events = source.iter_sse()
        assert inspect.isgenerator(events)
        first = values([next(events)])
        events.close()
        return first, list(events), source.response.is_closed, source.response.is_stream_consumed

    assert of_each(read)[:2] == (EVENTS[:1], [])


@BACKENDS
def test_an_async_generator_that_is_closed(backend: str) -> None:
    def read(module: Any) -> Any:
        async def aread() -> Any:
            answer = response(asynchronous(chunks()))
            events = module.EventSource(answer).aiter_sse()
            assert inspect.isasyncgen(events)
            first = values([await events.__anext__()])
            await events.aclose()
            rest = await collect(events)
            await answer.aclose()
            return first, rest, answer.is_closed, answer.is_stream_consumed

        return run(backend, aread)

    assert of_each(read) == (EVENTS[:1], [], True, True)


@pytest.mark.parametrize("which", ["theirs", "ours", "installed"])
def test_no_generator_of_its_own_is_left_to_the_collector(which: str) -> None:
    """Those of httpx are, with the original too."""
    module: Any = HTTPX_SSE[which == "ours"]
    left = []

    async def read() -> None:
        hooks = sys.get_asyncgen_hooks()

        def finalizer(generator: Any) -> None:
            left.append(generator.ag_code.co_filename)
            hooks.finalizer(generator)

        sys.set_asyncgen_hooks(hooks.firstiter, finalizer)
        events = module.EventSource(response(asynchronous(chunks()))).aiter_sse()
        await events.__anext__()
        await events.aclose()

    with sse_fast.install("httpx_sse") if which == "installed" else nullcontext():
        run("asyncio", read)
    directory = str(Path(httpx.__file__).parent)
    # And that which this test makes.
    assert {path for path in left if not path.startswith(directory)} <= {__file__}
    assert left


def test_what_is_thrown_in() -> None:
    """And what the source raises: it comes out, and ends it."""

    def read(module: Any) -> Any:
        def failing() -> Iterator[bytes]:
            yield b"data: a\n\ndata: b"
            raise Fault("source")

        events = module.EventSource(response(failing())).iter_sse()
        seen = values([next(events)])
        error = raised(lambda: next(events))
        thrown = module.EventSource(response(iter(chunks()))).iter_sse()
        next(thrown)
        return seen, error, list(events), raised(lambda: thrown.throw(Fault("user"))), list(thrown)

    assert of_each(read) == (
        [("message", "a", "", None)],
        *(("Fault", "source"), [], ("Fault", "user"), []),
    )
