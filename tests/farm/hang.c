/* Loaded ahead of a program under test (LD_PRELOAD): one of its ranks hangs in a call.
 * KVS_HANG=RANK:CALL:FILE; from the moment on that FILE exists, the working thread of that rank never returns
 * from CALL: fdatasync or fsync (a file system that does not answer; they sleep), calloc (a loop in the
 * engine; it spins). Other threads go on: what hangs is the work, not the process. */
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

extern void *__libc_calloc(size_t n, size_t size);
void *calloc(size_t n, size_t size)
{
    while (hangs("calloc"))
        for (volatile int i = 0; i < 1000000; i++)
            ;
    return __libc_calloc(n, size);
}
