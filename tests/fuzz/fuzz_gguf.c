/* A GGUF file: keys of every kind, tensors; then as a model with its tokenizer and chat template. */
#include "fuzz.h"

#include "model/gguf.h"
#include "model/model.h"
#include "run/chat.h"
#include "run/run.h"
#include "tok/tok.h"

#include <stdlib.h>

static const char *const keys[] = {"general.architecture",        "llama.block_count",
                                   "tokenizer.ggml.tokens",       "tokenizer.ggml.scores",
                                   "tokenizer.ggml.token_type",   "llama.rope.freq_base",
                                   "tokenizer.ggml.add_bos_token"};

static void key(const struct gguf *g, const char *name)
{
    int64_t i, n;
    double x;
    bool b;
    struct gguf_text t, *texts = NULL;
    int32_t *ints = NULL;
    float *floats = NULL;
    gguf_int(g, name, &i);
    gguf_real(g, name, &x);
    gguf_bool(g, name, &b);
    if (gguf_text(g, name, &t) == 0)
        fuzz_touch(t.s, t.n);
    if (gguf_array_text(g, name, &texts, &n) == 0)
        for (i = 0; i < n; i++)
            fuzz_touch(texts[i].s, texts[i].n);
    gguf_array_i32(g, name, &ints, &n);
    gguf_array_f32(g, name, &floats, &n);
    free(texts);
    free(ints);
    free(floats);
}
static void model(const uint8_t *data, size_t n)
{
    const char *path;
    struct model_file *f = NULL;
    struct tok *t = NULL;
    int32_t *ids = NULL;
    int64_t n_ids;
    char *chat = NULL;
    fuzz_file("fuzz.gguf", data, n, &path);
    if (model_file_open(&f, path) == 0)
        model_file_close(f);
    if (run_tok_open(&t, path, NULL) == 0)
        tok_encode(t, "Hello world 1", 13, true, &ids, &n_ids);
    if (chat_template_read(path, &chat) == 0 && chat)
        chat_template_nearest(chat);
    free(ids);
    free(chat);
    tok_close(t);
}
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g = NULL;
    if (gguf_open_bytes(&g, data, n, "fuzz.gguf") == 0) {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            key(g, keys[i]);
        for (int64_t i = 0; i < gguf_n_tensor(g); i++)
            fuzz_touch(data + gguf_tensor_at(g, i)->at, gguf_tensor_at(g, i)->bytes);
        model(data, n);
    }
    gguf_close(g);
    return 0;
}
