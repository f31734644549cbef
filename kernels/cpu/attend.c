/* Attention: cuts the work into items. Chunks of rows go block by block (query block x key block, online
 * softmax, nothing of size T x N); single rows go to rows.c. Which keys belong to an item depends on the
 * shapes only. */
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/attend.h"
#include "kernels/score.h"

/* Copies rows at..at+n, counted over all runs of one side, as f32. */
static void gather(const struct cpu *c, const struct kv_run *runs, int32_t n_runs, int64_t at, int64_t n,
                   int32_t h, int32_t n_head, int64_t d, float *dst)
{
    for (int32_t i = 0; i < n_runs && n > 0; at -= runs[i].n, i++) {
        if (at >= runs[i].n)
            continue;
        int64_t count = min_i64(n, runs[i].n - at);
        c->isa->kv_rows(dst, &runs[i], at, count, h, n_head, d);
        dst += count * d;
        n -= count;
        at += count;
    }
    assert(n == 0);
}

/* ------------------------------------------------------------------ chunks of rows */

/* Products in bf16 are twice to sixteen times as fast and round to 8 bits what they multiply: keys and values
 * that hold more than that (f16: 11 bits, and codes that stand for such) are multiplied as f32. */
static bool all_bf16(const struct attend_args *a)
{
    bool all = true;
    for (int s = 0; s < a->n_set; s++) {
        for (int i = 0; i < a->set[s].n_k; i++)
            all = all && a->set[s].k[i].dtype == DT_BF16;
        for (int i = 0; i < a->set[s].n_v; i++)
            all = all && a->set[s].v[i].dtype == DT_BF16;
    }
    return all;
}

static bool any_codes(const struct attend_args *a)
{
    bool found = false;
    for (int s = 0; s < a->n_set; s++)
        for (int i = 0; i < a->set[s].n_k; i++)
            found = found || a->set[s].k[i].layout != QUANT_NONE;
    return found;
}

/* One item: query blocks of one or more heads of a kv head that read the same keys. */
struct span {
    struct attend_block b[ATTEND_SPAN]; /* they share keys, values, scores and weights */
    int32_t *row_t[ATTEND_SPAN];
    int64_t t0[ATTEND_SPAN]; /* first tokens */
    int64_t head0;
    int32_t *lo, *hi, n; /* n blocks */
};

/* Arrays of one item inside a thread's scratch; with base NULL only counts the bytes. */
static size_t span_lay(struct span *p, char *base, int64_t R, int64_t d)
{
    size_t at = 0;
    int64_t dp = round_up(d, 32);
#define LAY(member, count, type)                                                                             \
    (member = (type *)(void *)(base ? base + at : NULL),                                                     \
     at += (size_t)round_up((int64_t)((size_t)(count) * sizeof(type)), 64))
    struct attend_block b = {.R = R, .d = d, .dp = dp};
    LAY(b.S, (BLOCK_KEYS + 8) * max_i64(R, 32), float);
    LAY(b.K, (BLOCK_KEYS + 8) * d, float);
    LAY(b.V, (BLOCK_KEYS + 8) * d, float);
    LAY(b.P16, BLOCK_KEYS * 32, uint16_t);
    LAY(b.K16, BLOCK_KEYS * dp, uint16_t);
    LAY(b.V16, BLOCK_KEYS * dp, uint16_t);
    LAY(p->lo, BLOCK_KEYS, int32_t);
    LAY(p->hi, BLOCK_KEYS, int32_t);
    for (int32_t i = 0; i < p->n; i++) {
        LAY(b.q, dp * R, float);
        LAY(b.o, dp * round_up(R, 32), float);
        LAY(b.m, R, float);
        LAY(b.l, R, float);
        LAY(b.q16, dp * round_up(R, 32), uint16_t);
        LAY(p->row_t[i], R, int32_t);
        b.row_t = p->row_t[i];
        p->b[i] = b;
    }
#undef LAY
    return at;
}

