/* GGUF files beyond one plain file: the quantised types against the gguf package, models in parts. */
#include "base/mem.h"
#include "base/str.h"
#include "expect.h"
#include "model/gguf.h"
#include "model/model.h"
#include "scratch.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define FIXTURE "fixtures/model/gguf/"

static uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9E3779B97F4A7C15);
    z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB);
    return z ^ (z >> 31);
}

static int32_t type_named(const char *name)
{
    for (int i = 0; ggml_type_at(i) >= 0; i++)
        if (!strcmp(ggml_type_name(ggml_type_at(i)), name))
            return ggml_type_at(i);
    fail_msg("no type %s", name);
    return -1;
}

/* One random block as tests/oracle/gguf_types.py makes it. */
static void random_block(unsigned char *block, int64_t bytes, int32_t type, uint64_t *state)
{
    for (int64_t at = 0; at < bytes; at += 8) {
        uint64_t word = splitmix64(state);
        memcpy(block + at, &word, (size_t)(bytes - at < 8 ? bytes - at : 8));
    }
    bool min = type == GGML_Q4_1 || type == GGML_Q5_1 || type == GGML_Q4_K || type == GGML_Q5_K;
    block[type == GGML_Q6_K ? 209 : 1] &= 0xBF;
    if (min)
        block[3] &= 0xBF;
}

static void check_type(const char *name, int64_t n, const char *want)
{
    int32_t type = type_named(name);
    int64_t values, bytes;
    assert_true(ggml_type_block(type, &values, &bytes));
    uint64_t state = (uint64_t)type;
    unsigned char block[256];
    float out[256];
    char got[33];
    XXH3_state_t *h = XXH3_createState();
    XXH3_128bits_reset(h);
    for (int64_t i = 0; i < n; i++) {
        random_block(block, bytes, type, &state);
        ggml_expand(type, block, 0, values, out);
        XXH3_128bits_update(h, out, (size_t)values * sizeof *out);
    }
    XXH128_hash_t sum = XXH3_128bits_digest(h);
    XXH3_freeState(h);
    snprintf(got, sizeof got, "%016" PRIx64 "%016" PRIx64, sum.high64, sum.low64);
    if (strcmp(got, want) != 0)
        fail_msg("%s: %" PRId64 " blocks expand to other values than the gguf package's", name, n);
}

static void test_types(void **state)
{
    (void)state;
    FILE *list = fopen(FIXTURE "types.txt", "r");
    assert_non_null(list);
    char name[16], want[33];
    long n;
    int types = 0;
    while (fscanf(list, "%15s %ld %32s", name, &n, want) == 3) {
        check_type(name, n, want);
        types++;
    }
    fclose(list);
    assert_int_equal(types, 9);
}

/* ---- a model in parts, cut from the fixture ---- */

static void put(struct str *s, const void *p, size_t n)
{
    str_addn(s, p, n);
}

static void put_u64(struct str *s, uint64_t v)
{
    put(s, &v, sizeof v);
}

static void put_name(struct str *s, const char *name)
{
    put_u64(s, strlen(name));
    put(s, name, strlen(name));
}

static void put_key(struct str *s, const char *key, uint32_t v)
{
    uint32_t u32 = 4;
    put_name(s, key);
    put(s, &u32, 4);
    put(s, &v, 4);
}

/* The keys of a header end where the first tensor's description begins. */
static size_t end_of_keys(const struct gguf *g)
{
    const struct file_map *m = gguf_map(g, 0);
    size_t end = m->bytes;
    for (int64_t i = 0; i < gguf_n_tensor(g); i++) {
        struct str s = {0};
        put_name(&s, gguf_tensor_at(g, i)->name);
        const unsigned char *p = memmem(m->data, m->bytes, s.data, s.n);
        assert_non_null(p);
        end = (size_t)(p - m->data) < end ? (size_t)(p - m->data) : end;
        str_free(&s);
    }
    return end;
}

struct cut {
    uint32_t no, count;
    int64_t from, to; /* tensors [from, to) in the order of their names */
    bool keys;        /* the model's own keys too */
};

