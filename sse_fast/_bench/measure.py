"""Timing of parsers over chunks in memory. They take turns, and the least time of each counts.

A parser that returns wrong events gets no time; its first wrong event is reported instead.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import takewhile, zip_longest
from pathlib import Path

from sse_fast._bench import javascript
from sse_fast._bench.rivals import RIVALS, Event, Events
from sse_fast._bench.streams import Stream

FLOOR = "objects only"
"""The name of the row that only makes the lists, events and texts, from spans found before."""
LINES = "lines only"
"""The row of the native function that finds the end of every line."""
CALLS = "empty calls"
"""The row of a native method that takes each chunk and does nothing."""
_TURNS = 3
"""The minimum number of turns of each parser."""
_TURN = 0.01
"""Seconds of a turn; a turn has at least one pass."""
_NODE = 0.5
"""Seconds after which Node has compiled hot code."""
_NODE_TURNS = 5
"""The number of Node processes: about half of them compile some parsers to code that is 1.6 times
slower."""
_EXCERPT = 40
"""The most characters of a text that a report shows."""


def _ignore(share: float) -> None:
    pass


@dataclass
class Cell:
    """The results of the parsers on one stream, cut into chunks of one kind."""

    stream: str
    chunking: str
    events: int
    size: int
    """Bytes of the stream."""
    times: dict[str, float] = field(default_factory=dict)
    """Name -> nanoseconds for all chunks."""
    wrong: dict[str, str] = field(default_factory=dict)
    """Name -> the first event that is wrong."""
    missing: dict[str, str] = field(default_factory=dict)
    """Name -> why the parser is not available."""

    def per_event(self, name: str) -> float:
        """Return nanoseconds an event.

        Raises:
            KeyError: the parser has no time.
        """
        return self.times[name] / self.events

    def ratio(self, slower: str, faster: str = "sse_fast") -> float:
        """Return the time of `slower` divided by that of `faster`.

        Raises:
            KeyError: one of them has no time.
        """
        return self.times[slower] / self.times[faster]


def measure(
    stream: Stream,
    chunking: str,
    names: Iterable[str],
    seconds: float = 0.3,
    *,
    floor: bool = False,
    folder: Path | None = None,
    clock: Callable[[], int] | None = None,
    progress: Callable[[float], object] = _ignore,
) -> Cell:
    """Check the events of each parser, and time the parsers whose events are right.

    Args:
        stream: the stream.
        chunking: how it is cut, one of `CHUNKINGS`.
        names: names of `RIVALS` and `JAVASCRIPT`.
        seconds: the minimum time of each parser. Each parser gets at least three turns. Each of
            Node's gets five processes of half a second or more, which it takes to compile hot code.
        floor: whether `FLOOR`, `LINES` and `CALLS` are measured too; needs the extension.
        folder: where npm installed the JavaScript parsers, or a folder below that; None: the
            current folder.
        clock: the clock of the parsers in this process, in nanoseconds; None: `perf_counter_ns`.
        progress: called with the share of the work that is done, from 0 to 1.
    """
    chunks = stream.chunks(chunking)
    cell = Cell(stream.name, chunking, len(stream.events), sum(map(len, chunks)))
    works: dict[str, Callable[[], object]] = {}
    of_node = []
    for name in names:
        try:
            if name in javascript.JAVASCRIPT:
                given = javascript.read(name, chunks, folder)
            else:
                parse = RIVALS[name].load()
                given = parse(chunks, True)
        except ImportError as error:
            cell.missing[name] = str(error)
        except Exception as error:
            cell.wrong[name] = f"raises {error!r}"
        else:
            if given != stream.events:
                cell.wrong[name] = difference(stream.events, given)
            elif name in javascript.JAVASCRIPT:
                of_node.append(name)
            else:
                works[name] = partial(parse, chunks, False)
    if floor:
        try:
            works.update(floors(chunks))
        except ImportError as error:
            cell.missing[FLOOR] = str(error)
    # Node's processes take turns with the parsers in this process.
    turns = _NODE_TURNS if of_node else 1
    here = len(works) / max(1, len(works) + len(of_node))
    for turn in range(turns):

        def show(share: float, turn: int = turn) -> None:
            progress((turn + share * here) / turns)

        times = least(works, seconds / turns, clock=clock, progress=show) if works else {}
        for name in [name for name in of_node if name not in cell.wrong]:
            try:
                least_seconds = max(seconds / turns, _NODE)
                times[name] = javascript.time(name, chunks, cell.events, least_seconds, folder)
            except Exception as error:
                cell.wrong[name] = f"raises {error!r}"
        for name, time_taken in times.items():
            cell.times[name] = min(time_taken, cell.times.get(name, time_taken))
    cell.times = {name: cell.times[name] for name in cell.times if name not in cell.wrong}
    progress(1.0)
    return cell


def floors(chunks: list[bytes]) -> dict[str, Callable[[], object]]:
    """Return functions that do only what every parser must: make objects, find lines, be called."""
    from sse_fast._bench.floor import load
    from sse_fast._core import parser_c

    feed = parser_c.Parser().feed
    floor = load().Floor(chunks, [feed(chunk) for chunk in chunks])

    def call() -> None:
        take = floor.feed
        for chunk in chunks:
            take(chunk)

    return {FLOOR: floor.objects, LINES: floor.lines, CALLS: call}


def difference(expected: Events, given: Events) -> str:
    """Describe the first event that differs, counted from 1, in one line."""
    for number, (right, wrong) in enumerate(zip_longest(expected, given), 1):
        if right != wrong:
            return f"event {number}: expected {_short(right, wrong)}, got {_short(wrong, right)}"
    return "no difference"


def _short(event: Event | None, other: Event | None) -> str:
    if event is None:
        return "no event"
    pairs = zip(event, other or ("", "", ""), strict=True)
    return f"({', '.join(_excerpt(text, another) for text, another in pairs)})"


def _excerpt(text: str, other: str) -> str:
    """Return a short text whole, and of a long text the part around the first difference."""
    if len(text) <= _EXCERPT:
        return repr(text)
    same = takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    start = 0 if text == other else max(0, sum(1 for _ in same) - 10)
    stop = start + _EXCERPT
    return f"{'...' * (start > 0)}{text[start:stop]!r}{'...' * (stop < len(text))}"


def least(
    works: Mapping[str, Callable[[], object]],
    seconds: float,
    *,
    clock: Callable[[], int] | None = None,
    progress: Callable[[float], object] = _ignore,
) -> dict[str, float]:
    """Return the least time of each function in nanoseconds.

    They take turns, so that other load on the machine affects all of them.

    Args:
        works: name -> function.
        seconds: the minimum time of each; at least three turns.
        clock: a clock in nanoseconds; None: `perf_counter_ns`.
        progress: called with the share of the work that is done, from 0 to 1.
    """
    clock = clock or time.perf_counter_ns
    best: dict[str, float] = {}
    with quiet_heap():
        for name, work in works.items():
            begun = clock()
            work()
            best[name] = max(1, clock() - begun)
        turn = min(_TURN, seconds / _TURNS) * 1e9
        enough = seconds * 1e9 * len(works)
        spent = turns = 0
        while turns < _TURNS or spent < enough:
            begun_turn = clock()
            for name, work in works.items():
                for _ in range(max(1, int(turn / best[name]))):
                    begun = clock()
                    work()
                    best[name] = min(best[name], max(1, clock() - begun))
            spent += clock() - begun_turn
            turns += 1
            progress(min(1.0, turns / _TURNS, spent / (enough or 1)))
    return best


@contextmanager
def quiet_heap() -> Iterator[None]:
    """Keep the cycle collector from traversing objects that existed before the measurement.

    If the program had frozen objects, all stay frozen: they cannot be told apart.
    """
    was_frozen = gc.get_freeze_count() > 0
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        if not was_frozen:
            gc.unfreeze()
