/* Instructions of sm_90a behind small functions, with plain twins for the shim: products of a warpgroup
 * (wgmma), barriers in shared memory (mbarrier), barriers of part of a block, registers moved between
 * warpgroups. Facts: PTX ISA 9.7.15 (wgmma, its fragments and its shared memory layouts) and 9.7.13
 * (mbarrier).
 *
 * A product is under way until its thread waits for its group; until then nobody may touch its accumulators,
 * its held operand and the shared memory that it reads. The twin computes when it is waited for, not before.
 */
#ifndef KVS_KERNELS_CUDA_HOPPER_H
#define KVS_KERNELS_CUDA_HOPPER_H

#include "kernels/cuda/async.h"
#include "kernels/cuda/mma.h"

#define WARPGROUP 128

/* Where these instructions exist; kernels that use them are empty for other architectures. */
#if defined KVS_SHIM || defined __CUDA_ARCH_FEAT_SM90_ALL || !defined __CUDA_ARCH__
#define HOPPER_CODE
#endif

/* Descriptor of an operand in tiles of async.h (128-byte swizzle, layout type 1). Rows along the product's
 * inner dimension (keys of q k^T): `over` is not used. Rows across it (values of p v): panels of 64 columns
 * are `over` bytes apart. Eight rows are 1024 bytes in both. */
DEVICE uint64_t wg_operand(uint32_t at, uint32_t over)
{
    return (uint64_t)(at >> 4) | (uint64_t)(over >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
           (uint64_t)1 << 62;
}

#ifdef KVS_SHIM

/* Address in the block's shared memory. */
DEVICE uint32_t shared_at(const void *p)
{
    return (uint32_t)((const char *)p - (const char *)shim_shared());
}

/* Byte of an operand behind `base`, as the unit finds it: bits 4 to 6 are turned by bits 7 to 9. */
DEVICE uint16_t wg_value(uint32_t at)
{
    uint16_t v;
    at ^= at >> 3 & 0x70;
    memcpy(&v, (const char *)shim_shared() + at, sizeof v);
    return v;
}
DEVICE uint16_t wg_inner(uint64_t desc, uint32_t row, uint32_t k)
{
    uint32_t at = (uint32_t)(desc & 0x3fff) << 4, eight = (uint32_t)(desc >> 32 & 0x3fff) << 4;
    return wg_value(at + row / 8 * eight + row % 8 * 128 + k * 2);
}
DEVICE uint16_t wg_across(uint64_t desc, uint32_t column, uint32_t k)
{
    uint32_t at = (uint32_t)(desc & 0x3fff) << 4, eight = (uint32_t)(desc >> 32 & 0x3fff) << 4;
    uint32_t over = (uint32_t)(desc >> 16 & 0x3fff) << 4;
    return wg_value(at + column / 64 * over + column % 64 * 2 + k / 8 * eight + k % 8 * 128);
}

/* x [64,N] (+)= a b^T, a [64,16] and b [N,16] in shared memory; add 0: x is overwritten. x as in unit_mma, by
 * warps of 16 rows, N/8 blocks of 8 columns. */
template <bool BF16, int N> DEVICE void wg_mma(float *x, uint64_t a, uint64_t b, int add)
{
    unsigned row = threadIdx.x % WARPGROUP / 32 * 16 + shim_lane() / 4, t2 = shim_lane() % 4 * 2;
    shim_defer([=] {
        for (unsigned i = 0; i < N / 2; i++) {
            float sum = add ? x[i] : 0.0f;
            for (unsigned k = 0; k < 16; k++)
                sum += unit_value<BF16>(wg_inner(a, row + i / 2 % 2 * 8, k)) *
                       unit_value<BF16>(wg_inner(b, i / 4 * 8 + t2 + i % 2, k));
            x[i] = sum;
        }
    });
}

/* x [64,N] += a b, a [64,16] held in registers (as in unit_mma), b [16,N] in shared memory. */
template <bool BF16, int N> DEVICE void wg_mma_held(float *x, const uint32_t *a, uint64_t b)
{
    shim_defer([=] {
        uint32_t all[32][4];
        memcpy(all, shim_exchange(a, sizeof all[0]), sizeof all);
        unsigned g = shim_lane() / 4, t2 = shim_lane() % 4 * 2;
        for (unsigned i = 0; i < N / 2; i++)
            for (unsigned k = 0; k < 16; k++) {
                uint32_t pair = all[g * 4 + k % 8 / 2][i / 2 % 2 + k / 8 * 2];
                x[i] += unit_value<BF16>((uint16_t)(pair >> k % 2 * 16)) *
                        unit_value<BF16>(wg_across(b, i / 4 * 8 + t2 + i % 2, k));
            }
    });
}

/* Before products: registers that were written are ready for them. */
DEVICE void wg_fence(void)
{
}
/* The products since the last call are a group. */
DEVICE void wg_group(void)
{
    shim_defer_group();
}
/* Until at most LEFT groups are under way. */
template <int LEFT> DEVICE void wg_wait(void)
{
    shim_defer_wait(LEFT);
}
/* The compiler must not move what reads or writes these registers over this point. */
template <int N> DEVICE void wg_settle(float *)
{
}
template <int N> DEVICE void wg_settle(uint32_t *)
{
}

/* A barrier in shared memory: `count` arrivals end a phase. */
DEVICE void gate_open(uint64_t *gate, uint32_t count)
{
    *gate = (uint64_t)count << 32 | (uint64_t)count << 1; // count, arrivals left, parity of the phase
}
DEVICE void gate_arrive(uint64_t *gate)
{
    uint64_t left = (*gate >> 1 & 0x7fffffff) - 1, count = *gate >> 32, parity = *gate & 1;
    *gate = count << 32 | (left ? left : count) << 1 | (left ? parity : parity ^ 1);
}
/* Has the phase of that parity ended? */
DEVICE bool gate_test(uint64_t *gate, uint32_t parity)
{
    return (*(volatile uint64_t *)gate & 1) != parity;
}
/* Until the phase of that parity has ended; a new barrier has ended one of parity 1. */
DEVICE void gate_wait(uint64_t *gate, uint32_t parity)
{
    while ((*(volatile uint64_t *)gate & 1) == parity)
        shim_yield();
}

/* This thread's writes to shared memory are seen by products behind the next barrier. */
DEVICE void wg_publish(void)
{
}
/* Barrier number `id` (1 to 15) of THREADS threads. */
template <int THREADS> DEVICE void part_barrier(int id)
{
    shim_part_barrier((unsigned)id, THREADS);
}
template <int N> DEVICE void registers_give(void)
{
}
template <int N> DEVICE void registers_take(void)
{
}

#else

DEVICE uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}
DEVICE void gate_open(uint64_t *gate, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(gate)), "r"(count) : "memory");
}

