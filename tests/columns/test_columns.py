"""Columns have the events of `Parser`, however the stream is split and whoever reads it."""

from __future__ import annotations

import base64
import gzip
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import sse_fast
from sse_fast import EventTooLarge, Parser, TransportError, iter_columns, read_columns
from tests.core.test_conformance import NAMED
from tests.core.test_properties import streams
from tests.support.columnar import (
    BOM,
    DATA_TYPES,
    MAGIC_NUMBERS,
    MIXED,
    Reading,
    each_type,
    interpret_blocks,
    iterate,
    layout,
    pa,
    read,
    rows_of,
    segments_of,
)
from tests.support.each import check_each
from tests.support.examples import examples
from tests.support.reference import cut, interpret

THREADS = range(1, 9)

plain_streams = streams.filter(lambda stream: not stream.startswith(MAGIC_NUMBERS))


def agree(stream: bytes, **options: Any) -> Reading:
    """Check a stream in memory and in chunks, with both types, and return the expected reading."""
    expected = interpret_blocks(stream)
    for data_type in DATA_TYPES:
        assert read(stream, data_type=data_type, **options) == expected
        assert iterate(stream, data_type=data_type, **options) == expected
        assert iterate([stream], data_type=data_type, **options) == expected
    return expected


# -- Events ----------------------------------------------------------------------------------------


def test_columns_of_vectors_match_spec() -> None:
    check_each(NAMED, check_vector)


def check_vector(vector: dict[str, Any]) -> None:
    expected = vector.get("spec", vector)
    chunks = [base64.b64decode(chunk) for chunk in vector["chunks"]]
    stream = b"".join(chunks)
    events = [
        (event["type"], event["data"], event["last_event_id"] or None)
        for event in expected["events"]
    ]
    reading = agree(stream)
    assert [row[:3] for row in reading.rows] == events
    assert reading.last_event_id == expected["last_event_id"]
    with segments_of(1 + len(stream) // 500):
        for data_type in DATA_TYPES:
            assert read(stream, data_type=data_type, threads=1) == reading
            assert read(stream, data_type=data_type, threads=2, batch_size=2) == reading
    assert iterate(chunks) == reading
    assert iterate(cut(stream, range(1, min(len(stream), 400)))) == reading


@examples(250)
@given(plain_streams, st.integers(1, 60), st.sampled_from([1, 2, 3, 1000]))
@example(BOM + b"data: x\n\n" + BOM + b"data: x\ndata: y\n\n", 1, 1000)
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", 10, 1000)
@example(b"id\n\ndata: a\n\nid: 1\n\n", 1, 1)
def test_columns_of_any_bytes_match_parser(stream: bytes, segment: int, batch_size: int) -> None:
    whole = interpret(stream)
    expected = interpret_blocks(stream)
    assert [(*row[:2], row[2] or "", row[3]) for row in expected.rows] == whole.events
    assert (expected.last_event_id, expected.pending) == (whole.last_event_id, whole.pending)
    with segments_of(segment):
        assert agree(stream, threads=1, batch_size=batch_size) == expected
        assert read(stream, threads=2, data_type="string_view") == expected


@examples(150)
@given(plain_streams, st.lists(st.integers(0, 120), max_size=12), st.sampled_from([1, 2, 1000]))
def test_columns_of_any_chunks_match_parser(
    stream: bytes, places: list[int], batch_size: int
) -> None:
    chunks = cut(stream, [min(place, len(stream)) for place in places])
    expected = interpret_blocks(stream)
    for data_type in DATA_TYPES:
        assert iterate(chunks, data_type=data_type, batch_size=batch_size) == expected
        with segments_of(7):
            assert read(stream, data_type=data_type, batch_size=batch_size) == expected


@each_type
@pytest.mark.parametrize("newline", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_split_at_every_byte_changes_nothing(data_type: str, newline: bytes) -> None:
    """Check segments and chunks."""
    text = MIXED.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    for stream in (text.replace(b"\n", newline), MIXED):
        expected = interpret_blocks(stream)
        assert len(expected.rows) == 11
        assert iterate(cut(stream, range(1, len(stream))), data_type=data_type) == expected
        for place in range(1, len(stream)):
            assert iterate(cut(stream, [place]), data_type=data_type) == expected
            with segments_of(place):
                assert read(stream, threads=1, data_type=data_type) == expected


@each_type
@pytest.mark.parametrize("threads", THREADS)
def test_any_segment_size_changes_nothing(data_type: str, threads: int) -> None:
    expected = interpret_blocks(MIXED)
    for size in range(1, len(MIXED), 11):
        with segments_of(size):
            assert read(MIXED, threads=threads, data_type=data_type) == expected
            assert iterate(MIXED, threads=threads, data_type=data_type) == expected


@each_type
@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 2**31 - 1])
def test_batch_size_cuts_batches(data_type: str, batch_size: int) -> None:
    stream = MIXED.replace(b"\n\ndata: cut off", b"\n\n") * 3
    expected = interpret_blocks(stream)
    for source in (stream, [stream], cut(stream, range(5, len(stream), 5))):
        batches = list(iter_columns(source, data_type=data_type, batch_size=batch_size))
        full, rest = divmod(len(expected.rows), batch_size)
        assert [len(batch) for batch in batches] == [batch_size] * full + [rest] * (rest > 0)
        assert iterate(source, data_type=data_type, batch_size=batch_size) == expected
    columns = read_columns(stream, data_type=data_type, batch_size=batch_size)
    assert len(columns) == len(expected.rows)
    assert [batch.num_rows for batch in pa.table(columns).to_batches()] == [
        len(batch) for batch in batches
    ]


