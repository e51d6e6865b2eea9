"""Files of captures: compressed, truncated, damaged, several, and without a size."""

from __future__ import annotations

import gzip
import os
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import pytest

import sse_fast
from sse_fast import TransportError, iter_columns, read_columns
from tests.columns.test_iter_columns import data_of, numbered, texts
from tests.support.columnar import (
    MIXED,
    PACKERS,
    each_type,
    interpret_blocks,
    iterate,
    pa,
    rows_of,
    zstd,
)

EXPECTED = interpret_blocks(MIXED)
needs_fifos = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
each_packing = pytest.mark.parametrize("packing", PACKERS)


@each_packing
@each_type
def test_compressed_file_is_decompressed(packing: str, data_type: str, tmp_path: Path) -> None:
    """Its bytes tell the coding, not its name; there may be several members."""
    pack = PACKERS[packing]
    path = tmp_path / "capture.txt"
    for packed in (pack(MIXED), pack(MIXED[:99]) + pack(b"") + pack(MIXED[99:])):
        path.write_bytes(packed)
        assert iterate(path, data_type=data_type) == EXPECTED
        assert iterate(path, data_type=data_type, batch_size=2) == EXPECTED
        columns = read_columns(path, data_type=data_type, offset=True)
        assert rows_of(columns) == EXPECTED.rows
        assert (columns.last_event_id, columns.pending) == EXPECTED[1:3]
        stream = iter_columns(path)
        assert len(list(stream)) == 1
        assert stream.position == len(packed)


@each_packing
def test_truncated_file_raises_after_its_events(packing: str, tmp_path: Path) -> None:
    """All events up to the cut are delivered, then the error is raised."""
    content = numbered(5000)
    packed = PACKERS[packing](content)
    path = tmp_path / "capture"
    for size in (20, len(packed) // 2, len(packed) - 1):
        path.write_bytes(packed[:size])
        with pytest.raises(TransportError, match=r"is truncated after .* bytes") as caught:
            read_columns(path)
        count = len(caught.value.columns)
        assert data_of(caught.value.columns) == texts(0, count)
        if packing == "gz":
            content_so_far = zlib.decompressobj(wbits=31).decompress(packed[:size])
            assert count == len(sse_fast.Parser().feed(content_so_far))
        stream = iter_columns(path, batch_size=1000)
        batches: list[Any] = []
        with pytest.raises(TransportError, match="is truncated after"):
            batches += stream
        assert [text for batch in batches for text in data_of(batch)] == texts(0, count)
        assert next(stream, None) is None


@each_packing
def test_damaged_file_raises_after_its_events(packing: str, tmp_path: Path) -> None:
    content = b"".join(
        b"data: %d %b\n\n" % (number, os.urandom(20).hex().encode()) for number in range(20_000)
    )
    if packing == "gz":
        packed = bytearray(gzip.compress(content))
    else:
        # Without a checksum, zstd does not notice the damage.
        checked = {zstd().CompressionParameter.checksum_flag: 1}
        packed = bytearray(zstd().compress(content, options=checked))
    middle = len(packed) // 2
    packed[middle : middle + 40] = b"\0\xff" * 20
    path = tmp_path / "capture"
    path.write_bytes(packed)
    with pytest.raises(TransportError) as caught:
        read_columns(path)
    assert 0 < len(caught.value.columns) < 20_000
    assert data_of(caught.value.columns)[:100] == [
        event.data for event in sse_fast.Parser().feed(content)[:100]
    ]
    path.write_bytes(PACKERS[packing](b"data: a\n\n") + b"what is this")
    with pytest.raises(TransportError, match="is damaged after") as caught:
        read_columns(path)
    assert data_of(caught.value.columns) == ["a"]


def test_each_file_is_a_stream_by_itself(tmp_path: Path) -> None:
    """Neither an unfinished event nor an id goes on into the next file."""
    contents = [
        b"id: 1\ndata: a\n\ndata: lost",
        b"",
        b"data: b\n\n",
        b"\xef\xbb\xbfdata: c\n\nid: 3\n\n",
    ]
    paths = [tmp_path / str(index) for index in range(4)]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(gzip.compress(content) if path.name == "2" else content)
    expected = [
        ("message", "a", "1", None, 0),
        ("message", "b", "0", None, 0),
        ("message", "c", "0", None, 0),
    ]
    result = read_columns(paths, offset=True, last_event_id="0")
    assert rows_of(result) == expected
    assert (result.last_event_id, result.pending) == ("3", True)
    stream = iter_columns(list(map(str, paths)), offset=True, last_event_id="0")
    batches = list(stream)
    assert [row for batch in batches for row in rows_of(batch)] == expected
    assert [batch.last_event_id for batch in batches] == ["1", "0", "3"]
    assert (stream.last_event_id, stream.pending) == ("3", True)
    assert stream.position == sum(path.stat().st_size for path in paths)
    assert read_columns(paths[:1]).pending
    skipping = iter_columns(paths, max_event_size=5, oversize="skip")
    assert list(skipping) == []
    assert skipping.skipped == 4 == read_columns(paths, max_event_size=5, oversize="skip").skipped


def test_files_share_one_dictionary(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_bytes(b"event: x\ndata\n\nevent: y\ndata\n\n")
    paths[1].write_bytes(gzip.compress(b"event: z\ndata\n\nevent: y\ndata\n\n"))
    table = pa.table(read_columns(paths))
    assert table["event"].to_pylist() == ["x", "y", "z", "y"]
    assert {tuple(chunk.dictionary.to_pylist()) for chunk in table["event"].chunks} == {
        ("x", "y", "z")
    }
    assert pa.record_batch(read_columns(paths)).column(0).to_pylist() == ["x", "y", "z", "y"]


@needs_fifos
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_fifo_is_read_to_its_end(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    content = gzip.compress(MIXED) if packed else MIXED
    for read in (lambda: rows_of(read_columns(path, offset=True)), lambda: iterate(path).rows):
        writer = threading.Thread(target=path.write_bytes, args=(content,))
        writer.start()
        rows = read()
        writer.join()
        assert rows == EXPECTED.rows


@pytest.mark.skipif(sys.platform != "linux", reason="no /proc")
def test_file_without_size_is_read() -> None:
    """Files in /proc report a size of 0, and have content."""
    assert rows_of(read_columns("/proc/self/status")) == []
    assert read_columns("/proc/self/status").pending
