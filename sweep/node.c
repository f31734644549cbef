#include "sweep/node.h"

#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/str.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_DEPTH = 24, MAX_NODES = 200000, MAX_BYTES = 16 << 20 };

/* State of one load. */
struct loading {
    const char *file;
    const struct vars *vars;
    yaml_document_t doc;
    int n_nodes;
};

struct node *node_new(enum node_kind kind, const char *file, int line, int col)
{
    struct node *n = mem_alloc(1, sizeof *n);
    n->kind = kind;
    n->file = mem_strdup(file);
    n->line = line;
    n->col = col;
    return n;
}

void node_free(struct node *n)
{
    if (!n)
        return;
    for (int i = 0; i < n->n; i++) {
        node_free(n->item[i]);
        if (n->key)
            free(n->key[i]);
    }
    free(n->item);
    free(n->key);
    free(n->key_line);
    free(n->key_col);
    free(n->text);
    free(n->file);
    free(n);
}

static void grow(struct node *n)
{
    if (n->n < n->cap)
        return;
    n->cap = n->cap ? 2 * n->cap : 8;
    n->item = mem_grow(n->item, (size_t)n->cap, sizeof *n->item);
    n->key = mem_grow(n->key, (size_t)n->cap, sizeof *n->key);
    n->key_line = mem_grow(n->key_line, (size_t)n->cap, sizeof *n->key_line);
    n->key_col = mem_grow(n->key_col, (size_t)n->cap, sizeof *n->key_col);
}

static int key_index(const struct node *map, const char *key)
{
    for (int i = 0; map->kind == NODE_MAP && i < map->n; i++)
        if (!strcmp(map->key[i], key))
            return i;
    return -1;
}

struct node *node_get(const struct node *map, const char *key)
{
    int i = key_index(map, key);
    return i < 0 ? NULL : map->item[i];
}

void node_put(struct node *parent, const char *key, struct node *value)
{
    int i = key ? key_index(parent, key) : -1;
    if (i >= 0) {
        node_free(parent->item[i]);
    } else {
        grow(parent);
        i = parent->n++;
        parent->key[i] = key ? mem_strdup(key) : NULL;
    }
    parent->item[i] = value;
    parent->key_line[i] = value->line;
    parent->key_col[i] = value->col;
}

struct node *node_copy(const struct node *n)
{
    struct node *c = node_new(n->kind, n->file, n->line, n->col);
    c->quoted = n->quoted;
    c->text = n->text ? mem_strdup(n->text) : NULL;
    for (int i = 0; i < n->n; i++) {
        node_put(c, n->key[i], node_copy(n->item[i]));
        c->key_line[i] = n->key_line[i];
        c->key_col[i] = n->key_col[i];
    }
    return c;
}

int node_error(const struct node *n, const char *fmt, ...)
{
    char text[900];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n->line == 0) /* came from the command line */
        return err_set(ERR_INPUT, "%s: %s", n->file, text);
    return err_set(ERR_INPUT, "%s:%d:%d: %s", n->file, n->line, n->col, text);
}

/* Value of one variable; NULL if unknown. `here` is a buffer for the folder of the file. */
static const char *variable(const struct vars *v, const char *name, const char *file, struct str *here)
{
    if (!strcmp(name, "cache"))
        return v->cache;
    if (!strcmp(name, "data"))
        return v->data;
    if (!strcmp(name, "models"))
        return v->models;
    if (!strcmp(name, "here")) {
        const char *slash = strrchr(file, '/');
        str_addn(here, slash ? file : ".", slash ? (size_t)(slash - file) : 1);
        return str_c(here);
    }
    if (strncmp(name, "env:", 4))
        return NULL;
    size_t n = strlen(name + 4);
    for (char *const *e = v->env; e && *e; e++)
        if (!strncmp(*e, name + 4, n) && (*e)[n] == '=')
            return *e + n + 1;
    return NULL;
}

