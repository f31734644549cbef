/* Keys of a model's header under the names of Hugging Face's config.json, whatever the format: that file, the
 * metadata of a GGUF file, `shape` in a model file of configs/models. A family reads its own keys through
 * this. */
#ifndef KVS_MODEL_READER_H
#define KVS_MODEL_READER_H

#include "model/model.h"

enum reader_has { READER_ABSENT, READER_NULL, READER_GIVEN };

struct config_reader {
    const char *path; /* for messages */
    void *at;         /* the format's own */
    bool hf;          /* absent keys have the defaults of transformers' configuration classes */
    bool sketch;      /* a shape for plans only: what is not computed with may be absent */

    enum reader_has (*has)(const struct config_reader *r, const char *key);
    const char *(*name)(const struct config_reader *r, const char *key); /* the key as the format spells it */
    /* Keys may lead into objects: "ssm_cfg.d_state".
     * A whole number in [min, max]; `def` < 0: required. ERR_INPUT names file and key. */
    int (*integer)(const struct config_reader *r, const char *key, int64_t def, int64_t min, int64_t max,
                   int64_t *out);
    /* A finite number above 0; `def` NaN: required. */
    int (*real)(const struct config_reader *r, const char *key, double def, double *out);
    int (*flag)(const struct config_reader *r, const char *key, bool def, bool *out);
    /* Borrowed text, NULL if absent. `shown` in messages is the caller's business (file_shown). */
    int (*text)(const struct config_reader *r, const char *key, const char **out);
    /* Item i of a list of texts; NULL behind its end and if the key is absent. */
    int (*item)(const struct config_reader *r, const char *key, int64_t i, const char **out);
    /* Item i of a list of numbers, `def` where the list is absent. ERR_INPUT if it is no number, or too
     * short. */
    int (*number)(const struct config_reader *r, const char *key, int64_t i, double def, double *out);
    /* Whether the weights have a tensor of this (Hugging Face) name, where the format knows: config.json does
     * not. */
    bool (*tensor)(const struct config_reader *r, const char *name);
    /* The rotary setting of the layers of a type ("sliding_attention"); NULL: of all. Read after c's sizes.
     */
    int (*rope)(const struct config_reader *r, const struct model_config *c, const char *layer_type,
                struct rope_setting *out);
    int (*dtype)(const struct config_reader *r, struct model_config *c); /* c->dtype, the checkpoint's */
};

/* Refuses a key that says something else than what is computed: a text other than `value` (absent is fine), a
 * switch that is on, any value at all. ERR_INPUT names file, key and value. */
int reader_only(const struct config_reader *r, const char *key, const char *value);
int reader_not(const struct config_reader *r, const char *key);
int reader_none(const struct config_reader *r, const char *key);

/* Names of a family in GGUF files (`own`) beside Hugging Face's. */
struct gguf_names {
    const struct name_pair
        *key; /* behind "ARCH.", before those that all architectures share (gguf_model.c) */
    const struct name_pair *top;   /* whole names of tensors */
    const struct name_pair *layer; /* "attn_q" of "blk.7.attn_q.weight", "ssm_a" of "blk.7.ssm_a" */
    const char *layers;            /* what stands before a layer's number: "model.layers" */
    /* Heads by which the rows of a layer's tensor (its `gguf` name) are interleaved; 0: they are not. */
    int32_t (*interleaved)(const struct model_config *c, const char *part);
};

#endif
