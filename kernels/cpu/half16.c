/* Attention blocks with bf16 products and f32 sums (AVX-512 BF16), and the packing and softmax that the AMX
 * variant shares. Compiled for AVX-512 with BF16 only. */
#include <math.h>

#include "kernels/cpu/weight16.h"

static inline __m512i bf16_bits(__m512 v) /* 16 bf16 in the low halves of 32-bit lanes */
{
    return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(v));
}

static inline __mmask16 first_lanes(int64_t n)
{
    uint32_t mask = n >= 16 ? 0xffffU : (1U << n) - 1U;
    return (__mmask16)mask;
}

void cpu_to_bf16(uint16_t *dst, const float *src, int64_t n)
{
    for (int64_t i = 0; i < n; i += 16) {
        __mmask16 mask = first_lanes(n - i);
        __m256i v = (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_loadu_ps(mask, src + i));
        _mm256_mask_storeu_epi16(dst + i, mask, v);
    }
}

/* 16 channels of a row as bf16 bits in 32-bit lanes: from f32 (rounded) or bf16 rows, m of them real. */
INLINE __m512i row_bits(const void *src, int64_t at, int64_t m, const bool bf16)
{
    if (!bf16)
        return bf16_bits(m >= 16 ? vf_load((const float *)src + at) : vf_load_n((const float *)src + at, m));
    __mmask16 mask = first_lanes(m);
    return _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, (const uint16_t *)src + at));
}

/* 16 rows (n of them real) of queries, ld apart, times scale: lanes at.. of their group [dp/2,32,2]. */
void cpu_pack_q16(uint16_t *dst, int64_t dp, const float *q, int64_t ld, int64_t n, int64_t d, float scale)
{
    for (int64_t c = 0; c < dp; c += 32) {
        __m512i v[16];
        for (int64_t i = 0; i < 16; i++) {
            int64_t m0 = i < n ? d - c : 0, m1 = i < n ? d - c - 16 : 0;
            __m512 a = m0 > 0 ? _mm512_maskz_loadu_ps(first_lanes(m0), q + i * ld + c) : vf_set(0.0f);
            __m512 b = m1 > 0 ? _mm512_maskz_loadu_ps(first_lanes(m1), q + i * ld + c + 16) : vf_set(0.0f);
            v[i] = (__m512i)_mm512_cvtne2ps_pbh(vf_mul(b, vf_set(scale)), vf_mul(a, vf_set(scale)));
        }
        vf_transpose(v);
        for (int64_t i = 0; i < 16; i++)
            _mm512_storeu_si512(dst + (c / 2 + i) * 64, v[i]);
    }
}

void cpu_pack_keys16(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d,
                     enum dtype t)
{
    if (t == DT_F32) {
        cpu_pack_q16(dst, dp, src, ld, n, d, 1.0f);
        return;
    }
    for (int64_t c = 0; c < dp; c += 32) {
        __m512i v[16];
        for (int64_t i = 0; i < 16; i++) {
            int64_t m = i < n ? d - c : 0;
            __mmask32 mask = m >= 32 ? 0xffffffffU : m > 0 ? (1U << m) - 1U : 0U;
            v[i] = _mm512_maskz_loadu_epi16(mask, (const uint16_t *)src + i * ld + c);
        }
        vf_transpose(v);
        for (int64_t i = 0; i < 16; i++)
            _mm512_storeu_si512(dst + (c / 2 + i) * 64, v[i]);
    }
}

INLINE void pack_k(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d,
                   const bool bf16)
{
    for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < dp; c += 16) {
            __m512i v = c < d ? row_bits(src, j * ld + c, d - c, bf16) : _mm512_setzero_si512();
            _mm256_storeu_si256((__m256i *)(dst + j * dp + c), _mm512_cvtepi32_epi16(v));
        }
}

/* Values [n,d] to [dp,BLOCK_KEYS]: key pairs side by side, zeros from n to a multiple of 32. */
INLINE void pack_v(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d,
                   const bool bf16)
{
    for (int64_t j = 0; j < n; j += 32) {
        for (int64_t c = 0; c < dp; c += 16) {
            __m512i v[16];
            for (int64_t i = 0; i < 16; i++) {
                int64_t key = j + 2 * i;
                v[i] = _mm512_setzero_si512();
                if (c < d && key < n)
                    v[i] = row_bits(src, key * ld + c, d - c, bf16);
                if (c < d && key + 1 < n)
                    v[i] = _mm512_or_si512(
                        v[i], _mm512_slli_epi32(row_bits(src, (key + 1) * ld + c, d - c, bf16), 16));
            }
            vf_transpose(v);
            for (int64_t i = 0; i < 16; i++)
                _mm512_storeu_si512(dst + (c + i) * BLOCK_KEYS + j, v[i]);
        }
    }
}

