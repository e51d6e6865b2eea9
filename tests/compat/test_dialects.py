"""The flags of `Dialect` on both cores, each by examples."""

from __future__ import annotations

from typing import Any

import pytest

from sse_fast import EventTooLarge
from sse_fast.compat._dialect import Dialect
from tests.support.dialects import (
    BOM,
    CLASSES,
    NAMES,
    Plain,
    dialect,
    dialect_parser,
    odd,
    parse_dialect,
    values,
)
from tests.support.reference import cut


def test_dialect_has_six_flags_and_a_default() -> None:
    settings = Dialect()
    assert Dialect._fields == (
        *("event_class", "attributes", "default_event"),
        *("dispatch_fields", "dispatch_values", "none_before_id", "forget_id"),
        *("read_retry", "keep_lines"),
    )
    assert settings == (None, NAMES[:4], "message", False, False, False, False, None, False)


@pytest.mark.parametrize("event_class", [each for each in CLASSES if each is not None])
def test_events_are_of_the_given_class(core: Any, event_class: type) -> None:
    settings = dialect(event_class, keep_lines=True)
    stream = b"event: a\nid: \xc3\xa9\nretry: 7\ndata: x\ndata: y\n\n"
    parser = dialect_parser(core)(settings)
    (event,) = parser.feed(stream)
    lines = ["event: a", "id: é", "retry: 7", "data: x", "data: y"]
    assert type(event) is event_class
    assert values(event, True) == ("a", "x\ny", "é", 7, lines)
    if hasattr(event, "__dict__"):
        # All attributes, in the order of the constructor.
        assert list(vars(event)) == list(settings.attributes)


def test_events_without_class_are_sse_fast_events(core: Any) -> None:
    (event,) = dialect_parser(core)(Dialect()).feed(b"data: a\n\n")
    assert type(event) is core.Event
    assert event == core.Event("message", "a")
    # This event has no attribute for lines.
    assert parse_dialect(core, dialect(None, keep_lines=True), b"data: a\n\n") == [
        ("message", "a", "", None)
    ]


def test_class_without_attributes_raises(core: Any) -> None:
    parser = dialect_parser(core)(Dialect(object))
    with pytest.raises(AttributeError):
        parser.feed(b"data: a\n\ndata: b\n\n")
    with pytest.raises(AttributeError):
        parser.feed(b"")
    assert parser.feed(b"") == []


def test_property_setters_are_called(core: Any) -> None:
    """Attributes are set as by `object.__setattr__`, which calls setters of properties."""
    seen = []

    class Counted:
        data: Any = property(lambda self: "", lambda self, value: seen.append(value))

    parser = dialect_parser(core)(Dialect(Counted))
    (event,) = parser.feed(b"data: a\n\n")
    assert seen == ["a"]
    assert vars(event) == {"event": "message", "id": "", "retry": None}


@pytest.mark.parametrize("default", [None, "", "message", "é"])
def test_default_event_is_type_without_event_line(core: Any, default: str | None) -> None:
    stream = b"data: 1\n\nevent: a\ndata: 2\n\nevent:\ndata: 3\n\nevent: a\nevent\ndata: 4\n\n"
    for event_class in (Plain, None):
        events = parse_dialect(core, dialect(event_class, default_event=default), stream)
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
    """Name the blocks that are events after `before`."""
    whole = {name: before + block + b"\n" for name, block in BLOCKS.items()}
    start = parse_dialect(core, settings, before) if before else []
    return {
        name
        for name, stream in whole.items()
        if len(parse_dialect(core, settings, *cut(stream, range(1, len(stream))))) > len(start)
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
        # `dispatch_values` needs a value, and counts an earlier id as one.
        (
            {"dispatch_fields": True, "dispatch_values": True},
            {"data", "event", "id", "retry"},
            set(BLOCKS) - {"no id"},
        ),
    ],
    ids=["neither", "dispatch_fields", "dispatch_values", "both"],
)
def test_flags_decide_when_blank_line_dispatches(
    core: Any, flags: dict[str, bool], first: set[str], later: set[str]
) -> None:
    assert dispatched(core, dialect(**flags)) == first
    assert dispatched(core, dialect(**flags), b"id: 1\ndata: a\n\n") == later
    # The initial id counts as a value too.
    with_id = parse_dialect(core, dialect(**flags), b"\n", last_event_id="7")
    assert with_id == ([("message", "", "7", None)] if "blank" in later else [])


def test_event_without_data_has_empty_text(core: Any) -> None:
    stream = b"event: e\nretry: 5\n\n\nid: 1\n\n\ndata: a\n\nid\n\n\n"
    assert parse_dialect(core, dialect(dispatch_fields=True), stream) == [
        ("e", "", "", 5),
        ("message", "", "1", None),
        ("message", "a", "1", None),
        ("message", "", "", None),
    ]
    assert parse_dialect(core, dialect(dispatch_values=True), stream) == [
        ("e", "", "", 5),
        ("message", "", "1", None),
        ("message", "", "1", None),
        ("message", "a", "1", None),
    ]


def test_none_before_id_gives_none_until_first_id(core: Any) -> None:
    stream = b"data: 1\n\nid: a\0\ndata: 2\n\nid\n\ndata: 3\n\nid: b\ndata: 4\n\n"

    def ids(*, last_event_id: str | None = None, **flags: bool) -> list[Any]:
        events = parse_dialect(core, dialect(**flags), stream, last_event_id=last_event_id)
        return [event[2] for event in events]

    assert ids() == ["", "", "", "b"]
    assert ids(none_before_id=True) == [None, None, "", "b"]
    # An initial id is an id.
    assert ids(none_before_id=True, last_event_id="") == ["", "", "", "b"]
    assert ids(none_before_id=True, last_event_id="0") == ["0", "0", "", "b"]


