/* Row loops of the fast backend; compiled once per instruction set. */
#include <assert.h>
#include <math.h>

#include "kernels/cpu/isa.h"

void ISA(row_to_f32)(float *dst, const void *src, enum dtype t, int64_t n)
{
    if (t == DT_F32) {
        memcpy(dst, src, (size_t)n * sizeof *dst);
        return;
    }
    const uint16_t *s = src;
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        vf_store(dst + i, t == DT_F16 ? vf_load_f16(s + i) : vf_load_bf16(s + i));
    for (; i < n; i++)
        dst[i] = host_get(src, t, i);
}

static void from_f32(void *dst, enum dtype t, const float *src, int64_t n)
{
    if (t == DT_F32) {
        memmove(dst, src, (size_t)n * sizeof *src);
        return;
    }
    uint16_t *d = dst;
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        if (t == DT_F16)
            vf_store_f16(d + i, vf_load(src + i));
        else
            vf_store_bf16(d + i, vf_load(src + i));
    }
    for (; i < n; i++)
        host_put(dst, t, i, src[i]);
}

static void scale(float *x, float f, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        x[i] *= f;
}

static void round_bf16(float *x, int64_t n)
{
    uint16_t t[VL];
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf_store_bf16(t, vf_load(x + i));
        vf_store(x + i, vf_load_bf16(t));
    }
    for (; i < n; i++)
        x[i] = bf16_to_f32(bf16_from_f32(x[i]));
}

static void rmsnorm(float *y, const float *x, const float *w, int64_t D, float eps, float w_add)
{
    vf s0 = vf_set(0.0f), s1 = s0;
    int64_t i = 0;
    for (; i + 2 * VL <= D; i += 2 * VL) {
        vf a = vf_load(x + i), b = vf_load(x + i + VL);
        s0 = vf_fma(a, a, s0);
        s1 = vf_fma(b, b, s1);
    }
    for (; i < D; i += VL) {
        vf a = vf_load_n(x + i, D - i < VL ? D - i : VL);
        s0 = vf_fma(a, a, s0);
    }
    vf r = vf_set(1.0f / sqrtf(vf_sum(vf_add(s0, s1)) / (float)D + eps)), add = vf_set(w_add);
    for (i = 0; i + VL <= D; i += VL)
        vf_store(y + i, vf_mul(vf_mul(vf_load(x + i), r), vf_add(vf_load(w + i), add)));
    if (i < D) {
        vf a = vf_mul(vf_mul(vf_load_n(x + i, D - i), r), vf_add(vf_load_n(w + i, D - i), add));
        vf_store_n(y + i, a, D - i);
    }
}

/* Sum of f(x - m) over a row: x itself, or its square. */
static inline float row_sum(const float *x, int64_t D, float m, bool square)
{
    vf s0 = vf_set(0.0f), s1 = s0, mean = vf_set(m), one = vf_set(1.0f);
    int64_t i = 0;
    for (; i + 2 * VL <= D; i += 2 * VL) {
        vf a = vf_sub(vf_load(x + i), mean), b = vf_sub(vf_load(x + i + VL), mean);
        s0 = vf_fma(a, square ? a : one, s0);
        s1 = vf_fma(b, square ? b : one, s1);
    }
    float sum = vf_sum(vf_add(s0, s1));
    for (; i < D; i++)
        sum += square ? (x[i] - m) * (x[i] - m) : x[i] - m;
    return sum;
}

static void layernorm(float *y, const float *x, const float *w, const float *b, int64_t D, float eps)
{
    float mean = row_sum(x, D, 0.0f, false) / (float)D;
    float scale_by = 1.0f / sqrtf(row_sum(x, D, mean, true) / (float)D + eps);
    vf m = vf_set(mean), r = vf_set(scale_by);
    int64_t i = 0;
    for (; i + VL <= D; i += VL)
        vf_store(y + i, vf_fma(vf_mul(vf_sub(vf_load(x + i), m), r), vf_load(w + i), vf_load(b + i)));
    for (; i < D; i++)
        y[i] = (x[i] - mean) * scale_by * w[i] + b[i];
}

/* x * P(normal < x) = max(x, 0) - |x| * P(normal > |x|); the tail by Abramowitz and Stegun 7.1.26, good to
 * 1.5e-7. */
