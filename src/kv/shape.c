#include "kv/shape.h"

#include <assert.h>
#include <math.h>
#include <string.h>

struct layer_kind kind_attention(int32_t n_head, int32_t n_kv_head, int32_t d, int64_t window)
{
    return (struct layer_kind){.mixer = MIX_ATTENTION,
                               .compress = window == 0,
                               .n_head = n_head,
                               .n_kv_head = n_kv_head,
                               .d_k = d,
                               .d_v = d,
                               .window = window,
                               .n_rot = d,
                               .scale = 1.0f / sqrtf((float)d)};
}

void shape_alike(struct seq_shape *s, int32_t n_layer, const struct layer_kind *kind)
{
    assert(n_layer <= SHAPE_LAYERS);
    *s = (struct seq_shape){.n_layer = n_layer, .n_kind = 1, .kind = {*kind}};
}

int32_t shape_layers_of(const struct seq_shape *s, int32_t kind)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_layer; i++)
        n += s->kind_of[i] == kind;
    return n;
}

uint64_t kind_row_bytes(const struct layer_kind *k, enum dtype dtype)
{
    return (uint64_t)k->n_kv_head * (uint64_t)(k->d_k + k->d_v) * dtype_bytes(dtype);
}

static uint64_t state_values(const struct state_array *a)
{
    return (uint64_t)(a->n[0] * a->n[1] * a->n[2]);
}

uint64_t kind_state_bytes(const struct layer_kind *k)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < k->n_state; i++)
        sum += state_values(&k->state[i]) * dtype_bytes(k->state[i].dtype);
    return sum;
}

uint64_t shape_layer_bytes(const struct seq_shape *s, int32_t layer, int64_t n)
{
    const struct layer_kind *k = shape_kind(s, layer);
    if (k->mixer == MIX_RECURRENT)
        return kind_state_bytes(k);
    int64_t rows = k->window && k->window < n ? k->window : n;
    return (uint64_t)rows * kind_row_bytes(k, s->dtype);
}

uint64_t shape_full_bytes(const struct seq_shape *s, int64_t n)
{
    uint64_t sum = 0;
    for (int32_t i = 0; i < s->n_layer; i++)
        sum += shape_layer_bytes(s, i, n);
    return sum;
}

/* Pairs of query and key of the first n rows: the causal triangle, cut at the window. */
static double pairs(const struct layer_kind *k, double n)
{
    double w = (double)k->window;
    return k->window && w < n ? w * w / 2 + (n - w) * w : n * n / 2;
}

static double kind_flops(const struct layer_kind *k, double from, double to)
{
    if (k->mixer == MIX_ATTENTION)
        return 2.0 * k->n_head * (k->d_k + k->d_v) * (pairs(k, to) - pairs(k, from));
    double values = 0;
    for (int32_t i = 0; i < k->n_state; i++)
        values += (double)state_values(&k->state[i]);
    return 6 * values * (to - from);
}

double shape_mix_flops(const struct seq_shape *s, int64_t from, int64_t to)
{
    double sum = 0;
    for (int32_t i = 0; i < s->n_kind; i++)
        sum += shape_layers_of(s, i) * kind_flops(&s->kind[i], (double)from, (double)to);
    return sum;
}
