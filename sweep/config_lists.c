/* Models, methods and tasks. Entries of the latter two are "name:key=value,…" or maps with free keys, which
 * the method's or task's own parameter table checks. */
#include "base/err.h"
#include "base/mem.h"
#include "sweep/config_int.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_EXPANDED = 10000 };

/* State of one expansion: parameter i has chosen value pick[i]. */
struct expansion {
    const struct node *map;
    int *pick;
    int n_taken;
    int (*take)(void *ctx, const char *params);
    void *ctx;
};

static int check_value(const struct node *n, const char *key)
{
    if (n->kind != NODE_SCALAR || !*n->text)
        return node_error(n, "%s: a value must be a number or a word", key);
    if (strpbrk(n->text, ",\n"))
        return node_error(n, "%s: '%s' must not hold a comma or a line break", key, n->text);
    return 0;
}

static int expand_from(struct expansion *e, int at, const struct str *head)
{
    const struct node *map = e->map;
    while (at < map->n && !strcmp(map->key[at], "name"))
        at++;
    if (at == map->n) {
        if (++e->n_taken > MAX_EXPANDED)
            return node_error(map, "more than %d combinations", MAX_EXPANDED);
        return e->take(e->ctx, str_c(head));
    }
    const struct node *v = map->item[at];
    bool list = v->kind == NODE_LIST;
    if (list && !v->n)
        return node_error(v, "%s: the list is empty", map->key[at]);
    for (int i = 0; i < (list ? v->n : 1); i++) {
        const struct node *one = list ? v->item[i] : v;
        TRY(check_value(one, map->key[at]));
        struct str next = {0};
        str_printf(&next, "%s%s%s=%s", str_c(head), head->n ? "," : "", map->key[at], one->text);
        int rc = expand_from(e, at + 1, &next);
        str_free(&next);
        TRY(rc);
    }
    return 0;
}

int config_expand(const struct node *map, int (*take)(void *ctx, const char *params), void *ctx)
{
    struct expansion e = {.map = map, .take = take, .ctx = ctx};
    struct str empty = {0};
    return expand_from(&e, 0, &empty);
}

/* Takes index i into a block's list; false: it is there. */
static bool take_index(int **list, int *n, int *cap, int i)
{
    for (int k = 0; k < *n; k++)
        if ((*list)[k] == i)
            return false;
    *MEM_PUSH(*list, *n, *cap) = i;
    return true;
}

static bool is_named(const struct node *list, const char *text)
{
    bool named = !list;
    for (int i = 0; list && list->kind == NODE_LIST && i < list->n; i++)
        named = named || (list->item[i]->kind == NODE_SCALAR && str_match(list->item[i]->text, text));
    return named;
}

/* The model that an entry stands for: one that is there already, by its id, or a new one at the list's end.
 */
static int read_model(struct config *c, const struct node *n, const struct config_source *s, int *at)
{
    struct config_model m = {0};
    for (int i = 0; n->kind == NODE_SCALAR && i < c->n_model; i++)
        if (!strcmp(c->model[i].id, n->text)) {
            *at = i;
            return 0;
        }
    int rc = n->kind == NODE_MAP ? config_model_map(&m, n, c->path, s)
             : n->kind == NODE_SCALAR
                 ? config_model_open(&m, n->text, c->path, s)
                 : node_error(n, "models: an entry is an id or {id, path, template, max_len}");
    if (rc < 0 && n->kind == NODE_SCALAR && !m.where && !strncmp(err_text(), "unknown model", 13))
        rc = node_error(n, "%s", err_text()); /* errors inside its own file name that */
    for (int i = 0; rc == 0 && i < c->n_model; i++)
        if (!strcmp(c->model[i].id, m.id))
            rc = node_error(
                n, "models: '%s' is listed twice (first at %s; by its id alone it can be named again)", m.id,
                c->model[i].where);
    if (rc < 0) {
        config_model_close(&m);
        return rc;
    }
    c->model = mem_grow(c->model, (size_t)c->n_model + 1, sizeof *c->model);
    c->model[c->n_model] = m;
    *at = c->n_model++;
    return 0;
}

