/* InfLLM (arXiv 2402.04617) as the benchmark of arXiv 2407.01527 runs it (pipeline/inf_stream_llm,
 * context_manager.py). All keys and values are stored raw (before RoPE) on the host; a chunk of rows attends,
 * under one softmax, to
 *   near: the last n_local tokens at their true distance, and
 *   far: the first n_init tokens, the topk most relevant blocks, and the tokens [rem0, end - n_local) that
 * are no longer near and in no block yet: raw keys, all rows of the chunk at position n_local - 1, unmasked.
 * A far set belongs to a whole chunk, so in a prefill chunk its early rows count tokens that are also near a
 * second time (as upstream does; rows of one, decoding, have nothing twice). Chunks end at multiples of
 * `piece`; the last prompt token and every later one is a chunk of its own.
 *
 * After a chunk the tokens that left the window first fill the init tokens, then form blocks. A query head's
 * representative of a block is the mean of those `repr` raw keys to which the near parts gave it most
 * probability; blocks are chosen by their inner products with the chunk's mean query (at n_local - 1), summed
 * over the heads.
 *
 * Upstream keeps scores, means and products in fp16 and so may choose differently between close candidates;
 * here they are f32 (representatives: cache dtype). Ties go to the lower index. Its score kernel adds 1/count
 * for padded rows at some lengths; that is not reproduced. */
#include "kv/infllm.h"
#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

struct infllm_params {
    double keep, init_share, retrieved_share;
    int64_t block, repr, piece, min_local, cap, init, local, topk;
};

#define AT(m) offsetof(struct infllm_params, m)
static const struct param infllm_table[] = {
    {"keep", PARAM_REAL, AT(keep), 0.5, 0.001, 1, NULL, NULL,
     "fraction of the prompt's tokens that is attended to"},
    {"init_share", PARAM_REAL, AT(init_share), 0.021, 0, 1, NULL, NULL,
     "fraction of the attended tokens that are first tokens"},
    {"retrieved_share", PARAM_REAL, AT(retrieved_share), 0.324, 0, 1, NULL, NULL,
     "fraction of the attended tokens that are retrieved, in whole blocks"},
    {"block", PARAM_INT, AT(block), 128, 1, 4096, NULL, NULL, "tokens of a block"},
    {"repr", PARAM_INT, AT(repr), 4, 1, 4096, NULL, NULL,
     "keys of a block whose mean represents it (at most block)"},
    {"piece", PARAM_INT, AT(piece), 512, 16, 512, "16|32|64|128|256|512", NULL,
     "rows of a prefill chunk that share a choice of blocks"},
    {"min_local", PARAM_INT, AT(min_local), 512, 1, 1e15, NULL, NULL,
     "smallest window that keep may lead to (at least piece)"},
    {"cap", PARAM_INT, AT(cap), 0, 0, 1e15, NULL, NULL,
     "prompt tokens that count towards the budget at most (0: all)"},
    {"init", PARAM_INT, AT(init), 0, 0, 1e15, NULL, NULL, "first tokens as a fixed number (with local)"},
    {"local", PARAM_INT, AT(local), 0, 0, 1e15, NULL, NULL,
     "window as a fixed number of tokens, instead of keep (0: use keep)"},
    {"topk", PARAM_INT, AT(topk), 0, 0, 1e9, NULL, NULL, "retrieved blocks as a fixed number (with local)"},
    {0},
};
#undef AT

/* The reference's numbers for its four strengths (0.17, not 1/6). */
static int infllm_from_ratio(void *params, double ratio)
{
    struct infllm_params *p = params;
    p->keep = ratio == 6 ? 0.17 : 1 / ratio;
    return 0;
}

/* The far set of a chunk may hold no token of the chunk itself: no window is shorter than a chunk. */
static int infllm_check(const void *params, const struct layer_kind *kind)
{
    const struct infllm_params *p = params;
    (void)kind;
    if ((p->init || p->topk) && !p->local)
        return err_set(ERR_INPUT, "method infllm: %s=%lld is not allowed without local; give local >= piece",
                       p->init ? "init" : "topk", (long long)(p->init ? p->init : p->topk));
    if (p->local && p->local < p->piece)
        return err_set(ERR_INPUT, "method infllm: local=%lld is not allowed; use at least piece=%lld",
                       (long long)p->local, (long long)p->piece);
    if (p->min_local < p->piece)
        return err_set(ERR_INPUT, "method infllm: min_local=%lld is not allowed; use at least piece=%lld",
                       (long long)p->min_local, (long long)p->piece);
    if (p->repr > p->block)
        return err_set(ERR_INPUT, "method infllm: repr=%lld is not allowed; use at most block=%lld",
                       (long long)p->repr, (long long)p->block);
    return 0;
}

