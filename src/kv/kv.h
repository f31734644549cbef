/* KV caches and compressors, for their users. A cache sees the rows of new tokens and the backend, never
 * a model. Authors of methods read method.h. */
#ifndef KVS_KV_KV_H
#define KVS_KV_KV_H

#include "base/param.h"
#include "kv/shape.h"

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

/* One layer of a finished prompt, read-only once frozen, reference-counted: rotated keys and values in the
 * cache dtype (all of them, or a window's ring), or the state of a recurrent layer. */
struct kv_dense {
    struct tensor k, v; /* [capacity,Hk,d]; a window's: token t in row t % capacity */
    float *attn_scores; /* [H,capacity]: probability that the prompt's rows gave each key, summed; NULL unless
                    kv_watch asked for it, and from kv_dense_settle on */
    float *norm;        /* [Hk,capacity]: minus the norms of the keys before RoPE and before they were rounded to
                           the cache dtype (ops->norms): equal tokens have equal ones wherever they stand. NULL
                           likewise */
    struct tensor state[SHAPE_STATES]; /* of a recurrent layer */
    int64_t n;                         /* tokens that the prompt has */
    int refs;
};

struct kv_method; /* method.h */

/* What a sequence holds in one layer: the cache of a method where it acts, else the plain cache of all tokens
 * or of a window, or the state of a recurrent layer. */
