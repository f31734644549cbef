/* Unigram tokenizers and files of ranks against fixtures that the field's `tokenizers` and `tiktoken` made
 * (tests/oracle/tok_unigram.py, tok_tiktoken.py), and hostile files. */
#include "tok_common.h"

#include "tok/tok_int.h"

static bool same_ids(const int32_t *ids, int64_t n, const json_t *want)
{
    bool same = n == (int64_t)json_array_size(want);
    for (int64_t k = 0; same && k < n; k++)
        same = ids[k] == json_integer_value(json_array_get(want, (size_t)k));
    return same;
}

static int32_t *ids_of(const json_t *list)
{
    size_t n = json_array_size(list);
    int32_t *ids = mem_alloc(n + 1, sizeof *ids);
    for (size_t k = 0; k < n; k++)
        ids[k] = (int32_t)json_integer_value(json_array_get(list, k));
    return ids;
}

/* "special" and "skip" alternate, true first, where the fixture has them (`alternate`). */
static int check_ids(const struct tok *t, const char *name, const json_t *cases, bool alternate)
{
    size_t i;
    json_t *c;
    int n_checked = 0;
    json_array_foreach(json_object_get(cases, "encode"), i, c)
    {
        const json_t *text = json_array_get(c, 0);
        int32_t *ids;
        int64_t n;
        bool special = alternate && i % 2 == 0;
        if (tok_encode(t, json_string_value(text), json_string_length(text), special, &ids, &n) < 0)
            fail_msg("%s: text %zu: %s", name, i, err_text());
        if (!same_ids(ids, n, json_array_get(c, 1)))
            fail_msg("%s: text %zu \"%s\" has other ids", name, i, json_string_value(text));
        free(ids);
        n_checked++;
    }
    json_array_foreach(json_object_get(cases, "decode"), i, c)
    {
        int32_t *ids = ids_of(json_array_get(c, 0));
        const char *want = json_string_value(json_array_get(c, 1));
        char *text;
        size_t n = json_array_size(json_array_get(c, 0));
        if (tok_decode(t, ids, (int64_t)n, alternate && i % 2 == 0, &text, NULL) < 0)
            fail_msg("%s: ids %zu: %s", name, i, err_text());
        if (strcmp(text, want) != 0)
            fail_msg("%s: ids %zu: \"%s\" instead of \"%s\"", name, i, text, want);
        free(text);
        free(ids);
        n_checked++;
    }
    return n_checked;
}

static void check_pieces(const struct tok *t, const char *name, const json_t *cases)
{
    size_t i, k, n_checked = 0;
    json_t *c, *want;
    json_array_foreach(json_object_get(cases, "pieces"), i, c)
    {
        const json_t *text = json_array_get(c, 0);
        struct tok_pieces p;
        assert_int_equal(tok_encode_pieces(t, json_string_value(text), json_string_length(text), &p), 0);
        int32_t *ids;
        int64_t n;
        assert_int_equal(tok_encode(t, json_string_value(text), json_string_length(text), false, &ids, &n),
                         0);
        assert_int_equal(p.n, json_array_size(json_array_get(c, 1)));
        assert_int_equal(p.n, n);
        json_array_foreach(json_array_get(c, 1), k, want)
        {
            if (p.v[k].n != json_string_length(want) ||
                memcmp(p.v[k].s, json_string_value(want), p.v[k].n) != 0)
                fail_msg("%s: text %zu: token %zu is \"%s\" instead of \"%s\"", name, i, k, p.v[k].s,
                         json_string_value(want));
            assert_int_equal(p.v[k].id, ids[k]);
            n_checked++;
        }
        free(ids);
        tok_pieces_free(&p);
    }
    assert_true(n_checked > 300);
}

static void check_join(const struct tok *t, const char *name, const json_t *cases)
{
    size_t i, n_checked = 0;
    json_t *c;
    json_array_foreach(json_object_get(cases, "join"), i, c)
    {
        const json_t *list = json_array_get(c, 0);
        const char **piece = mem_alloc(json_array_size(list) + 1, sizeof *piece);
        for (size_t k = 0; k < json_array_size(list); k++)
            piece[k] = json_string_value(json_array_get(list, k));
        char *text;
        assert_int_equal(tok_join(t, piece, json_array_size(list), &text), 0);
        if (strcmp(text, json_string_value(json_array_get(c, 1))) != 0)
            fail_msg("%s: join %zu: \"%s\" instead of \"%s\"", name, i, text,
                     json_string_value(json_array_get(c, 1)));
        free(text);
        free(piece);
        n_checked++;
    }
    assert_true(n_checked >= 40);
}

