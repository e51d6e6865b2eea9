"""The ways to stream with each SDK, and what is compared before and after `install()`."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from typing import Any

import anyio
import pytest

import sse_fast
from tests.support.sdk_server import KEY, SdkServer

LIMIT = 10.0  # the SDKs' timeout in seconds
# The server has no TLS, and loading the system's authorities for each client takes time.
UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
MESSAGES = [{"role": "user", "content": "Wie wird das Wetter?"}]
CHAT = {"model": "any", "messages": MESSAGES}
RESPONSES = {"model": "any", "input": "Wie wird das Wetter?"}
MESSAGE = {**CHAT, "max_tokens": 100}


# -- The SDKs --------------------------------------------------------------------------------------


# The parts that `install()` replaces in each SDK.
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


def find_parts(sdk: str) -> list[Any]:
    found = []
    for module, path in PARTS[sdk]:
        owner = import_module(module)
        for name in path.split("."):
            owner = vars(owner)[name]
        found.append(owner)
    return found


def is_installed(sdk: str) -> bool:
    """Whether the SDK uses sse_fast now, in all of its parts or in none."""
    (is_ours,) = {part.__module__.startswith("sse_fast.compat.") for part in find_parts(sdk)}
    return is_ours


def original_decoder(sdk: str) -> Any:
    return import_module(f"{sdk}._streaming").SSEDecoder


def our_decoder(sdk: str) -> Any:
    return import_module(f"sse_fast.compat.{sdk}").SSEDecoder


@contextmanager
def installed(sdk: str) -> Iterator[None]:
    """Install sse_fast within the block, and check that the original parts are restored."""
    before = find_parts(sdk)
    assert not is_installed(sdk)
    with sse_fast.install(sdk):
        assert is_installed(sdk)
        yield
    assert all(now is then for now, then in zip(find_parts(sdk), before, strict=True))


@cache
def find_makers(sdk: str) -> tuple[Any, Any, Callable[..., Any], Callable[..., Any]]:
    """Return makers of HTTP clients, sync and async, and of SDK clients over them."""
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
    # httpx or httpx2, whichever the SDK imports under this name.
    httpx = import_module("mistralai.client.httpclient").httpx
    return (
        partial(httpx.Client, verify=UNUSED, timeout=LIMIT),
        partial(httpx.AsyncClient, verify=UNUSED, timeout=LIMIT),
        # Pass both clients, otherwise the SDK makes the missing one itself.
        lambda http, base: mistralai.Mistral(
            KEY, server_url=base, client=http, async_client=httpx.AsyncClient(verify=UNUSED)
        ),
        lambda http, base: mistralai.Mistral(
            KEY, server_url=base, client=httpx.Client(verify=UNUSED), async_client=http
        ),
    )


@contextmanager
def client_of(sdk: str, base: str) -> Iterator[Any]:
    make_http, _, make_client, _ = find_makers(sdk)
    with make_http() as http:
        yield make_client(http, base)


@asynccontextmanager
async def async_client_of(sdk: str, base: str) -> AsyncIterator[Any]:
    _, make_http, _, make_client = find_makers(sdk)
    async with make_http() as http:
        yield make_client(http, base)


# -- The ways to stream ----------------------------------------------------------------------------


@dataclass
class Reading:
    """The objects that an SDK made of a stream, and its error."""

    items: list[tuple[type, Any]] = field(default_factory=list)
    """The type and value of each object on arrival, since some objects grow later."""
    objects: list[Any] = field(default_factory=list)
    final: Any = None
    """The final object that a helper of the SDK accumulates."""
    error: tuple[Any, ...] | None = None
    decoder: type | None = field(default=None, compare=False)
    """The class of the SDK's decoder, if it has one."""

    def note(self, thing: Any) -> None:
        if hasattr(thing, "model_dump"):
            # Some SDK objects do not match their own models, of which pydantic would warn.
            self.items.append((type(thing), thing.model_dump(warnings=False)))
            self.objects.append(thing)
        else:
            self.items.append((type(thing), dict(vars(thing))))

    def fail(self, error: Exception) -> None:
        # The position in a UnicodeDecodeError differs: see docs/guides/other-parsers.md.
        text = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
        body, status = getattr(error, "body", None), getattr(error, "status_code", None)
        self.error = (type(error), text, body, status, type(error.__cause__))

    def started(self, stream: Any) -> None:
        stream = getattr(stream, "_raw_stream", stream)
        if hasattr(stream, "_decoder"):
            self.decoder = type(stream._decoder)


@dataclass(frozen=True)
class Way:
    """One way to request a stream with an SDK."""

    sdk: str
    api: str
    call: Callable[[Any], Any]
    """Takes the client, returns a stream, a context manager of one, or an awaitable of either."""
    name: str
    is_async: bool
    final: str | None = None

    def __str__(self) -> str:
        return f"{self.name}-{'async' if self.is_async else 'sync'}"

    def read(
        self,
        server: SdkServer,
        scenario: str = "text",
        wire_format: str = "plain",
        backend: str = "asyncio",
    ) -> Reading:
        """Read a stream to its end or error with a new client."""
        base = server.base(self.api, scenario, wire_format)
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


def make_parsed_calls(
    create: Callable[[Any], Any],
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return calls that parse the response of `with_raw_response` into a stream."""

    async def aparsed(client: Any) -> Any:
        stream = (await create(client)).parse()
        return await stream if inspect.isawaitable(stream) else stream

    return lambda client: create(client).parse(), aparsed


@contextmanager
def raw_events(client: Any) -> Iterator[Any]:
    """Open the raw events of Anthropic's SDK, which include pings and source lines."""
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


def list_ways() -> Iterator[Way]:
    for (sdk, api, name), calls in CALLS.items():
        call, async_call, final = (*calls, None)[:3]
        for is_async in (False, True):
            used = async_call if is_async and async_call is not None else call
            yield Way(sdk, api, used, f"{api}-{name}", is_async, final)


# By SDK, API and name: the call; the call of the async client or None if it is the same; and the
# method of the stream that returns its final object, if any.
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
    ("openai", "openai", "raw"): make_parsed_calls(
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
    ("anthropic", "anthropic", "raw"): make_parsed_calls(
        lambda client: client.messages.with_raw_response.create(**MESSAGE, stream=True)
    ),
    ("anthropic", "anthropic", "raw_events"): (raw_events, araw_events),
    ("cohere", "cohere", "create"): (lambda client: client.chat_stream(**CHAT), None),
    ("mistralai", "mistralai", "create"): (
        lambda client: client.chat.stream(**CHAT),
        lambda client: client.chat.stream_async(**CHAT),
    ),
}
WAYS = list(list_ways())
# The other ways differ in how the stream is requested, or in the objects made of its events.
CREATE_WAYS = [way for way in WAYS if way.name.endswith("create")]
HELPER_WAYS = [way for way in WAYS if way.final is not None]


def sample(ways: list[Way], sync_only: bool = False) -> list[Any]:
    """Parametrize: by default the first way of each SDK, sync and async; the rest is matrix."""
    seen = set()
    params = []
    for way in ways:
        is_first = (way.sdk, way.is_async) not in seen and not (sync_only and way.is_async)
        seen.add((way.sdk, way.is_async))
        params.append(pytest.param(way, id=str(way), marks=() if is_first else pytest.mark.matrix))
    return params
