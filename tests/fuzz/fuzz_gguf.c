/* A GGUF file: keys of every kind, tensors expanded. */
#include "fuzz.h"

#include "model/gguf.h"

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
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct gguf *g = NULL;
    if (gguf_open_bytes(&g, data, n, "fuzz.gguf") == 0) {
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            key(g, keys[i]);
        for (int64_t i = 0; i < gguf_n_tensor(g); i++)
            fuzz_touch(data + gguf_tensor_at(g, i)->at, gguf_tensor_at(g, i)->bytes);
    }
    gguf_close(g);
    return 0;
}
