/* The meaning of the entries of mix.h, in plain loops: token by token, as the recurrences are written. */
#include <math.h>

#include "kernels/host.h"

static float *at(const struct strip *s, int64_t t, int64_t c)
{
    return (float *)s->data + t * s->ld + c;
}

static float sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

static float silu(float x)
{
    return x / (1.0f + expf(-x));
}

static float softplus(float x)
{
    return x > 20.0f ? x : log1pf(expf(x));
}

static float get(const struct tensor *t, int64_t i)
{
    return host_get(t->data, t->dtype, i);
}

static void put(const struct tensor *t, int64_t i, float x)
{
    host_put(t->data, t->dtype, i, x);
}

static void conv_channel(const struct conv_args *a, int64_t c)
{
    float x[8]; /* the inputs that a row sees, oldest first */
    const int32_t last = a->width - 1;
    for (int32_t k = 0; k < last; k++)
        x[k] = get(&a->tail, k * a->C + c);
    for (int64_t t = 0; t < a->T; t++) {
        float sum = a->bias ? a->bias[c] : 0.0f;
        x[last] = *at(&a->x, t, c);
        for (int32_t k = 0; k <= last; k++)
            sum += a->w[c * a->width + k] * x[k];
        *at(&a->out, t, c) = a->silu ? silu(sum) : sum;
        for (int32_t k = 0; k < last; k++)
            x[k] = x[k + 1];
    }
    for (int32_t k = 0; k < last; k++)
        put(&a->tail, k * a->C + c, x[k]);
}

static void ref_conv(struct ops *o, const struct conv_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++)
        for (int64_t c = 0; c < a[i].C; c++)
            conv_channel(&a[i], c);
}

static void scan_channel(const struct scan_args *a, int64_t e)
{
    float h[256];
    for (int32_t n = 0; n < a->N; n++)
        h[n] = get(&a->state, e * a->N + n);
    for (int64_t t = 0; t < a->T; t++) {
        float x = *at(&a->x, t, e), dt = softplus(*at(&a->dt, t, e) + a->dt_bias[e]), y = a->d[e] * x;
        for (int32_t n = 0; n < a->N; n++) {
            h[n] = expf(dt * a->a[e * a->N + n]) * h[n] + dt * *at(&a->b, t, n) * x;
            y += *at(&a->c, t, n) * h[n];
        }
        *at(&a->out, t, e) = a->z.data ? y * silu(*at(&a->z, t, e)) : y;
    }
    for (int32_t n = 0; n < a->N; n++)
        put(&a->state, e * a->N + n, h[n]);
}

static void ref_scan(struct ops *o, const struct scan_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++)
        for (int64_t e = 0; e < a[i].E; e++)
            scan_channel(&a[i], e);
}

static void ssd_channel(const struct ssd_args *a, int32_t h, int32_t p)
{
    float s[256];
    const int64_t from = ((int64_t)h * a->P + p) * a->N, c = (int64_t)h * a->P + p,
                  bc = h / (a->H / a->G) * a->N;
    for (int32_t n = 0; n < a->N; n++)
        s[n] = get(&a->state, from + n);
    for (int64_t t = 0; t < a->T; t++) {
        float dt = softplus(*at(&a->dt, t, h) + a->dt_bias[h]), x = *at(&a->x, t, c), y = a->d[h] * x;
        dt = dt < a->dt_min ? a->dt_min : dt > a->dt_max ? a->dt_max : dt;
        for (int32_t n = 0; n < a->N; n++) {
            s[n] = expf(dt * a->a[h]) * s[n] + dt * x * *at(&a->b, t, bc + n);
            y += s[n] * *at(&a->c, t, bc + n);
        }
        *at(&a->out, t, c) = y;
    }
    for (int32_t n = 0; n < a->N; n++)
        put(&a->state, from + n, s[n]);
}

static void ref_ssd(struct ops *o, const struct ssd_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++)
        for (int32_t h = 0; h < a[i].H; h++)
            for (int32_t p = 0; p < a[i].P; p++)
                ssd_channel(&a[i], h, p);
}

static void wkv_row(const struct wkv_args *a, int32_t h, int64_t t, float *s)
{
    const int64_t c = (int64_t)h * a->S;
    float o[128] = {0};
    for (int32_t i = 0; i < a->S; i++) {
        float r = *at(&a->r, t, c + i), k = *at(&a->k, t, c + i);
        for (int32_t j = 0; j < a->S; j++) {
            float kv = k * *at(&a->v, t, c + j);
            o[j] += r * (a->bonus[c + i] * kv + s[i * a->S + j]);
            s[i * a->S + j] = a->decay[c + i] * s[i * a->S + j] + kv;
        }
    }
    for (int32_t j = 0; j < a->S; j++)
        *at(&a->out, t, c + j) = o[j];
}

