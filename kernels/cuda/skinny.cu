// Products with few rows: out [T,N] = x [T,K] w^T, bound by reading w once. The matrix unit does the
// arithmetic even for one row (its other columns are thrown away), because it is free there: an H100 delivers
// 7 weights a clock and SM, and with 16 or 32 rows plain multiply-adds could not keep up.
//
// A block owns 16 neighbouring rows of w (32 where T > 8, so that x, which every block reads, stays a
// fraction of the traffic) and 8 warps cut K among them in pieces of 128: 8 KiB in flight per warp at most, 2
// KiB of each row of w asked for together. The order of k inside the unit's fragments does not matter as long
// as w and x agree, so a lane's 16 bytes are 8 neighbouring k of one row: no shared memory, no ldmatrix.
// Parts of the warps are put together in order; how K is cut depends on K alone.
//
// Used instead of cuBLASLt up to SKINNY_ROWS rows: [4096,4096] gives 256 blocks (2 per SM of an H100) where
// tiles of 64 or 128 rows of w give 32 to 64, and no second launch has to put split sums together, round to
// the output's dtype or add a bias. From there on arithmetic counts and the library wins. f32 weights have no
// exact matrix unit: one warp per row of w, up to SKINNY_ROWS_F32 rows.
#include "kernels/cuda/mma.h"
#include "kernels/cuda/skinny.h"

#define THREADS 256
#define WARPS   (THREADS / WARP)
#define PIECE   128 // k of one warp between two turns of the others

DEVICE float rounded(enum dtype t, float x)
{
    return t == DT_F32 ? x : t == DT_F16 ? half_value(half_bits(x)) : brain_value(brain_bits(x));
}

// Row r (of MT * 16) of a block as a row of w. With a SwiGLU behind it, gate row f and up row F + f are 8
// apart.
template <int MT> DEVICE int64_t row_of(const struct skinny *p, int32_t r)
{
    if (!p->mid)
        return (int64_t)blockIdx.x * MT * 16 + r;
    int64_t f = (int64_t)blockIdx.x * MT * 8 + r / 16 * 8 + r % 8, F = p->N / 2;
    return f >= F ? p->N : r % 16 < 8 ? f : F + f;
}

// The finished sum of row n of w and row t of x, to where it belongs. Returns it as it was rounded.
DEVICE float finish(const struct skinny *p, int64_t t, int64_t n, float v)
{
    if (p->bias)
        v += p->bias[n];
    // Chosen by hand: an index into the parameters would move them to local memory.
    bool in0 = n < p->upto[0], in1 = n < p->upto[1];
    void *out = in0 ? p->out[0] : in1 ? p->out[1] : p->out[2];
    int64_t first = in0 ? 0 : in1 ? p->upto[0] : p->upto[1];
    int64_t end = in0 ? p->upto[0] : in1 ? p->upto[1] : p->upto[2];
    if (out)
        store(out, p->out_dtype, t * (end - first) + n - first, v);
    v = rounded(p->out_dtype, v);
    if (p->sum)
        store(p->sum, p->more_dtype, t * p->N + n, load(p->sum, p->more_dtype, t * p->N + n) + v);
    return v;
}

// A piece of rows of w for a lane, 32 k of each row with every step; from `left` k on there is nothing.
template <int ROWS, int STEPS>
DEVICE void load_piece(uint4 a[STEPS][ROWS], const uint16_t *const w[ROWS], int32_t left)
{
#pragma unroll
    for (int u = 0; u < STEPS; u++)
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            a[u][i] = u * 32 < left ? load_early((const uint4 *)(w[i] + u * 32)) : uint4{0, 0, 0, 0};
}

template <bool BF16, int MT, int NT>
static __global__ void __launch_bounds__(THREADS, MT == 1 ? 4 : 2) skinny_kernel(struct skinny p)
{
    const int UNROLL = PIECE / 32;
    __shared__ float part[WARPS][NT * 8][MT * 16];
    int32_t warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, q = lane % 4;
    const int STEP = WARPS * PIECE;
    // Rows that do not exist repeat the last one; nobody looks at their sums.
    const uint16_t *w[MT * 2], *x[NT];
    int32_t at = warp * PIECE + q * 8, left = (int32_t)p.K - at;
#pragma unroll
    for (int i = 0; i < MT * 2; i++) {
        int64_t row = row_of<MT>(&p, i / 2 * 16 + i % 2 * 8 + g);
        w[i] = (const uint16_t *)p.w + (row < p.N ? row : p.N - 1) * p.K + at;
    }
#pragma unroll
    for (int i = 0; i < NT; i++)
        x[i] = (const uint16_t *)p.x + (i * 8 + g < p.T ? i * 8 + g : p.T - 1) * p.K + at;
    float c[MT][NT][4] = {};
    uint4 a[UNROLL][MT * 2];
    load_piece<MT * 2, UNROLL>(a, w, left); // weights do not change: they come while the kernel ahead runs
    grid_begin();
    while (left > -q * 8) { // the same for all lanes
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
#pragma unroll
            for (int n = 0; n < NT; n++) {
                uint4 b = {0, 0, 0, 0};
                if (u * 32 < left)
                    b = *(const uint4 *)(const void *)(x[n] + u * 32);
                const uint32_t low[2] = {b.x, b.y}, high[2] = {b.z, b.w};
#pragma unroll
                for (int m = 0; m < MT; m++) {
                    const uint4 *r = &a[u][2 * m];
                    const uint32_t first[4] = {r[0].x, r[1].x, r[0].y, r[1].y};
                    const uint32_t second[4] = {r[0].z, r[1].z, r[0].w, r[1].w};
                    unit_mma<BF16>(c[m][n], first, low);
                    unit_mma<BF16>(c[m][n], second, high);
                }
            }
        }
        left -= STEP;
#pragma unroll
        for (int i = 0; i < MT * 2; i++)
            w[i] += STEP;
#pragma unroll
        for (int i = 0; i < NT; i++)
            x[i] += STEP;
        load_piece<MT * 2, UNROLL>(a, w, left);
    }
