/* `grids`: blocks of models, methods and tasks, whose union is the grid. */
#include "base/err.h"
#include "base/mem.h"
#include "sweep/config_int.h"

#include <stdlib.h>
#include <string.h>

static bool holds(const int *list, int n, int i)
{
    for (int k = 0; k < n; k++)
        if (list[k] == i)
            return true;
    return false;
}

bool config_in_grid(const struct config *c, int model, int method, int task)
{
    for (int i = 0; i < c->n_block; i++) {
        const struct config_block *b = &c->block[i];
        if (holds(b->model, b->n_model, model) && holds(b->method, b->n_method, method) &&
            (task < 0 || !b->n_task || holds(b->task, b->n_task, task)))
            return true;
    }
    return false;
}

void config_block_free(struct config_block *b)
{
    free(b->model);
    free(b->method);
    free(b->task);
    *b = (struct config_block){0};
}

static bool tasks_chosen(const struct config_source *s)
{
    for (int i = 0; i < s->n_set; i++)
        if (!strncmp(s->set[i], "tasks=", 6))
            return true;
    return false;
}

/* Tasks of a block are named: ids, names and patterns of those that the configuration lists; --set may have
 * left some out. *none: it has left out all of the block's. */
static int read_tasks(const struct config *c, const struct node *list, const struct config_source *s,
                      struct config_block *b, bool *none)
{
    *none = false;
    if (!list)
        return 0;
    if (list->kind != NODE_LIST || !list->n)
        return node_error(list,
                          "tasks: in a block, a list of names from `tasks`, such as [passkey, longbench/*]");
    for (int i = 0; i < list->n; i++) {
        const struct node *n = list->item[i];
        bool any = false;
        if (n->kind != NODE_SCALAR)
            return node_error(
                n, "tasks: a block names tasks; they are described in the `tasks` of the top level");
        for (int t = 0; t < c->n_task; t++) {
            if (!str_match(n->text, c->task[t].id) && !str_match(n->text, c->task[t].type->name))
                continue;
            any = true;
            if (!holds(b->task, b->n_task, t))
                *MEM_PUSH(b->task, b->n_task, b->cap_task) = t;
        }
        if (!any && !tasks_chosen(s))
            return node_error(n, "tasks: '%s' is none of the tasks of this configuration", n->text);
    }
    *none = !b->n_task;
    return 0;
}

static int read_block(struct config *c, const struct node *n, const struct node *models,
                      const struct node *methods, const struct config_source *s)
{
    static const char *const keys[] = {"models", "methods", "tasks", NULL};
    struct config_block b = {0};
    bool none = false;
    int rc = node_keys(n, keys, "grids");
    if (rc == 0 && (!node_get(n, "models") || !node_get(n, "methods")))
        rc = node_error(n, "grids: a block is {models: [...], methods: [...]}, and tasks if not all");
    if (rc == 0)
        rc = read_tasks(c, node_get(n, "tasks"), s, &b, &none);
    if (rc == 0 && !none)
        rc = config_methods(c, node_get(n, "methods"), methods, &b);
    if (rc == 0 && b.n_method) /* a model of no method need not be there */
        rc = config_models(c, node_get(n, "models"), models, &b, s);
    if (rc < 0 || !b.n_model)
        config_block_free(&b);
    else
        *MEM_PUSH(c->block, c->n_block, c->cap_block) = b;
    return rc;
}

/* Beside `grids`, `models` and `methods` choose from it: each entry must name something of it. */
static int check_choice(const struct node *list, const char *key)
{
    if (list && (list->kind != NODE_LIST || !list->n))
        return node_error(list, "%s: beside grids, a list of names or patterns that choose from them", key);
    for (int i = 0; list && i < list->n; i++)
        if (list->item[i]->kind != NODE_SCALAR)
            return node_error(list->item[i],
                              "%s: beside grids, an entry is a name or a pattern that chooses from them",
                              key);
    return 0;
}

static int check_chosen(const struct config *c, const struct node *models, const struct node *methods)
{
    for (int i = 0; models && i < models->n; i++) {
        bool hit = false;
        for (int k = 0; k < c->n_model; k++)
            hit = hit || str_match(models->item[i]->text, c->model[k].id);
        if (!hit)
            return node_error(models->item[i], "models: '%s' is no model of the grids",
                              models->item[i]->text);
    }
    for (int i = 0; methods && i < methods->n; i++) {
        bool hit = false;
        for (int k = 0; k < c->n_method; k++)
            hit = hit || str_match(methods->item[i]->text, c->method[k].spec.label);
        if (!hit)
            return node_error(methods->item[i], "methods: '%s' is no method of the grids%s",
                              methods->item[i]->text, models ? ", or of none of these models" : "");
    }
    return 0;
}

static int check_tasks(const struct config *c, const struct node *list)
{
    for (int t = 0; t < c->n_task; t++) {
        bool hit = false;
        for (int i = 0; i < c->n_block && !hit; i++)
            hit = !c->block[i].n_task || holds(c->block[i].task, c->block[i].n_task, t);
        if (!hit)
            return node_error(list, "grids: no block has task '%s'", c->task[t].id);
    }
    return 0;
}

static int read_blocks(struct config *c, const struct node *root, const struct node *list,
                       const struct config_source *s)
{
    const struct node *models = node_get(root, "models"), *methods = node_get(root, "methods");
    TRY(check_choice(models, "models"));
    TRY(check_choice(methods, "methods"));
    if (list->kind != NODE_LIST || !list->n)
        return node_error(list, "grids: must be a list of {models: [...], methods: [...], tasks: [...]}");
    for (int i = 0; i < list->n; i++)
        TRY(read_block(c, list->item[i], models, methods, s));
    TRY(check_chosen(c, models, methods));
    return models || methods ? 0 : check_tasks(c, list); /* what was not chosen may have had a task alone */
}

int config_grids(struct config *c, const struct node *root, const struct config_source *s)
{
    const struct node *list = node_get(root, "grids");
    if (list)
        return read_blocks(c, root, list, s);
    struct config_block *b = MEM_PUSH(c->block, c->n_block, c->cap_block);
    *b = (struct config_block){0};
    TRY(config_models(c, node_get(root, "models"), NULL, b, s));
    return config_methods(c, node_get(root, "methods"), NULL, b);
}
