/* The plain cache (`full`), frozen prompts, and the calls that hand work to methods. */
#include "kv/kv.h"

#include "base/err.h"
#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Rotated keys and values in the cache dtype: a frozen prompt that others may share, then own rows. */
enum { PLAIN_K, PLAIN_V, PLAIN_ATTN_SCORES, PLAIN_NORM, PLAIN_MEM };
struct kv_plain {
    struct kv_dense *prefix;      /* NULL: none */
    struct kv_mem mem[PLAIN_MEM]; /* of k, v (empty if the own rows lie behind the prefix in its memory),
                                     attention score, norm */
    struct tensor k, v;           /* own rows [capacity,Hk,d] */
    int64_t n;                    /* own rows in use */
};

const struct kv_method kv_method_full = {
    .name = "full",
    .source = "no compression: the baseline of arXiv 2407.01527",
    .summary = "every key and value in the cache dtype",
};

static bool is_plain(const struct kv_method *m)
{
    return !m->open && !m->step;
}

static int plain_take(struct kv_cache *c, int64_t capacity)
{
    struct kv_plain *p = c->state = mem_alloc(1, sizeof *p);
    size_t bytes = (size_t)capacity * kv_row_bytes(c->shape);
    TRY(kv_mem_open(c, &p->mem[PLAIN_K], bytes, MEM_WINDOW));
    TRY(kv_mem_open(c, &p->mem[PLAIN_V], bytes, MEM_WINDOW));
    p->k = kv_tensor(c, p->mem[PLAIN_K].data, capacity);
    p->v = kv_tensor(c, p->mem[PLAIN_V].data, capacity);
    return 0;
}

static int plain_open(struct kv_cache *c)
{
    return plain_take(c, c->n_max);
}

static int plain_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    TRY(plain_take(c, c->n_max - dense->n));
    ((struct kv_plain *)c->state)->prefix = kv_dense_ref(dense);
    return 0;
}

static void plain_close(struct kv_cache *c)
{
    struct kv_plain *p = c->state;
    if (!p)
        return;
    for (int i = 0; i < PLAIN_MEM; i++)
        kv_mem_close(c, &p->mem[i]);
    if (p->prefix)
        kv_dense_unref(p->prefix, c->ops);
    free(p);
}

static void plain_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct kv_plain *p = c->state;
    kv_mem_count(p->mem, PLAIN_MEM, l);
    if (p->prefix)
        kv_dense_count(p->prefix, l);
}

/* Appends first, so that a row attends to its own key as it was rounded for the cache. */
static void plain_prepare(struct kv_cache *c, const struct kv_rows *r, struct rope_args rope[3],
                          struct attend_args *a)
{
    struct kv_plain *p = c->state;
    int64_t T = r->q.n[0];
    rope[0] = kv_rotate(r->q, r->q, c->shape->rope, r->pos);
    rope[1] = kv_rotate(r->k, tensor_rows(&p->k, p->n, T), c->shape->rope, r->pos);
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
    s->attn_scores = p->mem[PLAIN_ATTN_SCORES].data;
    s->attn_scores_ld = c->n_max;
    c->n += T;
}

/* Norms of the new rows' keys as they came: one that is in the cache has been turned and rounded. */
static void plain_norms(const struct kv_cache *c, const struct kv_rows *r)
{
    const struct kv_plain *p = c->state;
    float *norm = p->mem[PLAIN_NORM].data;
    if (norm)
        c->ops->norms(c->ops, norm + p->n, c->n_max, r->k, -1);
}

static int plain_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    struct rope_args *rope = mem_alloc((size_t)n * 3, sizeof *rope);
    struct attend_args *a = mem_alloc((size_t)n, sizeof *a);
    for (int i = 0; i < n; i++) {
        plain_norms(c[i], &rows[i]);
        plain_prepare(c[i], &rows[i], rope + 3 * i, a + i);
    }
    c[0]->ops->rope(c[0]->ops, rope, 3 * n);
    c[0]->ops->attend(c[0]->ops, a, n);
    free(rope);
    free(a);
    return 0;
}

