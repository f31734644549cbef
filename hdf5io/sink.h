/* Where results go. A sink is opened by rank 0 with everything that describes the run, takes finished
 * bundles, and tells which are done. sink_hdf5: journal beside FILE.h5, the file itself rebuilt atomically
 * (layout: schema.h). sink_null: forgets (benchmarks). */
#ifndef KVS_HDF5IO_SINK_H
#define KVS_HDF5IO_SINK_H

#include "base/poll.h"
#include "run/record.h"
#include "task/task.h"

#include <stdbool.h>
#include <stdint.h>

/* Rows of /settings, /tasks and /examples: fixed when the run starts. Text is borrowed until sink_open
 * returns. */
struct sink_setting {
    const char *id, *model, *model_hash, *family, *method, *params, *overrides, *dtype, *cache_dtype;
    double nominal_ratio;
};
struct sink_task {
    const char *id, *params, *metric, *category, *source_sha256;
    int32_t n_examples;
};
struct sink_example {
    int32_t task, example, n_words, iteration;
    const char *id;
    double length, depth;
    const char *gold_json; /* JSON list of gold answers */
};
/* Root attributes. */
struct sink_run {
    const char *kvsweep_version, *git_commit, *config_yaml, *host, *device, *isa, *driver, *libraries, *mode;
    int32_t n_ranks, threads;
    /* Text that must be equal for a run to be resumed (canonical plan); a difference is refused with the
     * first differing line. */
    const char *plan_text;
    int logits_first; /* 0 none, 1 first, 2 full */
    int topk;
};
struct sink_plan {
    struct sink_run run;
    const struct sink_setting *setting;
    int n_setting;
    const struct sink_task *task;
    int n_task;
    const struct sink_example *example;
    int64_t n_example;
    int64_t n_unit; /* units the whole grid has */
    double s_wait; /* until the lock of a run on another machine whose heartbeat stands still is taken over */
    struct poll poll; /* called while files are read and written */
};
struct sink_timing {
    int32_t setting, task, example, n_prompt, n_new;
    double s_prefill, s_decode;
    uint64_t peak_bytes;
    /* least seconds the measured limits of the device allow (products for the prompt, memory for the answer);
     * 0: not measured */
    double s_prefill_limit, s_decode_limit;
};

struct sink;
struct sink_type {
    const char *name;
    int (*open)(struct sink **s, const char *path, const struct sink_plan *plan);
    /* Whether the unit is already in the file or journal. */
    bool (*has)(const struct sink *s, uint64_t unit_hi, uint64_t unit_lo);
    /* Appends the records of a finished bundle; returns after they are safe on disk (group commit: may be
     * called with several bundles at once). */
    int (*put)(struct sink *s, const struct record *r, int n);
    int (*put_timing)(struct sink *s, const struct sink_timing *t, int n);
    /* Rebuilds FILE.h5 from the journal when the last rebuild is older than its interval or `now`; without
     * big logits unless final. */
    int (*refresh)(struct sink *s, bool now, bool final);
    int (*close)(struct sink *s);         /* final refresh if the grid is complete, then the journal goes */
    int (*attempt)(const struct sink *s); /* 1 for the first start, counts up with every resume */
};
extern const struct sink_type sink_hdf5, sink_null;

/* Builds the complete FILE.h5 from its journal (`kvsweep pack`). deflate 0..9, 0 off. */
int sink_pack(const char *path, int deflate);
/* Merges several results files of equal plans' vocabulary (tasks, settings matched by content) into one. Of
 * equal units those with more logits are taken, whatever the order. ERR_INPUT if the files hold different
 * answers for a unit, unless keep_first. */
int sink_merge(const char *const *paths, int n, const char *out, bool keep_first);

#endif
