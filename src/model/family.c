/* The table of families. */
#include "model/model.h"

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
