"""`sse-fast convert`: every event of a capture is in every format; errors; progress; memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import re
import signal
import stat
import subprocess
import sys
import time
import zlib
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pandas
import polars
import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest

import sse_fast
from sse_fast._cli import convert, main

COMMAND = [sys.executable, "-m", "sse_fast", "convert"]
FORMATS = ("parquet", "arrow", "jsonl", "csv")
EVERY = pytest.mark.parametrize("suffix", FORMATS)
# Everything a format could get wrong: quotes, values that look like null, ends of line.
STREAM = (
    b'\xef\xbb\xbfid: 1\r\nevent: "tick", \xc3\xa9\r\ndata: {"a": [1, "\xe6\x97\xa5"]}\r\ndata:\r\n'
    b"data:  b\r\n\r\n: comment\rretry: 5\rdata: \\ \x00 \x7f \x1b \t '\r\r"
    b"id\nretry: 9223372036854775807\ndata\n\nid: \xff\xf0\x9f\nevent: \xed\xa0\x80\ndata: "
    b"\xf0\x9f\x9a\x80 \xe2\x80\xa8 \xc0\n\ndata: null\n\nid: NULL\nevent: 1\ndata: 007\n\n"
    b"data: ,\n\nid: a\x00b\ndata: NaN\n\n"
)
LARGE = b"data: " + b"x" * 3000 + b"\n\n"

Row = tuple[str, str, str | None, int | None]


@pytest.fixture(autouse=True)
def _away_from_the_source_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def capture() -> str:
    Path("capture.sse").write_bytes(STREAM)
    return "capture.sse"


def rows_of(*streams: bytes) -> list[Row]:
    """Return the events of streams as rows."""
    return [
        (event.event, event.data, event.id or None, event.retry)
        for stream in streams
        for event in sse_fast.iter_events([stream])
    ]


def many_events(size: int) -> bytes:
    """Return different events of `size` bytes or a little more."""
    dice = random.Random(0)
    pad = "x" * 200
    events = []
    while size > 0:
        event = f"id: {len(events)}\nevent: {dice.choice('abc')}\ndata: {dice.random()}{pad}\n\n"
        events.append(event.encode())
        size -= len(event)
    return b"".join(events)


def read(path: str) -> pyarrow.Table:
    """Read an output with pyarrow; `event` without its dictionary."""
    if path.endswith(".parquet"):
        table = pyarrow.parquet.read_table(path)
        event = table.column("event")
        assert pyarrow.types.is_dictionary(event.type)
        return table.set_column(0, "event", event.cast(pyarrow.large_string()))
    if path.endswith((".arrow", ".feather")):
        with pyarrow.memory_map(path) as file:
            return pyarrow.ipc.open_file(file).read_all()
    if path.endswith(".csv"):
        return pyarrow.csv.read_csv(
            path,
            parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True),
            convert_options=pyarrow.csv.ConvertOptions(
                column_types={
                    "event": pyarrow.large_string(),
                    "data": pyarrow.large_string(),
                    "id": pyarrow.large_string(),
                    "retry": pyarrow.int64(),
                    "offset": pyarrow.int64(),
                },
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
            ),
        )
    lines = Path(path).read_bytes().splitlines(keepends=True)
    values = [json.loads(line) for line in lines]
    for line, value in zip(lines, values, strict=True):
        assert line == json.dumps(value, ensure_ascii=False).encode() + b"\n"
        assert list(value)[:4] == ["event", "data", "id", "retry"]
        # As in the output of `cat`, a missing id is "".
        value["id"] = value["id"] or None
    return pyarrow.Table.from_pylist(values)


def rows(path: str) -> list[Row]:
    table = read(path)
    return list(zip(*(column.to_pylist() for column in table.columns[:4]), strict=True))


def run(*arguments: str) -> int:
    return main(["convert", *arguments])


def files() -> set[str]:
    return {path.name for path in Path.cwd().iterdir()}


# -- Output -------------------------------------------------------------------------------------


@EVERY
def test_every_event_is_converted(
    capture: str, suffix: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(capture, "-o", f"out.{suffix}") == 0
    assert rows(f"out.{suffix}") == rows_of(STREAM)
    assert files() == {"capture.sse", f"out.{suffix}"}
    output, error = capfd.readouterr()
    assert output == ""
    assert re.fullmatch(rf"sse-fast: 8 events from {len(STREAM)} bytes in \d+\.\d\d s\n", error)


def test_columns_have_arrow_types(capture: str) -> None:
    for suffix in FORMATS:
        run(capture, "-o", f"out.{suffix}", "--offset")
    columns = pyarrow.table(sse_fast.read_columns(capture, offset=True))
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


def test_json_lines_match_cat(capture: str) -> None:
    run(capture, "-o", "out.jsonl")
    command = [sys.executable, "-m", "sse_fast", "cat", "--json", capture]
    assert Path("out.jsonl").read_bytes() == subprocess.check_output(command)


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
def test_suffix_or_format_option_selects_format(capture: str, output: str, like: str) -> None:
    run(capture, "-o", like)
    expected = Path(like).read_bytes()
    *more, name = output.split()
    assert run(capture, *more, "-o", name) == 0
    assert Path(name).read_bytes() == expected


def test_polars_reads_outputs(capture: str) -> None:
    for suffix in FORMATS:
        run(capture, "-o", f"out.{suffix}")
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


def test_duckdb_reads_outputs(capture: str) -> None:
    for suffix in FORMATS:
        run(capture, "-o", f"out.{suffix}")
    with duckdb.connect() as connection:
        found = connection.execute("select * from 'out.parquet'").fetchall()
        assert found == rows_of(STREAM)
        found = connection.execute("select data from 'out.jsonl'").fetchall()
        assert [data for (data,) in found] == [row[1] for row in rows_of(STREAM)]


def test_pandas_reads_outputs(capture: str) -> None:
    for suffix in FORMATS:
        run(capture, "-o", f"out.{suffix}")
    for frame in (
        pandas.read_parquet("out.parquet", dtype_backend="pyarrow"),
        pandas.read_feather("out.arrow", dtype_backend="pyarrow"),
    ):
        found = frame.astype(object).where(frame.notna(), None)
        assert list(found.itertuples(index=False, name=None)) == rows_of(STREAM)


def test_standard_library_reads_csv(capture: str) -> None:
    Path(capture).write_bytes(STREAM.replace(b"\x00", b""))
    run(capture, "-o", "out.csv")
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


def pack(stream: bytes, how: str) -> bytes:
    if how == "gz":
        return gzip.compress(stream)
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        zstd = import_module("backports.zstd")
    packed: bytes = zstd.compress(stream)
    return packed


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


@EVERY
def test_more_types_than_a_dictionary_keeps(suffix: str) -> None:
    """The dictionary grows from batch to batch, and begins anew twice within one file."""
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

    Path("tiny").write_bytes(b"data:\n\n" * (2 * convert.GROUP_ROWS + 5))
    run("tiny", "-o", "out.parquet")
    assert sum(groups()) == 2 * convert.GROUP_ROWS + 5
    assert max(groups()) <= convert.GROUP_ROWS
    assert len(groups()) <= 4
    stream = many_events(30 * 2**20)
    Path("middling").write_bytes(stream)
    run("middling", "-o", "out.parquet")
    assert len(groups()) == 1
    monkeypatch.setattr(convert, "GROUP_BYTES", 12 * 2**20)
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


def test_parquet_is_compressed_by_zstd(capture: str) -> None:
    run(capture, "-o", "out.parquet")
    group = pyarrow.parquet.read_metadata("out.parquet").row_group(0)
    assert {group.column(index).compression for index in range(4)} == {"ZSTD"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_dash_is_standard_input_and_output(capture: str, kind: str) -> None:
    run(capture, "-o", f"out.{kind}")
    done = subprocess.run(
        [*COMMAND, "-", "-o", "-", "--format", kind], input=STREAM, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, Path(f"out.{kind}").read_bytes())
    assert done.stderr.startswith(f"sse-fast: 8 events from {len(STREAM)} bytes in ".encode())


@pytest.mark.skipif(os.name == "nt", reason="no POSIX devices")
@EVERY
def test_device_is_not_replaced(capture: str, suffix: str) -> None:
    assert run(capture, "-o", "/dev/null", "--format", suffix) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(os.name == "nt", reason="no POSIX pipes")
def test_named_pipes_are_read_and_written(capture: str) -> None:
    os.mkfifo("in")
    os.mkfifo("out")
    with (
        subprocess.Popen([*COMMAND, "in", "-o", "out", "--format", "jsonl"]) as process,
        subprocess.Popen(["cat", "out"], stdout=subprocess.PIPE) as reader,
    ):
        Path("in").write_bytes(STREAM)
        printed, _ = reader.communicate(timeout=60)
        assert process.wait(60) == 0
    run(capture, "-o", "out.jsonl")
    assert printed == Path("out.jsonl").read_bytes()
    assert stat.S_ISFIFO(os.stat("out").st_mode)


def test_existing_output_is_replaced_through_link(capture: str) -> None:
    Path("real.csv").write_bytes(b"before" * 1000)
    Path("real.csv").chmod(0o640)
    Path("link.csv").symlink_to("real.csv")
    assert run(capture, "-o", "link.csv") == 0
    assert Path("link.csv").is_symlink()
    assert rows("real.csv") == rows_of(STREAM)
    assert stat.S_IMODE(os.stat("real.csv").st_mode) == 0o640
    assert files() == {capture, "link.csv", "real.csv"}


def test_number_of_threads_changes_nothing() -> None:
    Path("capture").write_bytes(many_events(20 * 2**20))
    for threads in ("1", "3"):
        assert run("capture", "-o", f"{threads}.parquet", "--threads", threads) == 0
    assert Path("1.parquet").read_bytes() == Path("3.parquet").read_bytes()


# -- Errors ---------------------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_truncated_capture_keeps_events_before_it(
    suffix: str, packed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = many_events(2**20)
    Path("first").write_bytes(STREAM)
    whole = pack(stream, packed)
    Path("cut").write_bytes(whole[: len(whole) // 2])
    assert run("first", "cut", "first", "-o", f"out.{suffix}") == 1
    found = rows(f"out.{suffix}")
    expected = rows_of(STREAM, stream)
    assert 500 < len(found) < len(expected) - 500
    assert found == expected[: len(found)]
    if packed == "gz":
        there = zlib.decompressobj(31).decompress(whole[: len(whole) // 2])
        assert found == rows_of(STREAM, there)
    assert files() == {"first", "cut", f"out.{suffix}"}
    why, kept = capsys.readouterr().err.splitlines()
    assert why.startswith("sse-fast: cut: 'cut' (")
    assert " is truncated after " in why
    assert kept == f"sse-fast: out.{suffix} contains the {len(found):,} events before the error"


@EVERY
def test_oversize_event_stops_or_is_skipped(
    suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = STREAM + LARGE + b"data: after\n\n"
    Path("capture").write_bytes(stream)
    arguments = ["capture", "-o", f"out.{suffix}", "--max-event-size", "2000"]
    assert run(*arguments) == 1
    assert rows(f"out.{suffix}") == rows_of(STREAM)
    why, kept = capsys.readouterr().err.splitlines()
    assert why.startswith(f"sse-fast: capture: Event at offset {len(STREAM)} of 'capture' takes ")
    assert "over max_event_size (2000)" in why
    assert kept == f"sse-fast: out.{suffix} contains the 8 events before the error"

    for option in ("--oversize", "--on-error"):
        assert run(*arguments, option, "skip") == 0
        assert rows(f"out.{suffix}") == rows_of(STREAM + b"data: after\n\n")
        done = (
            rf"sse-fast: 9 events from {len(stream):,} bytes in [\d.]+ s, "
            "1 event over the size limit skipped"
        )
        assert re.fullmatch(done, capsys.readouterr().err.rstrip("\n"))


def test_error_after_output_to_stdout_exits_with_1() -> None:
    done = subprocess.run(
        [*COMMAND, "-", "-o", "-", "--format", "jsonl", "--max-event-size", "2000"],
        input=STREAM + LARGE,
        capture_output=True,
    )
    assert (done.returncode, done.stdout.count(b"\n")) == (1, 8)
    assert re.fullmatch(
        rb"sse-fast: -: Event at offset .* over max_event_size \(2000\).*\n", done.stderr
    )


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["c", "-o", "out"], 2, r"suffix of 'out' names no format: use \.parquet, .*, or --format"),
        (["c", "-o", "out.txt"], 2, r"suffix of 'out.txt' names no format: use \.parquet, "),
        (["c", "-o", "out.txt", "--format", "txt"], 2, "invalid choice: 'txt'"),
        (["c", "-o", "-"], 2, "standard output needs --format jsonl or csv"),
        (["c", "-o", "-", "--format", "arrow"], 2, "standard output needs --format jsonl or csv"),
        (["c"], 2, "required: -o/--output"),
        (["-o", "out.csv"], 2, "required: CAPTURE"),
        (["-", "-", "-o", "out.csv"], 2, r"standard input \(-\) can be read only once"),
        (["c", "-o", "out.csv", "--threads", "0"], 2, "Expected threads from 1 to 1024, got 0"),
        (["c", "-o", "out.csv", "--max-event-size", "0"], 2, "Expected max_event_size from 1"),
        (["c", "-o", "out.csv", "--on-error", "x"], 2, "invalid choice: 'x'"),
        (["c", "-o", "out.csv", "--oversize", "x"], 2, "invalid choice: 'x'"),
        (
            ["c", "-o", "out.csv", "--oversize", "raise", "--on-error", "skip"],
            2,
            "argument --on-error: not allowed with argument --oversize",
        ),
        (["missing", "-o", "out.csv"], 1, "sse-fast: missing: No such file or directory"),
        (["c", "missing", "-o", "out.csv"], 1, "sse-fast: missing: No such file or directory"),
        ([".", "-o", "out.csv"], 1, r"sse-fast: \.: Is a directory"),
        (["c", "-o", "no/out.csv"], 1, r"sse-fast: .*out\.csv\.part: No such file or directory"),
        (["c", "-o", "d.csv"], 1, r"sse-fast: d\.csv: Is a directory"),
    ],
)
def test_error_is_reported_in_one_line(
    arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c").write_bytes(STREAM)
    Path("d.csv").mkdir()
    if status == 2:
        with pytest.raises(SystemExit) as caught:
            run(*arguments)
        assert caught.value.code == 2
    else:
        assert run(*arguments) == status
    output, error = capsys.readouterr()
    assert output == ""
    assert re.search(message, error.splitlines()[-1])
    assert status == 2 or error.count("\n") == 1
    assert files() == {"c", "d.csv"}


@pytest.mark.parametrize("how", ["itself", "a link", "a hard link", "standard input", "its part"])
def test_output_over_a_capture_is_refused(how: str) -> None:
    Path("c.csv").write_bytes(STREAM)
    arguments, given = ["c.csv", "-o", "./c.csv"], None
    if how == "a link":
        Path("link.csv").symlink_to("c.csv")
        arguments = ["c.csv", "-o", "link.csv"]
    elif how == "a hard link":
        os.link("c.csv", "hard.csv")
        arguments = ["hard.csv", "-o", "c.csv"]
    elif how == "standard input":
        given = Path("c.csv")
        arguments = ["-", "-o", "c.csv"]
    elif how == "its part":
        Path("c.csv").rename("out.csv.part")
        arguments = ["out.csv.part", "-o", "out.csv"]
    there = files()
    with open(given or os.devnull, "rb") as stdin:
        done = subprocess.run([*COMMAND, *arguments], stdin=stdin, capture_output=True, text=True)
    assert done.returncode == 2
    assert "is one of the captures: choose another name" in done.stderr
    assert files() == there
    assert {Path(name).read_bytes() for name in there} == {STREAM}


def test_existing_temporary_file_is_left_alone(
    capture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.csv.part").write_bytes(b"precious")
    assert run(capture, "-o", "out.csv") == 1
    assert capsys.readouterr().err.endswith("out.csv.part: File exists\n")
    assert Path("out.csv.part").read_bytes() == b"precious"
    assert files() == {capture, "out.csv.part"}


def test_readonly_output_is_not_replaced(
    capture: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The directory would allow to replace the file all the same."""
    Path("out.csv").write_bytes(b"before")
    asked = []

    def access(path: str, mode: int) -> bool:
        asked.append((path, mode))
        return False

    # The tests may run as root, who may write everything.
    monkeypatch.setattr(os, "access", access)
    assert run(capture, "-o", "out.csv") == 1
    assert asked == [(str(Path("out.csv").resolve()), os.W_OK)]
    assert capsys.readouterr().err == "sse-fast: out.csv: Permission denied\n"
    assert Path("out.csv").read_bytes() == b"before"
    assert files() == {capture, "out.csv"}


