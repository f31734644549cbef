/* InfLLM (arXiv 2402.04617) as the benchmark of arXiv 2407.01527 runs it (pipeline/inf_stream_llm,
 * context_manager.py). All keys and values are stored raw (before RoPE) on the host; a piece of rows attends,
 * under one softmax, to
 *   near: the last n_local tokens at their true distance, and
 *   far: the first n_init tokens, the topk most relevant blocks, and the tokens [rem0, end - n_local) that
 * are no longer near and in no block yet: raw keys, all rows of the piece at position n_local - 1, unmasked.
 * A far set belongs to a whole piece, so in a prompt piece its early rows count tokens that are also near a
 * second time (as upstream does; rows of one, decoding, have nothing twice). Pieces end at multiples of
 * `piece`; the last prompt token and every later one is a piece of its own.
 *
 * After a piece the tokens that left the window first fill the init tokens, then form blocks. A query head's
 * representative of a block is the mean of those `repr` raw keys to which the near parts gave it most
 * probability; blocks are chosen by their inner products with the piece's mean query (at n_local - 1), summed
 * over the heads.
 *
 * Upstream keeps scores, means and products in fp16 and so may choose differently between close candidates;
 * here they are f32 (representatives: cache dtype). Ties go to the lower index. Its score kernel adds 1/count
 * for padded rows at some lengths; that is not reproduced. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/kv.h"

#include <assert.h>
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
     "rows of a prompt piece that share a choice of blocks"},
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

/* Memory of a cache. INIT and SLOT hold K and V of first tokens and chosen blocks, FAR those of tokens that
 * will become a block, RING the rotated K and V of the window, STORE all raw K and V on the host. */
enum {
    M_INIT,
    M_RING = M_INIT + 2,
    M_FAR = M_RING + 2,
    M_SLOT = M_FAR + 2,
    M_STORE = M_SLOT + 2,
    M_REPR = M_STORE + 2,
    M_REPR_ID,
    M_SCORE,
    M_PICK,
    M_PICKED, /* workspace: inner products with the representatives */
    M_MEAN,   /* workspace: mean query or key */
    M_CHOSEN, /* workspace: keys behind a representative */
    M_QUERY,  /* workspace: query of a piece of one row as the far set sees it */
    M_KEY,    /* workspace: its raw key in the cache dtype */
    M_N
};

struct infllm {
    struct kv_mem mem[M_N];
    int64_t n_init, n_local, topk;
    int64_t block, piece, repr;
    bool far;                                                   /* some token will leave the window */
    bool scored;                                                /* blocks may be chosen between */
    struct tensor init[2], ring[2], rest[2], slot[2], store[2]; /* k, v: [n,Hk,d] */
    struct tensor repr_key;                                     /* [n_block,H,d] */
    int32_t *repr_id; /* [n_block,H,repr]: which tokens of the block */
    float *score;     /* [H,score_ld]: column j belongs to token score_at + j */
    int64_t score_at, score_ld;
    float *product;             /* [n_block] */
    int32_t *pick;              /* [topk] */
    struct tensor mean, chosen; /* f32 [H,d]; [repr,H,d] */
    struct tensor query, key;   /* act [1,H,d]; [1,Hk,d] */
    int32_t *want, *held;       /* host [topk]: the blocks chosen; the block in each slot */
    int64_t n_held;
    int64_t n_first, n_block, rem0; /* init tokens so far; blocks so far; first token in neither */
    int64_t n_rest;                 /* tokens from rem0 on that are in `rest` */
    int64_t attended;               /* keys the newest row attended to */
};

static int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The reference's numbers for its four strengths (0.17, not 1/6). */
static int infllm_from_ratio(void *params, double ratio)
{
    struct infllm_params *p = params;
    if (!(ratio >= 1 && ratio <= 1000))
        return err_set(ERR_INPUT, "method infllm: ratio=%g is not allowed; use a number from 1 to 1000",
                       ratio);
    p->keep = ratio == 6 ? 0.17 : 1 / ratio;
    return 0;
}

