"""Event types as numbers, in the order of their first appearance.

The `event` column of a batch holds the numbers, and a dictionary beside it the types.
"""

from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset


cdef struct Interner:
    int64_t count
    int64_t* offsets            # count + 1 of them, into `values`
    uint8_t* values
    int64_t capacity            # number of types; there are twice as many slots
    size_t values_capacity      # bytes
    int32_t* slots              # a hash table with linear probing; -1: free
    uint64_t seed
    int64_t latest              # number of the type that was looked up last


cdef inline uint64_t _hash(uint64_t seed, const uint8_t* at, size_t length) noexcept nogil:
    """Hash all bytes with a secret seed, so that nobody can send types that collide on purpose."""
    cdef uint64_t word
    cdef uint64_t hashed = seed ^ length
    while length > 0:
        word = 0
        memcpy(&word, at, 8 if length >= 8 else length)
        hashed = (hashed ^ word) * <uint64_t>0x9E3779B97F4A7C15
        hashed ^= hashed >> 29
        hashed *= seed | 1
        hashed ^= hashed >> 32
        if length <= 8:
            break
        at += 8
        length -= 8
    return hashed


cdef inline bint _grow_interner(Interner* interner, size_t length) noexcept nogil:
    """Make room for one more type of `length` bytes. False: no memory."""
    cdef size_t used = interner.offsets[interner.count] if interner.count else 0
    cdef size_t values_capacity = interner.values_capacity
    cdef int64_t capacity
    cdef int64_t number
    cdef uint64_t slot
    cdef void* memory
    if used + length > values_capacity:
        values_capacity = 2 * (used + length) + 256
        memory = realloc(interner.values, values_capacity)
        if memory == NULL:
            return False
        interner.values = <uint8_t*>memory
        interner.values_capacity = values_capacity
    if interner.count == interner.capacity:
        capacity = 2 * interner.capacity if interner.capacity else 16
        memory = realloc(interner.offsets, (capacity + 1) * sizeof(int64_t))
        if memory == NULL:
            return False
        interner.offsets = <int64_t*>memory
        interner.offsets[0] = 0
        memory = realloc(interner.slots, 2 * capacity * sizeof(int32_t))
        if memory == NULL:
            return False
        interner.slots = <int32_t*>memory
        interner.capacity = capacity
        memset(interner.slots, 0xFF, 2 * capacity * sizeof(int32_t))
        for number in range(interner.count):
            slot = _hash(
                interner.seed, interner.values + interner.offsets[number],
                interner.offsets[number + 1] - interner.offsets[number])
            while interner.slots[slot & (2 * capacity - 1)] >= 0:
                slot += 1
            interner.slots[slot & (2 * capacity - 1)] = <int32_t>number
    return True


cdef inline int64_t _intern(Interner* interner, const uint8_t* at, size_t length) noexcept nogil:
    """Return the number of a type, a new one for a new type. -1: no memory, or too many types."""
    cdef uint64_t slot
    cdef int64_t number
    if interner.count == interner.capacity and not _grow_interner(interner, 0):
        return -1
    slot = _hash(interner.seed, at, length)
    while True:
        number = interner.slots[slot & (2 * interner.capacity - 1)]
        if number < 0:
            break
        if (<size_t>(interner.offsets[number + 1] - interner.offsets[number]) == length
                and memcmp(interner.values + interner.offsets[number], at, length) == 0):
            return number
        slot += 1
    if interner.count == INT32_MAX or not _grow_interner(interner, length):
        return -1
    number = interner.count
    memcpy(interner.values + interner.offsets[number], at, length)
    interner.offsets[number + 1] = interner.offsets[number] + <int64_t>length
    interner.slots[slot & (2 * interner.capacity - 1)] = <int32_t>number
    interner.count += 1
    return number


cdef inline int64_t _intern_next(
        Interner* interner, const uint8_t* at, size_t length) noexcept nogil:
    """Intern a type that is often the same as the one before."""
    cdef int64_t latest = interner.latest
    if (latest < interner.count
            and <size_t>(interner.offsets[latest + 1] - interner.offsets[latest]) == length
            and memcmp(interner.values + interner.offsets[latest], at, length) == 0):
        return latest
    latest = _intern(interner, at, length)
    if latest >= 0:
        interner.latest = latest
    return latest


cdef inline void _free_interner(Interner* interner) noexcept nogil:
    free(interner.offsets)
    free(interner.values)
    free(interner.slots)
    memset(interner, 0, sizeof(Interner))


cdef inline void _reset_interner(Interner* interner) noexcept nogil:
    cdef uint64_t seed = interner.seed
    _free_interner(interner)
    interner.seed = seed


cdef inline bint _is_overgrown(const Interner* interner) noexcept nogil:
    """Return whether an endless stream should start a new dictionary.

    Event types in such numbers are data, and would take more and more memory.
    """
    return interner.count > 65536 or (
        interner.count > 0 and interner.offsets[interner.count] > 2**20)
