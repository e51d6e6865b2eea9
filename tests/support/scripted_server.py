"""A server that plays a script: the answer depends on the number of the request, not on its path.

It works on plain sockets, so that it can break every rule of HTTP. For clients that reconnect.
"""

from __future__ import annotations

import select
import socket
import socketserver
import ssl
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import formatdate
from http.client import responses
from typing import Any, Literal, TypeAlias

from tests.support.server import serving

# Seconds to wait for an event: less than the clients wait, so that it is noticed here first.
LIMIT = 8.0
# Seconds that a client has to close its side after the server has closed its own.
DRAIN = 1.0
POLL = 0.01

EVENT_STREAM = ("Content-Type", "text/event-stream")
# A client has left when its FIN or a reset has arrived, even if earlier bytes are still unread.
_LEFT = getattr(select, "POLLRDHUP", 0)

Framing: TypeAlias = Literal[
    "close", "chunked", "chunked-truncated", "length", "length-short", "length-long", "none"
]


@dataclass
class Play:
    """One answer.

    The head and the first part of the body are sent by one write, every further part by its own:
    how some clients treat unexpected bytes depends on what arrives together. An event among the
    parts is waited for. `framing` says how the body is delimited: "chunked-truncated" lacks the
    last chunk, "length-short" has 50 bytes fewer than its Content-Length says, "length-long" has 9
    more, and with "none" nothing is sent at all.

    `end`: "fin" closes the connection, "rst" resets it, and "hang" neither ends the body nor closes
    the connection until the client leaves. An event is waited for and followed by "fin".

    In a field, `%RUN%` is replaced by `Stage.run`; a Location of `@b` by the path of the request
    with `b` as its last segment.
    """

    status: int = 200
    fields: Sequence[tuple[str, str]] = (EVENT_STREAM,)
    body: Sequence[bytes | threading.Event] = ()
    framing: Framing = "close"
    end: Literal["fin", "rst", "hang"] | threading.Event = "fin"
    delay: float = 0.0  # ms between the parts of the body, and between the last and the end
    head_delay: float = 0.0  # ms before the first byte
    keep_alive: bool = False  # whether the connection is for another request after this one


def stream(*events: bytes, **options: Any) -> Play:
    """Return a chunked stream of the events, by default of a single one."""
    return Play(body=events or [b"id: 1\ndata: a\n\n"], **{"framing": "chunked", **options})


@dataclass
class Request:
    """A request that arrived."""

    method: str
    target: str
    fields: list[tuple[bytes, bytes]]  # the value is everything after ": "
    body: bytes
    connection: int  # the number of the connection, from 0
    arrived: float  # time.monotonic()
    # When the first byte of the answer was about to be sent; None: no byte was.
    began: float | None = None
    # When the last byte of the answer, or the end of the connection, was about to be sent, or when
    # the client had left. None: the answer is still being played.
    ended: float | None = None
    # Seconds since the previous answer ended; None: there was none, or it has not ended.
    waited: float | None = None
    # When this request arrived: the number of other answers that were being played, and of other
    # connections that the client had not closed.
    playing: int = 0
    open: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def all(self, name: str) -> list[bytes]:
        """Return the values of all fields of that name."""
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    def get(self, name: str) -> bytes | None:
        """Return the value of the only field of that name, or None if there is no such field."""
        values = self.all(name)
        assert len(values) < 2, f"{len(values)} fields {name}"
        return values[0] if values else None


def in_two_seconds() -> str:
    """Return a date for Retry-After. Dates have whole seconds, so it is 1 to 2 seconds away."""
    return formatdate(time.time() + 2, usegmt=True)


