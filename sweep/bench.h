/* What the parts of `kvsweep bench` share. Every row is measured in this one run, beside its limit. */
#ifndef KVS_SWEEP_BENCH_H
#define KVS_SWEEP_BENCH_H

#include "run/limits.h"
#include "sweep/app.h"

struct bench_args {
    const char *what, *model, *method, *context, *dtype, *cache_dtype, *isa, *device;
    int64_t threads, settings, sequences, n_new;
    bool json;
};

enum { BENCH_LIST = 16, BENCH_SETTINGS = 20 };

/* One bench at work: the loaded model, its limits, and the rows that are not printed yet (JSON: all). */
struct bench {
    const struct bench_args *a;
    struct app *app;
    struct runner *r;
    int64_t context[BENCH_LIST];
    struct kv_spec spec[BENCH_LIST];
    int n_context, n_spec;
    enum dtype dtype, cache;
    struct run_limits lim;
    const char *path; /* of the model */
    struct str table, json;
};

/* A row of the table: value in `unit`; limit 0: none is known. */
void bench_row(struct bench *b, const char *name, double value, const char *unit, double limit,
               const char *limit_name);
bool bench_on_gpu(const struct bench *b);

/* Rows of products in the model's shapes (bench_kernels.c); of one method at one length (bench_point.c); of a
 * small sweep, its units together and one by one (bench_sweep.c). */
int bench_kernels(struct bench *b);
int bench_prefill(struct bench *b, const struct kv_spec *spec, int64_t context);
int bench_decode(struct bench *b, const struct kv_spec *spec, int64_t context);
int bench_sweep(struct bench *b);

#endif
