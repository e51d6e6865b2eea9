/* Record batches: the memory of their columns, and the structures by which Arrow's C data interface
 * hands them on (https://arrow.apache.org/docs/format/CDataInterface.html).
 *
 * A batch is counted: its Python object holds it, and so does each exported array until the consumer
 * releases it, in any order and from any thread, with or without the GIL. What it refers to (the
 * input, the values of the dictionary, other batches) is counted likewise. The last one to let go of
 * a batch puts it back into its pool, if it has one, so that the next batch finds its pages there:
 * fresh pages cost more than all the parsing.
 *
 * Nothing here needs the GIL but the buffer of a Python object. Who lets go of that without holding
 * the GIL leaves it in a list, which the main thread empties soon after: waiting for the GIL could
 * wait for ever, where its holder waits for the consumer's threads.
 */
#ifndef SSE_FAST_ARROW_H
#define SSE_FAST_ARROW_H

#include <Python.h>

#include "_memory.h"

#ifndef ARROW_C_DATA_INTERFACE
#  define ARROW_C_DATA_INTERFACE

#  define ARROW_FLAG_DICTIONARY_ORDERED 1
#  define ARROW_FLAG_NULLABLE 2
#  define ARROW_FLAG_MAP_KEYS_SORTED 4

struct ArrowSchema {
    const char *format;
    const char *name;
    const char *metadata;
    int64_t flags;
    int64_t n_children;
    struct ArrowSchema **children;
    struct ArrowSchema *dictionary;
    void (*release)(struct ArrowSchema *);
    void *private_data;
};

struct ArrowArray {
    int64_t length;
    int64_t null_count;
    int64_t offset;
    int64_t n_buffers;
    int64_t n_children;
    const void **buffers;
    struct ArrowArray **children;
    struct ArrowArray *dictionary;
    void (*release)(struct ArrowArray *);
    void *private_data;
};

#endif

#ifndef ARROW_C_STREAM_INTERFACE
#  define ARROW_C_STREAM_INTERFACE

struct ArrowArrayStream {
    int (*get_schema)(struct ArrowArrayStream *, struct ArrowSchema *out);
    int (*get_next)(struct ArrowArrayStream *, struct ArrowArray *out);
    const char *(*get_last_error)(struct ArrowArrayStream *);
    void (*release)(struct ArrowArrayStream *);
    void *private_data;
};

#endif

/* -- What batches refer to ---------------------------------------------------------------------- */

/* The buffer of a Python object. */
typedef struct sse_fast_input {
    long references;
    Py_buffer view;
    struct sse_fast_input *next;
} sse_fast_input;

static sse_fast_input *sse_fast_left_inputs;

static int
sse_fast_free_left_inputs(void *Py_UNUSED(ignored))
{
    sse_fast_input *input = (sse_fast_input *)SSE_FAST_EXCHANGE(&sse_fast_left_inputs, NULL);
    sse_fast_input *next;

    for (; input != NULL; input = next) {
        next = input->next;
        PyBuffer_Release(&input->view);
        free(input);
    }
    return 0;
}

static void
sse_fast_release_input(sse_fast_input *input)
{
    if (input == NULL || SSE_FAST_ADD(&input->references, -1) > 0 || !Py_IsInitialized())
        return;
    /* The second alone says yes, where there is more than one interpreter. */
    if (PyGILState_GetThisThreadState() != NULL && PyGILState_Check()) {
        PyBuffer_Release(&input->view);
        free(input);
        return;
    }
    /* The list may be taken away between any two of these lines; nothing but its head is read. */
    {
        sse_fast_input *mine = input, *others;
        do {
            others = (sse_fast_input *)SSE_FAST_EXCHANGE(&sse_fast_left_inputs, NULL);
            if (others != NULL) {
                sse_fast_input *last = mine;
                while (last->next != NULL)
                    last = last->next;
                last->next = others;
            }
        } while (!sse_fast_fill_slot((void **)&sse_fast_left_inputs, mine));
    }
    /* When too many calls wait already, the next call of this module sees to it. */
    (void)Py_AddPendingCall(sse_fast_free_left_inputs, NULL);
}

