# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""The compiled fast paths of `EventSource.__next__` and `AsyncEventSource.__anext__`.

They deliver the events of an open stream. Everything else falls back to the Python methods of
`sync.py` and `aio.py`. A signal handler raises only in Python functions, so that nothing is lost
between two lines here.
"""

cimport cython
from cpython.object cimport PyObject

from time import monotonic

from sse_fast._stream_c cimport (
    DONE,
    EventStep,
    FAILED,
    GO_ON,
    NEW,
    RETURNED,
    _FastStream,
    _owned,
    _send,
    _take_exception,
    set_slots,
    take_all,
    take_ready,
    use_slot,
)


cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)
    PyObject* Py_None
    PyObject* PyErr_Occurred()
    ctypedef struct PyAsyncMethods:
        object (*am_anext)(object)
    ctypedef struct PyTypeObject:
        PyAsyncMethods* tp_as_async
        PyObject* (*tp_iternext)(object) noexcept
    PyTypeObject* Py_TYPE(object)
    PyTypeObject PyAsyncGen_Type


cdef class FastSource:
    """The attributes of `ClientState` that the fast paths read and set."""

    cdef public _FastStream _stream
    cdef public object _kept_event
    cdef public object _chosen_id
    cdef public bint _is_reading
    cdef public long long _events
    cdef public long long _bytes_seen
    cdef public double _event_at
    cdef SourceStep _spare          # the latest step, to be used again; None: none


cdef inline bint _is_usual(FastSource self) noexcept:
    """Tell whether the next event is to be asked for at an open stream."""
    return (
        self._stream is not None and not self._is_reading and self._kept_event is None
        and self._chosen_id is None)


cdef inline int _count_event(FastSource self, _FastStream stream) except -1:
    """Count an event, and note when its chunk arrived."""
    if stream._bytes_read != self._bytes_seen:
        self._bytes_seen = stream._bytes_read
        self._event_at = monotonic()
    self._events += 1
    return 0


cdef class FastNext(FastSource):
    """`EventSource.__next__`.

    Subclasses define `_next` for everything unusual, and `_after_failed_read`.
    """

    def __next__(self):
        cdef _FastStream stream = self._stream
        cdef PyObject* event
        if not _is_usual(self):
            return self._next()
        # Asking for the next event counts the previous one as taken.
        take_all(stream)
        event = take_ready(stream)
        if event == NULL:
            event = Py_TYPE(stream).tp_iternext(stream)
            if event == NULL:
                return self._after_failed_read(
                    _take_exception() if PyErr_Occurred() != NULL else StopIteration())
        _count_event(self, stream)
        return _owned(event)


cdef class FastAnext(FastSource):
    """`AsyncEventSource.__anext__`, which returns a `SourceStep` instead of a coroutine.

    Subclasses define two coroutine functions for everything unusual, `_anext` and
    `_after_failed_read`.
    """

    def __anext__(self):
        cdef SourceStep step = self._spare
        # Somebody else may have kept it, for example a task.
        if step is None or Py_REFCNT(<PyObject*>step) != 2:
            step = SourceStep.__new__(SourceStep)
        self._spare = None
        step._source = self
        step._state = NEW
        return step


# `EventStep._has_event` and `EventStep._waited` with -1 for an exception, which is set.
ctypedef int (*try_has_event)(EventStep, PyObject**) noexcept
ctypedef int (*try_waited)(EventStep, int, PyObject**, object) noexcept


@cython.final
cdef class SourceStep(EventStep):
    """The awaitable of the next event of a source.

    It is a step of the open stream. If that has none, or fails, a coroutine of the source follows.
    The earlier events are taken when it is awaited, not when it is made.
    """

    cdef FastSource _source

    def __await__(self):
        # It is here to have a table of async slots, which would be shared with `Step` without it.
        return self

    cdef int _begin(self, PyObject** result) except -1:
        cdef FastSource source = self._source
        cdef int has_event
        if self._stream is None and _is_usual(source):
            take_all(source._stream)
            self._stream = source._stream
        if self._stream is None:
            self._awaited = source._anext()
        else:
            has_event = (<try_has_event>EventStep._has_event)(self, result)
            if has_event > 0:
                return RETURNED
            if has_event < 0:
                self._fail(_take_exception())
        return self._drive(Py_None, result)

    cdef int _waited(self, int status, PyObject** result, object error) except -1:
        if self._stream is None:
            if status == FAILED:
                raise error
            return status
        status = (<try_waited>EventStep._waited)(self, status, result, error)
        if status == FAILED:
            self._fail(_take_exception())
            return GO_ON
        return status

    cdef int _fail(self, object error) except -1:
        """Let the source handle an error of the stream."""
        self._stream = None
        if isinstance(error, GeneratorExit):
            # The coroutine is being closed, so nothing can be awaited.
            raise error
        self._awaited = self._source._after_failed_read(error)
        return 0

    cdef int _release(self) except -1:
        cdef FastSource source = self._source
        if self._stream is not None:
            # The event came from the stream.
            _count_event(source, self._stream)
            self._stream = None
        self._awaited = None
        self._source = None
        source._spare = self
        return 0


cdef int _send_for_event(PyObject* step, PyObject* value, PyObject** result) except -1:
    """The `am_send` of a `SourceStep`, with a shorter way for an event that is ready."""
    cdef FastSource source = (<SourceStep>step)._source
    cdef _FastStream stream
    if (<SourceStep>step)._state == NEW and value == Py_None and _is_usual(source):
        stream = source._stream
        take_all(stream)
        result[0] = take_ready(stream)
        if result[0] != NULL:
            (<SourceStep>step)._state = DONE
            _count_event(source, stream)
            (<SourceStep>step)._release()
            return RETURNED
        (<SourceStep>step)._stream = stream
    return _send(step, value, result)


use_slot(FastNext, "__next__", type(iter(())).__next__, <void*>(<PyTypeObject*>FastNext).tp_iternext)
use_slot(
    FastAnext, "__anext__", (<type>&PyAsyncGen_Type).__anext__,
    <void*>(<PyTypeObject*>FastAnext).tp_as_async.am_anext)
set_slots(SourceStep, _send_for_event)
