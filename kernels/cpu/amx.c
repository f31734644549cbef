/* Attention blocks on AMX tiles: C [16 x 16 floats] += A [16 rows x 32 bf16] B [16 pairs x 16 columns]. */
#include <cpuid.h>
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernels/cpu/weight16.h"

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

/* Lines that will be wanted soon, fetched into the second-level cache while tiles multiply. */
struct ahead {
    const char *at;
    int rows; /* per step of 32 in k; rows are PANEL pairs apart, two lines of each */
};

/* One 32 x 32 corner (or what is left of it: im, ir tell whether the second half exists). lda, ldc, ldb in
 * bytes. */
static inline __attribute__((always_inline)) void corner(char *C, size_t ldc, const char *A, size_t lda,
                                                         const char *B, size_t ldb, int64_t k, bool im,
                                                         bool ir, bool add, struct ahead *next)
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
        for (int r = 0; next && r < next->rows; r++, next->at += PANEL * 4) {
            _mm_prefetch(next->at, _MM_HINT_T1);
            _mm_prefetch(next->at + 64, _MM_HINT_T1);
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
                   (const char *)(B + r * 2), (size_t)ldb * 4, k, i + 16 < m, r + 16 < rows, add, NULL);
    __asm__ volatile("" ::: "memory");
}

/* Where columns c.. of packed panels begin. */
static const char *slice_at(const uint16_t *w, int64_t k, int64_t c)
{
    return (const char *)(w + c / PANEL * PANEL * k + c % PANEL * 2);
}

/* The slice from column c on passes by while m rows are multiplied by another. */
static struct ahead slice_ahead(const uint16_t *w, int64_t k, int64_t c, int64_t m)
{
    return (struct ahead){slice_at(w, k, c), (int)(512 / (m > 32 ? m : 32))};
}

/* Rows of x (bf16, ldx apart, k whole blocks of 32) times packed panels: y [m,n], m and n multiples of 16. A
 * slice of 32 columns of the weights stays in the nearest caches while all rows pass; the next is fetched. */
void cpu_amx_product(float *y, int64_t ldy, const uint16_t *x, int64_t ldx, const uint16_t *w, int64_t k,
                     int64_t m, int64_t n)
{
    __asm__ volatile("" ::: "memory");
    for (int64_t c = 0; c < n; c += 32) {
        struct ahead next = slice_ahead(w, k, c + 32 < n ? c + 32 : c, m);
        for (int64_t i = 0; i < m; i += 32) {
            float *block = y + i * ldy + c;
            for (int64_t r = 0; r < min_i64(32, m - i);
                 r++) { /* the output is on its way while tiles multiply */
                __builtin_prefetch(block + r * ldy, 1);
                __builtin_prefetch(block + r * ldy + 16, 1);
            }
            corner((char *)block, (size_t)ldy * 4, (const char *)(x + i * ldx), (size_t)ldx * 2,
                   slice_at(w, k, c), PANEL * 4, k, i + 16 < m, c + 16 < n, false, &next);
        }
    }
    __asm__ volatile("" ::: "memory");
}

/* ------------------------------------------------------------------ fused products */

#define CORNER 32 /* rows and columns */

/* One whole corner to C, rows ldc apart. */
static inline void corner_to(float *C, int64_t ldc, const uint16_t *x, int64_t ldx, const char *slice,
                             int64_t k, struct ahead *next)
{
    __asm__ volatile("" ::: "memory");
    corner((char *)C, (size_t)ldc * 4, (const char *)x, (size_t)ldx * 2, slice, PANEL * 4, k, true, true,
           false, next);
    __asm__ volatile("" ::: "memory");
}