static struct tok *open_folder(const char *name)
{
    char *dir = mem_printf("fixtures/tok/%s", name);
    struct tok *t;
    if (tok_open_dir(&t, dir) < 0)
        fail_msg("%s", err_text());
    free(dir);
    return t;
}

static void test_folders(void **state)
{
    (void)state;
    static const char *const names[] = {"unigram-xlmr-new", "unigram-xlmr-converted", "unigram-bytes"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tok *t = open_folder(names[i]);
        json_t *cases = load(names[i], "cases.json");
        assert_true(check_ids(t, names[i], cases, true) > 200);
        check_pieces(t, names[i], cases);
        check_join(t, names[i], cases);
        json_decref(cases);
        tok_close(t);
    }
}

static void test_roles(void **state)
{
    (void)state;
    struct tok *t = open_folder("unigram-xlmr-new");
    static const int32_t want[TOK_N_ROLE] = {0, 2, 3, 1, 0, 0, 2};
    for (int i = 0; i < TOK_N_ROLE; i++)
        if (i != TOK_MASK)
            assert_int_equal(tok_role_id(t, (enum tok_role)i), want[i]);
    int32_t mask = tok_id(t, "<mask>");
    assert_true(mask > 100);
    assert_int_equal(tok_role_id(t, TOK_MASK), mask);
    assert_string_equal(tok_piece(t, mask), "<mask>");
    assert_int_equal(tok_id(t, "[NEW0]"), mask + 1);
    assert_int_equal(tok_id(t, "[NEW99]"), mask + 100);
    assert_string_equal(tok_piece(t, tok_id(t, "\xe2\x96\x81the")), "\xe2\x96\x81the");
    assert_null(tok_piece(t, -1));
    assert_null(tok_piece(t, mask + 101));
    assert_int_equal(tok_n_vocab(t), mask + 101);
    tok_close(t);
}

/* Tokens added later make the same tokenizer as tokens that the file lists. */
static void test_add_special(void **state)
{
    (void)state;
    static const char *const more[] = {"[NEW0]", "[NEW1]", "<mask>", "[NEW0]"};
    struct tok *t = open_folder("unigram-xlmr-converted");
    int32_t n_vocab = tok_n_vocab(t), *ids;
    int64_t n;
    assert_int_equal(tok_id(t, "[NEW0]"), -1);
    assert_int_equal(tok_add_special(t, more, 4), 0);
    assert_int_equal(tok_n_vocab(t), n_vocab + 2);
    assert_int_equal(tok_id(t, "[NEW1]"), n_vocab + 1);
    assert_int_equal(tok_id(t, "<mask>"), n_vocab - 1);
    assert_string_equal(tok_piece(t, n_vocab), "[NEW0]");
    assert_true(tok_is_special(t, n_vocab));
    const char *text = "the[NEW1]the <mask>[NEW0]";
    assert_int_equal(tok_encode(t, text, strlen(text), false, &ids, &n), 0);
    int32_t the = tok_id(t, "\xe2\x96\x81the");
    const int32_t want[] = {the, n_vocab + 1, the, n_vocab - 1, n_vocab};
    assert_int_equal(n, 5);
    assert_memory_equal(ids, want, sizeof want);
    free(ids);
    tok_close(t);
}

static void test_tiktoken(void **state)
{
    (void)state;
    struct tok *t;
    if (tok_open_tiktoken(&t, "fixtures/tok/tiktoken/small.tiktoken") < 0)
        fail_msg("%s", err_text());
    json_t *cases = load("tiktoken", "cases.json");
    assert_true(check_ids(t, "tiktoken", cases, false) > 250);
    json_decref(cases);
    tok_close(t);
}

/* ---- small vocabularies, where the rules can be seen ---- */

static int open_text(struct tok **t, const char *json)
{
    char *dir = scratch_make();
    scratch_text(dir, "tokenizer.json", json);
    int rc = tok_open_dir(t, dir);
    scratch_remove(dir);
    return rc;
}

