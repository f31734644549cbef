/* What belongs to a model beside its weights: tokens that stand in small files, ids without a text, stop ids
 * and templates, parameters that follow from the model. */
#include "expect.h"

#include "base/file.h"
#include "base/mem.h"
#include "run/chat.h"
#include "scratch.h"
#include "sweep/plan.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct vars vars = {.cache = "/cache", .data = "fixtures", .models = "fixtures/model"};

static json_t *load_json(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j)
        fail_msg("%s: %s", path, e.text);
    return j;
}

/* Puts a file of fixtures/tiny into a folder. */
static void put_tiny(const char *dir, const char *name)
{
    char *from = file_join("fixtures/tiny", name), *data;
    size_t n;
    OK(file_read(from, &data, &n));
    scratch_put(dir, name, data, n);
    free(data);
    free(from);
}

static void put_json(const char *dir, const char *name, const json_t *j)
{
    char *text = json_dumps(j, 0);
    scratch_text(dir, name, text);
    free(text);
}

/* ---- tokens beside tokenizer.json ---- */

static void check_extra(const json_t *one, const char *text, size_t i)
{
    char *dir = scratch_make(), *back;
    const char *name;
    json_t *content;
    struct tok *t;
    int32_t *ids;
    int64_t n;
    put_tiny(dir, "tokenizer.json");
    json_object_foreach(json_object_get(one, "files"), name, content) put_json(dir, name, content);
    OK(tok_open_dir(&t, dir));
    OK(tok_encode(t, text, strlen(text), false, &ids, &n));
    const json_t *want = json_object_get(one, "ids");
    if ((size_t)n != json_array_size(want))
        fail_msg("case %zu: %lld ids instead of %zu", i, (long long)n, json_array_size(want));
    for (int64_t k = 0; k < n; k++)
        if (ids[k] != json_integer_value(json_array_get(want, (size_t)k)))
            fail_msg("case %zu: id %d at %lld", i, ids[k], (long long)k);
    OK(tok_decode(t, ids, n, true, &back, NULL));
    assert_string_equal(back, json_string_value(json_object_get(one, "text")));
    assert_int_equal(tok_eos(t), json_integer_value(json_object_get(one, "eos")));
    free(back);
    free(ids);
    tok_close(t);
    scratch_remove(dir);
}

/* As transformers has them (tests/oracle/tok_extra.py). */
static void test_extra(void **state)
{
    (void)state;
    json_t *root = load_json("fixtures/tok/extra.json"), *one;
    size_t i;
    json_array_foreach(json_object_get(root, "cases"), i, one)
        check_extra(one, json_string_value(json_object_get(root, "text")), i);
    assert_int_equal(i, 12);
    json_decref(root);
}

static void test_extra_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"added_tokens_decoder\": {\"402\": {\"content\": \"<x>\"}}}",
         "id 402, but the vocabulary makes it 400"},
        {"{\"added_tokens_decoder\": {\"x\": {\"content\": \"<x>\"}}}", "must be a token id"},
        {"{\"added_tokens_decoder\": {\"400\": {\"special\": true}}}", "added_tokens_decoder.400.content"},
        {"{\"added_tokens_decoder\": {\"400\": {\"content\": \"<x>\", \"lstrip\": 1}}}", "lstrip"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = scratch_make();
        struct tok *t;
        put_tiny(dir, "tokenizer.json");
        scratch_text(dir, "tokenizer_config.json", cases[i][0]);
        if (tok_open_dir(&t, dir) != ERR_INPUT || !strstr(err_text(), cases[i][1]))
            fail_msg("%s: %s", cases[i][0], err_text());
        scratch_remove(dir);
    }
}

