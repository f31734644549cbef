/* Speed beside the limits of the machine, all measured in this one run: options, table, dispatch. */
#include "base/err.h"
#include "base/mem.h"
#include "sweep/bench.h"
#include "sweep/defaults.h"

#include <stdlib.h>
#include <string.h>

enum {
    KEY_CONTEXT = 1,
    KEY_SETTINGS,
    KEY_SEQUENCES,
    KEY_NEW,
    KEY_JSON,
    KEY_DTYPE,
    KEY_CACHE,
    KEY_THREADS,
    KEY_ISA,
    KEY_DEVICE
};

static int64_t *number_of(struct bench_args *a, int key)
{
    return key == KEY_THREADS     ? &a->threads
           : key == KEY_NEW       ? &a->n_new
           : key == KEY_SEQUENCES ? &a->sequences
                                  : &a->settings;
}

static error_t parser(int key, char *arg, struct argp_state *state)
{
    struct bench_args *a = state->input;
    switch (key) {
    case 'm':
        a->model = arg;
        return 0;
    case 's':
        a->method = arg;
        return 0;
    case KEY_DTYPE:
        a->dtype = arg;
        return 0;
    case KEY_CACHE:
        a->cache_dtype = arg;
        return 0;
    case KEY_ISA:
        a->isa = arg;
        return 0;
    case KEY_DEVICE:
        a->device = arg;
        return 0;
    case KEY_JSON:
        a->json = true;
        return 0;
    case KEY_CONTEXT:
        a->context = arg;
        return 0;
    case KEY_THREADS:
    case KEY_SETTINGS:
    case KEY_SEQUENCES:
    case KEY_NEW:
        if (!str_to_int(arg, number_of(a, key)) || *arg == '-') {
            fprintf(stderr, "%s: '%s' is not a whole number\n", state->name, arg);
            exit(1);
        }
        return 0;
    case ARGP_KEY_ARG:
        if (a->what)
            return ARGP_ERR_UNKNOWN;
        a->what = arg;
        return 0;
    case ARGP_KEY_END:
        if (a->what)
            return 0;
        fprintf(stderr, "%s: write kvsweep bench kernels|prefill|decode|sweep\n", state->name);
        exit(1);
    default:
        return ARGP_ERR_UNKNOWN;
    }
}

void bench_row(struct bench *b, const char *name, double value, const char *unit, double limit,
               const char *limit_name)
{
    char share[32] = "";
    if (limit > 0)
        snprintf(share, sizeof share, "%.2f", value / limit);
    str_printf(&b->table, "%s\t%.4g %s\t", name, value, unit);
    if (limit > 0)
        str_printf(&b->table, "%.4g %s\t%s\n", limit, limit_name, share);
    else
        str_add(&b->table, "\t\n");
    str_printf(&b->json, "%s{\"name\": \"%s\", \"value\": %.9g, \"unit\": \"%s\"", b->json.n ? ", " : "",
               name, value, unit);
    if (limit > 0)
        str_printf(&b->json, ", \"limit\": %.9g, \"ratio\": %.6g", limit, value / limit);
    str_add(&b->json, "}");
}

bool bench_on_gpu(const struct bench *b)
{
    return !runner_ops(b->r)->on_host;
}

static void print_json(const struct bench *b)
{
    const struct ops *o = runner_ops(b->r);
    if (b->a->json)
        printf("{\"bench\": \"%s\", \"device\": \"%s\", \"isa\": \"%s\", \"threads\": %d, \"dtype\": \"%s\", "
               "\"rows\": [%s]}\n",
               b->a->what, o->device, o->isa, o->threads, dtype_name(b->dtype), str_c(&b->json));
}

