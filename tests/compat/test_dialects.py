"""The flags of `Dialect` on both cores: examples, errors and memory."""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sse_fast import EventTooLarge
from sse_fast.compat._dialect import Dialect
from tests.support.dialects import (
    BOM,
    CLASSES,
    NAMES,
    Fault,
    Plain,
    dialect,
    dialect_parser,
    odd,
    values,
)
from tests.support.reference import cut


def parse(core: Any, settings: Dialect, *chunks: bytes, **options: Any) -> list[tuple[Any, ...]]:
    parser = dialect_parser(core)(settings, **options)
    has_lines = settings.keep_lines and settings.event_class is not None
    return [values(event, has_lines) for chunk in chunks for event in parser.feed(chunk)]


def run(core: Any, code: str) -> str:
    """Run code in a process of its own, as it may crash."""
    begin = (
        f"from {core.__name__} import *\n"
        f"from {dialect_parser(core).__module__} import DialectParser\n"
        "from sse_fast.compat._dialect import Dialect\n"
    )
    # Outside of the source tree, which may have no extension.
    folder = tempfile.gettempdir()
    command = [sys.executable, "-c", begin + code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


# -- Each flag -------------------------------------------------------------------------------------


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
    assert parse(core, dialect(None, keep_lines=True), b"data: a\n\n") == [
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
    """Name the blocks that are events after `before`."""
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
    with_id = parse(core, dialect(**flags), b"\n", last_event_id="7")
    assert with_id == ([("message", "", "7", None)] if "blank" in later else [])


def test_event_without_data_has_empty_text(core: Any) -> None:
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


def test_none_before_id_gives_none_until_first_id(core: Any) -> None:
    stream = b"data: 1\n\nid: a\0\ndata: 2\n\nid\n\ndata: 3\n\nid: b\ndata: 4\n\n"

    def ids(*, last_event_id: str | None = None, **flags: bool) -> list[Any]:
        events = parse(core, dialect(**flags), stream, last_event_id=last_event_id)
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
    assert [event[2] for event in parse(core, settings, stream)] == ["1", None, "", None, None]
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
        assert [event[3] for event in parse(core, settings, *chunks)] == expected
    # Each block has its own retry.
    assert parse(core, settings, b"retry: 2\n\ndata: a\n\n") == [("message", "a", "", None)]


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
        events = parse(core, dialect(read_retry=odd, **{flag: True}), stream)
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
def test_keep_lines_drops_byte_order_mark(core: Any, stream: bytes, lines: list[str]) -> None:
    settings = dialect(keep_lines=True, dispatch_fields=True)
    for chunks in ([stream], cut(stream, range(1, len(stream)))):
        assert [event[4] for event in parse(core, settings, *chunks)] == [lines]
    for at in range(len(stream)):
        assert [event[4] for event in parse(core, settings, *cut(stream, [at]))] == [lines]


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


# -- Errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_lines", [False, True])
def test_event_too_large_raises_until_reset(core: Any, keep_lines: bool) -> None:
    settings = dialect(keep_lines=keep_lines, none_before_id=True, read_retry=int)
    parser = dialect_parser(core)(settings, max_event_size=20)
    with pytest.raises(EventTooLarge) as caught:
        parser.feed(b"id: 1\ndata: a\n\nretry: 5\n: c\ndata: 123456\nid: 2\ndata: 1234567890\n\n")
    assert (caught.value.size, caught.value.limit) == (24, 20)
    assert [values(event) for event in caught.value.events] == [("message", "a", "1", None)]
    with pytest.raises(EventTooLarge) as again:
        parser.feed(b"")
    assert (again.value.size, again.value.events) == (24, [])
    parser.reset()
    # The block, its retry and its lines are gone; the last event ID stays.
    assert (parser.pending, parser.data_lines, parser.last_event_id) == (False, [], "1")
    (event,) = parser.feed(BOM + b"data: b\n\n")
    assert values(event, keep_lines) == (
        *("message", "b", "1", None),
        *([["data: b"]] if keep_lines else []),
    )


@pytest.mark.parametrize("keep_lines", [False, True])
@pytest.mark.parametrize("ignored", [b": c", b"unknown: ", b"unknown", b"dat", b"data "])
def test_limit_ignores_kept_lines(core: Any, ignored: bytes, keep_lines: bool) -> None:
    """Comments and unknown fields do not count, even if their lines are kept."""
    settings = dialect(keep_lines=keep_lines)
    long = ignored + b"x" * 100
    stream = long + b"\ndata: a\n" + long + b"\n\n"
    for chunks in ([stream], cut(stream, range(1, len(stream))), cut(stream, [50, 160])):
        (event,) = parse(core, settings, *chunks, max_event_size=10)
        assert event[1] == "a"
        assert event[4:] == (([long.decode(), "data: a", long.decode()],) if keep_lines else ())


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_reset_within_block_drops_it(core: Any, size: int) -> None:
    settings = dialect(keep_lines=True, dispatch_fields=True, read_retry=str)
    begun = b"event: e\nretry: 5\nid: 2\n: c\nany: x\ndata: a\ndata: b"
    stream = BOM + b"data: c\n\n"
    for length in range(len(begun) + 1):
        parser = dialect_parser(core)(settings, last_event_id="1")
        assert parser.feed(begun[:length]) == []
        parser.reset()
        assert (parser.data_lines, parser.pending) == ([], False)
        chunks = cut(stream, range(size, len(stream), size))
        (event,) = [event for chunk in chunks for event in parser.feed(chunk)]
        assert values(event, True) == ("message", "c", "1", None, ["data: c"])


@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize("error", [Fault, KeyboardInterrupt, TypeError])
def test_read_retry_error_loses_no_event(core: Any, error: type[BaseException], size: int) -> None:
    def read(value: str) -> str:
        if value == "x":
            raise error
        return value

    settings = dialect(keep_lines=True, read_retry=read)
    stream = b"data: 1\n\nretry: 5\ndata: 2\nretry: x\ndata: 3\n\nretry: x\nid: 1\ndata: 4\n\n"
    parser = dialect_parser(core)(settings)
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
def test_dialect_parser_checks_options(core: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        dialect_parser(core)(Dialect(), **wrong)
    with pytest.raises(TypeError):
        dialect_parser(core)(Dialect(), on_comment=print)


@pytest.mark.parametrize(
    ("attributes", "keep_lines"),
    [
        *(((), False), (NAMES[:3], False), (NAMES, False)),
        *(((), True), (NAMES[:4], True), ((*NAMES, "more"), True)),
    ],
)
def test_wrong_number_of_attributes_raises(
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
def test_class_that_cannot_be_instantiated_raises(core: Any, kind: str) -> None:
    code = f"""
try:
    DialectParser(Dialect({kind})).feed(b"data: a\\n\\n")
except (TypeError, AttributeError):
    print("refused")
"""
    assert run(core, code) == "refused\n"


def test_class_with_new_is_made_without_it(core: Any) -> None:
    """Neither `__new__` nor `__init__` is called."""

    class Strict:
        def __new__(cls, value: object) -> Any:
            raise AssertionError

    (event,) = dialect_parser(core)(Dialect(Strict)).feed(b"data: a\n\n")
    assert vars(event) == {"event": "message", "data": "a", "id": "", "retry": None}


# -- Reentrant calls -------------------------------------------------------------------------------


def test_feed_and_reset_within_read_retry_raise(core: Any) -> None:
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

    parser = dialect_parser(core)(dialect(keep_lines=True, read_retry=read))
    stream = b"data: a\ndata: b\nretry: 1\ndata: c\n\n"
    for chunks in ([stream], cut(stream, range(1, len(stream))), cut(stream, [20])):
        events = [event for chunk in chunks for event in parser.feed(chunk)]
        assert [values(event, True) for event in events] == [
            ("message", "a\nb\nc", "", 1, ["data: a", "data: b", "retry: 1", "data: c"])
        ]
    assert len(refused) == 6


def test_init_within_read_retry_changes_nothing(core: Any) -> None:
    def read(value: str) -> int:
        with pytest.raises(RuntimeError):
            parser.__init__(Dialect(default_event="other", none_before_id=True))
        return 1

    parser = dialect_parser(core)(Dialect(read_retry=read))
    events = parser.feed(b"retry: 1\ndata: a\n\nretry: 2\ndata: b\n\n")
    assert [values(event) for event in events] == [
        ("message", "a", "", 1),
        ("message", "b", "", 1),
    ]


def test_error_of_nested_feed_is_raised(core: Any) -> None:
    parser = dialect_parser(core)(dialect(read_retry=lambda value: parser.feed(b"data: x\n\n")))
    with pytest.raises(RuntimeError, match=r"feed\(\) was called within feed"):
        parser.feed(b"data: a\nretry: 1\n\n")
    (event,) = parser.feed(b"")
    assert values(event) == ("message", "a", "", None)


def test_feed_within_attribute_setter_raises(core: Any) -> None:
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
    parser = dialect_parser(core)(Dialect(Nosy, NAMES, keep_lines=True))
    with pytest.raises(Fault):
        parser.feed(b"data: a\n\ndata: b\n\ndata: c\n\n")
    first, second = parser.feed(b"")
    assert seen == [("a", []), ("b", []), ("c", [])]
    assert (first.lines, second.lines) == (["data: a"], ["data: c"])


def test_buffer_changed_by_callback_is_safe(core: Any) -> None:
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


# -- Memory ----------------------------------------------------------------------------------------


def test_parser_holds_no_reference_to_events(core: Any) -> None:
    class Local:
        pass

    def read(value: str) -> object:
        if value == "x":
            raise Fault
        return object()

    names = [f"a_{number}_{core.__name__}" for number in range(5)]

    def feed() -> None:
        settings = Dialect(Local, tuple(names), read_retry=read, keep_lines=True)
        parser = dialect_parser(core)(settings, max_event_size=1000)
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


def test_allocated_blocks_do_not_grow(core: Any) -> None:
    settings = dialect(keep_lines=True, read_retry=int, dispatch_fields=True)
    stream = b": c\nretry: 5\nretry: x\nany: \xc3\xa9\nid: 1\nevent: e\ndata: a\ndata: b\n\n" * 20
    parser = dialect_parser(core)(settings)

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
    # 2000 events: less than one block for each.
    assert sys.getallocatedblocks() - before < 500


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_memory_does_not_grow_with_events(core: Any) -> None:
    settings = dialect(keep_lines=True, read_retry=int)
    large = b"data: " + b"x" * 2**18 + b"\n"
    chunks = cut(large + b": " + large + b"\n", [10, 2**17, 2**18 + 100])

    def pages() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1])

    def feed() -> None:
        parser = dialect_parser(core)(settings)
        assert len([event for chunk in chunks for event in parser.feed(chunk)]) == 1
        for chunk in chunks[:2]:
            parser.feed(chunk)

    for _ in range(20):
        feed()
    before = pages()
    for _ in range(200):
        feed()
    # A buffer that was not freed would take 50 MiB.
    assert (pages() - before) * 4096 < 20 * 2**20


def test_cycle_through_read_retry_is_collected(core: Any) -> None:
    class Reader:
        parser: Any

        def __call__(self, value: str) -> int:
            return 1

    reader = Reader()
    reader.parser = dialect_parser(core)(dialect(read_retry=reader, keep_lines=True))
    reader.parser.feed(b"retry: 1\ndata: a\n\nretry: 2\n")
    seen = weakref.ref(reader)
    del reader
    gc.collect()
    assert seen() is None


def test_cycle_through_retry_is_collected(core: Any) -> None:
    class Value(list[Any]):
        pass

    parser = dialect_parser(core)(Dialect(read_retry=lambda value: Value()))
    (event,) = parser.feed(b"retry: 1\ndata: a\n\n")
    event.retry.append(event)
    seen = weakref.ref(event.retry)
    del event
    gc.collect()
    assert seen() is None
