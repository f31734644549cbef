/* Folders of a test's own. What cannot be made ends the program. */
#ifndef KVS_TESTS_SCRATCH_H
#define KVS_TESTS_SCRATCH_H

#include <stddef.h>

/* A fresh folder below TMPDIR or /tmp, owned path; removed with all that is in it. */
char *scratch_make(void);
void scratch_remove(char *dir);

/* Writes a file of the folder anew. */
void scratch_put(const char *dir, const char *name, const void *data, size_t n);
void scratch_text(const char *dir, const char *name, const char *text);

#endif
