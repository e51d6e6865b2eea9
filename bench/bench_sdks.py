"""The SDKs of OpenAI and Anthropic over loopback, before and after `install()`.

    pytest bench/bench_sdks.py

A server in a process of its own answers with the same events over and over (stream a, or
Anthropic's events with the same words). A total is a whole request: making the client, connecting,
delivering every object, closing. Two parts of it are also measured alone:

- the HTTP library: the same request with the HTTP client of the SDK, whose bytes are not parsed;
- the parser: the SDK's decoder and that of sse_fast, over the chunks which that client gave.

The rest is JSON and the SDK's models. It is computed from the total after `install()`, in which
the parser is the smaller part. A parser runs faster alone than among the models, probably because
of CPU caches, so a total may shrink by more than the parsers differ.

CPU is the user and system time of this process, without the server's: the best of three rounds in
which all measurements take turns. A round of pytest-benchmark is one request. Imports are not
measured. Before measuring, every object of one request is compared with the objects that were
sent: an SDK that gives other objects gets no number.
"""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bench import replayed
from bench.loopback import DISTINCT, HOST, TIMEOUT, as_chunk, listen
from sse_fast._bench.measure import quiet_heap
from sse_fast._bench.streams import openai_chunks

ROUNDS = 3
MEASURED = 20_000  # events
CHECKED = 2_000
# How the server writes: a description, and whether every read of the client returns the same bytes
# however slow the client is.
WRITES = {
    "block": ("64 KiB an HTTP chunk, and a write", True),
    "chunks": ("one event an HTTP chunk, 64 KiB and more a write", True),
    "event": ("one event an HTTP chunk, and a write", False),
}
BLOCK = 65536
ROOT = Path(__file__).resolve().parent.parent
# Like the conftest.py of the root: the installed sse_fast comes before the sources.
SERVER = """
import sys
sys.path[:] = [*filter(None, sys.path), sys.argv[1]]
from bench.bench_sdks import main
main()
"""


# -- What is sent ----------------------------------------------------------------------------------


class Body(NamedTuple):
    blocks: list[bytes]
    """The bytes of one event each."""
    objects: list[Any]
    """The objects that the SDK makes of the events."""


@cache
def body(sdk: str, count: int) -> Body:
    """Return `count` events that are objects, and the events that an API sends around them."""
    if sdk == "openai":
        stream = openai_chunks(DISTINCT)
        objects = [json.loads(data) for _, data, _ in stream.events]
        return Body([*cycled(stream.blocks, count), b"data: [DONE]\n\n"], cycled(objects, count))
    words = [
        json.loads(data)["choices"][0]["delta"]["content"]
        for _, data, _ in openai_chunks(DISTINCT).events
    ]
    deltas = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}}
        for word in words
    ]
    message = {
        "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5-20250929",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 1},
    }
    block = {"type": "text", "text": ""}
    end = {"stop_reason": "end_turn", "stop_sequence": None}
    first = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": block},
    ]
    last = [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": end, "usage": {"output_tokens": count}},
        {"type": "message_stop"},
    ]
    objects = [*first, *cycled(deltas, count - len(first) - len(last)), *last]
    blocks = [
        b"event: %b\ndata: %b\n\n"
        % (data["type"].encode(), json.dumps(data, separators=(",", ":")).encode())
        for data in objects
    ]
    return Body(blocks, objects)


def cycled(things: list[Any], count: int) -> list[Any]:
    times, rest = divmod(count, len(things))
    return things * times + things[:rest]


# -- The server's side -----------------------------------------------------------------------------


