"""The differences of docs/migrating.md that several of the libraries have in common."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from functools import partial
from importlib import import_module
from typing import Any

import aiohttp
import aiohttp_sse_client.client as sse_client
import httpx
import pytest
import requests
import requests_sse
import urllib3
from ld_eventsource import SSEClient
from ld_eventsource.config import ConnectStrategy

import sse_fast
from sse_fast import (
    AsyncEventSource,
    EndReason,
    EventSource,
    EventTooLarge,
    ReconnectPolicy,
    ResponseError,
    SSEError,
    StreamIncomplete,
)
from tests.support.migrating import (
    ALL,
    BOTH,
    BUSY,
    CONTINUE,
    CUT,
    EACH,
    NO,
    OPTIONS,
    PARSERS,
    READERS,
    TWO,
    EnoughError,
    Outcome,
    Waits,
    read,
    read_launchdarkly,
    read_ours,
    read_requests,
    run,
    shows,
    wait_until,
)
from tests.support.migrating import responses as responses
from tests.support.migrating import waits as waits
from tests.support.scripted_server import Play, Stage, serve_stage, stream
from tests.support.server import nobody

BOM = b"\xef\xbb\xbf"

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
    assert (OPTIONS["connect_timeout"].default, OPTIONS["idle_timeout"].default) == (10, 300)
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
    assert OPTIONS["max_event_size"].default == 16 * 2**20


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
    busy = run(ours, BUSY, stream(), **post, **body)
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


# -- What differs from the parsers -----------------------------------------------------------------


def parse(package: str, module: str, body: bytes) -> list[str]:
    """The data of the events; `package`: "", or where ours are."""
    library = import_module(f"{package}{module}")
    if module == "sseclient":
        return [event.data for event in library.SSEClient([body]).events()]
    response = httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=body)
    return [event.data for event in library.EventSource(response).iter_sse()]


@shows("A byte order mark", *PARSERS)
@pytest.mark.parametrize("module", ["httpx_sse", "sseclient"])
def test_a_byte_order_mark_of_a_parser(module: str) -> None:
    body = BOM + b"data: 1\n\ndata: 2\n\n"
    assert parse("", module, body) == ["2"]
    assert parse("sse_fast.compat.", module, body) == ["1", "2"]
