/* kvsweep bench sweep: the settings of one example together against one by one. */
#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "hdf5io/journal.h"
#include "hdf5io/sink.h"
#include "sweep/bench.h"
#include "sweep/plan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Settings of one needle example that share its prompt pass: together against one by one, and the journal's
 * share. */
static const char *const settings[BENCH_SETTINGS] = {"full",
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
    int rc = sink ? sink_put_records(&sink_hdf5, sink, out, n) : 0;
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
    bench_row(b, "units", (double)all->n, "", 0, "");
    bench_row(b, "bundles", (double)all->bundles, "", 0, "");
    bench_row(b, "prompt passes, together", (double)all->passes, "", 0, "");
    bench_row(b, "prompt passes, one by one", (double)one->passes, "", 0, "");
    bench_row(b, "time together over one by one", all->s_run / one->s_run, "times", 0, "");
    bench_row(b, "  prompt passes", all->s_passes / one->s_passes, "times", 0, "");
    bench_row(b, "  decoding", all->s_decode / one->s_decode, "times", 0, "");
    bench_row(b, "prompt passes' share, together", all->s_passes / all->s_run, "", 0, "");
    bench_row(b, "prompt passes' share, one by one", one->s_passes / one->s_run, "", 0, "");
}

static void remove_results(const char *path, const char *dir)
{
    char *journal = journal_dir(path);
    if (file_is_real_dir(journal))
        (void)!journal_remove(journal);
    unlink(path);
    rmdir(dir);
    free(journal);
}

static int sweep_rows(struct bench *b, const struct plan *p)
{
    struct sink_plan sp = {0};
    struct str text = {0};
    struct sink *sink = NULL;
    char dir[] = "/tmp/kvsweep-bench-XXXXXX";
    if (!mkdtemp(dir))
        return err_set(err_of_errno(errno), "cannot make a folder %s: %s", dir, strerror(errno));
    char *path = mem_printf("%s/r.h5", dir);
    struct taken all, one, warm;
    plan_sink(p, &sp, &text);
    int rc = sink_hdf5.open(&sink, path, &sp);
    if (rc < 0) { /* built without HDF5: the times stand without a journal */
        log_warn("%s: no journal in this bench", err_text());
        sink = NULL;
        rc = 0;
    }
    if (rc == 0 && bench_on_gpu(b)) /* memory of the GPU, graphs of its launches */
        rc = run_units(b, p, NULL, true, &warm);
    if (rc == 0)
        rc = run_units(b, p, sink, true, &all);
    if (rc == 0)
        rc = run_units(b, p, NULL, false, &one);
    if (rc == 0) {
        sweep_table(b, &all, &one);
        if (sink)
            bench_row(b, "journal's share of the time", all.s_put / (all.s_run + all.s_put), "", 0, "");
    }
    if (sink)
        sink_hdf5.close(sink);
    remove_results(path, dir);
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

int bench_sweep(struct bench *b)
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
