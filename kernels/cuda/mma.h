/* The matrix unit's instructions behind small functions, with plain twins for the shim. Fragments as in the
 * PTX manual (mma.m16n8k16, ldmatrix, movmatrix): lane = 4 * g + t holds, for C, rows g and g + 8, columns 2t
 * and 2t
 * + 1. */
#ifndef KVS_KERNELS_CUDA_MMA_H
#define KVS_KERNELS_CUDA_MMA_H

#include "kernels/cuda/cuda.h"

/* Bits of a 16-bit value of the unit's type. */
template <bool BF16> DEVICE uint16_t unit_bits(float x)
{
    return BF16 ? brain_bits(x) : half_bits(x);
}

#ifdef KVS_SHIM

/* Two of them, `low` in the low half. */
template <bool BF16> DEVICE uint32_t unit_pair(float low, float high)
{
    return (uint32_t)unit_bits<BF16>(low) | (uint32_t)unit_bits<BF16>(high) << 16;
}

/* Bytes of b a by number, one a nibble of `pick`, the lowest first. */
DEVICE uint32_t bytes_of(uint32_t a, uint32_t b, uint32_t pick)
{
    uint32_t x = 0;
    for (int i = 0; i < 32; i += 8)
        x |= (uint32_t)(((uint64_t)b << 32 | a) >> (pick >> i / 2 & 7) * 8 & 0xffU) << i;
    return x;
}

/* (x & mask) | base in one instruction: from the operators the compiler makes two where both are constants.
 */
DEVICE uint32_t bits_into(uint32_t x, uint32_t mask, uint32_t base)
{
    return (x & mask) | base;
}

/* Rounded once: the odd last bit of an f32 stands for what it leaves out. */
DEVICE uint32_t half_of(double x)
{
    float f = (float)x;
    if ((double)f != x && !isnan(x) && !isinf(f)) {
        uint32_t u = __float_as_uint(f) - (fabs((double)f) > fabs(x));
        f = __uint_as_float(u | 1U);
    }
    return half_bits(f);
}
DEVICE double half_at(uint32_t x, int half)
{
    return (double)half_value((uint16_t)(x >> half * 16));
}

/* Two f16 values in a register: a b + c, rounded once; a b; a + b. */
DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    return half_of(half_at(a, 0) * half_at(b, 0) + half_at(c, 0)) |
           half_of(half_at(a, 1) * half_at(b, 1) + half_at(c, 1)) << 16;
}
DEVICE uint32_t half2_mul(uint32_t a, uint32_t b)
{
    return half_of(half_at(a, 0) * half_at(b, 0)) | half_of(half_at(a, 1) * half_at(b, 1)) << 16;
}
DEVICE uint32_t half2_add(uint32_t a, uint32_t b)
{
    return half_of(half_at(a, 0) + half_at(b, 0)) | half_of(half_at(a, 1) + half_at(b, 1)) << 16;
}

/* 2^x, to 2 units in the last place; results below the normal range are 0. */
DEVICE float unit_exp2(float x)
{
    return exp2f(x);
}

template <bool BF16> DEVICE float unit_value(uint16_t h)
{
    return BF16 ? brain_value(h) : half_value(h);
}

/* c [16,8] += a [16,16] b [16,8]. */
template <bool BF16> DEVICE void unit_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    struct mine {
        uint32_t a[4], b[2];
    } m, all[32];
    memcpy(m.a, a, sizeof m.a);
    memcpy(m.b, b, sizeof m.b);
    memcpy(all, shim_exchange(&m, sizeof m), sizeof all);
    unsigned g = shim_lane() / 4, t = shim_lane() % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned row = g + (i / 2) * 8, col = 2 * t + i % 2;
        for (unsigned k = 0; k < 16; k++) {
            const mine *x = &all[row % 8 * 4 + k % 8 / 2], *y = &all[col * 4 + k % 8 / 2];
            uint32_t va = x->a[row / 8 + k / 8 * 2] >> (k % 2 * 16), vb = y->b[k / 8] >> (k % 2 * 16);
            c[i] += unit_value<BF16>((uint16_t)va) * unit_value<BF16>((uint16_t)vb);
        }
    }
}

/* Four 8x8 matrices of 16-bit values; lane 8m + r brings the address of row r of matrix m. Lane 4g + t gets
 * columns 2t, 2t + 1 of row g of each; TURNED: rows 2t, 2t + 1 of column g. */
template <bool TURNED> DEVICE void unit_load(uint32_t v[4], const void *row)
{
    const uint16_t *all[32];
    memcpy(all, shim_exchange(&row, sizeof row), sizeof all);
    unsigned g = shim_lane() / 4, t = shim_lane() % 4;
    for (unsigned m = 0; m < 4; m++) {
        uint16_t low = TURNED ? all[m * 8 + 2 * t][g] : all[m * 8 + g][2 * t];
        uint16_t high = TURNED ? all[m * 8 + 2 * t + 1][g] : all[m * 8 + g][2 * t + 1];
        v[m] = (uint32_t)low | (uint32_t)high << 16;
    }
    shim_warp_barrier(); // on a GPU nobody runs ahead before all have read
}

/* An 8x8 matrix of 16-bit values, columns 2t and 2t + 1 of row g in lane 4g + t, turned around. */
DEVICE uint32_t unit_turn(uint32_t x)
{
    uint32_t all[32];
    memcpy(all, shim_exchange(&x, sizeof x), sizeof all);
    unsigned g = shim_lane() / 4, t = shim_lane() % 4, shift = g % 2 * 16;
    return (all[8 * t + g / 2] >> shift & 0xffffU) | (all[8 * t + 4 + g / 2] >> shift & 0xffffU) << 16;
}

#else

template <bool BF16> DEVICE uint32_t unit_pair(float low, float high)
{
    uint32_t x;
    if (BF16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(x) : "f"(high), "f"(low));
    return x;
}

DEVICE uint32_t bytes_of(uint32_t a, uint32_t b, uint32_t pick)
{
    return __byte_perm(a, b, pick);
}

DEVICE uint32_t bits_into(uint32_t x, uint32_t mask, uint32_t base)
{
    uint32_t y;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(y) : "r"(x), "r"(mask), "r"(base));
    return y;
}

DEVICE uint32_t half2_fma(uint32_t a, uint32_t b, uint32_t c)
{
    uint32_t x;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(x) : "r"(a), "r"(b), "r"(c));
    return x;
}
DEVICE uint32_t half2_mul(uint32_t a, uint32_t b)
{
    uint32_t x;
    asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(x) : "r"(a), "r"(b));
    return x;
}
DEVICE uint32_t half2_add(uint32_t a, uint32_t b)
{
    uint32_t x;
    asm("add.rn.f16x2 %0, %1, %2;" : "=r"(x) : "r"(a), "r"(b));
    return x;
}

DEVICE float unit_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

template <bool BF16> DEVICE void unit_mma(float c[4], const uint32_t a[4], const uint32_t b[2])
{
    if (BF16)
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    else
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
            "{%0,%1,%2,%3};"
            : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

template <bool TURNED> DEVICE void unit_load(uint32_t v[4], const void *row)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(row);
    if (TURNED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                     : "r"(at)
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                     : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3])
                     : "r"(at)
                     : "memory");
}

DEVICE uint32_t unit_turn(uint32_t x)
{
    uint32_t y;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

#endif
#endif
