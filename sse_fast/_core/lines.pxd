"""Lines and fields of an event stream, without Python objects and without the GIL.

`_next_step` reads a chunk and stops where its caller has something to do: at a blank line that
completes an event or commits an id, at a comment (if asked for), at an error, at the end of the
chunk. The caller makes Python events or Arrow columns of the values. `_read_block` is the fast path
for whole blocks of the usual form. The stages: `_split_lines` finds the lines, `_process_field`
reads one, `_end_block` clears the buffers at a blank line.

A value is a `Text`. While the lines of an event lie in one chunk, a `Text` points into that chunk
and nothing is copied. A second `data` line, or the end of the chunk, moves it into a buffer of its
own. Those buffers grow by half and no byte is read twice, so the cost stays linear for any
chunking.

The clauses are those of the HTML standard: 9.2.5 (parsing) and 9.2.6 (interpreting).
"""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset


cdef extern from "scan.h" nogil:
    ctypedef struct Scan "sse_fast_scan":
        const uint8_t* end
    void start_scan "sse_fast_start"(Scan* scan, const uint8_t* at, const uint8_t* end) noexcept
    const uint8_t* next_end_of_line "sse_fast_next_end_of_line"(
        Scan* scan, int* non_ascii) noexcept
    void pass_end_of_line "sse_fast_pass_end_of_line"(Scan* scan) noexcept
    const uint8_t* find_end_of_line "sse_fast_find_end_of_line"(
        const uint8_t* at, const uint8_t* end, int* non_ascii) noexcept
    const uint8_t* find_control "sse_fast_find_control"(
        const uint8_t* at, const uint8_t* end, int* non_ascii) noexcept
    bint copy_line "sse_fast_copy_line"(
        uint8_t* to, const uint8_t* at, size_t length, int* high) noexcept


cdef enum Step:
    NEED_INPUT      # the chunk is used up
    DISPATCH        # a blank line: with `has_data` an event is complete, with `has_id` an id
    COMMENT         # its text is `emitted`; only with `emit_comments`
    RETRY           # its value is `emitted`; only with `emit_retries`
    TOO_LARGE       # `size` exceeds `max_size`
    NO_MEMORY


cdef enum Field:
    UNKNOWN_FIELD
    NO_FIELD        # an empty field name: a comment
    DATA_FIELD
    EVENT_FIELD
    ID_FIELD
    RETRY_FIELD


cdef enum Place:    # the part of a line in which the last chunk ended
    LINE_START
    FIELD_NAME      # `name` has the bytes so far; they may still become a known name
    FIELD_VALUE     # of `field`
    IGNORED         # in a line that changes nothing: its bytes are dropped


cdef enum Shortcut:     # a fast path that may read the next chunk
    NO_SHORTCUT
    READ_ONE_EVENT
    EXTEND_DATA


cdef struct Text:
    const uint8_t* at
    size_t length
    int non_ascii
    uint8_t* buffer         # owned; `at` points here, or into the caller's chunk
    size_t capacity


cdef struct LineState:
    # The block: everything since the last blank line.
    Text data               # the data buffer, without the LF at its end
    Text event_type
    Text id
    bint has_data
    bint has_event_type
    bint has_id
    bint in_block           # a byte of something other than a comment came
    int64_t block_retry     # ms; -1: none
    size_t kept             # bytes of data (with LFs), event_type and id
    # The line that the last chunk left unfinished.
    Place place
    Field field
    bint value_is_new       # no byte of the value yet: a space would be the optional one
    bint after_cr           # a LF would belong to the CR before it
    size_t line_length
    uint8_t name[8]
    size_t name_length
    Text value              # of an id, event, retry or comment; data goes straight into `data`
    # The stream.
    int bom                 # bytes of the byte order mark seen; 3: the start is over
    int64_t retry           # the reconnection time, ms; -1: never set
    Text emitted            # at COMMENT and RETRY
    size_t size             # at TOO_LARGE
    size_t max_size
    bint emit_comments
    bint emit_retries       # the caller reads their values
    bint emit_blocks        # a DISPATCH at every blank line
    bint emit_types         # a DISPATCH also at the end of a block with nothing but an event type


