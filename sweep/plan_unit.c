/* Unit ids, and the plan as the results file shows it. */
#include "base/mem.h"
#include "sweep/plan_int.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

/* Where the rows come from and how many of them: not part of what a unit is (the rows themselves are hashed).
 */
static bool selects_only(const char *key)
{
    return !strcmp(key, "data") || !strcmp(key, "limit");
}

char *plan_task_params(const struct config_task *cfg)
{
    struct str s = {0};
    if (strcmp(cfg->id, cfg->type->name) != 0)
        str_printf(&s, "task=%s", cfg->type->name);
    for (const struct param *p = cfg->type->params; p && p->name; p++) {
        const struct param one[2] = {*p, {0}};
        if (selects_only(p->name))
            continue;
        if (s.n)
            str_addc(&s, ',');
        param_text(one, cfg->params, &s);
    }
    char *text = mem_strdup(str_c(&s));
    str_free(&s);
    return text;
}

static void hash_text(XXH3_state_t *s, const char *text)
{
    XXH3_128bits_update(s, text, strlen(text) + 1); /* with its end, so that parts cannot run together */
}

/* XXH3-128 of everything that scoring and prompting read of an example. */
static XXH128_hash_t example_hash(const struct example *ex)
{
    XXH3_state_t *s = XXH3_createState();
    XXH3_128bits_reset(s);
    hash_text(s, ex->before);
    hash_text(s, ex->context);
    hash_text(s, ex->after);
    hash_text(s, ex->compress_all ? "all" : "context");
    for (int i = 0; i < ex->n_gold; i++)
        hash_text(s, ex->gold[i]);
    hash_text(s, "classes");
    for (int i = 0; i < ex->n_classes; i++)
        hash_text(s, ex->classes[i]);
    XXH128_hash_t h = XXH3_128bits_digest(s);
    XXH3_freeState(s);
    return h;
}

/* What rewrites the prompts of a setting; "": nothing. */
static const char *prompt_name(const struct plan_setting *s)
{
    return s->all.prompt ? kv_method_name(s->spec->method) : "";
}

/* Whatever is in here is a column of /settings or /tasks, or (mode) one of the file; of overrides, what they
 * come to on this task: a rule for another task changes nothing here. A line for what comes later is added
 * only where it says something new. */
void plan_unit_id(const struct plan *p, struct plan_unit *u)
{
    const struct plan_setting *set = &p->setting[u->setting];
    const struct plan_model *m = &p->model[set->model];
    const struct task *t = m->task[u->task];
    const struct example *ex = task_example(t, u->example);
    XXH128_hash_t content = example_hash(ex);
    char theta[32];
    str_double(theta, u->over.rope_theta_factor);
    const struct plan_task *task = &p->task[u->task];
    const struct plan_variant *v = plan_variant(p, u->setting, u->task);
    char *method = v->prompt ? mem_printf("%s:%s", kv_method_name(v->spec.method), v->prompt->params)
                             : mem_strdup(v->spec.text);
    struct str s = {0}, options = {0};
    str_printf(&s, "kvsweep unit 2\nmodel %s %s\ntemplate %s\nstop_ids %s\nmax_len %lld\n", m->run.id,
               m->hash, plan_template_texts(m), m->stop_ids, (long long)m->run.max_len);
    str_printf(&s, "dtype %s\ncache_dtype %s\nprompt_method %s\nmethod %s\n", dtype_name(m->run.dtype),
               dtype_name(m->run.cache_dtype), prompt_name(set), method);
    free(method);
    family_params_text(family_find(m->config.architecture), &u->over.options, &options);
    if (options.n)
        str_printf(&s, "family_params %s\n", str_c(&options));
    str_free(&options);
    str_printf(&s, "rope_theta_factor %s\nmode %s\ntask %s %s:%s\nsource %s\n", theta,
               p->config->mode == MODE_PAPER ? "paper" : "fair", task->cfg->id, task->cfg->type->name,
               task->params, task_source_sha256(t));
    str_printf(&s, "example %s %016llx%016llx\n", ex->id, (unsigned long long)content.high64,
               (unsigned long long)content.low64);
    XXH128_hash_t h = XXH3_128bits(str_c(&s), s.n);
    u->hi = h.high64;
    u->lo = h.low64;
    str_free(&s);
}

/* Settings, tasks and examples may be added to a file; these may not differ within one. */
void plan_text(const struct plan *p, struct str *out)
{
    static const char *const firsts[] = {"none", "f16", "full"};
    str_printf(out, "mode: %s\nlogits: first %s, topk %d\n", p->config->mode == MODE_PAPER ? "paper" : "fair",
               firsts[p->config->logits_first], p->config->topk);
}