int kv_watch(struct kv_cache *c, unsigned what)
{
    struct kv_plain *p = c->state;
    const size_t row = (size_t)c->n_max * sizeof(float);
    assert(is_plain(c->method) && c->n == 0 && !p->mem[PLAIN_ATTN_SCORES].data && !p->mem[PLAIN_NORM].data);
    if (what & KV_WATCH_ATTN_SCORES)
        TRY(kv_mem_open(c, &p->mem[PLAIN_ATTN_SCORES], row * (size_t)c->shape->n_head, MEM_WORKSPACE));
    if (what & KV_WATCH_NORM)
        TRY(kv_mem_open(c, &p->mem[PLAIN_NORM], row * (size_t)c->shape->n_kv_head, MEM_WORKSPACE));
    return 0;
}

struct kv_dense *kv_freeze(struct kv_cache *c)
{
    struct kv_plain *p = c->state;
    if (!is_plain(c->method) || !p || (p->prefix && p->n)) {
        err_set(ERR_INTERNAL, "layer %d of method %s holds no plain prompt to share", (int)c->layer,
                c->method->name);
        return NULL;
    }
    if (p->prefix)
        return kv_dense_ref(p->prefix);
    struct kv_dense *d = mem_alloc(1, sizeof *d);
    *d = (struct kv_dense){.k = p->k,
                           .v = p->v,
                           .attn_scores = p->mem[PLAIN_ATTN_SCORES].data,
                           .norm = p->mem[PLAIN_NORM].data,
                           .n = p->n,
                           .refs = 1};
    /* The cache may go on behind the frozen rows: nobody else reads there. */
    memset(p->mem, 0, sizeof p->mem);
    p->k = tensor_rows(&p->k, p->n, p->k.n[0] - p->n);
    p->v = tensor_rows(&p->v, p->n, p->v.n[0] - p->n);
    p->n = 0;
    p->prefix = d;
    return kv_dense_ref(d);
}

struct kv_dense *kv_dense_ref(struct kv_dense *d)
{
    d->refs++;
    return d;
}

void kv_dense_unref(struct kv_dense *d, struct ops *ops)
{
    if (!d || --d->refs > 0)
        return;
    if (d->k.data)
        ops->free(ops, d->k.data);
    if (d->v.data)
        ops->free(ops, d->v.data);
    kv_dense_settle(d, ops);
    free(d);
}

void kv_dense_settle(struct kv_dense *d, struct ops *ops)
{
    if (d->attn_scores)
        ops->free(ops, d->attn_scores);
    if (d->norm)
        ops->free(ops, d->norm);
    d->attn_scores = d->norm = NULL;
}

uint64_t kv_prefill_key(const struct kv_spec *spec, int64_t n_prompt, const struct kv_shape *shape)
{
    return spec->method->prefill_key ? spec->method->prefill_key(spec->params, n_prompt, shape) : 0;
}

unsigned kv_wants(const struct kv_spec *spec)
{
    return spec->method->wants ? spec->method->wants(spec->params) : 0;
}

static int prepare(struct kv_cache *c, const struct kv_spec *spec, const struct kv_shape *shape,
                   struct ops *ops, int32_t layer, int64_t n_prompt, int64_t n_max)
{
    *c = (struct kv_cache){.method = spec->method,
                           .params = spec->params,
                           .shape = shape,
                           .ops = ops,
                           .layer = layer,
                           .n_prompt = n_prompt,
                           .n_max = n_max};
    if (n_prompt < 0 || n_prompt > n_max || n_max < 1)
        return err_set(ERR_INTERNAL, "a cache for %lld tokens cannot hold a prompt of %lld", (long long)n_max,
                       (long long)n_prompt);
    if (spec->budget)
        return err_set(ERR_INTERNAL, "method %s: the budget was not solved for the sequence", spec->label);
    return spec->method->check ? spec->method->check(spec->params, shape) : 0;
}

int kv_open(struct kv_cache *c, const struct kv_spec *spec, const struct kv_shape *shape, struct ops *ops,
            int32_t layer, int64_t n_prompt, int64_t n_max)
{
    int rc = prepare(c, spec, shape, ops, layer, n_prompt, n_max);
    if (rc == 0)
        rc = is_plain(c->method) ? plain_open(c) : c->method->open(c);
    if (rc < 0)
        kv_close(c);
    return rc;
}

