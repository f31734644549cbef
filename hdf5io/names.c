/* Names of settings that are unique in a file. A plan names its settings MODEL/METHOD; where rows of one such
 * name come together that differ elsewhere, each gets what tells it from the others behind its name:
 * "tiny/full@bf16". What is added depends on the rows alone, not on their order, and is taken off again
 * before rows are compared. */
#include "hdf5io/book.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { N_PART = 4, PART_BYTES = 48 };

/* The i-th thing that may be added: dtype, dtype of the cache, model, all the rest. */
static void name_part(const struct sink_setting *s, int i, char out[PART_BYTES])
{
    if (i == 0) {
        snprintf(out, PART_BYTES, "%.32s", s->dtype);
    } else if (i == 1) {
        snprintf(out, PART_BYTES, "cache-%.32s", s->cache_dtype);
    } else if (i == 2) {
        snprintf(out, PART_BYTES, "model-%.8s", s->model_hash);
    } else {
        char *rest = mem_printf("%s\n%s\n%s\n%s\n%.17g", s->family, s->method, s->params, s->overrides,
                                s->nominal_ratio);
        snprintf(out, PART_BYTES, "x%08x", (unsigned)(XXH3_64bits(rest, strlen(rest)) & 0xffffffffu));
        free(rest);
    }
}

size_t book_plain_id(const struct sink_setting *s)
{
    const char *at = strrchr(s->id, '@');
    const char *p = at ? at + 1 : "";
    for (int i = 0; i < N_PART && *p; i++) {
        char part[PART_BYTES];
        name_part(s, i, part);
        size_t n = strlen(part);
        if (n && !strncmp(p, part, n) && (p[n] == 0 || (p[n] == '+' && p[n + 1])))
            p += n + (p[n] == '+');
    }
    return at && at[1] && !*p ? (size_t)(at - s->id) : strlen(s->id);
}

static bool same_name(const struct sink_setting *a, size_t n, const struct sink_setting *b)
{
    return book_plain_id(b) == n && !memcmp(a->id, b->id, n);
}

/* What tells row `at` from the rows of the same name; empty where there are none. */
static void difference(const struct book *b, int at, size_t n, struct str *out)
{
    const struct sink_setting *s = &b->setting[at];
    bool differs[N_PART] = {0};
    char part[N_PART][PART_BYTES], other[PART_BYTES];
    for (int i = 0; i < N_PART; i++)
        name_part(s, i, part[i]);
    for (int k = 0; k < b->n_setting; k++) {
        if (k == at || !same_name(s, n, &b->setting[k]))
            continue;
        for (int i = 0; i < N_PART; i++) {
            name_part(&b->setting[k], i, other);
            differs[i] = differs[i] || strcmp(part[i], other) != 0;
        }
    }
    for (int i = 0; i < N_PART; i++)
        if (differs[i])
            str_printf(out, "%c%s", out->n ? '+' : '@', part[i]);
}

void book_name(struct book *b)
{
    for (int i = 0; i < b->n_setting; i++) {
        struct sink_setting *s = &b->setting[i];
        size_t n = book_plain_id(s);
        struct str id = {0}, more = {0};
        difference(b, i, n, &more);
        str_addn(&id, s->id, n);
        str_add(&id, str_c(&more));
        if (strcmp(s->id, str_c(&id)) != 0)
            s->id = book_keep(b, str_c(&id), id.n);
        str_free(&id);
        str_free(&more);
    }
}
