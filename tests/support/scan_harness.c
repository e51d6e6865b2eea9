/* Compares `scan.h` with a naive loop; test_scan.py builds it with each instruction set, with and
 * without sanitizers. */
#include <stdio.h>
#include <stdlib.h>

#include "scan.h"

#if defined(SSE_FAST_WIDE)
#  define BODY (sse_fast_is_wide ? "AVX2" : "SSE2")
#elif defined(SSE_FAST_SSE2)
#  define BODY "SSE2"
#elif defined(SSE_FAST_NEON)
#  define BODY "NEON"
#else
#  define BODY "plain C"
#endif

/* Three windows, and the code for the bytes after them. */
#ifndef LONGEST
#  define LONGEST 200
#endif
#define MARGIN 16
#define NOWHERE (-1)

/* A letter, the extremes, the neighbours of LF and CR, and both with their top bit set: bytes that a
 * careless comparison takes for a line end. */
static const uint8_t FILLERS[] = {
    'a', 0x00, 0x09, 0x0B, 0x0C, 0x0E, 0x7F, 0x80, 0x8A, 0x8D, 0xFF,
};
static const uint8_t LINE_ENDS[] = {'\n', '\r'};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static unsigned long comparisons;

static const uint8_t *naive(const uint8_t *at, const uint8_t *end, int *non_ascii)
{
    for (; at != end; at++) {
        if (*at == '\n' || *at == '\r')
            break;
        if (*at >= 0x80)
            *non_ascii = 1;
    }
    return at;
}

/* The flag may also be set by bytes less than two windows away, from `start` to `end`. */
static int right_flag(int flag, int expected, const uint8_t *start, const uint8_t *at,
                      const uint8_t *found, const uint8_t *end)
{
    int nearby = expected;

    if (flag == expected)
        return 1;
    at -= at - start < 127 ? at - start : 127;
    found += end - found < 127 ? end - found : 127;
    for (; at != found; at++)
        nearby |= *at >= 0x80;
    return flag == nearby;
}

/* The first byte of at most CR; the flag is exact. */
static void compare_control(const uint8_t *at, const uint8_t *end)
{
    const uint8_t *expected = at, *found;
    int expected_flag = 0, flag = 0;

    for (; expected != end && *expected > '\r'; expected++)
        expected_flag |= *expected >= 0x80;
    found = sse_fast_find_control(at, end, &flag);
    comparisons++;
    if (found != expected || flag != expected_flag) {
        printf("%s: length %ld: control at %ld, flag %d; expected %ld, flag %d\n", BODY,
               (long)(end - at), (long)(found - at), flag, (long)(expected - at), expected_flag);
        exit(1);
    }
}

/* Places outside the range, NOWHERE and `length` among them, leave the range as it is. */
static void put(uint8_t *at, int length, int place, uint8_t byte)
{
    if (place >= 0 && place < length)
        at[place] = byte;
}

/* `high` is written last, so it replaces a line end at the same place. */
static void compare(uint8_t *at, int length, uint8_t filler, uint8_t line_end, int place,
                    uint8_t high, int high_place)
{
    int before;

    memset(at, filler, (size_t)length);
    put(at, length, place, line_end);
    put(at, length, high_place, high);
    compare_control(at, at + length);
    for (before = 0; before <= 1; before++) {
        int expected_flag = before, flag = before;
        const uint8_t *expected = naive(at, at + length, &expected_flag);
        const uint8_t *found = sse_fast_find_end_of_line(at, at + length, &flag);
        comparisons++;
        if (found != expected
            || !right_flag(flag, expected_flag, at, at, found, at + length)) {
            printf("%s: length %d of 0x%02X at address %% 16 = %d, 0x%02X at %d, 0x%02X at %d, "
                   "flag %d: found %ld, flag %d; expected %ld, flag %d\n",
                   BODY, length, filler, (int)((uintptr_t)at % 16), line_end, place, high,
                   high_place, before, (long)(found - at), flag, (long)(expected - at),
                   expected_flag);
            exit(1);
        }
    }
}

static uint8_t *allocate(int size)
{
    uint8_t *start = malloc((size_t)size);
    if (start == NULL && size > 0) {
        puts("out of memory");
        exit(2);
    }
    return start;
}

