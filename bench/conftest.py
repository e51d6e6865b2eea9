"""Prints what the benchmarks found beside pytest-benchmark's own table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import loopback as loopback_module
import pytest

_GROWTH = pytest.StashKey[list[tuple[str, float]]]()
_LATENCY = pytest.StashKey[dict[tuple[str, str], float]]()
_TRANSPORT = pytest.StashKey[dict[str, list[str]]]()

SLOW = 1.0  # ms


@pytest.fixture(scope="session")
def measuring(pytestconfig: pytest.Config) -> bool:
    """Whether numbers are wanted; else only whether everything works."""
    return not pytestconfig.getoption("benchmark_disable")


@pytest.fixture(scope="session")
def loopback(tmp_path_factory: pytest.TempPathFactory) -> Iterator[loopback_module.Loopback]:
    with loopback_module.start(tmp_path_factory.mktemp("loopback")) as running:
        yield running


@pytest.fixture
def growth(request: pytest.FixtureRequest) -> list[tuple[str, float]]:
    """What doubling cost: (case, times)."""
    return request.config.stash.setdefault(_GROWTH, [])


@pytest.fixture
def latency(request: pytest.FixtureRequest) -> dict[tuple[str, str], float]:
    """Median latencies: (row, column) -> ms, NaN where the cell failed."""
    return request.config.stash.setdefault(_LATENCY, {})


@pytest.fixture
def transport(request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """Tables of the transport benchmark: title -> lines."""
    return request.config.stash.setdefault(_TRANSPORT, {})


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    growth = config.stash.get(_GROWTH, [])
    if growth:
        terminalreporter.section("doubling the size costs")
        for case, ratio in growth:
            terminalreporter.write_line(f"{case:<50} {ratio:5.2f} times")
    latency = config.stash.get(_LATENCY, {})
    if latency:
        terminalreporter.section("latency: median ms from the server's write to the caller")
        for line in _latency_lines(latency):
            terminalreporter.write_line(line)
    for title, lines in config.stash.get(_TRANSPORT, {}).items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def _latency_lines(latency: dict[tuple[str, str], float]) -> Iterator[str]:
    rows = list(dict.fromkeys(row for row, _ in latency))
    columns = list(dict.fromkeys(column for _, column in latency))
    # Of a column like "chunked gzip", each word has a line of the head.
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
