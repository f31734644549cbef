/* Tasks: prompts byte for byte, keys, scores of examples and of prediction files, and what happens to bad
 * input. */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "task/haystack.h"
#include "task/mt19937.h"
#include "task/score_file.h"
#include "task/task.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

static json_t *load(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, 0, &e);
    if (!j)
        fail_msg("%s: %s", path, e.text);
    return j;
}

static int open_task(struct task **t, const char *name, const char *params,
                     const struct token_counter *counter)
{
    const struct task_type *type = task_type_find(name);
    assert_non_null(type);
    char block[256] = {0}; /* larger than any parameter struct */
    param_defaults(type->params, block);
    int rc = param_parse(type->params, block, params, name);
    if (rc == 0)
        rc = task_open(t, type, block, counter);
    param_free(type->params, block);
    return rc;
}

static struct task *must_open(const char *name, const char *params, const struct token_counter *counter)
{
    struct task *t = NULL;
    if (open_task(&t, name, params, counter) < 0)
        fail_msg("%s: %s", name, err_text());
    return t;
}

static char *prompt(const struct example *e)
{
    return mem_printf("%s%s%s", e->before, e->context, e->after);
}

static void must_refuse(const char *name, const char *params, const char *part)
{
    struct task *t = NULL;
    assert_int_equal(open_task(&t, name, params, NULL), ERR_INPUT);
    if (!strstr(err_text(), part))
        fail_msg("'%s' does not say '%s'", err_text(), part);
}

static void table(void **state)
{
    (void)state;
    int n = 0;
    for (const struct task_type *t; (t = task_type_at(n)); n++) {
        assert_ptr_equal(task_type_find(t->name), t);
        assert_true(t->traits.max_new > 0 && t->params && t->source && *t->traits.metric &&
                    *t->traits.category);
    }
    assert_int_equal(n, 18);
    assert_null(task_type_find("longbench/dureader"));
    const struct task_traits *samsum = &task_type_find("longbench/samsum")->traits;
    assert_true(!samsum->chat && samsum->newline_stops && samsum->first_line_only && samsum->max_new == 128);
    const struct task_traits *qasper = &task_type_find("longbench/qasper")->traits;
    assert_true(qasper->chat && !qasper->newline_stops && !qasper->first_line_only && qasper->max_new == 128);
}

/* The 300 keys of the reference, 7 and 64 digits. */
static void keys(void **state)
{
    (void)state;
    json_t *v = load("fixtures/task/vectors.json");
    for (int digits = 7; digits <= 64; digits += 57) {
        char name[16], params[32];
        snprintf(name, sizeof name, "%ddigits", digits);
        snprintf(params, sizeof params, "digits=%d", digits);
        const json_t *list = json_object_get(json_object_get(json_object_get(v, "passkey_generation"), name),
                                             "answers_in_generation_order");
        struct task *t = must_open("passkey", params, NULL);
        assert_int_equal(task_count(t), 300);
        assert_int_equal(json_array_size(list), 300);
        for (int i = 0; i < 300; i++)
            assert_string_equal(task_example(t, i)->gold[0],
                                json_string_value(json_array_get(list, (size_t)i)));
        task_close(t);
    }
    json_decref(v);
}

static void mt_first_outputs(void **state)
{
    (void)state;
    struct mt19937 g;
    mt19937_seed(&g, 42);
    assert_int_equal(mt19937_next(&g), 0xa3b1799d);
    assert_int_equal(mt19937_next(&g), 0x1c80317f);
    assert_int_equal(mt19937_next(&g), 0x06671ad1);
    assert_int_equal(mt19937_next(&g), 0xbdd640fb);
}

