/* The gated half of a block on AMX tiles, a piece of rows at a time from the norm to the residual: what lies
 * between the products stays in the core's own cache as bf16, which the products round it to anyway: the
 * result is that of the five steps, bit for bit where those use tiles too. */
#include <assert.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

#define PIECE_ROWS 256
#define PIECE_BYTES                                                                                          \
    (5 << 18)         /* of activations: they share the second-level cache with slices of the weights */
#define LEAST_ROWS 64 /* with fewer, weights pass by too often */
#define LINE_PAD   32 /* bf16: rows of a power of two would share few cache sets */

struct piece {
    int64_t rows, ldm; /* a multiple of 32; columns of mid */
    uint16_t *x, *mid; /* [rows,D], [rows,ldm] */
    float *norm, *room;
};

/* Arrays of one piece inside a thread's scratch; with base NULL only counts the bytes. */
static size_t lay_piece(struct piece *p, char *base, int64_t D, int64_t F)
{
    size_t at = 0;
    p->ldm = F + LINE_PAD;
#define LAY(member, count, type)                                                                             \
    (member = (type *)(void *)(base + at),                                                                   \
     at += (size_t)round_up((int64_t)((size_t)(count) * sizeof(type)), 64))
    LAY(p->room, (p->rows + 32) * 32, float);
    LAY(p->norm, D, float);
    LAY(p->x, p->rows * D, uint16_t);
    LAY(p->mid, p->rows * p->ldm, uint16_t);
#undef LAY
    return at;
}

/* Rows of one piece; 0 if the steps do better one by one. */
static int64_t piece_rows(const struct cpu *c, const struct mlp_args *a)
{
    int64_t T = a->x.n[0], D = a->gate_up->n_in, F = a->down->n_in;
    int64_t fit = PIECE_BYTES / (2 * (D + F)) / 32 * 32,
            share = round_up((T + c->ops.threads - 1) / c->ops.threads, 32);
    bool bf16 = a->gate_up->dtype == DT_BF16 && a->down->dtype == DT_BF16;
    if (!c->amx || !bf16 || D % 32 || F % PANEL || T < 32 || fit < LEAST_ROWS)
        return 0;
    return min_i64(min_i64(fit, share), PIECE_ROWS);
}

static void run_piece(const struct cpu *c, const struct mlp_args *a, const struct piece *p, int64_t t0)
{
    int64_t D = a->gate_up->n_in, F = a->down->n_in, n = min_i64(p->rows, a->x.n[0] - t0),
            m = round_up(n, 32);
    float *x = (float *)a->x.data + t0 * D;
    for (int64_t t = 0; t < n; t++) {
        c->isa->rmsnorm(p->norm, x + t * D, a->norm, D, a->eps, a->w_add);
        cpu_to_bf16(p->x + t * D, p->norm, D);
    }
    memset(p->x + n * D, 0, (size_t)((m - n) * D) * sizeof *p->x);
    cpu_amx_gated(p->mid, p->ldm, p->x, D, a->gate_up->packed, D, m, F, p->room);
    cpu_amx_add_product(x, D, n, p->mid, p->ldm, a->down->packed, F, D);
}

void cpu_mlp(struct ops *o, const struct mlp_args *a)
{
    struct cpu *c = o->impl;
    struct piece plan = {.rows = piece_rows(c, a)};
    int64_t T = a->x.n[0], D = a->gate_up->n_in, F = a->down->n_in;
    assert(a->gate_up->n_out == 2 * F && a->down->n_out == D && a->x.n[1] == D);
    if (plan.rows == 0) {
        ops_mlp(o, a);
        return;
    }
    size_t bytes = lay_piece(&plan, NULL, D, F);
    char *scratch = cpu_scratch(c, bytes);
    if (!scratch)
        return;
#pragma omp parallel num_threads(o->threads)
    {
        struct piece p = plan;
        lay_piece(&p, scratch + (size_t)omp_get_thread_num() * bytes, D, F);
        cpu_amx_start();
#pragma omp for schedule(dynamic)
        for (int64_t t = 0; t < T; t += p.rows)
            run_piece(c, a, &p, t);
        cpu_amx_stop();
    }
}
