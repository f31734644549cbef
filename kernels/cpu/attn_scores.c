/* What keys were given by a chunk of rows: with the logarithm of each row's sum known from the attention
 * itself, scores are computed once more, block of keys by block of keys, and every key adds up its share
 * exp(score - lse). Items are blocks of keys, so each attention score belongs to one of them and the rows
 * come in order. Here keys are the lanes: nothing is summed across lanes. */
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/attend.h"

/* The attention scores of one set. */
struct sweep {
    const struct chunk *k;
    const struct attend_set *s;
    void *q; /* scaled queries, [H,Tp,d] f32 or [H,Tp,dp] bf16; rows from T are zero */
    int64_t dp;
    int64_t first[ATTEND_RUNS + 1]; /* blocks of earlier runs */
};

/* Working memory of a thread. */
struct space {
    float *rows, *S, *sum;
    void *K;
    int32_t *lo, *hi;
};

static size_t lay_space(struct space *p, char *base, int64_t d)
{
    size_t at = 0;
    int64_t dp = round_up(d, 32);
#define LAY(member, count, type)                                                                             \
    (member = (type *)(void *)(base + at),                                                                   \
     at += (size_t)round_up((int64_t)((size_t)(count) * sizeof(type)), 64))
    LAY(p->rows, BLOCK_KEYS * d, float);
    LAY(p->K, BLOCK_KEYS * dp, float);
    LAY(p->S, SCORE_ROWS * 32, float); /* also 8 rows of BLOCK_KEYS */
    LAY(p->sum, BLOCK_KEYS, float);
    LAY(p->lo, BLOCK_KEYS, int32_t);
    LAY(p->hi, BLOCK_KEYS, int32_t);
#undef LAY
    return at;
}

static void load_query(const struct sweep *w, int64_t t)
{
    const struct chunk *k = w->k;
    float scaled[CPU_MAX_D] = {0};
    for (int64_t h = 0; h < k->H; h++) {
        int64_t row = h * k->Tp + t;
        if (t < k->T) {
            memcpy(scaled, (const float *)w->s->q.data + (t * k->H + h) * k->d,
                   (size_t)k->d * sizeof *scaled);
            k->c->isa->scale(scaled, k->half ? k->a->scale * 1.44269504f : k->a->scale, k->d);
        }
        if (k->half)
            cpu_to_bf16((uint16_t *)w->q + row * w->dp, scaled, w->dp);
        else
            memcpy((float *)w->q + row * k->d, scaled, (size_t)k->d * sizeof *scaled);
    }
}

/* Keys of a block as lanes. */
static void load_keys(const struct sweep *w, const struct kv_run *run, int64_t r, int64_t n, int32_t h,
                      struct space *p)
{
    const struct chunk *k = w->k;
    const void *rows = k->half ? attend_bf16_rows(run, r, n, k, h) : NULL;
    int64_t ld = rows ? k->Hk * k->d : k->d;
    size_t size = rows ? 2 : 4;
    if (!rows) {
        k->c->isa->kv_rows(p->rows, run, r, n, h, (int32_t)k->Hk, k->d);
        rows = p->rows;
    }
    for (int64_t j = 0; k->half && j < BLOCK_KEYS; j += 16)
        cpu_pack_keys16((uint16_t *)p->K + j / 32 * 32 * w->dp + j % 32 * 2, w->dp,
                        (const char *)rows + (size_t)(min_i64(j, n) * ld) * size, ld, n - j, k->d,
                        size == 2 ? DT_BF16 : DT_F32);
    if (k->half)
        return;
    memset(p->K, 0, (size_t)(BLOCK_KEYS * k->d) * sizeof(float));
    for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < k->d; c++)
            ((float *)p->K)[c * BLOCK_KEYS + j] = p->rows[j * k->d + c];
}

/* Rows that see some key of a block, and those that see all of them. */
struct seen {
    int64_t any0, any1, all0, all1;
};

static struct seen seen_by(const struct sweep *w, const struct kv_run *run, int64_t r, int64_t n,
                           const struct space *p)
{
    struct seen x = {w->k->T, 0, 0, w->k->T};
    for (int64_t j = 0; j < BLOCK_KEYS; j++) {
        p->lo[j] = p->hi[j] = 0;
        if (j >= n)
            continue;
        int64_t base = row_pos(run, r + j) - w->k->a->q_pos; /* distance = t - base */
        int64_t lo = min_i64(max_i64(base + w->s->dist_min, 0), w->k->T);
        int64_t hi = max_i64(min_i64(base + w->s->dist_max, w->k->T), lo);
        p->lo[j] = (int32_t)lo;
        p->hi[j] = (int32_t)hi;
        if (lo < hi) {
            x.any0 = min_i64(x.any0, lo);
            x.any1 = max_i64(x.any1, hi);
        }
        x.all0 = max_i64(x.all0, lo);
        x.all1 = min_i64(x.all1, hi);
    }
    return x;
}

