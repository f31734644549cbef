/* A small grid for the tests of results files: settings x 2 tasks x 4 examples, one unit each, three to a
 * bundle. */
#ifndef KVS_TESTS_RESULTS_PLAN_H
#define KVS_TESTS_RESULTS_PLAN_H

#include "hdf5io/read.h"
#include "records.h"

struct grid {
    struct sink_plan plan;
    struct sink_setting setting[4];
    struct sink_task task[2];
    struct sink_example example[8];
    struct record *record; /* [n] all units of the grid, owned */
    int n;
};
/* n_setting 1..4; setting 2 is of a second model, whose name needs cleaning and then equals the first's. */
void grid_init(struct grid *g, int n_setting, uint64_t seed);
/* A grid of `copies` times as many examples per task, for measuring. */
void grid_init_wide(struct grid *g, int n_setting, uint64_t seed, int copies);
void grid_free(struct grid *g);
/* Puts units [from, to) that the sink has not, bundle by bundle. */
int grid_put(const struct grid *g, const struct sink_type *type, struct sink *s, int from, int to);
/* The record of the grid with this id, or NULL. */
const struct record *grid_find(const struct grid *g, uint64_t hi, uint64_t lo);

#endif
