/* GGUF headers (versions 2 and 3, little-endian; layout as in ggml's docs/gguf.md). The file is mapped; the
 * header is checked completely at opening: every length against the bytes that are left, every tensor against
 * the end of the file, names against duplicates. Errors are ERR_INPUT (or ERR_IO) and name file and key. */
#ifndef KVS_MODEL_GGUF_H
#define KVS_MODEL_GGUF_H

#include "base/file.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tensor types under ggml's numbers: the plain ones and the quantised ones that are read (layouts:
 * ggml_block.c). */
enum ggml_type {
    GGML_F32 = 0,
    GGML_F16 = 1,
    GGML_Q4_0 = 2,
    GGML_Q4_1 = 3,
    GGML_Q5_0 = 6,
    GGML_Q5_1 = 7,
    GGML_Q8_0 = 8,
    GGML_Q4_K = 12,
    GGML_Q5_K = 13,
    GGML_Q6_K = 14,
    GGML_IQ4_NL = 20,
    GGML_BF16 = 30,
};
const char *ggml_type_name(int32_t type); /* "Q4_1"; "type 99" is "unknown" */
int32_t ggml_type_at(int i);              /* the i-th type that can be read, -1 behind the last */
/* Values and bytes of one block (1 value for the plain types); false for types that cannot be read. */
bool ggml_type_block(int32_t type, int64_t *values, int64_t *bytes);
/* Values [at, at + n) of packed data as float32; at any alignment. */
void ggml_expand(int32_t type, const void *data, int64_t at, int64_t n, float *out);

struct gguf_tensor {
    const char *name; /* owned by the header, NUL-terminated */
    int32_t type, n_dim;
    int64_t n[4];     /* fastest first, as the file has them; unused ones are 1 */
    int32_t map;      /* the file that holds it: gguf_map */
    size_t at, bytes; /* place in that file */
};

struct gguf;
/* A model in parts (NAME-00001-of-00003.gguf, split.count) is opened by its first part and looks like one
 * file. */
int gguf_open(struct gguf **g, const char *path);
/* The same over bytes in memory (borrowed); `path` is for messages. */
int gguf_open_bytes(struct gguf **g, const void *data, size_t bytes, const char *path);
void gguf_close(struct gguf *g); /* accepts NULL */
const char *gguf_path(const struct gguf *g);
int gguf_n_map(const struct gguf *g); /* files: 1, or the number of parts */
const struct file_map *gguf_map(const struct gguf *g, int i);
const char *gguf_map_path(const struct gguf *g, int i);

int64_t gguf_n_tensor(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, int64_t i);          /* sorted by name */
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name); /* NULL if absent */

/* Metadata. Each getter is ERR_INPUT if the key is absent or of another type. */
struct gguf_text {
    const char *s; /* inside the mapping: lives as long as the header, not NUL-terminated */
    size_t n;
};
bool gguf_has(const struct gguf *g, const char *key);
int gguf_int(const struct gguf *g, const char *key, int64_t *v); /* any integer type that fits */
int gguf_real(const struct gguf *g, const char *key, double *v); /* any number type */
int gguf_bool(const struct gguf *g, const char *key, bool *v);
int gguf_text(const struct gguf *g, const char *key, struct gguf_text *v);
/* Elements of an array, -1 if the key is absent or no array. */
int64_t gguf_count(const struct gguf *g, const char *key);
/* Whole arrays as owned memory (free); *n elements. Numbers must fit the wanted type. */
int gguf_array_text(const struct gguf *g, const char *key, struct gguf_text **v, int64_t *n);
int gguf_array_i32(const struct gguf *g, const char *key, int32_t **v, int64_t *n);
int gguf_array_f32(const struct gguf *g, const char *key, float **v, int64_t *n);

#endif
