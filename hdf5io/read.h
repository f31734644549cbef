/* Results back in memory: FILE.h5 and, where there is one, its journal (a running job). For status, report,
 * export, diff and verify. */
#ifndef KVS_HDF5IO_READ_H
#define KVS_HDF5IO_READ_H

#include "hdf5io/sink.h"

struct results {
    char *path;
    /* root attributes, owned */
    char *kvsweep_version, *git_commit, *config_yaml, *created, *host, *device, *isa, *driver, *libraries,
        *mode;
    int32_t schema_version, n_ranks, threads;
    struct sink_setting *setting; /* text owned */
    int n_setting;
    struct sink_task *task;
    int n_task;
    struct sink_example *example; /* ordered by task, then example */
    int64_t n_example;
    struct record
        *record; /* without logits; text, error, tokens, metrics, budgets, ledger, fidelity present */
    int64_t n_record;
    struct sink_timing *timing;
    int n_timing;
    int64_t n_unit; /* units of the whole grid; n_record of them are done */
    bool running;   /* a journal exists */
    void *own;      /* the text behind the pointers above */
};
int results_open(struct results *r,
                 const char *path); /* ERR_INPUT: not a results file, or of a later schema version (says
                                     which); an earlier one is read with empty columns and a warning */
/* Reads all logits of a file (not of a journal), which no reader of results needs. ERR_DAMAGED: some are not
 * what was written. */
int results_check_logits(const char *path);
/* Whether results of a sweep are at `path`, finished or as a journal: other commands do not write there. */
bool results_at(const char *path);
void results_close(struct results *r);
const struct sink_example *results_example(const struct results *r, int32_t task, int32_t example);

#endif
