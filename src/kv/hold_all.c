/* The plain cache of all tokens: rotated keys and values in the cache dtype; a frozen prompt that others may
 * share, then own rows. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/hold.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { ALL_K, ALL_V, ALL_ATTN_SCORES, ALL_NORM, ALL_MEM };
struct hold_all {
    struct kv_dense *prefix;    /* NULL: none */
    struct kv_mem mem[ALL_MEM]; /* of k, v (empty if the own rows lie behind the prefix in its memory), attention
                                   scores, norms */
    struct tensor k, v; /* own rows [capacity,Hk,d] */
    int64_t n;          /* own rows in use */
};

static int all_take(struct kv_cache *c, int64_t capacity)
{
    struct hold_all *p = c->state = mem_alloc(1, sizeof *p);
    size_t bytes = (size_t)capacity * kv_row_bytes(c);
    TRY(kv_mem_open(c, &p->mem[ALL_K], bytes, MEM_WINDOW));
    TRY(kv_mem_open(c, &p->mem[ALL_V], bytes, MEM_WINDOW));
    p->k = kv_tensor(c, p->mem[ALL_K].data, capacity);
    p->v = kv_tensor(c, p->mem[ALL_V].data, capacity);
    return 0;
}

static int all_open(struct kv_cache *c)
{
    return all_take(c, c->n_max);
}

static int all_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    TRY(all_take(c, c->n_max - dense->n));
    ((struct hold_all *)c->state)->prefix = kv_dense_ref(dense);
    return 0;
}

static void all_close(struct kv_cache *c)
{
    struct hold_all *p = c->state;
    if (!p)
        return;
    for (int i = 0; i < ALL_MEM; i++)
        kv_mem_close(c, &p->mem[i]);
    if (p->prefix)
        kv_dense_unref(p->prefix, c->ops);
    free(p);
}

static void all_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct hold_all *p = c->state;
    kv_mem_count(p->mem, ALL_MEM, l);
    if (p->prefix)
        kv_dense_count(p->prefix, l);
}

/* Appends first, so that a row attends to its own key as it was rounded for the cache. */
static void all_prepare(struct kv_cache *c, const struct kv_rows *r, struct rope_args rope[3],
                        struct attend_args *a)
{
    struct hold_all *p = c->state;
    int64_t T = r->q.n[0];
    rope[0] = kv_rotate(r->q, r->q, c->kind->rope, r->pos);
    rope[1] = kv_rotate(r->k, tensor_rows(&p->k, p->n, T), c->kind->rope, r->pos);
    rope[2] = kv_rotate(r->v, tensor_rows(&p->v, p->n, T), NULL, 0);
    p->n += T;
    kv_attend_init(a, c, r);
    struct attend_set *s = &a->set[0];
    int64_t before = p->prefix ? p->prefix->n : 0;
    if (before) {
        s->k[0] = kv_run_of(&p->prefix->k, 0, before, 0);
        s->v[0] = kv_run_of(&p->prefix->v, 0, before, 0);
        s->n_k = 1;
    }
    s->k[s->n_k] = kv_run_of(&p->k, 0, p->n, before);
    s->v[s->n_k] = kv_run_of(&p->v, 0, p->n, before);
    s->n_v = ++s->n_k;
    s->attn_scores = p->mem[ALL_ATTN_SCORES].data;
    s->attn_scores_ld = c->n_max;
    c->n += T;
}

/* Norms of the new rows' keys as they came: one that is in the cache has been turned and rounded. */
static void all_norms(const struct kv_cache *c, const struct kv_rows *r)
{
    const struct hold_all *p = c->state;
    float *norm = p->mem[ALL_NORM].data;
    if (norm)
        c->ops->norms(c->ops, norm + p->n, c->n_max, r->k, -1);
}

static int all_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    struct rope_args *rope = mem_alloc((size_t)n * 3, sizeof *rope);
    struct attend_args *a = mem_alloc((size_t)n, sizeof *a);
    for (int i = 0; i < n; i++) {
        all_norms(c[i], &rows[i]);
        all_prepare(c[i], &rows[i], rope + 3 * i, a + i);
    }
    c[0]->ops->rope(c[0]->ops, rope, 3 * n);
    c[0]->ops->attend(c[0]->ops, a, n);
    free(rope);
    free(a);
    return 0;
}

int kv_watch(struct kv_cache *c, unsigned what)
{
    struct hold_all *p = c->state;
    const size_t row = (size_t)c->n_max * sizeof(float);
    if (!c->kind->compress)
        return 0;
    assert(!kv_acts(c->method) && c->n == 0 && !p->mem[ALL_ATTN_SCORES].data && !p->mem[ALL_NORM].data);
    if (what & KV_WATCH_ATTN_SCORES)
        TRY(kv_mem_open(c, &p->mem[ALL_ATTN_SCORES], row * (size_t)c->kind->n_head, MEM_WORKSPACE));
    if (what & KV_WATCH_NORM)
        TRY(kv_mem_open(c, &p->mem[ALL_NORM], row * (size_t)c->kind->n_kv_head, MEM_WORKSPACE));
    return 0;
}

static int all_freeze(struct kv_cache *c, struct kv_dense **out)
{
    struct hold_all *p = c->state;
    if (p->prefix && p->n)
        return err_set(ERR_INTERNAL, "layer %d goes on behind a shared prompt: it cannot be frozen",
                       (int)c->layer);
    struct kv_dense *d = p->prefix;
    if (d) {
        *out = kv_dense_ref(d);
        return 0;
    }
    d = *out = kv_dense_new(c);
    d->k = p->k, d->v = p->v;
    d->attn_scores = p->mem[ALL_ATTN_SCORES].data;
    d->norm = p->mem[ALL_NORM].data;
    /* The cache may go on behind the frozen rows: nobody else reads there. */
    memset(p->mem, 0, sizeof p->mem);
    p->k = tensor_rows(&p->k, p->n, p->k.n[0] - p->n);
    p->v = tensor_rows(&p->v, p->n, p->v.n[0] - p->n);
    p->n = 0;
    p->prefix = kv_dense_ref(d);
    return 0;
}

const struct kv_hold kv_hold_all = {all_open, all_from_dense, all_freeze, all_step, all_bytes, all_close};
