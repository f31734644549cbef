#include "hdf5io/check.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#define COLUMNS 64 /* more than any table has */

struct check {
    XXH3_state_t *state;
    const struct table *table; /* NULL: an array */
    size_t bytes;              /* of a row */
    bool skip[COLUMNS];        /* columns that the file has not */
};

static size_t column_bytes(enum column_type type)
{
    switch (type) {
    case COL_I64:
    case COL_U64:
    case COL_F64:
        return 8;
    default: /* i32, f32 and the enums */
        return 4;
    }
}

struct check *check_open(const struct table *table, size_t bytes)
{
    struct check *c = mem_alloc(1, sizeof *c);
    *c = (struct check){
        .state = XXH3_createState(), .table = table, .bytes = table ? table->row_bytes : bytes};
    XXH3_64bits_reset(c->state);
    return c;
}

void check_close(struct check *c)
{
    if (c)
        XXH3_freeState(c->state);
    free(c);
}

static void add_text(XXH3_state_t *st, const char *p)
{
    XXH3_64bits_update(st, p ? p : "", p ? strlen(p) + 1 : 1);
}

static void add_row(struct check *c, const char *row)
{
    for (int i = 0; i < c->table->n_column; i++) {
        const struct column *k = &c->table->column[i];
        char *text;
        if (c->skip[i])
            continue;
        if (k->type != COL_TEXT) {
            XXH3_64bits_update(c->state, row + k->offset, column_bytes(k->type));
            continue;
        }
        memcpy(&text, row + k->offset, sizeof text);
        add_text(c->state, text);
    }
}

void check_add(struct check *c, const void *rows, int64_t n)
{
    if (!c->table && n)
        XXH3_64bits_update(c->state, rows, (size_t)n * c->bytes);
    for (int64_t i = 0; c->table && i < n; i++)
        add_row(c, (const char *)rows + (size_t)i * c->bytes);
}

static int put_sum(hid_t object, uint64_t sum)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(object, "xxh3", H5T_STD_U64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t rc = a < 0 ? -1 : H5Awrite(a, H5T_NATIVE_UINT64, &sum);
    if (a >= 0 && H5Aclose(a) < 0)
        rc = -1;
    H5Sclose(space);
    return rc < 0 ? -1 : 0;
}

int check_put(const struct check *c, hid_t dataset)
{
    return put_sum(dataset, XXH3_64bits_digest(c->state));
}

/* False if the object has no checksum. */
static bool get_sum(hid_t object, uint64_t *sum)
{
    if (H5Aexists(object, "xxh3") <= 0)
        return false;
    hid_t a = H5Aopen(object, "xxh3", H5P_DEFAULT), space = H5Aget_space(a);
    bool ok = a >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(a, H5T_NATIVE_UINT64, sum) >= 0;
    H5Sclose(space);
    H5Aclose(a);
    H5Eclear2(H5E_DEFAULT);
    return ok;
}

/* Every file since version 2 was written with checksums: one that lacks them was written anew by others. */
static bool needs_sum(hid_t object)
{
    int version = 0;
    hid_t file = H5Iget_file_id(object),
          a = H5Aopen_by_name(file, "/", "schema_version", H5P_DEFAULT, H5P_DEFAULT);
    bool ok = a >= 0 && H5Aread(a, H5T_NATIVE_INT, &version) >= 0;
    H5Aclose(a);
    H5Fclose(file);
    H5Eclear2(H5E_DEFAULT);
    return ok && version >= 2;
}

static int lost_sum(const char *what, const char *path)
{
    return err_set(
        ERR_DAMAGED,
        "%s of %s has lost its checksum (attribute xxh3), so that another program has written there: "
        "restore the file from a copy, or move it away and compute it again",
        what, path);
}

