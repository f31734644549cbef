/* LLMLingua-2 against PyPI's llmlingua and transformers: fixtures by oracle/prompt_fixtures.py (argument:
 * another folder of that form). */
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "expect.h"
#include "kv/kv.h"
#include "model/encoder.h"
#include "prompt/llmlingua2.h"
#include "prompt/prompt.h"
#include "scratch.h"

static const char *dir = "fixtures/prompt";

static json_t *load(const char *name)
{
    char *path = file_join(dir, name);
    json_error_t e;
    json_t *j = json_load_file(path, 0, &e);
    if (!j)
        fail_msg("%s: %s", path, e.text);
    free(path);
    return j;
}

/* ---- encoder ---- */

struct rig {
    struct ops *ops;
    struct encoder *e;
};

static void rig_open(struct rig *r, const char *backend)
{
    const struct ops_options o = {.threads = 2, .isa = "auto", .act = DT_F32};
    struct model_file *f;
    char *path = file_join(dir, "encoder");
    OK(ops_open(&r->ops, backend, &o));
    OK(encoder_file_open(&f, path));
    const struct model_options m = {.dtype = DT_F32, .threads = 2};
    OK(encoder_open(&r->e, r->ops, f, &m));
    model_file_close(f);
    free(path);
}

static void rig_close(struct rig *r)
{
    encoder_close(r->e);
    for (int k = 0; k < MEM_KIND_N; k++)
        assert_int_equal(r->ops->used(r->ops, (enum mem_kind)k, PLACE_DEVICE), 0);
    ops_close(r->ops);
}

static struct encoder_text *read_texts(const json_t *rows, int *n, int64_t *total)
{
    *n = (int)json_array_size(rows);
    *total = 0;
    struct encoder_text *t = mem_alloc((size_t)*n, sizeof *t);
    for (int i = 0; i < *n; i++) {
        const json_t *ids = json_object_get(json_array_get(rows, (size_t)i), "ids");
        t[i].n_ids = (int64_t)json_array_size(ids);
        int32_t *v = mem_alloc((size_t)t[i].n_ids, sizeof *v);
        for (int64_t k = 0; k < t[i].n_ids; k++)
            v[k] = (int32_t)json_integer_value(json_array_get(ids, (size_t)k));
        t[i].ids = v;
        *total += t[i].n_ids;
    }
    return t;
}

static double worst_logit(const json_t *rows, const struct encoder_text *t, int n, const float *logits)
{
    double worst = 0;
    for (int i = 0; i < n; i++) {
        const json_t *row = json_array_get(rows, (size_t)i), *want = json_object_get(row, "logits");
        int64_t step = json_integer_value(json_object_get(row, "step"));
        for (size_t k = 0; k < json_array_size(want); k++) {
            for (size_t c = 0; c < 2; c++) {
                double w = json_number_value(json_array_get(json_array_get(want, k), c));
                double d = fabs((double)logits[2 * (int64_t)k * step + (int64_t)c] - w);
                worst = d > worst ? d : worst;
            }
        }
        logits += 2 * t[i].n_ids;
    }
    return worst;
}

/* Logits of transformers, texts of 1 to 512 tokens together in one call without padding. */
static void check_logits(const char *backend)
{
    struct rig r;
    int n;
    int64_t total;
    json_t *rows = load("logits.json");
    struct encoder_text *t = read_texts(rows, &n, &total);
    float *all = mem_alloc((size_t)total * 2, sizeof *all), *one = mem_alloc((size_t)total * 2, sizeof *one);
    rig_open(&r, backend);
    OK(encoder_run(r.e, t, n, all));
    double worst = worst_logit(rows, t, n, all);
    printf("logits on %s: worst difference %.2g\n", backend, worst);
    assert_true(worst <= 1e-4);
    int64_t at = 0;
    for (int i = 0; i < n; i++) { /* alone: the same but for the shapes of products */
        OK(encoder_run(r.e, &t[i], 1, one));
        for (int64_t k = 0; k < 2 * t[i].n_ids; k++)
            assert_true(fabsf(one[k] - all[2 * at + k]) < 1e-4f);
        at += t[i].n_ids;
    }
    rig_close(&r);
    for (int i = 0; i < n; i++)
        free((void *)(uintptr_t)t[i].ids);
    free(t);
    free(all);
    free(one);
    json_decref(rows);
}

