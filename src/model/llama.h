/* The llama family's header side: what can be known without weights. */
#ifndef KVS_MODEL_LLAMA_H
#define KVS_MODEL_LLAMA_H

#include "model/reader.h"

/* Of all layers. */
struct layer_kind llama_kind(const struct model_config *c);
int llama_read(struct model_config *c, const struct config_reader *r);
void llama_shape(const struct model_config *c, struct seq_shape *s);
void llama_cost(const struct model_config *c, struct model_cost *cost);
extern const struct gguf_names llama_gguf;

#endif
