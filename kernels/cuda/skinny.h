/* Products with few rows (decode steps), see skinny.cu. */
#ifndef KVS_KERNELS_CUDA_SKINNY_H
#define KVS_KERNELS_CUDA_SKINNY_H

#include "kernels/cuda/cuda.h"

#define SKINNY_ROWS     32 /* most rows of x for 16-bit weights */
#define SKINNY_ROWS_F32 4

/* out [T,N] = x [T,K] w^T + bias; x and w have one dtype, sums are f32 and rounded once. */
struct skinny {
    const void *x, *w;
    const float *bias; /* [N] or NULL */
    void *out, *sum;   /* sum [T,N] += out, after rounding; NULL */
    void *mid;         /* [T,N/2] = silu(out[:, :N/2]) * out[:, N/2:], after rounding; NULL */
    int64_t T, N, K;
    enum dtype out_dtype, sum_dtype, mid_dtype;
};
/* Whether the kernel can do it: t is the dtype of x and w. */
bool skinny_fits(const struct skinny *p, enum dtype t);
void skinny_run(struct cuda *c, const struct skinny *p, enum dtype t);

#endif
