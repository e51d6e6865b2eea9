"""The benchmark of columns: wrong results get no number, and bars report the right figures.

That the benchmark runs is tested with the README, which has its command.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sse_fast.columns._columns_c", exc_type=ImportError)
pyarrow = pytest.importorskip("pyarrow")

from bench import bench_columns, columns_memory  # noqa: E402
from bench.bench_columns import ITER_COPY, ITER_VIEW, MEMCPY, READ_VIEW, Cell, rival_name  # noqa: E402
from bench.columns_rivals import PASSING, TABLE, Reading, Rival, Text  # noqa: E402

# -- Wrong results ---------------------------------------------------------------------------------


def text(*values: str) -> Any:
    return pyarrow.chunked_array([pyarrow.array(values, pyarrow.large_string())])


@pytest.mark.parametrize("kind", ["large_string", "string", "string_view"])
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ("abab", ""),
        ("aba", "expected 4 values, got 3"),
        ("ababa", "expected 4 values, got 5"),
        ("abax", "value 4: expected 'b', got 'x'"),
    ],
)
def test_difference_names_first_wrong_value(kind: str, values: str, said: str) -> None:
    given = text(*values).cast(getattr(pyarrow, kind)())
    assert bench_columns.difference(text("a", "b"), given, 2) == said


def reading(count: int, lines: list[str], _: Text) -> Reading:
    return Reading(lambda: (count,), lambda: text(*lines))


def fail(_: Text) -> Any:
    raise ZeroDivisionError("by chance")


def not_there(_: bool) -> Any:
    raise ImportError("Expected what is not there")


@pytest.fixture
def payload(tmp_path: Path) -> bench_columns.Payload:
    return bench_columns.make_payload("d", tmp_path, False)


def measure(
    monkeypatch: pytest.MonkeyPatch, payload: bench_columns.Payload, load: Callable[[bool], Any]
) -> Cell:
    monkeypatch.setattr(bench_columns, "RIVALS", [Rival("any", load)])
    # Importing Polars here would limit it to one thread in all tests that follow.
    monkeypatch.setattr(bench_columns, "TAKERS", [])
    return bench_columns.measure(payload, 0)


def test_wrong_rival_gets_no_number(
    monkeypatch: pytest.MonkeyPatch, payload: bench_columns.Payload
) -> None:
    lines = payload.text.content.decode().splitlines()
    right = partial(reading, payload.events, lines)
    cell = measure(
        monkeypatch,
        payload,
        lambda _: {
            TABLE: {"few": partial(reading, 1, lines), "good": right},
            PASSING: {"other": partial(reading, payload.events, ["", *lines[1:]])},
        },
    )
    assert cell.wrong == {
        row: wrong
        for all_threads in (False, True)
        for row, wrong in {
            rival_name("any", TABLE, all_threads): f"few: expected ({payload.events},), got (1,)",
            rival_name("any", PASSING, all_threads): (
                f"other: value 1: expected {lines[0]!r}, got ''"
            ),
        }.items()
    }
    # A rival that is wrong as PASSING still has a time as TABLE, where it was right.
    assert rival_name("any", TABLE) in cell.times
    assert rival_name("any", PASSING) not in cell.times

    cell = measure(monkeypatch, payload, lambda _: {TABLE: {"it": fail}, PASSING: {}})
    assert cell.wrong[rival_name("any", TABLE)] == "it: raises ZeroDivisionError('by chance')"
    cell = measure(monkeypatch, payload, not_there)
    assert cell.missing[rival_name("any", TABLE)] == "Expected what is not there"


def test_wrong_events_get_no_number(
    monkeypatch: pytest.MonkeyPatch, payload: bench_columns.Payload
) -> None:
    cell = measure(monkeypatch, payload, lambda _: {TABLE: {}, PASSING: {}})
    ours = [way.name for way in bench_columns.FLOORS + bench_columns.OURS]
    assert list(cell.times) == ours
    payload.content = payload.content.replace(b"data: ", b"data:  ", 1)
    cell = measure(monkeypatch, payload, lambda _: {TABLE: {}, PASSING: {}})
    # Only the file was not changed.
    assert list(cell.wrong) == [
        name for name in ours if "columns" in name and "of a file" not in name
    ]
    assert all(wrong.startswith("data, value 1: ") for wrong in cell.wrong.values())


# -- Bars ------------------------------------------------------------------------------------------


def cells() -> bench_columns.Cells:
    """Return cells of 10 GB, 8 of which are text: everything takes 2 s, or 9 in another round."""
    return {
        name: Cell(name, 10**8, 10**10, 8 * 10**9, {row: [9.0, 2.0] for row in bench_columns.ROWS})
        for name in bench_columns.SIZES
    }


MEMORIES = {case: columns_memory.Memory(20.0, 200.0) for case in columns_memory.CASES}


def verdicts(
    found: bench_columns.Cells, memories: bench_columns.Memories = MEMORIES
) -> dict[str, tuple[str, str]]:
    """Return bar -> what was measured, and whether it reaches the target."""
    _, _, *lines = bench_columns.bars_table(found, memories)
    rows = [line[2:-2].split(" | ") for line in lines]
    assert all(len(row) == 4 for row in rows)
    return {what: (measured, verdict) for what, _, measured, verdict in rows}


def test_bars_say_which_targets_are_reached() -> None:
    found = cells()
    found["a"].times |= {
        READ_VIEW: [1.01],
        ITER_VIEW: [0.99],
        MEMCPY: [0.61],
        ITER_COPY: [1.0],
        rival_name("DuckDB", TABLE): [5.1],
        rival_name("pyarrow.csv", TABLE): [5.06],
        rival_name("Polars", TABLE): [7.0],
        rival_name("Polars", PASSING): [1.98],
        # A row with more threads must not count.
        rival_name("Polars", PASSING, True): [0.1],
    }
    said = verdicts(found)
    assert len(said) == len(bench_columns.BARS)
    assert said[f"a: {READ_VIEW}"] == ("9.9 GB/s", "**no**")
    assert said[f"a: {ITER_VIEW}"] == ("10.1 GB/s", "yes")
    assert said[f"a: {READ_VIEW}, beside the best rival {TABLE}"] == ("5.0x pyarrow.csv", "yes")
    assert said[f"a: {ITER_VIEW}, beside the best rival {PASSING}"] == ("2.0x Polars", "**no**")
    assert said[f"a: {ITER_COPY}, of {MEMCPY}"] == ("61%", "yes")
    # A bar without a target has no verdict.
    assert said[f"b: {ITER_COPY}, of {MEMCPY}"] == ("100%", "")
    assert said[f"b: {READ_VIEW}, 2 threads, beside one"] == ("1.00x", "**no**")
    found["d"].times[f"{READ_VIEW}, 2 threads"] = [1.33]
    assert verdicts(found)[f"d: {READ_VIEW}, 2 threads, beside one"] == ("1.50x", "yes")


def test_memory_bar_compares_peak() -> None:
    case = columns_memory.CASES[0]
    for peak, verdict in ((255.9, "yes"), (256.5, "**no**")):
        memories = {case: columns_memory.Memory(20.0, peak)}
        said = verdicts(cells(), memories)
        assert said[f"anonymous memory: {case}"] == ("256 MiB, 20 before", verdict)
        assert said[f"anonymous memory: {columns_memory.CASES[1]}"] == ("-", "not measured")


def test_speeds_count_bytes_that_each_reads() -> None:
    cell = cells()["a"]
    assert bench_columns.gigabytes(cell, READ_VIEW) == 5
    assert bench_columns.gigabytes(cell, rival_name("Polars", TABLE)) == 4
    assert bench_columns.events_per_second(cell, READ_VIEW) == 50
    assert bench_columns.nanoseconds(cell, READ_VIEW) == 20
    lines = list(bench_columns.speeds_table({"a": cell}, [READ_VIEW, "x"], bench_columns.gigabytes))
    assert lines == ["| | a |", "| --- | ---: |", f"| {READ_VIEW} | 5.0 |", "| x | - |"]
