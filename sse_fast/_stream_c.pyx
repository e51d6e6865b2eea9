# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""The compiled fast paths of streams: reading and feeding a chunk, and delivering its events.

A signal handler raises only in Python functions, so that nothing is lost between two lines here.
Everything unusual falls back to the Python methods of `_stream.py`.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, Py_buffer, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from sse_fast._core.parser_c cimport Parser, feed_bytes


cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)
    PyObject* Py_None
    bint PyCoro_CheckExact(object)
    bint PyMemoryView_Check(object)
    Py_buffer* PyMemoryView_GET_BUFFER(object)
    void PyErr_Clear()
    PyObject* PyExc_StopIteration
    void PyErr_SetObject(PyObject* kind, PyObject* value)
    # Declared without Cython's check for an exception.
    int PyObject_GetBuffer(object, Py_buffer*, int) noexcept
    int PyIter_Send(PyObject* iterator, PyObject* value, PyObject** result) noexcept
    object PyObject_SelfIter(object)
    PyObject* PyObject_CallMethodNoArgs(object, object) noexcept
    int PyErr_CheckSignals() except -1
    ctypedef struct PyAsyncMethods:
        object (*am_await)(object)
        PyObject* (*am_anext)(object) noexcept
        int (*am_send)(PyObject*, PyObject*, PyObject**) except -1
    ctypedef struct PyTypeObject:
        PyAsyncMethods* tp_as_async
        PyObject* (*tp_iternext)(PyObject*) except? NULL
        PyObject* tp_dict
    PyTypeObject PyAsyncGen_Type
    PyTypeObject* Py_TYPE(object)
    ctypedef struct PyWrapperDescrObject:
        void* d_base
    object PyDescr_NewWrapper(PyTypeObject* cls, void* base, void* function)
    void PyType_Modified(PyTypeObject* cls)


cdef extern from *:
    """
    /* Lets Cython's `except` catch the exception that is set. */
    static inline int sse_fast_reraise(void) { return -1; }
    """
    int _reraise "sse_fast_reraise"() except -1


cdef list _NO_EVENTS = []
# In the place of a taken batch that another one has followed. It is never the batch of a stream.
cdef list _EARLIER = []
cdef object _NO_SLICES = iter(())


def feed_next(list fed not None, Parser parser not None, object slices):
    """Feed the next slice of an iterator, or the chunk in a list, and append the events to `fed`."""
    cdef object chunk = (<list>slices).pop() if type(slices) is list else next(slices)
    if type(chunk) is bytes:
        fed.append(feed_bytes(
            parser, <const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk)))
    else:
        fed.append(parser.feed(chunk))


cdef class _FastStream:
    """The attributes of `StreamBase`, and the compiled forms of what it does for each chunk."""

    @property
    def _taken(self):
        # The tuple is made last: a garbage collection may let another thread run.
        cdef list batch = self._taken_batch
        cdef Py_ssize_t count = self._taken_count
        return batch, count

    @_taken.setter
    def _taken(self, tuple taken not None):
        # Freed last, as this may let another thread run.
        cdef list earlier = self._taken_batch
        self._taken_batch, self._taken_count = taken

    def take(self):
        """Mark every delivered event as taken: the consumer has finished with it."""
        take_all(self)

    def _parse(self):
        """Feed one slice; or, if the latest feed raised, let it parse the rest of its slice."""
        cdef Parser parser = _get_parser(self)
        cdef str id_before = self.last_event_id if self._feed_incomplete else parser._last_event_id
        cdef object chunk = b""
        cdef list events
        if not self._feed_incomplete and not self._rest_is_due:
            chunk = next(self._slices)
        _begin_feed(self, id_before)
        try:
            events = parser.feed(chunk)
        except BaseException as error:
            self._in_callback = False
            self._caught = error
            self._use_caught_error()
            return
        self._in_callback = False
        if (self._comments is not None or self._watch is not None or self.end_reason is not None):
            self._fed.append(events)
            self._use_fed_events()
            return
        self._batch = events
        self._read_is_due = not parser._done and self._slice_starts.__length_hint__() == 0
        # Last, because other threads may read last_event_id.
        self._feed_incomplete = False


