/* Tokenizers against fixtures of the field's `tokenizers` library (tests/oracle/tok_models.py). */
#include "tok_common.h"

static void check_encode(const struct tok *t, const char *name, size_t i, const json_t *c)
{
    const json_t *text = json_array_get(c, 0), *want = json_array_get(c, 1);
    int32_t *ids;
    int64_t n;
    if (tok_encode(t, json_string_value(text), json_string_length(text), i % 2 == 0, &ids, &n) < 0)
        fail_msg("%s: text %zu: %s", name, i, err_text());
    bool same = n == (int64_t)json_array_size(want);
    for (int64_t k = 0; same && k < n; k++)
        same = ids[k] == json_integer_value(json_array_get(want, (size_t)k));
    if (!same)
        fail_msg("%s: text %zu \"%s\" has other ids", name, i, json_string_value(text));
    free(ids);
}

static void check_decode(const struct tok *t, const char *name, size_t i, const json_t *c)
{
    const json_t *list = json_array_get(c, 0);
    size_t n = json_array_size(list);
    int32_t *ids = mem_alloc(n + 1, sizeof *ids);
    for (size_t k = 0; k < n; k++)
        ids[k] = (int32_t)json_integer_value(json_array_get(list, k));
    const json_t *want = json_array_get(c, 1);
    char *text;
    size_t n_text;
    if (tok_decode(t, ids, (int64_t)n, i % 2 == 0, &text, &n_text) < 0)
        fail_msg("%s: ids %zu: %s", name, i, err_text());
    if (n_text != json_string_length(want) || memcmp(text, json_string_value(want), n_text) != 0)
        fail_msg("%s: ids %zu: \"%s\" instead of \"%s\"", name, i, text, json_string_value(want));
    free(text);
    free(ids);
}

static void check_cases(const struct tok *t, const char *name)
{
    json_t *cases = load(name, "cases.json"), *c;
    size_t i, n = 0;
    json_array_foreach(json_object_get(cases, "encode"), i, c)
    {
        check_encode(t, name, i, c);
        n++;
    }
    json_array_foreach(json_object_get(cases, "decode"), i, c)
    {
        check_decode(t, name, i, c);
        n++;
    }
    assert_true(n > 200);
    json_decref(cases);
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
    static const char *const names[] = {"smollm", "llama3",     "qwen2",         "neox",
                                        "llama2", "llama2-old", "llama2-modern", "llama2-spm",
                                        "gemma",  "gemma-spm",  "odd004",        "odd017"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct tok *t = open_folder(names[i]);
        check_cases(t, names[i]);
        tok_close(t);
    }
}

/* ---- the same from the tables of a GGUF file ---- */

struct tables {
    struct tok_gguf g;
    const char **token;
    char **merge;
    int32_t *type;
    float *score;
    json_t *j;
};

static void tables_free(struct tables *a)
{
    for (int32_t i = 0; i < a->g.n_merge; i++)
        free(a->merge[i]);
    free(a->merge);
    free(a->token);
    free(a->type);
    free(a->score);
    json_decref(a->j);
}

/* Tables as a converter would write them from tokenizer.json. */
static void tables_from_json(struct tables *a, const char *name, const char *pre, const char *bos)
{
    *a = (struct tables){.j = load(name, "tokenizer.json")};
    json_t *model = json_object_get(a->j, "model"), *vocab = json_object_get(model, "vocab");
    json_t *merges = json_object_get(model, "merges"), *added = json_object_get(a->j, "added_tokens"), *v;
    const char *key;
    size_t i, n = json_object_size(vocab) + json_array_size(added);
    a->token = mem_alloc(n, sizeof *a->token);
    a->type = mem_alloc(n, sizeof *a->type);
    a->merge = mem_alloc(json_array_size(merges), sizeof *a->merge);
    a->g = (struct tok_gguf){
        .model = "gpt2", .pre = pre, .bos = -1, .eos = -1, .unk = -1, .add_bos = -1, .add_eos = -1};
    json_object_foreach(vocab, key, v)
    {
        a->token[json_integer_value(v)] = key;
        a->type[json_integer_value(v)] = 1;
    }
    json_array_foreach(added, i, v)
    {
        json_int_t id = json_integer_value(json_object_get(v, "id"));
        a->token[id] = json_string_value(json_object_get(v, "content"));
        a->type[id] = json_is_true(json_object_get(v, "special")) ? 3 : 4;
    }
    while (n && !a->token[n - 1])
        n--;
    json_array_foreach(merges, i, v) a->merge[i] =
        mem_printf("%s %s", json_string_value(json_array_get(v, 0)), json_string_value(json_array_get(v, 1)));
    a->g.n_token = (int32_t)n;
    a->g.n_merge = (int32_t)json_array_size(merges);
    a->g.token = a->token;
    a->g.type = a->type;
    a->g.merge = (const char *const *)a->merge;
    for (size_t k = 0; bos && k < n; k++)
        if (strcmp(a->token[k], bos) == 0)
            a->g.bos = (int32_t)k;
}

