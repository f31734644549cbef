/* Keys, shape and cost of Gemma 3. Defaults are those of transformers' Gemma3TextConfig, and for GGUF those
 * of llama.cpp (src/models/gemma3.cpp). */
#include "base/err.h"
#include "base/str.h"
#include "model/file_int.h"
#include "model/gemma3.h"
#include "model/llama.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

/* One word per layer. *n: how many there are. */
static int read_types(const struct config_reader *r, struct gemma3_config *w, int64_t *n)
{
    const char *s;
    char shown[80];
    for (*n = 0;; ++*n) {
        TRY(r->item(r, "layer_types", *n, &s));
        if (!s)
            return 0;
        const bool slides = !strcmp(s, "sliding_attention");
        if (!slides && strcmp(s, "full_attention") != 0)
            return err_set(ERR_INPUT,
                           "%s: layer_types[%" PRId64
                           "] is '%s'; sliding_attention and full_attention are supported",
                           r->path, *n, *s ? file_shown(shown, s) : "no string");
        if (*n < SHAPE_LAYERS)
            w->slides[*n] = slides;
    }
}

/* Which layers slide: layer_types, else every layer but each sliding_window_pattern-th. */
static int read_pattern(const struct config_reader *r, const struct model_config *c, struct gemma3_config *w)
{
    int64_t n, pattern;
    TRY(read_types(r, w, &n));
    TRY(r->integer(r, "sliding_window_pattern", 6, 1, 1 << 20, &pattern));
    if (n && n != c->n_layer)
        return err_set(ERR_INPUT, "%s: 'layer_types' has %" PRId64 " entries for %d layers", r->path, n,
                       c->n_layer);
    for (int32_t i = 0; i < c->n_layer && !n; i++)
        w->slides[i] = (i + 1) % pattern != 0;
    return 0;
}

/* GGUF says with no window, or one of 0, that all layers see everything. */
static int read_window(const struct config_reader *r, const struct model_config *c, struct gemma3_config *w)
{
    const bool gguf = !r->hf && !r->sketch;
    bool any = false;
    TRY(r->integer(r, "sliding_window", r->hf ? 4096 : gguf ? 0 : -1, !gguf, INT64_C(1) << 40, &w->W));
    TRY(read_pattern(r, c, w));
    if (w->W == 0)
        memset(w->slides, 0, sizeof w->slides);
    for (int32_t i = 0; i < c->n_layer; i++)
        any = any || w->slides[i];
    if (any && r->has(r, "sliding_window") == READER_NULL)
        return err_set(ERR_INPUT, "%s: 'sliding_window' is null, but layers slide; it must be at least 1",
                       r->path);
    return 0;
}

static int read_sizes(const struct config_reader *r, struct model_config *c)
{
    int64_t n, heads, kv, dim;
    TRY(r->integer(r, "hidden_size", -1, 1, 1 << 20, &c->d_model));
    TRY(r->integer(r, "intermediate_size", -1, 1, 1 << 22, &c->d_ff));
    TRY(r->integer(r, "num_hidden_layers", -1, 1, SHAPE_LAYERS, &n));
    TRY(r->integer(r, "num_attention_heads", r->hf ? 8 : -1, 1, 4096, &heads));
    TRY(r->integer(r, "num_key_value_heads", r->hf ? 4 : heads, 1, 4096, &kv));
    TRY(r->integer(r, "head_dim", r->hf ? 256 : c->d_model / heads, 1, 4096, &dim));
    TRY(r->integer(r, "max_position_embeddings", r->hf ? 131072 : -1, 1, INT64_C(1) << 40, &c->max_len));
    TRY(r->integer(r, "vocab_size", r->hf ? 262208 : -1, 1, 1 << 24, &c->n_vocab));
    c->n_layer = (int32_t)n;
    c->n_head = (int32_t)heads;
    c->n_kv_head = (int32_t)kv;
    c->head_dim = (int32_t)dim;
    return 0;
}

static int check_heads(const struct model_config *c, const char *path)
{
    if (c->n_head % c->n_kv_head || c->head_dim % 2)
        return err_set(ERR_INPUT, "%s: %d query heads of %d values and %d key/value heads do not go together",
                       path, c->n_head, c->head_dim, c->n_kv_head);
    return 0;
}

