/* GGUF of the llama architectures: metadata -> struct model_config, tensor names -> Hugging Face's. Names and
 * keys as in ggml's docs/gguf.md and llama.cpp's gguf-py/gguf/constants.py. */
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/file_int.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

struct name_pair {
    const char *gguf, *hf;
};
static const struct name_pair top_names[] = {
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
};
static const struct name_pair layer_names[] = {
    {"attn_norm", "input_layernorm"},    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},      {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"}, {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
};

/* "blk.7.attn_q.weight" -> "model.layers.7.self_attn.q_proj.weight"; unknown names stay. Owned. */
static char *hf_name(const char *name, const char **part)
{
    *part = "";
    for (size_t i = 0; i < sizeof top_names / sizeof *top_names; i++)
        if (!strcmp(name, top_names[i].gguf))
            return mem_strdup(top_names[i].hf);
    if (strncmp(name, "blk.", 4) != 0)
        return mem_strdup(name);
    size_t digits = 0;
    while (name[4 + digits] >= '0' && name[4 + digits] <= '9')
        digits++;
    const char *rest = name + 4 + digits, *dot = strrchr(name, '.');
    if (!digits || *rest != '.' || dot <= rest)
        return mem_strdup(name);
    for (size_t i = 0; i < sizeof layer_names / sizeof *layer_names; i++) {
        const char *g = layer_names[i].gguf;
        if (strlen(g) == (size_t)(dot - rest - 1) && !strncmp(rest + 1, g, strlen(g))) {
            *part = g;
            return mem_printf("model.layers.%.*s.%s%s", (int)digits, name + 4, layer_names[i].hf, dot);
        }
    }
    return mem_strdup(name);
}

struct reader {
    const struct gguf *g;
    const char *arch;
    char key[128];
};

static const char *arch_key(struct reader *r, const char *suffix)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, suffix);
    return r->key;
}

/* A whole number in [min, max]; `def` < 0: required. */
static int get_int(struct reader *r, const char *suffix, int64_t def, int64_t min, int64_t max, int64_t *v)
{
    const char *key = arch_key(r, suffix);
    *v = def;
    if (gguf_has(r->g, key) || def < 0)
        TRY(gguf_int(r->g, key, v));
    if (*v < min || *v > max)
        return err_set(ERR_INPUT, "%s: key '%s' is %" PRId64 ", allowed are %" PRId64 " to %" PRId64,
                       gguf_path(r->g), key, *v, min, max);
    return 0;
}

static int get_real(struct reader *r, const char *suffix, double def, double *v)
{
    const char *key = arch_key(r, suffix);
    *v = def;
    if (gguf_has(r->g, key) || isnan(def))
        TRY(gguf_real(r->g, key, v));
    if (!(*v > 0) || !isfinite(*v))
        return err_set(ERR_INPUT, "%s: key '%s' must be a number above 0", gguf_path(r->g), key);
    return 0;
}

static int read_sizes(struct reader *r, struct model_config *c)
{
    int64_t layers, heads, kv, dim, value, rot, experts, window;
    TRY(get_int(r, "embedding_length", -1, 1, 1 << 20, &c->d_model));
    TRY(get_int(r, "feed_forward_length", -1, 1, 1 << 22, &c->d_ff));
    TRY(get_int(r, "block_count", -1, 1, 4096, &layers));
    TRY(get_int(r, "attention.head_count", -1, 1, 4096, &heads));
    TRY(get_int(r, "attention.head_count_kv", heads, 1, 4096, &kv));
    TRY(get_int(r, "attention.key_length", c->d_model / heads, 1, 4096, &dim));
    TRY(get_int(r, "attention.value_length", dim, 1, 4096, &value));
    TRY(get_int(r, "rope.dimension_count", dim, 1, 4096, &rot));
    TRY(get_int(r, "context_length", -1, 1, INT64_C(1) << 40, &c->max_len));
    TRY(get_int(r, "expert_count", 0, 0, 1 << 20, &experts));
    TRY(get_int(r, "attention.sliding_window", c->max_len, 0, INT64_MAX, &window));
    c->n_layer = (int32_t)layers;
    c->n_head = (int32_t)heads;
    c->n_kv_head = (int32_t)kv;
    c->head_dim = (int32_t)dim;
    if (value != dim || rot != dim)
        return err_set(ERR_INPUT,
                       "%s: key length %" PRId64 ", value length %" PRId64 " and rotated dimensions %" PRId64
                       " differ, which is not supported",
                       gguf_path(r->g), dim, value, rot);
    if (experts)
        return err_set(ERR_INPUT, "%s: %s is %" PRId64 ": mixtures of experts are not supported",
                       gguf_path(r->g), "expert_count", experts);
    c->window = window < c->max_len ? window : 0;
    return 0;
}