/* A folder whose files have every line end, no-break spaces, no final white space, and no words at all. */
static void passkey_folder(void **state)
{
    (void)state;
    json_t *want = load("fixtures/task/passkey_prompts.json");
    struct task *t =
        must_open("passkey", "haystack=fixtures/task/haystack,lengths=1-60x3,depths=4,iterations=2", NULL);
    assert_int_equal(task_count(t), json_array_size(want));
    for (int i = 0; i < task_count(t); i++) {
        const json_t *w = json_array_get(want, (size_t)i);
        const struct example *e = task_example(t, i);
        char *p = prompt(e);
        assert_string_equal(p, json_string_value(json_object_get(w, "text")));
        assert_true(e->length == json_number_value(json_object_get(w, "length")));
        assert_true(e->depth == json_number_value(json_object_get(w, "depth")));
        assert_int_equal(e->iteration, json_integer_value(json_object_get(w, "iteration")));
        assert_true(e->compress_all && e->n_classes == 0);
        free(p);
    }
    task_close(t);
    json_decref(want);
}

static void passkey_grid(void **state)
{
    (void)state;
    static const int reference[] = {512, 2730, 4949, 7168, 9386, 11605, 13824, 16042, 18261, 20480};
    struct task *t = must_open("passkey", "", NULL);
    for (int i = 0; i < 300; i++) {
        const struct example *e = task_example(t, i);
        assert_true(e->length == reference[i / 30] && e->n_words == reference[i / 30]);
        assert_true(e->depth == i / 3 % 10 / 9.0);
    }
    assert_string_equal(task_example(t, 4)->id, "len=512,depth=0.1111111111111111,it=1");
    task_close(t);
    t = must_open("passkey", "lengths=100+50/70;60,max_new=9,depths=1,iterations=1", NULL);
    assert_int_equal(task_count(t), 8); /* one depth means both ends, as in the reference */
    assert_int_equal(task_traits(t)->max_new, 9);
    assert_true(task_example(t, 1)->depth == 1 && task_example(t, 2)->length == 50);
    task_close(t);
    t = must_open("passkey", "lengths=64-64x9,depths=2,iterations=1", NULL);
    assert_int_equal(task_count(t), 2);
    task_close(t);
}

/* One token per three bytes. */
static int64_t count_thirds(void *ctx, const char *text, size_t n)
{
    (void)text;
    ++*(int *)ctx;
    return (int64_t)(n + 2) / 3;
}

static void passkey_tokens(void **state)
{
    (void)state;
    int calls = 0;
    struct token_counter counter = {count_thirds, &calls};
    struct task *t =
        must_open("passkey", "unit=tokens,lengths=150+1000+3000,depths=5,iterations=1", &counter);
    assert_int_equal(task_count(t), 15);
    for (int i = 0; i < 15; i++) {
        const struct example *e = task_example(t, i);
        char *p = prompt(e);
        int64_t n = ((int64_t)strlen(p) + 2) / 3;
        assert_in_range(n, (int)e->length - 6, (int)e->length);
        assert_non_null(strstr(p, e->gold[0]));
        free(p);
    }
    assert_true(calls < 15 * 16);
    task_close(t);
    must_refuse("passkey", "unit=tokens", "needs a model");
    struct task *none = NULL;
    assert_int_equal(open_task(&none, "passkey", "unit=tokens,lengths=20", &counter), ERR_INPUT);
    assert_non_null(strstr(err_text(), "less than the prompt without a haystack"));
}

/* Lists of pass keys: distinct names, the whole list in the prompt, the same for everyone. */
static void recite_grid(void **state)
{
    (void)state;
    struct task *t = must_open("recite", "lengths=30+60,depths=2,iterations=2,lines=45,digits=3", NULL);
    assert_int_equal(task_count(t), 8);
    for (int i = 0; i < 8; i++) {
        const struct example *e = task_example(t, i);
        char *p = prompt(e), name[45][32], key[8];
        int n = 0, number;
        assert_int_equal(e->n_gold, 1);
        assert_non_null(strstr(p, e->gold[0]));
        for (const char *line = e->gold[0]; line;) {
            assert_int_equal(sscanf(line, "%d. %31[a-z ]: %7[0-9]", &number, name[n], key), 3);
            assert_int_equal(number, n + 1);
            assert_int_equal(strlen(key), 3);
            for (int k = 0; k < n; k++)
                assert_string_not_equal(name[k], name[n]);
            n++;
            line = strchr(line, '\n');
            line = line ? line + 1 : NULL;
        }
        assert_int_equal(n, 45);
        assert_true(i == 0 || strcmp(e->gold[0], e[-1].gold[0]) != 0);
        free(p);
    }
    const struct example *e = task_example(t, 0);
    assert_string_equal(e->context + strlen("\n\nThe list of pass keys:\n") + strlen(e->gold[0]),
                        strstr(e->context, "\n\nWhen"));
    task_close(t);
    must_refuse("recite", "lines=201", "from 1 to 200");
    must_refuse("recite", "lengths=0", "task recite: lengths=0");
}

