/* configs/sweeps/paper*.yaml against every configuration file of the reference (fixture:
 * oracle/paper_grid.py): each setting on each task has the parameters of exactly one of those files, and the
 * other way round. */
#include "base/err.h"
#include "base/mem.h"
#include "sweep/plan.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

static const struct vars vars = {.cache = "/nonexistent", .data = "/nonexistent", .models = "/nonexistent"};

struct paper {
    json_t *grid;
    struct config config;
    struct plan plan;
    bool *used; /* [rows of grid.pipeline] */
};

static void paper_open(struct paper *p, const char *path)
{
    struct config_source s = {.path = path, .config_dir = "../configs", .vars = &vars};
    json_error_t e;
    *p = (struct paper){.grid = json_load_file("fixtures/paper/grid.json", 0, &e)};
    assert_non_null(p->grid);
    if (config_open(&p->config, &s) < 0 || plan_sketch(&p->plan, &p->config) < 0)
        fail_msg("%s", err_text());
    p->used = mem_alloc(json_array_size(json_object_get(p->grid, "pipeline")), sizeof *p->used);
    assert_int_equal(p->config.mode, MODE_PAPER);
    for (int i = 0; i < p->plan.n_model; i++)
        assert_true(p->plan.model[i].assumed);
}

static void paper_close(struct paper *p)
{
    plan_close(&p->plan);
    config_close(&p->config);
    json_decref(p->grid);
    free(p->used);
}

static const char *text(const json_t *row, const char *key)
{
    const char *s = json_string_value(json_object_get(row, key));
    return s ? s : "";
}

/* A number of a row; `none` where the file lacks it. */
static double number(const json_t *row, const char *key, double none)
{
    const json_t *v = json_object_get(row, key);
    return v ? json_number_value(v) : none;
}

static const char *model_of(const json_t *row)
{
    static const char *const names[][2] = {{"meta-llama/Meta-Llama-3-8B-Instruct", "llama-3-8b-instruct"},
                                           {"mistralai/Mistral-7B-Instruct-v0.2", "mistral-7b-instruct-v0.2"},
                                           {"lmsys/longchat-7b-v1.5-32k", "longchat-7b-v1.5-32k"},
                                           {"state-spaces/mamba-2.8b-hf", "mamba-2.8b"},
                                           {"havenhq/mamba-chat", "mamba-chat"},
                                           {"state-spaces/mamba2-2.7b", "mamba2-2.7b"},
                                           {"BlinkDL/rwkv-5-world", "rwkv-5-world-7b"},
                                           {"google/recurrentgemma-2b-it", "recurrentgemma-2b-it"},
                                           {"google/recurrentgemma-9b-it", "recurrentgemma-9b-it"}};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(text(row, "model_name"), names[i][0]))
            return names[i][1];
    fail_msg("model %s", text(row, "model_name"));
    return NULL;
}

/* A parameter of a method, from its canonical text. */
static double param(const struct kv_spec *spec, const char *key)
{
    char *want = mem_printf("%s=", key);
    const char *at = strchr(spec->text, ':');
    double v = NAN;
    for (at = at ? at + 1 : ""; *at; at += strcspn(at, ","), at += *at == ',')
        if (!strncmp(at, want, strlen(want)))
            v = strtod(at + strlen(want), NULL);
    free(want);
    if (isnan(v))
        fail_msg("%s has no %s", spec->text, key);
    return v;
}

static bool same(const struct kv_spec *spec, const char *key, double want)
{
    return param(spec, key) == want;
}

/* The two files of the needle that lack their ratio (Llama-3 under StreamingLLM, 6x and 8x) are run as named.
 */
static double kept(const json_t *row)
{
    const char *file = text(row, "file");
    if (json_object_get(row, "compression_ratio"))
        return number(row, "compression_ratio", 0);
    assert_true(strstr(file, "streamingllm/paulgraham_passkey/llama3") == file);
    return strstr(file, "6x") ? 0.17 : 0.125;
}

static double cap(const json_t *row)
{
    double len = number(row, "model_max_len", 0);
    return len == 2147483647 ? 0 : len;
}

