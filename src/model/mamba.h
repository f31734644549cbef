/* Mamba and Mamba-2 (arXiv 2312.00752, 2405.21060): what can be known without weights, and what both share.
 */
#ifndef KVS_MODEL_MAMBA_H
#define KVS_MODEL_MAMBA_H

#include "model/model_int.h"
#include "model/reader.h"

/* Numbers of their own, in model_config.own. */
struct mamba_config {
    int64_t E, N, R;      /* inner width, states of a channel or head, rank of the step (Mamba) */
    int64_t H, P, G;      /* heads, channels of a head, groups that share b and c (Mamba-2) */
    int32_t conv;         /* width of the convolution */
    float dt_min, dt_max; /* the step is held between them (Mamba-2) */
    bool bias, conv_bias; /* of the projections in and out; of the convolution */
};
static inline struct mamba_config *mamba_own(struct model_config *c)
{
    return (struct mamba_config *)(void *)c->own.bytes;
}
static inline const struct mamba_config *mamba_of(const struct model_config *c)
{
    return (const struct mamba_config *)(const void *)c->own.bytes;
}
/* Columns that the convolution of Mamba-2 sees: x, b and c. */
static inline int64_t mamba2_columns(const struct mamba_config *w)
{
    return w->E + 2 * w->G * w->N;
}

const char *mamba_claims(const struct config_reader *r);
const char *mamba2_claims(const struct config_reader *r);
int mamba_read(struct model_config *c, const struct config_reader *r);
int mamba2_read(struct model_config *c, const struct config_reader *r);
void mamba_describe(const struct model_config *c, struct str *out);
void mamba_shape(const struct model_config *c, struct seq_shape *s);
void mamba2_shape(const struct model_config *c, struct seq_shape *s);
void mamba_cost(const struct model_config *c, struct model_cost *cost);
void mamba2_cost(const struct model_config *c, struct model_cost *cost);
extern const struct gguf_names mamba_gguf, mamba2_gguf;
extern const struct name_pair mamba_aliases[];
extern const char mamba_embed[];

/* The state arrays of a layer (seq.layer[i], kv_state). */
enum mamba_state { MAMBA_TAIL, MAMBA_SSM };

/* ---- the forward passes (mamba.c) ---- */

struct mamba_ends {
    struct tensor embed; /* [V,D] */
    const float *norm;   /* [D] */
    struct weight head;  /* [V,D] */
};
int mamba_bind_ends(struct model *m, struct model_file *f, struct mamba_ends *e);
/* `of` A_log: minus its exponential; a GGUF file holds that already. Shapes as in the file. */
int mamba_bind_a(struct model *m, struct model_file *f, const float **a, const char *name, int64_t n0,
                 int64_t n1);
int mamba_bind_conv(struct model *m, struct model_file *f, const float **w, const char *name,
                    int64_t columns);
/* Mixes the rows of sequences by layer: u [T,D] (the normed rows) to y [T,E], before the projection out. */
typedef void mamba_mixer(struct model *m, int layer, struct tensor u, struct tensor y,
                         const struct batch_item *item, int n);
/* What the last projection and the next layer need of a layer. */
struct mamba_block {
    const float *norm;     /* [D] */
    struct weight out;     /* [D,E] */
    const float *out_bias; /* [D] or NULL */
};
int mamba_run(struct model *m, const struct mamba_ends *ends,
              const struct mamba_block *(*block)(const struct model *m, int layer), mamba_mixer *mix,
              const struct batch_item *item, int n, int64_t rows);
size_t mamba_row_bytes(const struct model *m); /* of mamba_run's own buffers */

#endif
