#include "sweep/plan_int.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

void plan_dtypes(const struct config *c, const struct config_model *cfg, const struct model_config *m,
                 enum dtype *dtype, enum dtype *cache)
{
    if (c->dtype != CONFIG_AUTO)
        *dtype = (enum dtype)c->dtype;
    else if (cfg->dtype_named)
        *dtype = cfg->dtype;
    else if (c->mode == MODE_PAPER)
        *dtype = DT_F16;
    else /* a CPU multiplies bf16 at twice the speed of f32 and f16 not at all */
        *dtype = m->dtype == DT_F32 ? DT_F32 : DT_BF16;
    *cache = c->cache_dtype == CONFIG_AUTO ? *dtype : (enum dtype)c->cache_dtype;
}

static int missing(const struct config_model *cfg)
{
    return cfg->fetch.n_part
               ? err_set(ERR_INPUT, "%s: model '%s': %s is missing; get it with: kvsweep fetch %s",
                         cfg->where, cfg->id, cfg->path, cfg->id)
               : err_set(ERR_INPUT, "%s: model '%s': %s is missing; put the model there or change its path",
                         cfg->where, cfg->id, cfg->path);
}

static int read_header(struct plan_model *m, const struct config *c, const struct config_model *cfg)
{
    struct model_file *f = NULL;
    int rc = model_file_open(&f, cfg->path);
    if (rc < 0)
        return err_prefix(rc, "%s: model '%s'", cfg->where, cfg->id);
    m->config = *model_file_config(f);
    uint64_t hash[2];
    model_file_hash(f, hash);
    snprintf(m->hash, sizeof m->hash, "%016llx%016llx", (unsigned long long)hash[0],
             (unsigned long long)hash[1]);
    m->file_bytes = model_file_bytes(f);
    m->weight_type = model_file_weight_type(f);
    plan_tell_file(c, cfg, f);
    model_file_close(f);
    return 0;
}

/* The tokenizer, and what is to be said of it. A model to be looked at only may lack it. */
static int open_tok(struct plan_model *m, const struct config_model *cfg, bool sketch)
{
    if (m->assumed)
        return 0;
    int rc = run_tok_open(&m->tok, cfg->path, cfg->tokenizer);
    if (rc == 0)
        rc = plan_tell_tok(cfg, m->tok);
    if (rc < 0 && sketch) {
        log_warn("model '%s': %s", cfg->id, err_text());
        return 0;
    }
    return rc < 0 ? err_prefix(rc, "model '%s'", cfg->id) : 0;
}

static int read_params(struct plan_model *m, const struct config_model *cfg)
{
    char *where = mem_printf("%s: model '%s': params", cfg->where, cfg->id);
    int rc = family_params_set(family_find(m->config.architecture), &m->options, cfg->params, where);
    free(where);
    return rc;
}

int plan_model_open(struct plan_model *m, const struct config *c, const struct config_model *cfg, bool sketch)
{
    *m = (struct plan_model){.weight_type = ""};
    if (file_exists(cfg->path) || file_is_dir(cfg->path)) {
        TRY(read_header(m, c, cfg));
    } else if (sketch && cfg->shape.n_layer) {
        m->config = cfg->shape;
        m->assumed = true;
    } else {
        return missing(cfg);
    }
    m->run = (struct run_model){.id = cfg->id,
                                .path = cfg->path,
                                .template = cfg->template,
                                .max_len = cfg->max_len,
                                .tokenizer = cfg->tokenizer,
                                .never_stops = cfg->never_stops && c->mode == MODE_PAPER};
    plan_dtypes(c, cfg, &m->config, &m->run.dtype, &m->run.cache_dtype);
    TRY(read_params(m, cfg));
    model_config_limit(&m->config, cfg->max_len);
    model_config_shape(&m->config, m->run.cache_dtype, &m->options, &m->shape);
    TRY(open_tok(m, cfg, sketch));
    return plan_model_identity(m);
}

void plan_model_close(struct plan_model *m)
{
    tok_close(m->tok);
    free(m->template_text);
    free(m->stop_ids);
    free(m->task);
    *m = (struct plan_model){0};
}