/* A tokenizer or data file that is none. */
static void test_stand_ins(void **state)
{
    (void)state;
    static const char pointer[] = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n";
    static const char page[] = "<!doctype html>\n<html></html>";
    static const char *const names[] = {"tokenizer.json", "tokenizer.model", "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 3; k++) {
            char *dir = scratch_make(), *path = file_join(dir, names[i]);
            struct tok *t;
            if (i == 2)
                put_tiny(dir, "tokenizer.json");
            scratch_text(dir, names[i], k == 0 ? "" : k == 1 ? pointer : page);
            assert_int_equal(tok_open_dir(&t, dir), ERR_INPUT);
            if (!strstr(err_text(), path) || !strstr(err_text(), k == 0   ? "is empty"
                                                                 : k == 1 ? "Git LFS pointer"
                                                                          : "HTML page"))
                fail_msg("%s: %s", names[i], err_text());
            free(path);
            scratch_remove(dir);
        }
    char *dir = scratch_make(), *path = file_join(dir, "d.jsonl");
    struct task *t;
    const struct task_type *type;
    void *params;
    OK(config_task_type(&type, "longbench/qasper"));
    char *text = mem_printf("data=%s", path);
    OK(config_params_parse(&params, type, text, "test"));
    scratch_text(dir, "d.jsonl", pointer);
    assert_int_equal(task_open(&t, type, params, NULL), ERR_INPUT);
    assert_non_null(strstr(err_text(), "Git LFS pointer"));
    config_params_free(type, params);
    free(text);
    free(path);
    scratch_remove(dir);
}

/* ---- plans and units ---- */

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

/* The tiny model with a tokenizer that has its first 80 tokens alone. */
static char *short_vocabulary(void)
{
    char *dir = scratch_make();
    put_tiny(dir, "config.json");
    put_tiny(dir, "model.safetensors");
    json_t *root = load_json("fixtures/tiny/tokenizer.json"), *v, *vocab = json_object();
    json_t *model = json_object_get(root, "model");
    const char *key;
    json_object_foreach(json_object_get(model, "vocab"), key, v)
    {
        if (json_integer_value(v) < 80)
            json_object_set(vocab, key, v);
    }
    json_object_set_new(model, "vocab", vocab);
    json_object_set_new(model, "merges", json_array());
    put_json(dir, "tokenizer.json", root);
    json_decref(root);
    return dir;
}

static double metric(const struct record *r, const char *name)
{
    for (int i = 0; i < r->n_metric; i++)
        if (!strcmp(task_metric_names()[r->metric[i].name], name))
            return r->metric[i].value;
    return 0;
}

/* Ids that the tokenizer does not have are no text and no error, and are counted. */
static void test_outside(void **state)
{
    (void)state;
    char *dir = short_vocabulary(), *text, *inside;
    struct planned p;
    struct runner *r;
    struct run_options o = {.device = "ref", .threads = 1, .logits_first = 0, .topk = 1};
    int64_t n_outside = 0;
    text =
        mem_printf("models: [{id: t, path: %s, template: none, max_len: 4096}]\nmethods: [full]\n"
                   "tasks: [{name: passkey, lengths: [16], depths: 4, digits: 5, max_new: 12}]\ndtype: f32\n",
                   dir);
    OK(open_plan(&p, text));
    OK(runner_open(&r, &o));
    OK(runner_load(r, &p.plan.model[0].run));
    for (int64_t i = 0; i < p.plan.n_unit; i++) {
        struct run_unit u = plan_run_unit(&p.plan, i);
        struct record rec;
        int32_t *known = mem_alloc(16, sizeof *known);
        int64_t n_known = 0, outside = 0;
        OK(runner_bundle(r, p.plan.model[0].task[0], &u, 1, &rec));
        assert_int_equal(rec.status, ST_OK);
        for (int k = 0; k < rec.n_new - (rec.stop == STOP_EOS); k++) {
            outside += rec.token[k] >= 80;
            if (rec.token[k] < 80)
                known[n_known++] = rec.token[k];
        }
        OK(tok_decode(runner_tok(r), known, n_known, true, &inside, NULL));
        assert_string_equal(rec.text, inside);
        assert_true(metric(&rec, "outside_vocab") == (double)outside);
        n_outside += outside;
        free(inside);
        free(known);
        record_free(&rec);
    }
    assert_true(n_outside > 0);
    runner_close(r);
    close_plan(&p);
    free(text);
    scratch_remove(dir);
}

