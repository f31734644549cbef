#include "task/score_file.h"

#include "base/err.h"
#include "base/mem.h"
#include "task/metric.h"
#include "task/row.h"
#include "task/score.h"

#include <stdlib.h>
#include <string.h>

struct line {
    struct utext pred, *gold; /* gold[n_gold] */
    int n_gold;
};

/* All lines, because the classes of the last one score them all. */
struct predictions {
    struct line *lines; /* [n] */
    int n, cap;
    struct utext *classes; /* [n_classes] of the last line */
    int n_classes;
};

static void texts_free(struct utext *texts, int n)
{
    for (int i = 0; i < n; i++)
        utext_free(&texts[i]);
    free(texts);
}

static void predictions_free(struct predictions *p)
{
    for (int i = 0; i < p->n; i++) {
        utext_free(&p->lines[i].pred);
        texts_free(p->lines[i].gold, p->lines[i].n_gold);
    }
    free(p->lines);
    texts_free(p->classes, p->n_classes);
}

static void decode(struct utext *u, const json_t *string)
{
    utext_init(u, json_string_value(string), json_string_length(string));
}

static int decode_list(const struct rows *r, const json_t *object, const char *key, struct utext **texts,
                       int *n)
{
    const json_t *v = json_object_get(object, key);
    if (!json_is_array(v) || json_array_size(v) > INT32_MAX)
        return row_wrong(r, v, key, "a list of strings");
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_string(json_array_get(v, i)))
            return row_wrong(r, v, key, "a list of strings");
    *n = (int)json_array_size(v);
    *texts = mem_alloc((size_t)*n + 1, sizeof **texts);
    for (int i = 0; i < *n; i++)
        decode(&(*texts)[i], json_array_get(v, (size_t)i));
    return 0;
}

static int check_gold(const struct rows *r, const struct task_type *type, const struct line *l)
{
    struct uspan id;
    bool retrieval = strcmp(type->traits.metric, "retrieval") == 0, key = type->traits.kind == TASK_PASSKEY;
    for (int i = 0; i < l->n_gold; i++) {
        if (retrieval && !metric_retrieval_id(utext_span(&l->gold[i]), &id))
            return err_set(ERR_INPUT, "%s:%d: an answer does not name a paragraph (\"Paragraph N\")", r->path,
                           r->line);
        if (key && l->gold[i].n == 0)
            return err_set(ERR_INPUT, "%s:%d: an answer is empty", r->path, r->line);
    }
    return 0;
}

static int add_line(const struct rows *r, const struct task_type *type, const json_t *object,
                    struct predictions *p)
{
    const json_t *pred = json_object_get(object, "pred");
    if (!json_is_string(pred))
        return row_wrong(r, pred, "pred", "a string");
    struct line *l = MEM_PUSH(p->lines, p->n, p->cap);
    *l = (struct line){0};
    decode(&l->pred, pred);
    TRY(decode_list(r, object, "answers", &l->gold, &l->n_gold));
    if (strcmp(type->traits.metric, "classification") == 0) {
        texts_free(p->classes, p->n_classes);
        p->classes = NULL;
        p->n_classes = 0;
        TRY(decode_list(r, object, "all_classes", &p->classes, &p->n_classes));
    }
    return check_gold(r, type, l);
}

static int read_lines(const char *path, const struct task_type *type, struct predictions *p)
{
    struct rows r;
    TRY(rows_open(&r, path));
    json_t *object = NULL;
    int rc = 0;
    while ((rc = rows_next(&r, &object)) > 0) {
        rc = add_line(&r, type, object, p);
        json_decref(object);
        if (rc < 0)
            break;
    }
    if (rc == 0 && p->n == 0)
        rc = err_set(ERR_INPUT, "%s holds no predictions", path);
    rows_close(&r);
    return rc;
}

static void score_all(struct file_scores *s, const struct task_type *type, const struct predictions *p)
{
    double sum = 0;
    s->n = p->n;
    s->per_sample = mem_alloc((size_t)p->n, sizeof *s->per_sample);
    for (int i = 0; i < p->n; i++) {
        const struct line *l = &p->lines[i];
        struct score_truth truth = {l->gold, l->n_gold, p->classes, p->n_classes};
        struct score_extra extra[4];
        s->n_further = score_answer(&type->traits, utext_span(&l->pred), &truth, &s->per_sample[i], extra);
        sum += s->per_sample[i];
        for (int k = 0; k < s->n_further; k++)
            s->further[k] = (struct score_extra){extra[k].name, s->further[k].value + extra[k].value};
    }
    s->score_raw = sum / p->n;
    s->score = score_round2(100 * sum / p->n);
    for (int k = 0; k < s->n_further; k++)
        s->further[k].value /= p->n;
}

int score_file(struct file_scores *s, const struct task_type *type, const char *path)
{
    struct predictions p = {0};
    *s = (struct file_scores){0};
    int rc = read_lines(path, type, &p);
    if (rc == 0)
        score_all(s, type, &p);
    predictions_free(&p);
    return rc;
}

void file_scores_free(struct file_scores *s)
{
    free(s->per_sample);
    *s = (struct file_scores){0};
}

static void add_double(struct str *out, double v)
{
    char text[32];
    str_double(text, v);
    str_add(out, text);
}

void file_scores_json(const struct file_scores *s, const struct task_type *type, struct str *out)
{
    str_printf(out, "{\"task\": \"%s\", \"n\": %d, \"score\": ", type->name, s->n);
    add_double(out, s->score);
    str_add(out, ", \"score_raw\": ");
    add_double(out, s->score_raw);
    for (int i = 0; i < s->n_further; i++) {
        str_printf(out, ", \"%s\": ", s->further[i].name);
        add_double(out, s->further[i].value);
    }
    str_add(out, ", \"per_sample\": [");
    for (int i = 0; i < s->n; i++) {
        str_add(out, i > 0 ? ", " : "");
        add_double(out, s->per_sample[i]);
    }
    str_add(out, "]}\n");
}

void file_scores_text(const struct file_scores *s, const struct task_type *type, struct str *out)
{
    str_printf(out, "%s: %s %.2f (n = %d)\n", type->name, type->traits.metric, s->score, s->n);
    for (int i = 0; i < s->n_further; i++)
        str_printf(out, "  %s %.4f\n", s->further[i].name, s->further[i].value);
}