static inline vf gelu_one(vf x)
{
    vf a = vf_max(x, vf_sub(vf_set(0.0f), x));
    vf t = vf_div(vf_set(1.0f), vf_fma(a, vf_set(0.3275911f * 0.70710678f), vf_set(1.0f)));
    vf p = vf_set(1.061405429f);
    p = vf_fma(p, t, vf_set(-1.453152027f));
    p = vf_fma(p, t, vf_set(1.421413741f));
    p = vf_fma(p, t, vf_set(-0.284496736f));
    p = vf_fma(p, t, vf_set(0.254829592f));
    vf e = vf_exp(vf_mul(vf_mul(a, a), vf_set(-0.5f)));
    vf tail = vf_mul(vf_mul(p, t), vf_mul(e, vf_set(0.5f)));
    return vf_sub(vf_max(vf_set(0.0f), x), vf_mul(a, tail)); /* NaN is the second operand: kept */
}

static void gelu(float *y, const float *x, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        vf_store(y + i, gelu_one(vf_load(x + i)));
    if (i < n)
        vf_store_n(y + i, gelu_one(vf_load_n(x + i, n - i)), n - i);
}

static void add(float *x, const float *y, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        vf_store(x + i, vf_add(vf_load(x + i), vf_load(y + i)));
    for (; i < n; i++)
        x[i] += y[i];
}

static void swiglu(float *y, const float *gate, const float *up, int64_t n)
{
    int64_t i = 0;
    for (; i + VL <= n; i += VL)
        vf_store(y + i, vf_silu_times(vf_load(gate + i), vf_load(up + i)));
    if (i < n)
        vf_store_n(y + i, vf_silu_times(vf_load_n(gate + i, n - i), vf_load_n(up + i, n - i)), n - i);
}

