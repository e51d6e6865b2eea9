"""Responses whose head or framing is not to the letter, and which other clients read or refuse."""

from __future__ import annotations

import asyncio
import http.client
from collections.abc import Callable
from random import Random
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

from sse_fast import TransportError, aopen_stream, open_stream
from sse_fast._http1 import aio, blocking
from sse_fast._http1.exchange import Exchange
from sse_fast._http1.message import Message
from sse_fast._request import Request
from tests.support.faults import FaultServer

REQUEST = Message("http://host/", "GET", False, "host", 80, b"")
A, B = b"data: a\n\n", b"data: b\n\n"
STREAM = A + B
OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


def chunk(data: bytes, size: bytes = b"", end: bytes = b"\r\n") -> bytes:
    return (size or b"%x" % len(data)) + end + data + end


def sized(size: bytes) -> bytes:
    """Make a response of two chunks with that size line."""
    return CHUNKED + chunk(A, size) + chunk(B, size) + LAST


def coded(coding: str) -> bytes:
    """Make a chunked response whose Transfer-Encoding has that value."""
    return OK + f"Transfer-Encoding: {coding}\r\n\r\n".encode() + chunk(STREAM) + LAST


def long(*lengths: str, body: bytes = STREAM) -> bytes:
    """Make a response with these Content-Length fields."""
    return OK + "".join(f"Content-Length: {each}\r\n" for each in lengths).encode() + b"\r\n" + body


def with_field(line: bytes) -> bytes:
    return OK + line + b"\r\nX: y\r\n\r\n" + STREAM


def replaced(old: bytes, new: bytes) -> bytes:
    return (OK + b"\r\n").replace(old, new) + STREAM


