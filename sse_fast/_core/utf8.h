/* Whether bytes are UTF-8, and what they become where they are not.
 *
 * How `sse_fast_is_utf8` goes about it, where there is SSE2 or NEON:
 *
 *   1. Windows of 64 bytes that are ASCII are passed at once.
 *   2. Of the others each block of 16 is held against the three that begin 1, 2 and 3 bytes
 *      earlier, loaded from there: nothing is carried from one block to the next. A byte has to
 *      continue a character if the one before is 0xC0 or more, the second before 0xE0 or more, or
 *      the third before 0xF0 or more, and must not otherwise. What is wrong is gathered, and looked
 *      at once, at the end.
 *   3. The last block ends at `end`, whatever it has in common with the one before. Less than 32
 *      bytes are put together in registers, or in a copy with zeros behind.
 *
 * Of values of 330 bytes, in cache on Zen 3, it takes a third of what one character after the other
 * takes (the plain C below) if they are ASCII, and a fifth to a third if they are Chinese, Russian
 * or emoji; of 4 to 40 bytes, 0.6 and 0.3. Masks of 64 bits, as `scan.h` makes them, took 1.3
 * times as long for Chinese and twice as long for emoji; a table of states took nine times as long
 * for both. To look at the limits of second bytes only where a window has such a lead saved 15 %
 * for Chinese, and cost 25 % for emoji and Korean. NEON's body is not measured.
 */
#ifndef SSE_FAST_UTF8_H
#define SSE_FAST_UTF8_H

#include "scan.h"

static inline int
sse_fast_continues(const uint8_t *at, const uint8_t *end, uint8_t low, uint8_t high)
{
    return at < end && *at >= low && *at <= high;
}

/* One character of two bytes or more, and its length. Where it is not valid (Unicode, table 3-7),
 * less the length of what one U+FFFD stands for: as much as could have begun a character. */
static inline int
sse_fast_decode_character(const uint8_t *at, const uint8_t *end, uint32_t *character)
{
    uint8_t lead = *at, low = 0x80, high = 0xBF;

    if (lead >= 0xC2 && lead < 0xE0) {
        if (!sse_fast_continues(at + 1, end, low, high))
            return -1;
        *character = (uint32_t)(lead & 0x1F) << 6 | (at[1] & 0x3F);
        return 2;
    }
    if (lead == 0xE0 || lead == 0xF0)
        low = lead == 0xE0 ? 0xA0 : 0x90;
    if (lead == 0xED || lead == 0xF4)
        high = lead == 0xED ? 0x9F : 0x8F;
    if (lead < 0xE0 || lead > 0xF4 || !sse_fast_continues(at + 1, end, low, high))
        return -1;
    if (!sse_fast_continues(at + 2, end, 0x80, 0xBF))
        return -2;
    if (lead < 0xF0) {
        *character = (uint32_t)(lead & 0x0F) << 12 | (uint32_t)(at[1] & 0x3F) << 6
                     | (at[2] & 0x3F);
        return 3;
    }
    if (!sse_fast_continues(at + 3, end, 0x80, 0xBF))
        return -3;
    *character = (uint32_t)(lead & 0x07) << 18 | (uint32_t)(at[1] & 0x3F) << 12
                 | (uint32_t)(at[2] & 0x3F) << 6 | (at[3] & 0x3F);
    return 4;
}

/* The first byte of 0x80 or more. */
static inline const uint8_t *
sse_fast_skip_ascii(const uint8_t *at, const uint8_t *end)
{
    uint64_t word;

    for (; end - at >= 8; at += 8) {
        memcpy(&word, at, 8);
        if (word & UINT64_C(0x8080808080808080))
            break;
    }
    while (at < end && *at < 0x80)
        at++;
    return at;
}

/* Each instruction set gives blocks of 16 bytes, and what is wrong in one: some bits, or none. */

#if defined(SSE_FAST_SSE2)

