#include "model/stop_ids.h"

#include "base/err.h"
#include "base/mem.h"
#include "model/file_int.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define ID_MAX ((1 << 24) - 1) /* no vocabulary is larger (tok/tok_int.h refuses ids above) */

void stop_ids_free(struct stop_ids *s)
{
    free(s->v);
    *s = (struct stop_ids){0};
}

static void add(struct stop_ids *s, int32_t id)
{
    int at = 0;
    while (at < s->n && s->v[at] < id)
        at++;
    if (at < s->n && s->v[at] == id)
        return;
    (void)MEM_PUSH(s->v, s->n, s->cap);
    memmove(s->v + at + 1, s->v + at, (size_t)(s->n - 1 - at) * sizeof *s->v);
    s->v[at] = id;
}

/* eos_token_id: a number, a list of numbers, or null. */
static int read_key(struct stop_ids *s, const json_t *root, const char *path)
{
    const json_t *v = json_object_get(root, "eos_token_id");
    size_t n = json_is_array(v) ? json_array_size(v) : v && !json_is_null(v);
    for (size_t i = 0; i < n; i++) {
        const json_t *e = json_is_array(v) ? json_array_get(v, i) : v;
        json_int_t id = json_integer_value(e);
        if (!json_is_integer(e) || id < 0 || id > ID_MAX)
            return err_set(ERR_INPUT, "%s: eos_token_id: a token id or a list of token ids is expected",
                           path);
        add(s, (int32_t)id);
    }
    return 0;
}

int stop_ids_dir(struct stop_ids *s, const char *dir)
{
    *s = (struct stop_ids){0};
    char *path = file_join(dir, "generation_config.json");
    if (!file_exists(path)) {
        free(path);
        path = file_join(dir, "config.json");
    }
    json_t *root = NULL;
    int rc = file_exists(path) ? file_json(path, &root) : 0;
    if (rc == 0)
        rc = read_key(s, root, path);
    json_decref(root);
    free(path);
    if (rc < 0)
        stop_ids_free(s);
    return rc;
}

/* Texts of tokens that end an answer whatever the header says of them, as llama.cpp has them
 * (src/llama-vocab.cpp, what it puts into special_eog_ids); the last seven are those of its
 * fill-in-the-middle tokens that count there too. */
static const char *const end_text[] = {
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    ("<\xef\xbd\x9c" /* in two parts: \x9ce would be one number */
     "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"),
    "[e~[",
    "<|fim_pad|>",
    "<fim-pad>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<|file_sep|>",
};

static bool ends_text(const struct gguf_text *t)
{
    for (size_t i = 0; i < sizeof end_text / sizeof *end_text; i++)
        if (strlen(end_text[i]) == t->n && memcmp(end_text[i], t->s, t->n) == 0)
            return true;
    return false;
}

int stop_ids_gguf(struct stop_ids *s, const struct gguf *g)
{
    static const char *const key[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                                      "tokenizer.ggml.eom_token_id"};
    *s = (struct stop_ids){0};
    struct gguf_text *text;
    int64_t n, id;
    for (size_t i = 0; i < sizeof key / sizeof *key; i++)
        if (gguf_has(g, key[i]) && gguf_int(g, key[i], &id) == 0 && id >= 0 && id <= ID_MAX)
            add(s, (int32_t)id);
    if (gguf_count(g, "tokenizer.ggml.tokens") < 0)
        return 0;
    int rc = gguf_array_text(g, "tokenizer.ggml.tokens", &text, &n);
    if (rc < 0) {
        stop_ids_free(s);
        return rc;
    }
    for (int64_t i = 0; i < n && i <= ID_MAX; i++)
        if (ends_text(&text[i]))
            add(s, (int32_t)i);
    free(text);
    return 0;
}
