"""Every HTTP library delivers the same events, each without delay, over real servers."""

from __future__ import annotations

import gzip
import http.client
import threading
import zlib
from typing import Any

import anyio
import pytest
import requests
import urllib3

from sse_fast import EndReason, TransportError, aiter_events, iter_events
from sse_fast.adapters.httpx import _decoded_codings as decoded_codings
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import (
    EVENTS,
    HTTPX,
    OPENERS,
    READERS,
    STREAM,
    Outcome,
    Reader,
    collect,
    cross,
    plain,
    read_async,
)
from tests.support.faults import CHUNKED, FaultServer, byte_by_byte, chunk, framed, head, packed
from tests.support.server import Answer, Server

FRAMINGS = ["chunked", "close", "length"]
CODINGS = ["gzip", "br", "zstd"]
# The codings that are decoded, where those are not all three.
CODED = cross(READERS, CODINGS, FRAMINGS, once=1)
ONE, TWO, THREE = (b"data: %d\r\n\r\n" % number for number in (1, 2, 3))


def check_all(outcome: Outcome) -> None:
    """Check for the events of STREAM and a clean end."""
    assert outcome.error is None
    assert outcome.plain == EVENTS
    assert outcome.stream.end_reason is EndReason.END
    assert not outcome.stream.pending
    assert outcome.stream.last_event_id == "2"


# -- The same events -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reader", "framing", "size"), cross(READERS, FRAMINGS, [7, 1, 1000], once=1)
)
def test_events(reader: Reader, faults: FaultServer, framing: str, size: int) -> None:
    parts = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
    faults.scripts["/"] = framed(framing, parts)
    check_all(reader.read(faults.url + "/"))


@pytest.mark.parametrize(("reader", "framing"), cross(READERS, FRAMINGS))
def test_events_sent_byte_by_byte(reader: Reader, faults: FaultServer, framing: str) -> None:
    faults.scripts["/"] = byte_by_byte(framed(framing, [STREAM[:20], STREAM[20:]]))
    arrived: list[bytes] = []
    check_all(reader.read(faults.url + "/", options={"on_chunk": arrived.append}))
    assert b"".join(arrived) == STREAM
    assert len(arrived) > 5


@pytest.mark.parametrize(("reader", "coding", "framing"), CODED)
def test_coding_is_decoded(reader: Reader, faults: FaultServer, framing: str, coding: str) -> None:
    parts = packed(coding, [STREAM[:20], STREAM[20:]])
    script = framed(framing, parts, f"Content-Encoding: {coding}")
    faults.scripts["/"] = [b"".join(script)]
    check_all(reader.read(faults.url + "/"))


# Browsers and all libraries take what they do not know for no coding, and so does the adapter.
MEANINGLESS = ["none", "UTF-8", "Identity", "utf-8, none", "compress", ""]


@pytest.mark.parametrize(
    ("reader", "coding"),
    cross(READERS, MEANINGLESS, once=1),
)
def test_unknown_coding_is_identity(reader: Reader, faults: FaultServer, coding: str) -> None:
    faults.scripts["/"] = framed("chunked", [STREAM], f"Content-Encoding: {coding}")
    check_all(reader.read(faults.url + "/"))


@pytest.mark.parametrize("wrapped", [True, False], ids=["zlib", "raw"])
def test_deflate_is_decoded(reader: Reader, faults: FaultServer, wrapped: bool) -> None:
    """Some servers send deflate without the frame of zlib."""
    packer = zlib.compressobj(wbits=15 if wrapped else -15)
    body = packer.compress(STREAM) + packer.flush()
    faults.scripts["/"] = framed("chunked", [body], "Content-Encoding: deflate")
    check_all(reader.read(faults.url + "/"))


@pytest.mark.parametrize(
    ("name", "coding"),
    [
        ("httpx", "x-gzip"),
        ("httpx asyncio", "x-gzip"),
        ("aiohttp", "x-gzip"),
        ("aiohttp", "gzip, gzip"),
    ],
)
def test_known_coding_left_encoded_raises(name: str, coding: str, faults: FaultServer) -> None:
    """The body is not taken for a stream without events."""
    body = gzip.compress(STREAM)
    faults.scripts["/"] = framed("chunked", [body], f"Content-Encoding: {coding}")
    outcome = READERS[name].read(faults.url + "/")
    assert outcome.events == []
    assert isinstance(outcome.error, TransportError)
    assert f"{coding!r} of the body is not decoded" in str(outcome.error)


