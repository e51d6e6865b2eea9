"""Parser: cases of the standard, state, wrong input, limits, memory."""

from __future__ import annotations

import array
import gc
import sys
import threading
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sse_fast import EventTooLarge
from tests.support.commands import run_python
from tests.support.each import check_each
from tests.support.reference import chunkings, feed_all, interpret, parse

# Each case is written with LF and runs as LF, CR and CRLF; an event is (type, data, id, retry).
CASES: dict[str, tuple[str, list[tuple[str, str, str, int | None]]]] = {
    "data alone": ("data: a\n\n", [("message", "a", "", None)]),
    "no space": ("data:a\n\n", [("message", "a", "", None)]),
    "one space of two": ("data:  a\n\n", [("message", " a", "", None)]),
    "a tab is no space": ("data:\ta\n\n", [("message", "\ta", "", None)]),
    "two lines": ("data: a\ndata: b\n\n", [("message", "a\nb", "", None)]),
    "empty data": ("data:\n\n", [("message", "", "", None)]),
    "data without a colon": ("data\n\n", [("message", "", "", None)]),
    "two empty lines of data": ("data\ndata\n\n", [("message", "\n", "", None)]),
    "first line of data empty": ("data:\ndata: a\n\n", [("message", "\na", "", None)]),
    "colons in a value": ("data: a:b::c\n\n", [("message", "a:b::c", "", None)]),
    "type": ("event: x\ndata: a\n\n", [("x", "a", "", None)]),
    "type after data": ("data: a\nevent: x\n\n", [("x", "a", "", None)]),
    "last type wins": ("event: x\nevent: y\ndata: a\n\n", [("y", "a", "", None)]),
    "empty type": ("event: x\nevent:\ndata: a\n\n", [("message", "a", "", None)]),
    "type without data is gone": ("event: x\n\ndata: a\n\n", [("message", "a", "", None)]),
    "type does not stay": (
        "event: x\ndata: a\n\ndata: b\n\n",
        [("x", "a", "", None), ("message", "b", "", None)],
    ),
    "id stays": (
        "id: 1\ndata: a\n\ndata: b\n\n",
        [("message", "a", "1", None), ("message", "b", "1", None)],
    ),
    "id without data": ("id: 1\n\ndata: b\n\n", [("message", "b", "1", None)]),
    "empty id": (
        "id: 1\ndata: a\n\nid\ndata: b\n\n",
        [("message", "a", "1", None), ("message", "b", "", None)],
    ),
    "id with NUL": ("id: 1\nid: 2\0\ndata: a\n\n", [("message", "a", "1", None)]),
    "retry": (
        "retry: 10\ndata: a\n\ndata: b\n\n",
        [("message", "a", "", 10), ("message", "b", "", None)],
    ),
    "retry, not a number": (
        "retry: 1 \nretry: +1\nretry: 1_0\nretry: ٣\ndata: a\n\n",
        [("message", "a", "", None)],
    ),
    "retry, endless": (f"retry: {'9' * 5000}\ndata: a\n\n", [("message", "a", "", 2**63 - 1)]),
    "retry, around the largest": (
        "".join(
            f"retry: {number}\ndata: a\n\n"
            for number in (10**18, 2**63 - 2, 2**63 - 1, 2**63, 2**63 + 1, 10**19)
        ),
        [
            ("message", "a", "", number)
            for number in (10**18, 2**63 - 2, 2**63 - 1, 2**63 - 1, 2**63 - 1, 2**63 - 1)
        ],
    ),
    "retry, leading zeros": (f"retry: {'0' * 5000}7\ndata: a\n\n", [("message", "a", "", 7)]),
    "comments": (": c\n:\ndata: a\n:data: b\n\n: d\n\n", [("message", "a", "", None)]),
    "names are exact": (
        "Data: a\n data: a\ndata : a\ndat: a\ndataa: a\nevents: x\nids: 1\ndata: b\n\n",
        [("message", "b", "", None)],
    ),
    "other ends of line are text": (
        "data: a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n\n",
        [("message", "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg", "", None)],
    ),
    "BOM": ("\ufeffdata: a\n\n\ufeffdata: b\n\n", [("message", "a", "", None)]),
    "two BOMs": ("\ufeff\ufeffdata: a\n\ndata: b\n\n", [("message", "b", "", None)]),
    "blank lines": ("\n\n\ndata: a\n\n\n\n\n", [("message", "a", "", None)]),
    "unfinished line": ("data: a\n\ndata: b", [("message", "a", "", None)]),
    "unfinished event": ("data: a\n\ndata: b\n", [("message", "a", "", None)]),
    "every script": ("event: é\nid: 日\ndata: 🚀 ok\n\n", [("é", "🚀 ok", "日", None)]),
    "long": (
        f"data: {'x' * 300}\ndata: {'é' * 300}\n\n",
        [("message", "x" * 300 + "\n" + "é" * 300, "", None)],
    ),
}


