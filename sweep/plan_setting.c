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

/* What the rules that apply say together. */
struct said {
    struct str method, family; /* "NAME:key=value,…" as asked for and by rules; "key=value,…" of the family */
    double theta;              /* 0: nothing */
    const struct config_override *params, *options; /* the last rule for the method's, the family's */
};

static void said_free(struct said *s)
{
    str_free(&s->method);
    str_free(&s->family);
}

static int add_theta(struct said *s, const struct config_override *o, const char *setting)
{
    if (o->rope_theta_factor > 0 && s->theta > 0)
        return err_set(ERR_INPUT,
                       "%s: overrides: setting %s: rope_theta_factor is given twice, %g and %g; leave one of "
                       "them out",
                       o->where, setting, s->theta, o->rope_theta_factor);
    if (o->rope_theta_factor > 0)
        s->theta = o->rope_theta_factor;
    return 0;
}

static int gather(const struct plan *p, int model, const struct config_method *method,
                  const struct rules *rules, const char *setting, struct said *s)
{
    const struct config *c = p->config;
    *s = (struct said){.theta = 0};
    str_add(&s->method, method->asked); /* not the full text: a rule may give what the entry leaves open */
    bool any = strchr(method->asked, ':') != NULL;
    for (int i = 0; i < c->n_override; i++) {
        const struct config_override *o = &c->override[i];
        if (!match(o->model, p->model[model].run.id) || !match_method(o->method, &method->spec) ||
            !applies(rules, o))
            continue;
        TRY(add_theta(s, o, setting));
        if (o->params) {
            str_printf(&s->method, "%c%s", any ? ',' : ':', o->params);
            any = true;
            s->params = o;
        }
        if (o->family) {
            str_printf(&s->family, "%s%s", s->family.n ? "," : "", o->family);
            s->options = o;
        }
    }
    return 0;
}

static int take_method(const struct plan *p, int model, const struct config_method *method,
                       const struct said *s, const char *setting, struct plan_variant *v)
{
    int rc = 0;
    if (s->params)
        rc = kv_spec_parse(&v->spec, str_c(&s->method));
    else
        kv_spec_copy(&v->spec, &method->spec);
    if (rc == 0)
        rc = defaults_apply(&v->spec, &p->config->model[model], p->model[model].config.architecture);
    return rc < 0 && s->params ? err_prefix(rc, "%s: overrides: setting %s", s->params->where, setting) : rc;
}

/* Rules come over what the model's file says. */
static int take_model(const struct plan_model *m, const struct said *s, const char *setting,
                      struct plan_variant *v)
{
    v->over =
        (struct model_overrides){.rope_theta_factor = s->theta > 0 ? s->theta : 1, .options = m->options};
    if (!s->options)
        return 0;
    char *where = mem_printf("%s: overrides: setting %s", s->options->where, setting);
    int rc =
        family_params_set(family_find(m->config.architecture), &v->over.options, str_c(&s->family), where);
    free(where);
    return rc;
}

