/* Finds the line ends of an event stream, and whether each line is ASCII.
 *
 *     sse_fast_start(&scan, at, end)
 *
 * begins with the bytes [at, end), and each
 *
 *     sse_fast_next_end_of_line(&scan, &non_ascii)
 *
 * returns the next CR or LF in them, or `end` after the last. It sets `non_ascii` to 1 if a byte
 * of 0x80 or more lies between the previous line end and this one, and never sets it to 0. A byte
 * up to 128 bytes further on may set it too: callers that need certainty check again. Nothing
 * outside [at, end) is read.
 *
 * The algorithm, for every instruction set:
 *
 *   1. A window is 64 bytes, a mask of 64 bits for its line ends, and whether any byte has its top
 *      bit set. While the mask has a bit left, its lowest bit is the next line end: a few
 *      instructions, however short the lines are. A second mask for the top bits would cost typed
 *      events 5 %.
 *   2. `sse_fast_refill` makes the mask of the next window that has a line end. `sse_fast_skip`
 *      skips windows without one, and makes no mask of them.
 *   3. The last window ends at `end`, and the bits of bytes seen already are shifted out. If there
 *      are fewer than 64 bytes in total, they are read in overlapping blocks.
 *
 * SSE2 and NEON are chosen at compile time, as every x86-64 and every AArch64 has them;
 * -DSSE_FAST_PLAIN_C forces the portable code, eight bytes at a time. With -DSSE_FAST_BULK, for
 * whole captures, windows without a line end are skipped with AVX2 if the processor has it
 * (`sse_fast_choose`): events of 330 bytes take a sixth less time. `feed` gains nothing from it.
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

#if defined(_MSC_VER) && !defined(__clang__)
#  include <intrin.h>
#endif

/* Captures come from memory, and processors do not prefetch over the end of a page: doing so here
 * makes columns a quarter faster. The chunks of `feed` are in the cache. */
#if defined(SSE_FAST_BULK) && defined(__GNUC__)
#  define SSE_FAST_PREFETCH(at) __builtin_prefetch((at) + 4096)
#else
#  define SSE_FAST_PREFETCH(at) (void)0
#endif

typedef struct {
    const uint8_t *window;  /* bit i of the mask is for window[i] */
    uint64_t line_ends;     /* the mask, without the line ends returned already */
    int high;               /* whether a byte of the window has its top bit set */
    const uint8_t *start, *next, *end;  /* [start, next) is scanned, or in the mask */
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

#define SSE_FAST_EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

/* The lowest address in the lowest byte, whatever the byte order. */
static inline uint64_t
sse_fast_load(const uint8_t *at)
{
    return (uint64_t)at[0] | (uint64_t)at[1] << 8 | (uint64_t)at[2] << 16 | (uint64_t)at[3] << 24
           | (uint64_t)at[4] << 32 | (uint64_t)at[5] << 40 | (uint64_t)at[6] << 48
           | (uint64_t)at[7] << 56;
}

/* Each instruction set defines three functions. `sse_fast_look_8` and `sse_fast_look_64` return the
 * mask of 8 or 64 bytes, and set `high` if a byte has its top bit set; SSE2 also has one for 16.
 * `sse_fast_skip` skips windows without a line end, from `at` to `last`, and returns the first that
 * has one, with its mask.
 */

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

static inline uint64_t
sse_fast_look_8(const uint8_t *at, int *high)
{
    __m128i block = _mm_loadl_epi64((const __m128i *)at);
    *high |= _mm_movemask_epi8(block);
    return sse_fast_mask(sse_fast_line_ends(block));
}

static inline uint64_t
sse_fast_look_16(const uint8_t *at, int *high)
{
    __m128i block = _mm_loadu_si128((const __m128i *)at);
    *high |= _mm_movemask_epi8(block);
    return sse_fast_mask(sse_fast_line_ends(block));
}

static inline uint64_t
sse_fast_masks(__m128i a, __m128i b, __m128i c, __m128i d)
{
    return sse_fast_mask(sse_fast_line_ends(a)) | sse_fast_mask(sse_fast_line_ends(b)) << 16
           | sse_fast_mask(sse_fast_line_ends(c)) << 32
           | sse_fast_mask(sse_fast_line_ends(d)) << 48;
}

static inline uint64_t
sse_fast_look_64(const uint8_t *at, int *high)
{
    __m128i a = _mm_loadu_si128((const __m128i *)at);
    __m128i b = _mm_loadu_si128((const __m128i *)(at + 16));
    __m128i c = _mm_loadu_si128((const __m128i *)(at + 32));
    __m128i d = _mm_loadu_si128((const __m128i *)(at + 48));

    *high |= _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d)));
    return sse_fast_masks(a, b, c, d);
}