cdef inline void _reset_stream(LineState* s) noexcept nogil:
    """Prepare for a new connection: only `retry` and the settings stay."""
    _free_buffers(s)
    _end_block(s)
    s.place = LINE_START
    s.after_cr = False
    s.bom = 0


cdef inline void _free_buffers(LineState* s) noexcept nogil:
    _free_text(&s.data)
    _free_text(&s.event_type)
    _free_text(&s.id)
    _free_text(&s.value)


cdef inline void _end_block(LineState* s) noexcept nogil:
    """Clear the buffers, as a blank line does (9.2.6, "dispatch the event", steps 2 and 7)."""
    s.data.length = 0
    s.data.non_ascii = 0
    s.event_type.length = 0
    s.id.length = 0
    s.has_data = False
    s.has_event_type = False
    s.has_id = False
    s.in_block = False
    s.block_retry = -1
    s.kept = 0


cdef inline bint _is_pending(const LineState* s) noexcept nogil:
    # One or two bytes that may become a byte order mark are content until they do.
    return s.in_block or s.bom == 1 or s.bom == 2


# -- Text ---------------------------------------------------------------------------------------

cdef inline void _free_text(Text* text) noexcept nogil:
    free(text.buffer)
    memset(text, 0, sizeof(Text))


cdef inline bint _reserve(Text* text, size_t length) noexcept nogil:
    cdef size_t capacity = text.capacity
    cdef uint8_t* buffer
    if length <= capacity:
        return True
    # Growth by half keeps buffers of up to 20 MiB below the size at which the GNU allocator asks
    # the kernel for fresh pages: by doubling, a line of 16 MiB took 5.3 times as long as one of 8.
    # The first two sizes together are what an idle parser may keep (`_end_chunk`).
    capacity = 64 if capacity < 64 else 384 if capacity < 384 else capacity + (capacity >> 1)
    if capacity < length:
        capacity = length
    buffer = <uint8_t*>realloc(text.buffer, capacity)
    if buffer == NULL:
        return False
    if text.at == text.buffer:
        text.at = buffer
    text.buffer = buffer
    text.capacity = capacity
    return True


cdef inline bint _own(Text* text) noexcept nogil:
    """Copy the value into its own buffer, if it still points into the chunk."""
    if text.at == text.buffer:
        return True
    if text.capacity > 4096 and text.capacity // 8 > text.length:
        # Left over from a large event; smaller ones do not need it.
        free(text.buffer)
        text.buffer = NULL
        text.capacity = 0
    if text.length:
        if not _reserve(text, text.length):
            return False
        memcpy(text.buffer, text.at, text.length)
    text.at = text.buffer
    return True


cdef inline bint _append(Text* text, const uint8_t* at, size_t length) noexcept nogil:
    if not _own(text) or not _reserve(text, text.length + length):
        return False
    if length:
        memcpy(text.buffer + text.length, at, length)
    text.length += length
    return True


cdef inline void _borrow(
        Text* text, const uint8_t* at, size_t length, int non_ascii) noexcept nogil:
    """Let the value point into the chunk."""
    text.at = at
    text.length = length
    text.non_ascii = non_ascii


# -- Fields -------------------------------------------------------------------------------------

cdef inline Field _field_named(const uint8_t* name, size_t length) noexcept nogil:
    """Identify the field by its exact name: no case folding, no blanks (9.2.6)."""
    if length == 4:
        return DATA_FIELD if memcmp(name, b"data", 4) == 0 else UNKNOWN_FIELD
    if length == 5:
        if memcmp(name, b"event", 5) == 0:
            return EVENT_FIELD
        return RETRY_FIELD if memcmp(name, b"retry", 5) == 0 else UNKNOWN_FIELD
    if length == 2:
        return ID_FIELD if memcmp(name, b"id", 2) == 0 else UNKNOWN_FIELD
    return UNKNOWN_FIELD if length else NO_FIELD


cdef inline bint _may_become_known(const uint8_t* name, size_t length) noexcept nogil:
    return ((length <= 4 and memcmp(name, b"data", length) == 0)
            or (length <= 5 and memcmp(name, b"event", length) == 0)
            or (length <= 2 and memcmp(name, b"id", length) == 0)
            or (length <= 5 and memcmp(name, b"retry", length) == 0))


