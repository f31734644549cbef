/* KIVI (arXiv 2402.02750) as the benchmark of arXiv 2407.01527 runs it (pipeline/kivi): keys quantised per
 * channel in groups of tokens, values per token in groups of channels, the newest tokens kept as they are.
 * With n tokens seen and residual R: keys [0, n - n % R) and values [0, n - R) are codes; a step attends
 * first and quantises afterwards.
 *
 * `when`: after (the paper): the prompt pass is plain and its end leaves the same codes and windows; prefill:
 * prompt rows attend as decode rows do, to the codes that n tokens before them leave; decode: the prompt
 * stays as it is, and n counts generated tokens. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/method.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct kivi_params {
    int64_t bits, group, residual, when;
};

static const struct param kivi_table[] = {
    {"bits", PARAM_INT, offsetof(struct kivi_params, bits), 2, 2, 4, "2|4", NULL,
     "bits per key or value code"},
    {"group", PARAM_INT, offsetof(struct kivi_params, group), 32, 16, 128, "16|32|64|128", NULL,
     "tokens (keys) or channels (values) that share scale and minimum"},
    {"residual", PARAM_INT, offsetof(struct kivi_params, residual), 128, 16, 65536, NULL, NULL,
     "newest tokens kept in the cache dtype; a multiple of group"},
    KV_WHEN_PARAM(struct kivi_params, KV_WHEN_AFTER),
    {0},
};

enum { K_CODES, K_SCALE, K_MIN, V_CODES, V_SCALE, V_MIN, K_WINDOW, V_WINDOW, N_MEM };

struct kivi {
    struct kv_mem mem[N_MEM];
    /* Codes: k [n/group,Hk,d,group*bits/8] bytes, scale and min f16 [n/group,Hk,d]; v [n,Hk,d*bits/8] bytes,
     * scale and min f16 [n,Hk,d/group]. */
    int64_t n_kq, n_vq;      /* tokens in codes; here and below counted from token n_exact on */
    struct tensor k_win;     /* [residual,Hk,d]: tokens n_kq, n_kq + 1, ... */
    struct tensor v_win;     /* ring [residual + 1,Hk,d] of tokens n_vq, ... */
    struct kv_dense *prompt; /* when=decode, from its end on; NULL: none */
    int64_t n_exact;         /* tokens in it */
};

static int kivi_check(const void *params, const struct layer_kind *kind)
{
    const struct kivi_params *p = params;
    if (p->residual % p->group)
        return err_set(ERR_INPUT, "method kivi: residual=%lld is not allowed; use a multiple of group=%lld",
                       (long long)p->residual, (long long)p->group);
    if (kind && kind->d_k % p->group)
        return err_set(
            ERR_INPUT,
            "method kivi: group=%lld is not allowed; use a divisor of the model's head dimension %d",
            (long long)p->group, (int)kind->d_k);
    return 0;
}

/* 16-bit cache of 10,000 tokens, `residual` of them kept: 5.05 and 3.11 as the paper prints them. */
static double kivi_nominal(const void *params)
{
    const struct kivi_params *p = params;
    double n = 10000, kept = (double)min64(p->residual, 10000);
    double bits = (double)p->bits + 32.0 / (double)p->group;
    return 16 * n / (bits * (n - kept) + 16 * kept);
}

static void kivi_at_strength(void *params, double s)
{
    ((struct kivi_params *)params)->bits = s < 0.5 ? 4 : 2;
}

static bool kivi_keeps_prompt(const void *params)
{
    return ((const struct kivi_params *)params)->when == KV_WHEN_DECODE;
}

