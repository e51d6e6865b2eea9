# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, embedsignature=True, embedsignature.format=clinic, auto_pickle=False
"""Event and Parser in Cython: `lines.pxd` finds the values, this file makes Python objects of them.

`parser_py.py` is the same in plain Python: the reference, and the types of both. The stages have
the same names in both: `_split_lines`, `_process_field`, `_end_block`, `_dispatch`.
"""

import sys
from types import GenericAlias

cimport cython
from cpython.buffer cimport Py_buffer, PyBuffer_Release
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, int64_t, uint8_t
from libc.string cimport memcmp, memset

from sse_fast._core.buffers cimport _get_buffer
from sse_fast._core.lines cimport (
    COMMENT, DISPATCH, EXTEND_DATA, NEED_INPUT, NO_MEMORY, NO_SHORTCUT, READ_ONE_EVENT, TOO_LARGE,
    LineState, Scan, Step, Text, _begin_chunk, _end_block, _extend_data, _find_shortcut,
    _free_buffers, _is_between_blocks, _is_pending, _next_step, _own_block, _put_block_back,
    _read_block, _read_one_event, _repeat_blank_line, _reset_stream, _take_block,
)

from sse_fast._core import options as _options
from sse_fast._errors import DecodeError, EventTooLarge


cdef extern from "Python.h":
    void* PyUnicode_DATA(PyObject* text)
    bint PyUnicode_IS_ASCII(PyObject* text)
    Py_ssize_t PyUnicode_GET_LENGTH(PyObject* text)
    void Py_INCREF(PyObject*)
    void Py_DECREF(PyObject*)
    unsigned long Py_TPFLAGS_HEAPTYPE
    ctypedef struct PyTypeObject:
        const char* tp_name
        Py_ssize_t tp_basicsize
        unsigned long tp_flags
        PyObject* (*tp_alloc)(PyTypeObject* cls, Py_ssize_t count)
        void (*tp_dealloc)(PyObject*)


cdef extern from "text.h":
    str _make_text "sse_fast_new_text"(const uint8_t* at, Py_ssize_t length, bint non_ascii)
    # Without Cython's check for NULL.
    PyObject* _try_text "sse_fast_new_text"(const uint8_t* at, Py_ssize_t length, bint non_ascii)
    int _prepare_text "sse_fast_prepare_text"() except -1


cdef extern from "event.h":
    ctypedef struct sse_fast_event:
        pass
    object _new_event "sse_fast_new_event"(
        PyTypeObject* cls, object event_type, object data, object id, object retry)
    PyObject* sse_fast_alloc_event(PyTypeObject* cls, Py_ssize_t count)
    void sse_fast_free_event(PyObject* event)
    void _track_event "sse_fast_track_event"(sse_fast_event* event)
    list _new_list "sse_fast_new_list"(Py_ssize_t capacity)
    object _checked "sse_fast_checked"(PyObject* made)
    list _checked_list "sse_fast_checked"(PyObject* made)
    str _checked_text "sse_fast_checked"(PyObject* made)
    # Without Cython's check for NULL: the caller first puts the block back.
    PyObject* _try_text_event "sse_fast_new_text_event"(
        PyTypeObject* cls, PyObject* event_type, const uint8_t* at, size_t length,
        bint non_ascii, PyObject* id)
    PyObject* _try_list "sse_fast_new_list"(Py_ssize_t capacity)
    PyObject* _try_list_of "sse_fast_list_of"(PyObject* event)
    int _try_append "sse_fast_append"(PyObject* list, PyObject* event)


# Pickles, reprs and messages show the public names.
(<PyTypeObject*>Event).tp_name = "sse_fast.Event"
(<PyTypeObject*>Parser).tp_name = "sse_fast.Parser"
# `event.h` allocates Events itself: with another size, or with a type whose references instances
# count, it would corrupt memory.
if (<PyTypeObject*>Event).tp_basicsize != sizeof(sse_fast_event):
    raise ImportError("sse_fast.Event has another size than event.h expects: build it again")
if (<PyTypeObject*>Event).tp_flags & Py_TPFLAGS_HEAPTYPE:
    raise ImportError("sse_fast.Event is a heap type, which event.h does not support")
(<PyTypeObject*>Event).tp_alloc = sse_fast_alloc_event
(<PyTypeObject*>Event).tp_dealloc = sse_fast_free_event
_prepare_text()

cdef str _MESSAGE = "message"
cdef frozenset _NO_TYPES = _options.NO_TYPES


