#include "model/rope.h"

#include <math.h>

/* llama3: long waves are slowed by `factor`, short ones kept, those between blended (transformers
 * modeling_rope_utils.py, _compute_llama3_parameters). */
static float scale_llama3(const struct rope_setting *s, float f)
{
    float len = (float)s->original_len, factor = (float)s->factor;
    float low = (float)s->low_freq, high = (float)s->high_freq;
    float wave = (float)(2 * M_PI) / f;
    if (wave > len / low)
        return f / factor;
    if (wave < len / high)
        return f;
    float smooth = (len / wave - low) / (high - low);
    return (1 - smooth) * f / factor + smooth * f;
}

/* The pair, not a whole one, that turns this often over the original length. */
static double yarn_pair(const struct rope_setting *s, double base, int32_t n_rot, double rotations)
{
    return n_rot * log((double)s->original_len / (rotations * 2 * M_PI)) / (2 * log(base));
}

/* YaRN: pairs that turn often keep their speed, those that turn rarely are slowed by `factor`, between them a
 * ramp (transformers modeling_rope_utils.py, _compute_yarn_parameters; arXiv 2309.00071, 3.2). `wave` = 1/f.
 */
static float scale_yarn(const struct rope_setting *s, double base, int32_t n_rot, int32_t i, float wave)
{
    double low = yarn_pair(s, base, n_rot, s->yarn.fast), high = yarn_pair(s, base, n_rot, s->yarn.slow);
    low = fmax(s->yarn.whole ? floor(low) : low, 0);
    high = fmin(s->yarn.whole ? ceil(high) : high, n_rot - 1);
    high = low == high ? high + 0.001 : high;
    float ramp = ((float)i - (float)low) / (float)(high - low);
    float keep = 1 - (ramp < 0 ? 0 : ramp > 1 ? 1 : ramp);
    return 1.0f / ((float)s->factor * wave) * (1 - keep) + 1.0f / wave * keep;
}

/* In float32 step by step, as the reference does it: angles of late positions feel the last bit. */
void rope_frequencies(const struct rope_setting *s, const float *divisor, int32_t n_rot, double theta_factor,
                      float *freq)
{
    double base = s->theta * theta_factor;
    for (int32_t i = 0; i < n_rot / 2; i++) {
        float wave = powf((float)base, (float)(2 * i) / (float)n_rot), f = 1.0f / wave;
        if (s->scaling == ROPE_LINEAR)
            f /= (float)s->factor;
        if (s->scaling == ROPE_LLAMA3)
            f = scale_llama3(s, f);
        if (s->scaling == ROPE_YARN)
            f = scale_yarn(s, base, n_rot, i, wave);
        freq[i] = divisor ? f / divisor[i] : f;
    }
}

float rope_scale(const struct rope_setting *s)
{
    return s->scaling == ROPE_YARN ? (float)s->yarn.attention : 1.0f;
}

double rope_yarn_scale(double factor, double m)
{
    return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1;
}
