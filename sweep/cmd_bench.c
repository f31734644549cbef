/* Speed beside the limits of the machine, all measured in this one run. */
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
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

struct bench_args {
    const char *what, *model, *method, *context, *dtype, *cache_dtype, *isa, *device;
    int64_t threads, settings, sequences, n_new;
    bool json;
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

enum { LIST = 16 };

/* One bench at work: the loaded model, its limits, and the rows that are not printed yet (JSON: all). */
struct bench {
    const struct bench_args *a;
    struct app *app;
    struct runner *r;
    int64_t context[LIST];
    struct kv_spec spec[LIST];
    int n_context, n_spec;
    enum dtype dtype, cache;
    struct run_limits lim;
    const char *path; /* of the model */
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
           strcmp(o->name, "cuda") ? "memory reads" : "device copy", 1e-9 * b->lim.read_rate,
           1e-9 * b->lim.product_rate);
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

static bool on_card(const struct bench *b)
{
    return strcmp(runner_ops(b->r)->name, "cuda") == 0;
}

/* Weights of one shape. On a card there are so many copies that its cache holds none until its turn comes. */
enum { COPIES = 64 };
struct shape {
    struct weight w[COPIES];
    int n;
};

/* Seconds of one product: the best of runs over all copies. */
static double time_product(struct ops *o, struct tensor y, struct tensor x, const struct shape *s)
{
    double best = 0, end = clock_now() + 0.3;
    for (int i = 0; i < 3 || clock_now() < end; i++) {
        double t = clock_now();
        for (int k = 0; k < s->n; k++)
            o->matmul(o, y, x, &s->w[k], NULL);
        o->sync(o);
        t = (clock_now() - t) / s->n;
        best = best == 0 || t < best ? t : best;
    }
    return best;
}

static int shape_open(struct bench *b, struct shape *s, int64_t n_out, int64_t n_in)
{
    struct ops *o = runner_ops(b->r);
    size_t bytes = o->pack_bytes(o, n_out, n_in, b->dtype), enough = (size_t)256 << 20;
    struct tensor src = {bench_random(o, n_out * n_in, b->dtype), b->dtype, {n_out, n_in, 1, 1}};
    int n = !on_card(b) ? 1 : bytes * COPIES < enough ? COPIES : (int)((enough + bytes - 1) / bytes);
    *s = (struct shape){.n = 0};
    for (int i = 0; i < n && src.data; i++) {
        struct weight *w = &s->w[i];
        *w = (struct weight){.n_out = n_out, .n_in = n_in, .dtype = b->dtype, .bytes = bytes};
        w->packed = o->alloc(o, bytes, MEM_WEIGHTS, PLACE_DEVICE);
        if (!w->packed)
            break;
        o->pack(o, w, &src);
        s->n++;
    }
    o->free(o, src.data);
    return s->n == n && n ? o->sync(o)
                          : err_set(ERR_NOMEM, "no memory for products of %lld x %lld", (long long)n_out,
                                    (long long)n_in);
}

static void shape_close(struct bench *b, struct shape *s)
{
    struct ops *o = runner_ops(b->r);
    for (int i = 0; i < s->n; i++)
        o->free(o, s->w[i].packed);
}

/* Few rows on a card are bound by reading the weights, everything else by the product library's own rate. */
static void product_row(struct bench *b, const char *name, const struct weight *w, int64_t m, double s)
{
    char label[96];
    snprintf(label, sizeof label, "%s %lldx%lld, %lld rows", name, (long long)w->n_out, (long long)w->n_in,
             (long long)m);
    double flops = 2.0 * (double)m * (double)w->n_in * (double)w->n_out;
    if (on_card(b) && m <= 32) {
        row(b, label, 1e-9 * (double)w->bytes / s, "GB/s", 1e-9 * b->lim.read_rate, "GB/s (device copy)");
        return;
    }
    const struct bench_product p = {m, w->n_in, w->n_out, 1};
    double limit = on_card(b) ? bench_table_product_rate(runner_ops(b->r), &p, 1, b->dtype)
                              : bench_product_rate(&p, 1, b->dtype == DT_BF16 ? DT_BF16 : DT_F32,
                                                   runner_ops(b->r)->threads, 0.3);
    row(b, label, 1e-9 * flops / s, "GFLOP/s", 1e-9 * limit, "GFLOP/s (library alone)");
}

static int bench_product_rows(struct bench *b, const char *name, int64_t n_out, int64_t n_in)
{
    static const int64_t rows[] = {1, 16, 20, 32, 512};
    struct ops *o = runner_ops(b->r);
    struct shape s;
    struct tensor x = {bench_random(o, 512 * n_in, o->act), o->act, {512, n_in, 1, 1}};
    struct tensor y = {
        o->alloc(o, (size_t)(512 * n_out) * 4, MEM_WORKSPACE, PLACE_DEVICE), o->act, {512, n_out, 1, 1}};
    int rc = shape_open(b, &s, n_out, n_in);
    if (rc == 0 && (!x.data || !y.data))
        rc = err_set(ERR_NOMEM, "no memory for product %s", name);
    for (int i = 0; i < 5 && rc == 0; i++) {
        int64_t m = rows[i];
        if (on_card(b) || m == 1 || m == 16 || m == 512)
            product_row(b, name, &s.w[0], m,
                        time_product(o, tensor_rows(&y, 0, m), tensor_rows(&x, 0, m), &s));
    }
    shape_close(b, &s);
    o->free(o, x.data);
    o->free(o, y.data);
    return rc;
}

static int bench_kernels(struct bench *b)
{
    const struct model_config *c = model_config(runner_model(b->r));
    int64_t hd = (int64_t)c->n_head * c->head_dim, kd = (int64_t)c->n_kv_head * c->head_dim;
    row(b, on_card(b) ? "device copy" : "memory reads", 1e-9 * b->lim.read_rate, "GB/s", 0, "");
    TRY(bench_product_rows(b, "q,k,v", hd + 2 * kd, c->d_model));
    TRY(bench_product_rows(b, "o", c->d_model, hd));
    TRY(bench_product_rows(b, "gate,up", 2 * c->d_ff, c->d_model));
    TRY(bench_product_rows(b, "down", c->d_model, c->d_ff));
    return 0;
}

static int bench_prefill(struct bench *b, const struct kv_spec *spec, int64_t context)
{
    struct probe_time t, best = {0};
    double whole = 0; /* products of the prompt's rows in one go; the engine cuts it into pieces */
    for (int i = 0; i < 5; i++) {
        TRY(probe_time(b->r, spec, context, 1, 1, &t));
        if (i == 0 || t.s_prefill < best.s_prefill)
            best = t;
        runner_limits_again(b->r, &b->lim);
        double rate = limits_product_rate(b->r, context);
        whole = rate > whole ? rate : whole;
    }
    double n = (double)context, flops = limits_prefill_flops(runner_model(b->r), context);
    char label[96];
    snprintf(label, sizeof label, "prefill of %lld tokens, %s", (long long)context, spec->label);
    row(b, label, n / best.s_prefill, "tokens/s", n * b->lim.product_rate / flops,
        "tokens/s at the product rate");
    row(b, "  its products and attention", 1e-9 * flops / best.s_prefill, "GFLOP/s",
        1e-9 * b->lim.product_rate, "GFLOP/s");
    row(b, "  beside products of the whole prompt", 1e-9 * flops / best.s_prefill, "GFLOP/s", 1e-9 * whole,
        "GFLOP/s");
    return 0;
}

static void decode_rows(struct bench *b, const struct kv_spec *spec, int64_t context, int n_seq,
                        const struct probe_time *t)
{
    char label[96];
    double floor = limits_step_s(runner_model(b->r), &b->lim, b->dtype, n_seq, (double)t->device_bytes);
    snprintf(label, sizeof label, "decode at %lld, %s, %d sequence%s", (long long)context, spec->label, n_seq,
             n_seq == 1 ? "" : "s");
    row(b, label, n_seq / t->s_step, "tokens/s", floor > 0 ? n_seq / floor : 0,
        on_card(b) ? "tokens/s at the copy rate" : "tokens/s at the read rate");
    if (floor > 0 && on_card(b))
        row(b, "  weights and caches", 1e-9 * floor * b->lim.read_rate / t->s_step, "GB/s",
            1e-9 * b->lim.read_rate, "GB/s (device copy)");
}

static int bench_decode_many(struct bench *b, const struct kv_spec *spec, int64_t context,
                             const struct probe_time *one)
{
    const int n = (int)b->a->sequences;
    char label[96];
    struct probe_time many;
    int rc = probe_time(b->r, spec, context, n, 12, &many);
    if (rc == ERR_NOMEM && on_card(b)) {
        snprintf(label, sizeof label, "  %d sequences: no memory", n);
        row(b, label, 0, "", 0, "");
        return 0;
    }
    TRY(rc);
    decode_rows(b, spec, context, n, &many);
    snprintf(label, sizeof label, "  %d sequences over 1", n);
    row(b, label, n * one->s_step / many.s_step, "times", 0, "");
    snprintf(label, sizeof label, "  prompt passes of the %d", n);
    row(b, label, (double)many.prefill_passes, "", 0, "");
    return 0;
}

static int bench_decode(struct bench *b, const struct kv_spec *spec, int64_t context)
{
    struct ops *o = runner_ops(b->r);
    struct probe_time one;
    o->peak(o, true);
    TRY(probe_time(b->r, spec, context, 1, 24, &one));
    decode_rows(b, spec, context, 1, &one);
    if (!on_card(b))
        row(b, "  attention per step", 1e3 * one.s_attend_step, "ms", 0, "");
    row(b, "  cache", (double)one.cache_bytes / 1048576, "MiB", 0, "");
    if (one.device_bytes != one.cache_bytes)
        row(b, "  of it on the device", (double)one.device_bytes / 1048576, "MiB", 0, "");
    if (on_card(b))
        row(b, "  peak on the device, weights aside", (double)o->peak(o, false) / 1048576, "MiB",
            (double)one.device_bytes / 1048576, "MiB (cache)");
    if (b->a->sequences < 2 || (context > 4096 && !on_card(b)))
        return 0; /* many long caches are a test of memory, not of speed */
    return bench_decode_many(b, spec, context, &one);
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

/* Settings of one needle example that share its prompt pass: together against one by one, and the journal's
 * share. */
static const char *const settings[] = {"full",
                                       "kivi:bits=4",
                                       "kivi:bits=2",
                                       "kivi:bits=4,group=64",
                                       "kivi:bits=2,group=64",
                                       "kivi:bits=4,residual=64",
                                       "kivi:bits=2,residual=64",
                                       "streaming:keep=0.5,when=after",
                                       "streaming:keep=0.25,when=after",
                                       "streaming:keep=0.17,when=after",
                                       "streaming:keep=0.125,when=after",
                                       "kivi:bits=4,group=64,residual=64",
                                       "kivi:bits=2,group=64,residual=64",
                                       "kivi:bits=4,residual=256",
                                       "kivi:bits=2,residual=256",
                                       "kivi:bits=4,residual=32",
                                       "kivi:bits=2,residual=32",
                                       "kivi:bits=4,residual=96",
                                       "kivi:bits=2,residual=96",
                                       "flexgen-upstream"};
enum { SETTINGS = sizeof settings / sizeof *settings };
static const char sweep_text[] = "models: [{id: bench, path: \"%s\", template: none}]\n"
                                 "methods: [%s]\n"
                                 "tasks:\n  - {name: passkey, lengths: [%lld], unit: tokens, depths: 1, "
                                 "iterations: 1, digits: 7, haystack: synthetic, max_new: %d}\n"
                                 "dtype: %s\ncache_dtype: %s\nmemory: %llu\n";

/* What a run over the units took. */
struct taken {
    double s_run, s_put, s_passes, s_decode;
    int64_t passes, n, bundles;
};

/* Units [first, first + n) of one bundle, all at once. */
static int run_bundle(struct bench *b, const struct plan *p, struct sink *sink, int64_t first, int n,
                      struct taken *t)
{
    struct record out[PLAN_BATCH];
    struct run_unit u[PLAN_BATCH];
    for (int k = 0; k < n; k++)
        u[k] = plan_run_unit(p, first + k);
    double t0 = clock_now();
    TRY(runner_bundle(b->r, p->model[0].task[0], u, n, out));
    double t1 = clock_now();
    int rc = sink ? sink_hdf5.put(sink, out, n) : 0;
    t->s_run += t1 - t0;
    t->s_put += clock_now() - t1;
    t->n += n;
    for (int k = 0; k < n && rc == 0; k++)
        if (out[k].status != ST_OK)
            rc = err_set(ERR_INPUT, "a unit of the bench failed: %s", out[k].error ? out[k].error : "");
    for (int k = 0; k < n; k++)
        record_free(&out[k]);
    return rc;
}

static bool holds_first_example(const struct plan *p, const struct plan_bundle *bundle)
{
    for (int k = 0; k < bundle->n; k++)
        if (p->unit[bundle->first + k].example == 0)
            return true;
    return false;
}

/* The plan's bundles that hold the first example, as a run computes them or one unit at a time. */
static int run_units(struct bench *b, const struct plan *p, struct sink *sink, bool together, struct taken *t)
{
    int64_t tokens, passes;
    double passes0, decode0;
    *t = (struct taken){0};
    runner_counts(b->r, &passes, &tokens);
    runner_seconds(b->r, &passes0, &decode0);
    for (int64_t i = 0; i < p->n_bundle; i++) {
        const struct plan_bundle *bundle = &p->bundle[i];
        if (!holds_first_example(p, bundle))
            continue;
        t->bundles++;
        int step = together ? bundle->n : 1;
        for (int at = 0; at < bundle->n; at += step)
            TRY(run_bundle(b, p, sink, bundle->first + at, step, t));
    }
    runner_counts(b->r, &t->passes, &tokens);
    runner_seconds(b->r, &t->s_passes, &t->s_decode);
    t->passes -= passes;
    t->s_passes -= passes0;
    t->s_decode -= decode0;
    return 0;
}

static void sweep_table(struct bench *b, const struct taken *all, const struct taken *one)
{
    row(b, "units", (double)all->n, "", 0, "");
    row(b, "bundles", (double)all->bundles, "", 0, "");
    row(b, "prompt passes, together", (double)all->passes, "", 0, "");
    row(b, "prompt passes, one by one", (double)one->passes, "", 0, "");
    row(b, "time together over one by one", all->s_run / one->s_run, "times", 0, "");
    row(b, "  prompt passes", all->s_passes / one->s_passes, "times", 0, "");
    row(b, "  decoding", all->s_decode / one->s_decode, "times", 0, "");
    row(b, "prompt passes' share, together", all->s_passes / all->s_run, "", 0, "");
    row(b, "prompt passes' share, one by one", one->s_passes / one->s_run, "", 0, "");
}

static int sweep_rows(struct bench *b, const struct plan *p)
{
    struct sink_plan sp = {0};
    struct str text = {0};
    struct sink *sink = NULL;
    char *path = mem_printf("/tmp/kvsweep-bench-%d.h5", (int)getpid());
    struct taken all, one, warm;
    plan_sink(p, &sp, &text);
    int rc = sink_hdf5.open(&sink, path, &sp);
    if (rc < 0) { /* built without HDF5: the times stand without a journal */
        log_warn("%s: no journal in this bench", err_text());
        sink = NULL;
        rc = 0;
    }
    if (rc == 0 && on_card(b)) /* memory of the card, graphs of its launches */
        rc = run_units(b, p, NULL, true, &warm);
    if (rc == 0)
        rc = run_units(b, p, sink, true, &all);
    if (rc == 0)
        rc = run_units(b, p, NULL, false, &one);
    if (rc == 0) {
        sweep_table(b, &all, &one);
        if (sink)
            row(b, "journal's share of the time", all.s_put / (all.s_run + all.s_put), "", 0, "");
    }
    if (sink)
        sink_hdf5.close(sink);
    unlink(path);
    plan_sink_free(&sp);
    str_free(&text);
    free(path);
    return rc;
}

/* Bundles may plan with half of the device. */
static char *sweep_config(const struct bench *b)
{
    const struct ops *o = runner_ops(b->r);
    struct str list = {0};
    for (int64_t i = 0; i < b->a->settings; i++)
        str_printf(&list, "%s\"%s\"", i ? ", " : "", settings[i]);
    char *yaml = mem_printf(sweep_text, b->path, str_c(&list), (long long)b->context[0], (int)b->a->n_new,
                            dtype_name(b->dtype), dtype_name(b->cache), (unsigned long long)o->limit(o) / 2);
    str_free(&list);
    return yaml;
}

static int bench_sweep(struct bench *b)
{
    char *yaml = sweep_config(b);
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
                                .template = cm->template,
                                .max_len = cm->max_len,
                                .dtype = b->dtype,
                                .cache_dtype = b->cache};
    b->path = cm->path;
    TRY(runner_open(&b->r, &o));
    TRY(runner_load(b->r, &m));
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
    if (b->n_context == LIST)
        return err_set(ERR_INPUT, "--context takes at most %d numbers", LIST);
    if (!str_to_int(text, &n) || n < 1 || n > 1 << 24)
        return err_set(ERR_INPUT, "--context takes 1 to %d, not '%s'", 1 << 24, text);
    b->context[b->n_context++] = n;
    return 0;
}

static int add_method(struct bench *b, const char *text)
{
    if (b->n_spec == LIST)
        return err_set(ERR_INPUT, "--method takes at most %d methods", LIST);
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
        {"sequences", KEY_SEQUENCES, "N", 0, "decode: so many together too (default 16; 1: none)", 0},
        {"settings", KEY_SETTINGS, "N", 0, "sweep: settings of one example (default 7, at most 20)", 0},
        {"new", KEY_NEW, "N", 0, "sweep: new tokens of each (default 32)", 0},
        {"dtype", KEY_DTYPE, "f32|bf16|f16", 0, "weights (default bf16)", 0},
        {"cache-dtype", KEY_CACHE, "f32|bf16|f16", 0, "cache (default: the dtype)", 0},
        {"threads", KEY_THREADS, "N", 0, "threads (default: all processors)", 0},
        {"isa", KEY_ISA, "auto|avx512|avx2|portable", 0, "widest instruction set to use; on a card: wgmma, serial (ops.h)", 0},
        {"device", KEY_DEVICE, "auto|cpu|ref|cuda", 0, "where to compute (default auto)", 0},
        {"json", KEY_JSON, 0, 0, "JSON instead of a table", 0},
        {0},
    };
    static const struct argp argp = {
        .options = options,
        .parser = parser,
        .args_doc = "kernels|prefill|decode|sweep",
        .doc = "Measures speed beside the limits of this machine: memory reads (a card: copies inside its "
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
    if (a.settings < 1 || a.settings > SETTINGS)
        return err_set(ERR_INPUT, "--settings takes 1 to %d", SETTINGS);
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
