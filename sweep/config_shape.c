/* `shape` of a model file: what a plan must know of a model whose files are not there, under the names of its
 * config.json. Its family reads it; what the family does not ask for is an unknown key. */
#include "base/err.h"
#include "base/mem.h"
#include "model/reader.h"
#include "sweep/config_int.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_KEYS = 63 };

struct shape_keys {
    const struct node *node;
    bool listing; /* a first reading, which only learns what the family asks for: nothing is refused */
    const char *asked[MOST_KEYS + 1];
    int n;
};

static struct shape_keys *keys_of(const struct config_reader *r)
{
    return r->at;
}

/* Notes that the key is one; its value, NULL if absent. */
static const struct node *ask(const struct config_reader *r, const char *key)
{
    struct shape_keys *k = keys_of(r);
    int i = 0;
    while (i < k->n && strcmp(k->asked[i], key) != 0)
        i++;
    if (i == k->n && k->n < MOST_KEYS)
        k->asked[k->n++] = key;
    return k->node->kind == NODE_MAP ? node_get(k->node, key) : NULL;
}

static int needs(const struct config_reader *r, const char *key)
{
    return keys_of(r)->listing
               ? 0
               : node_error(keys_of(r)->node, "shape: needs %s, as in the model's config.json", key);
}

static enum reader_has shape_has(const struct config_reader *r, const char *key)
{
    return ask(r, key) ? READER_GIVEN : READER_ABSENT;
}

static const char *shape_name(const struct config_reader *r, const char *key)
{
    (void)r;
    return key;
}

static int shape_integer(const struct config_reader *r, const char *key, int64_t def, int64_t min,
                         int64_t max, int64_t *out)
{
    const struct node *v = ask(r, key);
    *out = def < 0 ? min : def;
    if (v && !keys_of(r)->listing)
        return node_int(keys_of(r)->node, key, min, max, out);
    return !v && def < 0 ? needs(r, key) : 0;
}

static int shape_real(const struct config_reader *r, const char *key, double def, double *out)
{
    const struct node *v = ask(r, key);
    *out = isnan(def) ? 1 : def;
    if (v && !keys_of(r)->listing)
        return node_real(keys_of(r)->node, key, 1e-300, 1e300, out);
    return !v && isnan(def) ? needs(r, key) : 0;
}

static int shape_flag(const struct config_reader *r, const char *key, bool def, bool *out)
{
    static const char *const words[] = {"false", "true", NULL};
    int i = def;
    if (ask(r, key) && !keys_of(r)->listing)
        TRY(node_choice(keys_of(r)->node, key, words, &i));
    *out = i == 1;
    return 0;
}

static int shape_text(const struct config_reader *r, const char *key, const char **out)
{
    *out = NULL;
    return ask(r, key) && !keys_of(r)->listing ? node_text(keys_of(r)->node, key, out) : 0;
}

/* What is no word is shown as an empty one. */
static int shape_item(const struct config_reader *r, const char *key, int64_t i, const char **out)
{
    const struct node *v = ask(r, key);
    bool there = v && !keys_of(r)->listing && v->kind == NODE_LIST && i < v->n;
    *out = !there ? NULL : v->item[i]->kind == NODE_SCALAR ? v->item[i]->text : "";
    return 0;
}

static int shape_number(const struct config_reader *r, const char *key, int64_t i, double def, double *out)
{
    (void)r, (void)key, (void)i;
    *out = def;
    return 0;
}

static bool shape_tensor(const struct config_reader *r, const char *name)
{
    (void)r, (void)name;
    return false;
}

/* A plan does not rotate. */
static int shape_rope(const struct config_reader *r, const struct model_config *c, const char *layer_type,
                      struct rope_setting *out)
{
    const bool local = layer_type && !strcmp(layer_type, "sliding_attention");
    (void)c;
    *out = (struct rope_setting){.factor = 1, .low_freq = 1, .high_freq = 1, .partial = 1};
    return r->real(r, local ? "rope_local_base_freq" : "rope_theta", 10000, &out->theta);
}

static int shape_dtype(const struct config_reader *r, struct model_config *c)
{
    static const char *const words[] = {"float32", "bfloat16", "float16", NULL};
    static const enum dtype dtype[] = {DT_F32, DT_BF16, DT_F16};
    int d = 1;
    if (ask(r, "torch_dtype") && !keys_of(r)->listing)
        TRY(node_choice(keys_of(r)->node, "torch_dtype", words, &d));
    c->dtype = dtype[d];
    return 0;
}

static int read_keys(struct model_config *c, const struct family *f, struct shape_keys *k, const char *path)
{
    const struct config_reader r = {.path = path,
                                    .at = k,
                                    .sketch = true,
                                    .has = shape_has,
                                    .name = shape_name,
                                    .integer = shape_integer,
                                    .real = shape_real,
                                    .flag = shape_flag,
                                    .text = shape_text,
                                    .item = shape_item,
                                    .number = shape_number,
                                    .tensor = shape_tensor,
                                    .rope = shape_rope,
                                    .dtype = shape_dtype};
    return f->read(c, &r);
}

int config_shape(struct model_config *c, const struct node *n)
{
    struct shape_keys k = {.node = n, .listing = true, .asked = {"model_type"}, .n = 1};
    const char *type = "llama";
    if (!n)
        return 0;
    if (n->kind == NODE_MAP)
        TRY(node_text(n, "model_type", &type));
    const struct family *f = family_find(type);
    if (!f)
        return node_error(node_get(n, "model_type"), "shape: model_type '%s' is of no known family", type);
    *c = (struct model_config){0};
    snprintf(c->family, sizeof c->family, "%s", f->name);
    snprintf(c->architecture, sizeof c->architecture, "%s", type);
    struct model_config listed = *c;
    (void)read_keys(&listed, f, &k, "");
    TRY(node_keys(n, k.asked, "shape"));
    k.listing = false;
    char *where = config_where(n), *path = mem_printf("%s: shape", where);
    int rc = read_keys(c, f, &k, path);
    if (rc < 0)
        c->n_layer = 0;
    free(where);
    free(path);
    return rc;
}
