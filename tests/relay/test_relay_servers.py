"""The endpoints of docs/guides/relaying.md under uvicorn, with clients that leave."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import httpx
import pytest

import sse_fast
from tests.support.clients import UNREAD_UNDER_TRIO
from tests.support.pages import blocks
from tests.support.relaying import (
    AppServer,
    descriptors,
    downstream,
    receive_until,
    relay_threads,
    serve_aiohttp,
    serve_app,
    serve_wsgi,
    wait_until,
)
from tests.support.scripted_server import Play, Request, Stage, serve_stage, stream

FASTAPI, STARLETTE, AIOHTTP, WSGI, SYNC, GENERATOR = blocks("docs/guides/relaying.md", "python")
POLICY = sse_fast.ReconnectPolicy(min_delay=0, initial_delay=0.01, max_delay=0.01)
ENDPOINTS = {
    "FastAPI": FASTAPI,
    "FastAPI without async": SYNC,
    "aiohttp": AIOHTTP,
    "WSGI": WSGI,
}
SERVERS: dict[str, Any] = {"aiohttp": serve_aiohttp, "WSGI": serve_wsgi}
SOME_ENDPOINTS = [
    pytest.param(name, marks=[pytest.mark.matrix] if name in SERVERS else []) for name in ENDPOINTS
]


@contextmanager
def relaying(name: str, stage: Stage, heartbeat: float = 0.05) -> Iterator[AppServer]:
    """Serve an endpoint of the page with short heartbeats; nothing may be left at the end."""
    block = ENDPOINTS[name]
    code = block.code.replace("sse_fast.relay(source)", "sse_fast.relay(source, heartbeat=5)")
    assert "heartbeat=5" in code
    code = code.replace("heartbeat=5", f"heartbeat={heartbeat}")
    code, count = re.subn(r'EventSource\(\s*"', 'EventSource(policy=POLICY, url="', code)
    assert count == 1
    app = block._replace(code=code).run(stage.origin, POLICY=POLICY)["app"]
    with SERVERS.get(name, serve_app)(app) as server:
        tasks, before = server.tasks(), descriptors()
        yield server
        assert wait_until(lambda: stage.open == 0), "an upstream connection is left"
        assert wait_until(lambda: server.tasks() == tasks), "a task is left"
        assert wait_until(lambda: relay_threads() == 0), "a thread is left"
        assert wait_until(lambda: descriptors() <= before), "a descriptor is left"


@pytest.mark.parametrize("name", ENDPOINTS)
def test_endpoint_client_leaves_in_a_wait(name: str, no_gc: None) -> None:
    plays = lambda *_: Play(body=[b"id: 1\ndata: a\n\n"], framing="chunked", end="hang")  # noqa: E731
    with serve_stage(plays) as stage, relaying(name, stage) as server:
        for _ in range(3):
            with downstream(server.origin, "/events") as client:
                receive_until(client, b"id: 1\ndata: a\n\n")
                receive_until(client, b"\n:\n\n")
                assert stage.open == 1
            assert wait_until(lambda: stage.open == 0)


@pytest.mark.parametrize("name", SOME_ENDPOINTS)
def test_endpoint_client_leaves_before_an_event(name: str, no_gc: None) -> None:
    plays = lambda *_: Play(body=[], framing="chunked", end="hang")  # noqa: E731
    with serve_stage(plays) as stage, relaying(name, stage) as server:
        with downstream(server.origin, "/events"):
            assert wait_until(lambda: stage.open == 1)
        assert wait_until(lambda: stage.open == 0)


@pytest.mark.parametrize("name", SOME_ENDPOINTS)
def test_endpoint_client_leaves_during_send(name: str, no_gc: None) -> None:
    """The client reads nothing, until neither the server nor the upstream can send."""
    flood = [b"data: %b\n\n" % (b"x" * 2**20)] * 24
    plays = lambda *_: Play(body=flood, framing="chunked", end="hang")  # noqa: E731
    with serve_stage(plays) as stage, relaying(name, stage) as server:
        with downstream(server.origin, "/events", receive_buffer=4096) as client:
            receive_until(client, b"data: xx")
            sent = stage.requests[0]
            time.sleep(0.3)
            assert stage.open == 1
            assert sent.ended is None
        assert wait_until(lambda: stage.open == 0)


class Restarting:
    """An upstream that counts, stalls, dies and comes back; it resumes after Last-Event-ID."""

    def __init__(self, last: int) -> None:
        self.last = last

    def __call__(self, number: int, request: Request) -> Play:
        after = int(request.get("Last-Event-ID") or b"0")
        if after >= self.last:
            return Play(status=204, fields=())
        events = [
            b"id: %d\nevent: count\ndata: %d\n\n" % (at, at)
            for at in range(after + 1, min(after + 4, self.last + 1))
        ]
        head = b"retry: 0\n\n"
        if number % 3 == 0:
            # It stalls for longer than a heartbeat, and dies within an event.
            return Play(
                body=[head, *events, b"id: 999\ndata: 9"], framing="chunked-truncated", delay=60
            )
        if number % 3 == 1:
            return Play(body=[head, *events], framing="chunked", end="rst")
        return stream(head, *events)


@pytest.mark.parametrize("name", SOME_ENDPOINTS)
def test_endpoint_upstream_dies_and_comes_back(name: str) -> None:
    """No event is lost or comes twice, and comments fill the pauses."""
    last = 20
    with serve_stage(Restarting(last)) as stage, relaying(name, stage) as server:
        comments: list[str] = []
        url = f"{server.origin}/events"
        with sse_fast.open_stream(url, on_comment=comments.append) as events:
            received = [(event.event, event.data, event.id) for event in events]
        assert events.end_reason is sse_fast.EndReason.END
    assert received == [("count", str(at), str(at)) for at in range(1, last + 1)]
    assert comments


def test_endpoint_client_resumes_from_its_last_event() -> None:
    """A client that loses its connection to the relay loses no event, whatever its id."""
    ids = ["é☃", "2"]

    def plays(number: int, request: Request) -> Play:
        after = request.get("Last-Event-ID")
        at = 0 if after is None else ids.index(after.decode()) + 1
        if at == len(ids):
            return Play(status=204, fields=())
        body = f"retry: 0\nid: {ids[at]}\ndata: {at}\n\n".encode()
        return Play(body=[body], framing="chunked", end="hang")

    with serve_stage(plays) as stage, relaying("FastAPI", stage) as server:
        received = []
        resume_from = ""
        for _ in ids:
            with sse_fast.EventSource(
                f"{server.origin}/events", last_event_id=resume_from
            ) as source:
                event = next(source)
                received.append(event.data)
                resume_from = event.id
        assert (received, resume_from) == (["0", "1"], "2")
        assert stage.sent() == [None, *ids[:1]]


def test_endpoint_refused_upstream_is_bad_gateway(stage: Stage) -> None:
    stage.plays = [Play(status=403, fields=[], body=[b"no"], framing="length")]
    with relaying("FastAPI", stage) as server, pytest.raises(sse_fast.ResponseError) as caught:
        sse_fast.open_stream(f"{server.origin}/events")
    assert caught.value.response.status == 502


def test_endpoint_upstream_error_aborts_the_response(stage: Stage) -> None:
    """The events before it arrive, and the client sees that the stream was cut off."""
    stage.plays = [
        stream(b"retry: 0\nid: 1\ndata: a\n\n"),
        Play(status=403, fields=[], body=[b"no"], framing="length"),
    ]
    with relaying("FastAPI", stage) as server:
        events = sse_fast.open_stream(f"{server.origin}/events")
        assert next(events).data == "a"
        with pytest.raises(sse_fast.TransportError):
            next(events)


def test_starlette_endpoint_passes_an_answer_on(stage: Stage) -> None:
    body = b'data: {"a": 1}\n\n: wait\n\ndata: [DONE]\n\n'
    stage.plays = [
        stream(body),
        Play(
            status=429,
            fields=[("Content-Type", "application/json")],
            body=[b'{"error": "quota"}'],
            framing="length",
        ),
    ]
    names = STARLETTE.run(stage.origin)
    with serve_app(names["app"]) as server:
        url = f"{server.origin}/complete"
        with sse_fast.open_stream(url, method="POST", json={"stream": True}) as events:
            assert [event.data for event in events] == ['{"a": 1}', "[DONE]"]
        assert stage.requests[0].body == b'{"stream": true}'
        with pytest.raises(sse_fast.ResponseError) as caught:
            sse_fast.open_stream(url, method="POST", json={})
        assert caught.value.response.status == 429
        assert caught.value.response.body == b'{"error": "quota"}'
        close_client(server, names["client"])


def close_client(server: AppServer, client: Any) -> None:
    asyncio.run_coroutine_threadsafe(client.aclose(), server.loop).result(8)


def test_starlette_endpoint_client_leaves(stage: Stage, no_gc: None) -> None:
    stage.plays = [Play(body=[b"data: 1\n\n"], framing="chunked", end="hang")]
    names = STARLETTE.run(stage.origin)
    with serve_app(names["app"]) as server:
        host, _, port = server.origin.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), 8) as client:
            client.sendall(b"POST /complete HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}")
            receive_until(client, b"data: 1\n\n")
        assert wait_until(lambda: stage.open == 0)
        close_client(server, names["client"])


def test_generator_block_changes_events(capsys: pytest.CaptureFixture[str]) -> None:
    GENERATOR.run("")
    assert capsys.readouterr().out == "id: 2\ndata: HELLO\n\n"


def test_many_clients_come_and_go() -> None:
    """Some seconds of a proxy's life; the soak test has its ten minutes."""
    last = 8
    failures: list[object] = []
    with serve_stage(Restarting(last)) as stage, relaying("FastAPI", stage) as server:

        def visit(number: int) -> None:
            try:
                received = []
                with sse_fast.open_stream(f"{server.origin}/events") as events:
                    for event in events:
                        received.append(int(event.data))
                        if number % 2 and len(received) == 4:
                            return
                assert received == list(range(1, last + 1))
            except BaseException as error:
                failures.append(error)

        for _ in range(2):
            visitors = [threading.Thread(target=visit, args=(number,)) for number in range(8)]
            for visitor in visitors:
                visitor.start()
            for visitor in visitors:
                visitor.join(20)
    assert not failures


