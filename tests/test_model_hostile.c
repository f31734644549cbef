/* Hostile model files: what each lie in a header is told, cuts at every length, random changes. */
#include "model/file_int.h"
#include "model_common.h"
#include "scratch.h"

static const char gguf_path_ok[] = "fixtures/model/gguf/model.gguf";

struct bytes {
    unsigned char *p;
    size_t n;
};
static void raw(struct bytes *b, const void *p, size_t n)
{
    b->p = mem_grow(b->p, b->n + n, 1);
    memcpy(b->p + b->n, p, n);
    b->n += n;
}
static void u32(struct bytes *b, uint32_t v)
{
    raw(b, &v, 4);
}
static void u64(struct bytes *b, uint64_t v)
{
    raw(b, &v, 8);
}
static void text(struct bytes *b, const char *s)
{
    u64(b, strlen(s));
    raw(b, s, strlen(s));
}
static void start(struct bytes *b, uint32_t version, uint64_t n_tensor, uint64_t n_kv)
{
    *b = (struct bytes){0};
    raw(b, "GGUF", 4);
    u32(b, version);
    u64(b, n_tensor);
    u64(b, n_kv);
}
static void tensor(struct bytes *b, const char *name, uint32_t n_dim, uint64_t n0, uint64_t n1, uint32_t type,
                   uint64_t at)
{
    text(b, name);
    u32(b, n_dim);
    u64(b, n0);
    if (n_dim > 1)
        u64(b, n1);
    u32(b, type);
    u64(b, at);
}
static void refused(struct bytes *b, const char *says)
{
    struct gguf *g;
    int rc = gguf_open_bytes(&g, b->p, b->n, "evil.gguf");
    if (rc != ERR_INPUT || g || !strstr(err_text(), says) || !strstr(err_text(), "evil.gguf") ||
        strchr(err_text(), '\n'))
        fail_msg("wanted '%s', got %d: %s", says, rc, err_text());
    free(b->p);
    *b = (struct bytes){0};
}
static void pad(struct bytes *b, size_t n)
{
    while (b->n < n)
        raw(b, "", 1);
}

