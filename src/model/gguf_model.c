/* GGUF: metadata -> struct model_config, tensor names -> Hugging Face's, both by way of the family. Names and
 * keys as in ggml's docs/gguf.md and llama.cpp's gguf-py/gguf/constants.py. */
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/file_int.h"
#include "model/reader.h"
#include "model/rope.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Behind "ARCH.": what all architectures share. */
static const struct name_pair common_keys[] = {
    {"embedding_length", "hidden_size"},
    {"feed_forward_length", "intermediate_size"},
    {"block_count", "num_hidden_layers"},
    {"attention.head_count", "num_attention_heads"},
    {"attention.head_count_kv", "num_key_value_heads"},
    {"attention.key_length", "head_dim"},
    {"context_length", "max_position_embeddings"},
    {"expert_count", "num_local_experts"},
    {"attention.sliding_window", "sliding_window"},
    {"attention.layer_norm_rms_epsilon", "rms_norm_eps"},
    {NULL, NULL},
};

static const struct name_pair *pair_of_hf(const struct name_pair *p, const char *hf)
{
    while (p->own && strcmp(p->hf, hf) != 0)
        p++;
    return p->own ? p : NULL;
}

/* The name of a layer's part, "attn_q.weight" or "ssm_a", of layer `n` (text). NULL: unknown. Owned. */
static char *part_name(const struct gguf_names *names, const char *n, const char *rest, const char **part)
{
    const char *dot = strrchr(rest, '.');
    for (const struct name_pair *p = names->layer; p->own; p++) {
        const size_t len = strlen(p->own);
        if (strncmp(rest, p->own, len) != 0 || (rest[len] && rest + len != dot))
            continue;
        *part = p->own;
        return mem_printf("%s.%s.%s%s", names->layers, n, p->hf, rest + len);
    }
    return NULL;
}

/* "blk.7.attn_q.weight" -> "model.layers.7.self_attn.q_proj.weight"; unknown names stay. Owned. */
static char *hf_name(const struct gguf_names *names, const char *name, const char **part)
{
    *part = "";
    for (const struct name_pair *p = names->top; p->own; p++)
        if (!strcmp(name, p->own))
            return mem_strdup(p->hf);
    const size_t digits = strncmp(name, "blk.", 4) ? 0 : strspn(name + 4, "0123456789");
    if (!digits || name[4 + digits] != '.')
        return mem_strdup(name);
    char *n = mem_strndup(name + 4, digits), *hf = part_name(names, n, name + 4 + digits + 1, part);
    free(n);
    return hf ? hf : mem_strdup(name);
}