/* GGUF has no key for it: llama.cpp knows the 27B by its 62 layers, where it is D/H. */
static int read_scalar(const struct config_reader *r, const struct model_config *c, double *scalar)
{
    const double usual = r->hf              ? 256
                         : c->n_layer == 62 ? (double)(c->d_model / c->n_head)
                                            : (double)c->head_dim;
    return r->real(r, "query_pre_attn_scalar", usual, scalar);
}

static int read_ropes(const struct config_reader *r, struct model_config *c)
{
    static const char *const types[] = {
        [GEMMA3_FULL] = "full_attention", [GEMMA3_LOCAL] = "sliding_attention"};
    for (int i = 0; i < 2; i++) {
        TRY(r->rope(r, c, types[i], &c->rope[i]));
        if (c->rope[i].partial != 1)
            return err_set(ERR_INPUT, "%s: 'partial_rotary_factor' %g is not supported (only 1)", r->path,
                           c->rope[i].partial);
    }
    return 0;
}

static int refuse_others(const struct config_reader *r)
{
    TRY(reader_only(r, "hidden_activation", "gelu_pytorch_tanh"));
    TRY(reader_not(r, "attention_bias"));
    TRY(reader_not(r, "use_bidirectional_attention"));
    TRY(reader_none(r, "attn_logit_softcapping"));
    TRY(reader_none(r, "final_logit_softcapping"));
    return reader_none(r, "quantization_config");
}

int gemma3_read(struct model_config *c, const struct config_reader *r)
{
    struct gemma3_config *w = gemma3_own(c);
    double eps;
    TRY(refuse_others(r));
    TRY(read_sizes(r, c));
    TRY(read_window(r, c, w));
    TRY(read_scalar(r, c, &w->scalar));
    TRY(r->real(r, "rms_norm_eps", 1e-6, &eps));
    TRY(r->flag(r, "tie_word_embeddings", true, &c->tied));
    TRY(read_ropes(r, c));
    c->norm_eps = (float)eps;
    w->norm_add = r->hf ? 1 : 0;
    TRY(r->dtype(r, c));
    return check_heads(c, r->path); /* last: a plan learns from this reading which keys there are */
}

void gemma3_describe(const struct model_config *c, struct str *out)
{
    const struct gemma3_config *w = gemma3_of(c);
    const struct rope_setting *r = &c->rope[GEMMA3_LOCAL];
    str_printf(out, "window %" PRId64 " scalar %.17g local %.17g %d %.17g layers ", w->W, w->scalar, r->theta,
               (int)r->scaling, r->factor);
    for (int32_t i = 0; i < c->n_layer; i++)
        str_addc(out, w->slides[i] ? 'w' : 'a');
    str_addc(out, '\n');
}

struct layer_kind gemma3_kind(const struct model_config *c, bool slides)
{
    struct layer_kind k = kind_attention(c->n_head, c->n_kv_head, c->head_dim, slides ? gemma3_of(c)->W : 0);
    k.rope_of = slides ? GEMMA3_LOCAL : GEMMA3_FULL;
    k.scale = (float)(1 / sqrt(gemma3_of(c)->scalar));
    return k;
}

void gemma3_shape(const struct model_config *c, struct seq_shape *s)
{
    const struct gemma3_config *w = gemma3_of(c);
    int32_t kind[2] = {-1, -1}; /* a kind without a layer is none */
    *s = (struct seq_shape){.n_layer = c->n_layer, .max_len = INT32_MAX};
    for (int32_t i = 0; i < c->n_layer; i++) {
        const int slides = w->slides[i];
        if (kind[slides] < 0) {
            kind[slides] = s->n_kind;
            s->kind[s->n_kind++] = gemma3_kind(c, slides);
        }
        s->kind_of[i] = (uint8_t)kind[slides];
    }
}

static const struct name_pair keys[] = {
    {"attention.sliding_window_pattern", "sliding_window_pattern"},
    {"attn_logit_softcapping", "attn_logit_softcapping"},
    {"final_logit_softcapping", "final_logit_softcapping"},
    {NULL, NULL},
};
static const struct name_pair layer_names[] = {
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"attn_output", "self_attn.o_proj"},
    {"post_attention_norm", "post_attention_layernorm"},
    {"ffn_norm", "pre_feedforward_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
    {"post_ffw_norm", "post_feedforward_layernorm"},
    {NULL, NULL},
};

const struct gguf_names gemma3_gguf = {keys, llama_top_names, layer_names, "model.layers", NULL};
