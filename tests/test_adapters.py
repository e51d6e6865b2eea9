"""iter_events and aiter_events over the real libraries, against a real server."""

from __future__ import annotations

import array
import asyncio
import gzip
import http.client
import io
import os
import pathlib
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
import requests
import urllib3
from server import Answer, Server

import sse_fast
from sse_fast import EndReason, ResponseError, SSEError, TransportError, aiter_events, iter_events
from sse_fast.adapters import open_source

try:
    import httpx2
except ImportError:  # It wants Python 3.11.
    httpx2 = None

STREAM = "id: 1\r\nevent: é\r\ndata: 日本\r\ndata: 🚀\r\n\r\nid: 2\r\ndata: b\r\n\r\n".encode()
EVENTS = [("é", "日本\n🚀", "1"), ("message", "b", "2")]
HTTPX = [httpx] if httpx2 is None else [httpx, httpx2]


def plain(events: Any) -> list[tuple[str, Any, str]]:
    return [(event.event, event.data, event.id) for event in events]


# -- Openers: one way per library to get a streaming response -----------------------------------


@contextmanager
def open_requests(url: str) -> Iterator[Any]:
    with requests.Session() as session:
        yield session.get(url, stream=True)


@contextmanager
def open_urllib3(url: str) -> Iterator[Any]:
    with urllib3.PoolManager() as pool:
        yield pool.request("GET", url, preload_content=False, retries=False)


class _EveryStatus(urllib.request.HTTPErrorProcessor):
    def http_response(self, request: Any, response: Any) -> Any:
        return response


@contextmanager
def open_urllib_request(url: str) -> Iterator[Any]:
    with urllib.request.build_opener(_EveryStatus).open(url) as response:
        yield response


@contextmanager
def open_http_client(url: str) -> Iterator[Any]:
    host, _, path = url.removeprefix("http://").partition("/")
    connection = http.client.HTTPConnection(host)
    connection.request("GET", "/" + path)
    yield connection.getresponse()
    connection.close()


def httpx_opener(module: Any) -> Callable[[str], Any]:
    @contextmanager
    def opener(url: str) -> Iterator[Any]:
        with module.Client() as client, client.stream("GET", url) as response:
            yield response

    return opener


OPENERS: dict[str, Callable[[str], Any]] = {
    "requests": open_requests,
    "urllib3": open_urllib3,
    "urllib.request": open_urllib_request,
    "http.client": open_http_client,
    **{module.__name__: httpx_opener(module) for module in HTTPX},
}


@pytest.fixture(params=OPENERS)
def opener(request: pytest.FixtureRequest) -> Any:
    return OPENERS[request.param]


@pytest.fixture(params=HTTPX, ids=lambda module: module.__name__)
def async_httpx(request: pytest.FixtureRequest) -> Any:
    return request.param


def read_async(module: Any, url: str, read: Callable[[Any], Any]) -> Any:
    """What `read` returns of a response of an async client."""

    async def run() -> Any:
        async with module.AsyncClient() as client, client.stream("GET", url) as response:
            return await read(response)

    return asyncio.run(run())


async def collect(stream: Any) -> list[tuple[str, Any, str]]:
    return plain([event async for event in stream])


# -- What every library gives -------------------------------------------------------------------

FRAMINGS = ["chunked", "close", "length"]


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_events(opener: Any, server: Server, framing: str, size: int) -> None:
    chunks = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    server.answers["/"] = Answer(chunks, framing)
    with opener(server.url + "/") as response, iter_events(response) as events:
        assert plain(events) == EVENTS
        assert events.end_reason is EndReason.END
        assert not events.pending
        assert events.last_event_id == "2"


@pytest.mark.parametrize("framing", FRAMINGS)
def test_events_async(async_httpx: Any, server: Server, framing: str) -> None:
    server.answers["/"] = Answer([STREAM[:20], STREAM[20:]], framing)
    found = read_async(async_httpx, server.url + "/", lambda r: collect(aiter_events(r)))
    assert found == EVENTS


