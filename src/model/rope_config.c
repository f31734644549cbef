#include "model/rope_config.h"

#include "base/err.h"
#include "model/file_int.h"
#include "model/rope.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <string.h>

struct reader {
    const char *path;
    const json_t *root;
    const char *name; /* of the object that counts: "rope_scaling", "rope_parameters"; NULL: there is none */
    const json_t *used;            /* that object */
    const struct layer_rope *type; /* of whose layers; NULL: of all */
    json_t *merged;                /* owned: an object that stands in no file */
    struct str *notes;
};

/* Where layers of a type have their theta when no object of theirs has it, as in Gemma3TextConfig. */
struct layer_rope {
    const char *type, *theta_key;
    double theta;
};
static const struct layer_rope layer_ropes[] = {
    {"full_attention", "rope_theta", 1e6},
    {"sliding_attention", "rope_local_base_freq", 1e4},
};

static bool given(const json_t *v)
{
    return v && !json_is_null(v);
}

/* A number above 0; `def` NAN: required. */
static int number(const struct reader *r, const json_t *v, const char *key, double def, double *out)
{
    *out = def;
    if (!v && !isnan(def))
        return 0;
    *out = json_number_value(v);
    if (!json_is_number(v) || !(*out > 0) || !isfinite(*out))
        return err_set(ERR_INPUT, "%s: '%s' %s", r->path, key,
                       v ? "must be a number above 0" : "is missing (rope scaling needs it)");
    return 0;
}

static bool known_kind(const char *kind)
{
    return !strcmp(kind, "default") || !strcmp(kind, "linear") || !strcmp(kind, "llama3") ||
           !strcmp(kind, "yarn");
}

/* The kind under both of its names, whether it counts or not. */
static int check_kinds(const struct reader *r, const json_t *object, const char *name)
{
    static const char *const keys[] = {"rope_type", "type"};
    char shown[80];
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        const json_t *v = json_object_get(object, keys[i]);
        const char *kind = json_string_value(v);
        if (given(v) && !kind)
            return err_set(ERR_INPUT, "%s: '%s' in '%s' must be a string", r->path, keys[i], name);
        if (kind && !known_kind(kind))
            return err_set(
                ERR_INPUT,
                "%s: %s.%s: rope scaling '%s' is not supported (default, linear, llama3, yarn are)", r->path,
                name, keys[i], file_shown(shown, kind));
    }
    return 0;
}

static int check_object(const struct reader *r, const char *name)
{
    const json_t *object = json_object_get(r->root, name), *v;
    const char *key;
    char shown[80];
    if (given(object) && !json_is_object(object))
        return err_set(ERR_INPUT, "%s: '%s' must be an object", r->path, name);
    TRY(check_kinds(r, object, name));
    json_object_foreach((json_t *)(uintptr_t)object, key, v)
    {
        if (!json_is_object(v))
            continue;
        TRY(check_kinds(r, v, file_shown(shown, key)));
        if (r->type)
            continue;
        return err_set(ERR_INPUT,
                       "%s: '%s' has one object per layer type ('%s'), which is not supported for this "
                       "model_type",
                       r->path, name, shown);
    }
    return 0;
}

/* Of layers of a type: their object of `rope_parameters`, into which `rope_scaling` goes for those that see
 * everything (configuration_gemma3.py, convert_rope_params_to_dict). */
static int choose_typed(struct reader *r)
{
    const json_t *all = json_object_get(r->root, "rope_parameters"),
                 *own = json_object_get(all, r->type->type);
    const json_t *scaling = json_object_get(r->root, "rope_scaling");
    if (json_object_size(all) && !json_is_object(json_object_get(all, layer_ropes[0].type)) &&
        !json_is_object(json_object_get(all, layer_ropes[1].type)))
        return err_set(ERR_INPUT,
                       "%s: 'rope_parameters' needs an object '%s' and one '%s' for this model_type", r->path,
                       layer_ropes[0].type, layer_ropes[1].type);
    r->name = r->type->type;
    r->used = json_is_object(own) ? own : NULL;
    if (r->type != &layer_ropes[0] || !json_object_size(scaling))
        return 0;
    r->merged = r->used ? json_copy((json_t *)(uintptr_t)r->used) : json_pack("{ss}", "rope_type", "default");
    json_object_update(r->merged, (json_t *)(uintptr_t)scaling);
    r->used = r->merged;
    return 0;
}

