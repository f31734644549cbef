#include "sweep/worker.h"

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "sweep/stop.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int worker_open(struct worker *w, const struct link *l, const struct plan *plan, int (*poll)(void *),
                void *ctx)
{
    const struct config *c = plan->config;
    *w = (struct worker){.plan = plan, .poll = {poll, ctx}, .rank = l->rank, .loaded = -1};
    struct run_options opt = {
        .device = c->device,
        .isa = c->isa,
        .threads = c->threads > 0 ? c->threads : l->n_core,
        .gpu = l->local,
        .mode = c->mode,
        .logits_first = c->logits_first,
        .topk = c->topk,
        .share = l->n_local > 1, /* alone, shared memory would only be one more thing to fail */
        .wait = log_get_level() == LOG_DEBUG,
        .poll = w->poll,
    };
    return runner_open(&w->runner, &opt);
}

void worker_close(struct worker *w)
{
    if (w->runner)
        runner_close(w->runner);
    w->runner = NULL;
    w->loaded = -1;
}

int worker_load(struct worker *w, int model, struct comm *c)
{
    if (w->loaded == model)
        return 0;
    const struct plan_model *m = &w->plan->model[model];
    int rc = c ? runner_load_together(w->runner, &m->run, c) : runner_load(w->runner, &m->run);
    w->loaded = rc < 0 ? -1 : model;
    memset(w->weights, 0, sizeof w->weights);
    if (rc == 0)
        model_weights_xxh3(runner_model(w->runner), w->weights);
    return rc;
}

void worker_failed(const struct plan *p, int64_t unit, enum record_status status, const char *text,
                   struct record *r)
{
    const struct plan_unit *u = &p->unit[unit];
    *r = (struct record){.unit_hi = u->hi,
                         .unit_lo = u->lo,
                         .setting = u->setting,
                         .task = u->task,
                         .example = u->example,
                         .status = (int32_t)status,
                         .stop = STOP_MAX_NEW,
                         .score = NAN,
                         .kept_min = -1,
                         .kept_max = -1,
                         .error = mem_strdup(text)};
}

static int compute(struct worker *w, const struct job *job, struct record *out)
{
    struct run_unit unit[PLAN_BATCH];
    for (int i = 0; i < job->n; i++)
        unit[i] = plan_run_unit(w->plan, job->unit[i]);
    int rc = runner_bundle(w->runner, w->plan->model[job->model].task[job->task], unit, job->n, out);
    if (rc == ERR_DEVICE)
        crash_note(err_text());
    return rc < 0 ? err_prefix(rc, "task %s", w->plan->task[job->task].cfg->id) : 0;
}

int worker_run(struct worker *w, const struct job *job, struct record *out)
{
    crash_arm(job->crash_id); /* a model that crashes the loader must not stop the grid either */
    int rc = worker_load(w, job->model, NULL);
    if (rc == 0)
        rc = compute(w, job, out);
    crash_disarm();
    for (int i = 0; rc == 0 && i < job->n; i++) {
        out[i].rank = w->rank;
        out[i].attempt = job->attempt;
        out[i].bundle = job->id;
    }
    return rc;
}