@pytest.mark.parametrize("framing", FRAMINGS)
def test_gzip(opener: Any, server: Server, framing: str) -> None:
    server.answers["/"] = Answer([STREAM[:20], STREAM[20:]], framing, gzip=True)
    with opener(server.url + "/") as response:
        if not isinstance(response, http.client.HTTPResponse):
            assert plain(iter_events(response)) == EVENTS
            return
        # It does not decode, and the standard library has something that does.
        with gzip.GzipFile(fileobj=response) as decoded:
            assert plain(iter_events(decoded)) == EVENTS
    refused = pytest.raises(TransportError, match="without content coding, got 'gzip'")
    with opener(server.url + "/") as response, refused:
        next(iter_events(response))


def test_gzip_async(async_httpx: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM[:20], STREAM[20:]], gzip=True)
    found = read_async(async_httpx, server.url + "/", lambda r: collect(aiter_events(r)))
    assert found == EVENTS


@pytest.mark.parametrize(
    ("framing", "packed"), [("chunked", False), ("close", False), ("chunked", True)]
)
def test_an_event_does_not_wait_for_the_next(
    opener: Any, server: Server, framing: str, packed: bool
) -> None:
    """While the body stays open, every event sent is there to be had."""
    hold = threading.Event()
    server.answers["/"] = Answer([b"data: 1\n\n", b"data: 2\n\n"], framing, gzip=packed, hold=hold)
    with opener(server.url + "/") as response:
        if packed and isinstance(response, http.client.HTTPResponse):
            return
        events = iter_events(response)
        try:
            assert plain([next(events), next(events)]) == [
                ("message", "1", ""),
                ("message", "2", ""),
            ]
        finally:
            hold.set()
        assert list(events) == []


def test_the_response_has_one_face(opener: Any, server: Server) -> None:
    server.answers["/p"] = Answer(
        [STREAM], headers={"Content-Type": "text/event-stream", "X-A": "b"}
    )
    with opener(server.url + "/p?q=secret") as raw, iter_events(raw) as events:
        response = events.response
        assert response.status == 200
        assert response.headers["x-a"] == response.headers["X-A"] == "b"
        assert dict(response.headers)["x-a"] == "b"
        assert response.raw is raw
        assert response.body == b""
        # http.client does not know the URL, urllib3 only its path.
        assert response.url in (server.url + "/p?q=secret", "/p?q=secret", "")
        assert "secret" not in repr(response)
        assert "b" not in repr(response.headers).split()


