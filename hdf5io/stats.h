/* Statistics over per-example scores. All resampling is seeded: equal input gives equal output. */
#ifndef KVS_HDF5IO_STATS_H
#define KVS_HDF5IO_STATS_H

#include <stdint.h>

/* A mean with its 95 % percentile-bootstrap interval (Efron 1979; 2,000 resamples). NaN when there is
 * nothing. */
struct interval {
    double mean, lo, hi;
    int64_t n; /* examples behind it */
};

/* Values in groups (tasks): the mean of the groups' means; examples are resampled within their group.
 * value[at[g] .. at[g+1]) is group g. */
struct interval stats_mean(const double *value, const int64_t *at, int n_group);
/* The same for differences a - b of the same examples: a resample takes both or none. */
struct interval stats_paired(const double *a, const double *b, const int64_t *at, int n_group);
double stats_median(double *value, int64_t n); /* sorts in place; NaN for n == 0 */

#endif