static int kivi_open(struct kv_cache *c)
{
    const struct kivi_params *p = c->params;
    struct kivi *s = c->state = mem_alloc(1, sizeof *s);
    s->n_exact = p->when == KV_WHEN_DECODE ? c->n_prompt : 0;
    const size_t row = (size_t)c->kind->n_kv_head * (size_t)c->kind->d_k; /* values of one token */
    const size_t group = (size_t)p->group, bits = (size_t)p->bits;
    const int64_t n_max = c->n_max - s->n_exact;
    const int64_t k_max = n_max - n_max % p->residual;
    const int64_t v_max = n_max > p->residual ? n_max - p->residual : 0;
    const int64_t k_win = min64(n_max, p->residual), v_win = min64(n_max, p->residual + 1);
    const size_t row_bytes = kv_row_bytes(c);
    TRY(kv_mem_open(c, &s->mem[K_CODES], (size_t)k_max * row * bits / 8, MEM_CODES));
    TRY(kv_mem_open(c, &s->mem[K_SCALE], (size_t)k_max / group * row * 2, MEM_SCALES));
    TRY(kv_mem_open(c, &s->mem[K_MIN], (size_t)k_max / group * row * 2, MEM_SCALES));
    TRY(kv_mem_open(c, &s->mem[V_CODES], (size_t)v_max * row * bits / 8, MEM_CODES));
    TRY(kv_mem_open(c, &s->mem[V_SCALE], (size_t)v_max * row / group * 2, MEM_SCALES));
    TRY(kv_mem_open(c, &s->mem[V_MIN], (size_t)v_max * row / group * 2, MEM_SCALES));
    TRY(kv_mem_open(c, &s->mem[K_WINDOW], (size_t)k_win * row_bytes, MEM_WINDOW));
    TRY(kv_mem_open(c, &s->mem[V_WINDOW], (size_t)v_win * row_bytes, MEM_WINDOW));
    s->k_win = kv_tensor(c, s->mem[K_WINDOW].data, k_win);
    s->v_win = kv_tensor(c, s->mem[V_WINDOW].data, v_win);
    return 0;
}

static void kivi_close(struct kv_cache *c)
{
    struct kivi *s = c->state;
    for (int i = 0; s && i < N_MEM; i++)
        kv_mem_close(c, &s->mem[i]);
    if (s && s->prompt)
        kv_dense_unref(s->prompt, c->ops);
    free(s);
}

/* Up to `residual` tokens nothing is in codes: the pass is the plain one. */
static uint64_t kivi_prefill_key(const void *params, int64_t n_prompt, const struct layer_kind *kind)
{
    const struct kivi_params *p = params;
    const int64_t numbers[] = {p->bits, p->group, p->residual};
    (void)kind;
    return p->when == KV_WHEN_PREFILL && n_prompt > p->residual ? kv_key("kivi", numbers, 3) : 0;
}

/* Nothing lies behind a block of no bytes. */
static void *behind(const struct kv_mem *m, int64_t bytes)
{
    return m->data ? (char *)m->data + bytes : NULL;
}

/* Room of one code array, its scales and minima from token `at`. */
static struct quant_args kivi_quant(const struct kv_cache *c, enum quant_layout layout, struct tensor src,
                                    int64_t at)
{
    const struct kivi_params *p = c->params;
    const struct kivi *s = c->state;
    const struct kv_mem *m = layout == QUANT_CHANNEL ? &s->mem[K_CODES] : &s->mem[V_CODES];
    const int64_t values = at * c->kind->n_kv_head * c->kind->d_k; /* before token `at` */
    return (struct quant_args){.layout = layout,
                               .bits = (int32_t)p->bits,
                               .group = (int32_t)p->group,
                               .src = src,
                               .codes = behind(&m[0], values * p->bits / 8),
                               .scale = behind(&m[1], values / p->group * (int64_t)sizeof(uint16_t)),
                               .min = behind(&m[2], values / p->group * (int64_t)sizeof(uint16_t))};
}

static int kivi_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    const struct kivi_params *p = c->params;
    struct kivi *s = c->state;
    struct quant_args q[2];
    int n_q = 0;
    if (p->when == KV_WHEN_DECODE) {
        s->prompt = kv_dense_ref(dense);
        return 0;
    }
    s->n_kq = dense->n - dense->n % p->residual;
    s->n_vq = dense->n > p->residual ? dense->n - p->residual : 0;
    if (s->n_kq)
        q[n_q++] = kivi_quant(c, QUANT_CHANNEL, tensor_rows(&dense->k, 0, s->n_kq), 0);
    if (s->n_vq)
        q[n_q++] = kivi_quant(c, QUANT_TOKEN, tensor_rows(&dense->v, 0, s->n_vq), 0);
    if (n_q)
        c->ops->quant(c->ops, q, n_q);
    struct tensor k = tensor_rows(&dense->k, s->n_kq, dense->n - s->n_kq);
    struct tensor v = tensor_rows(&dense->v, s->n_vq, dense->n - s->n_vq);
    kv_ring_put(c->ops, &s->k_win, 0, &k, s->n_kq);
    kv_ring_put(c->ops, &s->v_win, 0, &v, s->n_vq);
    return 0;
}

/* Tokens [at, at+n) in codes; keys: multiples of group. */
static struct kv_run kivi_run(const struct kv_cache *c, enum quant_layout layout, int64_t at, int64_t n)
{
    const struct quant_args q = kivi_quant(c, layout, (struct tensor){0}, at);
    return (struct kv_run){.layout = layout,
                           .dtype = c->shape->dtype,
                           .bits = q.bits,
                           .group = q.group,
                           .data = q.codes,
                           .scale = q.scale,
                           .min = q.min,
                           .n = n,
                           .pos = ((const struct kivi *)c->state)->n_exact + at};
}

