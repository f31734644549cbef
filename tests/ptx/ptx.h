/* What the instructions of PTX mean, for the C++ that translate.py makes of it. Written from NVIDIA's PTX ISA
 * (the numbers in brackets are its sections), not from the kernels' twins in tests/shim. Here: what one
 * thread computes. What it reads and writes: memory.cc; with other threads: threads.cc; matrices: matrix.cc.
 * An instruction is a function of its own name.
 *
 * Every meaning was compared with the text of PTX ISA 9.0, section by section; where else it was looked up
 * stands beside it. check.cc holds the machine against those words. */
#ifndef KVS_TESTS_PTX_PTX_H
#define KVS_TESTS_PTX_PTX_H

#include <cuda_shim.h>

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>
#include <vector>

/* ------------------------------------------------------------------ kernels and where they run */

struct ptx_three {
    unsigned x, y, z;
};
struct ptx_thread { /* more of it: machine.h */
    ptx_three tid;
};
struct ptx_block_state {
    ptx_three ntid, ctaid, nctaid;
};
extern ptx_block_state ptx_block;
struct ptx_loc {
    unsigned line, file, row;     /* line of the PTX, and of the source */
    unsigned from_file, from_row; /* where that was inlined; from_row 0: nowhere */
};
struct ptx_module { /* one .entry */
    ptx_module(const char *name, void (*run)(ptx_thread *, const char *), std::vector<size_t> param_sizes,
               std::vector<size_t> param_at, size_t param_bytes, unsigned shared, unsigned max_threads,
               const char *ptx, const ptx_loc *locs, size_t n_locs, const char *const *files);
    const char *name;
    void (*run)(ptx_thread *, const char *param);
    std::vector<size_t> param_sizes, param_at;
    size_t param_bytes;
    unsigned shared, max_threads; /* max_threads 0: as many as a GPU takes */
    const char *ptx;
    const ptx_loc *locs;
    size_t n_locs;
    const char *const *files;
};
struct ptx_table { /* device memory that comes with the code */
    ptx_table(const void *data, size_t bytes);
};

/* Shared memory begins behind the part that the system keeps for itself (1 KiB since compute capability 9.0);
 * dynamic shared memory follows the variables at the next multiple of 16: GPUs take no notice of a larger
 * .align of it (NVIDIA/cccl, pull request 5122; Tencent/hpc-ops, issue 42). */
const unsigned PTX_SHARED_BASE = 1024;
static inline uint32_t ptx_dynamic(uint32_t variables)
{
    return PTX_SHARED_BASE + (variables + 15U) / 16U * 16U;
}

/* Values as they lie in memory. */
#define PTX_IN_MEMORY(name, type) typedef type __attribute__((may_alias)) ptx_##name
PTX_IN_MEMORY(u8, uint8_t);
PTX_IN_MEMORY(s8, int8_t);
PTX_IN_MEMORY(b16, uint16_t);
PTX_IN_MEMORY(u16, uint16_t);
PTX_IN_MEMORY(s16, int16_t);
PTX_IN_MEMORY(b32, uint32_t);
PTX_IN_MEMORY(u32, uint32_t);
PTX_IN_MEMORY(s32, int32_t);
PTX_IN_MEMORY(b64, uint64_t);
PTX_IN_MEMORY(u64, uint64_t);
PTX_IN_MEMORY(s64, int64_t);
PTX_IN_MEMORY(f32, float);
PTX_IN_MEMORY(f64, double);

/* ------------------------------------------------------------------ bits */

#define PTX_OP static inline __attribute__((always_inline))

PTX_OP float f32_of(uint32_t x)
{
    float y;
    memcpy(&y, &x, 4);
    return y;
}
PTX_OP uint32_t u32_of(float x)
{
    uint32_t y;
    memcpy(&y, &x, 4);
    return y;
}
PTX_OP double f64_of(uint64_t x)
{
    double y;
    memcpy(&y, &x, 8);
    return y;
}
PTX_OP uint64_t u64_of(double x)
{
    uint64_t y;
    memcpy(&y, &x, 8);
    return y;
}

