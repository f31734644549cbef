#include "sweep/link.h"

#include "base/err.h"
#include "base/file.h"
#include "base/host.h"
#include "base/mem.h"
#include "sweep/app.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void link_sleep(void)
{
    usleep(500);
}

static int own_cores(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

static int name_alone(struct link *l)
{
    l->host = mem_alloc(1, sizeof *l->host);
    host_name(l->host[0], WATCH_HOST);
    watch_ranks(l->watch, 0, 1, (const char(*)[WATCH_HOST])l->host);
    return 0;
}

#ifdef KVS_HAVE_MPI
#include <mpi.h>
#include <xxhash.h>

enum { TAG_HEAD = 1, TAG_BODY = 2, TAG_GATHER = 4, TAG_SPREAD = 5, CHUNK = 256 << 20 };
#define LINK_MAGIC   0x4b4e494cu /* "LINK" */
#define LINK_VERSION 1
#define LINK_MOST    ((uint64_t)1 << 40) /* bytes of a message, whatever it says */

struct head {
    uint32_t magic, version;
    uint64_t n;
};

/* What every rank says first. Its size is that of every build: 512 bytes. */
struct hello {
    char build[144];
    uint64_t program; /* XXH3-64 of the file that runs */
    char host[WATCH_HOST], boot[HOST_BOOT];
    cpu_set_t cores;
    char later[128];
};
_Static_assert(sizeof(struct hello) == 512, "every build reads the hello of every other");

/* Until `rank` (or WATCH_OTHERS) has done its part. */
static void finish(struct link *l, MPI_Request *r, int rank)
{
    int done = 0, before = watch_wait(l->watch, rank);
    for (int i = 0; MPI_Test(r, &done, MPI_STATUS_IGNORE), !done; i++) {
        if (i < 50)
            sched_yield();
        else
            link_sleep();
    }
    watch_wait(l->watch, before);
    watch_step(l->watch);
}

/* Messages from one to one, so that it is known who is missing. */
static void gather(struct link *l, const void *mine, void *all, size_t bytes)
{
    size_t n = (size_t)l->n_rank;
    MPI_Request *r = mem_alloc(n, sizeof *r);
    if (l->rank == 0) {
        memcpy(all, mine, bytes);
        for (size_t i = 1; i < n; i++)
            MPI_Irecv((char *)all + i * bytes, (int)bytes, MPI_BYTE, (int)i, TAG_GATHER, MPI_COMM_WORLD,
                      &r[i]);
        for (size_t i = 1; i < n; i++)
            finish(l, &r[i], (int)i);
    } else {
        MPI_Isend(mine, (int)bytes, MPI_BYTE, 0, TAG_GATHER, MPI_COMM_WORLD, &r[0]);
        finish(l, &r[0], 0);
    }
    free(r);
}

void link_spread(struct link *l, void *data, size_t bytes)
{
    if (!l->mpi)
        return;
    MPI_Request r;
    for (int i = 1; l->rank == 0 && i < l->n_rank; i++) {
        MPI_Isend(data, (int)bytes, MPI_BYTE, i, TAG_SPREAD, MPI_COMM_WORLD, &r);
        finish(l, &r, i);
    }
    if (l->rank > 0) {
        MPI_Irecv(data, (int)bytes, MPI_BYTE, 0, TAG_SPREAD, MPI_COMM_WORLD, &r);
        finish(l, &r, 0);
    }
}

void link_exchange(struct link *l, const void *mine, void *all, size_t bytes)
{
    if (!l->mpi) {
        memcpy(all, mine, bytes);
        return;
    }
    gather(l, mine, all, bytes);
    link_spread(l, all, bytes * (size_t)l->n_rank);
}

void link_barrier(struct link *l)
{
    char mine = 0, *all = mem_alloc((size_t)l->n_rank, 1);
    link_exchange(l, &mine, all, 1);
    free(all);
}

static uint64_t hash_program(void)
{
    char *data;
    size_t n;
    if (file_read("/proc/self/exe", &data, &n) < 0)
        return 0;
    uint64_t hash = XXH3_64bits(data, n);
    free(data);
    return hash;
}

/* CPU cores per rank on this node: its own set when the launcher gave each rank a set of its own. */
static void count_cores(struct link *l, const struct hello *all)
{
    const struct hello *mine = &all[l->rank];
    int sharers = 0;
    l->n_local = l->local = 0;
    for (int i = 0; i < l->n_rank; i++) {
        cpu_set_t both;
        if (strcmp(all[i].host, mine->host) != 0 || strcmp(all[i].boot, mine->boot) != 0)
            continue;
        l->n_local++;
        l->local += i < l->rank;
        CPU_AND(&both, &mine->cores, &all[i].cores);
        sharers += CPU_COUNT(&both) > 0;
    }
    l->n_core = CPU_COUNT(&mine->cores) / (sharers > 0 ? sharers : 1);
    if (l->n_core < 1)
        l->n_core = 1;
}

/* Results of different programs may differ, and their messages need not fit. */
static int same_build(const struct link *l, const struct hello *all)
{
    for (int i = 1; i < l->n_rank; i++) {
        if (!strcmp(all[i].build, all[0].build) && all[i].program == all[0].program)
            continue;
        if (l->rank > 0)
            return err_set(ERR_INPUT, "%s", "");
        return err_set(
            ERR_INPUT,
            "the ranks run different builds: rank 0 on %s has kvsweep %s (file %016llx), rank %d on %s has "
            "kvsweep %s (file %016llx)",
            all[0].host, all[0].build, (unsigned long long)all[0].program, i, all[i].host, all[i].build,
            (unsigned long long)all[i].program);
    }
    return 0;
}

static int greet(struct link *l, const char *build)
{
    struct hello mine = {.program = hash_program()}, *all = mem_alloc((size_t)l->n_rank, sizeof *all);
    snprintf(mine.build, sizeof mine.build, "%s", build);
    host_name(mine.host, sizeof mine.host);
    host_boot(mine.boot);
    CPU_ZERO(&mine.cores);
    sched_getaffinity(0, sizeof mine.cores, &mine.cores);
    link_exchange(l, &mine, all, sizeof mine);
    l->host = mem_alloc((size_t)l->n_rank, sizeof *l->host);
    for (int i = 0; i < l->n_rank; i++) {
        all[i].build[sizeof all[i].build - 1] = all[i].host[WATCH_HOST - 1] = all[i].boot[HOST_BOOT - 1] = 0;
        memcpy(l->host[i], all[i].host, WATCH_HOST);
    }
    watch_ranks(l->watch, l->rank, l->n_rank, (const char(*)[WATCH_HOST])l->host);
    count_cores(l, all);
    int rc = same_build(l, all);
    free(all);
    return rc;
}

int link_open(struct link *l, bool mpi, const char *build, struct watch *watch)
{
    *l = (struct link){.n_rank = 1, .n_local = 1, .n_core = own_cores(), .mpi = mpi, .watch = watch};
    if (!mpi)
        return name_alone(l);
    int given = 0, before = watch_wait(watch, WATCH_OTHERS);
    watch_task(watch, "starts MPI", 0, 0);
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS)
        return err_set(ERR_IO, "MPI does not start");
    watch_wait(watch, before);
    watch_step(watch);
    MPI_Comm_rank(MPI_COMM_WORLD, &l->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &l->n_rank);
    int rc = greet(l, build);
    if (rc < 0) {
        app_say_error(rc); /* mpirun ends the job once one rank has left */
        link_close(l);
    }
    return rc;
}