/* Whether a row of the reference says what this method does. */
static bool is_method(const json_t *row, const struct kv_spec *s)
{
    const char *method = text(row, "method"), *name = kv_method_name(s->method);
    if (!strcmp(method, "baseline") || !strcmp(method, "rnn"))
        return !strcmp(name, "full");
    if (!strcmp(method, "KIVI") && !strcmp(name, "kivi"))
        return same(s, "bits", number(row, "k_bits", 0)) && same(s, "bits", number(row, "v_bits", 0)) &&
               same(s, "group", number(row, "group_size", 0)) &&
               same(s, "residual", number(row, "residual_length", 0));
    if (!strcmp(method, "FlexGen") && !strcmp(name, "flexgen"))
        return same(s, "bits", number(row, "k_bits", 0)) && same(s, "group", number(row, "group_size", 0)) &&
               number(row, "residual_length", 1) == 0;
    if (!strncmp(method, "h2o_", 4) &&
        !strcmp(name, "h2o-paper")) /* the lag is in the code of Mistral's layers */
        return same(s, "heavy", number(row, "heavy_ratio", 0)) &&
               same(s, "recent", number(row, "recent_ratio", 0)) &&
               same(s, "lag", strstr(text(row, "model_name"), "mistral") != NULL);
    if (!strcmp(method, "stream-llm") && !strcmp(name, "streaming"))
        return same(s, "keep", kept(row)) && same(s, "init_share", number(row, "init_ratio", 0)) &&
               same(s, "cap", cap(row)) && same(s, "local", 0);
    if (!strcmp(method, "inf-llm") && !strcmp(name, "infllm"))
        return same(s, "keep", kept(row)) && same(s, "init_share", number(row, "init_ratio", 0)) &&
               same(s, "retrieved_share", number(row, "context_ratio", 0)) && same(s, "cap", cap(row)) &&
               same(s, "block", number(row, "block_size", 0)) &&
               same(s, "repr", number(row, "repr_topk", 0)) &&
               same(s, "piece", number(row, "exc_block_size", 0)) && same(s, "min_local", 512) &&
               same(s, "local", 0);
    if (!strcmp(method, "llmlingua") && !strcmp(name, "llmlingua2"))
        return same(s, "rate", number(row, "cp_rate", 0));
    return false;
}

/* LongBench prompts of the plain pipelines are cut to model_max_len; templates are used on LongBench alone.
 */
static bool is_model(const json_t *row, const struct plan_model *m, bool longbench)
{
    const char *method = text(row, "method");
    bool cuts =
        longbench && strcmp(method, "stream-llm") && strcmp(method, "inf-llm") && strcmp(method, "llmlingua");
    const char *template = json_object_get(row, "chat_template") ? text(row, "chat_template") : "none";
    return !strcmp(model_of(row), m->run.id) &&
           (!cuts || number(row, "model_max_len", 0) == (double)m->run.max_len) &&
           (!longbench || !strcmp(template, m->run.template));
}

static bool is_longbench(const json_t *row)
{
    return strstr(text(row, "file"), "/longbench/") != NULL;
}

/* Marks the row behind a setting on a task; fails unless there is exactly one. */
static void find_row(struct paper *p, int setting, int task)
{
    const struct plan_setting *s = &p->plan.setting[setting];
    const struct plan_variant *v = plan_variant(&p->plan, setting, task);
    bool longbench = !strncmp(p->plan.task[task].cfg->type->name, "longbench/", 10);
    int n = 0;
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(p->grid, "pipeline"), i, row)
    {
        if (is_longbench(row) != longbench || !is_model(row, &p->plan.model[s->model], longbench) ||
            number(row, "rope_theta_factor", 1) != v->over.rope_theta_factor || !is_method(row, &v->spec))
            continue;
        p->used[i] = true;
        n++;
    }
    if (n != 1)
        fail_msg("%s on %s: %d files say %s, theta x %g", s->id, p->plan.task[task].cfg->id, n, v->spec.text,
                 v->over.rope_theta_factor);
}

