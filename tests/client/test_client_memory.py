"""The memory of an open connection that the client itself takes."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import weakref
from typing import Any

import pytest

from sse_fast import ACCELERATED, AsyncEventSource, EventSource, ReconnectPolicy
from tests.support import PACKAGE
from tests.support.scripted_server import Stage, stream

SOURCES = 20


def test_open_source_keeps_little_beside_its_stream(stage: Stage) -> None:
    """The transport and the stream are not counted, and the server is another file."""
    is_over = threading.Event()
    stage.plays = [stream(b"id: 1\ndata: a\n\n", is_over)] * (SOURCES + 1)
    rooms = [PACKAGE / "_client" / "*", PACKAGE / "_background.py", PACKAGE / "_request.py"]
    filters = [tracemalloc.Filter(True, str(room)) for room in (*rooms, __file__)]

    async def measure() -> float:
        opened = []
        for number in range(SOURCES + 1):
            source = AsyncEventSource(stage.url, policy=ReconnectPolicy.never())
            await anext(source)
            opened.append(source)
            if number == 0:
                # Caches were filled.
                gc.collect()
                before = tracemalloc.take_snapshot().filter_traces(filters)
        gc.collect()
        after = tracemalloc.take_snapshot().filter_traces(filters)
        grown = sum(each.size_diff for each in after.compare_to(before, "filename"))
        for each in opened:
            await each.aclose()
        return grown / SOURCES

    tracemalloc.start()
    try:
        size = asyncio.run(measure())
    finally:
        tracemalloc.stop()
        is_over.set()
    assert size < 3000


class Datum:
    """The data of an event, to which there may be weak references."""


@pytest.mark.skipif(not ACCELERATED, reason="the plain core keeps a batch while it makes the next")
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_taken_events_are_freed_before_others_are_made(stage: Stage, is_async: bool) -> None:
    go_on = threading.Event()
    stage.plays = [stream(b"data: 1\n\ndata: 2\n\n", go_on, b"data: 3\n\n")]
    made: list[weakref.ref[Datum]] = []
    alive = []

    def decode(data: bytes) -> Datum:
        alive.append(sum(ref() is not None for ref in made))
        datum = Datum()
        made.append(weakref.ref(datum))
        return datum

    options: dict[str, Any] = {"decode": decode, "policy": ReconnectPolicy.never()}

    def read() -> None:
        with EventSource(stage.url, **options) as source:
            for _ in range(3):
                next(source)
                if len(made) == 2:
                    go_on.set()

    async def aread() -> None:
        async with AsyncEventSource(stage.url, **options) as source:
            for _ in range(3):
                await anext(source)
                if len(made) == 2:
                    go_on.set()

    asyncio.run(aread()) if is_async else read()
    assert alive == [0, 1, 0]
