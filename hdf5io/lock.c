#include "hdf5io/lock.h"

#include "base/clock.h"
#include "base/err.h"
#include "base/file.h"
#include "base/host.h"
#include "base/log.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

/* Seconds between two beats, and without one after which a holder that flock() does not show counts as gone.
 */
#define S_BEAT  2.0
#define S_QUIET 8.0
#define S_LOOK  0.2

/* What the file says: one line of this size. */
enum { LINE = 256 };
struct owner {
    uint64_t id; /* 0: nobody */
    char host[64], boot[HOST_BOOT];
    int pid;
};

struct lock {
    char *dir, *path;
    int fd;
    struct owner own;
    pthread_t thread;
    bool beats, follows; /* own.id is that of another */
    atomic_bool ending;
};

/* ---- the line ---- */
static void write_line(char line[LINE], const struct owner *o, uint64_t beat)
{
    int n = snprintf(line, LINE, "process %d on %s boot %s id %016" PRIx64 " beat %" PRIu64, o->pid, o->host,
                     o->boot[0] ? o->boot : "-", o->id, beat);
    memset(line + n, ' ', (size_t)(LINE - 1 - n));
    line[LINE - 1] = '\n';
}

/* The bytes there are; "" for an empty file. False if it cannot be read. */
static bool read_line(const char *path, char line[LINE + 1])
{
    memset(line, 0, LINE + 1);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : pread(fd, line, LINE, 0);
    if (fd >= 0)
        close(fd);
    return n >= 0;
}

/* A line of another form names nobody, but it is there: its holder is known by its bytes alone. */
static struct owner parse(const char *line)
{
    struct owner o = {0};
    unsigned long long id;
    if (sscanf(line, "process %d on %63s boot %39s id %16llx", &o.pid, o.host, o.boot, &id) == 4)
        o.id = id;
    return o;
}

/* Who holds it, for people. */
static const char *name_of(const char *line, char name[128])
{
    struct owner o = parse(line);
    if (o.id)
        snprintf(name, 128, "process %d on %s", o.pid, o.host);
    else
        snprintf(name, 128, "%.*s", (int)strcspn(line, "\n"), *line ? line : "unknown process");
    return name;
}

static int say_who(const char *dir, const char *line)
{
    char name[128];
    return err_set(ERR_AGAIN, "another run is writing these results (%s; lock file %s/lock)",
                   name_of(line, name), dir);
}

/* ---- taking it ---- */
enum outcome { HAVE_IT, HELD, AGAIN, NO_LOCKS };

/* Opens DIR/lock, and tries flock() on it. A link is refused: what it leads to is not ours. */
static int try_flock(struct lock *l, enum outcome *out)
{
    struct stat a, b;
    l->fd = open(l->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0666);
    *out = AGAIN;
    if (l->fd < 0 && errno == ENOENT) /* the folder went away between two calls */
        return file_mkdirs(l->dir);
    if (l->fd < 0)
        return err_set(errno == ELOOP ? ERR_INPUT : err_of_errno(errno), "cannot open %s: %s", l->path,
                       errno == ELOOP ? "it is a symbolic link" : strerror(errno));
    if (fstat(l->fd, &a) != 0 || !S_ISREG(a.st_mode))
        return err_set(ERR_INPUT, "%s is not a regular file", l->path);
    *out = flock(l->fd, LOCK_EX | LOCK_NB) == 0 ? HAVE_IT : errno == EWOULDBLOCK ? HELD : NO_LOCKS;
    /* a finished run may have renamed the folder, or another taken the lock over, while we waited */
    if (lstat(l->path, &b) != 0 || a.st_ino != b.st_ino || a.st_dev != b.st_dev)
        *out = AGAIN;
    return 0;
}

static void let_go(struct lock *l)
{
    if (l->fd >= 0)
        close(l->fd);
    l->fd = -1;
}

/* Whether the line stays as it is for `s` seconds. Its bytes are left in `line`. ERR_* when told to give up.
 */
static int watch_beat(const struct lock *l, double s, const struct poll *poll, char line[LINE + 1],
                      bool *still)
{
    char now[LINE + 1];
    double begin = clock_now(), last = begin, waited = 0;
    *still = true;
    while (*still && waited < s) {
        usleep((useconds_t)(S_LOOK * 1e6));
        double t = clock_now();
        waited += t - last < 1 ? t - last : 1; /* of a time in which this process did not run, a second */
        last = t;
        *still = read_line(l->path, now) && memcmp(now, line, LINE) == 0;
        if (poll)
            TRY(poll_call(poll));
    }
    if (!*still)
        memcpy(line, now, sizeof now);
    return 0;
}

/* A new file under the lock's name, held by this process: the old one stays locked by whoever is lost. Of
 * several that want to, one gets flock() on DIR/takeover. */