static void wkv_head(const struct wkv_args *a, int32_t h)
{
    float s[128 * 128];
    const int64_t n = (int64_t)a->S * a->S, from = h * n;
    for (int64_t i = 0; i < n; i++)
        s[i] = get(&a->state, from + i);
    for (int64_t t = 0; t < a->T; t++)
        wkv_row(a, h, t, s);
    for (int64_t i = 0; i < n; i++)
        put(&a->state, from + i, s[i]);
}

static void ref_wkv(struct ops *o, const struct wkv_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++)
        for (int32_t h = 0; h < a[i].H; h++)
            wkv_head(&a[i], h);
}

static void lru_channel(const struct lru_args *a, int64_t c)
{
    float h = get(&a->state, c);
    for (int64_t t = 0; t < a->T; t++) {
        float x = sigmoid(*at(&a->gate_i, t, c) + a->bias_i[c]) * *at(&a->x, t, c);
        float l = -a->a[c] * sigmoid(*at(&a->gate_r, t, c) + a->bias_r[c]);
        h = a->pos + t == 0 ? x : expf(l) * h + sqrtf(-expm1f(2.0f * l)) * x;
        *at(&a->out, t, c) = a->y.data ? h * *at(&a->y, t, c) : h;
    }
    put(&a->state, c, h);
}

static void ref_lru(struct ops *o, const struct lru_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++)
        for (int64_t c = 0; c < a[i].D; c++)
            lru_channel(&a[i], c);
}

static void ref_shift(struct ops *o, const struct shift_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++)
        for (int64_t c = 0; c < a[i].C; c++) {
            float before = get(&a[i].prev, c);
            for (int64_t t = 0; t < a[i].T; t++) {
                float x = *at(&a[i].x, t, c);
                for (int32_t k = 0; k < a[i].n_out; k++)
                    *at(&a[i].out[k], t, c) = x * a[i].mix[k][c] + before * (1.0f - a[i].mix[k][c]);
                before = x;
            }
            put(&a[i].prev, c, before);
        }
}

static float gate_value(enum gate_fn fn, float x)
{
    switch (fn) {
    case GATE_GELU_TANH:
        return 0.5f * x * (1.0f + tanhf(0.79788456080286536f * (x + 0.044715f * x * x * x)));
    case GATE_SIGMOID:
        return sigmoid(x);
    case GATE_RELU2:
        return x > 0.0f ? x * x : 0.0f;
    default:
        return silu(x);
    }
}

static void ref_gate(struct ops *o, const struct gate_args *a)
{
    (void)o;
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t i = 0; i < a->F; i++) {
            float v = gate_value(a->fn, *at(&a->x, t, i));
            v = a->y.data ? v * *at(&a->y, t, i) : v;
            *at(&a->out, t, i) = a->add ? *at(&a->out, t, i) + v : v;
        }
}

/* One group of one row: channels [c, c + n). */
static void norm_group(const struct group_norm_args *a, int64_t t, int64_t c, int64_t n)
{
    float sum = 0.0f, square = 0.0f;
    for (int64_t i = c; i < c + n; i++) {
        float v = *at(&a->x, t, i);
        *at(&a->out, t, i) = a->z.data && a->gate_first ? v * silu(*at(&a->z, t, i)) : v;
        sum += *at(&a->out, t, i);
    }
    float mean = a->center ? sum / (float)n : 0.0f;
    for (int64_t i = c; i < c + n; i++)
        square += (*at(&a->out, t, i) - mean) * (*at(&a->out, t, i) - mean);
    float r = 1.0f / sqrtf(square / (float)n + a->eps);
    for (int64_t i = c; i < c + n; i++) {
        float v = (*at(&a->out, t, i) - mean) * r * a->w[i] + (a->b ? a->b[i] : 0.0f);
        *at(&a->out, t, i) = a->z.data && !a->gate_first ? v * silu(*at(&a->z, t, i)) : v;
    }
}

static void ref_group_norm(struct ops *o, const struct group_norm_args *a)
{
    (void)o;
    for (int64_t t = 0; t < a->T; t++)
        for (int64_t c = 0; c < a->D; c += a->D / a->G)
            norm_group(a, t, c, a->D / a->G);
}

static void ref_softcap(struct ops *o, struct tensor x, float cap)
{
    (void)o;
    for (int64_t i = 0; i < tensor_count(&x); i++)
        ((float *)x.data)[i] = cap * tanhf(((float *)x.data)[i] / cap);
}

void ref_mix_table(struct ops *o)
{
    o->conv = ref_conv;
    o->scan = ref_scan;
    o->ssd = ref_ssd;
    o->wkv = ref_wkv;
    o->lru = ref_lru;
    o->shift = ref_shift;
    o->gate = ref_gate;
    o->group_norm = ref_group_norm;
    o->softcap = ref_softcap;
}
