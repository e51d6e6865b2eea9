"""The real SDKs over loopback, before and after `install`: the same objects, errors and ends."""

from __future__ import annotations

import inspect
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from http.client import HTTPConnection
from importlib import import_module
from typing import Any

import anyio
import anyio.to_thread
import pytest

import sse_fast
from tests.support.sdk_server import APIS, DRESSES, KEY, SdkServer, serve_sdks
from tests.support.threaded_reader import OF_TRIO, wait_until

LIMIT = 10.0  # seconds that an SDK waits
# There is no TLS here, and every client would read the authorities of the web.
UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
MESSAGES = [{"role": "user", "content": "Wie wird das Wetter?"}]
CHAT = {"model": "any", "messages": MESSAGES}
RESPONSES = {"model": "any", "input": "Wie wird das Wetter?"}
MESSAGE = {**CHAT, "max_tokens": 100}
# The first event comes behind a BOM in these.
MARKED = [name for name, dress in DRESSES.items() if dress.bom]
UNMARKED = [name for name in DRESSES if name not in MARKED]


# -- The SDKs --------------------------------------------------------------------------------------


# What `install` replaces in each.
PARTS = {
    "openai": [("openai._base_client", "SSEDecoder"), ("openai._streaming", "SSEDecoder")],
    "anthropic": [
        ("anthropic._base_client", "SSEDecoder"),
        ("anthropic._streaming", "SSEDecoder"),
    ],
    "cohere": [
        ("cohere.core.http_sse._api", "EventSource._decode_response"),
        ("cohere.core.http_sse._api", "EventSource._adecode_response"),
    ],
    "mistralai": [
        ("mistralai.client.utils.eventstreaming", "stream_events"),
        ("mistralai.client.utils.eventstreaming", "stream_events_async"),
    ],
}


def parts(sdk: str) -> list[Any]:
    found = []
    for module, path in PARTS[sdk]:
        owner = import_module(module)
        for name in path.split("."):
            owner = vars(owner)[name]
        found.append(owner)
    return found


def are_ours(sdk: str) -> bool:
    """Whether sse_fast is what the SDK uses now: all of it, or nothing."""
    (ours,) = {part.__module__.startswith("sse_fast.compat.") for part in parts(sdk)}
    return ours


def theirs(sdk: str) -> Any:
    return import_module(f"{sdk}._streaming").SSEDecoder


def ours(sdk: str) -> Any:
    return import_module(f"sse_fast.compat.{sdk}").SSEDecoder


@contextmanager
def installed(sdk: str) -> Iterator[None]:
    """Ours are in place within, theirs before and behind."""
    before = parts(sdk)
    assert not are_ours(sdk)
    with sse_fast.install(sdk):
        assert are_ours(sdk)
        yield
    assert all(now is then for now, then in zip(parts(sdk), before, strict=True))


@cache
def makers(sdk: str) -> tuple[Any, Any, Callable[..., Any], Callable[..., Any]]:
    """HTTP clients of the library that the SDK uses, and what makes SDK clients of them."""
    if sdk in ("openai", "anthropic"):
        module = import_module(sdk)
        options: dict[str, Any] = {"api_key": KEY, "timeout": LIMIT, "max_retries": 0}
        clients = {
            "openai": ("OpenAI", "AsyncOpenAI"),
            "anthropic": ("Anthropic", "AsyncAnthropic"),
        }
        client, async_client = (getattr(module, name) for name in clients[sdk])
        suffix = "/v1" if sdk == "openai" else ""
        return (
            partial(module.DefaultHttpxClient, verify=UNUSED),
            partial(module.DefaultAsyncHttpxClient, verify=UNUSED),
            lambda http, base: client(base_url=base + suffix, http_client=http, **options),
            lambda http, base: async_client(base_url=base + suffix, http_client=http, **options),
        )
    if sdk == "cohere":
        cohere, httpx = import_module("cohere"), import_module("httpx")
        return (
            partial(httpx.Client, verify=UNUSED, timeout=LIMIT),
            partial(httpx.AsyncClient, verify=UNUSED, timeout=LIMIT),
            lambda http, base: cohere.ClientV2(KEY, base_url=base, httpx_client=http),
            lambda http, base: cohere.AsyncClientV2(KEY, base_url=base, httpx_client=http),
        )
    mistralai = import_module("mistralai.client")
    # httpx, or httpx2 by that name.
    httpx = import_module("mistralai.client.httpclient").httpx
    return (
        partial(httpx.Client, verify=UNUSED, timeout=LIMIT),
        partial(httpx.AsyncClient, verify=UNUSED, timeout=LIMIT),
        # Both, or it makes the other by itself.
        lambda http, base: mistralai.Mistral(
            KEY, server_url=base, client=http, async_client=httpx.AsyncClient(verify=UNUSED)
        ),
        lambda http, base: mistralai.Mistral(
            KEY, server_url=base, client=httpx.Client(verify=UNUSED), async_client=http
        ),
    )