/* The values of the dictionary of event types: never changed once it is made. */
typedef struct {
    long references;
    int64_t count;
    int64_t *offsets;   /* count + 1 of them */
    uint8_t *values;
} sse_fast_dictionary;

static inline void
sse_fast_release_dictionary(sse_fast_dictionary *dictionary)
{
    if (dictionary == NULL || SSE_FAST_ADD(&dictionary->references, -1) > 0)
        return;
    free(dictionary->offsets);
    free(dictionary->values);
    free(dictionary);
}

/* -- Batches ------------------------------------------------------------------------------------ */

/* An Arrow string view (https://arrow.apache.org/docs/format/Columnar.html). */
typedef struct {
    int32_t length;
    union {
        uint8_t inlined[12];
        struct {
            uint8_t prefix[4];
            int32_t buffer;
            int32_t offset;
        } elsewhere;
    } value;
} sse_fast_view;

/* Up to 12 bytes stand in the view itself, the rest of it zero; of more, it has the first four. What
 * can be read ends at `end`. */
static inline void
sse_fast_set_view(sse_fast_view *view, const uint8_t *at, size_t length, const uint8_t *end,
                  int32_t buffer, int64_t offset)
{
    view->length = (int32_t)length;
    if (length > 12) {
        memcpy(view->value.elsewhere.prefix, at, 4);
        view->value.elsewhere.buffer = buffer;
        view->value.elsewhere.offset = (int32_t)offset;
        return;
    }
#if defined(__BYTE_ORDER__) && defined(__ORDER_LITTLE_ENDIAN__)
#  if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    if (end - at >= 16) {
        uint64_t first, second;
        uint32_t last;
        memcpy(&first, at, 8);
        memcpy(&second, at + 8, 8);
        if (length < 8) {
            first &= ((uint64_t)1 << 8 * length) - 1;
            second = 0;
        }
        else
            second &= ((uint64_t)1 << 8 * (length - 8)) - 1;
        last = (uint32_t)second;
        memcpy(view->value.inlined, &first, 8);
        memcpy(view->value.inlined + 8, &last, 4);
        return;
    }
#  endif
#endif
    memset(view->value.inlined, 0, 12);
    if (length > 0)
        memcpy(view->value.inlined, at, length);
}

/* `buffers` were put before those of its batch. */
static inline void
sse_fast_move_view(sse_fast_view *view, int32_t buffers)
{
    if (view->length > 12)
        view->value.elsewhere.buffer += buffers;
}

/* Of a string column that is `views`: the views, and in `bytes` what lies nowhere else. Else:
 * rows + 1 offsets, and in `bytes` the text. */
typedef struct {
    sse_fast_memory places;
    sse_fast_memory bytes;
    size_t used;            /* of `bytes` */
} sse_fast_strings;

struct sse_fast_pool;

typedef struct sse_fast_batch {
    long references;
    struct sse_fast_pool *pool;         /* NULL: it is freed */
    int64_t rows;
    int views;
    sse_fast_memory types;              /* int32_t: places in the dictionary */
    sse_fast_dictionary *dictionary;
    sse_fast_strings data;
    int has_ids;                        /* else every id is null, and the next three are empty */
    sse_fast_strings ids;               /* with views, their bytes are among those of `data` */
    sse_fast_memory id_validity;
    int64_t ids_null;
    int has_retries;
    sse_fast_memory retries;            /* int64_t, ms */
    sse_fast_memory retry_validity;
    int64_t retries_null;
    int has_offsets;
    sse_fast_memory offsets;            /* int64_t, of the event in its source */
    sse_fast_input *input;              /* what views refer to, if they do */
    const uint8_t *window;
    int64_t window_size;
    /* Of a batch that is packed: what its columns are parts of, but for text. */
    sse_fast_arena *arena;
    sse_fast_memory block;
    /* Of a batch that is several: whose windows and bytes the views refer to, two buffers each. */
    struct sse_fast_batch **parts;
    int64_t part_count;
} sse_fast_batch;

