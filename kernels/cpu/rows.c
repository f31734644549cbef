/* Attention of single rows of many sequences: items of (sequence, row, kv head, 1024 keys of a set), whose
 * parts are put together in order. Keys that a keep list masks for all heads of an item are left out: the
 * item reads only the others. */
#include <assert.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "kernels/cpu/attend.h"

/* Keys start..start+n of one set, for row t of sequence a and the query heads of kv head h. */
struct item {
    const struct attend_args *a;
    int64_t start, n;
    int32_t set, t, h;
    int32_t at, count;  /* its place among the items of its row and kv head, and how many those are */
    float *part;        /* [g,d] sums, [g] maxima, [g] sums of weights */
    float *attn_scores; /* [g] maxima, [g] sums, [g,n] weights for attention scores; NULL: none */
};

/* Working memory of a thread for one item. */
struct room {
    struct decode_args d;
    float *q, *s;   /* [g,dim] scaled; [g,SPLIT_KEYS + 16] scores, then weights */
    int32_t *list;  /* [SPLIT_KEYS] keys of the item that some head sees, rising */
    int32_t *rows;  /* [SPLIT_KEYS] the same as rows of one run */
    uint16_t *half; /* [SPLIT_KEYS] */
    int64_t n;      /* keys worked on */
    bool listed;    /* those of the list; otherwise all */
};

static int64_t set_keys(const struct attend_set *s)
{
    int64_t n = 0;
    for (int32_t i = 0; i < s->n_k; i++)
        n += s->k[i].n;
    return n;
}

static int64_t heads_of(const struct attend_args *a)
{
    return a->out.n[1] / a->n_kv_head;
}

/* ------------------------------------------------------------------ masked keys */

static bool has_channels(const struct attend_set *s)
{
    bool found = false;
    for (int i = 0; i < s->n_k; i++)
        found = found || s->k[i].layout == QUANT_CHANNEL;
    for (int i = 0; i < s->n_v; i++)
        found = found || s->v[i].layout == QUANT_CHANNEL;
    return found;
}

/* Lists the keys that some head of the item sees. Codes per channel are read in groups of tokens: no list. */
static void list_keys(const struct item *it, struct room *w)
{
    const struct attend_set *s = &it->a->set[it->set];
    w->n = it->n;
    w->listed = false;
    if (!s->keep || has_channels(s))
        return;
    uint8_t any[SPLIT_KEYS];
    int64_t g = heads_of(it->a), m = 0;
    memset(any, 0, (size_t)it->n);
    const uint8_t *last = NULL;
    for (int64_t h = it->h * g; h < it->h * g + g; h++) {
        const uint8_t *keep = keep_row(s, h) + it->start;
        for (int64_t j = 0; keep != last && j < it->n; j++)
            any[j] |= keep[j];
        last = keep;
    }
    for (int64_t j = 0; j < it->n; j++) {
        w->list[m] = (int32_t)j;
        m += any[j] != 0;
    }
    w->listed = 4 * m < 3 * it->n; /* reading in order is faster than leaving out a few */
    w->n = w->listed ? m : it->n;
}

/* x where keep is not 0, else -inf, without a branch: lists have no pattern. */
static inline float shown(float x, uint8_t keep)
{
    uint32_t mask = 0U - (uint32_t)(keep != 0);
    return f32_from_bits((f32_bits(x) & mask) | (0xff800000U & ~mask));
}

/* Scores of keys that are masked for one of the heads become -inf. */
static void mask_keys(const struct item *it, struct room *w)
{
    const struct attend_set *s = &it->a->set[it->set];
    if (!s->keep || (w->listed && s->keep_rows == it->a->n_kv_head))
        return;
    for (int64_t h = 0; h < w->d.g; h++) {
        const uint8_t *keep = keep_row(s, it->h * w->d.g + h) + it->start;
        float *x = w->s + h * w->d.lds;
        for (int64_t j = 0; !w->listed && j < w->n; j++)
            x[j] = shown(x[j], keep[j]);
        for (int64_t j = 0; w->listed && j < w->n; j++)
            x[j] = shown(x[j], keep[w->list[j]]);
    }
}

