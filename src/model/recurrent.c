#include "model/recurrent.h"

#include "base/err.h"

void recurrent_conv(struct model *m, const struct recurrent_conv *c, const struct batch_item *item, int n)
{
    struct conv_args *a = model_args(m, (size_t)n, sizeof *a);
    int64_t at = 0;
    for (int j = 0; j < n; at += item[j++].n)
        a[j] = (struct conv_args){.T = item[j].n,
                                  .C = c->out.n[1],
                                  .x = model_strip(c->x, at, c->col),
                                  .out = model_strip(c->out, at, 0),
                                  .w = c->w,
                                  .bias = c->bias,
                                  .width = c->width,
                                  .silu = c->silu,
                                  .tail = kv_state(&item[j].seq->layer[c->layer], c->state)};
    m->ops->conv(m->ops, a, n);
}

int recurrent_advance(int layer, const struct batch_item *item, int n)
{
    for (int j = 0; j < n; j++)
        TRY(kv_advance(&item[j].seq->layer[layer], item[j].n));
    return 0;
}
