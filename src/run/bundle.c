/* Examples in, records out: groups units by prompt pass, forks them from it, decodes them together, scores.
 */
#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "run/fidelity.h"
#include "run/room.h"
#include "run/runner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One unit while its bundle runs. */
struct job {
    const struct run_unit *unit;
    const struct example *ex;
    struct prompt prompt;
    struct kv_shape shape;
    struct kv_spec spec; /* the unit's, solved for this sequence; owned */
    uint64_t key;        /* prefill key */
    bool in_group;       /* its prompt pass is done (or failed) */
    int group;           /* first job of those that share it */
    bool holder;         /* counts the bytes shared by its group */
    int rc;              /* first error of this unit */
    char *error;         /* its text, owned */
};

static void fail(struct job *j, struct lane *l, int rc)
{
    j->rc = rc;
    free(j->error);
    j->error = mem_strdup(err_text());
    l->done = true;
    l->status = rc == ERR_NOMEM      ? ST_OOM
                : rc == ERR_TOO_LONG ? ST_TOO_LONG
                : rc == ERR_NAN      ? ST_NAN
                                     : ST_ERROR;
}

/* Errors of one unit become its record; a device that failed, a stop or a broken program end the bundle. */
static bool is_fatal(int rc)
{
    return rc == ERR_DEVICE || rc == ERR_INTERNAL || rc == ERR_IO;
}

static bool same_pass(const struct job *a, const struct job *b)
{
    return a->key == 0 && b->key == 0 && a->ex == b->ex && a->prompt.hash == b->prompt.hash &&
           a->prompt.n_ids == b->prompt.n_ids &&
           a->unit->over.rope_theta_factor == b->unit->over.rope_theta_factor;
}

static int job_init(struct runner *r, const struct task *task, const struct run_unit *u, struct job *j)
{
    *j = (struct job){.unit = u, .ex = task_example(task, u->example), .prompt.newline = -1};
    struct rewriter rw;
    TRY(runner_rewriter(r, u, &rw));
    TRY(policy_prompt(r->opt.mode, u->spec->method->name, &rw, &r->m, model_config(r->model), r->tok,
                      task_traits(task), j->ex, &j->prompt));
    TRY(model_kv_shape(r->model, r->m.cache_dtype, u->over.rope_theta_factor, &j->shape));
    int64_t n_max = j->prompt.n_ids + task_traits(task)->max_new;
    if (n_max > j->shape.max_len)
        return err_set(
            ERR_TOO_LONG, "prompt of %lld tokens and %d new ones exceed the %lld positions of model %s",
            (long long)j->prompt.n_ids, task_traits(task)->max_new, (long long)j->shape.max_len, r->m.id);
    TRY(kv_spec_solve(&j->spec, u->spec, &j->shape, j->prompt.n_ids, n_max));
    j->key = kv_prefill_key(&j->spec, j->prompt.n_ids, &j->shape);
    return 0;
}

/* A pass of the method's own: nothing is shared. */
static int own_pass(struct runner *r, struct job *j, struct lane *l)
{
    struct tensor logits;
    const struct prompt *p = &j->prompt;
    l->open = true;
    TRY(seq_open(&l->seq, r->model, &j->shape, &j->spec, p->n_ids, p->n_ids + l->max_new));
    TRY(engine_prefill(&r->engine, &l->seq, p->ids, p->n_ids, true, &logits));
    return engine_choose(&r->engine, &l, 1, logits);
}

/* The plain pass, frozen, for `n` lanes that start from it and choose from its last row. */
static int plain_pass(struct runner *r, const struct job *j, struct lane *const *first, int n, bool watched,
                      struct seq_prompt *out)
{
    struct tensor logits;
    const struct prompt *p = &j->prompt;
    TRY(engine_plain(&r->engine, &r->full, &j->shape, p->ids, p->n_ids, watched, out, &logits));
    return engine_choose(&r->engine, first, n, logits);
}

static int shared_pass(struct runner *r, struct job *job, struct lane *lane, int n, int lead)
{
    struct lane **first = mem_alloc((size_t)n, sizeof *first);
    int *who = mem_alloc((size_t)n, sizeof *who), m = 0;
    bool watched = false;
    for (int i = lead; i < n; i++) {
        if (job[i].rc == 0 && !job[i].in_group && same_pass(&job[lead], &job[i])) {
            job[i].in_group = true;
            job[i].group = lead;
            watched = watched || kv_wants_mass(&job[i].spec);
            who[m] = i;
            first[m++] = &lane[i];
        }
    }
    struct seq_prompt p = {0};
    int rc = plain_pass(r, &job[lead], first, m, watched, &p);
    for (int k = 0; k < m && !is_fatal(rc); k++) {
        struct job *j = &job[who[k]];
        struct lane *l = first[k];
        int one = rc;
        if (one == 0) {
            one = seq_fork(&l->seq, r->model, &j->shape, &j->spec, &p, j->prompt.n_ids + l->max_new);
            l->open = true;
        }
        if (is_fatal(one))
            rc = one;
        else if (one < 0)
            fail(j, l, one);
    }
    seq_prompt_close(&p);
    free(first);
    free(who);
    return is_fatal(rc) ? rc : 0;
}

