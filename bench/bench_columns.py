"""Captures as columns, against readers of the same JSON as lines, and against memcpy.

    pytest bench/bench_columns.py --benchmark-min-rounds=10

Each stream is 256 MiB (d: 64), in memory and already read once; a file of it is in the page
cache. Rivals get the data of the same events as lines (`columns_rivals.py`), each with the
setting that was fastest in a round before. All run alternately in one process, one at a time, and
the least time of each counts. Everything runs in one thread unless a row says otherwise. All of
them validate UTF-8 within the measured time, which a test checks.

GB/s count the bytes that each reads: for events the stream, for rivals the lines, which are
shorter. So compare events per second, and ratios of times for the same events. memcpy moves the
whole stream, 8 MiB at a time: either always into the same 8 MiB, as `iter_columns` does if each
batch is released before the next one, or into memory that was just mapped in huge pages.
Unmapping it is part of the time, as is releasing the results of all others. memchr searches for a
byte that does not occur, which is as fast as a core can read.

Every value is checked before anything is timed. A rival with wrong lines gets no number; wrong
events of sse_fast fail. The tables are in the summary, in Markdown. Nothing fails for being slow:
the table of the bars shows which targets are missed. `columns_memory.py` measures the memory of
`iter_columns`. All of it takes five minutes.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import sse_fast
from bench import columns_memory, replayed
from bench.columns_rivals import PASSING, RIVALS, TABLE, Reading, Text, import_polars, time_polars
from sse_fast._bench import machine, streams
from sse_fast._bench.measure import quiet_heap

pytest.importorskip("sse_fast.columns._columns_c", exc_type=ImportError)
pyarrow = pytest.importorskip("pyarrow")

# Stream -> number of different events in one part, and MiB of repeated parts.
SIZES = {
    "a": (12_000, 256),
    "au": (12_000, 256),
    "b": (30_000, 256),
    "c": (3_000, 256),
    "d": (300_000, 64),
}
FEWEST = {"a": 200, "au": 200, "b": 500, "c": 50, "d": 5000}
PIECE = 8 * 2**20
VIEW, COPY = "string_view", "large_string"
MEMCPY, MEMCPY_FRESH = "memcpy, 8 MiB again and again", "memcpy, fresh memory"
MEMCHR = "memchr, which only reads"


# -- Payloads --------------------------------------------------------------------------------------


@dataclass
class Payload:
    """A stream made of one part repeated, in memory and as a file; and its data as lines."""

    name: str
    content: bytes
    path: Path
    text: Text
    part: Any
    """Arrow table of the events of one part."""
    parts: int

    @property
    def events(self) -> int:
        return int(self.part.num_rows) * self.parts

    @property
    def text_size(self) -> int:
        """Bytes of the lines without their ends."""
        return len(self.text.content) - self.events


def make_payload(name: str, folder: Path, measuring: bool) -> Payload:
    count, mebibytes = SIZES[name]
    made = streams.make(name, count if measuring else FEWEST[name])
    block = b"".join(made.blocks)
    parts = mebibytes * 2**20 // len(block) if measuring else 3
    types, data, ids = zip(*made.events, strict=True)
    lines = "".join(f"{line}\n" for line in data).encode()
    payload = Payload(
        name,
        block * parts,
        folder / "stream",
        Text(folder / "lines", lines * parts),
        pyarrow.table(
            {
                "event": types,
                "data": pyarrow.array(data, pyarrow.large_string()),
                "id": pyarrow.array([given or None for given in ids], pyarrow.large_string()),
            }
        ),
        parts,
    )
    payload.path.write_bytes(payload.content)
    payload.text.path.write_bytes(payload.text.content)
    return payload


def difference(expected: Any, given: Any, parts: int) -> str:
    """Describe where a column differs from its repeated part; "" if it does not."""
    count = len(expected)
    if len(given) != count * parts:
        return f"expected {count * parts} values, got {len(given)}"
    for number in range(parts):
        part = given.slice(number * count, count)
        # Compare dictionaries and views by value.
        part = pyarrow.chunked_array(part.cast(expected.type).chunks, expected.type)
        if not part.equals(expected):
            at = next(at for at in range(count) if part[at] != expected[at])
            return (
                f"value {number * count + at + 1}: expected {str(expected[at])[:60]!r}, "
                f"got {str(part[at])[:60]!r}"
            )
    return ""


# -- Ways to read ----------------------------------------------------------------------------------


class Way(NamedTuple):
    """A row of the tables: one way to read."""

    name: str
    make: Callable[[Payload], tuple[Callable[[], object], Callable[[], str]]]
    """Return the timed function, and one that describes what is wrong with its events, or ""."""


def read(payload: Payload, data_type: Any, threads: int) -> sse_fast.Columns:
    return sse_fast.read_columns(payload.content, data_type=data_type, threads=threads)


def iterate(source: bytes | Path, data_type: Any, threads: int) -> sse_fast.ColumnStream:
    return sse_fast.iter_columns(source, data_type=data_type, threads=threads)


def wrong_events(payload: Payload, columns: Any) -> str:
    table = pyarrow.table(columns)
    for name in payload.part.column_names:
        wrong = difference(payload.part[name], table[name], payload.parts)
        if wrong:
            return f"{name}, {wrong}"
    return ""


def read_columns(data_type: str, threads: int) -> Way:
    def make(payload: Payload) -> tuple[Callable[[], object], Callable[[], str]]:
        whole = partial(read, payload, data_type, threads)
        # Releasing the result is part of the time.
        return lambda: len(whole()), lambda: wrong_events(payload, whole())

    return Way(our_name("read_columns", data_type, threads), make)


def iter_columns(data_type: str, threads: int, where: str = "") -> Way:
    """`where`: "" for memory; "of a file"; or "to pyarrow", which gets every batch."""

    def make(payload: Payload) -> tuple[Callable[[], object], Callable[[], str]]:
        source = payload.path if where == "of a file" else payload.content
        begin = partial(iterate, source, data_type, threads)

        def work() -> None:
            for batch in begin():
                if where == "to pyarrow":
                    pyarrow.record_batch(batch)

        return work, lambda: wrong_events(payload, begin())

    return Way(our_name("iter_columns", data_type, threads, where), make)


def take_over(library: str, data_type: str) -> Way:
    """Time how long another library takes to make a table of columns that exist."""

    def make(payload: Payload) -> tuple[Callable[[], object], Callable[[], str]]:
        columns = read(payload, data_type, 1)
        if library == "polars":
            taken = partial(import_polars().DataFrame, columns)
            return taken, lambda: wrong_events(payload, taken().to_arrow())
        taken = partial(pyarrow.table, columns)
        return taken, lambda: wrong_events(payload, taken())

    call = {"pyarrow": "pyarrow.table", "polars": "polars.DataFrame"}[library]
    return Way(f"{call}(columns), {data_type}", make)


def our_name(function: str, data_type: str, threads: int, where: str = "") -> str:
    words = f"{function} {where}".strip()
    return f"{words}, {data_type}" + (f", {threads} threads" if threads > 1 else "")


def memchr(payload: Payload) -> tuple[Callable[[], object], Callable[[], str]]:
    search = partial(payload.content.find, b"\0")
    return search, lambda: "" if search() == -1 else "what is not there"


def memcpy(payload: Payload) -> tuple[Callable[[], object], Callable[[], str]]:
    target = ctypes.create_string_buffer(PIECE)

    def work() -> None:
        copy_pieces(payload.content, ctypes.addressof(target), 0)

    def wrong() -> str:
        work()
        rest = len(payload.content) % PIECE or PIECE
        return "" if target.raw[:rest] == payload.content[-rest:] else "other bytes"

    return work, wrong


def memcpy_fresh(payload: Payload) -> tuple[Callable[[], object], Callable[[], str]]:
    size = len(payload.content)
    # On Windows there are no flags. Elsewhere the default would be shared memory.
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}

    def work(look: Callable[[mmap.mmap], bool] = lambda memory: True) -> bool:
        with mmap.mmap(-1, size, **flags) as memory:
            if hasattr(mmap, "MADV_HUGEPAGE"):
                memory.madvise(mmap.MADV_HUGEPAGE)
            first = ctypes.c_char.from_buffer(memory)
            copy_pieces(payload.content, ctypes.addressof(first), PIECE)
            # A reference would prevent closing the mapping.
            del first
            return look(memory)

    return work, lambda: "" if work(lambda at: at[:] == payload.content) else "other bytes"


def copy_pieces(content: bytes, target: int, step: int) -> None:
    """Copy in pieces, each of which goes `step` bytes after the one before."""
    source = ctypes.cast(ctypes.c_char_p(content), ctypes.c_void_p).value or 0
    for at in range(0, len(content), PIECE):
        ctypes.memmove(target, source + at, min(PIECE, len(content) - at))
        target += step


TYPES = (VIEW, COPY)
THREADS = (1, 2)
OURS = [
    *(read_columns(data_type, threads) for data_type in TYPES for threads in THREADS),
    *(iter_columns(data_type, threads) for data_type in TYPES for threads in THREADS),
    *(iter_columns(data_type, 1, "to pyarrow") for data_type in TYPES),
    *(iter_columns(data_type, threads, "of a file") for data_type in TYPES for threads in THREADS),
]
TAKERS = [take_over(library, data_type) for library in ("pyarrow", "polars") for data_type in TYPES]
FLOORS = [Way(MEMCHR, memchr), Way(MEMCPY, memcpy), Way(MEMCPY_FRESH, memcpy_fresh)]
KINDS = (TABLE, PASSING)


def rival_name(rival: str, kind: str, all_threads: bool = False) -> str:
    return f"{rival}, {kind}" + (", all threads" if all_threads else "")


RIVAL_ROWS = [
    rival_name(rival.name, kind, all_threads)
    for kind in KINDS
    for all_threads in (False, True)
    for rival in RIVALS
]
READ = [way.name for way in FLOORS + OURS] + RIVAL_ROWS
TAKEN_OVER = [
    *(our_name("read_columns", data_type, 1) for data_type in TYPES),
    *(way.name for way in TAKERS),
]
ROWS = [*READ, *(way.name for way in TAKERS)]


# -- Measured --------------------------------------------------------------------------------------


@dataclass
class Cell:
    """The times of one stream."""

    stream: str
    events: int
    size: int
    """Bytes of the stream."""
    text_size: int
    """Bytes of its data as lines."""
    times: dict[str, list[float]] = field(default_factory=dict)
    """Row -> seconds, round by round."""
    settings: dict[str, str] = field(default_factory=dict)
    """Row of a rival -> the fastest of its settings."""
    wrong: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def least(self, row: str) -> float:
        """Return the least seconds of a row. KeyError: it has none."""
        return min(self.times[row])

    def best(self, kind: str) -> str:
        """Return the row of the fastest rival. KeyError: no rival has a time."""
        rows = [rival_name(rival.name, kind) for rival in RIVALS]
        there = [row for row in rows if row in self.times]
        if not there:
            raise KeyError(kind)
        return min(there, key=self.least)


def wrong_lines(payload: Payload, reading: Reading) -> str:
    expected = (payload.events, payload.text_size)
    given = reading.work()
    if given != expected[: len(given)]:
        return f"expected {expected[: len(given)]}, got {given}"
    return difference(payload.part["data"], reading.lines(), payload.parts)


def make_rivals(payload: Payload, cell: Cell) -> dict[str, dict[str, Reading]]:
    """Return row -> setting -> a reading whose lines are right."""
    found: dict[str, dict[str, Reading]] = {}
    for rival in RIVALS:
        for all_threads in (False, True):
            rows = [rival_name(rival.name, kind, all_threads) for kind in KINDS]
            if rival.name == "Polars" and all_threads:
                continue
            try:
                settings = rival.load(all_threads)
            except ImportError as error:
                cell.missing |= dict.fromkeys(rows, str(error))
                continue
            for row, kind in zip(rows, KINDS, strict=True):
                readings = {}
                for setting, make in settings[kind].items():
                    try:
                        reading = make(payload.text)
                        wrong = wrong_lines(payload, reading)
                    except Exception as error:
                        wrong = f"raises {error!r}"
                    if wrong:
                        cell.wrong[row] = f"{setting}: {wrong}"
                    else:
                        readings[setting] = reading
                if readings:
                    found[row] = readings
    return found


def take_turns(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    with quiet_heap():
        for _ in range(rounds):
            for name, work in works.items():
                begun = time.perf_counter()
                work()
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def measure(payload: Payload, rounds: int) -> Cell:
    """Measure all rows; with 0 rounds only check the values."""
    cell = Cell(payload.name, payload.events, len(payload.content), len(payload.text.content))
    works: dict[str, Callable[[], object]] = {}
    for way in FLOORS + OURS + TAKERS:
        try:
            work, look = way.make(payload)
        except ImportError as error:
            cell.missing[way.name] = str(error)
            continue
        wrong = look()
        if wrong:
            cell.wrong[way.name] = wrong
        else:
            works[way.name] = work
    rivals = make_rivals(payload, cell)
    if not rounds:
        for work in works.values():
            work()
        cell.times = {name: [0.0] for name in (*works, *rivals)}
        return cell
    for row, readings in rivals.items():
        times = take_turns({name: reading.work for name, reading in readings.items()}, 2)
        cell.settings[row] = setting = min(times, key=lambda name: min(times[name]))
        works[row] = readings[setting].work
    cell.times = take_turns(works, rounds)
    for kind in KINDS:
        row = rival_name("Polars", kind)
        if row in cell.settings:
            all_threads = rival_name("Polars", kind, True)
            setting = cell.settings[all_threads] = cell.settings[row]
            cell.times[all_threads] = time_polars(kind, setting, payload.text, rounds)
    return cell


# -- Bars ------------------------------------------------------------------------------------------

Cells = dict[str, Cell]
Memories = dict[columns_memory.Case, columns_memory.Memory]


class Bar(NamedTuple):
    what: str
    target: str
    value: Callable[[Cells, Memories], tuple[str, float]]
    """Return the measurement as text, and as a share of the target, which 1 reaches.

    KeyError: it was not measured."""


def speed(row: str, stream: str, target: float) -> Bar:
    def value(cells: Cells, _: Memories) -> tuple[str, float]:
        measured = cells[stream].size / cells[stream].least(row) / 1e9
        return f"{measured:.1f} GB/s", measured / target

    return Bar(f"{stream}: {row}", f"{target:g} GB/s", value)


def beside_rivals(row: str, kind: str, stream: str, target: float | None) -> Bar:
    def value(cells: Cells, _: Memories) -> tuple[str, float]:
        cell = cells[stream]
        best = cell.best(kind)
        ratio = cell.least(best) / cell.least(row)
        return f"{ratio:.1f}x {best.partition(',')[0]}", ratio / (target or ratio)

    what = f"{stream}: {row}, beside the best rival {kind}"
    return Bar(what, "" if target is None else f"{target:g}x", value)


def share(row: str, of: str, stream: str, target: float | None) -> Bar:
    def value(cells: Cells, _: Memories) -> tuple[str, float]:
        measured = cells[stream].least(of) / cells[stream].least(row)
        return f"{measured:.0%}", measured / (target or measured)

    return Bar(f"{stream}: {row}, of {of}", "" if target is None else f"{target:.0%}", value)


def scaling(function: str, data_type: str, stream: str, target: float | None) -> Bar:
    def value(cells: Cells, _: Memories) -> tuple[str, float]:
        cell = cells[stream]
        one, two = (cell.least(our_name(function, data_type, threads)) for threads in THREADS)
        return f"{one / two:.2f}x", one / two / (target or one / two)

    what = f"{stream}: {our_name(function, data_type, 2)}, beside one"
    return Bar(what, "" if target is None else f"{target:g}x", value)


def memory(case: columns_memory.Case) -> Bar:
    def value(_: Cells, memories: Memories) -> tuple[str, float]:
        peak = memories[case].peak
        return (
            f"{peak:.0f} MiB, {memories[case].before:.0f} before",
            columns_memory.LIMIT / max(peak, 0.1),
        )

    return Bar(f"anonymous memory: {case}", f"< {columns_memory.LIMIT} MiB", value)


READ_VIEW, ITER_VIEW, ITER_COPY = (
    our_name(function, data_type, 1)
    for function, data_type in (
        ("read_columns", VIEW),
        ("iter_columns", VIEW),
        ("iter_columns", COPY),
    )
)
BARS = [
    *(speed(row, "a", 10) for row in (READ_VIEW, ITER_VIEW)),
    *(
        beside_rivals(row, kind, stream, target)
        for stream in ("a", "c")
        for row, kind, target in (
            (READ_VIEW, TABLE, 5),
            (ITER_VIEW, PASSING, 5),
            # The upper bound for anything that reads every byte.
            (MEMCHR, PASSING, None),
        )
    ),
    *(
        share(ITER_COPY, MEMCPY, stream, 0.6 if stream == "a" else None)
        for stream in ("a", "c", "b", "d")
    ),
    *(
        scaling(function, data_type, stream, None if stream == "a" else 1.5)
        for stream in ("b", "d", "a")
        for function in ("read_columns", "iter_columns")
        for data_type in TYPES
    ),
    *map(memory, columns_memory.CASES),
]


def bars_table(cells: Cells, memories: Memories) -> Iterator[str]:
    yield "| | target | measured | reached |"
    yield "| --- | ---: | ---: | --- |"
    for bar in BARS:
        try:
            measured, part = bar.value(cells, memories)
        except KeyError:
            measured, part = "-", float("nan")
        if measured == "-":
            verdict = "not measured"
        elif not bar.target:
            verdict = ""
        else:
            verdict = "yes" if part >= 1 else "**no**"
        yield f"| {bar.what} | {bar.target} | {measured} | {verdict} |"


def speeds_table(
    cells: Cells, rows: list[str], value: Callable[[Cell, str], float]
) -> Iterator[str]:
    yield f"| | {' | '.join(cells)} |"
    yield f"| --- |{' ---: |' * len(cells)}"
    for row in rows:
        values = [
            f"{value(cell, row):,.1f}" if row in cell.times else "-" for cell in cells.values()
        ]
        yield f"| {row} | {' | '.join(values)} |"


def events_per_second(cell: Cell, row: str) -> float:
    return cell.events / cell.least(row) / 1e6


def nanoseconds(cell: Cell, row: str) -> float:
    return cell.least(row) / cell.events * 1e9


def gigabytes(cell: Cell, row: str) -> float:
    size = cell.text_size if row in RIVAL_ROWS else cell.size
    return size / cell.least(row) / 1e9


def settings_lines(cells: Cells) -> Iterator[str]:
    for row in RIVAL_ROWS:
        by_setting: dict[str, list[str]] = {}
        for cell in cells.values():
            if row in cell.settings:
                by_setting.setdefault(cell.settings[row], []).append(cell.stream)
        if by_setting:
            each = (f"{name} ({', '.join(streams)})" for name, streams in by_setting.items())
            yield f"{row}: {'; '.join(each)}"


@pytest.fixture(scope="module")
def cells(measuring: bool, tables: dict[str, list[str]]) -> Iterator[tuple[Cells, Memories]]:
    found: Cells = {}
    memories: Memories = {}
    # Times of two threads mean nothing if other processes use the second processor.
    load = f"load {os.getloadavg()[0]:.1f} before" if hasattr(os, "getloadavg") else "load unknown"
    yield found, memories
    if not measuring:
        return
    about = machine.describe()
    versions = [f"pyarrow {pyarrow.__version__}"]
    for name in ("duckdb", "polars"):
        with suppress(metadata.PackageNotFoundError):
            versions.append(f"{name} {metadata.version(name)}")
    tables["columns: the bars"] = list(bars_table(found, memories))
    for title, rows, value in (
        ("GB/s of the bytes that each reads", READ, gigabytes),
        ("million events a second", READ, events_per_second),
        ("ns an event, of making a table of it", TAKEN_OVER, nanoseconds),
    ):
        tables[f"columns: {title}"] = list(speeds_table(found, rows, value))
    tables["columns: the rivals' settings, and the machine"] = [
        *settings_lines(found),
        "; ".join([", ".join(versions), *about.values(), load]),
    ]


# -- Tests -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cell(
    request: pytest.FixtureRequest,
    pytestconfig: pytest.Config,
    tmp_path_factory: pytest.TempPathFactory,
    measuring: bool,
    no_number: list[str],
    cells: tuple[Cells, Memories],
) -> Cell:
    folder = tmp_path_factory.mktemp("columns")
    rounds = pytestconfig.getoption("benchmark_min_rounds") if measuring else 0
    payload = make_payload(request.param, folder, measuring)
    found = cells[0][payload.name] = measure(payload, rounds)
    del payload
    shutil.rmtree(folder)
    for row, wrong in found.wrong.items():
        no_number.append(f"{row}, stream {found.stream}: {wrong}")
    return found


@replayed.MARK
@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("cell", SIZES, indirect=True)
def test_columns(benchmark: Any, measuring: bool, cell: Cell, row: str) -> None:
    if row in cell.times:
        group = f"columns: stream {cell.stream}"
        times = cell.times[row] if measuring else []
        replayed.record(benchmark, group, times, events=cell.events, bytes=cell.size)
    elif row in cell.wrong:
        end = pytest.xfail if row in RIVAL_ROWS else pytest.fail
        end(f"no number: {row}, stream {cell.stream}: {cell.wrong[row]}")
    else:
        pytest.skip(cell.missing.get(row, "nothing is measured"))


def test_memory_stays_below_the_limit(measuring: bool, cells: tuple[Cells, Memories]) -> None:
    try:
        found = columns_memory.measure(columns_memory.SIZE if measuring else 64)
    except OSError as error:
        pytest.skip(str(error))
    cells[1].update(found)
    # Memory does not depend on how busy the machine is, so this may fail.
    assert max(each.peak for each in found.values()) < columns_memory.LIMIT


BAD = b"a line\nand \xff one that is not UTF-8\n"


@pytest.mark.parametrize("data_type", TYPES)
def test_columns_replace_invalid_utf8(data_type: Any) -> None:
    source = b"".join(b"data: %b\n\n" % line for line in BAD.splitlines())
    for columns in (
        sse_fast.read_columns(source, data_type=data_type),
        sse_fast.iter_columns(source, data_type=data_type),
    ):
        data = pyarrow.table(columns)["data"].to_pylist()
        assert data == BAD.decode(errors="replace").splitlines()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_rivals_validate_utf8(tmp_path: Path, rival: Any, kind: str) -> None:
    text = Text(tmp_path / "lines", BAD)
    text.path.write_bytes(BAD)
    try:
        settings = rival.load(False)[kind]
    except ImportError as error:
        pytest.skip(str(error))
    for make in settings.values():
        with pytest.raises(Exception, match=r"(?i)utf-?8|unicode"):
            make(text).work()


def test_polars_with_all_threads_runs_in_a_process(tmp_path: Path) -> None:
    text = Text(tmp_path / "lines", b"1\n2\n")
    text.path.write_bytes(text.content)
    try:
        settings = next(rival for rival in RIVALS if rival.name == "Polars").load(False)
    except ImportError as error:
        pytest.skip(str(error))
    assert len(time_polars(PASSING, next(iter(settings[PASSING])), text, 2)) == 2
