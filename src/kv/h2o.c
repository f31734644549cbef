/* H2O (arXiv 2306.14048; FMInference/H2O, h2o_hf/utils_real_drop): a key's score is the attention probability
 * that all queries so far gave it, those of the prompt and of the decode steps. Whenever more than
 * heavy + recent keys are there, each KV head keeps its newest ones (recent) and among the others those with
 * the highest scores (heavy); the rest is dropped for good. A query attends before the choice, so it sees one
 * key more. Keys keep their true positions.
 *
 * Heads: the score of a KV head is the mean over its query heads (upstream has one each). Ties go to the
 * older key. Scores are float32.
 *
 * Dropped keys are masked at once and their rows freed in bulk: the cache has some rows more than it keeps,
 * and is packed when they are used up. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/kept.h"

#include <math.h>
#include <stdlib.h>

struct h2o_params {
    double heavy, recent;
    int64_t heavy_size, recent_size, when;
};

static const struct param h2o_table[] = {
    {"heavy", PARAM_REAL, offsetof(struct h2o_params, heavy), 0.25, 0, 1, NULL, NULL,
     "fraction of the prompt's tokens that is kept for its scores"},
    {"recent", PARAM_REAL, offsetof(struct h2o_params, recent), 0.25, 0, 1, NULL, NULL,
     "fraction of the prompt's tokens that is kept for its age (at least one token)"},
    {"heavy_size", PARAM_INT, offsetof(struct h2o_params, heavy_size), 0, 0, 1e15, NULL, NULL,
     "heavy as a fixed number of tokens (with recent_size)"},
    {"recent_size", PARAM_INT, offsetof(struct h2o_params, recent_size), 0, 0, 1e15, NULL, NULL,
     "recent as a fixed number of tokens, instead of fractions (0: use fractions)"},
    {"when", PARAM_CHOICE, offsetof(struct h2o_params, when), KV_WHEN_AFTER, 0, 2, "prefill|after|decode",
     NULL,
     "when to begin to drop: prefill: after each chunk of the prompt; after: at its end, scored by all of "
     "it; "
     "decode: after the first decode step, scored by decode steps alone"},
    {0},
};

/* Rows beyond the budget before the cache is packed: one prefill chunk, or some decode steps. */
enum { CHUNK = 512, SLACK = 64 };

enum { SCORE, KEEP, FIRST, N_MEM };

struct h2o {
    struct kept rows;
    struct kv_mem mem[N_MEM]; /* scores f32 [H,capacity]; keep u8 [Hk,capacity]; with when=decode the scores
                                 of the first step f32 [H,n_prompt+1] */
    struct kv_dense *prompt;  /* with when=decode, up to the first step */
    int64_t heavy, recent;    /* budgets in tokens */
    bool masks;               /* keep counts; otherwise all rows are seen */
};

static int h2o_from_ratio(void *params, double ratio)
{
    struct h2o_params *p = params;
    p->heavy = p->recent = ratio == 6 ? 0.083 : 1 / (2 * ratio);
    return 0;
}

static int h2o_check(const void *params, const struct layer_kind *kind)
{
    const struct h2o_params *p = params;
    (void)kind;
    if (p->heavy_size && !p->recent_size)
        return err_set(
            ERR_INPUT,
            "method h2o: heavy_size=%lld is not allowed without recent_size; give recent_size >= 1",
            (long long)p->heavy_size);
    if (!p->recent_size && p->heavy + p->recent == 0)
        return err_set(ERR_INPUT, "method h2o: heavy=0 is not allowed with recent=0; keep something");
    return 0;
}

/* Fixed sizes have no ratio of their own: that of 10,000 tokens. */
static double h2o_nominal(const void *params)
{
    const struct h2o_params *p = params;
    if (p->recent_size)
        return fmax(1, 10000 / (double)(p->heavy_size + p->recent_size));
    return fmax(1, 1 / (p->heavy + p->recent));
}