# -- Each column -----------------------------------------------------------------------------------


@pytest.mark.parametrize("magic", MAGIC_NUMBERS, ids=["gzip", "zstd"])
def test_stream_with_magic_number_is_not_parsed(magic: bytes) -> None:
    """Bytes that begin as gzip or zstd are decompressed, even if they are not compressed."""
    stream = magic + b"\n\ndata: a\n\n"
    with pytest.raises(TransportError, match=r"is (damaged|truncated) after 0 ") as caught:
        read_columns(stream)
    assert len(caught.value.columns) == 0
    for source in (stream, [stream], cut(stream, range(1, len(stream)))):
        with pytest.raises(TransportError, match=r"is (damaged|truncated) after 0 "):
            next(iter_columns(source))
    # Less than the whole number is text.
    assert read(magic[:1] + b"\n\ndata: a\n\n").rows == [("message", "a", None, None, 3)]
    assert [event.data for event in sse_fast.iter_events([stream])] == ["a"]


@examples(150)
@given(plain_streams)
def test_stream_from_offset_begins_with_its_event(stream: bytes) -> None:
    last_event_id = None
    for event, data, this_id, retry, offset in read(stream).rows:
        if offset == 0 or not stream[offset:].startswith(BOM):
            parser = Parser(last_event_id=last_event_id or "")
            parser.feed(b"\n" if offset else b"")
            first = parser.feed(stream[offset:])[0]
            assert (first.event, first.data, first.retry) == (event, data, retry)
            # The id may also come from a block without data in between.
            assert first.id in (this_id or "", last_event_id or "")
        last_event_id = this_id


def test_offset_after_split_crlf_is_of_next_block() -> None:
    stream = b"data: a\r\n\r\ndata: b\r\n\r\n"
    for place in range(len(stream)):
        batch = pa.table(iter_columns(cut(stream, [place]), offset=True))
        assert batch["offset"].to_pylist() == [0, 11]


@each_type
@pytest.mark.parametrize("id", [b"1", b"x" * 12, b"x" * 13, "é€🚀".encode() * 5, b"\xff" * 5])
@pytest.mark.parametrize("end", [b"", b"id\n\n", b"id: 2\n\n"])
def test_id_stays_in_force_across_segments(data_type: str, id: bytes, end: bytes) -> None:
    stream = b"data: a\n\n" * 3 + b"id: %b\n\n" % id + b"data: b\n\n" * 9 + end + b"data: c\n\n" * 9
    text = id.decode(errors="replace")
    after = {b"": text, b"id\n\n": None, b"id: 2\n\n": "2"}[end]
    expected = [None] * 3 + [text] * 9 + [after] * 9
    for size in (1, 20, 50, 1000):
        for batch_size in (1, 4, 1000):
            options: Any = {"data_type": data_type, "batch_size": batch_size}
            with segments_of(size):
                for threads in (1, 3):
                    columns = read_columns(stream, threads=threads, **options)
                    assert pa.table(columns)["id"].to_pylist() == expected
                    assert columns.last_event_id == (after or "")
                batches = list(iter_columns(stream, **options))
            ids = [pa.table(batch)["id"].to_pylist() for batch in batches]
            assert [each for some in ids for each in some] == expected
            for batch, some, more in zip(batches, ids, [*ids[1:], [after]], strict=True):
                # A block without data after the last event may have set it, too.
                assert batch.last_event_id in (some[-1] or "", more[0] or "")
            chunked = iter_columns(cut(stream, range(0, len(stream), 7)), **options)
            assert pa.table(chunked)["id"].to_pylist() == expected


