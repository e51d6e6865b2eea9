"""Many live streams in one process: a server, and the clients, each in a process of its own.

`start(folder)` runs this file as the server; `run(client, server, ...)` runs it as a client, which
opens the streams, lets the server send, checks every event, and closes the streams. A stream gets
one event when it is opened, and further ones when the client asks for them: in rounds over all
streams, at a rate that is the sum over all streams. Each event is a write and an HTTP chunk of its
own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

HOST = "127.0.0.1"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n%b\r\n"
OPENING = 256
"""Streams that a client opens at the same time."""
WARM = 4
"""Streams that a client opens and closes before its memory is measured for the first time."""
PARTS = 4
"""Parts in which the server sends the events; the least CPU time of a part counts."""
SPARE = 100
"""Descriptors that a process needs apart from its streams."""
MEMORY = Path("/proc/self/smaps_rollup")
OPEN_LIMIT, SEND_LIMIT, CLOSE_LIMIT = 60.0, 60.0, 30.0
"""Seconds; the second is what sending may take longer than planned."""


def data_of(number: int) -> str:
    """Return the data of a stream's event: a small one."""
    return f'{{"number": {number}, "text": "a few words of text"}}'


class Result(NamedTuple):
    """The costs of a client."""

    memory: float
    """KiB for each stream: the growth of the proportional set size."""
    descriptors: float
    """Descriptors for each stream."""
    cpu: float
    """CPU time for each event in microseconds."""
    opened: float
    """Seconds until each stream had its first event."""
    closed: float
    """Seconds until the last descriptor was closed."""
    busy: float
    """The share of a core that the client needed while the server sent."""
    server_busy: float
    """The same of the server."""


class Server(NamedTuple):
    """A running server."""

    ca: str
    """The file of the certificate authority."""
    http: str
    https: str


@contextmanager
def start(folder: Path) -> Iterator[Server]:
    # Imported here, since the processes of this file do not find it.
    from bench.loopback import serve

    with serve(__file__, folder) as (ca, plain, tls):
        yield Server(ca, f"http://{HOST}:{plain}", f"https://{HOST}:{tls}")


def run(
    client: str, server: Server, streams: int, events: int, rate: float, tls: bool = False
) -> Result:
    """Run a client in a process of its own.

    Args:
        client: one of `CLIENTS`.
        server: the server.
        streams: how many streams it opens.
        events: how many events each stream gets after its first one.
        rate: events a second, of all streams together.
        tls: whether the connections are encrypted.

    Raises:
        OSError: why there is no result, in one line.
    """
    url, ca = (server.https, server.ca) if tls else (server.http, "")
    arguments = (client, url, ca, str(streams), str(events), str(rate))
    done = subprocess.run(
        [sys.executable, __file__, *arguments], capture_output=True, text=True, check=False
    )
    try:
        found = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines() or ["nothing"]
        raise OSError(f"ended with {done.returncode}: {said[-1]}") from None
    if isinstance(found, str):
        raise OSError(found)
    return Result(**found)


def check_system(streams: int) -> None:
    """Look whether this system can measure, and allows a process that many streams.

    Raises:
        OSError: it cannot.
    """
    if not MEMORY.exists():
        raise OSError(f"memory cannot be measured, as there is no {MEMORY}")
    most, need = raise_limit(), streams + SPARE
    if most != -1 and most < need:
        raise OSError(f"{streams:,} streams need {need:,} descriptors, the limit is {most:,}")


def raise_limit() -> int:
    """Allow this process as many descriptors as the system does; return the number, -1 for all."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


# -- The server ------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """A connection of the server: a stream, or a request to send or for the server's CPU time."""

    def __init__(self, streams: dict[Connection, None]) -> None:
        self._streams = streams
        self._request = b""
        self._is_chunked = True
        self._transport: Any = None
        self._number = 0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._streams.pop(self, None)

    def data_received(self, data: bytes) -> None:
        self._request += data
        if b"\r\n\r\n" not in self._request:
            return
        target = urlsplit(self._request.split(b" ", 2)[1].decode())
        query = dict(parse_qsl(target.query))
        if target.path == "/stream":
            self._is_chunked = query.get("framing") != "close-delimited"
            framing = b"Transfer-Encoding: chunked\r\n" if self._is_chunked else b""
            self._transport.write(HEAD % framing)
            self._streams[self] = None
            self.send()
            return
        if target.path == "/send":
            self._sending = asyncio.ensure_future(
                send(list(self._streams), int(query["events"]), float(query["rate"]))
            )
        self._transport.write(HEAD % b"Connection: close\r\n" + b"%d" % time.process_time_ns())
        self._transport.close()

    def send(self) -> None:
        event = b"data: %b\n\n" % data_of(self._number).encode()
        self._number += 1
        self._transport.write(b"%X\r\n%b\r\n" % (len(event), event) if self._is_chunked else event)


