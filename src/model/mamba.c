/* Mamba (arXiv 2312.00752; state-spaces/mamba modules/mamba_simple.py): blocks of a causal convolution and a
 * selective scan, without positions and without a cache of keys and values. */
#include "model/mamba.h"

#include "base/err.h"
#include "base/mem.h"
#include "model/attention.h"
#include "model/recurrent.h"

#include <math.h>
#include <stdlib.h>

#define LAYERS "backbone.layers"

/* Letters: D d_model, E inner width, N states, R rank of the step, V vocabulary, T rows of the batch. */
struct layer {
    struct mamba_block block;
    struct weight in;                /* [2 E,D]: rows of x, then of the gate z */
    struct weight step_bc;           /* [R + 2 N,E]: of the step's input, b and c */
    struct weight step;              /* [E,R] */
    const float *in_bias;            /* [2 E] or NULL */
    const float *conv_w, *conv_bias; /* [E,conv], [E] or NULL */
    const float *step_bias, *a, *d;  /* [E], [E,N], [E] */
};
struct mamba {
    struct mamba_ends ends;
    struct layer *layer; /* [n_layer] */
};

/* ---- what Mamba-2 shares ---- */

static void minus_exp(const void *ctx, float *x, int64_t n)
{
    (void)ctx;
    for (int64_t i = 0; i < n; i++)
        x[i] = -expf(x[i]);
}

int mamba_bind_a(struct model *m, struct model_file *f, const float **a, const char *name, int64_t n0,
                 int64_t n1)
{
    const bool gguf = model_file_gguf(f) != NULL; /* holds -exp(A_log), always as a matrix */
    const int64_t shape[2] = {n0, n1 ? n1 : 1};
    return load_values(&m->load, f, a, name, shape, gguf || n1 ? 2 : 1, gguf ? NULL : minus_exp);
}

int mamba_bind_conv(struct model *m, struct model_file *f, const float **w, const char *name, int64_t columns)
{
    const int32_t width = mamba_of(&m->cfg)->conv;
    if (model_file_gguf(f))
        return load_values(&m->load, f, w, name, (int64_t[]){columns, width}, 2, NULL);
    return load_values(&m->load, f, w, name, (int64_t[]){columns, 1, width}, 3, NULL);
}

int mamba_bind_ends(struct model *m, struct model_file *f, struct mamba_ends *e)
{
    const struct model_config *c = &m->cfg;
    const char *norm = "backbone.norm_f.weight", *head = c->tied ? mamba_embed : "lm_head.weight";
    TRY(load_table(&m->load, f, &e->embed, mamba_embed, c->n_vocab, c->d_model));
    TRY(load_floats(&m->load, f, &e->norm, &norm, &c->d_model, 1));
    return load_packed(&m->load, f, &e->head, &head, &c->n_vocab, 1, c->d_model);
}

size_t mamba_row_bytes(const struct model *m)
{
    const int64_t D = m->cfg.d_model, E = mamba_of(&m->cfg)->E;
    return (size_t)(3 * D + 2 * E) * dtype_bytes(m->ops->act);
}

int mamba_run(struct model *m, const struct mamba_ends *ends,
              const struct mamba_block *(*block)(const struct model *m, int layer), mamba_mixer *mix,
              const struct batch_item *item, int n, int64_t rows)
{
    const struct model_config *c = &m->cfg;
    const int64_t wanted = model_wanted(m, n, rows), D = c->d_model, E = mamba_of(c)->E;
    struct ops *ops = m->ops;
    struct tensor x = model_scratch(m, rows, D, ops->act); /* the residual stream [T,D] */
    struct tensor u = model_scratch(m, rows, D, ops->act), y = model_scratch(m, rows, E, ops->act);
    const size_t used = m->ws_used; /* what follows belongs to the mixer, layer after layer */

    ops->embed(ops, x, &ends->embed, m->ids, 1.0f);
    for (int i = 0; i < c->n_layer; i++) {
        const struct mamba_block *b = block(m, i);
        m->ws_used = used;
        ops->rmsnorm(ops, u, x, b->norm, c->norm_eps, 0.0f);
        mix(m, i, u, y, item, n);
        TRY(recurrent_advance(i, item, n));
        if (i == c->n_layer - 1 && wanted < rows) {
            /* the states are complete; only rows that become logits go on */
            if (wanted == 0)
                return 0;
            struct tensor last_x = model_scratch(m, wanted, D, ops->act);
            struct tensor last_y = model_scratch(m, wanted, E, ops->act);
            model_gather(m, last_x, x, item, n);
            model_gather(m, last_y, y, item, n);
            x = last_x;
            y = last_y;
            u.n[0] = wanted;
        }
        ops->matmul_add(ops, x, y, &b->out, b->out_bias, u);
    }
    if (wanted == 0)
        return 0;
    ops->rmsnorm(ops, u, x, ends->norm, c->norm_eps, 0.0f);
    ops->matmul(ops, m->out, u, &ends->head, NULL);
    return 0;
}

/* ---- Mamba ---- */