#define SSE_FAST_SLOTS 64

/* Batches that wait to be used again. */
typedef struct sse_fast_pool {
    long references;     /* the reader's, and one of each batch that is in use */
    long closed;
    int64_t slot_count;
    sse_fast_batch *slots[SSE_FAST_SLOTS];
} sse_fast_pool;

static inline void sse_fast_release_batch(sse_fast_batch *batch);

static inline void
sse_fast_free_batch(sse_fast_batch *batch)
{
    sse_fast_free_memory(&batch->types);
    sse_fast_free_memory(&batch->data.places);
    sse_fast_free_memory(&batch->data.bytes);
    sse_fast_free_memory(&batch->ids.places);
    sse_fast_free_memory(&batch->ids.bytes);
    sse_fast_free_memory(&batch->id_validity);
    sse_fast_free_memory(&batch->retries);
    sse_fast_free_memory(&batch->retry_validity);
    sse_fast_free_memory(&batch->offsets);
    sse_fast_free_memory(&batch->block);
    sse_fast_release_arena(batch->arena);
    free(batch);
}

static inline void
sse_fast_empty_pool(sse_fast_pool *pool)
{
    int i;
    for (i = 0; i < SSE_FAST_SLOTS; i++) {
        sse_fast_batch *batch = (sse_fast_batch *)SSE_FAST_EXCHANGE(&pool->slots[i], NULL);
        if (batch != NULL)
            sse_fast_free_batch(batch);
    }
}

static inline sse_fast_pool *
sse_fast_new_pool(int64_t slot_count)
{
    sse_fast_pool *pool = (sse_fast_pool *)calloc(1, sizeof(sse_fast_pool));
    if (pool != NULL) {
        pool->references = 1;
        pool->slot_count = slot_count < SSE_FAST_SLOTS ? slot_count : SSE_FAST_SLOTS;
    }
    return pool;
}

static inline void
sse_fast_release_pool(sse_fast_pool *pool)
{
    if (pool == NULL || SSE_FAST_ADD(&pool->references, -1) > 0)
        return;
    sse_fast_empty_pool(pool);
    free(pool);
}

/* Nothing will be taken out of it any more. */
static inline void
sse_fast_close_pool(sse_fast_pool *pool)
{
    (void)SSE_FAST_ADD(&pool->closed, 1);
    sse_fast_empty_pool(pool);
}

static inline sse_fast_batch *
sse_fast_new_batch(sse_fast_pool *pool, int views)
{
    sse_fast_batch *batch = NULL;
    int i;

    for (i = 0; pool != NULL && batch == NULL && i < pool->slot_count; i++)
        batch = (sse_fast_batch *)SSE_FAST_EXCHANGE(&pool->slots[i], NULL);
    if (batch == NULL)
        batch = (sse_fast_batch *)calloc(1, sizeof(sse_fast_batch));
    if (batch == NULL)
        return NULL;
    batch->references = 1;
    batch->views = views;
    batch->pool = pool;
    if (pool != NULL)
        (void)SSE_FAST_ADD(&pool->references, 1);
    return batch;
}

static inline void
sse_fast_retain_batch(sse_fast_batch *batch)
{
    (void)SSE_FAST_ADD(&batch->references, 1);
}

/* A batch that one giant event made large is not worth keeping: 64 MiB are above what any batch of
 * ordinary events takes. */
static inline int
sse_fast_is_ordinary_batch(const sse_fast_batch *batch)
{
    return batch->types.capacity + batch->data.places.capacity + batch->data.bytes.capacity
           + batch->ids.places.capacity + batch->ids.bytes.capacity + batch->retries.capacity
           + batch->offsets.capacity <= ((size_t)64 << 20);
}

