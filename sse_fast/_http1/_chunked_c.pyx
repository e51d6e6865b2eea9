# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""The ordinary chunks of the chunked coding (RFC 9112, 7.1), decoded without httptools.

A chunk is ordinary if its size line is 1 to 15 hexadecimal digits that are not all zeros, and CRLF,
and CRLF follows its data. The decoder stops where anything else begins: another decoder continues
there.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from libc.stdint cimport int8_t, uint8_t, uint64_t
from libc.string cimport memcpy, memmove, memset

cdef extern from "Python.h":
    # Owned by the C code until `take_over`, which resizing needs.
    PyObject* new_bytes "PyBytes_FromStringAndSize"(const char*, Py_ssize_t) except NULL
    uint8_t* get_bytes "PyBytes_AS_STRING"(PyObject*)
    int resize_bytes "_PyBytes_Resize"(PyObject**, Py_ssize_t) except -1
    bytes take_over "(PyObject*)"(PyObject*)

cdef enum:
    MAX_DIGITS = 15
    # A slice of a memoryview costs more than a copy of fewer bytes.
    FEW = 16 * 1024

# The place of the next byte.
cdef enum Place:
    IN_SIZE  # a digit of the size, or the CR after it
    BEFORE_DATA  # the LF after that CR
    IN_DATA
    AFTER_DATA  # the CR after the data
    BEFORE_SIZE  # the LF after that CR
    STOPPED

cdef struct Chunks:
    Place place
    int digits
    uint8_t line[MAX_DIGITS]
    uint64_t size
    # Bytes of the data that are to come.
    uint64_t left

# The values of hexadecimal digits, and -1 for other bytes.
cdef int8_t[256] _VALUES


cdef void _set_values() noexcept:
    cdef int i
    memset(_VALUES, -1, sizeof(_VALUES))
    for i in range(10):
        _VALUES[c"0" + i] = i
    for i in range(6):
        _VALUES[c"a" + i] = _VALUES[c"A" + i] = 10 + i


_set_values()


cdef Py_ssize_t next_span(
    Chunks* chunks, const uint8_t* data, Py_ssize_t size, Py_ssize_t* at
) noexcept nogil:
    """Find the next bytes of the body.

    Args:
        chunks: the state.
        data: the received bytes.
        size: how many.
        at: where to go on; set to the offset after the span. Where the decoder stops, it is the
            first byte that was not used.

    Returns:
        The length of the span, which ends at `at`; 0: there is no other.
    """
    cdef Py_ssize_t i = at[0]
    cdef Py_ssize_t span
    cdef int8_t value
    while i < size:
        if chunks.place == IN_DATA:
            span = size - i
            if chunks.left <= <uint64_t>span:
                span = <Py_ssize_t>chunks.left
                chunks.place = AFTER_DATA
            chunks.left -= <uint64_t>span
            at[0] = i + span
            return span
        if chunks.place == IN_SIZE:
            value = _VALUES[data[i]]
            if value >= 0 and chunks.digits < MAX_DIGITS:
                chunks.line[chunks.digits] = data[i]
                chunks.digits += 1
                chunks.size = chunks.size << 4 | <uint64_t>value
            elif data[i] == c"\r" and chunks.size:
                chunks.place = BEFORE_DATA
            else:
                break
        elif chunks.place == BEFORE_DATA:
            if data[i] != c"\n":
                break
            chunks.place = IN_DATA
            chunks.left = chunks.size
        elif chunks.place == AFTER_DATA:
            if data[i] != c"\r":
                break
            chunks.place = BEFORE_SIZE
        elif chunks.place == BEFORE_SIZE:
            if data[i] != c"\n":
                break
            chunks.place = IN_SIZE
            chunks.digits = 0
            chunks.size = 0
        else:
            break
        i += 1
    at[0] = i
    return 0


cdef class ChunkDecoder


cdef bytes _copy(ChunkDecoder self, const uint8_t* data, Py_ssize_t size):
    """Decode into a new object."""
    cdef Py_ssize_t at = 0
    cdef Py_ssize_t first = next_span(&self._chunks, data, size, &at)
    cdef Py_ssize_t start = at - first
    cdef Py_ssize_t span = next_span(&self._chunks, data, size, &at) if first else 0
    cdef Py_ssize_t total = first
    cdef PyObject* whole
    if not span:
        _count(self, at, size, first)
        return PyBytes_FromStringAndSize(<const char*>data + start, first)
    # Longer than the body by the framing of the other chunks.
    whole = new_bytes(NULL, first + span + size - at)
    memcpy(get_bytes(whole), data + start, <size_t>first)
    while span:
        memcpy(get_bytes(whole) + total, data + at - span, <size_t>span)
        total += span
        span = next_span(&self._chunks, data, size, &at)
    _count(self, at, size, total)
    resize_bytes(&whole, total)
    return take_over(whole)


