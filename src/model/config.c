/* config.json of Hugging Face folders -> struct model_config. Defaults are those of transformers'
 * configuration classes. */
#include "base/err.h"
#include "model/file_int.h"
#include "model/rope_config.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What a class of transformers assumes for absent keys. */
struct defaults {
    const char *model_type;
    int64_t n_kv_head; /* 0: as many as query heads */
    int64_t max_len;
    int64_t window;         /* sliding_window; 0: none */
    bool qkv_bias;          /* always there */
    bool has_bias_key;      /* attention_bias decides about q, k, v and o */
    bool has_window_switch; /* use_sliding_window, off when absent */
};
static const struct defaults known[] = {
    {"llama", 0, 2048, 0, false, true, false},
    {"mistral", 8, 131072, 4096, false, false, false},
    {"qwen2", 32, 32768, 4096, true, false, true},
};

struct reader {
    const char *path; /* of config.json */
    const json_t *root;
    struct str *notes;
};

static bool given(const json_t *v)
{
    return v && !json_is_null(v);
}

/* A whole number in [min, max]; `def` < 0: required. */
static int get_int(const struct reader *r, const char *key, int64_t def, int64_t min, int64_t max,
                   int64_t *out)
{
    const json_t *v = json_object_get(r->root, key);
    if (!given(v) && def >= 0) {
        *out = def;
        return 0;
    }
    if (!given(v))
        return err_set(ERR_INPUT, "%s: key '%s' is missing", r->path, key);
    *out = json_integer_value(v);
    if (!json_is_integer(v) || *out < min || *out > max)
        return err_set(ERR_INPUT, "%s: '%s' must be a whole number from %" PRId64 " to %" PRId64, r->path,
                       key, min, max);
    return 0;
}

static int number_in(const struct reader *r, const json_t *obj, const char *key, double def, double *out)
{
    const json_t *v = json_object_get(obj, key);
    if (!given(v) && !isnan(def)) {
        *out = def;
        return 0;
    }
    *out = json_number_value(v);
    if (!json_is_number(v) || !(*out > 0) || !isfinite(*out))
        return err_set(ERR_INPUT, "%s: '%s' %s", r->path, key,
                       given(v) ? "must be a number above 0" : "is missing");
    return 0;
}

static int get_bool(const struct reader *r, const char *key, bool def, bool *out)
{
    const json_t *v = json_object_get(r->root, key);
    *out = given(v) ? json_is_true(v) : def;
    if (given(v) && !json_is_boolean(v))
        return err_set(ERR_INPUT, "%s: '%s' must be true or false", r->path, key);
    return 0;
}

/* Refuses a key whose value is not the one that is computed. */
static int must_be_false(const struct reader *r, const char *key)
{
    bool v;
    TRY(get_bool(r, key, false, &v));
    return v ? err_set(ERR_INPUT, "%s: '%s' is true, which is not supported", r->path, key) : 0;
}

static int read_rope(const struct reader *r, struct model_config *c)
{
    struct rope_config rope;
    TRY(rope_config_read(&rope, r->root, r->path, c->max_len, r->notes));
    c->rope_theta = rope.theta;
    c->rope_scaling = rope.scaling;
    c->rope_factor = rope.factor;
    c->rope_low_freq = rope.low_freq;
    c->rope_high_freq = rope.high_freq;
    c->rope_original_len = rope.original_len;
    return 0;
}

/* Layers attend over everything: a sliding window only bounds how long a sequence may be (c->window), and
 * layers that would slide are like the others up to there. */
static int read_window(const struct reader *r, const struct defaults *d, struct model_config *c)
{
    const json_t *v = json_object_get(r->root, "sliding_window");
    const json_t *types = json_object_get(r->root, "layer_types");
    bool on = true;
    char shown[80];
    if (d->has_window_switch)
        TRY(get_bool(r, "use_sliding_window", false, &on));
    int64_t window = v ? json_integer_value(v) : d->window; /* an explicit null means none */
    if (given(v) && !json_is_integer(v))
        return err_set(ERR_INPUT, "%s: 'sliding_window' must be a whole number or null", r->path);
    bool slides = on && d->window && (given(v) || !v);
    if (slides && window < 1)
        return err_set(ERR_INPUT, "%s: 'sliding_window' is %" PRId64 "; it must be at least 1, or null",
                       r->path, window);
    c->window = slides && window < c->max_len ? window : 0;
    for (size_t i = 0; on && i < json_array_size(types); i++) {
        const char *s = json_string_value(json_array_get(types, i));
        bool sliding = s && slides && !strcmp(s, "sliding_attention");
        if (!s || (!sliding && strcmp(s, "full_attention") != 0))
            return err_set(ERR_INPUT, "%s: layer_types[%zu] is '%s'; only 'full_attention' is supported",
                           r->path, i, s ? file_shown(shown, s) : "no string");
    }
    return 0;
}

