// Broadcast from GPU to GPU by NCCL. libnccl is looked for when a group wants it: a host without it hands
// weights on through its memory. Calls never block: what NCCL or a peer does not finish is asked for again
// and again, until it is done, an error shows, or the time is up.
#include "kernels/comm_nccl.h"

extern "C" {
#include "kernels/comm.h"
}

#include <dlfcn.h>
#include <nccl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#ifndef NCCL_LIBRARY
#define NCCL_LIBRARY "libnccl.so.2"
#endif

namespace
{
const int OLDEST = 21400; // the first with communicators that do not block

struct nccl {
    void *lib;
    struct cuda *cuda;
    ncclComm_t comm;
    decltype(&ncclGetVersion) version;
    decltype(&ncclGetUniqueId) unique_id;
    decltype(&ncclCommInitRankConfig) init;
    decltype(&ncclBroadcast) broadcast;
    decltype(&ncclCommGetAsyncError) async_error;
    decltype(&ncclCommFinalize) finalize;
    decltype(&ncclCommDestroy) destroy;
    decltype(&ncclCommAbort) abort;
    decltype(&ncclGetErrorString) text;
    decltype(&ncclGetLastError) last;
};

// What a rank says before the group starts: whether it has NCCL, and rank 0's name for the group.
struct seat {
    int32_t ready;
    char why[124];
    ncclUniqueId id;
};

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void rest(double s_begin)
{
    struct timespec t = {0, now() - s_begin < 0.01 ? 0 : 200000};
    nanosleep(&t, NULL);
}

template <typename F> bool find(nccl *n, F *f, const char *name, char *why, size_t size)
{
    void *p = dlsym(n->lib, name);
    memcpy(f, &p, sizeof p);
    if (!p)
        snprintf(why, size, NCCL_LIBRARY " has no %s", name);
    return p != NULL;
}

bool open_library(nccl *n, char *why, size_t size)
{
    int v = 0;
    n->lib = dlopen(NCCL_LIBRARY, RTLD_NOW | RTLD_LOCAL); // stays loaded: it has threads of its own
    if (!n->lib) {
        snprintf(why, size, "%s", dlerror());
        return false;
    }
    if (!find(n, &n->version, "ncclGetVersion", why, size) ||
        !find(n, &n->unique_id, "ncclGetUniqueId", why, size) ||
        !find(n, &n->text, "ncclGetErrorString", why, size) ||
        !find(n, &n->broadcast, "ncclBroadcast", why, size) ||
        !find(n, &n->async_error, "ncclCommGetAsyncError", why, size) ||
        !find(n, &n->destroy, "ncclCommDestroy", why, size) ||
        !find(n, &n->abort, "ncclCommAbort", why, size))
        return false;
    if (n->version(&v) != ncclSuccess || v < OLDEST) {
        snprintf(why, size, NCCL_LIBRARY " is version %d, %d is the oldest that will do", v, OLDEST);
        return false;
    }
    return find(n, &n->init, "ncclCommInitRankConfig", why, size) &&
           find(n, &n->finalize, "ncclCommFinalize", why, size) &&
           find(n, &n->last, "ncclGetLastError", why, size);
}

int fail(nccl *n, const char *what, const char *why)
{
    char text[512];
    snprintf(text, sizeof text, "NCCL: %s: %s", what, why);
    return n->cuda->error(ERR_DEVICE, text);
}

// One line with NCCL's own words about it. The communicator is of no use any more.
int fail_result(nccl *n, const char *what, ncclResult_t r)
{
    char why[400];
    const char *more = n->comm ? n->last(n->comm) : NULL;
    snprintf(why, sizeof why, "%s%s%.300s", n->text(r), more && *more ? ": " : "", more ? more : "");
    for (char *p = why; *p; p++)
        *p = *p == '\n' ? ' ' : *p;
    int rc = fail(n, what, why);
    if (n->comm)
        (void)n->abort(n->comm);
    n->comm = NULL;
    return rc;
}

int time_out(nccl *n, const struct comm *c, const char *what)
{
    char why[96];
    snprintf(why, sizeof why, "another rank has given no sign of life for %g s", c->s_wait);
    if (n->comm)
        (void)n->abort(n->comm);
    n->comm = NULL;
    return fail(n, what, why);
}

int give_up(nccl *n, const char *what)
{
    if (n->comm)
        (void)n->abort(n->comm);
    n->comm = NULL;
    return fail(n, what, "stopped");
}

// Until NCCL has taken what was given to it (r: what the call returned) and, if `work`, the GPU has done it.
int wait_done(nccl *n, const struct comm *c, ncclResult_t r, bool work, const char *what)
{
    double begin = now();
    cudaError_t gpu = cudaErrorNotReady;
    for (;;) {
        if (r == ncclSuccess || r == ncclInProgress) {
            ncclResult_t state = ncclSuccess;
            r = n->async_error(n->comm, &state);
            r = r == ncclSuccess ? state : r;
        }
        if (r != ncclSuccess && r != ncclInProgress)
            return fail_result(n, what, r);
        if (r == ncclSuccess) {
            gpu = work ? cudaStreamQuery(n->cuda->stream) : cudaSuccess;
            if (gpu == cudaSuccess)
                return 0;
            if (gpu != cudaErrorNotReady)
                return fail(n, what, cudaGetErrorString(gpu));
        }
        if (now() - begin > c->s_wait)
            return time_out(n, c, what);
        if (c->poll.call && c->poll.call(c->poll.ctx) != 0)
            return give_up(n, what);
        rest(begin);
    }
}

int nccl_broadcast(struct comm *c, void *data, size_t bytes, int root)
{
    nccl *n = (nccl *)c->wire;
    int rc = c->ops->sync(c->ops); // what is queued comes first; a rank with a fault still takes part
    ncclResult_t r = n->broadcast(data, data, bytes, ncclInt8, root, n->comm, n->cuda->stream);
    int sent = wait_done(n, c, r, true, "broadcast of weights");
    c->lost = sent < 0;
    return sent < 0 ? sent : rc;
}

void nccl_close(struct comm *c)
{
    nccl *n = (nccl *)c->wire;
    if (n->comm && !c->lost && wait_done(n, c, n->finalize(n->comm), false, "end of the group") == 0) {
        (void)n->destroy(n->comm);
        n->comm = NULL;
    }
    if (n->comm)
        (void)n->abort(n->comm);
    c->wire = NULL;
    delete n;
}

// Everyone says whether it has NCCL; *id is that of rank 0.
int gather_seats(nccl *n, struct comm *c, ncclUniqueId *id)
{
    seat mine = {}, *all = new seat[c->n_rank];
    mine.ready = open_library(n, mine.why, sizeof mine.why);
    if (mine.ready && c->rank == 0 && n->unique_id(&mine.id) != ncclSuccess) {
        mine.ready = 0;
        snprintf(mine.why, sizeof mine.why, "it gives no name for a group");
    }
    int rc = c->exchange(c, &mine, all, sizeof mine);
    for (int i = 0; i < c->n_rank && rc == 0; i++)
        if (!all[i].ready)
            rc = fail(n, "not on every rank", all[i].why);
    *id = all[0].id;
    if (!c->lost) // late messages may still be written there
        delete[] all;
    return rc;
}

int start(nccl *n, struct comm *c)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    int rc = gather_seats(n, c, &id);
    if (rc < 0)
        return rc;
    config.blocking = 0;
    pool_trim(n->cuda->pool[PLACE_DEVICE]); // NCCL takes memory of its own
    ncclResult_t r = n->init(&n->comm, c->n_rank, id, c->rank, &config);
    if (!n->comm)
        return fail_result(n, "start of a group", r == ncclSuccess ? ncclInternalError : r);
    return wait_done(n, c, r, false, "start of a group");
}
} // namespace

int comm_nccl_join(struct ops *o, struct comm *c)
{
    nccl *n = new nccl();
    n->cuda = cuda_of(o);
    int rc = start(n, c);
    if (rc < 0) {
        delete n;
        return rc;
    }
    c->way = "nccl";
    c->wire = n;
    c->wire_close = nccl_close;
    c->broadcast = nccl_broadcast;
    return 0;
}
