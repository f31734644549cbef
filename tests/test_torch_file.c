/* Weights in torch.save's format against what torch itself read from the tensors it wrote
 * (tests/oracle/torch_files.py). */
#include "base/mem.h"
#include "expect.h"
#include "model/file_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FOLDER "fixtures/model/torch/"

/* The tensors of bytes in memory; freed by close_file. */
static int open_bytes(struct model_file *f, const void *data, size_t n, const char *path)
{
    const struct file_map m = {data, n};
    *f = (struct model_file){0};
    return torch_file_add(f, &m, 0, path);
}

static void close_file(struct model_file *f)
{
    for (int i = 0; i < f->n; i++)
        free(f->t[i].name);
    free(f->t);
}

static void check_tensor(const struct model_file *f, const char *name, const char *type, const char *shape,
                         const char *want)
{
    const struct file_tensor *ft = file_tensor_find(f, name);
    char got[65], shape_got[64] = "";
    int64_t count = 1;
    if (!ft)
        fail_msg("no tensor %s", name);
    for (int i = 0; i < ft->t.n_dim; i++) {
        count *= ft->t.n[i];
        snprintf(shape_got + strlen(shape_got), 32, "%s%d", i ? "x" : "", (int)ft->t.n[i]);
    }
    assert_string_equal(ggml_type_name(ft->t.type), type);
    assert_string_equal(ft->t.n_dim ? shape_got : "1", shape);
    float *x = mem_alloc((size_t)count, sizeof *x);
    ggml_expand(ft->t.type, ft->t.data, 0, count, x);
    file_sha256(x, (size_t)count * sizeof *x, got);
    assert_string_equal(got, want);
    free(x);
}

static void test_values(void **state)
{
    (void)state;
    char file[64], name[64], type[8], shape[32], want[65], path[128];
    FILE *list = fopen(FOLDER "values.txt", "r");
    int n = 0;
    assert_non_null(list);
    while (fscanf(list, "%63s %63s %7s %31s %64s", file, name, type, shape, want) == 5) {
        struct model_file f;
        char *data;
        size_t bytes;
        snprintf(path, sizeof path, FOLDER "%s", file);
        OK(file_read(path, &data, &bytes));
        OK(open_bytes(&f, data, bytes, path));
        OK(file_tensor_sort(&f));
        check_tensor(&f, name, type, shape, want);
        close_file(&f);
        free(data);
        n++;
    }
    fclose(list);
    assert_int_equal(n, 26);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const cases[][2] = {
        {"evil.pth", "names posix.system"},
        {"strides.pth", "strides that are not row-major"},
        {"int64.pth", "names torch.LongStorage"},
        {"list.pth", "uses opcode 0x5d"},
        {"number.pth", "'w' is a number, not a tensor"},
        {"deflated.pth", "compressed or encrypted"},
        {"values.txt", "not a zip archive"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_file f;
        char *data, *path = mem_printf(FOLDER "%s", cases[i][0]);
        size_t bytes;
        OK(file_read(path, &data, &bytes));
        REFUSED(open_bytes(&f, data, bytes, path), cases[i][1]);
        close_file(&f);
        free(data);
        free(path);
    }
    assert_false(file_exists("/tmp/kvsweep-was-here"));
}

/* Cut anywhere, or with bytes changed anywhere: an error or tensors inside the bytes, never a crash. */
static void test_damaged(void **state)
{
    (void)state;
    char *data;
    size_t bytes;
    uint32_t x = 1;
    OK(file_read(FOLDER "zip64.bin", &data, &bytes));
    for (size_t n = 0; n < bytes; n += 7) {
        struct model_file f;
        char *cut = mem_dup(data, n + 1); /* of this very size, so that checkers see reads behind it */
        assert_true(open_bytes(&f, cut, n, "cut") < 0);
        close_file(&f);
        free(cut);
    }
    for (int round = 0; round < 4000; round++) {
        struct model_file f;
        char *bad = mem_dup(data, bytes);
        for (int k = 0; k < 1 + round % 3; k++) {
            x = x * 1664525u + 1013904223u;
            bad[(x >> 8) % bytes] ^= (char)(1u << (x >> 29));
        }
        if (open_bytes(&f, bad, bytes, "bad") == 0)
            for (int i = 0; i < f.n; i++)
                assert_true((const char *)f.t[i].t.data >= bad &&
                            (const char *)f.t[i].t.data + f.t[i].t.bytes <= bad + bytes);
        close_file(&f);
        free(bad);
    }
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_damaged),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
