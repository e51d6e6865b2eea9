/* The ends of the lines of an event stream, one after the other, and whether what lies before each
 * is ASCII.
 *
 *     sse_fast_start(&scan, at, end)
 *
 * begins with the bytes [at, end), and each
 *
 *     sse_fast_next_end_of_line(&scan, &non_ascii)
 *
 * returns the next CR or LF in them, or `end` if there is none, and sets `non_ascii` to 1 if a byte
 * of 0x80 or more lies between the one before and this one (it never sets it to 0). Nothing is read
 * outside [at, end).
 *
 * How it goes about it, for every instruction set alike:
 *
 *   1. A window is 64 bytes and two masks of 64 bits: which bytes end a line, and which have their
 *      top bit set. While the first has a bit left, the next end of line is its lowest: a few
 *      instructions, however short the lines are.
 *   2. `sse_fast_refill` makes the masks of the next window that has an end of line. Over those
 *      that have none it goes without making any: a long line of JSON takes this road.
 *   3. The last window begins as far before `end` as it has to, and the bits of what was seen
 *      already are shifted out. If there are less than 64 bytes at all, they are read in blocks
 *      that overlap.
 *
 * SSE2 and NEON are chosen at compile time, as every x86-64 and every AArch64 has them, AVX2 when
 * the module is loaded; -DSSE_FAST_PLAIN_C forces the portable body, eight bytes at a time.
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
#  if defined(__GNUC__)
#    define SSE_FAST_AVX2 1
#    include <immintrin.h>
#  endif
#elif defined(__aarch64__) || defined(_M_ARM64)
#  define SSE_FAST_NEON 1
#  include <arm_neon.h>
#endif

#if defined(_MSC_VER) && !defined(__clang__)
#  include <intrin.h>
#endif

typedef struct {
    const uint8_t *window;  /* what the masks are about: bit i is for window[i] */
    uint64_t line_ends;     /* less those that were returned already */
    uint64_t high;          /* less those before the last one returned */
    const uint8_t *start, *next, *end;  /* [start, next) is done with, or in the masks */
} sse_fast_scan;

static inline unsigned
sse_fast_lowest_bit(uint64_t mask)
{
#if defined(__GNUC__)
    return (unsigned)__builtin_ctzll(mask);
#elif defined(_M_X64) || defined(_M_ARM64)
    unsigned long index;
    _BitScanForward64(&index, mask);
    return (unsigned)index;
#else
    unsigned index = 0;
    for (; !(mask & 1); mask >>= 1)
        index++;
    return index;
#endif
}

/* Each instruction set gives the masks of 8 bytes and of 64, and a way past the windows of 64 bytes,
 * from `at` to `last`, that have no end of line. */

#if defined(SSE_FAST_SSE2)

static inline __m128i
sse_fast_line_ends(__m128i block)
{
    return _mm_or_si128(_mm_cmpeq_epi8(block, _mm_set1_epi8('\n')),
                        _mm_cmpeq_epi8(block, _mm_set1_epi8('\r')));
}

/* One bit for each byte whose top bit is set. */
static inline uint64_t
sse_fast_mask(__m128i block)
{
    return (uint64_t)(uint32_t)_mm_movemask_epi8(block);
}

static inline void
sse_fast_look_8(const uint8_t *at, uint64_t *line_ends, uint64_t *high)
{
    __m128i block = _mm_loadl_epi64((const __m128i *)at);
    *line_ends = sse_fast_mask(sse_fast_line_ends(block));
    *high = sse_fast_mask(block);
}

static inline void
sse_fast_look_64(const uint8_t *at, uint64_t *line_ends, uint64_t *high)
{
    int i;

    *line_ends = *high = 0;
    for (i = 0; i < 64; i += 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)(at + i));
        *line_ends |= sse_fast_mask(sse_fast_line_ends(block)) << i;
        *high |= sse_fast_mask(block) << i;
    }
}