/* Replaces ${…} in the scalar. */
static int expand(struct node *n, const struct vars *vars)
{
    if (!strstr(n->text, "${"))
        return 0;
    struct str out = {0};
    int rc = 0;
    const char *p = n->text;
    for (const char *at; rc == 0 && (at = strstr(p, "${"));) {
        const char *end = strchr(at, '}');
        char *name = end ? mem_strndup(at + 2, (size_t)(end - at - 2)) : mem_strdup(at + 2);
        struct str here = {0};
        const char *value = end && vars ? variable(vars, name, n->file, &here) : NULL;
        if (!end)
            rc = node_error(n, "'%s': ${ without }", n->text);
        else if (!value)
            rc = node_error(
                n, "'%s': ${%s} is not set; known: ${cache}, ${data}, ${models}, ${here}, ${env:NAME}",
                n->text, name);
        else
            str_addn(&out, p, (size_t)(at - p)), str_add(&out, value), p = end + 1;
        str_free(&here);
        free(name);
    }
    if (rc == 0) {
        str_add(&out, p);
        free(n->text);
        n->text = mem_strdup(str_c(&out));
    }
    str_free(&out);
    return rc;
}

static int convert(struct loading *l, int id, int depth, struct node **out);

static int given_twice(const struct node *at, const char *key, const struct node *first,
                       const struct node *second)
{
    if (first->kind != NODE_SCALAR || second->kind != NODE_SCALAR)
        return node_error(at, "key '%s' is given twice; leave one of them out", key);
    return node_error(at, "key '%s' is given twice, %s and %s; leave one of them out", key, first->text,
                      second->text);
}

static int convert_map(struct loading *l, const yaml_node_t *y, int depth, struct node *n)
{
    for (const yaml_node_pair_t *p = y->data.mapping.pairs.start; p < y->data.mapping.pairs.top; p++) {
        const yaml_node_t *k = yaml_document_get_node(&l->doc, p->key);
        struct node at = {
            .file = n->file, .line = (int)k->start_mark.line + 1, .col = (int)k->start_mark.column + 1};
        if (k->type != YAML_SCALAR_NODE)
            return node_error(&at, "a key must be a word");
        const char *key = (const char *)k->data.scalar.value;
        struct node *value = NULL;
        TRY(convert(l, p->value, depth + 1, &value));
        if (node_get(n, key)) {
            int rc = given_twice(&at, key, node_get(n, key), value);
            node_free(value);
            return rc;
        }
        node_put(n, key, value);
        n->key_line[n->n - 1] = at.line;
        n->key_col[n->n - 1] = at.col;
    }
    return 0;
}

static int convert_list(struct loading *l, const yaml_node_t *y, int depth, struct node *n)
{
    for (const yaml_node_item_t *i = y->data.sequence.items.start; i < y->data.sequence.items.top; i++) {
        struct node *value = NULL;
        TRY(convert(l, *i, depth + 1, &value));
        node_put(n, NULL, value);
    }
    return 0;
}

/* Aliases may make the document a graph, even with cycles: depth and count bound what is taken. */
static int convert(struct loading *l, int id, int depth, struct node **out)
{
    const yaml_node_t *y = yaml_document_get_node(&l->doc, id);
    enum node_kind kind = y->type == YAML_MAPPING_NODE    ? NODE_MAP
                          : y->type == YAML_SEQUENCE_NODE ? NODE_LIST
                                                          : NODE_SCALAR;
    struct node *n = node_new(kind, l->file, (int)y->start_mark.line + 1, (int)y->start_mark.column + 1);
    int rc = 0;
    if (depth > MAX_DEPTH || ++l->n_nodes > MAX_NODES) {
        rc = node_error(n, "nested deeper than %d levels or more than %d values", MAX_DEPTH, MAX_NODES);
    } else if (kind == NODE_SCALAR) {
        n->text = mem_strdup((const char *)y->data.scalar.value);
        n->quoted = y->data.scalar.style != YAML_PLAIN_SCALAR_STYLE;
        if (strlen(n->text) != y->data.scalar.length)
            rc = node_error(n, "a value holds a zero byte");
        else
            rc = expand(n, l->vars);
    } else {
        rc = kind == NODE_MAP ? convert_map(l, y, depth, n) : convert_list(l, y, depth, n);
    }
    if (rc < 0)
        node_free(n);
    else
        *out = n;
    return rc;
}

