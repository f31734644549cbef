/* Settings: what the rules of a configuration make of a method on a model and task, and the bytes it will
 * take.
 */
#include "base/err.h"
#include "base/mem.h"
#include "sweep/defaults.h"
#include "sweep/plan_int.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool match(const char *pattern, const char *text)
{
    return !pattern || str_match(pattern, text);
}

/* A method pattern means its name or its short text; "!x" means neither. */
static bool match_method(const char *pattern, const struct kv_spec *spec)
{
    if (!pattern)
        return true;
    bool no = *pattern == '!';
    const char *p = pattern + no;
    return no != (str_match(p, kv_method_name(spec->method)) || str_match(p, spec->label));
}

/* Which rules apply: those for all tasks, and those for this one or this rule. */
struct rules {
    const char *task;
    const struct config_override *rule;
};

static bool applies(const struct rules *r, const struct config_override *o)
{
    return !o->task || o == r->rule || (r->task && match(o->task, r->task));
}

/* The method with the rules applied. */
static int resolve(const struct plan *p, int i_model, const struct config_method *method,
                   const struct rules *rules, struct plan_variant *v)
{
    const struct config *c = p->config;
    const char *model = p->model[i_model].run.id;
    struct str text = {0};
    const struct config_override *last = NULL;
    double theta = 0;
    str_add(&text, method->asked); /* not the full text: a rule may give what the entry leaves open */
    bool any = strchr(method->asked, ':') != NULL;
    for (int i = 0; i < c->n_override; i++) {
        const struct config_override *o = &c->override[i];
        if (!match(o->model, model) || !match_method(o->method, &method->spec) || !applies(rules, o))
            continue;
        if (o->rope_theta_factor > 0 && theta > 0) {
            str_free(&text);
            return err_set(ERR_INPUT,
                           "%s: overrides: setting %s/%s: rope_theta_factor is given twice, %g and %g; leave "
                           "one of them out",
                           o->where, model, method->spec.label, theta, o->rope_theta_factor);
        }
        if (o->rope_theta_factor > 0)
            theta = o->rope_theta_factor;
        if (o->params) {
            str_printf(&text, "%c%s", any ? ',' : ':', o->params);
            any = true;
            last = o;
        }
    }
    v->over = (struct model_overrides){.rope_theta_factor = theta > 0 ? theta : 1};
    int rc = 0;
    if (last)
        rc = kv_spec_parse(&v->spec, str_c(&text));
    else
        kv_spec_copy(&v->spec, &method->spec);
    str_free(&text);
    if (rc == 0)
        rc = defaults_apply(&v->spec, &c->model[i_model], p->model[i_model].config.architecture);
    return rc < 0 && last
               ? err_prefix(rc, "%s: overrides: setting %s/%s", last->where, model, method->spec.label)
               : rc;
}

/* What a prompt of n tokens takes, without room for an answer. Where a prompt is shortened before a plain
 * cache sees it, the rest is taken to have the nominal length. */
static int size_at(const struct kv_spec *spec, const struct seq_shape *shape, int64_t n,
                   struct plan_size *size)
{
    const uint64_t full = shape_full_bytes(shape, n);
    struct kv_spec solved;
    struct kv_ledger l;
    *size = (struct plan_size){.ratio = NAN};
    if (kv_spec_plain(spec) && spec->nominal_ratio > 1)
        n = (int64_t)((double)n / spec->nominal_ratio);
    if (kv_spec_solve(&solved, spec, shape, n, n) < 0)
        return 0; /* a budget that is too small for so many tokens */
    int rc = kv_predict(&solved, shape, n, n, &l);
    kv_spec_free(&solved);
    TRY(rc);
    size->bytes = kv_ledger_total(&l);
    size->device = kv_ledger_place(&l, PLACE_DEVICE);
    size->ratio = (double)full / (double)size->bytes;
    return 0;
}

