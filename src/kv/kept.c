#include "kv/kept.h"

#include "base/err.h"
#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

int kept_open(const struct kv_cache *c, struct kept *s, int64_t capacity)
{
    const size_t bytes = (size_t)capacity * kv_row_bytes(c);
    const size_t marks = (size_t)capacity * (size_t)c->kind->n_kv_head * sizeof(int32_t);
    *s = (struct kept){.capacity = capacity};
    TRY(kv_mem_open(c, &s->mem[KEPT_K], bytes, MEM_WINDOW));
    TRY(kv_mem_open(c, &s->mem[KEPT_V], bytes, MEM_WINDOW));
    TRY(kv_mem_open(c, &s->mem[KEPT_TOKEN], marks, MEM_INDEX));
    TRY(kv_mem_open(c, &s->mem[KEPT_LIST], marks, MEM_INDEX));
    s->k = kv_tensor(c, s->mem[KEPT_K].data, capacity);
    s->v = kv_tensor(c, s->mem[KEPT_V].data, capacity);
    s->token = s->mem[KEPT_TOKEN].data;
    s->list = s->mem[KEPT_LIST].data;
    return 0;
}

void kept_close(const struct kv_cache *c, struct kept *s)
{
    for (int i = 0; i < KEPT_N_MEM; i++)
        kv_mem_close(c, &s->mem[i]);
}

void kept_count(const struct kept *s, struct kv_ledger *l)
{
    kv_mem_count(s->mem, KEPT_N_MEM, l);
}

struct select_args kept_choice(const struct kv_cache *c, const struct kept *s, float *score, int64_t ld,
                               int64_t rows, int64_t n, int64_t k, int64_t tail)
{
    const int64_t hk = c->kind->n_kv_head;
    return (struct select_args){.score = score,
                                .score_ld = ld,
                                .rows = hk,
                                .group = rows / hk,
                                .n = n,
                                .k = k,
                                .tail = tail,
                                .index = s->list,
                                .index_ld = s->capacity};
}

/* Rows of keys or values. */
static struct gather_args move(const struct kept *s, int64_t hk, const struct tensor *src,
                               const struct tensor *dst, int64_t m)
{
    return (struct gather_args){
        .src = *src, .dst = tensor_rows(dst, 0, m), .index = s->list, .rows = hk, .index_ld = s->capacity};
}

/* One row of 4-byte values by the list of KV head h. */
static struct gather_args move_row(const struct kept *s, int64_t h, enum dtype dtype, void *dst, void *src,
                                   int64_t n, int64_t m)
{
    return (struct gather_args){.src = {src, dtype, {n, 1, 1, 1}},
                                .dst = {dst, dtype, {m, 1, 1, 1}},
                                .index = s->list + h * s->capacity,
                                .rows = 1,
                                .index_ld = s->capacity};
}

void kept_take(const struct kv_cache *c, struct kept *s, const struct kv_dense *prompt, int64_t m)
{
    const int64_t hk = c->kind->n_kv_head;
    struct tensor k = tensor_rows(&prompt->k, 0, prompt->n), v = tensor_rows(&prompt->v, 0, prompt->n);
    const struct gather_args a[2] = {move(s, hk, &k, &s->k, m), move(s, hk, &v, &s->v, m)};
    assert(s->n == 0 && m <= s->capacity);
    if (m)
        c->ops->gather(c->ops, a, 2);
    c->ops->copy(c->ops, s->token, s->list, s->mem[KEPT_TOKEN].bytes);
    s->n = s->n_known = m;
}

/* Writes down the tokens of the newest rows. */
static int know(const struct kv_cache *c, struct kept *s)
{
    const int64_t n_new = s->n - s->n_known;
    int32_t *host = mem_alloc((size_t)n_new + 1, sizeof *host);
    for (int64_t i = 0; i < n_new; i++)
        host[i] = (int32_t)(c->n - n_new + i);
    for (int64_t h = 0; h < c->kind->n_kv_head; h++)
        c->ops->copy(c->ops, s->token + h * s->capacity + s->n_known, host, (size_t)n_new * sizeof *host);
    int rc = c->ops->sync(c->ops);
    free(host);
    s->n_known = s->n;
    return rc;
}