static inline void
sse_fast_release_batch(sse_fast_batch *batch)
{
    sse_fast_pool *pool;
    int64_t i;

    if (batch == NULL || SSE_FAST_ADD(&batch->references, -1) > 0)
        return;
    for (i = 0; i < batch->part_count; i++)
        sse_fast_release_batch(batch->parts[i]);
    free(batch->parts);
    batch->parts = NULL;
    batch->part_count = 0;
    sse_fast_release_input(batch->input);
    sse_fast_release_dictionary(batch->dictionary);
    batch->input = NULL;
    batch->dictionary = NULL;
    batch->window = NULL;
    batch->window_size = 0;
    batch->rows = 0;
    batch->data.used = batch->ids.used = 0;
    batch->has_ids = batch->has_retries = batch->has_offsets = 0;
    batch->ids_null = batch->retries_null = 0;
    pool = batch->pool;
    batch->pool = NULL;
    if (pool != NULL && SSE_FAST_ADD(&pool->closed, 0) == 0 && sse_fast_is_ordinary_batch(batch))
        for (i = 0; i < pool->slot_count; i++)
            if (sse_fast_fill_slot((void **)&pool->slots[i], batch)) {
                batch = NULL;
                break;
            }
    if (batch != NULL)
        sse_fast_free_batch(batch);
    /* Last: if the pool goes with it, so does what was just put into it. */
    sse_fast_release_pool(pool);
}

static inline size_t
sse_fast_aligned(size_t size)
{
    return (size + 63) & ~(size_t)63;
}

static inline size_t
sse_fast_places_size(const sse_fast_batch *batch)
{
    size_t rows = (size_t)batch->rows;
    return batch->views ? rows * sizeof(sse_fast_view) : (rows + 1) * sizeof(int64_t);
}

/* How much the columns of a batch take, but for text. */
static inline size_t
sse_fast_packed_size(const sse_fast_batch *batch)
{
    size_t rows = (size_t)batch->rows, places = sse_fast_places_size(batch);
    size_t bits = sse_fast_aligned((rows + 7) / 8), numbers = sse_fast_aligned(8 * rows);

    return sse_fast_aligned(4 * rows)
           + sse_fast_aligned(places) * (batch->has_ids ? 2 : 1)
           + (batch->has_ids ? bits : 0) + (batch->has_retries ? numbers + bits : 0)
           + (batch->has_offsets ? numbers : 0);
}

static inline void
sse_fast_pack_memory(sse_fast_memory *to, const sse_fast_memory *of, size_t size, uint8_t **at)
{
    memcpy(*at, of->at, size);
    to->at = *at;
    /* It is not its own. */
    to->capacity = 0;
    *at += sse_fast_aligned(size);
}

/* Moves a batch into one that takes no more memory than it has to: its text as it is, the rest into
 * a part of the arena, or, NULL, a block. Left is one to be filled again. NULL: there is no memory. */