# Whether curl 7.88, http.client of Python 3.11, urllib3 2.8, requests 2.34, httpx 0.28 and aiohttp
# 3.14 read the same: y, or w for another body without an error, or e for an error.
READ: dict[str, tuple[str, bytes]] = {
    "chunk size, space": ("yyyyyy", sized(b"9 ")),
    "chunk size, padded": ("yyyyyy", sized(b"9       ")),
    "chunk size, tab": ("yyyyyy", sized(b"9\t")),
    "chunk size, leading space": ("eyyyee", sized(b" 9")),
    "chunk size, zeros": ("yyyyyy", sized(b"009")),
    "chunk size, many zeros": ("eyyyey", sized(b"0" * 32 + b"9")),
    "extension": ("yyyyyy", sized(b"9;a=b")),
    "extension, quoted": ("yyyyyy", sized(b'9;a="x;y"')),
    "extension, empty": ("yyyyye", sized(b"9;")),
    "extension, spaces": ("yyyyee", sized(b"9 ; a = b")),
    "extension, noise": ("yyyyye", sized(b'9;\x01(@)"\xff')),
    "chunk size, LF": ("yyyyee", CHUNKED + b"9\n" + A + b"\r\n9\n" + B + b"\r\n" + LAST),
    "chunk data, LF": ("yeeeey", CHUNKED + b"9\r\n" + A + b"\n9\r\n" + B + b"\n" + LAST),
    "chunks, LF": ("yeeeee", CHUNKED + chunk(A, end=b"\n") + chunk(B, end=b"\n") + b"0\n\n"),
    "last chunk, zeros": ("yyyyyy", CHUNKED + chunk(STREAM) + b"000\r\n\r\n"),
    "last chunk, space": ("yyyyyy", CHUNKED + chunk(STREAM) + b"0 \r\n\r\n"),
    "last chunk, extension": ("yyyyyy", CHUNKED + chunk(STREAM) + b"0;a=b\r\n\r\n"),
    "last chunk, no empty line": ("eyyyee", CHUNKED + chunk(STREAM) + b"0\r\n"),
    "trailer": ("yyyyyy", CHUNKED + chunk(STREAM) + b"0\r\nX: y\r\n\r\n"),
    "trailer, LF": ("yyyyyy", CHUNKED + chunk(STREAM) + b"0\r\nX: y\n\n"),
    "head, LF": ("yyyyyy", replaced(b"\r\n", b"\n")),
    "head, LF, chunked": ("yyyyyy", CHUNKED.replace(b"\r\n", b"\n") + chunk(STREAM) + LAST),
    "head, CRLF after LF": ("yyyyyy", replaced(b"stream\r\n", b"stream\n")),
    "head, LF after CRLF": ("yyyyyy", replaced(b"stream\r\n\r\n", b"stream\r\n\n")),
    "head, CR CR LF": ("yyyyee", with_field(b"X: a\r")),
    "folded line": ("yyyyyy", with_field(b"X: a\r\n b")),
    "folded value": ("yyyyyy", replaced(b"Type: ", b"Type:\r\n\t")),
    "no reason": ("yyyyyy", replaced(b" OK", b"")),
    "no reason, space": ("yyyyyy", replaced(b"OK", b"")),
    "reason, any bytes": ("yyyyyy", replaced(b"OK", b"\xc3\xa9\xff")),
    "status line, two spaces": ("yyyyee", replaced(b" 200", b"  200")),
    "status line, tab": ("eyyyee", replaced(b" 200", b"\t200")),
    "HTTP/1.0": ("yyyyyy", replaced(b"1.1", b"1.0")),
    "HTTP/1.0, chunked": ("yyyyyy", CHUNKED.replace(b"1.1", b"1.0") + chunk(STREAM) + LAST),
    "HTTP/1.2": ("eyyyye", replaced(b"1.1", b"1.2")),
    "empty line first": ("eeeeey", b"\r\n" + OK + b"\r\n" + STREAM),
    "value, no space": ("yyyyyy", replaced(b": ", b":")),
    "value, many spaces": ("yyyyyy", replaced(b": ", b":  \t ")),
    "value, control character": ("yyyyyy", with_field(b"X: a\x01b")),
    "value, any bytes": ("yyyyyy", with_field(b"X: \xc3\xa9\xff")),
    "name, space before colon": ("yyyyee", with_field(b"X : a")),
    "name, separators": ("yyyyee", with_field(b"X(Y): a")),
    "chunked, padded": ("ywwyyw", coded("chunked \t")),
    "chunked, upper case": ("yyyyyy", coded("Chunked")),
    "chunked, two fields": ("yyyyey", coded("chunked\r\nTransfer-Encoding: chunked")),
    "chunked, twice": ("ywwyey", coded("chunked, chunked")),
    "chunked, empty member": ("ywwyew", coded("chunked,")),
    "identity": ("yyyyey", OK + b"Transfer-Encoding: identity\r\n\r\n" + STREAM),
    "identity, length": (
        "wyyyee", OK + b"Transfer-Encoding: identity\r\nContent-Length: 18\r\n\r\n" + STREAM + b"?",
    ),
    "identity, chunked": ("ywwyey", coded("identity, chunked")),
    "identity, chunked, two fields": ("ywwyey", coded("identity\r\nTransfer-Encoding: chunked")),
    "chunked, identity": ("ywwyew", coded("chunked, identity")),
    "transfer coding none": ("yyyyey", OK + b"Transfer-Encoding: none\r\n\r\n" + STREAM),
    "transfer coding, empty": ("yyyyey", OK + b"Transfer-Encoding:\r\n\r\n" + STREAM),
    "length, repeated": ("yyyyye", long("18, 18")),
    "length, two fields": ("yyyyye", long("18", "18")),
    "length, zeros": ("yyyyyy", long("018")),
    "length and chunked": ("yyyyye", coded("chunked\r\nContent-Length: 5")),
    "length and chunked, HTTP/1.0": (
        "yyyyye", coded("chunked\r\nContent-Length: 5").replace(b"1.1", b"1.0"),
    ),
    "interim": ("yyyyyy", b"HTTP/1.1 100 Continue\r\n\r\n" + sized(b"9")),
    "interim, length": ("yyyyyy", b"HTTP/1.1 100 C\r\nContent-Length: 9\r\n\r\n" + sized(b"9")),
    "interim, LF": ("yyyyyy", b"HTTP/1.1 100 Continue\n\n" + sized(b"9")),
    "interim, three": ("ywwwyy", b"HTTP/1.1 102 Processing\r\nX: y\r\n\r\n" * 3 + sized(b"9")),
}  # fmt: skip

