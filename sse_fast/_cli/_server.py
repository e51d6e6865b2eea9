"""An HTTP server of event streams on loopback, for `demo` and `replay`."""

from __future__ import annotations

import os
import socketserver
import sys
from http.server import BaseHTTPRequestHandler
from typing import Any


class Server(socketserver.ThreadingTCPServer):
    """A server on 127.0.0.1 with a daemon thread for each connection."""

    daemon_threads = True
    # Allows reuse of a port that was just closed; on Windows it would share a port in use.
    allow_reuse_address = os.name == "posix"
    request_queue_size = 64

    def __init__(self, handler: type[Handler], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), handler)

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        port: int = self.server_address[1]
        return port

    def handle_error(self, request: Any, client_address: Any) -> None:
        # Clients may disconnect at any time.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One request; each piece of the response is sent immediately, as an HTTP chunk."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def read_body(self) -> bytes:
        """Read the request body; closing with unread bytes would reset the connection."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        # Skip trailers and the blank line.
        while self.rfile.readline().strip():
            pass
        return body

    def begin(self) -> None:
        """Send the head of a response that is an event stream."""
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        if self._chunked:
            self.send_header("Transfer-Encoding", "chunked")
        self.send_header("Connection", "close")
        self.end_headers()

    def send(self, piece: bytes) -> None:
        """Send bytes of the stream."""
        # An empty chunk would end the body.
        if piece:
            self.wfile.write(b"%X\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    def end(self) -> None:
        """End the body."""
        if self._chunked:
            self.wfile.write(b"0\r\n\r\n")

    @property
    def _chunked(self) -> bool:
        return self.request_version != "HTTP/1.0"

    def log_message(self, *args: Any) -> None:
        pass
