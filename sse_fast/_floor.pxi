# What the Python objects of a stream cost alone: the floor that the benchmarks measure `feed` by.
# A part of `_parser_c.pyx`, so that both make them by the same code.

cdef struct Span:
    const void* at
    Py_ssize_t length       # characters
    int kind                # bytes for each
    Py_UCS4 max_char


cdef str _copy_of(const Span* span):
    cdef str text = PyUnicode_New(span.length, span.max_char)
    memcpy(PyUnicode_DATA(text), span.at, span.length * span.kind)
    return text


@cython.final
cdef class Floor:
    """Floor(chunks, events)
--

Makes the lists, events and texts that `feed` makes of a stream, of spans that are known already.

    Args:
        chunks: the chunks of the stream, `bytes` each.
        events: for each chunk, the list of events that `feed` returns for it.
    """

    cdef list _chunks
    cdef list _events
    cdef Span* _spans       # of each event the data, and the id if it is not the one before

    def __cinit__(self, list chunks, list events):
        cdef Py_ssize_t count = sum(map(len, events))
        cdef Span* span
        cdef bytes chunk
        cdef Event event
        cdef str id = ""
        if len(chunks) != len(events):
            raise ValueError(f"Expected {len(chunks)} lists of events, got {len(events)}")
        self._chunks = chunks
        self._events = events
        self._spans = <Span*>PyMem_Malloc(2 * count * sizeof(Span) + 1)
        if self._spans == NULL:
            raise MemoryError()
        span = self._spans
        for chunk, batch in zip(chunks, events):
            for event in batch:
                _find(span, chunk, event.data)
                # What `feed` makes anew: an id that the event's own lines set.
                span[1].at = NULL
                if event.id != id:
                    id = event.id
                    _find(span + 1, chunk, id)
                span += 2

    def __dealloc__(self):
        PyMem_Free(self._spans)

    def objects(self):
        """Make them all, a chunk at a time, and drop them; return how many events it were."""
        cdef const Span* span = self._spans
        cdef Py_ssize_t count = 0
        cdef Py_ssize_t i
        cdef list batch
        cdef list made
        cdef Event event
        cdef str id = ""
        for batch in self._events:
            made = PyList_New(len(batch))
            for i in range(len(batch)):
                event = <Event>batch[i]
                if span[1].at != NULL:
                    id = _copy_of(span + 1)
                event = _new_event(<PyTypeObject*>Event, event.event, _copy_of(span), id, event.retry)
                Py_INCREF(event)
                PyList_SET_ITEM(made, i, event)
                span += 2
            count += len(made)
        return count

    def feed(self, chunk, /):
        """Take a chunk and do nothing: what the calls cost alone."""


cdef int _find(Span* span, bytes chunk, str text) except -1:
    """Where a text lies in its chunk; in itself, if it is not ASCII or not there in one piece."""
    cdef Py_ssize_t at = chunk.find(text.encode()) if text.isascii() else -1
    span.kind = PyUnicode_KIND(text)
    span.length = PyUnicode_GET_LENGTH(text)
    span.max_char = PyUnicode_MAX_CHAR_VALUE(text)
    if at >= 0:
        span.at = PyBytes_AS_STRING(chunk) + at
    else:
        span.at = PyUnicode_DATA(text)
    return 0
