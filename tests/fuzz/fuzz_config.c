/* config.json of a language model and of a prompt encoder, and the stop ids in it. */
#include "fuzz.h"

#include "base/str.h"
#include "model/file_int.h"
#include "model/stop_ids.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_config c = {0}, e = {0};
    const char *dir = fuzz_file("config.json", data, n, NULL);
    struct str notes = {0};
    struct stop_ids stop = {0};
    config_read(&c, dir, &notes);
    encoder_config_read(&e, dir);
    stop_ids_dir(&stop, dir);
    stop_ids_free(&stop);
    str_free(&notes);
    return 0;
}