/* ------------------------------------------------------------------ integers (9.7.1) */

/* 9.7.1.1 to 9.7.1.13: add, sub, mul, mad, div, rem, neg, min, max. Sums and products wrap: they are done
 * without a sign. `wide` has twice the bits. */
#define PTX_INT(t, type, bare)                                                                               \
    PTX_OP type add_##t(type a, type b)                                                                      \
    {                                                                                                        \
        return (type)((bare)a + (bare)b);                                                                    \
    }                                                                                                        \
    PTX_OP type sub_##t(type a, type b)                                                                      \
    {                                                                                                        \
        return (type)((bare)a - (bare)b);                                                                    \
    }                                                                                                        \
    PTX_OP type mul_lo_##t(type a, type b)                                                                   \
    {                                                                                                        \
        return (type)((bare)a * (bare)b);                                                                    \
    }                                                                                                        \
    PTX_OP type mad_lo_##t(type a, type b, type c)                                                           \
    {                                                                                                        \
        return (type)((bare)a * (bare)b + (bare)c);                                                          \
    }                                                                                                        \
    PTX_OP type neg_##t(type a)                                                                              \
    {                                                                                                        \
        return (type)((bare)0 - (bare)a);                                                                    \
    }                                                                                                        \
    PTX_OP type min_##t(type a, type b)                                                                      \
    {                                                                                                        \
        return a < b ? a : b;                                                                                \
    }                                                                                                        \
    PTX_OP type max_##t(type a, type b)                                                                      \
    {                                                                                                        \
        return a > b ? a : b;                                                                                \
    }                                                                                                        \
    PTX_OP type div_##t(type a, type b) /* by 0: a value that the machine chooses */                         \
    {                                                                                                        \
        return b == 0                                                     ? (type) ~(bare)0                  \
               : (type)((bare)b + 1U) == 0 && std::is_signed<type>::value ? neg_##t(a)                       \
                                                                          : (type)(a / b);                   \
    }                                                                                                        \
    PTX_OP type rem_##t(type a, type b)                                                                      \
    {                                                                                                        \
        return b == 0                                                     ? a                                \
               : (type)((bare)b + 1U) == 0 && std::is_signed<type>::value ? (type)0                          \
                                                                          : (type)(a % b);                   \
    }                                                                                                        \
    PTX_OP type shr_##t(type a, uint32_t b) /* more than the width: the width (9.7.8.9) */                   \
    {                                                                                                        \
        return b < sizeof(type) * 8 ? (type)(a >> b) : (type)(a >> (sizeof(type) * 8 - 1) >> 1);             \
    }                                                                                                        \
    PTX_COMPARE(t, type)                                                                                     \
    PTX_PLAIN(t, type)
#define PTX_PLAIN(t, type)                                                                                   \
    PTX_OP type mov_##t(type a)                                                                              \
    {                                                                                                        \
        return a;                                                                                            \
    }                                                                                                        \
    PTX_OP type selp_##t(type a, type b, bool p)                                                             \
    {                                                                                                        \
        return p ? a : b;                                                                                    \
    }
#define PTX_COMPARE(t, type)                                                                                 \
    PTX_OP bool setp_eq_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a == b;                                                                                       \
    }                                                                                                        \
    PTX_OP bool setp_ne_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a < b || a > b; /* false with a NaN */                                                        \
    }                                                                                                        \
    PTX_OP bool setp_lt_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a < b;                                                                                        \
    }                                                                                                        \
    PTX_OP bool setp_le_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a <= b;                                                                                       \
    }                                                                                                        \
    PTX_OP bool setp_gt_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a > b;                                                                                        \
    }                                                                                                        \
    PTX_OP bool setp_ge_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a >= b;                                                                                       \
    }
PTX_INT(s16, int16_t, uint32_t)
PTX_INT(u16, uint16_t, uint32_t)
PTX_INT(s32, int32_t, uint32_t)
PTX_INT(u32, uint32_t, uint32_t)
PTX_INT(s64, int64_t, uint64_t)
PTX_INT(u64, uint64_t, uint64_t)

