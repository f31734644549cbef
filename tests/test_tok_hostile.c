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
    fuzz_values("llama3", 300);
    fuzz_values("odd017", 300);
    fuzz_values("llama2-modern", 300);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