static bool has_cache(const struct paper *p, int setting)
{
    return shape_kind(&p->plan.model[p->plan.setting[setting].model].shape, 0)->compress;
}

static int find_rows(struct paper *p)
{
    for (int s = 0; s < p->plan.n_setting; s++)
        for (int t = 0; t < p->plan.n_task; t++)
            find_row(p, s, t);
    int n = 0;
    for (size_t i = 0; i < json_array_size(json_object_get(p->grid, "pipeline")); i++)
        n += p->used[i];
    return n;
}

static bool contains(const json_t *row, const char *part)
{
    return strstr(text(row, "file"), part) != NULL;
}

/* The settings use every file, the needle's and the one of LongBench, but those of the variants; Mamba-2 is
 * the extra model. */
static void whole_grid(const char *path, int n_setting)
{
    struct paper p;
    paper_open(&p, path);
    assert_int_equal(p.plan.n_setting, n_setting);
    assert_int_equal(p.plan.n_task, 17);
    assert_int_equal(find_rows(&p), 2 * n_setting);
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(p.grid, "pipeline"), i, row)
    {
        bool variant =
            is_longbench(row) && (contains(row, "_infinity_model_len") || contains(row, "_rope_theta_32x"));
        bool extra = n_setting == 65 && !strcmp(model_of(row), "mamba2-2.7b");
        if (p.used[i] == (variant || extra))
            fail_msg("%s is %s", text(row, "file"), p.used[i] ? "used" : "not used");
    }
    paper_close(&p);
}

static void paper65(void **state)
{
    (void)state;
    whole_grid("../configs/sweeps/paper65.yaml", 65);
}

static void paper66(void **state)
{
    (void)state;
    whole_grid("../configs/sweeps/paper66.yaml", 66);
}

/* What follows from the reference's code and not from its files: the loops of mamba-ssm and of the package
 * rwkv know no end (pipeline/mamba-chat, mamba2, rwkv-5-world/inference.py); one model is loaded without a
 * dtype (baseline/inference.py); the penalties of rwkv's PIPELINE_ARGS; RecurrentGemma of transformers 4.40.
 */
static void models(void **state)
{
    (void)state;
    static const struct {
        const char *id, *dtype, *overrides;
        bool never;
    } want[] = {
        {"llama-3-8b-instruct", "f16", "passkey:rope_theta_factor=32", false},
        {"mistral-7b-instruct-v0.2", "f16", "", false},
        {"longchat-7b-v1.5-32k", "f16", "", false},
        {"mamba-2.8b", "f32", "", false},
        {"mamba-chat", "f16", "", true},
        {"mamba2-2.7b", "f16", "", true},
        {"rwkv-5-world-7b", "f16", "*:penalties=rwkv", true},
        {"recurrentgemma-2b-it", "f16", "*:attention_mask=hf_bug", false},
        {"recurrentgemma-9b-it", "f16", "*:attention_mask=hf_bug", false},
    };
    struct paper p;
    paper_open(&p, "../configs/sweeps/paper66.yaml");
    assert_int_equal(p.plan.n_model, sizeof want / sizeof *want);
    int n = 0;
    for (int i = 0; i < p.plan.n_setting; i++) {
        const struct plan_setting *s = &p.plan.setting[i];
        const struct run_model *m = &p.plan.model[s->model].run;
        if (strcmp(kv_method_name(s->spec->method), "full"))
            continue;
        assert_string_equal(m->id, want[n].id);
        assert_string_equal(dtype_name(m->dtype), want[n].dtype);
        assert_string_equal(dtype_name(m->cache_dtype), want[n].dtype);
        assert_string_equal(s->overrides, want[n].overrides);
        assert_int_equal(m->never_stops, want[n].never);
        n++;
    }
    assert_int_equal(n, p.plan.n_model);
    paper_close(&p);
}

static void infinity(void **state)
{
    (void)state;
    struct paper p;
    paper_open(&p, "../configs/sweeps/paper_infinity.yaml");
    assert_int_equal(p.plan.n_setting, 24);
    assert_int_equal(find_rows(&p), 24);
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(p.grid, "pipeline"), i, row)
        assert_int_equal(p.used[i], is_longbench(row) && contains(row, "_infinity_model_len"));
    paper_close(&p);
}

