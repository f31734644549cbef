/* One vector type per instruction set, so that each loop is written once: files that include this are
 * compiled three times, for AVX-512, AVX2 + FMA + F16C, and portable C. `vf` is a vector of VL floats. NaN
 * goes through every function; vf_exp is good to 2 ulp and gives 0 below -87.3. */
#ifndef KVS_KERNELS_CPU_SIMD_H
#define KVS_KERNELS_CPU_SIMD_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/half.h"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define ISA(name) name##_avx512
#define ISA_NAME  "avx512"
#define VL        16
typedef __m512 vf;

static inline vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
static inline void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
static inline vf vf_load_n(const float *p, int64_t n) /* the first n lanes, others 0 */
{
    return _mm512_maskz_loadu_ps((__mmask16)((1U << n) - 1U), p);
}
static inline void vf_store_n(float *p, vf v, int64_t n)
{
    _mm512_mask_storeu_ps(p, (__mmask16)((1U << n) - 1U), v);
}
static inline vf vf_set(float x)
{
    return _mm512_set1_ps(x);
}
static inline vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
static inline vf vf_recip(vf a) /* 1 / a to 1 ulp: an estimate of 14 bits and one step */
{
    vf r = _mm512_rcp14_ps(a);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(a, r, _mm512_set1_ps(2.0f)));
}
static inline vf vf_fma(vf a, vf b, vf c) /* a*b + c */
{
    return _mm512_fmadd_ps(a, b, c);
}
static inline vf vf_max(vf a, vf b) /* b where either is NaN */
{
    return _mm512_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b) /* b where either is NaN */
{
    return _mm512_min_ps(a, b);
}
static inline vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, 8);
}
static inline vf vf_scale2(vf a, vf n) /* a * 2^n, n whole */
{
    return _mm512_scalef_ps(a, n);
}
static inline vf vf_zero_below(vf x, float limit, vf v) /* 0 where x < limit, else v */
{
    return _mm512_maskz_mov_ps((__mmask16)~_mm512_cmp_ps_mask(x, _mm512_set1_ps(limit), _CMP_LT_OQ), v);
}
static inline float vf_sum(vf v)
{
    return _mm512_reduce_add_ps(v);
}
static inline float vf_hmax(vf v)
{
    return _mm512_reduce_max_ps(v);
}
static inline vf vf_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    __m512i u = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
}
static inline vf vf_set_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_set1_epi16((short)*p));
}
static inline void vf_store_f16(uint16_t *p, vf v)
{
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vf_store_bf16(uint16_t *p, vf v)
{
    __m512i u = _mm512_castps_si512(v);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    __m512i r = _mm512_srli_epi32(_mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff))), 16);
    __m512i nan = _mm512_or_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(0x40));
    r = _mm512_mask_mov_epi32(r, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), nan);
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtepi32_epi16(r));
}
/* Even and odd elements of 2*VL bf16. */
static inline void vf_load_bf16_pair(const uint16_t *p, vf *even, vf *odd)
{
    __m512i u = _mm512_loadu_si512(p);
    *even = _mm512_castsi512_ps(_mm512_slli_epi32(u, 16));
    *odd = _mm512_castsi512_ps(_mm512_and_si512(u, _mm512_set1_epi32((int)0xffff0000U)));
}
/* Lane i of the result is the sum of v[i]. */
static inline vf vf_sum_rows(const vf v[16])
{
    vf t[8], u[4];
    for (int i = 0; i < 8; i++)
        t[i] = vf_add(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]), _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; i++) {
        __m512d a = _mm512_castps_pd(t[2 * i]), b = _mm512_castps_pd(t[2 * i + 1]);
        u[i] = vf_add(_mm512_castpd_ps(_mm512_unpacklo_pd(a, b)), _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)));
    }
    vf x = vf_add(_mm512_shuffle_f32x4(u[0], u[1], 0x88), _mm512_shuffle_f32x4(u[0], u[1], 0xdd));
    vf y = vf_add(_mm512_shuffle_f32x4(u[2], u[3], 0x88), _mm512_shuffle_f32x4(u[2], u[3], 0xdd));
    return vf_add(_mm512_shuffle_f32x4(x, y, 0x88), _mm512_shuffle_f32x4(x, y, 0xdd));
}
/* v where lo <= at[i] < hi, else `other`. */
static inline vf vf_where(const int32_t *at, int32_t lo, int32_t hi, vf v, float other)
{
    __m512i t = _mm512_loadu_si512(at);
    __mmask16 m = _mm512_cmp_epi32_mask(t, _mm512_set1_epi32(lo), _MM_CMPINT_NLT) &
                  _mm512_cmp_epi32_mask(t, _mm512_set1_epi32(hi), _MM_CMPINT_LT);
    return _mm512_mask_mov_ps(_mm512_set1_ps(other), m, v);
}
/* 16 x 16 lanes. */
static inline void vf_transpose(__m512i v[16])
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
static inline bool vf_all_equal(vf v, float x)
{
    return _mm512_cmp_ps_mask(v, _mm512_set1_ps(x), _CMP_EQ_OQ) == 0xffff;
}

