/* The registry of methods and the text form of a method with its parameters. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KV_METHOD(name) extern const struct kv_method kv_method_##name;
#include "kv/methods.def"
#undef KV_METHOD

#define KV_METHOD(name) &kv_method_##name,
static const struct kv_method *const methods[] = {
#include "kv/methods.def"
};
#undef KV_METHOD

enum { N_METHODS = sizeof methods / sizeof methods[0] };

const struct kv_method *kv_method_at(int i)
{
    return i >= 0 && i < N_METHODS ? methods[i] : NULL;
}

const struct kv_method *kv_method_find(const char *name)
{
    for (int i = 0; i < N_METHODS; i++)
        if (!strcmp(methods[i]->name, name))
            return methods[i];
    return NULL;
}

const char *kv_method_name(const struct kv_method *m)
{
    return m->name;
}

struct kv_info kv_method_info(const struct kv_method *m)
{
    return (struct kv_info){.name = m->name,
                            .source = m->source,
                            .summary = m->summary,
                            .params = m->params,
                            .params_bytes = m->params_bytes,
                            .ratio = m->from_ratio != NULL,
                            .layers = kv_acts(m),
                            .windows = m->windows};
}

bool kv_spec_plain(const struct kv_spec *s)
{
    return !kv_acts(s->method);
}

int kv_spec_check(const struct kv_spec *s, const struct seq_shape *shape)
{
    if (kv_spec_plain(s))
        return 0;
    TRY(kv_layers_check(s, shape));
    for (int32_t i = 0; s->method->check && i < shape->n_layer; i++)
        if (kv_spec_acts(s, shape, i))
            TRY(s->method->check(s->params, shape_kind(shape, i)));
    return 0;
}

static int unknown_method(const char *name)
{
    const char *names[N_METHODS + 1];
    struct str all = {0};
    for (int i = 0; i < N_METHODS; i++) {
        names[i] = methods[i]->name;
        str_printf(&all, "%s%s", i ? ", " : "", names[i]);
    }
    names[N_METHODS] = NULL;
    const char *near = str_nearest(name, names);
    int rc = near ? err_set(ERR_INPUT, "unknown method '%s'; did you mean '%s'? (known: %s)", name, near,
                            str_c(&all))
                  : err_set(ERR_INPUT, "unknown method '%s'; known: %s", name, str_c(&all));
    str_free(&all);
    return rc;
}

static int set_ratio(const struct kv_spec *s, const char *value, const char *where)
{
    double ratio;
    if (!s->method->from_ratio)
        return err_set(ERR_INPUT, "%s: it has no 'ratio'; use its own parameters", where);
    if (!str_to_double(value, &ratio) || ratio < 1 || ratio > KV_RATIO_MAX)
        return err_set(ERR_INPUT, "%s: ratio=%s is not allowed; use a number from 1 to %g", where, value,
                       KV_RATIO_MAX);
    return s->method->from_ratio(s->params, ratio);
}

/* Texts of one parameter of a method, e.g. "keep=0.5". */
static char *param_one(const struct param *p, const void *params)
{
    const struct param one[2] = {*p, {0}};
    struct str s = {0};
    param_text(one, params, &s);
    return s.n ? s.data : mem_strdup("");
}

static int at_ratio(const struct kv_method *m, void *params, double ratio)
{
    return m->from_ratio(params, ratio);
}

/* Which parameters a budget or a ratio decides: those that differ between a mild and a strong one. Bit i
 * stands for row i of the table. */
static int decided(const struct kv_method *m, int (*choose)(const struct kv_method *, void *, double),
                   double mild, double hard, uint64_t *mask)
{
    void *weak = mem_alloc(1, m->params_bytes), *strong = mem_alloc(1, m->params_bytes);
    param_defaults(m->params, weak);
    param_defaults(m->params, strong);
    int rc = choose(m, weak, mild);
    if (rc == 0)
        rc = choose(m, strong, hard);
    *mask = 0;
    for (int i = 0; rc == 0 && i < 64 && m->params[i].name; i++) {
        char *a = param_one(&m->params[i], weak), *b = param_one(&m->params[i], strong);
        *mask |= (uint64_t)(strcmp(a, b) != 0) << i;
        free(a);
        free(b);
    }
    param_free(m->params, weak);
    param_free(m->params, strong);
    free(weak);
    free(strong);
    return rc;
}

