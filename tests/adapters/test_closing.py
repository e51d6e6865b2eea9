"""The connection is released however the stream ends."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from http.client import HTTPConnection
from typing import Any

import anyio
import anyio.to_thread
import pytest
import urllib3

import sse_fast
from sse_fast import EndReason, aiter_events, iter_events
from sse_fast._wake import make_waker
from sse_fast.adapters import open_source, sockets
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import (
    AOPENERS,
    ASESSIONS,
    HTTPX,
    OPENERS,
    READERS,
    SESSIONS,
    TIMEOUT,
    Reader,
    tls,
    wait_until,
)
from tests.support.faults import CHUNKED, LEFT, FaultServer, chunk, head
from tests.support.server import Answer, Server

BLOCKING = [name for name, reader in READERS.items() if reader.backend is None]
# httpx and httpx2 leave their generators to the garbage collector, and trio warns about that.
OF_TRIO = pytest.mark.filterwarnings(
    "ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"
)
AWAITING = [
    pytest.param(name, marks=OF_TRIO) if reader.backend == "trio" else name
    for name, reader in READERS.items()
    if reader.backend is not None
]
# One event, and then nothing until the client has left, which the server checks.
QUIET = [head(CHUNKED) + chunk(b"data: a\n\n"), LEFT]
SOON = 1.0  # seconds; the timeouts of the libraries are ten times as long


# -- Another thread, another task ------------------------------------------------------------------


def time_to_wake(reader: Reader, url: str, **options: Any) -> float:
    """Return the seconds from close() to the end of the loop in another thread."""
    ended: list[float] = []

    def use(stream: Any) -> float:
        def read() -> None:
            seen.extend(event.data for event in stream)
            ended.append(time.monotonic())

        seen: list[str] = []
        thread = threading.Thread(target=read)
        thread.start()
        wait_until(lambda: seen and stream.is_being_read)
        # is_being_read is set just before the read blocks.
        time.sleep(0.01)
        closed = time.monotonic()
        stream.close()
        # close() does not wait for the reader.
        assert time.monotonic() - closed < SOON
        thread.join(2 * TIMEOUT)
        assert seen == ["a"]
        assert stream.end_reason is EndReason.CLOSED
        assert list(stream) == []
        return ended[0] - closed

    taken: float = reader.run(use, url, **options)
    return taken


@pytest.mark.parametrize("name", BLOCKING)
def test_close_wakes_reader_in_another_thread(name: str, faults: FaultServer) -> None:
    for script in (QUIET, [head() + b"data: a\n\n", LEFT]):
        faults.scripts["/"] = script
        assert time_to_wake(READERS[name], faults.url + "/") < SOON


@pytest.mark.parametrize("name", BLOCKING)
def test_close_wakes_reader_over_tls(name: str, hypercorn_server: AsgiServer) -> None:
    hold = threading.Event()
    hypercorn_server.answers["/"] = AsgiAnswer([b"data: a\n\n", hold])
    url = hypercorn_server.url + "/"
    assert time_to_wake(READERS[name], url, ca=hypercorn_server.ca) < SOON
    hold.set()


@pytest.mark.parametrize("name", AWAITING)
def test_aclose_wakes_reader_in_another_task(name: str, faults: FaultServer) -> None:
    async def use(stream: Any) -> None:
        seen: list[str] = []

        async def read() -> None:
            async for event in stream:
                seen.append(event.data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            while not (seen and stream.is_being_read):
                await anyio.sleep(0.001)
            await anyio.sleep(0.01)
            with anyio.fail_after(SOON):
                await stream.aclose()
                tasks.cancel_scope.deadline = anyio.current_time() + SOON
        assert seen == ["a"]
        assert stream.end_reason is EndReason.CLOSED
        assert not tasks.cancel_scope.cancelled_caught

    faults.scripts["/"] = QUIET
    READERS[name].run(use, faults.url + "/")


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_close_spares_other_http2_streams(module: Any, hypercorn_server: AsgiServer) -> None:
    """close() does not shut down a shared connection; the reader notices at its next byte."""
    go, goes_on = threading.Event(), threading.Event()
    hypercorn_server.answers["/1"] = AsgiAnswer([b"data: a\n\n", go, b":\n\n"])
    hypercorn_server.answers["/2"] = AsgiAnswer([b"data: b\n\n", goes_on, b"data: c\n\n"])
    url = hypercorn_server.url
    with (
        module.Client(
            http2=True, verify=tls(hypercorn_server.ca), timeout=TIMEOUT, trust_env=False
        ) as client,
        client.stream("GET", url + "/1") as one,
        client.stream("GET", url + "/2") as two,
    ):
        assert one.http_version == "HTTP/2"
        first, second = iter_events(one), iter_events(two)
        assert [next(first).data, next(second).data] == ["a", "b"]
        thread = threading.Thread(target=lambda: list(first))
        thread.start()
        wait_until(lambda: first.is_being_read)
        first.close()
        go.set()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        assert first.end_reason is EndReason.CLOSED
        goes_on.set()
        assert [event.data for event in second] == ["c"]
        assert second.end_reason is EndReason.END


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_refused_response_spares_http2_streams(
    module: Any, hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounding the time to read its body does not end the other streams."""
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 0.5)
    hold, goes_on = threading.Event(), threading.Event()
    hypercorn_server.answers["/1"] = AsgiAnswer([b"data: a\n\n", goes_on, b"data: b\n\n"])
    hypercorn_server.answers["/2"] = AsgiAnswer([b"begun", hold], 500)
    url = hypercorn_server.url
    with (
        module.Client(
            http2=True, verify=tls(hypercorn_server.ca), timeout=TIMEOUT, trust_env=False
        ) as client,
        client.stream("GET", url + "/1") as one,
        client.stream("GET", url + "/2") as two,
    ):
        stream = iter_events(one)
        assert next(stream).data == "a"
        with pytest.raises(sse_fast.ResponseError) as caught:
            iter_events(two)
        assert caught.value.response.body == b"begun"
        # Longer than the bound.
        time.sleep(0.6)
        hold.set()
        goes_on.set()
        assert [event.data for event in stream] == ["b"]


