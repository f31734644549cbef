#include "run/limits.h"

#include "kernels/bench.h"
#include "run/runner.h"

#include <string.h>

static double better(double a, double b)
{
    return a > b ? a : b;
}

double limits_product_rate(struct runner *r, int64_t rows)
{
    const struct model_config *c = model_config(r->model);
    const int64_t hd = (int64_t)c->n_head * c->head_dim, kd = (int64_t)c->n_kv_head * c->head_dim;
    const struct bench_product p[] = {{rows, c->d_model, hd + 2 * kd, c->n_layer},
                                      {rows, hd, c->d_model, c->n_layer},
                                      {rows, c->d_model, 2 * c->d_ff, c->n_layer},
                                      {rows, c->d_ff, c->d_model, c->n_layer}};
    enum dtype t = r->m.dtype;
    if (strcmp(r->ops->name, "cuda") == 0)
        return bench_backend_product_rate(r->ops, p, 4, t);
    return bench_product_rate(p, 4, t == DT_BF16 ? DT_BF16 : DT_F32, r->ops->threads, 1.0);
}

void runner_limits_again(struct runner *r, struct run_limits *l)
{
    bool gpu = strcmp(r->ops->name, "cuda") == 0;
    double memory = gpu ? bench_copy_rate(r->ops) : bench_read_rate(r->ops->threads);
    r->limits.read_rate = better(r->limits.read_rate, memory);
    r->limits.product_rate = better(r->limits.product_rate, limits_product_rate(r, r->ops->chunk));
    r->limits_known = true;
    *l = r->limits;
}

void runner_limits(struct runner *r, struct run_limits *l)
{
    if (!r->limits_known)
        runner_limits_again(r, l);
    *l = r->limits;
}

double limits_prefill_flops(struct model *m, int64_t n)
{
    const struct model_config *c = model_config(m);
    double head, products = model_flops(m, &head);
    double pairs = 0.5 * (double)n * (double)(n + 1); /* query, key */
    return products * (double)n + head + 4.0 * pairs * c->n_head * c->head_dim * c->n_layer;
}

double limits_step_s(struct model *m, const struct run_limits *l, enum dtype dtype, int n_seq,
                     double cache_bytes)
{
    if (l->read_rate <= 0)
        return 0;
    double head, products = model_flops(m, &head);
    double weights = 0.5 * (products + head) * (double)dtype_bytes(dtype);
    return (weights + n_seq * cache_bytes) / l->read_rate;
}
