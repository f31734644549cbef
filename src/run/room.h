/* How much device memory a sequence would want, for records of those that got none. Internal to src/run. */
#ifndef KVS_RUN_ROOM_H
#define KVS_RUN_ROOM_H

#include "kv/kv.h"

/* Device bytes of one sequence with n_prompt + max_new tokens: its caches, and the plain prompt pass that it
 * starts from where it shares one. 0 if they cannot be told. */
uint64_t room_wanted(const struct kv_spec *spec, const struct seq_shape *shape, int64_t n_prompt,
                     int64_t max_new);
/* Tokens of the longest prompt (below n_prompt) that such a sequence could have alone on this device, beside
 * the weights and the workspace; 0: none. */
int64_t room_longest(const struct ops *ops, const struct kv_spec *spec, const struct seq_shape *shape,
                     int64_t n_prompt, int64_t max_new);

#endif