static void h2o_sizes(const struct h2o_params *p, int64_t T, int64_t size[2])
{
    size[0] = p->recent_size ? p->heavy_size : (int64_t)(p->heavy * (double)T);
    size[1] = p->recent_size ? p->recent_size : (int64_t)(p->recent * (double)T);
    if (size[1] < 1) /* a decode step's own key cannot be dropped before it was attended to */
        size[1] = 1;
}

static uint64_t h2o_prefill_key(const void *params, int64_t n_prompt, const struct layer_kind *kind)
{
    const struct h2o_params *p = params;
    int64_t size[2];
    (void)kind;
    h2o_sizes(p, n_prompt, size);
    return p->when == KV_WHEN_PREFILL ? kv_key("h2o", size, 2) : 0;
}

static unsigned h2o_wants(const void *params)
{
    return ((const struct h2o_params *)params)->when == KV_WHEN_AFTER ? KV_WATCH_ATTN_SCORES : 0;
}

static int h2o_open(struct kv_cache *c)
{
    const struct h2o_params *p = c->params;
    struct h2o *s = c->state = mem_alloc(1, sizeof *s);
    int64_t size[2];
    h2o_sizes(p, c->n_prompt, size);
    s->heavy = size[0];
    s->recent = size[1];
    const int64_t room = p->when == KV_WHEN_PREFILL ? CHUNK : SLACK;
    const int64_t capacity = min64(s->heavy + s->recent + room, c->n_max);
    TRY(kept_open(c, &s->rows, capacity));
    const size_t row = (size_t)capacity;
    TRY(kv_mem_open(c, &s->mem[SCORE], row * (size_t)c->kind->n_head * sizeof(float), MEM_INDEX));
    return kv_mem_open(c, &s->mem[KEEP], row * (size_t)c->kind->n_kv_head, MEM_INDEX);
}

static void h2o_close(struct kv_cache *c)
{
    struct h2o *s = c->state;
    if (!s)
        return;
    kept_close(c, &s->rows);
    for (int i = 0; i < N_MEM; i++)
        kv_mem_close(c, &s->mem[i]);
    if (s->prompt)
        kv_dense_unref(s->prompt, c->ops);
    free(s);
}

/* What is kept of n keys, into rows.list; scores as in struct select_args. Returns the number of keys. */
static int64_t choose(const struct kv_cache *c, float *score, int64_t ld, int64_t n)
{
    const struct h2o *s = c->state;
    const int64_t tail = min64(s->recent, n), k = min64(s->heavy, n - tail);
    struct select_args a = kept_choice(c, &s->rows, score, ld, c->kind->n_head, n - tail, k, tail);
    c->ops->select(c->ops, &a, 1);
    return k + tail;
}

/* The first rows: m chosen ones of `n` scored keys, of which all or all but the newest are the prompt's. */
static void take(const struct kv_cache *c, const struct kv_dense *prompt, float *score, int64_t ld, int64_t n)
{
    struct h2o *s = c->state;
    const int64_t m = choose(c, score, ld, n), own = n - prompt->n;
    kept_take(c, &s->rows, prompt, m - own);
    s->rows.n = s->rows.n_known = m;
    kept_scores(c, &s->rows, s->mem[SCORE].data, s->rows.capacity, score, ld, n, c->kind->n_head, m);
}

static int h2o_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    const struct h2o_params *p = c->params;
    struct h2o *s = c->state;
    if (p->when == KV_WHEN_DECODE) {
        s->prompt = kv_dense_ref(dense);
        return kv_mem_open(c, &s->mem[FIRST],
                           (size_t)c->kind->n_head * (size_t)(dense->n + 1) * sizeof(float), MEM_INDEX);
    }
    if (!dense->attn_scores)
        return err_set(ERR_INTERNAL, "method h2o: nobody watched the prompt of layer %d", (int)c->layer);
    if (dense->n)
        take(c, dense, dense->attn_scores, dense->k.n[0], dense->n);
    return 0;
}

