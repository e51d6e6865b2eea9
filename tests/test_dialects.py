"""The flags of `Dialect`, on both cores: each alone, all of them at random, none of them."""

from __future__ import annotations

import base64
import gc
import json
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reference import cut

from sse_fast import EventTooLarge
from sse_fast._dialect import Dialect

VECTORS = json.loads((Path(__file__).parent / "vectors.json").read_bytes())
BOM = b"\xef\xbb\xbf"


# -- Classes of events, as libraries have them -----------------------------------------------------


class Plain:
    """Attributes in a dict, and a constructor that is not to be called."""

    def __init__(self, no_default: object) -> None:
        raise AssertionError


@dataclass(frozen=True)
class Frozen:
    event: str | None
    data: str
    id: str | None
    retry: Any
    lines: list[str] | None = None

    def __post_init__(self) -> None:
        raise AssertionError


class Hidden:
    """Properties over underscores."""

    event = property(lambda self: self._event)
    data = property(lambda self: self._data)
    id = property(lambda self: self._id)
    retry = property(lambda self: self._retry)
    lines = property(lambda self: self._lines)


class Slotted:
    __slots__ = ("data", "event", "id", "lines", "retry")


class Stubborn:
    """Nobody sets an attribute of it."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AssertionError

    def __new__(cls) -> Any:
        return super().__new__(cls)


NAMES = ("event", "data", "id", "retry", "lines")
CLASSES: dict[type | None, tuple[str, ...]] = {
    None: NAMES,
    Plain: NAMES,
    Frozen: NAMES,
    Hidden: tuple(f"_{name}" for name in NAMES),
    Slotted: NAMES,
    Stubborn: NAMES,
}


def dialect(event_class: type | None = Plain, **flags: Any) -> Dialect:
    """One that names as many attributes as it has."""
    attributes = CLASSES[event_class][: 5 if flags.get("keep_lines") else 4]
    return Dialect(event_class, attributes, **flags)


def values(event: Any, keep_lines: bool = False) -> tuple[Any, ...]:
    """Of an event, in the order of `attributes`."""
    found = (event.event, event.data, event.id, event.retry)
    return (*found, event.lines) if keep_lines else found


def parse(core: Any, settings: Dialect, *chunks: bytes, **options: Any) -> list[tuple[Any, ...]]:
    parser = core.DialectParser(settings, **options)
    has_lines = settings.keep_lines and settings.event_class is not None
    return [values(event, has_lines) for chunk in chunks for event in parser.feed(chunk)]


def run(core: Any, code: str) -> str:
    """In a process of its own, which may crash."""
    begin = (
        f"from {core.__name__} import *; from {core.__name__} import DialectParser\n"
        "from sse_fast._dialect import Dialect\n"
    )
    done = subprocess.run([sys.executable, "-c", begin + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- One by one ------------------------------------------------------------------------------------


def test_six_flags_and_a_default() -> None:
    settings = Dialect()
    assert Dialect._fields == (
        *("event_class", "attributes", "default_event"),
        *("dispatch_fields", "dispatch_values", "none_before_id", "forget_id"),
        *("read_retry", "keep_lines"),
    )
    assert settings == (None, NAMES[:4], "message", False, False, False, False, None, False)


@pytest.mark.parametrize("event_class", [each for each in CLASSES if each is not None])
def test_the_class_of_the_events(core: Any, event_class: type) -> None:
    settings = dialect(event_class, keep_lines=True)
    stream = b"event: a\nid: \xc3\xa9\nretry: 7\ndata: x\ndata: y\n\n"
    parser = core.DialectParser(settings)
    (event,) = parser.feed(stream)
    lines = ["event: a", "id: é", "retry: 7", "data: x", "data: y"]
    assert type(event) is event_class
    assert values(event, True) == ("a", "x\ny", "é", 7, lines)
    if hasattr(event, "__dict__"):
        # All there is, in the order that a constructor would set it.
        assert list(vars(event)) == list(settings.attributes)


def test_without_a_class_they_are_our_own(core: Any) -> None:
    (event,) = core.DialectParser(Dialect()).feed(b"data: a\n\n")
    assert type(event) is core.Event
    assert event == core.Event("message", "a")
    # Whose lines have no place.
    assert parse(core, dialect(None, keep_lines=True), b"data: a\n\n") == [
        ("message", "a", "", None)
    ]


def test_a_class_that_takes_no_attribute(core: Any) -> None:
    parser = core.DialectParser(Dialect(object))
    with pytest.raises(AttributeError):
        parser.feed(b"data: a\n\ndata: b\n\n")
    with pytest.raises(AttributeError):
        parser.feed(b"")
    assert parser.feed(b"") == []


def test_properties_that_are_set(core: Any) -> None:
    """What libraries keep is plain, but a setter is what it is."""
    seen = []

    class Counted:
        data: Any = property(lambda self: "", lambda self, value: seen.append(value))

    parser = core.DialectParser(Dialect(Counted))
    (event,) = parser.feed(b"data: a\n\n")
    assert seen == ["a"]
    assert vars(event) == {"event": "message", "id": "", "retry": None}


@pytest.mark.parametrize("default", [None, "", "message", "é"])
def test_default_event(core: Any, default: str | None) -> None:
    stream = b"data: 1\n\nevent: a\ndata: 2\n\nevent:\ndata: 3\n\nevent: a\nevent\ndata: 4\n\n"
    for event_class in (Plain, None):
        events = parse(core, dialect(event_class, default_event=default), stream)
        assert [event[0] for event in events] == [default, "a", default, default]


BLOCKS = {
    "blank": b"",
    "comment": b": c\n",
    "unknown": b"any: x\n",
    "data": b"data\n",
    "event": b"event: e\n",
    "no event": b"event:\n",
    "id": b"id: 1\n",
    "no id": b"id\n",
    "wrong id": b"id: a\0b\n",
    "retry": b"retry: 5\n",
    "wrong retry": b"retry: x\n",
}


def dispatched(core: Any, settings: Dialect, before: bytes = b"") -> set[str]:
    """Which blocks, each the first or behind one that sets an ID, are events."""
    whole = {name: before + block + b"\n" for name, block in BLOCKS.items()}
    start = parse(core, settings, before) if before else []
    return {
        name
        for name, stream in whole.items()
        if len(parse(core, settings, *cut(stream, range(1, len(stream))))) > len(start)
    }


@pytest.mark.parametrize(
    ("flags", "first", "later"),
    [
        ({}, {"data"}, {"data"}),
        (
            {"dispatch_fields": True},
            {"data", "event", "no event", "id", "no id", "retry"},
            {"data", "event", "no event", "id", "no id", "retry"},
        ),
        ({"dispatch_values": True}, {"data", "event", "id", "retry"}, set(BLOCKS) - {"no id"}),
        # The second asks less of the first block, and more of what has no value.
        (
            {"dispatch_fields": True, "dispatch_values": True},
            {"data", "event", "id", "retry"},
            set(BLOCKS) - {"no id"},
        ),
    ],
    ids=["neither", "dispatch_fields", "dispatch_values", "both"],
)
def test_what_a_blank_line_completes(
    core: Any, flags: dict[str, bool], first: set[str], later: set[str]
) -> None:
    assert dispatched(core, dialect(**flags)) == first
    assert dispatched(core, dialect(**flags), b"id: 1\ndata: a\n\n") == later
    # An id to begin with is a value as well.
    with_id = parse(core, dialect(**flags), b"\n", last_event_id="7")
    assert with_id == ([("message", "", "7", None)] if "blank" in later else [])


def test_an_event_without_data(core: Any) -> None:
    stream = b"event: e\nretry: 5\n\n\nid: 1\n\n\ndata: a\n\nid\n\n\n"
    assert parse(core, dialect(dispatch_fields=True), stream) == [
        ("e", "", "", 5),
        ("message", "", "1", None),
        ("message", "a", "1", None),
        ("message", "", "", None),
    ]
    assert parse(core, dialect(dispatch_values=True), stream) == [
        ("e", "", "", 5),
        ("message", "", "1", None),
        ("message", "", "1", None),
        ("message", "a", "1", None),
    ]


def test_none_before_id(core: Any) -> None:
    stream = b"data: 1\n\nid: a\0\ndata: 2\n\nid\n\ndata: 3\n\nid: b\ndata: 4\n\n"

    def ids(*, last_event_id: str | None = None, **flags: bool) -> list[Any]:
        events = parse(core, dialect(**flags), stream, last_event_id=last_event_id)
        return [event[2] for event in events]

    assert ids() == ["", "", "", "b"]
    assert ids(none_before_id=True) == [None, None, "", "b"]
    # One to begin with is one.
    assert ids(none_before_id=True, last_event_id="") == ["", "", "", "b"]
    assert ids(none_before_id=True, last_event_id="0") == ["0", "0", "", "b"]


def test_last_event_id_none(core: Any) -> None:
    parser = core.DialectParser(dialect(none_before_id=True))
    assert parser.last_event_id is None
    parser.feed(b"id: a\0\ndata: 1\n\nid")
    assert parser.last_event_id is None
    parser.feed(b"\n")
    assert parser.last_event_id is None
    parser.feed(b"\n")
    assert parser.last_event_id == ""
    parser.reset()
    # As it does with Parser, it stays.
    assert parser.last_event_id == ""
    assert core.DialectParser(dialect()).last_event_id == ""
    assert core.DialectParser(dialect(none_before_id=True), last_event_id="").last_event_id == ""


def test_forget_id(core: Any) -> None:
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid: 2\n\ndata: d\n\nid: \0\ndata: e\n\n"
    settings = dialect(forget_id=True)
    assert [event[2] for event in parse(core, settings, stream)] == ["1", None, "", None, None]
    parser = core.DialectParser(settings, last_event_id="0")
    assert [event.id for event in parser.feed(b"data: a\n\n")] == [None]
    # Only the events do.
    assert parser.last_event_id == "0"
    parser.feed(b"id: 1\n\n")
    assert parser.last_event_id == "1"


def odd(value: str) -> int | None:
    number = int(value)
    if number % 2:
        raise UnicodeError
    return number or None


@pytest.mark.parametrize(
    ("read_retry", "expected"),
    [
        (None, [5, 0, None, None, None, None, None, 2**63 - 1, 7]),
        (int, [5, 0, 7, -1, 10, 3, None, int("9" * 30), 7]),
        (str, ["5", "0", "+7", "-1", " 1_0", "٣", "x\ufffd", "9" * 30, "x"]),
        # Of ValueError the subclasses too, and None is no value.
        (odd, [None, None, None, None, 10, None, None, None, None]),
    ],
    ids=["none", "int", "str", "odd"],
)
def test_read_retry(core: Any, read_retry: Any, expected: list[Any]) -> None:
    lines = ["5", "0", "+7", "-1", " 1_0", "٣", b"x\xff", "9" * 30, "7\nretry: x"]
    blocks = [
        b"retry: %b\ndata: a\n\n" % (line if isinstance(line, bytes) else line.encode())
        for line in lines
    ]
    settings = dialect(read_retry=read_retry)
    stream = b"".join(blocks)
    for chunks in ([stream], blocks, cut(stream, range(1, len(stream)))):
        assert [event[3] for event in parse(core, settings, *chunks)] == expected
    # Each block has its own.
    assert parse(core, settings, b"retry: 2\n\ndata: a\n\n") == [("message", "a", "", None)]


def test_retry_is_of_the_standard_alone(core: Any) -> None:
    """Nobody who reads it otherwise asks for it."""
    parser = core.DialectParser(dialect(read_retry=int))
    parser.feed(b"retry: 5\n")
    assert parser.retry is None
    parser = core.DialectParser(dialect())
    parser.feed(b"retry: 5\n")
    assert parser.retry == 5


def test_what_counts_is_what_read_retry_returns(core: Any) -> None:
    stream = b"retry: 0\n\nretry: x\n\nretry: 4\n\n"
    for flag in ("dispatch_fields", "dispatch_values"):
        events = parse(core, dialect(read_retry=odd, **{flag: True}), stream)
        assert [event[3] for event in events] == [4]


def test_keep_lines(core: Any) -> None:
    stream = (
        b": c\r\nunknown: \xc3\xa9\r\ndata: a\rid: \xff\n:\nno colon\n\n"
        b"data: b\r\rdata\n\r\ndata: \0\r\n\r\n: lost\n\n: kept\ndata: c\n\n"
    )
    expected = [
        [": c", "unknown: é", "data: a", "id: \ufffd", ":", "no colon"],
        ["data: b"],
        ["data"],
        ["data: \0"],
        [": kept", "data: c"],
    ]
    settings = dialect(keep_lines=True)
    for start in (b"", BOM):
        whole = start + stream
        pieces = [cut(whole, [at]) for at in range(1, len(whole))]
        for chunks in ([whole], cut(whole, range(1, len(whole))), *pieces):
            assert [event[4] for event in parse(core, settings, *chunks)] == expected


@pytest.mark.parametrize(
    ("stream", "lines"),
    [
        (BOM + BOM + b"data: a\nid\n\n", ["\ufeffdata: a", "id"]),
        (b"\xef\xbbdata: a\nid\n\n", ["\ufffddata: a", "id"]),
        (b"\xef\xbb\nid\n\n", ["\ufffd", "id"]),
        (BOM + b"\n" + BOM + b"data: a\nid\n\n", ["\ufeffdata: a", "id"]),
        (BOM + b": c\n" + BOM + b": d\nid\n\n", [": c", "\ufeff: d", "id"]),
        (BOM + b"\nid\n\n", ["id"]),
        (BOM + b"\r\nid\r\n\r\n", ["id"]),
    ],
    ids=[
        *("two", "two thirds", "no more", "behind a blank line", "on the second line"),
        *("a blank line", "a blank line with CRLF"),
    ],
)
def test_keep_lines_and_the_byte_order_mark(core: Any, stream: bytes, lines: list[str]) -> None:
    settings = dialect(keep_lines=True, dispatch_fields=True)
    for chunks in ([stream], cut(stream, range(1, len(stream)))):
        assert [event[4] for event in parse(core, settings, *chunks)] == [lines]
    for at in range(len(stream)):
        assert [event[4] for event in parse(core, settings, *cut(stream, [at]))] == [lines]


def test_a_list_of_lines_of_its_own(core: Any) -> None:
    settings = dialect(keep_lines=True)
    one, two = core.DialectParser(settings).feed(b"data: a\n\ndata: b\n\n")
    one.lines.append("more")
    assert two.lines == ["data: b"]


# -- Without a flag --------------------------------------------------------------------------------


def seen(parser: Any, chunk: Any) -> tuple[Any, ...]:
    """What a feed shows; after EventTooLarge it begins anew."""
    error = None
    try:
        events = parser.feed(chunk)
    except EventTooLarge as too_large:
        events = too_large.events
        error = too_large.size, too_large.limit
    state = (parser.last_event_id, parser.retry, parser.pending, parser.done)
    if error:
        parser.reset()
    return [values(event) for event in events], error, state


@pytest.mark.parametrize("run", ["as given", "whole", "byte by byte", "in threes"])
def test_the_vectors_without_a_flag(core: Any, run: str) -> None:
    assert len(VECTORS) == 397
    for vector in VECTORS:
        chunks = [base64.b64decode(chunk) for chunk in vector["chunks"]]
        stream = b"".join(chunks)
        if run == "whole":
            chunks = [stream]
        elif run != "as given":
            step = 1 if run == "byte by byte" else 3
            if len(stream) > 20_000:
                step = len(stream) // 1000
            chunks = cut(stream, range(step, len(stream), step))
        ours, plain = core.DialectParser(Dialect()), core.Parser()
        for chunk in chunks:
            assert seen(ours, chunk) == seen(plain, chunk), vector["name"]


PIECES = [
    *[b"\n", b"\r", b"\r\n", b"\n\n", b":", b": ", b" ", b"\0", b"x", b"0", b"12", b"9" * 20],
    *[b"data", b"data:", b"data: ", b"event:", b"id:", b"id: ", b"retry:", b"retry: "],
    *[b"data: a\n", b"id: 1\n", b"id\n", b"event: e\n", b"retry: 6\n", b": c\n", b"any: x\n"],
    *[b"dat", b"datax:", b"Data:", b"+5", b"1_0", b"a" * 40],
    *[BOM, b"\xef", b"\xbb", b"\xbf", "é".encode(), "€".encode(), "🚀".encode(), "٣".encode()],
    *[b"\xe2\x82", b"\x80", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff"],
    *["\u2028".encode(), "\x85".encode(), b"\x0b", b"\x0c", b"\x1c"],
]


@st.composite
def cut_streams(draw: st.DrawFn) -> list[bytes]:
    pieces = st.sampled_from(PIECES) | st.binary(max_size=5)
    stream = b"".join(draw(st.lists(pieces, max_size=30)))
    if draw(st.booleans()):
        stream = BOM + stream
    if draw(st.booleans()):
        return cut(stream, range(1, len(stream)))
    return cut(stream, draw(st.lists(st.integers(0, len(stream)), max_size=12)))


@settings(max_examples=500)
@given(
    cut_streams(),
    st.fixed_dictionaries(
        {},
        optional={
            "max_event_size": st.integers(1, 60),
            "last_event_id": st.sampled_from(["", "7", "é"]),
        },
    ),
    st.sampled_from([bytes, bytearray, memoryview]),
)
def test_without_a_flag(core: Any, chunks: list[bytes], options: Any, kind: Any) -> None:
    ours, plain = core.DialectParser(Dialect(), **options), core.Parser(**options)
    for chunk in chunks:
        assert seen(ours, kind(chunk)) == seen(plain, kind(chunk))


# -- With any of them ------------------------------------------------------------------------------


class Fault(Exception):
    pass


def choosy(value: str) -> str | None:
    """By what comes: a value, none, what does not count, what comes out."""
    if value.endswith("x"):
        raise Fault
    if not value:
        raise ValueError
    return None if value.startswith("0") else value


@st.composite
def dialects(draw: st.DrawFn, readers: tuple[Any, ...] = (None, int, str, odd, choosy)) -> Dialect:
    flag = st.booleans()
    return dialect(
        draw(st.sampled_from(list(CLASSES))),
        default_event=draw(st.sampled_from(["message", None, "", "é"])),
        dispatch_fields=draw(flag),
        dispatch_values=draw(flag),
        none_before_id=draw(flag),
        forget_id=draw(flag),
        read_retry=draw(st.sampled_from(readers)),
        keep_lines=draw(flag),
    )


def trace(core: Any, settings: Dialect, chunks: list[Any], options: dict[str, Any]) -> list[Any]:
    """Everything visible, in order."""
    parser = core.DialectParser(settings, **options)
    has_lines = settings.keep_lines and settings.event_class is not None
    found: list[Any] = []
    for chunk in chunks:
        try:
            found.append([values(event, has_lines) for event in parser.feed(chunk)])
        except EventTooLarge as error:
            events = [values(event, has_lines) for event in error.events]
            found.append((error.size, error.limit, events))
            parser.reset()
        except Fault:
            found.append("fault")
        found.append((parser.last_event_id, parser.retry, parser.pending, parser.data_lines))
        found.append(parser.unfinished)
    return found


@settings(max_examples=1500)
@given(
    dialects(),
    cut_streams(),
    st.fixed_dictionaries(
        {},
        optional={
            "max_event_size": st.integers(1, 60),
            "last_event_id": st.sampled_from(["", "7", "é", None]),
        },
    ),
    st.sampled_from([bytes, bytearray, memoryview]),
)
@example(dialect(keep_lines=True), [b"\xef", b"\xbb", b"\xbf", b"data:\n\n"], {}, bytes)
@example(dialect(keep_lines=True), [b"\xef", b"\xbbdata:\ndata\n\n"], {}, bytes)
@example(dialect(keep_lines=True), [b": \xe2", b"\x82", b"\xac\ndat", b"a\r", b"\n\r"], {}, bytes)
@example(dialect(keep_lines=True, read_retry=choosy), [b"data\nretry:x\nid\n", b"\n"], {}, bytes)
def test_the_cores_agree(
    both_cores: Any, settings: Dialect, chunks: list[bytes], options: Any, kind: Any
) -> None:
    # Fed with nothing after each chunk, the parsers go on behind what raised.
    pieces = [kind(piece) for chunk in chunks for piece in (chunk, b"", b"")]
    cython, python = (trace(core, settings, pieces, options) for core in both_cores)
    assert cython == python


class Model(NamedTuple):
    """What can be seen of a parser that was fed with a stream."""

    events: list[tuple[Any, ...]]
    last_event_id: str | None
    data_lines: list[str]
    pending: bool


def naive(stream: bytes, settings: Dialect, last_event_id: str | None = None) -> Model:
    """The flags as `Dialect` explains them, of the whole stream at once."""
    text = stream.decode("utf-8", "replace").removeprefix("\ufeff")
    *lines, unfinished = re.split("\r\n|\r|\n", text)
    events: list[tuple[Any, ...]] = []
    latest = last_event_id
    if latest is None and not settings.none_before_id:
        latest = ""
    read_retry: Callable[[str], Any] = settings.read_retry or standard_retry
    block: list[str] = []
    for line in lines:
        if line:
            block.append(line)
            continue
        fields = [(name, value.removeprefix(" ")) for name, _, value in map(partition, block)]
        data = [value for name, value in fields if name == "data"]
        types = [value for name, value in fields if name == "event"]
        ids = [value for name, value in fields if name == "id" and "\0" not in value]
        retry = None
        for name, value in fields:
            if name == "retry":
                try:
                    retry = read_retry(value)
                except ValueError:
                    continue
        if ids:
            latest = ids[-1]
        event_type = types[-1] if types else ""
        if settings.dispatch_values:
            complete = bool(data or event_type or retry is not None or latest)
        elif settings.dispatch_fields:
            complete = bool(data or types or ids or retry is not None)
        else:
            complete = bool(data)
        if complete:
            last_id = None if settings.forget_id and not ids else latest
            event = (event_type or settings.default_event, "\n".join(data), last_id, retry)
            has_lines = settings.keep_lines and settings.event_class is not None
            events.append((*event, block) if has_lines else event)
        block = []
    names = [partition(line)[0] for line in [*block, *([unfinished] if unfinished else [])]]
    return Model(
        events,
        latest,
        [value.removeprefix(" ") for name, _, value in map(partition, block) if name == "data"],
        # Of a byte order mark in pieces, each counts as content until it is whole.
        any(names) or stream in (BOM[:1], BOM[:2]),
    )


def partition(line: str) -> tuple[str, str, str]:
    return line.partition(":")


def standard_retry(value: str) -> int:
    if not re.fullmatch("[0-9]+", value):
        raise ValueError
    return min(int(value.lstrip("0")[:20] or "0"), 2**63 - 1)


def shown(parser: Any, events: list[tuple[Any, ...]]) -> Model:
    return Model(events, parser.last_event_id, parser.data_lines, parser.pending)


READERS = (None, int, str, odd)


@settings(max_examples=500)
@given(dialects(READERS), cut_streams(), st.sampled_from(["", "7", None]))
def test_as_the_model_has_it(
    core: Any, settings: Dialect, chunks: list[bytes], last_event_id: str | None
) -> None:
    parser = core.DialectParser(settings, last_event_id=last_event_id)
    has_lines = settings.keep_lines and settings.event_class is not None
    events = []
    fed = b""
    for chunk in chunks:
        events += [values(event, has_lines) for event in parser.feed(chunk)]
        fed += chunk
        assert shown(parser, events) == naive(fed, settings, last_event_id)


ALL_KINDS = (
    BOM
    + b"data: a\ndata:  \xc3\xa9\r\ndata\n: data: c\nid: 1\rdatax: d\ndata : e\n\n"
    + b"data\xff: f\ndata: \xe2\x82\nid\ndata:\0\n\rdata:\r\n\r\ndata: \xe2\x82\xac\ndata"
)


@pytest.mark.parametrize("flags", [{}, {"keep_lines": True}, {"none_before_id": True}])
@pytest.mark.parametrize("start", [0, 3], ids=["mark", "no mark"])
def test_every_byte(core: Any, start: int, flags: dict[str, bool]) -> None:
    stream = ALL_KINDS[start:]
    settings = dialect(**flags)
    parser = core.DialectParser(settings)
    events = []
    for at in range(len(stream)):
        events += [values(event, "keep_lines" in flags) for event in parser.feed(stream[at:][:1])]
        assert shown(parser, events) == naive(stream[: at + 1], settings)
    assert parser.data_lines == ["€"]
    assert len(events) == 3


def test_data_lines_is_a_copy(core: Any) -> None:
    parser = core.DialectParser(dialect())
    parser.feed(b"data: a\ndata: b\ndata: c")
    parser.data_lines.append("x")
    assert parser.data_lines == ["a", "b"]
    (event,) = parser.feed(b"\n\n")
    assert event.data == "a\nb\nc"
    assert parser.data_lines == []


# -- What raises -----------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_lines", [False, True])
def test_an_event_that_is_too_large(core: Any, keep_lines: bool) -> None:
    settings = dialect(keep_lines=keep_lines, none_before_id=True, read_retry=int)
    parser = core.DialectParser(settings, max_event_size=20)
    with pytest.raises(EventTooLarge) as caught:
        parser.feed(b"id: 1\ndata: a\n\nretry: 5\n: c\ndata: 123456\nid: 2\ndata: 1234567890\n\n")
    assert (caught.value.size, caught.value.limit) == (24, 20)
    assert [values(event) for event in caught.value.events] == [("message", "a", "1", None)]
    with pytest.raises(EventTooLarge) as again:
        parser.feed(b"")
    assert (again.value.size, again.value.events) == (24, [])
    parser.reset()
    # Nothing is left of the block, its retry and its lines; the id in force is.
    assert (parser.pending, parser.data_lines, parser.last_event_id) == (False, [], "1")
    (event,) = parser.feed(BOM + b"data: b\n\n")
    assert values(event, keep_lines) == (
        *("message", "b", "1", None),
        *([["data: b"]] if keep_lines else []),
    )


@pytest.mark.parametrize("keep_lines", [False, True])
@pytest.mark.parametrize("ignored", [b": c", b"unknown: ", b"unknown", b"dat", b"data "])
def test_what_is_not_counted(core: Any, ignored: bytes, keep_lines: bool) -> None:
    """Neither comments nor unknown fields, whole or cut: kept lines are not bounded."""
    settings = dialect(keep_lines=keep_lines)
    long = ignored + b"x" * 100
    stream = long + b"\ndata: a\n" + long + b"\n\n"
    for chunks in ([stream], cut(stream, range(1, len(stream))), cut(stream, [50, 160])):
        (event,) = parse(core, settings, *chunks, max_event_size=10)
        assert event[1] == "a"
        assert event[4:] == (([long.decode(), "data: a", long.decode()],) if keep_lines else ())


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_reset_within_a_block(core: Any, size: int) -> None:
    settings = dialect(keep_lines=True, dispatch_fields=True, read_retry=str)
    begun = b"event: e\nretry: 5\nid: 2\n: c\nany: x\ndata: a\ndata: b"
    stream = BOM + b"data: c\n\n"
    for length in range(len(begun) + 1):
        parser = core.DialectParser(settings, last_event_id="1")
        assert parser.feed(begun[:length]) == []
        parser.reset()
        assert (parser.data_lines, parser.pending) == ([], False)
        chunks = cut(stream, range(size, len(stream), size))
        (event,) = [event for chunk in chunks for event in parser.feed(chunk)]
        assert values(event, True) == ("message", "c", "1", None, ["data: c"])


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt, TypeError])
def test_reading_a_retry_raises(core: Any, error: type[BaseException], size: int) -> None:
    def read(value: str) -> str:
        if value == "x":
            raise error
        return value

    settings = dialect(keep_lines=True, read_retry=read)
    stream = b"data: 1\n\nretry: 5\ndata: 2\nretry: x\ndata: 3\n\nretry: x\nid: 1\ndata: 4\n\n"
    parser = core.DialectParser(settings)
    events, raised = [], 0
    for chunk in [*cut(stream, range(size, len(stream), size)), b"", b""]:
        try:
            events += parser.feed(chunk)
        except error:
            raised += 1
    assert raised == 2
    assert [values(event, True) for event in events] == [
        ("message", "1", "", None, ["data: 1"]),
        ("message", "2\n3", "", "5", ["retry: 5", "data: 2", "retry: x", "data: 3"]),
        ("message", "4", "1", None, ["retry: x", "id: 1", "data: 4"]),
    ]


@pytest.mark.parametrize(
    "wrong", [{"last_event_id": "a\n"}, {"max_event_size": 0}, {"last_event_id": "\0"}]
)
def test_options_are_checked(core: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        core.DialectParser(Dialect(), **wrong)
    with pytest.raises(TypeError):
        core.DialectParser(Dialect(), on_comment=print)


@pytest.mark.parametrize(
    ("attributes", "keep_lines"),
    [
        *(((), False), (NAMES[:3], False), (NAMES, False)),
        *(((), True), (NAMES[:4], True), ((*NAMES, "more"), True)),
    ],
)
def test_as_many_attributes_as_values(
    core: Any, attributes: tuple[str, ...], keep_lines: bool
) -> None:
    code = f"""
