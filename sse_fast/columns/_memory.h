/* Memory of columns: atomic reference counts, growing blocks, and copies of short values.
 *
 * Only what Cython cannot express is here: atomics, huge pages, and tricks that depend on the byte
 * order. Batches themselves are in `_batch.pxd`.
 */
#ifndef SSE_FAST_MEMORY_H
#define SSE_FAST_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

/* -- Atomics ---------------------------------------------------------------------------------- */

/* `add` returns the new value, `exchange` the old pointer; `fill_slot` stores a pointer where there
 * is NULL, and returns whether it did. */
#if defined(_MSC_VER) && !defined(__clang__)
#  include <intrin.h>
#  define SSE_FAST_ADD(at, number) (_InterlockedExchangeAdd((at), (number)) + (number))
#  define SSE_FAST_EXCHANGE(at, pointer) \
    _InterlockedExchangePointer((void *volatile *)(at), (pointer))
static inline int
sse_fast_fill_slot(void **slot, void *pointer)
{
    return _InterlockedCompareExchangePointer((void *volatile *)slot, pointer, NULL) == NULL;
}
#else
#  define SSE_FAST_ADD(at, number) __atomic_add_fetch((at), (number), __ATOMIC_ACQ_REL)
#  define SSE_FAST_EXCHANGE(at, pointer) __atomic_exchange_n((at), (pointer), __ATOMIC_ACQ_REL)
static inline int
sse_fast_fill_slot(void **slot, void *pointer)
{
    void *empty = NULL;
    return __atomic_compare_exchange_n(slot, &empty, pointer, 0, __ATOMIC_ACQ_REL,
                                       __ATOMIC_RELAXED);
}
#endif

/* -- Growing blocks --------------------------------------------------------------------------- */

typedef struct {
    uint8_t *at;
    size_t capacity;
} sse_fast_memory;

/* Blocks from this size on are mapped in huge pages where the system has them: a page fault costs
 * as much as filling the page, and there are 512 times fewer. */
#define SSE_FAST_HUGE ((size_t)2 << 20)
#define SSE_FAST_MAPPED (2 * SSE_FAST_HUGE)

#if defined(__linux__) && defined(MADV_HUGEPAGE) && !defined(SSE_FAST_NO_HUGE_PAGES)
static inline size_t
sse_fast_mapped_size(size_t capacity)
{
    return (capacity + SSE_FAST_HUGE - 1) & ~(SSE_FAST_HUGE - 1);
}

/* Map `size` bytes that begin at the border of a huge page. Return NULL if memory ran out. */
static inline uint8_t *
sse_fast_map(size_t size)
{
    size_t whole = size + SSE_FAST_HUGE, before;
    uint8_t *at = (uint8_t *)mmap(NULL, whole, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    before = (SSE_FAST_HUGE - ((uintptr_t)at & (SSE_FAST_HUGE - 1))) & (SSE_FAST_HUGE - 1);
    if (before)
        munmap(at, before);
    if (before < SSE_FAST_HUGE)
        munmap(at + before + size, SSE_FAST_HUGE - before);
    /* Best effort: small pages work too, and are only slower. */
    (void)madvise(at + before, size, MADV_HUGEPAGE);
    return at + before;
}
#else
#  define SSE_FAST_NO_MAP
#endif

static inline void
sse_fast_free_memory(sse_fast_memory *memory)
{
#if !defined(SSE_FAST_NO_MAP)
    if (memory->capacity >= SSE_FAST_MAPPED)
        munmap(memory->at, memory->capacity);
    else
#endif
    free(memory->at);
    memory->at = NULL;
    memory->capacity = 0;
}

/* Make the block at least `capacity` bytes large and keep its first `used` bytes. Return 0 if
 * memory ran out. */
static inline int
sse_fast_reserve_memory(sse_fast_memory *memory, size_t used, size_t capacity)
{
    uint8_t *at;

    if (capacity <= memory->capacity)
        return 1;
#if !defined(SSE_FAST_NO_MAP)
    if (capacity >= SSE_FAST_MAPPED) {
        capacity = sse_fast_mapped_size(capacity);
        at = sse_fast_map(capacity);
        if (at == NULL)
            return 0;
        if (used)
            memcpy(at, memory->at, used);
        sse_fast_free_memory(memory);
        memory->at = at;
        memory->capacity = capacity;
        return 1;
    }
#endif
    at = (uint8_t *)realloc(memory->at, capacity);
    if (at == NULL)
        return 0;
    memory->at = at;
    memory->capacity = capacity;
    return 1;
}

/* Reserve, growing by at least half, so that each byte is moved a bounded number of times. */
static inline int
sse_fast_grow_memory(sse_fast_memory *memory, size_t used, size_t capacity)
{
    size_t more = memory->capacity + (memory->capacity >> 1) + 1024;
    if (capacity <= memory->capacity)
        return 1;
    return sse_fast_reserve_memory(memory, used, capacity < more ? more : capacity);
}

/* -- Copies of short values ------------------------------------------------------------------- */

/* Copy a value to where there is room for 32 bytes. Memory is readable up to `end`, so a short
 * value takes two moves, where memcpy takes 20 instructions to decide. */
static inline void
sse_fast_copy(uint8_t *to, const uint8_t *at, size_t length, const uint8_t *end)
{
    if (length <= 32 && (size_t)(end - at) >= 32) {
        memcpy(to, at, 16);
        memcpy(to + 16, at + 16, 16);
    }
    else if (length > 0)
        memcpy(to, at, length);
}

/* Copy at most 12 bytes into a view, and fill it up with zeros. Memory is readable up to `end`. */
static inline void
sse_fast_copy_inline(uint8_t *to, const uint8_t *at, size_t length, const uint8_t *end)
{
#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__)
#  if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (end - at >= 16) {
        uint64_t first, second;
        uint32_t last;
        memcpy(&first, at, 8);
        memcpy(&second, at + 8, 8);
        if (length < 8) {
            first &= ((uint64_t)1 << 8 * length) - 1;
            second = 0;
        }
        else
            second &= ((uint64_t)1 << 8 * (length - 8)) - 1;
        last = (uint32_t)second;
        memcpy(to, &first, 8);
        memcpy(to + 8, &last, 4);
        return;
    }
#  endif
#endif
    memset(to, 0, 12);
    if (length > 0)
        memcpy(to, at, length);
}

#endif
