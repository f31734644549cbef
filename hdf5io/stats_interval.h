/* Intervals of 95 % that have a formula. */
#ifndef KVS_HDF5IO_STATS_INTERVAL_H
#define KVS_HDF5IO_STATS_INTERVAL_H

#include <stdbool.h>
#include <stdint.h>

enum interval_kind {
    INTERVAL_NONE,         /* fewer than two examples, or nothing to go by: lo and hi are NaN */
    INTERVAL_WILSON,       /* 0/1 scores */
    INTERVAL_TANGO,        /* differences of 0/1 scores */
    INTERVAL_BOOTSTRAP_T,  /* graded ones */
    INTERVAL_CONSERVATIVE, /* graded ones with too little spread to resample: Wilson's with the mean as
                              proportion */
    INTERVAL_COMBINED, /* several tasks, one of them like that: made of the tasks' own intervals; conservative
                        */
};
/* A mean with its interval. */
struct interval {
    double mean, lo, hi;
    int64_t n; /* examples behind it */
    enum interval_kind kind;
};
const char *interval_name(enum interval_kind kind); /* "wilson", …: stable */
/* Whether the interval is wider than the data would need if more was known of them. */
bool interval_conservative(const struct interval *i);

/* Proportion p of n > 0: the score interval (Wilson 1927). */
void interval_wilson(double p, double n, double *lo, double *hi);
/* Difference (up - down) / n of two proportions in n > 0 pairs, of which `up` are right on the first side
 * alone and `down` on the second alone: the score interval (Tango 1998, Statistics in Medicine 17, 891-908).
 */
void interval_tango(int64_t up, int64_t down, int64_t n, double *lo, double *hi);

#endif
