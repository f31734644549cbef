/* A message between ranks. */
#include "fuzz.h"

#include "sweep/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct wire w;
    if (wire_get(&w, data, n) == 0) {
        fuzz_touch(w.small, w.m.n_small);
        fuzz_touch(w.big, w.m.n_big);
    }
    return 0;
}
