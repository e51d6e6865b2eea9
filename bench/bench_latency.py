"""The latency of an event, from the server's write to its delivery.

    pytest bench/bench_latency.py

A server in a process of its own sends one event every 20 ms over loopback. The data of an event is
the time at which it was made, before compression and framing. There is a cell for each library,
framing and content coding, flushed after every event; the first events of each are dropped. Slow
medians are marked; wrong or missing events fail. In pytest-benchmark's tables a round is an event.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

from bench import replayed
from bench.loopback import Loopback
from tests.support.clients import HTTP2_READERS, READERS, Reader

EVENTS = 25
DROPPED = 5
INTERVAL = 0.02  # seconds
CODINGS = ("none", "gzip", "br", "zstd")
# Reader -> the content codings that it decodes, if not all of them.
DECODED = {
    "http.client": ("none",),
    "urllib.request": ("none",),
    "sse_fast": ("none", "gzip"),
    "sse_fast asyncio": ("none", "gzip"),
}
CELLS = [
    *(
        (name, framing, coding)
        for name in READERS
        for framing in ("chunked", "close-delimited")
        for coding in DECODED.get(name, CODINGS)
    ),
    *((name, "HTTP/2", "none") for name in HTTP2_READERS),
]


def read(reader: Reader, url: str, **options: Any) -> list[tuple[int, str]]:
    """Return the data of each event with the clock at its delivery."""

    def use(stream: Any) -> list[tuple[int, str]]:
        return [(time.perf_counter_ns(), event.data) for event in stream]

    async def ause(stream: Any) -> list[tuple[int, str]]:
        return [(time.perf_counter_ns(), event.data) async for event in stream]

    return reader.run(use if reader.backend is None else ause, url, **options)


@replayed.MARK
@pytest.mark.parametrize(("name", "framing", "coding"), CELLS)
def test_latency(
    benchmark: Any,
    loopback: Loopback,
    measuring: bool,
    latency: dict[tuple[str, str], float],
    name: str,
    framing: str,
    coding: str,
) -> None:
    reader = HTTP2_READERS[name] if framing == "HTTP/2" else READERS[name]
    cell = name.removesuffix(" HTTP/2"), f"{framing.removesuffix('-delimited')} {coding}"
    count, interval = (EVENTS, INTERVAL) if measuring else (3, 0.001)
    url = loopback.url(
        "paced",
        http2=reader.http2,
        count=count,
        interval=interval,
        coding=coding,
        framing=framing,
    )
    if measuring:
        latency[cell] = float("nan")

    delivered = read(reader, url, ca=loopback.ca)
    assert [data.split()[0] for _, data in delivered] == [str(n) for n in range(count)]
    waits = [at - int(data.split()[1]) for at, data in delivered]
    # The two processes share a clock.
    assert min(waits) > 0
    kept = waits[DROPPED:]
    replayed.record(benchmark, f"latency: {framing}, {coding}", [wait / 1e9 for wait in kept])
    if measuring:
        latency[cell] = statistics.median(kept) / 1e6