/* The item's share of one run: rows r0..r1 of `run`, whose scores lie from `at`. */
struct piece {
    struct kv_run run;
    int64_t r0, r1, at;
};

/* `first`: the run's first key, counted over the set. False if there is none. */
static bool piece_of(const struct item *it, const struct room *w, const struct kv_run *run, int64_t first,
                     struct piece *p)
{
    int64_t r0 = max_i64(it->start - first, 0), r1 = min_i64(it->start + it->n - first, run->n);
    int64_t at = first + r0 - it->start, a = 0, b;
    *p = (struct piece){*run, r0, r1, at};
    if (r0 >= r1 || !w->listed)
        return r0 < r1;
    while (a < w->n && w->list[a] < at)
        a++;
    for (b = a; b < w->n && w->list[b] < at + r1 - r0; b++) {
        int64_t r = r0 + w->list[b] - at;
        w->rows[b - a] = (int32_t)(run->index ? run->index[r] : r);
    }
    p->run.index = w->rows;
    p->r0 = 0;
    p->r1 = p->run.n = b - a;
    p->at = a;
    return a < b;
}

/* ------------------------------------------------------------------ one item */

/* Scores of rows r0..r1 of one run, -inf where the mask drops the key. s: [g,SPLIT_KEYS] at this run's place.
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

static void item_scores(const struct cpu *c, const struct item *it, struct room *w)
{
    const struct attend_set *s = &it->a->set[it->set];
    int64_t first = 0;
    for (int32_t i = 0; i < s->n_k; first += s->k[i].n, i++) {
        struct piece p;
        if (!piece_of(it, w, &s->k[i], first, &p))
            continue;
        w->d.run = &p.run;
        w->d.s = w->s + p.at;
        run_scores(c, &w->d, s, it->a->q_pos + it->t, p.r0, p.r1);
    }
    mask_keys(it, w);
}

static void item_values(const struct cpu *c, const struct item *it, struct room *w)
{
    const struct attend_set *s = &it->a->set[it->set];
    int64_t first = 0;
    for (int32_t i = 0; i < s->n_v; first += s->v[i].n, i++) {
        struct piece p;
        if (!piece_of(it, w, &s->v[i], first, &p))
            continue;
        w->d.run = &p.run;
        w->d.at = p.r0;
        w->d.n = p.r1 - p.r0;
        w->d.s = w->s + p.at;
        c->isa->values(&w->d);
    }
}

/* Row h of the item's scores or weights as one value per key of the item, `masked` where it was left out. */
static void spread(const struct item *it, const struct room *w, int64_t h, float masked, float *out)
{
    const float *x = w->s + h * w->d.lds;
    if (!w->listed) {
        memcpy(out, x, (size_t)it->n * sizeof *out);
        return;
    }
    for (int64_t j = 0; j < it->n; j++)
        out[j] = masked;
    for (int64_t j = 0; j < w->n; j++)
        out[w->list[j]] = x[j];
}

/* fp16 logits from scaled scores, and their weights: as struct attend_args has them. */
static void attn_scores16(const struct cpu *c, const struct item *it, const struct room *w)
{
    int64_t g = w->d.g;
    for (int64_t h = 0; h < g; h++) {
        float *x = it->attn_scores + 2 * g + h * it->n;
        spread(it, w, h, -INFINITY, x);
        c->isa->scale(x, 1.0f / it->a->scale, it->n);
        c->isa->from_f32(w->half, DT_F16, x, it->n);
        c->isa->to_f32(x, w->half, DT_F16, it->n);
        c->isa->scale(x, it->a->scale, it->n);
        c->isa->from_f32(w->half, DT_F16, x, it->n);
        c->isa->to_f32(x, w->half, DT_F16, it->n);
        it->attn_scores[h] = c->isa->softmax(x, it->n, &it->attn_scores[g + h]);
    }
}

