/* Host memory for small things (names, tables, token ids): running out of it is not a state worth handling,
 * so these end the process with one line. Anything that scales with context or model size goes through
 * ops->alloc instead. */
#ifndef KVS_BASE_MEM_H
#define KVS_BASE_MEM_H

#include <stddef.h>

void *mem_alloc(size_t n, size_t size);         /* zeroed */
void *mem_grow(void *p, size_t n, size_t size); /* realloc; new bytes are not zeroed */
void *mem_dup(const void *p, size_t bytes);
char *mem_strdup(const char *s);
char *mem_strndup(const char *s, size_t n);
char *mem_printf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Appends room for one element to a growing array: `arr` has `n` elements, capacity doubles as needed. */
#define MEM_PUSH(arr, n, cap)                                                                                \
    ((n) == (cap) ? ((cap) = (cap) ? 2 * (cap) : 16, (arr) = mem_grow((arr), (size_t)(cap), sizeof *(arr)))  \
                  : (arr),                                                                                   \
     &(arr)[(n)++])

#endif
