/* Scores of the examples of one task, or of the same examples' differences between two settings, and what
 * they say of the mean: over one task, or over several that weigh the same. */
#ifndef KVS_HDF5IO_STATS_SAMPLE_H
#define KVS_HDF5IO_STATS_SAMPLE_H

#include "hdf5io/stats_interval.h"

enum { STATS_RESAMPLES = 5000 };

/* How often each of n examples is drawn in each resample; made once for every n. */
struct resampler {
    struct resample_counts *of;
    int n, cap;
};
void resampler_free(struct resampler *r);

enum sample_kind {
    SAMPLE_SCORES,      /* in 0 … 1 */
    SAMPLE_DIFFERENCES, /* in -1 … 1 */
    SAMPLE_UNBOUNDED,   /* no interval where resampling cannot give one */
};
struct sample {
    enum sample_kind kind;
    const double *value; /* [n], borrowed */
    int64_t n, up, down; /* values of 1 and of -1 */
    bool whole;          /* every value is -1, 0 or 1 */
    double mean, var;    /* variance of the mean; NaN for n < 2 */
    /* [STATS_RESAMPLES] of every resample: mean, and variance of the mean (0: no spread); owned, when first
     * needed */
    double *mean_of, *var_of;
    int64_t n_spread; /* resamples with a spread */
};
void sample_init(struct sample *s, enum sample_kind kind, const double *value, int64_t n);
void sample_free(struct sample *s);

/* The mean of the n samples' means with its 95 % interval; all have one kind and at least one value.
 *   One sample: fewer than two values give none; values of 0 and 1 Wilson's, differences of -1, 0 and 1
 *   Tango's; others bootstrap-t (Efron 1982; Hall 1988): 5,000 resamples of the sample's size, each giving
 *   (mean - observed mean) / standard error, whose 2.5 % and 97.5 % points stand in for those of the normal
 *   distribution; of differences, the standard error is that with one more in each direction among them (see
 *   unseen_pair). Where the values are all equal, or fewer than 95 % of the resamples have a spread, Wilson's
 *   with the mean as proportion ((mean + 1) / 2 for differences): wider than needed, since no distribution on
 *   0 … 1 spreads more than that of 0 and 1.
 *   Several: bootstrap-t with resamples within each sample; where one of them is as above, their own
 *   intervals combined (Zou and Donner 2008, "MOVER"). */
struct interval sample_interval(struct sample *const *s, int n, struct resampler *r);

#endif
