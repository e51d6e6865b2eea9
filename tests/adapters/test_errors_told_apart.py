"""A connection that ended is told from bytes that are no HTTP, and from refused certificates.

Only the latter two are permanent: the client raises them without another attempt.
"""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.events
import pytest
import trustme

import sse_fast
from sse_fast import ResponseError, SSEError, StreamTimeout, TransportError
from sse_fast.adapters._clients import Fault, classify_error
from tests.support.clients import (
    HTTPX,
    LIMIT,
    READERS,
    TIMEOUT,
    UNREAD_UNDER_TRIO,
    Reader,
    is_like_another,
)
from tests.support.eventsources import SOURCES, Way
from tests.support.faults import CHUNKED, LEFT, RST, FaultServer, chunk, head, packed, serve_faults

pytestmark = UNREAD_UNDER_TRIO

ONE = b"data: 1\n\n"
# Our transport and the adapter of http.client have their own tests.
LIBRARIES = [each for each in READERS.values() if each.library not in ("sse_fast", "http.client")]
LIBRARIES = [each for each in LIBRARIES if each.library != "urllib.request"]
WAYS = [
    pytest.param(way, id=str(way), marks=[pytest.mark.matrix] * is_like_another(way.library))
    for way in SOURCES.values()
]
CLIENTS = [each for each in WAYS if each.values[0].has_client]


def coded(coding: str) -> list[Any]:
    return [head(f"Content-Encoding: {coding}") + b"\0" + ONE]


# -- In the body -----------------------------------------------------------------------------------

CUT_OFF: dict[str, list[Any]] = {
    "before a chunk size": [head(CHUNKED) + chunk(ONE)],
    "within a chunk size": [head(CHUNKED) + chunk(ONE) + b"6"],
    "within a chunk": [head(CHUNKED) + chunk(ONE) + b"64\r\nda"],
    "before the end of a chunk": [head(CHUNKED) + chunk(ONE)[:-2]],
    "within a length": [head("Content-Length: 100") + ONE],
    "reset": [head(CHUNKED) + chunk(ONE), 0.05, RST],
}
INVALID: dict[str, list[Any]] = {
    "chunk size": [head(CHUNKED) + chunk(ONE), 0.05, b"zz\r\n", LEFT],
    "chunk size, then the end": [head(CHUNKED) + chunk(ONE), 0.05, b"zz\r\n"],
    "gzip": coded("gzip"),
    "gzip, not encoded": [head("Content-Encoding: gzip") + ONE],
    "deflate": coded("deflate"),
    "br": coded("br"),
    "zstd": coded("zstd"),
    "gzip, after an event": [
        head("Content-Encoding: gzip", CHUNKED) + chunk(b"".join(packed("gzip", [ONE]))[:-10]),
        0.05,
        chunk(b"\xff" * 5),
        LEFT,
    ],
}


@pytest.mark.parametrize("case", CUT_OFF)
@pytest.mark.parametrize("reader", LIBRARIES, ids=str)
def test_body_cut_off_is_not_permanent(reader: Reader, faults: FaultServer, case: str) -> None:
    faults.scripts["/"] = CUT_OFF[case]
    outcome = reader.read(faults.url + "/")
    assert [event.data for event in outcome.events] == ["1"]
    assert isinstance(outcome.error, TransportError)
    assert not outcome.error.permanent
    assert outcome.error.__cause__ is not None


@pytest.mark.parametrize("case", INVALID)
@pytest.mark.parametrize("reader", LIBRARIES, ids=str)
def test_invalid_body_is_permanent(reader: Reader, faults: FaultServer, case: str) -> None:
    faults.scripts["/"] = INVALID[case]
    outcome = reader.read(faults.url + "/")
    assert isinstance(outcome.error, TransportError)
    assert outcome.error.permanent
    assert outcome.error.__cause__ is not None
    assert "not valid HTTP, or not in their content coding" in str(outcome.error)


@pytest.mark.parametrize("reader", READERS.values(), ids=str)
def test_head_cut_off_is_a_broken_connection(reader: Reader, faults: FaultServer) -> None:
    """http.client takes the end of the connection for the end of the head."""
    whole = head(CHUNKED)
    for size in (1, 9, 12, 15, *range(17, len(whole), 5)):
        faults.scripts[f"/{size}"] = [whole[:size]]
        outcome = reader.read(f"{faults.url}/{size}")
        assert outcome.events == []
        # With its content type, such a response is an empty stream.
        if outcome.error is None:
            assert b"text/event-stream" in whole[:size]
        elif isinstance(outcome.error, SSEError):
            # Most libraries raise an error of their own instead of a response.
            assert isinstance(outcome.error, TransportError), (whole[:size], outcome.error)
            assert not outcome.error.permanent


def test_whole_head_of_another_type_is_refused(faults: FaultServer) -> None:
    for reader in LIBRARIES:
        for content_type in ("text/html", "text/event-streams"):
            faults.scripts["/"] = [
                f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n\r\n".encode()
            ]
            assert isinstance(reader.read(faults.url + "/").error, ResponseError)


