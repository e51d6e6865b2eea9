# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""Arrow output: parsed events become record batches instead of Python objects.

These files process the bytes without Python objects and without the GIL:

- `_core/lines.pxd` finds the values, as it does for `Parser`;
- `_builder.pxd` appends them to the columns of a batch;
- `_batch.pxd`, `_memory.h` and `_source_buffer.h` have the memory of batches and count references;
- `_interner.pxd` numbers event types;
- `_merge.pxd` completes the batches of segments, and concatenates them;
- `_export.pxd` exports batches by Arrow's C data interface.

This file has the classes that Python uses: `SourceBuffer`, `BatchPool` and `RecordBatch`; the
export as capsules; `Reader`, which makes the batches of a stream or of one segment; and
`SegmentMerger`.

A segment begins after a blank line, where all state is reset but the last event ID. If the segment
before is still being read by another thread, that id is unknown: the rows up to the first id are
left without, and `SegmentMerger` fills them in. It also maps each reader's numbers of event types
to common ones, so that the result does not depend on which thread read what.
"""

cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from sse_fast._core.buffers cimport _get_buffer
from sse_fast._core.lines cimport Text, _begin_chunk, _find_block_end, _is_pending, _reset_stream
from sse_fast.columns._batch cimport (
    Batch, Buffer, Dictionary, Memory, Pool, Py_buffer, View, _add, _close_pool,
    _free_abandoned_buffers, _free_memory, _grow, _new_batch, _new_pool, _release_batch,
    _release_buffer, _release_dictionary, _release_pool, _reserve, _retain_batch,
)
from sse_fast.columns._builder cimport (
    FULL, OUT_OF_MEMORY, OVER_LIMIT, TOO_MANY_IDS, TOO_MANY_TYPES, USED_UP, BatchBuilder, State,
    _add_rows, _begin_rows, _estimate_bytes_per_event, _own_id, _set_id,
)
from sse_fast.columns._export cimport (
    ArrowArray, ArrowArrayStream, ArrowSchema, _export_batch, _export_schema,
)
from sse_fast.columns._interner cimport (
    Interner, _free_interner, _intern, _is_overgrown, _reset_interner,
)
from sse_fast.columns._merge cimport (
    _append_batch, _attach_dictionary, _fill_ids, _new_dictionary,
)


cdef extern from "Python.h":
    void PyErr_SetInterrupt()


cdef extern from "scan.h" nogil:
    void _choose_scan "sse_fast_choose"() noexcept


_choose_scan()

MAX_VIEW_SIZE = 2**28
"""Upper bound of `max_event_size` with string views, in bytes.

