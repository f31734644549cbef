/* Model files as the field reads them: what a hash covers, keys that stand twice, stop ids, files that are
 * not what their names say. */
#include "model/file_int.h"
#include "model/rope.h"
#include "model_common.h"
#include "scratch.h"

#include <jansson.h>

/* A folder with the files of a fixture, to be changed. */
static char *copy_of(const char *fixture)
{
    static const char *const names[] = {"config.json", "model.safetensors"};
    char *dir = scratch_make();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *path = file_join(fixture, names[i]), *data;
        size_t n;
        OK(file_read(path, &data, &n));
        scratch_put(dir, names[i], data, n);
        free(data);
        free(path);
    }
    return dir;
}

struct identity {
    uint64_t hash[2], weights[2];
};

static struct identity identify(const char *path)
{
    struct identity id;
    struct model_file *f;
    OK(model_file_open(&f, path));
    model_file_hash(f, id.hash);
    model_file_weights_xxh3(f, 3, id.weights);
    model_file_close(f);
    return id;
}

static bool same_hash(const struct identity *a, const struct identity *b)
{
    return memcmp(a->hash, b->hash, sizeof a->hash) == 0;
}

static bool same_weights(const struct identity *a, const struct identity *b)
{
    return memcmp(a->weights, b->weights, sizeof a->weights) == 0;
}

/* Turns a bit of a tensor's byte over and says what that changes. */
static struct identity with_flip(const char *dir, const char *tensor, size_t at)
{
    char *path = file_join(dir, "model.safetensors"), *data;
    size_t n;
    struct model_file *f;
    OK(model_file_open(&f, dir));
    const struct file_tensor *t = file_tensor_find(f, tensor);
    assert_non_null(t);
    assert_true(at < t->t.bytes);
    size_t where = (size_t)((const unsigned char *)t->t.data - f->map[t->map].data) + at;
    model_file_close(f);
    OK(file_read(path, &data, &n));
    data[where] ^= 1;
    scratch_put(dir, "model.safetensors", data, n);
    struct identity id = identify(dir);
    data[where] ^= 1;
    scratch_put(dir, "model.safetensors", data, n);
    free(data);
    free(path);
    return id;
}

static void test_identity(void **state)
{
    (void)state;
    char *dir = copy_of("fixtures/model/linear");
    struct identity plain = identify("fixtures/model/linear"), same = identify(dir), other;
    assert_true(same_hash(&plain, &same) && same_weights(&plain, &same));
    other = with_flip(dir, "model.norm.weight", 6); /* one element of one norm */
    assert_true(!same_hash(&plain, &other) && !same_weights(&plain, &other));
    other = with_flip(dir, "model.layers.1.mlp.up_proj.weight", 0);
    assert_true(!same_hash(&plain, &other) && !same_weights(&plain, &other));
    scratch_text(dir, "generation_config.json", "{\"eos_token_id\": 7}");
    other = identify(dir);
    assert_true(!same_hash(&plain, &other) && same_weights(&plain, &other));
    scratch_text(dir, "generation_config.json", "{\"eos_token_id\": [7, 8]}");
    struct identity two = identify(dir);
    assert_true(!same_hash(&two, &other) && !same_hash(&two, &plain));
    scratch_text(dir, "generation_config.json", "{\"eos_token_id\": [8, 7, 8], \"temperature\": 0.6}");
    other = identify(dir);
    assert_true(same_hash(&two, &other)); /* the same set */
    scratch_remove(dir);
}

