/* RWKV's World tokenizer against the package `rwkv` (tests/oracle/tok_world.py). With a folder as argument:
 * that one's vocabulary and cases, for the whole vocabulary. */
#include "base/str.h"
#include "expect.h"
#include "tok_common.h"

#define VOCABULARY "rwkv_vocab_v20230424.txt"
static const char *folder = "fixtures/tok/world";

static json_t *cases(const char *key)
{
    char *path = mem_printf("%s/cases.json", folder);
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, NULL),
           *list = json_incref(json_object_get(root, key));
    assert_non_null(list);
    json_decref(root);
    free(path);
    return list;
}

static void test_encode(void **state)
{
    (void)state;
    struct tok *t;
    OK(tok_open_dir(&t, folder));
    json_t *list = cases("encode"), *pair;
    size_t i, wrong = 0;
    json_array_foreach(list, i, pair)
    {
        const json_t *text = json_array_get(pair, 0), *want = json_array_get(pair, 1);
        int32_t *ids;
        int64_t n;
        OK(tok_encode(t, json_string_value(text), json_string_length(text), true, &ids, &n));
        bool same = (size_t)n == json_array_size(want);
        for (int64_t k = 0; same && k < n; k++)
            same = ids[k] == json_integer_value(json_array_get(want, (size_t)k));
        wrong += !same;
        free(ids);
    }
    printf("%zu texts, %zu with other ids\n", json_array_size(list), wrong);
    assert_true(json_array_size(list) >= 300);
    assert_int_equal(wrong, 0);
    assert_int_equal(tok_eos(t), 0);
    assert_int_equal(tok_bos(t), -1);
    json_decref(list);
    tok_close(t);
}

typedef int decoder(const struct tok *t, const int32_t *ids, int64_t n, bool skip_special, char **text,
                    size_t *n_bytes);

/* The cases under a key, [[ids, text], …]; returns how many. */
static size_t check_decoded(const char *key, decoder *decode, bool skip_special)
{
    struct tok *t;
    OK(tok_open_dir(&t, folder));
    json_t *list = cases(key), *pair;
    size_t i, n_case = json_array_size(list);
    json_array_foreach(list, i, pair)
    {
        const json_t *from = json_array_get(pair, 0), *want = json_array_get(pair, 1);
        int32_t ids[64];
        int64_t n = (int64_t)json_array_size(from);
        char *text;
        size_t bytes;
        assert_in_range(n, 0, 64);
        for (int64_t k = 0; k < n; k++)
            ids[k] = (int32_t)json_integer_value(json_array_get(from, (size_t)k));
        OK(decode(t, ids, n, skip_special, &text, &bytes));
        if (bytes != json_string_length(want) || memcmp(text, json_string_value(want), bytes) != 0)
            fail_msg("%s %zu: '%s' instead of '%s'", key, i, text, json_string_value(want));
        free(text);
    }
    json_decref(list);
    tok_close(t);
    return n_case;
}

static void test_decode(void **state)
{
    (void)state;
    assert_true(check_decoded("decode", tok_decode, false) > 100);
}

/* An answer that ends within a character keeps what stands before it; nothing follows its end. */
static void test_answer(void **state)
{
    (void)state;
    for (int skip = 0; skip < 2; skip++)
        assert_true(check_decoded("answer", tok_decode_answer, skip) > 200);
}

/* The end is left out like any special token. */
static void test_end(void **state)
{
    (void)state;
    struct tok *t;
    char *text;
    OK(tok_open_dir(&t, folder));
    const int32_t ids[] = {'a' + 1, 0};
    OK(tok_decode(t, ids, 2, true, &text, NULL));
    assert_string_equal(text, "a");
    free(text);
    tok_close(t);
}

/* The fixture's vocabulary with one line more. */
static void refused(const char *line, const char *words)
{
    char *data, *dir = scratch_make();
    size_t n;
    struct tok *t;
    struct str s = {0};
    OK(file_read("fixtures/tok/world/" VOCABULARY, &data, &n));
    str_addn(&s, data, n);
    str_add(&s, line);
    scratch_put(dir, VOCABULARY, s.data, s.n);
    REFUSED(tok_open_dir(&t, dir), words);
    str_free(&s);
    free(data);
    scratch_remove(dir);
}

static void test_refused(void **state)
{
    (void)state;
    static const char expected[] = "an id from 1 on, a Python literal and its length in bytes are expected";
    refused("65000 'never seen' 9\n", "the token has 10 bytes, the line says 9");
    refused("65000 'a' 1\n", "a token that an earlier line has");
    refused("1 'never seen' 10\n", "two tokens have the id 1");
    refused("65000 never 5\n", expected);
    refused("65000 'open 5\n", expected);
    refused("65000 '\\q' 1\n", expected);
    refused("65000 '\\x1' 1\n", expected);
    refused("65000 '\\ud800' 3\n", expected);
    refused("65000 b'\\u1234' 3\n", expected);
    refused("65000 __import__('os') 3\n", expected);
    refused("0 'never seen' 10\n", expected);
    refused("'x' 1\n", expected);
    char *dir = scratch_make();
    struct tok *t;
    scratch_text(dir, VOCABULARY, "1 'a' 1\n");
    REFUSED(tok_open_dir(&t, dir), "the byte 0x00 is no token");
    scratch_remove(dir);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encode), cmocka_unit_test(test_decode),  cmocka_unit_test(test_answer),
        cmocka_unit_test(test_end),    cmocka_unit_test(test_refused),
    };
    folder = argc > 1 ? argv[1] : folder;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
