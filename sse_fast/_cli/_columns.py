"""The columns that `sse-fast convert` adds on request: when events arrived, and their source."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from sse_fast._cli import _timing_index
from sse_fast._cli._inputs import MAGIC


class MoreColumns:
    """Adds columns to the record batches of one capture.

    `arrival` is the time at which the byte arrived that completed the event, by the index beside
    the capture (`record --timing`). It is null for events of which the index has no time.
    """

    def __init__(
        self, pyarrow: Any, name: str, arrivals: Arrivals | None, *, columns: tuple[str, ...]
    ) -> None:
        """Choose the columns.

        Args:
            pyarrow: the module.
            name: the capture, as the user has named it.
            arrivals: the times of the capture; None: they are not known.
            columns: some of "offset", "arrival" and "source". A batch comes with its offsets if
                one of the first two is among them.
        """
        self._pyarrow = pyarrow
        self._name = name
        self._arrivals = arrivals
        self._columns = columns

    def add(self, columns: Any) -> Any:
        """Return the batch with the chosen columns."""
        if not {"arrival", "source"} & {*self._columns}:
            return columns
        pyarrow = self._pyarrow
        batch = pyarrow.record_batch(columns)
        if "arrival" in self._columns:
            offsets = batch.column("offset")
            known = self._arrivals is not None
            batch = self._append(
                batch,
                "arrival",
                pyarrow.array(
                    self._arrivals.of(offsets.to_pylist())  # type: ignore[union-attr]
                    if known
                    else [None] * len(offsets),
                    pyarrow.timestamp("us", tz="UTC"),
                ),
                nullable=True,
            )
            if "offset" not in self._columns:
                batch = batch.drop_columns(["offset"])
        if "source" in self._columns:
            name = pyarrow.scalar(self._name, pyarrow.large_string())
            batch = self._append(
                batch, "source", pyarrow.repeat(name, batch.num_rows), nullable=False
            )
        return batch

    def schema(self, schema: Any) -> Any:
        """Return the schema of the batches, of that of batches before their columns are added."""
        empty = self._pyarrow.RecordBatch.from_pylist([], schema=schema)
        return self._pyarrow.record_batch(self.add(empty)).schema

    def _append(self, batch: Any, name: str, values: Any, *, nullable: bool) -> Any:
        field = self._pyarrow.field(name, values.type, nullable=nullable)
        return self._pyarrow.RecordBatch.from_arrays(
            [*batch.columns, values], schema=batch.schema.append(field)
        )


class Arrivals:
    """The arrival times of the events of a capture, for offsets in ascending order."""

    def __init__(self, capture: Any, timing: _timing_index.Timing) -> None:
        """Keep the capture, bytes or mapped, and its index, whose first line has a date."""
        assert timing.began is not None
        self._capture = capture
        self._began = timing.began
        self._timing = timing
        # The chunk that is looked at, and where it ends.
        self._chunk = 0
        self._end = 0
        # The next CR and LF at or after the latest position; the size of the capture: none.
        self._next = {b"\r": -1, b"\n": -1}

    def of(self, offsets: list[int]) -> list[int | None]:
        """Return the arrival of events by the offsets of their blocks: µs since the epoch."""
        return [self._time_of(self._completed_at(offset)) for offset in offsets]

    def _completed_at(self, offset: int) -> int:
        """Return the position of the byte that ends a block: the first one of its blank line."""
        capture = self._capture
        while True:
            end = min(self._find(b"\r", offset), self._find(b"\n", offset))
            is_crlf = capture[end : end + 2] == b"\r\n"
            offset = end + (2 if is_crlf else 1)
            if offset >= len(capture) or capture[offset : offset + 1] in (b"\r", b"\n"):
                return offset

    def _find(self, byte: bytes, start: int) -> int:
        if self._next[byte] < start:
            found: int = self._capture.find(byte, start)
            self._next[byte] = len(self._capture) if found < 0 else found
        return self._next[byte]

    def _time_of(self, position: int) -> int | None:
        lengths = self._timing.lengths
        while self._end <= position:
            if self._chunk == len(lengths):
                return None
            self._end += lengths[self._chunk]
            self._chunk += 1
        return round((self._began + self._timing.seconds[self._chunk - 1]) * 1e6)


def arrivals_of(name: str) -> Arrivals | None:
    """Return the arrival times of a capture in a file; None if there is no index with a date.

    A compressed capture has none: the chunks of an index are not those of its content.

    Raises:
        OSError: a file cannot be read.
        SSEError: the index is invalid, or belongs to another capture.
    """
    path = Path(name)
    index = _timing_index.path_beside(path)
    if name == "-" or not path.is_file() or not index.is_file():
        return None
    with path.open("rb") as file:
        if file.read(4).startswith(MAGIC):
            return None
        file.seek(0)
        timing = _timing_index.read(index, path)
        if timing.began is None:
            return None
        try:
            # A map of nothing is an error.
            capture: Any = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except (OSError, ValueError):
            capture = file.read()
    return Arrivals(capture, timing)
