"""Random flags of `Dialect`: like `Parser` without flags, and like a model, in both cores."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sse_fast import EventTooLarge
from sse_fast.compat._dialect import Dialect
from tests.support import DATA
from tests.support.dialects import BOM, CLASSES, Fault, dialect, dialect_parser, odd, values
from tests.support.examples import examples
from tests.support.reference import cut

VECTORS = json.loads((DATA / "vectors.json").read_bytes())

# -- Without flags ---------------------------------------------------------------------------------


def seen(parser: Any, chunk: Any) -> tuple[Any, ...]:
    """Return the results of a feed; reset the parser after EventTooLarge."""
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


@pytest.mark.parametrize(
    "run",
    ["as given", "whole", "byte by byte", pytest.param("in threes", marks=pytest.mark.matrix)],
)
def test_vectors_without_flags_agree_with_parser(core: Any, run: str) -> None:
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
        ours, plain = dialect_parser(core)(Dialect()), core.Parser()
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


@examples(500)
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
def test_streams_without_flags_agree_with_parser(
    core: Any, chunks: list[bytes], options: Any, kind: Any
) -> None:
    ours, plain = dialect_parser(core)(Dialect(), **options), core.Parser(**options)
    for chunk in chunks:
        assert seen(ours, kind(chunk)) == seen(plain, kind(chunk))


# -- With any flags --------------------------------------------------------------------------------


def choosy(value: str) -> str | None:
    """Return a value or None, or raise an error that is dropped or raised, by the text."""
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
    """Record all visible results, in order."""
    parser = dialect_parser(core)(settings, **options)
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


@examples(1500)
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
def test_cores_agree_on_any_dialect(
    both_cores: Any, settings: Dialect, chunks: list[bytes], options: Any, kind: Any
) -> None:
    # An empty chunk after each one continues after an exception.
    pieces = [kind(piece) for chunk in chunks for piece in (chunk, b"", b"")]
    cython, python = (trace(core, settings, pieces, options) for core in both_cores)
    assert cython == python


class Model(NamedTuple):
    """The visible results of a parser after a stream."""

    events: list[tuple[Any, ...]]
    last_event_id: str | None
    data_lines: list[str]
    pending: bool


def naive(stream: bytes, settings: Dialect, last_event_id: str | None = None) -> Model:
    """Apply the flags, as `Dialect` documents them, to the whole stream."""
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
        # An incomplete byte order mark counts as content.
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


@examples(500)
@given(dialects(READERS), cut_streams(), st.sampled_from(["", "7", None]))
def test_dialect_agrees_with_model(
    core: Any, settings: Dialect, chunks: list[bytes], last_event_id: str | None
) -> None:
    parser = dialect_parser(core)(settings, last_event_id=last_event_id)
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
def test_dialect_agrees_after_every_byte(core: Any, start: int, flags: dict[str, bool]) -> None:
    stream = ALL_KINDS[start:]
    settings = dialect(**flags)
    parser = dialect_parser(core)(settings)
    events = []
    for at in range(len(stream)):
        events += [values(event, "keep_lines" in flags) for event in parser.feed(stream[at:][:1])]
        assert shown(parser, events) == naive(stream[: at + 1], settings)
    assert parser.data_lines == ["€"]
    assert len(events) == 3
