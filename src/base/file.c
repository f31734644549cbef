#include "base/file.h"

#include "base/err.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int file_map(struct file_map *m, const char *path)
{
    *m = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(ERR_IO, "cannot open %s: %s", path, strerror(errno));
    struct stat st;
    int rc = 0;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        rc = err_set(ERR_INPUT, "%s is not a regular file", path);
    } else if (st.st_size > 0) {
        void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            rc = err_set(ERR_IO, "cannot map %s: %s", path, strerror(errno));
        else
            *m = (struct file_map){p, (size_t)st.st_size};
    }
    close(fd);
    return rc;
}

void file_unmap(struct file_map *m)
{
    if (m->data)
        munmap((void *)(uintptr_t)m->data, m->bytes);
    *m = (struct file_map){0};
}

void file_release(const struct file_map *m, size_t at, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t from = (at + page - 1) / page * page, to = (at + bytes) / page * page;
    if (m->data && from < to && to <= m->bytes)
        madvise((void *)(uintptr_t)(m->data + from), to - from, MADV_DONTNEED);
}

void file_want(const struct file_map *m, size_t at, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE), from = at / page * page;
    if (m->data && bytes && at + bytes <= m->bytes)
        madvise((void *)(uintptr_t)(m->data + from), at + bytes - from, MADV_WILLNEED);
}

int file_read(const char *path, char **data, size_t *bytes)
{
    FILE *f = fopen(path, "rbe");
    if (!f)
        return err_set(ERR_IO, "cannot open %s: %s", path, strerror(errno));
    char *buf = NULL;
    size_t n = 0, cap = 0;
    for (;;) {
        if (cap - n < 65537) {
            cap = cap ? 2 * cap : 131072;
            buf = mem_grow(buf, cap, 1);
        }
        size_t got = fread(buf + n, 1, cap - n - 1, f);
        n += got;
        if (got == 0)
            break;
    }
    int bad = ferror(f);
    fclose(f);
    if (bad) {
        free(buf);
        return err_set(ERR_IO, "cannot read %s: %s", path, strerror(errno));
    }
    buf = mem_grow(buf, n + 1, 1); /* its end is where a checker of memory sees it */
    buf[n] = 0;
    *data = buf;
    if (bytes)
        *bytes = n;
    return 0;
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return -1;
        p += k;
        n -= (size_t)k;
    }
    return 0;
}

char *file_resolve(const char *path)
{
    char *at = mem_strdup(path);
    for (int hops = 0; hops < 40; hops++) { /* as many as the kernel follows */
        char to[4096];
        ssize_t n = readlink(at, to, sizeof to - 1);
        if (n <= 0)
            break;
        to[n] = 0;
        const char *slash = strrchr(at, '/');
        char *next =
            to[0] == '/' || !slash ? mem_strdup(to) : mem_printf("%.*s/%s", (int)(slash - at), at, to);
        free(at);
        at = next;
    }
    return at;
}

char *file_aside(const char *path, const char *what)
{
    char *name = mem_printf("%s.%s", path, what);
    for (int i = 2; file_exists(name) || file_is_dir(name); i++) {
        free(name);
        name = mem_printf("%s.%s.%d", path, what, i);
    }
    return name;
}

bool file_is_special(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode);
}

bool file_is_same(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static int write_special(const char *path, const void *data, size_t bytes)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool ok = fd >= 0 && write_all(fd, data, bytes) == 0;
    int rc = ok ? 0 : err_set(ERR_IO, "cannot write %s: %s", path, strerror(errno));
    if (fd >= 0)
        close(fd);
    return rc;
}

static int replace(const char *path, const void *data, size_t bytes)
{
    int rc = 0, fd;
    char *tmp = file_temp(path, &fd);
    if (!tmp)
        return err_of_errno(errno);
    bool ok = write_all(fd, data, bytes) == 0 && fsync(fd) == 0;
    ok = close(fd) == 0 && ok;
    rc = ok ? file_take_place(tmp, path)
            : err_set(err_of_errno(errno), "cannot write %s: %s", path, strerror(errno));
    if (rc < 0)
        unlink(tmp);
    free(tmp);
    return rc;
}

int file_write_atomic(const char *path, const void *data, size_t bytes)
{
    char *real = file_resolve(path);
    int rc = file_is_special(real) ? write_special(real, data, bytes) : replace(real, data, bytes);
    free(real);
    return rc;
}

int file_mkdirs(const char *path)
{
    char *p = mem_strdup(path);
    int rc = 0;
    for (char *s = p + 1; rc == 0; s++) {
        if (*s != '/' && *s != 0)
            continue;
        char keep = *s;
        *s = 0;
        if (mkdir(p, 0777) != 0 && errno != EEXIST)
            rc = err_set(ERR_IO, "cannot make folder %s: %s", p, strerror(errno));
        *s = keep;
        if (keep == 0)
            break;
    }
    free(p);
    if (rc == 0 && !file_is_dir(path))
        rc = err_set(ERR_IO, "%s is not a folder", path);
    return rc;
}

bool file_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

bool file_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool file_is_real_dir(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

char *file_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return mem_printf("%s%s%s", dir, n && dir[n - 1] == '/' ? "" : "/", name);
}

static int by_bytes(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

int file_list(const char *dir, char ***names, int *n)
{
    *names = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d)
        return err_set(ERR_IO, "cannot open folder %s: %s", dir, strerror(errno));
    int cap = 0;
    struct dirent *e;
    while ((e = readdir(d))) {
        char *path = file_join(dir, e->d_name);
        struct stat st;
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
            *MEM_PUSH(*names, *n, cap) = mem_strdup(e->d_name);
        free(path);
    }
    closedir(d);
    if (*n)
        qsort(*names, (size_t)*n, sizeof **names, by_bytes);
    return 0;
}

void file_list_free(char **names, int n)
{
    for (int i = 0; i < n; i++)
        free(names[i]);
    free(names);
}

bool file_ends_with(const char *path, const char *end)
{
    const size_t n = strlen(path), k = strlen(end);
    return k <= n && !strcmp(path + n - k, end);
}

int file_only(const char *dir, const char *end, char **one)
{
    char **names;
    int n, hits = 0;
    *one = NULL;
    if (file_list(dir, &names, &n) < 0)
        return 0;
    for (int i = 0; i < n; i++)
        if (file_ends_with(names[i], end) && hits++ == 0)
            *one = file_join(dir, names[i]);
    file_list_free(names, n);
    if (hits > 1) {
        free(*one);
        *one = NULL;
    }
    return hits;
}
