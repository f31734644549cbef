/* config.json of an XLM-RoBERTa token classifier. Defaults are those of transformers' XLMRobertaConfig; what
 * would be computed otherwise is refused. */
#include "base/err.h"
#include "base/mem.h"
#include "model/encoder.h"
#include "model/file_int.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define CLASSIFIER "XLMRobertaForTokenClassification"

static bool given(const json_t *v)
{
    return v && !json_is_null(v);
}

static int whole(const char *path, const json_t *root, const char *key, int64_t def, int64_t min, int64_t max,
                 int64_t *out)
{
    const json_t *v = json_object_get(root, key);
    *out = given(v) ? json_integer_value(v) : def;
    if ((given(v) && !json_is_integer(v)) || *out < min || *out > max)
        return err_set(ERR_INPUT, "%s: '%s' must be a whole number from %" PRId64 " to %" PRId64, path, key,
                       min, max);
    return 0;
}

/* A text that must be `only` (NULL values count as it). */
static int must_be(const char *path, const json_t *root, const char *key, const char *only)
{
    const json_t *v = json_object_get(root, key);
    const char *s = json_string_value(v);
    char shown[80];
    if (given(v) && (!s || strcmp(s, only) != 0))
        return err_set(ERR_INPUT, "%s: '%s' is '%s'; only '%s' is supported", path, key,
                       s ? file_shown(shown, s) : "no text", only);
    return 0;
}

static int check_kind(const char *path, const json_t *root)
{
    const char *type = json_string_value(json_object_get(root, "model_type"));
    const json_t *list = json_object_get(root, "architectures");
    const char *arch = json_string_value(json_array_get(list, 0));
    char a[80], b[80];
    if (!type || strcmp(type, "xlm-roberta") != 0)
        return err_set(ERR_INPUT, "%s: model_type '%s' is no prompt encoder (xlm-roberta is)", path,
                       type ? file_shown(a, type) : "?");
    if (!arch || strcmp(arch, CLASSIFIER) != 0)
        return err_set(ERR_INPUT, "%s: architecture '%s' is no token classifier (%s is)", path,
                       arch ? file_shown(b, arch) : "?", CLASSIFIER);
    return 0;
}

/* How many labels: id2label's entries, or two where it is absent (transformers' default). */
static int check_labels(const char *path, const json_t *root)
{
    const json_t *labels = json_object_get(root, "id2label");
    size_t n = json_object_size(labels);
    if (given(labels) && (!json_is_object(labels) || n != 2))
        return err_set(ERR_INPUT, "%s: 'id2label' has %zu labels; a prompt encoder has 2 (drop, keep)", path,
                       n);
    return 0;
}

static int read_root(const char *path, const json_t *root, struct model_config *c)
{
    int64_t layers, heads, pad, types;
    TRY(check_kind(path, root));
    TRY(whole(path, root, "hidden_size", 768, 1, 1 << 16, &c->d_model));
    TRY(whole(path, root, "intermediate_size", 3072, 1, 1 << 18, &c->d_ff));
    TRY(whole(path, root, "vocab_size", 30522, 1, 1 << 24, &c->n_vocab));
    TRY(whole(path, root, "num_hidden_layers", 12, 1, 1024, &layers));
    TRY(whole(path, root, "num_attention_heads", 12, 1, 1024, &heads));
    TRY(whole(path, root, "max_position_embeddings", 512, 4, 1 << 20, &c->max_len));
    TRY(whole(path, root, "pad_token_id", 1, 1, 1, &pad));
    TRY(whole(path, root, "type_vocab_size", 2, 1, 1, &types));
    TRY(must_be(path, root, "hidden_act", "gelu"));
    TRY(must_be(path, root, "position_embedding_type", "absolute"));
    TRY(check_labels(path, root));
    if (c->d_model % heads || c->d_model / heads > 1024)
        return err_set(ERR_INPUT, "%s: hidden_size %" PRId64 " cannot be cut into %" PRId64 " heads", path,
                       c->d_model, heads);
    const json_t *eps = json_object_get(root, "layer_norm_eps");
    double e = given(eps) ? json_number_value(eps) : 1e-12;
    if (!(e > 0) || !isfinite(e))
        return err_set(ERR_INPUT, "%s: 'layer_norm_eps' must be a number above 0", path);
    c->norm_eps = (float)e;
    c->max_len -= pad + 1;
    c->n_layer = (int32_t)layers;
    c->n_head = c->n_kv_head = (int32_t)heads;
    c->head_dim = (int32_t)(c->d_model / heads);
    c->dtype = DT_F32;
    strcpy(c->family, "xlmr");
    strcpy(c->architecture, "xlm-roberta");
    return 0;
}

int encoder_config_read(struct model_config *c, const char *dir)
{
    *c = (struct model_config){0};
    char *path = file_join(dir, "config.json");
    json_t *root;
    int rc = file_json(path, &root);
    if (rc == 0)
        rc = read_root(path, root, c);
    json_decref(root);
    free(path);
    return rc;
}
