"""`sse-fast convert`: every event of a capture is in every format."""

from __future__ import annotations

import csv
import os
import random
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest

import sse_fast
from sse_fast._cli import _formats
from tests.support.commands import run_command
from tests.support.converting import (
    EVERY,
    FORMATS,
    ONE,
    STREAM,
    files,
    many_events,
    pack,
    read,
    rows,
    rows_of,
    run,
)

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")


@EVERY
def test_every_event_is_converted(
    mixed_capture: str, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(mixed_capture, "-o", f"out.{suffix}") == 0
    assert rows(f"out.{suffix}") == rows_of(STREAM)
    assert files() == {"capture.sse", f"out.{suffix}"}
    output, error = capfd.readouterr()
    assert output == ""
    assert re.fullmatch(rf"sse-fast: 8 events from {len(STREAM)} bytes in \d+\.\d\d s\n", error)


def test_columns_have_arrow_types(mixed_capture: str) -> None:
    for suffix in FORMATS:
        run(mixed_capture, "-o", f"out.{suffix}", "--offset")
    columns = pyarrow.table(sse_fast.read_columns(mixed_capture, offset=True))
    # pyarrow reads the strings of a dictionary with another width.
    table = pyarrow.parquet.read_table("out.parquet")
    assert pyarrow.types.is_dictionary(table.schema.field("event").type)
    assert table.cast(columns.schema).equals(columns)
    plain = columns.set_column(0, "event", columns.column(0).cast(pyarrow.large_string()))
    fields = [(field.name, field.type) for field in plain.schema]
    schema = read("out.arrow").schema
    assert [(field.name, field.type) for field in schema] == fields
    assert [field.nullable for field in schema] == [field.nullable for field in columns.schema]
    for suffix in FORMATS:
        table = read(f"out.{suffix}")
        assert table.column("offset").to_pylist() == plain.column("offset").to_pylist()
        assert table.column_names == plain.column_names


def test_json_lines_match_cat(mixed_capture: str) -> None:
    run(mixed_capture, "-o", "out.jsonl")
    assert Path("out.jsonl").read_bytes() == run_command("cat", "--json", mixed_capture).stdout


@pytest.mark.parametrize(
    ("output", "like"),
    [
        ("out.feather", "out.arrow"),
        ("out.ndjson", "out.jsonl"),
        ("OUT.CSV", "out.csv"),
        ("--format=csv out.jsonl", "out.csv"),
        ("--format=jsonl out", "out.jsonl"),
    ],
)
def test_suffix_or_format_option_selects_format(mixed_capture: str, output: str, like: str) -> None:
    run(mixed_capture, "-o", like)
    expected = Path(like).read_bytes()
    *more, name = output.split()
    assert run(mixed_capture, *more, "-o", name) == 0
    assert Path(name).read_bytes() == expected


def test_polars_reads_outputs(mixed_capture: str) -> None:
    import polars

    for suffix in FORMATS:
        run(mixed_capture, "-o", f"out.{suffix}")
    for frame in (
        polars.read_parquet("out.parquet"),
        polars.read_ipc("out.arrow"),
    ):
        found = frame.with_columns(
            polars.col("event").cast(polars.String), polars.col("retry").cast(polars.Int64)
        )
        assert found.rows() == rows_of(STREAM)
    lines = polars.read_ndjson("out.jsonl").with_columns(polars.col("id").replace("", None))
    assert lines.rows() == rows_of(STREAM)


def test_duckdb_reads_outputs(mixed_capture: str) -> None:
    import duckdb

    for suffix in FORMATS:
        run(mixed_capture, "-o", f"out.{suffix}")
    with duckdb.connect() as connection:
        found = connection.execute("select * from 'out.parquet'").fetchall()
        assert found == rows_of(STREAM)
        found = connection.execute("select data from 'out.jsonl'").fetchall()
        assert [data for (data,) in found] == [row[1] for row in rows_of(STREAM)]


def test_pandas_reads_outputs(mixed_capture: str) -> None:
    import pandas

    for suffix in FORMATS:
        run(mixed_capture, "-o", f"out.{suffix}")
    for frame in (
        pandas.read_parquet("out.parquet", dtype_backend="pyarrow"),
        pandas.read_feather("out.arrow", dtype_backend="pyarrow"),
    ):
        found = frame.astype(object).where(frame.notna(), None)
        assert list(found.itertuples(index=False, name=None)) == rows_of(STREAM)


def test_standard_library_reads_csv(mixed_capture: str) -> None:
    Path(mixed_capture).write_bytes(STREAM.replace(b"\x00", b""))
    run(mixed_capture, "-o", "out.csv")
    with open("out.csv", newline="", encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    assert head == ["event", "data", "id", "retry"]
    expected = rows_of(STREAM.replace(b"\x00", b""))
    assert [line[:2] for line in lines] == [list(row[:2]) for row in expected]
    # An empty text has quotes, a null does not.
    assert b'\n"message","",,9223372036854775807\n' in Path("out.csv").read_bytes()


@EVERY
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_compressed_capture_is_decompressed(suffix: str, packed: str) -> None:
    # The content tells the coding, not the name.
    Path("capture").write_bytes(pack(STREAM, packed))
    assert run("capture", "-o", f"out.{suffix}") == 0
    assert rows(f"out.{suffix}") == rows_of(STREAM)


@EVERY
def test_each_capture_is_a_stream_by_itself(
    suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither an id nor an unfinished event goes on into the next capture."""
    streams = [b"id: 1\nevent: a\ndata: x\n\n", STREAM, b"", b"event: b\ndata: y\n\ndata: z\n"]
    for number, stream in enumerate(streams):
        Path(f"{number}").write_bytes(pack(stream, "gz") if number == 1 else stream)
    assert run("0", "1", "2", "3", "0", "-o", f"out.{suffix}") == 0
    assert rows(f"out.{suffix}") == rows_of(*streams, streams[0])
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == "sse-fast: 3: the stream ended within an event, which is dropped"
    size = sum(Path(number).stat().st_size for number in "01230")
    assert notes[1].startswith(f"sse-fast: 11 events from {size} bytes in ")
    assert len(notes) == 2


@EVERY
@pytest.mark.parametrize("stream", [b"", b": nothing\n\n"], ids=["empty", "no event"])
def test_capture_without_events_gives_empty_output(
    suffix: str, stream: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("capture").write_bytes(stream)
    assert run("capture", "-o", f"out.{suffix}") == 0
    assert capsys.readouterr().err.startswith(f"sse-fast: 0 events from {len(stream)} bytes in ")
    if suffix == "jsonl":
        assert Path("out.jsonl").read_bytes() == b""
    else:
        table = read(f"out.{suffix}")
        assert (table.num_rows, table.column_names) == (0, ["event", "data", "id", "retry"])


@ONE
def test_more_types_than_a_dictionary_keeps(suffix: str) -> None:
    """The dictionary grows from batch to batch, and begins anew twice within one file."""
    import polars

    names = [f"type {number}" for number in range(140_000)]
    dice = random.Random(0)
    order = [*names, *dice.choices(names, k=10_000)]
    stream = "".join(f"event: {name}\ndata: {'x' * 100}\n\n" for name in order).encode()
    Path("capture").write_bytes(stream)
    dictionaries = [
        pyarrow.record_batch(columns).column("event").dictionary.to_pylist()
        for columns in sse_fast.iter_columns("capture")
    ]
    assert any(before[0] not in after for before, after in pairwise(dictionaries))
    assert run("capture", "-o", f"out.{suffix}") == 0
    assert read(f"out.{suffix}").column("event").to_pylist() == order
    if suffix == "parquet":
        group = pyarrow.parquet.read_metadata("out.parquet").row_group(0)
        assert group.num_rows == len(order)
        assert polars.read_parquet("out.parquet")["event"].cast(polars.String).to_list() == order
    if suffix == "arrow":
        assert polars.read_ipc("out.arrow")["event"].to_list() == order


def test_row_groups_are_neither_tiny_nor_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    def groups() -> list[int]:
        metadata = pyarrow.parquet.read_metadata("out.parquet")
        return [metadata.row_group(index).num_rows for index in range(metadata.num_row_groups)]

    Path("tiny").write_bytes(b"data:\n\n" * (2 * _formats.GROUP_ROWS + 5))
    run("tiny", "-o", "out.parquet")
    assert sum(groups()) == 2 * _formats.GROUP_ROWS + 5
    assert max(groups()) <= _formats.GROUP_ROWS
    assert len(groups()) <= 4
    stream = many_events(30 * 2**20)
    Path("middling").write_bytes(stream)
    run("middling", "-o", "out.parquet")
    assert len(groups()) == 1
    monkeypatch.setattr(_formats, "GROUP_BYTES", 12 * 2**20)
    run("middling", "-o", "out.parquet")
    assert len(groups()) == 2
    assert rows("out.parquet") == rows_of(stream)


def test_growing_dictionary_is_one_per_row_group() -> None:
    """Otherwise Parquet would write the types of all later batches as plain text."""
    dice = random.Random(0)
    types = [f"type.of.thirty.names.{number}" for number in range(30)]
    chosen = [*dice.choices(types, k=300_000), "late", *dice.choices(types, k=300_000)]
    Path("capture").write_text("".join(f"event: {each}\ndata\n\n" for each in chosen))
    assert run("capture", "-o", "out.parquet") == 0
    column = pyarrow.parquet.read_metadata("out.parquet").row_group(0).column(0)
    assert column.num_values == len(chosen)
    assert column.total_uncompressed_size < len(chosen)
    assert read("out.parquet").column("event").to_pylist() == chosen


def test_parquet_is_compressed_by_zstd(mixed_capture: str) -> None:
    run(mixed_capture, "-o", "out.parquet")
    group = pyarrow.parquet.read_metadata("out.parquet").row_group(0)
    assert {group.column(index).compression for index in range(4)} == {"ZSTD"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_dash_is_standard_input_and_output(mixed_capture: str, kind: str) -> None:
    run(mixed_capture, "-o", f"out.{kind}")
    done = run_command("convert", "-", "-o", "-", "--format", kind, stdin=STREAM)
    assert (done.returncode, done.stdout) == (0, Path(f"out.{kind}").read_bytes())
    assert done.stderr.startswith(f"sse-fast: 8 events from {len(STREAM)} bytes in ".encode())


@pytest.mark.skipif(os.name == "nt", reason="no POSIX devices")
@EVERY
def test_device_is_not_replaced(mixed_capture: str, suffix: str) -> None:
    assert run(mixed_capture, "-o", "/dev/null", "--format", suffix) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(os.name == "nt", reason="no POSIX pipes")
def test_named_pipes_are_read_and_written(mixed_capture: str) -> None:
    os.mkfifo("in")
    os.mkfifo("out")
    with ThreadPoolExecutor(2) as threads:
        threads.submit(Path("in").write_bytes, STREAM)
        printed = threads.submit(Path("out").read_bytes)
        assert run("in", "-o", "out", "--format", "jsonl") == 0
    run(mixed_capture, "-o", "out.jsonl")
    assert printed.result() == Path("out.jsonl").read_bytes()
    assert stat.S_ISFIFO(os.stat("out").st_mode)


def test_existing_output_is_replaced_through_link(mixed_capture: str) -> None:
    Path("real.csv").write_bytes(b"before" * 1000)
    Path("real.csv").chmod(0o640)
    Path("link.csv").symlink_to("real.csv")
    assert run(mixed_capture, "-o", "link.csv") == 0
    assert Path("link.csv").is_symlink()
    assert rows("real.csv") == rows_of(STREAM)
    assert stat.S_IMODE(os.stat("real.csv").st_mode) == 0o640
    assert files() == {mixed_capture, "link.csv", "real.csv"}


def test_number_of_threads_changes_nothing() -> None:
    Path("capture").write_bytes(many_events(20 * 2**20))
    for threads in ("1", "3"):
        assert run("capture", "-o", f"{threads}.parquet", "--threads", threads) == 0
    assert Path("1.parquet").read_bytes() == Path("3.parquet").read_bytes()