static void test_hostile_gguf(void **state)
{
    (void)state;
    struct bytes b = {0};
    refused(&b, "is empty (0 bytes)");
    raw(&b, "GGML", 4);
    refused(&b, "not a GGUF file");
    start(&b, 1, 0, 0);
    refused(&b, "version 1");
    start(&b, 0x03000000, 0, 0);
    refused(&b, "big-endian");
    start(&b, 3, 0, UINT64_MAX);
    refused(&b, "metadata keys");
    start(&b, 3, UINT64_MAX / 8, 0);
    refused(&b, "tensors");
    start(&b, 3, 0, 1), pad(&b, 60);
    b.n = 24, u64(&b, UINT64_MAX), pad(&b, 60);
    refused(&b, "a key");
    start(&b, 3, 0, 1), text(&b, "a\nb"), u32(&b, 13), pad(&b, 80);
    refused(&b, "'a?b' has type 13");
    start(&b, 3, 0, 1), text(&b, "k"), u32(&b, 8), u64(&b, INT64_MAX), pad(&b, 80);
    refused(&b, "string value");
    start(&b, 3, 0, 1), text(&b, "k"), u32(&b, 9), u32(&b, 9), u64(&b, 1), pad(&b, 80);
    refused(&b, "array of type 9");
    start(&b, 3, 0, 1), text(&b, "k"), u32(&b, 9), u32(&b, 5), u64(&b, UINT64_MAX / 4 + 1), pad(&b, 80);
    refused(&b, "elements");
    start(&b, 3, 0, 1), text(&b, "k"), u32(&b, 9), u32(&b, 8), u64(&b, 2), text(&b, "x"), u64(&b, 9);
    refused(&b, "array string");
    start(&b, 3, 0, 2), text(&b, "k"), u32(&b, 0), raw(&b, "1", 1), text(&b, "k"), u32(&b, 0),
        raw(&b, "2", 1);
    refused(&b, "'k' occurs twice");
    start(&b, 3, 0, 1), text(&b, "general.alignment"), u32(&b, 4), u32(&b, 24);
    refused(&b, "powers of two");
    start(&b, 3, 0, 1), text(&b, "general.alignment"), u32(&b, 4), u32(&b, 0);
    refused(&b, "powers of two");
    start(&b, 3, 1, 0), tensor(&b, "t", 5, 1, 1, 0, 0), pad(&b, 200);
    refused(&b, "5 dimensions");
    start(&b, 3, 1, 0), tensor(&b, "", 1, 1, 1, 0, 0), pad(&b, 200);
    refused(&b, "tensor name");
    start(&b, 3, 1, 0), tensor(&b, "a\nb", 1, 1, 1, 0, 0), pad(&b, 200);
    refused(&b, "'a?b'");
    start(&b, 3, 1, 0), tensor(&b, "t", 2, INT64_MAX, 4, 0, 0), pad(&b, 200);
    refused(&b, "overflow");
    start(&b, 3, 1, 0), tensor(&b, "t", 2, 1, UINT64_MAX, 0, 0), pad(&b, 200);
    refused(&b, "impossible shape");
    start(&b, 3, 1, 0), tensor(&b, "t", 2, 0, 4, 0, 0), pad(&b, 200);
    refused(&b, "impossible shape");
    start(&b, 3, 1, 0), tensor(&b, "t", 2, 33, 4, 2, 0), pad(&b, 400);
    refused(&b, "not a multiple of 32");
    start(&b, 3, 1, 0), tensor(&b, "t", 2, 256, 4, 10, 0), pad(&b, 4000);
    refused(&b, "Q2_K");
    start(&b, 3, 1, 0), tensor(&b, "t", 2, 32, 4, 4000000000U, 0), pad(&b, 400);
    refused(&b, "unknown");
    start(&b, 3, 1, 0), tensor(&b, "t", 1, 4, 0, 0, 8), pad(&b, 400);
    refused(&b, "alignment");
    start(&b, 3, 1, 0), tensor(&b, "t", 1, 4, 0, 0, UINT64_MAX - 31), pad(&b, 400);
    refused(&b, "data section");
    start(&b, 3, 1, 0), tensor(&b, "t", 1, 4, 0, 0, 0), pad(&b, 64 + 15);
    refused(&b, "truncated");
    start(&b, 3, 2, 0), tensor(&b, "t", 1, 4, 0, 0, 0), tensor(&b, "t", 1, 4, 0, 0, 0), pad(&b, 400);
    refused(&b, "'t' occurs twice");
    struct gguf *g; /* and the smallest good one: 32 bytes of padding, 16 of data */
    start(&b, 2, 1, 0), tensor(&b, "t", 1, 4, 0, 0, 0), pad(&b, 64 + 16);
    OK(gguf_open_bytes(&g, b.p, b.n, "good"));
    assert_int_equal(gguf_tensor_find(g, "t")->at, 64);
    gguf_close(g);
    free(b.p);
}

static void add_text(struct bytes *b, const char *key, const char *value)
{
    text(b, key), u32(b, 8), text(b, value);
}
static void add_u32(struct bytes *b, const char *key, uint32_t value)
{
    text(b, key), u32(b, 4), u32(b, value);
}

