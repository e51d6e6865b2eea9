"""A snapshot of what a source has counted."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Stats"]


class Stats(NamedTuple):
    """A snapshot of what a source has done since it was made."""

    name: str
    """The name of the source."""
    connections: int
    """The number of streams that were opened."""
    failures: int
    """The number of attempts and streams that failed, as the log counts them. An end after which
    the client backs off is one of them, because it looks like a crash: see `ReconnectPolicy`."""
    events: int
    """The number of events that were delivered, again after a reconnect included."""
    bytes: int
    """The bytes of the bodies of streams, after their content coding."""
    seconds_since_event: float | None
    """The seconds since the bytes of the last delivered event arrived; None before the first."""