# These are refused: the letters of the other clients, the response, the phase and the message.
REFUSED: dict[str, tuple[str, bytes, str, str]] = {
    "chunk size, 0x": ("wyyyee", sized(b"0x9"), "body", "invalid framing"),
    "chunk size, sign": ("eyyyee", sized(b"+9"), "body", "invalid framing"),
    "chunk size, underscore": ("eeeeee", sized(b"1_1"), "body", "invalid framing"),
    "chunk size, text after it": ("yeeeee", sized(b"9 abc"), "body", "invalid framing"),
    "chunk size, none": ("eeeeee", sized(b"xyz"), "body", "invalid framing"),
    "chunk size, huge": ("eeeeee", sized(b"1" * 20), "body", "invalid framing"),
    "no line end after data": (
        "eeeeee", CHUNKED + b"9\r\n" + A + b"9\r\n" + B + LAST, "body", "invalid framing",
    ),
    "no line end after data, LF": (
        "eeeeee", CHUNKED + b"9\n" + A + b"9\n" + B + LAST, "body", "invalid framing",
    ),
    "empty size line": (
        "eeeeee", CHUNKED + chunk(A) + b"\r\n" + chunk(B) + LAST, "body", "invalid framing",
    ),
    "not chunked": ("eeeeee", CHUNKED + b'{"error": 1}', "body", "invalid framing"),
    "not HTTP": ("eeeeee", STREAM, "head", "is not HTTP/1.1"),
    "TLS": ("eeeeee", b"\x15\x03\x01\x00\x02\x02\x46", "head", "is not HTTP/1.1"),
    "no status line": ("eeeeee", OK[17:] + b"\r\n" + STREAM, "head", "is not HTTP/1.1"),
    "ICY": ("eeeeee", replaced(b"HTTP/1.1", b"ICY"), "head", "is not HTTP/1.1"),
    "lower case": ("yeeeee", replaced(b"HTTP", b"http"), "head", "is not HTTP/1.1"),
    "status of two digits": ("eeeeee", replaced(b"200", b"20"), "head", "is not HTTP/1.1"),
    "status without space": ("yeeeee", replaced(b"200 OK", b"200OK"), "head", "is not HTTP/1.1"),
    "no colon": ("eyyyee", with_field(b"noise"), "head", "no header field"),
    "no name": ("yyyyee", with_field(b": a"), "head", "no header field"),
    "space in name": ("yyyyee", with_field(b"X Y: a"), "head", "no header field"),
    "folded first line": (
        "eyyyey", replaced(b"Content", b" X: y\r\nContent"), "head", "no header field",
    ),
    "NUL": ("eyyyee", with_field(b"X: a\0b"), "head", "NUL or a CR"),
    "CR": ("yyyyee", with_field(b"X: a\rTransfer-Encoding: chunked"), "head", "NUL or a CR"),
    "transfer coding, space before colon": (
        "wwwwey", coded("x").replace(b"ing: x", b"ing : chunked"), "head", "white space follows",
    ),
    "length, space before colon": (
        "wwwwee", long("18").replace(b"Length:", b"Length :"), "head", "white space follows",
    ),
    "lengths differ": ("wyeeee", long("18, 9"), "head", "Content-Length is not one number"),
    "lengths differ, two fields": ("wyeeee", long("9", "18"), "head", "is not one number"),
    "length, sign": ("yyyyee", long("+18"), "head", "is not one number"),
    "length, negative": ("eyyyee", long("-1"), "head", "is not one number"),
    "length, text": ("yyyyee", long("18abc"), "head", "is not one number"),
    "length, underscore": ("wyyyee", long("1_8"), "head", "is not one number"),
    "length, empty": ("eyyyee", long(""), "head", "is not one number"),
    "length, huge": ("yeeeee", long("9" * 30), "head", "is not one number"),
    "gzip, chunked": ("ywwwew", coded("gzip, chunked"), "body", "'gzip, chunked' is not supp"),
    "chunked with parameter": ("ewwwew", coded("chunked;q=1"), "body", "is not supported"),
    "chunked after VT": ("ewwyew", coded("\x0bchunked"), "body", "is not supported"),
    "unknown transfer coding": ("eyyyey", coded("xchunked"), "body", "is not supported"),
    "switched": ("eeeeee", b"HTTP/1.1 101 S\r\n\r\n" + STREAM, "head", "switched to another"),
}  # fmt: skip


