/* Units up to their first token: prompts, and passes that are shared where they are the same. */
#include "run/job.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>

void job_fail(struct job *j, struct slot *l, int rc)
{
    j->rc = rc;
    free(j->error);
    j->error = mem_strdup(err_text());
    if (l->open) /* its memory is for the others */
        seq_close(&l->seq);
    l->open = false;
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

int job_verdict(struct runner *r, int rc)
{
    int latched = rc == ERR_NOMEM ? r->ops->sync(r->ops) : 0;
    return is_fatal(latched) ? latched : rc;
}

static bool same_pass(const struct job *a, const struct job *b)
{
    return a->key == 0 && b->key == 0 && a->ex == b->ex && a->prompt.hash == b->prompt.hash &&
           a->prompt.n_ids == b->prompt.n_ids && model_overrides_equal(&a->unit->over, &b->unit->over);
}

static int job_init(struct runner *r, const struct task *task, const struct run_unit *u, struct job *j)
{
    *j = (struct job){.unit = u, .ex = task_example(task, u->example), .prompt.newline = -1};
    struct rewriter rw;
    TRY(runner_rewriter(r, u, &rw));
    TRY(policy_prompt(r->opt.mode, kv_method_name(u->spec->method), &rw, &r->m, model_config(r->model),
                      r->tok, task_traits(task), j->ex, &j->prompt));
    TRY(model_seq_shape(r->model, r->m.cache_dtype, &u->over, &j->shape));
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
static int own_pass(struct runner *r, struct job *j, struct slot *l)
{
    struct tensor logits;
    const struct prompt *p = &j->prompt;
    l->open = true;
    TRY(seq_open(&l->seq, r->model, &j->shape, &j->spec, p->n_ids, p->n_ids + l->max_new));
    TRY(engine_prefill(&r->engine, &l->seq, p->ids, p->n_ids, true, &logits));
    return engine_choose(&r->engine, &l, 1, logits);
}

/* The plain pass, frozen, for `n` slots that start from it and choose from its last row. */
static int plain_pass(struct runner *r, const struct job *j, struct slot *const *first, int n, unsigned watch,
                      struct seq_prompt *out)
{
    struct tensor logits;
    const struct prompt *p = &j->prompt;
    TRY(engine_plain(&r->engine, &r->full, &j->shape, p->ids, p->n_ids, watch, out, &logits));
    return engine_choose(&r->engine, first, n, logits);
}

static int shared_pass(struct runner *r, struct job *job, struct slot *slot, int n, int lead)
{
    struct slot **first = mem_alloc((size_t)n, sizeof *first);
    int *who = mem_alloc((size_t)n, sizeof *who), m = 0;
    unsigned watch = 0;
    for (int i = lead; i < n; i++) {
        if (job[i].rc == 0 && !job[i].in_group && same_pass(&job[lead], &job[i])) {
            job[i].in_group = true;
            job[i].group = lead;
            watch |= kv_wants(&job[i].spec);
            who[m] = i;
            first[m++] = &slot[i];
        }
    }
    struct seq_prompt p = {0};
    int rc = job_verdict(r, plain_pass(r, &job[lead], first, m, watch, &p)), pass = rc;
    for (int k = 0; k < m && is_fatal(pass); k++)
        job[who[k]].blamed = true;
    for (int k = 0; k < m && !is_fatal(rc); k++) {
        struct job *j = &job[who[k]];
        struct slot *l = first[k];
        int one = pass;
        if (one == 0) {
            one = seq_fork(&l->seq, r->model, &j->shape, &j->spec, &p, j->prompt.n_ids + l->max_new);
            l->open = true;
            if (one == 0) /* what failed on the GPU must not be told of the next */
                one = r->ops->sync(r->ops);
            one = job_verdict(r, one);
        }
        j->blamed = is_fatal(one);
        if (j->blamed)
            rc = one;
        else if (one < 0)
            job_fail(j, l, one);
        if (!is_fatal(rc) && poll_call(&r->engine.poll) < 0)
            rc = ERR_INTERNAL;
    }
    seq_prompt_close(&p);
    free(first);
    free(who);
    return is_fatal(rc) ? rc : 0;
}

int job_passes(struct runner *r, struct job *job, struct slot *slot, int n)
{
    for (int i = 0; i < n; i++) {
        if (job[i].rc < 0 || job[i].in_group)
            continue;
        int rc;
        if (job[i].key == 0) {
            rc = shared_pass(r, job, slot, n, i);
        } else {
            job[i].in_group = true;
            rc = job_verdict(r, own_pass(r, &job[i], &slot[i]));
            job[i].blamed = is_fatal(rc);
            if (rc < 0 && !job[i].blamed)
                job_fail(&job[i], &slot[i], rc);
        }
        if (is_fatal(rc))
            return rc;
    }
    return 0;
}

void job_holders(struct job *job, const struct slot *slot, int n)
{
    for (int i = 0; i < n; i++) {
        struct kv_ledger led = {0};
        if (!slot[i].open || job[i].rc < 0)
            continue;
        seq_bytes(&slot[i].seq, &led);
        job[i].holder = led.shared > 0;
        for (int k = 0; k < i; k++)
            if (job[k].holder && job[k].group == job[i].group)
                job[i].holder = false;
    }
}

/* Adds a name to a list that has no room for many. */
static void add_name(struct str *list, const char *name, int *n)
{
    if (list->n < 300)
        str_printf(list, "%s%s", *n ? ", " : "", name);
    else if (str_c(list)[list->n - 1] != ' ')
        str_add(list, ", ... ");
    ++*n;
}

static bool known_before(const struct job *job, int i, bool (*same)(const struct job *, const struct job *))
{
    for (int k = 0; k < i; k++)
        if (job[k].blamed && same(&job[k], &job[i]))
            return true;
    return false;
}

static bool same_setting(const struct job *a, const struct job *b)
{
    return a->unit->setting == b->unit->setting && a->unit->spec == b->unit->spec;
}

static bool same_example(const struct job *a, const struct job *b)
{
    return a->ex == b->ex;
}

int job_name(const struct runner *r, int rc, const struct job *job, int n)
{
    struct str setting = {0}, example = {0};
    int n_setting = 0, n_example = 0;
    for (int i = 0; i < n; i++) {
        if (job[i].blamed && !known_before(job, i, same_setting))
            add_name(&setting, job[i].unit->spec->label, &n_setting);
        if (job[i].blamed && !known_before(job, i, same_example))
            add_name(&example, job[i].ex->id, &n_example);
    }
    if (n_setting)
        err_prefix(rc, "model %s, setting%s %s, example%s %s", r->m.id, n_setting == 1 ? "" : "s",
                   str_c(&setting), n_example == 1 ? "" : "s", str_c(&example));
    str_free(&setting);
    str_free(&example);
    return rc;
}

void job_free(struct job *job, struct slot *slot, int n)
{
    for (int i = 0; i < n; i++) {
        prompt_free(&job[i].prompt);
        free(job[i].error);
        slot_free(&slot[i]);
        kv_spec_free(&job[i].spec);
    }
    free(job);
    free(slot);
}

int job_prepare(struct runner *r, const struct task *task, const struct run_unit *u, int n, struct job *job,
                struct slot *slot)
{
    int64_t rows = r->engine.chunk > n ? r->engine.chunk : n;
    for (int i = 0; i < n; i++) {
        int rc = job_init(r, task, &u[i], &job[i]);
        slot_init(&slot[i], &r->engine, &job[i].prompt, task_traits(task)->max_new);
        model_config_penalty(model_config(r->model), &u[i].over.options, &slot[i].penalty.rule);
        job[i].blamed = is_fatal(rc);
        if (job[i].blamed)
            return rc;
        if (rc < 0)
            job_fail(&job[i], &slot[i], rc);
    }
    return model_fit(r->model, rows, n);
}
