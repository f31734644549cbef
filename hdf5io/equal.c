#include "hdf5io/equal.h"

#include "base/err.h"
#include "base/mem.h"
#include "hdf5io/store.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

/* Two stores over one numbering: a's book has been joined with b's. */
struct pair {
    struct store a, b;
    int32_t *setting_map, *task_map; /* b's rows in a's book */
    struct str *out;
};

static bool same_real(double x, double y)
{
    return memcmp(&x, &y, sizeof x) == 0 || (isnan(x) && isnan(y));
}

static bool same_text(const char *x, const char *y)
{
    return x && y ? strcmp(x, y) == 0 : x == y;
}

static bool same_bytes(const void *x, const void *y, size_t n)
{
    return n == 0 || (x && y && memcmp(x, y, n) == 0) || (!x && !y);
}

static int32_t row_of(const struct record_column *c, const struct record *r)
{
    int32_t row;
    memcpy(&row, (const char *)r + c->offset, sizeof row);
    return row;
}

static bool same_column(const struct pair *p, const struct record_column *c, const struct record *x,
                        const struct record *y)
{
    if (c->role == RECORD_ROW) {
        const int32_t *map = c->offset == offsetof(struct record, setting) ? p->setting_map : p->task_map;
        return row_of(c, x) == map[row_of(c, y)];
    }
    return (c->role != RECORD_ANSWER && c->role != RECORD_SIZE) || record_same_column(c, x, y);
}

/* Name of the first differing member of two records, or NULL. */
static const char *scalar_difference(const struct pair *p, const struct record *x, const struct record *y)
{
    for (int i = 0; record_column(i); i++)
        if (!same_column(p, record_column(i), x, y))
            return record_column(i)->name;
    const struct {
        const char *name;
        bool same;
    } member[] = {
        {"text", x->n_text == y->n_text && same_bytes(x->text, y->text, x->n_text)},
        {"error", same_text(x->error, y->error)},
        {"tokens", same_bytes(x->token, y->token, (size_t)x->n_new * 4)},
        {"number of metrics", x->n_metric == y->n_metric},
        {"number of budgets", x->n_budget == y->n_budget},
        {"ledger", x->n_ledger == y->n_ledger &&
                       same_bytes(x->ledger, y->ledger, (size_t)x->n_ledger * sizeof *x->ledger)},
        {"number of fidelity rows", x->n_fidelity == y->n_fidelity},
        {"number of rows of first", part_rows(PART_FIRST, x) == part_rows(PART_FIRST, y)},
        {"vocabulary of first", x->n_vocab == y->n_vocab},
        {"K of topk", x->n_top == y->n_top},
    };
    for (size_t i = 0; i < sizeof member / sizeof *member; i++)
        if (!member[i].same)
            return member[i].name;
    return NULL;
}

static const char *value_difference(const struct record *x, const struct record *y)
{
    for (int i = 0; i < x->n_metric; i++)
        if (x->metric[i].name != y->metric[i].name || !same_real(x->metric[i].value, y->metric[i].value))
            return "metrics";
    for (int i = 0; i < x->n_budget; i++)
        if (x->budget[i].name != y->budget[i].name || !same_real(x->budget[i].value, y->budget[i].value))
            return "budgets";
    for (int i = 0; i < x->n_fidelity; i++) {
        const struct record_fidelity *f = &x->fidelity[i], *g = &y->fidelity[i];
        if (f->step != g->step || !same_real(f->kl, g->kl) || !same_real(f->top1, g->top1) ||
            !same_real(f->gold_logprob, g->gold_logprob))
            return "fidelity";
    }
    return NULL;
}

static int part_difference(struct pair *p, int64_t k, const struct record *r, enum part part,
                           const char **name)
{
    int64_t rows = part_rows(part, r);
    size_t row = (size_t)part_width(part, r) * part_size(part);
    char *x = mem_grow(NULL, row, 1), *y = mem_grow(NULL, row, 1);
    int rc = 0;
    for (int64_t i = 0; i < rows && rc == 0 && !*name; i++) {
        rc = store_part(&p->a, k, r, part, i, 1, x);
        if (rc == 0)
            rc = store_part(&p->b, k, r, part, i, 1, y);
        if (rc == 0 && memcmp(x, y, row) != 0)
            *name = part_name(part);
    }
    free(x);
    free(y);
    return rc;
}

