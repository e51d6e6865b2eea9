"""Many small cases in one test, where a test for each would take longer than the case."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def check_each(cases: Iterable[tuple[str, T]], check: Callable[[T], None]) -> None:
    """Check every case, and fail with the name of each that failed, and why."""
    failures = []
    for name, case in cases:
        try:
            check(case)
        except Exception as error:
            why = "".join(traceback.format_exception(error, limit=-1))
            failures.append(f"== {name}\n{why}")
    assert not failures, f"{len(failures)} cases failed:\n" + "\n".join(failures)
