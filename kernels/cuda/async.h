/* Copies from device memory to shared memory that go on while the threads compute (cp.async), and the tile
 * layout that they fill. On the shim a copy is done when its thread waits for it, not before, so that a
 * missing wait shows. */
#ifndef KVS_KERNELS_CUDA_ASYNC_H
#define KVS_KERNELS_CUDA_ASYNC_H

#include "kernels/cuda/cuda.h"

/* A tile of ROWS rows of D 16-bit values lies in panels of 64 channels, [D/64][ROWS][128 bytes]; in row r the
 * 16-byte chunk c of a panel is found at chunk c ^ (r & 7). Eight rows at one chunk, which is what the
 * matrix unit reads at a time, then lie in different banks; it is also the 128-byte swizzle of wgmma. */
#define PANEL 64
template <int ROWS> DEVICE int32_t tile_byte(int32_t row, int32_t chunk)
{
    return chunk / 8 * (ROWS * 128) + row * 128 + ((chunk & 7) ^ (row & 7)) * 16;
}

/* From where tile_byte(row, c) lies to where tile_byte(row, c ^ by) does, by < 8. Tiles lie at multiples of
 * 128 bytes, so no offset needs to be kept in a register. */
DEVICE const char *tile_turn(const char *at, int32_t by)
{
    return (const char *)((uintptr_t)at ^ (uintptr_t)(by * 16));
}

#ifdef KVS_SHIM

/* The block's dynamic shared memory, for tiles (1024-byte aligned). */
#define TILE_SHARED(name) char *name = (char *)shim_shared()

/* 16 bytes; `there` false: zeros, src is not read. */
DEVICE void async_copy16(void *dst, const void *src, bool there)
{
    shim_async_copy(dst, there ? src : NULL, 16);
}
/* The copies since the last call of this thread are a group. */
DEVICE void async_group(void)
{
    shim_async_group();
}
/* Until at most LEFT of this thread's groups are under way. */
template <int LEFT> DEVICE void async_wait(void)
{
    shim_async_wait(LEFT);
}

#else

/* GPUs take no notice of this alignment: dynamic memory begins where the kernel's shared variables end, and
 * without any at a multiple of 1024. So kernels with tiles have no __shared__ variables. */
#define TILE_SHARED(name) extern __shared__ __align__(1024) char name[]

DEVICE void async_copy16(void *dst, const void *src, bool there)
{
    uint32_t at = (uint32_t)__cvta_generic_to_shared(dst);
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(at), "l"(src),
                 "r"(there ? 16 : 0)
                 : "memory");
}
DEVICE void async_group(void)
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int LEFT> DEVICE void async_wait(void)
{
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
}

#endif

/* Rows src, src + stride, … (`n` of them; the rest of the tile becomes zero) -> tile, by THREADS threads of
 * which this is number `me`. */
template <int ROWS, int D, int THREADS>
DEVICE void tile_fetch(char *tile, const uint16_t *src, int32_t stride, int32_t n, int32_t me)
{
    const int STEP = THREADS / 8; // a thread keeps its chunk of a panel
    static_assert(STEP % 8 == 0 && ROWS % STEP == 0, "rows of a step must share their swizzle");
    int32_t row = me / 8, chunk = me % 8;
    char *dst = tile + tile_byte<ROWS>(row, chunk);
    src += (int64_t)row * stride + chunk * 8;
#pragma unroll
    for (int i = 0; i < ROWS / STEP; i++, src += (int64_t)STEP * stride)
#pragma unroll
        for (int p = 0; p < D / PANEL; p++)
            async_copy16(dst + p * ROWS * 128 + i * STEP * 128, src + p * PANEL, row + i * STEP < n);
}

#endif
