"""A server in a process of its own: HTTP/1.1 and, over TLS, HTTP/2, one request a connection.

`start(folder)` runs this file and yields the `Loopback`. Its paths:

- `/paced?count=&interval=&coding=&framing=`: one small event every `interval` seconds, each in a
  write of its own. The data is the event's number and the time at which it was made. HTTP/2 ignores
  `framing`.
- `/flood?count=&write=`: `count` events of stream a as fast as the client reads: one per chunk, in
  writes of many chunks ("block") or of one ("event"), or in chunks of 64 KiB ("large").

The clock is `time.perf_counter_ns()`, which all processes of a machine share.
"""

from __future__ import annotations

import json
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
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from sse_fast._bench.streams import openai_chunks

HOST = "127.0.0.1"
END = b"0\r\n\r\n"
"""The last chunk of a body."""
TIMEOUT = 10.0
"""Seconds that a connection may be idle."""
DISTINCT = 1000
"""Events that a flood repeats, 340 KB in all."""
LARGE = 65536
"""Bytes of a large chunk; the last one of each repetition is smaller."""


class Loopback(NamedTuple):
    """A running server."""

    ca: str
    """The file of the certificate authority."""
    http: str
    """The URL of HTTP/1.1."""
    https: str
    """The URL of HTTP/2."""

    def url(self, path: str, http2: bool = False, **query: Any) -> str:
        return f"{self.https if http2 else self.http}/{path}?{urlencode(query)}"

    def connect(self) -> socket.socket:
        """Return a socket that is connected to the server of HTTP/1.1."""
        return socket.create_connection((HOST, urlsplit(self.http).port), TIMEOUT)


class Flood(NamedTuple):
    """The events of a flood."""

    blocks: list[bytes]
    """The bytes of one event each."""
    data: list[str]
    size: int


@cache
def flood(count: int) -> Flood:
    """Return `count` events, which repeat after `DISTINCT`."""
    stream = openai_chunks(DISTINCT)
    times, rest = divmod(count, DISTINCT)
    blocks = stream.blocks * times + stream.blocks[:rest]
    events = stream.events * times + stream.events[:rest]
    return Flood(blocks, [data for _, data, _ in events], sum(map(len, blocks)))


@cache
def pieces(count: int, write: str) -> list[bytes]:
    """Return the body of a flood in pieces, one for each chunk."""
    if write != "large":
        return flood(count).blocks
    times, rest = divmod(count, DISTINCT)
    return _cut(DISTINCT) * times + _cut(rest)


def _cut(count: int) -> list[bytes]:
    whole = b"".join(flood(count).blocks)
    return [whole[at : at + LARGE] for at in range(0, len(whole), LARGE)]


@contextmanager
def start(folder: Path) -> Iterator[Loopback]:
    with serve(__file__, folder) as (ca, plain, tls):
        yield Loopback(ca, f"http://{HOST}:{plain}", f"https://{HOST}:{tls}")


@contextmanager
def serve(script: str, folder: Path) -> Iterator[tuple[str, int, int]]:
    """Run a server, and yield the file of its authority, its port, and its port for TLS.

    The script gets the file of its certificate, and prints its ports as JSON.
    """
    # Imported here, since the server's process does not need it.
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    pair = authority.issue_cert(HOST).private_key_and_cert_chain_pem
    pair.write_to_path(folder / "server.pem")
    command = [sys.executable, script, str(folder / "server.pem")]
    # The server ends with its standard input, even if this process is killed.
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            plain, tls = json.loads(server.stdout.readline())
            yield str(folder / "ca.pem"), plain, tls
        finally:
            server.stdin.close()
            try:
                server.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                server.kill()


# -- The server's side -----------------------------------------------------------------------------


def main(certificate: str) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.set_alpn_protocols(["h2"])

    def answer_tls(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as wrapped:
            answer_http2(wrapped)

    ports = []
    for answer in (answer_http1, answer_tls):
        listener = socket.create_server((HOST, 0))
        threading.Thread(target=listen, args=(listener, answer), daemon=True).start()
        ports.append(listener.getsockname()[1])
    print(json.dumps(ports), flush=True)
    sys.stdin.read()


def listen(listener: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    def talk(sock: socket.socket) -> None:
        # A client that finds wrong events disconnects and reports them itself.
        with sock, suppress(OSError):
            answer(sock)

    while True:
        sock, _ = listener.accept()
        sock.settimeout(TIMEOUT)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=talk, args=(sock,), daemon=True).start()


def head(chunked: bool, coding: str) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
        + (b"Transfer-Encoding: chunked\r\n" if chunked else b"")
        + (b"" if coding == "none" else b"Content-Encoding: %b\r\n" % coding.encode())
        + b"\r\n"
    )


