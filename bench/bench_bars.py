"""The targets of the parser, all measured in one process.

    pytest bench/bench_bars.py --node-modules FOLDER

The chunks are in the cache. The parsers of a row take turns twice in the run, early and late
(Node's parsers after the others), and the least time of each counts. The floor ("objects only") is
the time of making the same lists, events and texts. An "empty call" is a native method that takes
the chunk and does nothing. "61% of 71%" means: the floor is 61 % of the parser's time, and would be
71 % if the parser only made objects and found line ends ("lines only"). A share of the floor must
reach its whole target. A ratio to another parser must reach 80 % of it, since that parser's time
varies.

The table is in the summary. A slow result is marked and does not fail, as a busy machine is slow.
A parser of sse_fast that returns wrong events fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from bench import idle_memory
from sse_fast._bench import streams
from sse_fast._bench.measure import CALLS, FLOOR, LINES, Cell, measure
from sse_fast._bench.rivals import RIVALS

OURS, PURE = "sse_fast", "sse_fast, plain Python"
HTTPX, LAUNCHDARKLY, SSECLIENT = "httpx-sse", "launchdarkly-eventsource", "sseclient-py"
NODE = "eventsource-parser (JS)"

# (stream, chunks) -> the parsers that read them.
CELLS: dict[tuple[str, str], tuple[str, ...]] = {
    ("a", "one event"): (OURS, PURE, HTTPX, LAUNCHDARKLY, NODE),
    ("a", "64 KiB"): (OURS, PURE, HTTPX, LAUNCHDARKLY, NODE),
    ("a", "16 bytes"): (OURS, HTTPX),
    ("a", "1 byte"): (OURS, HTTPX),
    ("au", "64 KiB"): (OURS,),
    ("b", "one event"): (OURS, PURE, HTTPX, NODE),
    ("b", "64 KiB"): (OURS, PURE, HTTPX, NODE),
    ("c", "one event"): (OURS, HTTPX),
    ("c", "64 KiB"): (OURS,),
    ("d", "one event"): (OURS, HTTPX),
    ("d", "64 KiB"): (OURS,),
    ("e1", "16 bytes"): (OURS,),
    ("e1", "64 KiB"): (OURS,),
    ("e2", "whole"): (OURS, HTTPX, SSECLIENT),
}
SECONDS = 0.2
FEWEST = {"c": 5, "e1": 3000, "e2": 3000}  # else 20
IDLE = ("idle", "")
Cells = dict[tuple[str, str], Cell]


class Bar(NamedTuple):
    """A target."""

    what: str
    target: str
    binding: str
    value: Callable[[Cells], tuple[str, float]]
    """Return the result as text, and as a fraction of the target (1 or more: reached).

    Raises KeyError if it was not measured."""
    least: float = 1.0
    """The binding part of the target."""


def ratio(slower: str, times: float, stream: str, chunking: str, faster: str = OURS) -> Bar:
    def value(cells: Cells) -> tuple[str, float]:
        measured = cells[stream, chunking].ratio(slower, faster)
        return f"{measured:.1f}x", measured / times

    who = "" if faster == OURS else "plain Python, "
    what = f"{who}{stream}, {chunking}: {slower}"
    return Bar(what, f"{times:g}x", f"{0.8 * times:.3g}x", value, 0.8)


def share(part: float, stream: str, chunking: str, and_calls: bool = False) -> Bar:
    def value(cells: Cells) -> tuple[str, float]:
        times = cells[stream, chunking].times
        floor = times[FLOOR] + (times[CALLS] if and_calls else 0)
        most = floor / (floor + times[LINES])
        return f"{floor / times[OURS]:.0%} of {most:.0%}", floor / times[OURS] / part

    what = f"{stream}, {chunking}: share of the floor{' and empty calls' if and_calls else ''}"
    return Bar(what, f"{part:.0%}", f"{part:.0%}", value)


def _other_scripts(cells: Cells) -> tuple[str, float]:
    cell = cells["au", "64 KiB"]
    speed = cell.size / cell.times[OURS]
    part = cell.times[FLOOR] / cell.times[OURS]
    return f"{speed:.1f} GB/s, {part:.0%}", max(speed / 3, part / 0.7)


def _small_chunks(cells: Cells) -> tuple[str, float]:
    small, large = cells["e1", "16 bytes"].times, cells["e1", "64 KiB"].times
    # Both are of the same bytes.
    part = (small[OURS] - large[OURS]) / small[CALLS]
    return f"{part:.2f}", 1.2 / max(part, 0.01)


def _idle(cells: Cells) -> tuple[str, float]:
    kept = cells[IDLE].times[OURS]
    return f"{kept:.0f} B", idle_memory.LIMIT / kept


BARS = [
    ratio(HTTPX, 18, "a", "one event"),
    ratio(LAUNCHDARKLY, 10, "a", "one event"),
    ratio(HTTPX, 25, "a", "64 KiB"),
    ratio(LAUNCHDARKLY, 13, "a", "64 KiB"),
    ratio(HTTPX, 22, "b", "one event"),
    ratio(HTTPX, 11, "c", "one event"),
    ratio(HTTPX, 28, "d", "one event"),
    ratio(HTTPX, 14, "a", "16 bytes"),
    ratio(HTTPX, 14, "a", "1 byte"),
    ratio(HTTPX, 20, "e2", "whole"),
    ratio(SSECLIENT, 500, "e2", "whole"),
    Bar("e1, 16 bytes: overhead per chunk, in empty calls", "1.20", "1.20", _small_chunks),
    share(0.75, "a", "64 KiB"),
    share(0.75, "b", "64 KiB"),
    share(0.85, "c", "64 KiB"),
    share(0.85, "d", "64 KiB"),
    share(0.85, "a", "one event", and_calls=True),
    Bar("au, 64 KiB: speed, or share of the floor", "3 GB/s or 70%", "the same", _other_scripts),
    *(
        ratio(NODE, 3.5, stream, chunking)
        for stream in ("a", "b")
        for chunking in ("one event", "64 KiB")
    ),
    Bar("memory of an idle parser", "< 1024 B", "< 1024 B", _idle),
    *(
        ratio(HTTPX, 1, stream, chunking, PURE)
        for stream in ("a", "b")
        for chunking in ("one event", "64 KiB")
    ),
]


def table(cells: Cells) -> Iterator[str]:
    yield f"{'':<52}{'target':>14}{'binding':>10}{'measured':>16}"
    missed = 0
    for bar in BARS:
        try:
            measured, part = bar.value(cells)
        except KeyError:
            measured, part = "-", float("nan")
        if part >= 1:
            verdict = "reached"
        elif part >= bar.least:
            verdict = "binding target only"
        elif measured == "-":
            verdict = "not measured"
        else:
            verdict = "MISSED"
            missed += 1
        yield f"{bar.what:<52}{bar.target:>14}{bar.binding:>10}{measured:>16}  {verdict}"
    yield f"{missed} missed" if missed else "none missed"
    yield ""
    for (stream, chunking), cell in cells.items():
        if cell.size:
            times = (f"{name} {cell.per_event(name):,.1f}" for name in cell.times)
            yield f"ns per event, {stream}, {chunking}: {'; '.join(times)}"
    missing = {who: why for cell in cells.values() for who, why in cell.missing.items()}
    for who, why in missing.items():
        yield f"not measured: {who}: {why}"


@pytest.fixture(scope="module")
def cells(measuring: bool, tables: dict[str, list[str]]) -> Iterator[Cells]:
    pytest.importorskip("sse_fast._core.parser_c", exc_type=ImportError)
    found: Cells = {}
    yield found
    if measuring:
        tables["targets of the parser"] = list(table(found))


@pytest.mark.parametrize(("stream", "chunking"), CELLS)
@pytest.mark.parametrize("turn", [1, 2])
def test_bars(
    monkeypatch: pytest.MonkeyPatch,
    cells: Cells,
    measuring: bool,
    no_number: list[str],
    node_modules: Path | None,
    turn: int,
    stream: str,
    chunking: str,
) -> None:
    if not measuring:
        measure_nothing(monkeypatch)
    names = CELLS[stream, chunking]
    take_turn(cells, stream, chunking, names, measuring, no_number, node_modules)


def measure_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave only the checks, since the timers spend a minimum time, however small a stream is."""
    monkeypatch.setattr("sse_fast._bench.measure.least", lambda works, seconds, **_: {})
    monkeypatch.setattr("sse_fast._bench.javascript.time", lambda *_: 1.0)


