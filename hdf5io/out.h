/* A dataset that grows by rows: whole chunks go to HDF5, the rest waits in a buffer. */
#ifndef KVS_HDF5IO_OUT_H
#define KVS_HDF5IO_OUT_H

#include "hdf5io/check.h"
#include "hdf5io/h5.h"

struct out {
    hid_t dset, type; /* type in memory */
    size_t row_bytes;
    int64_t width; /* values per row, 0: 1-D */
    int64_t n;     /* rows added */
    int64_t chunk, n_buf;
    char *buf;
    struct check *sum; /* taken over; NULL: none */
};

/* `type` is taken over. n_rows: how many rows are expected (for the chunk: that many, at most 2 MiB).
 * deflate 0..9; text columns are never compressed. Every chunk has a Fletcher-32 checksum. */
int out_open(struct out *o, hid_t where, const char *name, hid_t type, size_t value_bytes, int64_t width,
             int64_t n_rows, int deflate);
int out_add(struct out *o, const void *rows, int64_t n);
/* Writes the rest. Accepts a zeroed one. */
int out_close(struct out *o);
void out_drop(struct out *o); /* the same after an error, without writing */

#endif
