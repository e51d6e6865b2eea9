/* Compares `utf8.h` with a table of all encodings, and with the results of Python in a file of cases;
 * test_utf8.py builds it with each instruction set, with and without sanitizers. */
#include <stdio.h>
#include <stdlib.h>

#include "utf8.h"

#if defined(SSE_FAST_SSE2)
#  define BODY "SSE2"
#elif defined(SSE_FAST_NEON)
#  define BODY "NEON"
#else
#  define BODY "plain C"
#endif

/* Slow comparisons take one sequence in STEP. */
#ifndef STEP
#  define STEP 1
#endif
/* The first block, two windows, and the longest end after them. */
#ifndef LONG
#  define LONG 207
#endif
#define LONGEST 500
#define COUNT(array) (sizeof(array) / sizeof *(array))

static unsigned long comparisons;

static uint8_t *allocate(size_t size)
{
    uint8_t *start = malloc(size);
    if (start == NULL && size > 0) {
        puts("out of memory");
        exit(2);
    }
    return start;
}

/* Random numbers: the same sequence in each run, on every machine. */
static uint32_t dice(void)
{
    static uint32_t state = 1;
    state ^= state << 13;
    state ^= state >> 17;
    return state ^= state << 5;
}

/* The table of expected results: one bit for the encoding of every character, and one for every
 * beginning of one, by their number of bytes. For four bytes, the lead's last three bits suffice. */
static uint8_t *whole[5], *begun[4];

static size_t number(const uint8_t *at, int size)
{
    size_t result = size == 4 ? at[0] & 7 : at[0];
    int i;

    for (i = 1; i < size; i++)
        result = result << 8 | at[i];
    return result;
}

static void mark(uint8_t *bits, size_t place)
{
    bits[place / 8] |= (uint8_t)(1 << place % 8);
}

static int is_marked(const uint8_t *bits, size_t place)
{
    return bits[place / 8] >> place % 8 & 1;
}

static int encode(uint32_t character, uint8_t *to)
{
    int size = character < 0x80 ? 1 : character < 0x800 ? 2 : character < 0x10000 ? 3 : 4, i;

    for (i = size - 1; i > 0; i--, character >>= 6)
        to[i] = (uint8_t)(0x80 | (character & 0x3F));
    to[0] = (uint8_t)(size == 1 ? character : (0xF00u >> size & 0xFF) | character);
    return size;
}

static void encode_all(void)
{
    static const size_t BYTES[] = {0, 1 << 5, 1 << 13, 1 << 21, 1 << 24};
    uint32_t character;
    uint8_t bytes[4];
    int size;

    for (size = 1; size <= 4; size++) {
        memset(whole[size] = allocate(BYTES[size]), 0, BYTES[size]);
        if (size < 4)
            memset(begun[size] = allocate(BYTES[size]), 0, BYTES[size]);
    }
    for (character = 0; character <= 0x10FFFF; character++) {
        if (character >= 0xD800 && character <= 0xDFFF)
            continue;
        size = encode(character, bytes);
        mark(whole[size], number(bytes, size));
        while (--size > 0)
            mark(begun[size], number(bytes, size));
    }
}

/* Write the expected replacement to `to`, and return whether nothing was replaced. */
static size_t expect(uint8_t *to, const uint8_t *at, const uint8_t *end, int *valid)
{
    uint8_t *start = to;

    for (*valid = 1; at < end;) {
        int left = end - at < 4 ? (int)(end - at) : 4, size;
        for (size = left; size > 0; size--)
            if ((size < 4 || at[0] >> 3 == 0x1E) && is_marked(whole[size], number(at, size)))
                break;
        if (size > 0) {
            memcpy(to, at, (size_t)size);
            to += size;
        }
        else {
            *valid = 0;
            for (size = left < 3 ? left : 3; size > 1; size--)
                if (is_marked(begun[size], number(at, size)))
                    break;
            memcpy(to, "\xEF\xBF\xBD", 3);
            to += 3;
        }
        at += size;
    }
    return (size_t)(to - start);
}

