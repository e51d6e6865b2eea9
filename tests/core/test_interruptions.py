"""Parser: no event is lost in silence if `feed` is interrupted.

If memory runs out, or a signal handler raises, the next `feed` returns every event not returned
yet, or it refuses input until `reset()`.
"""

from __future__ import annotations

import gc
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sse_fast import DecodeError
from tests.support import IMPORT_TESTS
from tests.support.commands import run_python
from tests.support.reference import cut


class _Interrupt(BaseException):
    """An exception like KeyboardInterrupt."""


class _Alarm(Exception):
    """An exception as a signal handler may raise it."""


RUN = """
import faulthandler, runpy
faulthandler.enable()
runpy.run_module("tests.support.interrupting", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("place", ["some", pytest.param("every", marks=pytest.mark.soak)])
def test_interrupted_feed_loses_no_event(core: Any, tmp_path: Path, place: str) -> None:
    pytest.importorskip("_testcapi")
    name = core.__name__.rpartition("_")[2]
    # The Python core has ten times as many places.
    step = 2 if (place, name) == ("some", "py") else 1
    printed = run_python(IMPORT_TESTS + RUN, name, str(step), directory=tmp_path)
    rows = [line.split("\t") for line in printed.splitlines()]
    # A dialect may always refuse input. Otherwise, the event comes again nearly always.
    plain = [row for row in rows if row[2] == "bytes" and " with " not in row[0]]
    failures = sum(int(row[3]) for row in plain)
    refusals = sum(int(row[4]) for row in plain)
    assert failures > 100
    assert refusals < failures / 20


@pytest.mark.parametrize("error", [_Interrupt, MemoryError])
@pytest.mark.parametrize("callback", ["decode", "until"])
@pytest.mark.parametrize("cut_at", [None, 1, 7])
def test_interrupted_callback_gets_its_event_again(
    core: Any, error: type[BaseException], callback: str, cut_at: int | None
) -> None:
    failing = [True]

    def call(argument: Any) -> Any:
        data = argument if callback == "decode" else argument.data
        if data in (b"2", "2") and failing:
            failing.clear()
            assert parser.last_event_id == "b"
            raise error
        return data if callback == "decode" else False

    parser = core.Parser(**{callback: call})
    stream = b"id: a\ndata: 1\n\nid: b\nretry: 5\nevent: x\ndata: 2\n\ndata: 3\r\n\r\n"
    chunks = [stream] if cut_at is None else cut(stream, range(cut_at, len(stream), cut_at))
    events, errors = [], 0
    for chunk in chunks:
        try:
            events += parser.feed(chunk)
        except error:
            errors += 1
            # The event was not dispatched, so neither is its id in force.
            assert (parser.last_event_id, parser.done) == ("a", False)
            events += parser.feed(b"")
    expected = [("message", "1", "a", None), ("x", "2", "b", 5), ("message", "3", "b", None)]
    data = str if callback == "until" else bytes.decode
    assert [(it.event, data(it.data), it.id, it.retry) for it in events] == expected
    assert errors == 1


def test_interrupted_until_is_asked_again(core: Any) -> None:
    """Otherwise the stream would go on past its end."""
    asked: list[str] = []

    def until(event: Any) -> bool:
        asked.append(event.data)
        if asked == ["1", "2"]:
            raise KeyboardInterrupt
        return event.data == "2"

    parser = core.Parser(until=until)
    with pytest.raises(KeyboardInterrupt):
        parser.feed(b"data: 1\n\ndata: 2\n\ndata: 3\n\n")
    assert [event.data for event in parser.feed(b"")] == ["1", "2"]
    assert parser.done
    assert asked == ["1", "2", "2"]


@pytest.mark.parametrize("error", [_Interrupt, _Alarm, MemoryError])
def test_interrupted_on_comment_loses_no_event(core: Any, error: type[BaseException]) -> None:
    seen: list[str] = []

    def on_comment(text: str) -> None:
        seen.append(text)
        raise error

    parser = core.Parser(on_comment=on_comment)
    with pytest.raises(error):
        parser.feed(b"id: 1\ndata: 1\n\nid: 2\ndata: 2\n: a\n\n: b\ndata: 3\n\n")
    assert parser.last_event_id == "1"
    with pytest.raises(error):
        parser.feed(b"")
    assert [event.data for event in parser.feed(b"")] == ["1", "2", "3"]
    assert seen == ["a", "b"]


def test_alarm_in_decode_is_a_decode_error(core: Any) -> None:
    """The event is in the error."""

    def decode(data: bytes) -> bytes:
        if data == b"2":
            raise _Alarm
        return data

    parser = core.Parser(decode=decode)
    with pytest.raises(DecodeError) as caught:
        parser.feed(b"data: 1\n\ndata: 2\n\ndata: 3\n\n")
    assert isinstance(caught.value.__cause__, _Alarm)
    assert [event.data for event in [*caught.value.events, caught.value.event]] == [b"1", "2"]
    assert [event.data for event in parser.feed(b"")] == [b"3"]


def test_lone_ids_survive_an_interruption(core: Any) -> None:
    """Their places count the events that the interrupted feed has not returned."""
    failing = [True]

    def decode(data: bytes) -> Any:
        if data == b"3" and failing:
            failing.clear()
            raise KeyboardInterrupt
        return json.loads(data)

    parser = core.Parser(decode=decode)
    stream = b"id: a\ndata: 1\n\nid: b\n\ndata: 2\n\nid: c\n\ndata: 3\n\nid: d\n\n"
    with pytest.raises(KeyboardInterrupt):
        parser.feed(stream)
    events = parser.feed(b"")
    assert [(event.data, event.id) for event in events] == [(1, "a"), (2, "b"), (3, "c")]
    assert parser._lone_ids == {1: "b", 2: "c", 3: "d"}
    assert parser.feed(b"") == []
    assert parser._lone_ids is None


def test_refused_chunk_is_no_interruption(core: Any) -> None:
    """An argument that is no buffer leaves the parser as it was."""
    parser = core.Parser()
    parser.feed(b"data: a\n")
    released = memoryview(b"data: b\n")
    released.release()
    for chunk in ("text", None, memoryview(b"abc")[::2], released):
        with pytest.raises((TypeError, BufferError, ValueError)):
            parser.feed(chunk)
    assert parser.feed(b"\n") == [core.Event(data="a")]


# -- _completed ---------------------------------------------------------------------------------


def test_completed_counts_events_before_a_comment(core: Any) -> None:
    counts: list[tuple[str, int]] = []
    parser = core.Parser(on_comment=lambda text: counts.append((text, parser._completed)))
    stream = b": a\ndata: 1\n\n: b\ndata: 2\n: c\n\nid: 5\n\n: d\n: e\n\n"
    assert len(parser.feed(stream)) == 2
    assert counts == [("a", 0), ("b", 1), ("c", 1), ("d", 2), ("e", 2)]
    assert parser._completed == 0
    counts.clear()
    for chunk in (b"data: 3\n\n", b": f\ndata: 4\n\n: g\n"):
        parser.feed(chunk)
    assert counts == [("f", 0), ("g", 1)]


def test_completed_counts_events_kept_by_an_exception(core: Any) -> None:
    """It is the place of the comment in the list that the next feed returns."""
    counts: list[int] = []
    failing = [True]

    def on_comment(text: str) -> None:
        counts.append(parser._completed)
        if failing:
            failing.clear()
            raise KeyboardInterrupt

    parser = core.Parser(on_comment=on_comment)
    with pytest.raises(KeyboardInterrupt):
        parser.feed(b"data: 1\n\n: a\n\ndata: 2\n\n: b\n\n")
    assert len(parser.feed(b"")) == 2
    assert counts == [1, 2]


def test_feed_by_garbage_collector_is_safe(core: Any) -> None:
    """An allocation of `feed` may run a finalizer that feeds the same parser."""

    class Cycle:
        def __init__(self) -> None:
            self.me = self

        def __del__(self) -> None:
            with suppress(RuntimeError):
                parser.feed(b"id: %d\ndata: x\n\n" % (10**9 + len(kept)))

    kept: list[Any] = []
    parser = core.Parser()
    threshold = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for number in range(300):
            Cycle()
            kept += parser.feed(b"id: first %d\ndata: a\n\n" % number)
            Cycle()
            kept += parser.feed(b"data: b\n\n")
    finally:
        gc.set_threshold(*threshold)
    assert {type(event.id) for event in kept} == {str}
    assert len({event.id for event in kept}) > 100