/* The room's arrays inside a thread's scratch; returns the bytes. */
static size_t lay_room(struct room *w, char *base, int64_t g, int64_t d)
{
    size_t at = 0;
#define LAY(member, count, type)                                                                             \
    (member = (type *)(void *)(base ? base + at : NULL),                                                     \
     at += (size_t)round_up((int64_t)((size_t)(count) * sizeof(type)), 64))
    *w = (struct room){.d = {.n_head = 0, .g = g, .d = d, .lds = SPLIT_KEYS + 16}};
    LAY(w->q, g * d, float);
    LAY(w->s, g * (SPLIT_KEYS + 16), float); /* room for whole vectors */
    LAY(w->d.tmp, SPLIT_TMP * d, float);
    LAY(w->list, SPLIT_KEYS, int32_t);
    LAY(w->rows, SPLIT_KEYS, int32_t);
    LAY(w->half, SPLIT_KEYS, uint16_t);
#undef LAY
    w->d.q = w->q;
    return at;
}

static void run_item(const struct cpu *c, const struct item *it, char *scratch)
{
    const struct attend_args *a = it->a;
    int64_t H = a->out.n[1], dim = a->out.n[2], g = heads_of(a);
    float *max = it->part + g * dim, *sum = max + g;
    struct room w;
    lay_room(&w, scratch, g, dim);
    w.d.h = it->h;
    w.d.n_head = a->n_kv_head;
    w.d.o = it->part;
    memcpy(w.q, (const float *)a->set[it->set].q.data + (it->t * H + it->h * g) * dim,
           (size_t)(g * dim) * sizeof *w.q);
    c->isa->scale(w.q, a->scale, g * dim);
    list_keys(it, &w);
    item_scores(c, it, &w);
    if (it->attn_scores && a->f16_attn_scores)
        attn_scores16(c, it, &w);
    bool any = false;
    for (int64_t h = 0; h < g; h++) {
        max[h] = c->isa->softmax(w.s + h * w.d.lds, w.n, &sum[h]);
        any = any || max[h] != -INFINITY;
        if (it->attn_scores && !a->f16_attn_scores) {
            it->attn_scores[h] = max[h];
            it->attn_scores[g + h] = sum[h];
            spread(it, &w, h, 0.0f, it->attn_scores + 2 * g + h * it->n);
        }
    }
    memset(it->part, 0, (size_t)(g * dim) * sizeof(float));
    if (any)
        item_values(c, it, &w);
}

/* ------------------------------------------------------------------ putting parts together */

