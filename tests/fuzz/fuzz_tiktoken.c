/* A *.tiktoken file. */
#include "fuzz.h"

#include "tok/tok.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct tok *t = NULL;
    const char *path;
    int32_t *ids = NULL;
    int64_t n_ids;
    fuzz_file("ranks.tiktoken", data, n, &path);
    if (tok_open_tiktoken(&t, path) == 0)
        tok_encode(t, "Hello world 1", 13, false, &ids, &n_ids);
    free(ids);
    tok_close(t);
    return 0;
}