async def send(streams: list[Connection], events: int, rate: float) -> None:
    sent, begun = 0, time.perf_counter()
    while sent < len(streams) * events:
        due = min(len(streams) * events, 1 + int((time.perf_counter() - begun) * rate))
        while sent < due:
            streams[sent % len(streams)].send()
            sent += 1
        await asyncio.sleep(0.0005)


async def serve_forever(certificate: str) -> None:
    raise_limit()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    streams: dict[Connection, None] = {}
    ports = []
    for each in (None, context):
        server = await loop.create_server(
            lambda: Connection(streams), HOST, 0, ssl=each, backlog=4096
        )
        ports.append(server.sockets[0].getsockname()[1])
    print(json.dumps(ports), flush=True)
    # The server ends with its standard input.
    await loop.run_in_executor(None, sys.stdin.read)


# -- The clients -----------------------------------------------------------------------------------

Take = Callable[[str], None]
Read = Callable[[str, Take], Awaitable[None]]
"""Read the events of a URL until the task is cancelled, and pass on the data of each."""


def use_ours(name: str) -> Callable[[AsyncExitStack, ssl.SSLContext | None], Awaitable[Read]]:
    """Return the `use` function of a client of sse_fast."""

    async def use(stack: AsyncExitStack, context: ssl.SSLContext | None) -> Read:
        import sse_fast

        async def read(url: str, take: Take) -> None:
            async with getattr(sse_fast, name)(url, ssl_context=context) as events:
                async for event in events:
                    take(event.data)

        return read

    return use


async def use_reader(stack: AsyncExitStack, context: ssl.SSLContext | None) -> Read:
    """The floor: it asks for a body without chunks, and does not look at the response head."""
    import sse_fast

    async def read(url: str, take: Take) -> None:
        parts = urlsplit(url)
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port, ssl=context)
        try:
            target = f"{parts.path}?framing=close-delimited"
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            await reader.readuntil(b"\r\n\r\n")
            feed = sse_fast.Parser().feed
            while chunk := await reader.read(65536):
                for event in feed(chunk):
                    take(event.data)
        finally:
            writer.close()

    return read


async def use_aiohttp(stack: AsyncExitStack, context: ssl.SSLContext | None) -> Read:
    import aiohttp

    import sse_fast

    session = await stack.enter_async_context(
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ssl=context or True),
            timeout=aiohttp.ClientTimeout(total=None),
        )
    )

    async def read(url: str, take: Take) -> None:
        async with session.get(url) as response:
            async for event in sse_fast.aiter_events(response):
                take(event.data)

    return read


