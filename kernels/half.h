/* 16-bit floats in plain C: round to nearest even, subnormals and infinities kept, NaN stays NaN. The same
 * bits as the conversion instructions of CPUs (vcvtps2ph, vcvtph2ps) for every number. */
#ifndef KVS_KERNELS_HALF_H
#define KVS_KERNELS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t f32_bits(float x)
{
    uint32_t u;
    memcpy(&u, &x, 4);
    return u;
}

static inline float f32_from_bits(uint32_t u)
{
    float x;
    memcpy(&x, &u, 4);
    return x;
}

static inline float bf16_to_f32(uint16_t h)
{
    return f32_from_bits((uint32_t)h << 16);
}

static inline uint16_t bf16_from_f32(float x)
{
    uint32_t u = f32_bits(x);
    if ((u & 0x7fffffffU) > 0x7f800000U)
        return (uint16_t)((u >> 16) | 0x40U);
    return (uint16_t)((u + 0x7fffU + ((u >> 16) & 1U)) >> 16);
}

static inline float f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000U) << 16;
    uint32_t e = (h >> 10) & 0x1fU, m = h & 0x3ffU;
    if (e == 31)
        return f32_from_bits(sign | 0x7f800000U | (m << 13) | (m ? 0x400000U : 0U));
    if (e != 0)
        return f32_from_bits(sign | ((e + 112U) << 23) | (m << 13));
    float tiny = (float)m * 0x1p-24f; /* exact */
    return f32_from_bits(sign | f32_bits(tiny));
}

static inline uint16_t f16_from_f32(float x)
{
    uint32_t u = f32_bits(x), sign = (u >> 16) & 0x8000U;
    u &= 0x7fffffffU;
    if (u > 0x7f800000U)
        return (uint16_t)(sign | 0x7e00U | ((u >> 13) & 0x3ffU));
    if (u >= 0x477ff000U) /* 65520 and above round to infinity */
        return (uint16_t)(sign | 0x7c00U);
    if (u < 0x38800000U) { /* below 2^-14: adding 0.5 rounds the mantissa at 2^-24 */
        float t = f32_from_bits(u) + 0.5f;
        return (uint16_t)(sign | (f32_bits(t) - 0x3f000000U));
    }
    return (uint16_t)(sign | ((u - 0x38000000U + 0xfffU + ((u >> 13) & 1U)) >> 13));
}

/* x rounded to f16 and back: one op of fp16 arithmetic. */
static inline float f16_round(float x)
{
    return f16_to_f32(f16_from_f32(x));
}

#endif
