"""Properties of the parser for any bytes in any chunks."""

from __future__ import annotations

import codecs
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from sse_fast import EventTooLarge
from tests.support.examples import examples
from tests.support.reference import cut, interpret, parse

# Random bytes hardly ever make an event, so most bytes are pieces of real streams.
_PIECES = [
    *[b"\n", b"\r", b"\r\n", b"\n\n", b":", b": ", b" ", b"\0", b"x", b"0", b"12", b"9" * 20],
    *[b"data", b"data:", b"data: ", b"event:", b"id:", b"id: ", b"retry:", b"retry: "],
    *[b"dat", b"datax:", b"Data:", b"message", b"[DONE]", b"a" * 40],
    *[codecs.BOM_UTF8, b"\xef", b"\xbb", b"\xbf", "é".encode(), "€".encode(), "🚀".encode()],
    *[b"\xe2\x82", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"],
    *["\u2028".encode(), "\x85".encode(), b"\x0b", b"\x0c", b"\x1c"],
]
streams = st.lists(st.sampled_from(_PIECES) | st.binary(max_size=5), max_size=40).map(b"".join)


@st.composite
def cut_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    stream = draw(streams)
    if draw(st.booleans()):
        return stream, cut(stream, range(1, len(stream)))
    return stream, cut(stream, draw(st.lists(st.integers(0, len(stream)), max_size=12)))


@examples(1500)
@given(cut_streams())
@example((b"\xef\xbb", [b"\xef", b"\xbb"]))
@example((b"\xef\xbb\xbf", [b"\xef", b"\xbb", b"\xbf"]))
def test_every_chunking_gives_the_same_events(core: Any, case: tuple[bytes, list[bytes]]) -> None:
    stream, chunks = case
    expected = interpret(stream)
    assert parse(core, chunks) == expected
    assert parse(core, [stream]) == expected


_TYPES = [b"event: x\n", b"event:message\r\n", b"event\n", b"\n\n"]
typed_streams = st.lists(st.sampled_from([*_PIECES, *_TYPES * 3]), max_size=30).map(b"".join)
_UNTIL_EVENTS = st.sampled_from([("x",), ("message",), ("x", "message"), ("other",)])


@examples(1000)
@given(typed_streams, st.lists(st.integers(0, 200), max_size=6), _UNTIL_EVENTS)
def test_until_event_ends_where_the_reference_does(
    core: Any, stream: bytes, places: list[int], until_event: tuple[str, ...]
) -> None:
    chunks = cut(stream, [place for place in places if place < len(stream)])
    expected = interpret(stream, until_event)
    given = until_event[0] if len(until_event) == 1 else until_event
    for pieces in (chunks, [stream]):
        assert parse(core, pieces, until_event=given) == expected
        # A decoder takes another branch.
        decoded = parse(core, pieces, until_event=given, decode=bytes)
        assert [event[0] for event in decoded.events] == [event[0] for event in expected.events]
        assert decoded[1:] == expected[1:]


# Blocks as servers flush them, one in each chunk, and blocks that differ by a byte or a line; their
# lengths are near those at which the scan takes another branch.
_ENDS = st.sampled_from([b"\n", b"\n", b"\r\n", b"\r"])
_VALUES = st.builds(
    lambda size, byte, place: (b"x" * size)[:place] + byte + (b"x" * size)[place:],
    st.sampled_from([0, 1, 3, 7, 50, *range(54, 67), 119, 120, 121, 127, 128, 129, 330]),
    st.sampled_from([b"", b"", b"", b"\x0b", b"\x0c", b"\0", b":", b"\n", b"\r", b"\xff"])
    | st.sampled_from(["é".encode(), "€".encode(), "🚀".encode(), b" "]),
    st.sampled_from([0, 1, 8, 62, 63, 64, 65, 400]),
)
_LINES = st.builds(
    lambda name, value, end: name + value + end,
    st.sampled_from(
        [b"data:", b"data: ", b"event:", b"event: ", b"id: ", b"retry: ", b":", b"x: "]
    ),
    _VALUES,
    _ENDS,
)
_HEADS = st.builds(
    lambda name, value, end: name + value + end,
    st.sampled_from([b"event: ", b"event:", b"id: ", b"id:"]),
    _VALUES,
    _ENDS,
)
_BLOCKS = st.builds(
    lambda heads, data, more, end, rest: b"".join(heads) + data + more + end + rest,
    st.lists(_HEADS, max_size=2),
    st.builds(lambda value, end: b"data: " + value + end, _VALUES, _ENDS),
    st.just(b"") | st.just(b"") | _LINES,
    _ENDS | st.just(b""),
    st.sampled_from([b"", b"", b"", b"d", b":", b"\n"]),
)


@examples(800)
@given(st.lists(_BLOCKS | _BLOCKS | _LINES, min_size=1, max_size=6), st.integers(1, 400))
@example([b"data: x\n\n", b"event: " + b"x" * 58 + b"data:x\n\n"], 400)
@example([b"data: x\n\n", b"event: x\rdata: x\n\n"], 400)
@example([b"data: x\n\n", b"event: x\rxdata: x\n\n"], 400)
@example([b"data: x\n\n", b"data: x\rx\r\n", b"\n"], 400)
@example([b"data: x\n\n", b"data: x\r", b"\r", b"\ndata: x\n\n"], 400)
@example([b"\xef", b"data: x\n\n"], 400)
@example([b"", b"data: x\n\n", b"\xef\xbb\xbfdata: y\n\n"], 400)
@example([b"data: x\n\n", b"data: x\nd", b"ata: y\n\n"], 400)
@example([b"data: x\r\n\r\n", b"data:\r\n\r\n", b"data:\n\n"], 400)
@example([b"data: x\n\n", b"event: x\nid: a\0b\ndata: y\n\n", b"data: z\n\n"], 400)
@example([b"data: x\n\n", b"id: 1\ndata: y\nevent: z\n\n", b"data: y\nid\n\n"], 400)
@example([b"data: x\n\n", b"id: 1\nid: 2\ndata: y\n\n", b"id: 3\nevent: 4\n\n"], 400)
def test_one_block_per_chunk_gives_the_same_events(
    both_cores: Any, blocks: list[bytes], limit: int
) -> None:
    expected = interpret(b"".join(blocks))
    for core in both_cores:
        assert parse(core, blocks) == expected
        # The fast path needs an earlier chunk; other blocks alternate with it.
        parser = core.Parser()
        assert parser.feed(b"data: x\n\n") == [core.Event("message", "x", "", None)]
        events = [event for block in blocks for event in parser.feed(block)]
        assert [(it.event, it.data, it.id, it.retry) for it in events] == expected.events
    cython, python = (
        _trace(core, [b"data: x\n\n", *blocks], {"max_event_size": limit}, bytes)
        for core in both_cores
    )
    assert cython == python


class _Fault(Exception):
    pass


def _trace(core: Any, chunks: list[bytes], options: dict[str, Any], kind: Any) -> list[Any]:
    """Record all visible results, in order, while callbacks raise and limits are exceeded."""
    trace: list[Any] = []

    def on_comment(text: str) -> None:
        trace.append(("comment", text))
        if len(text) % 3 == 1:
            raise _Fault

    def decode(data: bytes) -> bytes:
        if len(data) % 3 == 1:
            raise _Fault
        return data

    def until(event: Any) -> bool:
        trace.append(("until", repr(event)))
        if len(event.data) == 5:
            raise _Fault
        return len(event.data) == 4

    callbacks: dict[str, Any] = {
        "on_comment": on_comment,
        "decode": decode,
        "decode_types": {"message": decode, "x": len},
        "until": until,
    }
    options = {name: callbacks.get(value, value) for name, value in options.items()}
    parser = core.Parser(**options)
    for chunk in chunks:
        try:
            trace.append([repr(event) for event in parser.feed(kind(chunk))])
        except Exception as error:
            name = type(error).__name__
            events = [repr(event) for event in getattr(error, "events", ())]
            trace.append((name, repr(getattr(error, "event", None)), events))
            if name == "EventTooLarge":
                trace.append(getattr(error, "limit", None))
                parser.reset()
        trace.append((parser.last_event_id, parser.retry, parser.pending, parser.done))
    return trace


@examples(1500)
@given(
    cut_streams(),
    st.fixed_dictionaries(
        {},
        optional={
            "max_event_size": st.integers(1, 40),
            "on_comment": st.just("on_comment"),
            "decode": st.sampled_from(["decode", "decode_types"]),
            "until": st.sampled_from(["until", "x", "", "[DONE]"]),
            "until_event": _UNTIL_EVENTS,
            "last_event_id": st.sampled_from(["", "7", "é"]),
        },
    ),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_cores_agree_on_all_visible_results(
    both_cores: Any, case: tuple[bytes, list[bytes]], options: dict[str, Any], kind: Any
) -> None:
    # An empty chunk after each one continues after an exception.
    chunks = [piece for chunk in case[1] for piece in (chunk, b"", b"")]
    cython, python = (_trace(core, chunks, options, kind) for core in both_cores)
    assert cython == python


@examples(1000)
@given(cut_streams(), st.integers(1, 40), st.booleans())
def test_limit_is_independent_of_chunking(
    core: Any, case: tuple[bytes, list[bytes]], limit: int, with_comments: bool
) -> None:
    def run(chunks: list[bytes]) -> Any:
        options = {"on_comment": str} if with_comments else {}
        parser = core.Parser(max_event_size=limit, **options)
        events, size = [], 0
        for chunk in chunks:
            try:
                events += parser.feed(chunk)
            except EventTooLarge as error:
                events += error.events
                size = error.size
                break
        assert size == 0 or size > limit
        return events, bool(size), parser.last_event_id, parser.retry, parser.pending

    stream, chunks = case
    assert run(chunks) == run([stream])


_lines_of_text = st.text(st.characters(exclude_categories=["Cs"]))
_one_line = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"))


@examples(500)
@given(
    _one_line.filter(bool),
    _lines_of_text,
    _one_line.map(lambda text: text.replace("\0", "")),
    st.none() | st.integers(0, 2**63 - 1),
)
def test_encode_round_trips_any_event(
    core: Any, event_type: str, data: str, id: str, retry: int | None
) -> None:
    event = core.Event(event_type, data, id, retry)
    again = core.Parser().feed(event.encode())
    data = data.replace("\r\n", "\n").replace("\r", "\n")
    assert again == [core.Event(event_type, data, id, retry)]


@examples(300)
@given(streams)
def test_parsed_events_can_be_encoded(core: Any, stream: bytes) -> None:
    for event in core.Parser().feed(stream):
        assert core.Parser().feed(event.encode()) == [event]
