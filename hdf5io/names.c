/* Names of settings that are unique in a file. A plan names its settings MODEL/METHOD; where rows of one such
 * name come together that differ elsewhere, each gets what tells it from the others behind its name, part
 * after part: "tiny/full@chatml@after". What is added depends on the rows alone, not on their order, and is
 * taken off again before rows are compared. */
#include "hdf5io/book.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum name_part { BY_TEMPLATE, BY_MAX_LEN, BY_DTYPE, BY_CACHE, BY_PROTOCOL, BY_MODEL, BY_REST, N_PART };
enum { PART_BYTES = 48 };

/* Everything else that tells rows apart. */
static void add_rest(const struct sink_setting *s, struct str *out)
{
    str_printf(out, "%s\n%s\n%s\n%s\n", s->prompt_method, s->method, s->params, s->overrides);
    str_printf(out, "%.17g", s->nominal_ratio);
}

/* What is in the model's hash too. */
static void add_model(const struct sink_setting *s, struct str *out)
{
    str_printf(out, "%s\n%s\n", s->family, s->stop_ids);
}

static unsigned hash_rest(const struct sink_setting *s)
{
    struct str rest = {0};
    add_model(s, &rest);
    add_rest(s, &rest);
    str_add(&rest, book_template_texts(s)); /* two texts may have one name */
    unsigned h = (unsigned)(XXH3_64bits(rest.data, rest.n) & 0xffffffffu);
    str_free(&rest);
    return h;
}

static void name_part(const struct sink_setting *s, enum name_part p, char out[PART_BYTES])
{
    switch (p) {
    case BY_TEMPLATE:
        snprintf(out, PART_BYTES, "%.*s", (int)strcspn(s->template, " "), s->template);
        break;
    case BY_MAX_LEN:
        snprintf(out, PART_BYTES, "max_len=%" PRId64, s->max_len);
        break;
    case BY_DTYPE:
        snprintf(out, PART_BYTES, "%.32s", s->dtype);
        break;
    case BY_CACHE:
        snprintf(out, PART_BYTES, "cache-%.32s", s->cache_dtype);
        break;
    case BY_PROTOCOL:
        snprintf(out, PART_BYTES, "%.32s", s->protocol);
        break;
    case BY_MODEL:
        snprintf(out, PART_BYTES, "%.8s", s->model_hash);
        break;
    case BY_REST:
    case N_PART:
        snprintf(out, PART_BYTES, "%08x", hash_rest(s));
        break;
    }
}

static bool differs_in_rest(const struct sink_setting *a, const struct sink_setting *b)
{
    struct str x = {0}, y = {0};
    size_t n = strcspn(a->template, " ");
    bool same_template = strcspn(b->template, " ") == n && !memcmp(a->template, b->template, n);
    add_rest(a, &x);
    add_rest(b, &y);
    if (!strcmp(a->model_hash, b->model_hash)) { /* else the model's hash tells them apart already */
        add_model(a, &x);
        add_model(b, &y);
    }
    bool differs = strcmp(str_c(&x), str_c(&y)) != 0 ||
                   (same_template && strcmp(book_template_texts(a), book_template_texts(b)) != 0);
    str_free(&x);
    str_free(&y);
    return differs;
}

static bool differs_in(const struct sink_setting *a, const struct sink_setting *b, enum name_part p)
{
    char x[PART_BYTES], y[PART_BYTES];
    if (p == BY_REST)
        return differs_in_rest(a, b);
    name_part(a, p, x);
    name_part(b, p, y);
    return strcmp(x, y) != 0;
}

size_t book_plain_id(const struct sink_setting *s)
{
    size_t n = strlen(s->id);
    for (int i = N_PART - 1; i >= 0; i--) {
        char part[PART_BYTES];
        name_part(s, (enum name_part)i, part);
        size_t m = strlen(part);
        if (m && n > m + 1 && s->id[n - m - 1] == '@' && !memcmp(s->id + n - m, part, m))
            n -= m + 1;
    }
    return n;
}

static bool same_name(const struct sink_setting *a, size_t n, const struct sink_setting *b)
{
    return book_plain_id(b) == n && !memcmp(a->id, b->id, n);
}

/* What tells row `at` from the rows of the same name; empty where there are none. The plain protocol needs no
 * word: the other one has it. */
static void difference(const struct book *b, int at, size_t n, struct str *out)
{
    const struct sink_setting *s = &b->setting[at];
    for (int i = 0; i < N_PART; i++) {
        char part[PART_BYTES];
        bool differs = false;
        for (int k = 0; k < b->n_setting && !differs; k++)
            differs = k != at && same_name(s, n, &b->setting[k]) &&
                      differs_in(s, &b->setting[k], (enum name_part)i);
        name_part(s, (enum name_part)i, part);
        if (differs && *part && (i != BY_PROTOCOL || strcmp(part, "inside") != 0))
            str_printf(out, "@%s", part);
    }
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
