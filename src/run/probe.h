/* One sequence under a magnifying glass: logits of given tokens, and seconds of prefill chunks and decode
 * steps. For `kvsweep logits` and `bench`. */
#ifndef KVS_RUN_PROBE_H
#define KVS_RUN_PROBE_H

#include "run/run.h"

struct probe_logits {
    const struct kv_spec *spec;
    enum dtype cache_dtype;
    struct model_overrides over;
    const int32_t *ids; /* prompt */
    int64_t n_ids;
    const int32_t *force; /* tokens to take, or NULL: greedy */
    int64_t n_force;
    int64_t max_new;
    bool all_positions; /* rows of the prompt too */
    /* Gets host rows of logits, in order: [n, n_vocab]. */
    int (*rows)(void *ctx, const float *logits, int64_t n, int64_t n_vocab);
    /* Sees q, k, v of every layer (see model_set_tap), and the finished sequence. May be NULL. */
    void (*tap)(void *ctx, int layer, const struct kv_rows *rows, int n);
    int (*finished)(void *ctx, const struct seq *s);
    void *ctx;
    int32_t *out_ids; /* [max_new] tokens chosen; no stop token ends this run */
};
/* Row i is the model's word after position i (all_positions), or after position n_ids - 1 + i. */
int probe_logits(struct runner *r, struct probe_logits *p);

struct probe_time {
    double s_prefill;     /* a prompt of n_ctx tokens */
    double s_step;        /* median of the decode steps of n_seq sequences at that context */
    double s_attend_step; /* of it: attention and cache work, over all layers (CPU backends; else 0) */
    uint64_t cache_bytes, device_bytes; /* of one sequence; the part on the device */
    int64_t prefill_passes;
    bool own_prompts; /* of the n_seq; else all have the same prompt, and may share memory of it */
};
/* Random tokens, n_steps timed steps after two warm ones. On a GPU every sequence has a prompt of its own:
 * keys and values that many share would come from its second-level cache. On CPUs, where a pass is
 * long, copies are forked from one prompt pass where the method allows. ERR_NOMEM comes before the first pass
 * where the caches cannot all fit. */
int probe_time(struct runner *r, const struct kv_spec *spec, int64_t n_ctx, int n_seq, int n_steps,
               struct probe_time *t);

#endif
