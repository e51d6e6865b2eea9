# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""The cost of making a stream's Python objects, with which the benchmarks compare `feed`.

Events and lists are made as the parser makes them. `floor.py` compiles this file when a benchmark
asks for it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.ref cimport Py_INCREF
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from sse_fast._core.lines cimport Scan, next_end_of_line, start_scan
from sse_fast._core.parser_c cimport Event, new_event


cdef extern from "Python.h":
    list PyList_New(Py_ssize_t size)
    void PyList_SET_ITEM(object items, Py_ssize_t at, object item)
    Py_UCS4 PyUnicode_MAX_CHAR_VALUE(object text)
    str PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_DATA(object text)


cdef str _MESSAGE = "message"


cdef struct Span:
    const void* at
    uint32_t length         # characters
    uint32_t max_char       # with _HAS_MORE: the next `More` belongs to this event


cdef struct More:           # the parts that events of plain data do not have
    void* event_type
    void* retry
    Span id                 # at NULL: the id of the event before


cdef enum:
    _HAS_MORE = 0x80000000


cdef inline str _new_text(const Span* span):
    cdef Py_UCS4 max_char = span.max_char & ~<uint32_t>_HAS_MORE
    cdef Py_ssize_t size = span.length
    cdef str text = PyUnicode_New(size, max_char)
    memcpy(PyUnicode_DATA(text), span.at,
           size if max_char < 0x100 else 2 * size if max_char < 0x10000 else 4 * size)
    return text


@cython.final
cdef class Floor:
    """Makes the lists, events and texts that `feed` makes of a stream, from known spans.

    Args:
        chunks: the chunks of the stream, `bytes` each.
        events: for each chunk, the list of events that `feed` returns for it.
    """

    cdef list _chunks
    cdef list _events
    # Compact, so that reading them costs little beside the objects: d has 16 bytes an event.
    cdef Py_ssize_t* _counts
    cdef Span* _data
    cdef More* _more

    def __cinit__(self, list chunks, list events):
        cdef Py_ssize_t count = sum(map(len, events))
        cdef Py_ssize_t number
        cdef Span* data
        cdef More* more
        cdef bytes chunk
        cdef list batch
        cdef Event event
        cdef str id = ""
        if len(chunks) != len(events):
            raise ValueError(f"Expected {len(chunks)} lists of events, got {len(events)}")
        # The spans point into them.
        self._chunks = chunks
        self._events = events
        self._counts = <Py_ssize_t*>PyMem_Malloc(len(events) * sizeof(Py_ssize_t))
        self._data = data = <Span*>PyMem_Malloc(count * sizeof(Span))
        self._more = more = <More*>PyMem_Malloc(count * sizeof(More))
        if self._counts == NULL or data == NULL or more == NULL:
            raise MemoryError()
        for number, batch in enumerate(events):
            chunk = chunks[number]
            self._counts[number] = len(batch)
            for event in batch:
                _find(data, chunk, event.data)
                if event.event != _MESSAGE or event.retry is not None or event.id != id:
                    data.max_char |= _HAS_MORE
                    more.event_type = <void*>event.event
                    more.retry = <void*>event.retry
                    # `feed` makes a new text for an id only if the event's own lines set it.
                    more.id.at = NULL
                    if event.id != id:
                        id = event.id
                        _find(&more.id, chunk, id)
                    more += 1
                data += 1

    def __dealloc__(self):
        PyMem_Free(self._counts)
        PyMem_Free(self._data)
        PyMem_Free(self._more)

    def objects(self):
        """Make all objects, a chunk at a time, and drop them; return the number of events."""
        cdef const Span* data = self._data
        cdef const More* more = self._more
        cdef Py_ssize_t number
        cdef Py_ssize_t at
        cdef list made
        cdef object event
        cdef object retry
        cdef str event_type
        cdef str id = ""
        cdef Py_ssize_t count = 0
        for number in range(len(self._chunks)):
            made = PyList_New(self._counts[number])
            for at in range(self._counts[number]):
                if data.max_char & _HAS_MORE:
                    event_type = <str>more.event_type
                    retry = <object>more.retry
                    if more.id.at != NULL:
                        id = _new_text(&more.id)
                    more += 1
                    event = new_event(event_type, _new_text(data), id, retry)
                else:
                    event = new_event(_MESSAGE, _new_text(data), id, None)
                Py_INCREF(event)
                PyList_SET_ITEM(made, at, event)
                data += 1
            count += self._counts[number]
            # Drop them before the next ones are made, as the loop around `feed` does.
            event = None
            made = None
        return count

    def lines(self):
        """Find the end of every line, as `feed` does, and return the number of lines."""
        cdef Scan scan
        cdef const uint8_t* end
        cdef int non_ascii = 0
        cdef Py_ssize_t count = 0
        cdef bytes chunk
        for chunk in self._chunks:
            end = <const uint8_t*>PyBytes_AS_STRING(chunk) + PyBytes_GET_SIZE(chunk)
            start_scan(&scan, <const uint8_t*>PyBytes_AS_STRING(chunk), end)
            while next_end_of_line(&scan, &non_ascii) != end:
                count += 1
        return count

    def feed(self, chunk, /):
        """Take a chunk and do nothing: the cost of the calls alone."""


cdef int _find(Span* span, bytes chunk, str text) except -1:
    """Find a text in its chunk; use the text itself if it is not ASCII or not contiguous there."""
    cdef Py_ssize_t at = chunk.find(text.encode()) if text.isascii() else -1
    span.length = len(text)
    span.max_char = PyUnicode_MAX_CHAR_VALUE(text)
    if at >= 0:
        span.at = PyBytes_AS_STRING(chunk) + at
    else:
        span.at = PyUnicode_DATA(text)
    return 0
