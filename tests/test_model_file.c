/* Reading model files: metadata, expansion of every type, configurations, hashes. */
#include "model/file_int.h"
#include "model_common.h"
#include "scratch.h"

static const char gguf_path_ok[] = "fixtures/model/gguf/model.gguf";

/* ---- metadata ---- */

static void test_metadata(void **state)
{
    (void)state;
    struct gguf *g;
    int64_t v, n;
    double d;
    bool b;
    struct gguf_text t, *texts;
    int32_t *ints;
    float *floats;
    OK(gguf_open(&g, gguf_path_ok));
    OK(gguf_int(g, "llama.block_count", &v));
    assert_int_equal(v, 2);
    OK(gguf_real(g, "llama.rope.freq_base", &d));
    assert_true(d == 10000);
    OK(gguf_bool(g, "test.bool", &b));
    assert_true(b);
    OK(gguf_text(g, "general.architecture", &t));
    assert_int_equal(t.n, 5);
    assert_memory_equal(t.s, "llama", 5);
    OK(gguf_array_text(g, "tokenizer.ggml.tokens", &texts, &n));
    assert_int_equal(n, 300);
    assert_int_equal(texts[299].n, 6);
    assert_memory_equal(texts[299].s, "tok299", 6);
    free(texts);
    OK(gguf_array_i32(g, "tokenizer.ggml.token_type", &ints, &n));
    assert_int_equal(n, 300);
    assert_int_equal(ints[0], 1);
    free(ints);
    OK(gguf_array_f32(g, "test.floats", &floats, &n));
    assert_int_equal(n, 3);
    assert_true(floats[1] == -1.25f);
    free(floats);
    assert_int_equal(gguf_count(g, "test.floats"), 3);
    assert_int_equal(gguf_count(g, "test.bool"), -1);
    assert_false(gguf_has(g, "test"));
    assert_int_equal(gguf_int(g, "absent", &v), ERR_INPUT);
    assert_int_equal(gguf_int(g, "llama.rope.freq_base", &v), ERR_INPUT);
    assert_non_null(strstr(err_text(), "f32"));
    assert_int_equal(gguf_text(g, "test.floats", &t), ERR_INPUT);
    assert_int_equal(gguf_array_i32(g, "test.floats", &ints, &n), ERR_INPUT);
    assert_int_equal(gguf_array_text(g, "tokenizer.ggml.token_type", &texts, &n), ERR_INPUT);
    assert_int_equal(gguf_bool(g, "llama.block_count", &b), ERR_INPUT);
    gguf_close(g);
}

/* Every tensor expands to the bits that the gguf package gives; q and k rows come un-permuted. */
static void test_expand(void **state)
{
    (void)state;
    struct model_file *f;
    FILE *list = fopen("fixtures/model/gguf/dequant.txt", "r");
    char name[128], want[65], got[65];
    long rows, width;
    int n = 0;
    assert_non_null(list);
    OK(model_file_open(&f, gguf_path_ok));
    while (fscanf(list, "%127s %ld %ld %64s", name, &rows, &width, want) == 4) {
        struct model_tensor t;
        int64_t shape[2] = {rows, width};
        OK(model_file_find(f, name, shape, width > 1 ? 2 : 1, &t));
        float *x = mem_alloc((size_t)(rows * width), sizeof *x);
        for (int64_t r = 0; r < rows; r += 7) /* pieces, to see the offsets */
            OK(model_tensor_read(f, &t, name, r, r + 7 < rows ? 7 : rows - r, x + r * width));
        file_sha256(x, (size_t)(rows * width) * sizeof *x, got);
        if (strcmp(got, want) != 0)
            fail_msg("%s expands to other values than the gguf package's", name);
        free(x);
        n++;
    }
    fclose(list);
    assert_int_equal(n, 21);
    model_file_close(f);
}

/* Parts of a block, at odd offsets. */
static void test_expand_parts(void **state)
{
    (void)state;
    static unsigned char raw[4096];
    enum { N = 600 };
    float all[N], part[N];
    for (size_t i = 0; i < sizeof raw; i++)
        raw[i] = (unsigned char)((i * 37 + i / 7) & 0x3f);
    for (int k = 0; ggml_type_at(k) >= 0; k++) {
        int32_t type = ggml_type_at(k);
        ggml_expand(type, raw + 1, 0, N, all);
        for (int64_t at = 0; at < N; at += 11) {
            int64_t n = N - at < 353 ? N - at : 353;
            ggml_expand(type, raw + 1, at, n, part);
            assert_memory_equal(part, all + at, (size_t)n * sizeof *part);
        }
    }
}

