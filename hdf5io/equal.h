/* Whether two results files have equal content: everything but rank, attempt, times, peak bytes, places
 * (text_at, …), /timing and the root attributes that describe the machine. */
#ifndef KVS_HDF5IO_EQUAL_H
#define KVS_HDF5IO_EQUAL_H

#include "base/str.h"

/* Puts one line about the first difference into *difference, or leaves it empty. Reads journals too. */
int equal_files(const char *a, const char *b, struct str *difference);

#endif