/* Which of the two objects counts. */
static int choose(struct reader *r)
{
    static const char *const names[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++)
        TRY(check_object(r, names[i]));
    if (r->type)
        return choose_typed(r);
    for (int i = 1; i >= 0; i--) {
        const json_t *v = json_object_get(r->root, names[i]);
        if (json_object_size(v)) {
            r->name = names[i];
            r->used = v;
        }
    }
    return 0;
}

static void tell_loser(const struct reader *r, const struct rope_setting *c)
{
    const json_t *other = json_object_get(r->root, "rope_parameters");
    if (!r->type && r->used && r->used != other && json_object_size(other) && !json_equal(r->used, other))
        str_printf(r->notes,
                   "%s: 'rope_scaling' counts and 'rope_parameters' beside it does not, as in transformers "
                   "(rope_theta is %g)\n",
                   r->path, c->theta);
}

/* A number that may stand inside the object or, as `outside`, at the top level: the inner one counts. */
static int either(const struct reader *r, const char *key, const char *outside, double def, double *out)
{
    const json_t *inner = json_object_get(r->used, key), *outer = json_object_get(r->root, outside);
    double lost = 0;
    TRY(number(r, inner ? inner : given(outer) ? outer : NULL, inner ? key : outside, def, out));
    if (inner && given(outer))
        TRY(number(r, outer, outside, def, &lost));
    if (inner && given(outer) && lost != *out)
        str_printf(r->notes, "%s: '%s' %g in '%s' counts and %g at the top level does not\n", r->path, key,
                   *out, r->name, lost);
    return 0;
}

static int read_kind(const struct reader *r, const char **kind)
{
    const json_t *new = json_object_get(r->used, "rope_type"), *old = json_object_get(r->used, "type");
    const char *n = json_string_value(new), *o = json_string_value(old);
    if (new && !n)
        return err_set(ERR_INPUT, "%s: 'rope_type' in '%s' must be a string", r->path, r->name);
    *kind = n ? n : o ? o : "default";
    if (n && o && strcmp(n, o) != 0)
        str_printf(r->notes, "%s: 'rope_type' '%s' in '%s' counts and 'type' '%s' does not\n", r->path, n,
                   r->name, o);
    if (!n && !o && json_object_get(r->used, "factor"))
        str_printf(r->notes, "%s: 'factor' in '%s' does not count: no 'rope_type' says how to scale\n",
                   r->path, r->name);
    return 0;
}

/* Here it is the top level that counts: standardize_rope_params runs again when the frequencies are computed,
 * and by then the key is an attribute of the configuration. */
static int read_original(const struct reader *r, int64_t max_len, struct rope_setting *c)
{
    static const char key[] = "original_max_position_embeddings";
    const json_t *inner = json_object_get(r->used, key), *outer = json_object_get(r->root, key);
    double len;
    TRY(number(r, given(outer) ? outer : inner, key, (double)max_len, &len));
    if (given(outer) && inner && json_number_value(inner) != len)
        str_printf(r->notes, "%s: '%s' %g at the top level counts and %g in '%s' does not\n", r->path, key,
                   len, json_number_value(inner), r->name);
    if (len > 1e12)
        return err_set(ERR_INPUT, "%s: '%s' is %g; it must be a length", r->path, key, len);
    c->original_len = (int64_t)len;
    return 0;
}

