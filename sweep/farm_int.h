/* Shared by the two sides of the farm. */
#ifndef KVS_SWEEP_FARM_INT_H
#define KVS_SWEEP_FARM_INT_H

#include "sweep/farm.h"
#include "sweep/jobs.h"
#include "sweep/progress.h"
#include "sweep/stop.h"
#include "sweep/wire.h"

struct farm_peer {
    int busy, loaded; /* job, model; -1: none */
    bool waiting, told, ended;
    double heard;    /* life of this process when its last sign of life came */
    uint64_t bundle; /* that it computes, as it said; 0: none */
    double s_step;
};

/* When this rank last said something to others. */
struct beat {
    double said;
};
/* Whether it is time to say that this rank lives, and marks it as said. */
bool farm_beat_due(struct beat *b, const struct watch *w, double s_wait);
/* What every message of this rank says of it. */
struct wire_msg farm_msg(enum msg_kind kind, const struct watch *w);
void farm_send(struct link *l, int to, const struct wire_msg *m, const void *small, const void *big);

/* The leader's state. */
struct farm {
    struct link *link;
    const struct plan *plan;
    const struct farm_options *opt;
    struct worker worker;
    const struct sink_type *type;
    struct sink *sink;
    struct jobs jobs;
    struct farm_peer *peer; /* [n_rank] */
    struct progress progress;
    struct beat beat;
    double s_stop; /* life of this process when a wish to stop at once was seen; 0: none */
    struct str in;
    char *crash_dir;
    int attempt;
    int64_t n_new;
    enum stop_wish wish;
    int fail; /* code of the first failure of the run, or 0 */
    char *fail_text;
    uint8_t *timed; /* [setting * task * example]: in the file already; see farm_timing.c */
};
void farm_fail(struct farm *f, int rc, int rank); /* rank -1: of no rank in particular */
bool farm_stopping(const struct farm *f);
void farm_refresh(struct farm *f);
/* The results are told which weights a rank has read, before any of its units: they may hold units of others
 * under the same model hash, and the run then fails. */
void farm_weights(struct farm *f, int model, const uint64_t weights[2], int rank);
/* The leader's poll: one round, in which all messages that are there become one group commit. Nonzero: give
 * up. */
int farm_serve(void *farm);
/* Its poll while it must not take messages: says that it lives. */
int farm_alive(void *farm);
/* To all followers. */
void farm_tell_all(struct farm *f, enum msg_kind kind, int rc);
/* Records computed here, safe on disk when this returns. */
void farm_commit_own(struct farm *f, const struct record *r, int n);
int farm_follow(struct link *l, const struct plan *plan, const struct farm_options *opt);
/* Reads what the file holds already: scores for the progress line, timings. */
int farm_history(struct farm *f);
/* Times some units alone, one after another, on this rank. */
void farm_timing(struct farm *f);

#endif