void cpu_pack_k16(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d, enum dtype t)
{
    if (t == DT_BF16)
        pack_k(dst, dp, src, ld, n, d, true);
    else
        pack_k(dst, dp, src, ld, n, d, false);
}

void cpu_pack_v16(uint16_t *dst, int64_t dp, const void *src, int64_t ld, int64_t n, int64_t d, enum dtype t)
{
    if (t == DT_BF16)
        pack_v(dst, dp, src, ld, n, d, true);
    else
        pack_v(dst, dp, src, ld, n, d, false);
}

/* Scores of keys that the lanes' head does not see. */
INLINE void mask_keys(const uint8_t *keep, int64_t n, float *S, int64_t ld)
{
    for (int64_t j = 0; keep && j < n; j++) {
        __mmask16 shown = keep[j] ? 0xffffU : 0;
        vf_store(S + j * ld, _mm512_mask_loadu_ps(vf_set(CPU_HIDDEN), shown, S + j * ld));
    }
}

/* VECS vectors of query rows from row r: maxima, weights of all keys of the block as bf16 pairs, sums; the
 * output is rescaled where a maximum grew. S and P16 hold these rows only: [keys, ld], [keys/2, ld, 2]. */
INLINE void softmax_rows(struct attend_block *b, int64_t n, int64_t r, float *S, uint16_t *P16, int64_t ld,
                         const int vecs)
{
    __m512 old[2], m[2], sum[2];
#pragma GCC unroll 2
    for (int v = 0; v < vecs; v++) {
        mask_keys(b->keep[(r + 16 * v) / b->Tq], n, S + 16 * v, ld);
        m[v] = old[v] = vf_load(b->m + r + 16 * v);
        sum[v] = vf_set(0.0f);
    }
    for (int64_t j = 0; j < n; j++) {
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) {
            __m512 s = vf_load(S + j * ld + 16 * v);
            if (b->lo) {
                s = vf_where(b->row_t + r + 16 * v, b->lo[j], b->hi[j], s, CPU_HIDDEN);
                vf_store(S + j * ld + 16 * v, s);
            }
            m[v] = vf_max(s, m[v]);
        }
    }
    int64_t j = 0;
    for (; j + 2 <= n; j += 2) {
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) {
            __m512 p0 = exp2_fast(vf_sub(vf_load(S + j * ld + 16 * v), m[v]));
            __m512 p1 = exp2_fast(vf_sub(vf_load(S + (j + 1) * ld + 16 * v), m[v]));
            sum[v] = vf_add(sum[v], vf_add(p0, p1));
            _mm512_storeu_si512(P16 + (j / 2 * ld + 16 * v) * 2, weight_bits(p0, p1));
        }
    }
    for (; j < round_up(n, 32); j += 2) {
#pragma GCC unroll 2
        for (int v = 0; v < vecs; v++) {
            __m512 p = j < n ? exp2_fast(vf_sub(vf_load(S + j * ld + 16 * v), m[v])) : vf_set(0.0f);
            sum[v] = vf_add(sum[v], p);
            _mm512_storeu_si512(P16 + (j / 2 * ld + 16 * v) * 2, weight_bits(p, vf_set(0.0f)));
        }
    }
#pragma GCC unroll 2
    for (int v = 0; v < vecs; v++) {
        float *total = b->l + r + 16 * v;
        if (vf_all_equal(vf_sub(old[v], m[v]), 0.0f)) { /* most blocks: no new maximum */
            vf_store(total, vf_add(vf_load(total), sum[v]));
            continue;
        }
        __m512 f = exp2_fast(vf_sub(old[v], m[v]));
        vf_store(b->m + r + 16 * v, m[v]);
        vf_store(total, vf_fma(vf_load(total), f, sum[v]));
        for (int64_t c = 0; c < b->d; c++) {
            float *o = b->o + r * b->dp + c * 32 + 16 * v;
            vf_store(o, vf_mul(f, vf_load(o)));
        }
    }
}

void cpu_softmax16(struct attend_block *b, int64_t n, int64_t r, int64_t rows, float *S, uint16_t *P16,
                   int64_t ld)
{
    if (rows == 32)
        softmax_rows(b, n, r, S, P16, ld, 2);
    else
        softmax_rows(b, n, r, S, P16, ld, 1);
}

