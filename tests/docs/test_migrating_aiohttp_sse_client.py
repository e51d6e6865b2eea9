"""The differences of docs/migrating.md from aiohttp-sse-client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import aiohttp_sse_client.client as sse_client
import pytest

from sse_fast import AsyncEventSource, ReadyState, ResponseError
from tests.support.migrating import (
    CUT,
    GONE,
    NO,
    NUL,
    RESET,
    UNFINISHED,
    Outcome,
    Waits,
    aread_ours,
    goes_on_asking,
    read,
    read_aiohttp,
    run,
    shows,
    wait_until,
)
from tests.support.migrating import responses as responses
from tests.support.migrating import waits as waits
from tests.support.scripted_server import Play, serve_stage, stream
from tests.support.server import nobody


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
