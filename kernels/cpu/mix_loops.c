/* Loops of recurrent layers: lanes are channels, so that no sum goes across lanes and a row's result does not
 * depend on how many rows came with it. */
#include <math.h>

#include "kernels/cpu/isa.h"
#include "kernels/cpu/mix.h"

INLINE float *at(const struct strip *s, int64_t t, int64_t c)
{
    return (float *)s->data + t * s->ld + c;
}

INLINE vf load(const float *p, int64_t n)
{
    return n == VL ? vf_load(p) : vf_load_n(p, n);
}

INLINE void store(float *p, vf v, int64_t n)
{
    if (n == VL)
        vf_store(p, v);
    else
        vf_store_n(p, v, n);
}

/* n <= VL values of a state of either dtype. */
INLINE vf state_load(const struct tensor *s, int64_t i, int64_t n)
{
    float x[VL] = {0};
    ISA(row_to_f32)(x, (const char *)s->data + (size_t)i * dtype_bytes(s->dtype), s->dtype, n);
    return vf_load(x);
}

INLINE void state_store(const struct tensor *s, int64_t i, vf v, int64_t n)
{
    float x[VL];
    vf_store(x, v);
    for (int64_t k = 0; k < n; k++)
        host_put(s->data, s->dtype, i + k, x[k]);
}

/* Column k of rows [c, c + n) of w [C,width]. */
INLINE vf column(const float *w, int64_t c, int32_t width, int32_t k, int64_t n)
{
    float x[VL] = {0};
    for (int64_t i = 0; i < n; i++)
        x[i] = w[(c + i) * width + k];
    return vf_load(x);
}

INLINE vf silu(vf x)
{
    return vf_mul(x, vf_sigmoid(x));
}

INLINE void conv_lanes(const struct conv_args *a, int64_t c, int64_t n)
{
    const int32_t last = a->width - 1;
    vf x[8], w[8], bias = a->bias ? load(a->bias + c, n) : vf_set(0.0f);
    for (int32_t k = 0; k <= last; k++) {
        w[k] = column(a->w, c, a->width, k, n);
        x[k] = k < last ? state_load(&a->tail, k * a->C + c, n) : bias;
    }
    for (int64_t t = 0; t < a->T; t++) {
        vf sum = bias;
        x[last] = load(at(&a->x, t, c), n);
        for (int32_t k = 0; k <= last; k++)
            sum = vf_fma(w[k], x[k], sum);
        store(at(&a->out, t, c), a->silu ? silu(sum) : sum, n);
        for (int32_t k = 0; k < last; k++)
            x[k] = x[k + 1];
    }
    for (int32_t k = 0; k < last; k++)
        state_store(&a->tail, k * a->C + c, x[k], n);
}

#define BY_VECTORS(lanes)                                                                                    \
    for (int64_t i = 0; i < n; i += VL)                                                                      \
    lanes(a, c + i, n - i < VL ? n - i : VL)

static void conv(const struct conv_args *a, int64_t c, int64_t n)
{
    BY_VECTORS(conv_lanes);
}

/* h [N] and a [N] of the lanes' channels. */
INLINE void scan_lanes(const struct scan_args *a, int64_t e, int64_t n)
{
    vf h[256], rate[256], bias = load(a->dt_bias + e, n), d = load(a->d + e, n);
    for (int32_t k = 0; k < a->N; k++) {
        float s[VL] = {0};
        for (int64_t i = 0; i < n; i++)
            s[i] = host_get(a->state.data, a->state.dtype, (e + i) * a->N + k);
        h[k] = vf_load(s);
        rate[k] = column(a->a, e, a->N, k, n);
    }
    for (int64_t t = 0; t < a->T; t++) {
        const float *b = at(&a->b, t, 0), *c = at(&a->c, t, 0);
        vf x = load(at(&a->x, t, e), n), dt = vf_softplus(vf_add(load(at(&a->dt, t, e), n), bias));
        vf in = vf_mul(dt, x), y = vf_mul(d, x);
        for (int32_t k = 0; k < a->N; k++) {
            h[k] = vf_fma(vf_exp(vf_mul(dt, rate[k])), h[k], vf_mul(in, vf_set(b[k])));
            y = vf_fma(vf_set(c[k]), h[k], y);
        }
        if (a->z.data)
            y = vf_mul(y, silu(load(at(&a->z, t, e), n)));
        store(at(&a->out, t, e), y, n);
    }
    for (int32_t k = 0; k < a->N; k++) {
        float s[VL];
        vf_store(s, h[k]);
        for (int64_t i = 0; i < n; i++)
            host_put(a->state.data, a->state.dtype, (e + i) * a->N + k, s[i]);
    }
}

