/* H2O as the benchmark of arXiv 2407.01527 runs it (pipeline/h2o/utils_hh/modify_llama.py,
 * modify_mistral.py): nothing of the prompt pass is scored and nothing is deleted. The first decode step
 * attends to everything; its fp16 probabilities are the first scores, its K keys fix the budgets:
 * int(heavy*K) of the highest scores and int(recent*K) of the newest keys. From then on each query head sees
 * what it chose for itself after the step before, plus the new token. The cache stays complete, so this
 * method saves no memory: it says so in its ledger (the keys of the prompt are shared by reference, masks and
 * scores come on top).
 *
 * Only scores are fp16 (they decide what is kept); outputs are those of the backend over the keys that
 * are seen. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct paper_params {
    double heavy, recent;
    int64_t lag; /* LAG_AUTO where nobody has said what the model is: as 0 */
};
enum { LAG_AUTO = 2 };

static const struct param paper_table[] = {
    {"heavy", PARAM_REAL, offsetof(struct paper_params, heavy), 0.25, 0, 1, NULL, NULL,
     "fraction of the keys that is seen for its scores"},
    {"recent", PARAM_REAL, offsetof(struct paper_params, recent), 0.25, 0, 1, NULL, NULL,
     "fraction of the keys that is seen for its age (0 tokens: nothing is ever masked, as in the reference)"},
    {"lag", PARAM_CHOICE, offsetof(struct paper_params, lag), LAG_AUTO, 0, 0, "0|1|auto", NULL,
     "1: layer 0 begins a step late, as the reference's Mistral does; auto: 1 on a model whose model_type is "
     "mistral, else 0"},
    {0},
};

enum { OWN_K, OWN_V, SCORE, KEEP, N_MEM };

struct paper {
    struct kv_mem mem[N_MEM]; /* own k, v [n_max - n_prompt,Hk,d]; scores f32 [H,n_max]; keep u8 [H,n_max] */
    struct kv_dense *prompt;  /* NULL: no prompt */
    struct tensor own[2];
    int64_t first;         /* keys of the step that gives the first scores */
    int64_t heavy, recent; /* budgets in tokens */
};

static int paper_from_ratio(void *params, double ratio)
{
    struct paper_params *p = params;
    p->heavy = p->recent = ratio == 6 ? 0.083 : 1 / (2 * ratio);
    return 0;
}

static int paper_check(const void *params, const struct layer_kind *kind)
{
    const struct paper_params *p = params;
    (void)kind;
    if (p->heavy + p->recent == 0)
        return err_set(ERR_INPUT, "method h2o-paper: heavy=0 is not allowed with recent=0; keep something");
    return 0;
}

static double paper_nominal(const void *params)
{
    const struct paper_params *p = params;
    return fmax(1, 1 / (p->heavy + p->recent));
}

static int paper_open(struct kv_cache *c)
{
    const struct paper_params *p = c->params;
    struct paper *s = c->state = mem_alloc(1, sizeof *s);
    const int64_t n_own = c->n_max - c->n_prompt;
    const size_t marks = (size_t)c->kind->n_head * (size_t)c->n_max;
    const size_t bytes = (size_t)n_own * kv_row_bytes(c);
    for (int i = 0; i < 2; i++) {
        TRY(kv_mem_open(c, &s->mem[OWN_K + i], bytes, MEM_WINDOW));
        s->own[i] = kv_tensor(c, s->mem[OWN_K + i].data, n_own);
    }
    TRY(kv_mem_open(c, &s->mem[SCORE], marks * sizeof(float), MEM_INDEX));
    TRY(kv_mem_open(c, &s->mem[KEEP], marks, MEM_INDEX));
    s->first = c->n_prompt + 1 + (p->lag == 1 && c->layer == 0);
    s->heavy = (int64_t)(p->heavy * (double)s->first);
    s->recent = (int64_t)(p->recent * (double)s->first);
    uint8_t *ones = mem_alloc(marks, 1); /* a key is seen until it loses */
    memset(ones, 1, marks);
    c->ops->copy(c->ops, s->mem[KEEP].data, ones, marks);
    int rc = c->ops->sync(c->ops);
    free(ones);
    return rc;
}

static void paper_close(struct kv_cache *c)
{
    struct paper *s = c->state;
    for (int i = 0; s && i < N_MEM; i++)
        kv_mem_close(c, &s->mem[i]);
    if (s && s->prompt)
        kv_dense_unref(s->prompt, c->ops);
    free(s);
}

static int paper_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    ((struct paper *)c->state)->prompt = kv_dense_ref(dense);
    return 0;
}

/* Row r joins the cache and attends to what its heads chose; `sel` chooses for the next row. Returns whether
 * there is a choice. */