def take_turn(
    cells: Cells,
    stream: str,
    chunking: str,
    names: tuple[str, ...],
    measuring: bool,
    no_number: list[str],
    folder: Path | None = None,
    clock: Callable[[], int] | None = None,
) -> None:
    """Measure a cell, keep the least of these times and the earlier ones, and report wrong events.

    A parser of sse_fast that returns wrong events fails.
    """
    made = streams.make(stream, None if measuring else FEWEST.get(stream, 20))
    cell = measure(made, chunking, names, SECONDS, floor=True, folder=folder, clock=clock)
    before = cells.get((stream, chunking), cell)
    cell.times = {
        name: min(time, before.times.get(name, time)) for name, time in cell.times.items()
    }
    cells[stream, chunking] = cell
    wrong = [f"{name}, stream {stream}, {chunking}: {what}" for name, what in cell.wrong.items()]
    no_number += [line for line in wrong if line not in no_number]
    if any(not RIVALS[name].requirement for name in cell.wrong if name in RIVALS):
        pytest.fail("no number: " + "\n".join(wrong))


def test_idle_memory(cells: Cells, measuring: bool) -> None:
    try:
        kept = idle_memory.measure(count=idle_memory.PARSERS if measuring else 5)
    except OSError as error:
        pytest.skip(str(error))
    cells[IDLE] = Cell(*IDLE, 0, 0, {OURS: max(kept.values())})
