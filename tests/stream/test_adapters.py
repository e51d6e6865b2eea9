"""iter_events and aiter_events over sources without HTTP, and objects that are no sources."""

from __future__ import annotations

import array
import asyncio
import gzip
import io
import os
import pathlib
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.abc
import pytest
import trio

import sse_fast
from sse_fast import EndReason, SSEError, TransportError, aiter_events, iter_events
from sse_fast.adapters import _registry, open_source
from tests.support.clients import EVENTS, HTTPX, STREAM, collect, plain

# -- Bytes, iterables, files --------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        STREAM,
        bytearray(STREAM),
        memoryview(STREAM),
        memoryview(bytearray(STREAM)),
        [STREAM[:9], STREAM[9:]],
        (STREAM,),
        [bytearray(STREAM), b""],
    ],
    ids=lambda source: type(source).__name__,
)
def test_bytes_and_iterables_are_parsed(source: Any) -> None:
    assert plain(iter_events(source)) == EVENTS
    assert asyncio.run(collect(aiter_events(source))) == EVENTS


def test_array_is_accepted_as_buffer() -> None:
    assert plain(iter_events(array.array("B", STREAM))) == EVENTS
    assert plain(iter_events([array.array("B", STREAM)])) == EVENTS


def test_chunk_buffer_may_be_reused() -> None:
    """Even if the caller keeps an exception, and with it the frames that refer to the buffer."""
    buffer = bytearray()

    def chunks() -> Iterator[bytearray]:
        for number in range(3):
            buffer[:] = b"data: bad\n\n" + b"data: %d\n\n" % number * 10_000
            yield buffer
            buffer.clear()

    events = iter_events(chunks(), decode=int)
    kept, seen = [], []
    for _ in range(3):
        with pytest.raises(sse_fast.DecodeError) as caught:
            next(events)
        kept.append(caught.value)
        seen += [next(events).data for _ in range(10_000)]
    assert seen == [0] * 10_000 + [1] * 10_000 + [2] * 10_000
    assert list(events) == []


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_sync_and_async_iterable_is_accepted_by_both(module: Any) -> None:
    assert plain(iter_events(module.ByteStream(STREAM))) == EVENTS
    assert asyncio.run(collect(aiter_events(module.ByteStream(STREAM)))) == EVENTS


def test_bytearray_is_copied() -> None:
    source = bytearray(STREAM)
    events = iter_events(source)
    source.clear()
    assert plain(events) == EVENTS


def test_generators_are_accepted() -> None:
    async def chunks() -> Any:
        for byte in STREAM:
            yield bytes([byte])

    assert plain(iter_events(bytes([byte]) for byte in STREAM)) == EVENTS
    assert asyncio.run(collect(aiter_events(chunks()))) == EVENTS
    with pytest.raises(TypeError, match="aiter_events"):
        iter_events(chunks())


def test_files_are_read_and_stay_open(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(STREAM)
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        assert plain(iter_events(file)) == EVENTS
        assert plain(iter_events(raw)) == EVENTS
        # Files are borrowed, so they stay open.
        assert not file.closed
        assert not raw.closed
        file.seek(0)
        assert asyncio.run(collect(aiter_events(file))) == EVENTS
    assert plain(iter_events(io.BytesIO(STREAM))) == EVENTS
    with tempfile.NamedTemporaryFile() as named, tempfile.SpooledTemporaryFile() as spooled:
        for file in (named, spooled):
            file.write(STREAM)
            file.seek(0)
            assert plain(iter_events(file)) == EVENTS
    with gzip.open(io.BytesIO(gzip.compress(STREAM))) as packed:
        assert plain(iter_events(packed)) == EVENTS


def test_file_delivers_what_has_arrived() -> None:
    """read1() is used, because read() would wait on a pipe that stays open."""
    near, far = socket.socketpair()
    with near, far, near.makefile("rb") as file:
        events = iter_events(file)
        far.sendall(b"data: 1\n\n")
        assert next(events).data == "1"
        far.sendall(b"data: 2\n\n")
        assert next(events).data == "2"
        far.close()
        assert list(events) == []


@pytest.mark.skipif(not hasattr(os, "set_blocking"), reason="no such pipes")
def test_non_blocking_file_is_refused() -> None:
    near, far = os.pipe()
    os.set_blocking(near, False)
    refused = pytest.raises(TypeError, match="got a non-blocking file")
    with os.fdopen(near, "rb") as file, os.fdopen(far, "wb"), refused:
        iter_events(file)


def test_stream_reader_is_not_read_by_lines() -> None:
    """Its own `async for` would not recognize a lone CR as an end of line."""

    async def run() -> None:
        reader = asyncio.StreamReader()
        events = aiter_events(reader)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(events), 0.01)
        reader.feed_data(b"data: a\r\r")
        assert (await anext(events)).data == "a"
        reader.feed_data(b"data: " + b"b" * 200_000 + b"\r\r")
        assert len((await anext(events)).data) == 200_000
        reader.feed_eof()
        assert [event async for event in events] == []

    asyncio.run(run())