/* Scaled queries as [d,R]; rows beyond the chunk are zero. */
static void load_queries(const struct chunk *k, struct attend_block *b, const struct tensor *q, int64_t head0,
                         int64_t heads, int64_t t0)
{
    for (int64_t r = 0; k->half && r < b->R; r += 16) { /* 16 tokens of one head; scores in units of log2 */
        int64_t t = t0 + r % k->Tq, head = head0 + r / k->Tq;
        cpu_pack_q16(b->q16 + r / 32 * 32 * b->dp + r % 32 * 2, b->dp,
                     (const float *)q->data + (t * k->H + head) * k->d, k->H * k->d, k->T - t, k->d,
                     k->a->scale * 1.44269504f);
    }
    if (k->half)
        return;
    memset(b->q, 0, (size_t)(b->dp * b->R) * sizeof *b->q);
    for (int64_t h = 0; h < heads; h++) {
        for (int64_t t = t0; t < min_i64(t0 + k->Tq, k->T); t++) {
            const float *src = (const float *)q->data + (t * k->H + head0 + h) * k->d;
            float *dst = b->q + h * k->Tq + t - t0;
            for (int64_t c = 0; c < k->d; c++)
                dst[c * b->R] = src[c] * k->a->scale;
        }
    }
}

/* Which rows t of the query block see each key of the block. Returns 0: none sees any; 1: mixed; 2: all see
 * all. */
static int visible(const struct chunk *k, const struct attend_set *s, const struct kv_run *run, int64_t r0,
                   int64_t n, int64_t t0, int32_t *lo, int32_t *hi)
{
    int64_t t1 = min_i64(t0 + k->Tq, k->T) - 1;
    bool all = true, any = false;
    if (!run->index) { /* consecutive keys: both ends tell */
        int64_t near = k->a->q_pos + t0 - row_pos(run, r0 + n - 1), far = k->a->q_pos + t1 - row_pos(run, r0);
        if (far < s->dist_min || near >= s->dist_max)
            return 0;
        if (near >= s->dist_min && far < s->dist_max)
            return 2;
    }
    for (int64_t j = 0; j < n; j++) {
        int64_t base = row_pos(run, r0 + j) - k->a->q_pos; /* distance = t - base */
        int64_t first = max_i64(base + s->dist_min, t0), end = min_i64(base + s->dist_max, t1 + 1);
        lo[j] = (int32_t)min_i64(first, t1 + 1);
        hi[j] = (int32_t)max_i64(end, t0);
        all = all && first <= t0 && end > t1;
        any = any || first < end;
    }
    return !any ? 0 : all ? 2 : 1;
}

/* The keep lists of the item's heads at key `at` of the set; false if they mask all n keys. */
static bool keep_block(const struct chunk *k, const struct attend_set *s, struct attend_block *b,
                       int64_t head0, int64_t at, int64_t n)
{
    bool any = !s->keep;
    for (int64_t h = 0; h < b->R / k->Tq; h++) {
        b->keep[h] = s->keep ? keep_row(s, head0 + h) + at : NULL;
        for (int64_t j = 0; j < n && !any; j++)
            any = b->keep[h][j];
    }
    return any;
}

/* Keys or values of one block as the products want them. */
const void *attend_bf16_rows(const struct kv_run *run, int64_t r, int64_t n, const struct chunk *k, int32_t h)
{
    if (run->layout != QUANT_NONE || run->dtype != DT_BF16 || run->index || r + n > run->n)
        return NULL;
    return (const uint16_t *)run->data + (r * k->Hk + h) * k->d;
}

static void load_block(const struct chunk *k, const struct attend_set *s, struct attend_block *b, int32_t h,
                       const struct kv_run *run, int64_t r, int64_t n, int64_t at)
{
    int32_t v = 0; /* value run of the first key */
    int64_t vr = at;
    while (vr >= s->v[v].n)
        vr -= s->v[v++].n;
    const void *k16 = k->half ? attend_bf16_rows(run, r, n, k, h) : NULL;
    const void *v16 = k->half ? attend_bf16_rows(&s->v[v], vr, n, k, h) : NULL;
    int64_t ld = k->Hk * k->d;
    if (!k16)
        k->c->isa->kv_rows(b->K, run, r, n, h, (int32_t)k->Hk, k->d);
    if (!v16)
        gather(k->c, s->v, s->n_v, at, n, h, (int32_t)k->Hk, k->d, b->V);
    if (!k->half)
        return;
    cpu_pack_k16(b->K16, b->dp, k16 ? k16 : b->K, k16 ? ld : k->d, n, k->d, k16 ? DT_BF16 : DT_F32);
    cpu_pack_v16(b->V16, b->dp, v16 ? v16 : b->V, v16 ? ld : k->d, n, k->d, v16 ? DT_BF16 : DT_F32);
}

