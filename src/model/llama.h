/* The llama family's header side: what can be known without weights. */
#ifndef KVS_MODEL_LLAMA_H
#define KVS_MODEL_LLAMA_H

#include "model/reader.h"

/* What the family alone has. */
struct llama_config {
    bool head_norm;               /* every head of queries and keys is normed before rotation (Qwen3) */
    uint8_t slides[SHAPE_LAYERS]; /* [n_layer]: which layers have the window, where there is one */
};
_Static_assert(sizeof(struct llama_config) <= MODEL_OWN, "no room in model_config.own");
static inline struct llama_config *llama_own(struct model_config *c)
{
    return (struct llama_config *)(void *)c->own.bytes;
}
static inline const struct llama_config *llama_of(const struct model_config *c)
{
    return (const struct llama_config *)(const void *)c->own.bytes;
}

/* Of all layers, but for their window. */
struct layer_kind llama_kind(const struct model_config *c);
int llama_read(struct model_config *c, const struct config_reader *r);
void llama_describe(const struct model_config *c, struct str *out);
void llama_shape(const struct model_config *c, struct seq_shape *s);
void llama_cost(const struct model_config *c, struct model_cost *cost); /* of any gated block of attention */
extern const struct gguf_names llama_gguf;
extern const struct name_pair llama_top_names[]; /* in GGUF: of every model with embeddings, norm and head */

#endif
