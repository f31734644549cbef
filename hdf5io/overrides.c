/* Which rows of /settings have the same units on a task. A rule of the configuration may change one task
 * alone, so two rows that differ in their rules share the units of all others: a unit belongs to every row
 * that comes to the same values there, whichever row its record names. */
#include "hdf5io/book.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* The name that rules know a task by: its id, or where the configuration renamed it the type, which its
 * parameters begin with then ("task=passkey,…"). Owned. */
static char *rule_name(const struct sink_task *t)
{
    static const char key[] = "task=";
    const size_t n = sizeof key - 1;
    if (strncmp(t->params, key, n) != 0)
        return mem_strdup(t->id);
    return mem_strndup(t->params + n, strcspn(t->params + n, ","));
}

/* "key=value" parts of a method's values. */
struct values {
    char **part;
    int n, cap;
};

static void values_free(struct values *v)
{
    for (int i = 0; i < v->n; i++)
        free(v->part[i]);
    free(v->part);
}

/* Puts a part in place of the one with its key, or behind all. */
static void put(struct values *v, const char *part, size_t n)
{
    const size_t key = strcspn(part, "=") + 1;
    for (int i = 0; i < v->n; i++) {
        if (key > n || strncmp(v->part[i], part, key) != 0)
            continue;
        free(v->part[i]);
        v->part[i] = mem_strndup(part, n);
        return;
    }
    *MEM_PUSH(v->part, v->n, v->cap) = mem_strndup(part, n);
}

static void put_list(struct values *v, const char *list, size_t n)
{
    for (const char *p = list, *end = list + n; p < end;) {
        size_t m = strcspn(p, ",");
        m = m < (size_t)(end - p) ? m : (size_t)(end - p);
        if (m)
            put(v, p, m);
        p += m + 1;
    }
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* "PATTERN:key=value,…;PATTERN:…": the values of the rules that match the task. */
static void put_rules(struct values *v, const char *rules, const char *task)
{
    for (const char *p = rules; *p;) {
        const size_t n = strcspn(p, ";"), m = strcspn(p, ":;");
        char *pattern = mem_strndup(p, m);
        if (m < n && str_match(pattern, task))
            put_list(v, p + m + 1, n - m - 1);
        free(pattern);
        p += n + (p[n] == ';');
    }
}

/* What a setting comes to on a task. What stands behind a prompt method's values (which encoder it is) stays.
 */
static void values_text(const struct sink_setting *s, const struct sink_task *t, struct str *out)
{
    struct values v = {0};
    const char *more = *s->prompt_method ? strchr(s->params, ';') : NULL;
    char *task = rule_name(t);
    put_list(&v, s->params, more ? (size_t)(more - s->params) : strlen(s->params));
    put_rules(&v, s->overrides, task);
    if (v.n)
        qsort(v.part, (size_t)v.n, sizeof *v.part, by_text);
    str_printf(out, "%s\n%s\n", s->prompt_method, s->method);
    for (int i = 0; i < v.n; i++)
        str_printf(out, "%s\n", v.part[i]);
    str_add(out, more ? more : "");
    free(task);
    values_free(&v);
}

static bool same_units(const struct sink_setting *a, const char *of_a, const struct sink_setting *b,
                       const char *of_b)
{
    return !strcmp(of_a, of_b) && book_same_base(a, b);
}

bool book_same_units(const struct sink_setting *a, const struct sink_setting *b, const struct sink_task *t)
{
    struct str x = {0}, y = {0};
    values_text(a, t, &x);
    values_text(b, t, &y);
    const bool same = same_units(a, str_c(&x), b, str_c(&y));
    str_free(&x);
    str_free(&y);
    return same;
}

int *book_alike(const struct sink_setting *s, int n_setting, const struct sink_task *t, int n_task)
{
    int *like = mem_alloc((size_t)n_setting * (size_t)n_task + 1, sizeof *like);
    struct str *text = mem_alloc((size_t)n_setting + 1, sizeof *text);
    for (int k = 0; k < n_task; k++) {
        int *row = like + (size_t)k * (size_t)n_setting;
        for (int i = 0; i < n_setting; i++) {
            values_text(&s[i], &t[k], &text[i]);
            row[i] = 0;
            while (row[i] < i && !same_units(&s[row[i]], str_c(&text[row[i]]), &s[i], str_c(&text[i])))
                row[i]++;
        }
        for (int i = 0; i < n_setting; i++)
            str_free(&text[i]);
    }
    free(text);
    return like;
}
