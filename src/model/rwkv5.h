/* RWKV-5.2 ("Eagle", the World models): what can be known without packing weights. */
#ifndef KVS_MODEL_RWKV5_H
#define KVS_MODEL_RWKV5_H

#include "model/reader.h"

/* Numbers of their own, in model_config.own. */
struct rwkv5_config {
    int64_t H, S; /* heads, and channels of each */
};
/* In shape_options. */
enum { RWKV5_PENALTIES_OFF, RWKV5_PENALTIES_RWKV };
struct rwkv5_params {
    int64_t penalties;
};
static inline struct rwkv5_config *rwkv5_own(struct model_config *c)
{
    return (struct rwkv5_config *)(void *)c->own.bytes;
}
static inline const struct rwkv5_config *rwkv5_of(const struct model_config *c)
{
    return (const struct rwkv5_config *)(const void *)c->own.bytes;
}
enum rwkv5_state { RWKV5_ATT_PREV, RWKV5_FFN_PREV, RWKV5_WKV };

int rwkv5_read(struct model_config *c, const struct config_reader *r);
int rwkv5_read_tensors(struct model_config *c, const struct model_file *f);
void rwkv5_describe(const struct model_config *c, struct str *out);
void rwkv5_shape(const struct model_config *c, struct seq_shape *s);
void rwkv5_cost(const struct model_config *c, struct model_cost *cost);

#endif
