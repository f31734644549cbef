/* RecurrentGemma (google-deepmind/recurrentgemma torch/modules.py, layers.py): blocks of a gated linear
 * recurrence or of attention over a window, each followed by a gated layer. */
#include "model/griffin.h"

#include "base/err.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/attention.h"
#include "model/recurrent.h"

#include <math.h>
#include <stdlib.h>

#define LAYERS "model.layers"
#define EMBED  "model.embed_tokens.weight"

/* Letters: D d_model, F d_ff, Lw width of the recurrence in H blocks of B, d head_dim, V vocabulary, T rows.
 */
struct layer {
    const float *norm_mix, *norm_mlp; /* [D] */
    struct weight in;                /* recurrent: [2 Lw,D], rows of x, then y; attention: [(H + 2 Hk) d,D] */
    const float *in_bias;            /* [2 Lw]; NULL in attention */
    struct weight out;               /* [D,Lw] or [D,H d] */
    const float *out_bias;           /* [D] */
    const float *conv_w, *conv_bias; /* [Lw,conv], [Lw] */
    struct weight *gate_i, *gate_r;  /* [H] of [B,B]; owned */
    const float *bias_i, *bias_r, *a; /* [Lw] */
    struct weight gate_up, down;      /* [2 F,D], [D,F] */
    const float *up_bias, *down_bias; /* [2 F], [D] */
};
struct griffin {
    struct tensor embed; /* [V,D] */
    const float *norm;   /* [D] */
    struct weight head;  /* [V,D] */
    struct layer *layer; /* [n_layer] */
};

/* ---- weights ---- */

/* a of lru_args, from the parameter of the file. */
static void eight_softplus(const void *ctx, float *x, int64_t n)
{
    (void)ctx;
    for (int64_t i = 0; i < n; i++)
        x[i] = 8 * (x[i] > 20 ? x[i] : log1pf(expf(x[i])));
}

#define NAME(s, tail) layer_names(s, LAYERS, i, tail, NULL, NULL)

static int bind_gates(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const int64_t H = m->cfg.n_head, Lw = griffin_of(&m->cfg)->Lw, B = Lw / H, blocks[2] = {H, B};
    struct load *l = &m->load;
    struct layer_names s;
    y->gate_i = mem_alloc((size_t)H, sizeof *y->gate_i);
    y->gate_r = mem_alloc((size_t)H, sizeof *y->gate_r);
    for (int64_t h = 0; h < H; h++) {
        TRY(load_slice(l, f, &y->gate_i[h], *NAME(&s, "temporal_block.rg_lru.input_gate_weight"), H, h, B,
                       B));
        TRY(load_slice(l, f, &y->gate_r[h], *NAME(&s, "temporal_block.rg_lru.recurrent_gate_weight"), H, h, B,
                       B));
    }
    TRY(load_values(l, f, &y->bias_i, *NAME(&s, "temporal_block.rg_lru.input_gate_bias"), blocks, 2, NULL));
    TRY(load_values(l, f, &y->bias_r, *NAME(&s, "temporal_block.rg_lru.recurrent_gate_bias"), blocks, 2,
                    NULL));
    return load_values(l, f, &y->a, *NAME(&s, "temporal_block.rg_lru.recurrent_param"), &Lw, 1,
                       eight_softplus);
}

static int bind_recurrent(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const struct griffin_config *w = griffin_of(&m->cfg);
    const int64_t D = m->cfg.d_model, Lw = w->Lw, both[2] = {Lw, Lw};
    struct load *l = &m->load;
    struct layer_names s;
    TRY(load_packed(
        l, f, &y->in,
        layer_names(&s, LAYERS, i, "temporal_block.linear_x.weight", "temporal_block.linear_y.weight", NULL),
        both, 2, D));
    TRY(load_floats(
        l, f, &y->in_bias,
        layer_names(&s, LAYERS, i, "temporal_block.linear_x.bias", "temporal_block.linear_y.bias", NULL),
        both, 2));
    TRY(load_values(l, f, &y->conv_w, *NAME(&s, "temporal_block.conv_1d.weight"), (int64_t[]){Lw, 1, w->conv},
                    3, NULL));
    TRY(load_floats(l, f, &y->conv_bias, NAME(&s, "temporal_block.conv_1d.bias"), &Lw, 1));
    TRY(bind_gates(m, f, y, i));
    TRY(load_packed(l, f, &y->out, NAME(&s, "temporal_block.linear_out.weight"), &D, 1, Lw));
    return load_floats(l, f, &y->out_bias, NAME(&s, "temporal_block.linear_out.bias"), &D, 1);
}

