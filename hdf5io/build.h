/* Writes a whole results file from a store: next to its place, closed, synced, then renamed. */
#ifndef KVS_HDF5IO_BUILD_H
#define KVS_HDF5IO_BUILD_H

#include "hdf5io/lock.h"
#include "hdf5io/store.h"

/* `logits`: with the big arrays. n_unit: units of the whole grid. On error the old file stays as it was.
 * A symbolic link stays: what it leads to is replaced, what users added to that is kept (keep.h). `lock` (may
 * be NULL) must still be held when the file takes its name. *n_lost (may be NULL): units whose logits are
 * damaged in the journal; the file does not count as packed then. */
int build_file(struct store *s, const char *path, bool logits, int deflate, int64_t n_unit,
               const struct lock *lock, int64_t *n_lost);

#endif