cdef void _count(ChunkDecoder self, Py_ssize_t at, Py_ssize_t size, Py_ssize_t body) noexcept:
    """Note how an input was used."""
    if body:
        self.has_body = True
        self.framing = 0
    else:
        self.framing += size
    if at < size:
        self.rest = at


cdef class ChunkDecoder:
    """The decoder of the ordinary chunks at the beginning of one body.

    Attributes:
        rest: the offset of the first byte of the latest input that it did not use, because no
            ordinary chunk is there; -1 as long as it goes on.
        has_body: whether a byte of the body was returned.
        framing: how many bytes were received since the last input with a byte of the body.
        few: `take` copies inputs of fewer bytes.
    """

    cdef Chunks _chunks
    cdef readonly Py_ssize_t rest
    cdef readonly bint has_body
    cdef readonly Py_ssize_t framing
    cdef public Py_ssize_t few

    def __cinit__(self):
        self.few = FEW
        self._chunks.place = IN_SIZE
        self.rest = -1

    def copy(self, data not None, Py_ssize_t size) -> bytes:
        """Return the bytes of the body in the next `size` bytes of the connection."""
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            return _copy(self, <const uint8_t*>view.buf, min(size, view.len))
        finally:
            PyBuffer_Release(&view)

    def take(self, buffer not None, Py_ssize_t size) -> bytes | memoryview:
        """Return the bytes of the body in the first `size` bytes of a writable buffer.

        They are moved together in the buffer, or copied if they are few. Bytes from `rest` on are
        left as they are.
        """
        cdef Py_buffer view
        cdef Py_ssize_t at = 0
        cdef Py_ssize_t start, end, span
        cdef uint8_t* data
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            data = <uint8_t*>view.buf
            size = min(size, view.len)
            if size < self.few:
                return _copy(self, data, size)
            end = span = next_span(&self._chunks, data, size, &at)
            start, end = at - span, at
            while span:
                span = next_span(&self._chunks, data, size, &at)
                if span > end - start:
                    # It stays where it is, as moving what precedes it costs less.
                    memmove(data + at - span - (end - start), data + start, <size_t>(end - start))
                    start, end = at - span - (end - start), at
                elif span:
                    memmove(data + end, data + at - span, <size_t>span)
                    end += span
            _count(self, at, size, end - start)
        finally:
            PyBuffer_Release(&view)
        return buffer[start:end]

    def stop(self) -> bytes:
        """Return what another decoder has to be fed before the rest, as if the body began there.

        It begins with a chunk of one byte if the end of a chunk's data was reached.
        """
        cdef Place place = self._chunks.place
        self._chunks.place = STOPPED
        if place == IN_SIZE:
            return self._chunks.line[: self._chunks.digits]
        if place == BEFORE_DATA:
            return self._chunks.line[: self._chunks.digits] + b"\r"
        if place == AFTER_DATA:
            return b"1\r\n."
        if place == BEFORE_SIZE:
            return b"1\r\n.\r"
        return b"%x\r\n" % (self._chunks.left,)


cdef class FastBody:
    """The usual reads of a body from a blocking socket, each in one step of C.

    So an exception of a signal handler comes before bytes are received, or after they were returned.
    Subclasses define `_next` for everything unusual.
    """

    cdef public object _sock
    cdef public object _protected_read
    cdef public object _ordinary
    cdef public object _ahead
    cdef public object _buffer
    cdef public Py_ssize_t _room
    cdef public Py_ssize_t _few
    cdef public Py_ssize_t _small_reads
    cdef public double _idle

    def __next__(self):
        cdef ChunkDecoder ordinary
        cdef Py_ssize_t size
        cdef object body
        if (type(self._ordinary) is not ChunkDecoder or self._protected_read is not None
                or self._ahead is not None):
            return self._next()
        ordinary = self._ordinary
        try:
            size = self._sock.recv_into(self._buffer)
        except TimeoutError as error:
            self._refuse_idle(error)
            raise
        body = ordinary.take(self._buffer, size) if size else b""
        if not size or ordinary.rest >= 0:
            return self._use_rest(body, size)
        self._idle = 0.0
        if self._few < size < self._room:
            self._small_reads = 0
        else:
            # Python runs: if it is interrupted, the next read returns the body.
            self._ahead = body
            self._resize(size)
            self._ahead = None
        return body
