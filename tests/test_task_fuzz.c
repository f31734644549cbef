/* Damaged jsonl files, prediction files and length lists: refused or read, never a crash (run it under
 * KVS_SANITIZE). usage: test_task_fuzz [ROUNDS [SEED]] */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "task/score_file.h"
#include "task/task.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

struct fuzz {
    uint64_t rng;
    int rounds;
    char path[64];
};

static uint32_t below(struct fuzz *f, size_t n)
{
    f->rng = f->rng * 6364136223846793005U + 1442695040888963407U;
    return (uint32_t)((f->rng >> 33) % n);
}

/* Flips, cuts, doubles or splices some bytes; dictionary entries are what JSON and the tasks look for. */
static size_t damage(struct fuzz *f, char *s, size_t n, size_t cap)
{
    static const char *const dictionary[] = {"\"",       "{",
                                             "}",        "[",
                                             "]",        ",",
                                             ":",        "\\u0000",
                                             "\\ud800",  "null",
                                             "NaN",      "1e999",
                                             "-1",       "99999999999999999999",
                                             "\xFF",     "\n",
                                             "{input}",  "\"_id\"",
                                             "\"pred\"", "true",
                                             "\\",       "\"answers\":[]",
                                             "[[[[[[[["};
    for (uint32_t k = 1 + below(f, 4); k > 0 && n > 0; k--) {
        size_t at = below(f, n), len = 1 + below(f, 20);
        const char *word = dictionary[below(f, sizeof dictionary / sizeof *dictionary)];
        size_t n_word = strlen(word);
        len = len < n - at ? len : n - at;
        switch (below(f, 4)) {
        case 0:
            s[at] = (char)below(f, 256);
            break;
        case 1:
            memmove(s + at, s + at + len, n - at - len);
            n -= len;
            break;
        case 2:
            n = below(f, 8) ? n : at;
            break;
        default:
            if (n + n_word > cap)
                break;
            memmove(s + at + n_word, s + at, n - at);
            memcpy(s + at, word, n_word);
            n += n_word;
        }
    }
    return n;
}

static void write_bytes(const char *path, const char *s, size_t n)
{
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(s, 1, n, out), n);
    assert_int_equal(fclose(out), 0);
}

static int open_data(const struct task_type *type, const char *key, const char *value, struct task **t)
{
    char block[256] = {0};
    param_defaults(type->params, block);
    int rc = param_set(type->params, block, key, value, type->name);
    if (rc == 0)
        rc = task_open(t, type, block, NULL);
    param_free(type->params, block);
    return rc;
}

static void try_rows(const struct task_type *type, const char *path)
{
    struct task *t = NULL;
    int rc = open_data(type, "data", path, &t);
    assert_true(rc == 0 || (rc == ERR_INPUT && !t && err_text()[0]));
    for (int i = 0; i < (t ? task_count(t) : 0); i++) {
        double score = -1;
        struct score_extra extra[4];
        const char *answer = task_example(t, i)->context;
        task_score(t, i, answer, strlen(answer), &score, extra);
        assert_true(score >= 0 && score <= 1);
    }
    task_close(t);
}

static void try_predictions(const struct task_type *type, const char *path)
{
    struct file_scores s;
    int rc = score_file(&s, type, path);
    assert_true(rc == ERR_INPUT || (rc == 0 && s.score >= 0 && s.score <= 100));
    file_scores_free(&s);
}

static void files(void **state)
{
    struct fuzz *f = *state;
    char *rows = NULL, *preds = NULL;
    size_t n_rows = 0, n_preds = 0;
    assert_int_equal(file_read("fixtures/task/longbench.jsonl", &rows, &n_rows), 0);
    assert_int_equal(file_read("fixtures/task/preds.jsonl", &preds, &n_preds), 0);
    size_t cap = n_rows + n_preds + 1000;
    char *work = mem_alloc(cap, 1);
    for (int i = 0; i < f->rounds; i++) {
        bool score = i % 4 == 0;
        size_t n = score ? n_preds : n_rows;
        memcpy(work, score ? preds : rows, n);
        n = damage(f, work, n, cap);
        write_bytes(f->path, work, n);
        const struct task_type *type = task_type_at((int)below(f, 17));
        if (score)
            try_predictions(type, f->path);
        else if (type->traits.kind == TASK_LONGBENCH)
            try_rows(type, f->path);
    }
    free(rows);
    free(preds);
    free(work);
}

static void length_lists(void **state)
{
    struct fuzz *f = *state;
    static const char letters[] = "0123456789x-+,;/ []";
    const struct task_type *type = task_type_find("passkey");
    for (int i = 0; i < f->rounds; i++) {
        char text[16] = "";
        for (uint32_t k = below(f, 8), j = 0; j < k; j++)
            text[j] = letters[below(f, sizeof letters - 1)];
        struct task *t = NULL;
        char block[256] = {0};
        param_defaults(type->params, block);
        int rc = param_set(type->params, block, "lengths", text, "passkey");
        if (rc == 0)
            rc = param_parse(type->params, block, "unit=tokens", "passkey");
        if (rc == 0)
            rc = task_open(&t, type, block, NULL);
        assert_int_equal(rc, ERR_INPUT); /* a good list, too, for want of a counter: nothing is built */
        param_free(type->params, block);
    }
}

int main(int argc, char **argv)
{
    static struct fuzz f = {.rng = 1, .rounds = 600, .path = "/tmp/kvs-task-fuzz-XXXXXX"};
    if (argc > 1)
        f.rounds = atoi(argv[1]);
    if (argc > 2)
        f.rng = (uint64_t)atoll(argv[2]);
    int fd = mkstemp(f.path);
    if (fd < 0 || close(fd) != 0)
        return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(files, &f),
                                       cmocka_unit_test_prestate(length_lists, &f)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    unlink(f.path);
    return failed;
}
