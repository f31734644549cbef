/* A sink that forgets: for benchmarks and for builds without HDF5. */
#include "base/mem.h"
#include "hdf5io/sink.h"

#include <stdlib.h>

static int null_open(struct sink **s, const char *path, const struct sink_plan *plan)
{
    (void)path;
    (void)plan;
    *s = mem_alloc(1, 1);
    return 0;
}

static bool null_has(const struct sink *s, uint64_t hi, uint64_t lo)
{
    (void)s;
    (void)hi;
    (void)lo;
    return false;
}

static int null_put(struct sink *s, const struct sink_bundle *b, int n)
{
    (void)s;
    (void)b;
    (void)n;
    return 0;
}

static int null_put_timing(struct sink *s, const struct sink_timing *t, int n)
{
    (void)s;
    (void)t;
    (void)n;
    return 0;
}

static int null_refresh(struct sink *s, bool now, bool final)
{
    (void)s;
    (void)now;
    (void) final;
    return 0;
}

static int null_close(struct sink *s)
{
    free(s);
    return 0;
}

static int null_attempt(const struct sink *s)
{
    (void)s;
    return 1;
}

const struct sink_type sink_null = {.name = "null",
                                    .open = null_open,
                                    .has = null_has,
                                    .put = null_put,
                                    .put_timing = null_put_timing,
                                    .refresh = null_refresh,
                                    .close = null_close,
                                    .attempt = null_attempt};
