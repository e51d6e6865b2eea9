"""Sources that count their closes, and one interface for sync and async streams over them."""

from __future__ import annotations

import asyncio
from typing import Any

from sse_fast import (
    aiter_events,
    iter_events,
)


def data(events: Any) -> list[Any]:
    return [event.data for event in events]


class Closing:
    """An iterator of chunks that counts its closes, and raises the exceptions among its items."""

    def __init__(self, *items: bytes | BaseException) -> None:
        self.items = list(items)
        self.closed = 0
        # The errors that the next closes raise.
        self.close_errors: list[Exception] = []

    def __iter__(self) -> Closing:
        return self

    def __next__(self) -> bytes:
        if not self.items:
            raise StopIteration
        item = self.items.pop(0)
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        self.closed += 1
        if self.close_errors:
            raise self.close_errors.pop(0)


class AsyncClosing:
    """`Closing` for async iteration."""

    def __init__(self, *items: bytes | BaseException) -> None:
        self.chunks = Closing(*items)

    def __aiter__(self) -> AsyncClosing:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        for chunk in self.chunks:
            return chunk
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self.chunks.close()

    @property
    def closed(self) -> int:
        return self.chunks.closed

    @property
    def close_errors(self) -> list[Exception]:
        return self.chunks.close_errors


class Blocking:
    """A sync interface over a blocking stream; `Async` has the same over an async one."""

    def open(self, *items: Any, **options: Any) -> tuple[Any, Any]:
        source = Closing(*items)
        return iter_events(source, **options), source

    def next(self, stream: Any) -> Any:
        return next(stream, None)

    def drain(self, stream: Any) -> list[Any]:
        return data(stream)

    def close(self, stream: Any) -> None:
        stream.close()

    def leave(self, stream: Any, error: BaseException) -> None:
        with stream:
            raise error


class Async:
    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()

    def open(self, *items: Any, **options: Any) -> tuple[Any, Any]:
        source = AsyncClosing(*items)
        return aiter_events(source, **options), source

    def next(self, stream: Any) -> Any:
        async def step() -> Any:
            return await anext(stream, None)

        return self.loop.run_until_complete(step())

    def drain(self, stream: Any) -> list[Any]:
        async def run() -> list[Any]:
            return [event.data async for event in stream]

        return self.loop.run_until_complete(run())

    def close(self, stream: Any) -> None:
        self.loop.run_until_complete(stream.aclose())

    def leave(self, stream: Any, error: BaseException) -> None:
        async def step() -> None:
            async with stream:
                raise error

        self.loop.run_until_complete(step())
