/* Metrics against values of the reference's own functions (fixtures: oracle/task_fixtures.py; vectors.json:
 * the specification's). */
#include "base/mem.h"
#include "task/metric.h"
#include "task/score.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

static json_t *load(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &e);
    if (!j)
        fail_msg("%s: %s", path, e.text);
    return j;
}

static struct utext text_of(const json_t *object, const char *key)
{
    const json_t *s = json_object_get(object, key);
    struct utext u;
    assert_true(json_is_string(s));
    utext_init(&u, json_string_value(s), json_string_length(s));
    return u;
}

static double rouge(struct uspan answer, struct uspan truth)
{
    bool too_deep;
    return metric_rouge_l(answer, truth, &too_deep);
}

static double by_name(const char *name, struct uspan answer, struct uspan truth, const struct utext *classes,
                      int n_classes)
{
    static const struct {
        const char *name;
        double (*fn)(struct uspan answer, struct uspan truth);
    } table[] = {
        {"qa_f1", metric_qa_f1},          {"rouge_l", rouge},
        {"count", metric_count},          {"code_sim", metric_code_sim},
        {"retrieval", metric_retrieval},  {"code_sim_indel", metric_code_sim_indel},
        {"exact_match", metric_contains}, {"partial_match", metric_partial_match},
    };
    if (strcmp(name, "classification") == 0)
        return metric_classification(answer, truth, classes, n_classes);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].fn(answer, truth);
    fail_msg("no metric %s", name);
    return 0;
}

/* Members of `row`: the answer, the truth, perhaps classes, and the value that must come out to the last bit.
 */
static void check(const char *metric, const json_t *row, const char *answer, const char *truth,
                  const char *classes, const char *value)
{
    struct utext a = text_of(row, answer), t = text_of(row, truth), c[16] = {{0}};
    const json_t *list = json_object_get(row, classes);
    int n = (int)json_array_size(list);
    assert_in_range(n, 0, 16);
    for (int i = 0; i < n; i++)
        utext_init(&c[i], json_string_value(json_array_get(list, (size_t)i)),
                   json_string_length(json_array_get(list, (size_t)i)));
    double have = by_name(metric, utext_span(&a), utext_span(&t), c, n);
    double want = json_number_value(json_object_get(row, value));
    if (memcmp(&have, &want, sizeof have) != 0)
        fail_msg("%s('%s', '%s') = %.17g, not %.17g", metric, json_string_value(json_object_get(row, answer)),
                 json_string_value(json_object_get(row, truth)), have, want);
    utext_free(&a);
    utext_free(&t);
    for (int i = 0; i < n; i++)
        utext_free(&c[i]);
}

static size_t check_list(const json_t *vectors, const char *key, const char *metric)
{
    const json_t *list = json_object_get(vectors, key);
    assert_true(json_array_size(list) > 0);
    for (size_t i = 0; i < json_array_size(list); i++)
        check(metric, json_array_get(list, i), "pred", "ref", "all_classes", "score");
    return json_array_size(list);
}

static void specification_vectors(void **state)
{
    (void)state;
    json_t *v = load("fixtures/task/vectors.json");
    size_t n = check_list(v, "qa_f1_score", "qa_f1") + check_list(v, "rouge_l_f", "rouge_l") +
               check_list(v, "code_sim_score", "code_sim") +
               check_list(v, "classification_score", "classification") +
               check_list(v, "retrieval_score", "retrieval") + check_list(v, "count_score", "count");
    assert_int_equal(n, 13 + 20 + 18 + 10 + 6 + 4);
    const json_t *keys = json_object_get(v, "passkey");
    assert_int_equal(json_array_size(keys), 9);
    for (size_t i = 0; i < json_array_size(keys); i++) {
        check("exact_match", json_array_get(keys, i), "response", "answer", "", "exact_hits");
        check("partial_match", json_array_get(keys, i), "response", "answer", "", "partial");
    }
    json_decref(v);
}

static void reference_cases(void **state)
{
    (void)state;
    json_t *cases = load("fixtures/task/metric_cases.json");
    assert_true(json_array_size(cases) > 500);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *row = json_array_get(cases, i);
        check(json_string_value(json_object_get(row, "metric")), row, "pred", "truth", "classes", "value");
    }
    json_decref(cases);
}

static char *words(int n)
{
    char *s = mem_alloc((size_t)n + 1, 2);
    for (int i = 0; i < n; i++)
        memcpy(s + 2 * i, "w ", 2);
    return s;
}

/* Two equal sentences of n words take n moves; a third longer one must not cost memory or time of n squared.
 */
static void rouge_depth(void **state)
{
    (void)state;
    int lengths[] = {ROUGE_MAX_MOVES, ROUGE_MAX_MOVES + 1, 200000};
    for (int i = 0; i < 3; i++) {
        char *s = words(lengths[i]);
        struct utext u;
        bool too_deep = false;
        utext_init(&u, s, strlen(s));
        double f = metric_rouge_l(utext_span(&u), utext_span(&u), &too_deep);
        assert_int_equal(too_deep, i > 0);
        assert_true(i > 0 ? f == 0 : f > 0.99);
        utext_free(&u);
        free(s);
    }
}

static void rounding(void **state)
{
    (void)state;
    /* Python: round(2.675, 2) = 2.67, round(0.125, 2) = 0.12, round(0.375, 2) = 0.38, round(100 * 2 / 3, 2)
     * = 66.67 */
    assert_true(score_round2(2.675) == 2.67);
    assert_true(score_round2(0.125) == 0.12);
    assert_true(score_round2(0.375) == 0.38);
    assert_true(score_round2(100.0 * 2 / 3) == 66.67);
    assert_true(score_round2(100) == 100);
}

static void broken_utf8(void **state)
{
    (void)state;
    static const char bytes[] = "a\xFF\xC3 \xED\xA0\x80z\xF0\x9F\x98\x80";
    static const uint32_t want[] = {'a', 0xFFFD, 0xFFFD, ' ', 0xFFFD, 0xFFFD, 0xFFFD, 'z', 0x1F600};
    struct utext u;
    utext_init(&u, bytes, sizeof bytes - 1);
    assert_int_equal(u.n, sizeof want / sizeof *want);
    assert_memory_equal(u.cp, want, sizeof want);
    utext_free(&u);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(specification_vectors), cmocka_unit_test(reference_cases),
        cmocka_unit_test(rouge_depth),           cmocka_unit_test(rounding),
        cmocka_unit_test(broken_utf8),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
