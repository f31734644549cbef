#include "hdf5io/journal.h"

#include "base/err.h"
#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"

#define XXH_INLINE_ALL
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#define ENTRY_MAGIC 0x314a564bu /* "KVJ1" */

char *journal_dir(const char *path)
{
    char *real = file_resolve(path), *dir = mem_printf("%s.journal", real);
    free(real);
    return dir;
}

int journal_pwrite(int fd, const void *data, size_t n, uint64_t at, const char *path)
{
    const char *p = data;
    while (n) {
        ssize_t k = pwrite(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set(k < 0 ? err_of_errno(errno) : ERR_IO,
                           "cannot write %s: %s (what is finished stays readable)", path,
                           k < 0 ? strerror(errno) : "nothing was taken");
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return 0;
}

int journal_pread(int fd, void *dst, size_t n, uint64_t at, const char *path)
{
    char *p = dst;
    while (n) {
        ssize_t k = pread(fd, p, n, (off_t)at);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return err_set(ERR_IO, "cannot read %s: %s", path, k < 0 ? strerror(errno) : "file is too short");
        p += k;
        at += (uint64_t)k;
        n -= (size_t)k;
    }
    return 0;
}

/* ---- names ---- */
/* "0123456789abcdef.12" */
static bool parse_name(const char *name, uint64_t *run, int *attempt)
{
    int used = 0;
    unsigned long long r;
    if (strspn(name, "0123456789abcdef") != 16 || name[16] != '.' || !name[17] ||
        strspn(name + 17, "0123456789") != strlen(name + 17) || strlen(name + 17) > 8)
        return false;
    if (sscanf(name, "%16llx.%d%n", &r, attempt, &used) != 2 || name[used])
        return false;
    *run = r;
    return true;
}

static int by_attempt(const void *a, const void *b)
{
    const char *x = *(char *const *)a, *y = *(char *const *)b;
    uint64_t run;
    int i = 0, j = 0;
    parse_name(x, &run, &i);
    parse_name(y, &run, &j);
    return i != j ? (i < j ? -1 : 1) : strcmp(x, y);
}

int journal_list(const char *dir, char ***names, int *n)
{
    *names = NULL;
    *n = 0;
    if (!file_is_dir(dir))
        return 0;
    char **all;
    int n_all, cap = 0, attempt;
    uint64_t run;
    TRY(file_list(dir, &all, &n_all));
    for (int i = 0; i < n_all; i++)
        if (parse_name(all[i], &run, &attempt))
            *MEM_PUSH(*names, *n, cap) = mem_strdup(all[i]);
    file_list_free(all, n_all);
    if (*n)
        qsort(*names, (size_t)*n, sizeof **names, by_attempt);
    return 0;
}

/* ---- writing ---- */
static int open_new(const char *path)
{
    return open(path, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666);
}

static int open_attempt(struct journal *j, const char *dir)
{
    char **names;
    int n;
    TRY(journal_list(dir, &names, &n));
    if (n == 0 || !parse_name(names[n - 1], &j->run, &j->attempt)) {
        j->attempt = 0;
        if (getrandom(&j->run, sizeof j->run, 0) != sizeof j->run)
            j->run = (uint64_t)getpid();
    }
    file_list_free(names, n);
    do { /* O_EXCL: a ghost on another node cannot share the name */
        j->attempt++;
        free(j->path);
        j->path = mem_printf("%s/%016llx.%d", dir, (unsigned long long)j->run, j->attempt);
        j->fd = open_new(j->path);
    } while (j->fd < 0 && errno == EEXIST && j->attempt < 10000000);
    if (j->fd < 0)
        return err_set(err_of_errno(errno), "cannot make %s: %s", j->path, strerror(errno));
    char *big = mem_printf("%s.big", j->path);
    j->fd_big = open_new(big);
    int rc = j->fd_big < 0 ? err_set(err_of_errno(errno), "cannot make %s: %s", big, strerror(errno)) : 0;
    free(big);
    return rc;
}

int journal_open(struct journal *j, const char *dir, const struct book *plan)
{
    *j = (struct journal){.fd = -1, .fd_big = -1};
    struct str flat = {0};
    struct journal_head h;
    uint64_t at;
    int rc;
    TRY_GOTO(open_attempt(j, dir), done);
    book_pack(plan, &flat);
    for (int copy = 0; copy < 2; copy++)
        TRY_GOTO(journal_add(j, JOURNAL_PLAN, flat.data, flat.n, NULL, 0, &h, &at), done);
    TRY_GOTO(journal_commit(j), done);
    TRY_GOTO(file_sync_dir(dir), done);
    TRY_GOTO(file_sync_parent(dir), done);
done:
    str_free(&flat);
    if (rc < 0)
        journal_close(j);
    return rc;
}

void journal_close(struct journal *j)
{
    if (j->fd >= 0)
        close(j->fd);
    if (j->fd_big >= 0)
        close(j->fd_big);
    free(j->path);
    str_free(&j->buf);
    *j = (struct journal){.fd = -1, .fd_big = -1};
}

static uint64_t entry_sum(const struct journal_head *h, const void *payload)
{
    struct journal_head zero = *h;
    zero.sum = 0;
    XXH3_state_t st;
    XXH3_64bits_reset(&st);
    XXH3_64bits_update(&st, &zero, sizeof zero);
    XXH3_64bits_update(&st, payload, h->n_small);
    return XXH3_64bits_digest(&st);
}

int journal_add(struct journal *j, enum journal_kind kind, const void *small, size_t n_small, const void *big,
                size_t n_big, struct journal_head *h, uint64_t *payload_at)
{
    *h = (struct journal_head){ENTRY_MAGIC, (uint32_t)kind, n_small, j->at_big, n_big, 0, 0};
    if (n_big) {
        h->big_sum = XXH3_64bits(big, n_big);
        TRY(journal_pwrite(j->fd_big, big, n_big, j->at_big, j->path));
        j->at_big += n_big;
    }
    h->sum = entry_sum(h, small);
    *payload_at = j->at + j->buf.n + sizeof *h;
    str_addn(&j->buf, h, sizeof *h);
    str_addn(&j->buf, small, n_small);
    return 0;
}

static int sync_file(int fd, const char *path)
{
    while (fdatasync(fd) != 0)
        if (errno != EINTR)
            return err_set(err_of_errno(errno), "cannot sync %s: %s (what is finished stays readable)", path,
                           strerror(errno));
    return 0;
}

int journal_commit(struct journal *j)
{
    if (j->at_big)
        TRY(sync_file(j->fd_big, j->path));
    TRY(journal_pwrite(j->fd, j->buf.data, j->buf.n, j->at, j->path));
    TRY(sync_file(j->fd, j->path));
    j->at += j->buf.n;
    str_clear(&j->buf);
    return 0;
}

/* ---- removing ---- */
static void remove_folder(const char *dir)
{
    char **names;
    int n;
    if (!file_is_real_dir(dir)) { /* what a link leads to is not ours; the name is */
        unlink(dir);
        return;
    }
    if (file_list(dir, &names, &n) < 0)
        return;
    for (int i = 0; i < n; i++) {
        char *p = file_join(dir, names[i]);
        unlink(p);
        free(p);
    }
    file_list_free(names, n);
    rmdir(dir);
}

void journal_clean(const char *dir)
{
    char *done = mem_printf("%s.done", dir);
    remove_folder(done);
    free(done);
}

int journal_remove(const char *dir)
{
    char *done = mem_printf("%s.done", dir);
    remove_folder(done);
    int rc = 0;
    if (rename(dir, done) != 0)
        rc = err_set(ERR_IO, "cannot rename %s: %s", dir, strerror(errno));
    else
        remove_folder(done);
    free(done);
    return rc < 0 ? rc : file_sync_parent(dir);
}

int journal_keep(const char *dir)
{
    char *to = file_aside(dir, "damaged");
    int rc = rename(dir, to) == 0 ? 0 : err_set(ERR_IO, "cannot rename %s: %s", dir, strerror(errno));
    if (rc == 0)
        log_warn("the damaged journal is kept as %s: remove it when you no longer want to look into it", to);
    free(to);
    return rc < 0 ? rc : file_sync_parent(dir);
}

/* ---- reading ---- */
static bool next_entry(int fd, uint64_t at, uint64_t size, struct journal_head *h, struct str *payload,
                       const char *path)
{
    if (size - at < sizeof *h || journal_pread(fd, h, sizeof *h, at, path) < 0)
        return false;
    if (h->magic != ENTRY_MAGIC || h->n_small > size - at - sizeof *h)
        return false;
    if (payload->cap < h->n_small + 1) {
        payload->cap = h->n_small + 1;
        payload->data = mem_grow(payload->data, payload->cap, 1);
    }
    payload->n = h->n_small;
    return journal_pread(fd, payload->data, h->n_small, at + sizeof *h, path) == 0 &&
           entry_sum(h, payload->data) == h->sum;
}

/* Where the next good entry begins at `at` or behind it (`size`: nowhere); it is in *h and payload then. */
static uint64_t find_entry(int fd, uint64_t at, uint64_t size, struct journal_head *h, struct str *payload,
                           const char *path)
{
    enum { WINDOW = 1 << 20 };
    const uint32_t magic = ENTRY_MAGIC;
    char *window = mem_grow(NULL, WINDOW, 1);
    uint64_t found = size;
    while (found == size && at < size && size - at >= sizeof *h) {
        size_t n = size - at < WINDOW ? (size_t)(size - at) : WINDOW;
        if (journal_pread(fd, window, n, at, path) < 0)
            break;
        char *p = window;
        while (found == size && (p = memmem(p, n - (size_t)(p - window), &magic, sizeof magic)) != NULL) {
            uint64_t here = at + (uint64_t)(p++ - window);
            if (next_entry(fd, here, size, h, payload, path))
                found = here;
        }
        at += n - (sizeof magic - 1);
    }
    free(window);
    return found;
}

/* Whether the bytes from `at` on, behind which no good entry follows, are more than the cut beginning of one.
 * Zeros are what a crashed file system may leave. */
static bool is_damaged(int fd, uint64_t at, uint64_t size, const char *path)
{
    struct journal_head h;
    size_t n = (size_t)(size - at);
    char *rest = mem_grow(NULL, n, 1);
    bool read = journal_pread(fd, rest, n, at, path) == 0, zero = true, damaged = false;
    for (size_t i = 0; i < n && zero && read; i++)
        zero = rest[i] == 0;
    if (read && !zero && n >= sizeof h) {
        memcpy(&h, rest, sizeof h);
        damaged = h.magic != ENTRY_MAGIC || h.n_small <= n - sizeof h;
    }
    free(rest);
    return damaged || !read;
}

int journal_scan(int fd, const char *path,
                 int (*each)(void *ctx, const struct journal_head *h, const void *payload,
                             uint64_t payload_at),
                 void *ctx, struct journal_rest *rest)
{
    struct stat st;
    uint64_t size = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0, at = 0;
    struct str payload = {0};
    struct journal_head h;
    int rc = 0;
    *rest = (struct journal_rest){.at = size};
    while (rc == 0 && at < size) {
        uint64_t good = next_entry(fd, at, size, &h, &payload, path)
                            ? at
                            : find_entry(fd, at + 1, size, &h, &payload, path);
        if (good > at) {
            rest->at = rest->bytes ? rest->at : at;
            rest->bytes += good - at;
            rest->damaged = rest->damaged || good < size || is_damaged(fd, at, size, path);
        }
        at = good;
        if (at == size)
            break;
        rc = each(ctx, &h, payload.data, at + sizeof h);
        at += sizeof h + h.n_small;
    }
    str_free(&payload);
    return rc;
}