/* GGUF files that are sound but hold what cannot be computed. */
static void test_gguf_refused(void **state)
{
    (void)state;
    static const struct {
        const char *key, *says;
        uint32_t value;
    } cases[] = {
        {"split.count", "split.no", 2},
        {"llama.expert_count", "mixtures of experts", 8},
        {"llama.rope.dimension_count", "differ", 8},
        {"llama.attention.value_length", "differ", 8},
        {"llama.block_count_x", "token_embd.weight", 1},
    };
    char *d = scratch_make();
    char *path = file_join(d, "f.gguf");
    struct model_file *f;
    for (size_t i = 0; i <= sizeof cases / sizeof *cases; i++) {
        bool arch = i == sizeof cases / sizeof *cases;
        const char *says = arch ? "general.architecture 'gemma' is not supported" : cases[i].says;
        struct bytes b;
        start(&b, 3, 0, 8);
        add_text(&b, "general.architecture", arch ? "gemma" : "llama");
        add_u32(&b, "llama.embedding_length", 64);
        add_u32(&b, "llama.feed_forward_length", 96);
        add_u32(&b, "llama.block_count", 2);
        add_u32(&b, "llama.attention.head_count", 4);
        add_u32(&b, "llama.context_length", 512);
        add_u32(&b, arch ? "x" : cases[i].key, arch ? 0 : cases[i].value);
        text(&b, "llama.attention.layer_norm_rms_epsilon"), u32(&b, 6), u32(&b, 0x3727c5ac);
        scratch_put(d, "f.gguf", b.p, b.n);
        free(b.p);
        if (model_file_open(&f, path) != ERR_INPUT || !strstr(err_text(), says) || !strstr(err_text(), path))
            fail_msg("wanted '%s', got: %s", says, err_text());
    }
    free(path);
    scratch_remove(d);
}

static void add_f32(struct bytes *b, const char *key, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    text(b, key), u32(b, 6), u32(b, bits);
}

/* A header of qwen2 with YaRN and one key more; what its rope is, or what is said against it. */
static int open_yarn(const char *key, float value, struct model_config *c)
{
    char *d = scratch_make(), *path = file_join(d, "f.gguf");
    struct model_file *f;
    struct bytes b;
    start(&b, 3, 1, 11);
    add_text(&b, "general.architecture", "qwen2");
    add_u32(&b, "qwen2.embedding_length", 64);
    add_u32(&b, "qwen2.feed_forward_length", 96);
    add_u32(&b, "qwen2.block_count", 2);
    add_u32(&b, "qwen2.attention.head_count", 4);
    add_u32(&b, "qwen2.context_length", 512);
    add_f32(&b, "qwen2.attention.layer_norm_rms_epsilon", 1e-6f);
    add_text(&b, "qwen2.rope.scaling.type", "yarn");
    add_f32(&b, "qwen2.rope.scaling.factor", 4);
    add_u32(&b, "qwen2.rope.scaling.original_context_length", 128);
    if (strstr(key, "sliding_window"))
        add_u32(&b, key, (uint32_t)value);
    else
        add_f32(&b, key, value);
    tensor(&b, "token_embd.weight", 2, 64, 2, 0, 0), pad(&b, b.n + 1024);
    scratch_put(d, "f.gguf", b.p, b.n);
    free(b.p);
    int rc = model_file_open(&f, path);
    if (rc == 0) {
        *c = *model_file_config(f);
        model_file_close(f);
    }
    free(path);
    scratch_remove(d);
    return rc;
}

/* YaRN's keys as llama.cpp's converter writes them; those that it computes otherwise than transformers are
 * refused unless they say what both do. */