static char *gold_json(const struct example *ex)
{
    struct str s = {0};
    str_addc(&s, '[');
    for (int i = 0; i < ex->n_gold; i++) {
        if (i)
            str_add(&s, ", ");
        str_add_json(&s, ex->gold[i], strlen(ex->gold[i]));
    }
    str_addc(&s, ']');
    char *text = mem_strdup(str_c(&s));
    str_free(&s);
    return text;
}

/* What a method is given, without its name: "bits=2,group=32". */
static const char *params_of(const struct plan_setting *s)
{
    if (s->all.prompt)
        return s->all.prompt->params;
    const char *colon = strchr(s->spec->text, ':');
    return colon ? colon + 1 : "";
}

static void sink_settings(const struct plan *p, struct sink_plan *s)
{
    struct sink_setting *rows = mem_alloc((size_t)p->n_setting, sizeof *rows);
    for (int i = 0; i < p->n_setting; i++) {
        const struct plan_setting *set = &p->setting[i];
        const struct plan_model *m = &p->model[set->model];
        rows[i] = (struct sink_setting){.id = set->id,
                                        .model = m->run.id,
                                        .model_hash = m->hash,
                                        .weights_xxh3 = "",
                                        .model_path = m->run.path,
                                        .weight_type = m->weight_type,
                                        .family = m->config.family,
                                        .template = m->template_text,
                                        .stop_ids = m->stop_ids,
                                        .max_len = m->run.max_len,
                                        .prompt_method = prompt_name(set),
                                        .method = kv_method_name(set->spec->method),
                                        .params = params_of(set),
                                        .overrides = set->overrides,
                                        .protocol = "inside",
                                        .refused = set->refused ? set->refused : "",
                                        .dtype = dtype_name(m->run.dtype),
                                        .cache_dtype = dtype_name(m->run.cache_dtype),
                                        .nominal_ratio = set->spec->nominal_ratio};
    }
    s->setting = rows;
    s->n_setting = p->n_setting;
}

static void sink_tasks(const struct plan *p, struct sink_plan *s)
{
    struct sink_task *rows = mem_alloc((size_t)p->n_task, sizeof *rows);
    for (int i = 0; i < p->n_task; i++) {
        const struct task *t = p->model[0].task[i];
        rows[i] = (struct sink_task){.id = p->task[i].cfg->id,
                                     .params = p->task[i].params,
                                     .metric = task_traits(t)->metric,
                                     .category = task_traits(t)->category,
                                     .n_examples = p->task[i].n_example,
                                     .source_sha256 = task_source_sha256(t)};
        s->n_example += p->task[i].n_example;
    }
    s->task = rows;
    s->n_task = p->n_task;
}

void plan_sink(const struct plan *p, struct sink_plan *s, struct str *text)
{
    uint64_t(*id)[2] = mem_alloc((size_t)p->n_unit + 1, sizeof *id);
    for (int64_t i = 0; i < p->n_unit; i++)
        id[i][0] = p->unit[i].hi, id[i][1] = p->unit[i].lo;
    *s = (struct sink_plan){.n_unit = p->n_unit, .unit_id = (const uint64_t(*)[2])id};
    sink_settings(p, s);
    sink_tasks(p, s);
    struct sink_example *rows = mem_alloc((size_t)s->n_example, sizeof *rows);
    int64_t n = 0;
    for (int i = 0; i < p->n_task; i++) {
        for (int e = 0; e < p->task[i].n_example; e++) {
            const struct example *ex = plan_example(p, i, e);
            rows[n++] = (struct sink_example){i,      e,          ex->n_words, ex->iteration,
                                              ex->id, ex->length, ex->depth,   gold_json(ex)};
        }
    }
    s->example = rows;
    plan_text(p, text);
    s->run.plan_text = str_c(text);
    s->run.mode = p->config->mode == MODE_PAPER ? "paper" : "fair";
    s->run.config_yaml = p->config->yaml;
    s->run.logits_first = p->config->logits_first;
    s->run.topk = p->config->topk;
}

void plan_sink_free(struct sink_plan *s)
{
    for (int64_t i = 0; i < s->n_example; i++)
        free((char *)s->example[i].gold_json);
    free((void *)s->setting);
    free((void *)s->task);
    free((void *)s->unit_id);
    free((void *)s->example);
    *s = (struct sink_plan){0};
}
