/* Groups of ranks over MPI: host memory, and device memory through the host. */
#include "kernels/comm.h"

#include "base/err.h"

#ifdef KVS_HAVE_MPI
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <mpi.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A piece of a broadcast: pinned memory of this size is taken where the device's own cannot be sent. */
#define PIECE ((size_t)32 << 20)
/* Seconds of testing without a pause: MPI only moves bytes while it is called. */
#define S_EAGER 2.0

enum { TAG_EXCHANGE = 3 };

struct group {
    MPI_Comm mpi;
    int *world;  /* [n_rank]: rank in the job, for messages */
    void *stage; /* pinned [PIECE], NULL: the device's memory is the host's */
};

static void pause_after(double s_begin)
{
    if (clock_now() - s_begin < S_EAGER)
        sched_yield();
    else
        usleep(500);
}

static int lose(struct comm *c, int code)
{
    c->lost = true;
    return code;
}

/* Once more round a loop that waits for others. A rank that is told to give up there leaves the others
 * behind, so the group is lost. */
static int wait_on(struct comm *c)
{
    return poll_call(&c->poll) < 0 ? lose(c, ERR_INTERNAL) : 0;
}

/* Messages from one to one, so that it is known who is missing. */
static int exchange(struct comm *c, const void *mine, void *all, size_t bytes)
{
    struct group *g = c->impl;
    int n = c->n_rank, done = 0, missing = -1;
    MPI_Request *r = mem_alloc(2 * (size_t)n, sizeof *r);
    c->met = true;
    for (int i = 0; i < n; i++) {
        MPI_Irecv((char *)all + (size_t)i * bytes, (int)bytes, MPI_BYTE, i, TAG_EXCHANGE, g->mpi, &r[i]);
        MPI_Isend(mine, (int)bytes, MPI_BYTE, i, TAG_EXCHANGE, g->mpi, &r[n + i]);
    }
    double begin = clock_now();
    while (MPI_Testall(2 * n, r, &done, MPI_STATUSES_IGNORE), !done) {
        if (clock_now() - begin > c->s_wait)
            break;
        TRY(wait_on(c)); /* MPI still holds r */
        usleep(clock_now() - begin < 0.01 ? 0 : 500);
    }
    for (int i = 0; i < 2 * n && !done && missing < 0; i++) {
        int here = 0;
        MPI_Request_get_status(r[i], &here, MPI_STATUS_IGNORE);
        missing = here ? -1 : i % n;
    }
    if (done || missing < 0) {
        free(r);
        return 0;
    }
    return lose(c, err_set(ERR_IO, "rank %d has given no sign of life for %g s while weights are handed on",
                           g->world[missing], c->s_wait)); /* MPI still holds r */
}

static int send_piece(struct comm *c, void *data, size_t bytes, int root)
{
    struct group *g = c->impl;
    MPI_Request r;
    int done = 0;
    double begin = clock_now();
    MPI_Ibcast(data, (int)bytes, MPI_BYTE, root, g->mpi, &r);
    while (MPI_Test(&r, &done, MPI_STATUS_IGNORE), !done) {
        if (clock_now() - begin > c->s_wait)
            return lose(c, err_set(ERR_IO, "weights stopped on their way from rank %d: nothing for %g s",
                                   g->world[root], c->s_wait));
        TRY(wait_on(c));
        pause_after(begin);
    }
    return 0;
}

static int first_of(int a, int b)
{
    return a < 0 ? a : b;
}

static int broadcast(struct comm *c, void *data, size_t bytes, int root)
{
    struct group *g = c->impl;
    struct ops *o = c->ops;
    int rc = o->sync(o); /* a rank with a fault still takes part */
    for (size_t at = 0; at < bytes; at += PIECE) {
        size_t n = bytes - at < PIECE ? bytes - at : PIECE;
        char *here = (char *)data + at;
        if (g->stage && c->rank == root)
            o->copy(o, g->stage, here, n);
        rc = first_of(rc, o->sync(o));
        TRY(send_piece(c, g->stage ? g->stage : here, n, root));
        if (g->stage && c->rank != root)
            o->copy(o, here, g->stage, n);
        rc = first_of(rc, o->sync(o));
    }
    return rc;
}

static void group_free(struct comm *c)
{
    struct group *g = c->impl;
    if (g->stage)
        c->ops->free(c->ops, g->stage);
    if (!c->lost) /* with messages on their way it would wait for them */
        MPI_Comm_free(&g->mpi);
    free(g->world);
    free(g);
    free(c);
}

