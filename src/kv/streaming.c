/* StreamingLLM (arXiv 2309.17453) as the benchmark of arXiv 2407.01527 runs it (pipeline/inf_stream_llm): a
 * query at position p sees the last n_local tokens at their true distance, and of the first n_init tokens
 * those at distance >= n_local, as if it stood at position n_local + n_init - 1. The same rule holds in the
 * prompt pass and in decoding, so only sinks and a ring of n_local tokens are kept. With when=after the
 * prompt pass is plain (every row sees all before it), and the rule holds from the first decode step on.
 *
 * Keys are stored rotated at their true position: for a sink that is its own index, which is what both sets
 * want; the query is rotated twice instead.
 *
 * In a layer with a window of W (window_layers=1), shares are of min(T, W) tokens, what the layer would hold
 * of T, and sinks and near tokens are at most W together: places in the cache are then places in the window,
 * and a sink is seen as if it stood there. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/window.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

struct stream_params {
    double keep, init_share;
    int64_t cap, init, local, when;
};

static const struct param stream_table[] = {
    {"keep", PARAM_REAL, offsetof(struct stream_params, keep), 0.5, 0.001, 1, NULL, NULL,
     "fraction of the prompt's tokens that is kept"},
    {"init_share", PARAM_REAL, offsetof(struct stream_params, init_share), 0.021, 0, 1, NULL, NULL,
     "fraction of the kept tokens that are first tokens (sinks)"},
    {"cap", PARAM_INT, offsetof(struct stream_params, cap), 0, 0, 1e15, NULL, NULL,
     "prompt tokens that count towards the budget at most (0: all)"},
    {"init", PARAM_INT, offsetof(struct stream_params, init), 0, 0, 1e15, NULL, NULL,
     "sinks as a fixed number of tokens (with local)"},
    {"local", PARAM_INT, offsetof(struct stream_params, local), 0, 0, 1e15, NULL, NULL,
     "window as a fixed number of tokens, instead of keep (0: use keep)"},
    {"when", PARAM_CHOICE, offsetof(struct stream_params, when), KV_WHEN_PREFILL, 0, 1, "prefill|after", NULL,
     "prefill: prompt rows too see sinks and window only; after: plain prompt pass, the rest of the prompt "
     "is "
     "dropped at its end"},
    {0},
};

struct stream {
    struct kv_mem mem[3]; /* sinks k, v; query row */
    int64_t n_init, n_local;
    int64_t n_sink;        /* sinks that are stored: 0 if nothing will ever leave the window */
    struct tensor sink[2]; /* k, v: [n_sink,Hk,d] */
    struct kv_window near; /* the others: min(n_local, n_max - n_sink) of them */
    struct tensor q;       /* act [1,H,d]: the query of a decode step as the sinks see it */
};

/* The reference's numbers for its four strengths (0.17, not 1/6). */
static int stream_from_ratio(void *params, double ratio)
{
    struct stream_params *p = params;
    p->keep = ratio == 6 ? 0.17 : 1 / ratio;
    return 0;
}

static int stream_check(const void *params, const struct layer_kind *kind)
{
    const struct stream_params *p = params;
    if (kind && kind->window && p->when == KV_WHEN_AFTER)
        return err_set(
            ERR_INPUT,
            "method streaming: window_layers=1 is not allowed with when=after: layers with a window "
            "have dropped their first tokens by then");
    if (p->init && !p->local)
        return err_set(ERR_INPUT, "method streaming: init=%lld is not allowed without local; give local >= 1",
                       (long long)p->init);
    return 0;
}

/* Fixed sizes have no ratio of their own: that of 10,000 tokens. */
static double stream_nominal(const void *params)
{
    const struct stream_params *p = params;
    return p->local ? fmax(1, 10000 / (double)(p->init + p->local)) : 1 / p->keep;
}

/* Budgets for a prompt of T tokens, in the double arithmetic of the reference's infllm_utils.py. `window`: of
 * the layer; 0: none. */