def test_batch_last_event_id_is_of_its_last_event() -> None:
    """A block without data after the last event counts only if it was read already."""
    stream = b"data: a\n\nid: 1\ndata: b\n\nid: 2\n\ndata: c\n\nid: 3\n\n"
    for source in (stream, [stream]):
        reading = iter_columns(source, batch_size=1)
        assert [batch.last_event_id for batch in reading] == ["", "1", "2"]
        assert reading.last_event_id == "3"


@each_type
def test_last_event_id_option_fills_first_rows(data_type: str) -> None:
    for start in ("7", "an id of more than twelve bytes, é"):
        stream = b"data: a\n\n" * 5 + b"id: 8\ndata: b\n\nid\n\ndata: c\n\n"
        with segments_of(1):
            for source in (stream, [stream], cut(stream, range(1, len(stream)))):
                reading = iterate(source, data_type=data_type, last_event_id=start, threads=2)
                assert [row[2] for row in reading.rows] == [start] * 5 + ["8", None]
            assert read(stream, data_type=data_type, last_event_id=start) == reading
            empty = read(b"", data_type=data_type, last_event_id=start)
            assert empty == ([], start, False, 0, None)


@each_type
def test_retry_is_null_unless_block_sets_it(data_type: str) -> None:
    most = b"9" * 30
    blocks = [b"", b"retry: 0\n", b"retry: %b\n" % most, b"retry: x\n", b"retry: 3\nretry: 4\n"]
    order = [index % len(blocks) for index in range(40)] + [0] * 40 + [1]
    values = [None, 0, 2**63 - 1, None, 4]
    stream = b"".join(blocks[index] + b"data\n\n" for index in order)
    for batch_size in (1, 3, 8, 9, 1000):
        for source in (stream, [stream]):
            table = pa.table(iter_columns(source, batch_size=batch_size, data_type=data_type))
            assert table["retry"].to_pylist() == [values[index] for index in order]
            assert table["retry"].null_count == sum(values[index] is None for index in order)


