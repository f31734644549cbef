#include "hdf5io/arrays.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "hdf5io/h5.h"
#include "hdf5io/read.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct arrays {
    hid_t file;
    char *path, *tmp; /* tmp, beside path, is written */
};

static void release(struct arrays *a)
{
    free(a->path);
    free(a->tmp);
    free(a);
}

int arrays_check(const char *path)
{
    if (results_at(path))
        return err_set(ERR_INPUT, "%s holds results of a sweep: choose another name", path);
    if (file_is_special(path) || file_is_dir(path))
        return err_set(ERR_INPUT, "%s is not a regular file", path);
    return 0;
}

int arrays_open(struct arrays **out, const char *path)
{
    *out = NULL;
    h5_quiet();
    TRY(arrays_check(path));
    struct arrays *a = mem_alloc(1, sizeof *a);
    int fd;
    a->path = file_resolve(path);
    a->tmp = file_temp(a->path, &fd);
    if (!a->tmp) {
        int rc = err_of_errno(errno);
        release(a);
        return rc;
    }
    close(fd);
    a->file = H5Fcreate(a->tmp, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    if (a->file < 0) {
        unlink(a->tmp);
        release(a);
        return err_set(ERR_IO, "cannot create %s", path);
    }
    *out = a;
    return 0;
}

/* IEEE half as HDF5 and h5py know it; owned by the caller. */
static hid_t half_type(void)
{
    hid_t t = H5Tcopy(H5T_IEEE_F32LE);
    H5Tset_fields(t, 15, 10, 5, 0, 10);
    H5Tset_size(t, 2);
    H5Tset_ebias(t, 15);
    return t;
}

static hid_t file_type(enum dtype t)
{
    switch (t) {
    case DT_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case DT_F16:
        return half_type();
    case DT_BF16:
        return H5Tcopy(H5T_STD_U16LE); /* raw bits */
    case DT_I32:
        return H5Tcopy(H5T_STD_I32LE);
    default:
        return H5Tcopy(H5T_STD_U8LE);
    }
}

static int failed(const struct arrays *a, const char *name)
{
    return err_set(ERR_IO, "cannot write %s to %s (disk full?)", name, a->path);
}

static hid_t make_parents(void)
{
    hid_t p = H5Pcreate(H5P_LINK_CREATE);
    H5Pset_create_intermediate_group(p, 1);
    return p;
}

static void dims_of(const int64_t *n, int rank, hsize_t *d)
{
    for (int i = 0; i < rank; i++)
        d[i] = (hsize_t)n[i];
}

int arrays_put(struct arrays *a, const char *name, enum dtype dtype, int rank, const int64_t *n,
               const void *data)
{
    hsize_t d[4];
    dims_of(n, rank, d);
    hid_t type = file_type(dtype), space = H5Screate_simple(rank, d, NULL), links = make_parents();
    hid_t set = H5Dcreate2(a->file, name, type, space, links, H5P_DEFAULT, H5P_DEFAULT);
    herr_t rc = set < 0 ? -1 : H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    if (set >= 0)
        H5Dclose(set);
    H5Pclose(links);
    H5Sclose(space);
    H5Tclose(type);
    return rc < 0 ? failed(a, name) : 0;
}

static hid_t create_growing(struct arrays *a, const char *name, hid_t type, int rank, const hsize_t *d)
{
    hsize_t none[4], most[4], chunk[4];
    size_t row = H5Tget_size(type);
    for (int i = 0; i < rank; i++) {
        none[i] = i ? d[i] : 0;
        most[i] = i ? d[i] : H5S_UNLIMITED;
        chunk[i] = d[i];
        row *= i ? (size_t)d[i] : 1;
    }
    chunk[0] = row >= (2u << 20) ? 1 : (2u << 20) / row;
    hid_t space = H5Screate_simple(rank, none, most), links = make_parents(),
          plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_chunk(plist, rank, chunk);
    H5Pset_fill_time(plist, H5D_FILL_TIME_NEVER);
    hid_t set = H5Dcreate2(a->file, name, type, space, links, plist, H5P_DEFAULT);
    H5Pclose(plist);
    H5Pclose(links);
    H5Sclose(space);
    return set;
}

static herr_t write_rows(hid_t set, hid_t type, int rank, const hsize_t *d, const void *data)
{
    hsize_t now[4], start[4] = {0};
    hid_t old = H5Dget_space(set);
    H5Sget_simple_extent_dims(old, now, NULL);
    H5Sclose(old);
    start[0] = now[0];
    now[0] += d[0];
    if (H5Dset_extent(set, now) < 0)
        return -1;
    hid_t file_space = H5Dget_space(set), mem_space = H5Screate_simple(rank, d, NULL);
    H5Sselect_hyperslab(file_space, H5S_SELECT_SET, start, NULL, d, NULL);
    herr_t rc = H5Dwrite(set, type, mem_space, file_space, H5P_DEFAULT, data);
    H5Sclose(mem_space);
    H5Sclose(file_space);
    return rc;
}

int arrays_append(struct arrays *a, const char *name, enum dtype dtype, int rank, const int64_t *n,
                  const void *data)
{
    hsize_t d[4];
    dims_of(n, rank, d);
    hid_t type = file_type(dtype);
    hid_t set = H5Dopen2(a->file, name, H5P_DEFAULT);
    if (set < 0)
        set = create_growing(a, name, type, rank, d);
    herr_t rc = set < 0 ? -1 : write_rows(set, type, rank, d, data);
    if (set >= 0)
        H5Dclose(set);
    H5Tclose(type);
    return rc < 0 ? failed(a, name) : 0;
}

static hid_t open_object(struct arrays *a, const char *object)
{
    hid_t o = H5Oopen(a->file, object, H5P_DEFAULT);
    if (o >= 0)
        return o;
    hid_t links = make_parents();
    o = H5Gcreate2(a->file, object, links, H5P_DEFAULT, H5P_DEFAULT);
    H5Pclose(links);
    return o;
}

static int put_attr(struct arrays *a, const char *object, const char *name, hid_t type, const void *value)
{
    hid_t o = open_object(a, object), space = H5Screate(H5S_SCALAR);
    hid_t attr = o < 0 ? -1 : H5Acreate2(o, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t rc = attr < 0 ? -1 : H5Awrite(attr, type, value);
    if (attr >= 0)
        H5Aclose(attr);
    if (o >= 0)
        H5Oclose(o);
    H5Sclose(space);
    return rc < 0 ? failed(a, name) : 0;
}

int arrays_attr(struct arrays *a, const char *object, const char *name, double value)
{
    return put_attr(a, object, name, H5T_NATIVE_DOUBLE, &value);
}

int arrays_attr_text(struct arrays *a, const char *object, const char *name, const char *value)
{
    hid_t t = H5Tcopy(H5T_C_S1);
    H5Tset_size(t, H5T_VARIABLE);
    H5Tset_cset(t, H5T_CSET_UTF8);
    int rc = put_attr(a, object, name, t, &value);
    H5Tclose(t);
    return rc;
}

void arrays_drop(struct arrays *a)
{
    if (!a)
        return;
    if (a->file >= 0)
        H5Fclose(a->file);
    unlink(a->tmp);
    release(a);
}

int arrays_close(struct arrays *a)
{
    if (!a)
        return 0;
    herr_t flushed = H5Fflush(a->file, H5F_SCOPE_GLOBAL), closed = H5Fclose(a->file);
    a->file = -1;
    int rc = 0;
    if (flushed < 0 || closed < 0)
        rc = err_set(ERR_IO, "cannot finish %s (disk full?)", a->path);
    else
        rc = file_take_place(a->tmp, a->path);
    if (rc < 0)
        unlink(a->tmp);
    release(a);
    return rc;
}
