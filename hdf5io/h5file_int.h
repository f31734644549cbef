/* Shared by the files that read results. */
#ifndef KVS_HDF5IO_H5FILE_INT_H
#define KVS_HDF5IO_H5FILE_INT_H

#include "hdf5io/h5file.h"

/* The rows of a table into *(void **)rows, owned (h5_free_table). */
int h5file_table(const struct h5file *f, enum table_id id, void *rows, int64_t *n);

/* Whether [at, at + len) lies in [0, total). */
static inline bool h5file_inside(int64_t at, int64_t len, int64_t total)
{
    return at >= 0 && len >= 0 && at <= total && len <= total - at;
}

#endif
