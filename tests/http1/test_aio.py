"""Behaviour of aopen_stream alone: cancelled tasks, turns of the event loop, slow readers."""

from __future__ import annotations

import asyncio
import gc
import gzip
import os
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from sse_fast import (
    AsyncEventSource,
    EndReason,
    ReconnectPolicy,
    SSEError,
    TransportError,
    aopen_stream,
)
from tests.support.faults import CHUNKED, LEFT, FaultServer, chunk, framed, head, serve_resets
from tests.support.server import Answer, Server

STREAM = b"id: 1\r\ndata: a\r\n\r\nid: 2\r\ndata: b\r\n\r\n"
DATA = ["a", "b"]


def test_cancelled_read_can_continue(faults: FaultServer) -> None:
    go = threading.Event()
    faults.scripts["/"] = framed("chunked", [b"data: a\n\n", go, b"data: b\n\n"])

    async def run() -> None:
        async with aopen_stream(faults.url + "/") as stream:
            assert (await anext(stream)).data == "a"
            for _ in range(3):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(anext(stream), 0.02)
            go.set()
            assert (await anext(stream)).data == "b"
            assert [event async for event in stream] == []
            assert stream.end_reason is EndReason.END

    asyncio.run(run())


def test_cancelled_wait_for_response_sends_once(faults: FaultServer) -> None:
    """The request is sent once, however often the wait for its response is repeated."""
    go = threading.Event()
    faults.scripts["/"] = [go, *framed("chunked", [STREAM])]

    async def run() -> None:
        stream = aopen_stream(faults.url + "/", method="POST", json={"buy": 1})
        for _ in range(3):
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext(stream), 0.03)
        waiting = asyncio.create_task(anext(stream))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="Another thread or task is already waiting"):
            await anext(stream)
        go.set()
        assert (await waiting).data == "a"
        assert [event.data async for event in stream] == ["b"]

    asyncio.run(run())
    assert len(faults.requests) == 1


def test_aclose_wakes_wait_for_response(faults: FaultServer) -> None:
    faults.scripts["/"] = [LEFT]

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        waiting = asyncio.create_task(anext(stream, None))
        assert await settled(lambda: faults.requests)
        await stream.aclose()
        # The reader wakes, and the iteration ends without an error.
        assert await asyncio.wait_for(waiting, 1) is None
        assert stream.end_reason is EndReason.CLOSED

    asyncio.run(run())


def test_aclose_during_handshake_sends_nothing() -> None:
    """Nothing is sent after the close."""
    received = bytearray()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        silent.setblocking(False)

        async def run() -> socket.socket:
            loop = asyncio.get_running_loop()
            stream = aopen_stream(url)
            waiting = asyncio.create_task(anext(stream, None))
            near, _ = await asyncio.wait_for(loop.sock_accept(silent), 20)
            near.setblocking(False)
            # A busy machine may need long to send the first message.
            received.extend(await asyncio.wait_for(loop.sock_recv(near, 65536), 20))
            await stream.aclose()
            assert await asyncio.wait_for(waiting, 1) is None
            assert len(asyncio.all_tasks()) == 1
            return near

        with asyncio.run(run()) as near:
            near.settimeout(5)
            with suppress(ConnectionError):
                while part := near.recv(65536):
                    received += part
        # Only the first message of the handshake was sent.
        assert received[:1] == b"\x16"
        assert len(received) < 5 + 2 * int.from_bytes(received[3:5], "big")


def sockets_of(server: FaultServer) -> list[str]:
    """The open sockets of this process that are connected to the server, or by it.

    Other descriptors come and go with what earlier tests left to the garbage collector.
    """
    found = []
    for number in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as sock:
                    if server.server_address in (sock.getsockname(), sock.getpeername()):
                        found.append(repr(sock))
    return found


