# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False
# cython: binding=False, auto_pickle=False
"""The second exit: events as Arrow record batches.

`lines.pxd` finds the values, as for `Parser`; here they become rows of columns, without a Python
object and without the GIL, and `_arrow.h` hands those on. `columns.py` is what users see of it.

A `Reader` makes batches of one source, or of one segment of it, which begins behind a blank line:
there all state is reset but the last event ID. Where the one in force is not known, as the segment
before is still being read by another thread, the rows up to the first id are left without, and the
`Joiner` fills them in. It also turns each reader's places in its own dictionary of event types into
those of the common one, so that the result does not depend on who read what.
"""

cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_IsValid, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EIO, ENOMEM
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from sse_fast._core.buffers cimport _get_buffer
from sse_fast.columns._interner cimport Types, _find_type, _free_types, _is_overgrown, _reset_types
from sse_fast._core.lines cimport Text, _begin_chunk, _find_block_end, _is_pending, _reset_stream
from sse_fast.columns._builder cimport (
    FULL, OUT_OF_MEMORY, OVER_LIMIT, TOO_MANY_IDS, TOO_MANY_TYPES, USED_UP, Arena, ArrowArray,
    ArrowArrayStream, ArrowSchema, Dictionary, InputBuffer, Memory, Pool, Py_buffer, Rows,
    State, View, Work, _add, _add_batch, _add_rows, _begin_rows, _choose_scan, _close_pool,
    _export_rows, _export_schema, _fill_ids, _free_left_inputs, _free_memory, _grow, _keep_id,
    _new_arena, _new_dictionary, _new_pool, _new_rows, _pack_rows, _packed_size, _release_arena,
    _release_dictionary, _release_input, _release_pool, _release_rows, _reserve, _retain_rows,
    _set_dictionary, _set_id, _spacing_of, _take_part,
)


cdef extern from "Python.h":
    void PyErr_SetInterrupt()


_choose_scan()

MAX_VIEW_SIZE = 2**28
"""The most that `max_event_size` may be with views, in bytes. Their offsets have 31 bits: one event
of this size, each byte of it replaced by three, an id of another such event, and as much again before
a batch is full, is less than that."""

# -- Python -------------------------------------------------------------------------------------

cdef class Input:
    """The buffer of an object, held until it and every batch that refers to it are gone."""

    cdef InputBuffer* buffer

    def __cinit__(self, source):
        _free_left_inputs(NULL)
        self.buffer = <InputBuffer*>calloc(1, sizeof(InputBuffer))
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
        _release_input(self.buffer)

    def __len__(self):
        return self.buffer.view.len

    def find_block_end(self, Py_ssize_t at):
        """Behind the first blank line that begins at `at` or later; the length, if none does."""
        cdef const uint8_t* start = <const uint8_t*>self.buffer.view.buf
        cdef const uint8_t* end = start + self.buffer.view.len
        cdef Py_ssize_t found
        if at >= self.buffer.view.len:
            return self.buffer.view.len
        with nogil:
            found = _find_block_end(start + at, end) - start
        return found


cdef class BatchPool:
    """Memory of batches that were released, for the next ones."""

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
        """Give it back, and keep none from now on."""
        with nogil:
            _close_pool(self.pool)


@cython.final
cdef class Store:
    """Where batches go that are kept: packed, so that their columns take the pages that they need,
    and these pages huge ones where there is enough to fill them. (Of a capture in memory, views of
    330-byte events took 45 ns an event in pages of their own, of which half was the pages.)"""

    cdef Arena* arena
    cdef size_t size

    def __cinit__(self, size_t size):
        """`size`: of an arena, in bytes; 0: every batch is by itself."""
        self.size = size

    def __dealloc__(self):
        _release_arena(self.arena)

    cdef Rows* pack(self, Rows* rows) except NULL:
        cdef Rows* packed
        cdef size_t size = _packed_size(rows)
        cdef uint8_t* part = NULL
        cdef Arena* arena = NULL
        if size <= self.size:
            if self.arena != NULL:
                part = _take_part(self.arena, size)
            if part == NULL:
                _release_arena(self.arena)
                self.arena = _new_arena(self.size)
                if self.arena == NULL:
                    raise MemoryError()
                part = _take_part(self.arena, size)
            # Another thread may go on to the next one meanwhile.
            arena = self.arena
            _add(&arena.references, 1)
        with nogil:
            packed = _pack_rows(rows, arena, part)
            _release_arena(arena)
        if packed == NULL:
            raise MemoryError()
        return packed


