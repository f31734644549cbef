/* Frozen prompts, and the calls that hand the work of a layer to a method or to what it holds without one. */
#include "kv/hold.h"

#include "base/err.h"
#include "base/mem.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct kv_method kv_method_full = {
    .name = "full",
    .source = "no compression: the baseline of arXiv 2407.01527",
    .summary = "every key and value in the cache dtype",
};

bool kv_acts(const struct kv_method *m)
{
    return m->open != NULL;
}

/* What the layer holds where the method of `c` does not act; NULL where it does. */
static const struct kv_hold *hold_of(const struct kv_cache *c)
{
    if (kv_acts(c->method))
        return NULL;
    return c->kind->mixer == MIX_RECURRENT ? &kv_hold_state
           : c->kind->window               ? &kv_hold_window
                                           : &kv_hold_all;
}

struct kv_dense *kv_dense_new(const struct kv_cache *c)
{
    struct kv_dense *d = mem_alloc(1, sizeof *d);
    *d = (struct kv_dense){.n = c->n, .refs = 1};
    return d;
}

int kv_freeze(struct kv_cache *c, struct kv_dense **d)
{
    const struct kv_hold *h = hold_of(c);
    *d = NULL;
    if (h && c->state)
        return h->freeze(c, d);
    return err_set(ERR_INTERNAL, "layer %d of method %s holds no plain prompt to share", (int)c->layer,
                   c->method->name);
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
    for (int i = 0; i < SHAPE_STATES; i++)
        if (d->state[i].data)
            ops->free(ops, d->state[i].data);
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

/* Kinds of which the method acts on a layer, and, in bits, the layers. */
static uint32_t acted_kinds(const struct kv_spec *spec, const struct seq_shape *shape,
                            int64_t layers[SHAPE_LAYERS / 64])
{
    uint32_t kinds = 0;
    for (int32_t i = 0; i < shape->n_layer; i++) {
        if (!kv_spec_acts(spec, shape, i))
            continue;
        kinds |= UINT32_C(1) << shape->kind_of[i];
        layers[i / 64] |= (int64_t)(UINT64_C(1) << (i % 64));
    }
    return kinds;
}

/* The key of all kinds that the method acts on: 0 if all are. Specs that name their layers say which. */
uint64_t kv_prefill_key(const struct kv_spec *spec, int64_t n_prompt, const struct seq_shape *shape)
{
    static const struct kv_layers usual = {0};
    int64_t key[SHAPE_KINDS + SHAPE_LAYERS / 64], layers[SHAPE_LAYERS / 64] = {0};
    const uint32_t kinds = acted_kinds(spec, shape, layers);
    int n = 0;
    bool any = false;
    for (int32_t i = 0; spec->method->prefill_key && i < shape->n_kind; i++) {
        if (!(kinds >> i & 1))
            continue;
        key[n] = (int64_t)spec->method->prefill_key(spec->params, n_prompt, &shape->kind[i]);
        any = any || key[n] != 0;
        n++;
    }
    if (!any)
        return 0;
    if (memcmp(&spec->layers, &usual, sizeof usual) != 0)
        for (int i = 0; i < SHAPE_LAYERS / 64; i++)
            key[n++] = layers[i];
    return n == 1 ? (uint64_t)key[0] : kv_key(spec->method->name, key, n);
}

unsigned kv_wants(const struct kv_spec *spec)
{
    return spec->method->wants ? spec->method->wants(spec->params) : 0;
}

/* What no kernel computes yet. */
static int check_kind(const struct layer_kind *k)
{
    if (k->mixer == MIX_ATTENTION && (k->d_v != k->d_k || k->softcap != 0))
        return err_set(ERR_INPUT, "layers with keys of %d and values of %d, soft cap %g, are not supported",
                       (int)k->d_k, (int)k->d_v, (double)k->softcap);
    return 0;
}

static int prepare(struct kv_cache *c, const struct kv_spec *spec, const struct seq_shape *shape,
                   struct ops *ops, int32_t layer, int64_t n_prompt, int64_t n_max)
{
    const struct layer_kind *kind = shape_kind(shape, layer);
    const bool skipped = kv_acts(spec->method) && !kv_spec_acts(spec, shape, layer);
    *c = (struct kv_cache){.method = skipped ? &kv_method_full : spec->method,
                           .params = skipped ? NULL : spec->params,
                           .shape = shape,
                           .kind = kind,
                           .ops = ops,
                           .layer = layer,
                           .n_prompt = n_prompt,
                           .n_max = n_max};
    if (n_prompt < 0 || n_prompt > n_max || n_max < 1)
        return err_set(ERR_INTERNAL, "a cache for %lld tokens cannot hold a prompt of %lld", (long long)n_max,
                       (long long)n_prompt);
    if (spec->budget)
        return err_set(ERR_INTERNAL, "method %s: the budget was not solved for the sequence", spec->label);
    TRY(check_kind(kind));
    return c->method->check ? c->method->check(c->params, kind) : 0;
}

int kv_open(struct kv_cache *c, const struct kv_spec *spec, const struct seq_shape *shape, struct ops *ops,
            int32_t layer, int64_t n_prompt, int64_t n_max)
{
    int rc = prepare(c, spec, shape, ops, layer, n_prompt, n_max);
    if (rc == 0)
        rc = hold_of(c) ? hold_of(c)->open(c) : c->method->open(c);
    if (rc < 0)
        kv_close(c);
    return rc;
}

static int from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    const struct kv_method *m = c->method;
    if (hold_of(c))
        return hold_of(c)->from_dense(c, dense);
    if (!m->from_dense || (m->prefill_key && m->prefill_key(c->params, dense->n, c->kind)))
        return err_set(ERR_INTERNAL, "method %s cannot start from the plain pass of %lld prompt tokens",
                       m->name, (long long)dense->n);
    TRY(m->open(c));
    return m->from_dense(c, dense);
}