static void fail(const char *what, const uint8_t *at, size_t length)
{
    size_t i;

    printf("%s: %s of %lu bytes:", BODY, what, (unsigned long)length);
    for (i = 0; i < length; i++)
        printf(" %02X", at[i]);
    puts("");
    exit(1);
}

static void compare_validity(const uint8_t *at, size_t length, int valid)
{
    comparisons++;
    if (!sse_fast_is_utf8(at, length) != !valid)
        fail(valid ? "refused" : "accepted", at, length);
}

static void compare_with(const uint8_t *at, size_t length, const uint8_t *expected, size_t size,
                         int valid)
{
    static uint8_t result[3 * LONGEST + 1];

    compare_validity(at, length, valid);
    memset(result, 0x5A, size + 1);
    if (sse_fast_replace(result, at, length) != size
        || memcmp(result, expected, size) != 0 || result[size] != 0x5A)
        fail("wrong replacement", at, length);
}

static void compare(const uint8_t *at, size_t length)
{
    uint8_t expected[3 * LONGEST];
    int valid;
    size_t size = expect(expected, at, at + length, &valid);

    compare_with(at, length, expected, size, valid);
}

/* All sequences of one to three bytes, and those that begin like characters of four. */
static void every_sequence(void)
{
    static const uint8_t BYTES[] = {0x00, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xF4};
    /* An allocation of exactly this size lets a sanitizer see a read of one byte outside. */
    uint8_t *at;
    size_t size;
    uint32_t n;

    compare(NULL, 0);
    for (size = 1; size <= 3; size++) {
        at = allocate(size);
        for (n = 0; n < 1u << 8 * size; n += size > 1 ? STEP : 1) {
            memcpy(at, (uint8_t[]){(uint8_t)n, (uint8_t)(n >> 8), (uint8_t)(n >> 16)}, size);
            compare(at, size);
        }
        free(at);
    }
    at = allocate(4);
    for (n = 0; n < 8 * 256 * COUNT(BYTES) * COUNT(BYTES); n += STEP) {
        at[0] = 0xF0 | (n & 7);
        at[1] = n >> 3 & 0xFF;
        at[2] = BYTES[(n >> 11) % COUNT(BYTES)];
        at[3] = BYTES[(n >> 11) / COUNT(BYTES)];
        compare(at, 4);
    }
    free(at);
}

/* Fill with ASCII, or with characters of two to four bytes. */
static void fill(uint8_t *at, size_t length, size_t width, int from_the_end)
{
    static const char *const CHARACTERS[] = {"a", "\xDF\xBF", "\xEF\xBF\xBF", "\xF3\xBF\xBF\xBF"};
    size_t rest = length % width, i;

    memset(from_the_end ? at : at + length - rest, 'a', rest);
    at += from_the_end ? rest : 0;
    for (i = 0; i + width <= length; i += width)
        memcpy(at + i, CHARACTERS[width - 1], width);
}

typedef struct {
    uint8_t bytes[4];
    int size, valid;
} sequence;

static sequence sequences[80000];
static size_t count;

static void add(uint8_t a, uint8_t b, uint8_t c, uint8_t d, int size)
{
    sequence added = {{a, b, c, d}, size, 0};
    uint8_t ignored[12];

    expect(ignored, added.bytes, added.bytes + size, &added.valid);
    sequences[count++] = added;
}

/* The bytes on both sides of each limit. */
static void make_sequences(void)
{
    static const uint8_t BYTES[] = {0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0,
                                    0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED, 0xEE, 0xEF,
                                    0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xF8, 0xFF, 0x00};
    static const uint8_t LAST[] = {0x7F, 0x80, 0x9F, 0xBF, 0xC2};
    size_t a, b, c, d;

    for (a = 0; a < COUNT(BYTES); a++) {
        add(BYTES[a], 0, 0, 0, 1);
        for (b = 0; b < COUNT(BYTES); b++) {
            add(BYTES[a], BYTES[b], 0, 0, 2);
            for (c = 0; c < COUNT(BYTES); c++) {
                add(BYTES[a], BYTES[b], BYTES[c], 0, 3);
                for (d = 0; d < COUNT(LAST) && BYTES[a] >= 0xF0; d++)
                    add(BYTES[a], BYTES[b], BYTES[c], LAST[d], 4);
            }
        }
    }
    for (a = 0xC0; a <= 0xFF; a++) {
        add((uint8_t)a, 0x80, 0x80, 0x80, 4);
        add((uint8_t)a, 0xBF, 0xBF, 0xBF, 4);
        for (b = 0x70; b < 0xD0; b++) {
            add((uint8_t)a, (uint8_t)b, 0, 0, 2);
            add((uint8_t)a, (uint8_t)b, 0x80, 0, 3);
            add((uint8_t)a, (uint8_t)b, 0x80, 0x80, 4);
        }
    }
}