@cython.final
cdef class Event:
    """Event(event='message', data='', id='', retry=None)
--

One event of an event stream, immutable.

    Attributes:
        event: the event type; "message" where the stream names none.
        data: the values of the data lines joined with LF, or the result of `decode`.
        id: the last event ID in force when the event was dispatched; "" if none is set.
        retry: the reconnection time that the lines of this event set, in ms, or None.

    HTML standard, 9.2.6.
    """

    __match_args__ = ("event", "data", "id", "retry")

    __class_getitem__ = classmethod(GenericAlias)

    def __init__(self, event="message", data="", id="", retry=None):
        if type(event) is not str:
            event = _options.exact_str("event", event)
        if type(id) is not str:
            id = _options.exact_str("id", id)
        # Asked last: the lines before may run a property `__class__`, which could call this, too.
        if self.event is not None:
            raise AttributeError("Event is immutable: create a new one")
        self.event = event
        self.data = data
        self.id = id
        self.retry = retry
        _track_event(<sse_fast_event*><PyObject*>self)

    def __eq__(self, other):
        # The second class is the other core's, if a program uses both.
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
        # The public name lets the other core read the pickle.
        return (
            sys.modules["sse_fast"].Event,
            (self.event, self.data, self.id, self.retry),
        )

    json = _options.json
    encode = _options.encode


cdef object new_event(object event_type, object data, object id, object retry):
    return _new_event(<PyTypeObject*>Event, event_type, data, id, retry)


cdef inline str _new_text(const Text* text):
    return _make_text(text.at, text.length, text.non_ascii)


cdef str new_text(const Text* text):
    return _new_text(text)


