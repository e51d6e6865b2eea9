"""EventStream and AsyncEventStream: a parser over a source of chunks, sync and async.

A stream reads one chunk at a time and feeds it to the parser in slices of at most `READ_SIZE`. The
events of one slice are the *batch*. Events are *delivered* one by one; the next chunk is read only
when the whole batch was delivered, so at most one batch is in memory. An error of the parser waits
until the events before it were delivered.

An event is *taken* when the consumer has finished with it, which is when it asks for the next one.
The client resumes after the last taken event, so that an event whose handling failed comes again.

The stream owns its source. One thread or task reads at a time, and only that reader may close the
source during a read: `close()` from elsewhere wakes the reader, which then closes. Otherwise
whoever ends the stream closes the source. After `until`, a body that ends within 50 ms is read to
its end, so that its connection can serve another request.

`_Stream` holds what sync and async streams share. Each subclass only reads and closes.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NoReturn

from sse_fast._core.parser import ACCELERATED
from sse_fast._errors import DecodeError, EventTooLarge, SSEError, StreamTimeout, TransportError
from sse_fast._source import READ_SIZE
from sse_fast._wake import adrain, drain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection
    from types import TracebackType

    from typing_extensions import Self, TypedDict, TypeVar

    from sse_fast._core.parser import Event, Parser
    from sse_fast._source import Response, Source

    T = TypeVar("T", default=str)

    class ParserOptions(TypedDict, Generic[T], total=False):
        """The keywords of `Parser` except `decode`."""

        last_event_id: str
        max_event_size: int
        on_comment: Callable[[str], object] | None
        until: str | Callable[[Event[T]], object] | None
        until_event: str | Collection[str]
else:
    from typing import TypeVar

    T = TypeVar("T")


class EndReason(enum.Enum):
    """The reason why a stream ended."""

    UNTIL = "until"
    """`until` was met."""
    END = "end"
    """The source ended; `pending` says whether it ended in the middle of an event."""
    NO_CONTENT = "no content"
    """The server answered 204: there is nothing to read and no reason to reconnect."""
    CLOSED = "closed"
    """`close()` was called, or the `with` block was left."""
    ERROR = "error"
    """An exception was raised."""


class _Stream(Generic[T]):
    """The common part of sync and async streams: everything except reading and closing."""

    _parser: Parser[T]
    _on_chunk: Callable[[bytes], object] | None
    # The events of the latest slice, and the number of them that were delivered.
    _batch: list[Event[T]]
    _delivered: int
    _id_before_batch: str
    # The compiled fast path feeds chunks of at most this many bytes.
    _slice_size: int
    # True if only a read can bring the next event.
    _read_is_due: bool
    # True while a thread or task reads; only that reader may then close the source.
    _reading: bool
    # True if the last read was left by an exception that did not come from the source.
    _interrupted: bool
    # True while the parser holds events that it has not returned: `feed` is running, or raised.
    _feed_incomplete: bool
    # Received bytes that were not fed yet.
    _unfed: bytes | memoryview | None
    # Raised once the current batch has been delivered.
    _error: DecodeError | EventTooLarge | None
    _error_raised: bool
    # The function that closes the source, until it was called. A list, because pop() is atomic:
    # of two threads that close at the same time, only one calls it.
    _closers: list[Callable[[], Any]]
    _wake: Callable[[], object] | None
    _reusable: bool
    # `(batch, n)`: the consumer has finished with the first n events of this batch.
    _taken: tuple[list[Event[T]], int]
    # `(taken, delivered)`: the two last event IDs, frozen at close.
    _ids_when_closed: tuple[str, str] | None
    response: Response | None
    end_reason: EndReason | None

    def __init__(self, parser: Parser[T], on_chunk: Callable[[bytes], object] | None) -> None:
        self._parser = parser
        self._on_chunk = on_chunk
        self._batch = []
        self._delivered = 0
        self._id_before_batch = parser.last_event_id
        self._slice_size = READ_SIZE
        self._read_is_due = True
        self._reading = False
        self._interrupted = False
        self._feed_incomplete = False
        self._unfed = None
        self._error = None
        self._error_raised = False
        self._closers = []
        self._wake = None
        self._reusable = False
        self._taken = self._batch, 0
        self._ids_when_closed = None
        self.response = None
        self.end_reason = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object: it reads a source")

    @property
    def last_event_id(self) -> str:
        """The last event ID in force after the last event that was delivered."""
        if self._ids_when_closed is not None:
            return self._ids_when_closed[1]
        if self._error_raised and self._delivered == len(self._batch):
            return self._parser.last_event_id
        return self._id_after(self._batch, self._delivered)

    def take(self) -> None:
        """Mark every delivered event as taken: the consumer has finished with it."""
        self._taken = self._batch, self._delivered

    @property
    def taken_id(self) -> str:
        """The last event ID in force after the last event that was taken; thread-safe."""
        while True:
            taken, batch = self._taken, self._batch
            ids = self._ids_when_closed
            is_latest = taken[0] is batch
            if ids is not None:
                return ids[is_latest]
            # If another batch came since take(), its first event is the only one not taken yet.
            last_event_id = self._id_after(batch, taken[1] if is_latest else 0)
            # Another thread may have moved on meanwhile; then the result may mix two batches.
            if self._taken is taken and self._batch is batch:
                return last_event_id

    def _id_after(self, batch: list[Event[T]], count: int) -> str:
        """Return the last event ID after `count` events of the batch.

        Blocks without data that follow them count as well.
        """
        if count >= len(batch) and self._error is None and not self._feed_incomplete:
            return self._parser.last_event_id
        lone_ids = self._parser._lone_ids
        if lone_ids is not None and count in lone_ids:
            return lone_ids[count]
        return batch[count - 1].id if count else self._id_before_batch

    @property
    def retry(self) -> int | None:
        """The reconnection time that the server asked for, in ms, or None."""
        return self._parser.retry

    @property
    def pending(self) -> bool:
        """Whether the bytes so far end within an event; after the end, whether it was cut off."""
        return self._parser.pending

    @property
    def is_being_read(self) -> bool:
        """Whether a thread or task waits for the source."""
        return self._reading

    def _end(self, reason: EndReason) -> None:
        self._read_is_due = False
        if self.end_reason is None:
            self.end_reason = reason

    def end(self) -> None:
        """Drop the events that were not delivered, without closing the source.

        `last_event_id` stays at the last delivered event.
        """
        if self._ids_when_closed is None:
            self._ids_when_closed = self.taken_id, self.last_event_id
            self._end(EndReason.CLOSED)
            self._batch = []

    def _next_slice(self) -> bool:
        """Continue after the last event of a batch if no read is due.

        Raises the deferred error, feeds the next slice, or detects the end.

        Returns:
            False at the end of the stream, otherwise True.
        """
        if self.end_reason is EndReason.CLOSED:
            return False
        if self._error is not None:
            # After it was raised, the error stays in the place of its event until the next call.
            if not self._error_raised:
                self._error_raised = True
                if isinstance(self._error, EventTooLarge):
                    self._end(EndReason.ERROR)
                raise self._error
            self._error, self._error_raised = None, False
        if self._parser.done:
            self._end(EndReason.UNTIL)
        if self.end_reason is not None:
            return False
        unfed, self._unfed = self._unfed, None
        if unfed is None and self._feed_incomplete:
            raise RuntimeError(
                "A callback of this stream asked it for the next event: let the callback return "
                "first"
            )
        if unfed is None:
            self._read_is_due = True
        elif len(unfed) <= READ_SIZE:
            self._parse(unfed)
        else:
            whole = memoryview(unfed)
            self._parse(whole[:READ_SIZE], whole[READ_SIZE:])
        return True

    def _parse(self, chunk: bytes | memoryview, rest: memoryview | None = None) -> None:
        """Feed one slice, and keep the rest for later."""
        self._id_before_batch = (
            self.last_event_id if self._feed_incomplete else self._parser.last_event_id
        )
        self._batch = []
        self._delivered = 0
        self._feed_incomplete = True
        self._read_is_due = False
        try:
            batch = self._parser.feed(chunk)
        except BaseException as error:
            self._on_feed_error(error, rest)
            return
        self._unfed = rest
        read_is_due = rest is None and not self._parser.done
        # If there is an end reason, a callback closed the stream.
        if self.end_reason is None:
            self._batch = batch
            self._read_is_due = read_is_due
        # Last, because other threads may read last_event_id.
        self._feed_incomplete = False

    def _on_feed_error(self, error: BaseException, rest: memoryview | None) -> None:
        """Handle an exception of `feed`: the parser must be fed again, possibly with b""."""
        self._unfed = b"" if rest is None else rest
        self._read_is_due = False
        if not isinstance(error, (DecodeError, EventTooLarge)):
            raise error
        if self.end_reason is None:
            # The events before the error are delivered first.
            self._error = error
            self._batch, error.events = error.events, []
        self._feed_incomplete = False

    def _on_read_error(self, error: BaseException) -> None:
        """Handle a read that raised instead of returning a chunk."""
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._on_source_end()
        elif isinstance(error, Exception):
            self._raise_transport_error(error)
        else:
            self._interrupted = True
            raise error

    def _on_source_end(self) -> None:
        if self._interrupted and self.end_reason is None:
            self._end(EndReason.ERROR)
            raise TransportError(
                "The stream ended right after a cancelled read, so it may be incomplete: reconnect "
                "from last_event_id"
            )
        self._end(EndReason.END)

    def _on_chunk_read(self, chunk: bytes) -> None:
        """Feed a chunk that was read, or store it if it needs more than that."""
        if self.end_reason is not None:
            return
        self._interrupted = False
        if type(chunk) is bytes and self._on_chunk is None and len(chunk) <= READ_SIZE:
            self._parse(chunk)
            return
        self._unfed = chunk = _as_bytes(chunk)
        self._read_is_due = False
        if self._on_chunk is not None:
            self._on_chunk(chunk)

    def _raise_transport_error(self, error: Exception) -> None:
        """Raise the error of a read as `TransportError`, unless the stream was closed."""
        if self.end_reason is not None:
            return
        self._end(EndReason.ERROR)
        if isinstance(error, SSEError):
            raise error
        # Some libraries wrap a timeout in an error whose name does not say so.
        chain = (error, error.__cause__, _own_context(error))
        names = {cls.__name__ for each in chain for cls in type(each).__mro__}
        kind = StreamTimeout if any("Timeout" in name for name in names) else TransportError
        # The text of the original may contain a query or a header, so it stays in __cause__.
        raise kind(f"Reading the stream failed: {type(error).__name__}") from error

    def _enter_read(self) -> None:
        if self._reading:
            raise RuntimeError(
                "Another thread or task is already waiting for this stream: read it in one place "
                "and pass its events on, for example by a queue"
            )
        self._reading = True

    def _wake_reader(self) -> None:
        """Wake the reader, in whichever thread or task it is, so that it sees the end."""
        if self._wake is not None:
            # If the connection is gone already, nobody waits for it.
            with suppress(Exception):
                self._wake()

    def _should_drain(self) -> bool:
        """Whether reading the body to its end may leave a connection that can be used again."""
        return self._reusable and self.end_reason is EndReason.UNTIL and bool(self._closers)


def _own_context(error: Exception) -> BaseException | None:
    """Return the error's `__context__`, unless the caller was already handling that exception."""
    context = error.__context__
    if context is not None and context.__traceback__ is not None:
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            if frame is context.__traceback__.tb_frame:
                return None
    return context


