"""A server of bare sockets that plays a sequence: what it answers is a matter of the number of the
request, not of its path. For clients that come back.
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

# Seconds to wait for an event: less than the clients do, so that a wait in vain is seen here.
LIMIT = 8.0
# Seconds that a client has to close its side, once ours is closed.
DRAIN = 1.0
POLL = 0.01

EVENT_STREAM = ("Content-Type", "text/event-stream")
# The client has left when its FIN or a reset is there; what it sent before may still be unread.
_LEFT = getattr(select, "POLLRDHUP", 0)

Framing: TypeAlias = Literal[
    "close", "chunked", "chunked-truncated", "length", "length-short", "length-long", "none"
]


@dataclass
class Play:
    """One answer.

    The body is sent part by part, each in a write of its own but for the first, which goes with the
    head: what some clients make of bytes that they do not expect depends on what these come with.
    An event among the parts is waited for. `framing` says how the body is delimited:
    "chunked-truncated" lacks the last chunk, "length-short" has 50 bytes fewer than its
    Content-Length says, "length-long" has 9 more, and of "none" nothing is sent at all.

    `end`: "fin" closes in good order, "rst" resets the connection, "hang" leaves the body without
    its end and the connection open, until the client leaves. An event is waited for, then "fin".

    In a field, `%RUN%` stands for `Stage.run`, and a Location of `@b` for the path `b` beside that
    of the request.
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
    """A chunked stream of those events; of one, where none are given."""
    return Play(body=events or [b"id: 1\ndata: a\n\n"], **{"framing": "chunked", **options})


@dataclass
class Request:
    method: str
    target: str
    fields: list[tuple[bytes, bytes]]  # a value is all that follows ": "
    body: bytes
    connection: int  # its number, from 0
    arrived: float  # time.monotonic()
    # When the first byte of the answer was about to be sent; None: nothing was.
    began: float | None = None
    # When the last byte of the answer, or the end of the connection, was about to be sent, or the
    # client was seen to have left. None: the answer is still being played.
    ended: float | None = None
    # Seconds since the previous answer ended; None: there is none, or it has not ended.
    waited: float | None = None
    # How many other answers were being played, and how many other connections the client had not
    # closed, when this request arrived.
    playing: int = 0
    open: int = 0

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    def all(self, name: str) -> list[bytes]:
        """The values of every field of that name."""
        return [value for key, value in self.fields if key.lower() == name.lower().encode()]

    def get(self, name: str) -> bytes | None:
        """The value of the only field of that name; None: there is no such field."""
        values = self.all(name)
        assert len(values) < 2, f"{len(values)} fields {name}"
        return values[0] if values else None


def in_two_seconds() -> str:
    """A date for Retry-After; to the second, so that it is in one at least."""
    return formatdate(time.time() + 2, usegmt=True)


class Stage(socketserver.ThreadingTCPServer):
    """Plays `plays[n]` to the request number n, from whichever connection; afterwards, 204.

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
        # Whether an event was waited for until its time was up.
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
        """How many connections the client has not closed."""
        with self._lock:
            return sum(not _has_left(connection) for connection in self._connections.values())

    def sent(self, name: str = "Last-Event-ID") -> list[str | None]:
        """The field of that name of each request."""
        values = [request.get(name) for request in self.requests]
        return [None if value is None else value.decode() for value in values]

    def pause(self, milliseconds: float) -> None:
        self._ending.wait(milliseconds / 1000)

    def enter(self, connection: socket.socket) -> int:
        with self._lock:
            number = self._accepted
            self._accepted += 1
            self._connections[number] = connection
        # Looked at only now: an end() in another thread either sees the connection or is seen.
        if self._ending.is_set():
            _shut(connection)
        return number

    def leave(self, number: int) -> None:
        with self._lock:
            connection = self._connections.pop(number)
        connection.close()

    def arrive(self, request: Request) -> Play:
        """Note the request, and choose what to answer."""
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
        """Let every thread end, whatever it waits for."""
        self._ending.set()
        with self._lock:
            for connection in self._connections.values():
                _shut(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        self.errors.append(sys.exc_info()[1])


def _has_left(connection: socket.socket) -> bool:
    # Over TLS, a client that leaves may want to be told good-bye before it closes: anything that
    # comes while an answer is played is its own.
    events = _LEFT | (select.POLLIN if isinstance(connection, ssl.SSLSocket) else 0)
    poll = select.poll()
    poll.register(connection, events)
    return bool(poll.poll(0))


# Beneath TLS, too: its own methods wait for the other side, or refuse to work once it is gone.


def _shut(connection: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with suppress(OSError):
        socket.socket.shutdown(connection, how)


def _drain(connection: socket.socket) -> None:
    """Read until the client closes: what stays unread when a socket is closed makes it a reset."""
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
        # The client may leave at any point, as some tests want it to.
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
        """The next request to its end; None: the client has none, and left."""
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
        """Whether another request may follow on this connection."""
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
        # What the client expects, where it need not wait for the end of the connection.
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
        """Close so that all that was sent gets there: first our side, then, with the client's, all.

        Without the rest, what the client still sends would be answered by a reset, and that takes
        with it what the client has not read yet.
        """
        if isinstance(self.connection, ssl.SSLSocket):
            # It sends that all was sent, and would then wait to be told the same.
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
    """One origin. Whoever needs two opens two."""
    stage = Stage(plays, ssl_context)
    with serving(stage):
        try:
            yield stage
        finally:
            stage.end()
    assert not stage.waited_in_vain
    assert stage.errors == []
