/* Attention weights as bf16 pairs, for the files compiled for AVX-512 with BF16. */
#ifndef KVS_KERNELS_CPU_WEIGHT16_H
#define KVS_KERNELS_CPU_WEIGHT16_H

#include "kernels/cpu/isa.h"

/* 2^x for weights that are rounded to bf16 anyway: relative error 1e-4. Keeps NaN. scalef takes the whole
 * part. */
static inline __m512 exp2_fast(__m512 x)
{
    __m512 f = _mm512_reduce_ps(x, 1); /* x - floor(x) */
    __m512 p = vf_set(7.802452004e-02f);
    p = vf_fma(p, f, vf_set(2.260671591e-01f));
    p = vf_fma(p, f, vf_set(6.958335392e-01f));
    p = vf_fma(p, f, vf_set(9.999252186e-01f));
    return _mm512_scalef_ps(p, x);
}

/* Bits of two weights as a bf16 pair, rounded half up: neither is negative. */
static inline __m512i weight_bits(__m512 low, __m512 high)
{
    const __m512i half = _mm512_set1_epi32(0x8000);
    __m512i a = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(low), half), 16);
    return _mm512_mask_mov_epi16(a, 0xaaaaaaaaU, _mm512_add_epi32(_mm512_castps_si512(high), half));
}

/* Maxima are raised (and what was summed is rescaled) only where weights would grow beyond 2^8: sums and
 * weights keep their relative precision. Returns whether any lane must be. */
static inline bool raise_max(__m512 old, __m512 *m)
{
    bool grows = _mm512_cmp_ps_mask(*m, vf_add(old, vf_set(8.0f)), _CMP_NLE_UQ) != 0; /* NaN too */
    *m = grows ? *m : old;
    return grows;
}

#endif
