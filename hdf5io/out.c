#include "hdf5io/out.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define CHUNK_BYTES (2 << 20)

static hid_t creation(const struct out *o, int deflate)
{
    hid_t p = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk[2] = {(hsize_t)o->chunk, (hsize_t)o->width};
    bool text = H5Tdetect_class(o->type, H5T_STRING) > 0; /* HDF5 wants references to text filled */
    bool ok = p >= 0 && H5Pset_chunk(p, o->width ? 2 : 1, chunk) >= 0 &&
              (text || H5Pset_fill_time(p, H5D_FILL_TIME_NEVER) >= 0) &&
              H5Pset_obj_track_times(p, false) >= 0;
    if (deflate)
        ok = ok && H5Pset_shuffle(p) >= 0 && H5Pset_deflate(p, (unsigned)deflate) >= 0;
    ok = ok && H5Pset_fletcher32(p) >= 0;
    if (!ok) {
        H5Pclose(p);
        return -1;
    }
    return p;
}

int out_open(struct out *o, hid_t where, const char *name, hid_t type, size_t value_bytes, int64_t width,
             int64_t n_rows, int deflate)
{
    *o = (struct out){.dset = -1, .type = type, .width = width};
    o->row_bytes = value_bytes * (size_t)(width ? width : 1);
    int64_t most = (int64_t)((CHUNK_BYTES + o->row_bytes - 1) / o->row_bytes);
    o->chunk = n_rows < 1 ? 1 : n_rows < most ? n_rows : most;
    o->buf = mem_alloc((size_t)o->chunk, o->row_bytes);
    hsize_t dim[2] = {0, (hsize_t)width}, max[2] = {H5S_UNLIMITED, (hsize_t)width};
    hid_t in_file = H5Tcopy(type), space = H5Screate_simple(width ? 2 : 1, dim, max),
          prop = creation(o, deflate);
    if (H5Tget_class(in_file) == H5T_COMPOUND)
        H5Tpack(in_file);
    o->dset = H5Dcreate2(where, name, in_file, space, H5P_DEFAULT, prop, H5P_DEFAULT);
    int rc = o->dset < 0 ? h5_error(ERR_IO, "cannot make dataset %s", name) : 0;
    H5Pclose(prop);
    H5Sclose(space);
    H5Tclose(in_file);
    return rc;
}

static int flush(struct out *o)
{
    if (o->n_buf == 0)
        return 0;
    int rank = o->width ? 2 : 1;
    hsize_t dim[2] = {(hsize_t)o->n, (hsize_t)o->width}, start[2] = {(hsize_t)(o->n - o->n_buf), 0},
            count[2] = {(hsize_t)o->n_buf, (hsize_t)o->width};
    if (H5Dset_extent(o->dset, dim) < 0)
        return h5_error(ERR_IO, "cannot grow a dataset");
    hid_t file = H5Dget_space(o->dset), mem = H5Screate_simple(rank, count, NULL);
    int rc = H5Sselect_hyperslab(file, H5S_SELECT_SET, start, NULL, count, NULL) < 0 ||
                     H5Dwrite(o->dset, o->type, mem, file, H5P_DEFAULT, o->buf) < 0
                 ? h5_error(ERR_IO, "cannot write a dataset")
                 : 0;
    H5Sclose(mem);
    H5Sclose(file);
    o->n_buf = 0;
    return rc;
}

int out_add(struct out *o, const void *rows, int64_t n)
{
    const char *p = rows;
    if (o->sum)
        check_add(o->sum, rows, n);
    while (n > 0) {
        int64_t k = o->chunk - o->n_buf < n ? o->chunk - o->n_buf : n;
        memcpy(o->buf + (size_t)o->n_buf * o->row_bytes, p, (size_t)k * o->row_bytes);
        p += (size_t)k * o->row_bytes;
        n -= k;
        o->n += k;
        o->n_buf += k;
        if (o->n_buf == o->chunk)
            TRY(flush(o));
    }
    return 0;
}

void out_drop(struct out *o)
{
    if (!o->buf)
        return;
    H5Tclose(o->type);
    if (o->dset >= 0)
        H5Dclose(o->dset);
    free(o->buf);
    check_close(o->sum);
    *o = (struct out){0};
}

int out_close(struct out *o)
{
    if (!o->buf)
        return 0;
    int rc = flush(o);
    if (rc == 0 && o->sum && check_put(o->sum, o->dset) < 0)
        rc = h5_error(ERR_IO, "cannot write a checksum");
    H5Tclose(o->type);
    if (H5Dclose(o->dset) < 0 && rc == 0)
        rc = h5_error(ERR_IO, "cannot close a dataset");
    free(o->buf);
    check_close(o->sum);
    *o = (struct out){0};
    return rc;
}
