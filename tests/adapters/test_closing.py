"""Whatever ends a stream gives its connection free, at once and for good."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import socket
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from http.client import HTTPConnection
from typing import Any

import aiohttp
import anyio
import anyio.to_thread
import pytest
import requests
import urllib3

import sse_fast
from sse_fast import EndReason, aiter_events, iter_events
from sse_fast._wake import make_waker
from sse_fast.adapters import open_source, sockets
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import AOPENERS, HTTPX, OPENERS, READERS, TIMEOUT, Reader, tls
from tests.support.faults import CHUNKED, LEFT, FaultServer, chunk, head
from tests.support.server import Answer, Server

BLOCKING = [name for name, reader in READERS.items() if reader.backend is None]
# httpx and httpx2 leave their inner generators to the garbage collector, of which trio warns.
OF_TRIO = pytest.mark.filterwarnings(
    "ignore:.*async_generator object:pytest.PytestUnraisableExceptionWarning"
)
AWAITING = [
    pytest.param(name, marks=OF_TRIO) if reader.backend == "trio" else name
    for name, reader in READERS.items()
    if reader.backend is not None
]
# One event, and then nothing until the client has left: that it does is checked by the server.
QUIET = [head(CHUNKED) + chunk(b"data: a\n\n"), LEFT]
SOON = 1.0  # seconds; the time-outs of the libraries are ten times as long


# -- Another thread, another task ------------------------------------------------------------------


def time_to_wake(reader: Reader, url: str, **options: Any) -> float:
    """Seconds from close() to the end of the loop in another thread."""
    ended: list[float] = []

    def use(stream: Any) -> float:
        def read() -> None:
            seen.extend(event.data for event in stream)
            ended.append(time.monotonic())

        seen: list[str] = []
        thread = threading.Thread(target=read)
        thread.start()
        # It is in its second read by then, or at least very probably.
        while not seen:
            time.sleep(0.001)
        time.sleep(0.05)
        closed = time.monotonic()
        stream.close()
        # At once, whatever the reader does.
        assert time.monotonic() - closed < SOON
        thread.join(2 * TIMEOUT)
        assert seen == ["a"]
        assert stream.end_reason is EndReason.CLOSED
        assert list(stream) == []
        return ended[0] - closed

    taken: float = reader.run(use, url, **options)
    return taken


@pytest.mark.parametrize("name", BLOCKING)
def test_close_wakes_a_reader_in_another_thread(name: str, faults: FaultServer) -> None:
    for script in (QUIET, [head() + b"data: a\n\n", LEFT]):
        faults.scripts["/"] = script
        assert time_to_wake(READERS[name], faults.url + "/") < SOON


@pytest.mark.parametrize("name", BLOCKING)
def test_close_wakes_a_reader_behind_tls(name: str, hypercorn_server: AsgiServer) -> None:
    hold = threading.Event()
    hypercorn_server.answers["/"] = AsgiAnswer([b"data: a\n\n", hold])
    url = hypercorn_server.url + "/"
    assert time_to_wake(READERS[name], url, ca=hypercorn_server.ca) < SOON
    hold.set()


@pytest.mark.parametrize("name", AWAITING)
def test_aclose_wakes_a_reader_in_another_task(name: str, faults: FaultServer) -> None:
    async def use(stream: Any) -> None:
        seen: list[str] = []

        async def read() -> None:
            async for event in stream:
                seen.append(event.data)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            while not seen:
                await anyio.sleep(0.001)
            await anyio.sleep(0.05)
            with anyio.fail_after(SOON):
                await stream.aclose()
                tasks.cancel_scope.deadline = anyio.current_time() + SOON
        assert seen == ["a"]
        assert stream.end_reason is EndReason.CLOSED
        assert not tasks.cancel_scope.cancelled_caught

    faults.scripts["/"] = QUIET
    READERS[name].run(use, faults.url + "/")


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_siblings_over_http2_live_on(module: Any, hypercorn_server: AsgiServer) -> None:
    """close() never shuts down what others share; the reader sees it at its next byte."""
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
        time.sleep(0.05)
        first.close()
        go.set()
        thread.join(TIMEOUT)
        assert not thread.is_alive()
        assert first.end_reason is EndReason.CLOSED
        goes_on.set()
        assert [event.data for event in second] == ["c"]
        assert second.end_reason is EndReason.END


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_siblings_of_a_refused_response_live_on(
    module: Any, hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That its body is read within a bounded time is nothing that the others should notice."""
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 0.1)
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
        time.sleep(0.3)
        hold.set()
        goes_on.set()
        assert [event.data for event in stream] == ["b"]


def test_a_socket_that_shows_only_its_number() -> None:
    """As those of uvloop do."""

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


def test_what_has_no_socket_says_so() -> None:
    """Else the body of a refused response would be read without a bound."""
    response = urllib3.HTTPResponse(io.BytesIO(b"data: a\n\n"), preload_content=False)
    assert open_source(response).wake is None


@pytest.mark.parametrize("name", ["requests", "urllib3", *(module.__name__ for module in HTTPX)])
def test_a_late_close_leaves_the_connection_to_others(name: str, server: Server) -> None:
    """One that has gone back to its pool by then."""
    server.answers["/"] = Answer([b"data: a\n\n"], keep_alive=True)
    with SESSIONS[name]() as get:
        opened = open_source(get(server.url + "/"))
        stream = iter_events(opened)
        assert len(list(stream)) == 1
        assert opened.wake is not None
        opened.wake()
        assert len(list(iter_events(get(server.url + "/")))) == 1
    assert len({request.client for request in server.requests}) == 1


