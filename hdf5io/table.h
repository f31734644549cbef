/* Tables of the report in their three forms. */
#ifndef KVS_HDF5IO_TABLE_H
#define KVS_HDF5IO_TABLE_H

#include "hdf5io/summary.h"

enum table_form { TABLE_MD, TABLE_CSV, TABLE_HTML };
/* A row per setting: score and paired difference to `full` with their intervals, p of that difference
 * adjusted for the number of settings (Holm), least difference that could show, bytes, ratio, peak, prefill,
 * decode. */
void table_settings(const struct summary *s, enum table_form form, struct str *out);
/* A row per setting, a column per task: 100 x mean score, with its interval. */
void table_tasks(const struct summary *s, enum table_form form, struct str *out);
/* The same by category. False (and nothing written) when the file holds one only. */
bool table_categories(const struct summary *s, enum table_form form, struct str *out);
/* A row per setting: distance of its next-token distributions from those of the full cache. False (and
 * nothing written) when the file holds none. */
bool table_fidelity(const struct summary *s, enum table_form form, struct str *out);
/* A row per setting that could not run, with the reason; the others' tables do not have it. False likewise.
 */
bool table_refused(const struct summary *s, enum table_form form, struct str *out);

#endif
