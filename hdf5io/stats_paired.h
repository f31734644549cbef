/* Two settings on the same examples. */
#ifndef KVS_HDF5IO_STATS_PAIRED_H
#define KVS_HDF5IO_STATS_PAIRED_H

#include "hdf5io/stats_sample.h"

enum { STATS_FLIPS = 100000, STATS_FLIPS_EXACT = 16 };

enum test_kind { TEST_NONE, TEST_MCNEMAR, TEST_FLIPS_EXACT, TEST_FLIPS };
const char *test_name(enum test_kind kind); /* "mcnemar-exact", …: stable */

struct comparison {
    struct interval effect; /* mean difference */
    int64_t n_discordant;   /* examples whose scores differ */
    double p;               /* two-sided; NaN for fewer than two examples */
    double p_holm;          /* adjusted for the comparisons of a table by whoever makes it; NaN until then */
    /* Least difference that a sample like this one shows at two-sided 5 % with a power of 80 %; NaN where
     * fewer than 6 examples differ: no outcome of the test would be below 5 % then. */
    double detectable;
    enum test_kind test;
};

/* The mean of the n samples' mean differences (SAMPLE_DIFFERENCES, at least one value each). Differences of
 * -1, 0 and 1 in one sample: McNemar's exact test (1947). Others, and several samples: sign flips of every
 * difference (Fisher 1935), all of them where at most 16 examples differ, else 100,000 random ones, of which
 * the sample itself counts as one more. n 0: nothing but NaN. */
struct comparison sample_compare(struct sample *const *s, int n, struct resampler *r);

/* Two-sided exact p of McNemar's test. */
double stats_mcnemar(int64_t up, int64_t down);
/* Two-sided p of n addends x under flips of their signs. */
double stats_flips(const double *x, int64_t n, enum test_kind *kind);

#endif