/* Fixed sizes have no ratio of their own: that of 10,000 tokens. */
static double infllm_nominal(const void *params)
{
    const struct infllm_params *p = params;
    double kept = (double)p->init + (double)p->local + (double)p->topk * (double)p->block;
    return p->local ? fmax(1, 10000 / kept) : 1 / p->keep;
}

/* Budgets for a prompt of T tokens, in the double arithmetic of the reference's infllm_utils.py. */
struct sizes {
    int64_t n_init, n_local, topk;
};
static struct sizes infllm_sizes(const struct infllm_params *p, int64_t T)
{
    if (p->local)
        return (struct sizes){p->init, p->local, p->topk};
    int64_t total = (int64_t)(p->keep * (double)(p->cap && p->cap < T ? p->cap : T));
    struct sizes s = {(int64_t)((double)total * p->init_share), 0,
                      (int64_t)((double)total * p->retrieved_share) / p->block};
    s.n_local = max64(p->min_local, total - s.n_init - s.topk * p->block);
    return s;
}

/* Never the plain pass: that one does not keep raw keys. */
static uint64_t infllm_prefill_key(const void *params, int64_t n_prompt, const struct layer_kind *kind)
{
    const struct infllm_params *p = params;
    struct sizes s = infllm_sizes(p, n_prompt);
    const int64_t numbers[] = {s.n_init, s.n_local, s.topk, p->block, p->repr, p->piece};
    (void)kind;
    return kv_key("infllm", numbers, 6);
}

/* K and V of n tokens. */
static int open_pair(struct kv_cache *c, int at, struct tensor t[2], int64_t n, bool host)
{
    struct infllm *s = c->state;
    const size_t bytes = (size_t)n * kv_row_bytes(c);
    for (int i = 0; i < 2; i++) {
        TRY(host ? kv_mem_open_host(c, &s->mem[at + i], bytes, MEM_WINDOW)
                 : kv_mem_open(c, &s->mem[at + i], bytes, MEM_WINDOW));
        t[i] = kv_tensor(c, s->mem[at + i].data, n);
    }
    return 0;
}

static int open_tensor(struct kv_cache *c, int at, struct tensor *t, int64_t n, int64_t heads,
                       enum dtype dtype, enum mem_kind kind)
{
    struct infllm *s = c->state;
    *t = (struct tensor){NULL, dtype, {n, heads, c->kind->d_k, 1}};
    TRY(kv_mem_open(c, &s->mem[at], tensor_bytes(t), kind));
    t->data = s->mem[at].data;
    return 0;
}

/* What chooses between blocks, for at most n_block of them. */
static int open_scores(struct kv_cache *c, int64_t n_block)
{
    struct infllm *s = c->state;
    const int64_t H = c->kind->n_head, n_slot = min64(s->topk, n_block);
    const size_t word = sizeof(float), blocks = (size_t)n_block;
    TRY(open_tensor(c, M_REPR, &s->repr_key, n_block, H, c->shape->dtype, MEM_INDEX));
    TRY(kv_mem_open(c, &s->mem[M_REPR_ID], blocks * (size_t)(H * s->repr) * word, MEM_INDEX));
    /* The window, an unfinished block and a new chunk fit; the rest of the budget is room to move less often,
     * and keeps the size a function of the budget alone. */
    s->score_ld = min64(c->n_max, s->n_init + s->n_local + s->topk * s->block + s->block + s->chunk);
    TRY(kv_mem_open(c, &s->mem[M_SCORE], (size_t)(H * s->score_ld) * word, MEM_INDEX));
    TRY(kv_mem_open(c, &s->mem[M_PICK], (size_t)n_slot * word, MEM_INDEX));
    TRY(kv_mem_open(c, &s->mem[M_PICKED], blocks * word, MEM_WORKSPACE));
    TRY(open_tensor(c, M_MEAN, &s->mean, 1, H, DT_F32, MEM_WORKSPACE));
    TRY(open_tensor(c, M_CHOSEN, &s->chosen, s->repr, H, c->shape->dtype, MEM_WORKSPACE));
    s->repr_id = s->mem[M_REPR_ID].data;
    s->score = s->mem[M_SCORE].data;
    s->pick = s->mem[M_PICK].data;
    s->product = s->mem[M_PICKED].data;
    return 0;
}

