"""Helpers of the tests of docs/guides/migrating.md: the parsed page, and both sides of its rows."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import aiohttp_sse_client.client as sse_client
import ld_eventsource.async_client
import ld_eventsource.config
import ld_eventsource.config.error_strategy
import ld_eventsource.sse_client
import pytest
import requests
import urllib3
from ld_eventsource.actions import Event
from ld_eventsource.config import ConnectStrategy, ErrorStrategy

from sse_fast import AsyncEventSource, EventSource, ReconnectPolicy, TransportError
from tests.support import ROOT
from tests.support.scripted_server import LIMIT, Play, Request, Stage, serve_stage, stream
from tests.support.server import nobody

PAGE = (ROOT / "docs" / "guides" / "migrating.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(
    re.findall(r"^## (.+?)(?: \d.*?)?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
)
ALL = "All three clients"
CLIENTS = ["requests-sse", "aiohttp-sse-client", "launchdarkly-eventsource"]
LD = CLIENTS[2]
PARSERS = ["httpx-sse", "sseclient-py"]


def find_all(pattern: str) -> dict[str, list[Any]]:
    """Return the matches of a pattern in each section."""
    return {
        name: re.findall(pattern, text, re.MULTILINE | re.DOTALL) for name, text in SECTIONS.items()
    }


PROGRAMS = find_all(r"^```python\n(.*?)^```$")
ROWS = find_all(r"^\| `([^\n]+?)` \| `([^\n]+?)` \|$")
BULLETS = find_all(r"^- \*\*([^\n]+?)\.\*\*")


def shows(bullet: str, *sections: str) -> Callable[[Any], Any]:
    """Mark the test of a bullet in these sections: test_migrating.py checks that each has one."""
    return lambda test: test


# -- How both sides are run ------------------------------------------------------------------------


class EnoughError(Exception):
    """A client has waited as often as a test wants to see."""


class Waits(list[float]):
    """Records the seconds that a client waits, and advances a simulated clock instead."""

    limit = 20
    _elapsed = 0.0

    def sleep(self, seconds: float) -> None:
        self.append(seconds)
        if len(self) == self.limit:
            raise EnoughError

    async def asleep(self, seconds: float) -> None:
        self.sleep(seconds)

    def monotonic(self) -> float:
        return time.monotonic() + sum(self) + self._elapsed

    def elapse(self, seconds: float, *_: Any) -> None:
        """Advance the clock without a wait."""
        self._elapsed += seconds


@pytest.fixture(autouse=True)
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    waits = Waits()

    async def our_sleep(self: Any, seconds: float) -> None:
        waits.sleep(seconds)

    clock = SimpleNamespace(sleep=waits.sleep, monotonic=waits.monotonic)
    for name in (
        "requests_sse.client",
        "ld_eventsource.sse_client",
        "ld_eventsource.async_client",
        "ld_eventsource.config.error_strategy",
    ):
        monkeypatch.setattr(f"{name}.time", clock)
    ours = [module for name, module in sys.modules.items() if name.startswith("sse_fast._client.")]
    clocked = [module for module in ours if getattr(module, "time", None) is time]
    assert clocked
    for module in clocked:
        monkeypatch.setattr(module, "time", clock)
    for module in (sse_client, ld_eventsource.async_client):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=waits.asleep))
    for source in (EventSource, AsyncEventSource):
        monkeypatch.setattr(source, "_sleep", our_sleep)
    return waits


@pytest.fixture(autouse=True)
def responses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Close every response of urllib3, since some clients leave theirs open."""
    responses: list[Any] = []
    urlopen = urllib3.connectionpool.HTTPConnectionPool.urlopen

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        responses.append(urlopen(self, *args, **options))
        return responses[-1]

    monkeypatch.setattr(urllib3.connectionpool.HTTPConnectionPool, "urlopen", noted)
    yield responses
    for response in responses:
        response.close()


