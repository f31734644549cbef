/* RWKV-5.2 (BlinkDL/ChatRWKV, package rwkv 0.8.25, model.py: att_seq_v5_2, ffn_seq): blocks of time mixing,
 * whose state is a matrix per head, and channel mixing; both shift their input by one token. */
#include "model/rwkv5.h"

#include "base/err.h"
#include "base/mem.h"
#include "kernels/half.h"
#include "model/attention.h"
#include "model/recurrent.h"

#include <math.h>
#include <stdlib.h>

#define BLOCKS        "blocks"
#define GROUP_EPSILON 64e-5f /* of the norm over heads: 1e-5 * 8^2, as the models were trained */

/* Letters: C d_model = H heads of S channels, F d_ff, V vocabulary, T rows of the batch. */
enum { MIX_R, MIX_K, MIX_V, MIX_G, MIXES };
struct norm {
    const float *w, *b; /* [C] */
};
struct layer {
    struct norm ln1, ln2, heads;       /* heads: over the S channels of each */
    const float *mix[MIXES];           /* [C] each */
    const float *decay, *bonus;        /* [H,S] */
    struct weight proj[MIXES], output; /* [C,C] */
    const float *ffn_mix[2];           /* of r and k */
    struct weight ffn_r, ffn_k, ffn_v; /* [C,C], [F,C], [C,F] */
};
/* The first norm is applied to the embeddings when they are loaded, and rounded to the file's dtype, as the
 * package does. */
struct embed_norm {
    float *w, *b;                     /* host [C] */
    const float *device_w, *device_b; /* the same, declared so that the file's tensors are known */
    int64_t C;
    float eps;
    enum dtype dtype;
};
struct rwkv5 {
    struct tensor embed; /* [V,C] */
    struct norm out;
    struct weight head;  /* [V,C] */
    struct layer *layer; /* [n_layer] */
    struct embed_norm ln0;
};

/* ---- weights ---- */

static void exp_minus_exp(const void *ctx, float *x, int64_t n)
{
    (void)ctx;
    for (int64_t i = 0; i < n; i++)
        x[i] = expf(-expf(x[i]));
}

static float rounded(float x, enum dtype dtype)
{
    return dtype == DT_BF16 ? bf16_to_f32(bf16_from_f32(x)) : dtype == DT_F16 ? f16_round(x) : x;
}

static void norm_row(const struct embed_norm *e, float *x)
{
    double mean = 0, var = 0;
    for (int64_t c = 0; c < e->C; c++)
        mean += (double)x[c] / (double)e->C;
    for (int64_t c = 0; c < e->C; c++)
        var += ((double)x[c] - mean) * ((double)x[c] - mean) / (double)e->C;
    const double scale = 1 / sqrt(var + (double)e->eps);
    for (int64_t c = 0; c < e->C; c++)
        x[c] = rounded((float)(((double)x[c] - mean) * scale * (double)e->w[c] + (double)e->b[c]), e->dtype);
}

static void norm_rows(const void *ctx, float *x, int64_t n)
{
    const struct embed_norm *e = ctx;
    for (int64_t at = 0; at < n; at += e->C)
        norm_row(e, x + at);
}

/* A vector of the file to the device and to the host. */
static int host_vector(struct model *m, struct model_file *f, const char *name, const float **device,
                       float **out)
{
    struct model_tensor t;
    const int64_t C = m->cfg.d_model;
    TRY(load_floats(&m->load, f, device, &name, &C, 1));
    *out = mem_alloc((size_t)C, sizeof **out);
    return model_file_find(f, name, &C, 1, &t) < 0 ? 0 : model_tensor_read(f, &t, name, 0, C, *out);
}

static int bind_embed(struct model *m, struct model_file *f, struct rwkv5 *b)
{
    const struct model_config *c = &m->cfg;
    struct embed_norm *e = &b->ln0;
    e->C = c->d_model;
    e->eps = c->norm_eps;
    e->dtype = c->dtype;
    TRY(host_vector(m, f, "blocks.0.ln0.weight", &b->out.w,
                    &e->w)); /* the device's copy is not looked at again */
    TRY(host_vector(m, f, "blocks.0.ln0.bias", &e->device_b, &e->b));
    TRY(load_table(&m->load, f, &b->embed, "emb.weight", c->n_vocab, c->d_model));
    load_through(&m->load, norm_rows, e);
    return 0;
}