# -- Over every library ----------------------------------------------------------------------------


def test_sync_relay_over_library_keeps_its_connection(opener: Any, stage: Stage) -> None:
    """Comments cancel no read: the stream goes on over the connection that it has."""
    go_on = threading.Event()
    stage.plays = [Play(body=[b"id: 1\ndata: a\n\n", go_on, b"data: b\n\n"], framing="chunked")]
    with opener(stage.url) as response:
        relayed = sse_fast.relay(sse_fast.iter_events(response), heartbeat=0.02)
        received: list[bytes] = []
        while not has_waited(received):
            received.append(next(relayed))
        go_on.set()
        received += list(relayed)
    check_relayed(received, stage)


def test_async_relay_over_library_keeps_its_connection(aopener: Any, stage: Stage) -> None:
    go_on = threading.Event()
    stage.plays = [Play(body=[b"id: 1\ndata: a\n\n", go_on, b"data: b\n\n"], framing="chunked")]

    async def main() -> list[bytes]:
        async with aopener(stage.url) as response:
            relayed = sse_fast.relay(sse_fast.aiter_events(response), heartbeat=0.02)
            received: list[bytes] = []
            while not has_waited(received):
                received.append(await relayed.__anext__())
            go_on.set()
            return received + [part async for part in relayed]

    check_relayed(asyncio.run(main()), stage)


