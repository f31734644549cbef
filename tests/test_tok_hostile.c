/* Hostile tokenizer files: bytes and values changed at random. */
#include "tok_common.h"

/* Whatever the file became: an error with text, or a tokenizer that works. */
static bool survives(const char *dir)
{
    struct tok *t;
    if (tok_open_dir(&t, dir) < 0) {
        assert_null(t);
        assert_true(strlen(err_text()) > 10);
        assert_null(strchr(err_text(), '\n'));
        return false;
    }
    const char *text = "Hello <s> wörld 12 <|im_start|>\n\n x▁y\t字";
    int32_t *ids;
    int64_t n;
    char *back;
    if (tok_encode(t, text, strlen(text), true, &ids, &n) == 0 &&
        tok_decode(t, ids, n, false, &back, NULL) == 0)
        free(back);
    free(ids);
    tok_close(t);
    return true;
}

static void fuzz_bytes(const char *folder, const char *name, int rounds)
{
    char *path = mem_printf("fixtures/tok/%s/%s", folder, name), *data, *dir = scratch_make();
    size_t n;
    uint64_t seed = 1;
    int bad = 0;
    assert_int_equal(file_read(path, &data, &n), 0);
    for (int i = 0; i < rounds; i++) {
        char *copy = mem_dup(data, n);
        size_t keep = i % 2 ? n : next_random(&seed) % n;
        for (uint32_t k = 1 + next_random(&seed) % 4; i % 2 && k; k--)
            copy[next_random(&seed) % (i % 4 == 1 ? 1500 : n)] = (char)next_random(&seed);
        scratch_put(dir, name, copy, keep);
        bad += !survives(dir);
        free(copy);
    }
    assert_true(bad > rounds / 4);
    free(data);
    free(path);
    scratch_remove(dir);
}

static json_t *odd_value(uint64_t *seed)
{
    switch (next_random(seed) % 9) {
    case 0:
        return json_null();
    case 1:
        return json_integer((json_int_t)next_random(seed) - (1 << 30));
    case 2:
        return json_integer(next_random(seed) % 4);
    case 3:
        return json_string("");
    case 4:
        return json_stringn("\0x", 2);
    case 5:
        return json_array();
    case 6:
        return json_object();
    case 7:
        return json_real(-1e300);
    default:
        return json_true();
    }
}

/* Replaces one value somewhere in the tree. */
static void mutate(json_t *j, uint64_t *seed)
{
    size_t n = json_is_object(j) ? json_object_size(j) : json_array_size(j);
    size_t at = n ? next_random(seed) % n : 0;
    void *it = json_object_iter(j);
    for (size_t i = 0; it && i < at; i++)
        it = json_object_iter_next(j, it);
    json_t *child = it ? json_object_iter_value(it) : json_array_get(j, at);
    if (child && (json_object_size(child) || json_array_size(child)) && next_random(seed) % 8) {
        mutate(child, seed);
        return;
    }
    if (it)
        json_object_iter_set_new(j, it, odd_value(seed));
    else if (n)
        json_array_set_new(j, at, odd_value(seed));
}

static void fuzz_values(const char *folder, int rounds)
{
    json_t *j = load(folder, "tokenizer.json");
    char *dir = scratch_make();
    uint64_t seed = 7;
    int bad = 0;
    for (int i = 0; i < rounds; i++) {
        json_t *copy = json_deep_copy(j);
        mutate(copy, &seed);
        char *text = json_dumps(copy, JSON_COMPACT);
        scratch_text(dir, "tokenizer.json", text);
        bad += !survives(dir);
        free(text);
        json_decref(copy);
    }
    assert_true(bad > rounds / 20);
    json_decref(j);
    scratch_remove(dir);
}

static void test_hostile(void **state)
{
    (void)state;
    fuzz_bytes("smollm", "tokenizer.json", 300);
    fuzz_bytes("llama2", "tokenizer.json", 300);
    fuzz_bytes("llama2-spm", "tokenizer.model", 400);
    fuzz_bytes("gemma-spm", "tokenizer.model", 200);
    fuzz_values("llama3", 300);
    fuzz_values("odd017", 300);
    fuzz_values("llama2-modern", 300);
}

/* A sound model file with one more field; messages of one number are put together by who reads them. */
static void refused(const char *field, size_t n, const char *why)
{
    char *data, *dir = scratch_make();
    size_t n_data;
    struct tok *t;
    assert_int_equal(file_read("fixtures/tok/gemma-spm/tokenizer.model", &data, &n_data), 0);
    data = realloc(data, n_data + n);
    assert_non_null(data);
    memcpy(data + n_data, field, n);
    scratch_put(dir, "tokenizer.model", data, n_data + n);
    assert_true(tok_open_dir(&t, dir) < 0);
    assert_null(t);
    if (!strstr(err_text(), why) || !strstr(err_text(), "tokenizer.model"))
        fail_msg("\"%s\" instead of \"%s\"", err_text(), why);
    free(data);
    scratch_remove(dir);
}

/* Settings of SentencePiece that change ids and cannot be followed. */
static void test_spm_settings(void **state)
{
    (void)state;
    refused("\x12\x02\x18\x01", 4, "trainer_spec.model_type: only 2 (BPE) is supported, not 1 (unigram)");
    refused("\x12\x02\x18\x09", 4, "not 9 (unknown)");
    refused("\x12\x03\xc0\x01\x01", 5, "treat_whitespace_as_suffix");
    refused("\x1a\x02\x20\x01", 4, "remove_extra_whitespaces");
    refused("\x1a\x02\x28\x00", 4, "escape_whitespaces");
    refused("\x1a\x03\x12\x01x", 5, "character maps");
    refused("\x2a\x03\x12\x01x", 5, "character maps");
    refused("\x1a\x7f\x12\x01x", 5, "not a SentencePiece model");
    refused("\x0f", 1, "not a SentencePiece model");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_spm_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
