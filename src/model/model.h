/* Models: a file (GGUF, a .pth with tensors alone, or a Hugging Face folder with config.json and
 * safetensors), a family (what to compute), sequences. check-type calls read headers only; weights are read
 * by model_open. */
#ifndef KVS_MODEL_MODEL_H
#define KVS_MODEL_MODEL_H

#include "base/poll.h"
#include "kernels/ops.h"
#include "kv/kv.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum rope_scaling { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN };
/* How the positions of a model become angles. */
struct rope_setting {
    double theta;
    enum rope_scaling scaling;
    double factor, low_freq, high_freq; /* linear: factor; llama3: factor, low_freq_factor, high_freq_factor;
                                           1 where the kind of scaling has none */
    int64_t original_len; /* llama3, yarn: original_max_position_embeddings; 0 elsewhere */
    struct {              /* zeros elsewhere */
        double fast, slow; /* beta_fast, beta_slow: rotations over original_len */
        double attention;  /* cosines and sines are scaled by it */
        bool whole;        /* truncate: the ramp begins and ends at whole pairs */
    } yarn;
    double partial;                     /* partial_rotary_factor: the part of each head that is rotated */
};
/* Rotary settings of one model (layer_kind.rope_of); bytes of a family's own numbers. */
enum { MODEL_ROPES = 2, MODEL_OWN = 512 };

/* Hyper-parameters under the names of Hugging Face's config.json. */
struct model_config {
    char family[24];       /* "llama", … : a row of families.def */
    char architecture[64]; /* as the file says: model_type or general.architecture */
    int32_t n_layer, n_head, n_kv_head, head_dim;
    int64_t d_model, d_ff, n_vocab;
    float norm_eps;
    struct rope_setting rope[MODEL_ROPES]; /* those that the family's layers name */
    int64_t max_len;                       /* max_position_embeddings: the training length */
    int64_t window; /* sliding window shorter than max_len, of the layers that the family says; 0: none */
    bool within;    /* nothing longer than the window is run: all layers see everything (model_config_limit) */
    bool tied, qkv_bias, o_bias;
    enum dtype dtype; /* of the checkpoint: f32, f16, bf16; quantised GGUF types count as bf16 */
    union {
        max_align_t align;
        unsigned char bytes[MODEL_OWN];
    } own; /* a struct of the family, copied with the rest: it holds no pointers */
};

/* What a (setting, task) pair changes about the model. */
struct model_overrides {
    double rope_theta_factor;     /* of rotary setting 0; 1: none */
    struct shape_options options; /* parameters of the family */
};
/* Whether a prompt pass under one is the same as under the other. */
bool model_overrides_equal(const struct model_overrides *a, const struct model_overrides *b);

/* A tensor in a file: raw bytes in the file's own type. */
struct model_tensor {
    const void *data;
    size_t bytes;
    int32_t type; /* enum ggml-style type of gguf.h (also used for safetensors' F32, F16, BF16) */
    int32_t n_dim;
    int64_t n[4]; /* row-major, slowest first, as Hugging Face prints shapes */
};

/* Open header of a model. Tensor names are Hugging Face's ("model.layers.0.self_attn.q_proj.weight") for both
 * formats; GGUF's permuted q and k rows are un-permuted by model_tensor_read, so that rotary pairs are (i, i
 * + n_rot/2) everywhere. */
struct model_file;
int model_file_open(struct model_file **f, const char *path); /* ERR_INPUT names file and key */
void model_file_close(struct model_file *f);
const struct model_config *model_file_config(const struct model_file *f);
/* XXH3-128 of the configuration, of all tensors' names, types, shapes and samples of their bytes, and of the
 * stop ids (hash.h); not of paths. */
void model_file_hash(const struct model_file *f, uint64_t hash[2]);
/* Name of the type that holds most bytes of the tensors: "BF16", "Q4_1". */
const char *model_file_weight_type(const struct model_file *f);
/* XXH3-128 of the whole content of all tensors; reads everything. */
void model_file_weights_xxh3(const struct model_file *f, int threads, uint64_t hash[2]);
/* Ids that end an answer, as the model's own files name them (stop_ids.h): ascending, each once. Returns the
 * count, 0 where they name none; borrowed. */
int model_file_stop_ids(const struct model_file *f, const int32_t **ids);
/* What a person should know of how these files were read (two keys for one thing and which one counts):
 * lines that end with a newline; "" for none. Borrowed. */
const char *model_file_notes(const struct model_file *f);
/* Total bytes of the tensors in the file. */
uint64_t model_file_bytes(const struct model_file *f);
/* ERR_INPUT if it is absent or its shape is not the expected one. */
int model_file_find(const struct model_file *f, const char *name, const int64_t *shape, int n_dim,
                    struct model_tensor *t);
bool model_file_has(const struct model_file *f, const char *name);
/* Rows [row, row + n) of a tensor as float32, quantised types expanded; a row is all that one index of the
 * first dimension holds; `out` has n * row length values. */