int config_models(struct config *c, const struct node *list, const struct node *only, struct config_block *b,
                  const struct config_source *s)
{
    if (!list)
        return 0;
    if (list->kind != NODE_LIST || !list->n)
        return node_error(list, "models: must be a list of ids or of {id, path, template, max_len}");
    for (int i = 0; i < list->n; i++) {
        const struct node *n = list->item[i];
        const char *id = n->kind == NODE_SCALAR ? n->text : NULL;
        int at;
        if (n->kind == NODE_MAP)
            TRY(node_text(n, "id", &id));
        if (id && !is_named(only, id))
            continue;
        TRY(read_model(c, n, s, &at));
        if (!take_index(&b->model, &b->n_model, &b->cap_model, at))
            return node_error(n, "models: '%s' is listed twice", c->model[at].id);
    }
    return 0;
}

struct method_list {
    struct config *c;
    const struct node *node, *only;
    struct config_block *b;
    const char *name;
};

static int take_method(void *ctx, const char *params)
{
    struct method_list *l = ctx;
    struct config *c = l->c;
    struct kv_spec spec = {0};
    /* a map's name may have parameters of its own */
    char *text = mem_printf("%s%s%s", l->name, !*params ? "" : strchr(l->name, ':') ? "," : ":", params);
    if (kv_spec_parse(&spec, text) < 0) {
        free(text);
        return node_error(l->node, "methods: %s", err_text());
    }
    int at = 0, rc = 0;
    while (at < c->n_method && strcmp(c->method[at].spec.text, spec.text))
        at++;
    const bool counts = is_named(l->only, spec.label), is_new = counts && at == c->n_method;
    if (is_new) {
        c->method = mem_grow(c->method, (size_t)c->n_method + 1, sizeof *c->method);
        c->method[c->n_method++] = (struct config_method){spec, text, config_where(l->node)};
    }
    if (counts && !take_index(&l->b->method, &l->b->n_method, &l->b->cap_method, at))
        rc = node_error(l->node, "methods: '%s' is listed twice (first at %s)", spec.label,
                        c->method[at].where);
    if (!is_new) {
        kv_spec_free(&spec);
        free(text);
    }
    return rc;
}

int config_methods(struct config *c, const struct node *list, const struct node *only, struct config_block *b)
{
    if (!list)
        return 0;
    if (list->kind != NODE_LIST || !list->n)
        return node_error(
            list,
            "methods: must be a list such as [full, \"kivi:bits=2\", {name: streaming, ratio: [2, 4]}]");
    for (int i = 0; i < list->n; i++) {
        struct method_list l = {c, list->item[i], only, b, NULL};
        if (l.node->kind == NODE_SCALAR) {
            l.name = l.node->text;
            TRY(take_method(&l, ""));
            continue;
        }
        if (l.node->kind == NODE_MAP)
            TRY(node_text(l.node, "name", &l.name));
        if (!l.name)
            return node_error(l.node, "methods: an entry is \"name:key=value\" or a map with a name");
        TRY(config_expand(l.node, take_method, &l));
    }
    return 0;
}

/* All members of a parameter struct are 8 bytes wide (param.h), so the table tells its size. */
static size_t params_bytes(const struct task_type *type)
{
    size_t bytes = 8;
    for (const struct param *p = type->params; p && p->name; p++)
        if (p->offset + 8 > bytes)
            bytes = p->offset + 8;
    return bytes;
}

void *config_params_new(const struct task_type *type)
{
    void *params = mem_alloc(1, params_bytes(type));
    param_defaults(type->params, params);
    return params;
}

void *config_params_copy(const struct task_type *type, const void *params)
{
    void *copy = mem_alloc(1, params_bytes(type));
    param_copy(type->params, copy, params, params_bytes(type));
    return copy;
}

void config_params_free(const struct task_type *type, void *params)
{
    if (params)
        param_free(type->params, params);
    free(params);
}

int config_params_parse(void **params, const struct task_type *type, const char *text, const char *where)
{
    *params = config_params_new(type);
    int rc = param_parse(type->params, *params, text, where);
    if (rc < 0) {
        config_params_free(type, *params);
        *params = NULL;
    }
    return rc;
}

