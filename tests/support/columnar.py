"""Helpers of the tests of columns: rows, and a naive reading to compare with."""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NamedTuple

import pytest

import sse_fast
from sse_fast import EventTooLarge, Parser
from sse_fast.columns import _readers

if os.environ.get("SSE_FAST_REQUIRE_EXTENSIONS"):
    import_module("sse_fast.columns._columns_c")
else:
    pytest.importorskip("sse_fast.columns._columns_c", reason="the extension was not built")
pa: Any = pytest.importorskip("pyarrow")

DATA_TYPES = ["large_string", "string_view"]
each_type = pytest.mark.parametrize("data_type", DATA_TYPES)

BOM = b"\xef\xbb\xbf"

MAGIC_NUMBERS = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")
"""The first bytes of gzip and zstd. Whatever begins so is decompressed, so it is never parsed."""


def zstd() -> Any:
    try:
        return import_module("compression.zstd")
    except ImportError:
        return pytest.importorskip("backports.zstd")


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "zst": lambda data: zstd().compress(data),
}

# Everything that can go wrong at a border: ids that are set, kept, emptied, and longer than the 12
# bytes inside a view; types, retries, comments, empty blocks, all ends of line, invalid UTF-8.
MIXED = (
    b"data: a\n\nid: 1\rdata: b\r\rid: one that takes more than twelve bytes\r\ndata: c\r\n\r\n"
    b"data: no view has all of this in it\n\n:\n\nid\ndata: d\n\nretry: 5\ndata\n\nid: 2\n\n"
    b"event: x\ndata: \xff\xe2\x82\n\nevent: \xff\ndata: e\ndata: f\n\n\n\r\n\r\rid: \xc3\xa9\xff\n"
    b"data: g\n\nid: \0\ndata: h\n\nevent: x\nid: last\n\ndata: i\n\ndata: cut off"
)


class Reading(NamedTuple):
    """Everything that can be observed of a stream that was read."""

    rows: list[tuple[Any, ...]]
    last_event_id: str
    pending: bool
    skipped: int
    error_offset: int | None


def interpret_blocks(
    stream: bytes, limit: int = 2**24, skips: bool = False, last_event_id: str = ""
) -> Reading:
    """Parse each block by itself with `Parser`, and note where it begins."""
    rows: list[tuple[Any, ...]] = []
    pending, skipped = False, 0
    for offset, block in _blocks(stream):
        parser = Parser(last_event_id=last_event_id, max_event_size=limit)
        if offset:
            # A byte order mark counts only at the beginning.
            parser.feed(b"\n")
        try:
            events = parser.feed(block)
            pending = parser.pending
        except EventTooLarge:
            if not skips:
                return Reading(rows, last_event_id, True, 0, offset)
            skipped += 1
            pending = not _ends_block(block)
            continue
        last_event_id = parser.last_event_id
        rows += [(it.event, it.data, it.id or None, it.retry, offset) for it in events]
    return Reading(rows, last_event_id, pending, skipped, None)


def _blocks(stream: bytes) -> Iterator[tuple[int, bytes]]:
    line_start = len(BOM) if stream.startswith(BOM) else 0
    start = 0
    for end_of_line in re.finditer(b"\r\n|\r|\n", stream):
        if end_of_line.start() == line_start:
            yield start, stream[start : end_of_line.end()]
            start = end_of_line.end()
        line_start = end_of_line.end()
    yield start, stream[start:]


def _ends_block(block: bytes) -> bool:
    return re.search(b"(\r\n|\r|\n)(\r\n|\r|\n)\\Z", block) is not None


@contextmanager
def segments_of(size: int) -> Iterator[None]:
    """Make segments end at the first blank line after `size` bytes."""
    defaults: Any = sse_fast.iter_columns.__kwdefaults__
    before = _readers.SEGMENT_SIZE
    _readers.SEGMENT_SIZE = defaults["batch_bytes"] = size
    try:
        yield
    finally:
        _readers.SEGMENT_SIZE = defaults["batch_bytes"] = before


def rows_of(table: Any) -> list[tuple[Any, ...]]:
    """Return the rows of anything that pyarrow can read."""
    table = pa.table(table)
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def read(stream: Any, **options: Any) -> Reading:
    """Read with `read_columns`; rows have their offset."""
    error_offset = None
    try:
        result = sse_fast.read_columns(stream, offset=True, **options)
    except EventTooLarge as error:
        result, error_offset = error.columns, error.offset
    rows = rows_of(result)
    assert len(result) == len(rows)
    return Reading(rows, result.last_event_id, result.pending, result.skipped, error_offset)


def iterate(source: Any, **options: Any) -> Reading:
    """Read with `iter_columns`, batch by batch; rows have their offset."""
    rows: list[tuple[Any, ...]] = []
    error_offset = None
    with sse_fast.iter_columns(source, offset=True, **options) as stream:
        try:
            for batch in stream:
                assert batch.last_event_id == stream.last_event_id
                assert len(batch)
                rows += rows_of(batch)
        except EventTooLarge as error:
            error_offset = error.offset
        assert next(stream, None) is None
    return Reading(rows, stream.last_event_id, stream.pending, stream.skipped, error_offset)


def layout(columns: Any) -> list[tuple[Any, ...]]:
    """Return rows, dictionary, indices and values of each batch."""
    return [
        (
            batch.num_rows,
            batch.column(0).dictionary.to_pylist(),
            batch.column(0).indices.to_pylist(),
            [column.to_pylist() for column in batch.columns[1:]],
        )
        for batch in pa.table(columns).to_batches()
    ]
