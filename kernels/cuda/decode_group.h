/* The layout that the published settings of KIVI make: keys in codes along groups of 32 keys, values in codes
 * along groups of 32 channels, both of the same number of bits. A whole group at a time, so that a lane reads
 * 16 bytes of codes where blocks of 16 keys would read 4. */
#ifndef KVS_KERNELS_CUDA_DECODE_GROUP_H
#define KVS_KERNELS_CUDA_DECODE_GROUP_H

#include "kernels/cuda/decode.h"

/* Scores of the two blocks of the group that begins with row `row` of the keys (score_chunk's s). */
template <int D, int NT, int BITS>
DEVICE void score_group(float s[2][NT][4], const uint4 q[D / 32][NT], const struct decode_side *side,
                        int32_t row, const struct decode_shape *x)
{
    const int32_t at = (row / DECODE_GROUP * x->Hk + x->h) * D + threadIdx.x % 4 * 8;
    const struct channel_place place = channel_place_of<BITS>();
    const uint4 *codes = (const uint4 *)side->data + (int64_t)at * BITS / 4;
#pragma unroll
    for (int u = 0; u < D / 32; u++) {
        uint4 scales = load_eight(side->scale + at + u * 32), mins = load_eight(side->min + at + u * 32);
        const uint32_t scale[4] = {scales.x, scales.y, scales.z, scales.w},
                       min[4] = {mins.x, mins.y, mins.z, mins.w};
#pragma unroll
        for (int half = 0; half < 2; half++) { /* 4 channels, BITS words of 32 keys each */
            uint32_t w[4 * BITS];
#pragma unroll
            for (int i = 0; i < BITS; i++) {
                uint4 v = codes[u * 8 * BITS + half * BITS + i];
                w[4 * i] = v.x, w[4 * i + 1] = v.y, w[4 * i + 2] = v.z, w[4 * i + 3] = v.w;
            }
#pragma unroll
            for (int block = 0; block < 2; block++) {
                uint32_t k[4];
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    const int pair = half * 2 + i / 2;
                    const uint32_t *one = w + i / 2 * 2 * BITS + block * BITS / 2;
                    k[i] =
                        half2_fma(channel_codes<BITS>(one, one + BITS, i % 2, place), scale[pair], min[pair]);
                }
#pragma unroll
                for (int n = 0; n < NT; n++) {
                    const uint32_t low[2] = {q[u][n].x, q[u][n].y}, high[2] = {q[u][n].z, q[u][n].w};
                    unit_mma<false>(s[block][n], k, half ? high : low);
                }
            }
        }
    }
}

/* What a lane reads of a block's values: codes of its chunk of every 64 channels, all scales and minima, of
 * its four keys (value_key). */
template <int D> struct value_group {
    uint32_t codes[D / 64][4], scale[D / 64][4], min[D / 64][4];
};
template <int D> DEVICE void group_bounds(uint32_t out[D / 64][4], int i, const uint16_t *from)
{
    if (D == 128) {
        uint2 v = *(const uint2 *)(const void *)from;
        out[0][i] = v.x, out[D / 64 - 1][i] = v.y;
    } else {
        out[0][i] = *(const uint32_t *)(const void *)from;
    }
}
template <int D, int BITS>
DEVICE void values_group(struct value_group<D> *y, const struct decode_side *side, int32_t row,
                         const struct decode_shape *x)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const int32_t at = (row + i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2) * x->Hk + x->h;
        const char *codes = (const char *)side->data + (int64_t)at * (D * BITS / 8);
#pragma unroll
        for (int s = 0; s < D / 64; s++)
            y->codes[s][i] = chunk_load<BITS>(codes, value_chunk(s));
        group_bounds<D>(y->scale, i, side->scale + at * (D / DECODE_GROUP));
        group_bounds<D>(y->min, i, side->min + at * (D / DECODE_GROUP));
    }
}

/* o += p v of a block, p the powers of its scores. */
template <int D, int NT, int BITS>
DEVICE void sums_group(float o[D / 16][NT][4], const struct value_group<D> *y, const uint32_t p[NT][2])
{
    const uint32_t pick = threadIdx.x % WARP / 16 ? 0x7632U : 0x5410U; /* the chunk's half of two scales */
#pragma unroll
    for (int s = 0; s < D / 64; s++) {
        uint32_t v[4][4];
#pragma unroll
        for (int i = 0; i < 4; i += 2)
            turn_pair<BITS>(v, i, KIND_PLAIN, y->codes[s][i], y->codes[s][i + 1],
                            bytes_of(y->scale[s][i], y->scale[s][i + 1], pick),
                            bytes_of(y->min[s][i], y->min[s][i + 1], pick));
        decode_sums<false, NT>(o + 4 * s, v, p);
    }
}

#endif
