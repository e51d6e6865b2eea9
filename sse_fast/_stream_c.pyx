# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""The compiled fast path of `EventStream.__next__`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from sse_fast._core.parser_c cimport Parser, feed_bytes

cdef list _NO_EVENTS = []


cdef class _FastNext:
    """The compiled fast path of `EventStream.__next__`: read a chunk, feed it, deliver its events.

    Everything unusual falls back to `_next`, which the subclass defines. An event takes 50 ns where
    Python takes 370, with one event in each chunk.
    """

    # The attributes of `EventStream` that the fast path reads and sets.
    cdef public Parser _parser
    cdef public object _chunks
    cdef public list _batch
    cdef public Py_ssize_t _delivered
    cdef public str _id_before_batch
    cdef public object _on_chunk
    cdef public Py_ssize_t _slice_size
    cdef public bint _read_is_due
    cdef public bint _reading
    cdef public bint _interrupted
    cdef public bint _in_callback
    cdef public list _received
    cdef public object _caught
    cdef public object _watch
    cdef public object _segment
    cdef public bint _feed_incomplete
    cdef public object end_reason

    def __next__(self):
        cdef list batch
        cdef Py_ssize_t at
        cdef object chunk
        cdef Parser parser
        while True:
            batch = self._batch
            at = self._delivered
            if 0 <= at < len(batch):
                self._delivered = at + 1
                return batch[at]
            if (not self._read_is_due or self._reading or self._on_chunk is not None
                    or self._watch is not None or len(self._received)):
                return self._next()
            self._reading = True
            try:
                chunk = next(self._chunks)
            except BaseException as error:
                self._reading = False
                return self._next(error)
            self._reading = False
            # Another thread closed the stream, or the chunk has to be converted or sliced. It is
            # stored first, because a signal handler may raise in any Python function.
            if (not self._read_is_due or type(chunk) is not bytes
                    or PyBytes_GET_SIZE(chunk) > self._slice_size):
                self._received.append(chunk)
                self._read_is_due = False
                return self._next()
            self._interrupted = False
            # A callback may replace `_parser` while this one runs.
            parser = self._parser
            if parser is None:
                raise AttributeError("The parser of this stream was removed")
            self._id_before_batch = parser._last_event_id
            self._segment = None
            self._batch = _NO_EVENTS
            self._delivered = 0
            self._feed_incomplete = True
            self._read_is_due = False
            self._in_callback = True
            try:
                batch = feed_bytes(
                    parser, <const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
            except BaseException as error:
                self._in_callback = False
                self._caught = error
                self._use_caught_error()
                continue
            self._in_callback = False
            self._feed_incomplete = False
            if self.end_reason is not None:
                # A callback closed the stream.
                continue
            self._batch = batch
            self._read_is_due = not parser._done
