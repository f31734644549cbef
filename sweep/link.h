/* Messages between the ranks of a run, or nothing at all when the program was started alone. Waiting never
 * spins: a rank that waits tests and sleeps. */
#ifndef KVS_SWEEP_LINK_H
#define KVS_SWEEP_LINK_H

#include "base/str.h"
#include "sweep/watch.h"

#include <stdbool.h>
#include <stdint.h>

struct link {
    int rank, n_rank;
    int n_local; /* ranks on this node */
    int local;   /* which of them this one is: by itself, whatever the launcher calls it */
    int n_core;  /* CPU cores that this rank should use: its own, or its share of those it shares */
    bool mpi;
    bool lost; /* a rank is lost: nothing can be said to all any more, and link_close ends the job */
    struct watch *watch;      /* borrowed; told for whom this rank waits. NULL: nobody watches */
    char (*host)[WATCH_HOST]; /* [n_rank]: names of the nodes */
};

/* `mpi`: the program was started by mpirun or srun. `build`: version and commit; the program file's content
 * counts too. ERR_INPUT if this build has no MPI and was started so, or (said on rank 0, the text is empty on
 * others) if the ranks run different builds: nothing is open then. */
int link_open(struct link *l, bool mpi, const char *build, struct watch *watch);
void link_close(struct link *l); /* waits for the others; does not return when a rank is lost */
void link_sleep(void);           /* half a millisecond */
/* Waits until all ranks are here. */
void link_barrier(struct link *l);
/* The lowest rank with mine != 0, or -1; *same tells whether `hash` is equal on all ranks. */
int link_agree(struct link *l, int mine, const uint64_t hash[2], bool *same);
/* all [n_rank, bytes] <- `mine` of every rank; everyone calls this. */
void link_exchange(struct link *l, const void *mine, void *all, size_t bytes);
/* Bytes of rank 0 -> everyone; everyone calls this. */
void link_spread(struct link *l, void *data, size_t bytes);
/* Sends bytes to a rank that will receive them (or few enough to be buffered). */
void link_send(struct link *l, int to, const void *data, size_t n);
/* Takes one waiting message, if there is any: its sender, or -1. `out` is empty where the message's head does
 * not check. */
int link_take(struct link *l, struct str *out);
/* Ends all ranks at once, with an exit status. */
void link_abort(struct link *l, int status) __attribute__((noreturn));

#endif
