"""`feed` beside httpx-sse: a stream like OpenAI's, one event a chunk and 64 KiB a chunk.

    pytest bench/bench_feed.py

The chunks are hot: a ring of them that fits the cache goes round and round. A parser that does not
give the expected events gets no number.
"""

from __future__ import annotations

from typing import Any

import pytest
from parsers import PARSERS
from streams import openai_chunks

EVENTS = 800  # some 260 KB
CHUNKINGS = {"one event a chunk": None, "64 KiB a chunk": 65536}


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_feed(benchmark: Any, chunking: str, parser: str) -> None:
    stream = openai_chunks(EVENTS)
    chunks = stream.chunks(CHUNKINGS[chunking])
    parse = PARSERS[parser]
    if parse(chunks, True) != stream.events:
        pytest.fail(f"{parser} gives other events than were sent: no number")

    benchmark.group = f"stream {stream.name}, {chunking}"
    benchmark.extra_info["events"] = EVENTS
    benchmark.extra_info["bytes"] = sum(map(len, chunks))
    benchmark(parse, chunks, False)
