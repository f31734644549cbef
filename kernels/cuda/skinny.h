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
    int64_t T, N, K;
    /* Where sums go, rounded to their dtype: columns [upto[i-1], upto[i]) to out[i], dense; data NULL:
     * nowhere. */
    void *out[3];
    int64_t upto[3]; /* the last used one is N */
    enum dtype out_dtype;
    enum dtype more_dtype;
    void *sum; /* [T,N] of more_dtype += the rounded sums; NULL */
    void *mid; /* [T,N/2] of more_dtype = silu(left half) * right half, of the rounded sums; NULL */
};
/* Whether the kernel can do it: t is the dtype of x and w. */
bool skinny_fits(const struct skinny *p, enum dtype t);
void skinny_run(struct cuda *c, const struct skinny *p, enum dtype t);

#endif
