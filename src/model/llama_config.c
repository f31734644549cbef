/* Keys, shape and cost of the llama family. Defaults are those of transformers' configuration classes. */
#include "base/err.h"
#include "model/file_int.h"
#include "model/llama.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* What a class of transformers assumes for absent keys. */
struct defaults {
    const char *model_type;
    int64_t n_kv_head; /* 0: as many as query heads */
    int64_t head_dim;  /* 0: that of hidden_size in equal parts */
    int64_t max_len;
    int64_t window;    /* sliding_window; 0: the key means nothing */
    bool qkv_bias;     /* always there */
    bool has_bias_key; /* attention_bias decides about q, k, v and o */
    bool head_norm;    /* of every head of queries and keys */
    bool has_types;    /* layers slide one by one: use_sliding_window (off when absent), max_window_layers and
                          layer_types; otherwise all of them do */
};
static const struct defaults known[] = {
    {.model_type = "llama", .max_len = 2048, .has_bias_key = true},
    {.model_type = "mistral", .n_kv_head = 8, .max_len = 131072, .window = 4096},
    {.model_type = "qwen2",
     .n_kv_head = 32,
     .max_len = 32768,
     .window = 4096,
     .qkv_bias = true,
     .has_types = true},
    {.model_type = "qwen3",
     .n_kv_head = 32,
     .head_dim = 128,
     .max_len = 32768,
     .window = 4096,
     .has_bias_key = true,
     .head_norm = true,
     .has_types = true},
};

static const struct defaults *defaults_of(const char *model_type)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].model_type, model_type))
            return &known[i];
    return NULL;
}

static int read_sizes(const struct config_reader *r, const struct defaults *d, struct model_config *c)
{
    int64_t layers, heads, kv, dim;
    TRY(r->integer(r, "hidden_size", -1, 1, 1 << 20, &c->d_model));
    TRY(r->integer(r, "intermediate_size", -1, 1, 1 << 22, &c->d_ff));
    TRY(r->integer(r, "num_hidden_layers", -1, 1, SHAPE_LAYERS, &layers));
    TRY(r->integer(r, "num_attention_heads", -1, 1, 4096, &heads));
    TRY(r->integer(r, "num_key_value_heads", r->hf && d->n_kv_head ? d->n_kv_head : heads, 1, 4096, &kv));
    TRY(r->integer(r, "head_dim", r->hf && d->head_dim ? d->head_dim : c->d_model / heads, 1, 4096, &dim));
    TRY(r->integer(r, "max_position_embeddings", r->hf ? d->max_len : -1, 1, INT64_C(1) << 40, &c->max_len));
    c->n_layer = (int32_t)layers;
    c->n_head = (int32_t)heads;
    c->n_kv_head = (int32_t)kv;
    c->head_dim = (int32_t)dim;
    return 0;
}

static int refuse_others(const struct config_reader *r)
{
    int64_t experts;
    TRY(reader_only(r, "hidden_act", "silu"));
    if (r->has(r, "quantization_config") == READER_GIVEN)
        return err_set(ERR_INPUT, "%s: 'quantization_config': quantised folders are not supported, GGUF is",
                       r->path);
    TRY(r->integer(r, "num_local_experts", 0, 0, 1 << 20, &experts));
    if (experts)
        return err_set(ERR_INPUT, "%s: '%s' is %" PRId64 ": mixtures of experts are not supported", r->path,
                       r->name(r, "num_local_experts"), experts);
    return reader_not(r, "mlp_bias");
}

static int read_biases(const struct config_reader *r, const struct defaults *d, struct model_config *c)
{
    bool bias = false;
    if (d->has_bias_key)
        TRY(r->flag(r, "attention_bias", false, &bias));
    c->qkv_bias = (r->hf && d->qkv_bias) || bias || r->tensor(r, "model.layers.0.self_attn.q_proj.bias");
    c->o_bias = bias || r->tensor(r, "model.layers.0.self_attn.o_proj.bias");
    return 0;
}

/* Keys about layers that slide. */
struct sliding {
    bool on, counts; /* use_sliding_window; there is a window at all */
    bool typed;      /* layer_types is there */
    int64_t from;    /* max_window_layers */
};