/* Byte i is the one of b a that nibble i of c names; its eighth bit: that byte's sign, eight times (9.7.9.7).
 */
PTX_OP uint32_t prmt_b32(uint32_t a, uint32_t b, uint32_t c)
{
    const uint64_t all = (uint64_t)b << 32 | a;
    uint32_t d = 0;
    for (int i = 0; i < 4; i++, c >>= 4) {
        const uint32_t byte = (uint32_t)(all >> (c & 7) * 8) & 0xffU;
        d |= (c & 8 ? (byte & 0x80U ? 0xffU : 0U) : byte) << i * 8;
    }
    return d;
}

/* Bit i is the one of `table` that the bits i of a, b, c name, a the highest (9.7.8.7). */
PTX_OP uint32_t lop3_b32(uint32_t a, uint32_t b, uint32_t c, uint32_t table)
{
    uint32_t d = 0;
    for (int i = 0; i < 32; i++)
        d |= (table >> ((a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1)) & 1U) << i;
    return d;
}

/* Logic and shifts (9.7.8). */
#define PTX_BITS(t, type)                                                                                    \
    PTX_OP type and_##t(type a, type b)                                                                      \
    {                                                                                                        \
        return (type)(a & b);                                                                                \
    }                                                                                                        \
    PTX_OP type or_##t(type a, type b)                                                                       \
    {                                                                                                        \
        return (type)(a | b);                                                                                \
    }                                                                                                        \
    PTX_OP type xor_##t(type a, type b)                                                                      \
    {                                                                                                        \
        return (type)(a ^ b);                                                                                \
    }                                                                                                        \
    PTX_OP type not_##t(type a)                                                                              \
    {                                                                                                        \
        return (type)~a;                                                                                     \
    }                                                                                                        \
    PTX_OP type shl_##t(type a, uint32_t b)                                                                  \
    {                                                                                                        \
        return b < sizeof(type) * 8 ? (type)(a << b) : (type)0;                                              \
    }                                                                                                        \
    PTX_OP bool setp_eq_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a == b;                                                                                       \
    }                                                                                                        \
    PTX_OP bool setp_ne_##t(type a, type b)                                                                  \
    {                                                                                                        \
        return a != b;                                                                                       \
    }                                                                                                        \
    PTX_PLAIN(t, type)
PTX_BITS(b16, uint16_t)
PTX_BITS(b32, uint32_t)
PTX_BITS(b64, uint64_t)
PTX_PLAIN(f32, float)
PTX_PLAIN(f64, double)

/* `bits` low bits of a into b at bit `at` (9.7.1.20). */
#define PTX_BFI(t, type)                                                                                     \
    PTX_OP type bfi_##t(type a, type b, uint32_t at, uint32_t bits)                                          \
    {                                                                                                        \
        const uint32_t width = sizeof(type) * 8;                                                             \
        at &= 0xffU;                                                                                         \
        bits &= 0xffU;                                                                                       \
        if (at >= width || bits == 0)                                                                        \
            return b;                                                                                        \
        const type mask = (type)((bits >= width ? (type) ~(type)0 : (type)(((type)1 << bits) - 1U)) << at);  \
        return (type)((b & ~mask) | ((type)(a << at) & mask));                                               \
    }
PTX_BFI(b32, uint32_t)
PTX_BFI(b64, uint64_t)

#define PTX_WIDE(narrow, narrow_type, wide, wide_type)                                                       \
    PTX_OP wide_type mul_wide_##narrow(narrow_type a, narrow_type b)                                         \
    {                                                                                                        \
        return (wide_type)a * (wide_type)b;                                                                  \
    }
PTX_WIDE(s16, int16_t, s32, int32_t)
PTX_WIDE(u16, uint16_t, u32, uint32_t)
PTX_WIDE(s32, int32_t, s64, int64_t)
PTX_WIDE(u32, uint32_t, u64, uint64_t)
PTX_OP uint64_t mad_wide_u32(uint32_t a, uint32_t b, uint64_t c)
{
    return (uint64_t)a * b + c;
}
PTX_OP int64_t mad_wide_s32(int32_t a, int32_t b, int64_t c)
{
    return (int64_t)((uint64_t)((int64_t)a * b) + (uint64_t)c);
}

