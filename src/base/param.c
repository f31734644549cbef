#include "base/param.h"

#include "base/err.h"
#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *member(const struct param *p, void *dst)
{
    return (char *)dst + p->offset;
}

static const void *cmember(const struct param *p, const void *src)
{
    return (const char *)src + p->offset;
}

void param_defaults(const struct param *table, void *dst)
{
    for (const struct param *p = table; p && p->name; p++) {
        if (p->type == PARAM_REAL)
            *(double *)member(p, dst) = p->def;
        else if (p->type == PARAM_TEXT)
            *(char **)member(p, dst) = mem_strdup(p->def_text ? p->def_text : "");
        else
            *(int64_t *)member(p, dst) = (int64_t)p->def;
    }
}

/* Index of `value` in "a|b|c", or -1. */
static int choice_index(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (int i = 0; choices; i++) {
        const char *bar = strchr(choices, '|');
        size_t m = bar ? (size_t)(bar - choices) : strlen(choices);
        if (m == n && !memcmp(choices, value, n))
            return i;
        choices = bar ? bar + 1 : NULL;
    }
    return -1;
}

static int set_number(const struct param *p, void *dst, const char *value, const char *where)
{
    double v = 0;
    int64_t iv = 0;
    const bool whole = p->type == PARAM_INT;
    bool ok = whole ? str_to_int(value, &iv) : str_to_double(value, &v);
    if (whole)
        v = (double)iv;
    if (whole && p->choices && choice_index(p->choices, value) < 0)
        return err_set(ERR_INPUT, "%s: %s=%s is not allowed; use one of %s", where, p->name, value,
                       p->choices);
    if (!ok || v < p->min || v > p->max) {
        char lo[32], hi[32];
        str_double(lo, p->min);
        str_double(hi, p->max);
        if (whole) /* as it would have to be written: not 1e+15 */
            snprintf(hi, sizeof hi, "%.0f", p->max);
        return err_set(ERR_INPUT, "%s: %s=%s is not allowed; use %s from %s to %s", where, p->name, value,
                       whole ? "a whole number" : "a number", lo, hi);
    }
    if (whole)
        *(int64_t *)member(p, dst) = iv;
    else
        *(double *)member(p, dst) = v;
    return 0;
}

static int unknown_key(const struct param *table, const char *key, const char *where)
{
    const char *names[64];
    struct str all = {0};
    int n = 0;
    for (const struct param *p = table; p && p->name && n < 63; p++) {
        names[n++] = p->name;
        str_printf(&all, "%s%s", all.n ? ", " : "", p->name);
    }
    names[n] = NULL;
    const char *near = str_nearest(key, names);
    int rc = near ? err_set(ERR_INPUT, "%s: unknown parameter '%s'; did you mean '%s'? (known: %s)", where,
                            key, near, str_c(&all))
                  : err_set(ERR_INPUT, "%s: unknown parameter '%s'; known: %s", where, key,
                            n ? str_c(&all) : "none");
    str_free(&all);
    return rc;
}

int param_set(const struct param *table, void *dst, const char *key, const char *value, const char *where)
{
    const struct param *p = table;
    while (p && p->name && strcmp(p->name, key))
        p++;
    if (!p || !p->name)
        return unknown_key(table, key, where);
    if (p->type == PARAM_TEXT) {
        char **text = member(p, dst);
        free(*text);
        *text = mem_strdup(value);
        return 0;
    }
    if (p->type != PARAM_CHOICE)
        return set_number(p, dst, value, where);
    int i = choice_index(p->choices, value);
    if (i < 0)
        return err_set(ERR_INPUT, "%s: %s=%s is not allowed; use one of %s", where, p->name, value,
                       p->choices);
    *(int64_t *)member(p, dst) = i;
    return 0;
}

/* The next item of "k=v,k=v". */
static const char *next_item(const char *item)
{
    item += strcspn(item, ",");
    return item + (*item == ',');
}

int param_once(const char *text, const char *where)
{
    for (const char *a = text; *a; a = next_item(a)) {
        int n = (int)strcspn(a, "=,");
        for (const char *b = next_item(a); a[n] == '=' && *b; b = next_item(b)) {
            if (strncmp(a, b, (size_t)n + 1))
                continue;
            const char *va = a + n + 1, *vb = b + n + 1;
            return err_set(ERR_INPUT, "%s: %.*s is given twice, %.*s and %.*s; leave one of them out", where,
                           n, a, (int)strcspn(va, ","), va, (int)strcspn(vb, ","), vb);
        }
    }
    return 0;
}

int param_parse(const struct param *table, void *dst, const char *text, const char *where)
{
    if (!text || !*text)
        return 0;
    TRY(param_once(text, where));
    char *copy = mem_strdup(text);
    int rc = 0;
    char *save = NULL;
    for (char *item = strtok_r(copy, ",", &save); item && rc == 0; item = strtok_r(NULL, ",", &save)) {
        char *eq = strchr(item, '=');
        if (!eq) {
            rc = err_set(ERR_INPUT, "%s: '%s' is not key=value", where, item);
            break;
        }
        *eq = 0;
        rc = param_set(table, dst, item, eq + 1, where);
    }
    free(copy);
    return rc;
}

/* `brief`: of a path only the last part. */
static void add_value(const struct param *p, const void *src, struct str *out, bool brief)
{
    const void *m = cmember(p, src);
    if (p->type == PARAM_REAL) {
        char buf[32];
        str_double(buf, *(const double *)m);
        str_add(out, buf);
    } else if (p->type == PARAM_TEXT) {
        const char *text = *(char *const *)m, *slash = brief ? strrchr(text, '/') : NULL;
        str_add(out, slash && slash[1] ? slash + 1 : text);
    } else if (p->type == PARAM_INT) {
        str_printf(out, "%lld", (long long)*(const int64_t *)m);
    } else {
        const char *c = p->choices;
        for (int64_t i = *(const int64_t *)m; i > 0; i--)
            c = strchr(c, '|') + 1;
        str_addn(out, c, strcspn(c, "|"));
    }
}

static bool is_default(const struct param *p, const void *src)
{
    const void *m = cmember(p, src);
    if (p->type == PARAM_REAL)
        return *(const double *)m == p->def;
    if (p->type == PARAM_TEXT)
        return !strcmp(*(char *const *)m, p->def_text ? p->def_text : "");
    return *(const int64_t *)m == (int64_t)p->def;
}

static void text_of(const struct param *table, const void *src, struct str *out, bool all)
{
    bool first = true;
    for (const struct param *p = table; p && p->name; p++) {
        if (!all && is_default(p, src))
            continue;
        str_printf(out, "%s%s=", first ? "" : ",", p->name);
        add_value(p, src, out, !all);
        first = false;
    }
}

void param_text(const struct param *table, const void *src, struct str *out)
{
    text_of(table, src, out, true);
}

void param_text_short(const struct param *table, const void *src, struct str *out)
{
    text_of(table, src, out, false);
}

void param_free(const struct param *table, void *dst)
{
    for (const struct param *p = table; p && p->name; p++) {
        if (p->type == PARAM_TEXT) {
            char **text = member(p, dst);
            free(*text);
            *text = NULL;
        }
    }
}

void param_copy(const struct param *table, void *dst, const void *src, size_t bytes)
{
    if (bytes)
        memcpy(dst, src, bytes);
    for (const struct param *p = table; p && p->name; p++) {
        if (p->type == PARAM_TEXT) {
            char **text = member(p, dst);
            *text = *text ? mem_strdup(*text) : NULL;
        }
    }
}
