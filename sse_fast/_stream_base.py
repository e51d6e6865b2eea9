"""The common part of sync and async streams: everything except reading and closing.

The state survives an exception that a signal handler raises between any two lines. A chunk is in
`_received` from the read until it was accepted, in `_slices` until it was fed, and its events are
in `_fed` until they became the batch. Each of these steps can be repeated.
"""

from __future__ import annotations

import enum
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn

from sse_fast._core.parser import ACCELERATED, Parser
from sse_fast._errors import DecodeError, EventTooLarge, SSEError, StreamTimeout, TransportError
from sse_fast._interrupts import IgnoredErrors, find_handler_error, own_context
from sse_fast._source import READ_SIZE

if TYPE_CHECKING:
    from typing_extensions import TypedDict, TypeVar

    from sse_fast._core.parser import Event
    from sse_fast._source import Response
    from sse_fast._watch import Watch

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

NO_SLICES: Iterator[Any] = iter(())
"""The slices of a stream that waits for a chunk: earlier ones would keep the buffer they are of."""

__all__ = ["NO_SLICES", "Comments", "EndReason", "ParserOptions", "StreamBase", "make_parser"]


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


class Comments:
    """The comments of a slice, kept until their place in the order of the events.

    Attributes:
        deliver: the callback of the user.
        collected: each comment, and the number of events of the slice before it.
        slice_size: the most bytes to feed at a time, which bounds the comments that are kept.
    """

    def __init__(self, on_comment: Callable[[str], object], max_event_size: int) -> None:
        self.deliver = on_comment
        self.collected: list[tuple[int, str]] = []
        self.slice_size = min(READ_SIZE, max_event_size)
        self._get_parser: Callable[[], Parser[Any] | None] = lambda: None

    def bind(self, parser: Parser[Any]) -> None:
        """Collect the comments of this parser, which is referred to weakly."""
        self._get_parser = weakref.ref(parser)

    def collect(self, text: str) -> None:
        """Keep a comment: the `on_comment` of the parser."""
        parser: Any = self._get_parser()
        self.collected.append((parser._completed, text))


def make_parser(**options: Any) -> tuple[Parser[Any], Comments | None]:
    """Make the parser of a stream, and the queue of its comments if there is an `on_comment`.

    Args:
        **options: the keywords of `Parser`.

    Raises:
        TypeError, ValueError: as `Parser`.
    """
    on_comment = options.get("on_comment")
    parser: Parser[Any] = Parser(**options)
    if on_comment is None:
        return parser, None
    comments = Comments(on_comment, options.get("max_event_size", READ_SIZE))
    parser = Parser(**{**options, "on_comment": comments.collect})
    comments.bind(parser)
    return parser, comments


_NO_PARTS: deque[Any] = deque()
"""The parts of a slice without comments. It is shared, since an empty deque takes 0.7 KiB."""


class _Segment(NamedTuple):
    """The events of a slice between two comments."""

    events: list[Any]
    # In the place of the events until they can be delivered.
    none: list[Any]
    # The number of events of the slice before these.
    offset: int
    id_before: str
    is_last: bool


