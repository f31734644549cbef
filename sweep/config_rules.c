/* Rules (`overrides`): what they set, and whom they are about. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "sweep/config_int.h"

#include <stdlib.h>
#include <string.h>

static int method_param(const struct node *set, int i, struct str *out)
{
    const char *text = NULL;
    TRY(node_text(set, set->key[i], &text));
    if (strpbrk(text, ",\n"))
        return node_error(set->item[i], "overrides: %s: '%s' must not hold a comma or a line break",
                          set->key[i], text);
    str_printf(out, "%s%s=%s", out->n ? "," : "", set->key[i], text);
    return 0;
}

/* Everything under `set` but the RoPE factor and the parameters of families is a parameter of the methods
 * that the rule is about. */
static int read_set(struct config_override *o, const struct node *set)
{
    struct str params = {0}, family = {0};
    int rc = 0;
    if (set->kind != NODE_MAP || !set->n)
        return node_error(
            set, "overrides: set must be a map of rope_theta_factor or parameters of methods or families");
    TRY(node_real(set, "rope_theta_factor", 1e-3, 1e6, &o->rope_theta_factor));
    for (int i = 0; i < set->n && rc == 0; i++)
        if (strcmp(set->key[i], "rope_theta_factor") != 0)
            rc = family_of_param(set->key[i]) ? config_family_param(set->key[i], set->item[i], &family)
                                              : method_param(set, i, &params);
    o->params = params.n ? mem_strdup(str_c(&params)) : NULL;
    o->family = family.n ? mem_strdup(str_c(&family)) : NULL;
    str_free(&params);
    str_free(&family);
    return rc;
}

/* Whether the pattern, with or without its '!', names this. */
static bool names(const char *pattern, const char *text)
{
    return str_match(pattern + (*pattern == '!'), text);
}

/* A method that the program has. Patterns may be about its parameters too ("kivi:bits=2"). */
static bool names_method(const char *pattern, const struct kv_method *m)
{
    char *name = mem_strndup(pattern, strcspn(pattern, ":"));
    bool is = names(name, kv_method_name(m));
    free(name);
    return is;
}

static int check_params(const struct kv_method *m, const char *params)
{
    const struct kv_info k = kv_method_info(m);
    struct str own = {0}; /* shared keys are read with the whole method */
    for (const char *at = params; *at; at += strcspn(at, ","), at += *at == ',')
        if (!kv_spec_shared_key(at)) {
            str_add(&own, own.n ? "," : "");
            str_addn(&own, at, strcspn(at, ","));
        }
    void *p = mem_alloc(1, k.params_bytes + 1);
    param_defaults(k.params, p);
    char *where = mem_printf("method %s", k.name);
    int rc = param_parse(k.params, p, str_c(&own), where);
    free(where);
    param_free(k.params, p);
    free(p);
    str_free(&own);
    return rc;
}

/* Methods that the rule may be about; one that is about all but "kivi:bits=2" may well be about kivi. */
static bool may_concern(const struct config_override *o, const struct kv_method *m)
{
    if (!o->method)
        return true;
    if (*o->method == '!')
        return strchr(o->method, ':') || !names_method(o->method, m);
    return names_method(o->method, m);
}

/* Keys and values, also where no method of this file is meant: one of the program's must take them all. */
static int check_set(const struct config_override *o, const struct node *set)
{
    int rc = 0, n_tried = 0;
    for (int i = 0; o->params && kv_method_at(i); i++) {
        if (!may_concern(o, kv_method_at(i)))
            continue;
        n_tried++;
        rc = check_params(kv_method_at(i), o->params);
        if (rc == 0)
            return 0;
    }
    return rc == 0 ? 0
           : n_tried == 1
               ? node_error(set, "overrides: %s", err_text())
               : node_error(set, "overrides: no method of the rule takes %s; see kvsweep list methods",
                            o->params);
}

/* What a pattern can name: in this file, and elsewhere. */
struct known {
    struct str here;
    bool hit_here, hit_elsewhere;
};

static void know(struct known *k, const char *pattern, const char *name)
{
    str_printf(&k->here, "%s%s", k->here.n ? ", " : "", name);
    k->hit_here = k->hit_here || names(pattern, name);
}

static void know_models(struct known *k, const struct config *c, const char *pattern,
                        const struct config_source *s)
{
    for (int i = 0; i < c->n_model; i++)
        know(k, pattern, c->model[i].id);
    char **ids = k->hit_here ? NULL : config_model_ids(c->path, s);
    for (char **p = ids; p && *p; p++) {
        k->hit_elsewhere = k->hit_elsewhere || names(pattern, *p);
        free(*p);
    }
    free(ids);
}

