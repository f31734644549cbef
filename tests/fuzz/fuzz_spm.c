/* A SentencePiece model file. */
#include "fuzz_tok.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    return fuzz_tok("tokenizer.model", data, n);
}