@dataclass
class Outcome:
    """The events of a source, its error, and the requests that it sent."""

    events: list[tuple[str | None, str, str]]  # the type, the data, the last event ID
    error: Exception | None = None
    requests: list[Request] = field(default_factory=list)

    @property
    def data(self) -> list[str]:
        return [data for _, data, _ in self.events]

    @property
    def ids(self) -> list[str]:
        return [last_id for _, _, last_id in self.events]

    @property
    def sent(self) -> list[bytes | None]:
        """The Last-Event-ID of each request."""
        return [request.get("Last-Event-ID") for request in self.requests]


def plain(event: Any) -> tuple[str | None, str, str]:
    """Return the type, data and last event ID of an event of any library."""
    if hasattr(event, "origin"):
        return event.type, event.data, event.last_event_id
    if isinstance(event, Event):
        return event.event, event.data, event.last_event_id or ""
    return event.event, event.data, event.id


async def each(source: Any) -> AsyncIterator[Any]:
    """Open a source, sync or async, yield its events, and close it."""
    if hasattr(source, "__aenter__"):
        async with source:
            async for event in getattr(source, "events", source):
                yield event
    else:
        with source:
            for event in getattr(source, "events", source):
                yield event


async def read(source: Any, stop_after: int = 9) -> Outcome:
    """Open a source, read it to its end, its error or `stop_after` events, and close it."""
    outcome = Outcome([])
    try:
        async with aclosing(each(source)) as events:
            async for event in events:
                outcome.events.append(plain(event))
                if len(outcome.events) == stop_after:
                    break
    except Exception as error:
        outcome.error = error
        if isinstance(source, sse_client.EventSource) and source._need_close_session:
            await source._session.close()
    return outcome


def read_ours(url: str, stop_after: int = 9, **options: Any) -> Outcome:
    return asyncio.run(read(EventSource(url, **options), stop_after))


def aread_ours(url: str, stop_after: int = 9, **options: Any) -> Outcome:
    async def main() -> Outcome:
        return await read(AsyncEventSource(url, **options), stop_after)

    return asyncio.run(main())


CONTINUE = ErrorStrategy.always_continue()
NEVER = ReconnectPolicy.never()
# The keywords of EventSource.
OPTIONS = inspect.signature(EventSource).parameters

NO = Play(404, [("Content-Type", "text/plain"), ("X-Why", "so")], [b"no"], framing="length")
BUSY = Play(503, (), framing="length")
GONE = Play(framing="none")
CUT = Play(body=[b"data: 1\n\n"], framing="chunked-truncated")
RESET = [stream(b"id: 5\ndata: 1\n\n"), stream(b"id\ndata: 2\n\n"), stream(b"data: 3\n\n")]
NUL = stream(b"id: 5\ndata: 1\n\nid: a\0b\ndata: 2\n\n")
UNFINISHED = stream(b"id: 6\ndata: lost\n")
TICK = b"id: 1\nevent: tick\ndata: 1\n\ndata: 2\nretry: 5\n\n"


def run(reader: Callable[..., Outcome], *plays: Play, **options: Any) -> Outcome:
    """Read from a server that plays these responses, and then 204."""
    with serve_stage(plays) as stage:
        outcome = reader(stage.url, **options)
    outcome.requests = stage.requests
    return outcome


def check_attempts(ours: Any, waits: Waits) -> None:
    """Check that there are three attempts for the first response, and no limit afterwards."""
    waits.clear()
    with nobody() as origin:
        assert isinstance(ours(origin).error, TransportError)
    assert len(waits) == 2
    waits.clear()
    waits.limit = 100
    assert run(ours, stream(), *[GONE] * 40, stream()).data == ["a", "a"]


def wait_until(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.002)


_NOT_ASKED_FOR = {
    b"accept",
    b"accept-encoding",
    b"cache-control",
    b"connection",
    b"content-length",
    b"host",
    b"user-agent",
}
"""Header fields that each library sets in its own way."""


def essence(request: Request) -> tuple[Any, ...]:
    """Return a request without the header fields that each library sets in its own way."""
    fields = {name.lower(): value for name, value in request.fields}
    kept = {name: fields[name] for name in fields.keys() - _NOT_ASKED_FOR}
    if kept.get(b"content-type", b"").startswith(b"multipart/form-data"):
        # The boundary is random.
        assert b'name="f"' in request.body
        return request.method, request.target
    return request.method, request.target, kept, request.body


