#include "run/engine.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

void slot_init(struct slot *l, const struct engine *e, const struct prompt *p, int max_new)
{
    *l = (struct slot){.prompt = p, .max_new = max_new, .n_top = e->n_top, .stop = STOP_MAX_NEW};
    size_t cap = (size_t)max_new;
    l->token = mem_alloc(cap, sizeof *l->token);
    l->logsumexp = mem_alloc(cap, sizeof *l->logsumexp);
    if (e->n_top) {
        l->topk_id = mem_alloc(cap * (size_t)e->n_top, sizeof *l->topk_id);
        l->topk_logit = mem_alloc(cap * (size_t)e->n_top, sizeof *l->topk_logit);
    }
    size_t rows = e->first_rows < max_new ? (size_t)e->first_rows : cap;
    if (rows)
        l->first = mem_alloc(rows * (size_t)e->n_vocab, sizeof *l->first);
}

void slot_free(struct slot *l)
{
    if (l->open)
        seq_close(&l->seq);
    free(l->token);
    free(l->logsumexp);
    free(l->topk_id);
    free(l->topk_logit);
    free(l->first);
    penalty_free(&l->penalty);
    *l = (struct slot){0};
}

int64_t engine_chunk_end(const struct engine *e, const struct seq *s, int64_t at, int64_t n, bool last_alone)
{
    if (s->shape.whole_prompt)
        return n;
    int64_t bulk = last_alone && n > 1 ? n - 1 : n, end = (at / e->chunk + 1) * e->chunk;
    return at >= bulk ? n : end < bulk ? end : bulk;
}

int engine_prefill(struct engine *e, struct seq *s, const int32_t *ids, int64_t n, bool last_alone,
                   struct tensor *logits)
{
    e->passes++;
    e->prompt_tokens += n;
    for (int64_t at = 0; at < n;) {
        int64_t end = engine_chunk_end(e, s, at, n, last_alone);
        struct batch_item item = {.seq = s, .ids = ids + at, .n = end - at};
        TRY(model_forward(e->model, &item, 1, end == n ? LOGITS_LAST : LOGITS_NONE, logits));
        TRY(poll_call(&e->poll));
        at = end;
    }
    return 0;
}

int engine_plain(struct engine *e, const struct kv_spec *full, const struct seq_shape *shape,
                 const int32_t *ids, int64_t n, unsigned watch, struct seq_prompt *out, struct tensor *logits)
{
    struct seq s = {0};
    int rc;
    TRY_GOTO(seq_open_prompt(&s, e->model, shape, full, n, watch), done);
    TRY_GOTO(engine_prefill(e, &s, ids, n, false, logits), done);
    rc = seq_freeze(&s, out);
done:
    seq_close(&s);
    return rc;
}

static bool ends(const struct prompt *p, int32_t id, int *why)
{
    for (int i = 0; i < p->n_stop; i++) {
        if (p->stop[i] == id) {
            *why = STOP_EOS;
            return true;
        }
    }
    *why = STOP_NEWLINE;
    return p->newline >= 0 && p->newline == id;
}

static int32_t choose(const struct slot *l, const struct said *s, int n_top)
{
    if (l->n_new < l->n_force)
        return l->force[l->n_new];
    int why;
    if (l->n_new > 0 || !l->prompt->min_one)
        return s->best;
    for (int i = 0; i < n_top; i++)
        if (!ends(l->prompt, s->top_id[i], &why))
            return s->top_id[i];
    return s->best;
}

/* A row of logits on the host; owned. */
static float *host_row(struct engine *e, struct tensor row)
{
    float *host = mem_alloc((size_t)e->n_vocab, sizeof *host);
    e->ops->copy(e->ops, host, row.data, (size_t)e->n_vocab * sizeof *host);
    e->ops->sync(e->ops);
    return host;
}

