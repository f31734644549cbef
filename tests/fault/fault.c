/* For LD_PRELOAD: lets the n-th call of one kind on results files fail, or ends or signals the process there.
 *   KVS_FAULT=CALL:N:ACTION   CALL write | sync | rename; ACTION EIO, ENOSPC (the call fails), full (this and
 * all later writes fail with ENOSPC), kill (before the call), torn (half of a write is done, then kill),
 * after (done, then kill), TERM, USR1 (signal, then the call) Only files whose path holds ".h5" count. write
 * is write and pwrite, sync is fsync and fdatasync. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static long n_call;

static int is_results(int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    path[n > 0 ? n : 0] = 0;
    return strstr(path, ".h5") != NULL;
}

/* The action for this call, or "". */
static const char *action(const char *call)
{
    const char *fault = getenv("KVS_FAULT");
    size_t n = strlen(call);
    if (!fault || strncmp(fault, call, n) != 0 || fault[n] != ':')
        return "";
    char *what;
    long at = strtol(fault + n + 1, &what, 10), now = __sync_add_and_fetch(&n_call, 1);
    what += *what == ':';
    return now == at || (now > at && strcmp(what, "full") == 0) ? what : "";
}

/* Ends the process, sends the signal, or returns the errno that the call fails with, 0 none. */
static int act(const char *what)
{
    if (strcmp(what, "kill") == 0)
        kill(getpid(), SIGKILL);
    if (strcmp(what, "TERM") == 0)
        kill(getpid(), SIGTERM);
    if (strcmp(what, "USR1") == 0)
        kill(getpid(), SIGUSR1);
    return strcmp(what, "EIO") == 0                                   ? EIO
           : strcmp(what, "ENOSPC") == 0 || strcmp(what, "full") == 0 ? ENOSPC
                                                                      : 0;
}

static void end_if(int really)
{
    if (really)
        kill(getpid(), SIGKILL);
}

typedef ssize_t write_call(int fd, const void *data, size_t n);
typedef ssize_t pwrite_call(int fd, const void *data, size_t n, off_t at);
typedef int sync_call(int fd);
typedef int rename_call(const char *from, const char *to);

static void *next(const char *name)
{
    void *f = dlsym(RTLD_NEXT, name);
    if (!f)
        abort();
    return f;
}

ssize_t write(int fd, const void *data, size_t n)
{
    static write_call *real;
    if (!real)
        *(void **)&real = next("write");
    const char *what = is_results(fd) ? action("write") : "";
    int e = act(what);
    if (e) {
        errno = e;
        return -1;
    }
    ssize_t rc = real(fd, data, strcmp(what, "torn") == 0 ? n / 2 : n);
    end_if(strcmp(what, "torn") == 0 || strcmp(what, "after") == 0);
    return rc;
}

ssize_t pwrite(int fd, const void *data, size_t n, off_t at)
{
    static pwrite_call *real;
    if (!real)
        *(void **)&real = next("pwrite");
    const char *what = is_results(fd) ? action("write") : "";
    int e = act(what);
    if (e) {
        errno = e;
        return -1;
    }
    ssize_t rc = real(fd, data, strcmp(what, "torn") == 0 ? n / 2 : n, at);
    end_if(strcmp(what, "torn") == 0 || strcmp(what, "after") == 0);
    return rc;
}

ssize_t pwrite64(int fd, const void *data, size_t n, off_t at)
{
    return pwrite(fd, data, n, at);
}

static int sync_by(const char *name, int fd)
{
    sync_call *real;
    *(void **)&real = next(name);
    const char *what = is_results(fd) ? action("sync") : "";
    int e = act(what);
    if (e) {
        errno = e;
        return -1;
    }
    int rc = real(fd);
    end_if(strcmp(what, "torn") == 0 || strcmp(what, "after") == 0);
    return rc;
}

int fsync(int fd)
{
    return sync_by("fsync", fd);
}

int fdatasync(int fd)
{
    return sync_by("fdatasync", fd);
}

int rename(const char *from, const char *to)
{
    rename_call *real;
    *(void **)&real = next("rename");
    const char *what = strstr(to, ".h5") ? action("rename") : "";
    int e = act(what);
    if (e) {
        errno = e;
        return -1;
    }
    int rc = real(from, to);
    end_if(strcmp(what, "torn") == 0 || strcmp(what, "after") == 0);
    return rc;
}
