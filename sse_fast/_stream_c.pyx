# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""The compiled fast paths of streams: feeding a chunk, and `EventStream.__next__`.

A signal handler raises only in Python functions, so that nothing is lost between two lines here.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from sse_fast._core.parser_c cimport Parser, feed_bytes

cdef list _NO_EVENTS = []


def feed_next(list fed not None, Parser parser not None, object slices):
    """Feed the next slice of an iterator, or the chunk in a list, and append the events to `fed`."""
    cdef object chunk = (<list>slices).pop() if type(slices) is list else next(slices)
    if type(chunk) is bytes:
        fed.append(feed_bytes(
            parser, <const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk)))
    else:
        fed.append(parser.feed(chunk))


cdef class _FastNext:
    """The compiled forms of `EventStream.__next__` and `StreamBase._parse`.

    `__next__` reads a chunk, feeds it and delivers its events. Everything unusual falls back to
    `_next`, which the subclass defines. An event takes 50 ns where Python takes 370, with one event
    in each chunk.
    """

    # The attributes of `StreamBase` that the fast paths read and set.
    cdef public Parser _parser
    cdef public list _batch
    cdef public Py_ssize_t _delivered
    cdef public str _id_before_batch
    cdef public object _on_chunk
    cdef public object _comments
    cdef public object _watch
    cdef public Py_ssize_t _slice_size
    cdef public bint _read_is_due
    cdef public bint _reading
    cdef public bint _interrupted
    cdef public bint _in_callback
    cdef public bint _feed_incomplete
    cdef public bint _rest_is_due
    cdef public list _received
    cdef public long long _bytes_read
    cdef public object _slices
    cdef public object _slice_starts
    cdef public list _fed
    cdef public object _read_error
    cdef public object _caught
    cdef public object _segment
    cdef public object end_reason
    cdef public object _chunks

    def __next__(self):
        cdef list batch
        cdef Py_ssize_t at
        cdef object chunk
        while True:
            batch = self._batch
            at = self._delivered
            if 0 <= at < len(batch):
                self._delivered = at + 1
                return batch[at]
            if (not self._read_is_due or self._reading or self._on_chunk is not None
                    or self._watch is not None or self._read_error is not None
                    or len(self._received)):
                return self._next()
            self._reading = True
            try:
                chunk = next(self._chunks)
            except BaseException as error:
                self._reading = False
                self._read_error = error
                return self._next()
            self._reading = False
            # Another thread closed the stream, or the chunk has to be converted or sliced.
            if (not self._read_is_due or type(chunk) is not bytes
                    or PyBytes_GET_SIZE(chunk) > self._slice_size):
                self._received.append(chunk)
                self._read_is_due = False
                return self._next()
            _feed_plain(self, <bytes>chunk)

    def _parse(self):
        """Feed one slice; or, if the latest feed raised, let it parse the rest of its slice."""
        cdef Parser parser = _get_parser(self)
        cdef str id_before = self.last_event_id if self._feed_incomplete else parser._last_event_id
        cdef object chunk = b""
        cdef list events
        if not self._feed_incomplete and not self._rest_is_due:
            chunk = next(self._slices)
        _begin_feed(self, id_before)
        try:
            events = parser.feed(chunk)
        except BaseException as error:
            self._in_callback = False
            self._caught = error
            self._use_caught_error()
            return
        self._in_callback = False
        if (self._comments is not None or self._watch is not None or self.end_reason is not None):
            self._fed.append(events)
            self._use_fed_events()
            return
        self._batch = events
        self._read_is_due = not parser._done and self._slice_starts.__length_hint__() == 0
        # Last, because other threads may read last_event_id.
        self._feed_incomplete = False


cdef inline Parser _get_parser(_FastNext self):
    if self._parser is None:
        raise AttributeError("The parser of this stream was removed")
    return self._parser


cdef inline int _begin_feed(_FastNext self, str id_before) except -1:
    self._id_before_batch = id_before
    self._segment = None
    self._batch = _NO_EVENTS
    self._delivered = 0
    self._feed_incomplete = True
    self._rest_is_due = False
    self._read_is_due = False
    self._in_callback = True
    return 0


cdef int _feed_plain(_FastNext self, bytes chunk) except -1:
    """Feed a whole chunk, when there is nothing to be fed before it."""
    # A callback may replace `_parser` while this one runs.
    cdef Parser parser = _get_parser(self)
    cdef list events
    self._interrupted = False
    self._bytes_read += PyBytes_GET_SIZE(chunk)
    _begin_feed(self, parser._last_event_id)
    try:
        events = feed_bytes(
            parser, <const uint8_t*>PyBytes_AS_STRING(chunk), PyBytes_GET_SIZE(chunk))
    except BaseException as error:
        self._in_callback = False
        self._caught = error
        return 0
    self._in_callback = False
    self._feed_incomplete = False
    # If there is an end reason, a callback closed the stream.
    if self.end_reason is None:
        self._batch = events
        self._read_is_due = not parser._done
    return 0
