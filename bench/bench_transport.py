"""End to end over loopback: the cost of an event over each library and over open_stream.

    pytest bench/bench_transport.py

A server in a process of its own sends events of stream a (1,000 distinct ones, repeated), one in
each HTTP chunk; first in writes of many chunks, then in writes of one. Each row is the same
request:

- "X, bytes": library X's own iteration over the bytes of the body, without parsing;
- "X, events": iter_events or aiter_events over X; "over bytes" is how much more CPU that takes;
- our own transport (open_stream, aopen_stream), and combinations that other programs use.

A number covers the whole request: making the client, the connection, head and body, delivering and
counting every event or chunk, closing, and for an async row its event loop. It does not include the
imports and a first request, which is compared with what was sent: a row with wrong results gets no
number. CPU is user and system time of this process, without the server's. A row is the best of
three rounds; the rows take turns. In pytest-benchmark's tables a round is one request, and its time
is CPU time.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest

from bench import replayed
from bench.loopback import Loopback
from bench.transports import FED, HTTPX_SSE, RAW, RAW_ASYNCIO, Row, rows
from sse_fast._bench.measure import quiet_heap

ROUNDS = 3
CHECKED = 10_000
"""Events of the request that is checked."""
# One write of the server -> (description, events of a measured request).
WRITES = {"block": ("64 KiB and more", 100_000), "event": ("one event", 20_000)}


class Cost(NamedTuple):
    """Times of a request, in seconds."""

    cpu: float
    wall: float


class Measured(NamedTuple):
    """The results of all rows."""

    write: str
    costs: dict[str, list[Cost]]
    """Row -> the cost of each round; empty if nothing is measured."""
    wrong: dict[str, Exception]


@pytest.fixture(scope="module", params=WRITES)
def measured(
    request: pytest.FixtureRequest,
    loopback: Loopback,
    measuring: bool,
    tables: dict[str, list[str]],
) -> Measured:
    write = request.param
    found = Measured(write, {}, {})
    right = []
    for row in rows():
        if row.missing:
            continue
        try:
            row.check(loopback, write, CHECKED if measuring else 500)
            right.append(row)
        except Exception as error:
            found.wrong[row.name] = error
    if measuring:
        what, count = WRITES[write]
        found.costs.update(measure(right, loopback, write, count))
        title = f"transport: {count:,} events, one an HTTP chunk, {what} a write"
        tables[title] = list(table(right, best(found.costs), write, count))
    return found


@replayed.MARK
@pytest.mark.parametrize("row", list(rows()), ids=lambda row: row.name)
def test_end_to_end(benchmark: Any, measured: Measured, row: Row) -> None:
    if row.missing:
        pytest.skip(row.missing)
    if row.name in measured.wrong:
        pytest.fail(f"no number: {row.name}: {measured.wrong[row.name]!r}")
    what, count = WRITES[measured.write]
    group = f"end to end: {what} a write, CPU for {count:,} events"
    costs = measured.costs.get(row.name, [])
    wall = min((cost.wall for cost in costs), default=None)
    replayed.record(benchmark, group, [cost.cpu for cost in costs], events=count, wall=wall)


def measure(right: list[Row], server: Loopback, write: str, count: int) -> dict[str, list[Cost]]:
    costs: dict[str, list[Cost]] = {row.name: [] for row in right}
    with quiet_heap():
        for row in right * ROUNDS:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            row.run(server, write, count)
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            costs[row.name].append(Cost(cpu, wall))
    return costs


def best(costs: dict[str, list[Cost]]) -> dict[str, Cost]:
    """Return the least CPU and wall time of each row."""
    return {
        name: Cost(min(cost.cpu for cost in rounds), min(cost.wall for cost in rounds))
        for name, rounds in costs.items()
    }


def table(right: list[Row], best: dict[str, Cost], write: str, count: int) -> Iterator[str]:
    over = {
        row.name: (best[row.name].cpu / best[row.bare].cpu - 1) * 100
        for row in right
        if row.bare in best and write == "block"
    }
    yield f"{'':<30}{'CPU s':>8}{'us/event':>10}{'events/s':>12}{'over bytes' if over else '':>12}"
    for name, (cpu, wall) in best.items():
        line = f"{name:<30}{cpu:8.3f}{cpu / count * 1e6:10.2f}{count / wall:12,.0f}"
        yield line + (f"{over[name]:10.0f} %" if name in over else "")
    if write == "event":
        yield "rows cannot be subtracted: a slower client finds more events in each read"
        return
    for other, bar in ((HTTPX_SSE, 15), (FED, 2.5)):
        if {RAW, RAW_ASYNCIO, other} <= best.keys():
            times = [best[other].cpu / best[raw].cpu for raw in (RAW, RAW_ASYNCIO)]
            yield (
                f"{other}: {times[0]:.1f} times the CPU of the {RAW}, "
                f"{times[1]:.1f} times with asyncio (bar: at least {bar:g})"
            )
    worst = max(over, key=over.__getitem__)
    yield f"worst over bytes: {worst}, {over[worst]:.0f} % (bar: at most 25 %)"