static inline const uint8_t *
sse_fast_skip(const uint8_t *at, const uint8_t *last, int *non_ascii)
{
    __m128i seen = _mm_setzero_si128();

    for (; at <= last; at += 64) {
        __m128i a = _mm_loadu_si128((const __m128i *)at);
        __m128i b = _mm_loadu_si128((const __m128i *)(at + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(at + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(at + 48));
        if (sse_fast_mask(_mm_or_si128(
                _mm_or_si128(sse_fast_line_ends(a), sse_fast_line_ends(b)),
                _mm_or_si128(sse_fast_line_ends(c), sse_fast_line_ends(d)))))
            break;
        seen = _mm_or_si128(seen, _mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d)));
    }
    *non_ascii |= sse_fast_mask(seen) != 0;
    return at;
}

#elif defined(SSE_FAST_NEON)

static inline uint8x16_t
sse_fast_line_ends(uint8x16_t block)
{
    return vorrq_u8(vceqq_u8(block, vdupq_n_u8('\n')), vceqq_u8(block, vdupq_n_u8('\r')));
}

/* NEON has no movemask: of each byte, all ones or all zeros, one bit is kept, and pairs are added
 * until the bits of eight bytes are one byte. */
static inline uint64_t
sse_fast_mask(uint8x16_t a, uint8x16_t b, uint8x16_t c, uint8x16_t d)
{
    static const uint8_t places[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
    uint8x16_t bits = vld1q_u8(places);
    uint8x16_t low = vpaddq_u8(vandq_u8(a, bits), vandq_u8(b, bits));
    uint8x16_t upper = vpaddq_u8(vandq_u8(c, bits), vandq_u8(d, bits));
    low = vpaddq_u8(low, upper);
    return vgetq_lane_u64(vreinterpretq_u64_u8(vpaddq_u8(low, low)), 0);
}

static inline uint8x16_t
sse_fast_high(uint8x16_t block)
{
    return vcgeq_u8(block, vdupq_n_u8(0x80));
}

static inline void
sse_fast_look_8(const uint8_t *at, uint64_t *line_ends, uint64_t *high)
{
    uint8x16_t zero = vdupq_n_u8(0), block = vcombine_u8(vld1_u8(at), vdup_n_u8(0));

    *line_ends = sse_fast_mask(sse_fast_line_ends(block), zero, zero, zero);
    *high = sse_fast_mask(sse_fast_high(block), zero, zero, zero);
}

static inline void
sse_fast_look_64(const uint8_t *at, uint64_t *line_ends, uint64_t *high)
{
    uint8x16_t a = vld1q_u8(at), b = vld1q_u8(at + 16);
    uint8x16_t c = vld1q_u8(at + 32), d = vld1q_u8(at + 48);

    *line_ends = sse_fast_mask(sse_fast_line_ends(a), sse_fast_line_ends(b),
                               sse_fast_line_ends(c), sse_fast_line_ends(d));
    *high = sse_fast_mask(sse_fast_high(a), sse_fast_high(b), sse_fast_high(c), sse_fast_high(d));
}

static inline const uint8_t *
sse_fast_skip(const uint8_t *at, const uint8_t *last, int *non_ascii)
{
    uint8x16_t seen = vdupq_n_u8(0);

    for (; at <= last; at += 64) {
        uint8x16_t a = vld1q_u8(at), b = vld1q_u8(at + 16);
        uint8x16_t c = vld1q_u8(at + 32), d = vld1q_u8(at + 48);
        if (vmaxvq_u8(vorrq_u8(vorrq_u8(sse_fast_line_ends(a), sse_fast_line_ends(b)),
                               vorrq_u8(sse_fast_line_ends(c), sse_fast_line_ends(d)))))
            break;
        seen = vorrq_u8(seen, vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d)));
    }
    *non_ascii |= vmaxvq_u8(seen) >> 7;
    return at;
}

#else

#  define SSE_FAST_EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The lowest address in the lowest byte, whatever the byte order. */
static inline uint64_t
sse_fast_load(const uint8_t *at)
{
    return (uint64_t)at[0] | (uint64_t)at[1] << 8 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 24
           | (uint64_t)at[4] << 32 | (uint64_t)at[5] << 40 | (uint64_t)at[6] << 48
           | (uint64_t)at[7] << 56;
}

/* The top bit of each byte that is zero, and no other. */
static inline uint64_t
sse_fast_zeros(uint64_t word)
{
    return ~(((word & SSE_FAST_EACH(0x7F)) + SSE_FAST_EACH(0x7F)) | word | SSE_FAST_EACH(0x7F));
}

