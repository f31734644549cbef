/* Drives src/tok for tok_compare.py and tok_tiktoken.py. usage: tok_drive FOLDER | VOCABULARY.json (a GGUF
 * file's tokenizer keys) | FILE.tiktoken; stdin, one JSON object per line: {"text": T, "special": B} → [ids];
 * {"ids": [..], "skip": B} → "text"; {"pieces": T} → ["piece", ..]; {"join": ["piece", ..]} → "text";
 * errors → {"error": E}. tok_drive MODEL --bench FILE: MB/s of encoding the file. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "tok/tok.h"

static const char **texts(const json_t *j, int32_t *n)
{
    *n = (int32_t)json_array_size(j);
    const char **v = mem_alloc((size_t)*n + 1, sizeof *v);
    for (int32_t i = 0; i < *n; i++)
        v[i] = json_string_value(json_array_get(j, (size_t)i));
    return v;
}

static int number(const json_t *j, const char *key)
{
    const json_t *v = json_object_get(j, key);
    return json_is_boolean(v) ? json_is_true(v) : json_is_integer(v) ? (int)json_integer_value(v) : -1;
}

static int open_json(struct tok **t, const char *path)
{
    json_t *j = json_load_file(path, 0, NULL);
    if (!j)
        return err_set(ERR_INPUT, "%s: no JSON", path);
    struct tok_gguf g = {0};
    const json_t *types = json_object_get(j, "token_type"), *scores = json_object_get(j, "scores");
    g.model = json_string_value(json_object_get(j, "model"));
    g.pre = json_string_value(json_object_get(j, "pre"));
    const char **token = texts(json_object_get(j, "tokens"), &g.n_token);
    const char **merge = texts(json_object_get(j, "merges"), &g.n_merge);
    int32_t *type = mem_alloc((size_t)g.n_token + 1, sizeof *type);
    float *score = mem_alloc((size_t)g.n_token + 1, sizeof *score);
    for (int32_t i = 0; i < g.n_token; i++) {
        type[i] = (int32_t)json_integer_value(json_array_get(types, (size_t)i));
        score[i] = (float)json_number_value(json_array_get(scores, (size_t)i));
    }
    g.token = token;
    g.merge = merge;
    g.type = types ? type : NULL;
    g.score = scores ? score : NULL;
    g.bos = number(j, "bos_token_id");
    g.eos = number(j, "eos_token_id");
    g.unk = number(j, "unknown_token_id");
    g.add_bos = number(j, "add_bos_token");
    g.add_eos = number(j, "add_eos_token");
    g.add_space_prefix = number(j, "add_space_prefix");
    int rc = tok_open_gguf(t, &g, path);
    free(token);
    free(merge);
    free(type);
    free(score);
    json_decref(j);
    return rc;
}

static json_t *answer_text(const struct tok *t, const json_t *q)
{
    const json_t *text = json_object_get(q, "text");
    int32_t *ids;
    int64_t n;
    int rc = tok_encode(t, json_string_value(text), json_string_length(text),
                        json_is_true(json_object_get(q, "special")), &ids, &n);
    if (rc < 0)
        return json_pack("{s:s}", "error", err_text());
    json_t *a = json_array();
    for (int64_t i = 0; i < n; i++)
        json_array_append_new(a, json_integer(ids[i]));
    free(ids);
    return a;
}

static json_t *answer_ids(const struct tok *t, const json_t *q)
{
    const json_t *list = json_object_get(q, "ids");
    size_t n = json_array_size(list);
    int32_t *ids = mem_alloc(n + 1, sizeof *ids);
    for (size_t i = 0; i < n; i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    char *text;
    size_t n_text = 0;
    int rc = tok_decode(t, ids, (int64_t)n, json_is_true(json_object_get(q, "skip")), &text, &n_text);
    json_t *a = rc < 0 ? json_pack("{s:s}", "error", err_text()) : json_stringn(text, n_text);
    free(ids);
    free(text);
    return a ? a : json_pack("{s:s}", "error", "decoded text is not UTF-8");
}

static json_t *answer_pieces(const struct tok *t, const json_t *text)
{
    struct tok_pieces p;
    if (tok_encode_pieces(t, json_string_value(text), json_string_length(text), &p) < 0)
        return json_pack("{s:s}", "error", err_text());
    json_t *a = json_array();
    for (size_t i = 0; i < p.n; i++)
        json_array_append_new(a, json_stringn(p.v[i].s, p.v[i].n));
    tok_pieces_free(&p);
    return a;
}

static json_t *answer_join(const struct tok *t, const json_t *list)
{
    int32_t n;
    const char **piece = texts(list, &n);
    char *text;
    int rc = tok_join(t, piece, (size_t)n, &text);
    json_t *a = rc < 0 ? json_pack("{s:s}", "error", err_text()) : json_string(text);
    free(piece);
    free(text);
    return a;
}

static json_t *answer(const struct tok *t, const json_t *q)
{
    if (json_object_get(q, "ids"))
        return answer_ids(t, q);
    if (json_object_get(q, "pieces"))
        return answer_pieces(t, json_object_get(q, "pieces"));
    if (json_object_get(q, "join"))
        return answer_join(t, json_object_get(q, "join"));
    return answer_text(t, q);
}

static void serve(const struct tok *t)
{
    char *line = NULL;
    size_t cap = 0;
    while (getline(&line, &cap, stdin) > 0) {
        json_t *q = json_loads(line, JSON_ALLOW_NUL, NULL);
        json_t *a = answer(t, q);
        json_dumpf(a, stdout, JSON_COMPACT | JSON_ENCODE_ANY);
        putchar('\n');
        json_decref(a);
        json_decref(q);
    }
    free(line);
}

static bool ends_with(const char *text, const char *end)
{
    size_t n = strlen(text), m = strlen(end);
    return n > m && strcmp(text + n - m, end) == 0;
}

static int open_any(struct tok **t, const char *path)
{
    if (ends_with(path, ".json"))
        return open_json(t, path);
    return ends_with(path, ".tiktoken") ? tok_open_tiktoken(t, path) : tok_open_dir(t, path);
}

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts); /* other work on the machine does not count */
    return (double)ts.tv_sec + 1e-9 * (double)ts.tv_nsec;
}

static int bench(const struct tok *t, const char *path)
{
    char *data;
    size_t bytes;
    TRY(file_read(path, &data, &bytes));
    for (int i = 0; i < 3; i++) {
        int32_t *ids;
        int64_t n;
        double start = now();
        TRY(tok_encode(t, data, bytes, false, &ids, &n));
        double s = now() - start;
        printf("%.1f MB/s (%zu bytes, %lld ids, %.3f s)\n", (double)bytes / s / 1e6, bytes, (long long)n, s);
        free(ids);
    }
    free(data);
    return 0;
}

int main(int argc, char **argv)
{
    struct tok *t = NULL;
    if (argc != 2 && !(argc == 4 && strcmp(argv[2], "--bench") == 0)) {
        fprintf(stderr, "usage: tok_drive FOLDER | VOCABULARY.json | FILE.tiktoken [--bench FILE]\n");
        return 2;
    }
    double start = now();
    int rc = open_any(&t, argv[1]);
    if (rc >= 0 && argc == 4) {
        printf("open: %.3f s\n", now() - start);
        rc = bench(t, argv[3]);
    } else if (rc >= 0) {
        serve(t);
    }
    if (rc < 0)
        fprintf(stderr, "tok_drive: %s\n", err_text());
    tok_close(t);
    return rc < 0;
}