cdef inline Step _process_value(
        LineState* s, Field field, const uint8_t* value, size_t length, int non_ascii
) noexcept nogil:
    """Process a whole value, without its optional space, of a field other than `data`."""
    cdef int64_t milliseconds = 0
    cdef size_t i
    if field == EVENT_FIELD:
        s.kept += length - s.event_type.length
        _borrow(&s.event_type, value, length, non_ascii)
        s.has_event_type = True
    elif field == ID_FIELD:
        # "If the field value does not contain U+0000 NULL"; otherwise the field is ignored.
        if length == 0 or memchr(value, 0, length) == NULL:
            s.kept += length - s.id.length
            _borrow(&s.id, value, length, non_ascii)
            s.has_id = True
    elif field == RETRY_FIELD:
        if s.emit_retries:
            _borrow(&s.emitted, value, length, non_ascii)
            return RETRY
        # "Consists of only ASCII digits": an empty value is ignored. The standard has no upper
        # bound, so larger values saturate.
        if length == 0:
            return NEED_INPUT
        for i in range(length):
            if not c'0' <= value[i] <= c'9':
                return NEED_INPUT
            if milliseconds > (INT64_MAX - (value[i] - c'0')) // 10:
                milliseconds = INT64_MAX
            else:
                milliseconds = milliseconds * 10 + (value[i] - c'0')
        s.block_retry = milliseconds
        s.retry = milliseconds
    else:
        _borrow(&s.emitted, value, length, non_ascii)
        return COMMENT
    return NEED_INPUT


cdef inline bint _process_data(
        LineState* s, const uint8_t* value, size_t length, int non_ascii) noexcept nogil:
    """Append the value of a `data` line, or its first part, to the data buffer.

    A LF separates it from the values before it: 9.2.6 appends one after each and removes the last.
    """
    if not s.has_data:
        s.has_data = True
        _borrow(&s.data, value, length, non_ascii)
        return True
    s.data.non_ascii |= non_ascii
    # One reservation for the LF and the value.
    return (_own(&s.data) and _reserve(&s.data, s.data.length + length + 1)
            and _append(&s.data, <const uint8_t*>b"\n", 1) and _append(&s.data, value, length))


cdef inline Step _process_field(
        LineState* s, const uint8_t* line, size_t length, int non_ascii) noexcept nogil:
    """Process one whole line that is not blank (9.2.6, "process the field")."""
    cdef size_t name_length = 0
    cdef size_t start
    cdef Field field
    # Nearly every line is one of these; searching for the colon cost 7 % of typed events.
    if length >= 5 and memcmp(line, b"data:", 5) == 0:
        name_length = 4
        field = DATA_FIELD
    elif length >= 6 and memcmp(line, b"event:", 6) == 0:
        name_length = 5
        field = EVENT_FIELD
    elif length >= 3 and memcmp(line, b"id:", 3) == 0:
        name_length = 2
        field = ID_FIELD
    else:
        # No known name is longer.
        while name_length < length and name_length <= 5 and line[name_length] != c':':
            name_length += 1
        field = _field_named(line, name_length)
    if field == NO_FIELD:
        if not s.emit_comments:
            return NEED_INPUT
    else:
        s.in_block = True
        if field == UNKNOWN_FIELD:
            return NEED_INPUT
    if length + s.kept > s.max_size:
        s.size = length + s.kept
        return TOO_LARGE
    start = name_length + 1
    if start >= length:
        start = length
    elif line[start] == c' ':
        start += 1
    if field != DATA_FIELD:
        return _process_value(s, field, line + start, length - start, non_ascii)
    s.kept += length - start + 1
    return NEED_INPUT if _process_data(s, line + start, length - start, non_ascii) else NO_MEMORY


# -- Lines --------------------------------------------------------------------------------------

