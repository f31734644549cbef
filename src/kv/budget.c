/* What a cache will take, known before it is opened for real, and budgets in bytes: the mildest parameters
 * whose cache stays within them. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/kv.h"

#include <math.h>

/* A table that owns nothing: caches opened on it allocate, so that their ledger can be read, and are never
 * stepped. */
static void *dry_alloc(struct ops *o, size_t bytes, enum mem_kind kind, enum mem_place place)
{
    (void)bytes, (void)kind, (void)place;
    return o;
}

static void dry_free(struct ops *o, void *p)
{
    (void)o, (void)p;
}

static void dry_copy(struct ops *o, void *dst, const void *src, size_t bytes)
{
    (void)o, (void)dst, (void)src, (void)bytes;
}

static int dry_sync(struct ops *o)
{
    (void)o;
    return 0;
}

static const struct ops dry = {
    .name = "dry", .act = DT_F32, .alloc = dry_alloc, .free = dry_free, .copy = dry_copy, .sync = dry_sync};

/* Errors of the method's own check only: nothing can run out. */
int kv_predict_layer(const struct kv_spec *spec, const struct kv_shape *shape, int32_t layer,
                     int64_t n_prompt, int64_t n_max, struct kv_ledger *l)
{
    struct ops ops = dry;
    struct kv_cache c;
    TRY(kv_open(&c, spec, shape, &ops, layer, n_prompt, n_max));
    kv_bytes(&c, l);
    kv_close(&c);
    bool keeps = spec->method->keeps_prompt && spec->method->keeps_prompt(spec->params);
    if (keeps && !kv_prefill_key(spec, n_prompt, shape))
        l->bytes[MEM_WINDOW][PLACE_DEVICE] += 2 * (uint64_t)n_prompt * kv_row_bytes(shape);
    return 0;
}

int kv_predict(const struct kv_spec *spec, const struct kv_shape *shape, int64_t n_prompt, int64_t n_max,
               struct kv_ledger *l)
{
    *l = (struct kv_ledger){0};
    for (int32_t i = 0; i < shape->n_layer; i++)
        TRY(kv_predict_layer(spec, shape, i, n_prompt, n_max, l));
    return 0;
}

uint64_t kv_ledger_place(const struct kv_ledger *l, enum mem_place place)
{
    uint64_t sum = 0;
    for (int k = 0; k < MEM_KIND_N; k++)
        sum += l->bytes[k][place];
    return sum;
}

/* A plain cache has none: where it has a ratio all the same, the prompt is what gets shorter. */
bool kv_has_strength(const struct kv_method *m)
{
    return m->open && (m->at_strength || m->from_ratio);
}

int kv_at_strength(const struct kv_method *m, void *params, double s)
{
    if (!m->at_strength)
        return m->from_ratio(params, 1 / (1 - s * (1 - 1 / KV_RATIO_MAX)));
    m->at_strength(params, s);
    return 0;
}

/* One solution: parameters of `spec` at strength s, and the device bytes they take. */
struct solve {
    struct kv_spec *spec;
    const struct kv_shape *shape;
    int64_t n_prompt, n_max;
};

static int bytes_at(const struct solve *v, double s, uint64_t *bytes)
{
    struct kv_ledger l;
    TRY(kv_at_strength(v->spec->method, v->spec->params, s));
    TRY(kv_predict(v->spec, v->shape, v->n_prompt, v->n_max, &l));
    *bytes = kv_ledger_place(&l, PLACE_DEVICE);
    return 0;
}

/* The strongest parameters that the method takes: ratios beyond what it allows are halved. */
static int strongest(const struct solve *v, double *s, uint64_t *bytes)
{
    int rc = bytes_at(v, *s = 1, bytes);
    for (double ratio = KV_RATIO_MAX / 2; rc < 0 && ratio > 1; ratio /= 2)
        rc = bytes_at(v, *s = (1 - 1 / ratio) / (1 - 1 / KV_RATIO_MAX), bytes);
    return rc;
}

static int too_small(const struct solve *v, uint64_t budget, uint64_t least)
{
    char asked[32], min[32];
    str_bytes(asked, (double)budget);
    str_bytes(min, (double)least);
    return err_set(ERR_INPUT,
                   "method %s: a budget of %s cannot hold a prompt of %lld tokens and %lld new ones; the "
                   "smallest possible is %s (budget=%llu)",
                   v->spec->label, asked, (long long)v->n_prompt, (long long)(v->n_max - v->n_prompt), min,
                   (unsigned long long)least);
}

/* Leaves the mildest parameters that fit in v->spec: strength `strong` fits, halves the way down to 0 until
 * neighbouring numbers are reached. */
static int mildest(const struct solve *v, uint64_t budget, double strong)
{
    double weak = 0;
    uint64_t bytes;
    TRY(bytes_at(v, weak, &bytes));
    if (bytes <= budget)
        return 0;
    for (int i = 0; i < 60; i++) {
        double s = weak + (strong - weak) / 2;
        TRY(bytes_at(v, s, &bytes));
        *(bytes <= budget ? &strong : &weak) = s;
    }
    return bytes_at(v, strong, &bytes);
}

static int solve(const struct solve *v, uint64_t budget)
{
    double s;
    uint64_t least;
    TRY(strongest(v, &s, &least));
    return least > budget ? too_small(v, budget, least) : mildest(v, budget, s);
}

int kv_spec_solve(struct kv_spec *out, const struct kv_spec *spec, const struct kv_shape *shape,
                  int64_t n_prompt, int64_t n_max)
{
    kv_spec_copy(out, spec);
    if (!out->budget)
        return 0;
    const struct solve v = {out, shape, n_prompt, n_max};
    uint64_t budget = out->budget;
    out->budget = 0; /* solved: the caches of this sequence take the parameters as they are */
    int rc = solve(&v, budget);
    if (rc < 0)
        kv_spec_free(out);
    return rc;
}
