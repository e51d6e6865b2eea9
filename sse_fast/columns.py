"""read_columns and iter_columns: events as Arrow record batches, whole captures at a time.

What lies in memory, or in a file that is mapped into it, is cut into segments at blank lines, where
nothing but the last event ID is in force; threads read one each (`_columns_c.pyx`), and a joiner
puts them together in their order. What comes in chunks is read as it comes. `_captures.py` opens
files.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

from sse_fast._captures import Capture, open_capture
from sse_fast._errors import EventTooLarge, SSEError
from sse_fast._parser import Parser
from sse_fast._source import Source
from sse_fast._stream import EndReason, EventStream
from sse_fast.adapters import check_response, open_source

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from typing_extensions import Self

    from sse_fast._source import Response

    DataType = Literal["large_string", "string_view"]
    OnError = Literal["raise", "skip"]

__all__ = ["ColumnStream", "Columns", "iter_columns", "read_columns"]

SEGMENT_SIZE = 8 * 2**20
"""Bytes of a segment, and more up to its blank line: so many that what a batch costs beside its
rows does not count, and so few that threads end together."""

_MAX_THREADS = 8
"""No more by themselves: memory is their limit."""


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
            into memory, or decompressed if it is one of gzip or zstd; or a sequence of paths, each
            of which is a stream of its own. What is read must not change meanwhile.
        threads: how many read at once; None: as many as there are processors, but at most 8. The
            result does not depend on it.
        data_type: what `data` and `id` are in Arrow's terms. "large_string" is a copy;
            "string_view" refers to the source, which is held, and must not change, for as long as
            the columns are.
        batch_size: the most rows of a record batch, from 1 to 2**31 - 1.
        offset: whether there is a column `offset`: where the block of the event begins in its
            source, in bytes (of a compressed file, in what was compressed). Read from there, a
            stream begins with this event.
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
        TransportError: a compressed file is damaged or cut off; `columns` has what came before.
        MemoryError: there is none; or a long id is in force for so many events that its copies
            take 16 times the memory of the source, which "string_view" does not make.
    """
    options = _check_options(
        threads, data_type, batch_size, SEGMENT_SIZE, offset, max_event_size, on_error,
        last_event_id,
    )  # fmt: skip
    paths = _paths_of(source)
    if paths is None and not _has_buffer(source):
        raise TypeError(
            "Expected bytes, a path or a sequence of paths, got "
            f"{type(source).__name__}: iter_columns() takes what comes in chunks"
        )
    captures = [_Held(source)] if paths is None else map(open_capture, paths)
    joiner = options.new_joiner(False)
    batches: list[Any] = []
    skipped = 0
    pending = False
    error: SSEError | MemoryError | None = None
    for capture in captures:
        joiner.last_event_id = options.last_event_id
        with _open_part(options, capture, joiner) as part:
            try:
                # One by one: they stay when the next one is an error.
                for batch in part:
                    batches.append(batch)
            except (SSEError, MemoryError) as reason:
                error = reason
            skipped += part.skipped
            pending = part.pending
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
        on_chunk: called with the raw bytes of what comes in chunks, before they are parsed.

    Raises:
        ImportError: the extension was not compiled.
        TypeError, ValueError: there is no such argument, or the source is none.
        ResponseError: the check failed; the response is closed.

    While iterating, and always behind the batch of what came before: `EventTooLarge`, with its
    `offset`; `TransportError`; `MemoryError`.
    """
    options = _check_options(
        threads, data_type, batch_size, batch_bytes, offset, max_event_size, on_error,
        last_event_id,
    )  # fmt: skip
    if batch_seconds is not None and not batch_seconds >= 0:
        raise ValueError(f"Expected batch_seconds from 0 or None, got {batch_seconds!r}")
    options = options._replace(batch_seconds=batch_seconds)
    paths = _paths_of(source)
    if paths is not None:
        return ColumnStream._of(options, paths)
    if _has_buffer(source):
        return ColumnStream._of(options, _Segments(options, source, options.new_joiner(True)))
    opened = open_source(source)
    if not isinstance(opened.chunks, Iterable):
        raise TypeError(
            f"Expected a source that is read without await, got {type(source).__name__} with an "
            "async body: read it by a synchronous client"
        )
    opened = opened._replace(chunks=iter(opened.chunks))
    reason = check_response(opened) if check else None
    part = _Chunks(options, opened, None, on_chunk)
    if reason is not None:
        part.end_reason = reason
        part.close()
    return ColumnStream._of(options, part, opened.response)


class _Options(NamedTuple):
    """What both functions take, checked; and the extension."""

    core: Any
    seed: int
    threads: int
    views: bool
    batch_size: int
    batch_bytes: int
    batch_seconds: float | None
    offset: bool
    max_event_size: int
    skips: bool
    last_event_id: str

    def new_reader(self, pool: Any, seals: bool = False) -> Any:
        return self.core.Reader(
            views=self.views,
            offsets=self.offset,
            skips=self.skips,
            max_rows=self.batch_size,
            max_bytes=self.batch_bytes,
            max_event_size=self.max_event_size,
            pool=pool,
            seed=self.seed,
            seals=seals,
        )

    def new_joiner(self, is_endless: bool) -> Any:
        return self.core.Joiner(
            seed=self.seed, is_endless=is_endless, last_event_id=self.last_event_id
        )

    def error_of(self, reader: Any) -> Exception | None:
        """Why a reader did not go on, or None."""
        if reader.problem == "size":
            return EventTooLarge(reader.size, self.max_event_size, offset=reader.error_offset)
        if reader.problem == "ids":
            return MemoryError(
                "Expected ids whose copies, one for each event, take at most 16 times the memory "
                f"of their source, got more at offset {reader.error_offset}: "
                "data_type='string_view' makes none"
            )
        if reader.problem == "types":
            return MemoryError("Expected at most 2**31 - 1 event types, got more")
        return MemoryError() if reader.problem else None

    def export_schema(self) -> Any:
        return self.core.export_schema(views=self.views, offsets=self.offset)

    def export_stream(self, batches: Any) -> Any:
        return self.core.export_stream(batches, views=self.views, offsets=self.offset)

    def concatenate(self, batches: list[Any]) -> Any:
        return self.core.concatenate(batches, views=self.views, offsets=self.offset)


def _check_options(
    threads: int | None,
    data_type: str,
    batch_size: int,
    batch_bytes: int,
    offset: bool,
    max_event_size: int,
    on_error: str,
    last_event_id: str,
) -> _Options:
    try:
        core = import_module("sse_fast._columns_c")
    except ImportError as error:
        raise ImportError(
            "Expected the compiled part of sse_fast, which makes columns, got none: install a C "
            "compiler, then pip install --force-reinstall --no-cache-dir --no-binary sse-fast "
            "sse-fast; iter_events does without"
        ) from error
    if data_type not in ("large_string", "string_view"):
        raise ValueError(
            f"Expected data_type to be 'large_string' or 'string_view', got {data_type!r}"
        )
    if on_error not in ("raise", "skip"):
        raise ValueError(f"Expected on_error to be 'raise' or 'skip', got {on_error!r}")
    views = data_type == "string_view"
    _check_number("batch_size", batch_size, 2**31 - 1)
    _check_number("batch_bytes", batch_bytes, 2**40)
    _check_number("max_event_size", max_event_size, core.MAX_VIEW_SIZE if views else 2**40)
    if threads is not None:
        _check_number("threads", threads, 1024)
    # It says what is wrong with an id.
    Parser(last_event_id=last_event_id)
    return _Options(
        core=core,
        seed=secrets.randbits(64),
        threads=_processors() if threads is None else threads,
        views=views,
        batch_size=batch_size,
        batch_bytes=batch_bytes,
        batch_seconds=None,
        offset=bool(offset),
        max_event_size=max_event_size,
        skips=on_error == "skip",
        last_event_id=last_event_id,
    )


def _check_number(name: str, value: object, most: int) -> None:
    if type(value) is not int:
        raise TypeError(f"Expected {name} to be an int, got {type(value).__name__}")
    if not 1 <= value <= most:
        raise ValueError(f"Expected {name} from 1 to {most}, got {value}")


def _processors() -> int:
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    return min(count, _MAX_THREADS)


def _paths_of(source: Any) -> list[Any] | None:
    """The paths that a source names; None: it is something else."""
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    elif not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray, memoryview)):
        return None
    if not source or not all(isinstance(each, (str, os.PathLike)) for each in source):
        return None
    return list(source)


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
        skipped: how many events were over `max_event_size`.
        pending: whether the source ended within an event, which is dropped.
    """

    __slots__ = ("_batches", "_options", "last_event_id", "pending", "skipped")

    _options: _Options
    _batches: list[Any]
    last_event_id: str
    skipped: int
    pending: bool

    def __init__(self) -> None:
        raise TypeError("Expected read_columns() or iter_columns() to make columns")

    @classmethod
    def _of(
        cls,
        options: _Options,
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
        pending: after the end, whether the source ended within an event, which is dropped.
        response: the `Response`; None for what is none.
    """

    _options: _Options
    _paths: list[Any]
    _part: _Segments | _Chunks | None
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
        options: _Options,
        source: list[Any] | _Segments | _Chunks,
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

    def __next__(self) -> Columns:
        batch = self._next_batch()
        return Columns._of(self._options, [batch], batch.id)

    def _next_batch(self) -> Any:
        while not self._is_closed:
            part = self._part
            if part is None:
                if not self._paths:
                    break
                capture = open_capture(self._paths.pop(0))
                part = self._part = _open_part(
                    self._options, capture, self._options.new_joiner(True)
                )
            try:
                batch = next(part)
            except StopIteration:
                self._leave(part)
            except (SSEError, MemoryError):
                self._leave(part)
                self._is_closed = True
                raise
            else:
                self.last_event_id = batch.id
                return batch
        raise StopIteration

    def _leave(self, part: _Segments | _Chunks) -> None:
        """It has come to its end."""
        self._part = None
        self._skipped += part.skipped
        self._read += part.position
        self.pending = part.pending
        self.last_event_id = part.last_event_id
        part.close()

    def flush(self) -> Columns | None:
        """Return what has arrived and was not handed out, as it waits for its batch to be full;
        None if there is nothing, as where nothing has to be waited for."""
        batch = None if self._part is None else self._part.flush()
        if batch is None:
            return None
        self.last_event_id = batch.id
        return Columns._of(self._options, [batch], batch.id)

    def close(self) -> None:
        """Give the source free; from any thread, any number of times."""
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
        """How many bytes of the source, or of all files so far, were read: of compressed files, as
        they are."""
        return self._read + (0 if self._part is None else self._part.position)

    def __arrow_c_schema__(self) -> Any:
        """A capsule with an ArrowSchema."""
        return self._options.export_schema()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """A capsule with an ArrowArrayStream of the batches that were not handed out yet.

        `requested_schema` is not heeded, as it need not be.
        """
        return self._options.export_stream(iter(self._next_batch, None))


# -- Parts: the batches of one stream, in their order, and its error behind them ------------------


class _Segments:
    """What lies in memory as a whole, read by threads."""

    def __init__(
        self, options: _Options, content: Any, joiner: Any, file: mmap.mmap | None = None
    ) -> None:
        """`file`: the content is this mapping of a file, which nobody else has."""
        self._options = options
        self._input = options.core.Input(content)
        self._joiner = joiner
        self._pool = options.core.BatchPool(2 * options.threads + 4) if joiner.is_endless else None
        self._bounds = self._segments()
        # Elsewhere there is no way, or all of it is wanted.
        self._file = file if joiner.is_endless and hasattr(mmap, "MADV_DONTNEED") else None
        self._forgotten = 0
        self._executor: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[Any]] = deque()
        self._batches: deque[Any] = deque()
        self._error: Exception | None = None
        self._lock = RLock()
        self.skipped = 0
        self.pending = False
        self.position = 0

    @property
    def last_event_id(self) -> str:
        return str(self._joiner.last_event_id)

    def __iter__(self) -> Iterator[Any]:
        return self

    def _segments(self) -> Iterator[tuple[int, int]]:
        size = len(self._input)
        start = 0
        while start < size:
            end = self._input.find_block_end(start + min(SEGMENT_SIZE, self._options.batch_bytes))
            yield start, end
            start = end

    def _read(self, start: int, end: int) -> Any:
        reader = self._options.new_reader(self._pool)
        reader.read(self._input, start, end)
        return reader

    def __next__(self) -> Any:
        with self._lock:
            while not self._batches:
                if self._error is not None:
                    error, self._error = self._error, None
                    self.close()
                    raise error
                reader = self._next_reader()
                if reader is None:
                    raise StopIteration
                self._batches += self._joiner.take(reader)
                self.skipped += reader.skipped
                self.pending = reader.pending
                self._forget(self.position)
                self.position = reader.end_offset
                self._error = self._options.error_of(reader)
            return self._batches.popleft()

    def _forget(self, end: int) -> None:
        """Take what lies before `end` out of the mapping of a file, all of which would count as
        memory of this process at last. Who comes back to it, by views for example, has it mapped
        again; it stays in the cache of the system."""
        size = end // mmap.PAGESIZE * mmap.PAGESIZE - self._forgotten
        if self._file is not None and size >= SEGMENT_SIZE:
            self._file.madvise(mmap.MADV_DONTNEED, self._forgotten, size)
            self._forgotten += size

    def _next_reader(self) -> Any:
        if self._options.threads == 1:
            bounds = next(self._bounds, None)
            return None if bounds is None else self._read(*bounds)
        while len(self._waiting) <= self._options.threads:
            bounds = next(self._bounds, None)
            if bounds is None:
                break
            if self._executor is None:
                if bounds[1] == len(self._input) and not self._waiting:
                    # The only one.
                    return self._read(*bounds)
                self._executor = ThreadPoolExecutor(self._options.threads, "sse_fast.columns")
            self._waiting.append(self._executor.submit(self._read, *bounds))
        if not self._waiting:
            self._cancel()
            return None
        reader = self._waiting[0].result()
        self._waiting.popleft()
        return reader

    def _cancel(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(cancel_futures=True)
        self._waiting.clear()

    def flush(self) -> None:
        return None

    def close(self) -> None:
        with self._lock:
            self._bounds = iter(())
            self._batches.clear()
            self._cancel()
            if self._pool is not None:
                self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class _Chunks(EventStream[Any]):
    """What comes in chunks: an `EventStream` whose "events" are batches."""

    def __init__(
        self,
        options: _Options,
        source: Source,
        joiner: Any = None,
        on_chunk: Callable[[bytes], object] | None = None,
        position: Callable[[], int] | None = None,
    ) -> None:
        """With a `joiner`, no batch is handed out before the end."""
        self._options = options
        self._joiner = joiner
        self._pool = None if joiner is not None else options.core.BatchPool(8)
        self._reader = options.new_reader(self._pool, seals=joiner is None)
        self._reader.last_event_id = options.last_event_id
        self._first_row: float | None = None
        self._position_of_file = position
        self.position = 0
        self._ending: Exception | None = None
        self._rest: list[Any] | None = None
        super().__init__(source, Parser(), on_chunk)
        # Every chunk comes by `_arrived`, and so by `_parse`.
        self._slice_size = -1

    def __next__(self) -> Any:
        if self._rest is None:
            try:
                return super().__next__()
            except (StopIteration, SSEError, MemoryError) as error:
                # Behind what came before it.
                self._ending = error
                rest = self.flush()
                if self._joiner is not None:
                    self._rest = self._joiner.take(self._reader)[::-1]
                else:
                    self._rest = [] if rest is None else [rest]
        if self._rest:
            return self._rest.pop()
        ending, self._ending = self._ending, None
        raise StopIteration if ending is None else ending

    def _note_position(self) -> None:
        of_file = self._position_of_file
        self.position = self._reader.end_offset if of_file is None else of_file()

    def _ended(self) -> None:
        # Before the file is closed.
        self._note_position()
        super()._ended()

    def _parse(self, chunk: bytes | memoryview, rest: memoryview | None = None) -> None:
        self._handed_over = 0
        self._batch = self._reader.feed(chunk)
        self._note_position()
        self._unfed = rest
        self._read_is_due = rest is None
        if self._batch or self._reader.rows == 0:
            self._first_row = None
        if self._options.batch_seconds is not None and self._reader.rows:
            now = time.monotonic()
            if self._first_row is None:
                self._first_row = now
            if now - self._first_row >= self._options.batch_seconds:
                self._batch.append(self.flush())
        error = self._options.error_of(self._reader)
        if isinstance(error, EventTooLarge):
            # It comes behind the batch.
            self._error = error
            self._read_is_due = False
        elif error is not None:
            self._end(EndReason.ERROR)
            raise error

    def _id_after(self, batch: list[Any], count: int) -> str:
        return self.last_event_id

    def flush(self) -> Any:
        self._first_row = None
        return self._reader.flush()

    @property
    def skipped(self) -> int:
        return int(self._reader.skipped)

    @property
    def pending(self) -> bool:
        return bool(self._reader.pending)

    @property
    def last_event_id(self) -> str:
        return str(self._reader.last_event_id)


class _Held(NamedTuple):
    """A buffer in place of a `Capture`."""

    content: Any
    chunks: None = None
    close: None = None
    position: None = None


def _open_part(
    options: _Options,
    capture: Capture | _Held,
    joiner: Any,
    on_chunk: Callable[[bytes], object] | None = None,
) -> _Segments | _Chunks:
    if capture.chunks is None:
        content = capture.content
        if isinstance(capture, Capture) and isinstance(content, mmap.mmap):
            return _Segments(options, content, joiner, content)
        return _Segments(options, content, joiner)
    source = Source(capture.chunks, capture.close)
    collector = None if joiner.is_endless else joiner
    return _Chunks(options, source, collector, on_chunk, capture.position)