struct reader {
    const struct gguf *g;
    const char *arch;
    const struct family *family;
    struct str *notes; /* lines about keys that do not count */
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

/* Rows of the caches as the kernels want them: keys and values of one length, rotated whole. */
static int check_lengths(struct reader *r, const struct model_config *c)
{
    int64_t value, rot, dim = c->head_dim;
    TRY(get_int(r, "attention.value_length", dim, 1, 4096, &value));
    TRY(get_int(r, "rope.dimension_count", dim, 1, 4096, &rot));
    if (value != dim || rot != dim)
        return err_set(ERR_INPUT,
                       "%s: key length %" PRId64 ", value length %" PRId64 " and rotated dimensions %" PRId64
                       " differ, which is not supported",
                       gguf_path(r->g), dim, value, rot);
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

/* As llama.cpp computes it (src/llama-context.cpp): the scale of cosines and sines follows from the factor
 * alone; a yarn_attn_factor in the file is the checkpoint's attention_factor, which transformers would take.
 */
static int read_yarn(struct reader *r, const struct model_config *m, struct rope_setting *c)
{
    double attention, extrapolation;
    TRY(get_int(r, "rope.scaling.original_context_length", m->max_len, 1, INT64_C(1) << 40,
                &c->original_len));
    TRY(get_real(r, "rope.scaling.yarn_beta_fast", 32, &c->yarn.fast));
    TRY(get_real(r, "rope.scaling.yarn_beta_slow", 1, &c->yarn.slow));
    c->yarn.attention = rope_yarn_scale(c->factor, 1);
    c->yarn.whole = true;
    TRY(get_real(r, "rope.scaling.yarn_attn_factor", c->yarn.attention, &attention));
    if (fabs(attention - c->yarn.attention) > 1e-6)
        return err_set(
            ERR_INPUT,
            "%s: key '%s' is %g, which is not supported (only 0.1 ln(factor) + 1 is, %g; llama.cpp "
            "computes with that, transformers with the key)",
            gguf_path(r->g), r->key, attention, c->yarn.attention);
    TRY(get_real(r, "rope.scaling.yarn_ext_factor", 1, &extrapolation));
    if (extrapolation != 1)
        return err_set(ERR_INPUT, "%s: key '%s' is %g, which is not supported (only 1)", gguf_path(r->g),
                       r->key, extrapolation);
    if (gguf_has(r->g, arch_key(r, "rope.scaling.yarn_log_multiplier")))
        return err_set(ERR_INPUT, "%s: key '%s' is not supported", gguf_path(r->g), r->key);
    c->scaling = ROPE_YARN;
    return 0;
}

static bool is_text(const struct gguf_text *t, const char *word)
{
    return t->n == strlen(word) && !memcmp(t->s, word, t->n);
}

/* llama3 scaling comes as the tensor rope_freqs.weight (see model.c). As llama.cpp reads the keys
 * (src/llama-model.cpp): a factor counts unless the type says none, under its new name before the old one. */
static int read_rope(struct reader *r, const struct model_config *m, struct rope_setting *c)
{
    struct gguf_text type = {"linear", 6};
    *c = (struct rope_setting){.low_freq = 1, .high_freq = 1, .partial = 1};
    TRY(get_real(r, "rope.freq_base", 10000, &c->theta));
    TRY(get_real(r, "rope.scale_linear", 1, &c->factor)); /* the old spelling */
    double old = c->factor;
    TRY(get_real(r, "rope.scaling.factor", c->factor, &c->factor));
    if (old != 1 && old != c->factor)
        str_printf(r->notes, "%s: rope.scaling.factor %g counts and rope.scale_linear %g does not\n",
                   gguf_path(r->g), c->factor, old);
    TRY(refuse_scaling(r));
    if (gguf_has(r->g, arch_key(r, "rope.scaling.type")))
        TRY(gguf_text(r->g, r->key, &type));
    const bool none = is_text(&type, "none");
    if (is_text(&type, "yarn"))
        return read_yarn(r, m, c);
    if (!none && !is_text(&type, "linear"))
        return err_set(ERR_INPUT, "%s: key '%s' is not supported with this value (none, linear and yarn are)",
                       gguf_path(r->g), r->key);
    if (none && c->factor != 1) {
        str_printf(r->notes, "%s: a rope scaling factor of %g does not count: rope.scaling.type is none\n",
                   gguf_path(r->g), c->factor);
        c->factor = 1;
    }
    c->scaling = c->factor == 1 ? ROPE_PLAIN : ROPE_LINEAR;
    return 0;
}

/* The tensor of this (Hugging Face) name. */
static const struct gguf_tensor *find_tensor(const struct reader *r, const char *name)
{
    const struct gguf_tensor *found = NULL;
    for (int64_t i = 0; i < gguf_n_tensor(r->g) && !found; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(r->g, i);
        const char *part;
        char *hf = hf_name(r->family->gguf, t->name, &part);
        found = !strcmp(hf, name) ? t : NULL;
        free(hf);
    }
    return found;
}

static enum dtype checkpoint_dtype(const struct reader *r)
{
    const struct gguf_tensor *t = find_tensor(r, r->family->typical);
    if (t && t->type == GGML_F32)
        return DT_F32;
    return t && t->type == GGML_F16 ? DT_F16 : DT_BF16;
}

/* ---- as a family's reader ---- */

static struct reader *meta_of(const struct config_reader *r)
{
    return r->at;
}

/* What stands behind "ARCH." for a key, NULL if GGUF has no such key. */
static const char *suffix_of(const struct config_reader *r, const char *key)
{
    const struct name_pair *p = pair_of_hf(meta_of(r)->family->gguf->key, key);
    p = p ? p : pair_of_hf(common_keys, key);
    return p ? p->own : NULL;
}

static enum reader_has meta_has(const struct config_reader *r, const char *key)
{
    const char *suffix = suffix_of(r, key);
    return suffix && gguf_has(meta_of(r)->g, arch_key(meta_of(r), suffix)) ? READER_GIVEN : READER_ABSENT;
}

static const char *meta_name(const struct config_reader *r, const char *key)
{
    const char *suffix = suffix_of(r, key);
    return suffix ? suffix : key;
}

/* The vocabulary is as big as the embedding. */
static int read_vocab(const struct config_reader *r, int64_t *out)
{
    const struct gguf_tensor *embed = gguf_tensor_find(meta_of(r)->g, "token_embd.weight");
    if (!embed || embed->n_dim != 2)
        return err_set(ERR_INPUT, "%s: tensor 'token_embd.weight' is missing or no matrix", r->path);
    *out = embed->n[1];
    return 0;
}

static int meta_integer(const struct config_reader *r, const char *key, int64_t def, int64_t min, int64_t max,
                        int64_t *out)
{
    const char *suffix = suffix_of(r, key);
    if (!strcmp(key, "vocab_size"))
        return read_vocab(r, out);
    if (suffix)
        return get_int(meta_of(r), suffix, def, min, max, out);
    *out = def;
    return def < min ? err_set(ERR_INPUT, "%s: GGUF has no key for '%s'", r->path, key) : 0;
}

static int meta_real(const struct config_reader *r, const char *key, double def, double *out)
{
    const char *suffix = suffix_of(r, key);
    if (suffix)
        return get_real(meta_of(r), suffix, def, out);
    *out = def;
    return isnan(def) ? err_set(ERR_INPUT, "%s: GGUF has no key for '%s'", r->path, key) : 0;
}

static int meta_flag(const struct config_reader *r, const char *key, bool def, bool *out)
{
    const bool given = meta_has(r, key) == READER_GIVEN;
    *out = !strcmp(key, "tie_word_embeddings") ? !gguf_tensor_find(meta_of(r)->g, "output.weight") : def;
    return given ? gguf_bool(meta_of(r)->g, meta_of(r)->key, out) : 0;
}

static int meta_text(const struct config_reader *r, const char *key, const char **out)
{
    (void)r, (void)key;
    *out = NULL;
    return 0;
}

static int meta_item(const struct config_reader *r, const char *key, int64_t i, const char **out)
{
    (void)i;
    return meta_text(r, key, out);
}

static int meta_number(const struct config_reader *r, const char *key, int64_t i, double def, double *out)
{
    (void)r, (void)key, (void)i;
    *out = def;
    return 0;
}

static bool meta_tensor(const struct config_reader *r, const char *name)
{
    return find_tensor(meta_of(r), name) != NULL;
}

static int meta_rope(const struct config_reader *r, const struct model_config *c, const char *layer_type,
                     struct rope_setting *out)
{
    struct reader *m = meta_of(r);
    TRY(check_lengths(m, c));
    TRY(read_rope(m, c, out));
    if (!layer_type || strcmp(layer_type, "sliding_attention") != 0)
        return 0;
    /* windows are never scaled (llama.cpp src/models/gemma3.cpp) */
    *out = (struct rope_setting){.factor = 1, .low_freq = 1, .high_freq = 1, .partial = 1};
    return get_real(m, "rope.freq_base_swa", 10000, &out->theta);
}

static int meta_dtype(const struct config_reader *r, struct model_config *c)
{
    c->dtype = checkpoint_dtype(meta_of(r));
    return 0;
}

static int read_config(struct reader *r, struct model_config *c)
{
    const struct config_reader own = {.path = gguf_path(r->g),
                                      .at = r,
                                      .has = meta_has,
                                      .name = meta_name,
                                      .integer = meta_integer,
                                      .real = meta_real,
                                      .flag = meta_flag,
                                      .text = meta_text,
                                      .item = meta_item,
                                      .number = meta_number,
                                      .tensor = meta_tensor,
                                      .rope = meta_rope,
                                      .dtype = meta_dtype};
    return r->family->read(c, &own);
}

static void add_tensors(struct model_file *f, const struct gguf_names *names)
{
    for (int64_t i = 0; i < gguf_n_tensor(f->gguf); i++) {
        const struct gguf_tensor *g = gguf_tensor_at(f->gguf, i);
        const char *part;
        struct file_tensor ft = {.name = hf_name(names, g->name, &part), .map = g->map};
        ft.t = (struct model_tensor){.data = f->map[g->map].data + g->at,
                                     .bytes = g->bytes,
                                     .type = g->type,
                                     .n_dim = g->n_dim,
                                     .n = {1, 1, 1, 1}};
        for (int d = 0; d < g->n_dim; d++)
            ft.t.n[d] = g->n[g->n_dim - 1 - d];
        ft.heads = names->interleaved ? names->interleaved(&f->cfg, part) : 0;
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
    if (!fam || !fam->gguf || arch.n >= sizeof name) {
        struct str all = {0};
        int rc = err_set(ERR_INPUT, "%s: general.architecture '%s' is not supported (%s are)", f->path, name,
                         family_types(&all));
        str_free(&all);
        return rc;
    }
    strncpy(f->cfg.family, fam->name, sizeof f->cfg.family - 1);
    memcpy(f->cfg.architecture, name, sizeof name);
    struct reader r = {.g = f->gguf, .arch = name, .family = fam, .notes = &f->notes};
    TRY(read_config(&r, &f->cfg));
    add_tensors(f, fam->gguf);
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
