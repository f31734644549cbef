/* Attention blocks with bf16 products and f32 sums (AVX-512 BF16), and the packing and softmax that the AMX
 * variant shares. Compiled for AVX-512 with BF16 only. */
#include <math.h>

#include "kernels/cpu/isa.h"

static inline __m512i bf16_bits(__m512 v) /* 16 bf16 in the low halves of 32-bit lanes */
{
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v));
}

static inline __m512i pair_bits(__m512 low, __m512 high)
{
    return _mm512_or_si512(bf16_bits(low), _mm512_slli_epi32(bf16_bits(high), 16));
}

void cpu_pack_q16(uint16_t *dst, const float *q, int64_t dp, int64_t R)
{
    for (int64_t c = 0; c < dp; c += 2)
        for (int64_t r = 0; r < R; r += 16)
            _mm512_storeu_si512(dst + (c / 2 * R + r) * 2,
                                pair_bits(vf_load(q + c * R + r), vf_load(q + (c + 1) * R + r)));
}

void cpu_pack_k16(uint16_t *dst, int64_t dp, const float *src, int64_t n, int64_t d)
{
    for (int64_t j = 0; j < n; j++) {
        for (int64_t c = 0; c < dp; c += 16) {
            __m512 v = c < d ? vf_load_n(src + j * d + c, min_i64(16, d - c)) : vf_set(0.0f);
            _mm256_storeu_si256((__m256i *)(dst + j * dp + c), (__m256i)_mm512_cvtneps_pbh(v));
        }
    }
}

