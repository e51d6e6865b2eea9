"""What doubling the input costs: twice as much, wherever the work is linear.

    pytest bench/bench_growth.py

One line of 8 MiB in pieces of 1, 64 and 1460 bytes, and one event of a million data lines; each at
that size and at twice that size, in turns.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sse_fast import _parser_c, _parser_py

CORES = {"Cython": _parser_c, "plain Python": _parser_py}
LINE = 8 * 2**20
DATA_LINES = 1_000_000


def long_line(length: int, piece: int) -> Iterator[bytes]:
    yield b"data: "
    for _ in range(length // piece):
        yield b"x" * piece
    yield b"x" * (length % piece) + b"\n\n"


def many_lines(count: int, piece: int) -> Iterator[bytes]:
    for _ in range(count // 1000):
        yield b"data: x\n" * 1000
    yield b"\n"


CASES: dict[str, tuple[Any, int, int, int]] = {
    # name: chunks, size, bytes a piece, length of the data at that size
    "8 MiB line in 1-byte pieces": (long_line, LINE, 1, LINE),
    "8 MiB line in 64-byte pieces": (long_line, LINE, 64, LINE),
    "8 MiB line in 1460-byte pieces": (long_line, LINE, 1460, LINE),
    "1,000,000 data lines": (many_lines, DATA_LINES, 0, 2 * DATA_LINES - 1),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("case", CASES)
def test_growth(benchmark: Any, growth: list[tuple[str, float]], case: str, core: str) -> None:
    chunks_of, size, piece, length = CASES[case]
    if not benchmark.enabled:
        # Only whether it works: that takes no such sizes.
        size, length = size // 1000, (length + 1) // 1000 - (length % 2)

    def run(factor: int) -> float:
        parser = CORES[core].Parser(max_event_size=2**30)
        started = time.perf_counter()
        events = [
            event for chunk in chunks_of(factor * size, piece) for event in parser.feed(chunk)
        ]
        seconds = time.perf_counter() - started
        (event,) = events
        assert len(event.data) == factor * (length + length % 2) - length % 2
        return seconds

    benchmark.group = f"growth, {core}"
    once, twice = [run(1)], [run(2)]
    for _ in range(2 if benchmark.enabled else 0):
        once.append(run(1))
        twice.append(run(2))
    benchmark.pedantic(run, (1,), rounds=1)
    ratio = min(twice) / min(once)
    benchmark.extra_info["doubling"] = ratio
    growth.append((f"{case}, {core}", ratio))
