/* Decodes UTF-8 that is not all ASCII to a str.
 *
 * The first pass finds the widest character and the number of characters; the second fills a str of
 * exactly that width. CPython's codec guesses the width, and copies when it was wrong: for events of
 * 330 bytes it takes up to 1.9 times as long. Invalid text is left to CPython, which places the
 * replacement characters as the WHATWG decoder does, and so is all text without SSE2.
 */
#ifndef SSE_FAST_TEXT_H
#define SSE_FAST_TEXT_H

#include <Python.h>

#include "scan.h"
#include "utf8.h"

#if defined(SSE_FAST_SSE2)

/* Count the bytes that continue a character, and find the largest byte. */
static inline Py_ssize_t
sse_fast_classify(const uint8_t *at, Py_ssize_t length, uint8_t *largest)
{
    const __m128i zero = _mm_setzero_si128();
    __m128i tops = zero, counts = zero;
    Py_ssize_t count, i;
    uint64_t halves[2];
    uint8_t top[16];

    for (; length >= 64; at += 64, length -= 64) {
        __m128i here = zero;
        for (i = 0; i < 64; i += 16) {
            __m128i block = _mm_loadu_si128((const __m128i *)(at + i));
            /* 0x80 to 0xBF are the smallest signed numbers; a true comparison is -1. */
            here = _mm_sub_epi8(here, _mm_cmplt_epi8(block, _mm_set1_epi8(-64)));
            tops = _mm_max_epu8(tops, block);
        }
        counts = _mm_add_epi64(counts, _mm_sad_epu8(here, zero));
    }
    _mm_storeu_si128((__m128i *)halves, counts);
    count = (Py_ssize_t)(halves[0] + halves[1]);
    _mm_storeu_si128((__m128i *)top, tops);
    for (i = 1; i < 16; i++)
        top[0] = top[i] > top[0] ? top[i] : top[0];
    for (i = 0; i < length; i++) {
        count += (at[i] & 0xC0) == 0x80;
        top[0] = at[i] > top[0] ? at[i] : top[0];
    }
    *largest = top[0];
    return count;
}

/* 16 ASCII characters, in 1, 2 or 4 bytes each. */
static inline void
sse_fast_widen(__m128i block, void *out, size_t width)
{
    const __m128i zero = _mm_setzero_si128();
    __m128i low = _mm_unpacklo_epi8(block, zero), high = _mm_unpackhi_epi8(block, zero);
    __m128i *to = (__m128i *)out;

    if (width == 1)
        _mm_storeu_si128(to, block);
    else if (width == 2) {
        _mm_storeu_si128(to, low);
        _mm_storeu_si128(to + 1, high);
    }
    else {
        _mm_storeu_si128(to, _mm_unpacklo_epi16(low, zero));
        _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low, zero));
        _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(high, zero));
        _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(high, zero));
    }
}

/* Fill the str, and return whether all bytes are valid. It has room for one character for each byte
 * that does not continue one, and no more are written. */
#  define SSE_FAST_FILL(name, type)                                                     \
    static int name(type *out, const uint8_t *at, const uint8_t *end)                   \
    {                                                                                   \
        uint32_t character;                                                             \
        int length;                                                                     \
        while (at < end) {                                                              \
            for (; end - at >= 16; at += 16, out += 16) {                               \
                __m128i block = _mm_loadu_si128((const __m128i *)at);                   \
                if (_mm_movemask_epi8(block))                                           \
                    break;                                                              \
                sse_fast_widen(block, out, sizeof(type));                               \
            }                                                                           \
            for (; at < end && *at < 0x80; at++)                                        \
                *out++ = *at;                                                           \
            for (; at < end && *at >= 0x80; at += length) {                             \
                length = sse_fast_decode_character(at, end, &character);                \
                if (length < 0)                                                         \
                    return 0;                                                           \
                *out++ = (type)character;                                               \
            }                                                                           \
        }                                                                               \
        return 1;                                                                       \
    }

SSE_FAST_FILL(sse_fast_fill_1, Py_UCS1)
SSE_FAST_FILL(sse_fast_fill_2, Py_UCS2)
SSE_FAST_FILL(sse_fast_fill_4, Py_UCS4)

#endif