def test_missing_decoders_of_httpx_are_noticed() -> None:
    """Without brotli or zstandard, httpx returns such a body as it is."""

    class Response:
        def __init__(self, status: int, headers: Any, content: bytes) -> None:
            self.content = content

    assert decoded_codings(Response) == {"gzip", "deflate"}
    for module in HTTPX:
        assert decoded_codings(module.Response) == {"gzip", "deflate", "br", "zstd"}


def test_several_codings_are_decoded_by_httpx_and_urllib3(faults: FaultServer) -> None:
    body = gzip.compress(gzip.compress(STREAM))
    faults.scripts["/"] = framed("chunked", [body], "Content-Encoding: gzip, gzip")
    for name in ("httpx", "httpx trio", "urllib3", "requests"):
        check_all(READERS[name].read(faults.url + "/"))


@pytest.mark.parametrize("method", ["HEAD", "GET"])
def test_coding_of_empty_body_is_no_error(faults: FaultServer, method: str) -> None:
    length = 10 if method == "HEAD" else 0
    faults.scripts["/"] = [head("Content-Encoding: gzip", f"Content-Length: {length}")]
    connection = http.client.HTTPConnection(faults.url.removeprefix("http://"))
    connection.request(method, "/")
    assert list(iter_events(connection.getresponse())) == []
    connection.close()


@pytest.mark.parametrize("name", ["urllib.request", "http.client"])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_gzip_file_decodes_for_http_client(server: Server, name: str, framing: str) -> None:
    """The adapter decodes as well, so that it is not needed."""
    server.answers["/"] = Answer([STREAM[:20], STREAM[20:]], framing, gzip=True)
    with OPENERS[name](server.url + "/") as response, gzip.GzipFile(fileobj=response) as decoded:
        assert plain(iter_events(decoded)) == EVENTS
    with OPENERS[name](server.url + "/") as response:
        assert plain(iter_events(response)) == EVENTS


def test_events_of_sse_starlette(reader: Reader, uvicorn_server: AsgiServer) -> None:
    uvicorn_server.answers["/"] = AsgiAnswer(
        [{"id": "1", "event": "é", "data": "日本\n🚀"}, {"id": "2", "data": "b"}]
    )
    check_all(reader.read(uvicorn_server.url + "/"))


def test_pings_of_sse_starlette_are_comments(reader: Reader, uvicorn_server: AsgiServer) -> None:
    pinged = threading.Event()
    uvicorn_server.answers["/"] = AsgiAnswer([{"data": "1"}, pinged, {"data": "2"}])
    arrived: list[bytes] = []

    def on_comment(comment: str) -> None:
        assert "ping" in comment
        pinged.set()

    options = {"on_comment": on_comment, "on_chunk": arrived.append}
    outcome = reader.read(uvicorn_server.url + "/", options=options)
    assert outcome.error is None
    assert [event.data for event in outcome.events] == ["1", "2"]
    assert b"data: 1\r\n\r\n" in b"".join(arrived)


def test_events_over_tls_and_http2(tls_reader: Reader, hypercorn_server: AsgiServer) -> None:
    for size in [1, 7, 1000]:
        parts = [STREAM[at : at + size] for at in range(0, len(STREAM), size)]
        hypercorn_server.answers["/"] = AsgiAnswer(parts)
        outcome = tls_reader.read(hypercorn_server.url + "/", ca=hypercorn_server.ca)
        check_all(outcome)
        if tls_reader.http2:
            assert outcome.stream.response.raw.http_version == "HTTP/2"


# -- Without delay ---------------------------------------------------------------------------------


class Taken:
    """A script whose parts each wait until the event of the previous part was taken."""

    def __init__(self, *numbers: int) -> None:
        self.parts: list[Any] = []
        self._events: dict[int, threading.Event] = {}
        for number in numbers:
            self._events[number] = threading.Event()
            self.parts += [b"data: %d\r\n\r\n" % number, self._events[number]]

    def __call__(self, count: int) -> None:
        self._events[count].set()

    def check(self, outcome: Outcome) -> None:
        """Check the outcome; the server asserts that no part waited in vain."""
        assert outcome.error is None
        assert [int(event.data) for event in outcome.events] == [*self._events]
        assert outcome.stream.end_reason is EndReason.END


@pytest.mark.parametrize(("reader", "framing"), cross(READERS, FRAMINGS, once=1))
def test_event_delivered_before_next_is_sent(
    reader: Reader, faults: FaultServer, framing: str
) -> None:
    taken = Taken(1, 2, 3)
    faults.scripts["/"] = framed(framing, taken.parts)
    taken.check(reader.read(faults.url + "/", taken))


