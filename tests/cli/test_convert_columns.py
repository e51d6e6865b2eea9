"""`sse-fast convert`: the columns `arrival` and `source`."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

import sse_fast
from sse_fast._cli._columns import Arrivals
from sse_fast._cli._timing_index import Timing
from tests.support.commands import run_command
from tests.support.converting import EVERY, STREAM, files, pack, rows, rows_of, run
from tests.support.recording import record
from tests.support.server import Answer, Server

pytestmark = pytest.mark.usefixtures("away_from_the_source_tree")
HEAD = datetime(2026, 11, 28, 9, 30, 0, 125_000, tzinfo=timezone.utc)


def write(name: str, *chunks: tuple[float, bytes], when: str = HEAD.isoformat()) -> None:
    """Write a capture and its index."""
    Path(name).write_bytes(b"".join(chunk for _, chunk in chunks))
    lines = [f"# sse-fast timing 1, {when}, any", *(f"{at}\t{len(chunk)}" for at, chunk in chunks)]
    Path(f"{name}.timing").write_text("".join(f"{line}\n" for line in lines))


def column(path: str, name: str) -> list[Any]:
    """Read a column; times as datetimes."""
    if path.endswith(".jsonl"):
        values = [json.loads(line)[name] for line in Path(path).read_bytes().splitlines()]
    elif path.endswith(".csv"):
        with open(path, newline="", encoding="utf-8") as file:
            values = [row[name] or None for row in csv.DictReader(file)]
        values = [each and each.replace("Z", "+00:00") for each in values]
    elif path.endswith(".parquet"):
        return pyarrow.parquet.read_table(path).column(name).to_pylist()
    else:
        with pyarrow.memory_map(path) as file:
            return pyarrow.ipc.open_file(file).read_all().column(name).to_pylist()
    if name != "arrival":
        return values
    return [None if each is None else datetime.fromisoformat(each) for each in values]


def after(*seconds: float) -> list[datetime]:
    return [HEAD + timedelta(seconds=each) for each in seconds]


@EVERY
def test_arrival_is_when_the_event_was_complete(suffix: str) -> None:
    """A later comment does not count, and a CR at the end of a chunk does."""
    write(
        "capture",
        (0.25, b"data: a\n\n"),
        (1.5, b": ping\n\n"),
        (2.5, b"data: b\r\n\r"),
        (3.000001, b"\ndata: c"),
        (4.0, b"\n"),
        (5.0, b"\ndata: d\n\ndata: e\n\n"),
    )
    assert run("capture", "-o", f"out.{suffix}", "--arrival", "-q") == 0
    assert column(f"out.{suffix}", "arrival") == after(0.25, 2.5, 5.0, 5.0, 5.0)
    assert column(f"out.{suffix}", "data") == [*"abcde"]


@EVERY
def test_source_names_the_capture(suffix: str) -> None:
    Path("é.sse").write_bytes(b"data: a\n\ndata: b\n\n")
    Path("empty").write_bytes(b"")
    Path("packed").write_bytes(pack(b"data: c\n\n", "gz"))
    captures = ("é.sse", "empty", "-", "./packed")
    line = ("convert", *captures, "-o", f"out.{suffix}", "--source", "-q")
    assert run_command(*line, stdin=b"data: d\n\n").returncode == 0
    assert column(f"out.{suffix}", "source") == ["é.sse", "é.sse", "-", "./packed"]


@EVERY
def test_arrival_is_null_where_it_is_unknown(suffix: str) -> None:
    """Without an index or its date, and after the end of an index of a killed recording."""
    event = b"data: a\n\n"
    write("known", (1.0, event))
    Path("known").write_bytes(event * 2)
    write("dateless", (1.0, event), when="any")
    Path("alone").write_bytes(event)
    captures = ("known", "dateless", "alone", "-")
    line = ("convert", *captures, "-o", f"out.{suffix}", "--arrival", "-q")
    assert run_command(*line, stdin=event).returncode == 0
    assert column(f"out.{suffix}", "arrival") == [*after(1.0), None, None, None, None]


@pytest.mark.parametrize("how", ["gz", "zst"])
def test_arrival_of_compressed_capture_is_null(how: str) -> None:
    """Offsets are those of its content, and the chunks of an index those of the file."""
    stream = b"data: a\n\n" * 3
    packed = pack(stream, how)
    write("capture", (1.0, packed[:5]), (2.0, packed[5:]))
    assert run("capture", "-o", "out.jsonl", "--arrival", "-q") == 0
    assert column("out.jsonl", "arrival") == [None] * 3


@EVERY
def test_columns_have_the_same_order_everywhere(suffix: str) -> None:
    write("capture", (1.0, STREAM))
    assert run("capture", "-o", f"out.{suffix}", "--source", "--offset", "--arrival", "-q") == 0
    assert rows(f"out.{suffix}") == rows_of(STREAM)
    names = ["event", "data", "id", "retry", "offset", "arrival", "source"]
    if suffix == "jsonl":
        assert [*json.loads(Path("out.jsonl").read_bytes().splitlines()[0])] == names
    elif suffix == "csv":
        assert Path("out.csv").read_text().splitlines()[0] == ",".join(
            f'"{each}"' for each in names
        )
    else:
        opened = pyarrow.parquet.read_table("out.parquet") if suffix == "parquet" else None
        schema = opened.schema if opened else pyarrow.ipc.open_file("out.arrow").schema
        assert schema.names == names
        assert schema.field("arrival").type == pyarrow.timestamp("us", tz="UTC")
        assert pyarrow.types.is_large_string(schema.field("source").type)
        assert [schema.field(name).nullable for name in names[4:]] == [False, True, False]


def test_columns_exist_without_any_event() -> None:
    Path("empty").write_bytes(b"")
    assert run("empty", "-o", "out.parquet", "--source", "--arrival", "-q") == 0
    schema = pyarrow.parquet.read_schema("out.parquet")
    assert schema.names == ["event", "data", "id", "retry", "arrival", "source"]


def test_read_columns_are_as_before() -> None:
    columns = pyarrow.table(sse_fast.read_columns(b"data: a\n\n", offset=True))
    assert columns.column_names == ["event", "data", "id", "retry", "offset"]


def test_arrivals_of_a_recording_match_cat(server: Server) -> None:
    server.answers["/"] = Answer([b"data: %d\n\n" % number for number in range(5)], delay=0.05)
    assert record(server.url, "-o", "capture", "--timing", "-q").returncode == 0
    assert run("capture", "-o", "out.jsonl", "--arrival", "-q") == 0
    printed = run_command("cat", "capture", "--json", "--timestamps")
    assert printed.stdout == Path("out.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("index", "message"),
    [("nonsense\n", "line 1: expected"), (None, "belongs to another capture")],
)
def test_wrong_index_fails_before_writing(
    index: str | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write("capture", (1.0, b"data: a\n\n"))
    if index is None:
        Path("capture").write_bytes(b"data:\n\n")
    else:
        Path("capture.timing").write_text(index)
    assert run("capture", "-o", "out.csv", "--arrival") == 1
    assert message in capsys.readouterr().err
    assert files() == {"capture", "capture.timing"}
    # Without the column, the index does not matter.
    assert run("capture", "-o", "out.csv", "-q") == 0


def test_output_over_an_index_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    write("capture", (1.0, b"data: a\n\n"))
    before = Path("capture.timing").read_bytes()
    with pytest.raises(SystemExit):
        run("capture", "-o", "capture.timing", "--format", "csv")
    assert "is the index of a capture" in capsys.readouterr().err
    assert Path("capture.timing").read_bytes() == before


def pieces(stream: bytes, dice: random.Random) -> Iterator[bytes]:
    while stream:
        size = dice.randint(1, 9)
        yield stream[:size]
        stream = stream[size:]


@pytest.mark.parametrize("seed", range(20))
def test_arrivals_match_chunks_of_the_parser(seed: int) -> None:
    """The parser says which chunk completes an event."""
    dice = random.Random(seed)
    ends = ("\n", "\r\n", "\r")
    end = ends[seed % 3] if seed % 4 else ""
    stream = "\ufeff" if seed % 2 else ""
    for number in range(60):
        kind = dice.choice(["data: é{}|data: y|", "id: {}|", ": c{}|", "|", "data|event: x|"])
        text = kind.format(number) + dice.choice(["|", "||", ""])
        stream += "".join((end or dice.choice(ends)) if each == "|" else each for each in text)
    content = stream.encode()
    chunks = [*pieces(content, dice)]
    parser = sse_fast.Parser()
    expected = [number for number, chunk in enumerate(chunks) for _ in parser.feed(chunk)]
    table = pyarrow.table(sse_fast.read_columns(content, offset=True))
    timing = Timing(
        pyarrow.array(range(len(chunks)), pyarrow.float64()).to_pylist(),  # type: ignore[arg-type]
        [len(chunk) for chunk in chunks],  # type: ignore[arg-type]
        0.0,
    )
    found = Arrivals(content, timing).of(table.column("offset").to_pylist())
    assert len(expected) > 10
    assert found == [number * 1_000_000 for number in expected]