# -- Over HTTP/2 -----------------------------------------------------------------------------------


@contextmanager
def serve_http2(
    read: threading.Event, end: Callable[[Any, int], bytes], length: int | None = None
) -> Iterator[str]:
    """Serve one event over HTTP/2 without TLS, and once it was read, what `end` returns."""
    fields = [(":status", "200"), ("content-type", "text/event-stream")]
    fields += [] if length is None else [("content-length", str(length))]

    def serve() -> None:
        sock, _ = listener.accept()
        with sock, suppress(OSError):
            sock.settimeout(LIMIT)
            connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
            connection.initiate_connection()
            number = 0
            while not number:
                sock.sendall(connection.data_to_send())
                for event in connection.receive_data(sock.recv(65536)):
                    if isinstance(event, h2.events.RequestReceived):
                        number = event.stream_id
            connection.send_headers(number, fields)
            connection.send_data(number, ONE)
            sock.sendall(connection.data_to_send())
            # httpx raises an error of its own for what arrives together with the head.
            assert read.wait(LIMIT)
            ending = end(connection, number)
            sock.sendall(connection.data_to_send() + ending)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread.join(LIMIT)
        assert not thread.is_alive()


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload))[1:]
        + bytes([kind, flags])
        + struct.pack(">I", number)
        + payload
    )


def go_away(connection: Any, number: int) -> bytes:
    connection.close_connection()
    return b""


def reset_stream(connection: Any, number: int) -> bytes:
    connection.reset_stream(number, 2)
    return b""


# The end, the Content-Length, and whether it is permanent.
HTTP2: dict[str, tuple[Any, int | None, bool]] = {
    "GOAWAY": (go_away, None, False),
    "RST_STREAM": (reset_stream, None, False),
    "end of the connection": (lambda connection, number: b"", None, False),
    "short body": (lambda connection, number: frame(0, 1, number, b""), 100, False),
    "invalid frame": (lambda connection, number: frame(8, 0, number, b"12345"), None, True),
}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("case", HTTP2)
@pytest.mark.parametrize(
    "module",
    [HTTPX[0], *[pytest.param(module, marks=pytest.mark.matrix) for module in HTTPX[1:]]],
    ids=lambda module: module.__name__,
)
def test_http2_body_cut_off_or_invalid(module: Any, case: str, is_async: bool) -> None:
    end, length, permanent = HTTP2[case]
    options = {"http1": False, "http2": True, "timeout": TIMEOUT, "trust_env": False}
    seen = []
    taken = threading.Event()

    def read() -> None:
        with module.Client(**options) as client, client.stream("GET", url) as response:
            for event in sse_fast.iter_events(response):
                seen.append(event.data)
                taken.set()

    async def aread() -> None:
        async with (
            module.AsyncClient(**options) as client,
            client.stream("GET", url) as response,
        ):
            async for event in sse_fast.aiter_events(response):
                seen.append(event.data)
                taken.set()

    with serve_http2(taken, end, length) as url, pytest.raises(TransportError) as caught:
        anyio.run(aread) if is_async else read()
    assert seen == ["1"]
    assert caught.value.permanent is permanent
    assert not isinstance(caught.value, StreamTimeout)


# -- Instead of a response -------------------------------------------------------------------------

ENDED: dict[str, list[Any]] = {
    "nothing": [],
    "a reset": [RST],
}
NO_HTTP: dict[str, list[Any]] = {
    "another protocol": [b"SSH-2.0-OpenSSH_9.9\r\n\r\n", LEFT],
    "a field that is too long": [b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000 + b"\r\n\r\n"],
}


def ask(way: Way, url: str, **options: Any) -> Any:
    policy = sse_fast.ReconnectPolicy.never()
    return way.read(url, policy=policy, **options).error


@pytest.mark.parametrize("case", ENDED)
@pytest.mark.parametrize("way", CLIENTS)
def test_connection_without_response_is_not_permanent(way: Way, case: str) -> None:
    with serve_faults() as faults:
        faults.scripts["/"] = ENDED[case]
        error = ask(way, faults.url + "/")
    assert isinstance(error, TransportError)
    assert (error.permanent, error.sent, error.phase) == (False, True, "head")


@pytest.mark.parametrize("case", NO_HTTP)
@pytest.mark.parametrize("way", CLIENTS)
def test_response_that_is_no_http_is_permanent(way: Way, case: str) -> None:
    with serve_faults() as faults:
        faults.scripts["/"] = NO_HTTP[case]
        error = ask(way, faults.url + "/")
    assert isinstance(error, TransportError)
    assert (error.permanent, error.sent, error.phase) == (True, True, "head")
    assert "not valid HTTP" in str(error)


@contextmanager
def accepting(handle: Callable[[socket.socket], None]) -> Iterator[str]:
    """Handle two connections one after the other, because aiohttp asks again for a GET."""

    def serve() -> None:
        for _ in range(2):
            with suppress(OSError):
                sock, _ = listener.accept()
                handle(sock)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/"
        # The thread may still wait for the second.
        socket.create_connection(listener.getsockname()).close()
        thread.join(LIMIT)
        assert not thread.is_alive()


