"""Every way to read the events of a URL: each HTTP library, sync and async, and our transport."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import ssl
import time
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    closing,
    contextmanager,
)
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import aiohttp
import anyio
import httpx
import pytest
import requests
import urllib3

import sse_fast

try:
    import httpx2
except ImportError:  # httpx2 needs Python 3.11.
    httpx2 = None

HTTPX = [httpx] if httpx2 is None else [httpx, httpx2]
STREAM = "id: 1\r\nevent: é\r\ndata: 日本\r\ndata: 🚀\r\n\r\nid: 2\r\ndata: b\r\n\r\n".encode()
EVENTS = [("é", "日本\n🚀", "1"), ("message", "b", "2")]
TIMEOUT = 10.0  # seconds without a byte, so that a test fails instead of hanging
LIMIT = 20.0  # seconds in total, where the reader can be cancelled


def wait_until(condition: Callable[[], object], seconds: float = LIMIT) -> None:
    """Wait until the condition holds; fail after the seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def plain(events: Iterable[Any]) -> list[tuple[str, Any, str]]:
    return [(event.event, event.data, event.id) for event in events]


async def collect(stream: Any) -> list[tuple[str, Any, str]]:
    return plain([event async for event in stream])


def tls(ca: str | None) -> ssl.SSLContext | None:
    """Return a context that trusts the certificate authority in the file."""
    return None if ca is None else ssl.create_default_context(cafile=ca)


# -- Openers: one per library, each yields a response whose body was not read ----------------------
#
# `ca` is the file of a certificate authority for https; `headers` are those of the request.


@contextmanager
def open_requests(url: str, ca: str | None = None, **headers: str) -> Iterator[Any]:
    with requests.Session() as session:
        session.trust_env = False
        with session.get(
            url, stream=True, headers=headers, verify=ca, timeout=TIMEOUT, allow_redirects=False
        ) as response:
            yield response


@contextmanager
def open_urllib3(url: str, ca: str | None = None, **headers: str) -> Iterator[Any]:
    with urllib3.PoolManager(ca_certs=ca, timeout=TIMEOUT) as pool:
        response = pool.request("GET", url, preload_content=False, retries=False, headers=headers)
        with closing(response):
            yield response


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


@contextmanager
def open_urllib_request(url: str, ca: str | None = None, **headers: str) -> Iterator[Any]:
    opener = urllib.request.build_opener(
        _EveryStatus, urllib.request.HTTPSHandler(context=tls(ca)), urllib.request.ProxyHandler({})
    )
    with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as response:
        yield response


@contextmanager
def open_http_client(url: str, ca: str | None = None, **headers: str) -> Iterator[Any]:
    scheme, _, rest = url.partition("://")
    host, _, path = rest.partition("/")
    connection = (
        http.client.HTTPConnection(host, timeout=TIMEOUT)
        if scheme == "http"
        else http.client.HTTPSConnection(host, timeout=TIMEOUT, context=tls(ca))
    )
    with closing(connection):
        connection.request("GET", "/" + path, headers=headers)
        with connection.getresponse() as response:
            yield response


# `verify=False` saves loading the authorities of the system for each client.


