"""The native interface of the compiled parser, for `cimport`."""

cimport cython
from libc.stdint cimport uint8_t

from sse_fast._core.lines cimport Step, Stream, Text


@cython.final
cdef class Event:
    cdef readonly str event
    cdef readonly object data
    cdef readonly str id
    cdef readonly object retry


cdef class Parser:
    cdef object __weakref__
    cdef Stream _stream
    cdef str _last_event_id
    cdef str _event_type        # the latest one made: streams repeat theirs
    cdef object _on_comment
    cdef object _decode
    cdef dict _decode_types
    cdef object _until
    cdef bytes _until_data
    cdef list _events           # not handed out yet; None: none
    # Of the latest feed, the ids of blocks without data, by the number of events before them; None:
    # none.
    cdef readonly dict _lone_ids
    cdef bytearray _rest        # of a chunk that an exception interrupted; None: none
    cdef bint _busy
    cdef bint _has_options      # `decode` or `until`
    cdef bint _done
    cdef Step _refusal          # why no input is taken until reset(), or NEED_INPUT
    cdef bint _is_ordinary      # nothing but the stream decides what the next chunk does
    cdef Py_ssize_t _spacing    # bytes of the latest large chunk to an event; 0: not known
    cdef Py_ssize_t _room       # for how many events the next list is made

    cdef list _feed(self, const uint8_t* at, Py_ssize_t length)
    cdef list _read(self, const uint8_t* at, Py_ssize_t length)
    cdef int _keep_rest(self, bytearray rest, const uint8_t* at, const uint8_t* end) except -1
    cdef bint _calls_back(self)
    cdef list _take_events(self)
    cdef int _parse(self, const uint8_t** at, const uint8_t* end) except -1
    cdef int _attend_to(self, Step step) except -1
    cdef int _dispatch_text(self) except -1
    cdef int _dispatch(self) except -1
    cdef int _add_event(self, object event) except -1
    cdef int _dispatch_by_options(
        self, const Text* raw_data, str event_type, object retry) except -1
    cdef str _new_event_type(self, const Text* text)


# `Parser.feed` for a `bytes` object that the caller holds.
cdef list feed_bytes(Parser parser, const uint8_t* at, Py_ssize_t length)