static int bind_layer(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const struct mamba_config *w = mamba_of(&m->cfg);
    const int64_t D = m->cfg.d_model, E = w->E, in = 2 * E, wide = w->R + 2 * w->N;
    struct load *l = &m->load;
    struct layer_names s;
#define NAME(tail) layer_names(&s, LAYERS, i, tail, NULL, NULL)
    TRY(load_floats(l, f, &y->block.norm, NAME("norm.weight"), &D, 1));
    TRY(load_packed(l, f, &y->in, NAME("mixer.in_proj.weight"), &in, 1, D));
    TRY(mamba_bind_conv(m, f, &y->conv_w, *NAME("mixer.conv1d.weight"), E));
    if (w->conv_bias)
        TRY(load_floats(l, f, &y->conv_bias, NAME("mixer.conv1d.bias"), &E, 1));
    TRY(load_packed(l, f, &y->step_bc, NAME("mixer.x_proj.weight"), &wide, 1, E));
    TRY(load_packed(l, f, &y->step, NAME("mixer.dt_proj.weight"), &E, 1, w->R));
    TRY(load_floats(l, f, &y->step_bias, NAME("mixer.dt_proj.bias"), &E, 1));
    TRY(mamba_bind_a(m, f, &y->a, *NAME("mixer.A_log"), E, w->N));
    TRY(load_floats(l, f, &y->d, NAME("mixer.D"), &E, 1));
    if (w->bias) {
        TRY(load_floats(l, f, &y->in_bias, NAME("mixer.in_proj.bias"), &in, 1));
        TRY(load_floats(l, f, &y->block.out_bias, NAME("mixer.out_proj.bias"), &D, 1));
    }
    return load_packed(l, f, &y->block.out, NAME("mixer.out_proj.weight"), &D, 1, E);
#undef NAME
}

static int mamba_bind(struct model *m, struct model_file *f)
{
    const struct mamba_config *w = mamba_of(&m->cfg);
    struct mamba *b = m->impl = mem_alloc(1, sizeof *b);
    b->layer = mem_alloc((size_t)m->cfg.n_layer, sizeof *b->layer);
    m->row_bytes = mamba_row_bytes(m) + (size_t)(4 * w->E + 2 * w->R + 2 * w->N) * dtype_bytes(m->ops->act);
    TRY(mamba_bind_ends(m, f, &b->ends));
    for (int i = 0; i < m->cfg.n_layer; i++)
        TRY(bind_layer(m, f, &b->layer[i], i));
    return 0;
}

static void mamba_close(struct model *m)
{
    struct mamba *b = m->impl;
    if (b)
        free(b->layer);
    free(b);
}

static void mix(struct model *m, int i, struct tensor u, struct tensor y, const struct batch_item *item,
                int n)
{
    const struct mamba_config *w = mamba_of(&m->cfg);
    const int64_t T = u.n[0], E = w->E, R = w->R, N = w->N;
    const enum dtype act = m->ops->act;
    const struct layer *l = &((const struct mamba *)m->impl)->layer[i];
    struct ops *ops = m->ops;
    struct tensor xz = model_scratch(m, T, 2 * E, act), sbc = model_scratch(m, T, R + 2 * N, act);
    struct tensor rank = model_scratch(m, T, R, act), dt = model_scratch(m, T, E, act);
    int64_t at = 0;

    ops->matmul(ops, xz, u, &l->in, l->in_bias);
    recurrent_conv(m,
                   &(struct recurrent_conv){.layer = i,
                                            .state = MAMBA_TAIL,
                                            .x = xz,
                                            .out = y,
                                            .w = l->conv_w,
                                            .bias = l->conv_bias,
                                            .width = w->conv,
                                            .silu = true},
                   item, n);
    ops->matmul(ops, sbc, y, &l->step_bc, NULL);
    ops->copy_rows(ops, rank.data, (size_t)R * dtype_bytes(act), sbc.data,
                   (size_t)sbc.n[1] * dtype_bytes(act), (size_t)R * dtype_bytes(act), T);
    ops->matmul(ops, dt, rank, &l->step, NULL);
    struct scan_args *a = model_args(m, (size_t)n, sizeof *a);
    for (int j = 0; j < n; at += item[j++].n)
        a[j] = (struct scan_args){.T = item[j].n,
                                  .E = E,
                                  .N = (int32_t)N,
                                  .x = model_strip(y, at, 0),
                                  .dt = model_strip(dt, at, 0),
                                  .z = model_strip(xz, at, E),
                                  .out = model_strip(y, at, 0),
                                  .b = model_strip(sbc, at, R),
                                  .c = model_strip(sbc, at, R + N),
                                  .dt_bias = l->step_bias,
                                  .a = l->a,
                                  .d = l->d,
                                  .state = kv_state(&item[j].seq->layer[i], MAMBA_SSM)};
    ops->scan(ops, a, n);
}

static const struct mamba_block *block_of(const struct model *m, int layer)
{
    return &((const struct mamba *)m->impl)->layer[layer].block;
}

static int mamba_forward(struct model *m, const struct batch_item *item, int n, int64_t rows)
{
    return mamba_run(m, &((const struct mamba *)m->impl)->ends, block_of, mix, item, n, rows);
}

const struct family family_mamba = {
    .name = "mamba",
    .hf_types = "mamba",
    .summary = "Mamba 2.8B, Mamba-Chat: convolution and selective scan; no cache of keys and values",
    .typical = "backbone.layers.0.mixer.in_proj.weight",
    .embed = mamba_embed,
    .spare = "lm_head.weight",
    .aliases = mamba_aliases,
    .gguf = &mamba_gguf,
    .claims = mamba_claims,
    .read = mamba_read,
    .describe = mamba_describe,
    .shape = mamba_shape,
    .cost = mamba_cost,
    .bind = mamba_bind,
    .forward = mamba_forward,
    .close = mamba_close,
};