cdef inline Step _extend_line(
        LineState* s, const uint8_t* at, const uint8_t* end, int non_ascii) noexcept nogil:
    """Add bytes, none of them an end-of-line, to a line that is split over chunks."""
    cdef size_t length = end - at
    cdef Text* value
    if s.place == LINE_START:
        if length == 0:
            return NEED_INPUT
        s.place = FIELD_NAME
        s.name_length = 0
        s.line_length = 0
        if s.value.capacity > 512:
            _free_text(&s.value)
        s.value.length = 0
        s.value.non_ascii = 0
        if at[0] != c':':
            s.in_block = True
    s.line_length += length
    if s.place == FIELD_NAME and s.name_length == 0 and length > 5 and memcmp(at, b"data:", 5) == 0:
        # The usual case, without a loop over the name.
        s.place = FIELD_VALUE
        s.field = DATA_FIELD
        s.value_is_new = True
        at += 5
        if not _process_data(s, at, 0, 0):
            return NO_MEMORY
    if s.place == FIELD_NAME:
        while at < end and at[0] != c':' and _may_become_known(s.name, s.name_length):
            s.name[s.name_length] = at[0]
            s.name_length += 1
            at += 1
        if at == end and _may_become_known(s.name, s.name_length):
            return NEED_INPUT
        s.field = UNKNOWN_FIELD
        if at < end and at[0] == c':':
            s.field = _field_named(s.name, s.name_length)
        if s.field == UNKNOWN_FIELD or (s.field == NO_FIELD and not s.emit_comments):
            s.place = IGNORED
            return NEED_INPUT
        s.place = FIELD_VALUE
        s.value_is_new = True
        at += 1
        if s.field == DATA_FIELD and not _process_data(s, at, 0, 0):
            return NO_MEMORY
    if s.place == IGNORED:
        return NEED_INPUT
    if s.value_is_new and at < end:
        s.value_is_new = False
        if at[0] == c' ':
            at += 1
    value = &s.data if s.field == DATA_FIELD else &s.value
    # Checked before copying, as the rest of a capture may be one line.
    if s.line_length + s.kept > s.max_size:
        s.size = s.line_length + s.kept
        return TOO_LARGE
    value.non_ascii |= non_ascii
    return NEED_INPUT if _append(value, at, end - at) else NO_MEMORY


cdef inline Step _finish_line(LineState* s) noexcept nogil:
    """Process a line that was split over chunks, at its end."""
    cdef Place place = s.place
    s.place = LINE_START
    if place == FIELD_NAME:
        # A line without a colon: the whole of it is the name.
        return _process_field(s, s.name, s.name_length, 0)
    if place == FIELD_VALUE:
        if s.field != DATA_FIELD:
            return _process_value(s, s.field, s.value.at, s.value.length, s.value.non_ascii)
        # `data` has this line's value already.
        s.kept = s.data.length + 1 + s.event_type.length + s.id.length
    return NEED_INPUT


cdef inline void _skip_bom(LineState* s, const uint8_t** cursor, const uint8_t* end) noexcept nogil:
    """Skip one leading byte order mark, also split over chunks (9.2.5, "UTF-8 decode")."""
    while s.bom < 3 and cursor[0] < end:
        if cursor[0][0] != (0xEF if s.bom == 0 else 0xBB if s.bom == 1 else 0xBF):
            if s.bom > 0:
                # The skipped bytes begin an unknown field name.
                s.place = IGNORED
                s.in_block = True
            s.bom = 3
        else:
            s.bom += 1
            cursor[0] += 1


cdef inline bint _own_block(LineState* s) noexcept nogil:
    """Copy every value of the block that still points into the chunk."""
    return _own(&s.data) and _own(&s.event_type) and _own(&s.id)


cdef inline Step _end_chunk(
        LineState* s, const uint8_t* at, const uint8_t* end, int non_ascii) noexcept nogil:
    """Copy values that still point into the chunk and buffer its unfinished line."""
    if s.in_block and not _own_block(s):
        return NO_MEMORY
    if at == end and s.kept == 0 and s.place == LINE_START:
        # Free large buffers between events, so that an idle parser takes less than 1 KiB
        # (bench/idle_memory.py).
        if s.data.capacity + s.event_type.capacity + s.id.capacity + s.value.capacity > 448:
            _free_buffers(s)
        return NEED_INPUT
    if not s.has_data and s.data.capacity > 448:
        _free_text(&s.data)
    return _extend_line(s, at, end, non_ascii)


