/* Weights as torch.save writes them (pytorch_model.bin, .pth): a zip archive of PREFIX/data.pkl, which
 * describes the tensors, and PREFIX/data/KEY, their bytes (torch/serialization.py). Read in place; nothing is
 * executed. */
#include "base/err.h"
#include "base/mem.h"
#include "model/file_int.h"
#include "model/pickle.h"
#include "model/zip.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct archive {
    struct zip zip;
    const char *path;
    char *prefix; /* the folder inside the archive, without a slash; owned */
};

static const struct zip_entry *member(const struct archive *a, const char *name)
{
    char *whole = mem_printf("%s/%s", a->prefix, name);
    const struct zip_entry *e = zip_find(&a->zip, whole);
    free(whole);
    return e;
}

/* The one entry PREFIX/data.pkl says what the prefix is. */
static int find_prefix(struct archive *a)
{
    static const char end[] = "/data.pkl";
    for (int i = 0; i < a->zip.n; i++) {
        const char *name = a->zip.entry[i].name;
        size_t n = strlen(name), m = sizeof end - 1;
        if (n <= m || strcmp(name + n - m, end) != 0 || memchr(name, '/', n - m))
            continue;
        if (a->prefix)
            return err_set(ERR_INPUT, "%s: has more than one data.pkl", a->path);
        a->prefix = mem_strndup(name, n - m);
    }
    return a->prefix ? 0 : err_set(ERR_INPUT, "%s: is no file of torch.save (it has no data.pkl)", a->path);
}

static int check_byte_order(const struct archive *a)
{
    const struct zip_entry *e = member(a, "byteorder");
    if (!e || (e->bytes == 6 && memcmp(e->data, "little", 6) == 0))
        return 0;
    return err_set(ERR_INPUT, "%s: its byte order is not little-endian", a->path);
}

static int add_tensor(struct model_file *f, const struct archive *a, int map, const struct pickle_tensor *t)
{
    char s[80];
    int64_t values, size, count = 1;
    ggml_type_block(t->type, &values, &size);
    char *key = mem_printf("data/%s", t->storage);
    const struct zip_entry *e = member(a, key);
    free(key);
    if (!e)
        return err_set(ERR_INPUT, "%s: the bytes of tensor '%s' are not in the archive", a->path,
                       file_shown(s, t->name));
    if ((uint64_t)t->n_storage > e->bytes / (uint64_t)size)
        return err_set(ERR_INPUT,
                       "%s: tensor '%s' lies in a storage of %" PRId64 " values, for which %" PRIu64
                       " bytes are there",
                       a->path, file_shown(s, t->name), t->n_storage, e->bytes);
    for (const char *p = t->name; *p; p++)
        if (*p < 0x20 || *p > 0x7e)
            return err_set(ERR_INPUT, "%s: tensor name '%s' has characters that are not plain ASCII", a->path,
                           file_shown(s, t->name));
    struct file_tensor ft = {.name = mem_strdup(t->name), .map = map};
    for (int i = 0; i < 4; i++)
        count *= t->n[i]; /* within the storage: pickle_read has checked it */
    ft.t = (struct model_tensor){
        .data = e->data + t->at * size, .bytes = (size_t)(count * size), .type = t->type, .n_dim = t->n_dim};
    memcpy(ft.t.n, t->n, sizeof t->n);
    file_tensor_add(f, &ft);
    return 0;
}

static int read_archive(struct model_file *f, struct archive *a, int map)
{
    struct pickle_tensor *t;
    int n;
    TRY(find_prefix(a));
    TRY(check_byte_order(a));
    const struct zip_entry *e = member(a, "data.pkl");
    TRY(pickle_read(e->data, (size_t)e->bytes, a->path, &t, &n));
    int rc = n ? 0 : err_set(ERR_INPUT, "%s: holds no tensor", a->path);
    for (int i = 0; i < n && rc == 0; i++)
        rc = add_tensor(f, a, map, &t[i]);
    pickle_free(t, n);
    return rc;
}

int torch_file_add(struct model_file *f, const struct file_map *m, int map, const char *path)
{
    struct archive a = {.path = path};
    if (m->bytes >= 2 && m->data[0] == 0x80 && m->data[1] <= 5)
        return err_set(
            ERR_INPUT,
            "%s: is in the format that torch.save wrote before version 1.6; load it with torch and save "
            "it again",
            path);
    TRY(zip_open(&a.zip, m, path));
    int rc = read_archive(f, &a, map);
    free(a.prefix);
    zip_close(&a.zip);
    return rc;
}