/* Put invalid sequences at every place of valid texts of all lengths. */
static void every_place(void)
{
    size_t length, place, width, i;

    for (length = 1; length <= LONG; length++) {
        uint8_t *at = allocate(length);
        for (place = 0; place < length; place++) {
            for (width = 1; width <= 4; width++) {
                size_t step = length < LONG ? 2003 : width % 2 ? 11 : 101;
                fill(at, place, width, 1);
                for (i = dice() % step; i < count; i += step * STEP) {
                    const sequence *here = &sequences[i];
                    size_t behind = place + (size_t)here->size;
                    if (behind > length)
                        continue;
                    memcpy(at + place, here->bytes, (size_t)here->size);
                    fill(at + behind, length - behind, width, 0);
                    compare_validity(at, length, here->valid);
                    if (i % 1000 == 0)
                        compare(at, length);
                }
            }
        }
        free(at);
    }
}

/* Surround texts with bytes that change the result if they are read. */
static void every_mixture(void)
{
    static uint8_t text[LONGEST + 32];
    int round;

    for (round = 0; round < 40000 / STEP; round++) {
        size_t length = dice() % (round % 2 ? 80 : LONGEST), i = 0;
        uint32_t wrong = dice() % 3 ? 0 : 1 + dice() % 200, kind = dice() % 8;
        uint8_t *at = text + dice() % 16;

        memset(text, 0xF0, sizeof text);
        while (i < length) {
            uint8_t bytes[4];
            uint32_t character = dice() >> (kind < 4 ? 25 - 5 * kind : 11 + dice() % 16);
            size_t size = 1;
            bytes[0] = 'a';
            if (wrong && dice() % wrong == 0)
                bytes[0] = dice() % 2 ? (uint8_t)dice() : 0x80;
            else if (character <= 0x10FFFF && character >> 11 != 0x1B)
                size = (size_t)encode(character, bytes);
            /* The last character may be cut off. */
            size = size < length - i ? size : length - i;
            memcpy(at + i, bytes, size);
            i += size;
        }
        at[length] = 0x80;
        compare(at, length);
    }
}

static uint32_t read_number(FILE *file)
{
    uint32_t result = 0;
    int i;

    for (i = 0; i < 4; i++)
        result |= (uint32_t)(fgetc(file) & 0xFF) << 8 * i;
    return result;
}

static void read_exactly(void *to, size_t size, FILE *file)
{
    if (fread(to, 1, size, file) != size) {
        puts("the file of cases is cut off");
        exit(2);
    }
}

/* A case is a flag for validity, then the text and its replacement, each after its length. */
static void every_case_of(const char *path)
{
    uint8_t expected[3 * LONGEST];
    FILE *file = fopen(path, "rb");
    int valid;

    if (file == NULL) {
        puts("no file of cases");
        exit(2);
    }
    while ((valid = fgetc(file)) != EOF) {
        size_t length = read_number(file), size;
        uint8_t *at = allocate(length);
        read_exactly(at, length, file);
        size = read_number(file);
        read_exactly(expected, size, file);
        compare_with(at, length, expected, size, valid);
        free(at);
    }
    fclose(file);
}

int main(int argument_count, char **arguments)
{
    if (argument_count != 2)
        return 2;
    every_case_of(arguments[1]);
    encode_all();
    every_sequence();
    make_sequences();
    every_place();
    every_mixture();
    printf("%lu comparisons: %s\n", comparisons, BODY);
    return 0;
}
