#include "model/ggml_block.h"

#include "kernels/half.h"

#include <string.h>

static float half_at(const unsigned char *p)
{
    uint16_t h;
    memcpy(&h, p, sizeof h);
    return f16_to_f32(h);
}

/* ---- blocks of 32: low nibbles are the first half, high nibbles the second ---- */

void ggml_block_q4_0(const unsigned char *p, float *out)
{
    const float d = half_at(p);
    const unsigned char *q = p + 2; /* [16] */
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((q[i] & 15) - 8);
        out[i + 16] = d * (float)((q[i] >> 4) - 8);
    }
}

void ggml_block_q4_1(const unsigned char *p, float *out)
{
    const float d = half_at(p), m = half_at(p + 2);
    const unsigned char *q = p + 4; /* [16] */
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)(q[i] & 15) + m;
        out[i + 16] = d * (float)(q[i] >> 4) + m;
    }
}

/* The fifth bit of value i is bit i of a 32-bit word. */
static uint32_t fifth_bits(const unsigned char *p)
{
    uint32_t bits;
    memcpy(&bits, p, sizeof bits);
    return bits;
}

void ggml_block_q5_0(const unsigned char *p, float *out)
{
    const float d = half_at(p);
    const uint32_t bits = fifth_bits(p + 2);
    const unsigned char *q = p + 6; /* [16] */
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((int)((q[i] & 15u) | (bits >> i & 1) << 4) - 16);
        out[i + 16] = d * (float)((int)((q[i] >> 4) | (bits >> (i + 16) & 1) << 4) - 16);
    }
}

void ggml_block_q5_1(const unsigned char *p, float *out)
{
    const float d = half_at(p), m = half_at(p + 2);
    const uint32_t bits = fifth_bits(p + 4);
    const unsigned char *q = p + 8; /* [16] */
    for (int i = 0; i < 16; i++) {
        out[i] = d * (float)((q[i] & 15u) | (bits >> i & 1) << 4) + m;
        out[i + 16] = d * (float)((uint32_t)(q[i] >> 4) | (bits >> (i + 16) & 1) << 4) + m;
    }
}

void ggml_block_q8_0(const unsigned char *p, float *out)
{
    const float d = half_at(p);
    const signed char *q = (const signed char *)p + 2; /* [32] */
    for (int i = 0; i < GGML_BLOCK; i++)
        out[i] = (float)q[i] * d;
}

void ggml_block_iq4_nl(const unsigned char *p, float *out)
{
    static const float value[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const float d = half_at(p);
    const unsigned char *q = p + 2; /* [16] */
    for (int i = 0; i < 16; i++) {
        out[i] = d * value[q[i] & 15];
        out[i + 16] = d * value[q[i] >> 4];
    }
}

/* ---- super-blocks of 256 ---- */

/* Scale and minimum of each of the 8 groups of 32 values: six bits each, packed into b [12]. */
static void six_bit_scales(const unsigned char *b, float d, float dmin, float scale[8], float min[8])
{
    for (int j = 0; j < 4; j++) {
        scale[j] = d * (float)(b[j] & 63);
        min[j] = dmin * (float)(b[j + 4] & 63);
        scale[j + 4] = d * (float)((b[j + 8] & 15) | (b[j] >> 6) << 4);
        min[j + 4] = dmin * (float)((b[j + 8] >> 4) | (b[j + 4] >> 6) << 4);
    }
}

/* Of every 64 values, 32 bytes hold the first 32 in their low nibbles and the other 32 in their high ones. */
void ggml_block_q4_k(const unsigned char *p, float *out)
{
    float scale[8], min[8];
    six_bit_scales(p + 4, half_at(p), half_at(p + 2), scale, min);
    const unsigned char *q = p + 16; /* [4,32] */
    for (int j = 0; j < 4; j++, q += 32, out += 64)
        for (int i = 0; i < 32; i++) {
            out[i] = scale[2 * j] * (float)(q[i] & 15) - min[2 * j];
            out[i + 32] = scale[2 * j + 1] * (float)(q[i] >> 4) - min[2 * j + 1];
        }
}

/* The same with a fifth bit: group j has it in bit j of high [32]. */
void ggml_block_q5_k(const unsigned char *p, float *out)
{
    float scale[8], min[8];
    six_bit_scales(p + 4, half_at(p), half_at(p + 2), scale, min);
    const unsigned char *high = p + 16, *q = p + 48; /* [32], [4,32] */
    for (int j = 0; j < 4; j++, q += 32, out += 64)
        for (int i = 0; i < 32; i++) {
            int lo = (q[i] & 15) | (high[i] >> (2 * j) & 1) << 4;
            int hi = (q[i] >> 4) | (high[i] >> (2 * j + 1) & 1) << 4;
            out[i] = scale[2 * j] * (float)lo - min[2 * j];
            out[i + 32] = scale[2 * j + 1] * (float)hi - min[2 * j + 1];
        }
}

/* 16 groups of 16 values with a signed scale each; of every 128 values, low [64] holds four bits each and
 * high [32] two: value l + 32 r takes bits 2 r of high[l]. */
void ggml_block_q6_k(const unsigned char *p, float *out)
{
    const signed char *s = (const signed char *)p + 192; /* [16] */
    const float d = half_at(p + 208);
    for (int half = 0; half < 2; half++, out += 128) {
        const unsigned char *low = p + 64 * half, *high = p + 128 + 32 * half;
        for (int r = 0; r < 4; r++)
            for (int l = 0; l < 32; l++) {
                int four = r < 2 ? low[l + 32 * r] & 15 : low[l + 32 * (r - 2)] >> 4;
                int q = (four | (high[l] >> (2 * r) & 3) << 4) - 32;
                out[32 * r + l] = d * (float)s[8 * half + 2 * r + l / 16] * (float)q;
            }
    }
}
