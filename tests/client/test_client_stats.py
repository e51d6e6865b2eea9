"""`source.stats`: what a source counts."""

from __future__ import annotations

import logging
import re
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from sse_fast import AsyncEventSource, EventSource
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, OURS, Way, way_params
from tests.support.scripted_server import Play, Stage, stream
from tests.support.threaded_reader import NO_DELAY

pytestmark = UNREAD_UNDER_TRIO


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
def test_stats_begin_with_zero(cls: Any) -> None:
    source = cls("http://127.0.0.1/?key=s3cret")
    assert source.stats == ("http://127.0.0.1/", 0, 0, 0, 0, None)
    assert cls("http://127.0.0.1/", name="prices").stats.name == "prices"
    with pytest.raises(AttributeError):
        source.stats.events = 7


def test_stats_count_connections_failures_events_bytes(way: Way, stage: Stage) -> None:
    event = b"id: 1\ndata: a\n\n"
    stage.plays = [
        Play(503, ()),
        stream(event, event, delay=5),
        stream(event, b": ping\n\n", framing="chunked-truncated"),
        stream(b"data: b\n\n"),
    ]
    outcome = way.read(stage.url, policy=NO_DELAY, name="prices")
    assert outcome.error is None
    stats = outcome.source.stats
    assert (stats.name, stats.connections, stats.failures, stats.events) == ("prices", 3, 2, 4)
    assert stats.bytes == 3 * len(event) + len(b": ping\n\n") + len(b"data: b\n\n")
    assert 0 <= stats.seconds_since_event < 5


@pytest.mark.parametrize("way", way_params(OURS))
def test_seconds_since_event_ignore_keepalives(way: Way, stage: Stage) -> None:
    """A stream that is wedged behind its keep-alive comments shows in it."""
    may_end = threading.Event()
    stage.plays = [stream(b"data: a\n\n", *[b": ping\n\n"] * 6, may_end, delay=50.0)]
    seen: list[float] = []

    def on_comment(text: str) -> None:
        seen.append(sources[0].stats.seconds_since_event)
        if len(seen) == 5:
            may_end.set()

    sources: list[Any] = []

    async def use(source: Any) -> None:
        sources.append(source)
        began = time.monotonic()
        await anext(source)
        assert source.stats.seconds_since_event <= time.monotonic() - began
        async for _ in source:
            pass

    way.use(use, stage.url, on_comment=on_comment, policy=NO_DELAY)
    assert seen == sorted(seen)
    assert seen[4] > 0.15


def test_stats_are_read_from_another_thread(stage: Stage) -> None:
    stage.plays = [stream(*[b"data: a\n\n" * 20] * 20, delay=1.0)]
    done, failures = threading.Event(), []
    source = EventSource(stage.url, policy=NO_DELAY)

    def watch() -> None:
        last = source.stats
        while not done.is_set():
            now = source.stats
            if now.events < last.events or now.bytes < last.bytes:
                failures.append((last, now))
            last = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with source:
            assert sum(1 for _ in source) == 400
    finally:
        done.set()
        thread.join()
    assert failures == []
    assert source.stats.events == 400


@BY_US
@pytest.mark.parametrize(
    ("play", "failures"),
    [
        (stream(b"data: a\n\n", framing="close"), 3),
        (stream(b": ping\n\n"), 3),
        (stream(b"data: a\n\n"), 0),
        (stream(b"data: a\n\n", framing="chunked-truncated"), 3),
        (Play(503, ()), 3),
    ],
    ids=["close-delimited", "no event", "good end", "cut off", "503"],
)
def test_failures_of_stats_and_log_agree(
    way: Way, stage: Stage, play: Play, failures: int, caplog: pytest.LogCaptureFixture
) -> None:
    """An end after which the client backs off, as from a crash, is a failure in both."""
    stage.plays = [play] * 3
    with caplog.at_level(logging.INFO, "sse_fast"):
        outcome = way.read(stage.url, policy=replace(NO_DELAY, initial_attempts=None))
    assert outcome.source.stats.failures == failures
    in_a_row = re.findall(r"\(failure (\d+) in a row\)", caplog.text)
    assert in_a_row == (["2", "3"] if failures else [])