/* The stop set of a model and a template. */
static void test_stops(void **state)
{
    (void)state;
    char *dir = scratch_make();
    struct tok *t;
    int32_t stop[POLICY_STOPS];
    put_tiny(dir, "tokenizer.json");
    OK(run_tok_open(&t, dir, NULL));
    assert_int_equal(policy_stop_ids(tok_template("none"), t, stop), 0);
    tok_close(t);
    scratch_text(dir, "config.json", "{\"eos_token_id\": [26, 0]}");
    OK(run_tok_open(&t, dir, NULL));
    assert_int_equal(policy_stop_ids(tok_template("none"), t, stop), 2);
    assert_true(stop[0] == 0 && stop[1] == 26);
    assert_int_equal(tok_eos(t), 0);
    tok_close(t);
    scratch_text(dir, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\"}");
    OK(run_tok_open(&t, dir, NULL));
    assert_int_equal(policy_stop_ids(tok_template("chatml"), t, stop), 3);
    assert_int_equal(stop[2], 400);
    tok_close(t);
    scratch_remove(dir);
}

/* In mode paper a model may be run as mamba-ssm's loop runs it: to the last of max_new, newlines and all. */
static void test_never_stops(void **state)
{
    (void)state;
    char *dir = scratch_make();
    struct tok *t;
    put_tiny(dir, "tokenizer.json");
    scratch_text(dir, "tokenizer_config.json", "{\"eos_token\": \"<|im_end|>\"}");
    OK(run_tok_open(&t, dir, NULL));
    const struct task_traits traits = {.kind = TASK_LONGBENCH, .max_new = 8, .newline_stops = true};
    const struct example ex = {.id = "x", .before = "", .context = "hello", .after = ""};
    for (int never = 0; never < 2; never++) {
        const struct run_model m = {.id = "m", .template = "none", .never_stops = never};
        const struct model_config cfg = {.max_len = 512};
        struct prompt p;
        OK(policy_prompt(MODE_PAPER, "full", NULL, &m, &cfg, t, &traits, &ex, &p));
        assert_int_equal(p.n_stop, never ? 0 : 1);
        assert_true((p.newline < 0) == never);
        assert_int_equal(p.min_one, !never);
        prompt_free(&p);
        OK(policy_prompt(MODE_FAIR, "full", NULL, &m, &cfg, t, &traits, &ex, &p));
        assert_int_equal(p.n_stop, 1); /* fair: whatever says so ends an answer, in every model */
        prompt_free(&p);
    }
    tok_close(t);
    scratch_remove(dir);
}

static void test_templates(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{% for m in messages %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>'}}{% "
         "endfor %}",
         "chatml-plain"},
        {"{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{{ '<|im_start|>' }}",
         "qwen2"},
        {"{{ bos_token }}{% for m in messages %}[INST] {{ m }} [/INST]{% endfor %}", "mistral_instruct"},
        {"{{ '<|start_header_id|>' + r + '<|end_header_id|>' + c + '<|eot_id|>' }}", "llama3"},
        {"{{- \"<|start_header_id|>system<|end_header_id|>\\n\\n\" }}{{- \"Cutting Knowledge Date: December "
         "2023\\n\" }}"
         "{{- \"Today Date: \" + date_string + \"\\n\\n\" }}{{- \"<|eot_id|>\" }}",
         "llama3.1"},
        {"{{- '<|im_start|>assistant\\n' }}{{- '<|im_end|>' }}{{- '<think>\\n\\n</think>\\n\\n' }}", "qwen3"},
        {"<start_of_turn>{{ r }}<end_of_turn>", "recurrentgemma"},
        {"{{ messages }}", NULL},
    };
    char *dir = scratch_make(), *text;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *near = chat_template_nearest(cases[i][0]), *want = cases[i][1];
        if (near != want && (!near || !want || strcmp(near, want) != 0))
            fail_msg("%s: %s", cases[i][0], near ? near : "none");
    }
    OK(chat_template_read(dir, &text));
    assert_null(text);
    scratch_text(dir, "tokenizer_config.json",
                 "{\"chat_template\": [{\"name\": \"tool\", \"template\": \"a\"}, "
                 "{\"name\": \"default\", \"template\": \"b\"}]}");
    OK(chat_template_read(dir, &text));
    assert_string_equal(text, "b");
    free(text);
    scratch_text(dir, "chat_template.jinja", "c");
    OK(chat_template_read(dir, &text));
    assert_string_equal(text, "c");
    free(text);
    scratch_remove(dir);
}