/* The least byte of a window with a line end is at most CR. So it is with NUL, TAB, VT and FF, which
 * text seldom has, and which the exact mask rejects: one instruction a block instead of four. */
static inline const uint8_t *
sse_fast_skip(const uint8_t *at, const uint8_t *last, int *passed_high, uint64_t *line_ends,
              int *high)
{
    const __m128i cr = _mm_set1_epi8('\r');
    __m128i passed = _mm_setzero_si128();

    for (; at <= last; at += 64) {
        SSE_FAST_PREFETCH(at);
        __m128i a = _mm_loadu_si128((const __m128i *)at);
        __m128i b = _mm_loadu_si128((const __m128i *)(at + 16));
        __m128i c = _mm_loadu_si128((const __m128i *)(at + 32));
        __m128i d = _mm_loadu_si128((const __m128i *)(at + 48));
        __m128i all = _mm_or_si128(_mm_or_si128(a, b), _mm_or_si128(c, d));
        __m128i least = _mm_min_epu8(_mm_min_epu8(a, b), _mm_min_epu8(c, d));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(least, cr), least))) {
            *line_ends = sse_fast_masks(a, b, c, d);
            if (*line_ends) {
                *high = _mm_movemask_epi8(all);
                break;
            }
        }
        passed = _mm_or_si128(passed, all);
    }
    *passed_high |= _mm_movemask_epi8(passed);
    return at;
}

#  if defined(SSE_FAST_BULK) && defined(__GNUC__)
#    define SSE_FAST_WIDE 1
#    include <immintrin.h>

/* The same with AVX2. */
__attribute__((target("avx2"))) static const uint8_t *
sse_fast_skip_wide(const uint8_t *at, const uint8_t *last, int *passed_high, uint64_t *line_ends,
                   int *high)
{
    const __m256i lf = _mm256_set1_epi8('\n'), cr = _mm256_set1_epi8('\r');
    __m256i passed = _mm256_setzero_si256();

    for (; at <= last; at += 64) {
        SSE_FAST_PREFETCH(at);
        __m256i a = _mm256_loadu_si256((const __m256i *)at);
        __m256i b = _mm256_loadu_si256((const __m256i *)(at + 32));
        __m256i all = _mm256_or_si256(a, b);
        __m256i least = _mm256_min_epu8(a, b);
        if (_mm256_movemask_epi8(_mm256_cmpeq_epi8(_mm256_min_epu8(least, cr), least))) {
            uint32_t low = (uint32_t)_mm256_movemask_epi8(
                _mm256_or_si256(_mm256_cmpeq_epi8(a, lf), _mm256_cmpeq_epi8(a, cr)));
            uint32_t upper = (uint32_t)_mm256_movemask_epi8(
                _mm256_or_si256(_mm256_cmpeq_epi8(b, lf), _mm256_cmpeq_epi8(b, cr)));
            if (low | upper) {
                *line_ends = (uint64_t)upper << 32 | low;
                *high = _mm256_movemask_epi8(all);
                break;
            }
        }
        passed = _mm256_or_si256(passed, all);
    }
    *passed_high |= _mm256_movemask_epi8(passed);
    return at;
}

static int sse_fast_is_wide;

static inline void
sse_fast_choose(void)
{
    __builtin_cpu_init();
    sse_fast_is_wide = __builtin_cpu_supports("avx2") != 0;
}
#  endif

#elif defined(SSE_FAST_NEON)

static inline uint8x16_t
sse_fast_line_ends(uint8x16_t block)
{
    return vorrq_u8(vceqq_u8(block, vdupq_n_u8('\n')), vceqq_u8(block, vdupq_n_u8('\r')));
}

/* NEON has no movemask: each byte, all ones or all zeros, keeps one bit, and pairs are added until
 * the bits of eight bytes are one byte. */
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

static inline uint64_t
sse_fast_look_8(const uint8_t *at, int *high)
{
    uint8x16_t zero = vdupq_n_u8(0), block = vcombine_u8(vld1_u8(at), vdup_n_u8(0));

    *high |= vmaxvq_u8(block) >> 7;
    return sse_fast_mask(sse_fast_line_ends(block), zero, zero, zero);
}

static inline uint64_t
sse_fast_look_64(const uint8_t *at, int *high)
{
    uint8x16_t a = vld1q_u8(at), b = vld1q_u8(at + 16);
    uint8x16_t c = vld1q_u8(at + 32), d = vld1q_u8(at + 48);

    *high |= vmaxvq_u8(vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d))) >> 7;
    return sse_fast_mask(sse_fast_line_ends(a), sse_fast_line_ends(b),
                         sse_fast_line_ends(c), sse_fast_line_ends(d));
}

