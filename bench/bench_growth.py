"""The cost of doubling the input, which is a factor of two if the work is linear.

    pytest bench/bench_growth.py

One line of 8 MiB in pieces of 1, 64 and 1460 bytes, and one event of a million data lines; each at
that size and at twice that size, in turns. A ratio of more than 2.3 fails.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from sse_fast._core import parser_c, parser_py

CORES = {"Cython": parser_c, "plain Python": parser_py}
LINE = 8 * 2**20
DATA_LINES = 1_000_000
LIMIT = 2.3
ROUNDS = 8


def long_line(length: int, piece: int) -> Iterator[bytes]:
    yield b"data: "
    for _ in range(length // piece):
        yield b"x" * piece
    yield b"x" * (length % piece) + b"\n\n"


def many_lines(count: int, piece: int) -> Iterator[bytes]:
    for _ in range(count // 1000):
        yield b"data: x\n" * 1000
    yield b"\n"


CASES: dict[str, tuple[Any, int, int]] = {
    # name: chunks, size, bytes a piece (0: whole lines)
    "8 MiB line in 1-byte pieces": (long_line, LINE, 1),
    "8 MiB line in 64-byte pieces": (long_line, LINE, 64),
    "8 MiB line in 1460-byte pieces": (long_line, LINE, 1460),
    "1,000,000 data lines": (many_lines, DATA_LINES, 0),
}


@pytest.mark.parametrize("core", CORES)
@pytest.mark.parametrize("case", CASES)
def test_growth(benchmark: Any, growth: list[tuple[str, float]], case: str, core: str) -> None:
    chunks_of, size, piece = CASES[case]

    def run(size: int) -> float:
        parser = CORES[core].Parser(max_event_size=2**30)
        started = time.perf_counter()
        events = [event for chunk in chunks_of(size, piece) for event in parser.feed(chunk)]
        seconds = time.perf_counter() - started
        (event,) = events
        assert len(event.data) == (size if piece else 2 * size - 1)
        return seconds

    if not benchmark.enabled:
        # Checks the result only, for which a small size will do.
        benchmark(run, size // 1000)
        return

    benchmark.group = f"growth, {core}"
    once, twice, ratio = [], [], LIMIT + 1
    # Three rounds, and more if a busy machine disturbed them.
    for number in range(ROUNDS):
        if number >= 3 and ratio <= LIMIT:
            break
        once.append(run(size))
        twice.append(run(2 * size))
        ratio = min(twice) / min(once)
    benchmark.pedantic(run, (size,), rounds=1)
    benchmark.extra_info["doubling"] = ratio
    growth.append((f"{case}, {core}", ratio))
    if ratio > LIMIT:
        pytest.fail(f"{case}: twice the size costs {ratio:.2f} times, more than {LIMIT}")