int config_task_type(const struct task_type **type, const char *name)
{
    *type = task_type_find(name);
    if (*type)
        return 0;
    const char *names[65];
    struct str all = {0};
    int n = 0;
    for (const struct task_type *t; n < 64 && (t = task_type_at(n)); n++) {
        names[n] = t->name;
        str_printf(&all, "%s%s", n ? ", " : "", t->name);
    }
    names[n] = NULL;
    const char *near = str_nearest(name, names);
    char *full = mem_printf("longbench/%s", name); /* the most common slip: the dataset alone */
    for (int i = 0; i < n && !near; i++)
        near = strcmp(names[i], full) ? near : names[i];
    free(full);
    int rc = near ? err_set(ERR_INPUT, "unknown task '%s'; did you mean '%s'? (known: %s)", name, near,
                            str_c(&all))
                  : err_set(ERR_INPUT, "unknown task '%s'; known: %s", name, str_c(&all));
    str_free(&all);
    return rc;
}

/* One parameter of a task: a list becomes "a+b+c". */
static int set_task_param(struct config_task *t, const char *key, const struct node *v)
{
    struct str text = {0};
    int rc = 0;
    for (int i = 0; v->kind == NODE_LIST && i < v->n && rc == 0; i++) {
        rc = check_value(v->item[i], key);
        if (rc == 0)
            str_printf(&text, "%s%s", i ? "+" : "", v->item[i]->text);
    }
    if (v->kind == NODE_MAP || (v->kind == NODE_LIST && !v->n))
        rc = node_error(v, "%s: must be a value or a list of values", key);
    else if (v->kind == NODE_SCALAR)
        str_add(&text, v->text);
    char *where = mem_printf("task %s", t->type->name);
    if (rc == 0 && param_set(t->type->params, t->params, key, str_c(&text), where) < 0)
        rc = node_error(v, "%s", err_text());
    free(where);
    str_free(&text);
    return rc;
}

static int read_task(struct config *c, const struct node *n)
{
    c->task = mem_grow(c->task, (size_t)c->n_task + 1, sizeof *c->task);
    struct config_task *t = &c->task[c->n_task];
    *t = (struct config_task){0};
    const char *name = n->kind == NODE_SCALAR ? n->text : NULL, *id = NULL;
    if (n->kind == NODE_MAP) {
        TRY(node_text(n, "name", &name));
        TRY(node_text(n, "id", &id));
    }
    if (!name)
        return node_error(n, "tasks: an entry is a name or a map with a name");
    const char *colon = n->kind == NODE_SCALAR ? strchr(name, ':') : NULL;
    char *bare = colon ? mem_strndup(name, (size_t)(colon - name)) : mem_strdup(name);
    int rc = config_task_type(&t->type, bare);
    if (rc == 0)
        rc = config_params_parse(&t->params, t->type, colon ? colon + 1 : NULL, "parameters");
    if (rc < 0)
        rc = node_error(n->kind == NODE_MAP ? node_get(n, "name") : n, "tasks: %s", err_text());
    free(bare);
    TRY(rc);
    t->id = mem_strdup(id ? id : t->type->name);
    t->where = config_where(n);
    t->seeded = n->kind == NODE_MAP && node_get(n, "seed");
    c->n_task++;
    for (int i = 0; n->kind == NODE_MAP && i < n->n; i++)
        if (strcmp(n->key[i], "name") && strcmp(n->key[i], "id"))
            TRY(set_task_param(t, n->key[i], n->item[i]));
    for (int i = 0; i < c->n_task - 1; i++)
        if (!strcmp(c->task[i].id, t->id))
            return node_error(
                n, "tasks: '%s' is listed twice (first at %s); give one of them its own id: id: NAME", t->id,
                c->task[i].where);
    return 0;
}

int config_tasks(struct config *c, const struct node *list)
{
    if (!list)
        return 0;
    if (list->kind != NODE_LIST || !list->n)
        return node_error(list,
                          "tasks: must be a list such as [passkey, {name: longbench/qasper, limit: 50}]");
    for (int i = 0; i < list->n; i++)
        TRY(read_task(c, list->item[i]));
    return 0;
}