static inline const uint8_t *
sse_fast_skip(const uint8_t *at, const uint8_t *last, int *passed_high, uint64_t *line_ends,
              int *high)
{
    uint8x16_t passed = vdupq_n_u8(0);

    for (; at <= last; at += 64) {
        uint8x16_t a = vld1q_u8(at), b = vld1q_u8(at + 16);
        uint8x16_t c = vld1q_u8(at + 32), d = vld1q_u8(at + 48);
        if (vminvq_u8(vminq_u8(vminq_u8(a, b), vminq_u8(c, d))) <= '\r') {
            int here = 0;
            *line_ends = sse_fast_look_64(at, &here);
            if (*line_ends) {
                *high = here;
                break;
            }
        }
        passed = vorrq_u8(passed, vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d)));
    }
    *passed_high |= vmaxvq_u8(passed) >> 7;
    return at;
}

#else

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

/* The top bits of the eight bytes, side by side: the product has no carries. */
static inline uint64_t
sse_fast_mask(uint64_t word)
{
    return ((word & SSE_FAST_EACH(0x80)) >> 7) * UINT64_C(0x0102040810204080) >> 56;
}

static inline uint64_t
sse_fast_look_8(const uint8_t *at, int *high)
{
    uint64_t word = sse_fast_load(at);

    *high |= (word & SSE_FAST_EACH(0x80)) != 0;
    return sse_fast_mask(sse_fast_line_ends(word));
}

static inline uint64_t
sse_fast_look_64(const uint8_t *at, int *high)
{
    uint64_t line_ends = 0;
    int i;

    for (i = 0; i < 64; i += 8)
        line_ends |= sse_fast_look_8(at + i, high) << i;
    return line_ends;
}

static inline const uint8_t *
sse_fast_skip(const uint8_t *at, const uint8_t *last, int *passed_high, uint64_t *line_ends,
              int *high)
{
    int i;

    for (; at <= last; at += 64) {
        uint64_t found = 0, seen = 0;
        for (i = 0; i < 64; i += 8) {
            uint64_t word = sse_fast_load(at + i);
            found |= sse_fast_line_ends(word);
            seen |= word;
        }
        if (found) {
            *line_ends = sse_fast_look_64(at, high);
            break;
        }
        *passed_high |= (seen & SSE_FAST_EACH(0x80)) != 0;
    }
    return at;
}

#endif

#if !defined(SSE_FAST_WIDE)
static inline void
sse_fast_choose(void)
{
}
#endif

static inline void
sse_fast_start(sse_fast_scan *scan, const uint8_t *at, const uint8_t *end)
{
    scan->window = scan->start = scan->next = at;
    scan->end = end;
    scan->line_ends = 0;
    scan->high = 0;
}

/* The mask of fewer than 64 bytes, if there are no others. */
static inline uint64_t
sse_fast_look_short(const uint8_t *at, size_t length, int *high)
{
    uint64_t line_ends = 0;
    size_t i;

    if (length < 8) {
        for (i = 0; i < length; i++) {
            line_ends |= (uint64_t)(at[i] == '\n' || at[i] == '\r') << i;
            *high |= at[i] >> 7;
        }
        return line_ends;
    }
#if defined(SSE_FAST_SSE2)
    if (length >= 16) {
        for (i = 0; i + 16 < length; i += 16)
            line_ends |= sse_fast_look_16(at + i, high) << i;
        return line_ends | sse_fast_look_16(at + length - 16, high) << (length - 16);
    }
#endif
    for (i = 0; i + 8 < length; i += 8)
        line_ends |= (sse_fast_look_8(at + i, high) & 0xFF) << i;
    return line_ends | (sse_fast_look_8(at + length - 8, high) & 0xFF) << (length - 8);
}

/* Copy bytes, few ones without a call. */
static inline void
sse_fast_copy_bytes(uint8_t *to, const uint8_t *at, size_t length)
{
    if (length > 32)
        memcpy(to, at, length);
    else if (length >= 16) {
        memcpy(to, at, 16);
        memcpy(to + length - 16, at + length - 16, 16);
    }
    else if (length >= 8) {
        memcpy(to, at, 8);
        memcpy(to + length - 8, at + length - 8, 8);
    }
    else if (length >= 4) {
        memcpy(to, at, 4);
        memcpy(to + length - 4, at + length - 4, 4);
    }
    else {
        for (; length > 0; length--)
            *to++ = *at++;
    }
}