static int32_t key_or(const json_t *j, const char *key, int32_t def)
{
    const json_t *v = json_object_get(j, key);
    return v ? (int32_t)json_integer_value(v) : def;
}

static void tables_from_gguf(struct tables *a, const char *name)
{
    *a = (struct tables){.j = load(name, "gguf.json")};
    json_t *tokens = json_object_get(a->j, "tokens"), *v;
    size_t i, n = json_array_size(tokens);
    a->token = mem_alloc(n, sizeof *a->token);
    a->type = mem_alloc(n, sizeof *a->type);
    a->score = mem_alloc(n, sizeof *a->score);
    json_array_foreach(tokens, i, v)
    {
        a->token[i] = json_string_value(v);
        a->type[i] = (int32_t)json_integer_value(json_array_get(json_object_get(a->j, "token_type"), i));
        a->score[i] = (float)json_number_value(json_array_get(json_object_get(a->j, "scores"), i));
    }
    a->g = (struct tok_gguf){.model = "llama",
                             .token = a->token,
                             .type = a->type,
                             .score = a->score,
                             .n_token = (int32_t)n,
                             .bos = key_or(a->j, "bos_token_id", 1),
                             .eos = key_or(a->j, "eos_token_id", 2),
                             .unk = key_or(a->j, "unknown_token_id", 0),
                             .add_bos = -1,
                             .add_eos = -1,
                             .add_space_prefix = json_object_get(a->j, "add_space_prefix") ? 0 : -1};
}

static void check_tables(struct tables *a, const char *name)
{
    struct tok *t;
    if (tok_open_gguf(&t, &a->g, name) < 0)
        fail_msg("%s", err_text());
    check_cases(t, name);
    tok_close(t);
    tables_free(a);
}

static void test_gguf(void **state)
{
    (void)state;
    struct tables a;
    tables_from_json(&a, "smollm", "smollm", NULL);
    check_tables(&a, "smollm");
    tables_from_json(&a, "llama3", "llama-bpe", "<|begin_of_text|>");
    check_tables(&a, "llama3");
    tables_from_json(&a, "qwen2", "qwen2", NULL);
    check_tables(&a, "qwen2");
    tables_from_gguf(&a, "llama2");
    check_tables(&a, "llama2");
    tables_from_gguf(&a, "gemma-spm"); /* sentencepiece's ids, of texts with U+2581 too */
    check_tables(&a, "gemma-spm");
}

static void refused(struct tok_gguf g, const char *want)
{
    struct tok *t;
    assert_int_equal(tok_open_gguf(&t, &g, "x.gguf"), ERR_INPUT);
    assert_null(t);
    if (!strstr(err_text(), want) || strncmp(err_text(), "x.gguf: ", 8) != 0)
        fail_msg("\"%s\" instead of %s", err_text(), want);
}

static void test_gguf_refused(void **state)
{
    (void)state;
    struct tables a, b;
    tables_from_json(&a, "smollm", "smollm", NULL);
    tables_from_gguf(&b, "llama2");
    struct tok_gguf g = a.g;
    g.model = NULL;
    refused(g, "tokenizer.ggml.model: missing");
    g = a.g;
    g.model = "bert";
    refused(g, "\"bert\" is not supported");
    g = a.g;
    g.pre = "nonsense";
    refused(g, "tokenizer.ggml.pre: \"nonsense\" is not known (smollm, llama-bpe");
    g = a.g;
    g.n_token = 0;
    refused(g, "0 tokens");
    g = a.g;
    g.eos = g.n_token;
    refused(g, "eos_token_id");
    g = b.g;
    g.score = NULL;
    refused(g, "scores: missing");
    const char *merge[] = {"ab"}, *unknown[] = {"a nowhere"};
    g = a.g;
    g.n_merge = 1;
    g.merge = merge;
    refused(g, "merges[0]: \"left right\"");
    g.merge = unknown;
    refused(g, "\"a nowhere\" is not made of tokens");
    tables_free(&a);
    tables_free(&b);
}

/* ---- folders: the small files ---- */

/* A vocabulary of "a", "b", "ab" with what is added to the document. */
static char *document(const char *more)
{
    return mem_printf(
        "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]},"
        "\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true},"
        "{\"id\":4,\"content\":\"</"
        "s>\",\"special\":true},{\"id\":5,\"content\":\"<e>\",\"special\":false}]%s}",
        more);
}

