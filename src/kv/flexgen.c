/* FlexGen's 4-bit cache (arXiv 2303.06865): keys after RoPE and values, both per token in groups of channels.
 * Two methods share this file.
 *
 * flexgen, as the benchmark of arXiv 2407.01527 simulates it (pipeline/flexgen/models/utils_quant.py), every
 * line one fp16 operation per value x of a group:
 *     s = (mx - mn) / 15;  c = round_half_even(max((x - mn) / s, 0));  value = c * s + mn
 * The simulation quantises the whole cache anew in every forward pass, the prompt's too. A group depends on
 * its own token alone, so codes written once give the same numbers; a token is attended to as its codes from
 * its own row on. Two corners of the simulation cannot be kept:
 * - s == 0 (range below 8 * 2^-24): its value is NaN, here it is mn.
 * - Its codes have no upper end. For a normal s the largest is 15. For a subnormal s = k * 2^-24 it is
 *   round((15 k + 7) / k) at most, so codes above 15 (up to 22, at k = 1) exist for k <= 14 alone, that is in
 *   groups whose values differ by at most 217 * 2^-24 = 1.3e-5. 16 codes cannot hold them: they are clamped,
 *   which moves such a value by at most 14 * 2^-24 = 8.4e-7.
 *
 * flexgen-upstream, as FlexGen itself computes on a GPU (FMInference/FlexLLMGen, flexllmgen/compression.py
 * and pytorch_backend.py: mha, mha_gen), again one fp16 operation at a time: s = (1 / (mx - mn)) * 15;  c =
 * round_half_even(clamp((x - mn) * s, 0, 15));  value = c / s + mn (s is infinite for ranges below 2.3e-4,
 * which then read mn). A row attends to earlier tokens as codes and to itself exactly; the prompt pass is
 * plain.
 *
 * `when` (both): prefill: prompt rows attend by the rule of decode rows, in a prompt pass of their own;
 * after: the prompt pass is plain and all of the prompt becomes codes at its end; decode: the prompt stays as
 * it is and generated tokens alone become codes. Keys and values are rounded to the cache dtype before
 * anything else.
 *
 * In a layer with a window (window_layers=1) codes lie in a ring, and calls of many rows go part by part, so
 * that a part never takes the place of what its first row still sees. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/method.h"

#include <assert.h>
#include <stdlib.h>

struct flex_params {
    int64_t bits, group, when;
};

#define FLEX_BITS(choices)                                                                                   \
    {                                                                                                        \
        "bits", PARAM_INT, offsetof(struct flex_params, bits), 4, 2, 4, choices, NULL,                       \
            "bits per key or value code"                                                                     \
    }
#define FLEX_GROUP(def)                                                                                      \
    {                                                                                                        \
        "group", PARAM_INT, offsetof(struct flex_params, group), def, 16, 128, "16|32|64|128", NULL,         \
            "channels of one token and head that share scale and minimum"                                    \
    }
static const struct param flexgen_table[] = {
    FLEX_BITS("2|4"), FLEX_GROUP(32), KV_WHEN_PARAM(struct flex_params, KV_WHEN_PREFILL), {0}};
static const struct param upstream_table[] = {
    FLEX_BITS("4"), FLEX_GROUP(64), KV_WHEN_PARAM(struct flex_params, KV_WHEN_AFTER), {0}};

enum { PART = 64 }; /* rows of a part */

enum { K_CODES, K_SCALE, K_MIN, V_CODES, V_SCALE, V_MIN, K_OWN, V_OWN, N_MEM };

struct flexgen {
    /* Codes [n,Hk,d*bits/8] bytes, scale and min f16 [n,Hk,d/group]; then one decode row [1,Hk,d]. */
    struct kv_mem mem[N_MEM];
    struct kv_dense *prompt; /* when=decode, from its end on; NULL: none */
    int64_t n_exact;         /* tokens in it; the first token with codes */
    int64_t slots;           /* room for codes: token t has slot (t - n_exact) % slots */
};

extern const struct kv_method kv_method_flexgen_upstream; /* below */

static bool is_upstream(const struct kv_cache *c)
{
    return c->method == &kv_method_flexgen_upstream;
}

