// Rows: embed, norms, elementwise layers, rotary positions. One value per thread where rows do not matter,
// one block per row where they do. Values are read and written in their dtype, arithmetic is f32.
#include "kernels/cuda/cuda.h"

#define THREADS 256

KERNEL convert_kernel(void *dst, enum dtype to, const void *src, enum dtype from, int64_t n)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        store(dst, to, i, load(src, from, i));
}

// Enough blocks to fill any card; the rest is a loop.
static unsigned grid_of(int64_t n)
{
    unsigned b = blocks_of(n, THREADS);
    return b < 8192 ? b : 8192;
}

void rows_convert(struct cuda *c, void *dst, enum dtype to, const void *src, enum dtype from, int64_t n)
{
    if (n)
        LAUNCH(c, convert_kernel, grid_of(n), THREADS, 0, dst, to, src, from, n);
}

KERNEL embed_kernel(struct tensor out, struct tensor table, const int32_t *ids, float scale)
{
    int64_t D = table.n[1], t = blockIdx.x, row = ids[t];
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x)
        store(out.data, out.dtype, t * D + i, scale * load(table.data, table.dtype, row * D + i));
}

void rows_embed(struct ops *o, struct tensor out, const struct tensor *table, const int32_t *ids, float scale)
{
    struct cuda *c = cuda_of(o);
    int64_t T = out.n[0], most = 65536, width = out.n[1];
    for (int64_t t = 0; t < T; t += most) {
        int64_t n = T - t < most ? T - t : most;
        const int32_t *dev = (const int32_t *)cuda_args(c, ids + t, (size_t)n * sizeof *ids);
        struct tensor part = tensor_rows(&out, t, n);
        part.n[1] = width;
        if (dev)
            LAUNCH(c, embed_kernel, (unsigned)n, THREADS, 0, part, *table, dev, scale);
    }
}

KERNEL rmsnorm_kernel(struct tensor out, struct tensor x, const float *w, float eps, float w_add)
{
    __shared__ float part[32];
    int64_t D = x.n[1], at = (int64_t)blockIdx.x * D;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x) {
        float v = load(x.data, x.dtype, at + i);
        sum += v * v;
    }
    float r = 1.0f / sqrtf(block_sum(sum, part) / (float)D + eps);
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x)
        store(out.data, out.dtype, at + i, load(x.data, x.dtype, at + i) * r * (w[i] + w_add));
}

void rows_rmsnorm(struct ops *o, struct tensor out, struct tensor x, const float *w, float eps, float w_add)
{
    if (x.n[0])
        LAUNCH(cuda_of(o), rmsnorm_kernel, (unsigned)x.n[0], THREADS, 0, out, x, w, eps, w_add);
}

KERNEL layernorm_kernel(struct tensor out, struct tensor x, const float *w, const float *b, float eps)
{
    __shared__ float part[32];
    int64_t D = x.n[1], at = (int64_t)blockIdx.x * D;
    float sum = 0.0f, square = 0.0f;
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x)
        sum += load(x.data, x.dtype, at + i);
    float mean = block_sum(sum, part) / (float)D;
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x) {
        float v = load(x.data, x.dtype, at + i) - mean;
        square += v * v;
    }
    float r = 1.0f / sqrtf(block_sum(square, part) / (float)D + eps);
    for (int64_t i = threadIdx.x; i < D; i += blockDim.x)
        store(out.data, out.dtype, at + i, (load(x.data, x.dtype, at + i) - mean) * r * w[i] + b[i]);
}

void rows_layernorm(struct ops *o, struct tensor out, struct tensor x, const float *w, const float *b,
                    float eps)
{
    if (x.n[0])
        LAUNCH(cuda_of(o), layernorm_kernel, (unsigned)x.n[0], THREADS, 0, out, x, w, b, eps);
}

KERNEL add_kernel(struct tensor x, struct tensor y, int64_t n)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x)
        store(x.data, x.dtype, i, load(x.data, x.dtype, i) + load(y.data, y.dtype, i));
}