static void check_ids(const struct tok *t, const char *text, bool special, const char *want)
{
    int32_t *ids;
    int64_t n;
    assert_int_equal(tok_encode(t, text, strlen(text), special, &ids, &n), 0);
    char *got = mem_strdup("");
    for (int64_t i = 0; i < n; i++) {
        char *next = mem_printf("%s%s%d", got, i ? " " : "", ids[i]);
        free(got);
        got = next;
    }
    assert_string_equal(got, want);
    free(got);
    free(ids);
}

static void test_config(void **state)
{
    (void)state;
    char *dir = scratch_make(), *json = document("");
    const int32_t *stop;
    struct tok *t;
    scratch_text(dir, "tokenizer.json", json);
    assert_int_equal(tok_open_dir(&t, dir), 0);
    assert_int_equal(tok_bos(t), -1);
    assert_int_equal(tok_stop_ids(t, &stop), 0);
    assert_int_equal(tok_n_vocab(t), 6);
    check_ids(t, "abab<s>b<e>a", true, "2 2 3 1 5 0");
    tok_close(t);

    scratch_text(
        dir, "tokenizer_config.json",
        "{\"tokenizer_class\":\"LlamaTokenizer\",\"add_bos_token\":true,\"bos_token\":{\"content\":\"<s>"
        "\"}}");
    scratch_text(dir, "special_tokens_map.json", "{\"eos_token\":\"</s>\"}");
    assert_int_equal(tok_open_dir(&t, dir), 0);
    assert_int_equal(tok_bos(t), 3);
    assert_int_equal(tok_eos(t), 4);
    assert_int_equal(tok_stop_ids(t, &stop), 1);
    assert_int_equal(stop[0], 4);
    assert_true(tok_is_special(t, 4));
    assert_false(tok_is_special(t, 5));
    assert_false(tok_is_special(t, 77));
    assert_int_equal(tok_id(t, "<e>"), 5);
    assert_int_equal(tok_id(t, "ab"), 2);
    assert_int_equal(tok_id(t, "abc"), -1);
    check_ids(t, "ab", true, "3 2");
    check_ids(t, "ab", false, "2");
    tok_close(t);

    assert_int_equal(tok_open_dir(&t, dir), 0);
    tok_set_stop_ids(t, (const int32_t[]){4, 5}, 2);
    assert_int_equal(tok_stop_ids(t, &stop), 2);
    assert_int_equal(stop[1], 5);
    assert_int_equal(tok_eos(t), 4);
    tok_close(t);

    scratch_text(dir, "generation_config.json", "{\"eos_token_id\":\"x\"");
    assert_int_equal(tok_open_dir(&t, dir), ERR_INPUT);
    assert_non_null(strstr(err_text(), "generation_config.json"));
    free(json);
    scratch_remove(dir);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {",\"normalizer\":{\"type\":\"Lowercase\"}", "normalizer: type \"Lowercase\" is not supported"},
        {",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Bert\"}]}",
         "pre_tokenizer[0]: type \"Bert\""},
        {",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}",
         "does not compile"},
        {",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\\\\b\"},\"behavior\":"
         "\"Isolated\"}",
         "not supported at byte 1"},
        {",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"[a[b]]\"},\"behavior\":"
         "\"Isolated\"}",
         "not supported at byte 2"},
        {",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"x\"}",
         "pre_tokenizer.behavior"},
        {",\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"ab\"}", "replacement: one character"},
        {",\"decoder\":{\"type\":\"WordPiece\"}", "decoder: type \"WordPiece\""},
        {",\"decoder\":{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}", "decoder.start"},
        {",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[]}", "exactly one Sequence"},
        {",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}"
         "}]}",
         "no ids for \"<s>\""},
        {",\"model\":{\"type\":\"WordPiece\",\"vocab\":[]}", "model: type \"WordPiece\""},
        {",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}", "model.vocab: the id of \"a\""},
        {",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":99999999999},\"merges\":[]}",
         "model.vocab: the id of \"a\""},
        {",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[\"a a\"]}",
         "the result is not in the vocabulary"},
        {",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[7]}", "model.merges[0]"},
        {",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}",
         "model.unk_token"},
        {",\"added_tokens\":[{\"id\":9,\"content\":\"<s>\"}]", "id 9, but the vocabulary makes it 3"},
        {",\"added_tokens\":[{\"content\":\"<s>\"}]", "added_tokens[0].id"},
        {",\"added_tokens\":7", "added_tokens: a list"},
    };
    char *dir = scratch_make();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *json = document(cases[i][0]);
        struct tok *t;
        scratch_text(dir, "tokenizer.json", json);
        assert_int_equal(tok_open_dir(&t, dir), ERR_INPUT);
        assert_null(t);
        if (!strstr(err_text(), cases[i][1]) || !strstr(err_text(), "tokenizer.json: "))
            fail_msg("\"%s\" instead of %s", err_text(), cases[i][1]);
        free(json);
    }
    scratch_remove(dir);
    struct tok *t;
    assert_true(tok_open_dir(&t, "/nonexistent") < 0);
    assert_non_null(strstr(err_text(), "/nonexistent"));
}