async def settled(condition: Callable[[], object], *, collect: bool = False) -> bool:
    """Return whether the condition becomes true within twenty seconds, in turns of the loop."""
    deadline = time.monotonic() + 20
    # Asked once a turn: a server that accepts late would make it false again for a moment.
    while not condition():
        if time.monotonic() > deadline:
            return False
        if collect:
            gc.collect()
        # A collection lets no other thread run, and the threads of a server have to.
        await asyncio.sleep(0.05 if collect else 0.001)
    return True


@pytest.mark.parametrize("way", ["aclose", "cancel", "forget"])
def test_leaving_while_opening_leaves_nothing(faults: FaultServer, way: str) -> None:
    """No task and no socket remain, whether it connects, sends or waits for the head."""
    faults.scripts["/"] = [LEFT]

    async def leave(turns: int) -> None:
        stream = aopen_stream(faults.url + "/")
        reader = asyncio.create_task(anext(stream, None))
        for _ in range(turns):
            await asyncio.sleep(0)
        if way == "aclose":
            await stream.aclose()
            assert await reader is None
        else:
            reader.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reader
            if way == "cancel":
                await stream.aclose()

    def what_is_left() -> list[object]:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        return [*sockets_of(faults), *others, *faults._playing]

    async def run() -> None:
        for turns in range(40):
            await leave(turns)
        assert await settled(lambda: not what_is_left(), collect=True), what_is_left()

    # Streams of earlier tests are not to be closed by tasks of this loop.
    gc.collect()
    asyncio.run(run())


def test_cancelled_async_with_leaves_nothing(faults: FaultServer) -> None:
    """`__aexit__` is not called if entering `async with` was cancelled."""
    faults.scripts["/"] = [LEFT]

    async def enter(stream: Any) -> None:
        async with stream:
            pass

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(enter(stream), 0.05)
        assert await settled(lambda: not faults.playing)
        assert stream.end_reason is EndReason.CLOSED

    asyncio.run(run())


def test_cancelled_task_raises_cancelled_error(faults: FaultServer) -> None:
    """Even if other tasks are cancelled or closed at the same time."""
    faults.scripts["/"] = [LEFT]
    told: list[str] = []

    async def use(stream: Any) -> None:
        try:
            await anext(stream)
        except BaseException as error:
            told.append(type(error).__name__)
            raise

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        reader = asyncio.create_task(use(stream))
        assert await settled(lambda: faults.requests)
        await stream.aclose()
        reader.cancel()
        await asyncio.wait({reader})
        # The end of run() cancels every task, in any order.
        left = [asyncio.create_task(use(aopen_stream(faults.url + "/"))) for _ in range(20)]
        assert await settled(lambda: len(faults.requests) == 21)
        assert not any(task.done() for task in left)

    asyncio.run(run())
    assert told == ["CancelledError"] * 21