static int all_passes(struct runner *r, struct job *job, struct lane *lane, int n)
{
    for (int i = 0; i < n; i++) {
        if (job[i].rc < 0 || job[i].in_group)
            continue;
        int rc;
        if (job[i].key == 0) {
            rc = shared_pass(r, job, lane, n, i);
        } else {
            job[i].in_group = true;
            rc = own_pass(r, &job[i], &lane[i]);
            if (rc < 0 && !is_fatal(rc))
                fail(&job[i], &lane[i], rc);
        }
        if (is_fatal(rc))
            return rc;
    }
    return 0;
}

/* Of the sequences that hold a shared prompt to the end, the first one counts its bytes. */
static void mark_holders(struct job *job, const struct lane *lane, int n)
{
    for (int i = 0; i < n; i++) {
        struct kv_ledger led = {0};
        if (!lane[i].open || job[i].rc < 0)
            continue;
        seq_bytes(&lane[i].seq, &led);
        job[i].holder = led.shared > 0;
        for (int k = 0; k < i; k++)
            if (job[k].holder && job[k].group == job[i].group)
                job[i].holder = false;
    }
}

static void put_bytes(const struct job *j, const struct lane *l, struct record *rec)
{
    rec->kv_bytes_full = kv_full_bytes(&j->shape, j->prompt.n_ids + l->max_new);
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

static char *stripped_first_line(const char *s)
{
    size_t n = strcspn(s, "\n"), i = 0;
    while (n && strchr(" \t\r\f\v", s[n - 1]))
        n--;
    while (i < n && strchr(" \t\r\f\v", s[i]))
        i++;
    return mem_strndup(s + i, n - i);
}

static int answer_text(struct runner *r, const struct job *j, const struct lane *l, char **text)
{
    int n = l->n_new;
    bool ended = l->stop == STOP_EOS || (l->stop == STOP_NEWLINE && !j->prompt.keep_newline);
    TRY(tok_decode(r->tok, l->token, ended && n ? n - 1 : n, !j->prompt.keep_special, text));
    if (j->prompt.cut_at_newline) {
        char *line = stripped_first_line(*text);
        free(*text);
        *text = line;
    }
    return 0;
}

static void put_score(const struct task *task, const struct job *j, struct record *rec)
{
    struct score_extra extra[4];
    int n = task_score(task, j->unit->example, rec->text, &rec->score, extra);
    const char *const *names = task_metric_names();
    rec->metric = mem_alloc((size_t)(n > 0 ? n : 1), sizeof *rec->metric);
    for (int i = 0; i < n; i++)
        for (int k = 0; names[k]; k++)
            if (!strcmp(names[k], extra[i].name))
                rec->metric[rec->n_metric++] = (struct record_metric){k, extra[i].value};
}

/* A sequence that got no memory says how much it wanted, and what would have fitted. */
static void put_wanted(struct runner *r, const struct job *j, const struct lane *l, struct record *rec)
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

/* Moves what the lane holds into the record. */
static int put_record(struct runner *r, const struct task *task, struct job *j, struct lane *l,
                      struct record *rec)
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
                           .n_new = l->n_new,
                           .truncated = j->prompt.truncated,
                           .prompt_hash = j->prompt.hash};
    put_bytes(j, l, rec);
    rec->error = j->error;
    j->error = NULL;
    if (l->status == ST_OOM)
        put_wanted(r, j, l, rec);
    if (l->status == ST_NAN && !rec->error)
        rec->error = mem_printf("a logit was not finite after %d new tokens", l->n_new);
    TRY(answer_text(r, j, l, &rec->text));
    if (rec->status == ST_OK)
        put_score(task, j, rec);
    rec->n_vocab = (int32_t)r->engine.n_vocab;
    rec->n_first = l->n_first;
    rec->n_top = l->n_top;
    rec->token = l->token, rec->first = l->first, rec->topk_id = l->topk_id, rec->topk_logit = l->topk_logit,
    rec->logsumexp = l->logsumexp;
    l->token = NULL, l->first = NULL, l->topk_id = NULL, l->topk_logit = NULL, l->logsumexp = NULL;
    return 0;
}