@pytest.mark.parametrize(("reader", "coding", "framing"), CODED)
def test_compressed_event_delivered_before_next_is_sent(
    reader: Reader, faults: FaultServer, framing: str, coding: str
) -> None:
    taken = Taken(1, 2, 3)
    parts = packed(coding, taken.parts)
    faults.scripts["/"] = framed(framing, parts, f"Content-Encoding: {coding}")
    taken.check(reader.read(faults.url + "/", taken))


@pytest.mark.parametrize(
    ("reader", "coding", "framing"), [*cross(READERS, [None], FRAMINGS), *CODED]
)
def test_events_sent_with_head_are_delivered_immediately(
    reader: Reader, faults: FaultServer, framing: str, coding: str | None
) -> None:
    """The head and two events come in one packet, and the body stays open."""
    hold = threading.Event()
    parts: list[Any] = [ONE + TWO, hold, THREE]
    fields = []
    if coding is not None:
        parts, fields = [*packed(coding, parts)], [f"Content-Encoding: {coding}"]
    start, first, *rest = framed(framing, parts, *fields)
    faults.scripts["/"] = [start + first, *rest]

    async def use(stream: Any) -> list[str]:
        seen = [(await anext(stream)).data, (await anext(stream)).data]
        hold.set()
        return seen + [event.data async for event in stream]

    assert reader.follow(use, faults.url + "/") == ["1", "2", "3"]


def test_event_delivered_before_end_of_http_chunk(reader: Reader, faults: FaultServer) -> None:
    taken = Taken(1, 2, 3)
    one, first, two, second, three, third = taken.parts
    start, end = chunk(one + two + three).split(one)
    faults.scripts["/"] = [
        head(CHUNKED) + start + one,
        first,
        two + three[:4],
        second,
        three[4:] + end[len(two + three) :],
        third,
        chunk(b""),
    ]
    taken.check(reader.read(faults.url + "/", taken))


def test_event_delivered_at_lone_cr(reader: Reader, faults: FaultServer) -> None:
    taken = Taken(1, 2)
    # A lone CR ends the blank line.
    parts = [part[:-2] + b"\r" if isinstance(part, bytes) else part for part in taken.parts]
    faults.scripts["/"] = framed("close", parts)
    taken.check(reader.read(faults.url + "/", taken))


def test_event_over_tls_delivered_before_next_is_sent(
    tls_reader: Reader, hypercorn_server: AsgiServer
) -> None:
    taken = Taken(1, 2, 3)
    hypercorn_server.answers["/"] = AsgiAnswer(taken.parts)
    taken.check(tls_reader.read(hypercorn_server.url + "/", taken, ca=hypercorn_server.ca))


def test_event_of_sse_starlette_delivered_before_next(
    reader: Reader, uvicorn_server: AsgiServer
) -> None:
    taken = Taken(1, 2)
    _, first, _, second = taken.parts
    uvicorn_server.answers["/"] = AsgiAnswer([{"data": "1"}, first, {"data": "2"}, second])
    taken.check(reader.read(uvicorn_server.url + "/", taken))


# -- The response ----------------------------------------------------------------------------------


def check_response(stream: Any, raw: Any, url: str) -> None:
    response = stream.response
    assert response.status == 200
    assert response.headers["x-a"] == response.headers["X-A"] == "b"
    assert dict(response.headers)["x-a"] == "b"
    assert response.raw is raw
    assert response.body == b""
    # http.client does not know the URL, urllib3 only its path.
    assert response.url in (url, "/p?q=secret", "")
    assert "secret" not in repr(response)
    assert "b" not in repr(response.headers).split()


def test_response_has_same_attributes(opener: Any, server: Server) -> None:
    server.answers["/p"] = Answer(
        [STREAM], headers={"Content-Type": "text/event-stream", "X-A": "b"}
    )
    url = server.url + "/p?q=secret"
    with opener(url) as raw, iter_events(raw) as events:
        check_response(events, raw, url)


def test_response_has_same_attributes_async(aopener: Any, server: Server) -> None:
    server.answers["/p"] = Answer(
        [STREAM], headers={"Content-Type": "text/event-stream", "X-A": "b"}
    )
    url = server.url + "/p?q=secret"

    async def read(raw: Any) -> None:
        async with aiter_events(raw) as events:
            await anext(events)
            check_response(events, raw, url)
            assert events.response.url == url

    read_async(aopener, url, read)


def is_closed(response: Any) -> bool:
    """Return whether the library reports that the response was closed."""
    if isinstance(response, requests.Response):
        return response.raw.closed
    if isinstance(response, (http.client.HTTPResponse, urllib3.HTTPResponse)):
        return response.closed
    return response.is_closed if hasattr(response, "is_closed") else response.closed