/* Copy fewer than 64 bytes, unless there is a line end in them. */
static inline int
sse_fast_copy_line(uint8_t *to, const uint8_t *at, size_t length, int *high)
{
    if (sse_fast_look_short(at, length, high))
        return 0;
    sse_fast_copy_bytes(to, at, length);
    return 1;
}

/* Make the mask of the next window that has a line end, or of the last window. `non_ascii` is set
 * for the windows skipped. */
static inline void
sse_fast_refill(sse_fast_scan *scan, int *non_ascii)
{
    const uint8_t *at = scan->next, *end = scan->end;
    uint64_t line_ends = 0;
    int high = 0;
    size_t left;

    if (end - at >= 64) {
        int passed_high = 0;
#if defined(SSE_FAST_WIDE)
        if (sse_fast_is_wide)
            at = sse_fast_skip_wide(at, end - 64, &passed_high, &line_ends, &high);
        else
#endif
            at = sse_fast_skip(at, end - 64, &passed_high, &line_ends, &high);
        *non_ascii |= passed_high != 0;
    }
    scan->window = at;
    left = (size_t)(end - at);
    if (left >= 64)
        scan->next = at + 64;
    else {
        scan->next = end;
        if (end - scan->start < 64)
            line_ends = sse_fast_look_short(at, left, &high);
        else if (left > 0)
            line_ends = sse_fast_look_64(end - 64, &high) >> (64 - left);
    }
    scan->line_ends = line_ends;
    scan->high = high != 0;
}

static inline const uint8_t *
sse_fast_next_end_of_line(sse_fast_scan *scan, int *non_ascii)
{
    uint64_t line_ends = scan->line_ends;

    *non_ascii |= scan->high;
    if (line_ends == 0) {
        sse_fast_refill(scan, non_ascii);
        line_ends = scan->line_ends;
        *non_ascii |= scan->high;
        if (line_ends == 0)
            return scan->end;
    }
    scan->line_ends = line_ends & (line_ends - 1);
    return scan->window + sse_fast_lowest_bit(line_ends);
}

/* Skip the byte after the line end returned last, which is a line end too. */
static inline void
sse_fast_pass_end_of_line(sse_fast_scan *scan)
{
    if (scan->line_ends)
        scan->line_ends &= scan->line_ends - 1;
    else
        scan->next++;
}

/* Return the first CR or LF, or `end`, and set `non_ascii` as above: for a line that is likely to end
 * there, as masks are made of windows with a line end only. */
static inline const uint8_t *
sse_fast_find_end_of_line(const uint8_t *at, const uint8_t *end, int *non_ascii)
{
    uint64_t line_ends = 0;
    int passed_high = 0, high = 0;

    if (end - at < 64)
        line_ends = sse_fast_look_short(at, (size_t)(end - at), &high);
    else {
        const uint8_t *last = end - 64;
        at = sse_fast_skip(at, last, &passed_high, &line_ends, &high);
        if (line_ends == 0 && at < end)
            /* The bytes that were seen already have none. */
            at = sse_fast_skip(last, last, &passed_high, &line_ends, &high);
    }
    *non_ascii |= (passed_high | high) != 0;
    return line_ends ? at + sse_fast_lowest_bit(line_ends) : end;
}

/* Return the first byte of at most CR, such as the end of a short line or a NUL in it, or `end`. Set
 * `non_ascii` to 1 if a byte before it has its top bit set. */
static inline const uint8_t *
sse_fast_find_control(const uint8_t *at, const uint8_t *end, int *non_ascii)
{
#if defined(SSE_FAST_SSE2)
    const __m128i cr = _mm_set1_epi8('\r');

    for (; end - at >= 16; at += 16) {
        __m128i block = _mm_loadu_si128((const __m128i *)at);
        uint64_t high = sse_fast_mask(block);
        uint64_t controls = sse_fast_mask(_mm_cmpeq_epi8(_mm_min_epu8(block, cr), block));
        if (controls) {
            *non_ascii |= (high & (controls ^ (controls - 1))) != 0;
            return at + sse_fast_lowest_bit(controls);
        }
        *non_ascii |= high != 0;
    }
#else
    for (; end - at >= 8; at += 8) {
        uint64_t word = sse_fast_load(at), high = word & SSE_FAST_EACH(0x80);
        /* Borrows reach only the bytes after the first. */
        uint64_t controls = (word - SSE_FAST_EACH('\r' + 1)) & ~word & SSE_FAST_EACH(0x80);
        if (controls) {
            *non_ascii |= (high & (controls ^ (controls - 1))) != 0;
            return at + sse_fast_lowest_bit(controls) / 8;
        }
        *non_ascii |= high != 0;
    }
#endif
    for (; at < end && *at > '\r'; at++)
        *non_ascii |= *at >> 7;
    return at;
}

#endif
