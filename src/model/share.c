#include "model/share.h"

#include "base/err.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/str.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <xxhash.h>

#define SHARE_DIR     "/dev/shm"
#define SHARE_HEAD    4096 /* bytes before the data: a page of its own */
#define SHARE_WAIT_MS 20

/* First bytes of a segment. */
struct head {
    char magic[8];
    uint64_t key, bytes;
    uint32_t ready; /* written last */
};
static const char magic[8] = "kvsweep1";

struct share {
    char *path;
    int fd;
    struct head *map; /* [SHARE_HEAD + bytes] */
    size_t bytes;
    uint64_t key;
    bool published;
};

uint64_t share_key(const void *text, size_t n)
{
    return XXH3_64bits(text, n);
}

/* Whole-file lock of this open file; never waits. F_UNLCK gives it back. Changing between the two kinds is
 * atomic, unlike with flock(). */
static bool lock(int fd, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
    int rc;
    do
        rc = fcntl(fd, F_OFD_SETLK, &l);
    while (rc < 0 && errno == EINTR);
    return rc == 0;
}

/* Does the open file still have a name? Another process may have removed it since. */
static bool named(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && st.st_nlink > 0;
}

static char *name_prefix(void)
{
    return mem_printf("kvsweep-%lu-", (unsigned long)geteuid());
}

/* Removes the file if nobody locks it. */
static bool remove_unused(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    bool gone = fd >= 0 && lock(fd, F_WRLCK) && named(fd) && unlink(path) == 0;
    if (fd >= 0)
        close(fd);
    return gone;
}

int share_clean(void)
{
    char *prefix = name_prefix();
    DIR *d = opendir(SHARE_DIR);
    struct dirent *e;
    int n = 0;
    while (d && (e = readdir(d))) {
        if (strncmp(e->d_name, prefix, strlen(prefix)) != 0)
            continue;
        char *path = mem_printf(SHARE_DIR "/%s", e->d_name);
        n += remove_unused(path);
        free(path);
    }
    if (d)
        closedir(d);
    free(prefix);
    return n;
}

static bool map_segment(struct share *s, int prot)
{
    void *p = mmap(NULL, SHARE_HEAD + s->bytes, prot, MAP_SHARED, s->fd, 0);
    s->map = p == MAP_FAILED ? NULL : p;
    return s->map != NULL;
}

static void unmap_segment(struct share *s)
{
    if (s->map)
        munmap(s->map, SHARE_HEAD + s->bytes);
    s->map = NULL;
}

/* Maps a finished segment of this key; false if the file holds anything else. */
static bool attach(struct share *s)
{
    struct stat st;
    struct head h;
    bool good = fstat(s->fd, &st) == 0 && st.st_size == (off_t)(SHARE_HEAD + s->bytes) &&
                st.st_uid == geteuid() && pread(s->fd, &h, sizeof h, 0) == (ssize_t)sizeof h &&
                h.ready == 1 && !memcmp(h.magic, magic, sizeof magic) && h.key == s->key &&
                h.bytes == s->bytes;
    s->published = good && map_segment(s, PROT_READ);
    return s->published;
}

/* Takes all pages now: later there would be SIGBUS instead of an error. */
static bool take_pages(struct share *s)
{
    int rc = ftruncate(s->fd, 0);
    do
        rc = rc == 0 || rc == EINTR ? posix_fallocate(s->fd, 0, (off_t)(SHARE_HEAD + s->bytes)) : rc;
    while (rc == EINTR);
    if (rc != 0 || !map_segment(s, PROT_READ | PROT_WRITE)) {
        errno = rc > 0 ? rc : errno;
        return false;
    }
    memcpy(s->map->magic, magic, sizeof magic);
    s->map->key = s->key;
    s->map->bytes = s->bytes;
    return true;
}

enum turn { TURN_AGAIN, TURN_USER, TURN_CREATOR, TURN_NONE };

/* One try to get in. Nothing is held after AGAIN and NONE. */
static enum turn try_once(struct share *s)
{
    struct stat st;
    s->fd = open(s->path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->fd < 0 || fstat(s->fd, &st) != 0)
        return TURN_NONE;
    if (st.st_uid != geteuid()) {
        errno = EPERM;
        return TURN_NONE;
    }
    if (lock(s->fd, F_WRLCK)) {
        if (!named(s->fd))
            return TURN_AGAIN;
        if (attach(s)) { /* its users were killed, or its builder is just changing places with us */
            lock(s->fd, F_RDLCK);
            return TURN_USER;
        }
        if (take_pages(s))
            return TURN_CREATOR;
        int why = errno;
        unlink(s->path);
        errno = why;
        return TURN_NONE;
    }
    if (errno != EAGAIN && errno != EACCES)
        return TURN_NONE; /* no locks on this file system */
    return lock(s->fd, F_RDLCK) && named(s->fd) && attach(s) ? TURN_USER : TURN_AGAIN;
}

static void drop(struct share *s)
{
    unmap_segment(s);
    if (s->fd >= 0)
        close(s->fd);
    s->fd = -1;
}

static void free_unused(struct share *s)
{
    drop(s);
    free(s->path);
    free(s);
}

int share_open(struct share **out, uint64_t key, size_t bytes, const struct poll *poll, bool *creator)
{
    char *prefix = name_prefix(), size[32];
    *out = NULL;
    struct share *s = mem_alloc(1, sizeof *s);
    *s = (struct share){.fd = -1, .key = key, .bytes = bytes};
    s->path = mem_printf(SHARE_DIR "/%s%016" PRIx64, prefix, key);
    free(prefix);
    enum turn turn;
    bool cleaned = false;
    while ((turn = try_once(s)) == TURN_AGAIN || (turn == TURN_NONE && !cleaned && share_clean() > 0)) {
        cleaned = cleaned || turn == TURN_NONE;
        drop(s);
        if (poll && poll_call(poll) < 0) {
            free_unused(s);
            return ERR_INTERNAL;
        }
        nanosleep(&(struct timespec){0, SHARE_WAIT_MS * 1000000L}, NULL);
    }
    *creator = turn == TURN_CREATOR;
    if (turn == TURN_NONE) {
        str_bytes(size, (double)bytes);
        log_info("no shared memory for %s of weights in %s (%s): every process keeps its own", size,
                 SHARE_DIR, strerror(errno));
        free_unused(s);
        s = NULL;
    }
    *out = s;
    share_clean();
    return 0;
}

void *share_data(struct share *s)
{
    return (char *)s->map + SHARE_HEAD;
}

const char *share_path(const struct share *s)
{
    return s->path;
}

int share_publish(struct share *s)
{
    __atomic_store_n(&s->map->ready, 1, __ATOMIC_RELEASE);
    if (mprotect(s->map, SHARE_HEAD + s->bytes, PROT_READ) != 0 || !lock(s->fd, F_RDLCK))
        return err_set(ERR_IO, "cannot publish shared weights %s: %s", s->path, strerror(errno));
    s->published = true;
    return 0;
}

void share_close(struct share *s)
{
    if (!s)
        return;
    unmap_segment(s);
    if (!s->published)
        unlink(s->path); /* still locked exclusively: nobody else has it */
    /* Two that leave together would each see the other's lock: so both let go first, then ask. */
    lock(s->fd, F_UNLCK);
    if (s->published)
        remove_unused(s->path);
    drop(s);
    free(s->path);
    free(s);
}
