/* Attention: cuts the work into items. Chunks of rows go block by block (query block x key block, online
 * softmax, nothing of size T x N); single rows of many sequences go by (sequence, row, kv head, 1024 keys),
 * and the parts are put together in order. Which keys belong to an item depends on the shapes only. */
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/score.h"

static int64_t row_pos(const struct kv_run *run, int64_t r)
{
    return run->pos + (run->index ? run->index[r] : r);
}

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

struct chunk {
    struct cpu *c;
    const struct attend_args *a;
    int64_t T, H, d, Hk, g; /* g query heads per kv head */
    int64_t heads;          /* of one item */
    int64_t parts;          /* items per kv head and query block */
    int64_t Tq, blocks;     /* tokens of one item; number of query blocks */
    bool half;              /* bf16 products */
    size_t bytes;           /* scratch of one thread */
};

static bool any_f32(const struct attend_args *a)
{
    for (int s = 0; s < a->n_set; s++) {
        for (int i = 0; i < a->set[s].n_k; i++)
            if (a->set[s].k[i].dtype == DT_F32)
                return true;
        for (int i = 0; i < a->set[s].n_v; i++)
            if (a->set[s].v[i].dtype == DT_F32)
                return true;
    }
    return false;
}

/* Arrays of one item inside a thread's scratch; with base NULL only counts the bytes. */
static size_t block_lay(struct attend_block *b, int32_t **row_t, int32_t **lo, int32_t **hi, char *base,
                        int64_t R, int64_t d)
{
    size_t at = 0;
    int64_t dp = round_up(d, 32);
#define LAY(member, count, type)                                                                             \
    (member = (type *)(void *)(base + at),                                                                   \
     at += (size_t)round_up((int64_t)((size_t)(count) * sizeof(type)), 64))
    *b = (struct attend_block){.R = R, .d = d, .dp = dp};
    LAY(b->q, dp * R, float);
    LAY(b->S, (BLOCK_KEYS + 8) * R, float);
    LAY(b->O, dp * round_up(R, 32), float);
    LAY(b->max, R, float);
    LAY(b->sum, R, float);
    LAY(*row_t, R, int32_t);
    LAY(b->K, (BLOCK_KEYS + 8) * d, float);
    LAY(b->V, (BLOCK_KEYS + 8) * d, float);
    LAY(b->q16, dp * round_up(R, 32), uint16_t);
    LAY(b->P16, BLOCK_KEYS * 32, uint16_t);
    LAY(b->K16, BLOCK_KEYS * dp, uint16_t);
    LAY(b->V16, BLOCK_KEYS * dp, uint16_t);
    LAY(*lo, BLOCK_KEYS, int32_t);
    LAY(*hi, BLOCK_KEYS, int32_t);
#undef LAY
    b->row_t = *row_t;
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

/* Keys or values of one block as the products want them. */
static const void *bf16_rows(const struct kv_run *run, int64_t r, int64_t n, const struct chunk *k, int32_t h)
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
    const void *k16 = k->half ? bf16_rows(run, r, n, k, h) : NULL;
    const void *v16 = k->half ? bf16_rows(&s->v[v], vr, n, k, h) : NULL;
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

static void chunk_set(const struct chunk *k, const struct attend_set *s, struct attend_block *b, int32_t h,
                      int64_t t0, int32_t *lo, int32_t *hi)
{
    int64_t done = 0; /* keys of earlier runs */
    for (int32_t i = 0; i < s->n_k; done += s->k[i].n, i++) {
        const struct kv_run *run = &s->k[i];
        int64_t first = 0, end = run->n;
        if (!run->index) { /* consecutive keys: those that some row sees */
            int64_t t1 = min_i64(t0 + k->Tq, k->T) - 1, q = k->a->q_pos - run->pos;
            first = max_i64(first, q + t0 - s->dist_max + 1);
            end = min_i64(end, q + t1 - s->dist_min + 1);
        }
        for (int64_t r = first; r < end; r += BLOCK_KEYS) {
            int64_t n = min_i64(BLOCK_KEYS, end - r);
            int see = visible(k, s, run, r, n, t0, lo, hi);
            if (see == 0)
                continue;
            b->lo = see == 1 ? lo : NULL;
            b->hi = hi;
            load_block(k, s, b, h, run, r, n, done + r);
            if (!k->half)
                k->c->isa->block(b, n);
            else if (k->c->amx)
                cpu_block_amx(b, n);
            else
                cpu_block_bf16(b, n);
        }
    }
}

/* heads query heads of kv head h, tokens t0.. */
static void chunk_item(const struct chunk *k, char *scratch, int32_t h, int64_t part, int64_t t0)
{
    struct attend_block b;
    int32_t *row_t, *lo, *hi;
    int64_t first = h * k->g + part * k->heads, heads = min_i64(k->heads, k->g - part * k->heads);
    block_lay(&b, &row_t, &lo, &hi, scratch, heads * k->Tq, k->d);
    memset(b.O, 0, (size_t)(b.dp * round_up(b.R, 32)) * sizeof *b.O);
    for (int64_t r = 0; r < b.R; r++) {
        row_t[r] = (int32_t)(t0 + r % k->Tq);
        b.max[r] = CPU_HIDDEN / 10.0f; /* a row that sees nothing: all weights 0 */
        b.sum[r] = 0.0f;
    }
    for (int s = 0; s < k->a->n_set; s++) {
        load_queries(k, &b, &k->a->set[s].q, first, heads, t0);
        chunk_set(k, &k->a->set[s], &b, h, t0, lo, hi);
    }
    for (int64_t r = 0; r < b.R; r += 16) { /* 16 tokens of one head */
        int64_t t = t0 + r % k->Tq, head = first + r / k->Tq;
        const float *O = k->half ? b.O + r / 32 * 32 * b.dp + r % 32 : b.O + r;
        if (t < k->T)
            k->c->isa->block_out((float *)k->a->out.data + (t * k->H + head) * k->d, k->H * k->d, O,
                                 k->half ? 32 : b.R, min_i64(16, k->T - t), k->d, b.sum + r);
    }
}

static void attend_chunk(struct cpu *c, const struct attend_args *a)
{
    struct chunk k = {
        .c = c, .a = a, .T = a->out.n[0], .H = a->out.n[1], .d = a->out.n[2], .Hk = a->n_kv_head};
    k.g = k.H / k.Hk;
    k.heads = min_i64(k.g, 8);
    k.parts = (k.g + k.heads - 1) / k.heads;
    k.Tq = k.heads > 4 ? 32 : k.heads > 2 ? 64 : 128;
    while (k.Tq > 16 && k.Tq / 2 >= k.T)
        k.Tq /= 2;
    k.blocks = (k.T + k.Tq - 1) / k.Tq;
    k.half = c->bf16 && k.T >= 16 && !any_f32(a);
    struct attend_block b;
    int32_t *row_t, *lo, *hi;
    size_t bytes = block_lay(&b, &row_t, &lo, &hi, NULL, k.heads * k.Tq, k.d);
    char *scratch = cpu_scratch(c, bytes);
    if (!scratch)
        return;
    bool amx = k.half && c->amx;
#pragma omp parallel num_threads(c->ops.threads)
    {
        if (amx)
            cpu_amx_start();
#pragma omp for schedule(dynamic) collapse(3)
        for (int64_t q = 0; q < k.blocks; q++) /* late blocks see most keys: they come first */
            for (int32_t h = 0; h < a->n_kv_head; h++)
                for (int64_t part = 0; part < k.parts; part++)
                    chunk_item(&k, scratch + (size_t)omp_get_thread_num() * bytes, h, part,
                               (k.blocks - 1 - q) * k.Tq);
        if (amx)
            cpu_amx_stop();
    }
}

/* ------------------------------------------------------------------ single rows */

/* Keys start..start+n of one set, for row t of sequence a and the query heads of kv head h. */
struct item {
    const struct attend_args *a;
    int64_t start, n;
    int32_t set, t, h;
    float *part; /* [g,d] sums, [g] maxima, [g] sums of weights */
};

static int64_t set_keys(const struct attend_set *s)
{
    int64_t n = 0;
    for (int32_t i = 0; i < s->n_k; i++)
        n += s->k[i].n;
    return n;
}

/* Scores of rows r0..r1 of one run, -inf where the mask hides the key. s: [g,SPLIT_KEYS] at this run's place.
 */
static void run_scores(const struct cpu *c, struct decode_args *d, const struct attend_set *s, int64_t pos,
                       int64_t r0, int64_t r1)
{
    int64_t a = r0, b = r1;
    if (!d->run->index) {
        /* visible: pos - dist_max < position <= pos - dist_min */
        int64_t first = pos - s->dist_max + 1 - d->run->pos, last = pos - s->dist_min - d->run->pos;
        a = min_i64(max_i64(r0, first), r1);
        b = max_i64(min_i64(r1, last + 1), a);
    }
    for (int64_t h = 0; h < d->g; h++)
        for (int64_t r = 0; r < r1 - r0; r++)
            if (r < a - r0 || r >= b - r0)
                d->s[h * d->lds + r] = -INFINITY;
    float *base = d->s;
    d->s = base + (a - r0);
    d->at = a;
    d->n = b - a;
    c->isa->scores(d);
    d->s = base;
    for (int64_t r = a; d->run->index && r < b; r++) {
        int64_t dist = pos - row_pos(d->run, r);
        if (dist >= s->dist_min && dist < s->dist_max)
            continue;
        for (int64_t h = 0; h < d->g; h++)
            d->s[h * d->lds + r - r0] = -INFINITY;
    }
}

static void item_scores(const struct cpu *c, const struct item *it, struct decode_args *d)
{
    const struct attend_set *s = &it->a->set[it->set];
    float *base = d->s;
    int64_t at = 0; /* first key of the run */
    for (int32_t i = 0; i < s->n_k; at += s->k[i].n, i++) {
        int64_t r0 = max_i64(it->start - at, 0), r1 = min_i64(it->start + it->n - at, s->k[i].n);
        if (r0 >= r1)
            continue;
        d->run = &s->k[i];
        d->s = base + (at + r0 - it->start);
        run_scores(c, d, s, it->a->q_pos + it->t, r0, r1);
    }
    d->s = base;
}

static void item_values(const struct cpu *c, const struct item *it, struct decode_args *d)
{
    const struct attend_set *s = &it->a->set[it->set];
    float *base = d->s;
    int64_t at = 0;
    for (int32_t i = 0; i < s->n_v; at += s->v[i].n, i++) {
        int64_t r0 = max_i64(it->start - at, 0), r1 = min_i64(it->start + it->n - at, s->v[i].n);
        if (r0 >= r1)
            continue;
        d->run = &s->v[i];
        d->at = r0;
        d->n = r1 - r0;
        d->s = base + (at + r0 - it->start);
        c->isa->values(d);
    }
    d->s = base;
}

/* Floats of one thread: scaled queries, scores (with room for whole vectors), rows as f32. */
static int64_t item_floats(int64_t g, int64_t d)
{
    return round_up(g * d + g * (SPLIT_KEYS + 16) + SPLIT_TMP * d, 16);
}

static void run_item(const struct cpu *c, const struct item *it, float *scratch)
{
    const struct attend_args *a = it->a;
    int64_t H = a->out.n[1], dim = a->out.n[2], g = H / a->n_kv_head;
    float *q = scratch, *max = it->part + g * dim, *sum = max + g;
    struct decode_args d = {.h = it->h,
                            .n_head = a->n_kv_head,
                            .g = g,
                            .d = dim,
                            .q = q,
                            .s = q + g * dim,
                            .lds = SPLIT_KEYS + 16,
                            .o = it->part,
                            .tmp = q + g * dim + g * (SPLIT_KEYS + 16)};
    memcpy(q, (const float *)a->set[it->set].q.data + (it->t * H + it->h * g) * dim,
           (size_t)(g * dim) * sizeof *q);
    c->isa->scale(q, a->scale, g * dim);
    item_scores(c, it, &d);
    bool any = false;
    for (int64_t h = 0; h < g; h++) {
        max[h] = c->isa->softmax(d.s + h * d.lds, it->n, &sum[h]);
        any = any || max[h] != -INFINITY;
    }
    memset(it->part, 0, (size_t)(g * dim) * sizeof(float));
    if (any)
        item_values(c, it, &d);
}

/* Puts the parts of one row of one query head together, in order. */
static void join(const struct item *it, int64_t n, int64_t h, float *out)
{
    int64_t d = it->a->out.n[2], g = it->a->out.n[1] / it->a->n_kv_head;
    float m = -INFINITY, total = 0.0f;
    for (int64_t i = 0; i < n; i++)
        m = it[i].part[g * d + h] > m ? it[i].part[g * d + h] : m;
    memset(out, 0, (size_t)d * sizeof *out);
    for (int64_t i = 0; i < n; i++) {
        const float *p = it[i].part;
        if (p[g * d + h] == -INFINITY && p[g * d + g + h] == 0.0f)
            continue;
        float f = expf(p[g * d + h] - m);
        total += f * p[g * d + g + h];
        for (int64_t c = 0; c < d; c++)
            out[c] += f * p[h * d + c];
    }
    for (int64_t c = 0; c < d && total != 0.0f; c++)
        out[c] /= total;
}

/* The items of one row and kv head are neighbours in the list; a row without keys has one empty item. */
static int64_t list_items(struct item *it, float *part, const struct attend_args *a)
{
    int64_t g = a->out.n[1] / a->n_kv_head, n = 0, size = round_up(g * (a->out.n[2] + 2), 16);
    for (int32_t t = 0; t < a->out.n[0]; t++) {
        for (int32_t h = 0; h < a->n_kv_head; h++) {
            for (int32_t s = 0; s < a->n_set; s++) {
                int64_t keys = set_keys(&a->set[s]);
                for (int64_t k = 0; k < max_i64(keys, 1); k += SPLIT_KEYS, n++)
                    if (it)
                        it[n] = (struct item){a, k, min_i64(SPLIT_KEYS, keys - k), s, t, h, part + n * size};
            }
        }
    }
    return n;
}

static void attend_rows(struct cpu *c, const struct attend_args *a, int n)
{
    int64_t items = 0, floats = 0, most = 0, at = 0;
    for (int i = 0; i < n; i++) {
        int64_t g = a[i].out.n[1] / a[i].n_kv_head, d = a[i].out.n[2];
        if (a[i].out.n[0] >= DECODE_ROWS)
            continue;
        int64_t count = list_items(NULL, NULL, &a[i]);
        items += count;
        floats += count * round_up(g * (d + 2), 16);
        most = max_i64(most, item_floats(g, d));
    }
    char *scratch = items ? cpu_scratch(c, (size_t)most * sizeof(float)) : NULL;
    if (!scratch || !host_grow(&c->host, &c->items, (size_t)items * sizeof(struct item)) ||
        !host_grow(&c->host, &c->partial, (size_t)floats * sizeof(float)))
        return;
    struct item *it = c->items.data;
    float *part = c->partial.data;
    for (int i = 0; i < n; i++) {
        if (a[i].out.n[0] >= DECODE_ROWS)
            continue;
        int64_t count = list_items(it + at, part, &a[i]);
        part += count * round_up(a[i].out.n[1] / a[i].n_kv_head * (a[i].out.n[2] + 2), 16);
        at += count;
    }
#pragma omp parallel num_threads(c->ops.threads)
    {
        float *mine =
            (float *)(void *)(scratch + (size_t)omp_get_thread_num() * (size_t)most * sizeof(float));
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < items; i++)
            run_item(c, &it[i], mine);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < items; i++) {
            const struct item *p = &it[i];
            if (p->set != 0 || p->start != 0)
                continue;
            int64_t count = 1;
            while (i + count < items && p[count].a == p->a && p[count].t == p->t && p[count].h == p->h)
                count++;
            int64_t H = p->a->out.n[1], d = p->a->out.n[2], g = H / p->a->n_kv_head;
            for (int64_t h = 0; h < g; h++)
                join(p, count, h, (float *)p->a->out.data + (p->t * H + p->h * g + h) * d);
        }
    }
}

static bool is_plain(const struct attend_args *a)
{
    for (int s = 0; s < a->n_set; s++)
        if (a->set[s].keep || a->set[s].mass)
            return false;
    return true;
}

void cpu_attend(struct ops *o, const struct attend_args *a, int n)
{
    bool plain = true;
    for (int i = 0; i < n; i++)
        plain = plain && is_plain(&a[i]);
    if (!plain) {
        ref_attend(o, a, n);
        return;
    }
    for (int i = 0; i < n; i++) {
        assert(a[i].out.n[1] % a[i].n_kv_head == 0 && a[i].out.n[2] <= CPU_MAX_D);
        if (a[i].out.n[0] >= DECODE_ROWS)
            attend_chunk(o->impl, &a[i]);
    }
    attend_rows(o->impl, a, n);
}