async def use_httpx(stack: AsyncExitStack, context: ssl.SSLContext | None) -> Read:
    import httpx
    from httpx_sse import aconnect_sse

    client = await stack.enter_async_context(
        httpx.AsyncClient(
            verify=context or False,
            timeout=None,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
    )

    async def read(url: str, take: Take) -> None:
        async with aconnect_sse(client, "GET", url) as source:
            async for event in source.aiter_sse():
                take(event.data)

    return read


async def use_ry(stack: AsyncExitStack, context: ssl.SSLContext | None) -> Read:
    import ry

    client = ry.Client(tls_certs_only=[])

    async def read(url: str, take: Take) -> None:
        response = await client.get(url)
        async with response.sse() as events:
            async for event in events:
                take(event.data)

    return read


SOURCE, STREAM, READER = "AsyncEventSource", "aopen_stream", "StreamReader, Parser"
CLIENTS: dict[str, Callable[[AsyncExitStack, ssl.SSLContext | None], Awaitable[Read]]] = {
    SOURCE: use_ours(SOURCE),
    STREAM: use_ours(STREAM),
    READER: use_reader,
    "aiohttp, aiter_events": use_aiohttp,
    "httpx, httpx-sse": use_httpx,
    "ry": use_ry,
}


class Streams:
    """The streams of a client, and the check that each gets its events in order."""

    def __init__(self, read: Read, url: str, count: int, events: int) -> None:
        self._read = read
        self._url = url
        self._data = [data_of(number) for number in range(1 + events)]
        self._gate = asyncio.Semaphore(OPENING)
        self.opened = self.arrived = 0
        self.count = self._total = count
        self.is_opened, self.is_complete = asyncio.Event(), asyncio.Event()
        self.wrong = ""
        self.tasks = [asyncio.ensure_future(self._follow()) for _ in range(count)]

    def expect(self, events: int) -> None:
        """Expect that many further events of each stream."""
        self._total += self.count * events
        self.is_complete.clear()

    async def _follow(self) -> None:
        number = 0

        def take(data: str) -> None:
            nonlocal number
            if number >= len(self._data) or data != self._data[number]:
                raise ValueError(f"event {number} of a stream is {data!r}")
            number += 1
            self.arrived += 1
            if number == 1:
                self._gate.release()
                self.opened += 1
                if self.opened == self.count:
                    self.is_opened.set()
            if self.arrived >= self._total:
                self.is_complete.set()

        try:
            await self._gate.acquire()
            await self._read(self._url, take)
            raise EOFError("a stream ended")
        except Exception as error:
            self.wrong = self.wrong or f"raises {error!r}"
            self.is_opened.set()
            self.is_complete.set()

    async def wait(self, event: asyncio.Event, seconds: float, what: str) -> None:
        try:
            await asyncio.wait_for(event.wait(), seconds)
        except asyncio.TimeoutError:
            self.wrong = what.format(self)
        if self.wrong:
            raise OSError(self.wrong)

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.wait(self.tasks)


async def receive(streams: Streams, url: str, events: int, rate: float) -> float:
    """Let the server send events to each stream, and return the CPU time in seconds."""
    streams.expect(events)
    total = streams.count * events
    limit = total / rate + SEND_LIMIT
    ask(url, "send", events=events, rate=rate)
    cpu = time.process_time()
    await streams.wait(
        streams.is_complete, limit, f"not all of {total:,} events arrived in {limit:g} s"
    )
    return time.process_time() - cpu


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def memory() -> float:
    """Return the proportional set size of this process in KiB."""
    gc.collect()
    found = MEMORY.read_text().split()
    return float(found[found.index("Pss:") + 1])


def ask(url: str, path: str, **query: Any) -> float:
    """Send a request that is not a stream, and return the server's CPU time in seconds."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), 30) as plain:
        context = ssl._create_unverified_context() if parts.scheme == "https" else None
        sock = context.wrap_socket(plain) if context else plain
        sock.sendall(f"GET /{path}?{urlencode(query)} HTTP/1.1\r\n\r\n".encode())
        answer = b""
        while received := sock.recv(4096):
            answer += received
    return int(answer.rpartition(b"\r\n")[2]) / 1e9


async def measure(
    client: str, url: str, ca: str, count: int, events: int, rate: float
) -> dict[str, float]:
    check_system(count)
    context = ssl.create_default_context(cafile=ca) if ca else None
    async with AsyncExitStack() as stack:
        read = await CLIENTS[client](stack, context)
        target = f"{url}/stream"

        warm = Streams(read, target, WARM, 0)
        await warm.wait(warm.is_opened, OPEN_LIMIT, "no stream opened")
        await warm.close()
        ask(url, "time")
        await asyncio.sleep(0.1)
        before, held = memory(), descriptors()

        begun = time.perf_counter()
        streams = Streams(read, target, count, events)
        opening = f"{{0.opened:,}} of {count:,} streams opened in {OPEN_LIMIT:g} s"
        await streams.wait(streams.is_opened, OPEN_LIMIT, opening)
        opened = time.perf_counter() - begun

        server, begun, cpu = ask(url, "time"), time.perf_counter(), time.process_time()
        least = float("inf")
        for part in range(min(PARTS, events)):
            each = events // PARTS + (part < events % PARTS)
            least = min(least, await receive(streams, url, each, rate) / (count * each) * 1e6)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - begun
        server = ask(url, "time") - server
        if streams.arrived != count * (1 + events):
            raise OSError(f"{streams.arrived:,} of {count * (1 + events):,} events arrived")
        grown, more = memory() - before, descriptors() - held

        begun = time.perf_counter()
        await streams.close()
    while descriptors() > held and time.perf_counter() - begun < CLOSE_LIMIT:
        await asyncio.sleep(0.005)
    if descriptors() > held:
        raise OSError(
            f"{descriptors() - held:,} descriptors are open {CLOSE_LIMIT:g} s after closing"
        )
    closed = time.perf_counter() - begun
    return Result(
        memory=grown / count,
        descriptors=more / count,
        cpu=least,
        opened=opened,
        closed=closed,
        busy=cpu / wall,
        server_busy=server / wall,
    )._asdict()


def main(arguments: list[str]) -> None:
    if len(arguments) == 1:
        asyncio.run(serve_forever(arguments[0]))
        return
    client, url, ca, count, events, rate = arguments
    try:
        print(
            json.dumps(asyncio.run(measure(client, url, ca, int(count), int(events), float(rate))))
        )
    except (OSError, ImportError) as error:
        print(json.dumps(str(error)))


if __name__ == "__main__":
    main(sys.argv[1:])
