/* What families see of a model: declared weights, the workspace of a forward pass, its inputs and outputs. */
#ifndef KVS_MODEL_MODEL_INT_H
#define KVS_MODEL_MODEL_INT_H

#include "model/file_int.h"
#include "model/load.h"
#include "model/model.h"
#include "model/share.h"

/* Rotary tables by setting, width and theta factor; the nodes never move. */
struct rope_node {
    int32_t setting;
    double factor;
    struct rope rope;
    struct rope_node *next;
};

struct model {
    struct ops *ops;
    struct model_config cfg;
    const struct family *family;
    void *impl;          /* the family's weights */
    struct load load;    /* where all of them lie */
    float *rope_divisor; /* host [head_dim/2] from the file, NULL: none */
    struct rope_node *ropes;

    /* Workspace of one forward pass: one block of device memory, handed out from its start. */
    size_t row_bytes; /* of the family's buffers for one row, set by bind; buffers are padded to 256 bytes */
    void *ws;
    size_t ws_bytes, ws_used;
    int64_t ws_rows, ws_logit_rows;
    struct tensor logits; /* f32 [ws_logit_rows, n_vocab] */
    int32_t *ids;         /* host [ws_rows] */
    struct kv_rows *rows; /* host, one per sequence of the batch */
    struct kv_cache **caches;
    int n_batch; /* capacity of these two */
    void *args;  /* host, of model_args */
    size_t args_bytes;

    enum logits_want want; /* of the forward in progress */
    struct tensor out;     /* its logits */

    void (*tap)(void *ctx, int layer, const struct kv_rows *rows, int n);
    void *tap_ctx;
};

/* Next buffer [rows, width] of the workspace; room for it was reserved through row_bytes. */
struct tensor model_scratch(struct model *m, int64_t rows, int64_t width, enum dtype dtype);
/* Room for the arguments of one launch, n entries of `size` bytes; good until the next call, as entries of
 * ops copy what they are given. */
void *model_args(struct model *m, size_t n, size_t size);
/* Columns from `col` of the rows [t, …) of a matrix of activations. */
static inline struct strip model_strip(struct tensor x, int64_t t, int64_t col)
{
    return (struct strip){(char *)x.data + (size_t)(t * x.n[1] + col) * dtype_bytes(x.dtype), x.n[1]};
}
/* How many rows of the batch become logits: n (LAST), rows (ALL) or 0. */
int64_t model_wanted(const struct model *m, int n, int64_t rows);
/* dst <- the rows of x that become logits, in order: all, or the last of each sequence. */
void model_gather(struct model *m, struct tensor dst, struct tensor x, const struct batch_item *item, int n);

#endif