/* Layers whose word says so slide. */
static int read_layer_types(const struct config_reader *r, const struct sliding *k, struct model_config *c)
{
    const char *s;
    char shown[80];
    int64_t n = 0;
    for (;; n++) {
        TRY(r->item(r, "layer_types", n, &s));
        if (!s)
            break;
        const bool near = k->counts && !strcmp(s, "sliding_attention");
        if (!near && strcmp(s, "full_attention") != 0)
            return err_set(ERR_INPUT,
                           "%s: layer_types[%" PRId64 "] is '%s'; only 'full_attention'%s supported", r->path,
                           n, *s ? file_shown(shown, s) : "no string",
                           k->counts ? " and 'sliding_attention' are" : " is");
        if (n < SHAPE_LAYERS)
            llama_own(c)->slides[n] = near;
    }
    return n == c->n_layer ? 0
                           : err_set(ERR_INPUT, "%s: 'layer_types' has %" PRId64 " entries for %d layers",
                                     r->path, n, c->n_layer);
}

/* Which layers slide, as transformers 5.24 resolves it: by layer_types where there is such a list, else those
 * from max_window_layers on. Mistral's class has no look at the list: all layers slide. */
static int set_sliding(const struct config_reader *r, const struct defaults *d, const struct sliding *k,
                       struct model_config *c)
{
    uint8_t *slides = llama_own(c)->slides;
    if (d->has_types && !r->hf && !r->sketch)
        return err_set(ERR_INPUT, "%s: '%s' is %" PRId64 ", and a GGUF file does not say which layers slide",
                       r->path, r->name(r, "sliding_window"), c->window);
    for (int32_t i = 0; i < c->n_layer; i++) {
        if (k->typed && !d->has_types && !slides[i])
            return err_set(ERR_INPUT,
                           "%s: layer_types[%d] is 'full_attention' beside a sliding_window, which this "
                           "model_type does not have",
                           r->path, i);
        slides[i] = k->typed ? slides[i] : i >= k->from;
    }
    return 0;
}

static int read_sliding(const struct config_reader *r, const struct defaults *d, struct sliding *k)
{
    *k = (struct sliding){.on = true, .typed = r->has(r, "layer_types") == READER_GIVEN};
    if (!d->has_types || !(r->hf || r->sketch))
        return 0;
    TRY(r->flag(r, "use_sliding_window", false, &k->on));
    return r->integer(r, "max_window_layers", 28, 0, INT64_C(1) << 31, &k->from);
}

/* A window as long as the model is none: layers that would slide are like the others. */
static int read_window(const struct config_reader *r, const struct defaults *d, struct model_config *c)
{
    const enum reader_has has = r->has(r, "sliding_window"); /* an explicit null means none */
    int64_t window = r->hf ? d->window : 0;
    struct sliding k;
    TRY(read_sliding(r, d, &k));
    if (has == READER_GIVEN)
        TRY(r->integer(r, "sliding_window", d->window, INT64_MIN, INT64_MAX, &window));
    k.counts = r->hf       ? k.on && d->window && has != READER_NULL
               : r->sketch ? k.on && d->window && has == READER_GIVEN
                           : window != 0;
    if (k.counts && window < 1)
        return err_set(ERR_INPUT, "%s: '%s' is %" PRId64 "; it must be at least 1, or null", r->path,
                       r->name(r, "sliding_window"), window);
    c->window = k.counts && window < c->max_len ? window : 0;
    if (k.typed && k.on)
        TRY(read_layer_types(r, &k, c));
    if (c->window)
        return set_sliding(r, d, &k, c);
    memset(llama_own(c)->slides, 0, sizeof llama_own(c)->slides);
    return 0;
}

static int check_heads(const struct model_config *c, const char *path)
{
    if (c->n_head % c->n_kv_head)
        return err_set(ERR_INPUT, "%s: %d query heads cannot share %d key/value heads evenly", path,
                       c->n_head, c->n_kv_head);
    if (c->head_dim % 2)
        return err_set(ERR_INPUT, "%s: head_dim %d must be even (rotary pairs)", path, c->head_dim);
    return 0;
}

