/* What families with recurrent layers share: steps over the states of a layer, one launch for all sequences.
 */
#ifndef KVS_MODEL_RECURRENT_H
#define KVS_MODEL_RECURRENT_H

#include "model/model_int.h"

/* A causal depthwise convolution (conv_args) of C columns of x, from `col` on, to all columns of out [T,C].
 */
struct recurrent_conv {
    int layer, state; /* the tail is state array `state` of the layer */
    struct tensor x, out;
    int64_t col;
    const float *w, *bias; /* [C,width], [C] or NULL */
    int32_t width;
    bool silu;
};
void recurrent_conv(struct model *m, const struct recurrent_conv *c, const struct batch_item *item, int n);
/* The states of a layer have taken up all rows. */
int recurrent_advance(int layer, const struct batch_item *item, int n);

#endif