static void transpose16(__m512i v[16])
{
    __m512i t[16];
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(v[2 * i], v[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(v[2 * i], v[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        v[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        v[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        v[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        v[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0x88);
        t[4 + i] = _mm512_shuffle_i32x4(v[i], v[4 + i], 0xdd);
        t[8 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0x88);
        t[12 + i] = _mm512_shuffle_i32x4(v[8 + i], v[12 + i], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        v[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
        v[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
        v[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
        v[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
    }
}

/* Values [n,d] to [dp,BLOCK_KEYS]: key pairs side by side, zeros from n to a multiple of 32. */
void cpu_pack_v16(uint16_t *dst, int64_t dp, const float *src, int64_t n, int64_t d)
{
    for (int64_t c = 0; c < dp; c += 16) {
        int64_t m = c < d ? min_i64(16, d - c) : 0;
        for (int64_t j = 0; j < n; j += 32) {
            __m512i v[16];
            for (int64_t i = 0; i < 16; i++) {
                int64_t key = j + 2 * i;
                __m512 a = key < n && m ? vf_load_n(src + key * d + c, m) : vf_set(0.0f);
                __m512 b = key + 1 < n && m ? vf_load_n(src + (key + 1) * d + c, m) : vf_set(0.0f);
                v[i] = pair_bits(a, b);
            }
            transpose16(v);
            for (int64_t i = 0; i < 16; i++)
                _mm512_storeu_si512(dst + (c + i) * BLOCK_KEYS + j, v[i]);
        }
    }
}

/* 2^x for weights that are rounded to bf16 anyway: relative error 4e-6. Keeps NaN, 0 below -126. */
static inline __m512 exp2_fast(__m512 x)
{
    __m512 y = vf_max(vf_set(-150.0f), x);
    __m512 n = vf_round(y), f = vf_sub(y, n);
    __m512 p = vf_set(9.570101434e-3f);
    p = vf_fma(p, f, vf_set(5.591786028e-2f));
    p = vf_fma(p, f, vf_set(2.402474484e-1f));
    p = vf_fma(p, f, vf_set(6.931218147e-1f));
    p = vf_fma(p, f, vf_set(9.999992614e-1f));
    return vf_scale2(p, n);
}

/* 16 query rows: weights of all keys of the block as bf16 pairs; rescales the output where a maximum grew. */
static void softmax_lanes(struct attend_block *b, int64_t n, int64_t r)
{
    int64_t R = b->R;
    float *S = b->S + r;
    __m512 old = vf_load(b->max + r), m = old, m1 = old, sum = vf_set(0.0f);
    if (b->lo) {
        for (int64_t j = 0; j < n; j++) {
            __m512 v = vf_where(b->row_t + r, b->lo[j], b->hi[j], vf_load(S + j * R), -INFINITY);
            vf_store(S + j * R, v);
            m = vf_max(m, v);
        }
    } else {
        int64_t j = 0;
        for (; j + 2 <= n; j += 2) {
            m = vf_max(m, vf_load(S + j * R));
            m1 = vf_max(m1, vf_load(S + (j + 1) * R));
        }
        m = vf_max(m1, j < n ? vf_max(m, vf_load(S + j * R)) : m);
    }
    vf_store(b->max + r, m);
    for (int64_t j = 0; j < round_up(n, 32); j += 2) {
        __m512 p0 = vf_set(0.0f), p1 = p0;
        if (j < n)
            p0 = exp2_fast(vf_sub(vf_load(S + j * R), m));
        if (j + 1 < n)
            p1 = exp2_fast(vf_sub(vf_load(S + (j + 1) * R), m));
        sum = vf_add(sum, vf_add(p0, p1));
        _mm512_storeu_si512(b->P16 + (j / 2 * R + r) * 2, pair_bits(p0, p1));
    }
    if (vf_all_equal(vf_sub(old, m), 0.0f)) { /* most blocks: no new maximum */
        vf_store(b->sum + r, vf_add(vf_load(b->sum + r), sum));
        return;
    }
    __m512 f = exp2_fast(vf_sub(old, m));
    vf_store(b->sum + r, vf_fma(vf_load(b->sum + r), f, sum));
    for (int64_t c = 0; c < b->d; c++)
        vf_store(b->O + c * R + r, vf_mul(f, vf_load(b->O + c * R + r)));
}

void cpu_softmax16(struct attend_block *b, int64_t n)
{
    for (int64_t r = 0; r < b->R; r += 16)
        softmax_lanes(b, n, r);
}

/* C [8,16*nv] (row stride R) = or += A B over k pairs; A and B are bf16 pairs, B [k,R]. */
INLINE void mm_tile(float *C, const uint32_t *a, int64_t lda, const uint32_t *B, int64_t k, int64_t R,
                    const int nv, const bool add)
{
    __m512 acc[8][3];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            acc[i][v] = add ? vf_load(C + i * R + v * 16) : vf_set(0.0f);
    for (int64_t j = 0; j < k; j++) {
        __m512bh b[3];
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            b[v] = (__m512bh)_mm512_loadu_si512(B + j * R + v * 16);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int32_t)a[i * lda + j]);
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++)
                acc[i][v] = _mm512_dpbf16_ps(acc[i][v], x, b[v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++)
            vf_store(C + i * R + v * 16, acc[i][v]);
}

INLINE void mm(float *C, const uint16_t *a, int64_t lda, const uint16_t *B, int64_t m, int64_t k, int64_t R,
               const bool add)
{
    const uint32_t *a32 = (const uint32_t *)(const void *)a, *b32 = (const uint32_t *)(const void *)B;
    for (int64_t i = 0; i < m; i += 8) {
        int64_t c = 0;
        for (; c + 48 <= R; c += 48)
            mm_tile(C + i * R + c, a32 + i * lda / 2, lda / 2, b32 + c, k, R, 3, add);
        for (; c < R; c += 16)
            mm_tile(C + i * R + c, a32 + i * lda / 2, lda / 2, b32 + c, k, R, 1, add);
    }
}

void cpu_block_bf16(struct attend_block *b, int64_t n)
{
    mm(b->S, b->K16, b->dp, b->q16, n, (b->d + 1) / 2, b->R, false);
    cpu_softmax16(b, n);
    mm(b->O, b->V16, BLOCK_KEYS, b->P16, b->d, (n + 1) / 2, b->R, true);
}