static int bind_norm(struct model *m, struct model_file *f, struct norm *n, int layer, const char *w,
                     const char *b)
{
    struct layer_names s;
    const int64_t C = m->cfg.d_model;
    TRY(load_floats(&m->load, f, &n->w, layer_names(&s, BLOCKS, layer, w, NULL, NULL), &C, 1));
    return load_floats(&m->load, f, &n->b, layer_names(&s, BLOCKS, layer, b, NULL, NULL), &C, 1);
}

static int bind_mix(struct model *m, struct model_file *f, const float **mix, int layer, const char *name)
{
    struct layer_names s;
    return load_values(&m->load, f, mix, *layer_names(&s, BLOCKS, layer, name, NULL, NULL),
                       (int64_t[]){1, 1, m->cfg.d_model}, 3, NULL);
}

static int bind_matrix(struct model *m, struct model_file *f, struct weight *w, int layer, const char *name,
                       int64_t n_out, int64_t n_in)
{
    struct layer_names s;
    return load_packed(&m->load, f, w, layer_names(&s, BLOCKS, layer, name, NULL, NULL), &n_out, 1, n_in);
}

static int bind_layer(struct model *m, struct model_file *f, struct layer *y, int i)
{
    static const char *const mixes[] = {"att.time_mix_r", "att.time_mix_k", "att.time_mix_v",
                                        "att.time_mix_g"};
    static const char *const projs[] = {"att.receptance.weight", "att.key.weight", "att.value.weight",
                                        "att.gate.weight"};
    const struct rwkv5_config *w = rwkv5_of(&m->cfg);
    const int64_t C = m->cfg.d_model, F = m->cfg.d_ff, heads[2] = {w->H, w->S};
    struct layer_names s;
    TRY(bind_norm(m, f, &y->ln1, i, "ln1.weight", "ln1.bias"));
    TRY(bind_norm(m, f, &y->ln2, i, "ln2.weight", "ln2.bias"));
    TRY(bind_norm(m, f, &y->heads, i, "att.ln_x.weight", "att.ln_x.bias"));
    for (int k = 0; k < MIXES; k++) {
        TRY(bind_mix(m, f, &y->mix[k], i, mixes[k]));
        TRY(bind_matrix(m, f, &y->proj[k], i, projs[k], C, C));
    }
    TRY(load_values(&m->load, f, &y->decay, *layer_names(&s, BLOCKS, i, "att.time_decay", NULL, NULL), heads,
                    2, exp_minus_exp));
    TRY(load_values(&m->load, f, &y->bonus, *layer_names(&s, BLOCKS, i, "att.time_faaaa", NULL, NULL), heads,
                    2, NULL));
    TRY(bind_matrix(m, f, &y->output, i, "att.output.weight", C, C));
    TRY(bind_mix(m, f, &y->ffn_mix[0], i, "ffn.time_mix_r"));
    TRY(bind_mix(m, f, &y->ffn_mix[1], i, "ffn.time_mix_k"));
    TRY(bind_matrix(m, f, &y->ffn_r, i, "ffn.receptance.weight", C, C));
    TRY(bind_matrix(m, f, &y->ffn_k, i, "ffn.key.weight", F, C));
    return bind_matrix(m, f, &y->ffn_v, i, "ffn.value.weight", C, F);
}

static int rwkv5_bind(struct model *m, struct model_file *f)
{
    const struct model_config *c = &m->cfg;
    const char *names[] = {"ln_out.weight", "ln_out.bias", "head.weight"};
    struct rwkv5 *b = m->impl = mem_alloc(1, sizeof *b);
    b->layer = mem_alloc((size_t)c->n_layer, sizeof *b->layer);
    m->row_bytes = (size_t)(10 * c->d_model + c->d_ff) * dtype_bytes(m->ops->act);
    TRY(bind_embed(m, f, b));
    for (int i = 0; i < c->n_layer; i++)
        TRY(bind_layer(m, f, &b->layer[i], i));
    TRY(load_floats(&m->load, f, &b->out.w, &names[0], &c->d_model, 1));
    TRY(load_floats(&m->load, f, &b->out.b, &names[1], &c->d_model, 1));
    return load_packed(&m->load, f, &b->head, &names[2], &c->n_vocab, 1, c->d_model);
}