/* ---- parameters that follow from the model ---- */

#define LAG(models, methods)                                                                                 \
    "models: [" models "]\nmethods: [" methods "]\n"                                                         \
    "tasks: [{name: passkey, lengths: [8], depths: 1, digits: 5, max_new: 8}]\n"

/* The method of the only setting as a unit id has it. */
static void method_is(const char *model, const char *method, const char *want)
{
    struct planned p;
    char *text = mem_printf(LAG("{id: m, template: none, max_len: 4096, %s}", "\"%s\""), model, method);
    OK(open_plan(&p, text));
    const struct plan_setting *s = &p.plan.setting[0];
    if (strcmp(s->spec->text, want) != 0 || strcmp(plan_variant(&p.plan, 0, 0)->spec.text, want) != 0)
        fail_msg("%s: %s instead of %s", method, s->spec->text, want);
    assert_string_equal(s->id + 2, strstr(method, "lag") ? strstr(s->id, method) : "h2o-paper:heavy=0.25");
    free(text);
    close_plan(&p);
}

static void test_lag(void **state)
{
    (void)state;
    char *dir = scratch_make(), *mistral = mem_printf("path: %s", dir), *named;
    put_tiny(dir, "tokenizer.json");
    put_tiny(dir, "model.safetensors");
    json_t *root = load_json("fixtures/tiny/config.json");
    json_object_set_new(root, "model_type", json_string("mistral"));
    json_object_set_new(root, "sliding_window", json_null());
    put_json(dir, "config.json", root);
    json_decref(root);
    named = mem_printf("path: %s, defaults: {h2o-paper: {lag: 0}}", dir);
#define TINY "path: fixtures/tiny"
    method_is(TINY, "h2o-paper", "h2o-paper:heavy=0.25,recent=0.25,lag=0");
    method_is(mistral, "h2o-paper", "h2o-paper:heavy=0.25,recent=0.25,lag=1");
    method_is(mistral, "h2o-paper:lag=0", "h2o-paper:heavy=0.25,recent=0.25,lag=0");
    method_is(TINY, "h2o-paper:lag=1", "h2o-paper:heavy=0.25,recent=0.25,lag=1");
    method_is(named, "h2o-paper", "h2o-paper:heavy=0.25,recent=0.25,lag=0");
    method_is(TINY ", defaults: {h2o-paper: {lag: 1}}", "h2o-paper",
              "h2o-paper:heavy=0.25,recent=0.25,lag=1");
    free(named);
    free(mistral);
    scratch_remove(dir);
}

static void test_defaults_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{h2o-paper: {heavy: 1}}", "no parameter 'heavy' that can be auto"},
        {"{h2o-paper: {lag: auto}}", "must be one of the values that are not auto"},
        {"{h2o-paper: {lag: 2}}", "must be one of the values"},
        {"{h3o: {lag: 1}}", "with a method of"},
        {"[1]", "write {METHOD: {KEY: VALUE}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct planned p;
        char *text = mem_printf(LAG("{id: m, " TINY ", template: none, defaults: %s}", "full"), cases[i][0]);
        if (open_plan(&p, text) != ERR_INPUT || !strstr(err_text(), cases[i][1]) ||
            !strstr(err_text(), "t.yaml:1:"))
            fail_msg("%s: %s", cases[i][0], err_text());
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_extra),
        cmocka_unit_test(test_extra_refused),
        cmocka_unit_test(test_stand_ins),
        cmocka_unit_test(test_outside),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_never_stops),
        cmocka_unit_test(test_templates),
        cmocka_unit_test(test_lag),
        cmocka_unit_test(test_defaults_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