/* Tokens [from, to) of the value window. */
static int kivi_values(const struct kivi *s, int64_t from, int64_t to, struct kv_run out[2])
{
    return kv_ring_runs(&s->v_win, s->n_exact, s->n_exact + from, s->n_exact + to, out);
}

/* Row r joins the windows and attends to codes, then windows. */
static void kivi_append(struct kv_cache *c, const struct kv_rows *r, struct rope_args rope[3],
                        struct attend_args *a)
{
    struct kivi *s = c->state;
    const struct rope *table = c->kind->rope;
    const int64_t n = c->n - s->n_exact, slot = n % s->v_win.n[0], n_win = n - s->n_kq;
    rope[0] = kv_rotate(r->q, r->q, table, r->pos);
    rope[1] = kv_rotate(r->k, tensor_rows(&s->k_win, n_win, 1), table, r->pos);
    rope[2] = kv_rotate(r->v, tensor_rows(&s->v_win, slot, 1), NULL, 0);
    c->n++;
    kv_attend_init(a, c, r);
    struct attend_set *set = &a->set[0];
    if (s->prompt && s->prompt->n) {
        set->k[set->n_k++] = kv_run_of(&s->prompt->k, 0, s->prompt->n, 0);
        set->v[set->n_v++] = kv_run_of(&s->prompt->v, 0, s->prompt->n, 0);
    }
    if (s->n_kq)
        set->k[set->n_k++] = kivi_run(c, QUANT_CHANNEL, 0, s->n_kq);
    set->k[set->n_k++] = kv_run_of(&s->k_win, 0, n_win + 1, s->n_exact + s->n_kq);
    if (s->n_vq)
        set->v[set->n_v++] = kivi_run(c, QUANT_TOKEN, 0, s->n_vq);
    set->n_v += kivi_values(s, s->n_vq, n + 1, &set->v[set->n_v]);
}

/* After attending: a full key window becomes codes as a whole, the value that left its window alone. */
static int kivi_commit(struct kv_cache *c, struct quant_args *q)
{
    const struct kivi_params *p = c->params;
    struct kivi *s = c->state;
    const int64_t seen = c->n - s->n_exact;
    int n = 0;
    if (seen - s->n_kq == p->residual) {
        q[n++] = kivi_quant(c, QUANT_CHANNEL, s->k_win, s->n_kq);
        s->n_kq = seen;
    }
    if (seen - s->n_vq > p->residual) {
        struct tensor oldest = tensor_rows(&s->v_win, s->n_vq % s->v_win.n[0], 1);
        q[n++] = kivi_quant(c, QUANT_TOKEN, oldest, s->n_vq);
        s->n_vq++;
    }
    return n;
}

/* Row t of every sequence that has one. */
struct kivi_batch {
    struct rope_args *rope;
    struct attend_args *attend;
    struct quant_args *quant;
};

static bool kivi_one(struct kv_cache *const *c, const struct kv_rows *rows, int n, int64_t t,
                     struct kivi_batch *b)
{
    struct ops *ops = c[0]->ops;
    int m = 0, n_quant = 0;
    for (int i = 0; i < n; i++) {
        if (t >= rows[i].q.n[0])
            continue;
        struct kv_rows r = kv_rows_part(&rows[i], t, 1);
        kivi_append(c[i], &r, b->rope + 3 * m, b->attend + m);
        n_quant += kivi_commit(c[i], b->quant + n_quant);
        m++;
    }
    if (!m)
        return false;
    ops->rope(ops, b->rope, 3 * m);
    ops->attend(ops, b->attend, m);
    if (n_quant)
        ops->quant(ops, b->quant, n_quant);
    return true;
}

/* Rows [at, at+m) of r, which share one key window (at most `residual` rows), in one launch. A row sees
 * values as codes from distance residual + 1 on, so that values which become codes on the way are in two
 * sets: as codes (far) and exact (near). `stage`: the new values [m,Hk,d]. */