@cython.final
cdef class Batch:
    """A record batch."""

    cdef Rows* rows
    cdef readonly int64_t end           # up to where in its source it was read
    cdef readonly str id                # the last event ID then

    def __dealloc__(self):
        _release_rows(self.rows)

    def __len__(self):
        return self.rows.rows

    def export_array(self):
        """A capsule with an ArrowArray."""
        cdef ArrowArray* array = <ArrowArray*>calloc(1, sizeof(ArrowArray))
        if array == NULL:
            raise MemoryError()
        if not _export_rows(self.rows, array):
            free(array)
            raise MemoryError()
        return PyCapsule_New(array, "arrow_array", _free_array_capsule)


cdef void _free_array_capsule(object capsule) noexcept:
    cdef ArrowArray* array = <ArrowArray*>PyCapsule_GetPointer(capsule, "arrow_array")
    if array.release != NULL:
        array.release(array)
    free(array)


cdef void _free_schema_capsule(object capsule) noexcept:
    cdef ArrowSchema* schema = <ArrowSchema*>PyCapsule_GetPointer(capsule, "arrow_schema")
    if schema.release != NULL:
        schema.release(schema)
    free(schema)


cdef void _free_stream_capsule(object capsule) noexcept:
    cdef ArrowArrayStream* stream = <ArrowArrayStream*>PyCapsule_GetPointer(
        capsule, "arrow_array_stream")
    if stream.release != NULL:
        stream.release(stream)
    free(stream)


def export_schema(*, bint views, bint offsets):
    """A capsule with an ArrowSchema."""
    cdef ArrowSchema* schema = <ArrowSchema*>calloc(1, sizeof(ArrowSchema))
    if schema == NULL:
        raise MemoryError()
    if not _export_schema(schema, views, offsets):
        free(schema)
        raise MemoryError()
    return PyCapsule_New(schema, "arrow_schema", _free_schema_capsule)


cdef class _Export:
    """What an ArrowArrayStream holds."""

    cdef object batches
    cdef bint views
    cdef bint offsets
    cdef bytes message


def export_stream(batches, *, bint views, bint offsets):
    """A capsule with an ArrowArrayStream of what `batches` iterates over."""
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
    stream.get_last_error = <const char* (*)(ArrowArrayStream*) noexcept>_get_last_error
    stream.release = _release_stream
    return PyCapsule_New(stream, "arrow_array_stream", _free_stream_capsule)


cdef int _get_schema(ArrowArrayStream* stream, ArrowSchema* out) noexcept with gil:
    cdef _Export export = <_Export>stream.private_data
    return 0 if _export_schema(out, export.views, export.offsets) else ENOMEM


cdef int _get_next(ArrowArrayStream* stream, ArrowArray* out) noexcept with gil:
    cdef _Export export = <_Export>stream.private_data
    cdef Batch batch
    out.release = NULL
    try:
        batch = next(export.batches, None)
        if batch is None or _export_rows(batch.rows, out):
            return 0
        raise MemoryError()
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            # To the consumer it is an error like any other: the program is to see it, too.
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