#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include <immintrin.h>
#define ISA(name) name##_avx2
#define ISA_NAME  "avx2"
#define VL        8
typedef __m256 vf;

static inline vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
static inline void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}
static inline vf vf_load_n(const float *p, int64_t n)
{
    float t[8] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return _mm256_loadu_ps(t);
}
static inline void vf_store_n(float *p, vf v, int64_t n)
{
    float t[8];
    _mm256_storeu_ps(t, v);
    memcpy(p, t, (size_t)n * sizeof *t);
}
static inline vf vf_set(float x)
{
    return _mm256_set1_ps(x);
}
static inline vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
static inline vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
static inline vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
static inline vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
static inline vf vf_recip(vf a)
{
    return _mm256_div_ps(_mm256_set1_ps(1.0f), a);
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
static inline vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
static inline vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
static inline vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline vf vf_scale2(vf a, vf n) /* n in -126..127 */
{
    __m256i e = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
    return _mm256_mul_ps(a, _mm256_castsi256_ps(e));
}
static inline vf vf_zero_below(vf x, float limit, vf v)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, _mm256_set1_ps(limit), _CMP_LT_OQ), v);
}
static inline float vf_sum(vf v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}
static inline float vf_hmax(vf v)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_shuffle_ps(s, s, 1)));
}
static inline vf vf_load_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    __m256i u = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
}
static inline vf vf_set_f16(const uint16_t *p)
{
    return _mm256_cvtph_ps(_mm_set1_epi16((short)*p));
}
static inline void vf_store_f16(uint16_t *p, vf v)
{
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
static inline void vf_store_bf16(uint16_t *p, vf v)
{
    float t[8];
    _mm256_storeu_ps(t, v);
    for (int i = 0; i < 8; i++)
        p[i] = bf16_from_f32(t[i]);
}
static inline void vf_load_bf16_pair(const uint16_t *p, vf *even, vf *odd)
{
    __m256i u = _mm256_loadu_si256((const __m256i *)p);
    *even = _mm256_castsi256_ps(_mm256_slli_epi32(u, 16));
    *odd = _mm256_castsi256_ps(_mm256_and_si256(u, _mm256_set1_epi32((int)0xffff0000U)));
}
static inline vf vf_sum_rows(const vf v[8])
{
    vf a = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
    vf b = _mm256_hadd_ps(_mm256_hadd_ps(v[4], v[5]), _mm256_hadd_ps(v[6], v[7]));
    return vf_add(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
static inline vf vf_where(const int32_t *at, int32_t lo, int32_t hi, vf v, float other)
{
    __m256i t = _mm256_loadu_si256((const __m256i *)at);
    __m256i out = _mm256_or_si256(
        _mm256_cmpgt_epi32(_mm256_set1_epi32(lo), t),
        _mm256_xor_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(hi), t), _mm256_set1_epi32(-1)));
    return _mm256_blendv_ps(v, _mm256_set1_ps(other), _mm256_castsi256_ps(out));
}
static inline bool vf_all_equal(vf v, float x)
{
    return _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(x), _CMP_EQ_OQ)) == 0xff;
}