static void kivi_chunk(struct kv_cache *c, const struct kv_rows *r, struct tensor stage)
{
    const struct kivi_params *p = c->params;
    struct kivi *s = c->state;
    struct ops *ops = c->ops;
    const int64_t m = r->q.n[0], n0 = c->n, n1 = n0 + m, n_win = n0 - s->n_kq, v0 = s->n_vq;
    const int64_t v1 = n1 > p->residual ? n1 - p->residual : 0;    /* values in codes afterwards */
    const int64_t far = (v1 + p->group - 1) / p->group * p->group; /* keys come in whole groups */
    const int64_t near = v0 / p->group * p->group;
    struct rope_args rope[3] = {
        kv_rotate(r->q, r->q, c->kind->rope, r->pos),
        kv_rotate(r->k, tensor_rows(&s->k_win, n_win, m), c->kind->rope, r->pos),
        kv_rotate(r->v, stage, NULL, 0),
    };
    struct quant_args q[3];
    struct kv_run old[2];
    int n_q = kivi_values(s, v0, v1, old);
    for (int i = 0; i < n_q; i++) {
        struct tensor src = tensor_rows(&s->v_win, old[i].pos % s->v_win.n[0], old[i].n);
        q[i] = kivi_quant(c, QUANT_TOKEN, src, old[i].pos);
    }
    struct attend_args a;
    kv_attend_init(&a, c, r);
    struct attend_set *set = &a.set[0];
    if (v1) {
        a.set[1] = a.set[0];
        set->dist_min = p->residual + 1;
        set->k[set->n_k++] = kivi_run(c, QUANT_CHANNEL, 0, far);
        set->v[set->n_v++] = kivi_run(c, QUANT_TOKEN, 0, v1);
        set->n_v += kivi_values(s, v1, far, set->v + set->n_v);
        set = &a.set[a.n_set++];
        set->dist_max = p->residual + 1;
    }
    if (s->n_kq > near)
        set->k[set->n_k++] = kivi_run(c, QUANT_CHANNEL, near, s->n_kq - near);
    set->k[set->n_k++] = kv_run_of(&s->k_win, 0, n_win + m, s->n_kq);
    if (v0 > near)
        set->v[set->n_v++] = kivi_run(c, QUANT_TOKEN, near, v0 - near);
    set->n_v += kivi_values(s, v0, n0, set->v + set->n_v);
    set->v[set->n_v++] = kv_run_of(&stage, 0, m, n0);
    ops->rope(ops, rope, 3);
    if (n_q)
        ops->quant(ops, q, n_q);
    ops->attend(ops, &a, 1);
    kv_ring_put(ops, &s->v_win, 0, &stage, n0);
    c->n = n1;
    s->n_vq = v1;
    if (n1 - s->n_kq < p->residual)
        return;
    q[0] = kivi_quant(c, QUANT_CHANNEL, s->k_win, s->n_kq);
    ops->quant(ops, q, 1);
    s->n_kq = n1;
}

/* Many rows of one cache without an exact prompt, from one end of a key window to the next. */
static int kivi_many(struct kv_cache *c, const struct kv_rows *r)
{
    const struct kivi_params *p = c->params;
    const struct kivi *s = c->state;
    const int64_t T = r->q.n[0];
    struct kv_mem mem;
    TRY(kv_mem_open(c, &mem, (size_t)min64(T, p->residual) * kv_row_bytes(c), MEM_WORKSPACE));
    for (int64_t at = 0, m; at < T; at += m) {
        m = min64(T - at, p->residual - (c->n - s->n_kq));
        struct kv_rows part = kv_rows_part(r, at, m);
        kivi_chunk(c, &part, kv_tensor(c, mem.data, m));
    }
    int rc = c->ops->sync(c->ops);
    kv_mem_close(c, &mem);
    return rc;
}

/* Several rows at once mean the same as one after the other: what a row quantises the next one sees. */
static int kivi_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    for (int i = 0; i < n; i++)
        if (((const struct kivi_params *)c[i]->params)->when != KV_WHEN_PREFILL)
            TRY(kv_after_prompt(c[i]));
    if (n == 1 && rows[0].q.n[0] > 1 && !((const struct kivi *)c[0]->state)->prompt)
        return kivi_many(c[0], &rows[0]);
    struct kivi_batch b = {mem_alloc(3 * (size_t)n, sizeof *b.rope), mem_alloc((size_t)n, sizeof *b.attend),
                           mem_alloc(2 * (size_t)n, sizeof *b.quant)};
    for (int64_t t = 0; kivi_one(c, rows, n, t, &b); t++)
        ;
    free(b.rope);
    free(b.attend);
    free(b.quant);
    return 0;
}

static void kivi_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct kivi *s = c->state;
    kv_mem_count(s->mem, N_MEM, l);
    if (s->prompt)
        kv_dense_count(s->prompt, l);
}

