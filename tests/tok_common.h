/* What the tests of tokenizers share: their fixtures, and random numbers. */
#ifndef KVS_TESTS_TOK_COMMON_H
#define KVS_TESTS_TOK_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "scratch.h"
#include "tok/tok.h"

static inline json_t *load(const char *folder, const char *name)
{
    char *path = mem_printf("fixtures/tok/%s/%s", folder, name);
    json_error_t why;
    json_t *j = json_load_file(path, JSON_ALLOW_NUL, &why);
    if (!j)
        fail_msg("%s: %s", path, why.text);
    free(path);
    return j;
}

static inline uint32_t next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}

#endif