static bool paper_row(struct kv_cache *c, const struct kv_rows *r, struct rope_args rope[3],
                      struct attend_args *a, struct select_args *sel)
{
    struct paper *s = c->state;
    const int64_t before = s->prompt ? s->prompt->n : 0, at = c->n - before, K = ++c->n;
    rope[0] = kv_rotate(r->q, r->q, c->kind->rope, r->pos);
    rope[1] = kv_rotate(r->k, tensor_rows(&s->own[0], at, 1), c->kind->rope, r->pos);
    rope[2] = kv_rotate(r->v, tensor_rows(&s->own[1], at, 1), NULL, 0);
    kv_attend_init(a, c, r);
    struct attend_set *set = &a->set[0];
    if (before) {
        set->k[0] = kv_run_of(&s->prompt->k, 0, before, 0);
        set->v[0] = kv_run_of(&s->prompt->v, 0, before, 0);
        set->n_k = 1;
    }
    set->k[set->n_k] = kv_run_of(&s->own[0], 0, at + 1, before);
    set->v[set->n_k] = kv_run_of(&s->own[1], 0, at + 1, before);
    set->n_v = ++set->n_k;
    if (K < s->first)
        return false;
    a->f16_attn_scores = true;
    set->attn_scores = s->mem[SCORE].data;
    set->attn_scores_ld = c->n_max;
    if (K > s->first) {
        set->keep = s->mem[KEEP].data;
        set->keep_rows = c->kind->n_head;
        set->keep_ld = c->n_max;
    }
    *sel = (struct select_args){.score = s->mem[SCORE].data,
                                .score_ld = c->n_max,
                                .rows = c->kind->n_head,
                                .group = 1,
                                .n = K - s->recent,
                                .k = s->heavy,
                                .tail = s->recent,
                                .keep = s->mem[KEEP].data,
                                .keep_ld = c->n_max,
                                .zero_rest = true};
    return s->recent && K > s->heavy + s->recent;
}

/* Row t of every sequence that has one. */
struct paper_batch {
    struct rope_args *rope;
    struct attend_args *attend;
    struct select_args *select;
};

static bool paper_one(struct kv_cache *const *c, const struct kv_rows *rows, int n, int64_t t,
                      struct paper_batch *b)
{
    struct ops *ops = c[0]->ops;
    int m = 0, n_select = 0;
    for (int i = 0; i < n; i++) {
        if (t >= rows[i].q.n[0])
            continue;
        struct kv_rows r = kv_rows_part(&rows[i], t, 1);
        n_select += paper_row(c[i], &r, b->rope + 3 * m, b->attend + m, b->select + n_select);
        m++;
    }
    if (!m)
        return false;
    ops->rope(ops, b->rope, 3 * m);
    ops->attend(ops, b->attend, m);
    if (n_select)
        ops->select(ops, b->select, n_select);
    return true;
}

/* Several rows at once mean the same as one after the other: what a row chooses the next one sees. */
static int paper_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    for (int i = 0; i < n; i++)
        TRY(kv_after_prompt(c[i]));
    struct paper_batch b = {mem_alloc(3 * (size_t)n, sizeof *b.rope), mem_alloc((size_t)n, sizeof *b.attend),
                            mem_alloc((size_t)n, sizeof *b.select)};
    for (int64_t t = 0; paper_one(c, rows, n, t, &b); t++)
        ;
    free(b.rope);
    free(b.attend);
    free(b.select);
    return 0;
}

static void paper_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct paper *s = c->state;
    kv_mem_count(s->mem, N_MEM, l);
    if (s->prompt)
        kv_dense_count(s->prompt, l);
}

/* kept_tokens: keys that a query head sees; all of them are stored. */
static void paper_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    const struct paper *s = c->state;
    const int64_t seen = s->heavy + s->recent + 1;
    b->value[KV_TOPK] = (double)s->heavy;
    b->value[KV_N_LOCAL] = (double)s->recent;
    b->value[KV_KEPT_TOKENS] = (double)(s->recent && seen < c->n ? seen : c->n);
}

/* What the next row will see ("keep" u8 [H,n+1], its own key last) and the scores ("score" f32 [H,n]). */
static int paper_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    const struct paper *s = c->state;
    const int64_t H = c->kind->n_head, n_keep = c->n < c->n_max ? c->n + 1 : c->n;
    uint8_t *keep = kv_dump_add(out, n, "keep", DT_U8, (const int64_t[3]){H, n_keep, 1});
    float *score = kv_dump_add(out, n, "score", DT_F32, (const int64_t[3]){H, c->n, 1});
    for (int64_t h = 0; h < H; h++) {
        c->ops->copy(c->ops, keep + h * n_keep, (const uint8_t *)s->mem[KEEP].data + h * c->n_max,
                     (size_t)n_keep);
        c->ops->copy(c->ops, score + h * c->n, (const float *)s->mem[SCORE].data + h * c->n_max,
                     (size_t)c->n * sizeof *score);
    }
    return c->ops->sync(c->ops);
}

static bool paper_keeps_prompt(const void *params)
{
    (void)params;
    return true;
}

const struct kv_method kv_method_h2o_paper = {
    .name = "h2o-paper",
    .source = "pipeline/h2o of arXiv 2407.01527, after arXiv 2306.14048",
    .summary = "decode steps choose keys by score and age, per query head; nothing is freed",
    .params = paper_table,
    .params_bytes = sizeof(struct paper_params),
    .from_ratio = paper_from_ratio,
    .check = paper_check,
    .nominal_ratio = paper_nominal,
    .keeps_prompt = paper_keeps_prompt,
    .open = paper_open,
    .from_dense = paper_from_dense,
    .step = paper_step,
    .bytes = paper_bytes,
    .budgets = paper_budgets,
    .dump = paper_dump,
    .close = paper_close,
};