static int take_over(struct lock *l, const char *seen)
{
    char line[LINE + 1], text[LINE], name[128];
    char *guard = file_join(l->dir, "takeover"), *fresh = mem_printf("%s.%016" PRIx64, l->path, l->own.id);
    int rc = 0, fd = open(guard, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0666);
    if (fd < 0 || (flock(fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) || !read_line(l->path, line) ||
        memcmp(line, seen, LINE) != 0) {
        rc = say_who(l->dir, seen);
        goto done;
    }
    l->fd = open(fresh, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
    write_line(text, &l->own, 0);
    if (l->fd < 0 || (flock(l->fd, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) ||
        pwrite(l->fd, text, LINE, 0) != LINE || rename(fresh, l->path) != 0)
        rc = err_set(err_of_errno(errno), "cannot take over %s: %s", l->path, strerror(errno));
    if (rc < 0)
        unlink(fresh);
    else
        log_warn("%s: taken over from %s, whose heartbeat stood still", l->path, name_of(seen, name));
done:
    if (fd >= 0)
        close(fd);
    free(guard);
    free(fresh);
    return rc;
}

/* Somebody else's name is in the lock. `held`: by flock() too. */
static int win(struct lock *l, bool held, double s_wait, const struct poll *poll)
{
    char line[LINE + 1], name[128];
    if (!read_line(l->path, line))
        return err_set(ERR_IO, "cannot read %s: %s", l->path, strerror(errno));
    struct owner o = parse(line);
    bool here = o.id && o.boot[0] != '-' && !strcmp(o.boot, l->own.boot), still;
    if (held && (here || s_wait <= 0 || !*line))
        return say_who(l->dir, line); /* the kernel says that it lives */
    if (!held && (here || !*line))
        return 0; /* and that it does not */
    double s = held ? s_wait : s_wait > 0 && s_wait < S_QUIET ? s_wait : S_QUIET;
    if (held)
        log_info("%s is held by %s: waiting for a sign of life of it, %g s at most", l->path,
                 name_of(line, name), s);
    TRY(watch_beat(l, s, poll, line, &still));
    if (!still)
        return say_who(l->dir, line);
    if (!held)
        return 0;
    let_go(l);
    return take_over(l, line);
}

static int take(struct lock *l, double s_wait, const struct poll *poll)
{
    char line[LINE];
    enum outcome out;
    TRY(file_mkdirs(l->dir));
    if (!file_is_real_dir(l->dir))
        return err_set(ERR_INPUT, "%s is a symbolic link: the journal needs a folder of its own", l->dir);
    do {
        let_go(l);
        TRY(try_flock(l, &out));
    } while (out == AGAIN);
    if (out == NO_LOCKS)
        log_warn("%s cannot be locked (%s): two runs that start at once would both write these results",
                 l->path, strerror(errno));
    TRY(win(l, out == HELD, s_wait, poll));
    write_line(line, &l->own, 0);
    if (pwrite(l->fd, line, LINE, 0) != LINE)
        return err_set(err_of_errno(errno), "cannot write %s: %s", l->path, strerror(errno));
    return 0;
}

/* ---- holding it ---- */
int lock_check(const struct lock *l)
{
    char line[LINE + 1];
    bool there = read_line(l->path, line);
    if (l->follows && (!there || parse(line).id != l->own.id))
        return err_set(ERR_AGAIN, "the run whose lock is %s has ended meanwhile: its own file stays",
                       l->path);
    if (!there)
        return err_set(ERR_AGAIN, "this run has lost its lock %s: %s", l->path, strerror(errno));
    struct owner o = parse(line);
    if (o.id == l->own.id)
        return 0;
    return err_set(ERR_AGAIN,
                   "this run has lost its lock %s to process %d on %s; the results file is left to that one",
                   l->path, o.pid, o.id ? o.host : "an unknown machine");
}

/* The file may hang, so this has a thread of its own. */
static void *beat(void *arg)
{
    struct lock *l = arg;
    char line[LINE];
    for (uint64_t n = 1; !atomic_load(&l->ending); n++) {
        for (double s = 0; s < S_BEAT && !atomic_load(&l->ending); s += 0.05)
            usleep(50000);
        write_line(line, &l->own, n);
        ssize_t k = atomic_load(&l->ending) ? 0 : pwrite(l->fd, line, LINE, 0);
        (void)k; /* a beat that is missing is no reason to stop: the lock is looked at before it matters */
    }
    return NULL;
}

static void free_lock(struct lock *l)
{
    let_go(l);
    free(l->path);
    free(l->dir);
    free(l);
}

int lock_take(struct lock **out, const char *dir, double s_wait, const struct poll *poll)
{
    struct lock *l = mem_alloc(1, sizeof *l);
    *out = NULL;
    *l = (struct lock){.dir = mem_strdup(dir), .path = file_join(dir, "lock"), .fd = -1};
    l->own.pid = (int)getpid();
    host_name(l->own.host, sizeof l->own.host);
    host_boot(l->own.boot);
    if (getrandom(&l->own.id, sizeof l->own.id, 0) != sizeof l->own.id || !l->own.id)
        l->own.id = (uint64_t)getpid();
    int rc = take(l, s_wait, poll);
    if (rc < 0) {
        free_lock(l);
        return rc;
    }
    l->beats = pthread_create(&l->thread, NULL, beat, l) == 0;
    *out = l;
    return 0;
}

void lock_follow(struct lock **out, const char *dir)
{
    char line[LINE + 1];
    struct lock *l = mem_alloc(1, sizeof *l);
    *l = (struct lock){.dir = mem_strdup(dir), .path = file_join(dir, "lock"), .fd = -1, .follows = true};
    l->own.id = read_line(l->path, line) ? parse(line).id : 0;
    *out = l;
}

void lock_drop(struct lock *l)
{
    if (!l)
        return;
    atomic_store(&l->ending, true);
    if (l->beats)
        pthread_join(l->thread, NULL);
    if (l->fd >= 0)
        (void)!ftruncate(l->fd, 0); /* an empty lock is nobody's */
    free_lock(l);
}

bool lock_is_held(const char *dir)
{
    char *path = file_join(dir, "lock");
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    bool held = fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
    if (fd >= 0)
        close(fd);
    free(path);
    return held;
}