def test_last_event_id_is_none_before_first_id(core: Any) -> None:
    parser = dialect_parser(core)(dialect(none_before_id=True))
    assert parser.last_event_id is None
    parser.feed(b"id: a\0\ndata: 1\n\nid")
    assert parser.last_event_id is None
    parser.feed(b"\n")
    assert parser.last_event_id is None
    parser.feed(b"\n")
    assert parser.last_event_id == ""
    parser.reset()
    # It stays, as with Parser.
    assert parser.last_event_id == ""
    assert dialect_parser(core)(dialect()).last_event_id == ""
    assert dialect_parser(core)(dialect(none_before_id=True), last_event_id="").last_event_id == ""


def test_forget_id_gives_none_without_id_line(core: Any) -> None:
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid\ndata: c\n\nid: 2\n\ndata: d\n\nid: \0\ndata: e\n\n"
    settings = dialect(forget_id=True)
    assert [event[2] for event in parse_dialect(core, settings, stream)] == [
        "1",
        None,
        "",
        None,
        None,
    ]
    parser = dialect_parser(core)(settings, last_event_id="0")
    assert [event.id for event in parser.feed(b"data: a\n\n")] == [None]
    # Only the events forget it.
    assert parser.last_event_id == "0"
    parser.feed(b"id: 1\n\n")
    assert parser.last_event_id == "1"


@pytest.mark.parametrize(
    ("read_retry", "expected"),
    [
        (None, [5, 0, None, None, None, None, None, 2**63 - 1, 7]),
        (int, [5, 0, 7, -1, 10, 3, None, int("9" * 30), 7]),
        (str, ["5", "0", "+7", "-1", " 1_0", "٣", "x\ufffd", "9" * 30, "x"]),
        # Subclasses of ValueError count too, and None is no value.
        (odd, [None, None, None, None, 10, None, None, None, None]),
    ],
    ids=["none", "int", "str", "odd"],
)
def test_read_retry_makes_the_retry(core: Any, read_retry: Any, expected: list[Any]) -> None:
    lines = ["5", "0", "+7", "-1", " 1_0", "٣", b"x\xff", "9" * 30, "7\nretry: x"]
    blocks = [
        b"retry: %b\ndata: a\n\n" % (line if isinstance(line, bytes) else line.encode())
        for line in lines
    ]
    settings = dialect(read_retry=read_retry)
    stream = b"".join(blocks)
    for chunks in ([stream], blocks, cut(stream, range(1, len(stream)))):
        assert [event[3] for event in parse_dialect(core, settings, *chunks)] == expected
    # Each block has its own retry.
    assert parse_dialect(core, settings, b"retry: 2\n\ndata: a\n\n") == [("message", "a", "", None)]


def test_parser_retry_ignores_read_retry(core: Any) -> None:
    """With `read_retry`, the parser does not interpret the value itself."""
    parser = dialect_parser(core)(dialect(read_retry=int))
    parser.feed(b"retry: 5\n")
    assert parser.retry is None
    parser = dialect_parser(core)(dialect())
    parser.feed(b"retry: 5\n")
    assert parser.retry == 5


def test_retry_of_none_does_not_dispatch(core: Any) -> None:
    stream = b"retry: 0\n\nretry: x\n\nretry: 4\n\n"
    for flag in ("dispatch_fields", "dispatch_values"):
        events = parse_dialect(core, dialect(read_retry=odd, **{flag: True}), stream)
        assert [event[3] for event in events] == [4]


def test_keep_lines_gives_all_lines_of_block(core: Any) -> None:
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
            assert [event[4] for event in parse_dialect(core, settings, *chunks)] == expected


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
def test_keep_lines_drops_byte_order_mark(core: Any, stream: bytes, lines: list[str]) -> None:
    settings = dialect(keep_lines=True, dispatch_fields=True)
    for chunks in ([stream], cut(stream, range(1, len(stream)))):
        assert [event[4] for event in parse_dialect(core, settings, *chunks)] == [lines]
    for at in range(len(stream)):
        assert [event[4] for event in parse_dialect(core, settings, *cut(stream, [at]))] == [lines]


def test_each_event_has_its_own_list_of_lines(core: Any) -> None:
    settings = dialect(keep_lines=True)
    one, two = dialect_parser(core)(settings).feed(b"data: a\n\ndata: b\n\n")
    one.lines.append("more")
    assert two.lines == ["data: b"]


def test_data_lines_are_empty_after_too_large(core: Any) -> None:
    """Their chunk is gone: reading from it would give garbage or crash."""
    parser = dialect_parser(core)(dialect(), max_event_size=301_000)
    with pytest.raises(EventTooLarge):
        parser.feed(b"data: " + b"a" * 300_000 + b"\ndata: " + b"b" * 300_000 + b"\n")
    assert parser.data_lines == []
    parser.reset()
    parser.feed(b"data: a\n")
    assert parser.data_lines == ["a"]


def test_class_with_metaclass_works(core: Any) -> None:
    class Meta(type):
        pass

    class Abstract(metaclass=Meta):
        pass

    parser = dialect_parser(core)(Dialect(Abstract))
    (event,) = parser.feed(b"data: a\n\n")
    assert type(event) is Abstract
    assert event.data == "a"


def test_data_lines_is_a_copy(core: Any) -> None:
    parser = dialect_parser(core)(dialect())
    parser.feed(b"data: a\ndata: b\ndata: c")
    parser.data_lines.append("x")
    assert parser.data_lines == ["a", "b"]
    (event,) = parser.feed(b"\n\n")
    assert event.data == "a\nb\nc"
    assert parser.data_lines == []
