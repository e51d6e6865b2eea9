"""Sources beyond 2 GiB, where 31 bits end. They consist of pages that were never written to."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from sse_fast import EventTooLarge, iter_columns, read_columns
from tests.support.columnar import each_type, pa, rows_of, segments_of

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or sys.maxsize < 2**32,
    reason="not enough address space, or no lazy pages",
)

FAR = 2**31
SIZE = FAR + 2**24
LONG = b"more than twelve bytes of "
# Offset -> bytes. The zeros in between are lines of unknown fields.
EVENTS = {
    0: b"id: %bids\nevent: x\ndata: %ba\n\n" % (LONG, LONG),
    2**30: b"\n\ndata: %bb\n\n" % LONG,
    # Across the border.
    FAR - 20: b"\n\ndata: %bc\n\nid: 2\ndata: %bd\n\n" % (LONG, LONG),
    SIZE - 100: b"\n\nretry: 7\ndata: e\n\n",
}
LONG_ID = (LONG + b"ids").decode()
ROWS = [
    ("x", f"{LONG.decode()}a", LONG_ID, None, 0),
    ("message", f"{LONG.decode()}b", LONG_ID, None, 2**30 + 2),
    ("message", f"{LONG.decode()}c", LONG_ID, None, FAR - 18),
    ("message", f"{LONG.decode()}d", "2", None, FAR + 17),
    ("message", "e", "2", 7, SIZE - 98),
]


def memory_of(events: dict[int, bytes], size: int) -> mmap.mmap:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for place, event in events.items():
        memory[place : place + len(event)] = event
    return memory


@pytest.fixture(scope="module")
def memory() -> mmap.mmap:
    return memory_of(EVENTS, SIZE)


@each_type
def test_events_beyond_2_gib_are_read(data_type: str, memory: mmap.mmap) -> None:
    columns = read_columns(memory, data_type=data_type, offset=True)
    for table in (pa.table(columns), pa.record_batch(columns)):
        table.validate(full=True)
        assert rows_of(table) == ROWS
    assert columns.pending


@each_type
def test_segment_beyond_2_gib_is_cut_into_batches(data_type: str, memory: mmap.mmap) -> None:
    """A window of views ends before 2 GiB, even if the batch could be larger."""
    with segments_of(2**40):
        options: Any = {"data_type": data_type, "offset": True, "batch_bytes": 2**40}
        batches = list(iter_columns(memory, **options))
    assert sum(map(len, batches)) == len(ROWS)
    assert [row for batch in batches for row in rows_of(batch)] == ROWS
    for batch in batches:
        pa.record_batch(batch).validate(full=True)


@each_type
def test_event_after_comment_of_2_gib_is_copied(data_type: str) -> None:
    """A view cannot point that far, so the text is copied."""
    events = {
        0: b"id: %bids\ndata: %ba\n\n:" % (LONG, LONG),
        FAR + 100: b"\nevent: y\ndata: %bb\n\ndata: %bc\n\n" % (LONG, LONG),
    }
    memory = memory_of(events, FAR + 400)
    columns = read_columns(memory, data_type=data_type, offset=True)
    start = len(events[0]) - 1
    batch = pa.record_batch(columns)
    batch.validate(full=True)
    assert rows_of(batch) == [
        ("message", f"{LONG.decode()}a", LONG_ID, None, 0),
        ("y", f"{LONG.decode()}b", LONG_ID, None, start),
        ("message", f"{LONG.decode()}c", LONG_ID, None, FAR + 100 + 45),
    ]


@each_type
def test_error_beyond_2_gib_has_its_offset(data_type: str) -> None:
    large = b"\n\ndata: %b\n\ndata: b\n\n" % (b"x" * 200)
    memory = memory_of({0: b"data: a\n\n", FAR + 100: large}, FAR + 400)
    options: Any = {"data_type": data_type, "max_event_size": 100}
    with pytest.raises(EventTooLarge, match=f" at offset {FAR + 102} ") as caught:
        read_columns(memory, **options)
    assert caught.value.offset == FAR + 102
    assert rows_of(caught.value.columns) == [("message", "a", None, None)]
    columns = read_columns(memory, oversize="skip", offset=True, **options)
    assert [row[4] for row in rows_of(columns)] == [0, FAR + 102 + 208]


@pytest.mark.soak
def test_file_beyond_2_gib_is_read(tmp_path: Path) -> None:
    if shutil.disk_usage(tmp_path).free < 2**32:
        pytest.skip("not enough disk space")
    path = tmp_path / "capture"
    with open(path, "wb") as file:
        for place, event in EVENTS.items():
            file.seek(place)
            file.write(event)
        file.truncate(SIZE)
    try:
        if os.stat(path).st_blocks * 512 > 2**24:
            pytest.skip("no sparse files")
        stream = iter_columns(path, offset=True, data_type="string_view")
        assert [row for batch in stream for row in rows_of(batch)] == ROWS
        assert stream.position == SIZE
    finally:
        path.unlink()


def test_chunks_beyond_2_gib_are_read() -> None:
    nothing = bytes(2**26)
    chunks = [b"data: a\n\n:", *[nothing] * 33, b"\n\nid: 1\ndata: b\n\n", b"data: " * 9]
    start = len(chunks[0]) + 33 * len(nothing) + 2
    end = start + len(chunks[-2]) - 2
    stream = iter_columns(chunks, offset=True, max_event_size=40)
    rows = [("message", "a", None, None, 0), ("message", "b", "1", None, start)]
    assert rows_of(next(stream)) == rows
    with pytest.raises(EventTooLarge) as caught:
        next(stream)
    assert caught.value.offset == end
    assert stream.position == end + len(chunks[-1])
