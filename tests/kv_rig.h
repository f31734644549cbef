/* A layer to test caches on: random rows of q, k, v for a whole sequence, fed in chunks. */
#ifndef KVS_TESTS_KV_RIG_H
#define KVS_TESTS_KV_RIG_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"
#include "base/mem.h"
#include "kv/method.h"

/* The backend under test: the program's first argument, or the reference. */
static const char *rig_backend = "ref";

struct rig {
    struct ops *ops;
    struct rope rope;
    struct seq_shape shape;
    float inv_freq[64];
};

static inline void rig_init(struct rig *g, int32_t n_head, int32_t n_kv_head, int32_t d, enum dtype dtype)
{
    memset(g, 0, sizeof *g);
    assert_int_equal(ops_open(&g->ops, rig_backend, &(struct ops_options){0}), 0);
    const struct layer_kind kind = kind_attention(n_head, n_kv_head, d, 0);
    for (int i = 0; i < d / 2; i++)
        g->inv_freq[i] = (float)pow(10000.0, -2.0 * i / d);
    g->rope = (struct rope){.n_rot = d, .mscale = 1, .inv_freq = g->inv_freq};
    shape_alike(&g->shape, 1, &kind);
    g->shape.kind[0].rope = &g->rope;
    g->shape.dtype = dtype;
    g->shape.max_len = 100000;
}

/* Heads of another width; rig_init's frequencies stay. */
static inline void rig_width(struct rig *g, int32_t d)
{
    struct layer_kind *k = &g->shape.kind[0];
    *k = kind_attention(k->n_head, k->n_kv_head, d, 0);
    k->rope = &g->rope;
    g->rope.n_rot = d;
}

static inline void assert_near(double a, double b, double eps)
{
    if (!(fabs(a - b) <= eps))
        fail_msg("%.9g is not %.9g", a, b);
}

static inline size_t rig_used(const struct rig *g)
{
    size_t sum = 0;
    for (int k = 0; k < MEM_KIND_N; k++)
        for (int p = 0; p < PLACE_N; p++)
            sum += g->ops->used(g->ops, (enum mem_kind)k, (enum mem_place)p);
    return sum;
}

/* Every test ends here: nothing may be left on the device. */
static inline void rig_free(struct rig *g)
{
    assert_int_equal(rig_used(g), 0);
    ops_close(g->ops);
}

static inline uint32_t rig_random(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*seed >> 33);
}

/* Rows of one sequence: q and out [n,H,d], k and v [n,Hk,d], f32. */
struct feed {
    int64_t n;
    size_t q_row, k_row; /* values of one token */
    float *q, *k, *v, *out;
};

static inline void feed_init(struct feed *f, const struct rig *g, int64_t n, uint64_t seed)
{
    f->n = n;
    f->q_row = (size_t)(g->shape.kind[0].n_head * g->shape.kind[0].d_k);
    f->k_row = (size_t)(g->shape.kind[0].n_kv_head * g->shape.kind[0].d_k);
    f->q = mem_alloc((size_t)n * f->q_row, sizeof(float));
    f->out = mem_alloc((size_t)n * f->q_row, sizeof(float));
    f->k = mem_alloc((size_t)n * f->k_row, sizeof(float));
    f->v = mem_alloc((size_t)n * f->k_row, sizeof(float));
    for (size_t i = 0; i < (size_t)n * f->q_row; i++)
        f->q[i] = (float)((int32_t)(rig_random(&seed) % 4001) - 2000) / 1000;
    for (size_t i = 0; i < (size_t)n * f->k_row; i++)
        f->k[i] = (float)((int32_t)(rig_random(&seed) % 4001) - 2000) / 1000;
    for (size_t i = 0; i < (size_t)n * f->k_row; i++)
        f->v[i] = (float)((int32_t)(rig_random(&seed) % 4001) - 2000) / 1000;
}