cdef inline bint _extend_data(LineState* s, const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Append a tiny chunk to an unfinished `data` value; False: it is anything else.

    This fast path saves a quarter of the time of a 1 MiB line in 16-byte chunks.
    """
    cdef size_t length = end - at
    cdef int high = 0
    if (length - 1 >= 63 or s.data.length + length > s.data.capacity
            or s.line_length + length + s.kept > s.max_size
            or not copy_line(s.data.buffer + s.data.length, at, length, &high)):
        return False
    s.data.length += length
    s.data.non_ascii |= high != 0
    s.line_length += length
    return True


cdef inline bint _is_between_blocks(const LineState* s) noexcept nogil:
    """Tell whether the next byte begins a block."""
    return s.place == LINE_START and s.bom == 3 and not s.in_block and not s.after_cr


cdef inline const uint8_t* _skip_space(const uint8_t* at, const uint8_t* end) noexcept nogil:
    return at + 1 if at < end and at[0] == c' ' else at


cdef inline Shortcut _find_shortcut(const LineState* s, bint has_options) noexcept nogil:
    """Tell which fast path may read the chunk that follows."""
    if s.emit_blocks:
        return NO_SHORTCUT
    if s.place == FIELD_VALUE:
        return EXTEND_DATA if s.field == DATA_FIELD and not s.value_is_new else NO_SHORTCUT
    return NO_SHORTCUT if has_options or not _is_between_blocks(s) else READ_ONE_EVENT


cdef inline bint _read_one_event(
        const LineState* s, Text* event_type, Text* id, Text* data,
        const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Read a chunk between two blocks that is one whole event: one `data` line, at most one `event`
    and one `id` line, and the blank line. False: it is anything else. `at` of `id` may be NULL.

    As the end of the event is known, this makes masks of no window in between: by `_read_block`,
    such a chunk takes 14 % more instructions.
    """
    cdef const uint8_t* last    # the end of the last line
    cdef const uint8_t* value
    cdef const uint8_t* line_end
    cdef int high
    if end - at < 8 or <size_t>(end - at) > s.max_size or end[-1] != c'\n':
        return False
    if end[-2] == c'\n':
        last = end - 2
    elif end[-2] == c'\r' and end[-3] == c'\n' and end[-4] == c'\r':
        last = end - 4
    else:
        return False
    _borrow(event_type, NULL, 0, 0)
    _borrow(id, NULL, 0, 0)
    _borrow(data, NULL, 0, 0)
    # Two bytes or more follow `last`.
    while last - at >= 4:
        high = 0
        if memcmp(at, b"data:", 5) == 0 and data.at == NULL:
            line_end = find_end_of_line(at, last, &high)
            value = _skip_space(at + 5, line_end)
            _borrow(data, value, line_end - value, high)
        elif memcmp(at, b"event:", 6) == 0 and event_type.at == NULL:
            line_end = find_control(at + 6, end, &high)
            value = _skip_space(at + 6, line_end)
            _borrow(event_type, value, line_end - value, high)
        elif memcmp(at, b"id:", 3) == 0 and id.at == NULL:
            # This stops at a NUL, too.
            line_end = find_control(at + 3, end, &high)
            value = _skip_space(at + 3, line_end)
            _borrow(id, value, line_end - value, high)
        else:
            return False
        if line_end == last:
            return data.at != NULL
        at = line_end + 1
        if line_end[0] == c'\r':
            if at[0] == c'\n':
                at += 1
        elif line_end[0] != c'\n':
            return False
    return False


cdef inline void _begin_chunk(
        LineState* s, Scan* scan, const uint8_t** cursor, const uint8_t* end) noexcept nogil:
    """Skip a byte order mark and the second half of a CRLF, and start the scan."""
    if s.bom < 3:
        _skip_bom(s, cursor, end)
    if s.after_cr and cursor[0] < end:
        s.after_cr = False
        if cursor[0][0] == c'\n':
            cursor[0] += 1
    start_scan(scan, cursor[0], end)


cdef inline const uint8_t* _skip_end_of_line(
        LineState* s, Scan* scan, const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Skip the end-of-line at `at`. CRLF is one, also when a chunk ends between the two."""
    if at[0] == c'\r':
        if at + 1 == end:
            s.after_cr = True
        elif at[1] == c'\n':
            pass_end_of_line(scan)
            return at + 2
    return at + 1


cdef inline const uint8_t* _split_lines(
        LineState* s, Scan* scan, const uint8_t** cursor, const uint8_t* end, int* non_ascii
) noexcept nogil:
    """Split the next line off the chunk: return its end, and move `cursor` to the line after it.

    Return NULL, and leave `cursor` where it is, if the line does not end in this chunk.
    """
    cdef const uint8_t* line_end = next_end_of_line(scan, non_ascii)
    if line_end == end:
        return NULL
    cursor[0] = _skip_end_of_line(s, scan, line_end, end)
    return line_end


cdef inline Step _next_step(
        LineState* s, Scan* scan, const uint8_t** cursor, const uint8_t* end) noexcept nogil:
    """Process lines from `cursor` on until the caller has something to do, and move `cursor`."""
    cdef const uint8_t* line
    cdef const uint8_t* line_end
    cdef int non_ascii = 0
    cdef Step step
    while cursor[0] < end:
        non_ascii = 0
        line = cursor[0]
        line_end = _split_lines(s, scan, cursor, end, &non_ascii)
        if line_end == NULL:
            break
        if s.place != LINE_START:
            step = _extend_line(s, line, line_end, non_ascii)
            if step == NEED_INPUT:
                step = _finish_line(s)
        elif line_end > line:
            if line[0] == c':' and not s.emit_comments:
                continue
            step = _process_field(s, line, line_end - line, non_ascii)
        elif (s.has_data or s.has_id or s.emit_blocks
                or (s.emit_types and s.has_event_type)):
            step = DISPATCH
        else:
            step = NEED_INPUT
            # Comments leave nothing to clear.
            if s.in_block:
                _end_block(s)
        if step != NEED_INPUT:
            return step
    line = cursor[0]
    cursor[0] = end
    return _end_chunk(s, line, end, non_ascii if line < end else 0)


cdef inline void _take_block(
        LineState* s, Text* event_type, Text* id, Text* data, int64_t* retry) noexcept nogil:
    """Take the values of the block at a DISPATCH, and end it. The bytes stay where they are.

    `at` of `id` and of `data` is NULL if the block has none.
    """
    event_type[0] = s.event_type
    id[0] = s.id
    data[0] = s.data
    retry[0] = s.block_retry
    # Text without a byte may have no address.
    if not s.has_id:
        id.at = NULL
    elif id.at == NULL:
        id.at = s.name
    if not s.has_data:
        data.at = NULL
    elif data.at == NULL:
        data.at = s.name
    _end_block(s)


cdef inline void _repeat_blank_line(LineState* s, const uint8_t** cursor) noexcept nogil:
    """Move `cursor` back, so that the blank line which ends there is read again."""
    # The LF of a CRLF is a blank line, too.
    cursor[0] -= 1
    s.after_cr = False


cdef inline void _put_block_back(
        LineState* s, const uint8_t** cursor, const Text* event_type, const Text* id,
        const Text* data, int64_t retry) noexcept nogil:
    """Undo `_take_block` or `_read_block`, so that the block is dispatched again."""
    _repeat_blank_line(s, cursor)
    _borrow(&s.event_type, event_type.at, event_type.length, event_type.non_ascii)
    _borrow(&s.data, data.at, data.length, data.non_ascii)
    s.has_event_type = event_type.length > 0
    s.has_data = True
    s.in_block = True
    s.block_retry = retry
    s.kept = data.length + 1 + event_type.length
    if id.at != NULL:
        _borrow(&s.id, id.at, id.length, id.non_ascii)
        s.has_id = True
        s.kept += id.length


cdef inline bint _read_block(
        LineState* s, Scan* scan, const uint8_t** cursor, const uint8_t* end,
        Text* event_type, Text* id, Text* data) noexcept nogil:
    """Read a whole block of the usual form: one `data` line, at most one `event` and one `id` line.

    Return False, and change nothing, if the block at `cursor` has another form or does not end in
    this chunk. `at` of `id` is NULL if the block has none. Without this fast path, columns of typed
    events take half as long again, and `feed` fails `bench/instructions.py --check`.
    """
    cdef const uint8_t* start = cursor[0]
    cdef const uint8_t* at = start
    cdef const uint8_t* value
    cdef const uint8_t* line_end
    cdef Field field
    cdef int non_ascii
    cdef bint has_moved = False
    event_type.at = NULL
    event_type.length = 0
    id.at = NULL
    data.at = NULL
    while end - at > 6:
        if memcmp(at, b"data:", 5) == 0 and data.at == NULL:
            field = DATA_FIELD
            value = at + 5
        elif memcmp(at, b"event:", 6) == 0 and event_type.at == NULL:
            field = EVENT_FIELD
            value = at + 6
        elif memcmp(at, b"id:", 3) == 0 and id.at == NULL:
            field = ID_FIELD
            value = at + 3
        else:
            break
        non_ascii = 0
        has_moved = True
        line_end = _split_lines(s, scan, &at, end, &non_ascii)
        if line_end == NULL or at == end:
            break
        value = _skip_space(value, line_end)
        # One call for each: by a pointer to one of the three, `feed` takes 2 % more instructions.
        if field == DATA_FIELD:
            _borrow(data, value, line_end - value, non_ascii)
        elif field == EVENT_FIELD:
            _borrow(event_type, value, line_end - value, non_ascii)
        else:
            _borrow(id, value, line_end - value, non_ascii)
        if at[0] == c'\n' or at[0] == c'\r':
            if (data.at == NULL or <size_t>(at - start) > s.max_size
                    or (id.at != NULL and id.length and memchr(id.at, 0, id.length) != NULL)):
                break
            pass_end_of_line(scan)
            cursor[0] = _skip_end_of_line(s, scan, at, end)
            return True
    if has_moved:
        s.after_cr = False
        start_scan(scan, start, end)
    return False


cdef inline void _begin_skipping(
        LineState* s, const uint8_t* start, const uint8_t* at) noexcept nogil:
    """Drop the buffered values of a block that is too large, and skip its rest with `_skip_block`.

    `at` is where `_next_step` left the chunk that begins at `start`.
    """
    _free_buffers(s)
    _end_block(s)
    s.in_block = True
    # The limit was exceeded at the end of a line or at the end of the chunk.
    if at > start and (at[-1] == c'\n' or at[-1] == c'\r'):
        s.place = LINE_START
    else:
        s.place = IGNORED


cdef inline bint _skip_block(
        LineState* s, Scan* scan, const uint8_t** cursor, const uint8_t* end) noexcept nogil:
    """Move `cursor` past the blank line that ends the block; False: it is not in this chunk."""
    cdef const uint8_t* line
    cdef const uint8_t* line_end
    cdef int ignored = 0
    cdef bint is_blank
    while cursor[0] < end:
        line = cursor[0]
        line_end = _split_lines(s, scan, cursor, end, &ignored)
        if line_end == NULL:
            s.place = IGNORED
            break
        is_blank = line_end == line and s.place == LINE_START
        s.place = LINE_START
        if is_blank:
            _end_block(s)
            return True
    cursor[0] = end
    return False


cdef inline const uint8_t* _find_block_end(
        const uint8_t* at, const uint8_t* end) noexcept nogil:
    """Return where the first blank line that begins after `at` ends; `end` if it is not there.

    Nothing before `at` is read: if `at` is the LF of a CRLF, this LF ends a line that is over
    already, and the next line begins at the same place.
    """
    cdef LineState s
    cdef Scan scan
    cdef int ignored = 0
    s.after_cr = False
    start_scan(&scan, at, end)
    while _split_lines(&s, &scan, &at, end, &ignored) != NULL:
        if at < end and (at[0] == c'\n' or at[0] == c'\r'):
            pass_end_of_line(&scan)
            return _skip_end_of_line(&s, &scan, at, end)
    return end