static void theta32(void **state)
{
    (void)state;
    struct paper p;
    paper_open(&p, "../configs/sweeps/paper_theta32.yaml");
    assert_int_equal(p.plan.n_setting, 1);
    assert_int_equal(find_rows(&p), 1);
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(p.grid, "pipeline"), i, row)
        assert_int_equal(p.used[i], is_longbench(row) && contains(row, "_rope_theta_32x"));
    paper_close(&p);
}

static void digits64(void **state)
{
    (void)state;
    struct paper p;
    paper_open(&p, "../configs/sweeps/paper_64digits.yaml");
    assert_int_equal(p.plan.n_setting, 11);
    assert_int_equal(find_rows(&p), 11);
    assert_non_null(strstr(p.plan.task[0].params, "digits=64"));
    assert_int_equal(p.plan.task[0].n_example, 300);
    paper_close(&p);
}

/* Lengths of answers and the grid of the needle. */
static void tasks(void **state)
{
    (void)state;
    struct paper p;
    paper_open(&p, "../configs/sweeps/paper65.yaml");
    int n = 0;
    size_t i;
    const json_t *row;
    json_array_foreach(json_object_get(p.grid, "eval"), i, row)
    {
        for (int t = 0; t < p.plan.n_task; t++) {
            const struct plan_task *task = &p.plan.task[t];
            const char *slash = strchr(task->cfg->id, '/');
            if (slash && contains(row, "longbench/") && !strcmp(slash + 1, text(row, "dataset"))) {
                assert_int_equal(task->cfg->type->traits.max_new, number(row, "max_new_tokens", 0));
                assert_true(task->absent);
                n++;
            } else if (!slash && contains(row, "10x10x3_7digits")) {
                char *want = mem_printf(
                    "lengths=%.0f-%.0fx%.0f,unit=words,depths=%.0f,iterations=%.0f,digits=%.0f,",
                    number(row, "background_len_min", 0), number(row, "background_len_max", 0),
                    number(row, "n_background_lens", 0), number(row, "n_depths", 0),
                    number(row, "depth_num_iterations", 0), number(row, "retrieval_target_len", 0));
                assert_int_equal(strncmp(task->params, want, strlen(want)), 0);
                assert_non_null(strstr(task->params, "max_new=256,seed=42"));
                assert_true(task->stand_in && task->n_example == 300);
                free(want);
                n++;
            }
        }
    }
    assert_int_equal(n, 17);
    paper_close(&p);
}

/* 65 x 300 needles, 3,750 rows of LongBench each: 263,250 units. */
static void counts(void **state)
{
    (void)state;
    struct paper p;
    paper_open(&p, "../configs/sweeps/paper65.yaml");
    int rows = 0;
    for (int t = 0; t < p.plan.n_task; t++)
        rows += p.plan.task[t].absent ? p.plan.task[t].n_example : 0;
    assert_int_equal(rows, 3750);
    assert_int_equal(p.plan.n_unit, 65 * 300);
    for (int i = 0; i < p.plan.n_setting; i++) {
        const struct plan_variant *all = &p.plan.setting[i].all;
        assert_true(all->at_8k.bytes > 0);
        assert_true(has_cache(&p, i) ? all->at_32k.bytes > all->at_8k.bytes
                                     : all->at_32k.bytes == all->at_8k.bytes);
        if (!has_cache(&p, i))
            continue;
        if (!strcmp(kv_method_name(all->spec.method),
                    "full")) /* 32 layers, 8 or 32 heads of 128, f16, keys and values */
            assert_int_equal(all->at_8k.bytes, UINT64_C(8192) * 32 * 128 * 4 *
                                                   (strstr(p.plan.setting[i].id, "longchat") ? 32 : 8));
    }
    paper_close(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(paper65),  cmocka_unit_test(paper66), cmocka_unit_test(models),
        cmocka_unit_test(infinity), cmocka_unit_test(theta32), cmocka_unit_test(digits64),
        cmocka_unit_test(tasks),    cmocka_unit_test(counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
