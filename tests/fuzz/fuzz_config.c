/* config.json of a language model and of a prompt encoder. */
#include "fuzz.h"

#include "model/file_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct model_config c = {0}, e = {0};
    const char *dir = fuzz_file("config.json", data, n, NULL);
    config_read(&c, dir);
    encoder_config_read(&e, dir);
    return 0;
}
