/* Mamba-2 (arXiv 2405.21060; state-spaces/mamba modules/mamba2.py): a causal convolution over x, b and c, and
 * the scan of heads, in chunks over the prompt and as a recurrence in decode (ops->ssd). */
#include "model/mamba.h"

#include "base/err.h"
#include "base/mem.h"
#include "model/attention.h"
#include "model/recurrent.h"

#include <stdlib.h>

#define LAYERS "backbone.layers"

/* Letters: D d_model, E inner width (H heads of P), N states, G groups, C columns E + 2 G N, T rows of the
 * batch. */
struct layer {
    struct mamba_block block;
    struct weight in;                /* [E + C + H,D]: rows of the gate z, of x, b and c, of the steps */
    const float *in_bias;            /* [E + C + H] or NULL */
    const float *conv_w, *conv_bias; /* [C,conv], [C] or NULL */
    const float *step_bias, *a, *d;  /* [H] */
    const float *gated_norm;         /* [E] */
};
struct mamba2 {
    struct mamba_ends ends;
    struct layer *layer; /* [n_layer] */
};

/* A GGUF file holds D as a matrix of one column, and the norm as one row per group. */
static int bind_odd_shapes(struct model *m, struct model_file *f, struct layer *y, struct layer_names *s,
                           int i)
{
    const struct mamba_config *w = mamba_of(&m->cfg);
    const bool gguf = model_file_gguf(f) != NULL;
    const int64_t flat = w->E, groups[2] = {w->G, w->E / w->G}, heads[2] = {w->H, 1};
    TRY(load_values(&m->load, f, &y->d, *layer_names(s, LAYERS, i, "mixer.D", NULL, NULL), heads,
                    gguf ? 2 : 1, NULL));
    return load_values(&m->load, f, &y->gated_norm,
                       *layer_names(s, LAYERS, i, "mixer.norm.weight", NULL, NULL), gguf ? groups : &flat,
                       gguf ? 2 : 1, NULL);
}

static int bind_layer(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const struct mamba_config *w = mamba_of(&m->cfg);
    const int64_t D = m->cfg.d_model, C = mamba2_columns(w), in = w->E + C + w->H;
    const char *steps = model_file_gguf(f) ? "mixer.dt_proj.bias" : "mixer.dt_bias";
    struct load *l = &m->load;
    struct layer_names s;
#define NAME(tail) layer_names(&s, LAYERS, i, tail, NULL, NULL)
    TRY(load_floats(l, f, &y->block.norm, NAME("norm.weight"), &D, 1));
    TRY(load_packed(l, f, &y->in, NAME("mixer.in_proj.weight"), &in, 1, D));
    TRY(mamba_bind_conv(m, f, &y->conv_w, *NAME("mixer.conv1d.weight"), C));
    if (w->conv_bias)
        TRY(load_floats(l, f, &y->conv_bias, NAME("mixer.conv1d.bias"), &C, 1));
    TRY(load_floats(l, f, &y->step_bias, NAME(steps), &w->H, 1));
    TRY(mamba_bind_a(m, f, &y->a, *NAME("mixer.A_log"), w->H, 0));
    TRY(bind_odd_shapes(m, f, y, &s, i));
    if (w->bias) {
        TRY(load_floats(l, f, &y->in_bias, NAME("mixer.in_proj.bias"), &in, 1));
        TRY(load_floats(l, f, &y->block.out_bias, NAME("mixer.out_proj.bias"), &D, 1));
    }
    return load_packed(l, f, &y->block.out, NAME("mixer.out_proj.weight"), &D, 1, w->E);
#undef NAME
}