void rows_add(struct ops *o, struct tensor x, struct tensor y)
{
    int64_t n = tensor_count(&x);
    if (n)
        LAUNCH(cuda_of(o), add_kernel, grid_of(n), THREADS, 0, x, y, n);
}

KERNEL swiglu_kernel(struct tensor out, struct tensor gate_up, int64_t n)
{
    int64_t F = out.n[1];
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t at = i / F * 2 * F + i % F;
        float gate = load(gate_up.data, gate_up.dtype, at), up = load(gate_up.data, gate_up.dtype, at + F);
        store(out.data, out.dtype, i, gate / (1.0f + expf(-gate)) * up);
    }
}

void rows_swiglu(struct ops *o, struct tensor out, struct tensor gate_up)
{
    int64_t n = tensor_count(&out);
    if (n)
        LAUNCH(cuda_of(o), swiglu_kernel, grid_of(n), THREADS, 0, out, gate_up, n);
}

KERNEL gelu_kernel(struct tensor out, struct tensor x, int64_t n)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        float a = load(x.data, x.dtype, i);
        store(out.data, out.dtype, i, 0.5f * a * (1.0f + erff(a * 0.70710678f)));
    }
}

void rows_gelu(struct ops *o, struct tensor out, struct tensor x)
{
    int64_t n = tensor_count(&x);
    if (n)
        LAUNCH(cuda_of(o), gelu_kernel, grid_of(n), THREADS, 0, out, x, n);
}

/* ------------------------------------------------------------------ rotary positions */

// One call's arguments on the device.
struct turn {
    struct tensor src, dst;
    const float *inv_freq;
    int64_t pos, fixed;
    int32_t half; // pairs that turn
    float mscale;
};

// Grid (rows, calls); a thread turns whole pairs, so in place is fine.
KERNEL rope_kernel(const struct turn *turns)
{
    const struct turn *a = &turns[blockIdx.y];
    int64_t H = a->src.n[1], d = a->src.n[2], t = blockIdx.x, half = a->half;
    if (t >= a->src.n[0])
        return;
    int64_t width = half + (d - 2 * half); // pairs, then what does not turn
    float pos = (float)(a->fixed >= 0 ? a->fixed : a->pos + t);
    for (int64_t i = threadIdx.x; i < H * width; i += blockDim.x) {
        int64_t at = (t * H + i / width) * d, k = i % width;
        if (k >= half) {
            int64_t from = at + k + half;
            store(a->dst.data, a->dst.dtype, from, load(a->src.data, a->src.dtype, from));
            continue;
        }
        float angle = pos * a->inv_freq[k];
        float c = cosf(angle) * a->mscale, s = sinf(angle) * a->mscale;
        float x = load(a->src.data, a->src.dtype, at + k), y = load(a->src.data, a->src.dtype, at + k + half);
        store(a->dst.data, a->dst.dtype, at + k, x * c - y * s);
        store(a->dst.data, a->dst.dtype, at + k + half, y * c + x * s);
    }
}

void rows_rope(struct ops *o, const struct rope_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    const int most = 256;
    struct turn part[most];
    for (int from = 0; from < n; from += most) {
        int m = n - from < most ? n - from : most;
        int64_t rows = 0;
        for (int i = 0; i < m; i++) {
            const struct rope_args *r = &a[from + i];
            part[i] = turn{r->src, r->dst, NULL, r->pos, r->fixed, 0, 1.0f};
            if (r->rope) {
                part[i].inv_freq = r->rope->inv_freq;
                part[i].half = r->rope->n_rot / 2;
                part[i].mscale = r->rope->mscale;
            }
            rows = r->src.n[0] > rows ? r->src.n[0] : rows;
        }
        const struct turn *dev = (const struct turn *)cuda_args(c, part, (size_t)m * sizeof *part);
        if (dev && rows)
            LAUNCH(c, rope_kernel, dim3((unsigned)rows, (unsigned)m), THREADS, 0, dev);
    }
}