static void put_tensors(struct str *s, const struct gguf *g, const struct cut *c)
{
    uint64_t at = 0;
    for (int64_t i = c->from; i < c->to; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        uint32_t n_dim = (uint32_t)t->n_dim, type = (uint32_t)t->type;
        put_name(s, t->name);
        put(s, &n_dim, 4);
        put(s, t->n, 8 * n_dim);
        put(s, &type, 4);
        put_u64(s, at);
        at += (t->bytes + 31) / 32 * 32;
    }
    for (int64_t i = c->from; i < c->to; i++) {
        while (s->n % 32)
            str_addc(s, 0);
        put(s, gguf_map(g, 0)->data + gguf_tensor_at(g, i)->at, gguf_tensor_at(g, i)->bytes);
    }
}

static void write_part(const char *dir, const char *name, const struct gguf *g, const struct cut *c)
{
    uint64_t n_keys = 3;
    const unsigned char *data = gguf_map(g, 0)->data;
    struct str s = {0};
    if (c->keys) {
        memcpy(&n_keys, data + 16, 8);
        n_keys += 3;
    }
    put(&s, data, 8); /* magic and version */
    put_u64(&s, (uint64_t)(c->to - c->from));
    put_u64(&s, n_keys);
    if (c->keys)
        put(&s, data + 24, end_of_keys(g) - 24);
    put_key(&s, "split.no", c->no);
    put_key(&s, "split.count", c->count);
    put_key(&s, "split.tensors.count", (uint32_t)gguf_n_tensor(g));
    put_tensors(&s, g, c);
    scratch_put(dir, name, s.data, s.n);
    str_free(&s);
}

static int open_parts(const char *dir, const char *name, struct model_file **f)
{
    char *path = file_join(dir, name);
    int rc = model_file_open(f, path);
    free(path);
    return rc;
}

static void refused(const char *dir, const char *name, const char *says)
{
    struct model_file *f;
    assert_int_equal(open_parts(dir, name, &f), ERR_INPUT);
    if (!strstr(err_text(), says))
        fail_msg("'%s' does not say '%s'", err_text(), says);
}

/* Every tensor of the whole file is there, with the same bytes. */
static void same_tensors(const struct model_file *f, const struct gguf *g)
{
    assert_int_equal(gguf_n_tensor(model_file_gguf(f)), gguf_n_tensor(g));
    for (int64_t i = 0; i < gguf_n_tensor(g); i++) {
        const struct gguf_tensor *a = gguf_tensor_at(g, i), *b = gguf_tensor_at(model_file_gguf(f), i);
        assert_string_equal(a->name, b->name);
        assert_int_equal(a->bytes, b->bytes);
        assert_memory_equal(gguf_map(g, 0)->data + a->at, gguf_map(model_file_gguf(f), b->map)->data + b->at,
                            a->bytes);
    }
}

static void test_parts(void **state)
{
    (void)state;
    struct gguf *g;
    struct model_file *f;
    OK(gguf_open(&g, FIXTURE "model.gguf"));
    int64_t n = gguf_n_tensor(g);
    char *d = scratch_make();
    const struct cut cuts[3] = {{0, 3, 0, 0, true}, {1, 3, 0, n / 2, false}, {2, 3, n / 2, n, false}};
    write_part(d, "m-00001-of-00003.gguf", g, &cuts[0]);
    write_part(d, "m-00002-of-00003.gguf", g, &cuts[1]);
    refused(d, "m-00001-of-00003.gguf", "m-00003-of-00003.gguf: part 3 of 3 of the model is missing");
    write_part(d, "m-00003-of-00003.gguf", g, &cuts[2]);
    OK(open_parts(d, "m-00001-of-00003.gguf", &f));
    same_tensors(f, g);
    model_file_close(f);
    refused(d, "m-00002-of-00003.gguf", "is part 2 of 3: name the first one");
    write_part(d, "m-00003-of-00003.gguf", g, &cuts[1]);
    refused(d, "m-00001-of-00003.gguf", "holds part 2 of 3, its name says part 3 of 3");
    const struct cut less = {2, 3, n / 2 + 1, n, false}, twice = {2, 3, n / 2 - 1, n, false};
    write_part(d, "m-00003-of-00003.gguf", g, &less);
    refused(d, "m-00001-of-00003.gguf", "but the parts hold");
    write_part(d, "m-00003-of-00003.gguf", g, &twice);
    refused(d, "m-00001-of-00003.gguf", "occurs twice");
    write_part(d, "other.gguf", g, &cuts[0]);
    refused(d, "other.gguf", "its name must end in -00001-of-00003.gguf");
    scratch_remove(d);
    gguf_close(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types),
        cmocka_unit_test(test_parts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
