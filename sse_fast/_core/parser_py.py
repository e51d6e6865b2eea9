"""Event and Parser in plain Python: the reference, the fallback, and the types of both cores.

The twin is `parser_c.pyx` with `lines.pxd`: the same names in the same order, the same results
to the last attribute. The clauses are those of the HTML standard: 9.2.5 (parsing) and 9.2.6
(interpreting an event stream).
"""

from __future__ import annotations

import json as _json
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, NoReturn, overload

from sse_fast._errors import DecodeError, EventTooLarge

if TYPE_CHECKING:
    from typing_extensions import Buffer, TypeVar

    from sse_fast.compat._dialect import Dialect

    T_co = TypeVar("T_co", default=str, covariant=True)
    D = TypeVar("D")
else:
    from typing import TypeVar

    T_co = TypeVar("T_co", covariant=True)

_END_OF_LINE = re.compile(r"\r\n|\n|\r")
_BOM = b"\xef\xbb\xbf"
_FIELD_NAMES = (b"data", b"event", b"id", b"retry")
_MAX_INT = 2**63 - 1


def _exact_str(name: str, value: object) -> str:
    if isinstance(value, str):
        # A str subclass (an enum, say) counts as the text it holds.
        return str.__str__(value)
    raise TypeError(f"Expected {name} to be a str, got {type(value).__name__}")


def _refuse(name: str, value: str, forbidden: str) -> None:
    """CR and LF would end the field, NUL would make a parser ignore an id."""
    for character in forbidden:
        if character in value:
            raise ValueError(
                f"Expected {name} without {' or '.join(map(repr, forbidden))}, got {value!r}"
            )