static void test_logits_ref(void **state)
{
    (void)state;
    check_logits("ref");
}

static void test_logits_cpu(void **state)
{
    (void)state;
    check_logits("cpu");
}

static void test_encoder_refusals(void **state)
{
    (void)state;
    struct rig r;
    int32_t ids[600] = {0};
    float *logits = mem_alloc(1200, sizeof *logits);
    rig_open(&r, "ref");
    assert_int_equal(encoder_run(r.e, &(struct encoder_text){ids, 513}, 1, logits), ERR_TOO_LONG);
    ids[3] = (int32_t)encoder_config(r.e)->n_vocab;
    assert_int_equal(encoder_run(r.e, &(struct encoder_text){ids, 5}, 1, logits), ERR_INPUT);
    ops_fail_alloc(r.ops, 1);
    assert_int_equal(encoder_run(r.e, &(struct encoder_text){ids, 3}, 1, logits), ERR_NOMEM);
    rig_close(&r);
    free(logits);
}

static void refused(const char *folder, const char *config, const char *says)
{
    struct model_file *f = NULL;
    scratch_text(folder, "config.json", config);
    assert_int_equal(encoder_file_open(&f, folder), ERR_INPUT);
    if (!strstr(err_text(), says))
        fail_msg("'%s' does not say '%s'", err_text(), says);
}

static void test_wrong_kinds(void **state)
{
    (void)state;
    char *folder = scratch_make();
    struct model_file *f = NULL;
    refused(folder, "{\"model_type\": \"llama\", \"architectures\": [\"LlamaForCausalLM\"]}",
            "model_type 'llama'");
    refused(folder, "{\"model_type\": \"xlm-roberta\", \"architectures\": [\"XLMRobertaForMaskedLM\"]}",
            "architecture 'XLMRobertaForMaskedLM'");
#define HEAD "{\"model_type\": \"xlm-roberta\", \"architectures\": [\"XLMRobertaForTokenClassification\"], "
    refused(folder, HEAD "\"type_vocab_size\": 1, \"hidden_size\": 0}", "'hidden_size' must be");
    refused(folder, HEAD "\"type_vocab_size\": 1, \"hidden_size\": 30, \"num_attention_heads\": 4}",
            "4 heads");
    refused(folder, HEAD "\"type_vocab_size\": 1, \"hidden_act\": \"relu\"}", "only 'gelu'");
    refused(folder, HEAD "\"type_vocab_size\": 1, \"id2label\": {\"0\": \"A\"}}", "1 labels");
    refused(folder, HEAD "\"type_vocab_size\": 1, \"layer_norm_eps\": -1}", "layer_norm_eps");
    refused(folder, "[]", "no JSON object");
    refused(folder, "{", "not JSON");
    assert_int_equal(encoder_file_open(&f, "/nowhere/at/all"), ERR_INPUT);
    scratch_remove(folder);
}

/* ---- compression ---- */

static struct prompt_compressor *open_compressor(bool ranks)
{
    struct prompt_compressor *c;
    char *encoder = file_join(dir, "encoder"), *file = file_join(dir, "ranks.tiktoken");
    const struct prompt_files paths = {encoder, ranks ? file : NULL};
    OK(prompt_method_find("llmlingua2")
           ->open(&c, &paths, &(struct prompt_options){.device = "cpu", .threads = 2}));
    free(encoder);
    free(file);
    return c;
}

