/* A new HDF5 file of plain named arrays, for `kvsweep logits`: rows arrive one chunk at a time. */
#ifndef KVS_HDF5IO_ARRAYS_H
#define KVS_HDF5IO_ARRAYS_H

#include "kernels/ops.h"

#include <stdint.h>

struct arrays;
/* ERR_INPUT if what is at `path` may not be replaced: results of a sweep, or something that is no file. */
int arrays_check(const char *path);
/* Begins a file that replaces `path` when it is closed. Errors of arrays_check; ERR_IO names it. */
int arrays_open(struct arrays **a, const char *path);
/* Writes a whole array; `name` may hold folders ("/qkv/layer_00/q"), which are made. rank 1..4; f16 is stored
 * as a 2-byte float, u8 as bytes. */
int arrays_put(struct arrays *a, const char *name, enum dtype dtype, int rank, const int64_t *n,
               const void *data);
/* Appends rows to an array that grows along its first dimension; n[0] rows now, the others fixed at the first
 * call. */
int arrays_append(struct arrays *a, const char *name, enum dtype dtype, int rank, const int64_t *n,
                  const void *data);
/* Attribute of a group or dataset ("/" for the file); groups are made. */
int arrays_attr(struct arrays *a, const char *object, const char *name, double value);
int arrays_attr_text(struct arrays *a, const char *object, const char *name, const char *value);
/* Puts the file in its place; ERR_IO if something could not be written. Accepts NULL. */
int arrays_close(struct arrays *a);
void arrays_drop(struct arrays *a); /* gives it up: what was at `path` stays. Accepts NULL */

#endif