PTX_OP bool and_pred(bool a, bool b)
{
    return a && b;
}
PTX_OP bool or_pred(bool a, bool b)
{
    return a || b;
}
PTX_OP bool xor_pred(bool a, bool b)
{
    return a != b;
}
PTX_OP bool not_pred(bool a)
{
    return !a;
}
PTX_OP bool mov_pred(bool a)
{
    return a;
}

/* ------------------------------------------------------------------ floats (9.7.3) */

/* Which NaN arithmetic in f32 makes is left open (9.7.3); GPUs make 0x7fffffff, whatever went in (CUDA C++
 * Programming Guide, floating-point standard). NaNs of f64 keep theirs. */
PTX_OP float ptx_nan(float x)
{
    return x != x ? f32_of(0x7fffffffU) : x;
}
PTX_OP double ptx_nan(double x)
{
    return x;
}
/* Subnormal numbers count (no .ftz in these); every operation rounds once. The plain comparisons are false
 * with a NaN, those with u true (9.3.1). */
#define PTX_FLOAT(t, type, fused)                                                                            \
    PTX_OP type add_rn_##t(type a, type b)                                                                   \
    {                                                                                                        \
        return ptx_nan(a + b);                                                                               \
    }                                                                                                        \
    PTX_OP type sub_rn_##t(type a, type b)                                                                   \
    {                                                                                                        \
        return ptx_nan(a - b);                                                                               \
    }                                                                                                        \
    PTX_OP type mul_rn_##t(type a, type b)                                                                   \
    {                                                                                                        \
        return ptx_nan(a * b);                                                                               \
    }                                                                                                        \
    PTX_OP type div_rn_##t(type a, type b)                                                                   \
    {                                                                                                        \
        return ptx_nan(a / b);                                                                               \
    }                                                                                                        \
    PTX_OP type fma_rn_##t(type a, type b, type c)                                                           \
    {                                                                                                        \
        return ptx_nan(fused(a, b, c));                                                                      \
    }                                                                                                        \
    PTX_OP type abs_##t(type a)                                                                              \
    {                                                                                                        \
        return a != a ? ptx_nan(a) : a < 0 ? -a : a == 0 ? (type)0 : a;                                      \
    }                                                                                                        \
    PTX_OP type neg_##t(type a)                                                                              \
    {                                                                                                        \
        return -a;                                                                                           \
    }                                                                                                        \
    PTX_COMPARE(t, type)                                                                                     \
    PTX_OP bool setp_equ_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return !(a < b || a > b);                                                                            \
    }                                                                                                        \
    PTX_OP bool setp_neu_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return !(a == b);                                                                                    \
    }                                                                                                        \
    PTX_OP bool setp_ltu_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return !(a >= b);                                                                                    \
    }                                                                                                        \
    PTX_OP bool setp_leu_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return !(a > b);                                                                                     \
    }                                                                                                        \
    PTX_OP bool setp_gtu_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return !(a <= b);                                                                                    \
    }                                                                                                        \
    PTX_OP bool setp_geu_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return !(a < b);                                                                                     \
    }                                                                                                        \
    PTX_OP bool setp_num_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return a == a && b == b;                                                                             \
    }                                                                                                        \
    PTX_OP bool setp_nan_##t(type a, type b)                                                                 \
    {                                                                                                        \
        return a != a || b != b;                                                                             \
    }
PTX_FLOAT(f32, float, fmaf)
PTX_FLOAT(f64, double, fma)

