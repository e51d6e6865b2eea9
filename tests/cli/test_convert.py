"""`sse-fast convert`: what is in a capture is in every format, and what can go wrong."""

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
# Whatever a format could trip over: what it quotes, what it takes for null, and ends of line.
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
    """What the events of streams are as rows."""
    return [
        (event.event, event.data, event.id or None, event.retry)
        for stream in streams
        for event in sse_fast.iter_events([stream])
    ]


def many_events(size: int) -> bytes:
    """So many bytes, or some more; not two alike."""
    dice = random.Random(0)
    pad = "x" * 200
    events = []
    while size > 0:
        event = f"id: {len(events)}\nevent: {dice.choice('abc')}\ndata: {dice.random()}{pad}\n\n"
        events.append(event.encode())
        size -= len(event)
    return b"".join(events)


def read(path: str) -> pyarrow.Table:
    """By pyarrow; `event` without its dictionary."""
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
        # There is no null in the events that `cat` prints either.
        value["id"] = value["id"] or None
    return pyarrow.Table.from_pylist(values)


def rows(path: str) -> list[Row]:
    table = read(path)
    return list(zip(*(column.to_pylist() for column in table.columns[:4]), strict=True))


def run(*arguments: str) -> int:
    return main(["convert", *arguments])


def files() -> set[str]:
    return {path.name for path in Path.cwd().iterdir()}


# -- What is written ----------------------------------------------------------------------------


