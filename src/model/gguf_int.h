/* Inside of an open GGUF header, for gguf.c (the header), gguf_meta.c (metadata) and gguf_split.c (files in
 * parts). */
#ifndef KVS_MODEL_GGUF_INT_H
#define KVS_MODEL_GGUF_INT_H

#include "model/gguf.h"

enum gguf_value {
    V_U8,
    V_I8,
    V_U16,
    V_I16,
    V_U32,
    V_I32,
    V_F32,
    V_BOOL,
    V_STR,
    V_ARRAY,
    V_U64,
    V_I64,
    V_F64,
    V_N
};
extern const char *const gguf_value_name[V_N];
extern const uint8_t gguf_value_bytes[V_N]; /* 0: no fixed size */

/* One metadata entry; values stay in the mapping. */
struct gguf_kv {
    struct gguf_text key;
    uint32_t type, elem; /* elem: type of array elements */
    uint64_t n;          /* array elements, 1 otherwise */
    size_t at;           /* of the value (of the first element) */
};

struct gguf {
    char *path;
    struct file_map map;
    bool own_map;
    struct gguf_kv *kv; /* sorted by key */
    int64_t n_kv;
    struct gguf_tensor *t; /* sorted by name */
    int64_t n_t;
    uint64_t alignment;
    struct gguf **part; /* [n_part] further files of a model in parts, owned; their tensors are in t */
    int n_part;
};

/* Foreign text made safe for a message of one line. */
struct gguf_shown {
    char s[72];
};
struct gguf_shown gguf_show(struct gguf_text t);
int gguf_kv_order(const void *a, const void *b);       /* two struct gguf_kv by their keys, for qsort */
int gguf_open_part(struct gguf **g, const char *path); /* one file, whatever it says of parts */
/* Opens the other parts of a file that says split.count, and takes their tensors. ERR_INPUT names the part.
 */
int gguf_open_parts(struct gguf *g);
/* Sorts g->t by name; ERR_INPUT on duplicates. */
int gguf_sort_tensors(struct gguf *g);

#endif