bool plan_task_counts_tokens(const struct config_task *cfg)
{
    struct str text = {0};
    str_addc(&text, ',');
    param_text(cfg->type->params, cfg->params, &text);
    bool yes = strstr(str_c(&text), ",unit=tokens") != NULL;
    str_free(&text);
    return yes;
}

int plan_task_open(struct task **t, const struct config_task *cfg, const struct tok *tok)
{
    struct token_counter counter = {0};
    if (tok)
        counter = run_token_counter(tok);
    int rc = task_open(t, cfg->type, cfg->params, tok ? &counter : NULL);
    return rc < 0 ? err_prefix(rc, "%s", cfg->where) : 0;
}

static int64_t guess_count(void *ctx, const char *text, size_t n_bytes)
{
    (void)ctx, (void)text;
    return (int64_t)(n_bytes + 3) / 4;
}

/* For one model. A task that counts tokens has four bytes a token where a plan for looking at only has no
 * tokenizer. */
static int open_for(struct plan *p, int i, struct plan_model *m, const struct config_task *cfg)
{
    struct plan_task *t = &p->task[i];
    if (!t->per_model || m->tok)
        return plan_task_open(&m->task[i], cfg, t->per_model ? m->tok : NULL);
    const struct token_counter guess = {guess_count, NULL};
    t->guessed = true;
    int rc = task_open(&m->task[i], cfg->type, cfg->params, &guess);
    return rc < 0 ? err_prefix(rc, "%s", cfg->where) : 0;
}

/* A text among the parameters of a task, or NULL. */
static const char *text_param(const struct config_task *cfg, const char *name)
{
    for (const struct param *p = cfg->type->params; p && p->name; p++)
        if (p->type == PARAM_TEXT && !strcmp(p->name, name))
            return *(char *const *)((const char *)cfg->params + p->offset);
    return NULL;
}

/* The task with a synthetic haystack in place of a folder that is not there; 0 rows where the data is not. */
static int open_absent(struct plan *p, int i, struct plan_model *m)
{
    struct plan_task *t = &p->task[i];
    struct config_task cfg = *t->cfg;
    const char *haystack = text_param(&cfg, "haystack"), *data = text_param(&cfg, "data");
    if (data && !file_exists(data) && cfg.type->n_published) {
        t->absent = true;
        return 0;
    }
    if (!haystack || !strcmp(haystack, "synthetic") || file_is_dir(haystack))
        return err_set(ERR_INPUT, "%s", "");
    cfg.params = config_params_copy(cfg.type, cfg.params);
    int rc = param_set(cfg.type->params, cfg.params, "haystack", "synthetic", cfg.where);
    t->stand_in = true;
    if (rc == 0)
        rc = open_for(p, i, m, &cfg);
    config_params_free(cfg.type, cfg.params);
    return rc;
}

static int need_tok(struct plan *p, int model, const char *why)
{
    struct plan_model *m = &p->model[model];
    if (m->tok)
        return 0;
    if (m->assumed)
        return err_prefix(missing(&p->config->model[model]), "%s", why);
    int rc = run_tok_open(&m->tok, m->run.path,
                          m->run.tokenizer); /* a plan for looking at only goes without where it can */
    return rc < 0 ? err_prefix(rc, "model '%s'", m->run.id) : 0;
}

/* Refuses prompts whose cut would leave nothing of the task. Most are short enough to be passed unread; the
 * tokenizer is read for the others alone. A model that is not there has none: its prompts are looked at when
 * it is. */
static int check_rooms(struct plan *p, int i, int model)
{
    const struct plan_model *m = &p->model[model];
    const struct task_traits *traits = p->task[i].absent ? NULL : task_traits(m->task[i]);
    for (int e = 0; traits && !m->assumed && p->config->mode == MODE_FAIR && e < p->task[i].n_example; e++) {
        const struct example *ex = task_example(m->task[i], e);
        if (policy_surely_fits(&m->run, &m->config, traits, ex))
            continue;
        TRY(need_tok(p, model, p->task[i].cfg->id));
        int rc = policy_room(&m->run, &m->config, m->tok, traits, ex);
        if (rc < 0)
            return err_prefix(rc, "%s: task %s, model '%s'", p->task[i].cfg->where, p->task[i].cfg->id,
                              m->run.id);
    }
    return 0;
}