/* Frees the rows of dropped keys. The rows behind get fresh scores. */
static int pack(struct kv_cache *c)
{
    struct h2o *s = c->state;
    float *score = s->mem[SCORE].data;
    const int64_t H = c->kind->n_head, cap = s->rows.capacity, n = s->rows.n;
    const int64_t m = choose(c, score, cap, n);
    kept_scores(c, &s->rows, score, cap, score, cap, n, H, m);
    const struct select_args none = {
        .score = score + m, .score_ld = cap, .rows = H, .group = 1, .n = n - m, .zero_rest = true};
    c->ops->select(c->ops, &none, 1);
    s->masks = false;
    return kept_compact(c, &s->rows, m);
}

/* One round: the next rows of every sequence that has some. */
struct h2o_batch {
    struct rope_args *rope;
    struct attend_args *attend;
    struct select_args *select;
    int n_select;
};

static bool in_prompt(const struct kv_cache *c)
{
    return c->n < c->n_prompt;
}

/* Rows that come before the next choice: chunks end at multiples of CHUNK and with the prompt. */
static int64_t part(const struct kv_cache *c, int64_t left)
{
    return in_prompt(c) ? min64(left, min64(CHUNK - c->n % CHUNK, c->n_prompt - c->n)) : 1;
}

/* The first step of when=decode: over the prompt by reference and the own row, which already lies where it
 * will stay (its key is the newest of those kept). */
static void first_row(struct kv_cache *c, const struct kv_rows *r, struct rope_args rope[2],
                      struct attend_set *set)
{
    struct h2o *s = c->state;
    const int64_t T = s->prompt->n, place = min64(T, s->heavy + s->recent - 1);
    const struct tensor k = tensor_rows(&s->rows.k, place, 1), v = tensor_rows(&s->rows.v, place, 1);
    int n = 0;
    rope[0] = kv_rotate(r->k, k, c->kind->rope, r->pos);
    rope[1] = kv_rotate(r->v, v, NULL, 0);
    if (T) {
        set->k[n] = kv_run_of(&s->prompt->k, 0, T, 0);
        set->v[n++] = kv_run_of(&s->prompt->v, 0, T, 0);
    }
    set->k[n] = kv_run_of(&k, 0, 1, T);
    set->v[n++] = kv_run_of(&v, 0, 1, T);
    set->n_k = set->n_v = n;
    set->attn_scores = s->mem[FIRST].data;
    set->attn_scores_ld = T + 1;
}

/* Masks what loses now, from all rows to come. The row behind the last one, the next one's, is seen. */
static struct select_args mask(const struct kv_cache *c)
{
    struct h2o *s = c->state;
    const int64_t n = s->rows.n, next = n < s->rows.capacity;
    struct select_args a = kept_choice(c, &s->rows, s->mem[SCORE].data, s->rows.capacity, c->kind->n_head,
                                       n - s->recent, s->heavy, s->recent + next);
    a.index = NULL;
    a.keep = s->mem[KEEP].data;
    a.keep_ld = s->rows.capacity;
    a.bar_rest = true;
    s->masks = true;
    return a;
}

static int h2o_rows(struct kv_cache *c, const struct kv_rows *r, struct rope_args rope[3],
                    struct attend_args *a, struct h2o_batch *b)
{
    struct h2o *s = c->state;
    struct attend_set *set = &a->set[0];
    const int64_t T = r->q.n[0];
    rope[0] = kv_rotate(r->q, r->q, c->kind->rope, r->pos);
    kv_attend_init(a, c, r);
    if (s->prompt) {
        first_row(c, r, rope + 1, set);
        return 0;
    }
    if (s->rows.n + T > s->rows.capacity)
        TRY(pack(c));
    kept_append(c, &s->rows, r, rope + 1, set);
    set->attn_scores = s->mem[SCORE].data;
    set->attn_scores_ld = s->rows.capacity;
    if (s->masks) {
        set->keep = s->mem[KEEP].data;
        set->keep_rows = c->kind->n_kv_head;
        set->keep_ld = s->rows.capacity;
    }
    if (!in_prompt(c) && s->rows.n > s->heavy + s->recent)
        b->select[b->n_select++] = mask(c);
    return 0;
}