class Event: pass
try:
    DialectParser(Dialect(Event, {attributes!r}, keep_lines={keep_lines})).feed(b"data: a\\n\\n")
except ValueError:
    print("refused")
"""
    assert run(core, code) == "refused\n"


@pytest.mark.parametrize("kind", ["int", "dict", "type(iter([]))", "type(None)", "type(print)"])
def test_a_class_that_is_no_ordinary_one(core: Any, kind: str) -> None:
    code = f"""
try:
    DialectParser(Dialect({kind})).feed(b"data: a\\n\\n")
except (TypeError, AttributeError):
    print("refused")
"""
    assert run(core, code) == "refused\n"


def test_a_class_with_a_new_of_its_own(core: Any) -> None:
    """No constructor is called, neither of the two."""

    class Strict:
        def __new__(cls, value: object) -> Any:
            raise AssertionError

    (event,) = core.DialectParser(Dialect(Strict)).feed(b"data: a\n\n")
    assert vars(event) == {"event": "message", "data": "a", "id": "", "retry": None}


# -- Called from within ----------------------------------------------------------------------------


def test_reading_a_retry_calls_the_parser(core: Any) -> None:
    refused = []

    def read(value: str) -> int:
        for call in (
            lambda: parser.feed(b"data: x\n\n"),
            parser.reset,
        ):
            with pytest.raises(RuntimeError) as caught:
                call()
            refused.append(str(caught.value))
        assert parser.data_lines == ["a", "b"]
        assert parser.pending
        return 1

    parser = core.DialectParser(dialect(keep_lines=True, read_retry=read))
    stream = b"data: a\ndata: b\nretry: 1\ndata: c\n\n"
    for chunks in ([stream], cut(stream, range(1, len(stream))), cut(stream, [20])):
        events = [event for chunk in chunks for event in parser.feed(chunk)]
        assert [values(event, True) for event in events] == [
            ("message", "a\nb\nc", "", 1, ["data: a", "data: b", "retry: 1", "data: c"])
        ]
    assert len(refused) == 6


def test_a_refused_init_changes_nothing(core: Any) -> None:
    def read(value: str) -> int:
        with pytest.raises(RuntimeError):
            parser.__init__(Dialect(default_event="other", none_before_id=True))
        return 1

    parser = core.DialectParser(Dialect(read_retry=read))
    events = parser.feed(b"retry: 1\ndata: a\n\nretry: 2\ndata: b\n\n")
    assert [values(event) for event in events] == [
        ("message", "a", "", 1),
        ("message", "b", "", 1),
    ]


def test_a_feed_within_comes_out(core: Any) -> None:
    parser = core.DialectParser(dialect(read_retry=lambda value: parser.feed(b"data: x\n\n")))
    with pytest.raises(RuntimeError, match="one feed"):
        parser.feed(b"data: a\nretry: 1\n\n")
    (event,) = parser.feed(b"")
    assert values(event) == ("message", "a", "", None)


def test_an_attribute_that_feeds(core: Any) -> None:
    class Nosy:
        @property
        def data(self) -> str:
            return ""

        @data.setter
        def data(self, value: str) -> None:
            for call in (parser.reset, lambda: parser.feed(b"data: x\n\n")):
                with pytest.raises(RuntimeError):
                    call()
            seen.append((value, parser.data_lines))
            if value == "b":
                raise Fault

    seen: list[Any] = []
    parser = core.DialectParser(Dialect(Nosy, NAMES, keep_lines=True))
    with pytest.raises(Fault):
        parser.feed(b"data: a\n\ndata: b\n\ndata: c\n\n")
    first, second = parser.feed(b"")
    assert seen == [("a", []), ("b", []), ("c", [])]
    assert (first.lines, second.lines) == (["data: a"], ["data: c"])


def test_a_buffer_that_is_written_to_meanwhile(core: Any) -> None:
    code = """