/* A tensor of more than 64 KiB: the hash covers its samples, the hash of the weights every byte. */
static void test_samples(void **state)
{
    (void)state;
    enum { N = 200000, BLOCK = 4096 };
    static const char header[] = "{\"model.norm.weight\":{\"dtype\":\"U8\",\"shape\":[200000],"
                                 "\"data_offsets\":[0,200000]}}";
    char *dir = copy_of("fixtures/model/linear"), *data = mem_alloc(8 + sizeof header - 1 + N, 1);
    uint64_t n_header = sizeof header - 1;
    memcpy(data, &n_header, 8);
    memcpy(data + 8, header, n_header);
    scratch_put(dir, "model.safetensors", data, 8 + n_header + N);
    struct identity plain = identify(dir);
    const size_t step = (N - BLOCK) / 15;
    for (size_t k = 0; k < 16; k++) {
        size_t at = k == 15 ? N - BLOCK : k * step;
        struct identity first = with_flip(dir, "model.norm.weight", at);
        struct identity last = with_flip(dir, "model.norm.weight", at + BLOCK - 1);
        assert_true(!same_hash(&plain, &first) && !same_hash(&plain, &last) && !same_hash(&first, &last));
        if (k == 15)
            break;
        struct identity between = with_flip(dir, "model.norm.weight", at + BLOCK);
        assert_true(same_hash(&plain, &between) && !same_weights(&plain, &between));
    }
    free(data);
    scratch_remove(dir);
}

/* Who reads the weights, who maps them and who only hashes the file come to the same. */
static void test_weights_hash(void **state)
{
    (void)state;
    static const char *const paths[] = {"fixtures/model/gqa", "fixtures/model/sharded",
                                        "fixtures/model/gguf/model.gguf"};
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct identity id = identify(paths[i]);
        for (int share = 0; share < 2; share++) {
            struct rig a, b;
            uint64_t got[2];
            rig_open(&a, paths[i], "ref", DT_F32, share);
            rig_open(&b, paths[i], "ref", DT_F32, share);
            model_weights_xxh3(a.m, got);
            assert_memory_equal(got, id.weights, sizeof got);
            model_weights_xxh3(b.m, got);
            assert_memory_equal(got, id.weights, sizeof got);
            rig_close(&b);
            rig_close(&a);
        }
    }
}

/* ---- config.json ---- */

static json_t *load_json(const char *path)
{
    json_error_t e;
    json_t *j = json_load_file(path, 0, &e);
    if (!j)
        fail_msg("%s: %s", path, e.text);
    return j;
}

static double number(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    return v ? json_number_value(v) : 1;
}

/* A folder whose config.json has these keys beside the sizes; true if it opens. */
static bool open_with(json_t *keys, struct model_config *c, char **notes)
{
    char *dir = scratch_make();
    json_t *root = json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i}", "model_type", "llama", "hidden_size", 64,
                             "intermediate_size", 96, "vocab_size", 300, "num_hidden_layers", 2,
                             "num_attention_heads", 4, "max_position_embeddings", 4096);
    json_object_update(root, keys);
    char *text = json_dumps(root, 0);
    struct model_file *f;
    scratch_text(dir, "config.json", text);
    int rc = model_file_open(&f, dir);
    if (rc == 0) {
        *c = *model_file_config(f);
        *notes = mem_strdup(model_file_notes(f));
        model_file_close(f);
    }
    free(text);
    json_decref(root);
    scratch_remove(dir);
    return rc == 0;
}

static void same_rope(const json_t *want, const struct model_config *c, const char *text)
{
    static const char *const kinds[] = {"default", "linear", "llama3", "yarn"};
    const char *kind = json_string_value(json_object_get(want, "rope_type"));
    if (strcmp(kind, kinds[c->rope[0].scaling]) != 0 || c->rope[0].theta != number(want, "rope_theta") ||
        c->rope[0].factor != number(want, "factor") ||
        c->rope[0].low_freq != number(want, "low_freq_factor") ||
        c->rope[0].high_freq != number(want, "high_freq_factor"))
        fail_msg("%s: %s, theta %g, factor %g", text, kinds[c->rope[0].scaling], c->rope[0].theta,
                 c->rope[0].factor);
    if (c->rope[0].scaling >= ROPE_LLAMA3)
        assert_int_equal(c->rope[0].original_len, (int64_t)number(want, "original_max_position_embeddings"));
}

