/* The index of weights in shards, beside one shard. */
#include "fuzz.h"

#include "base/mem.h"
#include "model/file_int.h"

#include <stdlib.h>
#include <string.h>

static const char shard[] =
    "\x38\0\0\0\0\0\0\0{\"w\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}  \0\0\0";

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    fuzz_file("a.safetensors", shard, sizeof shard, NULL);
    struct model_file f = {.path = mem_strdup(fuzz_file("model.safetensors.index.json", data, n, NULL))};
    weights_open_folder(&f);
    for (int i = 0; i < f.n_map; i++)
        file_unmap(&f.map[i]);
    for (int i = 0; i < f.n; i++)
        free(f.t[i].name);
    free(f.map);
    free(f.t);
    free(f.missing);
    free(f.path);
    return 0;
}