static void check_run(struct prompt_compressor *c, const json_t *one, const json_t *run, int *words)
{
    const char *text = json_string_value(json_object_get(one, "text")),
               *want = json_string_value(json_object_get(run, "text")),
               *kept = json_string_value(json_object_get(run, "kept")), *force[16];
    const json_t *list = json_object_get(run, "force");
    double rate = json_number_value(json_object_get(run, "rate"));
    struct ll2_options o = ll2_defaults;
    o.rate = 1 / rate;
    o.force_tokens = force;
    o.n_force = (int)json_array_size(list);
    o.drop_consecutive = json_is_true(json_object_get(run, "drop"));
    o.force_reserve_digit = json_is_true(json_object_get(run, "digits"));
    struct str labels = {0};
    char *got;
    for (int i = 0; i < o.n_force; i++)
        force[i] = json_string_value(json_array_get(list, (size_t)i));
    OK(ll2_run(c, &o, &text, 1, &got, &labels));
    *words += (int)labels.n;
    if (strcmp(got, want) != 0 || strcmp(str_c(&labels), kept) != 0) {
        size_t at = 0;
        while (got[at] && got[at] == want[at])
            at++;
        at = at > 40 ? at - 40 : 0;
        fail_msg("%s, rate %g: %zu words (package: %zu)\n got: …%.160s\nwant: …%.160s",
                 json_string_value(json_object_get(one, "name")), rate, labels.n, strlen(kept), got + at,
                 want + at);
    }
    free(got);
    str_free(&labels);
}

/* Every kept word and every byte of the text. */
static void test_compression(void **state)
{
    (void)state;
    json_t *cases = load("cases.json");
    struct prompt_compressor *c = open_compressor(true);
    int64_t texts, rows;
    int words = 0, n = 0;
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i), *runs = json_object_get(one, "runs");
        for (size_t k = 0; k < json_array_size(runs); k++, n++)
            check_run(c, one, json_array_get(runs, k), &words);
    }
    prompt_method_find("llmlingua2")->counts(c, &texts, &rows);
    printf("%d texts compressed as the package does, %d words; the encoder read %lld texts, %lld tokens\n", n,
           words, (long long)texts, (long long)rows);
    assert_true(n >= 20 && texts < n && words > 1000); /* other rates of the same text come from the cache */
    prompt_method_find("llmlingua2")->close(c);
    json_decref(cases);
}

/* ---- several contexts ---- */

struct lists {
    const char *context[64], *force[LL2_MARKS];
    int id[64];
};

static int texts(const json_t *list, const char **out, size_t max)
{
    size_t n = json_array_size(list);
    assert_true(n <= max);
    for (size_t i = 0; i < n; i++)
        out[i] = json_string_value(json_array_get(list, i));
    return (int)n;
}

static void get_real(const json_t *o, const char *key, double *v)
{
    const json_t *j = json_object_get(o, key);
    *v = j ? json_number_value(j) : *v;
}

static void get_int(const json_t *o, const char *key, int64_t *v)
{
    const json_t *j = json_object_get(o, key);
    *v = j ? json_integer_value(j) : *v;
}

static void get_bool(const json_t *o, const char *key, bool *v)
{
    const json_t *j = json_object_get(o, key);
    *v = j ? json_is_true(j) : *v;
}

static struct ll2_options get_options(const json_t *j, struct lists *l)
{
    struct ll2_options o = ll2_defaults;
    const json_t *ids = json_object_get(j, "force_context_ids");
    get_real(j, "rate", &o.rate);
    get_int(j, "target_token", &o.target_token);
    get_bool(j, "use_context_level_filter", &o.use_context_level_filter);
    get_bool(j, "use_token_level_filter", &o.use_token_level_filter);
    get_real(j, "context_level_rate", &o.context_level_rate);
    get_int(j, "target_context", &o.target_context);
    get_int(j, "context_level_target_token", &o.context_level_target_token);
    get_bool(j, "drop_consecutive", &o.drop_consecutive);
    get_bool(j, "force_reserve_digit", &o.force_reserve_digit);
    o.n_force_context = (int)json_array_size(ids);
    assert_true(o.n_force_context <= 64);
    for (int i = 0; i < o.n_force_context; i++)
        l->id[i] = (int)json_integer_value(json_array_get(ids, (size_t)i));
    o.force_context_ids = l->id;
    o.n_force = texts(json_object_get(j, "force_tokens"), l->force, LL2_MARKS);
    o.force_tokens = l->force;
    return o;
}

