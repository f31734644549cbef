/* Loops of the entries that score keys; compiled once per instruction set. */
#include "kernels/cpu/isa.h"

INLINE vf load_any(const void *x, enum dtype t, int64_t i)
{
    if (t == DT_F32)
        return vf_load((const float *)x + i);
    return t == DT_F16 ? vf_load_f16((const uint16_t *)x + i) : vf_load_bf16((const uint16_t *)x + i);
}

INLINE float dot_loop(const void *x, const enum dtype t, const float *y, int64_t n)
{
    vf sum[4] = {vf_set(0.0f), vf_set(0.0f), vf_set(0.0f), vf_set(0.0f)};
    int64_t i = 0;
    for (; i + 4 * VL <= n; i += 4 * VL)
        for (int v = 0; v < 4; v++)
            sum[v] = vf_fma(load_any(x, t, i + v * VL), vf_load(y + i + v * VL), sum[v]);
    for (; i + VL <= n; i += VL)
        sum[0] = vf_fma(load_any(x, t, i), vf_load(y + i), sum[0]);
    float rest = 0.0f;
    for (; i < n; i++)
        rest += host_get(x, t, i) * y[i];
    return vf_sum(vf_add(vf_add(sum[0], sum[1]), vf_add(sum[2], sum[3]))) + rest;
}

float ISA(dot)(const void *x, enum dtype t, const float *y, int64_t n)
{
    if (t == DT_F32)
        return dot_loop(x, DT_F32, y, n);
    return t == DT_F16 ? dot_loop(x, DT_F16, y, n) : dot_loop(x, DT_BF16, y, n);
}

INLINE void sum_loop(float *sum, const void *x, const enum dtype t, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        vf_store(sum + i, vf_add(vf_load(sum + i), load_any(x, t, i)));
    for (; i < n; i++)
        sum[i] += host_get(x, t, i);
}

void ISA(sum_rows)(float *sum, const void *x, enum dtype t, int64_t n)
{
    if (t == DT_F32)
        sum_loop(sum, x, DT_F32, n);
    else if (t == DT_F16)
        sum_loop(sum, x, DT_F16, n);
    else
        sum_loop(sum, x, DT_BF16, n);
}

INLINE vf round16(vf v)
{
    uint16_t t[VL];
    vf_store_f16(t, v);
    return vf_load_f16(t);
}

void ISA(attn_scores_add)(float *attn_scores, const float *w, float f, int64_t n, bool f16)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf p = vf_mul(vf_load(w + i), vf_set(f)), m = vf_load(attn_scores + i);
        vf_store(attn_scores + i, f16 ? round16(vf_add(m, round16(p))) : vf_add(m, p));
    }
    for (; i < n; i++) {
        float p = w[i] * f;
        attn_scores[i] = f16 ? f16_round(attn_scores[i] + f16_round(p)) : attn_scores[i] + p;
    }
}
