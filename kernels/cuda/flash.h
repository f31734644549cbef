/* Attention of prompts over dense 16-bit keys and values: what the kernels of flash.cu and hopper.cu share.
 *
 * A block serves BLOCK_ROWS rows of one KV head of one sequence; a row is a (token, query head of the group)
 * pair, so the group shares what is read and only tiles near the block's own tokens need a mask. */
#ifndef KVS_KERNELS_CUDA_FLASH_H
#define KVS_KERNELS_CUDA_FLASH_H

#include "kernels/cuda/async.h"
#include "kernels/cuda/attend.h"
#include "kernels/cuda/mma.h"

#define FLASH_FAR  (1 << 30) /* beyond any distance; positions are less than half of it */
#define FLASH_LAZY 8.0f /* powers of two by which a row may exceed its reference before sums are rescaled */

/* Keys and values of consecutive positions: rows of Hk * d values. */
struct flash_piece {
    const uint16_t *k, *v;
    int32_t n, pos;
};
struct flash_set {
    const void *q;
    enum dtype q_dtype;
    int32_t from, to; /* its pieces */
    int32_t dist_min, dist_max;
};
struct flash_job {
    struct flash_piece piece[ATTEND_PIECES];
    struct flash_set set[2];
    void *out;
    enum dtype out_dtype;
    int32_t n_set, T, H, Hk, q_pos;
    float slope; /* scale * log2(e): probabilities are powers of two */
};

/* Can flash kernels do this sequence? `a` is one that the tiled kernel can do (tile_form_of). */
bool flash_fits(const struct attend_args *a);
/* n such sequences of one form (at most ATTEND_MOST). */
void flash_attend(struct cuda *c, enum tile_form form, const struct attend_args *a, int n);
/* hopper.cu: n jobs (on the device) of head dimension d; rows, heads: the most of any. */
void hopper_launch(struct cuda *c, enum tile_form form, const struct flash_job *dev, int n, int64_t rows,
                   int64_t heads, int64_t d);

/* The rows of a block, uniform over its threads. */
struct flash_block {
    int32_t h, g, row0, rows;    /* KV head, group, first row, rows of the sequence */
    int32_t first_pos, last_pos; /* positions of the first and the last token */
};
DEVICE struct flash_block flash_block_of(const struct flash_job *job, int32_t h, int32_t row0, int32_t n)
{
    struct flash_block b;
    b.h = h;
    b.g = job->H / job->Hk;
    b.row0 = row0;
    b.rows = job->T * b.g;
    int32_t last = row0 + n <= b.rows ? row0 + n - 1 : b.rows - 1;
    b.first_pos = job->q_pos + row0 / b.g;
    b.last_pos = job->q_pos + last / b.g;
    return b;
}
/* Where row `row` of the sequence lies in q and out, in values. */
DEVICE int64_t flash_row_at(const struct flash_job *job, const struct flash_block *b, int32_t row, int32_t d)
{
    return ((int64_t)(row / b->g) * job->H + b->h * b->g + row % b->g) * d;
}

/* A tile of keys; n = 0: there are no more. */
struct flash_tile {
    const uint16_t *k, *v;
    int32_t n, pos;
};
struct flash_walk {
    int32_t piece, row;
};

/* The set's next tile of at most MOST keys of which some row of the block may see some. */
template <int MOST>
DEVICE struct flash_tile flash_next(const struct flash_job *job, const struct flash_set *s,
                                    const struct flash_block *b, struct flash_walk *w, int32_t d)
{
    struct flash_tile t = {NULL, NULL, 0, 0};
    for (; w->piece < s->to; w->piece++, w->row = 0) {
        const struct flash_piece *p = &job->piece[w->piece];
        int32_t lo = b->first_pos - s->dist_max + 1 - p->pos, hi = b->last_pos - s->dist_min + 1 - p->pos;
        int32_t row = w->row > lo ? w->row : lo;
        hi = hi < p->n ? hi : p->n;
        if (row >= hi)
            continue;
        int64_t at = ((int64_t)row * job->Hk + b->h) * d;
        t.k = p->k + at;
        t.v = p->v + at;
        t.n = hi - row < MOST ? hi - row : MOST;
        t.pos = p->pos + row;
        w->row = row + t.n;
        return t;
    }
    return t;
}

