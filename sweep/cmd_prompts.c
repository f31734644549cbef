#include "base/err.h"
#include "base/mem.h"
#include "sweep/app.h"
#include "sweep/plan.h"

#include <stdlib.h>
#include <string.h>

struct prompts_args {
    struct app_config config;
    const char *task, *model, *method;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct prompts_args *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->config;
        return 0;
    case 't':
        a->task = arg;
        return 0;
    case 'm':
        a->model = arg;
        return 0;
    case 'M':
        a->method = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->config.path || a->task)
            return 0;
        fprintf(stderr,
                "%s: which prompts? give a configuration or --task, e.g. kvsweep prompts --task passkey\n",
                state->name);
        exit(1);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

/* What prompts are made for: NULL members for plain text. */
struct target {
    struct config_model cfg;
    struct plan_model model;
    struct tok *tok; /* the model's; NULL without one */
    const struct kv_spec *spec;
    struct plan_prompt *prompt; /* of a prompt method */
    struct rewriter rw;
};

static int print_one(const struct config *c, const struct config_task *task, const struct target *t,
                     const struct task *open, int i)
{
    const struct example *ex = task_example(open, i);
    struct prompt p;
    TRY(policy_prompt(c->mode, kv_method_name(t->spec->method), &t->rw, t->tok ? &t->model.run : NULL,
                      t->tok ? &t->model.config : NULL, t->tok, task_traits(open), ex, &p));
    struct str s = {0};
    str_add(&s, "{\"task\": ");
    str_add_json(&s, task->id, strlen(task->id));
    str_add(&s, ", \"example\": ");
    str_add_json(&s, ex->id, strlen(ex->id));
    str_add(&s, ", \"text\": ");
    str_add_json(&s, p.text, strlen(p.text));
    if (t->tok) {
        str_printf(&s, ", \"truncated\": %s, \"hash\": \"%016llx\", \"ids\": [",
                   p.truncated ? "true" : "false", (unsigned long long)p.hash);
        for (int64_t k = 0; k < p.n_ids; k++)
            str_printf(&s, "%s%d", k ? ", " : "", p.ids[k]);
        str_addc(&s, ']');
    }
    str_add(&s, "}\n");
    prompt_free(&p);
    int rc = app_write(NULL, &s);
    str_free(&s);
    return rc;
}

static int print_task(const struct config *c, const struct config_task *task, const struct target *t)
{
    struct task *open = NULL;
    if (plan_task_counts_tokens(task) && !t->tok)
        return err_set(ERR_INPUT, "task %s measures its prompts in tokens: whose? add --model MODEL",
                       task->id);
    TRY(plan_task_open(&open, task, t->tok));
    int rc = 0;
    for (int i = 0; i < task_count(open) && rc == 0; i++)
        rc = print_one(c, task, t, open, i);
    task_close(open);
    return rc;
}

/* The model of the configuration with that id, else one of configs/models or a path. */
static int open_target(struct app *app, const struct config *c, const char *name, struct target *t)
{
    if (!name)
        return 0;
    const struct config_model *cfg = NULL;
    for (int i = 0; i < c->n_model; i++)
        if (!strcmp(c->model[i].id, name))
            cfg = &c->model[i];
    if (!cfg) {
        TRY(app_model(app, name, &t->cfg));
        cfg = &t->cfg;
    }
    int rc = plan_model_open(&t->model, c, cfg, false);
    t->tok = t->model.tok;
    return rc;
}

static int open_config(struct app *app, const struct prompts_args *a, struct config *c)
{
    if (a->config.path)
        return app_config_open(app, c, &a->config);
    const struct task_type *type;
    TRY(config_task_type(&type, a->task));
    struct config_source s = app_source(app);
    char *text = mem_printf("tasks: [%s]\n", type->name);
    s.path = "--task";
    s.text = text;
    s.set = a->config.set;
    s.n_set = a->config.n_set;
    int rc = config_open(c, &s);
    free(text);
    return rc;
}

static int open_rewriter(const struct config *c, struct target *t)
{
    TRY(plan_prompt_open(&t->prompt, c, t->spec, false));
    if (!t->prompt)
        return 0;
    const struct prompt_options o = {c->device, c->isa, c->threads, false, 0, {0}};
    t->rw.method = prompt_method_find(kv_method_name(t->spec->method));
    t->rw.params = t->spec->params;
    return t->rw.method->open(&t->rw.compressor, &t->prompt->files, &o);
}

static void close_target(struct target *t)
{
    if (t->rw.method)
        t->rw.method->close(t->rw.compressor);
    plan_prompt_close(t->prompt);
    plan_model_close(&t->model);
    config_model_close(&t->cfg);
}

static int run(struct app *app, const struct prompts_args *a, struct config *c, struct target *t)
{
    TRY(open_config(app, a, c));
    TRY(open_target(app, c, a->model, t));
    TRY(open_rewriter(c, t));
    bool any = false;
    for (int i = 0; i < c->n_task; i++) {
        const struct config_task *task = &c->task[i];
        if (a->task && strcmp(a->task, task->id) && strcmp(a->task, task->type->name))
            continue;
        any = true;
        TRY(print_task(c, task, t));
    }
    return any ? 0 : err_set(ERR_INPUT, "%s has no task '%s'", c->path, a->task ? a->task : "");
}

int cmd_prompts(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"task", 't', "TASK", 0, "this task only; without CONFIG: with its default parameters", 0},
        {"model", 'm', "MODEL", 0, "with the model's template, truncation, token ids and their hash", 0},
        {"method", 'M', "SPEC", 0, "as this method is prompted (they differ in paper mode)", 0},
        {0},
    };
    static const struct argp_child children[] = {{&app_config_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {.options = options,
                                     .parser = parser,
                                     .args_doc = "[CONFIG]",
                                     .doc = "Prints every prompt as it is sent, one JSON object per line.",
                                     .children = children};
    struct prompts_args a = {0};
    struct config c = {0};
    struct target t = {0};
    struct kv_spec spec = {0};
    app_parse(app, &argp, argc, argv, &a);
    int rc = kv_spec_parse(&spec, a.method ? a.method : "full");
    t.spec = &spec;
    if (rc == 0)
        rc = run(app, &a, &c, &t);
    close_target(&t);
    kv_spec_free(&spec);
    config_close(&c);
    app_config_free(&a.config);
    return rc;
}
