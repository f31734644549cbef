/* A build without HDF5 (KVS_HDF5=off): everything that would need it says so. */
#include "hdf5io/arrays.h"
#include "hdf5io/equal.h"
#include "hdf5io/read.h"
#include "hdf5io/sink.h"

#include "base/err.h"

static int refuse(void)
{
    return err_set(ERR_INPUT,
                   "this kvsweep was built without HDF5 (KVS_HDF5=off): it cannot read or write results");
}

static int off_open(struct sink **s, const char *path, const struct sink_plan *plan)
{
    (void)path;
    (void)plan;
    *s = NULL;
    return refuse();
}

const struct sink_type sink_hdf5 = {.name = "hdf5", .open = off_open};

int sink_pack(const char *path, int deflate)
{
    (void)path;
    (void)deflate;
    return refuse();
}

int sink_merge(const char *const *paths, int n, const char *out, bool keep_first)
{
    (void)keep_first;
    (void)paths;
    (void)n;
    (void)out;
    return refuse();
}

int results_open(struct results *r, const char *path)
{
    (void)path;
    *r = (struct results){0};
    return refuse();
}

int results_check_logits(const char *path)
{
    (void)path;
    return refuse();
}

bool results_at(const char *path)
{
    (void)path;
    return false;
}

void results_close(struct results *r)
{
    *r = (struct results){0};
}

const struct sink_example *results_example(const struct results *r, int32_t task, int32_t example)
{
    (void)r;
    (void)task;
    (void)example;
    return NULL;
}

int equal_files(const char *a, const char *b, struct str *difference)
{
    (void)a;
    (void)b;
    (void)difference;
    return refuse();
}

int arrays_check(const char *path)
{
    (void)path;
    return refuse();
}

int arrays_open(struct arrays **a, const char *path)
{
    (void)path;
    *a = NULL;
    return refuse();
}

int arrays_put(struct arrays *a, const char *name, enum dtype dtype, int rank, const int64_t *n,
               const void *data)
{
    (void)a;
    (void)name;
    (void)dtype;
    (void)rank;
    (void)n;
    (void)data;
    return refuse();
}

int arrays_append(struct arrays *a, const char *name, enum dtype dtype, int rank, const int64_t *n,
                  const void *data)
{
    return arrays_put(a, name, dtype, rank, n, data);
}

int arrays_attr(struct arrays *a, const char *object, const char *name, double value)
{
    (void)a;
    (void)object;
    (void)name;
    (void)value;
    return refuse();
}

int arrays_attr_text(struct arrays *a, const char *object, const char *name, const char *value)
{
    return arrays_attr(a, object, name, value ? 1 : 0);
}

int arrays_close(struct arrays *a)
{
    (void)a;
    return 0;
}

void arrays_drop(struct arrays *a)
{
    (void)a;
}
