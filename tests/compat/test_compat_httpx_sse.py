"""`compat.httpx_sse` and the original have the same names, events and ways to read a response."""

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
    compare_httpx_sse,
    raised,
    run,
    values,
)

# -- Names and events ------------------------------------------------------------------------------


def test_module_has_the_original_api() -> None:
    theirs, ours = HTTPX_SSE
    assert set(ours.__all__) == set(theirs.__all__)
    assert ours.__version__ == theirs.__version__
    # __version__ is neither a class nor a function.
    names = set(ours.__all__) - {"__version__"}
    compared = sum(assert_alike(getattr(theirs, name), getattr(ours, name)) for name in names)
    # Two functions, three constructors, and json(), iter_sse(), aiter_sse().
    assert compared == 8
    for name in names:
        assert getattr(ours, name).__module__ == "sse_fast.compat.httpx_sse"


def test_error_is_a_transport_error() -> None:
    for module in HTTPX_SSE:
        assert module.SSEError.__bases__ == (httpx.TransportError,)
        error = module.SSEError("any", request=httpx.Request("GET", "http://localhost"))
        assert (str(error), str(error.request.url)) == ("any", "http://localhost")
    assert compare_httpx_sse(lambda module: raised(lambda: module.SSEError("any").request))


texts = st.none() | st.text()
retries = st.none() | st.integers()


