/* Big models come in parts, each a GGUF file with some of the tensors; the first one has the metadata. Keys
 * and file names as llama.cpp's gguf-split writes them: split.no, split.count, split.tensors.count,
 * NAME-00001-of-00003.gguf. */
#include "base/err.h"
#include "base/mem.h"
#include "model/gguf_int.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { PARTS_MAX = 1024 };

/* "dir/NAME-00001-of-00003.gguf" -> "dir/NAME", owned; NULL if the name is of another form. */
static char *prefix_of(const char *path, int64_t no, int64_t count)
{
    char *end = mem_printf("-%05" PRId64 "-of-%05" PRId64 ".gguf", no + 1, count);
    size_t n = strlen(path), m = strlen(end);
    char *prefix = n > m && !strcmp(path + n - m, end) ? mem_strndup(path, n - m) : NULL;
    free(end);
    return prefix;
}

static int split_numbers(const struct gguf *g, int64_t *no, int64_t *count)
{
    TRY(gguf_int(g, "split.no", no));
    TRY(gguf_int(g, "split.count", count));
    if (*count < 1 || *count > PARTS_MAX || *no < 0 || *no >= *count)
        return err_set(ERR_INPUT,
                       "%s: split.no %" PRId64 " and split.count %" PRId64
                       " are impossible (at most %d parts)",
                       g->path, *no, *count, PARTS_MAX);
    return 0;
}

static int open_one(struct gguf *g, const char *prefix, int64_t no, int64_t count)
{
    int64_t is, of;
    struct gguf *p;
    char *path = mem_printf("%s-%05" PRId64 "-of-%05" PRId64 ".gguf", prefix, no + 1, count);
    int rc = file_exists(path)
                 ? gguf_open_part(&p, path)
                 : err_set(ERR_INPUT, "%s: part %" PRId64 " of %" PRId64 " of the model is missing", path,
                           no + 1, count);
    free(path);
    TRY(rc);
    g->part[g->n_part++] = p;
    TRY(split_numbers(p, &is, &of));
    if (is != no || of != count)
        return err_set(ERR_INPUT,
                       "%s: holds part %" PRId64 " of %" PRId64 ", its name says part %" PRId64
                       " of %" PRId64,
                       p->path, is + 1, of, no + 1, count);
    return 0;
}

/* The names move: a part's own list is empty afterwards. */
static void take_tensors(struct gguf *g)
{
    int64_t n = g->n_t;
    for (int i = 0; i < g->n_part; i++)
        n += g->part[i]->n_t;
    g->t = mem_grow(g->t, (size_t)n + 1, sizeof *g->t);
    for (int i = 0; i < g->n_part; i++) {
        struct gguf *p = g->part[i];
        for (int64_t k = 0; k < p->n_t; k++) {
            p->t[k].map = i + 1;
            g->t[g->n_t++] = p->t[k];
        }
        p->n_t = 0;
    }
}

static int check_total(const struct gguf *g)
{
    int64_t total = g->n_t;
    if (gguf_has(g, "split.tensors.count"))
        TRY(gguf_int(g, "split.tensors.count", &total));
    return total == g->n_t
               ? 0
               : err_set(ERR_INPUT,
                         "%s: split.tensors.count is %" PRId64 ", but the parts hold %" PRId64 " tensors",
                         g->path, total, g->n_t);
}

int gguf_open_parts(struct gguf *g)
{
    int64_t no, count;
    if (!gguf_has(g, "split.count"))
        return 0;
    TRY(split_numbers(g, &no, &count));
    if (count == 1)
        return 0;
    char *prefix = prefix_of(g->path, no, count);
    int rc = 0;
    if (!prefix)
        rc = err_set(ERR_INPUT,
                     "%s: is part %" PRId64 " of %" PRId64 " of a model, so its name must end in -%05" PRId64
                     "-of-%05" PRId64 ".gguf",
                     g->path, no + 1, count, no + 1, count);
    else if (no != 0)
        rc = err_set(ERR_INPUT,
                     "%s: is part %" PRId64 " of %" PRId64 ": name the first one, %s-00001-of-%05" PRId64
                     ".gguf",
                     g->path, no + 1, count, prefix, count);
    else
        g->part = mem_alloc((size_t)count, sizeof(struct gguf *));
    for (int64_t i = 1; i < count && rc == 0; i++)
        rc = open_one(g, prefix, i, count);
    free(prefix);
    TRY(rc);
    take_tensors(g);
    TRY(gguf_sort_tensors(g));
    return check_total(g);
}
