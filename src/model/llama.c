/* Llama, Mistral, SmolLM2, LongChat, Qwen2, Qwen3: pre-norm blocks of grouped-query attention with rotary
 * positions and a SwiGLU layer (arXiv 2302.13971; transformers models/llama, mistral, qwen2, qwen3). */
#include "model/llama.h"
#include "base/err.h"
#include "base/mem.h"
#include "model/attention.h"

#include <stdlib.h>

#define LAYERS "model.layers"

/* Letters: D d_model, H heads, Hk key/value heads, d head_dim, F d_ff, V vocabulary, T rows of the batch. */
struct layer {
    const float *norm_att, *norm_mlp; /* [D] */
    struct weight qkv;                /* [(H + 2 Hk) d, D]: rows of q, then k, then v */
    const float *qkv_bias, *o_bias;   /* [(H + 2 Hk) d], [D], or NULL */
    const float *norm_q, *norm_k;     /* [d] each, or NULL */
    struct weight o;                  /* [D, H d] */
    struct weight gate_up, down;      /* [2 F, D], [D, F] */
};
struct llama {
    struct tensor embed; /* [V, D] */
    const float *norm;   /* [D] */
    struct weight head;  /* [V, D] */
    struct layer *layer; /* [n_layer] */
};

static int bind_layer(struct model *m, const struct model_file *f, struct layer *y, int i)
{
    const struct model_config *c = &m->cfg;
    struct load *l = &m->load;
    struct layer_names s;
    int64_t D = c->d_model, F = c->d_ff, q = (int64_t)c->n_head * c->head_dim,
            k = (int64_t)c->n_kv_head * c->head_dim;
    TRY(load_floats(l, f, &y->norm_att, layer_names(&s, LAYERS, i, "input_layernorm.weight", NULL, NULL), &D,
                    1));
    TRY(load_packed(l, f, &y->qkv,
                    layer_names(&s, LAYERS, i, "self_attn.q_proj.weight", "self_attn.k_proj.weight",
                                "self_attn.v_proj.weight"),
                    (int64_t[]){q, k, k}, 3, D));
    if (c->qkv_bias)
        TRY(load_floats(l, f, &y->qkv_bias,
                        layer_names(&s, LAYERS, i, "self_attn.q_proj.bias", "self_attn.k_proj.bias",
                                    "self_attn.v_proj.bias"),
                        (int64_t[]){q, k, k}, 3));
    TRY(load_packed(l, f, &y->o, layer_names(&s, LAYERS, i, "self_attn.o_proj.weight", NULL, NULL), &D, 1,
                    q));
    if (c->o_bias)
        TRY(load_floats(l, f, &y->o_bias, layer_names(&s, LAYERS, i, "self_attn.o_proj.bias", NULL, NULL), &D,
                        1));
    if (llama_of(c)->head_norm) {
        const int64_t d = c->head_dim;
        TRY(load_floats(l, f, &y->norm_q, layer_names(&s, LAYERS, i, "self_attn.q_norm.weight", NULL, NULL),
                        &d, 1));
        TRY(load_floats(l, f, &y->norm_k, layer_names(&s, LAYERS, i, "self_attn.k_norm.weight", NULL, NULL),
                        &d, 1));
    }
    TRY(load_floats(l, f, &y->norm_mlp,
                    layer_names(&s, LAYERS, i, "post_attention_layernorm.weight", NULL, NULL), &D, 1));
    TRY(load_packed(l, f, &y->gate_up,
                    layer_names(&s, LAYERS, i, "mlp.gate_proj.weight", "mlp.up_proj.weight", NULL),
                    (int64_t[]){F, F}, 2, D));
    return load_packed(l, f, &y->down, layer_names(&s, LAYERS, i, "mlp.down_proj.weight", NULL, NULL), &D, 1,
                       F);
}

/* Workspace of one row: what llama_forward takes from model_scratch. */
static size_t row_bytes(const struct model *m)
{
    const struct model_config *c = &m->cfg;
    const struct layer_kind k = llama_kind(c);
    const int64_t D = c->d_model, F = c->d_ff, Hd = (int64_t)k.n_head * k.d_k;
    return (size_t)(2 * D + Hd + att_row_values(&k, D) + 3 * F) * dtype_bytes(m->ops->act);
}