@pytest.mark.parametrize("end_of_line", ["\n", "\r", "\r\n"], ids=["LF", "CR", "CRLF"])
def test_streams_give_the_events_of_the_standard(core: Any, end_of_line: str) -> None:
    def check(case: tuple[str, list[tuple[str, str, str, int | None]]]) -> None:
        text, events = case
        stream = text.replace("\n", end_of_line).encode()
        expected = interpret(stream)
        assert expected.events == events
        for chunks in chunkings(stream):
            assert parse(core, chunks) == expected, chunks

    check_each(CASES.items(), check)


# WHATWG Encoding standard: one U+FFFD replaces the longest start of a valid sequence.
INVALID = {
    b"\xff": "\ufffd",
    b"\x80\x80": "\ufffd\ufffd",
    b"\xc0\xaf": "\ufffd\ufffd",
    b"\xe0\x80\x80": "\ufffd\ufffd\ufffd",
    b"\xe2\x82": "\ufffd",
    b"\xe2\x82A": "\ufffdA",
    b"\xed\xa0\x80": "\ufffd\ufffd\ufffd",
    b"\xf0\x9f\x9a": "\ufffd",
    b"\xf0\x80\x80\x80": "\ufffd\ufffd\ufffd\ufffd",
    b"\xf4\x90\x80\x80": "\ufffd\ufffd\ufffd\ufffd",
    b"\xf0\x9f\xe2\x82\xac": "\ufffd€",
}


@pytest.mark.parametrize("raw", INVALID)
def test_invalid_utf8_is_replaced(core: Any, raw: bytes) -> None:
    text = INVALID[raw]
    stream = b"event: %b\nid: %b\ndata: %b\ndata: %b\n\n" % (raw, raw, raw, raw)
    for chunks in chunkings(stream):
        assert parse(core, chunks).events == [(text, f"{text}\n{text}", text, None)]


def test_event_is_dispatched_by_its_last_byte(core: Any) -> None:
    """The byte that completes an event dispatches it, even a CR."""
    for stream in [b"data: a\n\n", b"data: a\r\r", b"data: a\r\n\r", b"data: a\n\r"]:
        parser = core.Parser()
        assert parser.feed(stream[:-1]) == []
        assert parser.feed(stream[-1:]) == [core.Event("message", "a", "", None)]
        # The LF of a CRLF is not a second line.
        assert parser.feed(b"\ndata: b\r") == []
        assert len(parser.feed(b"\r")) == 1


def test_cr_in_chunk_of_one_event_ends_its_line(core: Any) -> None:
    """A chunk that is one whole event is read a faster way, which must not take a CR as text."""
    for chunk, event in [
        (b"data: a\rb\n\n", core.Event("message", "a")),
        (b"data: a\r\n\n", core.Event("message", "a")),
        (b"event: x\ry\ndata: a\n\n", core.Event("x", "a")),
        (b"event: x\ndata: a\rb\n\n", core.Event("x", "a")),
    ]:
        parser = core.Parser()
        # The first chunk of a stream is never read that way, because it may begin with a BOM.
        assert len(parser.feed(b"data: before\n\n")) == 1
        assert parser.feed(chunk) == [event]


# -- State --------------------------------------------------------------------------------------


def test_id_is_committed_at_blank_line(core: Any) -> None:
    parser = core.Parser(last_event_id="0")
    assert parser.last_event_id == "0"
    parser.feed(b"id: 1\ndata: a\n")
    assert parser.last_event_id == "0"
    parser.feed(b"\n")
    assert parser.last_event_id == "1"
    parser.feed(b"id: 2\n\n")
    assert parser.last_event_id == "2"