static int flex_check(const char *name, const struct flex_params *p, const struct layer_kind *kind)
{
    if (!kind || kind->d_k % p->group == 0)
        return 0;
    struct str ok = {0};
    for (int64_t g = 16; g <= 128; g *= 2)
        if (kind->d_k % g == 0)
            str_printf(&ok, "%s%lld", ok.n ? " or " : "", (long long)g);
    int rc =
        ok.n ? err_set(ERR_INPUT, "method %s: group=%lld is not allowed with a head dimension of %d; use %s",
                       name, (long long)p->group, (int)kind->d_k, str_c(&ok))
             : err_set(ERR_INPUT,
                       "method %s: the model's head dimension %d is no multiple of any group (16, 32, "
                       "64, 128)",
                       name, (int)kind->d_k);
    str_free(&ok);
    return rc;
}

static int flexgen_check(const void *params, const struct layer_kind *kind)
{
    return flex_check("flexgen", params, kind);
}

static int upstream_check(const void *params, const struct layer_kind *kind)
{
    return flex_check("flexgen-upstream", params, kind);
}

/* Of what is in codes, against 16 bits. */
static double flex_nominal(const void *params)
{
    const struct flex_params *p = params;
    return 16 / ((double)p->bits + 32.0 / (double)p->group);
}

static uint64_t flex_key(const char *name, const struct flex_params *p)
{
    const int64_t numbers[] = {p->bits, p->group};
    return p->when == KV_WHEN_PREFILL ? kv_key(name, numbers, 2) : 0;
}

static uint64_t flexgen_prefill_key(const void *params, int64_t n_prompt, const struct layer_kind *kind)
{
    (void)n_prompt, (void)kind;
    return flex_key("flexgen", params);
}

/* One token attends to itself only, exactly. */
static uint64_t upstream_prefill_key(const void *params, int64_t n_prompt, const struct layer_kind *kind)
{
    (void)kind;
    return n_prompt <= 1 ? 0 : flex_key("flexgen-upstream", params);
}

static bool flex_keeps_prompt(const void *params)
{
    return ((const struct flex_params *)params)->when == KV_WHEN_DECODE;
}

static int flex_open(struct kv_cache *c)
{
    const struct flex_params *p = c->params;
    struct flexgen *s = c->state = mem_alloc(1, sizeof *s);
    s->n_exact = p->when == KV_WHEN_DECODE ? c->n_prompt : 0;
    s->slots = c->n_max - s->n_exact;
    if (c->kind->window) /* a ring has whole parts, one more than the window needs */
        s->slots = min64(s->slots, (c->kind->window + 2 * PART - 1) / PART * PART);
    const size_t values = (size_t)s->slots * (size_t)c->kind->n_kv_head * (size_t)c->kind->d_k;
    for (int i = 0; i < 2; i++) {
        struct kv_mem *m = &s->mem[i ? V_CODES : K_CODES];
        TRY(kv_mem_open(c, &m[0], values * (size_t)p->bits / 8, MEM_CODES));
        TRY(kv_mem_open(c, &m[1], values / (size_t)p->group * 2, MEM_SCALES));
        TRY(kv_mem_open(c, &m[2], values / (size_t)p->group * 2, MEM_SCALES));
        TRY(kv_mem_open(c, &s->mem[K_OWN + i], kv_row_bytes(c), MEM_WORKSPACE));
    }
    return 0;
}

static void flex_close(struct kv_cache *c)
{
    struct flexgen *s = c->state;
    for (int i = 0; s && i < N_MEM; i++)
        kv_mem_close(c, &s->mem[i]);
    if (s && s->prompt)
        kv_dense_unref(s->prompt, c->ops);
    free(s);
}

static int64_t slot_of(const struct flexgen *s, int64_t token)
{
    return s->slots ? (token - s->n_exact) % s->slots : 0;
}

