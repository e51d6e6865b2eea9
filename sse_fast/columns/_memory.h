/* Memory for columns: it grows, it is counted, and large pieces of it are mapped in huge pages.
 */
#ifndef SSE_FAST_MEMORY_H
#define SSE_FAST_MEMORY_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__linux__)
#  include <sys/mman.h>
#endif

/* A count of references, and pointers that several threads take and leave. */
#if defined(_MSC_VER) && !defined(__clang__)
#  include <intrin.h>
#  define SSE_FAST_ADD(at, number) (_InterlockedExchangeAdd((at), (number)) + (number))
#  define SSE_FAST_EXCHANGE(at, pointer) _InterlockedExchangePointer((void *volatile *)(at), (pointer))
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

typedef struct {
    uint8_t *at;
    size_t capacity;
} sse_fast_memory;

/* From here on memory is mapped in huge pages, where there are any: the first touch of a page costs
 * as much as writing it, and there are 512 times fewer. */
#define SSE_FAST_HUGE ((size_t)2 << 20)
#define SSE_FAST_MAPPED (2 * SSE_FAST_HUGE)

#if defined(__linux__) && defined(MADV_HUGEPAGE) && !defined(SSE_FAST_NO_HUGE_PAGES)
static inline size_t
sse_fast_mapped_size(size_t capacity)
{
    return (capacity + SSE_FAST_HUGE - 1) & ~(SSE_FAST_HUGE - 1);
}

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
    /* Without, it is slower and nothing else. */
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
    /* Without a capacity, it is a part of another one. */
    if (memory->capacity > 0)
        free(memory->at);
    memory->at = NULL;
    memory->capacity = 0;
}

/* Room for at least `capacity` bytes, the first `used` of which stay; 0: there is none. */
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

/* The same, growing by half at least, so that a byte is moved a bounded number of times. */
static inline int
sse_fast_grow_memory(sse_fast_memory *memory, size_t used, size_t capacity)
{
    size_t more = memory->capacity + (memory->capacity >> 1) + 1024;
    if (capacity <= memory->capacity)
        return 1;
    return sse_fast_reserve_memory(memory, used, capacity < more ? more : capacity);
}

/* Give back what is not used, where that is a lot of it. */
static inline void
sse_fast_trim_memory(sse_fast_memory *memory, size_t used)
{
    size_t spare = memory->capacity - used;
    uint8_t *at;

    if (spare < 4096 || spare < memory->capacity / 8)
        return;
    if (used == 0) {
        sse_fast_free_memory(memory);
        return;
    }
#if !defined(SSE_FAST_NO_MAP)
    if (memory->capacity >= SSE_FAST_MAPPED) {
        size_t kept = sse_fast_mapped_size(used);
        if (kept >= SSE_FAST_MAPPED) {
            /* What was never touched was never there. */
            if (kept < memory->capacity) {
                munmap(memory->at + kept, memory->capacity - kept);
                memory->capacity = kept;
            }
            return;
        }
        at = (uint8_t *)malloc(used);
        if (at == NULL)
            return;
        memcpy(at, memory->at, used);
        sse_fast_free_memory(memory);
        memory->at = at;
        memory->capacity = used;
        return;
    }
#endif
    at = (uint8_t *)realloc(memory->at, used);
    if (at != NULL) {
        memory->at = at;
        memory->capacity = used;
    }
}

/* Copies where there is room for 32 bytes, and reads up to `end`: nearly every short value takes two
 * moves then, where memcpy takes 20 instructions to decide. */
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

/* A large piece, of which parts are taken one behind the other; it goes with the last of them. So the
 * columns of many batches share its pages, and it costs no more of them than are touched. */
typedef struct {
    long references;
    sse_fast_memory memory;
    size_t used;
} sse_fast_arena;

static inline sse_fast_arena *
sse_fast_new_arena(size_t capacity)
{
    sse_fast_arena *arena = (sse_fast_arena *)calloc(1, sizeof(sse_fast_arena));
    if (arena == NULL)
        return NULL;
    arena->references = 1;
    if (!sse_fast_reserve_memory(&arena->memory, 0, capacity)) {
        free(arena);
        return NULL;
    }
    return arena;
}

static inline void
sse_fast_release_arena(sse_fast_arena *arena)
{
    if (arena == NULL || SSE_FAST_ADD(&arena->references, -1) > 0)
        return;
    sse_fast_free_memory(&arena->memory);
    free(arena);
}

/* NULL: there is no room left. */
static inline uint8_t *
sse_fast_take_part(sse_fast_arena *arena, size_t size)
{
    uint8_t *at = arena->memory.at + arena->used;
    if (arena->memory.capacity - arena->used < size)
        return NULL;
    arena->used += size;
    return at;
}

#endif
