/* A function that the working thread calls whenever it got on: after a prefill chunk, a decode step, a
 * tensor, a block of a file. It is the program's sign of life, and it may serve others. Nonzero: give up what
 * you do. */
#ifndef KVS_BASE_POLL_H
#define KVS_BASE_POLL_H

#include "base/err.h"

struct poll {
    int (*call)(void *ctx); /* may be NULL */
    void *ctx;
};

/* ERR_INTERNAL "stopped" when the caller should give up. */
static inline int poll_call(const struct poll *p)
{
    return p->call && p->call(p->ctx) != 0 ? err_set(ERR_INTERNAL, "stopped") : 0;
}

#endif
