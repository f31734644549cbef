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
 * each product timed for at least `seconds` / n. x and weights are bf16 (f32 where oneDNN has no
 * bf16 on this processor) or f32, y is f32. 0 without oneDNN. */
double bench_product_rate(const struct bench_product *p, int n, enum dtype dtype, int threads,
                          double seconds);

/* The same two of any backend's device (GPUs): bytes per second that copying inside its memory moves,
 * read and written ones; and flop/s of its own products, random values, of as many rows (p[i].m, doubled as
 * long as that gives no more than 8192) as a run of a millisecond takes. 0 if there is no memory for it. */
double bench_copy_rate(struct ops *o);
/* Device memory (workspace, to be freed) with n values between 0.5 and 2 of either sign: zeros would be
 * quicker to multiply. NULL: none. */
void *bench_random(struct ops *o, int64_t n, enum dtype t);
double bench_backend_product_rate(struct ops *o, const struct bench_product *p, int n, enum dtype dtype);

#endif