def test_stream_reader_delivers_before_its_error() -> None:
    """Its read() raises before it returns buffered bytes."""

    async def run() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(b"data: a\n\n")
        reader.set_exception(ConnectionResetError())
        events = aiter_events(reader)
        assert (await anext(events)).data == "a"
        with pytest.raises(TransportError) as caught:
            await anext(events)
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    asyncio.run(run())


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_streams_of_anyio_and_trio_are_read(backend: str) -> None:
    async def collected(stream: Any) -> list[tuple[str, Any, str]]:
        return plain([event async for event in aiter_events(stream)])

    async def run() -> None:
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, send)
            port = listener.extra(anyio.abc.SocketAttribute.local_port)
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                assert await collected(stream) == EVENTS
            if backend == "trio":
                async with await trio.open_tcp_stream("127.0.0.1", port) as own:
                    assert await collected(own) == EVENTS
            async with await anyio.connect_tcp("127.0.0.1", port) as stream:
                events = aiter_events(stream)
                await anext(events)
                await stream.aclose()
                with pytest.raises(TransportError) as caught:
                    [event async for event in events]
                assert isinstance(caught.value.__cause__, anyio.ClosedResourceError)
            tasks.cancel_scope.cancel()

    async def send(stream: Any) -> None:
        async with stream:
            for part in (STREAM[:50], STREAM[50:]):
                await stream.send(part)
                await anyio.sleep(0.005)

    anyio.run(run, backend=backend)


# -- Sockets ------------------------------------------------------------------------------------


def test_socket_is_read_and_stays_open() -> None:
    near, far = socket.socketpair()
    with near, far:
        events = iter_events(near)
        for byte in b"data: 1\n\n":
            far.sendall(bytes([byte]))
        assert next(events).data == "1"
        far.sendall(STREAM)
        far.shutdown(socket.SHUT_WR)
        assert plain(events) == EVENTS
        assert events.end_reason is EndReason.END
        assert near.fileno() != -1


def test_non_blocking_socket_is_read_async() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(STREAM)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(SSEError, match="call setblocking"):
            asyncio.run(collect(aiter_events(near)))
        near.setblocking(False)
        assert asyncio.run(collect(aiter_events(near))) == EVENTS


def test_socket_timeout_raises_stream_timeout() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(0.01)
        with pytest.raises(sse_fast.StreamTimeout) as caught:
            next(iter_events(near))
        assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_response_head_on_socket_is_refused(size: int) -> None:
    """It is noticed in whatever pieces it arrives."""

    class Slow(socket.socket):
        """Each read gives a piece, although the whole has arrived."""

        def recv(self, *_: int) -> bytes:
            return super().recv(size)

    near, far = socket.socketpair()
    with Slow(fileno=near.detach()) as near, far:
        far.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(
            SSEError, match=r"delivers the head of an HTTP response.*: read the head first"
        ):
            next(iter_events(near))


def test_body_that_begins_like_a_head_is_read() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"HTT\n")
        far.sendall(STREAM)
        far.close()
        assert plain(iter_events(near)) == EVENTS


# -- What is no source --------------------------------------------------------------------------


class AsyncFile:
    """A file whose read() is awaited, as in upload handlers and aiohttp."""

    async def read(self, size: int = -1) -> bytes:
        return b""


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("data: 1\n\n", r"got str: open\(path, 'rb'\) reads a file"),
        (pathlib.Path("a"), r"got a path: open\(path, 'rb'\) reads a file"),
        (io.StringIO("data: 1\n\n"), "got a text file: open it with mode 'rb'"),
        (None, "got NoneType"),
        (1, "got int"),
        ({"a": 1}, "got dict"),
        ({b"data: a\n\n"}, "got set"),
        (io.TextIOWrapper(io.BytesIO()), "got a text file"),
        (AsyncFile(), "got .*AsyncFile"),
        (object(), "got object"),
    ],
)
def test_non_source_raises_type_error(source: Any, message: str) -> None:
    for opening in (iter_events, aiter_events):
        with pytest.raises(TypeError, match=message) as caught:
            opening(source)
        assert "Expected a response, a binary file, a socket, an iterable" in str(caught.value)


def test_wrapped_text_file_is_refused() -> None:
    refused = pytest.raises(TypeError, match="got a text file")
    with tempfile.NamedTemporaryFile("w+") as file, refused:
        iter_events(file)


def test_sync_iterable_is_closed_by_async_stream() -> None:
    def chunks() -> Iterator[bytes]:
        try:
            yield STREAM
        finally:
            closed.append(True)

    async def run() -> None:
        async with aiter_events(chunks()) as events:
            await anext(events)
        assert closed == [True]

    closed: list[bool] = []
    asyncio.run(run())


def test_invalid_option_raises_at_the_call() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        iter_events(b"", wrong=1)
    with pytest.raises(ValueError, match="max_event_size"):
        iter_events(b"", max_event_size=0)


# -- register -----------------------------------------------------------------------------------


class Own:
    """A type of the user."""

    def __init__(self) -> None:
        self.parts = [STREAM[:5], STREAM[5:]]


class OwnBelow(Own): ...


def test_register_adds_type_and_subclasses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sse_fast.adapters._registry._ADAPTERS", {})
    with pytest.raises(TypeError, match=r"got .*\.Own; |got .*Own"):
        iter_events(Own())
    sse_fast.register(f"{Own.__module__}.Own", lambda own: own.parts)
    assert plain(iter_events(Own())) == EVENTS
    assert plain(iter_events(OwnBelow())) == EVENTS
    sse_fast.register(f"{Own.__module__}.Own", lambda own: bytearray(STREAM))
    assert plain(iter_events(Own())) == EVENTS
    sse_fast.register(f"{Own.__module__}.Own", lambda own: own.parts)
    assert asyncio.run(collect(aiter_events(Own()))) == EVENTS


def test_register_refuses_wrong_types() -> None:
    with pytest.raises(TypeError, match=r"Expected the name of a type as a str, got type"):
        sse_fast.register(Own, list)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected adapter to be callable, got NoneType"):
        sse_fast.register("a.B", None)  # type: ignore[arg-type]


def test_every_adapter_can_be_imported() -> None:
    for name in {a for a in _registry._ADAPTERS.values() if isinstance(a, str)}:
        assert callable(_registry._load_adapter(name))
    assert open_source(b"x").chunks == (b"x",)
