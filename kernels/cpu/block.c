/* Attention of one block of query rows over one block of keys in float32, online softmax. Query rows are the
 * lanes of every vector: scores are kept as [keys, rows], so maximum and sum need no step across lanes. */
#include <math.h>

#include "kernels/cpu/isa.h"

#define MM_ROWS (VL == 16 ? 8 : 4)

/* C [MM_ROWS, nv*VL] (ld R) = or += A B over k: A element (i, j) is a[i*ars + j*acs], B is [k,R]. */
INLINE void mm_tile(float *C, const float *a, int64_t ars, int64_t acs, const float *B, int64_t k, int64_t R,
                    const int nv, const bool add)
{
    vf acc[8][4];
#pragma GCC unroll 8
    for (int i = 0; i < MM_ROWS; i++)
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++)
            acc[i][v] = add ? vf_load(C + i * R + v * VL) : vf_set(0.0f);
    for (int64_t j = 0; j < k; j++) {
        vf b[4];
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++)
            b[v] = vf_load(B + j * R + v * VL);
#pragma GCC unroll 8
        for (int i = 0; i < MM_ROWS; i++) {
            vf x = vf_set(a[i * ars + j * acs]);
#pragma GCC unroll 8
            for (int v = 0; v < nv; v++)
                acc[i][v] = vf_fma(x, b[v], acc[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < MM_ROWS; i++)
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++)
            vf_store(C + i * R + v * VL, acc[i][v]);
}

/* m is rounded up to MM_ROWS: rows beyond it are scratch. */
INLINE void mm(float *C, const float *a, int64_t ars, int64_t acs, const float *B, int64_t m, int64_t k,
               int64_t R, const bool add)
{
    const int wide = VL == 16 ? 3 : 2;
    for (int64_t i = 0; i < m; i += MM_ROWS) {
        int64_t c = 0;
        for (; c + wide * VL <= R; c += wide * VL)
            mm_tile(C + i * R + c, a + i * ars, ars, acs, B + c, k, R, wide, add);
        for (; c < R; c += VL)
            mm_tile(C + i * R + c, a + i * ars, ars, acs, B + c, k, R, 1, add);
    }
}

/* Softmax of VL query rows over n keys; S becomes weights. Returns the factor for what was summed before. */
static vf softmax_lanes(struct attend_block *b, int64_t n, int64_t r)
{
    vf old = vf_load(b->m + r), m = old;
    const uint8_t *keep = b->keep[r / b->Tq];
    for (int64_t j = 0; j < n; j++) {
        float *s = b->S + j * b->R + r;
        if (keep && !keep[j])
            vf_store(s, vf_set(CPU_HIDDEN));
        vf v = vf_load(s);
        if (b->lo) {
            v = vf_where(b->row_t + r, b->lo[j], b->hi[j], v, CPU_HIDDEN);
            vf_store(s, v);
        }
        m = vf_max(m, v);
    }
    vf_store(b->m + r, m);
    vf sum = vf_set(0.0f);
    for (int64_t j = 0; j < n; j++) {
        float *s = b->S + j * b->R + r;
        vf p = vf_exp(vf_sub(vf_load(s), m));
        vf_store(s, p);
        sum = vf_add(sum, p);
    }
    vf f = vf_exp(vf_sub(old, m));
    vf_store(b->l + r, vf_fma(vf_load(b->l + r), f, sum));
    return f;
}

void ISA(attend_block)(struct attend_block *b, int64_t n)
{
    mm(b->S, b->K, b->d, 1, b->q, n, b->d, b->R, false);
    for (int64_t r = 0; r < b->R; r += VL) {
        vf f = softmax_lanes(b, n, r);
        if (vf_all_equal(f, 1.0f))
            continue;
        for (int64_t c = 0; c < b->d; c++)
            vf_store(b->o + c * b->R + r, vf_mul(f, vf_load(b->o + c * b->R + r)));
    }
    mm(b->o, b->V, 1, b->d, b->S, b->d, n, b->R, true);
}

void ISA(block_out)(float *out, int64_t ld, const float *O, int64_t R, int64_t rows, int64_t d,
                    const float *sum)
{
    float inv[16];
    for (int64_t t = 0; t < rows; t++)
        inv[t] = sum[t] > 0.0f || sum[t] != sum[t] ? 1.0f / sum[t] : 0.0f; /* no visible key: 0 */
    int64_t c = 0;
#if VL == 16
    for (; rows == 16 && c + 16 <= d; c += 16) {
        __m512i v[16];
        for (int64_t i = 0; i < 16; i++)
            v[i] = _mm512_loadu_si512(O + (c + i) * R);
        vf_transpose(v);
        for (int64_t t = 0; t < 16; t++)
            vf_store(out + t * ld + c, vf_mul(_mm512_castsi512_ps(v[t]), vf_set(inv[t])));
    }
#endif
    for (int64_t t = 0; t < rows; t++)
        for (int64_t i = c; i < d; i++)
            out[t * ld + i] = O[i * R + t] * inv[t];
}

void ISA(attn_scores_rows)(const struct attn_scores_block *b)
{
    for (int64_t t0 = 0; t0 < SCORE_ROWS; t0 += MM_ROWS) {
        mm(b->S, (const float *)b->q + t0 * b->d, b->d, 1, b->K, MM_ROWS, b->d, BLOCK_KEYS, false);
        for (int64_t i = 0; i < MM_ROWS; i++) {
            float *s = b->S + i * BLOCK_KEYS;
            int64_t t = b->t0 + t0 + i;
            for (int64_t j = 0; b->lo && j < BLOCK_KEYS; j++)
                s[j] = t >= b->lo[j] && t < b->hi[j] ? s[j] : CPU_HIDDEN;
            vf lse = vf_set(b->lse[t0 + i]);
            for (int64_t j = 0; j < BLOCK_KEYS; j += VL)
                vf_store(b->sum + j, vf_add(vf_load(b->sum + j), vf_exp(vf_sub(vf_load(s + j), lse))));
        }
    }
}
