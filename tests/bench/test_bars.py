"""bench/bench_feed.py, bench_bars.py and replayed.py: wrong parsers, verdicts, reported times."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from bench import bench_bars, bench_feed
from bench.bench_bars import HTTPX, IDLE, OURS
from sse_fast._bench.measure import CALLS, FLOOR, LINES, Cell
from tests.support import ROOT

pytest.importorskip("sse_fast._core.parser_c", exc_type=ImportError)

PURE = "sse_fast, plain Python"
EVENTS = [("message", "1", ""), ("tick", "2", "7")]


# -- Wrong parsers -----------------------------------------------------------------------------


def fail() -> Any:
    raise ZeroDivisionError("by chance")


def take_long() -> Any:
    while True:
        pass


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: EVENTS[:1], "event 2: expected ('tick', '2', '7'), got no event"),
        (lambda: [*EVENTS, EVENTS[0]], "event 3: expected no event, got ('message', '1', '')"),
        (
            lambda: [EVENTS[0], ("tick", "2", "")],
            "event 2: expected ('tick', '2', '7'), got ('tick', '2', '')",
        ),
        (fail, "raises ZeroDivisionError('by chance')"),
        (take_long, "a pass takes more than 0.05 s"),
    ],
)
def test_check_wrong_rival_is_xfailed(
    monkeypatch: pytest.MonkeyPatch, read: Any, said: str
) -> None:
    if read is take_long and not hasattr(signal, "setitimer"):
        pytest.skip("no signals")
    monkeypatch.setattr(bench_feed, "PATIENCE", 0.05)
    notes: list[str] = []
    with pytest.raises(pytest.xfail.Exception, match="no number: any, a stream: "):
        bench_feed.check("any", read, EVENTS, "a stream", notes)
    assert notes == [f"any, a stream: {said}"]
    # The alarm is off.
    time.sleep(0.06)


@pytest.mark.parametrize("name", [OURS, PURE])
def test_check_own_parser_wrong_fails(name: str) -> None:
    notes: list[str] = []
    bench_feed.check(name, lambda: EVENTS, EVENTS, "a stream", notes)
    assert not notes
    with pytest.raises(pytest.fail.Exception, match=r"no number: .*: event 1: expected"):
        bench_feed.check(name, list, EVENTS, "a stream", notes)
    with pytest.raises(ZeroDivisionError):
        bench_feed.check(name, fail, EVENTS, "a stream", notes)


# A plugin, loaded before the benchmarks, that replaces a parser of the table.
CHANGED = """
from sse_fast._bench.rivals import RIVALS

def missing():
    raise ImportError("Expected more than there is")

def wrong():
    return lambda chunks, keep: [("message", "wrong", "")]

