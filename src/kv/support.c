/* What method files share: memory that keeps its own account, runs, rings, keys of prompt passes. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/method.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

static int mem_take(const struct kv_cache *c, struct kv_mem *m, size_t bytes, enum mem_kind kind,
                    enum mem_place place)
{
    *m = (struct kv_mem){.kind = kind, .place = place};
    if (!bytes)
        return 0;
    m->data = c->ops->alloc(c->ops, bytes, kind, place);
    if (!m->data) {
        char size[32];
        str_bytes(size, (double)bytes);
        return err_set(ERR_NOMEM, "no memory on %s for %s of method %s (%s%s, layer %d)", c->ops->name, size,
                       c->method->name, mem_kind_name(kind), place == PLACE_HOST ? " on the host" : "",
                       (int)c->layer);
    }
    m->bytes = bytes;
    return 0;
}

int kv_mem_open(const struct kv_cache *c, struct kv_mem *m, size_t bytes, enum mem_kind kind)
{
    return mem_take(c, m, bytes, kind, PLACE_DEVICE);
}

int kv_mem_open_host(const struct kv_cache *c, struct kv_mem *m, size_t bytes, enum mem_kind kind)
{
    return mem_take(c, m, bytes, kind, PLACE_HOST);
}

void kv_mem_close(const struct kv_cache *c, struct kv_mem *m)
{
    if (m->data)
        c->ops->free(c->ops, m->data);
    *m = (struct kv_mem){0};
}

void kv_mem_count(const struct kv_mem *m, int n, struct kv_ledger *l)
{
    for (int i = 0; i < n; i++)
        l->bytes[m[i].kind][m[i].place] += m[i].bytes;
}

void kv_dense_count(const struct kv_dense *d, struct kv_ledger *l)
{
    uint64_t bytes = tensor_bytes(&d->k) + tensor_bytes(&d->v);
    l->bytes[MEM_WINDOW][PLACE_DEVICE] += bytes;
    if (d->refs > 1)
        l->shared += bytes;
}

int kv_after_prompt(const struct kv_cache *c)
{
    if (c->n >= c->n_prompt)
        return 0;
    return err_set(ERR_INTERNAL, "method %s starts from a finished prompt (layer %d: %lld of %lld)",
                   c->method->name, (int)c->layer, (long long)c->n, (long long)c->n_prompt);
}

size_t kv_row_bytes(const struct kv_cache *c)
{
    return (size_t)c->kind->n_kv_head * (size_t)c->kind->d_k * dtype_bytes(c->shape->dtype);
}

struct tensor kv_tensor(const struct kv_cache *c, void *data, int64_t n)
{
    return (struct tensor){data, c->shape->dtype, {n, c->kind->n_kv_head, c->kind->d_k, 1}};
}

struct kv_run kv_run_of(const struct tensor *t, int64_t at, int64_t n, int64_t pos)
{
    assert(at >= 0 && at + n <= t->n[0]);
    return (struct kv_run){
        .layout = QUANT_NONE, .dtype = t->dtype, .data = tensor_rows(t, at, n).data, .n = n, .pos = pos};
}

int kv_ring_runs(const struct tensor *ring, int64_t base, int64_t from, int64_t to, struct kv_run out[2])
{
    int64_t capacity = ring->n[0], n = to - from;
    if (n <= 0)
        return 0;
    assert(n <= capacity && from >= base);
    int64_t at = (from - base) % capacity, first = n < capacity - at ? n : capacity - at;
    out[0] = kv_run_of(ring, at, first, from);
    if (first == n)
        return 1;
    out[1] = kv_run_of(ring, 0, n - first, from + first);
    return 2;
}

void kv_ring_put(struct ops *ops, const struct tensor *ring, int64_t base, const struct tensor *rows,
                 int64_t pos)
{
    struct kv_run run[2];
    int n_run = kv_ring_runs(ring, base, pos, pos + rows->n[0], run);
    for (int i = 0; i < n_run; i++) {
        struct tensor part = tensor_rows(rows, run[i].pos - pos, run[i].n);
        struct tensor place = tensor_rows(ring, (run[i].pos - base) % ring->n[0], run[i].n);
        assert(part.dtype == place.dtype);
        ops->copy(ops, place.data, part.data, tensor_bytes(&part));
    }
}

void kv_attend_init(struct attend_args *a, const struct kv_cache *c, const struct kv_rows *r)
{
    *a = (struct attend_args){
        .n_set = 1, .n_kv_head = c->kind->n_kv_head, .q_pos = r->pos, .scale = c->kind->scale, .out = r->out};
    a->set[0].q = r->q;
    a->set[0].dist_max = c->kind->window ? c->kind->window : ATTEND_FAR;
}

struct kv_rows kv_rows_part(const struct kv_rows *r, int64_t at, int64_t n)
{
    return (struct kv_rows){tensor_rows(&r->q, at, n), tensor_rows(&r->k, at, n), tensor_rows(&r->v, at, n),
                            tensor_rows(&r->out, at, n), r->pos + at};
}

struct rope_args kv_rotate(struct tensor src, struct tensor dst, const struct rope *rope, int64_t pos)
{
    return (struct rope_args){.src = src, .dst = dst, .rope = rope, .pos = pos, .fixed = -1};
}

static uint64_t fnv(uint64_t h, const void *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        h = (h ^ ((const unsigned char *)bytes)[i]) * UINT64_C(0x100000001b3);
    return h;
}

uint64_t kv_key(const char *name, const int64_t *numbers, int n)
{
    uint64_t h = fnv(UINT64_C(0xcbf29ce484222325), name, strlen(name) + 1);
    h = fnv(h, numbers, (size_t)n * sizeof *numbers);
    return h ? h : 1;
}

void *kv_dump_add(struct kv_dump *out, int *n, const char *name, enum dtype dtype, const int64_t shape[3])
{
    assert(*n < KV_DUMP_MAX);
    struct kv_dump *d = &out[(*n)++];
    *d = (struct kv_dump){.dtype = dtype, .n = {shape[0], shape[1], shape[2], 1}};
    snprintf(d->name, sizeof d->name, "%s", name);
    size_t count = (size_t)(shape[0] * shape[1] * shape[2]);
    d->data = mem_alloc(count ? count : 1, dtype_bytes(dtype));
    return d->data;
}