static int mamba2_bind(struct model *m, struct model_file *f)
{
    const struct mamba_config *w = mamba_of(&m->cfg);
    const int64_t C = mamba2_columns(w);
    struct mamba2 *b = m->impl = mem_alloc(1, sizeof *b);
    b->layer = mem_alloc((size_t)m->cfg.n_layer, sizeof *b->layer);
    m->row_bytes = mamba_row_bytes(m) + (size_t)(w->E + 2 * C + w->H) * dtype_bytes(m->ops->act);
    TRY(mamba_bind_ends(m, f, &b->ends));
    for (int i = 0; i < m->cfg.n_layer; i++)
        TRY(bind_layer(m, f, &b->layer[i], i));
    return 0;
}

static void mamba2_close(struct model *m)
{
    struct mamba2 *b = m->impl;
    if (b)
        free(b->layer);
    free(b);
}

static void mix(struct model *m, int i, struct tensor u, struct tensor y, const struct batch_item *item,
                int n)
{
    const struct mamba_config *w = mamba_of(&m->cfg);
    const int64_t T = u.n[0], E = w->E, C = mamba2_columns(w), GN = w->G * w->N;
    const struct layer *l = &((const struct mamba2 *)m->impl)->layer[i];
    struct ops *ops = m->ops;
    struct tensor in = model_scratch(m, T, E + C + w->H, ops->act), xbc = model_scratch(m, T, C, ops->act);
    int64_t at = 0;

    ops->matmul(ops, in, u, &l->in, l->in_bias);
    recurrent_conv(m,
                   &(struct recurrent_conv){.layer = i,
                                            .state = MAMBA_TAIL,
                                            .x = in,
                                            .col = E,
                                            .out = xbc,
                                            .w = l->conv_w,
                                            .bias = l->conv_bias,
                                            .width = w->conv,
                                            .silu = true},
                   item, n);
    struct ssd_args *a = model_args(m, (size_t)n, sizeof *a);
    for (int j = 0; j < n; at += item[j++].n)
        a[j] = (struct ssd_args){.T = item[j].n,
                                 .H = (int32_t)w->H,
                                 .P = (int32_t)w->P,
                                 .N = (int32_t)w->N,
                                 .G = (int32_t)w->G,
                                 .x = model_strip(xbc, at, 0),
                                 .out = model_strip(y, at, 0),
                                 .b = model_strip(xbc, at, E),
                                 .c = model_strip(xbc, at, E + GN),
                                 .dt = model_strip(in, at, E + C),
                                 .dt_bias = l->step_bias,
                                 .a = l->a,
                                 .d = l->d,
                                 .dt_min = w->dt_min,
                                 .dt_max = w->dt_max,
                                 .state = kv_state(&item[j].seq->layer[i], MAMBA_SSM)};
    ops->ssd(ops, a, n);
    ops->group_norm(ops, &(struct group_norm_args){.T = T,
                                                   .D = E,
                                                   .G = (int32_t)w->G,
                                                   .x = model_strip(y, 0, 0),
                                                   .z = model_strip(in, 0, 0),
                                                   .out = model_strip(y, 0, 0),
                                                   .w = l->gated_norm,
                                                   .eps = m->cfg.norm_eps,
                                                   .gate_first = true});
}

static const struct mamba_block *block_of(const struct model *m, int layer)
{
    return &((const struct mamba2 *)m->impl)->layer[layer].block;
}

static int mamba2_forward(struct model *m, const struct batch_item *item, int n, int64_t rows)
{
    return mamba_run(m, &((const struct mamba2 *)m->impl)->ends, block_of, mix, item, n, rows);
}

const struct family family_mamba2 = {
    .name = "mamba2",
    .hf_types = "mamba2",
    .summary = "Mamba-2: convolution and state-space duality over heads; no cache of keys and values",
    .typical = "backbone.layers.0.mixer.in_proj.weight",
    .embed = mamba_embed,
    .spare = "lm_head.weight",
    .aliases = mamba_aliases,
    .gguf = &mamba2_gguf,
    .claims = mamba2_claims,
    .read = mamba2_read,
    .describe = mamba_describe,
    .shape = mamba2_shape,
    .cost = mamba2_cost,
    .bind = mamba2_bind,
    .forward = mamba2_forward,
    .close = mamba2_close,
};
