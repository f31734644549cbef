#include "sweep/jobs.h"

#include "base/mem.h"
#include "sweep/stop.h"

#include <stdlib.h>

/* Notes after which a set of units is split. */
enum { ENOUGH = 2 };

struct making {
    struct jobs *jobs;
    const struct plan *plan;
    const struct sink_type *type;
    const struct sink *sink;
    const char *crash_dir;
    int attempt, model, task;
    double s_unit; /* share of one unit in the cost of its bundle */
    double s_step; /* of the bundle */
};

static bool is_done(const struct making *k, int64_t unit)
{
    const struct plan_unit *u = &k->plan->unit[unit];
    return k->type->has(k->sink, u->hi, u->lo);
}

static void push(const struct making *k, const int64_t *unit, int n, uint64_t crash_id)
{
    struct job job = {.model = k->model, .task = k->task, .attempt = k->attempt, .crash_id = crash_id};
    for (int i = 0; i < n; i++)
        if (!is_done(k, unit[i]))
            job.unit[job.n++] = unit[i];
    if (!job.n)
        return;
    job.id = plan_bundle_id(k->plan, job.unit, job.n);
    job.s_cost = k->s_unit * job.n;
    job.s_step = k->s_step;
    *MEM_PUSH(k->jobs->job, k->jobs->n, k->jobs->cap) = job;
}

/* A set that crashed twice is tried one setting at a time, then one unit at a time; a unit that crashed twice
 * alone is given up. The sets are those of the plan, so that what is done already does not hide the notes. */
static void add(const struct making *k, const int64_t *unit, int n)
{
    uint64_t id = plan_bundle_id(k->plan, unit, n);
    if (crash_notes(k->crash_dir, id) < ENOUGH) {
        push(k, unit, n, id);
        return;
    }
    if (n == 1) {
        if (!is_done(k, unit[0]))
            *MEM_PUSH(k->jobs->poison, k->jobs->n_poison, k->jobs->cap_poison) = unit[0];
        return;
    }
    bool one_setting = true;
    for (int i = 1; i < n; i++)
        one_setting = one_setting && k->plan->unit[unit[i]].setting == k->plan->unit[unit[0]].setting;
    for (int i = 0; i < n; i++) {
        int64_t part[PLAN_BATCH];
        int m = 0, setting = k->plan->unit[unit[i]].setting;
        bool seen = false;
        for (int b = 0; b < i; b++)
            seen = seen || (!one_setting && k->plan->unit[unit[b]].setting == setting);
        for (int b = i; b < (one_setting ? i + 1 : n); b++)
            if (k->plan->unit[unit[b]].setting == setting)
                part[m++] = unit[b];
        if (!seen)
            add(k, part, m);
    }
}

/* How many times faster than one core of a CPU; with little claim, as it only bounds a wait. */
static double cores_of(const struct ops *ops)
{
    return ops->gpu[0] ? 100 : ops->threads > 0 ? ops->threads : 1;
}

void jobs_open(struct jobs *j, const struct plan *p, const struct sink_type *type, const struct sink *sink,
               const char *crash_dir, int attempt, const struct ops *ops)
{
    *j = (struct jobs){0};
    struct making k = {j, p, type, sink, crash_dir, attempt, 0, 0, 0, 0};
    for (int64_t i = 0; i < p->n_bundle; i++) {
        const struct plan_bundle *b = &p->bundle[i];
        int64_t unit[PLAN_BATCH];
        for (int u = 0; u < b->n; u++)
            unit[u] = b->first + u;
        k.model = b->model;
        k.task = b->task;
        k.s_unit = b->s_cost / b->n;
        k.s_step = plan_step_s(p, b, ops->chunk) / cores_of(ops);
        add(&k, unit, b->n);
    }
    j->taken = mem_alloc((size_t)j->n + 1, sizeof *j->taken);
}

void jobs_close(struct jobs *j)
{
    free(j->job);
    free(j->taken);
    free(j->poison);
    *j = (struct jobs){0};
}

int jobs_take(struct jobs *j, int loaded)
{
    int first = -1;
    for (int i = 0; i < j->n; i++) {
        if (j->taken[i])
            continue;
        if (first < 0)
            first = i;
        if (loaded < 0 || j->job[i].model == loaded) {
            first = i;
            break;
        }
    }
    if (first >= 0) {
        j->taken[first] = true;
        j->n_taken++;
    }
    return first;
}
