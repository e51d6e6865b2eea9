"""read_columns and iter_columns: events as Arrow record batches, whole captures at a time.

What lies in memory, or in a file that is mapped into it (`_captures.py`), is cut into segments at
blank lines, where nothing but the last event ID is in force; threads read one each
(`_columns_c.pyx`), and a joiner puts them together in their order. What comes in chunks is read as
it comes. Both are in `_readers.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from sse_fast._check import check_response
from sse_fast._errors import SSEError
from sse_fast.adapters import open_source
from sse_fast.columns._captures import Capture, Unpacked, capture_of, open_capture
from sse_fast.columns._readers import (
    SEGMENT_SIZE,
    Chunks,
    Options,
    Segments,
    check_options,
    open_part,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from sse_fast._source import Response

    DataType = Literal["large_string", "string_view"]
    OnError = Literal["raise", "skip"]

__all__ = ["ColumnStream", "Columns", "iter_columns", "read_columns"]


def read_columns(
    source: Any,
    *,
    threads: int | None = None,
    data_type: DataType = "large_string",
    batch_size: int = 2**20,
    offset: bool = False,
    max_event_size: int = 16 * 2**20,
    on_error: OnError = "raise",
    last_event_id: str = "",
) -> Columns:
    """Read all events of a capture into columns.

    Args:
        source: bytes, or any object with a contiguous buffer; the path of a file, which is mapped
            into memory; or a sequence of paths, each of which is a stream of its own. What begins
            as gzip or zstd is decompressed. It must not change while it is read.
        threads: how many read at once; None: as many as there are processors, but at most 8. The
            result does not depend on it.
        data_type: what `data` and `id` are in Arrow's terms. "large_string" is a copy;
            "string_view" refers to the source, which is held, and must not change, for as long as
            the columns are; but for data of several lines and what was no UTF-8. (pyarrow 26
            neither filters nor sorts by such columns.)
        batch_size: the most rows of a record batch, from 1 to 2**31 - 1.
        offset: whether there is a column `offset`: where the block of the event begins in its
            source, in bytes (of a compressed one, in its content). Read from there, a stream begins
            with this event.
        max_event_size: the most bytes of one event, as of `Parser`; with "string_view" at most
            2**28.
        on_error: "raise" for an event over that size, or "skip": it is left out, and counted in
            `skipped`.
        last_event_id: the last event ID in force at the start of each stream.

    Raises:
        ImportError: the extension was not compiled.
        TypeError, ValueError: there is no such argument.
        BufferError: the buffer is not contiguous.
        EventTooLarge: an event was larger than `max_event_size`. `offset` says which, `columns`
            has what came before it.
        TransportError: what is compressed is damaged or cut off; `columns` has what came before.
        MemoryError: there is none; or a long id is in force for so many events that its copies
            take more than 16 times the memory of their source (of each segment of some 8 MiB; and
            16 MiB more), which "string_view" does not make.
    """
    options = check_options(
        threads, data_type, batch_size, None, offset, max_event_size, on_error, last_event_id
    )  # fmt: skip
    paths = _paths_of(source)
    if paths is None and not _has_buffer(source):
        if source == []:
            raise ValueError("Expected at least one path, got an empty list")
        raise TypeError(
            "Expected bytes, a path or a sequence of paths, got "
            f"{type(source).__name__}: iter_columns() takes what comes in chunks"
        )
    captures: Iterable[Capture]
    if paths is None:
        captures = [capture_of(source)]
    else:
        _look_at(paths)
        captures = map(open_capture, paths)
    joiner = options.new_joiner(False)
    batches: list[Any] = []
    skipped = 0
    pending = False
    error: SSEError | MemoryError | None = None
    for capture in captures:
        with open_part(options, capture, joiner) as part:
            try:
                # One by one: they stay when the next one is an error.
                for batch in part:
                    batches.append(batch)
            except (SSEError, MemoryError) as reason:
                error = reason
            skipped += part.skipped
            pending = pending or part.pending
        if error is not None:
            break
    joiner.seal(batches)
    columns = Columns._of(options, batches, joiner.last_event_id, skipped, pending)
    if error is not None:
        error.columns = columns  # type: ignore[union-attr]
        raise error
    return columns


def iter_columns(
    source: Any,
    *,
    threads: int | None = None,
    data_type: DataType = "large_string",
    batch_size: int = 2**20,
    batch_bytes: int = SEGMENT_SIZE,
    batch_seconds: float | None = None,
    offset: bool = False,
    max_event_size: int = 16 * 2**20,
    on_error: OnError = "raise",
    last_event_id: str = "",
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
) -> ColumnStream:
    """Iterate over the events of a source as record batches, in bounded memory.

    Args:
        source: what `read_columns` takes, of any size, and what `iter_events` takes: a response,
            a binary file, a socket, an iterable of bytes.
        threads: as in `read_columns`; what comes in chunks is read by one.
        data_type: as in `read_columns`. What comes in chunks is copied in either case.
        batch_size: the most rows of a batch, from 1 to 2**31 - 1.
        batch_bytes: a batch is cut at the first event that ends so many bytes of the source behind
            its beginning, or with which its texts have as many.
        batch_seconds: a batch is cut when its first event is so old, which is looked at when bytes
            arrive; None: time does not count. Nor does it where nothing has to be waited for:
            in memory, and in files.
        offset: as in `read_columns`.
        max_event_size: as in `read_columns`.
        on_error: as in `read_columns`.
        last_event_id: as in `read_columns`.
        check: as in `iter_events`.
        on_chunk: called with the bytes of what comes in chunks, decompressed, before they are
            parsed; what lies in memory or in a file that is mapped into it, does not.

    Raises:
        ImportError: the extension was not compiled.
        TypeError, ValueError: there is no such argument, or the source is none.
        ResponseError: the check failed; the response is closed.

    While iterating, and always behind the batch of what came before: `EventTooLarge`, with its
    `offset`; `TransportError`; `MemoryError`.
    """
    options = check_options(
        threads, data_type, batch_size, batch_bytes, offset, max_event_size, on_error,
        last_event_id,
    )  # fmt: skip
    if batch_seconds is not None and not isinstance(batch_seconds, (int, float)):
        raise TypeError(
            f"Expected batch_seconds to be a number or None, got {type(batch_seconds).__name__}"
        )
    if batch_seconds is not None and not batch_seconds >= 0:
        raise ValueError(f"Expected batch_seconds from 0 or None, got {batch_seconds!r}")
    options = options._replace(batch_seconds=batch_seconds)
    paths = _paths_of(source)
    if paths is not None:
        _look_at(paths)
        return ColumnStream._of(options, paths)
    if _has_buffer(source):
        part = open_part(options, capture_of(source), options.new_joiner(True), on_chunk)
        return ColumnStream._of(options, part)
    opened = open_source(source)
    if not isinstance(opened.chunks, Iterable):
        raise TypeError(
            f"Expected a source that is read without await, got {type(source).__name__} with an "
            "async body: read it by a synchronous client"
        )
    chunks = iter(opened.chunks)
    opened = opened._replace(chunks=chunks)
    reason = check_response(opened) if check else None
    close = opened.close or getattr(chunks, "close", None)
    opened = opened._replace(chunks=Unpacked(chunks), close=close)
    part = Chunks(options, opened, None, on_chunk)
    if reason is not None:
        part.end_reason = reason
        part.close()
    return ColumnStream._of(options, part, opened.response)


def _paths_of(source: Any) -> list[Any] | None:
    """The paths that a source names; None: it is something else."""
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    elif not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray, memoryview)):
        return None
    if not source or not all(isinstance(each, (str, os.PathLike)) for each in source):
        return None
    return list(source)


def _look_at(paths: list[Any]) -> None:
    """What is not there is missed here, before anything is read.

    Raises:
        OSError: so it is.
        TypeError: it is a URL.
    """
    for path in paths:
        if isinstance(path, str) and path.partition("://")[0].lower() in ("http", "https"):
            raise TypeError(
                "Expected a path, got a URL: iter_columns() takes the response to it, of any HTTP "
                "library"
            )
        os.stat(path)


def _has_buffer(source: Any) -> bool:
    try:
        memoryview(source).release()
    except TypeError:
        return False
    return True


class Columns:
    """Events as columns: `event` (a dictionary), `data`, `id`, `retry` and, on request, `offset`.

    `pyarrow.table(columns)`, `polars.DataFrame(columns)`, DuckDB and `pandas.DataFrame.from_arrow`
    take it as it is, by Arrow's PyCapsule interface. `id` is null where no last event ID is in
    force, `retry` (ms) where the block of the event sets none. `len(columns)` is the number of
    events.

    Attributes:
        last_event_id: the last event ID in force behind them.
        skipped: how many events were over `max_event_size`. (Of `iter_columns`, the stream has
            this and the next.)
        pending: whether the source, or one of them, ended within an event, which is dropped.
    """

    __slots__ = ("_batches", "_options", "last_event_id", "pending", "skipped")

    _options: Options
    _batches: list[Any]
    last_event_id: str
    skipped: int
    pending: bool

    def __init__(self) -> None:
        raise TypeError("Expected read_columns() or iter_columns() to make columns")

    @classmethod
    def _of(
        cls,
        options: Options,
        batches: list[Any],
        last_event_id: str,
        skipped: int = 0,
        pending: bool = False,
    ) -> Columns:
        columns = cls.__new__(cls)
        columns._options = options
        columns._batches = batches
        columns.last_event_id = last_event_id
        columns.skipped = skipped
        columns.pending = pending
        return columns

    def __len__(self) -> int:
        return sum(map(len, self._batches))

    def __repr__(self) -> str:
        return f"<Columns of {len(self)} events>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle 'sse_fast.Columns' object: pyarrow.table(columns) can be")

    def __arrow_c_schema__(self) -> Any:
        """A capsule with an ArrowSchema."""
        return self._options.export_schema()

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        """Capsules with an ArrowSchema and one ArrowArray, for which several batches are copied.

        `requested_schema` is not heeded, as it need not be.
        """
        if len(self._batches) != 1:
            self._batches = [self._options.concatenate(self._batches)]
        return self._options.export_schema(), self._batches[0].export_array()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """A capsule with an ArrowArrayStream of the batches; as often as it is asked for."""
        return self._options.export_stream(self._batches)


class ColumnStream(Iterator[Columns]):
    """The record batches of a source, made by `iter_columns`: an iterator and a context manager.

    `pyarrow.RecordBatchReader.from_stream`, `polars.DataFrame` and DuckDB take it as it is, once.
    The end, an error, `close()` and leaving `with` give a response or a file free; batches stay.

    Attributes:
        last_event_id: the last event ID in force behind the latest batch; after the end, at it.
        pending: after the end, whether the source, or one of them so far, ended within an event,
            which is dropped.
        response: the `Response`; None for what is none.
    """

    _options: Options
    _paths: list[Any]
    _part: Segments | Chunks | None
    _skipped: int
    _read: int
    _is_closed: bool
    last_event_id: str
    pending: bool
    response: Response | None

    def __init__(self) -> None:
        raise TypeError("Expected iter_columns() to make a stream of columns")

    @classmethod
    def _of(
        cls,
        options: Options,
        source: list[Any] | Segments | Chunks,
        response: Response | None = None,
    ) -> ColumnStream:
        stream = cls.__new__(cls)
        stream._options = options
        # Those of them that are still to be opened.
        stream._paths = source if isinstance(source, list) else []
        stream._part = None if isinstance(source, list) else source
        stream._skipped = 0
        stream._read = 0
        stream._is_closed = False
        stream.last_event_id = options.last_event_id
        stream.pending = False
        stream.response = response
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot copy or pickle 'sse_fast.ColumnStream' object: it reads a source")

    def __del__(self) -> None:
        # A file that was opened here, nobody else closes.
        part = getattr(self, "_part", None)
        if part is not None and part.name is not None:
            with suppress(Exception):
                part.close()

    def __next__(self) -> Columns:
        batch = self._next_batch()
        return Columns._of(self._options, [batch], batch.id)

    def _next_batch(self) -> Any:
        while not self._is_closed:
            part = self._part
            if part is None:
                if not self._paths:
                    break
                part = self._part = self._open_next()
            try:
                batch = next(part)
            except StopIteration:
                self._leave(part)
            except (SSEError, MemoryError):
                self._leave(part)
                self._is_closed = True
                raise
            else:
                if self._is_closed:
                    break
                self.last_event_id = batch.id
                return batch
        raise StopIteration

    def _open_next(self) -> Segments | Chunks:
        try:
            capture = open_capture(self._paths.pop(0))
        except BaseException:
            # Else the next call would go on with the next file.
            self._is_closed = True
            raise
        part = open_part(self._options, capture, self._options.new_joiner(True))
        if self._is_closed:
            # It was meanwhile, by another thread.
            part.close()
        return part

    def _leave(self, part: Segments | Chunks) -> None:
        """It has come to its end."""
        self._part = None
        self._skipped += part.skipped
        self._read += part.position
        self.pending = self.pending or part.pending
        self.last_event_id = part.last_event_id
        part.close()

    def flush(self) -> Columns | None:
        """Return what has arrived and was not handed out, as it waits for its batch to be full;
        None if there is nothing, as where nothing has to be waited for.
        """
        batch = None if self._part is None else self._part.flush()
        if batch is None:
            return None
        self.last_event_id = batch.id
        return Columns._of(self._options, [batch], batch.id)

    def close(self) -> None:
        """Give the source free; from any thread, any number of times.

        What has arrived and was not handed out is dropped: `flush()` it before, in the thread that
        reads.
        """
        self._is_closed = True
        part = self._part
        if part is not None:
            part.close()

    @property
    def skipped(self) -> int:
        """How many events were over `max_event_size` so far."""
        return self._skipped + (0 if self._part is None else self._part.skipped)

    @property
    def position(self) -> int:
        """How many bytes of the source, or of all files so far, were read: of a compressed file, as
        it is; of what else is compressed, of its content.
        """
        return self._read + (0 if self._part is None else self._part.position)

    def __arrow_c_schema__(self) -> Any:
        """A capsule with an ArrowSchema."""
        return self._options.export_schema()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """A capsule with an ArrowArrayStream of the batches that were not handed out yet.

        `requested_schema` is not heeded, as it need not be.
        """
        return self._options.export_stream(iter(self._next_batch, None))