#ifdef HOPPER_CODE

/* The sums of a thread, as text and as operands. */
#define WG_NAMES_32                                                                                          \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WG_NAMES_64                                                                                          \
    WG_NAMES_32 ", "                                                                                         \
                "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "           \
                "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WG_SUMS_4(x, i)  "+f"((x)[i]), "+f"((x)[(i) + 1]), "+f"((x)[(i) + 2]), "+f"((x)[(i) + 3])
#define WG_SUMS_16(x, i) WG_SUMS_4(x, i), WG_SUMS_4(x, (i) + 4), WG_SUMS_4(x, (i) + 8), WG_SUMS_4(x, (i) + 12)
#define WG_SUMS_32(x, i) WG_SUMS_16(x, i), WG_SUMS_16(x, (i) + 16)
#define WG_SUMS_64(x, i) WG_SUMS_32(x, i), WG_SUMS_32(x, (i) + 32)

#define WG_HELD_64(unit, x, a, b)                                                                            \
    asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0;"                                                       \
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32." unit "." unit " {" WG_NAMES_32                \
                 "}, {%32, %33, %34, %35}, %36, p, 1, 1, 1;}"                                                \
                 : WG_SUMS_32(x, 0)                                                                          \
                 : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "l"(b)                                \
                 : "memory")
#define WG_128(unit, x, a, b, add)                                                                           \
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0;"                                                     \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." unit "." unit " {" WG_NAMES_64               \
                 "}, %64, %65, p, 1, 1, 0, 0;}"                                                              \
                 : WG_SUMS_64(x, 0)                                                                          \
                 : "l"(a), "l"(b), "r"(add)                                                                  \
                 : "memory")
#define WG_HELD_128(unit, x, a, b)                                                                           \
    asm volatile("{.reg .pred p; setp.ne.b32 p, 1, 0;"                                                       \
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32." unit "." unit " {" WG_NAMES_64               \
                 "}, {%64, %65, %66, %67}, %68, p, 1, 1, 1;}"                                                \
                 : WG_SUMS_64(x, 0)                                                                          \
                 : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "l"(b)                                \
                 : "memory")

template <bool BF16, int N> DEVICE void wg_mma(float *x, uint64_t a, uint64_t b, int add)
{
    static_assert(N == 128, "keys of a tile");
    if constexpr (BF16)
        WG_128("bf16", x, a, b, add);
    else
        WG_128("f16", x, a, b, add);
}
template <bool BF16, int N> DEVICE void wg_mma_held(float *x, const uint32_t *a, uint64_t b)
{
    static_assert(N == 64 || N == 128, "head dimensions");
    if constexpr (N == 64 && BF16)
        WG_HELD_64("bf16", x, a, b);
    else if constexpr (N == 64)
        WG_HELD_64("f16", x, a, b);
    else if constexpr (BF16)
        WG_HELD_128("bf16", x, a, b);
    else
        WG_HELD_128("f16", x, a, b);
}
DEVICE void wg_fence(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
DEVICE void wg_group(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int LEFT> DEVICE void wg_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}
template <int N> DEVICE void wg_settle(float *x)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(x[i])::"memory");
}
template <int N> DEVICE void wg_settle(uint32_t *x)
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+r"(x[i])::"memory");
}
DEVICE void gate_arrive(uint64_t *gate)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(gate)) : "memory");
}
DEVICE bool gate_test(uint64_t *gate, uint32_t parity)
{
    uint32_t done;
    asm volatile("{.reg .pred done; mbarrier.test_wait.parity.shared::cta.b64 done, [%1], %2;"
                 "selp.u32 %0, 1, 0, done;}"
                 : "=r"(done)
                 : "r"(shared_at(gate)), "r"(parity)
                 : "memory");
    return done;
}
DEVICE void gate_wait(uint64_t *gate, uint32_t parity)
{
    asm volatile("{.reg .pred done;\n"
                 "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;}" ::"r"(shared_at(gate)),
                 "r"(parity)
                 : "memory");
}
DEVICE void wg_publish(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}
template <int THREADS> DEVICE void part_barrier(int id)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "n"(THREADS) : "memory");
}
template <int N> DEVICE void registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}
template <int N> DEVICE void registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

#endif
#endif
#endif