int kv_fork(struct kv_cache *c, const struct kv_spec *spec, const struct seq_shape *shape, struct ops *ops,
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
    if (c->method && hold_of(c))
        hold_of(c)->close(c);
    else if (c->method)
        c->method->close(c);
    *c = (struct kv_cache){0};
}

static int check_rows(const struct kv_cache *c, const struct kv_rows *r)
{
    int64_t T = r->q.n[0];
    assert(c->kind->mixer == MIX_ATTENTION && r->k.n[0] == T && r->v.n[0] == T && r->out.n[0] == T);
    if (r->pos == c->n && T >= 1 && T <= c->n_max - c->n)
        return 0;
    return err_set(ERR_INTERNAL,
                   "layer %d: %lld rows at position %lld do not follow %lld of at most %lld tokens",
                   (int)c->layer, (long long)T, (long long)r->pos, (long long)c->n, (long long)c->n_max);
}

static int method_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    const struct kv_hold *h = hold_of(c[0]); /* in one layer all are of one kind */
    return h ? h->step(c, rows, n) : c[0]->method->step(c, rows, n);
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

int kv_advance(struct kv_cache *c, int64_t n_tokens)
{
    assert(c->kind->mixer == MIX_RECURRENT);
    if (n_tokens < 1 || n_tokens > c->n_max - c->n)
        return err_set(ERR_INTERNAL, "layer %d: %lld tokens do not fit behind %lld of at most %lld",
                       (int)c->layer, (long long)n_tokens, (long long)c->n, (long long)c->n_max);
    c->n += n_tokens;
    return 0;
}

void kv_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    if (hold_of(c))
        hold_of(c)->bytes(c, l);
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

const char *kv_budget_name(enum kv_budget b)
{
    static const char *const names[] = {"n_init",      "n_local",   "topk",
                                        "kept_tokens", "kept_bits", "true_ratio"};
    return names[b];
}

static double true_ratio(uint64_t full, const struct kv_ledger *l)
{
    return (double)full / (double)kv_ledger_total(l);
}

void kv_get_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    for (int i = 0; i < KV_BUDGET_N; i++)
        b->value[i] = NAN;
    if (c->kind->mixer == MIX_ATTENTION) {
        b->value[KV_KEPT_TOKENS] = (double)(c->kind->window ? min64(c->n, c->kind->window) : c->n);
        b->value[KV_KEPT_BITS] = 8.0 * (double)dtype_bytes(c->shape->dtype);
    }
    if (c->method->budgets)
        c->method->budgets(c, b);
    struct kv_ledger l = {0};
    kv_bytes(c, &l);
    b->value[KV_TRUE_RATIO] = true_ratio(shape_layer_bytes(c->shape, c->layer, c->n_max), &l);
}

/* Whose budgets are the sequence's: layers that a method acts on, of them those that keep all tokens where
 * there are any; without a method all that keep all tokens. */
static bool speaks(const struct kv_cache *c, bool acts, bool whole)
{
    return kv_acts(c->method) == acts && c->kind->compress == whole;
}

static void who_speaks(const struct kv_cache *c, int32_t n_layer, bool *acts, bool *whole)
{
    *acts = *whole = false;
    for (int32_t i = 0; i < n_layer; i++)
        *acts = *acts || kv_acts(c[i].method);
    for (int32_t i = 0; i < n_layer; i++)
        *whole = *whole || speaks(&c[i], *acts, true);
    *whole = *whole || !*acts;
}

/* The mean over the layers that speak and where it applies; equal values stay what they are. */
static double mean_budget(const struct kv_budgets *of, const struct kv_cache *c, int32_t n_layer, int which)
{
    double sum = 0, first = NAN;
    int32_t n = 0;
    bool equal = true, acts, whole;
    who_speaks(c, n_layer, &acts, &whole);
    for (int32_t i = 0; i < n_layer; i++) {
        double v = of[i].value[which];
        if (!speaks(&c[i], acts, whole) || isnan(v))
            continue;
        first = n++ ? first : v;
        equal = equal && v == first;
        sum += v;
    }
    return equal ? first : sum / n;
}

void kv_seq_budgets(const struct kv_cache *c, int32_t n_layer, struct kv_budgets *b)
{
    struct kv_budgets *of = mem_alloc((size_t)n_layer, sizeof *of);
    struct kv_ledger l = {0};
    for (int32_t i = 0; i < n_layer; i++) {
        kv_get_budgets(&c[i], &of[i]);
        kv_bytes(&c[i], &l);
    }
    for (int i = 0; i < KV_BUDGET_N; i++)
        b->value[i] = mean_budget(of, c, n_layer, i);
    b->value[KV_TRUE_RATIO] = true_ratio(shape_full_bytes(c->shape, c->n_max), &l);
    free(of);
}

int kv_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    *n = 0;
    return c->method->dump ? c->method->dump(c, out, n) : 0;
}
