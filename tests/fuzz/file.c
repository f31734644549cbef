/* The folder of a fuzz process, in memory where there is /dev/shm; removed at the end. */
#include "fuzz.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 8 };
static char dir[64], made[MOST][128];

static void remove_all(void)
{
    for (int i = 0; i < MOST; i++)
        if (made[i][0])
            unlink(made[i]);
    rmdir(dir);
}
static void must(int ok, const char *what)
{
    if (ok)
        return;
    perror(what);
    _exit(1);
}
/* The path of that name, noted for its removal. */
static const char *place(const char *name)
{
    char path[128];
    int i = 0;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    while (i < MOST && made[i][0] && strcmp(made[i], path))
        i++;
    must(i < MOST, "more files than a harness may make");
    memcpy(made[i], path, sizeof path);
    return made[i];
}
const char *fuzz_file(const char *name, const void *data, size_t n, const char **path)
{
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "%s/kvs_fuzz.XXXXXX", access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm");
        must(mkdtemp(dir) != NULL, dir);
        atexit(remove_all);
    }
    const char *file = place(name);
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0 && write(fd, data, n) == (ssize_t)n, file);
    close(fd);
    if (path)
        *path = file;
    return dir;
}
void fuzz_touch(const void *data, size_t n)
{
    volatile unsigned char sum = 0;
    for (size_t i = 0; i < n; i++)
        sum = (unsigned char)(sum + ((const unsigned char *)data)[i]);
}
