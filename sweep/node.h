/* YAML as a tree that remembers where everything stood, so that every refusal can name file, line and column.
 * (libcyaml maps YAML onto fixed structs and cannot hold free keys such as a method's parameters; this reads
 * through libyaml, the parser below it.) */
#ifndef KVS_SWEEP_NODE_H
#define KVS_SWEEP_NODE_H

#include <stdbool.h>
#include <stdint.h>

/* What ${…} in a scalar stands for: cache, data, models, here (folder of the file), env:NAME. */
struct vars {
    const char *cache, *data, *models;
    char *const *env; /* NULL-terminated "NAME=value" */
};

enum node_kind { NODE_SCALAR, NODE_LIST, NODE_MAP };

/* Owned by its parent; the root by whoever loaded it (node_free). */
struct node {
    enum node_kind kind;
    char *text; /* scalar, ${…} replaced */
    bool quoted;
    char *file; /* for messages */
    int line, col;
    int n, cap;
    struct node **item; /* list items, map values */
    char **key;         /* map: [n] */
    int *key_line, *key_col;
};

/* Reads one YAML document; `text` NULL: from the file. ERR_INPUT names file, line and column. */
int node_load(struct node **root, const char *file, const char *text, const struct vars *vars);
void node_free(struct node *n);
struct node *node_copy(const struct node *n);
struct node *node_new(enum node_kind kind, const char *file, int line, int col);

/* Value of a key, or NULL. */
struct node *node_get(const struct node *map, const char *key);
/* Puts an owned value under a key (replacing one) or at the end of a list (key NULL). */
void node_put(struct node *parent, const char *key, struct node *value);
/* Sets what a dotted path ("a.b.0.c") names; `value` is YAML in one line. Maps grow as needed. */
int node_set(struct node *root, const char *path, const char *value, const struct vars *vars);

/* "FILE:LINE:COL: …", ERR_INPUT. */
int node_error(const struct node *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Refuses keys that are not in the NULL-terminated list, naming the nearest. `what` says whose keys. */
int node_keys(const struct node *map, const char *const *known, const char *what);
/* Typed reads of the scalar under `key` ("topk" in the messages); absent keys leave *out as it is. */
int node_int(const struct node *map, const char *key, int64_t lo, int64_t hi, int64_t *out);
int node_real(const struct node *map, const char *key, double lo, double hi, double *out);
int node_text(const struct node *map, const char *key, const char **out);
/* One of the NULL-terminated words; *out is its index. */
int node_choice(const struct node *map, const char *key, const char *const *words, int *out);

#endif
