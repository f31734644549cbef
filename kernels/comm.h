/* A group of ranks that brings the same bytes into the memory of all their devices: weights are read by one
 * rank and handed on.
 *
 * Device memory travels in one of two ways. "host": by MPI (comm_mpi.c). That is how CPUs do it; GPUs
 * go through pinned memory there, since Debian's Open MPI cannot read theirs. "nccl": from GPU to GPU
 * (comm_nccl.cu, in the CUDA module), where ops->join is there and works for every rank of the group.
 *
 * Only weights travel so. Logits do not: ops->pick reduces them on the GPU, and what leaves it for a token
 * is the K best and their sum (about 0.4 KB), once per answer a row of n_vocab f16 (256 KB for 128k words),
 * and a bundle's rows reach rank 0's journal in one message, when it is complete. At one row per answer of
 * seconds, gathering between GPUs could save nothing that is measurable, and the rows would be needed in the
 * host memory of rank 0 all the same.
 *
 * Every call is made by all ranks of the group in the same order. Waiting never spins for long. A rank that
 * gives no sign of life for s_wait seconds, or an error of the way itself, is ERR_IO (ERR_DEVICE) with one
 * line, and `lost` is set: the group is of no use any more and its ranks may be at different places, so the
 * job should end. */
#ifndef KVS_KERNELS_COMM_H
#define KVS_KERNELS_COMM_H

#include "base/poll.h"
#include "kernels/ops.h"

struct comm {
    const char *way; /* "host", "nccl" */
    int rank, n_rank;
    double s_wait;
    struct poll poll; /* called while this rank waits for others; what it says is for the loader */
    struct ops *ops;
    bool met;  /* for users: this rank has taken part in its first exchange */
    bool lost; /* see above */
    /* all [n_rank, bytes] <- `mine` of every rank; host memory. */
    int (*exchange)(struct comm *c, const void *mine, void *all, size_t bytes);
    /* Memory of the device: data [bytes] of rank `root` -> data of everyone. Complete on return. */
    int (*broadcast)(struct comm *c, void *data, size_t bytes, int root);
    /* Set by ops->join, with broadcast and way. */
    void *wire;
    void (*wire_close)(struct comm *c);
    void *impl;
};

/* Collective over all ranks of the job, after MPI has started: ranks of the same colour >= 0 form a group in
 * the order of their ranks. *c is NULL for colour -1 and for groups of one. `gpus`: ops->join is tried, and
 * without it the group goes through the host, with one line in the log of its first rank. ERR_NOMEM without
 * pinned memory, ERR_IO. */
int comm_open(struct comm **c, struct ops *ops, int colour, bool gpus, double s_wait, struct poll poll);
void comm_close(struct comm *c); /* accepts NULL; not collective */

#endif