/* The table of the fixture's heads of 16 and the scale of cosines and sines. */
static void same_table(const json_t *want, const struct model_config *c, const char *text)
{
    const json_t *list = json_object_get(want, "inv_freq");
    float freq[8];
    assert_int_equal(json_array_size(list), 8);
    rope_frequencies(&c->rope[0], NULL, 16, 1, freq);
    for (size_t i = 0; i < 8; i++) {
        const double f = json_number_value(json_array_get(list, i));
        if (!(fabs((double)freq[i] - f) <= 3e-7 * f))
            fail_msg("%s: pair %d turns by %.9g, not %.9g", text, (int)i, (double)freq[i], f);
    }
    if (!(fabs((double)rope_scale(&c->rope[0]) - number(want, "scale")) <= 1e-6))
        fail_msg("%s: scale %.9g", text, (double)rope_scale(&c->rope[0]));
}

/* As transformers resolves them (tests/oracle/rope_config.py). */
static void test_rope(void **state)
{
    (void)state;
    json_t *root = load_json("fixtures/model/rope_config.json"), *one;
    size_t i, n_raises = 0;
    json_array_foreach(json_object_get(root, "cases"), i, one)
    {
        json_t *keys = json_object_get(one, "keys");
        char *text = json_dumps(keys, 0), *notes = NULL;
        struct model_config c;
        bool raises = json_object_get(one, "raises"), opens = open_with(keys, &c, &notes);
        if (opens == raises)
            fail_msg("%s: %s", text, opens ? "is not refused" : err_text());
        if (opens)
            same_rope(one, &c, text);
        if (opens)
            same_table(one, &c, text);
        n_raises += raises;
        free(notes);
        free(text);
    }
    assert_int_equal(i, 46);
    assert_int_equal(n_raises, 7);
    json_decref(root);
}

/* What is said, and the kinds that are refused wherever they stand. `says` "" : nothing at all. */
static void test_rope_notes(void **state)
{
    (void)state;
#define LIN "{\"rope_type\": \"linear\", \"factor\": 4}"
    static const struct {
        const char *keys;
        bool opens;
        const char *says;
    } cases[] = {
        {"{\"rope_scaling\": " LIN ", \"rope_theta\": 5000}", true, ""},
        {"{\"rope_scaling\": " LIN ", \"rope_parameters\": " LIN "}", true, ""},
        {"{\"rope_scaling\": " LIN ", \"rope_parameters\": {\"rope_theta\": 7}}", true,
         "'rope_scaling' counts and 'rope_parameters' beside it does not"},
        {"{\"rope_parameters\": {\"rope_theta\": 7}, \"rope_theta\": 8}", true,
         "'rope_theta' 7 in 'rope_parameters' counts and 8 at the top level does not"},
        {"{\"rope_parameters\": {\"rope_theta\": 7}, \"rope_theta\": 7}", true, ""},
        {"{\"rope_scaling\": {\"rope_type\": \"linear\", \"type\": \"default\", \"factor\": 2}}", true,
         "'rope_type' 'linear' in 'rope_scaling' counts and 'type' 'default' does not"},
        {"{\"rope_scaling\": {\"factor\": 2}}", true, "'factor' in 'rope_scaling' does not count"},
        {"{\"dtype\": \"float16\", \"torch_dtype\": \"bfloat16\"}", true, "'dtype' counts"},
        {"{\"rope_scaling\": {\"rope_type\": \"dynamic\", \"factor\": 4}}", false,
         "rope_scaling.rope_type: rope "
         "scaling 'dynamic'"},
        {"{\"rope_scaling\": {\"rope_type\": \"default\", \"type\": \"longrope\"}}", false,
         "rope_scaling.type"},
        {"{\"rope_scaling\": " LIN ", \"rope_parameters\": {\"rope_type\": \"longrope\"}}", false,
         "rope_parameters.rope_type: rope scaling 'longrope'"},
        {"{\"rope_parameters\": {\"full_attention\": {\"rope_type\": \"longrope\"}}}", false,
         "full_attention.rope_type: rope scaling 'longrope'"},
        {"{\"rope_parameters\": {\"full_attention\": " LIN "}}", false, "one object per layer type"},
        {"{\"rope_parameters\": {\"rope_type\": \"default\", \"partial_rotary_factor\": 0.5}}", false,
         "partial_rotary_factor"},
    };
#undef LIN
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *keys = json_loads(cases[i].keys, 0, NULL);
        struct model_config c;
        char *notes = NULL;
        assert_non_null(keys);
        bool opens = open_with(keys, &c, &notes), quiet = !*cases[i].says;
        const char *said = opens ? notes : err_text();
        if (opens != cases[i].opens || (quiet ? *said != 0 : !strstr(said, cases[i].says)) ||
            (opens && !quiet && strchr(said, '\n') != said + strlen(said) - 1))
            fail_msg("%s: %s: %s", cases[i].keys, opens ? "opens" : "is refused", said);
        free(notes);
        json_decref(keys);
    }
}

