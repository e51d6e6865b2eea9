"""open_stream and aopen_stream: HTTP/1.1 over sockets of our own, blocking and on asyncio."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from sse_fast import (
    EndReason,
    ResponseError,
    SSEError,
    StreamTimeout,
    TransportError,
)
from sse_fast.adapters.sockets import aopen_stream, open_stream
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import tls
from tests.support.faults import CHUNKED, LEFT, RST, FaultServer, chunk, framed, head
from tests.support.server import Answer, Server, nobody

STREAM = b"id: 1\r\ndata: a\r\n\r\nid: 2\r\ndata: b\r\n\r\n"
DATA = ["a", "b"]


def read(url: str, **options: Any) -> list[str]:
    with open_stream(url, **options) as stream:
        return [event.data for event in stream]


def aread(url: str, **options: Any) -> list[str]:
    async def run() -> list[str]:
        async with aopen_stream(url, **options) as stream:
            return [event.data async for event in stream]

    return asyncio.run(run())


@pytest.fixture(params=[read, aread], ids=["sync", "async"])
def reading(request: pytest.FixtureRequest) -> Callable[..., list[str]]:
    """All the data of a URL."""
    return request.param


# -- The request ----------------------------------------------------------------------------------


def test_what_is_sent(reading: Any, faults: FaultServer) -> None:
    faults.scripts["/a%20b/%C3%A9?q=%7B1%7D&r"] = framed("chunked", [STREAM])
    host = faults.url.removeprefix("http://")
    assert reading(f"http://us%65r:p%40ss@{host}/a b/é?q={{1}}&r#fragment") == DATA
    assert faults.requests[0].decode().splitlines() == [
        "GET /a%20b/%C3%A9?q=%7B1%7D&r HTTP/1.1",
        f"Host: {host}",
        "Accept: text/event-stream",
        "Accept-Encoding: identity",
        "Cache-Control: no-store",
        "User-Agent: sse-fast",
        "Authorization: Basic dXNlcjpwQHNz",
        "",
    ]


@pytest.mark.parametrize(
    ("options", "body", "content_type"),
    [
        ({"json": {"a": "é"}}, b'{"a": "\\u00e9"}', "application/json"),
        ({"data": b"\0\xff"}, b"\0\xff", None),
        ({"data": "é"}, "é".encode(), None),
        ({"data": {"a": [1, "é"]}}, b"a=1&a=%C3%A9", "application/x-www-form-urlencoded"),
        ({"json": [], "headers": {"content-type": "x/y"}}, b"[]", "x/y"),
        ({}, b"", None),
    ],
)
def test_bodies(
    reading: Any, server: Server, options: Any, body: bytes, content_type: str | None
) -> None:
    server.answers["/"] = Answer([STREAM])
    assert reading(server.url, method="POST", **options) == DATA
    request = server.requests[0]
    assert (request.method, request.body) == ("POST", body)
    assert request.all("content-length") == [str(len(body))]
    assert request.all("content-type") == ([] if content_type is None else [content_type])


def test_headers_of_the_caller(reading: Any, server: Server) -> None:
    server.answers["/"] = Answer([STREAM])
    headers = {"ACCEPT": "x/y", "Last-Event-ID": "é", "X-Bytes": b"\xff\t1", "Host": "other"}
    before = dict(headers)
    assert reading(server.url, headers=headers) == DATA
    assert headers == before
    fields = server.requests[0]
    assert fields.all("accept") == ["x/y"]
    assert fields.all("host") == ["other"]
    assert fields.headers["last-event-id"].encode("latin-1").decode() == "é"
    assert fields.headers["x-bytes"].encode("latin-1") == b"\xff\t1"
    pairs = [("X-A", "1"), ("X-A", "2")]
    assert reading(server.url, headers=pairs) == DATA
    assert server.requests[1].all("x-a") == ["1", "2"]


def test_arguments_that_cannot_be() -> None:
    """At the call, before anything is connected, also of the async one."""
    for opening in (open_stream, aopen_stream):
        with pytest.raises(ValueError, match="begin with http"):
            opening("ftp://host/")
        with pytest.raises(ValueError, match="max_event_size"):
            opening("http://host/", max_event_size=0)
        for name in ("connect_timeout", "idle_timeout"):
            for value in (0, -1, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=f"Expected {name} to be a number of seconds"):
                    opening("http://host/", **{name: value})
        for options in ({"json": 1, "data": b""}, {"wrong": 1}, {"ssl_context": True}):
            with pytest.raises(TypeError):
                opening("http://host/", **options)


def test_hosts_of_other_scripts_are_asked_for_in_ascii(
    reading: Any, monkeypatch: pytest.MonkeyPatch, faults: FaultServer
) -> None:
    asked = []
    port = faults.server_address[1]
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(host)
        return real("127.0.0.1", *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    faults.scripts["/"] = framed("chunked", [STREAM])
    assert reading(f"http://bücher.example:{port}/") == DATA
    assert [host if isinstance(host, str) else host.decode() for host in asked] == [
        "xn--bcher-kva.example"
    ]
    assert f"Host: xn--bcher-kva.example:{port}\r\n".encode() in faults.requests[0]


# -- Proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_applies_is_not_bypassed(
    monkeypatch: pytest.MonkeyPatch, server: Server, name: str
) -> None:
    server.answers["/"] = Answer([STREAM])
    monkeypatch.setenv(name, "http://user:secret@proxy:3128")
    for opening in (open_stream, aopen_stream):
        with pytest.raises(SSEError, match=f"without a proxy, got {name.lower()}") as caught:
            opening(server.url)
        assert "secret" not in str(caught.value)
    assert server.requests == []
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert read(server.url) == DATA
    monkeypatch.delenv("no_proxy")
    monkeypatch.delenv(name)
    monkeypatch.setenv("https_proxy", "http://proxy")
    assert read(server.url) == DATA


# -- The connection -------------------------------------------------------------------------------


@contextmanager
def unix_server(path: Path) -> Iterator[None]:
    def answer() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(10)
            connection.recv(65536)
            for step in framed("chunked", [STREAM]):
                connection.sendall(step)  # type: ignore[arg-type]

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
def test_a_unix_socket(reading: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What goes to a Unix socket goes to no proxy.
    monkeypatch.setenv("http_proxy", "http://proxy")
    with unix_server(tmp_path / "s"):
        assert reading("http://docker/events", uds=str(tmp_path / "s")) == DATA


def test_tls(reading: Any, hypercorn_server: AsgiServer) -> None:
    hypercorn_server.answers["/"] = AsgiAnswer([STREAM[:9], STREAM[9:]])
    url = hypercorn_server.url + "/"
    assert reading(url, ssl_context=tls(hypercorn_server.ca)) == DATA
    with pytest.raises(TransportError, match="certificate verify failed") as caught:
        reading(url)
    assert isinstance(caught.value.__cause__, ssl.SSLCertVerificationError)
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    host = url.replace("127.0.0.1", "localhost")
    with pytest.raises(TransportError, match=r"[Hh]ostname mismatch"):
        reading(host, ssl_context=tls(hypercorn_server.ca))


def test_the_trust_of_the_system(
    reading: Any, hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypercorn_server.answers["/"] = AsgiAnswer([STREAM])
    assert hypercorn_server.ca is not None
    monkeypatch.setenv("SSL_CERT_FILE", hypercorn_server.ca)
    assert reading(hypercorn_server.url + "/") == DATA


def test_socket_options(faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED), LEFT]

    def look(sock: Any) -> None:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        if hasattr(socket, "TCP_KEEPIDLE"):
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60

    async def alook() -> None:
        async with aopen_stream(faults.url + "/") as stream:
            look(stream.response.raw.get_extra_info("socket"))

    with open_stream(faults.url + "/") as stream:
        look(stream.response.raw)
    asyncio.run(alook())


def test_nobody_listens(reading: Any) -> None:
    expected = r"a connection to http://127.0.0.1:\d+/, got"
    with nobody() as origin, pytest.raises(TransportError, match=expected) as caught:
        reading(f"{origin.replace('//', '//user:secret@')}/?secret")
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    assert isinstance(caught.value.__cause__, OSError)
    assert "secret" not in str(caught.value)


def test_a_peer_that_resets_at_once() -> None:
    """Always an error of ours, whichever call it hits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stopped = threading.Event()

        def reset() -> None:
            listener.settimeout(0.05)
            while not stopped.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    connection.close()

        thread = threading.Thread(target=reset)
        thread.start()
        try:
            for reading in (read, aread):
                for _ in range(50):
                    with pytest.raises(TransportError):
                        reading(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        finally:
            stopped.set()
            thread.join()


def test_a_connection_that_is_not_made_in_time(reading: Any) -> None:
    # With the TLS handshake: on loopback every connection is made at once.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(StreamTimeout) as caught:
            reading(url, connect_timeout=0.1)
    assert (caught.value.phase, caught.value.sent) == ("connect", False)


@pytest.mark.parametrize(
    "sent", [b"", head(CHUNKED), head(CHUNKED) + chunk(b"data: a\n\n")], ids=["", "head", "body"]
)
def test_nothing_for_too_long(reading: Any, faults: FaultServer, sent: bytes) -> None:
    hold = threading.Event()
    faults.scripts["/"] = [sent, hold]
    with pytest.raises(StreamTimeout, match=r"a byte within 0\.1 seconds, got none") as caught:
        reading(faults.url + "/", idle_timeout=0.1)
    assert caught.value.phase == ("body" if sent else "head")
    assert caught.value.sent
    hold.set()


def test_comments_keep_a_stream_alive(reading: Any, faults: FaultServer) -> None:
    pings = [step for _ in range(10) for step in (b":\n\n", 0.05)]
    faults.scripts["/"] = framed("chunked", [*pings, STREAM])
    assert reading(faults.url + "/", idle_timeout=0.3) == DATA


def test_an_answer_before_the_request_was_read(reading: Any) -> None:
    """A server that refuses a large body says so, and closes, before it has come."""
    response = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(response)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(ResponseError, match="413") as caught:
            reading(
                f"http://127.0.0.1:{listener.getsockname()[1]}/",
                method="POST",
                data=b"x" * 20_000_000,
            )
        assert caught.value.response.body == b"big"
        thread.join(10)


def test_a_request_that_breaks_off(reading: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(TransportError) as caught:
            reading(
                f"http://127.0.0.1:{listener.getsockname()[1]}/",
                method="POST",
                data=b"x" * 20_000_000,
            )
        # asyncio sends beside waiting for the response.
        assert caught.value.phase == ("send" if reading is read else "head")
        assert caught.value.sent
        thread.join(10)


def test_a_connection_that_keepalive_gives_up(
    monkeypatch: pytest.MonkeyPatch, faults: FaultServer
) -> None:
    """A time-out of TCP, which is none of ours, and may come without any limit set."""
    faults.scripts["/"] = [head(CHUNKED), LEFT]

    def given_up(*_: Any) -> int:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with open_stream(faults.url + "/", idle_timeout=None) as stream:
        monkeypatch.setattr(socket.socket, "recv_into", given_up)
        with pytest.raises(TransportError) as caught:
            next(stream)
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert "idle_timeout" not in str(caught.value)


def test_a_slow_upload_is_no_quiet_connection(reading: Any) -> None:
    """It takes longer in all than the time-out, and stands still for less."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # Several times what the system buffers, of which nothing is seen on its way.
        size = 40_000_000

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                received = connection.recv(65536)
                left = size - len(received.partition(b"\r\n\r\n")[2])
                while left:
                    left -= len(connection.recv(min(left, 1_000_000), socket.MSG_WAITALL))
                    time.sleep(0.1)
                for step in framed("chunked", [STREAM]):
                    connection.sendall(step)  # type: ignore[arg-type]

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert reading(url, method="POST", data=b"x" * size, idle_timeout=2.0) == DATA
        thread.join(10)


# -- The response ---------------------------------------------------------------------------------


def test_the_face_of_the_response(faults: FaultServer) -> None:
    faults.scripts["/"] = framed("chunked", [STREAM], "X-A: 1", "x-a: 2")
    with open_stream(faults.url + "/") as stream:
        assert stream.response.status == 200
        assert stream.response.headers["X-A"] == "1, 2"
        assert stream.response.url == faults.url + "/"
        assert isinstance(stream.response.raw, socket.socket)

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        assert stream.response is None
        # Each of the three ways opens it: await, async with, async for.
        assert await stream is stream
        assert stream.response.status == 200
        assert [event.data async for event in stream] == DATA
        assert [event.data async for event in aopen_stream(faults.url + "/")] == DATA

    asyncio.run(run())


def test_interim_responses_are_passed_over(reading: Any, faults: FaultServer) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    faults.scripts["/"] = [interim, 0.01, interim, *framed("chunked", [STREAM])]
    assert reading(faults.url + "/") == DATA


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 X", "308 X"])
def test_a_redirect_is_refused(reading: Any, faults: FaultServer, status: str) -> None:
    faults.scripts["/"] = [head("Location: /other?secret", status=status), b"moved"]
    with pytest.raises(ResponseError, match="no redirect") as caught:
        reading(faults.url + "/")
    assert caught.value.response.status == int(status[:3])
    assert caught.value.response.headers["location"] == "/other?secret"
    assert caught.value.response.body == b"moved"
    assert "secret" not in str(caught.value)


def test_a_head_without_a_body(reading: Any, faults: FaultServer) -> None:
    faults.scripts["/"] = [head("Content-Length: 100", status="200 OK"), threading.Event()]
    assert reading(faults.url + "/", method="HEAD") == []
    faults.scripts["/"][1].set()  # type: ignore[index]


def test_the_end_of_a_body_is_the_end(reading: Any, faults: FaultServer) -> None:
    """Nothing waits for the connection to close, and what comes behind a body is none of it."""
    hold = threading.Event()
    more = b"data: more\n\n"
    for framing in ("chunked", "length"):
        faults.scripts["/"] = [*framed(framing, [STREAM]), more, hold]
        assert reading(faults.url + "/", idle_timeout=None) == DATA
    hold.set()


def test_gzip_that_nobody_asked_for(reading: Any, faults: FaultServer) -> None:
    two_members = gzip.compress(STREAM[:20]) + gzip.compress(STREAM[20:])
    for body in (gzip.compress(STREAM), two_members):
        for size in (1, 7, 1000):
            parts = [body[at : at + size] for at in range(0, len(body), size)]
            faults.scripts["/"] = framed("chunked", parts, "Content-Encoding: gzip")
            assert reading(faults.url + "/") == DATA
    faults.scripts["/"] = framed("close", [b"no gzip at all"], "Content-Encoding: gzip")
    with pytest.raises(TransportError) as caught:
        reading(faults.url + "/")
    assert isinstance(caught.value.__cause__, zlib.error)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["Content-Encoding: br"], "without content coding, as it was asked for, got 'br'"),
        (["Transfer-Encoding: gzip"], "a chunked body, got one that is 'gzip'"),
    ],
)
def test_other_codings_are_refused(
    reading: Any, faults: FaultServer, fields: list[str], message: str
) -> None:
    faults.scripts["/"] = framed("close", [STREAM], *fields)
    with pytest.raises(TransportError, match=message):
        reading(faults.url + "/")


@pytest.mark.parametrize(
    ("script", "message", "phase"),
    [
        ([b""], "a response of .*, got the end of the connection", "head"),
        ([b"HTTP/1.1 200 OK\r\nX: 1\r\n"], "got the end of the connection", "head"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "Expected a response of HTTP/1.1 from", "head"),
        ([b"HTTP/1.1 abc\r\n\r\n"], "Expected a response of HTTP/1.1 from", "head"),
        (
            [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"],
            "got 101",
            "head",
        ),
        ([head("X: " + "a" * 70_000)], "a response head of at most 65536 bytes", "head"),
        ([head(*["X: " + "a" * 1000] * 70)], "a response head of at most 65536 bytes", "head"),
        ([RST], "Expected a response of", "head"),
        ([head(CHUNKED), b"xyz\r\n"], "Expected a body in valid framing", "body"),
        ([head(CHUNKED), b"-1\r\n"], "Expected a body in valid framing", "body"),
        ([head(CHUNKED), b"FFFFFFFFFFFFFFFFF\r\n"], "Expected a body in valid framing", "body"),
        ([head(CHUNKED)], "Expected the rest of the body", "body"),
        ([head("Content-Length: 5"), b":"], "Expected the rest of the body", "body"),
        ([head(CHUNKED, "Content-Length: 5"), b"data:"], "Content-Length can't be", "head"),
    ],
)
def test_what_is_wrong_with_a_response(
    reading: Any, faults: FaultServer, script: Any, message: str, phase: str
) -> None:
    faults.scripts["/"] = script
    with pytest.raises(TransportError, match=message) as caught:
        reading(faults.url + "/")
    assert caught.value.phase == phase
    assert caught.value.sent


def test_an_endless_head(reading: Any, faults: FaultServer) -> None:
    line = b"X: " + b"a" * 1000 + b"\r\n"
    for script in (
        [b"HTTP/1.1 200 OK\r\n", *[line] * 2000],
        [b"HTTP/1.1 200 OK\r\nX: ", *[b"a" * 1000] * 2000],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 20_000,
    ):
        faults.scripts["/"] = script
        with pytest.raises(TransportError, match="a response head of at most 65536 bytes"):
            reading(faults.url + "/")


@pytest.mark.parametrize(
    "end", [b"xyz\r\n", RST, b"10\r\ndata", b""], ids=["size", "reset", "cut", "end"]
)
def test_what_came_before_a_failure_is_given_out(faults: FaultServer, end: Any) -> None:
    """Also if it came with it, in one piece."""
    begun = head(CHUNKED) + chunk(b"data: a\n\ndata: b\n\n")
    # A reset may overtake what was sent before it: let that be read first.
    pause = [0.2] if end == RST else []
    script = [begun, *pause, end] if isinstance(end, str) else [begun + end]
    faults.scripts["/"] = script
    seen: list[str] = []
    with open_stream(faults.url + "/") as stream, pytest.raises(TransportError):
        seen.extend(event.data for event in stream)
    assert seen == DATA
    assert stream.end_reason is EndReason.ERROR

    async def run() -> None:
        async with aopen_stream(faults.url + "/") as stream:
            seen.extend([(await anext(stream)).data, (await anext(stream)).data])
            with pytest.raises(TransportError):
                await anext(stream)

    seen.clear()
    asyncio.run(run())
    assert seen == DATA


def test_without_a_check(reading: Any, faults: FaultServer) -> None:
    script = framed("close", [STREAM])
    script[0] = head(status="500 No", type="x/y")
    faults.scripts["/"] = script
    with pytest.raises(ResponseError):
        reading(faults.url + "/")
    assert reading(faults.url + "/", check=False) == DATA


def test_options_of_the_parser_and_the_tap(faults: FaultServer) -> None:
    faults.scripts["/"] = framed("chunked", [b"data: 1\n\n", b"data: [DONE]\n\n"])
    seen: list[bytes] = []
    options: Any = {"decode": json.loads, "until": "[DONE]", "on_chunk": seen.append}
    for reading in (read, aread):
        assert reading(faults.url + "/", **options) == [1]
        assert b"".join(seen) == b"data: 1\n\ndata: [DONE]\n\n"
        seen.clear()


# -- What it needs --------------------------------------------------------------------------------


def test_without_httptools(tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['httptools'] = None\n"
        "from sse_fast.adapters.sockets import open_stream, aopen_stream\n"
        "for opening in (open_stream, aopen_stream):\n"
        "    try:\n"
        "        opening('http://127.0.0.1:1/')\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
        "print('asyncio' in sys.modules, 'ssl' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    message = (
        "Expected httptools for HTTP over raw sockets, got none: pip install 'sse-fast[client]'"
    )
    assert done.stdout.splitlines() == [message, message, "False False"]


def test_it_takes_its_time_over_nothing(server: Server) -> None:
    """A stream is as long as it is: no time-out counts from its beginning."""
    server.answers["/"] = Answer([b"data: %d\n\n" % number for number in range(8)], delay=0.05)
    began = time.monotonic()
    assert len(read(server.url, idle_timeout=0.3)) == 8
    assert time.monotonic() - began > 0.3