static void scan(const struct scan_args *a, int64_t c, int64_t n)
{
    BY_VECTORS(scan_lanes);
}

INLINE vf root(vf x)
{
    float v[VL];
    vf_store(v, x);
    for (int i = 0; i < VL; i++)
        v[i] = sqrtf(v[i]);
    return vf_load(v);
}

INLINE void lru_lanes(const struct lru_args *a, int64_t c, int64_t n)
{
    vf h = state_load(&a->state, c, n), rate = vf_neg(load(a->a + c, n));
    vf bias_i = load(a->bias_i + c, n), bias_r = load(a->bias_r + c, n);
    for (int64_t t = 0; t < a->T; t++) {
        vf x = vf_mul(vf_sigmoid(vf_add(load(at(&a->gate_i, t, c), n), bias_i)), load(at(&a->x, t, c), n));
        vf l = vf_mul(rate, vf_sigmoid(vf_add(load(at(&a->gate_r, t, c), n), bias_r)));
        vf m = root(vf_neg(vf_expm1(vf_mul(l, vf_set(2.0f)))));
        h = a->pos + t == 0 ? x : vf_fma(vf_exp(l), h, vf_mul(m, x));
        store(at(&a->out, t, c), a->y.data ? vf_mul(h, load(at(&a->y, t, c), n)) : h, n);
    }
    state_store(&a->state, c, h, n);
}

static void lru(const struct lru_args *a, int64_t c, int64_t n)
{
    BY_VECTORS(lru_lanes);
}

INLINE void shift_lanes(const struct shift_args *a, int64_t c, int64_t n)
{
    vf before = state_load(&a->prev, c, n), one = vf_set(1.0f);
    for (int64_t t = 0; t < a->T; t++) {
        vf x = load(at(&a->x, t, c), n);
        for (int32_t k = 0; k < a->n_out; k++) {
            vf m = load(a->mix[k] + c, n);
            store(at(&a->out[k], t, c), vf_fma(x, m, vf_mul(before, vf_sub(one, m))), n);
        }
        before = x;
    }
    state_store(&a->prev, c, before, n);
}

static void shift(const struct shift_args *a, int64_t c, int64_t n)
{
    BY_VECTORS(shift_lanes);
}

/* One row of a head; s [S,S], o [S] in vectors. */
INLINE void wkv_row(const struct wkv_args *a, int64_t c, int64_t t, float *s)
{
    const float *r = at(&a->r, t, c), *k = at(&a->k, t, c), *v = at(&a->v, t, c);
    float o[128];
    for (int32_t j = 0; j < a->S; j += VL) {
        const int64_t n = a->S - j < VL ? a->S - j : VL;
        vf vj = load(v + j, n), sum = vf_set(0.0f);
        for (int32_t i = 0; i < a->S; i++) {
            float *si = s + (int64_t)i * a->S + j;
            vf kv = vf_mul(vf_set(k[i]), vj), old = load(si, n);
            sum = vf_fma(vf_set(r[i]), vf_fma(vf_set(a->bonus[c + i]), kv, old), sum);
            store(si, vf_fma(vf_set(a->decay[c + i]), old, kv), n);
        }
        store(o + j, sum, n);
    }
    memcpy(at(&a->out, t, c), o, (size_t)a->S * sizeof *o);
}

static void wkv(const struct wkv_args *a, int32_t h)
{
    float room[128 * 128];
    const int64_t c = (int64_t)h * a->S, n = (int64_t)a->S * a->S;
    const bool f32 = a->state.dtype == DT_F32;
    float *s = f32 ? (float *)a->state.data + h * n : room;
    char *from = (char *)a->state.data + (size_t)(h * n) * dtype_bytes(a->state.dtype);
    if (!f32)
        ISA(row_to_f32)(s, from, a->state.dtype, n);
    for (int64_t t = 0; t < a->T; t++)
        wkv_row(a, c, t, s);
    for (int64_t i = 0; !f32 && i < n; i++)
        host_put(from, a->state.dtype, i, s[i]);
}

