/* h5scores OUT.h5 SETTINGS SHARE: writes a results file of random scores for measuring: LongBench's 16
 * datasets and a needle of 300 (4,050 examples) times SHARE, as the paper's grid has them: h5scores big.h5
 * 65 1. A fifth of a setting's scores differ from those of `full`, its first row. */
#include "hdf5io/sink.h"
#include "hdf5io/stats.h"

#include "base/err.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_TASK = 17, TOGETHER = 500 };

static const struct sink_task tasks[N_TASK] = {
#define LONGBENCH(name_, n_, metric_, category_, ...)                                                        \
    {.id = "longbench/" name_,                                                                               \
     .params = "",                                                                                           \
     .metric = metric_,                                                                                      \
     .category = category_,                                                                                  \
     .source_sha256 = "00",                                                                                  \
     .n_examples = n_},
#include "task/longbench.def"
#undef LONGBENCH
    {.id = "passkey",
     .params = "digits=7",
     .metric = "exact_match",
     .category = "needle",
     .source_sha256 = "00",
     .n_examples = 300},
};

static double uniform(uint64_t *rng)
{
    return (double)(stats_random(rng) >> 11) * 0x1p-53;
}

static double score(int task, double right, uint64_t *rng)
{
    return uniform(rng) < right ? 1 : task == N_TASK - 1 ? 0 : uniform(rng);
}

static void make_examples(struct sink_plan *plan, struct sink_task *task, double share)
{
    struct sink_example *e = NULL;
    int64_t n = 0, cap = 0;
    for (int t = 0; t < N_TASK; t++) {
        task[t] = tasks[t];
        task[t].n_examples = (int32_t)fmax(1, round(share * tasks[t].n_examples));
        for (int i = 0; i < task[t].n_examples; i++)
            *MEM_PUSH(e, n, cap) = (struct sink_example){.task = t,
                                                         .example = i,
                                                         .n_words = 100,
                                                         .iteration = -1,
                                                         .id = "x",
                                                         .length = NAN,
                                                         .depth = NAN,
                                                         .gold_json = "[]"};
    }
    plan->task = task;
    plan->n_task = N_TASK;
    plan->example = e;
    plan->n_example = n;
}

static struct sink_setting *make_settings(int n)
{
    struct sink_setting *s = mem_alloc((size_t)n, sizeof *s);
    for (int i = 0; i < n; i++)
        s[i] = (struct sink_setting){.id = i ? mem_printf("m/streaming:keep=%.4f", 1.0 / (i + 1))
                                             : mem_strdup("m/full"),
                                     .model = "m",
                                     .model_hash = "0",
                                     .family = "llama",
                                     .method = i ? "streaming" : "full",
                                     .params = "",
                                     .overrides = "",
                                     .dtype = "f16",
                                     .cache_dtype = "f16",
                                     .nominal_ratio = i + 1};
    return s;
}

/* full[n_example]: scores of the first setting, made with it. */
static int put_setting(struct sink *s, const struct sink_plan *plan, int setting, double *full, uint64_t *rng)
{
    struct record r[TOGETHER];
    int n = 0, rc = 0;
    for (int64_t i = 0; i < plan->n_example && rc == 0; i++) {
        const struct sink_example *e = &plan->example[i];
        const uint64_t unit = (uint64_t)(setting * plan->n_example + i);
        uint64_t id = unit; /* ids are hashes */
        if (!setting)
            full[i] = score(e->task, 0.4, rng);
        r[n++] = (struct record){.unit_hi = stats_random(&id),
                                 .unit_lo = stats_random(&id),
                                 .bundle = unit / TOGETHER,
                                 .setting = setting,
                                 .task = e->task,
                                 .example = e->example,
                                 .score = setting && uniform(rng) < 0.2 ? score(e->task, 0.35, rng) : full[i],
                                 .kv_bytes = 1000,
                                 .kv_bytes_alone = 1000u + (unsigned)setting,
                                 .kv_bytes_full = 4000};
        if (n == TOGETHER || i + 1 == plan->n_example) {
            rc = sink_put_records(&sink_hdf5, s, r, n);
            n = 0;
        }
    }
    return rc;
}

static int make(const char *path, int n_setting, double share)
{
    struct sink_task task[N_TASK];
    struct sink_plan plan = {.run = {.kvsweep_version = "0",
                                     .git_commit = "0",
                                     .config_yaml = "",
                                     .host = "here",
                                     .device = "cpu",
                                     .isa = "",
                                     .driver = "",
                                     .libraries = "",
                                     .mode = "paper",
                                     .n_ranks = 1,
                                     .threads = 1,
                                     .plan_text = "mode=paper\n"},
                             .n_setting = n_setting};
    struct sink *s = NULL;
    uint64_t rng = 1;
    make_examples(&plan, task, share);
    struct sink_setting *setting = make_settings(n_setting);
    double *full = mem_alloc((size_t)plan.n_example, sizeof *full);
    plan.setting = setting;
    plan.n_unit = n_setting * plan.n_example;
    int rc = sink_hdf5.open(&s, path, &plan);
    for (int i = 0; i < n_setting && rc == 0; i++)
        rc = put_setting(s, &plan, i, full, &rng);
    if (s && rc == 0)
        rc = sink_hdf5.close(s);
    for (int i = 0; i < n_setting; i++)
        free((void *)(uintptr_t)setting[i].id);
    free(setting);
    free(full);
    free((void *)(uintptr_t)plan.example);
    return rc;
}

int main(int argc, char **argv)
{
    if (argc != 4 || atoi(argv[2]) < 1) {
        fprintf(stderr, "usage: h5scores OUT.h5 SETTINGS SHARE\n");
        return 1;
    }
    const int rc = make(argv[1], atoi(argv[2]), atof(argv[3]));
    if (rc < 0)
        fprintf(stderr, "%s\n", err_text());
    return rc < 0;
}