class Stage(socketserver.ThreadingTCPServer):
    """Plays `plays[n]` to request number n, whatever its connection; and 204 after the last play.

    `plays` may also be a callable from the number and the request.
    """

    daemon_threads = False
    block_on_close = True
    request_queue_size = 64

    def __init__(
        self,
        plays: Sequence[Play] | Callable[[int, Request], Play] = (),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Player)
        self.plays = plays
        self.ssl_context = ssl_context
        self.run = uuid.uuid4().hex
        self.requests: list[Request] = []
        self.errors: list[BaseException | None] = []
        # Whether the wait for an event timed out.
        self.waited_in_vain = False
        self._lock = threading.Lock()
        self._connections: dict[int, socket.socket] = {}
        self._accepted = 0
        self._ending = threading.Event()

    @property
    def origin(self) -> str:
        scheme = "http" if self.ssl_context is None else "https"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        return f"{self.origin}/c/a"

    @property
    def open(self) -> int:
        """The number of connections that the client has not closed."""
        with self._lock:
            return sum(not _has_left(connection) for connection in self._connections.values())

    def sent(self, name: str = "Last-Event-ID") -> list[str | None]:
        """Return the field of that name of each request."""
        values = [request.get(name) for request in self.requests]
        return [None if value is None else value.decode() for value in values]

    def pause(self, milliseconds: float) -> None:
        self._ending.wait(milliseconds / 1000)

    def enter(self, connection: socket.socket) -> int:
        with self._lock:
            number = self._accepted
            self._accepted += 1
            self._connections[number] = connection
        # Check after registering: end() in another thread either sees the connection or is seen.
        if self._ending.is_set():
            _shut(connection)
        return number

    def leave(self, number: int) -> None:
        with self._lock:
            connection = self._connections.pop(number)
        connection.close()

    def arrive(self, request: Request) -> Play:
        """Record the request, and choose the answer."""
        with self._lock:
            index = len(self.requests)
            others = {
                number
                for number, connection in self._connections.items()
                if number != request.connection and not _has_left(connection)
            }
            request.open = len(others)
            request.playing = sum(
                earlier.ended is None and earlier.connection in others for earlier in self.requests
            )
            if index and (ended := self.requests[-1].ended) is not None:
                request.waited = request.arrived - ended
            self.requests.append(request)
        if callable(self.plays):
            return self.plays(index, request)
        return self.plays[index] if index < len(self.plays) else Play(status=204, fields=())

    def end(self) -> None:
        """End every thread, whatever it waits for."""
        self._ending.set()
        with self._lock:
            for connection in self._connections.values():
                _shut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.errors.append(sys.exc_info()[1])


def _has_left(connection: socket.socket) -> bool:
    # Over TLS, a client that leaves may wait for the closure alert before it closes: so whatever it
    # sends while an answer is played counts as its own closure alert.
    events = _LEFT | (select.POLLIN if isinstance(connection, ssl.SSLSocket) else 0)
    poll = select.poll()
    poll.register(connection, events)
    return bool(poll.poll(0))


# These act on the socket below TLS: the methods of SSLSocket wait for the other side, or refuse to
# work once it has left.


def _shut(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, how)


def _drain(connection: socket.socket) -> None:
    """Read until the client closes: closing a socket with unread bytes would reset it."""
    limit = time.monotonic() + DRAIN
    with suppress(OSError):
        while (seconds := limit - time.monotonic()) > 0:
            connection.settimeout(seconds)
            if not socket.socket.recv(connection, 65536):
                return


