/* tokenizer.json of the tokenizers library. */
#include "fuzz_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    return fuzz_tok("tokenizer.json", data, n);
}
