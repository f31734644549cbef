/* The body of the harnesses of tokenizer files: what opens must encode and decode. */
#ifndef KVS_TESTS_FUZZ_TOK_H
#define KVS_TESTS_FUZZ_TOK_H

#include "fuzz.h"

#include "tok/tok.h"

#include <stdlib.h>
#include <string.h>

/* The input as file `name` of a model's folder. Always 0. */
static inline int fuzz_tok(const char *name, const uint8_t *data, size_t n)
{
    static const char text[] = "Hello  world, 123 \xc3\x9f\xf0\x9f\x98\x80\n";
    struct tok *t = NULL;
    int32_t *ids = NULL;
    int64_t n_ids = 0;
    char *back = NULL;
    size_t n_back;
    if (tok_open_dir(&t, fuzz_file(name, data, n, NULL)) == 0 &&
        tok_encode(t, text, strlen(text), true, &ids, &n_ids) == 0)
        tok_decode(t, ids, n_ids, false, &back, &n_back);
    free(ids);
    free(back);
    tok_close(t);
    return 0;
}

#endif