/* One run of the package's; where it has no text, it failed for a context without words. */
static bool same_contexts(struct prompt_compressor *c, const json_t *run, int *refused)
{
    struct lists l;
    const struct ll2_options o = get_options(json_object_get(run, "options"), &l);
    const char *want = json_string_value(json_object_get(run, "text")),
               *kept = json_string_value(json_object_get(run, "kept"));
    int n = texts(json_object_get(run, "contexts"), l.context, 64);
    struct str labels = {0};
    char *got;
    int rc = ll2_run(c, &o, l.context, n, &got, &labels);
    bool same;
    if (!want) {
        same = rc == ERR_INPUT && strstr(err_text(), "has no words to choose it by");
        ++*refused;
    } else {
        OK(rc);
        same = !strcmp(got, want) && !strcmp(str_c(&labels), kept);
    }
    if (!same) {
        char *text = json_dumps(json_object_get(run, "options"), JSON_ENSURE_ASCII);
        printf("%d contexts, %s: %zu words (package: %zu)\n got: %.300s\nwant: %.300s\n", n, text, labels.n,
               kept ? strlen(kept) : 0, got ? got : err_text(), want ? want : "a refusal");
        free(text);
    }
    free(got);
    str_free(&labels);
    return same;
}

static void test_contexts(void **state)
{
    (void)state;
    json_t *runs = load("contexts.json");
    struct prompt_compressor *c = open_compressor(true);
    int n = (int)json_array_size(runs), refused = 0, wrong = 0;
    for (int i = 0; i < n; i++)
        wrong += !same_contexts(c, json_array_get(runs, (size_t)i), &refused);
    printf("%d runs with several contexts (%d to be refused), %d unlike the package's\n", n, refused, wrong);
    assert_true(n >= 50 && refused > 0 && wrong == 0);
    prompt_method_find("llmlingua2")->close(c);
    json_decref(runs);
}

static void options_refused(struct prompt_compressor *c, const struct ll2_options *o, const char *says)
{
    static const char *const two[] = {"Ana met Chen.", "They left."};
    char *got;
    assert_int_equal(ll2_run(c, o, two, 2, &got, NULL), ERR_INPUT);
    assert_null(got);
    if (!strstr(err_text(), says))
        fail_msg("'%s' does not say '%s'", err_text(), says);
}

#define OPTION_REFUSED(says, ...)                                                                            \
    do {                                                                                                     \
        struct ll2_options o = ll2_defaults;                                                                 \
        __VA_ARGS__;                                                                                         \
        options_refused(c, &o, says);                                                                        \
    } while (0)

static void test_option_refusals(void **state)
{
    (void)state;
    struct prompt_compressor *c = open_compressor(false);
    const char *many[LL2_MARKS + 1], *none[] = {".", ""}, *broken[] = {"\xff"};
    for (int i = 0; i <= LL2_MARKS; i++)
        many[i] = "x";
    OPTION_REFUSED("rate 0:", o.rate = 0);
    OPTION_REFUSED("rate 1.5:", o.rate = 1.5);
    OPTION_REFUSED("rate nan:", o.rate = (double)NAN);
    OPTION_REFUSED("context_level_rate -0.5: use 0 to 1", o.context_level_rate = -0.5);
    OPTION_REFUSED("target_token 0:", o.target_token = 0);
    OPTION_REFUSED("names context 2; there are 2, counted from 0",
                   (o.n_force_context = 1, o.force_context_ids = (const int[]){2}));
    OPTION_REFUSED("names context -1;", (o.n_force_context = 2, o.force_context_ids = (const int[]){1, -1}));
    OPTION_REFUSED("101 force tokens; LLMLingua-2 takes at most 100",
                   (o.n_force = LL2_MARKS + 1, o.force_tokens = many));
    OPTION_REFUSED("force token 2 is empty", (o.n_force = 2, o.force_tokens = none));
    OPTION_REFUSED("UTF-8", (o.n_force = 1, o.force_tokens = broken));
    int64_t n_texts, rows;
    prompt_method_find("llmlingua2")->counts(c, &n_texts, &rows);
    assert_int_equal(n_texts, 0); /* refused before the encoder has anything to do */
    prompt_method_find("llmlingua2")->close(c);
}

