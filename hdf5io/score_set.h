/* Scores of one setting, or differences between two, by task: what the statistics of a table are made from.
 */
#ifndef KVS_HDF5IO_SCORE_SET_H
#define KVS_HDF5IO_SCORE_SET_H

#include "hdf5io/means.h"
#include "hdf5io/stats_paired.h"

struct score_set {
    double *value; /* in the order in which they were added, tasks one after the other */
    int64_t n, cap;
    struct sample *sample; /* [n_task], after score_set_ready */
    struct means_sum *sum; /* [n_task] */
    int n_task;
};
void score_set_init(struct score_set *s, int n_task);
void score_set_free(struct score_set *s);
/* Tasks in rising order. */
void score_set_add(struct score_set *s, int task, double value);
void score_set_ready(struct score_set *s, enum sample_kind kind);

/* A task's or a group's score with its interval. */
struct interval score_set_task(struct score_set *s, const struct means *m, int task, struct resampler *r);
struct interval score_set_group(struct score_set *s, const struct means *m, const struct means_group *g,
                                struct resampler *r);
/* Differences of the n listed tasks together. */
struct comparison score_set_compare(struct score_set *s, const int *task, int n, struct resampler *r);

#endif