/* ---- configurations ---- */

static int open_config(const char *json, struct model_config *c)
{
    char *d = scratch_make();
    struct model_file *f;
    scratch_text(d, "config.json", json);
    int rc = model_file_open(&f, d);
    if (rc == 0) {
        *c = *model_file_config(f);
        struct model_tensor t;
        int64_t n = 8;
        assert_int_equal(model_file_find(f, "model.norm.weight", &n, 1, &t), ERR_INPUT);
        assert_non_null(strstr(err_text(), "model.safetensors is missing"));
        assert_int_equal(model_file_bytes(f), 0);
        model_file_close(f);
    }
    scratch_remove(d);
    return rc;
}

#define SIZES                                                                                                \
    "\"hidden_size\": 64, \"intermediate_size\": 96, \"vocab_size\": 300, \"num_hidden_layers\": 2, "        \
    "\"num_attention_heads\": 4, \"max_position_embeddings\": 4096"
#define LLAMA(more) "{\"model_type\": \"llama\", " SIZES more "}"

static void test_config(void **state)
{
    (void)state;
    struct model_config c;
    OK(open_config(LLAMA(""), &c));
    assert_int_equal(c.n_kv_head, 4);
    assert_int_equal(c.head_dim, 16);
    assert_true(c.rope[0].theta == 10000 && c.rope[0].scaling == ROPE_PLAIN && !c.tied && !c.qkv_bias);
    assert_string_equal(c.family, "llama");
    OK(open_config(LLAMA(", \"rope_scaling\": {\"type\": \"linear\", \"factor\": 8}, \"head_dim\": 32"), &c));
    assert_true(c.rope[0].scaling == ROPE_LINEAR && c.rope[0].factor == 8 && c.head_dim == 32);
    OK(open_config(LLAMA(", \"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 500000.0, "
                         "\"factor\": 32.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "
                         "\"original_max_position_embeddings\": 8192}, \"torch_dtype\": \"bfloat16\""),
                   &c));
    assert_true(c.rope[0].scaling == ROPE_LLAMA3 && c.rope[0].theta == 500000 &&
                c.rope[0].original_len == 8192 && c.rope[0].high_freq == 4 && c.dtype == DT_BF16);
    OK(open_config(LLAMA(", \"rope_scaling\": null, \"attention_bias\": true, \"tie_word_embeddings\": true"),
                   &c));
    assert_true(c.qkv_bias && c.o_bias && c.tied);
    OK(open_config(
        "{\"model_type\": \"qwen2\", " SIZES ", \"num_key_value_heads\": 2, \"sliding_window\": 8}", &c));
    assert_true(c.qkv_bias && !c.o_bias);
    OK(open_config("{\"model_type\": \"mistral\", " SIZES
                   ", \"num_key_value_heads\": 2, \"sliding_window\": null}",
                   &c));
    OK(open_config("{\"model_type\": \"mistral\", " SIZES ", \"num_key_value_heads\": 2}", &c));
    assert_int_equal(c.window, 0); /* 4096, as long as the model */
}

static void open_shape(const char *json, struct model_config *c, struct seq_shape *s)
{
    OK(open_config(json, c));
    model_config_shape(c, DT_F16, NULL, s);
}

/* Layers with a window are a kind of their own where it is shorter than the model; sequences that max_len
 * keeps within it see everything, and nothing longer is run. */
