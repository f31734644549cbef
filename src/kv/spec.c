/* The registry of methods and the text form of a method with its parameters. */
#include "base/err.h"
#include "base/mem.h"
#include "kv/kv.h"

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
    if (!str_to_double(value, &ratio) || ratio < 1)
        return err_set(ERR_INPUT, "%s: ratio=%s is not allowed; use a number from 1", where, value);
    return s->method->from_ratio(s->params, ratio);
}

/* "ratio=N" goes first, whatever its place in the list, so that other keys refine what it chose. */
static int set_params(struct kv_spec *s, const char *text, const char *where)
{
    struct str rest = {0};
    char *copy = mem_strdup(text), *save = NULL;
    int rc = 0;
    for (char *item = strtok_r(copy, ",", &save); item && rc == 0; item = strtok_r(NULL, ",", &save)) {
        if (!strncmp(item, "ratio=", 6))
            rc = set_ratio(s, item + 6, where);
        else
            str_printf(&rest, "%s%s", rest.n ? "," : "", item);
    }
    if (rc == 0)
        rc = param_parse(s->method->params, s->params, str_c(&rest), where);
    free(copy);
    str_free(&rest);
    return rc;
}

/* The label shows what differs from the defaults; with nothing to show, the first parameter (the strength).
 */
static void set_texts(struct kv_spec *s)
{
    const struct param *table = s->method->params;
    struct str full = {0}, brief = {0};
    param_text(table, s->params, &full);
    param_text_short(table, s->params, &brief);
    if (!brief.n && full.n)
        str_addn(&brief, full.data, strcspn(full.data, ","));
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
        rc = set_params(s, text + n + 1, where);
    if (rc == 0 && s->method->check)
        rc = s->method->check(s->params, NULL);
    free(where);
    if (rc < 0) {
        kv_spec_free(s);
        return rc;
    }
    s->nominal_ratio = s->method->nominal_ratio ? s->method->nominal_ratio(s->params) : 1;
    set_texts(s);
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
