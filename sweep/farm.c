#include "sweep/farm_int.h"

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "sweep/group.h"
#include "sweep/stop.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void farm_fail(struct farm *f, int rc, int rank)
{
    if (f->fail)
        return; /* the first trouble is the one to tell */
    f->fail = rc;
    f->fail_text = f->link->n_rank > 1 && rank >= 0 ? mem_printf("rank %d: %s", rank, err_text()) : mem_strdup(err_text());
}

bool farm_stopping(const struct farm *f)
{
    return f->fail || f->wish != STOP_NO;
}

void farm_weights(struct farm *f, int model, const uint64_t weights[2], int rank)
{
    char text[33];
    if (f->fail || model < 0 || model >= f->plan->n_model || (!weights[0] && !weights[1]))
        return;
    snprintf(text, sizeof text, "%016llx%016llx", (unsigned long long)weights[0],
             (unsigned long long)weights[1]);
    int rc = f->type->put_weights(f->sink, f->plan->model[model].hash, text);
    if (rc < 0)
        farm_fail(f, rc, rank);
}

void farm_refresh(struct farm *f)
{
    int rc = f->fail ? 0 : f->type->refresh(f->sink, false, false);
    if (rc < 0)
        farm_fail(f, rc, 0);
}

static void run_own(struct farm *f, const struct job *job)
{
    struct record r[PLAN_BATCH] = {0};
    watch_task(f->link->watch, "computes", job->id, job->s_step);
    int rc = worker_run(&f->worker, job, r);
    if (rc == 0) {
        farm_weights(f, f->worker.loaded, f->worker.weights, 0);
        farm_commit_own(f, r, job->n);
        for (int i = 0; i < job->n; i++)
            record_free(&r[i]);
        progress_cost(&f->progress, job->s_cost);
        farm_refresh(f);
    } else if (!farm_stopping(f)) {
        farm_fail(f, rc, 0);
    }
    watch_task(f->link->watch, "", 0, 0);
}

static bool all_ended(const struct farm *f)
{
    for (int i = 1; i < f->link->n_rank; i++)
        if (!f->peer[i].ended)
            return false;
    return true;
}

static void work(struct farm *f)
{
    for (;;) {
        farm_serve(f);
        if (f->link->lost)
            return;
        int job = farm_stopping(f) ? -1 : jobs_take(&f->jobs, f->worker.loaded);
        if (job >= 0)
            run_own(f, &f->jobs.job[job]);
        else if (all_ended(f))
            return;
        else
            link_sleep();
    }
}

static void poisoned(struct farm *f)
{
    for (int i = 0; i < f->jobs.n_poison; i++) {
        struct record r;
        uint64_t id = plan_bundle_id(f->plan, &f->jobs.poison[i], 1);
        char *why = crash_why(f->crash_dir, id);
        char *text = mem_printf("twice the program ended while computing this unit alone: %s", why);
        worker_failed(f->plan, f->jobs.poison[i], ST_ERROR, text, &r);
        free(why);
        free(text);
        r.attempt = f->attempt;
        r.bundle = id;
        farm_commit_own(f, &r, 1);
        record_free(&r);
    }
}

static int open_sink(struct farm *f)
{
    struct sink_plan plan;
    struct str text = {0};
    const struct ops *ops = runner_ops(f->worker.runner);
    plan_sink(f->plan, &plan, &text);
    plan.run.kvsweep_version = f->opt->version;
    plan.run.git_commit = f->opt->git_commit;
    plan.run.host = f->link->host[f->link->rank];
    plan.s_wait = f->opt->s_wait;
    plan.poll = (struct poll){farm_alive, f};
    plan.run.device = ops->device;
    plan.run.isa = ops->isa;
    plan.run.driver = ops->driver;
    plan.run.libraries = ops->libraries;
    plan.run.n_ranks = f->link->n_rank;
    plan.run.threads = ops->threads;
    f->type = &sink_hdf5;
    int rc = f->type->open(&f->sink, f->opt->output, &plan);
    plan_sink_free(&plan);
    str_free(&text);
    return rc;
}

/* Said also to those who want no progress: it is part of what the file holds. */
static void say_refused(const struct plan *p)
{
    for (int i = 0; i < p->n_setting; i++)
        if (p->setting[i].refused)
            log_warn("refused: %s: %s", p->setting[i].id, p->setting[i].refused);
}

