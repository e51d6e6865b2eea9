# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, embedsignature=True, embedsignature.format=clinic, auto_pickle=False
"""Event and Parser in Cython: `lines.pxd` finds the values, this file makes Python objects.

The twin is `parser_py.py`: the same names in the same order, the same results to the last
attribute, and the types.
"""

import json as _json
import re
import sys
from collections.abc import Mapping
from types import GenericAlias

cimport cython
from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

from sse_fast._core.buffers cimport _get_buffer
from sse_fast._core.lines cimport (
    COMMENT, DATA_FIELD, DISPATCH, EVENT, FIELD_NAME, FIELD_VALUE, NEED_INPUT, NO_MEMORY, RETRY,
    TOO_LARGE, Scan, Step, Stream, Text,
    _begin_chunk, _end_block, _extend_data, _free_buffers, _is_at_rest, _is_one_event, _is_pending,
    _keep_block, _reset_stream, _split_lines, find_end_of_line, next_end_of_line, start_scan,
)

from sse_fast._errors import DecodeError, EventTooLarge


cdef extern from "Python.h":
    list PyList_New(Py_ssize_t size)
    void PyList_SET_ITEM(object items, Py_ssize_t at, object item)
    Py_UCS4 PyUnicode_MAX_CHAR_VALUE(object text)
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_DATA(object text)
    bint PyUnicode_IS_ASCII(object text)
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bint PyUnicode_CheckExact(object text)
    void PyObject_GC_Track(void* op)
    void PyObject_GC_UnTrack(void* op)
    int PyObject_GenericSetAttr(object instance, object name, object value) except -1
    unsigned long Py_TPFLAGS_HEAPTYPE
    ctypedef struct PyTypeObject:
        const char* tp_name
        Py_ssize_t tp_basicsize
        unsigned long tp_flags
        object (*tp_new)(type cls, tuple arguments, void* keywords)
        void (*tp_dealloc)(PyObject*)


cdef extern from "text.h":
    str decode_utf_8 "sse_fast_decode"(const uint8_t* at, Py_ssize_t length)


cdef extern from "event.h":
    ctypedef struct sse_fast_event:
        pass
    object _new_event "sse_fast_new_event"(
        PyTypeObject* cls, str event_type, object data, str id, object retry)
    void sse_fast_free_event(PyObject* event)
    list _new_list "sse_fast_new_list"(Py_ssize_t room)


# The classes go by their public names: in pickles, in repr, in messages.
(<PyTypeObject*>Event).tp_name = "sse_fast.Event"
(<PyTypeObject*>Parser).tp_name = "sse_fast.Parser"
assert (<PyTypeObject*>Event).tp_basicsize == sizeof(sse_fast_event)
# `event.h` counts no references to it.
assert not (<PyTypeObject*>Event).tp_flags & Py_TPFLAGS_HEAPTYPE
(<PyTypeObject*>Event).tp_dealloc = sse_fast_free_event

cdef object _END_OF_LINE = re.compile(r"\r\n|\n|\r")
cdef str _MESSAGE = "message"


cdef str _exact_str(str name, object value):
    if isinstance(value, str):
        # A str subclass (an enum, say) counts as the text it holds.
        return str.__str__(value)
    raise TypeError(f"Expected {name} to be a str, got {type(value).__name__}")


cdef _refuse(str name, str value, str forbidden):
    """CR and LF would end the field, NUL would make a parser ignore an id."""
    for character in forbidden:
        if character in value:
            raise ValueError(
                f"Expected {name} without {' or '.join(map(repr, forbidden))}, got {value!r}"
            )


