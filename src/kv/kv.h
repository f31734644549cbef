/* KV caches and compressors. A method sees the rows of new tokens and the kernel table, never a model.
 * A missing (NULL) hook means the plain behaviour, so `full` is a method without hooks. */
#ifndef KVS_KV_KV_H
#define KVS_KV_KV_H

#include "base/param.h"
#include "kernels/ops.h"

/* What a method may know of the attention layers of a model (all layers are alike). */
struct kv_shape {
    int32_t n_layer, n_head, n_kv_head, head_dim;
    enum dtype dtype;        /* of cached keys and values */
    const struct rope *rope; /* with the overrides of the setting applied */
    int64_t max_len;         /* positions the model can index */
};

/* New rows of one sequence in one forward pass. q, k, v come before RoPE; q and k may be overwritten. */
struct kv_rows {
    struct tensor q, k, v, out; /* act: q, out [T,H,d]; k, v [T,Hk,d] */
    int64_t pos;                /* position of the first row */
};

/* Bytes by kind and place, as allocated. `shared` is the part held together with other sequences. */
struct kv_ledger {
    uint64_t bytes[MEM_KIND_N][PLACE_N];
    uint64_t shared;
};
uint64_t kv_ledger_total(const struct kv_ledger *l);
uint64_t kv_ledger_place(const struct kv_ledger *l, enum mem_place place);

/* Effective budgets of a sequence, in tokens or bits. */
enum kv_budget { KV_N_INIT, KV_N_LOCAL, KV_TOPK, KV_KEPT_TOKENS, KV_KEPT_BITS, KV_TRUE_RATIO, KV_BUDGET_N };
const char *
kv_budget_name(enum kv_budget b); /* "n_init", "n_local", "topk", "kept_tokens", "kept_bits", "true_ratio" */
struct kv_budgets {
    double value[KV_BUDGET_N]; /* NaN where it does not apply */
};

/* Rotated keys and values of a prompt in the cache dtype, read-only once frozen, reference-counted. One
 * layer. */
struct kv_dense {
    struct tensor k, v; /* [capacity,Hk,d] */
    float *mass;        /* [H,capacity]: probability that the prompt's rows gave each key, summed; NULL unless
                           kv_watch asked for it, and from kv_dense_settle on */
    int64_t n;
    int refs;
};

/* The cache of one sequence in one layer. */
struct kv_cache {
    const struct kv_method *method;
    const void *params; /* borrowed: outlives the cache */
    const struct kv_shape *shape;
    struct ops *ops;
    int32_t layer;
    int64_t n;               /* tokens seen */
    int64_t n_prompt, n_max; /* prompt tokens; most tokens it will ever see */
    void *state;             /* the method's own; plain caches: struct kv_plain (kv.c) */
};

/* One named array of a cache's inside, for checking against other implementations (`--dump-qkv`). Host copy,
 * owned (free data). */
struct kv_dump {
    char name[24];
    enum dtype dtype;
    int64_t n[4];
    void *data;
};
#define KV_DUMP_MAX 8

/* Largest ratio that may be asked for, or that a budget may lead to. */
#define KV_RATIO_MAX 1000.0

struct kv_method {
    const char *name, *source, *summary;
    const struct param *params; /* NULL: none */
    size_t params_bytes;
    /* Sets the parameters for "N times smaller", N from 1 to KV_RATIO_MAX. NULL: the method has no such
     * notion. ERR_INPUT if it cannot be so many. */
    int (*from_ratio)(void *params, double ratio);
    /* Sets the parameters to strength s, from 0 (the largest cache) to 1 (the smallest); the cache may not
     * grow with s. For budgets in bytes. NULL: from_ratio, ratios from 1 on. */
    void (*at_strength)(void *params, double s);
    /* Before any weight is read. ERR_INPUT names the parameter and what is allowed. shape NULL: the
     * parameters among themselves only (kv_spec_parse). */
    int (*check)(const void *params, const struct kv_shape *shape);
    double (*nominal_ratio)(const void *params); /* NULL: 1 */
    /* 0: the plain prompt pass, which settings may share. Otherwise caches with equal keys would be equal
     * after the prompt. NULL: 0. */
    uint64_t (*prefill_key)(const void *params, int64_t n_prompt, const struct kv_shape *shape);
    /* Whether from_dense wants the masses of the shared pass. NULL: no. */
    bool (*wants_mass)(const void *params);
    /* Whether it holds on to the shared prompt cache: its bytes are the sequence's too. NULL: no. */
    bool (*keeps_prompt)(const void *params);
    /* Takes everything that the sequence will hold, through c->ops->alloc, copy and sync alone: what a cache
     * will take is learned by opening it on a table that owns nothing (kv_predict). */
    int (*open)(struct kv_cache *c);
    /* Builds the cache from the shared prompt cache (read-only; take a reference with kv_dense_ref to keep
     * it). Needed when prefill_key can be 0. */
    int (*from_dense)(struct kv_cache *c, struct kv_dense *dense);
    /* Attend, append, commit, for n caches of this method in one layer; prompt pieces and decode steps alike.
     * The order of these three is the method's. Prompt pieces come cut at multiples of the table's piece
     * (512 positions or a multiple of them), the last prompt token by itself when the key is not 0. */
    int (*step)(struct kv_cache *const *c, struct kv_rows *rows, int n);
    void (*bytes)(const struct kv_cache *c, struct kv_ledger *l);    /* adds this layer's */
    void (*budgets)(const struct kv_cache *c, struct kv_budgets *b); /* fills what applies */
    int (*dump)(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX],
                int *n); /* QUANT_* arrays unpacked to one byte a code */
    void (*close)(struct kv_cache *c);
};