cdef class Parser:
    """Parser(*, last_event_id='', max_event_size=16777216, on_comment=None, decode=None, until=None, until_event=())
--

An incremental parser of one event stream: bytes in any pieces in, events out.

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

    __class_getitem__ = classmethod(GenericAlias)

    def __cinit__(self):
        memset(&self._state, 0, sizeof(LineState))
        self._state.retry = -1
        self._event_type = _MESSAGE
        self._until_types = _NO_TYPES

    def __dealloc__(self):
        _reset_stream(&self._state)

    def __init__(
        self,
        *,
        last_event_id="",
        max_event_size=16 * 2**20,
        on_comment=None,
        decode=None,
        until=None,
        until_event=(),
    ):
        if self._is_initialized:
            raise RuntimeError("Parser is initialized already: create a new one, or call reset()")
        (self._last_event_id, self._decode, self._decode_types, self._until, self._until_data,
         self._until_types) = _options.check_options(
            last_event_id, max_event_size, on_comment, decode, until, until_event)
        self._on_comment = on_comment
        self._has_options = decode is not None or until is not None or bool(self._until_types)
        self._has_callbacks = self._has_options or on_comment is not None
        self._state.max_size = min(max_event_size, INT64_MAX)
        self._state.emit_comments = on_comment is not None
        self._state.emit_types = bool(self._until_types)
        self.reset()
        self._is_initialized = True

    def __reduce__(self):
        raise TypeError("cannot pickle 'sse_fast.Parser' object")

    @property
    def last_event_id(self):
        """The last event ID that a blank line committed; "" before the first."""
        return self._last_event_id

    @property
    def retry(self):
        """The reconnection time in ms, in force as soon as its line is read; None: never set.

        Values beyond 2**63 - 1 count as that.
        """
        return None if self._state.retry < 0 else self._state.retry

    @property
    def pending(self):
        """Whether a byte of something other than a comment came since the last blank line.

        At the end of a stream: whether it was cut off within an event.
        """
        return _is_pending(&self._state)

    @property
    def done(self):
        """Whether `until` or `until_event` was met; chunks fed after that are ignored."""
        return self._done

    @property
    def _completed(self):
        """The number of events that the running `feed` has completed, for `on_comment`."""
        return 0 if self._events is None else len(self._events)

    def reset(self):
        """Prepare for a new connection: only `last_event_id`, `retry` and the settings stay.

        Raises:
            RuntimeError: called from a callback of `feed`.
        """
        if self._is_feeding:
            raise RuntimeError("reset() was called within feed(): call it after feed() returned")
        _reset_stream(&self._state)
        self._events = None
        self._lone_ids = None
        self._rest = None
        self._refusal = NEED_INPUT
        self._done = False
        self._shortcut = NO_SHORTCUT

    def feed(self, chunk, /):
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
        if type(chunk) is bytes:
            return _feed(self, <const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
        return feed_buffer(self, chunk)

    cdef int _parse(self, const uint8_t** cursor, const uint8_t* end) except -1:
        cdef LineState* state = &self._state
        cdef Step step
        cdef Scan scan
        cdef Text event_type
        cdef Text id
        cdef Text data
        cdef int64_t retry
        cdef bint is_between_blocks
        _begin_chunk(state, &scan, cursor, end)
        is_between_blocks = _is_between_blocks(state)
        while True:
            if is_between_blocks and _read_block(
                    state, &scan, cursor, end, &event_type, &id, &data):
                retry = -1
            else:
                step = _next_step(state, &scan, cursor, end)
                if step == NEED_INPUT:
                    return 0
                if step == COMMENT:
                    self._on_comment(_new_text(&state.emitted))
                    is_between_blocks = _is_between_blocks(state)
                    continue
                if step != DISPATCH:
                    self._raise_refusal(step)
                is_between_blocks = True
                if not state.has_data:
                    if self._dispatch_without_data(cursor):
                        return 0
                    continue
                _take_block(state, &event_type, &id, &data, &retry)
            if _dispatch(self, cursor, &event_type, &id, &data, retry):
                return 0

    cdef int _raise_refusal(self, Step step) except -1:
        self._refusal = step
        if step == TOO_LARGE:
            _raise_too_large(self)
        raise MemoryError()

    @cython.final
    cdef int _dispatch_without_data(self, const uint8_t** cursor) except -1:
        """Commit the id of a block without data; return whether its type meets `until_event`."""
        cdef LineState* state = &self._state
        cdef str id
        cdef str event_type = _MESSAGE
        cdef bint is_last = False
        cdef bint is_ended = False
        try:
            # A block without data has a type only if it names one: heartbeats end no stream.
            if state.emit_types and state.has_event_type:
                if state.event_type.length:
                    event_type = _new_event_type(self, &state.event_type)
                is_last = event_type in self._until_types
            if state.has_id:
                id = _new_text(&state.id)
                if self._lone_ids is None:
                    self._lone_ids = {}
                self._lone_ids[0 if self._events is None else len(self._events)] = id
                self._last_event_id = id
            _end_block(state)
            is_ended = True
        finally:
            if not is_ended:
                _repeat_blank_line(state, cursor)
        self._done = is_last
        return is_last

    @cython.final
    cdef int _dispatch_by_options(
            self, const uint8_t** cursor, const Text* raw_type, const Text* id,
            const Text* raw_data, int64_t milliseconds) except -1:
        """Dispatch an event with `decode`, `until` and `retry`; return whether `until` is met."""
        cdef object data
        cdef object decode
        cdef object event
        cdef str event_type = _MESSAGE
        cdef object retry = None
        cdef str previous_id = self._last_event_id
        cdef bint is_last = False
        cdef bint is_dispatched = False
        try:
            if raw_type.length:
                event_type = _new_event_type(self, raw_type)
            if milliseconds >= 0:
                retry = milliseconds
            # Set first, as the callbacks may ask for it.
            if id.at != NULL:
                self._last_event_id = _new_text(id)
            if (self._until_data is not None
                    and raw_data.length == <size_t>PyBytes_GET_SIZE(self._until_data)
                    and (raw_data.length == 0
                         or memcmp(raw_data.at, PyBytes_AS_STRING(self._until_data),
                                   raw_data.length) == 0)):
                is_dispatched = True
                self._done = True
                return True
            decode = self._decode
            if self._decode_types is not None:
                decode = self._decode_types.get(event_type)
            if decode is None:
                data = _new_text(raw_data)
            else:
                # A copy as bytes, which every decoder takes: 103 ns for 330 bytes, a view takes 267.
                raw = PyBytes_FromStringAndSize(<const char*>raw_data.at, raw_data.length)
                try:
                    data = decode(raw)
                except MemoryError:
                    raise
                except Exception as error:
                    decode_error = DecodeError(
                        new_event(event_type, raw.decode("utf-8", "replace"),
                                  self._last_event_id, retry),
                        () if self._events is None else self._events)
                    # The error has the events before its own, which is dropped.
                    self._events = None
                    is_dispatched = True
                    self._done = self._state.emit_types and event_type in self._until_types
                    raise decode_error from error
            event = new_event(event_type, data, self._last_event_id, retry)
            if self._state.emit_types and event_type in self._until_types:
                is_last = True
            elif self._until is not None:
                try:
                    is_last = bool(self._until(event))
                except MemoryError:
                    raise
                except Exception:
                    add_event(self, event)
                    is_dispatched = True
                    raise
            add_event(self, event)
            is_dispatched = True
        finally:
            if not is_dispatched:
                self._last_event_id = previous_id
                _put_block_back(&self._state, cursor, raw_type, id, raw_data, milliseconds)
        self._done = is_last
        return is_last


cdef list feed_buffer(Parser self, object chunk):
    cdef Py_buffer view
    cdef bint has_view = False
    try:
        _get_buffer(chunk, &view)
        has_view = True
        if self._has_callbacks:
            # A callback could write into the buffer, even if this view of it is read-only.
            chunk = PyBytes_FromStringAndSize(<char*>view.buf, view.len)
    except BaseException as error:
        if has_view:
            PyBuffer_Release(&view)
        # Other exceptions say that the chunk is no buffer.
        if not self._is_feeding and (
                isinstance(error, MemoryError) or not isinstance(error, Exception)):
            self._refusal = NO_MEMORY
            self._shortcut = NO_SHORTCUT
        raise
    try:
        if self._has_callbacks:
            return _feed(self, <const uint8_t*>PyBytes_AS_STRING(chunk), view.len)
        return _feed(self, <const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef int _raise_too_large(Parser self) except -1:
    cdef object error = EventTooLarge(
        self._state.size, self._state.max_size, () if self._events is None else self._events)
    self._events = None
    raise error


cdef inline list _feed(Parser self, const uint8_t* at, Py_ssize_t length):
    if self._shortcut == EXTEND_DATA and _extend_data(&self._state, at, at + length):
        return []
    if self._shortcut == READ_ONE_EVENT:
        return _feed_one_event(self, at, length)
    return _read(self, at, length)


cdef list _feed_one_event(Parser self, const uint8_t* at, Py_ssize_t length):
    """Fast path: a chunk between two blocks that is one whole event."""
    cdef Text event_type
    cdef Text id
    cdef Text data
    cdef PyObject* new_id = NULL
    cdef PyObject* id_text = <PyObject*>self._last_event_id
    cdef PyObject* events = NULL
    if not _read_one_event(&self._state, &event_type, &id, &data, at, at + length):
        return _read(self, at, length)
    if id.at != NULL:
        id_text = new_id = _try_text(id.at, id.length, id.non_ascii)
    if id_text != NULL:
        events = _try_list_of(_try_text_event(
            <PyTypeObject*>Event,
            _try_event_type(self, event_type.at, event_type.length, event_type.non_ascii),
            data.at, data.length, data.non_ascii, id_text))
    if events == NULL:
        if new_id != NULL:
            Py_DECREF(new_id)
        _keep_chunk(self, at, at + length)
    elif new_id != NULL:
        # Only now nothing can fail any more.
        self._last_event_id = _checked_text(new_id)
    return _checked_list(events)


cdef list _read(Parser self, const uint8_t* at, Py_ssize_t length):
    cdef const uint8_t* end = at + length
    cdef bytearray rest
    cdef bint is_parsed = False
    self._shortcut = NO_SHORTCUT
    if self._is_feeding:
        raise RuntimeError(
            "feed() was called within feed(): "
            "a parser serves one stream and one thread at a time"
        )
    if self._refusal == TOO_LARGE:
        _raise_too_large(self)
    if self._refusal == NO_MEMORY:
        raise MemoryError(
            "feed() was interrupted within an event: call reset() before feeding more")
    if self._done:
        return _take_events(self)
    if self._events is None:
        self._lone_ids = None
    rest = self._rest
    if rest is not None:
        # In force if there is no memory for the chunk.
        self._refusal = NO_MEMORY
        rest += PyBytes_FromStringAndSize(<const char*>at, length)
        self._refusal = NEED_INPUT
        self._rest = None
        length = len(rest)
        at = <const uint8_t*>PyByteArray_AS_STRING(rest)
        end = at + length
    # The number of events if this chunk is like the latest; bounded, as the room may be wasted.
    self._capacity = 1
    if length >= 4096 and self._bytes_per_event > 0:
        self._capacity += min(length // self._bytes_per_event, 1000)
    self._is_feeding = True
    # An `except` clause would make Cython save and restore the handled exception at each feed.
    try:
        self._parse(&at, end)
        is_parsed = True
    finally:
        self._is_feeding = False
        if not is_parsed and self._refusal == NEED_INPUT:
            _save_rest(self, rest, at, end)
        if self._done or self._refusal != NEED_INPUT:
            _free_buffers(&self._state)
    if not self._done and self._lone_ids is None:
        self._shortcut = _find_shortcut(&self._state, self._has_options)
    if length >= 4096 and self._events is not None:
        self._bytes_per_event = length // len(self._events)
    return _take_events(self)


cdef int _keep_chunk(Parser self, const uint8_t* at, const uint8_t* end) except -1:
    """Raise the exception that is set, and save the whole chunk for the next feed."""
    self._shortcut = NO_SHORTCUT
    try:
        _checked(NULL)
    finally:
        _save_rest(self, None, at, end)


cdef int _save_rest(Parser self, bytearray rest, const uint8_t* at, const uint8_t* end) except -1:
    """Save what an exception left of a chunk for the next feed; it is the end of `rest`, if any.
    """
    # In force if this fails.
    self._refusal = NO_MEMORY
    if not _own_block(&self._state):
        raise MemoryError()
    if rest is None:
        rest = PyByteArray_FromStringAndSize(<const char*>at, end - at)
    else:
        # Cheap: a bytearray moves its start, not its bytes.
        del rest[:len(rest) - (end - at)]
    self._rest = rest
    self._refusal = NEED_INPUT
    return 0


cdef inline list _take_events(Parser self):
    cdef list events = self._events
    self._events = None
    return [] if events is None else events


cdef inline int _dispatch(
        Parser self, const uint8_t** cursor, const Text* event_type, const Text* id,
        const Text* data, int64_t milliseconds) except -1:
    """Dispatch an event (9.2.6, "dispatch the event"); return whether `until` is met.

    If there is no memory, the block is put back: the next `feed` dispatches it again.
    """
    cdef PyObject* event
    cdef PyObject* new_id = NULL
    cdef PyObject* id_text = <PyObject*>self._last_event_id
    if self._has_options or milliseconds >= 0:
        return self._dispatch_by_options(cursor, event_type, id, data, milliseconds)
    if id.at != NULL:
        id_text = new_id = _try_text(id.at, id.length, id.non_ascii)
    if id_text != NULL:
        event = _try_text_event(
            <PyTypeObject*>Event,
            _try_event_type(self, event_type.at, event_type.length, event_type.non_ascii),
            data.at, data.length, data.non_ascii, id_text)
        if event != NULL and _try_add(self, event):
            if new_id != NULL:
                # Only now nothing can fail any more.
                self._last_event_id = _checked_text(new_id)
            return 0
        if new_id != NULL:
            Py_DECREF(new_id)
    _put_block_back(&self._state, cursor, event_type, id, data, milliseconds)
    _checked(NULL)


cdef inline bint _try_add(Parser self, PyObject* event) noexcept:
    """Add an event, whose reference it takes; return False with an exception set."""
    cdef PyObject* events
    if self._events is None:
        events = _try_list(self._capacity)
        if events == NULL:
            Py_DECREF(event)
            return False
        self._events = <list>events
        Py_DECREF(events)
    return _try_append(<PyObject*>self._events, event) == 0


cdef inline PyObject* _try_event_type(
        Parser self, const uint8_t* at, size_t length, bint non_ascii) noexcept:
    """Return a reference to the event type, "message" if it is empty, or NULL."""
    if length == 0:
        Py_INCREF(<PyObject*>_MESSAGE)
        return <PyObject*>_MESSAGE
    return _try_named_type(self, at, length, non_ascii)


cdef PyObject* _try_named_type(
        Parser self, const uint8_t* at, size_t length, bint non_ascii) noexcept:
    cdef PyObject* latest = <PyObject*>self._event_type
    # Longer ones are too long to be kept while the connection is idle.
    if length > 64:
        return _try_text(at, length, non_ascii)
    if (PyUnicode_IS_ASCII(latest) and length == <size_t>PyUnicode_GET_LENGTH(latest)
            and memcmp(PyUnicode_DATA(latest), at, length) == 0):
        Py_INCREF(latest)
        return latest
    latest = _try_text(at, length, non_ascii)
    if latest != NULL:
        self._event_type = <str>latest
    return latest


cdef str _new_event_type(Parser self, const Text* text):
    return _checked_text(_try_event_type(self, text.at, text.length, text.non_ascii))


cdef list feed_bytes(Parser parser, const uint8_t* at, Py_ssize_t length):
    # Cython lets None pass for a class in `cdef` functions.
    if parser is None:
        raise TypeError("The parser is None: pass a Parser")
    if length < 0:
        raise ValueError(f"The length of a chunk must not be negative, got {length}")
    return _feed(parser, at, length)


cdef str new_event_type(Parser parser, const Text* text):
    return _new_event_type(parser, text)


cdef int add_event(Parser self, object event) except -1:
    if self._events is None:
        self._events = _new_list(self._capacity)
    self._events.append(event)
    return 0