void link_close(struct link *l)
{
    if (l->lost)
        link_abort(l, err_status(ERR_AGAIN));
    if (l->mpi) {
        watch_task(l->watch, "ends MPI", 0, 0);
        link_barrier(l);
        int before = watch_wait(l->watch, WATCH_OTHERS);
        MPI_Finalize();
        watch_wait(l->watch, before);
    }
    l->mpi = false;
    free(l->host);
    l->host = NULL;
}

int link_agree(struct link *l, int mine, const uint64_t hash[2], bool *same)
{
    *same = true;
    if (!l->mpi)
        return mine ? 0 : -1;
    uint64_t own[3] = {mine != 0, hash[0], hash[1]}, *all = mem_alloc(3 * (size_t)l->n_rank, sizeof *all);
    link_exchange(l, own, all, sizeof own);
    int first = -1;
    for (int i = l->n_rank - 1; i >= 0; i--) {
        if (all[3 * i])
            first = i;
        *same = *same && all[3 * i + 1] == all[1] && all[3 * i + 2] == all[2];
    }
    free(all);
    return first;
}

void link_send(struct link *l, int to, const void *data, size_t n)
{
    if (!l->mpi || l->lost)
        return;
    struct head head = {LINK_MAGIC, LINK_VERSION, n};
    MPI_Request r;
    MPI_Isend(&head, (int)sizeof head, MPI_BYTE, to, TAG_HEAD, MPI_COMM_WORLD, &r);
    finish(l, &r, to);
    for (size_t at = 0; at < n; at += CHUNK) {
        int part = (int)(n - at < CHUNK ? n - at : CHUNK);
        MPI_Isend((const char *)data + at, part, MPI_BYTE, to, TAG_BODY, MPI_COMM_WORLD, &r);
        finish(l, &r, to);
    }
}