typedef __m128i sse_fast_block;

#  define SSE_FAST_ALL(byte) _mm_set1_epi8((char)(byte))

static inline sse_fast_block
sse_fast_load_16(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

static inline void
sse_fast_store_16(uint8_t *to, sse_fast_block block)
{
    _mm_storeu_si128((__m128i *)to, block);
}

/* The lowest address in the lowest byte of `low`. */
static inline sse_fast_block
sse_fast_join(uint64_t low, uint64_t high)
{
    return _mm_set_epi64x((long long)high, (long long)low);
}

static inline sse_fast_block
sse_fast_or(sse_fast_block a, sse_fast_block b)
{
    return _mm_or_si128(a, b);
}

/* Whether a byte has its top bit set. */
static inline int
sse_fast_has_high(sse_fast_block block)
{
    return _mm_movemask_epi8(block) != 0;
}

static inline int
sse_fast_is_zero(sse_fast_block block)
{
    return _mm_movemask_epi8(_mm_cmpeq_epi8(block, _mm_setzero_si128())) == 0xFFFF;
}

/* `byte`, where that is what there is. */
static inline sse_fast_block
sse_fast_where(sse_fast_block block, int lead, int byte)
{
    return _mm_and_si128(_mm_cmpeq_epi8(block, SSE_FAST_ALL(lead)), SSE_FAST_ALL(byte));
}

static inline sse_fast_block
sse_fast_wrong(sse_fast_block block, sse_fast_block before, sse_fast_block before_2,
               sse_fast_block before_3)
{
    /* As signed numbers, 0x80 to 0xBF are the least. */
    __m128i continues = _mm_cmplt_epi8(block, _mm_set1_epi8(-64));
    /* Saturating: what is left of a lead less what is just below it is not zero. */
    __m128i has_to = _mm_or_si128(_mm_subs_epu8(before, SSE_FAST_ALL(0xBF)),
                                  _mm_or_si128(_mm_subs_epu8(before_2, SSE_FAST_ALL(0xDF)),
                                               _mm_subs_epu8(before_3, SSE_FAST_ALL(0xEF))));
    __m128i has_not = _mm_cmpeq_epi8(has_to, _mm_setzero_si128());
    /* The second byte is at least 0xA0 after 0xE0, 0x90 after 0xF0; and without these bits, as at
     * most 0x9F after 0xED, 0x8F after 0xF4. */
    __m128i least = _mm_or_si128(sse_fast_where(before, 0xE0, 0xA0),
                                 sse_fast_where(before, 0xF0, 0x90));
    __m128i without = _mm_or_si128(sse_fast_where(before, 0xED, 0x20),
                                   sse_fast_where(before, 0xF4, 0x30));
    /* 0xC0, 0xC1 and 0xF5 to 0xFF. */
    __m128i never = _mm_or_si128(
        _mm_cmpeq_epi8(_mm_and_si128(block, SSE_FAST_ALL(0xFE)), SSE_FAST_ALL(0xC0)),
        _mm_subs_epu8(block, SSE_FAST_ALL(0xF4)));

    return _mm_or_si128(
        _mm_or_si128(_mm_cmpeq_epi8(has_not, continues), never),
        _mm_or_si128(_mm_subs_epu8(least, block), _mm_and_si128(without, block)));
}

/* The same for a block that nothing comes before. */
static inline sse_fast_block
sse_fast_wrong_first(sse_fast_block block)
{
    return sse_fast_wrong(block, _mm_slli_si128(block, 1), _mm_slli_si128(block, 2),
                          _mm_slli_si128(block, 3));
}

#elif defined(SSE_FAST_NEON)

typedef uint8x16_t sse_fast_block;

static inline sse_fast_block
sse_fast_load_16(const uint8_t *at)
{
    return vld1q_u8(at);
}

static inline void
sse_fast_store_16(uint8_t *to, sse_fast_block block)
{
    vst1q_u8(to, block);
}

static inline sse_fast_block
sse_fast_join(uint64_t low, uint64_t high)
{
    return vcombine_u8(vcreate_u8(low), vcreate_u8(high));
}

static inline sse_fast_block
sse_fast_or(sse_fast_block a, sse_fast_block b)
{
    return vorrq_u8(a, b);
}

static inline int
sse_fast_has_high(sse_fast_block block)
{
    return vmaxvq_u8(block) >= 0x80;
}

static inline int
sse_fast_is_zero(sse_fast_block block)
{
    return vmaxvq_u8(block) == 0;
}

static inline sse_fast_block
sse_fast_where(sse_fast_block block, uint8_t lead, uint8_t byte)
{
    return vandq_u8(vceqq_u8(block, vdupq_n_u8(lead)), vdupq_n_u8(byte));
}

static inline sse_fast_block
sse_fast_wrong(sse_fast_block block, sse_fast_block before, sse_fast_block before_2,
               sse_fast_block before_3)
{
    uint8x16_t continues = vcltq_s8(vreinterpretq_s8_u8(block), vdupq_n_s8(-64));
    uint8x16_t has_to = vorrq_u8(vcgeq_u8(before, vdupq_n_u8(0xC0)),
                                 vorrq_u8(vcgeq_u8(before_2, vdupq_n_u8(0xE0)),
                                          vcgeq_u8(before_3, vdupq_n_u8(0xF0))));
    uint8x16_t least = vorrq_u8(sse_fast_where(before, 0xE0, 0xA0),
                                sse_fast_where(before, 0xF0, 0x90));
    uint8x16_t without = vorrq_u8(sse_fast_where(before, 0xED, 0x20),
                                  sse_fast_where(before, 0xF4, 0x30));
    uint8x16_t never = vorrq_u8(
        vceqq_u8(vandq_u8(block, vdupq_n_u8(0xFE)), vdupq_n_u8(0xC0)),
        vcgtq_u8(block, vdupq_n_u8(0xF4)));

    return vorrq_u8(vorrq_u8(veorq_u8(has_to, continues), never),
                    vorrq_u8(vcltq_u8(block, least), vandq_u8(without, block)));
}

static inline sse_fast_block
sse_fast_wrong_first(sse_fast_block block)
{
    uint8x16_t zero = vdupq_n_u8(0);

    return sse_fast_wrong(block, vextq_u8(zero, block, 15), vextq_u8(zero, block, 14),
                          vextq_u8(zero, block, 13));
}

#endif

#if defined(SSE_FAST_SSE2) || defined(SSE_FAST_NEON)

/* What is wrong in these 16 bytes; the three before them are read, too. */
static inline sse_fast_block
sse_fast_wrong_at(const uint8_t *at)
{
    return sse_fast_wrong(sse_fast_load_16(at), sse_fast_load_16(at - 1),
                          sse_fast_load_16(at - 2), sse_fast_load_16(at - 3));
}

/* Less than 32 bytes: what is read twice lies where it was, and zeros behind end what is open. */
static inline int
sse_fast_is_utf8_short(const uint8_t *at, size_t length)
{
    const uint8_t *end = at + length;
    uint64_t low = 0, high = 0;
    sse_fast_block block;

    if (length >= 16) {
        sse_fast_block last = sse_fast_load_16(end - 16);
        uint8_t copy[32];

        block = sse_fast_load_16(at);
        if (!sse_fast_has_high(sse_fast_or(block, last)))
            return 1;
        sse_fast_store_16(copy + 16, sse_fast_join(0, 0));
        sse_fast_store_16(copy, block);
        sse_fast_store_16(copy + length - 16, last);
        return sse_fast_is_zero(
            sse_fast_or(sse_fast_wrong_first(block), sse_fast_wrong_at(copy + 16)));
    }
    if (length >= 8) {
        memcpy(&low, at, 8);
        memcpy(&high, end - 8, 8);
        /* In two steps, as 64 places in one are undefined. */
        high = high >> 8 >> 8 * (15 - length);
    }
    else if (length >= 4) {
        uint32_t first, last;
        memcpy(&first, at, 4);
        memcpy(&last, end - 4, 4);
        low = first | (uint64_t)last << 8 * (length - 4);
    }
    else if (length > 0)
        low = at[0] | (uint64_t)at[length / 2] << 8 * (length / 2)
              | (uint64_t)end[-1] << 8 * (length - 1);
    block = sse_fast_join(low, high);
    return !sse_fast_has_high(block) || sse_fast_is_zero(sse_fast_wrong_first(block));
}

/* Whether all of it is valid (Unicode, table 3-7). Nothing is read outside [at, at + length). */
static inline int
sse_fast_is_utf8(const uint8_t *at, size_t length)
{
    const uint8_t *end = at + length, *next;
    sse_fast_block wrong, any;
    int open, i;

    if (length < 32)
        return sse_fast_is_utf8_short(at, length);

    any = sse_fast_load_16(at);
    wrong = sse_fast_wrong_first(any);
    /* Whether a character may go on in what comes next. */
    open = sse_fast_has_high(any);
    for (at += 16; end - at >= 64; at += 64) {
        any = sse_fast_or(sse_fast_or(sse_fast_load_16(at), sse_fast_load_16(at + 16)),
                          sse_fast_or(sse_fast_load_16(at + 32), sse_fast_load_16(at + 48)));
        if (sse_fast_has_high(any)) {
            for (i = 0; i < 64; i += 16)
                wrong = sse_fast_or(wrong, sse_fast_wrong_at(at + i));
            open = 1;
        }
        else if (open) {
            wrong = sse_fast_or(wrong, sse_fast_wrong_at(at));
            open = 0;
        }
    }
    any = sse_fast_load_16(end - 16);
    for (next = at; end - next >= 16; next += 16)
        any = sse_fast_or(any, sse_fast_load_16(next));
    if (open || sse_fast_has_high(any)) {
        for (; end - at >= 16; at += 16)
            wrong = sse_fast_or(wrong, sse_fast_wrong_at(at));
        wrong = sse_fast_or(wrong, sse_fast_wrong_at(end - 16));
        if (end[-1] >= 0xC0 || end[-2] >= 0xE0 || end[-3] >= 0xF0)
            return 0;
    }
    return sse_fast_is_zero(wrong);
}

#else

static inline int
sse_fast_is_utf8(const uint8_t *at, size_t length)
{
    const uint8_t *end = at + length;
    uint32_t character;
    int size;

    while ((at = sse_fast_skip_ascii(at, end)) < end) {
        do {
            size = sse_fast_decode_character(at, end, &character);
            if (size < 0)
                return 0;
            at += size;
        } while (at < end && *at >= 0x80);
    }
    return 1;
}

#endif

/* Copies them to `to`, with U+FFFD for what is not valid, as the WHATWG decoder and CPython's have
 * it, and returns how many bytes that takes: at most three times as many. Only counts if `to` is
 * NULL. */
static inline size_t
sse_fast_replace(uint8_t *to, const uint8_t *at, size_t length)
{
    const uint8_t *end = at + length, *valid = at;
    uint32_t character;
    size_t taken = 0;
    int size;

    for (;;) {
        at = sse_fast_skip_ascii(at, end);
        size = at < end ? sse_fast_decode_character(at, end, &character) : 0;
        if (size > 0) {
            at += size;
            continue;
        }
        if (to != NULL && valid < at)
            memcpy(to + taken, valid, (size_t)(at - valid));
        taken += (size_t)(at - valid);
        if (size == 0)
            return taken;
        if (to != NULL)
            memcpy(to + taken, "\xEF\xBF\xBD", 3);
        taken += 3;
        valid = at -= size;
    }
}

#endif
