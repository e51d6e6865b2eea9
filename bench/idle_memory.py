"""Measures the memory of an idle parser, in bytes.

    python bench/idle_memory.py [parser_c | parser_py [how many]]

Many parsers each read a stream and are kept; the chunks and events are not. malloc makes every
allocation of the process, Python's own included, and the growth of the memory in use (glibc's
`mallinfo2`) is divided by the number of parsers: their objects and buffers, the overhead of malloc,
and all objects that they keep alive. The figure is exact, and independent of the machine's load.
The connection does not count.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from sse_fast._bench import streams

LIMIT = 1024  # bytes
PARSERS = 500
_COMMENT = b": keep-alive\n\n"
# (stream, size, chunking): many small events, and events that need a large buffer.
_READ = (
    ("a", 30, "one event"),
    ("a", 30, "4 KiB"),
    ("au", 30, "16 bytes"),
    ("b", 30, "one event"),
    ("c", 10, "one event"),
    ("c", 10, "4 KiB"),
    ("c", 10, "16 bytes"),
    ("d", 100, "64 KiB"),
    ("e1", 2**18, "64 KiB"),
    ("e1", 2**18, "4 KiB"),
    ("e2", 2**18, "4 KiB"),
    ("e2", 2**14, "16 bytes"),
)


def cases() -> dict[str, list[bytes]]:
    """Return name -> chunks; each stream ends between two events."""
    found = {}
    for name, size, chunking in _READ:
        chunks = streams.make(name, size).chunks(chunking)
        # The last chunk is small, because a large one would count if a parser kept it alive.
        found[f"{name}, {chunking}"] = chunks + [_COMMENT] * (chunking == "one event")
    return found


def measure(
    core: str = "parser_c", more: dict[str, list[bytes]] | None = None, count: int = PARSERS
) -> dict[str, int]:
    """Measure the bytes that a parser keeps, for each stream of `cases()` and of `more`.

    Raises:
        OSError: this Python or C library cannot measure it.
    """
    environment = {
        **os.environ,
        "PYTHONMALLOC": "malloc",
        # Memory in the caches of malloc would count as in use.
        "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
    }
    extra = {name: [chunk.hex() for chunk in chunks] for name, chunks in (more or {}).items()}
    done = subprocess.run(
        [sys.executable, __file__, core, str(count)],
        input=json.dumps(extra),
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise OSError(f"The measurement failed: {done.stderr.strip()[-400:]}")
    kept: dict[str, int] = json.loads(done.stdout)
    return kept


class _Mallinfo2(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def in_use() -> int:
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def kept(parser: Any, chunks: Iterable[bytes], count: int) -> int:
    parsers: list[Any] = [None] * (1 + count)
    for number in range(1 + count):
        if number == 1:
            # The first parser made the objects that all share.
            gc.collect()
            before = in_use()
        parsers[number] = parser()
        for chunk in chunks:
            # Only the parser could keep this copy alive.
            parsers[number].feed(bytes(bytearray(chunk)))
    gc.collect()
    return round((in_use() - before) / count)


def main(core: str = "parser_c", count: int = PARSERS) -> None:
    # Other allocators take small objects from large blocks, which would hide them.
    if os.environ.get("PYTHONMALLOC") != "malloc":
        print(json.dumps(measure(core, count=count), indent=2))
        return
    extra = json.load(sys.stdin)
    more = {name: [bytes.fromhex(chunk) for chunk in chunks] for name, chunks in extra.items()}
    parser = import_module(f"sse_fast._core.{core}").Parser
    read = {**cases(), **more}
    print(json.dumps({name: kept(parser, read[name], count) for name in read}))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:]))
