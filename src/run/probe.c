#include "run/probe.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "run/runner.h"

#include <stdlib.h>

static int emit(struct runner *r, struct probe_logits *p, struct tensor logits)
{
    size_t bytes = tensor_bytes(&logits);
    float *host = mem_alloc(bytes, 1);
    r->ops->copy(r->ops, host, logits.data, bytes);
    int rc = r->ops->sync(r->ops);
    if (rc == 0)
        rc = p->rows(p->ctx, host, logits.n[0], logits.n[1]);
    free(host);
    return rc;
}

/* Feeds the prompt in chunks; leaves the logits of its last token in *last. */
static int feed(struct runner *r, struct probe_logits *p, struct seq *s, bool last_alone, struct tensor *last)
{
    for (int64_t at = 0; at < p->n_ids;) {
        int64_t end = engine_chunk_end(&r->engine, s, at, p->n_ids, last_alone);
        struct batch_item item = {.seq = s, .ids = p->ids + at, .n = end - at};
        TRY(model_forward(r->model, &item, 1, p->all_positions ? LOGITS_ALL : LOGITS_LAST, last));
        if (p->all_positions || end == p->n_ids)
            TRY(emit(r, p, *last));
        *last = tensor_rows(last, last->n[0] - 1, 1);
        at = end;
    }
    return 0;
}

static int next_token(struct runner *r, struct probe_logits *p, int64_t i, struct tensor logits, int32_t *id)
{
    float lse;
    uint8_t finite;
    struct pick_args a = {.logits = logits, .best = id, .logsumexp = &lse, .finite = &finite};
    r->ops->pick(r->ops, &a);
    TRY(r->ops->sync(r->ops));
    if (!finite)
        return err_set(ERR_NAN, "a logit was not finite after %lld new tokens", (long long)i);
    if (i < p->n_force)
        *id = p->force[i];
    return 0;
}

static int run_tokens(struct runner *r, struct probe_logits *p, struct seq *s, struct tensor logits)
{
    for (int64_t i = 0; i < p->max_new; i++) {
        TRY(next_token(r, p, i, logits, &p->out_ids[i]));
        if (i + 1 == p->max_new)
            break;
        struct batch_item item = {.seq = s, .ids = &p->out_ids[i], .n = 1};
        TRY(model_forward(r->model, &item, 1, LOGITS_LAST, &logits));
        TRY(emit(r, p, logits));
    }
    return p->finished ? p->finished(p->ctx, s) : 0;
}

