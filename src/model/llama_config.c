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
    int64_t max_len;
    int64_t window;         /* sliding_window; 0: the key means nothing */
    bool qkv_bias;          /* always there */
    bool has_bias_key;      /* attention_bias decides about q, k, v and o */
    bool has_window_switch; /* use_sliding_window, off when absent */
};
static const struct defaults known[] = {
    {"llama", 0, 2048, 0, false, true, false},
    {"mistral", 8, 131072, 4096, false, false, false},
    {"qwen2", 32, 32768, 4096, true, false, true},
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
    TRY(r->integer(r, "head_dim", c->d_model / heads, 1, 4096, &dim));
    TRY(r->integer(r, "max_position_embeddings", r->hf ? d->max_len : -1, 1, INT64_C(1) << 40, &c->max_len));
    c->n_layer = (int32_t)layers;
    c->n_head = (int32_t)heads;
    c->n_kv_head = (int32_t)kv;
    c->head_dim = (int32_t)dim;
    return 0;
}

/* Refuses a key whose value is not the one that is computed. */
static int must_be_false(const struct config_reader *r, const char *key)
{
    bool v;
    TRY(r->flag(r, key, false, &v));
    return v ? err_set(ERR_INPUT, "%s: '%s' is true, which is not supported", r->path, r->name(r, key)) : 0;
}

static int refuse_others(const struct config_reader *r)
{
    const char *act = NULL;
    int64_t experts;
    char shown[80];
    TRY(r->text(r, "hidden_act", &act));
    if (act && strcmp(act, "silu") != 0)
        return err_set(ERR_INPUT, "%s: hidden_act '%s' is not supported (silu is)", r->path,
                       file_shown(shown, act));
    if (r->has(r, "quantization_config") == READER_GIVEN)
        return err_set(ERR_INPUT, "%s: 'quantization_config': quantised folders are not supported, GGUF is",
                       r->path);
    TRY(r->integer(r, "num_local_experts", 0, 0, 1 << 20, &experts));
    if (experts)
        return err_set(ERR_INPUT, "%s: '%s' is %" PRId64 ": mixtures of experts are not supported", r->path,
                       r->name(r, "num_local_experts"), experts);
    return must_be_false(r, "mlp_bias");
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

static int check_layer_types(const struct config_reader *r, bool slides)
{
    const char *s;
    char shown[80];
    for (int64_t i = 0;; i++) {
        TRY(r->item(r, "layer_types", i, &s));
        if (!s)
            return 0;
        if (!(slides && !strcmp(s, "sliding_attention")) && strcmp(s, "full_attention") != 0)
            return err_set(ERR_INPUT,
                           "%s: layer_types[%" PRId64 "] is '%s'; only 'full_attention' is supported",
                           r->path, i, *s ? file_shown(shown, s) : "no string");
    }
}

/* Layers attend over everything: a sliding window only bounds how long a sequence may be (c->window), and
 * layers that would slide are like the others up to there. */
static int read_window(const struct config_reader *r, const struct defaults *d, struct model_config *c)
{
    const enum reader_has has = r->has(r, "sliding_window"); /* an explicit null means none */
    int64_t window = r->hf ? d->window : 0;
    bool on = true;
    if (r->hf && d->has_window_switch)
        TRY(r->flag(r, "use_sliding_window", false, &on));
    if (has == READER_GIVEN)
        TRY(r->integer(r, "sliding_window", 0, INT64_MIN, INT64_MAX, &window));
    const bool counts = r->hf ? on && d->window && has != READER_NULL : window != 0;
    if (counts && window < 1)
        return err_set(ERR_INPUT, "%s: '%s' is %" PRId64 "; it must be at least 1, or null", r->path,
                       r->name(r, "sliding_window"), window);
    c->window = counts && window < c->max_len ? window : 0;
    return on ? check_layer_types(r, counts) : 0;
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
    TRY(refuse_others(r));
    TRY(read_sizes(r, d, c));
    TRY(r->real(r, "rms_norm_eps", r->hf || r->sketch ? 1e-6 : NAN, &eps));
    c->norm_eps = (float)eps;
    TRY(read_biases(r, d, c));
    TRY(r->flag(r, "tie_word_embeddings", false, &c->tied));
    TRY(r->dtype(r, c));
    TRY(read_rope(r, c));
    TRY(read_window(r, d, c));
    TRY(r->integer(r, "vocab_size", -1, 1, 1 << 24, &c->n_vocab));
    return check_heads(c, r->path);
}

struct layer_kind llama_kind(const struct model_config *c)
{
    return kind_attention(c->n_head, c->n_kv_head, c->head_dim, 0);
}

void llama_shape(const struct model_config *c, struct seq_shape *s)
{
    const struct layer_kind k = llama_kind(c);
    shape_alike(s, c->n_layer, &k);
    s->max_len = c->window ? c->window : INT32_MAX; /* angles are computed, not looked up */
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
static const struct name_pair top_names[] = {
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
    {"ffn_down", "mlp.down_proj"},       {NULL, NULL},
};

/* llama.cpp's converter interleaves the two halves of each head of q and k for this architecture only. */
static int32_t interleaved(const struct model_config *c, const char *part)
{
    if (strcmp(c->architecture, "llama") != 0)
        return 0;
    return !strcmp(part, "attn_q") ? c->n_head : !strcmp(part, "attn_k") ? c->n_kv_head : 0;
}

const struct gguf_names llama_gguf = {keys, top_names, layer_names, "model.layers", interleaved};