def test_lone_ids_are_of_the_latest_chunk(core: Any) -> None:
    """The streams need them to know the last event ID after each event."""
    parser = core.Parser()
    assert parser._lone_ids is None
    for chunk in (b"data: a\n\n", b"event: b\ndata: b\n\n", b"", b": c\n\n", b"data: d"):
        parser.feed(b"data: a\n\nid: 1\n\n")
        assert parser._lone_ids == {1: "1"}
        parser.feed(chunk)
        assert parser._lone_ids is None


def test_initial_last_event_id_is_in_force(core: Any) -> None:
    assert core.Parser(last_event_id="é").feed(b"data: a\n\n")[0].id == "é"


def test_retry_is_set_when_its_line_is_read(core: Any) -> None:
    parser = core.Parser()
    assert parser.retry is None
    parser.feed(b"retry: 5")
    assert parser.retry is None
    parser.feed(b"\n")
    assert parser.retry == 5


def test_pending_tells_of_an_unfinished_block(core: Any) -> None:
    parser = core.Parser()
    for piece, pending in [
        (b"", False),
        (b": comment", False),
        (b"\n", False),
        (b"d", True),
        (b"ata: a\n", True),
        (b": comment\n", True),
        (b"\n", False),
        (b"unknown", True),
        (b"\n", True),
        (b"\r", False),
        (b"\n", False),
    ]:
        parser.feed(piece)
        assert parser.pending is pending, piece


def test_reset_keeps_id_and_retry(core: Any) -> None:
    parser = core.Parser(until="end")
    parser.feed(b"id: 1\nretry: 5\ndata: a\n\nid: 2\nevent: x\ndata: b\ndata: c")
    parser.reset()
    assert (parser.last_event_id, parser.retry, parser.pending, parser.done) == (
        "1",
        5,
        False,
        False,
    )
    # A new connection may begin with a BOM.
    assert parser.feed(b"\xef\xbb\xbfdata: d\n\n") == [core.Event("message", "d", "1", None)]
    parser.feed(b"data: end\n\n")
    assert parser.done
    parser.reset()
    assert not parser.done
    assert len(parser.feed(b"data: e\n\n")) == 1


def test_reset_forgets_trailing_cr(core: Any) -> None:
    parser = core.Parser()
    parser.feed(b"data: a\r")
    parser.reset()
    parser.feed(b"data: a\n")
    assert len(parser.feed(b"\n")) == 1


# -- Input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunk",
    [
        b"data: a\n\n",
        bytearray(b"data: a\n\n"),
        memoryview(b"data: a\n\n"),
        memoryview(bytearray(b"data: a\n\n")),
        memoryview(b"..data: a\n\n..")[2:-2],
        array.array("B", b"data: a\n\n"),
        memoryview(b"data: a\n\n").cast("B", (3, 3)),
    ],
    ids=lambda chunk: type(chunk).__name__,
)
def test_feed_takes_any_contiguous_buffer(core: Any, chunk: Any) -> None:
    assert core.Parser().feed(chunk) == [core.Event("message", "a", "", None)]


@pytest.mark.parametrize("empty", [b"", bytearray(), memoryview(b"")])
def test_empty_chunk_changes_nothing(core: Any, empty: Any) -> None:
    parser = core.Parser()
    for byte in b"\xef\xbb\xbfdata: a\r\n\r":
        assert parser.feed(empty) == []
        events = parser.feed(bytes([byte]))
    assert events == [core.Event("message", "a", "", None)]
    assert parser.feed(empty) == []


def test_feed_keeps_no_reference_to_chunk(core: Any) -> None:
    parser = core.Parser()
    chunk = bytearray(b"event: t\nid: 1\ndata: a\ndata: b")
    parser.feed(chunk)
    # The buffer is neither locked nor read again.
    chunk[:] = b"x" * 100
    assert parser.feed(b"\n\n") == [core.Event("t", "a\nb", "1", None)]


def test_callback_cannot_change_the_chunk(core: Any) -> None:
    chunk = bytearray(b"data: abc\n: now\n\n")

    def on_comment(text: str) -> None:
        chunk[6:9] = "é!".encode()

    (event,) = core.Parser(on_comment=on_comment).feed(chunk)
    assert event.data == "abc"


def test_callback_cannot_change_read_only_view(core: Any) -> None:
    chunk = bytearray(b"data: abc\n: now\n\n")

    def on_comment(text: str) -> None:
        chunk[6] = 0xFF

    (event,) = core.Parser(on_comment=on_comment).feed(memoryview(chunk).toreadonly())
    assert event.data == "abc"