static int read_dtype(const struct reader *r, struct model_config *c)
{
    const json_t *v = json_object_get(r->root, "dtype"), *old = json_object_get(r->root, "torch_dtype");
    if (given(v) && given(old) && !json_equal(v, old))
        str_printf(r->notes, "%s: 'dtype' counts and 'torch_dtype' beside it does not\n", r->path);
    v = given(v) ? v : old;
    const char *s = given(v) ? json_string_value(v) : "float32";
    char shown[80];
    c->dtype = DT_F32;
    if (s && !strcmp(s, "bfloat16"))
        c->dtype = DT_BF16;
    else if (s && !strcmp(s, "float16"))
        c->dtype = DT_F16;
    else if (!s || strcmp(s, "float32") != 0)
        return err_set(ERR_INPUT, "%s: dtype '%s' is not supported (float32, float16, bfloat16 are)", r->path,
                       s ? file_shown(shown, s) : "?");
    return 0;
}

static int read_sizes(const struct reader *r, const struct defaults *d, struct model_config *c)
{
    int64_t layers, heads, kv, dim;
    TRY(get_int(r, "hidden_size", -1, 1, 1 << 20, &c->d_model));
    TRY(get_int(r, "intermediate_size", -1, 1, 1 << 22, &c->d_ff));
    TRY(get_int(r, "vocab_size", -1, 1, 1 << 24, &c->n_vocab));
    TRY(get_int(r, "num_hidden_layers", -1, 1, 4096, &layers));
    TRY(get_int(r, "num_attention_heads", -1, 1, 4096, &heads));
    TRY(get_int(r, "num_key_value_heads", d->n_kv_head ? d->n_kv_head : heads, 1, 4096, &kv));
    TRY(get_int(r, "head_dim", c->d_model / heads, 1, 4096, &dim));
    TRY(get_int(r, "max_position_embeddings", d->max_len, 1, INT64_C(1) << 40, &c->max_len));
    c->n_layer = (int32_t)layers;
    c->n_head = (int32_t)heads;
    c->n_kv_head = (int32_t)kv;
    c->head_dim = (int32_t)dim;
    return 0;
}

static int read_all(const struct reader *r, const struct defaults *d, struct model_config *c)
{
    double eps;
    bool bias = false;
    char shown[80];
    const char *act = json_string_value(json_object_get(r->root, "hidden_act"));
    TRY(read_sizes(r, d, c));
    TRY(number_in(r, r->root, "rms_norm_eps", 1e-6, &eps));
    c->norm_eps = (float)eps;
    if (act && strcmp(act, "silu") != 0)
        return err_set(ERR_INPUT, "%s: hidden_act '%s' is not supported (silu is)", r->path,
                       file_shown(shown, act));
    if (given(json_object_get(r->root, "quantization_config")))
        return err_set(ERR_INPUT, "%s: 'quantization_config': quantised folders are not supported, GGUF is",
                       r->path);
    TRY(must_be_false(r, "mlp_bias"));
    if (d->has_bias_key)
        TRY(get_bool(r, "attention_bias", false, &bias));
    c->qkv_bias = d->qkv_bias || bias;
    c->o_bias = bias;
    TRY(get_bool(r, "tie_word_embeddings", false, &c->tied));
    TRY(read_dtype(r, c));
    TRY(read_rope(r, c));
    return read_window(r, d, c);
}

static int read_root(const struct reader *r, struct model_config *c)
{
    const char *type = json_string_value(json_object_get(r->root, "model_type"));
    char shown[80];
    if (!type)
        return err_set(ERR_INPUT, "%s: key 'model_type' is missing or no string", r->path);
    const struct family *fam = family_find(type);
    const struct defaults *d = NULL;
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        d = strcmp(known[i].model_type, type) == 0 ? &known[i] : d;
    if (!fam || !d)
        return err_set(ERR_INPUT, "%s: model_type '%s' is not supported (llama, mistral, qwen2 are)", r->path,
                       file_shown(shown, type));
    strncpy(c->family, fam->name, sizeof c->family - 1);
    strncpy(c->architecture, type, sizeof c->architecture - 1);
    TRY(read_all(r, d, c));
    return fam->check(c, r->path);
}

int config_read(struct model_config *cfg, const char *dir, struct str *notes)
{
    *cfg = (struct model_config){0};
    char *path = file_join(dir, "config.json");
    json_t *root;
    int rc = file_json(path, &root);
    struct reader r = {path, root, notes};
    if (rc == 0)
        rc = read_root(&r, cfg);
    json_decref(root);
    free(path);
    return rc;
}