static void stream_sizes(const struct stream_params *p, int64_t T, int64_t window, int64_t *n_init,
                         int64_t *n_local)
{
    T = window ? min64(T, window) : T;
    int64_t counted = p->cap && p->cap < T ? p->cap : T;
    int64_t total = (int64_t)(p->keep * (double)counted);
    *n_init = p->local ? p->init : (int64_t)((double)total * p->init_share);
    *n_local = p->local ? p->local : total - *n_init > 1 ? total - *n_init : 1;
    *n_local = window ? min64(*n_local, window) : *n_local;
    *n_init = window ? min64(*n_init, window - *n_local) : *n_init;
}

static uint64_t stream_prefill_key(const void *params, int64_t n_prompt, const struct layer_kind *kind)
{
    int64_t size[2];
    stream_sizes(params, n_prompt, kind ? kind->window : 0, &size[0], &size[1]);
    bool plain = size[1] >= n_prompt || ((const struct stream_params *)params)->when != KV_WHEN_PREFILL;
    return plain ? 0 : kv_key("streaming", size, 2);
}

static int stream_open(struct kv_cache *c)
{
    struct stream *s = c->state = mem_alloc(1, sizeof *s);
    const size_t row = kv_row_bytes(c);
    stream_sizes(c->params, c->n_prompt, c->kind->window, &s->n_init, &s->n_local);
    s->n_sink = s->n_local >= c->n_max ? 0 : min64(s->n_init, c->n_max);
    for (int i = 0; i < 2; i++) {
        TRY(kv_mem_open(c, &s->mem[i], (size_t)s->n_sink * row, MEM_WINDOW));
        s->sink[i] = kv_tensor(c, s->mem[i].data, s->n_sink);
    }
    TRY(kv_window_open(c, &s->near, min64(s->n_local, c->n_max - s->n_sink), s->n_sink));
    s->q = (struct tensor){NULL, c->ops->act, {1, c->kind->n_head, c->kind->d_k, 1}};
    TRY(kv_mem_open(c, &s->mem[2], s->n_sink ? tensor_bytes(&s->q) : 0, MEM_WORKSPACE));
    s->q.data = s->mem[2].data;
    return 0;
}

static void stream_close(struct kv_cache *c)
{
    struct stream *s = c->state;
    for (int i = 0; s && i < 3; i++)
        kv_mem_close(c, &s->mem[i]);
    if (s)
        kv_window_close(c, &s->near);
    free(s);
}

static int stream_from_dense(struct kv_cache *c, struct kv_dense *dense)
{
    struct stream *s = c->state;
    const struct tensor *from[2] = {&dense->k, &dense->v};
    const int64_t n_sink = min64(s->n_sink, dense->n),
                  n_rest = min64(dense->n - n_sink, s->near.ring[0].n[0]);
    for (int i = 0; i < 2; i++) {
        struct tensor first = tensor_rows(from[i], 0, n_sink);
        struct tensor rest = tensor_rows(from[i], dense->n - n_rest, n_rest);
        if (n_sink)
            c->ops->copy(c->ops, s->sink[i].data, first.data, tensor_bytes(&first));
        kv_ring_put(c->ops, &s->near.ring[i], s->n_sink, &rest, dense->n - n_rest);
    }
    return 0;
}

/* One cache in one step. New rows [0, n_first) are sinks, the others go to the window. */
struct stream_job {
    struct kv_rows r;
    int64_t n_first; /* rows that are sinks */
    bool far;        /* a row may see a sink at distance >= n_local */
    struct kv_window_step near;
    struct kv_mem mem; /* queries as the sinks see them */
    struct tensor q;   /* act [T,H,d] */
};

