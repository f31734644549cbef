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

/* Rows of /settings, /tasks (columns.def) and /examples: fixed when the run starts. Text is borrowed until
 * sink_open returns; NULL is as empty text. */
#define SINK_C_TEXT const char *
#define SINK_C_I32  int32_t
#define SINK_C_I64  int64_t
#define SINK_C_U64  uint64_t
#define SINK_C_F64  double
struct sink_setting {
#define SETTING(type, name, role, since, units, what) SINK_C_##type name;
#include "hdf5io/columns.def"
};
struct sink_task {
#define TASK(type, name, role, since, units, what) SINK_C_##type name;
#include "hdf5io/columns.def"
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
    const uint64_t (
        *unit_id)[2]; /* [n_unit] high, low; borrowed until sink_open returns. NULL: told by rows */
    double s_wait; /* until the lock of a run on another machine whose heartbeat stands still is taken over */
    struct poll poll; /* called while files are read and written */
};
struct sink_timing {
#define TIMING(type, name, since, units, what) SINK_C_##type name;
#include "hdf5io/columns.def"
};
_Static_assert(sizeof(struct sink_timing) == 72, "no padding: the journal holds these rows as they are");

/* Records of one finished bundle in the flat form of record_pack; borrowed. */
struct sink_bundle {
    const void *small, *big;
    size_t n_small, n_big;
};

struct sink;
struct sink_type {
    const char *name;
    int (*open)(struct sink **s, const char *path, const struct sink_plan *plan);
    /* Whether the unit is already in the file or journal. */
    bool (*has)(const struct sink *s, uint64_t unit_hi, uint64_t unit_lo);
    /* Appends n finished bundles as they came from the rank that computed them; returns after they are safe
     * on disk (group commit). ERR_INPUT: a damaged pack, ERR_INTERNAL: one of another plan; nothing is kept
     * then. */
    int (*put)(struct sink *s, const struct sink_bundle *b, int n);
    /* The weights that were read for a model hash (weights_xxh3 of /settings). ERR_INPUT if the results hold
     * units of other weights under it: those of this run must not be added. */
    int (*put_weights)(struct sink *s, const char *model_hash, const char *xxh3);
    int (*put_timing)(struct sink *s, const struct sink_timing *t, int n);
    /* Rebuilds FILE.h5 from the journal when the last rebuild is older than its interval or `now`; without
     * big logits unless final. */
    int (*refresh)(struct sink *s, bool now, bool final);
    int (*close)(struct sink *s);         /* final refresh if the grid is complete, then the journal goes */
    int (*attempt)(const struct sink *s); /* 1 for the first start, counts up with every resume */
};
extern const struct sink_type sink_hdf5, sink_null;
/* The records of one bundle that were computed here: packs and puts them. */
int sink_put_records(const struct sink_type *type, struct sink *s, const struct record *r, int n);

/* Builds the complete FILE.h5 from its journal (`kvsweep pack`). deflate 0..9, 0 off. */
int sink_pack(const char *path, int deflate);
/* Merges several results files of equal plans' vocabulary (tasks, settings matched by content) into one. Of
 * equal units those with more logits are taken, whatever the order. ERR_INPUT if the files hold different
 * answers for a unit, unless keep_first. */
int sink_merge(const char *const *paths, int n, const char *out, bool keep_first);

#endif
