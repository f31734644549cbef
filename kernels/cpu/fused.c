/* Products with what comes before and after them, on AMX tiles: a piece of rows at a time from the norm to
 * the residual. What lies between stays in the core's own cache as bf16, which products round it to anyway:
 * the result is that of the single steps, bit for bit where those use tiles too. */
#include <assert.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define MOST_ROWS  256
#define LEAST_ROWS 64 /* with fewer, weights pass by too often */
#define PIECE_BYTES                                                                                          \
    (5 << 18) /* of activations: they share the second-level cache with slices of the weights */
#define WEIGHT_BYTES (16 << 20) /* every piece reads all weights: from the last-level cache at worst */
#define LINE_PAD     32         /* columns of mid: rows of a power of two would share few cache sets */

/* Room of a thread for one piece. */
struct piece {
    int64_t rows, ldm; /* a multiple of 32; columns of mid */
    uint16_t *x, *mid; /* bf16 [rows,K], [rows,ldm] */
    float *norm;       /* [K] */
    float *corners;    /* [rows + 32,32] */
};

/* One of the operations: rows t0.., n of them. */
struct fused {
    int64_t T, K, F; /* rows; columns of the first product's x, of mid (0: none) */
    size_t weights;  /* bytes */
    const void *args;
    void (*run)(const struct cpu *c, const void *args, const struct piece *p, int64_t t0, int64_t n);
};

/* Arrays of one piece inside a thread's scratch; with base NULL only counts the bytes. */
static size_t lay_piece(struct piece *p, char *base, const struct fused *f)
{
    size_t at = 0;
    p->ldm = f->F + LINE_PAD;
#define LAY(member, count, type)                                                                             \
    (member = (type *)(void *)(base + at),                                                                   \
     at += (size_t)round_up((int64_t)((size_t)(count) * sizeof(type)), 64))
    LAY(p->corners, (p->rows + 32) * 32, float);
    LAY(p->norm, f->K, float);
    LAY(p->x, p->rows * f->K, uint16_t);
    LAY(p->mid, f->F ? p->rows * p->ldm : 0, uint16_t);
#undef LAY
    return at;
}

/* Rows of a piece; 0 if the steps do better one by one. */
static int64_t piece_rows(const struct cpu *c, const struct fused *f)
{
    int64_t fit = PIECE_BYTES / (2 * (f->K + f->F)) / 32 * 32;
    int64_t share = round_up((f->T + c->ops.threads - 1) / c->ops.threads, 32);
    if (!c->amx || f->T < 32 || fit < LEAST_ROWS || f->weights > WEIGHT_BYTES)
        return 0;
    return min_i64(min_i64(fit, share), MOST_ROWS);
}

/* False if the steps must go one by one. */
static bool run_fused(struct cpu *c, const struct fused *f)
{
    struct piece plan = {.rows = piece_rows(c, f)};
    if (plan.rows == 0)
        return false;
    size_t bytes = lay_piece(&plan, NULL, f);
    char *scratch = cpu_scratch(c, bytes);
    if (!scratch)
        return true; /* latched */
#pragma omp parallel num_threads(c->ops.threads)
    {
        struct piece p = plan;
        lay_piece(&p, scratch + (size_t)omp_get_thread_num() * bytes, f);
        cpu_amx_start();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < f->T; t += p.rows)
            f->run(c, f->args, &p, t, min_i64(p.rows, f->T - t));
        cpu_amx_stop();
    }
    return true;
}

/* p->x <- n rows of x (normed with w, unless that is NULL), up to a multiple of 32 */
static void load_rows(const struct cpu *c, const struct piece *p, const float *x, int64_t n, int64_t K,
                      const float *w, float eps, float w_add)
{
    for (int64_t t = 0; t < n; t++, x += K) {
        if (w)
            c->isa->rmsnorm(p->norm, x, w, K, eps, w_add);
        cpu_to_bf16(p->x + t * K, w ? p->norm : x, K);
    }
    memset(p->x + n * K, 0, (size_t)((round_up(n, 32) - n) * K) * sizeof *p->x);
}