/* Consecutive keys of a run that some of the rows t0..t1 see, as rows first..end; all with an index. */
static int64_t reach(const struct chunk *k, const struct attend_set *s, const struct kv_run *run, int64_t t0,
                     int64_t t1, int64_t *end)
{
    int64_t q = k->a->q_pos - run->pos;
    *end = run->index ? run->n : min_i64(run->n, q + t1 - s->dist_min + 1);
    return run->index ? 0 : max_i64(0, q + t0 - s->dist_max + 1);
}

/* Rows r.. (n of them) of a run against one query block, which sees at most those up to its own last token.
 */
static void span_block(const struct chunk *k, const struct attend_set *s, struct span *p, int32_t i,
                       int32_t h, const struct kv_run *run, int64_t r, int64_t n, int64_t done, bool *loaded)
{
    struct attend_block *b = &p->b[i];
    int64_t end, own;
    reach(k, s, run, p->t0[i], min_i64(p->t0[i] + k->Tq, k->T) - 1, &end);
    own = min_i64(n, end - r);
    int see = own > 0 ? visible(k, s, run, r, own, p->t0[i], p->lo, p->hi) : 0;
    if (see == 0 || !keep_block(k, s, b, p->head0, done + r, own))
        return;
    b->lo = see == 1 ? p->lo : NULL;
    b->hi = p->hi;
    if (!*loaded)
        load_block(k, s, b, h, run, r, n, done + r);
    *loaded = true;
    if (!k->half)
        k->c->isa->block(b, own);
    else if (k->c->amx)
        cpu_block_amx(b, own);
    else
        cpu_block_bf16(b, own);
}

static void span_set(const struct chunk *k, const struct attend_set *s, struct span *p, int32_t h)
{
    int64_t done = 0; /* keys of earlier runs */
    for (int32_t i = 0; i < s->n_k; done += s->k[i].n, i++) {
        const struct kv_run *run = &s->k[i];
        int64_t end, r = reach(k, s, run, p->t0[0], min_i64(p->t0[p->n - 1] + k->Tq, k->T) - 1, &end);
        for (; r < end; r += BLOCK_KEYS) {
            bool loaded = false;
            for (int32_t j = 0; j < p->n; j++)
                span_block(k, s, p, j, h, run, r, min_i64(BLOCK_KEYS, end - r), done, &loaded);
        }
    }
}

/* What attention scores need of the item's rows; base-2 logarithms where scores are in units of log2. */
static void keep_lse(const struct chunk *k, const struct attend_block *b, int64_t head0, int64_t t0)
{
    for (int64_t r = 0; k->lse && r < b->R; r++) {
        int64_t t = t0 + r % k->Tq;
        float sum = b->l[r], lse = b->m[r] + (k->half ? log2f(sum) : logf(sum));
        if (t < k->T && sum != 0.0f)
            k->lse[(head0 + r / k->Tq) * k->Tp + t] = lse;
    }
}

static void start_block(const struct chunk *k, struct span *p, int32_t i, int64_t t0)
{
    struct attend_block *b = &p->b[i];
    b->Tq = k->Tq;
    p->t0[i] = t0;
    memset(b->o, 0, (size_t)(b->dp * round_up(b->R, 32)) * sizeof *b->o);
    for (int64_t r = 0; r < b->R; r++) {
        p->row_t[i][r] = (int32_t)(t0 + r % k->Tq);
        b->m[r] = CPU_HIDDEN / 10.0f; /* a row that sees nothing: all weights 0 */
        b->l[r] = 0.0f;
    }
}

static void finish_block(const struct chunk *k, const struct attend_block *b, int64_t head0, int64_t t0)
{
    keep_lse(k, b, head0, t0);
    for (int64_t r = 0; r < b->R; r += 16) { /* 16 tokens of one head */
        int64_t t = t0 + r % k->Tq, head = head0 + r / k->Tq;
        const float *O = k->half ? b->o + r / 32 * 32 * b->dp + r % 32 : b->o + r;
        if (t < k->T)
            k->c->isa->block_out((float *)k->a->out.data + (t * k->H + head) * k->d, k->H * k->d, O,
                                 k->half ? 32 : b->R, min_i64(16, k->T - t), k->d, b->l + r);
    }
}

