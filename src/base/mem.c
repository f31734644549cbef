#include "base/mem.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *or_die(void *p, size_t n, size_t size)
{
    if (p)
        return p;
    fprintf(stderr, "kvsweep: out of host memory (%zu x %zu bytes)\n", n, size);
    abort();
}

void *mem_alloc(size_t n, size_t size)
{
    return or_die(calloc(n ? n : 1, size ? size : 1), n, size);
}

void *mem_grow(void *p, size_t n, size_t size)
{
    if (size && n > SIZE_MAX / size)
        or_die(NULL, n, size);
    size_t bytes = n * size;
    return or_die(realloc(p, bytes > 0 ? bytes : 1), n, size);
}

void *mem_dup(const void *p, size_t bytes)
{
    void *q = mem_grow(NULL, bytes, 1);
    if (bytes)
        memcpy(q, p, bytes);
    return q;
}

char *mem_strdup(const char *s)
{
    return mem_dup(s, strlen(s) + 1);
}

char *mem_strndup(const char *s, size_t n)
{
    char *q = mem_alloc(n + 1, 1);
    memcpy(q, s, n);
    return q;
}

char *mem_printf(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    char *s = NULL;
    int n = vasprintf(&s, fmt, ap);
    va_end(ap);
    return or_die(n < 0 ? NULL : s, 1, 1);
}
