/* Rotary settings as numbers: how fast each pair of a head turns, and by what cosines and sines are scaled.
 */
#ifndef KVS_MODEL_ROPE_H
#define KVS_MODEL_ROPE_H

#include "model/model.h"

/* freq [n_rot/2]: radians per position of pair (i, i + n_rot/2), with theta times theta_factor; `divisor`
 * [n_rot/2] or NULL. */
void rope_frequencies(const struct rope_setting *s, const float *divisor, int32_t n_rot, double theta_factor,
                      float *freq);
/* Of cosines and sines: 1 but for YaRN. */
float rope_scale(const struct rope_setting *s);
/* 0.1 m ln(factor) + 1, YaRN's scale (arXiv 2309.00071, 3.4); 1 for factors up to 1. */
double rope_yarn_scale(double factor, double m);

#endif
