/* The meaning of every kernel, in plain loops: float32 arithmetic, one thread, no fused operations. Tests
 * hold every other backend against this one. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/mem.h"
#include "kernels/score.h"

struct ref {
    struct host host; /* first: ops.c looks there */
    struct ops ops;
};

static void ref_close(struct ops *o)
{
    struct ref *r = o->impl;
    free(r);
}

static size_t ref_pack_bytes(struct ops *o, int64_t n_out, int64_t n_in, enum dtype dtype)
{
    (void)o;
    return dtype <= DT_BF16 ? (size_t)(n_out * n_in) * dtype_bytes(dtype) : 0;
}

static void ref_pack(struct ops *o, struct weight *w, const struct tensor *src)
{
    (void)o;
    for (int64_t i = 0; i < w->n_out * w->n_in; i++)
        host_put(w->packed, w->dtype, i, host_get(src->data, src->dtype, i));
}

static void ref_matmul(struct ops *o, struct tensor out, struct tensor x, const struct weight *w,
                       const float *bias)
{
    (void)o;
    assert(x.n[1] == w->n_in && out.n[1] == w->n_out && out.n[0] == x.n[0]);
    const float *xs = x.data;
    float *y = out.data;
    for (int64_t t = 0; t < x.n[0]; t++) {
        for (int64_t n = 0; n < w->n_out; n++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < w->n_in; k++) {
                float v = xs[t * w->n_in + k];
                v = w->dtype == DT_BF16 ? bf16_to_f32(bf16_from_f32(v)) : v;
                sum += v * host_get(w->packed, w->dtype, n * w->n_in + k);
            }
            y[t * w->n_out + n] = bias ? sum + bias[n] : sum;
        }
    }
}

static void ref_embed(struct ops *o, struct tensor out, const struct tensor *table, const int32_t *ids,
                      float scale)
{
    (void)o;
    int64_t D = table->n[1];
    for (int64_t t = 0; t < out.n[0]; t++) {
        assert(ids[t] >= 0 && ids[t] < table->n[0]);
        for (int64_t i = 0; i < D; i++)
            ((float *)out.data)[t * D + i] = scale * host_get(table->data, table->dtype, ids[t] * D + i);
    }
}

static void ref_rmsnorm(struct ops *o, struct tensor out, struct tensor x, const float *w, float eps,
                        float w_add)
{
    (void)o;
    int64_t D = x.n[1];
    for (int64_t t = 0; t < x.n[0]; t++) {
        const float *a = (const float *)x.data + t * D;
        float *y = (float *)out.data + t * D;
        float sum = 0.0f;
        for (int64_t i = 0; i < D; i++)
            sum += a[i] * a[i];
        float r = 1.0f / sqrtf(sum / (float)D + eps);
        for (int64_t i = 0; i < D; i++)
            y[i] = a[i] * r * (w[i] + w_add);
    }
}

static void ref_add(struct ops *o, struct tensor x, struct tensor y)
{
    (void)o;
    for (int64_t i = 0; i < tensor_count(&x); i++)
        ((float *)x.data)[i] += ((const float *)y.data)[i];
}