@contextmanager
def start() -> Iterator[str]:
    """Start the server in a process of its own, and yield its origin."""
    # The server ends when its standard input is closed, also if this process is killed.
    with subprocess.Popen(
        [sys.executable, "-c", SERVER, str(ROOT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        try:
            yield f"http://{HOST}:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()
            try:
                server.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                server.kill()


def main() -> None:
    listener = socket.create_server((HOST, 0))
    threading.Thread(target=listen, args=(listener, answer), daemon=True).start()
    print(listener.getsockname()[1], flush=True)
    sys.stdin.read()


def answer(sock: socket.socket) -> None:
    """POST /SDK/WRITE/COUNT/v1/..."""
    received = b""
    while b"\r\n\r\n" not in received:
        received += sock.recv(65536)
    head, _, rest = received.partition(b"\r\n\r\n")
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
    # Closing with unread bytes would reset the connection before the client has read all.
    missing = int(fields[b"content-length"]) - len(rest)
    while missing:
        missing -= len(sock.recv(missing))
    _, sdk, write, count, *_ = head.split(b" ", 2)[1].decode().split("/")
    sock.sendall(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n"
    )
    for part in writes(sdk, write, int(count)):
        sock.sendall(part)
    sock.sendall(b"0\r\n\r\n")


@cache
def writes(sdk: str, write: str, count: int) -> list[bytes]:
    blocks = body(sdk, count).blocks
    if write == "block":
        return [as_chunk(part) for part in in_blocks(b"".join(blocks))]
    chunks = [as_chunk(block) for block in blocks]
    return chunks if write == "event" else list(in_blocks(b"".join(chunks)))


def in_blocks(whole: bytes) -> Iterator[bytes]:
    for at in range(0, len(whole), BLOCK):
        yield whole[at : at + BLOCK]


# -- The SDKs --------------------------------------------------------------------------------------


MESSAGES = [{"role": "user", "content": "any"}]
ASKED = {
    "openai": {"model": "any", "messages": MESSAGES, "stream": True},
    "anthropic": {"model": "any", "messages": MESSAGES, "stream": True, "max_tokens": 1000},
}
PATHS = {"openai": "/chat/completions", "anthropic": "/v1/messages"}
CLIENTS = {"openai": ("OpenAI", "AsyncOpenAI"), "anthropic": ("Anthropic", "AsyncAnthropic")}
# The server has no TLS, and loading the system's authorities for each client takes time.
UNUSED = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@dataclass(frozen=True)
class Row:
    sdk: str
    is_async: bool

    @property
    def name(self) -> str:
        version = import_module(self.sdk).__version__
        return f"{self.sdk} {version} {'async' if self.is_async else 'sync'}"

    @property
    def library(self) -> str:
        """The HTTP library of the SDK: httpx or httpx2."""
        client = import_module(self.sdk).DefaultHttpxClient
        module: str = client.__mro__[1].__module__
        return module.partition(".")[0]

    def base(self, origin: str, write: str, count: int) -> str:
        return f"{origin}/{self.sdk}/{write}/{count}" + ("/v1" if self.sdk == "openai" else "")

    def http(self) -> Any:
        module = import_module(self.sdk)
        name = "DefaultAsyncHttpxClient" if self.is_async else "DefaultHttpxClient"
        return getattr(module, name)(verify=UNUSED)

    def client(self, base: str, http: Any) -> Any:
        make = getattr(import_module(self.sdk), CLIENTS[self.sdk][self.is_async])
        return make(api_key="any", base_url=base, http_client=http, max_retries=0)

    def objects(self, base: str, keep: list[Any] | None = None) -> int:
        """Send a request with the SDK, and return the number of objects."""
        if self.is_async:
            return asyncio.run(self._aobjects(base, keep))
        count = 0
        with self.http() as http:
            client = self.client(base, http)
            calls = client.chat.completions if self.sdk == "openai" else client.messages
            with calls.create(**ASKED[self.sdk]) as stream:
                for thing in stream:
                    count += 1
                    if keep is not None:
                        keep.append(thing)
        return count

    async def _aobjects(self, base: str, keep: list[Any] | None) -> int:
        count = 0
        async with self.http() as http:
            client = self.client(base, http)
            calls = client.chat.completions if self.sdk == "openai" else client.messages
            async with await calls.create(**ASKED[self.sdk]) as stream:
                async for thing in stream:
                    count += 1
                    if keep is not None:
                        keep.append(thing)
        return count

    def bytes(self, base: str, keep: list[bytes] | None = None) -> int:
        """Send the same request without the SDK, and return the number of bytes."""
        if self.is_async:
            return asyncio.run(self._abytes(base, keep))
        size = 0
        with (
            self.http() as http,
            http.stream("POST", base + PATHS[self.sdk], json=ASKED[self.sdk]) as response,
        ):
            for chunk in response.iter_bytes():
                size += len(chunk)
                if keep is not None:
                    keep.append(chunk)
        return size

    async def _abytes(self, base: str, keep: list[bytes] | None) -> int:
        size = 0
        async with (
            self.http() as http,
            http.stream("POST", base + PATHS[self.sdk], json=ASKED[self.sdk]) as response,
        ):
            async for chunk in response.aiter_bytes():
                size += len(chunk)
                if keep is not None:
                    keep.append(chunk)
        return size

    def events(self, chunks: list[bytes]) -> int:
        """Parse chunks with the current decoder of the SDK, and return the number of events."""
        decoder = import_module(f"{self.sdk}._base_client").SSEDecoder()
        if self.is_async:
            return asyncio.run(_aevents(decoder, chunks))
        count = 0
        for _ in decoder.iter_bytes(iter(chunks)):
            count += 1
        return count


async def _aevents(decoder: Any, chunks: list[bytes]) -> int:
    async def iterate() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    count = 0
    async for _ in decoder.aiter_bytes(iterate()):
        count += 1
    return count


def is_ours(sdk: str) -> bool:
    return issubclass(
        import_module(f"{sdk}._base_client").SSEDecoder,
        import_module(f"sse_fast.compat.{sdk}").SSEDecoder,
    )


# -- The benchmark ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def origin() -> Iterator[str]:
    with start() as running:
        yield running


class Measured(NamedTuple):
    sdk: str
    write: str
    costs: dict[Row, Cost]
    """Empty if nothing is measured."""


@pytest.fixture(
    scope="module",
    params=[(sdk, write) for sdk in CLIENTS for write in WRITES],
    ids="-".join,
)
def measured(
    request: pytest.FixtureRequest, origin: str, measuring: bool, tables: dict[str, list[str]]
) -> Measured:
    sdk, write = request.param
    pytest.importorskip(sdk)
    sse_fast = import_module("sse_fast")
    rows = [Row(sdk, False), Row(sdk, True)]
    for row in rows:
        for is_after in (False, True):
            with sse_fast.install(sdk) if is_after else nullcontext():
                assert is_ours(sdk) == is_after
                check(row, origin, write, CHECKED if measuring else 300)
    if not measuring:
        return Measured(sdk, write, {})
    what, is_steady = WRITES[write]
    title = f"SDKs: CPU us an event; {MEASURED:,} events, {what}"
    note = "a slower client finds more events per read, so the parts cannot be subtracted here"
    lines = tables.setdefault(title, [header()] if is_steady else [note, header()])
    costs = measure(rows, origin, write)
    lines.extend(line(row, costs[row], is_steady) for row in rows)
    if is_steady:
        lines.extend(explain(row, costs[row]) for row in rows)
    return Measured(sdk, write, costs)


@replayed.MARK
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_end_to_end_of_sdks(benchmark: Any, measured: Measured, is_async: bool, when: str) -> None:
    what, _ = WRITES[measured.write]
    group = f"end to end: {measured.sdk}, CPU for {MEASURED:,} events, {what}"
    cost = measured.costs.get(Row(measured.sdk, is_async), Cost())
    rounds = cost.rounds[when]
    replayed.record(benchmark, group, [each * MEASURED / 1e6 for each in rounds], events=MEASURED)


def check(row: Row, origin: str, write: str, count: int) -> None:
    """Send a request and compare its objects, bytes and events with those that were sent."""
    kept: list[Any] = []
    base = row.base(origin, write, count)
    row.objects(base, kept)
    sent = body(row.sdk, count)
    if [thing.to_dict() for thing in kept] != sent.objects:
        pytest.fail(f"{row.name} gives other objects than were sent: no number")
    chunks: list[bytes] = []
    row.bytes(base, chunks)
    if b"".join(chunks) != b"".join(sent.blocks):
        pytest.fail(f"{row.library} gives other bytes than were sent: no number")
    if row.events(chunks) != len(sent.blocks):
        pytest.fail(f"the decoder of {row.name} gives other events than were sent: no number")


@dataclass
class Cost:
    """Microseconds of CPU per event, the best of each measurement."""

    http: float = float("inf")
    theirs: float = float("inf")
    ours: float = float("inf")
    rounds: dict[str, list[float]] = field(default_factory=lambda: {"before": [], "after": []})

    @property
    def before(self) -> float:
        return min(self.rounds["before"])

    @property
    def after(self) -> float:
        return min(self.rounds["after"])

    @property
    def rest(self) -> float:
        """The time for JSON and models."""
        return self.after - self.http - self.ours


def measure(rows: list[Row], origin: str, write: str) -> dict[Row, Cost]:
    import sse_fast

    costs = {row: Cost() for row in rows}
    recorded: dict[Row, list[bytes]] = {row: [] for row in rows}
    for row in rows:
        row.bytes(row.base(origin, write, MEASURED), recorded[row])
    with quiet_heap():
        for row in rows * ROUNDS:
            base, cost = row.base(origin, write, MEASURED), costs[row]
            events = len(body(row.sdk, MEASURED).blocks)
            size = sum(map(len, recorded[row]))
            parse = partial(row.events, recorded[row])
            ask = partial(row.objects, base)
            cost.http = min(cost.http, measure_cpu(partial(row.bytes, base), size))
            cost.theirs = min(cost.theirs, measure_cpu(parse, events))
            cost.rounds["before"].append(measure_cpu(ask, MEASURED))
            with sse_fast.install(row.sdk):
                cost.ours = min(cost.ours, measure_cpu(parse, events))
                cost.rounds["after"].append(measure_cpu(ask, MEASURED))
    return costs


def measure_cpu(work: Callable[[], int], expected: int) -> float:
    gc.collect()
    begun = time.process_time()
    got = work()
    cpu = time.process_time() - begun
    assert got == expected
    return cpu / MEASURED * 1e6


def header() -> str:
    heads = ("HTTP library", "their parser", "ours", "JSON, models", "before", "after", "times")
    return f"{'':<26}" + "".join(f"{head:>14}" for head in heads)


def line(row: Row, cost: Cost, is_steady: bool) -> str:
    http, rest = (f"{cost.http:.2f}", f"{cost.rest:.2f}") if is_steady else ("", "")
    cells = (
        http,
        f"{cost.theirs:.2f}",
        f"{cost.ours:.2f}",
        rest,
        f"{cost.before:.2f}",
        f"{cost.after:.2f}",
        f"{cost.before / cost.after:.2f}",
    )
    return f"{row.name:<26}" + "".join(f"{cell:>14}" for cell in cells)


def explain(row: Row, cost: Cost) -> str:
    """Return a line that tells where the time goes, and how much a parser could change."""
    shares = [part / cost.after * 100 for part in (cost.rest, cost.http, cost.ours)]
    return (
        f"   {row.name}: {cost.before - cost.after:.2f} less (the parsers alone: "
        f"{cost.theirs - cost.ours:.2f}). The time after is {shares[0]:.0f} % JSON and models, "
        f"{shares[1]:.0f} % {row.library}, {shares[2]:.0f} % parser: an infinitely fast parser "
        f"would make it {cost.before / (cost.after - cost.ours):.2f} times as fast"
    )