# -- Every way out, while the library's own context stays open -------------------------------------


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


AWAYS: dict[str, tuple[Callable[[Any], Any], dict[str, Any]]] = {
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
def test_every_way_out(name: str, way: str, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET
    go, options = WAYS[way]
    if name == "sse_fast":
        go(sockets.open_stream(faults.url + "/", **options))
        assert_left(faults)
        return
    with OPENERS[name](faults.url + "/") as response:
        go(iter_events(response, **options))
        assert_left(faults)


@pytest.mark.parametrize("way", AWAYS)
@pytest.mark.parametrize("name", AWAITING)
def test_every_way_out_async(name: str, way: str, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET
    go, options = AWAYS[way]
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


def test_http_client_gives_a_connection_free_that_is_kept_alive(faults: FaultServer) -> None:
    """It stays with the HTTPConnection, and the server sees all the same that nobody reads."""
    kept = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    faults.scripts["/"] = [kept + chunk(b"data: a\n\n"), LEFT]
    connection = HTTPConnection(faults.url.removeprefix("http://"))
    connection.request("GET", "/")
    leave(iter_events(connection.getresponse()))
    assert_left(faults)
    connection.close()


def test_http_client_keeps_what_was_read_to_its_end(server: Server) -> None:
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
def test_http_client_keeps_what_had_no_body(
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
def test_no_content_keeps_the_connection(name: str, server: Server) -> None:
    server.answers["/"] = Answer([], "none", 204, {}, keep_alive=True)
    with SESSIONS[name]() as get:
        for _ in range(3):
            assert iter_events(get(server.url + "/")).end_reason is EndReason.NO_CONTENT
    assert len({request.client for request in server.requests}) == 1


# -- Many ------------------------------------------------------------------------------------------

MANY = 1000


@contextmanager
def many_requests() -> Iterator[Callable[[str], Any]]:
    with requests.Session() as session:
        session.trust_env = False
        yield partial(session.get, stream=True)


@contextmanager
def many_urllib3() -> Iterator[Callable[[str], Any]]:
    with urllib3.PoolManager() as pool:
        yield partial(pool.request, "GET", preload_content=False)


@contextmanager
def many_urllib_request() -> Iterator[Callable[[str], Any]]:
    yield urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@contextmanager
def many_http_client() -> Iterator[Callable[[str], Any]]:
    def get(url: str) -> Any:
        connection = HTTPConnection(url.split("/")[2])
        connection.request("GET", "/")
        return connection.getresponse()

    yield get


@contextmanager
def many_httpx(module: Any) -> Iterator[Callable[[str], Any]]:
    with module.Client(trust_env=False) as client:
        yield lambda url: client.send(client.build_request("GET", url), stream=True)


@asynccontextmanager
async def many_async_httpx(module: Any) -> AsyncIterator[Callable[[str], Any]]:
    async with module.AsyncClient(trust_env=False) as client:
        yield lambda url: client.send(client.build_request("GET", url), stream=True)


@asynccontextmanager
async def many_aiohttp() -> AsyncIterator[Callable[[str], Any]]:
    async with aiohttp.ClientSession() as session:
        yield session.get


SESSIONS: dict[str, Any] = {
    "requests": many_requests,
    "urllib3": many_urllib3,
    "urllib.request": many_urllib_request,
    "http.client": many_http_client,
    **{module.__name__: partial(many_httpx, module) for module in HTTPX},
}
ASESSIONS: dict[str, Any] = {
    "aiohttp": many_aiohttp,
    **{f"{module.__name__} async": partial(many_async_httpx, module) for module in HTTPX},
}


def descriptors() -> int:
    return len(os.listdir("/dev/fd"))


def what_is_left(before: tuple[int, int], faults: FaultServer) -> list[int]:
    """Descriptors and threads too many, and clients that have not left."""
    gc.collect()
    # Those of the server are gone when its clients are.
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


@pytest.mark.parametrize("name", [*SESSIONS, "sse_fast"])
def test_a_thousand_streams(name: str, faults: FaultServer) -> None:
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


@pytest.mark.parametrize("name", [*ASESSIONS, "sse_fast asyncio"])
def test_a_thousand_async_streams(name: str, faults: FaultServer) -> None:
    faults.scripts["/"] = QUIET
    url = faults.url + "/"
    ways = [*AWAYS.values(), (aforget, {})]

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
            # What was forgotten goes in turns of the loop of its own.
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


# -- None too many ---------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("name", ["requests", "urllib3", *(module.__name__ for module in HTTPX)])
def test_a_body_read_to_its_end_keeps_the_connection(
    name: str, server: Server, framing: str
) -> None:
    """For the next request: nothing is closed that could be used again."""
    server.answers["/"] = Answer([b"data: a\n\n"], framing, keep_alive=True)
    with SESSIONS[name]() as get:
        for _ in range(3):
            assert [event.data for event in iter_events(get(server.url + "/"))] == ["a"]
    assert len({request.client for request in server.requests}) == 1


@pytest.mark.parametrize("framing", ["chunked", "length"])
@pytest.mark.parametrize("name", ASESSIONS)
def test_a_body_read_to_its_end_keeps_the_connection_async(
    name: str, server: Server, framing: str
) -> None:
    async def run() -> None:
        async with ASESSIONS[name]() as get:
            for _ in range(3):
                response = await get(server.url + "/")
                assert [event.data async for event in aiter_events(response)] == ["a"]

    server.answers["/"] = Answer([b"data: a\n\n"], framing, keep_alive=True)
    asyncio.run(run())
    assert len({request.client for request in server.requests}) == 1