/* Room of the codes of keys (i = 0) or values (i = 1) from token `at` on. */
static struct quant_args flex_quant(const struct kv_cache *c, int i, struct tensor src, int64_t at)
{
    const struct flex_params *p = c->params;
    const struct flexgen *s = c->state;
    const struct kv_mem *m = &s->mem[i ? V_CODES : K_CODES];
    const int64_t values = slot_of(s, at) * c->kind->n_kv_head * c->kind->d_k; /* before it */
    return (struct quant_args){.layout = QUANT_TOKEN,
                               .bits = (int32_t)p->bits,
                               .group = (int32_t)p->group,
                               .src = src,
                               .codes = (uint8_t *)m[0].data + values * p->bits / 8,
                               .scale = (uint16_t *)m[1].data + values / p->group,
                               .min = (uint16_t *)m[2].data + values / p->group,
                               .inverse = is_upstream(c)};
}

/* Tokens [from, to) in codes, oldest first: 0, 1 or, in a ring, 2 runs. */
static int flex_runs(const struct kv_cache *c, int i, int64_t from, int64_t to, struct kv_run *out)
{
    const struct flexgen *s = c->state;
    int n_run = 0;
    for (int64_t n; from < to; from += n) {
        const struct quant_args q = flex_quant(c, i, (struct tensor){0}, from);
        n = min64(to - from, s->slots - slot_of(s, from));
        out[n_run++] = (struct kv_run){.layout = QUANT_TOKEN,
                                       .dtype = c->shape->dtype,
                                       .bits = q.bits,
                                       .group = q.group,
                                       .f16_values = true,
                                       .inverse = q.inverse,
                                       .data = q.codes,
                                       .scale = q.scale,
                                       .min = q.min,
                                       .n = n,
                                       .pos = from};
    }
    return n_run;
}

/* Codes of the tokens of a frozen prompt that its ring holds: pieces end where either ring does. */
static void quant_ring(struct kv_cache *c, const struct kv_dense *dense)
{
    const struct flexgen *s = c->state;
    const int64_t held = dense->k.n[0];
    struct quant_args q[2];
    for (int64_t at = max64(0, dense->n - held), n; at < dense->n; at += n) {
        n = min64(dense->n - at, min64(held - at % held, s->slots - slot_of(s, at)));
        q[0] = flex_quant(c, 0, tensor_rows(&dense->k, at % held, n), at);
        q[1] = flex_quant(c, 1, tensor_rows(&dense->v, at % held, n), at);
        c->ops->quant(c->ops, q, 2);
    }
}

static int flex_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    const struct flex_params *p = c->params;
    struct flexgen *s = c->state;
    if (p->when == KV_WHEN_DECODE) {
        s->prompt = kv_dense_ref(dense);
        return 0;
    }
    if (dense->n)
        quant_ring(c, dense);
    return 0;
}

/* Rows of one cache in one step, as the cache dtype holds them: [T,Hk,d]. */
struct flex_job {
    struct kv_mem mem[2]; /* chunks only; a single row has its place in the cache */
    struct tensor own[2];
};

static int flex_plan(const struct kv_cache *c, const struct kv_rows *r, struct flex_job *j)
{
    const struct flexgen *s = c->state;
    const int64_t T = r->q.n[0];
    *j = (struct flex_job){0};
    for (int i = 0; i < 2; i++) {
        if (T > 1)
            TRY(kv_mem_open(c, &j->mem[i], (size_t)T * kv_row_bytes(c), MEM_WORKSPACE));
        j->own[i] = kv_tensor(c, T > 1 ? j->mem[i].data : s->mem[K_OWN + i].data, T);
    }
    return 0;
}

/* Exact prompt, codes. A row of flexgen-upstream reads itself from `own`: a single row in place of its codes,
 * rows of a chunk through a set of their own. */
static void flex_attend(const struct kv_cache *c, const struct kv_rows *r, const struct flex_job *j,
                        struct attend_args *a)
{
    const struct flexgen *s = c->state;
    const int64_t T = r->q.n[0]; /* the new rows are counted in c->n */
    const int64_t first = c->kind->window ? max64(0, r->pos - c->kind->window + 1) : 0; /* that a row sees */
    const bool own = is_upstream(c), in_place = own && T == 1;
    kv_attend_init(a, c, r);
    struct attend_set *set = &a->set[0];
    for (int i = 0; i < 2; i++) {
        struct kv_run *run = i ? set->v : set->k;
        int n_run = 0;
        if (s->prompt) {
            const struct tensor *ring = i ? &s->prompt->v : &s->prompt->k;
            n_run = kv_ring_runs(ring, 0, max64(first, s->prompt->n - ring->n[0]), s->prompt->n, run);
        }
        n_run += flex_runs(c, i, max64(first, s->n_exact), c->n - in_place, run + n_run);
        if (in_place)
            run[n_run++] = kv_run_of(&j->own[i], 0, 1, r->pos);
        set->n_k = set->n_v = n_run;
    }
    if (!own || in_place)
        return;
    a->n_set = 2;
    set->dist_min = 1;
    a->set[1] = (struct attend_set){.q = r->q, .n_k = 1, .n_v = 1, .dist_max = 1};
    a->set[1].k[0] = kv_run_of(&j->own[0], 0, T, r->pos);
    a->set[1].v[0] = kv_run_of(&j->own[1], 0, T, r->pos);
}