static void print_head(const struct bench *b)
{
    const struct ops *o = runner_ops(b->r);
    if (b->a->json)
        return;
    printf("%s, %s, %d threads, %s weights, %s cache; %s %.1f GB/s, products %.0f GFLOP/s\n", o->device,
           o->isa, o->threads, dtype_name(b->dtype), dtype_name(b->cache),
           o->on_host ? "memory reads" : "device copy", 1e-9 * b->lim.read_rate, 1e-9 * b->lim.product_rate);
    fflush(stdout);
}

/* The rows since the last call: what was measured stays if a later point takes too long. */
static void print_rows(struct bench *b)
{
    struct str all = {0};
    if (!b->a->json && b->table.n) {
        str_add(&all, "\nwhat\tmeasured\tlimit\tratio\n");
        str_add(&all, str_c(&b->table));
        app_table(stdout, all.data, "123");
        fflush(stdout);
    }
    str_free(&all);
    str_clear(&b->table);
}

/* Every context with every method. */
static int each_point(struct bench *b, int (*point)(struct bench *, const struct kv_spec *, int64_t))
{
    for (int i = 0; i < b->n_context; i++) {
        for (int k = 0; k < b->n_spec; k++) {
            TRY(point(b, &b->spec[k], b->context[i]));
            print_rows(b);
        }
    }
    return 0;
}

static int dispatch(struct bench *b)
{
    const char *what = b->a->what;
    if (!strcmp(what, "kernels"))
        return bench_kernels(b);
    if (!strcmp(what, "prefill"))
        return each_point(b, bench_prefill);
    if (!strcmp(what, "decode"))
        return each_point(b, bench_decode);
    if (!strcmp(what, "sweep"))
        return bench_sweep(b);
    return err_set(ERR_INPUT, "bench %s: use kernels, prefill, decode or sweep", what);
}

static int with_model(struct bench *b, const struct config_model *cm)
{
    const struct bench_args *a = b->a;
    const struct run_options o = {
        .device = a->device, .isa = a->isa, .threads = (int)a->threads, .topk = 64, .logits_first = 1};
    const struct run_model m = {.id = cm->id,
                                .path = cm->path,
                                .tokenizer = cm->tokenizer,
                                .template = cm->template,
                                .max_len = cm->max_len,
                                .dtype = b->dtype,
                                .cache_dtype = b->cache};
    b->path = cm->path;
    TRY(runner_open(&b->r, &o));
    TRY(runner_load(b->r, &m));
    for (int i = 0; i < b->n_spec; i++)
        TRY(defaults_apply(&b->spec[i], cm, model_config(runner_model(b->r))->architecture));
    runner_limits(b->r, &b->lim);
    print_head(b);
    TRY(dispatch(b));
    print_rows(b);
    print_json(b);
    return 0;
}

/* Length of the first entry of a list. A comma before NAME=VALUE does not end it: that is the method's next
 * parameter, "kivi:bits=2,residual=64,full" are two. */
static size_t entry_length(const char *list)
{
    size_t n = strcspn(list, ",");
    while (list[n] && list[n + 1 + strcspn(list + n + 1, ":=,")] == '=')
        n += 1 + strcspn(list + n + 1, ",");
    return n;
}

static int add_context(struct bench *b, const char *text)
{
    int64_t n;
    if (b->n_context == BENCH_LIST)
        return err_set(ERR_INPUT, "--context takes at most %d numbers", BENCH_LIST);
    if (!str_to_int(text, &n) || n < 1 || n > 1 << 24)
        return err_set(ERR_INPUT, "--context takes 1 to %d, not '%s'", 1 << 24, text);
    b->context[b->n_context++] = n;
    return 0;
}

static int add_method(struct bench *b, const char *text)
{
    if (b->n_spec == BENCH_LIST)
        return err_set(ERR_INPUT, "--method takes at most %d methods", BENCH_LIST);
    TRY(kv_spec_parse(&b->spec[b->n_spec], text));
    return app_no_prompt_method(&b->spec[b->n_spec++]);
}

