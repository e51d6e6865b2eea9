"""next_event: waits with a time limit lose nothing, over every library."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from itertools import product
from typing import Any

import anyio
import pytest

from sse_fast import (
    EndReason,
    StreamTimeout,
    TransportError,
    aiter_events,
    iter_events,
    open_stream,
)
from sse_fast._stream import AsyncEventStream, make_parser
from sse_fast.adapters import open_source
from sse_fast.adapters.sockets import aopen_stream
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import (
    AOPENERS,
    HTTP2_READERS,
    READERS,
    UNREAD_UNDER_TRIO,
    Reader,
    wait_until,
)
from tests.support.faults import CHUNKED, LEFT, FaultServer, chunk, framed, head

pytestmark = UNREAD_UNDER_TRIO

ONE, TWO, THREE = (b"data: %d\n\n" % number for number in (1, 2, 3))
ASYNC = [reader for reader in [*READERS.values(), *HTTP2_READERS.values()] if reader.backend]
BACKENDS = ["asyncio", "trio"]


async def raises_timeout(stream: Any, seconds: float = 0.02) -> None:
    with pytest.raises(TimeoutError):
        await stream.next_event(timeout=seconds)
    assert stream.end_reason is None


async def read_slowly(stream: Any, more: threading.Event) -> None:
    """Wait for each event several times."""
    assert (await stream.next_event(timeout=5)).data == "1"
    for _ in range(3):
        await raises_timeout(stream)
    more.set()
    assert (await stream.next_event(timeout=5)).data == "2"
    assert await stream.next_event(timeout=5) is None
    assert await stream.next_event() is None
    assert stream.end_reason is EndReason.END


async def go_on_by_iteration(stream: Any, more: threading.Event) -> None:
    """The read that goes on is taken by `async for`."""
    assert (await anext(stream)).data == "1"
    await raises_timeout(stream)
    more.set()
    assert [event.data async for event in stream] == ["2"]
    assert stream.end_reason is EndReason.END


async def close_while_read_goes_on(stream: Any, more: threading.Event) -> None:
    assert (await stream.next_event()).data == "1"
    await raises_timeout(stream)
    with anyio.fail_after(5):
        await stream.aclose()
    assert await stream.next_event(timeout=5) is None
    assert stream.end_reason is EndReason.CLOSED
    more.set()


@pytest.mark.parametrize("use", [read_slowly, go_on_by_iteration, close_while_read_goes_on])
@pytest.mark.parametrize("reader", ASYNC, ids=str)
def test_next_event_loses_nothing(
    reader: Reader, hypercorn_server: AsgiServer, use: Callable[..., Any]
) -> None:
    more = threading.Event()
    hypercorn_server.answers["/"] = AsgiAnswer([ONE, more, TWO])

    try:
        reader.run(
            lambda stream: use(stream, more), hypercorn_server.url + "/", ca=hypercorn_server.ca
        )
    finally:
        more.set()


@pytest.mark.parametrize("reader", [reader for reader in ASYNC if not reader.http2], ids=str)
def test_next_event_of_dripping_bytes_times_out(reader: Reader, faults: FaultServer) -> None:
    """Bytes that make no event do not prolong the wait."""
    hold = threading.Event()
    drips = [step for _ in range(40) for step in (b":\n", 0.01)]
    faults.scripts["/"] = framed("chunked", [b":\n", *drips, ONE, hold])

    async def use(stream: Any) -> None:
        began = time.monotonic()
        await raises_timeout(stream, 0.1)
        assert time.monotonic() - began < 0.35
        assert (await stream.next_event(timeout=5)).data == "1"
        hold.set()
        assert await stream.next_event(timeout=5) is None

    reader.run(use, faults.url + "/")


@pytest.mark.parametrize("reader", [reader for reader in ASYNC if not reader.http2], ids=str)
def test_next_event_raises_error_of_source(reader: Reader, faults: FaultServer) -> None:
    cut = threading.Event()
    faults.scripts["/"] = [head(CHUNKED), chunk(ONE), cut]

    async def use(stream: Any) -> None:
        assert (await stream.next_event(timeout=5)).data == "1"
        await raises_timeout(stream)
        cut.set()
        with pytest.raises(TransportError):
            await stream.next_event(timeout=5)
        assert stream.end_reason is EndReason.ERROR

    reader.run(use, faults.url + "/")


@pytest.mark.parametrize("reader", [reader for reader in ASYNC if not reader.http2], ids=str)
def test_cancelled_next_event_loses_nothing(reader: Reader, faults: FaultServer) -> None:
    """A wait with a limit may be cancelled as well."""
    more = threading.Event()
    faults.scripts["/"] = framed("chunked", [ONE, more, TWO])

    async def use(stream: Any) -> None:
        assert (await stream.next_event(timeout=5)).data == "1"
        for _ in range(3):
            with anyio.move_on_after(0.02) as scope:
                await stream.next_event(timeout=5)
            assert scope.cancelled_caught
        more.set()
        assert (await stream.next_event(timeout=5)).data == "2"
        assert await stream.next_event(timeout=5) is None

    reader.run(use, faults.url + "/")


@pytest.mark.parametrize(
    ("name", "backend"),
    [("aiohttp", "asyncio"), *product([name for name in AOPENERS if name != "aiohttp"], BACKENDS)],
)
def test_kept_reads_survive_cancelled_waits(name: str, backend: str, faults: FaultServer) -> None:
    """A stream that keeps its reads goes on after a cancelled `__anext__`, over every library."""
    more = threading.Event()
    faults.scripts["/"] = framed("chunked", [ONE, more, TWO])

    async def run() -> None:
        async with AOPENERS[name](faults.url + "/") as response:
            parser, _ = make_parser()
            stream: Any = AsyncEventStream(open_source(response), parser, keep_reads=True)
            assert (await anext(stream)).data == "1"
            for _ in range(3):
                with anyio.move_on_after(0.02) as scope:
                    await anext(stream)
                assert scope.cancelled_caught
                assert stream.end_reason is None
            more.set()
            assert [event.data async for event in stream] == ["2"]
            assert stream.end_reason is EndReason.END

    anyio.run(run, backend=backend)


def test_next_event_opens_aopen_stream(faults: FaultServer) -> None:
    """The request is sent once, however often the wait for the response times out."""
    go = threading.Event()
    faults.scripts["/"] = [go, *framed("chunked", [ONE])]

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        for _ in range(3):
            await raises_timeout(stream)
        go.set()
        event = await stream.next_event(timeout=5)
        assert event is not None
        assert event.data == "1"
        assert await stream.next_event(timeout=5) is None

    asyncio.run(run())
    assert len(faults.requests) == 1


# -- Sources without HTTP --------------------------------------------------------------------------


async def numbers(more: anyio.Event) -> AsyncIterator[bytes]:
    yield ONE + TWO
    await more.wait()
    yield THREE


@pytest.mark.parametrize("backend", BACKENDS)
def test_next_event_of_generator_goes_on(backend: str) -> None:
    async def run() -> None:
        more = anyio.Event()
        stream = aiter_events(numbers(more))
        assert (await anext(stream)).data == "1"
        # Events that were parsed already need no time.
        event = await stream.next_event(timeout=0)
        assert event is not None
        assert event.data == "2"
        await raises_timeout(stream, 0)
        more.set()
        assert [event.data async for event in stream] == ["3"]
        assert stream.end_reason is EndReason.END

    anyio.run(run, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_dropped_stream_cancels_kept_read(backend: str) -> None:
    """The task that reads refers to the chunks only."""
    ended: list[str] = []

    async def chunks() -> AsyncIterator[bytes]:
        try:
            yield ONE
            await anyio.sleep(30)
        except BaseException as error:
            ended.append(type(error).__name__)
            raise

    async def run() -> None:
        stream: Any = aiter_events(chunks())
        await stream.next_event(timeout=1)
        await raises_timeout(stream)
        del stream
        with anyio.fail_after(5):
            while not ended:
                await anyio.sleep(0.001)

    anyio.run(run, backend=backend)
    assert ended == ["CancelledError" if backend == "asyncio" else "Cancelled"]


def test_error_of_kept_read_is_not_reported() -> None:
    """An exception of a read that nobody waits for any more is dropped, not logged."""
    reported: list[Any] = []

    async def chunks() -> AsyncIterator[bytes]:
        yield ONE
        await asyncio.sleep(0.02)
        raise OSError

    async def run() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda _, context: reported.append(context)
        )
        stream: Any = aiter_events(chunks())
        await stream.next_event()
        await raises_timeout(stream, 0.001)
        await asyncio.sleep(0.05)
        del stream
        await asyncio.sleep(0.01)

    asyncio.run(run())
    assert reported == []


def test_second_waiter_of_next_event_raises() -> None:
    async def run() -> None:
        more = anyio.Event()
        stream = aiter_events(numbers(more))
        await anext(stream)
        await anext(stream)
        first = asyncio.ensure_future(stream.next_event(timeout=5))
        await asyncio.sleep(0.01)
        with pytest.raises(RuntimeError, match="already waiting for this stream"):
            await stream.next_event(timeout=5)
        more.set()
        event = await first
        assert event is not None
        assert event.data == "3"

    asyncio.run(run())


async def cancel_at_arrival(read: Callable[[], Any], write: Callable[[bytes], Any]) -> list[str]:
    """Cancel waits at the very moment at which their bytes arrive."""
    seen = []
    for number in range(50):
        task = asyncio.ensure_future(read())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        write(b"data: %d\n\n" % number)
        for _ in range(number % 4):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            seen.append((await task).data)
    while len(seen) < 50:
        seen.append((await asyncio.wait_for(read(), 5)).data)
    return seen


def test_cancelled_wait_of_socket_loses_nothing() -> None:
    async def run() -> None:
        near, far = socket.socketpair()
        with near, far:
            near.setblocking(False)
            stream = aiter_events(near)
            seen = await cancel_at_arrival(stream.__anext__, far.send)
            assert seen == [str(number) for number in range(50)]
            far.close()
            assert [event async for event in stream] == []
            assert stream.end_reason is EndReason.END

    asyncio.run(run())


def test_cancelled_wait_of_stream_reader_loses_nothing() -> None:
    async def run() -> None:
        reader = asyncio.StreamReader()
        stream = aiter_events(reader)
        seen = await cancel_at_arrival(stream.__anext__, reader.feed_data)
        assert seen == [str(number) for number in range(50)]
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.01)
        reader.feed_eof()
        assert [event async for event in stream] == []
        assert stream.end_reason is EndReason.END

    asyncio.run(run())


@pytest.mark.parametrize("backend", BACKENDS)
def test_end_after_cancelled_wait_of_anyio_is_clean(backend: str) -> None:
    async def run() -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            far = socket.create_connection(("127.0.0.1", port))
            async with anyio.create_task_group() as tasks:
                accepted: list[Any] = []

                async def keep(stream: Any) -> None:
                    accepted.append(stream)
                    await anyio.sleep_forever()

                tasks.start_soon(listener.serve, keep)
                while not accepted:
                    await anyio.sleep(0.001)
                stream = aiter_events(accepted[0])
                with anyio.move_on_after(0.01):
                    await anext(stream)
                far.sendall(ONE)
                far.close()
                assert [event.data async for event in stream] == ["1"]
                assert stream.end_reason is EndReason.END
                tasks.cancel_scope.cancel()

    anyio.run(run, backend=backend)


# -- Sync ------------------------------------------------------------------------------------------

SYNC = [reader for reader in READERS.values() if reader.backend is None]


@pytest.mark.parametrize("reader", [each for each in SYNC if each.library != "sse_fast"], ids=str)
def test_sync_next_event_refuses_limit(reader: Reader, faults: FaultServer) -> None:
    """It says so before anything is read, and never waits without limit instead."""
    hold = threading.Event()
    faults.scripts["/"] = framed("chunked", [ONE, hold])

    def use(stream: Any) -> None:
        with pytest.raises(TypeError, match="use open_stream"):
            stream.next_event(timeout=1)
        assert stream.next_event().data == "1"
        with pytest.raises(TypeError, match="use open_stream"):
            stream.next_event(timeout=0)
        hold.set()
        assert stream.next_event() is None

    reader.run(use, faults.url + "/")


def is_over_within(stream: Any, seconds: float) -> bool:
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        stream.next_event(timeout=seconds)
    return time.monotonic() - began < seconds + 0.5


def test_next_event_of_socket_waits_with_limit() -> None:
    near, far = socket.socketpair()
    with near, far:
        stream = iter_events(near)
        assert is_over_within(stream, 0.02)
        far.sendall(b"data: 1\n\ndata: 2\n\ndata:")
        assert stream.next_event(timeout=0).data == "1"
        assert stream.next_event(timeout=0).data == "2"
        assert is_over_within(stream, 0)
        assert is_over_within(stream, 0.02)
        far.sendall(b" 3\n\n")
        assert next(stream).data == "3"
        far.close()
        assert stream.next_event(timeout=5) is None
        assert near.gettimeout() is None


OWN = READERS["sse_fast"]


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_next_event_of_open_stream_waits_with_limit(faults: FaultServer, framing: str) -> None:
    more = threading.Event()
    faults.scripts["/"] = framed(framing, [ONE + TWO, more, THREE])

    def use(stream: Any) -> None:
        assert stream.next_event(timeout=5).data == "1"
        assert stream.next_event(timeout=0).data == "2"
        assert is_over_within(stream, 0)
        assert is_over_within(stream, 0.05)
        more.set()
        assert stream.next_event(timeout=5).data == "3"
        assert stream.next_event(timeout=5) is None
        assert stream.end_reason is EndReason.END

    OWN.run(use, faults.url + "/")


@pytest.mark.parametrize(
    "part", [b"9\r", b"9;extension", b"9\r\n", b"9\r\ndata: 2", b"9\r\ndata: 2\n\n"]
)
def test_next_event_of_part_of_a_chunk_times_out(faults: FaultServer, part: bytes) -> None:
    rest = threading.Event()
    whole = b"9;extension=1\r\ndata: 2\n\n\r\n" if b";" in part else chunk(TWO)
    faults.scripts["/"] = [head(CHUNKED), chunk(ONE), part, rest, whole[len(part) :], chunk(b"")]

    def use(stream: Any) -> None:
        assert stream.next_event(timeout=5).data == "1"
        if not part.endswith(b"2\n\n"):
            assert is_over_within(stream, 0.05)
        rest.set()
        assert stream.next_event(timeout=5).data == "2"
        assert stream.next_event(timeout=5) is None

    OWN.run(use, faults.url + "/")


def test_next_event_of_dripping_extension_times_out(faults: FaultServer) -> None:
    drips = [step for _ in range(100) for step in (b"x", 0.01)]
    faults.scripts["/"] = [head(CHUNKED), chunk(ONE), b"9;", *drips, LEFT]

    def use(stream: Any) -> None:
        assert stream.next_event(timeout=5).data == "1"
        assert is_over_within(stream, 0.1)

    OWN.run(use, faults.url + "/")


def test_next_event_of_open_stream_over_tls(hypercorn_server: AsgiServer) -> None:
    more = threading.Event()
    hypercorn_server.answers["/"] = AsgiAnswer([ONE, more, TWO + THREE])

    def use(stream: Any) -> None:
        assert stream.next_event(timeout=5).data == "1"
        assert is_over_within(stream, 0.05)
        more.set()
        assert [stream.next_event(timeout=5).data for _ in range(2)] == ["2", "3"]
        assert stream.next_event(timeout=5) is None

    OWN.run(use, hypercorn_server.url + "/", ca=hypercorn_server.ca)


def test_idle_timeout_counts_over_several_waits(faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED), chunk(ONE), LEFT]
    with open_stream(faults.url + "/", idle_timeout=0.3) as stream:
        assert stream.next_event(timeout=5) is not None
        for _ in range(5):
            assert is_over_within(stream, 0.05)
        with pytest.raises(StreamTimeout, match="No byte arrived"):
            stream.next_event(timeout=5)


def test_close_ends_next_event_of_open_stream(faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED), chunk(ONE), LEFT]
    stream = open_stream(faults.url + "/")
    next(stream)
    ended: list[Any] = []
    thread = threading.Thread(target=lambda: ended.append(stream.next_event(timeout=8)))
    thread.start()
    wait_until(lambda: stream.is_being_read)
    stream.close()
    thread.join(2)
    assert ended == [None]


def test_next_event_of_socket_ends_by_close() -> None:
    near, far = socket.socketpair()
    with near, far:
        stream = iter_events(near)
        stream.close()
        assert stream.next_event(timeout=5) is None


def test_socket_subclass_refuses_limit() -> None:
    """It may have a buffer that the operating system does not know."""

    class Buffering(socket.socket):
        def recv(self, *_: int) -> bytes:
            return super().recv(3)

    near, far = socket.socketpair()
    refused = pytest.raises(TypeError, match="cannot wait for a limited time")
    with Buffering(fileno=near.detach()) as near, far, refused:
        iter_events(near).next_event(timeout=1)


@pytest.fixture
def tls_pair(hypercorn_server: AsgiServer) -> Iterator[tuple[ssl.SSLSocket, Any, Any]]:
    """A TLS socket, and the plain socket and the TLS object of its other end."""
    import trustme

    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    near, far = socket.socketpair()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = server.wrap_bio(incoming, outgoing, server_side=True)

    def shake() -> None:
        while True:
            try:
                other.do_handshake()
            except ssl.SSLWantReadError:
                pass
            else:
                break
            finally:
                far.sendall(outgoing.read())
            incoming.write(far.recv(65536))

    thread = threading.Thread(target=shake)
    thread.start()
    wrapped = client.wrap_socket(near, server_hostname="localhost")
    thread.join()

    def encrypt(data: bytes) -> bytes:
        other.write(data)
        return outgoing.read()

    with wrapped, far:
        yield wrapped, far, encrypt


def test_next_event_of_tls_socket_waits_with_limit(tls_pair: Any) -> None:
    near, far, encrypt = tls_pair
    stream = iter_events(near)
    # Session tickets are records without data.
    assert is_over_within(stream, 0.02)
    record = encrypt(b"data: 1\n\n")
    far.sendall(record[:7])
    assert is_over_within(stream, 0.02)
    far.sendall(record[7:])
    assert stream.next_event(timeout=5).data == "1"
    # Both records are in the buffer of the TLS library after the first read.
    far.sendall(encrypt(b"data: 2\n\n") + encrypt(b"data: 3\n\n"))
    assert [stream.next_event(timeout=5).data for _ in range(2)] == ["2", "3"]
    assert near.gettimeout() is None
    far.close()
    with suppress(TransportError):
        assert stream.next_event(timeout=5) is None


def test_next_event_of_what_is_there_needs_no_wait() -> None:
    sources: list[Any] = [ONE + TWO, [ONE, TWO], (ONE + TWO,)]
    with tempfile.NamedTemporaryFile() as file:
        file.write(ONE + TWO)
        file.flush()
        with open(file.name, "rb") as buffered, open(file.name, "rb", buffering=0) as raw:
            for source in [*sources, buffered, raw]:
                stream = iter_events(source)
                assert stream.next_event(timeout=0).data == "1"
                assert stream.next_event(timeout=0).data == "2"
                assert stream.next_event(timeout=0) is None


@pytest.mark.parametrize("make", [lambda: iter([ONE]), lambda: (each for each in [ONE])])
def test_next_event_of_iterator_refuses_limit(make: Any) -> None:
    with pytest.raises(TypeError, match="cannot wait for a limited time"):
        iter_events(make()).next_event(timeout=1)


def test_next_event_of_pipe_refuses_limit() -> None:
    near, far = os.pipe()
    refused = pytest.raises(TypeError, match="cannot wait for a limited time")
    with os.fdopen(near, "rb") as file, os.fdopen(far, "wb"), refused:
        iter_events(file).next_event(timeout=1)