@EVERY
def test_every_event(capture: str, suffix: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(capture, "-o", f"out.{suffix}") == 0
    assert rows(f"out.{suffix}") == rows_of(STREAM)
    assert files() == {"capture.sse", f"out.{suffix}"}
    output, error = capfd.readouterr()
    assert output == ""
    assert re.fullmatch(rf"sse-fast: 8 events from {len(STREAM)} bytes in \d+\.\d\d s\n", error)


def test_the_types(capture: str) -> None:
    for suffix in FORMATS:
        run(capture, "-o", f"out.{suffix}", "--offset")
    columns = pyarrow.table(sse_fast.read_columns(capture, offset=True))
    # Of a dictionary, pyarrow gives its strings another width.
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


def test_json_lines_are_those_of_cat(capture: str) -> None:
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
def test_the_output_says_the_format(capture: str, output: str, like: str) -> None:
    run(capture, "-o", like)
    expected = Path(like).read_bytes()
    *more, name = output.split()
    assert run(capture, *more, "-o", name) == 0
    assert Path(name).read_bytes() == expected


def test_polars(capture: str) -> None:
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


def test_duckdb(capture: str) -> None:
    for suffix in FORMATS:
        run(capture, "-o", f"out.{suffix}")
    with duckdb.connect() as connection:
        found = connection.execute("select * from 'out.parquet'").fetchall()
        assert found == rows_of(STREAM)
        found = connection.execute("select data from 'out.jsonl'").fetchall()
        assert [data for (data,) in found] == [row[1] for row in rows_of(STREAM)]


def test_pandas(capture: str) -> None:
    for suffix in FORMATS:
        run(capture, "-o", f"out.{suffix}")
    for frame in (
        pandas.read_parquet("out.parquet", dtype_backend="pyarrow"),
        pandas.read_feather("out.arrow", dtype_backend="pyarrow"),
    ):
        found = frame.astype(object).where(frame.notna(), None)
        assert list(found.itertuples(index=False, name=None)) == rows_of(STREAM)


def test_csv_by_the_standard_library(capture: str) -> None:
    Path(capture).write_bytes(STREAM.replace(b"\x00", b""))
    run(capture, "-o", "out.csv")
    with open("out.csv", newline="", encoding="utf-8") as file:
        head, *lines = csv.reader(file)
    assert head == ["event", "data", "id", "retry"]
    expected = rows_of(STREAM.replace(b"\x00", b""))
    assert [line[:2] for line in lines] == [list(row[:2]) for row in expected]
    # What is empty has quotes, a null has none.
    assert b'\n"message","",,9223372036854775807\n' in Path("out.csv").read_bytes()


@EVERY
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_compressed_captures(suffix: str, packed: str) -> None:
    # By content, whatever it is called.
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
def test_several_captures(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Each is a stream of its own: ids do not go on, and an unfinished event is none."""
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
def test_no_event(suffix: str, stream: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    Path("capture").write_bytes(stream)
    assert run("capture", "-o", f"out.{suffix}") == 0
    assert capsys.readouterr().err.startswith(f"sse-fast: 0 events from {len(stream)} bytes in ")
    if suffix == "jsonl":
        assert Path("out.jsonl").read_bytes() == b""
    else:
        table = read(f"out.{suffix}")
        assert (table.num_rows, table.column_names) == (0, ["event", "data", "id", "retry"])


@EVERY
def test_more_event_types_than_a_dictionary_takes(suffix: str) -> None:
    """The dictionary grows from batch to batch, and starts afresh: twice within one file."""
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


def test_a_dictionary_that_grows_is_one_for_each_row_group() -> None:
    """Else all that comes behind the first batch would be written in full."""
    dice = random.Random(0)
    types = [f"type.of.thirty.names.{number}" for number in range(30)]
    chosen = [*dice.choices(types, k=300_000), "late", *dice.choices(types, k=300_000)]
    Path("capture").write_text("".join(f"event: {each}\ndata\n\n" for each in chosen))
    assert run("capture", "-o", "out.parquet") == 0
    column = pyarrow.parquet.read_metadata("out.parquet").row_group(0).column(0)
    assert column.num_values == len(chosen)
    assert column.total_uncompressed_size < len(chosen)
    assert read("out.parquet").column("event").to_pylist() == chosen


def test_parquet_is_compressed(capture: str) -> None:
    run(capture, "-o", "out.parquet")
    group = pyarrow.parquet.read_metadata("out.parquet").row_group(0)
    assert {group.column(index).compression for index in range(4)} == {"ZSTD"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_standard_input_and_output(capture: str, kind: str) -> None:
    run(capture, "-o", f"out.{kind}")
    done = subprocess.run(
        [*COMMAND, "-", "-o", "-", "--format", kind], input=STREAM, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, Path(f"out.{kind}").read_bytes())
    assert done.stderr.startswith(f"sse-fast: 8 events from {len(STREAM)} bytes in ".encode())


@pytest.mark.skipif(os.name == "nt", reason="devices of POSIX")
@EVERY
def test_a_device_stays(capture: str, suffix: str) -> None:
    assert run(capture, "-o", "/dev/null", "--format", suffix) == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
def test_named_pipes(capture: str) -> None:
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


def test_what_was_there_is_replaced(capture: str) -> None:
    Path("real.csv").write_bytes(b"before" * 1000)
    Path("real.csv").chmod(0o640)
    Path("link.csv").symlink_to("real.csv")
    assert run(capture, "-o", "link.csv") == 0
    assert Path("link.csv").is_symlink()
    assert rows("real.csv") == rows_of(STREAM)
    assert stat.S_IMODE(os.stat("real.csv").st_mode) == 0o640
    assert files() == {capture, "link.csv", "real.csv"}


def test_the_number_of_threads_changes_nothing() -> None:
    Path("capture").write_bytes(many_events(20 * 2**20))
    for threads in ("1", "3"):
        assert run("capture", "-o", f"{threads}.parquet", "--threads", threads) == 0
    assert Path("1.parquet").read_bytes() == Path("3.parquet").read_bytes()


# -- What can go wrong ----------------------------------------------------------------------------


@EVERY
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_a_cut_off_capture_gives_what_came_before(
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
    assert why.startswith("sse-fast: cut: Expected the rest of the ")
    assert why.endswith("it was cut off")
    assert kept == f"sse-fast: out.{suffix} has {len(found):,} events from before that"


@EVERY
def test_an_event_over_the_size(suffix: str, capsys: pytest.CaptureFixture[str]) -> None:
    stream = STREAM + LARGE + b"data: after\n\n"
    Path("capture").write_bytes(stream)
    arguments = ["capture", "-o", f"out.{suffix}", "--max-event-size", "2000"]
    assert run(*arguments) == 1
    assert rows(f"out.{suffix}") == rows_of(STREAM)
    why, kept = capsys.readouterr().err.splitlines()
    assert why.startswith("sse-fast: capture: Expected an event of at most 2000 bytes, got one of")
    assert f"at offset {len(STREAM)}" in why
    assert kept == f"sse-fast: out.{suffix} has 8 events from before that"

    assert run(*arguments, "--on-error", "skip") == 0
    assert rows(f"out.{suffix}") == rows_of(STREAM + b"data: after\n\n")
    done = (
        rf"sse-fast: 9 events from {len(stream):,} bytes in [\d.]+ s, 1 event over the size skipped"
    )
    assert re.fullmatch(done, capsys.readouterr().err.rstrip("\n"))


def test_an_error_on_the_way_to_standard_output() -> None:
    done = subprocess.run(
        [*COMMAND, "-", "-o", "-", "--format", "jsonl", "--max-event-size", "2000"],
        input=STREAM + LARGE,
        capture_output=True,
    )
    assert (done.returncode, done.stdout.count(b"\n")) == (1, 8)
    assert re.fullmatch(rb"sse-fast: -: Expected an event of at most 2000 .*\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["c", "-o", "out"], 2, r"ends in \.parquet, \.arrow, .*, or --format, got 'out'"),
        (["c", "-o", "out.txt"], 2, r"ends in \.parquet, \.arrow, .*, or --format, got 'out.txt'"),
        (["c", "-o", "out.txt", "--format", "txt"], 2, "invalid choice: 'txt'"),
        (["c", "-o", "-"], 2, "expected --format jsonl or csv for standard output, got none"),
        (["c", "-o", "-", "--format", "arrow"], 2, "standard output, got arrow"),
        (["c"], 2, "required: -o/--output"),
        (["-o", "out.csv"], 2, "required: CAPTURE"),
        (["-", "-", "-o", "out.csv"], 2, "expected - for standard input once"),
        (["c", "-o", "out.csv", "--threads", "0"], 2, "Expected threads from 1 to 1024, got 0"),
        (["c", "-o", "out.csv", "--max-event-size", "0"], 2, "Expected max_event_size from 1"),
        (["c", "-o", "out.csv", "--on-error", "x"], 2, "invalid choice: 'x'"),
        (["missing", "-o", "out.csv"], 1, "sse-fast: missing: No such file or directory"),
        (["c", "missing", "-o", "out.csv"], 1, "sse-fast: missing: No such file or directory"),
        ([".", "-o", "out.csv"], 1, r"sse-fast: \.: Is a directory"),
        (["c", "-o", "no/out.csv"], 1, r"sse-fast: .*out\.csv\.part: No such file or directory"),
        (["c", "-o", "d.csv"], 1, r"sse-fast: d\.csv: Is a directory"),
    ],
)
def test_it_fails_with_one_line(
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
def test_the_output_is_no_capture(how: str) -> None:
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
    assert "expected an output beside the captures, got " in done.stderr
    assert files() == there
    assert {Path(name).read_bytes() for name in there} == {STREAM}


def test_what_is_called_as_its_part_is_left_alone(
    capture: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("out.csv.part").write_bytes(b"precious")
    assert run(capture, "-o", "out.csv") == 1
    assert capsys.readouterr().err.endswith("out.csv.part: File exists\n")
    assert Path("out.csv.part").read_bytes() == b"precious"
    assert files() == {capture, "out.csv.part"}


def test_an_output_that_may_not_be_written(
    capture: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A new file could take its place all the same."""
    Path("out.csv").write_bytes(b"before")
    asked = []

    def access(path: str, mode: int) -> bool:
        asked.append((path, mode))
        return False

    # Root may write everything.
    monkeypatch.setattr(os, "access", access)
    assert run(capture, "-o", "out.csv") == 1
    assert asked == [(str(Path("out.csv").resolve()), os.W_OK)]
    assert capsys.readouterr().err == "sse-fast: out.csv: Permission denied\n"
    assert Path("out.csv").read_bytes() == b"before"
    assert files() == {capture, "out.csv"}


@EVERY
def test_a_full_disk_leaves_what_was_there(suffix: str) -> None:
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


def test_an_unexpected_error_leaves_nothing(capture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the writer, that is: nobody knows what its file holds."""

    def write(self: Any, columns: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(convert._Parquet, "write", write)
    with pytest.raises(MemoryError):
        run(capture, "-o", "out.parquet")
    assert files() == {capture}


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@EVERY
def test_an_interrupt_leaves_nothing(suffix: str) -> None:
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


@pytest.mark.skipif(os.name == "nt", reason="pipes of POSIX")
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_closed_pipe_ends_it_quietly(kind: str) -> None:
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
def test_without_what_it_needs(
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
        assert "Expected the compiled part of sse_fast" in error
    else:
        assert error.startswith("sse-fast: Expected pyarrow, which `sse-fast convert` needs")
        assert error.endswith("pip install 'sse-fast[convert]'\n")
    assert files() == {capture}


def test_zstd_is_missed_before_anything_is_written(
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
    """The exit code, and what standard error shows where it is one."""
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
def test_a_bar_on_a_terminal(packed: bool) -> None:
    stream = many_events(20 * 2**20)
    content = gzip.compress(stream, 1) if packed else stream
    Path("capture").write_bytes(content)
    Path("twice").write_bytes(content)
    status, shown = on_a_terminal("capture", "twice", "-o", "out.jsonl")
    assert status == 0
    # Bytes of bytes on the disk, the rate, the time left; on the way, and at the end.
    total = f"{2 * len(content) / 1e6:.1f}"
    assert f"{total}/{total} MB" in shown
    assert "100%" in shown
    assert re.search(r"\d+\.\d MB/s", shown)
    assert re.search(r"\d:\d\d:\d\d", shown)
    # Also within a capture.
    assert {int(share) for share in re.findall(r"(\d+)%", shown)} - {0, 50, 100}
    # Gone at the end, but for the line.
    *_, last = shown.rpartition("\x1b[2K")
    assert re.fullmatch(r"sse-fast: [\d,]+ events from [\d,]+ bytes in [\d.]+ s\r\n", last)


def test_no_bar_where_it_is_not_wanted(capture: str) -> None:
    assert on_a_terminal(capture, "-o", "out.csv", "--quiet") == (0, "")
    assert rows("out.csv") == rows_of(STREAM)
    # Nor between the lines of the output.
    status, shown = on_a_terminal(capture, "-o", "-", "--format", "jsonl")
    assert (status, shown.count("\n")) == (0, 9)
    assert "%" not in shown


def test_quiet_is_not_silent(capture: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is missing is said."""
    Path(capture).write_bytes(STREAM + b"data: x")
    assert run(capture, "-o", "out.csv", "-q") == 0
    message = "sse-fast: capture.sse: the stream ended within an event, which is dropped\n"
    assert capsys.readouterr().err == message


def test_rich_is_for_the_bar_alone(capture: str) -> None:
    without = "import sys\nsys.modules['rich'] = None"
    status, shown = on_a_terminal(capture, "-o", "out.csv", script=without)
    assert status == 1
    assert shown.endswith("pip install 'sse-fast[convert]', or --quiet\r\n")
    assert files() == {capture}
    assert on_a_terminal(capture, "-o", "out.csv", "-q", script=without) == (0, "")
    script = f"{without}\nfrom sse_fast._cli import main\nsys.exit(main())"
    arguments = [sys.executable, "-c", script, "convert", capture, "-o", "out.csv"]
    assert subprocess.run(arguments, capture_output=True).returncode == 0


def test_without_standard_error(capture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where it was closed: what is said goes nowhere, least of all to standard output."""
    output = io.StringIO()
    monkeypatch.setattr(sys, "stderr", None)
    monkeypatch.setattr(sys, "stdout", output)
    assert run(capture, "-o", "out.csv") == 0
    assert output.getvalue() == ""
    assert rows("out.csv") == rows_of(STREAM)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@EVERY
def test_memory_is_bounded(suffix: str) -> None:
    """Of a compressed capture, as what is mapped into memory counts too."""
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