static inline sse_fast_batch *
sse_fast_pack_batch(sse_fast_batch *of, sse_fast_arena *arena, uint8_t *part)
{
    size_t rows = (size_t)of->rows, places = sse_fast_places_size(of);
    sse_fast_batch *to = sse_fast_new_batch(NULL, of->views);
    uint8_t *at = part;

    if (to == NULL)
        return NULL;
    if (arena != NULL) {
        (void)SSE_FAST_ADD(&arena->references, 1);
        to->arena = arena;
    }
    else {
        if (!sse_fast_reserve_memory(&to->block, 0, sse_fast_packed_size(of))) {
            sse_fast_release_batch(to);
            return NULL;
        }
        at = to->block.at;
    }
    to->rows = of->rows;
    to->has_ids = of->has_ids;
    to->ids_null = of->ids_null;
    to->has_retries = of->has_retries;
    to->retries_null = of->retries_null;
    to->has_offsets = of->has_offsets;
    to->window = of->window;
    to->window_size = of->window_size;
    to->input = of->input;
    of->input = NULL;
    to->data.bytes = of->data.bytes;
    to->data.used = of->data.used;
    to->ids.bytes = of->ids.bytes;
    to->ids.used = of->ids.used;
    memset(&of->data.bytes, 0, sizeof(of->data.bytes));
    memset(&of->ids.bytes, 0, sizeof(of->ids.bytes));
    sse_fast_trim_memory(&to->data.bytes, to->data.used);
    sse_fast_trim_memory(&to->ids.bytes, to->ids.used);
    sse_fast_pack_memory(&to->types, &of->types, 4 * rows, &at);
    sse_fast_pack_memory(&to->data.places, &of->data.places, places, &at);
    if (of->has_ids) {
        sse_fast_pack_memory(&to->ids.places, &of->ids.places, places, &at);
        sse_fast_pack_memory(&to->id_validity, &of->id_validity, (rows + 7) / 8, &at);
    }
    if (of->has_retries) {
        sse_fast_pack_memory(&to->retries, &of->retries, 8 * rows, &at);
        sse_fast_pack_memory(&to->retry_validity, &of->retry_validity, (rows + 7) / 8, &at);
    }
    if (of->has_offsets)
        sse_fast_pack_memory(&to->offsets, &of->offsets, 8 * rows, &at);
    return to;
}

/* -- Handing on --------------------------------------------------------------------------------- */

/* What an array that was handed on holds, be it moved elsewhere since. */
typedef struct {
    sse_fast_batch *batch;
    sse_fast_dictionary *dictionary;
    void *zeros;
    const void *buffers[1];
} sse_fast_held;

static void
sse_fast_release_array(struct ArrowArray *array)
{
    sse_fast_held *held = (sse_fast_held *)array->private_data;
    int64_t i;

    for (i = 0; i < array->n_children; i++) {
        struct ArrowArray *child = array->children[i];
        if (child->release != NULL)
            child->release(child);
    }
    /* The children lie behind their table, in one piece. */
    free(array->children);
    if (array->dictionary != NULL) {
        if (array->dictionary->release != NULL)
            array->dictionary->release(array->dictionary);
        free(array->dictionary);
    }
    array->release = NULL;
    free(held->zeros);
    sse_fast_release_dictionary(held->dictionary);
    sse_fast_release_batch(held->batch);
    free(held);
}

/* An array without values yet. The batch is retained. */
static inline sse_fast_held *
sse_fast_begin_array(struct ArrowArray *array, sse_fast_batch *batch, int64_t n_buffers)
{
    sse_fast_held *held = (sse_fast_held *)calloc(
        1, sizeof(sse_fast_held) + (size_t)n_buffers * sizeof(void *));
    memset(array, 0, sizeof(*array));
    if (held == NULL)
        return NULL;
    if (batch != NULL) {
        sse_fast_retain_batch(batch);
        held->batch = batch;
        array->length = batch->rows;
    }
    array->n_buffers = n_buffers;
    array->buffers = held->buffers;
    array->private_data = held;
    array->release = sse_fast_release_array;
    return held;
}

static inline int
sse_fast_begin_children(struct ArrowArray *array, int64_t count)
{
    int64_t i;
    uint8_t *memory = (uint8_t *)calloc(
        (size_t)count, sizeof(struct ArrowArray *) + sizeof(struct ArrowArray));
    if (memory == NULL)
        return 0;
    array->children = (struct ArrowArray **)memory;
    array->n_children = count;
    for (i = 0; i < count; i++)
        array->children[i]
            = (struct ArrowArray *)(memory + (size_t)count * sizeof(struct ArrowArray *)) + i;
    return 1;
}

static const int64_t sse_fast_nothing[2] = {0, 0};

static inline const void *
sse_fast_or_nothing(const void *at)
{
    return at != NULL ? at : sse_fast_nothing;
}