static int solved_params(const struct kv_method *m, uint64_t *mask)
{
    return decided(m, kv_at_strength, 0, 0.75, mask);
}

/* Refuses what `rest` says of parameters that `by` has decided. */
static int refuse_decided(const struct kv_method *m, uint64_t mask, const char *rest, const char *by,
                          const char *where)
{
    for (int i = 0; i < 64 && m->params[i].name; i++) {
        const char *name = m->params[i].name;
        size_t n = strlen(name);
        for (const char *at = rest; mask >> i & 1 && *at; at += strcspn(at, ","), at += *at == ',')
            if (!strncmp(at, name, n) && at[n] == '=')
                return err_set(ERR_INPUT, "%s: %s is chosen by the %s; leave one of them out", where, name,
                               by);
    }
    return 0;
}

/* A budget leaves no room for a strength of one's own. */
static int set_budget(struct kv_spec *s, const char *value, const char *rest, bool ratio, const char *where)
{
    uint64_t mask;
    if (!kv_has_strength(s->method))
        return err_set(ERR_INPUT, "%s: it has no 'budget': nothing in it could be chosen to fit", where);
    if (!str_to_bytes(value, &s->budget) || !s->budget)
        return err_set(ERR_INPUT, "%s: budget=%s is not allowed; use bytes of one sequence, e.g. 256MiB",
                       where, value);
    if (ratio)
        return err_set(ERR_INPUT, "%s: budget and ratio exclude each other", where);
    TRY(solved_params(s->method, &mask));
    return refuse_decided(s->method, mask, rest, "budget", where);
}

static double nominal(const struct kv_spec *s)
{
    return s->method->nominal_ratio ? s->method->nominal_ratio(s->params) : 1;
}

/* Nor does a ratio: a setting would be reported under a strength that it does not have. `was`: the nominal
 * ratio before the rest was read, which may overrule it with sizes. */
static int check_ratio(const struct kv_spec *s, const char *rest, double was, const char *where)
{
    uint64_t mask;
    TRY(decided(s->method, at_ratio, 2, 4, &mask));
    TRY(refuse_decided(s->method, mask, rest, "ratio", where));
    if (nominal(s) != was)
        return err_set(ERR_INPUT, "%s: ratio and %s both choose the strength; leave one of them out", where,
                       rest);
    return 0;
}

/* "ratio=N" goes first, whatever its place in the list, so that other keys refine what it chose. */
static int set_params(struct kv_spec *s, const char *text, const char *where)
{
    struct str rest = {0};
    char *copy = mem_strdup(text), *save = NULL;
    const char *budget = NULL;
    bool ratio = false;
    double was = 1;
    int rc = param_once(text, where);
    for (char *item = strtok_r(copy, ",", &save); item && rc == 0; item = strtok_r(NULL, ",", &save)) {
        if (!strncmp(item, "ratio=", 6)) {
            rc = set_ratio(s, item + 6, where);
            was = nominal(s);
            ratio = true;
        } else if (!strncmp(item, "budget=", 7)) {
            budget = item + 7;
        } else if (kv_spec_shared_key(item)) {
            rc = kv_layers_set(s, item, where);
        } else {
            str_printf(&rest, "%s%s", rest.n ? "," : "", item);
        }
    }
    if (rc == 0)
        rc = param_parse(s->method->params, s->params, str_c(&rest), where);
    if (rc == 0 && budget)
        rc = set_budget(s, budget, str_c(&rest), ratio, where);
    if (rc == 0 && ratio)
        rc = check_ratio(s, str_c(&rest), was, where);
    free(copy);
    str_free(&rest);
    return rc;
}

/* In the largest unit that leaves no rest. */
static void add_budget(struct str *out, uint64_t bytes)
{
    static const char *const unit[] = {"", "KiB", "MiB", "GiB", "TiB"};
    int u = 0;
    for (; u < 4 && bytes % 1024 == 0; u++)
        bytes /= 1024;
    str_printf(out, "%sbudget=%llu%s", out->n ? "," : "", (unsigned long long)bytes, unit[u]);
}