/* The method and the model with the rules applied. */
static int resolve(const struct plan *p, int model, const struct config_method *method,
                   const struct rules *rules, struct plan_variant *v)
{
    struct said s;
    char *setting = mem_printf("%s/%s", p->model[model].run.id, method->spec.label);
    int rc = gather(p, model, method, rules, setting, &s);
    if (rc == 0)
        rc = take_method(p, model, method, &s, setting, v);
    if (rc == 0)
        rc = take_model(&p->model[model], &s, setting, v);
    said_free(&s);
    free(setting);
    return rc;
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

/* A refusal is the setting's alone: the others go on. */
static void refuse(struct plan_setting *s, const char *task)
{
    if (!s->refused)
        s->refused = task ? mem_printf("on %s: %s", task, err_text()) : mem_strdup(err_text());
}

/* Where a window is why a method cannot act, max_len may take it away. */
static int check_method(const struct plan_model *m, const struct kv_spec *spec, const struct seq_shape *shape)
{
    const int rc = kv_spec_check(spec, shape);
    bool whole = false;
    for (int32_t i = 0; i < shape->n_kind; i++)
        whole = whole || shape->kind[i].compress;
    if (rc == 0 || whole || !m->config.window || m->config.within)
        return rc;
    char *text = mem_strdup(err_text());
    (void)err_set(rc, "%s; max_len: %lld or less would keep sequences within the windows", text,
                  (long long)m->config.window);
    free(text);
    return rc;
}

static int measure(const struct plan *p, struct plan_setting *s, const struct config_method *method,
                   const char *task, struct plan_variant *v)
{
    const struct plan_model *m = &p->model[s->model];
    const struct seq_shape *shape = &v->shape;
    model_config_shape(&m->config, m->run.cache_dtype, &v->over.options, &v->shape);
    if (check_method(m, &v->spec, shape) < 0) {
        v->at_8k = v->at_32k = (struct plan_size){.ratio = NAN};
        refuse(s, task);
        return 0;
    }
    int rc = plan_prompt_open(&v->prompt, p->config, &v->spec, p->sketch);
    if (rc == 0)
        rc = size_at(&v->spec, shape, 8192, &v->at_8k);
    if (rc == 0)
        rc = size_at(&v->spec, shape, 32768, &v->at_32k);
    return rc < 0 ? err_prefix(rc, "%s: setting %s", method->where, s->id) : 0;
}

static bool alike(const struct plan_variant *a, const struct plan_variant *b)
{
    return !strcmp(a->spec.text, b->spec.text) && model_overrides_equal(&a->over, &b->over);
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

static void add_theta_text(struct str *out, double theta)
{
    char text[32];
    str_double(text, theta);
    str_printf(out, "%srope_theta_factor=%s", out->n ? "," : "", text);
}

/* Parameters of the family that differ from those of the whole setting. */
static void add_options(const struct plan_model *m, const struct plan_variant *v,
                        const struct plan_variant *all, struct str *out)
{
    for (const struct param *p = family_find(m->config.architecture)->params; p && p->name; p++) {
        const struct param one[2] = {*p, {0}};
        struct str a = {0}, b = {0};
        param_text(one, &v->over.options, &a);
        param_text(one, &all->over.options, &b);
        if (strcmp(str_c(&a), str_c(&b)) != 0)
            str_printf(out, "%s%s", out->n ? "," : "", str_c(&a));
        str_free(&a);
        str_free(&b);
    }
}

/* What a rule changes, in canonical values. */
static void add_rule(const struct plan *p, const struct plan_setting *s, const struct config_method *method,
                     const struct config_override *o, struct str *out)
{
    const struct rules rules = {.rule = o};
    struct plan_variant v = {0};
    int rc = resolve(p, s->model, method, &rules, &v);
    if (o->rope_theta_factor > 0 && (rc < 0 || v.over.rope_theta_factor != s->all.over.rope_theta_factor))
        add_theta_text(out, o->rope_theta_factor);
    if (rc == 0) {
        add_options(&p->model[s->model], &v, &s->all, out);
        add_changes(out, v.spec.text, s->all.spec.text);
    } else if (o->params) { /* it makes sense with others of its task only */
        str_printf(out, "%s%s", out->n ? "," : "", o->params);
    }
    free_variant(&v);
}

/* What holds on all tasks. */
static void add_all(const struct plan *p, const struct plan_setting *s, struct str *out)
{
    struct str values = {0};
    if (s->all.over.rope_theta_factor != 1)
        add_theta_text(&values, s->all.over.rope_theta_factor);
    add_options(&p->model[s->model], &s->all, &(struct plan_variant){0}, &values);
    if (values.n)
        str_printf(out, "*:%s", str_c(&values));
    str_free(&values);
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
    char **line = mem_alloc((size_t)c->n_override + 1, sizeof *line);
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
    add_all(p, s, &text);
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
        rc = measure(p, s, method, rules.task, &v);
    if (rc < 0) {
        free_variant(&v);
        return rc;
    }
    s->of_task[task] = s->n_variant;
    s->variant[s->n_variant++] = v;
    return 0;
}

int plan_setting_add(struct plan *p, int model, int at)
{
    const struct plan_model *m = &p->model[model];
    const struct config_method *method = &p->config->method[at];
    struct plan_setting *s = &p->setting[p->n_setting++];
    size_t n_task = (size_t)p->config->n_task;
    *s = (struct plan_setting){.model = model, .spec = &method->spec};
    s->id = mem_printf("%s/%s", m->run.id, method->spec.label);
    s->variant = mem_alloc(n_task + 1, sizeof *s->variant);
    s->of_task = mem_alloc(n_task, sizeof *s->of_task);
    TRY(resolve(p, model, method, &(struct rules){0}, &s->all));
    s->spec = &s->all.spec;
    s->overrides = overrides_text(p, s, method);
    TRY(measure(p, s, method, NULL, &s->all));
    for (int i = 0; i < (int)n_task; i++) {
        s->of_task[i] = -1;
        if (config_in_grid(p->config, model, at, i))
            TRY(add_variant(p, s, method, i));
    }
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
    free(s->refused);
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
    const struct plan_variant *v = plan_variant(p, setting, task);
    TRY(kv_spec_solve(&solved, &v->spec, &v->shape, n, n + task_traits(m->task[task])->max_new));
    kv_spec_free(&solved);
    return 0;
}

static int check_budgets(const struct plan *p, int setting)
{
    int rc = 0;
    for (int t = 0; t < p->n_task; t++) {
        bool tried = false;
        if (!plan_runs(p, setting, t))
            continue;
        int one = check_budget(p, setting, t, &tried);
        if (tried && one == 0)
            return 0;
        rc = tried ? one : rc;
    }
    return rc;
}

void plan_setting_budgets(struct plan *p)
{
    for (int i = 0; i < p->n_setting; i++) {
        struct plan_setting *s = &p->setting[i];
        if (s->refused || !s->spec->budget || check_budgets(p, i) == 0)
            continue;
        err_prefix(ERR_INPUT, "no example can run, not even the shortest");
        refuse(s, NULL);
    }
}
