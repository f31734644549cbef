/* What the model tests share: backends, opening a fixture, reading expected.bin, comparing. */
#ifndef KVS_TESTS_MODEL_COMMON_H
#define KVS_TESTS_MODEL_COMMON_H

#include "expect.h"

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "model/model.h"

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A model of a fixture on one backend. */
struct rig {
    struct ops *ops;
    struct model *m;
    struct seq_shape shape;
    struct kv_spec full;
};

static inline void rig_open(struct rig *r, const char *path, const char *backend, enum dtype dtype,
                            bool share)
{
    const struct ops_options oo = {.threads = 2, .isa = "auto"};
    struct model_file *f;
    OK(ops_open(&r->ops, backend, &oo));
    OK(model_file_open(&f, path));
    const struct model_options mo = {.dtype = dtype, .threads = 2, .share = share};
    OK(model_open(&r->m, r->ops, f, &mo));
    model_file_close(f);
    OK(model_seq_shape(r->m, DT_F32, &(struct model_overrides){.rope_theta_factor = 1}, &r->shape));
    OK(kv_spec_parse(&r->full, "full"));
}

static inline void rig_close(struct rig *r)
{
    kv_spec_free(&r->full);
    model_close(r->m);
    for (int k = 0; k < MEM_KIND_N; k++)
        for (int p = 0; p < PLACE_N; p++)
            assert_int_equal(r->ops->used(r->ops, (enum mem_kind)k, (enum mem_place)p), 0);
    ops_close(r->ops);
}

static inline bool have_backend(const char *name)
{
    for (const char *const *p = ops_names(); *p; p++)
        if (!strcmp(*p, name))
            return true;
    return false;
}

/* Index of the largest, the lowest of equals. */
static inline int32_t argmax(const float *x, int n)
{
    int32_t best = 0;
    for (int32_t i = 1; i < n; i++)
        best = x[i] > x[best] ? i : best;
    return best;
}

/* expected.bin of tests/oracle/model_make.py. */
struct expected {
    char *raw;
    int n_prompt, n_greedy, n_vocab;
    const int32_t *ids;  /* prompt, then greedy */
    const float *logits; /* [n_prompt, n_vocab] */
};

static inline void expected_read(struct expected *e, const char *dir)
{
    char *path = file_join(dir, "expected.bin");
    size_t n;
    OK(file_read(path, &e->raw, &n));
    free(path);
    const int32_t *head = (const int32_t *)(const void *)e->raw;
    e->n_prompt = head[0];
    e->n_greedy = head[1];
    e->n_vocab = head[2];
    e->ids = head + 3;
    e->logits = (const float *)(const void *)(e->ids + e->n_prompt + e->n_greedy);
    assert_int_equal(n, (size_t)(3 + e->n_prompt + e->n_greedy + e->n_prompt * e->n_vocab) * 4);
}

static inline double max_diff(const float *a, const float *b, int64_t n)
{
    double m = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        m = d <= m ? m : d; /* NaN becomes the maximum */
        if (isnan(d))
            return INFINITY;
    }
    return m;
}

/* One forward of one sequence; the logits stay valid until the next. */
static inline const float *step(struct rig *r, struct seq *s, const int32_t *ids, int64_t n,
                                enum logits_want want)
{
    struct batch_item it = {s, ids, n};
    struct tensor logits = {0};
    OK(model_forward(r->m, &it, 1, want, &logits));
    return logits.data;
}

#endif