const struct kv_method *kv_method_find(const char *name); /* NULL if unknown */
const struct kv_method *kv_method_at(int i);              /* NULL past the end */

/* A method with its parameters parsed: "kivi:bits=2", "streaming:ratio=4". */
struct kv_spec {
    const struct kv_method *method;
    void *params;         /* owned */
    char *text;           /* canonical full text: "kivi:bits=2,group=32,residual=128" */
    char *label;          /* short text for people: "kivi:bits=2" */
    double nominal_ratio; /* NaN with a budget: it follows from the sequence */
    uint64_t budget; /* device bytes of a sequence, over all layers; 0: none. "streaming:budget=256MiB" */
};
int kv_spec_parse(struct kv_spec *s,
                  const char *text); /* ERR_INPUT: unknown method with the nearest name, bad parameter */
void kv_spec_free(struct kv_spec *s);
void kv_spec_copy(struct kv_spec *out, const struct kv_spec *spec); /* owned; nothing is read again */
/* The spec for one sequence, owned: a copy, in which a budget has become the mildest parameters whose caches
 * (all layers, everything on the device) stay within it. ERR_INPUT says the smallest budget that is possible.
 */
int kv_spec_solve(struct kv_spec *out, const struct kv_spec *spec, const struct kv_shape *shape,
                  int64_t n_prompt, int64_t n_max);
/* Whether a method has a strength that budgets can choose, and the parameters at strength s (see the hook).
 */
bool kv_has_strength(const struct kv_method *m);
int kv_at_strength(const struct kv_method *m, void *params, double s);

/* What the caches of a sequence will take, to the byte, without a device (activations f32). The second adds
 * one layer to the ledger. */
int kv_predict(const struct kv_spec *spec, const struct kv_shape *shape, int64_t n_prompt, int64_t n_max,
               struct kv_ledger *l);
int kv_predict_layer(const struct kv_spec *spec, const struct kv_shape *shape, int32_t layer,
                     int64_t n_prompt, int64_t n_max, struct kv_ledger *l);

/* Opens a cache; ERR_NOMEM when the device is full (everything taken is given back). */
int kv_open(struct kv_cache *c, const struct kv_spec *spec, const struct kv_shape *shape, struct ops *ops,
            int32_t layer, int64_t n_prompt, int64_t n_max);
void kv_close(struct kv_cache *c); /* accepts a zeroed or half-opened cache */
/* Attends and appends new rows of n sequences in one layer: groups them by method, keeps their order
 * otherwise. */
int kv_step(struct kv_cache *const *c, struct kv_rows *rows, int n);
void kv_bytes(const struct kv_cache *c, struct kv_ledger *l);
void kv_get_budgets(const struct kv_cache *c, struct kv_budgets *b);

/* 0: the sequence can start from the plain prompt pass; otherwise see the hook. */
uint64_t kv_prefill_key(const struct kv_spec *spec, int64_t n_prompt, const struct kv_shape *shape);
bool kv_wants_mass(const struct kv_spec *spec); /* of a plain pass that it starts from */
/* Makes a plain cache, before its first row, sum the masses of its keys (workspace). Outputs do not change.
 * ERR_NOMEM. */
int kv_watch(struct kv_cache *c);
/* Prompt cache of a plain cache that has seen its whole prompt: freezes it and returns a new reference. */
struct kv_dense *kv_freeze(struct kv_cache *c);
struct kv_dense *kv_dense_ref(struct kv_dense *d);
void kv_dense_unref(struct kv_dense *d, struct ops *ops);
void kv_dense_settle(struct kv_dense *d, struct ops *ops); /* no more forks: gives back what only they need */
/* A cache for `spec` that starts from a frozen prompt cache. */
int kv_fork(struct kv_cache *c, const struct kv_spec *spec, const struct kv_shape *shape, struct ops *ops,
            int32_t layer, struct kv_dense *dense, int64_t n_max);