class StreamBase(Generic[T]):
    """The common part of `EventStream` and `AsyncEventStream`."""

    _parser: Parser[T]
    _on_chunk: Callable[[bytes], object] | None
    _comments: Comments | None
    _watch: Watch | None
    # The events that can be delivered without more parsing, and how many of them were delivered.
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
    # Whether the source survives a cancelled read.
    _resumable: bool
    # True while `feed` or `on_comment` runs.
    _in_callback: bool
    # True while the parser may hold events that it has not returned: `feed` is running, or raised.
    _feed_incomplete: bool
    # True if the parser holds the rest of a slice after an error that is raised later.
    _rest_is_due: bool
    # At most one chunk, read and not accepted yet, and the bytes of all that were accepted.
    _received: list[Any]
    _bytes_read: int
    # The latest chunk, its bytes, and an iterator that calls `on_chunk` with them, once.
    _announced: tuple[Any, bytes, Iterator[object]] | None
    # Received bytes that were not fed yet, in slices, and an iterator of as many items.
    _slices: Iterator[Any]
    _slice_starts: Any
    # An exception of a read, and one of `feed`, that was not handled yet.
    _read_error: BaseException | None
    _caught: BaseException | None
    # At most one result of `feed` that has not become the batch yet.
    _fed: list[list[Event[T]]]
    # Comments, and lists of events, that follow the batch in its slice.
    _parts: deque[str | list[Event[T]]]
    # The batch, if its slice has comments.
    _segment: _Segment | None
    # Raised once the current batch has been delivered.
    _error: DecodeError | EventTooLarge | None
    _error_raised: bool
    # The name of the exception that ended the stream, and that exception until it was raised.
    _failure: str
    _unraised: Exception | None
    # The function that closes the source, until it was called. A list, because pop() is atomic:
    # of two threads that close at the same time, only one calls it.
    _closers: list[Callable[[], Any]]
    _wake: Callable[[], object] | None
    _reusable: bool
    # Whether chunks of the source are valid until the next read, so that none has to be copied.
    _lends: bool
    # `(batch, n)`: the consumer has finished with the first n events of this batch.
    _taken: tuple[list[Event[T]], int]
    # `(taken, delivered)`: the two last event IDs, frozen at close.
    _ids_when_closed: tuple[str, str] | None
    # None for a file, a socket or an iterable. `Any` instead of None, so that a type checker takes
    # `stream.response.status` of a stream that has a response.
    response: Response | Any
    end_reason: EndReason | None

    def __init__(
        self,
        parser: Parser[T],
        on_chunk: Callable[[bytes], object] | None,
        comments: Comments | None,
        watch: Watch | None,
    ) -> None:
        self._parser = parser
        self._on_chunk = on_chunk
        self._comments = comments
        self._watch = watch
        self._batch = []
        self._delivered = 0
        self._id_before_batch = parser.last_event_id
        # With comments or a watch, every slice goes through `_parse`.
        self._slice_size = READ_SIZE if comments is None and watch is None else -1
        self._read_is_due = True
        self._reading = False
        self._interrupted = False
        self._resumable = False
        self._in_callback = False
        self._feed_incomplete = False
        self._rest_is_due = False
        self._received = []
        self._bytes_read = 0
        self._announced = None
        self._slices = self._slice_starts = NO_SLICES
        self._read_error = None
        self._caught = None
        self._fed = []
        self._parts = _NO_PARTS
        self._segment = None
        self._error = None
        self._error_raised = False
        self._failure = ""
        self._unraised = None
        self._closers = []
        self._wake = None
        self._reusable = False
        self._lends = False
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
            again = self._taken
            if again[0] is taken[0] and again[1] == taken[1] and self._batch is batch:
                return last_event_id

    def _id_after(self, batch: list[Event[T]], count: int) -> str:
        """Return the last event ID after `count` events of the batch.

        Blocks without data that follow them count as well.
        """
        segment, offset, id_before, is_last = self._segment, 0, self._id_before_batch, True
        if segment is not None and (batch is segment.events or batch is segment.none):
            offset, id_before, is_last = segment.offset, segment.id_before, segment.is_last
            is_last = is_last and batch is segment.events
        count = min(count, len(batch))
        if (
            count == len(batch)
            and is_last
            and self._error is None
            and not self._error_raised
            and not self._feed_incomplete
        ):
            return self._parser.last_event_id
        lone_ids = self._parser._lone_ids
        if lone_ids is not None and count + offset in lone_ids:
            return lone_ids[count + offset]
        return batch[count - 1].id if count else id_before

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

    def _fail(self, error: Exception, cause: Exception | None = None, name: str = "") -> NoReturn:
        """End the stream with an error, and raise it.

        If a cancellation or a signal handler replaces it, the next call raises it again.

        Args:
            error: the error.
            cause: its cause, unless it has one.
            name: the name of the exception behind it; "": its own.
        """
        name = name or type(error).__name__
        if cause is not None:
            error.__cause__ = cause
        # Without a call, so that no signal handler can raise between two lines.
        self._read_is_due = False
        if self.end_reason is None:
            self._failure, self._unraised = name, error
            self.end_reason = EndReason.ERROR
        self._read_error = None
        try:
            raise error
        finally:
            # The traceback of the error refers to this frame.
            del error, cause

    def _forget_raised(self, error: BaseException) -> None:
        """Note that an exception leaves the stream."""
        if self._unraised is error:
            self._unraised = None

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

        Delivers a comment, raises the deferred error, feeds the next slice, or detects the end.

        Returns:
            False at the end of the stream, otherwise True.

        Raises:
            SSEError: the stream ended with an error, which was raised before.
        """
        if self.end_reason is EndReason.CLOSED:
            return False
        if self._in_callback:
            raise RuntimeError(
                "This stream is being read already, by the call that runs this callback: let the "
                "callback return first"
            )
        # A signal handler may have raised after the latest feed.
        if self._caught is not None:
            self._use_caught_error()
            return True
        if self._fed:
            self._use_fed_events()
            return True
        if self._received:
            self._on_chunk_read(self._received[0])
            return True
        if self._parts:
            self._next_part()
            return True
        if self._error is not None:
            self._raise_deferred_error()
        # Once raised, the error stays in the place of its event until the next call.
        self._error_raised = False
        if self._parser.done:
            self._end(EndReason.UNTIL)
        if self.end_reason is EndReason.ERROR:
            if self._unraised is not None:
                raise self._unraised
            raise SSEError(
                f"This stream has ended already, with {self._failure or 'an error'}: "
                "open a new one, and resume from last_event_id"
            )
        if self.end_reason is not None:
            return False
        if self._feed_incomplete or self._rest_is_due or self._has_slices():
            self._parse()
        else:
            self._read_is_due = True
        return True

    def _raise_deferred_error(self) -> NoReturn:
        assert self._error is not None
        try:
            if isinstance(self._error, EventTooLarge):
                self._fail(self._error)
            raise self._error
        except SSEError:
            self._error_raised = True
            # The traceback of the error refers to this stream.
            self._error = None
            raise

    def _next_part(self) -> None:
        """Deliver the next comment of a slice, or begin with the events after it."""
        part = self._parts[0]
        if isinstance(part, str):
            assert self._comments is not None
            # The consumer asked for the event after the comment.
            self.take()
            self._parts.popleft()
            self._run_callback(self._comments.deliver, part)
            return
        segment = self._segment
        if segment is None or segment.events is not part:
            offset = 0 if segment is None else segment.offset + len(segment.events)
            is_last = not any(isinstance(each, list) for each in self._parts if each is not part)
            self._segment = segment = _Segment(part, [], offset, self.last_event_id, is_last)
        if self._batch is not part:
            self._batch = segment.none
            self._delivered = 0
            self._batch = part
        self._parts.popleft()

    def _run_callback(self, callback: Callable[..., object], argument: object) -> None:
        # The flag is cleared twice: an exception of a signal handler may come in the first.
        try:
            try:
                self._in_callback = True
                callback(argument)
            finally:
                self._in_callback = False
        finally:
            self._in_callback = False

    def _has_slices(self) -> bool:
        return bool(self._slice_starts.__length_hint__())

    def _parse(self) -> None:
        """Feed one slice; or, if the latest feed raised, let it parse the rest of its slice."""
        if self._feed_incomplete:
            self._id_before_batch = self.last_event_id
            self._feed(iter((b"",)))
        else:
            self._id_before_batch = self._parser.last_event_id
            self._feed(iter((b"",)) if self._rest_is_due else islice(self._slices, 1))

    @staticmethod
    def _feed_next(fed: list[Any], parser: Parser[Any], slices: Any) -> None:
        """Feed the only slice, and append the events to `fed`.

        It is one step of C, so that nothing is lost between two lines. The compiled form takes the
        chunk out of a list, too.
        """
        fed.extend(map(parser.feed, slices))

    def _feed(self, slices: Any) -> None:
        """Feed the only item of an iterator, or of `_received`."""
        self._segment = None
        self._batch = []
        self._delivered = 0
        self._feed_incomplete = True
        self._rest_is_due = self._read_is_due = False
        try:
            try:
                self._in_callback = True
                self._feed_next(self._fed, self._parser, slices)
            except BaseException as error:
                self._caught = error
                if not ACCELERATED:
                    self._put_back_unfed(error)
            finally:
                self._in_callback = False
        except BaseException as interruption:
            # A signal handler raised. If it did so just when an error of `feed` was caught, that
            # error holds events.
            self._in_callback = False
            if isinstance(interruption.__context__, (DecodeError, EventTooLarge)):
                self._caught = interruption.__context__
            raise
        if self._caught is not None:
            self._use_caught_error()
        elif self._slice_size > 0 and self.end_reason is None:
            # `_use_fed_events` without comments and a watch.
            self._batch = self._fed[0]
            self._fed = []
            has_more = slices is not self._received and self._slice_starts.__length_hint__()
            self._read_is_due = not (has_more or self._parser.done)
            self._feed_incomplete = False
        else:
            self._use_fed_events()

    def _put_back_unfed(self, error: BaseException) -> None:
        """Put back a slice if a signal handler raised just as `feed` in Python was called."""
        code: Any = Parser.feed.__code__
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code is not code:
            trace = trace.tb_next
        if trace is not None and trace.tb_lineno == code.co_firstlineno:
            slices = [trace.tb_frame.f_locals["chunk"], *self._slices]
            self._slices = self._slice_starts = iter(slices)

    def _use_fed_events(self) -> None:
        """Make the result of `feed` the batch."""
        # If there is an end reason, a callback closed the stream.
        if self._fed and self.end_reason is None:
            events = self._fed[0]
            if self._comments is None and self._watch is None:
                self._batch = events
            elif events is not self._batch and not self._parts:
                self._arrange(events)
        # If an exception comes after this, the next feed of b"" returns no event.
        self._fed = []
        if self.end_reason is None:
            has_more = self._slice_starts.__length_hint__() or self._parts or self._parser.done
            self._read_is_due = not has_more
        # Last, because other threads may read last_event_id.
        self._feed_incomplete = False

    def _use_caught_error(self) -> None:
        """Raise an exception of `feed`, or defer it until the events before it were delivered.

        The parser must be fed again, possibly with b"".
        """
        error = self._caught
        try:
            if isinstance(error, (DecodeError, EventTooLarge)):
                self._rest_is_due = True
                if self.end_reason is None and self._error is not error:
                    # Its traceback refers to this stream.
                    error.__traceback__ = None
                    if error.events is not self._batch and not self._parts:
                        self._arrange(error.events)
                    self._error, error.events = error, []
                self._feed_incomplete = False
                self._caught = None
            elif error is not None:
                self._caught = None
                raise error
        finally:
            # The traceback of the error refers to this frame.
            del error

    def _arrange(self, events: list[Event[T]]) -> None:
        """Make the events the batch, or the parts between the comments if there are any."""
        if self._watch is not None:
            self._run_callback(self._watch.see, events)
        comments = self._comments
        if comments is None or not comments.collected:
            self._batch = events
            return
        parts: deque[str | list[Event[T]]] = deque()
        start = 0
        for count, text in comments.collected:
            if count > start:
                parts.append(events[start:count])
                start = count
            parts.append(text)
        if start < len(events):
            parts.append(events[start:])
        self._segment = _Segment([], self._batch, 0, self._id_before_batch, False)
        self._parts, comments.collected = parts, []

    def _on_read_error(self) -> None:
        """Handle `_read_error`, which was raised in the source, or has interrupted it."""
        error: BaseException | None = self._read_error
        try:
            if isinstance(error, (StopIteration, StopAsyncIteration)):
                self._on_source_end()
                self._read_error = None
                return
            raised = find_handler_error(error) if isinstance(error, Exception) else error
            if raised is not None:
                # The names are those of asyncio and trio.
                is_cancelled = type(raised).__name__ in ("CancelledError", "Cancelled")
                self._interrupted = not (self._resumable and is_cancelled)
                self._read_error = None
                raise raised
            assert isinstance(error, Exception)
            if self.end_reason is None:
                self._raise_if_expired(error)
                if isinstance(error, SSEError):
                    self._fail(error)
                self._fail(_wrap_error(error), error, type(error).__name__)
            self._read_error = None
        finally:
            # The tracebacks of the errors refer to this frame.
            error = raised = None

    def _raise_if_expired(self, error: Exception | None = None) -> None:
        """Raise the error of a time limit if that limit ended the read."""
        watch = self._watch
        if watch is None or self.end_reason is not None:
            return
        # The read timeout of a library may be as short, and come first.
        if watch.has_expired or (_is_timeout(error) and watch.seconds_left() == 0):
            self._fail(watch.error(), error)

    def _on_source_end(self) -> None:
        self._raise_if_expired()
        if self._interrupted and self.end_reason is None:
            self._fail(TransportError(self._explain_doubtful_end()))
        self._end(EndReason.END)

    def _explain_doubtful_end(self) -> str:
        return (
            "The stream ended right after a cancelled read, so it may be incomplete: reconnect "
            "from last_event_id"
        )

    def _on_chunk_read(self, chunk: Any) -> None:
        """Accept the chunk in `_received`, and feed it if nothing else has to be done before."""
        self._read_is_due = False
        if self.end_reason is not None:
            return
        self._interrupted = False
        if type(chunk) is bytes and self._on_chunk is None and len(chunk) <= self._slice_size:
            self._id_before_batch = self._parser.last_event_id
            self._bytes_read += len(chunk)
            if ACCELERATED:
                # The compiled `feed_next` takes the chunk out of the list.
                self._feed(self._received)
                return
            self._slices = self._slice_starts = iter((chunk,))
            self._received = []
            self._feed(self._slices)
            return
        if self._lends and self._on_chunk is None and type(chunk) is memoryview:
            # Its slices are fed before the next read.
            self._bytes_read += len(chunk)
            self._cut(chunk)
            self._received = []
            return
        if self._announced is None or self._announced[0] is not chunk:
            try:
                data = _as_bytes(chunk)
            except TypeError:
                self._received = []
                raise
            calls: Iterator[object] = iter(())
            # An empty chunk only lets time limits be checked.
            if self._on_chunk is not None and data:
                calls = map(self._on_chunk, (data,))
            self._bytes_read += len(data)
            self._announced = chunk, data, calls
        _, data, calls = self._announced
        if self._on_chunk is not None:
            # If it raises, the next call continues after it.
            self._run_callback(deque, calls)
        self._cut(data)
        self._received, self._announced = [], None

    def _cut(self, data: bytes | memoryview) -> None:
        """Set the slices to be fed."""
        size = READ_SIZE if self._comments is None else self._comments.slice_size
        if len(data) <= size:
            self._slices = self._slice_starts = iter((data,))
            return
        starts, ends = range(0, len(data), size), range(size, len(data) + size, size)
        self._slice_starts = iter(starts)
        pairs = map(slice, self._slice_starts, ends)
        self._slices = map(memoryview(data).__getitem__, pairs)

    def _refuse_reader(self) -> NoReturn:
        raise RuntimeError(
            "Another thread or task is already waiting for this stream: read it in one place "
            "and pass its events on, for example by a queue"
        )

    def _wake_reader(self) -> None:
        """Wake the reader, in whichever thread or task it is, so that it sees the end."""
        if self._wake is not None:
            # If the connection is gone already, nobody waits for it.
            with IgnoredErrors():
                self._wake()

    def _should_drain(self) -> bool:
        """Whether reading the body to its end may leave a connection that can be used again."""
        return self._reusable and self.end_reason is EndReason.UNTIL and bool(self._closers)


def _wrap_error(error: Exception) -> TransportError:
    """Make a `TransportError` of an error of the source."""
    # The text of the original may contain a query or a header, so it stays in __cause__.
    name = type(error).__name__
    text = f"Reading the stream failed: {name}"
    if not _is_timeout(error):
        return TransportError(text)
    if getattr(error, "errno", None) is not None:
        # TCP has given up, whatever the timeout of the client.
        return StreamTimeout(text)
    return StreamTimeout(
        f"Reading the stream failed: no byte arrived in time ({name}): increase idle_timeout, or "
        "the read timeout of your client, if the server may be silent for longer"
    )


def _is_timeout(error: Exception | None) -> bool:
    # Some libraries wrap a timeout in an error whose name does not say so.
    chain = () if error is None else (error, error.__cause__, own_context(error))
    return any("Timeout" in cls.__name__ for each in chain for cls in type(each).__mro__)


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