static void free_jobs(struct job *job, struct lane *lane, int n)
{
    for (int i = 0; i < n; i++) {
        prompt_free(&job[i].prompt);
        free(job[i].error);
        lane_free(&lane[i]);
        kv_spec_free(&job[i].spec);
    }
    free(job);
    free(lane);
}

static int prepare(struct runner *r, const struct task *task, const struct run_unit *u, int n,
                   struct job *job, struct lane *lane)
{
    int64_t rows = r->engine.piece > n ? r->engine.piece : n;
    TRY(model_reserve(r->model, rows, n));
    for (int i = 0; i < n; i++) {
        int rc = job_init(r, task, &u[i], &job[i]);
        lane_init(&lane[i], &r->engine, &job[i].prompt, task_traits(task)->max_new);
        if (is_fatal(rc))
            return rc;
        if (rc < 0)
            fail(&job[i], &lane[i], rc);
    }
    return 0;
}

/* Units of a bundle, behind them the full cache for examples to be compared that have no unit of it here. */
struct cast {
    struct run_unit *unit; /* [n_all] */
    int n, n_all;
    struct fidelity_reference *ref;
    int n_ref;
};

static bool is_reference(const struct runner *r, const struct run_unit *u)
{
    return u->fidelity && u->spec->method == r->full.method;
}

static struct fidelity_reference *reference_of(const struct cast *c, int32_t example)
{
    for (int i = 0; i < c->n_ref; i++)
        if (c->ref[i].example == example)
            return &c->ref[i];
    return NULL;
}

static void cast_init(struct runner *r, const struct run_unit *u, int n, struct cast *c)
{
    *c = (struct cast){.unit = mem_alloc(2 * (size_t)n, sizeof *c->unit),
                       .ref = mem_alloc((size_t)n, sizeof *c->ref),
                       .n = n,
                       .n_all = n};
    memcpy(c->unit, u, (size_t)n * sizeof *u);
    for (int i = 0; i < n; i++)
        if (is_reference(r, &u[i]) && !reference_of(c, u[i].example))
            c->ref[c->n_ref++].example = u[i].example;
    for (int i = 0; i < n; i++) {
        if (!u[i].fidelity || reference_of(c, u[i].example))
            continue;
        c->ref[c->n_ref++].example = u[i].example;
        c->unit[c->n_all] = u[i];
        c->unit[c->n_all++].spec = &r->full;
    }
}

static void cast_free(struct runner *r, struct cast *c)
{
    for (int i = 0; i < c->n_ref; i++)
        fidelity_free(&c->ref[i], r->ops);
    free(c->ref);
    free(c->unit);
}

/* Passes and decode of n units; job and lane are the caller's to free. */
static int play(struct runner *r, struct job *job, struct lane *lane, int n)
{
    double t0 = clock_now();
    TRY(all_passes(r, job, lane, n));
    double t1 = clock_now();
    int rc = engine_decode(&r->engine, lane, n);
    r->s_passes += t1 - t0;
    r->s_decode += clock_now() - t1;
    return rc;
}

static int free_play(struct runner *r, const struct task *task, struct cast *c, struct job *job,
                     struct lane *lane)
{
    TRY(prepare(r, task, c->unit, c->n_all, job, lane));
    for (int i = 0; i < c->n_all; i++)
        if (is_reference(r, &c->unit[i]))
            lane[i].user = reference_of(c, c->unit[i].example);
    fidelity_listen(&r->engine);
    int rc = play(r, job, lane, c->n_all);
    fidelity_off(&r->engine);
    for (int i = 0; i < c->n_all; i++) {
        struct fidelity_reference *ref = lane[i].user;
        if (ref && !ref->token && lane[i].n_new == ref->n && lane[i].status == ST_OK)
            ref->token = mem_dup(lane[i].token, (size_t)ref->n * sizeof *ref->token);
    }
    return rc;
}

/* The units that have something to be compared with; `who` are their records. */
static int forced_units(const struct cast *c, const struct record *out, struct run_unit *unit, int *who)
{
    int m = 0;
    for (int i = 0; i < c->n; i++) {
        const struct fidelity_reference *ref = reference_of(c, c->unit[i].example);
        if (!c->unit[i].fidelity || !ref || !ref->token || out[i].status != ST_OK)
            continue;
        unit[m] = c->unit[i];
        who[m++] = i;
    }
    return m;
}

/* The same units again, forced along the answer of the full cache. Too little memory for it is no reason to
 * lose the answers: those records then have no fidelity rows. */
