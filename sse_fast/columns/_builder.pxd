"""Builds batches from the values that `_core/lines.pxd` finds.

Everything here runs without the GIL, so that segments can be read in parallel.

In the order of the file: growing the columns of a batch, beginning a batch, appending one value to
a column, the last event ID, and the loop over the bytes (`_add_row`, `_add_rows`).

`_add_rows` adds a row for each event until the chunk is used up or the batch is full. With copies,
the text of a column is one block. With views, a value in a stable chunk is not copied: its view
points into the *window*, the part of the source that belongs to the batch; other text (several
data lines, replaced UTF-8, ids from before the chunk) is copied to `data.bytes`.
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint8_t
from libc.string cimport memcpy, memset

from sse_fast._core.lines cimport (
    DISPATCH, NEED_INPUT, TOO_LARGE, LineState, Scan, Step, Text,
    _begin_skipping, _borrow, _find_block_end, _is_between_blocks, _next_step, _read_block,
    _skip_block, _take_block,
)
from sse_fast.columns._batch cimport Batch, Memory, Strings, View, _copy, _grow, _reserve, _set_view
from sse_fast.columns._interner cimport Interner, _intern_next


cdef extern from "utf8.h" nogil:
    bint is_utf8 "sse_fast_is_utf8"(const uint8_t* at, size_t length) noexcept
    size_t replace_invalid "sse_fast_replace"(
        uint8_t* to, const uint8_t* at, size_t length) noexcept


cdef enum:
    LARGEST_WINDOW = 0x40000000     # bytes; offsets of views have 31 bits
    MOST_COPIED = 0x10000000        # bytes of a batch with views that lie in no window


cdef enum State:
    USED_UP         # the chunk has been read
    FULL            # the batch has to be finished before the next row
    OVER_LIMIT      # an event exceeded max_event_size
    OUT_OF_MEMORY
    TOO_MANY_IDS    # the copies of ids take too many bytes
    TOO_MANY_TYPES


cdef struct BatchBuilder:
    LineState stream
    Scan scan
    Interner interner
    int64_t message             # number of the type "message"; -1: not interned yet
    Batch* batch                # being filled; NULL: none
    int64_t capacity            # rows that fit into the batch as it is
    # The options.
    bint views
    bint has_offsets
    bint skips
    int64_t max_rows
    int64_t max_bytes           # of a batch: bytes of its input, and bytes of its text
    int64_t max_id_bytes        # of the copies of ids, in all batches together
    int64_t id_bytes
    # The chunk.
    const uint8_t* chunk
    const uint8_t* end
    int64_t chunk_offset        # of its first byte in the source
    bint is_stable              # it outlives the batches, so views may point into it
    const uint8_t* window_end
    int64_t block_offset        # where the current block began in the source
    int64_t cut                 # the batch is full once an event ends at this offset or later
    # The last event ID.
    const uint8_t* id           # in the chunk, or in `own_id`
    size_t id_length
    Memory own_id
    View id_view
    bint id_is_placed           # `id_view` belongs to this batch
    bint id_is_unknown          # the id in force is that of the segment before
    int64_t unknown_rows        # number of rows with that id
    bint is_skipping            # within a block that exceeded the limit
    int64_t skipped
    int64_t bytes_per_event     # estimated from the beginning of the segment
    Memory replaced             # the latest text with U+FFFD for invalid UTF-8


# -- Columns --------------------------------------------------------------------------------------

cdef inline bint _reserve_rows(BatchBuilder* b, int64_t capacity) noexcept nogil:
    """Make room for `capacity` rows, at most `max_rows`. False: no memory."""
    cdef Batch* batch = b.batch
    cdef size_t slot = sizeof(View) if b.views else sizeof(int64_t)
    cdef size_t used = batch.rows
    if capacity > b.max_rows:
        capacity = b.max_rows
    if capacity <= b.capacity:
        return True
    if (not _reserve(&batch.types, used * sizeof(int32_t), capacity * sizeof(int32_t))
            or not _reserve(&batch.data.slots, (used + 1) * slot if b.capacity else 0,
                            (capacity + 1) * slot)):
        return False
    if b.has_offsets and not _reserve(
            &batch.offsets, used * sizeof(int64_t), capacity * sizeof(int64_t)):
        return False
    b.capacity = capacity
    return ((not batch.has_ids or _reserve_ids(b))
            and (not batch.has_retries or _reserve_retries(b)))


cdef inline bint _reserve_ids(BatchBuilder* b) noexcept nogil:
    """Make or extend the id column to `capacity` rows; the new ones are null."""
    cdef Batch* batch = b.batch
    cdef size_t slot = sizeof(View) if b.views else sizeof(int64_t)
    cdef size_t used = batch.rows if batch.has_ids else 0
    cdef size_t validity = (b.capacity + 7) // 8
    if (not _reserve(&batch.ids.slots, (used + 1) * slot if used else 0, (b.capacity + 1) * slot)
            or not _reserve(&batch.id_validity, (used + 7) // 8, validity)):
        return False
    memset(batch.id_validity.at + (used + 7) // 8, 0, validity - (used + 7) // 8)
    if not batch.has_ids:
        memset(batch.ids.slots.at, 0, (batch.rows + 1) * slot)
        batch.has_ids = True
        batch.null_ids = batch.rows
    return True


cdef inline bint _reserve_retries(BatchBuilder* b) noexcept nogil:
    """Make or extend the retry column to `capacity` rows; the new ones are null."""
    cdef Batch* batch = b.batch
    cdef size_t used = batch.rows if batch.has_retries else 0
    cdef size_t validity = (b.capacity + 7) // 8
    if (not _reserve(&batch.retries, used * sizeof(int64_t), b.capacity * sizeof(int64_t))
            or not _reserve(&batch.retry_validity, (used + 7) // 8, validity)):
        return False
    memset(batch.retry_validity.at + (used + 7) // 8, 0, validity - (used + 7) // 8)
    if not batch.has_retries:
        memset(batch.retries.at, 0, batch.rows * sizeof(int64_t))
        batch.has_retries = True
        batch.null_retries = batch.rows
    return True


cdef inline bint _begin_rows(BatchBuilder* b, const uint8_t* at) noexcept nogil:
    """Prepare a new batch for the events from `at` on. False: no memory."""
    cdef int64_t left = b.end - at
    cdef int64_t capacity = 16
    cdef Batch* batch = b.batch
    cdef size_t slot = sizeof(View) if b.views else sizeof(int64_t)
    batch.has_offsets = b.has_offsets
    # A batch from the pool has capacity already.
    b.capacity = min(<int64_t>(batch.types.capacity // sizeof(int32_t)),
                     <int64_t>(batch.data.slots.capacity // slot) - 1)
    if b.has_offsets:
        b.capacity = min(b.capacity, <int64_t>(batch.offsets.capacity // sizeof(int64_t)))
    b.capacity = max(0, min(b.capacity, b.max_rows))
    if b.is_stable:
        left = min(left, b.max_bytes)
        capacity += left // b.bytes_per_event + left // b.bytes_per_event // 8
        if not b.views and not _reserve(
                &batch.data.bytes, 0, min(left, 2 * b.max_rows * b.bytes_per_event) + 64):
            return False
    if not _reserve_rows(b, capacity):
        return False
    b.window_end = NULL
    if b.is_stable and b.views:
        batch.window = at
        b.window_end = at + min(<int64_t>(b.end - at), 2 * <int64_t>LARGEST_WINDOW - 1)
    if not b.views:
        (<int64_t*>batch.data.slots.at)[0] = 0
    b.cut = b.chunk_offset + (at - b.chunk)
    b.cut += min(b.max_bytes, <int64_t>LARGEST_WINDOW if b.views else INT64_MAX - b.cut)
    b.id_is_placed = False
    return True


cdef inline int64_t _estimate_bytes_per_event(
        const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return the mean size of a block within the first 64 KiB, at least 6 bytes."""
    cdef const uint8_t* start = at
    cdef int64_t count = 0
    if end - at > 65536:
        end = at + 65536
    while at < end:
        at = _find_block_end(at, end)
        count += 1
    return max(6, (end - start) // count) if count else 6


# -- Values ---------------------------------------------------------------------------------------

cdef inline bint _is_valid(const Text* text) noexcept nogil:
    return not text.non_ascii or is_utf8(text.at, text.length)


cdef inline bint _replace(BatchBuilder* b, Text* text) noexcept nogil:
    """Replace invalid UTF-8 by U+FFFD, in a buffer that is reused by the next call."""
    if not _grow(&b.replaced, 0, 3 * text.length):
        return False
    text.length = replace_invalid(b.replaced.at, text.at, text.length)
    text.at = b.replaced.at
    text.non_ascii = 1
    return True


cdef inline const uint8_t* _readable_end(const BatchBuilder* b, const Text* text) noexcept nogil:
    """Return the end of the readable memory around `text`, since short copies read past its end."""
    if b.chunk <= text.at and text.at < b.end:
        return b.end
    return text.at + text.length


cdef inline bint _place(BatchBuilder* b, const Text* text, View* view) noexcept nogil:
    """Set a view to a text in the window, or to a copy of it beside the batch."""
    cdef const uint8_t* window = b.batch.window
    if window <= text.at and text.at + text.length <= b.window_end:
        _set_view(view, text.at, text.length, b.window_end, 0, text.at - window)
        return True
    return _place_copy(b, text, view)


cdef inline bint _place_copy(BatchBuilder* b, const Text* text, View* view) noexcept nogil:
    """Set a view to a copy. Apart from `_place`, which is then small enough to be inlined."""
    cdef Batch* batch = b.batch
    cdef size_t used = batch.data.used
    if text.length > 12:
        if not _grow(&batch.data.bytes, used, used + text.length):
            return False
        memcpy(batch.data.bytes.at + used, text.at, text.length)
        batch.data.used += text.length
    _set_view(view, text.at, text.length, text.at + text.length, 1, used)
    return True


cdef inline bint _append(Strings* strings, const Text* text, const uint8_t* end) noexcept nogil:
    if strings.used + text.length + 32 > strings.bytes.capacity:
        if not _grow(&strings.bytes, strings.used, strings.used + text.length + 32):
            return False
    _copy(strings.bytes.at + strings.used, text.at, text.length, end)
    strings.used += text.length
    return True


cdef inline bint _append_id(BatchBuilder* b) noexcept nogil:
    """Append the last event ID to the row that is being added."""
    cdef Batch* batch = b.batch
    cdef Text text
    cdef int64_t row = batch.rows
    if b.id_is_unknown or b.id_length == 0:
        if batch.has_ids:
            batch.null_ids += 1
            if b.views:
                memset(batch.ids.slots.at + row * sizeof(View), 0, sizeof(View))
            else:
                (<int64_t*>batch.ids.slots.at)[row + 1] = batch.ids.used
        return True
    if not batch.has_ids and not _reserve_ids(b):
        return False
    text.at = b.id
    text.length = b.id_length
    batch.id_validity.at[row >> 3] |= 1 << (row & 7)
    if b.views:
        if not b.id_is_placed:
            if not _place(b, &text, &b.id_view):
                return False
            b.id_is_placed = True
        (<View*>batch.ids.slots.at)[row] = b.id_view
        return True
    b.id_bytes += text.length
    if not _append(&batch.ids, &text, _readable_end(b, &text)):
        return False
    (<int64_t*>batch.ids.slots.at)[row + 1] = batch.ids.used
    return True


cdef inline bint _append_retry(BatchBuilder* b, int64_t retry) noexcept nogil:
    """Append a retry in ms, or null for -1, to the row that is being added."""
    cdef Batch* batch = b.batch
    cdef int64_t row = batch.rows
    if not batch.has_retries and not _reserve_retries(b):
        return False
    if retry >= 0:
        (<int64_t*>batch.retries.at)[row] = retry
        batch.retry_validity.at[row >> 3] |= 1 << (row & 7)
    else:
        (<int64_t*>batch.retries.at)[row] = 0
        batch.null_retries += 1
    return True


# -- The last event ID ----------------------------------------------------------------------------

cdef inline bint _set_id(BatchBuilder* b, Text* id) noexcept nogil:
    """Commit the id of a block, as its blank line does. False: no memory."""
    if b.id_is_unknown:
        b.unknown_rows += b.batch.rows
        b.id_is_unknown = False
    b.id_is_placed = False
    if b.is_stable and b.chunk <= id.at and id.at < b.end and _is_valid(id):
        b.id = id.at
        b.id_length = id.length
        return True
    if not _is_valid(id) and not _replace(b, id):
        return False
    return _copy_id(b, id.at, id.length)


cdef inline bint _copy_id(BatchBuilder* b, const uint8_t* at, size_t length) noexcept nogil:
    if not _grow(&b.own_id, 0, length):
        return False
    if length:
        memcpy(b.own_id.at, at, length)
    b.id = b.own_id.at
    b.id_length = length
    return True


cdef inline bint _own_id(BatchBuilder* b) noexcept nogil:
    """Copy the id out of the chunk, which is about to be released. False: no memory."""
    return b.id == b.own_id.at or _copy_id(b, b.id, b.id_length)


# -- Rows -----------------------------------------------------------------------------------------

cdef inline State _add_row(
        BatchBuilder* b, Text* data, Text* event_type, Text* id, int64_t retry) noexcept nogil:
    """Add an event (9.2.6, "dispatch the event").

    `id.at` is NULL if the block has no id, `retry` is -1 if it has no retry.
    """
    cdef Batch* batch = b.batch
    cdef int64_t row = batch.rows
    cdef int64_t number = b.message
    if row == b.capacity and not _reserve_rows(b, row + (row >> 1) + 64):
        return OUT_OF_MEMORY
    if id.at != NULL and not _set_id(b, id):
        return OUT_OF_MEMORY
    if event_type.length or number < 0:
        if not event_type.length:
            _borrow(event_type, <const uint8_t*>b"message", 7, 0)
        elif not _is_valid(event_type) and not _replace(b, event_type):
            return OUT_OF_MEMORY
        number = _intern_next(&b.interner, event_type.at, event_type.length)
        if number < 0:
            return TOO_MANY_TYPES if b.interner.count == INT32_MAX else OUT_OF_MEMORY
        if event_type.at == <const uint8_t*>b"message":
            b.message = number
    (<int32_t*>batch.types.at)[row] = <int32_t>number
    if not _is_valid(data) and not _replace(b, data):
        return OUT_OF_MEMORY
    if b.views:
        if not _place(b, data, &(<View*>batch.data.slots.at)[row]):
            return OUT_OF_MEMORY
    else:
        if not _append(&batch.data, data, _readable_end(b, data)):
            return OUT_OF_MEMORY
        (<int64_t*>batch.data.slots.at)[row + 1] = batch.data.used
    if b.id_length or batch.has_ids:
        if not _append_id(b):
            return OUT_OF_MEMORY
    if retry >= 0 or batch.has_retries:
        if not _append_retry(b, retry):
            return OUT_OF_MEMORY
    if b.has_offsets:
        (<int64_t*>batch.offsets.at)[row] = b.block_offset
    batch.rows = row + 1
    return USED_UP


cdef inline State _add_rows(BatchBuilder* b, const uint8_t** cursor) noexcept nogil:
    """Add events from `cursor` on until the chunk is used up or the batch is full."""
    cdef LineState* stream = &b.stream
    cdef Scan scan = b.scan
    cdef const uint8_t* at = cursor[0]
    cdef const uint8_t* end = b.end
    cdef Batch* batch = b.batch
    cdef size_t most_text = min(b.max_bytes, MOST_COPIED if b.views else b.max_bytes)
    cdef Step step
    cdef State state = USED_UP
    cdef Text data
    cdef Text event_type
    cdef Text id
    cdef int64_t retry
    while True:
        retry = -1
        if b.is_skipping:
            if not _skip_block(stream, &scan, &at, end):
                break
            b.is_skipping = False
            b.block_offset = b.chunk_offset + (at - b.chunk)
        if not _is_between_blocks(stream) or not _read_block(
                stream, &scan, &at, end, &event_type, &id, &data):
            step = _next_step(stream, &scan, &at, end)
            if step == NEED_INPUT:
                break
            if step == TOO_LARGE and b.skips:
                b.skipped += 1
                b.is_skipping = True
                _begin_skipping(stream, b.chunk, at)
                continue
            if step != DISPATCH:
                state = OVER_LIMIT if step == TOO_LARGE else OUT_OF_MEMORY
                break
            _take_block(stream, &event_type, &id, &data, &retry)
            if data.at == NULL:
                if id.at != NULL and not _set_id(b, &id):
                    state = OUT_OF_MEMORY
                    break
                b.block_offset = b.chunk_offset + (at - b.chunk)
                continue
        state = _add_row(b, &data, &event_type, &id, retry)
        if state != USED_UP:
            break
        b.block_offset = b.chunk_offset + (at - b.chunk)
        if b.id_bytes > b.max_id_bytes:
            state = TOO_MANY_IDS
            break
        if (batch.rows == b.max_rows or b.block_offset >= b.cut
                or batch.data.used + batch.ids.used >= most_text):
            state = FULL
            break
    cursor[0] = at
    b.scan = scan
    return state