static int bind_attention(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const struct model_config *c = &m->cfg;
    const int64_t D = c->d_model, q = (int64_t)c->n_head * c->head_dim,
                  k = (int64_t)c->n_kv_head * c->head_dim;
    struct layer_names s;
    TRY(load_packed(&m->load, f, &y->in,
                    layer_names(&s, LAYERS, i, "temporal_block.q_proj.weight", "temporal_block.k_proj.weight",
                                "temporal_block.v_proj.weight"),
                    (int64_t[]){q, k, k}, 3, D));
    TRY(load_packed(&m->load, f, &y->out, NAME(&s, "temporal_block.o_proj.weight"), &D, 1, q));
    return load_floats(&m->load, f, &y->out_bias, NAME(&s, "temporal_block.o_proj.bias"), &D, 1);
}

static int bind_layer(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const int64_t D = m->cfg.d_model, F = m->cfg.d_ff, both[2] = {F, F};
    struct load *l = &m->load;
    struct layer_names s;
    TRY(load_floats(l, f, &y->norm_mix, NAME(&s, "temporal_pre_norm.weight"), &D, 1));
    TRY(load_floats(l, f, &y->norm_mlp, NAME(&s, "channel_pre_norm.weight"), &D, 1));
    TRY(griffin_of(&m->cfg)->attention[i] ? bind_attention(m, f, y, i) : bind_recurrent(m, f, y, i));
    TRY(load_packed(
        l, f, &y->gate_up,
        layer_names(&s, LAYERS, i, "mlp_block.gate_proj.weight", "mlp_block.up_proj.weight", NULL), both, 2,
        D));
    TRY(load_floats(l, f, &y->up_bias,
                    layer_names(&s, LAYERS, i, "mlp_block.gate_proj.bias", "mlp_block.up_proj.bias", NULL),
                    both, 2));
    TRY(load_packed(l, f, &y->down, NAME(&s, "mlp_block.down_proj.weight"), &D, 1, F));
    return load_floats(l, f, &y->down_bias, NAME(&s, "mlp_block.down_proj.bias"), &D, 1);
}

/* Workspace of one row: what griffin_forward takes from model_scratch. */
static size_t row_bytes(const struct model *m)
{
    const struct layer_kind k = griffin_kind(&m->cfg);
    const int64_t D = m->cfg.d_model, F = m->cfg.d_ff, Lw = griffin_of(&m->cfg)->Lw,
                  q = (int64_t)k.n_head * k.d_k, wide = Lw > q ? Lw : q;
    return (size_t)(3 * D + 6 * Lw + att_row_values(&k, D) + wide + 3 * F) * dtype_bytes(m->ops->act);
}

static int griffin_bind(struct model *m, struct model_file *f)
{
    const struct model_config *c = &m->cfg;
    const char *norm = "model.final_norm.weight", *embed = EMBED;
    struct griffin *g = m->impl = mem_alloc(1, sizeof *g);
    g->layer = mem_alloc((size_t)c->n_layer, sizeof *g->layer);
    m->row_bytes = row_bytes(m);
    TRY(load_table(&m->load, f, &g->embed, embed, c->n_vocab, c->d_model));
    for (int i = 0; i < c->n_layer; i++)
        TRY(bind_layer(m, f, &g->layer[i], i));
    TRY(load_floats(&m->load, f, &g->norm, &norm, &c->d_model, 1));
    return load_packed(&m->load, f, &g->head, &embed, &c->n_vocab, 1, c->d_model);
}

static void griffin_close(struct model *m)
{
    struct griffin *g = m->impl;
    for (int i = 0; g && g->layer && i < m->cfg.n_layer; i++) {
        free(g->layer[i].gate_i);
        free(g->layer[i].gate_r);
    }
    if (g)
        free(g->layer);
    free(g);
}

/* ---- the forward pass ---- */

/* Both gates before their sigmoid, block by block: block h of v [T,Lw] to rows [h T, (h + 1) T) of gates [H
 * T,B]. */