/* Opens a task for one model; others may share the first one's examples. */
static int open_task(struct plan *p, int i, int model)
{
    struct plan_task *t = &p->task[i];
    struct plan_model *m = &p->model[model];
    if (model > 0 && !t->per_model) {
        m->task[i] = p->model[0].task[i];
        return 0;
    }
    if (t->per_model && !(p->sketch && m->assumed)) {
        char *why = mem_printf("task %s counts tokens", t->cfg->id);
        int rc = need_tok(p, model, why);
        free(why);
        TRY(rc);
    }
    int rc = open_for(p, i, m, t->cfg);
    if (rc < 0 && p->sketch) {
        char *why = mem_strdup(err_text());
        if (open_absent(p, i, m) < 0)
            err_set(rc, "%s", why);
        else
            rc = 0;
        free(why);
    }
    TRY(rc);
    int n = t->absent ? t->cfg->type->n_published : task_count(m->task[i]);
    if (n == 0)
        return err_set(ERR_INPUT, "%s: task %s has no examples", t->cfg->where, t->cfg->id);
    if (model > 0 && n != t->n_example)
        return err_set(ERR_INPUT, "%s: task %s has %d examples with the tokens of %s and %d with those of %s",
                       t->cfg->where, t->cfg->id, t->n_example, p->model[0].run.id, n, m->run.id);
    t->n_example = n;
    return 0;
}

static int open_tasks(struct plan *p)
{
    for (int i = 0; i < p->config->n_task; i++) {
        struct plan_task *t = &p->task[p->n_task++];
        t->cfg = &p->config->task[i];
        t->per_model = plan_task_counts_tokens(t->cfg);
        t->params = plan_task_params(t->cfg);
    }
    for (int m = 0; m < p->n_model; m++) {
        p->model[m].task = mem_alloc((size_t)p->n_task, sizeof *p->model[m].task);
        for (int i = 0; i < p->n_task; i++) {
            TRY(open_task(p, i, m));
            TRY(check_rooms(p, i, m));
            TRY(poll_call(&p->config->poll));
        }
    }
    return 0;
}

static int demand(const struct config *c)
{
    if (!c->n_model)
        return err_set(ERR_INPUT,
                       "%s: models: none given; list ids of configs/models or {id, path, template}", c->path);
    if (!c->n_method)
        return err_set(ERR_INPUT, "%s: methods: none given; e.g. methods: [full, \"kivi:bits=2\"]", c->path);
    if (!c->n_task)
        return err_set(ERR_INPUT, "%s: tasks: none given; e.g. tasks: [passkey]", c->path);
    return 0;
}

/* Said once, however many settings it concerns. */
static void tell_notices(const struct plan *p)
{
    for (int i = 0; i < p->n_setting; i++) {
        const struct plan_prompt *prompt = p->setting[i].all.prompt;
        if (prompt && prompt->notice) {
            log_warn("method %s: %s", kv_method_name(p->setting[i].spec->method), prompt->notice);
            return;
        }
    }
}

/* Some settings may be refused, unless that is asked for; all may not. */
static int judge_refused(struct plan *p)
{
    const struct plan_setting *first = NULL;
    for (int i = 0; i < p->n_setting; i++) {
        if (!p->setting[i].refused)
            continue;
        first = first ? first : &p->setting[i];
        p->n_refused++;
    }
    if (!first || (p->n_refused < p->n_setting && !p->config->strict))
        return 0;
    return err_set(ERR_INPUT, "%s: %d of %d settings cannot run%s; %s%s: %s", p->config->path, p->n_refused,
                   p->n_setting, p->n_refused < p->n_setting ? " (--strict)" : "",
                   p->n_refused > 1 ? "the first is " : "", first->id, first->refused);
}