/* ------------------------------------------------------------------ the operations */

static int64_t out_columns(const struct tensor *out)
{
    return out->n[1] * out->n[2];
}

static void run_project(const struct cpu *c, const void *args, const struct piece *p, int64_t t0, int64_t n)
{
    const struct project_args *a = args;
    int64_t K = a->w->n_in, col = 0;
    load_rows(c, p, (const float *)a->x.data + t0 * K, n, K, a->norm, a->eps, a->w_add);
    for (int i = 0; i < a->n_out; i++) {
        int64_t N = out_columns(&a->out[i]);
        float *y = (float *)a->out[i].data + t0 * N;
        cpu_amx_product_rows(y, N, n, p->x, K, a->w->packed, K, col, N, p->corners);
        for (int64_t t = 0; a->bias && t < n; t++)
            c->isa->add(y + t * N, a->bias + col, N);
        col += N;
    }
}

void cpu_project(struct ops *o, const struct project_args *a)
{
    struct fused f = {.T = a->x.n[0], .K = a->w->n_in, .weights = a->w->bytes, .args = a, .run = run_project};
    bool fits = a->w->dtype == DT_BF16 && f.K % 32 == 0;
    int64_t columns = 0;
    for (int i = 0; i < a->n_out; i++) {
        columns += out_columns(&a->out[i]);
        fits = fits && columns % 32 == 0;
    }
    assert(columns == a->w->n_out);
    if (!fits || !run_fused(o->impl, &f))
        ops_project(o, a);
}

struct add_args {
    float *x;
    const float *y;
    const struct weight *w;
};

static void run_add(const struct cpu *c, const void *args, const struct piece *p, int64_t t0, int64_t n)
{
    const struct add_args *a = args;
    int64_t K = a->w->n_in, N = a->w->n_out;
    load_rows(c, p, a->y + t0 * K, n, K, NULL, 0, 0);
    cpu_amx_add_product(a->x + t0 * N, N, n, p->x, K, a->w->packed, K, N);
}

void cpu_matmul_add(struct ops *o, struct tensor x, struct tensor y, const struct weight *w,
                    const float *bias, struct tensor h)
{
    const struct add_args a = {x.data, y.data, w};
    struct fused f = {.T = x.n[0], .K = w->n_in, .weights = w->bytes, .args = &a, .run = run_add};
    assert(x.n[1] == w->n_out && y.n[1] == w->n_in);
    bool fits = w->dtype == DT_BF16 && f.K % 32 == 0 && w->n_out % 32 == 0 && !bias;
    if (!fits || !run_fused(o->impl, &f))
        ops_matmul_add(o, x, y, w, bias, h);
}

static void run_mlp(const struct cpu *c, const void *args, const struct piece *p, int64_t t0, int64_t n)
{
    const struct mlp_args *a = args;
    int64_t D = a->gate_up->n_in, F = a->down->n_in;
    float *x = (float *)a->x.data + t0 * D;
    load_rows(c, p, x, n, D, a->norm, a->eps, a->w_add);
    cpu_amx_gated(p->mid, p->ldm, p->x, D, a->gate_up->packed, D, round_up(n, 32), F, p->corners);
    cpu_amx_add_product(x, D, n, p->mid, p->ldm, a->down->packed, F, D);
}

void cpu_mlp(struct ops *o, const struct mlp_args *a)
{
    struct fused f = {.T = a->x.n[0],
                      .K = a->gate_up->n_in,
                      .F = a->down->n_in,
                      .weights = a->gate_up->bytes + a->down->bytes,
                      .args = a,
                      .run = run_mlp};
    assert(a->gate_up->n_out == 2 * f.F && a->down->n_out == f.K && a->x.n[1] == f.K);
    bool bf16 = a->gate_up->dtype == DT_BF16 && a->down->dtype == DT_BF16;
    if (!bf16 || f.K % 32 || f.F % PANEL || !run_fused(o->impl, &f))
        ops_mlp(o, a);
}
