/* Keys and values of decode.cu: from caches, dense or compressed, straight into the operands of the matrix
 * unit. */
#ifndef KVS_KERNELS_CUDA_DECODE_H
#define KVS_KERNELS_CUDA_DECODE_H

#include "kernels/cuda/decode_job.h"
#include "kernels/cuda/mma.h"

/* A block of a piece: `n` keys from number `at` on stand at lo .. lo + n - 1 of 16 places. Codes along keys
 * are read 16 at a time, so places stand for rows skip + at - lo .. there. */
struct decode_block {
    const struct decode_piece *p;
    int32_t at, lo, n;
};

/* Rows of Hk * D values; this block's head is h. */
struct decode_shape {
    int32_t h, Hk;
};

/* The key at a place, as a number of the piece; places without one repeat one that is there. */
DEVICE int32_t decode_key(const struct decode_block *b, int32_t place)
{
    int32_t i = place - b->lo;
    return b->at + (i < 0 ? 0 : i < b->n ? i : b->n - 1);
}

DEVICE int32_t dense_row(const struct decode_side *side, int32_t row)
{
    return side->index ? side->index[row] : row;
}

DEVICE uint4 load_eight(const void *p)
{
    return *(const uint4 *)p;
}

template <bool BF16> DEVICE uint4 pack_eight(const float v[8])
{
    return uint4{unit_pair<BF16>(v[0], v[1]), unit_pair<BF16>(v[2], v[3]), unit_pair<BF16>(v[4], v[5]),
                 unit_pair<BF16>(v[6], v[7])};
}

/* ------------------------------------------------------------------ codes
 * Codes become f16 values two at a time, whatever the activations' dtype: scales and minima are f16, and so
 * are the products with q and the probabilities. */

/* Where the codes of a register's halves stand, below bit 8. Put into the mantissa of 1024, a code at bit i
 * makes 1024 + code 2^i; that times 2^-i, less 1024 2^-i, is the code. All of it is exact. */
struct code_place {
    uint32_t mask, times, less;
};
template <int BITS> DEVICE struct code_place code_place_at(uint32_t low, uint32_t high)
{
    const uint32_t ones = (1U << BITS) - 1U;
    return {ones << low | ones << high << 16, (15 - low) << 10 | (15 - high) << 26,
            (57 - low) << 10 | (57 - high) << 26};
}

DEVICE uint32_t code_pair(uint32_t x, struct code_place p)
{
    return half2_fma(bits_into(x, p.mask, 0x64006400U), p.times, p.less);
}

/* fp16(code / scale) where `over` is 1 / scale: the product in f32 rounds to the f16 of the quotient for
 * every f16 scale and every code up to 15 (tests/check_ops.c tries them all). */
DEVICE uint32_t quotient_pair(uint32_t code, const float over[2])
{
    return unit_pair<false>(half_value((uint16_t)code) * over[0],
                            half_value((uint16_t)(code >> 16)) * over[1]);
}

/* Codes -> their values: dequant(), rounded to f16. */
template <int N> DEVICE void code_values(uint32_t v[N], enum decode_kind kind, uint32_t scale, uint32_t min)
{
    if (kind == KIND_PLAIN) {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = half2_fma(v[i], scale, min);
    } else if (kind == KIND_HALF) {
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = half2_add(half2_mul(v[i], scale), min);
    } else {
        const float over[2] = {1.0f / half_value((uint16_t)scale),
                               1.0f / half_value((uint16_t)(scale >> 16))};
#pragma unroll
        for (int i = 0; i < N; i++)
            v[i] = half2_add(quotient_pair(v[i], over), min);
    }
}

/* Eight codes along channels with their scale (low half) and minimum. */
struct coded {
    uint32_t codes, bounds;
};