int probe_logits(struct runner *r, struct probe_logits *p)
{
    struct seq_shape shape;
    struct seq plain = {0}, s = {0};
    struct seq_prompt prompt = {0};
    struct tensor logits;
    int64_t n_max = p->n_ids + p->max_new;
    struct kv_spec spec = {0};
    int rc;
    TRY(model_reserve(r->model, r->engine.chunk, p->all_positions ? r->engine.chunk : 1));
    TRY(model_seq_shape(r->model, p->cache_dtype, &p->over, &shape));
    TRY(kv_spec_check(p->spec, &shape));
    TRY(kv_spec_solve(&spec, p->spec, &shape, p->n_ids, n_max));
    model_set_tap(r->model, p->tap, p->ctx);
    if (kv_prefill_key(&spec, p->n_ids, &shape) != 0) {
        TRY_GOTO(seq_open(&s, r->model, &shape, &spec, p->n_ids, n_max), done);
        TRY_GOTO(feed(r, p, &s, true, &logits), done);
    } else {
        TRY_GOTO(seq_open_prompt(&plain, r->model, &shape, &r->full, p->n_ids, kv_wants(&spec)), done);
        TRY_GOTO(feed(r, p, &plain, false, &logits), done);
        TRY_GOTO(seq_freeze(&plain, &prompt), done);
        TRY_GOTO(seq_fork(&s, r->model, &shape, &spec, &prompt, n_max), done);
        seq_close(&plain);
        seq_prompt_close(&prompt);
    }
    rc = run_tokens(r, p, &s, logits);
done:
    model_set_tap(r->model, NULL, NULL);
    seq_close(&s);
    seq_close(&plain);
    seq_prompt_close(&prompt);
    kv_spec_free(&spec);
    return rc;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Seconds spent in attention: the backend's entries are wrapped while steps are timed. CPU backends only,
 * where calls are synchronous. */
struct meter {
    struct ops *ops;
    void (*attend)(struct ops *, const struct attend_args *, int);
    double s;
};
static _Thread_local struct meter meter;

static void metered_attend(struct ops *o, const struct attend_args *a, int n)
{
    double t = clock_now();
    meter.attend(o, a, n);
    meter.s += clock_now() - t;
}

static int time_steps(struct runner *r, struct seq *s, int n_seq, int n_steps, struct probe_time *t)
{
    struct batch_item *item = mem_alloc((size_t)n_seq, sizeof *item);
    double *sec = mem_alloc((size_t)n_steps, sizeof *sec), *att = mem_alloc((size_t)n_steps, sizeof *att);
    int32_t id = 7;
    struct tensor logits;
    int rc = 0;
    bool metered = r->ops->on_host;
    meter = (struct meter){r->ops, r->ops->attend, 0};
    if (metered)
        r->ops->attend = metered_attend;
    for (int i = -2; i < n_steps && rc == 0; i++) {
        for (int k = 0; k < n_seq; k++)
            item[k] = (struct batch_item){.seq = &s[k], .ids = &id, .n = 1};
        meter.s = 0;
        double t0 = clock_now();
        rc = model_forward(r->model, item, n_seq, LOGITS_LAST, &logits);
        if (rc == 0)
            rc = r->ops->sync(r->ops);
        if (i >= 0) {
            sec[i] = clock_now() - t0;
            att[i] = meter.s;
        }
    }
    r->ops->attend = meter.attend;
    qsort(sec, (size_t)n_steps, sizeof *sec, by_value);
    qsort(att, (size_t)n_steps, sizeof *att, by_value);
    t->s_step = sec[n_steps / 2];
    t->s_attend_step = att[n_steps / 2];
    free(item);
    free(sec);
    free(att);
    return rc;
}

/* Sequences of one prompt. */
static int open_copies(struct runner *r, const struct kv_spec *spec, const struct seq_shape *shape,
                       const int32_t *ids, int64_t n_ctx, int64_t n_max, struct seq *s, int n_seq,
                       struct probe_time *t)
{
    struct tensor logits;
    struct seq_prompt prompt = {0};
    bool own = kv_prefill_key(spec, n_ctx, shape) != 0;
    int rc = 0;
    double t0 = clock_now();
    for (int i = 0; own && i < n_seq; i++) {
        TRY_GOTO(seq_open(&s[i], r->model, shape, spec, n_ctx, n_max), done);
        TRY_GOTO(engine_prefill(&r->engine, &s[i], ids, n_ctx, true, &logits), done);
        if (i == 0)
            t->s_prefill = clock_now() - t0;
    }
    if (own)
        return 0;
    TRY_GOTO(engine_plain(&r->engine, &r->full, shape, ids, n_ctx, kv_wants(spec), &prompt, &logits), done);
    TRY_GOTO(r->ops->sync(r->ops), done);
    t->s_prefill = clock_now() - t0;
    for (int i = 0; i < n_seq; i++)
        TRY_GOTO(seq_fork(&s[i], r->model, shape, spec, &prompt, n_max), done);
done:
    seq_prompt_close(&prompt);
    return rc;
}

static void random_ids(int32_t *ids, int64_t n, int64_t n_vocab, uint64_t *x)
{
    for (int64_t i = 0; i < n; i++) {
        *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
        ids[i] = (int32_t)(*x % (uint64_t)n_vocab);
    }
}

/* Before the first of many prompt passes, whether all their caches can be held. */
static int check_room(struct runner *r, const struct kv_spec *spec, const struct seq_shape *shape,
                      int64_t n_ctx, int64_t n_max, int n_seq)
{
    const struct ops *o = r->ops;
    struct kv_ledger l = {0};
    TRY(kv_predict(spec, shape, n_ctx, n_max, &l));
    uint64_t limit = o->limit(o), held = 0, want = (uint64_t)n_seq * kv_ledger_place(&l, PLACE_DEVICE);
    for (int k = 0; k < MEM_KIND_N; k++)
        held += o->used(o, (enum mem_kind)k, PLACE_DEVICE);
    if (held <= limit && want <= limit - held)
        return 0;
    return err_set(ERR_NOMEM, "no device memory for %d caches of %lld tokens", n_seq, (long long)n_max);
}

static int open_all(struct runner *r, const struct kv_spec *spec, const struct seq_shape *shape,
                    int64_t n_ctx, int64_t n_max, struct seq *s, int n_seq, struct probe_time *t)
{
    int32_t *ids = mem_alloc((size_t)n_ctx, sizeof *ids);
    uint64_t x = 88172645463325252u;
    t->own_prompts = n_seq == 1 || !r->ops->on_host;
    int rc = t->own_prompts && n_seq > 1 ? check_room(r, spec, shape, n_ctx, n_max, n_seq) : 0;
    for (int i = 0, n = t->own_prompts ? 1 : n_seq; i < n_seq && rc == 0; i += n) {
        random_ids(ids, n_ctx, r->engine.n_vocab, &x);
        rc = open_copies(r, spec, shape, ids, n_ctx, n_max, s + i, n, t);
    }
    free(ids);
    return rc;
}

int probe_time(struct runner *r, const struct kv_spec *spec, int64_t n_ctx, int n_seq, int n_steps,
               struct probe_time *t)
{
    *t = (struct probe_time){0};
    struct seq_shape shape;
    int64_t rows = r->engine.chunk > n_seq ? r->engine.chunk : n_seq;
    TRY(model_reserve(r->model, rows, n_seq));
    TRY(model_seq_shape(r->model, r->m.cache_dtype, &(struct model_overrides){.rope_theta_factor = 1},
                        &shape));
    int64_t before = r->engine.passes;
    struct seq *s = mem_alloc((size_t)n_seq, sizeof *s);
    struct kv_spec solved = {0};
    int rc = kv_spec_solve(&solved, spec, &shape, n_ctx, n_ctx + n_steps + 2);
    if (rc == 0)
        rc = open_all(r, &solved, &shape, n_ctx, n_ctx + n_steps + 2, s, n_seq, t);
    if (rc == 0)
        rc = time_steps(r, s, n_seq, n_steps, t);
    struct kv_ledger led = {0};
    if (rc == 0)
        seq_bytes(&s[0], &led);
    t->cache_bytes = kv_ledger_total(&led);
    t->device_bytes = kv_ledger_place(&led, PLACE_DEVICE);
    t->prefill_passes = r->engine.passes - before;
    for (int i = 0; i < n_seq; i++)
        seq_close(&s[i]);
    kv_spec_free(&solved);
    free(s);
    return rc;
}
