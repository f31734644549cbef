/* Attention blocks on AMX tiles: C [16 x 16 floats] += A [16 rows x 32 bf16] B [16 pairs x 16 columns]. */
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/cpu.h"

#define REQ_XCOMP_PERM 0x1023 /* arch_prctl: asks for a register state; 18: tile data */
#define TILE_DATA      18

bool cpu_amx_ok(void)
{
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1))
        return false;
    return syscall(SYS_arch_prctl, REQ_XCOMP_PERM, TILE_DATA) == 0;
}

/* Palette 1, eight tiles of 16 rows of 64 bytes. Static: compilers see only part of what the instruction
 * reads. */
static const uint16_t tile_config[32] __attribute__((aligned(64))) = {
    [0] = 1,   [8] = 64,  [9] = 64,      [10] = 64,     [11] = 64,     [12] = 64,     [13] = 64,
    [14] = 64, [15] = 64, [24] = 0x1010, [25] = 0x1010, [26] = 0x1010, [27] = 0x1010,
};

void cpu_amx_start(void)
{
    _tile_loadconfig(tile_config);
}

void cpu_amx_stop(void)
{
    _tile_release();
}

/* One 32 x 32 corner (or what is left of it: im, ir tell whether the second half exists). lda, ldc, ldb in
 * bytes. */
static void corner(char *C, size_t ldc, const char *A, size_t lda, const char *B, size_t ldb, int64_t k,
                   bool im, bool ir, bool add)
{
    if (add) {
        _tile_loadd(0, C, ldc);
        if (ir)
            _tile_loadd(1, C + 64, ldc);
        if (im)
            _tile_loadd(2, C + 16 * ldc, ldc);
        if (im && ir)
            _tile_loadd(3, C + 16 * ldc + 64, ldc);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t j = 0; j < k; j += 32, A += 64, B += 16 * ldb) {
        _tile_loadd(4, A, lda);
        _tile_loadd(6, B, ldb);
        _tile_dpbf16ps(0, 4, 6);
        if (ir) {
            _tile_loadd(7, B + 64, ldb);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (im) {
            _tile_loadd(5, A + 16 * lda, lda);
            _tile_dpbf16ps(2, 5, 6);
            if (ir)
                _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, C, ldc);
    if (ir)
        _tile_stored(1, C + 64, ldc);
    if (im)
        _tile_stored(2, C + 16 * ldc, ldc);
    if (im && ir)
        _tile_stored(3, C + 16 * ldc + 64, ldc);
}

/* C [m,rows] (row stride ldc) = or += A [m,k] B [k/2,rows,2] (pairs: row stride ldb); m and rows multiples of
 * 16, k of 32. */
static void mm(float *C, int64_t ldc, const uint16_t *A, int64_t lda, const uint16_t *B, int64_t ldb,
               int64_t m, int64_t k, int64_t rows, bool add)
{
    __asm__ volatile("" ::: "memory"); /* tile loads and stores are opaque to the compiler */
    for (int64_t i = 0; i < m; i += 32)
        for (int64_t r = 0; r < rows; r += 32)
            corner((char *)(C + i * ldc + r), (size_t)ldc * 4, (const char *)(A + i * lda), (size_t)lda * 2,
                   (const char *)(B + r * 2), (size_t)ldb * 4, k, i + 16 < m, r + 16 < rows, add);
    __asm__ volatile("" ::: "memory");
}

/* Rows of x (bf16, ldx apart, k whole blocks of 32) times packed panels: y [m,n], m and n multiples of 16. A
 * slice of 32 columns of the weights stays in the first-level cache while all rows pass. */
void cpu_amx_product(float *y, int64_t ldy, const uint16_t *x, int64_t ldx, const uint16_t *w, int64_t k,
                     int64_t m, int64_t n)
{
    __asm__ volatile("" ::: "memory");
    for (int64_t c = 0; c < n; c += 32) {
        const uint16_t *slice = w + c / PANEL * PANEL * k + c % PANEL * 2;
        for (int64_t i = 0; i < m; i += 32) {
            float *block = y + i * ldy + c;
            for (int64_t r = 0; r < min_i64(32, m - i);
                 r++) { /* the output is on its way while tiles multiply */
                __builtin_prefetch(block + r * ldy, 1);
                __builtin_prefetch(block + r * ldy + 16, 1);
            }
            corner((char *)block, (size_t)ldy * 4, (const char *)(x + i * ldx), (size_t)ldx * 2,
                   (const char *)slice, PANEL * 4, k, i + 16 < m, c + 16 < n, false);
        }
    }
    __asm__ volatile("" ::: "memory");
}

/* Scores [m,32] of 32 query rows of dimension 64: the queries fill tiles 4 to 7 and stay there. */
static void scores64(float *S, const uint16_t *K, const uint16_t *q, int64_t m)
{
    __asm__ volatile("" ::: "memory");
    _tile_loadd(4, q, 128);
    _tile_loadd(5, q + 32, 128);
    _tile_loadd(6, q + 16 * 64, 128);
    _tile_loadd(7, q + 16 * 64 + 32, 128);
    for (int64_t i = 0; i < m; i += 16, K += 16 * 64, S += 16 * 32) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_loadd(2, K, 128);
        _tile_dpbf16ps(0, 2, 4);
        _tile_dpbf16ps(1, 2, 5);
        _tile_loadd(3, K + 32, 128);
        _tile_dpbf16ps(0, 3, 6);
        _tile_dpbf16ps(1, 3, 7);
        _tile_stored(0, S, 128);
        _tile_stored(1, S + 16, 128);
    }
    __asm__ volatile("" ::: "memory");
}

void cpu_scores_amx(float *S, const uint16_t *q, const uint16_t *K, int64_t dp, int64_t m)
{
    if (dp == 64)
        scores64(S, q, K, m);
    else
        mm(S, 32, q, dp, K, 32, m, dp, 32, false);
}

/* 32 query rows at a time, so that their scores and weights stay in the first-level cache. */
void cpu_block_amx(struct attend_block *b, int64_t n)
{
    for (int64_t r = 0; r < b->R; r += 32) {
        int64_t rows = min_i64(32, b->R - r);
        const uint16_t *q = b->q16 + r * b->dp;
        if (b->dp == 64 && rows == 32)
            scores64(b->S, b->K16, q, round_up(n, 16));
        else
            mm(b->S, 32, b->K16, b->dp, q, 32, round_up(n, 16), b->dp, rows, false);
        cpu_softmax16(b, n, r, rows, b->S, b->P16, 32);
        mm(b->O + r * b->dp, 32, b->V16, BLOCK_KEYS, b->P16, 32, round_up(b->d, 16), round_up(n, 32), rows,
           true);
    }
}
