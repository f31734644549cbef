/* Key norms (arXiv 2406.11430; KnormPress of NVIDIA/kvpress): at the end of the prompt each KV head keeps the
 * keys with the smallest L2 norm and drops the others for good; ties go to the older key. Generated tokens
 * are all kept. The prompt pass is the plain one.
 *
 * The norm is that of the key before RoPE, which turns it and leaves its length, and before it is rounded to
 * the cache dtype: equal tokens would else differ in the last bits by where they stand. Norms count as equal
 * when they agree in 16 bits (ops->norms), more than the order of a backend's sums can change. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/kept.h"

#include <stdlib.h>

struct knorm_params {
    double keep;
};

static const struct param knorm_table[] = {
    {"keep", PARAM_REAL, offsetof(struct knorm_params, keep), 0.5, 0.001, 1, NULL, NULL,
     "fraction of the prompt's tokens that is kept"},
    {0},
};

static int knorm_from_ratio(void *params, double ratio)
{
    ((struct knorm_params *)params)->keep = 1 / ratio;
    return 0;
}

static double knorm_nominal(const void *params)
{
    return 1 / ((const struct knorm_params *)params)->keep;
}

static int64_t knorm_size(const struct kv_cache *c)
{
    int64_t n = (int64_t)(((const struct knorm_params *)c->params)->keep * (double)c->n_prompt);
    return n < 1 && c->n_prompt ? 1 : n;
}

static int knorm_open(struct kv_cache *c)
{
    struct kept *s = c->state = mem_alloc(1, sizeof *s);
    return kept_open(c, s, knorm_size(c) + c->n_max - c->n_prompt);
}

static void knorm_close(struct kv_cache *c)
{
    if (c->state)
        kept_close(c, c->state);
    free(c->state);
}

static unsigned knorm_wants(const void *params)
{
    (void)params;
    return KV_WATCH_NORM;
}

static int knorm_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    struct kept *s = c->state;
    const int64_t m = knorm_size(c);
    if (!dense->norm)
        return err_set(ERR_INTERNAL, "method knorm: nobody noted the norms of layer %d", (int)c->layer);
    struct select_args a = kept_choice(c, s, dense->norm, dense->k.n[0], c->kind->n_kv_head, dense->n, m, 0);
    c->ops->select(c->ops, &a, 1);
    kept_take(c, s, dense, m);
    return c->ops->sync(c->ops);
}

static int knorm_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    struct rope_args *rope = mem_alloc(3 * (size_t)n, sizeof *rope);
    struct attend_args *a = mem_alloc((size_t)n, sizeof *a);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        rc = kv_after_prompt(c[i]);
        rope[3 * i] = kv_rotate(rows[i].q, rows[i].q, c[i]->kind->rope, rows[i].pos);
        kv_attend_init(&a[i], c[i], &rows[i]);
        if (rc == 0)
            kept_append(c[i], c[i]->state, &rows[i], rope + 3 * i + 1, &a[i].set[0]);
        c[i]->n += rows[i].q.n[0];
    }
    if (rc == 0) {
        c[0]->ops->rope(c[0]->ops, rope, 3 * n);
        c[0]->ops->attend(c[0]->ops, a, n);
    }
    free(rope);
    free(a);
    return rc;
}

static void knorm_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    kept_count(c->state, l);
}

static void knorm_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    b->value[KV_TOPK] = (double)knorm_size(c);
    b->value[KV_KEPT_TOKENS] = (double)((const struct kept *)c->state)->n;
}

static int knorm_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    return kept_dump(c, c->state, NULL, NULL, 0, out, n);
}

const struct kv_method kv_method_knorm = {
    .name = "knorm",
    .source = "arXiv 2406.11430; KnormPress of NVIDIA/kvpress",
    .summary = "the prompt's keys with the smallest norms, per KV head; every generated token",
    .params = knorm_table,
    .params_bytes = sizeof(struct knorm_params),
    .from_ratio = knorm_from_ratio,
    .nominal_ratio = knorm_nominal,
    .wants = knorm_wants,
    .open = knorm_open,
    .from_dense = knorm_from_dense,
    .step = knorm_step,
    .bytes = knorm_bytes,
    .budgets = knorm_budgets,
    .dump = knorm_dump,
    .close = knorm_close,
};
