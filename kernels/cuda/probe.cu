// One kernel of the table in CUDA: proves the toolchain (nvcc -arch=sm_90 -c). The CUDA table itself is a module.
//
// rmsnorm: out [T,D] = x / sqrt(mean(x^2) + eps) * (w + w_add), float32; one block per row, any number of threads
// that is a multiple of 32 up to 1024. The sum runs in a fixed order: each thread its stride, then a tree.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

__device__ float block_sum(float v)
{
    __shared__ float part[32];
    for (int step = 16; step > 0; step /= 2)
        v += __shfl_down_sync(0xffffffffu, v, step);
    if (threadIdx.x % 32 == 0)
        part[threadIdx.x / 32] = v;
    __syncthreads();
    v = threadIdx.x < blockDim.x / 32 ? part[threadIdx.x] : 0.0f;
    if (threadIdx.x < 32) {
        for (int step = 16; step > 0; step /= 2)
            v += __shfl_down_sync(0xffffffffu, v, step);
        if (threadIdx.x == 0)
            part[0] = v;
    }
    __syncthreads();
    return part[0];
}

__global__ void rmsnorm_kernel(float *out, const float *x, const float *w, int64_t D, float eps, float w_add)
{
    const float *row = x + blockIdx.x * D;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x)
        sum += row[i] * row[i];
    float r = rsqrtf(block_sum(sum) / static_cast<float>(D) + eps);
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x)
        out[blockIdx.x * D + i] = row[i] * r * (w[i] + w_add);
}

} // namespace

extern "C" int kvs_probe_rmsnorm(float *out, const float *x, const float *w, int64_t T, int64_t D, float eps,
                                 float w_add, cudaStream_t stream)
{
    rmsnorm_kernel<<<static_cast<unsigned>(T), 256, 0, stream>>>(out, x, w, D, eps, w_add);
    return cudaGetLastError() == cudaSuccess ? 0 : -1;
}
