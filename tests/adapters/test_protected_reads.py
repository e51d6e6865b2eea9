"""A thread that waits in a read takes nothing from other connections, whoever closes its own.

The TLS library knows a connection by its file descriptor. Once that is closed, the number goes to
the next connection of the process.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import pytest

from sse_fast import ResponseError, TransportError, iter_events, open_stream
from tests.support.asgi import Answer, AsgiServer
from tests.support.clients import HTTPX, LIMIT, open_httpx, tls, wait_until

over_httpx = pytest.mark.parametrize(
    ("module", "http2"),
    [
        pytest.param(module, http2, id=f"{module.__name__} HTTP/{2 if http2 else 1}")
        for module in HTTPX
        for http2 in (False, True)
    ],
)


@pytest.fixture
def hold(hypercorn_server: AsgiServer) -> threading.Event:
    """Let the server pause after its first event until the result is set."""
    hold = threading.Event()
    hypercorn_server.answers["/"] = Answer([b"data: a\n\n", hold, b"data: b\n\n"])
    return hold


@contextmanager
def other_connections() -> Iterator[None]:
    """Open connections, which get the file descriptors that are free; check what they receive."""
    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(20)]
        others = [stack.enter_context(each) for pair in pairs for each in pair]
        for each in others:
            each.settimeout(LIMIT)
            each.sendall(b"of another connection")
        yield
        for each in others:
            assert each.recv(100) == b"of another connection"


def join_threads_since(before: list[threading.Thread]) -> None:
    """Wait for the end of the threads that a test or sse_fast has started."""
    for thread in set(threading.enumerate()) - set(before):
        thread.join(LIMIT)
        assert not thread.is_alive()


def read_in_thread(stream: Any) -> None:
    """Read the first event, and the next one in a thread; return when the thread waits."""

    def read() -> None:
        with suppress(TransportError):
            next(stream, None)

    assert next(stream).data == "a"
    threading.Thread(target=read).start()
    wait_until(lambda: stream.is_being_read)
    # is_being_read is set just before the read blocks.
    time.sleep(0.02)


@over_httpx
def test_client_is_closed_during_read(
    module: Any, http2: bool, hypercorn_server: AsgiServer, hold: threading.Event
) -> None:
    before = threading.enumerate()
    with open_httpx(module, hypercorn_server.url + "/", hypercorn_server.ca, http2) as response:
        read_in_thread(iter_events(response))
    with other_connections():
        hold.set()
        join_threads_since(before)


@over_httpx
def test_client_is_closed_after_refused_response(
    module: Any, http2: bool, hypercorn_server: AsgiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over HTTP/2, a thread of sse_fast still reads the body."""
    monkeypatch.setattr("sse_fast._check._MAX_BODY_SECONDS", 0.1)
    hold = threading.Event()
    hypercorn_server.answers["/"] = Answer([b"refused", hold, b"more"], 500)
    before = threading.enumerate()
    with (
        open_httpx(module, hypercorn_server.url + "/", hypercorn_server.ca, http2) as response,
        pytest.raises(ResponseError),
    ):
        iter_events(response)
    with other_connections():
        hold.set()
        join_threads_since(before)


def test_socket_of_open_stream_is_closed_during_read(
    hypercorn_server: AsgiServer, hold: threading.Event
) -> None:
    before = threading.enumerate()
    context = tls(hypercorn_server.ca)
    with open_stream(hypercorn_server.url + "/", ssl_context=context) as stream:
        read_in_thread(stream)
        stream.response.raw.close()
        with other_connections():
            hold.set()
            join_threads_since(before)


def test_borrowed_socket_is_closed_during_read(
    hypercorn_server: AsgiServer, hold: threading.Event
) -> None:
    before = threading.enumerate()
    context = tls(hypercorn_server.ca)
    assert context is not None
    address = urlsplit(hypercorn_server.url)
    connection = socket.create_connection((address.hostname, address.port), LIMIT)
    with context.wrap_socket(connection, server_hostname=address.hostname) as sock:
        sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += sock.recv(1)
        read_in_thread(iter_events(sock))
    with other_connections():
        hold.set()
        join_threads_since(before)
