"""The parser beside its rivals: each stream in chunks of each kind.

    pytest bench/bench_feed.py
    pytest bench/bench_feed.py -k 'one and event and not cold' --node-modules FOLDER

Hot: the chunks fit the cache and are read repeatedly. Cold: each chunk is read once per pass, and
together they are four times as large as the last-level cache (at most 1 GiB). With small chunks (16
bytes, 1 byte) a pass has an eighth of the bytes, since most rivals are slow there.

A parser that returns wrong events, or takes too long for a pass (quadratic work), gets no number,
and the summary says why. For a rival this is not a failure of the run; for sse_fast it is. The
JavaScript parsers are timed by Node and do not appear in pytest-benchmark's own tables. "objects
only", "lines only" and "empty calls" are not parsers, but work that every parser has to do. The run
takes some ten minutes.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, lru_cache, partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest

from sse_fast._bench import javascript, streams
from sse_fast._bench.measure import CALLS, FLOOR, LINES, difference, floors
from sse_fast._bench.rivals import RIVALS, Events
from sse_fast._bench.streams import CHUNKINGS, STREAMS, Stream

Speeds = dict[str, dict[tuple[str, str], str]]

OURS = [name for name, rival in RIVALS.items() if not rival.requirement]
COLD = [*OURS, "launchdarkly-eventsource", "httpx-sse"]
# Events (e1 and e2: bytes) in small chunks, and where only the results are checked.
FEW = {"a": 100, "au": 100, "b": 250, "c": 24, "d": 2500, "e1": 2**17, "e2": 2**17}
FEWEST = {"a": 20, "au": 20, "b": 20, "c": 5, "d": 50, "e1": 3000, "e2": 3000}
PATIENCE = 5.0  # seconds


class ImpatienceError(Exception):
    """A parser took too long for one pass, so it gets no number."""


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Raise `ImpatienceError` in the block after a time, on systems with signals."""
    if not hasattr(signal, "setitimer"):
        yield
        return

    def ring(*_: object) -> None:
        raise ImpatienceError(f"a pass takes more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def check(
    name: str, read: Callable[[], Events], expected: Events, where: str, no_number: list[str]
) -> None:
    """End the test if the events are wrong: as a failure for sse_fast, as an xfail for a rival."""
    try:
        with patience(PATIENCE):
            given = read()
        wrong = "" if given == expected else difference(expected, given)
    except Exception as error:
        if name in OURS:
            raise
        wrong = str(error) if isinstance(error, ImpatienceError) else f"raises {error!r}"
    if wrong:
        no_number.append(f"{name}, {where}: {wrong}")
        end = pytest.fail if name in OURS else pytest.xfail
        end(f"no number: {name}, {where}: {wrong}")


def load(name: str) -> Any:
    try:
        return RIVALS[name].load()
    except ImportError as error:
        pytest.skip(str(error))


@cache
def sample(name: str, chunking: str, measuring: bool) -> Stream:
    if not measuring:
        return streams.make(name, FEWEST[name])
    return streams.make(name, FEW[name] if chunking in ("16 bytes", "1 byte") else None)


# -- Hot -------------------------------------------------------------------------------------------


@pytest.mark.benchmark(max_time=0.2, min_rounds=3)
@pytest.mark.parametrize("parser", [*RIVALS, FLOOR, LINES, CALLS])
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_parser(
    timed: Callable[..., float | None],
    measuring: bool,
    speeds: Speeds,
    no_number: list[str],
    stream: str,
    chunking: str,
    parser: str,
) -> None:
    made = sample(stream, chunking, measuring)
    chunks = made.chunks(chunking)
    if parser in RIVALS:
        parse = load(parser)
        where = f"stream {stream}, {chunking} per chunk"
        check(parser, lambda: parse(chunks, True), made.events, where, no_number)
        work = partial(parse, chunks, False)
    else:
        pytest.importorskip("sse_fast._core.parser_c", exc_type=ImportError)
        work = floors(chunks)[parser]

    group = f"parser: stream {stream}, {chunking} per chunk"
    seconds = timed(group, len(made.events), chunks, work)
    if seconds is not None:
        note(speeds, chunking, parser, stream, sum(map(len, chunks)) / seconds)