/* One NaN: the other operand; -0 is less than +0 (9.7.3.11, 9.7.3.12). */
PTX_OP float max_f32(float a, float b)
{
    return a != a ? ptx_nan(b) : b != b ? a : a == b ? (signbit(a) ? b : a) : a > b ? a : b;
}
PTX_OP float min_f32(float a, float b)
{
    return a != a ? ptx_nan(b) : b != b ? a : a == b ? (signbit(a) ? a : b) : a < b ? a : b;
}
PTX_OP float copysign_f32(float a, float b) /* the sign of the first, the value of the second */
{
    return f32_of((u32_of(a) & 0x80000000U) | (u32_of(b) & 0x7fffffffU));
}
PTX_OP float rcp_rn_f32(float a)
{
    return ptx_nan(1.0f / a);
}
PTX_OP float sqrt_rn_f32(float a)
{
    return ptx_nan(sqrtf(a));
}
float fma_rm_f32(float a, float b, float c); /* towards minus infinity */
float add_rz_f32(float a, float b);          /* towards zero */

PTX_OP float cvt_rni_f32_f32(float a)
{
    return ptx_nan(nearbyintf(a));
}

/* Approximations: a GPU may be off by as much as the manual allows (9.7.3.21: 2 ulp for ex2); here they are
 * as near as f32 gets, with subnormal numbers zero on both sides. */
PTX_OP float ptx_flush(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}
PTX_OP float ex2_approx_ftz_f32(float a)
{
    return ptx_nan(ptx_flush(exp2f(ptx_flush(a))));
}
PTX_OP float rcp_approx_ftz_f32(float a)
{
    return ptx_nan(ptx_flush(1.0f / ptx_flush(a)));
}
PTX_OP float ex2_approx_f32(float a)
{
    return ptx_nan(exp2f(a));
}
PTX_OP double ptx_flush(double x)
{
    return fabs(x) < 0x1p-1022 ? copysign(0.0, x) : x;
}
/* Only the high 32 bits of operand and result count; of subnormal ones the sign alone (9.7.3.14). */
PTX_OP double rcp_approx_ftz_f64(double a)
{
    const double high = f64_of(u64_of(a) & 0xffffffff00000000U), x = ptx_flush(1.0 / ptx_flush(high));
    return high != high ? f64_of(0x7fffffff00000000U) : f64_of(u64_of(x) & 0xffffffff00000000U);
}

/* ------------------------------------------------------------------ conversions (9.7.9.21; tables: 6.5.1) */

#define PTX_CVT(to, to_type, from, from_type)                                                                \
    PTX_OP to_type cvt_##to##_##from(from_type a)                                                            \
    {                                                                                                        \
        return (to_type)a;                                                                                   \
    }
#define PTX_CVT_FROM(from, from_type)                                                                        \
    PTX_CVT(u8, uint8_t, from, from_type)                                                                    \
    PTX_CVT(s8, int8_t, from, from_type)                                                                     \
    PTX_CVT(u16, uint16_t, from, from_type)                                                                  \
    PTX_CVT(s16, int16_t, from, from_type)                                                                   \
    PTX_CVT(u32, uint32_t, from, from_type)                                                                  \
    PTX_CVT(s32, int32_t, from, from_type)                                                                   \
    PTX_CVT(u64, uint64_t, from, from_type)                                                                  \
    PTX_CVT(s64, int64_t, from, from_type)                                                                   \
    PTX_CVT(rn_f32, float, from, from_type)                                                                  \
    PTX_CVT(rn_f64, double, from, from_type)
PTX_CVT_FROM(u8, uint8_t)
PTX_CVT_FROM(s8, int8_t)
PTX_CVT_FROM(u16, uint16_t)
PTX_CVT_FROM(s16, int16_t)
PTX_CVT_FROM(u32, uint32_t)
PTX_CVT_FROM(s32, int32_t)
PTX_CVT_FROM(u64, uint64_t)
PTX_CVT_FROM(s64, int64_t)

