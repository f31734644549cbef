#include "results_plan.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const methods[4] = {"full", "kivi:bits=4", "streaming:ratio=4", "kivi:bits=2"};

static void describe(struct grid *g, int n_setting)
{
    for (int i = 0; i < n_setting; i++)
        g->setting[i] = (struct sink_setting){
            .id = methods[i],
            .model = i == 2 ? "tiny/one" : "tiny_one",
            .model_hash = i == 2 ? "00ff" : "abcd",
            .weights_xxh3 = i == 3 ? "77" : "",
            .model_path = "/models/tiny",
            .weight_type = "BF16",
            .family = "llama",
            .template = "none {\"before\": \"\"}",
            .stop_ids = "2,7",
            .max_len = 200 + i,
            .prompt_method = "",
            .method = methods[i],
            .params = i ? "bits=4,group=32" : "",
            .overrides = "",
            .protocol = "inside",
            .refused = i == 3 ? "no cache" : "",
            .dtype = "f32",
            .cache_dtype = "f16",
            .nominal_ratio = 1 + i,
        };
    g->task[0] = (struct sink_task){"passkey", "digits=7", "exact_match", "needle", 4, "aa"};
    g->task[1] = (struct sink_task){"longbench/qasper", "", "qa_f1", "single_doc_qa", 4, "bb"};
    g->plan = (struct sink_plan){
        .run = {.kvsweep_version = "0.1.0",
                .git_commit = "abc",
                .config_yaml = "models: []\n# Ω\n",
                .host = "here",
                .device = "cpu",
                .isa = "avx2",
                .driver = "",
                .libraries = "HDF5",
                .mode = "fair",
                .n_ranks = 2,
                .threads = 1,
                .plan_text = "mode=fair\nseed=42\nlogits=first\n",
                .logits_first = 1,
                .topk = 8},
        .setting = g->setting,
        .n_setting = n_setting,
        .task = g->task,
        .n_task = 2,
    };
}

void grid_init_wide(struct grid *g, int n_setting, uint64_t seed, int copies)
{
    *g = (struct grid){0};
    describe(g, n_setting);
    int per_task = 4 * copies, n = 0;
    struct sink_example *e = copies == 1 ? g->example : mem_alloc((size_t)(2 * per_task), sizeof *e);
    for (int t = 0; t < 2; t++)
        for (int i = 0; i < per_task; i++)
            e[t * per_task + i] = (struct sink_example){
                .task = t,
                .example = i,
                .n_words = 100 + i,
                .iteration = t ? -1 : 0,
                .id = t ? "qasper-äß" : "len=512,depth=0.5,it=0",
                .length = t ? (double)NAN : 512,
                .depth = t ? (double)NAN : 0.25 * (i % 4),
                .gold_json = t ? "[\"yes\", \"y\u00e9s\"]" : "[\"1234567\"]",
            };
    g->task[0].n_examples = g->task[1].n_examples = per_task;
    g->plan.example = e;
    g->plan.n_example = 2 * per_task;
    g->plan.n_unit = n_setting * 2 * per_task;
    g->record = mem_alloc((size_t)g->plan.n_unit, sizeof *g->record);
    for (int s = 0; s < n_setting; s++)
        for (int k = 0; k < 2 * per_task; k++, n++) {
            struct rng rng = {seed + (uint64_t)n * 1000};
            records_random(&g->record[n], &rng, (uint64_t)n);
            g->record[n].setting = s;
            g->record[n].task = k / per_task;
            g->record[n].example = k % per_task;
        }
    g->n = n;
}

void grid_init(struct grid *g, int n_setting, uint64_t seed)
{
    grid_init_wide(g, n_setting, seed, 1);
}

void grid_free(struct grid *g)
{
    for (int i = 0; i < g->n; i++)
        record_free(&g->record[i]);
    free(g->record);
    if (g->plan.example != g->example)
        free((void *)(uintptr_t)g->plan.example);
}

int grid_put(const struct grid *g, const struct sink_type *type, struct sink *s, int from, int to)
{
    for (int i = from, k; i < to; i += k) {
        bool have = type->has(s, g->record[i].unit_hi, g->record[i].unit_lo);
        for (k = 1; i + k < to && g->record[i + k].bundle == g->record[i].bundle; k++)
            if (type->has(s, g->record[i + k].unit_hi, g->record[i + k].unit_lo) != have)
                break;
        int rc = have ? 0 : sink_put_records(type, s, &g->record[i], k);
        if (rc < 0)
            return rc;
    }
    return 0;
}

const struct record *grid_find(const struct grid *g, uint64_t hi, uint64_t lo)
{
    for (int i = 0; i < g->n; i++)
        if (g->record[i].unit_hi == hi && g->record[i].unit_lo == lo)
            return &g->record[i];
    return NULL;
}
