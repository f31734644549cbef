#include "model/attention.h"

#include <stdio.h>

const char *const *layer_names(struct layer_names *s, const char *prefix, int layer, const char *a,
                               const char *b, const char *c)
{
    const char *const tail[LOAD_PARTS] = {a, b, c};
    for (int i = 0; i < LOAD_PARTS; i++) {
        snprintf(s->text[i], sizeof s->text[i], "%s.%d.%s", prefix, layer, tail[i] ? tail[i] : "");
        s->p[i] = s->text[i];
    }
    return s->p;
}

struct tensor att_heads(void *data, enum dtype dtype, int64_t T, int64_t h, int64_t d)
{
    return (struct tensor){data, dtype, {T, h, d, 1}};
}

int64_t att_row_values(const struct layer_kind *k, int64_t D)
{
    const int64_t H = k->n_head, Hk = k->n_kv_head, d = k->d_k, fused = (H + 2 * Hk) * d;
    return D + fused + (H + 2 * Hk) * d + H * d;
}

struct att_bufs att_buffers(struct model *m, const struct layer_kind *k, int64_t T, int64_t D)
{
    const int64_t H = k->n_head, Hk = k->n_kv_head, d = k->d_k;
    const enum dtype act = m->ops->act;
    struct att_bufs b = {.h = model_scratch(m, T, D, act),
                         .wide = model_scratch(m, T, (H + 2 * Hk) * d, act),
                         .q = model_scratch(m, T, H * d, act),
                         .k = model_scratch(m, T, Hk * d, act),
                         .v = model_scratch(m, T, Hk * d, act),
                         .out = model_scratch(m, T, H * d, act)};
    b.q = att_heads(b.q.data, act, T, H, d);
    b.k = att_heads(b.k.data, act, T, Hk, d);
    b.v = att_heads(b.v.data, act, T, Hk, d);
    return b;
}

static void norm_heads(struct model *m, struct tensor x, const float *w, float w_add)
{
    const struct tensor flat = {x.data, x.dtype, {x.n[0] * x.n[1], x.n[2], 1, 1}}; /* [T h, d] */
    m->ops->rmsnorm(m->ops, flat, flat, w, m->cfg.norm_eps, w_add);
}

void att_head_norm(struct model *m, const struct att_bufs *b, const float *q_norm, const float *k_norm,
                   float w_add)
{
    norm_heads(m, b->q, q_norm, w_add);
    norm_heads(m, b->k, k_norm, w_add);
}

/* Rows of every sequence as the caches want them. */
static void split_rows(struct model *m, struct att_bufs *b, const struct batch_item *item, int n)
{
    int64_t at = 0;
    for (int i = 0; i < n; at += item[i++].n) {
        int64_t T = item[i].n;
        struct tensor out = tensor_rows(&b->out, at, T);
        m->rows[i] = (struct kv_rows){.pos = item[i].seq->pos,
                                      .q = tensor_rows(&b->q, at, T),
                                      .k = tensor_rows(&b->k, at, T),
                                      .v = tensor_rows(&b->v, at, T),
                                      .out = att_heads(out.data, out.dtype, T, b->q.n[1], b->q.n[2])};
    }
}

int att_step(struct model *m, int layer, struct att_bufs *b, const struct batch_item *item, int n)
{
    split_rows(m, b, item, n);
    for (int j = 0; j < n; j++)
        m->caches[j] = &item[j].seq->layer[layer];
    if (m->tap)
        m->tap(m->tap_ctx, layer, m->rows, n);
    return kv_step(m->caches, m->rows, n);
}