def _as_bytes(chunk: object) -> bytes:
    """Copy a chunk that is not `bytes`, because the source may reuse its buffer."""
    if type(chunk) is bytes:
        return chunk
    try:
        return bytes(memoryview(chunk))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"Expected chunks of bytes from the source, got {type(chunk).__name__}: "
            "pass the body as it arrives, before anything decodes it"
        ) from None


class _PlainNext:
    """`EventStream.__next__` without the compiled fast path."""

    def __next__(self) -> Any:
        return self._next()

    def _next(self, error: BaseException | None = None) -> Any:
        raise NotImplementedError


if TYPE_CHECKING or not ACCELERATED:
    _FastNext = _PlainNext
else:
    # The extension imports this one. Freezing tools see imports of Python files only.
    from sse_fast._core import parser_c  # noqa: F401
    from sse_fast._stream_c import _FastNext


class EventStream(_Stream[T], _FastNext, Iterator["Event[T]"]):
    """The events of a stream of bytes, made by `iter_events`: an iterator and a context manager.

    Iteration can continue after a `DecodeError` and after an exception of `on_comment`, `on_chunk`
    or `until`. The `events` of an error that a stream raises are empty, because they were delivered
    before it. The response is released at the end, on an error, by `close()`, on leaving `with`,
    and when the last reference is dropped. A file or a socket stays open.

    Attributes:
        response: the `Response`; None for a file, a socket or an iterable.
        end_reason: the `EndReason`; None while the stream runs.
    """

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
    ) -> None:
        super().__init__(parser, on_chunk)
        assert isinstance(source.chunks, Iterable)
        self.response = source.response
        self._chunks = iter(source.chunks)
        self._wake = source.wake
        self._reusable = source.reusable and source.wake is not None
        close = source.close or getattr(self._chunks, "close", None)
        self._closers += [close] if close is not None else []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # The loop was left without `with`, and nobody can read the rest.
        if self.response is not None:
            with suppress(Exception):
                self._close_source()

    def _next(self, error: BaseException | None = None) -> Event[T]:
        """Return the next event in every case that the fast path of `__next__` leaves out.

        Args:
            error: the exception of a read, if the fast path met one.
        """
        try:
            if error is not None:
                self._on_read_error(error)
            while True:
                # Another thread may close the stream between any two of these lines.
                at, batch = self._delivered, self._batch
                if at < len(batch):
                    self._delivered = at + 1
                    return batch[at]
                if self._read_is_due:
                    self._read()
                elif not self._next_slice():
                    raise StopIteration
        finally:
            if self.end_reason is not None:
                # Every event was delivered, so a failing close is irrelevant.
                with suppress(Exception):
                    self._release()

    def close(self) -> None:
        """End the stream and release the response; idempotent and thread-safe.

        A thread that is blocked in a read wakes up if that harms no other response: over HTTP/1.1
        and on a socket that is not borrowed. Otherwise the stream ends when the read returns.
        """
        self.end()
        if self._reading:
            self._wake_reader()
        else:
            self._close_source()

    def _read(self) -> None:
        self._enter_read()
        try:
            # Checked after `_reading` was set: a close() in another thread either sees `_reading`,
            # or is seen here.
            if self.end_reason is not None:
                self._read_is_due = False
                return
            chunk = next(self._chunks)
        except BaseException as error:
            self._on_read_error(error)
            return
        finally:
            self._reading = False
        self._on_chunk_read(chunk)

    def _release(self) -> None:
        """Close the source after the end of the stream."""
        if self._reading:
            # The thread that reads closes the source.
            return
        try:
            if self._should_drain() and self._wake is not None:
                self._enter_read()
                try:
                    drain(self._chunks, self._wake)
                finally:
                    self._reading = False
        finally:
            self._close_source()

    def _close_source(self) -> None:
        try:
            close = self._closers.pop()
        except IndexError:
            return
        try:
            close()
        except BaseException:
            # The caller may try again.
            self._closers.append(close)
            raise