bool kv_spec_shared_key(const char *item)
{
    static const char *const keys[] = {"ratio=", "budget=", "skip_layers=", "window_layers="};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (!strncmp(item, keys[i], strlen(keys[i])))
            return true;
    return false;
}

/* Parameters that a budget decides are not part of the text. */
static void budget_texts(const struct kv_spec *s, struct str *full, struct str *brief)
{
    const struct param *table = s->method->params;
    uint64_t mask = 0;
    (void)solved_params(s->method, &mask); /* worked when the budget was read */
    for (int i = 0; i < 64 && table[i].name; i++) {
        const struct param one[2] = {table[i], {0}};
        struct str text = {0}, differs = {0};
        if (mask >> i & 1)
            continue;
        param_text(one, s->params, &text);
        param_text_short(one, s->params, &differs);
        str_printf(full, "%s%s", full->n ? "," : "", str_c(&text));
        if (differs.n)
            str_printf(brief, "%s%s", brief->n ? "," : "", str_c(&differs));
        str_free(&text);
        str_free(&differs);
    }
    add_budget(full, s->budget);
    add_budget(brief, s->budget);
}

/* The label shows what differs from the defaults; with nothing to show, the first parameter (the strength).
 */
static void set_texts(struct kv_spec *s)
{
    const struct param *table = s->method->params;
    struct str full = {0}, brief = {0};
    if (s->budget) {
        budget_texts(s, &full, &brief);
    } else {
        param_text(table, s->params, &full);
        param_text_short(table, s->params, &brief);
        if (!brief.n && full.n)
            str_addn(&brief, full.data, strcspn(full.data, ","));
    }
    kv_layers_text(&s->layers, &full);
    kv_layers_text(&s->layers, &brief);
    s->text = full.n ? mem_printf("%s:%s", s->method->name, str_c(&full)) : mem_strdup(s->method->name);
    s->label = brief.n ? mem_printf("%s:%s", s->method->name, str_c(&brief)) : mem_strdup(s->method->name);
    str_free(&full);
    str_free(&brief);
}

int kv_spec_parse(struct kv_spec *s, const char *text)
{
    *s = (struct kv_spec){0};
    size_t n = strcspn(text, ":");
    char *name = mem_strndup(text, n);
    s->method = kv_method_find(name);
    int rc = s->method ? 0 : unknown_method(name);
    free(name);
    TRY(rc);
    char *where = mem_printf("method %s", s->method->name);
    if (s->method->params_bytes)
        s->params = mem_alloc(1, s->method->params_bytes);
    param_defaults(s->method->params, s->params);
    if (text[n] == ':')
        rc = text[n + 1] ? set_params(s, text + n + 1, where)
                         : err_set(ERR_INPUT, "%s: no parameter stands behind ':'", where);
    if (rc == 0 && s->method->check)
        rc = s->method->check(s->params, NULL);
    free(where);
    if (rc < 0) {
        kv_spec_free(s);
        return rc;
    }
    s->nominal_ratio = s->budget ? NAN : nominal(s);
    set_texts(s);
    return 0;
}

int kv_spec_set(struct kv_spec *s, const char *key, const char *value)
{
    char *label = s->label;
    TRY(param_set(s->method->params, s->params, key, value, s->method->name));
    free(s->text);
    set_texts(s);
    free(s->label);
    s->label = label;
    s->nominal_ratio = s->budget ? NAN : nominal(s);
    return 0;
}

void kv_spec_free(struct kv_spec *s)
{
    if (s->method && s->params)
        param_free(s->method->params, s->params);
    free(s->params);
    free(s->text);
    free(s->label);
    *s = (struct kv_spec){0};
}

void kv_spec_copy(struct kv_spec *out, const struct kv_spec *spec)
{
    const size_t bytes = spec->method->params_bytes;
    *out = *spec;
    out->text = mem_strdup(spec->text);
    out->label = mem_strdup(spec->label);
    out->params = spec->params ? mem_alloc(1, bytes) : NULL;
    if (spec->params)
        param_copy(spec->method->params, out->params, spec->params, bytes);
}
