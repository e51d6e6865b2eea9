"""Captures to convert, and their outputs as rows."""

from __future__ import annotations

import gzip
import json
import random
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import pyarrow
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest

import sse_fast
from sse_fast._cli import main
from tests.support.commands import COMMAND

CONVERT = [*COMMAND, "convert"]
FORMATS = ("parquet", "arrow", "jsonl", "csv")
MATRIX = ("arrow", "csv")
"""Formats that only the matrix tries with every test: their writers share code with the others."""
EVERY = pytest.mark.parametrize(
    "suffix",
    [
        pytest.param(suffix, marks=[pytest.mark.matrix] if suffix in MATRIX else [])
        for suffix in FORMATS
    ],
)
ONE = pytest.mark.parametrize(
    "suffix",
    [
        pytest.param(suffix, marks=[] if suffix == "parquet" else [pytest.mark.matrix])
        for suffix in FORMATS
    ],
)
"""For tests that take seconds with each format."""
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


def rows_of(*streams: bytes) -> list[Row]:
    """Return the events of streams as rows."""
    return [
        (event.event, event.data, event.id or None, event.retry)
        for stream in streams
        for event in sse_fast.iter_events([stream])
    ]


@lru_cache(maxsize=2)
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


def pack(stream: bytes, how: str) -> bytes:
    if how == "gz":
        return gzip.compress(stream)
    try:
        zstd = import_module("compression.zstd")
    except ImportError:
        zstd = import_module("backports.zstd")
    packed: bytes = zstd.compress(stream)
    return packed
