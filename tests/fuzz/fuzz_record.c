/* Packed records: the first 4 bytes say where the small part ends. What is read whole packs to records that
 * read back the same. */
#include "fuzz.h"

#include "base/str.h"
#include "run/record.h"

#include <stdlib.h>
#include <string.h>

/* Records of packed bytes, packed again into *small and *big (emptied first). False if they cannot be read.
 */
static int repack(const void *from, size_t n_small, const void *from_big, size_t n_big, struct str *small,
                  struct str *big)
{
    struct record *r = NULL;
    int n = 0, rc = record_unpack(from, n_small, from_big, n_big, &r, &n);
    str_clear(small);
    str_clear(big);
    if (rc == 0)
        record_pack(r, n, small, big);
    for (int i = 0; i < n; i++)
        record_free(&r[i]);
    free(r);
    return rc;
}

static int same(const struct str *a, const struct str *b)
{
    return a->n == b->n && (a->n == 0 || memcmp(a->data, b->data, a->n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    uint32_t n_small = 0;
    if (n < 4)
        return 0;
    memcpy(&n_small, data, 4);
    data += 4, n -= 4;
    n_small = n_small < n ? n_small : (uint32_t)n;
    struct str small[2] = {{0}}, big[2] = {{0}};
    record_small_bytes(data, n_small);
    if (repack(data, n_small, data + n_small, n - n_small, &small[0], &big[0]) == 0 &&
        (repack(str_c(&small[0]), small[0].n, str_c(&big[0]), big[0].n, &small[1], &big[1]) != 0 ||
         !same(&small[0], &small[1]) || !same(&big[0], &big[1])))
        abort();
    for (int i = 0; i < 2; i++) {
        str_free(&small[i]);
        str_free(&big[i]);
    }
    return 0;
}
