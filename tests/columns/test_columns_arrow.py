"""Columns as read by Arrow libraries: pyarrow, Polars, DuckDB, pandas, nanoarrow."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

import sse_fast
from sse_fast import EventTooLarge, TransportError, iter_columns, read_columns
from tests.support.columnar import (
    MIXED,
    each_type,
    interpret_blocks,
    layout,
    pa,
    rows_of,
    segments_of,
)

EXPECTED = interpret_blocks(MIXED).rows
# The second number is the size of segments: ids cross their borders.
SOURCES = {
    "one batch": (MIXED, 2**20, 2**20),
    "batches": (MIXED, 40, 2),
    "rows": (MIXED, 1, 1),
    "no ids, no retries": (b"event: x\ndata: some text of an event\n\n" * 9, 2**20, 4),
    "nothing": (b": nothing\n\n", 2**20, 2**20),
}
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


def columns_of(source: tuple[bytes, int, int], data_type: Any) -> sse_fast.Columns:
    stream, size, batch_size = source
    with segments_of(size):
        return read_columns(stream, data_type=data_type, batch_size=batch_size, offset=True)


def stream_of(source: tuple[bytes, int, int], data_type: Any) -> sse_fast.ColumnStream:
    stream, _, batch_size = source
    return iter_columns([stream], data_type=data_type, batch_size=batch_size, offset=True)


# -- pyarrow ---------------------------------------------------------------------------------------


@each_type
@each_source
def test_pyarrow_validates_schema_and_batches(
    source: tuple[bytes, int, int], data_type: str
) -> None:
    text = pa.large_string() if data_type == "large_string" else pa.string_view()
    schema = pa.schema(
        [
            pa.field("event", pa.dictionary(pa.int32(), pa.large_string()), nullable=False),
            pa.field("data", text, nullable=False),
            pa.field("id", text),
            pa.field("retry", pa.int64()),
            pa.field("offset", pa.int64(), nullable=False),
        ]
    )
    expected = interpret_blocks(source[0]).rows
    columns = columns_of(source, data_type)
    assert pa.schema(columns) == schema
    assert pa.schema(stream_of(source, data_type)) == schema
    reader = pa.RecordBatchReader.from_stream(stream_of(source, data_type))
    for table in (pa.table(columns), reader.read_all()):
        assert table.schema == schema
        table.validate(full=True)
        for batch in table.to_batches():
            batch.validate(full=True)
            for column in batch.columns:
                assert column.null_count == column.to_pylist().count(None)
        assert rows_of(table) == expected
        assert rows_of(table.combine_chunks()) == expected


@each_type
@each_source
def test_columns_as_one_array_keep_rows(source: tuple[bytes, int, int], data_type: str) -> None:
    """The order of the exports does not matter, and each can be repeated."""
    expected = interpret_blocks(source[0]).rows
    columns = columns_of(source, data_type)
    before = pa.table(columns)
    for _ in range(2):
        batch = pa.record_batch(columns)
        batch.validate(full=True)
        assert rows_of(batch) == expected
        assert pa.array(columns).type == pa.struct(pa.schema(columns))
        assert rows_of(columns) == expected
    assert rows_of(before) == expected
    del columns
    assert rows_of(batch) == expected


@each_type
def test_one_array_of_batches_with_and_without_ids(data_type: str) -> None:
    long = "an id of more than twelve bytes"
    blocks = [b"data: a\n\n"] * 9 + [f"id: {long}\nretry: 7\ndata: b\n\n".encode()] * 9
    blocks += [b"id\ndata: c\n\n"] * 9 + [b"id: 1\nevent: x\ndata: d\n\n"]
    expected = [("a", None, None)] * 9 + [("b", long, 7)] * 9
    expected += [("c", None, None)] * 9 + [("d", "1", None)]
    for batch_size in (1, 2, 3, 5, 8, 9, 1000):
        columns = read_columns(b"".join(blocks), data_type=data_type, batch_size=batch_size)
        batch = pa.record_batch(columns)
        batch.validate(full=True)
        assert [row[1:] for row in rows_of(batch)] == expected


@each_type
def test_every_slice_has_its_rows(data_type: str) -> None:
    columns = columns_of(SOURCES["one batch"], data_type)
    batch = pa.record_batch(columns)
    for start in range(len(EXPECTED)):
        for length in range(len(EXPECTED) - start + 1):
            part = batch.slice(start, length)
            part.validate(full=True)
            assert rows_of(part) == EXPECTED[start : start + length]


@each_type
def test_columns_can_be_read_twice(data_type: str) -> None:
    columns = columns_of(SOURCES["batches"], data_type)
    first, second = pa.table(columns), pa.table(columns)
    assert first.equals(second)
    assert layout(first) == layout(second)
    assert len(columns) == len(EXPECTED)


@each_type
def test_stream_is_exhausted_after_one_read(data_type: str) -> None:
    stream = stream_of(SOURCES["batches"], data_type)
    head = next(stream)
    assert rows_of(head) == EXPECTED[:2]
    assert rows_of(stream) == EXPECTED[2:]
    assert pa.table(stream).num_rows == 0
    assert next(stream, None) is None
    assert rows_of(head) == EXPECTED[:2]


@each_type
def test_requested_schema_is_ignored(data_type: str) -> None:
    columns = columns_of(SOURCES["batches"], data_type)
    wanted = pa.schema([("event", pa.string()), ("data", pa.string())]).__arrow_c_schema__()
    schema, array = columns.__arrow_c_array__(wanted)
    assert rows_of(pa.RecordBatch._import_from_c_capsule(schema, array)) == EXPECTED
    capsule = columns.__arrow_c_stream__(requested_schema=wanted)
    assert rows_of(pa.RecordBatchReader._import_from_c_capsule(capsule)) == EXPECTED
    stream = stream_of(SOURCES["batches"], data_type)
    capsule = stream.__arrow_c_stream__(wanted)
    assert rows_of(pa.RecordBatchReader._import_from_c_capsule(capsule)) == EXPECTED


def test_capsules_may_be_dropped_unused() -> None:
    columns = columns_of(SOURCES["batches"], "string_view")
    for _ in range(3):
        columns.__arrow_c_schema__()
        columns.__arrow_c_stream__()
        columns.__arrow_c_array__()
        stream_of(SOURCES["batches"], "string_view").__arrow_c_stream__()
    assert rows_of(columns) == EXPECTED


# -- Dictionaries ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data_type", "batch_size"),
    [
        ("string_view", 20_000),
        ("large_string", 70_000),
        pytest.param("string_view", 70_000, marks=pytest.mark.matrix),
        pytest.param("large_string", 20_000, marks=pytest.mark.matrix),
    ],
)
def test_overgrown_dictionary_starts_anew(data_type: str, batch_size: int) -> None:
    """After 65,536 types the next batch begins a new dictionary, which may grow as large."""
    count = 70_000
    names = [f"type {number}" for number in range(count - 1)] + ["message"]
    expected = names + names[-1:] + [f"some {number}" for number in range(count - 1)]
    blocks = [f"event: {name}\ndata\n\n".encode() for name in expected]
    # "message" is the type of a block that names none.
    blocks[count - 1] = blocks[count] = b"data\n\n"
    stream = b"".join(blocks)
    half = sum(map(len, blocks[:count]))
    for source in (stream, [stream]):
        batches = []
        with segments_of(half - 3):
            for columns in iter_columns(source, data_type=data_type, batch_size=batch_size):
                batch = pa.record_batch(columns)
                batch.validate(full=True)
                batches.append(batch)
        # Later batches must not change earlier ones.
        events = [event for batch in batches for event in batch.column(0).to_pylist()]
        assert events == expected
        assert max(len(batch.column(0).dictionary) for batch in batches) <= count + 10_000
    columns = read_columns(stream, data_type=data_type)
    assert len(pa.record_batch(columns).column(0).dictionary) == 2 * count - 1
    assert pa.table(columns)["event"].to_pylist() == expected


def test_dictionary_has_types_in_order_of_appearance() -> None:
    names = ["message", "x", "x" * 8, "x" * 9, "x" * 16, "é", "x\0", "x\0\0", "message2", "\ufffd"]
    stream = b"".join(f"event: {name}\ndata\n\n".encode() for name in names * 3)
    table = pa.table(read_columns(b"data\n\nevent\ndata\n\n" + stream))
    assert table["event"].to_pylist() == ["message"] * 2 + names * 3
    assert table["event"].chunk(0).dictionary.to_pylist() == names


# -- Errors in a stream ----------------------------------------------------------------------------


@each_type
def test_too_large_error_reaches_arrow_consumer(data_type: str) -> None:
    large = b"data: a\n\ndata: " + b"x" * 100 + b"\n\n"
    for source in (large, [large]):
        stream = iter_columns(source, max_event_size=50, data_type=data_type)
        reader = pa.RecordBatchReader.from_stream(stream)
        assert rows_of(reader.read_next_batch()) == [("message", "a", None, None)]
        with pytest.raises(OSError, match=r"EventTooLarge: Event at offset 9 .* \(50\)"):
            reader.read_next_batch()
        with pytest.raises(StopIteration):
            reader.read_next_batch()


def test_transport_error_reaches_arrow_consumer() -> None:
    def chunks() -> Any:
        yield b"data: a\n\n"
        raise ConnectionResetError("gone")

    stream = iter_columns(chunks())
    with pytest.raises(OSError, match="TransportError: Reading the stream failed"):
        pa.table(stream)
    stream = iter_columns(chunks())
    assert rows_of(next(stream)) == [("message", "a", None, None)]
    with pytest.raises(TransportError):
        next(stream)


# -- Other libraries -------------------------------------------------------------------------------


@each_type
@each_source
def test_polars_has_every_row(source: tuple[bytes, int, int], data_type: str) -> None:
    polars: Any = pytest.importorskip("polars")
    expected = interpret_blocks(source[0]).rows
    columns = columns_of(source, data_type)
    frame = polars.DataFrame(columns)
    assert frame.rows() == expected
    assert frame.columns == ["event", "data", "id", "retry", "offset"]
    assert polars.DataFrame(stream_of(source, data_type)).rows() == expected
    assert polars.DataFrame(columns).equals(frame)
    if expected:
        assert frame.filter(polars.col("event") == "x").height == sum(
            row[0] == "x" for row in expected
        )
        del columns
        assert frame.rows() == expected


@each_type
@each_source
def test_duckdb_has_every_row(source: tuple[bytes, int, int], data_type: str) -> None:
    duckdb: Any = pytest.importorskip("duckdb")
    expected = interpret_blocks(source[0]).rows
    with duckdb.connect(config={"threads": 2}) as connection:
        connection.register("kept", columns_of(source, data_type))
        for _ in range(2):
            assert connection.sql("select * from kept").fetchall() == expected
        count = connection.sql("select count(*), count(id) from kept where event = 'x'").fetchall()
        chosen = [row for row in expected if row[0] == "x"]
        assert count == [(len(chosen), sum(row[2] is not None for row in chosen))]
        connection.register("once", stream_of(source, data_type))
        assert connection.sql("select * from once").fetchall() == expected


@each_type
@each_source
def test_pandas_has_every_row(source: tuple[bytes, int, int], data_type: str) -> None:
    pandas: Any = pytest.importorskip("pandas")
    if not hasattr(pandas.DataFrame, "from_arrow"):
        pytest.skip("pandas before 3")
    expected = interpret_blocks(source[0]).rows
    for columns in (columns_of(source, data_type), stream_of(source, data_type)):
        frame = pandas.DataFrame.from_arrow(columns)
        assert len(frame) == len(expected)
        for index, name in enumerate(["event", "data", "id", "retry", "offset"]):
            values = [None if pandas.isna(value) else value for value in frame[name].tolist()]
            assert values == [row[index] for row in expected]


@each_type
@each_source
def test_nanoarrow_accepts_schema_and_arrays(
    source: tuple[bytes, int, int], data_type: str
) -> None:
    nanoarrow: Any = pytest.importorskip("nanoarrow")
    expected = interpret_blocks(source[0]).rows
    columns = columns_of(source, data_type)
    schema = nanoarrow.c_schema(columns)
    assert [child.name for child in schema.children] == ["event", "data", "id", "retry", "offset"]
    text = {"large_string": "U", "string_view": "vu"}[data_type]
    assert [child.format for child in schema.children] == ["i", text, text, "l", "l"]
    assert schema.child(0).dictionary.format == "U"
    # Only `id` and `retry` are nullable.
    assert [child.flags for child in schema.children] == [0, 0, 2, 2, 0]
    with nanoarrow.c_array_stream(columns) as stream:
        count = 0
        for array in stream:
            array.view()
            count += array.length
    assert count == len(expected)


# -- Copies and pickles ----------------------------------------------------------------------------


def test_columns_cannot_be_made_copied_or_pickled() -> None:
    import copy
    import pickle

    with pytest.raises(TypeError, match="read_columns"):
        sse_fast.Columns()
    with pytest.raises(TypeError, match="iter_columns"):
        sse_fast.ColumnStream()
    for each in (read_columns(MIXED), iter_columns(MIXED)):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(each)
        with pytest.raises(TypeError, match="pickle"):
            copy.copy(each)
    assert repr(read_columns(MIXED)) == f"<Columns of {len(EXPECTED)} events>"


def test_error_with_columns_is_pickled_without_them() -> None:
    import pickle

    with pytest.raises(EventTooLarge) as caught:
        read_columns(b"data: a\n\ndata: too much\n\n", max_event_size=10)
    assert len(caught.value.columns) == 1
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.size, again.limit, again.offset) == (14, 10, 9)
    assert (again.events, again.filename) == ([], None)
    assert str(again) == str(caught.value)
    assert not hasattr(again, "columns")
    assert not hasattr(sse_fast.SSEError, "columns")


@each_type
def test_threads_may_read_the_same_columns(data_type: str) -> None:
    """All of them make one array of the batches at the same time."""
    columns = columns_of(SOURCES["batches"], data_type)
    results: list[Any] = []

    def work() -> None:
        for _ in range(20):
            results.append(rows_of(pa.record_batch(columns)) == EXPECTED)
            results.append(rows_of(columns) == EXPECTED)

    threads = [threading.Thread(target=work) for _ in range(min(4, os.cpu_count() or 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * (40 * len(threads))
