/* What a user added to a results file (datasets, groups, links and attributes, at any place) goes into the
 * file that replaces it. Ours are the tables and arrays of schema.h with the attributes that the new file
 * has; all else is the user's. */
#ifndef KVS_HDF5IO_KEEP_H
#define KVS_HDF5IO_KEEP_H

#include "hdf5io/schema.h"

/* Copies what the file at `from` has beside kvsweep's own and `to`, whose own parts are complete, has not.
 * Nothing is at `from`: nothing to do. ERR_INPUT names what cannot be copied. */
int keep_users(hid_t to, const char *from);
/* Renames a file that is damaged to PATH.damaged (.2, .3, …) and says so in one line. */
int keep_damaged(const char *path);

#endif
