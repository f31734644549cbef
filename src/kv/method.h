/* For authors of compressors. A missing (NULL) hook means the plain behaviour, so `full` is a method without
 * hooks. methods.def says step by step how to add one. */
#ifndef KVS_KV_METHOD_H
#define KVS_KV_METHOD_H

#include "kv/kv.h"

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
    /* Before any weight is read. ERR_INPUT names the parameter and what is allowed. kind NULL: the
     * parameters among themselves only (kv_spec_parse); else a kind of layer that it would act on. */
    int (*check)(const void *params, const struct layer_kind *kind);
    double (*nominal_ratio)(const void *params); /* NULL: 1 */
    /* 0: the plain prompt pass, which settings may share. Otherwise caches with equal keys would be equal
     * after the prompt. NULL: 0. */
    uint64_t (*prefill_key)(const void *params, int64_t n_prompt, const struct layer_kind *kind);
    /* What from_dense wants of the shared pass: bits of enum kv_watch. NULL: nothing but keys and values. */
    unsigned (*wants)(const void *params);
    /* Whether it holds on to the shared prompt cache: its bytes are the sequence's too. NULL: no. */
    bool (*keeps_prompt)(const void *params);
    /* What it takes depends on the layer within its kind, so that predictions open every one. */
    bool per_layer;
    /* It can act on layers with a window (window_layers=1): its rows see no key that the layer would not show
     * them, and shares of the prompt are of what the layer would hold. Otherwise such a setting is refused.
     */
    bool windows;
    /* Takes everything that the sequence will hold, through c->ops->alloc, copy and sync alone: what a cache
     * will take is learned by opening it on a backend that owns nothing (kv_predict). */
    int (*open)(struct kv_cache *c);
    /* Builds the cache from the shared prompt cache (read-only; take a reference with kv_dense_ref to keep
     * it). Needed when prefill_key can be 0. */
    int (*from_dense)(struct kv_cache *c, struct kv_dense *dense);
    /* Attend, append, commit, for n caches of this method in one layer; prefill chunks and decode steps
     * alike. The order of these three is the method's. Prefill chunks come cut at multiples of the backend's
     * chunk (512 positions or a multiple of them), the last prompt token by itself when the key is not 0. */
    int (*step)(struct kv_cache *const *c, struct kv_rows *rows, int n);
    void (*bytes)(const struct kv_cache *c, struct kv_ledger *l);    /* adds this layer's */
    void (*budgets)(const struct kv_cache *c, struct kv_budgets *b); /* fills what applies */
    int (*dump)(const struct kv_cache *c, struct kv_dump out[KV_DUMP_MAX],
                int *n); /* QUANT_* arrays unpacked to one byte a code */
    void (*close)(struct kv_cache *c);
};

/* Whether the method has a cache of its own, or leaves every layer to the plain one. */
bool kv_acts(const struct kv_method *m);

/* Layers of a spec (layers.c). "skip_layers=0-1;30" or "window_layers=1"; ERR_INPUT begins with `where`. */
int kv_layers_set(struct kv_spec *s, const char *item, const char *where);
/* Canonical text, added behind a comma where *out holds something; nothing for the defaults. */
void kv_layers_text(const struct kv_layers *l, struct str *out);
/* ERR_INPUT: a layer that the model does not have, or nothing left to act on. */
int kv_layers_check(const struct kv_spec *s, const struct seq_shape *shape);

/* ---- Tools ---- */

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
size_t kv_row_bytes(const struct kv_cache *c);
/* View of n cached rows: [n,Hk,d] in the cache dtype. */
struct tensor kv_tensor(const struct kv_cache *c, void *data, int64_t n);
/* Rows [at, at+n) of t as a run whose first token has position pos. */
struct kv_run kv_run_of(const struct tensor *t, int64_t at, int64_t n, int64_t pos);
/* A ring keeps token j in row (j - base) % capacity. Runs of tokens [from, to), oldest first: 0, 1 or 2. */
int kv_ring_runs(const struct tensor *ring, int64_t base, int64_t from, int64_t to, struct kv_run out[2]);
/* Copies rows (tokens pos, pos+1, ...; not more than the capacity) into their places. */
void kv_ring_put(struct ops *ops, const struct tensor *ring, int64_t base, const struct tensor *rows,
                 int64_t pos);
/* Everything of one attention over a plain causal set but its runs: q and out from `r`, scale and window of
 * the kind.
 */
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
