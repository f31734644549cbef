/* The table of families. */
#include "base/err.h"
#include "base/mem.h"
#include "base/param.h"
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#define FAMILY(name) extern const struct family family_##name;
#include "model/families.def"
#undef FAMILY

static const struct family *const families[] = {
#define FAMILY(name) &family_##name,
#include "model/families.def"
#undef FAMILY
};

/* Is `word` one of the names in "a|b|c"? */
static bool listed(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = strchr(word, '|') ? NULL : list; n && p;
         p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (!strncmp(p, word, n) && (p[n] == 0 || p[n] == '|'))
            return true;
    return false;
}

const struct family *family_find(const char *hf_type)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (listed(families[i]->hf_types, hf_type))
            return families[i];
    return NULL;
}

const char *family_types(struct str *out)
{
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        for (const char *p = families[i]->hf_types; *p; p += strcspn(p, "|"), p += *p == '|') {
            str_add(out, out->n ? ", " : "");
            str_addn(out, p, strcspn(p, "|"));
        }
    return str_c(out);
}

const struct family *family_at(int i)
{
    return i >= 0 && i < (int)(sizeof families / sizeof *families) ? families[i] : NULL;
}

const struct family *family_of_param(const char *name)
{
    const struct family *f;
    for (int i = 0; (f = family_at(i)); i++)
        for (const struct param *p = f->params; p && p->name; p++)
            if (!strcmp(p->name, name))
                return f;
    return NULL;
}

int family_params_set(const struct family *f, struct shape_options *o, const char *text, const char *where)
{
    char *of = mem_printf("%s: family %s", where, f->name);
    int rc = param_parse(f->params, o, text, of);
    free(of);
    return rc;
}

void family_params_text(const struct family *f, const struct shape_options *o, struct str *out)
{
    param_text_short(f->params, o, out);
}

void model_config_penalty(const struct model_config *c, const struct shape_options *options,
                          struct model_penalty *p)
{
    const struct family *f = family_find(c->architecture);
    *p = (struct model_penalty){.decay = 1, .uncounted = ""};
    if (f->penalty)
        f->penalty(options, p);
}

bool model_overrides_equal(const struct model_overrides *a, const struct model_overrides *b)
{
    return a->rope_theta_factor == b->rope_theta_factor &&
           !memcmp(&a->options, &b->options, sizeof a->options);
}
