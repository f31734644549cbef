/* Figures as SVG text (self-contained: usable inside a page or as a file). */
#ifndef KVS_HDF5IO_FIGURE_H
#define KVS_HDF5IO_FIGURE_H

#include "hdf5io/summary.h"

/* Needle heat map of one setting and task: columns lengths, rows depths, a cell the mean score. False when
 * the task has no lengths. */
bool figure_needle(const struct summary *s, int setting, int task, struct str *out);
/* Scores of all settings of one model against bytes of the KV cache, with intervals; the frontier is drawn
 * through those that nothing beats. */
void figure_frontier(const struct summary *s, const char *model, struct str *out);
/* Short name of a setting: its method, without the model; "h2o:ratio=8" where that means the same as its
 * parameters. */
const char *figure_label(const struct sink_setting *st, char *buf, size_t cap);

#endif