static inline void feed_free(struct feed *f)
{
    free(f->q);
    free(f->k);
    free(f->v);
    free(f->out);
}

/* Copies of rows [at, at+n), because a step may overwrite them; out points into f. */
static inline struct kv_rows feed_rows(const struct feed *f, const struct rig *g, int64_t at, int64_t n)
{
    const int64_t H = g->shape.kind[0].n_head, Hk = g->shape.kind[0].n_kv_head, d = g->shape.kind[0].d_k;
    const size_t a = (size_t)at, b = (size_t)n;
    return (struct kv_rows){
        .q = {mem_dup(f->q + a * f->q_row, b * f->q_row * sizeof(float)), DT_F32, {n, H, d, 1}},
        .k = {mem_dup(f->k + a * f->k_row, b * f->k_row * sizeof(float)), DT_F32, {n, Hk, d, 1}},
        .v = {mem_dup(f->v + a * f->k_row, b * f->k_row * sizeof(float)), DT_F32, {n, Hk, d, 1}},
        .out = {f->out + a * f->q_row, DT_F32, {n, H, d, 1}},
        .pos = at};
}

static inline void rows_free(struct kv_rows *r)
{
    free(r->q.data);
    free(r->k.data);
    free(r->v.data);
}

static inline int rig_step(const struct rig *g, struct kv_cache *c, const struct feed *f, int64_t n)
{
    struct kv_rows r = feed_rows(f, g, c->n, n);
    int rc = kv_step(&c, &r, 1);
    rows_free(&r);
    return rc;
}

/* Feeds up to token `to`, `piece` rows at a time. */
static inline void rig_feed(const struct rig *g, struct kv_cache *c, const struct feed *f, int64_t to,
                            int64_t chunk)
{
    while (c->n < to)
        assert_int_equal(rig_step(g, c, f, to - c->n < chunk ? to - c->n : chunk), 0);
}

static inline bool needs_own_pass(const struct kv_spec *s, int64_t n_prompt, const struct seq_shape *shape)
{
    return kv_prefill_key(s, n_prompt, shape) != 0;
}

/* A cache of `spec` after the prompt, as the engine makes it: its own pass, or a fork of the plain one. */
static inline int rig_prompt(const struct rig *g, struct kv_cache *c, const struct kv_spec *spec,
                             const struct feed *f, int64_t n_prompt, int64_t n_max, int64_t chunk)
{
    if (needs_own_pass(spec, n_prompt, &g->shape)) {
        TRY(kv_open(c, spec, &g->shape, g->ops, 0, n_prompt, n_max));
        while (c->n < n_prompt) {
            int rc = rig_step(g, c, f, n_prompt - c->n < chunk ? n_prompt - c->n : chunk);
            if (rc < 0) {
                kv_close(c);
                return rc;
            }
        }
        return 0;
    }
    struct kv_spec full;
    struct kv_cache prompt;
    assert_int_equal(kv_spec_parse(&full, "full"), 0);
    int rc = kv_open(&prompt, &full, &g->shape, g->ops, 0, n_prompt, n_prompt);
    if (rc == 0 && kv_wants(spec))
        rc = kv_watch(&prompt, kv_wants(spec));
    if (rc == 0) {
        rig_feed(g, &prompt, f, n_prompt, chunk);
        struct kv_dense *dense;
        assert_int_equal(kv_freeze(&prompt, &dense), 0);
        rc = kv_fork(c, spec, &g->shape, g->ops, 0, dense, n_max);
        kv_dense_settle(dense, g->ops);
        kv_dense_unref(dense, g->ops);
    }
    kv_close(&prompt);
    kv_spec_free(&full);
    return rc;
}

static inline void dump_free(struct kv_dump *d, int n)
{
    for (int i = 0; i < n; i++)
        free(d[i].data);
}

static inline const struct kv_dump *dump_find(const struct kv_dump *d, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(d[i].name, name))
            return &d[i];
    fail_msg("no array %s", name);
    return NULL;
}

#endif
