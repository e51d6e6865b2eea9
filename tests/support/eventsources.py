"""The ways to run the reconnecting client: over each library's client, or our own transport."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import anyio
import pytest
import requests
import urllib3

import sse_fast
from tests.support.clients import HTTPX, LIMIT, TIMEOUT, plain, tls

# -- One factory per library, which makes the client that a user would hold ------------------------
#
# `ca` is the file of a certificate authority for https. The client sends `headers`, `cookies` and
# `auth` with every request; further options are those of the library.


@contextmanager
def make_requests(
    ca: str | None = None,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    **options: Any,
) -> Iterator[requests.Session]:
    """Make a session; the options are attributes of it."""
    with requests.Session() as session:
        session.trust_env = False
        session.verify = ca or True
        session.headers.update(headers or {})
        session.cookies.update(cookies or {})
        session.auth = auth
        for name, value in options.items():
            setattr(session, name, value)
        yield session


@contextmanager
def make_urllib3(
    ca: str | None = None,
    headers: Mapping[str, str] | None = None,
    cookies: Mapping[str, str] | None = None,
    auth: tuple[str, str] | None = None,
    **options: Any,
) -> Iterator[urllib3.PoolManager]:
    """Make a pool manager, which has no cookie jar and no auth: both are sent as header fields."""
    headers = dict(headers or {})
    if cookies is not None:
        headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
    if auth is not None:
        headers.update(urllib3.make_headers(basic_auth=":".join(auth)))
    with urllib3.PoolManager(ca_certs=ca, headers=headers, **options) as pool:
        yield pool


@contextmanager
def make_httpx(module: Any, ca: str | None = None, **options: Any) -> Iterator[Any]:
    with module.Client(verify=tls(ca) or False, trust_env=False, **options) as client:
        yield client


@asynccontextmanager
async def amake_httpx(module: Any, ca: str | None = None, **options: Any) -> AsyncIterator[Any]:
    async with module.AsyncClient(verify=tls(ca) or False, trust_env=False, **options) as client:
        yield client


class _Connector(aiohttp.TCPConnector):
    """A connector that remembers its transports."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.transports: list[Any] = []

    async def connect(self, *args: Any, **options: Any) -> Any:
        connection = await super().connect(*args, **options)
        self.transports.append(connection.transport)
        return connection


@asynccontextmanager
async def amake_aiohttp(
    ca: str | None = None, auth: tuple[str, str] | None = None, **options: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    # By default, its jar ignores cookies of hosts that are IP addresses.
    options.setdefault("cookie_jar", aiohttp.CookieJar(unsafe=True))
    connector = _Connector(ssl=tls(ca) or True)
    with warnings.catch_warnings():
        # aiohttp deprecates the auth of a session.
        warnings.simplefilter("ignore", DeprecationWarning)
        basic = None if auth is None else aiohttp.BasicAuth(*auth)
        session = aiohttp.ClientSession(connector=connector, auth=basic, **options)
    try:
        async with session:
            yield session
    finally:
        if ca is not None:
            # Closing waits for the TLS closure of the server, and nothing waits for the closing.
            for transport in connector.transports:
                # In CPython 3.11.2, a transport that was closed twice has no protocol any more.
                with suppress(AttributeError):
                    transport.abort()
        # The loop closes transports in its next iteration.
        await asyncio.sleep(0)


@contextmanager
def make_nothing(ca: str | None = None) -> Iterator[None]:
    """Make no client, so that our own transport is used."""
    yield None


@asynccontextmanager
async def amake_nothing(ca: str | None = None) -> AsyncIterator[None]:
    yield None


# -- Ways ------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """The result of iterating over a source until it ended, raised or was left."""

    events: list[Any] = field(default_factory=list)
    error: Exception | None = None
    source: Any = None

    @property
    def plain(self) -> list[tuple[str, Any, str]]:
        return plain(self.events)


class _Awaited:
    """A blocking source with the interface of an async one."""

    def __init__(self, source: Any) -> None:
        object.__setattr__(self, "_source", source)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._source, name, value)

    async def __aenter__(self) -> Any:
        self._source.__enter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._source.__exit__(*exception)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        try:
            return next(self._source)
        except StopIteration:
            raise StopAsyncIteration from None

    async def next_event(self, timeout: float | None = None) -> Any:
        return self._source.next_event(timeout)

    async def open(self) -> Any:
        return self._source.open()

    async def run(self, *args: Any, **options: Any) -> Any:
        return self._source.run(*args, **options)

    async def aclose(self) -> None:
        self._source.close()