#else
#include <math.h>
#define ISA(name) name##_portable
#define ISA_NAME  "portable"
#define VL        4
typedef float vf __attribute__((vector_size(16)));

static inline vf vf_load(const float *p)
{
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}
static inline void vf_store(float *p, vf v)
{
    memcpy(p, &v, sizeof v);
}
static inline vf vf_load_n(const float *p, int64_t n)
{
    vf v = {0};
    memcpy(&v, p, (size_t)n * sizeof *p);
    return v;
}
static inline void vf_store_n(float *p, vf v, int64_t n)
{
    memcpy(p, &v, (size_t)n * sizeof *p);
}
static inline vf vf_set(float x)
{
    return (vf){x, x, x, x};
}
static inline vf vf_add(vf a, vf b)
{
    return a + b;
}
static inline vf vf_sub(vf a, vf b)
{
    return a - b;
}
static inline vf vf_mul(vf a, vf b)
{
    return a * b;
}
static inline vf vf_div(vf a, vf b)
{
    return a / b;
}
static inline vf vf_recip(vf a)
{
    return vf_set(1.0f) / a;
}
static inline vf vf_fma(vf a, vf b, vf c)
{
    return a * b + c;
}
static inline vf vf_max(vf a, vf b)
{
    for (int i = 0; i < VL; i++)
        b[i] = a[i] > b[i] ? a[i] : b[i];
    return b;
}
static inline vf vf_min(vf a, vf b)
{
    for (int i = 0; i < VL; i++)
        b[i] = a[i] < b[i] ? a[i] : b[i];
    return b;
}
static inline vf vf_round(vf a)
{
    for (int i = 0; i < VL; i++)
        a[i] = rintf(a[i]);
    return a;
}
static inline vf vf_scale2(vf a, vf n)
{
    for (int i = 0; i < VL; i++)
        a[i] *= isnan(n[i]) ? n[i] : f32_from_bits((uint32_t)((int32_t)n[i] + 127) << 23);
    return a;
}
static inline vf vf_zero_below(vf x, float limit, vf v)
{
    for (int i = 0; i < VL; i++)
        v[i] = x[i] < limit ? 0.0f : v[i];
    return v;
}
static inline float vf_sum(vf v)
{
    return (v[0] + v[2]) + (v[1] + v[3]);
}
static inline float vf_hmax(vf v)
{
    float a = v[0] > v[1] ? v[0] : v[1], b = v[2] > v[3] ? v[2] : v[3];
    return a > b ? a : b;
}
static inline vf vf_load_f16(const uint16_t *p)
{
    return (vf){f16_to_f32(p[0]), f16_to_f32(p[1]), f16_to_f32(p[2]), f16_to_f32(p[3])};
}
static inline vf vf_load_bf16(const uint16_t *p)
{
    return (vf){bf16_to_f32(p[0]), bf16_to_f32(p[1]), bf16_to_f32(p[2]), bf16_to_f32(p[3])};
}
static inline vf vf_set_f16(const uint16_t *p)
{
    return vf_set(f16_to_f32(*p));
}
static inline void vf_store_f16(uint16_t *p, vf v)
{
    for (int i = 0; i < VL; i++)
        p[i] = f16_from_f32(v[i]);
}
static inline void vf_store_bf16(uint16_t *p, vf v)
{
    for (int i = 0; i < VL; i++)
        p[i] = bf16_from_f32(v[i]);
}
static inline void vf_load_bf16_pair(const uint16_t *p, vf *even, vf *odd)
{
    vf e = {0}, o = {0};
    for (int i = 0; i < VL; i++) {
        e[i] = bf16_to_f32(p[2 * i]);
        o[i] = bf16_to_f32(p[2 * i + 1]);
    }
    *even = e;
    *odd = o;
}
static inline vf vf_sum_rows(const vf v[4])
{
    return (vf){vf_sum(v[0]), vf_sum(v[1]), vf_sum(v[2]), vf_sum(v[3])};
}
static inline vf vf_where(const int32_t *at, int32_t lo, int32_t hi, vf v, float other)
{
    for (int i = 0; i < VL; i++)
        v[i] = at[i] >= lo && at[i] < hi ? v[i] : other;
    return v;
}
static inline bool vf_all_equal(vf v, float x)
{
    return v[0] == x && v[1] == x && v[2] == x && v[3] == x;
}
#endif