/* Float to integer: what does not fit becomes the nearest that does, NaN becomes 0. */
PTX_OP int32_t ptx_to_s32(double x)
{
    return x != x ? 0 : x <= -0x1p31 ? INT32_MIN : x >= 0x1p31 ? INT32_MAX : (int32_t)x;
}
PTX_OP uint32_t ptx_to_u32(double x)
{
    return x != x || x <= 0.0 ? 0U : x >= 0x1p32 ? UINT32_MAX : (uint32_t)x;
}
PTX_OP int32_t cvt_rni_s32_f32(float a)
{
    return ptx_to_s32(nearbyintf(a));
}
PTX_OP uint32_t cvt_rni_u32_f32(float a)
{
    return ptx_to_u32(nearbyintf(a));
}
PTX_OP int32_t cvt_rzi_s32_f32(float a)
{
    return ptx_to_s32(truncf(a));
}
PTX_OP uint32_t cvt_rzi_u32_f32(float a)
{
    return ptx_to_u32(truncf(a));
}
PTX_OP float cvt_sat_f32_f32(float a) /* to [0, 1], NaN to +0 */
{
    return a > 0.0f ? (a < 1.0f ? a : 1.0f) : 0.0f;
}
PTX_OP double cvt_f64_f32(float a)
{
    return (double)a;
}
PTX_OP float cvt_rn_f32_f64(double a)
{
    return ptx_nan((float)a);
}

/* Halves: 1 sign, 5 exponent, 10 fraction (f16), or the upper half of an f32 (bf16). The manual does not say
 * what a NaN or what is too large becomes: as in the host's side of cuda_fp16.hpp and cuda_bf16.hpp
 * (CUDA 13.0), 0x7fff and infinity; all 2^32 values were compared with them. */
float cvt_f32_f16(uint16_t a);
uint16_t cvt_rn_f16_f32(float a);
uint16_t cvt_rn_bf16_f32(float a);
/* Halves two by two, each rounded once; subnormal numbers stay (9.7.4). f80 holds sums of products exactly.
 */
typedef long double ptx_f80;
uint16_t ptx_half(ptx_f80 exact);
PTX_OP uint32_t ptx_two(ptx_f80 low, ptx_f80 high)
{
    return (uint32_t)ptx_half(high) << 16 | ptx_half(low);
}
PTX_OP ptx_f80 ptx_low(uint32_t a)
{
    return cvt_f32_f16((uint16_t)a);
}
PTX_OP ptx_f80 ptx_high(uint32_t a)
{
    return cvt_f32_f16((uint16_t)(a >> 16));
}
PTX_OP uint32_t fma_rn_f16x2(uint32_t a, uint32_t b, uint32_t c)
{
    return ptx_two(ptx_low(a) * ptx_low(b) + ptx_low(c), ptx_high(a) * ptx_high(b) + ptx_high(c));
}
PTX_OP uint32_t mul_rn_f16x2(uint32_t a, uint32_t b)
{
    return ptx_two(ptx_low(a) * ptx_low(b), ptx_high(a) * ptx_high(b));
}
PTX_OP uint32_t add_rn_f16x2(uint32_t a, uint32_t b)
{
    return ptx_two(ptx_low(a) + ptx_low(b), ptx_high(a) + ptx_high(b));
}
/* Two at once: the first operand goes into the upper half. */
PTX_OP uint32_t cvt_rn_f16x2_f32(float a, float b)
{
    return (uint32_t)cvt_rn_f16_f32(a) << 16 | cvt_rn_f16_f32(b);
}
PTX_OP uint32_t cvt_rn_bf16x2_f32(float a, float b)
{
    return (uint32_t)cvt_rn_bf16_f32(a) << 16 | cvt_rn_bf16_f32(b);
}

/* ------------------------------------------------------------------ memory (memory.cc) */

/* Where a thread may read or write `bytes` at once; what is misaligned or outside ends the program. The line
 * is that of the PTX. */
const void *ld_global(ptx_thread *me, uint64_t address, unsigned bytes, unsigned line);
const void *ld_global_cs(ptx_thread *me, uint64_t address, unsigned bytes, unsigned line);
void *st_global(ptx_thread *me, uint64_t address, unsigned bytes, unsigned line);
const void *ld_shared(ptx_thread *me, uint32_t address, unsigned bytes, unsigned line);
void *st_shared(ptx_thread *me, uint32_t address, unsigned bytes, unsigned line);
const void *ld_generic(ptx_thread *me, uint64_t address, unsigned bytes, unsigned line);
void *st_generic(ptx_thread *me, uint64_t address, unsigned bytes, unsigned line);
void *st_local(ptx_thread *me, const char *depot, size_t size, uint64_t address, unsigned bytes,
               unsigned line);
