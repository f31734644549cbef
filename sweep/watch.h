/* Signs of life of one rank. A thread of its own watches the working thread: where that makes no progress for
 * too long, it says so in one line and ends the process with status 75 (mpirun then ends the others). What is
 * finished is in the journal, so the same command goes on.
 *
 * Time is counted while this process runs: a job that was suspended as a whole goes on where it was. The
 * limit is
 * --wait, or three times the predicted step where that is longer. Of several ranks that notice the same the
 * nearest speaks first: the rank itself, then rank 0 about the others, then the others about rank 0; all of
 * them within the limit. After SIGTERM a rank that hangs is given ten seconds, after SIGUSR1 a minute. */
#ifndef KVS_SWEEP_WATCH_H
#define KVS_SWEEP_WATCH_H

#include <stdint.h>

enum { WATCH_SELF = -1, WATCH_OTHERS = -2 }; /* for watch_wait, beside ranks */
enum { WATCH_HOST = 64 };

struct watch;
/* `rank`: as the environment has it, until watch_ranks. s_wait: seconds. */
int watch_open(struct watch **w, double s_wait, int rank);
void watch_close(struct watch *w); /* accepts NULL, as all of these do */
/* Who takes part; host [n_rank] is copied. */
void watch_ranks(struct watch *w, int rank, int n_rank, const char (*host)[WATCH_HOST]);
/* The working thread got on. */
void watch_step(struct watch *w);
/* What it does from now on ("loads weights", "writes results"), in which bundle (0: none), and how many
 * seconds a step of it may take by the plan (0: nothing is known). */
void watch_task(struct watch *w, const char *what, uint64_t bundle, double s_step);
/* For whom it waits: a rank, WATCH_OTHERS, or WATCH_SELF: for nobody, it works. Returns what it was before.
 */
int watch_wait(struct watch *w, int rank);
double watch_life(const struct watch *w); /* seconds that this process has run */
/* Seconds without a sign of life after which `rank` counts as lost for this one; s_step as above. */
double watch_limit(const struct watch *w, int rank, double s_step);
/* One line about a rank that was silent for `s` seconds: ERR_AGAIN. */
int watch_lost(const struct watch *w, int rank, double s, const char *what, uint64_t bundle);
/* What the working thread does, for others. */
uint64_t watch_bundle(const struct watch *w);
double watch_step_s(const struct watch *w);

#endif
