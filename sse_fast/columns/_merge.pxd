"""Completes and concatenates batches: ids, dictionaries, copies. Nothing here needs the GIL.

`_fill_ids` gives the first rows of a segment the id of the segment before; `_attach_dictionary`
gives a batch the event types interned so far; `_append_batch` copies a batch to the end of another.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy, memmove, memset

from sse_fast._core.lines cimport Text
from sse_fast.columns._batch cimport (
    Batch, Dictionary, Memory, Strings, View, _add, _grow, _release_dictionary,
)
from sse_fast.columns._builder cimport BatchBuilder, _place, _reserve_ids
from sse_fast.columns._interner cimport Interner


cdef inline bint _fill_ids(
        BatchBuilder* b, Batch* batch, int64_t count, const Text* id) noexcept nogil:
    """Set the id of the first `count` rows of a batch, which have none. False: no memory."""
    cdef int64_t row
    cdef int64_t* ends
    cdef View view
    cdef size_t more = count * id.length
    b.batch = batch
    b.capacity = batch.rows
    if not batch.has_ids:
        if not _reserve_ids(b):
            return False
        # No row has an id yet.
        if not b.views:
            memset(batch.ids.slots.at, 0, (batch.rows + 1) * sizeof(int64_t))
        else:
            memset(batch.ids.slots.at, 0, batch.rows * sizeof(View))
        batch.null_ids = batch.rows
    for row in range(count):
        batch.id_validity.at[row >> 3] |= 1 << (row & 7)
    batch.null_ids -= count
    if b.views:
        # The id comes from another segment, so it is in no window of this batch.
        b.window_end = NULL
        if not _place(b, id, &view):
            return False
        for row in range(count):
            (<View*>batch.ids.slots.at)[row] = view
        return True
    if not _grow(&batch.ids.bytes, batch.ids.used, batch.ids.used + more):
        return False
    memmove(batch.ids.bytes.at + more, batch.ids.bytes.at, batch.ids.used)
    batch.ids.used += more
    ends = <int64_t*>batch.ids.slots.at
    for row in range(count):
        memcpy(batch.ids.bytes.at + row * id.length, id.at, id.length)
        ends[row] = row * <int64_t>id.length
    for row in range(count, batch.rows + 1):
        ends[row] += <int64_t>more
    return True


# -- Dictionaries ---------------------------------------------------------------------------------

cdef inline Dictionary* _new_dictionary(const Interner* interner) noexcept nogil:
    cdef size_t size = interner.offsets[interner.count] if interner.count else 0
    cdef Dictionary* dictionary = <Dictionary*>calloc(1, sizeof(Dictionary))
    if dictionary == NULL:
        return NULL
    dictionary.references = 1
    dictionary.offsets = <int64_t*>calloc(interner.count + 1, sizeof(int64_t))
    dictionary.values = <uint8_t*>malloc(size if size else 1)
    if dictionary.offsets == NULL or dictionary.values == NULL:
        _release_dictionary(dictionary)
        return NULL
    if interner.count:
        memcpy(dictionary.offsets, interner.offsets, (interner.count + 1) * sizeof(int64_t))
        memcpy(dictionary.values, interner.values, size)
    dictionary.count = interner.count
    return dictionary


cdef inline bint _attach_dictionary(
        Batch* batch, const Interner* interner, Dictionary** latest) noexcept nogil:
    """Give a batch the dictionary of all types so far: `latest`, or a new one if there are more."""
    if latest[0] == NULL or latest[0].count != interner.count:
        _release_dictionary(latest[0])
        latest[0] = _new_dictionary(interner)
        if latest[0] == NULL:
            return False
    _add(&latest[0].references, 1)
    _release_dictionary(batch.dictionary)
    batch.dictionary = latest[0]
    return True


# -- Concatenation --------------------------------------------------------------------------------

cdef inline void _append_batch(Batch* whole, Batch* batch) noexcept nogil:
    """Append a batch to a whole that has the capacity for it."""
    cdef int64_t start = whole.rows
    cdef int64_t row
    memcpy(<int32_t*>whole.types.at + start, batch.types.at, batch.rows * sizeof(int32_t))
    _append_strings(whole, &whole.data, &batch.data, batch.rows)
    if whole.has_offsets:
        memcpy(
            <int64_t*>whole.offsets.at + start, batch.offsets.at, batch.rows * sizeof(int64_t))
    if whole.has_ids:
        if batch.has_ids:
            _append_strings(whole, &whole.ids, &batch.ids, batch.rows)
            _append_bits(&whole.id_validity, start, &batch.id_validity, batch.rows)
            whole.null_ids += batch.null_ids
        else:
            whole.null_ids += batch.rows
            if whole.views:
                memset(<View*>whole.ids.slots.at + start, 0, batch.rows * sizeof(View))
            else:
                for row in range(start, start + batch.rows):
                    (<int64_t*>whole.ids.slots.at)[row + 1] = whole.ids.used
    if whole.has_retries:
        if batch.has_retries:
            memcpy(
                <int64_t*>whole.retries.at + start, batch.retries.at, batch.rows * sizeof(int64_t))
            _append_bits(&whole.retry_validity, start, &batch.retry_validity, batch.rows)
            whole.null_retries += batch.null_retries
        else:
            memset(<int64_t*>whole.retries.at + start, 0, batch.rows * sizeof(int64_t))
            whole.null_retries += batch.rows
    whole.rows += batch.rows


cdef inline void _append_strings(
        Batch* whole, Strings* to, Strings* of, int64_t count) noexcept nogil:
    cdef View* view
    cdef int64_t row
    if whole.views:
        memcpy(<View*>to.slots.at + whole.rows, of.slots.at, count * sizeof(View))
        for row in range(whole.rows, whole.rows + count):
            view = &(<View*>to.slots.at)[row]
            if view.length > 12:
                # The members before have two buffers each.
                view.buffer += <int32_t>(2 * whole.member_count)
        return
    if of.used:
        memcpy(to.bytes.at + to.used, of.bytes.at, of.used)
    for row in range(count):
        (<int64_t*>to.slots.at)[whole.rows + row + 1] = (
            <int64_t>to.used + (<int64_t*>of.slots.at)[row + 1])
    to.used += of.used


cdef inline void _append_bits(Memory* to, int64_t start, Memory* of, int64_t count) noexcept nogil:
    cdef int64_t row
    for row in range(count):
        if of.at[row >> 3] >> (row & 7) & 1:
            to.at[(start + row) >> 3] |= 1 << ((start + row) & 7)
