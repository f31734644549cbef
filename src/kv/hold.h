/* What a sequence holds in a layer where no method acts: all tokens, the newest ones, or a recurrent state.
 * Internal to src/kv. */
#ifndef KVS_KV_HOLD_H
#define KVS_KV_HOLD_H

#include "kv/method.h"

struct kv_hold {
    int (*open)(struct kv_cache *c);
    int (*from_dense)(struct kv_cache *c, struct kv_dense *dense); /* in place of open */
    /* The tokens so far become a frozen prompt, of which the caller gets a new reference. The cache may go on
     * behind them. */
    int (*freeze)(struct kv_cache *c, struct kv_dense **d);
    int (*step)(struct kv_cache *const *c, struct kv_rows *rows, int n);
    void (*bytes)(const struct kv_cache *c, struct kv_ledger *l);
    void (*close)(struct kv_cache *c);
};
extern const struct kv_hold kv_hold_all, kv_hold_window, kv_hold_state;

/* A frozen prompt of a cache's tokens with one reference, to be filled. */
struct kv_dense *kv_dense_new(const struct kv_cache *c);

#endif
