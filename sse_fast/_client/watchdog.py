"""`event_timeout`: give up on a connection that brings bytes, but no event."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

from sse_fast._errors import StreamTimeout

__all__ = ["WatchedChunks"]


class WatchedChunks(Iterator[bytes], AsyncIterator[bytes]):
    """Chunks that raise `StreamTimeout` when the consumer has waited too long for an event.

    Only the time that the consumer waits counts, not the time in which it handles an event.

    Attributes:
        waiting_since: when the consumer began to wait for its next event (`time.monotonic()`).
    """

    def __init__(self, chunks: Any, seconds: float) -> None:
        self._chunks = chunks
        self._seconds = seconds
        self.waiting_since = time.monotonic()

    def __next__(self) -> bytes:
        if self.seconds_left() <= 0:
            raise self._timeout()
        try:
            return cast("bytes", next(self._chunks))
        except StopIteration:
            # A stream that ends after the deadline has still ended.
            raise
        except Exception as error:
            # The read timeout is at most `event_timeout`, so a read that fails after the deadline
            # counts as this timeout.
            if self.seconds_left() > 0:
                raise
            raise self._timeout() from error

    async def __anext__(self) -> bytes:
        import anyio

        with anyio.move_on_after(self.seconds_left()):
            return cast("bytes", await self._chunks.__anext__())
        raise self._timeout()

    def seconds_left(self) -> float:
        """Return the seconds until the wait for an event times out; negative if it has."""
        return self.waiting_since + self._seconds - time.monotonic()

    def _timeout(self) -> StreamTimeout:
        return StreamTimeout(
            f"No event arrived within {self._seconds:g} seconds: raise event_timeout if events may "
            "be further apart"
        )
