"""bench/bench_fan_in.py: streams that lose events get no number, and the verdicts."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import bench_fan_in, fan_in
from bench.bench_fan_in import EVENTS, OURS, STREAMS, Found
from bench.fan_in import CLIENTS, READER, SOURCE, STREAM, Result, Streams, Take, data_of

RESULT = Result(8.0, 1.0, 30.0, 0.5, 0.1, 0.2, 0.1)

needs_proc = pytest.mark.skipif(not fan_in.MEMORY.exists(), reason="no /proc/self/smaps_rollup")


def check(numbers: list[int], is_open: bool = True) -> None:
    """Follow two streams that should have events 0 to 3; one has these numbers."""

    async def read(url: str, take: Take) -> None:
        for number in numbers if streams.opened else range(4):
            take(data_of(number))
        if is_open:
            await asyncio.sleep(60)

    async def follow() -> None:
        nonlocal streams
        streams = Streams(read, "any", 2, 3)
        streams.expect(3)
        try:
            await streams.wait(streams.is_opened, 5, "not opened")
            missing = "{0.arrived} events arrived"
            await streams.wait(streams.is_complete, 0.05 if len(numbers) < 4 else 5, missing)
        finally:
            await streams.close()

    streams: Any = None
    asyncio.run(follow())


def test_streams_with_all_events_pass() -> None:
    check([0, 1, 2, 3])


@pytest.mark.parametrize(
    ("numbers", "is_open", "said"),
    [
        ([0, 1, 3], True, "event 2 of a stream is"),
        ([0, 1, 2], True, "7 events arrived"),
        ([1, 2, 3], True, "event 0 of a stream is"),
        ([0, 1, 1, 2, 3], True, "event 2 of a stream is"),
        ([0, 1, 2], False, "a stream ended"),
        ([], False, "a stream ended"),
    ],
)
def test_streams_with_lost_event_raise(numbers: list[int], is_open: bool, said: str) -> None:
    with pytest.raises(OSError, match=said):
        check(numbers, is_open)


def test_streams_open_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fan_in, "OPENING", 2)
    opening = most = 0

    async def read(url: str, take: Take) -> None:
        nonlocal opening, most
        opening += 1
        most = max(most, opening)
        await asyncio.sleep(0)
        opening -= 1
        take(data_of(0))
        await asyncio.sleep(60)

    async def follow() -> None:
        streams = Streams(read, "any", 7, 0)
        await streams.wait(streams.is_complete, 5, "not all")
        await streams.close()

    asyncio.run(follow())
    assert most == 2


def test_failed_client_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(script: str) -> Callable[..., Any]:
        return lambda command, **options: original([sys.executable, "-c", script], **options)

    original = subprocess.run
    for script, said in (
        ("print('\"7 of 9 events arrived\"')", "^7 of 9 events arrived$"),
        ("raise SystemExit('lost')", "^ended with 1: lost$"),
        ("", "^ended with 0: nothing$"),
    ):
        monkeypatch.setattr(subprocess, "run", answer(script))
        with pytest.raises(OSError, match=said):
            fan_in.run(SOURCE, fan_in.Server("", "", ""), 1, 1, 1.0)
    monkeypatch.setattr(subprocess, "run", answer(f"print({json.dumps(RESULT._asdict())!r})"))
    assert fan_in.run(SOURCE, fan_in.Server("", "", ""), 1, 1, 1.0) == RESULT


@needs_proc
def test_descriptor_limit_is_named() -> None:
    fan_in.check_system(1)
    if (most := fan_in.raise_limit()) == -1:
        pytest.skip("no limit")
    with pytest.raises(OSError, match=f"descriptors, the limit is {most:,}$"):
        fan_in.check_system(most)


@pytest.mark.bench
@needs_proc
@pytest.mark.parametrize("tls", [False, True])
def test_clients_measure(tmp_path: Path, tls: bool) -> None:
    with fan_in.start(tmp_path) as server:
        for client in (SOURCE, STREAM, READER):
            result = fan_in.run(client, server, 5, 3, 1000.0, tls)
            assert result.descriptors == 1
            assert all(figure > 0 for figure in result[2:])


# -- Verdicts --------------------------------------------------------------------------------------


def test_bars_compare_most_with_fewest_streams() -> None:
    found: Found = {(client, streams): RESULT for client in OURS for streams in STREAMS}
    found[SOURCE, STREAMS[-1]] = RESULT._replace(cpu=39.0)
    found[STREAM, STREAMS[-1]] = RESULT._replace(cpu=39.1)
    lines = list(bench_fan_in.bars(found))
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["reached", "MISSED"]
    assert "1.30x (target: at most 1.3x)" in lines[0]
    found[SOURCE, STREAMS[0]] = "too few descriptors"
    assert next(bench_fan_in.bars(found)).endswith("not measured")


def test_table_has_reason_in_place_of_number() -> None:
    found: Found = {(SOURCE, 100): RESULT, ("ry", 100): "raises Any()"}
    _, *lines = bench_fan_in.table(found, 100)
    said = dict(zip(CLIENTS, lines, strict=True))
    assert said[SOURCE].split()[1:3] == ["8.0", "1.00"]
    assert said["ry"].split(maxsplit=1)[1] == "raises Any()"
    assert said[STREAM].endswith("not measured")


@pytest.mark.parametrize("client", [SOURCE, "ry"])
def test_lost_event_has_no_number(monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    asked: list[Any] = []

    def run(*arguments: Any) -> Result:
        asked.append(arguments)
        if len(asked) == 2:
            raise OSError("7 of 9 events arrived")
        return RESULT._replace(cpu=float(len(asked)))

    monkeypatch.setattr(fan_in, "run", run)
    monkeypatch.setattr(fan_in, "check_system", lambda streams: None)
    found: Found = {}
    server = fan_in.Server("", "", "")
    bench_fan_in.test_fan_in(server, found, True, 1, 1000, client)
    assert asked == [(client, server, 1000, EVENTS // 1000, bench_fan_in.RATE)]
    assert found == {(client, 1000): RESULT._replace(cpu=1.0)}
    ends = pytest.fail.Exception if client in OURS else pytest.skip.Exception
    with pytest.raises(ends, match="7 of 9 events arrived"):
        bench_fan_in.test_fan_in(server, found, True, 2, 1000, client)
    assert found == {(client, 1000): "7 of 9 events arrived"}
    # A further turn does not bring the number back.
    with pytest.raises(pytest.skip.Exception):
        bench_fan_in.test_fan_in(server, found, True, 2, 1000, client)
    assert len(asked) == 2


def test_best_takes_least_of_each_figure() -> None:
    other = RESULT._replace(memory=9.0, cpu=20.0)
    assert bench_fan_in.best([RESULT, other]) == RESULT._replace(cpu=20.0)