static void test_config_window(void **state)
{
    (void)state;
#define QWEN(more)    "{\"model_type\": \"qwen2\", " SIZES ", \"num_key_value_heads\": 2" more "}"
#define MISTRAL(more) "{\"model_type\": \"mistral\", " SIZES ", \"num_key_value_heads\": 2" more "}"
    struct model_config c;
    struct seq_shape s;
    open_shape(QWEN(", \"use_sliding_window\": true, \"sliding_window\": 1024, "
                    "\"layer_types\": [\"full_attention\", \"sliding_attention\"]"),
               &c, &s);
    assert_true(c.window == 1024 && c.max_len == 4096 && s.max_len == INT32_MAX && s.n_kind == 2);
    assert_true(shape_kind(&s, 0)->compress && shape_kind(&s, 0)->window == 0);
    assert_true(!shape_kind(&s, 1)->compress && shape_kind(&s, 1)->window == 1024);
    model_config_limit(&c, 1024);
    model_config_shape(&c, DT_F16, NULL, &s);
    assert_true(s.n_kind == 1 && s.kind[0].window == 0 && s.max_len == 1024);
    model_config_limit(&c, 1025);
    model_config_shape(&c, DT_F16, NULL, &s);
    assert_true(s.n_kind == 2 && s.max_len == INT32_MAX);
    open_shape(QWEN(", \"use_sliding_window\": true, \"sliding_window\": 1024, \"max_window_layers\": 1"), &c,
               &s);
    assert_true(s.n_kind == 2 && shape_kind(&s, 0)->window == 0 && shape_kind(&s, 1)->window == 1024);
    open_shape(QWEN(", \"use_sliding_window\": true, \"sliding_window\": 1024, \"max_window_layers\": 0"), &c,
               &s);
    assert_true(s.n_kind == 1 && s.kind[0].window == 1024);
    open_shape(QWEN(", \"use_sliding_window\": true, \"sliding_window\": 1024"), &c,
               &s); /* 28 layers are not there */
    assert_true(s.n_kind == 1 && s.kind[0].window == 0);
    open_shape(QWEN(", \"sliding_window\": 1024, \"layer_types\": [\"sliding_attention\"]"), &c,
               &s); /* off */
    assert_true(c.window == 0 && s.n_kind == 1 && s.kind[0].compress);
    open_shape(MISTRAL(", \"sliding_window\": 1024"), &c, &s);
    assert_true(s.n_kind == 1 && s.kind[0].window == 1024 && !s.kind[0].compress);
    open_shape(MISTRAL(", \"sliding_window\": 4096"), &c, &s);
    assert_true(c.window == 0 && s.kind[0].window == 0 && s.max_len == INT32_MAX);
#undef QWEN
}

/* Qwen3: norms of every head, a head_dim of its own. */
static void test_config_qwen3(void **state)
{
    (void)state;
    struct model_config c;
    OK(open_config("{\"model_type\": \"qwen3\", " SIZES ", \"num_key_value_heads\": 2}", &c));
    assert_true(c.head_dim == 128 && !c.qkv_bias && !c.o_bias && c.window == 0);
    assert_string_equal(c.family, "llama");
    OK(open_config("{\"model_type\": \"qwen3\", " SIZES
                   ", \"num_key_value_heads\": 2, \"head_dim\": 32, \"attention_bias\": true}",
                   &c));
    assert_true(c.head_dim == 32 && c.qkv_bias && c.o_bias);
}

static void test_config_refused(void **state)
{
    (void)state;
    static const struct {
        const char *json, *says;
    } cases[] = {
        {"", "is empty (0 bytes)"},
        {"[1]", "no JSON object"},
        {"{\"model_type\": \"llama\", \"model_type\": \"llama\"}", "not JSON"},
        {"{" SIZES "}", "model_type"},
        {"{\"model_type\": \"gpt\\u0007x\", " SIZES "}", "'gpt?x' is not supported"},
        {"{\"model_type\": \"llama|mistral\", " SIZES "}", "not supported"},
        {"{\"model_type\": \"llama\"}", "'hidden_size' is missing"},
        {LLAMA(", \"num_key_value_heads\": 3"), "share"},
        {LLAMA(", \"num_key_value_heads\": 0"), "from 1"},
        {LLAMA(", \"num_key_value_heads\": 2.5"), "whole number"},
        {LLAMA(", \"head_dim\": 15"), "even"},
        {LLAMA(", \"head_dim\": 99999999999"), "head_dim"},
        {LLAMA(", \"rope_theta\": -1"), "rope_theta"},
        {LLAMA(", \"rope_theta\": \"x\""), "rope_theta"},
        {LLAMA(", \"rms_norm_eps\": 0"), "rms_norm_eps"},
        {LLAMA(", \"rope_scaling\": {\"type\": \"yarn\"}"), "'factor' is missing"},
        {LLAMA(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"truncate\": 1}"), "'truncate'"},
        {LLAMA(", \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"beta_fast\": \"x\"}"),
         "'beta_fast'"},
        {LLAMA(", \"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4}"), "'dynamic'"},
        {LLAMA(", \"rope_scaling\": {\"type\": \"linear\"}"), "'factor' is missing"},
        {LLAMA(", \"rope_scaling\": {\"type\": 4}"), "string"},
        {LLAMA(", \"rope_scaling\": 4"), "object"},
        {LLAMA(", \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
               "\"high_freq_factor\": 4}"),
         "high_freq_factor"},
        {LLAMA(", \"partial_rotary_factor\": 0.5"), "partial_rotary_factor"},
        {LLAMA(", \"hidden_act\": \"gelu\""), "gelu"},
        {LLAMA(", \"mlp_bias\": true"), "mlp_bias"},
        {LLAMA(", \"attention_bias\": 1"), "attention_bias"},
        {LLAMA(", \"quantization_config\": {}"), "quantization_config"},
        {LLAMA(", \"dtype\": \"int8\""), "int8"},
        {"{\"model_type\": \"mistral\", " SIZES ", \"num_key_value_heads\": 2, \"sliding_window\": 0}",
         "'sliding_window' is 0"},
        {MISTRAL(", \"sliding_window\": 64, \"layer_types\": [\"full_attention\", \"sliding_attention\"]"),
         "layer_types[0] is 'full_attention' beside"},
        {MISTRAL(", \"sliding_window\": 64, \"layer_types\": [\"sliding_attention\"]"),
         "1 entries for 2 layers"},
        {LLAMA(", \"sliding_window\": 64, \"layer_types\": [\"sliding_attention\"]"), "layer_types[0]"},
        {"{\"model_type\": \"mistral\", " SIZES
         ", \"num_key_value_heads\": 2, \"layer_types\": [\"full_attention\", "
         "\"chunked_attention\"]}",
         "layer_types[1]"},
    };
    struct model_config c;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = open_config(cases[i].json, &c);
        if (rc != ERR_INPUT || !strstr(err_text(), cases[i].says) || strchr(err_text(), '\n'))
            fail_msg("%s gave %d: %s", cases[i].json, rc, err_text());
    }
}