@contextmanager
def client_of(sdk: str, base: str) -> Iterator[Any]:
    make_http, _, make_client, _ = makers(sdk)
    with make_http() as http:
        yield make_client(http, base)


@asynccontextmanager
async def async_client_of(sdk: str, base: str) -> AsyncIterator[Any]:
    _, make_http, _, make_client = makers(sdk)
    async with make_http() as http:
        yield make_client(http, base)


# -- The ways to stream ----------------------------------------------------------------------------


@dataclass
class Reading:
    """What came of a stream."""

    items: list[tuple[type, Any]] = field(default_factory=list)
    """Each object as it was when it came: some have a part that grows."""
    objects: list[Any] = field(default_factory=list)
    final: Any = None
    """What the SDK has put together."""
    error: tuple[Any, ...] | None = None
    decoder: type | None = field(default=None, compare=False)
    """Of the SDKs that have one."""

    def note(self, thing: Any) -> None:
        if hasattr(thing, "model_dump"):
            # Some of their own objects are not what their models say: pydantic would warn of that.
            self.items.append((type(thing), thing.model_dump(warnings=False)))
            self.objects.append(thing)
        else:
            self.items.append((type(thing), dict(vars(thing))))

    def fail(self, error: Exception) -> None:
        # Where in its bytes the one thing is that is no UTF-8, each counts in its own way.
        text = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        body, status = getattr(error, "body", None), getattr(error, "status_code", None)
        self.error = (type(error), text, body, status, type(error.__cause__))

    def started(self, stream: Any) -> None:
        stream = getattr(stream, "_raw_stream", stream)
        if hasattr(stream, "_decoder"):
            self.decoder = type(stream._decoder)


@dataclass(frozen=True)
class Way:
    sdk: str
    api: str
    call: Callable[[Any], Any]
    """From the client to the stream, or what gives it on entry; async, it may be awaited first."""
    name: str
    is_async: bool
    final: str | None = None

    def __str__(self) -> str:
        return f"{self.name}-{'async' if self.is_async else 'sync'}"

    def read(
        self,
        server: SdkServer,
        scenario: str = "text",
        dress: str = "plain",
        backend: str = "asyncio",
    ) -> Reading:
        """Stream to the end, or to the error, by a client of its own."""
        base = server.base(self.api, scenario, dress)
        if self.is_async:
            return anyio.run(self._read_alone, base, backend=backend)
        with client_of(self.sdk, base) as client:
            return self.take(client)

    async def _read_alone(self, base: str) -> Reading:
        async with async_client_of(self.sdk, base) as client:
            return await self.atake(client)

    def take(self, client: Any) -> Reading:
        reading = Reading()
        try:
            with self.opened(client) as stream:
                reading.started(stream)
                for thing in stream:
                    reading.note(thing)
                if self.final is not None:
                    reading.final = getattr(stream, self.final)()
        except Exception as error:
            reading.fail(error)
        return reading

    async def atake(self, client: Any) -> Reading:
        reading = Reading()
        try:
            async with self.aopened(client) as stream:
                reading.started(stream)
                async for thing in stream:
                    reading.note(thing)
                if self.final is not None:
                    reading.final = await getattr(stream, self.final)()
        except Exception as error:
            reading.fail(error)
        return reading

    @contextmanager
    def opened(self, client: Any) -> Iterator[Any]:
        stream = self.call(client)
        with stream if hasattr(stream, "__enter__") else closing(stream) as opened:
            yield opened

    @asynccontextmanager
    async def aopened(self, client: Any) -> AsyncIterator[Any]:
        stream = self.call(client)
        if inspect.isawaitable(stream):
            stream = await stream
        async with stream if hasattr(stream, "__aenter__") else aclosing(stream) as opened:
            yield opened