/* e^x: x = n ln2 + r with ln2 in two parts, so that r is exact to the last bit. */
static inline vf vf_exp(vf x)
{
    vf y = vf_min(vf_set(88.3f), vf_max(vf_set(-87.3f), x)); /* NaN is the second operand: kept */
    vf n = vf_round(vf_mul(y, vf_set(1.44269504f)));
    vf r = vf_fma(n, vf_set(-0.693359375f), y);
    r = vf_fma(n, vf_set(2.12194440e-4f), r);
    vf p = vf_set(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set(5.0000001201e-1f));
    p = vf_fma(vf_mul(r, r), p, vf_add(r, vf_set(1.0f)));
    return vf_zero_below(x, -87.3f, vf_scale2(p, n));
}

static inline vf vf_silu_times(vf g, vf u) /* silu(g) * u */
{
    vf e = vf_exp(vf_sub(vf_set(0.0f), g));
    return vf_mul(vf_mul(g, vf_recip(vf_add(vf_set(1.0f), e))), u);
}

static inline vf vf_neg(vf x)
{
    return vf_sub(vf_set(0.0f), x);
}
static inline vf vf_sigmoid(vf x)
{
    return vf_recip(vf_add(vf_set(1.0f), vf_exp(vf_neg(x))));
}
/* log(1 + e^x) = max(x, 0) + log1p(e^-|x|), with log1p(u) = 2 atanh(u / (2 + u)): good to 3 ulp. */
static inline vf vf_softplus(vf x)
{
    vf u = vf_exp(vf_min(x, vf_neg(x))), s = vf_div(u, vf_add(vf_set(2.0f), u)), q = vf_mul(s, s), p = vf_set(2.0f / 15.0f);
    for (int k = 13; k >= 1; k -= 2)
        p = vf_fma(p, q, vf_set(2.0f / (float)k));
    return vf_fma(p, s, vf_max(vf_set(0.0f), x));
}
/* e^x - 1 for x <= 0, good to 4 ulp: a series near 0. */
static inline vf vf_expm1(vf x)
{
    vf p = vf_set(1.0f), far = vf_sub(vf_exp(x), vf_set(1.0f));
    for (int k = 8; k >= 2; k--)
        p = vf_fma(vf_mul(p, x), vf_set(1.0f / (float)k), vf_set(1.0f));
    return vf_add(vf_zero_below(x, -0.35f, vf_mul(p, x)), vf_sub(far, vf_zero_below(x, -0.35f, far)));
}
/* tanh of x >= 0 */
static inline vf vf_tanh_positive(vf x)
{
    vf e = vf_expm1(vf_mul(x, vf_set(-2.0f)));
    return vf_div(vf_neg(e), vf_add(e, vf_set(2.0f)));
}
static inline vf vf_tanh(vf x)
{
    return vf_sub(vf_tanh_positive(vf_max(vf_set(0.0f), x)), vf_tanh_positive(vf_max(vf_set(0.0f), vf_neg(x))));
}

#endif