/* Puts the parts of one row of one query head together, in order. */
static void join(const struct item *it, int64_t n, int64_t h, float *out)
{
    int64_t d = it->a->out.n[2], g = heads_of(it->a);
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

/* What turns the weights of an item into probabilities of query head h; 0 if no key is visible. */
static float attn_scores_factor(const struct item *it, int64_t h)
{
    const struct item *first = it - it->at;
    int64_t g = heads_of(it->a);
    float m = -INFINITY, total = 0.0f;
    for (int32_t i = 0; i < it->count; i++)
        m = first[i].attn_scores[h] > m ? first[i].attn_scores[h] : m;
    for (int32_t i = 0; i < it->count; i++)
        if (first[i].attn_scores[h] != -INFINITY || first[i].attn_scores[g + h] != 0.0f)
            total += expf(first[i].attn_scores[h] - m) * first[i].attn_scores[g + h];
    return total == 0.0f ? 0.0f : expf(it->attn_scores[h] - m) / total;
}

/* Attention scores of the keys of one item, from all rows in order: `it` is that of row 0. */
static void add_attn_scores(const struct cpu *c, const struct item *it)
{
    const struct attend_set *s = &it->a->set[it->set];
    int64_t g = heads_of(it->a), stride = it->count * it->a->n_kv_head;
    for (int64_t h = 0; h < g; h++) {
        float *attn_scores = s->attn_scores + (it->h * g + h) * s->attn_scores_ld + it->start;
        for (int64_t t = 0; t < it->a->out.n[0]; t++) {
            const struct item *row = it + t * stride;
            float f = attn_scores_factor(row, h);
            if (f != 0.0f)
                c->isa->attn_scores_add(attn_scores, row->attn_scores + 2 * g + h * it->n, f, it->n,
                                        it->a->f16_attn_scores);
        }
    }
}

/* ------------------------------------------------------------------ the list of items */

/* The items of one row and kv head are neighbours in the list; a row without keys has one empty item per set.
 * Without `it` only counts; *floats: what their parts take. */
static int64_t list_items(struct item *it, float *part, const struct attend_args *a, int64_t *floats)
{
    int64_t g = heads_of(a), n = 0, at = 0, count = 0, size = round_up(g * (a->out.n[2] + 2), 16);
    bool attn_scores = wants_attn_scores(a);
    for (int32_t s = 0; s < a->n_set; s++)
        count += max_i64((set_keys(&a->set[s]) + SPLIT_KEYS - 1) / SPLIT_KEYS, 1);
    for (int64_t i = 0; i < a->out.n[0] * a->n_kv_head; i++) {
        int32_t place = 0;
        for (int32_t s = 0; s < a->n_set; s++) {
            int64_t keys = set_keys(&a->set[s]);
            for (int64_t k = 0; k < max_i64(keys, 1); k += SPLIT_KEYS, n++) {
                int64_t own = min_i64(SPLIT_KEYS, keys - k),
                        more = attn_scores ? round_up(g * (own + 2), 16) : 0;
                if (it)
                    it[n] = (struct item){.a = a,
                                          .start = k,
                                          .n = own,
                                          .set = s,
                                          .t = (int32_t)(i / a->n_kv_head),
                                          .h = (int32_t)(i % a->n_kv_head),
                                          .at = place++,
                                          .count = (int32_t)count,
                                          .part = part + at,
                                          .attn_scores = attn_scores ? part + at + size : NULL};
                at += size + more;
            }
        }
    }
    *floats = at;
    return n;
}

static void finish_item(const struct cpu *c, const struct item *it)
{
    int64_t H = it->a->out.n[1], d = it->a->out.n[2], g = heads_of(it->a);
    for (int64_t h = 0; h < g && it->at == 0; h++)
        join(it, it->count, h, (float *)it->a->out.data + (it->t * H + it->h * g + h) * d);
    if (it->t == 0 && it->a->set[it->set].attn_scores)
        add_attn_scores(c, it);
}

static void run_items(struct cpu *c, const struct item *it, int64_t n, char *scratch, size_t bytes)
{
#pragma omp parallel num_threads(c->ops.threads)
    {
        char *mine = scratch + (size_t)omp_get_thread_num() * bytes;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < n; i++)
            run_item(c, &it[i], mine);
#pragma omp for schedule(static)
        for (int64_t i = 0; i < n; i++)
            finish_item(c, &it[i]);
    }
}

void attend_rows(struct cpu *c, const struct attend_args *a, int n)
{
    int64_t items = 0, floats = 0, at = 0, more;
    size_t most = 0;
    for (int i = 0; i < n; i++) {
        if (a[i].out.n[0] >= DECODE_ROWS)
            continue;
        struct room w;
        size_t bytes = lay_room(&w, NULL, heads_of(&a[i]), a[i].out.n[2]);
        items += list_items(NULL, NULL, &a[i], &more);
        floats += more;
        most = bytes > most ? bytes : most;
    }
    char *scratch = items ? cpu_scratch(c, most) : NULL;
    if (!scratch || !host_grow(&c->host, &c->items, (size_t)items * sizeof(struct item)) ||
        !host_grow(&c->host, &c->partial, (size_t)floats * sizeof(float)))
        return;
    struct item *it = c->items.data;
    float *part = c->partial.data;
    for (int i = 0; i < n; i++) {
        if (a[i].out.n[0] >= DECODE_ROWS)
            continue;
        at += list_items(it + at, part, &a[i], &more);
        part += more;
    }
    run_items(c, it, items, scratch, most);
}