static int each_entry(struct bench *b, const char *list, int (*add)(struct bench *, const char *))
{
    int rc = 0;
    for (const char *at = list; at && rc == 0;) {
        size_t n = entry_length(at);
        char *entry = mem_printf("%.*s", (int)n, at);
        rc = add(b, entry);
        free(entry);
        at = at[n] ? at + n + 1 : NULL;
    }
    return rc;
}

static int take_lists(struct bench *b)
{
    const struct bench_args *a = b->a;
    bool points = !strcmp(a->what, "prefill") || !strcmp(a->what, "decode");
    TRY(each_entry(b, a->context, add_context));
    TRY(each_entry(b, a->method, add_method));
    if (!points && b->n_context * b->n_spec > 1)
        return err_set(ERR_INPUT, "bench %s takes one context and one method", a->what);
    return 0;
}

int cmd_bench(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"model", 'm', "MODEL", 0, "id, GGUF file or folder (default smollm2-135m-instruct)", 0},
        {"method", 's', "SPEC,...", 0, "compressors (default full)", 0},
        {"context", KEY_CONTEXT, "N,...", 0, "tokens in the cache or prompt (default 2048)", 0},
        {"sequences", KEY_SEQUENCES, "N", 0,
         "decode: so many together too (default 16; 1: none); on a GPU each with a prompt of its own", 0},
        {"settings", KEY_SETTINGS, "N", 0, "sweep: settings of one example (default 7, at most 20)", 0},
        {"new", KEY_NEW, "N", 0, "sweep: new tokens of each (default 32)", 0},
        {"dtype", KEY_DTYPE, "f32|bf16|f16", 0, "weights (default bf16)", 0},
        {"cache-dtype", KEY_CACHE, "f32|bf16|f16", 0, "cache (default: the dtype)", 0},
        {"threads", KEY_THREADS, "N", 0, "threads (default: all CPU cores)", 0},
        {"isa", KEY_ISA, "auto|avx512|avx2|portable", 0,
         "widest instruction set to use; on a GPU: wgmma, serial (ops.h)", 0},
        {"device", KEY_DEVICE, "auto|cpu|ref|cuda", 0, "where to compute (default auto)", 0},
        {"json", KEY_JSON, 0, 0, "JSON instead of a table", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "kernels|prefill|decode|sweep",
        .doc = "Measures speed beside the limits of this machine: memory reads (a GPU: copies inside its "
               "memory), and products by the product library alone. Ratios hold within one run. prefill and "
               "decode take "
               "lists: every context with every method, the model is loaded once."};
    struct bench_args a = {.model = "smollm2-135m-instruct",
                           .method = "full",
                           .dtype = "bf16",
                           .isa = "auto",
                           .device = "auto",
                           .context = "2048",
                           .settings = 7,
                           .sequences = 16,
                           .n_new = 32};
    app_parse(app, &argp, argc, argv, &a);
    struct bench b = {.a = &a, .app = app};
    struct config_model cm = {0};
    TRY(dtype_parse(a.dtype, &b.dtype));
    TRY(dtype_parse(a.cache_dtype ? a.cache_dtype : a.dtype, &b.cache));
    if (a.settings < 1 || a.settings > BENCH_SETTINGS)
        return err_set(ERR_INPUT, "--settings takes 1 to %d", BENCH_SETTINGS);
    if (a.sequences < 1 || a.sequences > 256)
        return err_set(ERR_INPUT, "--sequences takes 1 to 256");
    if (a.n_new < 1 || a.n_new > 4096)
        return err_set(ERR_INPUT, "--new takes 1 to 4096");
    TRY(app_model(app, a.model, &cm));
    int rc = take_lists(&b);
    if (rc == 0)
        rc = with_model(&b, &cm);
    runner_close(b.r);
    for (int i = 0; i < b.n_spec; i++)
        kv_spec_free(&b.spec[i]);
    config_model_close(&cm);
    str_free(&b.table);
    str_free(&b.json);
    return rc;
}