static int llama_bind(struct model *m, struct model_file *f)
{
    const struct model_config *c = &m->cfg;
    static const char embed[] = "model.embed_tokens.weight";
    const char *norm = "model.norm.weight", *head = c->tied ? embed : "lm_head.weight";
    struct llama *w = m->impl = mem_alloc(1, sizeof *w);
    w->layer = mem_alloc((size_t)c->n_layer, sizeof *w->layer);
    m->row_bytes = row_bytes(m);
    TRY(load_table(&m->load, f, &w->embed, embed, c->n_vocab, c->d_model));
    for (int i = 0; i < c->n_layer; i++)
        TRY(bind_layer(m, f, &w->layer[i], i));
    TRY(load_floats(&m->load, f, &w->norm, &norm, &c->d_model, 1));
    return load_packed(&m->load, f, &w->head, &head, &c->n_vocab, 1, c->d_model);
}

static void llama_close(struct model *m)
{
    struct llama *w = m->impl;
    if (w)
        free(w->layer);
    free(w);
}

/* b->out <- attention over the caches of layer i for the residual stream x [T, D]. */
static int attend(struct model *m, const struct layer *y, int i, struct att_bufs *b, struct tensor x,
                  const struct batch_item *item, int n)
{
    m->ops->project(m->ops, &(struct project_args){.x = x,
                                                   .norm = y->norm_att,
                                                   .eps = m->cfg.norm_eps,
                                                   .w = &y->qkv,
                                                   .bias = y->qkv_bias,
                                                   .out = {b->q, b->k, b->v},
                                                   .n_out = 3,
                                                   .h = b->h,
                                                   .wide = b->wide});
    if (y->norm_q)
        att_head_norm(m, b, y->norm_q, y->norm_k, 0);
    return att_step(m, i, b, item, n);
}

static int llama_forward(struct model *m, const struct batch_item *item, int n, int64_t rows)
{
    const struct llama *w = m->impl;
    const struct model_config *c = &m->cfg;
    struct ops *ops = m->ops;
    const struct layer_kind kind = llama_kind(c);
    int64_t wanted = model_wanted(m, n, rows);
    struct tensor x = model_scratch(m, rows, c->d_model, ops->act); /* the residual stream [T, D] */
    struct att_bufs b = att_buffers(m, &kind, rows, c->d_model);
    struct tensor h = b.h; /* room for what a half block reads or adds */
    struct tensor gate_up = model_scratch(m, rows, 2 * c->d_ff, ops->act);
    struct tensor mid = model_scratch(m, rows, c->d_ff, ops->act);

    ops->embed(ops, x, &w->embed, m->ids, 1.0f);
    for (int i = 0; i < c->n_layer; i++) {
        const struct layer *y = &w->layer[i];
        TRY(attend(m, y, i, &b, x, item, n));
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
            h.n[0] = gate_up.n[0] = mid.n[0] = wanted;
        }
        ops->matmul_add(ops, x, b.out, &y->o, y->o_bias, h);
        ops->mlp(ops, &(struct mlp_args){.x = x,
                                         .norm = y->norm_mlp,
                                         .eps = c->norm_eps,
                                         .gate_up = &y->gate_up,
                                         .down = &y->down,
                                         .h = h,
                                         .wide = gate_up,
                                         .mid = mid});
    }
    if (wanted == 0)
        return 0;
    ops->rmsnorm(ops, h, x, w->norm, c->norm_eps, 0.0f);
    ops->matmul(ops, m->out, h, &w->head, NULL);
    return 0;
}

const struct family family_llama = {
    .name = "llama",
    .hf_types = "llama|mistral|qwen2|qwen3",
    .summary = "Llama 1 to 3, Mistral, LongChat, SmolLM2, Qwen2, Qwen3: grouped-query attention, rotary "
               "positions, SwiGLU",
    .typical = "model.layers.0.self_attn.q_proj.weight",
    .embed = "model.embed_tokens.weight",
    .spare = "rotary_emb.inv_freq|rope_freqs.weight|lm_head.weight",
    .gguf = &llama_gguf,
    .read = llama_read,
    .describe = llama_describe,
    .shape = llama_shape,
    .cost = llama_cost,
    .bind = llama_bind,
    .forward = llama_forward,
    .close = llama_close,
};