def receive(data: bytes, size: int) -> tuple[bytes, Exchange]:
    """Receive the bytes in pieces, and the end of the connection."""
    exchange = Exchange(REQUEST)
    body = b""
    for at in range(0, len(data), size):
        body += b"".join(exchange.receive(memoryview(data[at : at + size])))
        exchange.check()
    exchange.ended()
    return body, exchange


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", READ)
def test_lenient_response_is_read(name: str, size: int) -> None:
    body, exchange = receive(READ[name][1], size)
    assert body == STREAM
    assert (exchange.status, exchange.headers["content-type"]) == (200, "text/event-stream")


@pytest.mark.parametrize(
    ("data", "is_framed"),
    [
        (CHUNKED, True),
        (long("18"), True),
        (coded("identity\r\nContent-Length: 18"), True),
        (OK + b"\r\n", False),
        (coded("identity"), False),
        (b"HTTP/1.1 204 No\r\n\r\n", True),
        (b"HTTP/1.1 304 No\r\n\r\n", True),
        (long("0"), True),
    ],
)
def test_exchange_says_whether_body_is_framed(data: bytes, is_framed: bool) -> None:
    exchange = Exchange(REQUEST)
    list(exchange.receive(memoryview(data)))
    assert exchange.is_framed is is_framed


def test_sources_say_whether_body_is_framed(faults: FaultServer) -> None:
    request = Request("GET", faults.url + "/")
    for data, is_framed in ((CHUNKED + LAST, True), (OK + b"\r\n", False)):
        faults.scripts["/"] = [data]
        source = blocking.send(None, request, 5.0, 5.0)
        assert source.close is not None
        source.close()
        assert source.framed is is_framed

        async def run() -> bool:
            source = await aio.asend(None, request, 5.0, 5.0)
            assert source.close is not None
            await source.close()
            assert source.resumable
            return source.framed

        assert asyncio.run(run()) is is_framed


@pytest.mark.parametrize("size", [1, 3, 1000])
@pytest.mark.parametrize("name", REFUSED)
def test_invalid_response_is_refused_for_good(name: str, size: int) -> None:
    _, data, phase, message = REFUSED[name]
    with pytest.raises(TransportError, match=message) as caught:
        receive(data, size)
    assert (caught.value.phase, caught.value.permanent) == (phase, True)


@pytest.mark.parametrize("name", ["chunks, LF", "head, LF", "chunked, twice", "length, repeated"])
def test_lenient_response_is_read_over_sockets(faults: FaultServer, name: str) -> None:
    faults.scripts["/"] = [READ[name][1]]
    with open_stream(faults.url + "/") as stream:
        assert [event.data for event in stream] == ["a", "b"]

    async def run() -> list[str]:
        async with aopen_stream(faults.url + "/") as stream:
            return [event.data async for event in stream]

    assert asyncio.run(run()) == ["a", "b"]


@pytest.mark.parametrize("end", [b"", b"3", b"3\r", b"3\r\nab", b"3\r\nabc", b"3\r\nabc\r\n", b"0"])
@pytest.mark.parametrize("line", [b"\r\n", b"\n"])
def test_end_within_chunks_is_not_permanent(end: bytes, line: bytes) -> None:
    data = CHUNKED + chunk(STREAM, end=line) + end.replace(b"\r\n", line)
    for size in (1, len(data)):
        with pytest.raises(TransportError, match="ended before the end of the body") as caught:
            receive(data, size)
        assert not caught.value.permanent


def test_bytes_before_invalid_chunk_are_returned() -> None:
    for end in (b"\r\n", b"\n"):
        exchange = Exchange(REQUEST)
        data = CHUNKED + chunk(A, end=end) + chunk(B, end=end) + b"xyz"
        assert b"".join(exchange.receive(memoryview(data))) == STREAM
        with pytest.raises(TransportError, match="invalid framing"):
            exchange.check()


# -- Limits ----------------------------------------------------------------------------------------