/* Scaling that a GGUF file can ask for and that is not computed. */
static int refuse_scaling(struct reader *r)
{
    static const char *const tensors[] = {"rope_factors_long.weight", "rope_factors_short.weight"};
    double factor;
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++)
        if (gguf_tensor_find(r->g, tensors[i]))
            return err_set(ERR_INPUT, "%s: tensor '%s': rope scaling 'longrope' is not supported",
                           gguf_path(r->g), tensors[i]);
    TRY(get_real(r, "rope.scaling.attn_factor", 1, &factor));
    return factor == 1 ? 0
                       : err_set(ERR_INPUT, "%s: key '%s' is %g, which is not supported (only 1)",
                                 gguf_path(r->g), r->key, factor);
}

/* llama3 scaling comes as the tensor rope_freqs.weight (see model.c). As llama.cpp reads the keys
 * (src/llama-model.cpp): a factor counts unless the type says none, under its new name before the old one. */
static int read_rope(struct reader *r, struct model_config *c, struct str *notes)
{
    struct gguf_text type = {"linear", 6};
    TRY(get_real(r, "rope.freq_base", 10000, &c->rope_theta));
    c->rope_low_freq = c->rope_high_freq = 1;
    TRY(get_real(r, "rope.scale_linear", 1, &c->rope_factor)); /* the old spelling */
    double old = c->rope_factor;
    TRY(get_real(r, "rope.scaling.factor", c->rope_factor, &c->rope_factor));
    if (old != 1 && old != c->rope_factor)
        str_printf(notes, "%s: rope.scaling.factor %g counts and rope.scale_linear %g does not\n",
                   gguf_path(r->g), c->rope_factor, old);
    TRY(refuse_scaling(r));
    if (gguf_has(r->g, arch_key(r, "rope.scaling.type")))
        TRY(gguf_text(r->g, r->key, &type));
    bool none = type.n == 4 && !memcmp(type.s, "none", 4);
    if (!none && !(type.n == 6 && !memcmp(type.s, "linear", 6)))
        return err_set(ERR_INPUT, "%s: key '%s' is not supported with this value (none and linear are)",
                       gguf_path(r->g), r->key);
    if (none && c->rope_factor != 1) {
        str_printf(notes, "%s: a rope scaling factor of %g does not count: rope.scaling.type is none\n",
                   gguf_path(r->g), c->rope_factor);
        c->rope_factor = 1;
    }
    c->rope_scaling = c->rope_factor == 1 ? ROPE_PLAIN : ROPE_LINEAR;
    return 0;
}

static enum dtype checkpoint_dtype(const struct gguf *g)
{
    const struct gguf_tensor *t = gguf_tensor_find(g, "blk.0.attn_q.weight");
    if (t && t->type == GGML_F32)
        return DT_F32;
    return t && t->type == GGML_F16 ? DT_F16 : DT_BF16;
}

