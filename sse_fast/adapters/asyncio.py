"""asyncio.StreamReader, read by `read`, which returns what has arrived.

Its `async for` would read lines that end with LF, and wait for the end of each.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sse_fast._source import READ_SIZE, Source

if TYPE_CHECKING:
    import asyncio


def open_source(reader: asyncio.StreamReader) -> Source:
    """Return the source of a stream reader, which is borrowed."""
    return Source(_Chunks(reader), resumable=True)


class _Chunks(AsyncIterator[bytes]):
    """The chunks; no async generator, which would be over after a cancelled read."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._reader.read(READ_SIZE)
        except Exception:
            # read() raises the stored exception before it returns buffered bytes, and no public
            # API returns them.
            buffer: bytearray = getattr(self._reader, "_buffer", bytearray())
            if not buffer:
                raise
            chunk = bytes(buffer)
            buffer.clear()
        if not chunk:
            raise StopAsyncIteration
        return chunk
