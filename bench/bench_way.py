"""The way around the parser: from the socket, or from an async iterable, to the caller's loop.

    pytest bench/bench_way.py

Every row has its floor, measured in the same run: the ways of a group take turns, every other round
in the opposite order, and the least CPU time of each counts (user and system time of this process
with all its threads). Each way is run once before, and its events or bytes are compared with what
was sent; a way that returns others gets no number. In each timed run the events are counted.

- Over an async generator of stream a. The floor is the sum of two loops that are measured
  separately: `async for` over the bare generator, and `Parser.feed` with a loop over its events.
- Over loopback, from a server in a process of its own that writes 64 KiB and more at a time; one
  event an HTTP chunk, or 64 KiB. The floor is the sum of `recv_into` of the same bytes from the
  same server into a buffer of 64 KiB, and of `Parser.feed` of the same pieces of the body with a
  loop over its events. A run is the whole request: connection, head, body, end.
- EventSource and AsyncEventSource read the same requests; their floor is our transport alone, with
  which each takes turns by itself, as what ran before leaves the caches to a run. A connection
  costs a client a millisecond more, so a request for 10,000 events is subtracted. What is
  left is less than what one run differs from the next: it is the median of the differences of 60
  rounds, and the times beside it are medians too.
- Memory: 500 live streams in an asyncio process of their own, after each had five events, as
  bench_fan_in.py measures it; beside StreamReader and Parser.
- ry (Rust) reads the same requests, with one client for all of them.
- The parser beside its objects and beside httpx-sse, as in bench_bars.py, but in CPU time.

The table is in the summary. A figure that misses its target is marked and does not fail, as a busy
machine is slow. A way of sse_fast that returns wrong events fails.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sse_fast
from bench import bench_bars, fan_in
from bench.bench_bars import Bar, Cells, measure_nothing, take_turn
from bench.loopback import Loopback, flood, flooded, pieces
from bench.transports import RY, RY_ASYNCIO, RY_MISSING, aopen_ry, make_ry_client, open_ry
from sse_fast._bench import streams
from sse_fast._bench.measure import CALLS, FLOOR, LINES, quiet_heap

ROUNDS = 15
CLIENT_ROUNDS = 60
EVENTS = 200_000
"""Events of a run."""
FEW = 10_000
"""Events of the request that is subtracted."""
STREAMS = 500
"""Live streams of a process whose memory is measured."""

# Chunks -> their name in `CHUNKINGS`, and the `write` of the server.
CHUNKS = {"one event": ("one event", "block"), "64 KiB": ("64 KiB", "large")}

BARE, FEED, RECV = "async for", "feed", "recv_into"
ITERATED = "aiter_events"
BLOCKING, ASYNC = "open_stream", "aopen_stream"
SOURCE, ASYNC_SOURCE = "EventSource", "AsyncEventSource"
CLIENTS = {SOURCE: BLOCKING, ASYNC_SOURCE: ASYNC}
"""Client -> the transport below it."""
OURS = (ITERATED, BLOCKING, ASYNC, SOURCE, ASYNC_SOURCE)


# -- Ways to read events or bytes ------------------------------------------------------------------


def count_events(events: Any, keep: list[str] | None) -> int:
    count = 0
    if keep is None:
        for _ in events:
            count += 1
        return count
    keep.extend(event.data for event in events)
    return len(keep)


async def acount_events(events: Any, keep: list[str] | None) -> int:
    count = 0
    if keep is None:
        async for _ in events:
            count += 1
        return count
    async for event in events:
        keep.append(event.data)
    return len(keep)


def feed(chunks: list[bytes], keep: list[str] | None) -> int:
    count = 0
    feed = sse_fast.Parser().feed
    if keep is None:
        for chunk in chunks:
            for _ in feed(chunk):
                count += 1
        return count
    keep.extend(event.data for chunk in chunks for event in feed(chunk))
    return len(keep)


async def generate(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def iterate_bare(chunks: list[bytes], keep: list[bytes] | None) -> int:
    count = 0
    async for chunk in generate(chunks):
        count += 1
        if keep is not None:
            keep.append(chunk)
    return count


async def iterate(chunks: list[bytes], keep: list[str] | None) -> int:
    async with sse_fast.aiter_events(generate(chunks)) as stream:
        return await acount_events(stream, keep)


def receive(server: Loopback, target: str, keep: bytearray | None) -> int:
    """Receive the bytes of a response without looking at them."""
    size = 0
    buffer = memoryview(bytearray(65536))
    with server.connect() as sock:
        sock.sendall(b"GET /%b HTTP/1.1\r\nHost: any\r\n\r\n" % target.encode())
        while received := sock.recv_into(buffer):
            size += received
            if keep is not None:
                keep += buffer[:received]
    return size


def read(opened: Callable[[], Any], keep: list[str] | None) -> int:
    with opened() as stream:
        return count_events(stream, keep)


async def aread(opened: Callable[[], Any], keep: list[str] | None) -> int:
    async with opened() as stream:
        return await acount_events(stream, keep)


class Way(NamedTuple):
    """A way to read something."""

    run: Callable[[Any], Any]
    """Read everything, append the items to the argument unless it is None, and return their number,
    or a coroutine that does so."""
    sent: list[Any] | bytearray
    """The items."""


def over_iterable(chunks: str, count: int) -> dict[str, Way]:
    stream = streams.make("a")
    times = max(1, count // len(stream.events))
    pieces = stream.chunks(CHUNKS[chunks][0]) * times
    data = [data for _, data, _ in stream.events] * times
    return {
        BARE: Way(partial(iterate_bare, pieces), pieces),
        FEED: Way(partial(feed, pieces), data),
        ITERATED: Way(partial(iterate, pieces), data),
    }


def over_transport(url: str, data: list[str]) -> dict[str, Way]:
    return {
        BLOCKING: Way(partial(read, partial(sse_fast.open_stream, url)), data),
        ASYNC: Way(partial(aread, partial(sse_fast.aopen_stream, url)), data),
    }


def with_client(server: Loopback, chunks: str, count: int, client: str) -> dict[str, Way]:
    """Return a client, after the transport that it is compared with."""
    url = server.url("flood", count=count, write=CHUNKS[chunks][1])
    data = flood(count).data
    opened = partial(getattr(sse_fast, client), url, policy=sse_fast.ReconnectPolicy.never())
    run = partial(read if client == SOURCE else aread, opened)
    transport = CLIENTS[client]
    return {transport: over_transport(url, data)[transport], client: Way(run, data)}


def over_loopback(server: Loopback, chunks: str, count: int) -> dict[str, Way]:
    write = CHUNKS[chunks][1]
    url = server.url("flood", count=count, write=write)
    body, data = pieces(count, write), flood(count).data
    found = {
        RECV: Way(partial(receive, server, url.rpartition("/")[2]), flooded(count, write)),
        FEED: Way(partial(feed, body), data),
        **over_transport(url, data),
    }
    if not RY_MISSING:
        blocking, client = (
            make_ry_client("BlockingClient", server.ca),
            make_ry_client("Client", server.ca),
        )
        found[RY] = Way(partial(read, partial(open_ry, url, server.ca, blocking)), data)
        found[RY_ASYNCIO] = Way(partial(aread, partial(aopen_ry, url, server.ca, client)), data)
    return found


# -- Measuring -------------------------------------------------------------------------------------


@dataclass
class Group:
    """The results of ways that took turns."""

    times: dict[str, float] = field(default_factory=dict)
    """Way -> the least CPU time in nanoseconds for an event."""
    rounds: dict[str, list[float]] = field(default_factory=dict)
    """Way -> that time in each round."""
    wrong: dict[str, str] = field(default_factory=dict)
    """Way -> why it has no time."""


def measure(ways: Mapping[str, Way], events: int, rounds: int) -> Group:
    """Compare what each way reads with what was sent, and time those that are right."""
    group = Group()
    loop = asyncio.new_event_loop()

    def run(way: Way, keep: Any) -> int:
        done = way.run(keep)
        return int(loop.run_until_complete(done) if asyncio.iscoroutine(done) else done)

    try:
        for name, way in ways.items():
            kept = type(way.sent)()
            try:
                count = run(way, kept)
                if kept != way.sent or count != len(way.sent):
                    group.wrong[name] = f"expected {len(way.sent)} items as sent, got {count}"
            except Exception as error:
                group.wrong[name] = f"raises {error!r}"
        with quiet_heap():
            for number in range(rounds):
                for name, way in list(ways.items())[:: -1 if number % 2 else 1]:
                    if name in group.wrong:
                        continue
                    begun = time.process_time_ns()
                    count = run(way, None)
                    spent = (time.process_time_ns() - begun) / events
                    if count != len(way.sent):
                        group.wrong[name] = f"expected {len(way.sent)} items, got {count}"
                    group.rounds.setdefault(name, []).append(spent)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    group.times = {name: min(group.rounds[name]) for name in ways if name not in group.wrong}
    return group


def measure_client(
    server: Loopback, chunks: str, client: str, many: int, few: int, rounds: int
) -> Group:
    """Time the events that a request for many has more than a request for few."""
    sizes = {str(count): with_client(server, chunks, count, client) for count in (many, few)}
    ways = {f"{name}, {size}": way for size in sizes for name, way in sizes[size].items()}
    found = measure(ways, many - few, rounds)
    group = Group(wrong={name.partition(",")[0]: why for name, why in found.wrong.items()})
    for name in sizes[str(many)].keys() - group.wrong.keys():
        pairs = zip(found.rounds[f"{name}, {many}"], found.rounds[f"{name}, {few}"], strict=True)
        group.rounds[name] = [most - least for most, least in pairs]
        group.times[name] = min(group.rounds[name])
    return group


# -- The table -------------------------------------------------------------------------------------


@dataclass
class Found:
    """All results."""

    groups: dict[tuple[str, str], Group] = field(default_factory=dict)
    """("iterable", "loopback" or a client, chunks) -> the results."""
    memory: dict[tuple[str, bool], float] = field(default_factory=dict)
    """(client, whether it uses TLS) -> KiB for each of `STREAMS` streams."""
    cells: Cells = field(default_factory=dict)
    """The results of the parsers."""


class Line(NamedTuple):
    """A line of the table."""

    floor: str
    measured: str
    result: str
    is_reached: bool | None
    """None: there is no target."""


class Row(NamedTuple):
    """A target."""

    what: str
    target: str
    value: Callable[[Found], Line]
    """Return the line; raises KeyError if it was not measured."""


def over_floor(kind: str, chunks: str, way: str, floors: tuple[str, str], most: float) -> Row:
    """The CPU time of a way, at most `most` times the sum of its floors."""

    def value(found: Found) -> Line:
        times = found.groups[kind, chunks].times
        parts = [times[name] for name in floors]
        ratio = times[way] / sum(parts)
        floor = f"{sum(parts):,.0f} ns ({' + '.join(f'{part:,.0f}' for part in parts)})"
        return Line(floor, f"{times[way]:,.0f} ns", f"{ratio:.2f}x", ratio <= most)

    return Row(f"{way}, {chunks}", f"<= {most:g}x", value)


def added(chunks: str, way: str, floor: str, most: float) -> Row:
    """The CPU time of a way, at most `most` nanoseconds above that of another in the same round."""

    def value(found: Found) -> Line:
        group = found.groups[way, chunks]
        if not {floor, way} <= group.times.keys():
            raise KeyError(way)
        pairs = list(zip(group.rounds[floor], group.rounds[way], strict=True))
        more = statistics.median(after - before for before, after in pairs)
        before, after = map(statistics.median, zip(*pairs, strict=True))
        return Line(f"{before:,.0f} ns", f"{after:,.0f} ns", f"{more:+,.0f} ns", more <= most)

    return Row(f"{way} over {floor}, {chunks}", f"<= {most:+g} ns", value)


def beside_ry(chunks: str, way: str, rival: str, most: float) -> Row:
    """The CPU time of a way, at most `most` times that of ry."""

    def value(found: Found) -> Line:
        times = found.groups["loopback", chunks].times
        ratio = times[way] / times[rival]
        return Line(
            f"{times[rival]:,.0f} ns", f"{times[way]:,.0f} ns", f"{ratio:.2f}x", ratio <= most
        )

    return Row(f"{way} beside {rival}, {chunks}", f"<= {most:g}x", value)


def memory(client: str, tls: bool, most: float | None) -> Row:
    """The memory of a stream, at most `most` KiB."""

    def value(found: Found) -> Line:
        kept, floor = found.memory[client, tls], found.memory[fan_in.READER, tls]
        is_reached = None if most is None else kept <= most
        return Line(f"{floor:,.1f} KiB", f"{kept:,.1f} KiB", f"{kept / floor:.1f}x", is_reached)

    what = f"{client}, {STREAMS} streams{' over TLS' * tls}"
    return Row(what, "" if most is None else f"<= {most:g} KiB", value)


def _share(cells: Cells) -> tuple[str, float]:
    times = cells["c", "one event"].times
    share = (times[FLOOR] + times[LINES] + times[CALLS]) / times[bench_bars.OURS]
    return f"{share:.0%}", share / SHARE


def parser(bar: Bar, at: tuple[str, str], *floors: str) -> Row:
    """A target of the parser, as bench_bars.py has them."""

    def value(found: Found) -> Line:
        result, part = bar.value(found.cells)
        cell = found.cells[at]
        floor = sum(cell.per_event(name) for name in floors)
        ours = cell.per_event(bench_bars.OURS)
        return Line(f"{floor:,.0f} ns", f"{ours:,.0f} ns", result, part >= 1)

    return Row(bar.what, f">= {bar.target}", value)


def rival(times: float, stream: str, chunking: str) -> Row:
    bar = bench_bars.ratio(bench_bars.HTTPX, times, stream, chunking)
    return parser(bar, (stream, chunking), bench_bars.HTTPX)


SHARE = 0.8
ROWS = [
    over_floor("iterable", "one event", ITERATED, (BARE, FEED), 1.3),
    over_floor("iterable", "64 KiB", ITERATED, (BARE, FEED), 1.8),
    over_floor("loopback", "one event", BLOCKING, (RECV, FEED), 1.4),
    over_floor("loopback", "64 KiB", BLOCKING, (RECV, FEED), 1.7),
    over_floor("loopback", "one event", ASYNC, (RECV, FEED), 1.8),
    over_floor("loopback", "64 KiB", ASYNC, (RECV, FEED), 2.2),
    added("one event", SOURCE, BLOCKING, 15),
    added("64 KiB", SOURCE, BLOCKING, 15),
    added("one event", ASYNC_SOURCE, ASYNC, 20),
    added("64 KiB", ASYNC_SOURCE, ASYNC, 20),
    memory(ASYNC_SOURCE, False, 16),
    memory(ASYNC, False, 16),
    memory(ASYNC_SOURCE, True, None),
    memory(ASYNC, True, None),
    beside_ry("one event", BLOCKING, RY, 0.5),
    beside_ry("64 KiB", BLOCKING, RY, 0.5),
    beside_ry("one event", ASYNC, RY_ASYNCIO, 0.5),
    beside_ry("64 KiB", ASYNC, RY_ASYNCIO, 0.5),
    parser(
        Bar("c, one event: share of objects, lines, call", f"{SHARE:.0%}", "", _share),
        ("c", "one event"),
        *(FLOOR, LINES, CALLS),
    ),
    rival(25, "a", "64 KiB"),
    rival(28, "d", "one event"),
    rival(14, "a", "16 bytes"),
]
"""All targets."""


def table(found: Found) -> Iterator[str]:
    yield f"{'':<46}{'floor':>20}{'measured':>10}{'result':>9}{'target':>11}  reached"
    for row in ROWS:
        try:
            line = row.value(found)
            reached = {True: "yes", False: "NO", None: ""}[line.is_reached]
        except KeyError:
            line, reached = Line("-", "-", "-", False), "not measured"
        yield (
            f"{row.what:<46}{line.floor:>20}{line.measured:>10}{line.result:>9}"
            f"{row.target:>11}  {reached}"
        )
    if RY_MISSING:
        yield f"not measured: ry: {RY_MISSING}"
    missing = {who: why for cell in found.cells.values() for who, why in cell.missing.items()}
    for who, why in missing.items():
        yield f"not measured: {who}: {why}"


# -- The benchmarks --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def found(measuring: bool, tables: dict[str, list[str]]) -> Iterator[Found]:
    results = Found()
    yield results
    if measuring:
        tables["the way around the parser: CPU for an event"] = list(table(results))


def note(group: Group, where: str, no_number: list[str]) -> None:
    """Report the ways that returned wrong items; a way of sse_fast fails."""
    no_number += [f"{name}, {where}: {what}" for name, what in group.wrong.items()]
    wrong = [f"{name}, {where}: {group.wrong[name]}" for name in OURS if name in group.wrong]
    if wrong:
        pytest.fail("no number: " + "\n".join(wrong))


@pytest.mark.parametrize("chunks", CHUNKS)
def test_over_iterable(found: Found, measuring: bool, no_number: list[str], chunks: str) -> None:
    ways = over_iterable(chunks, EVENTS if measuring else 1)
    events = len(ways[FEED].sent)
    group = measure(ways, events, ROUNDS if measuring else 1)
    found.groups["iterable", chunks] = group
    note(group, f"over an async iterable, {chunks}", no_number)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_over_loopback(
    found: Found, loopback: Loopback, measuring: bool, no_number: list[str], chunks: str
) -> None:
    count = EVENTS if measuring else 500
    group = measure(over_loopback(loopback, chunks, count), count, ROUNDS if measuring else 1)
    found.groups["loopback", chunks] = group
    note(group, f"over loopback, {chunks}", no_number)


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("client", CLIENTS)
def test_client(
    found: Found,
    loopback: Loopback,
    measuring: bool,
    no_number: list[str],
    client: str,
    chunks: str,
) -> None:
    many, few, rounds = (EVENTS, FEW, CLIENT_ROUNDS) if measuring else (500, 50, 1)
    group = measure_client(loopback, chunks, client, many, few, rounds)
    found.groups[client, chunks] = group
    note(group, f"over loopback, {chunks}", no_number)


@pytest.mark.parametrize("tls", [False, True], ids=["TCP", "TLS"])
@pytest.mark.parametrize("client", [fan_in.READER, ASYNC_SOURCE, ASYNC])
def test_memory(tmp_path: Path, found: Found, measuring: bool, client: str, tls: bool) -> None:
    streams = STREAMS if measuring else 3
    try:
        fan_in.check_system(streams)
    except OSError as error:
        pytest.skip(str(error))
    with fan_in.start(tmp_path) as server:
        found.memory[client, tls] = fan_in.run(client, server, streams, 4, 4000, tls).memory


PARSED = [("c", "one event"), ("a", "64 KiB"), ("d", "one event"), ("a", "16 bytes")]


@pytest.mark.parametrize(("stream", "chunking"), PARSED)
@pytest.mark.parametrize("turn", [1, 2])
def test_parser(
    monkeypatch: pytest.MonkeyPatch,
    found: Found,
    measuring: bool,
    no_number: list[str],
    turn: int,
    stream: str,
    chunking: str,
) -> None:
    pytest.importorskip("sse_fast._core.parser_c", exc_type=ImportError)
    if not measuring:
        measure_nothing(monkeypatch)
    names = (bench_bars.OURS, bench_bars.HTTPX)
    clock = time.process_time_ns
    take_turn(found.cells, stream, chunking, names, measuring, no_number, clock=clock)