@given(texts, texts, texts, retries)
def test_event_constructor_copy_and_pickle(
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

    seen, _, _ = compare_httpx_sse(shown)
    assert len(set(seen)) == 1


@pytest.mark.parametrize("arguments", [{}, {"data": "x"}, {"id": "1"}, {"retry": 0}])
def test_event_with_one_argument(arguments: dict[str, Any]) -> None:
    compare_httpx_sse(
        lambda module: (
            repr(module.ServerSentEvent(**arguments)),
            values([module.ServerSentEvent(**arguments)]),
        )
    )


@pytest.mark.parametrize("value", [0, b"", [], False], ids=repr)
def test_event_repr_of_values_that_are_not_text(value: Any) -> None:
    compare_httpx_sse(lambda module: repr(module.ServerSentEvent("a", value, value, value)))


def test_events_compare_by_identity() -> None:
    for module in HTTPX_SSE:
        one, two = module.ServerSentEvent("a"), module.ServerSentEvent("a")
        assert one != two
        assert len({one, two}) == 2


@pytest.mark.parametrize("name", ["event", "data", "id", "retry", "other"])
def test_event_attributes_are_read_only(name: str) -> None:
    def set_it(module: Any) -> Any:
        event = module.ServerSentEvent("a")
        try:
            setattr(event, name, "x")
        except AttributeError:
            return "refused"
        return getattr(event, name)

    assert compare_httpx_sse(set_it) == ("x" if name == "other" else "refused")


@pytest.mark.parametrize("data", ['{"a": 1}', "[]", "1", "", "{", "NaN", '"\\ud800"', None])
def test_event_json_result_or_error(data: str | None) -> None:
    def read(module: Any) -> str:
        event = module.ServerSentEvent(data=data)
        try:
            return repr(event.json())
        except json.JSONDecodeError as error:
            return f"{error}"

    compare_httpx_sse(read)


def test_event_subclass_properties_are_used() -> None:
    def shown(module: Any) -> Any:
        class Own(module.ServerSentEvent):  # type: ignore[misc]
            @property
            def data(self) -> str:
                return "[1]"

        return Own(data="x").json(), repr(Own(data="x"))

    compare_httpx_sse(shown)


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
def test_iter_sse_reads_any_chunks(size: int) -> None:
    for module in HTTPX_SSE:
        source = module.EventSource(response(iter(chunks(size=size))))
        events = list(source.iter_sse())
        assert values(events) == EVENTS
        assert {type(event) for event in events} == {module.ServerSentEvent}
        assert isinstance(source.response, httpx.Response)
        assert source.response.is_closed


@BACKENDS
def test_aiter_sse_reads_any_chunks(backend: str) -> None:
    for module in HTTPX_SSE:

        async def read(module: Any = module) -> list[Any]:
            return await collect(module.EventSource(response(asynchronous(chunks()))).aiter_sse())

        assert run(backend, read) == EVENTS


def test_event_source_response_is_read_only() -> None:
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
def test_content_type_is_checked_when_read(content_type: str) -> None:
    def read(module: Any) -> Any:
        source = module.EventSource(response(iter(chunks()), content_type))
        # The call itself does not raise.
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

    seen = compare_httpx_sse(read)
    assert compare_httpx_sse(lambda module: run("asyncio", lambda: aread(module))) == seen
    good = "text/event-stream" in content_type.partition(";")[0]
    assert (seen == EVENTS) is good


def test_missing_content_type_raises() -> None:
    def read(module: Any) -> Any:
        return raised(lambda: next(module.EventSource(httpx.Response(200)).iter_sse()))

    assert compare_httpx_sse(read)[0] == "SSEError"


def test_subclass_content_type_check_is_used() -> None:
    def read(module: Any) -> Any:
        class Lenient(module.EventSource):  # type: ignore[misc]
            def _check_content_type(self) -> None:
                pass

        async def aread() -> Any:
            return await collect(Lenient(response(asynchronous(chunks()), "any")).aiter_sse())

        return values(Lenient(response(STREAM, "any")).iter_sse()), run("asyncio", aread)

    assert compare_httpx_sse(read) == (EVENTS, EVENTS)


def test_iter_sse_after_response_was_read() -> None:
    def read(module: Any) -> Any:
        answer = response(iter(chunks()))
        assert answer.read() == STREAM
        source = module.EventSource(answer)
        # A body that was read can be parsed repeatedly.
        return values(source.iter_sse()), values(source.iter_sse())

    assert compare_httpx_sse(read) == (EVENTS, EVENTS)


def test_aiter_sse_after_response_was_read() -> None:
    def read(module: Any) -> Any:
        async def aread() -> Any:
            answer = response(asynchronous(chunks()))
            await answer.aread()
            source = module.EventSource(answer)
            # A body that was read can be parsed either way.
            return await collect(source.aiter_sse()), values(source.iter_sse())

        return run("asyncio", aread)

    assert compare_httpx_sse(read) == (EVENTS, EVENTS)


def test_unreadable_response_raises_as_httpx_does() -> None:
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

    seen = compare_httpx_sse(read)
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
def test_charset_of_content_type_is_used(charset: str, encoded: str, size: int) -> None:
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

    seen, aseen = compare_httpx_sse(read)
    assert seen == aseen
    assert len(seen) == 2
    if (charset, encoded) not in (("utf-8", "latin-1"), ("us-ascii", "utf-8")):
        assert seen == [(word, word * 2, "", None), ("message", word, "", None)]


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8", lambda content: "latin-1"])
def test_default_encoding_of_response_is_used(encoding: Any) -> None:
    stream = "data: £\n\n".encode("latin-1")

    def read(module: Any) -> Any:
        unread = response(iter([stream]), default_encoding=encoding)
        whole = response(stream, default_encoding=encoding)
        chosen = response(iter([stream]))
        chosen.encoding = "latin-1"
        return [values(module.EventSource(each).iter_sse()) for each in (unread, whole, chosen)]

    seen = compare_httpx_sse(read)
    assert seen[2] == [("message", "£", "", None)]
    assert seen[1] == ([("message", "\ufffd", "", None)] if encoding == "utf-8" else seen[2])


def test_invalid_utf8_is_replaced() -> None:
    def read(module: Any) -> Any:
        stream = b"data: a\xff\xe2\x82b\nid: \xed\xa0\x80\n\n"
        return [
            values(module.EventSource(response(iter(chunks(stream, size)))).iter_sse())
            for size in (1, 2, 100)
        ]

    assert compare_httpx_sse(read)[0] == [("message", "a\ufffd\ufffdb", "\ufffd\ufffd\ufffd", None)]


# -- Ends ------------------------------------------------------------------------------------------


def test_iter_sse_closed_generator_ends() -> None:
    def read(module: Any) -> Any:
        source = module.EventSource(response(iter(chunks())))
        events = source.iter_sse()
        assert inspect.isgenerator(events)
        first = values([next(events)])
        events.close()
        return first, list(events), source.response.is_closed, source.response.is_stream_consumed

    assert compare_httpx_sse(read)[:2] == (EVENTS[:1], [])


@BACKENDS
def test_aiter_sse_closed_generator_ends(backend: str) -> None:
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

    assert compare_httpx_sse(read) == (EVENTS[:1], [], True, True)


@pytest.mark.parametrize("which", ["theirs", "ours", "installed"])
def test_aiter_sse_closes_its_own_generators(which: str) -> None:
    """Generators inside httpx are left to the collector, also with the original."""
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
    # The generator that this test makes is one more.
    assert {path for path in left if not path.startswith(directory)} <= {__file__}
    assert left


def test_iter_sse_passes_errors_on() -> None:
    """Errors of the source and of the user end the generator."""

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

    assert compare_httpx_sse(read) == (
        [("message", "a", "", None)],
        *(("Fault", "source"), [], ("Fault", "user"), []),
    )
