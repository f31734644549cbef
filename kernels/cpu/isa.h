/* Names of one instruction set's loops: loops.c, panel.c, block.c, decode.c and sums.c are compiled once
 * per set. */
#ifndef KVS_KERNELS_CPU_ISA_H
#define KVS_KERNELS_CPU_ISA_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/simd.h"

#define INLINE static inline __attribute__((always_inline))

void ISA(row_to_f32)(float *dst, const void *src, enum dtype t, int64_t n);
void ISA(panel_product)(const struct panel_args *a);
void ISA(kv_rows)(float *dst, const struct kv_run *run, int64_t at, int64_t n, int32_t h, int32_t n_head,
                  int64_t d);
void ISA(attend_block)(struct attend_block *b, int64_t n);
void ISA(block_out)(float *out, int64_t ld, const float *O, int64_t R, int64_t rows, int64_t d,
                    const float *sum);
void ISA(decode_scores)(const struct decode_args *a);
void ISA(decode_values)(const struct decode_args *a);
float ISA(decode_softmax)(float *s, int64_t n, float *sum);
void ISA(attn_scores_rows)(const struct attn_scores_block *b);
void ISA(attn_scores_add)(float *attn_scores, const float *w, float f, int64_t n, bool f16);
float ISA(dot)(const void *x, enum dtype t, const float *y, int64_t n);
void ISA(sum_rows)(float *sum, const void *x, enum dtype t, int64_t n);

#endif
