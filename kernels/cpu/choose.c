/* Choosing keys by their scores and moving them: select in time proportional to the scores (by the digits of
 * their order), gather, and the sums behind the scores, spread over threads. */
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/score.h"

#define SMALL 16384 /* elements below which starting threads costs more than the work */

/* ------------------------------------------------------------------ select */

/* Whole numbers in the order of the floats; both zeros are equal. */
static uint32_t rank_of(float x)
{
    uint32_t u = f32_bits(x + 0.0f);
    return u & 0x80000000U ? ~u : u | 0x80000000U;
}

/* Means of the group's rows as ranks. */
static void rank_row(const struct select_args *a, int64_t row, uint32_t *rank)
{
    const float *score = a->score + row * a->group * a->score_ld;
    for (int64_t j = 0; j < a->n; j++) {
        float sum = score[j];
        for (int64_t g = 1; g < a->group; g++)
            sum += score[g * a->score_ld + j];
        rank[j] = rank_of(sum / (float)a->group);
    }
}

/* One digit: the value v of (rank >> shift) under which the kth largest of n lies; *k becomes its place among
 * those with that digit, which go to `left` (may be `rank`). Returns their number. Two tables: neighbours
 * often have the same digit. */
static int64_t narrow(uint32_t *left, const uint32_t *rank, int64_t n, int shift, uint32_t mask, int64_t *k)
{
    uint32_t count[2][2048] = {{0}, {0}}, v = mask, few;
    int64_t m = 0, j = 0;
    for (; j + 2 <= n; j += 2) {
        count[0][rank[j] >> shift & mask]++;
        count[1][rank[j + 1] >> shift & mask]++;
    }
    if (j < n)
        count[0][rank[j] >> shift & mask]++;
    while ((few = count[0][v] + count[1][v]) < *k) {
        *k -= few;
        v--;
    }
    for (j = 0; j < n; j++) {
        left[m] = rank[j];
        m += (rank[j] >> shift & mask) == v;
    }
    return m;
}

/* The kth largest rank (k from 1); *ties: how many of that rank are among the k largest. work [n+1]. */
static uint32_t threshold(const uint32_t *rank, uint32_t *work, int64_t n, int64_t k, int64_t *ties)
{
    n = narrow(work, rank, n, 21, 2047, &k);
    n = narrow(work, work, n, 10, 2047, &k);
    narrow(work, work, n, 0, 1023, &k);
    *ties = k;
    return work[0];
}

/* chosen[j]: rank above `limit`, or one of the first `ties` of that rank. */
static void mark(const uint32_t *rank, int64_t n, uint32_t limit, int64_t ties, uint8_t *chosen)
{
    for (int64_t j = 0; j < n; j++)
        chosen[j] = rank[j] > limit;
    for (int64_t j = 0; ties && j < n; j++) {
        if (rank[j] != limit)
            continue;
        chosen[j] = 1;
        ties--;
    }
}

static void select_row(const struct select_args *a, int64_t row, uint32_t *rank, uint8_t *chosen)
{
    float *score = a->score + row * a->group * a->score_ld;
    uint32_t *work = rank + a->n, limit = UINT32_MAX;
    int64_t ties = 0, all = a->n + a->tail, m = 0;
    rank_row(a, row, rank);
    if (a->k > 0)
        limit = threshold(rank, work, a->n, a->k, &ties);
    mark(rank, a->n, limit, ties, chosen);
    memset(chosen + a->n, 1, (size_t)a->tail);
    for (int64_t j = 0; a->index && j < all; j++)
        if (chosen[j])
            a->index[row * a->index_ld + m++] = (int32_t)j;
    const float rest = a->bar_rest ? -INFINITY : 0.0f;
    for (int64_t g = 0; (a->zero_rest || a->bar_rest) && g < a->group; g++)
        for (int64_t j = 0; j < a->n; j++)
            score[g * a->score_ld + j] = chosen[j] ? score[g * a->score_ld + j] : rest;
    if (a->keep)
        memcpy(a->keep + row * a->keep_ld, chosen, (size_t)all);
}

