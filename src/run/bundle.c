/* Examples in, records out: groups units by prompt pass, forks them from it, decodes them together, scores.
 */
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "run/fidelity.h"
#include "run/job.h"

#include <stdlib.h>
#include <string.h>

/* Units of a bundle, behind them the full cache for examples to be compared that have no unit of it here. */
struct cast {
    struct run_unit *unit; /* [n_all] */
    bool *alone;           /* [n_all]: did not fit beside the others */
    int n, n_all;
    struct record *out; /* [n] */
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

static void cast_init(struct runner *r, const struct run_unit *u, int n, struct record *out, struct cast *c)
{
    *c = (struct cast){.unit = mem_alloc(2 * (size_t)n, sizeof *c->unit),
                       .alone = mem_alloc(2 * (size_t)n, sizeof *c->alone),
                       .ref = mem_alloc((size_t)n, sizeof *c->ref),
                       .n = n,
                       .n_all = n,
                       .out = out};
    memset(out, 0, (size_t)n * sizeof *out);
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
    free(c->alone);
    free(c->unit);
}

/* Some units of a cast that are computed together. */
struct play {
    struct cast *cast;
    int *who; /* [n]: their places in the cast */
    struct run_unit *unit;
    struct job *job;
    struct slot *slot;
    int n;
};

static void play_open(struct play *p, struct cast *c, const int *who, int n)
{
    size_t room = (size_t)n;
    *p = (struct play){c,
                       mem_dup(who, room * sizeof *who),
                       mem_alloc(room, sizeof *p->unit),
                       mem_alloc(room, sizeof *p->job),
                       mem_alloc(room, sizeof *p->slot),
                       n};
    for (int i = 0; i < n; i++)
        p->unit[i] = c->unit[who[i]];
}

static void play_close(struct play *p)
{
    job_free(p->job, p->slot, p->n);
    free(p->unit);
    free(p->who);
}

static int decode(struct runner *r, struct play *p)
{
    int rc = job_verdict(r, engine_decode(&r->engine, p->slot, p->n));
    for (int i = 0; i < p->n && rc < 0; i++)
        p->job[i].blamed = p->slot[i].open && !p->slot[i].done;
    return rc;
}

/* Passes and decode. Where not even the batch as a whole got memory, no unit that is not done did. */
static int play_run(struct runner *r, struct play *p, int rc)
{
    double t0 = clock_now();
    if (rc == 0)
        rc = job_passes(r, p->job, p->slot, p->n);
    double t1 = clock_now();
    r->s_passes += t1 - t0;
    if (rc == 0)
        rc = decode(r, p);
    r->s_decode += clock_now() - t1;
    if (rc != ERR_NOMEM)
        return rc < 0 ? job_name(r, rc, p->job, p->n) : 0;
    for (int i = 0; i < p->n; i++)
        if (!p->slot[i].done)
            job_fail(&p->job[i], &p->slot[i], rc);
    return 0;
}

/* Marks those that got no memory beside others, which says nothing of themselves. */
static bool crowded_out(struct play *p, int i)
{
    if (p->n > 1 && p->slot[i].status == ST_OOM)
        p->cast->alone[p->who[i]] = true;
    return p->cast->alone[p->who[i]] && p->n > 1;
}

static void keep_reference(struct play *p, int i)
{
    struct fidelity_reference *ref = p->slot[i].user;
    if (ref && !ref->token && p->slot[i].n_new == ref->n && p->slot[i].status == ST_OK)
        ref->token = mem_dup(p->slot[i].token, (size_t)ref->n * sizeof *ref->token);
}

/* Free answers of some units; their records, but for those that must try again alone. */
static int free_play(struct runner *r, const struct task *task, struct cast *c, const int *who, int n)
{
    struct play p;
    play_open(&p, c, who, n);
    int rc = job_prepare(r, task, p.unit, n, p.job, p.slot);
    for (int i = 0; i < n; i++) {
        struct fidelity_reference *ref = reference_of(c, p.unit[i].example);
        if (!is_reference(r, &p.unit[i]))
            continue;
        ref->n = 0;
        p.slot[i].user = ref;
    }
    fidelity_listen(&r->engine);
    rc = play_run(r, &p, rc);
    fidelity_off(&r->engine);
    if (rc == 0)
        job_holders(p.job, p.slot, n);
    for (int i = 0; i < n && rc == 0; i++) {
        if (crowded_out(&p, i))
            continue;
        keep_reference(&p, i);
        if (who[i] < c->n)
            rc = job_record(r, task, &p.job[i], &p.slot[i], &c->out[who[i]]);
    }
    play_close(&p);
    return rc;
}

/* The same units again, forced along the answer of the full cache. Too little memory for it is no reason to
 * lose the answers: those records then have no fidelity rows. */
static int forced_play(struct runner *r, const struct task *task, struct cast *c, const int *who, int n)
{
    struct play p;
    play_open(&p, c, who, n);
    struct fidelity_rows *rows = mem_alloc((size_t)n, sizeof *rows);
    int rc = job_prepare(r, task, p.unit, n, p.job, p.slot);
    for (int i = 0; i < n; i++) {
        const struct fidelity_reference *ref = reference_of(c, p.unit[i].example);
        rows[i].ref = ref;
        rows[i].row = mem_alloc((size_t)ref->n, sizeof *rows[i].row);
        p.slot[i].user = &rows[i];
        p.slot[i].force = ref->token;
        p.slot[i].n_force = p.slot[i].max_new = ref->n;
    }
    fidelity_compare(&r->engine);
    rc = play_run(r, &p, rc);
    fidelity_off(&r->engine);
    for (int i = 0; i < n; i++) {
        if (rc < 0 || crowded_out(&p, i) || p.slot[i].status == ST_OOM) {
            free(rows[i].row);
            continue;
        }
        c->out[who[i]].n_fidelity = rows[i].n;
        c->out[who[i]].fidelity = rows[i].row;
    }
    free(rows);
    play_close(&p);
    return rc;
}

/* It has something to be compared with. */
static bool has_reference(const struct cast *c, int i)
{
    const struct fidelity_reference *ref = reference_of(c, c->unit[i].example);
    return i < c->n && c->unit[i].fidelity && ref && ref->token && c->out[i].status == ST_OK;
}

/* What kernels took for those before is no reason to be out of memory. */
static void trim(struct runner *r)
{
    if (r->ops->trim)
        r->ops->trim(r->ops);
}

/* Said once, however many bundles it concerns. */
static void tell_crowded(struct runner *r, int n_alone, int n)
{
    if (n_alone && !r->crowded)
        log_warn("no memory for %d of %d sequences beside each other: they are computed one by one, in later "
                 "bundles too; a lower `memory:` makes smaller bundles",
                 n_alone, n);
    r->crowded = r->crowded || n_alone;
}

/* Units that `takes` names (NULL: all): together, then those that did not fit beside the others one by one,
 * when the memory of the others is free. So what comes out follows from the bundle and the device alone. */
static int play_all(struct runner *r, const struct task *task, struct cast *c,
                    bool (*takes)(const struct cast *, int),
                    int (*play)(struct runner *, const struct task *, struct cast *, const int *, int))
{
    int *who = mem_alloc(2 * (size_t)c->n_all, sizeof *who), *alone = who + c->n_all, n = 0, n_alone = 0,
        rc = 0;
    for (int i = 0; i < c->n_all; i++) {
        if (takes && !takes(c, i))
            continue;
        if (c->alone[i])
            alone[n_alone++] = i;
        else
            who[n++] = i;
    }
    if (n)
        rc = play(r, task, c, who, n);
    for (int i = 0; i < n; i++)
        if (c->alone[who[i]])
            alone[n_alone++] = who[i];
    if (rc == 0)
        tell_crowded(r, n_alone, c->n_all);
    for (int i = 0; i < n_alone && rc == 0; i++) {
        trim(r);
        runner_spare(r, &c->unit[alone[i]]);
        rc = play(r, task, c, &alone[i], 1);
    }
    free(who);
    return rc;
}

int runner_bundle(struct runner *r, const struct task *task, const struct run_unit *u, int n,
                  struct record *out)
{
    struct cast c;
    cast_init(r, u, n, out, &c);
    trim(r);
    r->ops->peak(r->ops, true);
    int rc = play_all(r, task, &c, NULL, free_play);
    uint64_t peak = r->ops->peak(r->ops, false);
    for (int i = 0; i < n; i++)
        out[i].peak_bytes = peak;
    if (rc == 0 && c.n_ref)
        rc = play_all(r, task, &c, has_reference, forced_play);
    for (int i = 0; i < n && rc < 0; i++)
        record_free(&out[i]);
    cast_free(r, &c);
    return rc;
}

/* The limits for what was just timed: the prompt's flops at the rate of products, weights and cache once per
 * step at the rate of memory. */
static void put_limits(struct runner *r, const struct job *j, const struct slot *l, struct run_timing *t)
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
    struct slot *slot = mem_alloc(1, sizeof *slot);
    r->ops->peak(r->ops, true);
    double t0 = 0, t1 = 0, t2 = 0;
    int rc = job_prepare(r, task, u, 1, job, slot);
    if (rc == 0 && job->rc == 0) {
        t0 = clock_now();
        rc = job_passes(r, job, slot, 1);
        t1 = clock_now();
    }
    if (rc == 0 && job->rc == 0)
        rc = engine_decode(&r->engine, slot, 1);
    t2 = clock_now();
    job->blamed = rc < 0;
    job_name(r, rc, job, 1);
    if (rc == 0)
        rc = job->rc;
    *t = (struct run_timing){.n_prompt = (int32_t)job->prompt.n_ids,
                             .n_new = slot->n_new,
                             .s_prefill = t1 - t0,
                             .s_decode = t2 - t1,
                             .peak_bytes = r->ops->peak(r->ops, false)};
    if (rc == 0)
        put_limits(r, job, slot, t);
    job_free(job, slot, 1);
    return rc;
}