INLINE vf gate_value(enum gate_fn fn, vf x)
{
    if (fn == GATE_SIGMOID)
        return vf_sigmoid(x);
    if (fn == GATE_RELU2) {
        vf y = vf_max(vf_set(0.0f), x);
        return vf_mul(y, y);
    }
    if (fn == GATE_SILU)
        return silu(x);
    /* x/2 (1 + tanh(u)) is x sigmoid(2 u) */
    vf cube = vf_fma(vf_mul(vf_mul(x, x), x), vf_set(0.044715f), x);
    return vf_mul(x, vf_sigmoid(vf_mul(cube, vf_set(2.0f * 0.79788456080286536f))));
}

INLINE void gate_row(const struct gate_args *a, int64_t t, const enum gate_fn fn)
{
    for (int64_t i = 0; i < a->F; i += VL) {
        const int64_t n = a->F - i < VL ? a->F - i : VL;
        vf v = gate_value(fn, load(at(&a->x, t, i), n));
        v = a->y.data ? vf_mul(v, load(at(&a->y, t, i), n)) : v;
        store(at(&a->out, t, i), a->add ? vf_add(load(at(&a->out, t, i), n), v) : v, n);
    }
}

static void gate(const struct gate_args *a, int64_t t)
{
    switch (a->fn) {
    case GATE_SIGMOID:
        gate_row(a, t, GATE_SIGMOID);
        break;
    case GATE_RELU2:
        gate_row(a, t, GATE_RELU2);
        break;
    case GATE_GELU_TANH:
        gate_row(a, t, GATE_GELU_TANH);
        break;
    default:
        gate_row(a, t, GATE_SILU);
    }
}

/* Sum of (x - m)^2, or of x. */
INLINE float group_sum(const float *x, int64_t D, float m, bool square)
{
    vf sum = vf_set(0.0f);
    for (int64_t i = 0; i < D; i += VL) {
        const int64_t n = D - i < VL ? D - i : VL;
        float v[VL] = {0};
        store(v, vf_sub(load(x + i, n), vf_set(m)), n); /* lanes behind the end stay 0 */
        sum = square ? vf_fma(vf_load(v), vf_load(v), sum) : vf_add(sum, vf_load(v));
    }
    return vf_sum(sum);
}

/* Channels [c, c + D) of row t. */
INLINE void norm_one(const struct group_norm_args *a, int64_t t, int64_t c, int64_t D)
{
    float *y = at(&a->out, t, c);
    const float *x = at(&a->x, t, c), *z = a->z.data ? at(&a->z, t, c) : NULL;
    for (int64_t i = 0; i < D; i += VL) {
        const int64_t n = D - i < VL ? D - i : VL;
        vf v = load(x + i, n);
        store(y + i, z && a->gate_first ? vf_mul(v, silu(load(z + i, n))) : v, n);
    }
    float mean = a->center ? group_sum(y, D, 0.0f, false) / (float)D : 0.0f;
    vf m = vf_set(mean), r = vf_set(1.0f / sqrtf(group_sum(y, D, mean, true) / (float)D + a->eps));
    for (int64_t i = 0; i < D; i += VL) {
        const int64_t n = D - i < VL ? D - i : VL;
        vf v = vf_mul(vf_mul(vf_sub(load(y + i, n), m), r), load(a->w + c + i, n));
        v = a->b ? vf_add(v, load(a->b + c + i, n)) : v;
        store(y + i, z && !a->gate_first ? vf_mul(v, silu(load(z + i, n))) : v, n);
    }
}

static void group_norm(const struct group_norm_args *a, int64_t t)
{
    for (int64_t c = 0; c < a->D; c += a->D / a->G)
        norm_one(a, t, c, a->D / a->G);
}

static void softcap(float *x, float cap, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL) {
        const int64_t m = n - i < VL ? n - i : VL;
        store(x + i, vf_mul(vf_set(cap), vf_tanh(vf_mul(load(x + i, m), vf_set(1.0f / cap)))), m);
    }
}

/* ------------------------------------------------------------------ Mamba-2 */

