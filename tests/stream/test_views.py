"""Chunks that are memoryviews: their memory is read only while it is theirs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from sse_fast import aiter_events, iter_events

FEW = b"data: first\n\n"


async def alist(stream: Any) -> list[Any]:
    return [event.data async for event in stream]


async def as_async(chunks: Iterator[Any]) -> AsyncIterator[Any]:
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


def read_sync(chunks: Iterator[Any], **options: Any) -> list[Any]:
    return [event.data for event in iter_events(chunks, **options)]


def read_async(chunks: Iterator[Any], **options: Any) -> list[Any]:
    return asyncio.run(alist(aiter_events(as_async(chunks), **options)))


both = pytest.mark.parametrize("read", [read_sync, read_async])


@both
def test_stream_released_view_is_refused(read: Callable[..., list[Any]]) -> None:
    def chunks() -> Iterator[Any]:
        yield FEW
        view = memoryview(bytearray(FEW))
        view.release()
        yield view

    with pytest.raises(ValueError, match="released"):
        read(chunks())


@both
def test_stream_view_changed_by_decode_is_whole(read: Callable[..., list[Any]]) -> None:
    buffer = bytearray(b"data: 1\n\ndata: 2\n\n")
    view = memoryview(buffer)

    def decode(data: bytes) -> bytes:
        view.release()
        buffer[:] = bytes(len(buffer))
        return data

    def chunks() -> Iterator[Any]:
        # Only reads after the first take the fast path.
        yield b": hello\n\n"
        yield view

    assert read(chunks(), decode=decode) == [b"1", b"2"]
