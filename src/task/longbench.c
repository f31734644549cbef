/* The 16 LongBench datasets from their public jsonl files (spec 2.1, 2.2). */
#include "base/err.h"
#include "base/mem.h"
#include "task/metric.h"
#include "task/row.h"
#include "task/score.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define AT(member) offsetof(struct longbench_params, member)
const struct param longbench_param_table[] = {
    {"data", PARAM_TEXT, AT(data), 0, 0, 0, NULL, "",
     "path of the dataset's jsonl file, as LongBench publishes it"},
    {"limit", PARAM_INT, AT(limit), 0, 0, 1000000000, NULL, NULL, "use the first rows only; 0: all"},
    {"max_new", PARAM_INT, AT(max_new), 0, 0, 1000000, NULL, NULL,
     "tokens to generate at most; 0: the dataset's own figure"},
    {0},
};

static const char *find_template(const char *name)
{
    static const struct {
        const char *name, *text;
    } table[] = {
#define LONGBENCH(name_, n_, metric_, category_, max_new_, chat_, newline_, first_line_, template_)          \
    {"longbench/" name_, template_},
#include "task/longbench.def"
#undef LONGBENCH
    };
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strcmp(table[i].name, name) == 0)
            return table[i].text;
    return NULL;
}

/* text[0..n) with the first "{input}" replaced. */
static const char *substitute(struct task *t, const char *text, size_t n, const char *input)
{
    static const char slot[] = "{input}";
    char *piece = mem_strndup(text, n), *at = strstr(piece, slot);
    struct str s = {0};
    if (at) {
        str_addn(&s, piece, (size_t)(at - piece));
        str_add(&s, input);
        str_add(&s, at + sizeof slot - 1);
        free(piece);
        piece = s.data;
    }
    return task_own(t, piece);
}

/* LongBench rows name their dataset: the wrong file under the right path is refused. */
static int check_dataset(const struct rows *r, const struct task *t, const json_t *object)
{
    const char *want = strchr(t->type->name, '/') + 1,
               *have = json_string_value(json_object_get(object, "dataset"));
    if (have && strcmp(have, want) != 0)
        return err_set(ERR_INPUT, "%s:%d: row of dataset '%s', but the task is %s", r->path, r->line, have,
                       t->type->name);
    return 0;
}

static int check_gold(const struct rows *r, const struct task *t, const struct example *e)
{
    if (strcmp(t->traits.metric, "retrieval") != 0)
        return 0;
    for (int i = 0; i < e->n_gold; i++) {
        struct utext truth;
        struct uspan id;
        utext_init(&truth, e->gold[i], strlen(e->gold[i]));
        bool ok = metric_retrieval_id(utext_span(&truth), &id);
        utext_free(&truth);
        if (!ok)
            return err_set(ERR_INPUT, "%s:%d: answer '%.100s' does not name a paragraph (\"Paragraph N\")",
                           r->path, r->line, e->gold[i]);
    }
    return 0;
}

static int add_row(struct rows *r, struct task *t, const json_t *object)
{
    struct example e = {.length = (double)NAN, .depth = (double)NAN, .iteration = -1};
    const char *input = NULL, *text = find_template(t->type->name), *context = strstr(text, "{context}");
    bool trec = strcmp(t->traits.metric, "classification") == 0;
    TRY(check_dataset(r, t, object));
    TRY(row_text(r, t, object, "_id", &e.id));
    TRY(row_text(r, t, object, "input", &input));
    TRY(row_text(r, t, object, "context", &e.context));
    TRY(row_texts(r, t, object, "answers", true, &e.gold, &e.n_gold));
    TRY(row_int(r, object, "length", &e.n_words));
    if (trec)
        TRY(row_texts(r, t, object, "all_classes", true, &e.classes, &e.n_classes));
    TRY(check_gold(r, t, &e));
    e.before = substitute(t, text, (size_t)(context - text), input);
    context += strlen("{context}");
    e.after = substitute(t, context, strlen(context), input);
    *MEM_PUSH(t->examples, t->n, t->cap) = e;
    return 0;
}

static int compare_ids(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Results are stored under the row's id, so it must be the only one. */
static int check_ids(const struct rows *r, const struct task *t)
{
    const char **ids = mem_alloc((size_t)t->n + 1, sizeof *ids);
    int rc = 0;
    for (int i = 0; i < t->n; i++)
        ids[i] = t->examples[i].id;
    qsort(ids, (size_t)t->n, sizeof *ids, compare_ids);
    for (int i = 1; i < t->n && rc == 0; i++)
        if (strcmp(ids[i - 1], ids[i]) == 0)
            rc = err_set(ERR_INPUT, "%s: two rows have the _id '%.100s'", r->path, ids[i]);
    free(ids);
    return rc;
}

static int read_rows(struct rows *r, struct task *t, int64_t limit)
{
    json_t *object = NULL;
    int more = 0;
    while ((limit == 0 || t->n < limit) && (more = rows_next(r, &object)) > 0) {
        int rc = add_row(r, t, object);
        json_decref(object);
        TRY(rc);
    }
    TRY(more);
    if (t->n == 0)
        return err_set(ERR_INPUT, "%s holds no rows", r->path);
    return check_ids(r, t);
}

int longbench_open(struct task *t, const struct longbench_params *p)
{
    if (!p->data || !*p->data)
        return err_set(ERR_INPUT,
                       "task %s: no data; set data to the path of %s.jsonl from LongBench's data.zip",
                       t->type->name, strchr(t->type->name, '/') + 1);
    if (p->max_new > 0)
        t->traits.max_new = (int)p->max_new;
    struct rows r;
    TRY(rows_open(&r, p->data));
    file_sha256(r.map.data, r.map.bytes, t->sha256);
    int rc = read_rows(&r, t, p->limit);
    rows_close(&r);
    return rc;
}