static int syntax_error(const char *file, const yaml_parser_t *p)
{
    return err_set(ERR_INPUT, "%s:%d:%d: not YAML: %s", file, (int)p->problem_mark.line + 1,
                   (int)p->problem_mark.column + 1, p->problem ? p->problem : "cannot be read");
}

static int load_text(struct node **root, const char *file, const char *text, size_t bytes,
                     const struct vars *vars)
{
    struct loading l = {.file = file, .vars = vars};
    yaml_parser_t parser;
    if (!yaml_parser_initialize(&parser))
        return err_set(ERR_NOMEM, "%s: out of memory", file);
    yaml_parser_set_input_string(&parser, (const unsigned char *)text, bytes);
    int rc = 0;
    if (!yaml_parser_load(&parser, &l.doc)) {
        rc = syntax_error(file, &parser);
        goto end;
    }
    if (!yaml_document_get_root_node(&l.doc))
        rc = err_set(ERR_INPUT, "%s: empty", file);
    else
        rc = convert(&l, 1, 0, root);
    yaml_document_delete(&l.doc);
    if (rc == 0) { /* anything after the document would be ignored silently */
        yaml_document_t next;
        if (!yaml_parser_load(&parser, &next)) {
            rc = syntax_error(file, &parser);
        } else {
            if (yaml_document_get_root_node(&next))
                rc = err_set(ERR_INPUT, "%s: more than one YAML document", file);
            yaml_document_delete(&next);
        }
        if (rc < 0) {
            node_free(*root);
            *root = NULL;
        }
    }
end:
    yaml_parser_delete(&parser);
    return rc;
}

int node_load(struct node **root, const char *file, const char *text, const struct vars *vars)
{
    *root = NULL;
    if (text)
        return load_text(root, file, text, strlen(text), vars);
    char *data = NULL;
    size_t bytes = 0;
    TRY(file_read(file, &data, &bytes));
    int rc = bytes > MAX_BYTES ? err_set(ERR_INPUT, "%s: larger than %d bytes", file, MAX_BYTES)
                               : load_text(root, file, data ? data : "", bytes, vars);
    free(data);
    return rc;
}

/* One step of a path: the item that `name` means, or NULL. */
static struct node **step(struct node *n, const char *name)
{
    int64_t i = 0;
    if (n->kind == NODE_MAP)
        i = key_index(n, name);
    else if (n->kind != NODE_LIST || !str_to_int(name, &i))
        i = -1;
    return i < 0 || i >= n->n ? NULL : &n->item[i];
}

static int set_at(struct node *n, const char *whole, const char *name, struct node *value)
{
    int64_t i = 0;
    if (n->kind == NODE_MAP) {
        node_put(n, name, value);
        return 0;
    }
    if (n->kind == NODE_LIST && str_to_int(name, &i) && i >= 0 && i <= n->n) {
        if (i == n->n) {
            node_put(n, NULL, value);
        } else {
            node_free(n->item[i]);
            n->item[i] = value;
        }
        return 0;
    }
    int rc = n->kind == NODE_LIST
                 ? err_set(ERR_INPUT, "--set %s: '%s' is not an index from 0 to %d", whole, name, n->n)
                 : err_set(ERR_INPUT, "--set %s: '%s' lies inside a plain value", whole, name);
    node_free(value);
    return rc;
}

