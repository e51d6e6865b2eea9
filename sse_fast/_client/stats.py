"""The numbers of a source: what it has counted, and a snapshot of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from time import monotonic
from typing import Any, NamedTuple

__all__ = ["AsyncCountedChunks", "CountedChunks", "Meter", "Stats"]


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


class Meter:
    """The counters of a source.

    The reader of the source changes them, and any thread may take a snapshot. The time of an event
    is that of its chunk, so that delivering an event costs one addition.
    """

    __slots__ = ("_chunk_at", "_event_at", "_events_before", "bytes", "connections", "events")

    def __init__(self) -> None:
        self.connections = 0
        self.events = 0
        self.bytes = 0
        # The number of events when the latest chunk arrived, and the time when it did.
        self._events_before = 0
        self._chunk_at = 0.0
        # The time of the chunk of the last event before that chunk.
        self._event_at = 0.0

    def count(self, chunk: bytes) -> None:
        """Count a chunk that has arrived."""
        self.bytes += len(chunk)
        events = self.events
        if events != self._events_before:
            self._event_at = self._chunk_at
            self._events_before = events
        self._chunk_at = monotonic()

    def snapshot(self, name: str, failures: int) -> Stats:
        """Return the numbers as they are now."""
        events = self.events
        event_at = self._event_at if events == self._events_before else self._chunk_at
        seconds = max(0.0, monotonic() - event_at) if events else None
        return Stats(name, self.connections, failures, events, self.bytes, seconds)


class CountedChunks(Iterator[bytes]):
    """The chunks of a sync source, counted."""

    def __init__(self, chunks: Iterator[bytes], meter: Meter) -> None:
        self._next = chunks.__next__
        self._count = meter.count

    def __next__(self) -> bytes:
        chunk = self._next()
        self._count(chunk)
        return chunk


class AsyncCountedChunks(AsyncIterator[bytes]):
    """The chunks of an async source, counted."""

    def __init__(self, chunks: AsyncIterator[bytes], meter: Meter) -> None:
        self._next: Any = chunks.__anext__
        self._count = meter.count

    async def __anext__(self) -> bytes:
        chunk: bytes = await self._next()
        self._count(chunk)
        return chunk