/* kept_bits: mean bits per key or value element over the tokens seen. */
static void kivi_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    const struct kivi_params *p = c->params;
    const struct kivi *s = c->state;
    if (!c->n)
        return;
    double coded = (double)(s->n_kq + s->n_vq) / (2.0 * (double)c->n);
    b->value[KV_KEPT_BITS] = coded * ((double)p->bits + 32.0 / (double)p->group) +
                             (1 - coded) * 8.0 * (double)dtype_bytes(c->shape->dtype);
}

/* Codes of one array, one byte each in the order of the values: [n,Hk,d]. */
static void unpack(const struct kv_cache *c, enum quant_layout layout, int64_t n, uint8_t *out)
{
    const struct kivi_params *p = c->params;
    const int64_t hk = c->kind->n_kv_head, d = c->kind->d_k, per = 8 / p->bits;
    size_t bytes = (size_t)(n * hk * d / per);
    uint8_t *packed = mem_alloc(bytes ? bytes : 1, 1);
    c->ops->copy(c->ops, packed, kivi_quant(c, layout, (struct tensor){0}, 0).codes, bytes);
    (void)c->ops->sync(c->ops);
    for (int64_t i = 0; i < n * hk * d; i++) {
        int64_t token = i / (hk * d), channel = i % (hk * d), at = i; /* at: index of the code as stored */
        if (layout == QUANT_CHANNEL)
            at = (token / p->group * hk * d + channel) * p->group + token % p->group;
        out[i] = (uint8_t)(packed[at / per] >> (at % per * p->bits) & ((1 << p->bits) - 1));
    }
    free(packed);
}

static void dump_window(const struct kv_cache *c, const struct tensor *win, int64_t from, uint8_t *out)
{
    const int64_t base = ((const struct kivi *)c->state)->n_exact;
    struct kv_run run[2];
    int n = kv_ring_runs(win, base, base + from, c->n, run);
    for (int i = 0; i < n; i++) {
        size_t bytes = (size_t)run[i].n * kv_row_bytes(c);
        c->ops->copy(c->ops, out, run[i].data, bytes);
        out += bytes;
    }
}

static int kivi_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    const struct kivi_params *p = c->params;
    const struct kivi *s = c->state;
    const int64_t hk = c->kind->n_kv_head, d = c->kind->d_k;
    const int64_t k[3] = {s->n_kq, hk, d}, ks[3] = {s->n_kq / p->group, hk, d};
    const int64_t v[3] = {s->n_vq, hk, d}, vs[3] = {s->n_vq, hk, d / p->group};
    static const char *const name[] = {"k_scale", "k_min", "v_scale", "v_min"};
    static const int from[] = {K_SCALE, K_MIN, V_SCALE, V_MIN};
    unpack(c, QUANT_CHANNEL, s->n_kq, kv_dump_add(out, n, "k_codes", DT_U8, k));
    unpack(c, QUANT_TOKEN, s->n_vq, kv_dump_add(out, n, "v_codes", DT_U8, v));
    for (int i = 0; i < 4; i++) {
        const int64_t *shape = i < 2 ? ks : vs;
        void *to = kv_dump_add(out, n, name[i], DT_F16, shape);
        size_t bytes = (size_t)(shape[0] * shape[1] * shape[2]) * 2;
        if (bytes)
            c->ops->copy(c->ops, to, s->mem[from[i]].data, bytes);
    }
    const int64_t seen = c->n - s->n_exact;
    const int64_t kw[3] = {seen - s->n_kq, hk, d}, vw[3] = {seen - s->n_vq, hk, d};
    dump_window(c, &s->k_win, s->n_kq, kv_dump_add(out, n, "k_window", c->shape->dtype, kw));
    dump_window(c, &s->v_win, s->n_vq, kv_dump_add(out, n, "v_window", c->shape->dtype, vw));
    return c->ops->sync(c->ops);
}

const struct kv_method kv_method_kivi = {
    .name = "kivi",
    .source = "arXiv 2402.02750; pipeline/kivi of arXiv 2407.01527",
    .summary = "2- or 4-bit codes: keys per channel, values per token, the newest tokens exact",
    .params = kivi_table,
    .params_bytes = sizeof(struct kivi_params),
    .check = kivi_check,
    .nominal_ratio = kivi_nominal,
    .prefill_key = kivi_prefill_key,
    .keeps_prompt = kivi_keeps_prompt,
    .at_strength = kivi_at_strength,
    .open = kivi_open,
    .from_dense = kivi_from_dense,
    .step = kivi_step,
    .bytes = kivi_bytes,
    .budgets = kivi_budgets,
    .dump = kivi_dump,
    .close = kivi_close,
};
