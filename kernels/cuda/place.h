/* Places of a block's threads among each other. */
#ifndef KVS_KERNELS_CUDA_PLACE_H
#define KVS_KERNELS_CUDA_PLACE_H

#include "kernels/cuda/cuda.h"

/* Every thread gets the sum of all, and in *before the sum of the threads before it. blockDim.x is a multiple
 * of 32; `part`: 32 numbers of shared memory, free again after the next barrier of the caller. */
DEVICE uint32_t block_place(uint32_t v, uint32_t *before, uint32_t *part)
{
    uint32_t upto = v, lane = threadIdx.x % WARP, all = 0;
    for (uint32_t step = 1; step < WARP; step *= 2) {
        uint32_t w = __shfl_sync(FULL, upto, (int)(lane >= step ? lane - step : lane));
        upto += lane >= step ? w : 0U;
    }
    __syncthreads();
    if (lane == WARP - 1)
        part[threadIdx.x / WARP] = upto;
    __syncthreads();
    *before = upto - v;
    for (uint32_t i = 0; i < blockDim.x / WARP; i++) {
        *before += i < threadIdx.x / WARP ? part[i] : 0U;
        all += part[i];
    }
    return all;
}

#endif