static void rope(float *x, const float *cs, int32_t n_rot)
{
    int32_t half = n_rot / 2, i = 0;
    const float *sn = cs + half;
    float *y = x + half;
    for (; i + VL <= half; i += VL) {
        vf a = vf_load(x + i), b = vf_load(y + i), c = vf_load(cs + i), s = vf_load(sn + i);
        vf_store(x + i, vf_sub(vf_mul(a, c), vf_mul(b, s)));
        vf_store(y + i, vf_add(vf_mul(b, c), vf_mul(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i], b = y[i];
        x[i] = a * cs[i] - b * sn[i];
        y[i] = b * cs[i] + a * sn[i];
    }
}

static double logits(const float *x, int64_t n, float *max, bool *finite)
{
    vf m = vf_set(-INFINITY), sum, zero = vf_set(0.0f), nan = zero;
    int64_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf v = vf_load(x + i);
        m = vf_max(v, m); /* NaN in v keeps m */
        nan = vf_fma(v, zero, nan);
    }
    float best = vf_hmax(m), odd = vf_sum(nan);
    for (; i < n; i++) {
        best = x[i] > best ? x[i] : best;
        odd += x[i] * 0.0f;
    }
    *max = best;
    *finite = odd == 0.0f;
    double total = 0.0;
    for (i = 0; i < n;) { /* short float sums, added up in double */
        sum = zero;
        int64_t end = i + 64 * VL < n ? i + 64 * VL : n;
        for (; i + VL <= end; i += VL)
            sum = vf_add(sum, vf_exp(vf_sub(vf_load(x + i), vf_set(best))));
        total += (double)vf_sum(sum);
        for (; i < end; i++)
            total += exp((double)x[i] - (double)best);
    }
    return total;
}

/* ------------------------------------------------------------------ quantiser */

static inline vf round16(vf v)
{
    uint16_t t[VL];
    vf_store_f16(t, v);
    return vf_load_f16(t);
}

/* Codes of VL values under scale s and minimum mn, as the reference loops have them (s == 0: 0 / 0 is code 0,
 * infinity the top code). */
static inline vf quant_codes(vf x, vf mn, vf s, vf top, bool inverse)
{
    vf above = round16(vf_sub(x, mn)), q = round16(inverse ? vf_mul(above, s) : vf_div(above, s));
    q = vf_max(q, vf_set(0.0f)); /* the second operand where q is NaN */
    return vf_round(vf_min(q, top));
}

/* Groups along channels of one row: x [d] already rounded to f16. */
static void quant_token_row(const struct quant_args *a, const float *x, int64_t d, int64_t group0)
{
    int32_t G = a->group;
    uint8_t code[CPU_MAX_D];
    for (int64_t g = 0; g < d / G; g++) {
        const float *p = x + g * G;
        uint16_t *scale = &a->scale[group0 + g], *min = &a->min[group0 + g];
        uint8_t *out = (uint8_t *)a->codes + (group0 + g) * G * a->bits / 8;
        host_quant_scale(a, p, scale, min);
        vf mn = vf_set(f16_to_f32(*min)), s = vf_set(f16_to_f32(*scale)),
           top = vf_set((float)((1 << a->bits) - 1));
        for (int32_t i = 0; i < G; i += VL) {
            float t[VL];
            int64_t n = G - i < VL ? G - i : VL;
            vf_store(t, quant_codes(vf_load_n(p + i, n), mn, s, top, a->inverse));
            for (int32_t j = 0; j < n; j++)
                code[i + j] = (uint8_t)t[j];
        }
        host_pack_codes(out, code, G, a->bits);
    }
}

static void quant_token(const struct quant_args *a, int64_t row)
{
    int64_t H = a->src.n[1], d = a->src.n[2];
    float x[CPU_MAX_D];
    uint16_t half[CPU_MAX_D];
    for (int64_t h = 0; h < H; h++) {
        int64_t at = (row * H + h) * d;
        ISA(row_to_f32)
        (x, (const char *)a->src.data + (size_t)at * dtype_bytes(a->src.dtype), a->src.dtype, d);
        from_f32(half, DT_F16, x, d);
        ISA(row_to_f32)(x, half, DT_F16, d);
        quant_token_row(a, x, d, at / a->group);
    }
}

/* One token group of one head, VL channels at a time: lanes are channels. */
static void quant_channel(const struct quant_args *a, int64_t tg, int64_t h, int64_t c)
{
    int64_t H = a->src.n[1], d = a->src.n[2], G = a->group, n = d - c < VL ? d - c : VL;
    vf x[QUANT_MAX_GROUP], mn = vf_set(0.0f), mx = mn, top = vf_set((float)((1 << a->bits) - 1));
    uint8_t code[VL][QUANT_MAX_GROUP];
    uint16_t scale[VL], min[VL];
    for (int64_t t = 0; t < G; t++) {
        float row[VL] = {0};
        int64_t at = ((tg * G + t) * H + h) * d + c;
        ISA(row_to_f32)
        (row, (const char *)a->src.data + (size_t)at * dtype_bytes(a->src.dtype), a->src.dtype, n);
        x[t] = round16(vf_load(row));
        mn = t ? vf_min(x[t], mn) : x[t]; /* the reference keeps the first of equals: so -0 and +0 agree */
        mx = t ? vf_max(x[t], mx) : x[t];
    }
    vf range = round16(vf_sub(mx, mn));
    vf s =
        a->inverse ? round16(vf_mul(round16(vf_div(vf_set(1.0f), range)), top)) : round16(vf_div(range, top));
    vf_store_f16(scale, s);
    vf_store_f16(min, mn);
    for (int64_t t = 0; t < G; t++) {
        float q[VL];
        vf_store(q, quant_codes(x[t], mn, s, top, a->inverse));
        for (int64_t i = 0; i < n; i++)
            code[i][t] = (uint8_t)q[i];
    }
    for (int64_t i = 0; i < n; i++) {
        int64_t at = (tg * H + h) * d + c + i;
        a->scale[at] = scale[i];
        a->min[at] = min[i];
        host_pack_codes((uint8_t *)a->codes + at * G * a->bits / 8, code[i], (int32_t)G, a->bits);
    }
}

static void quant_rows(const struct quant_args *a, int64_t row, int64_t n)
{
    for (int64_t r = row; r < row + n; r++) {
        if (a->layout == QUANT_TOKEN) {
            quant_token(a, r);
            continue;
        }
        for (int64_t h = 0; h < a->src.n[1]; h++)
            for (int64_t c = 0; c < a->src.n[2]; c += VL)
                quant_channel(a, r, h, c);
    }
}

const struct cpu_isa ISA(isa) = {
    .name = ISA_NAME,
    .to_f32 = ISA(row_to_f32),
    .from_f32 = from_f32,
    .scale = scale,
    .round_bf16 = round_bf16,
    .rmsnorm = rmsnorm,
    .layernorm = layernorm,
    .add = add,
    .gelu = gelu,
    .swiglu = swiglu,
    .rope = rope,
    .logits = logits,
    .quant_rows = quant_rows,
    .panel = ISA(panel_product),
    .kv_rows = ISA(kv_rows),
    .block = ISA(attend_block),
    .block_out = ISA(block_out),
    .scores = ISA(decode_scores),
    .values = ISA(decode_values),
    .softmax = ISA(decode_softmax),
    .attn_scores_rows = ISA(attn_scores_rows),
    .attn_scores_add = ISA(attn_scores_add),
    .dot = ISA(dot),
    .sum_rows = ISA(sum_rows),
};
