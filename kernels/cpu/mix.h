/* Loops of the entries of kernels/mix.h, once per instruction set (mix_loops.c); mix.c spreads them over
 * threads. */
#ifndef KVS_KERNELS_CPU_MIX_H
#define KVS_KERNELS_CPU_MIX_H

#include "kernels/ops.h"

#define MIX_LANES 16 /* channels of one item of conv, scan, lru and shift: a multiple of every vector's */
#define SSD_ROWS                                                                                             \
    64 /* rows of a chunk, and channels of a head that are worked on together: the width of a panel */

struct mix_isa {
    /* channels [c, c + n), n <= MIX_LANES */
    void (*conv)(const struct conv_args *a, int64_t c, int64_t n);
    void (*scan)(const struct scan_args *a, int64_t c, int64_t n);
    void (*lru)(const struct lru_args *a, int64_t c, int64_t n);
    void (*shift)(const struct shift_args *a, int64_t c, int64_t n);
    void (*wkv)(const struct wkv_args *a, int32_t h);               /* one head */
    void (*gate)(const struct gate_args *a, int64_t t);             /* one row */
    void (*group_norm)(const struct group_norm_args *a, int64_t t); /* one row */
    void (*softcap)(float *x, float cap, int64_t n);
    /* Mamba-2, rows one by one: channel p of head h */
    void (*ssd_row)(const struct ssd_args *a, int32_t h, int32_t p);
    /* Steps of rows [t0, t0 + m) of head h, from step[-1] on: dt [SSD_ROWS] and the sums of dt a, from 0. */
    void (*ssd_steps)(const struct ssd_args *a, int32_t h, int64_t t0, int64_t m, float *dt, double *sum);
    /* mix[t,s] = cb[t,s] exp(sum[t] - sum[s]) dt[s] for s <= t, 0 behind: [SSD_ROWS,SSD_ROWS], m rows */
    void (*ssd_mix)(float *mix, const float *cb, const double *sum, const float *dt, int64_t m);
    void (*mul_rows)(float *y, const float *x, const float *f,
                     int64_t rows); /* y[r,s] = x[r,s] f[s], SSD_ROWS columns */
    void (*fma_row)(float *y, const float *x, float f, int64_t n);   /* y += f x */
    void (*scale_add)(float *y, float f, const float *x, int64_t n); /* y = f y + x */
};
extern const struct mix_isa mix_portable, mix_avx2, mix_avx512;

#endif