static void gates(struct model *m, const struct layer *l, struct tensor v, struct tensor in[2])
{
    const int64_t T = v.n[0], H = m->cfg.n_head, B = v.n[1] / H;
    const size_t one = dtype_bytes(v.dtype), row = (size_t)B * one;
    struct tensor part = model_scratch(m, T, B, v.dtype);
    for (int64_t h = 0; h < H; h++) {
        m->ops->copy_rows(m->ops, part.data, row, (char *)v.data + (size_t)(h * B) * one,
                          (size_t)v.n[1] * one, row, T);
        m->ops->matmul(m->ops, tensor_rows(&in[0], h * T, T), part, &l->gate_i[h], NULL);
        m->ops->matmul(m->ops, tensor_rows(&in[1], h * T, T), part, &l->gate_r[h], NULL);
    }
}

/* v [T,Lw] <- the recurrence over v, times the columns y of xy [T,2 Lw]. */
static void recur(struct model *m, int i, struct tensor xy, struct tensor v, const struct tensor in[2],
                  const struct batch_item *item, int n)
{
    const struct layer *l = &((const struct griffin *)m->impl)->layer[i];
    const int64_t T = v.n[0], H = m->cfg.n_head, Lw = v.n[1], B = Lw / H;
    struct lru_args *a = model_args(m, (size_t)(n * H), sizeof *a);
    int64_t at = 0;
    int k = 0;
    for (int j = 0; j < n; at += item[j++].n) {
        const struct tensor state = kv_state(&item[j].seq->layer[i], GRIFFIN_LRU);
        for (int64_t h = 0; h < H; h++)
            a[k++] = (struct lru_args){.T = item[j].n,
                                       .D = B,
                                       .pos = item[j].seq->pos,
                                       .x = model_strip(v, at, h * B),
                                       .gate_i = model_strip(in[0], h * T + at, 0),
                                       .gate_r = model_strip(in[1], h * T + at, 0),
                                       .y = model_strip(xy, at, Lw + h * B),
                                       .out = model_strip(v, at, h * B),
                                       .bias_i = l->bias_i + h * B,
                                       .bias_r = l->bias_r + h * B,
                                       .a = l->a + h * B,
                                       .state = {(float *)state.data + h * B, DT_F32, {B, 1, 1, 1}}};
    }
    m->ops->lru(m->ops, a, k);
}

/* *mixed [T,Lw] <- the recurrent half of a block, before its last product. */
static int mix_recurrent(struct model *m, int i, struct tensor x, struct tensor h, struct tensor *mixed,
                         const struct batch_item *item, int n)
{
    const int64_t T = x.n[0], Lw = griffin_of(&m->cfg)->Lw, H = m->cfg.n_head;
    const enum dtype act = m->ops->act;
    const struct layer *l = &((const struct griffin *)m->impl)->layer[i];
    struct tensor v = model_scratch(m, T, Lw, act), xy = model_scratch(m, T, 2 * Lw, act);
    struct tensor in[2] = {model_scratch(m, H * T, Lw / H, act), model_scratch(m, H * T, Lw / H, act)};
    m->ops->rmsnorm(m->ops, h, x, l->norm_mix, m->cfg.norm_eps, 1.0f);
    m->ops->matmul(m->ops, xy, h, &l->in, l->in_bias);
    recurrent_conv(m,
                   &(struct recurrent_conv){.layer = i,
                                            .state = GRIFFIN_TAIL,
                                            .x = xy,
                                            .out = v,
                                            .w = l->conv_w,
                                            .bias = l->conv_bias,
                                            .width = griffin_of(&m->cfg)->conv},
                   item, n);
    m->ops->gate(m->ops, &(struct gate_args){.fn = GATE_GELU_TANH,
                                             .T = T,
                                             .F = Lw,
                                             .x = model_strip(xy, 0, Lw),
                                             .out = model_strip(xy, 0, Lw)});
    gates(m, l, v, in);
    recur(m, i, xy, v, in, item, n);
    *mixed = v;
    return recurrent_advance(i, item, n);
}