/* The codes of chunk number `chunk` (8 channels) of a row. */
template <int BITS> DEVICE uint32_t chunk_load(const char *row, int32_t chunk)
{
    const void *from = row + chunk * BITS;
    return BITS == 2 ? *(const uint16_t *)from : *(const uint32_t *)from;
}
/* Chunk number `chunk` (8 channels) of a row. */
template <int D, int BITS>
DEVICE struct coded token_load(const struct decode_side *side, int32_t row, const struct decode_shape *x,
                               int32_t chunk)
{
    int32_t at = row * x->Hk + x->h, s = at * (D >> side->shift) + (chunk * 8 >> side->shift);
    struct coded c;
    c.codes = chunk_load<BITS>((const char *)side->data + (int64_t)at * (D * BITS / 8), chunk);
    c.bounds = side->scale[s] | (uint32_t)side->min[s] << 16;
    return c;
}

/* Eight channels of one key. */
template <int BITS> DEVICE uint4 token_key(enum decode_kind kind, struct coded c)
{
    uint32_t v[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        const uint32_t bit = (uint32_t)(2 * i * BITS);
        v[i] =
            code_pair(bytes_of(c.codes, 0, bit / 8 * 0x1111U), code_place_at<BITS>(bit % 8, bit % 8 + BITS));
    }
    code_values<4>(v, kind, bytes_of(c.bounds, 0, 0x1010U), bytes_of(c.bounds, 0, 0x3232U));
    return uint4{v[0], v[1], v[2], v[3]};
}

/* Where a lane's places lie in words that hold a channel's codes of 16 keys. */
struct channel_place {
    uint32_t pick; /* the byte of two channels' words */
    struct code_place code;
};
template <int BITS> DEVICE struct channel_place channel_place_of(void)
{
    const uint32_t bit = threadIdx.x % WARP / 4 * BITS;
    return {bit / 8 * 0x1111U + 0x4400U, code_place_at<BITS>(bit % 8, bit % 8)};
}
/* The codes of two channels at place lane / 4 (upper 1: + 8) of 16 keys, BITS / 2 words of each. */
template <int BITS>
DEVICE uint32_t channel_codes(const uint32_t *one, const uint32_t *two, int upper,
                              const struct channel_place &p)
{
    const int word = BITS == 2 ? 0 : upper;
    return code_pair(bytes_of(one[word], two[word], p.pick + (BITS == 2 ? upper * 0x2222U : 0U)), p.code);
}

/* Codes along keys: 8 channels of the places lane / 4 and lane / 4 + 8, of kind KIND_PLAIN. */
template <int D, int BITS>
DEVICE void channel_eight(uint4 k[2], const struct decode_block *b, const struct decode_shape *x,
                          int32_t chunk)
{
    const struct decode_side *side = &b->p->k;
    int32_t row = b->p->skip + b->at - b->lo, s = ((row >> side->shift) * x->Hk + x->h) * D + chunk * 8;
    int32_t apart = (1 << side->shift) * BITS / 8;
    const char *codes =
        (const char *)side->data + (int64_t)s * apart + (row & ((1 << side->shift) - 1)) * BITS / 8;
    uint4 scales = load_eight(side->scale + s), mins = load_eight(side->min + s);
    const uint32_t scale[4] = {scales.x, scales.y, scales.z, scales.w},
                   min[4] = {mins.x, mins.y, mins.z, mins.w};
    uint32_t w[8][BITS / 2], v[2][4];
#pragma unroll
    for (int e = 0; e < 8; e++)
#pragma unroll
        for (int i = 0; i < BITS / 2; i++)
            w[e][i] = ((const uint32_t *)(const void *)(codes + e * apart))[i];
    const struct channel_place place = channel_place_of<BITS>();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        uint32_t codes_of = channel_codes<BITS>(w[i / 2 * 2], w[i / 2 * 2 + 1], i % 2, place);
        v[i % 2][i / 2] = half2_fma(codes_of, scale[i / 2], min[i / 2]);
    }
    k[0] = uint4{v[0][0], v[0][1], v[0][2], v[0][3]};
    k[1] = uint4{v[1][0], v[1][1], v[1][2], v[1][3]};
}