/* Query blocks first.. of one part of the query heads of kv head h. */
static void chunk_item(const struct chunk *k, char *scratch, int32_t h, int64_t part, int64_t first)
{
    struct span p = {.head0 = h * k->g + part * k->heads, .n = (int32_t)min_i64(k->span, k->blocks - first)};
    int64_t heads = min_i64(k->heads, k->g - part * k->heads);
    span_lay(&p, scratch, heads * k->Tq, k->d);
    for (int32_t i = 0; i < p.n; i++)
        start_block(k, &p, i, (first + i) * k->Tq);
    for (int s = 0; s < k->a->n_set; s++) {
        for (int32_t i = 0; i < p.n; i++)
            load_queries(k, &p.b[i], &k->a->set[s].q, p.head0, heads, p.t0[i]);
        span_set(k, &k->a->set[s], &p, h);
    }
    for (int32_t i = 0; i < p.n; i++)
        finish_block(k, &p.b[i], p.head0, p.t0[i]);
}

/* Scratch of the attention scores' rows; false (latched) if there is none. */
static bool lse_room(struct chunk *k)
{
    k->Tp = round_up(k->T, SCORE_ROWS); /* padding is zero and gets nothing */
    if (!wants_attn_scores(k->a) || k->a->f16_attn_scores)
        return true;
    size_t n = (size_t)(k->H * k->Tp);
    if (!host_grow(&k->c->host, &k->c->lse, n * sizeof(float)))
        return false;
    k->lse = k->c->lse.data;
    for (size_t i = 0; i < n; i++)
        k->lse[i] = -CPU_HIDDEN;
    return true;
}

static void cut_chunk(struct chunk *k)
{
    k->g = k->H / k->Hk;
    k->heads = min_i64(k->g, ATTEND_HEADS);
    k->parts = (k->g + k->heads - 1) / k->heads;
    k->Tq = k->heads > 2 ? 32 : 64;
    while (k->Tq > 16 && k->Tq / 2 >= k->T)
        k->Tq /= 2;
    k->blocks = (k->T + k->Tq - 1) / k->Tq;
    /* Blocks that read keys together convert them once; but there should be items for many threads. */
    int64_t least = any_codes(k->a) ? 6 : 12;
    for (k->span = 1; k->span < ATTEND_SPAN && k->blocks * k->Hk * k->parts >= 2 * k->span * least;)
        k->span *= 2;
    k->half = k->c->bf16 && k->T >= 16 && all_bf16(k->a);
}

static void attend_chunk(struct cpu *c, const struct attend_args *a)
{
    struct chunk k = {
        .c = c, .a = a, .T = a->out.n[0], .H = a->out.n[1], .d = a->out.n[2], .Hk = a->n_kv_head};
    cut_chunk(&k);
    struct span p = {.n = (int32_t)k.span};
    size_t bytes = span_lay(&p, NULL, k.heads * k.Tq, k.d);
    int64_t items = (k.blocks + k.span - 1) / k.span;
    char *scratch = cpu_scratch(c, bytes);
    if (!scratch || !lse_room(&k))
        return;
    bool amx = k.half && c->amx;
#pragma omp parallel num_threads(c->ops.threads)
    {
        if (amx)
            cpu_amx_start();
#pragma omp for schedule(dynamic) collapse(3)
        for (int64_t q = 0; q < items; q++) /* late blocks see most keys: they come first */
            for (int32_t h = 0; h < a->n_kv_head; h++)
                for (int64_t part = 0; part < k.parts; part++)
                    chunk_item(&k, scratch + (size_t)omp_get_thread_num() * bytes, h, part,
                               (items - 1 - q) * k.span);
        if (amx)
            cpu_amx_stop();
    }
    if (k.lse)
        attend_attn_scores(&k);
    else if (wants_attn_scores(a))
        score_attention(a);
}

void cpu_attend(struct ops *o, const struct attend_args *a, int n)
{
    for (int i = 0; i < n; i++) {
        assert(a[i].out.n[1] % a[i].n_kv_head == 0 && a[i].out.n[2] <= CPU_MAX_D);
        if (a[i].out.n[0] >= DECODE_ROWS)
            attend_chunk(o->impl, &a[i]);
    }
    attend_rows(o->impl, a, n);
}