/* Ranks of the group as ranks of the job. */
static void name_ranks(struct comm *c)
{
    struct group *g = c->impl;
    MPI_Group all, some;
    int *own = mem_alloc((size_t)c->n_rank, sizeof *own);
    g->world = mem_alloc((size_t)c->n_rank, sizeof *g->world);
    for (int i = 0; i < c->n_rank; i++)
        own[i] = i;
    MPI_Comm_group(MPI_COMM_WORLD, &all);
    MPI_Comm_group(g->mpi, &some);
    MPI_Group_translate_ranks(some, c->n_rank, own, all, g->world);
    MPI_Group_free(&all);
    MPI_Group_free(&some);
    free(own);
}

/* Did `rc` go well everywhere? *first: the lowest rank where it did not. */
static int agree(struct comm *c, int rc, int *first)
{
    int32_t mine = rc, *all = mem_alloc((size_t)c->n_rank, sizeof *all);
    int bad = exchange(c, &mine, all, sizeof mine);
    *first = -1;
    for (int i = c->n_rank - 1; bad == 0 && i >= 0; i--)
        *first = all[i] < 0 ? i : *first;
    if (bad == 0) /* a lost message may still arrive */
        free(all);
    return bad;
}

/* NCCL, or the stage. Every rank of the group takes the same way. */
static int choose_way(struct comm *c, bool gpus)
{
    struct group *g = c->impl;
    struct ops *o = c->ops;
    int first = 0, rc = 0, have = gpus && o->join ? 0 : -1;
    TRY(agree(c, have, &first));
    if (first < 0) {
        rc = o->join(o, c);
        if (c->lost)
            return rc;
        TRY(agree(c, rc, &first));
        if (first == c->rank)
            log_info("%s; weights go through the host", err_text());
        if (first < 0)
            return 0;
        if (c->wire)
            c->wire_close(c);
    }
    c->way = "host";
    c->broadcast = broadcast;
    g->stage = !o->on_host ? o->alloc(o, PIECE, MEM_WORKSPACE, PLACE_HOST) : NULL;
    rc = !o->on_host && !g->stage
             ? err_set(ERR_NOMEM, "no pinned memory to hand weights on (%zu bytes)", PIECE)
             : 0;
    TRY(agree(c, rc, &first));
    return first < 0 || rc < 0
               ? rc
               : err_set(ERR_NOMEM, "rank %d has no pinned memory to hand weights on", g->world[first]);
}

int comm_open(struct comm **out, struct ops *ops, int colour, bool gpus, double s_wait, struct poll poll)
{
    MPI_Comm mpi;
    int me = 0;
    *out = NULL;
    MPI_Comm_rank(MPI_COMM_WORLD, &me);
    if (MPI_Comm_split(MPI_COMM_WORLD, colour < 0 ? MPI_UNDEFINED : colour, me, &mpi) != MPI_SUCCESS)
        return err_set(ERR_IO, "MPI cannot form a group of ranks");
    if (mpi == MPI_COMM_NULL)
        return 0;
    struct comm *c = mem_alloc(1, sizeof *c);
    struct group *g = mem_alloc(1, sizeof *g);
    *c = (struct comm){.ops = ops, .s_wait = s_wait, .poll = poll, .exchange = exchange, .impl = g};
    g->mpi = mpi;
    MPI_Comm_rank(mpi, &c->rank);
    MPI_Comm_size(mpi, &c->n_rank);
    name_ranks(c);
    int rc = c->n_rank > 1 ? choose_way(c, gpus) : 0;
    c->met = false;
    *out = c;
    if (c->n_rank == 1 || (rc < 0 && !c->lost)) {
        comm_close(c);
        *out = NULL;
    }
    return rc;
}

void comm_close(struct comm *c)
{
    if (!c)
        return;
    if (c->wire)
        c->wire_close(c);
    group_free(c);
}

#else

int comm_open(struct comm **c, struct ops *ops, int colour, bool gpus, double s_wait, struct poll poll)
{
    (void)ops, (void)colour, (void)gpus, (void)s_wait, (void)poll;
    *c = NULL;
    return err_set(ERR_INTERNAL, "a group of ranks in a build without MPI");
}

void comm_close(struct comm *c)
{
    (void)c;
}
#endif
