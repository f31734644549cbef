/* Runs a plan over all ranks. Rank 0 hands out bundles, computes too, and alone writes the results: it serves
 * the others from the runner's poll hook, between decode steps. Bundles go longest first, to ranks that have
 * their model loaded where possible. What is in the file already is not computed again. */
#ifndef KVS_SWEEP_FARM_H
#define KVS_SWEEP_FARM_H

#include "sweep/link.h"
#include "sweep/plan.h"

struct farm_options {
    const char *output;
    const char *resume; /* the command that goes on with this run, for messages */
    const char *version, *git_commit;
    bool quiet;
    bool share_gpu; /* several ranks may use one GPU */
    double s_wait;  /* until a rank that makes no progress counts as lost, see watch.h */
};
/* Every rank calls this with the same plan. Returns 0 when the grid is complete; ERR_* with one line on rank
 * 0 when it stopped early (other ranks return the same code and say nothing). */
int farm_run(struct link *l, const struct plan *plan, const struct farm_options *opt);

#endif
