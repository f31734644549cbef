/* A journal: every entry that a scan gives lies in the file. */
#include "fuzz.h"

#include "hdf5io/journal.h"

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int entry(void *ctx, const struct journal_head *h, const void *payload, uint64_t payload_at)
{
    if (payload_at + h->n_small > *(const size_t *)ctx)
        abort();
    fuzz_touch(payload, h->n_small);
    return 0;
}
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    const char *path;
    struct journal_rest rest;
    fuzz_file("journal", data, n, &path);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    journal_scan(fd, path, entry, &n, &rest);
    close(fd);
    return 0;
}