static inline const void *ld_local(ptx_thread *me, const char *depot, size_t size, uint64_t address,
                                   unsigned bytes, unsigned line)
{
    return st_local(me, depot, size, address, bytes, line);
}
/* Shared memory has a window among the generic addresses (6.4.1.1, 9.7.9.20); global and local memory are
 * their own. */
uint64_t cvta_shared_u64(uint64_t address);
uint64_t cvta_to_shared_u64(uint64_t address);
PTX_OP uint64_t cvta_global_u64(uint64_t address)
{
    return address;
}
PTX_OP uint64_t cvta_to_global_u64(uint64_t address)
{
    return address;
}
PTX_OP uint64_t cvta_local_u64(uint64_t address)
{
    return address;
}
PTX_OP uint64_t cvta_to_local_u64(uint64_t address)
{
    return address;
}
void cp_async(ptx_thread *me, uint32_t dst, uint64_t src, unsigned bytes, unsigned from_src, unsigned line);
void cp_async_commit_group(ptx_thread *me, unsigned line);
void cp_async_wait_group(ptx_thread *me, unsigned left, unsigned line);
void fence_proxy_async(ptx_thread *me, unsigned line);

/* ------------------------------------------------------------------ threads together (threads.cc) */

void bar_sync(ptx_thread *me, uint32_t id, uint32_t threads, unsigned line); /* threads 0: all */
uint32_t shfl_sync_bfly(ptx_thread *me, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool *in,
                        unsigned line);
uint32_t shfl_sync_idx(ptx_thread *me, uint32_t a, uint32_t b, uint32_t c, uint32_t mask, bool *in,
                       unsigned line);
uint32_t vote_sync_ballot(ptx_thread *me, bool p, uint32_t mask, unsigned line);
void mbarrier_init(ptx_thread *me, uint32_t address, uint32_t count, unsigned line);
void mbarrier_arrive(ptx_thread *me, uint32_t address, unsigned line);
bool mbarrier_test_wait_parity(ptx_thread *me, uint32_t address, uint32_t parity, unsigned line);
bool mbarrier_try_wait_parity(ptx_thread *me, uint32_t address, uint32_t parity, unsigned line);
void griddepcontrol_wait(ptx_thread *me, unsigned line);
void griddepcontrol_launch_dependents(ptx_thread *me, unsigned line);
void setmaxnreg_inc(ptx_thread *me, uint32_t registers, unsigned line);
void setmaxnreg_dec(ptx_thread *me, uint32_t registers, unsigned line);

/* ------------------------------------------------------------------ matrices (matrix.cc) */

void mma_m16n8k16_f16(ptx_thread *me, float *d, const uint32_t *a, const uint32_t *b, const float *c,
                      unsigned line);
void mma_m16n8k16_bf16(ptx_thread *me, float *d, const uint32_t *a, const uint32_t *b, const float *c,
                       unsigned line);
uint32_t movmatrix(ptx_thread *me, uint32_t a, unsigned line);
void ldmatrix_x4(ptx_thread *me, uint32_t *d, uint32_t address, bool trans, unsigned line);
struct wgmma_shape {
    int n, accumulators;
    bool brain; /* bf16, else f16 */
    int scale_a, scale_b, trans_a, trans_b;
};
/* d += a b (scale_d) or d = a b, later: d is written when the thread waits. a: registers, or NULL and a_desc.
 */
void wgmma_mma_async(ptx_thread *me, const wgmma_shape &shape, float *const *d, uint32_t *const *a,
                     uint64_t a_desc, uint64_t b_desc, bool scale_d, unsigned line);
void wgmma_fence(ptx_thread *me, unsigned line);
void wgmma_commit_group(ptx_thread *me, unsigned line);
void wgmma_wait_group(ptx_thread *me, unsigned left, unsigned line);

#endif
