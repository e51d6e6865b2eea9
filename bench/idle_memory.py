"""What a parser keeps while its connection is idle: bytes for each.

    python bench/idle_memory.py [parser_c | parser_py [how many]]

Many parsers each read a stream, in chunks of their own, and are kept; the chunks and events are
not. The process has every allocation, Python's own too, made by malloc, and a parser's share is
what the C library then has more of in use (glibc's `mallinfo2`): its objects and its buffers, what
malloc adds to each, and what they keep alive. So it is exact, and does not depend on how busy the
machine is. Only the parser counts, not the connection around it.
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
# A stream, its size, its chunks; small events by the dozen, and such as need a large buffer.
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
    """Name -> chunks, behind whose last one there is nothing unfinished."""
    found = {}
    for name, size, chunking in _READ:
        chunks = streams.make(name, size).chunks(chunking)
        # Else the last chunk is a large one: it would show if a parser kept it alive.
        found[f"{name}, {chunking}"] = chunks + [_COMMENT] * (chunking == "one event")
    return found


def measure(
    core: str = "parser_c", more: dict[str, list[bytes]] | None = None, count: int = PARSERS
) -> dict[str, int]:
    """Bytes that a parser keeps, by what it has read: one of `cases()`, or of `more`.

    Raises:
        OSError: this Python or C library cannot tell.
    """
    environment = {
        **os.environ,
        "PYTHONMALLOC": "malloc",
        # What is in the caches of malloc would count as in use.
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
        raise OSError(f"Expected to measure idle memory, got {done.stderr.strip()[-400:]}")
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
            # What is made once for all was made for the first one.
            gc.collect()
            before = in_use()
        parsers[number] = parser()
        for chunk in chunks:
            # Nobody else keeps it alive.
            parsers[number].feed(bytes(bytearray(chunk)))
    gc.collect()
    return round((in_use() - before) / count)


def main(core: str = "parser_c", count: int = PARSERS) -> None:
    # Else small objects come out of large pieces, which may have room left.
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