@EVERY
def test_full_disk_keeps_existing_output(suffix: str) -> None:
    pytest.importorskip("resource")
    Path("capture").write_bytes(many_events(3 * 2**20))
    output = Path(f"out.{suffix}")
    output.write_bytes(b"before")
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))\n"
        "from sse_fast._cli import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "convert", "capture", "-o", str(output)],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, f"sse-fast: {output}: File too large\n")
    assert output.read_bytes() == b"before"
    assert files() == {"capture", output.name}


def test_writer_error_leaves_no_file(capture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an error of the writer, the content of its file is unknown."""

    def write(self: Any, columns: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(convert._Parquet, "write", write)
    with pytest.raises(MemoryError):
        run(capture, "-o", "out.parquet")
    assert files() == {capture}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX signals")
@EVERY
def test_interrupt_keeps_existing_output(suffix: str) -> None:
    output = Path(f"out.{suffix}")
    output.write_bytes(b"before")
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from sse_fast._cli import main\n"
        "sys.exit(main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, "convert", "-", "-o", str(output)],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(many_events(20 * 2**20))
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while not Path(f"{output}.part").exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        errors = process.stderr.read()
        assert (process.wait(60), errors) == (130, b"")
    assert output.read_bytes() == b"before"
    assert files() == {output.name}


@pytest.mark.skipif(os.name == "nt", reason="no POSIX pipes")
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_closed_pipe_ends_quietly(kind: str) -> None:
    Path("capture").write_bytes(many_events(20 * 2**20))
    with subprocess.Popen(
        [*COMMAND, "capture", "-o", "-", "--format", kind],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert (process.wait(60), errors) == (141, b"")


@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_standard_input_is_decompressed(packed: str) -> None:
    for name, stream in (("plain.csv", STREAM), ("packed.csv", pack(STREAM, packed))):
        subprocess.run([*COMMAND, "-", "-o", name], input=stream, check=True)
    assert Path("packed.csv").read_bytes() == Path("plain.csv").read_bytes()


@pytest.mark.parametrize("missing", ["pyarrow", "pyarrow.csv", "sse_fast.columns._columns_c"])
def test_missing_library_is_named(
    capture: str,
    missing: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    assert run(capture, "-o", "out.csv") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    if missing == "sse_fast.columns._columns_c":
        assert "Columns need the compiled extension of sse_fast" in error
    else:
        assert error.startswith("sse-fast: sse-fast convert needs pyarrow (")
        assert error.endswith("pip install 'sse-fast[convert]'\n")
    assert files() == {capture}


def test_missing_zstd_fails_before_writing(
    capture: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("packed").write_bytes(pack(STREAM, "zst"))
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    opened = []
    monkeypatch.setattr(convert, "_open_output", opened.append)
    assert run(capture, "packed", "-o", "out.csv") == 1
    assert "pip install 'sse-fast[zstd]'" in capsys.readouterr().err
    assert not opened


# -- Progress, and memory -------------------------------------------------------------------------


def on_a_terminal(*arguments: str, script: str = "") -> tuple[int, str]:
    """Return the exit code, and the text that appears on a terminal as standard error."""
    pty = pytest.importorskip("pty")
    near, far = pty.openpty()
    start = f"{script}\nimport sys\nfrom sse_fast._cli import main\nsys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", start, "convert", *arguments],
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONIOENCODING": "utf-8"},
        stdin=subprocess.DEVNULL,
        stdout=far if "-" in arguments else subprocess.DEVNULL,
        stderr=far,
    ) as process:
        os.close(far)
        shown = b""
        while True:
            try:
                got = os.read(near, 65536)
            except OSError:
                break
            if not got:
                break
            shown += got
    os.close(near)
    return process.returncode, shown.decode()


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_progress_bar_on_terminal(packed: bool) -> None:
    stream = many_events(20 * 2**20)
    content = gzip.compress(stream, 1) if packed else stream
    Path("capture").write_bytes(content)
    Path("twice").write_bytes(content)
    status, shown = on_a_terminal("capture", "twice", "-o", "out.jsonl")
    assert status == 0
    # Bytes read of bytes on the disk, the rate, the time left.
    total = f"{2 * len(content) / 1e6:.1f}"
    assert f"{total}/{total} MB" in shown
    assert "100%" in shown
    assert re.search(r"\d+\.\d [kM]B/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    # The bar also moves within a capture.
    assert {int(share) for share in re.findall(r"(\d+)%", shown)} - {0, 50, 100}
    # At the end, the bar is replaced by the summary.
    *_, last = shown.rpartition("\x1b[2K")
    assert re.fullmatch(r"sse-fast: [\d,]+ events from [\d,]+ bytes in [\d.]+ s\r\n", last)


def test_no_bar_if_quiet_or_output_on_terminal(capture: str) -> None:
    assert on_a_terminal(capture, "-o", "out.csv", "--quiet") == (0, "")
    assert rows("out.csv") == rows_of(STREAM)
    # A bar would get between the lines of the output.
    status, shown = on_a_terminal(capture, "-o", "-", "--format", "jsonl")
    assert (status, shown.count("\n")) == (0, 9)
    assert "%" not in shown


def test_quiet_still_reports_dropped_event(
    capture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dropped event is reported."""
    Path(capture).write_bytes(STREAM + b"data: x")
    assert run(capture, "-o", "out.csv", "-q") == 0
    message = "sse-fast: capture.sse: the stream ended within an event, which is dropped\n"
    assert capsys.readouterr().err == message


def test_rich_is_needed_for_the_bar_only(capture: str) -> None:
    without = "import sys\nsys.modules['rich'] = None"
    status, shown = on_a_terminal(capture, "-o", "out.csv", script=without)
    assert status == 1
    assert shown.endswith("pip install 'sse-fast[convert]', or --quiet\r\n")
    assert files() == {capture}
    assert on_a_terminal(capture, "-o", "out.csv", "-q", script=without) == (0, "")
    script = f"{without}\nfrom sse_fast._cli import main\nsys.exit(main())"
    arguments = [sys.executable, "-c", script, "convert", capture, "-o", "out.csv"]
    assert subprocess.run(arguments, capture_output=True).returncode == 0


def test_closed_standard_error_drops_messages(
    capture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If standard error was closed, messages are dropped, and do not go to standard output."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", output)
    assert run(capture, "-o", "out.csv") == 0
    assert output.getvalue() == ""
    assert rows("out.csv") == rows_of(STREAM)


@pytest.mark.soak
@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
@EVERY
def test_memory_is_bounded(suffix: str) -> None:
    """The capture is compressed, because mapped files would count as memory of the process."""
    block = many_events(4 * 2**20)
    with gzip.open("capture", "wb", 1) as file:
        for _ in range(80):
            file.write(block)
    script = (
        "from pathlib import Path\n"
        "from sse_fast._cli import main\n"
        "assert main() == 0\n"
        "status = Path('/proc/self/status').read_text()\n"
        "print(status.partition('VmHWM:')[2].split()[0])\n"
    )
    arguments = [sys.executable, "-c", script, "convert", "capture", "-o", "/dev/null"]
    peak = subprocess.check_output([*arguments, "--format", suffix, "-q"])
    # In KiB. The capture has 320 MiB.
    assert int(peak) < 260 * 2**10