/* Does every row of the block see all MOST keys of the tile? */
template <int MOST>
DEVICE bool flash_open(const struct flash_tile *t, const struct flash_set *s, const struct flash_block *b)
{
    return t->n == MOST && b->first_pos - (t->pos + MOST - 1) >= s->dist_min &&
           b->last_pos - t->pos < s->dist_max;
}

/* Keys lo..hi of the tile are seen from position pos. */
DEVICE void flash_range(const struct flash_tile *t, const struct flash_set *s, int32_t pos, int32_t *lo,
                        int32_t *hi)
{
    *lo = pos - t->pos - s->dist_max + 1;
    *hi = pos - t->pos - s->dist_min;
    *hi = *hi < t->n ? *hi : t->n - 1;
}

/* COUNT rows of the block from its row `first` on -> the same rows of a tile of ROWS rows of queries in the
 * unit's type, by THREADS threads. Rows behind the end repeat the last. */
template <bool BF16, int ROWS, int COUNT, int D, int THREADS>
DEVICE void flash_queries(char *tile, const struct flash_job *job, const struct flash_set *s,
                          const struct flash_block *b, int32_t first, int32_t me)
{
    const int CHUNKS = D / 8;
    bool same = s->q_dtype == (BF16 ? DT_BF16 : DT_F16);
    for (int32_t i = me; i < COUNT * CHUNKS; i += THREADS) {
        int32_t row = first + i / CHUNKS, chunk = i % CHUNKS, r = b->row0 + row;
        int64_t at = flash_row_at(job, b, r < b->rows ? r : b->rows - 1, D) + chunk * 8;
        uint4 x;
        if (same) {
            x = *(const uint4 *)(const void *)((const uint16_t *)s->q + at);
        } else {
            uint32_t pair[4];
#pragma unroll
            for (int e = 0; e < 4; e++)
                pair[e] = unit_pair<BF16>(load(s->q, s->q_dtype, at + 2 * e),
                                          load(s->q, s->q_dtype, at + 2 * e + 1));
            x.x = pair[0], x.y = pair[1], x.z = pair[2], x.w = pair[3];
        }
        *(uint4 *)(void *)(tile + tile_byte<ROWS>(row, chunk)) = x;
    }
}

/* Values of two neighbouring channels -> out. */
DEVICE void flash_store(const struct flash_job *job, int64_t at, float x, float y)
{
    if (job->out_dtype == DT_F32) {
        ((float *)job->out)[at] = x;
        ((float *)job->out)[at + 1] = y;
    } else {
        *(uint32_t *)(void *)((uint16_t *)job->out + at) =
            job->out_dtype == DT_BF16 ? unit_pair<true>(x, y) : unit_pair<false>(x, y);
    }
}

/* One row's reference (the largest score when it was set) and the sum of its powers over this thread's keys.
 */
struct flash_row {
    float m, l;
};

/* A tile's largest score of the row, of all threads that share it -> the factor for what was summed so far, 1
 * where the reference stays: sums may be large by 2^FLASH_LAZY, which f32 and the unit's types bear. */
DEVICE float flash_grow(struct flash_row *r, float top, float slope)
{
    float factor = 1.0f;
    if ((top - r->m) * slope > FLASH_LAZY) { // false for two infinities
        factor = unit_exp2((r->m - top) * slope);
        r->m = top;
        r->l *= factor;
    }
    return factor;
}
/* What is taken from a scaled score of the row: nothing as long as it has seen no key. */
DEVICE float flash_base(const struct flash_row *r, float slope)
{
    return r->m == -INFINITY ? 0.0f : r->m * slope;
}

#endif