/* A column that has no value in any row. */
static inline int
sse_fast_make_null(struct ArrowArray *array, sse_fast_held *held, int64_t rows, size_t place)
{
    size_t validity = (((size_t)rows + 7) / 8 + 63) & ~(size_t)63;
    /* Never written, so that most of it is never there. */
    uint8_t *zeros = (uint8_t *)calloc(1, validity + ((size_t)rows + 1) * place);
    if (zeros == NULL)
        return 0;
    held->zeros = zeros;
    held->buffers[0] = zeros;
    held->buffers[1] = zeros + validity;
    array->null_count = rows;
    return 1;
}

/* The buffers that the views of a batch refer to: of each part its window and its bytes, of both
 * columns together; and behind them their sizes. */
static inline void
sse_fast_add_view_buffers(const sse_fast_batch *batch, const void **buffers, int64_t *sizes)
{
    int64_t i, count = batch->part_count ? batch->part_count : 1;
    for (i = 0; i < count; i++) {
        const sse_fast_batch *part = batch->part_count ? batch->parts[i] : batch;
        buffers[2 * i] = sse_fast_or_nothing(part->window);
        buffers[2 * i + 1] = sse_fast_or_nothing(part->data.bytes.at);
        sizes[2 * i] = part->window_size;
        sizes[2 * i + 1] = (int64_t)part->data.used;
    }
}

static inline int
sse_fast_make_strings(struct ArrowArray *array, sse_fast_batch *batch,
                      const sse_fast_strings *strings, const void *validity, int64_t null_count,
                      int is_null)
{
    int64_t view_buffers = 2 * (batch->part_count ? batch->part_count : 1);
    int64_t n_buffers = batch->views ? 2 + view_buffers + 1 : 3;
    sse_fast_held *held;

    if (is_null) {
        held = sse_fast_begin_array(array, batch, 3);
        if (held == NULL)
            return 0;
        /* The text, of which there is none; of views, the sizes of the buffers, of which there are
         * none. */
        held->buffers[2] = sse_fast_nothing;
        return sse_fast_make_null(array, held, batch->rows,
                                  batch->views ? sizeof(sse_fast_view) : sizeof(int64_t));
    }
    held = sse_fast_begin_array(array, batch, n_buffers);
    if (held == NULL)
        return 0;
    array->null_count = null_count;
    held->buffers[0] = null_count ? validity : NULL;
    held->buffers[1] = sse_fast_or_nothing(strings->places.at);
    if (!batch->views)
        held->buffers[2] = sse_fast_or_nothing(strings->bytes.at);
    else {
        int64_t *sizes = (int64_t *)calloc((size_t)view_buffers, sizeof(int64_t));
        if (sizes == NULL)
            return 0;
        held->zeros = sizes;
        sse_fast_add_view_buffers(batch, held->buffers + 2, sizes);
        held->buffers[2 + view_buffers] = sizes;
    }
    return 1;
}

static inline int
sse_fast_make_types(struct ArrowArray *array, sse_fast_batch *batch)
{
    sse_fast_dictionary *dictionary = batch->dictionary;
    sse_fast_held *held = sse_fast_begin_array(array, batch, 2);
    if (held == NULL)
        return 0;
    held->buffers[1] = sse_fast_or_nothing(batch->types.at);
    array->dictionary = (struct ArrowArray *)calloc(1, sizeof(struct ArrowArray));
    if (array->dictionary == NULL)
        return 0;
    held = sse_fast_begin_array(array->dictionary, NULL, 3);
    if (held == NULL)
        return 0;
    (void)SSE_FAST_ADD(&dictionary->references, 1);
    held->dictionary = dictionary;
    held->buffers[1] = dictionary->offsets;
    held->buffers[2] = sse_fast_or_nothing(dictionary->values);
    array->dictionary->length = dictionary->count;
    return 1;
}