static int infllm_open(struct kv_cache *c)
{
    const struct infllm_params *p = c->params;
    struct infllm *s = c->state = mem_alloc(1, sizeof *s);
    struct sizes z = infllm_sizes(p, c->n_prompt);
    s->n_init = z.n_init;
    s->n_local = z.n_local;
    s->topk = z.topk;
    s->block = p->block;
    s->chunk = p->piece;
    s->repr = p->repr;
    s->far = s->n_local < c->n_max;
    TRY(open_pair(c, M_RING, s->ring, min64(s->n_local, c->n_max), false));
    if (!s->far)
        return 0;
    const int64_t left = c->n_max - s->n_local; /* tokens that will leave the window */
    const int64_t n_block = max64(left - s->n_init, 0) / s->block, n_slot = min64(s->topk, n_block);
    TRY(open_pair(c, M_STORE, s->store, c->n_max, true));
    TRY(open_pair(c, M_INIT, s->init, min64(s->n_init, left), false));
    TRY(open_pair(c, M_FAR, s->rest, min64(s->block, left), false));
    TRY(open_pair(c, M_SLOT, s->slot, n_slot * s->block, false));
    TRY(open_tensor(c, M_QUERY, &s->query, 1, c->kind->n_head, c->ops->act, MEM_WORKSPACE));
    TRY(open_tensor(c, M_KEY, &s->key, 1, c->kind->n_kv_head, c->shape->dtype, MEM_WORKSPACE));
    s->want = mem_alloc((size_t)n_slot + 1, sizeof *s->want);
    s->held = mem_alloc((size_t)n_slot + 1, sizeof *s->held);
    s->scored = n_slot > 0;
    return s->scored ? open_scores(c, n_block) : 0;
}

static void infllm_close(struct kv_cache *c)
{
    struct infllm *s = c->state;
    if (!s)
        return;
    for (int i = 0; i < M_N; i++)
        kv_mem_close(c, &s->mem[i]);
    free(s->want);
    free(s->held);
    free(s);
}
/* ---- Steps ------------------------------------------------------------------------------------------ */

/* Arrays for n caches in one step. */
struct round {
    struct kv_cache **c; /* those that have rows left */
    struct infllm_chunk *chunk;
    struct rope_args *rope;     /* 3 each */
    struct select_args *select; /* one each */
    struct attend_args *attend;
    int n;
};

/* Chooses blocks for every cache that has to. This is the one place where the device's result is waited for:
 * only the host can say which rows of its store are copied. */
static int round_choose(const struct round *r)
{
    struct ops *ops = r->c[0]->ops;
    int n = 0;
    for (int i = 0; i < r->n; i++)
        if (infllm_chooses(r->c[i], &r->chunk[i]))
            infllm_rate(r->c[i], &r->chunk[i], &r->select[n++]);
    if (!n)
        return 0;
    ops->select(ops, r->select, n);
    for (int i = 0; i < r->n; i++) {
        const struct infllm *s = r->c[i]->state;
        if (infllm_chooses(r->c[i], &r->chunk[i]))
            ops->copy(ops, s->want, s->pick, (size_t)s->topk * sizeof *s->want);
    }
    return ops->sync(ops);
}

static int round_run(const struct round *r)
{
    struct ops *ops = r->c[0]->ops;
    int n_far = 0, n_near = 0;
    for (int i = 0; i < r->n; i++)
        n_far += infllm_far(r->c[i], &r->chunk[i], r->rope + n_far);
    if (n_far)
        ops->rope(ops, r->rope, n_far);
    TRY(round_choose(r));
    for (int i = 0; i < r->n; i++)
        n_near += infllm_near(r->c[i], &r->chunk[i], r->rope + n_near);
    ops->rope(ops, r->rope, n_near);
    for (int i = 0; i < r->n; i++) {
        infllm_load(r->c[i], &r->chunk[i]);
        infllm_attend(r->c[i], &r->chunk[i], &r->attend[i]);
    }
    ops->attend(ops, r->attend, r->n);
    for (int i = 0; i < r->n; i++)
        infllm_commit(r->c[i], &r->chunk[i]);
    return 0;
}

/* Gives the memory of the chunks back, once nothing on the device uses it any more. */
static int round_release(const struct round *r)
{
    bool any = false;
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < 6; k++)
            any = any || r->chunk[i].mem[k].data;
    int rc = any ? r->c[0]->ops->sync(r->c[0]->ops) : 0;
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < 6; k++)
            kv_mem_close(r->c[i], &r->chunk[i].mem[k]);
    return rc;
}

/* Where the chunk that begins at c->n ends. */
static int64_t chunk_end(const struct kv_cache *c, int64_t end)
{
    const struct infllm *s = c->state;
    if (c->n >= c->n_prompt - 1)
        return c->n + 1;
    return min64(end, min64((c->n / s->chunk + 1) * s->chunk, c->n_prompt - 1));
}

