"""Measurements of parsers that are slow, wrong or missing on purpose."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from sse_fast._bench import javascript
from sse_fast._bench.measure import (
    CALLS,
    FLOOR,
    LINES,
    Cell,
    difference,
    floors,
    least,
    measure,
    quiet_heap,
)
from sse_fast._bench.rivals import RIVALS, Event, Events, Rival
from sse_fast._bench.streams import make

STREAM = make("d", 10)
EVENTS: Events = [("message", "1", ""), ("tick", "2", "7")]


def rival(monkeypatch: pytest.MonkeyPatch, name: str, parse: Any) -> None:
    monkeypatch.setitem(RIVALS, name, Rival(name, f"{name}==1.0", lambda: parse))


class Clock:
    """A clock on which time passes only in the measured functions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0
        monkeypatch.setattr("time.perf_counter_ns", lambda: self.now)

    def work(self, *times: int) -> Callable[[], None]:
        """Return a function that takes the given times in turn, then always the last one."""
        left = list(times)

        def work() -> None:
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return work


# -- least --------------------------------------------------------------------------------------


def test_least_returns_fastest_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    works = {"a": clock.work(9_000_000, 5_000_000, 7_000_000), "b": clock.work(4_000_000)}
    assert least(works, 0.001) == {"a": 5_000_000, "b": 4_000_000}


def test_least_alternates_functions(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    order: list[str] = []
    slow, fast = clock.work(20_000_000), clock.work(2_000_000)
    works = {
        "slow": lambda: (order.append("s"), slow()),
        "fast": lambda: (order.append("f"), fast()),
    }
    least(works, 0.03)
    # One pass each first, then three turns of 10 ms, which fit one pass or five.
    assert "".join(order) == "sf" + 3 * ("s" + 5 * "f")


def test_least_spends_given_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    shares: list[float] = []
    least({"a": clock.work(10_000_000)}, 0.1, progress=shares.append)
    assert clock.now == 110_000_000
    assert shares == pytest.approx([number / 10 for number in range(1, 11)])


def test_least_makes_three_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    shares: list[float] = []
    least({"a": clock.work(1_000_000_000)}, 0.001, progress=shares.append)
    assert clock.now == 4_000_000_000
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])


def test_least_uses_given_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.undo()
    assert least({"a": clock.work(7000)}, 3e-6, clock=lambda: clock.now) == {"a": 7000}


