/* The next end-of-line of an event stream, and whether what lies before it is ASCII.
 *
 * One function leaves this file:
 *
 *     sse_fast_find_end_of_line(at, end, &non_ascii)
 *
 * returns the first CR or LF in [at, end), or `end` if there is none, and sets
 * `non_ascii` to 1 if a byte of 0x80 or more lies before the place it returns
 * (it never sets it to 0, so one flag can serve several calls).
 *
 * How it goes about it, for every instruction set alike:
 *
 *   1. Four blocks of 16 bytes at a time: compare each with LF and with CR, OR the
 *      results, and look at them once. A line of JSON takes this road.
 *   2. One block at a time, until one has a match or fewer than 16 bytes are left.
 *   3. The rest by one block that ends exactly at `end`: it overlaps what was seen
 *      already, and those bits are shifted out. Nothing is read outside [at, end).
 *   4. Inputs shorter than a block go byte by byte.
 *
 * SSE2 and NEON are chosen at compile time, as every x86-64 and every AArch64 has
 * them; -DSSE_FAST_PLAIN_C forces the portable body, eight bytes at a time.
 */
#ifndef SSE_FAST_SCAN_H
#define SSE_FAST_SCAN_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(SSE_FAST_PLAIN_C)
#elif defined(__SSE2__) || defined(_M_X64)
#  define SSE_FAST_SSE2 1
#  include <emmintrin.h>
#elif defined(__aarch64__) || defined(_M_ARM64)
#  define SSE_FAST_NEON 1
#  include <arm_neon.h>
#endif

#if defined(SSE_FAST_SSE2) || defined(SSE_FAST_NEON)

#  if defined(_MSC_VER) && !defined(__clang__)
#    include <intrin.h>
static inline unsigned sse_fast_lowest_bit(uint64_t mask)
{
    unsigned long index;
    _BitScanForward64(&index, mask);
    return (unsigned)index;
}
#  else
static inline unsigned sse_fast_lowest_bit(uint64_t mask)
{
    return (unsigned)__builtin_ctzll(mask);
}
#  endif

/* A mask has SSE_FAST_BITS bits for each of the 16 bytes of a block, lowest first. */

#  if defined(SSE_FAST_SSE2)

#    define SSE_FAST_BITS 1
typedef __m128i sse_fast_block;

static inline sse_fast_block sse_fast_load(const uint8_t *at)
{
    return _mm_loadu_si128((const __m128i *)at);
}

static inline sse_fast_block sse_fast_or(sse_fast_block a, sse_fast_block b)
{
    return _mm_or_si128(a, b);
}

static inline sse_fast_block sse_fast_line_ends(sse_fast_block block)
{
    return _mm_or_si128(_mm_cmpeq_epi8(block, _mm_set1_epi8('\n')),
                        _mm_cmpeq_epi8(block, _mm_set1_epi8('\r')));
}

/* One for each byte whose top bit is set. */
static inline uint64_t sse_fast_mask(sse_fast_block block)
{
    return (uint64_t)(uint32_t)_mm_movemask_epi8(block);
}

#  else

#    define SSE_FAST_BITS 4
typedef uint8x16_t sse_fast_block;

static inline sse_fast_block sse_fast_load(const uint8_t *at)
{
    return vld1q_u8(at);
}

static inline sse_fast_block sse_fast_or(sse_fast_block a, sse_fast_block b)
{
    return vorrq_u8(a, b);
}

static inline sse_fast_block sse_fast_line_ends(sse_fast_block block)
{
    return vorrq_u8(vceqq_u8(block, vdupq_n_u8('\n')), vceqq_u8(block, vdupq_n_u8('\r')));
}

/* NEON has no movemask: spread each top bit over its byte, then keep four bits of each. */
static inline uint64_t sse_fast_mask(sse_fast_block block)
{
    uint8x16_t spread = vreinterpretq_u8_s8(vshrq_n_s8(vreinterpretq_s8_u8(block), 7));
    uint8x8_t packed = vshrn_n_u16(vreinterpretq_u16_u8(spread), 4);
    return vget_lane_u64(vreinterpret_u64_u8(packed), 0);
}

#  endif

#  define SSE_FAST_BLOCK 16

static inline const uint8_t *
sse_fast_find_end_of_line(const uint8_t *at, const uint8_t *end, int *non_ascii)
{
    uint64_t line_ends, high;

    if (end - at < SSE_FAST_BLOCK) {
        for (; at < end && *at != '\n' && *at != '\r'; at++)
            *non_ascii |= *at >> 7;
        return at;
    }
    while (end - at >= 4 * SSE_FAST_BLOCK) {
        sse_fast_block a = sse_fast_load(at);
        sse_fast_block b = sse_fast_load(at + SSE_FAST_BLOCK);
        sse_fast_block c = sse_fast_load(at + 2 * SSE_FAST_BLOCK);
        sse_fast_block d = sse_fast_load(at + 3 * SSE_FAST_BLOCK);
        if (sse_fast_mask(sse_fast_or(
                sse_fast_or(sse_fast_line_ends(a), sse_fast_line_ends(b)),
                sse_fast_or(sse_fast_line_ends(c), sse_fast_line_ends(d)))))
            break;
        *non_ascii |= sse_fast_mask(sse_fast_or(sse_fast_or(a, b), sse_fast_or(c, d))) != 0;
        at += 4 * SSE_FAST_BLOCK;
    }
    while (end - at >= SSE_FAST_BLOCK) {
        sse_fast_block block = sse_fast_load(at);
        line_ends = sse_fast_mask(sse_fast_line_ends(block));
        high = sse_fast_mask(block);
        if (line_ends) {
            /* Of the top bits only those below the end-of-line count. */
            *non_ascii |= (high & (line_ends ^ (line_ends - 1))) != 0;
            return at + sse_fast_lowest_bit(line_ends) / SSE_FAST_BITS;
        }
        *non_ascii |= high != 0;
        at += SSE_FAST_BLOCK;
    }
    if (at < end) {
        unsigned seen = (unsigned)(SSE_FAST_BLOCK - (end - at));
        sse_fast_block block = sse_fast_load(at - seen);
        line_ends = sse_fast_mask(sse_fast_line_ends(block)) >> (seen * SSE_FAST_BITS);
        high = sse_fast_mask(block) >> (seen * SSE_FAST_BITS);
        if (line_ends) {
            *non_ascii |= (high & (line_ends ^ (line_ends - 1))) != 0;
            return at + sse_fast_lowest_bit(line_ends) / SSE_FAST_BITS;
        }
        *non_ascii |= high != 0;
    }
    return end;
}

#else

/* Not zero if a byte of the word is zero; exact as a yes or no. */
static inline uint64_t sse_fast_has_zero(uint64_t word)
{
    return (word - UINT64_C(0x0101010101010101)) & ~word & UINT64_C(0x8080808080808080);
}

static inline const uint8_t *
sse_fast_find_end_of_line(const uint8_t *at, const uint8_t *end, int *non_ascii)
{
    uint64_t word;

    while (end - at >= 8) {
        memcpy(&word, at, 8);
        if (sse_fast_has_zero(word ^ UINT64_C(0x0A0A0A0A0A0A0A0A))
            | sse_fast_has_zero(word ^ UINT64_C(0x0D0D0D0D0D0D0D0D)))
            break;
        *non_ascii |= (word & UINT64_C(0x8080808080808080)) != 0;
        at += 8;
    }
    for (; at < end && *at != '\n' && *at != '\r'; at++)
        *non_ascii |= *at >> 7;
    return at;
}

#endif

#endif