/* An allocation of exactly this size lets a sanitizer see a read of one byte outside. */
static void whole_allocation(int length)
{
    uint8_t *at = allocate(length);
    /* Long ranges take one place in five; consecutive lengths cover all places. */
    int place, other, step = length > 80 ? 5 : 1;
    size_t e, f;

    for (e = 0; at != NULL && e < COUNT(LINE_ENDS); e++) {
        uint8_t line_end = LINE_ENDS[e], high = line_end | 0x80;
        for (place = 0; place <= length; place++) {
            for (other = NOWHERE + (length + place) % step; other < length; other += step)
                compare(at, length, 'a', line_end, place, high, other);
            for (f = 0; f < COUNT(FILLERS); f++) {
                compare(at, length, FILLERS[f], line_end, place, high, NOWHERE);
                for (other = place - 1; other <= place + 1; other++)
                    compare(at, length, FILLERS[f], line_end, place, high, other);
                /* The first of two line ends counts, near or far apart. */
                compare(at, length, FILLERS[f], line_end, place, '\n', place + 1);
                compare(at, length, FILLERS[f], line_end, place, '\r', length - 1);
            }
        }
    }
    free(at);
}

/* Try every alignment, with bytes around the range that change the result if they are read. The last
 * range ends with its allocation, as does the empty one: an allocation of no bytes may have one. */
static void every_alignment(int length)
{
    uint8_t *start = allocate(MARGIN + length);
    int offset, i, place;
    size_t e;

    for (offset = 1; offset <= MARGIN; offset++) {
        for (i = 0; i < MARGIN + length; i++)
            start[i] = i % 2 ? '\n' : 0xFF;
        for (e = 0; e < COUNT(LINE_ENDS); e++) {
            for (place = 0; place <= length; place++) {
                uint8_t *at = start + offset;
                compare(at, length, 'a', LINE_ENDS[e], place, 0x80, NOWHERE);
                compare(at, length, 'a', LINE_ENDS[e], place, 0x80, place - 1);
                compare(at, length, 'a', LINE_ENDS[e], place, 0x80, place + 1);
            }
        }
    }
    free(start);
}

/* Random numbers: the same sequence in each run, on every machine. */
static uint32_t dice(void)
{
    static uint32_t state = 1;
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

/* Find all line ends of a range, in one window, at its borders and far apart, and skip some, as those
 * of blank lines are. */
static void one_after_the_other(int length, int density)
{
    uint8_t *start = allocate(length);
    const uint8_t *at = start, *end = start + length;
    sse_fast_scan scan;
    int i;

    for (i = 0; i < length; i++) {
        int here = (int)(dice() % 1000) < density;
        start[i] = here ? LINE_ENDS[dice() % 2] : FILLERS[dice() % 16 ? 0 : dice() % COUNT(FILLERS)];
    }
    sse_fast_start(&scan, at, end);
    for (;;) {
        int expected_flag = 0, flag = 0;
        const uint8_t *expected = naive(at, end, &expected_flag);
        const uint8_t *found = sse_fast_next_end_of_line(&scan, &flag);
        comparisons++;
        if (found != expected || !right_flag(flag, expected_flag, start, at, found, end)) {
            printf("%s: length %d, density %d, from %ld: found %ld, flag %d; expected %ld, flag %d\n",
                   BODY, length, density, (long)(at - start), (long)(found - start), flag,
                   (long)(expected - start), expected_flag);
            exit(1);
        }
        compare_control(at, end);
        if (found == end)
            break;
        at = found + 1;
        if (at < end && (*at == '\n' || *at == '\r') && dice() % 2) {
            sse_fast_pass_end_of_line(&scan);
            at++;
        }
    }
    free(start);
}

static void every_comparison(void)
{
    static const int DENSITIES[] = {1, 5, 20, 100, 500, 1000};
    int length, round;
    size_t i;

    for (length = 0; length <= LONGEST; length++) {
        whole_allocation(length);
        every_alignment(length);
    }
    for (length = 0; length <= 4 * LONGEST; length++)
        for (i = 0; i < COUNT(DENSITIES); i++)
            for (round = 0; round < 10; round++)
                one_after_the_other(length, DENSITIES[i]);
    printf("%lu comparisons: %s\n", comparisons, BODY);
}

int main(void)
{
    sse_fast_choose();
    every_comparison();
    return 0;
}