RIVALS[{name!r}] = RIVALS[{name!r}]._replace(make={load})
"""


def run(folder: Path, test: str, *options: str) -> tuple[int, str]:
    # Benchmarks do not measure within a worker of pytest-xdist, which this process is not.
    environment = {name: os.environ[name] for name in os.environ if "XDIST" not in name}
    done = subprocess.run(
        [Path(sys.executable).with_name("pytest"), test, "-q", *options],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.bench
@pytest.mark.parametrize(
    ("test", "name", "load", "code", "said"),
    [
        ("bench_feed.py::test_parser[whole-a-{}]", HTTPX, "wrong", 0, "1 xfailed"),
        ("bench_feed.py::test_parser[whole-a-{}]", HTTPX, "missing", 0, "1 skipped"),
        ("bench_bars.py::test_bars[1-c-one event]", HTTPX, "wrong", 0, "1 passed"),
        ("bench_bars.py::test_bars[1-c-one event]", OURS, "wrong", 1, "1 failed"),
    ],
)
def test_benchmark_run_with_changed_parser(
    tmp_path: Path, test: str, name: str, load: str, code: int, said: str
) -> None:
    (tmp_path / "changed.py").write_text(CHANGED.format(name=name, load=load))
    options = ("--benchmark-disable", "-p", "changed")
    got, out = run(tmp_path, f"bench/{test.format(name)}", *options)
    assert (got, said in out) == (code, True), out
    if load == "missing":
        assert "Expected more than there is" in out
    else:
        (line,) = [line for line in out.splitlines() if line.startswith(f"{name}, stream ")]
        assert ": event 1: expected ('message', '{" in line
        assert line.endswith(", got ('message', 'wrong', '')")


# -- Bars ------------------------------------------------------------------------------------------


def cells(**times: float) -> bench_bars.Cells:
    """Return cells with 100 ns per event for each parser, 90 for the floor, 1 for a call."""
    found = {}
    for at, names in bench_bars.CELLS.items():
        all_names = dict.fromkeys(names, 100.0) | {FLOOR: 90.0, LINES: 8.0, CALLS: 1.0}
        found[at] = Cell(
            *at, 1, 100, all_names | {name: times.get(name, all_names[name]) for name in all_names}
        )
    found[IDLE] = Cell(*IDLE, 0, 0, {OURS: 700.0})
    return found


def verdicts(found: bench_bars.Cells) -> dict[str, str]:
    lines = list(bench_bars.table(found))
    return {
        bar.what: line.rsplit("  ", 1)[1]
        for bar, line in zip(bench_bars.BARS, lines[1:], strict=False)
    }


def test_bars_say_reached_or_missed() -> None:
    found = cells()
    found["a", "one event"].times |= {HTTPX: 1800.0, "launchdarkly-eventsource": 800.0}
    found["a", "64 KiB"].times |= {HTTPX: 1999.0, FLOOR: 74.9}
    found["b", "64 KiB"].times |= {FLOOR: 75.1}
    found["e1", "64 KiB"].times |= {OURS: 98.79}
    said = verdicts(found)
    assert len(said) == len(bench_bars.BARS)
    assert said[f"a, one event: {HTTPX}"] == "reached"
    assert said["a, one event: launchdarkly-eventsource"] == "binding target only"
    assert said[f"a, 64 KiB: {HTTPX}"] == "MISSED"
    # A share of the floor has to reach its whole target.
    assert said["a, 64 KiB: share of the floor"] == "MISSED"
    assert said["b, 64 KiB: share of the floor"] == "reached"
    assert said["a, one event: share of the floor and empty calls"] == "reached"
    assert said["e1, 16 bytes: overhead per chunk, in empty calls"] == "MISSED"
    assert said["memory of an idle parser"] == "reached"
    assert said[f"plain Python, b, 64 KiB: {HTTPX}"] == "reached"


def test_bar_with_two_targets_needs_one() -> None:
    (what,) = [bar.what for bar in bench_bars.BARS if "or share" in bar.what]
    found = cells()
    cell = found["au", "64 KiB"]
    for size, floor, verdict in (
        (301, 10.0, "reached"),
        (299, 71.0, "reached"),
        (299, 69.0, "MISSED"),
    ):
        cell.size = size
        cell.times[FLOOR] = floor
        assert verdicts(found)[what] == verdict


def test_bars_without_number_say_not_measured() -> None:
    found = cells()
    del found["a", "one event"].times[HTTPX]
    del found["b", "64 KiB"]
    found["a", "one event"].missing[HTTPX] = "Expected what is not there"
    said = verdicts(found)
    assert said[f"a, one event: {HTTPX}"] == said["b, 64 KiB: share of the floor"] == "not measured"
    assert f"not measured: {HTTPX}: Expected what is not there" in bench_bars.table(found)


# -- Replayed --------------------------------------------------------------------------------------

REPLAYED = """
import sys
sys.path.append({root!r})
from bench import replayed

@replayed.MARK
def test_replayed(benchmark):
    replayed.record(benchmark, "latency: any", [0.25, 0.5, 3.0], of="this")
"""


@pytest.mark.bench
def test_record_reports_given_times(tmp_path: Path) -> None:
    test, file = tmp_path / "test_it.py", tmp_path / "it.json"
    test.write_text(REPLAYED.format(root=str(ROOT)))
    code, out = run(tmp_path, str(test), f"--benchmark-json={file}", f"--rootdir={tmp_path}")
    assert code == 0, out
    (benchmark,) = json.loads(file.read_text())["benchmarks"]
    assert benchmark["group"] == "latency: any"
    assert benchmark["extra_info"] == {"of": "this"}
    assert benchmark["stats"]["data"] == [0.25, 0.5, 3.0]