/* ------------------------------------------------------------------ keys */

/* Scores of a block += products of 32 channels: k[r] holds channels 8 (lane % 4) .. of them of place lane / 4
 * + 8 r, q[n] the same of row 8 n + lane / 4; s[n][2 i + e] is place lane / 4 + 8 i, row 8 n + 2 (lane % 4) +
 * e. */
template <bool BF16, int NT> DEVICE void score_chunk(float s[NT][4], const uint4 k[2], const uint4 q[NT])
{
    const uint32_t first[4] = {k[0].x, k[1].x, k[0].y, k[1].y}, second[4] = {k[0].z, k[1].z, k[0].w, k[1].w};
#pragma unroll
    for (int n = 0; n < NT; n++) {
        const uint32_t low[2] = {q[n].x, q[n].y}, high[2] = {q[n].z, q[n].w};
        unit_mma<BF16>(s[n], first, low);
        unit_mma<BF16>(s[n], second, high);
    }
}

template <int D>
DEVICE void keys_dense(uint4 k[D / 32][2], const struct decode_block *b, const struct decode_shape *x)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int32_t row = dense_row(&b->p->k, decode_key(b, threadIdx.x % WARP / 4 + r * 8));
        const uint16_t *from =
            (const uint16_t *)b->p->k.data + (int64_t)(row * x->Hk + x->h) * D + threadIdx.x % 4 * 8;
#pragma unroll
        for (int u = 0; u < D / 32; u++)
            k[u][r] = load_eight(from + u * 32);
    }
}

template <int D, int NT, int BITS>
DEVICE void score_token(float s[NT][4], const uint4 q[D / 32][NT], const struct decode_block *b,
                        const struct decode_shape *x)
{
    struct coded c[D / 32][2];
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        c[i / 2][i % 2] = token_load<D, BITS>(&b->p->k, decode_key(b, threadIdx.x % WARP / 4 + i % 2 * 8), x,
                                              i / 2 * 4 + threadIdx.x % 4);
#pragma unroll
    for (int u = 0; u < D / 32; u++) {
        const uint4 k[2] = {token_key<BITS>(b->p->k.kind, c[u][0]), token_key<BITS>(b->p->k.kind, c[u][1])};
        score_chunk<false, NT>(s, k, q[u]);
    }
}

template <int D, int NT, int BITS>
DEVICE void score_channel(float s[NT][4], const uint4 q[D / 32][NT], const struct decode_block *b,
                          const struct decode_shape *x)
{
#pragma unroll
    for (int u = 0; u < D / 32; u++) {
        uint4 k[2];
        channel_eight<D, BITS>(k, b, x, u * 4 + threadIdx.x % 4);
        score_chunk<false, NT>(s, k, q[u]);
    }
}

template <bool BF16, int D, int NT>
DEVICE void score_dense(float s[NT][4], const uint4 q[D / 32][NT], const uint4 k[D / 32][2])
{
#pragma unroll
    for (int u = 0; u < D / 32; u++)
        score_chunk<BF16, NT>(s, k[u], q[u]);
}

/* q is f16 for keys in codes, of the unit's type for dense ones. */
template <bool BF16, int D, int NT>
DEVICE void score_any(float s[NT][4], const uint4 q[D / 32][NT], const struct decode_block *b,
                      const struct decode_shape *x)
{
    uint4 k[D / 32][2];
    switch (b->p->k.form) {
    case TOKEN2:
        return score_token<D, NT, 2>(s, q, b, x);
    case TOKEN4:
        return score_token<D, NT, 4>(s, q, b, x);
    case CHANNEL2:
        return score_channel<D, NT, 2>(s, q, b, x);
    case CHANNEL4:
        return score_channel<D, NT, 4>(s, q, b, x);
    default:
        keys_dense<D>(k, b, x);
        return score_dense<BF16, D, NT>(s, q, k);
    }
}