static void encodes(const char *model, const char *text, const char *want)
{
    char *json = mem_printf("{\"model\":{\"type\":\"Unigram\",%s}}", model), got[200] = "";
    struct tok *t;
    int32_t *ids;
    int64_t n;
    if (open_text(&t, json) < 0)
        fail_msg("%s", err_text());
    assert_int_equal(tok_encode(t, text, strlen(text), false, &ids, &n), 0);
    for (int64_t i = 0; i < n; i++)
        snprintf(got + strlen(got), sizeof got - strlen(got), i ? " %d" : "%d", ids[i]);
    assert_string_equal(got, want);
    free(ids);
    tok_close(t);
    free(json);
}

/* Values from the library's own Unigram.encode, or by hand from its rules. */
static void test_paths(void **state)
{
    (void)state;
    static const char doc[] = "\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",0],[\"b\",0],[\"c\",0],[\"d\",0],"
                              "[\"cd\",1],[\"ab\",2],[\"abc\",5],[\"abcd\",10]]";
    encodes(doc, "abcd", "8");
    encodes(doc, "abcdacdxx", "8 1 5 0"); /* a run of unknown characters is one token */
    encodes(doc, "xaxxb", "0 1 0 2");
    /* a tie: the path found first stays, and shorter pieces are offered first from every place */
    encodes("\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-1],[\"b\",-1],[\"ab\",-2]]", "ab", "3");
    encodes("\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-1],[\"aa\",-1]]", "aaa", "1 2");
    /* of two equal texts the later id is found */
    encodes("\"unk_id\":0,\"vocab\":[[\"<unk>\",0],[\"a\",-1],[\"a\",-2]]", "a", "2");
    /* without byte tokens for all bytes the fallback is the unknown token */
    encodes("\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<unk>\",0],[\"<0x78>\",0],[\"<0x79>\",0]]",
            "xyxz", "0");
    encodes("\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<unk>\",0],[\"<0x78>\",0],[\"<0x79>\",0]]",
            "xyx", "1 2 1");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"{\"model\":{\"type\":\"Unigram\"}}", "model.vocab: a list"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "model.vocab: a list"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", "model.vocab[0]: [text, score]"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0],[1,2]]}}", "model.vocab[1]: [text, score]"},
        {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":1,\"vocab\":[[\"a\",0]]}}", "model.unk_id: an id"},
        {"{\"model\":{\"type\":\"Unigram\",\"unk_id\":-1,\"vocab\":[[\"a\",0]]}}", "model.unk_id: an id"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]},\"normalizer\":{\"type\":\"Precompiled\"}}",
         "normalizer.precompiled_charsmap: a text"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]},\"normalizer\":{\"type\":\"Precompiled\","
         "\"precompiled_charsmap\":\"AAA\"}}",
         "not valid base64"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]},\"normalizer\":{\"type\":\"Precompiled\","
         "\"precompiled_charsmap\":\"AAAA\"}}",
         "cut short"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tok *t;
        assert_int_equal(open_text(&t, cases[i][0]), ERR_INPUT);
        assert_null(t);
        if (!strstr(err_text(), cases[i][1]) || !strstr(err_text(), "tokenizer.json: "))
            fail_msg("\"%s\" instead of %s", err_text(), cases[i][1]);
    }
    struct tok *t;
    int32_t *ids;
    int64_t n;
    struct tok_pieces p;
    assert_int_equal(open_text(&t, "{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]]}}"), 0);
    assert_int_equal(tok_encode(t, "aab", 3, false, &ids, &n), ERR_INPUT);
    assert_non_null(strstr(err_text(), "\"b\" is not in the vocabulary"));
    assert_null(ids);
    assert_int_equal(tok_encode_pieces(t, "aab", 3, &p), ERR_INPUT);
    tok_pieces_free(&p);
    tok_close(t);
}

