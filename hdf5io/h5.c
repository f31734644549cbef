#include "hdf5io/h5.h"

#include "hdf5io/check.h"
#include "hdf5io/seal.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void h5_quiet(void)
{
    /* When a disk is full H5Fclose fails and leaves a half-closed file, over which HDF5's own clean-up at
     * exit crashes. We close everything ourselves. Only counts before the library starts. */
    H5dont_atexit();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static herr_t keep_innermost(unsigned n, const H5E_error2_t *e, void *text)
{
    if (n == 0 && e->desc)
        snprintf(text, 512, "%s", e->desc);
    return 0;
}

int h5_error(int code, const char *fmt, ...)
{
    char what[600], why[512] = "";
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_innermost, why);
    H5Eclear2(H5E_DEFAULT);
    /* "file write failed: time = …, errno = 28, error message = 'No space left on device', …" */
    char *system = strstr(why, "error message = '"), *number = strstr(why, "errno = ");
    if (system) {
        system += strlen("error message = '");
        system[strcspn(system, "'")] = 0;
        return err_set(err_of_errno(number ? atoi(number + strlen("errno = ")) : 0), "%s: %s", what, system);
    }
    return why[0] ? err_set(code, "%s: HDF5 says %s", what, why) : err_set(code, "%s", what);
}

static herr_t find_left_open(unsigned n, const H5E_error2_t *e, void *found)
{
    (void)n;
    if (e->desc && strstr(e->desc, "already open for write"))
        *(bool *)found = true;
    return 0;
}

/* Whether the last call failed because the file says that somebody is writing it (its checksum was right). */
static bool is_left_open(void)
{
    bool found = false;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, find_left_open, &found);
    return found;
}

int h5_open(hid_t *file, const char *path)
{
    hid_t fapl = H5Pcreate(H5P_FILE_ACCESS);
    if (fapl < 0 || H5Pset_file_locking(fapl, false, true) < 0) {
        H5Pclose(fapl);
        return h5_error(ERR_INTERNAL, "cannot set up HDF5");
    }
    *file = H5Fopen(path, H5F_ACC_RDONLY, fapl);
    bool left_open = *file < 0 && is_left_open(); /* the next call forgets the reason */
    H5Pclose(fapl);
    if (left_open)
        return err_set(
            ERR_INPUT,
            "%s: another program has it open for writing, or died while it had (then: h5clear -s %s)", path,
            path);
    if (*file >= 0)
        return 0;
    int rc = h5_error(ERR_INPUT, "%s is not a readable HDF5 file", path);
    return seal_check(path) == ERR_DAMAGED ? ERR_DAMAGED : rc;
}

int h5_get_int(hid_t object, const char *name, int64_t def, int64_t *v, const char *path)
{
    *v = def;
    if (H5Aexists(object, name) <= 0)
        return 0;
    hid_t a = H5Aopen(object, name, H5P_DEFAULT), space = H5Aget_space(a);
    bool ok = a >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(a, H5T_NATIVE_INT64, v) >= 0;
    H5Sclose(space);
    H5Aclose(a);
    return ok ? 0 : h5_error(ERR_INPUT, "attribute %s of %s is not one integer", name, path);
}

int h5_get_text(hid_t object, const char *name, struct book *b, const char **text, const char *path)
{
    *text = "";
    if (H5Aexists(object, name) <= 0)
        return 0;
    char *p = NULL;
    hid_t a = H5Aopen(object, name, H5P_DEFAULT), space = H5Aget_space(a), type = schema_text();
    bool ok = a >= 0 && H5Sget_simple_extent_npoints(space) == 1 && H5Aread(a, type, &p) >= 0;
    if (ok && p) {
        *text = book_keep(b, p, strlen(p));
        H5free_memory(p);
    }
    H5Tclose(type);
    H5Sclose(space);
    H5Aclose(a);
    return ok ? 0 : h5_error(ERR_INPUT, "attribute %s of %s is not one text", name, path);
}

/* Rows of a 1-D dataset, or an error: a damaged or hostile file may state any size, so what has no plausible
 * storage behind it is refused (deflate reaches 1032:1). */