/* The head of a waiting message; its sender, or -1. */
static int take_head(struct head *head)
{
    int there = 0, n = 0;
    MPI_Status st;
    MPI_Iprobe(MPI_ANY_SOURCE, TAG_HEAD, MPI_COMM_WORLD, &there, &st);
    if (!there)
        return -1;
    MPI_Get_count(&st, MPI_BYTE, &n);
    char *bytes = mem_alloc((size_t)n + sizeof *head, 1);
    MPI_Recv(bytes, n, MPI_BYTE, st.MPI_SOURCE, TAG_HEAD, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    memcpy(head, bytes, sizeof *head);
    free(bytes);
    if (n != (int)sizeof *head || head->magic != LINK_MAGIC || head->version != LINK_VERSION ||
        head->n > LINK_MOST)
        head->n = 0;
    return st.MPI_SOURCE;
}

int link_take(struct link *l, struct str *out)
{
    struct head head;
    str_clear(out);
    int from = l->mpi && !l->lost ? take_head(&head) : -1;
    if (from < 0 || head.n == 0)
        return from;
    char *part = mem_alloc(head.n < CHUNK ? head.n : CHUNK, 1);
    for (uint64_t at = 0; at < head.n; at += CHUNK) {
        int take = (int)(head.n - at < CHUNK ? head.n - at : CHUNK);
        MPI_Request r;
        MPI_Irecv(part, take, MPI_BYTE, from, TAG_BODY, MPI_COMM_WORLD, &r);
        finish(l, &r, from);
        str_addn(out, part, (size_t)take);
    }
    free(part);
    return from;
}

void link_abort(struct link *l, int status)
{
    if (l->mpi)
        MPI_Abort(MPI_COMM_WORLD, status);
    _exit(status);
}

#else

int link_open(struct link *l, bool mpi, const char *build, struct watch *watch)
{
    (void)build;
    *l = (struct link){.n_rank = 1, .n_local = 1, .n_core = own_cores(), .watch = watch};
    return mpi ? err_set(ERR_INPUT,
                         "started by mpirun or srun, but this build has no MPI (configure with -DKVS_MPI=on)")
               : name_alone(l);
}

void link_close(struct link *l)
{
    free(l->host);
    l->host = NULL;
}

void link_barrier(struct link *l)
{
    (void)l;
}

int link_agree(struct link *l, int mine, const uint64_t hash[2], bool *same)
{
    (void)l, (void)hash;
    *same = true;
    return mine ? 0 : -1;
}

void link_exchange(struct link *l, const void *mine, void *all, size_t bytes)
{
    (void)l;
    memcpy(all, mine, bytes);
}

void link_spread(struct link *l, void *data, size_t bytes)
{
    (void)l, (void)data, (void)bytes;
}

void link_send(struct link *l, int to, const void *data, size_t n)
{
    (void)l, (void)to, (void)data, (void)n;
}

int link_take(struct link *l, struct str *out)
{
    (void)l;
    str_clear(out);
    return -1;
}

void link_abort(struct link *l, int status)
{
    (void)l;
    _exit(status);
}
#endif
