"""Every row of the tables of docs/guides/migrating.md runs, before and after the migration."""

from __future__ import annotations

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
from tests.support.migrating import (
    BUSY,
    CONTINUE,
    CUT,
    GONE,
    NO,
    ROWS,
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
from tests.support.scripted_server import Play, Request, serve_stage, stream
from tests.support.server import nobody

HTML = Play(200, [("Content-Type", "text/html")], [b"no"], framing="length")
SILENT = Play(framing="none", end="hang")
TICKING = stream(b"id: 8\nevent: tick\ndata: 1\n\nid: 9\nevent: tick\ndata: 2\n\n")
HANGING = Play(body=TICKING.body, framing="chunked", end="hang")

Check = Callable[[str, Side], Awaitable[Any]]
"""Runs one side of a row. The results of both sides must be equal."""


def with_default_type(events: Iterable[Any]) -> list[Any]:
    """Return the events with the type "message" where a client has None."""
    return [(kind or "message", *rest) for kind, *rest in events]


async def check_import(code: str, side: Side) -> None:
    await side.execute(code)


async def check_request(code: str, side: Side) -> Any:
    """Make and read a source; compare its events and requests."""
    side.stage.plays = next(
        (plays for part, plays in _PLAYS.items() if part in side.row), [TICKING]
    )
    source = await side.execute(code)
    events: list[Any] = []
    if not isinstance(source, EndReason):
        closes = hasattr(source, "__enter__") or hasattr(source, "__aenter__")
        outcome = await read(source, 2) if closes else Outcome([plain(each) for each in source])
        assert (outcome.error is None) == (outcome.events != [])
        events = with_default_type(outcome.events)
    if "on_message" in side.row:
        # sse_fast calls it in place of the loop, the other clients in addition.
        events = side.seen = with_default_type(side.seen)
        assert [data for _, data, _ in events] == ["1", "2"]
        return events, essence(side.stage.requests[0]), side.seen
    return events, list(map(essence, side.stage.requests)), side.seen


async def check_timeouts(code: str, side: Side) -> Any:
    """Compare the connect and idle timeouts as written in the row with those of the source."""
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
    return limits, with_default_type(outcome.events), outcome.error


async def check_changing_headers(code: str, side: Side) -> Any:
    """Compare header fields that change between requests."""

    def play(index: int, request: Request) -> Play:
        side.names["tokens"]["X-Key"] = str(index)
        return TICKING

    side.stage.plays = play
    await read(await side.execute(add_error_strategy(code)), 5)
    return [request.get("X-Key") for request in side.stage.requests]


async def check_tls(code: str, side: Side) -> Any:
    """Read over TLS with the SSL context of the row."""
    authority = trustme.CA()
    authority.configure_trust(side.names["context"])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with serve_stage([TICKING], context) as stage:
        side.names["url"] = stage.url
        outcome = await read(await side.execute(code), 2)
    return with_default_type(outcome.events), outcome.error


async def check_certificates(code: str, side: Side) -> Any:
    """Compare the `verify` and `cert` that reach requests."""
    send = requests.Session.send

    def noted(session: Any, request: Any, **options: Any) -> Any:
        side.seen.append((options["verify"], options["cert"]))
        return send(session, request, **options)

    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as here:
        patch.setattr(requests.Session, "send", noted)
        patch.setenv("REQUESTS_CA_BUNDLE", "other.pem")
        patch.chdir(here)
        # requests checks that the file exists, even without TLS.
        Path("me.pem").touch()
        sent = await check_request(code, side)
    assert side.seen == [("ca.pem", "me.pem")]
    return sent


def add_error_strategy(code: str) -> str:
    """Return the code with an error strategy that reconnects, as sse_fast does."""
    if "SSEClient" in code:
        code = f"{code[:-1]}, error_strategy=ErrorStrategy.always_continue())"
    return code


async def check_waits(code: str, side: Side) -> Any:
    """Compare the first two waits when the connection is refused."""
    with nobody() as side.names["url"]:
        await read(await side.execute(add_error_strategy(code)))
    if "jitter_multiplier" not in side.row:
        return [round(wait) for wait in side.waits[:2]]
    # With jitter 0.5, half of each wait is random.
    first, second = (wait - side.ours * ReconnectPolicy().min_delay for wait in side.waits[:2])
    assert (first, second) != pytest.approx((1, 3), abs=2e-3)
    return 0.49 < first < 1.01, 1.49 < second < 3.01


async def check_reset_of_waits(code: str, side: Side) -> Any:
    """Compare the waits after a connection that lasted just under and just over a minute."""
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
            client = await side.execute(add_error_strategy(code))
            with client, closing(client.all) as actions:
                for action in islice(actions, 5):
                    if isinstance(action, Comment):
                        side.waits.elapse(seconds)
                    elif isinstance(action, Fault):
                        waits.append(client.next_retry_delay)
        side.stage.requests.clear()
        results.append([round(wait) for wait in waits])
    assert results == [[1, 2, 4], [1, 2, 1]]


async def check_attempts(code: str, side: Side) -> Any:
    with nobody() as side.names["url"]:
        error = (await read(await side.execute(code))).error
    first = len(side.waits), error is None
    if side.section == "aiohttp-sse-client":
        # This client does not limit later attempts.
        return first
    side.names["url"] = side.stage.url
    side.stage.plays = [TICKING, *[GONE] * 9]
    error = (await read(await side.execute(code))).error
    return first, len(side.stage.requests), error is None


async def check_reconnects(code: str, side: Side) -> Any:
    """Compare which failures, and how many of them, lead to a reconnect."""
    went = []
    for plays in (
        [NO] * 5 + [CUT, HTML, TICKING],
        [NO] * 6 + [CUT, TICKING],
        [CUT, TICKING],
        # aiohttp itself repeats a request on a new connection.
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


async def check_time_limit(code: str, side: Side) -> None:
    """Check that attempts go on for a minute when the connection is refused."""
    side.waits.limit = 100
    with nobody() as side.names["url"]:
        error = (await read(await side.execute(code))).error
    assert error is not None
    assert not isinstance(error, EnoughError)
    # The other client checks the limit after the last wait, sse_fast before it.
    assert sum(side.waits[:-1]) < 60
    assert side.ours == (sum(side.waits) < 60)


async def make_failure(side: Side) -> Exception:
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


async def check_except(code: str, side: Side) -> None:
    side.names["given"] = given = await make_failure(side)
    await side.execute(f"try:\n raise given\n{code.replace('...', 'caught = error')}")
    assert side.names["caught"] is given


async def check_failure_attribute(code: str, side: Side) -> Any:
    side.names["error"] = await make_failure(side)
    return await side.execute(code)


async def check_event_attribute(code: str, side: Side) -> Any:
    async with begun(side):
        return await side.execute(code)


async def check_action_attribute(code: str, side: Side) -> Any:
    """Compare an action of the loop with the argument of a callback of sse_fast."""
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
    # The exceptions have different classes.
    return isinstance(value, Exception) or value


async def check_source_attribute(code: str, side: Side) -> Any:
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


async def check_connect(code: str, side: Side) -> Any:
    source = await side.make()
    assert side.stage.requests == []
    await side.execute(code)
    asked = len(side.stage.requests)
    await close(source)
    return asked


async def check_close(code: str, side: Side) -> None:
    async with begun(side):
        assert side.stage.open == 1
        await side.execute(code)
        await asyncio.to_thread(wait_until, lambda: not side.stage.open)


async def check_interrupt(code: str, side: Side) -> Any:
    options = "" if side.ours else ", error_strategy=ErrorStrategy.always_continue()"
    async with begun(side, options) as read_on:
        await side.execute(code)
        return plain(await read_on()), len(side.stage.requests)


async def check_loop(code: str, side: Side) -> Any:
    side.stage.plays = [TICKING]
    side.names["seen"] = side.seen
    if " as " in code:
        name = re.findall(r" as (\w+)", code)[0]
        await side.execute(code.replace("...", f"seen.append({name})"))
        return len(side.seen)
    source = await side.make(", policy=ReconnectPolicy.never()" if side.ours else "")
    if hasattr(source, "connect"):
        # Sources without connect() open in their loop.
        connecting = source.connect()
        if connecting is not None:
            await connecting
    name = re.findall(r"for (\w+) in", side.row)[0]
    # Some clients raise when the server answers 204.
    with suppress(requests_sse.InvalidStatusCodeError, ConnectionAbortedError):
        await side.execute(code.replace("...", f"seen.append({name})"))
    await close(source)
    events = [each for each in side.seen if not isinstance(each, (Start, Fault, str))]
    # Some loops deliver the end as an item.
    ends = [each for each in side.seen if isinstance(each, (Fault, str))]
    return with_default_type(
        each if isinstance(each, tuple) else plain(each) for each in events
    ), len(ends)


async def check_event_constructor(code: str, side: Side) -> Any:
    return plain(await side.execute(code))


async def check_logging(code: str, side: Side) -> Any:
    """Return whether the logger gets messages."""
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


# How to run a row: the first pattern that matches the left side.
CHECKS: list[tuple[str, Check]] = [
    (r"from |import ", check_import),
    (r"except ", check_except),
    (r"error\.|int\(str\(error", check_failure_attribute),
    (r"event\.", check_event_attribute),
    (r"(start|comment|fault)\.", check_action_attribute),
    (r"(await )?(source|client)\.(connect|start)\(", check_connect),
    (r"(await )?(source|client)\.close\(", check_close),
    (r"(await )?client\.interrupt\(", check_interrupt),
    (r"(source|client)\.|str\(source\.url", check_source_attribute),
    (r"(async )?(with|for) ", check_loop),
    (r"(sse_client\.)?(Message)?Event\(", check_event_constructor),
    (r"logging|.*logger=", check_logging),
    (r".*(reconnection_time|initial_retry_delay|retry_delay_strategy)=", check_waits),
    (r".*max_connect_retry=", check_attempts),
    (r".*time_limit", check_time_limit),
    (r".*reset_threshold", check_reset_of_waits),
    (r".*error_strategy=|(Async)?SSEClient\(url\)$", check_reconnects),
    (r".*headers=tokens", check_changing_headers),
    (r".*ssl=context", check_tls),
    (r".*verify=", check_certificates),
    (r".*timeout", check_timeouts),
    (r"(sse_client\.)?EventSource\(|(Async)?SSEClient\(", check_request),
]
# The responses of the server, by a part of the left side.
_PLAYS: dict[str, list[Play]] = {
    "on_error": [NO],
    "on_message": [stream(b"data: 1\n\ndata: 2\n\n")],
    "redirect": [Play(302, [("Location", "@b")], framing="length")],
}
# By the start of the left side: how the server fails (None: connection refused), and further
# arguments of the other client.
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
def test_row_before_and_after(section: str, theirs: str, ours: str, waits: Waits) -> None:
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
