/* Attention in parts: the plain kernel (every feature), attention scores, and the kernels on matrix units. */
#ifndef KVS_KERNELS_CUDA_ATTEND_H
#define KVS_KERNELS_CUDA_ATTEND_H

#include "kernels/cuda/cuda.h"

#define ATTEND_MOST 256 /* sequences of one launch */
/* Pieces of all sets of a sequence: its runs of keys, cut where those of values end. */
#define ATTEND_PIECES (2 * (2 * ATTEND_RUNS - 1))

/* Which of the tiled kernel's forms can do this sequence; TILE_NONE: the plain kernel does it. */
enum tile_form { TILE_NONE, TILE_F16, TILE_BF16 };
enum tile_form tile_form_of(const struct attend_args *a);
/* n sequences of one form (at most ATTEND_MOST). */
void tile_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n);
/* decode.cu, for few rows: `a` is one that the tiled kernel can do. */
bool decode_fits(const struct attend_args *a, enum tile_form form);
void decode_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n);
/* The attention scores of n sequences (those that want some). */
void attn_scores_run(struct cuda *c, const struct attend_args *a, int n);

BOTH int64_t attend_keys(const struct attend_set *s)
{
    int64_t n = 0;
    for (int i = 0; i < s->n_k; i++)
        n += s->k[i].n;
    return n;
}

/* The run that holds key j of a list of runs, and its row there. */
BOTH const struct kv_run *run_of(const struct kv_run *run, int64_t j, int64_t *row)
{
    while (j >= run->n) {
        j -= run->n;
        run++;
    }
    *row = j;
    return run;
}

/* Key j of a set: the runs of its key and its value, their rows there, and how many keys from it on lie in
 * these two runs. */
struct attend_place {
    const struct kv_run *k, *v;
    int64_t k_row, v_row, n;
};
BOTH struct attend_place attend_find(const struct attend_set *s, int64_t j)
{
    struct attend_place at;
    at.k = run_of(s->k, j, &at.k_row);
    at.v = run_of(s->v, j, &at.v_row);
    int64_t n_k = at.k->n - at.k_row, n_v = at.v->n - at.v_row;
    at.n = n_k < n_v ? n_k : n_v;
    return at;
}

/* A distance in 32 bits: `far` lies beyond any that occurs. */
BOTH int32_t cut_distance(int64_t x, int32_t far)
{
    return (int32_t)(x > far ? far : x < -far ? -far : x);
}

/* Is key j of the set (row r of run k) visible to head `head` at position pos? */
DEVICE bool attend_visible(const struct attend_set *s, const struct kv_run *k, int64_t r, int64_t j,
                           int64_t head, int64_t pos)
{
    int64_t dist = pos - (k->pos + (k->index ? k->index[r] : r));
    if (dist < s->dist_min || dist >= s->dist_max)
        return false;
    return !s->keep || s->keep[head / (s->q.n[1] / s->keep_rows) * s->keep_ld + j];
}

/* The scaled logit of key row r of KV head h for query q [d]. */
DEVICE float attend_logit(const struct attend_args *a, const struct kv_run *k, int64_t r, const float *q,
                          int64_t h, int64_t d)
{
    float x = 0.0f;
    for (int64_t c = 0; c < d; c++)
        x = fmaf(q[c], run_value(k, r, h, c, a->n_kv_head, d), x);
    return a->f16_attn_scores ? half_round(half_round(x) * a->scale) : x * a->scale;
}

#endif