static void recite_scores(void **state)
{
    (void)state;
    struct task *t = must_open("recite", "lengths=30,depths=1,iterations=1,lines=4,digits=3", NULL);
    const char *gold = task_example(t, 0)->gold[0];
    char line[4][64] = {{0}}, text[1024];
    assert_int_equal(
        sscanf(gold, "%63[^\n]\n%63[^\n]\n%63[^\n]\n%63[^\n]", line[0], line[1], line[2], line[3]), 4);
    static const struct {
        const char *lines; /* digits: lines of the list; x: a wrong one; a blank: an empty one */
        double score, prefix, any;
    } rows[] = {
        {"0123", 1, 1, 1},
        {" 0 1 2 3", 1, 1, 1},
        {"01x3", 0.75, 0.5, 0.75},
        {"1023", 0.75, 0, 1},
        {"3210", 0.25, 0, 1},
        {"xx", 0, 0, 0},
        {"", 0, 0, 0},
        {"012301", 1, 1, 1},
        {"x0123", 1, 0, 1},
        {"000", 0.25, 0.25, 0.25},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t n = 0;
        text[0] = 0;
        for (const char *p = rows[i].lines; *p; p++)
            n += (size_t)snprintf(text + n, sizeof text - n, " %s \n",
                                  *p == 'x'   ? "5. x: 1"
                                  : *p == ' ' ? ""
                                              : line[*p - '0']);
        double score;
        struct score_extra extra[4];
        assert_int_equal(task_score(t, 0, text, strlen(text), &score, extra), 2);
        assert_string_equal(extra[0].name, "recite_prefix");
        assert_string_equal(extra[1].name, "recite_any_order");
        if (score != rows[i].score || extra[0].value != rows[i].prefix || extra[1].value != rows[i].any)
            fail_msg("'%s': %g %g %g", rows[i].lines, score, extra[0].value, extra[1].value);
    }
    task_close(t);
}

static void synthetic_text(void **state)
{
    (void)state;
    struct haystack h;
    struct str text = {0};
    assert_int_equal(haystack_open(&h, "synthetic", 42), 0);
    assert_int_equal(haystack_background(&h, 130000, &text), 130000);
    static const char *const banned[] = {"key",      "pass",  "secret", "number", "emember",
                                         "mportant", "memor", "info",   "  ",     "$"};
    for (size_t i = 0; i < sizeof banned / sizeof *banned; i++)
        assert_null(strstr(text.data, banned[i]));
    assert_null(strpbrk(text.data, "0123456789"));
    for (size_t i = 0; i < text.n; i++)
        assert_true(text.data[i] == '\n' || (text.data[i] >= ' ' && text.data[i] < 127));
    char hex[65];
    file_sha256(text.data, text.n, hex); /* the same bytes on every machine */
    assert_string_equal(hex, "c9457012ba4a731d30641b39bf6a6f3696fb269751b3df35d8c01f50ef1b5218");
    char *first = mem_strdup(text.data);
    first[500] = '\0';
    haystack_close(&h);
    assert_int_equal(haystack_open(&h, "synthetic", 43), 0);
    assert_int_equal(haystack_background(&h, 200, &text), 200);
    assert_int_not_equal(strncmp(text.data, first, 500), 0);
    haystack_close(&h);
    str_free(&text);
    free(first);
}

