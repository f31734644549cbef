/* What is left to do: the plan's bundles less the units that the file holds, split where they crashed. */
#ifndef KVS_SWEEP_JOBS_H
#define KVS_SWEEP_JOBS_H

#include "sweep/worker.h"

struct jobs {
    struct job *job; /* longest first */
    bool *taken;
    int n, cap, n_taken;
    int64_t *poison; /* units that crashed alone twice */
    int n_poison, cap_poison;
};
/* `ops`: what the ranks compute on, for the time that a step may take. */
void jobs_open(struct jobs *j, const struct plan *p, const struct sink_type *type, const struct sink *sink,
               const char *crash_dir, int attempt, const struct ops *ops);
void jobs_close(struct jobs *j);
/* Takes the next job for a rank that has `loaded` (-1: none): the longest of that model, else the longest.
 * -1: none is left. */
int jobs_take(struct jobs *j, int loaded);

#endif