static int record_difference(struct pair *p, int64_t k, const struct record *x, const struct record *y)
{
    bool good_x, good_y;
    if (x->unit_hi != y->unit_hi || x->unit_lo != y->unit_lo) {
        bool first = x->unit_hi < y->unit_hi || (x->unit_hi == y->unit_hi && x->unit_lo < y->unit_lo);
        str_printf(p->out, "unit %016" PRIx64 "%016" PRIx64 " is only in the %s file",
                   first ? x->unit_hi : y->unit_hi, first ? x->unit_lo : y->unit_lo,
                   first ? "first" : "second");
        return 0;
    }
    const char *name = scalar_difference(p, x, y);
    if (!name)
        name = value_difference(x, y);
    TRY(store_check(&p->a, k, &good_x));
    TRY(store_check(&p->b, k, &good_y));
    if (!name && good_x != good_y)
        name = "damage of the logits";
    for (int i = 0; i < PART_N && !name && good_x; i++)
        TRY(part_difference(p, k, x, (enum part)i, &name));
    if (name) {
        const struct sink_setting *s = &p->a.book.setting[x->setting];
        str_printf(p->out,
                   "%s differs in unit %016" PRIx64 "%016" PRIx64 " (setting %s, task %s, example %d)", name,
                   x->unit_hi, x->unit_lo, s->id, p->a.book.task[x->task].id, x->example);
    }
    return 0;
}

static int compare_books(struct pair *p)
{
    struct book *a = &p->a.book, *b = &p->b.book;
    int n_setting = a->n_setting, n_task = a->n_task;
    int64_t n_example = a->n_example, n_unit = store_units(&p->a);
    if (strcmp(a->run.mode, b->run.mode) != 0)
        str_printf(p->out, "mode is %s in the first file and %s in the second", a->run.mode, b->run.mode);
    else if (n_unit != store_units(&p->b))
        str_printf(p->out, "the grid has %lld units in the first file and %lld in the second",
                   (long long)n_unit, (long long)store_units(&p->b));
    TRY(book_join(a, b, &p->setting_map, &p->task_map));
    if (p->out->n)
        return 0;
    if (a->n_setting != n_setting || n_setting != b->n_setting)
        str_printf(p->out, "settings differ (%d and %d rows%s%s)", n_setting, b->n_setting,
                   a->n_setting > n_setting ? ", only in the second: " : "",
                   a->n_setting > n_setting ? a->setting[n_setting].id : "");
    else if (a->n_task != n_task || n_task != b->n_task)
        str_printf(p->out, "tasks differ (%d and %d rows%s%s)", n_task, b->n_task,
                   a->n_task > n_task ? ", only in the second: " : "",
                   a->n_task > n_task ? a->task[n_task].id : "");
    else if (a->n_example != n_example || n_example != b->n_example)
        str_printf(p->out, "examples differ (%lld and %lld rows)", (long long)n_example,
                   (long long)b->n_example);
    return 0;
}

static int compare_records(struct pair *p)
{
    store_sort(&p->a);
    store_sort(&p->b);
    int64_t n = p->a.n < p->b.n ? p->a.n : p->b.n;
    for (int64_t k = 0; k < n && !p->out->n; k++) {
        struct record x = {0}, y = {0};
        int rc = store_read(&p->a, k, &x);
        if (rc == 0)
            rc = store_read(&p->b, k, &y);
        if (rc == 0)
            rc = record_difference(p, k, &x, &y);
        record_free(&x);
        record_free(&y);
        TRY(rc);
    }
    if (!p->out->n && p->a.n != p->b.n)
        str_printf(p->out, "the first file has %lld records, the second %lld", (long long)p->a.n,
                   (long long)p->b.n);
    return 0;
}

static int load(struct store *s, const char *path)
{
    struct store_found found;
    store_init(s, NULL);
    TRY(store_load(s, path, NULL, &found));
    return s->book.created ? 0 : err_set(ERR_INPUT, "there are no results at %s", path);
}

int equal_files(const char *a, const char *b, struct str *difference)
{
    struct pair p = {.out = difference};
    int rc;
    TRY_GOTO(load(&p.a, a), done);
    TRY_GOTO(load(&p.b, b), done);
    TRY_GOTO(compare_books(&p), done);
    if (!difference->n)
        TRY_GOTO(compare_records(&p), done);
done:
    free(p.setting_map);
    free(p.task_map);
    store_close(&p.a);
    store_close(&p.b);
    return rc;
}
