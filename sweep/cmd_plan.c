#include "base/err.h"
#include "base/mem.h"
#include "sweep/app.h"
#include "sweep/plan.h"
#include "sweep/progress.h"

#include <jansson.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>

struct plan_args {
    struct app_config config;
    bool json;
};

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct plan_args *a = state->input;
    (void)arg;
    switch (key) {
    case ARGP_KEY_INIT:
        state->child_inputs[0] = &a->config;
        return 0;
    case 'j':
        a->json = true;
        return 0;
    case ARGP_KEY_END:
        if (a->config.path)
            return 0;
        fprintf(stderr, "%s: which configuration? e.g. kvsweep plan quickstart\n", state->name);
        exit(1);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

static const struct argp_option options[] = {{"json", 'j', 0, 0, "one JSON object", 0}, {0}};

static double seconds_on_one_core(const struct plan *p)
{
    double s = 0;
    for (int64_t i = 0; i < p->n_bundle; i++)
        s += p->bundle[i].s_cost;
    return s;
}

static int n_core(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static void print_settings(const struct plan *p)
{
    struct str s = {0};
    char a[32], b[32];
    str_add(&s, "setting\tratio\tcache at 8k\tat 32k\tdtype\tcache\toverrides\n");
    for (int i = 0; i < p->n_setting; i++) {
        const struct plan_setting *set = &p->setting[i];
        const struct plan_model *m = &p->model[set->model];
        str_bytes(a, (double)set->bytes_8k);
        str_bytes(b, (double)set->bytes_32k);
        str_printf(&s, "%s\t%.2f\t%s\t%s\t%s\t%s\t%s\n", set->id, set->spec->nominal_ratio, a, b,
                   dtype_name(m->run.dtype), dtype_name(m->run.cache_dtype), set->overrides);
    }
    app_table(stdout, str_c(&s), "123");
    str_free(&s);
}

static void print_tasks(const struct plan *p)
{
    struct str s = {0};
    str_add(&s, "task\texamples\tmetric\tparameters\n");
    for (int i = 0; i < p->n_task; i++)
        str_printf(&s, "%s\t%d\t%s\t%s\n", p->task[i].cfg->id, p->task[i].n_example,
                   task_traits(p->model[0].task[i])->metric, p->task[i].params);
    app_table(stdout, str_c(&s), "1");
    str_free(&s);
}

static void print_text(const struct plan *p)
{
    char t[32], w[32];
    uint64_t weights = 0;
    for (int i = 0; i < p->n_model; i++)
        weights += p->model[i].file_bytes;
    progress_duration(t, seconds_on_one_core(p) / n_core());
    str_bytes(w, (double)weights);
    print_settings(p);
    putchar('\n');
    print_tasks(p);
    printf("\n%d settings, %lld units in %lld bundles, mode %s, %s of weights to read; very roughly %s on %d "
           "cores\n",
           p->n_setting, (long long)p->n_unit, (long long)p->n_bundle,
           p->config->mode == MODE_PAPER ? "paper" : "fair", w, t, n_core());
}

static int print_json(const struct plan *p)
{
    json_t *root = json_object(), *settings = json_array(), *tasks = json_array();
    for (int i = 0; i < p->n_setting; i++) {
        const struct plan_setting *s = &p->setting[i];
        const struct plan_model *m = &p->model[s->model];
        json_array_append_new(settings,
                              json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:f, s:I, s:I}", "id", s->id,
                                        "model", m->run.id, "model_hash", m->hash, "method", s->spec->text,
                                        "overrides", s->overrides, "dtype", dtype_name(m->run.dtype),
                                        "cache_dtype", dtype_name(m->run.cache_dtype), "nominal_ratio",
                                        s->spec->nominal_ratio, "kv_bytes_8k", (json_int_t)s->bytes_8k,
                                        "kv_bytes_32k", (json_int_t)s->bytes_32k));
    }
    for (int i = 0; i < p->n_task; i++) {
        const struct task *t = p->model[0].task[i];
        json_array_append_new(tasks,
                              json_pack("{s:s, s:s, s:i, s:s, s:s}", "id", p->task[i].cfg->id, "params",
                                        p->task[i].params, "examples", p->task[i].n_example, "metric",
                                        task_traits(t)->metric, "source_sha256", task_source_sha256(t)));
    }
    json_object_set_new(root, "settings", settings);
    json_object_set_new(root, "tasks", tasks);
    json_object_set_new(root, "mode", json_string(p->config->mode == MODE_PAPER ? "paper" : "fair"));
    json_object_set_new(root, "units", json_integer((json_int_t)p->n_unit));
    json_object_set_new(root, "bundles", json_integer((json_int_t)p->n_bundle));
    json_object_set_new(root, "core_seconds_estimated", json_real(seconds_on_one_core(p)));
    char hash[40];
    snprintf(hash, sizeof hash, "%016llx%016llx", (unsigned long long)p->hash[0],
             (unsigned long long)p->hash[1]);
    json_object_set_new(root, "plan_hash", json_string(hash));
    char *text = json_dumps(root, JSON_INDENT(2));
    int rc = text ? 0 : err_set(ERR_INTERNAL, "the plan holds text that is not UTF-8");
    if (text)
        puts(text);
    free(text);
    json_decref(root);
    return rc;
}

int cmd_plan(struct app *app, int argc, char **argv)
{
    static const struct argp_child children[] = {{&app_config_argp, 0, NULL, 0}, {0}};
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "CONFIG",
        .doc = "Checks a configuration against its models' headers and its tasks' files and shows what "
               "would run. No weight is read.",
        .children = children};
    struct plan_args a = {0};
    struct config c = {0};
    struct plan p = {0};
    app_parse(app, &argp, argc, argv, &a);
    int rc = app_config_open(app, &c, &a.config);
    if (rc == 0)
        rc = plan_open(&p, &c);
    if (rc == 0 && a.json)
        rc = print_json(&p);
    else if (rc == 0)
        print_text(&p);
    plan_close(&p);
    config_close(&c);
    app_config_free(&a.config);
    return rc;
}
