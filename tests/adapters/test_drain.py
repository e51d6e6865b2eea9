"""After `until`, a body that ends soon is read to its end, and its connection serves again."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection
from typing import Any

import anyio
import anyio.to_thread
import pytest

from sse_fast import (
    EndReason,
    ReconnectPolicy,
    aiter_events,
    aopen_stream,
    iter_events,
    open_stream,
)
from sse_fast._wake import adrain
from tests.support.clients import (
    AOPENERS,
    ASESSIONS,
    OPENERS,
    READERS,
    SESSIONS,
    wait_until,
)
from tests.support.eventsources import SOURCES, Way
from tests.support.faults import CHUNKED, LEFT, FaultServer, chunk
from tests.support.server import Answer, Server

DONE = b"data: a\n\ndata: [DONE]\n\n"
# The connection could serve another request, so the client waits for the rest of the body.
KEPT_ALIVE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
)
SILENT = [KEPT_ALIVE + chunk(DONE), LEFT]
SOON = 1.0
POOLED = [name for name in SESSIONS if name not in ("http.client", "urllib.request")]


@pytest.fixture
def slow_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a drain last long: a busy machine may be late, and a test notices one that hangs."""
    monkeypatch.setattr("sse_fast._wake._DRAIN_SECONDS", 20.0)


def trickle() -> Iterator[Any]:
    """A body that goes on for much longer than the drain."""
    yield KEPT_ALIVE + chunk(DONE)
    for _ in range(3000):
        yield chunk(b": more\n\n")
        yield 0.001


# -- A body that ends ------------------------------------------------------------------------------


# The end comes after the events, so that it has to be waited for.
ENDINGS = {
    "end alone": Answer([DONE], keep_alive=True),
    "end after a pause": Answer([DONE, b": bye\n\n"], delay=0.01, keep_alive=True),
    "more events": Answer([DONE, b"data: b\n\n" * 1000], keep_alive=True),
    "gzip": Answer([DONE, b": bye\n\n"], gzip=True, keep_alive=True),
    "length": Answer([DONE, b": bye\n\n"], "length", delay=0.01, keep_alive=True),
}


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", POOLED)
def test_until_reuses_connection(name: str, ending: str, server: Server) -> None:
    server.answers["/"] = ENDINGS[ending]
    with SESSIONS[name]() as get:
        for _ in range(3):
            stream = iter_events(get(server.url + "/"), until="[DONE]")
            assert [event.data for event in stream] == ["a"]
            assert stream.end_reason is EndReason.UNTIL
    assert len({request.client for request in server.requests}) == 1


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize("ending", [ending for ending in ENDINGS if ending != "gzip"])
def test_until_reuses_connection_of_http_client(ending: str, server: Server) -> None:
    server.answers["/"] = ENDINGS[ending]
    connection = HTTPConnection(server.url.removeprefix("http://"))
    for _ in range(3):
        connection.request("GET", "/")
        stream = iter_events(connection.getresponse(), until="[DONE]")
        assert [event.data for event in stream] == ["a"]
    connection.close()
    assert len({request.client for request in server.requests}) == 1


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ASESSIONS)
def test_until_reuses_connection_async(name: str, ending: str, server: Server) -> None:
    server.answers["/"] = ENDINGS[ending]

    async def run() -> None:
        async with ASESSIONS[name]() as get:
            for _ in range(3):
                stream = aiter_events(await get(server.url + "/"), until="[DONE]")
                assert [event.data async for event in stream] == ["a"]
                assert stream.end_reason is EndReason.UNTIL

    asyncio.run(run())
    assert len({request.client for request in server.requests}) == 1


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize("name", [name for name in ASESSIONS if name.startswith("httpx")])
def test_until_reuses_connection_under_trio(name: str, server: Server) -> None:
    server.answers["/"] = ENDINGS["end after a pause"]

    async def run() -> None:
        async with ASESSIONS[name]() as get:
            for _ in range(2):
                stream = aiter_events(await get(server.url + "/"), until="[DONE]")
                assert [event.data async for event in stream] == ["a"]

    anyio.run(run, backend="trio")
    assert len({request.client for request in server.requests}) == 1


# -- A body that does not end ----------------------------------------------------------------------


@pytest.mark.parametrize("script", ["silent", "endless"])
@pytest.mark.parametrize("name", OPENERS)
def test_until_closes_body_that_does_not_end(name: str, script: str, faults: FaultServer) -> None:
    faults.scripts["/"] = SILENT if script == "silent" else trickle()
    with OPENERS[name](faults.url + "/") as response:
        began = time.monotonic()
        assert [event.data for event in iter_events(response, until="[DONE]")] == ["a"]
        assert time.monotonic() - began < SOON
        wait_until(lambda: not faults.playing, SOON)


