"""The check of durations: one rule and one text for every argument in seconds."""

from __future__ import annotations

from typing import Any

__all__ = ["MAX_SECONDS", "check_seconds", "check_timeouts"]

MAX_SECONDS = 1e9
"""Upper bound of every duration: some thirty years, which any clock can represent."""


def check_seconds(value: Any, what: str, *, or_zero: bool = True) -> float:
    """Return a number of seconds.

    Args:
        value: the number.
        what: the name of the argument, for the error.
        or_zero: whether 0 is allowed.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, no finite number, or too large for a clock.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(
            f"Expected {what} to be a number of seconds or None, got {type(value).__name__}"
        )
    if not 0 <= value < MAX_SECONDS or not (value or or_zero):
        least = "from 0" if or_zero else "above 0"
        raise ValueError(
            f"Expected {what} to be a number of seconds {least} and below 1e9, got {value!r}"
        )
    return value


def check_timeouts(**timeouts: float | None) -> None:
    """Check timeouts, given by their names: above 0, or None for no limit.

    Raises:
        TypeError, ValueError: as `check_seconds`.
    """
    for name, value in timeouts.items():
        if value is not None:
            check_seconds(value, name, or_zero=False)
