/* The table of prompt methods. */
#include "prompt/prompt.h"

#include <string.h>

#define PROMPT_METHOD(name) extern const struct prompt_method prompt_method_##name;
#include "prompt/methods.def"
#undef PROMPT_METHOD

static const struct prompt_method *const methods[] = {
#define PROMPT_METHOD(name) &prompt_method_##name,
#include "prompt/methods.def"
#undef PROMPT_METHOD
};

const struct prompt_method *prompt_method_find(const char *name)
{
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++)
        if (!strcmp(methods[i]->name, name))
            return methods[i];
    return NULL;
}
