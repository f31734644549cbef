/* What a cache will take, known before it is opened for real, and budgets in bytes: the mildest parameters
 * whose cache stays within them. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/hold.h"

#include <math.h>

/* A backend that owns nothing: caches opened on it allocate, so that their ledger can be read, and are never
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

/* A layer without a method, of a sequence that starts from a shared prompt: the prompt's part and its own. */
static int predict_fork(const struct kv_spec *spec, struct kv_cache *prompt, int64_t n_max,
                        struct kv_ledger *l)
{
    struct kv_cache c;
    const uint64_t shared = l->shared;
    prompt->n = prompt->n_prompt;
    struct kv_dense *d;
    TRY(kv_freeze(prompt, &d));
    int rc = kv_fork(&c, spec, prompt->shape, prompt->ops, prompt->layer, d, n_max);
    if (rc == 0)
        kv_bytes(&c, l);
    l->shared = shared;
    kv_close(&c);
    kv_dense_unref(d, prompt->ops);
    return rc;
}

/* Errors of the method's own check only: nothing can run out. */
int kv_predict_layer(const struct kv_spec *spec, const struct seq_shape *shape, int32_t layer,
                     int64_t n_prompt, int64_t n_max, struct kv_ledger *l)
{
    struct ops ops = dry;
    struct kv_cache c;
    const bool shares = !kv_prefill_key(spec, n_prompt, shape);
    const bool acts = kv_spec_acts(spec, shape, layer);
    const bool forks = shares && !acts && n_prompt > 0;
    TRY(kv_open(&c, spec, shape, &ops, layer, n_prompt, forks ? n_prompt : n_max));
    int rc = forks ? predict_fork(spec, &c, n_max, l) : 0;
    if (!forks)
        kv_bytes(&c, l);
    kv_close(&c);
    if (acts && shares && spec->method->keeps_prompt && spec->method->keeps_prompt(spec->params))
        l->bytes[MEM_WINDOW][PLACE_DEVICE] += shape_layer_bytes(shape, layer, n_prompt);
    return rc;
}

static void add_times(struct kv_ledger *sum, const struct kv_ledger *one, uint64_t times)
{
    for (int k = 0; k < MEM_KIND_N; k++)
        for (int p = 0; p < PLACE_N; p++)
            sum->bytes[k][p] += times * one->bytes[k][p];
}

/* Layers of a kind that the method acts on (or not); *first: one of them. */
static int32_t count_layers(const struct kv_spec *spec, const struct seq_shape *shape, int32_t kind,
                            bool acts, int32_t *first)
{
    int32_t n = 0;
    for (int32_t i = 0; i < shape->n_layer; i++) {
        if (shape->kind_of[i] != kind || kv_spec_acts(spec, shape, i) != acts)
            continue;
        *first = n++ ? *first : i;
    }
    return n;
}

/* They take the same, unless the method says otherwise: one of them is opened. */
static int predict_kinds(const struct kv_spec *spec, const struct seq_shape *shape, int64_t n_prompt,
                         int64_t n_max, struct kv_ledger *l)
{
    for (int32_t k = 0; k < 2 * shape->n_kind; k++) {
        struct kv_ledger one = {0};
        int32_t first = 0, n = count_layers(spec, shape, k / 2, k % 2, &first);
        if (n)
            TRY(kv_predict_layer(spec, shape, first, n_prompt, n_max, &one));
        add_times(l, &one, (uint64_t)n);
    }
    return 0;
}

int kv_predict(const struct kv_spec *spec, const struct seq_shape *shape, int64_t n_prompt, int64_t n_max,
               struct kv_ledger *l)
{
    *l = (struct kv_ledger){0};
    if (!spec->method->per_layer)
        return predict_kinds(spec, shape, n_prompt, n_max, l);
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
    return kv_acts(m) && (m->at_strength || m->from_ratio);
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
    const struct seq_shape *shape;
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

int kv_spec_solve(struct kv_spec *out, const struct kv_spec *spec, const struct seq_shape *shape,
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
