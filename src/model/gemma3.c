/* Gemma 3, the text model (transformers models/gemma3; llama.cpp src/models/gemma3.cpp): windows and
 * attention over everything in turn, norms before and after both halves of a block. */
#include "model/gemma3.h"

#include "base/err.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/attention.h"
#include "model/llama.h"

#include <math.h>
#include <stdlib.h>

#define LAYERS "model.layers"
#define EMBED  "model.embed_tokens.weight"

/* Letters: D d_model, H heads, Hk key/value heads, d head_dim, F d_ff, V vocabulary, T rows of the batch. */
struct layer {
    const float *before_att, *after_att, *before_mlp, *after_mlp; /* norms [D] */
    const float *norm_q, *norm_k;                                 /* [d] */
    struct weight qkv;           /* [(H + 2 Hk) d,D]: rows of q, then k, then v */
    struct weight o;             /* [D,H d] */
    struct weight gate_up, down; /* [2 F,D], [D,F] */
};
struct gemma3 {
    struct tensor embed; /* [V,D] */
    const float *norm;   /* [D] */
    struct weight head;  /* [V,D] */
    struct layer *layer; /* [n_layer] */
};

#define NAME(s, tail) layer_names(s, LAYERS, i, tail, NULL, NULL)

static int bind_norms(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const int64_t D = m->cfg.d_model, d = m->cfg.head_dim;
    struct load *l = &m->load;
    struct layer_names s;
    TRY(load_floats(l, f, &y->before_att, NAME(&s, "input_layernorm.weight"), &D, 1));
    TRY(load_floats(l, f, &y->norm_q, NAME(&s, "self_attn.q_norm.weight"), &d, 1));
    TRY(load_floats(l, f, &y->norm_k, NAME(&s, "self_attn.k_norm.weight"), &d, 1));
    TRY(load_floats(l, f, &y->after_att, NAME(&s, "post_attention_layernorm.weight"), &D, 1));
    TRY(load_floats(l, f, &y->before_mlp, NAME(&s, "pre_feedforward_layernorm.weight"), &D, 1));
    return load_floats(l, f, &y->after_mlp, NAME(&s, "post_feedforward_layernorm.weight"), &D, 1);
}

