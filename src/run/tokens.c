/* The tokenizer that belongs to a model path. */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "model/gguf.h"
#include "model/stop_ids.h"
#include "run/run.h"

#include <stdlib.h>
#include <string.h>

/* Tables copied out of a GGUF header for tok_open_gguf; all owned. */
struct vocab {
    char *model, *pre;
    char **token, **merge;
    int32_t *type;
    float *score;
    int64_t n_token, n_merge;
};

static void vocab_free(struct vocab *v)
{
    for (int64_t i = 0; v->token && i < v->n_token; i++)
        free(v->token[i]);
    for (int64_t i = 0; v->merge && i < v->n_merge; i++)
        free(v->merge[i]);
    free(v->token);
    free(v->merge);
    free(v->type);
    free(v->score);
    free(v->model);
    free(v->pre);
}

static int texts(const struct gguf *g, const char *key, char ***out, int64_t *n)
{
    struct gguf_text *v;
    TRY(gguf_array_text(g, key, &v, n));
    *out = mem_alloc((size_t)*n, sizeof **out);
    for (int64_t i = 0; i < *n; i++)
        (*out)[i] = mem_strndup(v[i].s, v[i].n);
    free(v);
    if (*n > INT32_MAX)
        return err_set(ERR_INPUT, "%s: %s has too many entries", gguf_path(g), key);
    return 0;
}

static int text(const struct gguf *g, const char *key, char **out)
{
    struct gguf_text v;
    TRY(gguf_text(g, key, &v));
    *out = mem_strndup(v.s, v.n);
    return 0;
}

static int same_count(const struct gguf *g, const char *key, int64_t got, int64_t want)
{
    if (got != want)
        return err_set(ERR_INPUT, "%s: %s has %lld entries, the vocabulary %lld", gguf_path(g), key,
                       (long long)got, (long long)want);
    return 0;
}

static int read_vocab(const struct gguf *g, struct vocab *v)
{
    int64_t n;
    TRY(text(g, "tokenizer.ggml.model", &v->model));
    if (gguf_has(g, "tokenizer.ggml.pre"))
        TRY(text(g, "tokenizer.ggml.pre", &v->pre));
    TRY(texts(g, "tokenizer.ggml.tokens", &v->token, &v->n_token));
    if (gguf_has(g, "tokenizer.ggml.token_type")) {
        TRY(gguf_array_i32(g, "tokenizer.ggml.token_type", &v->type, &n));
        TRY(same_count(g, "tokenizer.ggml.token_type", n, v->n_token));
    }
    if (gguf_has(g, "tokenizer.ggml.scores")) {
        TRY(gguf_array_f32(g, "tokenizer.ggml.scores", &v->score, &n));
        TRY(same_count(g, "tokenizer.ggml.scores", n, v->n_token));
    }
    if (gguf_has(g, "tokenizer.ggml.merges"))
        TRY(texts(g, "tokenizer.ggml.merges", &v->merge, &v->n_merge));
    return 0;
}

static int32_t id_or_none(const struct gguf *g, const char *key)
{
    int64_t v;
    return gguf_has(g, key) && gguf_int(g, key, &v) == 0 && v >= 0 && v <= INT32_MAX ? (int32_t)v : -1;
}

static int flag_or_none(const struct gguf *g, const char *key)
{
    bool v;
    return gguf_has(g, key) && gguf_bool(g, key, &v) == 0 ? v : -1;
}

static int open_gguf(struct tok **t, const struct gguf *g)
{
    struct vocab v = {0};
    int rc = read_vocab(g, &v);
    if (rc == 0) {
        const struct tok_gguf in = {
            .model = v.model,
            .pre = v.pre,
            .token = (const char *const *)v.token,
            .type = v.type,
            .score = v.score,
            .n_token = (int32_t)v.n_token,
            .merge = (const char *const *)v.merge,
            .n_merge = (int32_t)v.n_merge,
            .bos = id_or_none(g, "tokenizer.ggml.bos_token_id"),
            .eos = id_or_none(g, "tokenizer.ggml.eos_token_id"),
            .unk = id_or_none(g, "tokenizer.ggml.unknown_token_id"),
            .add_bos = flag_or_none(g, "tokenizer.ggml.add_bos_token"),
            .add_eos = flag_or_none(g, "tokenizer.ggml.add_eos_token"),
            .add_space_prefix = flag_or_none(g, "tokenizer.ggml.add_space_prefix"),
        };
        rc = tok_open_gguf(t, &in, gguf_path(g));
    }
    vocab_free(&v);
    return rc;
}

/* The tokenizer alone, and what ends an answer of its model. */
static int open_both(struct tok **t, struct stop_ids *stop, const char *model_path)
{
    if (file_is_dir(model_path)) {
        TRY(tok_open_dir(t, model_path));
        return stop_ids_dir(stop, model_path);
    }
    if (file_ends_with(model_path, ".pth")) {
        char *slash, *dir = mem_strdup(model_path);
        if ((slash = strrchr(dir, '/')))
            *slash = 0;
        int rc = tok_open_dir(t, slash ? dir : ".");
        free(dir);
        return rc;
    }
    struct gguf *g;
    TRY(gguf_open(&g, model_path));
    int rc = open_gguf(t, g);
    if (rc == 0)
        rc = stop_ids_gguf(stop, g);
    gguf_close(g);
    return rc;
}

/* The tokenizer of a folder of its own. */
static int open_apart(struct tok **t, struct stop_ids *stop, const char *model_path, const char *folder)
{
    struct gguf *g;
    if (!file_is_dir(folder))
        return err_set(ERR_INPUT, "tokenizer: %s is no folder (one with tokenizer.json is expected)", folder);
    TRY(tok_open_dir(t, folder));
    if (file_is_dir(model_path))
        return stop_ids_dir(stop, model_path);
    if (file_ends_with(model_path, ".pth"))
        return 0;
    TRY(gguf_open(&g, model_path));
    int rc = stop_ids_gguf(stop, g);
    gguf_close(g);
    return rc;
}

int run_tok_open(struct tok **t, const char *model_path, const char *folder)
{
    struct stop_ids stop = {0};
    *t = NULL;
    int rc = folder ? open_apart(t, &stop, model_path, folder) : open_both(t, &stop, model_path);
    if (rc == 0) {
        tok_set_stop_ids(*t, stop.v, stop.n);
    } else {
        tok_close(*t);
        *t = NULL;
    }
    stop_ids_free(&stop);
    return rc;
}

static int64_t count(void *ctx, const char *bytes, size_t n_bytes)
{
    int32_t *ids;
    int64_t n;
    TRY(tok_encode(ctx, bytes, n_bytes, false, &ids, &n));
    free(ids);
    return n;
}

struct token_counter run_token_counter(const struct tok *t)
{
    /* the counter only reads it */
    return (struct token_counter){count, (void *)(uintptr_t)t};
}
