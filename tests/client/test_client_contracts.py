"""Small promises: `check=False`, `name`, an id that can be set, and the fields of a request."""

from __future__ import annotations

import logging
import threading
from typing import Any

import pytest

from sse_fast import (
    AsyncEventSource,
    EndReason,
    EventSource,
    ReconnectPolicy,
    ResponseError,
    fetch_event_source,
)
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.eventsources import BY_US, OURS, Way
from tests.support.scripted_server import Play, Request, Stage, stream
from tests.support.threaded_reader import NO_DELAY, quiet_stream

pytestmark = UNREAD_UNDER_TRIO

GONE = Play(410, ())


# -- check -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["", "text/plain; charset=utf-8", "application/json"])
def test_check_false_reads_any_content_type(way: Way, stage: Stage, content_type: str) -> None:
    fields = [("Content-Type", content_type)] if content_type else []
    stage.plays = [stream(fields=fields)] * 3
    outcome = way.read(stage.url, check=False, stop_after=2, policy=NO_DELAY)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a", "a"]
    # The default refuses it.
    assert isinstance(way.read(stage.url).error, ResponseError)


@BY_US
@pytest.mark.parametrize("status", [201, 202, 203, 206, 226])
def test_check_false_reads_any_success(way: Way, stage: Stage, status: int) -> None:
    stage.plays = [Play(status, [], body=[b"data: a\n\n"], framing="length"), Play(204, ())]
    outcome = way.read(stage.url, method="POST", check=False, policy=NO_DELAY)
    assert [event.data for event in outcome.events] == ["a"]
    assert outcome.error is None
    stage.plays = [Play(204, ()), stream(status=status)]
    assert isinstance(way.read(stage.url, policy=NO_DELAY).error, ResponseError)


@BY_US
def test_check_false_keeps_the_table_of_statuses(way: Way, stage: Stage) -> None:
    stage.plays = [Play(503, ()), stream(), Play(204, ())]
    outcome = way.read(stage.url, check=False, policy=NO_DELAY)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a"]
    assert outcome.source.end_reason is EndReason.NO_CONTENT
    stage.plays = [*[Play(204, ())] * 3, Play(404, [("Content-Type", "text/event-stream")])]
    outcome = way.read(stage.url, check=False, policy=NO_DELAY)
    assert isinstance(outcome.error, ResponseError)


def test_fetch_event_source_takes_check(stage: Stage) -> None:
    stage.plays = [stream(fields=[])]
    got: list[str] = []
    policy = ReconnectPolicy.never()
    fetch_event_source(
        stage.url, on_message=lambda event: got.append(event.data), policy=policy, check=False
    )
    assert got == ["a"]


# -- name ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
def test_name_defaults_to_url_without_query(cls: Any) -> None:
    source = cls("http://u:p@127.0.0.1/events?key=s3cret")
    assert source.name == "http://127.0.0.1/events"
    assert repr(source) == f"<{cls.__name__} http://127.0.0.1/events CONNECTING>"


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
def test_name_is_in_repr(cls: Any) -> None:
    source = cls("http://127.0.0.1/?key=s3cret", name="prices")
    assert source.name == "prices"
    assert repr(source) == f"<{cls.__name__} 'prices' http://127.0.0.1/ CONNECTING>"
    with pytest.raises(TypeError, match="name"):
        cls("http://127.0.0.1/", name=7)


@BY_US
def test_every_log_line_begins_with_name(
    way: Way, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sse_fast")
    stage.plays = [Play(503, ()), stream(), stream(framing="chunked-truncated")]
    way.read(stage.url, name="prices", policy=NO_DELAY)
    lines = [each.getMessage() for each in caplog.records if each.name == "sse_fast"]
    assert lines
    assert [line for line in lines if not line.startswith("prices: ")] == []


# -- last_event_id ---------------------------------------------------------------------------------


def refuse_id(number: int, request: Request) -> Play:
    """Refuse every id, as a server does that has forgotten the event."""
    return stream() if request.get("Last-Event-ID") is None else GONE


@BY_US
@pytest.mark.parametrize("value", ["", None])
def test_refused_id_can_be_forgotten_in_on_error(way: Way, stage: Stage, value: Any) -> None:
    stage.plays = refuse_id
    seen: list[Any] = []

    async def use(source: Any) -> None:
        nonlocal current
        current = source
        async for event in source:
            seen.append(event.data)
            if len(seen) == 2:
                break

    def on_error(error: Exception) -> float:
        seen_ids.append(current.last_event_id)
        current.last_event_id = value
        return 0.0

    current: Any = None
    seen_ids: list[str] = []
    way.use(use, stage.url, policy=NO_DELAY, on_error=on_error)
    assert seen == ["a", "a"]
    assert seen_ids == ["1"]
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"1", None]