static int from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    const struct kv_method *m = c->method;
    if (is_plain(m))
        return plain_from_dense(c, dense);
    if (!m->from_dense || (m->prefill_key && m->prefill_key(c->params, dense->n, c->shape)))
        return err_set(ERR_INTERNAL, "method %s cannot start from the plain pass of %lld prompt tokens",
                       m->name, (long long)dense->n);
    TRY(m->open(c));
    return m->from_dense(c, dense);
}

int kv_fork(struct kv_cache *c, const struct kv_spec *spec, const struct kv_shape *shape, struct ops *ops,
            int32_t layer, struct kv_dense *dense, int64_t n_max)
{
    int rc = prepare(c, spec, shape, ops, layer, dense->n, n_max);
    if (rc == 0)
        rc = from_dense(c, dense);
    if (rc < 0)
        kv_close(c);
    else
        c->n = dense->n;
    return rc;
}

void kv_close(struct kv_cache *c)
{
    if (c->method && !is_plain(c->method))
        c->method->close(c);
    else if (c->method)
        plain_close(c);
    *c = (struct kv_cache){0};
}

static int check_rows(const struct kv_cache *c, const struct kv_rows *r)
{
    int64_t T = r->q.n[0];
    assert(r->k.n[0] == T && r->v.n[0] == T && r->out.n[0] == T);
    if (r->pos == c->n && T >= 1 && T <= c->n_max - c->n)
        return 0;
    return err_set(ERR_INTERNAL,
                   "layer %d: %lld rows at position %lld do not follow %lld of at most %lld tokens",
                   (int)c->layer, (long long)T, (long long)r->pos, (long long)c->n, (long long)c->n_max);
}

static int method_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    return is_plain(c[0]->method) ? plain_step(c, rows, n) : c[0]->method->step(c, rows, n);
}

/* Steps the caches that have the method of c[first]; `done` marks them. */
static int step_group(struct kv_cache *const *c, const struct kv_rows *rows, int n, int first, bool *done)
{
    struct kv_cache **group = mem_alloc((size_t)n, sizeof *group);
    struct kv_rows *part = mem_alloc((size_t)n, sizeof *part);
    int m = 0;
    for (int i = first; i < n; i++) {
        if (c[i]->method != c[first]->method)
            continue;
        group[m] = c[i];
        part[m++] = rows[i];
        done[i] = true;
    }
    int rc = method_step(group, part, m);
    free(group);
    free(part);
    return rc;
}

int kv_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    bool alike = true;
    for (int i = 0; i < n; i++) {
        TRY(check_rows(c[i], &rows[i]));
        alike = alike && c[i]->method == c[0]->method;
    }
    if (n <= 0)
        return 0;
    if (alike)
        return method_step(c, rows, n);
    bool *done = mem_alloc((size_t)n, sizeof *done);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        if (!done[i])
            rc = step_group(c, rows, n, i, done);
    free(done);
    return rc;
}

void kv_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    if (is_plain(c->method))
        plain_bytes(c, l);
    else
        c->method->bytes(c, l);
}

uint64_t kv_ledger_total(const struct kv_ledger *l)
{
    uint64_t sum = 0;
    for (int k = 0; k < MEM_KIND_N; k++)
        for (int p = 0; p < PLACE_N; p++)
            sum += l->bytes[k][p];
    return sum;
}

uint64_t kv_full_bytes(const struct kv_shape *shape, int64_t n)
{
    return 2 * (uint64_t)shape->n_layer * (uint64_t)n * kv_row_bytes(shape);
}

const char *kv_budget_name(enum kv_budget b)
{
    static const char *const names[] = {"n_init",      "n_local",   "topk",
                                        "kept_tokens", "kept_bits", "true_ratio"};
    return names[b];
}

void kv_get_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    for (int i = 0; i < KV_BUDGET_N; i++)
        b->value[i] = NAN;
    b->value[KV_KEPT_TOKENS] = (double)c->n;
    b->value[KV_KEPT_BITS] = 8.0 * (double)dtype_bytes(c->shape->dtype);
    if (c->method->budgets)
        c->method->budgets(c, b);
    struct kv_ledger l = {0};
    kv_bytes(c, &l);
    double own = (double)kv_ledger_total(&l);
    b->value[KV_TRUE_RATIO] = 2.0 * (double)c->n_max * (double)kv_row_bytes(c->shape) / own;
}

int kv_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    *n = 0;
    return c->method->dump ? c->method->dump(c, out, n) : 0;
}