static int read_llama3(const struct reader *r, int64_t max_len, struct rope_setting *c)
{
    TRY(number(r, json_object_get(r->used, "factor"), "factor", NAN, &c->factor));
    TRY(number(r, json_object_get(r->used, "low_freq_factor"), "low_freq_factor", NAN, &c->low_freq));
    TRY(number(r, json_object_get(r->used, "high_freq_factor"), "high_freq_factor", NAN, &c->high_freq));
    TRY(read_original(r, max_len, c));
    if (c->high_freq <= c->low_freq)
        return err_set(ERR_INPUT,
                       "%s: llama3 rope scaling needs high_freq_factor above low_freq_factor and a real "
                       "original_max_position_embeddings",
                       r->path);
    return 0;
}

/* A number that may be null, which is as if it were absent. */
static int maybe(const struct reader *r, const char *key, double def, double *out)
{
    const json_t *v = json_object_get(r->used, key);
    return number(r, given(v) ? v : NULL, key, def, out);
}

/* _compute_yarn_parameters: a factor of null is the ratio of the two lengths; attention_factor goes before
 * the ratio of mscale and mscale_all_dim, which count as a pair alone. */
static int read_yarn(const struct reader *r, int64_t max_len, struct rope_setting *c)
{
    const json_t *truncate = json_object_get(r->used, "truncate");
    double all, part;
    if (!json_object_get(r->used, "factor"))
        return number(r, NULL, "factor", NAN, &c->factor);
    TRY(read_original(r, max_len, c));
    TRY(maybe(r, "factor", (double)max_len / (double)c->original_len, &c->factor));
    TRY(maybe(r, "beta_fast", 32, &c->yarn.fast));
    TRY(maybe(r, "beta_slow", 1, &c->yarn.slow));
    TRY(maybe(r, "mscale", 0, &part));
    TRY(maybe(r, "mscale_all_dim", 0, &all));
    const bool both = part > 0 && all > 0;
    c->yarn.attention = both ? rope_yarn_scale(c->factor, part) / rope_yarn_scale(c->factor, all)
                             : rope_yarn_scale(c->factor, 1);
    TRY(maybe(r, "attention_factor", c->yarn.attention, &c->yarn.attention));
    c->yarn.whole = !truncate || json_is_true(truncate);
    if (truncate && !json_is_boolean(truncate))
        return err_set(ERR_INPUT, "%s: 'truncate' in '%s' must be true or false", r->path, r->name);
    return 0;
}

static int read_setting(struct reader *r, struct rope_setting *c, int64_t max_len)
{
    const struct layer_rope *t = r->type;
    const char *kind = NULL;
    *c = (struct rope_setting){.scaling = ROPE_PLAIN, .factor = 1, .low_freq = 1, .high_freq = 1};
    TRY(choose(r));
    TRY(either(r, "rope_theta", t ? t->theta_key : "rope_theta", t ? t->theta : 10000, &c->theta));
    tell_loser(r, c);
    TRY(either(r, "partial_rotary_factor", "partial_rotary_factor", 1, &c->partial));
    TRY(read_kind(r, &kind));
    if (!strcmp(kind, "default"))
        return 0;
    if (!strcmp(kind, "linear")) {
        c->scaling = ROPE_LINEAR;
        return number(r, json_object_get(r->used, "factor"), "factor", NAN, &c->factor);
    }
    c->scaling = !strcmp(kind, "yarn") ? ROPE_YARN : ROPE_LLAMA3;
    return c->scaling == ROPE_YARN ? read_yarn(r, max_len, c) : read_llama3(r, max_len, c);
}

int rope_config_read(struct rope_setting *c, const json_t *root, const char *path, int64_t max_len,
                     const char *layer_type, struct str *notes)
{
    struct reader r = {.path = path, .root = root, .notes = notes};
    for (size_t i = 0; layer_type && i < sizeof layer_ropes / sizeof *layer_ropes; i++)
        r.type = strcmp(layer_type, layer_ropes[i].type) ? r.type : &layer_ropes[i];
    int rc = read_setting(&r, c, max_len);
    json_decref(r.merged);
    return rc;
}
