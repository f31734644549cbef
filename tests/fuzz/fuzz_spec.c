/* Texts of methods: the canonical text of what is taken must be taken, and be its own canonical text. */
#include "fuzz.h"

#include "base/mem.h"
#include "kv/kv.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    char *text = mem_strndup((const char *)data, n);
    struct kv_spec a = {0}, b = {0};
    if (kv_spec_parse(&a, text) == 0 && (kv_spec_parse(&b, a.text) < 0 || strcmp(a.text, b.text)))
        abort();
    kv_spec_free(&a);
    kv_spec_free(&b);
    free(text);
    return 0;
}
