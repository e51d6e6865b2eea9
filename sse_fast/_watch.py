"""`idle_timeout` and `event_timeout`: give up on a stream that brings no bytes, or no events."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from sse_fast._errors import StreamTimeout

__all__ = ["Watch"]

_NEVER = float("inf")


class _Wait(NamedTuple):
    """The seconds that are left, as of the beginning of the current wait."""

    # `time.monotonic()`, or None while nothing is waited for.
    since: float | None
    idle: float
    event: float

    def left(self, now: float) -> float:
        return min(self.idle, self.event) - (0.0 if self.since is None else now - self.since)


class Watch:
    """The time limits of a stream. Only the time that a reader waits counts.

    The reader calls `begin` and `end` around each wait. An async reader limits its wait to
    `seconds_left`. For a sync one, a thread calls `wake` when the time is over, and the reader asks
    `has_expired`. The thread is started by the first wait, and refers to this object only.

    The client may wait for the response with the watch that it then passes to the stream, so that
    `event_timeout` counts over head and body.
    """

    def __init__(
        self,
        idle_timeout: float | None,
        event_timeout: float | None,
        progress: Callable[[Any], object] | None = None,
    ) -> None:
        """Prepare the limits; the time begins with the first wait.

        Args:
            idle_timeout: seconds without a byte, or None.
            event_timeout: seconds without an event that counts, or None.
            progress: tells whether an event counts; None: every event does.
        """
        self.has_expired = False
        self._idle_timeout = idle_timeout
        self._event_timeout = event_timeout
        self._progress = progress
        self._idle = _NEVER if idle_timeout is None else idle_timeout
        self._event = _NEVER if event_timeout is None else event_timeout
        # Replaced as a whole, because the thread reads it.
        self._wait = _Wait(None, self._idle, self._event)
        self._seen: list[Any] | None = None
        self._wake: Callable[[], object] | None = None
        self._stopped: threading.Event | None = None

    def wake_by(self, wake: Callable[[], object] | None) -> None:
        """Set the function that ends a blocked read of a sync reader."""
        self._wake = wake

    def begin(self) -> None:
        """Note that the reader begins to wait."""
        if self._stopped is None and self._wake is not None:
            self._stopped = threading.Event()
            threading.Thread(
                target=self._run, args=(self._stopped, self._wake), name="sse_fast", daemon=True
            ).start()
        self._wait = self._wait._replace(since=time.monotonic())

    def end(self, has_bytes: bool) -> None:
        """Note that the reader waits no more.

        Args:
            has_bytes: whether bytes have arrived.
        """
        since, idle, event = self._wait
        if since is not None:
            waited = time.monotonic() - since
            self._wait = _Wait(None, self._idle if has_bytes else idle - waited, event - waited)

    def see(self, events: list[Any]) -> None:
        """Note the events that have arrived."""
        # If `progress` raises, the same events come again.
        if events is self._seen:
            return
        self._seen = events
        if self._progress is not None:
            progress = self._progress
            is_progress = any(progress(event) for event in events)
        else:
            is_progress = bool(events)
        if is_progress:
            self._wait = self._wait._replace(event=self._event)

    def seconds_left(self) -> float | None:
        """Return the seconds until a limit is over, at least 0; None: no limit."""
        left = self._wait.left(time.monotonic())
        return None if left == _NEVER else max(0.0, left)

    def error(self) -> StreamTimeout:
        """Return the error for the limit that is over."""
        wait = self._wait
        if wait.event <= wait.idle:
            which = "that progress accepts " if self._progress is not None else ""
            return StreamTimeout(
                f"No event {which}arrived within {self._event_timeout:g} seconds: raise "
                "event_timeout if events may be further apart"
            )
        return StreamTimeout(
            f"No byte arrived within {self._idle_timeout:g} seconds: raise idle_timeout if the "
            "stream may be silent for longer"
        )

    def stop(self) -> None:
        """End the thread."""
        if self._stopped is not None:
            self._stopped.set()

    def _run(self, stopped: threading.Event, wake: Callable[[], object]) -> None:
        """Wake the reader when its time is over.

        A limit can only move into the future while this sleeps, so it sleeps at most 20 ms too
        long.
        """
        while True:
            wait = self._wait
            left = wait.left(time.monotonic())
            if left <= 0 and wait.since is not None:
                if self._wait is not wait:
                    continue
                self.has_expired = True
                # If the connection is gone already, nobody waits for it.
                with suppress(Exception):
                    wake()
                return
            # While the consumer is busy, a limit that is nearly over must not keep the thread busy.
            shortest = 0.02 if wait.since is None else 0.001
            if stopped.wait(max(left, shortest) if left != _NEVER else None):
                return