static int count_rows(hid_t file, hid_t dset, size_t row_bytes, int64_t *n, const char *name,
                      const char *path)
{
    hsize_t dim = 0, file_bytes = 0, bytes;
    hid_t space = H5Dget_space(dset);
    bool ok = space >= 0 && H5Sget_simple_extent_ndims(space) == 1 &&
              H5Sget_simple_extent_dims(space, &dim, NULL) == 1 && H5Fget_filesize(file, &file_bytes) >= 0;
    H5Sclose(space);
    if (!ok)
        return h5_error(ERR_INPUT, "/%s of %s is not a list", name, path);
    if (__builtin_mul_overflow(dim, row_bytes, &bytes) || bytes / 1032 > file_bytes)
        return err_set(ERR_INPUT, "/%s of %s says it has %llu rows: the file is damaged", name, path,
                       (unsigned long long)dim);
    *n = (int64_t)dim;
    return 0;
}

static int read_all(hid_t file, hid_t dset, hid_t mem_type, size_t size, void **data, int64_t *n,
                    const char *name, const char *path)
{
    *data = NULL;
    TRY(count_rows(file, dset, size, n, name, path));
    *data = calloc((size_t)*n + 1, size);
    if (!*data)
        return err_set(ERR_NOMEM, "no memory for the %lld rows of /%s of %s", (long long)*n, name, path);
    if (*n && H5Dread(dset, mem_type, H5S_ALL, H5S_ALL, H5P_DEFAULT, *data) < 0) {
        free(*data);
        *data = NULL;
        return h5_error(ERR_INPUT, "cannot read /%s of %s", name, path);
    }
    return 0;
}

static int open_dataset(hid_t file, const char *name, hid_t *dset, const char *path)
{
    *dset = H5Lexists(file, name, H5P_DEFAULT) > 0 ? H5Dopen2(file, name, H5P_DEFAULT) : -1;
    return *dset < 0 ? h5_error(ERR_INPUT, "%s has no dataset /%s", path, name) : 0;
}

static int check_columns(hid_t dset, const struct table *t, int version, const char *path)
{
    hid_t type = H5Dget_type(dset);
    const char *missing = NULL;
    for (int i = 0; i < t->n_column && !missing; i++)
        if (t->column[i].since <= version &&
            (H5Tget_class(type) != H5T_COMPOUND || H5Tget_member_index(type, t->column[i].name) < 0))
            missing = t->column[i].name;
    H5Tclose(type);
    H5Eclear2(H5E_DEFAULT);
    return missing ? err_set(ERR_INPUT, "/%s of %s has no column %s", t->name, path, missing) : 0;
}

int h5_read_table(hid_t file, enum table_id id, int version, void **rows, int64_t *n, const char *path)
{
    const struct table *t = schema_table(id);
    hid_t dset, type = -1;
    int rc;
    *rows = NULL;
    TRY(open_dataset(file, t->name, &dset, path));
    TRY_GOTO(check_columns(dset, t, version, path), done);
    type = schema_compound(id, version);
    TRY_GOTO(read_all(file, dset, type, t->row_bytes, rows, n, t->name, path), done);
    rc = check_values(dset, t, 0, *rows, *n, t->name, path);
    if (rc < 0) {
        h5_free_table(id, *rows, *n);
        *rows = NULL;
    }
done:
    H5Tclose(type);
    H5Dclose(dset);
    return rc;
}

void h5_free_table(enum table_id id, void *rows, int64_t n)
{
    const struct table *t = schema_table(id);
    for (int c = 0; rows && c < t->n_column; c++) {
        if (t->column[c].type != COL_TEXT)
            continue;
        for (int64_t i = 0; i < n; i++) {
            char *p;
            memcpy(&p, (char *)rows + (size_t)i * t->row_bytes + t->column[c].offset, sizeof p);
            H5free_memory(p);
        }
    }
    free(rows);
}

int h5_read_array(hid_t file, const char *name, hid_t mem_type, size_t size, void **data, int64_t *n,
                  const char *path)
{
    hid_t dset;
    *data = NULL;
    TRY(open_dataset(file, name, &dset, path));
    int rc = read_all(file, dset, mem_type, size, data, n, name, path);
    if (rc == 0)
        rc = check_values(dset, NULL, size, *data, *n, name, path);
    if (rc < 0) {
        free(*data);
        *data = NULL;
    }
    H5Dclose(dset);
    return rc;
}
