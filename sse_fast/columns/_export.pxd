"""Batches as Arrow's C data interface, by which every Arrow library can read them.

https://arrow.apache.org/docs/format/CDataInterface.html has the structures and the rules: an array
may be moved, its children may be moved out of it, and each is released once, from any thread. So
every array and every child holds the batch by itself.

The columns are `event` (numbers into a dictionary), `data`, `id`, `retry` and, if asked for,
`offset`. The text columns are large strings (format "U") or string views ("vu").
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from sse_fast.columns._batch cimport (
    Batch, Dictionary, Memory, Strings, View, _add, _release_batch, _release_dictionary,
    _retain_batch,
)


cdef enum:
    NULLABLE = 2                # ARROW_FLAG_NULLABLE


cdef struct ArrowSchema:
    const char* format
    const char* name
    const char* metadata
    int64_t flags
    int64_t n_children
    ArrowSchema** children
    ArrowSchema* dictionary
    void (*release)(ArrowSchema*) noexcept nogil
    void* private_data


cdef struct ArrowArray:
    int64_t length
    int64_t null_count
    int64_t offset
    int64_t n_buffers
    int64_t n_children
    const void** buffers
    ArrowArray** children
    ArrowArray* dictionary
    void (*release)(ArrowArray*) noexcept nogil
    void* private_data


cdef struct ArrowArrayStream:
    int (*get_schema)(ArrowArrayStream*, ArrowSchema* out) noexcept nogil
    int (*get_next)(ArrowArrayStream*, ArrowArray* out) noexcept nogil
    const char* (*get_last_error)(ArrowArrayStream*) noexcept nogil
    void (*release)(ArrowArrayStream*) noexcept nogil
    void* private_data


cdef struct Held:
    # The private data of an array. It stays where it is when the array is moved.
    Batch* batch
    Dictionary* dictionary
    void* owned                 # memory made for this array alone
    const int64_t* empty        # the target of buffers without content, which must not be NULL
    const void** buffers


# -- Arrays ---------------------------------------------------------------------------------------

cdef inline void _release_array(ArrowArray* array) noexcept nogil:
    cdef Held* held = <Held*>array.private_data
    cdef ArrowArray* child
    cdef int64_t index
    for index in range(array.n_children):
        child = array.children[index]
        if child.release != NULL:
            child.release(child)
    # The children are in the same block, after the pointers to them.
    free(array.children)
    if array.dictionary != NULL:
        if array.dictionary.release != NULL:
            array.dictionary.release(array.dictionary)
        free(array.dictionary)
    array.release = NULL
    free(held.owned)
    _release_dictionary(held.dictionary)
    _release_batch(held.batch)
    free(held)


cdef inline Held* _begin_array(ArrowArray* array, Batch* batch, int64_t n_buffers) noexcept nogil:
    """Make an array without values that holds the batch, if there is one. NULL: no memory."""
    cdef size_t size = sizeof(Held) + 2 * sizeof(int64_t)
    cdef Held* held = <Held*>calloc(1, size + n_buffers * sizeof(void*))
    memset(array, 0, sizeof(ArrowArray))
    if held == NULL:
        return NULL
    held.empty = <const int64_t*>(held + 1)
    held.buffers = <const void**>(<uint8_t*>held + size)
    if batch != NULL:
        _retain_batch(batch)
        held.batch = batch
        array.length = batch.rows
    array.n_buffers = n_buffers
    array.buffers = held.buffers
    array.private_data = held
    array.release = _release_array
    return held


cdef inline bint _begin_children(ArrowArray* array, int64_t count) noexcept nogil:
    cdef uint8_t* memory = <uint8_t*>calloc(count, sizeof(ArrowArray*) + sizeof(ArrowArray))
    cdef int64_t index
    if memory == NULL:
        return False
    array.children = <ArrowArray**>memory
    array.n_children = count
    for index in range(count):
        array.children[index] = <ArrowArray*>(memory + count * sizeof(ArrowArray*)) + index
    return True


cdef inline const void* _or_empty(const Held* held, const void* at) noexcept nogil:
    return at if at != NULL else held.empty


cdef inline bint _make_null(
        ArrowArray* array, Held* held, int64_t rows, size_t slot_size) noexcept nogil:
    """Fill an array with nulls."""
    cdef size_t validity = ((rows + 7) // 8 + 63) & ~<size_t>63
    # No code writes to these zeros, so the system never maps most of their pages.
    cdef uint8_t* zeros = <uint8_t*>calloc(1, validity + (rows + 1) * slot_size)
    if zeros == NULL:
        return False
    held.owned = zeros
    held.buffers[0] = zeros
    held.buffers[1] = zeros + validity
    array.null_count = rows
    return True


cdef inline void _add_view_buffers(
        Batch* batch, Held* held, const void** buffers, int64_t* sizes) noexcept nogil:
    """Add the two buffers that the views of a batch, or of each member, point into.

    They are its window and its bytes, the same for both text columns.
    """
    cdef Batch* member
    cdef int64_t index
    for index in range(max(1, batch.member_count)):
        member = batch.members[index] if batch.member_count else batch
        buffers[2 * index] = _or_empty(held, member.window)
        buffers[2 * index + 1] = _or_empty(held, member.data.bytes.at)
        sizes[2 * index] = member.window_size
        sizes[2 * index + 1] = <int64_t>member.data.used


cdef inline bint _make_strings(
        ArrowArray* array, Batch* batch, const Strings* strings, const void* validity,
        int64_t null_count, bint is_null) noexcept nogil:
    cdef int64_t view_buffers = 2 * max(1, batch.member_count)
    cdef int64_t* sizes
    cdef Held* held
    if is_null:
        held = _begin_array(array, batch, 3)
        if held == NULL:
            return False
        # The text buffer is empty; for views, this is the (empty) list of buffer sizes.
        held.buffers[2] = held.empty
        return _make_null(
            array, held, batch.rows, sizeof(View) if batch.views else sizeof(int64_t))
    held = _begin_array(array, batch, 2 + view_buffers + 1 if batch.views else 3)
    if held == NULL:
        return False
    array.null_count = null_count
    held.buffers[0] = validity if null_count else NULL
    held.buffers[1] = _or_empty(held, strings.slots.at)
    if not batch.views:
        held.buffers[2] = _or_empty(held, strings.bytes.at)
        return True
    sizes = <int64_t*>calloc(view_buffers, sizeof(int64_t))
    if sizes == NULL:
        return False
    held.owned = sizes
    _add_view_buffers(batch, held, held.buffers + 2, sizes)
    held.buffers[2 + view_buffers] = sizes
    return True


cdef inline bint _make_types(ArrowArray* array, Batch* batch) noexcept nogil:
    cdef Held* held = _begin_array(array, batch, 2)
    if held == NULL:
        return False
    held.buffers[1] = _or_empty(held, batch.types.at)
    array.dictionary = <ArrowArray*>calloc(1, sizeof(ArrowArray))
    if array.dictionary == NULL:
        return False
    held = _begin_array(array.dictionary, NULL, 3)
    if held == NULL:
        return False
    _add(&batch.dictionary.references, 1)
    held.dictionary = batch.dictionary
    held.buffers[1] = batch.dictionary.offsets
    held.buffers[2] = _or_empty(held, batch.dictionary.values)
    array.dictionary.length = batch.dictionary.count
    return True


cdef inline bint _make_numbers(
        ArrowArray* array, Batch* batch, const Memory* numbers, const void* validity,
        int64_t null_count, bint is_null) noexcept nogil:
    cdef Held* held = _begin_array(array, batch, 2)
    if held == NULL:
        return False
    if is_null:
        return _make_null(array, held, batch.rows, sizeof(int64_t))
    array.null_count = null_count
    held.buffers[0] = validity if null_count else NULL
    held.buffers[1] = _or_empty(held, numbers.at)
    return True


cdef inline bint _export_batch(Batch* batch, ArrowArray* array) noexcept nogil:
    """Export a batch as a struct array. False: no memory, and nothing is left to release."""
    if _begin_array(array, batch, 1) == NULL:
        return False
    if (_begin_children(array, 5 if batch.has_offsets else 4)
            and _make_types(array.children[0], batch)
            and _make_strings(array.children[1], batch, &batch.data, NULL, 0, False)
            and _make_strings(array.children[2], batch, &batch.ids, batch.id_validity.at,
                              batch.null_ids, not batch.has_ids)
            and _make_numbers(array.children[3], batch, &batch.retries, batch.retry_validity.at,
                              batch.null_retries, not batch.has_retries)
            and (not batch.has_offsets
                 or _make_numbers(array.children[4], batch, &batch.offsets, NULL, 0, False))):
        return True
    array.release(array)
    return False


# -- The schema -----------------------------------------------------------------------------------

cdef inline void _release_schema(ArrowSchema* schema) noexcept nogil:
    cdef int64_t index
    for index in range(schema.n_children):
        if schema.children[index].release != NULL:
            schema.children[index].release(schema.children[index])
    free(schema.children)
    if schema.dictionary != NULL:
        if schema.dictionary.release != NULL:
            schema.dictionary.release(schema.dictionary)
        free(schema.dictionary)
    schema.release = NULL


cdef inline void _begin_schema(
        ArrowSchema* schema, const char* name, const char* format, int64_t flags) noexcept nogil:
    memset(schema, 0, sizeof(ArrowSchema))
    schema.name = name
    schema.format = format
    schema.flags = flags
    schema.release = _release_schema


cdef inline bint _export_schema(ArrowSchema* schema, bint views, bint offsets) noexcept nogil:
    """Export the schema of batches. False: no memory, and nothing is left to release."""
    cdef int64_t count = 5 if offsets else 4
    cdef const char* text = b"vu" if views else b"U"
    cdef uint8_t* memory = <uint8_t*>calloc(count, sizeof(ArrowSchema*) + sizeof(ArrowSchema))
    cdef ArrowSchema* children
    cdef int64_t index
    if memory == NULL:
        return False
    _begin_schema(schema, b"", b"+s", 0)
    children = <ArrowSchema*>(memory + count * sizeof(ArrowSchema*))
    schema.children = <ArrowSchema**>memory
    schema.n_children = count
    for index in range(count):
        schema.children[index] = children + index
    _begin_schema(children, b"event", b"i", 0)
    _begin_schema(children + 1, b"data", text, 0)
    _begin_schema(children + 2, b"id", text, NULLABLE)
    _begin_schema(children + 3, b"retry", b"l", NULLABLE)
    if offsets:
        _begin_schema(children + 4, b"offset", b"l", 0)
    children.dictionary = <ArrowSchema*>calloc(1, sizeof(ArrowSchema))
    if children.dictionary == NULL:
        schema.release(schema)
        return False
    _begin_schema(children.dictionary, b"", b"U", 0)
    return True
