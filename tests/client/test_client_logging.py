"""The log of a source, and secrets that neither it nor an error may show."""

from __future__ import annotations

import logging
import re
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme

import sse_fast
from sse_fast import AsyncEventSource, EventSource, ReconnectPolicy, RetriableError
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import SOURCES, Way
from tests.support.scripted_server import EVENT_STREAM, Play, Stage, serve_stage, stream
from tests.support.server import nobody
from tests.support.threaded_reader import (
    CHUNKED,
    EVERY_ADAPTER,
    EVERY_WAY,
    SHORT_DELAY,
    quiet_stream,
)

pytestmark = UNREAD_UNDER_TRIO


@EVERY_WAY
def test_log_has_attempts_responses_waits_and_end(
    way: Way, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has each attempt, its status, each wait with its reason, and the end."""
    caplog.set_level(logging.DEBUG, "sse_fast")
    stage.plays = [
        Play(503, ()),
        Play(302, [("Location", "@b")], framing="length"),
        stream(),
        stream(framing="chunked-truncated"),
    ]
    way.read(stage.url, policy=ReconnectPolicy(initial_delay=0.02, jitter=0.0, min_delay=0.02))
    records = [record for record in caplog.records if record.name.startswith("sse_fast")]
    assert all(record.getMessage().startswith(f"{stage.url}: ") for record in records)
    text = "\n".join(record.getMessage() for record in records)
    assert len(re.findall(rf"GET {re.escape(stage.url)}, attempt \d+", text)) == 4
    assert f"{stage.origin}/c/b" in text
    assert re.findall(r"<Response (\d+)", text) == ["503", "302", "200", "200", "204"]
    # Each wait is logged with its reason and its length.
    assert re.search(r"status 200, got 503.*next attempt in 0\.\d s", text)
    assert re.search(r"the stream ended; next attempt in \d\.\d s", text)
    assert re.search(r"(body|Reading the stream failed).*next attempt in 0\.\d s", text)
    assert re.search(r"over \(no content\)$", text, re.MULTILINE)


LEVELS = [
    # A failure before the first stream, and one in a row with it.
    ("INFO", r"Expected status 200, got 503.*; next attempt in 0\.\d s"),
    ("WARNING", r"Expected status 200, got 502.* \(failure 2 in a row\); next attempt in 0\.\d s"),
    ("INFO", r"connected, status 200"),
    # The end starts the count again.
    ("INFO", r"the stream ended; next attempt in \d\.\d s"),
    ("INFO", r"connected, status 200"),
    ("INFO", r"(The connection ended before|.* failed).*; next attempt in 0\.\d s"),
    ("WARNING", r"Expected status 200, got 500.* \(failure 2 in a row\); next attempt in 0\.\d s"),
    ("WARNING", r"Expected status 200, got 500.* \(failure 3 in a row\); next attempt in 0\.\d s"),
]


@EVERY_WAY
def test_log_has_one_line_a_connection_and_a_reconnect(
    way: Way, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sse_fast")
    statuses = [Play(status, ()) for status in (503, 502)]
    stage.plays = [*statuses, stream(), stream(framing="chunked-truncated"), *[Play(500, ())] * 2]
    policy = ReconnectPolicy(end_delay=0.02, initial_delay=0.02, jitter=0.0, min_delay=0.02)
    way.read(f"{stage.url}?key=s3cret", policy=policy, name="prices")
    lines = [(each.levelname, each.getMessage()) for each in caplog.records]
    lines = [each for each in lines if each[1].startswith("prices: ")]
    assert [level for level, _ in lines] == [level for level, _ in LEVELS]
    for (_, line), (_, pattern) in zip(lines, LEVELS, strict=True):
        assert re.fullmatch(f"prices: {pattern}", line), line
    assert "s3cret" not in caplog.text


def test_log_ends_with_close(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "sse_fast")
    stage.plays = [quiet_stream(b"data: a\n\n")]
    with EventSource(stage.url) as source:
        next(source)
    assert caplog.messages[-1] == f"{stage.url}: closed"


def test_log_is_silent_by_default(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    stage.plays = [Play(503, ()), stream()]
    SOURCES["sse_fast"].read(stage.url, policy=SHORT_DELAY)
    assert capfd.readouterr() == ("", "")


SECRET = "s3cret"
FIELDS = {"Authorization": f"Bearer {SECRET}", "X-Key": SECRET, "Cookie": f"a={SECRET}"}
REFUSED = [("Set-Cookie", f"a={SECRET}"), ("X-Key", SECRET), ("WWW-Authenticate", SECRET)]
ID = f"id: {SECRET}\n".encode()
DATA = f"data: {SECRET}\n\n".encode()


class MyError(Exception):
    pass


# Each failure is an answer of the server (None: there is no server) and options of the source. For
# these, the text of the error comes from the library.
LIBRARY_FAILURES: dict[str, tuple[Play | None, dict[str, Any]]] = {
    "no server": (None, {}),
    "no head": (Play(framing="none"), {}),
    "silence": (Play(framing="none", end="hang"), {"idle_timeout": 0.05}),
    "bad head": (Play(fields=[("Bad Name", SECRET), EVENT_STREAM]), {}),
    "bad length": (Play(fields=[("Content-Length", SECRET), EVENT_STREAM]), {}),
    "bad chunk": (Play(fields=[EVENT_STREAM, CHUNKED], body=[f"{SECRET}\r\n".encode()]), {}),
    "cut off": (stream(ID + DATA, framing="chunked-truncated"), {}),
    "redirect": (Play(302, [("Location", f"@b?{SECRET}"), *REFUSED]), {}),
    "bad redirect": (Play(302, [("Location", f"x://{SECRET}")]), {}),
    "blanks": (stream(), {"headers": {"X-Key": f" {SECRET} "}}),
    "not ASCII": (stream(), {"headers": {"X-Key": f"{SECRET}é"}}),
    "not UTF-8": (stream(), {"headers": {"X-Key": SECRET.encode() + b"\xff"}}),
}
FAILURES: dict[str, tuple[Play | None, dict[str, Any]]] = {
    **LIBRARY_FAILURES,
    "refused": (Play(404, REFUSED, body=[DATA]), {}),
    "busy": (Play(503, [*REFUSED, ("Retry-After", "0")], body=[DATA]), {}),
    "redirect of a POST": (
        Play(302, [("Location", f"@b?{SECRET}")]),
        {"method": "POST", "data": DATA},
    ),
    "pending": (stream(ID + DATA + DATA[:-1]), {}),
    "until": (stream(ID + DATA), {"until": f"{SECRET}!"}),
    "met until": (stream(ID + DATA), {"until": SECRET}),
    "size": (stream(ID + DATA), {"max_event_size": 10}),
    "long id": (stream(ID + DATA), {"policy": ReconnectPolicy(initial_delay=0.0, max_id_size=1)}),
    "decode": (stream(ID + DATA), {"decode": int}),
    "bad answer": (Play(503, ()), {"on_error": lambda error: SECRET}),
    "bad headers": (stream(), {"headers": lambda: {"X-Key": f"{SECRET}\n"}}),
    "bad name": (stream(), {"headers": lambda: {f"{SECRET}: ": "x"}}),
    "bad resume": (stream(), {"resume": lambda last_event_id: f"http://{SECRET}@[/"}),
    "bad mapping": (stream(), {"resume": lambda last_event_id: {SECRET: 1}}),
}
LIBRARY_WAYS = [SOURCES[name] for name in ("requests", "urllib3", "httpx", "aiohttp")]


def collect_texts(
    way: Way, url: str, caplog: pytest.LogCaptureFixture, **options: Any
) -> list[str]:
    """Read a source; return all texts it shows: its log, reprs, and errors, also of `on_error`."""
    caplog.set_level(logging.DEBUG, "sse_fast")
    url = url.replace("://", f"://{SECRET}:{SECRET}@") + f"?{SECRET}#{SECRET}"
    seen: list[Any] = []
    given = {"headers": FIELDS, "policy": SHORT_DELAY, "on_error": seen.append, **options}
    outcome = way.read(url, **given)
    assert outcome.error is None or outcome.error in seen or "on_error" in options
    records = [record for record in caplog.records if record.name.startswith("sse_fast")]
    assert records != []
    assert all(record.exc_info is None for record in records)
    response = outcome.source.response
    shown = [repr(outcome.source), str(outcome.source), repr(response)]
    shown += [] if response is None else [repr(response.headers)]
    shown += [str(error) for error in [*seen, outcome.error] if error is not None]
    return [*shown, *(record.getMessage() for record in records)]


@pytest.mark.parametrize(
    ("way", "name"),
    [
        *((SOURCES[way], name) for way in ("sse_fast", "sse_fast asyncio") for name in FAILURES),
        *((way, name) for way in LIBRARY_WAYS for name in LIBRARY_FAILURES),
        *((way, "blanks") for way in SOURCES.values() if way.library == "httpx2"),
    ],
    ids=str,
)
def test_log_and_errors_show_no_secret(
    way: Way, stage: Stage, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Scheme, host and path may be shown, but not query, user, field values, ids or bodies."""
    play, options = FAILURES[name]
    if play is not None:
        stage.plays = [play, stream(b"data: b\n\n")]
    if name != "long id":
        options = {"last_event_id": SECRET, **options}
    with nobody() as origin:
        url = f"{origin}/c" if play is None else stage.url
        shown = collect_texts(way, url, caplog, **options)
    assert [text for text in shown if SECRET in text] == []


@pytest.mark.parametrize("name", ["on_open", "on_comment", "headers"])
@pytest.mark.parametrize(
    "error",
    [MyError, RetriableError, sse_fast.FatalError, sse_fast.TransportError, OSError],
)
def test_log_hides_what_callbacks_raise(
    stage: Stage, name: str, error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """The exception is raised unchanged; its text, which may be a secret, is not logged."""
    errors = [error(SECRET)]

    def callback(*args: Any) -> dict[str, str]:
        if errors:
            raise errors.pop()
        return {}

    stage.plays = [stream(b": c\n\ndata: a\n\n")] * 2
    collect_texts(SOURCES["sse_fast"], stage.url, caplog, **{name: callback})
    assert errors == []
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("sse_fast")]
    assert [text for text in messages if SECRET in text] == []


@pytest.mark.parametrize("name", ["unknown", "wrong name"])
@EVERY_ADAPTER
def test_refused_certificate_shows_no_secret(
    way: Way, name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.DEBUG, "sse_fast")
    ca, other = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    (other if name == "unknown" else ca).cert_pem.write_to_path(file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1" if name == "unknown" else "other.example").configure_cert(context)
    errors: list[Exception] = []
    with serve_stage([stream()], context) as secure:
        url = secure.url.replace("://", f"://{SECRET}:{SECRET}@") + f"?{SECRET}"
        outcome = way.read(
            url, ca=str(file), policy=SHORT_DELAY, headers=FIELDS, on_error=errors.append
        )
        assert secure.requests == []
    # It is not retried, as the certificate would be refused again.
    assert isinstance(outcome.error, sse_fast.TransportError)
    assert errors == [outcome.error]
    assert (outcome.error.phase, outcome.error.sent) == ("connect", False)
    assert "ertificate" in str(outcome.error) or "CERTIFICATE" in str(outcome.error)
    text = "\n".join(r.getMessage() for r in caplog.records if r.name.startswith("sse_fast"))
    assert text
    assert SECRET not in text + str(outcome.error) + repr(outcome.source)


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
@pytest.mark.parametrize(
    "options",
    [
        {"url": f"http://{SECRET}:{SECRET}@[/?{SECRET}"},
        {"url": f"ftp://{SECRET}@127.0.0.1/?{SECRET}"},
        {"url": f"http://127.0.0.1:{SECRET}/"},
        {"url": f"http://127.0.0.1/{SECRET}\n"},
        {"headers": {"X": f"{SECRET}\n"}},
        {"headers": {f"X: {SECRET}": "x"}},
        {"headers": {"X": [SECRET]}},
        {"data": [SECRET]},
        {"method": f"{SECRET} X"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_invalid_arguments_show_no_secret(cls: Any, options: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        cls(**{"url": "http://127.0.0.1", **options})
    assert SECRET not in str(caught.value)
