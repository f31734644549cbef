/* KIVI (arXiv 2402.02750) as the benchmark of arXiv 2407.01527 runs it (pipeline/kivi): keys quantised per
 * channel in groups of tokens, values per token in groups of channels, the newest tokens kept as they are.
 * With n tokens seen and residual R: keys [0, n - n % R) and values [0, n - R) are codes; a step attends
 * first and quantises afterwards. The prompt pass is the plain one. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/kv.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

struct kivi_params {
    int64_t bits, group, residual;
};

static const struct param kivi_table[] = {
    {"bits", PARAM_INT, offsetof(struct kivi_params, bits), 2, 2, 4, "2|4", NULL,
     "bits per key or value code"},
    {"group", PARAM_INT, offsetof(struct kivi_params, group), 32, 16, 128, "16|32|64|128", NULL,
     "tokens (keys) or channels (values) that share scale and minimum"},
    {"residual", PARAM_INT, offsetof(struct kivi_params, residual), 128, 16, 65536, NULL, NULL,
     "newest tokens kept in the cache dtype; a multiple of group"},
    {0},
};

enum { K_CODES, K_SCALE, K_MIN, V_CODES, V_SCALE, V_MIN, K_WINDOW, V_WINDOW, N_MEM };

struct kivi {
    struct kv_mem mem[N_MEM];
    /* Codes: k [n/group,Hk,d,group*bits/8] bytes, scale and min f16 [n/group,Hk,d]; v [n,Hk,d*bits/8] bytes,
     * scale and min f16 [n,Hk,d/group]. */
    int64_t n_kq, n_vq;  /* tokens in codes */
    struct tensor k_win; /* [residual,Hk,d]: tokens n_kq, n_kq + 1, ... */
    struct tensor v_win; /* ring [residual + 1,Hk,d] of tokens n_vq, ... */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int kivi_check(const void *params, const struct kv_shape *shape)
{
    const struct kivi_params *p = params;
    if (p->residual % p->group)
        return err_set(ERR_INPUT, "method kivi: residual=%lld is not allowed; use a multiple of group=%lld",
                       (long long)p->residual, (long long)p->group);
    if (shape && shape->head_dim % p->group)
        return err_set(
            ERR_INPUT,
            "method kivi: group=%lld is not allowed; use a divisor of the model's head dimension %d",
            (long long)p->group, (int)shape->head_dim);
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

static int kivi_open(struct kv_cache *c)
{
    const struct kivi_params *p = c->params;
    struct kivi *s = c->state = mem_alloc(1, sizeof *s);
    const size_t row = (size_t)c->shape->n_kv_head * (size_t)c->shape->head_dim; /* values of one token */
    const size_t group = (size_t)p->group, bits = (size_t)p->bits;
    const int64_t k_max = c->n_max - c->n_max % p->residual;
    const int64_t v_max = c->n_max > p->residual ? c->n_max - p->residual : 0;
    const int64_t k_win = min64(c->n_max, p->residual), v_win = min64(c->n_max, p->residual + 1);
    const size_t row_bytes = kv_row_bytes(c->shape);
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
    free(s);
}

/* Room of one code array, its scales and minima from token `at`. */
static struct quant_args kivi_quant(const struct kv_cache *c, enum quant_layout layout, struct tensor src,
                                    int64_t at)
{
    const struct kivi_params *p = c->params;
    const struct kivi *s = c->state;
    const struct kv_mem *m = layout == QUANT_CHANNEL ? &s->mem[K_CODES] : &s->mem[V_CODES];
    const int64_t values = at * c->shape->n_kv_head * c->shape->head_dim; /* before token `at` */
    return (struct quant_args){.layout = layout,
                               .bits = (int32_t)p->bits,
                               .group = (int32_t)p->group,
                               .src = src,
                               .codes = (uint8_t *)m[0].data + values * p->bits / 8,
                               .scale = (uint16_t *)m[1].data + values / p->group,
                               .min = (uint16_t *)m[2].data + values / p->group};
}

static int kivi_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    const struct kivi_params *p = c->params;
    struct kivi *s = c->state;
    struct quant_args q[2];
    int n_q = 0;
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

static struct kv_run kivi_run(const struct kv_cache *c, enum quant_layout layout, int64_t n)
{
    const struct quant_args q = kivi_quant(c, layout, (struct tensor){0}, 0);
    return (struct kv_run){.layout = layout,
                           .bits = q.bits,
                           .group = q.group,
                           .data = q.codes,
                           .scale = q.scale,
                           .min = q.min,
                           .n = n};
}

/* Row r joins the windows and attends to codes, then windows. */
static void kivi_append(struct kv_cache *c, const struct kv_rows *r, struct rope_args rope[3],
                        struct attend_args *a)
{
    struct kivi *s = c->state;
    const struct rope *table = c->shape->rope;
    int64_t slot = c->n % s->v_win.n[0], n_win = c->n - s->n_kq;
    rope[0] = kv_rotate(r->q, r->q, table, r->pos);
    rope[1] = kv_rotate(r->k, tensor_rows(&s->k_win, n_win, 1), table, r->pos);
    rope[2] = kv_rotate(r->v, tensor_rows(&s->v_win, slot, 1), NULL, 0);
    c->n++;
    kv_attend_init(a, c, r);
    struct attend_set *set = &a->set[0];
    if (s->n_kq)
        set->k[set->n_k++] = kivi_run(c, QUANT_CHANNEL, s->n_kq);
    set->k[set->n_k++] = kv_run_of(&s->k_win, 0, n_win + 1, s->n_kq);
    if (s->n_vq)
        set->v[set->n_v++] = kivi_run(c, QUANT_TOKEN, s->n_vq);
    set->n_v += kv_ring_runs(&s->v_win, 0, s->n_vq, c->n, &set->v[set->n_v]);
}

/* After attending: a full key window becomes codes as a whole, the value that left its window alone. */
static int kivi_commit(struct kv_cache *c, struct quant_args *q)
{
    const struct kivi_params *p = c->params;
    struct kivi *s = c->state;
    int n = 0;
    if (c->n - s->n_kq == p->residual) {
        q[n++] = kivi_quant(c, QUANT_CHANNEL, s->k_win, s->n_kq);
        s->n_kq = c->n;
    }
    if (c->n - s->n_vq > p->residual) {
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

/* Several rows at once mean the same as one after the other: what a row quantises the next one sees. */
static int kivi_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    for (int i = 0; i < n; i++)
        if (c[i]->n < c[i]->n_prompt)
            return err_set(ERR_INTERNAL, "method kivi starts from a finished prompt (layer %d: %lld of %lld)",
                           (int)c[i]->layer, (long long)c[i]->n, (long long)c[i]->n_prompt);
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
    kv_mem_count(((const struct kivi *)c->state)->mem, N_MEM, l);
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
    const int64_t hk = c->shape->n_kv_head, d = c->shape->head_dim, per = 8 / p->bits;
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
    struct kv_run run[2];
    int n = kv_ring_runs(win, 0, from, c->n, run);
    for (int i = 0; i < n; i++) {
        size_t bytes = (size_t)run[i].n * kv_row_bytes(c->shape);
        c->ops->copy(c->ops, out, run[i].data, bytes);
        out += bytes;
    }
}

static int kivi_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    const struct kivi_params *p = c->params;
    const struct kivi *s = c->state;
    const int64_t hk = c->shape->n_kv_head, d = c->shape->head_dim;
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
    const int64_t kw[3] = {c->n - s->n_kq, hk, d}, vw[3] = {c->n - s->n_vq, hk, d};
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
    .at_strength = kivi_at_strength,
    .open = kivi_open,
    .from_dense = kivi_from_dense,
    .step = kivi_step,
    .bytes = kivi_bytes,
    .budgets = kivi_budgets,
    .dump = kivi_dump,
    .close = kivi_close,
};
