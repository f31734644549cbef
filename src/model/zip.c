#include "model/zip.h"

#include "base/err.h"
#include "base/mem.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum {
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR_BYTES = 20,
    CENTRAL_BYTES = 46,
    LOCAL_BYTES = 30,
    COMMENT_MAX = 65535,
    NAME_MAX_BYTES = 1024,
};
static const uint32_t END_MAGIC = 0x06054b50, END64_MAGIC = 0x06064b50, LOCATOR_MAGIC = 0x07064b50,
                      CENTRAL_MAGIC = 0x02014b50, LOCAL_MAGIC = 0x04034b50;

static uint16_t u16(const unsigned char *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t u32(const unsigned char *p)
{
    return (uint32_t)u16(p) | (uint32_t)u16(p + 2) << 16;
}

static uint64_t u64(const unsigned char *p)
{
    return (uint64_t)u32(p) | (uint64_t)u32(p + 4) << 32;
}

/* Where the central directory lies and how many entries it has. */
struct directory {
    uint64_t at, bytes, n;
};

static bool inside(const struct file_map *m, uint64_t at, uint64_t bytes)
{
    return at <= m->bytes && bytes <= m->bytes - at;
}

/* The record at the end of the archive: the last place where its magic and the length of its comment fit. */
static const unsigned char *find_end(const struct file_map *m)
{
    if (m->bytes < END_BYTES)
        return NULL;
    size_t first = m->bytes > END_BYTES + COMMENT_MAX ? m->bytes - END_BYTES - COMMENT_MAX : 0;
    for (size_t at = m->bytes - END_BYTES + 1; at-- > first;)
        if (u32(m->data + at) == END_MAGIC && u16(m->data + at + 20) == m->bytes - END_BYTES - at)
            return m->data + at;
    return NULL;
}

static int find_directory(struct directory *d, const struct file_map *m, const char *path)
{
    const unsigned char *end = find_end(m);
    if (!end)
        return err_set(ERR_INPUT, "%s: not a zip archive, or cut off (its end record is missing)", path);
    *d = (struct directory){u32(end + 16), u32(end + 12), u16(end + 10)};
    size_t at = (size_t)(end - m->data);
    if (at >= LOCATOR_BYTES && u32(end - LOCATOR_BYTES) == LOCATOR_MAGIC) {
        uint64_t at64 = u64(end - LOCATOR_BYTES + 8);
        if (!inside(m, at64, END64_BYTES) || u32(m->data + at64) != END64_MAGIC)
            return err_set(ERR_INPUT,
                           "%s: the zip64 end record is not at byte %" PRIu64 ", where it should be", path,
                           at64);
        const unsigned char *p = m->data + at64;
        *d = (struct directory){u64(p + 48), u64(p + 40), u64(p + 32)};
    }
    if (!inside(m, d->at, d->bytes) || d->n > d->bytes / CENTRAL_BYTES)
        return err_set(ERR_INPUT, "%s: the archive's directory does not lie inside the file", path);
    return 0;
}

/* The 64-bit values of an entry whose 32-bit ones are all ones: size, compressed size and place, in this
 * order, only those that are needed (APPNOTE 4.5.3). False if they are not there. */
static bool zip64_values(const unsigned char *extra, size_t n, uint64_t *size, uint64_t *packed, uint64_t *at)
{
    uint64_t *want[3] = {size, packed, at};
    bool any = *size == UINT32_MAX || *packed == UINT32_MAX || *at == UINT32_MAX;
    for (size_t i = 0; any && i + 4 <= n;) {
        size_t len = u16(extra + i + 2), from = i + 4;
        if (len > n - from)
            return false;
        for (int k = 0; u16(extra + i) == 1 && k < 3; k++) {
            if (*want[k] != UINT32_MAX)
                continue;
            if (from + 8 > i + 4 + len)
                return false;
            *want[k] = u64(extra + from);
            from += 8;
        }
        any = any && u16(extra + i) != 1;
        i += 4 + len;
    }
    return !any;
}

/* One entry of the directory at p, of which `left` bytes are there; *used: how many it takes. */
static int take_entry(struct zip *z, const struct file_map *m, const unsigned char *p, uint64_t left,
                      uint64_t *used, const char *path)
{
    if (left < CENTRAL_BYTES || u32(p) != CENTRAL_MAGIC)
        return err_set(ERR_INPUT, "%s: entry %d of the archive's directory is damaged", path, z->n);
    size_t name = u16(p + 28), extra = u16(p + 30), comment = u16(p + 32);
    uint64_t packed = u32(p + 20), size = u32(p + 24), at = u32(p + 42);
    *used = CENTRAL_BYTES + name + extra + comment;
    if (*used > left || name > NAME_MAX_BYTES || memchr(p + CENTRAL_BYTES, 0, name) ||
        !zip64_values(p + CENTRAL_BYTES + name, extra, &size, &packed, &at))
        return err_set(ERR_INPUT, "%s: entry %d of the archive's directory is damaged", path, z->n);
    struct zip_entry *e = MEM_PUSH(z->entry, z->n, z->cap);
    *e = (struct zip_entry){.name = mem_strndup((const char *)p + CENTRAL_BYTES, name), .bytes = size};
    if ((u16(p + 8) & 1) || u16(p + 10) != 0 || packed != size)
        return err_set(ERR_INPUT,
                       "%s: entry '%.80s' is compressed or encrypted; only stored ones can be read", path,
                       e->name);
    if (!inside(m, at, LOCAL_BYTES) || u32(m->data + at) != LOCAL_MAGIC)
        return err_set(ERR_INPUT, "%s: entry '%.80s' does not begin at byte %" PRIu64, path, e->name, at);
    at += LOCAL_BYTES + (uint64_t)u16(m->data + at + 26) + u16(m->data + at + 28);
    if (!inside(m, at, size))
        return err_set(ERR_INPUT,
                       "%s: entry '%.80s' needs %" PRIu64 " bytes at byte %" PRIu64 " of %zu (truncated?)",
                       path, e->name, size, at, m->bytes);
    e->data = m->data + at;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct zip_entry *)a)->name, ((const struct zip_entry *)b)->name);
}

static int read_directory(struct zip *z, const struct file_map *m, const char *path)
{
    struct directory d = {0, 0, 0};
    TRY(find_directory(&d, m, path));
    uint64_t at = 0, used = 0;
    for (uint64_t i = 0; i < d.n; i++, at += used)
        TRY(take_entry(z, m, m->data + d.at + at, d.bytes - at, &used, path));
    if (z->n)
        qsort(z->entry, (size_t)z->n, sizeof *z->entry, by_name);
    for (int i = 1; i < z->n; i++)
        if (by_name(&z->entry[i - 1], &z->entry[i]) == 0)
            return err_set(ERR_INPUT, "%s: entry '%.80s' occurs twice", path, z->entry[i].name);
    return 0;
}

int zip_open(struct zip *z, const struct file_map *m, const char *path)
{
    *z = (struct zip){0};
    int rc = read_directory(z, m, path);
    if (rc < 0)
        zip_close(z);
    return rc;
}

void zip_close(struct zip *z)
{
    for (int i = 0; i < z->n; i++)
        free(z->entry[i].name);
    free(z->entry);
    *z = (struct zip){0};
}

const struct zip_entry *zip_find(const struct zip *z, const char *name)
{
    struct zip_entry key = {.name = (char *)(uintptr_t)name};
    return z->n ? bsearch(&key, z->entry, (size_t)z->n, sizeof *z->entry, by_name) : NULL;
}
