/* What families refuse in the same words. */
#include "model/reader.h"

#include "base/err.h"
#include "model/file_int.h"

#include <string.h>

int reader_only(const struct config_reader *r, const char *key, const char *value)
{
    const char *s = NULL;
    char shown[80];
    TRY(r->text(r, key, &s));
    return !s || !strcmp(s, value) ? 0
                                   : err_set(ERR_INPUT, "%s: '%s' is '%s', which is not supported (%s is)",
                                             r->path, r->name(r, key), file_shown(shown, s), value);
}

int reader_not(const struct config_reader *r, const char *key)
{
    bool on;
    TRY(r->flag(r, key, false, &on));
    return on ? err_set(ERR_INPUT, "%s: '%s' is true, which is not supported", r->path, r->name(r, key)) : 0;
}

int reader_none(const struct config_reader *r, const char *key)
{
    return r->has(r, key) == READER_GIVEN
               ? err_set(ERR_INPUT, "%s: '%s' is given, which is not supported", r->path, r->name(r, key))
               : 0;
}