/* After attending, what is not part of a launch: the prompt is let go, or a chunk of it has ended. */
static int settle(struct kv_cache *c, int64_t T)
{
    struct h2o *s = c->state;
    const bool prompt = in_prompt(c);
    c->n += T;
    if (s->prompt) {
        take(c, s->prompt, s->mem[FIRST].data, s->prompt->n + 1, s->prompt->n + 1);
        TRY(c->ops->sync(c->ops)); /* nothing reads the prompt any more */
        kv_mem_close(c, &s->mem[FIRST]);
        kv_dense_unref(s->prompt, c->ops);
        s->prompt = NULL;
    }
    const bool ends = c->n % CHUNK == 0 || c->n == c->n_prompt;
    return prompt && ends && s->rows.n > s->heavy + s->recent ? pack(c) : 0;
}

/* at[i]: rows of sequence i that are done. */
static int h2o_round(struct kv_cache *const *c, const struct kv_rows *rows, int n, int64_t *at,
                     struct h2o_batch *b)
{
    struct ops *ops = c[0]->ops;
    int64_t *T = mem_alloc((size_t)n, sizeof *T);
    int m = 0, rc = 0;
    b->n_select = 0;
    for (int i = 0; i < n && rc == 0; i++) {
        const int64_t left = rows[i].q.n[0] - at[i];
        if (!left)
            continue;
        T[i] = part(c[i], left);
        struct kv_rows r = kv_rows_part(&rows[i], at[i], T[i]);
        rc = h2o_rows(c[i], &r, b->rope + 3 * m, b->attend + m, b);
        m++;
    }
    if (rc == 0 && m) {
        ops->rope(ops, b->rope, 3 * m);
        ops->attend(ops, b->attend, m);
    }
    if (rc == 0 && b->n_select)
        ops->select(ops, b->select, b->n_select);
    for (int i = 0; i < n && rc == 0; i++) {
        at[i] += T[i];
        if (T[i])
            rc = settle(c[i], T[i]);
    }
    free(T);
    return rc < 0 ? rc : m;
}

static int h2o_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    for (int i = 0; i < n; i++)
        if (((const struct h2o_params *)c[i]->params)->when != KV_WHEN_PREFILL)
            TRY(kv_after_prompt(c[i]));
    struct h2o_batch b = {mem_alloc(3 * (size_t)n, sizeof *b.rope), mem_alloc((size_t)n, sizeof *b.attend),
                          mem_alloc((size_t)n, sizeof *b.select), 0};
    int64_t *at = mem_alloc((size_t)n, sizeof *at);
    int rc;
    do
        rc = h2o_round(c, rows, n, at, &b);
    while (rc > 0);
    free(at);
    free(b.rope);
    free(b.attend);
    free(b.select);
    return rc;
}

static void h2o_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct h2o *s = c->state;
    kept_count(&s->rows, l);
    kv_mem_count(s->mem, N_MEM, l);
    if (s->prompt)
        kv_dense_count(s->prompt, l);
}

static void h2o_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    const struct h2o *s = c->state;
    b->value[KV_TOPK] = (double)s->heavy;
    b->value[KV_N_LOCAL] = (double)s->recent;
    b->value[KV_KEPT_TOKENS] = (double)(s->prompt ? c->n : min64(c->n, s->heavy + s->recent));
}

static int h2o_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    const struct h2o *s = c->state;
    return kept_dump(c, &s->rows, s->masks ? s->mem[KEEP].data : NULL, s->mem[SCORE].data, c->kind->n_head,
                     out, n);
}

const struct kv_method kv_method_h2o = {
    .name = "h2o",
    .source = "arXiv 2306.14048; h2o_hf/utils_real_drop of FMInference/H2O",
    .summary = "the keys that got most attention and the newest ones, per KV head; the others are dropped",
    .params = h2o_table,
    .params_bytes = sizeof(struct h2o_params),
    .from_ratio = h2o_from_ratio,
    .check = h2o_check,
    .nominal_ratio = h2o_nominal,
    .prefill_key = h2o_prefill_key,
    .wants = h2o_wants,
    .open = h2o_open,
    .from_dense = h2o_from_dense,
    .step = h2o_step,
    .bytes = h2o_bytes,
    .budgets = h2o_budgets,
    .dump = h2o_dump,
    .close = h2o_close,
};
