"""Times that were measured elsewhere, for the tables and files of pytest-benchmark.

Its own clock would count what does not belong to them, or one benchmark where many take turns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

_now = 0.0

MARK = pytest.mark.benchmark(timer=lambda: _now)
"""For the tests that call `record`."""


def record(benchmark: Any, group: str, seconds: Sequence[float], **extra: Any) -> None:
    """Let each of these times be a round of the benchmark; if it is disabled, there may be none."""
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
