/* A file of torch.save: the zip archive and the pickle in it, its tensors read whole. */
#include "fuzz.h"

#include "base/mem.h"
#include "model/file_int.h"
#include "model/zip.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_file f = {.path = mem_strdup("fuzz")};
    const struct file_map map = {.data = data, .bytes = n};
    struct zip z;
    if (zip_open(&z, &map, "fuzz.bin") == 0)
        for (int i = 0; i < z.n; i++)
            fuzz_touch(z.entry[i].data, z.entry[i].bytes);
    zip_close(&z);
    if (torch_file_add(&f, &map, 0, "fuzz.bin") == 0 && file_tensor_sort(&f) == 0)
        for (int i = 0; i < f.n; i++)
            fuzz_touch(f.t[i].t.data, f.t[i].t.bytes);
    for (int i = 0; i < f.n; i++)
        free(f.t[i].name);
    free(f.t);
    free(f.path);
    return 0;
}