class AsyncEventStream(_Stream[T], AsyncIterator["Event[T]"]):
    """The events of an async stream of bytes, made by `aiter_events`.

    The response is checked when the first event is requested, or by `await stream`, which returns
    the stream itself. Leaving `async with` releases the response immediately. Without it, leaving
    an `async for` early releases the response at some later time.

    Attributes:
        response: the `Response`; None for a file, a socket or an iterable.
        end_reason: the `EndReason`; None while the stream runs.
    """

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
        begin: Callable[[], Awaitable[tuple[Source, EndReason | None]]] | None = None,
        opens: bool = False,
    ) -> None:
        """Prepare to read the source.

        Args:
            source: the chunks to read, or a placeholder if `opens`.
            parser: the parser to feed.
            on_chunk: called with each chunk before it is parsed.
            begin: awaited before the first event. It checks the source, or makes it if `opens`. It
                may be cancelled and called again.
            opens: whether `begin` makes the source to read.
        """
        super().__init__(parser, on_chunk)
        self._opens = opens
        self._begin = begin
        self._set_source(source)

    def _set_source(self, source: Source) -> None:
        assert isinstance(source.chunks, AsyncIterable)
        self.response = source.response
        self._chunks = source.chunks.__aiter__()
        self._wake = source.wake
        self._reusable = source.reusable
        close = source.close or getattr(self._chunks, "aclose", None)
        self._closers = [close] if close is not None else []

    def __await__(self) -> Generator[Any, None, Self]:
        return self._started().__await__()

    async def __aenter__(self) -> Self:
        if self._opens:
            # Opened here, so that `response` is set inside the block.
            try:
                await self._started()
            except BaseException:
                # __aexit__ is not called if __aenter__ raises.
                await self.aclose()
                raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def __anext__(self) -> Event[T]:
        while True:
            # Another thread may close the stream between any two of these lines.
            at, batch = self._delivered, self._batch
            if at < len(batch):
                self._delivered = at + 1
                return batch[at]
            await self._fill()

    async def _fill(self) -> None:
        """Read and parse until there is a new batch; raise `StopAsyncIteration` at the end."""
        try:
            while self._delivered >= len(self._batch):
                if self._begin is not None and self.end_reason is None:
                    await self._start(self._begin)
                elif self._read_is_due:
                    await self._read()
                elif not self._next_slice():
                    raise StopAsyncIteration
        finally:
            # Last, because a slow or cancelled close must not delay an event.
            if self.end_reason is not None:
                with suppress(Exception):
                    await self._release()

    async def aclose(self) -> None:
        """End the stream and release the response; idempotent.

        A task that waits in a read wakes up if that harms no other response: over HTTP/1.1 and on a
        socket that is not borrowed. Otherwise the stream ends when the read returns.
        """
        self.end()
        if self._reading:
            self._wake_reader()
        else:
            await self._close_source()

    async def _started(self) -> Self:
        if self._begin is not None and self.end_reason is None:
            try:
                await self._start(self._begin)
            finally:
                if self.end_reason is not None:
                    with suppress(Exception):
                        await self._close_source()
        return self

    async def _start(self, begin: Callable[[], Awaitable[tuple[Source, EndReason | None]]]) -> None:
        self._enter_read()
        try:
            source, reason = await begin()
        except Exception:
            if self.end_reason is not None:
                # Another task closed the stream, which may have caused the error.
                return
            self._end(EndReason.ERROR)
            raise
        finally:
            self._reading = False
        self._begin = None
        if self._opens:
            self._set_source(source)
        if reason is not None:
            self._end(reason)

    async def _read(self) -> None:
        self._enter_read()
        try:
            chunk = await self._chunks.__anext__()
        except BaseException as error:
            self._on_read_error(error)
            return
        finally:
            self._reading = False
        self._on_chunk_read(chunk)

    async def _release(self) -> None:
        """Close the source after the end of the stream."""
        if self._reading:
            # The task that reads closes the source.
            return
        try:
            if self._should_drain():
                self._enter_read()
                try:
                    await adrain(self._chunks)
                finally:
                    self._reading = False
        finally:
            await self._close_source()

    async def _close_source(self) -> None:
        try:
            close = self._closers.pop()
        except IndexError:
            return
        try:
            await close()
        except BaseException:
            # The caller may try again.
            self._closers.append(close)
            raise
