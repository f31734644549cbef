/* The limits of this machine that speed figures are held against. */
#ifndef KVS_KERNELS_BENCH_H
#define KVS_KERNELS_BENCH_H

#include <stdint.h>

#include "kernels/ops.h"

/* Bytes per second that `threads` threads read from memory together: sums over 512 MiB, the best of four
 * passes. 0 if there is no memory for it. */
double bench_read_rate(int threads);

/* One product, x [m,k] times w^T [k,n], done `count` times. */
struct bench_product {
    int64_t m, k, n, count;
};

/* Floating-point operations per second that oneDNN reaches on these products alone, one after the other, with
 * its own choice of layout and cutting, weights packed before: the sum of 2 m k n over the sum of the times,
 * each product timed for at least `seconds` / n. x and weights are bf16 or f32, y is f32. 0 without oneDNN.
 */
double bench_product_rate(const struct bench_product *p, int n, enum dtype dtype, int threads,
                          double seconds);

#endif