static inline uint64_t
sse_fast_line_ends(uint64_t word)
{
    return sse_fast_zeros(word ^ SSE_FAST_EACH('\n')) | sse_fast_zeros(word ^ SSE_FAST_EACH('\r'));
}

/* The top bits of the eight bytes, side by side: a product that carries nothing. */
static inline uint64_t
sse_fast_mask(uint64_t word)
{
    return ((word & SSE_FAST_EACH(0x80)) >> 7) * UINT64_C(0x0102040810204080) >> 56;
}

static inline void
sse_fast_look_8(const uint8_t *at, uint64_t *line_ends, uint64_t *high)
{
    uint64_t word = sse_fast_load(at);

    *line_ends = sse_fast_mask(sse_fast_line_ends(word));
    *high = sse_fast_mask(word);
}

static inline void
sse_fast_look_64(const uint8_t *at, uint64_t *line_ends, uint64_t *high)
{
    int i;

    *line_ends = *high = 0;
    for (i = 0; i < 64; i += 8) {
        uint64_t word = sse_fast_load(at + i);
        *line_ends |= sse_fast_mask(sse_fast_line_ends(word)) << i;
        *high |= sse_fast_mask(word) << i;
    }
}

static inline const uint8_t *
sse_fast_skip(const uint8_t *at, const uint8_t *last, int *non_ascii)
{
    int i;

    for (; at <= last; at += 64) {
        uint64_t line_ends = 0, seen = 0;
        for (i = 0; i < 64; i += 8) {
            uint64_t word = sse_fast_load(at + i);
            line_ends |= sse_fast_line_ends(word);
            seen |= word;
        }
        if (line_ends)
            break;
        *non_ascii |= (seen & SSE_FAST_EACH(0x80)) != 0;
    }
    return at;
}

#endif

#if defined(SSE_FAST_AVX2)

/* Whether this machine has it: asked by `sse_fast_choose`, once, before the first scan. */
static int sse_fast_has_avx2 = 0;

/* It does all of `sse_fast_find_window`, as a function for AVX2 cannot be put into others: one call
 * for a window, however long the line is. */
__attribute__((target("avx2"), noinline)) static const uint8_t *
sse_fast_find_window_avx2(const uint8_t *at, const uint8_t *last, uint64_t *line_ends,
                          uint64_t *high, int *non_ascii)
{
    const __m256i lf = _mm256_set1_epi8('\n'), cr = _mm256_set1_epi8('\r');
    __m256i seen = _mm256_setzero_si256();

    for (; at <= last; at += 64) {
        __m256i a = _mm256_loadu_si256((const __m256i *)at);
        __m256i b = _mm256_loadu_si256((const __m256i *)(at + 32));
        __m256i in_a = _mm256_or_si256(_mm256_cmpeq_epi8(a, lf), _mm256_cmpeq_epi8(a, cr));
        __m256i in_b = _mm256_or_si256(_mm256_cmpeq_epi8(b, lf), _mm256_cmpeq_epi8(b, cr));
        if (_mm256_movemask_epi8(_mm256_or_si256(in_a, in_b))) {
            *line_ends = (uint32_t)_mm256_movemask_epi8(in_a)
                         | (uint64_t)(uint32_t)_mm256_movemask_epi8(in_b) << 32;
            *high = (uint32_t)_mm256_movemask_epi8(a)
                    | (uint64_t)(uint32_t)_mm256_movemask_epi8(b) << 32;
            break;
        }
        seen = _mm256_or_si256(seen, _mm256_or_si256(a, b));
    }
    *non_ascii |= _mm256_movemask_epi8(seen) != 0;
    return at;
}

#endif

static inline void
sse_fast_choose(void)
{
#if defined(SSE_FAST_AVX2)
    __builtin_cpu_init();
    sse_fast_has_avx2 = __builtin_cpu_supports("avx2") != 0;
#endif
}

/* The first window of 64 bytes, from `at` to `last`, that has an end of line, and its masks; what
 * is returned is behind `last` where none has one. */