@cython.final
cdef class Event:
    """Event(event='message', data='', id='', retry=None)
--

One event of an event stream, immutable.

    Attributes:
        event: the event type; "message" where the stream names none.
        data: the values of the data lines joined with LF, or what `decode` made of them.
        id: the last event ID in force when the event was dispatched; "" if there is none.
        retry: the reconnection time that the lines of this event set, in ms, or None.

    HTML standard, 9.2.6.
    """

    __match_args__ = ("event", "data", "id", "retry")

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, event="message", data="", id="", retry=None):
        if self.event is not None:
            raise AttributeError("Expected an Event to stay as it was made: make a new one")
        self.event = _exact_str("event", event)
        self.data = data
        self.id = _exact_str("id", id)
        self.retry = retry

    def __eq__(self, other):
        # The second class is the other core's, where a program has got hold of both.
        if type(other) is not Event and type(other) is not sys.modules["sse_fast"].Event:
            return NotImplemented
        return (
            self.event == other.event
            and self.data == other.data
            and self.id == other.id
            and self.retry == other.retry
        )

    def __hash__(self):
        return hash((self.event, self.data, self.id, self.retry))

    def __repr__(self):
        return (
            f"Event(event={self.event!r}, data={self.data!r}, "
            f"id={self.id!r}, retry={self.retry!r})"
        )

    def __reduce__(self):
        # By the public name, so that a pickle can be read where the other core runs.
        return (
            sys.modules["sse_fast"].Event,
            (self.event, self.data, self.id, self.retry),
        )

    def json(self, loads=None):
        """Return what `loads` (by default `json.loads`) makes of the data.

        What `loads` raises comes out unchanged.

        Raises:
            TypeError: `decode` has made something other than text or bytes of the data already.
        """
        if not isinstance(self.data, (str, bytes, bytearray)):
            raise TypeError(
                f"Expected the data of the event as text, got {type(self.data).__name__}: "
                "decode has read it already"
            )
        return (_json.loads if loads is None else loads)(self.data)

    def encode(self):
        """Return the event as the lines of an event stream, the blank line included.

        A parser makes the same event of it. Every CR, LF or CRLF in `data` starts a new data
        line, so that it comes back as LF. An `event` of "message" and an empty `id` have no line.

        Raises:
            TypeError: `data` is not a str.
            ValueError: `event` or `id` holds a CR or LF (it would inject a field), `id` a NUL (a
                parser would ignore it), `event` is empty, or `retry` is not an int from 0 to
                2**63 - 1.
        """
        if not isinstance(self.data, str):
            raise TypeError(
                f"Expected the data of the event to be a str, got {type(self.data).__name__}: "
                "only text can be sent"
            )
        lines = []
        if self.event != "message":
            if not self.event:
                raise ValueError(
                    "Expected an event type, got '': an event without one is 'message'"
                )
            _refuse("event", self.event, "\r\n")
            lines.append(f"event: {self.event}\n")
        if self.id:
            _refuse("id", self.id, "\r\n\0")
            lines.append(f"id: {self.id}\n")
        if self.retry is not None:
            if type(self.retry) is not int or not 0 <= self.retry <= INT64_MAX:
                raise ValueError(
                    f"Expected retry to be an int from 0 to 2**63 - 1 (ms), got {self.retry!r}"
                )
            lines.append(f"retry: {self.retry}\n")
        lines.extend([f"data: {line}\n" for line in _END_OF_LINE.split(self.data)])
        lines.append("\n")
        return "".join(lines).encode()


cdef inline str _new_text(const Text* text):
    cdef str result
    if text.non_ascii or text.length < 2:
        return decode_utf_8(text.at, text.length)
    result = PyUnicode_New(text.length, 127)
    memcpy(PyUnicode_DATA(result), text.at, text.length)
    return result