/* *mixed [T,H d] <- attention over the windows of this layer. */
static int mix_attention(struct model *m, int i, struct tensor x, struct tensor *mixed,
                         const struct batch_item *item, int n)
{
    const struct layer_kind kind = griffin_kind(&m->cfg);
    const struct layer *l = &((struct griffin *)m->impl)->layer[i];
    struct att_bufs b = att_buffers(m, &kind, x.n[0], x.n[1]);
    m->ops->project(m->ops, &(struct project_args){.x = x,
                                                   .norm = l->norm_mix,
                                                   .eps = m->cfg.norm_eps,
                                                   .w_add = 1,
                                                   .w = &l->in,
                                                   .out = {b.q, b.k, b.v},
                                                   .n_out = 3,
                                                   .h = b.h,
                                                   .wide = b.wide});
    *mixed = b.out;
    return att_step(m, i, &b, item, n);
}

/* x += down(gelu(gate) * up). */
static void mlp(struct model *m, const struct layer *l, struct tensor x, struct tensor h)
{
    const int64_t T = x.n[0], F = m->cfg.d_ff;
    struct ops *ops = m->ops;
    struct tensor wide = model_scratch(m, T, 2 * F, ops->act), mid = model_scratch(m, T, F, ops->act);
    ops->rmsnorm(ops, h, x, l->norm_mlp, m->cfg.norm_eps, 1.0f);
    ops->matmul(ops, wide, h, &l->gate_up, l->up_bias);
    ops->gate(ops, &(struct gate_args){.fn = GATE_GELU_TANH,
                                       .T = T,
                                       .F = F,
                                       .x = model_strip(wide, 0, 0),
                                       .y = model_strip(wide, 0, F),
                                       .out = model_strip(mid, 0, 0)});
    ops->matmul_add(ops, x, mid, &l->down, l->down_bias, h);
}

/* sqrt(D) in bfloat16, whatever the dtype. */
static float embed_scale(int64_t D)
{
    return bf16_to_f32(bf16_from_f32(sqrtf((float)D)));
}

static int griffin_forward(struct model *m, const struct batch_item *item, int n, int64_t rows)
{
    const struct model_config *c = &m->cfg;
    struct griffin *g = m->impl;
    struct ops *ops = m->ops;
    const int64_t wanted = model_wanted(m, n, rows);
    struct tensor x = model_scratch(m, rows, c->d_model, ops->act); /* the residual stream [T,D] */
    struct tensor h = model_scratch(m, rows, c->d_model, ops->act), mixed;
    const size_t used = m->ws_used; /* what follows belongs to a block */

    ops->embed(ops, x, &g->embed, m->ids, embed_scale(c->d_model));
    for (int i = 0; i < c->n_layer; i++) {
        const struct layer *l = &g->layer[i];
        m->ws_used = used;
        TRY(griffin_of(c)->attention[i] ? mix_attention(m, i, x, &mixed, item, n)
                                        : mix_recurrent(m, i, x, h, &mixed, item, n));
        if (i == c->n_layer - 1 && wanted < rows) {
            /* the states and caches are complete; only rows that become logits go on */
            if (wanted == 0)
                return 0;
            struct tensor last_x = model_scratch(m, wanted, c->d_model, ops->act);
            struct tensor last = model_scratch(m, wanted, mixed.n[1], ops->act);
            model_gather(m, last_x, x, item, n);
            model_gather(m, last, mixed, item, n);
            x = last_x;
            mixed = last;
            h.n[0] = wanted;
        }
        ops->matmul_add(ops, x, mixed, &l->out, l->out_bias, h);
        mlp(m, l, x, h);
    }
    if (wanted == 0)
        return 0;
    ops->rmsnorm(ops, h, x, g->norm, c->norm_eps, 1.0f);
    ops->matmul(ops, m->out, h, &g->head, NULL);
    if (griffin_of(c)->cap > 0)
        ops->softcap(ops, m->out, griffin_of(c)->cap);
    return 0;
}

const struct family family_griffin = {
    .name = "recurrentgemma",
    .hf_types = "recurrent_gemma",
    .summary = "RecurrentGemma 2B, 9B: gated linear recurrences and attention over a window",
    .typical = "model.layers.0.mlp_block.gate_proj.weight",
    .embed = EMBED,
    .spare = "lm_head.weight",
    .read = griffin_read,
    .describe = griffin_describe,
    .shape = griffin_shape,
    .params = griffin_params,
    .apply = griffin_apply,
    .cost = griffin_cost,
    .bind = griffin_bind,
    .forward = griffin_forward,
    .close = griffin_close,
};