def test_least_never_returns_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ratios divide by the times, also on a clock of coarse resolution."""
    clock = Clock(monkeypatch)
    assert least({"a": clock.work(0), "b": clock.work(1000)}, 3e-6) == {"a": 1, "b": 1000}


def test_quiet_heap_freezes_objects() -> None:
    # pytest's own objects are frozen (see conftest.py).
    gc.unfreeze()
    try:
        with quiet_heap():
            assert gc.get_freeze_count() > 0
            assert gc.isenabled()
        assert gc.get_freeze_count() == 0
        with pytest.raises(KeyError), quiet_heap():
            raise KeyError
        assert gc.get_freeze_count() == 0
    finally:
        gc.freeze()


def test_quiet_heap_keeps_frozen_objects() -> None:
    """Otherwise each later collection would traverse them."""
    gc.freeze()
    # Some of them may be freed meanwhile.
    before = gc.get_freeze_count() // 2
    more = [[] for _ in range(before)]
    with quiet_heap():
        assert gc.get_freeze_count() >= before + len(more)
    assert gc.get_freeze_count() >= before


# -- measure ------------------------------------------------------------------------------------


def test_cell_per_event_and_ratio() -> None:
    cell = Cell("a", "one event", 4, 100, {"sse_fast": 200.0, "other": 900.0})
    assert cell.per_event("other") == 225
    assert cell.ratio("other") == 4.5
    assert cell.ratio("sse_fast", "other") == pytest.approx(2 / 9)
    with pytest.raises(KeyError):
        cell.per_event("none")


def test_measure_right_parser_has_time() -> None:
    shares: list[float] = []
    names = ["sse_fast, plain Python"]
    cell = measure(STREAM, "4 KiB", names, 0.0001, progress=shares.append)
    assert (cell.stream, cell.chunking, cell.events, cell.size) == ("d", "4 KiB", 10, 130)
    assert list(cell.times) == names
    assert cell.times[names[0]] > 0
    assert not cell.wrong
    assert not cell.missing
    assert shares == sorted(shares)
    assert shares[-1] == 1


def lost(chunks: Iterable[bytes], keep: bool) -> Events:
    return STREAM.events[:-1] if keep else []


def broken(chunks: Iterable[bytes], keep: bool) -> Events:
    raise ArithmeticError("of its own")


@pytest.mark.parametrize(
    ("parse", "said"),
    [
        (lost, "event 10: expected ('message', "),
        (broken, "raises ArithmeticError('of its own')"),
    ],
)
def test_measure_wrong_parser_has_no_time(
    monkeypatch: pytest.MonkeyPatch, parse: Any, said: str
) -> None:
    rival(monkeypatch, "other", parse)
    cell = measure(STREAM, "one event", ["other", "sse_fast, plain Python"], 0.0001)
    assert list(cell.times) == ["sse_fast, plain Python"]
    assert cell.wrong["other"].startswith(said)
    assert list(cell.wrong) == ["other"]
    assert not cell.missing


def test_measure_without_right_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    rival(monkeypatch, "other", lost)
    shares: list[float] = []
    cell = measure(STREAM, "one event", ["other"], 0.0001, progress=shares.append)
    assert (cell.times, list(cell.wrong), shares) == ({}, ["other"], [1.0])


def test_measure_times_node_parsers_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    name, other = javascript.JAVASCRIPT
    asked: list[Any] = []

    def read(name: str, chunks: list[bytes], folder: Path | None) -> Events:
        asked.append((name, len(chunks), folder))
        if name == other:
            raise ImportError("no such package")
        return STREAM.events

    monkeypatch.setattr(javascript, "read", read)
    monkeypatch.setattr(javascript, "time", lambda *given: asked.append(given[2:]) or 50.0)
    shares: list[float] = []
    cell = measure(
        STREAM,
        "one event",
        [name, other, "sse_fast, plain Python"],
        0.0001,
        folder=Path("any"),
        progress=shares.append,
    )
    # At least half a second, since Node has not compiled everything before.
    timed = [(10, 0.5, Path("any"))] * 5
    assert asked == [(name, 10, Path("any")), (other, 10, Path("any")), *timed]
    assert (cell.per_event(name), cell.missing) == (5, {other: "no such package"})
    assert (shares, shares[-1]) == (sorted(shares), 1)


def test_measure_node_failure_spares_others(monkeypatch: pytest.MonkeyPatch) -> None:
    name, _ = javascript.JAVASCRIPT
    monkeypatch.setattr(javascript, "read", lambda *_: STREAM.events)
    answers = iter([50.0])
    monkeypatch.setattr(javascript, "time", lambda *_: next(answers))
    cell = measure(STREAM, "one event", [name, "sse_fast, plain Python"], 0.0001)
    assert list(cell.times) == ["sse_fast, plain Python"]
    assert cell.wrong == {name: "raises StopIteration()"}


@pytest.mark.parametrize("script", ["echo too old >&2; exit 1", "exit 0", "echo oh"])
def test_broken_node_is_reported(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str
) -> None:
    node = tmp_path / "node"
    node.write_text(f"#!/bin/sh\n{script}\n")
    node.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    name, _ = javascript.JAVASCRIPT
    with pytest.raises(ImportError, match=r"Node .* failed to run .*: it may be too old"):
        javascript.find(name)
    with pytest.raises(RuntimeError, match=r"Node .* failed to run .*: it may be too old"):
        javascript.read(name, [b""])


@pytest.mark.bench
def test_floors_make_same_objects() -> None:
    pytest.importorskip("sse_fast._core.parser_c")
    chunks = STREAM.chunks("4 KiB")
    assert set(floors(chunks)) == {FLOOR, LINES, CALLS}
    assert floors(chunks)[FLOOR]() == len(STREAM.events)
    cell = measure(STREAM, "4 KiB", [], 0.0001, floor=True)
    assert set(cell.times) == {FLOOR, LINES, CALLS}


# -- difference ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            [EVENTS[0], ("tick", "3", "7")],
            "event 2: expected ('tick', '2', '7'), got ('tick', '3', '7')",
        ),
        ([("a", "1", ""), EVENTS[1]], "event 1: expected ('message', '1', ''), got ('a', '1', '')"),
        (EVENTS[:1], "event 2: expected ('tick', '2', '7'), got no event"),
        ([*EVENTS, EVENTS[0]], "event 3: expected no event, got ('message', '1', '')"),
        ([], "event 1: expected ('message', '1', ''), got no event"),
        (EVENTS, "no difference"),
    ],
)
def test_difference_names_first_wrong_event(given: Events, said: str) -> None:
    assert difference(EVENTS, given) == said


def test_difference_in_long_text_is_shown() -> None:
    right: Event = ("message", "x" * 1000 + "1" + "y" * 1000, "")
    wrong: Event = ("message", "x" * 1000 + "2" + "y" * 1000, "")
    line = difference([right], [wrong])
    assert len(line) < 200
    expected = "...'xxxxxxxxxx{}" + "y" * 29 + "'..."
    assert line == (
        f"event 1: expected ('message', {expected.format(1)}, ''), "
        f"got ('message', {expected.format(2)}, '')"
    )
    # One text may be a prefix of the other; equal texts are shown from their beginning.
    line = difference([("message", "x" * 100, "i" * 50)], [("message", "x" * 90, "i" * 50)])
    same = f"'{'i' * 40}'..."
    assert line == (
        f"event 1: expected ('message', ...'{'x' * 20}', {same}), "
        f"got ('message', ...'{'x' * 10}', {same})"
    )
