/* What the fuzz harnesses share. A harness is one file that defines LLVMFuzzerTestOneInput: clang's libFuzzer
 * drives it, or main.c here (see CMakeLists.txt). A harness fails by dying: under AddressSanitizer and UBSan,
 * by abort, or by an assert. */
#ifndef KVS_TESTS_FUZZ_H
#define KVS_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Reads all n bytes as the format of this harness; refusing them is fine. Always 0. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

/* The input as file `name` of a folder of this process, for readers that open files (up to 8 names). Both
 * paths live until the end of the program. Returns the folder; *path (may be NULL): the file. */
const char *fuzz_file(const char *name, const void *data, size_t n, const char **path);
/* Reads every byte, so that a pointer into the unmapped is seen. */
void fuzz_touch(const void *data, size_t n);

#endif