# -- The rows of the tables ------------------------------------------------------------------------


class Side:
    """One side of a row: the names that its code may use, and what the callbacks saw."""

    def __init__(self, row: str, section: str, ours: int, stage: Stage, waits: Waits) -> None:
        self.row = row
        self.section = section
        self.ours = ours
        self.stage = stage
        self.waits = waits
        self.seen: list[Any] = []
        self.names: dict[str, Any] = {
            "url": stage.url,
            "body": {"a": 1},
            "tokens": {"X-Key": "1"},
            "more": lambda: {"q": "a b"},
            "opened": lambda: self.seen.append("opened"),
            "lost": lambda: self.seen.append("lost"),
            "show": self.show,
            "hook": lambda response, **_: self.seen.append(response.status_code),
            "on_message": self.show,
            "on_close": lambda: self.seen.append("closed"),
            "proxy": stage.origin,
            "proxies": {"http": stage.origin},
            "context": ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            "strategy": _OfChunks(),
            "chunks": [TICK],
            **{each.__name__: each for each in (timedelta, urlencode, urlsplit)},
            **{each.__name__: each for each in (aiohttp, asyncio, logging, requests, urllib3)},
        }
        for lines in ROWS[section]:
            if _IMPORT.match(lines[ours]):
                exec(lines[ours], self.names)

    def show(self, what: Any) -> None:
        self.seen.append(plain(what) if hasattr(what, "data") else what)

    async def execute(self, code: str) -> Any:
        """Run statements, and return the value of the last one."""
        here = self.stage.origin.replace("://", "://me:secret@")
        tree = ast.parse(code.replace("https://me:secret@example.com", here))
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            tree.body[-1] = ast.Assign([ast.Name("_value", ast.Store())], last.value)
        self.names["_value"] = None
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        program = compile(ast.fix_missing_locations(tree), "migrating.md", "exec", flags)
        done = eval(program, self.names)
        if inspect.iscoroutine(done):
            await done
        return self.names["_value"]

    async def make(self, options: str = "") -> Any:
        """Make a source that is not opened yet, for rows that do not make one themselves."""
        kind = _SOURCES[self.section][self.ours]
        if self.section == LD and _ASYNC.match(self.row):
            kind = f"Async{kind}"
        source = await self.execute(f"{kind[:-1]}{options})")
        self.names["source"] = self.names["client"] = source
        return source


class _OfChunks(ConnectStrategy):
    """A connect strategy that reads a stream without HTTP."""

    def create_client(self, logger: Any) -> Any:
        stream = ld_eventsource.config.ConnectionResult(iter([TICK]), None)
        return SimpleNamespace(connect=lambda last_event_id: stream, close=lambda: None)


_IMPORT = re.compile(r"from |import ")
_ASYNC = re.compile(r"await |async ")
# The code that makes a source, theirs and ours.
_SOURCES = {
    "requests-sse": ("EventSource(url)", "EventSource(url)"),
    "aiohttp-sse-client": ("sse_client.EventSource(url, session=session)", "AsyncEventSource(url)"),
    "launchdarkly-eventsource": ("SSEClient(url)", "EventSource(url)"),
}


@asynccontextmanager
async def side_of(*of_what: Any) -> AsyncIterator[Side]:
    side = Side(*of_what)
    async with aiohttp.ClientSession() as asession:
        with requests.Session() as session, urllib3.PoolManager() as pool:
            side.names["session"] = session if side.section == "requests-sse" else asession
            side.names["pool"] = pool
            yield side
            if isinstance(another := side.names["session"], aiohttp.ClientSession):
                await another.close()


@asynccontextmanager
async def begun(side: Side, options: str = "") -> AsyncIterator[Callable[[], Awaitable[Any]]]:
    """Read the first event of a source, and yield a function that reads the next one."""
    async with aclosing(each(await side.make(options))) as events:
        side.names["event"] = await anext(events)
        yield lambda: anext(events, None)