static void test_missing(void **state)
{
    (void)state;
    struct model_file *f;
    char *d = scratch_make();
    assert_int_equal(model_file_open(&f, "/tmp/no/such/model.gguf"), ERR_INPUT);
    assert_non_null(strstr(err_text(), "/tmp/no/such/model.gguf"));
    assert_null(f);
    assert_true(model_file_open(&f, d) < 0); /* no config.json */
    assert_non_null(strstr(err_text(), "config.json"));
    /* an index that names a shard that is not there: opens, but says so when a tensor is wanted */
    char *text;
    size_t n;
    OK(file_read("fixtures/model/sharded/config.json", &text, &n));
    scratch_put(d, "config.json", text, n);
    free(text);
    static const char index[] = "{\"weight_map\": {\"model.norm.weight\": \"one.safetensors\"}}";
    scratch_text(d, "model.safetensors.index.json", index);
    OK(model_file_open(&f, d));
    struct model_tensor t;
    int64_t len = 32;
    assert_int_equal(model_file_find(f, "model.norm.weight", &len, 1, &t), ERR_INPUT);
    assert_non_null(strstr(err_text(), "one.safetensors is missing"));
    model_file_close(f);
    static const char evil[] = "{\"weight_map\": {\"model.norm.weight\": \"../one.safetensors\"}}";
    scratch_text(d, "model.safetensors.index.json", evil);
    assert_int_equal(model_file_open(&f, d), ERR_INPUT);
    assert_non_null(strstr(err_text(), "plain file name"));
    scratch_remove(d);
}

/* Equal content elsewhere has an equal hash; another configuration has another. */
static void test_hash(void **state)
{
    (void)state;
    struct model_file *a, *b;
    uint64_t ha[2], hb[2];
    char *text;
    size_t n;
    char *d = scratch_make();
    OK(model_file_open(&a, "fixtures/model/linear"));
    model_file_hash(a, ha);
    OK(file_read("fixtures/model/linear/model.safetensors", &text, &n));
    scratch_put(d, "model.safetensors", text, n);
    free(text);
    OK(file_read("fixtures/model/linear/config.json", &text, &n));
    scratch_put(d, "config.json", text, n);
    OK(model_file_open(&b, d));
    model_file_hash(b, hb);
    assert_memory_equal(ha, hb, sizeof ha);
    assert_true(a->identity != b->identity);
    model_file_close(b);
    *strstr(text, "4.0") = '5';
    scratch_put(d, "config.json", text, n);
    free(text);
    OK(model_file_open(&b, d));
    model_file_hash(b, hb);
    assert_memory_not_equal(ha, hb, sizeof ha);
    model_file_close(b);
    model_file_close(a);
    scratch_remove(d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_metadata),       cmocka_unit_test(test_expand),
        cmocka_unit_test(test_expand_parts),   cmocka_unit_test(test_config),
        cmocka_unit_test(test_config_window),  cmocka_unit_test(test_config_qwen3),
        cmocka_unit_test(test_config_refused), cmocka_unit_test(test_missing),
        cmocka_unit_test(test_hash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