# `feed_bytes` with NULL for an exception, which is set.
ctypedef PyObject* (*try_feed)(Parser, const uint8_t*, Py_ssize_t) noexcept


cdef inline Parser _get_parser(_FastStream self):
    if self._parser is None:
        raise AttributeError("The parser of this stream was removed")
    return self._parser


cdef inline int _begin_feed(_FastStream self, str id_before) except -1:
    # The events are freed last, as this may let another thread run; but before others are made,
    # which have the same memory then, while the cache has it.
    cdef list earlier = self._batch
    if self._taken_batch is earlier:
        self._taken_batch = _EARLIER
    self._id_before_batch = id_before
    self._segment = None
    self._batch = _NO_EVENTS
    self._delivered = 0
    self._feed_incomplete = True
    self._rest_is_due = False
    self._read_is_due = False
    self._in_callback = True
    return 0


cdef int _feed_plain(_FastStream self, const uint8_t* at, Py_ssize_t size) except -1:
    """Feed a whole chunk, when there is nothing to be fed before it."""
    # A callback may replace `_parser` while this one runs.
    cdef Parser parser = _get_parser(self)
    cdef PyObject* events
    self._interrupted = False
    self._bytes_read += size
    _begin_feed(self, parser._last_event_id)
    # An `except` clause would save and restore the handled exception for each chunk.
    events = (<try_feed>feed_bytes)(parser, at, size)
    self._in_callback = False
    if events == NULL:
        self._caught = _take_exception()
        return 0
    self._feed_incomplete = False
    # If there is an end reason, a callback closed the stream.
    if self.end_reason is None:
        self._batch = <list>events
        self._read_is_due = not parser._done
    Py_DECREF(events)
    return 0


cdef int _feed_view(_FastStream self, object chunk) except -1:
    """Feed a whole memoryview, which cannot be released meanwhile."""
    cdef Py_buffer view
    if PyObject_GetBuffer(chunk, &view, PyBUF_SIMPLE) < 0:
        # It was released before, or is not contiguous: `_next_slice` converts it, or raises.
        PyErr_Clear()
        self._received.append(chunk)
        self._read_is_due = False
        return 0
    try:
        return _feed_plain(self, <const uint8_t*>view.buf, view.len)
    finally:
        PyBuffer_Release(&view)


cdef inline bint _can_read(_FastStream self) noexcept:
    """Tell whether a read is due, and nothing unusual comes before it."""
    return (
        self._read_is_due and not self._reading and self._on_chunk is None and self._watch is None
        and self._read_error is None and len(self._received) == 0)


cdef inline int _start_reading(_FastStream self) except -1:
    self._reading = True
    if self._slices is not _NO_SLICES:
        # All were fed. They would keep the buffer that they are part of.
        self._slices = self._slice_starts = _NO_SLICES
    return 0


