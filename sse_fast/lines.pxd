"""Blocks of an event stream as pointers and lengths, without Python objects and without the GIL.

This is the second part of the native interface: docs/reference/native.md. Everything is inline, so
an extension contains what it uses, and needs sse_fast only where it is compiled.
"""

from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memset

from sse_fast._core.lines cimport (
    DISPATCH, NEED_INPUT, NO_MEMORY, TOO_LARGE, LineState, Scan, Step, Text,
    _begin_chunk, _is_between_blocks, _is_pending, _next_step, _read_block, _reset_stream,
    _take_block,
)


cdef extern from "utf8.h" nogil:
    bint is_utf8 "sse_fast_is_utf8"(const uint8_t* at, size_t length) noexcept
    # `to` has room for three times `length`; the length of the copy is returned.
    size_t replace_invalid "sse_fast_replace"(
        uint8_t* to, const uint8_t* at, size_t length) noexcept


cdef struct BlockReader:
    # Private: the functions below read and write these.
    LineState state
    Scan scan
    const uint8_t* cursor
    const uint8_t* end
    Step refusal            # TOO_LARGE or NO_MEMORY until `reset_reader`, or NEED_INPUT


cdef struct Block:
    Text event_type         # empty: "message"
    Text data               # `at` is NULL: there is no data line, so the block is no event
    Text id                 # `at` is NULL: there is no id line
    int64_t retry           # the reconnection time of this block, ms; -1: none


cdef inline void init_reader(BlockReader* reader, size_t max_event_size) noexcept nogil:
    """Prepare a new reader; `free_reader` frees its memory."""
    memset(reader, 0, sizeof(BlockReader))
    reader.state.retry = -1
    reader.state.max_size = max_event_size
    reset_reader(reader)


cdef inline void reset_reader(BlockReader* reader) noexcept nogil:
    """Prepare for a new connection: only the reconnection time and `max_event_size` stay."""
    _reset_stream(&reader.state)
    reader.refusal = NEED_INPUT
    reader.cursor = reader.end


cdef inline void free_reader(BlockReader* reader) noexcept nogil:
    """Free the memory of a reader, which may be used again; idempotent."""
    reset_reader(reader)


cdef inline void begin_chunk(
        BlockReader* reader, const uint8_t* at, size_t length) noexcept nogil:
    """Begin the next chunk. Its bytes must not change before `next_block` returns NEED_INPUT."""
    reader.cursor = at
    reader.end = at + length
    _begin_chunk(&reader.state, &reader.scan, &reader.cursor, reader.end)


cdef inline Step next_block(BlockReader* reader, Block* block) noexcept nogil:
    """Read the chunk on to the next block that has data or an id.

    The values of a block are valid until the next call.

    Returns:
        DISPATCH: `block` is set. NEED_INPUT: the chunk is used up. TOO_LARGE or NO_MEMORY, which
        every later call returns, too, until `reset_reader`: the stream cannot be read on.
    """
    cdef LineState* state = &reader.state
    cdef Step step = reader.refusal
    if step == NEED_INPUT:
        if _is_between_blocks(state) and _read_block(
                state, &reader.scan, &reader.cursor, reader.end,
                &block.event_type, &block.id, &block.data):
            block.retry = -1
            return DISPATCH
        step = _next_step(state, &reader.scan, &reader.cursor, reader.end)
        if step == DISPATCH:
            _take_block(state, &block.event_type, &block.id, &block.data, &block.retry)
            return step
        reader.refusal = step
    memset(block, 0, sizeof(Block))
    return step


cdef inline bint is_pending(const BlockReader* reader) noexcept nogil:
    """Tell whether a byte of something other than a comment came since the last blank line."""
    return _is_pending(&reader.state)


cdef inline int64_t get_retry(const BlockReader* reader) noexcept nogil:
    """Return the reconnection time in ms, in force as soon as its line is read; -1: never set."""
    return reader.state.retry
