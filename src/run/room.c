#include "run/room.h"

uint64_t room_wanted(const struct kv_spec *spec, const struct seq_shape *shape, int64_t n_prompt,
                     int64_t max_new)
{
    struct kv_ledger l = {0};
    if (kv_predict(spec, shape, n_prompt, n_prompt + max_new, &l) < 0)
        return 0;
    bool shares = !kv_spec_plain(spec) && kv_prefill_key(spec, n_prompt, shape) == 0;
    /* a plain cache goes on in the prompt pass's own memory */
    uint64_t pass = shares ? kv_spec_acted_bytes(spec, shape, n_prompt) : 0;
    return kv_ledger_place(&l, PLACE_DEVICE) + pass;
}

static bool fits(uint64_t room, const struct kv_spec *spec, const struct seq_shape *shape, int64_t n,
                 int64_t max_new)
{
    uint64_t want = room_wanted(spec, shape, n, max_new);
    return want > 0 && want <= room;
}

int64_t room_longest(const struct ops *ops, const struct kv_spec *spec, const struct seq_shape *shape,
                     int64_t n_prompt, int64_t max_new)
{
    size_t limit = ops->limit(ops),
           held = ops->used(ops, MEM_WEIGHTS, PLACE_DEVICE) + ops->used(ops, MEM_WORKSPACE, PLACE_DEVICE);
    uint64_t room = limit > held ? limit - held : 0;
    int64_t yes = 0, no = n_prompt;
    while (no - yes > 1) {
        int64_t n = yes + (no - yes) / 2;
        if (fits(room, spec, shape, n, max_new))
            yes = n;
        else
            no = n;
    }
    return yes;
}