static int measure(const struct plan *p, const struct plan_setting *s, const struct config_method *method,
                   struct plan_variant *v)
{
    const struct seq_shape *shape = &p->model[s->model].shape;
    int rc = kv_spec_check(&v->spec, shape);
    if (rc == 0)
        rc = plan_prompt_open(&v->prompt, p->config, &v->spec, p->sketch);
    if (rc == 0)
        rc = size_at(&v->spec, shape, 8192, &v->at_8k);
    if (rc == 0)
        rc = size_at(&v->spec, shape, 32768, &v->at_32k);
    return rc < 0 ? err_prefix(rc, "%s: setting %s", method->where, s->id) : 0;
}

static bool alike(const struct plan_variant *a, const struct plan_variant *b)
{
    return !strcmp(a->spec.text, b->spec.text) && a->over.rope_theta_factor == b->over.rope_theta_factor;
}

static void free_variant(struct plan_variant *v)
{
    plan_prompt_close(v->prompt);
    kv_spec_free(&v->spec);
}

/* The values of `text` ("name:key=value,…") that `all` has not, after `out`. */
static void add_changes(struct str *out, const char *text, const char *all)
{
    const char *p = strchr(text, ':');
    while (p && *p) {
        size_t n = strcspn(++p, ",");
        char *part = mem_strndup(p, n);
        const char *at = strstr(all, part);
        while (at && ((at[-1] != ':' && at[-1] != ',') || (at[n] && at[n] != ',')))
            at = strstr(at + 1, part);
        if (!at)
            str_printf(out, "%s%s", out->n ? "," : "", part);
        free(part);
        p += n;
    }
}

