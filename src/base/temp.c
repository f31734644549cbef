/* Temporary files beside what they will replace: PATH.tmp.HOST-BOOT.PID.RANDOM, where BOOT begins the id of
 * the running kernel. */
#include "base/err.h"
#include "base/file.h"
#include "base/host.h"
#include "base/mem.h"
#include "base/str.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OWNER = 80, OLD_S = 24 * 3600 };

static void owner(char name[OWNER])
{
    char host[64], boot[HOST_BOOT];
    host_name(host, sizeof host);
    host_boot(boot);
    for (char *p = host; *p; p++)
        *p = *p == '/' ? '_' : *p;
    snprintf(name, OWNER, "%s-%.8s", host, boot);
}

char *file_temp(const char *path, int *fd)
{
    char mine[OWNER];
    owner(mine);
    for (int i = 0; i < 100; i++) {
        uint64_t x;
        if (getrandom(&x, sizeof x, 0) != sizeof x)
            x = (uint64_t)i;
        char *tmp = mem_printf("%s.tmp.%s.%d.%016" PRIx64, path, mine, (int)getpid(), x);
        *fd = open(tmp, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
        if (*fd >= 0)
            return tmp;
        int e = errno;
        free(tmp);
        errno = e;
        if (e != EEXIST)
            break;
    }
    err_set(err_of_errno(errno), "cannot write %s: %s", path, strerror(errno));
    return NULL;
}

/* Whether "OWNER.PID.RANDOM" names this machine and a process of it that is gone; *ours: whether it names
 * this machine. */
static bool is_dead(const char *text, bool *ours)
{
    char mine[OWNER], number[24];
    int64_t pid;
    owner(mine);
    const size_t n = strlen(mine);
    *ours = !strncmp(text, mine, n) && text[n] == '.';
    if (!*ours)
        return false;
    const char *digits = text + n + 1;
    snprintf(number, sizeof number, "%.*s", (int)(strcspn(digits, ".") < 23 ? strcspn(digits, ".") : 23),
             digits);
    return str_to_int(number, &pid) && pid >= 1 && pid <= INT32_MAX && kill((pid_t)pid, 0) != 0 &&
           errno == ESRCH;
}

/* Whether nothing has been written to a file for a day, by the clock of its file system: a new file beside it
 * tells the time. */
static bool is_old(const char *path, const char *beside)
{
    struct stat st, now;
    int fd;
    if (lstat(path, &st) != 0 || !S_ISREG(st.st_mode))
        return false;
    char *clock = file_temp(beside, &fd);
    if (!clock)
        return false;
    const bool old = fstat(fd, &now) == 0 && now.st_mtime - st.st_mtime > OLD_S;
    close(fd);
    unlink(clock);
    free(clock);
    return old;
}

void file_temp_clean(const char *path)
{
    char *copy = mem_strdup(path), *slash = strrchr(copy, '/');
    const char *base = slash ? slash + 1 : copy, *dir = slash ? copy : ".";
    const size_t n_base = strlen(base);
    char **names;
    int n;
    if (slash)
        *slash = 0;
    if (file_list(dir[0] ? dir : "/", &names, &n) == 0) {
        for (int i = 0; i < n; i++) {
            bool ours;
            if (strncmp(names[i], base, n_base) != 0 || strncmp(names[i] + n_base, ".tmp.", 5) != 0)
                continue;
            char *p = mem_printf("%s%s", path, names[i] + n_base);
            if (is_dead(names[i] + n_base + 5, &ours) || (!ours && is_old(p, path)))
                unlink(p);
            free(p);
        }
        file_list_free(names, n);
    }
    free(copy);
}