static void keep_logits(struct engine *e, struct slot *l, const struct said *s, struct tensor row)
{
    size_t at = (size_t)l->n_new;
    l->logsumexp[at] = s->logsumexp;
    for (size_t i = 0; i < (size_t)l->n_top; i++) {
        l->topk_id[at * (size_t)l->n_top + i] = s->top_id[i];
        l->topk_logit[at * (size_t)l->n_top + i] = half_from_float(s->top_logit[i]);
    }
    if (l->n_new < e->first_rows) {
        float *host = host_row(e, row);
        for (size_t i = 0; i < (size_t)e->n_vocab; i++)
            l->first[at * (size_t)e->n_vocab + i] = half_from_float(host[i]);
        l->n_first = l->n_new + 1;
        free(host);
    }
    if (e->observe)
        e->observe(e->observe_ctx, l, row);
}

/* The choice of a model that looks back at what it has said. */
static int choose_penalised(struct engine *e, struct slot *l, struct tensor row, int32_t *id)
{
    if (l->n_new >= l->n_force && l->penalty.n_seen) {
        float *host = host_row(e, row);
        *id = penalty_choose(&l->penalty, host, e->n_vocab);
        free(host);
    }
    return penalty_note(&l->penalty, e->tok, *id);
}

static int take(struct engine *e, struct slot *l, const struct said *s, int n_top, struct tensor row)
{
    if (!s->finite) {
        l->status = ST_NAN;
        l->done = true;
        return 0;
    }
    keep_logits(e, l, s, row);
    int32_t id = choose(l, s, n_top);
    if (penalty_acts(&l->penalty))
        TRY(choose_penalised(e, l, row, &id));
    bool forced = l->n_new < l->n_force;
    l->token[l->n_new++] = id;
    int why;
    if (!forced && ends(l->prompt, id, &why)) {
        l->stop = why;
        l->done = true;
    } else if (l->n_new == l->max_new) {
        l->stop = STOP_MAX_NEW;
        l->done = true;
    }
    return 0;
}

int engine_choose(struct engine *e, struct slot *const *slot, int n, struct tensor logits)
{
    int rows = (int)logits.n[0];
    /* min_one looks past the stop ids and the newline, at most 9 of them */
    int n_top = e->n_top > 10 ? e->n_top : 10;
    if (n_top > e->n_vocab)
        n_top = (int)e->n_vocab;
    size_t t = (size_t)rows, k = (size_t)n_top;
    int32_t *best = mem_alloc(t, sizeof *best), *top_id = mem_alloc(t * k, sizeof *top_id);
    float *top_logit = mem_alloc(t * k, sizeof *top_logit), *lse = mem_alloc(t, sizeof *lse);
    uint8_t *finite = mem_alloc(t, 1);
    struct pick_args a = {.logits = logits,
                          .n_top = n_top,
                          .best = best,
                          .top_id = top_id,
                          .top_logit = top_logit,
                          .logsumexp = lse,
                          .finite = finite};
    e->ops->pick(e->ops, &a);
    int rc = e->ops->sync(e->ops);
    for (int i = 0; i < n && rc == 0; i++) {
        size_t r = rows == n ? (size_t)i : 0;
        struct said s = {best[r], finite[r] != 0, lse[r], top_id + r * k, top_logit + r * k};
        rc = take(e, slot[i], &s, n_top, tensor_rows(&logits, (int64_t)r, 1));
    }
    free(best);
    free(top_id);
    free(top_logit);
    free(lse);
    free(finite);
    return rc;
}

int engine_decode(struct engine *e, struct slot *slot, int n)
{
    struct batch_item *item = mem_alloc((size_t)n, sizeof *item);
    struct slot **live = mem_alloc((size_t)n, sizeof *live);
    int rc = 0;
    while (rc == 0) {
        int m = 0;
        for (int i = 0; i < n; i++) {
            if (slot[i].done || !slot[i].open)
                continue;
            live[m] = &slot[i];
            item[m] =
                (struct batch_item){.seq = &slot[i].seq, .ids = &slot[i].token[slot[i].n_new - 1], .n = 1};
            m++;
        }
        if (m == 0)
            break;
        struct tensor logits;
        rc = model_forward(e->model, item, m, LOGITS_LAST, &logits);
        if (rc == 0)
            rc = engine_choose(e, live, m, logits);
        if (rc == 0)
            rc = poll_call(&e->poll);
    }
    free(item);
    free(live);
    return rc;
}