/* ------------------------------------------------------------------ values */

/* Key number i of a lane's four: places 2 q, 2 q + 1, 2 q + 8, 2 q + 9, q = lane % 4. */
DEVICE int32_t value_key(const struct decode_block *b, int i)
{
    return decode_key(b, i / 2 * 8 + threadIdx.x % 4 * 2 + i % 2);
}
/* The lane's chunk of the 64 channels number `at`. */
DEVICE int32_t value_chunk(int at)
{
    return at * 8 + threadIdx.x % WARP / 4;
}

/* What a lane reads of a block's values: its chunk of every 64 channels, of its four keys. */
template <int D>
DEVICE void values_dense(uint4 y[D / 64][4], const struct decode_block *b, const struct decode_shape *x)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int32_t row = dense_row(&b->p->v, value_key(b, i));
        const uint16_t *from = (const uint16_t *)b->p->v.data + (int64_t)(row * x->Hk + x->h) * D;
#pragma unroll
        for (int s = 0; s < D / 64; s++)
            y[s][i] = load_eight(from + value_chunk(s) * 8);
    }
}

template <int D>
DEVICE void values_coded(struct coded c[D / 64][4], const struct decode_block *b,
                         const struct decode_shape *x)
{
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        c[i / 4][i % 4] = b->p->v.form == TOKEN2
                              ? token_load<D, 2>(&b->p->v, value_key(b, i % 4), x, value_chunk(i / 4))
                              : token_load<D, 4>(&b->p->v, value_key(b, i % 4), x, value_chunk(i / 4));
}

/* Values of 64 channels as left operands: v[w] holds channels 8 (lane / 4) + 2 w and the next one of the
 * lane's four keys, two keys in a register. */
DEVICE void turn_dense(uint32_t v[4][4], const uint4 y[4])
{
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const uint32_t one[4] = {y[i].x, y[i].y, y[i].z, y[i].w};
        const uint32_t two[4] = {y[i + 1].x, y[i + 1].y, y[i + 1].z, y[i + 1].w};
#pragma unroll
        for (int w = 0; w < 4; w++) {
            v[w][i] = (one[w] & 0xffffU) | two[w] << 16;
            v[w][i + 1] = one[w] >> 16 | (two[w] & 0xffff0000U);
        }
    }
}

/* v's registers i and i + 1 from codes of two keys, whose scales and minima stand in the halves. */
template <int BITS>
DEVICE void turn_pair(uint32_t v[4][4], int i, enum decode_kind kind, uint32_t one, uint32_t two,
                      uint32_t scale, uint32_t min)
{
    uint32_t x[8];
#pragma unroll
    for (int e = 0; e < 8; e++) {
        const uint32_t bit = (uint32_t)(e * BITS), pick = bit / 8 * 0x1111U + 0x4400U;
        x[e] = code_pair(bytes_of(one, two, pick), code_place_at<BITS>(bit % 8, bit % 8));
    }
    code_values<8>(x, kind, scale, min);
#pragma unroll
    for (int e = 0; e < 8; e++)
        v[e / 2][i + e % 2] = x[e];
}
template <int BITS> DEVICE void turn_coded(uint32_t v[4][4], enum decode_kind kind, const struct coded c[4])
{
#pragma unroll
    for (int i = 0; i < 4; i += 2)
        turn_pair<BITS>(v, i, kind, c[i].codes, c[i + 1].codes,
                        bytes_of(c[i].bounds, c[i + 1].bounds, 0x5410U),
                        bytes_of(c[i].bounds, c[i + 1].bounds, 0x7632U));
}

/* o += p v of 64 channels. */
template <bool BF16, int NT>
DEVICE void decode_sums(float o[4][NT][4], const uint32_t v[4][4], const uint32_t p[NT][2])
{
#pragma unroll
    for (int i = 0; i < 4 * NT; i++)
        unit_mma<BF16>(o[i / NT][i % NT], v[i / NT], p[i % NT]);
}

#endif
