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
    cdef public bint _lends
    cdef public bint _rest_is_due
    cdef public list _received
    cdef public long long _bytes_read
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
    # Together the attribute `_taken`.
    cdef list _taken_batch
    cdef Py_ssize_t _taken_count


cdef class _FastNext(_FastStream):
    pass


cdef class _FastAnext(_FastStream):
    cdef public object _begin
    cdef EventStep _spare       # the latest step, to be used again; None: none


# The results of a send, as of `PyIter_Send`, and one more: another awaitable is to be awaited.
cdef enum:
    FAILED = -1
    RETURNED = 0
    SUSPENDED = 1
    GO_ON = 2

# The states of a `Step`; the first one is that of a step which no `__anext__` has made.
cdef enum:
    DONE
    NEW
    WAITING


cdef class Step:
    cdef object __weakref__
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
    void Py_DECREF(PyObject*)
    Py_ssize_t PyList_GET_SIZE(list)
    PyObject* PyList_GET_ITEM(PyObject* items, Py_ssize_t at)


# Mark every delivered event as taken.
cdef inline int take_all(_FastStream self) except -1:
    cdef list earlier
    if self._taken_batch is not self._batch:
        # Freed last, as this may let another thread run.
        earlier = self._taken_batch
        self._taken_batch = self._batch
    self._taken_count = self._delivered
    return 0


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


# Return an object whose reference the caller holds.
cdef inline object _owned(PyObject* made):
    cdef object result = <object>made
    Py_DECREF(made)
    return result


# Return the exception that is set.
cdef object _take_exception()
# Start a step, or go on with it: its `am_send`.
cdef int _send(PyObject* step, PyObject* value, PyObject** result) except -1
# Set the slots of a kind of step.
cdef void set_slots(type cls, int (*send)(PyObject*, PyObject*, PyObject**) except -1) noexcept
# Let the subclasses of a class have a C function in their slot.
cdef int use_slot(type cls, str name, object wrapper, void* function) except -1