@each_type
@pytest.mark.parametrize("size", [0, 1, 7, 8, 11, 12, 13, 15, 16, 17, 31, 32, 33, 64, 5000])
def test_texts_of_every_size_are_kept(data_type: str, size: int) -> None:
    """Short copies must not read past the end of the source."""
    values = ["x" * size, "é" * (size // 2) + "y" * (size % 2)]
    for value in values:
        block = f"id: {value}\ndata: {value}\n\n".encode()
        for count in (1, 2, 50):
            expected = [("message", value, value or None, None)] * count
            for source in (block * count, [block * count], [block] * count):
                options: Any = {"data_type": data_type}
                assert rows_of(iter_columns(source, **options)) == expected
            assert rows_of(read_columns(block * count, data_type=data_type)) == expected


# -- Oversize --------------------------------------------------------------------------------------


@examples(250)
@given(plain_streams, st.integers(1, 40), st.integers(1, 60), st.booleans())
@example(b"data: aaaa\r\ndata: a\r\n\r\ndata: b\n\n", 12, 1, True)
@example(b"data: aaaaaaaaaaa", 12, 1, True)
@example(b"id: 1\ndata: aaaaaaaaaa\n\ndata: b\n\n", 12, 1, True)
def test_oversize_of_any_bytes_matches_parser(
    stream: bytes, limit: int, size: int, skips: bool
) -> None:
    expected = interpret_blocks(stream, limit, skips)
    options: Any = {"max_event_size": limit, "oversize": "skip" if skips else "raise"}
    readings = [
        iterate([stream], **options),
        iterate(cut(stream, range(1, len(stream))), **options),
        iterate(cut(stream, range(size, len(stream), size)), **options),
    ]
    with segments_of(size):
        for data_type in DATA_TYPES:
            readings += [
                read(stream, data_type=data_type, threads=2, **options),
                iterate(stream, data_type=data_type, threads=1, **options),
            ]
    for reading in readings:
        assert reading._replace(pending=expected.pending) == expected
        assert expected.error_offset is not None or reading.pending == expected.pending


@each_type
def test_oversize_event_of_many_lines_raises_or_skips(data_type: str) -> None:
    stream = b"data: a\n\n" + b"data: x\n" * 10 + b"\ndata: b\n\n"
    with pytest.raises(
        EventTooLarge, match=r"at offset 9 takes .* over max_event_size \(20\): raise"
    ) as caught:
        read_columns(stream, data_type=data_type, max_event_size=20)
    assert caught.value.limit == 20
    assert caught.value.size > 20
    assert rows_of(caught.value.columns) == [("message", "a", None, None)]
    columns = read_columns(stream, data_type=data_type, max_event_size=20, oversize="skip")
    assert columns.skipped == 1
    assert pa.table(columns)["data"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("function", [read_columns, iter_columns])
def test_on_error_is_former_name_of_oversize(function: Any) -> None:
    assert rows_of(function(b"data: large\n\ndata\n\n", max_event_size=9, on_error="skip")) == [
        ("message", "", None, None)
    ]
    with pytest.raises((EventTooLarge, OSError), match="max_event_size"):
        rows_of(function(b"data: large\n\n", max_event_size=9, on_error="raise"))
    for oversize in ("raise", "skip"):
        with pytest.raises(TypeError, match="on_error is the former name of oversize"):
            function(b"", oversize=oversize, on_error="skip")


# -- Threads ---------------------------------------------------------------------------------------


def _random_stream(seed: int, count: int) -> bytes:
    rng = random.Random(seed)
    blocks = []
    for _ in range(count):
        lines = [b"data: " + b"x" * rng.choice([0, 5, 12, 13, 40])]
        if rng.random() < 0.2:
            lines.append(b"id: " + b"i" * rng.choice([0, 1, 12, 30]))
        if rng.random() < 0.5:
            lines.append(b"event: type %d" % rng.randrange(40))
        if rng.random() < 0.1:
            lines.append(b"retry: %d" % rng.randrange(9))
        end = rng.choice([b"\n", b"\r\n", b"\r"])
        blocks.append(end.join([*lines, b"", b""]))
    return b"".join(blocks)


@each_type
@pytest.mark.parametrize("batch_size", [3, 1000])
def test_number_of_threads_changes_nothing(data_type: str, batch_size: int) -> None:
    stream = _random_stream(1, 400)
    options: Any = {"data_type": data_type, "batch_size": batch_size, "offset": True}
    with segments_of(997):
        whole = pa.table(read_columns(stream, threads=1, **options))
        batches = [layout(each) for each in iter_columns(stream, threads=1, **options)]
        for threads in THREADS[1:]:
            again = pa.table(read_columns(stream, threads=threads, **options))
            assert layout(again) == layout(whole)
            assert again.equals(whole)
            assert again.combine_chunks().equals(whole.combine_chunks())
            streamed = [layout(each) for each in iter_columns(stream, threads=threads, **options)]
            assert streamed == batches
    assert rows_of(whole) == interpret_blocks(stream).rows
    # All batches share the types, in the order of their first appearance.
    types = whole["event"].chunk(0).dictionary.to_pylist()
    assert types == list(dict.fromkeys(whole["event"].to_pylist()))


@each_type
def test_number_of_threads_changes_no_error(data_type: str) -> None:
    stream = _random_stream(2, 200)
    place = stream.index(b"\n\n", len(stream) // 2) + 2
    stream = stream[:place] + b"data: " + b"x" * 100 + b"\n\n" + stream[place:]
    expected = interpret_blocks(stream, 90)
    assert expected.error_offset == place
    with segments_of(300):
        for threads in THREADS:
            assert read(stream, threads=threads, max_event_size=90, data_type=data_type)[:2] == (
                expected.rows,
                expected.last_event_id,
            )
            reading = iterate(stream, threads=threads, max_event_size=90, data_type=data_type)
            assert reading[:2] == expected[:2]
            assert reading.error_offset == place


_LONG_ID = b"data: first\n\nid: " + b"i" * 1500 + b"\n\n"
_REPEATED = b"data\n\n" * 60_000


def test_repeated_long_id_raises_memory_error() -> None:
    """Rows of a few bytes that repeat a long id must not take all memory."""
    stream = _LONG_ID + _REPEATED
    assert len(read_columns(stream, data_type="string_view")) == 60_001
    with pytest.raises(MemoryError, match=r"16 times .*string_view") as caught:
        read_columns(stream)
    place = re.search("at offset ([0-9]+):", str(caught.value))
    assert place is not None
    assert len(_LONG_ID) < int(place[1]) < len(stream)
    assert isinstance(caught.value.columns, sse_fast.Columns)


def test_repeated_id_of_previous_segment_raises_memory_error() -> None:
    before = _LONG_ID + b":" + b"c" * len(_REPEATED) + b"\n\n"
    with segments_of(len(_REPEATED)), pytest.raises(MemoryError) as caught:
        read_columns(before + _REPEATED)
    assert rows_of(caught.value.columns) == [("message", "first", None, None)]
    place = re.search("at offset ([0-9]+):", str(caught.value))
    assert place is not None
    assert len(before) <= int(place[1]) < len(before) + len(_REPEATED)


def test_repeated_id_of_compressed_file_raises_memory_error(tmp_path: Path) -> None:
    file = tmp_path / "capture.gz"
    file.write_bytes(gzip.compress(_LONG_ID + _REPEATED, 1))
    with pytest.raises(MemoryError, match=r"16 times .*string_view"):
        read_columns(file)