static int forced_play(struct runner *r, const struct task *task, const struct cast *c, struct record *out)
{
    size_t n = (size_t)c->n;
    struct run_unit *unit = mem_alloc(n, sizeof *unit);
    struct job *job = mem_alloc(n, sizeof *job);
    struct lane *lane = mem_alloc(n, sizeof *lane);
    struct fidelity_rows *rows = mem_alloc(n, sizeof *rows);
    int *who = mem_alloc(n, sizeof *who), m = forced_units(c, out, unit, who);
    int rc = m ? prepare(r, task, unit, m, job, lane) : 0;
    for (int i = 0; i < m && rc == 0; i++) {
        const struct fidelity_reference *ref = reference_of(c, unit[i].example);
        rows[i].ref = ref;
        rows[i].row = mem_alloc((size_t)ref->n, sizeof *rows[i].row);
        lane[i].user = &rows[i];
        lane[i].force = ref->token;
        lane[i].n_force = lane[i].max_new = ref->n;
    }
    fidelity_compare(&r->engine);
    if (m && rc == 0)
        rc = play(r, job, lane, m);
    fidelity_off(&r->engine);
    for (int i = 0; i < m; i++) {
        out[who[i]].n_fidelity = rc == 0 ? rows[i].n : 0;
        out[who[i]].fidelity = rows[i].row;
    }
    free_jobs(job, lane, m);
    free(unit);
    free(rows);
    free(who);
    return rc == ERR_NOMEM ? 0 : rc;
}

int runner_bundle(struct runner *r, const struct task *task, const struct run_unit *u, int n,
                  struct record *out)
{
    struct cast c;
    cast_init(r, u, n, &c);
    struct job *job = mem_alloc((size_t)c.n_all, sizeof *job);
    struct lane *lane = mem_alloc((size_t)c.n_all, sizeof *lane);
    int made = 0;
    r->ops->peak(r->ops, true);
    int rc = free_play(r, task, &c, job, lane);
    if (rc == ERR_NOMEM && c.n_all == 1 && job->spec.method) { /* nobody to make room: it is this unit's */
        fail(job, lane, rc);
        rc = 0;
    }
    uint64_t peak = r->ops->peak(r->ops, false);
    if (rc == 0)
        mark_holders(job, lane, n);
    for (; made < n && rc == 0; made++) {
        rc = put_record(r, task, &job[made], &lane[made], &out[made]);
        out[made].peak_bytes = peak;
    }
    free_jobs(job, lane, c.n_all);
    if (rc == 0 && c.n_ref)
        rc = forced_play(r, task, &c, out);
    for (int i = 0; i < made && rc < 0; i++)
        record_free(&out[i]);
    cast_free(r, &c);
    return rc;
}

/* The limits for what was just timed: the prompt's flops at the rate of products, weights and cache once per
 * step at the rate of memory. */
static void put_limits(struct runner *r, const struct job *j, const struct lane *l, struct run_timing *t)
{
    struct run_limits lim;
    struct kv_ledger led = {0};
    runner_limits(r, &lim);
    seq_bytes(&l->seq, &led);
    if (lim.product_rate > 0)
        t->s_prefill_limit = limits_prefill_flops(r->model, j->prompt.n_ids) / lim.product_rate;
    if (l->n_new > 1)
        t->s_decode_limit = (l->n_new - 1) * limits_step_s(r->model, &lim, r->m.dtype, 1,
                                                           (double)kv_ledger_place(&led, PLACE_DEVICE));
}

int runner_timing(struct runner *r, const struct task *task, const struct run_unit *u, struct run_timing *t)
{
    struct job *job = mem_alloc(1, sizeof *job);
    struct lane *lane = mem_alloc(1, sizeof *lane);
    r->ops->peak(r->ops, true);
    double t0 = 0, t1 = 0, t2 = 0;
    int rc = prepare(r, task, u, 1, job, lane);
    if (rc == 0 && job->rc == 0) {
        t0 = clock_now();
        rc = all_passes(r, job, lane, 1);
        t1 = clock_now();
    }
    if (rc == 0 && job->rc == 0)
        rc = engine_decode(&r->engine, lane, 1);
    t2 = clock_now();
    if (rc == 0)
        rc = job->rc;
    *t = (struct run_timing){.n_prompt = (int32_t)job->prompt.n_ids,
                             .n_new = lane->n_new,
                             .s_prefill = t1 - t0,
                             .s_decode = t2 - t1,
                             .peak_bytes = r->ops->peak(r->ops, false)};
    if (rc == 0)
        put_limits(r, job, lane, t);
    free_jobs(job, lane, 1);
    return rc;
}