ENDLESS: dict[str, tuple[bytes, bytes, str]] = {
    "status line": (b"HTTP/1.1 200 ", b"x", "response head from .* exceeds"),
    "field": (OK + b"X: ", b"x", "response head from .* exceeds"),
    "fields": (OK, b"X: y\r\n", "response head from .* exceeds"),
    "empty lines": (b"", b"\r\n", "response head from .* exceeds"),
    "interim": (b"", b"HTTP/1.1 102 Processing\r\n\r\n", "response head from .* exceeds"),
    "extension": (CHUNKED + b"9;a=", b"b", "chunk sizes and extensions from .* exceed"),
    "lenient extension": (CHUNKED + b"9; a=", b"b", "chunk sizes and extensions from .* exceed"),
    "later extension": (CHUNKED + chunk(A) + b"9;a=", b"b", "extensions from .* exceed"),
    "size": (CHUNKED, b"0", "chunk sizes and extensions from .* exceed"),
    "trailer": (CHUNKED + chunk(A) + b"0\r\nX: ", b"y", "from .* exceed"),
    "trailers": (CHUNKED + chunk(A) + b"0\r\n", b"X: y\r\n", "trailers from .* exceed"),
    "lenient trailers": (CHUNKED + chunk(A, b"9;") + b"0\n", b"X: y\n", "trailers from .* exceed"),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_endless_framing_is_ended(name: str) -> None:
    begin, more, message = ENDLESS[name]
    piece = more * (1000 // len(more))
    exchange = Exchange(REQUEST)
    list(exchange.receive(memoryview(begin)))
    for _ in range(70):
        list(exchange.receive(memoryview(piece)))
    with pytest.raises(TransportError, match=f"{message}s? 65536 bytes") as caught:
        exchange.check()
    assert caught.value.permanent


def test_body_between_framing_resets_its_limit() -> None:
    exchange = Exchange(REQUEST)
    data = memoryview(b"9;a=" + b"b" * 40_000 + b"\r\n" + A + b"\r\n")
    list(exchange.receive(memoryview(CHUNKED)))
    for _ in range(10):
        assert b"".join(exchange.receive(data)) == A
        exchange.check()


# -- The other clients -----------------------------------------------------------------------------


def by_http_client(url: str) -> bytes:
    connection = http.client.HTTPConnection(url.split("/")[2], timeout=5)
    connection.request("GET", "/")
    with connection.getresponse() as response:
        assert response.status == 200
        return response.read()


def by_aiohttp(url: str) -> bytes:
    async def run() -> bytes:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            assert response.status == 200
            return await response.read()

    return asyncio.run(run())


def by_requests(url: str) -> bytes:
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=5).content


CLIENTS: dict[str, Callable[[str], bytes]] = {
    "http.client": by_http_client,
    "urllib3": lambda url: urllib3.PoolManager(retries=False, timeout=5).request("GET", url).data,
    "requests": by_requests,
    "httpx": lambda url: httpx.get(url, timeout=5, trust_env=False).content,
    "aiohttp": by_aiohttp,
}


@pytest.mark.matrix
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", READ)
def test_other_clients_read_lenient_response_too(faults: FaultServer, name: str) -> None:
    letters, data = READ[name]
    faults.scripts["/"] = [data]
    found = ""
    for client in CLIENTS.values():
        try:
            found += "y" if client(faults.url + "/") == STREAM else "w"
        except Exception:
            found += "e"
    # Without curl; later versions may read more.
    worse: list[Any] = [each for each in zip(letters[1:], found, strict=True) if each[0] == "y"]
    assert all(now == "y" for _, now in worse), f"{letters[1:]} was measured, and now {found}"


# -- Damage ----------------------------------------------------------------------------------------


def outcome(data: bytes, size: int) -> tuple[bytes, int, tuple[str, bool] | None]:
    """Return the body, the status, and the phase and permanence of the error."""
    exchange = Exchange(REQUEST)
    body = b""
    try:
        for at in range(0, len(data), size):
            body += b"".join(exchange.receive(memoryview(data[at : at + size])))
        exchange.check()
        exchange.ended()
    except TransportError as error:
        return body, exchange.status, (error.phase, error.permanent)
    return body, exchange.status, None


def test_damaged_response_gives_the_same_however_cut() -> None:
    random = Random(17)
    responses = [data for _, data in READ.values()]
    for _ in range(500):
        data = bytearray(random.choice(responses))
        for _ in range(random.randint(1, 3)):
            at = random.randrange(len(data))
            data[at : at + random.randint(0, 2)] = random.choice([b"", b"\r", b"\n", b" ", b"0;"])
        cut = [outcome(bytes(data), size) for size in (1, 3, len(data))]
        assert cut[0] == cut[1] == cut[2], bytes(data)
