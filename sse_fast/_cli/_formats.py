"""The formats that `sse-fast convert` writes: Parquet, Arrow, JSON lines and CSV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat
from typing import Any, BinaryIO

from sse_fast._cli._json_lines import json_line
from sse_fast._cli._terminal import VisibleFile
from sse_fast._cli._timing_index import time_text

# A row group of Parquet ends when it reaches one of them.
GROUP_BYTES = 64 * 2**20
GROUP_ROWS = 2**20


@contextmanager
def needed(library: str, otherwise: str = "") -> Iterator[None]:
    """Name the extra if an import within the block fails."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f"sse-fast convert needs {library} ({error}): "
            f"pip install 'sse-fast[convert]'{otherwise}"
        ) from error


class Writer:
    """Writes record batches to a file, which it does not close."""

    def __init__(self, file: BinaryIO | VisibleFile, pyarrow: Any, schema: Any) -> None:
        self._file = file
        self._pyarrow = pyarrow
        self._schema = schema

    def write(self, columns: Any) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Write what is still buffered."""


class _Parquet(Writer):
    """Parquet. `event` keeps its dictionary, one for each row group."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        with needed("pyarrow"):
            import pyarrow.parquet
        self._writer = pyarrow.parquet.ParquetWriter(self._file, self._schema, compression="zstd")
        self._begin_group()

    def _begin_group(self) -> None:
        self._batches: list[Any] = []
        self._rows = 0
        self._bytes = 0

    def write(self, columns: Any) -> None:
        if self._rows + len(columns) > GROUP_ROWS:
            self._write_group()
        batch = self._pyarrow.record_batch(columns)
        self._batches.append(batch)
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        if self._bytes >= GROUP_BYTES:
            self._write_group()

    def _write_group(self) -> None:
        if self._batches:
            table = self._pyarrow.Table.from_batches(self._batches)
            self._writer.write_table(table.unify_dictionaries(), row_group_size=self._rows)
        self._begin_group()

    def close(self) -> None:
        try:
            self._write_group()
        finally:
            self._writer.close()


class _Plain(Writer):
    """Arrow, with `event` as plain text.

    An Arrow file has one dictionary for all batches, and many readers do not understand one that
    grows.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        field = self._schema.field("event").with_type(self._schema.field("data").type)
        self._schema = self._schema.set(self._schema.get_field_index("event"), field)
        self._writer = self._open()

    def _open(self) -> Any:
        with needed("pyarrow"):
            import pyarrow.ipc
        return pyarrow.ipc.new_file(self._file, self._schema)

    def write(self, columns: Any) -> None:
        self._writer.write(self._pyarrow.record_batch(columns).cast(self._schema))

    def close(self) -> None:
        self._writer.close()


class _Csv(_Plain):
    """CSV, whose columns have no dictionaries either."""

    def _open(self) -> Any:
        with needed("pyarrow"):
            import pyarrow.csv
        return pyarrow.csv.CSVWriter(self._file, self._schema)


class _JsonLines(Writer):
    """JSON lines, as `sse-fast cat --json` prints them."""

    def write(self, columns: Any) -> None:
        batch = self._pyarrow.record_batch(columns)
        events, data, ids, retries, *more = (
            [] if name == "arrival" else column.to_pylist()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        )
        names = batch.schema.names[4:]
        if "arrival" in names:
            place = names.index("arrival")
            # As numbers: a time with a zone needs a library on some systems.
            times = batch.column("arrival").cast(self._pyarrow.int64()).to_pylist()
            more[place] = [None if time is None else time_text(time / 1e6) for time in times]
        rest: Any = repeat({})
        if more:
            rest = (dict(zip(names, values, strict=True)) for values in zip(*more, strict=True))
        rows = zip(events, data, ids, retries, rest, strict=False)
        self._file.write(
            b"".join(
                [
                    json_line(event, text, last_id or "", retry, keys)
                    for event, text, last_id, retry, keys in rows
                ]
            )
        )


WRITERS: dict[str, type[Writer]] = {
    "parquet": _Parquet,
    "arrow": _Plain,
    "jsonl": _JsonLines,
    "csv": _Csv,
}
