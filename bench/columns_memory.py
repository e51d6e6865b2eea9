"""The anonymous memory that `iter_columns` needs for a capture of gigabytes.

    python bench/columns_memory.py [MiB]

A process for each case reads a file (4 GiB by default) of stream a repeatedly, or a source that
does not lie in memory. pyarrow gets each batch, which is dropped with the next one. The output is
the anonymous memory before, and the peak: `RssAnon` of Linux, checked after every batch and every
few milliseconds by a thread. Pages of the file do not count, because the system takes them back.
"""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

LIMIT = 256  # MiB
SIZE = 4096  # MiB
_STATUS = Path("/proc/self/status")
_EVERY = 0.002  # seconds
_EVENTS = 25_000  # some 8 MiB


class Case(NamedTuple):
    source: str
    data_type: str
    threads: int
    part: int = 1
    """Divisor of the size: decompressing and reading chunks take longer."""

    def __str__(self) -> str:
        threads = "one thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.source}, {self.data_type}, {threads}"


CASES = [
    *(
        Case("file", data_type, threads)
        for data_type in ("large_string", "string_view")
        for threads in (1, 2)
    ),
    Case("gzip file", "large_string", 1, 4),
    Case("chunks", "large_string", 1, 4),
]


class Memory(NamedTuple):
    """Anonymous memory in MiB."""

    before: float
    peak: float


def measure(size: int = SIZE, cases: list[Case] = CASES) -> dict[Case, Memory]:
    """Measure each case.

    Args:
        size: MiB of the capture, at least 8.
        cases: what to measure.

    Raises:
        OSError: the system does not report anonymous memory.
    """
    if not _STATUS.exists() or not anonymous():
        raise OSError("This system does not report anonymous memory: use Linux")
    from sse_fast._bench import streams

    piece = b"".join(streams.make("a", _EVENTS).blocks)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "capture"
        for number, case in enumerate(cases):
            times = max(1, size * 2**20 // case.part // len(piece))
            if number == 0 or case.source != cases[number - 1].source:
                # Repeated gzip members are one gzip file.
                written = gzip.compress(piece, 1) if case.source == "gzip file" else piece
                with path.open("wb") as file:
                    for _ in range(times):
                        file.write(written)
            found[case] = _measure(case, path, times * _EVENTS)
    return found


def _measure(case: Case, path: Path, events: int) -> Memory:
    done = subprocess.run(
        [sys.executable, __file__, "of", *map(str, case), str(path), str(events)],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OSError(f"Cannot measure memory: {done.stderr.strip()[-400:]}")
    return Memory(*json.loads(done.stdout))


def anonymous() -> float:
    """Return the MiB of this process; 0 if the system does not report it."""
    found = re.search(r"^RssAnon:\s*(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def chunks_of(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from iter(lambda: file.read(2**16), b"")


def go_over(source: str, data_type: Any, threads: str, path: Path, events: int) -> Memory:
    import pyarrow

    import sse_fast

    before = peak = anonymous()
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(_EVERY):
            peak = max(peak, anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    count = 0
    try:
        for batch in sse_fast.iter_columns(
            chunks_of(path) if source == "chunks" else path,
            threads=int(threads),
            data_type=data_type,
        ):
            count += pyarrow.record_batch(batch).num_rows
            peak = max(peak, anonymous())
    finally:
        is_over.set()
        watcher.join()
    if count != events:
        raise ValueError(f"Expected {events} events, got {count}")
    return Memory(before, peak)


def main(size: int = SIZE) -> None:
    for case, memory in measure(size).items():
        print(f"{case!s:<40}{memory.before:8.0f} MiB before, {memory.peak:8.0f} at most")


if __name__ == "__main__":
    if sys.argv[1:2] == ["of"]:
        source, data_type, threads, _, path, events = sys.argv[2:]
        print(json.dumps(go_over(source, data_type, threads, Path(path), int(events))))
    else:
        main(*map(int, sys.argv[1:2]))
