/* What families with attention share: names of a layer's tensors, rows of queries, keys and values, and the
 * step over the caches of a layer. Shapes of heads come from the kind of the layer. */
#ifndef KVS_MODEL_ATTENTION_H
#define KVS_MODEL_ATTENTION_H

#include "model/model_int.h"

/* Names of one layer's tensors, "PREFIX.LAYER.a" …: up to LOAD_PARTS at a time; NULL for those not wanted. */
struct layer_names {
    char text[LOAD_PARTS][96];
    const char *p[LOAD_PARTS];
};
const char *const *layer_names(struct layer_names *s, const char *prefix, int layer, const char *a,
                               const char *b, const char *c);

/* View of T rows of h heads of d values. */
struct tensor att_heads(void *data, enum dtype dtype, int64_t T, int64_t h, int64_t d);

/* Buffers of the attention half of a block, for kinds of equal heads; letters as in ops.h, D d_model. */
struct att_bufs {
    struct tensor h, wide; /* [T, D], [T, (H + 2 Hk) d]: room */
    struct tensor q, k, v; /* [T, H, d], [T, Hk, d] */
    struct tensor out;     /* [T, H d] */
};
/* Values of one row of them; what a family's bind adds to its bytes of workspace. */
int64_t att_row_values(const struct layer_kind *k, int64_t D);
/* From the workspace, in the backend's dtype. */
struct att_bufs att_buffers(struct model *m, const struct layer_kind *k, int64_t T, int64_t D);
/* b's queries and keys <- their rmsnorm over the d values of every head; norms [d] as in ops->rmsnorm. Before
 * att_step. */
void att_head_norm(struct model *m, const struct att_bufs *b, const float *q_norm, const float *k_norm,
                   float w_add);
/* b->out <- attention of b's rows before rotation over the caches of this layer, which take them up. */
int att_step(struct model *m, int layer, struct att_bufs *b, const struct batch_item *item, int n);

#endif
