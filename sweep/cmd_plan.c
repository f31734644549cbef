#include "base/err.h"
#include "base/mem.h"
#include "sweep/app.h"
#include "sweep/plan.h"
#include "sweep/progress.h"

#include <jansson.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

struct plan_args {
    struct app_config config;
    bool json, strict;
};

enum { KEY_STRICT = 0x100 };

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
    case KEY_STRICT:
        a->strict = true;
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

static const struct argp_option options[] = {
    {"json", 'j', 0, 0, "one JSON object", 0}, {"strict", KEY_STRICT, 0, 0, APP_STRICT, 0}, {0}};

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

/* Bytes and true ratio of a prompt of so many tokens, with those of the device where the host has a share;
 * dashes where a budget cannot hold it. */
static void add_size(struct str *s, const struct plan_size *size)
{
    char bytes[96] = "–", device[32];
    if (size->bytes)
        str_bytes(bytes, (double)size->bytes);
    if (size->device != size->bytes) {
        str_bytes(device, (double)size->device);
        snprintf(bytes + strlen(bytes), 48, " (device %s)", device);
    }
    str_printf(s, size->bytes ? "\t%s\t%.2f" : "\t%s\t–", bytes, size->ratio);
}

static void add_row(struct str *s, const struct plan *p, const struct plan_setting *set,
                    const struct plan_variant *v, const char *tasks)
{
    const struct plan_model *m = &p->model[set->model];
    str_printf(s, isnan(v->spec.nominal_ratio) ? "%s%s%s\t–" : "%s%s%s\t%.2f", set->id, *tasks ? " on " : "",
               tasks, v->spec.nominal_ratio);
    add_size(s, &v->at_8k);
    add_size(s, &v->at_32k);
    str_printf(s, "\t%s\t%s\t%s\n", dtype_name(m->run.dtype), dtype_name(m->run.cache_dtype), set->overrides);
}

/* "passkey", or "longbench/qasper and 15 more". */
static char *tasks_text(const struct plan *p, const struct plan_setting *set, int variant)
{
    const char *first = NULL;
    int n = 0;
    for (int t = 0; t < p->n_task; t++) {
        if (set->of_task[t] != variant)
            continue;
        first = first ? first : p->task[t].cfg->id;
        n++;
    }
    return n > 1 ? mem_printf("%s and %d more", first, n - 1) : mem_strdup(first);
}

/* One row per setting, and one more for tasks on which it takes other bytes. */
static void print_settings(const struct plan *p)
{
    struct str s = {0};
    str_add(&s, "setting\tnominal\tat 8k\ttrue\tat 32k\ttrue\tdtype\tcache\toverrides\n");
    for (int i = 0; i < p->n_setting; i++) {
        const struct plan_setting *set = &p->setting[i];
        if (set->refused)
            continue;
        add_row(&s, p, set, &set->all, "");
        for (int k = 0; k < set->n_variant; k++) {
            const struct plan_variant *v = &set->variant[k];
            if (v->at_8k.bytes == set->all.at_8k.bytes && v->at_32k.bytes == set->all.at_32k.bytes)
                continue;
            char *tasks = tasks_text(p, set, k);
            add_row(&s, p, set, v, tasks);
            free(tasks);
        }
    }
    app_table(stdout, str_c(&s), "12345");
    str_free(&s);
}

static const char *task_metric(const struct plan *p, int task)
{
    return p->task[task].cfg->type->traits.metric;
}

/* What happens to a task's prompts besides the methods: not every task takes the model's chat template, and
 * only LongBench's prompts are cut to max_len. */
static const char *task_prompt(const struct plan *p, int task)
{
    const struct task_traits *t = &p->task[task].cfg->type->traits;
    if (p->config->mode == MODE_PAPER)
        return "as the reference";
    if (t->kind != TASK_LONGBENCH)
        return t->chat ? "template, not cut" : "no template, not cut";
    return t->chat ? "template, cut to max_len" : "no template, cut to max_len";
}