static void test_ranks_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"", "is empty (0 bytes)"},
                                           {"\n", "the byte 0x00 is no token"},
                                           {"YQ==", "line 1: a token in base64"},
                                           {"YQ== 1x\n", "line 1: a token in base64"},
                                           {"YQ== 0\nYg== -1\n", "line 2: a token in base64"},
                                           {"YQ== 99999999999\n", "line 1: a token in base64"},
                                           {"Y$== 0\n", "line 1: a token in base64"},
                                           {" 0\n", "line 1: a token in base64"},
                                           {"YQ== 0\r\nYQ== 1\n", "line 2: a token that an earlier line has"},
                                           {"YQ== 0\n\nYg== 0\n", "two tokens have the rank 0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = scratch_make(), *path = file_join(dir, "x.tiktoken");
        struct tok *t;
        scratch_text(dir, "x.tiktoken", cases[i][0]);
        assert_int_equal(tok_open_tiktoken(&t, path), ERR_INPUT);
        assert_null(t);
        if (!strstr(err_text(), cases[i][1]) || strncmp(err_text(), path, strlen(path)) != 0)
            fail_msg("\"%s\" instead of %s", err_text(), cases[i][1]);
        free(path);
        scratch_remove(dir);
    }
    struct tok *t;
    assert_true(tok_open_tiktoken(&t, "/nonexistent.tiktoken") < 0);
    assert_null(t);
}

static void test_base64(void **state)
{
    (void)state;
    static const char *const good[][2] = {{"", ""},        {"YQ==", "a"},        {"YWI=", "ab"},
                                          {"YWJj", "abc"}, {"YWJjZA==", "abcd"}, {"+/+/", "\xfb\xff\xbf"}};
    static const char *const bad[] = {
        "Y", "YQ", "YQ=", "YQ===", "====", "YR==", "YWJ=", "Y=Q=", "YQ==YQ==", "YQ\n="};
    struct str s = {0};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        str_clear(&s);
        assert_true(base64_add(&s, good[i][0], strlen(good[i][0])));
        assert_int_equal(s.n, strlen(good[i][1]));
        assert_string_equal(str_c(&s), good[i][1]);
    }
    str_clear(&s);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        if (base64_add(&s, bad[i], strlen(bad[i])))
            fail_msg("\"%s\" was taken", bad[i]);
        assert_int_equal(s.n, 0);
    }
    str_free(&s);
}

/* ---- hostile bytes ---- */

static void fixture_map(struct str *bytes)
{
    json_t *j = load("unigram-xlmr-new", "tokenizer.json");
    const json_t *text = json_object_get(json_object_get(j, "normalizer"), "precompiled_charsmap");
    assert_true(base64_add(bytes, json_string_value(text), json_string_length(text)));
    json_decref(j);
}

/* Random text of bytes that the map knows, of its own replacements and of anything else. */
static void random_text(struct str *s, uint64_t *seed)
{
    static const char *const part[] = {"a",
                                       "e\xcc\x81",
                                       "\xef\xac\x81",
                                       "\xc2\xbd",
                                       "\t",
                                       "\xef\xbc\xa1",
                                       "\xf0\x9f\x87\xa9",
                                       "\xcc\x81",
                                       "\xe2\x80\x8b",
                                       "\r\n",
                                       "\xd8\x80\x31",
                                       "\xe0\xa4\x95\xe0\xa5\x8d"};
    str_clear(s);
    for (uint32_t n = next_random(seed) % 20; n; n--) {
        if (next_random(seed) % 4 == 0) {
            char c[4];
            uint32_t cp = 1 + next_random(seed) % 0xd7ff;
            str_addn(s, c, (size_t)utf8_put(c, cp));
        } else {
            str_add(s, part[next_random(seed) % (sizeof part / sizeof *part)]);
        }
    }
}

/* A map that was opened can be used with any text, and gives valid UTF-8. */
static bool map_survives(const void *bytes, size_t n, uint64_t *seed)
{
    struct charsmap *m;
    if (charsmap_open(&m, bytes, n, "x") < 0) {
        assert_null(m);
        assert_int_equal(strncmp(err_text(), "x: ", 3), 0);
        return false;
    }
    struct str in = {0}, out = {0};
    for (int i = 0; i < 40; i++) {
        random_text(&in, seed);
        str_clear(&out);
        charsmap_apply(m, str_c(&in), in.n, &out);
        assert_true(utf8_valid(str_c(&out), out.n));
        assert_true(charsmap_first(m, str_c(&in), in.n) >= 1);
    }
    str_free(&in);
    str_free(&out);
    charsmap_close(m);
    return true;
}