int kept_compact(const struct kv_cache *c, struct kept *s, int64_t m)
{
    const int64_t hk = c->kind->n_kv_head;
    TRY(know(c, s));
    struct gather_args *a = mem_alloc((size_t)hk + 2, sizeof *a);
    a[0] = move(s, hk, &s->k, &s->k, m);
    a[1] = move(s, hk, &s->v, &s->v, m);
    for (int64_t h = 0; h < hk; h++) {
        int32_t *row = s->token + h * s->capacity;
        a[2 + h] = move_row(s, h, DT_I32, row, row, s->n, m);
    }
    c->ops->gather(c->ops, a, (int)hk + 2);
    free(a);
    s->n = s->n_known = m;
    return 0;
}

void kept_scores(const struct kv_cache *c, const struct kept *s, float *dst, int64_t dst_ld, float *src,
                 int64_t src_ld, int64_t n, int64_t rows, int64_t m)
{
    struct gather_args *a = mem_alloc((size_t)rows, sizeof *a);
    for (int64_t r = 0; r < rows; r++)
        a[r] = move_row(s, r / (rows / c->kind->n_kv_head), DT_F32, dst + r * dst_ld, src + r * src_ld, n, m);
    if (m)
        c->ops->gather(c->ops, a, (int)rows);
    free(a);
}

void kept_append(const struct kv_cache *c, struct kept *s, const struct kv_rows *r, struct rope_args rope[2],
                 struct attend_set *set)
{
    const int64_t T = r->k.n[0];
    const struct tensor *to[2] = {&s->k, &s->v};
    assert(s->n + T <= s->capacity && s->n <= r->pos);
    rope[0] = kv_rotate(r->k, tensor_rows(&s->k, s->n, T), c->kind->rope, r->pos);
    rope[1] = kv_rotate(r->v, tensor_rows(&s->v, s->n, T), NULL, 0);
    for (int i = 0; i < 2; i++) {
        struct kv_run *run = i ? set->v : set->k;
        int n = 0;
        if (T == 1) { /* whatever stands before the only query is seen: one run */
            run[n++] = kv_run_of(to[i], 0, s->n + 1, 0);
        } else {
            if (s->n)
                run[n++] = kv_run_of(to[i], 0, s->n, 0);
            run[n++] = kv_run_of(to[i], s->n, T, r->pos);
        }
        set->n_k = set->n_v = n;
    }
    s->n += T;
}

/* The shown ones among s->n values of each of n_row rows; row r asks KV head r / per. */
static void pick_shown(const struct kept *s, const uint8_t *seen, const void *from, void *to, int64_t n_row,
                       int64_t per)
{
    const uint32_t *src = from;
    uint32_t *dst = to;
    for (int64_t r = 0; r < n_row; r++)
        for (int64_t i = 0; i < s->n; i++)
            if (seen[r / per * s->capacity + i])
                *dst++ = src[r * s->capacity + i];
}

int kept_dump(const struct kv_cache *c, const struct kept *s, const uint8_t *keep, const float *score,
              int64_t rows, struct kv_dump *out, int *n)
{
    const int64_t hk = c->kind->n_kv_head, cap = s->capacity;
    const size_t marks = (size_t)(hk * cap), values = (size_t)(rows * cap);
    int32_t *token = mem_alloc(marks, sizeof *token);
    uint8_t *seen = mem_alloc(marks, 1);
    float *host = mem_alloc(values + 1, sizeof *host);
    memset(seen, 1, marks);
    c->ops->copy(c->ops, token, s->token, marks * sizeof *token);
    if (keep)
        c->ops->copy(c->ops, seen, keep, marks);
    if (score)
        c->ops->copy(c->ops, host, score, values * sizeof *host);
    int rc = c->ops->sync(c->ops);
    int64_t m = 0;
    for (int64_t i = 0; i < s->n; i++) {
        m += seen[i];
        for (int64_t h = 0; h < hk && i >= s->n_known; h++)
            token[h * cap + i] = (int32_t)(c->n - s->n + i);
    }
    pick_shown(s, seen, token, kv_dump_add(out, n, "kept", DT_I32, (const int64_t[3]){hk, m, 1}), hk, 1);
    if (score)
        pick_shown(s, seen, host, kv_dump_add(out, n, "score", DT_F32, (const int64_t[3]){rows, m, 1}), rows,
                   rows / hk);
    free(token);
    free(seen);
    free(host);
    return rc;
}
