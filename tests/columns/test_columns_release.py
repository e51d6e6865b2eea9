"""Batches outlive their source, and are released in any order, by any thread."""

from __future__ import annotations

import ctypes
import gc
import itertools
import mmap
import random
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sse_fast import iter_columns, read_columns
from tests.support import DATA, IMPORT_TESTS
from tests.support import columnar_release as c
from tests.support.columnar import each_type, interpret_blocks, pa, rows_of, segments_of
from tests.support.threaded_reader import wait_until

LONG = "a text of more than twelve bytes, "
STREAM = b"".join(
    f"id: {LONG}{number // 3}\nevent: type {number % 5}\ndata: {LONG}{number}\n\n".encode()
    for number in range(100)
)
EXPECTED = interpret_blocks(STREAM).rows
DATA_BYTES = [row[1].encode() for row in EXPECTED]
IDS = [row[2].encode() for row in EXPECTED]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the test uses pthreads of Linux")


class Source(bytearray):
    """A source that a weak reference can watch."""


def in_a_thread(work: Callable[[], object]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def is_free(source: bytearray) -> bool:
    """Return whether its buffer can be resized, because nothing holds it."""
    try:
        source.append(0)
    except BufferError:
        return False
    del source[-1]
    return True


def made_of(data_type: Any, source: Any = STREAM, size: int = 2**20) -> Any:
    with segments_of(size):
        return read_columns(source, data_type=data_type, threads=2)


def overwrite_freed_memory() -> None:
    """Overwrite freed memory, so that a use after free changes the values."""
    keep = [b"\xee" * size for size in (64, 512, 3000, 9000) for _ in range(50)]
    del keep
    for _ in range(3):
        read_columns(STREAM.replace(b"a text", b"# #####"), data_type="string_view")


def check(array: c.ArrowArray, column: int, data_type: str) -> None:
    texts = c.views_of if data_type == "string_view" else c.texts_of
    assert array.length == len(EXPECTED)
    if column == 0:
        places = ctypes.cast(array.buffers[1], ctypes.POINTER(ctypes.c_int32))
        types = c.texts_of(array.dictionary.contents)
        assert [types[places[row]].decode() for row in range(array.length)] == [
            row[0] for row in EXPECTED
        ]
    elif column in (1, 2):
        assert texts(array) == (DATA_BYTES if column == 1 else IDS)
    else:
        assert array.null_count == array.length


# -- Order and threads -----------------------------------------------------------------------------


@each_type
@pytest.mark.parametrize("size", [300, 2**20], ids=["concatenated", "one batch"])
def test_children_outlive_their_parent(data_type: str, size: int) -> None:
    """They are moved out and released in every order, with and without the GIL by turns."""
    for order in itertools.permutations(range(4)):
        source = Source(STREAM)
        died = weakref.ref(source)
        array = c.take(made_of(data_type, source, size))
        del source
        children = c.take_children(array)
        c.release(array, holding=order[0] % 2 == 0)
        overwrite_freed_memory() if order[1] == 0 else None
        for count, column in enumerate(order):
            for other in order[count:]:
                check(children[other], other, data_type)
            c.release(children[column], holding=count % 2 == 0)
        wait_until(lambda died=died: died() is None)


@each_type
def test_dictionary_outlives_its_column(data_type: str) -> None:
    array = c.take(made_of(data_type))
    dictionary = c.move(array.children[0].contents.dictionary.contents)
    c.release(array)
    overwrite_freed_memory()
    assert c.texts_of(dictionary) == [b"type %d" % number for number in range(5)]
    c.release(dictionary)


@each_type
def test_other_threads_release_arrays(data_type: str) -> None:
    rng = random.Random(1)
    source = Source(STREAM)
    arrays = []
    for size in (100, 1000, 2**20) * 4:
        columns = made_of(data_type, source, size)
        arrays += [c.take(columns) for _ in range(3)]
    parts = [part for array in arrays for part in (*c.take_children(array), array)]
    rng.shuffle(parts)
    del columns
    threads = [
        threading.Thread(target=lambda some=parts[at::4]: [c.release(part) for part in some])
        for at in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wait_until(lambda: is_free(source))


@on_linux
def test_release_does_not_wait_for_the_gil() -> None:
    """The thread that holds the GIL may be waiting for the one that releases."""
    script = """
from tests.support import columnar_release as c
from tests.support.columnar import MIXED, segments_of
from tests.support.threaded_reader import wait_until
from tests.columns.test_columns_release import is_free
import sse_fast

for kind in ("source", "pool", "parts"):
    source = bytearray(MIXED)
    stream = None
    if kind == "pool":
        with sse_fast.iter_columns(source, data_type="string_view") as stream:
            columns = next(stream)
    else:
        with segments_of(20 if kind == "parts" else 2**20):
            columns = sse_fast.read_columns(source, data_type="string_view")
    array = c.take(columns)
    del columns, stream
    c.release_in_a_thread_while_the_gil_is_held(array)
    wait_until(lambda: is_free(source))
    print(kind, "is over")
"""
    done = run(script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "source is over\npool is over\nparts is over\n"


def run(script: str, *arguments: str) -> Any:
    return subprocess.run(
        [sys.executable, "-c", IMPORT_TESTS + script, *arguments],
        cwd=DATA,
        capture_output=True,
        text=True,
        timeout=60,
    )


@each_type
def test_arrow_libraries_release_from_their_threads(data_type: str) -> None:
    source = Source(STREAM * 20)
    tables = []
    for _ in range(3):
        columns = made_of(data_type, source, 5000)
        table = pa.table(columns)
        tables += [table, pa.record_batch(columns), table.slice(10, 5)]
        del columns, table
    for name in ("polars", "duckdb"):
        library: Any = pytest.importorskip(name)
        if name == "polars":
            frame = library.DataFrame(made_of(data_type, source, 5000))
            assert sorted(frame.group_by("event").len()["len"].to_list()) == [400] * 5
            tables.append(frame.filter(library.col("event") != "type 1"))
            del frame
        else:
            with library.connect(config={"threads": 4}) as connection:
                connection.register("events", made_of(data_type, source, 5000))
                count = connection.sql("select count(distinct data) from events").fetchall()
                assert count == [(100,)]
            del connection
    rng = random.Random(2)
    rng.shuffle(tables)
    while tables:
        in_a_thread(tables.pop)
    wait_until(lambda: gc.collect() is not None and is_free(source))


# -- The source ------------------------------------------------------------------------------------


def test_views_hold_their_source() -> None:
    source = Source(STREAM)
    columns = made_of("string_view", source)
    table = pa.table(columns)
    assert not is_free(source)
    del columns
    assert not is_free(source)
    part = table.slice(7, 1)["data"]
    del table
    assert not is_free(source)
    assert part.to_pylist() == [f"{LONG}7"]
    in_a_thread(lambda: None)
    del part
    wait_until(lambda: is_free(source))


def test_copies_release_their_source() -> None:
    source = Source(STREAM)
    columns = made_of("large_string", source, 300)
    assert is_free(source)
    source[:] = b"#" * len(source)
    assert rows_of(columns) == [row[:4] for row in EXPECTED]


@each_type
def test_next_call_frees_abandoned_buffers(data_type: str) -> None:
    """Threads without the GIL leave buffers on a list, which the next call drains."""
    sources = [Source(STREAM) for _ in range(100)]
    arrays = [c.take(made_of("string_view", source)) for source in sources]

    def work(some: list[c.ArrowArray]) -> None:
        for array in some:
            c.release(array)

    threads = [threading.Thread(target=work, args=(arrays[at::3],)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read_columns(b"data\n\n", data_type=data_type)  # type: ignore[arg-type]
    assert all(map(is_free, sources))


@each_type
def test_columns_outlive_closed_or_deleted_source(data_type: str, tmp_path: Path) -> None:
    """The source may be closed, deleted, or have no reference left."""
    path = tmp_path / "capture"
    path.write_bytes(STREAM)
    columns = [made_of(data_type, path), made_of(data_type, bytes(bytearray(STREAM)))]
    streams = [iter_columns(path, data_type=data_type, batch_size=7)]
    columns.append(next(streams[0]))
    streams[0].close()
    with open(path, "rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    columns.append(made_of(data_type, mapped))
    if data_type == "string_view":
        with pytest.raises(BufferError):
            mapped.close()
    else:
        mapped.close()
    del mapped
    view = memoryview(bytearray(STREAM))
    columns.append(made_of(data_type, view))
    if data_type == "large_string":
        view.release()
    del view
    path.unlink()
    gc.collect()
    overwrite_freed_memory()
    expected = [row[:4] for row in EXPECTED]
    for each in columns:
        rows = rows_of(each)
        assert rows == expected[: len(rows)]
    assert list(map(len, columns)) == [100, 100, 7, 100, 100]


# -- Memory that is reused -------------------------------------------------------------------------


@each_type
@pytest.mark.parametrize("from_memory", [True, False], ids=["memory", "chunks"])
def test_held_batch_is_not_overwritten(data_type: str, from_memory: bool) -> None:
    """Batches with and without ids and retries, of all sizes, are released meanwhile."""
    rng = random.Random(3)
    blocks = []
    for number in range(3000):
        lines = [b"data: %d %b" % (number, b"x" * rng.choice([0, 3, 40]))]
        if number // 100 % 3 == 0:
            lines.append(b"id: %b" % (b"" if rng.random() < 0.3 else b"%d of some length" % number))
        elif number // 100 % 3 == 1 and rng.random() < 0.5:
            lines += [b"id", b"retry: %d" % number]
        blocks.append(b"\n".join([*lines, b"", b""]))
    stream = b"".join(blocks)
    rows = [row[:4] for row in interpret_blocks(stream).rows]
    chunks = [stream[at : at + 1000] for at in range(0, len(stream), 1000)]
    held: list[tuple[int, Any]] = []
    at = 0
    batches = iter_columns(
        stream if from_memory else chunks, data_type=data_type, batch_bytes=700, threads=2
    )
    for columns in batches:
        held.append((at, columns if rng.random() < 0.3 else pa.record_batch(columns)))
        at += len(columns)
        while len(held) > 6:
            _, gone = held.pop(rng.randrange(len(held)))
            in_a_thread(gone.__len__ if rng.random() < 0.9 else lambda: None)
            del gone
        start, kept = held[rng.randrange(len(held))]
        assert rows_of(kept) == rows[start : start + len(kept)]
    assert at == len(rows)
    for start, kept in held:
        assert rows_of(kept) == rows[start : start + len(kept)]


@each_type
def test_columns_outlive_their_stream(data_type: str) -> None:
    source = Source(STREAM)
    stream = iter_columns(source, data_type=data_type, batch_size=9)
    batches = [next(stream) for _ in range(5)]
    tables = [pa.table(batch) for batch in batches]
    stream.close()
    del stream
    gc.collect()
    overwrite_freed_memory()
    for at, (batch, table) in enumerate(zip(batches, tables, strict=True)):
        assert (
            rows_of(batch) == rows_of(table) == [row[:4] for row in EXPECTED[9 * at : 9 * at + 9]]
        )
    assert is_free(source) == (data_type == "large_string")
    del batches, batch
    assert is_free(source) == (data_type == "large_string")
    del tables, table
    wait_until(lambda: is_free(source))


# -- The end of the interpreter --------------------------------------------------------------------

START = """
import sys, threading
import sse_fast
source = bytearray(b"id: 1\\ndata: a text of some bytes\\n\\nevent: x\\ndata: a\\n\\n" * 300)
columns = sse_fast.read_columns(source, data_type=sys.argv[1])
"""
LEFT = {
    "columns": "",
    "a table": "import pyarrow\ntable = pyarrow.table(columns)",
    "capsules": "kept = columns.__arrow_c_array__(), columns.__arrow_c_stream__()",
    "an array nobody releases": "from tests.support import columnar_release as c\n"
    "array = c.take(columns)",
    "a frame": "import polars\nframe = polars.DataFrame(columns)",
    "a relation": "import duckdb\nduckdb.register('kept', columns)\n"
    "relation = duckdb.sql('select data from kept')\nprint(len(relation.fetchall()))",
    "a stream": "stream = sse_fast.iter_columns(\n"
    "    source, data_type=sys.argv[1], threads=3, batch_bytes=100)\n"
    "batch = next(stream)",
    "a stream that a table is made of": "import pyarrow\n"
    "stream = sse_fast.iter_columns([bytes(source)], batch_size=5)\n"
    "reader = pyarrow.RecordBatchReader.from_stream(stream)\nbatch = reader.read_next_batch()",
    # With one thread: an executor would print that it is too late for more.
    "a thread that reads": "has_read = threading.Event()\ndef work():\n    while True:\n"
    "        sse_fast.read_columns(source, data_type=sys.argv[1], threads=1)\n"
    "        has_read.set()\n"
    "threading.Thread(target=work, daemon=True).start()\nhas_read.wait()",
}


@pytest.mark.parametrize(
    "data_type", ["string_view", pytest.param("large_string", marks=pytest.mark.matrix)]
)
@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_interpreter_exits_cleanly(data_type: str, left: str) -> None:
    for name in ("polars", "duckdb"):
        if f"import {name}" in left:
            pytest.importorskip(name)
    done = run(START + left, data_type)
    assert (done.returncode, done.stderr) == (0, "")
