"""`ReconnectPolicy.whatwg()` behaves like browsers on sequences of responses recorded from them."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

import sse_fast
from sse_fast import EndReason, ReadyState, ResponseError
from tests.support import DATA
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.each import check_each
from tests.support.eventsources import SOURCES, Way
from tests.support.scripted_server import Play, Request, Stage, serve_stage

pytestmark = UNREAD_UNDER_TRIO

SEQUENCES: dict[str, dict[str, Any]] = {
    sequence["name"]: sequence for sequence in json.loads((DATA / "client.json").read_bytes())
}
# ms between the chunks of a body, unless the sequence says another delay.
DELAY = 30
# Instead of the 3 seconds that browsers wait without a `retry`; one test waits them.
INITIAL_DELAY = 0.1
SLACK = 0.02

# Where the three browsers differ: the one whose behaviour we have, and why.
CHOICES: dict[str, tuple[str, str]] = {
    "content-type/charset-bogus": ("firefox", "the charset is ignored: the stream is always UTF-8"),
    "content-type/list-in-one-header": (
        "chromium",
        "the essence ends at the first semicolon or space",
    ),
    "status/407": ("firefox", "a status like any other: we do not authenticate to proxies"),
    "redirect/301": ("chromium", "permanent: later attempts go to the new URL"),
    "redirect/302": ("firefox", "temporary: later attempts go to the first URL again"),
    "redirect/303": ("firefox", "temporary, as 302"),
    "redirect/308": ("chromium", "permanent, as 301"),
    "redirect/loop": ("firefox", "after 20 redirects, an error like a bad status"),
    "reconnect/id-reset-not-sent": ("chromium", "as the standard says, an empty id is not sent"),
    "reconnect/rst-midstream": ("chromium", "an unfinished event is discarded"),
    "reconnect/rst-on-reconnect-before-headers": ("chromium", "an error, like any other reset"),
    "reconnect/cookie-back": ("chromium", "a cookie jar sends back what it stored"),
}
# Without a client, or with one that has no cookie jar, no cookies are sent: as in WebKit.
WITHOUT_JAR = {"sse_fast", "urllib3"}

# Where no browser behaves as we do: the index of an additional entry in our log, the entry, why.
ADDED: dict[str, tuple[int, list[Any], str]] = {
    "reconnect/fin-before-headers": (
        0,
        ["error", "connecting"],
        "browsers repeat the request silently; here it is an error like any other",
    ),
}

# Deviations of libraries: (library, sequence) -> how.
LIBRARY_FAULTS: dict[tuple[str, str], str] = {
    # As RFC 1952, 2.2 says; browsers lose the events of later members.
    ("requests", "framing/gzip-two-members"): "every member is inflated, not only the first",
    ("urllib3", "framing/gzip-two-members"): "as requests",
    ("aiohttp", "framing/gzip-two-members"): "as requests",
    ("aiohttp", "reconnect/fin-before-headers"): "it repeats a GET on its own",
    ("aiohttp", "reconnect/rst-on-reconnect-before-headers"): "it repeats a GET on its own",
    ("aiohttp", "framing/content-length-long"): "bytes after the body are an error that hides it",
    ("aiohttp", "status/304"): "bytes after the body are an error that hides it",
}


# The ways that play the sequences by `run` as well, which also reports clean ends. With trio, for
# which we have no transport, the client waits by other means.
RUN = ["sse_fast", "sse_fast asyncio", "httpx trio"]


@dataclass
class Played:
    """The result of a sequence: the `log` of the client, and the `stage` that served it."""

    stage: Stage
    source: Any = None
    log: list[Any] = field(default_factory=list)
    # The state of the source at each entry.
    states: list[tuple[str, ReadyState]] = field(default_factory=list)
    end: EndReason | Exception | None = None

    def note(self, *entry: Any) -> None:
        self.log.append([*entry])
        self.states.append((entry[0], self.source.ready_state))


def plays(sequence: dict[str, Any]) -> list[Play]:
    return [
        Play(
            status=response["status"],
            fields=[(name, value) for name, value in response["headers"]],
            body=[base64.b64decode(chunk) for chunk in response["body"]],
            framing=response["framing"],
            end=response["end"],
            delay=DELAY if response["delay"] is None else response["delay"],
        )
        for response in sequence["responses"]
    ]


def play(way: Way, name: str, manner: str, **changes: Any) -> Played:
    """Play a sequence to the client, which iterates or calls `run`."""
    with serve_stage(plays(SEQUENCES[name])) as stage:
        played = Played(stage)

        def on_event(event: Any) -> None:
            played.note("event", event.event, summary(event.data), summary(event.id))

        async def iterate(source: Any) -> EndReason:
            played.source = source
            async with source:
                async for event in source:
                    on_event(event)
            return source.end_reason

        async def run(source: Any) -> EndReason:
            played.source = source
            return await source.run(on_event, on_close=lambda: played.note("end"))

        try:
            played.end = way.use(
                iterate if manner == "iterate" else run,
                stage.url,
                policy=sse_fast.ReconnectPolicy.whatwg(**changes),
                on_open=lambda response: played.note("open"),
                on_error=lambda error: played.note("error", played.source.ready_state.name.lower()),
            )
        except ResponseError as error:
            played.end = error
        return played


def summary(text: str) -> Any:
    """Return a string as the recording has it: long ones as length and digest."""
    if len(text) <= 1000:
        return text
    return {"length": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}


def is_redirect(play: Play) -> bool:
    return play.status in (301, 302, 303, 307, 308)


def retries(sequence: list[Play]) -> list[float]:
    """Return the shortest allowed wait after each play, in seconds."""
    waits, retry = [], INITIAL_DELAY
    for each in sequence:
        found = re.findall(rb"\bretry:(\d+)\n", b"".join(each.body))
        retry = int(found[-1]) / 1000 if found else retry
        waits.append(retry)
    return waits


def is_broken(play: Play) -> bool:
    """Return whether the response has no clean end."""
    return (
        play.end == "rst"
        or play.framing in ("none", "chunked-truncated", "length-short")
        or b"garbage" in b"".join(play.body)
    )


def check(played: Played, way: Way, name: str, manner: str) -> None:
    sequence = SEQUENCES[name]
    engine, _ = CHOICES.get(name, ("chromium", ""))
    if name == "reconnect/cookie-back" and way.library in WITHOUT_JAR:
        engine = "webkit"
    # A recording that equals Chromium's is stored there only.
    recorded = sequence.get(engine, sequence["chromium"])
    check_requests(played.stage, recorded["requests"])
    log = expected_log(name, recorded, plays(sequence))
    # Iteration does not report clean ends.
    assert played.log == [entry for entry in log if manner == "run" or entry != ["end"]]
    if log[-1] == ["open"]:
        assert played.end is EndReason.NO_CONTENT
    else:
        assert isinstance(played.end, ResponseError)
        assert played.source.end_reason is EndReason.ERROR
    assert played.source.ready_state is ReadyState.CLOSED
    assert {state for kind, state in played.states if kind == "event"} <= {ReadyState.OPEN}
    # Every response but the last one is accepted.
    opened = [state for kind, state in played.states if kind == "open"]
    assert opened == [*[ReadyState.OPEN] * (len(opened) - 1), ReadyState.CONNECTING]


def expected_log(name: str, recorded: dict[str, Any], sequence: list[Play]) -> list[Any]:
    """Translate the recorded log into the callbacks of our client.

    Browsers fire `error` also at a clean end, and at a 204. Our `on_open` is called with every
    final response; the last one is final in each sequence: a 204, a bad status or a bad type.
    """
    *log, closed = recorded["log"]
    assert closed == ["error", "closed"]
    if name in ADDED:
        at, entry, _ = ADDED[name]
        log.insert(at, entry)
    finals = (each for each in sequence if not is_redirect(each))
    for index, entry in enumerate(log):
        if entry == ["error", "connecting"] and not is_broken(next(finals)):
            log[index] = ["end"]
    last = len(recorded["requests"]) - 1
    refused = last < len(sequence) and sequence[last].status != 204
    return [*log, ["open"], *([closed] if refused else [])]


def check_requests(stage: Stage, expected: list[dict[str, Any]]) -> None:
    assert [path_and_id(request) for request in stage.requests] == [
        (each["path"], each["last_event_id"]) for each in expected
    ]
    for request in stage.requests:
        assert request.method == "GET"
        assert request.get("Accept") == b"text/event-stream"
        assert request.get("Cache-Control") == b"no-cache"
        assert request.playing == 0
        assert request.open == 0
    sequence = plays_of(stage)
    for request, asked, answered, wait in zip(
        stage.requests[1:], stage.requests, sequence, retries(sequence), strict=False
    ):
        # A redirect is followed immediately, even before its body has ended.
        if not is_redirect(answered):
            # A compressed body may show its end or an error long before the server, which pauses,
            # ends the connection.
            is_compressed = any(name == "Content-Encoding" for name, _ in answered.fields)
            ended = asked.began if is_compressed else asked.ended
            assert ended is not None
            assert request.arrived - ended > wait - SLACK
    for request, each in zip(stage.requests, expected, strict=True):
        if "cookie_sent" in each:
            sent = f"k=v{stage.run}".encode() in (request.get("Cookie") or b"")
            assert sent is each["cookie_sent"]


def plays_of(stage: Stage) -> list[Play]:
    assert not callable(stage.plays)
    return list(stage.plays)


def path_and_id(request: Request) -> tuple[str, Any]:
    value = request.get("Last-Event-ID")
    return request.path.rpartition("/")[2], None if value is None else summary(value.decode())


# -- The tests -------------------------------------------------------------------------------------


def test_recorded_sequences_are_complete() -> None:
    assert len(SEQUENCES) == 65
    assert {name for name, each in SEQUENCES.items() if not each["consensus"]} == set(CHOICES)
    assert {name for _, name in LIBRARY_FAULTS} <= set(SEQUENCES)
    assert {library for library, _ in LIBRARY_FAULTS} <= {way.library for way in SOURCES.values()}


def check_all(way: Way, manner: str) -> None:
    def check_or_differ(named: tuple[str, Future[Played]]) -> None:
        name, played = named
        if (way.library, name) not in LIBRARY_FAULTS:
            check(played.result(), way, name, manner)
            return
        # If this fails, the library was fixed: remove the entry of LIBRARY_FAULTS.
        with pytest.raises(AssertionError):
            check(played.result(), way, name, manner)

    # They spend their time waiting, so they are played at the same time.
    with ThreadPoolExecutor(len(SEQUENCES)) as pool:
        play_one = partial(play, way, manner=manner, initial_delay=INITIAL_DELAY)
        played = {name: pool.submit(play_one, name) for name in SEQUENCES}
        check_each(((name, (name, each)) for name, each in played.items()), check_or_differ)


def test_iteration_matches_browsers(way: Way) -> None:
    check_all(way, "iterate")


@pytest.mark.parametrize("way", [SOURCES[name] for name in RUN], ids=RUN)
def test_run_matches_browsers(way: Way) -> None:
    check_all(way, "run")


@pytest.mark.soak
def test_whatwg_waits_three_seconds_by_default() -> None:
    played = play(SOURCES["sse_fast"], "reconnect/default-delay", "iterate")
    check(played, SOURCES["sse_fast"], "reconnect/default-delay", "iterate")
    waited = played.stage.requests[1].waited
    assert waited is not None
    assert 3.0 - SLACK < waited < 5.0
