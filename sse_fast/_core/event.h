/* Makes and frees Events. Only `parser_c.pyx` may include this, as the free list is static.
 *
 * A custom free list, and no tracking by the garbage collector if the data is a str:
 * `@cython.freelist` costs 34 % more instructions per event.
 */
#ifndef SSE_FAST_EVENT_H
#define SSE_FAST_EVENT_H

#include <Python.h>

#include "text.h"

typedef struct {
    PyObject_HEAD
    PyObject *event, *data, *id, *retry;
} sse_fast_event;

/* The most events to keep, of 64 bytes each: 64 KiB of the shortest in practice are 5,000. With a
 * list of 256, these took 30 % longer. */
#define SSE_FAST_FREE_EVENTS 8192

static sse_fast_event *sse_fast_free_events[SSE_FAST_FREE_EVENTS];
static int sse_fast_free_event_count = 0;

/* Whether no reference cycle can go through the event. */
static inline int
sse_fast_is_plain_event(const sse_fast_event *self)
{
    return PyUnicode_CheckExact(self->data)
           && (self->retry == Py_None || PyLong_CheckExact(self->retry));
}

/* Let the garbage collector know of an event with all its values. It never tracks plain ones. */
static inline void
sse_fast_track_event(sse_fast_event *self)
{
    if (!sse_fast_is_plain_event(self))
        PyObject_GC_Track(self);
}

/* Event's tp_alloc. The default tracks every object, so that the freeing of a plain event would have
 * to untrack it. */
static PyObject *
sse_fast_alloc_event(PyTypeObject *type, Py_ssize_t Py_UNUSED(count))
{
    sse_fast_event *self = PyObject_GC_New(sse_fast_event, type);

    if (self != NULL)
        self->event = self->data = self->id = self->retry = NULL;
    return (PyObject *)self;
}

/* Make an event that the garbage collector does not know of yet. It takes the references to its type
 * and data, also if it fails. */
static inline sse_fast_event *
sse_fast_make_event(PyTypeObject *type, PyObject *event, PyObject *data, PyObject *id,
                    PyObject *retry)
{
    sse_fast_event *self;

    if (sse_fast_free_event_count > 0) {
        self = sse_fast_free_events[--sse_fast_free_event_count];
#if defined(Py_DEBUG) || defined(Py_TRACE_REFS)
        PyObject_Init((PyObject *)self, type);
#else
        /* Its type is still set. */
        Py_SET_REFCNT((PyObject *)self, 1);
#endif
        Py_INCREF(id);
    }
    else {
        /* An allocation may run the garbage collector, and so code that changes the parser's id. */
        Py_INCREF(id);
        self = PyObject_GC_New(sse_fast_event, type);
        if (self == NULL) {
            Py_DECREF(event);
            Py_DECREF(data);
            Py_DECREF(id);
            return NULL;
        }
    }
    Py_INCREF(retry);
    self->event = event;
    self->data = data;
    self->id = id;
    self->retry = retry;
    return self;
}

static inline PyObject *
sse_fast_new_event(PyTypeObject *type, PyObject *event, PyObject *data, PyObject *id,
                   PyObject *retry)
{
    sse_fast_event *self;

    Py_INCREF(event);
    Py_INCREF(data);
    self = sse_fast_make_event(type, event, data, id, retry);
    if (self != NULL)
        sse_fast_track_event(self);
    return (PyObject *)self;
}

#if defined(__GNUC__)
#  define SSE_FAST_ALWAYS_INLINE static inline __attribute__((always_inline))
#else
#  define SSE_FAST_ALWAYS_INLINE static inline
#endif

/* Make a plain event of UTF-8. It takes the reference to its type, also if it fails; NULL for NULL.
 * As a call, it would cost a tenth of the shortest events. */
SSE_FAST_ALWAYS_INLINE PyObject *
sse_fast_new_text_event(PyTypeObject *type, PyObject *event, const uint8_t *at, size_t length,
                        int maybe_wide, PyObject *id)
{
    PyObject *data;

    if (event == NULL)
        return NULL;
    data = sse_fast_new_text(at, (Py_ssize_t)length, maybe_wide);
    if (data == NULL) {
        Py_DECREF(event);
        return NULL;
    }
    return (PyObject *)sse_fast_make_event(type, event, data, id, Py_None);
}

static inline void
sse_fast_drop_event(sse_fast_event *self)
{
    /* `tp_new` sets all four. */
    Py_DECREF(self->event);
    Py_DECREF(self->data);
    Py_DECREF(self->id);
    Py_DECREF(self->retry);
#ifndef Py_GIL_DISABLED
    if (sse_fast_free_event_count < SSE_FAST_FREE_EVENTS) {
        sse_fast_free_events[sse_fast_free_event_count++] = self;
        return;
    }
#endif
    PyObject_GC_Del(self);
}

/* Make an empty list with capacity: growing by appending took 1 to 4 % of the time of 64 KiB.
 * CPython 3.10 gives the capacity up again. */
static inline PyObject *
sse_fast_new_list(Py_ssize_t capacity)
{
    PyObject *list = PyList_New(capacity);

    if (list != NULL)
        Py_SET_SIZE((PyVarObject *)list, 0);
    return list;
}

/* Append an event, whose reference it takes, to a list with room for it, as most have. */
static inline int
sse_fast_append(PyObject *list, PyObject *event)
{
    int failed;
#ifndef Py_GIL_DISABLED
    Py_ssize_t size = PyList_GET_SIZE(list);

    if (size < ((PyListObject *)list)->allocated) {
        PyList_SET_ITEM(list, size, event);
        Py_SET_SIZE((PyVarObject *)list, size + 1);
        return 0;
    }
#endif
    failed = PyList_Append(list, event);
    Py_DECREF(event);
    return failed;
}

/* Return a list with one event, whose reference it takes; NULL for NULL. */
static inline PyObject *
sse_fast_list_of(PyObject *event)
{
    PyObject *list;

    if (event == NULL)
        return NULL;
#ifndef Py_GIL_DISABLED
    /* PyList_New(1) would also clear the place of the event, for twice the instructions. */
    list = PyList_New(0);
    if (list != NULL) {
        PyObject **items = PyMem_Malloc(sizeof *items);
        if (items != NULL) {
            items[0] = event;
            ((PyListObject *)list)->ob_item = items;
            ((PyListObject *)list)->allocated = 1;
            Py_SET_SIZE((PyVarObject *)list, 1);
            return list;
        }
        PyErr_NoMemory();
        Py_CLEAR(list);
    }
#else
    list = PyList_New(1);
    if (list != NULL) {
        PyList_SET_ITEM(list, 0, event);
        return list;
    }
#endif
    Py_DECREF(event);
    return NULL;
}

/* Pass a reference, or the exception of a call that returned NULL, on to Cython. */
static inline PyObject *
sse_fast_checked(PyObject *object)
{
    return object;
}

/* Event's tp_dealloc. */
static void
sse_fast_free_event(PyObject *object)
{
    sse_fast_event *self = (sse_fast_event *)object;

    if (sse_fast_is_plain_event(self)) {
        sse_fast_drop_event(self);
        return;
    }
    PyObject_GC_UnTrack(object);
    /* Events can nest without limit through data and retry; the trashcan bounds the recursion. */
    Py_TRASHCAN_BEGIN(object, sse_fast_free_event)
    sse_fast_drop_event(self);
    Py_TRASHCAN_END
}

#endif