def test_the_end_gives_the_connection_free(server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    with httpx.Client() as client, client.stream("GET", server.url + "/") as response:
        events = iter_events(response, until="b")
        assert len(list(events)) == 1
        assert response.is_closed
    response = requests.get(server.url + "/", stream=True)
    with iter_events(response) as events:
        next(events)
    assert response.raw.closed


def test_a_body_that_is_cut_off(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([b"data: 1\n\ndata: 2\n"], "cut")
    with opener(server.url + "/") as response:
        events = iter_events(response)
        assert next(events).data == "1"
        with pytest.raises(TransportError) as caught:
            next(events)
        assert caught.value.__cause__ is not None
        assert events.pending
        assert events.end_reason is EndReason.ERROR


def test_a_body_that_is_shorter_than_it_said(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer(
        [b"data: 1\n\n"],
        "close",
        headers={"Content-Type": "text/event-stream", "Content-Length": "100"},
    )
    with opener(server.url + "/") as response:
        events = iter_events(response)
        assert next(events).data == "1"
        with pytest.raises(TransportError):
            next(events)
        assert events.end_reason is EndReason.ERROR


def test_a_chunk_that_came_in_part(opener: Any) -> None:
    """The events of a chunk of HTTP do not wait for its end, and outlive a cut within it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        cut = threading.Event()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
                    b"Transfer-Encoding: chunked\r\n\r\n64\r\ndata: 1\n\ndata: 2\n\ndata"
                )
                in_vain.append(not cut.wait(10))

        in_vain: list[bool] = []
        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with opener(f"http://127.0.0.1:{listener.getsockname()[1]}/") as response:
                events = iter_events(response)
                assert next(events).data == "1"
                cut.set()
                assert next(events).data == "2"
                with pytest.raises(TransportError):
                    next(events)
        finally:
            cut.set()
            thread.join()
        assert in_vain == [False]


def test_a_body_that_ends_within_an_event(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([b"data: 1\n\ndata: 2\n"], "close")
    with opener(server.url + "/") as response:
        events = iter_events(response)
        assert plain(events) == [("message", "1", "")]
        assert events.end_reason is EndReason.END
        assert events.pending


# -- The check ----------------------------------------------------------------------------------


def test_another_status_is_refused(opener: Any, server: Server) -> None:
    server.answers["/a"] = Answer(
        [b'{"error": "no"}'], "length", 429, {"Content-Type": "x/y", "Retry-After": "7"}
    )
    with opener(server.url + "/a?q=secret") as response:
        with pytest.raises(ResponseError, match="Expected status 200, got 429") as caught:
            iter_events(response)
        error = caught.value
        assert error.response.status == 429
        assert error.response.body == b'{"error": "no"}'
        assert error.retry_after == 7.0
        assert "secret" not in str(error)


def test_another_content_type_is_refused(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([b"<html>"], headers={"Content-Type": "text/html"})
    with opener(server.url + "/") as response:
        with pytest.raises(
            ResponseError, match="Expected content type 'text/event-stream', got 'text/html'"
        ) as caught:
            iter_events(response)
        assert caught.value.response.body == b"<html>"
        assert caught.value.retry_after is None


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("text/event-stream;charset=utf-8", True),
        ("text/event-stream ; charset=utf-8", True),
        ("text/event-stream; charset=iso-8859-1", True),
        ("text/event-streamX", False),
        ("application/text/event-stream", False),
        ("text/event-stream, text/html", False),
        (";text/event-stream", False),
    ],
)
def test_the_essence_of_the_content_type(server: Server, content_type: str, accepted: bool) -> None:
    server.answers["/"] = Answer([STREAM], headers={"Content-Type": content_type})
    with open_requests(server.url + "/") as response:
        if accepted:
            # Whatever the charset says, an event stream is UTF-8.
            assert plain(iter_events(response)) == EVENTS
        else:
            with pytest.raises(ResponseError):
                iter_events(response)


def test_no_content_type_is_refused(server: Server) -> None:
    server.answers["/"] = Answer([STREAM], headers={})
    with open_requests(server.url) as response, pytest.raises(ResponseError, match="got none"):
        iter_events(response)


def test_the_check_can_be_left_out(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM], "length", 201, {})
    with opener(server.url + "/") as response:
        assert plain(iter_events(response, check=False)) == EVENTS


def test_no_content_ends_at_once(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([], "none", 204, {})
    with opener(server.url + "/") as response:
        events = iter_events(response)
        # Free at once, before anybody asks for an event.
        assert not hasattr(response, "is_closed") or response.is_closed
        assert list(events) == []
        assert events.end_reason is EndReason.NO_CONTENT
    with opener(server.url + "/") as response:
        events = iter_events(response, check=False)
        assert list(events) == []
        assert events.end_reason is EndReason.END


def test_the_async_check_comes_with_the_first_event(async_httpx: Any, server: Server) -> None:
    server.answers["/"] = Answer(
        [b"no"], "length", 503, {"Retry-After": "Wed, 21 Oct 2115 07:28:00 GMT"}
    )
    server.answers["/204"] = Answer([], "none", 204, {})

    async def read(response: Any) -> None:
        stream = aiter_events(response)
        assert stream.end_reason is None
        with pytest.raises(ResponseError, match="got 503") as caught:
            await anext(stream)
        assert caught.value.response.body == b"no"
        assert caught.value.retry_after > 10**9
        assert stream.end_reason is EndReason.ERROR
        assert response.is_closed
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def read_204(response: Any) -> None:
        stream = aiter_events(response)
        assert [event async for event in stream] == []
        assert stream.end_reason is EndReason.NO_CONTENT

    read_async(async_httpx, server.url + "/", read)
    read_async(async_httpx, server.url + "/204", read_204)


def test_the_body_of_a_refused_response_is_bounded(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([b"x" * 50_000] * 10, status=500)
    with opener(server.url + "/") as response:
        with pytest.raises(ResponseError) as caught:
            iter_events(response)
        assert caught.value.response.body == b"x" * 65536


def test_a_refused_response_that_goes_on_and_on(
    opener: Any, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sse_fast.adapters._MAX_BODY_SECONDS", 0.05)
    server.answers["/"] = Answer([b"more "] * 600, status=500, delay=0.02)
    with opener(server.url + "/") as response:
        with pytest.raises(ResponseError) as caught:
            iter_events(response)
        assert 0 < len(caught.value.response.body) < 600


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
        ("Mon, 01 Jan 99999999999 00:00:00 GMT", None),
        ("-1", None),
        ("\u0663", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after(value: str, seconds: float | None) -> None:
    response = httpx.Response(503, headers=[(b"Retry-After", value.encode())], content=b"")
    with pytest.raises(ResponseError) as caught:
        iter_events(response)
    assert caught.value.retry_after == seconds


def test_a_refused_response_that_breaks_off_is_refused_all_the_same(
    opener: Any, server: Server
) -> None:
    server.answers["/"] = Answer([b"half"], "cut", 500)
    with opener(server.url + "/") as response:
        with pytest.raises(ResponseError) as caught:
            iter_events(response)
        assert caught.value.response.body == b"half"


# -- Bodies that were read before ---------------------------------------------------------------


def test_a_body_that_was_read_already(server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    url = server.url + "/"
    assert plain(iter_events(requests.get(url))) == EVENTS
    assert plain(iter_events(urllib3.PoolManager().request("GET", url))) == EVENTS
    for module in HTTPX:
        assert plain(iter_events(module.get(url))) == EVENTS
        with module.Client() as client, client.stream("GET", url) as response:
            response.read()
            assert plain(iter_events(response)) == EVENTS


def test_a_body_that_was_read_already_async(async_httpx: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])

    async def run() -> None:
        async with async_httpx.AsyncClient() as client:
            response = await client.get(server.url + "/")
            assert await collect(aiter_events(response)) == EVENTS
            # Nothing is left to await, so either way is open.
            assert plain(iter_events(response)) == EVENTS

    asyncio.run(run())


def test_the_async_body_of_a_refused_response_is_bounded(async_httpx: Any, server: Server) -> None:
    server.answers["/"] = Answer([b"x" * 50_000] * 10, status=500)

    async def read(response: Any) -> None:
        with pytest.raises(ResponseError) as caught:
            await anext(aiter_events(response))
        assert caught.value.response.body == b"x" * 65536

    read_async(async_httpx, server.url + "/", read)


def test_an_async_check_that_is_cancelled(async_httpx: Any, server: Server) -> None:
    hold = threading.Event()
    server.answers["/"] = Answer([b"begun"], status=500, hold=hold)

    async def read(response: Any) -> None:
        stream = aiter_events(response)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(anext(stream), 0.1)
        assert stream.end_reason is None
        with pytest.raises(ResponseError) as caught:
            await anext(stream)
        assert caught.value.response.body == b"begun"
        hold.set()

    read_async(async_httpx, server.url + "/", read)


def test_headers_and_urls() -> None:
    fields = [(b"Content-Type", b"text/plain"), (b"X-A", b"1"), (b"x-a", b"2"), (b"Set", b"secret")]
    request = httpx.Request("GET", "http://user:secret@host/path?secret#secret")
    response = httpx.Response(200, headers=fields, content=b"", request=request)
    with pytest.raises(ResponseError) as caught:
        iter_events(response)
    face = caught.value.response
    assert face.headers["X-A"] == "1, 2"
    assert len(face.headers) == 3
    assert str(caught.value).endswith("'text/plain': http://host/path")
    assert repr(face) == "<Response 200 http://host/path>"
    assert "secret" not in repr(face.headers)


def test_a_response_made_by_hand(async_httpx: Any) -> None:
    headers = {"Content-Type": "text/event-stream"}
    response = async_httpx.Response(200, headers=headers, content=STREAM)
    assert plain(iter_events(response)) == EVENTS


def test_a_body_that_is_gone(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    gone = pytest.raises(TransportError)
    with opener(server.url + "/") as response:
        assert plain(iter_events(response)) == EVENTS
        with gone:
            next(iter_events(response))
    with opener(server.url + "/") as response:
        response.close()
        with gone:
            next(iter_events(response))


def test_a_body_that_was_iterated_over(server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    response = requests.get(server.url + "/", stream=True)
    assert list(response.iter_lines())
    with pytest.raises(TransportError, match="got one that was read or closed before"):
        next(iter_events(response))


def test_an_empty_body(opener: Any, server: Server) -> None:
    for framing in ["length", "chunked", "close"]:
        server.answers["/"] = Answer([], framing)
        with opener(server.url + "/") as response:
            assert list(iter_events(response)) == []
    assert list(iter_events(requests.get(server.url + "/"))) == []
    assert list(iter_events(urllib3.PoolManager().request("GET", server.url + "/"))) == []


# -- The wrong way round ------------------------------------------------------------------------


def test_an_async_response_wants_aiter_events(async_httpx: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])

    async def read(response: Any) -> None:
        with pytest.raises(TypeError, match=r"async for event in sse_fast\.aiter_events"):
            iter_events(response)

    read_async(async_httpx, server.url + "/", read)


def test_a_blocking_response_wants_iter_events(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    with (
        opener(server.url + "/") as response,
        pytest.raises(TypeError, match="use iter_events, or an async client"),
    ):
        aiter_events(response)


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
def test_bytes_and_iterables(source: Any) -> None:
    assert plain(iter_events(source)) == EVENTS
    assert asyncio.run(collect(aiter_events(source))) == EVENTS


def test_an_array_is_a_buffer() -> None:
    assert plain(iter_events(array.array("B", STREAM))) == EVENTS
    assert plain(iter_events([array.array("B", STREAM)])) == EVENTS


def test_a_buffer_may_be_used_again() -> None:
    """Also by a caller that keeps an exception, and with it the frames that saw the buffer."""
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


def test_an_object_of_both_kinds(async_httpx: Any) -> None:
    assert plain(iter_events(async_httpx.ByteStream(STREAM))) == EVENTS
    assert asyncio.run(collect(aiter_events(async_httpx.ByteStream(STREAM)))) == EVENTS


def test_a_bytearray_is_not_locked() -> None:
    source = bytearray(STREAM)
    events = iter_events(source)
    source.clear()
    assert plain(events) == EVENTS


def test_generators() -> None:
    async def chunks() -> Any:
        for byte in STREAM:
            yield bytes([byte])

    assert plain(iter_events(bytes([byte]) for byte in STREAM)) == EVENTS
    assert asyncio.run(collect(aiter_events(chunks()))) == EVENTS
    with pytest.raises(TypeError, match="aiter_events"):
        iter_events(chunks())


def test_files(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "stream"
    path.write_bytes(STREAM)
    with path.open("rb") as file, path.open("rb", buffering=0) as raw:
        assert plain(iter_events(file)) == EVENTS
        assert plain(iter_events(raw)) == EVENTS
        # Borrowed: they stay open.
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


def test_a_file_gives_what_there_is() -> None:
    """A pipe that stays open: read1() and not read()."""
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
def test_a_file_that_does_not_block_is_refused() -> None:
    near, far = os.pipe()
    os.set_blocking(near, False)
    refused = pytest.raises(TypeError, match="got a non-blocking file")
    with os.fdopen(near, "rb") as file, os.fdopen(far, "wb"), refused:
        iter_events(file)


def test_a_stream_reader() -> None:
    """Not by lines, as its own `async for` would go: a lone CR is an end of line too."""

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


# -- Sockets ------------------------------------------------------------------------------------


def test_a_socket() -> None:
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


def test_a_socket_async() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(STREAM)
        far.shutdown(socket.SHUT_WR)
        with pytest.raises(SSEError, match="non-blocking"):
            asyncio.run(collect(aiter_events(near)))
        near.setblocking(False)
        assert asyncio.run(collect(aiter_events(near))) == EVENTS


def test_a_socket_that_times_out() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.settimeout(0.01)
        with pytest.raises(sse_fast.StreamTimeout) as caught:
            next(iter_events(near))
        assert isinstance(caught.value.__cause__, TimeoutError)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_response_head_on_a_bare_socket(size: int) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    near, far = socket.socketpair()
    with near, far:
        for at in range(0, len(head), size):
            far.sendall(head[at : at + size])
            time.sleep(0)
        with pytest.raises(SSEError, match="got the head of an HTTP response: read the head first"):
            next(iter_events(near))


def test_what_only_begins_like_a_head() -> None:
    near, far = socket.socketpair()
    with near, far:
        far.sendall(b"HTT\n")
        far.sendall(STREAM)
        far.close()
        assert plain(iter_events(near)) == EVENTS


# -- What is no source --------------------------------------------------------------------------


class AsyncFile:
    """What upload handlers and aiohttp have: a read() to be awaited."""

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
def test_what_is_no_source(source: Any, message: str) -> None:
    for opening in (iter_events, aiter_events):
        with pytest.raises(TypeError, match=message) as caught:
            opening(source)
        assert "Expected a response, a binary file, a socket, an iterable" in str(caught.value)


def test_a_text_file_within_something_else() -> None:
    refused = pytest.raises(TypeError, match="got a text file")
    with tempfile.NamedTemporaryFile("w+") as file, refused:
        iter_events(file)


def test_an_iterable_in_an_async_stream_is_closed() -> None:
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


def test_wrong_options_come_first() -> None:
    with pytest.raises(TypeError, match="unexpected keyword"):
        iter_events(b"", wrong=1)
    with pytest.raises(ValueError, match="max_event_size"):
        iter_events(b"", max_event_size=0)


# -- register -----------------------------------------------------------------------------------


class Own:
    """A type of the user's own, and one below it."""

    def __init__(self) -> None:
        self.parts = [STREAM[:5], STREAM[5:]]


class OwnBelow(Own): ...


def test_register(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sse_fast.adapters._ADAPTERS", {})
    with pytest.raises(TypeError, match=r"got .*\.Own; |got .*Own"):
        iter_events(Own())
    sse_fast.register(f"{Own.__module__}.Own", lambda own: own.parts)
    assert plain(iter_events(Own())) == EVENTS
    assert plain(iter_events(OwnBelow())) == EVENTS
    sse_fast.register(f"{Own.__module__}.Own", lambda own: bytearray(STREAM))
    assert plain(iter_events(Own())) == EVENTS
    sse_fast.register(f"{Own.__module__}.Own", lambda own: own.parts)
    assert asyncio.run(collect(aiter_events(Own()))) == EVENTS


def test_register_refuses() -> None:
    with pytest.raises(TypeError, match=r"Expected the name of a type as a str, got type"):
        sse_fast.register(Own, list)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Expected adapter to be callable, got NoneType"):
        sse_fast.register("a.B", None)  # type: ignore[arg-type]


def test_every_adapter_in_the_table_is_there() -> None:
    from importlib import import_module

    for name in {a for a in sse_fast.adapters._ADAPTERS.values() if isinstance(a, str)}:
        assert callable(import_module(f"sse_fast.adapters.{name}").open_source)
    assert open_source(b"x").chunks == (b"x",)
