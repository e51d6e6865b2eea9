"""open_stream and aopen_stream: HTTP/1.1 over blocking sockets and over asyncio."""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sse_fast import (
    EndReason,
    ResponseError,
    SSEError,
    StreamTimeout,
    TransportError,
    aopen_stream,
    open_stream,
)
from tests.support.asgi import Answer as AsgiAnswer
from tests.support.asgi import AsgiServer
from tests.support.clients import tls
from tests.support.commands import run_python
from tests.support.faults import CHUNKED, LEFT, RST, FaultServer, chunk, framed, head, serve_resets
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
    """Return a function that reads the data of all events of a URL."""
    return request.param


# -- The request ----------------------------------------------------------------------------------


def test_request_has_default_fields(reading: Any, faults: FaultServer) -> None:
    faults.scripts["/a%20b/%C3%A9?q=%7B1%7D&r"] = framed("chunked", [STREAM])
    host = faults.url.removeprefix("http://")
    assert reading(f"http://us%65r:p%40ss@{host}/a b/é?q={{1}}&r#fragment") == DATA
    assert faults.requests[0].decode().splitlines() == [
        "GET /a%20b/%C3%A9?q=%7B1%7D&r HTTP/1.1",
        f"Host: {host}",
        "Accept: text/event-stream",
        "Accept-Encoding: identity",
        "Cache-Control: no-cache",
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
def test_body_is_encoded_with_content_type(
    reading: Any, server: Server, options: Any, body: bytes, content_type: str | None
) -> None:
    server.answers["/"] = Answer([STREAM])
    assert reading(server.url, method="POST", **options) == DATA
    request = server.requests[0]
    assert (request.method, request.body) == ("POST", body)
    assert request.all("content-length") == [str(len(body))]
    assert request.all("content-type") == ([] if content_type is None else [content_type])


def test_headers_replace_the_default_fields(reading: Any, server: Server) -> None:
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


def test_invalid_arguments_raise_at_the_call() -> None:
    """The async function raises at the call too, before it connects."""
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


def test_international_host_is_sent_in_ascii(
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
def test_proxy_in_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, server: Server, name: str
) -> None:
    server.answers["/"] = Answer([STREAM])
    monkeypatch.setenv(name, "http://user:secret@proxy:3128")
    for opening in (open_stream, aopen_stream):
        with pytest.raises(
            SSEError, match=f"{name.lower()} is set, but open_stream does not"
        ) as caught:
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
        listener.settimeout(10)
        thread = threading.Thread(target=answer)
        thread.start()
        yield
        thread.join(10)


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no such sockets")
def test_unix_socket_is_used_without_proxy(
    reading: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A Unix socket needs no proxy.
    monkeypatch.setenv("http_proxy", "http://proxy")
    with unix_server(tmp_path / "s"):
        assert reading("http://docker/events", uds=str(tmp_path / "s")) == DATA


def test_tls_certificate_is_verified(reading: Any, hypercorn_server: AsgiServer) -> None:
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


def test_ssl_cert_file_is_trusted(
    reading: Any, hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    hypercorn_server.answers["/"] = AsgiAnswer([STREAM])
    assert hypercorn_server.ca is not None
    monkeypatch.setenv("SSL_CERT_FILE", hypercorn_server.ca)
    assert reading(hypercorn_server.url + "/") == DATA


def test_socket_options_are_set(faults: FaultServer) -> None:
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


def test_refused_connection_raises_without_secrets(reading: Any) -> None:
    expected = r"No connection to http://127.0.0.1:\d+/: "
    with nobody() as origin, pytest.raises(TransportError, match=expected) as caught:
        reading(f"{origin.replace('//', '//user:secret@')}/?secret")
    assert (caught.value.phase, caught.value.sent) == ("connect", False)
    assert isinstance(caught.value.__cause__, OSError)
    assert "secret" not in str(caught.value)


def test_reset_connection_raises_transport_error() -> None:
    """The error is a TransportError, whichever system call fails."""
    with serve_resets() as url:
        for reading in (read, aread):
            for _ in range(50):
                with pytest.raises(TransportError):
                    reading(url)


def test_connect_timeout_raises_stream_timeout(reading: Any) -> None:
    # The TLS handshake times out: on loopback, a TCP connection is made immediately.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(StreamTimeout) as caught:
            reading(url, connect_timeout=0.1)
    assert (caught.value.phase, caught.value.sent) == ("connect", False)


@pytest.mark.parametrize(
    "sent", [b"", head(CHUNKED), head(CHUNKED) + chunk(b"data: a\n\n")], ids=["", "head", "body"]
)
def test_idle_timeout_raises_stream_timeout(reading: Any, faults: FaultServer, sent: bytes) -> None:
    hold = threading.Event()
    faults.scripts["/"] = [sent, hold]
    with pytest.raises(StreamTimeout, match=r"No byte arrived within 0\.5 seconds") as caught:
        reading(faults.url + "/", idle_timeout=0.5)
    assert caught.value.phase == ("body" if sent else "head")
    assert caught.value.sent
    hold.set()


def test_comments_prevent_idle_timeout(reading: Any, faults: FaultServer) -> None:
    pings = [step for _ in range(10) for step in (b":\n\n", 0.15)]
    faults.scripts["/"] = framed("chunked", [*pings, STREAM])
    assert reading(faults.url + "/", idle_timeout=1.0) == DATA


def test_early_response_to_large_request_is_read(reading: Any) -> None:
    """A server may refuse a large body, and close, before it has read it."""
    response = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

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


def test_interrupted_request_raises_transport_error(reading: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)

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
        # asyncio sends while it waits for the response.
        assert caught.value.phase == ("send" if reading is read else "head")
        assert caught.value.sent
        thread.join(10)


@pytest.mark.parametrize("idle_timeout", [None, 30])
def test_tcp_keepalive_timeout_is_no_idle_timeout(
    monkeypatch: pytest.MonkeyPatch, faults: FaultServer, idle_timeout: float | None
) -> None:
    """TCP may time out without any timeout of the stream, or before it."""
    faults.scripts["/"] = [head(CHUNKED), LEFT]

    def given_up(*_: Any) -> int:
        raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    with open_stream(faults.url + "/", idle_timeout=idle_timeout) as stream:
        monkeypatch.setattr(socket.socket, "recv_into", given_up)
        with pytest.raises(TransportError) as caught:
            next(stream)
        assert isinstance(caught.value.__cause__, TimeoutError)
        assert "No byte arrived" not in str(caught.value)
        assert "idle_timeout" not in str(caught.value)


def test_slow_upload_causes_no_idle_timeout(reading: Any) -> None:
    """The upload takes longer than the timeout, but is never idle for so long."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(10)
        # Several times the buffers of the system, whose progress is invisible.
        size = 40_000_000

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(10)
                received = connection.recv(65536)
                left = size - len(received.partition(b"\r\n\r\n")[2])
                while left:
                    left -= len(connection.recv(min(left, 1_000_000), socket.MSG_WAITALL))
                    time.sleep(0.06)
                for step in framed("chunked", [STREAM]):
                    connection.sendall(step)  # type: ignore[arg-type]

        thread = threading.Thread(target=answer)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        assert reading(url, method="POST", data=b"x" * size, idle_timeout=2.0) == DATA
        thread.join(10)


# -- The response ---------------------------------------------------------------------------------


def test_response_attributes_are_set(faults: FaultServer) -> None:
    faults.scripts["/"] = framed("chunked", [STREAM], "X-A: 1", "x-a: 2")
    with open_stream(faults.url + "/") as stream:
        assert stream.response.status == 200
        assert stream.response.headers["X-A"] == "1, 2"
        assert stream.response.url == faults.url + "/"
        assert isinstance(stream.response.raw, socket.socket)

    async def run() -> None:
        stream = aopen_stream(faults.url + "/")
        assert stream.response is None
        # `await`, `async with` and `async for` open the stream.
        assert await stream is stream
        assert stream.response.status == 200
        assert [event.data async for event in stream] == DATA
        assert [event.data async for event in aopen_stream(faults.url + "/")] == DATA

    asyncio.run(run())


def test_interim_responses_are_skipped(reading: Any, faults: FaultServer) -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    faults.scripts["/"] = [interim, 0.01, interim, *framed("chunked", [STREAM])]
    assert reading(faults.url + "/") == DATA


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 X", "308 X"])
def test_redirect_is_refused(reading: Any, faults: FaultServer, status: str) -> None:
    faults.scripts["/"] = [head("Location: /other?secret", status=status), b"moved"]
    with pytest.raises(ResponseError, match="no redirect") as caught:
        reading(faults.url + "/")
    assert caught.value.response.status == int(status[:3])
    assert caught.value.response.headers["location"] == "/other?secret"
    assert caught.value.response.body == b"moved"
    assert "secret" not in str(caught.value)


def test_response_to_head_ends_without_body(reading: Any, faults: FaultServer) -> None:
    faults.scripts["/"] = [head("Content-Length: 100", status="200 OK"), threading.Event()]
    assert reading(faults.url + "/", method="HEAD") == []
    faults.scripts["/"][1].set()  # type: ignore[index]


def test_end_of_body_does_not_wait_for_close(reading: Any, faults: FaultServer) -> None:
    """The stream does not wait for the connection to close, and ignores bytes after the body."""
    hold = threading.Event()
    more = b"data: more\n\n"
    for framing in ("chunked", "length"):
        faults.scripts["/"] = [*framed(framing, [STREAM]), more, hold]
        assert reading(faults.url + "/", idle_timeout=None) == DATA
    hold.set()


def test_gzip_body_is_decoded(reading: Any, faults: FaultServer) -> None:
    two_members = gzip.compress(STREAM[:9]) + gzip.compress(STREAM[9:])
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
        (["Content-Encoding: br"], "not valid br, although Content-Encoding names it"),
        (["Transfer-Encoding: gzip"], "Transfer coding 'gzip' is not supported"),
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
        ([b""], "ended before a complete response head from http://127", "head"),
        ([b"HTTP/1.1 200 OK\r\nX: 1\r\n"], "ended before a complete response head", "head"),
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], "The response is not HTTP/1.1, from", "head"),
        ([b"HTTP/1.1 abc\r\n\r\n"], "The response is not HTTP/1.1, from", "head"),
        (
            [b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"],
            "switched to another protocol",
            "head",
        ),
        ([head("X: " + "a" * 70_000)], "The response head from .* exceeds 65536 bytes", "head"),
        (
            [head(*["X: " + "a" * 1000] * 70)],
            "The response head from .* exceeds 65536 bytes",
            "head",
        ),
        ([RST], "No response from", "head"),
        ([head(CHUNKED), b"xyz\r\n"], "The body has invalid framing", "body"),
        ([head(CHUNKED), b"-1\r\n"], "The body has invalid framing", "body"),
        ([head(CHUNKED), b"FFFFFFFFFFFFFFFFF\r\n"], "The body has invalid framing", "body"),
        ([head(CHUNKED)], "ended before the end of the body", "body"),
        ([head("Content-Length: 5"), b":"], "ended before the end of the body", "body"),
        ([head(CHUNKED, "Content-Length: 5"), b"data:"], "The body has invalid framing", "body"),
        ([head("Content-Length: 5, 6"), b"data:"], "Content-Length is not one number", "head"),
    ],
)
def test_invalid_response_raises_transport_error(
    reading: Any, faults: FaultServer, script: Any, message: str, phase: str
) -> None:
    faults.scripts["/"] = script
    with pytest.raises(TransportError, match=message) as caught:
        reading(faults.url + "/")
    assert caught.value.phase == phase
    assert caught.value.sent


def test_endless_head_raises(reading: Any, faults: FaultServer) -> None:
    line = b"X: " + b"a" * 1000 + b"\r\n"
    for script in (
        [b"HTTP/1.1 200 OK\r\n", *[line] * 2000],
        [b"HTTP/1.1 200 OK\r\nX: ", *[b"a" * 1000] * 2000],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n"] * 20_000,
    ):
        faults.scripts["/"] = script
        with pytest.raises(TransportError, match=r"The response head from .* exceeds 65536 bytes"):
            reading(faults.url + "/")


@pytest.mark.parametrize(
    "end", [b"xyz\r\n", RST, b"10\r\ndata", b""], ids=["size", "reset", "cut", "end"]
)
def test_events_before_failure_are_delivered(faults: FaultServer, end: Any) -> None:
    """Even if the events and the failure arrive in one piece."""
    begun = head(CHUNKED) + chunk(b"data: a\n\ndata: b\n\n")
    # A reset may overtake the bytes before it, so those are read first.
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


def test_check_false_accepts_any_response(reading: Any, faults: FaultServer) -> None:
    script = framed("close", [STREAM])
    script[0] = head(status="500 No", type="x/y")
    faults.scripts["/"] = script
    with pytest.raises(ResponseError):
        reading(faults.url + "/")
    assert reading(faults.url + "/", check=False) == DATA


def test_parser_options_and_on_chunk_are_used(faults: FaultServer) -> None:
    faults.scripts["/"] = framed("chunked", [b"data: 1\n\n", b"data: [DONE]\n\n"])
    seen: list[bytes] = []
    options: Any = {"decode": json.loads, "until": "[DONE]", "on_chunk": seen.append}
    for reading in (read, aread):
        assert reading(faults.url + "/", **options) == [1]
        assert b"".join(seen) == b"data: 1\n\ndata: [DONE]\n\n"
        seen.clear()


# -- What it needs --------------------------------------------------------------------------------


def test_missing_httptools_raises_import_error(tmp_path: Path) -> None:
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
    printed = run_python(script, directory=tmp_path)
    message = (
        "HTTP over raw sockets needs httptools, which is not installed: "
        "pip install 'sse-fast[client]'"
    )
    assert printed.splitlines() == [message, message, "False False"]


def test_idle_timeout_is_no_total_timeout(server: Server) -> None:
    """The duration of a stream is not limited."""
    server.answers["/"] = Answer([b"data: %d\n\n" % number for number in range(8)], delay=0.2)
    began = time.monotonic()
    assert len(read(server.url, idle_timeout=1.0)) == 8
    assert time.monotonic() - began > 1.0