/* Without ranks, pieces are the tokens of a target. */
static void test_no_ranks(void **state)
{
    (void)state;
    struct prompt_compressor *c = open_compressor(false);
    static const char *const three[] = {"Ana met Chen.", "They left the council, then came back.",
                                        "Ana met Chen."};
    struct ll2_options o = ll2_defaults;
    char *got;
    o.use_context_level_filter = true;
    o.target_context = 3;
    o.target_token = 1000000;
    OK(ll2_run(c, &o, three, 3, &got, NULL));
    assert_string_equal(got, "Ana met Chen.\n\nThey left the council, then came back.\n\nAna met Chen.");
    free(got);
    o.target_token = 4;
    OK(ll2_run(c, &o, three, 3, &got, NULL));
    assert_true(strlen(got) < 30);
    free(got);
    OK(ll2_run(c, &o, three, 0, &got, NULL));
    assert_string_equal(got, "");
    free(got);
    prompt_method_find("llmlingua2")->close(c);
}

/* ---- settings ---- */

/* As a setting asks for it, without ranks. */
static char *rewritten(struct prompt_compressor *c, const char *method, const char *text)
{
    struct kv_spec spec;
    char *got;
    OK(kv_spec_parse(&spec, method));
    OK(prompt_method_find("llmlingua2")
           ->rewrite(c, spec.params, &(struct prompt_parts){"A", text, "B"}, &got));
    kv_spec_free(&spec);
    return got;
}

static void test_settings(void **state)
{
    (void)state;
    if (strcmp(dir, "fixtures/prompt") != 0)
        skip(); /* the texts below are those of the small tokenizer */
    struct prompt_compressor *c = open_compressor(false);
    static const char text[] = "We met, briefly.\nThen 3.5 of us left!  And more, and more.";
    char *one = rewritten(c, "llmlingua2:rate=1", text), *four = rewritten(c, "llmlingua2:ratio=4", text),
         *digits = rewritten(c, "llmlingua2:rate=20,force=,digits=keep", text);
    assert_string_equal(one, "We met, briefly.\n Then 3. 5 of us left! And more, and more.");
    assert_true(strlen(four) < strlen(text));
    assert_true(strchr(digits, '3') && strchr(digits, '5') && strlen(digits) < 12);
    free(one);
    free(four);
    free(digits);
    prompt_method_find("llmlingua2")->close(c);
}

static void test_identity(void **state)
{
    (void)state;
    char *encoder = file_join(dir, "encoder"), *file = file_join(dir, "ranks.tiktoken");
    struct str with = {0}, without = {0};
    const struct prompt_method *m = prompt_method_find("llmlingua2");
    OK(m->identify(&(struct prompt_files){encoder, file}, &with));
    OK(m->identify(&(struct prompt_files){encoder, NULL}, &without));
    assert_non_null(strstr(str_c(&without), " ranks none"));
    assert_null(strstr(str_c(&with), " ranks none"));
    assert_int_equal(strncmp(str_c(&with), str_c(&without), 40), 0);
    assert_null(prompt_method_find("full"));
    str_free(&with);
    str_free(&without);
    free(encoder);
    free(file);
}

static void test_percentile(void **state)
{
    (void)state;
    double v[] = {4, 1, 3, 2, 5};
    assert_true(ll2_percentile(v, 5, 50, false) == 3);
    assert_true(ll2_percentile(v, 5, 76, false) == 4 + (4 * 0.76 - 3));
    assert_true(ll2_percentile(v, 5, 88, false) == 5 - (1 - (4 * 0.88 - 3)));
    assert_true(ll2_percentile(v, 5, 100, false) == 5);
    double w[] = {(double)0.1f, (double)0.3f};
    assert_true(ll2_percentile(w, 2, 25, true) == (double)(0.1f + (0.3f - 0.1f) * 0.25f));
    assert_true(ll2_percentile(w, 1, 87, false) == (double)0.1f);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        dir = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_logits_ref),       cmocka_unit_test(test_logits_cpu),
        cmocka_unit_test(test_encoder_refusals), cmocka_unit_test(test_wrong_kinds),
        cmocka_unit_test(test_percentile),       cmocka_unit_test(test_identity),
        cmocka_unit_test(test_compression),      cmocka_unit_test(test_contexts),
        cmocka_unit_test(test_option_refusals),  cmocka_unit_test(test_no_ranks),
        cmocka_unit_test(test_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
