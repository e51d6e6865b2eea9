"""Parsers with a `Dialect` on both cores: errors, calls within callbacks, memory."""

from __future__ import annotations

import gc
import sys
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sse_fast import EventTooLarge
from sse_fast.compat._dialect import Dialect
from tests.support.dialects import (
    BOM,
    NAMES,
    Fault,
    dialect,
    dialect_parser,
    parse_dialect,
    run_with,
    values,
)
from tests.support.reference import cut

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
        (event,) = parse_dialect(core, settings, *chunks, max_event_size=10)
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


def test_wrong_number_of_attributes_raises(core: Any) -> None:
    wrong = [
        *(((), False), (NAMES[:3], False), (NAMES, False)),
        *(((), True), (NAMES[:4], True), ((*NAMES, "more"), True)),
    ]
    code = f"""
class Event: pass
for attributes, keep_lines in {wrong!r}:
    try:
        DialectParser(Dialect(Event, attributes, keep_lines=keep_lines)).feed(b"data: a\\n\\n")
    except ValueError:
        print(attributes, keep_lines)
"""
    assert run_with(core, code).splitlines() == [f"{names} {keep}" for names, keep in wrong]


def test_class_that_cannot_be_instantiated_raises(core: Any) -> None:
    code = """
for kind in (int, dict, type(iter([])), type(None), type(print)):
    try:
        DialectParser(Dialect(kind)).feed(b"data: a\\n\\n")
    except (TypeError, AttributeError):
        print(kind.__name__)
"""
    names = ["int", "dict", "list_iterator", "NoneType", "builtin_function_or_method"]
    assert run_with(core, code).split() == names


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
    run_with(core, code)


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
