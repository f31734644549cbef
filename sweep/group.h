/* The start of a run on several ranks: every GPU has one rank, and the weights that several ranks begin with
 * are read once. */
#ifndef KVS_SWEEP_GROUP_H
#define KVS_SWEEP_GROUP_H

#include "sweep/farm.h"
#include "sweep/jobs.h"

/* Every rank calls this, those whose worker did not open (`ok` false) too. `jobs`: what is to be done, on
 * rank 0 (NULL: nothing). Ranks that would begin with the same model load it together where that saves
 * reading: on GPUs, and on CPUs that do not share memory. A model that cannot be loaded is left to its
 * first job, which tells why. ERR_INPUT on all ranks if two share a GPU without leave; ERR_AGAIN, and
 * link->lost, if a rank is lost on the way. */
int group_start(struct link *l, struct worker *w, bool ok, const struct jobs *jobs,
                const struct farm_options *opt);

#endif
