"""Times of parsers over chunks in memory: they take turns in one process, the least time counts.

A parser that gives other events than were sent has no time, but what it gives.
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
"""The row of the native function that makes the same lists, events and texts of known spans."""
LINES = "lines only"
"""The row of the native function that finds the end of every line of them."""
CALLS = "empty calls"
"""The row of a native method that takes each chunk and does nothing."""
_TURNS = 3
"""How often each has its turn, at least."""
_TURN = 0.01
"""Seconds that a turn takes, or one pass if that takes longer."""
_NODE = 0.5
"""Seconds after which Node has compiled what it runs often."""
_NODE_TURNS = 5
"""How often a process of Node is begun: one in two compiles some parsers to code that takes 1.6
times as long."""
_EXCERPT = 40
"""Characters of a text that a line has room for."""


def _ignore(share: float) -> None:
    pass


@dataclass
class Cell:
    """A stream in chunks of one kind, and what the parsers made of it."""

    stream: str
    chunking: str
    events: int
    size: int
    """Bytes."""
    times: dict[str, float] = field(default_factory=dict)
    """Name -> nanoseconds for all of the chunks."""
    wrong: dict[str, str] = field(default_factory=dict)
    """Name -> the first event that is not what was sent."""
    missing: dict[str, str] = field(default_factory=dict)
    """Name -> why there is no such parser here."""

    def per_event(self, name: str) -> float:
        """Nanoseconds; KeyError: it has no time."""
        return self.times[name] / self.events

    def ratio(self, slower: str, faster: str = "sse_fast") -> float:
        """How many times the time of one the other takes; KeyError: one has none."""
        return self.times[slower] / self.times[faster]


def measure(
    stream: Stream,
    chunking: str,
    names: Iterable[str],
    seconds: float = 0.3,
    *,
    floor: bool = False,
    folder: Path | None = None,
    progress: Callable[[float], object] = _ignore,
) -> Cell:
    """Have the parsers read a stream, check what they give, and time those that are right.

    Args:
        names: of `RIVALS` and `JAVASCRIPT`.
        seconds: what each gets, at least; three turns, if they take longer; those of Node five
            times half a second, before which their code is not as fast as it gets.
        floor: whether `FLOOR`, `LINES` and `CALLS` take their turns too; needs the extension.
        folder: where npm installed the parsers of Node, here or in a folder above; None: the
            current one.
        progress: is told how much of the time is over, up to 1.
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
        works.update(floors(chunks))
    # Node is another process, which has its turns between those of the others.
    turns = _NODE_TURNS if of_node else 1
    here = len(works) / max(1, len(works) + len(of_node))
    for turn in range(turns):

        def show(share: float, turn: int = turn) -> None:
            progress((turn + share * here) / turns)

        times = least(works, seconds / turns, progress=show) if works else {}
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
    """What is no parser, but what no parser can do without."""
    from sse_fast._core import parser_c  # type: ignore[attr-defined]

    feed = parser_c.Parser().feed
    floor = parser_c.Floor(chunks, [feed(chunk) for chunk in chunks])

    def call() -> None:
        take = floor.feed
        for chunk in chunks:
            take(chunk)

    return {FLOOR: floor.objects, LINES: floor.lines, CALLS: call}


def difference(expected: Events, given: Events) -> str:
    """The first event in which they differ, counted from 1, cut to what fits a line."""
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
    """All of a short text; of a long one some of where the other is different."""
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
    progress: Callable[[float], object] = _ignore,
) -> dict[str, float]:
    """The least time of each in nanoseconds; they take turns, so that all meet the same machine.

    Args:
        seconds: what each gets, at least; three turns, if they take longer.
        progress: is told how much of the time is over, up to 1.
    """
    clock = time.perf_counter_ns
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
    """What is there already is nothing that the collections of a measurement should look at."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
