"""The modules to be imported instead, beside the originals: all that a program can see of them."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import sys
import threading
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import closing, nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import httpx_sse
import pytest
import requests
import sseclient
import urllib3
from hypothesis import given
from hypothesis import strategies as st
from libraries import Body
from reading import OF_TRIO
from server import Answer, Server

import sse_fast
import sse_fast.compat.httpx_sse
import sse_fast.compat.sseclient

STREAM = (
    b": hello\nevent: greeting\nid: 1\nretry: 250\ndata: caf\xc3\xa9\ndata: \xf0\x9f\x9a\x80\n\n"
    b'data: {"a": [1, null]}\n\nevent: empty\n\nid\ndata\n\ndata: not complete\n'
)
EVENTS = [
    ("greeting", "café\n🚀", "1", 250),
    ("message", '{"a": [1, null]}', "1", None),
    ("empty", "", "1", None),
    ("message", "", "", None),
]
EVENT_STREAM = {"content-type": "text/event-stream"}
HTTPX_SSE = (httpx_sse, sse_fast.compat.httpx_sse)
SSECLIENT = (sseclient, sse_fast.compat.sseclient)


def values(events: Iterable[Any]) -> list[tuple[Any, ...]]:
    return [(event.event, event.data, event.id, event.retry) for event in events]


def chunks(stream: bytes = STREAM, size: int = 7) -> list[bytes]:
    return [stream[at : at + size] for at in range(0, len(stream), size)]


def of_both(modules: tuple[ModuleType, ModuleType], call: Callable[[Any], Any]) -> Any:
    """What comes of a call with the original, and the same with ours."""
    theirs, ours = map(call, modules)
    assert ours == theirs
    return theirs


def of_each(call: Callable[[Any], Any]) -> Any:
    return of_both(HTTPX_SSE, call)


def raised(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(Exception) as caught:  # Whatever it is, it is the same.
        call()
    return type(caught.value).__name__, str(caught.value)


def parameters(function: Any) -> list[tuple[str, Any, Any]]:
    return [
        (each.name, each.kind, each.default)
        for each in inspect.signature(function).parameters.values()
    ]


def public(owner: Any) -> dict[str, Any]:
    """Of a class, with what it inherits."""
    return {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}


def assert_alike(theirs: Any, ours: Any) -> int:
    """Two classes or functions; return how many signatures were compared."""
    if not inspect.isclass(theirs):
        assert parameters(ours) == parameters(theirs)
        for kind in (inspect.iscoroutinefunction, inspect.isasyncgenfunction):
            assert kind(ours) == kind(theirs)
        assert inspect.isgeneratorfunction(ours) == inspect.isgeneratorfunction(theirs)
        return 1
    assert parameters(ours) == parameters(theirs)
    assert ours.__name__ == theirs.__name__
    # But for their own, the same: what `except` catches.
    assert ours.__mro__[1:] == theirs.__mro__[1:]
    compared = 1
    assert set(public(ours)) == set(public(theirs))
    for name in public(theirs):
        there, here = (inspect.getattr_static(owner, name) for owner in (theirs, ours))
        assert type(here) is type(there), name
        if inspect.isfunction(there):
            compared += assert_alike(there, here)
    return compared


# -- httpx-sse: what can be named ------------------------------------------------------------------


def test_the_names_of_httpx_sse() -> None:
    theirs, ours = HTTPX_SSE
    assert set(ours.__all__) == set(theirs.__all__)
    assert ours.__version__ == theirs.__version__
    compared = sum(
        assert_alike(getattr(theirs, name), getattr(ours, name))
        for name in ours.__all__
        if name != "__version__"
    )
    # Two functions, three constructors, and json(), iter_sse(), aiter_sse().
    assert compared == 8
    for name in ours.__all__:
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


# -- httpx-sse: reading ----------------------------------------------------------------------------


def response(
    stream: Any = STREAM, content_type: str = "text/event-stream", **options: Any
) -> httpx.Response:
    return httpx.Response(200, headers={"content-type": content_type}, content=stream, **options)


async def asynchronous(parts: Iterable[bytes]) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


BACKENDS = pytest.mark.parametrize("backend", ["asyncio", pytest.param("trio", marks=OF_TRIO)])


def run(backend: str, function: Callable[[], Awaitable[Any]]) -> Any:
    async def limited() -> Any:
        with anyio.fail_after(10):
            return await function()

    return anyio.run(limited, backend=backend)


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


# -- httpx-sse: ends -------------------------------------------------------------------------------


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


class Fault(Exception):
    pass


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


# -- httpx-sse: with servers -----------------------------------------------------------------------


def sync_events(module: Any, url: str, **options: Any) -> Any:
    """What comes of the body, and what is raised behind it."""
    client = options.pop("client", {})
    with (
        httpx.Client(timeout=5, **client) as http,
        module.connect_sse(http, options.pop("method", "GET"), url, **options) as source,
    ):
        assert type(source) is module.EventSource
        seen: list[Any] = []
        error = None
        try:
            for event in source.iter_sse():
                seen += values([event])
        except httpx.HTTPError as caught:
            error = type(caught).__name__, str(caught), caught.request.method
    assert source.response.is_closed
    return seen, error


async def async_events(module: Any, url: str, **options: Any) -> Any:
    client = options.pop("client", {})
    async with (
        httpx.AsyncClient(timeout=5, **client) as http,
        module.aconnect_sse(http, options.pop("method", "GET"), url, **options) as source,
    ):
        assert type(source) is module.EventSource
        seen: list[Any] = []
        error = None
        try:
            async for event in source.aiter_sse():
                seen += values([event])
        except httpx.HTTPError as caught:
            error = type(caught).__name__, str(caught), caught.request.method
    assert source.response.is_closed
    return seen, error


WAYS = pytest.mark.parametrize("way", ["sync", "asyncio", pytest.param("trio", marks=OF_TRIO)])


def over_http(way: str, url: str, **options: Any) -> Any:
    """The same by both modules."""
    if way == "sync":
        return of_each(lambda module: sync_events(module, url, **options))
    return of_each(lambda module: run(way, lambda: async_events(module, url, **options)))


@WAYS
@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_over_http(server: Server, way: str, framing: str) -> None:
    server.answers["/events"] = Answer(chunks(), framing)
    assert over_http(way, f"{server.url}/events") == (EVENTS, None)


@WAYS
def test_what_is_sent(server: Server, way: str) -> None:
    server.answers["/events"] = Answer([STREAM])
    options = {
        "method": "POST",
        "json": {"a": 1},
        "params": {"q": "x"},
        "headers": {"X-Any": "1", "Accept": "*/*"},
        "cookies": {"c": "1"},
        "client": {"base_url": server.url, "headers": {"X-Client": "2"}},
    }
    of_way = sync_events if way == "sync" else async_events
    for module in HTTPX_SSE:
        # Which the original writes to.
        given_to = {**options, "headers": dict(options["headers"])}  # type: ignore[call-overload]
        result = of_way(module, "/events", **given_to)
        assert (result if way == "sync" else run(way, lambda r=result: r)) == (EVENTS, None)
    theirs, ours = server.requests

    def shown(request: Any) -> Any:
        fields = {name: value for name, value in request.headers.items() if name != "host"}
        return request.method, request.path, request.body, fields

    assert shown(ours) == shown(theirs)
    assert theirs.method == "POST"
    assert theirs.headers["accept"] == "text/event-stream"
    assert theirs.headers["cache-control"] == "no-store"
    assert theirs.headers["x-client"] == "2"


@WAYS
def test_a_body_that_is_cut_off(server: Server, way: str) -> None:
    server.answers["/events"] = Answer(chunks(), "cut")
    events, error = over_http(way, f"{server.url}/events")
    assert events == EVENTS
    assert error[0] == "RemoteProtocolError"


@WAYS
def test_a_body_that_does_not_come(server: Server, way: str) -> None:
    held = threading.Event()
    server.answers["/events"] = Answer([STREAM], hold=held)
    timeout = httpx.Timeout(5, read=0.1)
    events, error = over_http(way, f"{server.url}/events", timeout=timeout)
    held.set()
    assert events == EVENTS
    assert error[0] == "ReadTimeout"


@WAYS
def test_compressed(server: Server, way: str) -> None:
    server.answers["/events"] = Answer(chunks(), gzip=True)
    assert over_http(way, f"{server.url}/events") == (EVENTS, None)
    wrong = {**Answer([]).headers, "Content-Encoding": "gzip"}
    server.answers["/events"] = Answer([STREAM], headers=wrong)
    events, error = over_http(way, f"{server.url}/events")
    assert (events, error[0]) == ([], "DecodingError")


@WAYS
@pytest.mark.parametrize("status", [200, 404])
def test_another_content_type(server: Server, way: str, status: int) -> None:
    """The status is for the user to look at."""
    server.answers["/events"] = Answer([STREAM], status=status, headers={"Content-Type": "a/b"})
    url = f"{server.url}/events"
    calls = {
        "sync": lambda module: raised(lambda: sync_events(module, url)),
    }
    call = calls.get(
        way, lambda module: raised(lambda: run(way, lambda: async_events(module, url)))
    )
    # An error before any request is sent has none.
    assert of_each(call)[0] == "RuntimeError"
    server.answers["/events"] = Answer([STREAM], status=status)
    assert over_http(way, url) == (EVENTS, None)


@WAYS
def test_left_early(server: Server, way: str) -> None:
    held = threading.Event()
    server.answers["/events"] = Answer([STREAM], hold=held)
    url = f"{server.url}/events"

    def read(module: Any) -> Any:
        with httpx.Client() as http, module.connect_sse(http, "GET", url) as source:
            event = next(iter(source.iter_sse()))
        return values([event]), source.response.is_closed

    async def aread(module: Any) -> Any:
        async with httpx.AsyncClient() as http, module.aconnect_sse(http, "GET", url) as source:
            events = source.aiter_sse()
            event = await events.__anext__()
            await events.aclose()
        return values([event]), source.response.is_closed

    seen = of_each(read if way == "sync" else lambda module: run(way, lambda: aread(module)))
    held.set()
    assert seen == (EVENTS[:1], True)


@WAYS
def test_an_exception_of_the_user(server: Server, way: str) -> None:
    server.answers["/events"] = Answer([STREAM])
    url = f"{server.url}/events"
    for module in HTTPX_SSE:
        sources = []

        def read(module: Any = module, sources: list[Any] = sources) -> None:
            with httpx.Client() as http, module.connect_sse(http, "GET", url) as source:
                sources.append(source)
                raise Fault

        async def aread(module: Any = module, sources: list[Any] = sources) -> None:
            async with (
                httpx.AsyncClient() as http,
                module.aconnect_sse(http, "GET", url) as source,
            ):
                sources.append(source)
                raise Fault

        with pytest.raises(Fault):
            read() if way == "sync" else run(way, aread)
        assert sources[0].response.is_closed


@BACKENDS
def test_over_asgi(backend: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert dict(scope["headers"])[b"accept"] == b"text/event-stream"
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in chunks():
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    transport = httpx.ASGITransport(app=app)
    seen = over_http(backend, "http://test/", client={"transport": transport})
    assert seen == (EVENTS, None)


def test_over_wsgi_and_mock_transports() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, headers=EVENT_STREAM, content=STREAM)

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return chunks()

    for transport in (httpx.MockTransport(handler), httpx.WSGITransport(app=app)):
        seen = over_http("sync", "http://test/", client={"transport": transport})
        assert seen == (EVENTS, None)


# -- sseclient-py ----------------------------------------------------------------------------------


FULL = [("greeting", "café\n🚀", "1", "250"), ("message", '{"a": [1, null]}', None, None)]
FULL += [("message", "", "", None), ("message", "not complete", None, None)]


def of_sseclient(call: Callable[[Any], Any]) -> Any:
    return of_both(SSECLIENT, call)


def test_the_names_of_sseclient() -> None:
    theirs, ours = SSECLIENT
    # The original forgets one.
    assert set(ours.__all__) == {*theirs.__all__, "Event"}
    compared = sum(
        assert_alike(getattr(theirs, name), getattr(ours, name))
        for name in ours.__all__
        if name != "__version__"
    )
    # Two constructors, events(), close().
    assert compared == 4


@given(texts, st.text(), st.text(), texts)
def test_an_event_of_sseclient(id: str | None, event: str, data: str, retry: str | None) -> None:
    def shown(module: Any) -> Any:
        made = [
            module.Event(id, event, data, retry),
            module.Event(id=id, event=event, data=data, retry=retry),
        ]
        made += [copy.copy(made[0]), copy.deepcopy(made[0]), pickle.loads(pickle.dumps(made[0]))]
        assert {type(each) for each in made} == {module.Event}
        return [(str(each), list(vars(each).items())) for each in made]

    shown_values = of_sseclient(shown)
    assert all(each == shown_values[0] for each in shown_values)


def test_an_event_without_arguments() -> None:
    assert of_sseclient(lambda module: vars(module.Event()))["event"] == "message"

    def set_it(module: Any) -> str:
        event = module.Event()
        event.data = "x"
        event.other = 1
        return str(event)

    assert of_sseclient(set_it) == "message event, 1 byte" + "s"


@pytest.mark.parametrize("data", [None, 0])
def test_an_event_whose_data_is_no_text(data: Any) -> None:
    assert of_sseclient(lambda module: str(module.Event(data=data))) == "message event, no data"


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_source_in_chunks(size: int) -> None:
    def read(module: Any) -> Any:
        body = Body(chunks(size=size))
        client = module.SSEClient(body)
        events = client.events()
        assert inspect.isgenerator(events)
        seen = list(events)
        assert {type(event) for event in seen} == {module.Event}
        assert not body.closed
        client.close()
        assert body.closed
        return values(seen)

    assert of_sseclient(read) == FULL


def test_events_again() -> None:
    """Whoever asks again gets what the source still has."""

    def read(module: Any) -> Any:
        body = Body(iter([b"data: 1\n\ndata: lost\n\n", b"data: 2\n\n", b"data: 3\n\n"]))
        client = module.SSEClient(body)
        first = next(client.events()).data
        second, third = client.events(), client.events()
        return first, next(second).data, next(third).data, list(second)

    assert of_sseclient(read) == ("1", "2", "3", [])


def test_nothing_is_read_before_it_is_asked_for() -> None:
    def read(module: Any) -> Any:
        asked = []

        def parts() -> Iterator[bytes]:
            for part in (b"data: 1\n\n", b"data: 2\n\n"):
                asked.append(part)
                yield part

        client = module.SSEClient(Body(parts()), char_enc="utf-8")
        events = client.events()
        before = len(asked)
        next(events)
        return before, len(asked)

    assert of_sseclient(read) == (0, 1)


@pytest.mark.parametrize(
    "encoding",
    [
        *("utf-8", "UTF8", "latin-1", "cp1252", "iso-8859-15", "shift_jis", "euc_jp", "big5"),
        *("ascii", "koi8-r", "utf-8-sig", "iso2022_jp"),
    ],
)
@pytest.mark.parametrize("size", [1, 4, 1000])
def test_another_encoding(encoding: str, size: int) -> None:
    word = {"shift_jis": "日本", "euc_jp": "日本", "iso2022_jp": "日本", "big5": "中文"}.get(
        encoding, {"ascii": "a", "koi8-r": "да"}.get(encoding, "£é")
    )
    stream = f"event: {word}\ndata: {word}\ndata: {word}\n\nid: {word}\ndata: b\n\n"

    def read(module: Any) -> Any:
        parts = chunks(stream.encode(encoding), size)
        return values(module.SSEClient(Body(parts), encoding).events())

    assert of_sseclient(read) == [
        (word, f"{word}\n{word}", None, None),
        ("message", "b", word, None),
    ]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "shift_jis"])
def test_bytes_that_are_of_another(encoding: str) -> None:
    def read(module: Any) -> Any:
        events = module.SSEClient(
            Body([b"data: a\n\n", b"data: b\n\ndata: \xfd\xff\n\n", b"data: c\n\n"]), encoding
        ).events()
        seen = values([next(events), next(events)])
        with pytest.raises(UnicodeDecodeError) as caught:
            next(events)
        return seen, caught.value.encoding, list(events)

    assert of_sseclient(read)[2] == []


def test_an_encoding_that_nobody_knows() -> None:
    def read(module: Any) -> Any:
        events = module.SSEClient(Body([b"data: a\n\n"]), "bogus").events()
        return raised(lambda: next(events))

    assert of_sseclient(read) == ("LookupError", "unknown encoding: bogus")


def over_requests(url: str, read: Callable[[Any], Any]) -> Any:
    with requests.get(url, stream=True, timeout=5) as answer:
        return read(answer)


def over_urllib3(url: str, read: Callable[[Any], Any]) -> Any:
    with (
        urllib3.PoolManager() as pool,
        closing(pool.request("GET", url, preload_content=False, retries=False)) as answer,
    ):
        return read(answer)


def over_urllib(url: str, read: Callable[[Any], Any]) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return read(answer)


CLIENTS = pytest.mark.parametrize("client", [over_requests, over_urllib3, over_urllib])


@CLIENTS
@pytest.mark.parametrize("framing", ["chunked", "close", "length"])
def test_clients(server: Server, client: Any, framing: str) -> None:
    server.answers["/events"] = Answer(chunks(), framing)

    def read(module: Any) -> Any:
        def use(answer: Any) -> Any:
            sse = module.SSEClient(answer)
            seen = values(sse.events())
            sse.close()
            return seen

        return client(f"{server.url}/events", use)

    assert of_sseclient(read) == FULL


@pytest.mark.parametrize("gzip", [False, True])
def test_a_response_of_requests_that_was_read(server: Server, gzip: bool) -> None:
    server.answers["/events"] = Answer(chunks(), gzip=gzip)

    def read(module: Any) -> Any:
        answer = requests.get(f"{server.url}/events", timeout=5)
        return values(module.SSEClient(answer).events()), values(module.SSEClient(answer).events())

    assert of_sseclient(read) == (FULL, FULL)


@pytest.mark.parametrize("client", [over_requests, over_urllib3])
def test_a_client_whose_body_is_cut_off(server: Server, client: Any) -> None:
    server.answers["/events"] = Answer([STREAM], "cut")

    def read(module: Any) -> Any:
        seen: list[Any] = []

        def use(answer: Any) -> Any:
            try:
                for event in module.SSEClient(answer).events():
                    seen.extend(values([event]))
            except (OSError, urllib3.exceptions.HTTPError) as error:
                return type(error).__name__

        return client(f"{server.url}/events", use), seen

    error, seen = of_sseclient(read)
    assert error == ("ChunkedEncodingError" if client is over_requests else "ProtocolError")
    assert seen[:3] == FULL[:3]


@CLIENTS
def test_a_client_that_is_closed_early(server: Server, client: Any) -> None:
    held = threading.Event()
    # More than what any of them reads at once.
    server.answers["/events"] = Answer([STREAM + b": " + b"x" * 1000 + b"\n"], hold=held)

    def read(module: Any) -> Any:
        def use(answer: Any) -> Any:
            sse = module.SSEClient(answer)
            first = values([next(sse.events())])
            # The server sends no more: this waits for nothing.
            sse.close()
            return first

        return client(f"{server.url}/events", use)

    try:
        assert of_sseclient(read) == FULL[:1]
    finally:
        held.set()