static inline const uint8_t *
sse_fast_find_window(const uint8_t *at, const uint8_t *last, uint64_t *line_ends, uint64_t *high,
                     int *non_ascii)
{
#if defined(SSE_FAST_AVX2)
    if (sse_fast_has_avx2)
        return sse_fast_find_window_avx2(at, last, line_ends, high, non_ascii);
#endif
    sse_fast_look_64(at, line_ends, high);
    if (*line_ends == 0) {
        *non_ascii |= *high != 0;
        at = sse_fast_skip(at + 64, last, non_ascii);
        if (at <= last)
            sse_fast_look_64(at, line_ends, high);
    }
    return at;
}

static inline void
sse_fast_start(sse_fast_scan *scan, const uint8_t *at, const uint8_t *end)
{
    scan->window = scan->start = scan->next = at;
    scan->end = end;
    scan->line_ends = scan->high = 0;
}

/* The masks of less than 64 bytes, which are all that there were. */
static inline void
sse_fast_look_short(const uint8_t *at, size_t length, uint64_t *line_ends, uint64_t *high)
{
    uint64_t ends, tops;
    size_t i;

    *line_ends = *high = 0;
    if (length < 8) {
        for (i = 0; i < length; i++) {
            *line_ends |= (uint64_t)(at[i] == '\n' || at[i] == '\r') << i;
            *high |= (uint64_t)(at[i] >> 7) << i;
        }
        return;
    }
    for (i = 0; i + 8 < length; i += 8) {
        sse_fast_look_8(at + i, &ends, &tops);
        *line_ends |= (ends & 0xFF) << i;
        *high |= (tops & 0xFF) << i;
    }
    sse_fast_look_8(at + length - 8, &ends, &tops);
    *line_ends |= (ends & 0xFF) << (length - 8);
    *high |= (tops & 0xFF) << (length - 8);
}

/* The masks of the next window that has an end of line, or of the last one. */
static inline void
sse_fast_refill(sse_fast_scan *scan, int *non_ascii)
{
    const uint8_t *at = scan->next, *end = scan->end;
    uint64_t line_ends = 0, high = 0;
    size_t left;

    if (end - at >= 64)
        at = sse_fast_find_window(at, end - 64, &line_ends, &high, non_ascii);
    scan->window = at;
    left = (size_t)(end - at);
    if (left >= 64)
        scan->next = at + 64;
    else {
        scan->next = end;
        if (end - scan->start < 64)
            sse_fast_look_short(at, left, &line_ends, &high);
        else if (left > 0) {
            sse_fast_look_64(end - 64, &line_ends, &high);
            line_ends >>= 64 - left;
            high >>= 64 - left;
        }
        else
            line_ends = high = 0;
    }
    scan->line_ends = line_ends;
    scan->high = high;
}

static inline const uint8_t *
sse_fast_next_end_of_line(sse_fast_scan *scan, int *non_ascii)
{
    uint64_t line_ends = scan->line_ends, up_to;

    if (line_ends == 0) {
        *non_ascii |= scan->high != 0;
        sse_fast_refill(scan, non_ascii);
        line_ends = scan->line_ends;
        if (line_ends == 0) {
            *non_ascii |= scan->high != 0;
            scan->high = 0;
            return scan->end;
        }
    }
    /* All bits up to the lowest, and it: of the top bits, those are about this line. */
    up_to = line_ends ^ (line_ends - 1);
    *non_ascii |= (scan->high & up_to) != 0;
    scan->high &= ~up_to;
    scan->line_ends = line_ends & (line_ends - 1);
    return scan->window + sse_fast_lowest_bit(line_ends);
}

/* Passes over the byte behind the end of line that was returned last: it is one, too. */
static inline void
sse_fast_pass_end_of_line(sse_fast_scan *scan)
{
    if (scan->line_ends)
        scan->line_ends &= scan->line_ends - 1;
    else
        scan->next++;
}

static inline const uint8_t *
sse_fast_find_end_of_line(const uint8_t *at, const uint8_t *end, int *non_ascii)
{
    sse_fast_scan scan;
    sse_fast_start(&scan, at, end);
    return sse_fast_next_end_of_line(&scan, non_ascii);
}

#endif
