"""The record batches of a stream of bytes, and its error, which is raised after the batches.

`BufferBatches` cuts a buffer into segments, which threads read; `ChunkBatches` reads chunks as
they arrive. Both have the same attributes: `fill` reads until `ready` has a batch. The caller
removes that in the step that delivers it, so that a signal handler that raises loses none.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from sse_fast._core.parser import Parser
from sse_fast._errors import EventTooLarge, SSEError
from sse_fast._source import Source
from sse_fast._stream import EventStream
from sse_fast.columns._captures import Capture, Decompressed

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

SEGMENT_SIZE = 8 * 2**20
"""Bytes of a segment, which ends at the next blank line.

It is large enough that the fixed cost of a batch does not matter, and small enough that all threads
finish at about the same time.
"""

_MAX_THREADS = 8
"""Default maximum of threads: more would only wait for memory."""


class Options(NamedTuple):
    """The checked options of `read_columns` and `iter_columns`, and the extension."""

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

    @property
    def segment_size(self) -> int:
        """Bytes of a segment: a multiple of `batch_bytes`, since its batches are made together."""
        size = self.batch_bytes * max(1, SEGMENT_SIZE // self.batch_bytes)
        return min(size, max(65536, 4096 * self.batch_size))

    def new_reader(self, pool: Any, streaming: bool = False) -> Any:
        """Return a `Reader` that takes memory from `pool`, or None; see there for `streaming`."""
        return self.core.Reader(
            views=self.views,
            offsets=self.offset,
            skips=self.skips,
            max_rows=self.batch_size,
            max_bytes=self.batch_bytes,
            max_event_size=self.max_event_size,
            pool=pool,
            seed=self.seed,
            streaming=streaming,
        )

    def new_merger(self, streaming: bool) -> Any:
        """Return a `SegmentMerger`; see there for `streaming`."""
        return self.core.SegmentMerger(seed=self.seed, streaming=streaming)

    def error_of(self, reader: Any, name: str | None) -> Exception | None:
        """Return the error for which a reader stopped, or None."""
        if reader.problem == "size":
            return EventTooLarge(
                reader.size, self.max_event_size, offset=reader.error_offset, filename=name
            )
        if reader.problem == "ids":
            return MemoryError(
                "Copies of a long id, one for each event, take more than 16 times the memory of "
                f"their source at offset {reader.error_offset}: use data_type='string_view'"
            )
        if reader.problem == "types":
            return MemoryError("More than 2**31 - 1 event types: read the source in parts")
        return MemoryError() if reader.problem else None

    def export_schema(self) -> Any:
        """Return a capsule with the ArrowSchema of batches."""
        return self.core.export_schema(views=self.views, offsets=self.offset)

    def export_stream(self, batches: Any) -> Any:
        """Return a capsule with an ArrowArrayStream of an iterable of batches."""
        return self.core.export_stream(batches, views=self.views, offsets=self.offset)

    def concatenate(self, batches: list[Any]) -> Any:
        """Return one batch made of several."""
        return self.core.concatenate(batches, views=self.views, offsets=self.offset)


def check_options(
    threads: int | None,
    data_type: str,
    batch_size: int,
    batch_bytes: int | None,
    offset: bool,
    max_event_size: int,
    oversize: str | None,
    on_error: str | None,
    last_event_id: str,
) -> Options:
    """Import the extension and check what `read_columns` or `iter_columns` got.

    Raises:
        ImportError: the extension was not compiled.
        TypeError: an argument has the wrong type, or both names of `oversize` were given.
        ValueError: an argument has a value that is not allowed.
    """
    try:
        import sse_fast.columns._columns_c as core  # type: ignore[import-not-found]
    except ImportError as error:
        raise ImportError(
            "Columns need the compiled extension of sse_fast, which is not installed: install a C "
            "compiler, then pip install --force-reinstall --no-cache-dir --no-binary sse-fast "
            "sse-fast (iter_events works without it)"
        ) from error
    if data_type not in ("large_string", "string_view"):
        raise ValueError(
            f"Expected data_type to be 'large_string' or 'string_view', got {data_type!r}"
        )
    if on_error is not None:
        if oversize is not None:
            raise TypeError("on_error is the former name of oversize: pass oversize alone")
        oversize = on_error
    if oversize not in (None, "raise", "skip"):
        raise ValueError(f"Expected oversize to be 'raise' or 'skip', got {oversize!r}")
    views = data_type == "string_view"
    _check_number("batch_size", batch_size, 2**31 - 1)
    batch_bytes = SEGMENT_SIZE if batch_bytes is None else batch_bytes
    _check_number("batch_bytes", batch_bytes, 2**40)
    _check_number("max_event_size", max_event_size, core.MAX_VIEW_SIZE if views else 2**40)
    if threads is not None:
        _check_number("threads", threads, 1024)
    # The parser raises the error for an invalid id.
    Parser(last_event_id=last_event_id)
    if len(last_event_id.encode()) > max_event_size:
        raise ValueError(
            f"Expected last_event_id of at most max_event_size ({max_event_size}) bytes, got "
            f"{len(last_event_id.encode())}"
        )
    return Options(
        core=core,
        seed=secrets.randbits(64),
        threads=_default_threads() if threads is None else threads,
        views=views,
        batch_size=batch_size,
        batch_bytes=batch_bytes,
        batch_seconds=None,
        offset=bool(offset),
        max_event_size=max_event_size,
        skips=oversize == "skip",
        last_event_id=last_event_id,
    )


def _check_number(name: str, value: object, most: int) -> None:
    if type(value) is not int:
        raise TypeError(f"Expected {name} to be an int, got {type(value).__name__}")
    if not 1 <= value <= most:
        raise ValueError(f"Expected {name} from 1 to {most}, got {value}")


def _default_threads() -> int:
    try:
        count = len(os.sched_getaffinity(0))
    except AttributeError:
        count = os.cpu_count() or 1
    return min(count, _MAX_THREADS)


class BufferBatches:
    """The batches of a buffer, which threads read a segment at a time.

    The progress is in the merger, which takes a segment in one step. So an exception from a signal
    handler costs only the work on segments that were not taken yet.
    """

    def __init__(self, options: Options, capture: Capture, merger: Any) -> None:
        self._options = options
        self.name = capture.name
        self._source: Any = options.core.SourceBuffer(capture.content)
        self._merger = merger
        merger.begin(options.last_event_id)
        self._pool = options.core.BatchPool(2 * options.threads + 4) if merger.streaming else None
        self._file: mmap.mmap | None = None
        if merger.streaming and hasattr(mmap, "MADV_DONTNEED") and capture.name is not None:
            # A capture with a name is mapped, unless it is empty.
            self._file = capture.content or None
        self._released = 0
        # The latest reader that ran in this thread.
        self._reader: Any = None
        self._executor: ThreadPoolExecutor | None = None
        # Segments that threads read: start, end, the future of the reader.
        self._waiting: deque[tuple[int, int, Future[Any]]] = deque()
        self.ready: deque[Any] = deque()
        # Held while reading or cleaning up.
        self._lock = Lock()
        self._is_closed = False

    @property
    def skipped(self) -> int:
        """Number of events skipped so far."""
        return int(self._merger.skipped)

    @property
    def pending(self) -> bool:
        """Whether the bytes so far end within an event."""
        return bool(self._merger.pending)

    @property
    def position(self) -> int:
        """Number of bytes read so far."""
        return int(self._merger.position)

    @property
    def last_event_id(self) -> str:
        """The last event ID at `position`."""
        return str(self._merger.last_event_id)

    def fill(self) -> bool:
        """Read until a batch is ready; return False at the end.

        Raises:
            SSEError, MemoryError: reading stopped after the batches that were ready before.
        """
        is_locked = False
        try:
            # The call and the assignment are one step: a signal handler that raises comes before,
            # or the lock is released below.
            for is_locked in map(self._lock.acquire, (False,)):  # noqa: B007
                pass
            if not is_locked and not self._is_closed:
                raise RuntimeError("Another thread is reading this source")
            has_batch = is_locked and self._fill()
        finally:
            if is_locked:
                self._lock.release()
                if self._is_closed:
                    self._clean_up()
        return has_batch

    def _fill(self) -> bool:
        while not self.ready:
            if self._is_closed:
                return False
            failed = self._merger.failed
            if failed is not None:
                self._is_closed = True
                error = self._options.error_of(failed, self.name)
                assert error is not None
                raise error
            reader = self._next_reader()
            if reader is None:
                return False
            self._release_pages()
            self._merger.take(reader, self.ready)
        return True

    def _release_pages(self) -> None:
        """Drop the pages of a mapped file that were read from the memory of this process.

        They stay in the page cache, so a view that points into them only maps them again.
        """
        size = self.position // mmap.PAGESIZE * mmap.PAGESIZE - self._released
        if self._file is not None and size >= SEGMENT_SIZE:
            self._file.madvise(mmap.MADV_DONTNEED, self._released, size)
            self._released += size

    def _next_reader(self) -> Any:
        """Return the reader that has read the next segment, or None after the last one."""
        start, end = self._segment_at(self.position)
        if start == end:
            return None
        # A single segment needs no thread.
        if self._options.threads == 1 or (start == 0 and end == len(self._source)):
            return self._read_here(start, end)
        while self._waiting and self._waiting[0][0] < start:
            self._waiting.popleft()
        try:
            self._read_by_threads(start, end)
        except RuntimeError:
            # The executor accepts no work after the main thread has ended.
            return self._read_here(start, end)
        return self._waiting[0][2].result()

    def _read_by_threads(self, start: int, end: int) -> None:
        """Let threads read this segment, and the next ones as long as a thread is free."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._options.threads, "sse_fast.columns")
        while len(self._waiting) <= self._options.threads:
            if self._waiting:
                start, end = self._segment_at(self._waiting[-1][1])
                if start == end:
                    break
            future = self._executor.submit(self._read, self._source, start, end)
            self._waiting.append((start, end, future))

    def _read_here(self, start: int, end: int) -> Any:
        reader = self._reader
        # A signal handler may have raised after this very segment was read.
        if reader is None or reader.start_offset != start or not reader.is_done:
            reader = self._reader = self._options.new_reader(self._pool)
            reader.read(self._source, start, end)
        return reader

    def _segment_at(self, start: int) -> tuple[int, int]:
        # Search from four bytes (two CRLFs) before the target: a blank line that ends at the target
        # fills the last batch, so the segment should end there, too.
        target = start + max(0, self._options.segment_size - 4)
        return start, self._source.find_block_end(target)

    def _read(self, source: Any, start: int, end: int) -> Any:
        reader = self._options.new_reader(self._pool)
        reader.read(source, start, end)
        return reader

    def flush(self) -> None:
        """Do nothing: a source in memory has no unfinished batch."""

    def close(self) -> None:
        """Release the source; from any thread, and from a signal handler.

        A read in progress finishes first, and its thread cleans up.
        """
        self._is_closed = True
        self._clean_up()

    def _clean_up(self) -> None:
        if not self._lock.acquire(blocking=False):
            return
        try:
            executor, self._executor = self._executor, None
            if executor is not None:
                executor.shutdown(cancel_futures=True)
            self._waiting.clear()
            self.ready.clear()
            self._reader = None
            # Nothing reads the buffer any more, and its owner may want to change it.
            self._source = None
            if self._pool is not None:
                self._pool.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class ChunkBatches(EventStream[Any]):
    """The batches of chunks: an `EventStream` that delivers no events, but fills `ready`.

    The reader takes a chunk, and adds its batches, in one step. So an exception from a signal
    handler loses neither.
    """

    def __init__(
        self,
        options: Options,
        source: Source,
        merger: Any = None,
        on_chunk: Callable[[bytes], object] | None = None,
        position: Callable[[], int] | None = None,
        name: str | None = None,
    ) -> None:
        """Read `source`; with a `merger`, all batches are ready at the end."""
        self._options = options
        self.name = name
        self._merger = merger
        streaming = merger is None
        self._reader = options.new_reader(
            options.core.BatchPool(8) if streaming else None, streaming
        )
        self._reader.last_event_id = options.last_event_id
        self._first_row: float | None = None
        self._file_position = position
        self.position = 0
        self.ready: deque[Any] = deque()
        # The error with which reading ended, to be raised after the last batch; None: no error.
        self._has_ended = False
        self._final_error: Exception | None = None
        super().__init__(source, Parser(), on_chunk)
        # Every slice goes through `_parse`.
        self._slice_size = -1

    def fill(self) -> bool:
        """Read until a batch is ready; return False at the end.

        Raises:
            SSEError, MemoryError: reading stopped after the batches that were ready before.
        """
        while not self.ready:
            if not self._has_ended:
                try:
                    self._has_ended = not self._step()
                except (SSEError, MemoryError) as error:
                    self._final_error = error
                    self._has_ended = True
                continue
            # The rows that were read before an error come first.
            self.flush()
            if self._merger is not None:
                merger, self._merger = self._merger, None
                merger.begin(self._options.last_event_id)
                merger.take(self._reader, self.ready)
            if not self.ready:
                self._raise_final_error()
                return False
        return True

    def _raise_final_error(self) -> None:
        error, self._final_error = self._final_error, None
        try:
            if error is not None:
                raise error
        finally:
            # Its traceback refers to this frame.
            del error

    def _update_position(self) -> None:
        file_position = self._file_position
        self.position = self._reader.end_offset if file_position is None else file_position()

    def _on_read_error(self) -> None:
        was_interrupted = self._interrupted
        try:
            super()._on_read_error()
        finally:
            if isinstance(self._chunks, Decompressed) and self._chunks.is_intact:
                # A signal handler raised in the lines of `Decompressed`.
                self._interrupted = was_interrupted

    def _on_source_end(self) -> None:
        # Read the position first: the next call closes the file.
        self._update_position()
        super()._on_source_end()

    def _parse(self) -> None:
        # One step of C: the reader takes the slice, or raises.
        deque(map(self._reader.feed, islice(self._slices, 1), (self.ready,)), 0)
        self._update_position()
        if self.ready or self._reader.rows == 0:
            self._first_row = None
        if self._options.batch_seconds is not None and self._reader.rows:
            now = time.monotonic()
            if self._first_row is None:
                self._first_row = now
            if now - self._first_row >= self._options.batch_seconds:
                self.flush()
        error = self._options.error_of(self._reader, self.name)
        if error is not None:
            self._fail(error)

    def _id_after(self, batch: list[Any], count: int) -> str:
        return self.last_event_id

    def flush(self) -> None:
        """Make a batch of the rows that have arrived, if there are any."""
        self._first_row = None
        self._reader.flush(self.ready)

    @property
    def skipped(self) -> int:
        """Number of events skipped so far."""
        return int(self._reader.skipped)

    @property
    def pending(self) -> bool:
        """Whether the bytes so far end within an event."""
        return bool(self._reader.pending)

    @property
    def last_event_id(self) -> str:
        """The last event ID after the bytes read so far."""
        return str(self._reader.last_event_id)


def open_batches(
    options: Options,
    capture: Capture,
    merger: Any,
    on_chunk: Callable[[bytes], object] | None = None,
) -> BufferBatches | ChunkBatches:
    """Return the batches of a capture, which are given to a merger that is not `streaming`."""
    if capture.chunks is None:
        return BufferBatches(options, capture, merger)
    source = Source(capture.chunks, capture.close)
    collector = None if merger.streaming else merger
    return ChunkBatches(options, source, collector, on_chunk, capture.position, capture.name)
