/* One chunk of rows of one cache: what infllm does before, in and after its attention. */
#include "base/err.h"
#include "kv/infllm.h"

#include <assert.h>

static int plan_tensor(const struct kv_cache *c, struct kv_mem *m, struct tensor *t)
{
    TRY(kv_mem_open(c, m, tensor_bytes(t), MEM_WORKSPACE));
    t->data = m->data;
    return 0;
}

int infllm_plan(const struct kv_cache *c, const struct kv_rows *r, struct infllm_chunk *p)
{
    const struct infllm *s = c->state;
    const int64_t T = r->q.n[0], capacity = s->ring[0].n[0], end = r->pos + T;
    *p = (struct infllm_chunk){.r = *r, .n_old = min64(r->pos, capacity)};
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

/* From the raw rows, which infllm_near overwrites. */
int infllm_far(const struct kv_cache *c, const struct infllm_chunk *p, struct rope_args out[2])
{
    const struct infllm *s = c->state;
    int n = 0;
    if (s->far)
        out[n++] = kv_rotate(p->r.k, p->key, NULL, 0);
    if (p->n_extra) {
        out[n] = kv_rotate(p->r.q, p->query, c->kind->rope, 0);
        out[n++].fixed = s->n_local - 1;
    }
    return n;
}

int infllm_near(const struct kv_cache *c, const struct infllm_chunk *p, struct rope_args out[3])
{
    out[0] = kv_rotate(p->r.q, p->r.q, c->kind->rope, p->r.pos);
    out[1] = kv_rotate(p->r.k, p->to[0], c->kind->rope, p->r.pos);
    out[2] = kv_rotate(p->r.v, p->to[1], NULL, 0);
    return 3;
}

bool infllm_chooses(const struct kv_cache *c, const struct infllm_chunk *p)
{
    const struct infllm *s = c->state;
    return p->n_extra && s->scored && s->n_block > s->topk;
}

/* Inner products of the representatives with the mean query of the chunk; *out chooses by them. */
void infllm_rate(const struct kv_cache *c, const struct infllm_chunk *p, struct select_args *out)
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
void infllm_load(const struct kv_cache *c, const struct infllm_chunk *p)
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
    for (int64_t i = 0; i < n_want && !infllm_chooses(c, p); i++)
        s->want[i] = (int32_t)i;
    load_blocks(c, n_want);
}

/* Keys (i = 0) or values (i = 1) of the near set: ring, then stage. *first is the oldest token. */
static int near_runs(const struct kv_cache *c, const struct infllm_chunk *p, int i,
                     struct kv_run out[ATTEND_RUNS], int64_t *first)
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
static int far_runs(const struct kv_cache *c, const struct infllm_chunk *p, int i,
                    struct kv_run out[ATTEND_RUNS])
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

void infllm_attend(const struct kv_cache *c, const struct infllm_chunk *p, struct attend_args *a)
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
        near->attn_scores = s->score + (first - s->score_at);
        near->attn_scores_ld = s->score_ld;
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

/* ---- After a chunk ---------------------------------------------------------------------------------- */

/* A block of the tokens from rem0 on, whose keys are given. */
static void make_block(struct kv_cache *c, struct tensor keys)
{
    struct infllm *s = c->state;
    struct ops *ops = c->ops;
    const int64_t H = c->kind->n_head;
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
void infllm_commit(struct kv_cache *c, const struct infllm_chunk *p)
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

/* Moves the scores of tokens from rem0 on to the front when the next chunk would not fit behind them. The
 * kernels add to the columns of new tokens, so the rest is cleared. */
void infllm_make_room(const struct kv_cache *c, int64_t n_new)
{
    struct infllm *s = c->state;
    const int64_t H = c->kind->n_head, live = c->n - s->rem0, shift = s->rem0 - s->score_at;
    const size_t pitch = (size_t)s->score_ld * sizeof *s->score;
    if (!s->scored || c->n + n_new - s->score_at <= s->score_ld)
        return;
    assert(shift > 0 && live + n_new <= s->score_ld);
    for (int64_t j = 0; j < live; j += shift) /* in parts that do not overlap */
        c->ops->copy_rows(c->ops, s->score + j, pitch, s->score + shift + j, pitch,
                          (size_t)min64(shift, live - j) * sizeof *s->score, H);
    const struct select_args none = {.score = s->score + live,
                                     .score_ld = s->score_ld,
                                     .rows = H,
                                     .group = 1,
                                     .n = s->score_ld - live,
                                     .zero_rest = true};
    c->ops->select(c->ops, &none, 1);
    s->score_at = s->rem0;
}
