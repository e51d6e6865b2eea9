"""The memory of an open connection that the client itself takes."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc

from sse_fast import AsyncEventSource, ReconnectPolicy
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
