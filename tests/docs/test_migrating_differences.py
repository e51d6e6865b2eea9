"""The lists of docs/guides/migrating.md: how sse_fast behaves where other clients may not."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import closing
from typing import Any

import aiohttp
import pytest
import requests
import urllib3

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
)
from tests.support.migrating import (
    ALL,
    BUSY,
    CUT,
    LD,
    NEVER,
    NO,
    NUL,
    OPTIONS,
    RESET,
    UNFINISHED,
    EnoughError,
    Outcome,
    Waits,
    aread_ours,
    check_attempts,
    read,
    read_ours,
    run,
    shows,
    wait_until,
)
from tests.support.migrating import waits as waits
from tests.support.scripted_server import LIMIT, Play, Stage, serve_stage, stream
from tests.support.server import nobody

BOTH = pytest.mark.parametrize("ours", [read_ours, aread_ours], ids=["sync", "async"])

# -- Parsing ---------------------------------------------------------------------------------------


@shows("Byte order mark", ALL)
def test_bom_is_skipped() -> None:
    assert run(read_ours, stream(b"\xef\xbb\xbfdata: 1\n\ndata: 2\n\n")).data == ["1", "2"]


@shows("Invalid UTF-8", ALL)
def test_invalid_utf8_is_replaced() -> None:
    assert run(read_ours, stream(b"data: \xff\n\ndata: 2\n\n")).data == ["\ufffd", "2"]


@shows("Line ends", ALL)
def test_every_line_end_counts() -> None:
    assert run(read_ours, stream(b"data: 1\r\rdata: 2\r\r")).data == ["1", "2"]
    assert run(read_ours, stream(b"data: 1\r", b"\ndata: 2\r\n\r\n")).data == ["1\n2"]


@shows("Spaces and empty lines", ALL)
def test_spaces_and_empty_lines_are_kept() -> None:
    assert run(read_ours, stream(b"data:  a\ndata:\ndata\n\n")).data == [" a\n\n"]


@shows("Event types", ALL)
def test_event_type_defaults_to_message() -> None:
    body = stream(b"data: 1\n\nevent:\ndata: 2\n\n")
    assert [kind for kind, _, _ in run(read_ours, body).events] == ["message", "message"]


@shows("Ids", ALL)
@BOTH
def test_ids_follow_the_standard(ours: Any) -> None:
    assert run(ours, stream(b"data: 1\n\n"), last_event_id="7").ids == ["7"]
    assert run(ours, stream(b"id: 1\ndata: 1\n\ndata: 2\n\n")).ids == ["1", "1"]
    assert run(ours, *RESET).sent == [None, b"5", None, None]
    outcome = run(ours, NUL)
    assert (outcome.ids, outcome.sent) == (["5", "5"], [None, b"5"])
    outcome = run(ours, UNFINISHED, stream(b"data: 3\n\n"))
    assert (outcome.data, outcome.ids) == (["3"], [""])
    outcome = run(ours, stream(b"id: 5\ndata: 1\n\nid: 6\n\n"))
    assert (outcome.data, outcome.sent) == (["1"], [None, b"6"])


@shows("retry", ALL)
@BOTH
@pytest.mark.parametrize("retry", ["-1", "٣٠٠٠٠"])
def test_retry_takes_ascii_digits_only(ours: Any, retry: str, waits: Waits) -> None:
    run(ours, stream(f"retry: {retry}\ndata: 1\n\n".encode()))
    assert [wait < 1.11 for wait in waits] == [True]


@shows("Size", ALL)
def test_event_too_large_raises() -> None:
    outcome = run(read_ours, stream(b"data: %b\n\n" % (b"x" * 200_000)), max_event_size=100_000)
    assert isinstance(outcome.error, EventTooLarge)
    assert OPTIONS["max_event_size"].default == 16 * 2**20
    # A line of 4 MiB, which some HTTP libraries do not read.
    long = stream(b"data: %b\n\n" % (b"x" * 2**22))
    assert [len(data) for data in run(aread_ours, long).data] == [2**22]


# -- Requests and responses ------------------------------------------------------------------------


@shows("Opening", ALL)
def test_with_or_first_event_opens() -> None:
    with serve_stage([stream(), stream(), NO, NO]) as stage:
        with EventSource(stage.url):
            assert len(stage.requests) == 1
        with closing(EventSource(stage.url)) as source:
            assert len(stage.requests) == 1
            assert next(source).data == "a"
        refused = EventSource(stage.url)
        with pytest.raises(ResponseError):
            refused.open()
        assert refused.ready_state is ReadyState.CLOSED

        async def fail_to_open() -> None:
            refused = AsyncEventSource(stage.url)
            with pytest.raises(ResponseError):
                await refused.__aenter__()
            assert refused.ready_state is ReadyState.CLOSED

        asyncio.run(fail_to_open())
        wait_until(lambda: stage.open == 0)


@shows("Headers", ALL)
@BOTH
def test_headers_dict_is_not_changed(ours: Any) -> None:
    headers = {"X-Key": "1"}
    run(ours, stream(), headers=headers)
    assert headers == {"X-Key": "1"}


@shows("Responses", ALL)
def test_responses_that_are_streams() -> None:
    def play(status: int, kind: str) -> Play:
        return Play(status, [("Content-Type", kind)], [b"data: 1\n\n"])

    assert run(read_ours, play(200, "Text/Event-Stream")).data == ["1"]
    for each in (play(201, "text/event-stream"), play(200, "text/event-streamer")):
        assert isinstance(run(read_ours, each).error, ResponseError)


@shows("Status 204", ALL)
def test_status_204_ends_the_loop() -> None:
    with serve_stage() as stage, EventSource(stage.url) as source:
        assert list(source) == []
        assert source.end_reason is EndReason.NO_CONTENT


@shows("Refused responses", ALL)
def test_refused_response_is_closed() -> None:
    refusal = Play(404, (), [b"no such stream"], framing="length", keep_alive=True)
    with serve_stage([refusal]) as stage:
        outcome = read_ours(stage.url)
        assert isinstance(outcome.error, ResponseError)
        assert outcome.error.response.body == b"no such stream"
        wait_until(lambda: stage.open == 0)


@shows("Retried statuses", ALL)
@pytest.mark.parametrize("status", [408, 425, 429, 500, 503])
def test_status_is_retried_after_retry_after(status: int, waits: Waits) -> None:
    later = Play(status, [("Retry-After", "7")], framing="length")
    assert run(read_ours, later, stream()).data == ["a"]
    assert 6.5 < waits[0] < 8.01
    outcome = run(read_ours, later, policy=ReconnectPolicy(retry_statuses=()))
    assert isinstance(outcome.error, ResponseError)


@shows("Retried statuses", ALL)
@pytest.mark.parametrize("status", [501, 505])
def test_other_server_error_raises(status: int) -> None:
    outcome = run(read_ours, Play(status, (), framing="length"), stream())
    assert isinstance(outcome.error, ResponseError)


FIELDS = {"X-Key": "1", "Authorization": "secret", "Cookie": "a=1"}


@shows("Redirects", ALL)
def test_redirects_are_limited_and_bare() -> None:
    def hops(count: int) -> list[Play]:
        return [Play(302, [("Location", "@b")], framing="length")] * count + [stream()]

    assert run(read_ours, *hops(20)).data == ["a"]
    assert isinstance(run(read_ours, *hops(21)).error, ResponseError)
    with serve_stage([stream()]) as far:
        away = Play(302, [("Location", far.url)], framing="length")
        with serve_stage([away]) as near:
            read_ours(near.url, 1, headers=FIELDS)
    assert [far.requests[0].get(name) for name in FIELDS] == [None] * len(FIELDS)


@shows("Proxies", ALL)
def test_proxies_are_those_of_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_stage([stream()]) as proxy, serve_stage([stream()] * 2) as direct:
        monkeypatch.setenv("http_proxy", proxy.origin)
        assert type(read_ours(direct.url).error) is SSEError
        with requests.Session() as session, urllib3.PoolManager() as pool:
            # requests reads the environment, urllib3 and aiohttp do not.
            assert read_ours(direct.url, 1, client=session).data == ["a"]
            assert (len(proxy.requests), len(direct.requests)) == (1, 0)
            assert read_ours(direct.url, 1, client=pool).data == ["a"]

        async def read_with_aiohttp() -> Outcome:
            async with aiohttp.ClientSession() as session:
                return await read(AsyncEventSource(direct.url, client=session), 1)

        assert asyncio.run(read_with_aiohttp()).data == ["a"]
        assert (len(proxy.requests), len(direct.requests)) == (1, 2)


@shows("Timeouts", ALL)
def test_silent_connection_is_replaced() -> None:
    assert (OPTIONS["connect_timeout"].default, OPTIONS["idle_timeout"].default) == (10, 300)
    quiet = Play(body=[b"data: 1\n\n"], framing="chunked", end="hang")
    assert run(read_ours, quiet, stream(), idle_timeout=0.2).data == ["1", "a"]


# -- Reconnecting and ending -----------------------------------------------------------------------


@shows("Attempts", ALL)
@BOTH
def test_attempts_are_limited_before_first_response(ours: Any, waits: Waits) -> None:
    check_attempts(ours, waits)
    assert ReconnectPolicy().max_attempts is None


@shows("Waits", ALL)
@BOTH
def test_waits_grow_until_events_arrive(ours: Any, waits: Waits) -> None:
    said = stream(b"retry: 7000\ndata: 1\n\n")
    assert run(ours, said, stream(), stream()).data == ["1", "a", "a"]
    assert len(waits) == 3
    assert all(6.5 < wait < 8.01 for wait in waits)
    waits.clear()
    run(ours, *[stream()] * 4, stop_after=4)
    assert [wait < 1.11 for wait in waits] == [True] * 3
    waits.clear()
    with nobody() as origin:
        error = ours(origin, policy=ReconnectPolicy(initial_attempts=None)).error
    assert isinstance(error, EnoughError)
    longest = [1, 2, 4, 8, 16] + [30] * 15
    assert all(wait < most + 0.11 for wait, most in zip(waits, longest, strict=True))
    assert max(waits) > 8


def follow(ours: Any, stage: Stage, on_message: Any, **options: Any) -> None:
    """Read with callbacks."""
    if ours is read_ours:
        sse_fast.fetch_event_source(stage.url, on_message=on_message, **options)
    else:
        asyncio.run(sse_fast.afetch_event_source(stage.url, on_message=on_message, **options))


@shows("Clean end", ALL)
@BOTH
def test_clean_end_calls_on_close_only(ours: Any) -> None:
    lost: list[Any] = []
    outcome = run(ours, stream(), on_error=lost.append)
    assert (outcome.data, len(outcome.requests)) == (["a"], 2)
    closed: list[int] = []
    with serve_stage([stream()]) as stage:
        follow(ours, stage, print, on_close=lambda: closed.append(1), on_error=lost.append)
    assert (lost, closed) == ([], [1])


@shows("POST", ALL)
@BOTH
def test_post_is_resent_only_if_unprocessed(ours: Any) -> None:
    post: dict[str, Any] = {"method": "POST", "json": {"a": 1}}
    clean = run(ours, stream(), stream(), **post)
    assert (clean.data, clean.error, len(clean.requests)) == (["a"], None, 1)
    assert isinstance(run(ours, CUT, stream(), **post).error, StreamIncomplete)
    busy = run(ours, BUSY, stream(), **post)
    assert (busy.data, len(busy.requests)) == (["a"], 2)
    again = run(ours, CUT, stream(), stream(), resend=True, **post)
    assert again.data == ["1", "a"]
    assert [request.method for request in again.requests] == ["POST"] * 2


@shows("close()", ALL)
def test_close_in_the_loop_ends_it() -> None:
    two = stream(b"data: 1\n\ndata: 2\n\n")
    with serve_stage([two, two]) as stage, EventSource(stage.url) as source:
        assert [source.close() for _ in source] == [None]
        assert source.end_reason is EndReason.CLOSED
        assert len(stage.requests) == 1


@shows("close()", ALL)
def test_close_from_other_thread_ends_the_loop() -> None:
    quiet = Play(body=[b"data: 1\n\n"], framing="chunked", end="hang")
    got = threading.Event()
    with serve_stage([quiet]) as stage, EventSource(stage.url) as source:
        reader = threading.Thread(target=lambda: [got.set() for _ in source])
        reader.start()
        assert got.wait(LIMIT)
        source.close()
        reader.join(LIMIT)
        assert not reader.is_alive()


@shows("close()", ALL)
def test_close_during_a_wait_ends_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    # With the real clock.
    monkeypatch.undo()
    with serve_stage([stream(), stream()]) as stage:
        with EventSource(stage.url, policy=ReconnectPolicy(min_delay=60)) as source:
            timer = threading.Timer(0.05, source.close)
            began = time.monotonic()
            reason = source.run(lambda event: None, on_close=timer.start)
            timer.join()
        assert reason is EndReason.CLOSED
        assert time.monotonic() - began < LIMIT
        assert len(stage.requests) == 1


# -- Callbacks -------------------------------------------------------------------------------------


@shows("on_open", ALL)
@BOTH
def test_on_open_gets_refused_responses_too(ours: Any) -> None:
    opened: list[int] = []
    run(ours, stream(), NO, on_open=lambda response: opened.append(response.status))
    assert opened == [200, 404]


@shows("on_message", ALL)
@BOTH
def test_on_message_gets_every_event(ours: Any) -> None:
    seen: list[str] = []
    with serve_stage([stream(b"event: tick\ndata: 1\n\ndata: 2\n\n")]) as stage:
        follow(ours, stage, lambda event: seen.append(event.data))
    assert seen == ["1", "2"]


# -- requests-sse ----------------------------------------------------------------------------------


@shows("Environment", "requests-sse")
def test_environment_overrides_session(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[Any] = []
    send = requests.adapters.HTTPAdapter.send

    def noted(self: Any, *args: Any, **options: Any) -> Any:
        verified.append(options["verify"])
        return send(self, *args, **options)

    monkeypatch.setattr(requests.adapters.HTTPAdapter, "send", noted)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "environment.pem")
    with serve_stage([stream()]) as given, serve_stage([stream()]) as environment:
        monkeypatch.setenv("http_proxy", environment.origin)
        for trust_env, used in ((True, environment), (False, given)):
            with requests.Session() as session:
                session.verify, session.proxies = "ca.pem", {"http": given.origin}
                session.trust_env = trust_env
                assert read_ours("http://127.0.0.1:9/", 1, client=session).data == ["a"]
            assert len(used.requests) == 1
    assert verified == ["environment.pem", "ca.pem"]


@shows("Origin after a redirect", "requests-sse")
def test_response_url_is_that_after_redirects() -> None:
    with serve_stage([stream()]) as far:
        away = Play(302, [("Location", far.url)], framing="length")
        with serve_stage([away]) as near, EventSource(near.url) as source:
            next(source)
            assert source.response is not None
            assert source.response.url == far.url


# -- aiohttp-sse-client ----------------------------------------------------------------------------


@shows("Session timeouts", "aiohttp-sse-client")
def test_session_timeouts_are_ignored() -> None:
    lively = Play(body=[b"data: %d\n\n" % number for number in range(10)], delay=50)

    async def read_slowly() -> Outcome:
        timeout = aiohttp.ClientTimeout(total=0.2)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            return await read(AsyncEventSource(stage.url, client=session), 10)

    with serve_stage([lively]) as stage:
        assert len(asyncio.run(read_slowly()).data) == 10


# -- launchdarkly-eventsource ----------------------------------------------------------------------


@shows("reconnect()", LD)
def test_reconnect_continues_the_loop() -> None:
    two = stream(b"data: 1\n\ndata: 2\n\n")
    with serve_stage([two, two, stream()]) as stage, EventSource(stage.url, policy=NEVER) as source:
        data = []
        for event in source:
            data.append(event.data)
            if len(data) == 1:
                source.reconnect()
        assert data == ["1", "1", "2"]
        assert list(source) == []
        source.reconnect()
        assert [event.data for event in source] == ["a"]


@shows("max_attempts", LD)
def test_max_attempts_counts_since_last_good_stream(waits: Waits) -> None:
    nothing = [stream(b": nothing\n")] * 12
    outcome = run(read_ours, *nothing, policy=ReconnectPolicy(max_attempts=2))
    assert (outcome.error, len(outcome.requests)) == (None, 1 + 2)
    plays = [stream(), *nothing[:2], stream(), *nothing]
    outcome = run(read_ours, *plays, policy=ReconnectPolicy(max_attempts=3))
    assert (outcome.data, len(outcome.requests)) == (["a", "a"], 4 + 3)

    def last_long(_: str) -> None:
        waits.elapse(61)

    waits.clear()
    policy = ReconnectPolicy(max_attempts=2, reset_after=60)
    assert len(run(read_ours, *nothing, policy=policy, on_comment=last_long).requests) == 12 + 1


@shows("last_event_id", LD)
def test_last_event_id_is_that_before_the_event() -> None:
    body = stream(b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n\n")
    with serve_stage([body]) as stage, EventSource(stage.url, policy=NEVER) as source:
        assert source.last_event_id == ""
        assert [source.last_event_id for _ in source] == ["", "1"]
        assert source.last_event_id == "2"


@shows("Comments", LD)
def test_on_comment_is_called_in_order() -> None:
    with serve_stage([stream(b": a\ndata: 1\n\n:b\ndata: 2\n\n")]) as stage:
        seen: list[str] = []
        source = EventSource(stage.url, policy=NEVER, on_comment=seen.append)
        source.run(lambda event: seen.append(event.data))
        assert seen == ["a", "1", "b", "2"]


@shows("Without a counterpart", LD)
def test_options_without_a_counterpart() -> None:
    with serve_stage([BUSY, CUT, stream()]) as stage:
        count = iter("abcd")
        source = EventSource(
            f"{stage.url}?n={next(count)}", resume=lambda last_id: f"{stage.url}?n={next(count)}"
        )
        assert [event.data for event in source] == ["1", "a"]
        queries = [request.target.partition("?")[2] for request in stage.requests]
        # `resume` is not asked before the first response.
        assert queries == ["n=a", "n=a", "n=b", "n=c"]
        assert not hasattr(source, "next_retry_delay")
    assert not {"logger", "connect"} & OPTIONS.keys()
    with sse_fast.iter_events([b"data: 1\n\n"]) as events:
        assert [event.data for event in events] == ["1"]
        assert list(events) == []