@cython.final
cdef class Reader:
    """Makes batches of a source, or of a segment of one."""

    cdef Work w
    cdef BatchPool pool
    cdef Store store
    cdef list batches
    cdef bint is_busy
    cdef bint seals
    cdef Dictionary* dictionary
    cdef int64_t batch_offset           # where in the source the batch began
    cdef readonly int64_t start_offset  # where it has begun to read
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
        Store store=None,
        uint64_t seed=0,
        bint seals=False,
    ):
        """`seals`: no `Joiner` will take the batches, but `feed` and `flush` hand them out."""
        memset(&self.w, 0, sizeof(Work))
        self.w.stream.retry = -1
        self.w.stream.block_retry = -1
        self.w.stream.max_size = max_event_size
        self.w.stream.emit_blocks = True
        self.w.message = -1
        self.w.views = views
        self.w.has_offsets = offsets
        self.w.skips = skips
        self.w.max_rows = max_rows
        self.w.max_bytes = max_bytes
        self.w.max_id_bytes = INT64_MAX
        self.w.types.seed = seed
        self.pool = pool
        self.store = store
        self.seals = seals
        self.batches = []

    def __dealloc__(self):
        _reset_stream(&self.w.stream)
        _release_rows(self.w.rows)
        _free_types(&self.w.types)
        _release_dictionary(self.dictionary)
        _free_memory(&self.w.kept_id)
        _free_memory(&self.w.replaced)

    @property
    def skipped(self):
        """How many events were over the limit."""
        return self.w.skipped

    @property
    def pending(self):
        """Whether a byte of something other than a comment came since the last blank line."""
        return _is_pending(&self.w.stream)

    @property
    def problem(self):
        """What it could not go on for: "" or "size", "memory", "ids", "types"."""
        if self.state == OVER_LIMIT:
            return "size"
        if self.state == OUT_OF_MEMORY:
            return "memory"
        if self.state == TOO_MANY_IDS:
            return "ids"
        return "types" if self.state == TOO_MANY_TYPES else ""

    @property
    def size(self):
        """Of the event that went over the limit, in bytes."""
        return self.w.stream.size

    @property
    def rows(self):
        """Of the batch that is not handed out yet."""
        return 0 if self.w.rows == NULL else self.w.rows.rows

    @property
    def last_event_id(self):
        return PyBytes_FromStringAndSize(<const char*>self.w.id, self.w.id_length).decode()

    @last_event_id.setter
    def last_event_id(self, str value):
        cdef bytes encoded = value.encode()
        cdef Text text
        memset(&text, 0, sizeof(Text))
        text.at = <const uint8_t*><const char*>encoded
        text.length = len(encoded)
        if not _set_id(&self.w, &text):
            raise MemoryError()

    def read(self, Input source not None, Py_ssize_t start, Py_ssize_t end):
        """Read a segment of a source, from `start`, which is its beginning or behind a blank line,
        to `end`: the batches are for a `Joiner` to take."""
        cdef Work* w = &self.w
        cdef const uint8_t* first = <const uint8_t*>source.buffer.view.buf
        cdef const uint8_t* at = first + start
        w.is_stable = True
        w.id_is_unknown = True
        w.max_id_bytes = _most_id_bytes(end - start)
        w.chunk = at
        w.end = first + end
        w.chunk_offset = start
        w.block_offset = start
        self.batch_offset = start
        self.start_offset = start
        if start > 0:
            w.stream.bom = 3
        with nogil:
            w.spacing = _spacing_of(at, w.end)
        self._parse(source, at)
        self._finish_batch()
        if not _keep_id(w):
            raise MemoryError()
        self.is_done = True

    def feed(self, chunk, list batches):
        """Read the next bytes of a source; add the batches that they complete to `batches`.

        In one step, as far as Python sees: an exception of a signal comes before it or behind it.
        """
        cdef Work* w = &self.w
        cdef Py_buffer view
        if self.is_busy:
            raise RuntimeError("Expected one thread that reads a source, got a second one")
        if self.state != USED_UP:
            return
        _get_buffer(chunk, &view)
        self.is_busy = True
        try:
            w.spacing = 1
            if self.seals:
                w.id_bytes = 0
                w.max_id_bytes = _most_id_bytes(view.len)
            else:
                w.max_id_bytes = _most_id_bytes(self.end_offset + view.len)
            w.chunk = <const uint8_t*>view.buf
            w.end = w.chunk + view.len
            w.chunk_offset = self.end_offset
            self._parse(None, w.chunk)
        finally:
            self.is_busy = False
            PyBuffer_Release(&view)
        if self.seals:
            batches += self.batches
            self.batches = []

    def flush(self):
        """Make a batch of what there is; return it, if they are handed out here, or None."""
        if self.is_busy:
            raise RuntimeError("Expected one thread that reads a source, got a second one")
        self._finish_batch()
        return self.batches.pop() if self.seals and self.batches else None

    cdef int _parse(self, Input source, const uint8_t* at) except -1:
        cdef Work* w = &self.w
        cdef State state
        cdef bint follows_cr = w.stream.after_cr
        _begin_chunk(&w.stream, &w.scan, &at, w.end)
        if follows_cr and at > w.chunk and w.block_offset == w.chunk_offset:
            # A LF that still belongs to the block before.
            w.block_offset += 1
        while True:
            if w.rows == NULL:
                self._begin_batch(source, at)
            with nogil:
                state = _add_rows(w, &at)
            self.end_offset = w.chunk_offset + (at - w.chunk)
            if state == FULL:
                self._finish_batch()
                continue
            if state != USED_UP:
                self.state = state
                self.error_offset = w.block_offset
            return 0

    cdef int _begin_batch(self, Input source, const uint8_t* at) except -1:
        cdef Work* w = &self.w
        cdef bint is_made = False
        self.batch_offset = w.chunk_offset + (at - w.chunk)
        w.rows = _new_rows(NULL if self.pool is None else self.pool.pool, w.views)
        if w.rows != NULL:
            if source is not None and w.views:
                _add(&source.buffer.references, 1)
                w.rows.input = source.buffer
            with nogil:
                is_made = _begin_rows(w, at)
        if not is_made:
            self.state = OUT_OF_MEMORY
            raise MemoryError()
        return 0

    cdef int _finish_batch(self) except -1:
        cdef Work* w = &self.w
        cdef Rows* rows = w.rows
        cdef Batch batch
        if rows == NULL:
            return 0
        w.rows = NULL
        if rows.rows == 0:
            _release_rows(rows)
            return 0
        if rows.window != NULL:
            rows.window_size = min(
                w.window_end - rows.window, self.end_offset - self.batch_offset)
        if w.id_is_unknown:
            w.unknown_rows += rows.rows
        batch = Batch.__new__(Batch)
        batch.rows = rows
        batch.end = self.end_offset
        if not w.id_is_unknown:
            batch.id = self.last_event_id
        if self.store is not None:
            batch.rows = self.store.pack(rows)
            _release_rows(rows)
        if self.seals:
            if not _set_dictionary(batch.rows, &w.types, &self.dictionary):
                raise MemoryError()
            if _is_overgrown(&w.types):
                _reset_types(&w.types)
                _release_dictionary(self.dictionary)
                self.dictionary = NULL
                w.message = -1
        self.batches.append(batch)
        return 0


