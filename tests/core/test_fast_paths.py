"""Chunks that fast paths of the compiled parser read: both cores agree, wherever they are cut."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from collections.abc import Callable
from itertools import permutations, product
from typing import Any

import pytest

from sse_fast import EventTooLarge

JSON_ID = b'[{"topic":"eqiad.change","partition":0,"timestamp":1763000000000},{"offset":-1}]'
ENDS = (b"\n", b"\r\n", b"\r")
# Values whose first byte of at most CR is no line end, or that differ by one byte from the usual.
VALUES = (b"", b"1", b" 2", b"\t", b"a\0b", b"x" * 30 + b"\t" + JSON_ID, JSON_ID * 2, "é".encode())


def blocks() -> dict[str, bytes]:
    """Return blocks of the usual form, and others that begin or end like one."""
    made = {}
    for names in [*permutations([b"event", b"id", b"data"]), *permutations([b"id", b"data"])]:
        for end in ENDS:
            lines = [b"%b: %b%b" % (name, name * 5, end) for name in names]
            made[b",".join(names).decode() + repr(end)[1:]] = b"".join(lines) + end
    for name, value in product([b"id", b"event", b"data"], VALUES):
        line = b"%b: %b\n" % (name, value)
        made[f"{line!r} before data"] = line + b"data: of it\n\n"
        made[f"{line!r} after data"] = b"data: of it\n" + line + b"\n"
    for ends in product(ENDS, repeat=3):
        made[f"ends {ends!r}"] = b"event: x%bdata: of it%b%b" % ends
    for lines in (b"id: 1\nid: 2\ndata: a\n\n", b"id\ndata: a\n\n", b"id:1\nretry: 5\ndata:a\n\n"):
        made[repr(lines)] = lines
    for lines in (b"id: 3\nevent: x\n\n", b": c\ndata: a\n\n", b"id: 4\n: c\ndata: a\n\n"):
        made[repr(lines)] = lines
    made["two events"] = b"id: 1\ndata: a\n\nid: 2\ndata: b\n\n"
    return made


BLOCKS = blocks()


def trace(core: Any, chunks: list[bytes], options: dict[str, Any]) -> list[Any]:
    """Feed the chunks, and record everything visible after each."""
    parser = core.Parser(**options)
    seen: list[Any] = []
    for chunk in chunks:
        try:
            seen.append([repr(event) for event in parser.feed(chunk)])
        except EventTooLarge as error:
            seen.append((error.size, [repr(event) for event in error.events]))
            parser.reset()
        seen.append((parser.last_event_id, parser.retry, parser.pending, parser.done))
    return seen


@pytest.mark.parametrize("block", BLOCKS.values(), ids=BLOCKS.keys())
def test_block_cut_anywhere_is_the_same_in_both_cores(both_cores: Any, block: bytes) -> None:
    before, after = b"id: 0\ndata: before\n\n", b"data: after\n\n"
    for at in range(len(block) + 1):
        chunks = [before, block[:at], block[at:], after]
        cython, python = (trace(core, chunks, {}) for core in both_cores)
        assert cython == python, at


@pytest.mark.parametrize(
    "options",
    [
        {"until": "datadatadatadatadata"},
        {"until_event": "eventeventeventeventevent"},
        {"until": lambda event: event.id == "ididididid"},
        {"decode": bytes},
        {"decode": {"eventeventeventeventevent": bytes}},
        {"on_comment": str},
        {"last_event_id": "7"},
    ],
    ids=lambda options: "-".join(options),
)
def test_whole_blocks_obey_the_options(both_cores: Any, options: dict[str, Any]) -> None:
    for block in BLOCKS.values():
        chunks = [b"data: before\n\n", block, b"data: after\n\n", block]
        cython, python = (trace(core, chunks, options) for core in both_cores)
        assert cython == python


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64])
def test_pieces_of_a_line_obey_the_limit(both_cores: Any, size: int) -> None:
    """The limit is met in the middle of a line, at its end, and never."""
    line = b"data: " + bytes(range(0x20, 0x7F)) * 2 + "é\0\t".encode() + b"\r"
    chunks = [b"id: 5\ndata: before\n\n"]
    chunks += [line[at : at + size] for at in range(0, len(line), size)]
    chunks += [b"\ndata: ", b"more\r", b"\r", b"data: after\n\n"]
    for limit in (*range(20, 220, 9), *range(190, 215), 10_000):
        cython, python = (trace(core, chunks, {"max_event_size": limit}) for core in both_cores)
        assert cython == python, limit


def test_whole_block_obeys_the_limit(both_cores: Any) -> None:
    block = b"event: x\nid: 1\ndata: abc\n\n"
    for limit in range(1, len(block) + 3):
        chunks = [b"data\n\n", block, block]
        cython, python = (trace(core, chunks, {"max_event_size": limit}) for core in both_cores)
        assert cython == python, limit


@pytest.mark.parametrize("is_tracing", [False, True])
def test_text_is_like_any_other_str(core: Any, is_tracing: bool) -> None:
    """Its size, hash and use as a key are those of the same text from elsewhere."""
    parser = core.Parser()
    if is_tracing:
        tracemalloc.start()
    try:
        for length in (*range(70), 127, 330, 1024, 70_000):
            expected = "".join(chr(0x21 + at % 90) for at in range(length))
            block = b"id: %b\ndata: %b\n\n" % (expected.encode(), expected.encode())
            for chunk in (block, block * 2):
                for event in parser.feed(chunk):
                    for text in (event.data, event.id):
                        assert (text, type(text), text.isascii()) == (expected, str, True)
                        assert {expected: length}[text] == length
                        assert sys.getsizeof(text) == sys.getsizeof(expected[:1] + expected[1:])
                        assert text + "é" == expected + "é"
                        assert sys.intern(text) == expected
    finally:
        tracemalloc.stop()


def test_returned_list_grows_and_shrinks(core: Any) -> None:
    parser = core.Parser()
    parser.feed(b"data: a\n\n")
    events = parser.feed(b"data: b\n\n")
    events += parser.feed(b"data: c\n\n") * 5
    events.insert(0, None)
    assert [event and event.data for event in events] == [None, "b", *"ccccc"]
    del events[1:]
    events.clear()
    events.append(1)
    assert events == [1]


# -- The garbage collector ------------------------------------------------------------------------


def test_collector_tracks_no_plain_event(both_cores: Any) -> None:
    core = both_cores[0]
    plain = [core.Event(), core.Event(data="x", retry=5), *core.Parser().feed(b"data: a\n\n" * 2)]
    assert not any(map(gc.is_tracked, plain))
    decoded = core.Parser(decode=bytes).feed(b"data: a\n\n")
    others = [core.Event(data=[]), core.Event(retry=[]), core.Event(data=None), *decoded]
    assert all(map(gc.is_tracked, others))


@pytest.mark.parametrize("attribute", ["data", "retry"])
def test_cycle_through_event_is_collected(core: Any, attribute: str) -> None:
    class Value(list[Any]):
        ended = False

        def __del__(self) -> None:
            Value.ended = True

    value = Value()
    value.append(core.Event(**{attribute: value}))
    del value
    gc.collect()
    assert Value.ended


def test_event_initialized_within_its_init_stays_whole(core: Any) -> None:
    """A property `__class__` runs before the values are set."""

    class Liar:
        @property
        def __class__(self) -> Any:
            initialize(made[0], "first", data=["a"])
            return str

    initialize: Callable[..., None] = core.Event.__init__
    made = [core.Event.__new__(core.Event)]
    with pytest.raises((AttributeError, TypeError)):
        initialize(made[0], "second", "b", Liar())
    made.clear()
    gc.collect()