@BY_US
@pytest.mark.parametrize("by", ["headers", "callable headers", "resume", "resume and headers"])
def test_none_in_headers_leaves_id_out(way: Way, stage: Stage, by: str) -> None:
    stage.plays = refuse_id
    nothing = {"Last-Event-ID": None}
    options: dict[str, Any] = {
        "headers": {"headers": nothing},
        "callable headers": {"headers": lambda: nothing},
        "resume": {"resume": lambda last: {"headers": nothing}},
        "resume and headers": {"resume": lambda last: {}, "headers": nothing},
    }[by]
    outcome = way.read(stage.url, stop_after=3, policy=NO_DELAY, **options)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["a"] * 3
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None] * 3
    assert outcome.source.last_event_id == "1"


@BY_US
def test_id_set_while_open_holds_until_an_event_changes_it(way: Way, stage: Stage) -> None:
    body = [b"id: 1\ndata: a\n\n", b"data: b\n\n", b"id: 2\ndata: c\n\n"]
    stage.plays = [quiet_stream(b"".join(body))]
    ids = []

    async def use(source: Any) -> None:
        await anext(source)
        source.last_event_id = "x"
        ids.append(source.last_event_id)
        await anext(source)
        ids.append(source.last_event_id)
        await anext(source)
        ids.append(source.last_event_id)
        source.last_event_id = "1"
        ids.append(source.last_event_id)
        source.close()
        ids.append(source.last_event_id)

    way.use(use, stage.url)
    # The third event, with the id 2, is not taken.
    assert ids == ["x", "x", "x", "1", "1"]


@BY_US
def test_id_set_while_open_is_sent_by_reconnect(way: Way, stage: Stage) -> None:
    stage.plays = [quiet_stream(b"id: 1\ndata: a\n\n")] * 3

    async def use(source: Any) -> None:
        await anext(source)
        source.last_event_id = "9"
        source.reconnect()
        await anext(source)
        source.reconnect()
        await anext(source)

    way.use(use, stage.url, policy=NO_DELAY)
    # The second stream has changed the id to 1, and no event of it was taken before.
    assert [request.get("Last-Event-ID") for request in stage.requests] == [None, b"9", b"1"]


@pytest.mark.parametrize("cls", [EventSource, AsyncEventSource])
def test_last_event_id_can_be_set_before_open(cls: Any) -> None:
    source = cls("http://127.0.0.1/", last_event_id=None)
    assert source.last_event_id == ""
    source.last_event_id = "7"
    assert source.last_event_id == "7"
    source.last_event_id = None
    assert source.last_event_id == ""
    for wrong in (7, b"7", False):
        with pytest.raises(TypeError):
            source.last_event_id = wrong


def test_last_event_id_set_by_another_thread(stage: Stage) -> None:
    """At any moment, the id is either the one that was set or one that was taken."""
    way = OURS[0]
    stage.plays = lambda number, request: stream(b"id: 1\ndata: a\n\n" * 50)
    done = threading.Event()
    threads: list[threading.Thread] = []
    failures: list[Any] = []

    async def use(source: Any) -> None:
        def change() -> None:
            while not done.is_set():
                source.last_event_id = "2"
                if source.last_event_id not in ("1", "2"):
                    failures.append(source.last_event_id)

        threads.append(threading.Thread(target=change))
        source.last_event_id = "2"
        threads[0].start()
        try:
            for _ in range(1000):
                await anext(source)
        finally:
            done.set()
            threads[0].join()

    way.use(use, stage.url, policy=NO_DELAY)
    assert failures == []
    assert {request.get("Last-Event-ID") for request in stage.requests} <= {b"1", b"2"}


# -- Fields ----------------------------------------------------------------------------------------


def test_request_has_cache_control_no_cache(way: Way, stage: Stage) -> None:
    """As Fetch sends it for the cache mode "no-store"; recordings of browsers have it."""
    way.read(stage.url)
    assert stage.requests[0].get("Cache-Control") == b"no-cache"
