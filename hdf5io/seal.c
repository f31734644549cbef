#include "hdf5io/seal.h"

#include "hdf5io/h5file.h"
#include "hdf5io/journal.h"

#include "base/err.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

static const char magic[8] = {'K', 'V', 'S', 'S', 'E', 'A', 'L', '1'};

struct range {
    uint64_t from, to;
};
struct ranges {
    struct range *r;
    size_t n, cap;
};

static int by_from(const void *a, const void *b)
{
    const struct range *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

/* Ascending, neighbours joined. */
static void tidy(struct ranges *s)
{
    size_t n = 0;
    if (s->n)
        qsort(s->r, s->n, sizeof *s->r, by_from);
    for (size_t i = 0; i < s->n; i++)
        if (n && s->r[n - 1].to == s->r[i].from)
            s->r[n - 1].to = s->r[i].to;
        else
            s->r[n++] = s->r[i];
    s->n = n;
}

/* Where the chunks of a dataset lie. */
static int add_chunks(hid_t dset, struct ranges *s)
{
    hsize_t dim[2] = {0, 0}, chunk[2] = {1, 1}, at[2] = {0, 0}, size;
    hid_t space = H5Dget_space(dset), prop = H5Dget_create_plist(dset);
    bool ok = H5Sget_simple_extent_ndims(space) <= 2 && H5Sget_simple_extent_dims(space, dim, NULL) >= 0 &&
              H5Pget_chunk(prop, 2, chunk) >= 0;
    for (; ok && at[0] < dim[0]; at[0] += chunk[0]) {
        unsigned mask;
        haddr_t addr;
        ok = H5Dget_chunk_info_by_coord(dset, at, &mask, &addr, &size) >= 0;
        if (ok && addr != HADDR_UNDEF)
            *MEM_PUSH(s->r, s->n, s->cap) = (struct range){addr, addr + size};
    }
    H5Pclose(prop);
    H5Sclose(space);
    return ok ? 0 : h5_error(ERR_IO, "cannot find the chunks of /logits");
}

static int add_logits(hid_t file, struct ranges *s)
{
    H5G_info_t info = {0};
    if (H5Lexists(file, "logits", H5P_DEFAULT) <= 0)
        return 0;
    hid_t all = H5Gopen2(file, "logits", H5P_DEFAULT);
    int rc = all < 0 || H5Gget_info(all, &info) < 0 ? h5_error(ERR_IO, "cannot read /logits") : 0;
    for (hsize_t i = 0; i < info.nlinks && rc == 0; i++) {
        hid_t group = H5Oopen_by_idx(all, ".", H5_INDEX_NAME, H5_ITER_INC, i, H5P_DEFAULT);
        for (int p = 0; p < PART_N && rc == 0 && H5Iget_type(group) == H5I_GROUP; p++) {
            const char *name = part_name((enum part)p);
            if (H5Lexists(group, name, H5P_DEFAULT) <= 0)
                continue;
            hid_t dset = H5Dopen2(group, name, H5P_DEFAULT);
            rc = add_chunks(dset, s);
            H5Dclose(dset);
        }
        H5Oclose(group);
    }
    H5Gclose(all);
    return rc;
}

static int add_bytes(XXH3_state_t *st, int fd, uint64_t from, uint64_t to, const char *path)
{
    enum { BLOCK = 1 << 20 };
    char *buf = mem_grow(NULL, BLOCK, 1);
    int rc = 0;
    for (; from < to && rc == 0; from += BLOCK) {
        size_t n = to - from < BLOCK ? (size_t)(to - from) : BLOCK;
        rc = journal_pread(fd, buf, n, from, path);
        if (rc == 0)
            XXH3_64bits_update(st, buf, n);
    }
    free(buf);
    return rc;
}

/* The sum that a seal over these ranges must have. ERR_DAMAGED: no file has such ranges. */
static int sum_file(int fd, const struct seal *h, const struct range *r, uint64_t *sum, const char *path)
{
    XXH3_state_t *st = XXH3_createState();
    uint64_t at = 0;
    int rc = 0;
    XXH3_64bits_reset(st);
    for (uint64_t i = 0; i < h->n_range && rc == 0; i++) {
        if (r[i].from < at || r[i].to < r[i].from || r[i].to > h->bytes)
            rc = err_set(ERR_DAMAGED, "ranges outside the file");
        else
            rc = add_bytes(st, fd, at, r[i].from, path);
        at = r[i].to;
    }
    if (rc == 0)
        rc = add_bytes(st, fd, at, h->bytes, path);
    if (h->n_range)
        XXH3_64bits_update(st, r, h->n_range * sizeof *r);
    XXH3_64bits_update(st, h, offsetof(struct seal, sum));
    *sum = XXH3_64bits_digest(st);
    XXH3_freeState(st);
    return rc;
}

int seal_put(const char *path)
{
    struct ranges s = {0};
    struct stat st;
    hid_t file;
    int fd = -1, rc;
    TRY(h5_open(&file, path));
    rc = add_logits(file, &s);
    H5Fclose(file);
    TRY_GOTO(rc, done);
    tidy(&s);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        rc = err_set(ERR_IO, "cannot open %s: %s", path, strerror(errno));
        goto done;
    }
    struct seal h = {.bytes = (uint64_t)st.st_size, .n_range = s.n};
    memcpy(h.magic, magic, sizeof magic);
    TRY_GOTO(sum_file(fd, &h, s.r, &h.sum, path), done);
    TRY_GOTO(journal_pwrite(fd, s.r, s.n * sizeof *s.r, h.bytes, path), done);
    TRY_GOTO(journal_pwrite(fd, &h, sizeof h, h.bytes + s.n * sizeof *s.r, path), done);
done:
    if (fd >= 0)
        close(fd);
    free(s.r);
    return rc;
}

static int check_open_file(int fd, const char *path)
{
    struct seal h;
    struct stat st;
    uint64_t sum = 0, size = fstat(fd, &st) == 0 ? (uint64_t)st.st_size : 0;
    if (size < sizeof h || journal_pread(fd, &h, sizeof h, size - sizeof h, path) < 0 ||
        memcmp(h.magic, magic, sizeof magic) != 0)
        return 0;
    struct range *r = NULL;
    int rc = 0;
    if (h.bytes > size - sizeof h || h.n_range != (size - sizeof h - h.bytes) / sizeof *r ||
        (size - sizeof h - h.bytes) % sizeof *r)
        rc = ERR_DAMAGED;
    if (rc == 0 && h.n_range) {
        r = mem_grow(NULL, h.n_range, sizeof *r);
        rc = journal_pread(fd, r, h.n_range * sizeof *r, h.bytes, path);
    }
    if (rc == 0)
        rc = sum_file(fd, &h, r, &sum, path);
    free(r);
    if (rc == 0 && sum != h.sum)
        rc = ERR_DAMAGED;
    return rc != ERR_DAMAGED ? rc
                             : err_set(ERR_DAMAGED,
                                       "%s is damaged: its bytes are not those that were written. "
                                       "Restore it from a copy, or move it away and compute it again",
                                       path);
}

int seal_check(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set(ERR_IO, "cannot open %s: %s", path, strerror(errno));
    int rc = check_open_file(fd, path);
    close(fd);
    return rc;
}