cdef int _accept(_FastStream self, object chunk) except -1:
    """Feed a chunk that was read, or keep it for `_next_slice` if it needs to be converted."""
    cdef Py_ssize_t size
    # Another thread or task may have closed the stream.
    if self._read_is_due:
        if type(chunk) is bytes:
            if PyBytes_GET_SIZE(chunk) <= self._slice_size:
                return _feed_plain(
                    self, <const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
            if self._slice_size > 0:
                return _cut_plain(self, chunk, PyBytes_GET_SIZE(chunk))
        elif PyMemoryView_Check(chunk):
            size = PyMemoryView_GET_BUFFER(chunk).len
            if size > self._slice_size > 0 and self._lends:
                return _cut_plain(self, chunk, size)
            # A callback could change the bytes of another source while they are parsed.
            if size <= self._slice_size and (
                    self._lends or not _get_parser(self)._has_callbacks):
                return _feed_view(self, chunk)
    self._received.append(chunk)
    self._read_is_due = False
    return 0


cdef int _cut_plain(_FastStream self, object data, Py_ssize_t size) except -1:
    """Set the slices of a large chunk, which `_parse` feeds; as `StreamBase._cut`."""
    cdef object starts = iter(range(0, size, self._slice_size))
    cdef object ends = range(self._slice_size, size + self._slice_size, self._slice_size)
    self._slices = map(memoryview(data).__getitem__, map(slice, starts, ends))
    self._slice_starts = starts
    self._interrupted = False
    self._bytes_read += size
    self._read_is_due = False
    return 0


cdef inline bint _can_parse(_FastStream self) except -1:
    """Tell whether the next slice of a chunk is due, and nothing unusual comes before it."""
    return (
        not self._read_is_due and self.end_reason is None and not self._in_callback
        and not self._feed_incomplete and not self._rest_is_due and self._slice_size > 0
        and self._caught is None and self._error is None and not self._error_raised
        and len(self._fed) == 0 and len(self._received) == 0
        and self._parser is not None and not self._parser._done
        and self._slice_starts.__length_hint__() != 0)


cdef class _FastNext(_FastStream):
    """`EventStream.__next__`: an event takes 50 ns where Python takes 370, with one in each chunk.

    Subclasses define `_next`, for everything unusual.
    """

    def __next__(self):
        cdef PyObject* event
        cdef object chunk
        while True:
            event = take_ready(self)
            if event != NULL:
                return _owned(event)
            if _can_read(self):
                _start_reading(self)
                try:
                    chunk = next(self._chunks)
                except BaseException as error:
                    self._reading = False
                    self._read_error = error
                    return self._next()
                self._reading = False
                _accept(self, chunk)
                if len(self._batch) == 0:
                    # A source in C may give chunks without events, without a limit.
                    PyErr_CheckSignals()
            elif _can_parse(self):
                self._parse()
            else:
                return self._next()


cdef class _FastAnext(_FastStream):
    """`AsyncEventStream.__anext__`, which returns an `EventStep` instead of a coroutine.

    Subclasses define two coroutine functions for everything unusual, `_anext` and
    `_after_failed_read`.
    """

    def __anext__(self):
        cdef EventStep step = self._spare
        # Somebody else may have kept it, for example a task.
        if step is None or Py_REFCNT(<PyObject*>step) != 2:
            step = EventStep.__new__(EventStep)
        self._spare = None
        step._stream = self
        step._state = NEW
        return step


cdef class Step:
    """The awaitable of an `__anext__`, which needs a coroutine for unusual events only.

    It is its own iterator. What it awaits suspends it.
    """

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Start, or go on after a suspension; raises StopIteration with the result."""
        cdef PyObject* result = NULL
        if _send(<PyObject*>self, <PyObject*>value, &result) == SUSPENDED:
            return _owned(result)
        raise StopIteration(_owned(result))

    def throw(self, kind, value=None, traceback=None, /):
        """Raise an exception in what is awaited; return or raise as `send`."""
        cdef PyObject* result = NULL
        cdef object error = _as_exception(kind, value, traceback)
        cdef object got = None
        cdef int status = SUSPENDED
        if self._state != WAITING:
            self._state = DONE
            raise error
        self._state = DONE
        try:
            got = _throw_into(self._awaited, error)
        except StopIteration as stop:
            got = stop.value
            status = RETURNED
        except BaseException as raised:
            error = raised
            status = FAILED
        if status == SUSPENDED:
            self._state = WAITING
            return got
        if status == RETURNED:
            Py_INCREF(<PyObject*>got)
            result = <PyObject*>got
        status = self._waited(status, &result, error)
        if status == GO_ON:
            status = self._drive(Py_None, &result)
            if status == SUSPENDED:
                return _owned(result)
        self._release()
        raise StopIteration(_owned(result))

    def close(self):
        """Give up the wait; what is awaited is closed as well."""
        if self._state != WAITING:
            self._state = DONE
            return
        try:
            self.throw(GeneratorExit)
        except (GeneratorExit, StopIteration):
            return
        raise RuntimeError("What the stream awaits has ignored GeneratorExit")

    def __del__(self):
        self.close()

    cdef int _begin(self, PyObject** result) except -1:
        raise NotImplementedError

    cdef int _drive(self, PyObject* value, PyObject** result) except -1:
        cdef int status
        while True:
            status = PyIter_Send(<PyObject*>self._awaited, value, result)
            if status != SUSPENDED:
                status = self._waited(
                    status, result, _take_exception() if status == FAILED else None)
            if status == SUSPENDED:
                self._state = WAITING
            if status != GO_ON:
                return status
            value = Py_None

    cdef int _waited(self, int status, PyObject** result, object error) except -1:
        if status == FAILED:
            raise error
        return status

    cdef int _release(self) except -1:
        return 0


cdef int _send(PyObject* step, PyObject* value, PyObject** result) except -1:
    """Start a step, or go on with it: its `am_send`."""
    cdef Step self = <Step>step
    cdef int state = self._state
    cdef int status
    # In force if an exception leaves the step.
    self._state = DONE
    if state == NEW:
        if value != Py_None:
            raise TypeError("can't send non-None value to a step that has just begun")
        status = self._begin(result)
    elif state == WAITING:
        status = self._drive(value, result)
    else:
        raise RuntimeError("cannot reuse an awaitable that was awaited already")
    if status == RETURNED:
        self._release()
    return status


cdef PyObject* _step_next(PyObject* step) except? NULL:
    """Start a step, or go on with it: its `tp_iternext`, which CPython 3.12 and later call."""
    cdef PyObject* result = NULL
    if Py_TYPE(<object>step).tp_as_async.am_send(step, Py_None, &result) == SUSPENDED:
        return result
    # `raise` would make a traceback. An event is no tuple, which this would unpack.
    PyErr_SetObject(PyExc_StopIteration, result)
    Py_DECREF(result)
    return NULL


async def _await(awaitable):
    return await awaitable


cdef object _take_exception():
    """Return the exception that is set."""
    try:
        _reraise()
    except BaseException as error:
        return error


cdef object _as_exception(object kind, object value, object traceback):
    """Return the exception that the arguments of a `throw` name, as a coroutine takes them."""
    cdef object error = kind
    if isinstance(kind, BaseException):
        if value is not None:
            raise TypeError("instance exception may not have a separate value")
    elif not isinstance(kind, type) or not issubclass(kind, BaseException):
        raise TypeError(
            "exceptions must be classes or instances deriving from BaseException, not "
            + type(kind).__name__)
    elif isinstance(value, kind):
        error = value
    elif value is None:
        error = kind()
    else:
        error = kind(*value) if isinstance(value, tuple) else kind(value)
    return error if traceback is None else error.with_traceback(traceback)


cdef object _throw_into(object awaited, object error):
    """Raise an exception in what is awaited, as `await` does."""
    cdef object method = getattr(awaited, "throw", None)
    if isinstance(error, GeneratorExit):
        method = getattr(awaited, "close", None)
        if method is not None:
            method()
        raise error
    if method is None:
        raise error
    return method(error)


cdef int _send_for_event(PyObject* step, PyObject* value, PyObject** result) except -1:
    """The `am_send` of an `EventStep`: an event that is ready takes half as many instructions."""
    cdef PyObject* event
    if (<EventStep>step)._state == NEW and value == Py_None:
        event = take_ready((<EventStep>step)._stream)
        if event != NULL:
            (<EventStep>step)._state = DONE
            (<EventStep>step)._release()
            result[0] = event
            return RETURNED
    return _send(step, value, result)


cdef class EventStep(Step):
    """The awaitable of the next event of a stream.

    It asks the source for a chunk, waits for it and feeds it, again and again until there is an
    event. It has the event when it is awaited, not when it is made.
    """

    def __await__(self):
        # It is here to have a table of async slots, which would be shared with `Step` without it.
        return self

    cdef int _begin(self, PyObject** result) except -1:
        return RETURNED if self._has_event(result) else self._drive(Py_None, result)

    cdef bint _has_event(self, PyObject** result) except -1:
        """Take an event that needs no wait, or else set what is to be awaited."""
        cdef _FastAnext stream = self._stream
        while True:
            result[0] = take_ready(stream)
            if result[0] != NULL:
                return True
            if stream._begin is None and _can_read(stream):
                self._begin_read(stream)
                return False
            if not _can_parse(stream):
                self._awaited = stream._anext()
                return False
            stream._parse()

    cdef int _begin_read(self, _FastAnext stream) except -1:
        _start_reading(stream)
        cdef PyObject* awaitable = _call_anext(stream._chunks)
        if awaitable == NULL:
            stream._reading = False
            stream._read_error = _take_exception()
            self._awaited = stream._after_failed_read(None)
            return 0
        self._reads = True
        self._awaited = _iterate_awaitable(_owned(awaitable))
        return 0

    cdef int _waited(self, int status, PyObject** result, object error) except -1:
        cdef _FastAnext stream = self._stream
        if not self._reads:
            if status == FAILED:
                raise error
            return status
        self._reads = False
        stream._reading = False
        if status == FAILED:
            stream._read_error = error
            self._awaited = stream._after_failed_read(self._awaited)
            return GO_ON
        _accept(stream, _owned(result[0]))
        if len(stream._batch) == 0:
            # A source may give chunks without events without a limit, and never suspend.
            PyErr_CheckSignals()
        return RETURNED if self._has_event(result) else GO_ON

    cdef int _release(self) except -1:
        cdef _FastAnext stream = self._stream
        self._awaited = None
        self._stream = None
        stream._spare = self
        return 0


cdef inline PyObject* _call_anext(object chunks) noexcept:
    """Return an awaitable, or NULL with an exception set."""
    cdef PyAsyncMethods* methods = Py_TYPE(chunks).tp_as_async
    if methods == NULL or methods.am_anext == NULL:
        return PyObject_CallMethodNoArgs(chunks, "__anext__")
    return methods.am_anext(chunks)


cdef inline object _iterate_awaitable(object awaitable):
    """Return what `await` would send to."""
    cdef PyAsyncMethods* methods
    if PyCoro_CheckExact(awaitable):
        return awaitable
    methods = Py_TYPE(awaitable).tp_as_async
    if methods != NULL and methods.am_await == PyObject_SelfIter:
        return awaitable
    # Its errors come when it is awaited.
    return _await(awaitable)


cdef int use_slot(type cls, str name, object wrapper, void* function) except -1:
    """Let the subclasses of a class have a C function in their slot.

    In the place of such a method, Cython has one that subclasses look up and call at each use.

    Args:
        wrapper: the method of this name in any class that has it from a slot.
        function: what is in the slot of `cls`.
    """
    (<dict>(<PyTypeObject*>cls).tp_dict)[name] = PyDescr_NewWrapper(
        <PyTypeObject*>cls, (<PyWrapperDescrObject*>wrapper).d_base, function)
    PyType_Modified(<PyTypeObject*>cls)
    return 0


use_slot(_FastNext, "__next__", type(iter(())).__next__, <void*>(<PyTypeObject*>_FastNext).tp_iternext)
use_slot(
    _FastAnext, "__anext__", (<type>&PyAsyncGen_Type).__anext__,
    <void*>(<PyTypeObject*>_FastAnext).tp_as_async.am_anext)

cdef void set_slots(type cls, int (*send)(PyObject*, PyObject*, PyObject**) except -1) noexcept:
    """Set the slots of a kind of step that Cython has no special methods for, or slower ones."""
    (<PyTypeObject*>cls).tp_iternext = _step_next
    (<PyTypeObject*>cls).tp_as_async.am_await = PyObject_SelfIter
    (<PyTypeObject*>cls).tp_as_async.am_send = send


set_slots(Step, _send)
set_slots(EventStep, _send_for_event)
