/* Shared by the two sides of the farm. */
#ifndef KVS_SWEEP_FARM_INT_H
#define KVS_SWEEP_FARM_INT_H

#include "sweep/farm.h"
#include "sweep/jobs.h"
#include "sweep/progress.h"
#include "sweep/stop.h"

/* Follower to leader: READY, RESULT, GAVE_UP, ERROR (each also asks for work), WISH. Leader to follower: WORK
 * (a struct job follows), STOP (give up), END. */
enum msg_kind { MSG_READY, MSG_RESULT, MSG_GAVE_UP, MSG_ERROR, MSG_WISH, MSG_WORK, MSG_STOP, MSG_END };
struct farm_msg {
    int32_t kind, job, loaded, wish, rc, rank;
    uint64_t weights[2]; /* of the loaded model (struct worker) */
    uint64_t n_small;    /* RESULT: bytes of the records; their logits follow */
};

struct farm_peer {
    int busy, loaded; /* job, model; -1: none */
    bool waiting, told, ended;
};

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
int farm_follow(struct link *l, const struct plan *plan, const struct farm_options *opt);
/* Reads what the file holds already: scores for the progress line, timings. */
int farm_history(struct farm *f);
/* Times some units alone, one after another, on this rank. */
void farm_timing(struct farm *f);

#endif
