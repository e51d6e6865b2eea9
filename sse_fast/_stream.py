"""EventStream and AsyncEventStream: a parser over a source of chunks, sync and async.

A stream reads one chunk at a time and feeds it to the parser in slices of at most `READ_SIZE`. The
events of one slice are the *batch*. Events are *delivered* one by one; the next chunk is read only
when the whole batch was delivered, so at most one batch is in memory. An error of the parser waits
until the events before it were delivered, and a comment until the event after it is asked for.

An event is *taken* when the consumer has finished with it, which is when it asks for the next one.
The client resumes after the last taken event, so that an event whose handling failed comes again.

The stream owns its source. One thread or task reads at a time, and only that reader may close the
source during a read: `close()` from elsewhere wakes the reader, which then closes. Otherwise
whoever ends the stream closes the source. After `until`, a body that ends within 50 ms is read to
its end, so that its connection can serve another request.

`StreamBase` holds what sync and async streams share. Each class here only reads and closes.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sse_fast._background import KeptReads, close_later
from sse_fast._core.parser import ACCELERATED
from sse_fast._interrupts import IgnoredErrors, make_marks, read_chunk, was_cut_short
from sse_fast._seconds import check_seconds
from sse_fast._stream_base import Comments, EndReason, StreamBase, make_parser
from sse_fast._wake import Limit, adrain, await_within, drain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from typing_extensions import Self, TypeVar

    from sse_fast._core.parser import Event, Parser
    from sse_fast._source import Source
    from sse_fast._stream_base import ParserOptions
    from sse_fast._watch import Watch

    T = TypeVar("T", default=str)
    _Begin = Callable[[AsyncIterator[bytes]], Awaitable[tuple[Source, EndReason | None]]]
else:
    from typing import TypeVar

    T = TypeVar("T")

__all__ = [
    "AsyncEventStream",
    "Comments",
    "EndReason",
    "EventStream",
    "ParserOptions",
    "make_parser",
]


class _PlainNext:
    """`EventStream.__next__` without the compiled fast path."""

    def __next__(self) -> Any:
        return self._next()

    def _next(self) -> Any:
        raise NotImplementedError


class _PlainAnext:
    """The base of `AsyncEventStream` without the compiled fast path."""

    # Python reads a slot faster than an attribute of an object with more than 30.
    __slots__ = (
        "_batch",
        "_begin",
        "_bytes_read",
        "_caught",
        "_chunks",
        "_comments",
        "_delivered",
        "_fed",
        "_feed_incomplete",
        "_id_before_batch",
        "_in_callback",
        "_interrupted",
        "_lends",
        "_on_chunk",
        "_parser",
        "_parts",
        "_read_error",
        "_read_is_due",
        "_reading",
        "_received",
        "_rest_is_due",
        "_segment",
        "_slice_size",
        "_slice_starts",
        "_slices",
        "_watch",
        "end_reason",
    )


if TYPE_CHECKING or not ACCELERATED:
    _FastNext = _PlainNext
    _FastAnext = _PlainAnext
    feed_next = StreamBase._feed_next
else:
    # The extension imports this one. Freezing tools see imports of Python files only.
    from sse_fast._core import parser_c  # noqa: F401
    from sse_fast._stream_c import _FastAnext, _FastNext, feed_next


class EventStream(_FastNext, StreamBase[T], Iterator["Event[T]"]):
    """The events of a stream of bytes, made by `iter_events`: an iterator and a context manager.

    Iteration can continue after a `DecodeError` and after an exception of `on_comment`, `on_chunk`
    or `until`. The `events` of an error that a stream raises are empty, because they were delivered
    before it. A stream that an error ended raises an `SSEError` that names it when it is iterated
    again. The response is released at the end, on an error, by `close()`, on leaving `with`, and
    when the last reference is dropped. A file or a socket stays open.

    Attributes:
        response: the `Response`; None for a file, a socket or an iterable.
        end_reason: the `EndReason`; None while the stream runs.
    """

    _feed_next = staticmethod(feed_next)

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
        comments: Comments | None = None,
        watch: Watch | None = None,
    ) -> None:
        """Prepare to read the source.

        Args:
            source: the chunks to read.
            parser: the parser to feed.
            on_chunk: called with each chunk before it is parsed.
            comments: the queue of the parser's comments, as `make_parser` returns it.
            watch: the time limits; the source must have a `wake`, or never block.
        """
        super().__init__(parser, on_chunk, comments, watch)
        assert isinstance(source.chunks, Iterable)
        self.response = source.response
        self._chunks = iter(source.chunks)
        self._wait = source.wait
        if isinstance(source.chunks, (tuple, list)):
            self._wait = _is_ready
        self._wake = source.wake
        if watch is not None:
            watch.wake_by(source.wake)
        self._reusable = source.reusable and source.wake is not None
        self._lends = source.lends
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
        if self._watch is not None:
            self._watch.stop()
        if self.response is not None:
            with suppress(Exception):
                self._close_source()

    def _next(self) -> Event[T]:
        """Return the next event in every case that the fast path of `__next__` leaves out."""
        while True:
            # Another thread may close the stream between any two of these lines.
            at, batch = self._delivered, self._batch
            if at < len(batch):
                try:
                    self._delivered = at + 1
                    return batch[at]
                except BaseException:
                    # A signal handler raised.
                    self._delivered = at
                    raise
            if not self._step():
                raise StopIteration

    @property
    def can_wait(self) -> bool:
        """Whether `next_event` can wait with a limit."""
        return self._wait is not None

    def next_event(self, timeout: float | None = None) -> Event[T] | None:
        """Return the next event, or None at the end of the stream.

        Args:
            timeout: seconds to wait for it; 0: only look. None: no limit. A limit is possible over
                `open_stream`, sockets, bytes that were read already, and regular files.

        Raises:
            TimeoutError: no event arrived in time. Nothing is lost: the next call goes on.
            TypeError: this source cannot wait with a limit. Nothing was read.
            Exception: the errors of iteration.
        """
        if timeout is None:
            return next(self, None)
        check_seconds(timeout, "timeout")
        if self._wait is None:
            raise TypeError(
                "This source cannot wait for a limited time: call next_event() without timeout, "
                "or use open_stream, or an async client with aiter_events"
            )
        limit = Limit(timeout)
        while self._delivered >= len(self._batch):
            is_due = self._read_is_due and not self._received
            if is_due and not self._wait_within(limit.seconds_left()):
                raise limit.error()
            if not self._step():
                return None
        return next(self, None)

    def close(self) -> None:
        """End the stream and release the response; idempotent and thread-safe.

        A thread that is blocked in a read wakes up if that harms no other response: over HTTP/1.1
        and on a socket that is not borrowed. Otherwise the stream ends when the read returns.
        """
        self.end()
        if self._watch is not None:
            self._watch.stop()
        if self._reading:
            self._wake_reader()
        else:
            self._close_source()

    def _step(self) -> bool:
        """Read a chunk, or go on with what was read; return whether the stream goes on."""
        try:
            if self._read_is_due:
                self._read()
                return True
            if self._next_slice():
                return True
        except BaseException as error:
            self._release_if_ended()
            self._forget_raised(error)
            raise
        self._release_if_ended()
        return False

    def _release_if_ended(self) -> None:
        if self.end_reason is not None:
            if self._watch is not None:
                self._watch.stop()
            # Every event was delivered, so a failing close is irrelevant.
            with IgnoredErrors():
                self._release()

    def _wait_within(self, seconds: float) -> bool:
        """Wait until a read would not block; return whether it would not."""
        assert self._wait is not None
        if self._reading:
            self._refuse_reader()
        is_ready = True
        try:
            try:
                self._reading = True
                if self.end_reason is None:
                    if self._watch is not None:
                        self._watch.begin()
                    is_ready = self._wait(seconds)
            finally:
                self._reading = False
                if self._watch is not None:
                    self._watch.end(has_bytes=False)
        finally:
            self._reading = False
        # If the stream was closed meanwhile, the read sees it.
        return is_ready or self.end_reason is not None

    def _read(self) -> None:
        if self._read_error is not None:
            # The fast path has met it, or a signal handler raised before it was handled.
            self._on_read_error()
            return
        if not self._received:
            if self._reading:
                self._refuse_reader()
            marks = make_marks()
            # The flag is cleared twice: an exception of a signal handler may come in the first.
            try:
                try:
                    self._reading = True
                    # Checked after `_reading` was set: a close() in another thread either sees
                    # `_reading`, or is seen here.
                    if self.end_reason is not None:
                        self._read_is_due = False
                        return
                    if self._watch is not None:
                        self._watch.begin()
                    read_chunk(self._chunks, self._received, marks)
                finally:
                    self._reading = False
                    if self._watch is not None:
                        self._watch.end(has_bytes=bool(self._received))
            except BaseException as error:
                self._reading = False
                self._read_error = error
                if not was_cut_short(self._received, marks):
                    # A signal handler raised before the read, or after it.
                    self._read_error = None
                    raise
                self._on_read_error()
                return
            if not self._received:
                self._on_source_end()
                return
        self._on_chunk_read(self._received[0])

    def _release(self) -> None:
        """Close the source after the end of the stream."""
        if self._reading:
            # The thread that reads closes the source.
            return
        try:
            if self._should_drain() and self._wake is not None:
                self._reading = True
                try:
                    drain(self._chunks, self._wake)
                finally:
                    self._reading = False
        finally:
            self._close_source()

    def _close_source(self) -> None:
        if not self._closers:
            return
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


class AsyncEventStream(_FastAnext, StreamBase[T], AsyncIterator["Event[T]"]):
    """The events of an async stream of bytes, made by `aiter_events`.

    The response is checked by `async with`, when the first event is requested, or by
    `await stream`, which returns the stream itself. Leaving `async with` releases the response
    immediately. Otherwise it is released in some turns of the event loop after the last reference
    was dropped.

    A cancelled wait keeps the stream if the source survives it: our transport, aiohttp,
    `asyncio.StreamReader`, streams of anyio and trio, and async iterators that are no generators.
    Over httpx and async generators, which are over after a cancelled read, wait by `next_event`.

    Attributes:
        response: the `Response`; None for a file, a socket or an iterable.
        end_reason: the `EndReason`; None while the stream runs.
    """

    _feed_next = staticmethod(feed_next)

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
        begin: _Begin | None = None,
        opens: bool = False,
        comments: Comments | None = None,
        keep_reads: bool = False,
        watch: Watch | None = None,
    ) -> None:
        """Prepare to read the source.

        Args:
            source: the chunks to read, or a placeholder if `opens`.
            parser: the parser to feed.
            on_chunk: called with each chunk before it is parsed.
            begin: awaited before the first event, with the chunks of the source. It checks the
                source, or makes it if `opens`. It may be cancelled and called again.
            opens: whether `begin` makes the source to read.
            comments: the queue of the parser's comments, as `make_parser` returns it.
            keep_reads: let every read of a source that is not `resumable` run in a task of its own.
                A cancelled wait then keeps the stream over every library: the read goes on, and the
                next wait takes its result. This costs a task for each chunk.
            watch: the time limits.
        """
        super().__init__(parser, on_chunk, comments, watch)
        self._opens = opens
        self._begin = begin
        # A limit must not end a read: the source may fail in its own way when it is cancelled.
        self._keeps_reads = keep_reads or watch is not None
        self._set_source(source)

    def _set_source(self, source: Source) -> None:
        assert isinstance(source.chunks, AsyncIterable)
        self.response = source.response
        self._chunks = source.chunks.__aiter__()
        self._lends = source.lends
        self._wake = source.wake
        self._reusable = source.reusable
        close = source.close or getattr(self._chunks, "aclose", None)
        self._closers = [close] if close is not None else []
        # A cancelled read closes a generator, and a relay.
        is_generator = isinstance(self._chunks, AsyncGenerator)
        is_ended = getattr(self._chunks, "is_ended_by_cancellation", is_generator)
        self._resumable = source.resumable and not is_ended
        if self._keeps_reads:
            self._keep_reads()

    def _keep_reads(self) -> None:
        """Let reads run in a task of their own, from now on, if the source needs it."""
        self._keeps_reads = True
        # With `opens`, the source is still to come.
        if self._resumable or self._reading or (self._opens and self._begin is not None):
            return
        self._chunks = reads = KeptReads(self._chunks)
        self._resumable = True
        with suppress(IndexError):
            self._closers.append(reads.closing_before(self._closers.pop()))

    def __await__(self) -> Generator[Any, None, Self]:
        return self._started().__await__()

    async def __aenter__(self) -> Self:
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

    def __del__(self) -> None:
        # The stream was dropped without `async with`, and nobody can read the rest.
        if self.response is not None and self._closers:
            close_later(self._closers.pop())

    async def _anext(self) -> Event[T]:
        """Return the next event in every case that the fast path of `__anext__` leaves out."""
        while True:
            # Another thread may close the stream between any two of these lines.
            at, batch = self._delivered, self._batch
            if at < len(batch):
                try:
                    self._delivered = at + 1
                    return batch[at]
                except BaseException:
                    # A signal handler raised.
                    self._delivered = at
                    raise
            await self._fill()

    if TYPE_CHECKING or not ACCELERATED:
        __anext__ = _anext

    async def _after_failed_read(self, step: object) -> Event[T]:
        """Handle the error that a read of the fast path has met; return the next event.

        Args:
            step: the awaitable of the source, or None if there was none yet.
        """
        try:
            self._on_async_read_error(step)
        except BaseException as error:
            await self._release_if_ended()
            self._forget_raised(error)
            raise
        return await self._anext()

    async def next_event(self, timeout: float | None = None) -> Event[T] | None:
        """Return the next event, or None at the end of the stream.

        Args:
            timeout: seconds to wait for it; 0: only look. None: no limit.

        Raises:
            TimeoutError: no event arrived in time. Nothing is lost: the next call goes on, or the
                next `async for`, over every library.
            Exception: the errors of iteration.
        """
        try:
            if timeout is not None:
                check_seconds(timeout, "timeout")
                await self._fill_within(timeout)
            return await self.__anext__()
        except StopAsyncIteration:
            return None

    async def _fill_within(self, seconds: float) -> None:
        limit = Limit(seconds)
        try:
            while self._delivered >= len(self._batch):
                begin = None if self.end_reason is not None else self._begin
                if begin is not None:
                    # The check may read the body of a refused response.
                    self._keep_reads()
                    await await_within(limit.seconds_left(), self._start(begin))
                    if self._begin is not None and self.end_reason is None:
                        raise limit.error()
                elif not self._read_is_due:
                    if not self._next_slice():
                        raise StopAsyncIteration
                else:
                    self._keep_reads()
                    await await_within(limit.seconds_left(), self._read())
                    if self._received:
                        self._on_chunk_read(self._received[0])
                    elif self._read_is_due:
                        raise limit.error()
        except BaseException as error:
            await self._release_if_ended()
            self._forget_raised(error)
            raise
        await self._release_if_ended()

    async def _fill(self) -> None:
        """Read and parse until there is a new batch; raise `StopAsyncIteration` at the end."""
        try:
            while self._delivered >= len(self._batch):
                if not self._read_is_due:
                    if not self._next_slice():
                        raise StopAsyncIteration
                elif self._begin is not None:
                    await self._start(self._begin)
                elif (
                    self._watch is not None
                    or self._received
                    or self._reading
                    or self._read_error is not None
                ):
                    await self._read()
                    if self._received:
                        self._on_chunk_read(self._received[0])
                else:
                    # The lines of `_receive`, which would cost a tenth of an event.
                    step = None
                    try:
                        try:
                            self._reading = True
                            self._received.append(await (step := self._chunks.__anext__()))
                        finally:
                            self._reading = False
                    except BaseException as error:
                        self._reading = False
                        self._read_error = error
                        self._on_async_read_error(step)
                    else:
                        self._on_chunk_read(self._received[0])
        except BaseException as error:
            await self._release_if_ended()
            self._forget_raised(error)
            raise
        # Last, because a slow or cancelled close must not delay an event.
        await self._release_if_ended()

    async def _release_if_ended(self) -> None:
        if self.end_reason is not None:
            with IgnoredErrors():
                await self._release()

    async def aclose(self) -> None:
        """End the stream and release the response; idempotent.

        A task that waits in a read wakes up if that harms no other response: over HTTP/1.1 and on a
        socket that is not borrowed. Otherwise the stream ends when the read returns.
        """
        self.end()
        if not self._reading:
            await self._close_source()
        elif self._wake is not None:
            self._wake_reader()
        elif isinstance(self._chunks, KeptReads):
            self._chunks.interrupt()

    async def _started(self) -> Self:
        try:
            if self._unraised is not None:
                raise self._unraised
            if self._begin is not None and self.end_reason is None:
                await self._start(self._begin)
        except BaseException as error:
            await self._release_if_ended()
            self._forget_raised(error)
            raise
        await self._release_if_ended()
        return self

    async def _start(self, begin: _Begin) -> None:
        if self._reading:
            self._refuse_reader()
        try:
            self._reading = True
            source, reason = await begin(self._chunks)
        except Exception as error:
            if self.end_reason is not None:
                # Another task closed the stream, which may have caused the error.
                return
            self._fail(error)
        finally:
            self._reading = False
        self._begin = None
        if self._opens:
            self._set_source(source)
        if reason is not None:
            self._end(reason)

    async def _read(self) -> None:
        """Read the next chunk into `_received`."""
        if self._watch is not None:
            await self._read_watched(self._watch)
        else:
            await self._receive()

    async def _read_watched(self, watch: Watch) -> None:
        watch.begin()
        try:
            left = watch.seconds_left()
            if left is None:
                await self._receive()
            else:
                await await_within(left, self._receive())
        finally:
            watch.end(has_bytes=bool(self._received))
        if self._read_is_due and not self._received and watch.seconds_left() == 0:
            watch.has_expired = True
            self._raise_if_expired()

    async def _receive(self) -> None:
        if self._received:
            return
        if self._read_error is not None:
            # A signal handler raised before it was handled.
            self._on_read_error()
            return
        if self._reading:
            self._refuse_reader()
        step = None
        # The flag is cleared twice: an exception of a signal handler may come in the first.
        try:
            try:
                self._reading = True
                # One step of C, so that no chunk is lost between two lines.
                self._received.append(await (step := self._chunks.__anext__()))
            finally:
                self._reading = False
        except BaseException as error:
            self._reading = False
            self._read_error = error
            self._on_async_read_error(step)

    def _on_async_read_error(self, step: object) -> None:
        """Handle `_read_error`, which the source, or a signal handler, has raised.

        Args:
            step: the awaitable of the source, or None if there was none yet.
        """
        error = self._read_error
        try:
            # `__anext__` itself may raise an Exception of the source.
            if self._received or (step is None and not isinstance(error, Exception)):
                self._read_error = None
                assert error is not None
                raise error
        finally:
            # The traceback of the error refers to this frame.
            del error
        self._on_read_error()

    def _explain_doubtful_end(self) -> str:
        return (
            "The stream ended right after a cancelled read, which closes this kind of source, so "
            "it may be incomplete: wait by next_event(timeout=), which cancels no read, or "
            "reconnect from last_event_id"
        )

    async def _release(self) -> None:
        """Close the source after the end of the stream."""
        if self._reading:
            # The task that reads closes the source.
            return
        try:
            if self._should_drain():
                self._reading = True
                try:
                    await adrain(self._chunks)
                finally:
                    self._reading = False
        finally:
            await self._close_source()

    async def _close_source(self) -> None:
        if not self._closers:
            return
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


def _is_ready(seconds: float) -> bool:
    """Tell that a read would not block: the `wait` of bytes that are there."""
    return True
