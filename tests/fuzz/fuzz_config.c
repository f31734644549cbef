/* config.json of a language model and of a prompt encoder. */
#include "fuzz.h"

#include "base/str.h"
#include "model/file_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_config c = {0}, e = {0};
    const char *dir = fuzz_file("config.json", data, n, NULL);
    struct str notes = {0};
    config_read(&c, dir, &notes);
    encoder_config_read(&e, dir);
    str_free(&notes);
    return 0;
}