static void test_gguf_yarn(void **state)
{
    (void)state;
    static const struct {
        const char *key, *says; /* NULL: it opens */
        float value;
    } cases[] = {
        {"qwen2.rope.scaling.yarn_attn_factor", NULL, 1.138629436f},
        {"qwen2.rope.scaling.yarn_attn_factor", "'qwen2.rope.scaling.yarn_attn_factor' is 1.25", 1.25f},
        {"qwen2.rope.scaling.yarn_ext_factor", NULL, 1},
        {"qwen2.rope.scaling.yarn_ext_factor", "yarn_ext_factor' is 0.5", 0.5f},
        {"qwen2.rope.scaling.yarn_log_multiplier", "yarn_log_multiplier' is not supported", 0.1f},
        {"qwen2.rope.scaling.attn_factor", "attn_factor' is 2", 2},
        {"qwen2.attention.sliding_window", "does not say which layers slide", 128},
        {"qwen2.attention.sliding_window", NULL, 512},
        {"qwen2.rope.scaling.yarn_beta_fast", NULL, 16},
    };
    struct model_config c = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = open_yarn(cases[i].key, cases[i].value, &c);
        if (cases[i].says ? rc != ERR_INPUT || !strstr(err_text(), cases[i].says) : rc != 0)
            fail_msg("%s=%g: %s", cases[i].key, (double)cases[i].value, rc ? err_text() : "opens");
        if (rc == 0)
            assert_true(c.rope[0].scaling == ROPE_YARN && c.rope[0].factor == 4 &&
                        c.rope[0].original_len == 128 && c.rope[0].yarn.whole && c.window == 0);
    }
    assert_true(c.rope[0].yarn.fast == 16 && c.rope[0].yarn.slow == 1);
}

/* Header cut at every length: always one line, never a crash. */
static void test_cut_gguf(void **state)
{
    (void)state;
    char *all;
    size_t n;
    struct gguf *g;
    OK(file_read(gguf_path_ok, &all, &n));
    for (size_t cut = 0; cut < n; cut += cut < 12000 ? 1 : 509) {
        unsigned char *copy = mem_dup(all, cut ? cut : 1); /* exact size: ASan sees every byte beyond */
        assert_int_equal(gguf_open_bytes(&g, copy, cut, "cut"), ERR_INPUT);
        free(copy);
    }
    free(all);
}

static int add_st(const char *header, size_t data)
{
    struct bytes b = {0};
    u64(&b, strlen(header));
    raw(&b, header, strlen(header));
    pad(&b, b.n + data);
    struct model_file *f = mem_alloc(1, sizeof *f);
    f->path = mem_strdup("evil");
    struct file_map m = {b.p, b.n};
    int rc = safetensors_add(f, &m, 0, "evil.safetensors");
    model_file_close(f);
    free(b.p);
    return rc;
}

#define ENTRY(dtype, shape, from, to)                                                                        \
    "{\"dtype\": \"" dtype "\", \"shape\": " shape ", \"data_offsets\": [" from ", " to "]}"