/* What a rule changes, in canonical values. */
static void add_rule(const struct plan *p, const struct plan_setting *s, const struct config_method *method,
                     const struct config_override *o, struct str *out)
{
    const struct rules rules = {.rule = o};
    struct plan_variant v = {0};
    char theta[32];
    int rc = resolve(p, s->model, method, &rules, &v);
    if (o->rope_theta_factor > 0 && (rc < 0 || v.over.rope_theta_factor != s->all.over.rope_theta_factor)) {
        str_double(theta, o->rope_theta_factor);
        str_printf(out, "rope_theta_factor=%s", theta);
    }
    if (rc == 0)
        add_changes(out, v.spec.text, s->all.spec.text);
    else if (o->params) /* it makes sense with others of its task only */
        str_printf(out, "%s%s", out->n ? "," : "", o->params);
    free_variant(&v);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* What the rules come to beside the setting's parameters, whatever tasks there are: the text stays the same
 * when tasks are added, and rules that change nothing are not in it. Read again in hdf5io/overrides.c. */
static char *overrides_text(const struct plan *p, const struct plan_setting *s,
                            const struct config_method *method)
{
    const struct config *c = p->config;
    char **line = mem_alloc((size_t)c->n_override + 1, sizeof *line), theta[32];
    struct str text = {0};
    int n = 0;
    for (int i = 0; i < c->n_override; i++) {
        const struct config_override *o = &c->override[i];
        struct str values = {0};
        if (o->task && match(o->model, p->model[s->model].run.id) && match_method(o->method, &method->spec))
            add_rule(p, s, method, o, &values);
        if (values.n)
            line[n++] = mem_printf("%s:%s", o->task, str_c(&values));
        str_free(&values);
    }
    if (n)
        qsort(line, (size_t)n, sizeof *line, by_text);
    if (s->all.over.rope_theta_factor != 1) {
        str_double(theta, s->all.over.rope_theta_factor);
        str_printf(&text, "*:rope_theta_factor=%s", theta);
    }
    for (int i = 0; i < n; i++) {
        str_printf(&text, "%s%s", text.n ? ";" : "", line[i]);
        free(line[i]);
    }
    free(line);
    return text.data ? text.data : mem_strdup("");
}

/* Finds the variant of a task among those there are, or adds it. */
static int add_variant(const struct plan *p, struct plan_setting *s, const struct config_method *method,
                       int task)
{
    struct plan_variant v = {0};
    const struct rules rules = {.task = p->config->task[task].type->name};
    int rc = resolve(p, s->model, method, &rules, &v);
    for (int i = 0; i < s->n_variant && rc == 0; i++) {
        if (alike(&s->variant[i], &v)) {
            kv_spec_free(&v.spec);
            s->of_task[task] = i;
            return 0;
        }
    }
    if (rc == 0)
        rc = measure(p, s, method, &v);
    if (rc < 0) {
        free_variant(&v);
        return rc;
    }
    s->of_task[task] = s->n_variant;
    s->variant[s->n_variant++] = v;
    return 0;
}

int plan_setting_add(struct plan *p, int model, const struct config_method *method)
{
    const struct plan_model *m = &p->model[model];
    struct plan_setting *s = &p->setting[p->n_setting++];
    size_t n_task = (size_t)p->config->n_task;
    *s = (struct plan_setting){.model = model, .spec = &method->spec};
    s->id = mem_printf("%s/%s", m->run.id, method->spec.label);
    s->variant = mem_alloc(n_task + 1, sizeof *s->variant);
    s->of_task = mem_alloc(n_task, sizeof *s->of_task);
    TRY(resolve(p, model, method, &(struct rules){0}, &s->all));
    s->spec = &s->all.spec;
    s->overrides = overrides_text(p, s, method);
    TRY(measure(p, s, method, &s->all));
    for (size_t i = 0; i < n_task; i++)
        TRY(add_variant(p, s, method, (int)i));
    return 0;
}

void plan_setting_free(struct plan_setting *s)
{
    for (int i = 0; i < s->n_variant; i++)
        free_variant(&s->variant[i]);
    free_variant(&s->all);
    free(s->variant);
    free(s->of_task);
    free(s->id);
    free(s->overrides);
    *s = (struct plan_setting){0};
}

const struct plan_variant *plan_variant(const struct plan *p, int setting, int task)
{
    const struct plan_setting *s = &p->setting[setting];
    return &s->variant[s->of_task[task]];
}

/* Fewer tokens than a prompt can have: 16 bytes a token, unless the task counted them. */
static int64_t least_tokens(const struct plan *p, const struct plan_model *m, int task)
{
    int64_t least = INT64_MAX;
    for (int e = 0; e < p->task[task].n_example && !p->task[task].absent; e++) {
        const struct example *ex = task_example(m->task[task], e);
        int64_t n = (int64_t)(strlen(ex->before) + strlen(ex->context) + strlen(ex->after)) / 16;
        if (p->task[task].per_model && isfinite(ex->length))
            n = (int64_t)(0.9 * ex->length);
        least = n < least ? n : least;
    }
    return least;
}

/* Whether the shortest example of a task fits; tasks without rows leave *tried alone. */
static int check_budget(const struct plan *p, int setting, int task, bool *tried)
{
    const struct plan_setting *s = &p->setting[setting];
    const struct plan_model *m = &p->model[s->model];
    int64_t n = least_tokens(p, m, task);
    if (n == INT64_MAX)
        return 0;
    *tried = true;
    n = n < 1 ? 1 : n;
    struct kv_spec solved;
    TRY(kv_spec_solve(&solved, &plan_variant(p, setting, task)->spec, &m->shape, n,
                      n + task_traits(m->task[task])->max_new));
    kv_spec_free(&solved);
    return 0;
}

static int check_budgets(const struct plan *p, int setting)
{
    int rc = 0;
    for (int t = 0; t < p->n_task; t++) {
        bool tried = false;
        int one = check_budget(p, setting, t, &tried);
        if (tried && one == 0)
            return 0;
        rc = tried ? one : rc;
    }
    return rc;
}

int plan_setting_budgets(const struct plan *p)
{
    for (int i = 0; i < p->n_setting; i++) {
        int rc = p->setting[i].spec->budget ? check_budgets(p, i) : 0;
        if (rc < 0)
            return err_prefix(rc, "setting %s cannot run any example, not even the shortest",
                              p->setting[i].id);
    }
    return 0;
}