def test_feed_refuses_text_with_a_hint(core: Any) -> None:
    parser = core.Parser()
    with pytest.raises(TypeError, match="Expected bytes, got str: feed the body as it arrived"):
        parser.feed("data: a\n\n")
    assert parser.feed(b"data: a\n\n")


@pytest.mark.parametrize("chunk", [None, 1, [b"a"], object()])
def test_feed_refuses_objects_without_buffer(core: Any, chunk: Any) -> None:
    with pytest.raises(
        TypeError, match=f"Expected a bytes-like object, got {type(chunk).__name__}"
    ):
        core.Parser().feed(chunk)


def test_feed_refuses_buffer_with_gaps(core: Any) -> None:
    with pytest.raises(BufferError, match="contiguous"):
        core.Parser().feed(memoryview(b"data: a\n\n")[::2])


def test_feed_refuses_exporter_without_contiguous_buffer(core: Any) -> None:
    """NumPy raises ValueError when it is asked for a contiguous buffer."""
    numpy = pytest.importorskip("numpy")
    numbers = numpy.frombuffer(b"data: a\n\n" * 2, "u1")
    assert len(core.Parser().feed(numbers)) == 2
    for gaps in (numbers[::2], numpy.asfortranarray(numbers.reshape(2, -1))):
        with pytest.raises(BufferError, match="contiguous"):
            core.Parser().feed(gaps)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"last_event_id": 1}, TypeError, "last_event_id to be a str, got int"),
        ({"last_event_id": "a\nb"}, ValueError, "last_event_id must not contain"),
        ({"last_event_id": "a\0"}, ValueError, "last_event_id must not contain"),
        ({"max_event_size": "1"}, TypeError, "max_event_size to be an int, got str"),
        ({"max_event_size": True}, TypeError, "max_event_size to be an int, got bool"),
        ({"max_event_size": 0}, ValueError, "at least 1 byte, got 0"),
        ({"on_comment": 1}, TypeError, "on_comment to be callable or None, got int"),
        ({"decode": 1}, TypeError, "decode to be callable, a mapping .* got int"),
        ({"decode": {"a": 1}}, TypeError, r"decode\['a'\] to be callable, got int"),
        ({"until": b"x"}, TypeError, "until to be a str, callable or None, got bytes"),
        ({"until_event": None}, TypeError, "str or a collection of str, got NoneType: pass"),
        ({"until_event": b"x"}, TypeError, "until_event to be a str or a collection of str, got b"),
        ({"until_event": iter(["x"])}, TypeError, "got list_iterator: pass an event type, or a tu"),
        ({"until_event": [b"x"]}, TypeError, "each type in until_event to be a str, got bytes"),
        ({"until_event": ["x", ""]}, ValueError, "empty event type, .*: 'message' is the type of"),
        ({"until_event": "x\r"}, ValueError, "until_event must not contain CR"),
        ({"until_event": {"\udfff"}}, ValueError, "until_event must not contain a lone surrogate"),
    ],
)
def test_parser_with_wrong_options_raises(
    core: Any, options: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        core.Parser(**options)
    with pytest.raises(TypeError):
        core.Parser("")


# -- The limit ----------------------------------------------------------------------------------


def test_event_over_the_limit_raises_until_reset(core: Any) -> None:
    parser = core.Parser(max_event_size=20)
    with pytest.raises(EventTooLarge) as caught:
        parser.feed(b"id: 1\ndata: a\n\ndata: 0123456789abcde\n\n")
    error = caught.value
    assert (error.size, error.limit) == (21, 20)
    assert error.events == [core.Event("message", "a", "1", None)]
    assert str(error) == (
        "Event takes 21 bytes or more, over max_event_size (20): raise max_event_size if events "
        "this large are expected"
    )
    for chunk in [b"", b"\n", b"data: b\n\n"]:
        with pytest.raises(EventTooLarge) as caught:
            parser.feed(chunk)
        assert caught.value.events == []
    assert parser.last_event_id == "1"
    parser.reset()
    assert parser.feed(b"data: b\n\n") == [core.Event("message", "b", "1", None)]


@pytest.mark.parametrize(
    ("stream", "size"),
    [
        (b"data: 12345\n\n", 11),  # the line
        (b"data\n\n", 4),
        (b"data: 1\ndata: 2\n\n", 9),  # "1", LF, and the second line
        (b"data:1\ndata:2\ndata:3\n\n", 10),
        (b"event: abc\ndata: 1\n\n", 10),
        (b"event: a\nid: b\ndata: 1\n\n", 9),
        (b"id: b\ndata: 1\ndata: 2\n\n", 10),  # "b", "1", LF, and the last line
        (b"id: 12345\nid: 1\ndata:\n\n", 10),  # the id before it is replaced
        (b"retry: 00001\n\n", 12),
        (b"\xef\xbb\xbfdata: 1\n\n", 7),  # the BOM is not retained
        ("data: é\n\n".encode(), 8),  # bytes, not characters
    ],
)
def test_limit_counts_line_and_kept_values(core: Any, stream: bytes, size: int) -> None:
    for chunks in chunkings(stream):
        feed_all(core.Parser(max_event_size=size), chunks)
        with pytest.raises(EventTooLarge) as caught:
            feed_all(core.Parser(max_event_size=size - 1), chunks)
        assert caught.value.size == size


@pytest.mark.parametrize(
    "line", [b":" + b"c" * 100, b"unknown: " + b"c" * 100, b"c" * 100, b"datax", b"events: x"]
)
def test_limit_ignores_dropped_lines(core: Any, line: bytes) -> None:
    for chunks in chunkings(line + b"\nid\n" + line + b"\ndata\n\n"):
        parser = core.Parser(max_event_size=4)
        assert feed_all(parser, chunks)


def test_limit_counts_comments_with_on_comment(core: Any) -> None:
    for chunks in chunkings(b": 345\n"):
        parser = core.Parser(max_event_size=4, on_comment=str)
        with pytest.raises(EventTooLarge):
            feed_all(parser, chunks)


def test_huge_limit_is_accepted(core: Any) -> None:
    assert core.Parser(max_event_size=sys.maxsize).feed(b"data: a\n\n")
    assert core.Parser(max_event_size=2**100).feed(b"data: a\n\n")


# -- One at a time ------------------------------------------------------------------------------


@pytest.mark.parametrize("callback", ["on_comment", "until"])
def test_feed_and_reset_within_callback_raise(core: Any, callback: str) -> None:
    def enter(_: Any) -> None:
        with pytest.raises(RuntimeError, match=r"feed\(\) was called within feed\(\)"):
            parser.feed(b"data: x\n\n")
        with pytest.raises(RuntimeError, match=r"reset\(\) was called within feed\(\)"):
            parser.reset()
        entered.append(True)

    entered: list[bool] = []
    parser = core.Parser(**{callback: enter})
    events = parser.feed(b": c\ndata: 1\n\n")
    assert entered == [True]
    assert [event.data for event in events] == ["1"]
    # The parser works again.
    assert parser.feed(b"data: 2\n\n")


def test_second_init_raises_and_changes_nothing(core: Any) -> None:
    def initialize(_: Any = None) -> None:
        with pytest.raises(RuntimeError, match="initialized already"):
            parser.__init__(last_event_id="9", max_event_size=1, decode=int)

    parser = core.Parser(on_comment=initialize, last_event_id="1")
    initialize()
    assert parser.feed(b": c\ndata: a\n\ndata: b") == [core.Event("message", "a", "1")]
    initialize()
    assert parser.feed(b"c\n\n") == [core.Event("message", "bc", "1")]


def test_init_after_wrong_options_succeeds(core: Any) -> None:
    parser = core.Parser.__new__(core.Parser)
    with pytest.raises(ValueError, match="max_event_size"):
        parser.__init__(max_event_size=0)
    parser.__init__(last_event_id="1")
    assert parser.feed(b"data: a\n\n") == [core.Event("message", "a", "1")]


def test_feed_without_init_is_memory_safe(both_cores: Any) -> None:
    cython, _ = both_cores
    parser = cython.Parser.__new__(cython.Parser)
    for stream in (b"data: a\n\n", b"event: a\n\n", b"id: a\n\n", b": a\n\n"):
        with suppress(EventTooLarge):
            assert parser.feed(stream) == []
        parser.reset()


def test_feed_from_second_thread_raises(core: Any) -> None:
    inside, leave = threading.Event(), threading.Event()

    def on_comment(text: str) -> None:
        inside.set()
        assert leave.wait(10)

    parser = core.Parser(on_comment=on_comment)
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.extend(parser.feed(b": c\ndata: 1\n\n")))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(RuntimeError):
        parser.feed(b"data: 2\n\n")
    leave.set()
    thread.join(10)
    assert [event.data for event in results] == ["1"]