int model_tensor_read(const struct model_file *f, const struct model_tensor *t, const char *name, int64_t row,
                      int64_t n, float *out);
/* Whether what a GGUF file says of itself in words (general.name, basename, finetune, base model) holds a
 * word, in upper or lower case; a folder says nothing. */
bool model_file_mentions(const struct model_file *f, const char *word);
/* The GGUF header for the tokenizer's tables (gguf.h), or NULL for a folder. */
struct gguf;
const struct gguf *model_file_gguf(const struct model_file *f);

struct model;

struct comm;
struct model_options {
    enum dtype dtype;  /* weights' dtype on the device */
    int64_t max_len;   /* as model_config_limit has it; 0: none */
    bool share;        /* keep packed weights once per node in shared memory (CPU backends) */
    int threads;       /* for reading and packing */
    size_t stage;      /* most host memory for rows on their way to a device (two rows at least); 0: 64 MiB */
    struct comm *comm; /* ranks that open this model together: its rank 0 reads the weights, the others get
                          them from it. NULL: read */
    struct poll poll;  /* called while weights are read; may give up */
};
int model_open(struct model **m, struct ops *ops, struct model_file *f,
               const struct model_options *opt); /* borrows f until it returns */
/* In place of model_open by a rank that cannot take part, so that the others need not wait for it. */
void model_decline(struct comm *c);
void model_close(struct model *m);
const struct model_config *model_config(const struct model *m);
struct ops *model_ops(struct model *m);
uint64_t model_weight_bytes(const struct model *m); /* what the device holds */
/* model_file_weights_xxh3 of the file that the weights came from: who read them made it beside that, who
 * mapped or received them got it with them. */
void model_weights_xxh3(const struct model *m, uint64_t hash[2]);
/* What a sequence keeps (rotary tables are made once per factor and live as long as the model). */
int model_seq_shape(struct model *m, enum dtype cache_dtype, const struct model_overrides *over,
                    struct seq_shape *shape);
/* The same from a header alone, without a device: rope is NULL in every kind. `options`: of the family; NULL:
 * defaults. */
void model_config_shape(const struct model_config *c, enum dtype cache_dtype,
                        const struct shape_options *options, struct seq_shape *shape);

/* Sequences will have at most max_len tokens (0: who knows). A window that none of them outgrows is none: its
 * layers are like the others, and nothing longer than the window is run. */
void model_config_limit(struct model_config *c, int64_t max_len);

/* How a model's own code changes the choice of the next token (RWKV). Stored logits stay raw. */
struct model_penalty {
    double presence, frequency; /* the logit of a token that the answer has counts this much less, and this
                                   much per count; both 0: it does not */
    double decay;               /* counts are multiplied by this before a new one is added */
    const char *uncounted;      /* a token whose text is part of this adds 0 to its count, others 1 */
};
void model_config_penalty(const struct model_config *c, const struct shape_options *options,
                          struct model_penalty *p);

/* What one token multiplies: the one source of flops, limits, the plan's cost and the first ETA. What mixes
 * tokens comes from the shape (shape_mix_flops). */
struct model_cost {
    struct {
        const char *name;           /* for people: "q,k,v" */
        int64_t n_out, n_in, count; /* `count` matrices [n_out,n_in] are read per token */
    } product[12];
    int32_t n_product, head; /* head: index of the output head, which only chosen rows pass */
};
void model_config_cost(const struct model_config *c, struct model_cost *cost);
/* Flops of one token's products (2 per multiply-add); the output head counted apart. */
double cost_flops(const struct model_cost *c, double *head);
/* Bytes of the weights that a decode step of one sequence reads, the head included. */
double cost_step_bytes(const struct model_cost *c, enum dtype dtype);

/* A sequence: what each layer keeps of it (a cache or a recurrent state), and how far it got. */
struct seq {
    struct model *model;
    struct seq_shape shape;
    struct kv_cache *layer; /* [shape.n_layer] */
    int64_t pos;            /* tokens seen */
    int64_t n_prompt, n_max;
};
/* A finished plain prompt pass that many sequences can start from. */
struct seq_prompt {
    struct kv_dense **dense; /* [n_layer] */
    int32_t n_layer;
    int64_t n;
    struct ops *ops;
};
int seq_open(struct seq *s, struct model *m, const struct seq_shape *shape, const struct kv_spec *spec,
             int64_t n_prompt, int64_t n_max);
/* A plain pass of n tokens to freeze and fork from; `watch`: what it notes of its keys (kv_watch). */
int seq_open_prompt(struct seq *s, struct model *m, const struct seq_shape *shape, const struct kv_spec *full,
                    int64_t n, unsigned watch);
void seq_close(struct seq *s);                       /* accepts a zeroed one */
int seq_freeze(struct seq *s, struct seq_prompt *p); /* s was opened with `full` and has seen its prompt */
void seq_prompt_close(struct seq_prompt *p);         /* nobody will fork from it any more */
int seq_fork(struct seq *s, struct model *m, const struct seq_shape *shape, const struct kv_spec *spec,
             const struct seq_prompt *p, int64_t n_max);
