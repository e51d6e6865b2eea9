"""The differences of docs/migrating.md from launchdarkly-eventsource."""

from __future__ import annotations

import inspect
import threading
import time
from contextlib import closing
from functools import partial
from itertools import islice
from types import SimpleNamespace

import aiohttp_sse_client.client as sse_client
import ld_eventsource.sse_client
import pytest
import urllib3
from ld_eventsource import SSEClient
from ld_eventsource.actions import Comment
from ld_eventsource.config import ConnectStrategy, ErrorStrategy, RetryDelayStrategy
from ld_eventsource.errors import HTTPContentTypeError, HTTPStatusError

import sse_fast
from sse_fast import EndReason, EventSource, ReconnectPolicy, ResponseError
from tests.support.migrating import (
    BUSY,
    CONTINUE,
    CUT,
    GONE,
    HELD,
    LD,
    NEVER,
    OPTIONS,
    EnoughError,
    Waits,
    gets_it_at_once,
    goes_on_asking,
    read_launchdarkly,
    read_ours,
    run,
    shows,
)
from tests.support.migrating import responses as responses
from tests.support.migrating import waits as waits
from tests.support.scripted_server import LIMIT, Play, serve_stage, stream
from tests.support.server import nobody


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
    with serve_stage([BUSY, CUT, stream()]) as stage:
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
    assert not {"logger", "connect"} & OPTIONS.keys()
    with sse_fast.iter_events([b"data: 1\n\n"]) as events:
        assert [event.data for event in events] == ["1"]
        assert list(events) == []