cdef int64_t _most_id_bytes(int64_t size):
    return 16 * size + (1 << 24)


@cython.final
cdef class Joiner:
    """Takes the batches of segments, in their order, and makes them those of one source."""

    cdef Types types
    cdef Dictionary* dictionary
    cdef Memory id
    cdef size_t id_length
    cdef readonly bint is_endless

    cdef readonly int64_t position      # up to where in its source segments were taken
    cdef readonly int64_t skipped
    cdef readonly bint pending
    cdef readonly Reader failed         # the one that could not go on, if there was one

    def __cinit__(self, *, uint64_t seed, bint is_endless):
        """`is_endless`: batches are gone when the next ones come, and get their dictionaries at
        once; else by `seal`."""
        self.types.seed = seed
        self.is_endless = is_endless

    def begin(self, str last_event_id):
        """A new source, with this last event ID in force."""
        self._set_id(last_event_id.encode())
        self.position = 0
        self.skipped = 0
        self.pending = False
        self.failed = None

    def __dealloc__(self):
        _free_types(&self.types)
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

    def take(self, Reader reader, batches):
        """Complete the batches of the next segment, and add them to `batches`.

        In one step, as `Reader.feed`; a segment that was taken already is passed over.
        """
        cdef Work* w = &reader.w
        cdef Batch batch
        cdef Text id
        cdef int64_t unknown = w.unknown_rows
        cdef int64_t count
        cdef bint is_done
        if reader.start_offset < self.position or self.failed is not None:
            return
        memset(&id, 0, sizeof(Text))
        id.at = self.id.at
        id.length = self.id_length
        if (reader.state != TOO_MANY_IDS and not w.views
                and unknown * <double>id.length + w.id_bytes > w.max_id_bytes):
            reader.state = TOO_MANY_IDS
            reader.error_offset = reader.start_offset
        if reader.state == TOO_MANY_IDS:
            # Where that was found out depends on who knew the id: of this segment, all goes.
            reader.batches = []
        for batch in reader.batches:
            count = min(unknown, batch.rows.rows)
            if count and id.length:
                with nogil:
                    is_done = _fill_ids(w, batch.rows, count, &id)
                w.rows = NULL
                if not is_done:
                    raise MemoryError()
            unknown -= count
            if batch.id is None:
                batch.id = self.last_event_id
        self._join_types(w, reader.batches)
        if not w.id_is_unknown:
            if not _grow(&self.id, 0, w.id_length):
                raise MemoryError()
            if w.id_length:
                memcpy(self.id.at, w.id, w.id_length)
            self.id_length = w.id_length
        if self.is_endless:
            self.seal(reader.batches)
            if _is_overgrown(&self.types):
                _reset_types(&self.types)
                _release_dictionary(self.dictionary)
                self.dictionary = NULL
        batches += reader.batches
        self.position = reader.end_offset
        self.skipped += reader.skipped
        self.pending = reader.pending
        if reader.state != USED_UP:
            self.failed = reader

    cdef int _join_types(self, Work* w, list batches) except -1:
        cdef Batch batch
        cdef int32_t* numbers
        cdef int32_t* places
        cdef int64_t number
        cdef int64_t joined
        cdef int64_t at
        cdef bint is_same = True
        if not w.types.count:
            return 0
        numbers = <int32_t*>malloc(w.types.count * sizeof(int32_t))
        if numbers == NULL:
            raise MemoryError()
        try:
            with nogil:
                for number in range(w.types.count):
                    joined = _find_type(
                        &self.types, w.types.values + w.types.offsets[number],
                        w.types.offsets[number + 1] - w.types.offsets[number])
                    if joined < 0:
                        break
                    numbers[number] = <int32_t>joined
                    is_same = is_same and joined == number
                else:
                    joined = 0
            if joined < 0:
                raise MemoryError()
            if is_same:
                return 0
            for batch in batches:
                places = <int32_t*>batch.rows.types.at
                with nogil:
                    for at in range(batch.rows.rows):
                        places[at] = numbers[places[at]]
        finally:
            free(numbers)
        return 0

    def seal(self, list batches):
        """Give batches the dictionary of all types so far."""
        cdef Batch batch
        for batch in batches:
            if not _set_dictionary(batch.rows, &self.types, &self.dictionary):
                raise MemoryError()


