"""bench/bench_way.py: wrong ways get no number, and the verdicts of its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bench import bench_way, loopback
from bench.bench_bars import HTTPX
from bench.bench_way import BLOCKING, FEED, OURS, RECV, Found, Group, Way
from sse_fast._bench.measure import CALLS, FLOOR, LINES, Cell

DATA = ["1", "2", "3"]


def read(data: list[str]) -> Callable[[list[str] | None], int]:
    """Return a way to read that finds these events."""

    def run(keep: list[str] | None) -> int:
        if keep is not None:
            keep.extend(data)
        return len(data)

    return run


def lose_when_timed(keep: list[str] | None) -> int:
    return read(DATA if keep is not None else DATA[:-1])(keep)


def fail(keep: list[str] | None) -> int:
    raise ZeroDivisionError("by chance")


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (read(DATA[:-1]), "expected 3 items as sent, got 2"),
        (read(["1", "2", "2"]), "expected 3 items as sent, got 3"),
        (read([*DATA, "4"]), "expected 3 items as sent, got 4"),
        (lose_when_timed, "expected 3 items, got 2"),
        (fail, "raises ZeroDivisionError('by chance')"),
    ],
)
def test_measure_wrong_way_has_no_number(run: Any, said: str) -> None:
    group = bench_way.measure({FEED: Way(read(DATA), DATA), "other": Way(run, DATA)}, 3, 2)
    assert list(group.times) == [FEED]
    assert group.wrong == {"other": said}


def test_measure_awaits_async_way() -> None:
    runs: list[Any] = []

    async def run(keep: list[str] | None) -> int:
        runs.append(keep)
        return read(DATA)(keep)

    group = bench_way.measure({"any": Way(run, DATA)}, 3, 2)
    assert runs == [DATA, None, None]
    assert group.times["any"] == min(group.rounds["any"]) > 0
    assert len(group.rounds["any"]) == 2
    assert not group.wrong


def test_few_events_of_clients_are_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {10: 0.5, 110: 2.5}

    def make(server: object, chunks: str, count: int, client: str) -> dict[str, Way]:
        def run(keep: list[str] | None) -> int:
            clock[0] += int(seconds[count] * 1e9)
            return read(DATA)(keep)

        losing = Way(read(DATA[:2] if count > 10 else DATA), DATA)
        return {BLOCKING: Way(run, DATA), "AsyncEventSource": losing}

    clock = [0]
    monkeypatch.setattr(bench_way, "with_client", make)
    monkeypatch.setattr(bench_way.time, "process_time_ns", lambda: clock[0])
    server = loopback.Loopback("", "", "")
    group = bench_way.measure_client(server, "64 KiB", "AsyncEventSource", 110, 10, 3)
    assert group.rounds == {BLOCKING: [2e7, 2e7, 2e7]}
    assert group.times == {BLOCKING: 2e7}
    assert group.wrong == {"AsyncEventSource": "expected 3 items as sent, got 2"}


@pytest.mark.parametrize("name", ["other", *OURS])
def test_wrong_way_is_noted_and_ours_fails(name: str) -> None:
    notes: list[str] = []
    group = Group(wrong={name: "no event"})
    if name in OURS:
        with pytest.raises(pytest.fail.Exception, match=f"no number: {name}, here: no event"):
            bench_way.note(group, "here", notes)
    else:
        bench_way.note(group, "here", notes)
    assert notes == [f"{name}, here: no event"]


@pytest.mark.parametrize("chunks", bench_way.CHUNKS)
def test_iterable_dropped_event_has_no_number(monkeypatch: pytest.MonkeyPatch, chunks: str) -> None:
    ways = bench_way.over_iterable(chunks, 1)
    right = bench_way.measure(ways, 1, 1)
    assert (list(right.times), right.wrong) == (list(ways), {})

    parser = bench_way.sse_fast.Parser

    class Losing:
        def __init__(self) -> None:
            self.feed = lambda chunk: parser().feed(chunk)[1:]

    monkeypatch.setattr(bench_way.sse_fast, "Parser", Losing)
    assert list(bench_way.measure(ways, 1, 1).wrong) == [FEED]


@pytest.mark.parametrize("write", ["block", "event", "large"])
@pytest.mark.parametrize("count", [3, 1000, 2003])
def test_flood_pieces_are_all_events(write: str, count: int) -> None:
    pieces = loopback.pieces(count, write)
    assert b"".join(pieces) == b"".join(loopback.flood(count).blocks)
    assert b"".join(loopback.writes(count, write)) == b"".join(map(loopback.as_chunk, pieces))
    assert write != "large" or max(map(len, pieces)) <= loopback.LARGE


# -- Rows ------------------------------------------------------------------------------------------


def results(**times: float) -> Found:
    """Return 100 ns for everything, or what `times` says for a way."""
    found = Found()
    ways = (bench_way.BARE, RECV, FEED, *OURS, bench_way.RY, bench_way.RY_ASYNCIO)
    for kind in ("iterable", "loopback"):
        for chunks in bench_way.CHUNKS:
            found.groups[kind, chunks] = Group({way: times.get(way, 100.0) for way in ways})
    for client in bench_way.CLIENTS:
        for chunks in bench_way.CHUNKS:
            rounds = {way: [times.get(way, 100.0)] * 3 for way in OURS}
            found.groups[client, chunks] = Group(dict.fromkeys(OURS, 50.0), rounds)
    for at in bench_way.PARSED:
        parts = {"sse_fast": 100.0, HTTPX: 2800.0, FLOOR: 70.0, LINES: 8.0, CALLS: 1.9}
        found.cells[at] = Cell(*at, 1, 100, {name: times.get(name, parts[name]) for name in parts})
    for client in (bench_way.fan_in.READER, "AsyncEventSource", "aopen_stream"):
        found.memory |= {(client, False): times.get("memory", 8.0), (client, True): 300.0}
    return found


def verdicts(found: Found) -> dict[str, str]:
    lines = list(bench_way.table(found))[1:]
    return {
        row.what: line.rsplit("  ", 1)[1] for row, line in zip(bench_way.ROWS, lines, strict=False)
    }


@pytest.mark.parametrize(
    ("row", "times", "verdict"),
    [
        ("open_stream, one event", {BLOCKING: 280.0}, "yes"),
        ("open_stream, one event", {BLOCKING: 281.0}, "NO"),
        ("open_stream, one event", {BLOCKING: 281.0, RECV: 101.0}, "yes"),
        ("open_stream, one event", {BLOCKING: 281.0, FEED: 101.0}, "yes"),
        ("aiter_events, 64 KiB", {"aiter_events": 360.1}, "NO"),
        ("EventSource over open_stream, 64 KiB", {"EventSource": 115.0}, "yes"),
        ("EventSource over open_stream, 64 KiB", {"EventSource": 115.1}, "NO"),
        ("AsyncEventSource over aopen_stream, 64 KiB", {"AsyncEventSource": 120.0}, "yes"),
        ("AsyncEventSource, 500 streams", {"memory": 16.0}, "yes"),
        ("aopen_stream, 500 streams", {"memory": 16.1}, "NO"),
        ("aopen_stream, 500 streams over TLS", {}, ""),
        ("open_stream beside ry, 64 KiB", {}, "NO"),
        ("open_stream beside ry, 64 KiB", {"ry": 200.0}, "yes"),
        ("aopen_stream beside ry asyncio, one event", {"ry": 200.0}, "NO"),
        ("c, one event: share of objects, lines, call", {}, "NO"),
        ("c, one event: share of objects, lines, call", {CALLS: 2.0}, "yes"),
        ("a, 64 KiB: httpx-sse", {}, "yes"),
        ("a, 64 KiB: httpx-sse", {HTTPX: 2499.0}, "NO"),
    ],
)
def test_row_is_reached_within_target(row: str, times: dict[str, float], verdict: str) -> None:
    assert verdicts(results(**times))[row] == verdict


def test_added_is_the_median_of_the_differences_of_rounds() -> None:
    group = results().groups["EventSource", "64 KiB"]
    # It adds 1, 30 and 70; the medians are 40 apart, and the least times 31.
    group.rounds |= {BLOCKING: [100.0, 150.0, 70.0], "EventSource": [101.0, 180.0, 140.0]}
    row = bench_way.added("64 KiB", "EventSource", BLOCKING, 30)
    line = row.value(Found({("EventSource", "64 KiB"): group}))
    assert line == ("100 ns", "140 ns", "+30 ns", True)


def test_row_without_number_is_not_measured() -> None:
    found = results()
    del found.groups["loopback", "64 KiB"].times[RECV]
    del found.groups["EventSource", "one event"].times["EventSource"]
    del found.cells["d", "one event"].times[HTTPX]
    said = verdicts(found)
    assert len(said) == len(bench_way.ROWS)
    missing = {row for row in said if said[row] == "not measured"}
    assert missing == {
        "open_stream, 64 KiB",
        "aopen_stream, 64 KiB",
        "EventSource over open_stream, one event",
        "d, one event: httpx-sse",
    }
    assert set(verdicts(Found()).values()) == {"not measured"}