void seq_bytes(const struct seq *s, struct kv_ledger *l);
void seq_budgets(const struct seq *s, struct kv_budgets *b);

enum logits_want { LOGITS_NONE, LOGITS_LAST, LOGITS_ALL };
struct batch_item {
    struct seq *seq;
    const int32_t *ids; /* host */
    int64_t n;          /* new tokens; several for a prefill chunk, 1 in decode */
};
/* Runs new tokens of n sequences (of this model) through all layers. *logits: f32 [rows, n_vocab] in the
 * model's workspace until the next call: one row per sequence (LAST) or per token (ALL); untouched for NONE.
 * Returns latched device errors too. */
int model_forward(struct model *m, const struct batch_item *item, int n, enum logits_want want,
                  struct tensor *logits);
/* Makes room for forwards of `rows` tokens with `logit_rows` rows of logits, so that no later call allocates.
 * ERR_NOMEM. */
int model_reserve(struct model *m, int64_t rows, int64_t logit_rows);
/* The same, giving back a workspace that is bigger. */
int model_fit(struct model *m, int64_t rows, int64_t logit_rows);
/* Calls tap for every layer of every forward with the rows before RoPE (device memory). NULL stops it. */
void model_set_tap(struct model *m, void (*tap)(void *ctx, int layer, const struct kv_rows *rows, int n),
                   void *ctx);

/* Families: a row each in families.def. */
struct config_reader;
struct gguf_names;
struct str;
/* A name in a file, and what the family calls it; a list ends with a NULL `own`. */
struct name_pair {
    const char *own, *hf;
};
struct family {
    /* hf_types: "llama|mistral|qwen2" as in config.json's model_type and GGUF's architecture */
    const char *name, *hf_types, *summary;
    /* A weight whose type is the checkpoint's: "model.layers.0.self_attn.q_proj.weight". */
    const char *typical;
    /* The input embedding, to which the head may be tied: "model.embed_tokens.weight". */
    const char *embed;
    /* Ends of names of tensors that may lie in the file and are not computed with: "a|b"; what ends in a dot
     * is the beginning of names. */
    const char *spare;
    /* The object of config.json in which the keys lie where the model is part of a bigger one: "text_config";
     * NULL: there is no such layout. */
    const char *inner;
    /* Names of tensors in other layouts of folders, to the family's; what ends in a dot is the beginning of
     * names. NULL: none. */
    const struct name_pair *aliases;
    const struct gguf_names *gguf; /* reader.h; NULL: the format has no such architecture */
    /* The model_type of a config.json that has none, if this family's original layout is like that; else
     * NULL. NULL: every layout says its type. */
    const char *(*claims)(const struct config_reader *r);
    /* The configuration of a file that holds tensors alone (.pth), if they are this family's: 1; 0: they are
     * not. NULL: there is no such layout. */
    int (*read_tensors)(struct model_config *c, const struct model_file *f);
    /* Header: c->family and c->architecture are set, the rest is read, defaults are filled in, what cannot be
     * computed is refused (ERR_INPUT). */
    int (*read)(struct model_config *c, const struct config_reader *r);
    /* Adds what c->own says to the text that the model's hash covers; NULL: there is nothing. */
    void (*describe)(const struct model_config *c, struct str *out);
    void (*shape)(const struct model_config *c,
                  struct seq_shape *s); /* dtype, options and rope are put by the caller */
    /* Oddities that a setting can ask for: a table over a struct that lies in struct shape_options, whose
     * defaults are all 0 (of a choice: the first) and which holds no texts. Names are unlike those of
     * methods' parameters. NULL: none. */
    const struct param *params;
    /* What s->options change about the shape; NULL: nothing. */
    void (*apply)(const struct model_config *c, struct seq_shape *s);
    /* The penalty that they ask for; NULL: none ever. */
    void (*penalty)(const struct shape_options *options, struct model_penalty *p);
    void (*cost)(const struct model_config *c, struct model_cost *cost);
    int (*bind)(struct model *m, struct model_file *f); /* declares, packs and uploads the weights */
    int (*forward)(struct model *m, const struct batch_item *item, int n, int64_t rows);
    void (*close)(struct model *m);
};
const struct family *family_find(const char *hf_type);
const struct family *family_at(int i);
/* A family that has a parameter of this name; NULL: none has. */
const struct family *family_of_param(const char *name);
/* Sets parameters from "key=value,…" (NULL: none) over what *o holds. ERR_INPUT begins with `where` and names
 * the family. */
int family_params_set(const struct family *f, struct shape_options *o, const char *text, const char *where);
/* Those that differ from their defaults: "penalties=rwkv". */
void family_params_text(const struct family *f, const struct shape_options *o, struct str *out);
const char *family_types(struct str *out); /* "llama, mistral, qwen2" of all, added to *out */

#endif