@pytest.mark.parametrize("way", WAYS)
def test_refused_certificate_is_permanent(way: Way, tmp_path: Any) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    other = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(other)

    def handle(sock: socket.socket) -> None:
        with sock, context.wrap_socket(sock, server_side=True):
            pass

    with accepting(handle) as url:
        error = ask(way, url, ca=str(other))
    assert isinstance(error, TransportError)
    assert (error.permanent, error.sent) == (True, False)


@pytest.mark.parametrize("way", WAYS)
def test_client_without_wanted_certificate_is_permanent(way: Way, tmp_path: Any) -> None:
    """With TLS 1.3, the server refuses after the handshake of the client."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)

    def handle(sock: socket.socket) -> None:
        # The socket stays open until the client has left, so that nothing is reset.
        with sock:
            sock.settimeout(LIMIT)
            with suppress(OSError):
                context.wrap_socket(sock.dup(), server_side=True)
            while sock.recv(65536):
                pass

    with accepting(handle) as url:
        error = ask(way, url, ca=str(path))
    assert isinstance(error, TransportError)
    assert error.permanent, repr(error.__cause__)


@pytest.mark.parametrize("way", WAYS)
def test_server_without_tls_is_permanent(way: Way) -> None:
    def serve() -> None:
        sock, _ = listener.accept()
        with sock, suppress(OSError):
            sock.settimeout(LIMIT)
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
            while sock.recv(65536):
                pass

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        error = ask(way, f"https://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join(LIMIT)
    assert isinstance(error, TransportError)
    assert error.permanent
    assert "does not speak a TLS that the client accepts" in str(error)


@pytest.mark.parametrize("coding", ["gzip", "zstd", "gzip, identity"])
def test_aiohttp_body_left_encoded_is_permanent(faults: FaultServer, coding: str) -> None:
    """`auto_decompress=False`, or a field that aiohttp does not take for a coding."""
    body = packed(coding.partition(",")[0], [ONE])
    faults.scripts["/"] = [head(f"Content-Encoding: {coding}") + b"".join(body)]
    options = {} if "," in coding else {"auto_decompress": False}
    error = ask(SOURCES["aiohttp"], faults.url + "/", client_options=options)
    assert isinstance(error, TransportError)
    assert error.permanent
    assert "is not decoded" in str(error)


@pytest.mark.parametrize("attribute", ["verify", "cert"])
def test_missing_certificate_file_is_raised(attribute: str) -> None:
    """A mistake of the program, which requests raises as a plain OSError."""
    error = ask(
        SOURCES["requests"], "https://127.0.0.1:9/", client_options={attribute: "/no/such.pem"}
    )
    assert isinstance(error, sse_fast.SSEError)
    assert not isinstance(error, TransportError)
    assert isinstance(error.__cause__, OSError)


@pytest.mark.parametrize("way", CLIENTS)
def test_host_that_is_not_resolved_is_not_permanent(way: Way) -> None:
    error = ask(way, "http://no-such-host.invalid/")
    assert isinstance(error, TransportError)
    assert (error.permanent, error.sent, error.phase) == (False, False, "connect")
    assert classify_error(error.__cause__) is Fault.NAME


@pytest.mark.parametrize("way", CLIENTS)
def test_refused_connection_is_not_permanent(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = ask(way, f"http://127.0.0.1:{port}/")
    assert isinstance(error, TransportError)
    assert (error.permanent, error.sent) == (False, False)
    assert classify_error(error.__cause__) is Fault.NETWORK


# -- Without a server ------------------------------------------------------------------------------


def test_invalid_chunk_length_of_urllib3_is_told_apart() -> None:
    import urllib3

    response = urllib3.HTTPResponse(b"")
    for length, fault in [(b"", Fault.CUT_OFF), (b"zz", Fault.INVALID)]:
        inner = urllib3.exceptions.InvalidChunkLength(response, length)  # type: ignore[arg-type]
        wrapped = urllib3.exceptions.ProtocolError("Connection broken", inner)
        assert classify_error(inner) is classify_error(wrapped) is fault


def test_certificate_refused_by_server_is_permanent() -> None:
    error = ssl.SSLError(1, "[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert classify_error(error) is Fault.CERTIFICATE
    error.reason = "UNEXPECTED_EOF_WHILE_READING"
    assert classify_error(error) is Fault.NETWORK


def test_refused_response_is_no_transport_error(faults: FaultServer) -> None:
    """Bytes that break off after a refused status do not hide the status."""
    for reader in LIBRARIES:
        faults.scripts["/"] = [head(CHUNKED, status="503 Oops") + b"zz\r\n"]
        outcome = reader.read(faults.url + "/")
        if reader.library == "aiohttp":
            # aiohttp raises before it returns a response.
            continue
        assert isinstance(outcome.error, ResponseError), reader
