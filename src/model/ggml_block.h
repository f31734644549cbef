/* How one block of each quantised GGUF type becomes float32 values. Layouts are ggml's (ggml-common.h); the
 * order of operations is that of gguf's reference (gguf-py quants.py), so that values are equal bit for bit.
 */
#ifndef KVS_MODEL_GGML_BLOCK_H
#define KVS_MODEL_GGML_BLOCK_H

enum { GGML_BLOCK = 32, GGML_SUPER = 256 }; /* values of a block: of the simple types, of the K types */

void ggml_block_q4_0(const unsigned char *p, float *out); /* out [32] */
void ggml_block_q4_1(const unsigned char *p, float *out);
void ggml_block_q5_0(const unsigned char *p, float *out);
void ggml_block_q5_1(const unsigned char *p, float *out);
void ggml_block_q8_0(const unsigned char *p, float *out);
void ggml_block_iq4_nl(const unsigned char *p, float *out);
void ggml_block_q4_k(const unsigned char *p, float *out); /* out [256] */
void ggml_block_q5_k(const unsigned char *p, float *out);
void ggml_block_q6_k(const unsigned char *p, float *out);

#endif
