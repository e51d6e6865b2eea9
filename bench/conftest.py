"""Fixtures of the benchmarks, and their tables beside pytest-benchmark's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from bench import loopback as loopback_module
from sse_fast._bench.measure import quiet_heap

_GROWTH = pytest.StashKey[list[tuple[str, float]]]()
_LATENCY = pytest.StashKey[dict[tuple[str, str], float]]()
_SPEEDS = pytest.StashKey[dict[str, dict[tuple[str, str], str]]]()
_TABLES = pytest.StashKey[dict[str, list[str]]]()
_NO_NUMBER = pytest.StashKey[list[str]]()

SLOW = 1.0  # ms


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--node-modules",
        type=Path,
        metavar="FOLDER",
        help="folder in which npm installed the JavaScript parsers (default: this one or a parent)",
    )


@pytest.fixture(scope="session")
def node_modules(pytestconfig: pytest.Config) -> Path | None:
    """Where the parsers of JavaScript are; None: in the current folder, or above."""
    folder: Path | None = pytestconfig.getoption("node_modules")
    return folder


@pytest.fixture(scope="session")
def measuring(pytestconfig: pytest.Config) -> bool:
    """Whether to measure; with --benchmark-disable the benchmarks only check their results."""
    return not pytestconfig.getoption("benchmark_disable")


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback_module.Loopback]:
    with loopback_module.start(tmp_path_factory.mktemp("loopback")) as running:
        yield running


@pytest.fixture(scope="session")
def growth(pytestconfig: pytest.Config) -> list[tuple[str, float]]:
    """The cost of doubling the input: (case, ratio)."""
    return pytestconfig.stash.setdefault(_GROWTH, [])


@pytest.fixture(scope="session")
def latency(pytestconfig: pytest.Config) -> dict[tuple[str, str], float]:
    """Median latencies: (row, column) -> ms, NaN where the cell failed."""
    return pytestconfig.stash.setdefault(_LATENCY, {})


@pytest.fixture(scope="session")
def speeds(pytestconfig: pytest.Config) -> dict[str, dict[tuple[str, str], str]]:
    """Tables by title: (row, column) -> text of the cell."""
    return pytestconfig.stash.setdefault(_SPEEDS, {})


@pytest.fixture(scope="session")
def tables(pytestconfig: pytest.Config) -> dict[str, list[str]]:
    """Tables by title, as lines of text."""
    return pytestconfig.stash.setdefault(_TABLES, {})


@pytest.fixture
def timed(benchmark: Any, measuring: bool) -> Callable[..., float | None]:
    """A function that lets pytest-benchmark time work on chunks.

    It returns the least time in seconds, or None if nothing is measured.
    """

    def time(
        group: str, events: int, chunks: list[bytes], work: Callable[[], object], rounds: int = 0
    ) -> float | None:
        benchmark.group = group
        benchmark.extra_info.update(events=events, bytes=sum(map(len, chunks)))
        with quiet_heap() if measuring else nullcontext():
            if rounds:
                benchmark.pedantic(work, rounds=rounds)
            else:
                benchmark(work)
        return benchmark.stats.stats.min if measuring else None

    return time


@pytest.fixture(scope="session")
def no_number(pytestconfig: pytest.Config) -> list[str]:
    """The parsers that returned wrong events, with the first of them."""
    return pytestconfig.stash.setdefault(_NO_NUMBER, [])


# After the tables of pytest-benchmark, which are long.
@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    growth = config.stash.get(_GROWTH, [])
    latency = config.stash.get(_LATENCY, {})
    sections = {
        "doubling the size costs": [f"{case:<50} {ratio:5.2f} times" for case, ratio in growth],
        "latency: median ms from the server's write to the caller": list(_latency_lines(latency)),
        **{title: list(_lines(cells)) for title, cells in config.stash.get(_SPEEDS, {}).items()},
        **config.stash.get(_TABLES, {}),
        "no number": config.stash.get(_NO_NUMBER, []),
    }
    for title, lines in sections.items():
        if lines:
            terminalreporter.section(title)
            for line in lines:
                terminalreporter.write_line(line)


def _lines(cells: dict[tuple[str, str], str]) -> Iterator[str]:
    rows = list(dict.fromkeys(row for row, _ in cells))
    columns = list(dict.fromkeys(column for _, column in cells))
    yield f"{'':<32}" + "".join(f"{column:>9}" for column in columns)
    for row in rows:
        yield f"{row:<32}" + "".join(f"{cells.get((row, column), '-'):>9}" for column in columns)


def _latency_lines(latency: dict[tuple[str, str], float]) -> Iterator[str]:
    if not latency:
        return
    rows = list(dict.fromkeys(row for row, _ in latency))
    columns = list(dict.fromkeys(column for _, column in latency))
    # Each word of a column like "chunked gzip" gets a line of the head.
    for part in (0, 1):
        words = [(*column.split(), "")[part] for column in columns]
        yield " " * 17 + "".join(f"{word:>9}" for word in words)
    for row in rows:
        yield f"{row:<17}" + "".join(_cell(latency.get((row, column))) for column in columns)
    worst = max(latency, key=lambda at: -1 if math.isnan(latency[at]) else latency[at])
    yield f"worst median: {latency[worst]:.2f} ms ({', '.join(worst)}); * more than {SLOW:g} ms"


def _cell(median: float | None) -> str:
    if median is None:
        return " " * 9
    if math.isnan(median):
        return f"{'failed':>9}"
    return f"{median:8.2f}{'*' if median > SLOW else ' '}"
