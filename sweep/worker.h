/* One rank's engine: computes the units of a job and fills in what only the sweep knows. */
#ifndef KVS_SWEEP_WORKER_H
#define KVS_SWEEP_WORKER_H

#include "sweep/link.h"
#include "sweep/plan.h"

/* Units to compute together. */
struct job {
    int64_t unit[PLAN_BATCH]; /* of the plan */
    int32_t n, model, task, attempt;
    uint64_t id;       /* XXH3-64 of its unit ids */
    uint64_t crash_id; /* under which crash notes are kept */
    double s_cost;
    double s_step; /* seconds that one step of it may take, by the plan */
};

struct worker {
    struct runner *runner;
    const struct plan *plan;
    struct poll poll; /* of this rank, also while weights are read */
    int rank, loaded;    /* model of the plan, or -1 */
    uint64_t weights[2]; /* weights_xxh3 of that model, 0 where it is not known */
};

int worker_open(struct worker *w, const struct link *l, const struct plan *plan, int (*poll)(void *),
                void *ctx);
void worker_close(struct worker *w);
/* out: [job->n] records, owned by the caller. A negative return means that the run cannot go on (or was told
 * to stop): nothing of the job counts. */
int worker_run(struct worker *w, const struct job *job, struct record *out);
/* Loads the model of the plan; with the other ranks of a group if there is one (comm.h), or NULL. */
int worker_load(struct worker *w, int model, struct comm *c);
/* A record of a unit that could not be computed. */
void worker_failed(const struct plan *p, int64_t unit, enum record_status status, const char *text,
                   struct record *r);

#endif
