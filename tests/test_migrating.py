"""docs/migrating.md: its programs and tables are run, theirs and ours, and each difference is shown
on the original beside ours."""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import ssl
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode, urlsplit

import aiohttp
import aiohttp_sse_client.client as sse_client
import httpx
import ld_eventsource.async_client
import ld_eventsource.config
import ld_eventsource.config.error_strategy
import ld_eventsource.sse_client
import pytest
import requests
import requests_sse
import trustme
import urllib3
from ld_eventsource import SSEClient
from ld_eventsource.actions import Comment, Event, Fault, Start
from ld_eventsource.config import ConnectStrategy, ErrorStrategy, RetryDelayStrategy
from ld_eventsource.errors import HTTPContentTypeError, HTTPStatusError
from server import nobody
from stage import LIMIT, Play, Request, Stage, serve_stage, stream

import sse_fast
from sse_fast import (
    AsyncEventSource,
    EndReason,
    EventSource,
    EventTooLarge,
    ReadyState,
    ReconnectPolicy,
    ResponseError,
    SSEError,
    StreamIncomplete,
    TransportError,
)

PAGE = (Path(__file__).parent.parent / "docs" / "migrating.md").read_text(encoding="utf-8")
SECTIONS: dict[str, str] = dict(
    re.findall(r"^## (.+?)(?: \d.*?)?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
)
ALL = "All three clients"
CLIENTS = ["requests-sse", "aiohttp-sse-client", "launchdarkly-eventsource"]
PARSERS = ["httpx-sse", "sseclient-py"]


def found(pattern: str) -> dict[str, list[Any]]:
    """What each section has of it."""
    return {
        name: re.findall(pattern, text, re.MULTILINE | re.DOTALL) for name, text in SECTIONS.items()
    }


PROGRAMS = found(r"^```python\n(.*?)^```$")
ROWS = found(r"^\| `([^\n]+?)` \| `([^\n]+?)` \|$")
BULLETS = found(r"^- \*\*([^\n]+?)\.\*\*")
# What has a test, by section.
SHOWN: dict[str, list[str]] = {name: [] for name in SECTIONS}


def shows(bullet: str, *sections: str) -> Callable[[Any], Any]:
    """The test of that bullet, in those sections."""
    for section in sections:
        SHOWN[section].append(bullet)

    def decorate(test: Any) -> Any:
        assert test.__name__.startswith("test_")
        return test

    return decorate


def test_the_page_was_read() -> None:
    assert list(SECTIONS) == [ALL, *CLIENTS, *PARSERS]
    assert [len(programs) for programs in PROGRAMS.values()] == [0, 2, 2, 2, 2, 2]
    assert PAGE.count("```") == 2 * 10
    assert [len(rows) for rows in ROWS.values()] == [0, 45, 41, 56, 0, 0]
    # Each of the three tables has two lines of head.
    assert len(re.findall(r"^\|", PAGE, re.MULTILINE)) == 45 + 41 + 56 + 3 * 2
    assert len(re.findall(r"^- ", PAGE, re.MULTILINE)) == sum(map(len, BULLETS.values()))


def test_every_difference_is_shown() -> None:
    for section, bullets in BULLETS.items():
        assert sorted(SHOWN[section]) == sorted(bullets)


# -- How both sides are run ------------------------------------------------------------------------


class EnoughError(Exception):
    """There were as many waits as a test wants to see."""


class Waits(list[float]):
    """The seconds for which a client would have waited before its next attempts.

    None does: the clock that it is shown is put forward.
    """

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
        """While nobody waits."""
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
        "sse_fast._client",
        "sse_fast._client_base",
    ):
        monkeypatch.setattr(f"{name}.time", clock)
    for module in (sse_client, ld_eventsource.async_client):
        monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=waits.asleep))
    for source in (EventSource, AsyncEventSource):
        monkeypatch.setattr(source, "_sleep", our_sleep)
    return waits


