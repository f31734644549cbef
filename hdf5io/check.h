/* Checksums of what a results file says, so that a changed byte is an error and not a result.
 *   attribute `xxh3` (u64) of every table, of /text and of /tokens: XXH3-64 over the rows as they are read,
 * in order: of each column that the file has, in the order of schema.h, the bytes of the value (little
 *      endian; text with a zero byte behind it). Of arrays the bytes of their values.
 *   attribute `xxh3` (u64) of the file: the same over the root attributes that `xxh3_of` (text) names, with
 * one space between them: `xxh3_of` itself, then each name and value, text with a zero byte, integers as i64.
 * What a user adds to the file is in none of them. Files of version 1 have no checksums and are not checked;
 * one that is missing from a later file is damage. All failures of a check are ERR_DAMAGED. */
#ifndef KVS_HDF5IO_CHECK_H
#define KVS_HDF5IO_CHECK_H

#include "hdf5io/schema.h"

struct check; /* one checksum on its way */
/* Of a table, or of an array of values of `bytes` bytes when table is NULL. */
struct check *check_open(const struct table *table, size_t bytes);
void check_add(struct check *c, const void *rows, int64_t n);
/* Writes the attribute. Negative on failure. */
int check_put(const struct check *c, hid_t dataset);
void check_close(struct check *c); /* accepts NULL */

/* All rows of a dataset, as read, against its attribute. */
int check_values(hid_t dataset, const struct table *table, size_t bytes, const void *rows, int64_t n,
                 const char *name, const char *path);
/* Writes the checksum of all root attributes that are there: when everything else is. Negative on failure. */
int check_put_root(hid_t file);
int check_root(hid_t file, const char *path);

#endif
