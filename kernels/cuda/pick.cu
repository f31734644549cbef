// What the engine wants to know of rows of logits: the best, the K best, log of the sum of exponentials,
// finite.
#include "kernels/cuda/cuda.h"

#include <string.h>

#define THREADS 512

// One row's answers on the device.
struct picked {
    int32_t best;
    float logsumexp;
    uint8_t finite;
};

// A candidate: NaN ranks lowest (with -infinity), equal ones by id.
struct best {
    float x;
    int32_t id;
};

DEVICE float rank_of(float x)
{
    return x != x ? -INFINITY : x;
}

DEVICE bool before(struct best a, struct best b)
{
    return a.x > b.x || (a.x == b.x && a.id < b.id);
}

DEVICE struct best block_best(struct best v, struct best *part)
{
    for (int step = 16; step > 0; step /= 2) {
        struct best w;
        w.x = __shfl_xor_sync(FULL, v.x, step);
        w.id = __shfl_xor_sync(FULL, v.id, step);
        if (before(w, v))
            v = w;
    }
    __syncthreads();
    if (threadIdx.x % WARP == 0)
        part[threadIdx.x / WARP] = v;
    __syncthreads();
    v = part[0];
    for (unsigned i = 1; i < blockDim.x / WARP; i++)
        if (before(part[i], v))
            v = part[i];
    return v;
}

DEVICE double block_sum_double(double v, double *part)
{
    __syncthreads();
    part[threadIdx.x] = v;
    __syncthreads();
    for (unsigned step = THREADS / 2; step > 0; step /= 2) {
        if (threadIdx.x < step)
            part[threadIdx.x] += part[threadIdx.x + step];
        __syncthreads();
    }
    return part[0];
}

// One block per row. The K best come one by one: each pass finds the best one behind the last.
KERNEL pick_kernel(const float *logits, int64_t V, int32_t K, struct picked *out, int32_t *top_id,
                   float *top_logit)
{
    __shared__ struct best part[32];
    __shared__ double sums[THREADS];
    const float *x = logits + blockIdx.x * V;
    struct best none = {-INFINITY, INT32_MAX}, top = none, real = none;
    float bad = 0.0f;
    for (int64_t i = threadIdx.x; i < V; i += blockDim.x) {
        struct best v = {x[i], (int32_t)i};
        bad = isfinite(v.x) ? bad : 1.0f;
        if (v.x == v.x && before(v, real))
            real = v;
    }
    real = block_best(real, part);
    int32_t id = real.id == INT32_MAX ? 0 : real.id; // all NaN: the first
    double sum = 0.0, high = (double)x[id];
    for (int64_t i = threadIdx.x; i < V; i += blockDim.x)
        sum += exp((double)x[i] - high);
    sum = block_sum_double(sum, sums);
    double n_bad = block_sum_double((double)bad, sums); // how many threads saw one
    if (threadIdx.x == 0) {
        out[blockIdx.x].best = id;
        out[blockIdx.x].logsumexp = (float)(high + log(sum));
        out[blockIdx.x].finite = n_bad == 0.0;
    }
    for (int32_t k = 0; k < K; k++) {
        struct best next = none;
        for (int64_t i = threadIdx.x; i < V; i += blockDim.x) {
            struct best v = {rank_of(x[i]), (int32_t)i};
            if ((k == 0 || before(top, v)) && before(v, next))
                next = v;
        }
        top = block_best(next, part);
        if (threadIdx.x == 0) {
            top_id[blockIdx.x * K + k] = top.id;
            top_logit[blockIdx.x * K + k] = x[top.id];
        }
    }
}

void pick_run(struct ops *o, const struct pick_args *a)
{
    struct cuda *c = cuda_of(o);
    int64_t T = a->logits.n[0], V = a->logits.n[1], K = a->n_top;
    if (!T)
        return;
    size_t row = sizeof(struct picked) + (size_t)K * 8, bytes = (size_t)T * row;
    char *dev = (char *)cuda_scratch(c, SCRATCH_PICK, bytes);
    char *host = (char *)pool_take(c->pool[PLACE_HOST], bytes);
    if (dev && host) {
        struct picked *p = (struct picked *)(void *)dev, *q = (struct picked *)(void *)host;
        int32_t *id = (int32_t *)(void *)(p + T);
        float *top = (float *)(void *)(id + T * K);
        LAUNCH(c, pick_kernel, (unsigned)T, THREADS, 0, (const float *)a->logits.data, V, a->n_top, p, id,
               top);
        memset(host, 0, bytes);
        if (cuda_ok(c, cudaMemcpyAsync(host, dev, bytes, cudaMemcpyDeviceToHost, c->stream), "copying picks"))
            cuda_ok(c, cudaStreamSynchronize(c->stream), "kernel pick_kernel or one before it");
        for (int64_t t = 0; t < T; t++) {
            a->best[t] = q[t].best;
            a->logsumexp[t] = q[t].logsumexp;
            a->finite[t] = q[t].finite;
        }
        if (K) {
            memcpy(a->top_id, q + T, (size_t)(T * K) * 4);
            memcpy(a->top_logit, (int32_t *)(void *)(q + T) + T * K, (size_t)(T * K) * 4);
        }
    } else if (!host) {
        cuda_fail(c, ERR_NOMEM, "no host memory for picks");
    }
    if (host)
        pool_give(c->pool[PLACE_HOST], host);
}
