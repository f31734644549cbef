/* Inside of attention: attend.c (chunks of rows), rows.c (single rows), attn_scores.c (sums per key). */
#ifndef KVS_KERNELS_CPU_ATTEND_H
#define KVS_KERNELS_CPU_ATTEND_H

#include "kernels/cpu/cpu.h"

#define ATTEND_SPAN 4 /* most query blocks of one item */

/* One call on a chunk of rows. */
struct chunk {
    struct cpu *c;
    const struct attend_args *a;
    int64_t T, H, d, Hk, g; /* g query heads per kv head */
    int64_t heads;          /* of one item */
    int64_t parts;          /* items per kv head and query block */
    int64_t Tq, blocks;     /* tokens of one query block; number of query blocks */
    int64_t span;           /* query blocks of one item */
    bool half;              /* bf16 products; logarithms to base 2 */
    int64_t Tp;             /* T rounded up to SCORE_ROWS */
    float *lse;             /* [H,Tp] log of the sum of exp of a row's scores, -CPU_HIDDEN where none is
                               visible; NULL: no attention scores wanted */
};

static inline int64_t row_pos(const struct kv_run *run, int64_t r)
{
    return run->pos + (run->index ? run->index[r] : r);
}

/* The keep list of a query head of a set, NULL if there is none. */
static inline const uint8_t *keep_row(const struct attend_set *s, int64_t head)
{
    return s->keep ? s->keep + head / (s->q.n[1] / s->keep_rows) * s->keep_ld : NULL;
}

static inline bool wants_attn_scores(const struct attend_args *a)
{
    bool wanted = false;
    for (int s = 0; s < a->n_set; s++)
        wanted = wanted || a->set[s].attn_scores;
    return wanted;
}

/* Rows r..r+n of a run as they lie in bf16 (row stride Hk*d), NULL if they do not. */
const void *attend_bf16_rows(const struct kv_run *run, int64_t r, int64_t n, const struct chunk *k,
                             int32_t h);

void attend_rows(struct cpu *c, const struct attend_args *a, int n); /* those with fewer than DECODE_ROWS */
/* Adds to the attention scores of one chunk, whose lse is complete. */
void attend_attn_scores(const struct chunk *k);

#endif
