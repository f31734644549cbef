/* Weights are declared: what the file lacks or has otherwise is collected, so that one message names all. */
#include "base/err.h"
#include "base/mem.h"
#include "model/file_int.h"
#include "model/load.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define SHOWN 6 /* tensors that a message names */

static struct load_item *add(struct load *l, enum load_kind kind, const char *const *names, int n_part)
{
    assert(n_part >= 1 && n_part <= LOAD_PARTS);
    struct load_item *it = MEM_PUSH(l->item, l->n, l->cap);
    *it = (struct load_item){.kind = kind, .n_part = n_part};
    for (int i = 0; i < n_part; i++)
        it->name[i] = mem_strdup(names[i]);
    return it;
}

/* Notes err_text(), less the path that the whole message begins with. */
static void note_problem(struct load *l, const struct model_file *f)
{
    const char *text = err_text();
    const size_t n = strlen(f->path);
    if (!strncmp(text, f->path, n) && !strncmp(text + n, ": ", 2))
        text += n + 2;
    if (l->n_problem++ < SHOWN)
        str_printf(&l->problems, "%s%s", l->n_problem > 1 ? "; " : "", text);
}

/* Part i of an item; what does not fit is noted. ERR_INPUT only where the whole file is missing. */
static int find_part(struct load *l, struct load_item *it, const struct model_file *f, int i,
                     const int64_t *shape, int n_dim)
{
    int rc = model_file_find(f, it->name[i], shape, n_dim, &it->part[i]);
    if (rc < 0 && f->missing)
        return rc;
    if (rc < 0)
        note_problem(l, f);
    return 0;
}

static int find_parts(struct load *l, struct load_item *it, const struct model_file *f, const int64_t *rows,
                      int64_t n_in, int n_dim)
{
    it->n_in = n_in;
    for (int i = 0; i < it->n_part; i++) {
        TRY(find_part(l, it, f, i, (int64_t[]){rows[i], n_in}, n_dim));
        it->n_out += rows[i];
    }
    return 0;
}

int load_packed(struct load *l, const struct model_file *f, struct weight *out, const char *const *names,
                const int64_t *rows, int n_part, int64_t n_in)
{
    struct load_item *it = add(l, LOAD_PACKED, names, n_part);
    it->weight = out;
    return find_parts(l, it, f, rows, n_in, 2);
}

int load_table(struct load *l, const struct model_file *f, struct tensor *out, const char *name, int64_t rows,
               int64_t n_in)
{
    struct load_item *it = add(l, LOAD_TABLE, &name, 1);
    it->table = out;
    return find_parts(l, it, f, &rows, n_in, 2);
}

int load_floats(struct load *l, const struct model_file *f, const float **out, const char *const *names,
                const int64_t *rows, int n_part)
{
    struct load_item *it = add(l, LOAD_FLOATS, names, n_part);
    it->floats = out;
    return find_parts(l, it, f, rows, 1, 1);
}

int load_values(struct load *l, const struct model_file *f, const float **out, const char *name,
                const int64_t *shape, int n_dim, load_map *of)
{
    struct load_item *it = add(l, LOAD_FLOATS, &name, 1);
    it->floats = out;
    it->of = of;
    it->n_out = shape[0];
    it->n_in = 1;
    for (int d = 1; d < n_dim; d++)
        it->n_in *= shape[d];
    return find_part(l, it, f, 0, shape, n_dim);
}

int load_slice(struct load *l, const struct model_file *f, struct weight *out, const char *name,
               int64_t slices, int64_t slice, int64_t n_out, int64_t n_in)
{
    struct load_item *it = add(l, LOAD_PACKED, &name, 1);
    const int64_t shape[3] = {slices, n_in, n_out};
    it->weight = out;
    it->n_out = n_out;
    it->n_in = n_in;
    it->slices = slices;
    it->slice = slice;
    TRY(find_part(l, it, f, 0, shape, 3));
    it->part[0].n[0] = n_out; /* rows, as all parts have them */
    return 0;
}

void load_through(struct load *l, load_map *of, const void *ctx)
{
    l->item[l->n - 1].of = of;
    l->item[l->n - 1].ctx = ctx;
}

/* Is `name` or its end one of "a|b|c", or its beginning one that ends in a dot? */
static bool spared(const char *list, const char *name)
{
    const size_t n = strlen(name);
    for (const char *p = list; p && *p; p += strcspn(p, "|"), p += *p == '|') {
        const size_t k = strcspn(p, "|");
        const bool begins = k && p[k - 1] == '.';
        if (k <= n && !strncmp(begins ? name : name + n - k, p, k))
            return true;
    }
    return false;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Tensors that no declaration names: the model computes something else than this family does. */
static void find_extra(struct load *l, const struct model_file *f, const char *spare)
{
    const char **name = mem_alloc((size_t)l->n * LOAD_PARTS + 1, sizeof *name);
    size_t n = 0;
    for (int i = 0; i < l->n; i++)
        for (int k = 0; k < l->item[i].n_part; k++)
            name[n++] = l->item[i].name[k];
    qsort(name, n, sizeof *name, by_text);
    for (int i = 0; i < f->n; i++) {
        const char *own = f->t[i].name;
        if (bsearch(&own, name, n, sizeof *name, by_text) || spared(spare, own))
            continue;
        err_set(ERR_INPUT, "tensor '%s' is not one of this model's", own);
        note_problem(l, f);
    }
    free(name);
}

int load_check(struct load *l, const struct model_file *f, const char *spare)
{
    if (spare)
        find_extra(l, f, spare);
    if (l->n_problem == 0)
        return 0;
    if (l->n_problem > SHOWN)
        str_printf(&l->problems, "; and %d more", l->n_problem - SHOWN);
    return err_set(ERR_INPUT, "%s: %s", f->path, str_c(&l->problems));
}