static void ref_swiglu(struct ops *o, struct tensor out, struct tensor gate_up)
{
    (void)o;
    int64_t F = out.n[1];
    for (int64_t t = 0; t < out.n[0]; t++) {
        const float *gate = (const float *)gate_up.data + t * 2 * F, *up = gate + F;
        for (int64_t i = 0; i < F; i++)
            ((float *)out.data)[t * F + i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static void ref_layernorm(struct ops *o, struct tensor out, struct tensor x, const float *w, const float *b,
                          float eps)
{
    (void)o;
    int64_t D = x.n[1];
    for (int64_t t = 0; t < x.n[0]; t++) {
        const float *a = (const float *)x.data + t * D;
        float *y = (float *)out.data + t * D;
        float sum = 0.0f, square = 0.0f;
        for (int64_t i = 0; i < D; i++)
            sum += a[i];
        float mean = sum / (float)D;
        for (int64_t i = 0; i < D; i++)
            square += (a[i] - mean) * (a[i] - mean);
        float r = 1.0f / sqrtf(square / (float)D + eps);
        for (int64_t i = 0; i < D; i++)
            y[i] = (a[i] - mean) * r * w[i] + b[i];
    }
}

static void ref_gelu(struct ops *o, struct tensor out, struct tensor x)
{
    (void)o;
    const float *a = x.data;
    float *y = out.data;
    for (int64_t i = 0; i < tensor_count(&x); i++)
        y[i] = 0.5f * a[i] * (1.0f + erff(a[i] * 0.70710678f));
}

static void rope_row(const struct rope_args *a, int64_t t, int64_t h)
{
    int64_t H = a->src.n[1], d = a->src.n[2], at = (t * H + h) * d;
    int64_t half = a->rope ? a->rope->n_rot / 2 : 0;
    float pos = (float)(a->fixed >= 0 ? a->fixed : a->pos + t);
    for (int64_t i = 0; i < half; i++) {
        float angle = pos * a->rope->inv_freq[i];
        float c = cosf(angle) * a->rope->mscale, s = sinf(angle) * a->rope->mscale;
        float x = host_get(a->src.data, a->src.dtype, at + i);
        float y = host_get(a->src.data, a->src.dtype, at + i + half);
        host_put(a->dst.data, a->dst.dtype, at + i, x * c - y * s);
        host_put(a->dst.data, a->dst.dtype, at + i + half, y * c + x * s);
    }
    for (int64_t i = 2 * half; i < d; i++)
        host_put(a->dst.data, a->dst.dtype, at + i, host_get(a->src.data, a->src.dtype, at + i));
}

static void ref_rope(struct ops *o, const struct rope_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++)
        for (int64_t t = 0; t < a[i].src.n[0]; t++)
            for (int64_t h = 0; h < a[i].src.n[1]; h++)
                rope_row(&a[i], t, h);
}

/* Softmax state of one query: the largest score so far, the sum of exp(score - max). */
struct soft {
    float m, l;
};

/* One key: rescales what was summed if it is a new maximum. */
static void attend_key(struct soft *s, float score, float *out, int64_t d, const struct kv_run *v, int64_t r,
                       int32_t h, int32_t n_head)
{
    if (score > s->m) {
        float f = expf(s->m - score);
        s->l *= f;
        for (int64_t c = 0; c < d; c++)
            out[c] *= f;
        s->m = score;
    }
    float p = expf(score - s->m);
    s->l += p;
    for (int64_t c = 0; c < d; c++)
        out[c] += p * host_kv(v, r, h, (int32_t)c, n_head, (int32_t)d);
}

static void attend_set(const struct attend_args *a, const struct attend_set *set, int64_t t, int64_t head,
                       struct soft *s, float *out)
{
    int64_t H = set->q.n[1], d = set->q.n[2];
    int32_t h = (int32_t)(head / (H / a->n_kv_head));
    const float *q = (const float *)set->q.data + (t * H + head) * d;
    int v_run = 0;
    int64_t v_row = 0, key = 0;
    for (int k_run = 0; k_run < set->n_k; k_run++) {
        const struct kv_run *k = &set->k[k_run];
        for (int64_t r = 0; r < k->n; r++, v_row++, key++) {
            while (v_row == set->v[v_run].n) {
                v_run++;
                v_row = 0;
                assert(v_run < set->n_v);
            }
            int64_t dist = a->q_pos + t - (k->pos + (k->index ? k->index[r] : r));
            if (dist < set->dist_min || dist >= set->dist_max || !score_kept(set, head, key))
                continue;
            float score = 0.0f;
            for (int64_t c = 0; c < d; c++)
                score += q[c] * host_kv(k, r, h, (int32_t)c, a->n_kv_head, (int32_t)d);
            attend_key(s, score * a->scale, out, d, &set->v[v_run], v_row, h, a->n_kv_head);
        }
    }
}

void ref_attend(struct ops *o, const struct attend_args *a, int n)
{
    (void)o;
    for (int i = 0; i < n; i++) {
        int64_t T = a[i].out.n[0], H = a[i].out.n[1], d = a[i].out.n[2];
        for (int64_t j = 0; j < T * H; j++) {
            float *out = (float *)a[i].out.data + j * d;
            struct soft s = {-INFINITY, 0.0f};
            memset(out, 0, (size_t)d * sizeof *out);
            for (int set = 0; set < a[i].n_set; set++)
                attend_set(&a[i], &a[i].set[set], j / H, j % H, &s, out);
            for (int64_t c = 0; c < d && s.l != 0.0f; c++)
                out[c] /= s.l;
        }
        score_attention(&a[i]);
    }
}

/* One group: values rounded to f16, then codes packed low bits first. */
static void quant_group(const struct quant_args *a, int64_t at, int64_t stride, int64_t group, uint8_t *codes)
{
    float x[QUANT_MAX_GROUP];
    uint8_t code[QUANT_MAX_GROUP];
    for (int32_t i = 0; i < a->group; i++)
        x[i] = f16_round(host_get(a->src.data, a->src.dtype, at + i * stride));
    host_quant_scale(a, x, &a->scale[group], &a->min[group]);
    for (int32_t i = 0; i < a->group; i++)
        code[i] = host_quant_code(a, x[i], f16_to_f32(a->scale[group]), f16_to_f32(a->min[group]));
    host_pack_codes(codes, code, a->group, a->bits);
}

static void ref_quant(struct ops *o, const struct quant_args *args, int n)
{
    (void)o;
    for (int i = 0; i < n; i++) {
        const struct quant_args *a = &args[i];
        int64_t H = a->src.n[1], d = a->src.n[2], G = a->group, rows = a->src.n[0];
        int64_t count = rows * H * d / G, bytes = G * a->bits / 8; /* groups; bytes of one */
        assert(a->bits >= 1 && a->bits <= 8 && G * a->bits % 8 == 0 && G <= QUANT_MAX_GROUP);
        assert(a->layout == QUANT_TOKEN ? d % G == 0 : rows % G == 0);
        for (int64_t g = 0; g < count; g++) {
            int64_t at = a->layout == QUANT_TOKEN ? g * G : g / (H * d) * G * H * d + g % (H * d);
            quant_group(a, at, a->layout == QUANT_TOKEN ? 1 : H * d, g, (uint8_t *)a->codes + g * bytes);
        }
    }
}

static void ref_pick(struct ops *o, const struct pick_args *a)
{
    (void)o;
    int64_t V = a->logits.n[1];
    assert(a->n_top <= V);
    for (int64_t t = 0; t < a->logits.n[0]; t++) {
        const float *x = (const float *)a->logits.data + t * V;
        int32_t best = 0;
        bool finite = true;
        for (int64_t i = 0; i < V; i++) {
            finite = finite && isfinite(x[i]);
            best = x[i] > x[best] || (isnan(x[best]) && !isnan(x[i])) ? (int32_t)i : best;
            if (a->n_top)
                host_pick_insert(a->top_id + t * a->n_top, a->top_logit + t * a->n_top, a->n_top, (int32_t)i,
                                 x[i]);
        }
        double sum = 0.0;
        for (int64_t i = 0; i < V; i++)
            sum += exp((double)x[i] - (double)x[best]);
        a->best[t] = best;
        a->logsumexp[t] = (float)((double)x[best] + log(sum));
        a->finite[t] = finite;
    }
}

int ops_open_ref(struct ops **o, const struct ops_options *opt)
{
    (void)opt;
    struct ref *r = mem_alloc(1, sizeof *r);
    host_init(&r->host);
    r->ops = (struct ops){
        .name = "ref",
        .isa = "plain C",
        .libraries = "none",
        .threads = 1,
        .on_host = true,
        .plain_weights = true,
        .impl = r,
        .close = ref_close,
        .pack_bytes = ref_pack_bytes,
        .pack = ref_pack,
        .matmul = ref_matmul,
        .embed = ref_embed,
        .rmsnorm = ref_rmsnorm,
        .add = ref_add,
        .swiglu = ref_swiglu,
        .rope = ref_rope,
        .attend = ref_attend,
        .quant = ref_quant,
        .select = score_select,
        .gather = score_gather,
        .mean = score_mean,
        .dots = score_dots,
        .norms = score_norms,
        .pick = ref_pick,
        .layernorm = ref_layernorm,
        .gelu = ref_gelu,
    };
    ref_mix_table(&r->ops);
    host_backend(&r->ops);
    *o = &r->ops;
    return 0;
}
