# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, embedsignature=True, embedsignature.format=clinic, auto_pickle=False
"""DialectParser in Cython; `_dialect_py.py` is the same in plain Python."""

import sys

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcmp

from sse_fast._core.lines cimport (
    DATA_FIELD, DISPATCH, FIELD_NAME, FIELD_VALUE, NEED_INPUT, NO_MEMORY, RETRY, Scan, Step, Text,
    _begin_chunk, _next_step, _take_block, find_end_of_line,
)
from sse_fast._core.parser_c cimport Parser, add_event, new_event, new_event_type, new_text


cdef extern from "Python.h":
    int PyObject_GenericSetAttr(object instance, object name, object value) except -1
    ctypedef struct PyTypeObject:
        object (*tp_new)(type cls, tuple arguments, void* keywords)


cdef tuple _NO_ARGUMENTS = ()


@cython.final
cdef class DialectParser(Parser):
    """A parser that deviates from the standard as its `Dialect` says.

    With `none_before_id`, `last_event_id` is None until the stream has set an id.
    """

    cdef object _event_class
    cdef tuple _attributes
    cdef object _default_event
    cdef bint _dispatch_fields
    cdef bint _dispatch_values
    cdef bint _forget_id
    cdef object _read_retry
    cdef bint _keep_lines
    cdef bint _has_no_id        # `id` is None so far
    cdef object _retry          # the result of `_read_retry` for this block
    # With `_keep_lines`: the block's bytes from earlier chunks; `_start` is where it goes on in this.
    cdef bytearray _block
    cdef const uint8_t* _start
    cdef bint _is_first_block   # it may begin with the byte order mark

    def __init__(self, dialect, *, last_event_id=None, max_event_size=16 * 2**20):
        dialect.check()
        Parser.__init__(self, last_event_id=last_event_id or "", max_event_size=max_event_size)
        self._event_class = dialect.event_class
        self._attributes = tuple(map(sys.intern, dialect.attributes))
        self._default_event = dialect.default_event
        self._dispatch_fields = dialect.dispatch_fields
        self._dispatch_values = dialect.dispatch_values
        self._forget_id = dialect.forget_id
        self._read_retry = dialect.read_retry
        self._keep_lines = dialect.keep_lines and dialect.event_class is not None
        self._has_no_id = dialect.none_before_id and last_event_id is None
        # Setting attributes may run any code.
        self._has_callbacks = dialect.read_retry is not None or dialect.event_class is not None
        self._state.emit_retries = dialect.read_retry is not None
        self._state.emit_blocks = True

    @property
    def last_event_id(self):
        return None if self._has_no_id else self._last_event_id

    @property
    def data_lines(self):
        """The values of the block's data lines so far, complete ones only."""
        cdef list lines
        # After EventTooLarge, the chunk that the values point into may have been freed.
        if self._refusal != NEED_INPUT or not self._state.has_data:
            return []
        lines = new_text(&self._state.data).split("\n")
        if self._state.place == FIELD_VALUE and self._state.field == DATA_FIELD:
            lines.pop()
        return lines

    @property
    def unfinished(self):
        """The number of bytes retained of the line that has not ended yet."""
        if self._state.place == FIELD_NAME or self._state.place == FIELD_VALUE:
            return self._state.line_length
        return 0

    def reset(self):
        Parser.reset(self)
        self._retry = None
        self._block = bytearray()
        self._is_first_block = True

    cdef int _parse(self, const uint8_t** cursor, const uint8_t* end) except -1:
        cdef Step step
        cdef Scan scan
        self._start = cursor[0]
        try:
            _begin_chunk(&self._state, &scan, cursor, end)
            while True:
                step = _next_step(&self._state, &scan, cursor, end)
                if step == NEED_INPUT:
                    return 0
                if step == RETRY:
                    try:
                        self._retry = self._read_retry(new_text(&self._state.emitted))
                    except ValueError:
                        pass
                elif step == DISPATCH:
                    self._dispatch_block(cursor[0])
                else:
                    self._raise_refusal(step)
        except MemoryError:
            # Part of an event may be gone.
            self._refusal = NO_MEMORY
            raise
        finally:
            if self._keep_lines:
                self._own_bytes(cursor[0])

    cdef int _own_bytes(self, const uint8_t* at) except -1:
        """Copy the block's bytes up to `at`, as the chunk is about to be released."""
        cdef Step refusal = self._refusal
        # In force if this fails.
        self._refusal = NO_MEMORY
        self._block += PyBytes_FromStringAndSize(<const char*>self._start, at - self._start)
        self._start = at
        self._refusal = refusal
        return 0

    cdef list _take_lines(self, const uint8_t* end):
        """Return the text of the block's lines, and begin the next block at `end`."""
        cdef const uint8_t* at = self._start
        cdef const uint8_t* line_end
        cdef bytearray block = self._block
        cdef list lines = []
        cdef Text line
        if len(block):
            # The block began in an earlier chunk.
            self._own_bytes(end)
            self._block = bytearray()
            at = <const uint8_t*>PyByteArray_AS_STRING(block)
            end = at + len(block)
        else:
            self._start = end
        if self._is_first_block and end - at >= 3 and memcmp(at, b"\xef\xbb\xbf", 3) == 0:
            at += 3
        self._is_first_block = False
        while at < end:
            line.non_ascii = 0
            line_end = find_end_of_line(at, end, &line.non_ascii)
            if line_end > at:
                line.at = at
                line.length = line_end - at
                lines.append(new_text(&line))
            at = line_end + 1
        return lines

    cdef int _dispatch_block(self, const uint8_t* end) except -1:
        """Dispatch the block that a blank line ended at `end`, if the dialect makes it an event."""
        cdef Text raw_data
        cdef Text raw_type
        cdef Text raw_id
        cdef int64_t milliseconds
        cdef bint has_event_type = self._state.has_event_type
        cdef object event
        cdef object event_type = self._default_event
        cdef object data
        cdef object id
        cdef object retry = self._retry
        cdef list lines = self._take_lines(end) if self._keep_lines else None
        _take_block(&self._state, &raw_type, &raw_id, &raw_data, &milliseconds)
        self._retry = None
        if self._read_retry is None and milliseconds >= 0:
            retry = milliseconds
        if raw_id.at != NULL:
            self._last_event_id = new_text(&raw_id)
            self._has_no_id = False
        if raw_data.at == NULL:
            if self._dispatch_values:
                if raw_type.length == 0 and retry is None and not self._last_event_id:
                    return 0
            elif not self._dispatch_fields or not (
                    has_event_type or raw_id.at != NULL or retry is not None):
                return 0
        data = new_text(&raw_data)
        if raw_type.length:
            event_type = new_event_type(self, &raw_type)
        if self._has_no_id or (self._forget_id and raw_id.at == NULL):
            id = None
        else:
            id = self._last_event_id
        if self._event_class is None:
            event = new_event(event_type, data, id, retry)
        else:
            try:
                event = (<PyTypeObject*>object).tp_new(
                    <type>self._event_class, _NO_ARGUMENTS, NULL)
                PyObject_GenericSetAttr(event, self._attributes[0], event_type)
                PyObject_GenericSetAttr(event, self._attributes[1], data)
                PyObject_GenericSetAttr(event, self._attributes[2], id)
                PyObject_GenericSetAttr(event, self._attributes[3], retry)
                if lines is not None:
                    PyObject_GenericSetAttr(event, self._attributes[4], lines)
            except Exception:
                # The class refuses the event, which is dropped.
                raise
            except BaseException:
                self._refusal = NO_MEMORY
                raise
        return add_event(self, event)