/* One query head against the loaded block. */
static void sweep_head(const struct sweep *w, const struct space *p, struct seen see, int64_t head)
{
    const struct chunk *k = w->k;
    size_t row = k->half ? (size_t)w->dp * 2 : (size_t)k->d * 4;
    memset(p->sum, 0, BLOCK_KEYS * sizeof *p->sum);
    for (int64_t t = see.any0 / SCORE_ROWS * SCORE_ROWS; t < see.any1; t += SCORE_ROWS) {
        bool all = t >= see.all0 && min_i64(t + SCORE_ROWS, k->T) <= see.all1;
        struct attn_scores_block b = {.d = k->d,
                                      .t0 = t,
                                      .q = (const char *)w->q + (size_t)(head * k->Tp + t) * row,
                                      .K = p->K,
                                      .lse = k->lse + head * k->Tp + t,
                                      .S = p->S,
                                      .lo = all ? NULL : p->lo,
                                      .hi = p->hi,
                                      .sum = p->sum};
        if (k->half)
            cpu_attn_scores16(&b, k->c->amx ? cpu_scores_amx : cpu_scores_bf16);
        else
            k->c->isa->attn_scores_rows(&b);
    }
}

static void add_sums(const struct sweep *w, const float *sum, int64_t head, int64_t at, int64_t n)
{
    const uint8_t *keep = keep_row(w->s, head);
    float *attn_scores = w->s->attn_scores + head * w->s->attn_scores_ld;
    for (int64_t j = 0; j < n; j++)
        if (!keep || keep[at + j])
            attn_scores[at + j] += sum[j];
}

static bool any_kept(const struct attend_set *s, int64_t head, int64_t at, int64_t n)
{
    const uint8_t *keep = keep_row(s, head);
    bool any = !keep;
    for (int64_t j = 0; j < n && !any; j++)
        any = keep[at + j];
    return any;
}

/* Block i of one kv head. */
static void sweep_block(const struct sweep *w, int64_t i, int32_t h, char *scratch)
{
    struct space p;
    lay_space(&p, scratch, w->k->d);
    int64_t run = 0, at = 0;
    while (i >= w->first[run + 1])
        at += w->s->k[run++].n;
    int64_t r = (i - w->first[run]) * BLOCK_KEYS, n = min_i64(BLOCK_KEYS, w->s->k[run].n - r);
    struct seen see = seen_by(w, &w->s->k[run], r, n, &p);
    bool loaded = false;
    for (int64_t head = h * w->k->g; head < (h + 1) * w->k->g; head++) {
        if (see.any0 >= see.any1 || !any_kept(w->s, head, at + r, n))
            continue;
        if (!loaded)
            load_keys(w, &w->s->k[run], r, n, h, &p);
        loaded = true;
        sweep_head(w, &p, see, head);
        add_sums(w, p.sum, head, at + r, n);
    }
}

static void sweep_set(const struct sweep *w, char *scratch, size_t bytes)
{
    const struct chunk *k = w->k;
    bool amx = k->half && k->c->amx;
    int64_t blocks = w->first[w->s->n_k];
#pragma omp parallel num_threads(k->c->ops.threads)
    {
        if (amx)
            cpu_amx_start();
#pragma omp for schedule(static)
        for (int64_t t = 0; t < k->Tp; t++)
            load_query(w, t);
#pragma omp for schedule(dynamic) collapse(2)
        for (int64_t i = 0; i < blocks; i++)
            for (int32_t h = 0; h < k->Hk; h++)
                sweep_block(w, i, h, scratch + (size_t)omp_get_thread_num() * bytes);
        if (amx)
            cpu_amx_stop();
    }
}

void attend_attn_scores(const struct chunk *k)
{
    struct space p;
    size_t bytes = lay_space(&p, NULL, k->d);
    struct sweep w = {.k = k, .dp = round_up(k->d, 32)};
    size_t row = k->half ? (size_t)w.dp * 2 : (size_t)k->d * 4;
    char *scratch = cpu_scratch(k->c, bytes);
    if (!scratch || !host_grow(&k->c->host, &k->c->attn_scores_q, (size_t)(k->H * k->Tp) * row))
        return;
    w.q = k->c->attn_scores_q.data;
    for (int s = 0; s < k->a->n_set; s++) {
        w.s = &k->a->set[s];
        for (int i = 0; i < w.s->n_k; i++)
            w.first[i + 1] = w.first[i] + (w.s->k[i].n + BLOCK_KEYS - 1) / BLOCK_KEYS;
        if (w.s->attn_scores)
            sweep_set(&w, scratch, bytes);
    }
}