/* Bytes of an uncompressed cache of n tokens over all layers. */
uint64_t kv_full_bytes(const struct kv_shape *shape, int64_t n);

/* Arrays of the method's dump hook; *n is 0 for methods without one. */
int kv_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n);

/* ---- For method files ------------------------------------------------------------------------------- */

static inline int64_t min64(int64_t a, int64_t b)
{
    return a < b ? a : b;
}
static inline int64_t max64(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* One block of memory of a cache. What kv_mem_count adds is what kv_mem_open took: a ledger built from these
 * is exact. Zero bytes are allowed (data stays NULL). Host blocks hold what a step fetches with ops->copy;
 * kernels do not read them. */
struct kv_mem {
    void *data;
    size_t bytes;
    enum mem_kind kind;
    enum mem_place place;
};
/* ERR_NOMEM names the layer, the bytes and the kind; `m` then stays empty. */
int kv_mem_open(const struct kv_cache *c, struct kv_mem *m, size_t bytes, enum mem_kind kind);
int kv_mem_open_host(const struct kv_cache *c, struct kv_mem *m, size_t bytes, enum mem_kind kind);
void kv_mem_close(const struct kv_cache *c, struct kv_mem *m); /* accepts a zeroed one */
void kv_mem_count(const struct kv_mem *m, int n, struct kv_ledger *l);

/* Adds keys and values of a prompt that the cache holds a reference to. */
void kv_dense_count(const struct kv_dense *d, struct kv_ledger *l);
int kv_after_prompt(const struct kv_cache *c); /* ERR_INTERNAL while the prompt is not complete */
/* Bytes of one cached row: keys or values of one token, [Hk,d] in the cache dtype. */
size_t kv_row_bytes(const struct kv_shape *shape);
/* View of n cached rows: [n,Hk,d] in the cache dtype. */
struct tensor kv_tensor(const struct kv_cache *c, void *data, int64_t n);
/* Rows [at, at+n) of t as a run whose first token has position pos. */
struct kv_run kv_run_of(const struct tensor *t, int64_t at, int64_t n, int64_t pos);
/* A ring keeps token j in row (j - base) % capacity. Runs of tokens [from, to), oldest first: 0, 1 or 2. */
int kv_ring_runs(const struct tensor *ring, int64_t base, int64_t from, int64_t to, struct kv_run out[2]);
/* Copies rows (tokens pos, pos+1, ...; not more than the capacity) into their places. */
void kv_ring_put(struct ops *ops, const struct tensor *ring, int64_t base, const struct tensor *rows,
                 int64_t pos);
/* Everything of one attention over a plain causal set but its runs: q and out from `r`, scale 1/sqrt(d). */
void kv_attend_init(struct attend_args *a, const struct kv_cache *c, const struct kv_rows *r);
/* Rows [at, at+n) of r. */
struct kv_rows kv_rows_part(const struct kv_rows *r, int64_t at, int64_t n);
/* Rotates in cache order: src (act) -> dst (cache dtype), first row at position pos. */
struct rope_args kv_rotate(struct tensor src, struct tensor dst, const struct rope *rope, int64_t pos);
/* Where a method acts, as its parameter `when` (an int64_t member):
 * prefill: inside the prompt pass too: prompt rows attend by the rule that decode rows follow, so the method
 *   needs a prompt pass of its own (prefill_key);
 * after: the prompt pass is plain; at its end the method treats the prompt as if it had made it;
 * decode: the prompt pass is plain and the prompt stays exact for good; the method treats generated tokens
 *   alone. */
enum kv_when { KV_WHEN_PREFILL, KV_WHEN_AFTER, KV_WHEN_DECODE };
#define KV_WHEN_PARAM(params, def)                                                                           \
    {                                                                                                        \
        "when", PARAM_CHOICE, offsetof(params, when), def, 0, 2, "prefill|after|decode", NULL,               \
            "prefill: inside the prompt pass too, by the rule of decode rows; after: plain prompt pass, "    \
            "the "                                                                                           \
            "prompt is compressed at its end; decode: only generated tokens are compressed"                  \
    }
/* Key of a prompt pass from a method's name and the numbers it depends on; never 0. */
uint64_t kv_key(const char *name, const int64_t *numbers, int n);
/* Appends one array of zeros to a dump and returns its memory, to be filled. */
void *kv_dump_add(struct kv_dump *out, int *n, const char *name, enum dtype dtype, const int64_t shape[3]);

#endif
