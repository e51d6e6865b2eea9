"""A server of bare sockets that plays a script for each path, down to the byte and the RST."""

from __future__ import annotations

import socket
import socketserver
import struct
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Literal, TypeAlias

from tests.support.server import serving

# Seconds to wait for anything: fewer than the clients wait, so that the server notices it first.
LIMIT = 8.0
RST: Literal["RST"] = "RST"
LEFT: Literal["LEFT"] = "LEFT"

# Bytes to send, seconds to pause, an event to wait for, a reset of the connection, or the wait for
# the client to leave. After the last step, the connection is closed.
Step: TypeAlias = bytes | float | threading.Event | Literal["RST"]

CHUNKED = "Transfer-Encoding: chunked"


def head(*fields: str, status: str = "200 OK", type: str | None = "text/event-stream") -> bytes:
    """Make a response head."""
    content_type = [] if type is None else [f"Content-Type: {type}"]
    lines = [f"HTTP/1.1 {status}", *content_type, *fields, "Connection: close", "", ""]
    return "\r\n".join(lines).encode()


def chunk(data: bytes) -> bytes:
    """Encode a chunk of a chunked body; the empty chunk is the last."""
    return b"%X\r\n%b\r\n" % (len(data), data)


def framed(framing: str, parts: Iterable[Step], *fields: str) -> list[Step]:
    """Make a response that is "chunked", has a "length", or ends with the connection ("close")."""
    parts = list(parts)
    if framing == "chunked":
        chunks = [chunk(part) if isinstance(part, bytes) else part for part in parts]
        return [head(CHUNKED, *fields), *chunks, chunk(b"")]
    if framing == "length":
        length = sum(len(part) for part in parts if isinstance(part, bytes))
        return [head(f"Content-Length: {length}", *fields), *parts]
    return [head(*fields), *parts]


def byte_by_byte(script: Iterable[Step]) -> Iterator[Step]:
    """Split a script into single bytes with a pause after each."""
    for step in script:
        if isinstance(step, bytes):
            for byte in step:
                yield bytes([byte])
                yield 0.0003
        else:
            yield step


def packed(coding: str, parts: Iterable[Step]) -> Iterator[Step]:
    """Encode the parts, each flushed; the last part ends the coding."""
    # Imported late: the tests of sources without HTTP do not need these.
    import brotli
    import zstandard

    if coding == "br":
        brotli_packer = brotli.Compressor()
        compress, finish = brotli_packer.process, brotli_packer.finish
        flush: Callable[[], bytes] = brotli_packer.flush
    elif coding == "zstd":
        zstd_packer = zstandard.ZstdCompressor().compressobj()
        compress, finish = zstd_packer.compress, zstd_packer.flush
        flush = partial(zstd_packer.flush, zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    else:
        gzip_packer = zlib.compressobj(wbits=31)
        compress, finish = gzip_packer.compress, gzip_packer.flush
        flush = partial(gzip_packer.flush, zlib.Z_SYNC_FLUSH)
    for part in parts:
        yield compress(part) + flush() if isinstance(part, bytes) else part
    yield finish()


class FaultServer(socketserver.ThreadingTCPServer):
    """Plays `scripts[path]` to each connection that asks for the path."""

    daemon_threads = False
    block_on_close = True
    # With a full queue, the kernel repeats its handshakes for seconds after the client has left.
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Player)
        self.scripts: dict[str, Iterable[Step]] = {}
        self.requests: list[bytes] = []
        self.errors: list[BaseException | None] = []
        self.connections: list[socket.socket] = []
        self._playing: set[object] = set()
        # Whether a script waited until its time was over: nobody read its bytes, or left.
        self.waited_in_vain = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def playing(self) -> int:
        """The number of scripts that have not ended."""
        return len(self._playing)

    def end(self) -> None:
        """Let every thread end, because a failed test may leave some that wait."""
        for script in self.scripts.values():
            for step in script:
                if isinstance(step, threading.Event):
                    step.set()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.errors.append(sys.exc_info()[1])


class _Player(socketserver.BaseRequestHandler):
    request: socket.socket
    server: FaultServer

    def handle(self) -> None:
        self.server.connections.append(self.request)
        self.request.settimeout(LIMIT)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request = b""
        while b"\r\n\r\n" not in request:
            received = self.request.recv(65536)
            if not received:
                return
            request += received
        self.server.requests.append(request)
        path = request.split()[1].decode()
        # A counter would lose an update if two threads changed it at the same time.
        self.server._playing.add(self)
        try:
            for step in self.server.scripts[path]:
                self.play(step)
        except ConnectionError:
            pass  # The client left, which some tests cause.
        except TimeoutError:
            self.server.waited_in_vain = True
        finally:
            self.server._playing.remove(self)

    def play(self, step: Step) -> None:
        if isinstance(step, bytes):
            self.request.sendall(step)
        elif isinstance(step, float):
            time.sleep(step)
        elif isinstance(step, threading.Event):
            if not step.wait(LIMIT):
                raise TimeoutError
        elif step == LEFT:
            # A client that leaves within a body may reset the connection.
            with suppress(ConnectionError):
                while self.request.recv(65536):
                    pass
        else:
            _reset(self.request)


@contextmanager
def serve_faults() -> Iterator[FaultServer]:
    server = FaultServer()
    with serving(server):
        try:
            yield server
        finally:
            server.end()
    assert not server.waited_in_vain
    assert server.errors == []


@contextmanager
def serve_resets() -> Iterator[str]:
    """Reset every connection immediately; yields the URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listener.settimeout(0.05)
        stopped = threading.Event()

        def reset() -> None:
            while not stopped.is_set():
                with suppress(TimeoutError):
                    connection, _ = listener.accept()
                    _reset(connection)

        thread = threading.Thread(target=reset)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        finally:
            stopped.set()
            thread.join()


def _reset(connection: socket.socket) -> None:
    """Close a connection by RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