def test_cancelled_aclose_can_be_repeated(faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED) + chunk(b"data: a\n\n"), LEFT]

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        await anext(stream)
        closing = asyncio.create_task(stream.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await stream.aclose()

    asyncio.run(run())


def test_aclose_wakes_read_of_refused_body(faults: FaultServer) -> None:
    faults.scripts["/"] = [head(status="500 Oops") + b"begun", LEFT]

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        waiting = asyncio.create_task(anext(stream, None))
        # The head is sent in the same piece as the beginning of the body.
        assert await settled(lambda: faults.playing)
        await asyncio.sleep(0.02)
        await stream.aclose()
        # The time to read a refused body is longer.
        assert await asyncio.wait_for(waiting, 1) is None

    asyncio.run(run())


def test_busy_loop_causes_no_idle_timeout(faults: FaultServer) -> None:
    """The bytes had arrived when the timer ran, though nobody had read them."""
    ticks = [step for number in range(10) for step in (b"data: %d\n\n" % number, 0.06)]
    faults.scripts["/"] = framed("chunked", ticks)

    async def hold_up() -> None:
        await asyncio.sleep(0.2)
        time.sleep(0.75)

    async def run() -> None:
        async with aopen_stream(faults.url + "/", idle_timeout=0.6) as stream:
            busy = asyncio.create_task(hold_up())
            assert len([event async for event in stream]) == 10
            await busy

    asyncio.run(run())


def test_other_tasks_run_during_decompression(faults: FaultServer) -> None:
    large = gzip.compress(b": " + b"x" * 100_000_000 + b"\n\ndata: a\n\n", 1)
    faults.scripts["/"] = framed("chunked", [large], "Content-Encoding: gzip")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async def run() -> None:
        async with aopen_stream(faults.url + "/") as stream:
            counting = asyncio.create_task(count())
            connection = stream._chunks._connection  # type: ignore[attr-defined]
            assert await settled(lambda: connection._received)
            before = turns
            assert (await anext(stream)).data == "a"
            assert turns - before > 50
            counting.cancel()

    asyncio.run(run())


def test_slow_reader_over_tls_loses_nothing(tmp_path: Path) -> None:
    """Even if the server closes without the closure alert of TLS, as many do."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    body = (b"data: " + b"x" * 200 + b"\n\n") * 6000

    def answer() -> None:
        for _ in range(3):
            connection, _ = listener.accept()
            with context.wrap_socket(connection, server_side=True) as secure:
                secure.recv(65536)
                secure.sendall(head(f"Content-Length: {len(body)}") + body)

    async def run() -> None:
        async with aopen_stream(url, ssl_context=trust) as stream:
            count = 0
            async for _ in stream:
                count += 1
                if count % 500 == 1:
                    await asyncio.sleep(0.01)
            assert count == 6000

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/"
        thread = threading.Thread(target=answer)
        thread.start()
        for _ in range(3):
            asyncio.run(run())
        thread.join(10)


def test_slow_reader_bounds_the_queue(faults: FaultServer) -> None:
    """The bytes that wait to be parsed are bounded, and none of them is lost."""
    event = b"data: " + b"x" * 10_000 + b"\n\n"
    faults.scripts["/"] = framed("chunked", [event] * 3000)

    async def run() -> int:
        async with aopen_stream(faults.url + "/") as stream:
            await anext(stream)
            connection = stream._chunks._connection  # type: ignore[attr-defined]
            assert await settled(lambda: connection._paused)
            assert 0 < len(connection._received) < 10
            count = 1
            async for _ in stream:
                count += 1
            return count

    assert asyncio.run(run()) == 3000


def test_aopen_stream_under_trio_raises(server: Server) -> None:
    async def run() -> None:
        async with aopen_stream(server.url):
            pass

    with pytest.raises(SSEError, match=r"needs asyncio, which is not running: .*httpx"):
        trio.run(run)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_aopen_stream_works_under_uvloop(server: Server, host: str) -> None:
    """The loop of uvloop supports fewer options of connections."""
    uvloop = pytest.importorskip("uvloop")
    server.answers["/"] = Answer([STREAM])
    url = server.url.replace("127.0.0.1", host)

    async def run() -> None:
        async with aopen_stream(url) as stream:
            assert [event.data async for event in stream] == DATA
        async with AsyncEventSource(url, policy=ReconnectPolicy.never()) as source:
            assert [event.data async for event in source] == DATA

    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(run())
    finally:
        loop.close()


def test_connection_lost_at_once_raises_transport_error_under_uvloop() -> None:
    """Uvloop may have no socket for it."""
    uvloop = pytest.importorskip("uvloop")

    async def keep_busy() -> None:
        """Block the loop again and again, so that connections are lost before their task runs."""
        while True:
            time.sleep(0.005)
            await asyncio.sleep(0)

    async def run(url: str) -> None:
        busy = asyncio.create_task(keep_busy())
        try:
            for _ in range(20):
                with pytest.raises(TransportError):
                    await anext(aopen_stream(url))
        finally:
            busy.cancel()

    with serve_resets() as url:
        loop = uvloop.new_event_loop()
        try:
            loop.run_until_complete(run(url))
        finally:
            loop.close()
