"""asyncio.StreamReader: its `async for` would read by lines that end with LF."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from sse_fast._source import READ_SIZE, Source

if TYPE_CHECKING:
    import asyncio


def open_source(reader: asyncio.StreamReader) -> Source:
    return Source(_Chunks(reader))


class _Chunks(AsyncIterator[bytes]):
    """Not an async generator: that would be over after a cancelled read."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def __anext__(self) -> bytes:
        try:
            chunk = await self._reader.read(READ_SIZE)
        except Exception:
            # It raises before it gives out what had arrived until then, and nothing public does.
            buffer: bytearray = getattr(self._reader, "_buffer", bytearray())
            if not buffer:
                raise
            chunk = bytes(buffer)
            buffer.clear()
        if not chunk:
            raise StopAsyncIteration
        return chunk
