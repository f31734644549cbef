/* kvsweep bench kernels: the products of a model beside the rate of the product library alone. */
#include "base/clock.h"
#include "base/err.h"
#include "kernels/bench.h"
#include "sweep/bench.h"

/* Weights of one shape. On a GPU there are so many copies that its cache holds none until its turn comes. */
enum { COPIES = 64 };
struct shape {
    struct weight w[COPIES];
    int n;
};

/* Seconds of one product: the best of runs over all copies. */
static double time_product(struct ops *o, struct tensor y, struct tensor x, const struct shape *s)
{
    double best = 0, end = clock_now() + 0.3;
    for (int i = 0; i < 3 || clock_now() < end; i++) {
        double t = clock_now();
        for (int k = 0; k < s->n; k++)
            o->matmul(o, y, x, &s->w[k], NULL);
        o->sync(o);
        t = (clock_now() - t) / s->n;
        best = best == 0 || t < best ? t : best;
    }
    return best;
}

static int shape_open(struct bench *b, struct shape *s, int64_t n_out, int64_t n_in)
{
    struct ops *o = runner_ops(b->r);
    size_t bytes = o->pack_bytes(o, n_out, n_in, b->dtype), enough = (size_t)256 << 20;
    struct tensor src = {bench_random(o, n_out * n_in, b->dtype), b->dtype, {n_out, n_in, 1, 1}};
    int n = !bench_on_gpu(b) ? 1 : bytes * COPIES < enough ? COPIES : (int)((enough + bytes - 1) / bytes);
    *s = (struct shape){.n = 0};
    for (int i = 0; i < n && src.data; i++) {
        struct weight *w = &s->w[i];
        *w = (struct weight){.n_out = n_out, .n_in = n_in, .dtype = b->dtype, .bytes = bytes};
        w->packed = o->alloc(o, bytes, MEM_WEIGHTS, PLACE_DEVICE);
        if (!w->packed)
            break;
        o->pack(o, w, &src);
        s->n++;
    }
    o->free(o, src.data);
    return s->n == n && n ? o->sync(o)
                          : err_set(ERR_NOMEM, "no memory for products of %lld x %lld", (long long)n_out,
                                    (long long)n_in);
}

static void shape_close(struct bench *b, struct shape *s)
{
    struct ops *o = runner_ops(b->r);
    for (int i = 0; i < s->n; i++)
        o->free(o, s->w[i].packed);
}

/* Few rows on a GPU are bound by reading the weights, everything else by the product library's own rate. */
static void product_row(struct bench *b, const char *name, const struct weight *w, int64_t m, double s)
{
    char label[96];
    snprintf(label, sizeof label, "%s %lldx%lld, %lld rows", name, (long long)w->n_out, (long long)w->n_in,
             (long long)m);
    double flops = 2.0 * (double)m * (double)w->n_in * (double)w->n_out;
    if (bench_on_gpu(b) && m <= 32) {
        bench_row(b, label, 1e-9 * (double)w->bytes / s, "GB/s", 1e-9 * b->lim.read_rate,
                  "GB/s (device copy)");
        return;
    }
    const struct bench_product p = {m, w->n_in, w->n_out, 1};
    double limit = bench_on_gpu(b) ? bench_backend_product_rate(runner_ops(b->r), &p, 1, b->dtype)
                                   : bench_product_rate(&p, 1, b->dtype == DT_BF16 ? DT_BF16 : DT_F32,
                                                        runner_ops(b->r)->threads, 0.3);
    bench_row(b, label, 1e-9 * flops / s, "GFLOP/s", 1e-9 * limit, "GFLOP/s (library alone)");
}

static int bench_product_rows(struct bench *b, const char *name, int64_t n_out, int64_t n_in)
{
    static const int64_t rows[] = {1, 16, 20, 32, 512};
    struct ops *o = runner_ops(b->r);
    struct shape s;
    struct tensor x = {bench_random(o, 512 * n_in, o->act), o->act, {512, n_in, 1, 1}};
    struct tensor y = {
        o->alloc(o, (size_t)(512 * n_out) * 4, MEM_WORKSPACE, PLACE_DEVICE), o->act, {512, n_out, 1, 1}};
    int rc = shape_open(b, &s, n_out, n_in);
    if (rc == 0 && (!x.data || !y.data))
        rc = err_set(ERR_NOMEM, "no memory for product %s", name);
    for (int i = 0; i < 5 && rc == 0; i++) {
        int64_t m = rows[i];
        if (bench_on_gpu(b) || m == 1 || m == 16 || m == 512)
            product_row(b, name, &s.w[0], m,
                        time_product(o, tensor_rows(&y, 0, m), tensor_rows(&x, 0, m), &s));
    }
    shape_close(b, &s);
    o->free(o, x.data);
    o->free(o, y.data);
    return rc;
}

int bench_kernels(struct bench *b)
{
    struct model_cost c;
    model_config_cost(model_config(runner_model(b->r)), &c);
    bench_row(b, bench_on_gpu(b) ? "device copy" : "memory reads", 1e-9 * b->lim.read_rate, "GB/s", 0, "");
    for (int32_t i = 0; i < c.n_product; i++)
        if (i != c.head)
            TRY(bench_product_rows(b, c.product[i].name, c.product[i].n_out, c.product[i].n_in));
    return 0;
}