static void longbench_prompts(void **state)
{
    (void)state;
    json_t *want = load("fixtures/task/longbench_prompts.json");
    int n = 0;
    for (int i = 0; task_type_at(i); i++) {
        const char *name = task_type_at(i)->name;
        if (strncmp(name, "longbench/", 10) != 0)
            continue;
        struct task *t = must_open(name, "data=fixtures/task/longbench.jsonl", NULL);
        const json_t *prompts = json_object_get(want, name + 10);
        assert_int_equal(task_count(t), 3);
        for (int k = 0; k < 3; k++, n++) {
            char *p = prompt(task_example(t, k));
            assert_string_equal(p, json_string_value(json_array_get(prompts, (size_t)k)));
            free(p);
        }
        task_close(t);
    }
    assert_int_equal(n, 48);
    json_decref(want);
}

static void longbench_fields(void **state)
{
    (void)state;
    struct task *t =
        must_open("longbench/trec", "data=fixtures/task/longbench.jsonl,limit=2,max_new=5", NULL);
    const struct example *e = task_example(t, 0);
    assert_int_equal(task_count(t), 2);
    assert_int_equal(task_traits(t)->max_new, 5);
    assert_string_equal(e->id, "r1");
    assert_string_equal(e->gold[1], "the \xC3\xBC"
                                    "ber Paragraph 4");
    assert_true(e->n_gold == 2 && e->n_classes == 2 && e->n_words == 7 && isnan(e->length) &&
                e->iteration == -1);
    double score = -1;
    struct score_extra extra[4];
    assert_int_equal(task_score(t, 0, "\n\nParagraph 3\nx", 14, &score, extra), 0);
    assert_true(score == 0); /* the truth is not a class */
    task_close(t);
    t = must_open("longbench/lcc", "data=fixtures/task/longbench.jsonl", NULL);
    assert_int_equal(task_traits(t)->max_new, 64);
    assert_int_equal(task_score(t, 1, "Paragraph 12", 12, &score, extra), 1);
    assert_true(score == 1 && extra[0].value == 1 && strcmp(extra[0].name, "code_sim_indel") == 0);
    task_close(t);
}

static void prediction_files(void **state)
{
    (void)state;
    json_t *want = load("fixtures/task/preds_scores.json");
    const char *task;
    json_t *w;
    json_object_foreach(want, task, w)
    {
        char *name = strcmp(task, "passkey") == 0 ? mem_strdup(task) : mem_printf("longbench/%s", task);
        bool retrieval = strstr(task, "retrieval") != NULL;
        struct file_scores s;
        struct str json = {0};
        const char *path = retrieval ? "fixtures/task/preds_retrieval.jsonl" : "fixtures/task/preds.jsonl";
        if (score_file(&s, task_type_find(name), path) < 0)
            fail_msg("%s", err_text());
        file_scores_json(&s, task_type_find(name), &json);
        json_t *have = json_loads(json.data, 0, NULL);
        assert_non_null(have);
        const char *key;
        json_t *value;
        json_object_foreach(w, key, value) if (strcmp(key, "per_sample") != 0 &&
                                               json_number_value(json_object_get(have, key)) !=
                                                   json_number_value(value))
            fail_msg("%s %s: %s", task, key, json.data);
        const json_t *per = json_object_get(w, "per_sample");
        assert_int_equal(s.n, json_array_size(per));
        for (int i = 0; i < s.n; i++)
            assert_true(s.per_sample[i] == json_number_value(json_array_get(per, (size_t)i)));
        json_decref(have);
        str_free(&json);
        file_scores_free(&s);
        free(name);
    }
    json_decref(want);
}

static char scratch[] = "/tmp/kvs-task-XXXXXX";

static int make_scratch(void **state)
{
    (void)state;
    int fd = mkstemp(scratch);
    return fd < 0 ? -1 : close(fd);
}

static int drop_scratch(void **state)
{
    (void)state;
    return unlink(scratch);
}

