"""EventStream and AsyncEventStream: a parser over a source of chunks, sync and async.

What the two share (slicing, the tap, the order of events and errors, how it all ends) is in
`_Stream`; each of them only reads the next chunk and closes the source in its own way.
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

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from typing_extensions import Self, TypedDict, TypeVar

    from sse_fast._core.parser import Event, Parser
    from sse_fast._source import Response, Source

    T = TypeVar("T", default=str)

    class ParserOptions(TypedDict, Generic[T], total=False):
        """The keywords of `Parser`, but for `decode`."""

        last_event_id: str
        max_event_size: int
        on_comment: Callable[[str], object] | None
        until: str | Callable[[Event[T]], object] | None
else:
    from typing import TypeVar

    T = TypeVar("T")


class EndReason(enum.Enum):
    """Why a stream came to its end."""

    UNTIL = "until"
    """`until` was met."""
    END = "end"
    """The source ended; `pending` says whether it did so in the middle of an event."""
    NO_CONTENT = "no content"
    """The server answered 204: there is nothing to read and nothing to ask again for."""
    CLOSED = "closed"
    """`close()` was called, or `with` was left."""
    ERROR = "error"
    """An exception was raised."""


class _Stream(Generic[T]):
    """What both kinds of stream have in common: all but reading and closing."""

    _parser: Parser[T]
    _on_chunk: Callable[[bytes], object] | None
    # The latest events to come out of the parser, and how many of them were handed over.
    _batch: list[Event[T]]
    _handed_over: int
    _id_before_batch: str
    # The most bytes to feed at once.
    _slice_size: int
    # Whether nothing but a read can bring the next event.
    _read_is_due: bool
    # Whether somebody is in a read, who will close the source then.
    _reading: bool
    # Whether the last read was left by an exception that was not the source's.
    _interrupted: bool
    # Whether the parser keeps events back, as a callback raised.
    _kept_back: bool
    # What has arrived and was not fed yet.
    _unfed: bytes | memoryview | None
    # An error that stands behind the events of the batch.
    _error: DecodeError | EventTooLarge | None
    _error_raised: bool
    # How the source is closed, until that has been done. A list, as taking from it is one step: two
    # threads that close at once do it once.
    _closers: list[Callable[[], Any]]
    _wake: Callable[[], object] | None
    # The batch whose first so many events are done with.
    _taken: tuple[list[Event[T]], int]
    # The ids then: after the last event that was done with, after the last that was handed over.
    _ids_when_closed: tuple[str, str] | None
    response: Response | None
    end_reason: EndReason | None

    def __init__(self, parser: Parser[T], on_chunk: Callable[[bytes], object] | None) -> None:
        self._parser = parser
        self._on_chunk = on_chunk
        self._batch = []
        self._handed_over = 0
        self._id_before_batch = parser.last_event_id
        self._slice_size = READ_SIZE
        self._read_is_due = True
        self._reading = False
        self._interrupted = False
        self._kept_back = False
        self._unfed = None
        self._error = None
        self._error_raised = False
        self._closers = []
        self._wake = None
        self._taken = self._batch, 0
        self._ids_when_closed = None
        self.response = None
        self.end_reason = None

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r} object: it reads a source")

    @property
    def last_event_id(self) -> str:
        """The last event ID in force after the last event that was handed over."""
        if self._ids_when_closed is not None:
            return self._ids_when_closed[1]
        if self._error_raised and self._handed_over == len(self._batch):
            return self._parser.last_event_id
        return self._id_after(self._batch, self._handed_over)

    def take(self) -> None:
        """Every event that was handed over is done with."""
        self._taken = self._batch, self._handed_over

    @property
    def taken_id(self) -> str:
        """The last event ID in force after the last event that is done with; from any thread."""
        while True:
            taken, batch = self._taken, self._batch
            ids = self._ids_when_closed
            is_latest = taken[0] is batch
            if ids is not None:
                return ids[is_latest]
            # At most one event is handed over before the next is asked for.
            last_event_id = self._id_after(batch, taken[1] if is_latest else 0)
            # Else another thread went on meanwhile.
            if self._taken is taken and self._batch is batch:
                return last_event_id

    def _id_after(self, batch: list[Event[T]], count: int) -> str:
        """The last event ID behind so many events of the batch, and the blocks without data that
        follow them.
        """
        if count >= len(batch) and self._error is None and not self._kept_back:
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
        return self._reading

    def _end(self, reason: EndReason) -> None:
        self._read_is_due = False
        if self.end_reason is None:
            self.end_reason = reason

    def end(self) -> None:
        """Drop the events not handed over: for `last_event_id`, they were never there."""
        if self._ids_when_closed is None:
            self._ids_when_closed = self.taken_id, self.last_event_id
            self._end(EndReason.CLOSED)
            self._batch = []

    def _parse_rest(self) -> bool:
        """Behind the last event of a batch, where no read is due: raise, feed, or see the end.

        Returns:
            Whether there can be more; False: the stream is at its end.
        """
        if self.end_reason is EndReason.CLOSED:
            return False
        if self._error is not None:
            # Until more is asked for, it stands where its event would.
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
        if unfed is None and self._kept_back:
            raise RuntimeError(
                "Expected callbacks that leave the stream alone, got one that asks it for the next "
                "event"
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
        """Feed one slice of what has arrived; the rest is for later."""
        self._id_before_batch = (
            self.last_event_id if self._kept_back else self._parser.last_event_id
        )
        self._batch = []
        self._handed_over = 0
        self._kept_back = True
        self._read_is_due = False
        try:
            batch = self._parser.feed(chunk)
        except BaseException as error:
            self._not_fed(error, rest)
            return
        self._unfed = rest
        read_is_due = rest is None and not self._parser.done
        # Else a callback closed the stream.
        if self.end_reason is None:
            self._batch = batch
            self._read_is_due = read_is_due
        # Only now: other threads may look at last_event_id.
        self._kept_back = False

    def _not_fed(self, error: BaseException, rest: memoryview | None) -> None:
        """The parser raised, and wants feeding again, be it with nothing."""
        self._unfed = b"" if rest is None else rest
        self._read_is_due = False
        if not isinstance(error, (DecodeError, EventTooLarge)):
            raise error
        if self.end_reason is None:
            # The events before it are handed over before it.
            self._error = error
            self._batch, error.events = error.events, []
        self._kept_back = False

    def _not_read(self, error: BaseException) -> None:
        """A read gave no chunk."""
        if isinstance(error, (StopIteration, StopAsyncIteration)):
            self._ended()
        elif isinstance(error, Exception):
            self._failed(error)
        else:
            self._interrupted = True
            raise error

    def _ended(self) -> None:
        """A read came to the end of the source."""
        if self._interrupted and self.end_reason is None:
            self._end(EndReason.ERROR)
            raise TransportError(
                "Expected the next bytes of the stream, got its end right after a read that was "
                "cancelled, which tells nothing: ask again, from last_event_id on"
            )
        self._end(EndReason.END)

    def _arrived(self, chunk: bytes) -> None:
        """A read gave a chunk."""
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

    def _failed(self, error: Exception) -> None:
        """What a read raised comes out as a TransportError, unless the stream was closed."""
        if self.end_reason is not None:
            return
        self._end(EndReason.ERROR)
        if isinstance(error, SSEError):
            raise error
        # Some libraries wrap a time-out in an error that does not say so.
        chain = (error, error.__cause__, _own_context(error))
        names = {cls.__name__ for each in chain for cls in type(each).__mro__}
        kind = StreamTimeout if any("Timeout" in name for name in names) else TransportError
        # The text of the original may show a query or a header: it stays in __cause__.
        raise kind(f"Expected the next bytes of the stream, got {type(error).__name__}") from error

    def _enter_read(self) -> None:
        if self._reading:
            raise RuntimeError(
                "Expected one thread or task that reads a stream, got a second one while the first "
                "waits: hand its events on, by a queue for example"
            )
        self._reading = True

    def _wake_reader(self) -> None:
        """Behind a close(): the reader, whichever thread or task it is in, is to see it soon."""
        if self._wake is not None:
            # Where the connection is gone already, nobody waits for it.
            with suppress(Exception):
                self._wake()


def _own_context(error: Exception) -> BaseException | None:
    """Its __context__, unless that is what the caller of this stream is just handling."""
    context = error.__context__
    if context is not None and context.__traceback__ is not None:
        frame = sys._getframe()
        while frame.f_back is not None:
            frame = frame.f_back
            if frame is context.__traceback__.tb_frame:
                return None
    return context


def _as_bytes(chunk: object) -> bytes:
    """A copy of what is not bytes, as the source may use its buffer again."""
    if type(chunk) is bytes:
        return chunk
    try:
        return bytes(memoryview(chunk))  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"Expected chunks of bytes from the source, got {type(chunk).__name__}: "
            "hand over the body as it arrives, before anything decodes it"
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
    from sse_fast._stream_c import _FastNext


class EventStream(_Stream[T], _FastNext, Iterator["Event[T]"]):
    """The events of a stream of bytes, made by `iter_events`: an iterator and a context manager.

    It goes on after a `DecodeError`, and after an exception of `on_comment`, `on_chunk` or
    `until`. The `events` of an error that it raises are empty: they were handed over before.
    Reading to the end, an error, `close()`, leaving `with` and dropping the last reference give
    the response free; a file or a socket stays open.

    Attributes:
        response: the `Response`; None for a file, a socket, an iterable.
        end_reason: the `EndReason`; None while it runs.
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
        # A loop that was left without `with`: what the stream owned, nobody can read on.
        if self.response is not None:
            with suppress(Exception):
                self._close_source()

    def _next(self, error: BaseException | None = None) -> Event[T]:
        """Return the next event; `_FastNext.__next__` calls this for everything unusual.

        `error` is the exception that a read raised.
        """
        try:
            if error is not None:
                self._not_read(error)
            while True:
                # Another thread may close the stream between any two of these lines.
                at, batch = self._handed_over, self._batch
                if at < len(batch):
                    self._handed_over = at + 1
                    return batch[at]
                if self._read_is_due:
                    self._read()
                elif not self._parse_rest():
                    raise StopIteration
        finally:
            if self.end_reason is not None:
                # All is handed over: how the source takes its leave changes nothing.
                with suppress(Exception):
                    self._close_source()

    def close(self) -> None:
        """End the stream and give the response free: from any thread, any number of times.

        A thread that waits for the network then wakes up, if that harms no other response: over
        HTTP/1.1 and a socket that is not borrowed. Else its read ends the stream when it returns.
        """
        self.end()
        if self._reading:
            self._wake_reader()
        else:
            self._close_source()

    def _read(self) -> None:
        self._enter_read()
        try:
            # Looked at only now: a close() in another thread either sees `_reading` or is seen.
            if self.end_reason is not None:
                self._read_is_due = False
                return
            chunk = next(self._chunks)
        except BaseException as error:
            self._not_read(error)
            return
        finally:
            self._reading = False
        self._arrived(chunk)

    def _close_source(self) -> None:
        try:
            close = self._closers.pop()
        except IndexError:
            return
        try:
            close()
        except BaseException:
            # It may be tried again.
            self._closers.append(close)
            raise


