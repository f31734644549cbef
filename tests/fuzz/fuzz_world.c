/* The vocabulary of RWKV's World models. */
#include "fuzz_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    return fuzz_tok("rwkv_vocab_v20230424.txt", data, n);
}