def note(speeds: Speeds, chunking: str, parser: str, stream: str, speed: float) -> None:
    """Add a speed in bytes a second to the table of the summary, as MB/s."""
    megabytes = speed / 1e6
    digits = ".0e" if megabytes >= 1e5 else ",.0f" if megabytes >= 10 else ".1f"
    cell = f"{megabytes:{digits}}"
    speeds.setdefault(f"parser: MB/s, {chunking} per chunk", {})[parser, stream] = cell


@pytest.fixture(scope="module")
def missing_javascript(node_modules: Path | None) -> dict[str, str]:
    """Name of a JavaScript parser -> why it is not available."""
    missing = {}
    for name in javascript.JAVASCRIPT:
        try:
            javascript.find(name, node_modules)
        except ImportError as error:
            missing[name] = str(error)
    return missing


@pytest.mark.parametrize("parser", javascript.JAVASCRIPT)
@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("chunking", CHUNKINGS)
def test_parser_in_javascript(
    measuring: bool,
    speeds: Speeds,
    no_number: list[str],
    node_modules: Path | None,
    missing_javascript: dict[str, str],
    stream: str,
    chunking: str,
    parser: str,
) -> None:
    if parser in missing_javascript:
        pytest.skip(missing_javascript[parser])
    made = sample(stream, chunking, measuring)
    chunks = made.chunks(chunking)
    read = partial(javascript.read, parser, chunks, node_modules)
    check(parser, read, made.events, f"stream {stream}, {chunking} per chunk", no_number)
    if measuring:
        time = javascript.time(parser, chunks, len(made.events), 0.2, node_modules)
        note(speeds, chunking, parser, stream, sum(map(len, chunks)) / time * 1e9)


# -- Cold ------------------------------------------------------------------------------------------


def last_cache() -> int:
    """Return the bytes of the last-level cache, as far as Linux tells; at least 32 MiB."""
    paths = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    return max([2**25, *(int(path.read_text().strip()[:-1]) * 1024 for path in paths)])


@lru_cache(1)
def cold_chunks(stream: str, chunking: str, size: int) -> list[bytes]:
    """Return chunks of `size` bytes in all, which share no memory."""
    blocks = streams.make(stream).blocks
    times = max(1, size // sum(map(len, blocks)))
    if chunking == "one event":
        return [bytes(memoryview(block)) for block in chain.from_iterable(repeat(blocks, times))]
    return Stream("", "", blocks * times, []).chunks(chunking)


@pytest.mark.parametrize("parser", COLD)
@pytest.mark.parametrize("chunking", ["one event", "64 KiB"])
@pytest.mark.parametrize("stream", ["a", "b"])
def test_parser_cold(
    timed: Callable[..., float | None],
    measuring: bool,
    speeds: Speeds,
    no_number: list[str],
    stream: str,
    chunking: str,
    parser: str,
) -> None:
    parse = load(parser)
    # Two repetitions are checked; the others are the same.
    made = streams.make(stream)
    twice = cold_chunks.__wrapped__(stream, chunking, 2 * sum(map(len, made.blocks)))
    where = f"stream {stream}, {chunking} per chunk, cold"
    check(parser, lambda: parse(twice, True), made.events * 2, where, no_number)
    chunks = cold_chunks(stream, chunking, min(4 * last_cache(), 2**30)) if measuring else twice

    group = f"parser, cold: stream {stream}, {chunking} per chunk"
    size = sum(map(len, chunks))
    events = len(made.events) * size // sum(map(len, made.blocks))
    seconds = timed(group, events, chunks, partial(parse, chunks, False), rounds=3)
    if seconds is not None:
        note(speeds, f"cold, {chunking}", parser, stream, size / seconds)
