"""`Source.wait` of the blocking transport: a wait with a time limit that loses nothing."""

from __future__ import annotations

import gc
import socket
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, cast

import pytest

from sse_fast import StreamTimeout, TransportError
from sse_fast._http1 import blocking
from sse_fast._request import Request
from sse_fast._source import Source
from tests.support.asgi import Answer, AsgiServer
from tests.support.clients import tls
from tests.support.faults import CHUNKED, FaultServer, chunk, framed, head

A, B = b"data: a\n\n", b"data: b\n\n"


class Opened(AbstractContextManager[Any]):
    """A source of the blocking transport, which is closed at the end."""

    def __init__(self, url: str, idle_timeout: float | None = 8.0, **options: Any) -> None:
        request = Request("GET", url)
        self.source: Source = blocking.send(None, request, 8.0, idle_timeout, **options)
        self.chunks = cast("Iterator[bytes]", self.source.chunks)

    def wait(self, seconds: float) -> bool:
        assert self.source.wait is not None
        return self.source.wait(seconds)

    def __exit__(self, *_: object) -> None:
        assert self.source.close is not None
        self.source.close()


def test_wait_says_whether_a_read_would_block(faults: FaultServer) -> None:
    first, second = threading.Event(), threading.Event()
    faults.scripts["/"] = framed("chunked", [first, A, second, B])
    with Opened(faults.url + "/") as opened:
        for _ in range(3):
            assert not opened.wait(0.02)
        first.set()
        assert opened.wait(8)
        # Nothing is consumed by another wait.
        assert opened.wait(0)
        assert next(opened.chunks) == A
        assert not opened.wait(0)
        second.set()
        assert next(opened.chunks) == B
        assert opened.wait(8)
        with pytest.raises(StopIteration):
            next(opened.chunks)
        assert opened.wait(0)
        with pytest.raises(StopIteration):
            next(opened.chunks)


def test_wait_takes_its_time(faults: FaultServer) -> None:
    hold = threading.Event()
    faults.scripts["/"] = [head(CHUNKED), hold]
    with Opened(faults.url + "/", None) as opened:
        began = time.monotonic()
        assert not opened.wait(0.3)
        assert 0.29 < time.monotonic() - began < 3
        began = time.monotonic()
        assert not opened.wait(0)
        assert time.monotonic() - began < 0.2
    hold.set()


def test_wait_ignores_bytes_that_complete_no_piece(faults: FaultServer) -> None:
    drips = [step for _ in range(50) for step in (b"a", 0.01)]
    faults.scripts["/"] = [head(CHUNKED), b"9;x=", *drips, b"\r\n" + A + b"\r\n", chunk(b"")]
    with Opened(faults.url + "/") as opened:
        assert not opened.wait(0.1)
        assert opened.wait(8)
        assert next(opened.chunks) == A


@pytest.mark.parametrize("end", [b"noise\r\n", b""])
def test_wait_keeps_the_error_for_the_read(faults: FaultServer, end: bytes) -> None:
    faults.scripts["/"] = [head(CHUNKED), chunk(A), end]
    with Opened(faults.url + "/") as opened:
        assert opened.wait(8)
        assert next(opened.chunks) == A
        assert opened.wait(8)
        with pytest.raises(TransportError):
            next(opened.chunks)


def test_waits_in_a_row_count_for_idle_timeout(faults: FaultServer) -> None:
    hold = threading.Event()
    faults.scripts["/"] = [head(CHUNKED), chunk(A), hold]
    with Opened(faults.url + "/", idle_timeout=0.3) as opened:
        assert opened.wait(5)
        assert next(opened.chunks) == A
        # The time between the waits does not count.
        time.sleep(0.4)
        assert not opened.wait(0.1)
        assert not opened.wait(0.1)
        assert opened.wait(5)
        with pytest.raises(StreamTimeout, match="No byte arrived within"):
            next(opened.chunks)
    hold.set()


def test_wake_ends_a_wait(faults: FaultServer) -> None:
    hold = threading.Event()
    faults.scripts["/"] = [head(CHUNKED), hold]
    with Opened(faults.url + "/") as opened:
        assert opened.source.wake is not None
        timer = threading.Timer(0.1, opened.source.wake)
        timer.start()
        assert opened.wait(8)
        with pytest.raises(TransportError):
            next(opened.chunks)
        timer.join()
    hold.set()


def test_wait_over_tls_loses_nothing(hypercorn_server: AsgiServer) -> None:
    pieces = [b"data: %d\n\n" % number for number in range(20)]
    hypercorn_server.answers["/"] = Answer([each for piece in pieces for each in (piece, 0.02)])
    context = tls(hypercorn_server.ca)
    found = b""
    with Opened(hypercorn_server.url + "/", ssl_context=context) as opened:
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            if opened.wait(0.003):
                chunk = next(opened.chunks, None)
                if chunk is None:
                    break
                found += chunk
    assert found == b"".join(pieces)


@pytest.mark.filterwarnings("ignore:unclosed", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_dropped_error_of_wait_releases_the_socket(faults: FaultServer) -> None:
    faults.scripts["/"] = [head(CHUNKED), b"noise\r\n"]
    gc.disable()
    try:
        opened = Opened(faults.url + "/")
        assert opened.wait(8)
        assert opened.source.response is not None
        sock: weakref.ref[socket.socket] = weakref.ref(opened.source.response.raw)
        opened.source = Source(())
        del opened
        assert sock() is None
    finally:
        gc.enable()