class Event(Generic[T_co]):
    """One event of an event stream, immutable.

    Attributes:
        event: the event type; "message" where the stream names none.
        data: the values of the data lines joined with LF, or what `decode` made of them.
        id: the last event ID in force when the event was dispatched; "" if there is none.
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
            raise AttributeError("Expected an Event to stay as it was made: make a new one")
        self._event = event if type(event) is str else _exact_str("event", event)
        self._data = data
        self._id = id if type(id) is str else _exact_str("id", id)
        self._retry = retry

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("Expected Event to have no subclass: hold an Event in a class of your own")

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
        # The second class is the other core's, where a program has got hold of both.
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
        # By the public name, so that a pickle can be read where the other core runs.
        return (
            sys.modules["sse_fast"].Event,
            (self._event, self._data, self._id, self._retry),
        )

    def json(self, loads: Callable[[Any], Any] | None = None) -> Any:
        """Return what `loads` (by default `json.loads`) makes of the data.

        What `loads` raises comes out unchanged.

        Raises:
            TypeError: `decode` has made something other than text or bytes of the data already.
        """
        if not isinstance(self._data, (str, bytes, bytearray)):
            raise TypeError(
                f"Expected the data of the event as text, got {type(self._data).__name__}: "
                "decode has read it already"
            )
        return (_json.loads if loads is None else loads)(self._data)

    def encode(self) -> bytes:
        """Return the event as the lines of an event stream, the blank line included.

        A parser makes the same event of it. Every CR, LF or CRLF in `data` starts a new data
        line, so that it comes back as LF. An `event` of "message" and an empty `id` have no line.

        Raises:
            TypeError: `data` is not a str.
            ValueError: `event` or `id` holds a CR or LF (it would inject a field), `id` a NUL (a
                parser would ignore it), `event` is empty, or `retry` is not an int from 0 to
                2**63 - 1.
        """
        if not isinstance(self._data, str):
            raise TypeError(
                f"Expected the data of the event to be a str, got {type(self._data).__name__}: "
                "only text can be sent"
            )
        lines = []
        if self._event != "message":
            if not self._event:
                raise ValueError(
                    "Expected an event type, got '': an event without one is 'message'"
                )
            _refuse("event", self._event, "\r\n")
            lines.append(f"event: {self._event}\n")
        if self._id:
            _refuse("id", self._id, "\r\n\0")
            lines.append(f"id: {self._id}\n")
        if self._retry is not None:
            if type(self._retry) is not int or not 0 <= self._retry <= _MAX_INT:
                raise ValueError(
                    f"Expected retry to be an int from 0 to 2**63 - 1 (ms), got {self._retry!r}"
                )
            lines.append(f"retry: {self._retry}\n")
        lines.extend(f"data: {line}\n" for line in _END_OF_LINE.split(self._data))
        lines.append("\n")
        return "".join(lines).encode()


Event.__module__ = "sse_fast"


def _new_event(event_type: str, data: Any, id: str, retry: int | None) -> Event[Any]:
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
        on_comment: called with the text of each comment, less its colon and one space.
        decode: makes `Event.data` of the joined data bytes (`json.loads`, say); or a mapping from
            event type to such callables, where the data of other types stays text.
        until: what ends the stream: data of exactly this text, in an event that is not delivered;
            or a predicate, the first event it holds for is delivered and is the last.

    One parser serves one stream and one thread at a time.
    HTML standard, 9.2.5 and 9.2.6.
    """

    _every_block = False

    __slots__ = (
        "__weakref__",
        "_after_cr",
        "_block_retry",
        "_bom",
        "_busy",
        "_chunks",
        "_data",
        "_decode",
        "_decode_types",
        "_done",
        "_event_type",
        "_events",
        "_hand_out_data",
        "_id",
        "_ignored",
        "_in_block",
        "_is_ordinary",
        "_kept",
        "_last_event_id",
        "_line",
        "_lines",
        "_lone_ids",
        "_max_size",
        "_on_comment",
        "_retry",
        "_size",
        "_tail",
        "_until",
        "_until_data",
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
    ) -> None: ...
    def __init__(
        self,
        *,
        last_event_id: str = "",
        max_event_size: int = 16 * 2**20,
        on_comment: Callable[[str], object] | None = None,
        decode: Callable[[bytes], Any] | Mapping[str, Callable[[bytes], Any]] | None = None,
        until: str | Callable[[Event[Any]], object] | None = None,
    ) -> None:
        if getattr(self, "_busy", False):
            raise RuntimeError("Expected __init__() outside of feed(), got it within")
        last_event_id = _exact_str("last_event_id", last_event_id)
        _refuse("last_event_id", last_event_id, "\r\n\0")
        if type(max_event_size) is not int:
            raise TypeError(
                f"Expected max_event_size to be an int, got {type(max_event_size).__name__}"
            )
        if max_event_size < 1:
            raise ValueError(f"Expected max_event_size of at least 1 byte, got {max_event_size}")
        if on_comment is not None and not callable(on_comment):
            raise TypeError(
                f"Expected on_comment to be callable or None, got {type(on_comment).__name__}"
            )
        self._decode: Callable[[bytes], Any] | None = None
        self._decode_types: dict[str, Callable[[bytes], Any]] | None = None
        if isinstance(decode, Mapping):
            self._decode_types = dict(decode)
            for event_type, function in self._decode_types.items():
                if not callable(function):
                    raise TypeError(
                        f"Expected decode[{event_type!r}] to be callable, "
                        f"got {type(function).__name__}"
                    )
        elif decode is None or callable(decode):
            self._decode = decode
        else:
            raise TypeError(
                "Expected decode to be callable, a mapping from event type to callables or None, "
                f"got {type(decode).__name__}"
            )
        self._until: Callable[[Event[Any]], object] | None = None
        self._until_data: bytes | None = None
        if isinstance(until, str):
            self._until_data = until.encode()
        elif until is None or callable(until):
            self._until = until
        else:
            raise TypeError(
                f"Expected until to be a str, callable or None, got {type(until).__name__}"
            )
        # Whether data becomes text, as it does where nobody asks for anything else.
        self._hand_out_data = decode is None and until is None and not self._every_block
        self._max_size = max_event_size
        self._on_comment = on_comment
        self._last_event_id = last_event_id
        self._retry: int | None = None
        self._busy = False
        self.reset()

    def __reduce__(self) -> NoReturn:
        raise TypeError("cannot pickle 'sse_fast.Parser' object")

    @property
    def last_event_id(self) -> str:
        """The last event ID: what the latest blank line committed, "" if there is none."""
        return self._last_event_id

    @property
    def retry(self) -> int | None:
        """The reconnection time in ms, in force from the line that sets it; None: never set.

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
        """Whether `until` was met; what is fed from then on is ignored."""
        return self._done

    def reset(self) -> None:
        """Get ready for a new connection: only `last_event_id`, `retry` and the settings stay.

        Raises:
            RuntimeError: called from a callback of `feed`.
        """
        if self._busy:
            raise RuntimeError("Expected reset() outside of feed(), got it within")
        self._events: list[Event[Any]] = []
        # Of the latest feed, the ids of blocks without data, by the number of events before them;
        # None: none.
        self._lone_ids: dict[int, str] | None = None
        self._chunks: deque[bytes] = deque()
        # Complete lines not processed yet, the next one last.
        self._lines: list[bytes] = []
        self._tail = b""
        self._line = bytearray()
        self._ignored = False
        self._after_cr = False
        self._bom = 0
        self._size = 0
        self._done = False
        # Nothing but the stream decides what the next chunk does.
        self._is_ordinary = False
        self._end_block()

    def feed(self, chunk: Buffer, /) -> list[Event[T_co]]:
        """Parse the next bytes of the stream and return the events that they complete.

        Args:
            chunk: bytes as they arrived, cut anywhere: `bytes`, `bytearray`, or any object with a
                contiguous buffer. It is not kept.

        Raises:
            TypeError: not bytes.
            BufferError: the buffer is not contiguous.
            EventTooLarge: an event went over `max_event_size`; every later `feed` raises it too,
                until `reset()`.
            DecodeError: `decode` raised.
            RuntimeError: the parser is within `feed` already.

        After DecodeError, or an exception of `on_comment` or `until` (which comes out as it is),
        the rest of the chunk and the events not handed out yet follow at the next `feed`; an empty
        one is enough.
        """
        if type(chunk) is not bytes:
            chunk = _read_buffer(chunk)
        if self._is_ordinary and self._is_at_rest():
            event = self._one_event(chunk)
            if event is not None:
                return [event]
        self._is_ordinary = False
        if self._busy:
            raise RuntimeError(
                "Expected one feed() at a time, got a second one within the first: "
                "a parser serves one stream and one thread"
            )
        if self._size:
            raise EventTooLarge(self._size, self._max_size)
        if self._done:
            return []
        self._lone_ids = None
        self._chunks.append(chunk)
        self._busy = True
        try:
            self._parse()
        finally:
            self._busy = False
            if self._done or self._size:
                self._chunks.clear()
                self._lines.clear()
                self._line.clear()
        self._is_ordinary = self._hand_out_data and self._lone_ids is None
        return self._take_events()

    def _is_at_rest(self) -> bool:
        """Whether the next chunk begins a block, as those do that servers flush event by event."""
        return self._bom == 3 and not (
            self._in_block or self._after_cr or self._line or self._ignored
        )

    def _one_event(self, chunk: bytes) -> Event[Any] | None:
        """What a chunk between two blocks is, if it is an `event` line or none, a `data` line and
        the blank one; else None.

        Where it is, an event takes half the time.
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
        return _new_event(name, text, self._last_event_id, None)

    def _take_events(self) -> list[Event[Any]]:
        events = self._events
        self._events = []
        return events

    def _parse(self) -> None:
        while True:
            lines = self._lines
            while lines:
                # Taken off, so that a line is not held beside the text made of it, and so that
                # the next feed goes on behind the one that raises.
                line = lines.pop()
                if (
                    line.startswith(b"data:")
                    and self._hand_out_data
                    and not self._data
                    and lines
                    and not lines[-1]
                    and len(line) + self._kept <= self._max_size
                ):
                    # The one data line of its event, and the blank line behind it, at once.
                    lines.pop()
                    self._dispatch_text(line[6:] if line.startswith(b" ", 5) else line[5:])
                elif line:
                    self._process_field(line)
                elif self._data or self._id is not None or self._every_block:
                    self._dispatch()
                    if self._done:
                        return
                else:
                    self._end_block()
            self._end_chunk()
            if not self._chunks:
                return
            self._lines = self._split_lines(self._chunks.popleft())

    def _end_block(self) -> None:
        """What a blank line does to the buffers (9.2.6, "dispatch the event", steps 2 and 7)."""
        self._data: list[bytes] = []
        self._event_type: bytes | None = None
        self._id: bytes | None = None
        self._block_retry: int | None = None
        self._in_block = False
        self._kept = 0

    def _process_field(self, line: bytes) -> None:
        """One whole line that is not blank (9.2.6, "process the field")."""
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
            if name not in _FIELD_NAMES:
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
            # "If the field value does not contain U+0000 NULL": else the field is ignored.
            if b"\0" not in value:
                self._kept += len(value) - len(self._id or b"")
                self._id = value
        elif name == b"retry":
            self._process_retry(value)
        elif self._on_comment is not None:
            self._on_comment(value.decode("utf-8", "replace"))

    def _process_retry(self, value: bytes) -> None:
        # "Consists of only ASCII digits": an empty value is ignored. Without a bound in the
        # standard, what does not fit stays at the largest value there is.
        if value.isdigit():
            digits = value.lstrip(b"0")
            self._retry = min(int(digits or b"0"), _MAX_INT) if len(digits) < 20 else _MAX_INT
            self._block_retry = self._retry

    def _raise_too_large(self, size: int) -> NoReturn:
        self._size = size
        raise EventTooLarge(size, self._max_size, self._take_events())

    def _end_chunk(self) -> None:
        """Begin or extend the line that the chunk leaves unfinished."""
        tail = self._tail
        if not tail:
            return
        self._tail = b""
        if self._ignored:
            return
        line = self._line
        seen = len(line)
        line += tail
        if seen <= 5:
            # Up to here it was not known what this line is: now it may be.
            name, colon, _ = bytes(line[:6]).partition(b":")
            if name:
                self._in_block = True
            if colon:
                self._ignored = name not in _FIELD_NAMES if name else self._on_comment is None
            elif any(known.startswith(name) for known in _FIELD_NAMES):
                return
            else:
                self._ignored = True
            if self._ignored:
                line.clear()
                return
        if len(line) + self._kept > self._max_size:
            self._raise_too_large(len(line) + self._kept)

    def _skip_bom(self, chunk: bytes) -> bytes:
        """One leading byte order mark, also split over chunks (9.2.5: "UTF-8 decode" drops it)."""
        rest = _BOM[self._bom :]
        if chunk.startswith(rest):
            self._bom = 3
            return chunk[len(rest) :]
        if rest.startswith(chunk):
            self._bom += len(chunk)
            return b""
        chunk = _BOM[: self._bom] + chunk
        self._bom = 3
        return chunk

    def _split_lines(self, chunk: bytes) -> list[bytes]:
        """Return the lines that the chunk completes, last first; `_tail` is what it leaves."""
        if self._bom < 3:
            chunk = self._skip_bom(chunk)
        if self._after_cr and chunk:
            # CRLF is one end-of-line, also when a chunk ends between the two.
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if not chunk:
            return []
        # For bytes, `splitlines` splits at CR, LF and CRLF and nowhere else.
        lines = chunk.splitlines()
        if chunk.endswith((b"\n", b"\r")):
            self._after_cr = chunk.endswith(b"\r")
        else:
            self._tail = lines.pop()
        if lines:
            if self._ignored:
                self._ignored = False
                del lines[0]
            elif self._line:
                lines[0] = b"".join((self._line, lines[0]))
                self._line.clear()
        lines.reverse()
        return lines

    def _dispatch_text(self, raw: bytes) -> None:
        """The ordinary event: its data, in one line, becomes text."""
        name, retry = "message", None
        if self._in_block:
            if self._id is not None:
                self._last_event_id = self._id.decode("utf-8", "replace")
            if self._event_type:
                name = self._event_type.decode("utf-8", "replace")
            retry = self._block_retry
            self._end_block()
        text = raw.decode("utf-8", "replace")
        self._events.append(_new_event(name, text, self._last_event_id, retry))

    def _dispatch(self) -> None:
        """The blank line after at least one `data` or `id` (9.2.6, "dispatch the event")."""
        lines = self._data
        event_type = self._event_type
        retry = self._block_retry
        if self._id is not None:
            self._last_event_id = self._id.decode("utf-8", "replace")
        self._end_block()
        if not lines:
            if self._lone_ids is None:
                self._lone_ids = {}
            self._lone_ids[len(self._events)] = self._last_event_id
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
        if decode is None:
            data = raw.decode("utf-8", "replace")
        else:
            try:
                data = decode(raw)
            except Exception as error:
                text = raw.decode("utf-8", "replace")
                event = _new_event(name, text, self._last_event_id, retry)
                raise DecodeError(event, self._take_events()) from error
        event = _new_event(name, data, self._last_event_id, retry)
        self._events.append(event)
        if self._until is not None and self._until(event):
            self._done = True