static int read_rope(const struct config_reader *r, struct model_config *c)
{
    TRY(r->rope(r, c, NULL, &c->rope[0]));
    if (c->rope[0].partial == 1)
        return 0;
    return err_set(ERR_INPUT, "%s: 'partial_rotary_factor' %g is not supported (only 1)", r->path,
                   c->rope[0].partial);
}

int llama_read(struct model_config *c, const struct config_reader *r)
{
    const struct defaults *d = defaults_of(c->architecture);
    double eps;
    llama_own(c)->head_norm = d->head_norm;
    TRY(refuse_others(r));
    TRY(read_sizes(r, d, c));
    TRY(r->real(r, "rms_norm_eps", r->hf || r->sketch ? 1e-6 : NAN, &eps));
    c->norm_eps = (float)eps;
    TRY(read_biases(r, d, c));
    TRY(r->flag(r, "tie_word_embeddings", false, &c->tied));
    TRY(r->dtype(r, c));
    TRY(read_rope(r, c));
    TRY(r->integer(r, "vocab_size", -1, 1, 1 << 24, &c->n_vocab));
    TRY(read_window(r, d, c));
    return check_heads(c, r->path);
}

void llama_describe(const struct model_config *c, struct str *out)
{
    const struct llama_config *w = llama_of(c);
    if (w->head_norm)
        str_add(out, "head norms\n");
    if (!c->window)
        return;
    str_printf(out, "window %" PRId64 " layers ", c->window);
    for (int32_t i = 0; i < c->n_layer; i++)
        str_addc(out, w->slides[i] ? 'w' : 'a');
    str_addc(out, '\n');
}

struct layer_kind llama_kind(const struct model_config *c)
{
    return kind_attention(c->n_head, c->n_kv_head, c->head_dim, 0);
}

/* One kind where all layers are alike, else those over all tokens and those with a window. */
void llama_shape(const struct model_config *c, struct seq_shape *s)
{
    const struct llama_config *w = llama_of(c);
    const struct layer_kind all = llama_kind(c),
                            near = kind_attention(c->n_head, c->n_kv_head, c->head_dim, c->window);
    int32_t n = 0;
    for (int32_t i = 0; i < c->n_layer && c->window && !c->within; i++)
        n += w->slides[i];
    shape_alike(s, c->n_layer, n == c->n_layer ? &near : &all);
    if (n && n < c->n_layer) {
        s->kind[s->n_kind++] = near;
        memcpy(s->kind_of, w->slides, (size_t)c->n_layer);
    }
    s->max_len = c->within ? c->window : INT32_MAX; /* angles are computed, not looked up */
}

void llama_cost(const struct model_config *c, struct model_cost *cost)
{
    const int64_t D = c->d_model, F = c->d_ff, Hd = (int64_t)c->n_head * c->head_dim,
                  fused = Hd + 2 * (int64_t)c->n_kv_head * c->head_dim;
    *cost = (struct model_cost){.product = {{"q,k,v", fused, D, c->n_layer},
                                            {"o", D, Hd, c->n_layer},
                                            {"gate,up", 2 * F, D, c->n_layer},
                                            {"down", D, F, c->n_layer},
                                            {"head", c->n_vocab, D, 1}},
                                .n_product = 5,
                                .head = 4};
}

static const struct name_pair keys[] = {{NULL, NULL}};
const struct name_pair llama_top_names[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
    {NULL, NULL},
};
static const struct name_pair layer_names[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},       {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"}, {NULL, NULL},
};

/* llama.cpp's converter interleaves the two halves of each head of q and k for this architecture only. */
static int32_t interleaved(const struct model_config *c, const char *part)
{
    if (strcmp(c->architecture, "llama") != 0)
        return 0;
    return !strcmp(part, "attn_q") ? c->n_head : !strcmp(part, "attn_k") ? c->n_kv_head : 0;
}

const struct gguf_names llama_gguf = {keys, llama_top_names, layer_names, "model.layers", interleaved};