static void put(const char *bytes, size_t n)
{
    FILE *f = fopen(scratch, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

#define GOOD "{\"_id\":\"a\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"Paragraph 1\"],\"length\":1}\n"

/* What Python's json writes beyond the standard, and Windows' editors before it. */
static void foreign_rows(void **state)
{
    (void)state;
    static const char text[] =
        "\xef\xbb\xbf{\"_id\":\"a\",\"input\":\"i \\ud83d\\ude00\",\"context\":\"cut \\ud83d here, \\uDE00\","
        "\"answers\":[\"\\\\ud800\"],\"length\":1,\"score\":NaN}\n"
        "{\"_id\":\"b\",\"input\":\"NaN\",\"context\":\"\\ud83d\\ud83d\\ude00\",\"answers\":[\"x\"],"
        "\"length\":2,"
        "\"big\":123456789012345678901234567890,\"neg\":-99999999999999999999,\"f\":[-Infinity,1e999,"
        "Infinity],"
        "\"nul\":\"\\u0000\",\"k\\u0000\":1,\"max\":9223372036854775807}\n";
    char *params = mem_printf("data=%s", scratch);
    put(text, sizeof text - 1);
    struct task *t = must_open("longbench/qasper", params, NULL);
    assert_int_equal(task_count(t), 2);
    const struct example *a = task_example(t, 0), *b = task_example(t, 1);
    assert_string_equal(a->context, "cut \xef\xbf\xbd here, \xef\xbf\xbd");
    assert_non_null(strstr(a->after, "i \xf0\x9f\x98\x80"));
    assert_string_equal(a->gold[0], "\\ud800");
    assert_string_equal(b->context, "\xef\xbf\xbd\xf0\x9f\x98\x80");
    assert_non_null(strstr(b->after, "NaN"));
    assert_int_equal(b->n_words, 2);
    task_close(t);
    const struct task_type *qasper = task_type_find("longbench/qasper");
    struct file_scores f;
    static const char scored[] =
        "\xef\xbb\xbf{\"pred\":\"blue\\u0000 \\ud800\",\"answers\":[\"blue\"],\"p\":NaN,\"q\":1e400}";
    put(scored, sizeof scored - 1);
    assert_int_equal(score_file(&f, qasper, scratch), 0);
    assert_int_equal(f.n, 1);
    file_scores_free(&f);
    put("\xff\xfe{\0", 4);
    assert_int_equal(score_file(&f, qasper, scratch), ERR_INPUT);
    assert_non_null(strstr(err_text(), "UTF-16"));
    free(params);
}

static void bad_rows(void **state)
{
    (void)state;
    static const struct {
        const char *row, *part;
    } cases[] = {
        {"{\"_id\":", ":3: not a JSON line: it ends in the middle of a value"},
        {"[1]", ":3: the line is not a JSON object"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\"]}", ":3: missing 'length'"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":NaN}",
         ":3: wrong type of 'length'"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":1.5}",
         ":3: wrong type of 'length'"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":-1}",
         ":3: wrong type of 'length'"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":99999999999}",
         ":3: wrong type of 'length'"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":\"x\",\"length\":1}",
         ":3: wrong type of 'answers'"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[1],\"length\":1}",
         ":3: wrong type of 'answers'"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[],\"length\":1}",
         ":3: 'answers' is empty"},
        {"{\"_id\":\"b\",\"input\":null,\"context\":\"c\",\"answers\":[\"x\"],\"length\":1}",
         ":3: wrong type of 'input'"},
        {"{\"_id\":\"b\",\"input\":\"\\u0000\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":1}",
         ":3: 'input' holds the character U+0000"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\",\"\\u0000\"],\"length\":1}",
         ":3: 'answers' holds the character U+0000"},
        {"{\"_id\":\"b\"} {", ":3: not a JSON line: something follows behind its value (column"},
        {"{\"_id\": nan}", ":3: not a JSON line: this is no JSON (column"},
        {"{\"_id\": 012345678901234567890}", ":3: not a JSON line: this is no JSON (column"},
        {"{\"_id\": 1e999x}", ":3: not a JSON line: this is no JSON (column"},
        {"{\"_id\":\"b\",\"input\":\"\xFF\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":1}",
         ":3: not a JSON line: it is not UTF-8 text"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":1}",
         "does not name a paragraph"},
        {"{\"_id\":\"b\",\"input\":\"i\",\"context\":\"c\",\"answers\":[\"x\"],\"length\":1,\"dataset\":"
         "\"trec\"}",
         "dataset 'trec'"},
        {GOOD, "two rows have the _id 'a'"},
    };
    char *params = mem_printf("data=%s", scratch), *limited = mem_printf("data=%s,limit=1", scratch);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *text = mem_printf(GOOD " \n%s", cases[i].row);
        put(text, strlen(text));
        must_refuse("longbench/passage_retrieval_en", params, cases[i].part);
        struct task *t = must_open("longbench/passage_retrieval_en", limited,
                                   NULL); /* rows beyond the limit are not read */
        assert_int_equal(task_count(t), 1);
        task_close(t);
        free(text);
    }
    put("\n \n", 3);
    must_refuse("longbench/trec", params, "holds no rows");
    put(GOOD, strlen(GOOD));
    must_refuse("longbench/trec", params, ":1: missing 'all_classes'");
    free(params);
    free(limited);
}