class AsyncEventStream(_Stream[T], AsyncIterator["Event[T]"]):
    """The async twin of `EventStream`, made by `aiter_events`.

    The response is looked at when the first event is asked for, or by `await stream`, which gives
    the stream itself. Leaving `async with` gives the response free at once; without it, an
    `async for` that is left early does so at some later time.

    Attributes:
        response: the `Response`; None for a file, a socket, an iterable.
        end_reason: the `EndReason`; None while it runs.
    """

    def __init__(
        self,
        source: Source,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None = None,
        begin: Callable[[], Awaitable[tuple[Source, EndReason | None]]] | None = None,
        opens: bool = False,
    ) -> None:
        """`begin` comes before the first event: it looks at the source, or, if it `opens` one,
        makes the one to be read; it may be cancelled and called again.
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
        close = source.close or getattr(self._chunks, "aclose", None)
        self._closers = [close] if close is not None else []

    def __await__(self) -> Generator[Any, None, Self]:
        return self._started().__await__()

    async def __aenter__(self) -> Self:
        if self._opens:
            # Here, so that `response` is there within.
            try:
                await self._started()
            except BaseException:
                # There will be no __aexit__.
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
            at, batch = self._handed_over, self._batch
            if at < len(batch):
                self._handed_over = at + 1
                return batch[at]
            await self._fill()

    async def _fill(self) -> None:
        """Come by a new batch of events; raises at the end."""
        try:
            while self._handed_over >= len(self._batch):
                if self._begin is not None and self.end_reason is None:
                    await self._start(self._begin)
                elif self._read_is_due:
                    await self._read()
                elif not self._parse_rest():
                    raise StopAsyncIteration
        finally:
            # Only now: a close that is slow, or cancelled, must not stand before an event.
            if self.end_reason is not None:
                with suppress(Exception):
                    await self._close_source()

    async def aclose(self) -> None:
        """End the stream and give the response free; any number of times.

        Another task that waits for the network then wakes up, if that harms no other response:
        over HTTP/1.1 and a socket that is not borrowed. Else its read ends the stream when it
        returns.
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
                # Closed by another task, which may be why.
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
            self._not_read(error)
            return
        finally:
            self._reading = False
        self._arrived(chunk)

    async def _close_source(self) -> None:
        try:
            close = self._closers.pop()
        except IndexError:
            return
        try:
            await close()
        except BaseException:
            # It may be tried again.
            self._closers.append(close)
            raise
