#include "sweep/watch.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/mem.h"
#include "sweep/stop.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Parts of the limit after which the rank itself, rank 0 and the others speak. */
#define SHARE_SELF   0.8
#define SHARE_LEADER 0.9
/* Seconds by which ranks behind the first let that one speak about rank 0. */
#define S_BEHIND 2.0
/* Seconds left to a rank that hangs after SIGUSR1 and SIGTERM. */
#define S_SOON 60.0
#define S_NOW  10.0
/* Seconds between two looks; what is longer was a time in which the process did not run. */
#define S_TICK 0.05
#define S_GAP  1.0

struct watch {
    double s_wait;
    pthread_t thread; /* runs already when the ranks become known */
    atomic_int rank, n_rank;
    _Atomic(char *) host; /* [n_rank, WATCH_HOST]; set after n_rank */
    atomic_bool ending;
    atomic_uint_fast64_t step, bundle;
    atomic_int waits_for;
    _Atomic double life, s_step; /* seconds */
    _Atomic(const char *) what;  /* a constant text */
};

double watch_life(const struct watch *w)
{
    return w ? atomic_load(&w->life) : clock_now();
}

uint64_t watch_bundle(const struct watch *w)
{
    return w ? atomic_load(&w->bundle) : 0;
}

double watch_step_s(const struct watch *w)
{
    return w ? atomic_load(&w->s_step) : 0;
}

static double at_most(double x, double most)
{
    return x < most ? x : most;
}

static double whole_limit(const struct watch *w, double s_step)
{
    double s = 3 * s_step > w->s_wait ? 3 * s_step : w->s_wait;
    switch (stop_wished()) {
    case STOP_SOON:
        return at_most(s, 3 * s_step > S_SOON ? 3 * s_step : S_SOON);
    case STOP_NOW:
        return at_most(s, S_NOW);
    default:
        return s;
    }
}

double watch_limit(const struct watch *w, int rank, double s_step)
{
    if (!w)
        return 1e30;
    double s = whole_limit(w, s_step);
    if (rank == WATCH_SELF)
        return SHARE_SELF * s;
    const int own = atomic_load(&w->rank);
    if (own == 0)
        return SHARE_LEADER * s;
    return own == 1 ? s : s + S_BEHIND;
}

/* The line without "kvsweep: " and newline; no call in it takes memory, since the working thread may hang
 * with the allocator locked. */
static void write_line(const struct watch *w, int rank, double s, const char *what, uint64_t bundle,
                       char *text, size_t size)
{
    char who[WATCH_HOST + 32], where[64] = "";
    const int own = atomic_load(&w->rank);
    const char *host = atomic_load(&w->host);
    bool self = rank == own;
    if (rank >= 0 && host && rank < atomic_load(&w->n_rank))
        snprintf(who, sizeof who, "rank %d on %s", rank, host + (size_t)rank * WATCH_HOST);
    else if (rank >= 0)
        snprintf(who, sizeof who, "rank %d", rank);
    else
        snprintf(who, sizeof who, "another rank than %d", own);
    if (bundle)
        snprintf(where, sizeof where, "%sbundle %016llx", what && *what ? ", " : " in ",
                 (unsigned long long)bundle);
    snprintf(text, size, "%s%s has %s for %d s%s%s%s%s; what is finished is kept, the same command goes on",
             stop_wished() == STOP_NO ? "" : "stopped by a signal; ", who,
             self ? "made no progress" : "given no sign of life", (int)(s + 0.5), what && *what ? " (" : "",
             what ? what : "", where, what && *what ? ")" : "");
}

int watch_lost(const struct watch *w, int rank, double s, const char *what, uint64_t bundle)
{
    char text[512];
    write_line(w, rank, s, what, bundle, text, sizeof text);
    return err_set(ERR_AGAIN, "%s", text);
}

static void end_process(const struct watch *w, double s)
{
    char text[512], line[600];
    int rank = atomic_load(&w->waits_for);
    write_line(w, rank == WATCH_SELF ? atomic_load(&w->rank) : rank, s, atomic_load(&w->what),
               atomic_load(&w->bundle), text, sizeof text);
    int n = snprintf(line, sizeof line, "kvsweep: %s\n", text);
    ssize_t k = write(STDERR_FILENO, line, (size_t)n);
    (void)k;
    _exit(err_status(ERR_AGAIN));
}

/* Silence after SIGTERM counts from the signal on. */
static void *look(void *arg)
{
    struct watch *w = arg;
    double last = clock_now(), since = 0;
    uint64_t seen = 0;
    bool told = false;
    while (!atomic_load(&w->ending)) {
        usleep((useconds_t)(S_TICK * 1e6));
        double now = clock_now(), life = atomic_load(&w->life) + at_most(now - last, S_GAP);
        uint64_t step = atomic_load(&w->step);
        bool tell = stop_wished() == STOP_NOW && !told;
        last = now;
        atomic_store(&w->life, life);
        if (step != seen || tell)
            since = life;
        seen = step;
        told = told || tell;
        if (life - since > watch_limit(w, atomic_load(&w->waits_for), atomic_load(&w->s_step)))
            end_process(w, life - since);
    }
    return NULL;
}

int watch_open(struct watch **out, double s_wait, int rank)
{
    struct watch *w = mem_alloc(1, sizeof *w);
    w->s_wait = s_wait;
    atomic_store(&w->rank, rank);
    atomic_store(&w->waits_for, WATCH_SELF);
    int e = pthread_create(&w->thread, NULL, look, w);
    *out = e ? NULL : w;
    if (!e)
        return 0;
    free(w);
    return err_set(ERR_IO, "cannot start a thread: %s", strerror(e));
}

void watch_close(struct watch *w)
{
    if (!w)
        return;
    atomic_store(&w->ending, true);
    pthread_join(w->thread, NULL);
    free(atomic_load(&w->host));
    free(w);
}

void watch_ranks(struct watch *w, int rank, int n_rank, const char (*host)[WATCH_HOST])
{
    if (!w)
        return;
    atomic_store(&w->n_rank, n_rank);
    atomic_store(&w->rank, rank);
    atomic_store(&w->host, (char *)mem_dup(host, (size_t)n_rank * sizeof *host));
}

void watch_step(struct watch *w)
{
    if (w)
        atomic_fetch_add(&w->step, 1);
}

void watch_task(struct watch *w, const char *what, uint64_t bundle, double s_step)
{
    if (!w)
        return;
    atomic_store(&w->what, what);
    atomic_store(&w->bundle, bundle);
    atomic_store(&w->s_step, s_step);
    watch_step(w);
}

int watch_wait(struct watch *w, int rank)
{
    return w ? atomic_exchange(&w->waits_for, rank) : WATCH_SELF;
}
