/* The buffer of a Python object, counted by the batches whose views point into it.
 *
 * It is the only part of a batch that needs the GIL when it is released. A thread that releases the
 * last reference without the GIL puts the buffer on a list, which the main thread soon empties.
 * Waiting for the GIL could deadlock: its holder may be waiting for that very thread.
 */
#ifndef SSE_FAST_SOURCE_BUFFER_H
#define SSE_FAST_SOURCE_BUFFER_H

#include <Python.h>

#include "_memory.h"

typedef struct sse_fast_buffer {
    long references;
    Py_buffer view;
    struct sse_fast_buffer *next;
} sse_fast_buffer;

static void *sse_fast_abandoned_buffers;

/* Release the buffers on the list. It is also a pending call of the interpreter. */
static int
sse_fast_free_abandoned_buffers(void *Py_UNUSED(ignored))
{
    sse_fast_buffer *buffer
        = (sse_fast_buffer *)SSE_FAST_EXCHANGE(&sse_fast_abandoned_buffers, NULL);
    sse_fast_buffer *next;

    for (; buffer != NULL; buffer = next) {
        next = buffer->next;
        PyBuffer_Release(&buffer->view);
        free(buffer);
    }
    return 0;
}

static void
sse_fast_release_buffer(sse_fast_buffer *buffer)
{
    sse_fast_buffer *others, *last;

    if (buffer == NULL || SSE_FAST_ADD(&buffer->references, -1) > 0 || !Py_IsInitialized())
        return;
    /* With several interpreters, PyGILState_Check alone always returns 1. */
    if (PyGILState_GetThisThreadState() != NULL && PyGILState_Check()) {
        PyBuffer_Release(&buffer->view);
        free(buffer);
        return;
    }
    /* Lock-free push: another thread may detach the list at any point, so take all of it, append it
     * to this buffer, and try again if somebody has pushed meanwhile. */
    do {
        others = (sse_fast_buffer *)SSE_FAST_EXCHANGE(&sse_fast_abandoned_buffers, NULL);
        if (others != NULL) {
            for (last = buffer; last->next != NULL; last = last->next)
                ;
            last->next = others;
        }
    } while (!sse_fast_fill_slot(&sse_fast_abandoned_buffers, buffer));
    /* If the queue of pending calls is full, the next call into this module drains the list. */
    (void)Py_AddPendingCall(sse_fast_free_abandoned_buffers, NULL);
}

#endif
