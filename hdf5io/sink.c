#include "hdf5io/sink.h"

int sink_put_records(const struct sink_type *type, struct sink *s, const struct record *r, int n)
{
    struct str small = {0}, big = {0};
    record_pack(r, n, &small, &big);
    const struct sink_bundle b = {small.data, big.data, small.n, big.n};
    int rc = n ? type->put(s, &b, 1) : 0;
    str_free(&small);
    str_free(&big);
    return rc;
}
