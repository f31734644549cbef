/* Types of stored weights and how their blocks expand to float32. */
#include "kernels/half.h"
#include "model/ggml_block.h"
#include "model/gguf.h"

#include <string.h>

/* The types that can be read; `expand` makes one block's values, NULL: one value by itself. */
static const struct block_type {
    int32_t type;
    int64_t values, bytes;
    void (*expand)(const unsigned char *p, float *out);
} readable[] = {
    {GGML_F32, 1, 4, NULL},
    {GGML_F16, 1, 2, NULL},
    {GGML_BF16, 1, 2, NULL},
    {GGML_Q4_0, GGML_BLOCK, 18, ggml_block_q4_0},
    {GGML_Q4_1, GGML_BLOCK, 20, ggml_block_q4_1},
    {GGML_Q5_0, GGML_BLOCK, 22, ggml_block_q5_0},
    {GGML_Q5_1, GGML_BLOCK, 24, ggml_block_q5_1},
    {GGML_Q8_0, GGML_BLOCK, 34, ggml_block_q8_0},
    {GGML_IQ4_NL, GGML_BLOCK, 18, ggml_block_iq4_nl},
    {GGML_Q4_K, GGML_SUPER, 144, ggml_block_q4_k},
    {GGML_Q5_K, GGML_SUPER, 176, ggml_block_q5_k},
    {GGML_Q6_K, GGML_SUPER, 210, ggml_block_q6_k},
};
enum { N_READABLE = sizeof readable / sizeof *readable };

const char *ggml_type_name(int32_t type)
{
    static const char *const names[] = {
        "F32",   "F16",    "Q4_0", "Q4_1", "Q4_2", "Q4_3",    "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
        "Q3_K",  "Q4_K",   "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
        "IQ2_S", "IQ4_XS", "I8",   "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16"};
    return type >= 0 && type < (int32_t)(sizeof names / sizeof *names) ? names[type] : "unknown";
}

int32_t ggml_type_at(int i)
{
    return i >= 0 && i < N_READABLE ? readable[i].type : -1;
}

static const struct block_type *find(int32_t type)
{
    for (int i = 0; i < N_READABLE; i++)
        if (readable[i].type == type)
            return &readable[i];
    return NULL;
}

bool ggml_type_block(int32_t type, int64_t *values, int64_t *bytes)
{
    const struct block_type *t = find(type);
    if (t)
        *values = t->values, *bytes = t->bytes;
    return t != NULL;
}

static uint16_t u16_at(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

/* Whole blocks go straight to their place, cut ones by way of a block of their own. */
static void expand_blocks(const struct block_type *t, const unsigned char *p, int64_t at, int64_t n,
                          float *out)
{
    float one[GGML_SUPER];
    p += at / t->values * t->bytes;
    for (int64_t skip = at % t->values; n > 0; skip = 0, p += t->bytes) {
        int64_t take = t->values - skip < n ? t->values - skip : n;
        if (take == t->values) {
            t->expand(p, out);
        } else {
            t->expand(p, one);
            memcpy(out, one + skip, (size_t)take * sizeof *out);
        }
        out += take, n -= take;
    }
}

void ggml_expand(int32_t type, const void *data, int64_t at, int64_t n, float *out)
{
    const unsigned char *p = data;
    const struct block_type *t = find(type);
    if (!t)
        return;
    if (type == GGML_F32) {
        memcpy(out, p + at * 4, (size_t)n * 4);
    } else if (type == GGML_F16) {
        for (int64_t i = 0; i < n; i++)
            out[i] = f16_to_f32(u16_at(p + 2 * (at + i)));
    } else if (type == GGML_BF16) {
        for (int64_t i = 0; i < n; i++)
            out[i] = bf16_to_f32(u16_at(p + 2 * (at + i)));
    } else {
        expand_blocks(t, p, at, n, out);
    }
}
