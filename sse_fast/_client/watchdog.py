"""`event_timeout` for sync connections whose reads cannot be ended, for example of HTTP/2."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sse_fast._watch import Watch

__all__ = ["LateChunks"]


class LateChunks(Iterator[bytes]):
    """Chunks that raise `StreamTimeout` at the first chunk after the time is over.

    The read timeout of the library is at most `event_timeout`, so a wait lasts at most twice as
    long.
    """

    def __init__(self, chunks: Iterator[bytes], watch: Watch) -> None:
        self._chunks = chunks
        self._watch = watch

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        if self._watch.has_expired:
            raise self._watch.error()
        return chunk
