/* Gemma 3, the text model (arXiv 2503.19786): what can be known without weights. */
#ifndef KVS_MODEL_GEMMA3_H
#define KVS_MODEL_GEMMA3_H

#include "model/reader.h"

/* Numbers of their own, in model_config.own. */
struct gemma3_config {
    int64_t W;                    /* window: newest keys that a query sees, its own included */
    double scalar;                /* query_pre_attn_scalar: logits are divided by its square root */
    float norm_add;               /* added to every norm's weight: 1, or 0 where the file has it in them */
    uint8_t slides[SHAPE_LAYERS]; /* 1: the layer has the window, 0: it sees everything */
};
_Static_assert(sizeof(struct gemma3_config) <= MODEL_OWN, "no room in model_config.own");
static inline struct gemma3_config *gemma3_own(struct model_config *c)
{
    return (struct gemma3_config *)(void *)c->own.bytes;
}
static inline const struct gemma3_config *gemma3_of(const struct model_config *c)
{
    return (const struct gemma3_config *)(const void *)c->own.bytes;
}
enum gemma3_rope { GEMMA3_FULL, GEMMA3_LOCAL }; /* rotary settings */

int gemma3_read(struct model_config *c, const struct config_reader *r);
void gemma3_describe(const struct model_config *c, struct str *out);
struct layer_kind gemma3_kind(const struct model_config *c, bool slides);
void gemma3_shape(const struct model_config *c, struct seq_shape *s);
extern const struct gguf_names gemma3_gguf;

#endif