INLINE float step_of(const struct ssd_args *a, int32_t h, int64_t t)
{
    float x[VL];
    vf_store(x, vf_softplus(vf_set(*at(&a->dt, t, h) + a->dt_bias[h])));
    return x[0] < a->dt_min ? a->dt_min : x[0] > a->dt_max ? a->dt_max : x[0];
}

static void ssd_steps(const struct ssd_args *a, int32_t h, int64_t t0, int64_t m, float *dt, double *sum)
{
    double s = 0.0;
    for (int64_t t = 0; t < SSD_ROWS; t++) {
        dt[t] = t < m ? step_of(a, h, t0 + t) : 0.0f;
        s += (double)dt[t] * (double)a->a[h];
        sum[t] = s;
    }
}

/* Lanes are states. */
static void ssd_row(const struct ssd_args *a, int32_t h, int32_t p)
{
    const int64_t c = (int64_t)h * a->P + p, bc = h / (a->H / a->G) * (int64_t)a->N;
    float s[256];
    char *from = (char *)a->state.data + (size_t)(c * a->N) * dtype_bytes(a->state.dtype);
    ISA(row_to_f32)(s, from, a->state.dtype, a->N);
    for (int64_t t = 0; t < a->T; t++) {
        const float dt = step_of(a, h, t), x = *at(&a->x, t, c);
        const float *b = at(&a->b, t, bc), *cc = at(&a->c, t, bc);
        float e[VL];
        vf_store(e, vf_exp(vf_set(dt * a->a[h])));
        vf sum = vf_set(0.0f), decay = vf_set(e[0]), in = vf_set(dt * x);
        for (int32_t n = 0; n < a->N; n += VL) {
            const int64_t k = a->N - n < VL ? a->N - n : VL;
            vf v = vf_fma(decay, load(s + n, k), vf_mul(in, load(b + n, k)));
            store(s + n, v, k);
            float masked[VL] = {0};
            store(masked, vf_mul(v, load(cc + n, k)), k);
            sum = vf_add(sum, vf_load(masked));
        }
        *at(&a->out, t, c) = vf_sum(sum) + a->d[h] * x;
    }
    for (int32_t n = 0; n < a->N; n++)
        host_put(from, a->state.dtype, n, s[n]);
}

static void ssd_mix(float *mix, const float *cb, const double *sum, const float *dt, int64_t m)
{
    for (int64_t t = 0; t < m; t++) {
        float *row = mix + t * SSD_ROWS, gap[SSD_ROWS];
        for (int64_t s = 0; s < SSD_ROWS; s++)
            gap[s] = s <= t ? (float)(sum[t] - sum[s]) : -1e30f;
        for (int64_t s = 0; s < SSD_ROWS; s += VL) {
            vf w = vf_mul(vf_exp(vf_load(gap + s)), vf_load(dt + s));
            vf_store(row + s, vf_mul(w, vf_load(cb + t * SSD_ROWS + s)));
        }
    }
}

static void mul_rows(float *y, const float *x, const float *f, int64_t rows)
{
    for (int64_t r = 0; r < rows; r++)
        for (int64_t s = 0; s < SSD_ROWS; s += VL)
            vf_store(y + r * SSD_ROWS + s, vf_mul(vf_load(x + r * SSD_ROWS + s), vf_load(f + s)));
}

static void fma_row(float *y, const float *x, float f, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL) {
        const int64_t m = n - i < VL ? n - i : VL;
        store(y + i, vf_fma(vf_set(f), load(x + i, m), load(y + i, m)), m);
    }
}

static void scale_add(float *y, float f, const float *x, int64_t n)
{
    for (int64_t i = 0; i < n; i += VL) {
        const int64_t m = n - i < VL ? n - i : VL;
        store(y + i, vf_fma(vf_set(f), load(y + i, m), load(x + i, m)), m);
    }
}

const struct mix_isa ISA(mix) = {
    .conv = conv,
    .scan = scan,
    .lru = lru,
    .shift = shift,
    .wkv = wkv,
    .gate = gate,
    .group_norm = group_norm,
    .softcap = softcap,
    .ssd_row = ssd_row,
    .ssd_steps = ssd_steps,
    .ssd_mix = ssd_mix,
    .mul_rows = mul_rows,
    .fma_row = fma_row,
    .scale_add = scale_add,
};
