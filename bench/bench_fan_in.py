"""Many live streams in one process: 100, 1,000 and 5,000 of them.

    pytest bench/bench_fan_in.py

The server has a process of its own, and so has each client, whose memory is then its own. A client
opens all streams, at most 256 at a time, and gets one event of each. Then the server sends 4,000
small events a second, one in each write and HTTP chunk, in rounds over all streams: 20,000 events
with any number of streams. So the rate is the same for all, and below what any client or the server
can do: a server that sends as fast as possible would let a slow client find several events in one
read, and its events would seem cheap. "busy" is the share of a core that the client needed then;
that of the server is in parentheses. At last the client closes all streams.

- KiB: growth of the proportional set size since a few streams were opened and closed, divided by
  the streams, after all events arrived. Socket buffers are the kernel's and are not included.
- CPU: user and system time of the client's process for an event. The 20,000 events come in four
  parts, and the least part counts. Most of it is waking up, which every client does.
- open: until every stream had its first event. close: until the last descriptor is closed.

"StreamReader, Parser" is asyncio's own, for a body without chunks. Each figure is the least of two
turns. Each stream's events are compared with what was sent. A client that loses or repeats one, or
that cannot open or close all streams in time, gets no number but the reason; a client of sse_fast
fails then. A figure that misses its target is marked and does not fail, as a busy machine is slow.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import fan_in
from bench.fan_in import CLIENTS, SOURCE, STREAM, Result, Server

STREAMS = (100, 1000, 5000)
EVENTS = 20_000
"""Events of all streams together."""
RATE = 4000.0
"""Events a second of all streams together."""
MOST = 1.3
"""CPU an event with the most streams, at most this many times that with the fewest."""
OURS = (SOURCE, STREAM)

Found = dict[tuple[str, int], Result | str]
"""(client, streams) -> the result, or the reason why it is missing."""


def best(results: list[Result]) -> Result:
    """Return the least of each figure."""
    return Result(*map(min, zip(*results, strict=True)))


def table(found: Found, streams: int) -> Iterator[str]:
    head = f"{'KiB':>8}{'descriptors':>13}{'CPU us/event':>14}{'open s':>9}{'close s':>9}"
    yield f"{'':<24}{head}  {'busy':>12}"
    for client in CLIENTS:
        result = found.get((client, streams), "not measured")
        if isinstance(result, str):
            yield f"{client:<24}  {result}"
            continue
        yield (
            f"{client:<24}{result.memory:8.1f}{result.descriptors:13.2f}{result.cpu:14.1f}"
            f"{result.opened:9.2f}{result.closed:9.2f}"
            f"  {result.busy:5.0%} ({result.server_busy:.0%})"
        )


def bars(found: Found) -> Iterator[str]:
    fewest, most = min(STREAMS), max(STREAMS)
    for client in OURS:
        what = f"{client}: CPU an event with {most:,} streams, beside {fewest}"
        few, many = found.get((client, fewest), ""), found.get((client, most), "")
        if isinstance(few, str) or isinstance(many, str):
            yield f"{what}: not measured"
            continue
        ratio = many.cpu / few.cpu
        verdict = "reached" if ratio <= MOST else "MISSED"
        yield f"{what}: {ratio:.2f}x (target: at most {MOST:g}x), {verdict}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with fan_in.start(tmp_path_factory.mktemp("fan_in")) as running:
        yield running


@pytest.fixture(scope="module")
def found(measuring: bool, tables: dict[str, list[str]]) -> Iterator[Found]:
    results: Found = {}
    yield results
    if measuring:
        for streams in STREAMS:
            title = f"fan-in: {streams:,} streams, {RATE:,.0f} events a second in all"
            tables[title] = list(table(results, streams))
        tables["fan-in: targets"] = list(bars(results))


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize("turn", [1, 2])
def test_fan_in(
    server: Server, found: Found, measuring: bool, turn: int, streams: int, client: str
) -> None:
    if not measuring and (turn, streams) != (1, STREAMS[0]):
        pytest.skip("Without measuring, a client runs once")
    before = found.get((client, streams))
    try:
        if isinstance(before, str):
            raise OSError(before)
        fan_in.check_system(streams)
    except OSError as error:
        found[client, streams] = str(error)
        pytest.skip(str(error))
    try:
        if measuring:
            result = fan_in.run(client, server, streams, EVENTS // streams, RATE)
        else:
            result = fan_in.run(client, server, 5, 3, 10 * RATE)
    except OSError as error:
        found[client, streams] = str(error)
        if client in OURS:
            pytest.fail(f"no number: {client}: {error}")
        pytest.skip(str(error))
    found[client, streams] = result if before is None else best([before, result])
