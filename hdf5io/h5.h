/* Small steps on HDF5 files: quiet errors with one line of reason, opening, reading of whole tables and
 * arrays with every size checked. */
#ifndef KVS_HDF5IO_H5_H
#define KVS_HDF5IO_H5_H

#include "hdf5io/schema.h"

#include <stdbool.h>

/* Stops HDF5 from printing its error stack; call on entry of every public function. */
void h5_quiet(void);
/* err_set with the innermost reason of HDF5 (or the system's, if that was behind it) at the end. */
int h5_error(int code, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Opens for reading, without HDF5's file locks: results files are only ever replaced whole. *file is closed
 * by H5Fclose. */
int h5_open(hid_t *file, const char *path);
/* Integer attribute; `def` if it is not there. */
int h5_get_int(hid_t object, const char *name, int64_t def, int64_t *v, const char *path);
/* Text attribute, kept by the book; "" if it is not there. */
int h5_get_text(hid_t object, const char *name, struct book *b, const char **text, const char *path);
/* All rows of a table as its row structs, owned; text in them is released by h5_free_table. Columns that a
 * file of this schema version has not are zero. */
int h5_read_table(hid_t file, enum table_id id, int version, void **rows, int64_t *n, const char *path);
void h5_free_table(enum table_id id, void *rows, int64_t n);
/* All of a 1-D array, converted to mem_type of `size` bytes; owned. */
int h5_read_array(hid_t file, const char *name, hid_t mem_type, size_t size, void **data, int64_t *n,
                  const char *path);

#endif
