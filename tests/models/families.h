/* Small checkpoints of the families in their published layouts. */
#ifndef KVS_TESTS_MODELS_FAMILIES_H
#define KVS_TESTS_MODELS_FAMILIES_H

#include <stdint.h>

/* A model of make_models.c: the folder that its file in configs/models names, and what it holds. */
struct tiny_model {
    const char *folder, *tokenizer; /* a folder of fixtures/tok */
    void (*make)(const struct tiny_model *m, const char *dir, int64_t n_vocab);
    int n_kv_head, n_layer;
    const char *config; /* more members of config.json, each with a comma before it */
};

/* n_vocab: ids of the tokenizer; the rows of the embedding are rounded up as the published files have it.
 * Writes config.json (not rwkv5) and the weights into the folder `dir`. */
void make_llama(const struct tiny_model *m, const char *dir, int64_t n_vocab); /* safetensors, bf16 */
void make_mamba(const struct tiny_model *m, const char *dir, int64_t n_vocab); /* transformers' layout, f32 */
void make_mamba_ssm(const struct tiny_model *m, const char *dir,
                    int64_t n_vocab);                                            /* mamba_ssm's, .bin, f16 */
void make_mamba2(const struct tiny_model *m, const char *dir, int64_t n_vocab);  /* mamba_ssm's, .bin, f16 */
void make_rwkv5(const struct tiny_model *m, const char *dir, int64_t n_vocab);   /* .pth, bf16 */
void make_griffin(const struct tiny_model *m, const char *dir, int64_t n_vocab); /* safetensors, bf16 */

#endif
