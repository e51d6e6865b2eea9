"""Record batches: the memory of their columns, and who holds it.

Batches are counted. The Python object holds one reference, and so does each exported array until
the consumer releases it, in any order, from any thread, with or without the GIL. Everything that a
batch refers to (the source's buffer, the dictionary of event types, other batches) is counted too.

The last release puts a batch back into its pool, if it has one, so that the next batch finds its
pages there: page faults of fresh memory cost more than parsing.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy


cdef extern from "Python.h":
    ctypedef struct Py_buffer:
        void* buf
        Py_ssize_t len


cdef extern from "_memory.h" nogil:
    long _add "SSE_FAST_ADD"(long*, long) noexcept
    void* _exchange "SSE_FAST_EXCHANGE"(void** at, void* pointer) noexcept
    bint _fill_slot "sse_fast_fill_slot"(void** slot, void* pointer) noexcept

    ctypedef struct Memory "sse_fast_memory":
        uint8_t* at
        size_t capacity
    void _free_memory "sse_fast_free_memory"(Memory*) noexcept
    bint _reserve "sse_fast_reserve_memory"(Memory*, size_t used, size_t capacity) noexcept
    bint _grow "sse_fast_grow_memory"(Memory*, size_t used, size_t capacity) noexcept
    void _copy "sse_fast_copy"(
        uint8_t* to, const uint8_t* at, size_t length, const uint8_t* end) noexcept
    void _copy_inline "sse_fast_copy_inline"(
        uint8_t* to, const uint8_t* at, size_t length, const uint8_t* end) noexcept


cdef extern from "_source_buffer.h" nogil:
    ctypedef struct Buffer "sse_fast_buffer":
        long references
        Py_buffer view
    void _release_buffer "sse_fast_release_buffer"(Buffer*) noexcept
    int _free_abandoned_buffers "sse_fast_free_abandoned_buffers"(void*) noexcept


cdef struct Dictionary:
    # Event types by number; never changed once it is made.
    long references
    int64_t count
    int64_t* offsets            # count + 1 of them
    uint8_t* values


cdef struct View:
    # Arrow's string view (https://arrow.apache.org/docs/format/Columnar.html). The 12 bytes after
    # the length hold a text of up to 12 bytes, or these three.
    int32_t length
    uint8_t prefix[4]
    int32_t buffer
    int32_t offset


cdef struct Strings:
    # With views, `slots` are views, and `bytes` is the text that lies nowhere else. Otherwise
    # `slots` are rows + 1 offsets, and `bytes` is all text.
    Memory slots
    Memory bytes
    size_t used                 # of `bytes`


cdef struct Batch:
    long references
    Pool* pool                  # NULL: freed when it is released
    int64_t rows
    bint views
    Memory types                # int32_t, numbers of the dictionary
    Dictionary* dictionary
    Strings data
    bint has_ids                # False: every id is null, and the next three are empty
    Strings ids                 # with views, their bytes are among those of `data`
    Memory id_validity
    int64_t null_ids
    bint has_retries
    Memory retries              # int64_t, ms
    Memory retry_validity
    int64_t null_retries
    bint has_offsets
    Memory offsets              # int64_t, byte offset of the event in its source
    # The part of the source that views point into, and the buffer that keeps it alive.
    Buffer* buffer
    const uint8_t* window
    int64_t window_size
    # The batches that this one was concatenated from, with views, which point into their windows
    # and bytes.
    Batch** members
    int64_t member_count


cdef enum:
    POOL_SLOTS = 64
    # Batches of ordinary events stay below this number of bytes. A batch that one giant event made
    # larger is not worth keeping.
    LARGEST_POOLED = 0x4000000


cdef struct Pool:
    # Released batches, for reuse.
    long references             # one of the reader, one of each batch in use
    long closed
    int64_t slot_count
    void* slots[POOL_SLOTS]


cdef inline void _release_dictionary(Dictionary* dictionary) noexcept nogil:
    if dictionary == NULL or _add(&dictionary.references, -1) > 0:
        return
    free(dictionary.offsets)
    free(dictionary.values)
    free(dictionary)


cdef inline void _set_view(
        View* view, const uint8_t* at, size_t length, const uint8_t* end, int32_t buffer,
        int64_t offset) noexcept nogil:
    """Set a view to the text `at`; memory is readable up to `end`."""
    view.length = <int32_t>length
    if length > 12:
        memcpy(view.prefix, at, 4)
        view.buffer = buffer
        view.offset = <int32_t>offset
    else:
        _copy_inline(<uint8_t*>view + sizeof(int32_t), at, length, end)


cdef inline void _free_batch(Batch* batch) noexcept nogil:
    _free_memory(&batch.types)
    _free_memory(&batch.data.slots)
    _free_memory(&batch.data.bytes)
    _free_memory(&batch.ids.slots)
    _free_memory(&batch.ids.bytes)
    _free_memory(&batch.id_validity)
    _free_memory(&batch.retries)
    _free_memory(&batch.retry_validity)
    _free_memory(&batch.offsets)
    free(batch)


cdef inline Pool* _new_pool(int64_t slot_count) noexcept nogil:
    cdef Pool* pool = <Pool*>calloc(1, sizeof(Pool))
    if pool != NULL:
        pool.references = 1
        pool.slot_count = min(slot_count, <int64_t>POOL_SLOTS)
    return pool


cdef inline void _empty_pool(Pool* pool) noexcept nogil:
    cdef int64_t index
    cdef Batch* batch
    for index in range(pool.slot_count):
        batch = <Batch*>_exchange(&pool.slots[index], NULL)
        if batch != NULL:
            _free_batch(batch)


cdef inline void _release_pool(Pool* pool) noexcept nogil:
    if pool == NULL or _add(&pool.references, -1) > 0:
        return
    _empty_pool(pool)
    free(pool)


cdef inline void _close_pool(Pool* pool) noexcept nogil:
    """Free what the pool holds; batches that are released from now on are freed."""
    _add(&pool.closed, 1)
    _empty_pool(pool)


cdef inline Batch* _new_batch(Pool* pool, bint views) noexcept nogil:
    """Return an empty batch, perhaps with capacity from an earlier use. NULL: no memory."""
    cdef Batch* batch = NULL
    cdef int64_t index
    if pool != NULL:
        for index in range(pool.slot_count):
            batch = <Batch*>_exchange(&pool.slots[index], NULL)
            if batch != NULL:
                break
    if batch == NULL:
        batch = <Batch*>calloc(1, sizeof(Batch))
        if batch == NULL:
            return NULL
    batch.references = 1
    batch.views = views
    batch.pool = pool
    if pool != NULL:
        _add(&pool.references, 1)
    return batch


cdef inline void _retain_batch(Batch* batch) noexcept nogil:
    _add(&batch.references, 1)


cdef inline bint _put_into_pool(Pool* pool, Batch* batch) noexcept nogil:
    cdef int64_t index
    if _add(&pool.closed, 0) or (
            batch.types.capacity + batch.data.slots.capacity + batch.data.bytes.capacity
            + batch.ids.slots.capacity + batch.ids.bytes.capacity + batch.retries.capacity
            + batch.offsets.capacity > LARGEST_POOLED):
        return False
    for index in range(pool.slot_count):
        if _fill_slot(&pool.slots[index], batch):
            return True
    return False


cdef inline void _release_batch(Batch* batch) noexcept nogil:
    cdef Pool* pool
    cdef int64_t index
    if batch == NULL or _add(&batch.references, -1) > 0:
        return
    for index in range(batch.member_count):
        _release_batch(batch.members[index])
    free(batch.members)
    batch.members = NULL
    batch.member_count = 0
    _release_buffer(batch.buffer)
    _release_dictionary(batch.dictionary)
    batch.buffer = NULL
    batch.dictionary = NULL
    batch.window = NULL
    batch.window_size = 0
    batch.rows = 0
    batch.data.used = batch.ids.used = 0
    batch.has_ids = batch.has_retries = batch.has_offsets = False
    batch.null_ids = batch.null_retries = 0
    pool = batch.pool
    batch.pool = NULL
    if pool == NULL or not _put_into_pool(pool, batch):
        _free_batch(batch)
    # Last, because this may free the pool, and the batch in it.
    _release_pool(pool)
