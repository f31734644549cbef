#include "sweep/link.h"

#include "base/err.h"
#include "base/mem.h"

#include <sched.h>
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

#ifdef KVS_HAVE_MPI
#include <mpi.h>

enum { TAG_HEAD = 1, TAG_BODY = 2, CHUNK = 256 << 20 };

static void finish(MPI_Request *r)
{
    int done = 0;
    for (int i = 0; MPI_Test(r, &done, MPI_STATUS_IGNORE), !done; i++) {
        if (i < 50)
            sched_yield();
        else
            link_sleep();
    }
}

/* CPU cores per rank on this node: its own set when the launcher gave each rank a set of its own. */
static void count_cores(struct link *l)
{
    MPI_Comm node;
    MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, l->rank, MPI_INFO_NULL, &node);
    MPI_Comm_size(node, &l->n_local);
    MPI_Comm_rank(node, &l->local);
    cpu_set_t mine, all, *sets = mem_alloc((size_t)l->n_local, sizeof *sets);
    CPU_ZERO(&mine);
    CPU_ZERO(&all);
    sched_getaffinity(0, sizeof mine, &mine);
    MPI_Request r;
    MPI_Iallgather(&mine, (int)sizeof mine, MPI_BYTE, sets, (int)sizeof mine, MPI_BYTE, node, &r);
    finish(&r);
    int sharers = 0;
    for (int i = 0; i < l->n_local; i++) {
        cpu_set_t both;
        CPU_AND(&both, &mine, &sets[i]);
        sharers += CPU_COUNT(&both) > 0;
    }
    l->n_core = CPU_COUNT(&mine) / (sharers > 0 ? sharers : 1);
    if (l->n_core < 1)
        l->n_core = 1;
    free(sets);
    MPI_Comm_free(&node);
}

int link_open(struct link *l, bool mpi)
{
    *l = (struct link){.n_rank = 1, .n_local = 1, .n_core = own_cores(), .mpi = mpi};
    if (!mpi)
        return 0;
    int given = 0;
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given) != MPI_SUCCESS)
        return err_set(ERR_IO, "MPI does not start");
    MPI_Comm_rank(MPI_COMM_WORLD, &l->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &l->n_rank);
    count_cores(l);
    return 0;
}

void link_barrier(struct link *l)
{
    if (!l->mpi)
        return;
    MPI_Request r;
    MPI_Ibarrier(MPI_COMM_WORLD, &r);
    finish(&r);
}

void link_close(struct link *l)
{
    link_barrier(l);
    if (l->mpi)
        MPI_Finalize();
    l->mpi = false;
}

void link_exchange(struct link *l, const void *mine, void *all, size_t bytes)
{
    if (!l->mpi) {
        memcpy(all, mine, bytes);
        return;
    }
    MPI_Request r;
    MPI_Iallgather(mine, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, MPI_COMM_WORLD, &r);
    finish(&r);
}

void link_spread(struct link *l, void *data, size_t bytes)
{
    if (!l->mpi)
        return;
    MPI_Request r;
    MPI_Ibcast(data, (int)bytes, MPI_BYTE, 0, MPI_COMM_WORLD, &r);
    finish(&r);
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
    if (!l->mpi)
        return;
    uint64_t head = n;
    MPI_Request r;
    MPI_Isend(&head, 1, MPI_UINT64_T, to, TAG_HEAD, MPI_COMM_WORLD, &r);
    finish(&r);
    for (size_t at = 0; at < n; at += CHUNK) {
        int part = (int)(n - at < CHUNK ? n - at : CHUNK);
        MPI_Isend((const char *)data + at, part, MPI_BYTE, to, TAG_BODY, MPI_COMM_WORLD, &r);
        finish(&r);
    }
}

int link_take(struct link *l, struct str *out)
{
    str_clear(out);
    if (!l->mpi)
        return -1;
    int there = 0;
    MPI_Status st;
    MPI_Iprobe(MPI_ANY_SOURCE, TAG_HEAD, MPI_COMM_WORLD, &there, &st);
    if (!there)
        return -1;
    uint64_t n = 0;
    MPI_Recv(&n, 1, MPI_UINT64_T, st.MPI_SOURCE, TAG_HEAD, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
    char *part = mem_alloc(n < CHUNK ? n + 1 : CHUNK, 1);
    for (uint64_t at = 0; at < n; at += CHUNK) {
        int take = (int)(n - at < CHUNK ? n - at : CHUNK);
        MPI_Request r;
        MPI_Irecv(part, take, MPI_BYTE, st.MPI_SOURCE, TAG_BODY, MPI_COMM_WORLD, &r);
        finish(&r);
        str_addn(out, part, (size_t)take);
    }
    free(part);
    return st.MPI_SOURCE;
}

void link_abort(struct link *l)
{
    if (l->mpi)
        MPI_Abort(MPI_COMM_WORLD, 1);
    _exit(1);
}

#else

int link_open(struct link *l, bool mpi)
{
    *l = (struct link){.n_rank = 1, .n_local = 1, .n_core = own_cores()};
    return mpi ? err_set(ERR_INPUT,
                         "started by mpirun or srun, but this build has no MPI (configure with -DKVS_MPI=on)")
               : 0;
}

void link_close(struct link *l)
{
    (void)l;
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

void link_abort(struct link *l)
{
    (void)l;
    _exit(1);
}
#endif