static void say_start(const struct farm *f)
{
    const struct plan *p = f->plan;
    const struct ops *ops = runner_ops(f->worker.runner);
    say_refused(p);
    if (f->opt->quiet)
        return;
    log_info("%d settings, %lld units in %lld bundles; %lld units to do; %d rank%s x %d thread%s on %s (%s)",
             p->n_setting, (long long)p->n_unit, (long long)p->n_bundle,
             (long long)(p->n_unit - f->progress.n_done), f->link->n_rank, f->link->n_rank == 1 ? "" : "s",
             ops->threads, ops->threads == 1 ? "" : "s", ops->device, ops->isa);
}

static int prepare(struct farm *f)
{
    TRY(open_sink(f));
    f->attempt = f->type->attempt(f->sink);
    f->crash_dir = mem_printf("%s.crash", f->opt->output);
    crash_install(f->crash_dir, f->attempt);
    TRY(farm_history(f));
    jobs_open(&f->jobs, f->plan, f->type, f->sink, f->crash_dir, f->attempt, runner_ops(f->worker.runner));
    for (int i = 0; i < f->jobs.n; i++)
        progress_ahead(&f->progress, f->jobs.job[i].s_cost);
    say_start(f);
    poisoned(f);
    return 0;
}

/* Results as far as they go are made safe in any case; then the reason for stopping is told. */
static int finish(struct farm *f)
{
    bool complete = f->progress.n_done >= f->plan->n_unit && !farm_stopping(f);
    watch_task(f->link->watch, "writes results", 0, 0);
    if (f->sink && f->fail != ERR_IO && f->fail != ERR_AGAIN) {
        int rc = f->type->refresh(f->sink, true, complete);
        if (rc < 0)
            farm_fail(f, rc, 0);
    }
    if (f->sink) {
        int rc = f->type->close(f->sink);
        if (rc < 0)
            farm_fail(f, rc, 0);
    }
    if (complete && !f->fail && f->crash_dir)
        crash_clear(f->crash_dir);
    if (f->fail)
        return err_set(f->fail, "%s", f->fail_text);
    if (f->wish != STOP_NO)
        return err_set(ERR_AGAIN, "stopped%s%s with %lld of %lld units done; go on with: %s",
                       *stop_signal_name() ? " by " : "", stop_signal_name(), (long long)f->progress.n_done,
                       (long long)f->plan->n_unit, f->opt->resume);
    return 0;
}

static int farm_lead(struct link *l, const struct plan *plan, const struct farm_options *opt)
{
    struct farm f = {.link = l, .plan = plan, .opt = opt};
    f.peer = mem_alloc((size_t)l->n_rank, sizeof *f.peer);
    for (int i = 0; i < l->n_rank; i++)
        f.peer[i] = (struct farm_peer){.busy = -1, .loaded = -1, .heard = watch_life(l->watch)};
    progress_open(&f.progress, plan, opt->quiet);
    int rc = worker_open(&f.worker, l, plan, farm_serve, &f);
    if (rc == 0)
        rc = prepare(&f);
    if (rc < 0)
        farm_fail(&f, rc, 0);
    farm_tell_all(&f, MSG_START, 0);
    rc = group_start(l, &f.worker, rc == 0, rc == 0 ? &f.jobs : NULL, opt);
    if (rc < 0 && f.wish == STOP_NO)
        farm_fail(&f, rc, -1);
    watch_task(l->watch, "", 0, 0);
    work(&f); /* also after a failure: the others must be let go */
    if (!farm_stopping(&f))
        farm_timing(&f);
    if (f.progress.n_said > 0 || f.n_new > 0)
        progress_tick(&f.progress, true);
    worker_close(&f.worker);
    rc = finish(&f);
    farm_tell_all(&f, MSG_BYE, rc);
    progress_close(&f.progress);
    jobs_close(&f.jobs);
    str_free(&f.in);
    free(f.peer);
    free(f.crash_dir);
    free(f.timed);
    free(f.fail_text);
    return rc;
}

int farm_run(struct link *l, const struct plan *plan, const struct farm_options *opt)
{
    return l->rank == 0 ? farm_lead(l, plan, opt) : farm_follow(l, plan, opt);
}
