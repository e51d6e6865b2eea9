"""The ways under comparison to read the events, or the unparsed bytes, of a URL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import httpx
from httpx_sse import connect_sse

import sse_fast
from bench.loopback import Loopback, flood
from tests.support.clients import AOPENERS, HTTPX, OPENERS, READERS, TIMEOUT, Reader, tls

try:
    ry: Any = import_module("ry")
    RY_MISSING = ""
except ImportError as error:
    # There is no wheel for CPython 3.10.
    RY_MISSING = f"{error}: pip install 'sse-fast[bench]'"

RAW, RAW_ASYNCIO = "open_stream", "aopen_stream"
HTTPX_SSE, FED = "httpx, httpx-sse", "aiohttp, Parser.feed"
RY, RY_ASYNCIO = "ry", "ry asyncio"


# -- Taking the items of a stream: they are counted, and kept on request --------------------------


def take_events(stream: Any, keep: list[Any] | None) -> int:
    count = 0
    for event in stream:
        count += 1
        if keep is not None:
            keep.append(event.data)
    return count


async def atake_events(stream: Any, keep: list[Any] | None) -> int:
    count = 0
    async for event in stream:
        count += 1
        if keep is not None:
            keep.append(event.data)
    return count


async def afeed(response: Any, keep: list[Any] | None) -> int:
    count = 0
    feed = sse_fast.Parser().feed
    async for chunk in response.content.iter_any():
        for event in feed(chunk):
            count += 1
            if keep is not None:
                keep.append(event.data)
    return count


def take_bytes(chunks: Any, keep: list[Any] | None) -> int:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        if keep is not None:
            keep.append(chunk)
    return size


async def atake_bytes(chunks: Any, keep: list[Any] | None) -> int:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if keep is not None:
            keep.append(chunk)
    return size


@dataclass(frozen=True)
class Row:
    """A way to read a URL."""

    name: str
    reader: Reader
    take: Any
    bare: str | None = None
    """The row that iterates over the bytes of the same library."""
    missing: str = ""
    """Why the library is not available."""

    def run(self, server: Loopback, write: str, count: int, keep: list[Any] | None = None) -> None:
        """Send a request for `count` events and check that as many arrive."""
        url = server.url("flood", count=count, write=write)
        # With one authority only, since httpx takes 19 ms to load those of the web.
        got = self.reader.run(partial(self.take, keep=keep), url, ca=server.ca)
        expected = flood(count).size if self.of_bytes else count
        assert got == expected, f"{self.name} gives {got} of {expected}"

    def check(self, server: Loopback, write: str, count: int) -> None:
        """Send a request and compare all of its events or bytes with what was sent."""
        kept: list[Any] = []
        self.run(server, write, count, kept)
        if self.of_bytes:
            right = b"".join(kept) == b"".join(flood(count).blocks)
        else:
            right = kept == flood(count).data
        assert right, f"{self.name} does not return what was sent"

    @property
    def of_bytes(self) -> bool:
        return self.take in (take_bytes, atake_bytes)


# -- Openers ---------------------------------------------------------------------------------------


def _bare(opener: Any, items: Any) -> Any:
    @contextmanager
    def open_items(url: str, ca: str) -> Iterator[Any]:
        with opener(url, ca=ca) as response:
            yield items(response)

    return open_items


def _abare(opener: Any, items: Any) -> Any:
    @asynccontextmanager
    async def open_items(url: str, ca: str) -> AsyncIterator[Any]:
        async with opener(url, ca=ca) as response:
            yield items(response)

    return open_items


@contextmanager
def _httpx_sse(url: str, ca: str) -> Iterator[Any]:
    with (
        httpx.Client(verify=tls(ca), timeout=TIMEOUT, trust_env=False) as client,
        connect_sse(client, "GET", url) as source,
    ):
        yield source.iter_sse()


@contextmanager
def _own_sse(module: Any, url: str, ca: str) -> Iterator[Any]:
    with (
        module.Client(verify=tls(ca), timeout=TIMEOUT, trust_env=False) as client,
        client.sse(url) as source,
    ):
        yield source


def make_ry_client(kind: str, ca: str) -> Any:
    """Return a `ry.Client` or `ry.BlockingClient`."""
    with open(ca, "rb") as file:
        return getattr(ry, kind)(tls_certs_only=[ry.Certificate.from_pem(file.read())])


@contextmanager
def open_ry(url: str, ca: str, client: Any = None) -> Iterator[Any]:
    """Open a stream of ry, by default over a new client."""
    client = client or make_ry_client("BlockingClient", ca)
    with client.get(url).sse() as stream:
        yield stream


@asynccontextmanager
async def aopen_ry(url: str, ca: str, client: Any = None) -> AsyncIterator[Any]:
    """Open a stream of ry under asyncio, by default over a new client."""
    client = client or make_ry_client("Client", ca)
    async with (await client.get(url)).sse() as stream:
        yield stream


def _read1(response: Any) -> Iterator[bytes]:
    return iter(partial(response.read1, 65536), b"")


# Reader -> the bytes of its response.
BARE: dict[str, Any] = {
    "requests": lambda response: response.iter_content(None),
    "urllib3": lambda response: response.stream(),
    "http.client": _read1,
    "urllib.request": _read1,
    **{module.__name__: lambda response: response.iter_bytes() for module in HTTPX},
    **{f"{module.__name__} asyncio": lambda response: response.aiter_bytes() for module in HTTPX},
    "aiohttp": lambda response: response.content.iter_any(),
}


def rows() -> Iterator[Row]:
    yield Row(RAW, READERS["sse_fast"], take_events)
    yield Row(RAW_ASYNCIO, READERS["sse_fast asyncio"], atake_events)
    for name, items in BARE.items():
        reader = READERS[name]
        bare = f"{name}, bytes"
        if reader.backend is None:
            yield Row(bare, Reader(bare, _bare(OPENERS[name], items)), take_bytes)
            yield Row(f"{name}, events", reader, take_events, bare)
        else:
            opened = _abare(AOPENERS[name.replace("asyncio", "async")], items)
            yield Row(bare, Reader(bare, opened, reader.backend), atake_bytes)
            yield Row(f"{name}, events", reader, atake_events, bare)
    yield Row(FED, Reader(FED, AOPENERS["aiohttp"], "asyncio"), afeed)
    yield Row(HTTPX_SSE, Reader(HTTPX_SSE, _httpx_sse), take_events)
    yield Row(RY, Reader(RY, open_ry), take_events, missing=RY_MISSING)
    yield Row(RY_ASYNCIO, Reader(RY_ASYNCIO, aopen_ry, "asyncio"), atake_events, missing=RY_MISSING)
    for module in HTTPX:
        if hasattr(module.Client, "sse"):
            name = f"{module.__name__}, client.sse()"
            yield Row(name, Reader(name, partial(_own_sse, module)), take_events)
