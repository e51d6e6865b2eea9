"""`sse-fast doctor`: which libraries `install()` can speed up here, and by how much."""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sse_fast import ACCELERATED, Event, SSEError, __version__
from sse_fast.compat import LIBRARIES, install
from sse_fast.compat._loading import load_replacement

EVENTS = 1000
ROUNDS = 5
ENOUGH = 0.1
"""Seconds of CPU time after which a library gets no more rounds, but two at least."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Describe the command and add its options."""
    parser.description = (
        "List each library that sse_fast.compat.install() supports, its installed "
        "version, and the speed of its parsing before and after install(), on this machine. "
        "Nothing is changed."
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    core = "Cython core" if ACCELERATED else "plain Python core, slower than some libraries"
    print(f"sse_fast {__version__}, {core}")
    rows = [("library", "version", "what install() would do to its parsing")]
    with without_collections():
        rows += [(name, *examine(name)) for name in LIBRARIES]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, version, verdict in rows:
        print(f"{name:<{widths[0]}}  {version:<{widths[1]}}  {verdict}")
    return 0


def examine(name: str) -> tuple[str, str]:
    """Return the version of a library, and what install() would do to its parsing."""
    version = LIBRARIES[name].find_version()
    if version is None:
        return "-", "nothing: it is not installed"
    try:
        theirs, ours = measure(name)
    except (ImportError, SSEError) as error:
        return version, f"nothing: {error}"
    except Exception as error:
        # The library is probably at fault. The others still get their lines.
        return version, f"nothing: it raised {error!r}"
    verb = "make it" if ours < theirs else "slow it down:"
    times = f"{theirs / ours:.1f} times as fast ({theirs:.2f} to {ours:.2f} us an event)"
    return version, f"{verb} {times}"


def measure(name: str) -> tuple[float, float]:
    """Return the CPU time of an event in microseconds, by the library alone and after install().

    Each is the best of several rounds.
    """
    module = load_replacement(name)
    chunks = sample()
    theirs, ours = [], []
    began = time.process_time()
    for turn in range(ROUNDS):
        if turn >= 2 and time.process_time() - began > ENOUGH:
            break
        theirs.append(cpu(module, chunks))
        with install(name):
            ours.append(cpu(module, chunks))
    return min(theirs), min(ours)


@contextmanager
def without_collections() -> Iterator[None]:
    """Suspend the cycle collector, which would traverse everything the libraries have loaded."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def cpu(module: Any, chunks: list[bytes]) -> float:
    """Return the CPU time of an event in microseconds, over one pass of a library."""
    started = time.process_time()
    events = list(module.read_events(chunks))
    spent = time.process_time() - started
    if len(events) != EVENTS:
        raise SSEError(f"Expected {EVENTS} events, got {len(events)} from {module.LIBRARY.name}")
    # The resolution of some clocks is coarser than the time of a pass.
    return max(spent, time.get_clock_info("process_time").resolution) / EVENTS * 1e6


def sample() -> list[bytes]:
    """Return a stream like a chat completion: 330 bytes an event, one event in each chunk."""
    return [
        Event(
            "message",
            json.dumps(
                {
                    "id": "chatcmpl-0123456789",
                    "object": "chat.completion.chunk",
                    "model": "any",
                    "choices": [{"index": 0, "delta": {"content": f" {number}"}}],
                    "padding": "x" * 180,
                }
            ),
        ).encode()
        for number in range(EVENTS)
    ]