Their offsets have 31 bits. The worst case must stay below 2**31: an event and an id of this size,
tripled by U+FFFD, and a full batch.
"""

# -- Sources --------------------------------------------------------------------------------------

cdef class SourceBuffer:
    """The buffer of a Python object, held until no batch refers to it any more."""

    cdef Buffer* buffer

    def __cinit__(self, source):
        _free_abandoned_buffers(NULL)
        self.buffer = <Buffer*>calloc(1, sizeof(Buffer))
        if self.buffer == NULL:
            raise MemoryError()
        try:
            _get_buffer(source, &self.buffer.view)
        except BaseException:
            free(self.buffer)
            self.buffer = NULL
            raise
        self.buffer.references = 1

    def __dealloc__(self):
        _release_buffer(self.buffer)

    def __len__(self):
        return self.buffer.view.len

    def find_block_end(self, Py_ssize_t at):
        """Return the offset after the first blank line from `at` on, or the length if none."""
        cdef const uint8_t* start = <const uint8_t*>self.buffer.view.buf
        cdef const uint8_t* end = start + self.buffer.view.len
        cdef Py_ssize_t found
        if at >= self.buffer.view.len:
            return self.buffer.view.len
        with nogil:
            found = _find_block_end(start + at, end) - start
        return found


# -- Batches --------------------------------------------------------------------------------------

cdef class BatchPool:
    """Memory of released batches, reused by the next ones."""

    cdef Pool* pool

    def __cinit__(self, slot_count):
        self.pool = _new_pool(slot_count)
        if self.pool == NULL:
            raise MemoryError()

    def __dealloc__(self):
        if self.pool != NULL:
            self.close()
            _release_pool(self.pool)

    def close(self):
        """Free the memory, and keep none from now on."""
        with nogil:
            _close_pool(self.pool)


@cython.final
cdef class RecordBatch:
    """A record batch, as Python holds it."""

    cdef Batch* batch
    cdef readonly int64_t end           # offset in the source up to which it was read
    cdef readonly str id                # the last event ID there

    def __dealloc__(self):
        _release_batch(self.batch)

    def __len__(self):
        _check_batch(self)
        return self.batch.rows

    def export_array(self):
        """Return a capsule with an ArrowArray."""
        cdef ArrowArray* array
        _check_batch(self)
        array = <ArrowArray*>calloc(1, sizeof(ArrowArray))
        if array == NULL:
            raise MemoryError()
        if not _export_batch(self.batch, array):
            free(array)
            raise MemoryError()
        return PyCapsule_New(array, "arrow_array", _free_array_capsule)


cdef int _check_batch(RecordBatch record) except -1:
    """Refuse None, and an object that no reader has made."""
    if record is None or record.batch == NULL:
        raise TypeError("Expected a batch of a reader")
    return 0


cdef void _free_array_capsule(object capsule) noexcept:
    cdef ArrowArray* array = <ArrowArray*>PyCapsule_GetPointer(capsule, "arrow_array")
    if array.release != NULL:
        array.release(array)
    free(array)


def export_schema(*, bint views, bint offsets):
    """Return a capsule with the ArrowSchema of batches."""
    cdef ArrowSchema* schema = <ArrowSchema*>calloc(1, sizeof(ArrowSchema))
    if schema == NULL:
        raise MemoryError()
    if not _export_schema(schema, views, offsets):
        free(schema)
        raise MemoryError()
    return PyCapsule_New(schema, "arrow_schema", _free_schema_capsule)


cdef void _free_schema_capsule(object capsule) noexcept:
    cdef ArrowSchema* schema = <ArrowSchema*>PyCapsule_GetPointer(capsule, "arrow_schema")
    if schema.release != NULL:
        schema.release(schema)
    free(schema)


# -- Streams of batches ---------------------------------------------------------------------------

cdef class _Export:
    """Private data of an ArrowArrayStream."""

    cdef object batches
    cdef bint views
    cdef bint offsets
    cdef bytes message


def export_stream(batches, *, bint views, bint offsets):
    """Return a capsule with an ArrowArrayStream of the batches that an iterable gives."""
    cdef _Export export = _Export()
    cdef ArrowArrayStream* stream = <ArrowArrayStream*>calloc(1, sizeof(ArrowArrayStream))
    if stream == NULL:
        raise MemoryError()
    export.batches = iter(batches)
    export.views = views
    export.offsets = offsets
    Py_INCREF(export)
    stream.private_data = <void*>export
    stream.get_schema = _get_schema
    stream.get_next = _get_next
    stream.get_last_error = _get_last_error
    stream.release = _release_stream
    return PyCapsule_New(stream, "arrow_array_stream", _free_stream_capsule)


cdef void _free_stream_capsule(object capsule) noexcept:
    cdef ArrowArrayStream* stream = <ArrowArrayStream*>PyCapsule_GetPointer(
        capsule, "arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


cdef int _get_schema(ArrowArrayStream* stream, ArrowSchema* out) noexcept with gil:
    cdef _Export export = <_Export>stream.private_data
    return 0 if _export_schema(out, export.views, export.offsets) else ENOMEM


cdef int _get_next(ArrowArrayStream* stream, ArrowArray* out) noexcept with gil:
    cdef _Export export = <_Export>stream.private_data
    cdef RecordBatch record
    out.release = NULL
    try:
        record = next(export.batches, None)
        if record is not None:
            _check_batch(record)
        if record is None or _export_batch(record.batch, out):
            return 0
        raise MemoryError()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            # The consumer reports it as an ordinary error, so interrupt the program again.
            PyErr_SetInterrupt()
        export.message = f"{type(error).__name__}: {error}".encode("utf-8", "replace")
        return ENOMEM if isinstance(error, MemoryError) else EIO


cdef const char* _get_last_error(ArrowArrayStream* stream) noexcept with gil:
    cdef _Export export = <_Export>stream.private_data
    if export.message is None:
        return NULL
    return export.message


cdef void _release_stream(ArrowArrayStream* stream) noexcept with gil:
    stream.release = NULL
    Py_DECREF(<_Export>stream.private_data)
    stream.private_data = NULL


# -- Reading --------------------------------------------------------------------------------------

@cython.final
cdef class Reader:
    """Makes the batches of a stream that arrives in chunks, or of one segment of a buffer.

    `streaming` batches are complete when `feed` or `flush` returns them. Otherwise a
    `SegmentMerger` takes and completes them.
    """

    cdef BatchBuilder b
    cdef BatchPool pool
    cdef list batches
    cdef bint is_busy
    cdef bint streaming
    cdef Dictionary* dictionary
    cdef int64_t batch_offset           # where the batch began in the source
    cdef readonly int64_t start_offset  # where it began to read
    cdef readonly bint is_done          # it has read its segment
    cdef readonly int64_t error_offset
    cdef State state
    cdef readonly int64_t end_offset    # up to where it has read

    def __cinit__(
        self,
        *,
        bint views,
        bint offsets,
        bint skips,
        int64_t max_rows,
        int64_t max_bytes,
        int64_t max_event_size,
        BatchPool pool=None,
        uint64_t seed=0,
        bint streaming=False,
    ):
        memset(&self.b, 0, sizeof(BatchBuilder))
        self.b.stream.retry = -1
        self.b.stream.block_retry = -1
        self.b.stream.max_size = max_event_size
        self.b.stream.emit_blocks = True
        self.b.message = -1
        self.b.views = views
        self.b.has_offsets = offsets
        self.b.skips = skips
        self.b.max_rows = max_rows
        self.b.max_bytes = max_bytes
        self.b.max_id_bytes = INT64_MAX
        self.b.interner.seed = seed
        self.pool = pool
        self.streaming = streaming
        self.batches = []

    def __dealloc__(self):
        _reset_stream(&self.b.stream)
        _release_batch(self.b.batch)
        _free_interner(&self.b.interner)
        _release_dictionary(self.dictionary)
        _free_memory(&self.b.own_id)
        _free_memory(&self.b.replaced)

    @property
    def skipped(self):
        """Number of events skipped because they exceeded the limit."""
        return self.b.skipped

    @property
    def pending(self):
        """Whether a byte of something other than a comment came since the last blank line."""
        return _is_pending(&self.b.stream)

    @property
    def problem(self):
        """The reason why it stopped: "size", "memory", "ids" or "types"; "" if it did not."""
        if self.state == OVER_LIMIT:
            return "size"
        if self.state == OUT_OF_MEMORY:
            return "memory"
        if self.state == TOO_MANY_IDS:
            return "ids"
        return "types" if self.state == TOO_MANY_TYPES else ""

    @property
    def size(self):
        """Bytes of the event that exceeded the limit."""
        return self.b.stream.size

    @property
    def rows(self):
        """Number of rows in the unfinished batch."""
        return 0 if self.b.batch == NULL else self.b.batch.rows

    @property
    def last_event_id(self):
        return PyBytes_FromStringAndSize(<const char*>self.b.id, self.b.id_length).decode()

    @last_event_id.setter
    def last_event_id(self, str value):
        cdef bytes encoded = value.encode()
        cdef Text text
        memset(&text, 0, sizeof(Text))
        text.at = <const uint8_t*><const char*>encoded
        text.length = len(encoded)
        if not _set_id(&self.b, &text):
            raise MemoryError()

    def read(self, SourceBuffer source not None, Py_ssize_t start, Py_ssize_t end):
        """Read the segment from `start`, the beginning or after a blank line, to `end`."""
        cdef BatchBuilder* b = &self.b
        cdef const uint8_t* first = <const uint8_t*>source.buffer.view.buf
        cdef const uint8_t* at = first + start
        b.is_stable = True
        b.id_is_unknown = True
        b.max_id_bytes = _most_id_bytes(end - start)
        b.chunk = at
        b.end = first + end
        b.chunk_offset = start
        b.block_offset = start
        self.batch_offset = start
        self.start_offset = start
        if start > 0:
            # A byte order mark counts only at the beginning of the stream.
            b.stream.bom = 3
        with nogil:
            b.bytes_per_event = _estimate_bytes_per_event(at, b.end)
        self._parse(source, at)
        self._finish_batch()
        if not _own_id(b):
            raise MemoryError()
        self.is_done = True

    def feed(self, chunk, batches):
        """Read the next chunk, and append the batches that it completes to the deque `batches`.

        For Python it is one step: a signal handler raises before or after, never in between.
        """
        cdef BatchBuilder* b = &self.b
        cdef Py_buffer view
        self._check_idle()
        if self.state != USED_UP:
            return
        _get_buffer(chunk, &view)
        self.is_busy = True
        try:
            b.bytes_per_event = 1
            if self.streaming:
                b.id_bytes = 0
                b.max_id_bytes = _most_id_bytes(view.len)
            else:
                b.max_id_bytes = _most_id_bytes(self.end_offset + view.len)
            b.chunk = <const uint8_t*>view.buf
            b.end = b.chunk + view.len
            b.chunk_offset = self.end_offset
            self._parse(None, b.chunk)
        finally:
            self.is_busy = False
            PyBuffer_Release(&view)
        self._deliver(batches)

    def flush(self, batches):
        """Finish the batch; append it to `batches` if it is complete (`streaming`)."""
        self._check_idle()
        self._finish_batch()
        self._deliver(batches)

    cdef int _deliver(self, batches) except -1:
        cdef Py_ssize_t count = 0
        if not self.streaming or not self.batches:
            return 0
        try:
            for record in self.batches:
                batches.append(record)
                count += 1
        finally:
            del self.batches[:count]

    cdef int _check_idle(self) except -1:
        if self.is_busy:
            raise RuntimeError("Another thread is reading this source")
        return 0

    cdef int _parse(self, SourceBuffer source, const uint8_t* at) except -1:
        cdef BatchBuilder* b = &self.b
        cdef State state
        cdef bint follows_cr = b.stream.after_cr
        _begin_chunk(&b.stream, &b.scan, &at, b.end)
        if follows_cr and at > b.chunk and b.block_offset == b.chunk_offset:
            # The LF of a CRLF that was split belongs to the block before.
            b.block_offset += 1
        while True:
            if b.batch == NULL:
                self._begin_batch(source, at)
            with nogil:
                state = _add_rows(b, &at)
            self.end_offset = b.chunk_offset + (at - b.chunk)
            if state == FULL:
                self._finish_batch()
                continue
            if state != USED_UP:
                self.state = state
                self.error_offset = b.block_offset
            return 0

    cdef int _begin_batch(self, SourceBuffer source, const uint8_t* at) except -1:
        cdef BatchBuilder* b = &self.b
        cdef bint is_made = False
        self.batch_offset = b.chunk_offset + (at - b.chunk)
        b.batch = _new_batch(NULL if self.pool is None else self.pool.pool, b.views)
        if b.batch != NULL:
            if source is not None and b.views:
                _add(&source.buffer.references, 1)
                b.batch.buffer = source.buffer
            with nogil:
                is_made = _begin_rows(b, at)
        if not is_made:
            self.state = OUT_OF_MEMORY
            raise MemoryError()
        return 0

    cdef int _finish_batch(self) except -1:
        cdef BatchBuilder* b = &self.b
        cdef Batch* batch = b.batch
        cdef RecordBatch record
        if batch == NULL:
            return 0
        if batch.rows == 0:
            b.batch = NULL
            _release_batch(batch)
            return 0
        record = RecordBatch.__new__(RecordBatch)
        b.batch = NULL
        record.batch = batch
        if batch.window != NULL:
            batch.window_size = min(
                b.window_end - batch.window, self.end_offset - self.batch_offset)
        if b.id_is_unknown:
            b.unknown_rows += batch.rows
        record.end = self.end_offset
        if not b.id_is_unknown:
            record.id = self.last_event_id
        if self.streaming:
            if not _attach_dictionary(batch, &b.interner, &self.dictionary):
                raise MemoryError()
            if _is_overgrown(&b.interner):
                _reset_interner(&b.interner)
                _release_dictionary(self.dictionary)
                self.dictionary = NULL
                b.message = -1
        self.batches.append(record)
        return 0


cdef int64_t _most_id_bytes(int64_t size):
    """Bytes that the copies of ids may take for a source of `size` bytes."""
    return 16 * size + (1 << 24)


# -- Merging --------------------------------------------------------------------------------------

@cython.final
cdef class SegmentMerger:
    """Takes the batches of segments, in their order, and makes them those of one source.

    `streaming` batches are released before the next ones come, so each gets the dictionary of the
    types so far. Otherwise `attach_dictionary` gives all of them the same one at the end.
    """

    cdef Interner interner
    cdef Dictionary* dictionary
    cdef Memory id
    cdef size_t id_length
    cdef readonly bint streaming

    cdef readonly int64_t position      # up to where in the source segments were taken
    cdef readonly int64_t skipped
    cdef readonly bint pending
    cdef readonly Reader failed         # the reader that stopped with an error, or None

    def __cinit__(self, *, uint64_t seed, bint streaming):
        self.interner.seed = seed
        self.streaming = streaming

    def begin(self, str last_event_id):
        """Begin a source, with this last event ID in force."""
        self._set_id(last_event_id.encode())
        self.position = 0
        self.skipped = 0
        self.pending = False
        self.failed = None

    def __dealloc__(self):
        _free_interner(&self.interner)
        _release_dictionary(self.dictionary)
        _free_memory(&self.id)

    cdef int _set_id(self, bytes id) except -1:
        if not _grow(&self.id, 0, len(id)):
            raise MemoryError()
        if id:
            memcpy(self.id.at, <const char*>id, len(id))
        self.id_length = len(id)
        return 0

    @property
    def last_event_id(self):
        return PyBytes_FromStringAndSize(<const char*>self.id.at, self.id_length).decode()

    def take(self, Reader reader not None, batches):
        """Complete the batches of the next segment, and append them to `batches`.

        For Python it is one step, as `Reader.feed` is. A segment that was taken before is ignored.
        """
        cdef BatchBuilder* b = &reader.b
        cdef RecordBatch record
        cdef Text id
        cdef int64_t unknown = b.unknown_rows
        cdef int64_t count
        cdef bint is_filled
        if reader.start_offset < self.position or self.failed is not None:
            return
        memset(&id, 0, sizeof(Text))
        id.at = self.id.at
        id.length = self.id_length
        if (reader.state != TOO_MANY_IDS and not b.views
                and unknown * <double>id.length + b.id_bytes > b.max_id_bytes):
            reader.state = TOO_MANY_IDS
            reader.error_offset = reader.start_offset
        if reader.state == TOO_MANY_IDS:
            # A reader that did not know the id counted fewer bytes, and stopped later. Drop the
            # segment, so that the result does not depend on threads.
            reader.batches = []
        for record in reader.batches:
            count = min(unknown, record.batch.rows)
            if count and id.length:
                with nogil:
                    is_filled = _fill_ids(b, record.batch, count, &id)
                b.batch = NULL
                if not is_filled:
                    raise MemoryError()
            unknown -= count
            if record.id is None:
                record.id = self.last_event_id
        self._merge_types(b, reader.batches)
        if not b.id_is_unknown:
            if not _grow(&self.id, 0, b.id_length):
                raise MemoryError()
            if b.id_length:
                memcpy(self.id.at, b.id, b.id_length)
            self.id_length = b.id_length
        if self.streaming:
            self.attach_dictionary(reader.batches)
            if _is_overgrown(&self.interner):
                _reset_interner(&self.interner)
                _release_dictionary(self.dictionary)
                self.dictionary = NULL
        batches += reader.batches
        self.position = reader.end_offset
        self.skipped += reader.skipped
        self.pending = reader.pending
        if reader.state != USED_UP:
            self.failed = reader

    cdef int _merge_types(self, BatchBuilder* b, list batches) except -1:
        """Replace the reader's numbers of event types by the common ones."""
        cdef RecordBatch record
        cdef Interner* interner = &b.interner
        cdef int32_t* merged
        cdef int32_t* numbers
        cdef int64_t number
        cdef int64_t common
        cdef int64_t row
        cdef bint is_same = True
        if not interner.count:
            return 0
        merged = <int32_t*>malloc(interner.count * sizeof(int32_t))
        if merged == NULL:
            raise MemoryError()
        try:
            with nogil:
                for number in range(interner.count):
                    common = _intern(
                        &self.interner, interner.values + interner.offsets[number],
                        interner.offsets[number + 1] - interner.offsets[number])
                    if common < 0:
                        break
                    merged[number] = <int32_t>common
                    is_same = is_same and common == number
                else:
                    common = 0
            if common < 0:
                raise MemoryError()
            if is_same:
                return 0
            for record in batches:
                numbers = <int32_t*>record.batch.types.at
                with nogil:
                    for row in range(record.batch.rows):
                        numbers[row] = merged[numbers[row]]
        finally:
            free(merged)
        return 0

    def attach_dictionary(self, list batches):
        """Give batches the dictionary of all types so far."""
        cdef RecordBatch record
        for record in batches:
            _check_batch(record)
            if not _attach_dictionary(record.batch, &self.interner, &self.dictionary):
                raise MemoryError()


