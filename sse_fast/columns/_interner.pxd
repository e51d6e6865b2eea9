"""Event types by number, in the order of their first appearance: a column has numbers, and the
dictionary beside it the types.
"""

from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp, memcpy, memset


cdef struct Types:
    # In the order of their first appearance.
    int64_t count
    int64_t* offsets            # count + 1 of them
    uint8_t* values
    int64_t room                # of `offsets`, and the slots are twice as many
    size_t capacity             # of `values`
    int32_t* slots              # -1: free
    uint64_t seed
    int64_t latest


cdef inline uint64_t _hash(uint64_t seed, const uint8_t* at, size_t length) noexcept nogil:
    """Of all bytes and a secret: types come from the network, and are not to collide on purpose."""
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


cdef inline bint _make_room(Types* types, size_t length) noexcept nogil:
    cdef size_t used = types.offsets[types.count] if types.count else 0
    cdef size_t capacity = types.capacity
    cdef int64_t room
    cdef int64_t number
    cdef uint64_t slot
    cdef void* memory
    if used + length > capacity:
        capacity = 2 * (used + length) + 256
        memory = realloc(types.values, capacity)
        if memory == NULL:
            return False
        types.values = <uint8_t*>memory
        types.capacity = capacity
    if types.count == types.room:
        room = 2 * types.room if types.room else 16
        memory = realloc(types.offsets, (room + 1) * sizeof(int64_t))
        if memory == NULL:
            return False
        types.offsets = <int64_t*>memory
        types.offsets[0] = 0
        memory = realloc(types.slots, 2 * room * sizeof(int32_t))
        if memory == NULL:
            return False
        types.slots = <int32_t*>memory
        types.room = room
        memset(types.slots, 0xFF, 2 * room * sizeof(int32_t))
        for number in range(types.count):
            slot = _hash(
                types.seed, types.values + types.offsets[number],
                types.offsets[number + 1] - types.offsets[number])
            while types.slots[slot & (2 * room - 1)] >= 0:
                slot += 1
            types.slots[slot & (2 * room - 1)] = <int32_t>number
    return True


cdef inline int64_t _find_type(Types* types, const uint8_t* at, size_t length) noexcept nogil:
    """Its number, a new one if there is none yet; -1: no memory."""
    cdef uint64_t slot
    cdef int64_t number
    if types.count == types.room and not _make_room(types, 0):
        return -1
    slot = _hash(types.seed, at, length)
    while True:
        number = types.slots[slot & (2 * types.room - 1)]
        if number < 0:
            break
        if (<size_t>(types.offsets[number + 1] - types.offsets[number]) == length
                and memcmp(types.values + types.offsets[number], at, length) == 0):
            return number
        slot += 1
    if types.count == INT32_MAX or not _make_room(types, length):
        return -1
    number = types.count
    memcpy(types.values + types.offsets[number], at, length)
    types.offsets[number + 1] = types.offsets[number] + <int64_t>length
    types.slots[slot & (2 * types.room - 1)] = <int32_t>number
    types.count += 1
    return number


cdef inline int64_t _number_of(Types* types, const uint8_t* at, size_t length) noexcept nogil:
    """The same; streams repeat their types."""
    cdef int64_t latest = types.latest
    if (latest < types.count
            and <size_t>(types.offsets[latest + 1] - types.offsets[latest]) == length
            and memcmp(types.values + types.offsets[latest], at, length) == 0):
        return latest
    latest = _find_type(types, at, length)
    if latest >= 0:
        types.latest = latest
    return latest


cdef inline void _free_types(Types* types) noexcept nogil:
    free(types.offsets)
    free(types.values)
    free(types.slots)
    memset(types, 0, sizeof(Types))


cdef inline void _reset_types(Types* types) noexcept nogil:
    cdef uint64_t seed = types.seed
    _free_types(types)
    types.seed = seed


cdef inline bint _is_overgrown(const Types* types) noexcept nogil:
    """Where batches come and go, so do types: more than these are no types, but data."""
    return types.count > 65536 or (types.count > 0 and types.offsets[types.count] > 2**20)