#pragma unroll
    for (int m = 0; m < MT; m++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                part[warp][n * 8 + q * 2 + e % 2][m * 16 + g + e / 2 * 8] = c[m][n][e];
    __syncthreads();
    for (int32_t i = threadIdx.x; i < (int32_t)p.T * MT * 16; i += THREADS) {
        int32_t t = i / (MT * 16), r = i % (MT * 16);
        int64_t row = row_of<MT>(&p, r);
        if (row >= p.N || (p.mid && r % 16 >= 8))
            continue;
        float v = 0.0f, up = 0.0f;
        for (int j = 0; j < WARPS; j++)
            v += part[j][t][r];
        v = finish(&p, t, row, v);
        if (!p.mid)
            continue;
        for (int j = 0; j < WARPS; j++)
            up += part[j][t][r + 8];
        up = finish(&p, t, row + p.N / 2, up);
        store(p.mid, p.more_dtype, t * (p.N / 2) + row, v / (1.0f + expf(-v)) * up);
    }
}

// f32: a warp per row of w.
KERNEL skinny_f32_kernel(struct skinny p)
{
    grid_begin();
    int64_t n = (int64_t)blockIdx.x * WARPS + threadIdx.x / WARP;
    int32_t lane = threadIdx.x % WARP;
    const float *w = (const float *)p.w + (n < p.N ? n : p.N - 1) * p.K;
    float sum[SKINNY_ROWS_F32] = {};
    for (int64_t k = lane * 4; k < p.K; k += WARP * 4) {
        uint4 a = load_early((const uint4 *)(w + k));
#pragma unroll
        for (int t = 0; t < SKINNY_ROWS_F32; t++) {
            const float *x = (const float *)p.x + (t < p.T ? t : p.T - 1) * p.K + k;
            sum[t] = fmaf(__uint_as_float(a.x), x[0], sum[t]);
            sum[t] = fmaf(__uint_as_float(a.y), x[1], sum[t]);
            sum[t] = fmaf(__uint_as_float(a.z), x[2], sum[t]);
            sum[t] = fmaf(__uint_as_float(a.w), x[3], sum[t]);
        }
    }
#pragma unroll
    for (int t = 0; t < SKINNY_ROWS_F32; t++) {
        float v = warp_sum(sum[t]);
        if (lane == t && t < p.T && n < p.N)
            finish(&p, t, n, v);
    }
}

template <bool BF16> static void launch(struct cuda *c, const struct skinny *p)
{
    unsigned narrow = blocks_of(p->N, 16), wide = blocks_of(p->N, 32);
    if (p->T <= 8)
        LAUNCH(c, (skinny_kernel<BF16, 1, 1>), narrow, THREADS, 0, *p);
    else if (p->T <= 16)
        LAUNCH(c, (skinny_kernel<BF16, 2, 2>), wide, THREADS, 0, *p);
    else
        LAUNCH(c, (skinny_kernel<BF16, 2, 4>), wide, THREADS, 0, *p);
}

bool skinny_fits(const struct skinny *p, enum dtype t)
{
    bool single = t == DT_F32;
    return p->T <= (single ? SKINNY_ROWS_F32 : SKINNY_ROWS) && p->K % (single ? 4 : 8) == 0 &&
           (uintptr_t)p->w % 16 == 0 && (uintptr_t)p->x % 16 == 0;
}

void skinny_run(struct cuda *c, const struct skinny *p, enum dtype t)
{
    if (t == DT_F32)
        LAUNCH(c, skinny_f32_kernel, blocks_of(p->N, WARPS), THREADS, 0, *p);
    else if (t == DT_F16)
        launch<false>(c, p);
    else
        launch<true>(c, p);
}