def concatenate(list batches, *, bint views, bint offsets):
    """Return one batch made of several that share a dictionary.

    With copies, the text is copied. With views, only the views are, and the new batch keeps the
    other batches alive.
    """
    cdef RecordBatch result = RecordBatch.__new__(RecordBatch)
    cdef RecordBatch record
    cdef Batch* whole
    cdef Interner no_types
    cdef int64_t rows = 0
    cdef size_t data_size = 0
    cdef size_t id_size = 0
    cdef size_t slot = sizeof(View) if views else sizeof(int64_t)
    for record in batches:
        _check_batch(record)
    whole = _new_batch(NULL, views)
    if whole == NULL:
        raise MemoryError()
    result.batch = whole
    whole.has_offsets = offsets
    for record in batches:
        rows += record.batch.rows
        data_size += record.batch.data.used
        id_size += record.batch.ids.used
        whole.has_ids |= record.batch.has_ids
        whole.has_retries |= record.batch.has_retries
    if (not _reserve(&whole.types, 0, rows * sizeof(int32_t))
            or not _reserve(&whole.data.slots, 0, (rows + 1) * slot)
            or (not views and not _reserve(&whole.data.bytes, 0, data_size))
            or (whole.has_ids and not _reserve(&whole.ids.slots, 0, (rows + 1) * slot))
            or (not views and not _reserve(&whole.ids.bytes, 0, id_size))
            or (whole.has_ids and not _reserve(&whole.id_validity, 0, (rows + 7) // 8))
            or (whole.has_retries and not _reserve(&whole.retries, 0, rows * sizeof(int64_t)))
            or (whole.has_retries and not _reserve(&whole.retry_validity, 0, (rows + 7) // 8))
            or (offsets and not _reserve(&whole.offsets, 0, rows * sizeof(int64_t)))):
        raise MemoryError()
    if whole.has_ids:
        memset(whole.id_validity.at, 0, (rows + 7) // 8)
    if whole.has_retries:
        memset(whole.retry_validity.at, 0, (rows + 7) // 8)
    if not views:
        (<int64_t*>whole.data.slots.at)[0] = 0
        if whole.has_ids:
            (<int64_t*>whole.ids.slots.at)[0] = 0
    else:
        whole.members = <Batch**>calloc(len(batches) + 1, sizeof(Batch*))
        if whole.members == NULL:
            raise MemoryError()
    memset(&no_types, 0, sizeof(Interner))
    if batches:
        whole.dictionary = (<RecordBatch>batches[0]).batch.dictionary
        _add(&whole.dictionary.references, 1)
    else:
        whole.dictionary = _new_dictionary(&no_types)
        if whole.dictionary == NULL:
            raise MemoryError()
    for record in batches:
        with nogil:
            _append_batch(whole, record.batch)
        if views:
            _retain_batch(record.batch)
            whole.members[whole.member_count] = record.batch
            whole.member_count += 1
    return result
