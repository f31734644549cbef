/* The newest tokens of a sequence: a ring, and a stage for calls of many rows, whose own first rows must not
 * push out keys that they still see. Shared by the plain cache of a window's layer and by StreamingLLM. */
#ifndef KVS_KV_WINDOW_H
#define KVS_KV_WINDOW_H

#include "kv/method.h"

struct kv_window {
    struct kv_mem mem[2];
    struct tensor ring[2]; /* k, v: [capacity,Hk,d]; token t in row (t - base) % capacity */
    int64_t base;          /* the first token that comes here */
};
int kv_window_open(const struct kv_cache *c, struct kv_window *w, int64_t capacity, int64_t base);
void kv_window_close(const struct kv_cache *c, struct kv_window *w); /* accepts a zeroed or half-opened one */
void kv_window_count(const struct kv_window *w, struct kv_ledger *l);

/* One step: n new rows from position `pos` on. They go to the ring straight away where that costs no row of
 * this call a key that it still sees, else by way of a stage (workspace), which lives for one step. */
struct kv_window_step {
    int64_t pos, n;
    int64_t n_old; /* tokens in the ring before the step */
    bool staged;
    struct kv_mem mem[2];
    struct tensor to[2]; /* where the new rows of k and v are written: [n,Hk,d] */
};
/* `alone`: the call has a single row. ERR_NOMEM leaves the step empty but for what kv_window_release gives
 * back. */
int kv_window_begin(const struct kv_cache *c, const struct kv_window *w, int64_t pos, int64_t n, bool alone,
                    struct kv_window_step *s);
/* Runs of keys (i = 0) or values (i = 1), oldest first: the ring (at most two), the stage. Returns how many.
 */
int kv_window_runs(const struct kv_window *w, const struct kv_window_step *s, int i, struct kv_run *out);
/* After the attention: moves the newest staged rows into the ring. */
void kv_window_end(struct ops *ops, const struct kv_window *w, const struct kv_window_step *s);
/* Gives the stage back, after a sync. */
void kv_window_release(const struct kv_cache *c, struct kv_window_step *s);

#endif
