// Groups of values -> codes, scale, minimum, in fp16 op by op (ops.h, struct quant_args). Bit for bit the
// plain loops: every step rounds once, nothing is fused (-fmad=false), divisions are IEEE.
#include "kernels/cuda/cuda.h"

#define THREADS 128
#define MOST    128

struct group {
    int64_t at, stride; // first value in src, distance to the next
    int32_t n, bits;
    bool inverse;
};

DEVICE uint32_t quant_code(const struct group *g, float x, float scale, float min)
{
    float top = (float)((1 << g->bits) - 1), above = half_round(x - min);
    float q = half_round(g->inverse ? above * scale : above / scale);
    q = q > 0.0f ? q : 0.0f; // NaN too
    q = q < top ? q : top;
    uint32_t n = (uint32_t)q;
    float rest = q - (float)n;
    return n + (rest > 0.5f || (rest == 0.5f && (n & 1U)) ? 1U : 0U);
}

// One thread per group: it reads its values twice; neighbours in a warp read neighbouring channels (CHANNEL)
// or neighbouring groups (TOKEN).
DEVICE void quant_group(const struct quant_args *a, const struct group *g, int64_t index, uint8_t *codes)
{
    float mn = half_round(load(a->src.data, a->src.dtype, g->at)), mx = mn, top = (float)((1 << g->bits) - 1);
    for (int32_t i = 1; i < g->n; i++) {
        float x = half_round(load(a->src.data, a->src.dtype, g->at + i * g->stride));
        mn = x < mn ? x : mn;
        mx = x > mx ? x : mx;
    }
    float range = half_round(mx - mn);
    uint16_t scale = half_bits(g->inverse ? half_round(1.0f / range) * top : range / top),
             min = half_bits(mn);
    a->scale[index] = scale;
    a->min[index] = min;
    float s = half_value(scale), m = half_value(min);
    uint32_t word = 0;
    int32_t held = 0;
    for (int32_t i = 0; i < g->n; i++) {
        float x = half_round(load(a->src.data, a->src.dtype, g->at + i * g->stride));
        word |= quant_code(g, x, s, m) << held;
        for (held += g->bits; held >= 8; held -= 8, word >>= 8)
            *codes++ = (uint8_t)word;
    }
}

KERNEL quant_kernel(const struct quant_args *args)
{
    grid_begin();
    const struct quant_args *a = &args[blockIdx.y];
    int64_t H = a->src.n[1], d = a->src.n[2], G = a->group, count = a->src.n[0] * H * d / G;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count)
        return;
    struct group g = {0, 1, a->group, a->bits, a->inverse};
    g.at = a->layout == QUANT_TOKEN ? i * G : i / (H * d) * G * H * d + i % (H * d);
    g.stride = a->layout == QUANT_TOKEN ? 1 : H * d;
    quant_group(a, &g, i, (uint8_t *)a->codes + i * (G * a->bits / 8));
}

void quant_run(struct ops *o, const struct quant_args *a, int n)
{
    struct cuda *c = cuda_of(o);
    for (int from = 0; from < n; from += MOST) {
        int m = n - from < MOST ? n - from : MOST;
        int64_t groups = 0;
        for (int i = from; i < from + m; i++) {
            int64_t count = a[i].src.n[0] * a[i].src.n[1] * a[i].src.n[2] / a[i].group;
            groups = count > groups ? count : groups;
        }
        const struct quant_args *dev =
            (const struct quant_args *)cuda_args(c, a + from, (size_t)m * sizeof *a);
        if (dev && groups)
            LAUNCH(c, quant_kernel, dim3(blocks_of(groups, THREADS), (unsigned)m), THREADS, 0, dev);
    }
}
