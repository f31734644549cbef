/* What a unit's slot holds, as a record. */
#include "base/err.h"
#include "base/mem.h"
#include "run/job.h"
#include "run/room.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put_bytes(const struct job *j, const struct slot *l, struct record *rec)
{
    rec->kv_bytes_full = shape_full_bytes(&j->shape, j->prompt.n_ids + l->max_new);
    if (!l->open || j->rc < 0) {
        return;
    }
    struct kv_ledger led = {0};
    seq_bytes(&l->seq, &led);
    rec->kv_bytes_alone = kv_ledger_total(&led);
    rec->kv_bytes = rec->kv_bytes_alone - (j->holder ? 0 : led.shared);
    rec->ledger = mem_alloc(MEM_KIND_N * PLACE_N, sizeof *rec->ledger);
    for (int k = 0; k < MEM_KIND_N; k++)
        for (int p = 0; p < PLACE_N; p++)
            if (led.bytes[k][p])
                rec->ledger[rec->n_ledger++] = (struct record_ledger){k, p, led.bytes[k][p]};
    struct kv_budgets b;
    for (int i = 0; i < KV_BUDGET_N; i++)
        b.value[i] = NAN;
    seq_budgets(&l->seq, &b);
    if (j->prompt.n_plain) { /* what a prompt method kept of the prompt's tokens */
        b.value[KV_KEPT_TOKENS] = (double)j->prompt.n_ids;
        b.value[KV_TRUE_RATIO] = (double)j->prompt.n_plain / (double)j->prompt.n_ids;
    }
    rec->budget = mem_alloc(KV_BUDGET_N, sizeof *rec->budget);
    for (int i = 0; i < KV_BUDGET_N; i++)
        if (!isnan(b.value[i]))
            rec->budget[rec->n_budget++] = (struct record_budget){i, b.value[i]};
}

static bool is_blank(char c)
{
    return c && strchr(" \t\r\f\v", c);
}

static void keep_first_line(char *s, size_t *n_bytes)
{
    const char *newline = memchr(s, '\n', *n_bytes);
    size_t n = newline ? (size_t)(newline - s) : *n_bytes, i = 0;
    while (n && is_blank(s[n - 1]))
        n--;
    while (i < n && is_blank(s[i]))
        i++;
    memmove(s, s + i, n - i);
    s[n - i] = 0;
    *n_bytes = n - i;
}

static int answer_text(struct runner *r, const struct job *j, const struct slot *l, struct record *rec)
{
    int n = l->n_new;
    bool ended = l->stop == STOP_EOS || (l->stop == STOP_NEWLINE && !j->prompt.keep_newline);
    TRY(tok_decode_answer(r->tok, l->token, ended && n ? n - 1 : n, !j->prompt.keep_special, &rec->text,
                          &rec->n_text));
    if (j->prompt.cut_at_newline)
        keep_first_line(rec->text, &rec->n_text);
    return 0;
}

static void put_metric(struct record *rec, const char *name, double value)
{
    const char *const *names = task_metric_names();
    for (int k = 0; names[k]; k++)
        if (!strcmp(names[k], name))
            rec->metric[rec->n_metric++] = (struct record_metric){k, value};
}

static void put_score(const struct task *task, const struct job *j, struct record *rec)
{
    struct score_extra extra[4];
    int n = task_score(task, j->unit->example, rec->text, rec->n_text, &rec->score, extra);
    for (int i = 0; i < n; i++)
        put_metric(rec, extra[i].name, extra[i].value);
}

/* A sequence that got no memory says how much it wanted, and what would have fitted. */
static void put_wanted(struct runner *r, const struct job *j, const struct slot *l, struct record *rec)
{
    rec->want_bytes = room_wanted(&j->spec, &j->shape, j->prompt.n_ids, l->max_new);
    int64_t longest = room_longest(r->ops, &j->spec, &j->shape, j->prompt.n_ids, l->max_new);
    char *text =
        mem_printf("%s; %llu bytes wanted for a prompt of %lld tokens, the longest that would fit alone "
                   "has about %lld",
                   rec->error ? rec->error : "out of device memory", (unsigned long long)rec->want_bytes,
                   (long long)j->prompt.n_ids, (long long)longest);
    free(rec->error);
    rec->error = text;
}

int job_record(struct runner *r, const struct task *task, struct job *j, struct slot *l, struct record *rec)
{
    *rec = (struct record){.unit_hi = j->unit->hi,
                           .unit_lo = j->unit->lo,
                           .setting = j->unit->setting,
                           .task = j->unit->task,
                           .example = j->unit->example,
                           .status = l->status,
                           .stop = l->stop,
                           .score = NAN,
                           .n_prompt = (int32_t)j->prompt.n_ids,
                           .n_context = (int32_t)j->prompt.n_ids, /* the question is inside */
                           .context_bytes_full = shape_full_bytes(&j->shape, j->prompt.n_ids),
                           .kept_min = -1,
                           .kept_max = -1,
                           .n_new = l->n_new,
                           .truncated = j->prompt.truncated,
                           .prompt_hash = j->prompt.hash};
    put_bytes(j, l, rec);
    rec->error = j->error;
    j->error = NULL;
    if (l->status == ST_OOM && j->spec.method)
        put_wanted(r, j, l, rec);
    if (l->status == ST_NAN && !rec->error)
        rec->error = mem_printf("a logit was not finite after %d new tokens", l->n_new);
    TRY(answer_text(r, j, l, rec));
    rec->metric = mem_alloc(5, sizeof *rec->metric); /* as many as a task gives, and one */
    int64_t outside = tok_n_outside(r->tok, l->token, l->n_new);
    if (rec->status == ST_OK)
        put_score(task, j, rec);
    if (outside)
        put_metric(rec, "outside_vocab", (double)outside);
    rec->n_vocab = (int32_t)r->engine.n_vocab;
    rec->n_first = l->n_first;
    rec->n_top = l->n_top;
    rec->token = l->token, rec->first = l->first, rec->topk_id = l->topk_id, rec->topk_logit = l->topk_logit,
    rec->logsumexp = l->logsumexp;
    l->token = NULL, l->first = NULL, l->topk_id = NULL, l->topk_logit = NULL, l->logsumexp = NULL;
    return 0;
}
