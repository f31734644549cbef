/* The report of a results file: index.html (self-contained), tables as Markdown and CSV, figures as SVG. */
#ifndef KVS_HDF5IO_REPORT_H
#define KVS_HDF5IO_REPORT_H

#include "base/str.h"

/* Writes into the folder (made if needed): index.html, settings.{md,csv}, tasks.{md,csv}, needle_*.svg,
 * frontier_*.svg. Adds a line to *refused for each setting that could not run: "refused: ID: reason". */
int report_write(const char *results_path, const char *dir, struct str *refused);

#endif