class _Player(socketserver.BaseRequestHandler):
    request: socket.socket
    server: Stage

    def handle(self) -> None:
        self.connection = self.request
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = self.server.ssl_context
        if context is not None:
            self.connection = context.wrap_socket(
                self.connection, server_side=True, do_handshake_on_connect=False
            )
        self.number = self.server.enter(self.connection)
        self.unread = b""
        # Some tests let the client leave at any point.
        try:
            with suppress(OSError):
                if isinstance(self.connection, ssl.SSLSocket):
                    self.connection.do_handshake()
                while (request := self.receive()) is not None:
                    if not self.answer(request):
                        break
        finally:
            self.server.leave(self.number)

    def receive(self) -> Request | None:
        """Return the next request with its body, or None if the client has left."""
        while b"\r\n\r\n" not in self.unread:
            received = self.connection.recv(65536)
            if not received:
                return None
            self.unread += received
        head, _, self.unread = self.unread.partition(b"\r\n\r\n")
        start, *lines = head.split(b"\r\n")
        method, target, _ = start.decode("ascii").split(" ")
        fields = []
        for line in lines:
            name, _, value = line.partition(b":")
            fields.append((name, value.removeprefix(b" ")))
        request = Request(method, target, fields, b"", self.number, 0.0)
        length = int(request.get("Content-Length") or 0)
        while len(self.unread) < length:
            received = self.connection.recv(65536)
            if not received:
                return None
            self.unread += received
        request.body, self.unread = self.unread[:length], self.unread[length:]
        request.arrived = time.monotonic()
        return request

    def answer(self, request: Request) -> bool:
        """Play an answer; return whether another request may follow on this connection."""
        play = self.server.arrive(request)
        try:
            self.server.pause(play.head_delay)
            if play.framing != "none":
                self.send(play, request)
            if play.end == "hang":
                while self.connection.recv(65536):
                    pass
                self.close()
                return False
            if isinstance(play.end, threading.Event):
                self.wait(play.end)
            if request.ended is None:
                request.ended = time.monotonic()
            if play.end == "rst":
                self.connection.setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
                return False
            if play.framing == "chunked" and request.method != "HEAD":
                self.connection.sendall(b"0\r\n\r\n")
            if play.keep_alive:
                return True
            self.close()
            return False
        finally:
            if request.ended is None:
                request.ended = time.monotonic()

    def head(self, play: Play, request: Request) -> bytes:
        lines = [f"HTTP/1.1 {play.status} {responses.get(play.status, '')}"]
        for name, value in play.fields:
            if name.lower() == "location" and value.startswith("@"):
                value = f"{request.path.rpartition('/')[0]}/{value[1:]}"
            lines.append(f"{name}: {value}".replace("%RUN%", self.server.run))
        if play.framing.startswith("chunked"):
            lines.append("Transfer-Encoding: chunked")
        elif play.framing.startswith("length"):
            lines.append(f"Content-Length: {self.length(play)}")
        if not play.keep_alive:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode()

    def length(self, play: Play) -> int:
        length = sum(len(part) for part in play.body if isinstance(part, bytes))
        return length + {"length-short": 50, "length-long": -9}.get(play.framing, 0)

    def send(self, play: Play, request: Request) -> None:
        request.began = time.monotonic()
        unsent = self.head(play, request)
        # The bytes that the client still expects, unless it waits for the end of the connection.
        left = self.length(play) if play.framing.startswith("length") else sys.maxsize
        for index, part in enumerate(play.body if request.method != "HEAD" else ()):
            if index:
                self.server.pause(play.delay)
            if isinstance(part, threading.Event):
                self.connection.sendall(unsent)
                unsent = b""
                self.wait(part)
                continue
            left -= len(part)
            if left <= 0 and request.ended is None:
                request.ended = time.monotonic()
            if play.framing.startswith("chunked"):
                part = b"%X\r\n%b\r\n" % (len(part), part)
            self.connection.sendall(unsent + part)
            unsent = b""
        self.connection.sendall(unsent)
        self.server.pause(play.delay)

    def wait(self, event: threading.Event) -> None:
        limit = time.monotonic() + LIMIT
        while not event.wait(POLL):
            if _has_left(self.connection):
                raise ConnectionAbortedError
            if time.monotonic() > limit:
                self.server.waited_in_vain = True
                raise ConnectionAbortedError

    def close(self) -> None:
        """Close our side first, and the socket after the client has closed its own.

        Otherwise bytes that the client still sends would be answered by a reset, which discards
        what the client has not read yet.
        """
        if isinstance(self.connection, ssl.SSLSocket):
            # It sends the closure alert, and must not wait for that of the client.
            self.connection.setblocking(False)
            with suppress(OSError):
                self.connection.unwrap()
        _shut(self.connection, socket.SHUT_WR)
        _drain(self.connection)


@contextmanager
def serve_stage(
    plays: Sequence[Play] | Callable[[int, Request], Play] = (),
    ssl_context: ssl.SSLContext | None = None,
) -> Iterator[Stage]:
    """Serve one origin; a test that needs two opens two."""
    stage = Stage(plays, ssl_context)
    with serving(stage):
        try:
            yield stage
        finally:
            stage.end()
    assert not stage.waited_in_vain
    assert stage.errors == []