struct flex_batch {
    struct flex_job *job;
    struct rope_args *rope;
    struct quant_args *quant;
    struct attend_args *attend;
};

static void flex_run_all(struct kv_cache *const *c, const struct kv_rows *rows, int n, struct flex_batch *b)
{
    struct ops *ops = c[0]->ops;
    for (int i = 0; i < n; i++) {
        const struct kv_rows *r = &rows[i];
        const struct tensor *own = b->job[i].own;
        b->rope[3 * i] = kv_rotate(r->q, r->q, c[i]->kind->rope, r->pos);
        b->rope[3 * i + 1] = kv_rotate(r->k, own[0], c[i]->kind->rope, r->pos);
        b->rope[3 * i + 2] = kv_rotate(r->v, own[1], NULL, 0);
        for (int k = 0; k < 2; k++)
            b->quant[2 * i + k] = flex_quant(c[i], k, own[k], c[i]->n);
        c[i]->n += r->q.n[0];
        flex_attend(c[i], r, &b->job[i], &b->attend[i]);
    }
    ops->rope(ops, b->rope, 3 * n);
    ops->quant(ops, b->quant, 2 * n);
    ops->attend(ops, b->attend, n);
}

/* Gives the workspace of chunks back, once nothing on the device uses it any more. */
static int flex_release(struct kv_cache *const *c, struct flex_job *j, int n)
{
    bool any = false;
    for (int i = 0; i < n; i++)
        any = any || j[i].mem[0].data;
    int rc = any ? c[0]->ops->sync(c[0]->ops) : 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < 2; k++)
            kv_mem_close(c[i], &j[i].mem[k]);
    return rc;
}

static int flex_rows(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    const size_t count = (size_t)n;
    struct flex_batch b = {mem_alloc(count, sizeof *b.job), mem_alloc(3 * count, sizeof *b.rope),
                           mem_alloc(2 * count, sizeof *b.quant), mem_alloc(count, sizeof *b.attend)};
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = flex_plan(c[i], &rows[i], &b.job[i]);
    if (rc == 0)
        flex_run_all(c, rows, n, &b);
    int released = flex_release(c, b.job, n);
    free(b.job);
    free(b.rope);
    free(b.quant);
    free(b.attend);
    return rc < 0 ? rc : released;
}

/* The next part of every cache that has rows left; a part ends where a part of the ring does. Returns how
 * many caches had some. */
static int flex_part(struct kv_cache *const *c, const struct kv_rows *rows, int n, struct kv_cache **some,
                     struct kv_rows *part)
{
    int m = 0;
    for (int i = 0; i < n; i++) {
        const int64_t at = c[i]->n - rows[i].pos,
                      own = c[i]->n - ((const struct flexgen *)c[i]->state)->n_exact;
        if (at == rows[i].q.n[0])
            continue;
        some[m] = c[i];
        part[m++] = kv_rows_part(&rows[i], at, min64(rows[i].q.n[0] - at, PART - own % PART));
    }
    const int rc = m ? flex_rows(some, part, m) : 0;
    return rc < 0 ? rc : m;
}

static int flex_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    for (int i = 0; i < n; i++)
        if (((const struct flex_params *)c[i]->params)->when != KV_WHEN_PREFILL)
            TRY(kv_after_prompt(c[i]));
    if (!c[0]->kind->window)
        return flex_rows(c, rows, n);
    struct kv_cache **some = mem_alloc((size_t)n, sizeof *some);
    struct kv_rows *part = mem_alloc((size_t)n, sizeof *part);
    int rc;
    do
        rc = flex_part(c, rows, n, some, part);
    while (rc > 0);
    free(some);
    free(part);
    return rc;
}