/* The far set of a piece may hold no token of the piece itself: no window is shorter than a piece. */
static int infllm_check(const void *params, const struct kv_shape *shape)
{
    const struct infllm_params *p = params;
    (void)shape;
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
static uint64_t infllm_prefill_key(const void *params, int64_t n_prompt, const struct kv_shape *shape)
{
    const struct infllm_params *p = params;
    struct sizes s = infllm_sizes(p, n_prompt);
    const int64_t numbers[] = {s.n_init, s.n_local, s.topk, p->block, p->repr, p->piece};
    (void)shape;
    return kv_key("infllm", numbers, 6);
}

/* K and V of n tokens. */
static int open_pair(struct kv_cache *c, int at, struct tensor t[2], int64_t n, bool host)
{
    struct infllm *s = c->state;
    const size_t bytes = (size_t)n * kv_row_bytes(c->shape);
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
    *t = (struct tensor){NULL, dtype, {n, heads, c->shape->head_dim, 1}};
    TRY(kv_mem_open(c, &s->mem[at], tensor_bytes(t), kind));
    t->data = s->mem[at].data;
    return 0;
}

/* What chooses between blocks, for at most n_block of them. */
static int open_scores(struct kv_cache *c, int64_t n_block)
{
    struct infllm *s = c->state;
    const int64_t H = c->shape->n_head, n_slot = min64(s->topk, n_block);
    const size_t word = sizeof(float), blocks = (size_t)n_block;
    TRY(open_tensor(c, M_REPR, &s->repr_key, n_block, H, c->shape->dtype, MEM_INDEX));
    TRY(kv_mem_open(c, &s->mem[M_REPR_ID], blocks * (size_t)(H * s->repr) * word, MEM_INDEX));
    /* The window, an unfinished block and a new piece fit; the rest of the budget is room to move less often,
     * and keeps the size a function of the budget alone. */
    s->score_ld = min64(c->n_max, s->n_init + s->n_local + s->topk * s->block + s->block + s->piece);
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
    s->piece = p->piece;
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
    TRY(open_tensor(c, M_QUERY, &s->query, 1, c->shape->n_head, c->ops->act, MEM_WORKSPACE));
    TRY(open_tensor(c, M_KEY, &s->key, 1, c->shape->n_kv_head, c->shape->dtype, MEM_WORKSPACE));
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

/* ---- One piece of one cache ------------------------------------------------------------------------- */

/* New rows go to the ring straight away where that costs no row of the piece a key it still sees, else by way
 * of a stage. Pieces of one row use memory of the cache, longer ones (prompt only) memory that lives for the
 * piece. */
struct piece {
    struct kv_rows r;
    int64_t n_old;   /* ring tokens before the piece */
    int64_t n_extra; /* tokens [rem0, end - n_local) */
    bool staged;
    struct kv_mem mem[6];  /* stage k, v; rest k, v; query; key */
    struct tensor to[2];   /* where the rows are written: [T,Hk,d] */
    struct tensor rest[2]; /* [n_extra,Hk,d] */
    struct tensor query;   /* act [T,H,d]: as the far set wants it */
    struct tensor key;     /* [T,Hk,d]: raw, cache dtype */
};

static int plan_tensor(const struct kv_cache *c, struct kv_mem *m, struct tensor *t)
{
    TRY(kv_mem_open(c, m, tensor_bytes(t), MEM_WORKSPACE));
    t->data = m->data;
    return 0;
}

static int piece_plan(const struct kv_cache *c, const struct kv_rows *r, struct piece *p)
{
    const struct infllm *s = c->state;
    const int64_t T = r->q.n[0], capacity = s->ring[0].n[0], end = r->pos + T;
    *p = (struct piece){.r = *r, .n_old = min64(r->pos, capacity)};
    p->staged = T > 1 && end > capacity;
    p->n_extra = end > s->n_local ? end - s->n_local - s->rem0 : 0;
    assert(p->n_extra >= 0 && (T > 1 || p->n_extra <= s->block));
    for (int i = 0; i < 2; i++) {
        p->to[i] = p->staged ? kv_tensor(c, NULL, T) : tensor_rows(&s->ring[i], r->pos % capacity, T);
        if (p->staged)
            TRY(plan_tensor(c, &p->mem[i], &p->to[i]));
        p->rest[i] = T > 1 ? kv_tensor(c, NULL, p->n_extra) : tensor_rows(&s->rest[i], 0, p->n_extra);
        if (T > 1)
            TRY(plan_tensor(c, &p->mem[2 + i], &p->rest[i]));
    }
    p->query = s->query;
    p->key = s->key;
    if (T == 1 || !s->far)
        return 0;
    p->query = r->q;
    p->key = kv_tensor(c, NULL, T);
    if (p->n_extra)
        TRY(plan_tensor(c, &p->mem[4], &p->query));
    return plan_tensor(c, &p->mem[5], &p->key);
}

/* From the raw rows, which piece_near overwrites. */
static int piece_far(const struct kv_cache *c, const struct piece *p, struct rope_args out[2])
{
    const struct infllm *s = c->state;
    int n = 0;
    if (s->far)
        out[n++] = kv_rotate(p->r.k, p->key, NULL, 0);
    if (p->n_extra) {
        out[n] = kv_rotate(p->r.q, p->query, c->shape->rope, 0);
        out[n++].fixed = s->n_local - 1;
    }
    return n;
}

static int piece_near(const struct kv_cache *c, const struct piece *p, struct rope_args out[3])
{
    out[0] = kv_rotate(p->r.q, p->r.q, c->shape->rope, p->r.pos);
    out[1] = kv_rotate(p->r.k, p->to[0], c->shape->rope, p->r.pos);
    out[2] = kv_rotate(p->r.v, p->to[1], NULL, 0);
    return 3;
}

static bool piece_chooses(const struct kv_cache *c, const struct piece *p)
{
    const struct infllm *s = c->state;
    return p->n_extra && s->scored && s->n_block > s->topk;
}

/* Inner products of the representatives with the mean query of the piece; *out chooses by them. */
static void piece_rate(const struct kv_cache *c, const struct piece *p, struct select_args *out)
{
    struct infllm *s = c->state;
    struct tensor keys = tensor_rows(&s->repr_key, 0, s->n_block);
    c->ops->mean(c->ops, s->mean, p->query);
    c->ops->dots(c->ops, s->product, keys, s->mean.data);
    *out = (struct select_args){.score = s->product,
                                .score_ld = s->n_block,
                                .rows = 1,
                                .group = 1,
                                .n = s->n_block,
                                .k = s->topk,
                                .index = s->pick,
                                .index_ld = s->topk};
}

/* Copies one block from the host store into a slot. */
static void load_block(const struct kv_cache *c, int32_t block, int64_t slot)
{
    const struct infllm *s = c->state;
    for (int i = 0; i < 2; i++) {
        struct tensor from = tensor_rows(&s->store[i], s->n_init + block * s->block, s->block);
        struct tensor to = tensor_rows(&s->slot[i], slot * s->block, s->block);
        c->ops->copy(c->ops, to.data, from.data, tensor_bytes(&from));
    }
}

static bool is_in(const int32_t *list, int64_t n, int32_t x)
{
    for (int64_t i = 0; i < n; i++)
        if (list[i] == x)
            return true;
    return false;
}

/* Brings the wanted blocks into the slots; those that are there stay where they are (their order does not
 * matter to the softmax). */
static void load_blocks(const struct kv_cache *c, int64_t n_want)
{
    struct infllm *s = c->state;
    int64_t slot = 0;
    for (int64_t i = 0; i < n_want; i++) {
        if (is_in(s->held, s->n_held, s->want[i]))
            continue;
        while (slot < s->n_held && is_in(s->want, n_want, s->held[slot]))
            slot++;
        s->held[slot] = s->want[i];
        s->n_held = max64(s->n_held, slot + 1);
        load_block(c, s->want[i], slot);
    }
}

/* Stores the raw rows and fetches what the far set needs; the device list of chosen blocks is on the host by
 * now, if there was a choice. */
static void piece_load(const struct kv_cache *c, const struct piece *p)
{
    struct infllm *s = c->state;
    const int64_t T = p->r.q.n[0];
    const struct tensor *new[2] = {&p->key, &p->to[1]};
    for (int i = 0; i < 2 && s->far; i++)
        c->ops->copy(c->ops, tensor_rows(&s->store[i], p->r.pos, T).data, new[i]->data, tensor_bytes(new[i]));
    if (!p->n_extra)
        return;
    const int64_t have = T == 1 ? s->n_rest : 0, n_want = min64(s->n_block, s->slot[0].n[0] / s->block);
    for (int i = 0; i < 2; i++) {
        struct tensor from = tensor_rows(&s->store[i], s->rem0 + have, p->n_extra - have);
        struct tensor to = tensor_rows(&p->rest[i], have, p->n_extra - have);
        if (p->n_extra > have)
            c->ops->copy(c->ops, to.data, from.data, tensor_bytes(&from));
    }
    for (int64_t i = 0; i < n_want && !piece_chooses(c, p); i++)
        s->want[i] = (int32_t)i;
    load_blocks(c, n_want);
}

/* Keys (i = 0) or values (i = 1) of the near set: ring, then stage. *first is the oldest token. */
static int near_runs(const struct kv_cache *c, const struct piece *p, int i, struct kv_run out[ATTEND_RUNS],
                     int64_t *first)
{
    const struct infllm *s = c->state;
    const int64_t T = p->r.q.n[0], to = p->r.pos + (p->staged ? 0 : T);
    *first = to - min64(p->n_old + (p->staged ? 0 : T), s->ring[i].n[0]);
    int n = kv_ring_runs(&s->ring[i], 0, *first, to, out);
    if (p->staged)
        out[n++] = kv_run_of(&p->to[i], 0, T, p->r.pos);
    return n;
}

/* First tokens, unfinished blocks, chosen blocks. Positions only have to be in the past, for all are visible.
 */
static int far_runs(const struct kv_cache *c, const struct piece *p, int i, struct kv_run out[ATTEND_RUNS])
{
    const struct infllm *s = c->state;
    int n = 0;
    if (s->n_first)
        out[n++] = kv_run_of(&s->init[i], 0, s->n_first, 0);
    out[n++] = kv_run_of(&p->rest[i], 0, p->n_extra, s->rem0);
    if (s->n_held)
        out[n++] = kv_run_of(&s->slot[i], 0, s->n_held * s->block, 0);
    return n;
}

static void piece_attend(const struct kv_cache *c, const struct piece *p, struct attend_args *a)
{
    struct infllm *s = c->state;
    int64_t first;
    kv_attend_init(a, c, &p->r);
    struct attend_set *near = &a->set[0], *far = &a->set[1];
    near->n_k = near_runs(c, p, 0, near->k, &first);
    near->n_v = near_runs(c, p, 1, near->v, &first);
    near->dist_max = s->n_local;
    if (s->scored) {
        assert(first >= s->score_at && p->r.pos + p->r.q.n[0] - s->score_at <= s->score_ld);
        near->mass = s->score + (first - s->score_at);
        near->mass_ld = s->score_ld;
    }
    s->attended = min64(p->r.pos + p->r.q.n[0], s->n_local);
    if (!p->n_extra)
        return;
    a->n_set = 2;
    far->q = p->query;
    far->n_k = far_runs(c, p, 0, far->k);
    far->n_v = far_runs(c, p, 1, far->v);
    far->dist_max = ATTEND_FAR;
    s->attended += s->n_first + p->n_extra + s->n_held * s->block;
}

/* ---- After a piece ---------------------------------------------------------------------------------- */

/* A block of the tokens from rem0 on, whose keys are given. */
static void make_block(struct kv_cache *c, struct tensor keys)
{
    struct infllm *s = c->state;
    struct ops *ops = c->ops;
    const int64_t H = c->shape->n_head;
    if (s->scored) {
        int32_t *id = s->repr_id + s->n_block * H * s->repr;
        struct select_args pick = {.score = s->score + (s->rem0 - s->score_at),
                                   .score_ld = s->score_ld,
                                   .rows = H,
                                   .group = 1,
                                   .n = s->block,
                                   .k = s->repr,
                                   .index = id,
                                   .index_ld = s->repr};
        struct gather_args take = {
            .src = keys, .dst = s->chosen, .index = id, .rows = H, .index_ld = s->repr};
        struct rope_args round = kv_rotate(s->mean, tensor_rows(&s->repr_key, s->n_block, 1), NULL, 0);
        ops->select(ops, &pick, 1);
        ops->gather(ops, &take, 1);
        ops->mean(ops, s->mean, s->chosen);
        ops->rope(ops, &round, 1);
    }
    s->n_block++;
    s->rem0 += s->block;
}

/* Rows that left the window become first tokens until there are enough, then whole blocks. */
static void piece_commit(struct kv_cache *c, const struct piece *p)
{
    struct infllm *s = c->state;
    const int64_t T = p->r.q.n[0], end = p->r.pos + T;
    int64_t used = min64(s->n_init - s->n_first, p->n_extra);
    c->n += T;
    for (int i = 0; i < 2 && p->staged; i++) {
        int64_t n = min64(T, s->ring[i].n[0]);
        struct tensor newest = tensor_rows(&p->to[i], T - n, n);
        kv_ring_put(c->ops, &s->ring[i], 0, &newest, end - n);
    }
    for (int i = 0; i < 2 && used; i++) {
        struct tensor from = tensor_rows(&p->rest[i], 0, used),
                      to = tensor_rows(&s->init[i], s->n_first, used);
        c->ops->copy(c->ops, to.data, from.data, tensor_bytes(&from));
    }
    s->n_first += used;
    s->rem0 += used;
    for (; p->n_extra - used >= s->block; used += s->block)
        make_block(c, tensor_rows(&p->rest[0], used, s->block));
    s->n_rest = T == 1 && !used ? p->n_extra : 0;
}

/* Moves the scores of tokens from rem0 on to the front when the next piece would not fit behind them. The
 * kernels add to the columns of new tokens, so the rest is cleared. */
static void make_room(const struct kv_cache *c, int64_t n_new)
{
    static const float zero[512];
    struct infllm *s = c->state;
    const int64_t live = c->n - s->rem0, shift = s->rem0 - s->score_at;
    if (!s->scored || c->n + n_new - s->score_at <= s->score_ld)
        return;
    assert(shift > 0 && live + n_new <= s->score_ld);
    for (int64_t h = 0; h < c->shape->n_head; h++) {
        float *row = s->score + h * s->score_ld;
        for (int64_t j = 0; j < live; j += shift) /* in parts that do not overlap */
            c->ops->copy(c->ops, row + j, row + shift + j, (size_t)min64(shift, live - j) * sizeof *row);
        for (int64_t j = live; j < s->score_ld; j += 512)
            c->ops->copy(c->ops, row + j, zero, (size_t)min64(512, s->score_ld - j) * sizeof *row);
    }
    s->score_at = s->rem0;
}

/* ---- Steps ------------------------------------------------------------------------------------------ */

/* Arrays for n caches in one step. */
struct round {
    struct kv_cache **c; /* those that have rows left */
    struct piece *piece;
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
        if (piece_chooses(r->c[i], &r->piece[i]))
            piece_rate(r->c[i], &r->piece[i], &r->select[n++]);
    if (!n)
        return 0;
    ops->select(ops, r->select, n);
    for (int i = 0; i < r->n; i++) {
        const struct infllm *s = r->c[i]->state;
        if (piece_chooses(r->c[i], &r->piece[i]))
            ops->copy(ops, s->want, s->pick, (size_t)s->topk * sizeof *s->want);
    }
    return ops->sync(ops);
}

static int round_run(const struct round *r)
{
    struct ops *ops = r->c[0]->ops;
    int n_far = 0, n_near = 0;
    for (int i = 0; i < r->n; i++)
        n_far += piece_far(r->c[i], &r->piece[i], r->rope + n_far);
    if (n_far)
        ops->rope(ops, r->rope, n_far);
    TRY(round_choose(r));
    for (int i = 0; i < r->n; i++)
        n_near += piece_near(r->c[i], &r->piece[i], r->rope + n_near);
    ops->rope(ops, r->rope, n_near);
    for (int i = 0; i < r->n; i++) {
        piece_load(r->c[i], &r->piece[i]);
        piece_attend(r->c[i], &r->piece[i], &r->attend[i]);
    }
    ops->attend(ops, r->attend, r->n);
    for (int i = 0; i < r->n; i++)
        piece_commit(r->c[i], &r->piece[i]);
    return 0;
}

/* Gives the memory of the pieces back, once nothing on the device uses it any more. */
static int round_release(const struct round *r)
{
    bool any = false;
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < 6; k++)
            any = any || r->piece[i].mem[k].data;
    int rc = any ? r->c[0]->ops->sync(r->c[0]->ops) : 0;
    for (int i = 0; i < r->n; i++)
        for (int k = 0; k < 6; k++)
            kv_mem_close(r->c[i], &r->piece[i].mem[k]);
    return rc;
}

/* Where the piece that begins at c->n ends. */
static int64_t piece_end(const struct kv_cache *c, int64_t end)
{
    const struct infllm *s = c->state;
    if (c->n >= c->n_prompt - 1)
        return c->n + 1;
    return min64(end, min64((c->n / s->piece + 1) * s->piece, c->n_prompt - 1));
}

/* The next piece of every cache that has rows left; r->n is 0 when none has. */
static int round_plan(struct round *r, struct kv_cache *const *c, const struct kv_rows *rows, int n)
{
    r->n = 0;
    for (int i = 0; i < n; i++) {
        const int64_t end = rows[i].pos + rows[i].q.n[0];
        if (c[i]->n == end)
            continue;
        const int64_t T = piece_end(c[i], end) - c[i]->n;
        struct kv_rows part = kv_rows_part(&rows[i], c[i]->n - rows[i].pos, T);
        make_room(c[i], T);
        r->c[r->n++] = c[i];
        TRY(piece_plan(c[i], &part, &r->piece[r->n - 1]));
    }
    return 0;
}

static int infllm_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    const size_t m = (size_t)n;
    struct round r = {.c = mem_alloc(m, sizeof *r.c),
                      .piece = mem_alloc(m, sizeof *r.piece),
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
    free(r.piece);
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

/* counts: tokens, init tokens, blocks, rem0. blocks: those attended to in the newest piece, in no order.
 * repr_ids: token numbers. */
static int infllm_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    const struct infllm *s = c->state;
    const int64_t H = c->shape->n_head, n_repr = s->scored ? s->n_block : 0;
    int32_t *counts = kv_dump_add(out, n, "counts", DT_I32, (int64_t[3]){4, 1, 1});
    int32_t *blocks = kv_dump_add(out, n, "blocks", DT_I32, (int64_t[3]){s->n_held, 1, 1});
    int32_t *ids = kv_dump_add(out, n, "repr_ids", DT_I32, (int64_t[3]){n_repr, H, s->repr});
    void *keys = kv_dump_add(out, n, "repr", c->shape->dtype, (int64_t[3]){n_repr, H, c->shape->head_dim});
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