static int bind_layer(struct model *m, struct model_file *f, struct layer *y, int i)
{
    const struct model_config *c = &m->cfg;
    const int64_t D = c->d_model, F = c->d_ff, q = (int64_t)c->n_head * c->head_dim,
                  k = (int64_t)c->n_kv_head * c->head_dim, fused[3] = {q, k, k}, both[2] = {F, F};
    struct load *l = &m->load;
    struct layer_names s;
    TRY(bind_norms(m, f, y, i));
    TRY(load_packed(l, f, &y->qkv,
                    layer_names(&s, LAYERS, i, "self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                "self_attn.v_proj.weight"),
                    fused, 3, D));
    TRY(load_packed(l, f, &y->o, NAME(&s, "self_attn.o_proj.weight"), &D, 1, q));
    TRY(load_packed(l, f, &y->gate_up,
                    layer_names(&s, LAYERS, i, "mlp.gate_proj.weight", "mlp.up_proj.weight", NULL), both, 2,
                    D));
    return load_packed(l, f, &y->down, NAME(&s, "mlp.down_proj.weight"), &D, 1, F);
}

/* Workspace of one row: what gemma3_forward takes from model_scratch. */
static size_t row_bytes(const struct model *m)
{
    const struct layer_kind k = gemma3_kind(&m->cfg, false);
    const int64_t D = m->cfg.d_model, F = m->cfg.d_ff, Hd = (int64_t)k.n_head * k.d_k;
    return (size_t)(2 * D + Hd + att_row_values(&k, D) + 3 * F) * dtype_bytes(m->ops->act);
}

static int gemma3_bind(struct model *m, struct model_file *f)
{
    const struct model_config *c = &m->cfg;
    const char *norm = "model.norm.weight", *head = c->tied ? EMBED : "lm_head.weight";
    struct gemma3 *w = m->impl = mem_alloc(1, sizeof *w);
    w->layer = mem_alloc((size_t)c->n_layer, sizeof *w->layer);
    m->row_bytes = row_bytes(m);
    TRY(load_table(&m->load, f, &w->embed, EMBED, c->n_vocab, c->d_model));
    for (int i = 0; i < c->n_layer; i++)
        TRY(bind_layer(m, f, &w->layer[i], i));
    TRY(load_floats(&m->load, f, &w->norm, &norm, &c->d_model, 1));
    return load_packed(&m->load, f, &w->head, &head, &c->n_vocab, 1, c->d_model);
}

static void gemma3_close(struct model *m)
{
    struct gemma3 *w = m->impl;
    if (w)
        free(w->layer);
    free(w);
}

/* sqrt(D) in the dtype of the embeddings (modeling_gemma3.py, Gemma3TextScaledWordEmbedding). */
static float embed_scale(int64_t D, enum dtype dtype)
{
    const float s = sqrtf((float)D);
    return dtype == DT_BF16  ? bf16_to_f32(bf16_from_f32(s))
           : dtype == DT_F16 ? f16_to_f32(f16_from_f32(s))
                             : s;
}

/* b->out <- attention over the caches of layer i for the residual stream x [T,D]. */
static int attend(struct model *m, int i, struct att_bufs *b, struct tensor x, const struct batch_item *item,
                  int n)
{
    const struct layer *y = &((const struct gemma3 *)m->impl)->layer[i];
    const float w_add = gemma3_of(&m->cfg)->norm_add;
    m->ops->project(m->ops, &(struct project_args){.x = x,
                                                   .norm = y->before_att,
                                                   .eps = m->cfg.norm_eps,
                                                   .w_add = w_add,
                                                   .w = &y->qkv,
                                                   .out = {b->q, b->k, b->v},
                                                   .n_out = 3,
                                                   .h = b->h,
                                                   .wide = b->wide});
    att_head_norm(m, b, y->norm_q, y->norm_k, w_add);
    return att_step(m, i, b, item, n);
}

/* x [T,D] += norm(y w^T): how both halves of a block end. h: room like x. */
static void add_normed(struct model *m, struct tensor x, struct tensor y, const struct weight *w,
                       const float *norm, struct tensor h)
{
    struct ops *ops = m->ops;
    ops->matmul(ops, h, y, w, NULL);
    ops->rmsnorm(ops, h, h, norm, m->cfg.norm_eps, gemma3_of(&m->cfg)->norm_add);
    ops->add(ops, x, h);
}

/* x += norm(down(gelu(gate) * up)); room: h like x, wide [T,2 F], mid [T,F]. */
static void mlp(struct model *m, const struct layer *y, struct tensor x, struct tensor h, struct tensor wide,
                struct tensor mid)
{
    struct ops *ops = m->ops;
    ops->rmsnorm(ops, h, x, y->before_mlp, m->cfg.norm_eps, gemma3_of(&m->cfg)->norm_add);
    ops->matmul(ops, wide, h, &y->gate_up, NULL);
    ops->gate(ops, &(struct gate_args){.fn = GATE_GELU_TANH,
                                       .T = x.n[0],
                                       .F = m->cfg.d_ff,
                                       .x = model_strip(wide, 0, 0),
                                       .y = model_strip(wide, 0, m->cfg.d_ff),
                                       .out = model_strip(mid, 0, 0)});
    add_normed(m, x, mid, &y->down, y->after_mlp, h);
}

static int gemma3_forward(struct model *m, const struct batch_item *item, int n, int64_t rows)
{
    const struct gemma3 *w = m->impl;
    const struct model_config *c = &m->cfg;
    struct ops *ops = m->ops;
    const struct layer_kind kind = gemma3_kind(c, false); /* windows have the same heads */
    const int64_t wanted = model_wanted(m, n, rows);
    struct tensor x = model_scratch(m, rows, c->d_model, ops->act); /* the residual stream [T,D] */
    struct att_bufs b = att_buffers(m, &kind, rows, c->d_model);
    struct tensor h = b.h; /* room for what a half block reads or adds */
    struct tensor wide = model_scratch(m, rows, 2 * c->d_ff, ops->act);
    struct tensor mid = model_scratch(m, rows, c->d_ff, ops->act);

    ops->embed(ops, x, &w->embed, m->ids, embed_scale(c->d_model, w->embed.dtype));
    for (int i = 0; i < c->n_layer; i++) {
        const struct layer *y = &w->layer[i];
        TRY(attend(m, i, &b, x, item, n));
        if (i == c->n_layer - 1 && wanted < rows) {
            /* the caches are complete; only rows that become logits go on */
            if (wanted == 0)
                return 0;
            struct tensor last_x = model_scratch(m, wanted, c->d_model, ops->act);
            struct tensor last_out = model_scratch(m, wanted, b.out.n[1], ops->act);
            model_gather(m, last_x, x, item, n);
            model_gather(m, last_out, b.out, item, n);
            x = last_x;
            b.out = last_out;
            h.n[0] = wide.n[0] = mid.n[0] = wanted;
        }
        add_normed(m, x, b.out, &y->o, y->after_att, h);
        mlp(m, y, x, h, wide, mid);
    }
    if (wanted == 0)
        return 0;
    ops->rmsnorm(ops, h, x, w->norm, c->norm_eps, gemma3_of(c)->norm_add);
    ops->matmul(ops, m->out, h, &w->head, NULL);
    return 0;
}

/* Of models that also see images, in transformers' layouts before and since version 4.52. */
static const struct name_pair aliases[] = {
    {"language_model.model.", "model."},
    {"model.language_model.", "model."},
    {"language_model.lm_head.", "lm_head."},
    {NULL, NULL},
};

const struct family family_gemma3 = {
    .name = "gemma3",
    .hf_types = "gemma3_text|gemma3",
    .summary = "Gemma 3 (text): windows and attention over everything in turn, norms around both halves",
    .typical = "model.layers.0.self_attn.q_proj.weight",
    .embed = EMBED,
    .spare = "lm_head.weight|vision_tower.|multi_modal_projector.|model.vision_tower.|"
             "model.multi_modal_projector.",
    .inner = "text_config",
    .aliases = aliases,
    .gguf = &gemma3_gguf,
    .read = gemma3_read,
    .describe = gemma3_describe,
    .shape = gemma3_shape,
    .cost = llama_cost,
    .bind = gemma3_bind,
    .forward = gemma3_forward,
    .close = gemma3_close,
};
