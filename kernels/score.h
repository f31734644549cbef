/* Plain loops for the entries of struct ops that score and choose keys (ops.h has their meaning). */
#ifndef KVS_KERNELS_SCORE_H
#define KVS_KERNELS_SCORE_H

#include "kernels/host.h"

bool score_kept(const struct attend_set *s, int64_t head, int64_t j); /* does `keep` show key j to head? */
void ref_attend(struct ops *o, const struct attend_args *a, int n);
void score_attention(const struct attend_args *a); /* the attention scores alone */
void score_select(struct ops *o, const struct select_args *a, int n);
void score_gather(struct ops *o, const struct gather_args *a, int n);
void score_mean(struct ops *o, struct tensor out, struct tensor x);
void score_dots(struct ops *o, float *out, struct tensor rows, const float *x);
/* To 16 significant bits, halves up: what the order of a sum changes does not show, so that equal rows compare as
 * equal. */
static inline float norm_rounded(float x)
{
    return f32_from_bits((f32_bits(x) + 0x80U) & ~0xffU);
}
void score_norms(struct ops *o, float *out, int64_t ld, struct tensor x, float factor);
#endif
