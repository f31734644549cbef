// Groups as kernels/comm_nccl.cu knows them, through a file in /dev/shm. A call starts a thread and is in
// progress until that ends, as with communicators that do not block.
//
// Faults on purpose: KVS_SHIM_NCCL="RANK:WHAT", at that rank's second broadcast: die (SIGKILL), hang (it
// never comes), error (an error shows up later); "RANK:old" is a library of an old version, "RANK:init" one
// whose groups do not start. RANK is OMPI_COMM_WORLD_RANK.
#include <nccl.h>

#include <atomic>
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace
{
const size_t PIECE = (size_t)1 << 20;

struct segment {
    std::atomic<int> here;
    std::atomic<uint64_t> written; // pieces that the root has put there
    std::atomic<uint64_t> taken;   // by all others together
    char data[PIECE];
};

bool fault(const char *what)
{
    const char *want = getenv("KVS_SHIM_NCCL"), *rank = getenv("OMPI_COMM_WORLD_RANK");
    char mine[64];
    snprintf(mine, sizeof mine, "%s:%s", rank ? rank : "0", what);
    return want && !strcmp(want, mine);
}

// Device memory is closed to the host but for kernels, copies, and this.
void open_device(int open)
{
    void *module = dlopen("libkvs_cuda.so", RTLD_NOW | RTLD_NOLOAD);
    void (*f)(int) = NULL;
    void *p = module ? dlsym(module, "kvs_shim_device") : NULL;
    memcpy(&f, &p, sizeof p);
    if (f)
        f(open);
    if (module)
        dlclose(module);
}
} // namespace

struct ncclComm {
    char path[128];
    segment *seg;
    int n, rank, n_broadcast;
    uint64_t written, taken; // before the broadcast in progress
    std::atomic<int> state;
    std::atomic<bool> give_up;
    std::thread work;
};

namespace
{
template <typename F> bool until(ncclComm *c, F f)
{
    while (!f()) {
        if (c->give_up)
            return false;
        usleep(50);
    }
    return true;
}

void start(ncclComm *c)
{
    c->seg->here++;
    bool all = until(c, [&] { return c->seg->here >= c->n; });
    if (all && c->rank == 0)
        shm_unlink(c->path);
    c->state = fault("init") ? ncclSystemError : all ? ncclSuccess : ncclInternalError;
}

void send(ncclComm *c, char *data, size_t n, int root)
{
    uint64_t others = (uint64_t)c->n - 1;
    for (size_t at = 0; at < n; at += PIECE) {
        size_t part = n - at < PIECE ? n - at : PIECE;
        if (c->rank == root) {
            if (!until(c, [&] { return c->seg->taken == c->taken; }))
                return;
            open_device(1);
            memcpy(c->seg->data, data + at, part);
            open_device(0);
            c->seg->written++;
        } else {
            if (!until(c, [&] { return c->seg->written > c->written; }))
                return;
            open_device(1);
            memcpy(data + at, c->seg->data, part);
            open_device(0);
            c->seg->taken++;
        }
        c->written++;
        c->taken += others;
        // The next piece overwrites this one: nobody goes on before all have it.
        if (!until(c, [&] { return c->seg->taken >= c->taken; }))
            return;
    }
    c->state = c->n_broadcast == 1 && fault("error") ? ncclSystemError : ncclSuccess;
}

void join(ncclComm *c)
{
    if (c->work.joinable())
        c->work.join();
}

void release(ncclComm *c)
{
    c->give_up = true;
    join(c);
    munmap(c->seg, sizeof *c->seg);
    delete c;
}
} // namespace

#define EXPORT __attribute__((visibility("default")))
extern "C" {
EXPORT ncclResult_t ncclGetVersion(int *v)
{
    *v = fault("old") ? 2700 : 22809;
    return ncclSuccess;
}

EXPORT ncclResult_t ncclGetUniqueId(ncclUniqueId *id)
{
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "/kvsweep-nccl-shim-%d-%d", (int)getpid(), rand());
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int n, ncclUniqueId id, int rank,
                                           ncclConfig_t *config)
{
    if (config->blocking)
        return ncclInvalidUsage; // the product must not ask for that
    int fd = shm_open(id.internal, O_RDWR | O_CREAT, 0600);
    if (fd < 0 || ftruncate(fd, sizeof(segment)) != 0)
        return ncclSystemError;
    ncclComm *c = new ncclComm();
    snprintf(c->path, sizeof c->path, "%s", id.internal);
    c->seg = (segment *)mmap(NULL, sizeof(segment), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd);
    c->n = n;
    c->rank = rank;
    c->state = ncclInProgress;
    c->work = std::thread(start, c);
    *comm = c;
    return ncclInProgress;
}

EXPORT ncclResult_t ncclBroadcast(const void *, void *to, size_t n, ncclDataType_t, int root, ncclComm_t c,
                                  cudaStream_t)
{
    join(c);
    c->n_broadcast++;
    if (c->n_broadcast == 1 && fault("die"))
        raise(SIGKILL);
    c->state = ncclInProgress;
    if (c->n_broadcast == 1 && fault("hang"))
        return ncclInProgress;
    c->work = std::thread(send, c, (char *)to, n, root);
    return ncclInProgress;
}

EXPORT ncclResult_t ncclCommGetAsyncError(ncclComm_t c, ncclResult_t *state)
{
    *state = (ncclResult_t)c->state.load();
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommFinalize(ncclComm_t c)
{
    join(c);
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommDestroy(ncclComm_t c)
{
    release(c);
    return ncclSuccess;
}

EXPORT ncclResult_t ncclCommAbort(ncclComm_t c)
{
    release(c);
    return ncclSuccess;
}

EXPORT const char *ncclGetErrorString(ncclResult_t r)
{
    return r == ncclSystemError ? "unhandled system error" : r == ncclSuccess ? "no error" : "error";
}

EXPORT const char *ncclGetLastError(ncclComm_t)
{
    return "";
}
}
