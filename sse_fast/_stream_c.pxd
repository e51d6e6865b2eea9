"""The compiled base of streams, for the client's own fast paths."""

from cpython.object cimport PyObject

from sse_fast._core.parser_c cimport Parser


cdef class _FastStream:
    # The attributes of `StreamBase` that the fast paths read and set.
    cdef public Parser _parser
    cdef public list _batch
    cdef public Py_ssize_t _delivered
    cdef public str _id_before_batch
    cdef public object _on_chunk
    cdef public object _comments
    cdef public object _watch
    cdef public Py_ssize_t _slice_size
    cdef public bint _read_is_due
    cdef public bint _reading
    cdef public bint _interrupted
    cdef public bint _in_callback
    cdef public bint _feed_incomplete
    cdef public bint _rest_is_due
    cdef public list _received
    cdef public object _slices
    cdef public object _slice_starts
    cdef public list _fed
    cdef public object _parts
    cdef public object _read_error
    cdef public object _caught
    cdef public object _segment
    cdef public object _error
    cdef public bint _error_raised
    cdef public object end_reason
    cdef public object _chunks


cdef class _FastNext(_FastStream):
    pass


cdef class _FastAnext(_FastStream):
    cdef public object _begin
    cdef EventStep _spare       # the latest step, to be used again; None: none


cdef class Step:
    cdef object _awaited        # the iterator of what is awaited; None: nothing yet
    cdef int _state

    # The first send: return an event, or set `_awaited` and call `_drive`.
    cdef int _begin(self, PyObject** result) except -1
    # Send to `_awaited` until it suspends, or there is a result.
    cdef int _drive(self, PyObject* value, PyObject** result) except -1
    # `_awaited` has ended, with a result or an exception: return the same, or GO_ON with another.
    # The exception is given as an object.
    cdef int _waited(self, int status, PyObject** result, object error) except -1
    # Called after a result.
    cdef int _release(self) except -1


cdef class EventStep(Step):
    cdef _FastAnext _stream
    cdef bint _reads            # `_awaited` is a read of the source

    cdef bint _has_event(self, PyObject** result) except -1
    cdef int _begin_read(self, _FastAnext stream) except -1


cdef extern from "Python.h":
    void Py_INCREF(PyObject*)
    Py_ssize_t PyList_GET_SIZE(list)
    PyObject* PyList_GET_ITEM(PyObject* items, Py_ssize_t at)


# Return the next event if it was parsed already, with a reference; or NULL, without an exception.
cdef inline PyObject* take_ready(_FastStream self) noexcept:
    cdef Py_ssize_t at = self._delivered
    cdef PyObject* event
    if at < 0 or self._batch is None or at >= PyList_GET_SIZE(self._batch):
        return NULL
    event = PyList_GET_ITEM(<PyObject*>self._batch, at)
    self._delivered = at + 1
    Py_INCREF(event)
    return event


cdef int use_slot(type cls, str name, object wrapper, void* function) except -1