def test_waker_of_socket_with_only_a_descriptor() -> None:
    """The sockets of uvloop are such."""

    class Shown:
        def fileno(self) -> int:
            return near.fileno()

        def shutdown(self, how: int) -> None:
            raise TypeError("not supported")

    near, far = socket.socketpair()
    with near, far:
        far.settimeout(5)
        make_waker(Shown())()
        assert far.recv(1) == b""


def test_source_without_socket_has_no_waker() -> None:
    """Reading a refused body is then bounded in another way."""
    response = urllib3.HTTPResponse(io.BytesIO(b"data: a\n\n"), preload_content=False)
    assert open_source(response).wake is None


@pytest.mark.parametrize("name", ["requests", "urllib3", *(module.__name__ for module in HTTPX)])
def test_wake_after_the_end_spares_pooled_connection(name: str, server: Server) -> None:
    """The connection is back in its pool by then."""
    server.answers["/"] = Answer([b"data: a\n\n"], keep_alive=True)
    with SESSIONS[name]() as get:
        opened = open_source(get(server.url + "/"))
        stream = iter_events(opened)
        assert len(list(stream)) == 1
        assert opened.wake is not None
        opened.wake()
        assert len(list(iter_events(get(server.url + "/")))) == 1
    assert len({request.client for request in server.requests}) == 1


# -- Every way to end, while the library's own context stays open ----------------------------------


def leave(stream: Any) -> None:
    with stream:
        next(stream)


def close(stream: Any) -> None:
    next(stream)
    stream.close()


def fail(stream: Any) -> None:
    with pytest.raises(sse_fast.EventTooLarge):
        list(stream)


def forget(stream: Any) -> None:
    for _ in stream:
        break


def meet_until(stream: Any) -> None:
    assert len(list(stream)) == 1


WAYS: dict[str, tuple[Callable[[Any], None], dict[str, Any]]] = {
    "with": (leave, {}),
    "close": (close, {}),
    "error": (fail, {"max_event_size": 1}),
    "forget": (forget, {}),
    "until": (meet_until, {"until": lambda event: True}),
}