def concatenate(list batches, *, bint views, bint offsets):
    """Return one batch of several, which have one dictionary. Text is copied; with views, only
    the views are."""
    cdef Batch result = Batch.__new__(Batch)
    cdef Batch batch
    cdef Rows* whole = _new_rows(NULL, views)
    cdef Types none
    cdef int64_t total = 0
    cdef size_t data_size = 0
    cdef size_t id_size = 0
    cdef size_t place = sizeof(View) if views else sizeof(int64_t)
    if whole == NULL:
        raise MemoryError()
    result.rows = whole
    whole.has_offsets = offsets
    for batch in batches:
        total += batch.rows.rows
        data_size += batch.rows.data.used
        id_size += batch.rows.ids.used
        whole.has_ids |= batch.rows.has_ids
        whole.has_retries |= batch.rows.has_retries
    if (not _reserve(&whole.types, 0, total * sizeof(int32_t))
            or not _reserve(&whole.data.places, 0, (total + 1) * place)
            or (not views and not _reserve(&whole.data.bytes, 0, data_size))
            or (whole.has_ids and not _reserve(&whole.ids.places, 0, (total + 1) * place))
            or (not views and not _reserve(&whole.ids.bytes, 0, id_size))
            or (whole.has_ids and not _reserve(&whole.id_validity, 0, (total + 7) // 8))
            or (whole.has_retries and not _reserve(&whole.retries, 0, total * sizeof(int64_t)))
            or (whole.has_retries and not _reserve(&whole.retry_validity, 0, (total + 7) // 8))
            or (offsets and not _reserve(&whole.offsets, 0, total * sizeof(int64_t)))):
        raise MemoryError()
    if whole.has_ids:
        memset(whole.id_validity.at, 0, (total + 7) // 8)
    if whole.has_retries:
        memset(whole.retry_validity.at, 0, (total + 7) // 8)
    if not views:
        (<int64_t*>whole.data.places.at)[0] = 0
        if whole.has_ids:
            (<int64_t*>whole.ids.places.at)[0] = 0
    else:
        whole.parts = <Rows**>calloc(len(batches) + 1, sizeof(Rows*))
        if whole.parts == NULL:
            raise MemoryError()
    memset(&none, 0, sizeof(Types))
    if batches:
        _add(&(<Batch>batches[0]).rows.dictionary.references, 1)
        whole.dictionary = (<Batch>batches[0]).rows.dictionary
    else:
        whole.dictionary = _new_dictionary(&none)
        if whole.dictionary == NULL:
            raise MemoryError()
    for batch in batches:
        with nogil:
            _add_batch(whole, batch.rows)
        if views:
            _retain_rows(batch.rows)
            whole.parts[whole.part_count] = batch.rows
            whole.part_count += 1
    return result


