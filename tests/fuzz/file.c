/* The folder of a fuzz process, in memory where there is /dev/shm; removed at the end. */
#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char dir[64], last[128];

static void remove_all(void)
{
    unlink(last);
    rmdir(dir);
}
static void must(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    _exit(1);
}
const char *fuzz_file(const char *name, const void *data, size_t n, const char **path)
{
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "%s/kvs_fuzz.XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
        must(mkdtemp(dir) != NULL, dir);
        snprintf(last, sizeof last, "%s/%s", dir, name);
        atexit(remove_all);
    }
    int fd = open(last, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0 && write(fd, data, n) == (ssize_t)n, last);
    close(fd);
    if (path)
        *path = last;
    return dir;
}
void fuzz_touch(const void *data, size_t n)
{
    volatile unsigned char sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (unsigned char)(sum + ((const unsigned char *)data)[i]);
}