@pytest.fixture(autouse=True)
def responses(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Those of urllib3. Some of theirs are left open, and would be found in another test."""
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
    """What came of reading, and what was asked for that."""

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
    """An event of whichever side."""
    if hasattr(event, "origin"):
        return event.type, event.data, event.last_event_id
    if isinstance(event, Event):
        return event.event, event.data, event.last_event_id or ""
    return event.event, event.data, event.id


async def read(source: Any, stop_after: int = 9) -> Outcome:
    """Open it, read it until it ends, raises or has given so many events, and close it."""
    events: list[Any] = []
    try:
        if hasattr(source, "__aenter__"):
            async with source:
                async for event in getattr(source, "events", source):
                    events.append(plain(event))
                    if len(events) == stop_after:
                        break
        else:
            with source:
                for event in getattr(source, "events", source):
                    events.append(plain(event))
                    if len(events) == stop_after:
                        break
    except Exception as error:
        if isinstance(source, sse_client.EventSource) and source._need_close_session:
            await source._session.close()
        return Outcome(events, error)
    return Outcome(events)


def read_requests(url: str, stop_after: int = 9, **options: Any) -> Outcome:
    return asyncio.run(read(requests_sse.EventSource(url, **options), stop_after))


def read_aiohttp(url: str, stop_after: int = 9, **options: Any) -> Outcome:
    async def main() -> Outcome:
        # One of its own stays open if there is no first response.
        async with aiohttp.ClientSession() as session:
            source = sse_client.EventSource(url, **{"session": session, **options})
            return await read(source, stop_after)

    return asyncio.run(main())


def read_launchdarkly(url: str | ConnectStrategy, stop_after: int = 9, **options: Any) -> Outcome:
    return asyncio.run(read(SSEClient(url, **options), stop_after))


def read_ours(url: str, stop_after: int = 9, **options: Any) -> Outcome:
    return asyncio.run(read(EventSource(url, **options), stop_after))


def aread_ours(url: str, stop_after: int = 9, **options: Any) -> Outcome:
    async def main() -> Outcome:
        return await read(AsyncEventSource(url, **options), stop_after)

    return asyncio.run(main())


READERS: dict[str, Callable[..., Outcome]] = {
    "requests-sse": read_requests,
    "aiohttp-sse-client": read_aiohttp,
    "launchdarkly-eventsource": read_launchdarkly,
}
EACH = pytest.mark.parametrize("client", CLIENTS)
# To be read by two of them, and by ours in the way of each.
TWO = pytest.mark.parametrize(
    ("theirs", "ours"),
    [(read_requests, read_ours), (read_aiohttp, aread_ours)],
    ids=["requests-sse", "aiohttp-sse-client"],
)
CONTINUE = ErrorStrategy.always_continue()
NEVER = ReconnectPolicy.never()


def run(reader: Callable[..., Outcome], *plays: Play, **options: Any) -> Outcome:
    """From a server that plays that, and then has no more."""
    with serve_stage(plays) as stage:
        outcome = reader(stage.url, **options)
    outcome.requests = stage.requests
    return outcome


_NOT_ASKED_FOR = {
    b"accept",
    b"accept-encoding",
    b"cache-control",
    b"connection",
    b"content-length",
    b"host",
    b"user-agent",
}
"""What each library says in its own way."""


def essence(request: Request) -> tuple[Any, ...]:
    """What was asked, without what each library adds."""
    fields = {name.lower(): value for name, value in request.fields}
    kept = {name: fields[name] for name in fields.keys() - _NOT_ASKED_FOR}
    if kept.get(b"content-type", b"").startswith(b"multipart/form-data"):
        # The boundary is a random one.
        assert b'name="f"' in request.body
        return request.method, request.target
    return request.method, request.target, kept, request.body


# -- The programs ----------------------------------------------------------------------------------


def run_program(code: str, stage: Stage) -> None:
    exec(compile(code.replace("https://example.com", stage.origin), "migrating.md", "exec"), {})


NO = Play(404, [("Content-Type", "text/plain"), ("X-Why", "so")], [b"no"], framing="length")
TICKS = [
    Play(body=[b": hello\nid: 8\nevent: tick\ndata: 1\n\n"], framing="chunked-truncated"),
    stream(b"id: 9\ndata: two\ndata: lines\n\n", b"event: bye\ndata: 3\n\n"),
]
TEXTS = [stream(b'data: {"text": "a"}\n\n', b'data: {"text": "b"}\n\n', b"data: [DONE]\n\n")]


@pytest.mark.parametrize(
    ("section", "plays", "printed"),
    [
        (
            "requests-sse",
            [TICKS[0], TICKS[0], NO],
            ["open", "tick 1 8", "lost", "open", "tick 1 8", "lost", "lost", "refused: 404"],
        ),
        ("aiohttp-sse-client", TEXTS, ["a", "b"]),
        (
            "aiohttp-sse-client",
            [Play(body=[b'data: {"text": "a"}\n\n'], framing="chunked-truncated")],
            ["a", "cut off"],
        ),
        (
            "launchdarkly-eventsource",
            [NO, *TICKS],
            [
                *("lost", "open text/event-stream", "comment hello", "tick 1 8"),
                *("lost", "open text/event-stream", "message two", "lines 9", "bye 3 9"),
            ],
        ),
        (
            "launchdarkly-eventsource",
            [stream(b"data: 1\n\n"), TICKS[1]],
            [
                *("open text/event-stream", "message 1 7"),
                *("lost", "open text/event-stream", "message two", "lines 9", "bye 3 9"),
            ],
        ),
    ],
    ids=["requests-sse", "aiohttp-sse-client", "cut off", "launchdarkly-eventsource", "clean end"],
)
def test_a_program(
    section: str, plays: list[Play], printed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Theirs and ours print the same, and ask the same."""
    asked = []
    for program in PROGRAMS[section]:
        with serve_stage(plays) as stage:
            run_program(program, stage)
        assert capsys.readouterr().out.splitlines() == printed
        asked.append([essence(request) for request in stage.requests])
    assert asked[0] == asked[1]
    assert len(asked[0]) == len(plays)


BOM = b"\xef\xbb\xbf"
TICK = b"id: 1\nevent: tick\ndata: 1\n\ndata: 2\nretry: 5\n\n"


@pytest.mark.parametrize("section", PARSERS)
def test_a_program_of_a_parser(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It differs in one line."""
    theirs, ours = PROGRAMS[section]
    (line,) = set(ours.splitlines()) - set(theirs.splitlines())
    assert ours == theirs.replace(f"import {line.split()[-1]}\n", f"{line}\n")
    printed = []
    for program in (theirs, ours):
        with serve_stage([stream(TICK)]) as stage:
            run_program(program, stage)
        printed.append(capsys.readouterr().out.splitlines())
    assert printed[0] == printed[1]
    assert [line[:8] for line in printed[0]] == ["tick 1 1", "message "]


# -- The tables ------------------------------------------------------------------------------------


class Side:
    """A side of a row: the names that it may use, and what came of it."""

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
            "asyncio": asyncio,
            "aiohttp": aiohttp,
            "logging": logging,
            "requests": requests,
            "timedelta": timedelta,
            "urlencode": urlencode,
            "urllib3": urllib3,
            "urlsplit": urlsplit,
        }
        for lines in ROWS[section]:
            if _IMPORT.match(lines[ours]):
                exec(lines[ours], self.names)

    def show(self, what: Any) -> None:
        self.seen.append(plain(what) if hasattr(what, "data") else what)

    async def execute(self, code: str) -> Any:
        """The value of the last of these statements."""
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
        """A source that is not opened yet, where the row has none of its own."""
        kind = _SOURCES[self.section, _ASYNC.match(self.row) is not None][self.ours]
        source = await self.execute(f"{kind[:-1]}{options})")
        self.names["source"] = self.names["client"] = source
        return source


class _OfChunks(ConnectStrategy):
    """A stream that is none of HTTP."""

    def create_client(self, logger: Any) -> Any:
        stream = ld_eventsource.config.ConnectionResult(iter([TICK]), None)
        return SimpleNamespace(connect=lambda last_event_id: stream, close=lambda: None)


_IMPORT = re.compile(r"from |import ")
_ASYNC = re.compile(r"await |async ")
# What a source is made by, theirs and ours; whether the row is an async one.
_SOURCES = {
    ("requests-sse", False): ("EventSource(url)", "EventSource(url)"),
    **dict.fromkeys(
        [("aiohttp-sse-client", False), ("aiohttp-sse-client", True)],
        ("sse_client.EventSource(url, session=session)", "AsyncEventSource(url)"),
    ),
    ("launchdarkly-eventsource", False): ("SSEClient(url)", "EventSource(url)"),
    ("launchdarkly-eventsource", True): ("AsyncSSEClient(url)", "AsyncEventSource(url)"),
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
    """A source whose first event was read; how to read the next."""
    source = await side.make(options)
    if hasattr(source, "__aenter__"):
        async with source:
            events = aiter(getattr(source, "events", source))
            side.names["event"] = await anext(events)
            yield lambda: anext(events, None)
            if inspect.isasyncgen(events):
                await events.aclose()
    else:
        with source:
            iterator = iter(getattr(source, "events", source))
            side.names["event"] = next(iterator)

            async def read_on() -> Any:
                return next(iterator, None)

            yield read_on


HTML = Play(200, [("Content-Type", "text/html")], [b"no"], framing="length")
CUT = Play(body=[b"data: 1\n\n"], framing="chunked-truncated")
SILENT = Play(framing="none", end="hang")
GONE = Play(framing="none")
TICKING = stream(b"id: 8\nevent: tick\ndata: 1\n\nid: 9\nevent: tick\ndata: 2\n\n")
HANGING = Play(body=TICKING.body, framing="chunked", end="hang")

Check = Callable[[str, Side], Awaitable[Any]]
"""Runs a line. What it returns is to be the same for theirs and ours."""


def typed(events: Iterable[Any]) -> list[Any]:
    """With the type that ours says, where theirs has None."""
    return [(kind or "message", *rest) for kind, *rest in events]


async def imports(code: str, side: Side) -> None:
    await side.execute(code)


async def sends(code: str, side: Side) -> Any:
    """A source: what it asks, and what it gives."""
    side.stage.plays = next(
        (plays for part, plays in _PLAYS.items() if part in side.row), [TICKING]
    )
    source = await side.execute(code)
    events: list[Any] = []
    if not isinstance(source, EndReason):
        closes = hasattr(source, "__enter__") or hasattr(source, "__aenter__")
        outcome = await read(source, 2) if closes else Outcome([plain(each) for each in source])
        assert (outcome.error is None) == (outcome.events != [])
        events = typed(outcome.events)
    if "on_message" in side.row:
        # With ours, in place of the loop.
        events = side.seen = typed(side.seen)
        assert [data for _, data, _ in events] == ["1", "2"]
        return events, essence(side.stage.requests[0]), side.seen
    return events, list(map(essence, side.stage.requests)), side.seen


async def gives_up(code: str, side: Side) -> Any:
    """The time-outs for a connection and for quiet, as they are written and as they are kept."""
    source = await side.execute(code)
    if side.ours:
        limits = source._connect_timeout, source._idle_timeout
    else:
        given = await side.execute(re.findall(r"timeout\"?[=:] ?(.+?)(?:}\)\)|\))$", code)[0])
        kinds: dict[type, Callable[[], tuple[Any, Any]]] = {
            aiohttp.ClientTimeout: lambda: (given.sock_connect, given.sock_read),
            urllib3.Timeout: lambda: (given.connect_timeout, given.read_timeout),
            tuple: lambda: given,
        }
        limits = kinds.get(type(given), lambda: (given, given))()
    outcome = await read(source, 2)
    return limits, typed(outcome.events), outcome.error


async def refreshes(code: str, side: Side) -> Any:
    """Tokens that change while it runs."""

    def play(index: int, request: Request) -> Play:
        side.names["tokens"]["X-Key"] = str(index)
        return TICKING

    side.stage.plays = play
    await read(await side.execute(going_on(code)), 5)
    return [request.get("X-Key") for request in side.stage.requests]


async def is_trusted(code: str, side: Side) -> Any:
    """Over TLS, with a context of one's own."""
    authority = trustme.CA()
    authority.configure_trust(side.names["context"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve_stage([TICKING], context) as stage:
        side.names["url"] = stage.url
        outcome = await read(await side.execute(code), 2)
    return typed(outcome.events), outcome.error


async def shows_certificates(code: str, side: Side) -> Any:
    """What requests is told of them."""
    send = requests.Session.send

    def noted(session: Any, request: Any, **options: Any) -> Any:
        side.seen.append((options["verify"], options["cert"]))
        return send(session, request, **options)

    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as here:
        patch.setattr(requests.Session, "send", noted)
        patch.setenv("REQUESTS_CA_BUNDLE", "other.pem")
        patch.chdir(here)
        # It looks whether there is one, also where it needs none.
        Path("me.pem").touch()
        sent = await sends(code, side)
    assert side.seen == [("ca.pem", "me.pem")]
    return sent


def going_on(code: str) -> str:
    """Theirs is to ask again, as ours does."""
    if "SSEClient" in code:
        code = f"{code[:-1]}, error_strategy=ErrorStrategy.always_continue())"
    return code


async def waits_before(code: str, side: Side) -> Any:
    """The first two waits, where nobody listens."""
    with nobody() as side.names["url"]:
        await read(await side.execute(going_on(code)))
    if "jitter_multiplier" not in side.row:
        return [round(wait) for wait in side.waits[:2]]
    # Half of them is random.
    first, second = (wait - side.ours * ReconnectPolicy().min_delay for wait in side.waits[:2])
    assert (first, second) != pytest.approx((1, 3), abs=2e-3)
    return 0.49 < first < 1.01, 1.49 < second < 3.01


async def starts_anew(code: str, side: Side) -> Any:
    """The waits before and behind a connection that lasts, or almost does."""
    results = []
    for seconds in (59.0, 61.0):
        side.waits.clear()
        side.stage.plays = [GONE, GONE, stream(b":\n")]
        if side.ours:
            side.names["passes"] = partial(side.waits.elapse, seconds)
            steady = code.replace("60)", "60, jitter=0)")
            await read(await side.execute(f"{steady[:-1]}, on_comment=passes)"))
            waits = side.waits[:3]
        else:
            waits = []
            client = await side.execute(going_on(code))
            with client, closing(client.all) as actions:
                for action in islice(actions, 5):
                    if isinstance(action, Comment):
                        side.waits.elapse(seconds)
                    elif isinstance(action, Fault):
                        waits.append(client.next_retry_delay)
        side.stage.requests.clear()
        results.append([round(wait) for wait in waits])
    assert results == [[1, 2, 4], [1, 2, 1]]


async def counts_attempts(code: str, side: Side) -> Any:
    with nobody() as side.names["url"]:
        error = (await read(await side.execute(code))).error
    first = len(side.waits), error is None
    if side.section == "aiohttp-sse-client":
        # It does not count later ones.
        return first
    side.names["url"] = side.stage.url
    side.stage.plays = [TICKING, *[GONE] * 9]
    error = (await read(await side.execute(code))).error
    return first, len(side.stage.requests), error is None


async def goes_on(code: str, side: Side) -> Any:
    """Which failures it goes on after, and how many of them."""
    went = []
    busy = Play(503, (), framing="length")
    for plays in (
        [NO] * 5 + [CUT, HTML, TICKING],
        [NO] * 6 + [CUT, TICKING],
        [CUT, TICKING],
        # aiohttp itself asks twice.
        [NO if "Async" in side.row else GONE] * 5 + [CUT, TICKING],
        [CUT] + [busy] * 5 + [TICKING],
        [stream(), stream(), stream()],
    ):
        side.stage.plays = plays
        side.stage.requests.clear()
        side.waits.clear()
        outcome = await read(await side.execute(code), 3)
        went.append((outcome.events, outcome.error is None, len(side.stage.requests)))
    return went


async def lasts(code: str, side: Side) -> None:
    """It asks for a minute, where nobody listens."""
    side.waits.limit = 100
    with nobody() as side.names["url"]:
        error = (await read(await side.execute(code))).error
    assert error is not None
    assert not isinstance(error, EnoughError)
    # Theirs looks at the time when the last wait is over, ours before it begins.
    assert sum(side.waits[:-1]) < 60
    assert side.ours == (sum(side.waits) < 60)


async def failure_of(side: Side) -> Exception:
    play, options = next(
        failure for start, failure in _FAILURES.items() if side.row.startswith(start)
    )
    if side.ours:
        options = ", policy=ReconnectPolicy.never()"
        if play is SILENT:
            options += ", idle_timeout=0.2"
    if play is None:
        with nobody() as side.names["url"]:
            error = (await read(await side.make(options))).error
    else:
        side.stage.plays = [play]
        error = (await read(await side.make(options))).error
    assert error is not None
    return error


async def catches(code: str, side: Side) -> None:
    side.names["given"] = given = await failure_of(side)
    await side.execute(f"try:\n raise given\n{code.replace('...', 'caught = error')}")
    assert side.names["caught"] is given


async def tells_of_a_failure(code: str, side: Side) -> Any:
    side.names["error"] = await failure_of(side)
    return await side.execute(code)


async def tells_of_an_event(code: str, side: Side) -> Any:
    async with begun(side):
        return await side.execute(code)


async def tells_of_an_action(code: str, side: Side) -> Any:
    """What others give in a loop, ours gives to callbacks."""
    side.stage.plays = [Play(body=[b":hi\ndata: 1\n\n"], framing="chunked-truncated")]
    if side.row.startswith("fault.headers"):
        side.stage.plays = [NO]
    if side.ours:
        await read(await side.execute(code))
        value = side.seen[0]
    else:
        with (
            SSEClient(side.stage.url, error_strategy=CONTINUE) as client,
            closing(client.all) as actions,
        ):
            for action in islice(actions, 4):
                side.names.setdefault(type(action).__name__.lower(), action)
        value = await side.execute(code)
    # Each has its own.
    return isinstance(value, Exception) or value


async def tells_of_a_source(code: str, side: Side) -> Any:
    side.stage.plays = [TICKING]
    async with begun(side, ", policy=ReconnectPolicy.never()" if side.ours else "") as read_on:
        if "last_event_id" in code:
            while await read_on() is not None:
                pass
        return await side.execute(code)


async def connects(code: str, side: Side) -> Any:
    source = await side.make()
    assert side.stage.requests == []
    await side.execute(code)
    asked = len(side.stage.requests)
    closed = (source.aclose if side.ours and hasattr(source, "aclose") else source.close)()
    if closed is not None:
        await closed
    return asked


async def closes(code: str, side: Side) -> None:
    async with begun(side):
        assert side.stage.open == 1
        await side.execute(code)
        limit = time.monotonic() + LIMIT
        while side.stage.open:
            assert time.monotonic() < limit
            await asyncio.sleep(0.002)


async def interrupts(code: str, side: Side) -> Any:
    options = "" if side.ours else ", error_strategy=ErrorStrategy.always_continue()"
    async with begun(side, options) as read_on:
        await side.execute(code)
        return plain(await read_on()), len(side.stage.requests)


async def loops(code: str, side: Side) -> Any:
    side.stage.plays = [TICKING]
    side.names["seen"] = side.seen
    if " as " in code:
        name = re.findall(r" as (\w+)", code)[0]
        await side.execute(code.replace("...", f"seen.append({name})"))
        return len(side.seen)
    source = await side.make(", policy=ReconnectPolicy.never()" if side.ours else "")
    if hasattr(source, "connect"):
        # Which the loop of others does.
        connecting = source.connect()
        if connecting is not None:
            await connecting
    name = re.findall(r"for (\w+) in", side.row)[0]
    # Some end with an error, where the server has no more events.
    with suppress(requests_sse.InvalidStatusCodeError, ConnectionAbortedError):
        await side.execute(code.replace("...", f"seen.append({name})"))
    closing = source.aclose() if hasattr(source, "aclose") else source.close()
    if closing is not None:
        await closing
    events = [each for each in side.seen if not isinstance(each, (Start, Fault, str))]
    # The end is there for those who ask for it.
    ends = [each for each in side.seen if isinstance(each, (Fault, str))]
    return typed(each if isinstance(each, tuple) else plain(each) for each in events), len(ends)


async def makes(code: str, side: Side) -> Any:
    return plain(await side.execute(code))


async def logs(code: str, side: Side) -> Any:
    """Whether there is something in the log."""
    side.stage.plays = [TICKING]
    made = await side.execute(code)
    logger = made if isinstance(made, logging.Logger) else logging.getLogger("events")
    seen: list[Any] = []
    handler = logging.Handler()
    handler.emit = seen.append  # type: ignore[method-assign]
    level = logger.level
    logger.setLevel("DEBUG")
    logger.addHandler(handler)
    try:
        await read(made if made is not logger else await side.make(), 1)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    return seen != []


# Which lines of theirs are run how: the first that matches.
CHECKS: list[tuple[str, Check]] = [
    (r"from |import ", imports),
    (r"except ", catches),
    (r"error\.|int\(str\(error", tells_of_a_failure),
    (r"event\.", tells_of_an_event),
    (r"(start|comment|fault)\.", tells_of_an_action),
    (r"(await )?(source|client)\.(connect|start)\(", connects),
    (r"(await )?(source|client)\.close\(", closes),
    (r"(await )?client\.interrupt\(", interrupts),
    (r"(source|client)\.|str\(source\.url", tells_of_a_source),
    (r"(async )?(with|for) ", loops),
    (r"(sse_client\.)?(Message)?Event\(", makes),
    (r"logging|.*logger=", logs),
    (r".*(reconnection_time|initial_retry_delay|retry_delay_strategy)=", waits_before),
    (r".*max_connect_retry=", counts_attempts),
    (r".*time_limit", lasts),
    (r".*reset_threshold", starts_anew),
    (r".*error_strategy=|(Async)?SSEClient\(url\)$", goes_on),
    (r".*headers=tokens", refreshes),
    (r".*ssl=context", is_trusted),
    (r".*verify=", shows_certificates),
    (r".*timeout", gives_up),
    (r"(sse_client\.)?EventSource\(|(Async)?SSEClient\(", sends),
]
# What the server plays, by a part of their line.
_PLAYS: dict[str, list[Play]] = {
    "on_error": [NO],
    "on_message": [stream(b"data: 1\n\ndata: 2\n\n")],
    "redirect": [Play(302, [("Location", "@b")], framing="length")],
}
# How to fail (None: nobody listens), and what theirs is told besides, by how their line begins.
_FAILURES: dict[str, tuple[Play | None, str]] = {
    "except InvalidContentTypeError": (HTML, ""),
    "except requests.ConnectionError": (None, ""),
    "except requests.Timeout": (SILENT, ", timeout=0.2, max_connect_retry=0"),
    "except ConnectionRefusedError": (Play(401, (), framing="length"), ""),
    "except ConnectionAbortedError": (HTML, ""),
    "except ClientConnectionError": (None, ""),
    "except ClientPayloadError": (CUT, ""),
    "except asyncio.TimeoutError": (SILENT, ", timeout=aiohttp.ClientTimeout(total=0.2)"),
    "except HTTPContentTypeError": (HTML, ""),
    "except urllib3": (None, ""),
    "error.content_type": (HTML, ""),
    "": (NO, ""),
}


@pytest.mark.parametrize(
    ("section", "theirs", "ours"),
    [(section, *row) for section, rows in ROWS.items() for row in rows],
    ids=[f"{section}: {row[0]}" for section, rows in ROWS.items() for row in rows],
)
def test_a_row(section: str, theirs: str, ours: str, waits: Waits) -> None:
    check = next(check for pattern, check in CHECKS if re.match(pattern, theirs))

    async def main() -> list[Any]:
        results = []
        for is_ours, code in enumerate((theirs, ours)):
            waits.clear()
            with serve_stage([HANGING] * 3) as stage:
                async with side_of(theirs, section, is_ours, stage, waits) as side:
                    results.append(await check(code, side))
                results[-1] = repr(results[-1]).replace(stage.origin, "ORIGIN")
        return results

    one, other = asyncio.run(main())
    assert one == other


# -- What differs from all three -------------------------------------------------------------------


@shows("A byte order mark", ALL)
@EACH
def test_a_byte_order_mark(client: str) -> None:
    body = BOM + b"data: 1\n\ndata: 2\n\n"
    assert run(READERS[client], stream(body)).data == ["2"]
    assert run(read_ours, stream(body)).data == ["1", "2"]


@shows("Bytes that are not UTF-8", ALL)
@EACH
def test_bytes_that_are_not_utf_8(client: str) -> None:
    body = b"data: \xff\n\ndata: 2\n\n"
    theirs = run(READERS[client], stream(body))
    assert theirs.data == []
    assert isinstance(theirs.error, UnicodeDecodeError)
    assert run(read_ours, stream(body)).data == ["\ufffd", "2"]


def grows(
    read: Callable[[bytes], object], body: Callable[[int], bytes], size: int, *, linear: bool
) -> bool:
    """Whether a body of four times the size takes less than eight times the CPU, or more.

    Of the least of several tries: what else is going on makes them longer, never shorter.
    """
    bodies = body(size), body(4 * size)
    least = [float("inf")] * 2
    for tries in range(1, 13):
        for index, each in enumerate(bodies):
            began = time.thread_time()
            read(each)
            least[index] = min(least[index], time.thread_time() - began)
        if tries > 1 and (least[1] < 8 * least[0]) == linear:
            return True
    return False


def reading(reader: Callable[..., Outcome]) -> Callable[[bytes], None]:
    def read_one(body: bytes) -> None:
        ran = run(reader, Play(body=[body]), stop_after=1)
        assert len(ran.events) == 1

    return read_one


def data_lines(count: int) -> bytes:
    return (b"data: %b\n" % (b"x" * 64)) * count + b"\n"


@shows("An event of many lines", ALL)
@EACH
def test_an_event_of_many_lines(client: str) -> None:
    assert grows(reading(READERS[client]), data_lines, 4_000, linear=False)
    assert grows(reading(read_ours), data_lines, 20_000, linear=True)


@shows("The status 204", ALL)
@EACH
def test_the_status_204(client: str) -> None:
    theirs = run(READERS[client])
    assert theirs.error is not None
    assert "204" in str(theirs.error)
    with serve_stage() as stage, EventSource(stage.url) as source:
        assert list(source) == []
        assert source.end_reason is EndReason.NO_CONTENT


@shows("The statuses 429, 503 and their like", ALL)
@EACH
@pytest.mark.parametrize("status", [429, 503])
def test_the_statuses_429_503_and_their_like(client: str, status: int, waits: Waits) -> None:
    later = Play(status, [("Retry-After", "7")], framing="length")
    theirs = run(READERS[client], later, stream())
    assert (theirs.data, len(theirs.requests), waits) == ([], 1, [])
    assert str(status) in str(theirs.error)
    assert run(read_ours, later, stream()).data == ["a"]
    assert 6.5 < waits[0] < 8.01
    ours = run(read_ours, later, policy=ReconnectPolicy(retry_statuses=()))
    assert isinstance(ours.error, ResponseError)
    # A strategy does not look at Retry-After either.
    waits.clear()
    theirs = run(read_launchdarkly, later, stream(), stop_after=1, error_strategy=CONTINUE)
    assert theirs.data == ["a"]
    assert waits == [pytest.approx(1, abs=0.5)]


FIELDS = {"X-Key": "1", "Authorization": "secret", "Cookie": "a=1"}


@shows("A redirect to another origin", ALL)
@EACH
def test_a_redirect_to_another_origin(client: str) -> None:
    def arrives(reader: Callable[..., Outcome]) -> set[str]:
        """Which of the fields another origin gets."""
        with serve_stage([stream()]) as far:
            away = Play(302, [("Location", far.url)], framing="length")
            with serve_stage([away]) as near:
                reader(near.url)
        return {name for name in FIELDS if far.requests[0].get(name) is not None}

    def theirs(url: str) -> Outcome:
        if client == "launchdarkly-eventsource":
            return read_launchdarkly(ConnectStrategy.http(url, headers=FIELDS), 1)
        return READERS[client](url, 1, headers=dict(FIELDS))

    assert arrives(theirs) == {"X-Key"}
    assert arrives(lambda url: read_ours(url, 1, headers=FIELDS)) == set()


@shows("Proxies of the environment", ALL)
@EACH
def test_proxies_of_the_environment(client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_stage([stream()] * 2) as proxy, serve_stage([stream()] * 2) as direct:
        monkeypatch.setenv("http_proxy", proxy.origin)
        way = proxy if client == "requests-sse" else direct

        async def main() -> None:
            """With a client of the library that theirs is made on."""
            async with aiohttp.ClientSession() as asession:
                with requests.Session() as session, urllib3.PoolManager() as pool:
                    ours: Any = {
                        "requests-sse": partial(EventSource, client=session),
                        "aiohttp-sse-client": partial(AsyncEventSource, client=asession),
                        "launchdarkly-eventsource": partial(EventSource, client=pool),
                    }[client]
                    assert (await read(ours(direct.url), 1)).data == ["a"]

        assert READERS[client](direct.url, 1).data == ["a"]
        asyncio.run(main())
        assert len(way.requests) == len(proxy.requests) + len(direct.requests) == 2
        assert type(read_ours(direct.url).error) is SSEError
        assert len(way.requests) == 2


@shows("Time-outs", ALL)
def test_time_outs(monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts: list[Any] = []
    request, send = urllib3.PoolManager.request, requests.adapters.HTTPAdapter.send

    def of_pool(self: Any, *args: Any, **options: Any) -> Any:
        timeouts.append(options.get("timeout"))
        return request(self, *args, **options)

    def of_adapter(self: Any, *args: Any, **options: Any) -> Any:
        timeouts.append(options["timeout"])
        return send(self, *args, **options)

    monkeypatch.setattr(urllib3.PoolManager, "request", of_pool)
    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", of_adapter)
    run(read_launchdarkly, stream())
    run(read_requests, stream(), stop_after=1)
    assert timeouts == [None, None]
    assert urllib3.Timeout.from_float(None).read_timeout is None

    async def total() -> float | None:
        async with sse_client.EventSource(stage.url) as source:
            return source._session.timeout.total

    with serve_stage([stream()]) as stage:
        assert asyncio.run(total()) == 300
    options = inspect.signature(EventSource.__mro__[1].__init__).parameters
    assert (options["connect_timeout"].default, options["idle_timeout"].default) == (10, 300)
    # It makes a new connection, where the first is quiet.
    quiet = Play(body=[b"data: 1\n\n"], framing="chunked", end="hang")
    assert run(read_ours, quiet, stream(), idle_timeout=1.0).data == ["1", "a"]


@shows("Size", ALL)
@EACH
def test_size(client: str) -> None:
    large = stream(b"data: %b\n\n" % (b"x" * 200_000))
    assert [len(data) for data in run(READERS[client], large, stop_after=1).data] == [200_000]
    ours = run(read_ours, large, max_event_size=100_000)
    assert isinstance(ours.error, EventTooLarge)
    options = inspect.signature(EventSource.__mro__[1].__init__).parameters
    assert options["max_event_size"].default == 16 * 2**20


@shows("A response that is refused", ALL)
@EACH
def test_a_response_that_is_refused(client: str, responses: list[Any]) -> None:
    async def refused(url: str) -> Exception | None:
        tracing = aiohttp.TraceConfig()

        async def note(_: Any, __: Any, ended: aiohttp.TraceRequestEndParams) -> None:
            responses.append(ended.response)

        tracing.on_request_end.append(note)
        async with aiohttp.ClientSession(trace_configs=[tracing]) as session:
            source: Any = {
                "requests-sse": partial(requests_sse.EventSource, url),
                "aiohttp-sse-client": partial(sse_client.EventSource, url, session=session),
                "launchdarkly-eventsource": partial(SSEClient, url),
            }[client]()
            error = (await read(source)).error
            assert stage.open == 1
            responses[-1].close()
            return error

    with serve_stage([Play(404, (), [b"no such stream"], framing="chunked", end="hang")]) as stage:
        assert asyncio.run(refused(stage.url)) is not None
    body = Play(404, (), [b"no such stream"], framing="length", keep_alive=True)
    with serve_stage([body]) as stage:
        ours = read_ours(stage.url)
        assert isinstance(ours.error, ResponseError)
        assert ours.error.response.body == b"no such stream"
        wait_until(lambda: stage.open == 0)


def wait_until(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.002)


@shows("close() within the loop", ALL)
def test_close_within_the_loop() -> None:
    two = stream(b"data: 1\n\ndata: 2\n\n")
    with serve_stage([two, two]) as stage:
        with requests_sse.EventSource(stage.url) as source:
            assert next(source).data == "1"
            source.close()
            with pytest.raises(ValueError, match="None"):
                next(source)

        async def main() -> None:
            async with sse_client.EventSource(stage.url) as source:
                await anext(source)
                await source.close()
                with pytest.raises(ValueError):
                    await anext(source)

        asyncio.run(main())
        assert len(stage.requests) == 2
    with serve_stage([two, two]) as stage:
        with (
            SSEClient(stage.url, error_strategy=CONTINUE) as client,
            closing(client.events) as events,
        ):
            for number, _ in enumerate(events):
                client.close()
                if number:
                    break
        assert len(stage.requests) == 2
    with serve_stage([two, two]) as stage, EventSource(stage.url) as ours:
        for _ in ours:
            ours.close()
        assert ours.end_reason is EndReason.CLOSED
        assert len(stage.requests) == 1


# -- What differs from requests-sse and from aiohttp-sse-client ------------------------------------

BOTH = CLIENTS[:2]


@shows("Spaces and empty lines", *BOTH)
@TWO
def test_spaces_and_empty_lines(theirs: Any, ours: Any) -> None:
    body = b"data:  a\ndata:\ndata\n\n"
    assert run(theirs, stream(body)).data == ["a"]
    assert run(ours, stream(body)).data == [" a\n\n"]


@shows("Waits", *BOTH)
@TWO
def test_waits(theirs: Any, ours: Any, waits: Waits) -> None:
    said = stream(b"retry: 7000\ndata: 1\n\n")
    assert run(theirs, said, stream(), stream()).data == ["1", "a", "a"]
    assert waits == [14, 10, 10]
    waits.clear()
    run(theirs, stream(), reconnection_time=timedelta(seconds=3))
    assert waits == [6]
    waits.clear()
    assert run(ours, said, stream(), stream()).data == ["1", "a", "a"]
    assert len(waits) == 3
    assert all(6.5 < wait < 8.01 for wait in waits)
    waits.clear()
    with nobody() as origin:
        error = ours(origin, policy=ReconnectPolicy(initial_attempts=None)).error
    assert isinstance(error, EnoughError)
    longest = [1, 2, 4, 8, 16] + [30] * 15
    assert all(wait < most + 0.11 for wait, most in zip(waits, longest, strict=True))
    assert max(waits) > 8


@shows("A clean end", *BOTH)
@TWO
def test_a_clean_end(theirs: Any, ours: Any) -> None:
    lost: list[Any] = []
    # One for the end, one for the 204.
    run(theirs, stream(), on_error=lambda: lost.append(1))
    assert lost == [1, 1]
    lost.clear()
    assert run(ours, stream(), on_error=lost.append).data == ["a"]
    closed: list[int] = []
    with serve_stage([stream()]) as stage:
        follow(ours, stage, print, on_close=lambda: closed.append(1), on_error=lost.append)
    assert (lost, closed) == ([], [1])


def follow(ours: Any, stage: Stage, on_message: Any, **options: Any) -> None:
    """With callbacks."""
    if ours is read_ours:
        sse_fast.fetch_event_source(stage.url, on_message=on_message, **options)
    else:
        asyncio.run(sse_fast.afetch_event_source(stage.url, on_message=on_message, **options))


@shows("on_open", *BOTH)
@TWO
def test_on_open(theirs: Any, ours: Any) -> None:
    opened: list[Any] = []
    run(theirs, stream(), NO, on_open=lambda: opened.append(1))
    assert opened == [1]
    opened.clear()
    run(ours, stream(), NO, on_open=lambda response: opened.append(response.status))
    assert opened == [200, 404]


@shows("on_message", *BOTH)
@TWO
def test_on_message(theirs: Any, ours: Any) -> None:
    two = stream(b"event: tick\ndata: 1\n\ndata: 2\n\n")
    seen: list[Any] = []
    assert run(theirs, two, on_message=lambda event: seen.append(event.data)).data == ["1", "2"]
    assert seen == ["2"] if theirs is read_requests else ["1", "2"]
    seen.clear()
    with serve_stage([two]) as stage:
        follow(ours, stage, lambda event: seen.append(event.data))
    assert seen == ["1", "2"]


@shows("A POST", *BOTH)
@TWO
def test_a_post(theirs: Any, ours: Any) -> None:
    post = {"method": "POST"}
    their_post = post if theirs is read_requests else {"option": post}
    body: dict[str, Any] = {"json": {"a": 1}}
    assert len(run(theirs, stream(), stream(), **their_post, **body).requests) == 3
    clean = run(ours, stream(), stream(), **post, **body)
    assert (clean.data, clean.error, len(clean.requests)) == (["a"], None, 1)
    cut = run(ours, CUT, stream(), **post, **body)
    assert isinstance(cut.error, StreamIncomplete)
    busy = run(ours, Play(503, (), framing="length"), stream(), **post, **body)
    assert (busy.data, len(busy.requests)) == (["a"], 2)
    again = run(ours, CUT, stream(), stream(), resend=True, **post, **body)
    assert again.data == ["1", "a"]
    assert [request.method for request in again.requests] == ["POST"] * 2


@shows("What counts as a retry", *BOTH)
@TWO
def test_what_counts_as_a_retry(theirs: Any, ours: Any, waits: Waits) -> None:
    # 30000 in Arabic digits.
    for retry, seconds in (("-1", -0.002), ("٣٠٠٠٠", 60.0)):
        said = stream(f"retry: {retry}\ndata: 1\n\n".encode())
        waits.clear()
        run(theirs, said)
        assert waits == [seconds]
        if theirs is read_requests and seconds < 0:
            with pytest.raises(ValueError):
                time.sleep(waits[0])
        waits.clear()
        run(ours, said)
        assert [wait < 1.11 for wait in waits] == [True]


# -- What differs from requests-sse ----------------------------------------------------------------

HELD = Play(body=[b"data: 1\n\n"], framing="close", end="hang")


class LeaveError(Exception):
    """To get out of theirs."""


def leave(*_: Any) -> None:
    raise LeaveError


def gets_it_at_once(make: Callable[..., Any]) -> bool:
    """Whether a source gives an event of a body that goes on."""
    with serve_stage([HELD]) as stage:

        async def main() -> Outcome:
            return await read(make(stage.url), 1)

        return asyncio.run(main()).data == ["1"]


@shows("No delay", "requests-sse")
def test_no_delay_with_requests_sse() -> None:
    theirs = run(read_requests, HELD, timeout=0.3, on_error=leave)
    assert (theirs.data, type(theirs.error)) == ([], LeaveError)
    filler = b":" * 512 + b"\n"
    filled = Play(body=[b"data: 1\n\n" + filler], end="hang")
    assert run(read_requests, filled, timeout=LIMIT, stop_after=1).data == ["1"]
    assert gets_it_at_once(EventSource)


@shows("A CRLF that is cut in two", "requests-sse")
def test_a_crlf_that_is_cut_in_two() -> None:
    cut = stream(b"data: 1\r", b"\ndata: 2\r\n\r\n")
    assert run(read_requests, cut).data == ["1", "2"]
    assert run(read_ours, cut).data == ["1\n2"]


@shows("Long lines", "requests-sse")
def test_long_lines_with_requests_sse() -> None:
    def line(size: int) -> bytes:
        return b"data: %b\n\n" % (b"x" * size)

    assert grows(reading(read_requests), line, 2**18, linear=False)
    assert grows(reading(read_ours), line, 2**20, linear=True)


@shows("An event line without a name", "requests-sse")
def test_an_event_line_without_a_name() -> None:
    body = b"event:\ndata: 1\n\n"
    assert run(read_requests, stream(body)).events == [("", "1", "")]
    assert run(read_ours, stream(body)).events == [("message", "1", "")]


RESET = [stream(b"id: 5\ndata: 1\n\n"), stream(b"id\ndata: 2\n\n"), stream(b"data: 3\n\n")]
NUL = stream(b"id: 5\ndata: 1\n\nid: a\0b\ndata: 2\n\n")
UNFINISHED = stream(b"id: 6\ndata: lost\n")


@shows("Ids", "requests-sse")
def test_ids_with_requests_sse() -> None:
    assert run(read_requests, stream(b"data: 1\n\n"), latest_event_id="7").ids == [""]
    assert run(read_ours, stream(b"data: 1\n\n"), last_event_id="7").ids == ["7"]
    assert run(read_requests, *RESET).sent == [None, b"5", b"5", b"5"]
    assert run(read_ours, *RESET).sent == [None, b"5", None, None]
    theirs = run(read_requests, UNFINISHED, stream(b"data: 3\n\n"))
    assert (theirs.data, theirs.ids) == (["3"], ["6"])
    ours = run(read_ours, UNFINISHED, stream(b"data: 3\n\n"))
    assert (ours.data, ours.ids) == (["3"], [""])
    theirs = run(read_requests, NUL)
    assert (theirs.ids, theirs.sent) == (["5", "a\0b"], [None, b"a\0b"])
    ours = run(read_ours, NUL)
    assert (ours.ids, ours.sent) == (["5", "5"], [None, b"5"])


@shows("Attempts", "requests-sse")
def test_attempts_of_requests_sse(waits: Waits) -> None:
    with nobody() as origin:
        assert isinstance(read_requests(origin).error, requests.ConnectionError)
    assert waits == [10, 20, 40, 80, 160]
    theirs = run(read_requests, stream(), *[GONE] * 9)
    assert (theirs.data, len(theirs.requests)) == (["a"], 1 + 6)
    goes_on_asking(read_ours, waits)


def goes_on_asking(ours: Any, waits: Waits) -> None:
    waits.clear()
    with nobody() as origin:
        assert isinstance(ours(origin).error, TransportError)
    assert len(waits) == 2
    waits.clear()
    waits.limit = 100
    assert run(ours, stream(), *[GONE] * 40, stream()).data == ["a", "a"]


@shows("proxies and verify", "requests-sse")
def test_proxies_and_verify(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[Any] = []
    send = requests.adapters.HTTPAdapter.send

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        verified.append(options["verify"])
        return send(self, *args, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", noted)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "environment.pem")
    with serve_stage([stream()] * 2) as said, serve_stage([stream()]) as environment:
        monkeypatch.setenv("http_proxy", environment.origin)
        options: dict[str, Any] = {"verify": "ca.pem", "proxies": {"http": said.origin}}
        assert read_requests("http://127.0.0.1:9/", 1, **options).data == ["a"]
        for trust_env in (True, False):
            with requests.Session() as session:
                session.verify, session.proxies = options["verify"], options["proxies"]
                session.trust_env = trust_env
                assert read_ours("http://127.0.0.1:9/", 1, client=session).data == ["a"]
        assert (len(said.requests), len(environment.requests)) == (2, 1)
    assert verified == ["ca.pem", "environment.pem", "ca.pem"]


@contextmanager
def waiting(source: Any, gate: threading.Event) -> Iterator[threading.Thread]:
    """A thread that has read an event, and waits for the next."""
    got = threading.Event()

    def read_on() -> None:
        # What it is to end by, or what becomes of that.
        with suppress(requests.RequestException, ValueError, AttributeError):
            for _ in source:
                got.set()

    reader = threading.Thread(target=read_on)
    reader.start()
    try:
        assert got.wait(LIMIT)
        yield reader
    finally:
        gate.set()
        reader.join()


@shows("close() from another thread", "requests-sse")
def test_close_from_another_thread() -> None:
    for ours in (False, True):
        gate = threading.Event()
        waits_for_more = Play(body=[b"data: 1\n\n"], framing="chunked", end=gate)
        with serve_stage([waits_for_more]) as stage:
            source: Any = (EventSource if ours else requests_sse.EventSource)(stage.url)
            with source:
                closer = threading.Thread(target=source.close)
                with waiting(source, gate) as reader:
                    closer.start()
                    closer.join(LIMIT if ours else 0.3)
                    reader.join(LIMIT if ours else 0)
                    assert closer.is_alive() == reader.is_alive() == (not ours)
                closer.join()


@shows("Without with", "requests-sse")
def test_without_with() -> None:
    with serve_stage([stream()]) as stage:
        with (
            pytest.raises(ValueError, match="None"),
            closing(requests_sse.EventSource(stage.url)) as source,
        ):
            next(source)
        with closing(EventSource(stage.url)) as ours:
            assert next(ours).data == "a"


@shows("The origin after a redirect", "requests-sse")
def test_the_origin_after_a_redirect() -> None:
    with serve_stage([stream()] * 2) as far:
        away = Play(302, [("Location", far.url)], framing="length")
        with serve_stage([away] * 2) as near:
            with requests_sse.EventSource(near.url) as source:
                assert next(source).origin == near.origin
            with EventSource(near.url) as ours:
                next(ours)
                assert ours.response is not None
                assert ours.response.url == far.url


# -- What differs from aiohttp-sse-client ----------------------------------------------------------


@shows("An event without a type", "aiohttp-sse-client")
def test_an_event_without_a_type() -> None:
    assert run(read_aiohttp, stream()).events == [(None, "a", "1")]
    assert run(aread_ours, stream()).events == [("message", "a", "1")]


@shows("Lines that end in CR", "aiohttp-sse-client")
def test_lines_that_end_in_cr() -> None:
    body = b"data: 1\r\rdata: 2\r\r"
    assert run(read_aiohttp, stream(body)).data == []
    assert run(aread_ours, stream(body)).data == ["1", "2"]


@shows("Long lines", "aiohttp-sse-client")
def test_long_lines_with_aiohttp_sse_client() -> None:
    long = stream(b"data: 1\n\n", b"data: %b\n\n" % (b"x" * 2**22))
    theirs = run(read_aiohttp, long)
    assert theirs.data == ["1"]
    # Which of them depends on the version of aiohttp.
    assert type(theirs.error).__name__ in ("LineTooLong", "ValueError")
    assert [len(data) for data in run(aread_ours, long).data] == [1, 2**22]


@shows("An event that was cut off", "aiohttp-sse-client")
def test_an_event_that_was_cut_off() -> None:
    theirs = run(read_aiohttp, UNFINISHED, stream(b"data: 3\n\n"))
    assert (theirs.data, theirs.ids) == (["lost\n3"], ["6"])
    ours = run(aread_ours, UNFINISHED, stream(b"data: 3\n\n"))
    assert (ours.data, ours.ids) == (["3"], [""])


@shows("Ids", "aiohttp-sse-client")
def test_ids_with_aiohttp_sse_client() -> None:
    assert run(read_aiohttp, *RESET).sent == [None, b"5", b"5", b"5"]
    assert run(aread_ours, *RESET).sent == [None, b"5", None, None]
    theirs = run(read_aiohttp, NUL)
    assert (theirs.ids, len(theirs.requests)) == (["5", "a\0b"], 1)
    assert isinstance(theirs.error, ValueError)
    ours = run(aread_ours, NUL)
    assert (ours.ids, ours.sent) == (["5", "5"], [None, b"5"])


@shows("A connection that breaks", "aiohttp-sse-client")
def test_a_connection_that_breaks() -> None:
    theirs = run(read_aiohttp, CUT, stream())
    assert (theirs.data, type(theirs.error)) == (["1"], aiohttp.ClientPayloadError)
    assert run(aread_ours, CUT, stream()).data == ["1", "a"]


@shows("Attempts", "aiohttp-sse-client")
def test_attempts_of_aiohttp_sse_client(waits: Waits) -> None:
    with nobody() as origin:
        assert isinstance(read_aiohttp(origin).error, aiohttp.ClientConnectionError)
    assert waits == [10, 20, 40, 80, 160]
    # aiohttp itself may ask once more.
    theirs = run(read_aiohttp, stream(), GONE, GONE, stream())
    assert theirs.data == ["a"]
    assert isinstance(theirs.error, aiohttp.ClientConnectionError)
    goes_on_asking(aread_ours, waits)


@shows("A time-out of the session", "aiohttp-sse-client")
def test_a_time_out_of_the_session() -> None:
    lively = Play(body=[b"data: %d\n\n" % number for number in range(10)], delay=50)

    async def main(make: Callable[[str, aiohttp.ClientSession], Any]) -> Outcome:
        timeout = aiohttp.ClientTimeout(total=0.2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            with serve_stage([lively]) as stage:
                return await read(make(stage.url, session), 10)

    theirs = asyncio.run(main(lambda url, session: sse_client.EventSource(url, session=session)))
    assert isinstance(theirs.error, asyncio.TimeoutError)
    assert len(theirs.data) < 10
    ours = asyncio.run(main(lambda url, session: AsyncEventSource(url, client=session)))
    assert len(ours.data) == 10


@shows("Your headers", "aiohttp-sse-client")
def test_your_headers() -> None:
    headers = {"X-Key": "1"}
    run(read_aiohttp, stream(), headers=headers)
    assert headers.keys() == {"X-Key", "Accept", "Cache-Control", "Last-Event-Id"}
    headers = {"X-Key": "1"}
    run(aread_ours, stream(), headers=headers)
    assert headers == {"X-Key": "1"}


@shows("An async with that fails", "aiohttp-sse-client")
def test_an_async_with_that_fails() -> None:
    async def main() -> None:
        source = sse_client.EventSource(stage.url)
        with pytest.raises(ConnectionError):
            await source.__aenter__()
        assert not source._session.closed
        await source._session.close()
        ours = AsyncEventSource(stage.url)
        with pytest.raises(ResponseError):
            await ours.__aenter__()
        assert ours.ready_state is ReadyState.CLOSED

    with serve_stage([NO, NO]) as stage:
        asyncio.run(main())
        wait_until(lambda: stage.open == 0)


# -- What differs from launchdarkly-eventsource ----------------------------------------------------

LD = "launchdarkly-eventsource"


@shows("No delay", LD)
def test_no_delay_with_launchdarkly_eventsource() -> None:
    with serve_stage([HELD]) as stage:
        strategy = ConnectStrategy.http(stage.url, urllib3_request_options={"timeout": 0.3})
        theirs = read_launchdarkly(strategy)
        assert (theirs.data, type(theirs.error)) == ([], urllib3.exceptions.ReadTimeoutError)
    filled = Play(body=[b"data: 1\n\n" + b":" * 10_000 + b"\n"], end="hang")
    assert run(read_launchdarkly, filled, stop_after=1).data == ["1"]
    assert gets_it_at_once(ld_eventsource.AsyncSSEClient)
    assert gets_it_at_once(EventSource)


@shows("retry", LD)
def test_retry(waits: Waits) -> None:
    said = stream(b"retry: 7000\ndata: 1\n\n")
    theirs = run(read_launchdarkly, said, stream(), stop_after=2, error_strategy=CONTINUE)
    assert theirs.data == ["1", "a"]
    assert waits == [1]
    waits.clear()
    assert run(read_ours, said, stream(), stop_after=2).data == ["1", "a"]
    assert [6.5 < wait < 8.01 for wait in waits] == [True]


@shows("The id of an event without data", LD)
def test_the_id_of_an_event_without_data() -> None:
    with serve_stage([stream(b"id: 5\ndata: 1\n\nid: 6\n\n")] * 2) as stage:
        with SSEClient(stage.url) as client:
            assert len(list(client.events)) == 1
            assert client.last_event_id == "5"
        with EventSource(stage.url, policy=NEVER) as source:
            assert len(list(source)) == 1
            assert source.last_event_id == "6"


@shows("Attempts", LD)
def test_attempts_of_launchdarkly_eventsource(waits: Waits) -> None:
    with nobody() as origin:
        assert isinstance(read_launchdarkly(origin).error, urllib3.exceptions.HTTPError)
    assert waits == []
    for play, error in ((stream(), type(None)), (CUT, urllib3.exceptions.ProtocolError)):
        theirs = run(read_launchdarkly, play, stream())
        assert (len(theirs.events), type(theirs.error), len(theirs.requests)) == (1, error, 1)
        ours = run(read_ours, play, stream(), policy=NEVER)
        assert (len(ours.events), ours.error is None, len(ours.requests)) == (1, play is not CUT, 1)
        assert len(run(read_ours, play, stream()).events) == 2
    goes_on_asking(read_ours, waits)


@shows("After the end", LD)
def test_after_the_end() -> None:
    with serve_stage([stream(), stream()]) as stage, SSEClient(stage.url) as client:
        assert [event.data for event in client.events] == ["a"]
        assert [event.data for event in client.events] == ["a"]
    with serve_stage([stream(), stream()]) as stage, EventSource(stage.url, policy=NEVER) as source:
        assert [event.data for event in source] == ["a"]
        assert list(source) == []
        source.reconnect()
        assert [event.data for event in source] == ["a"]


@shows("What counts as progress", LD)
def test_what_counts_as_progress() -> None:
    nothing = [stream(b": nothing\n")] * 12
    strategy = ErrorStrategy.continue_with_max_attempts(2)
    theirs = run(read_launchdarkly, *nothing, error_strategy=strategy)
    # Until it is refused.
    assert (type(theirs.error), len(theirs.requests)) == (HTTPStatusError, 12 + 2)
    ours = run(read_ours, *nothing, policy=ReconnectPolicy(max_attempts=2))
    assert (ours.error, len(ours.requests)) == (None, 1 + 2)
    assert ReconnectPolicy().max_attempts is None


@shows("Waits", LD)
def test_waits_of_launchdarkly_eventsource(waits: Waits) -> None:
    waits.limit = 10
    with nobody() as origin:
        assert isinstance(read_launchdarkly(origin, error_strategy=CONTINUE).error, EnoughError)
    assert waits == [pytest.approx(2**number, abs=0.5) for number in range(10)]
    waits.clear()
    # With a limit.
    strategy = RetryDelayStrategy.default(max_delay=3)
    with nobody() as origin:
        read_launchdarkly(origin, error_strategy=CONTINUE, retry_delay_strategy=strategy)
    assert max(waits) <= 3
    waits.clear()
    with nobody() as origin:
        read_ours(origin, policy=ReconnectPolicy(initial_attempts=None))
    longest = [1, 2, 4, 8, 16, 30, 30, 30, 30, 30]
    assert all(wait < most + 0.11 for wait, most in zip(waits, longest, strict=True))
    assert ReconnectPolicy().jitter == 1
    # Each connection brings an event.
    waits.clear()
    run(read_launchdarkly, *[stream()] * 4, stop_after=4, error_strategy=CONTINUE)
    assert waits == [pytest.approx(seconds, abs=0.5) for seconds in (1, 2, 4)]
    waits.clear()
    run(read_ours, *[stream()] * 4, stop_after=4)
    assert [wait < 1.11 for wait in waits] == [True] * 3
    assert inspect.signature(SSEClient).parameters["retry_delay_reset_threshold"].default == 60
    # Behind a connection that outlasts its delay, there once was an attempt that failed.
    waits.clear()
    with (
        serve_stage([GONE, stream(), stream()]) as stage,
        SSEClient(stage.url, error_strategy=CONTINUE) as client,
    ):
        for _ in islice(client.events, 2):
            waits.elapse(9)
        assert (len(stage.requests), len(waits), client.next_retry_delay) == (3, 1, 2)
    waits.clear()
    elapse = partial(waits.elapse, 9)
    ours = run(
        read_ours, GONE, stream(b":\ndata: a\n\n"), stream(), stop_after=2, on_comment=elapse
    )
    assert (len(ours.requests), len(waits)) == (3, 2)


@shows("Which responses are streams", LD)
def test_which_responses_are_streams() -> None:
    def play(status: int, kind: str) -> Play:
        return Play(status, [("Content-Type", kind)], [b"data: 1\n\n"])

    created = play(201, "text/event-stream")
    similar = play(200, "text/event-streamer")
    capital = play(200, "Text/Event-Stream")
    assert [run(read_launchdarkly, each).data for each in (created, similar)] == [["1"], ["1"]]
    assert type(run(read_launchdarkly, capital).error) is HTTPContentTypeError
    assert run(read_ours, capital).data == ["1"]
    for each in (created, similar):
        assert isinstance(run(read_ours, each).error, ResponseError)


@shows("Redirects", LD)
def test_redirects() -> None:
    def hops(count: int) -> list[Play]:
        return [Play(302, [("Location", "@b")], framing="length")] * count + [stream()]

    assert run(read_launchdarkly, *hops(3)).data == ["a"]
    assert run(read_launchdarkly, *hops(4)).error is not None
    assert run(read_ours, *hops(20)).data == ["a"]
    assert isinstance(run(read_ours, *hops(21)).error, ResponseError)


@shows("close() while it waits", LD)
def test_close_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_stage([stream(), stream()]) as stage:
        client = SSEClient(stage.url, error_strategy=CONTINUE)
        # As another thread would.
        clock = SimpleNamespace(sleep=lambda seconds: client.close(), monotonic=time.monotonic)
        monkeypatch.setattr(ld_eventsource.sse_client, "time", clock)
        with closing(client.events) as events:
            assert [event.data for event in islice(events, 2)] == ["a", "a"]
        client.close()
        assert len(stage.requests) == 2
    monkeypatch.undo()
    with serve_stage([stream(), stream()]) as stage:
        policy = ReconnectPolicy(min_delay=60)
        with EventSource(stage.url, policy=policy) as source:
            timer = threading.Timer(0.05, source.close)
            began = time.monotonic()
            reason = source.run(lambda event: None, on_close=timer.start)
            timer.join()
        assert reason is EndReason.CLOSED
        assert time.monotonic() - began < LIMIT
        assert len(stage.requests) == 1


@shows("interrupt()", LD)
def test_interrupt() -> None:
    two = stream(b"data: 1\n\ndata: 2\n\n")
    with serve_stage([two, two]) as stage, SSEClient(stage.url) as client:
        for event in client.events:
            assert event.data == "1"
            client.interrupt()
        assert len(stage.requests) == 1
    with serve_stage([two, two]) as stage, EventSource(stage.url, policy=NEVER) as source:
        data = []
        for each in source:
            data.append(each.data)
            if len(data) == 1:
                source.reconnect()
        assert data == ["1", "1", "2"]
        assert len(stage.requests) == 2


@shows("with", LD)
def test_with() -> None:
    with serve_stage([stream()]) as stage:
        with SSEClient(stage.url):
            assert stage.requests == []
        with EventSource(stage.url):
            assert len(stage.requests) == 1


@shows("last_event_id", LD)
def test_last_event_id() -> None:
    two = stream(b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n")
    with serve_stage([two, two]) as stage:
        with SSEClient(stage.url) as client:
            assert client.last_event_id is None
            assert [client.last_event_id for _ in client.events] == ["1", "2"]
        with EventSource(stage.url, policy=NEVER) as source:
            assert source.last_event_id == ""
            assert [source.last_event_id for _ in source] == ["", "1"]
            assert source.last_event_id == "2"


@shows("event.id", LD)
def test_event_id() -> None:
    with serve_stage([stream(b"id: 1\ndata: 1\n\ndata: 2\n\n")] * 2) as stage:
        with SSEClient(stage.url) as client:
            ids = [(event.id, event.last_event_id) for event in client.events]
        assert ids == [("1", "1"), (None, "1")]
        with EventSource(stage.url, policy=NEVER) as source:
            assert [event.id for event in source] == ["1", "1"]


@shows("Comments", LD)
def test_comments() -> None:
    body = stream(b": a\ndata: 1\n\n:b\ndata: 2\n\n")
    with serve_stage([body, body]) as stage:
        with SSEClient(stage.url) as client:
            kinds = {Comment: "comment", sse_client.MessageEvent: ""}
            seen = [getattr(action, kinds.get(type(action), "data"), None) for action in client.all]
        assert seen == [None, " a", "1", "b", "2", None]
        ours: list[str] = []
        source = EventSource(stage.url, policy=NEVER, on_comment=ours.append)
        source.run(lambda event: ours.append(event.data))
        assert ours == ["a", "b", "1", "2"]


@shows("Without a counterpart", LD)
def test_without_a_counterpart() -> None:
    with serve_stage([Play(503, (), framing="length"), CUT, stream()]) as stage:
        with SSEClient(stage.url) as client:
            assert client.next_retry_delay == 0
        count = iter("abcd")
        source = EventSource(
            f"{stage.url}?n={next(count)}", resume=lambda last_id: f"{stage.url}?n={next(count)}"
        )
        assert [event.data for event in source] == ["1", "a"]
        queries = [request.target.partition("?")[2] for request in stage.requests]
        assert queries == ["n=a", "n=a", "n=b", "n=c"]
        assert not hasattr(source, "next_retry_delay")
    options = inspect.signature(EventSource.__mro__[1].__init__).parameters
    assert not {"logger", "connect"} & options.keys()
    with sse_fast.iter_events([b"data: 1\n\n"]) as events:
        assert [event.data for event in events] == ["1"]
        assert list(events) == []


# -- What differs from the parsers -----------------------------------------------------------------


def parse(package: str, module: str, body: bytes) -> list[str]:
    """The data of the events; `package`: "", or where ours are."""
    library = import_module(f"{package}{module}")
    if module == "sseclient":
        return [event.data for event in library.SSEClient([body]).events()]
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=body)
    return [event.data for event in library.EventSource(response).iter_sse()]


OURS = "sse_fast.compat."


@shows("A byte order mark", *PARSERS)
@pytest.mark.parametrize("module", ["httpx_sse", "sseclient"])
def test_a_byte_order_mark_of_a_parser(module: str) -> None:
    body = BOM + b"data: 1\n\ndata: 2\n\n"
    assert parse("", module, body) == ["2"]
    assert parse(OURS, module, body) == ["1", "2"]


@shows("An event of many lines", "sseclient-py")
def test_an_event_of_many_lines_of_a_parser() -> None:
    assert grows(lambda body: parse("", "sseclient", body), data_lines, 4_000, linear=False)
    assert grows(lambda body: parse(OURS, "sseclient", body), data_lines, 20_000, linear=True)