static void print_tasks(const struct plan *p)
{
    struct str s = {0};
    str_add(&s, "task\texamples\tmetric\tprompt\tparameters\n");
    for (int i = 0; i < p->n_task; i++)
        str_printf(&s, "%s\t%d\t%s\t%s\t%s\n", p->task[i].cfg->id, p->task[i].n_example, task_metric(p, i),
                   task_prompt(p, i), p->task[i].params);
    app_table(stdout, str_c(&s), "1");
    str_free(&s);
}

/* Tasks without their data: how many published rows that leaves out of the units. */
static void print_absent_rows(const struct plan *p)
{
    const char *first = NULL;
    int64_t n_row = 0, n_unit = p->n_unit, n_task = 0;
    for (int i = 0; i < p->n_task; i++) {
        const struct plan_task *t = &p->task[i];
        if (!t->absent)
            continue;
        first = first ? first : t->cfg->id;
        n_row += t->n_example;
        for (int s = 0; s < p->n_setting; s++)
            n_unit += plan_runs(p, s, i) ? t->n_example : 0;
        n_task++;
    }
    if (!n_task)
        return;
    printf("task %s", first);
    if (n_task > 1)
        printf(" and %lld more", (long long)n_task - 1);
    printf(": the data is absent; with its %lld published rows a setting it would be %lld units\n",
           (long long)n_row, (long long)n_unit);
}

/* What was not there, and what was taken in its place. */
static void print_absent(const struct plan *p)
{
    for (int i = 0; i < p->n_model; i++)
        if (p->model[i].assumed)
            printf("model %s: %s is absent; bytes follow the shape in its model file\n", p->model[i].run.id,
                   p->model[i].run.path);
    for (int i = 0; i < p->n_task; i++)
        if (p->task[i].stand_in)
            printf("task %s: its haystack is absent; a synthetic one stands in\n", p->task[i].cfg->id);
    for (int i = 0; i < p->n_task; i++)
        if (p->task[i].guessed)
            printf("task %s counts tokens: four bytes each where a model's tokenizer is absent\n",
                   p->task[i].cfg->id);
    print_absent_rows(p);
}

static void print_refused(const struct plan *p)
{
    for (int i = 0; i < p->n_setting; i++)
        if (p->setting[i].refused)
            printf("refused: %s: %s\n", p->setting[i].id, p->setting[i].refused);
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
    putchar('\n');
    print_absent(p);
    print_refused(p);
    printf("%d settings", p->n_setting);
    if (p->n_refused)
        printf(" (%d refused)", p->n_refused);
    printf(", %lld units in %lld bundles, mode %s, %s of weights to read; very roughly %s on %d cores\n",
           (long long)p->n_unit, (long long)p->n_bundle, p->config->mode == MODE_PAPER ? "paper" : "fair", w,
           t, n_core());
}

static json_t *number_or_null(double v)
{
    return isnan(v) ? json_null() : json_real(v);
}

/* Bytes and ratios under a map's keys; null where a budget cannot hold the prompt. */
static void json_size(json_t *o, const char *bytes, const char *device, const char *ratio,
                      const struct plan_size *size)
{
    json_object_set_new(o, bytes, size->bytes ? json_integer((json_int_t)size->bytes) : json_null());
    json_object_set_new(o, device, size->bytes ? json_integer((json_int_t)size->device) : json_null());
    json_object_set_new(o, ratio, number_or_null(size->ratio));
}

static void json_sizes(json_t *o, const struct plan_variant *v)
{
    json_object_set_new(o, "nominal_ratio", number_or_null(v->spec.nominal_ratio));
    json_size(o, "kv_bytes_8k", "device_bytes_8k", "true_ratio_8k", &v->at_8k);
    json_size(o, "kv_bytes_32k", "device_bytes_32k", "true_ratio_32k", &v->at_32k);
}