def flooded(count: int, write: str) -> bytearray:
    """Return the whole response of a flood."""
    return bytearray(head(True, "none") + b"".join(writes(count, write)) + END)


def answer_http1(sock: socket.socket) -> None:
    request = b""
    while b"\r\n\r\n" not in request:
        received = sock.recv(65536)
        if not received:
            return
        request += received
    path, query = parse_target(request.split(b" ", 2)[1])
    chunked = query.get("framing") != "close-delimited"
    coding = query.get("coding", "none")
    sock.sendall(head(chunked, coding))
    if path == "/paced":
        for part in paced(query):
            sock.sendall(as_chunk(part) if chunked else part)
    else:
        for write in writes(int(query["count"]), query["write"]):
            sock.sendall(write)
    if chunked:
        sock.sendall(END)


def answer_http2(sock: socket.socket) -> None:
    # Imported here, since HTTP/1.1 does not need it.
    from h2.config import H2Configuration
    from h2.connection import H2Connection
    from h2.events import RequestReceived

    connection = H2Connection(H2Configuration(client_side=False))
    connection.initiate_connection()
    requests: list[RequestReceived] = []
    while not requests:
        sock.sendall(connection.data_to_send())
        received = sock.recv(65536)
        if not received:
            return
        events = connection.receive_data(received)
        requests = [event for event in events if isinstance(event, RequestReceived)]
    stream = requests[0].stream_id
    _, query = parse_target(dict(requests[0].headers)[b":path"])
    fields = [(":status", "200"), ("content-type", "text/event-stream")]
    if query["coding"] != "none":
        fields.append(("content-encoding", query["coding"]))
    connection.send_headers(stream, fields)
    sock.sendall(connection.data_to_send())
    # Frames are made by hand, as the time of h2 would count as latency. All of them fit the initial
    # flow-control window of every client.
    for part in paced(query):
        sock.sendall(struct.pack(">IxI", len(part) << 8, stream) + part)
    connection.end_stream(stream)
    sock.sendall(connection.data_to_send())
    # Closing with unread data would reset the connection.
    while sock.recv(65536):
        pass


def parse_target(target: bytes) -> tuple[str, dict[str, str]]:
    parts = urlsplit(target.decode())
    return parts.path, dict(parse_qsl(parts.query))


def as_chunk(part: bytes) -> bytes:
    return b"%X\r\n%b\r\n" % (len(part), part)


@cache
def writes(count: int, write: str) -> list[bytes]:
    if write == "event":
        chunks = [as_chunk(block) for block in flood(DISTINCT).blocks]
        times, rest = divmod(count, DISTINCT)
        return chunks * times + chunks[:rest]
    times, rest = divmod(count, DISTINCT)
    whole, last = (b"".join(map(as_chunk, pieces(each, write))) for each in (DISTINCT, rest))
    return [whole] * times + [last]


def paced(query: dict[str, str]) -> Iterator[bytes]:
    pack, finish = packer(query["coding"])
    for number in range(int(query["count"])):
        if number:
            time.sleep(float(query["interval"]))
        yield pack(b"data: %d %d\n\n" % (number, time.perf_counter_ns()))
    last = finish()
    if last:
        yield last


def packer(coding: str) -> tuple[Callable[[bytes], bytes], Callable[[], bytes]]:
    """Return a function that compresses and flushes an event, and one that ends the body."""
    if coding == "gzip":
        gzip = zlib.compressobj(wbits=31)
        return lambda part: gzip.compress(part) + gzip.flush(zlib.Z_SYNC_FLUSH), gzip.flush
    if coding == "br":
        import brotli

        # A quality that servers use for streams: the default takes 0.3 ms an event.
        br = brotli.Compressor(quality=4)
        return lambda part: br.process(part) + br.flush(), br.finish
    if coding == "zstd":
        import zstandard

        zstd = zstandard.ZstdCompressor().compressobj()
        block = zstandard.COMPRESSOBJ_FLUSH_BLOCK
        return lambda part: zstd.compress(part) + zstd.flush(block), zstd.flush
    return lambda part: part, lambda: b""


if __name__ == "__main__":
    main(sys.argv[1])