def test_end_of_stream_closes_response(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    with opener(server.url + "/") as response:
        events = iter_events(response, until="b")
        assert len(list(events)) == 1
        assert is_closed(response)
    with opener(server.url + "/") as response:
        with iter_events(response) as events:
            next(events)
            assert not is_closed(response)
        assert is_closed(response)


def test_end_of_stream_closes_response_async(aopener: Any, server: Server) -> None:
    # The body stays open, so that only the stream can close the response.
    hold = threading.Event()
    server.answers["/"] = Answer([STREAM], hold=hold)

    async def read_until(response: Any) -> None:
        assert len([event async for event in aiter_events(response, until="b")]) == 1
        assert is_closed(response)

    async def read_one(response: Any) -> None:
        async with aiter_events(response) as events:
            await anext(events)
            assert not is_closed(response)
        assert is_closed(response)

    try:
        read_async(aopener, server.url + "/", read_until)
        read_async(aopener, server.url + "/", read_one)
    finally:
        hold.set()


# -- Bodies that were read before ------------------------------------------------------------------


def test_body_read_before_is_parsed(server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    url = server.url + "/"
    assert plain(iter_events(requests.get(url))) == EVENTS
    assert plain(iter_events(urllib3.PoolManager().request("GET", url))) == EVENTS
    for module in HTTPX:
        assert plain(iter_events(module.get(url))) == EVENTS
    for name in ["requests", "urllib3", *(module.__name__ for module in HTTPX)]:
        with OPENERS[name](url) as response:
            if name == "requests":
                assert response.content == STREAM
            else:
                response.read(**({"cache_content": True} if name == "urllib3" else {}))
            assert plain(iter_events(response)) == EVENTS


def test_body_read_before_is_parsed_async(aopener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])

    async def read(response: Any) -> None:
        await (response.aread if hasattr(response, "aread") else response.read)()
        assert await collect(aiter_events(response)) == EVENTS
        # Nothing is left to await, so iter_events accepts it too.
        assert plain(iter_events(response)) == EVENTS

    read_async(aopener, server.url + "/", read)


@pytest.mark.parametrize("module", HTTPX, ids=lambda module: module.__name__)
def test_response_made_by_hand_is_parsed(module: Any) -> None:
    headers = {"Content-Type": "text/event-stream"}
    response = module.Response(200, headers=headers, content=STREAM)
    assert plain(iter_events(response)) == EVENTS


def test_consumed_body_raises(opener: Any, server: Server) -> None:
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


def test_consumed_body_raises_async(aopener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])

    async def read(response: Any) -> None:
        assert await collect(aiter_events(response)) == EVENTS
        with pytest.raises(TransportError):
            await anext(aiter_events(response))

    async def close(response: Any) -> None:
        # Bytes that have arrived are gone after the close, too.
        await anyio.sleep(0.01)
        closing = response.aclose() if hasattr(response, "aclose") else response.close()
        if closing is not None:
            await closing
        with pytest.raises(TransportError):
            await anext(aiter_events(response))

    read_async(aopener, server.url + "/", read)
    read_async(aopener, server.url + "/", close)


def test_iterated_body_of_requests_raises(server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    response = requests.get(server.url + "/", stream=True)
    assert list(response.iter_lines())
    with pytest.raises(TransportError, match="read or closed before"):
        next(iter_events(response))


@pytest.mark.parametrize(("reader", "framing"), cross(READERS, FRAMINGS, once=1))
def test_empty_body_has_no_events(reader: Reader, faults: FaultServer, framing: str) -> None:
    faults.scripts["/"] = framed(framing, [])
    outcome = reader.read(faults.url + "/")
    assert (outcome.events, outcome.error) == ([], None)
    assert outcome.stream.end_reason is EndReason.END


def test_empty_body_read_before_has_no_events(server: Server) -> None:
    server.answers["/"] = Answer([], "close")
    assert list(iter_events(requests.get(server.url + "/"))) == []
    assert list(iter_events(urllib3.PoolManager().request("GET", server.url + "/"))) == []


# -- Sync and async confused ----------------------------------------------------------------------


def test_iter_events_refuses_async_response(aopener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])

    async def read(response: Any) -> None:
        with pytest.raises(TypeError, match=r"async for event in sse_fast\.aiter_events"):
            iter_events(response)

    read_async(aopener, server.url + "/", read)


def test_aiter_events_refuses_blocking_response(opener: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    with (
        opener(server.url + "/") as response,
        pytest.raises(TypeError, match="use iter_events, or an async client"),
    ):
        aiter_events(response)
