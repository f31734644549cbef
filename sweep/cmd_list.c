#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "sweep/app.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

static error_t parser(int key, char *arg, struct argp_state *state)
{
    const char **what = state->input;
    if (key == ARGP_KEY_ARG && !*what)
        *what = arg;
    else if (key == ARGP_KEY_END && !*what) {
        fprintf(stderr, "%s: what? methods, models, tasks, templates or kernels\n", state->name);
        exit(1);
    } else
        return ARGP_ERR_UNKNOWN;
    return 0;
}

static void print_range(const struct param *p, struct str *s)
{
    char lo[32], hi[32];
    if (p->choices) {
        str_add(s, p->choices);
    } else if (p->type == PARAM_TEXT) {
        str_add(s, "text");
    } else {
        str_double(lo, p->min);
        str_double(hi, p->max);
        str_printf(s, "%s to %s", lo, hi);
    }
}

static void print_params(const struct param *table)
{
    struct str s = {0};
    for (const struct param *p = table; p && p->name; p++) {
        char def[32];
        str_double(def, p->def);
        const char *shown = p->type == PARAM_TEXT ? p->def_text : def;
        str_printf(&s, "    %s\t", p->name);
        print_range(p, &s);
        if (p->type == PARAM_CHOICE) { /* the default's word */
            const char *c = p->choices;
            for (int i = (int)p->def; i > 0; i--)
                c = strchr(c, '|') + 1;
            str_printf(&s, "\tdefault %.*s", (int)strcspn(c, "|"), c);
        } else {
            str_printf(&s, "\t%s%s", shown && *shown ? "default " : "", shown ? shown : "");
        }
        str_printf(&s, "\t%s\n", p->help);
    }
    app_table(stdout, str_c(&s), "");
    str_free(&s);
}

static int list_methods(struct app *app)
{
    (void)app;
    const struct kv_method *m;
    for (int i = 0; (m = kv_method_at(i)); i++) {
        const struct kv_info k = kv_method_info(m);
        printf("%s%s\n  %s%s%s\n", k.name, k.ratio ? "  (also ratio=N)" : "", k.summary ? k.summary : "",
               k.source && *k.source ? "; " : "", k.source ? k.source : "");
        if (k.layers)
            printf("  skip_layers=LIST leaves layers full (0-1;30)%s\n",
                   k.windows ? "; window_layers=1 acts on layers with a window too" : "");
        print_params(k.params);
    }
    return 0;
}

static bool has_param(const struct param *table, const char *name)
{
    for (const struct param *p = table; p && p->name; p++)
        if (!strcmp(p->name, name))
            return true;
    return false;
}

/* The 16 datasets share their parameters: one line each. */
static int list_tasks(struct app *app)
{
    (void)app;
    const struct task_type *t;
    struct str s = {0};
    const struct param *last = NULL;
    for (int i = 0; (t = task_type_at(i)); i++)
        str_printf(&s, "%s\t%s\t%s\t%d new tokens\t%s\n", t->name, t->traits.category, t->traits.metric,
                   t->traits.max_new, t->source);
    app_table(stdout, str_c(&s), "");
    str_free(&s);
    for (int i = 0; (t = task_type_at(i)); i++) {
        if (t->params == last)
            continue;
        last = t->params;
        printf("\nparameters of %s%s\n", has_param(t->params, "data") ? "longbench/…" : t->name, "");
        print_params(t->params);
    }
    return 0;
}

static int list_models(struct app *app)
{
    struct config_source src = app_source(app);
    char **ids = config_model_ids(NULL, &src);
    struct str s = {0};
    str_add(&s, "model\ttemplate\tmax_len\tfile\t\n");
    int rc = 0;
    for (char **id = ids; *id; id++) {
        struct config_model m;
        if (rc == 0 && (rc = config_model_open(&m, *id, NULL, &src)) == 0) {
            bool there = file_exists(m.path) || file_is_dir(m.path);
            str_printf(&s, "%s\t%s\t%lld\t%s\t%s%s\n", m.id, m.template, (long long)m.max_len, m.path,
                       there            ? "there"
                       : m.fetch.n_part ? "get it with: kvsweep fetch "
                                        : "missing",
                       !there && m.fetch.n_part ? m.id : "");
            config_model_close(&m);
        }
        free(*id);
    }
    free(ids);
    if (rc == 0)
        app_table(stdout, str_c(&s), "2");
    str_free(&s);
    return rc;
}

static int list_kernels(struct app *app)
{
    (void)app;
    struct str s = {0};
    str_add(&s, "backend\tdevice\tinstructions\tthreads\tlibraries\n");
    for (const char *const *name = ops_names(); *name; name++) {
        struct ops *o = NULL;
        struct ops_options opt = {.isa = "auto", .act = DT_F32};
        if (ops_open(&o, *name, &opt) < 0) {
            str_printf(&s, "%s\tnot here: %s\t\t\t\n", *name, err_text());
            continue;
        }
        str_printf(&s, "%s\t%s\t%s\t%d\t%s\n", *name, o->device, o->isa, o->threads, o->libraries);
        ops_close(o);
    }
    app_table(stdout, str_c(&s), "3");
    str_free(&s);
    return 0;
}

/* As a JSON string, so that line ends and blanks at the ends are seen. */
static void print_quoted(const char *key, const char *text)
{
    json_t *j = json_string(text);
    char *quoted = json_dumps(j, JSON_ENCODE_ANY);
    printf("    %s  %s\n", key, quoted);
    free(quoted);
    json_decref(j);
}

static int list_templates(struct app *app)
{
    (void)app;
    const struct chat_template *t;
    for (int i = 0; (t = tok_template_at(i)); i++) {
        printf("%s\n  %s%s\n", t->name, t->source, t->trim ? "; blanks around the prompt are cut off" : "");
        print_quoted("before", t->before);
        print_quoted("after ", t->after);
        if (t->stop)
            print_quoted("stop  ", t->stop);
    }
    return 0;
}

int cmd_list(struct app *app, int argc, char **argv)
{
    static const struct argp argp = {
        .parser = parser,
        .args_doc = "methods|models|tasks|templates|kernels",
        .doc = "Lists what there is, with parameters, defaults, ranges and sources."};
    static const char *const words[] = {"methods", "models", "tasks", "templates", "kernels", NULL};
    static int (*const list[])(struct app *) = {list_methods, list_models, list_tasks, list_templates,
                                                list_kernels};
    const char *what = NULL;
    app_parse(app, &argp, argc, argv, &what);
    for (int i = 0; words[i]; i++)
        if (!strcmp(what, words[i]))
            return list[i](app);
    const char *near = str_nearest(what, words);
    return err_set(ERR_INPUT, "list: '%s' is not one of methods, models, tasks, templates, kernels%s%s%s",
                   what, near ? "; did you mean '" : "", near ? near : "", near ? "'?" : "");
}
