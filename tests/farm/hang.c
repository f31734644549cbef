/* Loaded ahead of a program under test (LD_PRELOAD): one of its ranks hangs in a call.
 * KVS_HANG=RANK:CALL:FILE; from the moment on that FILE exists, the working thread of that rank never returns
 * from CALL: fdatasync or fsync (a file system that does not answer; they sleep), expf (a loop in the engine;
 * it spins). Other threads go on: what hangs is the work, not the process. None of them is a call that
 * checkers of memory or threads replace too. */
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static const char *const variable = "KVS_HANG";

/* FILE if this call of this rank is meant. */
static const char *meant(const char *call)
{
    const char *spec = getenv(variable), *rank = getenv("OMPI_COMM_WORLD_RANK");
    size_t n = strlen(call);
    if (!spec || spec[0] != (rank ? rank[0] : '0') || spec[1] != ':')
        return NULL;
    return !strncmp(spec + 2, call, n) && spec[2 + n] == ':' ? spec + 3 + n : NULL;
}

static bool is_working_thread(void)
{
    return syscall(SYS_gettid) == getpid();
}

static bool hangs(const char *call)
{
    const char *file = meant(call);
    return file && is_working_thread() && access(file, F_OK) == 0;
}

int fdatasync(int fd)
{
    while (hangs("fdatasync"))
        sleep(1);
    return (int)syscall(SYS_fdatasync, fd);
}

int fsync(int fd)
{
    while (hangs("fsync"))
        sleep(1);
    return (int)syscall(SYS_fsync, fd);
}

float expf(float x)
{
    static _Thread_local unsigned n;
    static _Thread_local float (*next)(float);
    while (n++ % 256 == 0 && hangs("expf"))
        for (volatile int i = 0; i < 1000000; i++)
            n = 0;
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "expf");
    return next(x);
}