static int stream_plan(const struct kv_cache *c, const struct kv_rows *r, struct stream_job *j)
{
    const struct stream *s = c->state;
    const int64_t T = r->q.n[0];
    *j = (struct stream_job){.r = *r, .n_first = min64(T, s->n_sink > r->pos ? s->n_sink - r->pos : 0)};
    j->far = s->n_sink && r->pos + T > s->n_local;
    TRY(kv_window_begin(c, &s->near, max64(r->pos, s->n_sink), T - j->n_first, T == 1, &j->near));
    j->q = s->q;
    if (!j->far || T == 1)
        return 0;
    j->q = r->q;
    j->q.data = NULL;
    TRY(kv_mem_open(c, &j->mem, tensor_bytes(&j->q), MEM_WORKSPACE));
    j->q.data = j->mem.data;
    return 0;
}

/* Rotations of one job's rows into their places and of its query; at most ROTATIONS. */
enum { ROTATIONS = 5 };
static int stream_rotations(const struct kv_cache *c, const struct stream_job *j, struct rope_args *out)
{
    const struct stream *s = c->state;
    const struct tensor *new[2] = {&j->r.k, &j->r.v};
    const int64_t n_rest = j->r.q.n[0] - j->n_first, pos = j->r.pos;
    int n = 0;
    out[n++] = kv_rotate(j->r.q, j->r.q, c->kind->rope, pos);
    for (int i = 0; i < 2; i++) {
        const struct rope *rope = i ? NULL : c->kind->rope;
        if (j->n_first)
            out[n++] = kv_rotate(tensor_rows(new[i], 0, j->n_first),
                                 tensor_rows(&s->sink[i], pos, j->n_first), rope, pos);
        if (n_rest)
            out[n++] =
                kv_rotate(tensor_rows(new[i], j->n_first, n_rest), j->near.to[i], rope, pos + j->n_first);
    }
    return n;
}

/* Runs of keys (i = 0) or values (i = 1), oldest first: sinks, window. */
static int stream_runs(const struct kv_cache *c, const struct stream_job *j, int i,
                       struct kv_run out[ATTEND_RUNS])
{
    const struct stream *s = c->state;
    int n = 0;
    if (s->n_sink)
        out[n++] = kv_run_of(&s->sink[i], 0, min64(s->n_sink, j->r.pos + j->r.q.n[0]), 0);
    return n + kv_window_runs(&s->near, &j->near, i, out + n);
}

static void stream_attend(const struct kv_cache *c, const struct stream_job *j, struct attend_args *a)
{
    const struct stream *s = c->state;
    kv_attend_init(a, c, &j->r);
    struct attend_set *near = &a->set[0], *far = &a->set[1];
    near->n_k = stream_runs(c, j, 0, near->k);
    near->n_v = stream_runs(c, j, 1, near->v);
    near->dist_max = s->n_local;
    if (!j->far)
        return;
    a->n_set = 2;
    far->q = j->q;
    far->k[0] = near->k[0];
    far->v[0] = near->v[0];
    far->n_k = far->n_v = 1;
    far->dist_min = s->n_local;
    far->dist_max = ATTEND_FAR;
}

static void stream_run(struct kv_cache *const *c, const struct stream_job *j, int n, struct rope_args *rope,
                       struct attend_args *a)
{
    struct ops *ops = c[0]->ops;
    int n_far = 0, n_near = 0;
    for (int i = 0; i < n; i++) { /* from the raw queries, which the next launch overwrites */
        const struct stream *s = c[i]->state;
        if (!j[i].far)
            continue;
        rope[n_far] = kv_rotate(j[i].r.q, j[i].q, c[i]->kind->rope, 0);
        rope[n_far++].fixed = s->n_local + s->n_init - 1;
    }
    if (n_far)
        ops->rope(ops, rope, n_far);
    for (int i = 0; i < n; i++) {
        n_near += stream_rotations(c[i], &j[i], rope + n_near);
        stream_attend(c[i], &j[i], &a[i]);
    }
    ops->rope(ops, rope, n_near);
    ops->attend(ops, a, n);
    for (int i = 0; i < n; i++) {
        c[i]->n += j[i].r.q.n[0];
        kv_window_end(ops, &((const struct stream *)c[i]->state)->near, &j[i].near);
    }
}