static int read_config(struct reader *r, struct model_config *c, struct str *notes)
{
    double eps;
    const struct gguf_tensor *embed = gguf_tensor_find(r->g, "token_embd.weight");
    TRY(read_sizes(r, c));
    TRY(read_rope(r, c, notes));
    TRY(get_real(r, "attention.layer_norm_rms_epsilon", NAN, &eps));
    c->norm_eps = (float)eps;
    if (!embed || embed->n_dim != 2)
        return err_set(ERR_INPUT, "%s: tensor 'token_embd.weight' is missing or no matrix", gguf_path(r->g));
    c->n_vocab = embed->n[1];
    c->tied = !gguf_tensor_find(r->g, "output.weight");
    c->qkv_bias = gguf_tensor_find(r->g, "blk.0.attn_q.bias") != NULL;
    c->o_bias = gguf_tensor_find(r->g, "blk.0.attn_output.bias") != NULL;
    c->dtype = checkpoint_dtype(r->g);
    return 0;
}

static void add_tensors(struct model_file *f)
{
    /* llama.cpp's converter interleaves the two halves of each head of q and k for this architecture only */
    bool permuted = !strcmp(f->cfg.architecture, "llama");
    for (int64_t i = 0; i < gguf_n_tensor(f->gguf); i++) {
        const struct gguf_tensor *g = gguf_tensor_at(f->gguf, i);
        const char *part;
        struct file_tensor ft = {.name = hf_name(g->name, &part), .map = g->map};
        ft.t = (struct model_tensor){.data = f->map[g->map].data + g->at,
                                     .bytes = g->bytes,
                                     .type = g->type,
                                     .n_dim = g->n_dim,
                                     .n = {1, 1, 1, 1}};
        for (int d = 0; d < g->n_dim; d++)
            ft.t.n[d] = g->n[g->n_dim - 1 - d];
        if (permuted && !strcmp(part, "attn_q"))
            ft.heads = f->cfg.n_head;
        if (permuted && !strcmp(part, "attn_k"))
            ft.heads = f->cfg.n_kv_head;
        file_tensor_add(f, &ft);
    }
}

int gguf_model_open(struct model_file *f)
{
    struct gguf_text arch;
    TRY(gguf_open(&f->gguf, f->path));
    for (int i = 0; i < gguf_n_map(f->gguf); i++) {
        *MEM_PUSH(f->map, f->n_map, f->cap_map) = *gguf_map(f->gguf, i);
        file_identify(f, gguf_map_path(f->gguf, i));
    }
    TRY(gguf_text(f->gguf, "general.architecture", &arch));
    char name[64] = "";
    for (size_t i = 0; i < arch.n && i + 1 < sizeof name; i++)
        name[i] = arch.s[i] > 0x20 && arch.s[i] < 0x7f ? arch.s[i] : '?';
    const struct family *fam = family_find(name);
    if (!fam || arch.n >= sizeof name)
        return err_set(ERR_INPUT, "%s: general.architecture '%s' is not supported (llama, qwen2 are)",
                       f->path, name);
    strncpy(f->cfg.family, fam->name, sizeof f->cfg.family - 1);
    memcpy(f->cfg.architecture, name, sizeof name);
    struct reader r = {.g = f->gguf, .arch = name};
    TRY(read_config(&r, &f->cfg, &f->notes));
    TRY(fam->check(&f->cfg, f->path));
    add_tensors(f);
    return 0;
}

static bool holds(const struct gguf_text *t, const char *word)
{
    size_t n = strlen(word);
    for (size_t i = 0; i + n <= t->n; i++)
        if (!strncasecmp(t->s + i, word, n))
            return true;
    return false;
}

bool model_file_mentions(const struct model_file *f, const char *word)
{
    static const char *const keys[] = {"general.name", "general.basename", "general.finetune",
                                       "general.base_model.0.name"};
    struct gguf_text text;
    for (size_t i = 0; f->gguf && i < sizeof keys / sizeof *keys; i++)
        if (gguf_has(f->gguf, keys[i]) && gguf_text(f->gguf, keys[i], &text) == 0 && holds(&text, word))
            return true;
    return false;
}
