"""Rows of columns, made of the values that `lines.pxd` finds: without the GIL, as what is worth a
name here is called from threads.

`_add_rows` goes over the bytes at hand and adds a row for each event, until the batch is full or
the bytes are used up. What it needs to know stands in a `Work`. Memory, and what becomes of it in
Arrow's terms, is in `_arrow.h`.
"""

from libc.stdint cimport INT32_MAX, INT64_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, malloc
from libc.string cimport memcpy, memmove, memset

from sse_fast.columns._interner cimport Types, _number_of
from sse_fast._core.lines cimport (
    DISPATCH, NEED_INPUT, TOO_LARGE, LineState, Scan, Step, Text,
    _begin_skipping, _borrow, _find_block_end, _is_between_blocks, _next_step, _read_block,
    _skip_block, _take_block,
)


cdef extern from "Python.h":
    ctypedef struct Py_buffer:
        void* buf
        Py_ssize_t len


cdef extern from "scan.h" nogil:
    void _choose_scan "sse_fast_choose"() noexcept


cdef extern from "utf8.h" nogil:
    bint is_utf8 "sse_fast_is_utf8"(const uint8_t* at, size_t length) noexcept
    size_t replace_invalid "sse_fast_replace"(
        uint8_t* to, const uint8_t* at, size_t length) noexcept


cdef extern from "_arrow.h" nogil:
    ctypedef struct ArrowSchema "struct ArrowSchema":
        void (*release)(ArrowSchema*) noexcept
    ctypedef struct ArrowArray "struct ArrowArray":
        void (*release)(ArrowArray*) noexcept
    ctypedef struct ArrowArrayStream "struct ArrowArrayStream":
        int (*get_schema)(ArrowArrayStream*, ArrowSchema*) noexcept
        int (*get_next)(ArrowArrayStream*, ArrowArray*) noexcept
        const char* (*get_last_error)(ArrowArrayStream*) noexcept
        void (*release)(ArrowArrayStream*) noexcept
        void* private_data

    ctypedef struct Memory "sse_fast_memory":
        uint8_t* at
        size_t capacity
    void _free_memory "sse_fast_free_memory"(Memory*) noexcept
    bint _reserve "sse_fast_reserve_memory"(Memory*, size_t used, size_t capacity) noexcept
    bint _grow "sse_fast_grow_memory"(Memory*, size_t used, size_t capacity) noexcept
    void _copy "sse_fast_copy"(
        uint8_t* to, const uint8_t* at, size_t length, const uint8_t* end) noexcept

    ctypedef struct Arena "sse_fast_arena":
        long references
    Arena* _new_arena "sse_fast_new_arena"(size_t capacity) noexcept
    void _release_arena "sse_fast_release_arena"(Arena*) noexcept
    uint8_t* _take_part "sse_fast_take_part"(Arena*, size_t size) noexcept

    ctypedef struct InputBuffer "sse_fast_input":
        long references
        Py_buffer view
        InputBuffer* next
    void _release_input "sse_fast_release_input"(InputBuffer*) noexcept
    int _free_left_inputs "sse_fast_free_left_inputs"(void*) noexcept
    long _add "SSE_FAST_ADD"(long*, long) noexcept

    ctypedef struct Dictionary "sse_fast_dictionary":
        long references
        int64_t count
        int64_t* offsets
        uint8_t* values
    void _release_dictionary "sse_fast_release_dictionary"(Dictionary*) noexcept

    ctypedef struct View "sse_fast_view":
        int32_t length
    void _set_view "sse_fast_set_view"(
        View*, const uint8_t* at, size_t length, const uint8_t* end, int32_t buffer,
        int64_t offset) noexcept
    void _move_view "sse_fast_move_view"(View*, int32_t buffers) noexcept

    ctypedef struct Strings "sse_fast_strings":
        Memory places
        Memory bytes
        size_t used

    ctypedef struct Pool "sse_fast_pool":
        pass
    Pool* _new_pool "sse_fast_new_pool"(int64_t slot_count) noexcept
    void _close_pool "sse_fast_close_pool"(Pool*) noexcept
    void _release_pool "sse_fast_release_pool"(Pool*) noexcept

    ctypedef struct Rows "sse_fast_batch":
        Pool* pool
        int64_t rows
        bint views
        Memory types
        Dictionary* dictionary
        Strings data
        bint has_ids
        Strings ids
        Memory id_validity
        int64_t ids_null
        bint has_retries
        Memory retries
        Memory retry_validity
        int64_t retries_null
        bint has_offsets
        Memory offsets
        InputBuffer* input
        const uint8_t* window
        int64_t window_size
        Rows** parts
        int64_t part_count
    Rows* _new_rows "sse_fast_new_batch"(Pool*, bint views) noexcept
    void _retain_rows "sse_fast_retain_batch"(Rows*) noexcept
    void _release_rows "sse_fast_release_batch"(Rows*) noexcept
    size_t _packed_size "sse_fast_packed_size"(const Rows*) noexcept
    Rows* _pack_rows "sse_fast_pack_batch"(Rows*, Arena*, uint8_t* part) noexcept
    bint _export_rows "sse_fast_export_batch"(Rows*, ArrowArray*) noexcept
    bint _export_schema "sse_fast_export_schema"(ArrowSchema*, bint views, bint offsets) noexcept