@contextmanager
def open_httpx(
    module: Any, url: str, ca: str | None = None, http2: bool = False, **headers: str
) -> Iterator[Any]:
    with (
        module.Client(
            verify=tls(ca) or False, http2=http2, timeout=TIMEOUT, trust_env=False
        ) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        yield response


@asynccontextmanager
async def aopen_httpx(
    module: Any, url: str, ca: str | None = None, http2: bool = False, **headers: str
) -> AsyncIterator[Any]:
    async with (
        module.AsyncClient(
            verify=tls(ca) or False, http2=http2, timeout=TIMEOUT, trust_env=False
        ) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        yield response


@asynccontextmanager
async def aopen_aiohttp(url: str, ca: str | None = None, **headers: str) -> AsyncIterator[Any]:
    timeout = aiohttp.ClientTimeout(total=None, sock_read=TIMEOUT)
    transport = None
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(
                url, ssl=tls(ca) or True, headers=headers, allow_redirects=False
            ) as response,
        ):
            transport = response.connection and response.connection.transport
            yield response
    finally:
        if transport is not None:
            # aiohttp closes TLS in the background, and nothing waits for that.
            transport.abort()
            await asyncio.sleep(0)


# Under trio, httpx and httpx2 leave the generators of an unfinished body to the garbage collector,
# and trio warns about that.
UNREAD_UNDER_TRIO = pytest.mark.filterwarnings(
    "ignore:Async generator 'http(core|x):ResourceWarning"
)

OPENERS: dict[str, Callable[..., AbstractContextManager[Any]]] = {
    "requests": open_requests,
    "urllib3": open_urllib3,
    "urllib.request": open_urllib_request,
    "http.client": open_http_client,
    **{module.__name__: partial(open_httpx, module) for module in HTTPX},
}
AOPENERS: dict[str, Callable[..., AbstractAsyncContextManager[Any]]] = {
    "aiohttp": aopen_aiohttp,
    **{f"{module.__name__} async": partial(aopen_httpx, module) for module in HTTPX},
}


# -- Sessions: functions that request URLs with one client, which stays open -----------------------


@contextmanager
def pool_requests() -> Iterator[Callable[[str], Any]]:
    with requests.Session() as session:
        session.trust_env = False
        yield partial(session.get, stream=True)


@contextmanager
def pool_urllib3() -> Iterator[Callable[[str], Any]]:
    with urllib3.PoolManager() as pool:
        yield partial(pool.request, "GET", preload_content=False)


@contextmanager
def pool_urllib_request() -> Iterator[Callable[[str], Any]]:
    yield urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@contextmanager
def pool_http_client() -> Iterator[Callable[[str], Any]]:
    def get(url: str) -> Any:
        connection = http.client.HTTPConnection(url.split("/")[2])
        connection.request("GET", "/")
        return connection.getresponse()

    yield get


@contextmanager
def pool_httpx(module: Any) -> Iterator[Callable[[str], Any]]:
    with module.Client(trust_env=False) as client:
        yield lambda url: client.send(client.build_request("GET", url), stream=True)


@asynccontextmanager
async def apool_httpx(module: Any) -> AsyncIterator[Callable[[str], Any]]:
    async with module.AsyncClient(trust_env=False) as client:
        yield lambda url: client.send(client.build_request("GET", url), stream=True)


@asynccontextmanager
async def apool_aiohttp() -> AsyncIterator[Callable[[str], Any]]:
    async with aiohttp.ClientSession() as session:
        yield session.get


SESSIONS: dict[str, Any] = {
    "requests": pool_requests,
    "urllib3": pool_urllib3,
    "urllib.request": pool_urllib_request,
    "http.client": pool_http_client,
    **{module.__name__: partial(pool_httpx, module) for module in HTTPX},
}
ASESSIONS: dict[str, Any] = {
    "aiohttp": apool_aiohttp,
    **{f"{module.__name__} async": partial(apool_httpx, module) for module in HTTPX},
}


def read_async(aopener: Any, url: str, read: Any) -> Any:
    """Return what `read` returns for a response of an async client, under asyncio."""

    async def run() -> Any:
        async with aopener(url) as response:
            return await read(response)

    return anyio.run(run)


# -- Readers: the events of a URL, by any library --------------------------------------------------


@dataclass
class Outcome:
    """The events and the end of a stream that was read until it ended or raised."""

    events: list[Any] = field(default_factory=list)
    error: Exception | None = None
    stream: Any = None

    @property
    def plain(self) -> list[tuple[str, Any, str]]:
        return plain(self.events)


class _Awaited:
    """A blocking stream with the methods of an async one."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        for event in self._stream:
            return event
        raise StopAsyncIteration

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@dataclass(frozen=True)
class Reader:
    """A library, or our transport, sync or async.

    `open(url, ca=..., options=..., **headers)` returns a context manager of the stream of events,
    which is async if there is a `backend`.
    """

    name: str
    open: Callable[..., Any]
    backend: str | None = None  # "asyncio" or "trio"; None: blocking
    http2: bool = False

    def __str__(self) -> str:
        return self.name

    @property
    def library(self) -> str:
        """The name without the backend: "httpx", "httpx HTTP/2"."""
        return " ".join(word for word in self.name.split() if word != self.backend)

    def run(self, use: Callable[[Any], Any], url: str, limit: float = LIMIT, **options: Any) -> Any:
        """Return what `use` returns for the stream; for an async reader, `use` is async too."""
        if self.backend is None:
            with self.open(url, **options) as stream:
                return use(stream)

        async def run() -> Any:
            with anyio.fail_after(limit):
                async with self.open(url, **options) as stream:
                    return await use(stream)

        return anyio.run(run, backend=self.backend)

    def follow(self, use: Callable[[Any], Awaitable[Any]], url: str, **options: Any) -> Any:
        """Like `run`, but `use` is async for every reader, so that a test is written once."""
        if self.backend is not None:
            return self.run(use, url, **options)
        return self.run(lambda stream: anyio.run(use, _Awaited(stream)), url, **options)

    def read(
        self, url: str, on_event: Callable[[int], object] = lambda count: None, **options: Any
    ) -> Outcome:
        """Read to the end or the first exception; `on_event` gets the number of events so far."""
        outcome = Outcome()

        def add(event: Any) -> None:
            outcome.events.append(event)
            on_event(len(outcome.events))

        def use(stream: Any) -> None:
            outcome.stream = stream
            for event in stream:
                add(event)

        async def ause(stream: Any) -> None:
            outcome.stream = stream
            async for event in stream:
                add(event)

        try:
            self.run(use if self.backend is None else ause, url, **options)
        except Exception as error:
            outcome.error = error
        return outcome


def _blocking(opener: Callable[..., Any]) -> Callable[..., Any]:
    @contextmanager
    def open_events(url: str, options: Any = None, **kwargs: Any) -> Iterator[Any]:
        with (
            opener(url, **kwargs) as response,
            sse_fast.iter_events(response, **(options or {})) as stream,
        ):
            yield stream

    return open_events


def _awaiting(opener: Callable[..., Any]) -> Callable[..., Any]:
    @asynccontextmanager
    async def open_events(url: str, options: Any = None, **kwargs: Any) -> AsyncIterator[Any]:
        async with (
            opener(url, **kwargs) as response,
            sse_fast.aiter_events(response, **(options or {})) as stream,
        ):
            yield stream

    return open_events


@contextmanager
def _open_raw(
    url: str, ca: str | None = None, options: Any = None, **headers: str
) -> Iterator[Any]:
    with sse_fast.open_stream(
        url, ssl_context=tls(ca), idle_timeout=TIMEOUT, headers=headers, **(options or {})
    ) as stream:
        yield stream


@asynccontextmanager
async def _aopen_raw(
    url: str, ca: str | None = None, options: Any = None, **headers: str
) -> AsyncIterator[Any]:
    async with sse_fast.aopen_stream(
        url, ssl_context=tls(ca), idle_timeout=TIMEOUT, headers=headers, **(options or {})
    ) as stream:
        yield stream


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in [
        *(Reader(name, _blocking(opener)) for name, opener in OPENERS.items()),
        Reader("aiohttp", _awaiting(aopen_aiohttp), "asyncio"),
        *(
            Reader(f"{module.__name__} {backend}", _awaiting(partial(aopen_httpx, module)), backend)
            for module in HTTPX
            for backend in ("asyncio", "trio")
        ),
        Reader("sse_fast", _open_raw),
        Reader("sse_fast asyncio", _aopen_raw, "asyncio"),
    ]
}
HTTP2_READERS: dict[str, Reader] = {
    reader.name: reader
    for module in HTTPX
    for reader in [
        Reader(
            f"{module.__name__} HTTP/2",
            _blocking(partial(open_httpx, module, http2=True)),
            http2=True,
        ),
        *(
            Reader(
                f"{module.__name__} {backend} HTTP/2",
                _awaiting(partial(aopen_httpx, module, http2=True)),
                backend,
                http2=True,
            )
            for backend in ("asyncio", "trio")
        ),
    ]
}


def is_like_another(library: str) -> bool:
    """Return whether a library has the adapter of another: httpx2, that of httpx."""
    return library.startswith("httpx2")


def cross(readers: dict[str, Reader], *axes: Iterable[Any], once: int = 0) -> list[Any]:
    """Return parameters for each reader and each combination of the axes.

    Our transport runs every combination. A library runs every value of the first `once` axes with
    the first value of the others; the rest is marked `matrix`. httpx2, which has the adapter of
    httpx, runs the first value of each.
    """
    axes = tuple(tuple(axis) for axis in axes)
    parameters = []
    for reader in readers.values():
        for case in itertools.product(*axes):
            begin = 0 if is_like_another(reader.library) else once
            is_representative = all(
                value == axis[0] for value, axis in zip(case[begin:], axes[begin:], strict=True)
            )
            marks = [] if is_representative or reader.library == "sse_fast" else pytest.mark.matrix
            label = "-".join(str(each) for each in (reader, *case))
            parameters.append(pytest.param(reader, *case, marks=marks, id=label))
    return parameters