static void rwkv5_close(struct model *m)
{
    struct rwkv5 *b = m->impl;
    if (b) {
        free(b->layer);
        free(b->ln0.w);
        free(b->ln0.b);
    }
    free(b);
}

/* ---- the forward pass ---- */

/* out[k] <- the rows of h mixed with those of the token before, for n_out mixes. */
static void shift(struct model *m, int layer, enum rwkv5_state prev, struct tensor h,
                  const float *const *mixes, struct tensor *out, int n_out, const struct batch_item *item,
                  int n)
{
    struct shift_args *args = model_args(m, (size_t)n, sizeof *args);
    int64_t at = 0;
    for (int j = 0; j < n; at += item[j++].n) {
        struct shift_args *a = &args[j];
        *a = (struct shift_args){.T = item[j].n,
                                 .C = h.n[1],
                                 .x = model_strip(h, at, 0),
                                 .n_out = n_out,
                                 .prev = kv_state(&item[j].seq->layer[layer], (int32_t)prev)};
        for (int k = 0; k < n_out; k++) {
            a->out[k] = model_strip(out[k], at, 0);
            a->mix[k] = mixes[k];
        }
    }
    m->ops->shift(m->ops, args, n);
}

/* x += output(norm(wkv(r, k, v)) * silu(g)), from the normed rows h [T,C]. */
static void mix_time(struct model *m, int i, struct tensor x, struct tensor h, const struct batch_item *item,
                     int n)
{
    const struct rwkv5_config *w = rwkv5_of(&m->cfg);
    const int64_t T = h.n[0], C = h.n[1];
    const struct layer *l = &((const struct rwkv5 *)m->impl)->layer[i];
    struct tensor in[MIXES], p[MIXES]; /* [T,C] each: mixed inputs, and r, k, v, g */
    int64_t at = 0;
    for (int k = 0; k < MIXES; k++) {
        in[k] = model_scratch(m, T, C, m->ops->act);
        p[k] = model_scratch(m, T, C, m->ops->act);
    }
    shift(m, i, RWKV5_ATT_PREV, h, l->mix, in, MIXES, item, n);
    for (int k = 0; k < MIXES; k++)
        m->ops->matmul(m->ops, p[k], in[k], &l->proj[k], NULL);
    struct wkv_args *a = model_args(m, (size_t)n, sizeof *a);
    for (int j = 0; j < n; at += item[j++].n)
        a[j] = (struct wkv_args){.T = item[j].n,
                                 .H = (int32_t)w->H,
                                 .S = (int32_t)w->S,
                                 .r = model_strip(p[MIX_R], at, 0),
                                 .k = model_strip(p[MIX_K], at, 0),
                                 .v = model_strip(p[MIX_V], at, 0),
                                 .out = model_strip(p[MIX_R], at, 0),
                                 .decay = l->decay,
                                 .bonus = l->bonus,
                                 .state = kv_state(&item[j].seq->layer[i], RWKV5_WKV)};
    m->ops->wkv(m->ops, a, n);
    m->ops->group_norm(m->ops, &(struct group_norm_args){.T = T,
                                                         .D = C,
                                                         .G = (int32_t)w->H,
                                                         .x = model_strip(p[MIX_R], 0, 0),
                                                         .z = model_strip(p[MIX_G], 0, 0),
                                                         .out = model_strip(p[MIX_R], 0, 0),
                                                         .w = l->heads.w,
                                                         .b = l->heads.b,
                                                         .eps = GROUP_EPSILON,
                                                         .center = true});
    m->ops->matmul_add(m->ops, x, p[MIX_R], &l->output, NULL, h);
}

/* *x += sigmoid(receptance) * value(relu(key)^2), from the normed rows h [T,C]; in the last layer *x becomes
 * the rows that are wanted as logits. */
