/* Makes and frees Events; the class itself is in `parser_c.pyx`, which this is a part of.
 *
 * A free list of our own, and no cycle collector for events whose data is text: with what Cython
 * makes of `@cython.freelist` an event took 34 % more instructions to make and to free.
 */
#ifndef SSE_FAST_EVENT_H
#define SSE_FAST_EVENT_H

#include <Python.h>

typedef struct {
    PyObject_HEAD
    PyObject *event, *data, *id, *retry;
} sse_fast_event;

/* The most that are kept, of 64 bytes each: as many as 64 KiB hold of the shortest in practice. With
 * 256, 64 KiB of typed events (500) took 10 % longer, and of ticks (5,000) 30 %. */
#define SSE_FAST_FREE_EVENTS 8192

static sse_fast_event *sse_fast_free_events[SSE_FAST_FREE_EVENTS];
static int sse_fast_free_event_count = 0;

static inline PyObject *
sse_fast_new_event(PyTypeObject *type, PyObject *event, PyObject *data, PyObject *id,
                   PyObject *retry)
{
    sse_fast_event *self;

    if (sse_fast_free_event_count > 0) {
        self = sse_fast_free_events[--sse_fast_free_event_count];
#if defined(Py_DEBUG) || defined(Py_TRACE_REFS)
        PyObject_Init((PyObject *)self, type);
#else
        /* It still has its type. */
        Py_SET_REFCNT((PyObject *)self, 1);
#endif
    }
    else {
        self = PyObject_GC_New(sse_fast_event, type);
        if (self == NULL)
            return NULL;
    }
    Py_INCREF(event);
    Py_INCREF(data);
    Py_INCREF(id);
    Py_INCREF(retry);
    self->event = event;
    self->data = data;
    self->id = id;
    self->retry = retry;
    /* Text refers to nothing, so no cycle can go through an event of text. */
    if (!PyUnicode_CheckExact(data))
        PyObject_GC_Track(self);
    return (PyObject *)self;
}

static inline void
sse_fast_drop_event(sse_fast_event *self)
{
    Py_XDECREF(self->event);
    Py_XDECREF(self->data);
    Py_XDECREF(self->id);
    Py_XDECREF(self->retry);
#ifndef Py_GIL_DISABLED
    if (sse_fast_free_event_count < SSE_FAST_FREE_EVENTS) {
        sse_fast_free_events[sse_fast_free_event_count++] = self;
        return;
    }
#endif
    PyObject_GC_Del(self);
}

/* An empty list with room: to grow one by appending took 1 to 4 % of the time of 64 KiB. (CPython
 * 3.10 takes the room away again.) */
static inline PyObject *
sse_fast_new_list(Py_ssize_t room)
{
    PyObject *list = PyList_New(room);

    if (list != NULL)
        Py_SET_SIZE((PyVarObject *)list, 0);
    return list;
}

/* Event's tp_dealloc. */
static void
sse_fast_free_event(PyObject *object)
{
    sse_fast_event *self = (sse_fast_event *)object;

    PyObject_GC_UnTrack(object);
    if (self->data != NULL && PyUnicode_CheckExact(self->data)
        && (self->retry == Py_None || PyLong_CheckExact(self->retry))) {
        sse_fast_drop_event(self);
        return;
    }
    /* Data may hold an event, whose data holds another (and retry, of events that a program makes):
     * a million of them is no reason to run out of stack. */
    Py_TRASHCAN_BEGIN(object, sse_fast_free_event)
    sse_fast_drop_event(self);
    Py_TRASHCAN_END
}

#endif