/* Gives the workspace of this step back, once nothing on the device uses it any more. */
static int stream_release(struct kv_cache *const *c, struct stream_job *j, int n)
{
    bool any = false;
    for (int i = 0; i < n; i++)
        any = any || j[i].near.mem[0].data || j[i].mem.data;
    int rc = any ? c[0]->ops->sync(c[0]->ops) : 0;
    for (int i = 0; i < n; i++) {
        kv_window_release(c[i], &j[i].near);
        kv_mem_close(c[i], &j[i].mem);
    }
    return rc;
}

static int stream_step(struct kv_cache *const *c, struct kv_rows *rows, int n)
{
    struct stream_job *job = mem_alloc((size_t)n, sizeof *job);
    struct rope_args *rope = mem_alloc(ROTATIONS * (size_t)n, sizeof *rope);
    struct attend_args *a = mem_alloc((size_t)n, sizeof *a);
    int rc = 0;
    for (int i = 0; i < n && rc == 0; i++)
        rc = stream_plan(c[i], &rows[i], &job[i]);
    if (rc == 0)
        stream_run(c, job, n, rope, a);
    int released = stream_release(c, job, n);
    free(job);
    free(rope);
    free(a);
    return rc < 0 ? rc : released;
}

static void stream_bytes(const struct kv_cache *c, struct kv_ledger *l)
{
    const struct stream *s = c->state;
    kv_mem_count(s->mem, 3, l);
    kv_window_count(&s->near, l);
}

static void stream_budgets(const struct kv_cache *c, struct kv_budgets *b)
{
    const struct stream *s = c->state;
    b->value[KV_N_INIT] = (double)s->n_init;
    b->value[KV_N_LOCAL] = (double)s->n_local;
    b->value[KV_KEPT_TOKENS] = (double)min64(c->n, s->n_sink + s->near.ring[0].n[0]);
}

static int stream_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n)
{
    static const char *const name[] = {"k_init", "v_init", "k_local", "v_local"};
    const struct stream *s = c->state;
    const int64_t sinks = min64(s->n_sink, c->n), local = min64(c->n - sinks, s->near.ring[0].n[0]);
    const int64_t shape[2][3] = {{sinks, c->kind->n_kv_head, c->kind->d_k},
                                 {local, c->kind->n_kv_head, c->kind->d_k}};
    for (int i = 0; i < 4; i++) {
        char *to = kv_dump_add(out, n, name[i], c->shape->dtype, shape[i / 2]);
        struct kv_run run[2];
        int n_run = 0;
        if (i >= 2)
            n_run = kv_ring_runs(&s->near.ring[i % 2], s->n_sink, c->n - local, c->n, run);
        else if (sinks)
            run[n_run++] = kv_run_of(&s->sink[i], 0, sinks, 0);
        for (int k = 0; k < n_run; k++) {
            size_t bytes = (size_t)run[k].n * kv_row_bytes(c);
            c->ops->copy(c->ops, to, run[k].data, bytes);
            to += bytes;
        }
    }
    return c->ops->sync(c->ops);
}

const struct kv_method kv_method_streaming = {
    .name = "streaming",
    .source = "arXiv 2309.17453; pipeline/inf_stream_llm of arXiv 2407.01527",
    .summary = "the first tokens (sinks) and a sliding window, positions counted inside the cache",
    .params = stream_table,
    .params_bytes = sizeof(struct stream_params),
    .from_ratio = stream_from_ratio,
    .check = stream_check,
    .nominal_ratio = stream_nominal,
    .prefill_key = stream_prefill_key,
    .windows = true,
    .open = stream_open,
    .from_dense = stream_from_dense,
    .step = stream_step,
    .bytes = stream_bytes,
    .budgets = stream_budgets,
    .dump = stream_dump,
    .close = stream_close,
};