cdef class Parser:
    """Parser(*, last_event_id='', max_event_size=16777216, on_comment=None, decode=None, until=None)
--

An incremental parser of one event stream: bytes in any pieces in, events out.

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

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self):
        memset(&self._stream, 0, sizeof(Stream))
        self._stream.retry = -1

    def __dealloc__(self):
        _reset_stream(&self._stream)

    def __init__(
        self,
        *,
        last_event_id="",
        max_event_size=16 * 2**20,
        on_comment=None,
        decode=None,
        until=None,
    ):
        if self._busy:
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
        self._decode = None
        self._decode_types = None
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
        self._until = None
        self._until_data = None
        if isinstance(until, str):
            self._until_data = until.encode()
        elif until is None or callable(until):
            self._until = until
        else:
            raise TypeError(
                f"Expected until to be a str, callable or None, got {type(until).__name__}"
            )
        self._has_options = decode is not None or until is not None
        self._stream.hand_out_data = not self._has_options
        self._stream.max_size = min(max_event_size, INT64_MAX)
        self._stream.keep_comments = on_comment is not None
        self._stream.retry = -1
        self._on_comment = on_comment
        self._last_event_id = last_event_id
        self._event_type = _MESSAGE
        self.reset()

    def __reduce__(self):
        raise TypeError("cannot pickle 'sse_fast.Parser' object")

    @property
    def last_event_id(self):
        """The last event ID: what the latest blank line committed, "" if there is none."""
        return self._last_event_id

    @property
    def retry(self):
        """The reconnection time in ms, in force from the line that sets it; None: never set.

        Values beyond 2**63 - 1 count as that.
        """
        return None if self._stream.retry < 0 else self._stream.retry

    @property
    def pending(self):
        """Whether a byte of something other than a comment came since the last blank line.

        At the end of a stream: whether it was cut off within an event.
        """
        return _is_pending(&self._stream)

    @property
    def done(self):
        """Whether `until` was met; what is fed from then on is ignored."""
        return self._done

    def reset(self):
        """Get ready for a new connection: only `last_event_id`, `retry` and the settings stay.

        Raises:
            RuntimeError: called from a callback of `feed`.
        """
        if self._busy:
            raise RuntimeError("Expected reset() outside of feed(), got it within")
        _reset_stream(&self._stream)
        self._events = None
        self._lone_ids = None
        self._rest = None
        self._refusal = NEED_INPUT
        self._done = False
        self._is_ordinary = False

    def feed(self, chunk, /):
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
        cdef Py_buffer view
        if type(chunk) is bytes:
            return self._feed(<const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
        _get_buffer(chunk, &view)
        try:
            if self._calls_back():
                # A callback could write into the buffer while values refer to it, also where this
                # view of it is read-only.
                chunk = PyBytes_FromStringAndSize(<char*>view.buf, view.len)
                return self._feed(<const uint8_t*>PyBytes_AS_STRING(chunk), view.len)
            return self._feed(<const uint8_t*>view.buf, view.len)
        finally:
            PyBuffer_Release(&view)

    @cython.final
    cdef inline list _feed(self, const uint8_t* at, Py_ssize_t length):
        """The chunks that servers flush and networks cut, the short way; the others by `_read`."""
        cdef Text event_type
        cdef Text data
        if self._is_ordinary:
            if _is_at_rest(&self._stream):
                if _is_one_event(&self._stream, &event_type, &data, at, at + length):
                    return [_new_event(
                        <PyTypeObject*>Event,
                        self._new_event_type(&event_type) if event_type.length else _MESSAGE,
                        _new_text(&data), self._last_event_id, None)]
            elif _extend_data(&self._stream, at, at + length):
                return []
        return self._read(at, length)

    @cython.final
    cdef list _read(self, const uint8_t* at, Py_ssize_t length):
        cdef const uint8_t* end = at + length
        cdef bytearray rest
        cdef bint is_parsed = False
        self._is_ordinary = False
        if self._busy:
            raise RuntimeError(
                "Expected one feed() at a time, got a second one within the first: "
                "a parser serves one stream and one thread"
            )
        if self._refusal == TOO_LARGE:
            raise EventTooLarge(self._stream.size, self._stream.max_size)
        if self._refusal == NO_MEMORY:
            raise MemoryError("Expected reset() before more input: memory ran out within an event")
        if self._done:
            return []
        self._lone_ids = None
        rest = self._rest
        if rest is not None:
            rest += PyBytes_FromStringAndSize(<const char*>at, length)
            self._rest = None
            length = len(rest)
            at = <const uint8_t*>PyByteArray_AS_STRING(rest)
            end = at + length
        # Room for as many as there are if this chunk is like the one before; no more than may be
        # wasted if it is not.
        self._room = 1
        if length >= 4096 and self._spacing > 0:
            self._room += min(length // self._spacing, 1000)
        self._busy = True
        # `finally` alone: a clause that catches makes Cython save and restore, at each feed, what
        # exception is being handled.
        try:
            self._parse(&at, end)
            is_parsed = True
        finally:
            self._busy = False
            if not is_parsed and self._refusal == NEED_INPUT:
                self._keep_rest(rest, at, end)
            if self._done or self._refusal != NEED_INPUT:
                _free_buffers(&self._stream)
        self._is_ordinary = (
            not self._done and self._lone_ids is None and not self._stream.every_block)
        if length >= 4096 and self._events is not None:
            self._spacing = length // len(self._events)
        return self._take_events()

    @cython.final
    cdef int _keep_rest(self, bytearray rest, const uint8_t* at, const uint8_t* end) except -1:
        """What an exception left of a chunk, for the next feed; `rest` has it, if it came so."""
        # Until it is there.
        self._refusal = NO_MEMORY
        if not _keep_block(&self._stream):
            raise MemoryError()
        if rest is None:
            rest = bytearray(PyBytes_FromStringAndSize(<const char*>at, end - at))
        else:
            # Cheap: a bytearray moves its start, not its bytes.
            del rest[:len(rest) - (end - at)]
        self._rest = rest
        self._refusal = NEED_INPUT
        return 0

    cdef bint _calls_back(self):
        return not (self._on_comment is None and self._decode is None
                    and self._decode_types is None and self._until is None)

    @cython.final
    cdef inline list _take_events(self):
        cdef list events = self._events
        self._events = None
        return [] if events is None else events

    cdef int _parse(self, const uint8_t** at, const uint8_t* end) except -1:
        cdef Step step
        cdef Scan scan
        _begin_chunk(&self._stream, &scan, at, end)
        while True:
            step = _split_lines(&self._stream, &scan, at, end)
            if step == NEED_INPUT:
                return 0
            if step == EVENT:
                self._dispatch_text()
            elif step == DISPATCH:
                self._dispatch()
                if self._done:
                    return 0
            else:
                self._attend_to(step)

    cdef int _attend_to(self, Step step) except -1:
        if step == COMMENT:
            self._on_comment(_new_text(&self._stream.handed_out))
            return 0
        self._refusal = step
        if step == TOO_LARGE:
            raise EventTooLarge(self._stream.size, self._stream.max_size, self._take_events())
        raise MemoryError()

    @cython.final
    cdef inline int _dispatch_text(self) except -1:
        """The ordinary event: `handed_out` is its data, and becomes text.

        Typed events take 7 to 10 % less time than by `_dispatch`, which is prepared for more.
        """
        cdef Stream* stream = &self._stream
        cdef Text event_type
        cdef Text id
        cdef bint has_id
        cdef int64_t milliseconds
        cdef str type_text = _MESSAGE
        cdef object retry = None
        if stream.in_block:
            event_type = stream.event_type
            id = stream.id
            has_id = stream.has_id
            milliseconds = stream.block_retry
            # The block is over whatever raises; the bytes of its values stay in place.
            _end_block(stream)
            if has_id:
                self._last_event_id = _new_text(&id)
            if event_type.length:
                type_text = self._new_event_type(&event_type)
            if milliseconds >= 0:
                retry = milliseconds
        self._add_event(_new_event(
            <PyTypeObject*>Event, type_text, _new_text(&stream.handed_out), self._last_event_id,
            retry))
        return 0

    cdef int _dispatch(self) except -1:
        """The blank line after at least one `data` or `id` (9.2.6, "dispatch the event")."""
        cdef Stream* stream = &self._stream
        cdef Text data = stream.data
        cdef Text event_type = stream.event_type
        cdef Text id = stream.id
        cdef bint has_data = stream.has_data
        cdef bint has_id = stream.has_id
        cdef int64_t milliseconds = stream.block_retry
        # The block is over whatever raises; the bytes of its values stay in place.
        _end_block(stream)
        if has_id:
            self._last_event_id = _new_text(&id)
        if has_data:
            self._dispatch_by_options(
                &data,
                self._new_event_type(&event_type) if event_type.length else _MESSAGE,
                milliseconds if milliseconds >= 0 else None)
        else:
            if self._lone_ids is None:
                self._lone_ids = {}
            self._lone_ids[0 if self._events is None else len(self._events)] = self._last_event_id
        return 0

    @cython.final
    cdef inline int _add_event(self, object event) except -1:
        if self._events is None:
            self._events = _new_list(self._room)
        self._events.append(event)
        return 0

    cdef int _dispatch_by_options(
            self, const Text* raw_data, str event_type, object retry) except -1:
        """The same with `decode` and `until`."""
        cdef object data
        cdef object decode
        cdef Event event
        if (self._until_data is not None
                and raw_data.length == <size_t>PyBytes_GET_SIZE(self._until_data)
                and (raw_data.length == 0
                     or memcmp(raw_data.at, PyBytes_AS_STRING(self._until_data),
                               raw_data.length) == 0)):
            self._done = True
            return 0
        decode = self._decode
        if self._decode_types is not None:
            decode = self._decode_types.get(event_type)
        if decode is None:
            data = _new_text(raw_data)
        else:
            # One copy, as bytes are what every decoder takes. A view of 330 bytes takes longer to
            # make (267 against 103 ns); of 1 MiB, the copy is half a per cent of orjson's time.
            raw = PyBytes_FromStringAndSize(<const char*>raw_data.at, raw_data.length)
            try:
                data = decode(raw)
            except Exception as error:
                text = raw.decode("utf-8", "replace")
                event = _new_event(
                    <PyTypeObject*>Event, event_type, text, self._last_event_id, retry)
                raise DecodeError(event, self._take_events()) from error
        event = _new_event(<PyTypeObject*>Event, event_type, data, self._last_event_id, retry)
        self._add_event(event)
        if self._until is not None and self._until(event):
            self._done = True
        return 0

    @cython.final
    cdef inline str _new_event_type(self, const Text* text):
        cdef str latest = self._event_type
        if text.length > 64:
            # Not worth to be remembered while the connection is idle.
            return _new_text(text)
        if (PyUnicode_IS_ASCII(latest)
                and text.length == <size_t>PyUnicode_GET_LENGTH(latest)
                and memcmp(PyUnicode_DATA(latest), text.at, text.length) == 0):
            return latest
        self._event_type = _new_text(text)
        return self._event_type


cdef list feed_bytes(Parser parser, const uint8_t* at, Py_ssize_t length):
    return parser._feed(at, length)


cdef tuple _NO_ARGUMENTS = ()


@cython.final
cdef class DialectParser(Parser):
    """A parser that differs from the standard as its `Dialect` says: for `compat` alone.

    `last_event_id` is None where the dialect has none before the first.
    """

    cdef object _event_class
    cdef tuple _attributes
    cdef object _default_event
    cdef bint _dispatch_fields
    cdef bint _dispatch_values
    cdef bint _forget_id
    cdef object _read_retry
    cdef bint _keep_lines
    cdef bint _has_no_id        # `id` is None as yet
    cdef object _retry          # what `_read_retry` made of this block's
    # Only with `_keep_lines`: the block's bytes, less those of this chunk, `_start` to `_cursor`.
    cdef bytearray _block
    cdef const uint8_t* _start
    cdef const uint8_t** _cursor
    cdef bint _is_first_block   # it may begin with the byte order mark

    def __init__(self, dialect, *, last_event_id=None, max_event_size=16 * 2**20):
        Parser.__init__(self, last_event_id=last_event_id or "", max_event_size=max_event_size)
        dialect.check()
        self._event_class = dialect.event_class
        self._attributes = tuple(map(sys.intern, dialect.attributes))
        self._default_event = dialect.default_event
        self._dispatch_fields = dialect.dispatch_fields
        self._dispatch_values = dialect.dispatch_values
        self._forget_id = dialect.forget_id
        self._read_retry = dialect.read_retry
        self._keep_lines = dialect.keep_lines and dialect.event_class is not None
        self._has_no_id = dialect.none_before_id and last_event_id is None
        self._stream.keep_retries = dialect.read_retry is not None
        self._stream.every_block = True
        self._stream.hand_out_data = False

    cdef bint _calls_back(self):
        # Setting attributes may do anything.
        return self._read_retry is not None or self._event_class is not None

    @property
    def last_event_id(self):
        return None if self._has_no_id else self._last_event_id

    @property
    def data_lines(self):
        """The values of the block's data lines so far, complete ones only."""
        cdef list lines
        # After a refusal, the chunk that the values lie in may be gone.
        if self._refusal != NEED_INPUT or not self._stream.has_data:
            return []
        lines = _new_text(&self._stream.data).split("\n")
        if self._stream.place == FIELD_VALUE and self._stream.field == DATA_FIELD:
            lines.pop()
        return lines

    @property
    def unfinished(self):
        """How many bytes of the line that has not ended yet are kept."""
        if self._stream.place == FIELD_NAME or self._stream.place == FIELD_VALUE:
            return self._stream.line_length
        return 0

    def reset(self):
        Parser.reset(self)
        self._retry = None
        self._block = bytearray()
        self._is_first_block = True

    cdef int _parse(self, const uint8_t** at, const uint8_t* end) except -1:
        self._start = at[0]
        self._cursor = at
        try:
            return Parser._parse(self, at, end)
        finally:
            if self._keep_lines:
                self._keep_bytes()

    cdef int _keep_bytes(self) except -1:
        """Add what was read since the last call to the block's bytes."""
        self._block += PyBytes_FromStringAndSize(
            <const char*>self._start, self._cursor[0] - self._start)
        self._start = self._cursor[0]
        return 0

    cdef int _attend_to(self, Step step) except -1:
        if step != RETRY:
            return Parser._attend_to(self, step)
        try:
            self._retry = self._read_retry(_new_text(&self._stream.handed_out))
        except ValueError:
            pass
        return 0

    cdef list _take_lines(self):
        """The text of the block's lines; what comes next is another block's."""
        cdef const uint8_t* at = self._start
        cdef const uint8_t* end = self._cursor[0]
        cdef const uint8_t* line_end
        cdef bytearray block = self._block
        cdef list lines = []
        cdef Text line
        if len(block):
            # It began in an earlier chunk.
            self._keep_bytes()
            self._block = bytearray()
            at = <const uint8_t*>PyByteArray_AS_STRING(block)
            end = at + len(block)
        self._start = self._cursor[0]
        if self._is_first_block and end - at >= 3 and memcmp(at, b"\xef\xbb\xbf", 3) == 0:
            at += 3
        self._is_first_block = False
        while at < end:
            line.non_ascii = 0
            line_end = find_end_of_line(at, end, &line.non_ascii)
            if line_end > at:
                line.at = at
                line.length = line_end - at
                lines.append(_new_text(&line))
            at = line_end + 1
        return lines

    cdef int _dispatch(self) except -1:
        """A blank line, whatever stands before it."""
        cdef Stream* stream = &self._stream
        cdef Text raw_data = stream.data
        cdef Text raw_type = stream.event_type
        cdef Text raw_id = stream.id
        cdef bint has_data = stream.has_data
        cdef bint has_event_type = stream.has_event_type
        cdef bint has_id = stream.has_id
        cdef object event
        cdef object event_type = self._default_event
        cdef object data
        cdef object id
        cdef object retry = self._retry
        cdef list lines = self._take_lines() if self._keep_lines else None
        if self._read_retry is None and stream.block_retry >= 0:
            retry = stream.block_retry
        _end_block(stream)
        self._retry = None
        if has_id:
            self._last_event_id = _new_text(&raw_id)
            self._has_no_id = False
        if not has_data:
            if self._dispatch_values:
                if raw_type.length == 0 and retry is None and not self._last_event_id:
                    return 0
            elif not self._dispatch_fields or not (
                    has_event_type or has_id or retry is not None):
                return 0
        data = _new_text(&raw_data)
        if raw_type.length:
            event_type = self._new_event_type(&raw_type)
        if self._has_no_id or (self._forget_id and not has_id):
            id = None
        else:
            id = self._last_event_id
        if self._event_class is None:
            event = _new_event(<PyTypeObject*>Event, event_type, data, id, retry)
            if self._read_retry is not None:
                # Whatever that has made may refer to the event.
                PyObject_GC_Track(<void*>event)
        else:
            event = (<PyTypeObject*>object).tp_new(
                <type>self._event_class, _NO_ARGUMENTS, NULL)
            PyObject_GenericSetAttr(event, self._attributes[0], event_type)
            PyObject_GenericSetAttr(event, self._attributes[1], data)
            PyObject_GenericSetAttr(event, self._attributes[2], id)
            PyObject_GenericSetAttr(event, self._attributes[3], retry)
            if lines is not None:
                PyObject_GenericSetAttr(event, self._attributes[4], lines)
        if self._events is None:
            self._events = [event]
        else:
            self._events.append(event)
        return 0


include "_floor.pxi"
