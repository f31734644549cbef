/* A results file opened for reading: its book, its records in the flat form of record_pack, its logits by
 * row. */
#ifndef KVS_HDF5IO_H5FILE_H
#define KVS_HDF5IO_H5FILE_H

#include "hdf5io/h5.h"

/* The arrays of logits of a record. */
enum part { PART_TOPK_ID, PART_LOGSUMEXP, PART_TOPK_LOGIT, PART_FIRST, PART_N };
const char *part_name(enum part p); /* of the dataset */
/* Values per row and bytes per value of a part. */
int64_t part_width(enum part p, const struct record *r);
size_t part_size(enum part p);
int64_t part_rows(enum part p, const struct record *r);

/* One group below /logits. */
struct h5_logits {
    const char *model, *model_hash;
    hid_t dset[PART_N]; /* -1 if absent */
    int64_t n_row[PART_N], width[PART_N];
};
struct h5file {
    char *path;
    hid_t file;
    struct book book;
    bool packed; /* the logits that were asked for are inside */
    struct row_record *row;
    int64_t n_row;
    struct sink_timing *timing;
    int n_timing;
    struct h5_logits *logits;
    int n_logits;
    /* after h5file_load: */
    struct str small;     /* records one after the other */
    uint64_t *small_at;   /* [n_row + 1] */
    struct record *count; /* [n_row] only n_new, n_first, n_vocab, n_top are set */
};
/* Attributes, tables and the rows of /records. ERR_INPUT: not a results file, or of another schema version.
 */
int h5file_open(struct h5file *f, const char *path);
/* The records with their text, tokens and values. */
int h5file_load(struct h5file *f);
void h5file_close(struct h5file *f); /* accepts a zeroed one */
/* n rows of a part of record `i` from its row `at` on. */
int h5file_part(const struct h5file *f, int64_t i, enum part p, int64_t at, int64_t n, void *dst);

#endif