struct kv_cache {
    const struct kv_method *method;
    const void *params;            /* borrowed: outlives the cache */
    const struct seq_shape *shape; /* borrowed likewise */
    const struct layer_kind *kind; /* of this layer */
    struct ops *ops;
    int32_t layer;
    int64_t n;               /* tokens seen */
    int64_t n_prompt, n_max; /* prompt tokens; most tokens it will ever see */
    void *state;             /* the method's own, or that of a layer without one (hold.h) */
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

/* What a plain pass can note of its keys for those that start from it (struct kv_dense). */
enum kv_watch { KV_WATCH_ATTN_SCORES = 1, KV_WATCH_NORM = 2 };

/* ---- Methods ---- */

const struct kv_method *kv_method_find(const char *name); /* NULL if unknown */
const struct kv_method *kv_method_at(int i);              /* NULL past the end */
const char *kv_method_name(const struct kv_method *m);
struct kv_info {
    const char *name, *source, *summary;
    const struct param *params; /* NULL: none */
    size_t params_bytes;
    bool ratio;           /* takes "ratio=N" */
    bool layers, windows; /* takes "skip_layers=LIST"; "window_layers=1" */
};
struct kv_info kv_method_info(const struct kv_method *m);

/* Which layers a method acts on, of all attention layers of a model: "skip_layers=0-1;30,window_layers=1". */
struct kv_layers {
    bool windows;            /* those with a window too */
    bool skip[SHAPE_LAYERS]; /* these stay full */
};

/* A method with its parameters parsed: "kivi:bits=2", "streaming:ratio=4". */
struct kv_spec {
    const struct kv_method *method;
    void *params;         /* owned */
    char *text;           /* canonical full text: "kivi:bits=2,group=32,residual=128" */
    char *label;          /* short text for people: "kivi:bits=2" */
    double nominal_ratio; /* NaN with a budget: it follows from the sequence */
    uint64_t budget; /* device bytes of a sequence, over all layers; 0: none. "streaming:budget=256MiB" */
    struct kv_layers layers;
};
int kv_spec_parse(struct kv_spec *s,
                  const char *text); /* ERR_INPUT: unknown method with the nearest name, bad parameter */
void kv_spec_free(struct kv_spec *s);
void kv_spec_copy(struct kv_spec *out, const struct kv_spec *spec); /* owned; nothing is read again */
/* Sets one parameter and the text with it; the label stays as it was asked for. ERR_INPUT as kv_spec_parse.
 */
int kv_spec_set(struct kv_spec *s, const char *key, const char *value);
/* Before any weight is read, whether the method can act on the layers of the model. ERR_INPUT names the
 * parameter and what is allowed, or says that the model has no layer that it could act on. */
int kv_spec_check(const struct kv_spec *s, const struct seq_shape *shape);
/* Whether every layer is uncompressed: the method has no cache of its own (`full`, and methods that rewrite
 * the prompt). */
bool kv_spec_plain(const struct kv_spec *s);
/* Whether "key=value" is one of the keys that stand beside a method's own: ratio, budget, skip_layers,
 * window_layers. */
bool kv_spec_shared_key(const char *item);
/* Whether the method acts on this layer. */
bool kv_spec_acts(const struct kv_spec *s, const struct seq_shape *shape, int32_t layer);
/* Bytes of n uncompressed tokens in the layers that it acts on. */
uint64_t kv_spec_acted_bytes(const struct kv_spec *s, const struct seq_shape *shape, int64_t n);
/* The spec for one sequence, owned: a copy, in which a budget has become the mildest parameters whose caches
 * (all layers, everything on the device) stay within it. ERR_INPUT says the smallest budget that is possible.
 */
int kv_spec_solve(struct kv_spec *out, const struct kv_spec *spec, const struct seq_shape *shape,
                  int64_t n_prompt, int64_t n_max);
/* Whether a method has a strength that budgets can choose, and the parameters at strength s (see the hook).
 */
bool kv_has_strength(const struct kv_method *m);
int kv_at_strength(const struct kv_method *m, void *params, double s);

/* What a sequence will take, to the byte, without a device (activations f32); a sequence that starts from a
 * shared prompt is told as if it were alone. The second adds one layer to the ledger. */
int kv_predict(const struct kv_spec *spec, const struct seq_shape *shape, int64_t n_prompt, int64_t n_max,
               struct kv_ledger *l);
int kv_predict_layer(const struct kv_spec *spec, const struct seq_shape *shape, int32_t layer,
                     int64_t n_prompt, int64_t n_max, struct kv_ledger *l);

/* ---- Caches ---- */

/* Opens a cache; ERR_NOMEM when the device is full (everything taken is given back). */
int kv_open(struct kv_cache *c, const struct kv_spec *spec, const struct seq_shape *shape, struct ops *ops,
            int32_t layer, int64_t n_prompt, int64_t n_max);
void kv_close(struct kv_cache *c); /* accepts a zeroed or half-opened cache */
/* Attends and appends new rows of n sequences in one layer: groups them by method, keeps their order
 * otherwise. */
int kv_step(struct kv_cache *const *c, struct kv_rows *rows, int n);
/* Array i of a recurrent layer, which its family updates in place; kv_advance then counts the tokens. */
struct tensor kv_state(const struct kv_cache *c, int32_t i);
int kv_advance(struct kv_cache *c, int64_t n_tokens);
void kv_bytes(const struct kv_cache *c, struct kv_ledger *l);
void kv_get_budgets(const struct kv_cache *c, struct kv_budgets *b); /* of this layer */
/* Of a sequence: the mean over the layers that keep all tokens and that a method acts on (if there are none,
 * over those with a window that it acts on); the true ratio is that of all layers. */
void kv_seq_budgets(const struct kv_cache *c, int32_t n_layer, struct kv_budgets *b);

/* 0: the sequence can start from the plain prompt pass; otherwise see the hook. */
uint64_t kv_prefill_key(const struct kv_spec *spec, int64_t n_prompt, const struct seq_shape *shape);
unsigned kv_wants(const struct kv_spec *spec); /* of a plain pass that it starts from: bits of enum kv_watch */
/* Makes a plain cache, before its first row, note attention scores or norms of its keys (workspace), where methods
 * can use them. Outputs do not change. ERR_NOMEM. */
int kv_watch(struct kv_cache *c, unsigned what);
/* Prompt cache of a plain cache that has seen its whole prompt: freezes it and gives a new reference.
 * ERR_NOMEM where a copy is needed (states, windows). */
int kv_freeze(struct kv_cache *c, struct kv_dense **d);
struct kv_dense *kv_dense_ref(struct kv_dense *d);
void kv_dense_unref(struct kv_dense *d, struct ops *ops);
void kv_dense_settle(struct kv_dense *d, struct ops *ops); /* no more forks: gives back what only they need */
/* A cache for `spec` that starts from a frozen prompt cache. */
int kv_fork(struct kv_cache *c, const struct kv_spec *spec, const struct seq_shape *shape, struct ops *ops,
            int32_t layer, struct kv_dense *dense, int64_t n_max);
/* Arrays of the method's dump hook; *n is 0 for methods without one. */
int kv_dump(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX], int *n);

#endif