#if !defined(Py_DEBUG) && !defined(Py_TRACE_REFS) && !defined(Py_GIL_DISABLED)
#  define SSE_FAST_ASCII_HEADER 1

/* A new str of ASCII begins with these bytes, but for its length. */
static PyASCIIObject sse_fast_ascii_header;
#endif

/* Called once, when the module is imported. */
static int
sse_fast_prepare_text(void)
{
#if defined(SSE_FAST_ASCII_HEADER)
    PyObject *text = PyUnicode_New(2, 127);

    if (text == NULL)
        return -1;
    memcpy(&sse_fast_ascii_header, text, sizeof sse_fast_ascii_header);
    Py_DECREF(text);
#endif
    return 0;
}

/* Make a str of two ASCII characters or more; CPython has the others already. Copying the header
 * takes a third of the instructions of PyUnicode_New, which computes its fields anew. */
static inline PyObject *
sse_fast_new_ascii(const uint8_t *at, Py_ssize_t length)
{
#if defined(SSE_FAST_ASCII_HEADER)
    PyASCIIObject *text = PyObject_Malloc(sizeof(PyASCIIObject) + (size_t)length + 1);

    if (text == NULL)
        return PyErr_NoMemory();
    *text = sse_fast_ascii_header;
    text->length = length;
    sse_fast_copy_bytes((uint8_t *)(text + 1), at, (size_t)length);
    ((uint8_t *)(text + 1))[length] = 0;
    return (PyObject *)text;
#else
    PyObject *text = PyUnicode_New(length, 127);

    if (text != NULL)
        sse_fast_copy_bytes(PyUnicode_1BYTE_DATA(text), at, (size_t)length);
    return text;
#endif
}

static PyObject *
sse_fast_decode(const uint8_t *at, Py_ssize_t length)
{
#if defined(SSE_FAST_SSE2)
    uint8_t largest;
    Py_ssize_t continuing = sse_fast_classify(at, length, &largest);
    PyObject *text;
    int valid;

    if (largest < 0x80 && length > 1) {
        /* `non_ascii` was set by a byte after this text. */
        return sse_fast_new_ascii(at, length);
    }
    if (largest >= 0xC2) {
        text = PyUnicode_New(length - continuing,
                             largest < 0xC4 ? 0xFF : largest < 0xF0 ? 0xFFFF : 0x10FFFF);
        if (text == NULL)
            return NULL;
        if (largest < 0xC4)
            valid = sse_fast_fill_1(PyUnicode_1BYTE_DATA(text), at, at + length);
        else if (largest < 0xF0)
            valid = sse_fast_fill_2(PyUnicode_2BYTE_DATA(text), at, at + length);
        else
            valid = sse_fast_fill_4(PyUnicode_4BYTE_DATA(text), at, at + length);
        if (valid)
            return text;
        Py_DECREF(text);
    }
#endif
    return PyUnicode_DecodeUTF8((const char *)at, length, "replace");
}

/* `maybe_wide`: whether a byte may not be ASCII. */
static inline PyObject *
sse_fast_new_text(const uint8_t *at, Py_ssize_t length, int maybe_wide)
{
    if (maybe_wide || length < 2)
        return sse_fast_decode(at, length);
    return sse_fast_new_ascii(at, length);
}

/* Compare bytes, few ones without a call. */
static inline int
sse_fast_is_same(const uint8_t *a, const uint8_t *b, size_t length)
{
    size_t at = 0;

    if (length > 32 || length < 4)
        return memcmp(a, b, length) == 0;
    if (length < 8)
        return memcmp(a, b, 4) == 0 && memcmp(a + length - 4, b + length - 4, 4) == 0;
    for (; at + 8 < length; at += 8)
        if (memcmp(a + at, b + at, 8) != 0)
            return 0;
    return memcmp(a + length - 8, b + length - 8, 8) == 0;
}

/* Tell whether a str is ASCII, and these bytes. */
static inline int
sse_fast_is_text(PyObject *text, const uint8_t *at, size_t length)
{
    return PyUnicode_IS_COMPACT_ASCII(text) && (size_t)PyUnicode_GET_LENGTH(text) == length
           && sse_fast_is_same((const uint8_t *)((PyASCIIObject *)text + 1), at, length);
}

#endif