cdef enum:
    MOST_PLACED = 0x10000000        # bytes of a batch with views that lie in no window
    LARGEST_WINDOW = 0x40000000


cdef enum State:
    USED_UP         # the bytes that there are
    FULL            # the batch: it has to be taken away
    OVER_LIMIT
    OUT_OF_MEMORY
    TOO_MANY_IDS    # bytes of ids, as one is repeated in every row
    TOO_MANY_TYPES


cdef struct Work:
    LineState stream
    Scan scan
    Types types
    int64_t message             # its number among the types; -1: it has none yet
    Rows* rows                  # the batch that is being filled; NULL: none
    int64_t room                # for so many rows
    bint views
    bint has_offsets
    bint skips
    int64_t max_rows
    int64_t max_bytes           # of a batch: of the input it is of, and of its text
    int64_t max_id_bytes        # of the ids of all batches together
    int64_t id_bytes
    # The bytes at hand.
    const uint8_t* chunk
    const uint8_t* end
    int64_t chunk_offset        # of its first byte in the source
    bint is_stable              # they stay, so that views may refer to them
    const uint8_t* window_end
    int64_t block_offset        # where the block began, in the source
    int64_t cut                 # an event that ends here in the source, or later, makes it full
    # The last event ID.
    const uint8_t* id           # in the bytes at hand, or in `kept_id`
    size_t id_length
    Memory kept_id
    View id_view
    bint id_is_placed           # `id_view` is one of this batch
    bint id_is_unknown          # it is that of the segment before
    int64_t unknown_rows        # rows of which that holds
    bint is_skipping
    int64_t skipped
    int64_t spacing             # bytes of the input to an event, as far as was seen
    Memory replaced


cdef inline bint _make_rows(Work* w, int64_t room) noexcept nogil:
    """Room for so many rows, those that there are included."""
    cdef Rows* rows = w.rows
    cdef size_t place = sizeof(View) if w.views else sizeof(int64_t)
    cdef size_t used = rows.rows
    if room > w.max_rows:
        room = w.max_rows
    if room <= w.room:
        return True
    if (not _reserve(&rows.types, used * sizeof(int32_t), room * sizeof(int32_t))
            or not _reserve(&rows.data.places, (used + 1) * place if w.room else 0,
                            (room + 1) * place)):
        return False
    if w.has_offsets and not _reserve(
            &rows.offsets, used * sizeof(int64_t), room * sizeof(int64_t)):
        return False
    w.room = room
    return (not rows.has_ids or _make_ids(w)) and (not rows.has_retries or _make_retries(w))