async def aleave(stream: Any) -> None:
    async with stream:
        await anext(stream)


async def aclose(stream: Any) -> None:
    await anext(stream)
    await stream.aclose()


async def afail(stream: Any) -> None:
    with pytest.raises(sse_fast.EventTooLarge):
        await anext(stream)


async def acancel(stream: Any) -> None:
    async with stream:
        await anext(stream)
        with anyio.move_on_after(0.02) as scope:
            await anext(stream)
        assert scope.cancelled_caught


ASYNC_WAYS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
    "async with": (aleave, {}),
    "aclose": (aclose, {}),
    "error": (afail, {"max_event_size": 1}),
    "cancel": (acancel, {}),
}


def assert_left(faults: FaultServer) -> None:
    """The server has seen the client leave."""
    deadline = time.monotonic() + SOON
    while faults.playing and time.monotonic() < deadline:
        time.sleep(0.001)
    assert not faults.playing


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [*OPENERS, "sse_fast"])
def test_connection_released_however_stream_ends(name: str, way: str, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET
    go, options = WAYS[way]
    if name == "sse_fast":
        go(sockets.open_stream(faults.url + "/", **options))
        assert_left(faults)
        return
    with OPENERS[name](faults.url + "/") as response:
        go(iter_events(response, **options))
        assert_left(faults)


@pytest.mark.parametrize("way", ASYNC_WAYS)
@pytest.mark.parametrize("name", AWAITING)
def test_connection_released_however_it_ends_async(
    name: str, way: str, faults: FaultServer
) -> None:
    faults.scripts["/"] = QUIET
    go, options = ASYNC_WAYS[way]
    reader = READERS[name]

    async def run() -> None:
        if name == "sse_fast asyncio":
            await go(sockets.aopen_stream(faults.url + "/", **options))
            await anyio.to_thread.run_sync(assert_left, faults)
            return
        opener = AOPENERS["aiohttp" if name == "aiohttp" else f"{name.split()[0]} async"]
        async with opener(faults.url + "/") as response:
            await go(aiter_events(response, **options))
            await anyio.to_thread.run_sync(assert_left, faults)

    anyio.run(run, backend=reader.backend or "asyncio")
    gc.collect()


def test_close_shuts_down_keep_alive_of_http_client(faults: FaultServer) -> None:
    """The HTTPConnection keeps the socket, and yet the server sees that nobody reads."""
    kept = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    faults.scripts["/"] = [kept + chunk(b"data: a\n\n"), LEFT]
    connection = HTTPConnection(faults.url.removeprefix("http://"))
    connection.request("GET", "/")
    leave(iter_events(connection.getresponse()))
    assert_left(faults)
    connection.close()


def test_http_client_connection_reused_after_end(server: Server) -> None:
    connection = HTTPConnection(server.url.removeprefix("http://"))
    for framing in ("chunked", "length"):
        server.answers["/"] = Answer([b"data: a\n\n"], framing, keep_alive=True)
        for _ in range(2):
            connection.request("GET", "/")
            assert len(list(iter_events(connection.getresponse()))) == 1
    assert len({request.client for request in server.requests}) == 1
    connection.close()


@pytest.mark.parametrize(
    ("method", "status", "framing"),
    [("GET", 204, "none"), ("GET", 200, "length"), ("HEAD", 200, "length")],
)
def test_http_client_connection_reused_without_body(
    server: Server, method: str, status: int, framing: str
) -> None:
    server.answers["/"] = Answer([], framing, status, keep_alive=True)
    connection = HTTPConnection(server.url.removeprefix("http://"))
    for _ in range(2):
        connection.request(method, "/")
        with iter_events(connection.getresponse(), check=False) as events:
            assert list(events) == []
    assert len({request.client for request in server.requests}) == 1
    connection.close()


@pytest.mark.parametrize("name", ["requests", "urllib3", *(module.__name__ for module in HTTPX)])
def test_connection_reused_after_no_content(name: str, server: Server) -> None:
    server.answers["/"] = Answer([], "none", 204, {}, keep_alive=True)
    with SESSIONS[name]() as get:
        for _ in range(3):
            assert iter_events(get(server.url + "/")).end_reason is EndReason.NO_CONTENT
    assert len({request.client for request in server.requests}) == 1


# -- Many streams ----------------------------------------------------------------------------------

MANY = 1000


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def what_is_left(before: tuple[int, int], faults: FaultServer) -> list[int]:
    """Return the surplus of descriptors and threads, and the clients that have not left."""
    gc.collect()
    # The server's threads end with its clients.
    left = [descriptors() - before[0], threading.active_count() - before[1], faults.playing]
    return [max(0, count) for count in left]


def wait_until_nothing_is_left(before: tuple[int, int], faults: FaultServer) -> list[int]:
    deadline = time.monotonic() + 5
    while any(left := what_is_left(before, faults)) and time.monotonic() < deadline:
        time.sleep(0.01)
    return left


def abandon(open_events: Callable[..., Any]) -> None:
    ways = list(WAYS.values())
    for number in range(MANY):
        go, options = ways[number % len(ways)]
        go(open_events(**options))


@pytest.mark.soak
@pytest.mark.parametrize("name", [*SESSIONS, "sse_fast"])
def test_thousand_streams_leave_nothing(name: str, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET
    url = faults.url + "/"
    before = (descriptors(), threading.active_count())
    if name == "sse_fast":
        abandon(partial(sockets.open_stream, url))
        assert wait_until_nothing_is_left(before, faults) == [0, 0, 0]
        return
    with SESSIONS[name]() as get:
        abandon(lambda **options: iter_events(get(url), **options))
        # While the session is still open.
        assert wait_until_nothing_is_left(before, faults) == [0, 0, 0]


async def aforget(stream: Any) -> None:
    async for _ in stream:
        break


@pytest.mark.soak
@pytest.mark.parametrize("name", [*ASESSIONS, "sse_fast asyncio"])
def test_thousand_async_streams_leave_nothing(name: str, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET
    url = faults.url + "/"
    ways = [*ASYNC_WAYS.values(), (aforget, {})]

    async def run() -> None:
        async with raw() if name == "sse_fast asyncio" else ASESSIONS[name]() as get:
            before = (descriptors(), threading.active_count())
            tasks = len(asyncio.all_tasks())
            for number in range(MANY):
                go, options = ways[number % len(ways)]
                if name == "sse_fast asyncio":
                    await go(sockets.aopen_stream(url, **options))
                else:
                    await go(aiter_events(await get(url), **options))
            # Dropped streams are closed in later turns of the loop.
            deadline = time.monotonic() + 5
            while (
                any(left := [*what_is_left(before, faults), len(asyncio.all_tasks()) - tasks])
                and time.monotonic() < deadline
            ):
                await asyncio.sleep(0.01)
            assert left == [0, 0, 0, 0]

    @asynccontextmanager
    async def raw() -> AsyncIterator[None]:
        yield

    asyncio.run(run())


# -- Connections that are used again ---------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("name", ["requests", "urllib3", *(module.__name__ for module in HTTPX)])
def test_connection_reused_after_end(name: str, server: Server, framing: str) -> None:
    server.answers["/"] = Answer([b"data: a\n\n"], framing, keep_alive=True)
    with SESSIONS[name]() as get:
        for _ in range(3):
            assert [event.data for event in iter_events(get(server.url + "/"))] == ["a"]
    assert len({request.client for request in server.requests}) == 1


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("name", ASESSIONS)
def test_connection_reused_after_end_async(name: str, server: Server, framing: str) -> None:
    async def run() -> None:
        async with ASESSIONS[name]() as get:
            for _ in range(3):
                response = await get(server.url + "/")
                assert [event.data async for event in aiter_events(response)] == ["a"]

    server.answers["/"] = Answer([b"data: a\n\n"], framing, keep_alive=True)
    asyncio.run(run())
    assert len({request.client for request in server.requests}) == 1
