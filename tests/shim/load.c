/* Weights on the CUDA backend are the rows of the file in the wished dtype, whatever they come by: load
 * MODEL… compares the blocks with those that the reference packs. */
#include "base/err.h"
#include "base/mem.h"
#include "model/model_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The block of a model, on the host. */
static int load_block(const char *path, const char *backend, bool packs, const struct model_options *opt,
                      char **block, size_t *bytes)
{
    struct ops *o;
    struct model *m = NULL;
    struct model_file *f;
    *block = NULL;
    TRY(ops_open(&o, backend, NULL));
    o->plain_weights = !packs;
    int rc = model_file_open(&f, path);
    if (rc == 0) {
        rc = model_open(&m, o, f, opt);
        model_file_close(f);
    }
    if (rc == 0) {
        *bytes = m->load.bytes;
        *block = mem_alloc(1, *bytes);
        o->copy(o, *block, m->load.block, *bytes);
        rc = o->sync(o);
    }
    model_close(m);
    ops_close(o);
    return rc;
}

static int one(const char *path, enum dtype dtype, const struct model_options *opt, int *failed)
{
    char *want, *got;
    size_t n = 0, m = 0;
    int rc = load_block(path, "ref", true, &(struct model_options){.dtype = dtype, .threads = 1}, &want, &n);
    if (rc == 0)
        rc = load_block(path, "cuda", false, opt, &got, &m);
    bool ok = rc == 0 && n == m && memcmp(want, got, n) == 0;
    if (!ok)
        printf("FAILED: %s %s, %d threads, stage of %zu: %s\n", path, dtype_name(dtype), opt->threads, opt->stage,
               rc < 0 ? err_text() : "other bytes");
    *failed += !ok;
    free(want);
    if (rc == 0)
        free(got);
    return rc;
}

int main(int argc, char **argv)
{
    static const size_t stages[] = {0, 1, 3000};
    int failed = 0, n = 0;
    for (int i = 1; i < argc; i++)
        for (int t = DT_F32; t <= DT_BF16; t++)
            for (size_t s = 0; s < sizeof stages / sizeof *stages; s++, n++) {
                struct model_options opt = {.dtype = (enum dtype)t, .threads = s ? 3 : 1, .stage = stages[s]};
                (void)one(argv[i], (enum dtype)t, &opt, &failed);
            }
    printf("load: %d blocks, %d failed\n", n, failed);
    return failed || !n;
}
