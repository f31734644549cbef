/* Weights of a model: declared one by one, then brought to the device in one block. Each weight is the rows
 * of up to LOAD_PARTS tensors of the file, one after the other. */
#ifndef KVS_MODEL_LOAD_H
#define KVS_MODEL_LOAD_H

#include "base/str.h"
#include "kernels/ops.h"
#include "model/model.h"

#define LOAD_PARTS 3

enum load_kind {
    LOAD_PACKED, /* matrix for ops->matmul, in the model's dtype */
    LOAD_TABLE,  /* plain rows in the model's dtype (embeddings) */
    LOAD_FLOATS, /* plain float32 (norms, biases) */
};
/* Changes n values of whole rows on their way to the device; called by several threads. */
typedef void load_map(const void *ctx, float *x, int64_t n);

struct load_item {
    enum load_kind kind;
    int n_part;
    char *name[LOAD_PARTS]; /* owned */
    struct model_tensor part[LOAD_PARTS];
    int64_t n_out, n_in;   /* rows and width; floats: n_in is 1 */
    struct weight *weight; /* LOAD_PACKED: filled; borrowed */
    struct tensor *table;  /* LOAD_TABLE: filled */
    const float **floats;  /* LOAD_FLOATS: filled */
    load_map *of;          /* values go through it; NULL: as they are */
    const void *ctx;
    int64_t slices,
        slice; /* the matrix is the transpose of slice [n_in,n_out] of that many; 0: it is rows of the file */
    size_t at, bytes; /* in the block */
};
struct share;
struct load {
    struct load_item *item;
    int n, cap;
    void *block; /* device memory; its bytes do not depend on the number of threads */
    size_t bytes;
    size_t note; /* where in the block the hash of the whole content lies, for those who get the block */
    uint64_t content[2]; /* that hash */
    struct share *share; /* NULL: `block` is this process's own */
    struct str problems; /* of declarations that the file does not meet */
    int n_problem;
};

/* Declare: the file must hold tensors of these names and rows; `out` is filled by load_run. What does not fit
 * is noted for load_check; only a weights file that is not there is an error at once. */
int load_packed(struct load *l, const struct model_file *f, struct weight *out, const char *const *names,
                const int64_t *rows, int n_part, int64_t n_in);
int load_table(struct load *l, const struct model_file *f, struct tensor *out, const char *name, int64_t rows,
               int64_t n_in);
int load_floats(struct load *l, const struct model_file *f, const float **out, const char *const *names,
                const int64_t *rows, int n_part);
/* One tensor of any shape as plain float32, row-major, its values passed through `of` (NULL: as they are). */
int load_values(struct load *l, const struct model_file *f, const float **out, const char *name,
                const int64_t *shape, int n_dim, load_map *of);
/* A matrix [n_out,n_in] that lies in the file as slice `slice` of a tensor [slices,n_in,n_out]. */
int load_slice(struct load *l, const struct model_file *f, struct weight *out, const char *name,
               int64_t slices, int64_t slice, int64_t n_out, int64_t n_in);
/* The item that was declared last goes through `of` with this context, which must live until load_run
 * returns. */
void load_through(struct load *l, load_map *of, const void *ctx);
/* After all declarations: ERR_INPUT names every tensor that is missing or has another shape or type, and
 * those that were not declared, but for those whose names end in one of `spare` ("a|b", as family.spare;
 * NULL: they do not matter). */
int load_check(struct load *l, const struct model_file *f, const char *spare);
/* Packs everything; pages of the file are let go as they are used up. With opt->share one process of the node
 * packs and the others map its bytes; with opt->comm one rank reads and the others receive. ERR_NOMEM if the
 * device or the host is full. */
int load_run(struct load *l, const struct model_file *f, struct ops *ops, const struct model_options *opt);
void load_free(struct load *l, struct ops *ops);

#endif