static void test_hostile_map(void **state)
{
    (void)state;
    struct str map = {0};
    fixture_map(&map);
    uint64_t seed = 5;
    assert_true(map_survives(map.data, map.n, &seed));
    int good = 0, rounds = 4000;
    for (int i = 0; i < rounds; i++) {
        size_t n = i % 8 ? map.n : next_random(&seed) % map.n, head = next_random(&seed) % 3 ? map.n : 1500;
        char *copy =
            mem_dup(map.data, map.n); /* of the exact size, so that a sanitizer sees reads beyond it */
        char *cut = mem_dup(copy, n ? n : 1);
        for (uint32_t k = 1 + next_random(&seed) % 6; i % 8 && k; k--)
            cut[next_random(&seed) % head] = (char)next_random(&seed);
        good += map_survives(cut, n, &seed);
        free(cut);
        free(copy);
    }
    assert_true(good > rounds / 50);
    assert_true(good < rounds - rounds / 8);
    /* a trie that leads into itself, and a leaf beyond the text */
    uint32_t unit[2 + 256] = {4 * 257};
    for (int i = 1; i <= 256; i++)
        unit[i] = (uint32_t)(i - 1) | 1u << 8;
    assert_false(map_survives(unit, sizeof unit, &seed));
    str_free(&map);
}

static void try_folder(const char *dir)
{
    struct tok *t;
    if (tok_open_dir(&t, dir) < 0) {
        assert_null(t);
        if (strchr(err_text(), '\n'))
            fail_msg("\"%s\" has more than one line", err_text());
        return;
    }
    const char *text = "Hello <s> w\xc3\xb6rld 12 [NEW3] \xef\xac\x81\n\n x\xe2\x96\x81y\t\xe5\xad\x97";
    struct tok_pieces p;
    int32_t *ids;
    int64_t n;
    char *back;
    if (tok_encode(t, text, strlen(text), true, &ids, &n) == 0 &&
        tok_decode(t, ids, n, false, &back, NULL) == 0)
        free(back);
    (void)tok_encode_pieces(t, text, strlen(text), &p);
    tok_pieces_free(&p);
    free(ids);
    tok_close(t);
}

static void test_hostile_files(void **state)
{
    (void)state;
    static const char *const path[] = {"fixtures/tok/unigram-xlmr-converted/tokenizer.json",
                                       "fixtures/tok/unigram-bytes/tokenizer.json",
                                       "fixtures/tok/tiktoken/small.tiktoken"};
    uint64_t seed = 11;
    for (size_t k = 0; k < 3; k++) {
        char *data, *dir = scratch_make(), *file = file_join(dir, k < 2 ? "tokenizer.json" : "x.tiktoken");
        size_t n;
        assert_int_equal(file_read(path[k], &data, &n), 0);
        for (int i = 0; i < 200; i++) {
            char *copy = mem_dup(data, n);
            for (uint32_t m = 1 + next_random(&seed) % 4; m; m--)
                copy[next_random(&seed) % (i % 2 ? n : 4000)] =
                    (char)(i % 3 ? '0' + next_random(&seed) % 75 : next_random(&seed));
            scratch_put(dir, k < 2 ? "tokenizer.json" : "x.tiktoken", copy,
                        i % 5 ? n : next_random(&seed) % n);
            struct tok *t;
            if (k < 2)
                try_folder(dir);
            else if (tok_open_tiktoken(&t, file) == 0)
                tok_close(t);
            free(copy);
        }
        free(file);
        free(data);
        scratch_remove(dir);
    }
}

/* One word of a million bytes: the work must not grow with its square. */
static void test_long_word(void **state)
{
    (void)state;
    struct tok *t = open_folder("unigram-xlmr-new");
    size_t n = 1000000;
    char *text = mem_alloc(n + 1, 1);
    memset(text, 'e', n);
    int32_t *ids;
    int64_t n_ids;
    assert_int_equal(tok_encode(t, text, n, false, &ids, &n_ids), 0);
    assert_true(n_ids > 1000);
    free(ids);
    free(text);
    tok_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders),       cmocka_unit_test(test_roles),
        cmocka_unit_test(test_tiktoken),      cmocka_unit_test(test_add_special),
        cmocka_unit_test(test_paths),         cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ranks_refused), cmocka_unit_test(test_base64),
        cmocka_unit_test(test_hostile_map),   cmocka_unit_test(test_hostile_files),
        cmocka_unit_test(test_long_word),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
