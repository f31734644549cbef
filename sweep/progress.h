/* What a person sees while a sweep runs: a bar with ETA and running scores on a terminal, else a line every
 * ten seconds. */
#ifndef KVS_SWEEP_PROGRESS_H
#define KVS_SWEEP_PROGRESS_H

#include "hdf5io/means.h"
#include "sweep/plan.h"

struct progress {
    const struct plan *plan;
    struct means means;
    double *score; /* [setting, example of any task]; NaN: none yet */
    int *first;    /* [task + 1]: its first example in there */
    int64_t n_done, n_bad;
    double cost_all, cost_done;     /* of this run, by the plan's estimate */
    double s_start, s_said, s_last; /* clock: start, last line, last finished work */
    bool terminal, quiet;
    int64_t n_said;
};
void progress_open(struct progress *g, const struct plan *plan, bool quiet);
void progress_close(struct progress *g);
/* A finished unit; `before`: it was there when the run started. */
void progress_unit(struct progress *g, const struct record *r, bool before);
/* Seconds of estimated cost that this run has ahead, and has done. */
void progress_ahead(struct progress *g, double cost);
void progress_cost(struct progress *g, double cost);
void progress_tick(struct progress *g, bool now);
/* "1h02m", "3m05s", "12s"; at least 32 bytes. */
void progress_duration(char out[32], double seconds);

#endif