static void mix_channels(struct model *m, int i, struct tensor *x, struct tensor h,
                         const struct batch_item *item, int n, int64_t wanted)
{
    const int64_t T = h.n[0], C = h.n[1], F = m->cfg.d_ff;
    const struct layer *l = &((struct rwkv5 *)m->impl)->layer[i];
    const enum dtype act = m->ops->act;
    struct ops *ops = m->ops;
    struct tensor in[2] = {model_scratch(m, T, C, act), model_scratch(m, T, C, act)}; /* of r, of k */
    shift(m, i, RWKV5_FFN_PREV, h, l->ffn_mix, in, 2, item, n);
    if (i == m->cfg.n_layer - 1 && wanted < T) { /* the states are complete */
        struct tensor all[3] = {*x, in[0], in[1]}, *part[3] = {x, &in[0], &in[1]};
        for (int k = 0; k < 3 && wanted; k++) {
            *part[k] = model_scratch(m, wanted, C, act);
            model_gather(m, *part[k], all[k], item, n);
        }
        if (wanted == 0)
            return;
    }
    const int64_t R = in[0].n[0]; /* rows that go on */
    struct tensor key = model_scratch(m, R, F, act), r = model_scratch(m, R, C, act),
                  v = model_scratch(m, R, C, act);
    ops->matmul(ops, key, in[1], &l->ffn_k, NULL);
    ops->gate(
        ops,
        &(struct gate_args){
            .fn = GATE_RELU2, .T = R, .F = F, .x = model_strip(key, 0, 0), .out = model_strip(key, 0, 0)});
    ops->matmul(ops, v, key, &l->ffn_v, NULL);
    ops->matmul(ops, r, in[0], &l->ffn_r, NULL);
    ops->gate(ops, &(struct gate_args){.fn = GATE_SIGMOID,
                                       .T = R,
                                       .F = C,
                                       .x = model_strip(r, 0, 0),
                                       .y = model_strip(v, 0, 0),
                                       .out = model_strip(*x, 0, 0),
                                       .add = true});
}

static int rwkv5_forward(struct model *m, const struct batch_item *item, int n, int64_t rows)
{
    const struct model_config *c = &m->cfg;
    struct rwkv5 *b = m->impl;
    struct ops *ops = m->ops;
    const int64_t wanted = model_wanted(m, n, rows);
    struct tensor x = model_scratch(m, rows, c->d_model, ops->act); /* the residual stream [T,C] */
    struct tensor h = model_scratch(m, rows, c->d_model, ops->act);
    const size_t used = m->ws_used; /* what follows belongs to a half block */

    ops->embed(ops, x, &b->embed, m->ids, 1.0f);
    for (int i = 0; i < c->n_layer; i++) {
        const struct layer *l = &b->layer[i];
        m->ws_used = used;
        ops->layernorm(ops, h, x, l->ln1.w, l->ln1.b, c->norm_eps);
        mix_time(m, i, x, h, item, n);
        m->ws_used = used;
        ops->layernorm(ops, h, x, l->ln2.w, l->ln2.b, c->norm_eps);
        mix_channels(m, i, &x, h, item, n, wanted);
        TRY(recurrent_advance(i, item, n));
    }
    if (wanted == 0)
        return 0;
    h.n[0] = wanted;
    ops->layernorm(ops, h, x, b->out.w, b->out.b, c->norm_eps);
    ops->matmul(ops, m->out, h, &b->head, NULL);
    return 0;
}

/* ---- oddities ---- */

static const struct param params[] = {
    {"penalties", PARAM_CHOICE, offsetof(struct rwkv5_params, penalties), 0, 0, 1, "off|rwkv", NULL,
     "rwkv: tokens that the answer has already are chosen less readily, as the package rwkv does by default"},
    {0},
};

/* PIPELINE_ARGS of the package rwkv 0.8.25 (utils.py): alpha_presence, alpha_frequency, alpha_decay; digits
 * and blanks go unpunished. */
static void penalty(const struct shape_options *options, struct model_penalty *p)
{
    const struct rwkv5_params *o = (const struct rwkv5_params *)(const void *)options->v;
    if (o->penalties == RWKV5_PENALTIES_RWKV)
        *p = (struct model_penalty){.presence = 0.2, .frequency = 0.2, .decay = 0.996, " \t0123456789"};
}

const struct family family_rwkv5 = {
    .name = "rwkv5",
    .hf_types = "rwkv5",
    .summary = "RWKV-5.2 World: time and channel mixing, from the .pth file; no cache of keys and values",
    .typical = "blocks.0.att.receptance.weight",
    .embed = "emb.weight",
    .spare = "",
    .read_tensors = rwkv5_read_tensors,
    .read = rwkv5_read,
    .describe = rwkv5_describe,
    .shape = rwkv5_shape,
    .params = params,
    .penalty = penalty,
    .cost = rwkv5_cost,
    .bind = rwkv5_bind,
    .forward = rwkv5_forward,
    .close = rwkv5_close,
};