cdef inline bint _make_ids(Work* w) noexcept nogil:
    """The id column, with room for as many rows as the others; what is new of it is null."""
    cdef Rows* rows = w.rows
    cdef size_t place = sizeof(View) if w.views else sizeof(int64_t)
    cdef size_t used = rows.rows if rows.has_ids else 0
    cdef size_t validity = (w.room + 7) // 8
    # So much of them is in use, or must not be.
    if (not _reserve(&rows.ids.places, (used + 1) * place if used else 0, (w.room + 1) * place)
            or not _reserve(&rows.id_validity, (used + 7) // 8, validity)):
        return False
    memset(rows.id_validity.at + (used + 7) // 8, 0, validity - (used + 7) // 8)
    if not rows.has_ids:
        memset(rows.ids.places.at, 0, (rows.rows + 1) * place)
        rows.has_ids = True
        rows.ids_null = rows.rows
    return True


cdef inline bint _make_retries(Work* w) noexcept nogil:
    cdef Rows* rows = w.rows
    cdef size_t used = rows.rows if rows.has_retries else 0
    cdef size_t validity = (w.room + 7) // 8
    if (not _reserve(&rows.retries, used * sizeof(int64_t), w.room * sizeof(int64_t))
            or not _reserve(&rows.retry_validity, (used + 7) // 8, validity)):
        return False
    memset(rows.retry_validity.at + (used + 7) // 8, 0, validity - (used + 7) // 8)
    if not rows.has_retries:
        memset(rows.retries.at, 0, rows.rows * sizeof(int64_t))
        rows.has_retries = True
        rows.retries_null = rows.rows
    return True


cdef inline bint _begin_rows(Work* w, const uint8_t* at) noexcept nogil:
    """A new batch, of events from `at` on."""
    cdef int64_t left = w.end - at
    cdef int64_t room = 16
    cdef Rows* rows = w.rows
    cdef size_t place = sizeof(View) if w.views else sizeof(int64_t)
    rows.has_offsets = w.has_offsets
    # What an earlier use has left.
    w.room = min(<int64_t>(rows.types.capacity // sizeof(int32_t)),
                 <int64_t>(rows.data.places.capacity // place) - 1)
    if w.has_offsets:
        w.room = min(w.room, <int64_t>(rows.offsets.capacity // sizeof(int64_t)))
    w.room = max(0, min(w.room, w.max_rows))
    if w.is_stable:
        left = min(left, w.max_bytes)
        room += left // w.spacing + left // w.spacing // 8
        if not w.views and not _reserve(
                &rows.data.bytes, 0, min(left, 2 * w.max_rows * w.spacing) + 64):
            return False
    if not _make_rows(w, room):
        return False
    w.window_end = NULL
    if w.is_stable and w.views:
        rows.window = at
        w.window_end = at + min(<int64_t>(w.end - at), 2 * <int64_t>LARGEST_WINDOW - 1)
    if not w.views:
        (<int64_t*>rows.data.places.at)[0] = 0
    w.cut = w.chunk_offset + (at - w.chunk)
    w.cut += min(w.max_bytes, <int64_t>LARGEST_WINDOW if w.views else INT64_MAX - w.cut)
    w.id_is_placed = False
    return True


cdef inline bint _is_valid(const Text* text) noexcept nogil:
    return not text.non_ascii or is_utf8(text.at, text.length)


cdef inline bint _replace(Work* w, Text* text) noexcept nogil:
    """U+FFFD for what is not UTF-8, in a buffer that lasts until the next is replaced."""
    if not _grow(&w.replaced, 0, 3 * text.length):
        return False
    text.length = replace_invalid(w.replaced.at, text.at, text.length)
    text.at = w.replaced.at
    text.non_ascii = 1
    return True


cdef inline const uint8_t* _end_of(const Work* w, const Text* text) noexcept nogil:
    """Up to where memory can be read that has this text in it."""
    if w.chunk <= text.at and text.at < w.end:
        return w.end
    return text.at + text.length


cdef inline bint _place(Work* w, const Text* text, View* view) noexcept nogil:
    """A view of a text: of where it lies, if that stays, or of a copy beside the batch."""
    cdef const uint8_t* window = w.rows.window
    if window <= text.at and text.at + text.length <= w.window_end:
        _set_view(view, text.at, text.length, w.window_end, 0, text.at - window)
        return True
    return _place_copy(w, text, view)


cdef inline bint _place_copy(Work* w, const Text* text, View* view) noexcept nogil:
    cdef Rows* rows = w.rows
    cdef size_t used = rows.data.used
    if text.length > 12:
        if not _grow(&rows.data.bytes, used, used + text.length):
            return False
        memcpy(rows.data.bytes.at + used, text.at, text.length)
        rows.data.used += text.length
    _set_view(view, text.at, text.length, text.at + text.length, 1, used)
    return True


cdef inline bint _append(Strings* strings, const Text* text, const uint8_t* end) noexcept nogil:
    if strings.used + text.length + 32 > strings.bytes.capacity:
        if not _grow(&strings.bytes, strings.used, strings.used + text.length + 32):
            return False
    _copy(strings.bytes.at + strings.used, text.at, text.length, end)
    strings.used += text.length
    return True


cdef inline bint _append_id(Work* w) noexcept nogil:
    """The last event ID, of the row that is being added."""
    cdef Rows* rows = w.rows
    cdef Text text
    cdef int64_t at = rows.rows
    if w.id_is_unknown or w.id_length == 0:
        if rows.has_ids:
            rows.ids_null += 1
            if w.views:
                memset(rows.ids.places.at + at * sizeof(View), 0, sizeof(View))
            else:
                (<int64_t*>rows.ids.places.at)[at + 1] = rows.ids.used
        return True
    if not rows.has_ids and not _make_ids(w):
        return False
    text.at = w.id
    text.length = w.id_length
    rows.id_validity.at[at >> 3] |= 1 << (at & 7)
    if w.views:
        if not w.id_is_placed:
            if not _place(w, &text, &w.id_view):
                return False
            w.id_is_placed = True
        (<View*>rows.ids.places.at)[at] = w.id_view
        return True
    w.id_bytes += text.length
    if not _append(&rows.ids, &text, _end_of(w, &text)):
        return False
    (<int64_t*>rows.ids.places.at)[at + 1] = rows.ids.used
    return True


cdef inline bint _append_retry(Work* w, int64_t retry) noexcept nogil:
    """Of the row that is being added; -1: null."""
    cdef Rows* rows = w.rows
    cdef int64_t at = rows.rows
    if not rows.has_retries and not _make_retries(w):
        return False
    if retry >= 0:
        (<int64_t*>rows.retries.at)[at] = retry
        rows.retry_validity.at[at >> 3] |= 1 << (at & 7)
    else:
        (<int64_t*>rows.retries.at)[at] = 0
        rows.retries_null += 1
    return True


cdef inline bint _set_id(Work* w, Text* id) noexcept nogil:
    """What a blank line commits."""
    if w.id_is_unknown:
        w.unknown_rows += w.rows.rows
        w.id_is_unknown = False
    w.id_is_placed = False
    if w.is_stable and w.chunk <= id.at and id.at < w.end and _is_valid(id):
        w.id = id.at
        w.id_length = id.length
        return True
    if not _is_valid(id) and not _replace(w, id):
        return False
    if not _grow(&w.kept_id, 0, id.length):
        return False
    if id.length:
        memcpy(w.kept_id.at, id.at, id.length)
    w.id = w.kept_id.at
    w.id_length = id.length
    return True


cdef inline bint _keep_id(Work* w) noexcept nogil:
    """The bytes at hand go."""
    if w.id == w.kept_id.at:
        return True
    if not _grow(&w.kept_id, 0, w.id_length):
        return False
    if w.id_length:
        memcpy(w.kept_id.at, w.id, w.id_length)
    w.id = w.kept_id.at
    return True


cdef inline State _add_row(
        Work* w, Text* data, Text* event_type, Text* id, int64_t retry) noexcept nogil:
    """One event (9.2.6, "dispatch the event"). `id.at`: NULL if its block has none; `retry`: -1."""
    cdef Rows* rows = w.rows
    cdef int64_t at = rows.rows
    cdef int64_t number = w.message
    if at == w.room and not _make_rows(w, at + (at >> 1) + 64):
        return OUT_OF_MEMORY
    if id.at != NULL and not _set_id(w, id):
        return OUT_OF_MEMORY
    if event_type.length or number < 0:
        if not event_type.length:
            _borrow(event_type, <const uint8_t*>b"message", 7, 0)
        elif not _is_valid(event_type) and not _replace(w, event_type):
            return OUT_OF_MEMORY
        number = _number_of(&w.types, event_type.at, event_type.length)
        if number < 0:
            return TOO_MANY_TYPES if w.types.count == INT32_MAX else OUT_OF_MEMORY
        if event_type.at == <const uint8_t*>b"message":
            w.message = number
    (<int32_t*>rows.types.at)[at] = <int32_t>number
    if not _is_valid(data) and not _replace(w, data):
        return OUT_OF_MEMORY
    if w.views:
        if not _place(w, data, &(<View*>rows.data.places.at)[at]):
            return OUT_OF_MEMORY
    else:
        if not _append(&rows.data, data, _end_of(w, data)):
            return OUT_OF_MEMORY
        (<int64_t*>rows.data.places.at)[at + 1] = rows.data.used
    if w.id_length or rows.has_ids:
        if not _append_id(w):
            return OUT_OF_MEMORY
    if retry >= 0 or rows.has_retries:
        if not _append_retry(w, retry):
            return OUT_OF_MEMORY
    if w.has_offsets:
        (<int64_t*>rows.offsets.at)[at] = w.block_offset
    rows.rows = at + 1
    return USED_UP


cdef inline State _add_rows(Work* w, const uint8_t** cursor) noexcept nogil:
    """Go on at `cursor` until the bytes are used up or the batch is full."""
    cdef LineState* stream = &w.stream
    cdef Scan scan = w.scan
    cdef const uint8_t* at = cursor[0]
    cdef const uint8_t* end = w.end
    cdef Rows* rows = w.rows
    cdef size_t most_text = min(w.max_bytes, MOST_PLACED if w.views else w.max_bytes)
    cdef Step step
    cdef State state = USED_UP
    cdef Text data
    cdef Text event_type
    cdef Text id
    cdef int64_t retry
    while True:
        retry = -1
        if w.is_skipping:
            if not _skip_block(stream, &scan, &at, end):
                break
            w.is_skipping = False
            w.block_offset = w.chunk_offset + (at - w.chunk)
        if not _is_between_blocks(stream) or not _read_block(
                stream, &scan, &at, end, &event_type, &id, &data):
            step = _next_step(stream, &scan, &at, end)
            if step == NEED_INPUT:
                break
            if step == TOO_LARGE and w.skips:
                w.skipped += 1
                w.is_skipping = True
                _begin_skipping(stream, w.chunk, at)
                continue
            if step != DISPATCH:
                state = OVER_LIMIT if step == TOO_LARGE else OUT_OF_MEMORY
                break
            _take_block(stream, &event_type, &id, &data, &retry)
            if data.at == NULL:
                if id.at != NULL and not _set_id(w, &id):
                    state = OUT_OF_MEMORY
                    break
                w.block_offset = w.chunk_offset + (at - w.chunk)
                continue
        state = _add_row(w, &data, &event_type, &id, retry)
        if state != USED_UP:
            break
        w.block_offset = w.chunk_offset + (at - w.chunk)
        if w.id_bytes > w.max_id_bytes:
            state = TOO_MANY_IDS
            break
        if (rows.rows == w.max_rows or w.block_offset >= w.cut
                or rows.data.used + rows.ids.used >= most_text):
            state = FULL
            break
    cursor[0] = at
    w.scan = scan
    return state


cdef inline bint _fill_ids(Work* w, Rows* rows, int64_t count, const Text* id) noexcept nogil:
    """The id that was in force before the segment, for the first rows of a batch."""
    cdef int64_t at
    cdef int64_t* places
    cdef View view
    cdef size_t more = count * id.length
    w.rows = rows
    w.room = rows.rows
    if not rows.has_ids:
        if not _make_ids(w):
            return False
        if not w.views:
            # No row has one yet.
            memset(rows.ids.places.at, 0, (rows.rows + 1) * sizeof(int64_t))
        else:
            memset(rows.ids.places.at, 0, rows.rows * sizeof(View))
        rows.ids_null = rows.rows
    for at in range(count):
        rows.id_validity.at[at >> 3] |= 1 << (at & 7)
    rows.ids_null -= count
    if w.views:
        # Not in the window of the batch, wherever it is.
        w.window_end = NULL
        if not _place(w, id, &view):
            return False
        for at in range(count):
            (<View*>rows.ids.places.at)[at] = view
        return True
    if not _grow(&rows.ids.bytes, rows.ids.used, rows.ids.used + more):
        return False
    memmove(rows.ids.bytes.at + more, rows.ids.bytes.at, rows.ids.used)
    rows.ids.used += more
    places = <int64_t*>rows.ids.places.at
    for at in range(count):
        memcpy(rows.ids.bytes.at + at * id.length, id.at, id.length)
        places[at] = at * <int64_t>id.length
    for at in range(count, rows.rows + 1):
        places[at] += <int64_t>more
    return True


cdef inline int64_t _spacing_of(const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Bytes to an event, by a glance at the first 64 KiB."""
    cdef const uint8_t* start = at
    cdef int64_t count = 0
    if end - at > 65536:
        end = at + 65536
    while at < end:
        at = _find_block_end(at, end)
        count += 1
    return max(6, (end - start) // count) if count else 6


cdef inline Dictionary* _new_dictionary(const Types* types) noexcept nogil:
    cdef size_t size = types.offsets[types.count] if types.count else 0
    cdef Dictionary* dictionary = <Dictionary*>calloc(1, sizeof(Dictionary))
    if dictionary == NULL:
        return NULL
    dictionary.references = 1
    dictionary.offsets = <int64_t*>calloc(types.count + 1, sizeof(int64_t))
    dictionary.values = <uint8_t*>malloc(size if size else 1)
    if dictionary.offsets == NULL or dictionary.values == NULL:
        _release_dictionary(dictionary)
        return NULL
    if types.count:
        memcpy(dictionary.offsets, types.offsets, (types.count + 1) * sizeof(int64_t))
        memcpy(dictionary.values, types.values, size)
    dictionary.count = types.count
    return dictionary


cdef inline bint _set_dictionary(Rows* rows, const Types* types, Dictionary** latest) noexcept nogil:
    """The types so far; `latest` is made anew where there are more."""
    if latest[0] == NULL or latest[0].count != types.count:
        _release_dictionary(latest[0])
        latest[0] = _new_dictionary(types)
        if latest[0] == NULL:
            return False
    _add(&latest[0].references, 1)
    _release_dictionary(rows.dictionary)
    rows.dictionary = latest[0]
    return True


cdef inline void _add_batch(Rows* whole, Rows* rows) noexcept nogil:
    cdef int64_t start = whole.rows
    cdef int64_t at
    memcpy(<int32_t*>whole.types.at + start, rows.types.at, rows.rows * sizeof(int32_t))
    _add_strings(whole, &whole.data, &rows.data, rows.rows)
    if whole.has_offsets:
        memcpy(
            <int64_t*>whole.offsets.at + start, rows.offsets.at, rows.rows * sizeof(int64_t))
    if whole.has_ids:
        if rows.has_ids:
            _add_strings(whole, &whole.ids, &rows.ids, rows.rows)
            _add_bits(&whole.id_validity, start, &rows.id_validity, rows.rows)
            whole.ids_null += rows.ids_null
        else:
            whole.ids_null += rows.rows
            if whole.views:
                memset(<View*>whole.ids.places.at + start, 0, rows.rows * sizeof(View))
            else:
                for at in range(start, start + rows.rows):
                    (<int64_t*>whole.ids.places.at)[at + 1] = whole.ids.used
    if whole.has_retries:
        if rows.has_retries:
            memcpy(
                <int64_t*>whole.retries.at + start, rows.retries.at, rows.rows * sizeof(int64_t))
            _add_bits(&whole.retry_validity, start, &rows.retry_validity, rows.rows)
            whole.retries_null += rows.retries_null
        else:
            memset(<int64_t*>whole.retries.at + start, 0, rows.rows * sizeof(int64_t))
            whole.retries_null += rows.rows
    whole.rows += rows.rows


cdef inline void _add_strings(Rows* whole, Strings* to, Strings* of, int64_t count) noexcept nogil:
    cdef int64_t at
    if whole.views:
        memcpy(<View*>to.places.at + whole.rows, of.places.at, count * sizeof(View))
        for at in range(whole.rows, whole.rows + count):
            _move_view(&(<View*>to.places.at)[at], <int32_t>(2 * whole.part_count))
        return
    if of.used:
        memcpy(to.bytes.at + to.used, of.bytes.at, of.used)
    for at in range(count):
        (<int64_t*>to.places.at)[whole.rows + at + 1] = (
            <int64_t>to.used + (<int64_t*>of.places.at)[at + 1])
    to.used += of.used


cdef inline void _add_bits(Memory* to, int64_t start, Memory* of, int64_t count) noexcept nogil:
    cdef int64_t at
    for at in range(count):
        if of.at[at >> 3] >> (at & 7) & 1:
            to.at[(start + at) >> 3] |= 1 << ((start + at) & 7)