# -- Memory -------------------------------------------------------------------------------------


def test_cycle_through_decoded_data_is_collected(core: Any) -> None:
    class Node:
        event: Any = None

    parser = core.Parser(decode=lambda data: Node())
    (event,) = parser.feed(b"data: a\n\n")
    event.data.event = event
    gone = weakref.ref(event.data)
    del event
    gc.collect()
    assert gone() is None


def test_cycle_through_callback_is_collected(core: Any) -> None:
    class Owner:
        def __init__(self) -> None:
            self.parser = core.Parser(on_comment=self.comment)

        def comment(self, text: str) -> None: ...

    gone = weakref.ref(Owner())
    gc.collect()
    assert gone() is None


def test_events_outlive_their_parser(core: Any) -> None:
    parser = core.Parser()
    events = parser.feed(b"event: %b\ndata: %b\ndata: %b\n\n" % (b"t" * 99, b"a" * 999, b"b" * 999))
    parser.reset()
    del parser
    gc.collect()
    assert events == [core.Event("t" * 99, "a" * 999 + "\n" + "b" * 999, "", None)]


BEGUN = [r"b'id: 1\ndata: ' + large"]


# The options of a parser, and what it is fed.
LARGE: list[tuple[str, list[str]]] = [
    # Cut at any place.
    ("", [*BEGUN, r"b'\n\n'"]),
    ("", [*BEGUN, r"b'\n\ndata: y'"]),
    ("", [*BEGUN, r"b'\n\n:'"]),
    ("", [*BEGUN, r"b'\n\nid: 1\n'"]),
    ("", [r"b'event: ' + large + b'\ndata: x\n\n'", r"b'data: y\n\n'", r"b'data: y'"]),
    # Events that are not delivered.
    ("until=bool", [*BEGUN, r"b'\n\n'"]),
    ("until='y'", [r"b'event: ' + large", r"b'\ndata: y\n\n'"]),
    ("until_event='y'", [r"b'id: ' + large + b'\ndata: x\n\n'", r"b'event: y\nid\n\n'"]),
    ("max_event_size=1_000_050", [*BEGUN, "b'x' * 100"]),
]


