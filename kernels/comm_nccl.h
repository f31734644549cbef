/* ops->join of the CUDA backend: groups of ranks over NCCL (comm.h). */
#ifndef KVS_KERNELS_COMM_NCCL_H
#define KVS_KERNELS_COMM_NCCL_H

#include "kernels/cuda/cuda.h"

/* ERR_DEVICE with one line if a rank of the group has no NCCL (2.14 or newer) or its groups do not start. */
int comm_nccl_join(struct ops *o, struct comm *c);

#endif