static inline int
sse_fast_make_numbers(struct ArrowArray *array, sse_fast_batch *batch, const sse_fast_memory *numbers,
                      const void *validity, int64_t null_count, int is_null)
{
    sse_fast_held *held = sse_fast_begin_array(array, batch, 2);
    if (held == NULL)
        return 0;
    if (is_null)
        return sse_fast_make_null(array, held, batch->rows, sizeof(int64_t));
    array->null_count = null_count;
    held->buffers[0] = null_count ? validity : NULL;
    held->buffers[1] = sse_fast_or_nothing(numbers->at);
    return 1;
}

/* The whole batch as a struct; 0: no memory, and nothing is left of it. */
static inline int
sse_fast_export_batch(sse_fast_batch *batch, struct ArrowArray *array)
{
    if (sse_fast_begin_array(array, batch, 1) == NULL)
        return 0;
    if (sse_fast_begin_children(array, batch->has_offsets ? 5 : 4)
        && sse_fast_make_types(array->children[0], batch)
        && sse_fast_make_strings(array->children[1], batch, &batch->data, NULL, 0, 0)
        && sse_fast_make_strings(array->children[2], batch, &batch->ids, batch->id_validity.at,
                                 batch->ids_null, !batch->has_ids)
        && sse_fast_make_numbers(array->children[3], batch, &batch->retries,
                                 batch->retry_validity.at, batch->retries_null,
                                 !batch->has_retries)
        && (!batch->has_offsets
            || sse_fast_make_numbers(array->children[4], batch, &batch->offsets, NULL, 0, 0)))
        return 1;
    array->release(array);
    return 0;
}

static void
sse_fast_release_schema(struct ArrowSchema *schema)
{
    int64_t i;
    for (i = 0; i < schema->n_children; i++)
        if (schema->children[i]->release != NULL)
            schema->children[i]->release(schema->children[i]);
    free(schema->children);
    if (schema->dictionary != NULL) {
        if (schema->dictionary->release != NULL)
            schema->dictionary->release(schema->dictionary);
        free(schema->dictionary);
    }
    schema->release = NULL;
}

static inline void
sse_fast_begin_schema(struct ArrowSchema *schema, const char *name, const char *format,
                      int64_t flags)
{
    memset(schema, 0, sizeof(*schema));
    schema->name = name;
    schema->format = format;
    schema->flags = flags;
    schema->release = sse_fast_release_schema;
}

static inline int
sse_fast_export_schema(struct ArrowSchema *schema, int views, int has_offsets)
{
    int64_t i, count = has_offsets ? 5 : 4;
    const char *text = views ? "vu" : "U";
    struct ArrowSchema *children;
    uint8_t *memory;

    sse_fast_begin_schema(schema, "", "+s", 0);
    memory = (uint8_t *)calloc((size_t)count,
                               sizeof(struct ArrowSchema *) + sizeof(struct ArrowSchema));
    if (memory == NULL)
        return 0;
    children = (struct ArrowSchema *)(memory + (size_t)count * sizeof(struct ArrowSchema *));
    schema->children = (struct ArrowSchema **)memory;
    schema->n_children = count;
    for (i = 0; i < count; i++)
        schema->children[i] = children + i;
    sse_fast_begin_schema(children, "event", "i", 0);
    sse_fast_begin_schema(children + 1, "data", text, 0);
    sse_fast_begin_schema(children + 2, "id", text, ARROW_FLAG_NULLABLE);
    sse_fast_begin_schema(children + 3, "retry", "l", ARROW_FLAG_NULLABLE);
    if (has_offsets)
        sse_fast_begin_schema(children + 4, "offset", "l", 0);
    children->dictionary = (struct ArrowSchema *)calloc(1, sizeof(struct ArrowSchema));
    if (children->dictionary == NULL) {
        schema->release(schema);
        return 0;
    }
    sse_fast_begin_schema(children->dictionary, "", "U", 0);
    return 1;
}

#endif