/* mid[r] <- silu(gate[r]) * up[r] */
static void gate_rows(uint16_t *mid, int64_t ld, const float *gate, const float *up)
{
    for (int64_t r = 0; r < CORNER; r++, mid += ld, gate += CORNER, up += CORNER) {
        __m512 low = vf_silu_times(vf_load(gate), vf_load(up));
        __m512 high = vf_silu_times(vf_load(gate + 16), vf_load(up + 16));
        _mm512_storeu_si512(mid, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

void cpu_amx_gated(uint16_t *mid, int64_t ldm, const uint16_t *x, int64_t ldx, const uint16_t *w, int64_t k,
                   int64_t m, int64_t F, float *room)
{
    float *up = room + m * CORNER; /* gates of all rows, then one corner */
    for (int64_t c = 0; c < F; c += CORNER) {
        int64_t then = c + CORNER < F ? c + CORNER : c;
        struct ahead next = slice_ahead(w, k, then, m);
        for (int64_t i = 0; i < m; i += CORNER)
            corner_to(room + i * CORNER, CORNER, x + i * ldx, ldx, slice_at(w, k, c), k, &next);
        next = slice_ahead(w, k, F + then, m);
        for (int64_t i = 0; i < m; i += CORNER) {
            corner_to(up, CORNER, x + i * ldx, ldx, slice_at(w, k, F + c), k, &next);
            gate_rows(mid + i * ldm + c, ldm, room + i * CORNER, up);
        }
    }
}

void cpu_amx_product_rows(float *y, int64_t ldy, int64_t rows, const uint16_t *x, int64_t ldx,
                          const uint16_t *w, int64_t k, int64_t c0, int64_t n, float *block)
{
    for (int64_t c = c0; c < c0 + n; c += CORNER) {
        struct ahead next = slice_ahead(w, k, c + CORNER, rows);
        for (int64_t i = 0; i < rows; i += CORNER) {
            float *to = y + i * ldy + c - c0;
            bool whole = rows - i >= CORNER;
            corner_to(whole ? to : block, whole ? ldy : CORNER, x + i * ldx, ldx, slice_at(w, k, c), k,
                      &next);
            for (int64_t r = 0; !whole && r < rows - i; r++)
                memcpy(to + r * ldy, block + r * CORNER, CORNER * sizeof *to);
        }
    }
}

void cpu_amx_add_product(float *y, int64_t ldy, int64_t rows, const uint16_t *x, int64_t ldx,
                         const uint16_t *w, int64_t k, int64_t n)
{
    float block[CORNER * CORNER] __attribute__((aligned(64)));
    for (int64_t c = 0; c < n; c += CORNER) {
        struct ahead next = slice_ahead(w, k, c + CORNER < n ? c + CORNER : c, rows);
        for (int64_t i = 0; i < rows; i += CORNER) {
            corner_to(block, CORNER, x + i * ldx, ldx, slice_at(w, k, c), k, &next);
            for (int64_t r = 0; r < min_i64(CORNER, rows - i); r++) {
                float *to = y + (i + r) * ldy + c;
                vf_store(to, vf_add(vf_load(to), vf_load(block + r * CORNER)));
                vf_store(to + 16, vf_add(vf_load(to + 16), vf_load(block + r * CORNER + 16)));
            }
        }
    }
}

/* 32 query rows of dimension 64 fill tiles 4 to 7 and stay there. */
static inline void load_queries64(const uint16_t *q)
{
    _tile_loadd(4, q, 128);
    _tile_loadd(5, q + 32, 128);
    _tile_loadd(6, q + 16 * 64, 128);
    _tile_loadd(7, q + 16 * 64 + 32, 128);
}

/* Their scores [16,32] with 16 keys. */
static inline void scores64_step(float *S, const uint16_t *K)
{
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

/* Scores [m,32] of 32 query rows of dimension 64. */
static void scores64(float *S, const uint16_t *K, const uint16_t *q, int64_t m)
{
    __asm__ volatile("" ::: "memory");
    load_queries64(q);
    for (int64_t i = 0; i < m; i += 16, K += 16 * 64, S += 16 * 32)
        scores64_step(S, K);
    __asm__ volatile("" ::: "memory");
}

void cpu_scores_amx(float *S, const uint16_t *q, const uint16_t *K, int64_t dp, int64_t m)
{
    if (dp == 64)
        scores64(S, q, K, m);
    else
        mm(S, 32, q, dp, K, 32, m, dp, 32, false);
}

/* ------------------------------------------------------------------ blocks of keys */

#define PART_KEYS 64 /* keys whose rows, values, scores and weights fit the first-level cache together */

/* 32 query rows: maxima of their scores, sums of their weights. */
struct lanes {
    __m512 m[2], l[2];
};

static inline void max_keys(struct lanes *x, const float *S, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        for (int v = 0; v < 2; v++)
            x->m[v] = vf_max(x->m[v], vf_load(S + j * 32 + 16 * v));
}

/* Scores [PART_KEYS,32] of 32 query rows of dimension 64 and their maxima: those of 16 keys while tiles work
 * on the next. */
static void scores64_max(float *S, const uint16_t *K, const uint16_t *q, struct lanes *x)
{
    load_queries64(q);
    for (int64_t i = 0; i < PART_KEYS; i += 16, K += 16 * 64, S += 16 * 32) {
        scores64_step(S, K);
        if (i > 0)
            max_keys(x, S - 16 * 32, 16);
    }
    max_keys(x, S - 16 * 32, 16);
}

/* Values that wait for their product: O [64,32] += V [64,PART_KEYS] P [PART_KEYS,32], in eight slots that
 * fill the time of the weights of the next rows. */
struct waiting {
    float *O; /* NULL: none */
    const uint16_t *V, *P;
};

static inline void values64_step(const uint16_t *V, const uint16_t *P)
{
    _tile_loadd(4, V, BLOCK_KEYS * 2);
    _tile_loadd(6, P, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, P + 32, 128);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, V + 16 * BLOCK_KEYS, BLOCK_KEYS * 2);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}

static inline void values64_slot(const struct waiting *w, int slot)
{
    if (!w->O)
        return;
    float *O = w->O + slot / 4 * 32 * 32; /* 32 channels */
    const uint16_t *V = w->V + slot / 4 * 32 * BLOCK_KEYS;
    switch (slot % 4) {
    case 0:
        _tile_loadd(0, O, 128);
        _tile_loadd(1, O + 16, 128);
        _tile_loadd(2, O + 16 * 32, 128);
        _tile_loadd(3, O + 16 * 32 + 16, 128);
        break;
    case 1:
        values64_step(V, w->P);
        break;
    case 2:
        values64_step(V + 32, w->P + 32 * 32);
        break;
    default:
        _tile_stored(0, O, 128);
        _tile_stored(1, O + 16, 128);
        _tile_stored(2, O + 16 * 32, 128);
        _tile_stored(3, O + 16 * 32 + 16, 128);
    }
}

static void values64(struct waiting *w)
{
    __asm__ volatile("" ::: "memory");
    for (int slot = 0; slot < 8; slot++)
        values64_slot(w, slot);
    __asm__ volatile("" ::: "memory");
    w->O = NULL;
}

/* Weights of PART_KEYS keys as bf16 pairs, while tiles work on what waits. */
static void part_weights(struct lanes *x, const float *S, uint16_t *P, struct waiting *w)
{
    __asm__ volatile("" ::: "memory");
    for (int slot = 0; slot < 8; slot++) {
        values64_slot(w, slot);
        for (int64_t j = slot * PART_KEYS / 8; j < (slot + 1) * PART_KEYS / 8; j += 2) {
#pragma GCC unroll 2
            for (int v = 0; v < 2; v++) {
                __m512 p0 = exp2_fast(vf_sub(vf_load(S + j * 32 + 16 * v), x->m[v]));
                __m512 p1 = exp2_fast(vf_sub(vf_load(S + (j + 1) * 32 + 16 * v), x->m[v]));
                x->l[v] = vf_add(x->l[v], vf_add(p0, p1));
                _mm512_storeu_si512(P + (j / 2 * 32 + 16 * v) * 2, weight_bits(p0, p1));
            }
        }
    }
    __asm__ volatile("" ::: "memory");
    w->O = NULL;
}

/* New maxima of rows r.., and what was summed before under them. */
static void raise_rows(struct attend_block *b, int64_t r, struct lanes *x)
{
    for (int64_t v = 0; v < 2; v++) {
        __m512 old = vf_load(b->m + r + 16 * v);
        x->l[v] = vf_load(b->l + r + 16 * v);
        if (!raise_max(old, &x->m[v]))
            continue;
        __m512 f = exp2_fast(vf_sub(old, x->m[v]));
        x->l[v] = vf_mul(x->l[v], f);
        vf_store(b->m + r + 16 * v, x->m[v]);
        float *O = b->o + r * b->dp + 16 * v;
        for (int64_t c = 0; c < b->d; c++)
            vf_store(O + c * 32, vf_mul(f, vf_load(O + c * 32)));
    }
}

/* Scores and weights of 32 rows that see all PART_KEYS keys; their values wait at the end. */
static void whole_part(struct attend_block *b, int64_t r, struct waiting *w)
{
    struct lanes x = {.m = {vf_load(b->m + r), vf_load(b->m + r + 16)}};
    const uint16_t *q = b->q16 + r * b->dp;
    uint16_t *P = b->P16 + r / 32 % 2 * PART_KEYS * 32; /* the other half is still to be read */
    if (b->dp == 64) {
        scores64_max(b->S, b->K16, q, &x);
    } else {
        mm(b->S, 32, b->K16, b->dp, q, 32, PART_KEYS, b->dp, 32, false);
        max_keys(&x, b->S, PART_KEYS);
    }
    raise_rows(b, r, &x);
    part_weights(&x, b->S, P, w);
    vf_store(b->l + r, x.l[0]);
    vf_store(b->l + r + 16, x.l[1]);
    if (b->dp == 64)
        *w = (struct waiting){b->o + r * 64, b->V16, P};
    else
        mm(b->o + r * b->dp, 32, b->V16, BLOCK_KEYS, P, 32, round_up(b->d, 16), PART_KEYS, 32, true);
}

/* Rows r.. of which some do not see all n keys, or fewer than 32. */
static void mixed_part(struct attend_block *b, int64_t r, int64_t n)
{
    int64_t rows = min_i64(32, b->R - r);
    const uint16_t *q = b->q16 + r * b->dp;
    if (b->dp == 64 && rows == 32)
        scores64(b->S, b->K16, q, round_up(n, 16));
    else
        mm(b->S, 32, b->K16, b->dp, q, 32, round_up(n, 16), b->dp, rows, false);
    cpu_softmax16(b, n, r, rows, b->S, b->P16, 32);
    mm(b->o + r * b->dp, 32, b->V16, BLOCK_KEYS, b->P16, 32, round_up(b->d, 16), round_up(n, 32), rows, true);
}

/* 32 query rows at a time. */
static void part(struct attend_block *b, int64_t n, bool whole)
{
    struct waiting w = {0};
    int64_t r = 0;
    for (; whole && r + 32 <= b->R; r += 32)
        whole_part(b, r, &w);
    values64(&w);
    for (; r < b->R; r += 32)
        mixed_part(b, r, n);
}

void cpu_block_amx(struct attend_block *b, int64_t n)
{
    __asm__ volatile("" ::: "memory"); /* tile loads and stores are opaque to the compiler */
    for (int64_t at = 0; at < n; at += PART_KEYS) {
        struct attend_block p = *b;
        bool whole = n - at >= PART_KEYS && !b->lo;
        p.K16 += at * b->dp;
        p.V16 += at;
        p.lo = b->lo ? b->lo + at : NULL;
        p.hi = b->hi ? b->hi + at : NULL;
        for (int64_t h = 0; h < b->R / b->Tq; h++) {
            p.keep[h] = b->keep[h] ? b->keep[h] + at : NULL;
            whole = whole && !b->keep[h];
        }
        part(&p, min_i64(PART_KEYS, n - at), whole);
    }
    __asm__ volatile("" ::: "memory");
}