static void flex_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct flexgen *s = c->state;
    kv_mem_count(s->mem, N_MEM, l);
    if (s->prompt)
        kv_dense_count(s->prompt, l);
}

/* kept_bits: mean bits per key or value element over the tokens seen, of a window over those in it. */
static void flex_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    const struct flex_params *p = c->params;
    const struct flexgen *s = c->state;
    if (!c->n)
        return;
    const int64_t held = c->kind->window ? min64(c->n, c->kind->window) : c->n;
    double exact = (double)max64(0, held - (c->n - s->n_exact)) / (double)held;
    b->value[KV_KEPT_BITS] = (1 - exact) * ((double)p->bits + 32.0 / (double)p->group) +
                             exact * 8.0 * (double)dtype_bytes(c->shape->dtype);
}

/* Codes of keys or values, one byte each: [n,Hk,d]. */
static void unpack(const struct kv_cache *c, int i, int64_t n, uint8_t *out)
{
    const struct flex_params *p = c->params;
    const int64_t count = n * c->kind->n_kv_head * c->kind->d_k, per = 8 / p->bits;
    uint8_t *packed = mem_alloc(count ? (size_t)(count / per) : 1, 1);
    if (count)
        c->ops->copy(c->ops, packed, ((const struct flexgen *)c->state)->mem[i ? V_CODES : K_CODES].data,
                     (size_t)(count / per));
    (void)c->ops->sync(c->ops);
    for (int64_t k = 0; k < count; k++)
        out[k] = (uint8_t)(packed[k / per] >> (k % per * p->bits) & ((1 << p->bits) - 1));
    free(packed);
}

/* Of the tokens in codes; a ring's slots in their own order. */
static int flex_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    static const char *const name[2][3] = {{"k_codes", "k_scale", "k_min"}, {"v_codes", "v_scale", "v_min"}};
    const struct flex_params *p = c->params;
    const struct flexgen *s = c->state;
    const int64_t hk = c->kind->n_kv_head, d = c->kind->d_k, rows = min64(c->n - s->n_exact, s->slots);
    const int64_t codes[3] = {rows, hk, d}, groups[3] = {rows, hk, d / p->group};
    for (int i = 0; i < 2; i++) {
        unpack(c, i, rows, kv_dump_add(out, n, name[i][0], DT_U8, codes));
        for (int k = 1; k < 3; k++) {
            void *to = kv_dump_add(out, n, name[i][k], DT_F16, groups);
            if (rows)
                c->ops->copy(c->ops, to, s->mem[(i ? V_CODES : K_CODES) + k].data,
                             (size_t)(groups[0] * groups[1] * groups[2]) * 2);
        }
    }
    return c->ops->sync(c->ops);
}

#define FLEX_HOOKS                                                                                           \
    .params_bytes = sizeof(struct flex_params), .windows = true, .nominal_ratio = flex_nominal,              \
    .keeps_prompt = flex_keeps_prompt, .open = flex_open, .from_dense = flex_from_dense, .step = flex_step,  \
    .bytes = flex_bytes, .budgets = flex_budgets, .dump = flex_dump, .close = flex_close

const struct kv_method kv_method_flexgen = {
    .name = "flexgen",
    .source = "arXiv 2303.06865; pipeline/flexgen of arXiv 2407.01527",
    .summary = "4-bit codes per token, inside the prompt pass too: the benchmark's simulation, really packed",
    .params = flexgen_table,
    .check = flexgen_check,
    .prefill_key = flexgen_prefill_key,
    FLEX_HOOKS,
};

const struct kv_method kv_method_flexgen_upstream = {
    .name = "flexgen-upstream",
    .source = "arXiv 2303.06865; FMInference/FlexLLMGen compression.py, pytorch_backend.py",
    .summary =
        "4-bit codes per token after a plain prompt pass: FlexGen's own formula, a row sees itself exactly",
    .params = upstream_table,
    .check = upstream_check,
    .prefill_key = upstream_prefill_key,
    FLEX_HOOKS,
};
