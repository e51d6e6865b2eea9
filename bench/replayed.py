"""Reports times that a benchmark measured itself through pytest-benchmark's tables and files.

pytest-benchmark's own clock would include other work, and cannot time benchmarks that take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

_now = 0.0

MARK = pytest.mark.benchmark(timer=lambda: _now)
"""The mark of tests that call `record`."""


def record(benchmark: Any, group: str, seconds: Sequence[float], **extra: Any) -> None:
    """Report each time, in seconds, as a round of the benchmark; there may be none if disabled."""
    benchmark.group = group
    benchmark.extra_info.update(extra)
    rounds = iter(seconds)

    def elapse() -> None:
        global _now
        _now = next(rounds, 0.0)

    def begin() -> None:
        global _now
        _now = 0.0

    benchmark.pedantic(elapse, setup=begin, rounds=max(1, len(seconds)))
