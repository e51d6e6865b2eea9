"""An HTTP server on a free loopback port with an answer for each path."""

from __future__ import annotations

import socket
import socketserver
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """The answer to a path; each chunk of the body is written separately."""

    chunks: list[bytes]
    framing: str = "chunked"  # or "close", "length", "cut" (a chunked body without its end)
    status: int = 200
    headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "text/event-stream"})
    gzip: bool = False
    delay: float = 0.0  # seconds before each chunk but the first
    hold: threading.Event | None = None  # waited for before the body ends
    keep_alive: bool = False
    once: bool = False  # whether later requests get a 204


@dataclass
class Request:
    method: str
    path: str
    fields: list[tuple[str, str]]
    body: bytes
    client: tuple[str, int]

    @property
    def headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.fields}

    def all(self, name: str) -> list[str]:
        """Return the values of every field of that name."""
        return [value for key, value in self.fields if key.lower() == name.lower()]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    # With a full queue, the kernel repeats its handshakes for seconds after the client has left.
    request_queue_size = 64

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, Answer] = {}
        self.requests: list[Request] = []
        # Whether a body was held open until its time was over: nobody read its chunks.
        self.waited_in_vain = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fields = list(self.headers.items())
        self.server.requests.append(
            Request(self.command, self.path, fields, body, self.client_address)
        )
        path = self.path.partition("?")[0]
        answer = self.server.answers[path]
        if answer.once:
            self.server.answers[path] = Answer([], "length", 204, {})
        chunks = list(answer.chunks)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if answer.gzip:
            self.send_header("Content-Encoding", "gzip")
            packer = zlib.compressobj(wbits=31)
            chunks = [packer.compress(chunk) + packer.flush(zlib.Z_SYNC_FLUSH) for chunk in chunks]
            chunks.append(packer.flush())
        chunked = answer.framing in ("chunked", "cut")
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        elif answer.framing == "length":
            self.send_header("Content-Length", str(sum(map(len, chunks))))
        if not answer.keep_alive:
            self.send_header("Connection", "close")
        self.end_headers()
        try:
            for index, chunk in enumerate(chunks):
                if index:
                    time.sleep(answer.delay)
                if chunk:
                    self.wfile.write(b"%X\r\n%b\r\n" % (len(chunk), chunk) if chunked else chunk)
            if answer.hold is not None:
                self.server.waited_in_vain |= not answer.hold.wait(10)
            if answer.framing == "chunked":
                self.wfile.write(b"0\r\n\r\n")
        except ConnectionError:
            pass  # The client left, which some tests cause.

    do_POST = do_PUT = do_HEAD = do_GET

    def log_message(self, *args: Any) -> None:
        pass


@contextmanager
def nobody() -> Iterator[str]:
    """Yield an origin where nobody listens; the port stays bound, so that nobody else takes it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve while the block runs."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.002,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def serve() -> Iterator[Server]:
    server = Server()
    with serving(server):
        yield server
