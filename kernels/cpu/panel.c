/* Few rows times one panel of packed weights: for decode, for the last rows of a chunk, and for everything
 * where there is no oneDNN. The weights are converted in registers and used for all rows. */
#include "kernels/cpu/isa.h"

/* y[r, 0..NV*VL) of m rows: accumulators stay in registers because m, nv and dtype are constants. */
INLINE void slice(const struct panel_args *a, const int m, const int nv, const enum dtype t, int col)
{
    vf acc[PANEL_ROWS][8];
    const float *x = a->x;
    const int64_t ldx = a->ldx;
#pragma GCC unroll 8
    for (int r = 0; r < m; r++)
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++)
            acc[r][v] = vf_set(0.0f);
    if (t == DT_BF16) {
        const uint16_t *w = (const uint16_t *)a->w + 2 * col;
        for (int64_t k = 0; k < a->k; k += 2, w += 2 * PANEL) {
#pragma GCC unroll 8
            for (int v = 0; v < nv; v++) {
                vf even, odd;
                vf_load_bf16_pair(w + 2 * v * VL, &even, &odd);
#pragma GCC unroll 8
                for (int r = 0; r < m; r++) {
                    acc[r][v] = vf_fma(even, vf_set(x[r * ldx + k]), acc[r][v]);
                    acc[r][v] = vf_fma(odd, vf_set(x[r * ldx + k + 1]), acc[r][v]);
                }
            }
        }
    } else {
        for (int64_t k = 0; k < a->k; k++) {
#pragma GCC unroll 8
            for (int v = 0; v < nv; v++) {
                int64_t at = k * PANEL + col + v * VL;
                vf w = t == DT_F32 ? vf_load((const float *)a->w + at)
                                   : vf_load_f16((const uint16_t *)a->w + at);
#pragma GCC unroll 8
                for (int r = 0; r < m; r++)
                    acc[r][v] = vf_fma(w, vf_set(x[r * ldx + k]), acc[r][v]);
            }
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < m; r++) {
#pragma GCC unroll 8
        for (int v = 0; v < nv; v++) {
            int64_t c = col + v * VL, n = a->n - c < VL ? a->n - c : VL;
            if (n > 0) {
                vf b = a->bias ? vf_load_n(a->bias + c, n) : vf_set(0.0f);
                vf_store_n(a->y + r * a->ldy + c, vf_add(acc[r][v], b), n);
            }
        }
    }
}

/* Registers: 32 with AVX-512, 16 otherwise. */
#define WIDE (VL == 16 ? 4 : 8)
#define MID  4
#define SLIM (VL == 16 ? 4 : 2)

INLINE void rows(const struct panel_args *a, const int m, const int nv, const enum dtype t)
{
    for (int col = 0; col < a->n; col += nv * VL)
        slice(a, m, nv, t, col);
}

INLINE void product(const struct panel_args *a, const enum dtype t)
{
    switch (a->m) {
    case 1:
        rows(a, 1, WIDE, t);
        return;
    case 2:
        rows(a, 2, MID, t);
        return;
    case 3:
        rows(a, 3, SLIM, t);
        return;
    case 4:
        rows(a, 4, SLIM, t);
        return;
    case 5:
        rows(a, 5, SLIM, t);
        return;
    default:
        rows(a, PANEL_ROWS, SLIM, t);
    }
}

void ISA(panel_product)(const struct panel_args *a)
{
    if (a->dtype == DT_BF16)
        product(a, DT_BF16);
    else if (a->dtype == DT_F16)
        product(a, DT_F16);
    else
        product(a, DT_F32);
}
