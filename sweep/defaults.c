#include "sweep/defaults.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What goes with a model_type of config.json. */
struct row {
    const char *model_type, *method, *key, *value;
};
static const struct row known[] = {
    /* the reference's Mistral code lets layer 0 begin a step late (its modify_mistral.py) */
    {"mistral", "h2o-paper", "lag", "1"},
};
enum { N_KNOWN = sizeof known / sizeof *known };

/* Can the parameter be auto? */
static bool has_auto(const struct param *p)
{
    return p->type == PARAM_CHOICE && str_match("*|auto", p->choices);
}

static bool is_auto(const struct kv_spec *s, const struct param *p)
{
    if (!has_auto(p))
        return false;
    const struct param one[2] = {*p, {0}};
    struct str text = {0};
    param_text(one, s->params, &text);
    bool yes = !strcmp(str_c(&text) + strlen(p->name), "=auto");
    str_free(&text);
    return yes;
}

/* The value that the model's file names, or NULL. */
static const char *named(const struct config_model *m, const char *method, const char *key)
{
    for (int i = 0; m && i < m->n_default; i++)
        if (!strcmp(m->defaults[i].method, method) && !strcmp(m->defaults[i].key, key))
            return m->defaults[i].value;
    return NULL;
}

static const struct row *find(const char *model_type, const char *method, const char *key)
{
    for (int i = 0; i < N_KNOWN; i++)
        if (!strcmp(known[i].method, method) && !strcmp(known[i].key, key) &&
            (!model_type || !strcmp(known[i].model_type, model_type)))
            return &known[i];
    return NULL;
}

static int apply(struct kv_spec *s, const struct param *p, const struct config_model *m,
                 const char *architecture)
{
    char first[32];
    const char *value = named(m, kv_method_name(s->method), p->name);
    const struct row *r = find(architecture, kv_method_name(s->method), p->name);
    snprintf(first, sizeof first, "%.*s", (int)strcspn(p->choices, "|"), p->choices);
    return kv_spec_set(s, p->name, value ? value : r ? r->value : first);
}

int defaults_apply(struct kv_spec *s, const struct config_model *m, const char *architecture)
{
    for (const struct param *p = kv_method_info(s->method).params; p && p->name; p++)
        if (is_auto(s, p))
            TRY(apply(s, p, m, architecture));
    return 0;
}

bool defaults_doubt(const struct kv_spec *s, const struct config_model *m, const struct model_file *f,
                    struct defaults_doubt *d)
{
    for (const struct param *p = kv_method_info(s->method).params; p && p->name; p++) {
        const struct row *r = is_auto(s, p) ? find(NULL, kv_method_name(s->method), p->name) : NULL;
        if (!r || named(m, kv_method_name(s->method), p->name) || !model_file_gguf(f) ||
            !model_file_mentions(f, r->model_type))
            continue;
        *d = (struct defaults_doubt){r->model_type, r->key, r->value};
        return true;
    }
    return false;
}

static int read_one(struct config_model *m, const struct kv_method *method, const char *key,
                    const struct node *value)
{
    const struct kv_info info = kv_method_info(method);
    const struct param *p = info.params;
    while (p && p->name && strcmp(p->name, key))
        p++;
    if (!p || !p->name || !has_auto(p))
        return node_error(value, "defaults: %s has no parameter '%s' that can be auto", info.name, key);
    void *scratch = mem_alloc(1, info.params_bytes);
    param_defaults(info.params, scratch);
    int rc =
        value->kind != NODE_SCALAR ? ERR_INPUT : param_set(info.params, scratch, key, value->text, info.name);
    param_free(info.params, scratch);
    free(scratch);
    if (rc < 0 || !strcmp(value->text, "auto"))
        return node_error(value, "defaults: %s: %s must be one of the values that are not auto: %s",
                          info.name, key, p->choices);
    *MEM_PUSH(m->defaults, m->n_default, m->cap_default) =
        (struct config_default){mem_strdup(info.name), mem_strdup(key), mem_strdup(value->text)};
    return 0;
}

int defaults_read(struct config_model *m, const struct node *n)
{
    for (int i = 0; n && i < (n->kind == NODE_MAP ? n->n : 1); i++) {
        const struct kv_method *method = n->kind == NODE_MAP ? kv_method_find(n->key[i]) : NULL;
        const struct node *keys = method ? n->item[i] : NULL;
        if (!method || keys->kind != NODE_MAP)
            return node_error(
                n, "defaults: write {METHOD: {KEY: VALUE}} with a method of `kvsweep list methods`");
        for (int k = 0; k < keys->n; k++)
            TRY(read_one(m, method, keys->key[k], keys->item[k]));
    }
    return 0;
}