/* A model with both objects is the model that the one which counts says, to the hash. */
static void test_rope_both(void **state)
{
    (void)state;
    char *dir = copy_of("fixtures/model/linear"), *path = file_join(dir, "config.json");
    struct identity one = identify(dir);
    json_t *root = load_json(path);
    json_object_set_new(root, "rope_parameters",
                        json_pack("{s:s, s:f}", "rope_type", "default", "rope_theta", 10000.0));
    assert_int_equal(json_dump_file(root, path, 0), 0);
    struct identity both = identify(dir);
    assert_true(same_hash(&one, &both));
    json_object_del(root, "rope_scaling");
    assert_int_equal(json_dump_file(root, path, 0), 0);
    both = identify(dir);
    assert_true(!same_hash(&one, &both));
    json_decref(root);
    free(path);
    scratch_remove(dir);
}

/* ---- an output head that should not be there ---- */

/* Two matrices of 300 x 2 values, the head with `differs` in its last byte. */
static void put_head(const char *dir, char differs)
{
    static const char header[] =
        "{\"model.embed_tokens.weight\":{\"dtype\":\"BF16\",\"shape\":[300,2],\"data_offsets\":[0,1200]},"
        "\"lm_head.weight\":{\"dtype\":\"BF16\",\"shape\":[300,2],\"data_offsets\":[1200,2400]}}";
    char data[8 + sizeof header - 1 + 2400] = {0};
    uint64_t n = sizeof header - 1;
    memcpy(data, &n, 8);
    memcpy(data + 8, header, n);
    data[sizeof data - 1] = differs;
    scratch_put(dir, "model.safetensors", data, sizeof data);
}

static void test_tied(void **state)
{
    (void)state;
    char *dir = copy_of("fixtures/model/linear");
    scratch_text(
        dir, "config.json",
        "{\"model_type\": \"llama\", \"hidden_size\": 64, \"intermediate_size\": 96, \"vocab_size\": 300, "
        "\"num_hidden_layers\": 2, \"num_attention_heads\": 4, \"tie_word_embeddings\": true}");
    for (char differs = 0; differs < 2; differs++) {
        struct model_file *f;
        put_head(dir, differs);
        OK(model_file_open(&f, dir));
        assert_int_equal(model_file_config(f)->tied, !differs);
        assert_non_null(strstr(model_file_notes(f), differs ? "differ from the embeddings: it is used"
                                                            : "it equals the embeddings"));
        model_file_close(f);
    }
    scratch_remove(dir);
}

/* ---- stop ids ---- */

static void stops(const char *path, const char *want)
{
    struct model_file *f;
    const int32_t *ids;
    struct str got = {0};
    OK(model_file_open(&f, path));
    int n = model_file_stop_ids(f, &ids);
    for (int i = 0; i < n; i++)
        str_printf(&got, "%s%d", i ? " " : "", ids[i]);
    assert_string_equal(str_c(&got), want);
    str_free(&got);
    model_file_close(f);
}

static void set_eos(const char *dir, const char *eos)
{
    char *path = file_join(dir, "config.json");
    json_t *root = load_json(path), *v = json_loads(eos, JSON_DECODE_ANY, NULL);
    json_object_set_new(root, "eos_token_id", v);
    assert_int_equal(json_dump_file(root, path, 0), 0);
    json_decref(root);
    free(path);
}