/* The next chunk of every cache that has rows left; r->n is 0 when none has. */
static int round_plan(struct round *r, struct kv_cache *const *c, const struct kv_rows *rows, int n)
{
    r->n = 0;
    for (int i = 0; i < n; i++) {
        const int64_t end = rows[i].pos + rows[i].q.n[0];
        if (c[i]->n == end)
            continue;
        const int64_t T = chunk_end(c[i], end) - c[i]->n;
        struct kv_rows part = kv_rows_part(&rows[i], c[i]->n - rows[i].pos, T);
        infllm_make_room(c[i], T);
        r->c[r->n++] = c[i];
        TRY(infllm_plan(c[i], &part, &r->chunk[r->n - 1]));
    }
    return 0;
}

static int infllm_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    const size_t m = (size_t)n;
    struct round r = {.c = mem_alloc(m, sizeof *r.c),
                      .chunk = mem_alloc(m, sizeof *r.chunk),
                      .rope = mem_alloc(3 * m, sizeof *r.rope),
                      .select = mem_alloc(m, sizeof *r.select),
                      .attend = mem_alloc(m, sizeof *r.attend)};
    int rc;
    do {
        rc = round_plan(&r, c, rows, n);
        if (rc == 0 && r.n)
            rc = round_run(&r);
        int released = round_release(&r);
        rc = rc < 0 ? rc : released;
    } while (rc == 0 && r.n);
    free(r.c);
    free(r.chunk);
    free(r.rope);
    free(r.select);
    free(r.attend);
    return rc;
}

/* ---- Accounts --------------------------------------------------------------------------------------- */

static void infllm_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    kv_mem_count(((const struct infllm *)c->state)->mem, M_N, l);
}

static void infllm_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    const struct infllm *s = c->state;
    b->value[KV_N_INIT] = (double)s->n_init;
    b->value[KV_N_LOCAL] = (double)s->n_local;
    b->value[KV_TOPK] = (double)s->topk;
    b->value[KV_KEPT_TOKENS] = (double)s->attended;
}

/* counts: tokens, init tokens, blocks, rem0. blocks: those attended to in the newest chunk, in no order.
 * repr_ids: token numbers. */
static int infllm_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    const struct infllm *s = c->state;
    const int64_t H = c->kind->n_head, n_repr = s->scored ? s->n_block : 0;
    int32_t *counts = kv_dump_add(out, n, "counts", DT_I32, (int64_t[3]){4, 1, 1});
    int32_t *blocks = kv_dump_add(out, n, "blocks", DT_I32, (int64_t[3]){s->n_held, 1, 1});
    int32_t *ids = kv_dump_add(out, n, "repr_ids", DT_I32, (int64_t[3]){n_repr, H, s->repr});
    void *keys = kv_dump_add(out, n, "repr", c->shape->dtype, (int64_t[3]){n_repr, H, c->kind->d_k});
    struct tensor from = tensor_rows(&s->repr_key, 0, n_repr);
    const int64_t n_id = n_repr * H * s->repr;
    counts[0] = (int32_t)c->n;
    counts[1] = (int32_t)s->n_first;
    counts[2] = (int32_t)s->n_block;
    counts[3] = (int32_t)s->rem0;
    for (int64_t i = 0; i < s->n_held; i++)
        blocks[i] = s->held[i];
    if (!n_repr)
        return 0;
    c->ops->copy(c->ops, keys, from.data, tensor_bytes(&from));
    c->ops->copy(c->ops, ids, s->repr_id, (size_t)n_id * sizeof *ids);
    TRY(c->ops->sync(c->ops));
    for (int64_t i = 0; i < n_id; i++)
        ids[i] += (int32_t)(s->n_init + i / (H * s->repr) * s->block);
    return 0;
}

const struct kv_method kv_method_infllm = {
    .name = "infllm",
    .source = "arXiv 2402.04617; pipeline/inf_stream_llm of arXiv 2407.01527",
    .summary = "first tokens, a sliding window, and the blocks of everything else that the query asks for",
    .params = infllm_table,
    .params_bytes = sizeof(struct infllm_params),
    .from_ratio = infllm_from_ratio,
    .check = infllm_check,
    .nominal_ratio = infllm_nominal,
    .prefill_key = infllm_prefill_key,
    .open = infllm_open,
    .step = infllm_step,
    .bytes = infllm_bytes,
    .budgets = infllm_budgets,
    .dump = infllm_dump,
    .close = infllm_close,
};