static void test_hostile_safetensors(void **state)
{
    (void)state;
    static const struct {
        const char *header, *says;
    } cases[] = {
        {"", "not JSON"},
        {"[]", "no JSON object"},
        {"{\"a\": " ENTRY("F32", "[2]", "0", "8"), "not JSON"},
        {"{\"a\": 1}", "dtype"},
        {"{\"a\": " ENTRY("F31", "[2]", "0", "8") "}", "F31"},
        {"{\"a\": " ENTRY("F32", "2", "0", "8") "}", "shape"},
        {"{\"a\": " ENTRY("F32", "[1,1,1,1,2]", "0", "8") "}", "shape"},
        {"{\"a\": " ENTRY("F32", "[-2]", "0", "8") "}", "shape"},
        {"{\"a\": " ENTRY("F32", "[2.0]", "0", "8") "}", "shape"},
        {"{\"a\": " ENTRY("F32", "[4611686018427387904, 4]", "0", "8") "}", "shape"},
        {"{\"a\": " ENTRY("F32", "[4611686018427387904]", "0", "8") "}", "other bytes"},
        {"{\"a\": " ENTRY("F32", "[2]", "0", "16") "}", "other bytes"},
        {"{\"a\": " ENTRY("F32", "[2]", "8", "0") "}", "rising"},
        {"{\"a\": " ENTRY("F32", "[2]", "-8", "0") "}", "rising"},
        {"{\"a\": " ENTRY("F32", "[2]", "9223372036854775799", "9223372036854775807") "}", "ends at byte"},
        {"{\"a\": " ENTRY("F32", "[2]", "60", "68") "}", "ends at byte"},
        {"{\"a\": " ENTRY("F32", "[2]", "0", "99999999999999999999") "}", "not JSON"},
        {"{\"a\": " ENTRY("F32", "[2]", "0", "8") ", \"a\": " ENTRY("F32", "[2]", "0", "8") "}", "not JSON"},
        {"{\"a\\nb\": " ENTRY("F32", "[2]", "0", "8") "}", "'a?b'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        int rc = add_st(cases[i].header, 64);
        if (rc != ERR_INPUT || !strstr(err_text(), cases[i].says) || strchr(err_text(), '\n'))
            fail_msg("%s gave %d: %s", cases[i].header, rc, err_text());
    }
    OK(add_st("{\"__metadata__\": {\"format\": \"pt\"}, \"a\": " ENTRY("F32", "[2, 8]", "0", "64") "}", 64));
    struct model_file f = {.path = "x"};
    static const unsigned char head[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f};
    assert_int_equal(safetensors_add(&f, &(struct file_map){head, 8}, 0, "evil"), ERR_INPUT);
    assert_int_equal(safetensors_add(&f, &(struct file_map){head, 7}, 0, "evil"), ERR_INPUT);
}

/* Shapes that do not fit the configuration are found before anything is read. */
static void test_wrong_shape(void **state)
{
    (void)state;
    struct model_file *f;
    struct model_tensor t;
    struct model *m;
    struct ops *ops;
    int64_t shape[2] = {64, 63};
    OK(model_file_open(&f, "fixtures/model/gqa"));
    assert_int_equal(model_file_find(f, "model.layers.0.self_attn.q_proj.weight", shape, 2, &t), ERR_INPUT);
    assert_non_null(strstr(err_text(), "[64, 64], the configuration needs [64, 63]"));
    assert_int_equal(model_file_find(f, "lm_head.weight", shape, 2, &t), ERR_INPUT);
    f->cfg.d_ff++;
    OK(ops_open(&ops, "ref", NULL));
    const struct model_options mo = {.dtype = DT_F32, .threads = 1};
    assert_int_equal(model_open(&m, ops, f, &mo), ERR_INPUT);
    assert_non_null(strstr(err_text(), "layers.0.mlp.gate_proj.weight' has shape"));
    assert_non_null(strstr(err_text(), "layers.0.mlp.down_proj.weight' has shape"));
    assert_non_null(strstr(err_text(), "layers.1.mlp.down_proj.weight' has shape"));
    assert_null(m);
    model_file_close(f);
    ops_close(ops);
}

/* Everything that does not fit stands in one message: what is missing, and what nothing computes with. */
static void test_missing_and_extra(void **state)
{
    (void)state;
    struct model_file *f;
    struct model *m;
    struct ops *ops;
    const struct model_options mo = {.dtype = DT_F32, .threads = 1};
    OK(ops_open(&ops, "ref", NULL));
    OK(model_file_open(&f, "fixtures/model/gqa"));
    f->cfg.n_layer--; /* the last layer's tensors are left over */
    assert_int_equal(model_open(&m, ops, f, &mo), ERR_INPUT);
    assert_non_null(strstr(err_text(), "' is not one of this model's; tensor '"));
    assert_non_null(strstr(err_text(), "; and 3 more"));
    f->cfg.n_layer += 2;
    f->cfg.qkv_bias = true;
    assert_int_equal(model_open(&m, ops, f, &mo), ERR_INPUT);
    assert_non_null(strstr(err_text(), "fixtures/model/gqa: tensor '"));
    assert_non_null(strstr(err_text(), "layers.0.self_attn.q_proj.bias' is missing; tensor '"));
    assert_non_null(strstr(err_text(), "layers.1.self_attn.q_proj.bias' is missing"));
    model_file_close(f);
    ops_close(ops);
}

/* ---- mutation ---- */

static uint64_t next(uint64_t *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static void mutate(unsigned char *p, size_t n, uint64_t *seed)
{
    static const uint64_t odd[] = {0, 1, 0x7f, 0xff, 0x7fffffff, UINT32_MAX, INT64_MAX, UINT64_MAX};
    for (int k = 1 + (int)(next(seed) % 4); k > 0; k--) {
        size_t at = next(seed) % n;
        if (next(seed) % 2 || at + 8 > n)
            p[at] = (unsigned char)next(seed);
        else
            memcpy(p + at, &odd[next(seed) % 8], next(seed) % 2 ? 8 : 4);
    }
}

/* Whatever opens must be readable without touching foreign bytes. */
static void read_everything(struct model_file *f)
{
    for (int i = 0; i < f->n; i++) {
        struct model_tensor t;
        float out[64];
        if (model_file_find(f, f->t[i].name, f->t[i].t.n, f->t[i].t.n_dim, &t) < 0 || t.n_dim > 2 ||
            t.n_dim < 1)
            continue;
        int64_t width = t.n_dim > 1 ? t.n[1] : 1;
        if (width <= 64 && t.n[0] > 0) {
            (void)model_tensor_read(f, &t, f->t[i].name, 0, 1, out);
            (void)model_tensor_read(f, &t, f->t[i].name, t.n[0] - 1, 1, out);
        }
    }
}

static void test_fuzz_gguf(void **state)
{
    (void)state;
    char *all;
    size_t n, head = 12000;
    uint64_t seed = 88172645463325252U;
    int opened = 0;
    char *d = scratch_make();
    OK(file_read(gguf_path_ok, &all, &n));
    for (int i = 0; i < 4000; i++) {
        unsigned char *copy = mem_dup(all, n);
        struct gguf *g;
        struct gguf_text *t;
        int32_t *ints;
        int64_t count;
        mutate(copy, i % 2 ? 600 : head, &seed);
        if (gguf_open_bytes(&g, copy, n, "fuzz") == 0) {
            if (gguf_array_text(g, "tokenizer.ggml.tokens", &t, &count) == 0)
                free(t);
            if (gguf_array_i32(g, "tokenizer.ggml.token_type", &ints, &count) == 0)
                free(ints);
            gguf_close(g);
            opened++;
            if (i % 4 == 1) { /* the whole way, through a file */
                struct model_file *f;
                scratch_put(d, "f.gguf", copy, n);
                char *path = file_join(d, "f.gguf");
                if (model_file_open(&f, path) == 0)
                    read_everything(f);
                model_file_close(f);
                free(path);
            }
        }
        free(copy);
    }
    assert_true(opened > 100 && opened < 3900);
    free(all);
    scratch_remove(d);
}

static void test_fuzz_safetensors(void **state)
{
    (void)state;
    char *all;
    size_t n;
    uint64_t seed = 4101842887655102017U, head;
    int opened = 0;
    OK(file_read("fixtures/model/gqa/model.safetensors", &all, &n));
    memcpy(&head, all, 8);
    for (int i = 0; i < 4000; i++) {
        unsigned char *copy = mem_dup(all, n);
        mutate(copy + (i % 8 ? 8 : 0), (size_t)head, &seed);
        struct model_file *f = mem_alloc(1, sizeof *f);
        f->path = mem_strdup("fuzz");
        struct file_map m = {copy, n};
        if (safetensors_add(f, &m, 0, "fuzz") == 0 && file_tensor_sort(f) == 0) {
            read_everything(f);
            opened++;
        }
        model_file_close(f);
        free(copy);
    }
    assert_true(opened > 50 && opened < 3900);
    free(all);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile_gguf),     cmocka_unit_test(test_gguf_refused),
        cmocka_unit_test(test_gguf_yarn),        cmocka_unit_test(test_missing_and_extra),
        cmocka_unit_test(test_cut_gguf),         cmocka_unit_test(test_hostile_safetensors),
        cmocka_unit_test(test_wrong_shape),      cmocka_unit_test(test_fuzz_gguf),
        cmocka_unit_test(test_fuzz_safetensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