void cpu_select(struct ops *o, const struct select_args *args, int n)
{
    struct cpu *c = o->impl;
    for (int i = 0; i < n; i++) {
        const struct select_args *a = &args[i];
        assert(a->k <= a->n && a->group >= 1 && a->n < UINT32_MAX);
        size_t bytes = (size_t)round_up(a->n * 9 + a->tail + 4, 64);
        char *scratch = cpu_scratch(c, bytes);
        if (!scratch)
            return;
#pragma omp parallel for num_threads(o->threads) if (a->rows * a->n > SMALL)
        for (int64_t row = 0; row < a->rows; row++) {
            char *mine = scratch + (size_t)omp_get_thread_num() * bytes;
            select_row(a, row, (uint32_t *)(void *)mine, (uint8_t *)mine + a->n * 8 + 4);
        }
    }
}

/* ------------------------------------------------------------------ gather */

/* Head h of row m. In place a row moves down to a place whose own row has been moved already. */
static void gather_row(const struct gather_args *a, int64_t m, int64_t h)
{
    int64_t H = a->dst.n[1], Hk = a->src.n[1];
    size_t size = (size_t)a->src.n[2] * dtype_bytes(a->src.dtype);
    int64_t from = a->index[h / (H / a->rows) * a->index_ld + m] * Hk + h / (H / Hk), to = m * H + h;
    assert(from < a->src.n[0] * Hk);
    char *dst = (char *)a->dst.data + (size_t)to * size;
    const char *src = (const char *)a->src.data + (size_t)from * size;
    if (src != dst)
        memcpy(dst, src, size);
}

void cpu_gather(struct ops *o, const struct gather_args *args, int n)
{
    for (int i = 0; i < n; i++) {
        const struct gather_args *a = &args[i];
        int64_t M = a->dst.n[0], H = a->dst.n[1];
        bool in_place = a->dst.data == a->src.data, big = M * H * a->src.n[2] > SMALL;
        assert(H % a->src.n[1] == 0 && H % a->rows == 0 && a->src.dtype == a->dst.dtype);
        if (in_place) { /* heads do not touch each other's rows */
#pragma omp parallel for num_threads(o->threads) if (big)
            for (int64_t h = 0; h < H; h++)
                for (int64_t m = 0; m < M; m++)
                    gather_row(a, m, h);
            continue;
        }
#pragma omp parallel for num_threads(o->threads) if (big)
        for (int64_t m = 0; m < M; m++)
            for (int64_t h = 0; h < H; h++)
                gather_row(a, m, h);
    }
}

/* ------------------------------------------------------------------ sums */

#define SUM_COLUMNS 512 /* columns of one item: their sums stay in the first-level cache */

void cpu_mean(struct ops *o, struct tensor out, struct tensor x)
{
    const struct cpu *c = o->impl;
    int64_t T = x.n[0], D = x.n[1] * x.n[2];
    size_t size = dtype_bytes(x.dtype);
#pragma omp parallel for num_threads(o->threads) if (T * D > SMALL)
    for (int64_t i = 0; i < D; i += SUM_COLUMNS) {
        float *y = (float *)out.data + i;
        int64_t n = min_i64(SUM_COLUMNS, D - i);
        memset(y, 0, (size_t)n * sizeof *y);
        for (int64_t t = 0; t < T; t++)
            c->isa->sum_rows(y, (const char *)x.data + (size_t)(t * D + i) * size, x.dtype, n);
        for (int64_t j = 0; j < n; j++)
            y[j] /= (float)T;
    }
}

void cpu_dots(struct ops *o, float *out, struct tensor rows, const float *x)
{
    const struct cpu *c = o->impl;
    int64_t N = rows.n[0], D = rows.n[1] * rows.n[2] * rows.n[3];
    size_t size = (size_t)D * dtype_bytes(rows.dtype);
#pragma omp parallel for num_threads(o->threads) if (N * D > SMALL)
    for (int64_t n = 0; n < N; n++)
        out[n] = c->isa->dot((const char *)rows.data + (size_t)n * size, rows.dtype, x, D);
}

void cpu_norms(struct ops *o, float *out, int64_t ld, struct tensor x, float factor)
{
    const struct cpu *c = o->impl;
    int64_t T = x.n[0], H = x.n[1], d = x.n[2];
    assert(d <= CPU_MAX_D);
#pragma omp parallel for num_threads(o->threads) if (T * H * d > SMALL)
    for (int64_t t = 0; t < T; t++) {
        for (int64_t h = 0; h < H; h++) {
            float y[CPU_MAX_D];
            const char *row = (const char *)x.data + (size_t)((t * H + h) * d) * dtype_bytes(x.dtype);
            c->isa->to_f32(y, row, x.dtype, d);
            out[h * ld + t] = norm_rounded(factor * sqrtf(c->isa->dot(y, DT_F32, y, d)));
        }
    }
}
