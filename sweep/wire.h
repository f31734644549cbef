/* Messages between ranks as bytes: a head with a version and lengths, then a body. Reading is a pure function
 * of the bytes. */
#ifndef KVS_SWEEP_WIRE_H
#define KVS_SWEEP_WIRE_H

#include "base/str.h"
#include "sweep/worker.h"

/* Counts up with every change of struct wire_head, struct job or the packed form of records. */
enum { WIRE_VERSION = 1 };

/* Follower to leader: READY, RESULT, GAVE_UP, ERROR (each also asks for work), WISH. Leader to follower:
 * START (weights are read together now), WORK, STOP (give up), END (there is no more work), BYE (leave). Both
 * ways: ALIVE, when nothing else was to be said for a while. */
enum msg_kind {
    MSG_READY,
    MSG_RESULT,
    MSG_GAVE_UP,
    MSG_ERROR,
    MSG_WISH,
    MSG_START,
    MSG_WORK,
    MSG_STOP,
    MSG_END,
    MSG_BYE,
    MSG_ALIVE,
    MSG_N
};

struct wire_msg {
    int32_t kind, job, loaded; /* kind: enum msg_kind; job, loaded: -1 for none */
    int32_t wish, rc;          /* enum stop_wish; 0 or an enum kvs_err */
    uint64_t bundle;           /* that the sender computes, 0 for none */
    double s_step;             /* seconds that a step of it may take */
    uint64_t weights[2];       /* weights_xxh3 of the loaded model (struct worker), 0 where it is not known */
    uint64_t n_small, n_big;   /* RESULT: packed records, their logits; ERROR: n_small bytes of text */
    struct job work;           /* WORK */
};
struct wire {
    struct wire_msg m;
    const char *small, *big; /* [n_small], [n_big]: in the bytes that were read */
};

/* Appends a message. small [m->n_small] and big [m->n_big] may be NULL where those are 0. */
void wire_put(struct str *out, const struct wire_msg *m, const void *small, const void *big);
/* Reads a whole message. ERR_INPUT: another version, an unknown kind, lengths that do not add up, values that
 * no rank sends. */
int wire_get(struct wire *w, const void *bytes, size_t n);

#endif
