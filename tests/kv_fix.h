/* Fixture files of the method oracles (format: fixtures/kv/README.md) and streams of q, k, v from them. */
#ifndef KVS_TESTS_KV_FIX_H
#define KVS_TESTS_KV_FIX_H

#include "kv_rig.h"

#include "base/file.h"

/* Where fixture files lie. */
static const char *fix_dir = "fixtures/kv";

struct fix {
    char *bytes;
    size_t n;
};

/* One array inside the file's bytes. */
struct array {
    const void *data;
    uint32_t kind, n_dim;
    int64_t n[4];
};
enum kind { KIND_U8 = 1, KIND_I32, KIND_I64, KIND_U64, KIND_F16, KIND_F32, KIND_F64 };

struct fix_head {
    char magic[8];
    uint32_t n_text, n_array, table_at, record;
};
struct fix_record {
    char name[32];
    uint32_t kind, n_dim;
    int64_t n[4];
    uint64_t at;
};

static inline void fix_open(struct fix *f, const char *name)
{
    char *path = mem_printf("%s/%s.bin", fix_dir, name);
    if (file_read(path, &f->bytes, &f->n) < 0)
        fail_msg("%s", err_text());
    assert_memory_equal(f->bytes, "KVFIX01", 8);
    free(path);
}

static inline struct array fix_get(const struct fix *f, enum kind kind, const char *fmt, int i)
{
    struct fix_head head;
    struct fix_record r;
    char name[32];
    snprintf(name, sizeof name, fmt, i);
    memcpy(&head, f->bytes, sizeof head);
    assert_int_equal(head.record, sizeof r);
    for (uint32_t k = 0; k < head.n_array; k++) {
        memcpy(&r, f->bytes + head.table_at + (size_t)k * sizeof r, sizeof r);
        if (strncmp(r.name, name, sizeof r.name))
            continue;
        assert_true(r.kind == kind || (kind == KIND_F16 && r.kind == KIND_F32));
        assert_true(r.at < f->n);
        return (struct array){f->bytes + r.at, r.kind, r.n_dim, {r.n[0], r.n[1], r.n[2], r.n[3]}};
    }
    fail_msg("no array %s", name);
    return (struct array){0};
}

static inline int32_t int_at(const struct array *a, int64_t i)
{
    return ((const int32_t *)a->data)[i];
}

/* Exact: a half is a float. */
static inline float from_half(uint16_t h)
{
    int e = h >> 10 & 31, m = h & 1023;
    float v = e ? ldexpf((float)(1024 + m), e - 25) : ldexpf((float)m, -24);
    return h & 0x8000 ? -v : v;
}

static inline float *floats(const struct array *a, size_t n)
{
    if (a->kind == KIND_F32)
        return mem_dup(a->data, n * sizeof(float));
    assert_int_equal(a->kind, KIND_F16);
    float *out = mem_alloc(n, sizeof *out);
    for (size_t i = 0; i < n; i++)
        out[i] = from_half(((const uint16_t *)a->data)[i]);
    return out;
}

/* A rig and the first n tokens of a stream. */
static inline void stream_open(struct rig *g, struct feed *f, const char *name, int64_t n, enum dtype dtype)
{
    struct fix file;
    char *path = mem_printf("stream_%s", name);
    fix_open(&file, path);
    struct array q = fix_get(&file, KIND_F16, "q", 0), k = fix_get(&file, KIND_F16, "k", 0);
    struct array v = fix_get(&file, KIND_F16, "v", 0);
    assert_true(n <= q.n[0]);
    rig_init(g, (int32_t)q.n[1], (int32_t)k.n[1], (int32_t)k.n[2], dtype);
    *f = (struct feed){.n = n, .q_row = (size_t)(q.n[1] * q.n[2]), .k_row = (size_t)(k.n[1] * k.n[2])};
    f->q = floats(&q, (size_t)n * f->q_row);
    f->k = floats(&k, (size_t)n * f->k_row);
    f->v = floats(&v, (size_t)n * f->k_row);
    f->out = mem_alloc((size_t)n * f->q_row, sizeof(float));
    free(path);
    free(file.bytes);
}

/* `bound` is relative above 1, absolute below. */
static inline void compare_rows(const float *got, const float *want, size_t n, double bound, const char *what,
                                int i, int64_t at)
{
    for (size_t k = 0; k < n; k++) {
        double most = bound * fmax(1, fabs((double)want[k]));
        if (!(fabs((double)got[k] - (double)want[k]) <= most))
            fail_msg("%s, case %d, row %d, value %zu: %.8g is not %.8g", what, i, (int)at, k, (double)got[k],
                     (double)want[k]);
    }
}

/* Budgets of a method at keep and cap of the fixture "budget" against columns [from, from + n) of its `out`.
 */
static inline void fix_budgets(const char *method, const enum kv_budget *which, int from, int n)
{
    struct fix file;
    struct rig g;
    fix_open(&file, "budget");
    struct array in = fix_get(&file, KIND_F64, "in", 0), out = fix_get(&file, KIND_I32, "out", 0);
    rig_init(&g, 1, 1, 2, DT_F16);
    assert_true(in.n[0] > 100);
    for (int64_t i = 0; i < in.n[0]; i++) {
        const double *row = (const double *)in.data + 3 * i; /* ratio, prompt tokens, cap */
        char *text = mem_printf("%s:keep=%.17g,cap=%.17g", method, row[0], row[2]);
        struct kv_spec spec;
        struct kv_cache c;
        struct kv_budgets b;
        assert_int_equal(kv_spec_parse(&spec, text), 0);
        assert_int_equal(kv_open(&c, &spec, &g.shape, g.ops, 0, (int64_t)row[1], (int64_t)row[1]), 0);
        kv_get_budgets(&c, &b);
        for (int k = 0; k < n; k++)
            assert_near(b.value[which[k]], int_at(&out, i * out.n[1] + from + k), 0);
        kv_close(&c);
        kv_spec_free(&spec);
        free(text);
    }
    free(file.bytes);
    rig_free(&g);
}

#endif