@pytest.mark.parametrize("script", ["silent", "endless"])
@pytest.mark.parametrize("name", AOPENERS)
def test_until_closes_body_that_does_not_end_async(
    name: str, script: str, faults: FaultServer
) -> None:
    faults.scripts["/"] = SILENT if script == "silent" else trickle()

    async def run() -> None:
        async with AOPENERS[name](faults.url + "/") as response:
            began = time.monotonic()
            stream = aiter_events(response, until="[DONE]")
            assert [event.data async for event in stream] == ["a"]
            assert time.monotonic() - began < SOON
            await anyio.to_thread.run_sync(wait_until, lambda: not faults.playing, SOON)

    asyncio.run(run())


def test_until_body_that_breaks_off_is_no_error(faults: FaultServer) -> None:
    faults.scripts["/"] = [KEPT_ALIVE + chunk(DONE) + b"zz\r\n"]
    with OPENERS["requests"](faults.url + "/") as response:
        stream = iter_events(response, until="[DONE]")
        assert [event.data for event in stream] == ["a"]
        assert stream.end_reason is EndReason.UNTIL


# -- A wait that is ended --------------------------------------------------------------------------


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize("name", OPENERS)
def test_close_ends_drain_of_another_thread(name: str, faults: FaultServer) -> None:
    faults.scripts["/"] = SILENT
    with OPENERS[name](faults.url + "/") as response:
        stream = iter_events(response, until="[DONE]")
        thread = threading.Thread(target=lambda: list(stream))
        thread.start()
        wait_until(lambda: stream.end_reason is EndReason.UNTIL and stream.is_being_read)
        began = time.monotonic()
        stream.close()
        thread.join(SOON)
        assert not thread.is_alive()
        assert time.monotonic() - began < SOON
        wait_until(lambda: not faults.playing, SOON)


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize("name", AOPENERS)
@pytest.mark.parametrize("way", ["aclose", "cancel"])
def test_drain_ends_with_aclose_or_cancellation(name: str, way: str, faults: FaultServer) -> None:
    faults.scripts["/"] = SILENT

    async def run() -> None:
        async with AOPENERS[name](faults.url + "/") as response:
            stream = aiter_events(response, until="[DONE]")
            assert (await anext(stream)).data == "a"
            reader = asyncio.create_task(anext(stream, None))
            while not (stream.end_reason is EndReason.UNTIL and stream.is_being_read):
                await asyncio.sleep(0.001)
            if way == "aclose":
                await stream.aclose()
                assert await asyncio.wait_for(reader, SOON) is None
            else:
                reader.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await reader
            await anyio.to_thread.run_sync(wait_until, lambda: not faults.playing, SOON)

    asyncio.run(run())


# -- Connections that would not be used again ------------------------------------------------------


@pytest.mark.usefixtures("slow_drain")
def test_until_of_own_transport_does_not_wait(faults: FaultServer) -> None:
    faults.scripts["/"] = SILENT

    async def run() -> None:
        async with aopen_stream(faults.url + "/", until="[DONE]") as stream:
            assert [event.data async for event in stream] == ["a"]

    began = time.monotonic()
    assert [event.data for event in open_stream(faults.url + "/", until="[DONE]")] == ["a"]
    asyncio.run(run())
    assert time.monotonic() - began < SOON


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize(
    "head",
    [
        f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{CHUNKED}\r\nConnection: close",
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream",
    ],
    ids=["close", "until the end"],
)
@pytest.mark.parametrize("name", ["requests", "aiohttp"])
def test_until_does_not_wait_for_connection_that_closes(
    name: str, head: str, faults: FaultServer
) -> None:
    body = chunk(DONE) if CHUNKED in head else DONE
    faults.scripts["/"] = [f"{head}\r\n\r\n".encode() + body, LEFT]
    began = time.monotonic()
    outcome = READERS[name].read(faults.url + "/", options={"until": "[DONE]"})
    assert time.monotonic() - began < SOON
    assert [event.data for event in outcome.events] == ["a"]
    assert outcome.stream.end_reason is EndReason.UNTIL


def test_adrain_of_chunks_without_suspension_is_bounded() -> None:
    """A library may yield the chunks of one read without ever suspending."""
    count = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal count
        # Bounded, as a drain without a limit would go on.
        while count < 20_000_000:
            count += 1
            yield b": more\n\n"

    asyncio.run(adrain(flood()))
    assert 0 < count < 20_000_000


# -- The body of a redirect ------------------------------------------------------------------------

MOVED = Answer([b"moved\n"], "length", 302, {"Location": "/events"}, keep_alive=True)


@pytest.mark.usefixtures("slow_drain")
@pytest.mark.parametrize("way", [way for way in SOURCES.values() if way.has_client], ids=str)
def test_redirect_reuses_connection(way: Way, server: Server) -> None:
    server.answers |= {"/": MOVED, "/events": Answer([b"data: a\n\n"])}
    outcome = way.read(server.url + "/", policy=ReconnectPolicy.never())
    assert [event.data for event in outcome.events] == ["a"]
    assert len({request.client for request in server.requests[:2]}) == 1
