"""The record batches of one stream of bytes, in their order, and its error behind them.

`Segments` has threads read what lies in memory, a segment each; `Chunks` reads what comes in chunks
as it comes. Both are iterators of `_columns_c.Batch`, and tell the same of themselves.
"""

from __future__ import annotations

import mmap
import os
import secrets
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from importlib import import_module
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

from sse_fast._core.parser import Parser
from sse_fast._errors import EventTooLarge, SSEError
from sse_fast._source import Source
from sse_fast._stream import EndReason, EventStream
from sse_fast.columns._captures import Capture

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

SEGMENT_SIZE = 8 * 2**20
"""Bytes of a segment, and more up to its blank line: so many that what a batch costs beside its
rows does not count, and so few that threads end together."""

ARENA_SIZE = 64 * 2**20
"""Bytes, of addresses: no more pages are taken than are filled."""

_MAX_THREADS = 8
"""No more by themselves: memory is their limit."""


class Options(NamedTuple):
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

    @property
    def segment_size(self) -> int:
        """A whole number of batches, and not too many: they are there at once."""
        size = self.batch_bytes * max(1, SEGMENT_SIZE // self.batch_bytes)
        return min(size, max(65536, 4096 * self.batch_size))

    def new_reader(self, pool: Any, store: Any = None, seals: bool = False) -> Any:
        return self.core.Reader(
            views=self.views,
            offsets=self.offset,
            skips=self.skips,
            max_rows=self.batch_size,
            max_bytes=self.batch_bytes,
            max_event_size=self.max_event_size,
            pool=pool,
            store=store,
            seed=self.seed,
            seals=seals,
        )

    def new_joiner(self, is_endless: bool) -> Any:
        return self.core.Joiner(seed=self.seed, is_endless=is_endless)

    def error_of(self, reader: Any, name: str | None) -> Exception | None:
        """Why a reader did not go on, or None."""
        if reader.problem == "size":
            return EventTooLarge(reader.size, self.max_event_size, (), reader.error_offset, name)
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


def check_options(
    threads: int | None,
    data_type: str,
    batch_size: int,
    batch_bytes: int | None,
    offset: bool,
    max_event_size: int,
    on_error: str,
    last_event_id: str,
) -> Options:
    try:
        core = import_module("sse_fast.columns._columns_c")
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
    batch_bytes = SEGMENT_SIZE if batch_bytes is None else batch_bytes
    _check_number("batch_bytes", batch_bytes, 2**40)
    _check_number("max_event_size", max_event_size, core.MAX_VIEW_SIZE if views else 2**40)
    if threads is not None:
        _check_number("threads", threads, 1024)
    # It says what is wrong with an id.
    Parser(last_event_id=last_event_id)
    if len(last_event_id.encode()) > max_event_size:
        raise ValueError(
            f"Expected last_event_id of at most max_event_size ({max_event_size}) bytes, got "
            f"{len(last_event_id.encode())}"
        )
    return Options(
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


class Segments:
    """What lies in memory as a whole, read by threads.

    How far it has come stands in the joiner, which takes a segment in one step: so Ctrl-C costs
    nothing but the work on those that were not taken yet.
    """

    def __init__(self, options: Options, capture: Capture, joiner: Any) -> None:
        self._options = options
        self.name = capture.name
        self._input: Any = options.core.Input(capture.content)
        self._joiner = joiner
        joiner.begin(options.last_event_id)
        self._pool = options.core.BatchPool(2 * options.threads + 4)
        self._store = None
        if not joiner.is_endless:
            is_large = len(self._input) >= 4 * SEGMENT_SIZE
            self._store = options.core.Store(ARENA_SIZE if is_large else 0)
        self._file: mmap.mmap | None = None
        if joiner.is_endless and hasattr(mmap, "MADV_DONTNEED") and capture.name is not None:
            # What has a name is a mapping of our own, unless it is empty.
            self._file = capture.content or None
        self._forgotten = 0
        # The latest that was not read by another thread.
        self._reader: Any = None
        self._executor: ThreadPoolExecutor | None = None
        # Segments that threads read, by where they begin and end.
        self._waiting: deque[tuple[int, int, Future[Any]]] = deque()
        self._batches: deque[Any] = deque()
        # Held by who reads, or cleans up behind the last who does.
        self._lock = Lock()
        self._is_closed = False

    @property
    def skipped(self) -> int:
        return int(self._joiner.skipped)

    @property
    def pending(self) -> bool:
        return bool(self._joiner.pending)

    @property
    def position(self) -> int:
        return int(self._joiner.position)

    @property
    def last_event_id(self) -> str:
        return str(self._joiner.last_event_id)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        if not self._lock.acquire(blocking=False):
            if self._is_closed:
                raise StopIteration
            raise RuntimeError("Expected one thread that reads a source, got a second one")
        try:
            return self._next()
        finally:
            self._lock.release()
            if self._is_closed:
                self._clean_up()

    def _next(self) -> Any:
        while not self._batches:
            if self._is_closed:
                raise StopIteration
            failed = self._joiner.failed
            if failed is not None:
                self._is_closed = True
                error = self._options.error_of(failed, self.name)
                assert error is not None
                raise error
            reader = self._next_reader()
            if reader is None:
                raise StopIteration
            self._forget()
            self._joiner.take(reader, self._batches)
        return self._batches.popleft()

    def _forget(self) -> None:
        """Take what was read before out of the mapping of a file, all of which would count as
        memory of this process at last. Who comes back to it, by views for example, has it mapped
        again; it stays in the cache of the system.
        """
        size = self.position // mmap.PAGESIZE * mmap.PAGESIZE - self._forgotten
        if self._file is not None and size >= SEGMENT_SIZE:
            self._file.madvise(mmap.MADV_DONTNEED, self._forgotten, size)
            self._forgotten += size

    def _next_reader(self) -> Any:
        """That of the next segment, read; None behind the last."""
        start, end = self._segment_at(self.position)
        if start == end:
            return None
        # The only one, often.
        if self._options.threads == 1 or (start == 0 and end == len(self._input)):
            return self._read_here(start, end)
        while self._waiting and self._waiting[0][0] < start:
            self._waiting.popleft()
        try:
            self._have_read(start, end)
        except RuntimeError:
            # Behind the end of the main thread, there are no new ones.
            return self._read_here(start, end)
        return self._waiting[0][2].result()

    def _have_read(self, start: int, end: int) -> None:
        """Have other threads read this segment and as many behind it as they can."""
        if self._executor is None:
            self._executor = ThreadPoolExecutor(self._options.threads, "sse_fast.columns")
        while len(self._waiting) <= self._options.threads:
            if self._waiting:
                start, end = self._segment_at(self._waiting[-1][1])
                if start == end:
                    break
            reading = self._executor.submit(self._read, self._input, start, end)
            self._waiting.append((start, end, reading))

    def _read_here(self, start: int, end: int) -> Any:
        reader = self._reader
        # One that is there was left by an exception of a signal.
        if reader is None or reader.start_offset != start or not reader.is_done:
            reader = self._reader = self._options.new_reader(self._pool, self._store)
            reader.read(self._input, start, end)
        return reader

    def _segment_at(self, start: int) -> tuple[int, int]:
        # A blank line right before the target is one, where the last batch would be full: two ends
        # of line are four bytes at most.
        target = start + max(0, self._options.segment_size - 4)
        return start, self._input.find_block_end(target)

    def _read(self, source: Any, start: int, end: int) -> Any:
        reader = self._options.new_reader(self._pool, self._store)
        reader.read(source, start, end)
        return reader

    def flush(self) -> None:
        return None

    def close(self) -> None:
        """From any thread, and from the handler of a signal: a read that is under way goes on, and
        whoever reads cleans up then.
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
            self._batches.clear()
            self._reader = None
            # Nobody reads it any more, and its owner may want to change it.
            self._input = None
            self._pool.close()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Chunks(EventStream[Any]):
    """What comes in chunks: an `EventStream` whose "events" are batches."""

    def __init__(
        self,
        options: Options,
        source: Source,
        joiner: Any = None,
        on_chunk: Callable[[bytes], object] | None = None,
        position: Callable[[], int] | None = None,
        name: str | None = None,
    ) -> None:
        """With a `joiner`, no batch is handed out before the end."""
        self._options = options
        self.name = name
        self._joiner = joiner
        store = options.core.Store(0) if joiner is not None else None
        self._reader = options.new_reader(options.core.BatchPool(8), store, joiner is None)
        self._reader.last_event_id = options.last_event_id
        self._first_row: float | None = None
        self._position_of_file = position
        self.position = 0
        self._ending: Exception | None = None
        self._rest: deque[Any] | None = None
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
                self._rest = deque([] if rest is None else [rest])
                if self._joiner is not None:
                    self._joiner.begin(self._options.last_event_id)
                    self._joiner.take(self._reader, self._rest)
        if self._rest:
            return self._rest.popleft()
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
        # First, so that an exception of a signal finds all in its place.
        self._batch = []
        self._handed_over = 0
        self._unfed = rest
        self._read_is_due = rest is None
        self._reader.feed(chunk, self._batch)
        self._note_position()
        if self._batch or self._reader.rows == 0:
            self._first_row = None
        if self._options.batch_seconds is not None and self._reader.rows:
            now = time.monotonic()
            if self._first_row is None:
                self._first_row = now
            if now - self._first_row >= self._options.batch_seconds:
                self._batch.append(self.flush())
        error = self._options.error_of(self._reader, self.name)
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


def open_part(
    options: Options,
    capture: Capture,
    joiner: Any,
    on_chunk: Callable[[bytes], object] | None = None,
) -> Segments | Chunks:
    if capture.chunks is None:
        return Segments(options, capture, joiner)
    source = Source(capture.chunks, capture.close)
    collector = None if joiner.is_endless else joiner
    return Chunks(options, source, collector, on_chunk, capture.position, capture.name)
