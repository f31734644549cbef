/* Parameters of model families in a configuration: `params` of a model, and what rules set. Which family a
 * model is of is known when its files are opened; here some family must take each of them. */
#include "base/err.h"
#include "model/model.h"
#include "sweep/config_int.h"

#include <string.h>

/* The names of all families' parameters. */
static const char *all_names(const char *near_to, const char **nearest, struct str *all)
{
    const char *name[64];
    const struct family *f;
    int n = 0;
    for (int i = 0; (f = family_at(i)); i++)
        for (const struct param *p = f->params; p && p->name && n < 63; p++) {
            name[n++] = p->name;
            str_printf(all, "%s%s", all->n ? ", " : "", p->name);
        }
    name[n] = NULL;
    *nearest = str_nearest(near_to, name);
    return str_c(all);
}

static int unknown(const struct node *value, const char *key)
{
    struct str all = {0};
    const char *near, *names = all_names(key, &near, &all);
    int rc = node_error(value, "params: no family has a parameter '%s'%s%s%s; known: %s", key,
                        near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "", names);
    str_free(&all);
    return rc;
}

int config_family_param(const char *key, const struct node *value, struct str *out)
{
    struct shape_options scratch = {0};
    const struct family *f = family_of_param(key);
    if (!f)
        return unknown(value, key);
    if (value->kind != NODE_SCALAR)
        return node_error(value, "params: %s: must be a word or a number", key);
    if (param_set(f->params, &scratch, key, value->text, f->name) < 0)
        return node_error(value, "params: %s", err_text());
    str_printf(out, "%s%s=%s", out->n ? "," : "", key, value->text);
    return 0;
}

int config_family_params(const struct node *map, struct str *out)
{
    if (map->kind != NODE_MAP)
        return node_error(map, "params: write {NAME: VALUE} with parameters of the model's family");
    for (int i = 0; i < map->n; i++)
        TRY(config_family_param(map->key[i], map->item[i], out));
    return 0;
}