def parsed(create: Callable[[Any], Any]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """The stream of what `with_raw_response` gives."""

    async def aparsed(client: Any) -> Any:
        stream = (await create(client)).parse()
        return await stream if inspect.isawaitable(stream) else stream

    return lambda client: create(client).parse(), aparsed


@contextmanager
def raw_events(client: Any) -> Iterator[Any]:
    """What Anthropic's gives before it looks at it, pings and lines included."""
    stream = import_module("anthropic").Stream
    create = client.messages.with_streaming_response.create
    with create(**MESSAGE, stream=True) as response:
        yield stream.raw_events(response.http_response)


@asynccontextmanager
async def araw_events(client: Any) -> AsyncIterator[Any]:
    stream = import_module("anthropic").AsyncStream
    create = client.messages.with_streaming_response.create
    async with (
        create(**MESSAGE, stream=True) as response,
        aclosing(stream.raw_events(response.http_response)) as events,
    ):
        yield events


def ways() -> Iterator[Way]:
    for (sdk, api, name), calls in CALLS.items():
        call, async_call, final = (*calls, None)[:3]
        for is_async in (False, True):
            used = async_call if is_async and async_call is not None else call
            yield Way(sdk, api, used, f"{api}-{name}", is_async, final)


# By SDK, API and name: the call, that of the async client if it is another, and the method that
# gives what the stream came to.
CALLS: dict[tuple[str, str, str], tuple[Any, ...]] = {
    ("openai", "openai", "create"): (
        lambda client: client.chat.completions.create(**CHAT, stream=True),
        None,
    ),
    ("openai", "openai", "helper"): (
        lambda client: client.chat.completions.stream(**CHAT),
        None,
        "get_final_completion",
    ),
    ("openai", "openai", "with_options"): (
        lambda client: client.with_options(timeout=LIMIT - 1).chat.completions.create(
            **CHAT, stream=True
        ),
        None,
    ),
    ("openai", "openai", "raw"): parsed(
        lambda client: client.chat.completions.with_raw_response.create(**CHAT, stream=True)
    ),
    ("openai", "responses", "create"): (
        lambda client: client.responses.create(**RESPONSES, stream=True),
        None,
    ),
    ("openai", "responses", "helper"): (
        lambda client: client.responses.stream(**RESPONSES),
        None,
        "get_final_response",
    ),
    ("anthropic", "anthropic", "create"): (
        lambda client: client.messages.create(**MESSAGE, stream=True),
        None,
    ),
    ("anthropic", "anthropic", "helper"): (
        lambda client: client.messages.stream(**MESSAGE),
        None,
        "get_final_message",
    ),
    ("anthropic", "anthropic", "with_options"): (
        lambda client: client.with_options(timeout=LIMIT - 1).messages.create(
            **MESSAGE, stream=True
        ),
        None,
    ),
    ("anthropic", "anthropic", "raw"): parsed(
        lambda client: client.messages.with_raw_response.create(**MESSAGE, stream=True)
    ),
    ("anthropic", "anthropic", "raw_events"): (raw_events, araw_events),
    ("cohere", "cohere", "create"): (lambda client: client.chat_stream(**CHAT), None),
    ("mistralai", "mistralai", "create"): (
        lambda client: client.chat.stream(**CHAT),
        lambda client: client.chat.stream_async(**CHAT),
    ),
}
WAYS = list(ways())
# Others differ in how the stream is asked for, or in what is made of its events.
CREATING = [way for way in WAYS if way.name.endswith("create")]
HELPING = [way for way in WAYS if way.final is not None]


@pytest.fixture(scope="module")
def sdk_server() -> Iterator[SdkServer]:
    with serve_sdks() as server:
        yield server


def before_and_after(way: Way, *args: Any) -> tuple[Reading, Reading]:
    """What `way.read` gives, and what it gives with ours installed."""
    pytest.importorskip(way.sdk)
    if way.call in (raw_events, araw_events) and not hasattr(
        import_module("anthropic").Stream, "raw_events"
    ):
        pytest.skip("the SDK has no raw events yet")
    before = way.read(*args)
    with installed(way.sdk):
        after = way.read(*args)
    if before.decoder is not None:
        assert before.decoder is theirs(way.sdk)
        assert after.decoder is ours(way.sdk)
        assert issubclass(after.decoder, before.decoder)
    return before, after


# -- The same objects ------------------------------------------------------------------------------


@pytest.mark.parametrize("dress", [dress for dress in UNMARKED if dress != "bytes"])
@pytest.mark.parametrize("way", CREATING, ids=str)
def test_the_objects_are_the_same(sdk_server: SdkServer, way: Way, dress: str) -> None:
    before, after = before_and_after(way, sdk_server, "text", dress)
    assert before.error is None
    assert before.items
    assert before == after


@pytest.mark.parametrize("dress", ["plain", "cut-crlf", "cut-cr"])
@pytest.mark.parametrize("way", [way for way in WAYS if "raw_events" not in way.name], ids=str)
def test_so_they_are_with_calls_of_tools(sdk_server: SdkServer, way: Way, dress: str) -> None:
    before, after = before_and_after(way, sdk_server, "tools", dress)
    assert before.error is None
    assert before.items
    assert (before.final is None) == (way.final is None)
    assert before == after


@pytest.mark.parametrize("way", CREATING, ids=str)
def test_so_they_are_byte_by_byte(sdk_server: SdkServer, way: Way) -> None:
    before, after = before_and_after(way, sdk_server, "text", "bytes")
    assert before.error is None
    assert before == after == way.read(sdk_server)


@pytest.mark.parametrize("dress", ["plain", "comments", "ids", "cut-crlf", "cut-cr"])
@pytest.mark.parametrize("way", [way for way in WAYS if "raw_events" in way.name], ids=str)
def test_raw_events_are_the_same(sdk_server: SdkServer, way: Way, dress: str) -> None:
    before, after = before_and_after(way, sdk_server, "text", dress)
    assert before.error is None
    sent = APIS[way.api].scenarios["text"].events
    assert [event["_event"] for _, event in before.items if event["_data"]] == [
        event.event for event in sent
    ]
    assert all(event["_raw"] for _, event in before.items if event["_data"])
    assert before == after


# Mistral's SDK runs on asyncio only.
@pytest.mark.parametrize(
    "way", [way for way in CREATING if way.is_async and way.sdk != "mistralai"], ids=str
)
@OF_TRIO
def test_so_they_are_under_trio(sdk_server: SdkServer, way: Way) -> None:
    before, after = before_and_after(way, sdk_server, "text", "cut", "trio")
    assert before.error is None
    assert before == after == way.read(sdk_server)


@pytest.mark.parametrize("scenario", ["text", "tools"])
@pytest.mark.parametrize("way", CREATING, ids=str)
def test_the_objects_are_what_was_sent(sdk_server: SdkServer, way: Way, scenario: str) -> None:
    """Else two streams of nothing would be the same."""
    sent = APIS[way.api].scenarios[scenario].objects
    if way.sdk == "anthropic":
        sent = [data for data in sent if data["type"] != "ping"]
    _, after = before_and_after(way, sdk_server, scenario)
    things = [thing.data if way.sdk == "mistralai" else thing for thing in after.objects]
    got = [json.loads(thing.model_dump_json(exclude_unset=True, by_alias=True)) for thing in things]
    assert got == sent


# -- What the SDKs do wrong ------------------------------------------------------------------------


# By API: the first event is lost. Where it is not, the BOM hides only the type of the event, which
# the object has too; and Mistral's knows a BOM that is not cut.
LOST = {
    ("openai", "bom"),
    ("openai", "bom-cut"),
    ("anthropic", "bom"),
    ("anthropic", "bom-cut"),
    ("mistralai", "bom-cut"),
}


@pytest.mark.parametrize("dress", MARKED)
@pytest.mark.parametrize("way", CREATING + HELPING, ids=str)
def test_the_first_event_after_a_bom(sdk_server: SdkServer, way: Way, dress: str) -> None:
    before, after = before_and_after(way, sdk_server, "text", dress)
    right = way.read(sdk_server, "text", "plain")
    assert after == right
    if (way.api, dress) not in LOST:
        assert before == right
    elif way.final is None:
        assert before.items == right.items[1:]
    else:
        # Some helpers give more than one object for an event.
        assert len(before.items) < len(right.items)


# -- Errors and other ends -------------------------------------------------------------------------


ENDS = [
    "error",
    "truncated",
    "truncated-within",
    "broken-json",
    "broken-utf8",
    "unfinished",
    "undispatched",
    "after-done",
]
CASES = [
    pytest.param(way, end, id=f"{way}-{end}")
    for way in CREATING + HELPING
    for end in ENDS
    if end in APIS[way.api].scenarios
]


@pytest.mark.parametrize(("way", "end"), CASES)
def test_the_end_is_the_same(sdk_server: SdkServer, way: Way, end: str) -> None:
    before, after = before_and_after(way, sdk_server, end)
    assert before.items
    assert before == after
    kind = None if after.error is None else after.error[0]
    if end == "error" and way.api in ("openai", "anthropic"):
        assert kind is not None
        assert issubclass(kind, import_module(way.sdk).APIError)
        body = APIS[way.api].scenarios[end].objects[-1]
        assert after.error[2] == (body["error"] if way.api == "openai" else body)
    elif end == "broken-utf8":
        assert kind is (None if way.sdk == "cohere" else UnicodeDecodeError)
    elif end.startswith("truncated"):
        assert kind is not None
        assert kind.__name__ in ("RemoteProtocolError", "APIConnectionError")
    elif end == "after-done":
        assert after == way.read(sdk_server, "text")


@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
def test_an_error_of_the_api_is_what_it_was(sdk_server: SdkServer, sdk: str) -> None:
    """Before there is a stream."""
    module = pytest.importorskip(sdk)
    way = next(way for way in CREATING if way.api == sdk)

    def take() -> Reading:
        with client_of(sdk, sdk_server.base(sdk)) as client:
            return way.take(client.with_options(api_key="another"))

    before = take()
    with installed(sdk):
        after = take()
    assert before == after
    assert before.error is not None
    assert before.error[0] is module.AuthenticationError


# -- Connections -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", CREATING + HELPING, ids=str)
def test_a_stream_that_is_left_early_gives_its_connection_free(way: Way, is_after: bool) -> None:
    pytest.importorskip(way.sdk)

    with serve_sdks() as server, installed(way.sdk) if is_after else nullcontext():
        base = server.base(way.api, "held")

        def is_left() -> bool:
            return bool(server.stage.requests) and server.stage.open == 0

        async def run() -> None:
            async with async_client_of(way.sdk, base) as client:
                async with way.aopened(client) as stream:
                    iterator = aiter(stream)
                    for _ in range(2):
                        await anext(iterator)
                    assert server.stage.open == 1
                await anyio.to_thread.run_sync(wait_until, is_left)

        if way.is_async:
            anyio.run(run)
            return
        with client_of(way.sdk, base) as client:
            with way.opened(client) as stream:
                iterator = iter(stream)
                for _ in range(2):
                    next(iterator)
                assert server.stage.open == 1
            # Without the help of the client, which is closed later.
            wait_until(is_left)


@pytest.mark.parametrize("way", CREATING, ids=str)
def test_a_connection_is_used_again_where_it_was(way: Way) -> None:
    pytest.importorskip(way.sdk)

    def count() -> int:
        """Connections of four streams, one after the other."""
        with serve_sdks() as server:
            base = server.base(way.api)

            async def run() -> None:
                async with async_client_of(way.sdk, base) as client:
                    for _ in range(4):
                        await way.atake(client)

            if way.is_async:
                anyio.run(run)
            else:
                with client_of(way.sdk, base) as client:
                    for _ in range(4):
                        way.take(client)
            return len(set(server.connections))

    before = count()
    with installed(way.sdk):
        after = count()
    # What follows the last event may take too long for some, once in a while.
    assert (before < 4) == (after < 4)


# -- What is installed when ------------------------------------------------------------------------


@pytest.mark.parametrize("way", [way for way in CREATING if not way.is_async], ids=str)
def test_one_client_before_within_and_behind(sdk_server: SdkServer, way: Way) -> None:
    pytest.importorskip(way.sdk)
    with client_of(way.sdk, sdk_server.base(way.api)) as client:
        readings = [way.take(client)]
        with installed(way.sdk):
            readings.append(way.take(client))
        readings.append(way.take(client))
    assert readings[0] == readings[1] == readings[2]
    if readings[0].decoder is not None:
        expected = [theirs(way.sdk), ours(way.sdk), theirs(way.sdk)]
        assert [reading.decoder for reading in readings] == expected


@pytest.mark.parametrize("is_after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("way", [way for way in CREATING if not way.is_async], ids=str)
def test_a_stream_that_is_being_read_goes_on(
    sdk_server: SdkServer, way: Way, is_after: bool
) -> None:
    """As it began, whichever decoder that was."""
    pytest.importorskip(way.sdk)
    right = way.read(sdk_server, "text", "cut-crlf")
    things = []
    with client_of(way.sdk, sdk_server.base(way.api, "text", "cut-crlf")) as client:
        with installed(way.sdk) if is_after else nullcontext():
            stream = way.call(client)
            things.append(next(stream))
        with nullcontext() if is_after else installed(way.sdk):
            things.append(next(stream))
        things.extend(stream)
    assert things == right.objects


# -- The server ------------------------------------------------------------------------------------


GOOD = {"model": "any", "messages": MESSAGES, "input": "any", "stream": True}
HEAD = {
    "Authorization": f"Bearer {KEY}",
    "Content-Type": "application/json",
    "anthropic-version": "2023-06-01",
}
WRONG: dict[str, tuple[int, dict[str, Any]]] = {
    "path": (404, {"path": "/v1/nothing"}),
    "method": (405, {"method": "PUT"}),
    "no key": (401, {"head": {"Authorization": ""}}),
    "key": (401, {"head": {"Authorization": "Bearer another"}}),
    "content type": (415, {"head": {"Content-Type": "text/plain"}}),
    "no JSON": (400, {"body": "{"}),
    "no object": (400, {"body": "[]"}),
    "no model": (400, {"body": json.dumps({**GOOD, "model": ""})}),
    "nothing asked": (400, {"body": json.dumps({**GOOD, "messages": [], "input": ""})}),
    "no stream": (400, {"body": json.dumps({**GOOD, "stream": False})}),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("api", APIS)
def test_the_server_refuses_what_the_api_would(sdk_server: SdkServer, api: str, wrong: str) -> None:
    status, request = WRONG[wrong]
    origin, path = sdk_server.base(api).removeprefix("http://").split("/", 1)
    with closing(HTTPConnection(origin, timeout=LIMIT)) as connection:
        for change, expected in ((request, status), ({}, 200)):
            connection.request(
                change.get("method", "POST"),
                f"/{path}{change.get('path', APIS[api].path)}",
                change.get("body", json.dumps(GOOD)),
                {**HEAD, **change.get("head", {})},
            )
            response = connection.getresponse()
            body = response.read()
            assert response.status == expected
            if change:
                assert json.loads(body)
