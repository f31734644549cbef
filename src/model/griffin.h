/* RecurrentGemma (Griffin, arXiv 2402.19427): what can be known without weights. */
#ifndef KVS_MODEL_GRIFFIN_H
#define KVS_MODEL_GRIFFIN_H

#include "model/reader.h"

/* Numbers of their own, in model_config.own. */
struct griffin_config {
    int64_t W, Lw; /* window: earlier keys that a query sees beside its own; width of the recurrence */
    int32_t conv;  /* width of the convolution */
    float cap;     /* of the logits: cap * tanh(x / cap); 0: none */
    uint8_t attention[SHAPE_LAYERS]; /* 1: the layer attends, 0: it is recurrent */
};
static inline struct griffin_config *griffin_own(struct model_config *c)
{
    return (struct griffin_config *)(void *)c->own.bytes;
}
static inline const struct griffin_config *griffin_of(const struct model_config *c)
{
    return (const struct griffin_config *)(const void *)c->own.bytes;
}
/* In shape_options. */
enum { GRIFFIN_MASK_CORRECT, GRIFFIN_MASK_HF_BUG };
struct griffin_params {
    int64_t attention_mask;
};
enum griffin_state { GRIFFIN_TAIL, GRIFFIN_LRU };

int griffin_read(struct model_config *c, const struct config_reader *r);
void griffin_describe(const struct model_config *c, struct str *out);
struct layer_kind griffin_kind(const struct model_config *c); /* of the layers that attend */
void griffin_shape(const struct model_config *c, struct seq_shape *s);
void griffin_apply(const struct model_config *c, struct seq_shape *s);
extern const struct param griffin_params[];
void griffin_cost(const struct model_config *c, struct model_cost *cost);

#endif
