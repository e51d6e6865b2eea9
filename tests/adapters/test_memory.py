"""Memory is bounded for a small body that expands a thousandfold, for each library."""

from __future__ import annotations

import subprocess
import sys
import zlib
from collections.abc import Iterable

import pytest

from tests.support import DATA, IMPORT_TESTS
from tests.support.clients import READERS
from tests.support.faults import FaultServer, framed

MIB = 2**20
MAX_EVENT_SIZE = MIB
EXPANDED = 256 * MIB
EVENT = b"data: " + b"x" * 1000 + b"\n\n"

# MiB in addition to `max_event_size`: the buffers of the parser, one batch of events, and the
# output of one decoding step of a library. httpx does not bound that step: it decodes a whole read
# of the socket, 64 KiB, a thousandfold, and async clients copy it once more.
SMALL, LARGE = 12, 160
BOUNDS = {
    "requests": SMALL,
    "urllib3": SMALL,
    "httpx": LARGE,
    "httpx asyncio": LARGE,
    "httpx trio": LARGE,
    "httpx2": SMALL,
    "httpx2 asyncio": SMALL,
    "httpx2 trio": SMALL,
    "aiohttp": SMALL,
    "sse_fast": SMALL,
    "sse_fast asyncio": SMALL,
}

# Each case has a process of its own, because a peak never decreases.
CLIENT = """
import sys
import sse_fast
from tests.support.clients import READERS

name, url, limit = sys.argv[1:]
reader = READERS[name]

def read(path):
    size = 0

    def use(stream):
        nonlocal size
        for event in stream:
            size += len(event.data)

    async def ause(stream):
        nonlocal size
        async for event in stream:
            size += len(event.data)

    way = use if reader.backend is None else ause
    reader.run(way, url + path, options={"max_event_size": int(limit)})
    return size

def peak():
    # ru_maxrss would begin at the peak of the parent process.
    with open("/proc/self/status") as status:
        (line,) = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024

assert read("/small") == 1000
before = peak()
try:
    read("/endless")
except sse_fast.EventTooLarge as error:
    print(error.size)
print(read("/many"))
print(peak() - before)
"""


def packed(parts: Iterable[bytes]) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return b"".join([*map(packer.compress, parts), packer.flush()])


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    count = EXPANDED // len(EVENT)
    bombs = {
        "/small": packed([EVENT]),
        "/endless": packed([b"data: ", *[b"x" * 1000] * count]),
        "/many": packed([EVENT] * count),
    }
    assert len(bombs["/endless"]) < EXPANDED / 900
    return bombs


def test_bounds_name_every_reader_that_decodes() -> None:
    assert set(READERS) - set(BOUNDS) <= {"urllib.request", "http.client"}


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
@pytest.mark.parametrize("name", [name for name in BOUNDS if name in READERS])
def test_memory_bounded_for_compressed_bomb(
    name: str, faults: FaultServer, bombs: dict[str, bytes]
) -> None:
    for path, body in bombs.items():
        faults.scripts[path] = framed("chunked", [body], "Content-Encoding: gzip")
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_TESTS + CLIENT, name, faults.url, str(MAX_EVENT_SIZE)],
        cwd=DATA,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    size, total, grown = map(int, done.stdout.split())
    assert MAX_EVENT_SIZE < size < 3 * MAX_EVENT_SIZE
    assert total == EXPANDED // len(EVENT) * 1000
    assert grown < MAX_EVENT_SIZE + BOUNDS[name] * MIB
    print(f"{name}: {grown / MIB:.1f} MiB")