static int build(struct plan *p)
{
    const struct config *c = p->config;
    TRY(demand(c));
    p->model = mem_alloc((size_t)c->n_model, sizeof *p->model);
    p->setting = mem_alloc((size_t)c->n_model * (size_t)c->n_method, sizeof *p->setting);
    p->task = mem_alloc((size_t)c->n_task, sizeof *p->task);
    for (int i = 0; i < c->n_model; i++) {
        p->n_model++; /* also a half-open one is closed */
        TRY(plan_model_open(&p->model[i], c, &c->model[i], p->sketch));
        TRY(poll_call(&c->poll));
    }
    for (int i = 0; i < c->n_model; i++)
        for (int k = 0; k < c->n_method; k++)
            if (config_in_grid(c, i, k, -1))
                TRY(plan_setting_add(p, i, k));
    tell_notices(p);
    TRY(open_tasks(p));
    plan_setting_budgets(p);
    TRY(judge_refused(p));
    plan_bundles(p);
    return 0;
}

/* Every rank must have made the same plan: ids of units and bundles say what, options say what is kept. */
static void hash_plan(struct plan *p)
{
    struct str text = {0};
    plan_text(p, &text);
    for (int64_t i = 0; i < p->n_unit; i++) {
        str_addn(&text, &p->unit[i].hi, 8);
        str_addn(&text, &p->unit[i].lo, 8);
    }
    for (int64_t i = 0; i < p->n_bundle; i++)
        str_addn(&text, &p->bundle[i].id, 8);
    str_printf(&text, "timing=%d,fidelity=%d", p->config->timing, p->config->fidelity);
    XXH128_hash_t h = XXH3_128bits(str_c(&text), text.n);
    p->hash[0] = h.high64;
    p->hash[1] = h.low64;
    str_free(&text);
}

static int open_plan(struct plan *p, const struct config *config, bool sketch)
{
    *p = (struct plan){.config = config, .sketch = sketch};
    int rc = build(p);
    if (rc < 0)
        plan_close(p);
    else
        hash_plan(p);
    return rc;
}

int plan_open(struct plan *p, const struct config *config)
{
    return open_plan(p, config, false);
}

int plan_sketch(struct plan *p, const struct config *config)
{
    return open_plan(p, config, true);
}

void plan_close(struct plan *p)
{
    for (int m = 0; m < p->n_model; m++) {
        for (int i = 0; p->model[m].task && i < p->n_task; i++)
            if (m == 0 || p->task[i].per_model)
                task_close(p->model[m].task[i]);
        plan_model_close(&p->model[m]);
    }
    for (int i = 0; i < p->n_setting; i++)
        plan_setting_free(&p->setting[i]);
    for (int i = 0; i < p->n_task; i++)
        free(p->task[i].params);
    free(p->model);
    free(p->setting);
    free(p->task);
    free(p->unit);
    free(p->bundle);
    *p = (struct plan){0};
}

const struct example *plan_example(const struct plan *p, int task, int example)
{
    return task_example(p->model[0].task[task], example);
}

int plan_sample(int n_example, int n, int k)
{
    return (int)((int64_t)n_example * (k + 1) / n) - 1;
}

bool plan_sampled(int n_example, int n, int example)
{
    n = n < n_example ? n : n_example;
    for (int k = 0; k < n; k++)
        if (plan_sample(n_example, n, k) == example)
            return true;
    return false;
}

struct run_unit plan_run_unit(const struct plan *p, int64_t unit)
{
    const struct plan_unit *u = &p->unit[unit];
    bool fidelity = plan_sampled(p->task[u->task].n_example, p->config->fidelity, u->example);
    const struct plan_variant *v = plan_variant(p, u->setting, u->task);
    return (struct run_unit){.setting = u->setting,
                             .task = u->task,
                             .example = u->example,
                             .hi = u->hi,
                             .lo = u->lo,
                             .spec = &v->spec,
                             .files = v->prompt ? &v->prompt->files : NULL,
                             .over = u->over,
                             .fidelity = fidelity};
}
