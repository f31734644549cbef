/* Types of stored weights and how their blocks expand to float32. */
#include "kernels/half.h"
#include "model/gguf.h"

#include <string.h>

#define BLOCK 32 /* values of one block of the quantised types */

const char *ggml_type_name(int32_t type)
{
    static const char *const names[] = {
        "F32",   "F16",    "Q4_0", "Q4_1", "Q4_2", "Q4_3",    "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
        "Q3_K",  "Q4_K",   "Q5_K", "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
        "IQ2_S", "IQ4_XS", "I8",   "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16"};
    return type >= 0 && type < (int32_t)(sizeof names / sizeof *names) ? names[type] : "unknown";
}

bool ggml_type_block(int32_t type, int64_t *values, int64_t *bytes)
{
    *values = BLOCK;
    switch (type) {
    case GGML_F32:
        *values = 1, *bytes = 4;
        return true;
    case GGML_F16:
    case GGML_BF16:
        *values = 1, *bytes = 2;
        return true;
    case GGML_Q4_0:
        *bytes = 2 + BLOCK / 2;
        return true;
    case GGML_Q4_1:
        *bytes = 4 + BLOCK / 2;
        return true;
    case GGML_Q8_0:
        *bytes = 2 + BLOCK;
        return true;
    default:
        return false;
    }
}

static uint16_t u16_at(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return h;
}

/* One block; low nibbles are the first half, high nibbles the second. */
static void expand_block(int32_t type, const unsigned char *p, float out[BLOCK])
{
    float d = f16_to_f32(u16_at(p)), m = type == GGML_Q4_1 ? f16_to_f32(u16_at(p + 2)) : 0;
    const unsigned char *q = p + (type == GGML_Q4_1 ? 4 : 2);
    for (int i = 0; i < BLOCK / 2; i++) {
        int lo = q[i] & 15, hi = q[i] >> 4;
        if (type == GGML_Q4_0) {
            out[i] = d * (float)(lo - 8);
            out[i + BLOCK / 2] = d * (float)(hi - 8);
        } else if (type == GGML_Q4_1) {
            out[i] = d * (float)lo + m;
            out[i + BLOCK / 2] = d * (float)hi + m;
        } else {
            out[i] = (float)(int8_t)q[i] * d;
            out[i + BLOCK / 2] = (float)(int8_t)q[i + BLOCK / 2] * d;
        }
    }
}

static void expand_blocks(int32_t type, const unsigned char *p, int64_t bytes, int64_t at, int64_t n,
                          float *out)
{
    float tmp[BLOCK];
    while (n > 0) {
        int64_t skip = at % BLOCK, take = BLOCK - skip < n ? BLOCK - skip : n;
        expand_block(type, p + at / BLOCK * bytes, tmp);
        memcpy(out, tmp + skip, (size_t)take * sizeof *out);
        out += take, at += take, n -= take;
    }
}

void ggml_expand(int32_t type, const void *data, int64_t at, int64_t n, float *out)
{
    const unsigned char *p = data;
    int64_t values, bytes;
    if (!ggml_type_block(type, &values, &bytes))
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
        expand_blocks(type, p, bytes, at, n, out);
    }
}