static void test_stop_ids(void **state)
{
    (void)state;
    struct model_file *f;
    char *dir = copy_of("fixtures/model/linear");
    stops(dir, "");
    set_eos(dir, "26");
    stops(dir, "26");
    set_eos(dir, "[26, 0]");
    stops(dir, "0 26");
    scratch_text(dir, "generation_config.json", "{\"eos_token_id\": [9, 3]}");
    stops(dir, "3 9"); /* it alone counts */
    scratch_text(dir, "generation_config.json", "{\"bos_token_id\": 1}");
    stops(dir, "");
    scratch_text(dir, "generation_config.json", "{\"eos_token_id\": [\"x\"]}");
    assert_int_equal(model_file_open(&f, dir), ERR_INPUT);
    assert_non_null(strstr(err_text(), "generation_config.json: eos_token_id"));
    scratch_remove(dir);
}

/* The fixture with keys put in front of its own and one token renamed. */
static char *gguf_with(const char *dir, const char *name, int32_t eot, bool end_text)
{
    char *data, key[] = "general.name", id[] = "tokenizer.ggml.eot_token_id", value[22] = {0}, *out;
    size_t n;
    uint64_t n_kv, len;
    uint32_t text = 8, u32 = 4;
    struct str s = {0};
    OK(file_read("fixtures/model/gguf/model.gguf", &data, &n));
    memcpy(&n_kv, data + 16, 8);
    n_kv += 2;
    memcpy(data + 16, &n_kv, 8);
    for (size_t i = 0; end_text && i + 6 < n; i++)
        if (!memcmp(data + i, "tok299", 6))
            memcpy(data + i, "_<EOT>", 6);
    snprintf(value, sizeof value, "%-21s",
             name); /* makes the new keys 96 bytes, so that the data stays aligned */
    str_addn(&s, data, 24);
    str_addn(&s, (len = strlen(key), &len), 8), str_add(&s, key), str_addn(&s, &text, 4);
    str_addn(&s, (len = strlen(value), &len), 8), str_add(&s, value);
    str_addn(&s, (len = strlen(id), &len), 8), str_add(&s, id), str_addn(&s, &u32, 4), str_addn(&s, &eot, 4);
    str_addn(&s, data + 24, n - 24);
    scratch_put(dir, "x.gguf", s.data, s.n);
    str_free(&s);
    free(data);
    out = file_join(dir, "x.gguf");
    return out;
}

static void test_gguf(void **state)
{
    (void)state;
    char *dir = scratch_make(), *path = gguf_with(dir, "A Mistral model", 17, true);
    struct model_file *f;
    stops("fixtures/model/gguf/model.gguf", "");
    stops(path, "17 299");
    OK(model_file_open(&f, path));
    assert_true(model_file_mentions(f, "mistral"));
    assert_false(model_file_mentions(f, "llama"));
    model_file_close(f);
    free(path);
    path = gguf_with(dir, "A model", 17, false);
    stops(path, "17");
    OK(model_file_open(&f, path));
    assert_false(model_file_mentions(f, "mistral"));
    model_file_close(f);
    free(path);
    scratch_remove(dir);
}

/* ---- files that are none ---- */

static void test_stand_ins(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "model.safetensors", "x.gguf"};
    static const char *const kinds[][2] = {
        {"", "is empty (0 bytes)"},
        {"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 4\n", "is a Git LFS pointer"},
        {"\xef\xbb\xbf\n <!DOCTYPE HTML>\n<html><body>Sign in</body></html>", "is an HTML page"},
        {"<html lang=\"en\">", "is an HTML page"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
            char *dir = copy_of("fixtures/model/linear"), *path = file_join(dir, names[i]);
            struct model_file *f;
            scratch_text(dir, names[i], kinds[k][0]);
            int rc = model_file_open(&f, strstr(names[i], ".gguf") ? path : dir);
            if (rc != ERR_INPUT || !strstr(err_text(), kinds[k][1]) || !strstr(err_text(), path))
                fail_msg("%s gave %d: %s", names[i], rc, err_text());
            free(path);
            scratch_remove(dir);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_identity),     cmocka_unit_test(test_samples),
        cmocka_unit_test(test_weights_hash), cmocka_unit_test(test_rope),
        cmocka_unit_test(test_rope_notes),   cmocka_unit_test(test_rope_both),
        cmocka_unit_test(test_tied),         cmocka_unit_test(test_stop_ids),
        cmocka_unit_test(test_gguf),         cmocka_unit_test(test_stand_ins),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