int check_values(hid_t dataset, const struct table *table, size_t bytes, const void *rows, int64_t n,
                 const char *name, const char *path)
{
    uint64_t want;
    if (!get_sum(dataset, &want)) {
        char *what = mem_printf("/%s", name);
        const int rc = needs_sum(dataset) ? lost_sum(what, path) : 0;
        free(what);
        return rc;
    }
    struct check *c = check_open(table, bytes);
    hid_t type = H5Dget_type(dataset);
    for (int i = 0; table && i < table->n_column; i++)
        c->skip[i] = H5Tget_member_index(type, table->column[i].name) < 0;
    H5Eclear2(H5E_DEFAULT);
    H5Tclose(type);
    check_add(c, rows, n);
    bool same = XXH3_64bits_digest(c->state) == want;
    check_close(c);
    return same ? 0
                : err_set(ERR_DAMAGED,
                          "/%s of %s is not what was written (its checksum differs): restore the "
                          "file from a copy, or move it away and compute it again",
                          name, path);
}

/* ---- root attributes ---- */
static char *read_text(hid_t file, const char *name)
{
    char *p = NULL, *copy = NULL;
    hid_t a = H5Aopen(file, name, H5P_DEFAULT), type = schema_text(), space = H5Aget_space(a);
    if (a >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(a, type, &p) >= 0)
        copy = mem_strdup(p ? p : "");
    if (p)
        H5free_memory(p);
    H5Sclose(space);
    H5Tclose(type);
    H5Aclose(a);
    return copy;
}

static bool add_attribute(XXH3_state_t *st, hid_t file, const char *name)
{
    if (H5Aexists(file, name) <= 0)
        return false;
    hid_t a = H5Aopen(file, name, H5P_DEFAULT), type = H5Aget_type(a);
    bool integer = H5Tget_class(type) == H5T_INTEGER, ok = a >= 0;
    add_text(st, name);
    if (ok && integer) {
        int64_t v = 0;
        ok = H5Aread(a, H5T_NATIVE_INT64, &v) >= 0;
        XXH3_64bits_update(st, &v, sizeof v);
    } else if (ok) {
        char *text = read_text(file, name);
        ok = text != NULL;
        add_text(st, text);
        free(text);
    }
    H5Tclose(type);
    H5Aclose(a);
    return ok;
}

/* False if one of them cannot be read. */
static bool sum_root(hid_t file, const char *names, uint64_t *sum)
{
    XXH3_state_t *st = XXH3_createState();
    char *copy = mem_strdup(names), *save = NULL;
    bool ok = true;
    XXH3_64bits_reset(st);
    add_text(st, names);
    for (char *name = strtok_r(copy, " ", &save); name && ok; name = strtok_r(NULL, " ", &save))
        ok = add_attribute(st, file, name);
    *sum = XXH3_64bits_digest(st);
    XXH3_freeState(st);
    free(copy);
    H5Eclear2(H5E_DEFAULT);
    return ok;
}

static herr_t add_name(hid_t object, const char *name, const H5A_info_t *info, void *names)
{
    (void)object;
    (void)info;
    struct str *s = names;
    str_printf(s, "%s%s", s->n ? " " : "", name);
    return 0;
}

int check_put_root(hid_t file)
{
    struct str names = {0};
    uint64_t sum;
    bool ok = H5Aiterate2(file, H5_INDEX_NAME, H5_ITER_INC, NULL, add_name, &names) >= 0 &&
              sum_root(file, str_c(&names), &sum) && schema_put_text(file, "xxh3_of", str_c(&names)) == 0 &&
              put_sum(file, sum) == 0;
    str_free(&names);
    return ok ? 0 : -1;
}

int check_root(hid_t file, const char *path)
{
    uint64_t want, sum = 0;
    if (!get_sum(file, &want))
        return needs_sum(file) ? lost_sum("the root", path) : 0;
    char *names = H5Aexists(file, "xxh3_of") > 0 ? read_text(file, "xxh3_of") : NULL;
    bool same = names && sum_root(file, names, &sum) && sum == want;
    free(names);
    return same ? 0
                : err_set(ERR_DAMAGED,
                          "the attributes of %s are not what was written (their checksum differs): "
                          "restore the file from a copy, or move it away and compute it again",
                          path);
}
