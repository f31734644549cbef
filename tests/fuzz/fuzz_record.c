/* Packed records: the first 4 bytes say where the small part ends. What is read whole packs to records that
 * read back the same. */
#include "fuzz.h"

#include "base/str.h"
#include "run/record.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint32_t n_small = 0;
    if (n < 4)
        return 0;
    memcpy(&n_small, data, 4);
    data += 4, n -= 4;
    n_small = n_small < n ? n_small : (uint32_t)n;
    struct record *r = NULL;
    struct str small = {0}, big = {0};
    int n_r = 0;
    record_small_bytes(data, n_small);
    if (record_unpack(data, n_small, data + n_small, n - n_small, &r, &n_r) == 0)
        record_pack(r, n_r, &small, &big);
    for (int i = 0; i < n_r; i++)
        record_free(&r[i]);
    free(r);
    str_free(&small);
    str_free(&big);
    return 0;
}
