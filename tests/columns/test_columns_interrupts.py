"""Columns: no row is lost, doubled or out of order if a signal handler raises, or by `flush`."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import sse_fast
from sse_fast import SSEError, iter_columns
from tests.columns.test_iter_columns import data_of
from tests.support import IMPORT_TESTS
from tests.support.columnar import segments_of
from tests.support.commands import run_python
from tests.support.interrupting import Interrupt, cut, interrupted, repeat

BODY = repeat(b"id: %d\r\ndata: row %d\r\n\r\n", 6)
ROWS = [f"row {number}" for number in range(1, 7)]


SOURCES: dict[str, Callable[[Path], Any]] = {
    "bytes": lambda folder: iter(cut(BODY, 70)),
    "bytearrays": lambda folder: map(bytearray, cut(BODY, 70)),
    "binary file": lambda folder: open(folder / "plain", "rb"),  # noqa: SIM115
    "unbuffered file": lambda folder: open(folder / "plain", "rb", buffering=0),  # noqa: SIM115
    "memory": lambda folder: BODY,
    "path": lambda folder: folder / "plain",
    "paths": lambda folder: [folder / "first", folder / "second"],
    "compressed chunks": lambda folder: iter(cut(gzip.compress(BODY), 50)),
    "compressed path": lambda folder: folder / "compressed",
}


# A file that is being opened is closed by the garbage collector, which warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("source", "options"),
    [
        pytest.param(
            source,
            options,
            id=f"{source}-{'small' if options else 'plain'}",
            marks=[pytest.mark.matrix] * bool(options and source not in ("bytes", "path")),
        )
        for source in SOURCES
        for options in ({}, {"batch_size": 2, "batch_seconds": 0, "on_chunk": len})
    ],
)
def test_interrupted_iteration_loses_no_row(
    source: str, options: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "plain").write_bytes(BODY)
    (tmp_path / "first").write_bytes(BODY[: len(BODY) // 2])
    (tmp_path / "second").write_bytes(BODY[len(BODY) // 2 :])
    (tmp_path / "compressed").write_bytes(gzip.compress(BODY))
    number = 0
    is_interrupted = True
    while is_interrupted:
        batches: list[Any] = []
        opened = SOURCES[source](tmp_path)
        has_failed = False
        with segments_of(50), iter_columns(opened, threads=1, **options) as stream:
            try:
                interrupted(batches.extend, stream, number, sse_fast.__path__[0])
                is_interrupted = False
            except Interrupt:
                try:
                    batches.extend(stream)
                except SSEError:
                    # The end of the source was interrupted; or decompression, which cannot go on.
                    has_failed = "compressed" in source
        if hasattr(opened, "close"):
            opened.close()
        rows = [text for batch in batches for text in data_of(batch)]
        assert rows == (ROWS[: len(rows)] if has_failed else ROWS), number
        number += 1
    assert number > 10


# -- flush --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 100])
@pytest.mark.parametrize("cut_at", [5, 40, 1000])
def test_flush_keeps_the_order(size: int, cut_at: int) -> None:
    rows, ids = [], []
    stream = iter_columns(cut(BODY, cut_at), batch_size=size)
    for batch in stream:
        part: Any = batch
        while part is not None:
            rows += data_of(part)
            ids.append(int(stream.last_event_id))
            assert part.last_event_id == stream.last_event_id == rows[-1].split()[1]
            part = stream.flush()
    assert rows == ROWS
    assert ids == sorted(ids)


def test_flush_until_none_returns_all_that_arrived() -> None:
    rows: list[str] = []
    seen: list[int] = []
    stream = iter_columns([BODY, b"data: unfin", b"ished\n\n"], batch_size=4, on_chunk=seen.append)
    rows += data_of(next(stream))
    while (batch := stream.flush()) is not None:
        rows += data_of(batch)
    assert rows == ROWS
    assert len(seen) == 1
    assert stream.last_event_id == "6"
    assert [data_of(batch) for batch in stream] == [["unfinished"]]
    assert stream.flush() is None


def test_flush_after_an_error_keeps_the_order() -> None:
    source = [BODY + b"data: " + b"x" * 100 + b"\n\n"]
    stream = iter_columns(source, batch_size=4, max_event_size=50)
    rows = data_of(next(stream))
    flushed = stream.flush()
    assert flushed is not None
    rows += data_of(flushed)
    assert rows == ROWS
    with pytest.raises(sse_fast.EventTooLarge):
        next(stream)
    assert stream.flush() is None


# -- Memory ---------------------------------------------------------------------------------------

STARVE = """
import _testcapi, json, sys
from sse_fast import SSEError, iter_columns, read_columns
from tests.columns.test_iter_columns import data_of
from tests.support.interrupting import cut, repeat

body = repeat(b"id: %d\\nevent: type %d\\ndata: row %d\\n\\n", 9)
rows = [f"row {number}" for number in range(1, 10)]
iterate = lambda: iter_columns(cut(body, 50), batch_size=2)

def starve(call, number):
    _testcapi.set_nomemory(number, number + 1)
    try:
        return call()
    finally:
        _testcapi.remove_mem_hooks()

failures = 0
for number in range(250):
    for source in (lambda: cut(body, 50), lambda: body):
        stream, got, has_failed = iter_columns(source(), batch_size=2, threads=1), [], False
        calls = 0
        while True:
            try:
                calls += 1
                batch = starve(stream.__next__, number) if calls == 2 else next(stream)
            except StopIteration:
                break
            except (MemoryError, SSEError):
                # A failed read is a TransportError.
                has_failed = True
                continue
            got += data_of(batch)
        failures += has_failed
        # The stream goes on, or it ended at the error.
        assert got == rows[:len(got)], (number, got)
        assert has_failed or got == rows, (number, got)
    try:
        columns = starve(lambda: read_columns(body, batch_size=2, threads=1), number)
    except RuntimeError as error:
        # threading.Lock() raises it.
        assert "lock" in str(error)
    except MemoryError as error:
        failures += 1
        columns = getattr(error, "columns", None)
        if columns is None:
            continue
        got = data_of(columns)
        assert got == rows[:len(got)], (number, got)
    else:
        assert data_of(columns) == rows
print(failures)
"""


def test_failed_allocation_leaves_rows_in_order(tmp_path: Path) -> None:
    pytest.importorskip("_testcapi")
    assert int(run_python(IMPORT_TESTS + STARVE, directory=tmp_path)) > 30
