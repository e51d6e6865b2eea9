"""Event and Parser in plain Python: the reference, the fallback, and the types of both cores.

`parser_c.pyx` is the same in Cython. The stages have the same names in both: `_split_lines`,
`_process_field`, `_end_block`, `_dispatch`. The clauses are those of the HTML standard: 9.2.5
(parsing) and 9.2.6 (interpreting an event stream).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Generic, NoReturn, overload

from sse_fast._core import options as _options
from sse_fast._errors import DecodeError, EventTooLarge

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from typing_extensions import Buffer, TypeVar

    T_co = TypeVar("T_co", default=str, covariant=True)
    D = TypeVar("D")
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

_INTERRUPTED = "feed() was interrupted within an event: call reset() before feeding more"
_BOM = b"\xef\xbb\xbf"
FIELD_NAMES = (b"data", b"event", b"id", b"retry")
_NAME_STARTS = frozenset(name[:size] for name in FIELD_NAMES for size in range(len(name) + 1))


class Event(Generic[T_co]):
    """One event of an event stream, immutable.

    Attributes:
        event: the event type; "message" where the stream names none.
        data: the values of the data lines joined with LF, or the result of `decode`.
        id: the last event ID in force when the event was dispatched; "" if none is set.
        retry: the reconnection time that the lines of this event set, in ms, or None.

    HTML standard, 9.2.6.
    """

    __slots__ = ("_data", "_event", "_id", "_retry")
    __match_args__ = ("event", "data", "id", "retry")

    def __init__(
        self,
        event: str = "message",
        data: T_co = "",  # type: ignore[assignment]  # the default of T_co is str
        id: str = "",
        retry: int | None = None,
    ) -> None:
        if hasattr(self, "_event"):
            raise AttributeError("Event is immutable: create a new one")
        self._event = event if type(event) is str else _options.exact_str("event", event)
        self._data = data
        self._id = id if type(id) is str else _options.exact_str("id", id)
        self._retry = retry

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("Event cannot be subclassed: hold an Event in a class of your own")

    @property
    def event(self) -> str:
        return self._event

    @property
    def data(self) -> T_co:
        return self._data

    @property
    def id(self) -> str:
        return self._id

    @property
    def retry(self) -> int | None:
        return self._retry

    def __eq__(self, other: Any) -> Any:
        # The second class is the other core's, if a program uses both.
        if type(other) is not Event and type(other) is not sys.modules["sse_fast"].Event:
            return NotImplemented
        return (
            self._event == other.event
            and self._data == other.data
            and self._id == other.id
            and self._retry == other.retry
        )

    def __hash__(self) -> int:
        return hash((self._event, self._data, self._id, self._retry))

    def __repr__(self) -> str:
        return (
            f"Event(event={self._event!r}, data={self._data!r}, "
            f"id={self._id!r}, retry={self._retry!r})"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        # The public name lets the other core read the pickle.
        return (
            sys.modules["sse_fast"].Event,
            (self._event, self._data, self._id, self._retry),
        )

    json = _options.json
    encode = _options.encode


Event.__module__ = "sse_fast"


def new_event(event_type: str, data: Any, id: str, retry: int | None) -> Event[Any]:
    event = Event.__new__(Event)
    event._event = event_type
    event._data = data
    event._id = id
    event._retry = retry
    return event


class Parser(Generic[T_co]):
    """An incremental parser of one event stream: bytes in any pieces in, events out.

    Args:
        last_event_id: the last event ID in force at the start; no CR, LF or NUL.
        max_event_size: the most bytes to retain for one event: its unfinished line, data, event
            type and id together.
        on_comment: called with the text of each comment, without its colon and one space.
        decode: makes `Event.data` of the joined data bytes (`json.loads`, say); or a mapping from
            event type to such callables, where the data of other types stays text.
        until: the end of the stream: data of exactly this text, in an event that is not delivered;
            or a predicate, the first event for which it is true is delivered and is the last.
        until_event: the event type that ends the stream, or a collection of such types. An event of
            that type is delivered and is the last, and `until` is not called with it. A block that
            names that type and has no data ends the stream too; its id and retry count.

    One parser serves one stream and one thread at a time.
    HTML standard, 9.2.5 and 9.2.6.
    """

    # Whether every blank line dispatches; a subclass sets it.
    _emit_blocks = False

    _data: list[bytes]
    _event_type: bytes | None
    _id: bytes | None
    _block_retry: int | None

    __slots__ = (
        "__weakref__",
        "_after_cr",
        "_at",
        "_block_retry",
        "_bom",
        "_can_skip_checks",
        "_checkpoint",
        "_chunks",
        "_data",
        "_decode",
        "_decode_types",
        "_done",
        "_event_type",
        "_events",
        "_has_options",
        "_id",
        "_ignored",
        "_in_block",
        "_is_dropped",
        "_is_feeding",
        "_kept",
        "_last_event_id",
        "_line",
        "_lines",
        "_lone_ids",
        "_max_size",
        "_on_comment",
        "_refusal",
        "_retry",
        "_size",
        "_tail",
        "_until",
        "_until_data",
        "_until_types",
    )

    @overload
    def __init__(
        self: Parser[str],
        *,
        last_event_id: str = "",
        max_event_size: int = 16 * 2**20,
        on_comment: Callable[[str], object] | None = None,
        decode: None = None,
        until: str | Callable[[Event[str]], object] | None = None,
        until_event: str | Collection[str] = (),
    ) -> None: ...
    @overload
    def __init__(
        self: Parser[D],
        *,
        last_event_id: str = "",
        max_event_size: int = 16 * 2**20,
        on_comment: Callable[[str], object] | None = None,
        decode: Callable[[bytes], D],
        until: str | Callable[[Event[D]], object] | None = None,
        until_event: str | Collection[str] = (),
    ) -> None: ...
    @overload
    def __init__(
        self: Parser[str | D],
        *,
        last_event_id: str = "",
        max_event_size: int = 16 * 2**20,
        on_comment: Callable[[str], object] | None = None,
        decode: Mapping[str, Callable[[bytes], D]],
        until: str | Callable[[Event[str | D]], object] | None = None,
        until_event: str | Collection[str] = (),
    ) -> None: ...
    @overload
    def __init__(
        self: Parser[Any],
        *,
        last_event_id: str = "",
        max_event_size: int = 16 * 2**20,
        on_comment: Callable[[str], object] | None = None,
        decode: Mapping[str, Callable[[bytes], Any]],
        until: str | Callable[[Event[Any]], object] | None = None,
        until_event: str | Collection[str] = (),
    ) -> None: ...
    def __init__(
        self,
        *,
        last_event_id: str = "",
        max_event_size: int = 16 * 2**20,
        on_comment: Callable[[str], object] | None = None,
        decode: Callable[[bytes], Any] | Mapping[str, Callable[[bytes], Any]] | None = None,
        until: str | Callable[[Event[Any]], object] | None = None,
        until_event: str | Collection[str] = (),
    ) -> None:
        if hasattr(self, "_max_size"):
            raise RuntimeError("Parser is initialized already: create a new one, or call reset()")
        (
            self._last_event_id,
            self._decode,
            self._decode_types,
            self._until,
            self._until_data,
            self._until_types,
        ) = _options.check_options(
            last_event_id, max_event_size, on_comment, decode, until, until_event
        )
        self._on_comment = on_comment
        self._has_options = decode is not None or until is not None or bool(self._until_types)
        self._retry: int | None = None
        self._is_feeding = False
        self.reset()
        self._max_size = max_event_size

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle 'sse_fast.Parser' object")

    @property
    def last_event_id(self) -> str:
        """The last event ID that a blank line committed; "" before the first."""
        return self._last_event_id

    @property
    def retry(self) -> int | None:
        """The reconnection time in ms, in force as soon as its line is read; None: never set.

        Values beyond 2**63 - 1 count as that.
        """
        return self._retry

    @property
    def pending(self) -> bool:
        """Whether a byte of something other than a comment came since the last blank line.

        At the end of a stream: whether it was cut off within an event.
        """
        # One or two bytes that may become a byte order mark are content until they do.
        return self._in_block or 0 < self._bom < 3

    @property
    def done(self) -> bool:
        """Whether `until` or `until_event` was met; chunks fed after that are ignored."""
        return self._done

    def reset(self) -> None:
        """Prepare for a new connection: only `last_event_id`, `retry` and the settings stay.

        Raises:
            RuntimeError: called from a callback of `feed`.
        """
        if self._is_feeding:
            raise RuntimeError("reset() was called within feed(): call it after feed() returned")
        self._events: list[Event[Any]] = []
        # Number of events -> id of a block without data after them, in the latest feed; None: none.
        self._lone_ids: dict[int, str] | None = None
        # Chunks that were not split into lines yet.
        self._chunks: list[bytes] = []
        # Complete lines, of which those from `_at` on were not processed yet.
        self._lines: list[bytes] = []
        self._at = 0
        self._tail = b""
        self._line = bytearray()
        self._ignored = False
        self._after_cr = False
        self._bom = 0
        self._size = 0
        self._done = False
        # The class of the exception that refuses input; None: it is not refused.
        self._refusal: type[Exception] | None = None
        # Whether the exception being raised is that of a callback.
        self._is_dropped = False
        # The state to restore if `feed` is interrupted; None: it is complete.
        self._checkpoint: tuple[Any, ...] | None = None
        # Whether nothing of the earlier chunks matters to the next one.
        self._can_skip_checks = False
        self._end_block()

    def feed(self, chunk: Buffer, /) -> list[Event[T_co]]:
        """Parse the next bytes of the stream and return the events that they complete.

        Args:
            chunk: bytes as they arrived, cut anywhere: `bytes`, `bytearray`, or any object with a
                contiguous buffer. The parser keeps no reference to it.

        Returns:
            The events, in order; often an empty list.

        Raises:
            TypeError: the chunk is not bytes.
            BufferError: the buffer is not contiguous.
            EventTooLarge: an event exceeds `max_event_size`; every later `feed` raises it too,
                until `reset()`.
            DecodeError: `decode` raised.
            RuntimeError: the parser is within `feed` already.

        After DecodeError, or an exception of `on_comment` or `until` (which is raised unchanged),
        the next `feed` continues with the rest of the chunk and returns the events not returned
        yet; an empty chunk is enough. After MemoryError, KeyboardInterrupt and the like, so does
        the next `feed`, with the event that was interrupted; or it refuses input until `reset()`.
        """
        if self._is_feeding:
            raise RuntimeError(
                "feed() was called within feed(): "
                "a parser serves one stream and one thread at a time"
            )
        if self._size:
            self._raise_too_large(self._size)
        if self._refusal is not None:
            raise self._refusal(_INTERRUPTED)
        if self._done:
            return []
        is_accepted = False
        self._is_feeding = True
        try:
            if type(chunk) is not bytes:
                try:
                    chunk = _read_buffer(chunk)
                except (TypeError, BufferError, ValueError):
                    self._is_dropped = True
                    raise
            self._chunks += (chunk,)
            is_accepted = True
            if self._can_skip_checks and self._is_between_blocks():
                event = self._read_one_event(chunk)
                if event is not None:
                    events: list[Event[Any]] = [event]
                    self._chunks = []
                    return events
            self._can_skip_checks = False
            if not self._events:
                self._lone_ids = None
            self._parse()
            nothing: list[Event[Any]] = []
            events = self._events
            if self._done:
                # The rest is not read any more.
                line = bytearray()
                chunks: list[bytes] = []
                lines: list[bytes] = []
                self._chunks = chunks
                self._lines = lines
                self._line = line
                self._at = 0
            else:
                self._can_skip_checks = (
                    self._lone_ids is None and not self._has_options and not self._emit_blocks
                )
            # No call from here on: the caller gets the events, or they stay.
            self._checkpoint = None
            self._events = nothing
            return events
        except MemoryError:
            # In force if this handler is interrupted as well.
            self._refusal = MemoryError
            if is_accepted:
                self._recover()
            raise
        except BaseException:
            self._refusal = RuntimeError
            if is_accepted or self._is_dropped:
                self._recover()
            raise
        finally:
            self._is_feeding = False

    def _recover(self) -> None:
        """Undo what `feed` did since the latest checkpoint, as an exception interrupted it.

        Python runs signal handlers, which may raise, when a function begins, after a call and at
        the end of a loop's body. So assignments in a row without a call are one step.
        """
        if not self._is_dropped and not self._size and self._checkpoint is not None:
            self._roll_back(self._checkpoint)
        if self._done or self._size:
            self._chunks = []
            self._lines = []
            self._line = bytearray()
            self._at = 0
        self._can_skip_checks = False
        self._checkpoint = None
        self._is_dropped = False
        self._refusal = None

    def _make_checkpoint(self) -> tuple[Any, ...]:
        """Return everything that processing lines changes."""
        lone_ids = self._lone_ids
        count = len(self._events)
        return (
            (self._at, self._event_type, self._id, self._block_retry, self._in_block, self._kept),
            (self._last_event_id, self._retry),
            # These are changed in place.
            (self._data, len(self._data)),
            count,
            (lone_ids, None if lone_ids is None else lone_ids.get(count)),
        )

    def _roll_back(self, checkpoint: tuple[Any, ...]) -> None:
        block, stream, (self._data, length), count, (lone_ids, lone_id) = checkpoint[:5]
        (
            self._at,
            self._event_type,
            self._id,
            self._block_retry,
            self._in_block,
            self._kept,
        ) = block
        self._last_event_id, self._retry = stream
        del self._data[length:]
        del self._events[count:]
        if lone_ids is not None:
            for key in [key for key in lone_ids if key >= count]:
                del lone_ids[key]
            if lone_id is not None:
                lone_ids[count] = lone_id
        self._lone_ids = lone_ids
        self._done = False

    def _is_between_blocks(self) -> bool:
        """Tell whether the next byte begins a block."""
        return self._bom == 3 and not (
            self._in_block or self._after_cr or self._line or self._ignored
        )

    def _read_one_event(self, chunk: bytes) -> Event[Any] | None:
        """Return the event if the chunk is one whole event of the usual form; otherwise None.

        The usual form is an `event` line or none, a `data` line and the blank line. This fast path
        halves the time of an event.
        """
        lines = chunk.split(b"\n", 4)
        if not 3 <= len(lines) <= 4 or lines[-1] or lines[-2] or len(chunk) > self._max_size:
            return None
        name, line = "message", lines[-3]
        if not line.startswith(b"data:") or b"\r" in chunk:
            return None
        if len(lines) == 4:
            event_line = lines[0]
            if not event_line.startswith(b"event:"):
                return None
            value = event_line[7:] if event_line.startswith(b" ", 6) else event_line[6:]
            name = value.decode("utf-8", "replace") or "message"
        text = (line[6:] if line.startswith(b" ", 5) else line[5:]).decode("utf-8", "replace")
        return new_event(name, text, self._last_event_id, None)

    @property
    def _completed(self) -> int:
        """The number of events that the running `feed` has completed, for `on_comment`."""
        return len(self._events)

    def _parse(self) -> None:
        is_plain = not self._has_options and not self._emit_blocks
        while True:
            self._checkpoint = self._make_checkpoint()
            lines = self._lines
            at = self._at
            count = len(lines)
            while at < count:
                line = lines[at]
                at += 1
                if (
                    line.startswith(b"data:")
                    and at < count
                    and not lines[at]
                    and not self._in_block
                    and is_plain
                    and len(line) <= self._max_size
                ):
                    # A block of one data line, as most are: this saves a third of the time.
                    at += 1
                    value = line[6:] if line.startswith(b" ", 5) else line[5:]
                    text = value.decode("utf-8", "replace")
                    self._events.append(new_event("message", text, self._last_event_id, None))
                elif line:
                    # The next line, if a callback raises.
                    self._at = at
                    self._process_field(line)
                elif (
                    self._data
                    or self._id is not None
                    or self._emit_blocks
                    or (self._event_type is not None and self._until_types)
                ):
                    self._at = at
                    self._dispatch()
                    if self._done:
                        return
                else:
                    self._end_block()
            self._end_chunk()
            if not self._chunks:
                return
            self._split_lines()

    def _end_block(self) -> None:
        """Clear the buffers, as a blank line does (9.2.6, "dispatch the event", steps 2 and 7)."""
        self._data = []
        self._event_type = None
        self._id = None
        self._block_retry = None
        self._in_block = False
        self._kept = 0

    def _process_field(self, line: bytes) -> None:
        """Process one whole line that is not blank (9.2.6, "process the field")."""
        if line.startswith(b"data:"):
            self._in_block = True
            if len(line) + self._kept > self._max_size:
                self._raise_too_large(len(line) + self._kept)
            value = line[6:] if line.startswith(b" ", 5) else line[5:]
            self._data.append(value)
            self._kept += len(value) + 1
            return
        if line.startswith(b"event:"):
            self._in_block = True
            if len(line) + self._kept > self._max_size:
                self._raise_too_large(len(line) + self._kept)
            value = line[7:] if line.startswith(b" ", 6) else line[6:]
            self._kept += len(value) - len(self._event_type or b"")
            self._event_type = value
            return
        name, _, value = line.partition(b":")
        if not name:
            if self._on_comment is None:
                return
        else:
            self._in_block = True
            if name not in FIELD_NAMES:
                return
        if len(line) + self._kept > self._max_size:
            self._raise_too_large(len(line) + self._kept)
        if value.startswith(b" "):
            value = value[1:]
        if name == b"data":
            self._data.append(value)
            self._kept += len(value) + 1
        elif name == b"event":
            # Without a colon.
            self._kept -= len(self._event_type or b"")
            self._event_type = b""
        elif name == b"id":
            # "If the field value does not contain U+0000 NULL"; otherwise the field is ignored.
            if b"\0" not in value:
                self._kept += len(value) - len(self._id or b"")
                self._id = value
        elif name == b"retry":
            self._process_retry(value)
        elif self._on_comment is not None:
            text = value.decode("utf-8", "replace")
            try:
                self._on_comment(text)
            except BaseException:
                self._is_dropped = True
                raise
            # The comment does not come again.
            self._checkpoint = self._make_checkpoint()

    def _process_retry(self, value: bytes) -> None:
        # "Consists of only ASCII digits": an empty value is ignored. The standard has no upper
        # bound, so larger values saturate.
        if value.isdigit():
            digits = value.lstrip(b"0")
            self._retry = (
                min(int(digits or b"0"), _options.MAX_INT) if len(digits) < 20 else _options.MAX_INT
            )
            self._block_retry = self._retry

    def _raise_too_large(self, size: int) -> NoReturn:
        error = EventTooLarge(size, self._max_size, self._events)
        nothing: list[Event[Any]] = []
        self._size = size
        self._events = nothing
        raise error

    def _end_chunk(self) -> None:
        """Buffer the line that the chunk leaves unfinished."""
        tail = self._tail
        line = self._line
        ignored = self._ignored
        if tail and not ignored:
            size = len(line) + len(tail)
            has_name = len(line) > 5
            if not has_name:
                # So far the field name was incomplete.
                name, colon, _ = (bytes(line) + tail[:6])[:6].partition(b":")
                has_name = bool(colon)
                if name:
                    self._in_block = True
                if colon:
                    ignored = name not in FIELD_NAMES if name else self._on_comment is None
                else:
                    ignored = name not in _NAME_STARTS
            if ignored:
                line = bytearray()
            elif has_name and size + self._kept > self._max_size:
                self._raise_too_large(size + self._kept)
        self._keep_line(line, b"" if ignored else tail, ignored)

    def _keep_line(self, line: bytearray, tail: bytes, ignored: bool) -> None:
        """End the chunk: `line` with `tail` is the unfinished line."""
        nothing: list[bytes] = []
        line += tail
        self._tail = b""
        self._line = line
        self._ignored = ignored
        self._lines = nothing
        self._at = 0
        self._checkpoint = None

    def _skip_bom(self, chunk: bytes) -> tuple[bytes, int]:
        """Skip one leading byte order mark, also split over chunks (9.2.5, "UTF-8 decode").

        Returns:
            The rest of the chunk, and the number of bytes of the mark so far; 3: the start is over.
        """
        rest = _BOM[self._bom :]
        if chunk.startswith(rest):
            return chunk[len(rest) :], 3
        if rest.startswith(chunk):
            return b"", self._bom + len(chunk)
        return _BOM[: self._bom] + chunk, 3

    def _split_lines(self) -> None:
        """Split the next chunk: its lines become `_lines`, the rest becomes `_tail`."""
        chunk = self._chunks[0]
        bom = self._bom
        after_cr = self._after_cr
        ignored = self._ignored
        line = self._line
        lines: list[bytes] = []
        tail = b""
        if bom < 3:
            chunk, bom = self._skip_bom(chunk)
        if chunk:
            # CRLF is one end-of-line, also when a chunk ends between the two.
            if after_cr and chunk.startswith(b"\n"):
                chunk = chunk[1:]
            after_cr = chunk.endswith(b"\r")
            # For bytes, `splitlines` splits at CR, LF and CRLF and nowhere else.
            lines = chunk.splitlines()
            if lines and not chunk.endswith((b"\n", b"\r")):
                tail = lines.pop()
        if lines:
            if ignored:
                ignored = False
                del lines[0]
            elif line:
                lines[0] = b"".join((line, lines[0]))
                line = bytearray()
        self._bom = bom
        self._after_cr = after_cr
        self._ignored = ignored
        self._line = line
        self._lines = lines
        self._at = 0
        self._tail = tail
        del self._chunks[0]

    def _dispatch(self) -> None:
        """Dispatch a block that a blank line ended (9.2.6, "dispatch the event")."""
        lines = self._data
        event_type = self._event_type
        retry = self._block_retry
        has_id = self._id is not None
        if self._id is not None:
            self._last_event_id = self._id.decode("utf-8", "replace")
        self._end_block()
        if not lines:
            if has_id:
                if self._lone_ids is None:
                    self._lone_ids = {}
                self._lone_ids[len(self._events)] = self._last_event_id
            if event_type is not None and self._until_types:
                # A block without data has a type only if it names one: heartbeats end no stream.
                name = event_type.decode("utf-8", "replace") or "message"
                self._done = name in self._until_types
            return
        raw = lines[0] if len(lines) == 1 else b"\n".join(lines)
        if raw == self._until_data:
            self._done = True
            return
        name = event_type.decode("utf-8", "replace") if event_type else "message"
        decode = self._decode
        if self._decode_types is not None:
            decode = self._decode_types.get(name)
        data: Any
        is_last = name in self._until_types
        if decode is None:
            data = raw.decode("utf-8", "replace")
        else:
            try:
                data = decode(raw)
            except MemoryError:
                raise
            except Exception as error:
                text = raw.decode("utf-8", "replace")
                event = new_event(name, text, self._last_event_id, retry)
                decode_error = DecodeError(event, self._events)
                nothing: list[Event[Any]] = []
                # The error has the events before its own, which is dropped.
                self._events = nothing
                self._done = is_last
                self._is_dropped = True
                raise decode_error from error
        event = new_event(name, data, self._last_event_id, retry)
        if not is_last and self._until is not None:
            try:
                is_last = bool(self._until(event))
            except MemoryError:
                raise
            except Exception:
                self._events.append(event)
                self._is_dropped = True
                raise
        self._events.append(event)
        self._done = is_last
        if self._has_options and not is_last:
            # The callbacks are not called again with this event.
            self._checkpoint = self._make_checkpoint()


def _read_buffer(chunk: object) -> bytes:
    """Copy the contiguous buffer of `chunk`."""
    if isinstance(chunk, str):
        raise TypeError(
            "Expected bytes, got str: feed the body as it arrived, before anything decoded it "
            "(an event stream is always UTF-8)"
        )
    try:
        view = memoryview(chunk)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"Expected a bytes-like object, got {type(chunk).__name__}") from None
    with view:
        if not view.c_contiguous:
            raise BufferError("The buffer is not contiguous: feed bytes(chunk)")
        return view.tobytes()


Parser.__module__ = "sse_fast"