int node_set(struct node *root, const char *path, const char *value, const struct vars *vars)
{
    char *where = mem_printf("--set %s=%s", path, value);
    struct node *v = NULL;
    int rc = *value ? node_load(&v, where, value, vars) : 0;
    if (rc == 0 && !*value) {
        v = node_new(NODE_SCALAR, where, 0, 0);
        v->text = mem_strdup("");
    }
    char *copy = mem_strdup(path), *save = NULL, *name = strtok_r(copy, ".", &save);
    if (rc == 0 && !name)
        rc = err_set(ERR_INPUT, "%s: no key", where);
    if (rc == 0) {
        v->line = 0;
        struct node *n = root;
        for (char *next; (next = strtok_r(NULL, ".", &save)); name = next) {
            struct node **child = step(n, name);
            if (!child && n->kind == NODE_MAP) {
                node_put(n, name, node_new(NODE_MAP, where, 0, 0));
                child = step(n, name);
            }
            if (!child) {
                rc = set_at(n, path, name, node_new(NODE_MAP, where, 0, 0));
                child = rc == 0 ? step(n, name) : NULL;
            }
            if (!child)
                break;
            n = *child;
        }
        if (rc == 0)
            rc = set_at(n, path, name, v), v = NULL;
    }
    node_free(v);
    free(copy);
    free(where);
    return rc;
}

int node_keys(const struct node *map, const char *const *known, const char *what)
{
    if (map->kind != NODE_MAP)
        return node_error(map, "%s must be a map of keys and values", what);
    for (int i = 0; i < map->n; i++) {
        int k = 0;
        while (known[k] && strcmp(known[k], map->key[i]))
            k++;
        if (known[k])
            continue;
        struct str all = {0};
        for (k = 0; known[k]; k++)
            str_printf(&all, "%s%s", k ? ", " : "", known[k]);
        const char *near = str_nearest(map->key[i], known);
        struct node at = {.file = map->item[i]->file, .line = map->key_line[i], .col = map->key_col[i]};
        int rc = near ? node_error(&at, "%s: unknown key '%s'; did you mean '%s'? (known: %s)", what,
                                   map->key[i], near, str_c(&all))
                      : node_error(&at, "%s: unknown key '%s'; known: %s", what, map->key[i], str_c(&all));
        str_free(&all);
        return rc;
    }
    return 0;
}

int node_text(const struct node *map, const char *key, const char **out)
{
    const struct node *n = node_get(map, key);
    if (!n)
        return 0;
    if (n->kind != NODE_SCALAR || !*n->text)
        return node_error(n, "%s: must be one word or text, not %s", key,
                          n->kind == NODE_SCALAR ? "empty"
                          : n->kind == NODE_LIST ? "a list"
                                                 : "a map");
    *out = n->text;
    return 0;
}

int node_int(const struct node *map, const char *key, int64_t lo, int64_t hi, int64_t *out)
{
    const char *text = NULL;
    TRY(node_text(map, key, &text));
    int64_t v = 0;
    if (!text)
        return 0;
    const bool octal = text[0] == '0' && text[1]; /* 010 is 8 to some readers of YAML and 10 to others */
    if (octal || !str_to_int(text, &v) || v < lo || v > hi)
        return node_error(node_get(map, key), "%s: '%s' is not allowed; use a whole number from %lld to %lld",
                          key, text, (long long)lo, (long long)hi);
    *out = v;
    return 0;
}

int node_real(const struct node *map, const char *key, double lo, double hi, double *out)
{
    const char *text = NULL;
    TRY(node_text(map, key, &text));
    double v = 0;
    if (!text)
        return 0;
    if (!str_to_double(text, &v) || v < lo || v > hi) {
        char a[32], b[32];
        str_double(a, lo);
        str_double(b, hi);
        return node_error(node_get(map, key), "%s: '%s' is not allowed; use a number from %s to %s", key,
                          text, a, b);
    }
    *out = v;
    return 0;
}

int node_choice(const struct node *map, const char *key, const char *const *words, int *out)
{
    const char *text = NULL;
    TRY(node_text(map, key, &text));
    if (!text)
        return 0;
    struct str all = {0};
    for (int i = 0; words[i]; i++) {
        if (!strcmp(words[i], text)) {
            *out = i;
            str_free(&all);
            return 0;
        }
        str_printf(&all, "%s%s", i ? ", " : "", words[i]);
    }
    int rc = node_error(node_get(map, key), "%s: '%s' is not allowed; use one of %s", key, text, str_c(&all));
    str_free(&all);
    return rc;
}
