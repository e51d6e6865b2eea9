"""read_columns and iter_columns: events as Arrow record batches, whole captures at a time.

A source in memory, or in a file that is mapped into memory (`_captures.py`), is cut into segments
at blank lines: the last event ID is the only state that continues after a blank line. Each thread
reads one segment (`_columns_c.pyx`), and the batches are joined in order. A source that arrives in
chunks is read as it arrives. `_readers.py` has both readers.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn

from sse_fast._check import check_response
from sse_fast._errors import SSEError
from sse_fast._seconds import check_seconds
from sse_fast.adapters import open_source
from sse_fast.columns._captures import Capture, Decompressed, capture_of, open_capture
from sse_fast.columns._readers import (
    SEGMENT_SIZE,
    BufferBatches,
    ChunkBatches,
    Options,
    check_options,
    open_batches,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from sse_fast._source import Response

    DataType = Literal["large_string", "string_view"]
    Oversize = Literal["raise", "skip"]

__all__ = ["ColumnStream", "Columns", "iter_columns", "read_columns"]


def read_columns(
    source: Any,
    *,
    threads: int | None = None,
    data_type: DataType = "large_string",
    batch_size: int = 2**20,
    offset: bool = False,
    max_event_size: int = 16 * 2**20,
    oversize: Oversize | None = None,
    last_event_id: str = "",
    on_error: Oversize | None = None,
) -> Columns:
    """Read all events of a capture into columns.

    A source that begins as gzip or zstd is decompressed. It must not change while it is read.

    Args:
        source: bytes, or any object with a contiguous buffer; the path of a file, which is mapped
            into memory; or a sequence of paths, each of which is a stream by itself.
        threads: number of reader threads; None: one per CPU, at most 8. The result does not depend
            on it.
        data_type: Arrow type of `data` and `id`. "large_string" copies the text. "string_view"
            refers to the source where it can (data in one line of valid UTF-8), which must not
            change as long as the columns exist. (pyarrow 26 neither filters nor sorts by views.)
        batch_size: largest number of rows in a record batch, from 1 to 2**31 - 1.
        offset: add a column `offset`, the byte offset of the event's block in its source (if that
            is compressed, in its content). A stream read from this offset begins with the event.
        max_event_size: largest event in bytes, as for `Parser`; at most 2**28 with "string_view".
        oversize: "raise" (the default) raises `EventTooLarge` for a larger event; "skip" drops it
            and counts it in `skipped`.
        last_event_id: the last event ID in force at the start of each stream.
        on_error: former name of `oversize`.

    Returns:
        The columns of all events.

    Raises:
        ImportError: the extension was not compiled, or no library can decompress zstd.
        TypeError: an argument has the wrong type.
        ValueError: an argument has a value that is not allowed.
        OSError: a file could not be opened.
        BufferError: the buffer is not contiguous.
        EventTooLarge: an event exceeded `max_event_size`; its `offset` is where the event begins.
        TransportError: compressed data is damaged or truncated.
        MemoryError: memory ran out; or, with "large_string", the copies of a long id, one for each
            event, would take more than 16 times the bytes of their segment (some 8 MiB), plus
            16 MiB. "string_view" makes no such copies.

    `EventTooLarge`, `TransportError` and `MemoryError` carry an attribute `columns`: the `Columns`
    of the events before the error. It is not pickled with them.
    """
    options = check_options(
        threads, data_type, batch_size, None, offset, max_event_size, oversize, on_error,
        last_event_id,
    )  # fmt: skip
    paths = _paths_of(source)
    if paths is None and not _has_buffer(source):
        if source == []:
            raise ValueError("The list of paths is empty")
        raise TypeError(
            "Expected bytes, a path or a sequence of paths, got "
            f"{type(source).__name__}: iter_columns() reads sources that arrive in chunks"
        )
    captures: Iterable[Capture]
    if paths is None:
        captures = [capture_of(source)]
    else:
        _check_paths(paths)
        captures = map(open_capture, paths)
    merger = options.new_merger(False)
    batches: list[Any] = []
    skipped = 0
    pending = False
    error: SSEError | MemoryError | None = None
    for capture in captures:
        with open_batches(options, capture, merger) as reading:
            try:
                # One by one, to keep the batches before an error.
                while reading.fill():
                    batches.append(reading.ready.popleft())
            except (SSEError, MemoryError) as reason:
                error = reason
            skipped += reading.skipped
            pending = pending or reading.pending
        if error is not None:
            break
    merger.attach_dictionary(batches)
    columns = Columns._of(options, batches, merger.last_event_id, skipped, pending)
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
    oversize: Oversize | None = None,
    last_event_id: str = "",
    check: bool = True,
    on_chunk: Callable[[bytes], object] | None = None,
    on_error: Oversize | None = None,
) -> ColumnStream:
    """Iterate over the events of a source as record batches, in bounded memory.

    Args:
        source: a source of `read_columns`, of any size, or one of `iter_events`: a response, a
            binary file, a socket, an iterable of bytes. Chunks are read by one thread.
        threads: as in `read_columns`.
        data_type: as in `read_columns`. The text of chunks is copied in either case.
        batch_size: largest number of rows in a batch, from 1 to 2**31 - 1.
        batch_bytes: bytes of a batch. The batch ends after the event with which its input, or its
            text, reaches this size.
        batch_seconds: a batch ends when its first event is this old, which is checked whenever
            bytes arrive; None: no limit. Sources in memory and mapped files ignore it.
        offset: as in `read_columns`.
        max_event_size: as in `read_columns`.
        oversize: as in `read_columns`.
        last_event_id: as in `read_columns`.
        check: as in `iter_events`.
        on_chunk: called with each chunk, decompressed, before it is parsed; not called for sources
            in memory or in mapped files.
        on_error: former name of `oversize`.

    Returns:
        An iterator of `Columns`, one for each batch. While iterating, `EventTooLarge` (with its
        `offset`), `TransportError` and `MemoryError` are raised after the batch of the events
        before the error.

    Raises:
        ImportError: the extension was not compiled, or no library can decompress zstd.
        TypeError: an argument has the wrong type, or the source cannot be read.
        ValueError: an argument has a value that is not allowed.
        OSError: a file could not be opened.
        ResponseError: the check failed; the response is closed.
    """
    options = check_options(
        threads, data_type, batch_size, batch_bytes, offset, max_event_size, oversize, on_error,
        last_event_id,
    )  # fmt: skip
    if batch_seconds is not None:
        check_seconds(batch_seconds, "batch_seconds")
    options = options._replace(batch_seconds=batch_seconds)
    paths = _paths_of(source)
    if paths is not None:
        _check_paths(paths)
        return ColumnStream._of(options, paths)
    if _has_buffer(source):
        reading = open_batches(options, capture_of(source), options.new_merger(True), on_chunk)
        return ColumnStream._of(options, reading)
    opened = open_source(source)
    if not isinstance(opened.chunks, Iterable):
        raise TypeError(
            f"{type(source).__name__} has an async body, which cannot be read here: use a "
            "synchronous client"
        )
    chunks = iter(opened.chunks)
    opened = opened._replace(chunks=chunks)
    reason = check_response(opened) if check else None
    close = opened.close or getattr(chunks, "close", None)
    opened = opened._replace(chunks=Decompressed(chunks), close=close)
    reading = ChunkBatches(options, opened, None, on_chunk)
    if reason is not None:
        reading.end_reason = reason
        reading.close()
    return ColumnStream._of(options, reading, opened.response)


def _paths_of(source: Any) -> list[Any] | None:
    """Return the paths in a source, or None if it is neither a path nor a sequence of paths."""
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    elif not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray, memoryview)):
        return None
    if not source or not all(isinstance(each, (str, os.PathLike)) for each in source):
        return None
    return list(source)


def _check_paths(paths: list[Any]) -> None:
    """Fail early, before reading anything.

    Raises:
        OSError: a file does not exist.
        TypeError: a path is a URL.
    """
    for path in paths:
        if isinstance(path, str) and path.partition("://")[0].lower() in ("http", "https"):
            raise TypeError(
                "A URL is not a path: request it with any HTTP library, and pass the response to "
                "iter_columns()"
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
    read it directly, by Arrow's PyCapsule interface. `id` is null while no last event ID is in
    force, `retry` (ms) unless the event's block sets it. `len(columns)` is the number of events.

    Attributes:
        last_event_id: the last event ID in force after the events.
        skipped: number of events that exceeded `max_event_size` and were skipped. For the batches
            of `iter_columns`, the stream has this and the next attribute.
        pending: whether the source, or one of several, ended within an event, which is dropped.
    """

    __slots__ = ("_batches", "_options", "last_event_id", "pending", "skipped")

    _options: Options
    _batches: list[Any]
    last_event_id: str
    skipped: int
    pending: bool

    def __init__(self) -> None:
        raise TypeError("Columns cannot be made directly: call read_columns() or iter_columns()")

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
        raise TypeError("cannot pickle 'sse_fast.Columns' object: pickle pyarrow.table(columns)")

    def __arrow_c_schema__(self) -> Any:
        """Return a capsule with an ArrowSchema."""
        return self._options.export_schema()

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        """Return capsules with an ArrowSchema and one ArrowArray; several batches are copied.

        `requested_schema` is ignored, as the interface allows.
        """
        if len(self._batches) != 1:
            self._batches = [self._options.concatenate(self._batches)]
        return self._options.export_schema(), self._batches[0].export_array()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return a capsule with an ArrowArrayStream of the batches; it can be called repeatedly.

        `requested_schema` is ignored, as the interface allows.
        """
        return self._options.export_stream(self._batches)


class ColumnStream(Iterator[Columns]):
    """The record batches of a source, made by `iter_columns`: an iterator and a context manager.

    `pyarrow.RecordBatchReader.from_stream`, `polars.DataFrame` and DuckDB read it directly, once.
    The end, an error, `close()` and leaving `with` release the response or file. Batches
    stay valid.

    Attributes:
        last_event_id: the last event ID in force after the latest batch; after the end, the one in
            force there.
        pending: whether the source, or one of several sources so far, ended within an event, which
            is dropped; known after the end.
        response: the `Response`; None for a source that is not a response.
    """

    _options: Options
    _paths: list[Any]
    _reading: BufferBatches | ChunkBatches | None
    _skipped: int
    _read: int
    _is_closed: bool
    last_event_id: str
    pending: bool
    response: Response | None

    def __init__(self) -> None:
        raise TypeError("A ColumnStream cannot be made directly: call iter_columns()")

    @classmethod
    def _of(
        cls,
        options: Options,
        source: list[Any] | BufferBatches | ChunkBatches,
        response: Response | None = None,
    ) -> ColumnStream:
        stream = cls.__new__(cls)
        stream._options = options
        # The files that are still to be opened.
        stream._paths = source if isinstance(source, list) else []
        stream._reading = None if isinstance(source, list) else source
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
        # Close files only: this stream opened them, so no other object will close them.
        reading = getattr(self, "_reading", None)
        if reading is not None and reading.name is not None:
            with suppress(Exception):
                reading.close()

    def __next__(self) -> Columns:
        columns = Columns._of(self._options, [], "")
        while True:
            ready = self._fill()
            # Without a call, this is one step: the caller gets the batch, or it stays.
            if ready:
                columns._batches = [ready[0]]
                self.last_event_id = columns.last_event_id = ready[0].id
                del ready[0]
                return columns

    def _next_batch(self) -> Any:
        while True:
            ready = self._fill()
            if ready:
                batch = ready[0]
                self.last_event_id = batch.id
                del ready[0]
                return batch

    def _fill(self) -> deque[Any]:
        """Read until a batch is ready; raise StopIteration at the end."""
        while not self._is_closed:
            reading = self._reading
            if reading is None:
                if not self._paths:
                    break
                reading = self._open_next()
            try:
                if not reading.fill():
                    self._leave(reading)
                elif not self._is_closed:
                    return reading.ready
            except (SSEError, MemoryError):
                self._is_closed = True
                self._leave(reading)
                raise
        raise StopIteration

    def _open_next(self) -> BufferBatches | ChunkBatches:
        try:
            capture = open_capture(self._paths[0])
        except Exception:
            # The next call must not continue with the next file.
            self._is_closed = True
            raise
        reading = open_batches(self._options, capture, self._options.new_merger(True))
        # A signal handler may raise before this, and the file is opened again.
        self._reading = reading
        del self._paths[0]
        if self._is_closed:
            # Another thread closed the stream meanwhile.
            reading.close()
        return reading

    def _leave(self, reading: BufferBatches | ChunkBatches) -> None:
        """Add up what was read when a file or source has ended."""
        self._reading = None
        self._skipped += reading.skipped
        self._read += reading.position
        self.pending = self.pending or reading.pending
        self.last_event_id = reading.last_event_id
        reading.close()

    def flush(self) -> Columns | None:
        """Return the next events that have arrived, without reading.

        These are the events of a batch that is finished, but was not delivered yet, before those of
        the unfinished batch. Call it in the thread that reads.

        Returns:
            Their columns; None if there are none. Sources in memory and mapped files have no
            unfinished batch.
        """
        columns = Columns._of(self._options, [], "")
        reading = self._reading
        if reading is None:
            return None
        if not reading.ready:
            reading.flush()
        ready = reading.ready
        # As in `__next__`.
        if not ready:
            return None
        columns._batches = [ready[0]]
        self.last_event_id = columns.last_event_id = ready[0].id
        del ready[0]
        return columns

    def close(self) -> None:
        """Release the source. Thread-safe and idempotent.

        Events that were not delivered are dropped: call `flush()` first, until it returns None.
        """
        self._is_closed = True
        reading = self._reading
        if reading is not None:
            reading.close()

    @property
    def skipped(self) -> int:
        """Number of events so far that exceeded `max_event_size` and were skipped."""
        return self._skipped + (0 if self._reading is None else self._reading.skipped)

    @property
    def position(self) -> int:
        """Number of bytes read so far, of the source or of all files.

        Compressed files count as they are; other compressed sources count decompressed.
        """
        return self._read + (0 if self._reading is None else self._reading.position)

    def __arrow_c_schema__(self) -> Any:
        """Return a capsule with an ArrowSchema."""
        return self._options.export_schema()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """Return a capsule with an ArrowArrayStream of the batches that were not read yet.

        `requested_schema` is ignored, as the interface allows.
        """
        return self._options.export_stream(iter(self._next_batch, None))
