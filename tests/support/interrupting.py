"""Exceptions from within `Parser.feed`: a failed allocation, or a signal handler that raises.

    python -m tests.support.interrupting c    # or py; and 2 for every second place

checks every case in a process of its own, as a failed allocation may also hit another thread. For
each place that can be interrupted, the events have to come out all the same, or the parser has to
refuse input until `reset()`.
"""

from __future__ import annotations

import dis
import json
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib import import_module
from types import CodeType, FrameType
from typing import Any, NamedTuple


class Interrupt(BaseException):
    """Raised like KeyboardInterrupt."""


class Case(NamedTuple):
    """A stream, and the options of the parser that reads it."""

    chunks: list[bytes]
    make_options: Callable[[], dict[str, Any]] = dict


def repeat(block: bytes, count: int = 3) -> bytes:
    """Return blocks in which each `%d` is the number of the block."""
    return b"".join(block % ((index,) * block.count(b"%d")) for index in range(1, count + 1))


def cut(stream: bytes, size: int) -> list[bytes]:
    """Cut the stream into chunks of this size."""
    return [stream[at : at + size] for at in range(0, len(stream), size)]


CASES: dict[str, Case] = {
    "text": Case([repeat(b"data: number %d\n\n")]),
    "wide text": Case([repeat("data: no. %d é €\n\n".encode())]),
    "CRLF": Case([repeat(b"id: no. %d\r\ndata: number %d\r\n\r\n")]),
    "CR": Case(cut(repeat(b"data: number %d\r\r"), 9)),
    "types": Case([repeat(b"event: type %d\ndata: number %d\n\n")]),
    "long types": Case([repeat(b"event: " + b"x" * 70 + b"%d\ndata: a\n\n")]),
    "ids": Case([repeat(b"id: no. %d\ndata: number %d\n\n")]),
    "ids without data": Case([repeat(b"id: %d\ndata: a\n\nid: no. %d.5\n\nid: no. %d.6\n\n")]),
    "retry": Case([repeat(b"retry: 1000%d\nid: no. %d\ndata: number %d\n\n")]),
    "many fields": Case([repeat(b": %d\nx: %d\nevent\nid: %d\ndata: of\ndata\nretry: %d\n\n")]),
    "one event per chunk": Case([b"data: number %d\n\n" % index for index in range(4)]),
    "one typed event per chunk": Case([b"event: type %d\ndata\n\n" % index for index in range(4)]),
    "one event with an id per chunk": Case(
        [b"event: type %d\nid: no. %d\ndata: number %d\n\n" % (at, at, at) for at in range(4)]
    ),
    "data in small chunks": Case(cut(repeat(b"data: one number, which is %d\n\n", 2), 9)),
    "small chunks": Case(
        cut(b"\xef\xbb\xbf" + repeat(b"id: %d\nevent: x\n: c\nunknown\ndata: a\ndata: b\n\n", 2), 7)
    ),
    "single bytes": Case(cut(repeat(b"id: %d\r\ndata\r\n\r\n", 2), 1)),
    "decode": Case([repeat(b"id: no. %d\ndata: number %d\n\n")], lambda: {"decode": bytes}),
    "decode by type": Case(
        [repeat(b'event: x\ndata: {"a": [%d]}\n\ndata: number %d\n\n', 2)],
        lambda: {"decode": {"x": json.loads}},
    ),
    "until": Case(
        [repeat(b"id: no. %d\ndata: number %d\n\n")],
        lambda: {"until": lambda event: event.data == "number 2"},
    ),
    "until as text": Case(
        [repeat(b"id: no. %d\ndata: number %d\n\n")], lambda: {"until": "number 2"}
    ),
    "until_event": Case(
        [repeat(b"event: type %d\nid: no. %d\ndata: number %d\n\n")],
        lambda: {"until_event": "type 2"},
    ),
    "until_event without data": Case(
        [repeat(b"data: a\n\nevent: type %d\nid: no. %d\n\n")], lambda: {"until_event": "type 2"}
    ),
    "on_comment": Case(
        [repeat(b": %d\nid: no. %d\n: x\ndata: number %d\n\n")], lambda: {"on_comment": str}
    ),
}


def without_memory(feed: Callable[[Any], Any], chunk: Any, number: int) -> Any:
    """Call `feed` while this allocation of Python's, counted from 0, fails, and no other."""
    import _testcapi

    _testcapi.set_nomemory(number, number + 1)
    try:
        return feed(chunk)
    finally:
        _testcapi.remove_mem_hooks()


@lru_cache
def checked_offsets(code: CodeType) -> frozenset[int]:
    """Return the instructions before which CPython may run signal handlers."""
    offsets = set()
    after_call = False
    for each in dis.get_instructions(code):
        if each.opname == "CACHE":
            continue
        if after_call or each.opname == "JUMP_BACKWARD":
            offsets.add(each.offset)
        after_call = each.opname.startswith("CALL")
    return frozenset(offsets)


