"""Prints what the benchmarks found beside pytest-benchmark's own table."""

from __future__ import annotations

from typing import Any

import pytest

_GROWTH = pytest.StashKey[list[tuple[str, float]]]()


@pytest.fixture
def growth(request: pytest.FixtureRequest) -> list[tuple[str, float]]:
    """What doubling cost: (case, times)."""
    return request.config.stash.setdefault(_GROWTH, [])


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    rows = config.stash.get(_GROWTH, [])
    if rows:
        terminalreporter.section("doubling the size costs")
        for case, ratio in rows:
            terminalreporter.write_line(f"{case:<50} {ratio:5.2f} times")