static void test_bad_text(void **state)
{
    (void)state;
    struct tok *t = open_folder("smollm");
    int32_t *ids, outside[] = {5, 1 << 23, 6}, byte[] = {tok_id(t, "\xc3\xb0"), -1};
    int64_t n;
    char *text;
    assert_int_equal(tok_encode(t, "a\xff", 2, false, &ids, &n), ERR_INPUT);
    assert_null(ids);
    assert_int_equal(tok_decode(t, outside, 3, false, &text, NULL), 0); /* what is no token is no text */
    char *inside = text;
    outside[1] = outside[2];
    assert_int_equal(tok_decode(t, outside, 2, false, &text, NULL), 0);
    assert_string_equal(text, inside);
    free(text);
    free(inside);
    outside[1] = 1 << 23;
    assert_int_equal(tok_n_outside(t, outside, 3), 1);
    assert_int_equal(tok_decode(t, byte, 2, false, &text, NULL), ERR_INPUT);
    assert_int_equal(tok_decode(t, byte, 1, false, &text, NULL), 0); /* the byte f0 alone */
    assert_string_equal(text, "\xef\xbf\xbd");
    free(text);
    tok_close(t);
}

/* NUL is a character like any other, at every place. */
static void test_nul(void **state)
{
    (void)state;
    static const char *const names[] = {"smollm", "llama2"};
    static const char want[] = "\0a b\0\0 c\0";
    for (size_t i = 0; i < 2; i++) {
        struct tok *t = open_folder(names[i]);
        int32_t *ids;
        int64_t n_ids;
        char *text;
        size_t n;
        assert_int_equal(tok_encode(t, want, sizeof want - 1, false, &ids, &n_ids), 0);
        assert_int_equal(tok_decode(t, ids, n_ids, true, &text, &n), 0);
        assert_int_equal(n, sizeof want - 1);
        assert_memory_equal(text, want, n);
        free(text);
        free(ids);
        tok_close(t);
    }
}

/* One word of a million bytes: the work must not grow with its square. */
static void test_long_word(void **state)
{
    (void)state;
    static const char *const names[] = {"smollm", "llama2"};
    size_t n = 1000000;
    char *text = mem_alloc(n + 1, 1);
    memset(text, 'a', n);
    for (size_t i = 0; i < 2; i++) {
        struct tok *t = open_folder(names[i]);
        int32_t *ids;
        int64_t n_ids;
        char *back;
        assert_int_equal(tok_encode(t, text, n, false, &ids, &n_ids), 0);
        assert_true(n_ids > 1000);
        assert_int_equal(tok_decode(t, ids, n_ids, true, &back, NULL), 0);
        assert_string_equal(back, text);
        free(back);
        free(ids);
        tok_close(t);
    }
    free(text);
}

static void test_templates(void **state)
{
    (void)state;
    static const char *const want[][2] = {
        {"none", " hi "},
        {"chatml", "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging "
                   "Face<|im_end|>\n"
                   "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n"},
        {"llama3", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
                   "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"qwen3", "<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"},
        {"qwen2.5", "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful "
                    "assistant.<|im_end|>\n<|im_start|>user\n hi <|im_end|>\n<|im_start|>assistant\n"},
        {"llama3.1",
         "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December "
         "2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
         "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        {"mistral_v3", "<s>[INST]  hi [/INST]"},
        {"mistral_instruct", "<s>[INST]  hi  [/INST]"},
        {"recurrentgemma", "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"},
        {"gemma", "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"},
        {"mamba-chat", "<|user|>\n hi <|endoftext|>\n<|assistant|>\n"},
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        const struct chat_template *c = tok_template(want[i][0]);
        assert_non_null(c);
        char *text = tok_template_apply(c, " hi ");
        assert_string_equal(text, want[i][1]);
        free(text);
    }
    assert_null(tok_template("chatm"));
    int n = 0;
    for (const struct chat_template *t; (t = tok_template_at(n)); n++)
        assert_ptr_equal(tok_template(t->name), t);
    assert_true(n >= 8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_folders), cmocka_unit_test(test_gguf),      cmocka_unit_test(test_gguf_refused),
        cmocka_unit_test(test_config),  cmocka_unit_test(test_refused),   cmocka_unit_test(test_bad_text),
        cmocka_unit_test(test_nul),     cmocka_unit_test(test_long_word), cmocka_unit_test(test_templates),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
