"""The parser for the other extensions of the package.

Other people's extensions cimport from `sse_fast`, which exports a part of this. So the fields of the
two classes, private ones too, change in minor releases only: `check_size error`, which only `api`
classes can have, refuses to load an extension that was compiled for other sizes.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t

from sse_fast._core.lines cimport LineState, Shortcut, Step, Text


@cython.final
cdef api class Event [object sse_fast_Event, type sse_fast_EventType, check_size error]:
    cdef readonly str event
    cdef readonly object data
    cdef readonly str id
    cdef readonly object retry


cdef api class Parser [object sse_fast_Parser, type sse_fast_ParserType, check_size error]:
    cdef object __weakref__
    cdef LineState _state
    cdef str _last_event_id
    cdef str _event_type        # the latest one made, as streams repeat theirs
    cdef object _on_comment
    cdef object _decode
    cdef dict _decode_types
    cdef object _until
    cdef bytes _until_data
    cdef frozenset _until_types # the types of `until_event`
    cdef list _events           # not delivered yet; None: none
    # Number of events -> id of a block without data after them, in the latest feed; None: none.
    cdef readonly dict _lone_ids
    cdef bytearray _rest        # of a chunk that an exception interrupted; None: none
    cdef bint _is_initialized
    cdef bint _is_feeding
    cdef bint _has_options      # `decode`, `until` or `until_event`
    cdef bint _has_callbacks    # parsing may run code that could change the chunk
    cdef bint _done
    cdef Step _refusal          # why input is refused until reset(), or NEED_INPUT
    cdef Shortcut _shortcut     # what may read the next chunk before `_read`
    cdef Py_ssize_t _bytes_per_event    # of the latest large chunk; 0: not known
    cdef Py_ssize_t _capacity   # of the next list of events

    # The loop over a chunk, from `cursor` to `end`: the one method that a subclass may override.
    cdef int _parse(self, const uint8_t** cursor, const uint8_t* end) except -1
    # Raise the error of TOO_LARGE or NO_MEMORY, and refuse input from now on.
    cdef int _raise_refusal(self, Step step) except -1
    cdef int _dispatch_without_data(self, const uint8_t** cursor) except -1
    cdef int _dispatch_by_options(
        self, const uint8_t** cursor, const Text* raw_type, const Text* id,
        const Text* raw_data, int64_t milliseconds) except -1


# `Parser.feed` for bytes that neither change nor are freed before it returns. Exported as `feed`.
cdef list feed_bytes(Parser parser, const uint8_t* at, Py_ssize_t length)
# `Parser.feed` for an object other than `bytes`.
cdef list feed_buffer(Parser self, object chunk)

cdef object new_event(object event_type, object data, object id, object retry)
cdef str new_text(const Text* text)
# The event type as text; the latest one is made once.
cdef str new_event_type(Parser parser, const Text* text)
cdef int add_event(Parser self, object event) except -1