static void bad_params(void **state)
{
    (void)state;
    must_refuse("longbench/trec", "", "no data");
    must_refuse("passkey", "lengths=12x", "'12x' is neither");
    must_refuse("passkey", "lengths=0", "from 1 to");
    must_refuse("passkey", "lengths=99999999999999999999", "is neither");
    must_refuse("passkey", "lengths=20-10x3", "is neither");
    must_refuse("passkey", "lengths=1-10x9999999", "is neither");
    must_refuse("passkey", "lengths=1-5x10", "comes twice");
    must_refuse("passkey", "lengths=+", "lengths is empty");
    must_refuse("passkey", "digits=65", "digits=65");
    must_refuse("passkey", "depths=1000,iterations=1000", "more than 1000000 prompts");
    must_refuse("passkey", "haystack=/no/such/folder", "neither 'synthetic' nor a folder");
}

static void bad_predictions(void **state)
{
    (void)state;
    static const struct {
        const char *task, *text, *part;
    } cases[] = {
        {"passkey", "", "is empty (0 bytes)"},
        {"passkey", "\n\n", "holds no predictions"},
        {"passkey", "{\"pred\":1,\"answers\":[\"x\"]}", ":1: wrong type of 'pred'"},
        {"passkey", "{\"answers\":[\"x\"]}", ":1: missing 'pred'"},
        {"passkey", "{\"pred\":\"\",\"answers\":[\"\"]}", ":1: an answer is empty"},
        {"longbench/trec", "{\"pred\":\"x\",\"answers\":[\"x\"],\"all_classes\":null}",
         ":1: wrong type of 'all_classes'"},
        {"longbench/passage_retrieval_en", "{\"pred\":\"x\",\"answers\":[\"x\"]}",
         ":1: an answer does not name a paragraph"},
        {"longbench/qasper", "{\"pred\":\"x\",\"answers\":[\"x\"]}\n{", ":2: not a JSON line"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct file_scores s;
        put(cases[i].text, strlen(cases[i].text));
        assert_int_equal(score_file(&s, task_type_find(cases[i].task), scratch), ERR_INPUT);
        if (!strstr(err_text(), cases[i].part))
            fail_msg("'%s' does not say '%s'", err_text(), cases[i].part);
        file_scores_free(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(table),
        cmocka_unit_test(keys),
        cmocka_unit_test(mt_first_outputs),
        cmocka_unit_test(passkey_folder),
        cmocka_unit_test(passkey_grid),
        cmocka_unit_test(passkey_tokens),
        cmocka_unit_test(recite_grid),
        cmocka_unit_test(recite_scores),
        cmocka_unit_test(synthetic_text),
        cmocka_unit_test(longbench_prompts),
        cmocka_unit_test(longbench_fields),
        cmocka_unit_test(prediction_files),
        cmocka_unit_test(foreign_rows),
        cmocka_unit_test(bad_rows),
        cmocka_unit_test(bad_params),
        cmocka_unit_test(bad_predictions),
    };
    return cmocka_run_group_tests(tests, make_scratch, drop_scratch);
}