/* Parameters of the family, where they are not the defaults. */
static void add_options(json_t *o, const char *architecture, const struct plan_variant *v)
{
    struct str text = {0};
    family_params_text(family_find(architecture), &v->over.options, &text);
    if (text.n)
        json_object_set_new(o, "family_params", json_string(str_c(&text)));
    str_free(&text);
}

/* What each group of tasks runs: the method and the model's overrides after all rules. */
static json_t *json_variants(const struct plan *p, const struct plan_setting *s)
{
    json_t *list = json_array();
    for (int k = 0; k < s->n_variant; k++) {
        const struct plan_variant *v = &s->variant[k];
        json_t *tasks = json_array(), *o;
        for (int t = 0; t < p->n_task; t++)
            if (s->of_task[t] == k)
                json_array_append_new(tasks, json_string(p->task[t].cfg->id));
        o = json_pack("{s:o, s:s, s:f}", "tasks", tasks, "method", v->spec.text, "rope_theta_factor",
                      v->over.rope_theta_factor);
        add_options(o, p->model[s->model].config.architecture, v);
        json_sizes(o, v);
        json_array_append_new(list, o);
    }
    return list;
}

static json_t *json_setting(const struct plan *p, const struct plan_setting *s)
{
    const struct plan_model *m = &p->model[s->model];
    json_t *o = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "id", s->id, "model", m->run.id,
                          "model_hash", m->hash, "method", s->spec->text, "overrides", s->overrides, "dtype",
                          dtype_name(m->run.dtype), "cache_dtype", dtype_name(m->run.cache_dtype));
    if (s->refused)
        json_object_set_new(o, "refused", json_string(s->refused));
    json_sizes(o, &s->all);
    json_object_set_new(o, "on_tasks", json_variants(p, s));
    return o;
}

static json_t *json_task(const struct plan *p, int i)
{
    const struct plan_task *t = &p->task[i];
    json_t *o = json_pack("{s:s, s:s, s:i, s:s}", "id", t->cfg->id, "params", t->params, "examples",
                          t->n_example, "metric", task_metric(p, i));
    if (!t->absent && !t->stand_in && !t->guessed)
        json_object_set_new(o, "source_sha256", json_string(task_source_sha256(p->model[0].task[i])));
    if (t->absent)
        json_object_set_new(o, "absent", json_string("data"));
    if (t->stand_in)
        json_object_set_new(o, "absent", json_string("haystack"));
    return o;
}

static json_t *json_model(const struct plan_model *m)
{
    return json_pack("{s:s, s:s, s:I, s:s, s:b, s:I}", "id", m->run.id, "path", m->run.path, "max_len",
                     (json_int_t)m->run.max_len, "template", m->run.template, "absent", m->assumed,
                     "file_bytes", (json_int_t)m->file_bytes);
}

static int print_json(const struct plan *p)
{
    json_t *root = json_object(), *models = json_array(), *settings = json_array(), *tasks = json_array();
    for (int i = 0; i < p->n_model; i++)
        json_array_append_new(models, json_model(&p->model[i]));
    for (int i = 0; i < p->n_setting; i++)
        json_array_append_new(settings, json_setting(p, &p->setting[i]));
    for (int i = 0; i < p->n_task; i++)
        json_array_append_new(tasks, json_task(p, i));
    json_object_set_new(root, "models", models);
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
               "would run, with the bytes of every setting's cache. No weight is read; models and data that "
               "are absent are replaced by what is known of them, and marked.",
        .children = children};
    struct plan_args a = {0};
    struct config c = {0};
    struct plan p = {0};
    app_parse(app, &argp, argc, argv, &a);
    int rc = app_config_open(app, &c, &a.config);
    c.strict = a.strict;
    if (rc == 0)
        rc = plan_sketch(&p, &c);
    if (rc == 0 && a.json)
        rc = print_json(&p);
    else if (rc == 0)
        print_text(&p);
    plan_close(&p);
    config_close(&c);
    app_config_free(&a.config);
    return rc;
}
