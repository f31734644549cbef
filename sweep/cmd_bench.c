/* Speed beside the limits of the machine, all measured in this one run. */
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/sink.h"
#include "kernels/bench.h"
#include "run/limits.h"
#include "run/probe.h"
#include "sweep/app.h"
#include "sweep/plan.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { KEY_CONTEXT = 1, KEY_JSON, KEY_DTYPE, KEY_CACHE, KEY_THREADS, KEY_ISA, KEY_DEVICE };

struct bench_args {
    const char *what, *model, *method, *dtype, *cache_dtype, *isa, *device;
    int64_t context, threads;
    bool json;
};

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
    case KEY_THREADS:
        if (!str_to_int(arg, key == KEY_CONTEXT ? &a->context : &a->threads) || *arg == '-') {
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

/* One bench at work: the loaded model, its limits, and the rows that are printed at the end. */
struct bench {
    const struct bench_args *a;
    struct app *app;
    struct runner *r;
    struct kv_spec spec;
    enum dtype dtype, cache;
    struct run_limits lim;
    struct str table, json;
};

/* value in `unit`; limit 0: none is known. */
static void row(struct bench *b, const char *name, double value, const char *unit, double limit,
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

static void print(struct bench *b)
{
    const struct ops *o = runner_ops(b->r);
    if (b->a->json) {
        printf("{\"bench\": \"%s\", \"device\": \"%s\", \"isa\": \"%s\", \"threads\": %d, \"dtype\": \"%s\", "
               "\"rows\": [%s]}\n",
               b->a->what, o->device, o->isa, o->threads, dtype_name(b->dtype), str_c(&b->json));
        return;
    }
    printf("%s, %s, %d threads, %s weights, %s cache; memory reads %.1f GB/s, products %.0f GFLOP/s\n\n",
           o->device, o->isa, o->threads, dtype_name(b->dtype), dtype_name(b->cache), 1e-9 * b->lim.read_rate,
           1e-9 * b->lim.product_rate);
    struct str all = {0};
    str_add(&all, "what\tmeasured\tlimit\tratio\n");
    str_add(&all, str_c(&b->table));
    app_table(stdout, all.data, "123");
    str_free(&all);
}

static double time_product(struct ops *o, struct tensor y, struct tensor x, const struct weight *w)
{
    double best = 0, end = clock_now() + 0.3;
    for (int i = 0; i < 3 || clock_now() < end; i++) {
        double t = clock_now();
        o->matmul(o, y, x, w, NULL);
        o->sync(o);
        t = clock_now() - t;
        best = best == 0 || t < best ? t : best;
    }
    return best;
}

static int bench_product_rows(struct bench *b, const char *name, int64_t n_out, int64_t n_in)
{
    static const int64_t rows[] = {1, 16, 512};
    struct ops *o = runner_ops(b->r);
    struct weight w = {
        .n_out = n_out, .n_in = n_in, .dtype = b->dtype, .bytes = o->pack_bytes(o, n_out, n_in, b->dtype)};
    struct tensor src = {
        o->alloc(o, (size_t)(n_out * n_in) * 4, MEM_WORKSPACE, PLACE_DEVICE), DT_F32, {n_out, n_in, 1, 1}};
    struct tensor x = {
        o->alloc(o, (size_t)(512 * n_in) * 4, MEM_WORKSPACE, PLACE_DEVICE), o->act, {512, n_in, 1, 1}};
    struct tensor y = {
        o->alloc(o, (size_t)(512 * n_out) * 4, MEM_WORKSPACE, PLACE_DEVICE), o->act, {512, n_out, 1, 1}};
    w.packed = o->alloc(o, w.bytes, MEM_WEIGHTS, PLACE_DEVICE);
    int rc =
        src.data && x.data && y.data && w.packed ? 0 : err_set(ERR_NOMEM, "no memory for product %s", name);
    if (rc == 0)
        o->pack(o, &w, &src);
    for (int i = 0; i < 3 && rc == 0; i++) {
        int64_t m = rows[i];
        double s = time_product(o, tensor_rows(&y, 0, m), tensor_rows(&x, 0, m), &w);
        const struct bench_product p = {m, n_in, n_out, 1};
        double limit = bench_product_rate(&p, 1, b->dtype == DT_BF16 ? DT_BF16 : DT_F32, o->threads, 0.3);
        char label[96];
        snprintf(label, sizeof label, "%s %lldx%lld, %lld rows", name, (long long)n_out, (long long)n_in,
                 (long long)m);
        row(b, label, 2e-9 * (double)(m * n_in * n_out) / s, "GFLOP/s", 1e-9 * limit,
            "GFLOP/s (library alone)");
    }
    o->free(o, src.data);
    o->free(o, x.data);
    o->free(o, y.data);
    o->free(o, w.packed);
    return rc;
}

static int bench_kernels(struct bench *b)
{
    const struct model_config *c = model_config(runner_model(b->r));
    int64_t hd = (int64_t)c->n_head * c->head_dim, kd = (int64_t)c->n_kv_head * c->head_dim;
    row(b, "memory reads", 1e-9 * b->lim.read_rate, "GB/s", 0, "");
    TRY(bench_product_rows(b, "q,k,v", hd + 2 * kd, c->d_model));
    TRY(bench_product_rows(b, "o", c->d_model, hd));
    TRY(bench_product_rows(b, "gate,up", 2 * c->d_ff, c->d_model));
    TRY(bench_product_rows(b, "down", c->d_model, c->d_ff));
    return 0;
}

static int bench_prefill(struct bench *b)
{
    struct probe_time t, best = {0};
    for (int i = 0; i < 5; i++) {
        TRY(probe_time(b->r, &b->spec, b->a->context, 1, 1, &t));
        if (i == 0 || t.s_prefill < best.s_prefill)
            best = t;
        runner_limits_again(b->r, &b->lim);
    }
    double n = (double)b->a->context, flops = limits_prefill_flops(runner_model(b->r), b->a->context);
    char label[96];
    snprintf(label, sizeof label, "prefill of %lld tokens, %s", (long long)b->a->context, b->spec.label);
    row(b, label, n / best.s_prefill, "tokens/s", n * b->lim.product_rate / flops,
        "tokens/s at the product rate");
    row(b, "  its products and attention", 1e-9 * flops / best.s_prefill, "GFLOP/s",
        1e-9 * b->lim.product_rate, "GFLOP/s");
    return 0;
}

static int bench_decode_at(struct bench *b, int64_t context)
{
    struct probe_time one, many;
    char label[96];
    TRY(probe_time(b->r, &b->spec, context, 1, 24, &one));
    double floor1 = limits_step_s(runner_model(b->r), &b->lim, b->dtype, 1, (double)one.cache_bytes);
    snprintf(label, sizeof label, "decode at %lld, %s, 1 sequence", (long long)context, b->spec.label);
    row(b, label, 1 / one.s_step, "tokens/s", floor1 > 0 ? 1 / floor1 : 0, "tokens/s at the read rate");
    row(b, "  attention per step", 1e3 * one.s_attend_step, "ms", 0, "");
    row(b, "  cache", (double)one.cache_bytes / 1048576, "MiB", 0, "");
    if (context > 4096)
        return 0; /* sixteen long caches are a test of memory, not of speed */
    TRY(probe_time(b->r, &b->spec, context, 16, 12, &many));
    double floor16 = limits_step_s(runner_model(b->r), &b->lim, b->dtype, 16, (double)many.cache_bytes);
    snprintf(label, sizeof label, "decode at %lld, %s, 16 sequences", (long long)context, b->spec.label);
    row(b, label, 16 / many.s_step, "tokens/s", floor16 > 0 ? 16 / floor16 : 0, "tokens/s at the read rate");
    row(b, "  16 sequences over 1", 16 * one.s_step / many.s_step, "times", 0, "");
    row(b, "  prompt passes of the 16", (double)many.prefill_passes, "", 0, "");
    return 0;
}

/* Seven settings of one needle example: one prompt pass for its class, together against one by one, and the
 * journal's share. */
static const char sweep_text[] =
    "models: [%s]\n"
    "methods: [full, \"kivi:bits=4\", \"kivi:bits=2\", \"kivi:bits=4,group=64\", \"kivi:bits=2,group=64\", "
    "\"kivi:bits=4,residual=64\", \"kivi:bits=2,residual=64\"]\n"
    "tasks:\n  - {name: passkey, lengths: [%lld], unit: tokens, depths: 2, iterations: 1, digits: 7, "
    "haystack: synthetic, max_new: 32}\n"
    "dtype: %s\ncache_dtype: %s\n";

static int run_bundles(struct bench *b, const struct plan *p, struct sink *sink, int per_call, double *s_run,
                       double *s_put, int64_t *passes)
{
    struct record out[PLAN_BATCH];
    struct run_unit u[PLAN_BATCH];
    int64_t p0, p1, tokens;
    runner_counts(b->r, &p0, &tokens);
    *s_run = *s_put = 0;
    for (int64_t i = 0; i < p->n_bundle; i++) {
        const struct plan_bundle *bundle = &p->bundle[i];
        for (int at = 0; at < bundle->n; at += per_call) {
            int n = bundle->n - at < per_call ? bundle->n - at : per_call;
            for (int k = 0; k < n; k++)
                u[k] = plan_run_unit(p, bundle->first + at + k);
            double t0 = clock_now();
            TRY(runner_bundle(b->r, p->model[bundle->model].task[bundle->task], u, n, out));
            double t1 = clock_now();
            int rc = sink ? sink_hdf5.put(sink, out, n) : 0;
            *s_run += t1 - t0;
            *s_put += clock_now() - t1;
            for (int k = 0; k < n; k++)
                record_free(&out[k]);
            TRY(rc);
        }
    }
    runner_counts(b->r, &p1, &tokens);
    *passes = p1 - p0;
    return 0;
}

static int sweep_rows(struct bench *b, const struct plan *p)
{
    struct sink_plan sp = {0};
    struct str text = {0};
    struct sink *sink = NULL;
    char *path = mem_printf("/tmp/kvsweep-bench-%d.h5", (int)getpid());
    double together, alone, put, none;
    int64_t passes, passes_alone;
    plan_sink(p, &sp, &text);
    int rc = sink_hdf5.open(&sink, path, &sp);
    if (rc == 0)
        rc = run_bundles(b, p, sink, PLAN_BATCH, &together, &put, &passes);
    if (rc == 0)
        rc = run_bundles(b, p, NULL, 1, &alone, &none, &passes_alone);
    if (sink)
        sink_hdf5.close(sink);
    if (rc == 0) {
        row(b, "units", (double)p->n_unit, "", 0, "");
        row(b, "prompt passes, together", (double)passes, "", 0, "");
        row(b, "prompt passes, one by one", (double)passes_alone, "", 0, "");
        row(b, "time together over one by one", together / alone, "times", 0, "");
        row(b, "journal's share of the time", put / (together + put), "", 0, "");
    }
    unlink(path);
    plan_sink_free(&sp);
    str_free(&text);
    free(path);
    return rc;
}

static int bench_sweep(struct bench *b)
{
    char *yaml = mem_printf(sweep_text, b->a->model, (long long)b->a->context, dtype_name(b->dtype),
                            dtype_name(b->cache));
    struct config_source src = app_source(b->app);
    src.path = "bench";
    src.text = yaml;
    struct config c;
    struct plan p;
    int rc = config_open(&c, &src);
    free(yaml);
    TRY(rc);
    rc = plan_open(&p, &c);
    if (rc == 0) {
        rc = sweep_rows(b, &p);
        plan_close(&p);
    }
    config_close(&c);
    return rc;
}

static int dispatch(struct bench *b)
{
    const char *what = b->a->what;
    if (!strcmp(what, "kernels"))
        return bench_kernels(b);
    if (!strcmp(what, "prefill"))
        return bench_prefill(b);
    if (!strcmp(what, "decode"))
        return bench_decode_at(b, b->a->context);
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
                                .template = cm->template,
                                .max_len = cm->max_len,
                                .dtype = b->dtype,
                                .cache_dtype = b->cache};
    TRY(runner_open(&b->r, &o));
    TRY(runner_load(b->r, &m));
    runner_limits(b->r, &b->lim);
    TRY(dispatch(b));
    print(b);
    return 0;
}

int cmd_bench(struct app *app, int argc, char **argv)
{
    static const struct argp_option options[] = {
        {"model", 'm', "MODEL", 0, "id, GGUF file or folder (default smollm2-135m-instruct)", 0},
        {"method", 's', "SPEC", 0, "compressor (default full)", 0},
        {"context", KEY_CONTEXT, "N", 0, "tokens in the cache or prompt (default 2048)", 0},
        {"dtype", KEY_DTYPE, "f32|bf16|f16", 0, "weights (default bf16)", 0},
        {"cache-dtype", KEY_CACHE, "f32|bf16|f16", 0, "cache (default: the dtype)", 0},
        {"threads", KEY_THREADS, "N", 0, "threads (default: all processors)", 0},
        {"isa", KEY_ISA, "auto|avx512|avx2|portable", 0, "widest instruction set to use", 0},
        {"device", KEY_DEVICE, "auto|cpu|ref|cuda", 0, "where to compute (default auto)", 0},
        {"json", KEY_JSON, 0, 0, "JSON instead of a table", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "kernels|prefill|decode|sweep",
        .doc = "Measures speed beside the limits of this machine: memory reads, and products by the product "
               "library alone. Ratios hold within one run."};
    struct bench_args a = {.model = "smollm2-135m-instruct",
                           .method = "full",
                           .dtype = "bf16",
                           .isa = "auto",
                           .device = "auto",
                           .context = 2048};
    app_parse(app, &argp, argc, argv, &a);
    struct bench b = {.a = &a, .app = app};
    struct config_model cm = {0};
    TRY(dtype_parse(a.dtype, &b.dtype));
    TRY(dtype_parse(a.cache_dtype ? a.cache_dtype : a.dtype, &b.cache));
    if (a.context < 1 || a.context > 1 << 24)
        return err_set(ERR_INPUT, "--context takes 1 to %d", 1 << 24);
    TRY(app_model(app, a.model, &cm));
    int rc = kv_spec_parse(&b.spec, a.method);
    if (rc == 0)
        rc = app_no_prompt_method(&b.spec);
    if (rc == 0)
        rc = with_model(&b, &cm);
    runner_close(b.r);
    kv_spec_free(&b.spec);
    config_model_close(&cm);
    str_free(&b.table);
    str_free(&b.json);
    return rc;
}