def has_waited(received: list[bytes]) -> bool:
    """Whether two comments came after the event."""
    return received[-2:] == [b":\n\n"] * 2 and b"id: 1\ndata: a\n\n" in received


def check_relayed(received: list[bytes], stage: Stage) -> None:
    assert [part for part in received if part != b":\n\n"] == [
        b"id: 1\ndata: a\n\n",
        b"id: 1\ndata: b\n\n",
    ]
    assert len(stage.requests) == 1
    assert wait_until(lambda: stage.open == 0)


def test_sync_relay_over_library_closed_in_a_wait(opener: Any, stage: Stage) -> None:
    """Its thread is woken, and closes the connection."""
    stage.plays = [Play(body=[b"data: a\n\n"], framing="chunked", end="hang")]
    with opener(stage.url) as response:
        relayed = sse_fast.relay(sse_fast.iter_events(response), heartbeat=0.02)
        while next(relayed) != b"data: a\n\n":
            pass
        assert next(relayed) == b":\n\n"
        relayed.close()
        assert wait_until(lambda: relay_threads() == 0)
    assert wait_until(lambda: stage.open == 0)


def test_sync_relay_of_a_generator_ends_with_its_stream(stage: Stage) -> None:
    """Nothing else can wake a generator that waits for a quiet stream."""
    stage.plays = [Play(body=[b"data: a\n\n"], framing="chunked", end="hang")]
    source = sse_fast.EventSource(stage.url)

    def read() -> Iterator[sse_fast.Event[str]]:
        with source as events:
            yield from events

    relayed = sse_fast.relay(read(), heartbeat=0.02)
    while next(relayed) != b"data: a\n\n":
        pass
    assert next(relayed) == b":\n\n"
    relayed.close()
    source.close()
    assert wait_until(lambda: relay_threads() == 0)
    assert wait_until(lambda: stage.open == 0)


def test_async_relay_over_library_closed_in_a_wait(aopener: Any, stage: Stage) -> None:
    stage.plays = [Play(body=[b"data: a\n\n"], framing="chunked", end="hang")]

    async def main() -> None:
        async with aopener(stage.url) as response:
            relayed = sse_fast.relay(sse_fast.aiter_events(response), heartbeat=0.02)
            while await relayed.__anext__() != b"data: a\n\n":
                pass
            assert await relayed.__anext__() == b":\n\n"
            await relayed.aclose()
            assert await asyncio.to_thread(wait_until, lambda: stage.open == 0)
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


@UNREAD_UNDER_TRIO
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_relay_of_a_source_over_httpx(backend: str, stage: Stage) -> None:
    """Comments and a cancelled wait, on both of its event loops."""
    quiet = Play(body=[b"retry: 0\n\ndata: a\n\n"], framing="chunked", end="hang")
    stage.plays = [quiet, quiet]

    async def main() -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            for leaves_by_cancellation in (True, False):
                source = sse_fast.AsyncEventSource(stage.url, client=client, policy=POLICY)
                relayed = sse_fast.relay(source, heartbeat=0.05)
                parts: set[bytes] = set()
                while len(parts) < 2:
                    parts.add(await relayed.__anext__())
                if leaves_by_cancellation:
                    with anyio.move_on_after(0.005):
                        await relayed.__anext__()
                else:
                    await relayed.aclose()
                assert await anyio.to_thread.run_sync(wait_until, lambda: stage.open == 0)
                assert source.end_reason is sse_fast.EndReason.CLOSED

    anyio.run(main, backend=backend)
    assert len(stage.requests) == 2