@pytest.mark.skipif(sys.platform != "linux", reason="units of ru_maxrss")
def test_buffers_are_freed_after_large_event(core: Any, tmp_path: Path) -> None:
    measures = "".join(
        f"measure(lambda: Parser({options}), [{', '.join(chunks)}])\n" for options, chunks in LARGE
    )
    script = f"""
import contextlib, resource
from sse_fast import EventTooLarge
from {core.__name__} import Parser
large = b"x" * 1_000_000

def measure(make_parser, chunks):
    parsers = [make_parser() for _ in range(100)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for parser in parsers:
        for chunk in chunks:
            with contextlib.suppress(EventTooLarge):
                parser.feed(chunk)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

{measures}"""
    # KiB. Buffers that were not freed would take 100 MB and more.
    taken = [int(line) for line in run_python(script, directory=tmp_path).split()]
    assert len(taken) == len(LARGE)
    assert max(taken) < 30_000, taken


def test_lists_take_no_more_memory_than_events(core: Any) -> None:
    """The capacity of lists follows the chunk before, within bounds."""
    parser = core.Parser()
    many = b"data\n\n" * 10_000
    one = b": " + b"x" * len(many) + b"\ndata\n\n"
    for _ in range(3):
        assert len(parser.feed(many)) == 10_000
        events = parser.feed(one)
        assert len(events) == 1
        assert sys.getsizeof(events) < 10_000


def test_returned_list_belongs_to_caller(core: Any) -> None:
    parser = core.Parser()
    first = parser.feed(b"")
    first.append("mine")
    again = parser.feed(b"")
    assert (first, again) == (["mine"], [])
    del first, again
    assert parser.feed(b"data") == []


def test_large_data_arrives_whole(core: Any) -> None:
    data = bytes(range(32, 127)) * 50_000
    parser = core.Parser()
    assert parser.feed(b"data: " + data) == []
    (event,) = parser.feed(b"\n\n")
    assert event.data == data.decode()
