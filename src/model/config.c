/* config.json of Hugging Face folders -> struct model_config, by way of its family. */
#include "base/err.h"
#include "base/mem.h"
#include "base/str.h"
#include "model/file_int.h"
#include "model/reader.h"
#include "model/rope_config.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

struct reader {
    const char *path; /* of config.json */
    const json_t *root;
    const json_t *outer; /* the whole file, where root is an object in it; else NULL */
    struct str *notes;
};

static bool given(const json_t *v)
{
    return v && !json_is_null(v);
}

/* The value of a key, which may lead into objects: "ssm_cfg.d_state". */
static const json_t *value_of(const json_t *root, const char *key)
{
    const char *dot = strchr(key, '.');
    if (!dot)
        return json_object_get(root, key);
    char *head = mem_strndup(key, (size_t)(dot - key));
    const json_t *inner = json_object_get(root, head);
    free(head);
    return value_of(inner, dot + 1);
}

/* A whole number in [min, max]; `def` < 0: required. */
static int get_int(const struct reader *r, const char *key, int64_t def, int64_t min, int64_t max,
                   int64_t *out)
{
    const json_t *v = value_of(r->root, key);
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
    const json_t *v = value_of(obj, key);
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
    const json_t *v = value_of(r->root, key);
    *out = given(v) ? json_is_true(v) : def;
    if (given(v) && !json_is_boolean(v))
        return err_set(ERR_INPUT, "%s: '%s' must be true or false", r->path, key);
    return 0;
}

static int read_dtype(const struct reader *r, struct model_config *c)
{
    const bool inside =
        given(json_object_get(r->root, "dtype")) || given(json_object_get(r->root, "torch_dtype"));
    const json_t *at = inside || !r->outer ? r->root : r->outer;
    const json_t *v = json_object_get(at, "dtype"), *old = json_object_get(at, "torch_dtype");
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

/* ---- as a family's reader ---- */

static const struct reader *conf_of(const struct config_reader *r)
{
    return r->at;
}

static enum reader_has conf_has(const struct config_reader *r, const char *key)
{
    const json_t *v = value_of(conf_of(r)->root, key);
    return !v ? READER_ABSENT : json_is_null(v) ? READER_NULL : READER_GIVEN;
}

static const char *conf_name(const struct config_reader *r, const char *key)
{
    (void)r;
    return key;
}

static int conf_integer(const struct config_reader *r, const char *key, int64_t def, int64_t min, int64_t max,
                        int64_t *out)
{
    return get_int(conf_of(r), key, def, min, max, out);
}

static int conf_real_number(const struct config_reader *r, const char *key, double def, double *out)
{
    return number_in(conf_of(r), conf_of(r)->root, key, def, out);
}

static int conf_flag(const struct config_reader *r, const char *key, bool def, bool *out)
{
    return get_bool(conf_of(r), key, def, out);
}

static int conf_text(const struct config_reader *r, const char *key, const char **out)
{
    *out = json_string_value(value_of(conf_of(r)->root, key));
    return 0;
}

/* What is no string is shown as an empty one: nobody knows it. */
static int conf_item(const struct config_reader *r, const char *key, int64_t i, const char **out)
{
    const json_t *v = json_array_get(value_of(conf_of(r)->root, key), (size_t)i);
    *out = v && !json_is_string(v) ? "" : json_string_value(v);
    return 0;
}

/* Infinity as transformers 5 writes it: {"__float__": "Infinity"}. */
static bool endless(const json_t *v)
{
    const char *s = json_string_value(json_object_get(v, "__float__"));
    return s && !strcmp(s, "Infinity");
}

static int conf_number(const struct config_reader *r, const char *key, int64_t i, double def, double *out)
{
    const json_t *list = value_of(conf_of(r)->root, key), *v = json_array_get(list, (size_t)i);
    *out = !given(list) ? def : endless(v) ? 1.7e308 : json_number_value(v);
    if (given(list) && !endless(v) && !json_is_number(v))
        return err_set(ERR_INPUT, "%s: item %" PRId64 " of '%s' must be a number", r->path, i, key);
    return 0;
}

static bool conf_tensor(const struct config_reader *r, const char *name)
{
    (void)r, (void)name;
    return false;
}

static int conf_rope(const struct config_reader *r, const struct model_config *c, const char *layer_type,
                     struct rope_setting *out)
{
    return rope_config_read(out, conf_of(r)->root, r->path, c->max_len, layer_type, conf_of(r)->notes);
}

static int conf_dtype(const struct config_reader *r, struct model_config *c)
{
    return read_dtype(conf_of(r), c);
}

/* A model of several media keeps the text model's keys in an object of their own. */
static void go_inside(struct reader *r, const struct family *f)
{
    const json_t *inner = f->inner ? json_object_get(r->root, f->inner) : NULL;
    if (!json_is_object(inner))
        return;
    r->outer = r->root;
    r->root = inner;
    str_printf(r->notes, "%s: the text model in '%s' is computed; what sees images is not read\n", r->path,
               f->inner);
}

/* model_type, or what a layout without that key is known by. */
static const char *type_of(const struct reader *r, const struct config_reader *own)
{
    const char *type = json_string_value(json_object_get(r->root, "model_type"));
    const struct family *f;
    for (int i = 0; !type && (f = family_at(i)); i++)
        type = f->claims ? f->claims(own) : NULL;
    return type;
}

static int read_root(struct reader *r, struct model_config *c)
{
    const struct config_reader own = {.path = r->path,
                                      .at = r,
                                      .hf = true,
                                      .has = conf_has,
                                      .name = conf_name,
                                      .integer = conf_integer,
                                      .real = conf_real_number,
                                      .flag = conf_flag,
                                      .text = conf_text,
                                      .item = conf_item,
                                      .number = conf_number,
                                      .tensor = conf_tensor,
                                      .rope = conf_rope,
                                      .dtype = conf_dtype};
    const char *type = type_of(r, &own);
    char shown[80];
    if (!type)
        return err_set(ERR_INPUT, "%s: key 'model_type' is missing or no string", r->path);
    const struct family *fam = family_find(type);
    if (!fam) {
        struct str all = {0};
        int rc = err_set(ERR_INPUT, "%s: model_type '%s' is not supported (%s are)", r->path,
                         file_shown(shown, type), family_types(&all));
        str_free(&all);
        return rc;
    }
    strncpy(c->family, fam->name, sizeof c->family - 1);
    strncpy(c->architecture, type, sizeof c->architecture - 1);
    go_inside(r, fam);
    return fam->read(c, &own);
}

int config_read(struct model_config *cfg, const char *dir, struct str *notes)
{
    *cfg = (struct model_config){0};
    char *path = file_join(dir, "config.json");
    json_t *root;
    int rc = file_json(path, &root);
    struct reader r = {.path = path, .root = root, .notes = notes};
    if (rc == 0)
        rc = read_root(&r, cfg);
    json_decref(root);
    free(path);
    return rc;
}