class DialectParser(Parser[Any]):
    """A parser that differs from the standard as its `Dialect` says: for `compat` alone.

    `last_event_id` is None where the dialect has none before the first.
    """

    __slots__ = ("_block", "_dialect", "_has_no_id")

    _every_block = True

    def __init__(
        self,
        dialect: Dialect,
        *,
        last_event_id: str | None = None,
        max_event_size: int = 16 * 2**20,
    ) -> None:
        super().__init__(last_event_id=last_event_id or "", max_event_size=max_event_size)
        dialect.check()
        self._dialect = dialect
        self._has_no_id = dialect.none_before_id and last_event_id is None

    @property
    def last_event_id(self) -> str | None:  # type: ignore[override]  # as the dialect has it
        return None if self._has_no_id else self._last_event_id

    @property
    def data_lines(self) -> list[str]:
        """The values of the block's data lines so far, complete ones only."""
        if self._size:
            # Refused: nothing is said of what there was.
            return []
        return [line.decode("utf-8", "replace") for line in self._data]

    @property
    def unfinished(self) -> int:
        """How many bytes of the line that has not ended yet are kept."""
        name, colon, _ = bytes(self._line[:6]).partition(b":")
        if name in _FIELD_NAMES if colon else any(it.startswith(name) for it in _FIELD_NAMES):
            return len(self._line)
        return 0

    def _end_block(self) -> None:
        super()._end_block()
        self._block: list[str] = []

    def _process_field(self, line: bytes) -> None:
        if self._dialect.keep_lines:
            self._block.append(line.decode("utf-8", "replace"))
        super()._process_field(line)

    def _process_retry(self, value: bytes) -> None:
        read_retry = self._dialect.read_retry
        if read_retry is None:
            super()._process_retry(value)
            return
        with suppress(ValueError):
            self._block_retry = read_retry(value.decode("utf-8", "replace"))

    def _end_chunk(self) -> None:
        if not self._dialect.keep_lines or not self._tail:
            super()._end_chunk()
            return
        # As there, but that nothing is dropped.
        self._line += self._tail
        self._tail = b""
        name, colon, _ = bytes(self._line[:6]).partition(b":")
        self._in_block |= bool(name)
        if colon and name in _FIELD_NAMES and len(self._line) + self._kept > self._max_size:
            self._raise_too_large(len(self._line) + self._kept)

    def _dispatch(self) -> None:
        """A blank line, whatever stands before it."""
        dialect = self._dialect
        data = self._data
        event_type = self._event_type
        has_id = self._id is not None
        retry = self._block_retry
        lines = self._block
        if self._id is not None:
            self._last_event_id = self._id.decode("utf-8", "replace")
            self._has_no_id = False
        self._end_block()
        if not data:
            if dialect.dispatch_values:
                if not event_type and retry is None and not self._last_event_id:
                    return
            elif not dialect.dispatch_fields or not (
                event_type is not None or has_id or retry is not None
            ):
                return
        values: list[Any] = [
            event_type.decode("utf-8", "replace") if event_type else dialect.default_event,
            b"\n".join(data).decode("utf-8", "replace"),
            None if self._has_no_id or (dialect.forget_id and not has_id) else self._last_event_id,
            retry,
        ]
        if dialect.event_class is None:
            self._events.append(_new_event(*values))
            return
        if dialect.keep_lines:
            values.append(lines)
        event: Any = object.__new__(dialect.event_class)
        for name, value in zip(dialect.attributes, values, strict=True):
            # Also where the class lets nobody set them.
            object.__setattr__(event, name, value)
        self._events.append(event)


def _read_buffer(chunk: object) -> bytes:
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
            raise BufferError("Expected a contiguous buffer, got one with gaps: feed bytes(chunk)")
        return view.tobytes()


Parser.__module__ = "sse_fast"
