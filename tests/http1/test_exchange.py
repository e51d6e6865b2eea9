"""An exchange of HTTP/1.1 without a socket: the request as bytes, the response from bytes."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from sse_fast import TransportError
from sse_fast._http1.exchange import Exchange
from sse_fast._http1.message import Message, prepare
from tests.support.faults import CHUNKED, chunk, framed, head

REQUEST = Message("http://host/", "GET", False, "host", 80, b"")


def prepared(url: str, **options: Any) -> Message:
    given = {"method": "GET", "headers": None, "json": None, "data": None, **options}
    return prepare(url, given["method"], given["headers"], given["json"], given["data"])


# -- The request ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "target", "host", "address"),
    [
        ("http://h", "/", "h", ("h", 80)),
        ("https://h", "/", "h", ("h", 443)),
        ("http://h:8080/a", "/a", "h:8080", ("h", 8080)),
        ("http://h:0/", "/", "h:0", ("h", 0)),
        ("http://h?q", "/?q", "h", ("h", 80)),
        ("http://h/?", "/?", "h", ("h", 80)),
        ("http://h/a?b?c#d?e", "/a?b?c", "h", ("h", 80)),
        ("http://h//a/b?x", "//a/b?x", "h", ("h", 80)),
        ("http://h/%41%zz/a b", "/%41%zz/a%20b", "h", ("h", 80)),
        ("http://h/é?ü", "/%C3%A9?%C3%BC", "h", ("h", 80)),
        (" http://h/ ", "/", "h", ("h", 80)),
        ("HTTP://H/", "/", "h", ("h", 80)),
        ("http://h.example./", "/", "h.example.", ("h.example.", 80)),
        ("http://a_b/", "/", "a_b", ("a_b", 80)),
        ("http://bücher.example/", "/", "xn--bcher-kva.example", ("xn--bcher-kva.example", 80)),
        ("http://127.0.0.1:1/", "/", "127.0.0.1:1", ("127.0.0.1", 1)),
        ("http://[::1]/", "/", "[::1]", ("::1", 80)),
        ("http://[::1]:1/", "/", "[::1]:1", ("::1", 1)),
        ("http://[fe80::1%25eth0]/", "/", "[fe80::1]", ("fe80::1%eth0", 80)),
        # As browsers normalize them (compared with those of node 20).
        ("http://h:80/", "/", "h", ("h", 80)),
        ("https://h:443/", "/", "h", ("h", 443)),
        ("https://h:0443/", "/", "h", ("h", 443)),
        ("http://h:443/", "/", "h:443", ("h", 443)),
        ("http://h:/", "/", "h", ("h", 80)),
        ("http://[::1]:80/", "/", "[::1]", ("::1", 80)),
        ("http://h/a/../b/./c", "/b/c", "h", ("h", 80)),
        ("http://h/../..", "/", "h", ("h", 80)),
        ("http://h/a/b/%2e%2E?c/../d", "/a/?c/../d", "h", ("h", 80)),
        ("http://h/a/.", "/a/", "h", ("h", 80)),
        ("http://h/...//..a", "/...//..a", "h", ("h", 80)),
        ("http:\\\\h\\a?b\\c", "/a?b%5Cc", "h", ("h", 80)),
        ("http://good\\@evil/", "/@evil/", "good", ("good", 80)),
        ("http://exa%6dple/", "/", "example", ("example", 80)),
        ("http://fa%C3%9F.de/", "/", "xn--fa-hia.de", ("xn--fa-hia.de", 80)),
        ("http://fa\u00df.de/", "/", "xn--fa-hia.de", ("xn--fa-hia.de", 80)),
        ("http://ΒΌΛΟΣ.gr/", "/", "xn--nxasmq6b.gr", ("xn--nxasmq6b.gr", 80)),
        ("http://βόλος.gr/", "/", "xn--nxasmm1c.gr", ("xn--nxasmm1c.gr", 80)),
        ("http://B\u00dcCHER\u3002De/", "/", "xn--bcher-kva.de", ("xn--bcher-kva.de", 80)),
        ("http://XN--Bcher-KVA.de/", "/", "xn--bcher-kva.de", ("xn--bcher-kva.de", 80)),
        ("http://\u2615.example/", "/", "xn--53h.example", ("xn--53h.example", 80)),
        ("http://ex\u00adample/", "/", "example", ("example", 80)),
        ("http://\uff41\uff42/", "/", "ab", ("ab", 80)),
        ("http://a_b-.c--d/", "/", "a_b-.c--d", ("a_b-.c--d", 80)),
        ("http://r3---sn-abc/", "/", "r3---sn-abc", ("r3---sn-abc", 80)),
        ("http://127.1/", "/", "127.0.0.1", ("127.0.0.1", 80)),
        ("http://0x7f.1/", "/", "127.0.0.1", ("127.0.0.1", 80)),
        ("http://2130706433/", "/", "127.0.0.1", ("127.0.0.1", 80)),
        ("http://0177.0.0.1./", "/", "127.0.0.1", ("127.0.0.1", 80)),
        ("http://\uff11\uff12\uff17.1/", "/", "127.0.0.1", ("127.0.0.1", 80)),
        ("http://[2001:DB8:0:0:1:0:0:1]/", "/", "[2001:db8::1:0:0:1]", ("2001:db8::1:0:0:1", 80)),
        ("http://[::ffff:1.2.3.4]/", "/", "[::ffff:102:304]", ("::ffff:102:304", 80)),
        ("http://[1:2:3:4:5:6:7:0]/", "/", "[1:2:3:4:5:6:7:0]", ("1:2:3:4:5:6:7:0", 80)),
    ],
)
def test_url_becomes_target_host_and_address(
    url: str, target: str, host: str, address: tuple[str, int]
) -> None:
    request = prepared(url)
    lines = request.message.decode().split("\r\n")
    assert lines[0] == f"GET {target} HTTP/1.1"
    assert lines[1] == f"Host: {host}"
    assert (request.host, request.port) == address


@pytest.mark.parametrize(
    "url",
    [
        "http://h/\r\nX: secret",
        "http://h/\x7f",
        "http://h\n/",
        "ftp://secret/",
        "h/path",
        "//h/path",
        "http:///path",
        "http:/user:secret@host/x",
        "http://a b/",
        'http://a"b/',
        "http://a<b>/",
        "http://exa%2fple/",
        "http://exa%00ple/",
        "http://exa%ffple/",
        "http://256.1.1.1/",
        "http://1.2.3.4.5/",
        "http://1.2.3.08/",
        "http://foo.1/",
        "http://foo.0x/",
        "http://xn--a/",
        "http://xn--/",
        "http://a\u200db.example/",
        "http://\u0300a.example/",
        "http://[fe80::1%25a b]/",
        "http://[1:2:3]/",
        "http://a\u00b4b.com/",
        "http://a\uff3cb/",
        "http://a..b/",
        "http://./",
        f"http://{'a' * 64}/",
        "http://h:99999/",
        "http://h:x/",
        "http://h:\u0661/",
        "http://[::1/",
        "http://[v1.x]/",
        "http://[1.2.3.4]/",
        "http://user:secret#x@host/",
        "http://user:s3/secret@host/",
        "http://user:secret@[host]/",
        "http://user:secret@a[b]/",
        "http://h/\ud800secret",
        "http://\ud800secret:x@h/",
    ],
)
def test_invalid_url_raises_without_secrets(url: str) -> None:
    with pytest.raises(ValueError, match=r"^The URL ") as caught:
        prepared(url)
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "GET /x"}, ValueError, "request method is invalid"),
        ({"method": "GET\r\n"}, ValueError, "request method is invalid"),
        ({"method": ""}, ValueError, "request method is invalid"),
        ({"headers": {"X A": "1"}}, ValueError, "Invalid header field name"),
        ({"headers": {"X\n": "1"}}, ValueError, "Invalid header field name"),
        ({"headers": {"Authorization: secret": ""}}, ValueError, "Invalid header field name"),
        ({"headers": {"X": "secret\r\nY: 1"}}, ValueError, "X contains control characters"),
        ({"headers": {"X": "secret\0"}}, ValueError, "X contains control characters"),
        ({"headers": {"X": b"secret\n"}}, ValueError, "X contains control characters"),
        ({"headers": {"X": "secret\ud800"}}, ValueError, "X contains a lone surrogate"),
        ({"headers": {"Content-Length": "1"}}, ValueError, "Content-Length cannot be set"),
        ({"headers": {"transfer-encoding": "x"}}, ValueError, "transfer-encoding cannot be set"),
        ({"headers": [("Host", "a"), ("host", "b")]}, ValueError, "Host is given twice"),
        ({"headers": {"X": 0}}, TypeError, "Expected header fields"),
        ({"headers": {"X": [72, 105]}}, TypeError, "Expected header fields"),
        ({"headers": {"X": None}}, TypeError, "Expected header fields"),
        ({"headers": {b"X": b"1"}}, TypeError, "Expected header fields"),
        ({"json": 1, "data": b""}, TypeError, "json and data cannot be combined"),
        ({"data": iter([b""])}, TypeError, "Expected data to be"),
        ({"data": 1}, TypeError, "Expected data to be"),
        ({"data": "secret\ud800"}, ValueError, "data contains a lone surrogate"),
    ],
)
def test_invalid_request_raises_without_secrets(
    options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        prepared("http://h/", **options)
    assert "secret" not in str(caught.value)


# -- The response ---------------------------------------------------------------------------------

STREAM = b"data: a\n\ndata: b\n\n"
GZIP = "Content-Encoding: gzip"
MORE = framed("length", [b"data: more\n\n"])


def whole(*steps: Any) -> bytes:
    return b"".join(steps)


RESPONSES = {
    "chunked": whole(*framed("chunked", [STREAM[:5], STREAM[5:]])),
    "length": whole(*framed("length", [STREAM])),
    "close": whole(*framed("close", [STREAM])),
    "extension": head(CHUNKED) + b"12;a=b\r\n" + STREAM + b"\r\n0\r\nTrailer: x\r\n\r\n",
    "interim": b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" + whole(*framed("length", [STREAM])),
    "gzip": whole(*framed("chunked", [gzip.compress(STREAM)], GZIP)),
    "gzip, two members": whole(
        *framed("chunked", [gzip.compress(STREAM[:5]) + gzip.compress(STREAM[5:])], GZIP)
    ),
    "gzip, padded": whole(*framed("close", [gzip.compress(STREAM) + bytes(20)], GZIP)),
    # Bytes after the end belong to another response.
    "length, more": whole(*framed("length", [STREAM]), *MORE),
    "chunked, more": whole(*framed("chunked", [STREAM]), *MORE),
    "chunked, noise": whole(*framed("chunked", [STREAM]), b"\0noise"),
}


def receive(data: bytes, *, cut: int | None = None) -> tuple[bytes, Exchange]:
    """Receive the bytes, in two pieces if there is a `cut`, and the end of the connection."""
    exchange = Exchange(REQUEST)
    body = b""
    for part in (data,) if cut is None else (data[:cut], data[cut:]):
        body += b"".join(exchange.receive(memoryview(part)))
    exchange.ended()
    return body, exchange


@pytest.mark.parametrize("name", RESPONSES)
def test_response_is_parsed_however_it_is_split(name: str) -> None:
    data = RESPONSES[name]
    for cut in (None, *range(1, len(data))):
        body, exchange = receive(data, cut=cut)
        assert body == STREAM
        assert (exchange.status, exchange.complete) == (200, True)
        assert exchange.headers["content-type"] == "text/event-stream"
    exchange = Exchange(REQUEST)
    pieces = [b"".join(exchange.receive(memoryview(bytes([byte])))) for byte in data]
    exchange.ended()
    assert b"".join(pieces) == STREAM


def test_white_space_around_values_is_removed() -> None:
    parts = framed("chunked", [gzip.compress(STREAM)], "Content-Encoding:  identity , gzip\t ")
    body, exchange = receive(whole(*parts))
    assert body == STREAM
    assert exchange.headers["content-encoding"] == "identity , gzip"


def test_reason_phrase_counts_for_head_limit() -> None:
    exchange = Exchange(REQUEST)
    list(exchange.receive(memoryview(head(status="200 " + "x" * 70_000))))
    with pytest.raises(TransportError, match=r"The response head from .* exceeds 65536 bytes"):
        exchange.check()


@pytest.mark.parametrize("name", RESPONSES)
def test_truncated_response_is_never_clean(name: str) -> None:
    """Only the real end is clean, unless the end of the connection ends the body."""
    data = RESPONSES[name]
    if "more" in name or "noise" in name:
        data = data[: data.rindex(MORE[0] if "more" in name else b"\0noise")]
    first = data.index(b"\r\n\r\n") + 4
    clean, phases = [], []
    for end in range(len(data)):
        try:
            body, _ = receive(data[:end])
        except TransportError as error:
            phases.append(error.phase)
        else:
            clean.append(end)
            assert STREAM.startswith(body)
    heads = data.rindex(b"\r\n\r\n") + 4 if name == "interim" else first
    assert phases[:heads] == ["head"] * heads
    assert set(phases[heads:]) <= {"body"}
    if name == "close":
        assert clean == list(range(first, len(data)))
    elif "chunk" in data[:first].decode():
        # The empty line after the last chunk may be missing, with the trailers before it.
        last = data.rindex(b"\r\n0\r\n") + len(b"\r\n0\r")
        line_ends = [end for end in range(last, len(data)) if data[end - 1] in b"\r\n"]
        assert clean[0] == last
        assert set(clean) >= set(line_ends)
    elif name.startswith("gzip, "):
        # Before the first member, and anywhere after it.
        assert clean == [first, *range(first + len(gzip.compress(STREAM)), len(data))]
    else:
        assert clean == []


def test_second_response_is_ignored() -> None:
    """Its status, fields and body do not change the first response."""
    for first in (b"HTTP/1.1 204 No Content\r\n\r\n", head("Content-Length: 0")):
        body, exchange = receive(first + b"HTTP/1.1 401 No\r\nContent-Length: 3\r\nX: y\r\n\r\nabc")
        assert body == b""
        assert exchange.status in (204, 200)
        assert "x" not in exchange.headers


def test_response_to_head_has_no_body() -> None:
    exchange = Exchange(REQUEST._replace(method="HEAD"))
    assert b"".join(exchange.receive(memoryview(head("Content-Length: 18") + STREAM))) == b""
    assert exchange.complete


@pytest.mark.parametrize("coding", ["gzip, chunked", "gzip", "chunked;q=1", "\x0bchunked"])
def test_other_transfer_coding_is_refused(coding: str) -> None:
    exchange = Exchange(REQUEST)
    data = head(f"Transfer-Encoding: {coding}") + chunk(STREAM) + chunk(b"")
    assert b"".join(exchange.receive(memoryview(data))) == b""
    with pytest.raises(TransportError, match=r"Transfer coding .* is not supported"):
        exchange.check()


def test_trailers_over_limit_raise() -> None:
    exchange = Exchange(REQUEST)
    body = head(CHUNKED) + chunk(STREAM) + b"0\r\n"
    assert b"".join(exchange.receive(memoryview(body))) == STREAM
    for _ in range(100):
        list(exchange.receive(memoryview(b"X: " + b"a" * 1000 + b"\r\n")))
    with pytest.raises(TransportError, match=r"trailers from .* exceed 65536 bytes") as caught:
        exchange.check()
    assert caught.value.phase == "body"