/* C [8,16*nv] (row stride ldc) = or += A B over k pairs; A and B are bf16 pairs, B [k,ldb]. */
INLINE void mm_tile(float *C, int64_t ldc, const uint32_t *a, int64_t lda, const uint32_t *B, int64_t ldb,
                    int64_t k, const int nv, const bool add)
{
    __m512 acc[8][2];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            acc[i][v] = add ? vf_load(C + i * ldc + v * 16) : vf_set(0.0f);
    for (int64_t j = 0; j < k; j++) {
        __m512bh b[2];
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            b[v] = (__m512bh)_mm512_loadu_si512(B + j * ldb + v * 16);
#pragma GCC unroll 8
        for (int i = 0; i < 8; i++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int32_t)a[i * lda + j]);
#pragma GCC unroll 2
            for (int v = 0; v < nv; v++)
                acc[i][v] = _mm512_dpbf16_ps(acc[i][v], x, b[v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            vf_store(C + i * ldc + v * 16, acc[i][v]);
}

/* rows is 32 or 16. */
static void mm(float *C, int64_t ldc, const uint16_t *a, int64_t lda, const uint16_t *B, int64_t ldb,
               int64_t m, int64_t k, int64_t rows, bool add)
{
    const uint32_t *a32 = (const uint32_t *)(const void *)a, *b32 = (const uint32_t *)(const void *)B;
    for (int64_t i = 0; i < m; i += 8) {
        if (rows == 32 && add)
            mm_tile(C + i * ldc, ldc, a32 + i * lda / 2, lda / 2, b32, ldb, k, 2, true);
        else if (rows == 32)
            mm_tile(C + i * ldc, ldc, a32 + i * lda / 2, lda / 2, b32, ldb, k, 2, false);
        else
            mm_tile(C + i * ldc, ldc, a32 + i * lda / 2, lda / 2, b32, ldb, k, 1, add);
    }
}

/* 32 query rows at a time, so that their scores and weights stay in the first-level cache. */
void cpu_block_bf16(struct attend_block *b, int64_t n)
{
    for (int64_t r = 0; r < b->R; r += 32) {
        int64_t rows = min_i64(32, b->R - r);
        mm(b->S, 32, b->K16, b->dp, b->q16 + r * b->dp, 32, n, (b->d + 1) / 2, rows, false);
        cpu_softmax16(b, n, r, rows, b->S, b->P16, 32);
        mm(b->o + r * b->dp, 32, b->V16, BLOCK_KEYS, b->P16, 32, b->d, (n + 1) / 2, rows, true);
    }
}

void cpu_scores_bf16(float *S, const uint16_t *q, const uint16_t *K, int64_t dp, int64_t m)
{
    mm(S, 32, q, dp, K, 32, m, dp / 2, 32, false);
}

/* sum += what each of 32 keys gets from SCORE_ROWS rows. */
INLINE void attn_scores_keys(const struct attn_scores_block *b, int64_t j, const bool masked)
{
    vf sum[2] = {vf_load(b->sum + j), vf_load(b->sum + j + 16)};
    __m512i lo[2], hi[2];
#pragma GCC unroll 2
    for (int v = 0; masked && v < 2; v++) {
        lo[v] = _mm512_loadu_si512(b->lo + j + 16 * v);
        hi[v] = _mm512_loadu_si512(b->hi + j + 16 * v);
    }
    for (int64_t i = 0; i < SCORE_ROWS; i++) {
        vf lse = vf_set(b->lse[i]);
        __m512i t = _mm512_set1_epi32((int32_t)(b->t0 + i));
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            vf p = exp2_fast(vf_sub(vf_load(b->S + i * 32 + 16 * v), lse));
            __mmask16 see = 0xffffU;
            if (masked)
                see = _mm512_cmple_epi32_mask(lo[v], t) & _mm512_cmplt_epi32_mask(t, hi[v]);
            sum[v] = _mm512_mask_add_ps(sum[v], see, sum[v], p);
        }
    }
    vf_store(b->sum + j, sum[0]);
    vf_store(b->sum + j + 16, sum[1]);
}

void cpu_attn_scores16(const struct attn_scores_block *b,
                       void (*scores)(float *S, const uint16_t *q, const uint16_t *K, int64_t dp, int64_t m))
{
    int64_t dp = round_up(b->d, 32);
    for (int64_t j = 0; j < BLOCK_KEYS; j += 32) {
        scores(b->S, b->q, (const uint16_t *)b->K + j * dp, dp, SCORE_ROWS);
        if (b->lo)
            attn_scores_keys(b, j, true);
        else
            attn_scores_keys(b, j, false);
    }
}