static void know_methods(struct known *k, const struct config *c, const char *pattern)
{
    for (int i = 0; i < c->n_method; i++) {
        know(k, pattern, c->method[i].spec.label);
        k->hit_here = k->hit_here || names(pattern, kv_method_name(c->method[i].spec.method));
    }
    for (int i = 0; kv_method_at(i); i++)
        k->hit_elsewhere = k->hit_elsewhere || names_method(pattern, kv_method_at(i));
}

static void know_tasks(struct known *k, const struct config *c, const char *pattern)
{
    for (int i = 0; i < c->n_task; i++)
        know(k, pattern, c->task[i].type->name);
    for (int i = 0; task_type_at(i); i++)
        k->hit_elsewhere = k->hit_elsewhere || names(pattern, task_type_at(i)->name);
}

/* Whether --set has chosen other models, methods or tasks than the file that the rules were written for. */
static bool chosen_anew(const struct config_source *s, const char *list)
{
    for (int i = 0; i < s->n_set; i++)
        if (!strncmp(s->set[i], list, strlen(list)))
            return true;
    return false;
}

/* A pattern that names nothing is most likely a slip. It stands where the program knows what is meant, and
 * the file only does not have it now, and where --set chose the list (`chosen`); that is said, unless there
 * is nothing to wonder about: the rule is about all others, or --set left out something known. */
static int judge(struct known *k, const char *what, const char *pattern, const struct node *when, bool chosen)
{
    const struct node *n = node_get(when, what);
    int rc = 0;
    bool hit = k->hit_here || !k->here.n; /* a list that is not there has nothing to compare with */
    if (!hit && !k->hit_elsewhere && !chosen)
        rc = node_error(n, "overrides: when: %s: '%s' is none of the %ss here: %s", what, pattern, what,
                        str_c(&k->here));
    else if (!hit && *pattern != '!' && !(k->hit_elsewhere && chosen)) {
        char *at = config_where(n);
        log_warn("%s: overrides: %s '%s' is not in this sweep: the rule does nothing", at, what, pattern);
        free(at);
    }
    str_free(&k->here);
    return rc;
}

static int check_when(const struct config *c, const struct config_override *o, const struct node *when,
                      const struct config_source *s)
{
    struct known model = {0}, method = {0}, task = {0};
    int rc = 0;
    if (o->model) {
        know_models(&model, c, o->model, s);
        rc = judge(&model, "model", o->model, when, chosen_anew(s, "models"));
    }
    if (o->method && rc == 0) {
        know_methods(&method, c, o->method);
        rc = judge(&method, "method", o->method, when, chosen_anew(s, "methods"));
    }
    if (o->task && rc == 0) {
        know_tasks(&task, c, o->task);
        rc = judge(&task, "task", o->task, when, chosen_anew(s, "tasks"));
    }
    return rc;
}

static int read_override(struct config *c, const struct node *n, const struct config_source *s)
{
    static const char *const keys[] = {"when", "set", NULL}, *const whens[] = {"model", "task", "method",
                                                                               NULL};
    struct config_override *o = &c->override[c->n_override++];
    *o = (struct config_override){.where = config_where(n)};
    TRY(node_keys(n, keys, "overrides"));
    const struct node *when = node_get(n, "when"), *set = node_get(n, "set");
    if (!set)
        return node_error(n, "overrides: needs set");
    TRY(read_set(o, set));
    if (!when)
        return check_set(o, set);
    TRY(node_keys(when, whens, "overrides: when"));
    const char *model = NULL, *task = NULL, *method = NULL;
    TRY(node_text(when, "model", &model));
    TRY(node_text(when, "task", &task));
    TRY(node_text(when, "method", &method));
    o->model = model ? mem_strdup(model) : NULL;
    o->task = task ? mem_strdup(task) : NULL;
    o->method = method ? mem_strdup(method) : NULL;
    TRY(check_set(o, set));
    return check_when(c, o, when, s);
}

int config_rules(struct config *c, const struct node *list, const struct config_source *s)
{
    if (!list)
        return 0;
    if (list->kind != NODE_LIST)
        return node_error(
            list, "overrides: must be a list of {when: {model, task, method}, set: {rope_theta_factor, …}}");
    c->override = mem_alloc((size_t)list->n, sizeof *c->override);
    for (int i = 0; i < list->n; i++)
        TRY(read_override(c, list->item[i], s));
    return 0;
}