def _is_finalizing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


def interrupted(feed: Callable[[Any], Any], chunk: Any, number: int, folder: str) -> Any:
    """Call `feed`, and raise where CPython runs signal handlers for the `number`th time.

    The start of `feed` itself is left out: there, it was not called yet.
    """
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        code = frame.f_code
        if not code.co_filename.startswith(folder):
            return None
        frame.f_trace_opcodes = True
        if (event == "call" and code.co_name != "feed") or (
            event == "opcode" and frame.f_lasti in checked_offsets(code)
        ):
            count += 1
            # An exception in a finalizer interrupts no caller.
            if count > number and not _is_finalizing(frame):
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        return feed(chunk)
    finally:
        sys.settrace(before)


def outcome(parser: Any, events: list[Any]) -> tuple[Any, ...]:
    """Return everything visible."""
    return (
        [(event.event, event.data, event.id, event.retry) for event in events],
        parser.last_event_id,
        parser.retry,
        parser.pending,
        parser.done,
    )


def check(
    make_parser: Callable[[], Any],
    chunks: list[Any],
    fail: Callable[[Any, Any, int], Any],
    step: int,
) -> Iterator[bool]:
    """Interrupt each chunk's feed at every `step`-th place; yield whether input is refused then.

    `fail(parser, chunk, number)` feeds the chunk, and interrupts that at the place of the number.
    """
    parser = make_parser()
    expected = outcome(parser, [event for chunk in chunks for event in parser.feed(chunk)])
    for place in range(0, len(chunks), len(chunks) // 4 + 1):
        number = successes = 0
        # An allocation that fails need not make `feed` fail.
        while successes < 10:
            parser, events, is_refused, has_failed = make_parser(), [], False, False
            for index, chunk in enumerate(chunks):
                try:
                    if index != place:
                        events += parser.feed(chunk)
                        continue
                    try:
                        events += fail(parser, chunk, number)
                    except (MemoryError, Interrupt):
                        has_failed = True
                        # An empty chunk continues.
                        events += parser.feed(b"")
                except (MemoryError, RuntimeError):
                    is_refused = True
                    break
            context = place, number, events
            if is_refused:
                assert has_failed, context
                try:
                    parser.feed(b"data: x\n\n")
                except (MemoryError, RuntimeError):
                    pass
                else:
                    raise AssertionError(f"input is not refused: {context}")
                assert outcome(parser, events)[0] == expected[0][: len(events)], context
                parser.reset()
                assert len(parser.feed(b"data: x\n\n")) == 1, context
            else:
                assert outcome(parser, events) == expected, context
            if has_failed:
                yield is_refused
            successes = 0 if has_failed else successes + 1
            number += step


class Item:
    """An event of another library."""

    event: str
    data: str
    id: str
    retry: int | None
    lines: list[str]


def parsers(core: str) -> Iterator[tuple[str, Callable[[], Any], list[bytes]]]:
    """Yield the name of each case, a function that makes its parser, and its chunks."""
    parser = import_module(f"sse_fast._core.parser_{core}").Parser
    for name, case in CASES.items():
        yield name, lambda case=case: parser(**case.make_options()), case.chunks
    parser_of = import_module(f"sse_fast.compat._dialect_{core}").DialectParser
    dialects = import_module("sse_fast.compat._dialect")
    names = ("event", "data", "id", "retry", "lines")
    for name, dialect in {
        "fields": dialects.Dialect(dispatch_fields=True),
        "lines": dialects.Dialect(Item, names, keep_lines=True, none_before_id=True),
        "retries": dialects.Dialect(Item, names[:4], read_retry=int, dispatch_values=True),
    }.items():
        for chunks in ("many fields", "small chunks", "types"):
            yield (
                f"{chunks} with {name}",
                lambda dialect=dialect: parser_of(dialect),
                CASES[chunks].chunks,
            )


def main(core: str, step: int = 1) -> None:
    """Check a core, and print how often `feed` was interrupted and refused input after that."""
    package = import_module("sse_fast").__path__[0]

    def starve(parser: Any, chunk: Any, number: int) -> Any:
        return without_memory(parser.feed, chunk, number)

    def interrupt(parser: Any, chunk: Any, number: int) -> Any:
        return interrupted(parser.feed, chunk, number, package)

    for name, make_parser, chunks in parsers(core):
        kind: Any
        for kind in (bytes, bytearray) if " with " not in name else (bytes,):
            # These take the same branches as other cases, or drop the line of a `retry`.
            is_quick = "text" in name or "long" in name or "retries" in name or kind is bytearray
            fails = (starve,) if core == "c" or is_quick else (starve, interrupt)
            for fail in fails:
                refusals = list(check(make_parser, list(map(kind, chunks)), fail, step))
                print(name, fail.__name__, kind.__name__, len(refusals), sum(refusals), sep="\t")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
