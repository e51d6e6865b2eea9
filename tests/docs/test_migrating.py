"""docs/migrating.md: its programs and its tables are run, theirs and ours."""

from __future__ import annotations

import ast
import asyncio
import logging
import re
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import pytest
import requests
import requests_sse
import trustme
import urllib3
from ld_eventsource import SSEClient
from ld_eventsource.actions import Comment, Fault, Start

from sse_fast import EndReason, ReconnectPolicy
from tests.support import migrating
from tests.support.migrating import (
    ALL,
    BULLETS,
    BUSY,
    CLIENTS,
    CONTINUE,
    CUT,
    GONE,
    LD,
    NO,
    PAGE,
    PARSERS,
    PROGRAMS,
    ROWS,
    SECTIONS,
    TICK,
    EnoughError,
    Outcome,
    Side,
    Waits,
    begun,
    essence,
    plain,
    read,
    side_of,
    wait_until,
)
from tests.support.migrating import responses as responses
from tests.support.migrating import waits as waits
from tests.support.scripted_server import Play, Request, Stage, serve_stage, stream
from tests.support.server import nobody


def test_the_page_was_read() -> None:
    assert list(SECTIONS) == [ALL, *CLIENTS, *PARSERS]
    assert [len(programs) for programs in PROGRAMS.values()] == [0, 2, 2, 2, 2, 2]
    assert PAGE.count("```") == 2 * 10
    assert [len(rows) for rows in ROWS.values()] == [0, 45, 41, 56, 0, 0]
    # Each of the three tables has two lines of head.
    assert len(re.findall(r"^\|", PAGE, re.MULTILINE)) == 45 + 41 + 56 + 3 * 2
    assert len(re.findall(r"^- ", PAGE, re.MULTILINE)) == sum(map(len, BULLETS.values()))


def bullets_shown() -> dict[str, list[str]]:
    """Those that have a test, by section.

    Read, not run: it may be this file alone that is run, or each file by a process of its own.
    """
    shown: dict[str, list[str]] = {name: [] for name in SECTIONS}
    for file in Path(__file__).parent.glob("test_migrating_*.py"):
        for test in ast.parse(file.read_text(encoding="utf-8")).body:
            if not isinstance(test, ast.FunctionDef) or not test.name.startswith("test_"):
                continue
            decorators = map(ast.unparse, test.decorator_list)
            said = [code.removeprefix("shows") for code in decorators if code.startswith("shows(")]
            assert len(said) == 1, test.name
            bullet, *sections = eval(said[0], vars(migrating))
            for section in sections:
                shown[section].append(bullet)
    return shown


def test_every_difference_is_shown() -> None:
    shown = bullets_shown()
    for section, bullets in BULLETS.items():
        assert sorted(shown[section]) == sorted(bullets)


# -- The programs ----------------------------------------------------------------------------------


def run_program(code: str, stage: Stage) -> None:
    exec(compile(code.replace("https://example.com", stage.origin), "migrating.md", "exec"), {})


TICKS = [
    Play(body=[b": hello\nid: 8\nevent: tick\ndata: 1\n\n"], framing="chunked-truncated"),
    stream(b"id: 9\ndata: two\ndata: lines\n\n", b"event: bye\ndata: 3\n\n"),
]
TEXTS = [
    stream(b'data: {"text": "a"}\n\n', b'data: {"text": "b"}\n\n', b"data: [DONE]\n\n"),
    Play(body=[b'data: {"text": "a"}\n\n'], framing="chunked-truncated"),
]
OPEN = "open text/event-stream"
END = ["lost", OPEN, "message two", "lines 9", "bye 3 9"]


@pytest.mark.parametrize(
    ("section", "plays", "printed"),
    [
        (
            "requests-sse",
            [TICKS[0], TICKS[0], NO],
            ["open", "tick 1 8", "lost", "open", "tick 1 8", "lost", "lost", "refused: 404"],
        ),
        ("aiohttp-sse-client", TEXTS[:1], ["a", "b"]),
        ("aiohttp-sse-client", TEXTS[1:], ["a", "cut off"]),
        (LD, [NO, *TICKS], ["lost", OPEN, "comment hello", "tick 1 8", *END]),
        (LD, [stream(b"data: 1\n\n"), TICKS[1]], [OPEN, "message 1 7", *END]),
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

HTML = Play(200, [("Content-Type", "text/html")], [b"no"], framing="length")
SILENT = Play(framing="none", end="hang")
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
    for plays in (
        [NO] * 5 + [CUT, HTML, TICKING],
        [NO] * 6 + [CUT, TICKING],
        [CUT, TICKING],
        # aiohttp itself asks twice.
        [NO if "Async" in side.row else GONE] * 5 + [CUT, TICKING],
        [CUT] + [BUSY] * 5 + [TICKING],
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
    side.stage.plays = [play or NO]
    with nobody() as nowhere:
        if play is None:
            side.names["url"] = nowhere
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


async def close(source: Any) -> None:
    closing = source.aclose() if hasattr(source, "aclose") else source.close()
    if closing is not None:
        await closing


async def connects(code: str, side: Side) -> Any:
    source = await side.make()
    assert side.stage.requests == []
    await side.execute(code)
    asked = len(side.stage.requests)
    await close(source)
    return asked


async def closes(code: str, side: Side) -> None:
    async with begun(side):
        assert side.stage.open == 1
        await side.execute(code)
        await asyncio.to_thread(wait_until, lambda: not side.stage.open)


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
    await close(source)
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
