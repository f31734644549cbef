// Rows: embed, norms, elementwise layers, rotary positions. Values are read and written in their dtype, eight
// at a time (16 bytes of 16-bit values) where their places allow it; arithmetic is f32. One block per row
// where rows matter.
//
// Counted for a prompt of Llama-3-8B in 16 bits, KiB of a token and layer besides products and attention:
// norms 32, rotation and caches 24, swiglu 84, the residual 16 more in products that add (matmul.cu); q, k
// and v come apart from their products. With 8192 tokens and 32 layers that is 42 GB, 14 ms at 3 TB/s, beside
// about 165 ms of products at 700 TFLOP/s and 35 to 52 ms of attention: three quarters of the product rate,
// if all keep to it.
#include "kernels/cuda/cuda.h"

#define THREADS 256

/* ------------------------------------------------------------------ several values at a time */

// W values from i on, W = 1 or 8; eight lie at a multiple of 16 bytes.
template <int W> DEVICE void load_some(float v[W], const void *p, enum dtype t, int64_t i)
{
    if constexpr (W == 1) {
        v[0] = load(p, t, i);
    } else {
        const uint4 *at = (const uint4 *)(const void *)((const char *)p + i * (t == DT_F32 ? 4 : 2));
        uint4 a = at[0], b = t == DT_F32 ? at[1] : a;
        uint32_t x[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
        for (int e = 0; e < W; e++) {
            uint16_t h = (uint16_t)(x[e / 2] >> e % 2 * 16);
            v[e] = t == DT_F32 ? __uint_as_float(x[e]) : t == DT_F16 ? half_value(h) : brain_value(h);
        }
    }
}
template <int W> DEVICE void store_some(void *p, enum dtype t, int64_t i, const float v[W])
{
    if constexpr (W == 1) {
        store(p, t, i, v[0]);
    } else {
        uint32_t x[8];
#pragma unroll
        for (int e = 0; e < W; e++)
            x[e] = t == DT_F32 ? __float_as_uint(v[e]) : t == DT_F16 ? half_bits(v[e]) : brain_bits(v[e]);
        uint4 *at = (uint4 *)(void *)((char *)p + i * (t == DT_F32 ? 4 : 2));
        if (t == DT_F32) {
            at[0] = uint4{x[0], x[1], x[2], x[3]};
            at[1] = uint4{x[4], x[5], x[6], x[7]};
        } else {
            at[0] = uint4{x[0] | x[1] << 16, x[2] | x[3] << 16, x[4] | x[5] << 16, x[6] | x[7] << 16};
        }
    }
}

// May the values be taken eight at a time? `n` is what starts lie apart.
static bool eight(int64_t n, const void *a, const void *b, const void *c)
{
    return n % 8 == 0 && ((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) % 16 == 0;
}
// The kernel for eight values at a time, or for one.
#define LAUNCH_SOME(c, some, kernel, grid, shared, ...)                                                      \
    do {                                                                                                     \
        if (some)                                                                                            \
            LAUNCH(c, kernel<8>, grid, THREADS, shared, __VA_ARGS__);                                        \
        else                                                                                                 \
            LAUNCH(c, kernel<1>, grid, THREADS, shared, __VA_ARGS__);                                        \
    } while (0)

// Enough blocks to fill any GPU; the rest is a loop.
static unsigned grid_of(int64_t n)
{
    unsigned b = blocks_of(n, THREADS);
    return b < 8192 ? b : 8192;
}

template <int W> KERNEL convert_kernel(void *dst, enum dtype to, const void *src, enum dtype from, int64_t n)
{
    grid_begin();
    float v[W];
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < n;
         i += (int64_t)gridDim.x * blockDim.x * W) {
        load_some<W>(v, src, from, i);
        store_some<W>(dst, to, i, v);
    }
}

void rows_convert(struct cuda *c, void *dst, enum dtype to, const void *src, enum dtype from, int64_t n)
{
    bool some = eight(n, dst, src, NULL);
    if (n)
        LAUNCH_SOME(c, some, convert_kernel, grid_of(some ? n / 8 : n), 0, dst, to, src, from, n);
}

KERNEL embed_kernel(struct tensor out, struct tensor table, const int32_t *ids, float scale)
{
    grid_begin();
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

template <int W>
KERNEL rmsnorm_kernel(struct tensor out, struct tensor x, const float *w, float eps, float w_add)
{
    grid_begin();
    __shared__ float part[32];
    int64_t D = x.n[1], at = (int64_t)blockIdx.x * D;
    float sum = 0.0f, v[W], f[W];
    for (int64_t i = threadIdx.x * W; i < D; i += blockDim.x * W) {
        load_some<W>(v, x.data, x.dtype, at + i);
#pragma unroll
        for (int e = 0; e < W; e++)
            sum += v[e] * v[e];
    }
    float r = 1.0f / sqrtf(block_sum(sum, part) / (float)D + eps);
    for (int64_t i = threadIdx.x * W; i < D; i += blockDim.x * W) { // read again from the cache
        load_some<W>(v, x.data, x.dtype, at + i);
        load_some<W>(f, w, DT_F32, i);
#pragma unroll
        for (int e = 0; e < W; e++)
            v[e] = v[e] * r * (f[e] + w_add);
        store_some<W>(out.data, out.dtype, at + i, v);
    }
}

void rows_rmsnorm(struct ops *o, struct tensor out, struct tensor x, const float *w, float eps, float w_add)
{
    bool some = eight(x.n[1], out.data, x.data, w);
    if (x.n[0])
        LAUNCH_SOME(cuda_of(o), some, rmsnorm_kernel, (unsigned)x.n[0], 0, out, x, w, eps, w_add);
}

KERNEL layernorm_kernel(struct tensor out, struct tensor x, const float *w, const float *b, float eps)
{
    grid_begin();
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

template <int W> KERNEL add_kernel(struct tensor x, struct tensor y, int64_t n)
{
    grid_begin();
    float a[W], b[W];
    for (int64_t i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W; i < n;
         i += (int64_t)gridDim.x * blockDim.x * W) {
        load_some<W>(a, x.data, x.dtype, i);
        load_some<W>(b, y.data, y.dtype, i);
#pragma unroll
        for (int e = 0; e < W; e++)
            a[e] += b[e];
        store_some<W>(x.data, x.dtype, i, a);
    }
}

void rows_add(struct ops *o, struct tensor x, struct tensor y)
{
    int64_t n = tensor_count(&x);
    bool some = eight(n, x.data, y.data, NULL);
    if (n)
        LAUNCH_SOME(cuda_of(o), some, add_kernel, grid_of(some ? n / 8 : n), 0, x, y, n);
}

// Grid (pieces of a row, rows).
template <int W> KERNEL swiglu_kernel(struct tensor out, struct tensor gate_up)
{
    grid_begin();
    int64_t F = out.n[1], i = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * W;
    float gate[W], up[W];
    if (i >= F)
        return;
    for (int64_t t = blockIdx.y; t < out.n[0]; t += gridDim.y) {
        load_some<W>(gate, gate_up.data, gate_up.dtype, t * 2 * F + i);
        load_some<W>(up, gate_up.data, gate_up.dtype, t * 2 * F + F + i);
#pragma unroll
        for (int e = 0; e < W; e++)
            gate[e] = gate[e] / (1.0f + expf(-gate[e])) * up[e];
        store_some<W>(out.data, out.dtype, t * F + i, gate);
    }
}

void rows_swiglu(struct ops *o, struct tensor out, struct tensor gate_up)
{
    int64_t T = out.n[0], F = out.n[1];
    bool some = eight(F, out.data, gate_up.data, NULL);
    dim3 grid(blocks_of(some ? F / 8 : F, THREADS), (unsigned)(T < 32768 ? T : 32768));
    if (T && F)
        LAUNCH_SOME(cuda_of(o), some, swiglu_kernel, grid, 0, out, gate_up);
}

KERNEL gelu_kernel(struct tensor out, struct tensor x, int64_t n)
{
    grid_begin();
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
struct alignas(16) turn {
    struct tensor src, dst;
    const float *inv_freq;
    int64_t pos, fixed;
    int32_t half; // pairs that turn
    float mscale;
};

// Grid (rows, calls); a thread turns whole pairs, so in place is fine. The angles of a row are the same for
// all heads: worked out once, in shared memory (cosines, sines).
template <int W> KERNEL rope_kernel(const struct turn *turns)
{
    BLOCK_SHARED(float, angles);
    __shared__ struct turn here;
    const struct turn *a = &here;
    args_early(&here, &turns[blockIdx.y], sizeof here);
    __syncthreads();
    int32_t H = (int32_t)a->src.n[1], d = (int32_t)a->src.n[2], half = a->half;
    int64_t t = blockIdx.x;
    float pos = (float)(a->fixed >= 0 ? a->fixed : a->pos + t), x[W], y[W];
    for (int32_t k = threadIdx.x; k < half; k += blockDim.x) {
        float angle = pos * load_early(a->inv_freq + k);
        angles[k] = cosf(angle) * a->mscale;
        angles[half + k] = sinf(angle) * a->mscale;
    }
    grid_begin();
    if (t >= a->src.n[0])
        return;
    __syncthreads();
    int32_t width = (half + (d - 2 * half)) / W; // of a head: pairs, then what does not turn
    for (int32_t i = threadIdx.x; i < H * width; i += blockDim.x) {
        int64_t at = (t * H + i / width) * d;
        int32_t k = i % width * W;
        if (k >= half) {
            load_some<W>(x, a->src.data, a->src.dtype, at + k + half);
            store_some<W>(a->dst.data, a->dst.dtype, at + k + half, x);
            continue;
        }
        load_some<W>(x, a->src.data, a->src.dtype, at + k);
        load_some<W>(y, a->src.data, a->src.dtype, at + k + half);
#pragma unroll
        for (int e = 0; e < W; e++) {
            float c = angles[k + e], s = angles[half + k + e], u = x[e];
            x[e] = u * c - y[e] * s;
            y[e] = y[e] * c + u * s;
        }
        store_some<W>(a->dst.data, a->dst.dtype, at + k, x);
        store_some<W>(a->dst.data, a->dst.dtype, at + k + half, y);
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
        int32_t half = 0;
        bool some = true;
        for (int i = 0; i < m; i++) {
            const struct rope_args *r = &a[from + i];
            part[i] = turn{r->src, r->dst, NULL, r->pos, r->fixed, 0, 1.0f};
            if (r->rope) {
                part[i].inv_freq = r->rope->inv_freq;
                part[i].half = r->rope->n_rot / 2;
                part[i].mscale = r->rope->mscale;
            }
            some = some && part[i].half % 8 == 0 && eight(r->src.n[2], r->src.data, r->dst.data, NULL);
            half = part[i].half > half ? part[i].half : half;
            rows = r->src.n[0] > rows ? r->src.n[0] : rows;
        }
        const struct turn *dev = (const struct turn *)cuda_args(c, part, (size_t)m * sizeof *part);
        if (dev && rows)
            LAUNCH_SOME(c, some, rope_kernel, dim3((unsigned)rows, (unsigned)m),
                        (size_t)half * 2 * sizeof(float), dev);
    }
}