@contextmanager
def _watched(source: Any, limit: float) -> Iterator[None]:
    """Close the source and fail if the block takes longer than `limit` seconds."""
    late = threading.Event()

    def end() -> None:
        late.set()
        source.close()

    timer = threading.Timer(limit, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if late.is_set():
            pytest.fail(f"the source did not end within {limit} seconds")


@dataclass(frozen=True)
class Way:
    """A library's client, or none, and the kind of source that goes with it.

    The methods take the arguments of the source, and in addition

    - `client_options`: the options of the user's client, see the factories above;
    - `ca`: the file of a certificate authority for https;
    - `limit`: seconds until the test fails.
    """

    name: str
    make_client: Callable[..., Any]
    backend: str | None = None  # "asyncio" or "trio"; None: a blocking one

    def __str__(self) -> str:
        return self.name

    @property
    def library(self) -> str:
        """The name without the backend."""
        return self.name.split()[0]

    @property
    def is_async(self) -> bool:
        return self.backend is not None

    @property
    def has_client(self) -> bool:
        """Whether a client of the user is passed; else our own transport is used."""
        return self.library != "sse_fast"

    def _run(
        self,
        use: Callable[[Any], Any],
        url: str,
        *,
        limit: float = LIMIT,
        client_options: Mapping[str, Any] | None = None,
        ca: str | None = None,
        **options: Any,
    ) -> Any:
        """Return `use(source)` of a source that is not opened yet; async ways await it."""
        options = {"connect_timeout": TIMEOUT, "idle_timeout": TIMEOUT, **options}
        if ca is not None and not self.has_client:
            options["ssl_context"] = tls(ca)
        making = partial(self.make_client, ca, **(client_options or {}))
        if self.backend is None:
            with making() as client:
                source = sse_fast.EventSource(url, client=client, **options)
                with closing(source), _watched(source, limit):
                    return use(source)

        async def run() -> Any:
            with anyio.fail_after(limit):
                async with making() as client:
                    source = sse_fast.AsyncEventSource(url, client=client, **options)
                    try:
                        return await use(source)
                    finally:
                        await source.aclose()

        return anyio.run(run, backend=self.backend)

    def read(
        self,
        url: str,
        *,
        stop_after: int | None = None,
        on_event: Callable[[Any, Any], object] = lambda source, event: None,
        **options: Any,
    ) -> Outcome:
        """Iterate within `with` until the end, an exception, or `stop_after` events.

        `on_event` is called with the source and each event.
        """
        outcome = Outcome()

        def is_last(event: Any) -> bool:
            outcome.events.append(event)
            on_event(outcome.source, event)
            return len(outcome.events) == stop_after

        def use(source: Any) -> None:
            outcome.source = source
            try:
                with source:
                    for event in source:
                        if is_last(event):
                            break
            except Exception as error:
                outcome.error = error

        async def ause(source: Any) -> None:
            outcome.source = source
            try:
                async with source:
                    async for event in source:
                        if is_last(event):
                            break
            except Exception as error:
                outcome.error = error

        self._run(ause if self.is_async else use, url, **options)
        return outcome

    def run(
        self,
        url: str,
        on_message: Callable[[Any], Any],
        on_close: Callable[[], Any] | None = None,
        **options: Any,
    ) -> Any:
        """Return the `EndReason` that `run` of the source returns."""
        return self._run(lambda source: source.run(on_message, on_close=on_close), url, **options)

    def use(self, function: Callable[[Any], Awaitable[Any]], url: str, **options: Any) -> Any:
        """Await `function(source)`, where the source has the async interface in every way.

        It is not opened yet, and is closed after the call. A blocking source blocks the event loop,
        which runs nothing else.
        """
        if self.is_async:
            return self._run(function, url, **options)
        return self._run(lambda source: anyio.run(function, _Awaited(source)), url, **options)


SOURCES: dict[str, Way] = {
    way.name: way
    for way in [
        Way("sse_fast", make_nothing),
        Way("sse_fast asyncio", amake_nothing, "asyncio"),
        Way("requests", make_requests),
        Way("urllib3", make_urllib3),
        *(Way(module.__name__, partial(make_httpx, module)) for module in HTTPX),
        *(
            Way(f"{module.__name__} {backend}", partial(amake_httpx, module), backend)
            for module in HTTPX
            for backend in ("asyncio", "trio")
        ),
        Way("aiohttp", amake_aiohttp, "asyncio"),
    ]
}
ASYNC_SOURCES: dict[str, Way] = {name: way for name, way in SOURCES.items() if way.is_async}

# -- Which ways a test is for ----------------------------------------------------------------------
#
# Our policy does not depend on the library: the default run tests it over our own transport, sync
# and asyncio. What depends on an adapter is tested over each adapter. The rest is marked `matrix`.

OURS = [SOURCES["sse_fast"], SOURCES["sse_fast asyncio"]]
# Under trio the async client waits differently. It needs httpx: our transport is asyncio only.
ASYNC_OURS = [SOURCES["sse_fast asyncio"], SOURCES["httpx trio"]]
# Once per adapter and event loop: httpx2 has the adapter of httpx.
ADAPTERS = [way for way in SOURCES.values() if way.library != "httpx2"]
# Once per adapter, for tests that do not depend on the event loop.
LIBRARIES = [way for way in ADAPTERS if way.backend != "trio"]


def matrix_marks(way: Way, default: Collection[Way] = OURS) -> list[pytest.MarkDecorator]:
    """Return the marks of a case of `way`: `matrix`, unless the way is one of `default`."""
    return [] if way in default else [pytest.mark.matrix]


def way_params(ways: Iterable[Way], default: Collection[Way] = OURS) -> list[Any]:
    """Return a parameter for each way; those that are not in `default` are marked `matrix`."""
    return [pytest.param(way, id=str(way), marks=matrix_marks(way, default)) for way in ways]


# For tests of what an adapter does. Tests of our policy ask for the fixture `way` instead.
EVERY_ADAPTER = pytest.mark.parametrize("way", way_params(SOURCES.values(), ADAPTERS))
# Policy tests that not even the matrix runs over the libraries.
BY_US = pytest.mark.parametrize("way", OURS, ids=str)
