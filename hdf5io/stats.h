/* Small statistics that the others stand on. Every random draw is seeded: equal input gives equal output. */
#ifndef KVS_HDF5IO_STATS_H
#define KVS_HDF5IO_STATS_H

#include <stdint.h>

/* Points of the standard normal distribution: two-sided 5 %, and a power of 80 %. */
#define STATS_Z95 1.959963984540054
#define STATS_Z80 0.8416212335729143

/* The next 64 random bits: SplitMix64 (Steele, Lea, Flood 2014). */
uint64_t stats_random(uint64_t *state);
/* The k-th smallest of n values, k from 0 (Hoare 1961); changes their order. */
double stats_select(double *value, int64_t n, int64_t k);
double stats_median(double *value, int64_t n); /* changes their order; NaN for n == 0 */

/* P values of one table adjusted for their number (Holm 1979). NaN is no member of the family and stays. */
void stats_holm(const double *p, int n, double *adjusted);

#endif
