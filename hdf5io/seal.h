/* The seal of a results file: a checksum behind its end, over its bytes, so that damage is seen before HDF5,
 * which can crash on it, reads anything. HDF5 does not look behind the end that it knows, and any program
 * that opens the file for writing cuts the seal off with its first close: a seal that does not fit is damage,
 * a missing one says that somebody else has written the file since (then check.h and Fletcher-32 guard what
 * is read). Chunks of /logits, by far the most, are left out: HDF5 checks each by Fletcher-32 when it reads
 * it. Layout, little endian: n_range times {u64 from, u64 to} (bytes left out, ascending), then struct seal.
 */
#ifndef KVS_HDF5IO_SEAL_H
#define KVS_HDF5IO_SEAL_H

#include "hdf5io/h5.h"

struct seal {
    char magic[8];    /* "KVSSEAL1" */
    uint64_t bytes;   /* of the HDF5 file, to the first range */
    uint64_t n_range; /* bytes [from, to) that are left out */
    uint64_t sum;     /* XXH3-64 of the rest, then of the ranges and the three values above */
};

/* Puts a seal behind a closed file that has none. */
int seal_put(const char *path);
/* ERR_DAMAGED: there is a seal, and the file is not what it was put on. 0: it is, or there is none. */
int seal_check(const char *path);

#endif
