/* What a sequence keeps, layer by layer. Read by kv, model, plan, limits and the results file alike; it lies
 * in kv/ because kv/ never includes model/. */
#ifndef KVS_KV_SHAPE_H
#define KVS_KV_SHAPE_H

#include "kernels/ops.h"

enum layer_mixer { MIX_ATTENTION, MIX_RECURRENT };
/* Models beyond these are refused by their family. */
enum { SHAPE_KINDS = 4, SHAPE_LAYERS = 256, SHAPE_STATES = 4, SHAPE_OPTIONS = 8 };

/* One array of a recurrent layer's state; it is zero before the first token. */
struct state_array {
    const char *name;
    enum dtype dtype; /* its own, whatever the cache dtype is */
    int64_t n[3];     /* unused ones are 1 */
};

/* A kind of layer. Llama has one; models that alternate between windows and full attention have two. */
struct layer_kind {
    enum layer_mixer mixer;
    bool compress; /* methods act here unless told otherwise (kv_spec_acts): attention over all tokens */

    int32_t n_head, n_kv_head; /* attention */
    int32_t d_k, d_v;          /* of a cached key and value row per head */
    int64_t window;            /* newest keys that a query sees, its own included; 0: all */
    bool last_window; /* the rows of a prompt longer than the window see its last keys alone, the i-th row the
                         first i + 1 of them (an error of some implementations; the prompt is one pass) */
    int32_t n_rot,
        rope_of; /* first n_rot of d_k are rotated (0: none), by this rotary setting of the model */
    const struct rope *rope; /* NULL: not rotated, or known from a header alone */
    float
        scale; /* of logits: 1.0f / sqrtf((float)d_k), in this very arithmetic, unless the model says else */
    float softcap; /* of attention logits; 0: none */

    int32_t n_state; /* recurrent */
    struct state_array state[SHAPE_STATES];
};

/* The parameters of a model's family as this sequence has them (model.h: family.params); kv/ does not read
 * them. Zeros are the defaults. */
struct shape_options {
    int64_t v[SHAPE_OPTIONS];
};

/* Of one sequence. Borrowed by its caches. */
struct seq_shape {
    int32_t n_layer, n_kind;
    uint8_t kind_of[SHAPE_LAYERS]; /* [n_layer] */
    struct layer_kind kind[SHAPE_KINDS];
    enum dtype dtype;  /* of cached keys and values */
    int64_t max_len;   /* positions that the model can index */
    bool whole_prompt; /* a prompt is one pass, not one of chunks: its early rows depend on the last ones */
    struct shape_options options;
};

static inline const struct layer_kind *shape_kind(const struct seq_shape *s, int32_t layer)
{
    return &s->kind[s->kind_of[layer]];
}

/* Attention over all tokens, or over the newest `window` (0: all), rotated whole by setting 0; the table
 * comes later. */
struct layer_kind kind_attention(int32_t n_head, int32_t n_kv_head, int32_t d, int64_t window);
/* A shape whose n_layer layers are all of this kind. */
void shape_alike(struct seq_shape *s, int32_t n_layer, const struct layer_kind *kind);
int32_t shape_layers_of(const struct seq_shape *s, int32_t kind); /* how many layers are of a kind */

/* Bytes of one token's keys and values in an attention layer; of the arrays of a recurrent one. */
uint64_t kind_row_bytes(const struct layer_kind *k, enum dtype dtype);
uint64_t kind_state_bytes(const struct layer_kind *k);

/* Bytes of the uncompressed sequence after n tokens, the baseline of every ratio: windows hold min(n, window)
 * rows, states what they hold. And of one layer. */
uint64_t shape_full_bytes(const struct seq_shape *s, int64_t n);
uint64_t shape_layer_bytes(const struct seq_shape *s, int32_t layer, int64_t n);

/* Flops (two per multiply-add) of mixing the rows [from, to) of a sequence: queries times keys and weights
 * times values, counted over the causal triangle (n^2/2 pairs of n rows) or its part inside the window; three
 * multiply-adds per value of a state and row. */
double shape_mix_flops(const struct seq_shape *s, int64_t from, int64_t to);

#endif