buffer = bytearray(b"data: aaaa\\nid: bb\\nretry: 1\\n\\n")

def read(value):
    buffer[6:10] = b"\\xff" * 4
    buffer[15:17] = b"\\xff" * 2
    return 1

(event,) = DialectParser(Dialect(read_retry=read)).feed(buffer)
assert (event.data, event.id) == ("aaaa", "bb"), ascii(event)
"""
    run(core, code)


# -- What stays ------------------------------------------------------------------------------------


def test_nothing_is_held(core: Any) -> None:
    class Local:
        pass

    def read(value: str) -> object:
        if value == "x":
            raise Fault
        return object()

    names = [f"a_{number}_{core.__name__}" for number in range(5)]

    def feed() -> None:
        settings = Dialect(Local, tuple(names), read_retry=read, keep_lines=True)
        parser = core.DialectParser(settings, max_event_size=1000)
        for chunk in (b"retry: 1\nid: 5\nda", b"ta: a\n\nretry: x\nevent: a\n", b"", b"\n\n"):
            with suppress(Fault):
                parser.feed(chunk)
        with pytest.raises(EventTooLarge):
            parser.feed(b"data: " + b"x" * 2000)

    def counts() -> list[int]:
        return [sys.getrefcount(each) for each in (Local, read, feed)]

    feed()
    gc.collect()
    before = counts()
    for _ in range(100):
        feed()
    gc.collect()
    assert counts() == before


def test_blocks_of_memory_are_given_back(core: Any) -> None:
    settings = dialect(keep_lines=True, read_retry=int, dispatch_fields=True)
    stream = b": c\nretry: 5\nretry: x\nany: \xc3\xa9\nid: 1\nevent: e\ndata: a\ndata: b\n\n" * 20
    parser = core.DialectParser(settings)

    def feed() -> None:
        for chunk in cut(stream, range(7, len(stream), 7)):
            parser.feed(chunk)

    for _ in range(3):
        feed()
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(100):
        feed()
    gc.collect()
    # Of 2000 events, that is less than one for each.
    assert sys.getallocatedblocks() - before < 500


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_memory_is_flat(core: Any) -> None:
    settings = dialect(keep_lines=True, read_retry=int)
    large = b"data: " + b"x" * 2**18 + b"\n"
    chunks = cut(large + b": " + large + b"\n", [10, 2**17, 2**18 + 100])

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    def feed() -> None:
        parser = core.DialectParser(settings)
        assert len([event for chunk in chunks for event in parser.feed(chunk)]) == 1
        for chunk in chunks[:2]:
            parser.feed(chunk)

    for _ in range(20):
        feed()
    before = pages()
    for _ in range(200):
        feed()
    # 50 MiB, if one of the buffers were left.
    assert (pages() - before) * 4096 < 20 * 2**20


def test_a_parser_within_its_own_reader(core: Any) -> None:
    class Reader:
        parser: Any

        def __call__(self, value: str) -> int:
            return 1

    reader = Reader()
    reader.parser = core.DialectParser(dialect(read_retry=reader, keep_lines=True))
    reader.parser.feed(b"retry: 1\ndata: a\n\nretry: 2\n")
    seen = weakref.ref(reader)
    del reader
    gc.collect()
    assert seen() is None


def test_a_cycle_through_retry(core: Any) -> None:
    class Value(list[Any]):
        pass

    parser = core.DialectParser(Dialect(read_retry=lambda value: Value()))
    (event,) = parser.feed(b"retry: 1\ndata: a\n\n")
    event.retry.append(event)
    seen = weakref.ref(event.retry)
    del event
    gc.collect()
    assert seen() is None
