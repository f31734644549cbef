#include "run/limits.h"

#include "kernels/bench.h"
#include "run/runner.h"

static double better(double a, double b)
{
    return a > b ? a : b;
}

double limits_product_rate(struct runner *r, int64_t rows)
{
    struct model_cost c;
    struct bench_product p[sizeof c.product / sizeof c.product[0]];
    int n = 0;
    model_config_cost(model_config(r->model), &c);
    for (int32_t i = 0; i < c.n_product; i++)
        if (i != c.head)
            p[n++] = (struct bench_product){rows, c.product[i].n_in, c.product[i].n_out, c.product[i].count};
    enum dtype t = r->m.dtype;
    if (!r->ops->on_host)
        return bench_backend_product_rate(r->ops, p, n, t);
    return bench_product_rate(p, n, t == DT_BF16 ? DT_BF16 : DT_F32, r->ops->threads, 1.0);
}

void runner_limits_again(struct runner *r, struct run_limits *l)
{
    double memory = r->ops->on_host ? bench_read_rate(r->ops->threads) : bench_copy_rate(r->ops);
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
    struct model_cost c;
    struct seq_shape shape;
    double head, products;
    model_config_cost(model_config(m), &c);
    model_config_shape(model_config(m), DT_F32, NULL, &shape);
    products = cost_flops(&c, &head);
    return products * (double)n + head + shape_mix_flops(&shape, 0, n);
}

double limits_step_s(struct model *m, const struct run_limits *l, enum dtype dtype, int n_seq,
                     double cache_bytes)
{
    if (l->read_rate <= 0)
        return 0;
    struct model_cost c;
    model_config_cost(model_config(m), &c);
    return (cost_step_bytes(&c, dtype) + n_seq * cache_bytes) / l->read_rate;
}
